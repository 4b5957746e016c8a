//! Which pending rows are done: released, recalled, rolled back or given up. Layout: `docs/format.md`, "Pending messages".

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::{
    journal::DoneEntry,
    message::PendingRow,
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// Rows that share a bitmap.
const CHUNK_ROWS: u64 = 4096;
const CHUNK_WORDS: usize = (CHUNK_ROWS / 64) as usize;
/// Rows of one entry of a snapshot, so that its bits take no more than a mebibyte.
pub(crate) const STRETCH_ROWS_MAX: u64 = 8 << 20;

/// Rows of one queue: one bit each, and next to nothing where all are in.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// Those below are in.
    first: QueueOffset,
    chunks: BTreeMap<u64, Chunk>,
}

#[derive(Clone, Debug)]
enum Chunk {
    All,
    Some { count: u32, bits: Box<[u64; CHUNK_WORDS]> },
}

impl Chunk {
    fn insert(&mut self, row: u64) {
        let Self::Some { count, bits } = self else { return };
        let Some(word) = bits.get_mut((row / 64) as usize) else { return };
        let bit = 1 << (row % 64);
        *count += u32::from(*word & bit == 0);
        *word |= bit;
        if u64::from(*count) == CHUNK_ROWS {
            *self = Self::All;
        }
    }

    fn contains(&self, row: u64) -> bool {
        match self {
            Self::All => true,
            Self::Some { bits, .. } => {
                bits.get((row / 64) as usize).is_some_and(|word| word >> (row % 64) & 1 == 1)
            }
        }
    }
}

impl Rows {
    fn insert(&mut self, offset: QueueOffset) {
        let empty = || Chunk::Some { count: 0, bits: Box::new([0; CHUNK_WORDS]) };
        if offset >= self.first {
            self.chunks.entry(offset.0 / CHUNK_ROWS).or_insert_with(empty).insert(offset.0 % CHUNK_ROWS);
        }
    }

    fn contains(&self, offset: QueueOffset) -> bool {
        let chunk = self.chunks.get(&(offset.0 / CHUNK_ROWS));
        offset < self.first || chunk.is_some_and(|chunk| chunk.contains(offset.0 % CHUNK_ROWS))
    }

    /// Returns the first row from `from` on that is not in.
    fn first_open(&self, from: QueueOffset) -> QueueOffset {
        let mut at = from.max(self.first).0;
        while let Some(chunk) = self.chunks.get(&(at / CHUNK_ROWS)) {
            let base = at - at % CHUNK_ROWS;
            let open = match chunk {
                Chunk::All => None,
                Chunk::Some { .. } => (at % CHUNK_ROWS..CHUNK_ROWS).find(|row| !chunk.contains(*row)),
            };
            if let Some(row) = open {
                return QueueOffset(base + row);
            }
            at = base + CHUNK_ROWS;
        }
        QueueOffset(at)
    }

    /// Forgets rows below `first`, as far as no other row shares their bitmap.
    fn forget_before(&mut self, first: QueueOffset) {
        self.first = self.first.max(first);
        self.chunks = self.chunks.split_off(&(self.first.0 / CHUNK_ROWS));
    }

    /// Gives the rows, in stretches, to `each`: the first, how many, and their bits; none if all are in.
    fn stretches(&self, each: &mut dyn FnMut(QueueOffset, u32, Vec<u8>)) {
        let mut chunks = self.chunks.iter().peekable();
        while let Some((number, chunk)) = chunks.next() {
            let mut rows = CHUNK_ROWS;
            let mut bits = Vec::new();
            match chunk {
                Chunk::All => {
                    let mut goes_on = |rows: u64| {
                        rows < STRETCH_ROWS_MAX
                            && chunks
                                .next_if(|(next, chunk)| {
                                    **next == number + rows / CHUNK_ROWS && matches!(chunk, Chunk::All)
                                })
                                .is_some()
                    };
                    while goes_on(rows) {
                        rows += CHUNK_ROWS;
                    }
                }
                Chunk::Some { bits: words, .. } => {
                    bits = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                }
            }
            each(QueueOffset(number * CHUNK_ROWS), u32::try_from(rows).unwrap_or(u32::MAX), bits);
        }
    }
}

/// The pending rows that are done, and how safe that is.
///
/// # Invariants
///
/// - What is in `rows` survives power loss, or will once the entries do that have been handed to the journal: a snapshot
///   of it may replace all entries before.
/// - A release that is written and not durable is in `releasing` alone.
/// - `unsynced` has the position of each frame with releases of which the journal need not tell durably yet: a checkpoint
///   stays before the first.
#[derive(Debug, Default)]
pub(crate) struct Done {
    rows: HashMap<(TopicId, QueueId), Rows>,
    releasing: HashSet<PendingRow>,
    unsynced: VecDeque<LogPosition>,
    /// The entries for the frames up to this one have been handed to the journal.
    queued: Option<LogPosition>,
    /// These have been written.
    written: Option<LogPosition>,
}

impl Done {
    /// Returns whether a row is done, or is about to be.
    pub(crate) fn contains(&self, row: &PendingRow) -> bool {
        let of_queue = self.rows.get(&(row.topic, row.queue));
        of_queue.is_some_and(|rows| rows.contains(row.offset)) || self.releasing.contains(row)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn insert(&mut self, row: PendingRow) {
        self.rows.entry((row.topic, row.queue)).or_default().insert(row.offset);
    }

    /// Takes over what an entry of the journal says.
    pub(crate) fn apply(&mut self, entry: &DoneEntry) {
        let rows = self.rows.entry(entry.place()).or_default();
        match entry {
            DoneEntry::Rows { offsets, .. } => offsets.iter().for_each(|offset| rows.insert(*offset)),
            DoneEntry::Stretch { first, rows: count, bits, .. } => {
                let is_set = |row: u64| {
                    let byte = usize::try_from(row / 8).ok().and_then(|at| bits.get(at));
                    bits.is_empty() || byte.is_some_and(|byte| byte >> (row % 8) & 1 == 1)
                };
                (0..u64::from(*count))
                    .filter(|row| is_set(*row))
                    .for_each(|row| rows.insert(first.plus(row)));
            }
        }
    }

    /// Takes over what `other` has of queues, as far as it lies below their ends.
    pub(crate) fn merge(
        &mut self,
        other: &Self,
        end_of: &dyn Fn(TopicId, QueueId) -> Option<QueueOffset>,
    ) -> Vec<DoneEntry> {
        let mut entries = other.snapshot();
        entries.retain_mut(|entry| {
            let (topic, queue) = entry.place();
            end_of(topic, queue).is_some_and(|end| entry.cut(end, &mut || {}))
        });
        entries.iter().for_each(|entry| self.apply(entry));
        entries
    }

    /// Returns entries that say everything.
    pub(crate) fn snapshot(&self) -> Vec<DoneEntry> {
        let mut entries = Vec::new();
        for ((topic, queue), rows) in &self.rows {
            rows.stretches(&mut |first, rows, bits| {
                entries.push(DoneEntry::Stretch { topic: *topic, queue: *queue, first, rows, bits });
            });
        }
        entries
    }

    /// Returns the first row of a queue from `from` on that is not done, or not safely so.
    pub(crate) fn first_open(&self, topic: TopicId, queue: QueueId, from: QueueOffset) -> QueueOffset {
        self.rows.get(&(topic, queue)).map_or(from, |rows| rows.first_open(from))
    }

    /// Notes where a queue of the pending topic begins: what lies below is done.
    pub(crate) fn begin(&mut self, topic: TopicId, queue: QueueId, first: QueueOffset) {
        self.rows.entry((topic, queue)).or_default().forget_before(first);
    }

    /// Forgets what lies below the first row of a queue, if rows of it are done.
    pub(crate) fn forget_before(&mut self, topic: TopicId, queue: QueueId, first: QueueOffset) {
        if let Some(rows) = self.rows.get_mut(&(topic, queue)) {
            rows.forget_before(first);
        }
    }

    /// Notes the releases of a frame that has been written.
    pub(crate) fn releases_written(
        &mut self,
        frame: LogPosition,
        rows: impl IntoIterator<Item = PendingRow>,
    ) {
        self.releasing.extend(rows);
        self.unsynced.push_back(frame);
    }

    /// Notes releases of a frame that is durable, and of which entries have been handed to the journal.
    pub(crate) fn releases_durable(&mut self, frame: LogPosition, rows: &[PendingRow]) {
        for row in rows {
            self.releasing.remove(row);
            self.insert(*row);
        }
        self.queued = self.queued.max(Some(frame));
    }

    /// Notes releases that a start has met from `from` on, of which the journal did not tell.
    pub(crate) fn releases_met(&mut self, from: LogPosition) {
        self.unsynced.push_back(from);
        self.queued = Some(from);
    }

    /// Returns how far entries have been handed to the journal.
    pub(crate) const fn queued(&self) -> Option<LogPosition> {
        self.queued
    }

    /// Notes that the entries up to here have been written.
    pub(crate) fn entries_written(&mut self, queued: Option<LogPosition>) {
        self.written = self.written.max(queued);
    }

    /// Returns whether entries have been written that a sync would make durable, and up to where.
    pub(crate) fn wants_sync(&self) -> Option<LogPosition> {
        let written = self.written?;
        self.unsynced.front().filter(|first| **first <= written).map(|_| written)
    }

    /// Notes that the entries up to here are durable.
    pub(crate) fn entries_durable(&mut self, written: LogPosition) {
        while self.unsynced.pop_front_if(|first| *first <= written).is_some() {}
    }

    /// Returns the frame that no checkpoint may pass.
    pub(crate) fn held_at(&self) -> Option<LogPosition> {
        self.unsynced.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn row(offset: u64) -> PendingRow {
        PendingRow { topic: TopicId(1), queue: QueueId(2), offset: QueueOffset(offset) }
    }

    proptest! {
        #[test]
        fn a_snapshot_says_what_is_done_and_nothing_else(
            some in proptest::collection::btree_set(0_u64..20_000, 0..300),
            whole in proptest::collection::vec((0_u64..6, 1_u64..4), 0..3),
            from in 0_u64..21_000,
        ) {
            let whole = whole.iter().flat_map(|(first, chunks)| {
                first * CHUNK_ROWS..(first + chunks) * CHUNK_ROWS
            });
            let expected: BTreeSet<u64> = some.into_iter().chain(whole).collect();
            let mut done = Done::default();
            expected.iter().for_each(|offset| done.insert(row(*offset)));
            let mut again = Done::default();
            done.snapshot().iter().for_each(|entry| again.apply(entry));
            for done in [&done, &again] {
                for offset in 0..40_000 {
                    prop_assert_eq!(done.contains(&row(offset)), expected.contains(&offset));
                }
                let open = (from..).find(|offset| !expected.contains(offset)).unwrap();
                prop_assert_eq!(done.first_open(TopicId(1), QueueId(2), QueueOffset(from)), QueueOffset(open));
            }
            done.forget_before(TopicId(1), QueueId(2), QueueOffset(from));
            for offset in from..40_000 {
                prop_assert_eq!(done.contains(&row(offset)), expected.contains(&offset));
            }
            if from > 0 && !expected.is_empty() {
                prop_assert!(done.contains(&row(from - 1)), "what lies below the first row is done");
            }
        }
    }

    #[test]
    fn a_checkpoint_is_held_until_the_entries_of_all_releases_before_it_are_durable() {
        let mut done = Done::default();
        done.releases_written(LogPosition(100), [row(1)]);
        done.releases_written(LogPosition(200), [row(2)]);
        assert!(done.contains(&row(1)) && done.snapshot().is_empty(), "nothing is durable yet");
        assert_eq!(done.first_open(TopicId(1), QueueId(2), QueueOffset(1)), QueueOffset(1));
        done.releases_durable(LogPosition(100), &[row(1)]);
        assert_eq!((done.queued(), done.wants_sync()), (Some(LogPosition(100)), None));
        done.entries_written(done.queued());
        assert_eq!(done.held_at(), Some(LogPosition(100)));
        assert_eq!(done.wants_sync(), Some(LogPosition(100)));
        done.entries_durable(LogPosition(100));
        assert_eq!(done.held_at(), Some(LogPosition(200)));
        assert_eq!(done.wants_sync(), None);
        assert_eq!(done.first_open(TopicId(1), QueueId(2), QueueOffset(1)), QueueOffset(2));
    }

    #[test]
    fn releases_that_a_start_has_met_hold_the_first_checkpoint_wherever_they_lie() {
        for from in [0, 4096] {
            let mut done = Done::default();
            done.releases_met(LogPosition(from));
            assert_eq!(done.wants_sync(), None, "their entries are not written yet");
            assert_eq!(done.held_at(), Some(LogPosition(from)));
            done.entries_written(done.queued());
            assert_eq!(done.wants_sync(), Some(LogPosition(from)));
        }
    }
}
