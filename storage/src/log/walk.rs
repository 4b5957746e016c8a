//! Reads segments from their beginning to their end: frames through a buffer, what lies behind damage, and the payloads
//! that a start has found whole.

use std::{io, ops::Range};

use crate::{
    error::{Fault, StorageError},
    format::{
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameKind, may_be_frame},
        record::{RecordView, padded, peek_len},
    },
    log::{
        fences::Fences,
        segment::{LogRun, SegmentFile, Segments},
    },
    offset::LogPosition,
};

/// So much of a file is read at once.
const WINDOW: usize = 1 << 20;

/// Reads a segment through a buffer.
pub(crate) struct Window<'a> {
    segment: &'a SegmentFile,
    start: LogPosition,
    bytes: Vec<u8>,
    /// What [`later`](Self::later) knows of the rest of the file: its last whole frame, and the durable end which
    /// that states. Durable ends never fall along a file, so the last one is the highest.
    last: Option<Option<(LogPosition, LogPosition)>>,
}

/// What lies behind an invalid frame.
#[derive(Debug, Default)]
pub(crate) struct Later {
    /// The first valid frame.
    pub(crate) first: Option<LogPosition>,
    /// The highest durable end that a valid frame states.
    pub(crate) durable: LogPosition,
}

impl<'a> Window<'a> {
    pub(crate) const fn new(segment: &'a SegmentFile) -> Self {
        Self { segment, start: segment.base(), bytes: Vec::new(), last: None }
    }

    /// Returns up to `len` bytes at a position; fewer only at the end of the file.
    pub(crate) fn bytes(&mut self, position: LogPosition, len: usize) -> Result<&[u8], StorageError> {
        let at = position.0.checked_sub(self.start.0).and_then(|at| usize::try_from(at).ok());
        let inside = at.is_some_and(|at| at + len <= self.bytes.len());
        if !inside {
            self.bytes.resize(len.max(WINDOW), 0);
            let read = self.segment.read_some(&mut self.bytes, position)?;
            self.bytes.truncate(read);
            self.start = position;
        }
        let at = usize::try_from(position.0 - self.start.0).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest))
    }

    /// Reads the header of the frame at a position.
    pub(crate) fn header(
        &mut self,
        position: LogPosition,
    ) -> Result<Result<FrameHeader, Fault>, StorageError> {
        let (salt, limit) = (self.segment.salt(), self.segment.limit());
        let header = FrameHeader::decode(self.bytes(position, FRAME_HEADER_LEN)?, salt, position);
        Ok(header.and_then(|header| {
            if header.end() > limit { Err(Fault::Structure("the payload's length")) } else { Ok(header) }
        }))
    }

    /// Reads the frame at a position and checks it.
    pub(crate) fn frame(
        &mut self,
        position: LogPosition,
    ) -> Result<Result<FrameHeader, Fault>, StorageError> {
        let header = match self.header(position)? {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let salt = self.segment.salt();
        let payload_at = LogPosition(position.0 + FRAME_HEADER_LEN as u64);
        let payload = self.bytes(payload_at, header.payload_len as usize)?;
        Ok(header.verify(payload, salt).map(|()| header))
    }

    /// Returns the payload of the frame at a position that was found valid.
    pub(crate) fn payload(&mut self, header: &FrameHeader) -> Result<&[u8], StorageError> {
        let at = LogPosition(header.position.0 + FRAME_HEADER_LEN as u64);
        let len = header.payload_len as usize;
        let path = self.segment.path.clone();
        let payload = self.bytes(at, len)?;
        if payload.len() < len {
            return Err(StorageError::io("read", &path)(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(payload)
    }

    /// Looks on behind an invalid frame. However many there are, the file is read to its end once.
    pub(crate) fn later(&mut self, after: LogPosition) -> Result<Later, StorageError> {
        if let Some(last) = self.last {
            let Some((_, durable)) = last.filter(|(last, _)| *last > after) else {
                return Ok(Later::default());
            };
            return Ok(Later { first: self.next_frame(after)?.map(|header| header.position), durable });
        }
        let mut later = Later::default();
        let mut at = after;
        let mut last = None;
        while let Some(header) = self.next_frame(at)? {
            later.first.get_or_insert(header.position);
            later.durable = later.durable.max(header.durable);
            last = Some((header.position, later.durable));
            at = LogPosition(header.end().0 - FRAME_ALIGNMENT as u64);
        }
        self.last = Some(last);
        Ok(later)
    }

    /// Counts the valid frames behind a position.
    pub(crate) fn count_later(&mut self, after: LogPosition) -> Result<u64, StorageError> {
        let (mut frames, mut at) = (0, after);
        while let Some(header) = self.next_frame(at)? {
            frames += 1;
            at = LogPosition(header.end().0 - FRAME_ALIGNMENT as u64);
        }
        Ok(frames)
    }

    /// Returns where the first frame with a valid header begins behind a position and before `end`; its payload may be
    /// damaged.
    pub(crate) fn next_header(
        &mut self,
        after: LogPosition,
        end: LogPosition,
    ) -> Result<Option<LogPosition>, StorageError> {
        let mut at = LogPosition(after.0 + FRAME_ALIGNMENT as u64);
        while let Some(candidate) = self.next_candidate(at)?.filter(|candidate| *candidate < end) {
            if self.header(candidate)?.is_ok() {
                return Ok(Some(candidate));
            }
            at = LogPosition(candidate.0 + FRAME_ALIGNMENT as u64);
        }
        Ok(None)
    }

    /// Returns the first valid frame behind a position.
    fn next_frame(&mut self, after: LogPosition) -> Result<Option<FrameHeader>, StorageError> {
        let mut at = LogPosition(after.0 + FRAME_ALIGNMENT as u64);
        while let Some(candidate) = self.next_candidate(at)? {
            if let Ok(header) = self.frame(candidate)? {
                return Ok(Some(header));
            }
            at = LogPosition(candidate.0 + FRAME_ALIGNMENT as u64);
        }
        Ok(None)
    }

    /// Returns the first position from `from` on where a frame may begin.
    fn next_candidate(&mut self, from: LogPosition) -> Result<Option<LogPosition>, StorageError> {
        let mut position = from;
        loop {
            // What is in the buffer first: a search that goes on must not read the same bytes again.
            let len = self.buffered(position).max(FRAME_HEADER_LEN);
            let bytes = self.bytes(position, len)?;
            if bytes.len() < FRAME_HEADER_LEN {
                return Ok(None);
            }
            let mut chunks = bytes.chunks(FRAME_ALIGNMENT);
            if let Some(found) = chunks.position(may_be_frame) {
                return Ok(Some(LogPosition(position.0 + (found * FRAME_ALIGNMENT) as u64)));
            }
            let whole = bytes.len() / FRAME_ALIGNMENT * FRAME_ALIGNMENT;
            position = LogPosition(position.0 + whole as u64);
        }
    }

    /// Returns how many bytes from a position on are in the buffer.
    fn buffered(&self, position: LogPosition) -> usize {
        let at = position.0.checked_sub(self.start.0).and_then(|at| usize::try_from(at).ok());
        at.map_or(0, |at| self.bytes.len().saturating_sub(at))
    }
}

/// Records or entries that lie together.
pub(crate) struct Piece<'a> {
    /// Where they begin.
    pub(crate) position: LogPosition,
    pub(crate) bytes: &'a [u8],
    /// Behind them a frame or a run begins: a start can go on there.
    pub(crate) is_whole: bool,
}

/// Told of the pieces that a range of positions consists of.
pub(crate) type EachPiece<'a> = dyn FnMut(&Piece<'_>) -> Result<(), StorageError> + 'a;

/// Calls `each` with what lies outside of the fences in a range of positions, in order: the payload of every frame, or
/// what is left of it, and every run of a compacted segment.
pub(crate) fn for_each_piece(
    segments: &Segments,
    fences: &Fences,
    range: Range<LogPosition>,
    each: &mut EachPiece<'_>,
) -> Result<(), StorageError> {
    let mut position = range.start;
    for segment in segments.all() {
        let end = segment.sealed_end().unwrap_or(range.end).min(range.end);
        if end <= position {
            continue;
        }
        position = position.max(segment.base());
        if segment.tail().is_some() {
            for_each_run(&segment, fences, position..end, each)?;
            position = end;
            continue;
        }
        let mut window = Window::new(&segment);
        while position < end {
            if let Some(fence) = fences.at(position) {
                position = fence.end;
                continue;
            }
            position = next_piece(&segment, &mut window, fences, position, each)?;
        }
    }
    Ok(())
}

fn for_each_run(
    segment: &SegmentFile,
    fences: &Fences,
    range: Range<LogPosition>,
    each: &mut EachPiece<'_>,
) -> Result<(), StorageError> {
    // Of one whose directory is damaged nothing can be found.
    if fences.cover(&(segment.base()..range.end)) {
        return Ok(());
    }
    let mut bytes = Vec::new();
    for run in segment.runs()?.filter(|run| run.range.end > range.start && run.range.start < range.end) {
        let parts = fences.outside(run.range.clone());
        if !parts.is_empty() {
            read_run(segment, &run, &mut bytes)?;
        }
        for part in &parts {
            let is_whole = parts.len() == 1 && *part == run.range;
            each(&Piece { position: part.start, bytes: within(&bytes, run.range.start, part), is_whole })?;
        }
    }
    Ok(())
}

/// Tells of the frame at a position, or of records that have lost the header of theirs; returns where the next begins.
fn next_piece(
    segment: &SegmentFile,
    window: &mut Window<'_>,
    fences: &Fences,
    position: LogPosition,
    each: &mut EachPiece<'_>,
) -> Result<LogPosition, StorageError> {
    let corrupt = |at: LogPosition, fault| {
        Err(StorageError::corrupt(&segment.path, segment.header.file_position(at).0)(fault))
    };
    let fault = match window.frame(position)? {
        Ok(header) if header.kind == FrameKind::Seal => return Ok(header.end()),
        Ok(header) => {
            pieces_of(window, &header, fences, each)?;
            return Ok(header.end());
        }
        Err(fault) => fault,
    };
    if let Ok(header) = window.header(position)? {
        if fences.next(position).is_none_or(|fence| fence >= header.end()) {
            return corrupt(position, fault);
        }
        pieces_of(window, &header, fences, each)?;
        return Ok(header.end());
    }
    if !fences.end_at(position) {
        return corrupt(position, fault);
    }
    let end = fences.next(position).unwrap_or(segment.limit());
    let mut at = position;
    while at < end && !may_be_frame(window.bytes(at, FRAME_ALIGNMENT)?) {
        let Ok(len) = peek_len(window.bytes(at, FRAME_ALIGNMENT)?) else { break };
        let bytes = window.bytes(at, len)?;
        if RecordView::decode(bytes, at).is_err() {
            break;
        }
        each(&Piece { position: at, bytes, is_whole: false })?;
        at = LogPosition(at.0 + padded(len as u64));
    }
    if at == position { corrupt(position, fault) } else { Ok(at) }
}

/// Tells of the payload of a frame, without what is fenced off.
fn pieces_of(
    window: &mut Window<'_>,
    header: &FrameHeader,
    fences: &Fences,
    each: &mut EachPiece<'_>,
) -> Result<(), StorageError> {
    let start = LogPosition(header.position.0 + FRAME_HEADER_LEN as u64);
    let all = start..LogPosition(start.0 + u64::from(header.payload_len));
    if fences.next(header.position).is_none_or(|fence| fence >= all.end) {
        return each(&Piece { position: start, bytes: window.payload(header)?, is_whole: true });
    }
    let bytes = window.bytes(start, header.payload_len as usize)?;
    for part in fences.outside(all) {
        each(&Piece { position: part.start, bytes: within(bytes, start, &part), is_whole: false })?;
    }
    Ok(())
}

/// Returns a part of bytes that begin at a position.
fn within<'b>(bytes: &'b [u8], start: LogPosition, part: &Range<LogPosition>) -> &'b [u8] {
    let at = |position: LogPosition| usize::try_from(position.0 - start.0).unwrap_or(usize::MAX);
    bytes.get(at(part.start)..at(part.end).min(bytes.len())).unwrap_or_default()
}

/// Reads the records of a run.
pub(crate) fn read_run(segment: &SegmentFile, run: &LogRun, out: &mut Vec<u8>) -> Result<(), StorageError> {
    let len = usize::try_from(run.range.end.0 - run.range.start.0).unwrap_or(usize::MAX);
    out.resize(len, 0);
    if segment.read_some(out, run.range.start)? < len {
        return Err(StorageError::io("read", &segment.path)(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}
