//! A group on one topic: its selectors and queues behind one lock, and what every change leaves in the journal.
//!
//! The lock is held for memory work alone. Journal entries are handed to storage under it, so that the journal
//! has them in the order in which they happened.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use weir_filter::Selector;
use weir_storage::{GroupId, JournalEntry, LeaseRow, OpenRow, QueueId, QueueOffset, StorageError, Wait};

use super::{
    lite::{Lite, LiteWaiters},
    order::{self, Line, Together},
    selectors::{Selectors, dialect_number},
    settle::Journaling,
    spec::{GroupLite, GroupQueue, GroupSelector, GroupSpec, GroupStart, GroupTopic, SelectorQueue},
    state::{AtEnd, Missed, NO_SLOT, Phase, QueueState, Renewal, Row, Span, bit},
    waiters::Waiters,
};
use crate::{
    broker::Core,
    clients::Clients,
    error::EngineError,
    limits::{LEASE_DEFAULT, LEASE_OF_GONE, LITE_OPEN_ROWS_MAX, OPEN_ROWS_MAX, ORPHAN_AFTER, SELECTORS_MAX},
    name::GroupName,
    topic::Topic,
    topic_type::TopicType,
};

/// A group on one topic.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) group: GroupId,
    pub(crate) group_name: GroupName,
    pub(crate) spec: Arc<ArcSwap<GroupSpec>>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) waiters: Waiters,
    pub(crate) lite_waiters: LiteWaiters,
    state: Mutex<State>,
    /// The queue at which the next receive starts.
    turn: AtomicU32,
}

/// What a [`Subscription`] remembers.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) selectors: Selectors,
    pub(crate) queues: BTreeMap<QueueId, QueueState>,
    /// Of a group that reads lite topics.
    pub(crate) lite: Lite,
    /// Whether group or topic are deleted.
    pub(crate) gone: bool,
    /// When the timer looks at this next.
    armed: Option<Duration>,
}

impl State {
    /// Returns what is remembered of `queue`, which is made if the topic has grown.
    ///
    /// A queue that is new to selectors in use begins for them at its first row.
    pub(crate) fn queue(&mut self, queue: QueueId, first: QueueOffset) -> &mut QueueState {
        let selectors = &self.selectors;
        self.queues.entry(queue).or_insert_with(|| {
            let mut made = QueueState::default();
            selectors.iter().for_each(|(slot, _)| made.set_span(slot, Span::at(first)));
            made
        })
    }

    /// Frees a slot. Rows that its selector chose stay open.
    pub(crate) fn drop_selector(&mut self, slot: u8) {
        self.selectors.remove(slot);
        self.queues.values_mut().for_each(|queue| queue.forget_slot(slot));
    }

    /// Returns the slots that nobody needs any more, given those that are live.
    ///
    /// Those that stay, live or not, have passed them: what a slot has taken is not theirs to take again. If
    /// `joining`, a new selector is about to start behind all others.
    fn passed(&self, live: u8, joining: bool) -> Vec<u8> {
        if live == 0 && !joining {
            return Vec::new();
        }
        let slots = || self.selectors.iter().map(|(slot, _)| slot);
        let mut stay = live;
        loop {
            // One that stays keeps those that it has not passed.
            let is_needed = |slot: &u8| !self.queues.values().all(|queue| is_passed(queue, *slot, stay));
            let needed = slots().filter(is_needed).map(bit).fold(0, |all, slot| all | slot);
            if stay | needed == stay {
                return slots().filter(|slot| stay & bit(*slot) == 0).collect();
            }
            stay |= needed;
        }
    }

    /// Returns the committed offset of a queue.
    pub(crate) fn committed(&self, queue: &QueueState, live: u8) -> QueueOffset {
        let cursor = |mask: u8| {
            let spans = queue.spans().filter(|(slot, _)| mask & bit(*slot) != 0);
            spans.map(|(_, span)| span.cursor).min()
        };
        let cursor = cursor(live).or_else(|| cursor(u8::MAX)).or(queue.floor()).unwrap_or_default();
        queue.open().first_key_value().map_or(cursor, |(offset, _)| cursor.min(*offset))
    }
}

/// Whether those of `others` have come as far in a queue as the selector in `slot`.
fn is_passed(queue: &QueueState, slot: u8, others: u8) -> bool {
    let Some(span) = queue.span(slot) else { return true };
    queue.spans().all(|(other, theirs)| others & bit(other) == 0 || theirs.cursor >= span.cursor)
}

impl Subscription {
    pub(crate) fn new(
        group: GroupId,
        group_name: GroupName,
        spec: Arc<ArcSwap<GroupSpec>>,
        topic: Arc<Topic>,
        state: State,
    ) -> Self {
        Self {
            group,
            group_name,
            spec,
            topic,
            waiters: Waiters::default(),
            lite_waiters: LiteWaiters::default(),
            state: Mutex::new(state),
            turn: AtomicU32::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the queues in the order in which the next receive visits them, and whether one may be visited before
    /// those in front of it are done.
    pub(crate) fn rotation(&self, only: Option<QueueId>) -> (Vec<QueueId>, Together) {
        if let Some(only) = only {
            return (vec![only], Together::Yes);
        }
        let queues = self.topic.queues();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let spec = self.spec.load();
        if self.topic.topic_type() != TopicType::Priority || spec.fifo {
            return (order::around(turn, queues).collect(), Together::Yes);
        }
        match order::by_priority(turn, spec.priority_factor) {
            None => ((0..queues).rev().map(QueueId).collect(), Together::No),
            Some(start) => (order::around(start, queues).collect(), Together::Yes),
        }
    }

    /// Notes that `client` receives with `selector`, and returns its slot.
    pub(crate) fn enlist(&self, core: &Core, selector: &Selector, client: &str) -> Result<u8, EngineError> {
        let now = core.time.now();
        let mut state = self.lock();
        self.check_here(&state)?;
        if let Some(slot) = state.selectors.find(selector) {
            state.selectors.name(slot, selector, client, now);
            return Ok(slot);
        }
        let starts = self.starts(core, &mut state);
        let live = state.selectors.live(now, &core.clients);
        let mut entries = self.drop_passed(&mut state, live, true);
        let slot = state.selectors.insert(selector).ok_or(EngineError::Limit {
            what: "the number of selectors that the group uses on the topic at a time",
            actual: SELECTORS_MAX as u64 + 1,
            limit: SELECTORS_MAX as u64,
            kind: crate::LimitKind::Other,
        })?;
        state.selectors.name(slot, selector, client, now);
        for (queue, start) in &starts {
            state.queue(*queue, *start).set_span(slot, Span::at(*start));
        }
        tracing::info!(
            group = %self.group_name, topic = %self.topic.name, slot, selector = selector.text(), ?starts,
            "the group has a new selector"
        );
        entries.extend(self.selector_entry(&state, slot, starts));
        core.note(entries);
        Ok(slot)
    }

    /// Returns whether `slot` still belongs to `selector`.
    pub(crate) fn holds(&self, slot: u8, selector: &Selector) -> bool {
        let state = self.lock();
        state.gone || state.selectors.find(selector) == Some(slot)
    }

    /// Returns where a new selector begins in each queue.
    fn starts(&self, core: &Core, state: &mut State) -> Vec<(QueueId, QueueOffset)> {
        let begin = self.spec.load().start;
        let mut starts = Vec::new();
        for queue in (0..self.topic.queues()).map(QueueId) {
            let range = core.range(self.topic.id, queue);
            self.pass_judged(state.queue(queue, range.start), queue, range.end);
            let start = state.queue(queue, range.start).highest().unwrap_or(match begin {
                GroupStart::Earliest => range.start,
                GroupStart::Latest => range.end,
            });
            starts.push((queue, start));
        }
        starts
    }

    /// Moves the cursors of selectors with which somebody waits past the rows that the index has judged: without
    /// it, the receive that waits would have passed them, if there is room for rows.
    fn pass_judged(&self, known: &mut QueueState, queue: QueueId, end: QueueOffset) {
        if known.scanning || known.room() == 0 {
            return;
        }
        let slots: Vec<u8> = known.spans().map(|(slot, _)| slot).collect();
        for slot in slots.into_iter().filter(|slot| self.waiters.waits(*slot, queue)) {
            known.pass_judged(slot, end);
        }
    }

    /// Frees the slots that nobody needs any more.
    fn drop_passed(&self, state: &mut State, live: u8, joining: bool) -> Vec<JournalEntry> {
        let passed = state.passed(live, joining);
        if passed.is_empty() {
            return Vec::new();
        }
        // First the cursors that have passed it: a replay that put them back would judge rows again that the
        // selector has taken, and there would be nobody left to say so.
        let mut entries = self.cursor_entries(state);
        let (group, topic) = (self.group, self.topic.id);
        for slot in passed {
            state.drop_selector(slot);
            entries.push(JournalEntry::DropSelector { group, topic, slot });
        }
        entries
    }

    /// Returns the entries for cursors that the journal does not know.
    fn cursor_entries(&self, state: &mut State) -> Vec<JournalEntry> {
        let (group, topic) = (self.group, self.topic.id);
        let mut entries = Vec::new();
        for (queue, known) in &mut state.queues {
            let cursors = known.take_moved_cursors().into_iter();
            entries.extend(cursors.map(|(slot, cursor)| JournalEntry::Cursor {
                group,
                topic,
                queue: *queue,
                slot,
                cursor,
            }));
        }
        entries
    }

    fn selector_entry(
        &self,
        state: &State,
        slot: u8,
        starts: Vec<(QueueId, QueueOffset)>,
    ) -> Option<JournalEntry> {
        let selector = state.selectors.get(slot)?;
        Some(JournalEntry::Selector {
            group: self.group,
            topic: self.topic.id,
            slot,
            text: selector.text().to_owned(),
            dialect: dialect_number(selector.dialect()),
            kind: selector.kind(),
            starts,
        })
    }

    /// Returns an error if group or topic are deleted.
    pub(crate) fn check_here(&self, state: &State) -> Result<(), EngineError> {
        if !state.gone {
            return Ok(());
        }
        Err(if self.topic.is_gone() {
            EngineError::TopicNotFound { topic: self.topic.name.clone(), near: Vec::new() }
        } else {
            EngineError::GroupNotFound { group: self.group_name.clone(), near: Vec::new() }
        })
    }

    /// Ends everything: group or topic are deleted.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.queues.clear();
        state.lite = Lite::default();
        drop(state);
        self.waiters.wake_all();
        self.lite_waiters.wake_all();
    }

    /// Returns whether a receive with the selector in `slot` would find something to do.
    pub(crate) fn has_work(&self, core: &Core, slot: u8, only: Option<QueueId>) -> bool {
        let now = core.time.now();
        let mut state = self.lock();
        if state.gone {
            return true;
        }
        let queues = only.map_or(0..self.topic.queues(), |only| only.0..only.0 + 1);
        queues.map(QueueId).any(|queue| self.queue_has_work(core, &mut state, queue, slot, now))
    }

    fn queue_has_work(
        &self,
        core: &Core,
        state: &mut State,
        queue: QueueId,
        slot: u8,
        now: Duration,
    ) -> bool {
        let range = core.range(self.topic.id, queue);
        let known = state.queue(queue, range.start);
        if known.scanning {
            return false;
        }
        let is_over = known.next_end().is_some_and(|end| end <= now);
        if is_over || known.has_for(slot, self.spec.load().fifo) {
            return true;
        }
        known.room() > 0 && !self.pass_all_judged(core, state, queue, slot, range.end)
    }

    /// Moves a cursor to `end` if the index knows that no row before it matches, as a scan would come there.
    /// Returns whether it is there.
    pub(crate) fn pass_all_judged(
        &self,
        core: &Core,
        state: &mut State,
        queue: QueueId,
        slot: u8,
        end: QueueOffset,
    ) -> bool {
        let Some(known) = state.queues.get_mut(&queue) else { return false };
        if known.is_behind(slot, end) {
            return false;
        }
        if known.span(slot).is_some_and(|span| span.cursor < end) {
            known.pass_judged(slot, end);
            self.drop_shadows(core, state, core.time.now());
        }
        true
    }

    /// Wakes those who wait for a queue, if less than `open` rows are open now and they wait for that.
    pub(crate) fn wake_if_done(&self, known: &QueueState, queue: QueueId, open: usize) {
        if known.open().len() >= open {
            return;
        }
        if self.spec.load().lite_sets().is_some() {
            // What stands behind in a lite topic is not open yet.
            self.lite_waiters.wake_all();
        }
        if self.waits_for_done(known, open) {
            self.waiters.wake(queue);
        }
    }

    /// Returns whether receives wait for a row to be done, of `open` that are open: they may wait for room, or in
    /// line. Other rows that lie there for them have been shown to them before.
    pub(crate) fn waits_for_done(&self, known: &QueueState, open: usize) -> bool {
        open >= OPEN_ROWS_MAX || self.spec.load().fifo && known.has_ready()
    }

    /// Makes the timer look at this at `moment`, unless it looks earlier.
    pub(crate) fn arm(&self, core: &Core, state: &mut State, moment: Duration) {
        if state.armed.is_none_or(|armed| moment < armed) {
            core.timer.arm((self.group, self.topic.id), state.armed.replace(moment), moment);
        }
    }

    /// The timer is here: ends what is over, and says when to come again.
    pub(crate) fn tick(self: &Arc<Self>, core: &Arc<Core>) {
        let now = core.time.now();
        let mut state = self.lock();
        state.armed = None;
        let queues: Vec<QueueId> = state.queues.keys().copied().collect();
        for queue in queues {
            self.end_leases(core, &mut state, queue, now);
        }
        if let Some(next) = state.queues.values().filter_map(QueueState::next_end).min() {
            self.arm(core, &mut state, next);
        }
    }

    /// Ends the leases and waits of a queue that are over.
    pub(crate) fn end_leases(
        self: &Arc<Self>,
        core: &Arc<Core>,
        state: &mut State,
        queue: QueueId,
        now: Duration,
    ) {
        let Some(known) = state.queues.get_mut(&queue) else { return };
        if known.next_end().is_none_or(|end| end > now) {
            return;
        }
        let spec = self.spec.load();
        let is_dead_letter = self.topic.name.is_dead_letter();
        let open = known.open().len();
        let ended = known.end(now, |row| decide(row, now, &spec, is_dead_letter, &core.clients));
        let mut entries = Vec::new();
        for offset in &ended.renewed {
            entries.extend(self.renewal_entry(core, known, queue, *offset, now));
        }
        for offset in &ended.waiting {
            entries.extend(self.wait_entry(core, known, queue, *offset, now));
        }
        if !ended.done.is_empty() {
            entries.push(self.ack_entry(queue, ended.done));
        }
        core.note(entries);
        if ended.ready {
            if spec.lite_sets().is_some() {
                let lines: Vec<Line> = known.ready().filter_map(|(_, row)| row.line).collect();
                let is_unlined = lines.len() < known.ready().count();
                // What a start has found nobody has looked up yet.
                if is_unlined { self.lite_waiters.wake_all() } else { self.wake_lite(state, lines) }
            }
            self.waiters.wake(queue);
        } else {
            self.wake_if_done(known, queue, open);
        }
        if !ended.exhausted.is_empty() {
            core.move_to_dead_letter(Arc::clone(self), queue, ended.exhausted);
        }
    }

    /// The entry for a lease that goes on: the same lease again, with a later end.
    fn renewal_entry(
        &self,
        core: &Core,
        known: &QueueState,
        queue: QueueId,
        offset: QueueOffset,
        now: Duration,
    ) -> Option<JournalEntry> {
        let row = known.open().get(&offset)?;
        let Phase::Leased { until, renewal: Some(renewal) } = &row.phase else { return None };
        Some(JournalEntry::Lease {
            group: self.group,
            topic: self.topic.id,
            queue,
            rows: vec![lease_row(offset, row)],
            lease: row.lease,
            until_ms: core.wall_at(*until, now),
            length_ms: millis_u32(LEASE_DEFAULT),
            client: renewal.client.to_string(),
            attempt_id: None,
        })
    }

    /// The entry for a row that waits.
    pub(crate) fn wait_entry(
        &self,
        core: &Core,
        known: &QueueState,
        queue: QueueId,
        offset: QueueOffset,
        now: Duration,
    ) -> Option<JournalEntry> {
        let row = known.open().get(&offset)?;
        Some(JournalEntry::Change {
            group: self.group,
            topic: self.topic.id,
            queue,
            offset,
            lease: row.lease,
            visible_at_ms: core.wall_at(row.phase.end().unwrap_or(now), now),
        })
    }

    pub(crate) fn ack_entry(&self, queue: QueueId, offsets: Vec<QueueOffset>) -> JournalEntry {
        JournalEntry::Ack { group: self.group, topic: self.topic.id, queue, offsets }
    }

    /// Cuts the renewed leases of a client that is gone, and forgets its selectors.
    pub(crate) fn forget_client(&self, core: &Core, client: &str, now: Duration) {
        let mut state = self.lock();
        state.selectors.forget(client);
        state.lite.leave(client, now);
        let until = now + LEASE_OF_GONE;
        let mut cut = false;
        for known in state.queues.values_mut() {
            let held = |row: &Row| matches!(&row.phase, Phase::Leased { renewal: Some(renewal), .. } if *renewal.client == *client);
            let rows: Vec<QueueOffset> =
                known.open().iter().filter(|(_, row)| held(row)).map(|(offset, _)| *offset).collect();
            cut |= !rows.is_empty();
            for offset in rows {
                known.set_phase(offset, Phase::Leased { until, renewal: None });
            }
        }
        if cut {
            self.arm(core, &mut state, until);
        }
    }

    /// Writes cursors that moved, frees slots, drops orphans, and follows retention.
    pub(crate) fn keep_house(&self, core: &Core) {
        let now = core.time.now();
        let mut state = self.lock();
        if state.gone {
            return;
        }
        let live = state.selectors.live(now, &core.clients);
        let mut entries = Vec::new();
        for (queue, known) in &mut state.queues {
            let range = core.range(self.topic.id, *queue);
            self.pass_judged(known, *queue, range.end);
            // What nobody receives with need not be judged.
            (0..SELECTORS_MAX as u8).filter(|slot| live & bit(*slot) == 0).for_each(|slot| known.leave(slot));
            let open = known.open().len();
            self.follow_retention(known, *queue, range.start);
            let orphans = take_orphans(known, live, now);
            if !orphans.is_empty() {
                tracing::warn!(group = %self.group_name, topic = %self.topic.name, %queue, dropped = orphans.len(), "no selector matches these rows any more");
                entries.push(self.ack_entry(*queue, orphans));
            }
            self.wake_if_done(known, *queue, open);
        }
        entries.extend(self.cursor_entries(&mut state));
        entries.extend(self.drop_passed(&mut state, live, false));
        entries.extend(self.fade_lite(core, &mut state, now));
        core.note(entries);
    }

    /// Goes on at the first retained row, and says what the group has missed by that.
    pub(crate) fn follow_retention(&self, known: &mut QueueState, queue: QueueId, first: QueueOffset) {
        let missed = known.retain_from(first);
        self.note_missed(known, queue, missed, first);
    }

    /// Counts what the group has missed, and says so.
    pub(crate) fn note_missed(
        &self,
        known: &mut QueueState,
        queue: QueueId,
        missed: Missed,
        first: QueueOffset,
    ) {
        let Missed { unjudged, open } = missed;
        known.missed += unjudged + open;
        if unjudged + open > 0 {
            tracing::warn!(
                group = %self.group_name, topic = %self.topic.name, %queue, unjudged, open, %first,
                "the group has missed messages: they ended before it was done with them"
            );
        }
    }

    /// Returns the first row of a queue that the group is not done with, if it reads the queue. `range` is what the
    /// queue retains.
    pub(crate) fn needs_from(
        &self,
        core: &Core,
        queue: QueueId,
        range: &std::ops::Range<QueueOffset>,
    ) -> Option<QueueOffset> {
        let now = core.time.now();
        let mut state = self.lock();
        // There may always be lite topics that nobody reads.
        if state.gone || self.spec.load().lite_sets().is_some() {
            return None;
        }
        self.pass_judged(state.queue(queue, range.start), queue, range.end);
        let live = state.selectors.live(now, &core.clients);
        let known = state.queues.get(&queue)?;
        let reads = known.spans().next().is_some() || known.floor().is_some();
        reads.then(|| state.committed(known, live))
    }

    /// Frees slots whose selector everybody has passed. Cheap while there is one selector.
    pub(crate) fn drop_shadows(&self, core: &Core, state: &mut State, now: Duration) {
        if state.selectors.iter().nth(1).is_none() {
            return;
        }
        let live = state.selectors.live(now, &core.clients);
        let entries = self.drop_passed(state, live, false);
        core.note(entries);
    }

    /// Puts a queue elsewhere. Returns what is to be waited for.
    pub(crate) fn reset(&self, core: &Core, queue: QueueId, offset: QueueOffset, wait: Wait) -> Journaling {
        let mut state = self.lock();
        state.queue(queue, offset).reset(offset);
        let entry = JournalEntry::Reset { group: self.group, topic: self.topic.id, queue, offset };
        let journaling = core.journal(vec![entry], wait);
        drop(state);
        self.waiters.wake(queue);
        journaling
    }

    /// Hands the whole state to the journal, which has begun a new file.
    pub(crate) fn snapshot(&self, core: &Core) {
        let now = core.time.now();
        let state = self.lock();
        if state.gone {
            return;
        }
        let slots = state.selectors.iter().map(|(slot, _)| slot);
        let mut entries: Vec<_> =
            slots.filter_map(|slot| self.selector_entry(&state, slot, Vec::new())).collect();
        for (queue, known) in &state.queues {
            let floor = known.floor().map(|floor| (NO_SLOT, floor, floor));
            let spans = known.spans().map(|(slot, span)| (slot, span.start, span.cursor));
            entries.push(JournalEntry::Queue {
                group: self.group,
                topic: self.topic.id,
                queue: *queue,
                cursors: spans.chain(floor).collect(),
                open: known.open().iter().map(|(offset, row)| open_row(core, *offset, row, now)).collect(),
            });
        }
        for (name, queue, next) in state.lite.positions() {
            entries.push(self.lite_entry(queue, name, next));
        }
        core.note(entries);
    }

    /// Returns what people are told.
    pub(crate) fn describe(&self, core: &Core) -> GroupTopic {
        let now = core.time.now();
        let mut state = self.lock();
        for queue in (0..self.topic.queues()).map(QueueId) {
            let range = core.range(self.topic.id, queue);
            let known = state.queue(queue, range.start);
            self.pass_judged(known, queue, range.end);
            let open = known.open().len();
            self.follow_retention(known, queue, range.start);
            self.wake_if_done(known, queue, open);
        }
        let live = state.selectors.live(now, &core.clients);
        let queues = state.queues.iter().map(|(queue, known)| {
            let range = core.range(self.topic.id, *queue);
            let leased =
                known.open().values().filter(|row| matches!(row.phase, Phase::Leased { .. })).count() as u64;
            GroupQueue {
                queue: *queue,
                committed: state.committed(known, live).max(range.start),
                end: range.end,
                leased,
                waiting: known.open().len() as u64 - leased,
                dropped_by_selector_change: known.dropped,
                missed: known.missed,
            }
        });
        let selectors = state.selectors.iter().map(|(slot, selector)| {
            let spans = state.queues.iter().filter_map(|(queue, known)| Some((*queue, known.span(slot)?)));
            let mut members: Vec<String> =
                state.selectors.members(slot, now, &core.clients).iter().map(ToString::to_string).collect();
            members.sort_unstable();
            GroupSelector {
                text: selector.text().to_owned(),
                kind: super::selectors::kind_name(selector.kind()).to_owned(),
                dialect: selector.dialect(),
                members,
                queues: spans
                    .map(|(queue, Span { start, cursor })| SelectorQueue { queue, start, cursor })
                    .collect(),
            }
        });
        let lite = self.spec.load().lite_sets().is_some().then(|| {
            let (members, subscriptions, positions) = state.lite.describe();
            let full = state.queues.values().filter(|known| known.open().len() >= LITE_OPEN_ROWS_MAX);
            GroupLite { members, subscriptions, positions, full_queues: full.count() as u64 }
        });
        GroupTopic {
            topic: self.topic.name.clone(),
            selectors: selectors.collect(),
            queues: queues.collect(),
            lite,
        }
    }
}

/// Returns what happens to a row whose lease or wait is over.
fn decide(row: &Row, now: Duration, spec: &GroupSpec, is_dead_letter: bool, clients: &Clients) -> AtEnd {
    if let Phase::Leased { renewal: Some(renewal), .. } = &row.phase {
        return if now < renewal.limit && clients.is_alive(&renewal.client, now) {
            AtEnd::Until((now + LEASE_DEFAULT).min(renewal.limit))
        } else {
            AtEnd::Wait(now + spec.retry.delay(row.attempt))
        };
    }
    match row.attempt < spec.max_attempts {
        true => AtEnd::Again,
        false if is_dead_letter => AtEnd::Done,
        false => AtEnd::Exhausted,
    }
}

/// Removes rows for which no live selector has been TRUE for 120 s.
fn take_orphans(known: &mut QueueState, live: u8, now: Duration) -> Vec<QueueOffset> {
    let ready: Vec<QueueOffset> = known.ready().map(|(offset, _)| offset).collect();
    let mut orphans = Vec::new();
    for offset in ready {
        let Some(row) = known.row_mut(offset) else { continue };
        if live == 0 || row.no & live != live {
            row.orphan_since = None;
            continue;
        }
        let since = *row.orphan_since.get_or_insert(now);
        if now.saturating_sub(since) >= ORPHAN_AFTER {
            orphans.push(offset);
        }
    }
    for offset in &orphans {
        known.remove(*offset);
    }
    known.dropped += orphans.len() as u64;
    orphans
}

/// Returns a row as a lease entry holds it.
pub(crate) fn lease_row(offset: QueueOffset, row: &Row) -> LeaseRow {
    LeaseRow { offset, attempt: u16::try_from(row.attempt).unwrap_or(u16::MAX), slot: row.slot }
}

fn open_row(core: &Core, offset: QueueOffset, row: &Row, now: Duration) -> OpenRow {
    OpenRow {
        offset,
        attempt: u16::try_from(row.attempt).unwrap_or(u16::MAX),
        lease: row.lease,
        until_ms: core.wall_at(row.phase.end().unwrap_or(now), now),
        slot: row.slot,
        leased: matches!(row.phase, Phase::Leased { .. }),
    }
}

/// Returns whole milliseconds, as many as fit.
pub(crate) fn millis_u32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Returns the renewal of a lease that `client` keeps alive from `now` on.
pub(crate) fn renewal(client: &Arc<str>, now: Duration) -> Renewal {
    Renewal { client: Arc::clone(client), limit: now + crate::limits::LEASE_RENEWED_MAX }
}

/// Returns an engine error for the result of a journal call.
pub(crate) fn journaled(result: Option<Result<(), StorageError>>) -> Result<(), EngineError> {
    match result {
        Some(result) => result.map_err(EngineError::from),
        None => Err(EngineError::Closed),
    }
}

/// Returns how long an answer waits for the journal, by the class of its topic.
pub(crate) fn wait_of(topic: &Topic) -> Wait {
    match topic.class() {
        weir_storage::DurabilityClass::Sync => Wait::Durable,
        weir_storage::DurabilityClass::Async => Wait::Written,
    }
}
