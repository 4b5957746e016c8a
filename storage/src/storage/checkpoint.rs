//! Checkpoints while storage is open, and the log that goes with them.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{CHECKPOINT, Inner, LastCheckpoint, Mark, rest::Pieces, threads::SPACE_INTERVAL};
use crate::{
    env::{Open, replace_file},
    error::StorageError,
    format::checkpoint::Checkpoint,
    offset::{LogPosition, QueueId},
    queue::{
        block::Block,
        checkpoint::QueuesCheckpoint,
        view::{Part, QueueView},
    },
};

impl Inner {
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
        drop(last);
        // The start has succeeded.
        if let Some(directory) = self.directory.lock().as_mut()
            && let Err(error) = directory.note_version(self.options.env.as_ref(), &self.dir)
        {
            tracing::warn!(%error, "cannot say in FORMAT which version this is; the next start tries again");
        }
        Ok(())
    }

    pub(super) fn checkpoint_if_moved(&self, sleep: &mut dyn FnMut(Duration)) -> Result<(), StorageError> {
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let is_due = self.is_due.load(Ordering::Acquire);
        let nothing = QueuesCheckpoint::default().encode();
        let is_damaged = self.queues.is_damaged() && self.checkpoint.lock().queues != nothing;
        if !is_due && !is_damaged && self.checkpoint.lock().log == self.log.durable().min(built) {
            return Ok(());
        }
        self.checkpoint_resting(sleep)
    }

    /// Writes the rows that are durable into files of the consume queues, and says so in the checkpoint file.
    pub(super) fn checkpoint(&self, mark: Mark) -> Result<(), StorageError> {
        self.check()?;
        self.checkpoint_held(self.lock_checkpoint(), mark, &mut || ())
    }

    /// Does the same with rests by `sleep`, since nobody waits for it: unless somebody does, rows that are in no file take so
    /// much memory that publishers are about to, or so much log lies behind the last one that a start would take long.
    pub(super) fn checkpoint_resting(&self, sleep: &mut dyn FnMut(Duration)) -> Result<(), StorageError> {
        self.check()?;
        let last = self.checkpoint.lock();
        let bytes = self.options.checkpoint_bytes;
        let late = last.log.0.saturating_add(bytes).saturating_add(bytes / 2);
        let is_urgent = || {
            self.is_closing.load(Ordering::Acquire)
                || self.checkpoint_waiters.load(Ordering::Acquire) > 0
                || self.low_space.load(Ordering::Relaxed)
                || self.built.load(Ordering::Acquire) >= late
                || self.is_unfiled_due()
        };
        let mut looked = Instant::now();
        let mut pieces = Pieces::begin();
        self.checkpoint_held(last, Mark::Running, &mut || {
            pieces.rest(is_urgent, &mut *sleep);
            if looked.elapsed() >= SPACE_INTERVAL {
                looked = Instant::now();
                self.keep_an_eye();
            }
        })
    }

    /// Waits for the checkpoint that is being made, which does not rest any more then.
    pub(super) fn lock_checkpoint(&self) -> MutexGuard<'_, LastCheckpoint> {
        self.checkpoint_waiters.fetch_add(1, Ordering::AcqRel);
        let last = self.checkpoint.lock();
        self.checkpoint_waiters.fetch_sub(1, Ordering::AcqRel);
        last
    }

    fn checkpoint_held(
        &self,
        mut last: MutexGuard<'_, LastCheckpoint>,
        mark: Mark,
        pause: &mut dyn FnMut(),
    ) -> Result<(), StorageError> {
        if mark == Mark::Running {
            self.check_open()?;
        }
        // Before the work, so that rows which end meanwhile ask for another.
        self.is_due.store(false, Ordering::Release);
        let before = last.log;
        let made = self.make_checkpoint(&mut last, mark, pause);
        if made.is_err() {
            self.is_due.store(true, Ordering::Release);
        }
        // Rows may have ended in it when it could not be compacted yet.
        let is_passed = |end| before < end && end <= last.log;
        if self.log.segments.all().iter().any(|segment| segment.sealed_end().is_some_and(is_passed)) {
            self.has_ended.store(true, Ordering::Release);
        }
        drop(last);
        // Rows in memory have gone into files.
        self.make_room();
        made
    }

    fn make_checkpoint(
        &self,
        last: &mut LastCheckpoint,
        mark: Mark,
        pause: &mut dyn FnMut(),
    ) -> Result<(), StorageError> {
        let built = LogPosition(self.built.load(Ordering::Acquire));
        let log = self.below_releases(self.log.durable().min(built))?;
        if let Err(error) = self.queues.heal(&mut *pause) {
            tracing::warn!(%error, "damaged blocks of consume queues cannot be built anew beside the others");
        }
        let listed = self.queues.checkpoint(log, &mut *pause);
        let fences = last.fences.clone();
        let next = match listed {
            Ok(_) | Err(StorageError::Corrupt { .. }) if self.queues.is_damaged() => {
                // What is derived from the log is derived again: the next start finds no files listed, and reads the
                // whole log. Until then readers may need the files.
                let nothing = QueuesCheckpoint::default().encode();
                let next = LastCheckpoint { log: LogPosition(0), queues: nothing, fences };
                self.write_checkpoint(&next, mark)?;
                *last = LastCheckpoint { log, ..next };
                None
            }
            listed => Some(LastCheckpoint { log, queues: listed?.encode(), fences }),
        };
        if let Some(next) = next {
            self.write_checkpoint(&next, mark)?;
            *last = next;
        }
        // What no queue needs any more is not listed in either case.
        self.queues.retire();
        if mark == Mark::Running {
            self.remove_unreachable_log(log, pause)?;
        }
        Ok(())
    }

    /// Unlinks the segments of the log that no row of any queue lies in.
    fn remove_unreachable_log(
        &self,
        checkpoint: LogPosition,
        pause: &mut dyn FnMut(),
    ) -> Result<(), StorageError> {
        let oldest = self.log.segments.all().into_iter().next();
        if oldest.and_then(|oldest| oldest.sealed_end()).is_none_or(|end| end > checkpoint) {
            return Ok(());
        }
        // Above the checkpoint lie rows that no view need show yet.
        let mut needed = checkpoint;
        for topic in self.catalogue.topics() {
            pause();
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

    pub(super) fn write_checkpoint(&self, last: &LastCheckpoint, mark: Mark) -> Result<(), StorageError> {
        // By itself, so that publishers do not wait for the copies.
        let store_time_ms = self.appender.lock().store_time_ms();
        let checkpoint = Checkpoint {
            uuid: self.uuid,
            epoch: self.epoch,
            clean: mark == Mark::Clean,
            log: last.log,
            durable: self.log.durable(),
            journal: self.journal.durable(),
            catalogue: self.catalogue.frames().durable(),
            file_lens: [
                self.log.last_file_len()?,
                self.journal.last_file_len()?,
                self.catalogue.frames().last_file_len()?,
            ],
            store_time_ms,
            fences: last.fences.clone(),
            queues: last.queues.clone(),
        };
        let path = self.dir.join(CHECKPOINT);
        replace_file(self.options.env.as_ref(), &path, &checkpoint.encode(), Open::Create)
    }
}

/// Returns where in the log the first row of a queue lies, or a position before it, if it has rows.
fn first_position(view: &QueueView) -> Option<LogPosition> {
    let first = view.range().start;
    let position_in = |block: &Block| -> Result<Option<LogPosition>, StorageError> {
        let row = first.since(block.base()).and_then(|row| usize::try_from(row).ok()).unwrap_or_default();
        Ok(block.positions()?.values().get(row).copied().map(LogPosition))
    };
    match view.part_at(first)? {
        Part::Segment(segment, number) => {
            let found = segment.block(number).and_then(|block| position_in(&block));
            // Of a damaged block its directory still knows where its rows begin.
            found.unwrap_or_else(|_| Some(segment.entry(number).first_position))
        }
        Part::Run(block) => position_in(&block).ok().flatten(),
    }
}
