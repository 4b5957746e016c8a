//! What a start does with each file of a frame sequence that it finds.
//!
//! It follows the frames. Where one is invalid, at position P, it looks on: if something proves that the
//! durable end once lay above P (a later valid frame that says so, a later segment, the checkpoint), the
//! bytes at P are *damaged*: they are fenced off and reported, and the start goes on behind them. Otherwise
//! P is where a crash tore the last write: it is the end, and what follows is cut off before the first append.
//!
//! Of a damaged frame only the damaged records are fenced off.
//!
//! What lies between the last durable end that anything states and the end is read from the page cache, and may be
//! nowhere else: after a failed sync the system keeps such pages and forgets that they were never written. So a start
//! after an unclean stop writes these bytes again, and syncs them, before anything relies on them.

use std::{ops::Range, path::PathBuf, sync::Arc};

use crate::{
    env::{Env, Open},
    error::{Fault, StorageError},
    format::{
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameKind},
        record::RecordHint,
        segment::{SEGMENT_HEADER_LEN, SegmentKind},
    },
    log::{
        fences::Fences,
        salvage::{damaged_parts, salvage},
        segment::{COMPACTED_SEGMENT, FrameLogSettings, NEXT_SEGMENT, SegmentFile, Segments, segment_base},
        walk::{Window, read_run},
    },
    offset::{Epoch, FilePosition, LogPosition},
};

/// So many new damaged ranges are told apart at one start; behind them the last one grows.
const NEW_FENCES_MAX: usize = 10_000;
/// So many damaged records are remembered with what they seem to have been.
const HINTS_MAX: usize = 100_000;

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
    pub(crate) fences: Fences,
}

/// What a start has found of a frame sequence.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) segments: Segments,
    pub(crate) end: LogPosition,
    /// The fences known before and those found now.
    pub(crate) fences: Fences,
    pub(crate) new_fences: Vec<Fence>,
    /// What damaged records seem to have been, known before or not.
    pub(crate) hints: Vec<RecordHint>,
    pub(crate) cut: Option<Cut>,
    /// Up to here something states that it was durable.
    pub(crate) durable: LogPosition,
    /// Of the journal: how far its frames state that the log was durable.
    pub(crate) log_durable: LogPosition,
    /// The highest epoch met.
    pub(crate) epoch: Epoch,
    /// The latest store time met.
    pub(crate) store_time_ms: i64,
}

/// Finds the end of the frame sequence in a directory, cuts off what was torn, and makes the rest durable.
pub(crate) fn find_end(
    env: &dyn Env,
    settings: &FrameLogSettings,
    known: &Known,
) -> Result<Found, StorageError> {
    let mut finder = Finder {
        kind: settings.kind,
        position: known.from,
        known,
        found: Found {
            segments: Segments::default(),
            end: known.from,
            fences: known.fences.clone(),
            new_fences: Vec::new(),
            hints: Vec::new(),
            cut: None,
            durable: known.durable,
            log_durable: LogPosition(0),
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
                if let Some(segment) = restore(env, settings, &path, fault)? {
                    files.push((base, Ok(Arc::new(segment))));
                    continue;
                }
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

/// Writes the header of a segment anew if it is damaged, and what it said can be told.
fn restore(
    env: &dyn Env,
    settings: &FrameLogSettings,
    path: &std::path::Path,
    fault: Fault,
) -> Result<Option<SegmentFile>, StorageError> {
    let restored = SegmentFile::restored(env, path, settings.kind, &settings.uuid, Open::Write)?;
    let Some((segment, bytes)) = restored else { return Ok(None) };
    tracing::error!(path = %path.display(), %fault, "the header of a segment was damaged, and is written anew");
    segment.write_header(&bytes)?;
    Ok(Some(segment))
}

struct Finder<'a> {
    kind: SegmentKind,
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
                if end > self.known.from || end == base {
                    self.begin_at(base, &unreadable.path);
                    let range = base.max(self.position)..end;
                    if range.is_empty() {
                        // Nobody knows what it held; it is said all the same.
                        let (path, position) = (unreadable.path.clone(), FilePosition(0));
                        self.found.new_fences.push(Fence { range, path, position, fault: unreadable.fault });
                    } else {
                        self.fence(range, &unreadable.path, FilePosition(0), unreadable.fault);
                    }
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
        if range.is_empty() {
            return;
        }
        if self.known.fences.cover(&range) {
            return;
        }
        let is_full = self.found.new_fences.len() >= NEW_FENCES_MAX;
        match self.found.new_fences.last_mut() {
            Some(last) if last.range.end == range.start && last.path == *path => last.range.end = range.end,
            // Whatever is whole in between is given up: a file so badly damaged must not take memory without bound.
            Some(last) if is_full && last.range.start <= range.start => {
                last.range.end = last.range.end.max(range.end);
            }
            _ => self.found.new_fences.push(Fence { range, path: path.to_owned(), position, fault }),
        }
    }

    /// Returns all damage, known before or not.
    fn fences(&self) -> Fences {
        let new = self.found.new_fences.iter().map(|fence| &fence.range);
        Fences::new(self.known.fences.ranges().iter().chain(new).cloned().collect())
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
            read_run(segment, &run, &mut bytes)?;
            for part in damaged_parts(&bytes, run.range.start, None) {
                let at = segment.file_position(part.range.start);
                self.fence(part.range, &segment.path, at, part.fault);
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
        self.found.durable = self.found.durable.max(header.durable);
        self.found.log_durable = self.found.log_durable.max(header.log_durable);
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
        let later = window.later(here)?;
        if here >= proven.max(later.durable) {
            let frames = window.count_later(here)?;
            let torn = window.bytes(here, FRAME_HEADER_LEN)?.iter().any(|byte| *byte != 0);
            if torn || frames > 0 {
                // Whatever whole frames lie behind were written, but never known to be durable.
                self.found.cut = Some(Cut { position: here, frames, fault });
            }
            return Ok(false);
        }
        let proven = proven.max(later.durable);
        self.found.durable = self.found.durable.max(proven);
        // What lies behind the last durable end is judged for itself.
        let resume = later.first.or(next).unwrap_or(proven).min(proven).max(LogPosition(here.0 + 1));
        let resume = LogPosition(resume.0.next_multiple_of(FRAME_ALIGNMENT as u64));
        let salvaged = salvage(window, self.kind, here, fault, resume)?;
        for part in salvaged.damaged {
            let at = segment.header.file_position(part.range.start);
            self.fence(part.range, &segment.path, at, part.fault);
        }
        let room = HINTS_MAX.saturating_sub(self.found.hints.len());
        self.found.hints.extend(salvaged.hints.into_iter().take(room));
        self.position = self.position.max(salvaged.end);
        self.found.end = self.position;
        if next.is_some_and(|next| self.position >= next) {
            segment.mark_sealed(self.position);
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
        if let Some(segment) = last.filter(|segment| segment.tail().is_none()) {
            self.is_long_enough(segment)?;
        }
        let end = self.found.end;
        self.found.fences = self.fences();
        let untouched = self.known.clean
            && self.found.new_fences.is_empty()
            && self.found.cut.is_none()
            && end == self.known.durable;
        if let Some(segment) = last {
            // There may be no room for a seal.
            if segment.sealed_end().is_none() && end.0 + FRAME_HEADER_LEN as u64 > segment.limit().0 {
                segment.mark_sealed(end);
            }
            if !untouched && segment.tail().is_none() {
                make_durable(segment, self.found.durable, end)?;
            }
        }
        Ok(self.found)
    }
}

impl Finder<'_> {
    /// Fences what a file lacks that was cut below the position at which this start begins to read.
    fn is_long_enough(&mut self, segment: &SegmentFile) -> Result<(), StorageError> {
        let held = segment.file_len()?.saturating_sub(SEGMENT_HEADER_LEN as u64);
        // Of the last frame the zeros may be missing that pad it.
        let held = held.next_multiple_of(FRAME_ALIGNMENT as u64);
        let lacks = LogPosition(segment.base().0 + held)..self.known.durable.min(segment.limit());
        if lacks.start < lacks.end && !self.fences().cover(&lacks) {
            let at = segment.header.file_position(lacks.start);
            self.fence(lacks, &segment.path, at, Fault::Truncated);
        }
        Ok(())
    }
}

/// Makes the last segment durable up to `end`, and ends it there. What nothing states to have been durable is written
/// once more, frame by frame, each checked as it is: the page cache may hold it without ever writing it.
fn make_durable(segment: &SegmentFile, durable: LogPosition, end: LogPosition) -> Result<(), StorageError> {
    let mut window = Window::new(segment);
    let mut at = durable.max(segment.base());
    let end = segment.sealed_end().unwrap_or(end);
    while at < end {
        let header = match window.frame(at)? {
            Ok(header) => header,
            // It was whole a moment ago.
            Err(fault) => {
                return Err(StorageError::corrupt(&segment.path, segment.header.file_position(at).0)(fault));
            }
        };
        let len = usize::try_from(header.frame_len()).unwrap_or(usize::MAX);
        // No more than there is: of the last frame the padding may be missing, and the disk may be full.
        segment.rewrite(window.bytes(at, len)?, at)?;
        at = header.end();
    }
    segment.cut(end)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn range(start: u64) -> Range<LogPosition> {
        LogPosition(start)..LogPosition(start + 8)
    }

    #[test]
    fn beyond_the_bound_only_the_last_new_fence_grows() {
        let known = range(10_000_000);
        let known = Known { fences: Fences::new(vec![known]), ..Known::default() };
        let found = Found {
            segments: Segments::default(),
            end: LogPosition(0),
            fences: known.fences.clone(),
            new_fences: Vec::new(),
            hints: Vec::new(),
            cut: None,
            durable: LogPosition(0),
            log_durable: LogPosition(0),
            epoch: Epoch(0),
            store_time_ms: i64::MIN,
        };
        let mut finder = Finder { kind: SegmentKind::Log, position: LogPosition(0), known: &known, found };
        let fence = |finder: &mut Finder<'_>, start| {
            finder.fence(range(start), Path::new("a"), FilePosition(0), Fault::Checksum);
        };
        for number in 0..NEW_FENCES_MAX as u64 {
            fence(&mut finder, number * 100);
        }
        let before = finder.found.new_fences.clone();
        // One that an earlier start has told of already costs nothing of what is whole before it.
        fence(&mut finder, 10_000_000);
        assert_eq!(finder.found.new_fences, before);
        assert_eq!(finder.found.end, LogPosition(10_000_008));
        fence(&mut finder, 10_000_100);
        fence(&mut finder, 10_000_200);
        assert_eq!(finder.found.new_fences.len(), NEW_FENCES_MAX);
        assert_eq!(finder.found.new_fences[..NEW_FENCES_MAX - 1], before[..NEW_FENCES_MAX - 1]);
        let last = finder.found.new_fences.last().unwrap().range.clone();
        assert_eq!(last, LogPosition((NEW_FENCES_MAX as u64 - 1) * 100)..LogPosition(10_000_208));
        // What a file lacks below is no part of the last one.
        fence(&mut finder, 50);
        assert!(finder.fences().cover(&range(50)) && !finder.fences().cover(&range(20)));
    }
}
