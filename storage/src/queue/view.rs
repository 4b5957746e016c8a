//! What readers see of a queue: a snapshot that nobody changes.

use std::{ops::Range, sync::Arc};

use crate::{
    catalogue::DurabilityClass,
    offset::{Epoch, QueueOffset},
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
