//! All consume queues: rows come in from the log, become visible, and go into files.
//!
//! Locks are taken in this order: checkpointing, builder, merger, map of queues, pending and unmerged queues, one queue.
//! Readers take none but that of the map, for as long as finding the queue takes.

mod found;
mod writer;

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};

use self::{
    found::{Found, remove_empty_dirs, remove_unlisted},
    writer::{CheckpointWriter, crowded_files, list},
};
use crate::{
    catalogue::{DurabilityClass, TopicEntry},
    env::Env,
    error::StorageError,
    format::{block::FileKind, record::RecordView},
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::{Block, ReadRecords},
        builder::RunBuilder,
        checkpoint::{DroppedBlock, QueuesCheckpoint},
        image::Place,
        rows::{Names, add_row},
        segment::{QueueFile, Segment},
        tail::{Run, RunBytes, RunList, merge_runs},
        view::{QueueView, Snapshot},
        young::Young,
    },
};

/// A gap of more offsets than this cannot come from a damaged part of the log.
const LOST_ROWS_MAX: u64 = 1 << 24;
/// What the queues need to know of their surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuesSettings {
    /// The epoch of this process.
    pub(crate) epoch: Epoch,
    /// The data directory's, repeated in every file.
    pub(crate) uuid: [u8; 16],
    /// While the runs of all queues take more bytes of memory, they are merged at once.
    pub(crate) run_bytes_many: u64,
}

/// What a start found of the consume queues.
#[derive(Debug)]
pub(crate) struct OpenedQueues {
    pub(crate) queues: Queues,
    /// Blocks that named positions at or above the end of the log. The log must be read again from the
    /// first of their positions on; rows that are still there are passed over.
    pub(crate) dropped: Vec<DroppedBlock>,
    /// A file was missing or damaged: all queues are empty, and the whole log must be read again.
    pub(crate) rebuild: bool,
}

type FoundSegments = HashMap<(TopicId, QueueId), Vec<Arc<Segment>>>;

/// All consume queues.
pub(crate) struct Queues {
    /// The directory `queues`.
    dir: PathBuf,
    env: Arc<dyn Env>,
    log: Arc<dyn ReadRecords>,
    settings: QueuesSettings,
    queues: RwLock<HashMap<(TopicId, QueueId), Arc<Queue>>>,
    /// What was found at the start, of queues that nobody has added yet.
    found: Mutex<FoundSegments>,
    building: Mutex<Building>,
    /// Queues with rows that are not visible yet.
    pending: Mutex<Vec<Arc<Queue>>>,
    /// Held by whoever merges runs.
    merging: Mutex<RunBuilder>,
    /// Queues with runs that should become one, in the order in which they are looked at.
    unmerged: Mutex<VecDeque<Arc<Queue>>>,
    /// A queue has so many runs that they must be merged before more come.
    is_crowded: AtomicBool,
    /// How many wait until all is merged.
    merge_waiters: AtomicUsize,
    run_bytes: RunBytes,
    checkpointing: Mutex<Checkpointing>,
}

/// What whoever builds keeps between calls.
#[derive(Default)]
struct Building {
    builder: RunBuilder,
    /// The names that have columns, by topic, since the start.
    names: HashMap<TopicId, Names>,
}

/// What checkpoints keep between calls.
struct Checkpointing {
    next_file: u64,
    /// Drawn at each start, so that no checkpoint takes a file for another of the same number.
    stamp: u64,
    /// All files that are ours: listed, or yet to be unlinked.
    files: HashMap<u64, Arc<QueueFile>>,
    retired: Vec<Arc<QueueFile>>,
    /// They stay as long as somebody copies them.
    pinned: bool,
    builder: RunBuilder,
}

/// One queue.
struct Queue {
    topic: TopicId,
    queue: QueueId,
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
}

struct State {
    class: DurabilityClass,
    /// The first retained offset.
    first: QueueOffset,
    /// The end of what readers see.
    visible: QueueOffset,
    /// The offset of the next row.
    next: QueueOffset,
    segments: Arc<[Arc<Segment>]>,
    tail: RunList,
    /// The queue is among the pending ones.
    is_pending: bool,
    /// The queue is among the unmerged ones, or somebody merges its runs.
    is_unmerged: bool,
    removed: bool,
}

impl Queue {
    fn publish(&self, state: &State, epoch: Epoch) {
        self.snapshot.store(Arc::new(Snapshot {
            range: state.first..state.visible.max(state.first),
            epoch,
            class: state.class,
            segments: Arc::clone(&state.segments),
            runs: state.tail.blocks(),
        }));
    }
}

impl State {
    fn set_first(&mut self, offset: QueueOffset) {
        self.first = self.first.max(offset);
        self.next = self.next.max(self.first);
        self.visible = self.visible.max(self.first);
        self.drop_expired();
    }

    /// Returns the log position of the last row.
    fn last_position(&self) -> Option<LogPosition> {
        let filed = || {
            let segment = self.segments.last()?;
            Some(segment.entry(segment.blocks().checked_sub(1)?).last_position)
        };
        self.tail.last_position().or_else(filed)
    }

    fn drop_expired(&mut self) {
        let first = self.first;
        if self.segments.first().is_some_and(|segment| segment.range().end <= first) {
            self.segments =
                self.segments.iter().filter(|segment| segment.range().end > first).cloned().collect();
        }
        self.tail.drop_below(first);
    }
}

impl Queues {
    /// Opens the files in `data/queues` that the checkpoint lists, and removes all others.
    ///
    /// Blocks that name a position at or above `recovered_end` are dropped. The queues come to life with
    /// [`add_queue`](Self::add_queue).
    pub(crate) fn open(
        data: &Path,
        env: Arc<dyn Env>,
        log: Arc<dyn ReadRecords>,
        checkpoint: Option<&QueuesCheckpoint>,
        recovered_end: LogPosition,
        settings: QueuesSettings,
    ) -> Result<OpenedQueues, StorageError> {
        let dir = data.join("queues");
        let shared = dir.join("shared");
        env.make_dir(&shared).map_err(StorageError::io("create", &shared))?;
        let mut stamp = [0; 8];
        env.random(&mut stamp).map_err(StorageError::io("draw a number for", &dir))?;
        let nothing = QueuesCheckpoint::default();
        let listed = checkpoint.unwrap_or(&nothing);
        let (found, rebuild) = match Found::open(&dir, env.as_ref(), &log, listed, recovered_end, settings) {
            Ok(found) => (found, false),
            Err(error) => {
                tracing::warn!(%error, "consume queues are built anew from the log");
                (Found::default(), true)
            }
        };
        let keep: HashSet<PathBuf> = found.files.values().map(|file| file.path().to_owned()).collect();
        remove_unlisted(env.as_ref(), &dir, &keep)?;
        let queues = Self {
            dir,
            env,
            log,
            settings,
            queues: RwLock::default(),
            found: Mutex::new(found.queues),
            building: Mutex::default(),
            pending: Mutex::default(),
            merging: Mutex::default(),
            unmerged: Mutex::default(),
            is_crowded: AtomicBool::new(false),
            merge_waiters: AtomicUsize::new(0),
            run_bytes: RunBytes::new(settings.run_bytes_many),
            checkpointing: Mutex::new(Checkpointing {
                next_file: listed.next_file.max(1),
                stamp: u64::from_le_bytes(stamp),
                files: found.files,
                retired: Vec::new(),
                pinned: false,
                builder: RunBuilder::default(),
            }),
        };
        Ok(OpenedQueues { queues, dropped: found.dropped, rebuild })
    }

    /// Makes a queue known, with what the start found of it, or changes the class of one that is known.
    pub(crate) fn add_queue(
        &self,
        topic: TopicId,
        queue: QueueId,
        class: DurabilityClass,
        first: QueueOffset,
    ) {
        let key = (topic, queue);
        let known = self.queues.read().get(&key).cloned();
        if let Some(known) = known {
            let mut state = known.state.lock();
            state.class = class;
            state.set_first(first);
            known.publish(&state, self.settings.epoch);
            return;
        }
        let segments: Arc<[Arc<Segment>]> = self.found.lock().remove(&key).unwrap_or_default().into();
        let end = segments.last().map_or(first, |segment| segment.range().end);
        let first = segments.first().map_or(first, |segment| first.max(segment.range().start));
        let mut state = State {
            class,
            first: QueueOffset(0),
            visible: end,
            next: end,
            segments,
            tail: RunList::new(self.run_bytes.clone()),
            is_pending: false,
            is_unmerged: false,
            removed: false,
        };
        state.set_first(first);
        let snapshot = Snapshot {
            range: state.first..state.visible,
            epoch: self.settings.epoch,
            class,
            segments: Arc::clone(&state.segments),
            runs: Arc::default(),
        };
        let queue =
            Queue { topic, queue, snapshot: ArcSwap::from_pointee(snapshot), state: Mutex::new(state) };
        self.queues.write().insert(key, Arc::new(queue));
    }

    /// Forgets the queues of a topic. Their files go with the next checkpoint.
    pub(crate) fn remove_topic(&self, topic: TopicId) {
        let removed: Vec<Arc<Queue>> =
            self.queues.write().extract_if(|key, _| key.0 == topic).map(|(_, queue)| queue).collect();
        for queue in removed {
            queue.state.lock().removed = true;
        }
        self.found.lock().retain(|key, _| key.0 != topic);
        self.building.lock().names.remove(&topic);
    }

    /// Ends the rows before `offset`. Their files go with the next checkpoint.
    pub(crate) fn set_first_offset(&self, topic: TopicId, queue: QueueId, offset: QueueOffset) {
        if let Some(queue) = self.queue(topic, queue) {
            let mut state = queue.state.lock();
            state.set_first(offset);
            queue.publish(&state, self.settings.epoch);
        }
    }

    /// Returns the offset of the next row of a queue; 0 if there is no such queue.
    pub(crate) fn next_offset(&self, topic: TopicId, queue: QueueId) -> QueueOffset {
        self.queue(topic, queue).map_or(QueueOffset(0), |queue| queue.state.lock().next)
    }

    /// Returns about how many bytes of memory the rows take that are in no file yet, with the columns that readers have
    /// made of them.
    pub(crate) fn run_bytes(&self) -> u64 {
        self.run_bytes.get()
    }

    /// Returns about how many bytes of memory rows have given back since the start because they went into files.
    pub(crate) fn filed_bytes(&self) -> u64 {
        self.run_bytes.filed()
    }

    /// Returns what is visible of a queue now.
    pub(crate) fn view(&self, topic: TopicId, queue: QueueId) -> Option<QueueView> {
        self.queue(topic, queue).map(|queue| QueueView::new(queue.snapshot.load_full()))
    }

    fn queue(&self, topic: TopicId, queue: QueueId) -> Option<Arc<Queue>> {
        self.queues.read().get(&(topic, queue)).cloned()
    }

    /// Takes records in the order of the log: their rows enter the queues, not yet visible.
    ///
    /// Records that make no row, that belong to no known queue or whose row is there already are passed
    /// over. Offsets that are left out become lost rows. Called by one thread at a time.
    pub(crate) fn add<'a>(&self, records: impl Iterator<Item = RecordView<'a>>) {
        let mut records: Vec<RecordView<'a>> = records.filter(|record| record.kind.is_row()).collect();
        let key = |record: &RecordView<'_>| (record.topic, record.queue);
        if !records.is_sorted_by_key(key) {
            // Stable: the rows of a queue keep their order.
            records.sort_by_key(key);
        }
        let building = &mut *self.building.lock();
        for of_queue in records.chunk_by(|a, b| key(a) == key(b)) {
            if let Some(queue) = self.queue(of_queue[0].topic, of_queue[0].queue) {
                self.add_to(&queue, of_queue, building);
            }
        }
    }

    fn add_to(&self, queue: &Arc<Queue>, records: &[RecordView<'_>], building: &mut Building) {
        let Building { builder, names } = building;
        let names = names.entry(queue.topic).or_default();
        let mut next = queue.state.lock().next;
        if let Some(run) = self.young_run(queue, records, next, names) {
            return self.push_runs(queue, vec![run], next.plus(records.len() as u64));
        }
        let mut runs = Vec::new();
        let mut base = next;
        for record in records {
            let Some(gap) = record.offset.since(next) else {
                continue;
            };
            if gap > LOST_ROWS_MAX {
                self.start_again(queue, record, &mut runs, builder);
                base = record.offset;
            } else {
                for _ in 0..gap {
                    builder.lost_row(record.position.0, record.store_time_ms);
                    self.cut(queue, record.incarnation, &mut base, builder, &mut runs);
                }
            }
            add_row(builder, record, &mut |name| names.admit(record.topic, name));
            next = record.offset.plus(1);
            self.cut(queue, record.incarnation, &mut base, builder, &mut runs);
        }
        if builder.rows() > 0 {
            let incarnation = records[0].incarnation;
            runs.push(self.run(queue, incarnation, base, builder));
        }
        self.push_runs(queue, runs, next);
    }

    /// Returns a run of records that are the next rows of a queue, without a gap, if their columns are to be made later.
    fn young_run(
        &self,
        queue: &Queue,
        records: &[RecordView<'_>],
        next: QueueOffset,
        names: &mut Names,
    ) -> Option<Run> {
        let mut offsets = records.iter().enumerate();
        if !offsets.all(|(row, record)| record.offset.since(next) == Some(row as u64)) {
            return None;
        }
        let incarnation = records.first()?.incarnation;
        let place = Place { topic: queue.topic, incarnation, queue: queue.queue, base: next };
        let young = Young::of(records, place, names, &self.run_bytes)?;
        Some(Run { block: Arc::new(Block::young(young, Arc::clone(&self.log))), full: false })
    }

    /// Adds rows up to `end` at the end of a queue whose records are lost, at a position where they may have been.
    /// Returns whether it did: not if the queue has later rows.
    pub(crate) fn lose_rows(
        &self,
        topic: &TopicEntry,
        queue: QueueId,
        end: QueueOffset,
        position: LogPosition,
        store_time_ms: i64,
    ) -> bool {
        let Some(queue) = self.queue(topic.id, queue) else { return false };
        let (next, last) = {
            let state = queue.state.lock();
            (state.next, state.last_position())
        };
        let rows = end.since(next).filter(|rows| (1..=LOST_ROWS_MAX).contains(rows));
        let Some(rows) = rows.filter(|_| last.is_none_or(|last| last <= position)) else { return false };
        let Building { builder, .. } = &mut *self.building.lock();
        let (mut runs, mut base) = (Vec::new(), next);
        for _ in 0..rows {
            builder.lost_row(position.0, store_time_ms);
            self.cut(&queue, topic.incarnation, &mut base, builder, &mut runs);
        }
        if builder.rows() > 0 {
            runs.push(self.run(&queue, topic.incarnation, base, builder));
        }
        self.push_runs(&queue, runs, end);
        true
    }

    fn push_runs(&self, queue: &Arc<Queue>, runs: Vec<Run>, next: QueueOffset) {
        if runs.is_empty() {
            return;
        }
        let mut state = queue.state.lock();
        state.next = next;
        runs.into_iter().for_each(|run| state.tail.push(run));
        let is_new = !std::mem::replace(&mut state.is_pending, true);
        let has_gathered = !state.is_unmerged && state.tail.has_gathered();
        state.is_unmerged |= has_gathered;
        let is_crowded = state.is_unmerged && state.tail.is_crowded();
        drop(state);
        if is_new {
            self.pending.lock().push(Arc::clone(queue));
        }
        if has_gathered {
            self.unmerged.lock().push_back(Arc::clone(queue));
        }
        if is_crowded {
            self.is_crowded.store(true, Ordering::Release);
        }
    }

    /// Returns whether there are runs that should become one.
    pub(crate) fn has_unmerged(&self) -> bool {
        !self.unmerged.lock().is_empty()
    }

    /// Returns whether [`merge_all`](Self::merge_all) should be called before rows are added.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded.load(Ordering::Acquire)
    }

    /// Merges runs of all queues until none are left that should become one.
    pub(crate) fn merge_all(&self) {
        self.is_crowded.store(false, Ordering::Release);
        self.merge_waiters.fetch_add(1, Ordering::AcqRel);
        while self.merge_next(&mut || ()) {}
        self.merge_waiters.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns whether somebody waits for what is merged, or there is so much to merge that soon somebody would.
    pub(crate) fn is_pressing(&self) -> bool {
        self.merge_waiters.load(Ordering::Acquire) > 0 || self.run_bytes.is_pressing()
    }

    /// Merges some runs of the queue that has waited longest for it. Returns whether there was one. Calls `pause` between
    /// pieces of the work.
    pub(crate) fn merge_next(&self, pause: &mut dyn FnMut()) -> bool {
        // Held before, so that who finds no queue waits for the one that is being merged.
        let builder = &mut *self.merging.lock();
        let Some(queue) = self.unmerged.lock().pop_front() else { return false };
        let old = {
            let mut state = queue.state.lock();
            let old = state.tail.to_merge().filter(|_| !state.removed);
            state.is_unmerged = old.is_some();
            old
        };
        let Some(old) = old else { return true };
        match merge_runs(&old, builder, &self.log, pause) {
            Ok(merged) => {
                let mut state = queue.state.lock();
                // Rows may have come in meanwhile, and others may have gone into a file.
                if state.tail.put_merged(&old, merged) {
                    queue.publish(&state, self.settings.epoch);
                }
                drop(state);
                // There may be more of it, behind the others.
                self.unmerged.lock().push_back(queue);
            }
            Err(error) => {
                tracing::error!(%error, "runs cannot be merged");
                queue.state.lock().is_unmerged = false;
            }
        }
        true
    }

    /// Ends the run if it is full.
    fn cut(
        &self,
        queue: &Queue,
        incarnation: u32,
        base: &mut QueueOffset,
        builder: &mut RunBuilder,
        runs: &mut Vec<Run>,
    ) {
        if builder.is_full() {
            let rows = builder.rows() as u64;
            runs.push(self.run(queue, incarnation, *base, builder));
            *base = base.plus(rows);
        }
    }

    fn run(&self, queue: &Queue, incarnation: u32, base: QueueOffset, builder: &mut RunBuilder) -> Run {
        let full = builder.is_full();
        let place = Place { topic: queue.topic, incarnation, queue: queue.queue, base };
        let block = Block::built(builder.finish(place), Arc::clone(&self.log));
        Run { block: Arc::new(block.expect("the builder makes whole blocks")), full }
    }

    /// Drops all rows, because the next one lies too far behind the last for the rows between to be listed.
    fn start_again(
        &self,
        queue: &Queue,
        record: &RecordView<'_>,
        runs: &mut Vec<Run>,
        builder: &mut RunBuilder,
    ) {
        tracing::error!(
            topic = %queue.topic, queue = %queue.queue, offset = %record.offset,
            "the log jumps to this offset: rows before it are dropped"
        );
        runs.clear();
        builder.clear();
        let mut state = queue.state.lock();
        state.tail.clear();
        state.segments = Arc::default();
        state.set_first(record.offset);
        queue.publish(&state, self.settings.epoch);
    }

    /// Moves the visible ends: in class `sync` up to the durable end of the log, in `async` to the written one.
    ///
    /// Calls `each` for every queue whose end has moved.
    pub(crate) fn publish(
        &self,
        written: LogPosition,
        durable: LogPosition,
        each: &mut dyn FnMut(TopicId, QueueId, QueueOffset),
    ) {
        let mut pending = std::mem::take(&mut *self.pending.lock());
        pending.retain(|queue| {
            let mut state = queue.state.lock();
            let end = match state.class {
                DurabilityClass::Sync => durable,
                DurabilityClass::Async => written,
            };
            // What has moved into files is durable; the tail may hold none of it any more.
            let filed = state.segments.last().map_or(QueueOffset(0), |segment| segment.range().end);
            let visible = state.tail.end_below(end).unwrap_or_default().max(filed).max(state.visible);
            state.is_pending = visible < state.next && !state.removed;
            let moved = visible > state.visible;
            if moved {
                state.visible = visible;
                queue.publish(&state, self.settings.epoch);
            }
            let is_pending = state.is_pending;
            drop(state);
            if moved {
                each(queue.topic, queue.queue, visible);
            }
            is_pending
        });
        self.pending.lock().append(&mut pending);
    }

    /// Writes the rows whose records lie below `durable` into files, which are durable when this returns.
    ///
    /// All records below `durable` must have been [added](Self::add). The caller makes what is returned
    /// durable, then calls [`retire`](Self::retire). Calls `pause` between pieces of the work.
    pub(crate) fn checkpoint(
        &self,
        durable: LogPosition,
        pause: &mut dyn FnMut(),
    ) -> Result<QueuesCheckpoint, StorageError> {
        let checkpointing = &mut *self.checkpointing.lock();
        // What nobody has added by now belongs to topics that are gone.
        self.found.lock().clear();
        let mut queues: Vec<Arc<Queue>> = self.queues.read().values().cloned().collect();
        queues.sort_unstable_by_key(|queue| (queue.topic, queue.queue));
        let crowded = crowded_files(&queues);
        let writer = CheckpointWriter::new(self, checkpointing, &mut *pause);
        let changes = match writer.write(&queues, durable, &crowded) {
            Ok(changes) => changes,
            Err(error) => {
                for queue in &queues {
                    queue.state.lock().tail.thaw(false);
                }
                return Err(error);
            }
        };
        for change in changes {
            pause();
            let mut state = change.queue.state.lock();
            state.tail.thaw(change.froze);
            state.segments = change.segments.into();
            state.drop_expired();
            change.queue.publish(&state, self.settings.epoch);
        }
        Ok(list(checkpointing, &queues))
    }

    /// Returns whether damage was met in a file since the start: the next one must build the queues anew.
    pub(crate) fn is_damaged(&self) -> bool {
        self.checkpointing.lock().files.values().any(|file| file.is_damaged())
    }

    /// Keeps every file that there is, or no longer.
    pub(crate) fn pin(&self, pinned: bool) {
        self.checkpointing.lock().pinned = pinned;
    }

    /// Unlinks the files that the last checkpoint no longer lists; those that are pinned go with a later call. Whoever
    /// reads one of them may go on.
    pub(crate) fn retire(&self) {
        let retired = {
            let mut checkpointing = self.checkpointing.lock();
            if checkpointing.pinned {
                return;
            }
            std::mem::take(&mut checkpointing.retired)
        };
        for file in retired {
            if let Err(error) = self.env.remove(file.path()) {
                // The next start removes what nobody lists.
                tracing::warn!(path = %file.path().display(), %error, "cannot remove a file of consume queues");
            } else if file.header().kind == FileKind::Segment {
                remove_empty_dirs(self.env.as_ref(), file.path());
            }
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("dir", &self.dir).finish_non_exhaustive()
    }
}
