//! The steps of the threads, the loops around them, and how they end.

use std::{
    fmt,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{BUILD_BYTES, Inner, LastCheckpoint, PanicGuard, rest::Pieces};
use crate::{
    error::StorageError,
    format::record::{RecordView, records_of},
    journal::{JournalBuffer, JournalDone, JournalEntry, Wait},
    limits::{JOURNAL_HELD_BYTES_MAX, TURN_BYTES_MAX},
    log::{
        appender::{
            Append, AppendDone, Appender, Batch, Intake, Outcome, WrittenBatch, WrittenFrame, pack_batch,
        },
        flusher::{FlushQueue, HeldJournal, Waiting},
        segment::FrameLogShared,
    },
    message::PendingRow,
    offset::LogPosition,
};

/// Who has had the turn to write for so long is waited for no longer by those who come.
const TURN_WAIT_MAX: Duration = Duration::from_millis(3);
/// Zeros that could not be written are tried again after this time.
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);
/// How often the free space is looked at.
pub(super) const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// The turn to write what waits for the appender. If it is dropped unused, the thread of the appender has it.
#[must_use = "others wait for what is written at this turn"]
pub struct Turn<'a> {
    inner: &'a Inner,
    is_done: bool,
}

impl Turn<'_> {
    /// Writes what waits for the appender, and puts its rows into the consume queues: all on this thread, which saves
    /// those who wait two changes of the thread. Takes about two microseconds a message, and as long as `pwrite` takes.
    /// What is more than [`TURN_BYTES_MAX`], or needs a new segment, is left to the threads of storage.
    pub fn write(mut self) {
        self.is_done = self.inner.append_here();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.inner.intake_filled.notify_one();
        }
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("is_done", &self.is_done).finish_non_exhaustive()
    }
}

impl Inner {
    // ---- the appender

    pub(super) fn append(&self, messages: Vec<Append>, done: AppendDone) {
        if let Some(batch) = self.admit(messages, done) {
            self.append_admitted(batch);
        }
    }

    /// As [`append`](Self::append), of what was admitted before.
    pub(super) fn append_admitted(&self, batch: Batch) {
        let mut intake = self.intake.lock();
        let deadline = Instant::now() + self.options.busy_after;
        while let Some(busy) = self.overload(&intake) {
            if intake.closed || self.failure.get().is_some() {
                break;
            }
            intake.waiting += 1;
            let has_waited = self.room.wait_until(&mut intake, deadline).timed_out();
            intake.waiting -= 1;
            if has_waited && self.overload(&intake).is_some() {
                drop(intake);
                return (batch.done)(Err(busy));
            }
        }
        self.push(intake, batch, false);
    }

    /// As [`append`](Self::append), unless it would wait, or overtake those who do: then the batch is given back.
    /// Who finds nobody waiting for the appender has the turn to write.
    pub(super) fn append_now(
        &self,
        messages: Vec<Append>,
        done: AppendDone,
    ) -> Result<Option<Turn<'_>>, Batch> {
        let Some(batch) = self.admit(messages, done) else { return Ok(None) };
        let intake = self.intake.lock();
        if intake.waiting > 0 || self.overload(&intake).is_some() {
            return Err(batch);
        }
        let has_turn = self.push(intake, batch, true);
        // Made only where it is given: one that is dropped calls the appender.
        Ok(has_turn.then(|| Turn { inner: self, is_done: false }))
    }

    /// Returns a batch as the appender takes it, unless it could be answered at once. Compresses what is to be.
    fn admit(&self, mut messages: Vec<Append>, done: AppendDone) -> Option<Batch> {
        if messages.is_empty() {
            done(Ok(Vec::new()));
            return None;
        }
        let compression =
            |topic| self.catalogue.topic(topic).map(|topic| topic.compression).unwrap_or_default();
        let admitted = self.check().and_then(|()| self.check_space());
        match admitted.and_then(|()| pack_batch(&mut messages, compression)) {
            Ok((packed, bytes)) => Some(Batch { messages, packed, bytes, done }),
            Err(error) => {
                done(Err(error));
                None
            }
        }
    }

    /// Has a batch wait for the appender. Returns whether the publisher has the turn now, if it `may` have it.
    fn push(&self, mut intake: MutexGuard<'_, Intake>, batch: Batch, may: bool) -> bool {
        let refused = if intake.closed { Err(StorageError::Closed) } else { self.check() };
        match refused {
            Ok(()) => {
                let has_turn = may && intake.is_empty() && batch.bytes <= TURN_BYTES_MAX;
                if has_turn {
                    intake.turn_since = Some(Instant::now());
                }
                intake.push(batch);
                // Who has the turn may be kept from it by others of its runtime, and does not take so much.
                let is_turns = has_turn
                    || may
                        && intake.bytes <= TURN_BYTES_MAX
                        && intake.turn_since.is_some_and(|since| since.elapsed() < TURN_WAIT_MAX);
                drop(intake);
                if !is_turns {
                    self.intake_filled.notify_one();
                }
                has_turn
            }
            Err(error) => {
                drop(intake);
                (batch.done)(Err(error));
                false
            }
        }
    }

    pub(super) fn check_space(&self) -> Result<(), StorageError> {
        if self.low_space.load(Ordering::Relaxed) {
            return Err(StorageError::NoSpace { action: "append to", path: self.dir.clone() });
        }
        self.check_marked()
    }

    pub(super) fn check_marked(&self) -> Result<(), StorageError> {
        if !self.is_marked.load(Ordering::Acquire) {
            return Err(StorageError::NoSpace { action: "append to", path: self.dir.clone() });
        }
        Ok(())
    }

    /// Returns the error of a publisher that has waited too long, if too much is under way.
    pub(super) fn overload(&self, intake: &Intake) -> Option<StorageError> {
        let durable = self.log.durable().0;
        let built = self.built.load(Ordering::Acquire);
        let written = self.log.tip().written.0;
        let unsynced = intake.bytes + written.saturating_sub(durable);
        let unbuilt = intake.bytes + written.saturating_sub(built);
        let unfiled = self.queues.run_bytes();
        let over = unsynced >= self.options.unsynced_bytes_max
            || unbuilt >= self.options.unbuilt_bytes_max
            || unfiled / 2 >= self.options.unfiled_bytes_max;
        over.then_some(StorageError::Busy { unsynced, unbuilt, unfiled })
    }

    pub(super) fn make_room(&self) {
        // Under the lock, so that nobody who has just found no room misses the call.
        drop(self.intake.lock());
        self.room.notify_all();
    }

    pub(super) fn run_appender(&self) {
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
        if self.append_batches(&mut appender, batches) {
            self.build_filled.notify_one();
        }
    }

    /// Writes one frame. Returns whether there is something for the builder.
    fn append_batches(&self, appender: &mut Appender, batches: Vec<Batch>) -> bool {
        if let Err(error) = self.check() {
            batches.into_iter().for_each(|batch| (batch.done)(Err(error.clone())));
            self.make_room();
            return false;
        }
        match appender.append(batches, self, self.options.clock.wall_ms()) {
            // There is nothing that would make room once it is durable, or built.
            None => self.make_room(),
            Some(Outcome::Written(frame, written)) => {
                self.pass_on(frame, written);
                return true;
            }
            Some(Outcome::Failed(error, dones)) => {
                if let StorageError::Failed { .. } = &error {
                    self.fail(error.clone());
                }
                for done in dones {
                    done(Err(error.clone()));
                }
                self.make_room();
            }
        }
        false
    }

    /// Writes one frame with what has queued up and puts its rows into the consume queues, on a thread that is not of
    /// storage. Returns whether that could be: it is little, and neither appender nor builder are at work.
    fn append_here(&self) -> bool {
        let Some(mut appender) = self.appender.try_lock() else { return false };
        // Dropped before that lock.
        let _guard = PanicGuard(self);
        let batches = {
            let mut intake = self.intake.lock();
            if intake.bytes > TURN_BYTES_MAX || !appender.has_room(intake.bytes) {
                return false;
            }
            intake.take()
        };
        // Otherwise the appender came first.
        if !batches.is_empty() && self.append_batches(&mut appender, batches) {
            drop(appender);
            self.build_here();
        }
        true
    }

    /// Builds what has been written, unless that is much, or the builder is at work: then it is the builder's.
    fn build_here(&self) {
        let Some(building) = self.building.try_lock() else {
            self.build_filled.notify_one();
            return;
        };
        let frames = {
            let mut build = self.build.lock();
            let unbuilt: usize = build.frames.iter().map(|frame| frame.bytes.len()).sum();
            if unbuilt as u64 > 2 * TURN_BYTES_MAX || self.queues.is_crowded() {
                drop(build);
                self.build_filled.notify_one();
                return;
            }
            build.frames.drain(..).collect()
        };
        self.build_frames(building, frames);
    }

    /// Passes a frame to readers, builder and flusher.
    pub(super) fn pass_on(&self, frame: WrittenFrame, written: Vec<WrittenBatch>) {
        let (start, end) = (frame.header.position, frame.header.end().0);
        let released: Vec<PendingRow> =
            written.iter().flat_map(|batch| batch.released.iter().copied()).collect();
        if !released.is_empty() {
            // Before the builder knows of the frame, which a checkpoint could take otherwise.
            self.done.lock().releases_written(start, released);
        }
        self.reader.recent.push(frame.header.position, frame.bytes.clone());
        self.build.lock().frames.push_back(frame);
        let mut answers = Vec::new();
        let hurry = end.saturating_sub(self.log.durable().0) >= self.options.unsynced_bytes_max / 2;
        {
            let mut flush = self.flush.lock();
            for WrittenBatch { appended, done, must_sync, released } in written {
                if must_sync {
                    flush.waiting.push(Waiting { appended, done, released, frame: start });
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

    pub(super) fn journal(&self, entries: &[JournalEntry], wait: Wait, done: Option<JournalDone>) {
        let mut flush = self.flush.lock();
        let refused = self.check_journal(&mut flush);
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

    /// Returns an error if the journal takes nothing now, and remembers that.
    fn check_journal(&self, flush: &mut FlushQueue) -> Result<(), StorageError> {
        let refused = if flush.stop { Err(StorageError::Closed) } else { self.check() };
        let refused = refused.and_then(|()| self.check_marked()).and_then(|()| {
            if flush.held.bytes < JOURNAL_HELD_BYTES_MAX {
                return Ok(());
            }
            Err(StorageError::NoSpace { action: "append to", path: self.dir.join("journal") })
        });
        flush.refused |= refused.is_err();
        refused
    }

    /// Says that pending rows are done, without a release.
    pub(super) fn discard(&self, rows: &[PendingRow], done: JournalDone) {
        let mut flush = self.flush.lock();
        if let Err(error) = self.check_journal(&mut flush) {
            drop(flush);
            return done(Err(error));
        }
        flush.journal.push_done(rows);
        flush.journal.waiting.push((Wait::Durable, done));
        // Under the lock, so that a snapshot which replaces the entries has them. If they cannot be written now, they
        // wait: from here on the rows are done.
        let mut all = self.done.lock();
        rows.iter().for_each(|row| all.insert(*row));
        drop(all);
        drop(flush);
        self.flush_filled.notify_one();
    }

    pub(super) fn run_flusher(&self) {
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
        if synced.is_ok() {
            self.releases_durable(&waiting, &mut journal);
        }
        for Waiting { appended, done, .. } in waiting {
            done(synced.clone().map(|()| appended));
        }
        let queued = self.done.lock().queued();
        let written = synced.and_then(|()| self.flush_journal(&mut journal, all));
        if journal.chunks.is_empty() {
            self.done.lock().entries_written(queued);
        } else {
            self.hold(&mut journal);
        }
        // Who is told an error may find the entry in the journal later all the same: nothing was promised, and
        // every entry keeps its place in the order. Dropping it would drop those that nobody waits for, too.
        for (_, done) in journal.waiting {
            done(written.clone());
        }
    }

    /// Has the journal say which pending rows are released, now that the releases are durable.
    fn releases_durable(&self, waiting: &[Waiting], journal: &mut JournalBuffer) {
        let mut rows = Vec::new();
        for Waiting { released, frame, .. } in waiting.iter().filter(|waiting| !waiting.released.is_empty()) {
            self.done.lock().releases_durable(*frame, released);
            rows.extend_from_slice(released);
        }
        rows.sort_unstable();
        journal.push_done(&rows);
    }

    /// Keeps what could not be written, so that it is written before anything newer.
    pub(super) fn hold(&self, journal: &mut JournalBuffer) {
        let chunks = std::mem::take(&mut journal.chunks);
        let bytes = chunks.iter().map(|chunk| chunk.frame.len() as u64).sum();
        tracing::warn!(bytes, "entries of the group journal wait until they can be written");
        self.flush.lock().held = HeldJournal { chunks, bytes, rotated: std::mem::take(&mut journal.rotated) };
    }

    pub(super) fn sync_log(&self) -> Result<(), StorageError> {
        let durable = self.log.sync()?.0;
        // Not the durable end before this sync: the end of a segment moves it, too, and tells nobody.
        if self.announced.fetch_max(durable, Ordering::AcqRel) < durable {
            if self.built.load(Ordering::Acquire) >= durable {
                // The builder has nothing to add: without it those who wait are answered a thread sooner.
                self.publish();
            } else {
                self.build.lock().publish = true;
                self.build_filled.notify_one();
            }
            self.make_room();
        }
        Ok(())
    }

    /// The log has been synced before: an entry never becomes durable before the rows that it names.
    pub(super) fn flush_journal(&self, buffer: &mut JournalBuffer, all: bool) -> Result<(), StorageError> {
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
        if self.flush.lock().refused {
            // The journal lacks what was refused; a snapshot has it.
            writer.rotate_soon();
        }
        match writer.begin_rotation() {
            Ok(true) => {
                self.snapshot_done();
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

    /// Puts into the journal, which is about to be written anew, all that is known of pending rows.
    fn snapshot_done(&self) {
        let mut flush = self.flush.lock();
        for entry in self.done.lock().snapshot() {
            flush.journal.push_done_entry(&entry);
        }
    }

    // ---- the builder

    pub(super) fn run_builder(&self) {
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
        let building = self.building.lock();
        if self.queues.is_crowded() {
            self.queues.merge_all();
        }
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
        self.build_frames(building, frames);
    }

    fn build_frames(&self, building: MutexGuard<'_, ()>, frames: Vec<WrittenFrame>) {
        // Dropped before that lock: whoever comes next knows that there may be a gap.
        let _guard = PanicGuard(self);
        if let Some(StorageError::Panicked { .. }) = self.failure.get() {
            return;
        }
        if let Some(last) = frames.last() {
            let payloads = frames.iter().map(|frame| (frame.payload_position(), frame.payload()));
            self.queues.add(rows_of(payloads));
            self.built.store(last.header.end().0, Ordering::Release);
            self.make_room();
        }
        drop(building);
        self.publish();
        if self.queues.has_unmerged() {
            self.merger.lock().wanted = true;
            self.merger_wanted.notify_one();
        }
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let is_due = |last: &LastCheckpoint| {
            built.0.saturating_sub(last.log.0) >= self.options.checkpoint_bytes || self.is_unfiled_due()
        };
        // While one is being made, what it leaves is not known.
        if self.checkpoint.try_lock().is_some_and(|last| is_due(&last)) {
            self.want_checkpoint();
        }
    }

    pub(super) fn is_unfiled_due(&self) -> bool {
        self.queues.run_bytes() >= self.options.unfiled_bytes_max
    }

    /// Makes visible what is built, and durable where its class asks for that.
    pub(super) fn publish(&self) {
        // The ends are read while it is held, so that whoever comes last knows the last ones.
        let _publishing = self.publishing.lock();
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let durable = self.log.durable().min(built);
        let mut each = |topic, queue, end| self.events.visible(topic, queue, end);
        self.queues.publish(built, durable, &mut each);
    }

    // ---- the merger: few large runs of rows instead of many small ones

    pub(super) fn run_merger(&self) {
        loop {
            {
                let mut merger = self.merger.lock();
                while !merger.wanted && !merger.stop {
                    self.merger_wanted.wait(&mut merger);
                }
                if merger.stop {
                    return;
                }
                merger.wanted = false;
            }
            let mut pieces = Pieces::begin();
            let is_urgent = || self.is_closing.load(Ordering::Acquire) || self.queues.is_pressing();
            let mut rest = || pieces.rest(is_urgent, thread::sleep);
            while self.queues.merge_next(&mut rest) {
                rest();
                if self.merger.lock().stop {
                    return;
                }
            }
        }
    }

    /// Merges what has gathered of one queue. Returns whether there was something.
    #[cfg(test)]
    pub(crate) fn merge_once(&self) -> bool {
        self.queues.merge_next(&mut || ())
    }

    // ---- upkeep: zeros ahead of the ends

    pub(super) fn want_upkeep(&self, frames: &FrameLogShared) {
        // Told once, since it may rest: it is not woken by each frame.
        if frames.wants_preparing() && !std::mem::replace(&mut self.upkeep.lock().wanted, true) {
            self.upkeep_wanted.notify_one();
        }
    }

    pub(super) fn run_upkeep(&self) {
        let mut has_failed = false;
        loop {
            let done = self.upkeep_once(&mut |time| {
                let until = Instant::now() + time;
                let mut upkeep = self.upkeep.lock();
                while !upkeep.stop && !self.upkeep_wanted.wait_until(&mut upkeep, until).timed_out() {}
            });
            let mut upkeep = self.upkeep.lock();
            match done {
                Ok(()) => has_failed = false,
                Err(error) => {
                    // Frames do not need the zeros; they only make syncs quicker. It is said once.
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(%error, "cannot write zeros ahead");
                    }
                    // Whoever wants zeros meanwhile does not make it come sooner.
                    let until = Instant::now() + UPKEEP_PAUSE;
                    while !upkeep.stop && !self.upkeep_wanted.wait_until(&mut upkeep, until).timed_out() {}
                }
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

    /// Writes zeros until enough of them lie ahead of every end, or the storage stops. Rests by `sleep` in between, unless few
    /// zeros are left somewhere.
    pub(crate) fn upkeep_once(&self, sleep: &mut dyn FnMut(Duration)) -> Result<(), StorageError> {
        let mut pieces = Pieces::begin();
        let sequences = [self.log.as_ref(), self.journal.as_ref(), self.catalogue.frames()];
        let is_short = || sequences.iter().any(|frames| frames.is_short());
        // While the log takes no messages, the room that is left may be wanted for something else.
        let log = self.check_space().is_ok().then_some(self.log.as_ref());
        for frames in log.into_iter().chain([self.journal.as_ref(), self.catalogue.frames()]) {
            let mut more = frames.wants_preparing();
            while more {
                if self.upkeep.lock().stop {
                    return Ok(());
                }
                self.check()?;
                more = frames.prepare().inspect_err(|error| {
                    if error.is_failed_sync() {
                        self.fail(error.clone());
                    }
                })?;
                pieces.rest(is_short, &mut *sleep);
            }
        }
        Ok(())
    }

    // ---- the keeper: checkpoints and free space

    pub(super) fn want_checkpoint(&self) {
        self.keeper.lock().wanted = true;
        self.keeper_wanted.notify_one();
    }

    pub(super) fn run_keeper(&self) {
        let mut since_checkpoint = Duration::ZERO;
        let mut has_failed = false;
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
            self.keep_an_eye();
            // As long as it fails, callers are told that there is no room. It is said once.
            let marked = self.mark_running();
            if let Err(error) = &marked
                && !has_failed
            {
                tracing::warn!(%error, "nothing can be stored until what the start found is written");
            }
            has_failed = marked.is_err();
            since_checkpoint += tick;
            if wanted || since_checkpoint >= self.options.checkpoint_interval {
                since_checkpoint = Duration::ZERO;
                self.keep_once(wanted, &mut thread::sleep);
            }
        }
    }

    /// Makes a checkpoint, and asks for another one if rows have come meanwhile that should be in files, too.
    pub(crate) fn keep_once(&self, wanted: bool, sleep: &mut dyn FnMut(Duration)) {
        let filed = self.queues.filed_bytes();
        let made = if wanted { self.checkpoint_resting(sleep) } else { self.checkpoint_if_moved(sleep) };
        match made {
            // Publishers may wait for room, so that nobody else would ask for it. But one that has taken nothing into
            // files would be followed by another such one at once.
            Ok(()) if self.is_unfiled_due() && self.queues.filed_bytes() > filed => self.want_checkpoint(),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "cannot make a checkpoint"),
        }
    }

    /// What is looked at every second.
    pub(super) fn keep_an_eye(&self) {
        self.look_at_space();
        // Should nobody come after a turn that is never taken.
        self.intake_filled.notify_one();
    }

    pub(super) fn look_at_space(&self) {
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

    // ---- the end

    pub(super) fn stop_appender(&self) {
        drop(self.intake.lock());
        self.intake_filled.notify_all();
        self.room.notify_all();
    }

    pub(super) fn stop_flusher(&self) {
        self.flush.lock().stop = true;
        self.flush_filled.notify_all();
    }

    pub(super) fn stop_builder(&self) {
        self.build.lock().stop = true;
        self.build_filled.notify_all();
    }

    pub(super) fn stop_merger(&self) {
        self.merger.lock().stop = true;
        self.merger_wanted.notify_all();
    }

    pub(super) fn stop_upkeep(&self) {
        self.upkeep.lock().stop = true;
        self.upkeep_wanted.notify_all();
    }

    pub(super) fn stop_keeper(&self) {
        self.keeper.lock().stop = true;
        self.keeper_wanted.notify_all();
    }

    pub(super) fn stop_all(&self) {
        self.stop_compactor();
        self.stop_appender();
        self.stop_flusher();
        self.stop_builder();
        self.stop_merger();
        self.stop_upkeep();
        self.stop_keeper();
    }

    /// Does what the threads have left: nobody else is at work.
    pub(super) fn finish_steps(&self) -> Result<(), StorageError> {
        while !self.intake.lock().is_empty() {
            self.append_once();
        }
        // A publisher may be about to pass on the last frame. Nothing is taken in any more.
        drop(self.appender.lock());
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

/// Returns the rows in payloads of frames.
pub(super) fn rows_of<'a>(
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
