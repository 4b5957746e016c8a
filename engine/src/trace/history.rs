//! What the group journal tells of some rows, gathered in one reading.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_storage::{
    GroupId, JournalEntry, JournalHistory, LeaseRow, OpenRow, Past, PendingRow, QueueId, QueueOffset, TopicId,
};

use super::{
    answer::{JournalReach, TraceEvent},
    deadline,
    find::RowPlace,
};
use crate::{
    error::EngineError,
    limits::{TRACE_EVENTS_MAX, TRACE_EVENTS_OF_GROUP_MAX, TRACE_SELECTOR_CHARS_MAX},
    reads::{Produce, Progress},
};

/// What one group did with one row, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    pub(super) list: VecDeque<TraceEvent>,
    /// So many came before those in the list.
    pub(super) left_out: u64,
}

/// What the journal told.
#[derive(Debug, Default)]
pub(super) struct Told {
    rows: HashMap<RowPlace, HashMap<GroupId, Events>>,
    /// Where the rows are, by queue, in order.
    places: HashMap<(TopicId, QueueId), Vec<QueueOffset>>,
    pending: HashMap<PendingRow, Done>,
    selectors: HashMap<(GroupId, TopicId, u8), Arc<str>>,
    kept: usize,
    pub(super) reach: JournalReach,
}

/// When a pending row was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    NotYet,
    At(i64),
    /// Before the oldest part of the journal was begun.
    Before,
}

impl Told {
    /// Returns what a group did with a row.
    pub(super) fn events(&self, place: &RowPlace, group: GroupId) -> Events {
        self.rows.get(place).and_then(|groups| groups.get(&group)).cloned().unwrap_or_default()
    }

    /// Returns when a pending row was done, if the journal knows.
    pub(super) fn done_ms(&self, row: &PendingRow) -> Option<i64> {
        match self.pending.get(row) {
            Some(Done::At(at_ms)) => Some(*at_ms),
            _ => None,
        }
    }

    /// Whether the journal shows that a pending row was done before a moment.
    pub(super) fn is_done_before(&self, row: &PendingRow, moment_ms: i64) -> bool {
        match self.pending.get(row) {
            Some(Done::At(at_ms)) => *at_ms < moment_ms,
            Some(Done::Before) => self.reach.begins_ms.is_some_and(|begins_ms| begins_ms < moment_ms),
            Some(Done::NotYet) | None => false,
        }
    }

    fn note(&mut self, at_ms: i64, past: Past) {
        match past {
            Past::Entry(entry) => self.note_entry(at_ms, entry),
            Past::Cut { topic, queue, end } => {
                // What was said of the rows that were there before says nothing of these.
                self.rows.retain(|row, _| (row.topic, row.queue) != (topic, queue) || row.offset < end);
                for (row, done) in &mut self.pending {
                    if (row.topic, row.queue) == (topic, queue) && row.offset >= end {
                        *done = Done::NotYet;
                    }
                }
            }
            Past::Done(rows) => {
                for (row, done) in &mut self.pending {
                    if *done == Done::NotYet && rows.contains(row) {
                        *done = if rows.is_a_summary() { Done::Before } else { Done::At(at_ms) };
                    }
                }
            }
        }
    }

    fn note_entry(&mut self, at_ms: i64, entry: JournalEntry) {
        match entry {
            JournalEntry::Queue { group, topic, queue, open, .. } => {
                for offset in self.asked(topic, queue, open.iter().map(|row| row.offset)) {
                    let row = open.iter().find(|row| row.offset == offset);
                    let events = self.of(group, topic, queue, offset);
                    if let Some(row) = row.filter(|_| events.list.is_empty()) {
                        let event = was_open(at_ms, row);
                        self.push(group, topic, queue, offset, event);
                    }
                }
            }
            JournalEntry::Selector { group, topic, slot, text, .. } => {
                if self.places.keys().any(|(of, _)| *of == topic) {
                    self.selectors.insert((group, topic, slot), shortened(&text).into());
                }
            }
            JournalEntry::DropSelector { group, topic, slot } => {
                self.selectors.remove(&(group, topic, slot));
            }
            JournalEntry::Lease {
                group, topic, queue, rows, lease, until_ms, client, attempt_id, ..
            } => {
                for offset in self.asked(topic, queue, rows.iter().map(|row| row.offset)) {
                    let Some(row) = rows.iter().find(|row| row.offset == offset) else { continue };
                    let client = client_of(&client, attempt_id.as_deref());
                    let selector = self.selectors.get(&(group, topic, row.slot)).cloned();
                    let given = Given { at_ms, lease, until_ms, client, selector };
                    self.lease(group, topic, queue, row, given);
                }
            }
            JournalEntry::Ack { group, topic, queue, offsets } => {
                for offset in self.asked(topic, queue, offsets) {
                    self.end(group, topic, queue, offset, TraceEvent::Acknowledged { at_ms });
                }
            }
            JournalEntry::Change { group, topic, queue, offset, visible_at_ms: until_ms, .. } => {
                for offset in self.asked(topic, queue, [offset]) {
                    self.push(group, topic, queue, offset, TraceEvent::PutOff { at_ms, until_ms });
                }
            }
            JournalEntry::DeadLetter { group, topic, queue, offset } => {
                for offset in self.asked(topic, queue, [offset]) {
                    self.end(group, topic, queue, offset, TraceEvent::DeadLettered { at_ms });
                }
            }
            JournalEntry::Reset { group, topic, queue, offset: to } => {
                for offset in self.places.get(&(topic, queue)).cloned().unwrap_or_default() {
                    self.push_reset(group, topic, queue, offset, TraceEvent::Reset { at_ms, to });
                }
            }
            JournalEntry::DropGroup { group } => {
                self.rows.values_mut().for_each(|groups| drop(groups.remove(&group)));
            }
            JournalEntry::DropTopic { topic } => self.rows.retain(|row, _| row.topic != topic),
            JournalEntry::Cursor { .. }
            | JournalEntry::LitePosition { .. }
            | JournalEntry::LiteForgotten { .. } => {}
        }
    }

    /// Returns those of `offsets` that are asked for.
    fn asked(
        &self,
        topic: TopicId,
        queue: QueueId,
        offsets: impl IntoIterator<Item = QueueOffset>,
    ) -> Vec<QueueOffset> {
        let Some(places) = self.places.get(&(topic, queue)) else { return Vec::new() };
        offsets.into_iter().filter(|offset| places.binary_search(offset).is_ok()).collect()
    }

    fn of(&mut self, group: GroupId, topic: TopicId, queue: QueueId, offset: QueueOffset) -> &mut Events {
        self.rows.entry(RowPlace { topic, queue, offset }).or_default().entry(group).or_default()
    }

    fn push(
        &mut self,
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        event: TraceEvent,
    ) {
        let is_full = self.kept >= TRACE_EVENTS_MAX;
        let events = self.of(group, topic, queue, offset);
        events.list.push_back(event);
        // The newest decides what became of the row, and stays, however many there are.
        if events.list.len() > TRACE_EVENTS_OF_GROUP_MAX || is_full && events.list.len() > 1 {
            events.list.pop_front();
            events.left_out += 1;
        } else {
            self.kept += 1;
        }
    }

    /// A consumer that pulls says again and again how far it is: once it is behind the row, that changes nothing.
    fn push_reset(
        &mut self,
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        event: TraceEvent,
    ) {
        let is_behind = |event: &TraceEvent| matches!(event, TraceEvent::Reset { to, .. } if *to > offset);
        let is_before = |event: &TraceEvent| matches!(event, TraceEvent::Reset { to, .. } if *to <= offset);
        let last = self.of(group, topic, queue, offset).list.back_mut();
        match last {
            // Nor does it where the group is done with the row.
            Some(last) if (last.is_the_end() || is_behind(last)) && is_behind(&event) => {}
            Some(last) if is_before(last) && is_before(&event) => *last = event,
            _ => self.push(group, topic, queue, offset, event),
        }
    }

    fn lease(&mut self, group: GroupId, topic: TopicId, queue: QueueId, row: &LeaseRow, given: Given) {
        let Given { at_ms, lease, until_ms, client, selector } = given;
        let offset = row.offset;
        if row.attempt == 0 {
            return self.push(group, topic, queue, offset, TraceEvent::LinedUp { at_ms });
        }
        if let Some(TraceEvent::Leased { lease: known, until_ms: until, renewals, .. }) =
            self.of(group, topic, queue, offset).list.back_mut()
            && *known == lease
        {
            (*until, *renewals) = (until_ms, *renewals + 1);
            return;
        }
        let attempt = row.attempt.into();
        let event = TraceEvent::Leased { at_ms, attempt, until_ms, renewals: 0, client, selector, lease };
        self.push(group, topic, queue, offset, event);
    }

    /// Notes that a group is done with a row. Who says so once more changes nothing.
    fn end(
        &mut self,
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        event: TraceEvent,
    ) {
        if !self.of(group, topic, queue, offset).list.back().is_some_and(TraceEvent::is_the_end) {
            self.push(group, topic, queue, offset, event);
        }
    }
}

/// What a lease entry says of all its rows.
struct Given {
    at_ms: i64,
    lease: u64,
    until_ms: i64,
    client: Option<String>,
    selector: Option<Arc<str>>,
}

fn was_open(at_ms: i64, row: &OpenRow) -> TraceEvent {
    let OpenRow { attempt, leased, until_ms, .. } = *row;
    match attempt {
        0 => TraceEvent::LinedUp { at_ms },
        attempt => TraceEvent::WasOpen { at_ms, attempt: attempt.into(), leased, until_ms },
    }
}

/// Returns who was given the rows of a lease, if it says so: leases that are not renewed do not, but for the name of the
/// receive in a FIFO group, which begins with that of the client.
fn client_of(client: &str, attempt_id: Option<&str>) -> Option<String> {
    let named = Some(client).filter(|client| !client.is_empty());
    let of_attempt = || attempt_id?.split('\n').next().filter(|client| !client.is_empty());
    named.or_else(of_attempt).map(str::to_owned)
}

/// Returns the beginning of a selector.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(TRACE_SELECTOR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The journal being read.
pub(super) struct History {
    journal: JournalHistory,
    told: Told,
    deadline: Instant,
    is_over: bool,
}

impl History {
    pub(super) fn new(
        journal: JournalHistory,
        rows: Vec<RowPlace>,
        pending: Vec<PendingRow>,
        within: Duration,
    ) -> Self {
        let mut told = Told {
            pending: pending.into_iter().map(|row| (row, Done::NotYet)).collect(),
            reach: JournalReach { begins_ms: journal.begins_ms(), ..JournalReach::default() },
            ..Told::default()
        };
        for RowPlace { topic, queue, offset } in rows {
            told.places.entry((topic, queue)).or_default().push(offset);
        }
        told.places.values_mut().for_each(|offsets| offsets.sort_unstable());
        Self { journal, told, deadline: deadline(within), is_over: false }
    }
}

impl Produce for History {
    type Item = Told;

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        if self.is_over {
            return Ok(Progress::End);
        }
        let end = until.min(self.deadline);
        let told = &mut self.told;
        let mut is_time = || Instant::now() >= end;
        let more = self.journal.read(&mut is_time, &mut |at_ms, past| told.note(at_ms, past))?;
        if more && Instant::now() < self.deadline {
            return Ok(Progress::More);
        }
        self.is_over = true;
        let mut told = std::mem::take(&mut self.told);
        told.reach.complete = !more;
        told.reach.damaged = self.journal.damaged();
        Ok(Progress::Item(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_while_it_was_looked_for_was_not_done_before() {
        let row = |offset| PendingRow { topic: TopicId(1), queue: QueueId(0), offset: QueueOffset(offset) };
        let pending = [(row(1), Done::At(50)), (row(2), Done::Before), (row(3), Done::NotYet)];
        let reach = JournalReach { begins_ms: Some(40), ..JournalReach::default() };
        let told = Told { pending: pending.into_iter().collect(), reach, ..Told::default() };
        let before = |moment_ms| (1..5).filter(|at| told.is_done_before(&row(*at), moment_ms)).collect();
        let before: Vec<Vec<u64>> = [40, 41, 50, 51].into_iter().map(before).collect();
        assert_eq!(before, [vec![], vec![2], vec![2], vec![1, 2]]);
    }
}
