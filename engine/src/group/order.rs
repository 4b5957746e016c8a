//! Order in groups and topics that ask for it: which open rows of a queue may be handed out, and which queue is first.
//!
//! In a FIFO group the rows of one *message group* form a line, and all rows without one form another. A row may
//! be handed out when no earlier row of its line is open, or when all that are go to the same receive before it. So
//! what comes behind a row that is leased, waits, or moves to the dead-letter topic waits for it, and other lines go on.
//!
//! A scan that comes to a row whose line is held opens it without a delivery: it is ready, and stays in line. That a
//! row is in line is not kept anywhere: it is read off the open rows, of which a queue has few.
//!
//! A topic of type PRIORITY has a queue for each level. Receives look at the highest level first, or in turn at each, as
//! the priority factor of the group says. That is a preference and no promise: what is visible when a queue is looked at
//! decides, and one that another receive reads at the moment is passed over.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
};

use weir_columns::{ColumnRef, Rows, System, Value};
use weir_storage::{Block, QueueId, QueueOffset, StorageError};

use super::state::{Phase, QueueState, bit};

/// Whether queues of one receive may be visited at the same time, by several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    Yes,
    /// What comes first is to be taken first.
    No,
}

/// Returns the queues, beginning with the one whose turn it is.
pub(super) fn around(turn: u32, queues: u32) -> impl Iterator<Item = QueueId> {
    let start = turn.checked_rem(queues).unwrap_or(0);
    (start..queues).chain(0..start).map(QueueId)
}

/// Returns `None` if receive number `turn` looks at the highest priority first, as `factor` of a hundred do, spread
/// evenly. Otherwise returns which of the others it is.
pub(super) fn by_priority(turn: u32, factor: u8) -> Option<u32> {
    let strict = |turns: u64| turns * u64::from(factor) / 100;
    let before = strict(turn.into());
    if strict(u64::from(turn) + 1) > before {
        return None;
    }
    u32::try_from(u64::from(turn).saturating_sub(before)).ok()
}

/// The line in which a row stands: a hash of its message group. Two groups with the same hash wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Line(u64);

impl Line {
    fn of(group: Option<&str>) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::new().hash_one(group))
    }

    /// The line of the rows of a lite topic, which stands where others have their message group.
    pub(super) fn of_lite(lite_topic: &str) -> Self {
        Self::of(Some(lite_topic))
    }

    /// The line of a row of which nobody can say where it stands, for its record is lost: its own.
    pub(super) fn of_lost(offset: QueueOffset) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::new().hash_one(offset.0))
    }

    /// Returns the line of a row.
    ///
    /// # Errors
    ///
    /// If its message group cannot be read.
    pub(super) fn of_row(block: &Block, row: usize) -> Result<Self, StorageError> {
        if block.lost().is_some_and(|lost| lost.value(row)) {
            return Ok(Self::of_lost(block.base().plus(row as u64)));
        }
        Ok(match block.value(ColumnRef::System(System::MessageGroup), row)? {
            Some(Value::Text(group) | Value::Str(group)) => Self::of(Some(&group)),
            _ => Self::of(None),
        })
    }
}

/// What a search in order goes by, and what it finds beside the rows that it takes.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The lines that have open rows.
    pub(super) held: HashSet<Line>,
    /// The lines of the rows that were chosen or blocked.
    pub(super) lines: BTreeMap<QueueOffset, Line>,
    /// Rows that match and have to wait in line.
    pub(super) blocked: Vec<QueueOffset>,
    /// Whether at most one row of each line goes to a receive.
    pub(super) one_by_one: bool,
}

/// Returns the lines that have open rows.
pub(super) fn held(known: &QueueState) -> HashSet<Line> {
    known.open().values().filter_map(|row| row.line).collect()
}

/// Returns the open rows of which nobody knows yet in which line they stand.
pub(super) fn unlined(known: &QueueState) -> Vec<QueueOffset> {
    let rows = known.open().iter().filter(|(_, row)| row.line.is_none());
    rows.map(|(offset, _)| *offset).collect()
}

/// Returns up to `want` ready rows for the selector in `slot` that may be handed out together, in order, with the lines
/// in which they stand; `one_by_one` at most one of each line.
pub(super) fn take(
    known: &QueueState,
    slot: u8,
    want: usize,
    one_by_one: bool,
) -> Vec<(QueueOffset, Option<Line>)> {
    let mut taken = Vec::new();
    let mut held = HashSet::new();
    for (offset, row) in known.open() {
        if taken.len() == want {
            break;
        }
        // Where a row stands that nobody has looked up may be before all others.
        let Some(line) = row.line else { break };
        if held.contains(&line) {
            continue;
        }
        if row.phase == Phase::Ready && row.yes & bit(slot) != 0 {
            taken.push((*offset, Some(line)));
            if !one_by_one {
                continue;
            }
        }
        held.insert(line);
    }
    taken
}

/// Returns up to `want` ready rows of some lines that may be handed out together, in order; `one_by_one` at most one of
/// each line. With the lines in which they stand.
pub(super) fn take_lines(
    known: &QueueState,
    lines: &HashSet<Line>,
    want: usize,
    one_by_one: bool,
) -> Vec<(QueueOffset, Line)> {
    let mut taken = Vec::new();
    if !known.has_ready() {
        return taken;
    }
    let mut held = HashSet::new();
    for (offset, row) in known.open() {
        if taken.len() == want {
            break;
        }
        // Where a row stands that nobody has looked up may be before all others.
        let Some(line) = row.line else { break };
        if held.contains(&line) || !lines.contains(&line) {
            continue;
        }
        if row.phase == Phase::Ready {
            taken.push((*offset, line));
            if !one_by_one {
                continue;
            }
        }
        held.insert(line);
    }
    taken
}

/// Returns whether some row may be handed out to the selector in `slot`, as far as is known.
pub(super) fn is_ready_for(known: &QueueState, slot: u8) -> bool {
    if !known.is_ready_for(slot) {
        return false;
    }
    let mut held = HashSet::new();
    for row in known.open().values() {
        let Some(line) = row.line else { return true };
        if held.contains(&line) {
            continue;
        }
        if row.phase == Phase::Ready && row.no & bit(slot) == 0 {
            return true;
        }
        held.insert(line);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::state::Row, *};

    fn queue(rows: &[(u64, &str, Phase)]) -> QueueState {
        let mut queue = QueueState::default();
        for (offset, group, phase) in rows {
            let row =
                Row { line: Some(Line::of(Some(group))), phase: phase.clone(), ..Row::new(1, *offset, 0) };
            queue.insert(QueueOffset(*offset), row);
        }
        queue
    }

    fn taken(queue: &QueueState, want: usize) -> Vec<u64> {
        take(queue, 0, want, false).into_iter().map(|(offset, _)| offset.0).collect()
    }

    #[test]
    fn a_row_waits_for_those_before_it_in_its_line() {
        let leased = Phase::Leased { until: Duration::from_secs(1), renewal: None };
        let waiting = Phase::Waiting { until: Duration::from_secs(1) };
        let queue = queue(&[
            (1, "a", Phase::Ready),
            (2, "b", leased),
            (3, "b", Phase::Ready),
            (4, "a", Phase::Ready),
            (5, "c", waiting),
            (6, "d", Phase::Moving),
            (7, "d", Phase::Ready),
            (8, "c", Phase::Ready),
            (9, "e", Phase::Ready),
        ]);
        assert_eq!(taken(&queue, 9), [1, 4, 9]);
        assert_eq!(taken(&queue, 2), [1, 4]);
        let one_by_one = take(&queue, 0, 9, true);
        assert_eq!(one_by_one.iter().map(|(offset, _)| offset.0).collect::<Vec<_>>(), [1, 9]);
        assert!(is_ready_for(&queue, 0));
        assert_eq!(held(&queue).len(), 5);
    }

    #[test]
    fn nothing_overtakes_what_is_for_another_selector_or_not_looked_up() {
        let mut queue = queue(&[(1, "a", Phase::Ready), (2, "a", Phase::Ready), (3, "b", Phase::Ready)]);
        let row = queue.row_mut(QueueOffset(1)).unwrap();
        (row.yes, row.no) = (0, bit(0));
        assert_eq!(taken(&queue, 9), [3]);
        queue.remove(QueueOffset(3));
        assert!(!is_ready_for(&queue, 0));
        queue.row_mut(QueueOffset(1)).unwrap().line = None;
        assert!(is_ready_for(&queue, 0), "it has to be looked up");
        assert!(taken(&queue, 9).is_empty());
        assert_eq!(unlined(&queue), [QueueOffset(1)]);
    }

    #[test]
    fn as_many_receives_as_the_factor_says_begin_at_the_top_and_the_others_at_each_queue_in_turn() {
        for (factor, strict) in [(0, 0), (1, 10), (33, 330), (50, 500), (99, 990), (100, 1000)] {
            let turns: Vec<_> = (0..1000).map(|turn| by_priority(turn, factor)).collect();
            assert_eq!(turns.iter().filter(|turn| turn.is_none()).count(), strict, "{factor}");
            let others: Vec<u32> = turns.into_iter().flatten().collect();
            assert_eq!(others, (0..1000 - strict as u32).collect::<Vec<_>>(), "{factor}");
        }
        let near_the_end = (u32::MAX - 99..=u32::MAX).filter(|turn| by_priority(*turn, 40).is_none());
        assert_eq!(near_the_end.count(), 40);
        let queues = |turn, count| around(turn, count).map(|queue| queue.0).collect::<Vec<_>>();
        assert_eq!((queues(0, 3), queues(5, 3), queues(7, 1)), (vec![0, 1, 2], vec![2, 0, 1], vec![0]));
        assert!(queues(1, 0).is_empty());
    }

    #[test]
    fn messages_without_a_group_stand_in_one_line() {
        assert_eq!(Line::of(None), Line::of(None));
        assert_ne!(Line::of(None), Line::of(Some("")));
        assert_ne!(Line::of_lost(QueueOffset(1)), Line::of_lost(QueueOffset(2)));
    }
}
