//! The rows of a queue that are in no file yet: runs in memory, merged as they gather.
//!
//! Merging is not done where runs come in, since publishers wait for their rows and a full block takes milliseconds:
//! what is to become one is [taken down](RunList::to_merge), merged by whoever has the time, and
//! [put in its place](RunList::put_merged) if it still stands there.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::{
    error::StorageError,
    format::block::{BLOCK_BYTES, BLOCK_ROWS},
    offset::{LogPosition, QueueOffset},
    queue::{
        block::{Block, ReadRecords},
        builder::RunBuilder,
        merge::{Group, Slice, merge, pack},
    },
};

/// So many neighbouring blocks of like size become one.
pub(crate) const MERGED: usize = 8;

/// Returns the class of size of a block: blocks of one class differ less than eightfold.
pub(crate) const fn level(rows: usize) -> u32 {
    match rows.checked_ilog2() {
        Some(log) => log / 3,
        None => 0,
    }
}

/// With more runs in memory than so many, they are merged before more come in. Each row that becomes visible costs a look
/// at all of them.
const RUNS_MANY: usize = 512;
/// With more that are open, whoever merges does not rest.
const RUNS_DENSE: usize = 96;
/// So many of the last runs may have come since the others were worth being merged.
const RUNS_NEW: usize = 8;
/// About what a run takes beside the bytes of its block: the arrays that readers have of it, too.
const RUN_BYTES: usize = size_of::<Block>() + 128;

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) block: Arc<Block>,
    /// Nothing more fits in.
    pub(crate) full: bool,
}

impl Run {
    fn bytes(&self) -> usize {
        self.block.weight() + RUN_BYTES
    }

    /// Stands in its list no longer: what readers still hold of it no checkpoint can give back.
    fn leave(&self) {
        if let Some(young) = self.block.as_young() {
            young.leave();
        }
    }
}

/// About how many bytes of memory the runs of all queues take: each as it came in, and the columns that were made of it
/// since, as long as it stands in its list. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct RunBytes(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    now: AtomicU64,
    /// How many have gone into files since the start.
    filed: AtomicU64,
    /// While they take more, runs are merged as soon as there are four of like size.
    many: u64,
    /// How many lists have so many open runs that merging them should not rest.
    dense: AtomicUsize,
}

impl RunBytes {
    pub(crate) fn new(many: u64) -> Self {
        Self(Arc::new(Counters {
            now: AtomicU64::new(0),
            filed: AtomicU64::new(0),
            many,
            dense: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    pub(crate) fn filed(&self) -> u64 {
        self.0.filed.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.now.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.now.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Whether there is so much to merge that it should not rest: many runs in one list, or runs that take twice as much
    /// as is [many](Self::new).
    pub(crate) fn is_pressing(&self) -> bool {
        self.0.dense.load(Ordering::Relaxed) > 0 || self.get() / 2 > self.0.many
    }

    fn replace(&self, old: usize, new: usize) {
        self.add(new);
        self.take(old);
    }

    /// Returns how many runs of like size become one. What a block takes beside its rows is that of dozens of rows,
    /// so that many queues with few rows each take less the fewer runs they have.
    fn merged(&self) -> usize {
        if self.get() > self.0.many { 4 } else { MERGED }
    }
}

/// Runs, oldest first, each beginning where the one before it ends.
#[derive(Debug)]
pub(crate) struct RunList {
    runs: Vec<Run>,
    /// What they take, which is part of the sum of all queues.
    bytes: usize,
    all: RunBytes,
    /// A checkpoint is writing so many of the first runs: they stay as they are.
    frozen: usize,
    /// Counts among the dense ones of all queues.
    is_dense: bool,
}

impl Drop for RunList {
    fn drop(&mut self) {
        self.clear();
    }
}

impl RunList {
    /// Returns an empty list, which counts what it takes in `all`.
    pub(crate) fn new(all: RunBytes) -> Self {
        Self { runs: Vec::new(), bytes: 0, all, frozen: 0, is_dense: false }
    }

    /// Counts runs that have come and gone.
    fn count(&mut self, come: usize, gone: usize) {
        self.all.replace(gone, come);
        self.bytes = self.bytes + come - gone;
    }

    /// Counts whether there are many open runs, after they have changed.
    fn count_dense(&mut self) {
        let unfrozen = self.runs.iter().skip(self.frozen).rev();
        let is_dense = unfrozen.take_while(|run| !run.full).nth(RUNS_DENSE).is_some();
        if is_dense != std::mem::replace(&mut self.is_dense, is_dense) {
            let dense = &self.all.0.dense;
            if is_dense {
                dense.fetch_add(1, Ordering::Relaxed)
            } else {
                dense.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    pub(crate) fn blocks(&self) -> Arc<[Arc<Block>]> {
        self.runs.iter().map(|run| Arc::clone(&run.block)).collect()
    }

    /// Returns the log position of the last row.
    pub(crate) fn last_position(&self) -> Option<LogPosition> {
        // Runs are in memory, where positions do not fail.
        let positions = self.runs.last()?.block.positions().ok()?;
        positions.values().last().copied().map(LogPosition)
    }

    /// Adds a run.
    pub(crate) fn push(&mut self, run: Run) {
        self.count(run.bytes(), 0);
        self.runs.push(run);
        self.count_dense();
    }

    /// Whether there are so many runs that they must be merged before more come.
    pub(crate) fn is_crowded(&self) -> bool {
        self.runs.len() - self.frozen > RUNS_MANY
    }

    /// Whether the last runs should become one.
    pub(crate) fn has_gathered(&self) -> bool {
        self.mergeable(self.runs.len()).is_some()
    }

    /// Returns runs that should become one: the last ones, or those before some that have come since.
    pub(crate) fn to_merge(&self) -> Option<Vec<Run>> {
        let ends = (0..RUNS_NEW).map_while(|new| self.runs.len().checked_sub(new));
        let place = ends.filter(|end| *end > self.frozen).find_map(|end| Some(self.mergeable(end)?..end))?;
        Some(self.runs[place].to_vec())
    }

    /// Puts what `old` has become in its place. Returns whether it did: not if a checkpoint writes some of it, or has
    /// written it, or it is gone.
    pub(crate) fn put_merged(&mut self, old: &[Run], merged: Vec<Run>) -> bool {
        let is_first = |run: &Run| old.first().is_some_and(|old| Arc::ptr_eq(&run.block, &old.block));
        // Nearer to the end than to the beginning.
        let Some(from) = self.runs.iter().rposition(is_first).filter(|from| *from >= self.frozen) else {
            return false;
        };
        let place = from..from + old.len();
        let stands = self
            .runs
            .get(place.clone())
            .is_some_and(|runs| runs.iter().zip(old).all(|(run, old)| Arc::ptr_eq(&run.block, &old.block)));
        if stands {
            self.count(bytes_of(&merged), bytes_of(old));
            let stays = |run: &Run| merged.iter().any(|merged| Arc::ptr_eq(&merged.block, &run.block));
            old.iter().filter(|run| !stays(run)).for_each(Run::leave);
            self.runs.splice(place, merged);
            self.count_dense();
        }
        stands
    }

    /// Returns the first of the last runs before `end` that should become one: all that are open once they fill a block;
    /// before that, those of like size once there are enough, unless the next merge would fill a block.
    fn mergeable(&self, end: usize) -> Option<usize> {
        let runs = self.runs.get(self.frozen..end)?;
        let open = runs.iter().rev().take_while(|run| !run.full);
        let (mut count, mut rows, mut bytes) = (0, 0, 0);
        let (mut alike, mut alike_rows) = (0, 0);
        let level_of_last = level(runs.last()?.block.len());
        for run in open {
            if alike == count && level(run.block.len()) <= level_of_last {
                (alike, alike_rows) = (alike + 1, alike_rows + run.block.len());
            }
            count += 1;
            rows += run.block.len();
            bytes += run.block.weight();
        }
        let fills = count > 1 && (rows >= BLOCK_ROWS || bytes >= BLOCK_BYTES);
        let merges = alike >= self.all.merged() && alike_rows < BLOCK_ROWS / 2;
        let taken = if fills { count } else { alike };
        (fills || merges).then(|| end - taken)
    }

    /// Returns how far the rows go whose records lie below `position`, if there are any.
    pub(crate) fn end_below(&self, position: LogPosition) -> Option<QueueOffset> {
        // Runs are in memory, where positions do not fail.
        let first = |run: &Run| run.block.positions().is_ok_and(|positions| positions.value(0) < position.0);
        let below = self.runs.partition_point(first);
        let last = &self.runs[below.checked_sub(1)?].block;
        let rows = last.positions().ok()?.values().partition_point(|row| *row < position.0);
        Some(last.base().plus(rows as u64))
    }

    /// Freezes the rows below `position` for a checkpoint, and returns their runs.
    pub(crate) fn freeze(
        &mut self,
        position: LogPosition,
        builder: &mut RunBuilder,
        log: &Arc<dyn ReadRecords>,
    ) -> Result<Vec<Run>, StorageError> {
        let Some(end) = self.end_below(position) else {
            return Ok(Vec::new());
        };
        let mut count = self.runs.partition_point(|run| run.block.range().end <= end);
        if let Some(run) = self.runs.get(count)
            && run.block.base() < end
        {
            let block = Arc::clone(&run.block);
            let rows = (end.0 - block.base().0) as usize;
            let halves = [0..rows, rows..block.len()].map(|rows| Slice { block: Arc::clone(&block), rows });
            let halves: Vec<Run> = halves
                .into_iter()
                .map(|slice| merged(&Group { slices: vec![slice], full: false }, builder, log, &mut || ()))
                .collect::<Result<_, _>>()?;
            self.count(bytes_of(&halves), bytes_of(&self.runs[count..=count]));
            self.runs.splice(count..=count, halves).for_each(|run| run.leave());
            count += 1;
        }
        self.frozen = count;
        self.count_dense();
        Ok(self.runs[..count].to_vec())
    }

    /// Lets go of the frozen runs, which lie in files now if `written`.
    pub(crate) fn thaw(&mut self, written: bool) {
        if written {
            let filed = bytes_of(&self.runs[..self.frozen]);
            self.all.0.filed.fetch_add(filed as u64, Ordering::Relaxed);
            self.count(0, filed);
            self.runs.drain(..self.frozen).for_each(|run| run.leave());
        }
        self.frozen = 0;
        self.count_dense();
    }

    /// Drops all runs. A checkpoint that is writing some of them finds nothing to let go of.
    pub(crate) fn clear(&mut self) {
        self.count(0, self.bytes);
        self.runs.drain(..).for_each(|run| run.leave());
        self.frozen = 0;
        self.count_dense();
    }

    /// Drops the runs that end at or before `offset`, unless a checkpoint is writing them.
    pub(crate) fn drop_below(&mut self, offset: QueueOffset) {
        if self.frozen == 0 {
            let count = self.runs.partition_point(|run| run.block.range().end <= offset);
            self.count(0, bytes_of(&self.runs[..count]));
            self.runs.drain(..count).for_each(|run| run.leave());
            self.count_dense();
        }
    }
}

/// Returns what runs that follow one another become together: one, or as few as hold all.
pub(crate) fn merge_runs(
    runs: &[Run],
    builder: &mut RunBuilder,
    log: &Arc<dyn ReadRecords>,
    pause: &mut dyn FnMut(),
) -> Result<Vec<Run>, StorageError> {
    let groups = pack(runs.iter().map(|run| Slice::all(&run.block)));
    groups.iter().map(|group| merged(group, builder, log, pause)).collect()
}

fn bytes_of(runs: &[Run]) -> usize {
    runs.iter().map(Run::bytes).sum()
}

/// Returns the one run of a group.
fn merged(
    group: &Group,
    builder: &mut RunBuilder,
    log: &Arc<dyn ReadRecords>,
    pause: &mut dyn FnMut(),
) -> Result<Run, StorageError> {
    if let [slice] = group.slices.as_slice()
        && slice.is_all()
    {
        return Ok(Run { block: Arc::clone(&slice.block), full: group.full });
    }
    let bytes = merge(builder, &group.slices, pause)?;
    Ok(Run { block: Arc::new(Block::built(bytes, Arc::clone(log))?), full: group.full })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        offset::{QueueId, TopicId},
        queue::{image::Place, model::ModelLog},
    };

    /// Returns a run of one row.
    fn run(offset: u64, log: &Arc<dyn ReadRecords>) -> Run {
        let mut builder = RunBuilder::default();
        builder.lost_row(offset * 64, 0);
        let base = QueueOffset(offset);
        let place = Place { topic: TopicId(1), incarnation: 1, queue: QueueId(0), base };
        Run { block: Arc::new(Block::built(builder.finish(place), Arc::clone(log)).unwrap()), full: false }
    }

    #[test]
    fn merging_presses_while_a_list_has_many_open_runs_or_all_take_much() {
        let log: Arc<dyn ReadRecords> = Arc::new(ModelLog::default());
        let all = RunBytes::new(u64::MAX);
        let mut list = RunList::new(all.clone());
        (0..RUNS_DENSE as u64).for_each(|offset| list.push(run(offset, &log)));
        assert!(!all.is_pressing());
        list.push(run(RUNS_DENSE as u64, &log));
        assert!(all.is_pressing());
        let old = list.to_merge().unwrap();
        let merged = merge_runs(&old, &mut RunBuilder::default(), &log, &mut || ()).unwrap();
        assert!(list.put_merged(&old, merged));
        assert!(!all.is_pressing());
        // Full runs are not merged any more.
        let full = |offset| Run { full: true, ..run(offset, &log) };
        (0..RUNS_DENSE as u64).for_each(|number| list.push(full(RUNS_DENSE as u64 + 1 + number)));
        assert!(!all.is_pressing());
        let mut other = RunList::new(all.clone());
        (0..=RUNS_DENSE as u64).for_each(|offset| other.push(run(offset, &log)));
        assert!(all.is_pressing());
        other.freeze(LogPosition(10 * 64), &mut RunBuilder::default(), &log).unwrap();
        assert!(!all.is_pressing(), "what is frozen is not merged");
        other.thaw(false);
        assert!(all.is_pressing());
        drop(other);
        assert!(!all.is_pressing());
        let first = run(0, &log);
        let all = RunBytes::new(first.bytes() as u64);
        let mut list = RunList::new(all.clone());
        list.push(first);
        list.push(run(1, &log));
        assert!(!all.is_pressing());
        list.push(run(2, &log));
        assert!(all.is_pressing());
    }

    #[test]
    fn what_was_merged_takes_the_place_of_runs_that_still_stand_there() {
        let log: Arc<dyn ReadRecords> = Arc::new(ModelLog::default());
        let mut list = RunList::new(RunBytes::new(u64::MAX));
        let add = |list: &mut RunList, offsets: std::ops::Range<u64>| {
            offsets.for_each(|offset| list.push(run(offset, &log)));
        };
        let rows = |list: &RunList| list.blocks().iter().map(|block| block.len()).collect::<Vec<_>>();
        add(&mut list, 0..7);
        assert!(!list.has_gathered() && list.to_merge().is_none());
        add(&mut list, 7..8);
        assert!(list.has_gathered());
        let old = list.to_merge().unwrap();
        let merged = merge_runs(&old, &mut RunBuilder::default(), &log, &mut || ()).unwrap();
        // More have come meanwhile.
        add(&mut list, 8..10);
        assert!(list.put_merged(&old, merged.clone()));
        assert_eq!(rows(&list), [8, 1, 1]);
        assert_eq!(list.bytes, bytes_of(&list.runs));
        assert!(!list.put_merged(&old, merged), "they do not stand there any more");
        // A checkpoint has taken some.
        add(&mut list, 10..16);
        let old = list.to_merge().unwrap();
        let merged = merge_runs(&old, &mut RunBuilder::default(), &log, &mut || ()).unwrap();
        assert_eq!(list.freeze(LogPosition(12 * 64), &mut RunBuilder::default(), &log).unwrap().len(), 5);
        assert!(!list.put_merged(&old, merged.clone()));
        list.thaw(true);
        assert!(!list.put_merged(&old, merged));
        assert_eq!(rows(&list), [1; 4]);
        assert_eq!(list.bytes, bytes_of(&list.runs));
    }
}
