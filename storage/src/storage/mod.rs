//! The public handle of storage, and its threads.
//!
//! ```text
//! append ─► intake ─► appender ─► frame in the page cache ─► flusher ─► durable ─► answered (`sync`)
//!                        │  └─ answered (`async`)                          │
//!                        └────► builder ─► consume queues ─► visible ◄─────┘
//!                                              └─► merger
//! ```
//!
//! A publisher that finds nobody waiting for the appender has the turn to do the work of appender and builder for itself
//! and those who come meanwhile ([`Turn`]); the threads do what is more than that: `docs/adr/0019-who-comes-first-writes.md`.
//!
//! Each thread repeats one step (`append_once`, `flush_once`, `build_once`, …) while there is work. Tests
//! call the steps themselves, so that a simulated disk sees the same calls in the same order every time.

#[cfg(test)]
mod braked;
mod checkpoint;
mod compaction;
mod copy;
mod history;
mod open;
mod options;
mod pending;
#[cfg(test)]
mod pinned;
mod rest;
#[cfg(test)]
mod tests;
mod threads;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use weir_columns::KindSet;

use self::{
    compaction::Compactor,
    open::{Opening, add_queues},
};
use crate::{
    catalogue::{Catalogue, DurabilityClass, GroupEntry, NewGroup, NewTopic, TopicEntry},
    compress::Compression,
    done::Done,
    env::Space,
    error::{Fault, StorageError},
    format::record::RecordView,
    journal::{JournalDone, JournalEntry, Wait},
    lock::{DataDirectory, Feature},
    log::{
        appender::{Admitted, Append, AppendDone, Appender, Intake, Topics, WrittenFrame},
        flusher::{FlushQueue, JournalWriter},
        reader::LogReader,
        segment::FrameLogShared,
    },
    message::StoredMessage,
    offset::{Epoch, GroupId, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{block::ReadRecords, store::Queues, view::QueueView},
    recovery::{Cut, Fence},
};

pub use self::{
    copy::{Copied, CopyProgress, CopyWatch},
    history::{DoneRows, JournalHistory, Past},
    options::StorageOptions,
    threads::Turn,
};

pub(crate) const CHECKPOINT: &str = "checkpoint";
/// The builder takes so much at once, and a start replays so much at once.
const BUILD_BYTES: usize = 4 << 20;

/// What storage tells its owner. Called on threads of storage, and at a [`Turn`]; must not block.
pub trait Events: Send + Sync {
    /// The rows of a queue below `end` have become visible.
    fn visible(&self, topic: TopicId, queue: QueueId, end: QueueOffset);

    /// The journal has grown. Write everything that it must still say (selectors, and a
    /// [`JournalEntry::Queue`] for every group, topic and queue) through [`Storage::journal`], then call
    /// [`Storage::journal_rotated`]. Entries made meanwhile are kept too, in order.
    fn rotate_journal(&self) {}

    /// A sync failed: nobody knows what the disk holds. Nothing is taken any more; the process must stop.
    fn failed(&self, error: &StorageError);
}

/// How far the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnds {
    /// Everything below survives `kill -9`.
    pub written: LogPosition,
    /// Everything below survives power loss.
    pub durable: LogPosition,
    /// Everything below is in the consume queues.
    pub built: LogPosition,
}

/// What a start found.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// The last stop was in good order.
    pub clean: bool,
    /// The epoch from now on.
    pub epoch: Epoch,
    /// Where the log ended.
    pub log_end: LogPosition,
    /// The torn end of the log that was cut off.
    pub cut: Option<Cut>,
    /// Damage found in the log, at this start for the first time. The rows in it are lost.
    pub fences: Vec<Fence>,
    /// Damage found in the group journal.
    pub journal_fences: Vec<Fence>,
    /// The torn end of the group journal that was cut off.
    pub journal_cut: Option<Cut>,
    /// Queues for which the journal knew more rows than the log still has.
    pub cut_queues: usize,
    /// Why the checkpoint was not used, so that the whole log was read: it was missing or damaged.
    pub without_checkpoint: Option<String>,
    /// How many bytes of log were read again.
    pub replayed_bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// A segment of the log that has had its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// The positions that it holds.
    pub range: Range<LogPosition>,
    /// The length of its file.
    pub bytes: u64,
}

/// What deleting a topic gives back, in bytes of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreedSpace {
    /// Rows that were there.
    pub rows: u64,
    /// Free now: files of consume queues, and segments of the log that nobody else needed.
    pub now_bytes: u64,
    /// About what its records take in segments that are compacted because of that.
    pub soon_bytes: u64,
    /// About how long that takes; zero if there are none.
    pub soon: Duration,
    /// About what its records take in other segments: free when enough of the rows beside them end.
    pub later_bytes: u64,
}

/// An open data directory. Clones share it; it closes as if killed when the last one is dropped without
/// [`close`](Self::close).
#[derive(Clone)]
pub struct Storage {
    handle: Arc<Handle>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("dir", &self.handle.inner.dir).finish_non_exhaustive()
    }
}

struct Handle {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl Handle {
    /// Lets the threads finish what they were given, one after the other, and ends them.
    fn stop_threads(&self) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        let inner = &self.inner;
        inner.is_closing.store(true, Ordering::Release);
        inner.intake.lock().closed = true;
        if threads.is_empty() || threads.iter().any(|thread| thread.thread().id() == thread::current().id()) {
            // The last handle was dropped by a callback: that thread cannot wait for itself.
            inner.stop_all();
            return;
        }
        for stop in [
            Inner::stop_compactor,
            Inner::stop_appender,
            Inner::stop_flusher,
            Inner::stop_builder,
            Inner::stop_merger,
            Inner::stop_upkeep,
            Inner::stop_keeper,
        ] {
            stop(inner);
            if let Some(thread) = (!threads.is_empty()).then(|| threads.remove(0)) {
                // A thread that panicked has already failed the storage.
                let _ = thread.join();
            }
        }
    }
}

/// What the threads share.
pub(crate) struct Inner {
    dir: PathBuf,
    options: StorageOptions,
    events: Arc<dyn Events>,
    directory: Mutex<Option<DataDirectory>>,
    uuid: [u8; 16],
    key: [u8; 32],
    epoch: Epoch,
    report: RecoveryReport,
    catalogue: Catalogue,
    queues: Queues,
    log: Arc<FrameLogShared>,
    journal: Arc<FrameLogShared>,
    reader: Arc<LogReader>,
    replayed: Mutex<Vec<JournalEntry>>,
    /// Taken after the queue of the flusher, where both are needed.
    done: Mutex<Done>,

    intake: Mutex<Intake>,
    /// The appender waits here for batches.
    intake_filled: Condvar,
    /// Publishers wait here for room.
    room: Condvar,
    appender: Mutex<Appender>,

    flush: Mutex<FlushQueue>,
    flush_filled: Condvar,
    journal_writer: Mutex<JournalWriter>,

    build: Mutex<BuildQueue>,
    build_filled: Condvar,
    /// Held by whoever takes frames from that queue, until they are built.
    building: Mutex<()>,
    /// Up to this position the consume queues hold the log.
    built: AtomicU64,
    /// The durable end of the log that builder and publishers have been told of.
    announced: AtomicU64,
    /// Held while rows become visible.
    publishing: Mutex<()>,

    merger: Mutex<Upkeep>,
    merger_wanted: Condvar,
    upkeep: Mutex<Upkeep>,
    upkeep_wanted: Condvar,
    keeper: Mutex<Upkeep>,
    keeper_wanted: Condvar,
    compactor: Mutex<Compactor>,
    compactor_wanted: Condvar,
    /// Rows have ended, or topics, since the compactor has looked for segments that are mostly dead.
    has_ended: AtomicBool,
    /// The directory is being copied.
    is_copied: AtomicBool,
    /// Held over a checkpoint, and while a compacted segment takes its place.
    checkpoint: Mutex<LastCheckpoint>,
    /// How many wait for the one that is being made.
    checkpoint_waiters: AtomicUsize,
    /// No work in the background rests any more.
    is_closing: AtomicBool,

    low_space: AtomicBool,
    /// The checkpoint file says that this process runs. Before that nothing may be appended.
    is_marked: AtomicBool,
    /// Rows have ended since the last checkpoint, whose files and segments can go, or it failed.
    is_due: AtomicBool,
    failure: OnceLock<StorageError>,
}

#[derive(Default)]
struct BuildQueue {
    frames: VecDeque<WrittenFrame>,
    /// The durable end has moved.
    publish: bool,
    stop: bool,
}

#[derive(Default)]
struct Upkeep {
    wanted: bool,
    stop: bool,
}

/// What the checkpoint file says now.
struct LastCheckpoint {
    log: LogPosition,
    queues: Vec<u8>,
    fences: Vec<Range<LogPosition>>,
}

impl ReadRecords for LogReader {
    fn visit(
        &self,
        positions: &mut dyn Iterator<Item = LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError> {
        Self::visit(self, positions, visit)
    }

    fn scan(
        &self,
        range: RangeInclusive<LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<(), StorageError> {
        Self::scan(self, range, visit)
    }

    fn will_need(&self, positions: &mut dyn Iterator<Item = LogPosition>) {
        Self::will_need(self, positions);
    }
}

impl Topics for Inner {
    fn topic(&self, id: TopicId) -> Option<Arc<TopicEntry>> {
        self.catalogue.topic(id)
    }

    fn next_offset(&self, topic: TopicId, queue: QueueId) -> QueueOffset {
        self.queues.next_offset(topic, queue)
    }
}

impl Storage {
    /// Opens a data directory, making it if there is none: locks it, finds out how its files ended, and
    /// starts the threads.
    ///
    /// # Errors
    ///
    /// If another process has it, a newer program wrote it, a file cannot be read, or the catalogue is damaged.
    pub fn open(dir: &Path, options: StorageOptions, events: Arc<dyn Events>) -> Result<Self, StorageError> {
        let storage = Self::open_stepped(dir, options, events)?;
        let inner = &storage.handle.inner;
        let spawn = |name: &str, run: fn(&Inner)| {
            let inner = Arc::clone(inner);
            thread::Builder::new()
                .name(format!("weir-{name}"))
                .spawn(move || {
                    let _guard = PanicGuard(&inner);
                    run(&inner);
                })
                .map_err(StorageError::io("start a thread for", dir))
        };
        let mut threads = storage.handle.threads.lock();
        for (name, run) in [
            ("compactor", Inner::run_compactor as fn(&Inner)),
            ("appender", Inner::run_appender),
            ("flusher", Inner::run_flusher),
            ("builder", Inner::run_builder),
            ("merger", Inner::run_merger),
            ("upkeep", Inner::run_upkeep),
            ("keeper", Inner::run_keeper),
        ] {
            threads.push(spawn(name, run)?);
        }
        drop(threads);
        Ok(storage)
    }

    /// As [`open`](Self::open), without threads.
    pub(crate) fn open_stepped(
        dir: &Path,
        options: StorageOptions,
        events: Arc<dyn Events>,
    ) -> Result<Self, StorageError> {
        let inner = Arc::new(Opening::new(dir, options)?.finish(events)?);
        Ok(Self { handle: Arc::new(Handle { inner, threads: Mutex::default() }) })
    }

    /// Stops in good order: everything that was taken is made durable, and a checkpoint says so.
    ///
    /// # Errors
    ///
    /// If a file cannot be written. The next start then works as after a kill. After
    /// [`Unwritten`](StorageError::Unwritten) the call may be repeated.
    pub fn close(&self) -> Result<(), StorageError> {
        let inner = &self.handle.inner;
        self.handle.stop_threads();
        inner.finish_steps()?;
        let Some(directory) = inner.directory.lock().take() else {
            return Ok(());
        };
        // A write that failed may have left something behind an end, and nobody needs zeros there now.
        let closed = inner
            .check()
            .and_then(|()| inner.appender.lock().leave())
            .and_then(|()| inner.journal_writer.lock().leave())
            .and_then(|()| inner.catalogue.leave())
            .and_then(|()| inner.checkpoint(Mark::Clean));
        drop(directory);
        closed
    }

    /// Returns what the start found.
    pub fn report(&self) -> RecoveryReport {
        self.handle.inner.report.clone()
    }

    /// Returns the id of the data directory.
    pub fn uuid(&self) -> [u8; 16] {
        self.handle.inner.uuid
    }

    /// Returns the epoch.
    pub fn epoch(&self) -> Epoch {
        self.handle.inner.epoch
    }

    /// Returns the key that signs receipt handles and tickets; it stays the same across starts.
    pub fn key(&self) -> &[u8; 32] {
        &self.handle.inner.key
    }

    /// Returns how far the log is written.
    pub fn ends(&self) -> LogEnds {
        let log = &self.handle.inner.log;
        // The written end last: neither of the others lies above it.
        let built = LogPosition(self.handle.inner.built.load(Ordering::Acquire));
        let durable = log.durable();
        LogEnds { written: log.tip().written, durable, built }
    }

    /// Returns all topics, by id.
    pub fn topics(&self) -> Vec<Arc<TopicEntry>> {
        self.handle.inner.catalogue.topics()
    }

    /// Returns a topic.
    pub fn topic(&self, id: TopicId) -> Option<Arc<TopicEntry>> {
        self.handle.inner.catalogue.topic(id)
    }

    /// Returns all groups, by id.
    pub fn groups(&self) -> Vec<Arc<GroupEntry>> {
        self.handle.inner.catalogue.groups()
    }

    /// Makes a topic; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If the name is taken, or the catalogue cannot be written.
    pub fn create_topic(&self, new: NewTopic) -> Result<Arc<TopicEntry>, StorageError> {
        let inner = &self.handle.inner;
        inner.may_compress(new.compression)?;
        let topic = inner.change(|catalogue| catalogue.create_topic(new))?;
        add_queues(&inner.queues, &topic);
        Ok(topic)
    }

    /// Changes a topic; it is durable when this returns. The number of queues never falls.
    ///
    /// # Errors
    ///
    /// If there is no such topic, it would have fewer queues, or the catalogue cannot be written.
    pub fn alter_topic(
        &self,
        id: TopicId,
        queues: u32,
        class: DurabilityClass,
        compression: Compression,
        attributes: String,
    ) -> Result<Arc<TopicEntry>, StorageError> {
        let inner = &self.handle.inner;
        inner.may_compress(compression)?;
        let topic =
            inner.change(|catalogue| catalogue.alter_topic(id, queues, class, compression, attributes))?;
        add_queues(&inner.queues, &topic);
        Ok(topic)
    }

    /// Adds to the kinds of values that properties of a topic have had; durable when this returns. Kinds that
    /// are known already cost nothing.
    ///
    /// # Errors
    ///
    /// If there is no such topic, the names of all its properties take too much, or the catalogue cannot be
    /// written.
    pub fn add_property_kinds(
        &self,
        topic: TopicId,
        kinds: &BTreeMap<String, KindSet>,
    ) -> Result<(), StorageError> {
        self.handle.inner.change(|catalogue| catalogue.add_property_kinds(topic, kinds))
    }

    /// Deletes a topic and its consume queues; it is durable when this returns, and what nobody else needs is
    /// unlinked.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or the catalogue cannot be written.
    pub fn delete_topic(&self, id: TopicId) -> Result<FreedSpace, StorageError> {
        let inner = &self.handle.inner;
        let topic = inner.catalogue.topic(id).ok_or(StorageError::UnknownTopic { topic: id })?;
        let before = inner.before_delete(&topic);
        inner.change(|catalogue| catalogue.delete_topic(id))?;
        inner.appender.lock().forget(id);
        inner.queues.remove_topic(id);
        inner.has_ended.store(true, Ordering::Release);
        // Its files go with a checkpoint.
        let unlinked = inner.checkpoint(Mark::Running).inspect_err(|error| {
            tracing::warn!(%error, topic = %id, "the files of a deleted topic cannot be unlinked now");
        });
        let freed = inner.after_delete(before, id, unlinked.is_ok());
        Ok(freed)
    }

    /// Makes a group; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If the name is taken, or the catalogue cannot be written.
    pub fn create_group(&self, new: NewGroup) -> Result<Arc<GroupEntry>, StorageError> {
        let inner = &self.handle.inner;
        inner.change(|catalogue| catalogue.create_group(new))
    }

    /// Changes a group; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If there is no such group, or the catalogue cannot be written.
    pub fn alter_group(&self, id: GroupId, attributes: String) -> Result<Arc<GroupEntry>, StorageError> {
        let inner = &self.handle.inner;
        inner.change(|catalogue| catalogue.alter_group(id, attributes))
    }

    /// Deletes a group; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If there is no such group, or the catalogue cannot be written.
    pub fn delete_group(&self, id: GroupId) -> Result<(), StorageError> {
        let inner = &self.handle.inner;
        inner.change(|catalogue| catalogue.delete_group(id))
    }

    /// Ends the rows of a queue below `offset`; durable when this returns. A lower offset changes nothing.
    ///
    /// # Errors
    ///
    /// If there is no such queue, `offset` lies behind the end that readers see, or the catalogue cannot be
    /// written.
    pub fn set_first_offset(
        &self,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), StorageError> {
        let inner = &self.handle.inner;
        // A row that comes later, below the first offset, would be acknowledged and never seen.
        if let Some(available) = self.view(topic, queue).map(|view| view.range())
            && offset > available.end
        {
            return Err(StorageError::OffsetOutOfRange { asked: offset, available });
        }
        inner.change(|catalogue| catalogue.set_first_offset(topic, queue, offset))?;
        inner.queues.set_first_offset(topic, queue, offset);
        inner.forget_done_before(topic, queue, offset);
        inner.is_due.store(true, Ordering::Release);
        inner.has_ended.store(true, Ordering::Release);
        Ok(())
    }

    /// Appends messages to their queues. They keep their order and are stored together or not at all.
    ///
    /// `done` runs on a thread of storage, or of another publisher at its [`Turn`], once they are durable by the classes of
    /// their topics: if all are `async`, once they are written. The call waits, up to `busy_after`, while too much is
    /// unsynced or unbuilt.
    pub fn append(&self, batch: Vec<Append>, done: AppendDone) {
        self.handle.inner.append(batch, done);
    }

    /// As [`append`](Self::append), for callers that must not wait. Who finds nobody before it gets the turn to write what
    /// waits, for itself and those who come meanwhile. `done` may run on the thread that has the turn.
    ///
    /// # Errors
    ///
    /// If it would have to wait, or others wait already, the batch comes back, for
    /// [`append_admitted`](Self::append_admitted).
    pub fn append_now(&self, batch: Vec<Append>, done: AppendDone) -> Result<Option<Turn<'_>>, Admitted> {
        self.handle.inner.append_now(batch, done).map_err(Admitted)
    }

    /// As [`append`](Self::append), of a batch that [`append_now`](Self::append_now) gave back.
    pub fn append_admitted(&self, batch: Admitted) {
        self.handle.inner.append_admitted(batch.0);
    }

    /// Returns whether [`append`](Self::append) would make its caller wait now.
    pub fn is_overloaded(&self) -> bool {
        let inner = &self.handle.inner;
        inner.overload(&inner.intake.lock()).is_some()
    }

    /// Returns what readers see of a queue now, or `None` if there is no such queue.
    pub fn view(&self, topic: TopicId, queue: QueueId) -> Option<QueueView> {
        self.handle.inner.queues.view(topic, queue)
    }

    /// Reads the message whose record begins at a position, and verifies its checksum.
    ///
    /// # Errors
    ///
    /// If no record begins there, it is damaged, or the file cannot be read.
    pub fn read(&self, position: LogPosition) -> Result<StoredMessage, StorageError> {
        self.handle.inner.reader.read(position)
    }

    /// Has the directory say that its journal may tell of positions in lite topics, which programs of before them cannot
    /// read. To be called before the first of such entries; durable when this returns.
    ///
    /// # Errors
    ///
    /// If `FORMAT` cannot be written.
    pub fn need_lite_topics(&self) -> Result<(), StorageError> {
        self.handle.inner.need(Feature::LiteTopics)
    }

    /// Puts entries into the group journal, in the order of the calls.
    ///
    /// `done` runs when they are as safe as `wait` asks: on a thread of storage, or for [`Wait::None`] at once.
    pub fn journal(&self, entries: Vec<JournalEntry>, wait: Wait, done: Option<JournalDone>) {
        self.handle.inner.journal(&entries, wait, done);
    }

    /// Returns, once, the entries that the start found in the group journal.
    pub fn take_journal(&self) -> Vec<JournalEntry> {
        std::mem::take(&mut *self.handle.inner.replayed.lock())
    }

    /// Says that everything which [`Events::rotate_journal`] asks for has been passed to
    /// [`journal`](Self::journal). Once that is durable, what the journal held before is unlinked.
    pub fn journal_rotated(&self) {
        let inner = &self.handle.inner;
        // After a close, entries of the snapshot may have been refused: what the journal held is all there is.
        if inner.intake.lock().closed {
            return;
        }
        inner.flush.lock().journal.rotated = true;
        inner.flush_filled.notify_one();
    }

    /// Returns the room on the disk that holds the data directory.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn space(&self) -> Result<Space, StorageError> {
        let inner = &self.handle.inner;
        inner.options.env.space(&inner.dir).map_err(StorageError::io("ask for the free space of", &inner.dir))
    }

    /// Returns the segments of the log that have had their last write, oldest first. A checkpoint unlinks the oldest
    /// once no row of any queue lies in it; others can be compacted.
    pub fn sealed_segments(&self) -> Vec<SealedSegment> {
        let sealed = self.handle.inner.log.segments.all().into_iter().filter_map(|segment| {
            let range = segment.base()..segment.sealed_end()?;
            // A file that cannot tell its length tells so when it is read or unlinked.
            Some(SealedSegment { range, bytes: segment.file_len().unwrap_or_default() })
        });
        sealed.collect()
    }

    /// Returns whether a sealed segment of the log, which begins at `base`, would be compacted if `live` bytes of it could
    /// be reached. If it is gone already, or is no larger than
    /// [`compaction_bytes_min`](StorageOptions::compaction_bytes_min), that is as good.
    ///
    /// # Errors
    ///
    /// If the system does not say how long its file is.
    pub fn would_be_small(&self, base: LogPosition, live: u64) -> Result<bool, StorageError> {
        self.handle.inner.would_be_small(base, live)
    }

    /// Returns what the segments of the log take, in bytes. Zeros ahead of the end do not count.
    ///
    /// # Errors
    ///
    /// If the system does not say how long a file is.
    pub fn log_bytes(&self) -> Result<u64, StorageError> {
        let log = &self.handle.inner.log;
        log.segments.all().iter().try_fold(0, |sum, segment| Ok(sum + log.bytes_of(segment)?))
    }

    /// Returns what the segments of the log will take as they are needed now, in bytes: once the oldest in which no row
    /// lies are unlinked, and those that are mostly dead are compacted, but for those for which there was no room.
    /// About: of a block whose rows lie in several segments each gets its share.
    ///
    /// # Errors
    ///
    /// If the system does not say how long a file is.
    pub fn log_bytes_when_compacted(&self) -> Result<u64, StorageError> {
        self.handle.inner.log_bytes_when_compacted()
    }

    /// Makes a checkpoint now: the next start reads the log from here on only.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or the storage has been closed.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        self.handle.inner.checkpoint(Mark::Running)
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Inner {
        &self.handle.inner
    }
}

/// Fails the storage if its thread panics: nobody would be answered any more.
struct PanicGuard<'a>(&'a Inner);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let thread = thread::current().name().unwrap_or_default().to_owned();
            self.0.fail(StorageError::Panicked { thread });
        }
    }
}

/// Whether a checkpoint is the last word of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Running,
    Clean,
}

impl Inner {
    /// Returns an error if a sync has failed.
    fn check(&self) -> Result<(), StorageError> {
        match self.failure.get() {
            Some(cause) => Err(StorageError::Failed { cause: Arc::new(cause.clone()) }),
            None => Ok(()),
        }
    }

    /// Takes note of a failure after which nothing may be acknowledged.
    fn fail(&self, error: StorageError) {
        let error = match error {
            StorageError::Failed { cause } => cause.as_ref().clone(),
            error => error,
        };
        if self.failure.set(error.clone()).is_ok() {
            tracing::error!(%error, "storage stops");
            self.events.failed(&error);
            self.intake_filled.notify_all();
            self.flush_filled.notify_all();
            self.room.notify_all();
        }
    }

    /// Has the directory say what a reader of compressed bodies must know, before there is any.
    fn may_compress(&self, compression: Compression) -> Result<(), StorageError> {
        if compression.is_none() {
            return Ok(());
        }
        self.need(Feature::CompressedBodies)
    }

    /// Has the directory say what a reader must know, before there is any of it.
    fn need(&self, feature: Feature) -> Result<(), StorageError> {
        self.check()?;
        let mut directory = self.directory.lock();
        let directory = directory.as_mut().ok_or(StorageError::Closed)?;
        directory.need(self.options.env.as_ref(), &self.dir, feature)
    }

    /// Changes the catalogue; a failed sync there is as bad as in the log.
    fn change<T>(
        &self,
        change: impl FnOnce(&Catalogue) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.check()?;
        // Held, so that nothing is written once a close has given the directory away.
        let directory = self.directory.lock();
        if directory.is_none() {
            return Err(StorageError::Closed);
        }
        let result = change(&self.catalogue);
        drop(directory);
        if let Err(error) = &result
            && error.is_failed_sync()
        {
            self.fail(error.clone());
        }
        self.want_upkeep(self.catalogue.frames());
        result
    }

    /// Returns an error after a close: the directory may be another process's by now.
    fn check_open(&self) -> Result<(), StorageError> {
        if self.directory.lock().is_none() { Err(StorageError::Closed) } else { Ok(()) }
    }
}
