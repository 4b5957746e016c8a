//! The one way over the rows of a queue: skip what cannot match, judge the rest, step by step.
//!
//! Receives, pulls and queries all stand on it. A step judges one block at most, so whoever scans can stop
//! between any two. It opens those that come soon as well, to ask the disk for their columns.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow_buffer::BooleanBuffer;
use weir_columns::Rows;
use weir_filter::{EvaluateError, Predicate};
use weir_storage::{Block, LogPosition, Part, QueueOffset, QueueView, Segment, StorageError};

use crate::error::EngineError;

/// What one step over a queue came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// No row of these offsets matches; no block was opened.
    Skipped(Range<QueueOffset>),
    /// The rows of `range` were judged.
    Block {
        /// The block that holds them.
        block: Arc<Block>,
        /// The offsets that were judged; they need not be all of the block.
        range: Range<QueueOffset>,
        /// One bit a row of the block, set where the row lies in `range` and matches.
        matches: BooleanBuffer,
    },
}

impl Step {
    /// Returns the offset behind the rows of this step.
    pub(crate) fn end(&self) -> QueueOffset {
        match self {
            Self::Skipped(range) | Self::Block { range, .. } => range.end,
        }
    }
}

/// A scan over some offsets of a queue.
#[derive(Debug)]
pub(crate) struct Scan {
    view: QueueView,
    predicates: Vec<Arc<Predicate>>,
    next: QueueOffset,
    end: QueueOffset,
    /// Whether statistics are asked at all.
    skips: bool,
    /// What statistics say of the segment that the scan is in and of those that it looks ahead to, in order.
    candidates: VecDeque<Candidates>,
    ahead: Ahead,
}

/// What the statistics of a segment say.
#[derive(Debug)]
struct Candidates {
    /// The first offset of the segment.
    base: QueueOffset,
    /// One bit a block, set where it may match.
    bits: BooleanBuffer,
    /// Whether so few blocks are left that most have matches: then all their columns are read, and all are visited.
    are_few: bool,
}

/// What has been asked of the disk for blocks that the scan comes to, so that it need not wait for each.
#[derive(Debug)]
struct Ahead {
    /// The place of the segment, and the number in it, of the next block to be looked at.
    next: (usize, usize),
    /// The place of the first segment whose statistics have not been asked for.
    statistics: usize,
    /// The blocks that come.
    blocks: VecDeque<Coming>,
    /// For how many blocks columns are asked for. It grows while the scan goes on, as few scans go far.
    window: usize,
}

/// A block that the scan comes to.
#[derive(Debug)]
struct Coming {
    place: (usize, usize),
    are_few: bool,
    /// Opened where its columns have been asked for.
    block: Option<Arc<Block>>,
}

/// The first and the last size of the window of [`Ahead`]. The larger one is some megabytes of columns.
const WINDOW: (usize, usize) = (2, 32);
/// The first size where statistics leave few blocks of a segment.
const WINDOW_OF_FEW: usize = 8;
/// Of how many segments statistics are asked for together, once a scan comes to the end of its first one.
const STATISTICS_AHEAD: usize = 4;

impl Scan {
    /// Returns a scan over those offsets of `range` that `view` shows, for rows that match all `predicates`.
    pub(crate) fn new(
        view: QueueView,
        predicates: impl IntoIterator<Item = Arc<Predicate>>,
        range: Range<QueueOffset>,
    ) -> Self {
        let visible = view.range();
        let next = range.start.max(visible.start);
        let end = range.end.min(visible.end);
        let predicates =
            predicates.into_iter().filter(|predicate| !predicate.selector().matches_all()).collect();
        let ahead = Ahead { next: (0, 0), statistics: 0, blocks: VecDeque::new(), window: WINDOW.0 };
        Self { view, predicates, next, end, skips: true, candidates: VecDeque::new(), ahead }
    }

    /// Opens every block, whatever statistics say.
    pub(crate) fn without_skipping(mut self) -> Self {
        self.skips = false;
        self
    }

    /// Takes the next step, or returns `None` behind the last row.
    ///
    /// # Errors
    ///
    /// If a block cannot be read. The same step may be tried again.
    pub(crate) fn next(&mut self) -> Result<Option<Step>, EngineError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let step = match self.view.part_at(self.next) {
            Some(Part::Segment(segment, number)) => {
                let base = segment.range().start;
                let place = self.view.segments().partition_point(|other| other.range().start < base);
                let candidate = self.next_candidate(&segment, (place, number));
                if candidate > self.next {
                    Step::Skipped(self.next..candidate.min(self.end))
                } else {
                    let block = self.read_ahead((place, number));
                    self.judge(block.map_or_else(|| segment.block(number), Ok)?)?
                }
            }
            Some(Part::Run(run)) => self.judge(run)?,
            None => Step::Skipped(self.next..self.end),
        };
        self.next = step.end();
        Ok(Some(step))
    }

    /// Whether statistics are asked which blocks may match.
    fn asks(&self) -> bool {
        self.skips && !self.predicates.is_empty()
    }

    /// Where the first block of `segment` from the one at `place` on begins that may match; not before the
    /// next row, and the end of the segment if there is none.
    fn next_candidate(&mut self, segment: &Segment, place: (usize, usize)) -> QueueOffset {
        if !self.asks() {
            return self.next;
        }
        let base = segment.range().start;
        while self.candidates.front().is_some_and(|known| known.base < base) {
            self.candidates.pop_front();
        }
        if self.candidates.front().is_none_or(|known| known.base != base) {
            // Most scans do not leave their first segment.
            let count = if self.ahead.statistics == 0 { 1 } else { STATISTICS_AHEAD };
            self.ask_for_statistics(place.0, count);
            self.candidates.push_front(self.look_up(segment));
        }
        let bits = self.candidates.front().map(|known| &known.bits);
        let found = (place.1..segment.blocks()).find(|block| bits.is_none_or(|bits| bits.value(*block)));
        found.map_or(segment.range().end, |block| segment.block_range(block).start.max(self.next))
    }

    /// Asks the disk for the statistics of `count` segments from `place` on, as far as this was not done before.
    fn ask_for_statistics(&mut self, place: usize, count: usize) {
        let end = place + count;
        let from = place.max(self.ahead.statistics);
        for segment in self.view.segments().iter().take(end).skip(from) {
            let columns = self.predicates.iter().flat_map(|predicate| predicate.selector().columns());
            segment.will_need_statistics(columns);
        }
        self.ahead.statistics = self.ahead.statistics.max(end);
    }

    /// Asks the disk for what judging the block at `place` and those behind it needs, as far as it is not in memory.
    ///
    /// In two steps, because the directory of a block says where its columns are: of blocks that come later the
    /// directories, of those that come soon the columns of the predicates. Returns the block, if it could be opened.
    fn read_ahead(&mut self, place: (usize, usize)) -> Option<Arc<Block>> {
        if self.predicates.is_empty() {
            return None;
        }
        let ahead = &mut self.ahead;
        ahead.next = ahead.next.max(place);
        while ahead.blocks.front().is_some_and(|coming| coming.place < place) {
            ahead.blocks.pop_front();
        }
        self.ask_for_directories();
        if self.ahead.blocks.front().is_some_and(|coming| coming.are_few) {
            self.ahead.window = self.ahead.window.max(WINDOW_OF_FEW);
        }
        self.ask_for_columns();
        // Opening them took as long as the statistics that were asked for before.
        self.ask_for_directories();
        let ahead = &mut self.ahead;
        ahead.window = (ahead.window * 2).min(WINDOW.1);
        ahead.blocks.pop_front_if(|coming| coming.place == place)?.block
    }

    /// Looks for blocks that come until there are enough of them, and asks for their directories.
    fn ask_for_directories(&mut self) {
        while self.ahead.blocks.len() < 2 * self.ahead.window {
            let (place, number) = self.ahead.next;
            let Some(segment) = self.view.segments().get(place).cloned() else { break };
            if segment.range().start >= self.end {
                break;
            }
            if number == segment.blocks() {
                self.ahead.next = (place + 1, 0);
                continue;
            }
            let mut are_few = false;
            if self.asks() {
                let base = segment.range().start;
                if self.candidates.back().is_none_or(|last| last.base < base) {
                    if self.ahead.statistics <= place {
                        // They are looked at later, instead of waiting for them now.
                        self.ask_for_statistics(place, STATISTICS_AHEAD);
                        break;
                    }
                    self.candidates.push_back(self.look_up(&segment));
                }
                let known = self.candidates.iter().find(|known| known.base == base);
                are_few = known.is_some_and(|known| known.are_few);
                if known.is_some_and(|known| !known.bits.value(number)) {
                    self.ahead.next.1 += 1;
                    continue;
                }
            }
            if segment.block_range(number).start >= self.end {
                break;
            }
            segment.will_need_block(number);
            self.ahead.blocks.push_back(Coming { place: (place, number), are_few, block: None });
            self.ahead.next.1 += 1;
        }
    }

    /// Opens the blocks that come soon, and asks for their columns.
    fn ask_for_columns(&mut self) {
        let unopened = self.ahead.blocks.iter_mut().take(self.ahead.window);
        for coming in unopened.filter(|coming| coming.block.is_none()) {
            let Some(segment) = self.view.segments().get(coming.place.0) else { continue };
            // One that is damaged is found to be so when it is judged.
            let Ok(block) = segment.block(coming.place.1) else { continue };
            for predicate in &self.predicates {
                if coming.are_few {
                    block.will_need(predicate.selector().columns(), true);
                } else {
                    block.will_need(predicate.first_columns(), false);
                }
            }
            coming.block = Some(block);
        }
    }

    /// Asks the statistics of a segment which of its blocks may match.
    fn look_up(&self, segment: &Segment) -> Candidates {
        let statistics = segment.statistics();
        let bits = self.predicates.iter().map(|predicate| predicate.may_match(statistics));
        let bits = bits
            .reduce(|left, right| &left & &right)
            .unwrap_or_else(|| BooleanBuffer::new_set(segment.blocks()));
        let are_few = 8 * bits.count_set_bits() < segment.blocks();
        Candidates { base: segment.range().start, bits, are_few }
    }

    fn judge(&self, block: Arc<Block>) -> Result<Step, EngineError> {
        let all = block.range();
        let range = self.next.max(all.start)..self.end.min(all.end);
        let mut only = readable(&block, &range);
        for predicate in &self.predicates {
            let matches = predicate.matches(block.as_ref(), only.as_ref()).map_err(evaluation_error)?;
            let done = !matches.has_true();
            only = Some(matches);
            if done {
                break;
            }
        }
        let matches = only.unwrap_or_else(|| BooleanBuffer::new_set(block.len()));
        Ok(Step::Block { block, range, matches })
    }
}

/// The rows of `block` in `range` that are not lost; `None` if that is all of them.
pub(crate) fn readable(block: &Block, range: &Range<QueueOffset>) -> Option<BooleanBuffer> {
    let base = block.base();
    let (start, end) = (range.start.0 - base.0, range.end.0 - base.0);
    let is_whole = *range == block.range();
    match block.lost() {
        None if is_whole => None,
        lost => Some(BooleanBuffer::collect_bool(block.len(), |row| {
            (start..end).contains(&(row as u64)) && lost.is_none_or(|lost| !lost.value(row))
        })),
    }
}

/// Returns what a failed evaluation is to those who asked for it.
pub(crate) fn evaluation_error(error: EvaluateError<StorageError>) -> EngineError {
    match error {
        EvaluateError::Rows(error) => error.into(),
        error => EngineError::Internal(error.to_string()),
    }
}

/// Returns the first offset in `view` whose row was stored at `time_ms` or later; the end if there is none.
///
/// # Errors
///
/// If a block cannot be read.
pub(crate) fn offset_at_time(view: &QueueView, time_ms: i64) -> Result<QueueOffset, EngineError> {
    let is_before = |segment: &Segment, number| *segment.block_times(number).end() < time_ms;
    let found = match first_part(view, is_before, |run| last_time(run) < time_ms) {
        Some(Part::Segment(segment, number)) => in_block(&*segment.block(number)?, time_ms)?,
        Some(Part::Run(run)) => in_block(&run, time_ms)?,
        None => view.range().end,
    };
    Ok(found.clamp(view.range().start, view.range().end))
}

/// Returns the first offset in `view` whose record begins at `position` of the log or behind it; the end if
/// there is none. Of a block that cannot be read, and so by nobody, all rows count as before it.
pub(crate) fn offset_at_position(view: &QueueView, position: LogPosition) -> QueueOffset {
    let is_before = |segment: &Segment, number| *segment.block_positions(number).end() < position;
    let last = |run: &Block| run.positions().ok()?.values().last().copied();
    let found = match first_part(view, is_before, |run| last(run) < Some(position.0)) {
        Some(Part::Segment(segment, number)) if *segment.block_positions(number).start() >= position => {
            segment.block_range(number).start
        }
        Some(Part::Segment(segment, number)) => {
            let found = segment.block(number).and_then(|block| behind_position(&block, position));
            found.unwrap_or_else(|_| segment.block_range(number).end)
        }
        Some(Part::Run(run)) => behind_position(&run, position).unwrap_or_else(|_| run.range().end),
        None => view.range().end,
    };
    found.clamp(view.range().start, view.range().end)
}

/// Positions never fall.
fn behind_position(block: &Block, position: LogPosition) -> Result<QueueOffset, StorageError> {
    let before = block.positions()?.values().partition_point(|at| *at < position.0);
    Ok(block.base().plus(before as u64))
}

/// Finds the first block or run that does not lie before what is looked for. No block is opened.
fn first_part(
    view: &QueueView,
    is_block_before: impl Fn(&Segment, usize) -> bool,
    is_run_before: impl Fn(&Block) -> bool,
) -> Option<Part> {
    let segments = view.segments();
    let is_segment_before = |segment: &Segment| is_block_before(segment, segment.blocks() - 1);
    if let Some(segment) = segments.get(segments.partition_point(|segment| is_segment_before(segment))) {
        let number = partition(segment.blocks(), |number| is_block_before(segment, number));
        return Some(Part::Segment(Arc::clone(segment), number));
    }
    let runs = view.runs();
    runs.get(runs.partition_point(|run| is_run_before(run))).map(|run| Part::Run(Arc::clone(run)))
}

/// How many of `0..count` come before the first for which `before` does not hold.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn last_time(block: &Block) -> i64 {
    // A run is in memory, where its times do not fail.
    block.store_times().ok().and_then(|times| times.iter().rev().flatten().next()).unwrap_or(i64::MIN)
}

/// Store times never fall; lost rows have none and are passed.
fn in_block(block: &Block, time_ms: i64) -> Result<QueueOffset, StorageError> {
    let row = block.store_times()?.iter().position(|time| time.is_some_and(|time| time >= time_ms));
    Ok(block.base().plus(row.unwrap_or(Rows::len(block)) as u64))
}
