//! What a group remembers of one queue: how far each selector has judged it, and which rows are open.
//!
//! Plain data: no clock, no files, no predicate; of the index of the queue it holds places. A row is *open* from
//! its first delivery until it is done:
//!
//! ```text
//!              lease ends, or the wait is over
//!   Leased ────────────────┐   ┌──────── Waiting ◄── change, give back, renewal given up
//!      ▲                   ▼   ▼
//!      └── handed out ── InHand ◄── taken ── Ready
//!                          │
//!                          └── Moving ── dead-letter topic
//! ```
//!
//! # Invariants
//!
//! - `ends` holds exactly the rows that are `Leased` or `Waiting`, with the moment at which that ends.
//! - `ready` holds exactly the rows that are `Ready`.
//! - An open row lies before the cursor of the selector that chose it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weir_storage::QueueOffset;

use super::{
    live::Member,
    order::{self, Line},
};
use crate::limits::{OPEN_ROWS_MAX, SELECTORS_MAX};

/// The slot of a row whose selector is gone.
pub(crate) const NO_SLOT: u8 = u8::MAX;

/// The rows that a selector has judged: from `start` up to `cursor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: QueueOffset,
    pub(crate) cursor: QueueOffset,
}

impl Span {
    /// A span that has judged nothing yet.
    pub(crate) fn at(offset: QueueOffset) -> Self {
        Self { start: offset, cursor: offset }
    }

    pub(crate) fn contains(self, offset: QueueOffset) -> bool {
        self.start <= offset && offset < self.cursor
    }
}

/// A client that keeps a lease alive, and until when at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) client: Arc<str>,
    pub(crate) limit: Duration,
}

/// Where an open row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A member has it.
    Leased { until: Duration, renewal: Option<Renewal> },
    /// It is delivered again then.
    Waiting { until: Duration },
    /// It is delivered again now.
    Ready,
    /// A receive is about to hand it out.
    InHand,
    /// It is on its way to the dead-letter topic.
    Moving,
}

impl Phase {
    /// Returns when the lease or the wait ends.
    pub(crate) fn end(&self) -> Option<Duration> {
        match self {
            Self::Leased { until, .. } | Self::Waiting { until } => Some(*until),
            Self::Ready | Self::InHand | Self::Moving => None,
        }
    }
}

/// An open row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// How often it has been delivered.
    pub(crate) attempt: u32,
    /// The number of its last lease; whoever names another one speaks of an older delivery.
    pub(crate) lease: u64,
    /// The selector that chose it, or [`NO_SLOT`] if that is gone, or there was none: the group reads lite topics.
    pub(crate) slot: u8,
    pub(crate) phase: Phase,
    /// The slots whose selector is known to be TRUE for it.
    pub(crate) yes: u8,
    /// The slots whose selector is known not to be TRUE for it.
    pub(crate) no: u8,
    /// Since when no live selector is TRUE for it.
    pub(crate) orphan_since: Option<Duration>,
    /// Where it stands in a FIFO group, once somebody has looked.
    pub(crate) line: Option<Line>,
    /// How the receive named itself that has it, in a FIFO group.
    pub(crate) attempt_id: Option<Arc<str>>,
    /// The client that has received it last, if it named itself and no start came in between: for people.
    pub(crate) client: Option<Arc<str>>,
}

impl Row {
    /// Returns a row that has been delivered `attempt` times, chosen by `slot`.
    pub(crate) fn new(attempt: u32, lease: u64, slot: u8) -> Self {
        Self {
            attempt,
            lease,
            slot,
            phase: Phase::InHand,
            yes: bit(slot),
            no: 0,
            orphan_since: None,
            line: None,
            attempt_id: None,
            client: None,
        }
    }
}

/// What a lease number says about an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is the last delivery of an open row.
    Current,
    /// The row was delivered again, or its handle replaced.
    Replaced,
    /// The row is done.
    Done,
    /// A selector has still to come there: a crash has taken the delivery, if not the row, that was meant.
    Ahead,
}

/// What happens to a row whose lease or wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// It stays where it is until then.
    Until(Duration),
    /// It waits until then.
    Wait(Duration),
    /// It is delivered again.
    Again,
    /// It was delivered often enough, and goes to the dead-letter topic.
    Exhausted,
    /// It was delivered often enough, and that is all.
    Done,
}

/// What ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Leases that were renewed.
    pub(crate) renewed: Vec<QueueOffset>,
    /// Leases that are followed by a wait.
    pub(crate) waiting: Vec<QueueOffset>,
    /// Rows that are to go to the dead-letter topic; they are `Moving` now.
    pub(crate) exhausted: Vec<QueueOffset>,
    /// Rows that are done; they are open no more.
    pub(crate) done: Vec<QueueOffset>,
    /// Whether rows are ready that were not.
    pub(crate) ready: bool,
}

/// A group on one queue.
#[derive(Debug, Default)]
pub(crate) struct QueueState {
    spans: [Option<Span>; SELECTORS_MAX],
    /// The cursors that the journal knows.
    journaled: [QueueOffset; SELECTORS_MAX],
    /// Where the index of the queue keeps what it finds for each selector.
    members: [Option<Arc<Member>>; SELECTORS_MAX],
    /// Where the first selector begins, if somebody has said so; behind the last row that was opened, if there are no
    /// selectors since the group reads lite topics.
    floor: Option<QueueOffset>,
    open: BTreeMap<QueueOffset, Row>,
    ends: BTreeSet<(Duration, QueueOffset)>,
    ready: BTreeSet<QueueOffset>,
    /// Whether a receive reads the queue; there is one at a time, so that first deliveries keep their order.
    pub(crate) scanning: bool,
    /// Raised by whatever makes a running scan void.
    pub(crate) generation: u64,
    /// Rows dropped because no selector matches them any more.
    pub(crate) dropped: u64,
    /// Rows that ended before the group was done with them.
    pub(crate) missed: u64,
}

/// The rows of a queue that retention has taken from a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// No selector has judged them.
    pub(crate) unjudged: u64,
    /// They were open.
    pub(crate) open: u64,
}

impl QueueState {
    pub(crate) fn span(&self, slot: u8) -> Option<Span> {
        self.spans.get(usize::from(slot)).copied().flatten()
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = (u8, Span)> {
        (0_u8..).zip(&self.spans).filter_map(|(slot, span)| span.map(|span| (slot, span)))
    }

    pub(crate) fn set_span(&mut self, slot: u8, span: Span) {
        if let (Some(place), Some(journaled)) =
            (self.spans.get_mut(usize::from(slot)), self.journaled.get_mut(usize::from(slot)))
        {
            *place = Some(span);
            *journaled = span.cursor;
        }
    }

    /// Forgets a selector. Rows that it chose stay open.
    pub(crate) fn forget_slot(&mut self, slot: u8) {
        if let Some(place) = self.spans.get_mut(usize::from(slot)) {
            *place = None;
        }
        self.leave(slot);
        self.generation += 1;
        for row in self.open.values_mut() {
            row.yes &= !bit(slot);
            row.no &= !bit(slot);
            if row.slot == slot {
                row.slot = NO_SLOT;
            }
        }
    }

    pub(crate) fn floor(&self) -> Option<QueueOffset> {
        self.floor
    }

    pub(crate) fn set_floor(&mut self, floor: QueueOffset) {
        self.floor = Some(floor);
    }

    /// Notes that rows below `to` were opened without a selector.
    pub(crate) fn raise_floor(&mut self, to: QueueOffset) {
        self.floor = Some(self.floor.map_or(to, |floor| floor.max(to)));
    }

    /// Returns where a new selector begins: behind all that was judged.
    pub(crate) fn highest(&self) -> Option<QueueOffset> {
        self.spans().map(|(_, span)| span.cursor).max().or(self.floor)
    }

    /// Returns the row before which every selector has judged all, as far as the journal knows.
    fn lowest(&self) -> Option<QueueOffset> {
        let known = |(slot, span): (u8, Span)| {
            self.journaled.get(usize::from(slot)).map(|journaled| span.cursor.min(*journaled))
        };
        self.spans().filter_map(known).min().or(self.floor)
    }

    /// Moves a cursor forward.
    pub(crate) fn advance(&mut self, slot: u8, to: QueueOffset) {
        if let Some(span) = self.spans.get_mut(usize::from(slot)).and_then(Option::as_mut) {
            span.cursor = span.cursor.max(to);
            if let Some(member) = self.members.get(usize::from(slot)).and_then(Option::as_ref) {
                member.forget_before(span.cursor);
            }
        }
    }

    /// Returns the place of a selector in the index of the queue.
    pub(crate) fn member(&self, slot: u8) -> Option<&Arc<Member>> {
        self.members.get(usize::from(slot))?.as_ref()
    }

    pub(crate) fn set_member(&mut self, slot: u8, member: Arc<Member>) {
        if let Some(place) = self.members.get_mut(usize::from(slot)) {
            *place = Some(member);
        }
    }

    /// Gives up the place of a selector in the index.
    pub(crate) fn leave(&mut self, slot: u8) {
        if let Some(place) = self.members.get_mut(usize::from(slot)) {
            *place = None;
        }
    }

    /// Returns whether a scan may find rows below `end` that match: the index does not know that there are none.
    pub(crate) fn is_behind(&self, slot: u8, end: QueueOffset) -> bool {
        self.span(slot).is_some_and(|span| self.passed(slot, span.cursor, end) < end)
    }

    /// Moves a cursor past the rows of which the index knows that they do not match.
    ///
    /// To be called where a scan would be made, and not while one is under way: rows that nobody has asked for
    /// are still for a selector that comes later.
    pub(crate) fn pass_judged(&mut self, slot: u8, end: QueueOffset) {
        if let Some(span) = self.span(slot) {
            self.advance(slot, self.passed(slot, span.cursor, end));
        }
    }

    fn passed(&self, slot: u8, cursor: QueueOffset, end: QueueOffset) -> QueueOffset {
        self.member(slot).map_or(cursor, |member| member.pass(cursor, end))
    }

    /// Notes that the journal knows how far `slot` has come.
    pub(crate) fn set_journaled(&mut self, slot: u8, cursor: QueueOffset) {
        if let Some(journaled) = self.journaled.get_mut(usize::from(slot)) {
            *journaled = cursor.max(*journaled);
        }
    }

    /// Returns the cursors that the journal does not know, and takes it to know them.
    pub(crate) fn take_moved_cursors(&mut self) -> Vec<(u8, QueueOffset)> {
        let mut moved = Vec::new();
        for (slot, (span, journaled)) in (0_u8..).zip(self.spans.iter().zip(&mut self.journaled)) {
            if let Some(span) = span.filter(|span| span.cursor > *journaled) {
                *journaled = span.cursor;
                moved.push((slot, span.cursor));
            }
        }
        moved
    }

    /// Forgets everything before `first`, which retention has removed, and returns what the group was not done with.
    pub(crate) fn retain_from(&mut self, first: QueueOffset) -> Missed {
        let unjudged = self.unjudged_before(first);
        for span in self.spans.iter_mut().flatten() {
            span.cursor = span.cursor.max(first);
        }
        let gone: Vec<QueueOffset> = self.open.range(..first).map(|(offset, _)| *offset).collect();
        for offset in &gone {
            self.remove(*offset);
        }
        Missed { unjudged, open: gone.len() as u64 }
    }

    /// Counts the rows before `first` that are for a selector, and that none has judged.
    fn unjudged_before(&self, first: QueueOffset) -> u64 {
        let Some(mut at) = self.spans().map(|(_, span)| span.cursor).min() else { return 0 };
        if at >= first {
            return 0;
        }
        let mut judged: Vec<Span> = self.spans().map(|(_, span)| span).collect();
        judged.sort_unstable_by_key(|span| span.start);
        let mut unjudged = 0;
        for span in judged {
            unjudged += span.start.min(first).0.saturating_sub(at.0);
            at = at.max(span.cursor);
        }
        unjudged + first.0.saturating_sub(at.0)
    }

    /// Makes the queue begin anew at `offset`.
    pub(crate) fn reset(&mut self, offset: QueueOffset) {
        self.open.clear();
        self.ends.clear();
        self.ready.clear();
        for span in self.spans.iter_mut().flatten() {
            *span = Span::at(offset);
        }
        self.journaled = [offset; SELECTORS_MAX];
        self.floor = Some(offset);
        self.generation += 1;
    }

    /// Makes what a crash has cut off unknown again: nothing lies at `end` or above.
    pub(crate) fn cut(&mut self, end: QueueOffset) {
        for span in self.spans.iter_mut().flatten() {
            span.start = span.start.min(end);
            span.cursor = span.cursor.min(end);
        }
        self.floor = self.floor.map(|floor| floor.min(end));
        let gone: Vec<QueueOffset> = self.open.range(end..).map(|(offset, _)| *offset).collect();
        for offset in gone {
            self.remove(offset);
        }
    }

    pub(crate) fn open(&self) -> &BTreeMap<QueueOffset, Row> {
        &self.open
    }

    /// Returns how many more rows may be open.
    pub(crate) fn room(&self) -> usize {
        OPEN_ROWS_MAX.saturating_sub(self.open.len())
    }

    pub(crate) fn row_mut(&mut self, offset: QueueOffset) -> Option<&mut Row> {
        self.open.get_mut(&offset)
    }

    /// Opens a row, or replaces what is known of it.
    pub(crate) fn insert(&mut self, offset: QueueOffset, mut row: Row) {
        self.remove(offset);
        let phase = std::mem::replace(&mut row.phase, Phase::InHand);
        self.open.insert(offset, row);
        self.set_phase(offset, phase);
    }

    pub(crate) fn remove(&mut self, offset: QueueOffset) -> Option<Row> {
        self.set_phase(offset, Phase::InHand);
        self.open.remove(&offset)
    }

    pub(crate) fn set_phase(&mut self, offset: QueueOffset, phase: Phase) {
        let Some(row) = self.open.get_mut(&offset) else { return };
        if let Some(end) = row.phase.end() {
            self.ends.remove(&(end, offset));
        }
        if row.phase == Phase::Ready {
            self.ready.remove(&offset);
        }
        if let Some(end) = phase.end() {
            self.ends.insert((end, offset));
        }
        if phase == Phase::Ready {
            self.ready.insert(offset);
        }
        row.phase = phase;
    }

    /// Finds the row of a handle, which was made since the broker's last start in good order, or before it.
    ///
    /// A power loss may have taken a lease, and the cursor back before its row, while other selectors are ahead of
    /// it: the row will be delivered again, so that an older handle closes nothing. A cursor that the journal does not
    /// know yet may come back before the row as well.
    pub(crate) fn find(&self, offset: QueueOffset, lease: u64, is_of_this_life: bool) -> Found {
        let passed = if is_of_this_life { self.highest() } else { self.lowest() };
        match self.open.get(&offset) {
            Some(row) if row.lease == lease => Found::Current,
            Some(_) => Found::Replaced,
            None if passed.is_some_and(|passed| offset < passed) => Found::Done,
            None => Found::Ahead,
        }
    }

    /// Returns the moment at which the next lease or wait ends.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Ends the leases and waits that are over at `now`, each as `decide` says.
    pub(crate) fn end(&mut self, now: Duration, mut decide: impl FnMut(&Row) -> AtEnd) -> Ended {
        let mut ended = Ended::default();
        while let Some((_, offset)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            let Some(row) = self.open.get(&offset) else {
                self.ends.pop_first();
                continue;
            };
            match decide(row) {
                AtEnd::Until(until) if until > now => {
                    let phase = match row.phase.clone() {
                        Phase::Leased { renewal, .. } => {
                            ended.renewed.push(offset);
                            Phase::Leased { until, renewal }
                        }
                        _ => Phase::Waiting { until },
                    };
                    self.set_phase(offset, phase);
                }
                AtEnd::Wait(until) if until > now => {
                    ended.waiting.push(offset);
                    self.set_phase(offset, Phase::Waiting { until });
                }
                AtEnd::Exhausted => {
                    ended.exhausted.push(offset);
                    self.set_phase(offset, Phase::Moving);
                }
                AtEnd::Done => {
                    ended.done.push(offset);
                    self.remove(offset);
                }
                AtEnd::Until(_) | AtEnd::Wait(_) | AtEnd::Again => {
                    ended.ready = true;
                    self.set_phase(offset, Phase::Ready);
                }
            }
        }
        ended
    }

    /// Returns the rows that are ready, in order.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (QueueOffset, &Row)> {
        self.ready.iter().filter_map(|offset| Some((*offset, self.open.get(offset)?)))
    }

    /// Returns whether a ready row may be for the selector in `slot`.
    pub(crate) fn is_ready_for(&self, slot: u8) -> bool {
        self.ready().any(|(_, row)| row.no & bit(slot) == 0)
    }

    /// Returns whether a ready row may be handed out to the selector in `slot`, which it may not in a FIFO group
    /// while it waits in line.
    pub(crate) fn has_for(&self, slot: u8, is_fifo: bool) -> bool {
        if is_fifo { order::is_ready_for(self, slot) } else { self.is_ready_for(slot) }
    }

    /// Returns whether rows are ready that may have waited in line for one that is done.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// Returns the bit of a slot in `yes` and `no`; none for [`NO_SLOT`].
pub(crate) fn bit(slot: u8) -> u8 {
    1_u8.checked_shl(slot.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn leased(attempt: u32, lease: u64, slot: u8, until: u64) -> Row {
        let phase = Phase::Leased { until: at(until), renewal: None };
        Row { phase, ..Row::new(attempt, lease, slot) }
    }

    fn queue() -> QueueState {
        let mut queue = QueueState::default();
        queue.set_span(0, Span { start: QueueOffset(0), cursor: QueueOffset(10) });
        for offset in [2, 5, 7] {
            queue.insert(QueueOffset(offset), leased(1, offset, 0, 10 + offset));
        }
        queue
    }

    #[test]
    fn leases_end_in_their_order() {
        let mut queue = queue();
        assert_eq!(queue.next_end(), Some(at(12)));
        let ended = queue.end(at(15), |_| AtEnd::Again);
        assert!(ended.ready);
        assert_eq!(queue.ready().map(|(offset, _)| offset.0).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(queue.next_end(), Some(at(17)));
        let ended = queue.end(at(17), |_| AtEnd::Exhausted);
        assert_eq!(ended.exhausted, [QueueOffset(7)]);
        assert_eq!(queue.next_end(), None);
    }

    #[test]
    fn a_renewed_lease_stays_with_its_member() {
        let mut queue = queue();
        let ended = queue.end(at(12), |_| AtEnd::Until(at(60)));
        assert_eq!(ended.renewed, [QueueOffset(2)]);
        assert!(!ended.ready);
        assert_eq!(queue.find(QueueOffset(2), 2, true), Found::Current);
    }

    #[test]
    fn a_lease_number_tells_deliveries_apart() {
        let mut queue = queue();
        assert_eq!(queue.find(QueueOffset(2), 2, true), Found::Current);
        assert_eq!(queue.find(QueueOffset(2), 3, true), Found::Replaced);
        assert_eq!(queue.find(QueueOffset(3), 3, true), Found::Done);
        assert_eq!(queue.find(QueueOffset(10), 3, true), Found::Ahead);
        queue.remove(QueueOffset(2));
        assert_eq!(queue.find(QueueOffset(2), 2, true), Found::Done);
        assert_eq!(queue.next_end(), Some(at(15)));
    }

    #[test]
    fn an_older_handle_closes_no_row_that_a_selector_has_still_to_judge() {
        let mut queue = queue();
        queue.set_span(7, Span { start: QueueOffset(0), cursor: QueueOffset(4) });
        for (offset, found) in [(3, Found::Done), (4, Found::Ahead)] {
            assert_eq!(queue.find(QueueOffset(offset), 9, false), found);
            assert_eq!(queue.find(QueueOffset(offset), 9, true), Found::Done);
        }
        queue.advance(7, QueueOffset(8));
        assert_eq!(queue.find(QueueOffset(4), 9, false), Found::Ahead, "a crash may take the cursor back");
        queue.set_journaled(7, QueueOffset(8));
        assert_eq!(queue.find(QueueOffset(4), 9, false), Found::Done);
    }

    #[test]
    fn retention_and_crashes_cut_what_is_open() {
        let mut queue = queue();
        assert_eq!(queue.retain_from(QueueOffset(6)), Missed { unjudged: 0, open: 2 });
        assert_eq!(queue.span(0), Some(Span { start: QueueOffset(0), cursor: QueueOffset(10) }));
        assert_eq!(queue.retain_from(QueueOffset(20)), Missed { unjudged: 10, open: 1 });
        assert_eq!(queue.highest(), Some(QueueOffset(20)));
        let mut queue = self::queue();
        queue.cut(QueueOffset(5));
        assert_eq!(queue.open().len(), 1);
        assert_eq!(queue.highest(), Some(QueueOffset(5)));
    }

    #[test]
    fn rows_that_another_selector_has_judged_are_not_missed() {
        let mut queue = QueueState::default();
        let span = |start, cursor| Span { start: QueueOffset(start), cursor: QueueOffset(cursor) };
        queue.set_span(0, span(0, 5));
        queue.set_span(1, span(10, 15));
        queue.set_span(2, span(12, 20));
        assert_eq!(queue.retain_from(QueueOffset(4)), Missed::default());
        assert_eq!(queue.retain_from(QueueOffset(7)), Missed { unjudged: 2, open: 0 });
        assert_eq!(queue.retain_from(QueueOffset(30)), Missed { unjudged: 3 + 10, open: 0 });
        assert_eq!(queue.retain_from(QueueOffset(30)), Missed::default(), "once");
    }

    #[test]
    fn a_row_outlives_the_selector_that_chose_it() {
        let mut queue = queue();
        queue.end(at(20), |_| AtEnd::Again);
        assert!(queue.is_ready_for(0));
        queue.forget_slot(0);
        assert!(queue.open().values().all(|row| row.slot == NO_SLOT && row.yes == 0));
        assert!(queue.is_ready_for(1), "nobody has judged it for the new one yet");
        for offset in [2, 5, 7] {
            queue.row_mut(QueueOffset(offset)).unwrap().no |= bit(1);
        }
        assert!(!queue.is_ready_for(1));
    }

    #[test]
    fn only_cursors_that_moved_are_written() {
        let mut queue = queue();
        assert_eq!(queue.take_moved_cursors(), []);
        queue.advance(0, QueueOffset(12));
        queue.advance(0, QueueOffset(11));
        assert_eq!(queue.take_moved_cursors(), [(0, QueueOffset(12))]);
        assert_eq!(queue.take_moved_cursors(), []);
    }
}
