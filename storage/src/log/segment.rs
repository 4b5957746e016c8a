//! Frames in segment files: the commit log is such a sequence, and the group journal another.
//!
//! A segment is written at its end alone, with zeros ahead of it; when the next frame does not fit, a seal
//! frame ends it, the file is cut there and synced, and from then on its bytes never change. The next
//! segment begins where the seal frame ends. A sealed segment of the log may be replaced by a compacted one, which
//! holds records alone; whoever holds the old one goes on reading it.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow_buffer::Buffer;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::{
    env::{Env, EnvFile, Open, create_anew},
    error::{Fault, StorageError},
    format::{
        compacted::{COMPACTED_TAIL_LEN, CompactedTail, RUN_ENTRY_LEN, RunEntry},
        frame::{FRAME_HEADER_LEN, FrameKind, FramePlace, finish_frame},
        segment::{SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind},
    },
    offset::{Epoch, FilePosition, LogPosition},
};

/// So much is zeroed at once; a sync of the log waits for no more than that.
const ZERO_CHUNK: usize = 1 << 20;
/// Zeros are written so many at once: whoever appends to the file meanwhile waits for the file system.
const ZERO_PIECE: usize = 128 << 10;
static ZEROS: [u8; ZERO_CHUNK] = [0; ZERO_CHUNK];
/// The next segment while it is being zeroed; nothing in it counts until it has its name.
pub(crate) const NEXT_SEGMENT: &str = "next.tmp";
/// A segment that is being rewritten; it takes the place of the old one with its name.
pub(crate) const COMPACTED_SEGMENT: &str = "compacted.tmp";

/// One segment, shared by the one who writes it, the one who syncs it and all who read it.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    file: Arc<dyn EnvFile>,
    /// Where the segment ends, once it has had its last write.
    sealed: OnceLock<LogPosition>,
    map: OnceLock<Option<Buffer>>,
    /// Where its records lie, if it has been rewritten.
    compacted: Option<Directory>,
    /// Up to this byte of the file there are frames or zeros.
    zeroed: AtomicU64,
    /// Held while zeros are written, so that they never meet a frame.
    zeroing: Mutex<()>,
    /// The first sync that failed. The system tells of writes that it dropped once, to whoever syncs next: all
    /// others would succeed. Held over each sync, so that none ends before the failure of another is known.
    failed_sync: Mutex<Option<Arc<std::io::Error>>>,
}

impl SegmentFile {
    fn new(path: PathBuf, header: SegmentHeader, file: Arc<dyn EnvFile>, zeroed: u64) -> Self {
        let zeroed = AtomicU64::new(zeroed);
        let (sealed, map) = (OnceLock::new(), OnceLock::new());
        let (zeroing, failed_sync) = Default::default();
        Self { path, header, file, sealed, map, compacted: None, zeroed, zeroing, failed_sync }
    }

    /// Returns the segment of a file that has been rewritten.
    pub(crate) fn compacted(
        path: PathBuf,
        header: SegmentHeader,
        file: Arc<dyn EnvFile>,
        len: u64,
        tail: CompactedTail,
    ) -> Self {
        let compacted = Some(Directory { tail, entries: OnceLock::new() });
        let segment = Self { compacted, ..Self::new(path, header, file, len) };
        segment.mark_sealed(tail.end);
        segment
    }

    /// Opens a segment that a start found.
    pub(crate) fn open(
        env: &dyn Env,
        path: &Path,
        kind: SegmentKind,
        uuid: &[u8; 16],
        how: Open,
    ) -> Result<Self, StorageError> {
        let file = env.open(path, how).map_err(StorageError::io("open", path))?;
        let len = file.len().map_err(StorageError::io("read", path))?;
        if len < SEGMENT_HEADER_LEN as u64 {
            return Err(StorageError::corrupt(path, 0)(Fault::Truncated));
        }
        let mut bytes = vec![0; SEGMENT_HEADER_LEN];
        file.read_exact_at(&mut bytes, 0).map_err(StorageError::io("read", path))?;
        Self::with_header(path, file, len, kind, uuid, &bytes)
    }

    /// Opens a segment whose header is damaged, if what it said can be told; returns its bytes as well.
    pub(crate) fn restored(
        env: &dyn Env,
        path: &Path,
        kind: SegmentKind,
        uuid: &[u8; 16],
        how: Open,
    ) -> Result<Option<(Self, Vec<u8>)>, StorageError> {
        let file = env.open(path, how).map_err(StorageError::io("open", path))?;
        let len = file.len().map_err(StorageError::io("read", path))?;
        let base = path.file_name().and_then(|name| segment_base(kind, name.to_str()?));
        let Some(base) = base.filter(|_| len >= SEGMENT_HEADER_LEN as u64) else { return Ok(None) };
        let mut bytes = vec![0; SEGMENT_HEADER_LEN];
        file.read_exact_at(&mut bytes, 0).map_err(StorageError::io("read", path))?;
        // What is whole says that the file belongs elsewhere, or is newer.
        let is_damaged = matches!(SegmentHeader::decode(&bytes, kind), Err(Fault::Checksum | Fault::Magic));
        let restored = SegmentHeader::restored(&bytes, kind, base, uuid).filter(|_| is_damaged);
        let Some(bytes) = restored else { return Ok(None) };
        match Self::with_header(path, file, len, kind, uuid, &bytes) {
            Ok(segment) => Ok(Some((segment, bytes))),
            Err(StorageError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the header, durably.
    pub(crate) fn write_header(&self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_at(bytes, 0).map_err(StorageError::io("write", &self.path))?;
        self.sync()
    }

    fn with_header(
        path: &Path,
        file: Arc<dyn EnvFile>,
        len: u64,
        kind: SegmentKind,
        uuid: &[u8; 16],
        bytes: &[u8],
    ) -> Result<Self, StorageError> {
        let header = SegmentHeader::decode(bytes, kind).map_err(StorageError::corrupt(path, 0))?;
        let named = segment_name(kind, header.base);
        if header.uuid != *uuid || path.file_name().is_none_or(|name| name != named.as_str()) {
            return Err(StorageError::corrupt(path, 0)(Fault::Foreign));
        }
        if !header.compacted {
            return Ok(Self::new(path.to_owned(), header, file, len));
        }
        let tail_at = len.checked_sub(COMPACTED_TAIL_LEN as u64);
        let tail_at = tail_at.ok_or_else(|| StorageError::corrupt(path, 0)(Fault::Truncated))?;
        let mut tail = [0; COMPACTED_TAIL_LEN];
        file.read_exact_at(&mut tail, tail_at).map_err(StorageError::io("read", path))?;
        let tail = CompactedTail::decode(&tail, SEGMENT_HEADER_LEN as u64, len)
            .map_err(StorageError::corrupt(path, tail_at))?;
        Ok(Self::compacted(path.to_owned(), header, file, len, tail))
    }

    /// Returns what a compacted segment says of itself.
    pub(crate) fn tail(&self) -> Option<&CompactedTail> {
        self.compacted.as_ref().map(|directory| &directory.tail)
    }

    /// Returns the runs of a compacted segment, in order; none of any other.
    pub(crate) fn runs(&self) -> Result<impl Iterator<Item = LogRun> + '_, StorageError> {
        let entries = match &self.compacted {
            Some(directory) => self.entries(directory)?,
            None => &[][..],
        };
        Ok((0..entries.len() / RUN_ENTRY_LEN).filter_map(|number| self.run(entries, number)))
    }

    /// Returns the run that holds, or would hold, a position: all of a segment that is not compacted. `None`: there
    /// has been something, which nobody can reach any more.
    pub(crate) fn run_at(&self, position: LogPosition) -> Result<Option<LogRun>, StorageError> {
        let Some(directory) = &self.compacted else {
            let end = self.sealed_end().unwrap_or_else(|| self.limit());
            return Ok(Some(LogRun { range: self.base()..end, at: SEGMENT_HEADER_LEN as u64 }));
        };
        let entries = self.entries(directory)?;
        let (mut low, mut high) = (0, entries.len() / RUN_ENTRY_LEN);
        while low < high {
            let middle = usize::midpoint(low, high);
            if RunEntry::of(entries, middle).is_some_and(|run| run.position <= position) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let run = low.checked_sub(1).and_then(|number| self.run(entries, number));
        Ok(run.filter(|run| run.range.contains(&position)))
    }

    /// Returns where in the file a position lies; its beginning for one that the segment does not hold.
    pub(crate) fn file_position(&self, position: LogPosition) -> FilePosition {
        let run = self.run_at(position).ok().flatten();
        FilePosition(run.map_or(0, |run| run.at + position.0.saturating_sub(run.range.start.0)))
    }

    fn run(&self, entries: &[u8], number: usize) -> Option<LogRun> {
        let RunEntry { position, at } = RunEntry::of(entries, number)?;
        let next = RunEntry::of(entries, number + 1).map(|next| next.at);
        let end = next.or(self.tail().map(|tail| tail.directory_at))?;
        let len = end.checked_sub(at)?;
        Some(LogRun { range: position..LogPosition(position.0.checked_add(len)?), at })
    }

    /// Returns the directory of a compacted segment, read and checked at its first use.
    fn entries<'a>(&self, directory: &'a Directory) -> Result<&'a [u8], StorageError> {
        let at = directory.tail.directory_at;
        let len = directory.tail.runs as usize * RUN_ENTRY_LEN;
        let read = || {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let mapped = self.map().filter(|map| start.checked_add(len).is_some_and(|end| end <= map.len()));
            let bytes = match mapped {
                Some(map) => map.slice_with_length(start, len),
                None => {
                    let mut bytes = vec![0; len];
                    self.file.read_exact_at(&mut bytes, at).map_err(StorageError::io("read", &self.path))?;
                    Buffer::from_vec(bytes)
                }
            };
            directory.check(&bytes, self.base()).map_err(StorageError::corrupt(&self.path, at))?;
            Ok(bytes)
        };
        if let Some(entries) = directory.entries.get() {
            return Ok(entries);
        }
        // What could not be read may be read the next time.
        let entries = read()?;
        Ok(directory.entries.get_or_init(|| entries))
    }

    fn map(&self) -> Option<&Buffer> {
        self.map.get_or_init(|| self.file.map().ok()).as_ref()
    }

    pub(crate) const fn base(&self) -> LogPosition {
        self.header.base
    }

    pub(crate) const fn salt(&self) -> u64 {
        self.header.salt
    }

    /// Where the last frame must have ended.
    pub(crate) const fn limit(&self) -> LogPosition {
        LogPosition(self.header.base.0 + self.header.capacity)
    }

    /// Returns where a sealed segment ends.
    pub(crate) fn sealed_end(&self) -> Option<LogPosition> {
        self.sealed.get().copied()
    }

    /// Says that the segment has had its last write.
    pub(crate) fn mark_sealed(&self, end: LogPosition) {
        // Whoever says it twice says the same.
        let _ = self.sealed.set(end);
    }

    pub(crate) fn file_len(&self) -> Result<u64, StorageError> {
        self.file.len().map_err(StorageError::io("read", &self.path))
    }

    /// Reads up to `out.len()` bytes of frames at a position; fewer only at the end of the file.
    ///
    /// Of a compacted segment the caller asks for no more than is left of a [run](Self::run_at).
    pub(crate) fn read_some(&self, out: &mut [u8], position: LogPosition) -> Result<usize, StorageError> {
        let at = match self.compacted {
            None => self.header.file_position(position).0,
            Some(_) => self.file_position(position).0,
        };
        let mut read = 0;
        while let Some(rest) = out.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::io("read", &self.path)(error)),
            }
        }
        Ok(read)
    }

    /// Returns the bytes of a sealed segment from a position on, in a compacted one those of its run, mapped; `None`
    /// if that is not possible.
    pub(crate) fn mapped(&self, position: LogPosition) -> Option<&[u8]> {
        self.sealed.get()?;
        let map = self.map()?.as_slice();
        if self.compacted.is_none() {
            return map.get(usize::try_from(self.header.file_position(position).0).ok()?..);
        }
        let run = self.run_at(position).ok()??;
        let at = usize::try_from(run.at + (position.0 - run.range.start.0)).ok()?;
        let len = usize::try_from(run.range.end.0 - position.0).ok()?;
        map.get(at..)?.get(..len)
    }

    /// Makes everything written so far durable. Once this has failed, it always fails.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let mut failed = self.failed_sync.lock();
        if failed.is_none() {
            *failed = self.file.sync_data().err().map(Arc::new);
        }
        match &*failed {
            None => Ok(()),
            // Also for want of room: what the system dropped then was written, and counted on, before.
            Some(source) => {
                Err(StorageError::Io { action: "sync", path: self.path.clone(), source: Arc::clone(source) })
            }
        }
    }

    fn write(&self, bytes: &[u8], position: LogPosition) -> Result<(), StorageError> {
        let at = self.header.file_position(position).0;
        let end = at + bytes.len() as u64;
        if end > self.zeroed.load(Ordering::Acquire) {
            let _zeroing = self.zeroing.lock();
            self.zeroed.fetch_max(end, Ordering::AcqRel);
        }
        self.file.write_at(bytes, at).map_err(StorageError::io("write", &self.path))
    }

    /// Writes bytes that are there already, so that the next sync writes them to the disk whatever an earlier one did.
    pub(crate) fn rewrite(&self, bytes: &[u8], position: LogPosition) -> Result<(), StorageError> {
        let at = self.header.file_position(position).0;
        self.file.write_at(bytes, at).map_err(StorageError::io("write", &self.path))
    }

    /// Ends the file at a position, and syncs.
    pub(crate) fn cut(&self, end: LogPosition) -> Result<(), StorageError> {
        let zeroing = self.zeroing.lock();
        let len = self.header.file_position(end).0;
        if self.file_len()? > len {
            self.file.set_len(len).map_err(StorageError::io("cut", &self.path))?;
            self.zeroed.store(len, Ordering::Release);
        }
        drop(zeroing);
        self.sync()
    }

    fn zeros_target(&self, end: LogPosition, ahead: u64) -> u64 {
        let limit = self.header.file_position(self.limit()).0;
        limit.min(self.header.file_position(end).0 + ahead)
    }

    /// Returns how many bytes of frames fit in behind `end`.
    fn left(&self, end: LogPosition) -> u64 {
        self.header.capacity.saturating_sub(end.0 - self.base().0)
    }

    /// Returns whether fewer than `ahead` bytes of zeros lie behind `end`.
    fn wants_zeros(&self, end: LogPosition, ahead: u64) -> bool {
        self.zeroed.load(Ordering::Acquire) < self.zeros_target(end, ahead)
    }

    /// Writes the next chunk of zeros if fewer than `ahead` bytes of them lie behind `end`.
    ///
    /// Returns whether there is more to write.
    fn zero_ahead(&self, end: LogPosition, ahead: u64) -> Result<bool, StorageError> {
        let target = self.zeros_target(end, ahead);
        let zeroing = self.zeroing.lock();
        let from = self.zeroed.load(Ordering::Acquire);
        if self.sealed.get().is_some() || from >= target {
            return Ok(false);
        }
        let size = usize::try_from(target - from).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
        let mut at = from;
        for piece in ZEROS[..size].chunks(ZERO_PIECE) {
            self.file.write_at(piece, at).map_err(StorageError::io("extend", &self.path))?;
            at += piece.len() as u64;
            self.zeroed.store(at, Ordering::Release);
        }
        drop(zeroing);
        // Here and not in the next sync of the log, for which publishers wait.
        self.sync()?;
        Ok(from + (size as u64) < target)
    }
}

/// Where the records of a compacted segment lie.
#[derive(Debug)]
struct Directory {
    tail: CompactedTail,
    entries: OnceLock<Buffer>,
}

impl Directory {
    fn check(&self, entries: &[u8], base: LogPosition) -> Result<(), Fault> {
        let tail = &self.tail;
        if crc32c::crc32c(entries) != tail.directory_crc {
            return Err(Fault::Checksum);
        }
        // Each run begins where the one before it ends in the file, and not before that in the log.
        let (mut at, mut position) = (SEGMENT_HEADER_LEN as u64, base.0);
        for number in 0..entries.len() / RUN_ENTRY_LEN {
            let run = RunEntry::of(entries, number).ok_or(Fault::Truncated)?;
            let next = RunEntry::of(entries, number + 1).map_or(tail.directory_at, |next| next.at);
            let len = next.checked_sub(run.at).filter(|len| *len > 0 && run.at == at);
            let end = len.and_then(|len| run.position.0.checked_add(len));
            let Some(end) = end.filter(|end| run.position.0 >= position && *end <= tail.end.0) else {
                return Err(Fault::Structure("the directory"));
            };
            (at, position) = (next, end);
        }
        Ok(())
    }
}

/// A stretch of a segment that lies in the file as it does in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRun {
    pub(crate) range: Range<LogPosition>,
    /// Where in the file it begins.
    pub(crate) at: u64,
}

/// Returns the name of the segment that begins at `base`.
pub(crate) fn segment_name(kind: SegmentKind, base: LogPosition) -> String {
    format!("{:020}.{}", base.0, suffix(kind))
}

/// Returns where the segment of this name begins, if it is the name of a segment.
pub(crate) fn segment_base(kind: SegmentKind, name: &str) -> Option<LogPosition> {
    let digits = name.strip_suffix(suffix(kind))?.strip_suffix('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(LogPosition)
}

const fn suffix(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Log => "log",
        SegmentKind::Journal => "journal",
        SegmentKind::Catalogue => "catalogue",
    }
}

/// The segments that there are, by base.
#[derive(Debug, Default)]
pub(crate) struct Segments(RwLock<BTreeMap<LogPosition, Arc<SegmentFile>>>);

impl Segments {
    pub(crate) fn insert(&self, segment: Arc<SegmentFile>) {
        self.0.write().insert(segment.base(), segment);
    }

    /// Returns the segment that holds, or would hold, a position.
    pub(crate) fn at(&self, position: LogPosition) -> Option<Arc<SegmentFile>> {
        self.0.read().range(..=position).next_back().map(|(_, segment)| Arc::clone(segment))
    }

    pub(crate) fn all(&self) -> Vec<Arc<SegmentFile>> {
        self.0.read().values().cloned().collect()
    }

    /// Takes out the segments that end at or before a position.
    pub(crate) fn take_before(&self, position: LogPosition) -> Vec<Arc<SegmentFile>> {
        let mut all = self.0.write();
        let gone: Vec<LogPosition> = all
            .iter()
            .filter(|(_, segment)| segment.sealed_end().is_some_and(|end| end <= position))
            .map(|(base, _)| *base)
            .collect();
        gone.iter().filter_map(|base| all.remove(base)).collect()
    }
}

/// What a sequence of frames is made of.
#[derive(Clone, Debug)]
pub(crate) struct FrameLogSettings {
    pub(crate) kind: SegmentKind,
    pub(crate) dir: PathBuf,
    pub(crate) uuid: [u8; 16],
    /// The size of the first segment; each is twice as large as the one before, up to the next bound.
    pub(crate) segment_bytes_min: u64,
    pub(crate) segment_bytes_max: u64,
    pub(crate) zero_ahead_bytes: u64,
}

/// How far a sequence of frames is written, and the file that a sync must reach for that.
#[derive(Clone, Debug)]
pub(crate) struct Tip {
    pub(crate) written: LogPosition,
    /// Everything before this segment has been synced when it was sealed.
    pub(crate) active: Option<Arc<SegmentFile>>,
}

/// What threads beside the writer share with it.
#[derive(Debug)]
pub(crate) struct FrameLogShared {
    env: Arc<dyn Env>,
    settings: FrameLogSettings,
    pub(crate) segments: Segments,
    tip: Mutex<Tip>,
    /// The durable end, a position.
    durable: AtomicU64,
    /// The next segment, zeroed.
    next: Mutex<Option<NextFile>>,
    /// How large the next segment will be.
    next_capacity: AtomicU64,
    /// Segments stay as they are while somebody copies them. Held while one is unlinked or replaced.
    pinned: Mutex<bool>,
    /// Below this position segments would have gone while they were pinned; 0 if none.
    refused: AtomicU64,
}

#[derive(Debug)]
struct NextFile {
    file: Arc<dyn EnvFile>,
    zeroed: u64,
}

impl FrameLogShared {
    pub(crate) fn env(&self) -> &dyn Env {
        self.env.as_ref()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.settings.dir
    }

    pub(crate) fn tip(&self) -> Tip {
        self.tip.lock().clone()
    }

    /// Returns what a segment takes, in bytes. Zeros ahead of the end do not count.
    pub(crate) fn bytes_of(&self, segment: &SegmentFile) -> Result<u64, StorageError> {
        match segment.sealed_end() {
            Some(_) => segment.file_len(),
            None => Ok(self.tip().written.0.saturating_sub(segment.base().0)),
        }
    }

    pub(crate) fn durable(&self) -> LogPosition {
        LogPosition(self.durable.load(Ordering::Acquire))
    }

    /// Makes everything written so far durable, and returns how far that is.
    pub(crate) fn sync(&self) -> Result<LogPosition, StorageError> {
        let tip = self.tip();
        if tip.written > self.durable() {
            if let Some(active) = &tip.active {
                active.sync()?;
            }
            self.durable.fetch_max(tip.written.0, Ordering::AcqRel);
        }
        Ok(tip.written)
    }

    /// Returns whether [`prepare`](Self::prepare) has something to do.
    pub(crate) fn wants_preparing(&self) -> bool {
        let tip = self.tip();
        let ahead = self.settings.zero_ahead_bytes;
        tip.active.is_some_and(|active| {
            let is_next_due = self.is_next_due(&active, tip.written);
            active.wants_zeros(tip.written, ahead / 2) || (is_next_due && !self.is_next_ready())
        })
    }

    /// Returns whether so few zeros are left that the end may reach them before others are written.
    pub(crate) fn is_short(&self) -> bool {
        let tip = self.tip();
        let few = self.settings.zero_ahead_bytes / 4;
        tip.active.is_some_and(|active| {
            active.wants_zeros(tip.written, few) || (active.left(tip.written) < few && !self.is_next_ready())
        })
    }

    /// Writes one chunk of zeros ahead, where one is missing; returns whether there may be more to do.
    pub(crate) fn prepare(&self) -> Result<bool, StorageError> {
        let tip = self.tip();
        let Some(active) = tip.active else {
            return Ok(false);
        };
        if active.zero_ahead(tip.written, self.settings.zero_ahead_bytes)? {
            return Ok(true);
        }
        if !self.is_next_due(&active, tip.written) {
            return Ok(false);
        }
        self.prepare_next()
    }

    /// Returns whether so little of the active segment is left that the next should be made ready. In a large one
    /// this is late: until then the zeros of the next would be room that nobody uses.
    fn is_next_due(&self, active: &SegmentFile, written: LogPosition) -> bool {
        let late = (active.header.capacity / 2).min(self.settings.zero_ahead_bytes.saturating_mul(2));
        active.left(written) <= late
    }

    fn next_target(&self) -> u64 {
        let capacity = self.next_capacity.load(Ordering::Acquire);
        SEGMENT_HEADER_LEN as u64 + capacity.min(self.settings.zero_ahead_bytes)
    }

    fn is_next_ready(&self) -> bool {
        // While it is being zeroed, nobody needs to ask for it.
        self.next
            .try_lock()
            .is_none_or(|next| next.as_ref().is_some_and(|next| next.zeroed >= self.next_target()))
    }

    fn prepare_next(&self) -> Result<bool, StorageError> {
        let path = self.settings.dir.join(NEXT_SEGMENT);
        let target = self.next_target();
        let mut prepared = self.next.lock();
        if prepared.is_none() {
            let file = create_anew(self.env.as_ref(), &path, Open::Create)?;
            *prepared = Some(NextFile { file, zeroed: 0 });
        }
        let Some(next) = prepared.as_mut().filter(|next| next.zeroed < target) else {
            return Ok(false);
        };
        let size = usize::try_from(target - next.zeroed).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
        next.file.write_at(&ZEROS[..size], next.zeroed).map_err(StorageError::io("extend", &path))?;
        if let Err(error) = next.file.sync_data() {
            // Nothing counts on the file yet, but nothing may: the next try makes another.
            *prepared = None;
            return Err(StorageError::io("sync", &path)(error));
        }
        next.zeroed += size as u64;
        Ok(next.zeroed < target)
    }
}

/// Writes a sequence of frames. There is one writer; what others need of it is in [`FrameLogShared`].
#[derive(Debug)]
pub(crate) struct FrameLog {
    pub(crate) shared: Arc<FrameLogShared>,
    epoch: Epoch,
    /// A write that failed may have left something up to this position.
    garbage: LogPosition,
}

impl FrameLog {
    /// Goes on behind `end`, which a start has found, or begins at 0.
    pub(crate) fn new(
        env: Arc<dyn Env>,
        settings: FrameLogSettings,
        epoch: Epoch,
        segments: Segments,
        end: LogPosition,
    ) -> Self {
        let all = segments.all();
        let active = all.last().filter(|last| last.sealed_end().is_none()).map(Arc::clone);
        let last_capacity = all.last().map(|last| last.header.capacity);
        let shared = FrameLogShared {
            env,
            segments,
            tip: Mutex::new(Tip { written: end, active }),
            durable: AtomicU64::new(end.0),
            next: Mutex::new(None),
            next_capacity: AtomicU64::new(0),
            pinned: Mutex::new(false),
            refused: AtomicU64::new(0),
            settings,
        };
        let next = last_capacity.map_or(shared.settings.segment_bytes_min, |last| shared.after(last));
        shared.next_capacity.store(next, Ordering::Release);
        Self { shared: Arc::new(shared), epoch, garbage: end }
    }

    /// Returns the place of a frame that is `len` bytes long, beginning a new segment where it does not fit.
    pub(crate) fn place(&mut self, len: u64, now_ms: i64) -> Result<FramePlace, StorageError> {
        self.place_within(len, len, now_ms).map(|(place, _)| place)
    }

    /// As [`place`](Self::place), for a frame that is longer if it is the first of a segment; also returns
    /// whether it is.
    pub(crate) fn place_within(
        &mut self,
        len: u64,
        len_if_first: u64,
        now_ms: i64,
    ) -> Result<(FramePlace, bool), StorageError> {
        let tip = self.shared.tip();
        let active = match tip.active {
            Some(active) if self.fits(&active, tip.written, len) => active,
            Some(_) => {
                self.seal()?;
                self.begin(len_if_first, now_ms)?
            }
            None => self.begin(len_if_first, now_ms)?,
        };
        let position = self.shared.tip.lock().written;
        let place = self.frame_place(&active, position);
        Ok((place, position == active.base()))
    }

    fn frame_place(&self, active: &SegmentFile, position: LogPosition) -> FramePlace {
        let (durable, log_durable) = (self.shared.durable(), LogPosition(0));
        FramePlace { salt: active.salt(), position, durable, log_durable }
    }

    /// Begins the first segment, so that zeros lie ready before the first frame comes.
    pub(crate) fn begin_first(&mut self, now_ms: i64) -> Result<(), StorageError> {
        if self.shared.tip().active.is_none() {
            self.begin(0, now_ms)?;
        }
        Ok(())
    }

    /// Whether a frame with a payload of `len` bytes goes into the active segment.
    pub(crate) fn has_room(&self, len: u64) -> bool {
        let tip = self.shared.tip();
        tip.active.is_some_and(|active| self.fits(&active, tip.written, len + FRAME_HEADER_LEN as u64))
    }

    fn fits(&self, active: &SegmentFile, end: LogPosition, len: u64) -> bool {
        end.0 + len + FRAME_HEADER_LEN as u64 <= active.limit().0
    }

    /// Writes a frame at the place that [`place`](Self::place) gave.
    ///
    /// If it fails, the end is where it was, and the next frame goes there.
    pub(crate) fn write(&mut self, frame: &[u8]) -> Result<(), StorageError> {
        let tip = self.shared.tip();
        let active = tip.active.expect("a frame has been given its place, which is in the active segment");
        let end = LogPosition(tip.written.0 + frame.len() as u64);
        self.clean(&active, tip.written)?;
        self.garbage = end;
        active.write(frame, tip.written)?;
        self.shared.tip.lock().written = end;
        Ok(())
    }

    /// Overwrites with zeros what a failed write may have left: recovery must never find it.
    fn clean(&mut self, active: &SegmentFile, from: LogPosition) -> Result<(), StorageError> {
        while self.garbage > from {
            let len = usize::try_from(self.garbage.0 - from.0).unwrap_or(ZERO_CHUNK);
            let chunk = len.min(ZERO_CHUNK);
            let at = LogPosition(self.garbage.0 - chunk as u64);
            let inside = active.file_len()?.saturating_sub(active.header.file_position(at).0);
            let inside = usize::try_from(inside).unwrap_or(chunk).min(chunk);
            active.write(&ZEROS[..inside], at)?;
            self.garbage = at;
        }
        Ok(())
    }

    /// Leaves nothing but zeros behind the end, for a stop in good order.
    pub(crate) fn leave(&mut self) -> Result<(), StorageError> {
        match self.shared.tip() {
            Tip { written, active: Some(active) } if self.garbage > written => {
                self.clean(&active, written)?;
                active.sync()
            }
            _ => Ok(()),
        }
    }

    /// Gives back the zeros ahead, for a stop in good order: what is stored is all that stays on the disk. Nobody else
    /// may write. Only a failed sync is an error, as whatever stays is harmless.
    pub(crate) fn give_back(&mut self) -> Result<(), StorageError> {
        let shared = &self.shared;
        if let Tip { written, active: Some(active) } = shared.tip() {
            match active.cut(written) {
                Err(error) if error.is_failed_sync() => return Err(error),
                Err(error) => tracing::warn!(%error, "the zeros ahead of the log stay where they are"),
                Ok(()) => {}
            }
        }
        *shared.next.lock() = None;
        let path = shared.settings.dir.join(NEXT_SEGMENT);
        match shared.env.remove(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a start removes this file");
            }
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }

    /// Ends the active segment: after this its bytes never change, and all of them are durable.
    pub(crate) fn seal(&mut self) -> Result<(), StorageError> {
        let Tip { written, active: Some(active) } = self.shared.tip() else {
            return Ok(());
        };
        self.clean(&active, written)?;
        let mut frame = vec![0; FRAME_HEADER_LEN];
        let place = self.frame_place(&active, written);
        let header = finish_frame(&mut frame, FrameKind::Seal, self.epoch, 0, place, 0);
        self.garbage = header.end();
        active.write(&frame, written)?;
        let len = active.header.file_position(header.end()).0;
        // From here on no zeros follow, and nobody has mapped the file yet.
        let zeroing = active.zeroing.lock();
        let cut = active.file.set_len(len).map_err(StorageError::io("cut", &active.path));
        cut.and_then(|()| active.sync()).map_err(|error| StorageError::Failed { cause: Arc::new(error) })?;
        active.mark_sealed(header.end());
        drop(zeroing);
        let mut tip = self.shared.tip.lock();
        *tip = Tip { written: header.end(), active: None };
        self.shared.durable.fetch_max(header.end().0, Ordering::AcqRel);
        Ok(())
    }

    /// Begins a segment that takes a frame of `len` bytes and its seal.
    fn begin(&mut self, len: u64, now_ms: i64) -> Result<Arc<SegmentFile>, StorageError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let env = shared.env.as_ref();
        let planned = shared.next_capacity.load(Ordering::Acquire);
        let mut salt = [0; 8];
        env.random(&mut salt).map_err(StorageError::io("read random numbers for", &settings.dir))?;
        let header = SegmentHeader {
            kind: settings.kind,
            epoch: self.epoch,
            base: shared.tip().written,
            capacity: planned
                .max((len + FRAME_HEADER_LEN as u64).next_multiple_of(SEGMENT_HEADER_LEN as u64)),
            uuid: settings.uuid,
            salt: u64::from_le_bytes(salt),
            created_ms: now_ms,
            compacted: false,
        };
        let temporary = settings.dir.join(NEXT_SEGMENT);
        let path = settings.dir.join(segment_name(settings.kind, header.base));
        // Held until the file has its name: whoever prepares the next one begins by unlinking what has the
        // temporary name.
        let mut prepared = shared.next.lock();
        let next = match prepared.take() {
            Some(next) => next,
            None => NextFile { file: create_anew(env, &temporary, Open::Create)?, zeroed: 0 },
        };
        next.file.write_at(&header.encode(), 0).map_err(StorageError::io("write", &temporary))?;
        next.file.sync_data().map_err(StorageError::io("sync", &temporary))?;
        env.rename(&temporary, &path).map_err(StorageError::io("rename", &temporary))?;
        drop(prepared);
        env.sync_dir(&settings.dir).map_err(StorageError::io("sync", &settings.dir))?;
        shared.next_capacity.store(shared.after(planned), Ordering::Release);
        let zeroed = next.zeroed.max(SEGMENT_HEADER_LEN as u64);
        let segment = Arc::new(SegmentFile::new(path, header, next.file, zeroed));
        shared.segments.insert(Arc::clone(&segment));
        shared.tip.lock().active = Some(Arc::clone(&segment));
        self.garbage = header.base;
        Ok(segment)
    }
}

impl FrameLogShared {
    /// Returns the size of the segment after one of this size.
    fn after(&self, capacity: u64) -> u64 {
        let settings = &self.settings;
        capacity.saturating_mul(2).clamp(settings.segment_bytes_min, settings.segment_bytes_max)
    }

    /// Returns how long the file is that was begun last; 0 if there is none.
    pub(crate) fn last_file_len(&self) -> Result<u64, StorageError> {
        self.segments.all().last().map_or(Ok(0), |last| last.file_len())
    }

    /// Keeps every segment that there is as it is, or no longer.
    pub(crate) fn pin(&self, pinned: bool) {
        *self.pinned.lock() = pinned;
    }

    /// Returns the lock under which a segment may be unlinked or replaced; `None` while they are pinned.
    pub(crate) fn unpinned(&self) -> Option<MutexGuard<'_, bool>> {
        Some(self.pinned.lock()).filter(|pinned| !**pinned)
    }

    /// Unlinks the segments that end at or before a position; those that are pinned go with a later call, of this or of
    /// [`remove_refused`](Self::remove_refused).
    pub(crate) fn remove_before(&self, position: LogPosition) -> Result<u64, StorageError> {
        let pinned = self.pinned.lock();
        if *pinned {
            self.refused.fetch_max(position.0, Ordering::AcqRel);
            return Ok(0);
        }
        let mut freed = 0;
        for segment in self.segments.take_before(position) {
            freed += segment.file_len()?;
            self.env.remove(&segment.path).map_err(StorageError::io("remove", &segment.path))?;
        }
        if freed > 0 {
            let dir = &self.settings.dir;
            self.env.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
        }
        Ok(freed)
    }

    /// Unlinks the segments that would have gone while they were pinned.
    pub(crate) fn remove_refused(&self) -> Result<(), StorageError> {
        match self.refused.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            position => self.remove_before(LogPosition(position)).map(drop),
        }
    }
}
