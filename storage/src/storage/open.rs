//! How a start finds out how the files ended, and goes on from there.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use super::{
    BUILD_BYTES, CHECKPOINT, Events, Inner, LastCheckpoint, RecoveryReport, options::StorageOptions,
    pending::pending_topic, threads::rows_of,
};
use crate::{
    catalogue::{Catalogue, TopicEntry},
    done::Done,
    env::{Env, Open, read_file, replace_file},
    error::{Fault, StorageError},
    format::{
        checkpoint::Checkpoint,
        journal::{Stored, decode_entries},
        record::{RECORD_HEADER_LEN, RecordHint, padded},
        segment::SegmentKind,
    },
    journal::{CutJournal, DoneEntry, JournalEntry, NamedEnds, QueueCut, cut_entries, note_named_ends},
    limits::CHECKPOINT_BYTES_MAX,
    lock::DataDirectory,
    log::{
        appender::Appender,
        fences::Fences,
        flusher::{FlushQueue, JournalWriter},
        reader::{LogReader, RecentFrames},
        segment::{FrameLog, FrameLogSettings},
        walk::for_each_piece,
    },
    offset::{Epoch, LogPosition, QueueId, QueueOffset},
    queue::{
        block::ReadRecords,
        checkpoint::QueuesCheckpoint,
        store::{OpenedQueues, Queues, QueuesSettings},
    },
    recovery::{Cut, Fence, Found, Known, find_end},
};

/// A start under way.
pub(super) struct Opening {
    dir: PathBuf,
    options: StorageOptions,
    begun: Instant,
    directory: DataDirectory,
    catalogue: Catalogue,
    /// What the checkpoint file says, or why it is not used.
    checkpoint: Result<Checkpoint, String>,
    /// How far the group journal states that the log was durable.
    log_durable: LogPosition,
}

/// The log as a start found it, with the consume queues over it.
struct Rebuilt {
    log: FrameLog,
    reader: Arc<LogReader>,
    queues: Queues,
    fences: Vec<Fence>,
    cut: Option<Cut>,
    hints: Vec<RecordHint>,
    found: FoundEnd,
    replay_from: LogPosition,
    last: LastCheckpoint,
    /// What pending rows the replayed log releases, of which the journal does not tell.
    released: Done,
}

/// How this process begins.
#[derive(Clone, Copy)]
struct NextLife {
    epoch: Epoch,
    /// The end of the group journal.
    journal: LogPosition,
}

/// What a start goes on with of the group journal.
struct Taken {
    writer: JournalWriter,
    entries: Vec<JournalEntry>,
    done: Done,
    flush: FlushQueue,
}

#[derive(Clone, Copy)]
struct FoundEnd {
    end: LogPosition,
    store_time_ms: i64,
}

impl Opening {
    /// Locks the directory and reads what says how to go on.
    pub(super) fn new(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let begun = Instant::now();
        let env = &options.env;
        let directory = DataDirectory::open(env.as_ref(), dir, options.clock.as_ref())?;
        // What the checkpoint in place makes unneeded goes; an older one must not come back after that.
        env.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
        let checkpoint = read_checkpoint(env.as_ref(), dir, &directory.uuid)?;
        let known = checkpoint.as_ref().map_or_else(
            |_| Known::default(),
            |checkpoint| Known { durable: checkpoint.catalogue, clean: checkpoint.clean, ..Known::default() },
        );
        let catalogue_dir = dir.join("catalogue");
        let clock = Arc::clone(&options.clock);
        let catalogue = Catalogue::open(env, &catalogue_dir, directory.uuid, &known, clock)?;
        let (dir, log_durable) = (dir.to_owned(), LogPosition(0));
        Ok(Self { dir, options, begun, directory, catalogue, checkpoint, log_durable })
    }

    pub(super) fn finish(mut self, events: Arc<dyn Events>) -> Result<Inner, StorageError> {
        let checked = self.checkpoint.as_ref().map_or(LogPosition(0), |checkpoint| checkpoint.log);
        // First, because it states how far the log was durable.
        let (journal_found, journal_settings) = self.find_journal()?;
        self.log_durable = journal_found.log_durable;
        let log_found = self.find_log(checked)?;
        let clean = self.is_clean(&log_found, &journal_found);
        let epoch = self.next_epoch(clean, &log_found, &journal_found);
        let next = NextLife { epoch, journal: journal_found.end };
        let stored = read_journal(&journal_found)?;
        let mut told = Done::default();
        self.begin_pending(&mut told);
        for stored in &stored {
            if let Stored::Done(entry) = stored {
                told.apply(entry);
            }
        }
        let rebuilt = self.rebuild(log_found, &next, &told)?;
        drop(told);
        let replayed_bytes = rebuilt.found.end.0.saturating_sub(rebuilt.replay_from.0);

        self.keep_lost_offsets(&rebuilt, &stored);
        let CutJournal { entries, cuts, done } = self.cut_journal(stored, &rebuilt.queues);
        let (done, flush) = self.take_done(&done, &rebuilt);
        let now_ms = self.options.clock.wall_ms();
        let Found { segments, end, new_fences: journal_fences, cut: journal_cut, .. } = journal_found;
        let journal = FrameLog::new(Arc::clone(&self.options.env), journal_settings, epoch, segments, end);
        let cut_queues = cuts.len();
        let mut writer = JournalWriter::new(
            journal,
            Arc::clone(&rebuilt.log.shared),
            epoch,
            self.options.journal_rotate_bytes,
            cuts,
        );
        if !journal_fences.is_empty() {
            writer.rotate_soon();
        }
        let mut rebuilt = rebuilt;
        let begun = rebuilt.log.begin_first(now_ms).and_then(|()| writer.begin_first(now_ms));
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
        let taken = Taken { writer, entries, done, flush };
        let inner = self.into_inner(events, epoch, report, rebuilt, taken);
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
        let mut known = self.checkpoint.as_ref().map_or_else(
            |_| Known::default(),
            |checkpoint| Known {
                from,
                durable: checkpoint.durable,
                clean: checkpoint.clean,
                fences: Fences::new(checkpoint.fences.clone()),
            },
        );
        known.durable = known.durable.max(self.log_durable);
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
    fn rebuild(&self, found: Found, next: &NextLife, told: &Done) -> Result<Rebuilt, StorageError> {
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
            return self.replay(parts, opened.queues, from, next, told);
        }
        drop(opened);
        drop(parts);
        let (parts, opened) = self.open_queues(self.find_log(LogPosition(0))?, None, next.epoch)?;
        self.replay(parts, opened.queues, LogPosition(0), next, told)
    }

    fn open_queues(
        &self,
        found: Found,
        listed: Option<&QueuesCheckpoint>,
        epoch: Epoch,
    ) -> Result<(LogParts, OpenedQueues), StorageError> {
        let env = &self.options.env;
        let Found { segments, end, fences, new_fences, hints, cut, store_time_ms, .. } = found;
        let log = FrameLog::new(Arc::clone(env), self.log_settings(), epoch, segments, end);
        let reader = Arc::new(LogReader {
            shared: Arc::clone(&log.shared),
            recent: RecentFrames::new(self.options.recent_bytes_max),
            fences,
        });
        let run_bytes_many = self.options.unfiled_bytes_max / 4;
        let settings = QueuesSettings { epoch, uuid: self.directory.uuid, run_bytes_many };
        let records: Arc<dyn ReadRecords> = Arc::clone(&reader) as _;
        let opened = Queues::open(&self.dir, Arc::clone(env), records, listed, end, settings)?;
        for topic in self.catalogue.topics() {
            add_queues(&opened.queues, &topic);
        }
        let found = FoundEnd { end, store_time_ms };
        Ok((LogParts { log, reader, new_fences, hints, cut, found }, opened))
    }

    /// Reads into the consume queues what the log holds beyond their files. A long log is read in parts, each
    /// of which goes into files, so that memory does not grow with it.
    fn replay(
        &self,
        parts: LogParts,
        queues: Queues,
        from: LogPosition,
        next: &NextLife,
        told: &Done,
    ) -> Result<Rebuilt, StorageError> {
        let LogParts { log, reader, new_fences, hints, cut, found } = parts;
        let mut replay =
            Replay { queues: &queues, payloads: Vec::new(), bytes: 0, told, released: Done::default() };
        let mut last = self.last_checkpoint(from, &reader);
        let mut tried = from;
        let range = from..found.end;
        for_each_piece(&log.shared.segments, &reader.fences, range, &mut |piece| {
            replay.push(piece.position, piece.bytes);
            let end = LogPosition(piece.position.0 + padded(piece.bytes.len() as u64));
            let part = end.0 - tried.0;
            // Not at every frame if it finds no room.
            let is_unfiled_due = part >= self.options.checkpoint_bytes / 16
                && queues.run_bytes() >= self.options.unfiled_bytes_max;
            if piece.is_whole && (part >= self.options.checkpoint_bytes || is_unfiled_due) {
                replay.flush();
                tried = end;
                if !replay.released.is_empty() {
                    // A checkpoint behind a release must wait for the journal, which can take nothing yet.
                    return Ok(());
                }
                match self.replayed(&queues, tried, &last, &found, next) {
                    Ok(made) => last = made,
                    // A full disk must not keep readers away: the rows stay in memory until a checkpoint finds room.
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
        let (fences, released) = (new_fences, replay.released);
        Ok(Rebuilt { log, reader, queues, fences, cut, hints, found, replay_from: from, last, released })
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
        let listed = queues.checkpoint(log, &mut || ())?.encode();
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
            fences: reader.fences.ranges().to_vec(),
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
            catalogue: self.catalogue.frames().durable(),
            file_lens: [0; 3],
            store_time_ms: known.max(found.store_time_ms),
            fences: last.fences.clone(),
            queues: last.queues.clone(),
        };
        let path = self.dir.join(CHECKPOINT);
        replace_file(self.options.env.as_ref(), &path, &checkpoint.encode(), Open::Create)
    }

    /// Keeps the offsets of rows whose records are damaged at the end of their queue, where no later row shows that
    /// they were given. Groups may have acknowledged them: another message must not get them.
    fn keep_lost_offsets(&self, rebuilt: &Rebuilt, stored: &[Stored]) {
        let Rebuilt { queues, hints, found, replay_from, reader, .. } = rebuilt;
        // What lies below has been told apart when it was met; the files of the queues know of it.
        let fences: Vec<_> = reader.fences.ranges().iter().filter(|fence| fence.end > *replay_from).collect();
        let Some(last) = fences.last() else { return };
        let bytes: u64 = fences.iter().map(|fence| fence.end.0 - fence.start.0).sum();
        // No fence has held more rows than that.
        let rows_max = bytes / RECORD_HEADER_LEN as u64 + 1;
        let store_time_ms = found.store_time_ms.max(0);
        let lose = |topic: &TopicEntry, queue, end: QueueOffset, position| {
            let from = queues.next_offset(topic.id, queue);
            let is_possible = queue < QueueId(topic.queues)
                && end.since(from).is_some_and(|rows| (1..=rows_max).contains(&rows));
            if is_possible && queues.lose_rows(topic, queue, end, position, store_time_ms) {
                tracing::warn!(
                    topic = %topic.name, %queue, first = %from, end = %end,
                    "the last rows of a queue were in a damaged part of the log: they keep their offsets"
                );
            }
        };
        let mut hints: Vec<&RecordHint> = hints.iter().collect();
        hints.sort_unstable_by_key(|hint| (hint.topic, hint.queue, hint.offset));
        for hint in hints {
            let topic = self.catalogue.topic(hint.topic);
            if let Some(topic) = topic.filter(|topic| topic.incarnation == hint.incarnation) {
                lose(&topic, hint.queue, hint.offset.plus(1), hint.position);
            }
        }
        let mut named = NamedEnds::new();
        note_named_ends(&mut named, stored);
        for ((topic, queue), end) in named {
            if let Some(topic) = self.catalogue.topic(topic) {
                lose(&topic, queue, end, last.start);
            }
        }
        queues.publish(found.end, found.end, &mut |_, _, _| {});
    }

    /// Returns which pending rows are done, and has the journal told of those that only the log tells of.
    fn take_done(&self, entries: &[DoneEntry], rebuilt: &Rebuilt) -> (Done, FlushQueue) {
        let (mut done, mut flush) = (Done::default(), FlushQueue::default());
        entries.iter().for_each(|entry| done.apply(entry));
        if !rebuilt.released.is_empty() {
            let end_of = |topic, queue| Some(rebuilt.queues.next_offset(topic, queue));
            for entry in done.merge(&rebuilt.released, &end_of) {
                flush.journal.push_done_entry(&entry);
            }
            done.releases_met(rebuilt.last.log);
        }
        self.begin_pending(&mut done);
        (done, flush)
    }

    /// Notes where the queues of the pending topic begin.
    fn begin_pending(&self, done: &mut Done) {
        if let Some(topic) = pending_topic(&self.catalogue) {
            topic.first_offsets.iter().for_each(|(queue, first)| done.begin(topic.id, *queue, *first));
        }
    }

    fn cut_journal(&self, stored: Vec<Stored>, queues: &Queues) -> CutJournal {
        let end_of = |topic, queue: QueueId| {
            let known = self.catalogue.topic(topic).filter(|topic| queue.0 < topic.queues);
            known.map(|_| queues.next_offset(topic, queue))
        };
        let cut = cut_entries(stored, &end_of);
        for QueueCut { topic, queue, end } in &cut.cuts {
            tracing::warn!(
                %topic, %queue, %end,
                "groups had been given rows of a queue that the crash took: what the journal says of them is dropped"
            );
        }
        cut
    }

    fn into_inner(
        self,
        events: Arc<dyn Events>,
        epoch: Epoch,
        report: RecoveryReport,
        rebuilt: Rebuilt,
        taken: Taken,
    ) -> Inner {
        let Taken { writer, entries, done, flush } = taken;
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
            journal: Arc::clone(&writer.shared),
            reader,
            replayed: Mutex::new(entries),
            done: Mutex::new(done),
            intake: Mutex::default(),
            intake_filled: Condvar::new(),
            room: Condvar::new(),
            appender: Mutex::new(Appender::new(log, epoch, store_time_ms.max(found.store_time_ms))),
            flush: Mutex::new(flush),
            flush_filled: Condvar::new(),
            journal_writer: Mutex::new(writer),
            build: Mutex::default(),
            build_filled: Condvar::new(),
            building: Mutex::default(),
            checkpoint_waiters: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            merger: Mutex::default(),
            merger_wanted: Condvar::new(),
            built: AtomicU64::new(found.end.0),
            announced: AtomicU64::new(found.end.0),
            publishing: Mutex::default(),
            upkeep: Mutex::default(),
            upkeep_wanted: Condvar::new(),
            keeper: Mutex::default(),
            keeper_wanted: Condvar::new(),
            compactor: Mutex::default(),
            compactor_wanted: Condvar::new(),
            // A stop may have come before the last rows that ended were seen to.
            has_ended: AtomicBool::new(true),
            is_copied: AtomicBool::new(false),
            checkpoint: Mutex::new(last),
            low_space: AtomicBool::new(false),
            is_marked: AtomicBool::new(false),
            is_due: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }
}

/// Reads all entries of the group journal.
fn read_journal(found: &Found) -> Result<Vec<Stored>, StorageError> {
    let mut stored = Vec::new();
    for_each_piece(&found.segments, &found.fences, LogPosition(0)..found.end, &mut |piece| {
        match decode_entries(piece.bytes) {
            Ok(entries) => stored.extend(entries),
            Err(fault) => {
                let position = piece.position;
                tracing::error!(%position, %fault, "entries of the group journal cannot be understood");
            }
        }
        Ok(())
    })?;
    Ok(stored)
}

/// The log as a start found it.
struct LogParts {
    log: FrameLog,
    reader: Arc<LogReader>,
    new_fences: Vec<Fence>,
    hints: Vec<RecordHint>,
    cut: Option<Cut>,
    found: FoundEnd,
}

/// Gathers payloads, so that the consume queues get runs of a good size.
struct Replay<'a> {
    queues: &'a Queues,
    payloads: Vec<(LogPosition, Vec<u8>)>,
    bytes: usize,
    /// Pending rows that the journal tells to be done.
    told: &'a Done,
    /// Those that the log releases beyond these.
    released: Done,
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
        let (told, released) = (self.told, &mut self.released);
        self.queues.add(rows_of(payloads).inspect(|record| {
            if let Some(row) = record.released().filter(|row| !told.contains(row)) {
                released.insert(row);
            }
        }));
        self.queues.merge_all();
        self.payloads.clear();
        self.bytes = 0;
    }
}

pub(super) fn add_queues(queues: &Queues, topic: &TopicEntry) {
    for queue in (0..topic.queues).map(QueueId) {
        queues.add_queue(topic.id, queue, topic.class, topic.first_offset(queue));
    }
}

/// Reads the checkpoint file. Without one, or with a damaged one, a start reads the whole log.
pub(super) fn read_checkpoint(
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
