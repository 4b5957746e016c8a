//! Durability: one sync of the log for all that arrived meanwhile, then the group journal.

use std::sync::Arc;

use crate::{
    error::StorageError,
    format::frame::{FRAME_ALIGNMENT, FrameKind, finish_frame},
    journal::{Chunk, JournalBuffer, QueueCut},
    log::{
        appender::{AppendDone, Appended},
        segment::{FrameLog, FrameLogShared},
    },
    message::PendingRow,
    offset::{Epoch, LogPosition},
};

/// A batch that is written and waits to be durable.
pub(crate) struct Waiting {
    pub(crate) appended: Vec<Appended>,
    pub(crate) done: AppendDone,
    /// The pending rows that it releases.
    pub(crate) released: Vec<PendingRow>,
    /// Where its frame begins.
    pub(crate) frame: LogPosition,
}

/// What waits for the flusher.
#[derive(Default)]
pub(crate) struct FlushQueue {
    /// In the order of the log.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) journal: JournalBuffer,
    pub(crate) held: HeldJournal,
    /// Journal entries have been refused since the last rotation began.
    pub(crate) refused: bool,
    /// Too much is unsynced, though nobody waits for it.
    pub(crate) hurry: bool,
    pub(crate) stop: bool,
}

impl FlushQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.journal.is_empty() && !self.hurry
    }
}

/// What could not be written into the journal, for want of room most often. It goes before anything newer.
/// It wakes nobody: the next entry does, or the next idle sync.
#[derive(Default)]
pub(crate) struct HeldJournal {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) bytes: u64,
    /// The snapshot of a rotation is complete, but part of it is held here.
    pub(crate) rotated: bool,
}

/// Writes the group journal and rotates it.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    log: FrameLog,
    pub(crate) shared: Arc<FrameLogShared>,
    /// The commit log, whose durable end each frame states.
    messages: Arc<FrameLogShared>,
    epoch: Epoch,
    /// Where the journal began when it was last rotated.
    begin: LogPosition,
    /// Asked for, however little the journal has grown.
    must_rotate: bool,
    /// Under way: what lies before this position goes when the engine has written its snapshot.
    rotation: Option<LogPosition>,
    rotate_bytes: u64,
    /// The ends that the start has found, not yet written.
    cuts: Vec<QueueCut>,
}

impl JournalWriter {
    pub(crate) fn new(
        log: FrameLog,
        messages: Arc<FrameLogShared>,
        epoch: Epoch,
        rotate_bytes: u64,
        cuts: Vec<QueueCut>,
    ) -> Self {
        let shared = Arc::clone(&log.shared);
        let begin = shared.segments.all().first().map_or(shared.tip().written, |segment| segment.base());
        Self { log, shared, messages, epoch, begin, must_rotate: false, rotation: None, rotate_bytes, cuts }
    }

    /// Has the journal rotated as soon as can be: what a start has found damaged goes with its segments.
    pub(crate) const fn rotate_soon(&mut self) {
        self.must_rotate = true;
    }

    /// Begins the first segment, so that zeros lie ready before the first entry comes.
    pub(crate) fn begin_first(&mut self, now_ms: i64) -> Result<(), StorageError> {
        self.log.begin_first(now_ms)
    }

    /// Leaves nothing but zeros behind the end of the journal.
    pub(crate) fn leave(&mut self) -> Result<(), StorageError> {
        self.log.leave()
    }

    /// Writes what has queued up, in order. What could not be written stays in the buffer.
    pub(crate) fn write(&mut self, buffer: &mut JournalBuffer, now_ms: i64) -> Result<(), StorageError> {
        let mut written = 0;
        let result = buffer.chunks.iter_mut().try_for_each(|chunk| {
            self.write_chunk(chunk, now_ms)?;
            written += 1;
            Ok(())
        });
        buffer.chunks.drain(..written);
        result
    }

    fn write_chunk(&mut self, chunk: &mut Chunk, now_ms: i64) -> Result<(), StorageError> {
        let unpadded = chunk.frame.len();
        let len = unpadded.next_multiple_of(FRAME_ALIGNMENT) as u64;
        let mut place = self.log.place(len, now_ms)?;
        // What entries in it name was visible, and in class `sync` durable, before they were written.
        place.log_durable = self.messages.durable();
        finish_frame(&mut chunk.frame, FrameKind::Journal, self.epoch, chunk.entries, place, now_ms);
        let result = self.log.write(&chunk.frame);
        if result.is_err() {
            // Without the padding, which is no part of the payload, it can be finished again elsewhere.
            chunk.frame.truncate(unpadded);
        }
        result
    }

    /// Writes the ends that the start has found, durably, so that they still count when the queues have grown
    /// again. What fails is tried again by the next call; a cut that is there twice cuts the same.
    pub(crate) fn write_cuts(&mut self, now_ms: i64) -> Result<(), StorageError> {
        let mut buffer = JournalBuffer::default();
        for cut in &self.cuts {
            buffer.push_cut(cut);
        }
        self.write(&mut buffer, now_ms)?;
        self.shared.sync()?;
        self.cuts.clear();
        Ok(())
    }

    /// Begins a rotation if the journal has grown enough; returns whether it did.
    pub(crate) fn begin_rotation(&mut self) -> Result<bool, StorageError> {
        let written = self.shared.tip().written;
        let is_due = self.must_rotate || written.0 - self.begin.0 >= self.rotate_bytes;
        if self.rotation.is_some() || !is_due {
            return Ok(false);
        }
        self.log.seal()?;
        self.must_rotate = false;
        self.rotation = Some(self.shared.tip().written);
        Ok(true)
    }

    /// Ends a rotation: everything before it is in the snapshot, which is durable.
    pub(crate) fn end_rotation(&mut self) -> Result<(), StorageError> {
        if let Some(begin) = self.rotation.take() {
            // A snapshot, however large, is none of what makes it grow.
            self.begin = self.shared.tip().written;
            self.shared.remove_before(begin)?;
        }
        Ok(())
    }

    /// Ends a rotation whose snapshot has gaps: everything stays, and a later rotation tries again.
    pub(crate) const fn abandon_rotation(&mut self) {
        self.rotation = None;
    }
}
