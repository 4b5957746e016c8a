//! Reads single records: from the buffers that were written last, from maps of sealed segments, and with
//! `pread` from the active one, whose bytes still change.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    error::{Fault, StorageError},
    format::record::{RecordView, peek_len},
    log::segment::{FrameLogShared, SegmentFile},
    message::StoredMessage,
    offset::LogPosition,
};

/// Most records are no longer than this, so that one read gets them.
const FIRST_READ: usize = 4096;

/// Frames that were written last, in order.
#[derive(Debug)]
pub(crate) struct RecentFrames {
    frames: RwLock<Recent>,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Recent {
    frames: VecDeque<(LogPosition, Bytes)>,
    bytes: u64,
}

impl RecentFrames {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { frames: RwLock::default(), bytes_max }
    }

    pub(crate) fn push(&self, position: LogPosition, frame: Bytes) {
        let mut recent = self.frames.write();
        recent.bytes += frame.len() as u64;
        recent.frames.push_back((position, frame));
        while recent.bytes > self.bytes_max {
            let Some((_, oldest)) = recent.frames.pop_front() else {
                break;
            };
            recent.bytes -= oldest.len() as u64;
        }
    }

    /// Returns the frame that holds a position, and where in it that is.
    fn at(&self, position: LogPosition) -> Option<(Bytes, usize)> {
        let recent = self.frames.read();
        let after = recent.frames.partition_point(|(start, _)| *start <= position);
        let (start, frame) = recent.frames.get(after.checked_sub(1)?)?;
        let at = usize::try_from(position.0 - start.0).ok().filter(|at| *at < frame.len())?;
        Some((frame.clone(), at))
    }
}

/// Reads records of the log by position.
#[derive(Debug)]
pub(crate) struct LogReader {
    pub(crate) shared: Arc<FrameLogShared>,
    pub(crate) recent: RecentFrames,
    /// Damaged ranges.
    pub(crate) fences: Vec<Range<LogPosition>>,
}

impl LogReader {
    /// Reads the message at a position and verifies its checksum.
    pub(crate) fn read(&self, position: LogPosition) -> Result<StoredMessage, StorageError> {
        if let Some((frame, at)) = self.recent.at(position) {
            let bytes = frame.get(at..).unwrap_or_default();
            return stored(bytes, position).map_err(|_| StorageError::NoRecord { position });
        }
        if self.fences.iter().any(|fence| fence.contains(&position)) {
            return Err(StorageError::Lost { position });
        }
        let segment = self.shared.segments.at(position);
        let end = |segment: &SegmentFile| segment.sealed_end().unwrap_or_else(|| self.shared.tip().written);
        let Some(segment) = segment.filter(|segment| position < end(segment)) else {
            return Err(StorageError::NoRecord { position });
        };
        let at = segment.header.file_position(position).0;
        let corrupt = StorageError::corrupt(&segment.path, at);
        if let Some(bytes) = segment.mapped(position) {
            return stored(bytes, position).map_err(corrupt);
        }
        let mut bytes = vec![0; FIRST_READ];
        let read = segment.read_some(&mut bytes, position)?;
        bytes.truncate(read);
        let len = match peek_len(&bytes) {
            Ok(len) => len,
            Err(fault) => return Err(corrupt(fault)),
        };
        if len > read {
            bytes.resize(len, 0);
            let read = segment.read_some(&mut bytes, position)?;
            bytes.truncate(read);
        }
        stored(&bytes, position).map_err(corrupt)
    }
}

fn stored(bytes: &[u8], position: LogPosition) -> Result<StoredMessage, Fault> {
    let record = RecordView::decode(bytes, position)?;
    if !record.kind.is_row() {
        return Err(Fault::Structure("the kind of the record"));
    }
    Ok(record.to_stored())
}
