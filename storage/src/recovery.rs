//! What a start does with each file of a frame sequence that it finds.
//!
//! It follows the frames. Where one is invalid, at position P, it looks on: if something proves that the
//! durable end once lay above P (a later valid frame that says so, a later segment, the checkpoint), the
//! bytes at P are *damaged*: they are fenced off and reported, and the start goes on behind them. Otherwise
//! P is where a crash tore the last write: it is the end, and what follows is zeroed before the first append.

use std::{io, ops::Range, path::PathBuf, sync::Arc};

use crate::{
    env::{Env, Open},
    error::{Fault, StorageError},
    format::{
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameKind, may_be_frame},
        record::{RecordView, padded},
        segment::SEGMENT_HEADER_LEN,
    },
    log::segment::{
        COMPACTED_SEGMENT, FrameLogSettings, LogRun, NEXT_SEGMENT, SegmentFile, Segments, segment_base,
    },
    offset::{Epoch, FilePosition, LogPosition},
};

/// So much of a file is read at once.
const WINDOW: usize = 1 << 20;

/// A range of a frame sequence that was found damaged. Nothing in it is ever read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The damaged range.
    pub range: Range<LogPosition>,
    /// The file that holds its beginning.
    pub path: PathBuf,
    /// Where in the file it begins.
    pub position: FilePosition,
    /// What was found there.
    pub fault: Fault,
}

/// The torn end of a frame sequence that a start cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The end, from now on.
    pub position: LogPosition,
    /// Whole frames behind it, which were never acknowledged as durable.
    pub frames: u64,
    /// What was found there.
    pub fault: Fault,
}

/// What is known of a frame sequence before its files are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Everything before this position needs no look.
    pub(crate) from: LogPosition,
    /// It was once durable up to here.
    pub(crate) durable: LogPosition,
    /// It ends at `durable` exactly: the last stop was clean.
    pub(crate) clean: bool,
    /// Fenced at earlier starts.
    pub(crate) fences: Vec<Range<LogPosition>>,
}

/// What a start has found of a frame sequence.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) segments: Segments,
    pub(crate) end: LogPosition,
    /// The fences known before and those found now.
    pub(crate) fences: Vec<Range<LogPosition>>,
    pub(crate) new_fences: Vec<Fence>,
    pub(crate) cut: Option<Cut>,
    /// The highest epoch met.
    pub(crate) epoch: Epoch,
    /// The latest store time met.
    pub(crate) store_time_ms: i64,
}

/// Finds the end of the frame sequence in a directory, zeroes what was torn, and makes the rest durable.
pub(crate) fn find_end(
    env: &dyn Env,
    settings: &FrameLogSettings,
    known: &Known,
) -> Result<Found, StorageError> {
    let mut finder = Finder {
        position: known.from,
        known,
        found: Found {
            segments: Segments::default(),
            end: known.from,
            fences: known.fences.clone(),
            new_fences: Vec::new(),
            cut: None,
            epoch: Epoch(0),
            store_time_ms: i64::MIN,
        },
    };
    let files = open_segments(env, settings)?;
    for (number, (base, file)) in files.iter().enumerate() {
        let next = files.get(number + 1).map(|(base, _)| *base);
        finder.segment(*base, file, next)?;
    }
    finder.finish(settings, &files)
}

type Opened = (LogPosition, Result<Arc<SegmentFile>, Unreadable>);

/// A segment whose header is damaged.
#[derive(Debug)]
struct Unreadable {
    path: PathBuf,
    fault: Fault,
    /// How many bytes of frames it may hold.
    frames_len: u64,
}

fn open_segments(env: &dyn Env, settings: &FrameLogSettings) -> Result<Vec<Opened>, StorageError> {
    let dir = &settings.dir;
    env.make_dir(dir).map_err(StorageError::io("create", dir))?;
    // A file whose name could not be made durable before would take with it what is appended now.
    env.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
    let mut files = Vec::new();
    for name in env.list(dir).map_err(StorageError::io("list", dir))? {
        let path = dir.join(&name);
        if name == NEXT_SEGMENT || name == COMPACTED_SEGMENT {
            env.remove(&path).map_err(StorageError::io("remove", &path))?;
        }
        let Some(base) = segment_base(settings.kind, &name) else {
            continue;
        };
        let opened = match SegmentFile::open(env, &path, settings.kind, &settings.uuid, Open::Write) {
            Ok(segment) => Ok(Arc::new(segment)),
            Err(StorageError::Corrupt { fault: Fault::Version(found), .. }) => {
                return Err(StorageError::Newer { path, found, supported: 1 });
            }
            Err(StorageError::Corrupt { path, fault, .. }) => {
                let len = env.open(&path, Open::Read).and_then(|file| file.len());
                let len = len.map_err(StorageError::io("read", &path))?;
                let frames_len = len.saturating_sub(SEGMENT_HEADER_LEN as u64);
                let frames_len = frames_len.next_multiple_of(FRAME_ALIGNMENT as u64);
                Err(Unreadable { path, fault, frames_len })
            }
            Err(error) => return Err(error),
        };
        files.push((base, opened));
    }
    files.sort_unstable_by_key(|(base, _)| *base);
    Ok(files)
}

struct Finder<'a> {
    /// Up to here everything has been looked at.
    position: LogPosition,
    known: &'a Known,
    found: Found,
}

impl Finder<'_> {
    fn segment(
        &mut self,
        base: LogPosition,
        file: &Result<Arc<SegmentFile>, Unreadable>,
        next: Option<LogPosition>,
    ) -> Result<(), StorageError> {
        match file {
            Ok(segment) => {
                self.found.epoch = self.found.epoch.max(segment.header.epoch);
                self.found.segments.insert(Arc::clone(segment));
                if let Some(next) = next.filter(|next| *next <= self.known.from) {
                    segment.mark_sealed(next);
                    return Ok(());
                }
                self.begin_at(base, &segment.path);
                match segment.tail() {
                    Some(tail) => self.look_through(segment, tail.end, tail.store_time_ms),
                    None => self.follow(segment, next),
                }
            }
            Err(unreadable) => {
                let end = next.unwrap_or(LogPosition(base.0 + unreadable.frames_len));
                if end > self.known.from {
                    self.begin_at(base, &unreadable.path);
                    self.fence(
                        base.max(self.position)..end,
                        &unreadable.path,
                        FilePosition(0),
                        unreadable.fault,
                    );
                }
                Ok(())
            }
        }
    }

    /// Fences what lies between the segments before and this one: a segment that is missing.
    fn begin_at(&mut self, base: LogPosition, path: &std::path::Path) {
        let first = self.found.end == LogPosition(0) && self.position == LogPosition(0);
        if base > self.position && !first {
            self.fence(
                self.position..base,
                path,
                FilePosition(0),
                Fault::Structure("the gap before this segment"),
            );
        }
        self.position = self.position.max(base);
        self.found.end = self.position;
    }

    fn fence(
        &mut self,
        range: Range<LogPosition>,
        path: &std::path::Path,
        position: FilePosition,
        fault: Fault,
    ) {
        self.position = self.position.max(range.end);
        self.found.end = self.position;
        if range.is_empty() || self.known.fences.contains(&range) {
            return;
        }
        self.found.fences.push(range.clone());
        self.found.new_fences.push(Fence { range, path: path.to_owned(), position, fault });
    }

    /// Checks every record of a compacted segment. It is complete, or would not have its name.
    fn look_through(
        &mut self,
        segment: &SegmentFile,
        end: LogPosition,
        store_time_ms: i64,
    ) -> Result<(), StorageError> {
        let runs = match segment.runs() {
            Ok(runs) => runs,
            Err(StorageError::Corrupt { path, position, fault }) => {
                self.fence(segment.base()..end, &path, position, fault);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        for run in runs {
            if self.known.fences.iter().any(|fence| fence.contains(&run.range.start)) {
                continue;
            }
            read_run(segment, &run, &mut bytes)?;
            if let Err((position, fault)) = check_records(&bytes, run.range.start) {
                self.fence(run.range.clone(), &segment.path, segment.file_position(position), fault);
            }
        }
        self.found.store_time_ms = self.found.store_time_ms.max(store_time_ms);
        self.position = self.position.max(end);
        self.found.end = self.position;
        Ok(())
    }

    /// Follows the frames of a segment as far as they go.
    fn follow(&mut self, segment: &SegmentFile, next: Option<LogPosition>) -> Result<(), StorageError> {
        let mut window = Window::new(segment);
        // A start that begins behind the seal does not meet it. Nothing may follow a seal in its file.
        let before = self.position.0.checked_sub(FRAME_HEADER_LEN as u64).map(LogPosition);
        if let Some(before) = before.filter(|before| *before >= segment.base())
            && window.frame(before)?.is_ok_and(|header| header.kind == FrameKind::Seal)
        {
            segment.mark_sealed(self.position);
            return Ok(());
        }
        loop {
            self.found.end = self.position;
            if let Some(fence) = self.known.fences.iter().find(|fence| fence.contains(&self.position)) {
                self.position = fence.end;
                if next.is_some_and(|next| next <= self.position) {
                    segment.mark_sealed(next.unwrap_or_default());
                    return Ok(());
                }
                continue;
            }
            if next == Some(self.position) {
                // Its seal was fenced at an earlier start.
                segment.mark_sealed(self.position);
                return Ok(());
            }
            match window.frame(self.position)? {
                Ok(header) if header.kind == FrameKind::Seal => {
                    self.saw(&header);
                    self.position = header.end();
                    self.found.end = self.position;
                    segment.mark_sealed(self.position);
                    return Ok(());
                }
                Ok(header) => {
                    self.saw(&header);
                    self.position = header.end();
                }
                Err(fault) => {
                    if !self.decide(segment, &mut window, next, fault)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn saw(&mut self, header: &FrameHeader) {
        self.found.epoch = self.found.epoch.max(header.epoch);
        if header.kind == FrameKind::Records {
            self.found.store_time_ms = self.found.store_time_ms.max(header.store_time_ms);
        }
    }

    /// Decides whether the invalid frame at `position` is damage or the end; returns whether to go on in
    /// this segment.
    fn decide(
        &mut self,
        segment: &SegmentFile,
        window: &mut Window<'_>,
        next: Option<LogPosition>,
        fault: Fault,
    ) -> Result<bool, StorageError> {
        let here = self.position;
        let proven = self.known.durable.max(next.unwrap_or_default());
        if self.known.clean && next.is_none() && here == self.known.durable {
            return Ok(false);
        }
        let later = look_on(window, here)?;
        if here >= proven.max(later.durable) {
            let torn = window.bytes(here, FRAME_HEADER_LEN)?.iter().any(|byte| *byte != 0);
            if torn || later.frames > 0 {
                // Whatever whole frames lie behind were written, but never known to be durable.
                self.found.cut = Some(Cut { position: here, frames: later.frames, fault });
            }
            return Ok(false);
        }
        let resume = later.first.or(next).unwrap_or(proven).max(LogPosition(here.0 + 1));
        let resume = LogPosition(resume.0.next_multiple_of(FRAME_ALIGNMENT as u64));
        self.fence(here..resume, &segment.path, segment.header.file_position(here), fault);
        if next.is_some_and(|next| resume >= next) {
            segment.mark_sealed(resume);
            return Ok(false);
        }
        Ok(true)
    }

    fn finish(mut self, settings: &FrameLogSettings, files: &[Opened]) -> Result<Found, StorageError> {
        let last = files.iter().rev().find_map(|(_, file)| file.as_ref().ok());
        let end = self.found.end;
        if end < self.known.durable {
            // The files that held the rest are gone.
            let path = last.map_or_else(|| settings.dir.clone(), |segment| segment.path.clone());
            self.fence(end..self.known.durable, &path, FilePosition(0), Fault::Truncated);
        }
        let end = self.found.end;
        if let Some(segment) = last.filter(|segment| segment.sealed_end().is_some() && !self.known.clean) {
            // A kill may have come between its seal and the sync of that.
            segment.sync()?;
        }
        if let Some(segment) = last.filter(|segment| segment.sealed_end().is_none()) {
            if end.0 + FRAME_HEADER_LEN as u64 > segment.limit().0 {
                // There is no room for a seal.
                segment.mark_sealed(end);
            } else {
                let untouched = self.known.clean && self.found.new_fences.is_empty();
                if !untouched {
                    segment.zero_from(end)?;
                }
            }
        }
        Ok(self.found)
    }
}

/// What lies behind an invalid frame.
#[derive(Debug, Default)]
pub(crate) struct Later {
    /// The first valid frame.
    pub(crate) first: Option<LogPosition>,
    frames: u64,
    /// The highest durable end that a valid frame states.
    pub(crate) durable: LogPosition,
}

pub(crate) fn look_on(window: &mut Window<'_>, after: LogPosition) -> Result<Later, StorageError> {
    let mut later = Later::default();
    let mut at = LogPosition(after.0 + FRAME_ALIGNMENT as u64);
    while let Some(candidate) = window.next_candidate(at)? {
        at = LogPosition(candidate.0 + FRAME_ALIGNMENT as u64);
        if let Ok(header) = window.frame(candidate)? {
            later.first.get_or_insert(candidate);
            later.frames += 1;
            later.durable = later.durable.max(header.durable);
            at = header.end();
        }
    }
    Ok(later)
}

/// Reads a segment through a buffer.
pub(crate) struct Window<'a> {
    segment: &'a SegmentFile,
    start: LogPosition,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(segment: &'a SegmentFile) -> Self {
        Self { segment, start: segment.base(), bytes: Vec::new() }
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

    /// Reads the frame at a position and checks it.
    pub(crate) fn frame(
        &mut self,
        position: LogPosition,
    ) -> Result<Result<FrameHeader, Fault>, StorageError> {
        let salt = self.segment.salt();
        let header = match FrameHeader::decode(self.bytes(position, FRAME_HEADER_LEN)?, salt, position) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        if header.end() > self.segment.limit() {
            return Ok(Err(Fault::Structure("the payload's length")));
        }
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

    /// Returns the first position from `from` on where a frame may begin.
    fn next_candidate(&mut self, from: LogPosition) -> Result<Option<LogPosition>, StorageError> {
        let mut position = from;
        loop {
            let bytes = self.bytes(position, WINDOW)?;
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
}

/// Reads the records of a run.
fn read_run(segment: &SegmentFile, run: &LogRun, out: &mut Vec<u8>) -> Result<(), StorageError> {
    let len = usize::try_from(run.range.end.0 - run.range.start.0).unwrap_or(usize::MAX);
    out.resize(len, 0);
    if segment.read_some(out, run.range.start)? < len {
        return Err(StorageError::io("read", &segment.path)(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// Verifies the checksums of records that follow each other.
fn check_records(bytes: &[u8], position: LogPosition) -> Result<(), (LogPosition, Fault)> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let here = LogPosition(position.0 + at as u64);
        let record = RecordView::decode(rest, here).map_err(|fault| (here, fault))?;
        at += padded(u64::from(record.size)) as usize;
    }
    Ok(())
}

/// Told of records or entries that lie together: where they begin, and their bytes.
pub(crate) type EachPayload<'a> = dyn FnMut(LogPosition, &[u8]) -> Result<(), StorageError> + 'a;

/// Calls `each` with the payload of every frame in a range of positions, which a start has found valid, in order;
/// in compacted segments of the log with every run.
pub(crate) fn for_each_payload(
    segments: &Segments,
    fences: &[Range<LogPosition>],
    range: Range<LogPosition>,
    each: &mut EachPayload<'_>,
) -> Result<(), StorageError> {
    let mut position = range.start;
    for segment in segments.all() {
        let end = segment.sealed_end().unwrap_or(range.end).min(range.end);
        if end <= position {
            continue;
        }
        position = position.max(segment.base());
        if segment.tail().is_some() {
            // Of one whose directory is damaged nothing can be found.
            let is_lost = |fence: &Range<LogPosition>| fence.start <= segment.base() && end <= fence.end;
            if fences.iter().any(is_lost) {
                position = end;
                continue;
            }
            let mut bytes = Vec::new();
            for run in segment.runs()?.filter(|run| run.range.end > position && run.range.start < end) {
                if !fences.iter().any(|fence| fence.contains(&run.range.start)) {
                    read_run(&segment, &run, &mut bytes)?;
                    each(run.range.start, &bytes)?;
                }
            }
            position = end;
            continue;
        }
        let mut window = Window::new(&segment);
        while position < end {
            if let Some(fence) = fences.iter().find(|fence| fence.contains(&position)) {
                position = fence.end;
                continue;
            }
            let header = match window.frame(position)? {
                Ok(header) => header,
                Err(fault) => {
                    let at = segment.header.file_position(position).0;
                    return Err(StorageError::corrupt(&segment.path, at)(fault));
                }
            };
            if header.kind != FrameKind::Seal {
                let payload = window.payload(&header)?;
                each(LogPosition(header.position.0 + FRAME_HEADER_LEN as u64), payload)?;
            }
            position = header.end();
        }
    }
    Ok(())
}
