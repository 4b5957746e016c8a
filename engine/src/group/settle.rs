//! What members say of messages they hold: done, later, back, or to the dead-letter topic.
//!
//! An answer is given once the journal has it by the topic's class. Saying the same thing twice is no error, and
//! the second answer waits for the journal as well: the first may never have got there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use weir_storage::{
    Append, DeadLetterOrigin, DurabilityClass, JournalEntry, QueueId, QueueOffset, StorageError,
    StoredMessage, Wait,
};

use super::{
    state::{Found, Phase},
    subscription::{Subscription, journaled, lease_row, wait_of},
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, HandleFault},
    handle::Handle,
    limits::{LEASE_MAX, LITE_OPEN_ROWS_MAX},
    name::{GroupName, TopicName},
    topic::{Topic, TopicSpec},
    topic_type::TopicType,
};

/// How long a message waits whose copy could not be stored in the dead-letter topic.
const DEAD_LETTER_AGAIN: Duration = Duration::from_secs(10);

impl Broker {
    /// Marks messages as done for the group, and answers once that is durable by the topic's class.
    ///
    /// Returns one result a handle, in order. What is done already is done again without an error. A message
    /// whose lease has ended can still be acknowledged until it is handed out again.
    pub async fn acknowledge(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handles: &[String],
    ) -> Vec<Result<(), EngineError>> {
        let subscription = match self.core.settled(group, topic) {
            Ok(subscription) => subscription,
            Err(error) => return handles.iter().map(|_| Err(error.clone())).collect(),
        };
        let decoded: Vec<_> = handles.iter().map(|handle| self.core.decode(&subscription, handle)).collect();
        let (results, journaling) = subscription.acknowledge(&self.core, &decoded);
        let Some(journaling) = journaling else { return results };
        match journaling.done().await {
            Ok(()) => results,
            Err(error) => results.into_iter().map(|result| result.and(Err(error.clone()))).collect(),
        }
    }

    /// Delivers a message again after `after`, unless it is acknowledged by then; returns its new handle.
    ///
    /// # Errors
    ///
    /// If the handle is not valid, or `after` longer than 12 h.
    pub async fn change_invisible(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
        after: Duration,
    ) -> Result<String, EngineError> {
        self.change(group, topic, handle, after, true).await
    }

    /// The same, and the delivery does not count among its attempts: its receiver takes a break, and has not failed.
    ///
    /// # Errors
    ///
    /// As [`Self::change_invisible`].
    pub async fn suspend(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
        after: Duration,
    ) -> Result<String, EngineError> {
        self.change(group, topic, handle, after, false).await
    }

    async fn change(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
        after: Duration,
        counts: bool,
    ) -> Result<String, EngineError> {
        if after > LEASE_MAX {
            return Err(EngineError::InvisibleTime { asked: after, min: Duration::ZERO, max: LEASE_MAX });
        }
        let core = &self.core;
        let subscription = core.settled(group, topic)?;
        let handle = core.decode(&subscription, handle)?;
        let renewed = Handle { lease: core.next_lease(), epoch: core.epoch, ..handle };
        subscription.change(core, handle, renewed.lease, after, counts)?.done().await?;
        Ok(renewed.encode(&core.signer))
    }

    /// Returns how long the policy of the group lets a message wait whose delivery has failed.
    ///
    /// # Errors
    ///
    /// If the handle is not valid.
    pub fn retry_delay(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
    ) -> Result<Duration, EngineError> {
        let subscription = self.core.settled(group, topic)?;
        let handle = self.core.decode(&subscription, handle)?;
        let attempt = subscription.attempt(handle)?;
        Ok(subscription.spec.load().retry.delay(attempt))
    }

    /// Takes back messages that did not reach their receiver. Handles that are not valid are passed over.
    ///
    /// Their handles stay valid until they are handed out again.
    pub async fn give_back(&self, handles: &[String], after: Duration) {
        for text in handles {
            let Ok(handle) = Handle::decode(text, &self.core.signer) else { continue };
            let Some(subscription) = self.core.known_subscription(handle.group, handle.topic) else {
                continue;
            };
            subscription.give_back(
                &self.core,
                [(handle.queue, handle.offset, handle.lease)],
                after.min(LEASE_MAX),
            );
        }
    }

    /// Moves a message to the dead-letter topic of the group. What is done already is done again without an error.
    ///
    /// # Errors
    ///
    /// If the handle is not valid, or the copy cannot be stored.
    pub async fn forward_to_dead_letter(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
    ) -> Result<(), EngineError> {
        let core = &self.core;
        let subscription = core.settled(group, topic)?;
        let handle = core.decode(&subscription, handle)?;
        if subscription.begin_move(core, handle)? {
            // In a task of its own: once begun, it ends, whether or not somebody waits for it.
            let core = Arc::clone(core);
            let moved =
                tokio::spawn(
                    async move { core.dead_letter(&subscription, handle.queue, handle.offset).await },
                );
            return moved.await.map_err(|_| EngineError::Closed)?;
        }
        let again = JournalEntry::DeadLetter {
            group: subscription.group,
            topic: subscription.topic.id,
            queue: handle.queue,
            offset: handle.offset,
        };
        core.journal(vec![again], wait_of(&subscription.topic)).done().await
    }
}

/// Entries that were handed to the journal, and are to be waited for.
///
/// They are handed over under the lock under which the change was made, so that the journal has all changes of a
/// group in the order in which they happened, and waited for without it.
#[must_use = "nothing may be answered before the journal has it"]
pub(crate) struct Journaling(oneshot::Receiver<Result<(), StorageError>>);

impl Journaling {
    /// Returns when the journal has the entries.
    pub(crate) async fn done(self) -> Result<(), EngineError> {
        journaled(self.0.await.ok())
    }
}

impl Subscription {
    /// Closes the rows of the handles that are valid; returns a result for each, and what is to be waited for.
    fn acknowledge(
        &self,
        core: &Core,
        handles: &[Result<Handle, EngineError>],
    ) -> (Vec<Result<(), EngineError>>, Option<Journaling>) {
        let mut done: BTreeMap<QueueId, Vec<QueueOffset>> = BTreeMap::new();
        let mut waited_for = Vec::new();
        let mut lines = Vec::new();
        let mut was_full = false;
        let mut state = self.lock();
        let here = self.check_here(&state);
        let results = handles.iter().map(|handle| {
            let handle = handle.as_ref().map_err(EngineError::clone)?;
            here.clone()?;
            let known = state.queues.get_mut(&handle.queue).ok_or(EXPIRED)?;
            match known.find(handle.offset, handle.lease, handle.epoch == core.epoch) {
                Found::Current => {
                    was_full |= known.open().len() >= LITE_OPEN_ROWS_MAX;
                    if self.waits_for_done(known, known.open().len()) {
                        waited_for.push(handle.queue);
                    }
                    lines.extend(known.remove(handle.offset).and_then(|row| row.line));
                }
                Found::Done => {}
                Found::Replaced | Found::Ahead => return Err(EXPIRED),
            }
            done.entry(handle.queue).or_default().push(handle.offset);
            Ok(())
        });
        let results = results.collect();
        let entries: Vec<_> =
            done.into_iter().map(|(queue, offsets)| self.ack_entry(queue, offsets)).collect();
        let journaling = (!entries.is_empty()).then(|| core.journal(entries, wait_of(&self.topic)));
        if self.spec.load().lite_sets().is_some() {
            // Others wait for room.
            if was_full { self.lite_waiters.wake_all() } else { self.wake_lite(&state, lines) }
        }
        drop(state);
        waited_for.into_iter().for_each(|queue| self.waiters.wake(queue));
        (results, journaling)
    }

    /// Puts a row off under a new lease number.
    fn change(
        &self,
        core: &Core,
        handle: Handle,
        lease: u64,
        after: Duration,
        counts: bool,
    ) -> Result<Journaling, EngineError> {
        let now = core.time.now();
        let mut state = self.lock();
        self.check_here(&state)?;
        let known = state.queues.get_mut(&handle.queue).ok_or(EXPIRED)?;
        if known.find(handle.offset, handle.lease, handle.epoch == core.epoch) != Found::Current {
            return Err(EXPIRED);
        }
        let until = now + after;
        let mut entries = Vec::new();
        if let Some(row) = known.row_mut(handle.offset) {
            if row.phase == Phase::Moving {
                return Err(EngineError::Busy("the message is on its way to the dead-letter topic"));
            }
            row.lease = lease;
            if !counts {
                row.attempt = row.attempt.saturating_sub(1);
                // Only a lease says how many attempts there were.
                entries.push(JournalEntry::Lease {
                    group: self.group,
                    topic: self.topic.id,
                    queue: handle.queue,
                    rows: vec![lease_row(handle.offset, row)],
                    lease,
                    until_ms: core.wall_at(now, now),
                    length_ms: 0,
                    client: String::new(),
                    attempt_id: None,
                });
            }
        }
        known.set_phase(handle.offset, Phase::Waiting { until });
        entries.extend(self.wait_entry(core, known, handle.queue, handle.offset, now));
        let journaling = core.journal(entries, wait_of(&self.topic));
        self.arm(core, &mut state, until);
        Ok(journaling)
    }

    /// Returns the number of the delivery that a handle speaks of.
    fn attempt(&self, handle: Handle) -> Result<u32, EngineError> {
        let state = self.lock();
        self.check_here(&state)?;
        let known = state.queues.get(&handle.queue).ok_or(EXPIRED)?;
        let row = known.open().get(&handle.offset).filter(|row| row.lease == handle.lease);
        Ok(row.ok_or(EXPIRED)?.attempt)
    }

    /// Lets rows wait that were leased and did not reach their receiver.
    pub(crate) fn give_back(
        &self,
        core: &Core,
        rows: impl IntoIterator<Item = (QueueId, QueueOffset, u64)>,
        after: Duration,
    ) {
        let now = core.time.now();
        let until = now + after;
        let mut entries = Vec::new();
        let mut state = self.lock();
        for (queue, offset, lease) in rows {
            let Some(known) = state.queues.get_mut(&queue) else { continue };
            let is_ours =
                |row: &super::state::Row| row.lease == lease && matches!(row.phase, Phase::Leased { .. });
            if known.open().get(&offset).is_some_and(is_ours) {
                known.set_phase(offset, Phase::Waiting { until });
                entries.extend(self.wait_entry(core, known, queue, offset, now));
            }
        }
        if !entries.is_empty() {
            core.note(entries);
            self.arm(core, &mut state, until);
        }
    }

    /// Marks a row as moving. Returns `false` if it is done already.
    fn begin_move(&self, core: &Core, handle: Handle) -> Result<bool, EngineError> {
        let mut state = self.lock();
        self.check_here(&state)?;
        let known = state.queues.get_mut(&handle.queue).ok_or(EXPIRED)?;
        match known.find(handle.offset, handle.lease, handle.epoch == core.epoch) {
            Found::Current => {}
            Found::Done => return Ok(false),
            Found::Replaced | Found::Ahead => return Err(EXPIRED),
        }
        if known.open().get(&handle.offset).is_some_and(|row| row.phase == Phase::Moving) {
            return Err(EngineError::Busy("the message is on its way to the dead-letter topic"));
        }
        known.set_phase(handle.offset, Phase::Moving);
        Ok(true)
    }

    /// Returns how often a row that is moving has been delivered, or `None` if it was acknowledged meanwhile.
    fn moving(&self, queue: QueueId, offset: QueueOffset) -> Option<u32> {
        let state = self.lock();
        let row = state.queues.get(&queue)?.open().get(&offset)?;
        (row.phase == Phase::Moving).then_some(row.attempt)
    }

    /// Closes a row that has been copied, or that nobody can read any more.
    ///
    /// Returns `None` if it moves no more: it was acknowledged, or a reset has made it deliverable again.
    fn end_move(&self, core: &Core, queue: QueueId, offset: QueueOffset) -> Option<Journaling> {
        let mut state = self.lock();
        let known = state.queues.get_mut(&queue)?;
        known.open().get(&offset).filter(|row| row.phase == Phase::Moving)?;
        let open = known.open().len();
        known.remove(offset);
        let entry = JournalEntry::DeadLetter { group: self.group, topic: self.topic.id, queue, offset };
        let journaling = core.journal(vec![entry], wait_of(&self.topic));
        self.wake_if_done(known, queue, open);
        Some(journaling)
    }

    /// Lets a row wait whose copy could not be stored.
    fn put_off_move(&self, core: &Core, queue: QueueId, offset: QueueOffset) {
        let until = core.time.now() + DEAD_LETTER_AGAIN;
        let mut state = self.lock();
        if let Some(known) = state.queues.get_mut(&queue)
            && known.open().get(&offset).is_some_and(|row| row.phase == Phase::Moving)
        {
            known.set_phase(offset, Phase::Waiting { until });
            self.arm(core, &mut state, until);
        }
    }
}

const EXPIRED: EngineError = EngineError::Handle(HandleFault::Expired);

impl Core {
    /// Returns the subscription of which a handle speaks.
    fn settled(&self, group: &GroupName, topic: &TopicName) -> Result<Arc<Subscription>, EngineError> {
        self.check_open()?;
        let group = self.existing_group(group)?;
        let topic = self.existing_topic(topic)?;
        Ok(self.subscription(&group, &topic))
    }

    fn decode(&self, subscription: &Subscription, text: &str) -> Result<Handle, EngineError> {
        let handle = Handle::decode(text, &self.signer).map_err(EngineError::Handle)?;
        if handle.group != subscription.group || handle.topic != subscription.topic.id {
            return Err(EngineError::Handle(HandleFault::Foreign));
        }
        Ok(handle)
    }

    /// Hands entries to the journal.
    pub(crate) fn journal(&self, entries: Vec<JournalEntry>, wait: Wait) -> Journaling {
        let (done, written) = oneshot::channel();
        // Nobody may be left to hear it.
        self.storage.journal(entries, wait, Some(Box::new(move |result| drop(done.send(result)))));
        Journaling(written)
    }

    /// Hands entries to the journal without waiting for it.
    pub(crate) fn note(&self, entries: Vec<JournalEntry>) {
        if !entries.is_empty() {
            self.storage.journal(entries, Wait::None, None);
        }
    }

    /// Moves rows that are marked as moving to the dead-letter topic, in a task of its own.
    pub(crate) fn move_to_dead_letter(
        self: &Arc<Self>,
        subscription: Arc<Subscription>,
        queue: QueueId,
        offsets: Vec<QueueOffset>,
    ) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            for offset in offsets {
                if let Err(error) = core.dead_letter(&subscription, queue, offset).await {
                    tracing::warn!(%error, group = %subscription.group_name, topic = %subscription.topic.name, %queue, %offset, "a message cannot go to the dead-letter topic yet");
                }
            }
        });
    }

    /// Copies a row that is marked as moving to the dead-letter topic, and closes it once the copy is durable.
    async fn dead_letter(
        self: &Arc<Self>,
        subscription: &Arc<Subscription>,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), EngineError> {
        let copied = self.copy_to_dead_letter(subscription, queue, offset).await;
        if copied.is_err() {
            subscription.put_off_move(self, queue, offset);
        }
        copied?;
        match subscription.end_move(self, queue, offset) {
            Some(journaling) => journaling.done().await,
            None => Ok(()),
        }
    }

    async fn copy_to_dead_letter(
        self: &Arc<Self>,
        subscription: &Arc<Subscription>,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), EngineError> {
        let Some(attempts) = subscription.moving(queue, offset) else { return Ok(()) };
        // What fails there stays there: a dead letter has no dead-letter topic of its own.
        if subscription.topic.name.is_dead_letter() {
            return Ok(());
        }
        let (core, topic) = (Arc::clone(self), subscription.topic.id);
        let read = move || match core.storage.view(topic, queue) {
            Some(view) => core.read_row(&view, offset),
            None => Ok(None),
        };
        let Some(stored) = self.reads.run(read).await?? else {
            tracing::error!(group = %subscription.group_name, topic = %subscription.topic.name, %queue, %offset, "a message was lost before it could go to the dead-letter topic");
            return Ok(());
        };
        let name = TopicName::dead_letter_of(&subscription.group_name);
        let target = self.dead_letter_topic(&name, subscription.topic.class()).await?;
        let message = dead_letter_of(stored, &subscription.topic, attempts);
        let append = Append { topic: target.id, queue: QueueId(0), message };
        self.append(&target, vec![append]).await.map(drop)
    }

    async fn dead_letter_topic(
        self: &Arc<Self>,
        name: &TopicName,
        class: DurabilityClass,
    ) -> Result<Arc<Topic>, EngineError> {
        match self.known_topic(name) {
            Some(topic) => Ok(topic),
            None => {
                // Copies are of the type of what they are copies of; others send normal messages there, if any.
                let topic_type = TopicType::Normal;
                let spec = TopicSpec { queues: 1, class, topic_type, ..TopicSpec::default() };
                self.create_topic(name, spec, crate::topic::IfExists::Take).await
            }
        }
    }
}

/// Returns the copy for the dead-letter topic: the same message, with where it comes from.
fn dead_letter_of(stored: StoredMessage, topic: &Topic, attempts: u32) -> weir_storage::Message {
    let mut message = stored.message;
    // It ends no pending row: the message that it is a copy of has.
    message.released = None;
    message.dead_letter = Some(DeadLetterOrigin {
        namespace: topic.name.namespace().to_owned(),
        topic: topic.name.name().to_owned(),
        message_id: message.message_id.clone(),
        queue: stored.queue,
        offset: stored.offset,
        attempts,
    });
    message
}
