//! Files of blocks: written once, then mapped. Layout: `docs/format.md`, "Consume queues".

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow_buffer::Buffer;
use weir_columns::{ColumnRef, ColumnStatistics, Presence, Statistics};

use crate::{
    env::{Env, EnvFile, Open, create_anew},
    error::StorageError,
    format::block::{
        ALIGNMENT, BLOCK_HEADER_LEN, BLOCK_ROWS, BlockEntry, BlockHeader, COLUMN_ENTRY_LEN, COLUMNS_MAX,
        Damage, FILE_HEADER_LEN, FIXED_COLUMNS_MAX, FileHeader, FileKind, StatisticsEntry, Tail, seal,
    },
    offset::{LogPosition, QueueOffset},
    queue::{
        block::{Block, ReadRecords, Source, corrupt},
        statistics::{self, StatisticsBuilder, system_number},
    },
    raw::{arrays::Checks, map::will_need},
};

/// So many bytes are collected before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// So many bytes at the end of a file are read first: the tail and, in most files, the footer.
const TAIL_READ: usize = 32 << 10;
/// What ends the name of a file that is not complete.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A file of blocks, mapped. It stays readable while somebody holds it, even if it has been unlinked.
pub(crate) struct QueueFile {
    path: Arc<Path>,
    header: FileHeader,
    bytes: Buffer,
    tail: Tail,
    checks: Arc<Checks>,
    log: Arc<dyn ReadRecords>,
    is_damaged: Arc<AtomicBool>,
}

impl QueueFile {
    /// Maps a file, and checks its header, its directory and its tail.
    pub(crate) fn open(env: &dyn Env, path: &Path, log: Arc<dyn ReadRecords>) -> Result<Self, StorageError> {
        let file = env.open(path, Open::Read).map_err(StorageError::io("open", path))?;
        let len = file.len().map_err(StorageError::io("read", path))?;
        if len < FILE_HEADER_LEN as u64 {
            return Err(corrupt(path, 0, Damage::new(0, "the length of the file")));
        }
        let bytes = file.map().map_err(StorageError::io("map", path))?;
        // Of the blocks between them nothing is read before it is needed.
        will_need(&bytes[..bytes.len().min(FILE_HEADER_LEN)]);
        will_need(&bytes[bytes.len().saturating_sub(TAIL_READ)..]);
        Self::over(path, bytes, log).map_err(|damage| corrupt(path, 0, damage))
    }

    pub(crate) fn over(path: &Path, bytes: Buffer, log: Arc<dyn ReadRecords>) -> Result<Self, Damage> {
        let header = FileHeader::decode(&bytes)?;
        let tail = Tail::decode(&bytes)?;
        if tail.blocks != header.blocks {
            return Err(Damage::new(0, "the number of blocks"));
        }
        let footer_at = tail.footer_at as usize;
        will_need(&bytes[footer_at..footer_at + tail.footer_len()]);
        if crc32c::crc32c(&bytes[footer_at..footer_at + tail.footer_len()]) != tail.footer_crc {
            return Err(Damage::new(footer_at, "the checksum of the footer"));
        }
        let (checks, is_damaged) = (Arc::new(Checks::new(0)), Arc::default());
        let mut file = Self { path: path.into(), header, bytes, tail, checks, log, is_damaged };
        file.check_directory()?;
        let bits = file.blocks() + file.tail.columns as usize + file.tail.statistics as usize;
        file.checks = Arc::new(Checks::new(bits));
        Ok(file)
    }

    fn check_directory(&self) -> Result<(), Damage> {
        let footer_at = self.tail.footer_at;
        let mut columns = 0_u32;
        for number in 0..self.blocks() {
            let at = self.tail.block_entry_at(number);
            let entry = self.entry(number)?;
            let inside = entry.at >= FILE_HEADER_LEN as u64
                && entry.at.checked_add(entry.len.into()).is_some_and(|end| end <= footer_at);
            if !inside || !entry.at.is_multiple_of(ALIGNMENT as u64) {
                return Err(Damage::new(at, "the place of a block"));
            }
            if entry.rows == 0 || entry.rows as usize > BLOCK_ROWS || entry.columns_before != columns {
                return Err(Damage::new(at, "the rows or columns of a block"));
            }
            if entry.columns as usize > COLUMNS_MAX + FIXED_COLUMNS_MAX {
                return Err(Damage::new(at, "the number of columns"));
            }
            columns = columns.checked_add(entry.columns).ok_or(Damage::new(at, "the columns of a block"))?;
        }
        if columns != self.tail.columns {
            return Err(Damage::new(self.bytes.len(), "the number of columns"));
        }
        for number in 0..self.tail.statistics as usize {
            let at = self.tail.statistics_entry_at(number);
            let entry = StatisticsEntry::decode(&self.bytes, at)?;
            let end = entry.at.checked_add(entry.len.into());
            if end.is_none_or(|end| end > footer_at) || !entry.at.is_multiple_of(ALIGNMENT as u64) {
                return Err(Damage::new(at, "the place of statistics"));
            }
            if entry.name_at as usize + usize::from(entry.name_len) > self.tail.names_len as usize {
                return Err(Damage::new(at, "the name of a column"));
            }
        }
        Ok(())
    }

    /// Returns whether damage was met in this file since it was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> &FileHeader {
        &self.header
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn bytes(&self) -> &Buffer {
        &self.bytes
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(crate) fn blocks(&self) -> usize {
        self.tail.blocks as usize
    }

    /// Returns a block's entry in the directory.
    pub(crate) fn entry(&self, number: usize) -> Result<BlockEntry, Damage> {
        BlockEntry::decode(&self.bytes, self.tail.block_entry_at(number))
    }

    pub(crate) fn block(&self, number: usize) -> Result<Block, StorageError> {
        let entry = self.entry(number).map_err(|damage| corrupt(&self.path, 0, damage))?;
        let bytes = self.bytes.slice_with_length(entry.at as usize, entry.len as usize);
        let is_damaged = Arc::clone(&self.is_damaged);
        let source = Source { path: Arc::clone(&self.path), at: entry.at, is_damaged };
        let header = BlockHeader::decode(&bytes).map_err(|damage| source.corrupt(damage))?;
        let same = header.topic == entry.topic
            && header.incarnation == entry.incarnation
            && header.queue == entry.queue
            && header.base == entry.base
            && header.rows == entry.rows
            && header.columns == entry.columns
            && header.length == entry.len
            && header.record_bytes == entry.record_bytes;
        if !same {
            return Err(source.corrupt(Damage::new(0, "the block, which is not the one of the directory,")));
        }
        // The marks of the blocks before it take one bit each, and one for each of their columns.
        let first_check = number + entry.columns_before as usize;
        Block::open(bytes, &self.checks, first_check, Arc::clone(&self.log), source)
    }

    /// Returns where the statistics of a column are in the list of all, and its entry.
    fn find_statistics(&self, name: ColumnRef<'_>) -> Result<Option<(usize, StatisticsEntry)>, Damage> {
        let wanted = match name {
            ColumnRef::Property(name) => (u8::MAX, name.as_bytes()),
            ColumnRef::System(system) => (system_number(system), &b""[..]),
        };
        let names = &self.bytes[self.tail.names_at()..][..self.tail.names_len as usize];
        let (mut low, mut high) = (0, self.tail.statistics as usize);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = StatisticsEntry::decode(&self.bytes, self.tail.statistics_entry_at(middle))?;
            let system = if entry.system == 0 { u8::MAX } else { entry.system };
            let found = (system, &names[entry.name_at as usize..][..usize::from(entry.name_len)]);
            match found.cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((middle, entry))),
            }
        }
        Ok(None)
    }

    fn statistics_of(&self, name: ColumnRef<'_>) -> Result<Option<ColumnStatistics>, Damage> {
        let Some((number, entry)) = self.find_statistics(name)? else { return Ok(None) };
        let range = entry.at as usize..entry.at as usize + entry.len as usize;
        // The marks of the statistics follow those of all blocks and columns.
        let mark = self.blocks() + self.tail.columns as usize + number;
        self.checks.once(mark, || {
            if crc32c::crc32c(&self.bytes[range.clone()]) != entry.crc {
                return Err(Damage::new(range.start, "the checksum of statistics"));
            }
            Ok(())
        })?;
        statistics::decode(&self.bytes, range, self.blocks()).map(Some)
    }
}

impl fmt::Debug for QueueFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueFile")
            .field("path", &self.path)
            .field("blocks", &self.blocks())
            .finish_non_exhaustive()
    }
}

/// Neighbouring blocks of one queue in one file: all of a queue segment, or one queue's share of a shared file.
#[derive(Clone, Debug)]
pub struct Segment {
    file: Arc<QueueFile>,
    blocks: Range<usize>,
    /// Where each block begins, and where the last one ends.
    bounds: Bounds,
}

/// The offsets of a segment, which are looked at far more often than its blocks.
#[derive(Clone, Debug)]
struct Bounds {
    base: QueueOffset,
    end: QueueOffset,
    record_bytes: u64,
}

impl Segment {
    /// Returns the segment of some blocks of a file.
    ///
    /// # Errors
    ///
    /// If the blocks are not those of one queue, one after the other.
    pub(crate) fn new(file: Arc<QueueFile>, blocks: Range<usize>) -> Result<Self, StorageError> {
        let faulty = |what| corrupt(file.path(), file.tail.footer_at, Damage::new(0, what));
        if blocks.is_empty() || blocks.end > file.blocks() {
            return Err(faulty("the list of blocks"));
        }
        let entry = |number| file.entry(number).map_err(|damage| corrupt(file.path(), 0, damage));
        let first = entry(blocks.start)?;
        let (mut end, mut record_bytes) = (first.base, 0_u64);
        for number in blocks.clone() {
            let next = entry(number)?;
            let same =
                (next.topic, next.incarnation, next.queue) == (first.topic, first.incarnation, first.queue);
            if !same || next.base != end {
                return Err(faulty("the order of blocks"));
            }
            end = next.end();
            record_bytes = record_bytes.saturating_add(next.record_bytes);
        }
        Ok(Self { bounds: Bounds { base: first.base, end, record_bytes }, file, blocks })
    }

    /// Returns how many blocks there are; at least one.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Returns the offsets of all rows.
    pub fn range(&self) -> Range<QueueOffset> {
        self.bounds.base..self.bounds.end
    }

    /// Returns the offsets of block `number`.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block_range(&self, number: usize) -> Range<QueueOffset> {
        let entry = self.entry(number);
        entry.base..entry.end()
    }

    /// Returns when the rows of block `number` were stored: the first and the last time, in milliseconds.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block_times(&self, number: usize) -> std::ops::RangeInclusive<i64> {
        let entry = self.entry(number);
        entry.store_time_min..=entry.store_time_max
    }

    /// Returns where in the log the records of block `number` begin: the first and the last.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block_positions(&self, number: usize) -> std::ops::RangeInclusive<LogPosition> {
        let entry = self.entry(number);
        entry.first_position..=entry.last_position
    }

    /// Returns what the records of all rows take in the log, in bytes.
    pub fn record_bytes(&self) -> u64 {
        self.bounds.record_bytes
    }

    /// Returns what the records of block `number` take in the log, in bytes.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block_record_bytes(&self, number: usize) -> u64 {
        self.entry(number).record_bytes
    }

    /// Returns the length of all blocks in bytes.
    pub fn bytes(&self) -> u64 {
        (0..self.blocks()).map(|number| u64::from(self.entry(number).len)).sum()
    }

    pub(crate) fn entry(&self, number: usize) -> BlockEntry {
        assert!(number < self.blocks(), "block {number} of a segment of {}", self.blocks());
        self.file
            .entry(self.blocks.start + number)
            .expect("the directory was checked when the file was opened")
    }

    /// Returns what is known of the blocks without opening them.
    pub fn statistics(&self) -> &dyn Statistics {
        self
    }

    /// Asks the system to read the statistics of columns, if they are not in memory, and does not wait for it.
    pub fn will_need_statistics<'a>(&self, columns: impl IntoIterator<Item = ColumnRef<'a>>) {
        if self.is_shared() {
            return;
        }
        for column in columns {
            // What is damaged is found to be so when it is used.
            if let Ok(Some((_, entry))) = self.file.find_statistics(column) {
                will_need(&self.file.bytes[entry.at as usize..][..entry.len as usize]);
            }
        }
    }

    /// Asks the system to read the directory of block `number`, if it is not in memory, and does not wait for it.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn will_need_block(&self, number: usize) {
        let entry = self.entry(number);
        let bytes = &self.file.bytes[entry.at as usize..][..entry.len as usize];
        // Of the names so many bytes are guessed; they share their last page with the first column.
        let directory = BLOCK_HEADER_LEN + entry.columns as usize * (COLUMN_ENTRY_LEN + 16);
        will_need(&bytes[..directory.min(bytes.len())]);
    }

    /// Returns block `number`. Its columns are read and checked when they are used, but for the list of lost rows.
    ///
    /// # Errors
    ///
    /// If the block's header or directory is damaged.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block(&self, number: usize) -> Result<Arc<Block>, StorageError> {
        assert!(number < self.blocks(), "block {number} of a segment of {}", self.blocks());
        self.file.block(self.blocks.start + number).map(Arc::new)
    }

    /// Returns the number of the block that holds `offset`.
    pub(crate) fn block_at(&self, offset: QueueOffset) -> Option<usize> {
        if !self.range().contains(&offset) {
            return None;
        }
        let (mut low, mut high) = (0, self.blocks());
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if self.entry(middle).base <= offset { low = middle } else { high = middle }
        }
        Some(low)
    }

    pub(crate) fn file(&self) -> &Arc<QueueFile> {
        &self.file
    }

    /// Returns which blocks of the file these are.
    pub(crate) fn blocks_of_file(&self) -> Range<usize> {
        self.blocks.clone()
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.file.header.kind == FileKind::Shared
    }
}

impl Statistics for Segment {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn rows(&self, block: usize) -> usize {
        self.entry(block).rows as usize
    }

    fn column(&self, name: ColumnRef<'_>) -> Presence<ColumnStatistics> {
        if self.is_shared() {
            return Presence::Unknown;
        }
        match self.file.statistics_of(name) {
            Ok(Some(found)) if self.blocks == (0..self.file.blocks()) => Presence::Kept(found),
            Ok(Some(found)) => Presence::Kept(statistics::slice(&found, self.blocks.clone())),
            Ok(None) if self.file.tail.more_names => Presence::Unknown,
            Ok(None) => Presence::Absent,
            Err(damage) => {
                self.file.is_damaged.store(true, Ordering::Release);
                let error = corrupt(&self.file.path, 0, damage);
                tracing::warn!(%error, "statistics cannot be read: blocks are opened instead");
                Presence::Unknown
            }
        }
    }
}

/// Writes a file of blocks under a temporary name.
#[derive(Debug)]
pub(crate) struct FileWriter<'a> {
    env: &'a dyn Env,
    file: Arc<dyn EnvFile>,
    path: PathBuf,
    temporary: PathBuf,
    header: FileHeader,
    pending: Vec<u8>,
    written: u64,
    entries: Vec<BlockEntry>,
    columns: u32,
    statistics: StatisticsBuilder,
    finished: bool,
}

/// What was not completed leaves nothing behind.
impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.env.remove(&self.temporary)
        {
            tracing::warn!(path = %self.temporary.display(), %error, "cannot remove an incomplete file");
        }
    }
}

impl<'a> FileWriter<'a> {
    pub(crate) fn create(env: &'a dyn Env, path: PathBuf, header: FileHeader) -> Result<Self, StorageError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        let file = create_anew(env, &temporary, Open::Create)?;
        Ok(Self {
            env,
            file,
            path,
            temporary,
            header,
            pending: vec![0; FILE_HEADER_LEN],
            written: 0,
            entries: Vec::new(),
            columns: 0,
            statistics: StatisticsBuilder::default(),
            finished: false,
        })
    }

    fn at(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    fn align(&mut self) {
        let padding = self.at().next_multiple_of(ALIGNMENT as u64) - self.at();
        self.pending.resize(self.pending.len() + padding as usize, 0);
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.file
            .write_at(&self.pending, self.written)
            .map_err(StorageError::io("write", &self.temporary))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Adds a block. One that comes from a file keeps the checksums it has, so that damage stays known.
    pub(crate) fn add(&mut self, block: &Block) -> Result<(), StorageError> {
        self.align();
        let (at, start) = (self.at(), self.pending.len());
        self.pending
            .extend_from_slice(block.bytes().get(..block.header().length as usize).unwrap_or_default());
        if !block.is_from_file() {
            seal(&mut self.pending[start..]).map_err(|damage| block.damaged(damage))?;
        }
        let header = block.header();
        self.entries.push(BlockEntry {
            topic: header.topic,
            incarnation: header.incarnation,
            queue: header.queue,
            rows: header.rows,
            base: header.base,
            first_position: header.first_position,
            last_position: header.last_position,
            store_time_min: header.store_time_min,
            store_time_max: header.store_time_max,
            at,
            len: header.length,
            columns: header.columns,
            columns_before: self.columns,
            record_bytes: header.record_bytes,
        });
        self.columns += header.columns;
        if self.header.kind == FileKind::Segment {
            self.statistics.add(block);
        }
        if self.pending.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Completes the file, makes it durable and gives it its name. The directory is yet to be synced.
    pub(crate) fn finish(mut self) -> Result<(), StorageError> {
        let more_names = self.statistics.more_names();
        let (mut names, mut directory) = (Vec::new(), Vec::new());
        for column in std::mem::take(&mut self.statistics).finish() {
            self.align();
            let entry = StatisticsEntry {
                name_at: names.len() as u32,
                name_len: u16::try_from(column.name.len()).expect("the log bounds names to 64 KiB"),
                system: column.system,
                at: self.at(),
                len: column.bytes.len() as u32,
                crc: crc32c::crc32c(&column.bytes),
            };
            names.extend_from_slice(column.name.as_bytes());
            directory.extend_from_slice(&entry.encode());
            self.pending.extend_from_slice(&column.bytes);
        }
        self.align();
        let footer_at = self.at();
        let mut footer = Vec::new();
        for entry in &self.entries {
            footer.extend_from_slice(&entry.encode());
        }
        let statistics = directory.len() / crate::format::block::STATISTICS_ENTRY_LEN;
        footer.extend_from_slice(&directory);
        footer.extend_from_slice(&names);
        let tail = Tail {
            footer_at,
            blocks: self.entries.len() as u32,
            statistics: statistics as u32,
            names_len: names.len() as u32,
            more_names,
            columns: self.columns,
            footer_crc: crc32c::crc32c(&footer),
        };
        self.pending.extend_from_slice(&footer);
        self.pending.extend_from_slice(&tail.encode());
        self.flush()?;
        self.header.blocks = self.entries.len() as u32;
        let header = self.header.encode();
        self.file.write_at(&header, 0).map_err(StorageError::io("write", &self.temporary))?;
        self.file.sync_data().map_err(StorageError::io("sync", &self.temporary))?;
        self.env.rename(&self.temporary, &self.path).map_err(StorageError::io("rename", &self.temporary))?;
        self.finished = true;
        Ok(())
    }
}
