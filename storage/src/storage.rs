//! The public handle of storage, and its threads.
//!
//! ```text
//! append ─► intake ─► appender ─► frame in the page cache ─► flusher ─► durable ─► answered (`sync`)
//!                        │  └─ answered (`async`)                          │
//!                        └────► builder ─► consume queues ─► visible ◄─────┘
//! ```
//!
//! Each thread repeats one step (`append_once`, `flush_once`, `build_once`, …) while there is work. Tests
//! call the steps themselves, so that a simulated disk sees the same calls in the same order every time.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    catalogue::{Catalogue, DurabilityClass, GroupEntry, NewGroup, NewTopic, TopicEntry},
    clock::{Clock, MachineClock},
    env::{DiskEnv, Env, Open, read_file, replace_file},
    error::{Fault, StorageError},
    format::{
        checkpoint::Checkpoint,
        frame::FRAME_HEADER_LEN,
        journal::decode_entries,
        record::{RecordView, records_of},
        segment::SegmentKind,
    },
    journal::{JournalBuffer, JournalDone, JournalEntry, QueueCut, Wait, cut_entries},
    limits::{CHECKPOINT_BYTES_MAX, JOURNAL_HELD_BYTES_MAX},
    lock::DataDirectory,
    log::{
        appender::{
            Append, AppendDone, Appender, Batch, Intake, Outcome, Topics, WrittenBatch, WrittenFrame,
            batch_len,
        },
        flusher::{FlushQueue, HeldJournal, JournalWriter, Waiting},
        reader::{LogReader, RecentFrames},
        segment::{FrameLog, FrameLogSettings, FrameLogShared},
    },
    message::StoredMessage,
    offset::{Epoch, GroupId, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::ReadRecords,
        checkpoint::QueuesCheckpoint,
        store::{OpenedQueues, Queues, QueuesSettings},
        view::{Part, QueueView},
    },
    recovery::{Cut, Fence, Found, Known, find_end, for_each_frame},
};

const CHECKPOINT: &str = "checkpoint";
/// The builder takes so much at once, and a start replays so much at once.
const BUILD_BYTES: usize = 4 << 20;
/// Zeros that could not be written are tried again after this time.
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);
/// How often the free space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// How storage works. The sizes are bounds; nothing is reserved for them.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The file system. Default: that of the machine.
    pub env: Arc<dyn Env>,
    /// The clock. Default: that of the machine.
    pub clock: Arc<dyn Clock>,
    /// Size of the first log segment, in bytes. Default: 64 MiB.
    pub log_segment_bytes_min: u64,
    /// The size to which log segments grow, in bytes. Default: 1 GiB.
    pub log_segment_bytes_max: u64,
    /// So many bytes of zeros are written ahead of the end of the log. Default: 64 MiB.
    pub zero_ahead_bytes: u64,
    /// Size of a segment of the group journal, in bytes. Default: 64 MiB.
    pub journal_segment_bytes: u64,
    /// So many bytes of zeros are written ahead of the end of the journal. Default: 4 MiB.
    pub journal_zero_ahead_bytes: u64,
    /// The journal is rotated when it has grown by so many bytes. Default: 64 MiB.
    pub journal_rotate_bytes: u64,
    /// A checkpoint is made after so many bytes of log. Default: 256 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made after this time if the log has grown. Default: 30 s.
    pub checkpoint_interval: Duration,
    /// What nobody waits for is synced after this time. Default: 200 ms.
    pub async_sync_interval: Duration,
    /// Publishers wait while so many bytes are not durable. Default: 8 MiB.
    pub unsynced_bytes_max: u64,
    /// Publishers wait while so many bytes are not in the consume queues. Default: 64 MiB.
    pub unbuilt_bytes_max: u64,
    /// Publishers that have waited so long are refused. Default: 1 s.
    pub busy_after: Duration,
    /// So many bytes written last are kept in memory for readers. Default: 64 MiB.
    pub recent_bytes_max: u64,
    /// Appends are refused while the disk has fewer free bytes. Default: 256 MiB.
    pub free_bytes_min: u64,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            env: Arc::new(DiskEnv),
            clock: Arc::new(MachineClock::default()),
            log_segment_bytes_min: 64 << 20,
            log_segment_bytes_max: 1 << 30,
            zero_ahead_bytes: 64 << 20,
            journal_segment_bytes: 64 << 20,
            journal_zero_ahead_bytes: 4 << 20,
            journal_rotate_bytes: 64 << 20,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(30),
            async_sync_interval: Duration::from_millis(200),
            unsynced_bytes_max: 8 << 20,
            unbuilt_bytes_max: 64 << 20,
            busy_after: Duration::from_secs(1),
            recent_bytes_max: 64 << 20,
            free_bytes_min: 256 << 20,
        }
    }
}

impl StorageOptions {
    /// Returns options for tests: small files, so that opening a directory is quick and segments turn over.
    pub fn small() -> Self {
        Self {
            log_segment_bytes_min: 1 << 20,
            log_segment_bytes_max: 4 << 20,
            zero_ahead_bytes: 256 << 10,
            journal_segment_bytes: 1 << 20,
            journal_zero_ahead_bytes: 64 << 10,
            journal_rotate_bytes: 1 << 20,
            checkpoint_bytes: 4 << 20,
            recent_bytes_max: 4 << 20,
            free_bytes_min: 0,
            ..Self::default()
        }
    }
}

/// What storage tells its owner. Called on threads of storage; must not block.
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

/// What deleting a topic gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreedSpace {
    /// Rows that were there.
    pub rows: u64,
    /// Bytes of consume queues; their files go with the next checkpoint. The bytes in the log go with its
    /// segments.
    pub queue_bytes: u64,
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
        inner.intake.lock().closed = true;
        if threads.is_empty() || threads.iter().any(|thread| thread.thread().id() == thread::current().id()) {
            // The last handle was dropped by a callback: that thread cannot wait for itself.
            inner.stop_all();
            return;
        }
        for stop in [
            Inner::stop_appender,
            Inner::stop_flusher,
            Inner::stop_builder,
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
    /// Up to this position the consume queues hold the log.
    built: AtomicU64,
    /// The durable end of the log that builder and publishers have been told of.
    announced: AtomicU64,

    upkeep: Mutex<Upkeep>,
    upkeep_wanted: Condvar,
    keeper: Mutex<Upkeep>,
    keeper_wanted: Condvar,
    /// Held over a checkpoint.
    checkpoint: Mutex<LastCheckpoint>,

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
    fences: Vec<std::ops::Range<LogPosition>>,
}

impl ReadRecords for LogReader {
    fn read(&self, position: LogPosition) -> Result<StoredMessage, StorageError> {
        Self::read(self, position)
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
            ("appender", Inner::run_appender as fn(&Inner)),
            ("flusher", Inner::run_flusher),
            ("builder", Inner::run_builder),
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
        let closed = inner.check().and_then(|()| inner.checkpoint(Mark::Clean));
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
        // The durable end first: it never lies above the written end.
        let durable = log.durable();
        LogEnds { written: log.tip().written, durable }
    }

    /// Returns all topics, by id.
    pub fn topics(&self) -> Vec<Arc<TopicEntry>> {
        self.handle.inner.catalogue.topics()
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
        attributes: String,
    ) -> Result<Arc<TopicEntry>, StorageError> {
        let inner = &self.handle.inner;
        let topic = inner.change(|catalogue| catalogue.alter_topic(id, queues, class, attributes))?;
        add_queues(&inner.queues, &topic);
        Ok(topic)
    }

    /// Deletes a topic and its consume queues; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or the catalogue cannot be written.
    pub fn delete_topic(&self, id: TopicId) -> Result<FreedSpace, StorageError> {
        let inner = &self.handle.inner;
        let topic = inner.catalogue.topic(id).ok_or(StorageError::UnknownTopic { topic: id })?;
        let freed = inner.space_of(&topic);
        inner.change(|catalogue| catalogue.delete_topic(id))?;
        inner.appender.lock().forget(id);
        inner.queues.remove_topic(id);
        inner.want_checkpoint();
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
        inner.is_due.store(true, Ordering::Release);
        Ok(())
    }

    /// Appends messages to their queues. They keep their order and are stored together or not at all.
    ///
    /// `done` runs on a thread of storage once they are durable by the classes of their topics: if all are
    /// `async`, once they are written. The call waits, up to `busy_after`, while too much is unsynced or unbuilt.
    pub fn append(&self, batch: Vec<Append>, done: AppendDone) {
        self.handle.inner.append(batch, done);
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

    fn space_of(&self, topic: &TopicEntry) -> FreedSpace {
        let mut freed = FreedSpace::default();
        for view in (0..topic.queues).filter_map(|queue| self.queues.view(topic.id, QueueId(queue))) {
            freed.rows += view.range().end.since(view.range().start).unwrap_or_default();
            for segment in view.segments() {
                freed.queue_bytes += segment.bytes();
            }
        }
        freed
    }

    // ---- the appender

    fn append(&self, messages: Vec<Append>, done: AppendDone) {
        if messages.is_empty() {
            return done(Ok(Vec::new()));
        }
        let admitted = self.check().and_then(|()| self.check_space()).and_then(|()| batch_len(&messages));
        let bytes = match admitted {
            Ok(bytes) => bytes,
            Err(error) => return done(Err(error)),
        };
        let mut intake = self.intake.lock();
        let deadline = Instant::now() + self.options.busy_after;
        while let Some((unsynced, unbuilt)) = self.overload(&intake) {
            if intake.closed || self.failure.get().is_some() {
                break;
            }
            if self.room.wait_until(&mut intake, deadline).timed_out() && self.overload(&intake).is_some() {
                drop(intake);
                return done(Err(StorageError::Busy { unsynced, unbuilt }));
            }
        }
        let refused = if intake.closed { Err(StorageError::Closed) } else { self.check() };
        match refused {
            Ok(()) => {
                let was_empty = intake.is_empty();
                intake.push(Batch { messages, bytes, done });
                drop(intake);
                if was_empty {
                    self.intake_filled.notify_one();
                }
            }
            Err(error) => {
                drop(intake);
                done(Err(error));
            }
        }
    }

    fn check_space(&self) -> Result<(), StorageError> {
        if self.low_space.load(Ordering::Relaxed) {
            return Err(StorageError::NoSpace { action: "append to", path: self.dir.clone() });
        }
        self.check_marked()
    }

    fn check_marked(&self) -> Result<(), StorageError> {
        if !self.is_marked.load(Ordering::Acquire) {
            return Err(StorageError::NoSpace { action: "append to", path: self.dir.clone() });
        }
        Ok(())
    }

    /// Writes what must be on the disk before anything is appended: the ends that the start has found, and, in
    /// the checkpoint file, that the last stop was not clean and that the epoch is taken.
    pub(crate) fn mark_running(&self) -> Result<(), StorageError> {
        self.check()?;
        let last = self.checkpoint.lock();
        self.check_open()?;
        if self.is_marked.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Err(error) = self.journal_writer.lock().write_cuts(self.options.clock.wall_ms()) {
            if error.is_failed_sync() {
                self.fail(error.clone());
            }
            return Err(error);
        }
        self.write_checkpoint(&last, Mark::Running)?;
        self.is_marked.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns the bytes unsynced and unbuilt if they are too many.
    fn overload(&self, intake: &Intake) -> Option<(u64, u64)> {
        let durable = self.log.durable().0;
        let built = self.built.load(Ordering::Acquire);
        let written = self.log.tip().written.0;
        let unsynced = intake.bytes + written.saturating_sub(durable);
        let unbuilt = intake.bytes + written.saturating_sub(built);
        let over = unsynced >= self.options.unsynced_bytes_max || unbuilt >= self.options.unbuilt_bytes_max;
        over.then_some((unsynced, unbuilt))
    }

    fn make_room(&self) {
        // Under the lock, so that nobody who has just found no room misses the call.
        drop(self.intake.lock());
        self.room.notify_all();
    }

    fn run_appender(&self) {
        loop {
            {
                let mut intake = self.intake.lock();
                while intake.is_empty() {
                    if intake.closed {
                        return;
                    }
                    self.intake_filled.wait(&mut intake);
                }
            }
            self.append_once();
        }
    }

    /// Writes one frame with what has queued up.
    pub(crate) fn append_once(&self) {
        let mut appender = self.appender.lock();
        let batches = self.intake.lock().take();
        if let Err(error) = self.check() {
            return batches.into_iter().for_each(|batch| (batch.done)(Err(error.clone())));
        }
        match appender.append(batches, self, self.options.clock.wall_ms()) {
            None => {}
            Some(Outcome::Written(frame, written)) => self.pass_on(frame, written),
            Some(Outcome::Failed(error, dones)) => {
                if let StorageError::Failed { .. } = &error {
                    self.fail(error.clone());
                }
                for done in dones {
                    done(Err(error.clone()));
                }
            }
        }
    }

    /// Passes a frame to readers, builder and flusher.
    fn pass_on(&self, frame: WrittenFrame, written: Vec<WrittenBatch>) {
        let end = frame.header.end().0;
        self.reader.recent.push(frame.header.position, frame.bytes.clone());
        self.build.lock().frames.push_back(frame);
        self.build_filled.notify_one();
        let mut answers = Vec::new();
        let hurry = end.saturating_sub(self.log.durable().0) >= self.options.unsynced_bytes_max / 2;
        {
            let mut flush = self.flush.lock();
            for WrittenBatch { appended, done, must_sync } in written {
                if must_sync {
                    flush.waiting.push(Waiting { appended, done });
                } else {
                    answers.push((done, appended));
                }
            }
            flush.hurry |= hurry;
            if !flush.is_empty() {
                self.flush_filled.notify_one();
            }
        }
        for (done, appended) in answers {
            done(Ok(appended));
        }
        self.want_upkeep(&self.log);
    }

    // ---- the flusher

    fn journal(&self, entries: &[JournalEntry], wait: Wait, done: Option<JournalDone>) {
        let mut flush = self.flush.lock();
        let refused = if flush.stop { Err(StorageError::Closed) } else { self.check() };
        let refused = refused.and_then(|()| self.check_marked()).and_then(|()| {
            if flush.held.bytes < JOURNAL_HELD_BYTES_MAX {
                return Ok(());
            }
            Err(StorageError::NoSpace { action: "append to", path: self.dir.join("journal") })
        });
        flush.refused |= refused.is_err();
        if refused.is_err() || wait == Wait::None {
            if refused.is_ok() {
                flush.journal.push(entries, wait, None);
                self.flush_filled.notify_one();
            }
            drop(flush);
            if let Some(done) = done {
                done(refused);
            }
            return;
        }
        flush.journal.push(entries, wait, done);
        drop(flush);
        self.flush_filled.notify_one();
    }

    fn run_flusher(&self) {
        loop {
            let mut idle = false;
            let mut is_last = false;
            {
                let mut flush = self.flush.lock();
                while flush.is_empty() && !idle && !is_last {
                    is_last = flush.stop;
                    if is_last && flush.held.chunks.is_empty() {
                        return;
                    }
                    if !is_last {
                        let interval = self.options.async_sync_interval;
                        idle = self.flush_filled.wait_for(&mut flush, interval).timed_out();
                    }
                }
            }
            self.flush_once(idle || is_last);
            if is_last {
                return;
            }
        }
    }

    /// Makes durable what somebody waits for (or everything, with `all`), and answers those who wait.
    pub(crate) fn flush_once(&self, all: bool) {
        let (waiting, mut journal, hurry) = {
            let mut flush = self.flush.lock();
            let mut journal = std::mem::take(&mut flush.journal);
            let HeldJournal { mut chunks, rotated, .. } = std::mem::take(&mut flush.held);
            chunks.append(&mut journal.chunks);
            journal.chunks = chunks;
            journal.rotated |= rotated;
            (std::mem::take(&mut flush.waiting), journal, std::mem::take(&mut flush.hurry))
        };
        let must_sync = journal.must_sync();
        let synced = self.check().and_then(|()| {
            if all || hurry || must_sync || !waiting.is_empty() {
                self.sync_log()?;
            }
            Ok(())
        });
        if let Err(error) = synced {
            self.fail(error);
        }
        let synced = self.check();
        for Waiting { appended, done } in waiting {
            done(synced.clone().map(|()| appended));
        }
        let written = synced.and_then(|()| self.flush_journal(&mut journal, all));
        if !journal.chunks.is_empty() {
            self.hold(&mut journal);
        }
        // Who is told an error may find the entry in the journal later all the same: nothing was promised, and
        // every entry keeps its place in the order. Dropping it would drop those that nobody waits for, too.
        for (_, done) in journal.waiting {
            done(written.clone());
        }
    }

    /// Keeps what could not be written, so that it is written before anything newer.
    fn hold(&self, journal: &mut JournalBuffer) {
        let chunks = std::mem::take(&mut journal.chunks);
        let bytes = chunks.iter().map(|chunk| chunk.frame.len() as u64).sum();
        tracing::warn!(bytes, "entries of the group journal wait until they can be written");
        self.flush.lock().held = HeldJournal { chunks, bytes, rotated: std::mem::take(&mut journal.rotated) };
    }

    fn sync_log(&self) -> Result<(), StorageError> {
        let durable = self.log.sync()?.0;
        // Not the durable end before this sync: the end of a segment moves it, too, and tells nobody.
        if self.announced.fetch_max(durable, Ordering::AcqRel) < durable {
            self.build.lock().publish = true;
            self.build_filled.notify_one();
            self.make_room();
        }
        Ok(())
    }

    /// The log has been synced before: an entry never becomes durable before the rows that it names.
    fn flush_journal(&self, buffer: &mut JournalBuffer, all: bool) -> Result<(), StorageError> {
        let mut writer = self.journal_writer.lock();
        let must_sync = buffer.must_sync();
        if let Err(error) = writer.write(buffer, self.options.clock.wall_ms()) {
            if let StorageError::Failed { .. } = &error {
                self.fail(error.clone());
            }
            return Err(error);
        }
        if (must_sync || all)
            && let Err(error) = self.journal.sync()
        {
            self.fail(error);
            return self.check();
        }
        if std::mem::take(&mut buffer.rotated) {
            if self.flush.lock().refused {
                tracing::warn!("entries were refused while the group journal rotated: it is kept whole");
                writer.abandon_rotation();
                return Ok(());
            }
            writer.end_rotation()?;
        }
        self.want_upkeep(&self.journal);
        if self.check_marked().is_err() {
            // A snapshot would be refused.
            return Ok(());
        }
        match writer.begin_rotation() {
            Ok(true) => {
                // What was refused before is in the snapshot if it happened at all.
                self.flush.lock().refused = false;
                self.events.rotate_journal();
            }
            Ok(false) => {}
            Err(error) => {
                if let StorageError::Failed { .. } = &error {
                    self.fail(error);
                    return self.check();
                }
                tracing::warn!(%error, "cannot rotate the group journal");
            }
        }
        Ok(())
    }

    // ---- the builder

    fn run_builder(&self) {
        loop {
            {
                let mut build = self.build.lock();
                while build.frames.is_empty() && !build.publish {
                    if build.stop {
                        return;
                    }
                    self.build_filled.wait(&mut build);
                }
            }
            self.build_once();
        }
    }

    /// Puts frames that were written into the consume queues, and makes rows visible.
    pub(crate) fn build_once(&self) {
        let frames = {
            let mut build = self.build.lock();
            build.publish = false;
            let mut bytes = 0;
            let mut frames = Vec::new();
            while bytes < BUILD_BYTES {
                let Some(frame) = build.frames.pop_front() else {
                    break;
                };
                bytes += frame.bytes.len();
                frames.push(frame);
            }
            frames
        };
        if let Some(last) = frames.last() {
            let payloads = frames.iter().map(|frame| (frame.payload_position(), frame.payload()));
            self.queues.add(rows_of(payloads));
            self.built.store(last.header.end().0, Ordering::Release);
            self.make_room();
        }
        let built = LogPosition(self.built.load(Ordering::Acquire));
        self.publish(built);
        let since = built.0.saturating_sub(self.checkpoint.try_lock().map_or(built.0, |last| last.log.0));
        if since >= self.options.checkpoint_bytes {
            self.want_checkpoint();
        }
    }

    fn publish(&self, built: LogPosition) {
        let durable = self.log.durable().min(built);
        let mut each = |topic, queue, end| self.events.visible(topic, queue, end);
        self.queues.publish(built, durable, &mut each);
    }

    // ---- upkeep: zeros ahead of the ends

    fn want_upkeep(&self, frames: &FrameLogShared) {
        if frames.wants_preparing() {
            self.upkeep.lock().wanted = true;
            self.upkeep_wanted.notify_one();
        }
    }

    fn run_upkeep(&self) {
        loop {
            let done = self.upkeep_once();
            let mut upkeep = self.upkeep.lock();
            if !done && !upkeep.stop {
                self.upkeep_wanted.wait_for(&mut upkeep, UPKEEP_PAUSE);
            }
            while !upkeep.wanted && !upkeep.stop {
                self.upkeep_wanted.wait(&mut upkeep);
            }
            if upkeep.stop {
                return;
            }
            upkeep.wanted = false;
        }
    }

    /// Writes zeros until enough of them lie ahead of every end; returns whether that worked.
    pub(crate) fn upkeep_once(&self) -> bool {
        for frames in [self.log.as_ref(), self.journal.as_ref(), self.catalogue.frames()] {
            let mut more = frames.wants_preparing();
            while more {
                if self.failure.get().is_some() || self.upkeep.lock().stop {
                    return false;
                }
                match frames.prepare() {
                    Ok(again) => more = again,
                    Err(error) if error.is_failed_sync() => {
                        self.fail(error);
                        return false;
                    }
                    Err(error) => {
                        // Frames do not need the zeros; they only make syncs quicker.
                        tracing::warn!(%error, "cannot write zeros ahead");
                        return false;
                    }
                }
            }
        }
        true
    }

    // ---- the keeper: checkpoints and free space

    fn want_checkpoint(&self) {
        self.keeper.lock().wanted = true;
        self.keeper_wanted.notify_one();
    }

    fn run_keeper(&self) {
        let mut since_checkpoint = Duration::ZERO;
        let tick = SPACE_INTERVAL.min(self.options.checkpoint_interval);
        loop {
            let wanted = {
                let mut keeper = self.keeper.lock();
                if !keeper.wanted && !keeper.stop {
                    self.keeper_wanted.wait_for(&mut keeper, tick);
                }
                if keeper.stop {
                    return;
                }
                std::mem::take(&mut keeper.wanted)
            };
            self.look_at_space();
            // As long as it fails, callers are told that there is no room.
            let _ = self.mark_running();
            since_checkpoint += tick;
            if wanted || since_checkpoint >= self.options.checkpoint_interval {
                since_checkpoint = Duration::ZERO;
                let made = if wanted { self.checkpoint(Mark::Running) } else { self.checkpoint_if_moved() };
                if let Err(error) = made {
                    tracing::warn!(%error, "cannot make a checkpoint");
                }
            }
        }
    }

    fn look_at_space(&self) {
        if self.options.free_bytes_min == 0 {
            return;
        }
        if let Ok(space) = self.options.env.space(&self.dir) {
            let low = space.free < self.options.free_bytes_min;
            if low != self.low_space.swap(low, Ordering::Relaxed) {
                tracing::warn!(free = space.free, low, "the free space of the disk has crossed its bound");
            }
        }
    }

    fn checkpoint_if_moved(&self) -> Result<(), StorageError> {
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let is_due = self.is_due.load(Ordering::Acquire);
        if !is_due && self.checkpoint.lock().log == self.log.durable().min(built) {
            return Ok(());
        }
        self.checkpoint(Mark::Running)
    }

    /// Writes the rows that are durable into files of the consume queues, and says so in the checkpoint file.
    fn checkpoint(&self, mark: Mark) -> Result<(), StorageError> {
        self.check()?;
        let mut last = self.checkpoint.lock();
        if mark == Mark::Running {
            self.check_open()?;
        }
        // Before the work, so that rows which end meanwhile ask for another.
        self.is_due.store(false, Ordering::Release);
        let made = self.make_checkpoint(&mut last, mark);
        if made.is_err() {
            self.is_due.store(true, Ordering::Release);
        }
        made
    }

    fn make_checkpoint(&self, last: &mut LastCheckpoint, mark: Mark) -> Result<(), StorageError> {
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let log = self.log.durable().min(built);
        let queues = self.queues.checkpoint(log)?.encode();
        let next = LastCheckpoint { log, queues, fences: last.fences.clone() };
        self.write_checkpoint(&next, mark)?;
        *last = next;
        self.queues.retire();
        if mark == Mark::Running {
            self.remove_unreachable_log(log)?;
        }
        Ok(())
    }

    /// Unlinks the segments of the log that no row of any queue lies in.
    fn remove_unreachable_log(&self, checkpoint: LogPosition) -> Result<(), StorageError> {
        let oldest = self.log.segments.all().into_iter().next();
        if oldest.and_then(|oldest| oldest.sealed_end()).is_none_or(|end| end > checkpoint) {
            return Ok(());
        }
        // Above the checkpoint lie rows that no view need show yet.
        let mut needed = checkpoint;
        for topic in self.catalogue.topics() {
            for queue in (0..topic.queues).map(QueueId) {
                let Some(view) = self.queues.view(topic.id, queue) else { continue };
                match first_position(&view) {
                    Some(first) => needed = needed.min(first),
                    // It has rows that no view shows yet; where they lie is not known here.
                    None if self.queues.next_offset(topic.id, queue) > view.range().start => return Ok(()),
                    None => {}
                }
            }
        }
        let freed = self.log.remove_before(needed)?;
        if freed > 0 {
            tracing::info!(freed, before = %needed, "segments of the log that no queue reaches are gone");
        }
        Ok(())
    }

    fn write_checkpoint(&self, last: &LastCheckpoint, mark: Mark) -> Result<(), StorageError> {
        let checkpoint = Checkpoint {
            uuid: self.uuid,
            epoch: self.epoch,
            clean: mark == Mark::Clean,
            log: last.log,
            durable: self.log.durable(),
            journal: self.journal.durable(),
            store_time_ms: self.appender.lock().store_time_ms(),
            fences: last.fences.clone(),
            queues: last.queues.clone(),
        };
        let path = self.dir.join(CHECKPOINT);
        replace_file(self.options.env.as_ref(), &path, &checkpoint.encode(), Open::Create)
    }

    // ---- the end

    fn stop_appender(&self) {
        drop(self.intake.lock());
        self.intake_filled.notify_all();
        self.room.notify_all();
    }

    fn stop_flusher(&self) {
        self.flush.lock().stop = true;
        self.flush_filled.notify_all();
    }

    fn stop_builder(&self) {
        self.build.lock().stop = true;
        self.build_filled.notify_all();
    }

    fn stop_upkeep(&self) {
        self.upkeep.lock().stop = true;
        self.upkeep_wanted.notify_all();
    }

    fn stop_keeper(&self) {
        self.keeper.lock().stop = true;
        self.keeper_wanted.notify_all();
    }

    fn stop_all(&self) {
        self.stop_appender();
        self.stop_flusher();
        self.stop_builder();
        self.stop_upkeep();
        self.stop_keeper();
    }

    /// Does what the threads have left: nobody else is at work.
    fn finish_steps(&self) -> Result<(), StorageError> {
        while !self.intake.lock().is_empty() {
            self.append_once();
        }
        self.flush_once(true);
        self.check()?;
        while !self.build.lock().frames.is_empty() {
            self.build_once();
        }
        self.build_once();
        // The flush above has tried once more.
        let bytes = self.flush.lock().held.bytes;
        if bytes > 0 {
            return Err(StorageError::Unwritten { bytes, path: self.dir.join("journal") });
        }
        Ok(())
    }
}

/// Returns where in the log the first row of a queue lies, or a position before it, if it has rows.
fn first_position(view: &QueueView) -> Option<LogPosition> {
    let first = view.range().start;
    let block = match view.part_at(first)? {
        // Of a damaged block its directory still knows where its rows begin.
        Part::Segment(segment, number) => match segment.block(number) {
            Ok(block) => block,
            Err(_) => return Some(segment.entry(number).first_position),
        },
        Part::Run(block) => block,
    };
    let row = first.since(block.base()).and_then(|row| usize::try_from(row).ok()).unwrap_or_default();
    block.positions().values().get(row).copied().map(LogPosition)
}

/// Returns the rows in payloads of frames.
fn rows_of<'a>(
    payloads: impl Iterator<Item = (LogPosition, &'a [u8])>,
) -> impl Iterator<Item = RecordView<'a>> {
    payloads.flat_map(|(position, payload)| records_of(payload, position)).filter_map(|record| match record {
        Ok(view) => view.kind.is_row().then_some(view),
        Err((position, fault)) => {
            tracing::error!(%position, %fault, "a record of the log cannot be understood; its frame's rest is skipped");
            None
        }
    })
}

/// A start under way.
struct Opening {
    dir: PathBuf,
    options: StorageOptions,
    begun: Instant,
    directory: DataDirectory,
    catalogue: Catalogue,
    /// What the checkpoint file says, or why it is not used.
    checkpoint: Result<Checkpoint, String>,
}

/// The log as a start found it, with the consume queues over it.
struct Rebuilt {
    log: FrameLog,
    reader: Arc<LogReader>,
    queues: Queues,
    fences: Vec<Fence>,
    cut: Option<Cut>,
    found: FoundEnd,
    replay_from: LogPosition,
    last: LastCheckpoint,
}

/// How this process begins.
#[derive(Clone, Copy)]
struct NextLife {
    epoch: Epoch,
    /// The end of the group journal.
    journal: LogPosition,
}

#[derive(Clone, Copy)]
struct FoundEnd {
    end: LogPosition,
    store_time_ms: i64,
}

impl Opening {
    /// Locks the directory and reads what says how to go on.
    fn new(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let begun = Instant::now();
        let env = &options.env;
        let directory = DataDirectory::open(env.as_ref(), dir, options.clock.as_ref())?;
        let catalogue_dir = dir.join("catalogue");
        let catalogue = Catalogue::open(env, &catalogue_dir, directory.uuid, Arc::clone(&options.clock))?;
        let checkpoint = read_checkpoint(env.as_ref(), dir, &directory.uuid)?;
        Ok(Self { dir: dir.to_owned(), options, begun, directory, catalogue, checkpoint })
    }

    fn finish(self, events: Arc<dyn Events>) -> Result<Inner, StorageError> {
        let checked = self.checkpoint.as_ref().map_or(LogPosition(0), |checkpoint| checkpoint.log);
        let log_found = self.find_log(checked)?;
        let (journal_found, journal_settings) = self.find_journal()?;
        let clean = self.is_clean(&log_found, &journal_found);
        let epoch = self.next_epoch(clean, &log_found, &journal_found);
        let next = NextLife { epoch, journal: journal_found.end };
        let rebuilt = self.rebuild(log_found, &next)?;
        let replayed_bytes = rebuilt.found.end.0.saturating_sub(rebuilt.replay_from.0);

        let (entries, cuts) = self.cut_journal(&journal_found, &rebuilt.queues)?;
        let now_ms = self.options.clock.wall_ms();
        let Found { segments, end, new_fences: journal_fences, cut: journal_cut, .. } = journal_found;
        let journal = FrameLog::new(Arc::clone(&self.options.env), journal_settings, epoch, segments, end);
        let cut_queues = cuts.len();
        let mut journal_writer = JournalWriter::new(journal, epoch, self.options.journal_rotate_bytes, cuts);
        let mut rebuilt = rebuilt;
        let begun = rebuilt.log.begin_first(now_ms).and_then(|()| journal_writer.begin_first(now_ms));
        if let Err(error) = begun {
            // A full disk must not keep readers away; the first append tries again.
            tracing::warn!(%error, "cannot begin a segment");
        }

        let report = RecoveryReport {
            clean,
            epoch,
            log_end: rebuilt.found.end,
            cut: rebuilt.cut.clone(),
            fences: rebuilt.fences.clone(),
            journal_fences,
            journal_cut,
            cut_queues,
            without_checkpoint: self.checkpoint.as_ref().err().cloned(),
            replayed_bytes,
            duration: self.begun.elapsed(),
        };
        for fence in report.fences.iter().chain(&report.journal_fences) {
            tracing::error!(?fence, "damage was found and fenced off: what lay there is lost");
        }
        let inner = self.into_inner(events, epoch, report, rebuilt, journal_writer, entries);
        match inner.mark_running() {
            Err(error @ StorageError::NoSpace { .. }) => {
                tracing::warn!(%error, "nothing can be appended before there is room");
            }
            other => other?,
        }
        inner.look_at_space();
        Ok(inner)
    }

    /// Follows the log to its end.
    fn find_log(&self, from: LogPosition) -> Result<Found, StorageError> {
        let known = self.checkpoint.as_ref().map_or_else(
            |_| Known::default(),
            |checkpoint| Known {
                from,
                durable: checkpoint.durable,
                clean: checkpoint.clean,
                fences: checkpoint.fences.clone(),
            },
        );
        find_end(self.options.env.as_ref(), &self.log_settings(), &known)
    }

    fn log_settings(&self) -> FrameLogSettings {
        FrameLogSettings {
            kind: SegmentKind::Log,
            dir: self.dir.join("log"),
            uuid: self.directory.uuid,
            segment_bytes_min: self.options.log_segment_bytes_min,
            segment_bytes_max: self.options.log_segment_bytes_max,
            zero_ahead_bytes: self.options.zero_ahead_bytes,
        }
    }

    fn find_journal(&self) -> Result<(Found, FrameLogSettings), StorageError> {
        let settings = FrameLogSettings {
            kind: SegmentKind::Journal,
            dir: self.dir.join("journal"),
            uuid: self.directory.uuid,
            segment_bytes_min: self.options.journal_segment_bytes,
            segment_bytes_max: self.options.journal_segment_bytes,
            zero_ahead_bytes: self.options.journal_zero_ahead_bytes,
        };
        let known = self.checkpoint.as_ref().map_or_else(
            |_| Known::default(),
            |checkpoint| Known { durable: checkpoint.journal, clean: checkpoint.clean, ..Known::default() },
        );
        let found = find_end(self.options.env.as_ref(), &settings, &known)?;
        Ok((found, settings))
    }

    fn is_clean(&self, log: &Found, journal: &Found) -> bool {
        let ended =
            |found: &Found, end| found.end == end && found.new_fences.is_empty() && found.cut.is_none();
        self.checkpoint.as_ref().is_ok_and(|checkpoint| {
            checkpoint.clean && ended(log, checkpoint.durable) && ended(journal, checkpoint.journal)
        })
    }

    fn next_epoch(&self, clean: bool, log: &Found, journal: &Found) -> Epoch {
        let known = self.checkpoint.as_ref().map_or(Epoch(0), |checkpoint| checkpoint.epoch);
        if clean { known } else { Epoch(known.max(log.epoch).max(journal.epoch).0 + 1) }
    }

    /// Opens the consume queues, and reads into them what the log holds beyond their files.
    fn rebuild(&self, found: Found, next: &NextLife) -> Result<Rebuilt, StorageError> {
        let listed =
            self.checkpoint.as_ref().ok().map(|checkpoint| QueuesCheckpoint::decode(&checkpoint.queues));
        let listed = listed.and_then(Result::ok);
        let from = match (&listed, &self.checkpoint) {
            (Some(_), Ok(checkpoint)) => checkpoint.log,
            _ => LogPosition(0),
        };
        let found =
            if listed.is_none() && self.checkpoint.is_ok() { self.find_log(LogPosition(0))? } else { found };
        let (parts, opened) = self.open_queues(found, listed.as_ref(), next.epoch)?;
        if !opened.rebuild && opened.dropped.is_empty() {
            return self.replay(parts, opened.queues, from, next);
        }
        drop(opened);
        drop(parts);
        let (parts, opened) = self.open_queues(self.find_log(LogPosition(0))?, None, next.epoch)?;
        self.replay(parts, opened.queues, LogPosition(0), next)
    }

    fn open_queues(
        &self,
        found: Found,
        listed: Option<&QueuesCheckpoint>,
        epoch: Epoch,
    ) -> Result<(LogParts, OpenedQueues), StorageError> {
        let env = &self.options.env;
        let Found { segments, end, fences, new_fences, cut, store_time_ms, .. } = found;
        let log = FrameLog::new(Arc::clone(env), self.log_settings(), epoch, segments, end);
        let reader = Arc::new(LogReader {
            shared: Arc::clone(&log.shared),
            recent: RecentFrames::new(self.options.recent_bytes_max),
            fences,
        });
        let settings = QueuesSettings { epoch, uuid: self.directory.uuid };
        let records: Arc<dyn ReadRecords> = Arc::clone(&reader) as _;
        let opened = Queues::open(&self.dir, Arc::clone(env), records, listed, end, settings)?;
        for topic in self.catalogue.topics() {
            add_queues(&opened.queues, &topic);
        }
        Ok((LogParts { log, reader, new_fences, cut, found: FoundEnd { end, store_time_ms } }, opened))
    }

    /// Reads into the consume queues what the log holds beyond their files. A long log is read in parts, each
    /// of which goes into files, so that memory does not grow with it.
    fn replay(
        &self,
        parts: LogParts,
        queues: Queues,
        from: LogPosition,
        next: &NextLife,
    ) -> Result<Rebuilt, StorageError> {
        let LogParts { log, reader, new_fences, cut, found } = parts;
        let mut replay = Replay { queues: &queues, payloads: Vec::new(), bytes: 0 };
        let mut last = self.last_checkpoint(from, &reader);
        let mut tried = from;
        let range = from..found.end;
        for_each_frame(&log.shared.segments, &reader.fences, range, &mut |header, payload| {
            replay.push(LogPosition(header.position.0 + FRAME_HEADER_LEN as u64), payload);
            if header.end().0 - tried.0 >= self.options.checkpoint_bytes {
                replay.flush();
                tried = header.end();
                match self.replayed(&queues, tried, &last, &found, next) {
                    Ok(made) => last = made,
                    // A full disk must not keep readers away: the rows stay in memory for now.
                    Err(error @ StorageError::NoSpace { .. }) => {
                        tracing::warn!(%error, "cannot make a checkpoint");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        replay.flush();
        queues.publish(found.end, found.end, &mut |_, _, _| {});
        Ok(Rebuilt { log, reader, queues, fences: new_fences, cut, found, replay_from: from, last })
    }

    /// Makes a checkpoint of what has been replayed.
    fn replayed(
        &self,
        queues: &Queues,
        log: LogPosition,
        last: &LastCheckpoint,
        found: &FoundEnd,
        next: &NextLife,
    ) -> Result<LastCheckpoint, StorageError> {
        let listed = queues.checkpoint(log)?.encode();
        let made = LastCheckpoint { log, queues: listed, fences: last.fences.clone() };
        self.write_checkpoint(&made, found, next)?;
        queues.retire();
        Ok(made)
    }

    /// Returns what the checkpoint file says, or should say, of the consume queues that are read from `from` on.
    fn last_checkpoint(&self, from: LogPosition, reader: &LogReader) -> LastCheckpoint {
        // Consume queues that are built from the whole log have no files yet.
        let listed = self.checkpoint.as_ref().ok().filter(|_| from > LogPosition(0));
        let queues = listed.map(|checkpoint| checkpoint.queues.clone());
        LastCheckpoint {
            log: from,
            queues: queues.unwrap_or_else(|| QueuesCheckpoint::default().encode()),
            fences: reader.fences.clone(),
        }
    }

    fn write_checkpoint(
        &self,
        last: &LastCheckpoint,
        found: &FoundEnd,
        next: &NextLife,
    ) -> Result<(), StorageError> {
        let known = self.checkpoint.as_ref().map_or(i64::MIN, |checkpoint| checkpoint.store_time_ms);
        let checkpoint = Checkpoint {
            uuid: self.directory.uuid,
            epoch: next.epoch,
            clean: false,
            log: last.log,
            durable: found.end,
            journal: next.journal,
            store_time_ms: known.max(found.store_time_ms),
            fences: last.fences.clone(),
            queues: last.queues.clone(),
        };
        let path = self.dir.join(CHECKPOINT);
        replace_file(self.options.env.as_ref(), &path, &checkpoint.encode(), Open::Create)
    }

    fn cut_journal(
        &self,
        found: &Found,
        queues: &Queues,
    ) -> Result<(Vec<JournalEntry>, Vec<QueueCut>), StorageError> {
        let mut stored = Vec::new();
        for_each_frame(&found.segments, &found.fences, LogPosition(0)..found.end, &mut |header, payload| {
            match decode_entries(payload) {
                Ok(entries) => stored.extend(entries),
                Err(fault) => {
                    tracing::error!(position = %header.position, %fault, "entries of the group journal cannot be understood");
                }
            }
            Ok(())
        })?;
        let end_of = |topic, queue: QueueId| {
            let known = self.catalogue.topic(topic).filter(|topic| queue.0 < topic.queues);
            known.map(|_| queues.next_offset(topic, queue))
        };
        Ok(cut_entries(stored, &end_of))
    }

    fn into_inner(
        self,
        events: Arc<dyn Events>,
        epoch: Epoch,
        report: RecoveryReport,
        rebuilt: Rebuilt,
        journal_writer: JournalWriter,
        entries: Vec<JournalEntry>,
    ) -> Inner {
        let Rebuilt { log, reader, queues, found, last, .. } = rebuilt;
        let store_time_ms = self.checkpoint.as_ref().map_or(i64::MIN, |checkpoint| checkpoint.store_time_ms);
        Inner {
            dir: self.dir,
            options: self.options,
            events,
            uuid: self.directory.uuid,
            key: self.directory.key,
            directory: Mutex::new(Some(self.directory)),
            epoch,
            report,
            catalogue: self.catalogue,
            queues,
            log: Arc::clone(&log.shared),
            journal: Arc::clone(&journal_writer.shared),
            reader,
            replayed: Mutex::new(entries),
            intake: Mutex::default(),
            intake_filled: Condvar::new(),
            room: Condvar::new(),
            appender: Mutex::new(Appender::new(log, epoch, store_time_ms.max(found.store_time_ms))),
            flush: Mutex::default(),
            flush_filled: Condvar::new(),
            journal_writer: Mutex::new(journal_writer),
            build: Mutex::default(),
            build_filled: Condvar::new(),
            built: AtomicU64::new(found.end.0),
            announced: AtomicU64::new(found.end.0),
            upkeep: Mutex::default(),
            upkeep_wanted: Condvar::new(),
            keeper: Mutex::default(),
            keeper_wanted: Condvar::new(),
            checkpoint: Mutex::new(last),
            low_space: AtomicBool::new(false),
            is_marked: AtomicBool::new(false),
            is_due: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }
}

/// The log as a start found it.
struct LogParts {
    log: FrameLog,
    reader: Arc<LogReader>,
    new_fences: Vec<Fence>,
    cut: Option<Cut>,
    found: FoundEnd,
}

/// Gathers payloads, so that the consume queues get runs of a good size.
struct Replay<'a> {
    queues: &'a Queues,
    payloads: Vec<(LogPosition, Vec<u8>)>,
    bytes: usize,
}

impl Replay<'_> {
    fn push(&mut self, position: LogPosition, payload: &[u8]) {
        self.payloads.push((position, payload.to_vec()));
        self.bytes += payload.len();
        if self.bytes >= BUILD_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let payloads = self.payloads.iter().map(|(position, payload)| (*position, payload.as_slice()));
        self.queues.add(rows_of(payloads));
        self.payloads.clear();
        self.bytes = 0;
    }
}

fn add_queues(queues: &Queues, topic: &TopicEntry) {
    for queue in (0..topic.queues).map(QueueId) {
        queues.add_queue(topic.id, queue, topic.class, topic.first_offset(queue));
    }
}

/// Reads the checkpoint file. Without one, or with a damaged one, a start reads the whole log.
fn read_checkpoint(
    env: &dyn Env,
    dir: &Path,
    uuid: &[u8; 16],
) -> Result<Result<Checkpoint, String>, StorageError> {
    let path = dir.join(CHECKPOINT);
    let bytes = match read_file(env, &path, CHECKPOINT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Err("there is no checkpoint file".to_owned()));
        }
        Err(error) => return Err(error),
    };
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) if checkpoint.uuid == *uuid => Ok(Ok(checkpoint)),
        Ok(_) => Ok(Err("the checkpoint file belongs to another data directory".to_owned())),
        Err(Fault::Version(found)) => Err(StorageError::Newer { path, found, supported: 1 }),
        Err(fault) => Ok(Err(format!("the checkpoint file is damaged: {fault}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use weir_columns::Value;

    use super::*;
    use crate::message::Message;

    /// Keeps what it is told.
    #[derive(Default)]
    struct Told {
        visible: Mutex<std::collections::HashMap<(TopicId, QueueId), QueueOffset>>,
        rotations: AtomicU64,
        failures: Mutex<Vec<String>>,
    }

    impl Events for Told {
        fn visible(&self, topic: TopicId, queue: QueueId, end: QueueOffset) {
            self.visible.lock().insert((topic, queue), end);
        }
        fn rotate_journal(&self) {
            self.rotations.fetch_add(1, Ordering::SeqCst);
        }
        fn failed(&self, error: &StorageError) {
            self.failures.lock().push(error.to_string());
        }
    }

    fn message(number: u64) -> Message {
        Message {
            message_id: format!("id-{number}"),
            properties: vec![("number".into(), Value::I64(number as i64))],
            body: format!("body {number}").into(),
            ..Message::default()
        }
    }

    fn append(
        storage: &Storage,
        topic: TopicId,
        numbers: std::ops::Range<u64>,
    ) -> Result<Vec<Appended>, StorageError> {
        let (sender, receiver) = mpsc::channel();
        let queue = QueueId(0);
        let batch = numbers.map(|number| Append { topic, queue, message: message(number) }).collect();
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap()
    }

    fn topic(name: &str) -> NewTopic {
        NewTopic { name: name.into(), queues: 2, attributes: "{}".into(), ..NewTopic::default() }
    }

    use crate::log::appender::Appended;

    /// Storage without threads on a simulated disk, and where its answers go.
    fn stepped(options: StorageOptions) -> (Storage, crate::sim::SimEnv, TopicId, TopicId) {
        let env = crate::sim::SimEnv::new(3);
        let options = StorageOptions { env: Arc::new(env.clone()), ..options };
        let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
        let new = |name, class| NewTopic { class, ..topic(name) };
        let sync = storage.create_topic(new("sync", DurabilityClass::Sync)).unwrap().id;
        let relaxed = storage.create_topic(new("async", DurabilityClass::Async)).unwrap().id;
        (storage, env, sync, relaxed)
    }

    fn send(
        storage: &Storage,
        topic: TopicId,
        number: u64,
    ) -> mpsc::Receiver<Result<Vec<Appended>, StorageError>> {
        let (sender, receiver) = mpsc::channel();
        let batch = vec![Append { topic, queue: QueueId(0), message: message(number) }];
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        receiver
    }

    #[test]
    fn each_class_is_acknowledged_and_visible_at_its_own_moment() {
        let (storage, _, sync, relaxed) = stepped(StorageOptions::small());
        let (of_sync, of_relaxed) = (send(&storage, sync, 1), send(&storage, relaxed, 2));
        let inner = storage.inner();
        let visible = || [sync, relaxed].map(|topic| storage.view(topic, QueueId(0)).unwrap().range().end.0);
        assert!(of_relaxed.try_recv().is_err() && of_sync.try_recv().is_err());
        inner.append_once();
        inner.build_once();
        assert!(of_relaxed.try_recv().unwrap().is_ok(), "it is written");
        assert!(of_sync.try_recv().is_err(), "it is not durable");
        assert_eq!(visible(), [0, 1]);
        let ends = storage.ends();
        assert!(ends.durable < ends.written);
        inner.flush_once(false);
        assert!(of_sync.try_recv().unwrap().is_ok());
        assert_eq!(storage.ends().durable, ends.written);
        inner.build_once();
        assert_eq!(visible(), [1, 1]);
    }

    #[test]
    fn one_frame_takes_all_that_has_queued_up_and_a_publisher_that_waits_too_long_is_refused() {
        let busy_after = Duration::from_millis(1);
        let options = StorageOptions { unsynced_bytes_max: 2000, busy_after, ..StorageOptions::small() };
        let (storage, _, sync, _) = stepped(options);
        let waiting: Vec<_> = (0..).map(|number| send(&storage, sync, number)).take(40).collect();
        let refused = waiting.iter().filter(|answer| answer.try_recv().is_ok()).count();
        assert!((20..36).contains(&refused), "{refused}");
        let error = send(&storage, sync, 99).try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StorageError::Busy { unsynced: 2000.., .. }), "{error}");
        let inner = storage.inner();
        inner.append_once();
        assert!(inner.intake.lock().is_empty());
        assert_eq!(inner.build.lock().frames.len(), 1);
        assert!(matches!(send(&storage, sync, 99).try_recv(), Ok(Err(StorageError::Busy { .. }))));
        inner.flush_once(false);
        assert!(send(&storage, sync, 99).try_recv().is_err(), "there is room again");
    }

    #[test]
    fn nothing_is_changed_after_a_close() {
        let (storage, _, sync, _) = stepped(StorageOptions::small());
        let answer = send(&storage, sync, 1);
        storage.close().unwrap();
        assert!(answer.try_recv().unwrap().is_ok(), "what was taken is finished");
        assert!(matches!(storage.create_topic(topic("t")), Err(StorageError::Closed)));
        assert!(matches!(send(&storage, sync, 1).try_recv(), Ok(Err(StorageError::Closed))));
        assert!(storage.close().is_ok(), "twice does no harm");
        assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(1), "readers go on");
    }

    #[test]
    fn what_was_acknowledged_is_there_after_close_and_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(Told::default());
        let mut all = Vec::new();
        let mut id = None;
        for round in 0..4 {
            let storage =
                Storage::open(dir.path(), StorageOptions::small(), Arc::clone(&told) as Arc<dyn Events>)
                    .unwrap();
            let report = storage.report();
            assert_eq!(report.clean, round == 2, "{report:?}");
            let id = *id.get_or_insert_with(|| storage.create_topic(topic("t")).unwrap().id);
            for position in &all {
                let Appended { offset, position, .. } = *position;
                let stored = storage.read(position).unwrap();
                assert_eq!((stored.offset, stored.message), (offset, message(offset.0)));
            }
            let from = all.len() as u64;
            all.extend(append(&storage, id, from..from + 10).unwrap());
            all.extend(append(&storage, id, from + 10..from + 11).unwrap());
            assert!(all.iter().map(|appended| appended.offset.0).eq(0..all.len() as u64));
            let begun = Instant::now();
            while storage.view(id, QueueId(0)).unwrap().range().end.0 < all.len() as u64 {
                assert!(begun.elapsed() < Duration::from_secs(5), "rows become visible");
                thread::yield_now();
            }
            // The second round stops in good order, the others as if killed.
            if round == 1 {
                storage.close().unwrap();
            }
            drop(storage);
        }
        assert!(told.failures.lock().is_empty());
    }

    /// Storage whose journal rotates soon; opens the directory again after the first time.
    fn small_journal(env: &crate::sim::SimEnv) -> (Storage, Arc<Told>) {
        let options = StorageOptions {
            env: Arc::new(env.clone()),
            journal_segment_bytes: 64 << 10,
            journal_zero_ahead_bytes: 4 << 10,
            journal_rotate_bytes: 16 << 10,
            ..StorageOptions::small()
        };
        let told = Arc::new(Told::default());
        let storage = Storage::open_stepped(Path::new("/data"), options, Arc::clone(&told) as _).unwrap();
        (storage, told)
    }

    fn selector(group: u32, text: &str) -> JournalEntry {
        JournalEntry::Selector {
            group: GroupId(group),
            topic: TopicId(1),
            slot: 0,
            text: text.repeat(4000),
            dialect: 0,
            kind: crate::journal::SelectorKind::Sql,
            starts: Vec::new(),
        }
    }

    /// Writes so much that a rotation begins.
    fn begin_rotation(storage: &Storage, told: &Told) -> Vec<JournalEntry> {
        let old: Vec<_> = (0..5).map(|group| selector(group, "old")).collect();
        storage.journal(old.clone(), Wait::Durable, None);
        storage.inner().flush_once(false);
        assert_eq!(told.rotations.load(Ordering::SeqCst), 1);
        old
    }

    #[test]
    fn a_rotation_on_a_full_disk_loses_nothing() {
        for room_comes in [false, true] {
            let env = crate::sim::SimEnv::new(3);
            let (storage, told) = small_journal(&env);
            let old = begin_rotation(&storage, &told);
            env.set_capacity(Some(env.used()));
            let new: Vec<_> = (0..5).map(|group| selector(group, "new")).collect();
            for entry in &new {
                storage.journal(vec![entry.clone()], Wait::None, None);
                storage.inner().flush_once(false);
            }
            storage.journal_rotated();
            storage.inner().flush_once(false);
            env.set_capacity(None);
            if room_comes {
                storage.inner().flush_once(true);
            }
            env.kill();
            drop(storage);
            let entries = small_journal(&env).0.take_journal();
            assert_eq!(entries, if room_comes { new } else { old }, "room comes: {room_comes}");
        }
    }

    #[test]
    fn a_rotation_is_abandoned_if_part_of_its_snapshot_was_refused() {
        let env = crate::sim::SimEnv::new(3);
        let (storage, told) = small_journal(&env);
        let old = begin_rotation(&storage, &told);
        let inner = storage.inner();
        inner.is_marked.store(false, Ordering::Release);
        storage.journal(vec![selector(0, "new")], Wait::None, None);
        inner.is_marked.store(true, Ordering::Release);
        storage.journal(vec![selector(1, "new")], Wait::None, None);
        storage.journal_rotated();
        inner.flush_once(false);
        inner.flush_once(true);
        assert_eq!(told.rotations.load(Ordering::SeqCst), 2, "it is tried again");
        env.kill();
        drop(storage);
        let (storage, _) = small_journal(&env);
        assert_eq!(storage.take_journal(), [old, vec![selector(1, "new")]].concat());
    }

    #[test]
    fn entries_that_found_no_room_are_written_in_order_once_there_is_some() {
        let env = crate::sim::SimEnv::new(3);
        let (storage, _) = small_journal(&env);
        let all: Vec<_> = (0..3).map(|group| selector(group, "x")).collect();
        env.set_capacity(Some(env.used()));
        for entry in &all[..2] {
            storage.journal(vec![entry.clone()], Wait::None, None);
            storage.inner().flush_once(false);
        }
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| sender.send(result).unwrap());
        storage.journal(vec![all[2].clone()], Wait::Durable, Some(done));
        storage.inner().flush_once(false);
        assert!(matches!(receiver.recv().unwrap(), Err(StorageError::NoSpace { .. })));
        assert!(storage.inner().flush.lock().is_empty(), "the flusher does not spin");
        env.set_capacity(None);
        storage.inner().flush_once(true);
        env.lose_power();
        drop(storage);
        assert_eq!(small_journal(&env).0.take_journal(), all);
    }

    #[test]
    fn entries_are_refused_when_too_many_wait_for_room() {
        let env = crate::sim::SimEnv::new(3);
        let (storage, _) = small_journal(&env);
        storage.inner().flush.lock().held.bytes = JOURNAL_HELD_BYTES_MAX;
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| sender.send(result).unwrap());
        storage.journal(vec![selector(0, "x")], Wait::None, Some(done));
        assert!(matches!(receiver.recv().unwrap(), Err(StorageError::NoSpace { .. })));
        assert!(storage.inner().flush.lock().refused);
    }

    #[test]
    fn entries_that_never_find_room_make_a_close_fail_which_can_be_repeated() {
        let env = crate::sim::SimEnv::new(3);
        let (storage, _) = small_journal(&env);
        env.set_capacity(Some(env.used()));
        storage.journal(vec![selector(0, "x")], Wait::None, None);
        storage.inner().flush_once(false);
        let error = storage.close().unwrap_err();
        assert!(matches!(error, StorageError::Unwritten { bytes: 4000.., .. }), "{error}");
        env.set_capacity(None);
        storage.close().unwrap();
        env.lose_power();
        let (storage, _) = small_journal(&env);
        assert!(storage.report().clean);
        assert_eq!(storage.take_journal(), [selector(0, "x")]);
    }

    #[test]
    fn after_a_failed_sync_every_sync_of_the_file_fails() {
        for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
            let (storage, env, sync, _) = stepped(StorageOptions::small());
            let answer = send(&storage, sync, 1);
            let inner = storage.inner();
            inner.append_once();
            env.fail(crate::sim::SimCall::Sync, 0, kind);
            // As the thread that writes zeros ahead does, just before it tells of its failure.
            assert!(inner.log.prepare().unwrap_err().is_failed_sync());
            inner.flush_once(false);
            let error = answer.try_recv().unwrap().unwrap_err();
            assert!(matches!(error, StorageError::Failed { .. }), "{error}");
        }
    }

    #[test]
    fn a_failed_sync_fails_the_storage_whoever_meets_it() {
        // The sync of a change of the catalogue; then, when it is summed up, those of the sealed segment and of
        // the new one.
        for after in [0, 1, 3] {
            let (storage, env, sync, _) = stepped(StorageOptions::small());
            let change = |size| {
                let attributes = "x".repeat(size);
                storage.alter_topic(sync, 2, DurabilityClass::Sync, attributes)
            };
            change(600 << 10).unwrap();
            env.fail(crate::sim::SimCall::Sync, after, std::io::ErrorKind::StorageFull);
            let error = change(600 << 10).unwrap_err();
            assert!(error.is_failed_sync(), "{after}: {error}");
            assert!(matches!(storage.create_topic(topic("t")), Err(StorageError::Failed { .. })), "{after}");
            assert!(matches!(send(&storage, sync, 1).try_recv(), Ok(Err(StorageError::Failed { .. }))));
        }
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let _answer = send(&storage, sync, 1);
        storage.inner().append_once();
        env.fail(crate::sim::SimCall::Sync, 0, std::io::ErrorKind::StorageFull);
        assert!(!storage.inner().upkeep_once());
        assert!(matches!(storage.checkpoint(), Err(StorageError::Failed { .. })));
    }

    /// Appends a message that begins a new segment, on a disk that has room for the seal of the last one alone.
    fn fail_to_begin(storage: &Storage, env: &crate::sim::SimEnv, topic: TopicId) {
        let (sender, receiver) = mpsc::channel();
        let message = Message { body: vec![0; 1 << 20].into(), ..message(9) };
        let batch = vec![Append { topic, queue: QueueId(0), message }];
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        // The seal, the cut behind it, and the header of the next segment.
        env.fail(crate::sim::SimCall::Write, 2, std::io::ErrorKind::StorageFull);
        storage.inner().append_once();
        assert!(matches!(receiver.try_recv().unwrap(), Err(StorageError::NoSpace { .. })));
    }

    #[test]
    fn rows_before_a_segment_that_cannot_be_begun_become_visible() {
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let answer = send(&storage, sync, 1);
        let inner = storage.inner();
        inner.append_once();
        inner.build_once();
        fail_to_begin(&storage, &env, sync);
        inner.flush_once(false);
        assert!(answer.try_recv().unwrap().is_ok());
        assert!(inner.build.lock().publish, "the builder is woken");
        inner.build_once();
        assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(1));
    }

    #[test]
    fn nothing_is_appended_behind_a_seal() {
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let _answer = send(&storage, sync, 1);
        storage.inner().append_once();
        fail_to_begin(&storage, &env, sync);
        let open = || {
            let options = StorageOptions { env: Arc::new(env.clone()), ..StorageOptions::small() };
            Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap()
        };
        env.kill();
        drop(storage);
        env.set_capacity(Some(env.used()));
        let storage = open();
        env.set_capacity(None);
        // Both lie where the seal ends: the checkpoint, and the end that it states.
        storage.close().unwrap();
        env.kill();
        drop(storage);
        let storage = open();
        assert!(storage.report().clean);
        let answer = send(&storage, sync, 2);
        storage.inner().append_once();
        storage.inner().flush_once(false);
        assert!(answer.try_recv().unwrap().is_ok());
        env.kill();
        drop(storage);
        env.lose(Path::new("/data/checkpoint"));
        let storage = open();
        assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(2));
        let segments = env.paths().into_iter().filter(|path| path.starts_with("/data/log"));
        assert_eq!(segments.count(), 2);
    }

    #[test]
    fn a_checkpoint_that_found_no_room_is_made_at_the_next_interval() {
        // Two writes of a file of consume queues, then that of the checkpoint file.
        for after in 0..3 {
            let (storage, env, sync, _) = stepped(StorageOptions::small());
            let _answer = send(&storage, sync, 1);
            let inner = storage.inner();
            inner.append_once();
            inner.flush_once(false);
            inner.build_once();
            let fail = |after| env.fail(crate::sim::SimCall::Write, after, std::io::ErrorKind::StorageFull);
            fail(after);
            inner.checkpoint_if_moved().unwrap_err();
            inner.checkpoint_if_moved().unwrap();
            let files = || env.paths().into_iter().filter(|path| path.starts_with("/data/queues")).count();
            assert_eq!(files(), 1);
            storage.set_first_offset(sync, QueueId(0), QueueOffset(1)).unwrap();
            fail(0);
            inner.checkpoint_if_moved().unwrap_err();
            inner.checkpoint_if_moved().unwrap();
            assert_eq!(files(), 0, "what it no longer lists is gone");
            let (end, uuid) = (storage.ends().durable, storage.uuid());
            env.kill();
            drop(storage);
            let checkpoint = read_checkpoint(&env, Path::new("/data"), &uuid).unwrap().unwrap();
            assert_eq!(checkpoint.log, end);
        }
    }

    #[test]
    fn a_start_on_a_full_disk_writes_the_ends_that_it_found_before_anything_is_appended() {
        let (storage, env, _, relaxed) = stepped(StorageOptions::small());
        let inner = storage.inner();
        let ack = |offset| JournalEntry::Ack {
            group: GroupId(1),
            topic: relaxed,
            queue: QueueId(0),
            offsets: vec![QueueOffset(offset)],
        };
        let mut positions = Vec::new();
        for number in 0..5 {
            let answer = send(&storage, relaxed, number);
            inner.append_once();
            positions.push(answer.try_recv().unwrap().unwrap()[0].position);
        }
        storage.journal(vec![ack(1), ack(4)], Wait::Written, None);
        inner.flush_once(false);
        env.kill();
        drop(storage);
        let segment = env.paths().into_iter().find(|path| path.starts_with("/data/log")).unwrap();
        env.damage(&segment, |bytes| bytes[4096 + positions[3].0 as usize + 50] ^= 1);
        env.set_capacity(Some(env.used()));
        let open = || {
            let options = StorageOptions { env: Arc::new(env.clone()), ..StorageOptions::small() };
            Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap()
        };
        let storage = open();
        assert_eq!(storage.report().cut_queues, 1);
        assert_eq!(storage.view(relaxed, QueueId(0)).unwrap().range().end, QueueOffset(3));
        assert_eq!(storage.take_journal(), [ack(1)]);
        assert!(matches!(send(&storage, relaxed, 9).try_recv(), Ok(Err(StorageError::NoSpace { .. }))));
        storage.inner().mark_running().unwrap_err();
        assert!(matches!(send(&storage, relaxed, 9).try_recv(), Ok(Err(StorageError::NoSpace { .. }))));
        env.set_capacity(None);
        storage.inner().mark_running().unwrap();
        for number in 13..15 {
            let answer = send(&storage, relaxed, number);
            storage.inner().append_once();
            assert_eq!(answer.try_recv().unwrap().unwrap()[0].offset, QueueOffset(number - 10));
        }
        env.kill();
        drop(storage);
        assert_eq!(open().take_journal(), [ack(1)], "offset 4 is another message now");
    }

    #[test]
    fn a_long_log_is_replayed_on_a_full_disk() {
        let options = || StorageOptions { checkpoint_bytes: 1000, ..StorageOptions::small() };
        let (storage, env, sync, _) = stepped(options());
        for number in 0..20 {
            let answer = send(&storage, sync, number);
            storage.inner().append_once();
            storage.inner().flush_once(false);
            answer.try_recv().unwrap().unwrap();
        }
        env.kill();
        drop(storage);
        env.set_capacity(Some(env.used()));
        let options = StorageOptions { env: Arc::new(env), ..options() };
        let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
        assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(20));
    }

    #[test]
    fn nothing_is_written_after_a_close() {
        let (storage, env, _, _) = stepped(StorageOptions::small());
        storage.close().unwrap();
        let checkpoint =
            |env: &crate::sim::SimEnv| read_file(env, Path::new("/data/checkpoint"), 1 << 20).unwrap();
        let before = checkpoint(&env);
        assert!(matches!(storage.checkpoint(), Err(StorageError::Closed)));
        assert!(matches!(storage.inner().mark_running(), Err(StorageError::Closed)));
        assert_eq!(checkpoint(&env), before);
    }
}
