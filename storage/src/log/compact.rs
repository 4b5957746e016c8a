//! Rewrites a sealed segment of the log without the records that nobody can reach. Layout: `docs/format.md`,
//! "Compacted segment".
//!
//! The new file is complete and durable before it takes the name of the old one. Whoever holds the old one goes on
//! reading it: its bytes stay as long as it is open or mapped.

use std::{ops::Range, path::PathBuf, sync::Arc};

use crate::{
    env::{EnvFile, Open, create_anew},
    error::StorageError,
    format::{
        compacted::{CompactedTail, RUN_BYTES_MAX, RunEntry},
        record::{RecordView, padded},
        segment::{SEGMENT_HEADER_LEN, SegmentHeader},
    },
    log::{
        fences::Fences,
        segment::{COMPACTED_SEGMENT, FrameLogShared, SegmentFile, Segments},
        walk::for_each_piece,
    },
    offset::LogPosition,
};

/// So many bytes are collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Called with the number of bytes that were read or written since the last call; an error ends the work.
pub(crate) type Pace<'a> = dyn FnMut(u64) -> Result<(), StorageError> + 'a;

/// A segment that has been rewritten, durable under its temporary name.
#[derive(Debug)]
pub(crate) struct Rewritten {
    header: SegmentHeader,
    file: Arc<dyn EnvFile>,
    len: u64,
    tail: CompactedTail,
}

struct Rewriting {
    temporary: PathBuf,
    file: Arc<dyn EnvFile>,
    written: u64,
    pending: Vec<u8>,
    directory: Vec<u8>,
    runs: u64,
    /// Where the last run begins and ends.
    last: Range<LogPosition>,
    store_time_ms: i64,
}

impl FrameLogShared {
    /// Writes what `keeps` of a sealed segment into a file of its own. Each record is verified first; damage that is
    /// not fenced yet is an error, and the segment stays as it is.
    pub(crate) fn rewrite(
        &self,
        segment: &Arc<SegmentFile>,
        fences: &Fences,
        keeps: &dyn Fn(&RecordView<'_>) -> bool,
        pace: &mut Pace<'_>,
    ) -> Result<Rewritten, StorageError> {
        let temporary = self.dir().join(COMPACTED_SEGMENT);
        let file = create_anew(self.env(), &temporary, Open::Create)?;
        let mut rewriting = Rewriting {
            temporary,
            file,
            written: SEGMENT_HEADER_LEN as u64,
            pending: Vec::new(),
            directory: Vec::new(),
            runs: 0,
            last: LogPosition(0)..LogPosition(0),
            store_time_ms: segment.tail().map_or(i64::MIN, |tail| tail.store_time_ms),
        };
        let rewritten = rewriting.rewrite(segment, fences, keeps, pace);
        if rewritten.is_err() {
            self.drop_rewritten();
        }
        rewritten
    }

    /// Unlinks what was rewritten and is not wanted.
    pub(crate) fn drop_rewritten(&self) {
        let path = self.dir().join(COMPACTED_SEGMENT);
        if let Err(error) = self.env().remove(&path) {
            // The next one replaces it, and so does the next start.
            tracing::warn!(path = %path.display(), %error, "cannot remove a segment that was not finished");
        }
    }

    /// Puts a rewritten segment into the place of the old one. The caller sees to it that the old one is still there,
    /// and stays while this runs. Returns how many bytes are free once nobody reads the old one any more.
    pub(crate) fn replace(&self, old: &SegmentFile, new: Rewritten) -> Result<u64, StorageError> {
        let before = old.file_len()?;
        let temporary = self.dir().join(COMPACTED_SEGMENT);
        self.env().rename(&temporary, &old.path).map_err(StorageError::io("rename", &temporary))?;
        let Rewritten { header, file, len, tail } = new;
        // The name belongs to the new file, whether or not that is durable yet: either one says the same of what
        // somebody can reach.
        self.segments.insert(Arc::new(SegmentFile::compacted(old.path.clone(), header, file, len, tail)));
        self.env().sync_dir(self.dir()).map_err(StorageError::io("sync", self.dir()))?;
        Ok(before.saturating_sub(len))
    }
}

impl Rewriting {
    fn rewrite(
        &mut self,
        segment: &Arc<SegmentFile>,
        fences: &Fences,
        keeps: &dyn Fn(&RecordView<'_>) -> bool,
        pace: &mut Pace<'_>,
    ) -> Result<Rewritten, StorageError> {
        let end = segment.sealed_end().unwrap_or_else(|| segment.limit());
        let only = Segments::default();
        only.insert(Arc::clone(segment));
        for_each_piece(&only, fences, segment.base()..end, &mut |piece| {
            let (position, payload) = (piece.position, piece.bytes);
            let before = self.written;
            let mut at = 0;
            while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
                let here = LogPosition(position.0 + at as u64);
                let record = RecordView::decode(rest, here).map_err(|fault| {
                    StorageError::corrupt(&segment.path, segment.file_position(here).0)(fault)
                })?;
                self.store_time_ms = self.store_time_ms.max(record.store_time_ms);
                if keeps(&record) {
                    self.put(here, &rest[..record.size as usize])?;
                }
                at += padded(u64::from(record.size)) as usize;
            }
            pace(payload.len() as u64 + (self.written - before))
        })?;
        self.finish(segment, end)
    }

    fn put(&mut self, position: LogPosition, record: &[u8]) -> Result<(), StorageError> {
        let len = padded(record.len() as u64);
        let run = self.last.end.0 - self.last.start.0;
        if self.runs == 0 || self.last.end != position || run + len > RUN_BYTES_MAX {
            let at = self.written + self.pending.len() as u64;
            self.directory.extend_from_slice(&RunEntry { position, at }.encode());
            self.runs += 1;
            self.last = position..position;
        }
        self.last.end = LogPosition(position.0 + len);
        self.pending.extend_from_slice(record);
        self.pending.resize(self.pending.len() + (len as usize - record.len()), 0);
        if self.pending.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let written = self.file.write_at(&self.pending, self.written);
        written.map_err(StorageError::io("write", &self.temporary))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn finish(&mut self, segment: &SegmentFile, end: LogPosition) -> Result<Rewritten, StorageError> {
        let header = SegmentHeader { compacted: true, ..segment.header };
        let tail = CompactedTail {
            directory_at: self.written + self.pending.len() as u64,
            runs: self.runs,
            end,
            store_time_ms: self.store_time_ms,
            directory_crc: crc32c::crc32c(&self.directory),
        };
        self.pending.append(&mut self.directory);
        self.pending.extend_from_slice(&tail.encode());
        self.flush()?;
        let head = self.file.write_at(&header.encode(), 0);
        head.map_err(StorageError::io("write", &self.temporary))?;
        self.file.sync_data().map_err(StorageError::io("sync", &self.temporary))?;
        Ok(Rewritten { header, file: Arc::clone(&self.file), len: self.written, tail })
    }
}
