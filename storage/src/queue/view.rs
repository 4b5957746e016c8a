//! What readers see of a queue: a snapshot that nobody changes.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use crate::{
    catalogue::DurabilityClass,
    error::StorageError,
    offset::{Epoch, LogPosition, QueueOffset},
    queue::{block::Block, segment::Segment},
};

/// A queue at one moment. It stays readable and the same however long it is held.
#[derive(Clone, Debug)]
pub struct QueueView(Arc<Snapshot>);

/// What a [`QueueView`] shows.
///
/// # Invariants
///
/// - The ranges of `segments`, then of `runs`, follow each other without gaps, and hold `range`.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) range: Range<QueueOffset>,
    pub(crate) epoch: Epoch,
    pub(crate) class: DurabilityClass,
    pub(crate) segments: Arc<[Arc<Segment>]>,
    pub(crate) runs: Arc<[Arc<Block>]>,
}

/// What the rows of a block take in the log.
#[derive(Clone, Debug)]
pub(crate) struct LogPart {
    pub(crate) bytes: u64,
    /// Where their records begin: the first and the last.
    pub(crate) positions: RangeInclusive<LogPosition>,
}

impl LogPart {
    /// Narrows what all `rows` of a block take to those from the begin of `range` on, if some are in it.
    fn of_rows(
        self,
        rows: &Range<QueueOffset>,
        range: &Range<QueueOffset>,
        block: impl FnOnce() -> Result<Arc<Block>, StorageError>,
    ) -> Option<Self> {
        if rows.end <= range.start || range.end <= rows.start {
            return None;
        }
        if range.start <= rows.start {
            return Some(self);
        }
        let inside = range.start..rows.end;
        // Rows may be far apart in the log: those that remain need not lie where the others did.
        let exact = block().ok().and_then(|block| Self::in_block(&block, &inside));
        Some(exact.unwrap_or_else(|| Self { bytes: share(self.bytes, rows, &inside), ..self }))
    }

    fn in_block(block: &Block, rows: &Range<QueueOffset>) -> Option<Self> {
        let row = |offset: QueueOffset| usize::try_from(offset.since(block.base())?).ok();
        let positions = block.positions().ok()?;
        let positions = positions.values().get(row(rows.start)?..row(rows.end)?)?;
        let ends = LogPosition(*positions.first()?)..=LogPosition(*positions.last()?);
        Some(Self { bytes: bytes_of_rows(block, rows).ok()?, positions: ends })
    }
}

/// What holds a row.
#[derive(Clone, Debug)]
pub enum Part {
    /// A block of a file, by its number in the segment.
    Segment(Arc<Segment>, usize),
    /// A block in memory.
    Run(Arc<Block>),
}

impl QueueView {
    pub(crate) const fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(snapshot)
    }

    /// Returns the offsets that may be read: from the first retained row to the visible end.
    ///
    /// Blocks may hold rows outside of it, which nobody may see.
    pub fn range(&self) -> Range<QueueOffset> {
        self.0.range.clone()
    }

    /// Returns the epoch of the process.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// Returns the durability class of the topic.
    pub fn class(&self) -> DurabilityClass {
        self.0.class
    }

    /// Returns the blocks in files, oldest first.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.0.segments
    }

    /// Returns the blocks in memory, which follow the segments.
    pub fn runs(&self) -> &[Arc<Block>] {
        &self.0.runs
    }

    /// Returns what the records of the rows in `range` take in the log, in bytes, as far as the rows are there. No
    /// block is opened but those in which the range begins or ends; of one that cannot be read, the share of its
    /// rows is taken.
    pub fn record_bytes(&self, range: Range<QueueOffset>) -> u64 {
        let overlaps = |part: &Range<QueueOffset>| part.start < range.end && range.start < part.end;
        let is_inside = |part: &Range<QueueOffset>| range.start <= part.start && part.end <= range.end;
        let mut bytes = 0;
        for segment in self.segments().iter().filter(|segment| overlaps(&segment.range())) {
            if is_inside(&segment.range()) {
                bytes += segment.record_bytes();
                continue;
            }
            for number in 0..segment.blocks() {
                let rows = segment.block_range(number);
                let all = segment.block_record_bytes(number);
                if is_inside(&rows) {
                    bytes += all;
                } else if overlaps(&rows) {
                    bytes += match segment.block(number).and_then(|block| bytes_of_rows(&block, &range)) {
                        Ok(some) => some,
                        Err(_) => share(all, &rows, &range),
                    };
                }
            }
        }
        for run in self.runs().iter().filter(|run| overlaps(&run.range())) {
            bytes += if is_inside(&run.range()) {
                run.record_bytes()
            } else {
                bytes_of_rows(run, &range).unwrap_or_else(|_| share(run.record_bytes(), &run.range(), &range))
            };
        }
        bytes
    }

    /// Returns about what the records of all rows in [`range`](Self::range) take in the log, in bytes, without
    /// touching a file: of a segment that is retained in part, the share of its rows is taken.
    pub fn about_record_bytes(&self) -> u64 {
        let range = self.range();
        let segments = self.segments().iter().map(|segment| (segment.record_bytes(), segment.range()));
        let runs = self.runs().iter().map(|run| (run.record_bytes(), run.range()));
        let inside =
            segments.chain(runs).filter(|(_, rows)| rows.start < range.end && range.start < rows.end);
        inside.map(|(bytes, rows)| share(bytes, &rows, &range)).sum()
    }

    /// Returns, block by block, where in the log the rows from the first retained one on lie, if any of the block is
    /// visible. No block is opened but one that is retained in part; if it cannot be read, the share of its rows is taken,
    /// and all of its positions.
    pub(crate) fn log_parts(&self) -> impl Iterator<Item = LogPart> {
        let range = self.range();
        let in_segments = range.clone();
        let segments = self.segments().iter().flat_map(move |segment| {
            let range = in_segments.clone();
            (0..segment.blocks()).filter_map(move |number| {
                let entry = segment.entry(number);
                let all = LogPart {
                    bytes: entry.record_bytes,
                    positions: entry.first_position..=entry.last_position,
                };
                all.of_rows(&(entry.base..entry.end()), &range, || segment.block(number))
            })
        });
        let runs = self.runs().iter().filter_map(move |run| {
            let all =
                LogPart { bytes: run.record_bytes(), positions: run.first_position()..=run.last_position() };
            all.of_rows(&run.range(), &range, || Ok(Arc::clone(run)))
        });
        segments.chain(runs)
    }

    /// Returns what holds `offset`, or `None` if it lies outside of [`range`](Self::range).
    pub fn part_at(&self, offset: QueueOffset) -> Option<Part> {
        if !self.0.range.contains(&offset) {
            return None;
        }
        let segments = self.segments();
        let after = segments.partition_point(|segment| segment.range().start <= offset);
        if let Some(segment) = after.checked_sub(1).and_then(|number| segments.get(number))
            && let Some(block) = segment.block_at(offset)
        {
            return Some(Part::Segment(Arc::clone(segment), block));
        }
        let runs = self.runs();
        let after = runs.partition_point(|run| run.base() <= offset);
        let run = runs.get(after.checked_sub(1)?).filter(|run| run.range().contains(&offset))?;
        Some(Part::Run(Arc::clone(run)))
    }
}

fn bytes_of_rows(block: &Block, range: &Range<QueueOffset>) -> Result<u64, StorageError> {
    let base = block.base();
    let bytes = block.record_bytes_of_rows()?.enumerate();
    Ok(bytes.filter(|(row, _)| range.contains(&base.plus(*row as u64))).map(|(_, bytes)| bytes).sum())
}

fn share(bytes: u64, rows: &Range<QueueOffset>, range: &Range<QueueOffset>) -> u64 {
    let inside = range.end.min(rows.end).0 - range.start.max(rows.start).0;
    let share = u128::from(bytes) * u128::from(inside) / u128::from((rows.end.0 - rows.start.0).max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}
