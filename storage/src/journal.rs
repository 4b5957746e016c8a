//! The group journal: what groups have leased and acknowledged.
//!
//! Storage keeps the entries in order, cuts those that name offsets which a crash removed, and replays
//! them at the next start. What they mean is the engine's affair.

use std::collections::HashMap;

use crate::{
    error::StorageError,
    format::{
        frame::FRAME_HEADER_LEN,
        journal::{Stored, encode_cut, encode_done, encode_entry},
    },
    limits::FRAME_BYTES_TARGET,
    message::PendingRow,
    offset::{GroupId, QueueId, QueueOffset, TopicId},
};

/// A frame takes no more entries of one call behind this. A snapshot has many; what must not be torn apart is short.
const CALL_BYTES_TARGET: u64 = 4 * FRAME_BYTES_TARGET;

/// Rows of one entry that says that they are done.
const DONE_ROWS_MAX: usize = 8192;

/// How long a caller of the journal waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: answered at once.
    None,
    /// Until the entries survive `kill -9`.
    Written,
    /// Until they survive power loss.
    Durable,
}

/// What a selector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SelectorKind {
    /// Every row.
    All = 0,
    /// A tag expression.
    Tags = 1,
    /// A SQL text.
    Sql = 2,
}

/// A row that a group has been given, or that waits to be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRow {
    /// The row.
    pub offset: QueueOffset,
    /// The delivery attempt, counted from 1.
    pub attempt: u16,
    /// The lease that it is, or was last, given under.
    pub lease: u64,
    /// When the lease or the wait ends; wall time in milliseconds.
    pub until_ms: i64,
    /// The selector that chose it.
    pub slot: u8,
    /// Whether it is leased; else it waits.
    pub leased: bool,
}

/// A row in a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// The row.
    pub offset: QueueOffset,
    /// The delivery attempt, counted from 1.
    pub attempt: u16,
    /// The selector that chose it.
    pub slot: u8,
}

/// One thing that the journal remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields that recur in every variant are described at the enum's variants"
)]
pub enum JournalEntry {
    /// Everything about one group on one queue; replaces what came before. Written when the journal rotates.
    Queue {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        /// Of each selector slot: where it began, and how far it has judged the queue.
        cursors: Vec<(u8, QueueOffset, QueueOffset)>,
        open: Vec<OpenRow>,
    },
    /// A selector in a slot of a group, with the offset at which it begins in each queue.
    Selector {
        group: GroupId,
        topic: TopicId,
        slot: u8,
        text: String,
        /// The number of the dialect, which the engine gives.
        dialect: u8,
        kind: SelectorKind,
        starts: Vec<(QueueId, QueueOffset)>,
    },
    /// A slot becomes free.
    DropSelector { group: GroupId, topic: TopicId, slot: u8 },
    /// How far a selector has judged a queue.
    Cursor { group: GroupId, topic: TopicId, queue: QueueId, slot: u8, cursor: QueueOffset },
    /// Rows were given out.
    Lease {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        rows: Vec<LeaseRow>,
        lease: u64,
        /// When the lease ends; wall time in milliseconds.
        until_ms: i64,
        /// How long it was made for, in milliseconds.
        length_ms: u32,
        client: String,
        attempt_id: Option<String>,
    },
    /// Rows are done with.
    Ack { group: GroupId, topic: TopicId, queue: QueueId, offsets: Vec<QueueOffset> },
    /// A row is to be given again at another time, under a new lease number.
    Change {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        lease: u64,
        visible_at_ms: i64,
    },
    /// A row went to the dead-letter topic.
    DeadLetter { group: GroupId, topic: TopicId, queue: QueueId, offset: QueueOffset },
    /// Where a group stands in a lite topic: of its rows, those below `next` are open or done.
    LitePosition { group: GroupId, topic: TopicId, queue: QueueId, lite_topic: String, next: QueueOffset },
    /// A group stands nowhere in a lite topic any more.
    LiteForgotten { group: GroupId, topic: TopicId, lite_topic: String },
    /// All open rows are forgotten, and all cursors stand at `offset`.
    Reset { group: GroupId, topic: TopicId, queue: QueueId, offset: QueueOffset },
    /// The group is gone.
    DropGroup { group: GroupId },
    /// The topic is gone.
    DropTopic { topic: TopicId },
}

/// Pending rows that are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DoneEntry {
    /// These.
    Rows { topic: TopicId, queue: QueueId, offsets: Vec<QueueOffset> },
    /// Those of `rows` from `first` on whose bits are set, the lowest of a byte first; all without bits.
    Stretch { topic: TopicId, queue: QueueId, first: QueueOffset, rows: u32, bits: Vec<u8> },
}

impl DoneEntry {
    pub(crate) const fn place(&self) -> (TopicId, QueueId) {
        match self {
            Self::Rows { topic, queue, .. } | Self::Stretch { topic, queue, .. } => (*topic, *queue),
        }
    }

    /// Returns the offset behind the last row that it may name.
    fn end(&self) -> Option<QueueOffset> {
        match self {
            Self::Rows { offsets, .. } => offsets.iter().map(|offset| offset.plus(1)).max(),
            Self::Stretch { first, rows, bits, .. } => {
                let last = (0..u64::from(*rows)).rev().find(|row| {
                    let byte = usize::try_from(row / 8).ok().and_then(|at| bits.get(at));
                    bits.is_empty() || byte.is_some_and(|byte| byte >> (row % 8) & 1 == 1)
                });
                last.map(|last| first.plus(last + 1))
            }
        }
    }

    /// Drops rows at or above the end of their queue, and calls `note` if there were any. Returns whether any are left.
    pub(crate) fn cut(&mut self, end: QueueOffset, note: &mut dyn FnMut()) -> bool {
        if self.end().is_some_and(|named| named > end) {
            note();
        }
        match self {
            Self::Rows { offsets, .. } => {
                offsets.retain(|offset| *offset < end);
                !offsets.is_empty()
            }
            Self::Stretch { first, rows, bits, .. } => {
                let below = end.since(*first).and_then(|below| u32::try_from(below).ok());
                *rows = if end < *first { 0 } else { below.map_or(*rows, |below| below.min(*rows)) };
                // As many as there are rows, or it could not be read again.
                bits.truncate(rows.div_ceil(8) as usize);
                *rows > 0
            }
        }
    }
}

/// Told what became of entries. It must not block.
pub type JournalDone = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// Entries that wait to be written, in order.
#[derive(Default)]
pub(crate) struct JournalBuffer {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) waiting: Vec<(Wait, JournalDone)>,
    /// The engine has written everything that a rotation needs.
    pub(crate) rotated: bool,
}

/// The payload of one frame, behind room for its header.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) frame: Vec<u8>,
    pub(crate) entries: u32,
}

impl JournalBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.waiting.is_empty() && !self.rotated
    }

    pub(crate) fn push(&mut self, entries: &[JournalEntry], wait: Wait, done: Option<JournalDone>) {
        // What is said together is written together, in one frame, as far as it is no snapshot: a crash between two
        // frames would keep half of it.
        let mut target = FRAME_BYTES_TARGET;
        for entry in entries {
            self.encode(target, |out| encode_entry(out, entry));
            target = CALL_BYTES_TARGET;
        }
        self.waiting.extend(done.map(|done| (wait, done)));
    }

    /// Says that rows are done.
    pub(crate) fn push_done(&mut self, rows: &[PendingRow]) {
        for of_queue in rows.chunk_by(|a, b| (a.topic, a.queue) == (b.topic, b.queue)) {
            let PendingRow { topic, queue, .. } = of_queue[0];
            for some in of_queue.chunks(DONE_ROWS_MAX) {
                let offsets = some.iter().map(|row| row.offset).collect();
                self.push_done_entry(&DoneEntry::Rows { topic, queue, offsets });
            }
        }
    }

    pub(crate) fn push_done_entry(&mut self, entry: &DoneEntry) {
        self.encode(FRAME_BYTES_TARGET, |out| encode_done(out, entry));
    }

    pub(crate) fn push_cut(&mut self, cut: &QueueCut) {
        self.encode(FRAME_BYTES_TARGET, |out| encode_cut(out, cut.topic, cut.queue, cut.end));
    }

    /// Adds an entry to the last frame, or begins another one behind `target` bytes.
    fn encode(&mut self, target: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        let chunk = match self.chunks.last_mut() {
            Some(chunk) if (chunk.frame.len() as u64) < target => chunk,
            _ => {
                self.chunks.push(Chunk { frame: vec![0; FRAME_HEADER_LEN], entries: 0 });
                self.chunks.last_mut().expect("it was just pushed")
            }
        };
        encode(&mut chunk.frame);
        chunk.entries += 1;
    }

    /// Returns whether somebody waits for more than the page cache.
    pub(crate) fn must_sync(&self) -> bool {
        self.rotated || self.waiting.iter().any(|(wait, _)| *wait == Wait::Durable)
    }
}

/// A queue that a start has found shorter than the journal thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueCut {
    pub(crate) topic: TopicId,
    pub(crate) queue: QueueId,
    pub(crate) end: QueueOffset,
}

/// Cuts from replayed entries what names rows that are gone: offsets at or above the end of their queue, as
/// it is now or as it was at a start after the entry was written. Entries of unknown topics are dropped.
///
/// Also returns the queues for which the present end made a difference: the journal must remember those
/// ends, since the queues are about to grow again.
pub(crate) fn cut_entries(
    stored: Vec<Stored>,
    end_of: &dyn Fn(TopicId, QueueId) -> Option<QueueOffset>,
) -> CutJournal {
    let mut cutter = Cutter { end_of, stored: HashMap::new(), made: HashMap::new() };
    let mut kept = Vec::with_capacity(stored.len());
    let mut done = Vec::new();
    // Backwards, because a cut concerns the entries before it.
    for stored in stored.into_iter().rev() {
        match stored {
            Stored::Cut { topic, queue, end } => {
                let known = cutter.stored.entry((topic, queue)).or_insert(end);
                *known = end.min(*known);
            }
            Stored::Entry(entry) => kept.extend(cutter.cut(entry)),
            Stored::Done(entry) => done.extend(cutter.cut_done(entry)),
        }
    }
    kept.reverse();
    let mut made: Vec<QueueCut> =
        cutter.made.into_iter().map(|((topic, queue), end)| QueueCut { topic, queue, end }).collect();
    made.sort_unstable_by_key(|cut| (cut.topic, cut.queue));
    CutJournal { entries: kept, cuts: made, done }
}

/// What a start goes on with of the journal.
#[derive(Debug)]
pub(crate) struct CutJournal {
    pub(crate) entries: Vec<JournalEntry>,
    pub(crate) cuts: Vec<QueueCut>,
    /// In no particular order.
    pub(crate) done: Vec<DoneEntry>,
}

/// How far queues went, as far as the journal knows.
pub(crate) type NamedEnds = HashMap<(TopicId, QueueId), QueueOffset>;

/// Notes how far each queue went, as far as rows are named that groups were given, judged or acknowledged. A queue
/// that a start has cut went as far as it found.
pub(crate) fn note_named_ends(ends: &mut NamedEnds, stored: &[Stored]) {
    for stored in stored {
        let entry = match stored {
            Stored::Cut { topic, queue, end } => {
                if let Some(known) = ends.get_mut(&(*topic, *queue)) {
                    *known = end.min(known).to_owned();
                }
                continue;
            }
            Stored::Done(entry) => {
                if let Some(end) = entry.end() {
                    let known = ends.entry(entry.place()).or_default();
                    *known = end.max(*known);
                }
                continue;
            }
            Stored::Entry(entry) => entry,
        };
        let (place, end) = match entry {
            JournalEntry::Queue { topic, queue, cursors, open, .. } => {
                let cursors = cursors.iter().map(|(_, _, cursor)| *cursor);
                ((*topic, *queue), cursors.chain(open.iter().map(|row| row.offset.plus(1))).max())
            }
            JournalEntry::Cursor { topic, queue, cursor, .. } => ((*topic, *queue), Some(*cursor)),
            JournalEntry::Lease { topic, queue, rows, .. } => {
                ((*topic, *queue), rows.iter().map(|row| row.offset.plus(1)).max())
            }
            JournalEntry::Ack { topic, queue, offsets, .. } => {
                ((*topic, *queue), offsets.iter().map(|offset| offset.plus(1)).max())
            }
            JournalEntry::Change { topic, queue, offset, .. }
            | JournalEntry::DeadLetter { topic, queue, offset, .. } => {
                ((*topic, *queue), Some(offset.plus(1)))
            }
            JournalEntry::DropTopic { topic } => {
                ends.retain(|(of, _), _| of != topic);
                continue;
            }
            // Where a selector begins, a group is set back to, or stands in a lite topic, names no row.
            JournalEntry::Selector { .. }
            | JournalEntry::Reset { .. }
            | JournalEntry::LitePosition { .. }
            | JournalEntry::LiteForgotten { .. }
            | JournalEntry::DropSelector { .. }
            | JournalEntry::DropGroup { .. } => continue,
        };
        if let Some(end) = end {
            let known = ends.entry(place).or_default();
            *known = end.max(*known);
        }
    }
}

struct Cutter<'a> {
    end_of: &'a dyn Fn(TopicId, QueueId) -> Option<QueueOffset>,
    /// Ends that a start later than the entry has found.
    stored: HashMap<(TopicId, QueueId), QueueOffset>,
    made: HashMap<(TopicId, QueueId), QueueOffset>,
}

/// Where offsets must lie to be kept.
struct Bound<'a> {
    end: QueueOffset,
    /// Set if the bound is that of now.
    now: Option<&'a mut HashMap<(TopicId, QueueId), QueueOffset>>,
    place: (TopicId, QueueId),
}

impl Bound<'_> {
    /// Returns whether the row is still there.
    fn keeps(&mut self, row: QueueOffset) -> bool {
        if row < self.end {
            return true;
        }
        self.note();
        false
    }

    /// Lowers a cursor that stands behind the end.
    fn clip(&mut self, cursor: &mut QueueOffset) {
        if *cursor > self.end {
            self.note();
            *cursor = self.end;
        }
    }

    fn note(&mut self) {
        if let Some(made) = &mut self.now {
            made.insert(self.place, self.end);
        }
    }
}

impl Cutter<'_> {
    fn bound(&mut self, topic: TopicId, queue: QueueId) -> Option<Bound<'_>> {
        let place = (topic, queue);
        let now = (self.end_of)(topic, queue)?;
        Some(match self.stored.get(&place) {
            Some(stored) if *stored <= now => Bound { end: *stored, now: None, place },
            _ => Bound { end: now, now: Some(&mut self.made), place },
        })
    }

    fn cut_done(&mut self, mut entry: DoneEntry) -> Option<DoneEntry> {
        let (topic, queue) = entry.place();
        let mut bound = self.bound(topic, queue)?;
        let end = bound.end;
        entry.cut(end, &mut || bound.note()).then_some(entry)
    }

    fn cut(&mut self, mut entry: JournalEntry) -> Option<JournalEntry> {
        match &mut entry {
            JournalEntry::Queue { topic, queue, cursors, open, .. } => {
                let mut bound = self.bound(*topic, *queue)?;
                for (_, start, cursor) in cursors {
                    bound.clip(start);
                    bound.clip(cursor);
                }
                open.retain(|row| bound.keeps(row.offset));
            }
            JournalEntry::Selector { topic, starts, .. } => {
                for (queue, start) in starts {
                    self.bound(*topic, *queue)?.clip(start);
                }
            }
            JournalEntry::Cursor { topic, queue, cursor, .. } => self.bound(*topic, *queue)?.clip(cursor),
            JournalEntry::Reset { topic, queue, offset, .. }
            | JournalEntry::LitePosition { topic, queue, next: offset, .. } => {
                self.bound(*topic, *queue)?.clip(offset);
            }
            JournalEntry::Lease { topic, queue, rows, .. } => {
                let mut bound = self.bound(*topic, *queue)?;
                rows.retain(|row| bound.keeps(row.offset));
                if rows.is_empty() {
                    return None;
                }
            }
            JournalEntry::Ack { topic, queue, offsets, .. } => {
                let mut bound = self.bound(*topic, *queue)?;
                offsets.retain(|offset| bound.keeps(*offset));
                if offsets.is_empty() {
                    return None;
                }
            }
            JournalEntry::Change { topic, queue, offset, .. }
            | JournalEntry::DeadLetter { topic, queue, offset, .. } => {
                if !self.bound(*topic, *queue)?.keeps(*offset) {
                    return None;
                }
            }
            JournalEntry::DropSelector { .. }
            | JournalEntry::LiteForgotten { .. }
            | JournalEntry::DropGroup { .. }
            | JournalEntry::DropTopic { .. } => {}
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(offsets: &[u64]) -> JournalEntry {
        let offsets = offsets.iter().copied().map(QueueOffset).collect();
        JournalEntry::Ack { group: GroupId(1), topic: TopicId(1), queue: QueueId(0), offsets }
    }

    fn cursor(cursor: u64) -> JournalEntry {
        let (group, topic, queue) = (GroupId(1), TopicId(1), QueueId(0));
        JournalEntry::Cursor { group, topic, queue, slot: 0, cursor: QueueOffset(cursor) }
    }

    #[test]
    fn entries_are_cut_by_every_end_that_a_later_start_found() {
        let cut = |end| Stored::Cut { topic: TopicId(1), queue: QueueId(0), end: QueueOffset(end) };
        let stored = vec![
            Stored::Entry(ack(&[1, 5, 9])),
            Stored::Entry(cursor(10)),
            cut(5),
            Stored::Entry(ack(&[5, 7, 8])),
            Stored::Entry(cursor(8)),
        ];
        let CutJournal { entries, cuts: made, .. } = cut_entries(stored, &|_, _| Some(QueueOffset(8)));
        assert_eq!(entries, [ack(&[1]), cursor(5), ack(&[5, 7]), cursor(8)]);
        let end = QueueOffset(8);
        assert_eq!(made, [QueueCut { topic: TopicId(1), queue: QueueId(0), end }]);
    }

    #[test]
    fn rows_that_are_gone_are_not_done() {
        let (topic, queue, first) = (TopicId(1), QueueId(0), QueueOffset(2));
        let rows = |offsets: &[u64]| DoneEntry::Rows {
            topic,
            queue,
            offsets: offsets.iter().copied().map(QueueOffset).collect(),
        };
        let stretch = |rows: u32| {
            let bits = vec![0xff; rows.div_ceil(8) as usize];
            DoneEntry::Stretch { topic, queue, first, rows, bits }
        };
        let stored = [rows(&[1, 7]), stretch(16), rows(&[9])].map(Stored::Done).to_vec();
        let CutJournal { cuts, done, .. } = cut_entries(stored, &|_, _| Some(QueueOffset(5)));
        assert_eq!(done, [stretch(3), rows(&[1])]);
        let mut written = Vec::new();
        done.iter().for_each(|entry| encode_done(&mut written, entry));
        let again = crate::format::journal::decode_entries(&written).unwrap();
        let expected: Vec<Stored> = done.into_iter().map(Stored::Done).collect();
        assert_eq!(again, expected, "what was cut is read again");
        assert_eq!(cuts, [QueueCut { topic, queue, end: QueueOffset(5) }]);
        let mut ends = NamedEnds::new();
        note_named_ends(&mut ends, &[rows(&[4]), stretch(9)].map(Stored::Done));
        assert_eq!(ends[&(topic, queue)], QueueOffset(11));
    }

    #[test]
    fn entries_of_a_topic_that_is_gone_are_dropped() {
        let stored =
            vec![Stored::Entry(ack(&[1])), Stored::Entry(JournalEntry::DropGroup { group: GroupId(1) })];
        let CutJournal { entries, cuts: made, .. } = cut_entries(stored, &|_, _| None);
        assert_eq!(entries, [JournalEntry::DropGroup { group: GroupId(1) }]);
        assert!(made.is_empty());
    }
}
