//! Pull of messages: an offset of one queue in, the next messages that match out, or a wait for them.
//!
//! A batch pull gives columns of much; this gives whole messages, few at a time, and can wait. It belongs to no group:
//! nothing is leased, and nothing moves. How far a group has come can be asked and set beside it.

use std::{ops::Range, sync::Arc, time::Duration};

use arrow_buffer::BooleanBuffer;
use weir_filter::{Predicate, Selector};
use weir_storage::{Block, QueueId, QueueOffset, QueueView, StorageError, StoredMessage};

use crate::{
    answers::{AnswerShare, HeldAnswer},
    broker::{Broker, Core},
    error::EngineError,
    limits::{POLL_MAX, RECEIVE_BYTES_TARGET, RECEIVE_MESSAGES_MAX},
    name::{GroupName, TopicName},
    scan::{Scan, Step, offset_at_time},
    topic::Topic,
};

/// Steps of a scan that one visit of the reading pool takes before it lets others read.
const STEPS_MAX: usize = 64;

/// Which messages are pulled.
#[derive(Clone, Debug)]
pub struct MessagePull {
    /// The topic.
    pub topic: TopicName,
    /// The queue.
    pub queue: QueueId,
    /// The first offset that is looked at.
    pub from: QueueOffset,
    /// Which messages.
    pub selector: Selector,
    /// How many at most; 1 to 32. More is taken as 32. No further one is read behind 32 MiB of bodies.
    pub max_messages: usize,
    /// How long to wait for the first; at most 20 s. More is taken as 20 s.
    pub wait: Duration,
}

/// What a pull of messages came to.
#[derive(Clone, Debug)]
pub struct PulledMessages {
    /// The messages, in the order of the queue.
    pub messages: Vec<StoredMessage>,
    /// Where to go on: everything before it was looked at.
    pub next: QueueOffset,
    /// To be kept as long as the messages are: they count as in memory until it is dropped.
    pub held: HeldAnswer,
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first retained row.
    Earliest,
    /// Behind the last visible row.
    Latest,
    /// The first row that was stored at this time or later, or behind the last one; milliseconds since 1970, UTC.
    Timestamp(i64),
}

impl Broker {
    /// Returns the next messages of a queue that match, or none after the wait.
    ///
    /// Answers as soon as there is one message. Without a wait it may also find none because it has looked at as much
    /// as one call may, and then says how far it came.
    ///
    /// # Errors
    ///
    /// If there is no such topic or queue, the offset is not retained or beyond the end, too many wait already, or too
    /// many messages wait for readers.
    pub async fn pull_messages(&self, pull: MessagePull) -> Result<PulledMessages, EngineError> {
        self.pull_messages_for(pull, &AnswerShare::default()).await
    }

    /// The same for a reader that makes several calls, whose answers may take a share of the memory together.
    ///
    /// # Errors
    ///
    /// As [`Self::pull_messages`], and if too many messages wait for this reader.
    pub async fn pull_messages_for(
        &self,
        pull: MessagePull,
        share: &AnswerShare,
    ) -> Result<PulledMessages, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let topic = core.existing_topic(&pull.topic)?;
        check_queue(&topic, pull.queue)?;
        if pull.max_messages == 0 {
            return Err(EngineError::Invalid("a pull asks for at least one message".to_owned()));
        }
        let want = pull.max_messages.min(RECEIVE_MESSAGES_MAX);
        let predicate = Arc::new(Predicate::new(&pull.selector));
        let deadline = core.time.now() + pull.wait.min(POLL_MAX);
        let watch = topic.arrivals.watch(pull.queue);
        let watch = watch.ok_or(EngineError::Busy("too many pulls wait for this queue"))?;
        let mut closing = core.closing.subscribe();
        let mut next = pull.from;
        loop {
            // Before the look, so that no row falls in between.
            let arrival = watch.next();
            let look = core.look(&topic, pull.queue, next, &predicate, want, share).await?;
            next = look.next;
            let is_over = core.time.now() >= deadline || *closing.borrow();
            if !look.messages.is_empty() || is_over {
                return Ok(PulledMessages { messages: look.messages, next, held: look.held });
            }
            if !look.more {
                tokio::select! {
                    () = arrival => {}
                    () = core.time.sleep_until(deadline) => {}
                    // The sending half lives in the core, so this ends only when the broker closes.
                    _ = closing.wait_for(|closing| *closing) => {}
                }
            }
        }
    }

    /// Returns the offset of a place in a queue.
    ///
    /// # Errors
    ///
    /// If there is no such topic or queue, or its rows cannot be read.
    pub async fn offset_at(
        &self,
        topic: &TopicName,
        queue: QueueId,
        at: OffsetAt,
    ) -> Result<QueueOffset, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let topic = core.existing_topic(topic)?;
        check_queue(&topic, queue)?;
        let Some(view) = core.storage.view(topic.id, queue) else { return Ok(QueueOffset(0)) };
        match at {
            OffsetAt::Earliest => Ok(view.range().start),
            OffsetAt::Latest => Ok(view.range().end),
            OffsetAt::Timestamp(time_ms) => core.reads.run(move || offset_at_time(&view, time_ms)).await?,
        }
    }

    /// Returns the first offset of a queue that a group is not done with, or `None` if it does not read the queue.
    ///
    /// # Errors
    ///
    /// If there is no such topic, queue or group; a group that the broker would make by itself reads nothing yet.
    pub fn committed_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
    ) -> Result<Option<QueueOffset>, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let topic = core.existing_topic(topic)?;
        check_queue(&topic, queue)?;
        self.check_group(group)?;
        let Ok(group) = core.existing_group(group) else { return Ok(None) };
        let range = core.range(topic.id, queue);
        let subscription = group.subscription(topic.id);
        let committed = subscription.and_then(|subscription| subscription.needs_from(core, queue, &range));
        Ok(committed.map(|committed| committed.max(range.start)))
    }

    /// Returns an error if there is no such group and the broker would not make it by itself.
    ///
    /// # Errors
    ///
    /// That one.
    pub fn check_group(&self, group: &GroupName) -> Result<(), EngineError> {
        match self.core.existing_group(group) {
            Err(error) if !self.core.options.auto_create_groups => Err(error),
            _ => Ok(()),
        }
    }
}

fn check_queue(topic: &Topic, queue: QueueId) -> Result<(), EngineError> {
    let queues = topic.queues();
    if queue.0 < queues {
        return Ok(());
    }
    Err(EngineError::QueueNotFound { topic: topic.name.clone(), queue: queue.0, queues })
}

/// What one look at a queue came to.
#[derive(Debug)]
struct Look {
    messages: Vec<StoredMessage>,
    /// Counts them as in memory.
    held: HeldAnswer,
    /// Bytes of their bodies.
    bytes: usize,
    /// The first row that was not looked at.
    next: QueueOffset,
    /// Whether there are rows from there on.
    more: bool,
}

impl Core {
    async fn look(
        self: &Arc<Self>,
        topic: &Topic,
        queue: QueueId,
        from: QueueOffset,
        predicate: &Arc<Predicate>,
        want: usize,
        share: &AnswerShare,
    ) -> Result<Look, EngineError> {
        if topic.is_gone() {
            return Err(EngineError::TopicNotFound { topic: topic.name.clone(), near: Vec::new() });
        }
        let nothing = move |held| Look { messages: Vec::new(), held, bytes: 0, next: from, more: false };
        let Some(view) = self.storage.view(topic.id, queue) else {
            let end = QueueOffset(0);
            check_offset(queue, from, end..end)?;
            return Ok(nothing(HeldAnswer::default()));
        };
        check_offset(queue, from, view.range())?;
        let predicate = predicate.at(self.time.wall_ms());
        let (core, share) = (Arc::clone(self), share.clone());
        // On the pool, as many may be in line for it.
        self.reads.run(move || nothing(core.answers.begin(&share)?).over(view, predicate, want)).await?
    }
}

fn check_offset(
    queue: QueueId,
    asked: QueueOffset,
    available: Range<QueueOffset>,
) -> Result<(), EngineError> {
    if (available.start..=available.end).contains(&asked) {
        return Ok(());
    }
    Err(EngineError::OffsetOutOfRange { queue: queue.0, asked, available })
}

impl Look {
    /// Looks at rows until there are `want` messages, bodies enough, or as many steps as one visit may take.
    fn over(mut self, view: QueueView, predicate: Arc<Predicate>, want: usize) -> Result<Self, EngineError> {
        let end = view.range().end;
        let mut scan = Scan::new(view, [predicate], self.next..end);
        for _ in 0..STEPS_MAX {
            let stepped = match scan.next() {
                Ok(None) => break,
                Ok(Some(step)) => self.take(step, want),
                Err(error) => Err(error),
            };
            match stepped {
                Ok(true) => {}
                Ok(false) => break,
                // Whoever goes on behind these messages is told.
                Err(_) if !self.messages.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        self.more = self.next < end;
        Ok(self)
    }

    /// Takes the messages of a step. Returns whether more are wanted.
    fn take(&mut self, step: Step, want: usize) -> Result<bool, EngineError> {
        let behind = step.end();
        if let Step::Block { block, matches, .. } = step
            && !self.read(&block, &matches, want)?
        {
            return Ok(false);
        }
        self.next = behind;
        Ok(self.messages.len() < want && self.bytes < RECEIVE_BYTES_TARGET)
    }

    /// Reads the messages of rows of a block. Returns whether there was room for all.
    fn read(&mut self, block: &Block, matches: &BooleanBuffer, want: usize) -> Result<bool, EngineError> {
        for row in matches.set_indices() {
            let offset = block.base().plus(row as u64);
            if self.messages.len() >= want || self.bytes >= RECEIVE_BYTES_TARGET {
                self.next = offset;
                return Ok(false);
            }
            match block.message(row) {
                Ok(message) => {
                    self.bytes = self.bytes.saturating_add(message.message.body.len());
                    self.held.add(&message);
                    self.messages.push(message);
                }
                // It has ended meanwhile, or nobody can read it any more.
                Err(StorageError::Lost { .. } | StorageError::NoRecord { .. }) => {}
                Err(error) => {
                    self.next = offset;
                    return Err(error.into());
                }
            }
        }
        Ok(true)
    }
}
