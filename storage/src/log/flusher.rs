//! Durability: one sync of the log for all that arrived meanwhile, then the group journal.

use std::sync::Arc;

use crate::{
    error::StorageError,
    format::frame::{FRAME_ALIGNMENT, FrameKind, finish_frame},
    journal::{JournalBuffer, QueueCut},
    log::{
        appender::{AppendDone, Appended},
        segment::{FrameLog, FrameLogShared},
    },
    offset::{Epoch, LogPosition},
};

/// A batch that is written and waits to be durable.
pub(crate) struct Waiting {
    pub(crate) appended: Vec<Appended>,
    pub(crate) done: AppendDone,
}

/// What waits for the flusher.
#[derive(Default)]
pub(crate) struct FlushQueue {
    /// In the order of the log.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) journal: JournalBuffer,
    /// Too much is unsynced, though nobody waits for it.
    pub(crate) hurry: bool,
    pub(crate) stop: bool,
}

impl FlushQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.journal.is_empty() && !self.hurry
    }
}

/// Writes the group journal and rotates it.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    log: FrameLog,
    pub(crate) shared: Arc<FrameLogShared>,
    epoch: Epoch,
    /// Where the journal began when it was last rotated.
    begin: LogPosition,
    /// Under way: what lies before this position goes when the engine has written its snapshot.
    rotation: Option<LogPosition>,
    rotate_bytes: u64,
}

impl JournalWriter {
    pub(crate) fn new(log: FrameLog, epoch: Epoch, rotate_bytes: u64) -> Self {
        let shared = Arc::clone(&log.shared);
        let begin = shared.segments.all().first().map_or(shared.tip().written, |segment| segment.base());
        Self { log, shared, epoch, begin, rotation: None, rotate_bytes }
    }

    /// Begins the first segment, so that zeros lie ready before the first entry comes.
    pub(crate) fn begin_first(&mut self, now_ms: i64) -> Result<(), StorageError> {
        self.log.begin_first(now_ms)
    }

    /// Writes what has queued up, in order.
    pub(crate) fn write(&mut self, buffer: &mut JournalBuffer, now_ms: i64) -> Result<(), StorageError> {
        for mut chunk in std::mem::take(&mut buffer.chunks) {
            let len = chunk.frame.len().next_multiple_of(FRAME_ALIGNMENT) as u64;
            let place = self.log.place(len, now_ms)?;
            finish_frame(&mut chunk.frame, FrameKind::Journal, self.epoch, chunk.entries, place, now_ms);
            self.log.write(&chunk.frame)?;
        }
        Ok(())
    }

    /// Writes the ends that a start has found, so that they still count when the queues have grown again.
    pub(crate) fn write_cuts(&mut self, cuts: &[QueueCut], now_ms: i64) -> Result<(), StorageError> {
        let mut buffer = JournalBuffer::default();
        for cut in cuts {
            buffer.push_cut(cut);
        }
        self.write(&mut buffer, now_ms)?;
        self.shared.sync().map(|_| ())
    }

    /// Begins a rotation if the journal has grown enough; returns whether it did.
    pub(crate) fn begin_rotation(&mut self) -> Result<bool, StorageError> {
        let written = self.shared.tip().written;
        if self.rotation.is_some() || written.0 - self.begin.0 < self.rotate_bytes {
            return Ok(false);
        }
        self.log.seal()?;
        self.rotation = Some(self.shared.tip().written);
        Ok(true)
    }

    /// Ends a rotation: everything before it is in the snapshot, which is durable.
    pub(crate) fn end_rotation(&mut self) -> Result<(), StorageError> {
        if let Some(begin) = self.rotation.take() {
            self.begin = begin;
            self.shared.remove_before(begin)?;
        }
        Ok(())
    }
}
