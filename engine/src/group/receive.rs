//! Receiving: redeliveries first, then the rows behind the cursor; or waiting for either.
//!
//! A receive visits the queues of the topic from a rotating start, on the pool of reading threads, a bounded
//! step in each. Where it finds a backlog with few matches, idle threads of the pool visit other queues for it.
//! One receive reads a queue at a time; the others pass on to the next queue and are woken when
//! it is free, so that the first deliveries of a queue leave in offset order. What a step found is committed
//! under the lock of the subscription: rows become leased, the cursor moves, the journal is told.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow_buffer::BooleanBuffer;
use tokio::sync::mpsc;
use weir_columns::{ColumnRef, Rows, System};
use weir_filter::{Predicate, Selector};
use weir_storage::{
    JournalEntry, LogPosition, QueueId, QueueOffset, QueueView, StorageError, StoredMessage, Wait,
};

use super::{
    batch::{Batch, Taken},
    lite,
    order::{self, Line, Order, Together},
    search::{Allowance, Found, Read, Search, Work, block_at, row_at},
    state::{Missed, NO_SLOT, Phase, QueueState, Renewal, Row, Span, bit},
    subscription::{State, Subscription, lease_row, millis_u32, renewal, wait_of},
};
use crate::{
    answers::{AnswerShare, HeldAnswer},
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    limits::{CLIENT_BYTES_MAX, LEASE_DEFAULT, LEASE_MAX, LEASE_OF_GONE, POLL_MAX, RECEIVE_MESSAGES_MAX},
    name::{GroupName, TopicName},
    reads::Running,
    scan::evaluation_error,
};

/// Steps of scans that one visit of the reading pool takes before it lets others read.
const STEPS_MAX: usize = 64;
/// Behind so many steps in a queue others help with the rest of the queues: it is a backlog with few matches.
const STEPS_ALONE: usize = 2;

/// What a member asks for.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// The group.
    pub group: GroupName,
    /// The topic.
    pub topic: TopicName,
    /// One queue, or all of the topic.
    pub queue: Option<QueueId>,
    /// Which rows the member wants.
    pub selector: Selector,
    /// How many at most; 1 to 32. More is taken as 32.
    pub max_messages: usize,
    /// How long they are the member's.
    pub lease: LeaseTime,
    /// How long to wait for the first; at most 20 s. More is taken as 20 s.
    pub wait: Duration,
    /// Who asks: renewed leases live as long as this client does.
    pub client: String,
    /// Names this call, if the client retries it under the same name. In a FIFO group such a retry gets what the call
    /// was given; an empty name is none.
    pub attempt_id: Option<String>,
    /// Whether, in a FIFO group, at most one message of each message group comes at a time: for members that go on with
    /// the next one of those that they were given though one has failed.
    pub one_by_one: bool,
}

impl ReceiveRequest {
    /// Returns the request for up to 32 messages of any kind, leased for 60 s, without waiting.
    pub fn new(group: GroupName, topic: TopicName) -> Self {
        Self {
            group,
            topic,
            queue: None,
            selector: Selector::all(),
            max_messages: RECEIVE_MESSAGES_MAX,
            lease: LeaseTime::Fixed(LEASE_DEFAULT),
            wait: Duration::ZERO,
            client: String::new(),
            attempt_id: None,
            one_by_one: false,
        }
    }
}

/// How long messages are their receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTime {
    /// So long; then they are delivered again.
    Fixed(Duration),
    /// 60 s, renewed while the client lives, 3 h at most.
    Renewed,
}

/// A message given to a member.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The message.
    pub message: StoredMessage,
    /// The number of this delivery to the group, from 1.
    pub attempt: u32,
    /// By this the member acknowledges it.
    pub handle: String,
    /// How long it is the member's.
    pub lease: Duration,
    /// To be kept as long as the message is: it counts as in memory, with those of the same receive, until it is
    /// dropped.
    pub held: HeldAnswer,
}

impl Broker {
    /// Returns the next messages for a member of a group, or none after `wait`.
    ///
    /// Answers as soon as there is one message; it does not wait for more. If the call is dropped before it
    /// returns, its messages are delivered again after a second.
    ///
    /// # Errors
    ///
    /// If there is no such topic, the request breaks a limit, or too many messages wait for readers.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivered>, EngineError> {
        self.receive_for(request, &AnswerShare::default()).await
    }

    /// The same for a reader that makes several calls, whose answers may take a share of the memory together.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`], and if too many messages wait for this reader.
    pub async fn receive_for(
        &self,
        request: ReceiveRequest,
        share: &AnswerShare,
    ) -> Result<Vec<Delivered>, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let group = core.group_or_create(&request.group).await?;
        let lite = group.spec.load().lite.clone();
        let topic = match &lite {
            Some(_) => core.lite_parent(&group, &request.topic)?.0,
            None => core.existing_topic(&request.topic)?,
        };
        let lite = lite.filter(|lite| !lite.wildcard);
        check_request(&request, group.spec.load().lease_min, topic.queues(), &request.topic)?;
        let subscription = core.subscription(&group, &topic);
        core.clients.saw(&request.client, core.time.now());
        let slot = match lite {
            // What it wants are the lite topics that it has subscribed to.
            Some(_) if request.selector.matches_all() && request.queue.is_none() => NO_SLOT,
            Some(_) => {
                let text = "what a client receives of lite topics is not filtered, nor read by queue";
                return Err(EngineError::Invalid(text.to_owned()));
            }
            None => subscription.enlist(core, &request.selector, &request.client)?,
        };
        let reading = Reading {
            core: Arc::clone(core),
            subscription,
            slot,
            selector: request.selector,
            queue: request.queue,
            want: request.max_messages.min(RECEIVE_MESSAGES_MAX),
            lease: request.lease,
            client: request.client.as_str().into(),
            attempt_id: attempt_id(&request.client, request.attempt_id.as_deref()),
            one_by_one: request.one_by_one,
            share: share.clone(),
        };
        let deadline = core.time.now() + request.wait.min(POLL_MAX);
        match slot {
            NO_SLOT => lite::receive(reading, deadline).await,
            _ => reading.until(deadline).await,
        }
    }
}

fn check_request(
    request: &ReceiveRequest,
    lease_min: Duration,
    queues: u32,
    topic: &TopicName,
) -> Result<(), EngineError> {
    if request.max_messages == 0 {
        return Err(EngineError::Invalid("a receive asks for at least one message".to_owned()));
    }
    if let LeaseTime::Fixed(asked) = request.lease
        && !(lease_min..=LEASE_MAX).contains(&asked)
    {
        return Err(EngineError::InvisibleTime { asked, min: lease_min, max: LEASE_MAX });
    }
    if let Some(queue) = request.queue.filter(|queue| queue.0 >= queues) {
        return Err(EngineError::QueueNotFound { topic: topic.clone(), queue: queue.0, queues });
    }
    let texts = [Some(&request.client), request.attempt_id.as_ref()];
    match texts.into_iter().flatten().map(String::len).max().filter(|len| *len > CLIENT_BYTES_MAX) {
        None => Ok(()),
        Some(len) => Err(EngineError::Limit {
            what: "the name of a client or of a receive in bytes",
            actual: len as u64,
            limit: CLIENT_BYTES_MAX as u64,
            kind: LimitKind::Other,
        }),
    }
}

/// Returns the name under which a client retries a receive, which no other client can use.
fn attempt_id(client: &str, id: Option<&str>) -> Option<Arc<str>> {
    id.filter(|id| !id.is_empty()).map(|id| format!("{client}\n{id}").into())
}

/// A receive under way.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) core: Arc<Core>,
    pub(super) subscription: Arc<Subscription>,
    pub(super) slot: u8,
    selector: Selector,
    pub(super) queue: Option<QueueId>,
    pub(super) want: usize,
    lease: LeaseTime,
    pub(super) client: Arc<str>,
    /// With the name of the client.
    pub(super) attempt_id: Option<Arc<str>>,
    pub(super) one_by_one: bool,
    pub(super) share: AnswerShare,
}

/// One visit of the queues, by one thread or several.
struct Round {
    queues: Vec<QueueId>,
    together: Together,
    /// The number of the next queue to be visited.
    next: AtomicUsize,
    allowance: Allowance,
    /// The threads that were called to help.
    helpers: mpsc::UnboundedSender<Running<Result<Visit, EngineError>>>,
}

impl Round {
    fn next_queue(&self) -> Option<QueueId> {
        self.queues.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }

    fn is_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.queues.len()
    }
}

/// What one thread of a round came to.
struct Visit {
    batch: Batch,
    /// Whether rows are left that were not looked at.
    more: bool,
    failed: Option<EngineError>,
}

impl Visit {
    fn add(&mut self, mut other: Self) {
        self.batch.rows.append(&mut other.batch.rows);
        self.batch.written.append(&mut other.batch.written);
        self.more |= other.more;
        self.failed = self.failed.take().or(other.failed);
    }
}

impl Reading {
    /// Returns how long a lease is that begins now, and who keeps it alive.
    pub(super) fn lease_from(&self, now: Duration) -> (Duration, Option<Renewal>) {
        match self.lease {
            LeaseTime::Fixed(length) => (length, None),
            LeaseTime::Renewed => (LEASE_DEFAULT, Some(renewal(&self.client, now))),
        }
    }

    /// Reads, or waits until there is something to read, until `deadline`.
    async fn until(self, deadline: Duration) -> Result<Vec<Delivered>, EngineError> {
        let core = Arc::clone(&self.core);
        let subscription = Arc::clone(&self.subscription);
        let place = subscription
            .waiters
            .enter(self.slot, self.queue)
            .ok_or(EngineError::Busy("too many receives wait on this topic for this group"))?;
        loop {
            place.look();
            core.judged.looks.fetch_add(1, Ordering::Relaxed);
            // A slot that was freed may have another selector by now, whose wake-ups are not for this one.
            if *core.closing.borrow() || !subscription.holds(self.slot, &self.selector) {
                return Ok(Vec::new());
            }
            // Each time, as a call of the same name may be under way that nobody hears any more.
            if let Some(batch) = self.again().await? {
                return batch.deliver().await;
            }
            let mut more = false;
            if subscription.has_work(&core, self.slot, self.queue) {
                let visit = self.visit().await?;
                if !visit.batch.rows.is_empty() {
                    return visit.batch.deliver().await;
                }
                if let Some(error) = visit.failed {
                    return Err(error);
                }
                more = visit.more;
            }
            let now = core.time.now();
            if now >= deadline {
                return Ok(Vec::new());
            }
            core.clients.saw(&self.client, now);
            if !more {
                let mut closing = core.closing.subscribe();
                tokio::select! {
                    () = place.woken() => {}
                    () = core.time.sleep_until(deadline) => {}
                    // The sending half lives in the core, so this ends only when the broker closes.
                    _ = closing.wait_for(|closing| *closing) => {}
                }
            }
        }
    }

    /// Visits the queues once, on a thread that may block, and on idle ones beside it if it takes long.
    async fn visit(&self) -> Result<Visit, EngineError> {
        let (helpers, mut called) = mpsc::unbounded_channel();
        let (queues, together) = self.subscription.rotation(self.queue);
        let reading = self.clone();
        let work = move || {
            // Here, as many receives may be in line for the threads.
            let allowance = Allowance::new(reading.want, reading.core.answers.begin(&reading.share)?);
            let round = Round { queues, together, next: AtomicUsize::new(0), allowance, helpers };
            reading.visit_queues(&Arc::new(round))
        };
        let mut visit = self.core.reads.run(work).await??;
        // It ends when all threads have let go of the round, and so can call no more.
        while let Some(helper) = called.recv().await {
            visit.add(helper.await??);
        }
        Ok(visit)
    }

    /// Visits queues of a round that nobody has visited yet.
    fn visit_queues(&self, round: &Arc<Round>) -> Result<Visit, EngineError> {
        let batch = Batch::new(&self.core, &self.subscription, round.allowance.held().clone());
        let mut visit = Visit { batch, more: false, failed: None };
        let mut steps = STEPS_MAX;
        while !round.allowance.is_spent() {
            if steps == 0 {
                visit.more |= !round.is_over();
                break;
            }
            let Some(queue) = round.next_queue() else { break };
            match self.read_queue(queue, round, &mut visit, &mut steps) {
                Ok(()) => {}
                Err(error @ (EngineError::TopicNotFound { .. } | EngineError::GroupNotFound { .. })) => {
                    return Err(error);
                }
                Err(error) => visit.failed = Some(error),
            }
        }
        Ok(visit)
    }

    /// Has an idle thread visit queues as well, if there are such threads and queues.
    fn call_helper(&self, round: &Arc<Round>) {
        if round.together == Together::No || round.is_over() || round.allowance.is_spent() {
            return;
        }
        let (reading, theirs) = (self.clone(), Arc::clone(round));
        if let Some(helper) = self.core.reads.run_if_idle(move || reading.visit_queues(&theirs)) {
            self.core.judged.helped.fetch_add(1, Ordering::Relaxed);
            // Nobody may be left to wait for it. What it takes is given back then.
            let _ = round.helpers.send(helper);
        }
    }

    /// Takes what one queue has: first what is ready to be delivered again, then rows behind the cursor.
    fn read_queue(
        &self,
        queue: QueueId,
        round: &Arc<Round>,
        visit: &mut Visit,
        steps: &mut usize,
    ) -> Result<(), EngineError> {
        let Some((hold, work)) = self.begin(queue)? else { return Ok(()) };
        let is_fifo = self.subscription.spec.load().fifo;
        // Rows that cannot be judged stay where they are, and hold up nobody else.
        let mut failed = match work.unknown.is_empty() {
            true => None,
            false => self.judge(&hold, &work.view, &work.unknown).err(),
        };
        let order = if is_fifo { Some(self.line_up(&hold, &work.view)) } else { None };
        // Nobody can say what may go before a row whose place is not known.
        let (order, is_in_doubt) = match order {
            Some(Err(error)) => {
                failed = failed.or(Some(error));
                (None, true)
            }
            order => (order.transpose()?, false),
        };
        let taken = self.take_ready(&hold, &work.view, &round.allowance, is_fifo)?;
        let mut found = None;
        let mut has_caught_up = false;
        let end = work.view.range().end;
        if work.room > 0 && !round.allowance.is_spent() && !is_in_doubt {
            let taken_steps = Cell::new(0);
            let on_step = || {
                taken_steps.set(taken_steps.get() + 1);
                if taken_steps.get() >= STEPS_ALONE {
                    self.call_helper(round);
                }
            };
            let search = Search::new(&self.core, &work, &round.allowance, work.room, steps, &on_step);
            let mut came = search.in_order(order).run();
            visit.more |= came.next < end && came.failed.is_none();
            has_caught_up = came.failed.is_none() && came.next >= end;
            failed = failed.or(came.failed.take());
            found = Some(came);
        }
        self.commit(hold, taken, found, visit)?;
        if has_caught_up && self.join(queue, end) {
            visit.more = true;
            // If this receive is not there any more to look again, another does.
            self.subscription.waiters.wake_slot(self.slot, queue);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Puts the selector into the index of a queue of which it has judged all rows below `at`, unless it is there.
    /// Returns whether the index begins behind `at`, so that the rows between are to be scanned.
    fn join(&self, queue: QueueId, at: QueueOffset) -> bool {
        if !self.core.options.live_index || !is_for_the_index(&self.selector) {
            return false;
        }
        let may_join = |state: &mut State| {
            let is_here = !state.gone && state.selectors.find(&self.selector) == Some(self.slot);
            let known = state.queues.get(&queue).filter(|_| is_here);
            known.is_some_and(|known| known.member(self.slot).is_none_or(|member| member.has_ended()))
        };
        if !may_join(&mut self.subscription.lock()) {
            return false;
        }
        // Not under the lock of the subscription: the index may be at work.
        let live = self.subscription.topic.live(queue);
        let member = live.join(&self.selector, &self.subscription, self.slot, at);
        let is_behind = member.from() > at;
        let mut state = self.subscription.lock();
        if may_join(&mut state)
            && let Some(known) = state.queues.get_mut(&queue)
        {
            known.set_member(self.slot, Arc::new(member));
        }
        is_behind
    }

    /// Takes hold of a queue, unless there is nothing to do or somebody else has it.
    fn begin(&self, queue: QueueId) -> Result<Option<(Hold<'_>, Work)>, EngineError> {
        let subscription = &self.subscription;
        let now = self.core.time.now();
        let mut state = subscription.lock();
        subscription.check_here(&state)?;
        let Some(view) = self.core.storage.view(subscription.topic.id, queue) else { return Ok(None) };
        let range = view.range();
        let known = state.queue(queue, range.start);
        let open = known.open().len();
        subscription.follow_retention(known, queue, range.start);
        subscription.wake_if_done(known, queue, open);
        subscription.end_leases(&self.core, &mut state, queue, now);
        let Some(predicate) = self.predicate(&state) else { return Ok(None) };
        let predicate = predicate.at(self.core.time.wall_ms());
        let others = self.others(&state, queue);
        let known = state.queue(queue, range.start);
        if known.scanning {
            return Ok(None);
        }
        let is_fifo = subscription.spec.load().fifo;
        let (is_ready, room) = (known.has_for(self.slot, is_fifo), known.room());
        if !is_ready
            && (room == 0
                || subscription.pass_all_judged(&self.core, &mut state, queue, self.slot, range.end))
        {
            return Ok(None);
        }
        let known = state.queue(queue, range.start);
        let Some(span) = known.span(self.slot) else { return Ok(None) };
        known.scanning = true;
        let is_unknown = |row: &Row| (row.yes | row.no) & bit(self.slot) == 0;
        let unknown = known.ready().filter(|(_, row)| is_unknown(row)).map(|(offset, _)| offset).collect();
        let member = known.member(self.slot).cloned();
        let (topic, from, room) = (subscription.topic.id, span.cursor, known.room());
        let work = Work { topic, queue, view, predicate, others, member, from, room, unknown };
        let hold = Hold {
            reading: self,
            queue,
            generation: known.generation,
            in_hand: parking_lot::Mutex::default(),
        };
        Ok(Some((hold, work)))
    }

    /// Returns the predicate, unless the slot was freed while this receive waited: the client was said to be gone.
    fn predicate(&self, state: &State) -> Option<Arc<Predicate>> {
        if state.selectors.find(&self.selector) != Some(self.slot) {
            return None;
        }
        state.selectors.get(self.slot)?.predicate().cloned()
    }

    /// Returns the other selectors that may have taken rows which this one has still to pass.
    fn others(&self, state: &State, queue: QueueId) -> Vec<(Span, Arc<Predicate>)> {
        let Some(known) = state.queues.get(&queue) else { return Vec::new() };
        let cursor = known.span(self.slot).unwrap_or_default().cursor;
        let spans = known.spans().filter(|(slot, span)| *slot != self.slot && span.cursor > cursor);
        spans
            .filter_map(|(slot, span)| Some((span, Arc::clone(state.selectors.get(slot)?.predicate()?))))
            .collect()
    }

    /// Finds out for which ready rows the selector is TRUE.
    fn judge(&self, hold: &Hold<'_>, view: &QueueView, offsets: &[QueueOffset]) -> Result<(), EngineError> {
        let predicate = self.predicate(&self.subscription.lock());
        let Some(predicate) = predicate else { return Ok(()) };
        let predicate = predicate.at(self.core.time.wall_ms());
        let mut matching = Vec::new();
        let mut rest = offsets;
        while let Some(first) = rest.first() {
            let Some(block) = block_at(view, *first)? else {
                rest = &rest[1..];
                continue;
            };
            let range = block.range();
            let (here, behind) = rest.split_at(rest.partition_point(|offset| *offset < range.end).max(1));
            rest = behind;
            let only = BooleanBuffer::collect_bool(Rows::len(&*block), |row| {
                here.binary_search(&range.start.plus(row as u64)).is_ok()
            });
            let matches = predicate.matches(&*block, Some(&only)).map_err(evaluation_error)?;
            matching.extend(matches.set_indices().map(|row| range.start.plus(row as u64)));
        }
        let mut state = self.subscription.lock();
        if let Some(known) = hold.queue_state(&mut state) {
            for offset in offsets {
                if let Some(row) = known.row_mut(*offset) {
                    let side =
                        if matching.binary_search(offset).is_ok() { &mut row.yes } else { &mut row.no };
                    *side |= bit(self.slot);
                }
            }
        }
        Ok(())
    }

    /// Finds out in which lines the open rows stand, and returns which are held.
    fn line_up(&self, hold: &Hold<'_>, view: &QueueView) -> Result<Order, EngineError> {
        let unlined = {
            let mut state = self.subscription.lock();
            hold.queue_state(&mut state).map(|known| order::unlined(known)).unwrap_or_default()
        };
        let mut lines = Vec::with_capacity(unlined.len());
        let mut failed = None;
        for offset in unlined {
            let line = match row_at(view, offset) {
                Ok(Some((block, row))) => Line::of_row(&block, row).map_err(EngineError::from),
                Ok(None) => Ok(Line::of_lost(offset)),
                Err(error) => Err(error),
            };
            match line {
                Ok(line) => lines.push((offset, line)),
                Err(error) => failed = Some(error),
            }
        }
        let mut state = self.subscription.lock();
        let Some(known) = hold.queue_state(&mut state) else { return Ok(Order::default()) };
        for (offset, line) in lines {
            if let Some(row) = known.row_mut(offset) {
                row.line = Some(line);
            }
        }
        match failed {
            None => Ok(Order { held: order::held(known), one_by_one: self.one_by_one, ..Order::default() }),
            Some(error) => Err(error),
        }
    }

    /// Takes rows that are ready for this selector, and reads their messages.
    fn take_ready(
        &self,
        hold: &Hold<'_>,
        view: &QueueView,
        allowance: &Allowance,
        is_fifo: bool,
    ) -> Result<Vec<Read>, EngineError> {
        let offsets: Vec<(QueueOffset, Option<Line>)> = {
            let mut state = self.subscription.lock();
            let Some(known) = hold.queue_state(&mut state) else { return Ok(Vec::new()) };
            let mut offsets: Vec<_> = if is_fifo {
                order::take(known, self.slot, self.want, self.one_by_one)
            } else {
                let ready = known.ready().filter(|(_, row)| row.yes & bit(self.slot) != 0);
                ready.map(|(offset, _)| (offset, None)).take(self.want).collect()
            };
            offsets.truncate(allowance.take(offsets.len()));
            offsets.iter().for_each(|(offset, _)| known.set_phase(*offset, Phase::InHand));
            offsets
        };
        hold.in_hand.lock().extend(offsets.iter().map(|(offset, _)| *offset));
        let count = offsets.len();
        if count > 1 {
            // What cannot be opened is told of below.
            for (offset, _) in &offsets {
                if let Ok(Some((block, row))) = row_at(view, *offset) {
                    block.will_need_records([row]);
                }
            }
        }
        let mut taken = Vec::new();
        let mut lost = Vec::new();
        let mut failed = Vec::new();
        for (offset, line) in offsets {
            // Not before those that stand in line before it.
            if line.is_some_and(|line| failed.contains(&line)) {
                continue;
            }
            match self.core.read_row(view, offset) {
                Ok(Some(message)) => {
                    allowance.add(&message);
                    taken.push(Read { offset, message, is_new: false });
                }
                Ok(None) => lost.push(offset),
                // It stays in hand, and goes back to wait a while: the others are not held up by it, unless they
                // stand in line behind it.
                Err(error) => {
                    tracing::error!(%error, queue = %hold.queue, %offset, "a message cannot be read for its redelivery");
                    failed.extend(line);
                }
            }
        }
        allowance.give_back(count - taken.len());
        let first = self.core.range(self.subscription.topic.id, hold.queue).start;
        let damaged = lost.iter().filter(|offset| **offset >= first).count();
        if damaged > 0 {
            tracing::error!(
                queue = %hold.queue, damaged, ?lost,
                "messages were lost to damage before they were delivered again"
            );
        }
        if !lost.is_empty() {
            let mut state = self.subscription.lock();
            if let Some(known) = hold.queue_state(&mut state) {
                let open = known.open().len();
                // What has ended is counted once: here, or by whoever met the new first row before.
                let ended = lost.iter().filter(|offset| known.remove(**offset).is_some() && **offset < first);
                let ended = ended.count() as u64;
                self.subscription.note_missed(known, hold.queue, Missed { unjudged: 0, open: ended }, first);
                self.subscription.wake_if_done(known, hold.queue, open);
                self.core.note(vec![self.subscription.ack_entry(hold.queue, lost)]);
            }
        }
        Ok(taken)
    }

    /// Makes what was read the member's.
    fn commit(
        &self,
        hold: Hold<'_>,
        taken: Vec<Read>,
        found: Option<Found>,
        visit: &mut Visit,
    ) -> Result<(), EngineError> {
        let now = self.core.time.now();
        let (length, renewal) = self.lease_from(now);
        let until = now + length;
        let is_fifo = self.subscription.spec.load().fifo;
        let lease = self.core.leases.fetch_add(1, Ordering::Relaxed);
        let mut state = self.subscription.lock();
        self.subscription.check_here(&state)?;
        let Some(known) = hold.queue_state(&mut state) else {
            visit.more = true;
            return Ok(());
        };
        let next = found.as_ref().map(|found| found.next);
        let (read, order, ended) =
            found.map(|found| (found.rows, found.order, found.ended)).unwrap_or_default();
        let order = order.unwrap_or_default();
        let attempt_id = self.attempt_id.as_ref().filter(|_| is_fifo);
        let mut rows = Vec::with_capacity(taken.len() + read.len());
        // Lines of which a row was put off while it was in hand: what stands behind it waits for it.
        let mut put_off = Vec::new();
        for Read { offset, message, is_new } in taken.into_iter().chain(read) {
            let mut row = match known.row_mut(offset) {
                None if is_new => {
                    Row { line: order.lines.get(&offset).copied(), ..Row::new(1, lease, self.slot) }
                }
                Some(row) if row.line.is_some_and(|line| put_off.contains(&line)) => continue,
                Some(row) if !is_new && row.phase == Phase::InHand => {
                    row.attempt += 1;
                    row.lease = lease;
                    row.orphan_since = None;
                    row.clone()
                }
                // It was put off while it was read.
                Some(row) => {
                    put_off.extend(row.line.filter(|_| is_fifo));
                    continue;
                }
                // It was acknowledged while it was read.
                None => continue,
            };
            row.attempt_id = attempt_id.cloned();
            row.client = Some(Arc::clone(&self.client)).filter(|client| !client.is_empty());
            rows.push(lease_row(offset, &row));
            visit.batch.rows.push(Taken { queue: hold.queue, lease, attempt: row.attempt, length, message });
            known.insert(offset, row);
            known.set_phase(offset, Phase::Leased { until, renewal: renewal.clone() });
        }
        let mut entries = Vec::new();
        if let Some(next) = next {
            entries.extend(self.block(known, &order, hold.queue, next, now));
            self.miss(known, hold.queue, &ended);
            known.advance(self.slot, next);
        }
        if let Some(last) = rows.iter().filter(|row| row.slot == self.slot).map(|row| row.offset).max()
            && known.span(self.slot).is_some_and(|span| span.cursor > last)
        {
            // The lease entry tells a replay that the cursor has passed its rows.
            known.set_journaled(self.slot, last.plus(1));
        }
        if !rows.is_empty() {
            entries.push(JournalEntry::Lease {
                group: self.subscription.group,
                topic: self.subscription.topic.id,
                queue: hold.queue,
                rows,
                lease,
                until_ms: self.core.wall_at(until, now),
                length_ms: millis_u32(length),
                client: renewal.map(|renewal| renewal.client.to_string()).unwrap_or_default(),
                attempt_id: attempt_id.map(|id| id.as_ref().to_owned()),
            });
            // What is out of order for good after a power loss must not have been seen before it.
            let wait = if is_fifo { wait_of(&self.subscription.topic) } else { Wait::Written };
            visit.batch.journal(entries, wait);
            self.subscription.arm(&self.core, &mut state, until);
        } else {
            self.core.note(entries);
        }
        self.subscription.drop_shadows(&self.core, &mut state, now);
        drop(state);
        drop(hold);
        Ok(())
    }

    /// Counts rows that ended after they were found, before they could be read. To be called before the cursor moves.
    fn miss(&self, known: &mut QueueState, queue: QueueId, ended: &[QueueOffset]) {
        if !ended.is_empty() {
            let first = self.core.range(self.subscription.topic.id, queue).start;
            // Those before the cursor have been counted when it moved there.
            let cursor = known.span(self.slot).unwrap_or_default().cursor;
            let unjudged = ended.iter().filter(|offset| **offset >= cursor).count() as u64;
            self.subscription.note_missed(known, queue, Missed { unjudged, open: 0 }, first);
        }
    }

    /// Opens rows that have to wait in line, as far as the cursor passes them. Returns the entry for them.
    fn block(
        &self,
        known: &mut QueueState,
        order: &Order,
        queue: QueueId,
        next: QueueOffset,
        now: Duration,
    ) -> Option<JournalEntry> {
        let lease = self.core.next_lease();
        let mut rows = Vec::new();
        for offset in order.blocked.iter().copied().filter(|offset| *offset < next) {
            if known.open().contains_key(&offset) {
                continue;
            }
            let line = order.lines.get(&offset).copied();
            let row = Row { line, phase: Phase::Ready, ..Row::new(0, lease, self.slot) };
            rows.push(lease_row(offset, &row));
            known.insert(offset, row);
        }
        // A lease that is over, of a row that was delivered to nobody.
        (!rows.is_empty()).then(|| JournalEntry::Lease {
            group: self.subscription.group,
            topic: self.subscription.topic.id,
            queue,
            rows,
            lease,
            until_ms: self.core.wall_at(now, now),
            length_ms: 0,
            client: String::new(),
            attempt_id: None,
        })
    }
}

/// The right to read a queue, given back when dropped, with all rows that were taken in hand and not handed out.
struct Hold<'a> {
    reading: &'a Reading,
    queue: QueueId,
    generation: u64,
    in_hand: parking_lot::Mutex<Vec<QueueOffset>>,
}

impl Hold<'_> {
    /// Returns the state of the queue, unless it began anew in the meantime.
    fn queue_state<'s>(&self, state: &'s mut State) -> Option<&'s mut QueueState> {
        state.queues.get_mut(&self.queue).filter(|known| known.generation == self.generation)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let subscription = &self.reading.subscription;
        let until = self.reading.core.time.now() + LEASE_OF_GONE;
        let mut state = subscription.lock();
        let mut waits = false;
        // Whatever began anew in the meantime: nobody else takes rows in hand while this reads the queue.
        if let Some(known) = state.queues.get_mut(&self.queue) {
            for offset in self.in_hand.get_mut().drain(..) {
                if known.open().get(&offset).is_some_and(|row| row.phase == Phase::InHand) {
                    known.set_phase(offset, Phase::Waiting { until });
                    waits = true;
                }
            }
        }
        if waits {
            subscription.arm(&self.reading.core, &mut state, until);
        }
        if let Some(known) = state.queues.get_mut(&self.queue) {
            known.scanning = false;
        }
        drop(state);
        // Others may have passed this queue by in the meantime.
        subscription.waiters.wake(self.queue);
    }
}

/// Whether a selector may be judged with those of all groups. Not if it matches every row, which costs nothing;
/// nor if the moment decides, since its answers cannot be kept; nor if it reads messages, since the others would
/// wait for it.
fn is_for_the_index(selector: &Selector) -> bool {
    let is_hashed = |column| matches!(column, ColumnRef::System(System::Keys | System::MessageId));
    !(selector.matches_all()
        || selector.depends_on_now()
        || selector.reads_bodies()
        || selector.columns().any(is_hashed))
}

impl Core {
    /// Reads the message of a row, or returns `None` if damage or retention have taken it.
    pub(crate) fn read_row(
        &self,
        view: &QueueView,
        offset: QueueOffset,
    ) -> Result<Option<StoredMessage>, EngineError> {
        let Some((block, row)) = row_at(view, offset)? else { return Ok(None) };
        if block.lost().is_some_and(|lost| lost.value(row)) {
            return Ok(None);
        }
        self.read_position(block.positions()?.value(row))
    }

    fn read_position(&self, position: u64) -> Result<Option<StoredMessage>, EngineError> {
        match self.storage.read(LogPosition(position)) {
            Ok(message) => Ok(Some(message)),
            Err(StorageError::Lost { .. } | StorageError::NoRecord { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
