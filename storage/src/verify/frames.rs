//! Follows the frames of log, journal and catalogue, as a start does, but through all of them.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Finding, Remedy, Verifier, list};
use crate::{
    env::Open,
    error::{Fault, StorageError},
    format::{
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameKind},
        record::RecordHint,
        segment::{SEGMENT_HEADER_LEN, SegmentKind},
    },
    lock::FORMAT_VERSION,
    log::{
        fences::Fences,
        salvage::{damaged_parts, salvage},
        segment::{SegmentFile, Segments, segment_base},
        walk::Window,
    },
    offset::LogPosition,
};

/// So many damaged ranges are told apart; behind them the last one grows.
const DAMAGED_MAX: usize = 100_000;

/// So much is read at once where zeros are expected.
const ZEROS_READ: usize = 1 << 20;

/// What is known of a sequence of frames before it is read.
pub(super) struct Sequence {
    pub(super) kind: SegmentKind,
    pub(super) dir: PathBuf,
    /// It was once durable up to here.
    pub(super) durable: LogPosition,
    /// Set if it ends at `durable` exactly: how long its last file is.
    pub(super) clean: Option<u64>,
    /// Found damaged by an earlier start.
    pub(super) fences: Fences,
    /// Below this position no start reads it.
    pub(super) checked: LogPosition,
    pub(super) cost: &'static str,
    pub(super) remedy: Remedy,
}

/// What a sequence of frames consists of.
pub(super) struct Followed {
    pub(super) segments: Segments,
    pub(super) begin: LogPosition,
    pub(super) end: LogPosition,
    /// Damaged ranges, ascending, with the numbers of their findings.
    pub(super) damaged: Vec<(Range<LogPosition>, usize)>,
    /// What damaged records seem to have been, with the numbers of their findings.
    pub(super) hints: Vec<(RecordHint, usize)>,
    /// Of the journal: how far its frames state that the log was durable.
    pub(super) log_durable: LogPosition,
}

impl Followed {
    /// Returns the finding of the first damage within a range.
    pub(super) fn damage_within(&self, range: &Range<LogPosition>) -> Option<usize> {
        let first = self.damaged.partition_point(|(damaged, _)| damaged.end <= range.start);
        let (damaged, finding) = self.damaged.get(first)?;
        (damaged.start < range.end).then_some(*finding)
    }
}

/// What a whole frame holds, or a run of a compacted segment.
pub(super) struct Payload<'a> {
    /// All of the frame or run.
    pub(super) range: Range<LogPosition>,
    /// Where the bytes begin.
    pub(super) at: LogPosition,
    pub(super) bytes: &'a [u8],
    /// How many records or entries a frame says that there are.
    pub(super) records: Option<u32>,
}

/// Told of each whole frame or run of a segment.
pub(super) type Each<'a, 'v> =
    dyn FnMut(&mut Verifier<'v>, &SegmentFile, &Payload<'_>) -> Result<(), StorageError> + 'a;

impl<'v> Verifier<'v> {
    /// Follows the frames of a sequence.
    pub(super) fn follow(
        &mut self,
        sequence: &Sequence,
        each: &mut Each<'_, 'v>,
    ) -> Result<Followed, StorageError> {
        let mut files = Vec::new();
        for name in list(self.env.as_ref(), &sequence.dir)? {
            files.extend(segment_base(sequence.kind, &name).map(|base| (base, sequence.dir.join(name))));
        }
        files.sort_unstable();
        let mut follower = Follower {
            verifier: self,
            sequence,
            position: LogPosition(0),
            followed: Followed {
                segments: Segments::default(),
                begin: files.first().map(|(base, _)| *base).unwrap_or_default(),
                end: LogPosition(0),
                damaged: Vec::new(),
                hints: Vec::new(),
                log_durable: LogPosition(0),
            },
            is_first: true,
        };
        for (number, (base, path)) in files.iter().enumerate() {
            let next = files.get(number + 1).map(|(base, _)| *base);
            follower.file(*base, path, next, each)?;
        }
        let (end, last) = (follower.position, files.last());
        follower.followed.end = end;
        if end < sequence.durable {
            let path = last.map_or_else(|| sequence.dir.clone(), |(_, path)| path.clone());
            follower.find(
                &path,
                0..0,
                end..sequence.durable,
                "the files behind this one are missing".to_owned(),
            );
        }
        Ok(follower.followed)
    }
}

struct Follower<'a, 'v> {
    verifier: &'a mut Verifier<'v>,
    sequence: &'a Sequence,
    /// Up to here everything has been looked at.
    position: LogPosition,
    followed: Followed,
    is_first: bool,
}

impl<'v> Follower<'_, 'v> {
    /// Notes damage to a range of the sequence.
    fn find(&mut self, path: &Path, bytes: Range<u64>, range: Range<LogPosition>, what: String) -> usize {
        let known = self.sequence.fences.cover(&range);
        let remedy = match self.sequence.remedy {
            _ if known => Remedy::Known,
            Remedy::Fenced if range.end <= self.sequence.checked => Remedy::StaysUnreadable,
            other => other,
        };
        let cost = self.sequence.cost;
        let finding = Finding { path: path.to_owned(), bytes, what, cost, rows: Vec::new(), remedy };
        let number = self.verifier.find(finding);
        let is_full = self.followed.damaged.len() >= DAMAGED_MAX;
        match self.followed.damaged.last_mut().filter(|_| is_full) {
            Some((last, _)) => last.end = last.end.max(range.end),
            None => self.followed.damaged.push((range, number)),
        }
        number
    }

    /// Notes bytes that are not what they must be, but hold nothing.
    fn find_harmless(&mut self, path: &Path, bytes: Range<u64>, what: &str, remedy: Remedy) {
        self.find_other(path, bytes, what, "nothing: these bytes hold nothing", remedy);
    }

    fn find_other(&mut self, path: &Path, bytes: Range<u64>, what: &str, cost: &'static str, remedy: Remedy) {
        let (path, what) = (path.to_owned(), what.to_owned());
        self.verifier.find(Finding { path, bytes, what, cost, rows: Vec::new(), remedy });
    }

    fn file(
        &mut self,
        base: LogPosition,
        path: &Path,
        next: Option<LogPosition>,
        each: &mut Each<'_, 'v>,
    ) -> Result<(), StorageError> {
        let (env, kind) = (self.verifier.env.as_ref(), self.sequence.kind);
        let opened = SegmentFile::open(env, path, kind, &self.verifier.uuid, Open::Read);
        let opened = match opened {
            Ok(segment) => Ok(Arc::new(segment)),
            // A broker has unlinked it meanwhile.
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(StorageError::Corrupt { fault: Fault::Version(found), .. }) => {
                return Err(StorageError::Newer { path: path.to_owned(), found, supported: FORMAT_VERSION });
            }
            Err(StorageError::Corrupt { fault, position, .. }) => {
                match SegmentFile::restored(env, path, kind, &self.verifier.uuid, Open::Read)? {
                    Some((segment, _)) => {
                        let what = format!("the header of the segment: {fault}");
                        let bytes = 0..SEGMENT_HEADER_LEN as u64;
                        let cost = "nothing: what it said can be told from the rest";
                        self.find_other(path, bytes, &what, cost, Remedy::StartRestores);
                        Ok(Arc::new(segment))
                    }
                    None => Err((fault, position.0)),
                }
            }
            Err(error) => return Err(error),
        };
        let is_first = std::mem::take(&mut self.is_first);
        self.verifier.found.files += 1;
        if is_first {
            self.position = base;
        } else if base > self.position {
            let range = self.position..base;
            self.find(path, 0..0, range, "what lies before this file is missing".to_owned());
            self.position = base;
        }
        match opened {
            Ok(segment) => {
                self.followed.segments.insert(Arc::clone(&segment));
                self.verifier.read(SEGMENT_HEADER_LEN as u64, path);
                match segment.tail() {
                    None => self.segment(&segment, next, each),
                    Some(_) => self.compacted(&segment, each),
                }
            }
            Err((fault, at)) => {
                let len = super::file_len(env, path)?.unwrap_or_default();
                let frames = len.saturating_sub(SEGMENT_HEADER_LEN as u64);
                let end =
                    next.unwrap_or(LogPosition(base.0 + frames.next_multiple_of(FRAME_ALIGNMENT as u64)));
                // A compacted segment says at its end where its records are.
                let (bytes, what) = match at {
                    0 => (0..len.min(SEGMENT_HEADER_LEN as u64), "header"),
                    at => (at..len.max(at), "tail"),
                };
                let range = base.max(self.position)..end.max(self.position);
                self.find(path, bytes, range, format!("the {what} of the segment: {fault}"));
                self.position = self.position.max(end);
                Ok(())
            }
        }
    }

    fn segment(
        &mut self,
        segment: &SegmentFile,
        next: Option<LogPosition>,
        each: &mut Each<'_, 'v>,
    ) -> Result<(), StorageError> {
        let mut window = Window::new(segment);
        loop {
            if let Some(next) = next.filter(|next| *next <= self.position) {
                // Its seal was fenced off, or there was no room for one.
                segment.mark_sealed(next);
                return Ok(());
            }
            match window.frame(self.position)? {
                Ok(header) => {
                    self.frame(segment, &mut window, &header, each)?;
                    self.position = header.end();
                    if header.kind == FrameKind::Seal {
                        return self.sealed(segment, next);
                    }
                }
                Err(fault) => {
                    let later = window.later(self.position)?;
                    let proven = self.sequence.durable.max(next.unwrap_or_default()).max(later.durable);
                    if self.position >= proven {
                        return self.open_end(segment);
                    }
                    // A broker may have written it since these bytes were read.
                    if Window::new(segment).frame(self.position)?.is_ok() {
                        window = Window::new(segment);
                        continue;
                    }
                    let resume = later.first.or(next).unwrap_or(proven).min(proven);
                    self.damaged_frame(segment, &mut window, fault, resume, each)?;
                }
            }
        }
    }

    /// Reads the runs of a compacted segment.
    fn compacted(&mut self, segment: &SegmentFile, each: &mut Each<'_, 'v>) -> Result<(), StorageError> {
        let Some(tail) = segment.tail() else { return Ok(()) };
        let runs = match segment.runs() {
            Ok(runs) => runs,
            Err(StorageError::Corrupt { fault, .. }) => {
                let bytes = tail.directory_at..segment.file_len()?;
                let range = segment.base()..tail.end;
                self.find(&segment.path, bytes, range, format!("the directory of the segment: {fault}"));
                self.position = self.position.max(tail.end);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for run in runs {
            let len = usize::try_from(run.range.end.0 - run.range.start.0).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len];
            let read = segment.read_some(&mut bytes, run.range.start)?;
            bytes.truncate(read);
            let parts = damaged_parts(&bytes, run.range.start, None);
            for part in &parts {
                let start = run.at + (part.range.start.0 - run.range.start.0);
                let bytes = start..start + (part.range.end.0 - part.range.start.0);
                self.find(&segment.path, bytes, part.range.clone(), format!("a record: {}", part.fault));
            }
            let damaged = Fences::new(parts.into_iter().map(|part| part.range).collect());
            for part in damaged.outside(run.range.clone()) {
                let at = |position: LogPosition| {
                    usize::try_from(position.0 - run.range.start.0).unwrap_or(usize::MAX)
                };
                let bytes = bytes.get(at(part.start)..at(part.end)).unwrap_or_default();
                let payload = Payload { at: part.start, range: part, bytes, records: None };
                each(self.verifier, segment, &payload)?;
            }
            self.verifier.read(read as u64, &segment.path);
        }
        self.position = self.position.max(tail.end);
        Ok(())
    }

    fn frame(
        &mut self,
        segment: &SegmentFile,
        window: &mut Window<'_>,
        header: &FrameHeader,
        each: &mut Each<'_, 'v>,
    ) -> Result<(), StorageError> {
        let bytes = self.bytes(segment, header.position..header.end());
        let fits = match header.kind {
            FrameKind::Seal => header.records == 0 && header.payload_len == 0,
            FrameKind::Records => self.sequence.kind == SegmentKind::Log,
            FrameKind::Journal => self.sequence.kind == SegmentKind::Journal,
            FrameKind::Catalogue => self.sequence.kind == SegmentKind::Catalogue,
        };
        self.followed.log_durable = self.followed.log_durable.max(header.log_durable);
        if !fits {
            let range = header.position..header.end();
            self.find(&segment.path, bytes.clone(), range, "a frame of another kind of file".to_owned());
        } else if header.kind != FrameKind::Seal {
            let payload = Payload {
                range: header.position..header.end(),
                at: LogPosition(header.position.0 + FRAME_HEADER_LEN as u64),
                bytes: window.payload(header)?,
                records: Some(header.records),
            };
            each(self.verifier, segment, &payload)?;
        }
        let payload_end =
            LogPosition(header.position.0 + (FRAME_HEADER_LEN as u64) + u64::from(header.payload_len));
        let padding = usize::try_from(header.end().0 - payload_end.0).unwrap_or_default();
        let found = window.bytes(payload_end, padding)?;
        if found.len() < padding || found.iter().any(|byte| *byte != 0) {
            let bytes = self.bytes(segment, payload_end..header.end());
            self.find_harmless(&segment.path, bytes, "the zeros behind a frame", Remedy::WriteZeros);
        }
        self.verifier.read(bytes.end - bytes.start, &segment.path);
        Ok(())
    }

    fn bytes(&self, segment: &SegmentFile, range: Range<LogPosition>) -> Range<u64> {
        segment.header.file_position(range.start).0..segment.header.file_position(range.end).0
    }

    /// Notes what is damaged of the frame at the position, tells of the rest, and goes on behind it.
    fn damaged_frame(
        &mut self,
        segment: &SegmentFile,
        window: &mut Window<'_>,
        fault: Fault,
        resume: LogPosition,
        each: &mut Each<'_, 'v>,
    ) -> Result<(), StorageError> {
        let here = self.position;
        let resume = LogPosition(resume.0.next_multiple_of(FRAME_ALIGNMENT as u64));
        let resume = resume.max(LogPosition(here.0 + FRAME_ALIGNMENT as u64));
        let salvaged = salvage(window, self.sequence.kind, here, fault, resume)?;
        self.position = salvaged.end;
        let payload_at = LogPosition(here.0 + FRAME_HEADER_LEN as u64);
        let mut hints = salvaged.hints.iter().peekable();
        for part in &salvaged.damaged {
            let what = match (part.range.start == here, salvaged.has_header) {
                (true, false) => "the header of a frame",
                (true, true) => "the content of a frame",
                (false, _) => "a record",
            };
            // Its end may lie behind that of a file that was cut.
            let bytes = self.bytes(segment, part.range.clone());
            let finding =
                self.find(&segment.path, bytes, part.range.clone(), format!("{what}: {}", part.fault));
            while let Some(hint) = hints.next_if(|hint| hint.position < part.range.end) {
                if self.followed.hints.len() < DAMAGED_MAX {
                    self.followed.hints.push((*hint, finding));
                }
            }
        }
        let damaged = Fences::new(salvaged.damaged.iter().map(|part| part.range.clone()).collect());
        for part in damaged.outside(payload_at.min(salvaged.end)..salvaged.end) {
            let len = usize::try_from(part.end.0 - part.start.0).unwrap_or(usize::MAX);
            let payload = Payload {
                range: part.clone(),
                at: part.start,
                bytes: window.bytes(part.start, len)?,
                records: None,
            };
            each(self.verifier, segment, &payload)?;
        }
        let whole = self.bytes(segment, here..salvaged.end);
        self.verifier.read(whole.end - whole.start, &segment.path);
        Ok(())
    }

    fn sealed(&mut self, segment: &SegmentFile, next: Option<LogPosition>) -> Result<(), StorageError> {
        segment.mark_sealed(self.position);
        let (end, len) = (segment.header.file_position(self.position).0, segment.file_len()?);
        // A broker cuts the file after it has written the seal.
        if len > end && next.is_some() {
            self.find_harmless(
                &segment.path,
                end..len,
                "bytes behind the end of a sealed segment",
                Remedy::Nothing,
            );
        }
        Ok(())
    }

    /// Looks at what lies behind the last frame.
    fn open_end(&mut self, segment: &SegmentFile) -> Result<(), StorageError> {
        let Some(len) = self.sequence.clean else { return Ok(()) };
        let found = segment.file_len()?;
        let end = segment.header.file_position(self.position).0;
        if self.position > self.sequence.durable && self.sequence.kind == SegmentKind::Catalogue {
            // On a full disk a start cannot take back the mark, and topics are deleted all the same.
            return Ok(());
        }
        if self.position > self.sequence.durable {
            let bytes = segment.header.file_position(self.sequence.durable.max(segment.base())).0..end;
            self.find_harmless(
                &segment.path,
                bytes,
                "frames behind the end at the last stop",
                Remedy::Nothing,
            );
        }
        if found != len {
            let what = format!("the file is {found} bytes long, and was {len} at the last stop");
            self.find_harmless(&segment.path, found.min(len)..found.max(len), &what, Remedy::Nothing);
        }
        let mut chunk = vec![0; ZEROS_READ];
        let mut at = self.position;
        loop {
            let read = segment.read_some(&mut chunk, at)?;
            let bytes = chunk.get(..read).unwrap_or_default();
            if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
                let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(first);
                let start = segment.header.file_position(at).0;
                let bytes = start + first as u64..start + last as u64 + 1;
                self.find_harmless(
                    &segment.path,
                    bytes,
                    "bytes that are not zero behind the last frame",
                    Remedy::WriteZeros,
                );
                return Ok(());
            }
            self.verifier.read(read as u64, &segment.path);
            if read == 0 {
                return Ok(());
            }
            at = LogPosition(at.0 + read as u64);
        }
    }
}
