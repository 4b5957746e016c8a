//! Shows what a data directory holds, piece by piece: segments, frames, blocks, columns, statistics. Writes nothing and
//! takes no lock.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::Array;
use serde::Serialize;
use weir_columns::{Kind, KindSet};

use super::{Verifier, list};
use crate::{
    env::{Env, Open},
    error::StorageError,
    format::{
        block::{
            BLOCK_HEADER_LEN, BlockEntry, BlockHeader, COLUMN_ENTRY_LEN, ColumnEntry, FileKind, NOT_COUNTED,
            StatisticsEntry,
        },
        frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind},
        record::{RecordView, padded},
        segment::SegmentKind,
    },
    log::{
        segment::{LogRun, SegmentFile, segment_base},
        walk::Window,
    },
    offset::{LogPosition, QueueId, TopicId},
    queue::{
        block::NoLog,
        checkpoint::{ListedFile, QueuesCheckpoint},
        segment::QueueFile,
        statistics,
    },
};

/// What is said of bytes whose checksum is right.
const OK: &str = "ok";

/// A data directory as a whole.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DirectoryInfo {
    /// Its id, in hexadecimal digits.
    pub uuid: String,
    /// Whether there is a checkpoint that can be read.
    pub checkpoint: bool,
    /// Whether the last stop was in good order. While a broker runs: no.
    pub clean: bool,
    /// The epoch at the checkpoint.
    pub epoch: u32,
    /// The consume queues hold every row whose record lies below this position.
    pub queues_end: u64,
    /// The durable end of the log at the checkpoint.
    pub log_end: u64,
    /// The durable end of the group journal at the checkpoint.
    pub journal_end: u64,
    /// The durable end of the catalogue at the checkpoint.
    pub catalogue_end: u64,
    /// The latest store time at the checkpoint; milliseconds since 1970, UTC.
    pub store_time_ms: Option<i64>,
    /// Ranges of the log that were found damaged: begin and end.
    pub fences: Vec<(u64, u64)>,
    /// How many topics there are.
    pub topics: usize,
    /// How many groups there are.
    pub groups: usize,
    /// How many files of consume queues the checkpoint lists.
    pub queue_files: usize,
    /// Their bytes.
    pub queue_bytes: u64,
}

/// A segment of log, journal or catalogue.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// The position at which it begins, as its name says.
    pub base: u64,
    /// How long the file is.
    pub bytes: u64,
    /// `frames`, or `compacted`: records alone.
    pub form: &'static str,
    /// How many bytes of frames it may hold.
    pub capacity: u64,
    /// The epoch in which it was begun.
    pub epoch: u32,
    /// When it was begun; milliseconds since 1970, UTC.
    pub begun_ms: i64,
    /// `ok`, or what is wrong with its header.
    pub header: String,
}

/// A frame, or a run of a compacted segment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FrameInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// Where it begins in the file.
    pub at: u64,
    /// Where it begins in the sequence of frames.
    pub position: u64,
    /// `records`, `seal`, `journal`, `catalogue`, or `run`; empty if its header is damaged.
    pub kind: &'static str,
    /// The epoch.
    pub epoch: u32,
    /// Records or entries in it.
    pub records: u32,
    /// Its length in bytes.
    pub bytes: u64,
    /// The durable end when it was written.
    pub durable: u64,
    /// Its time; milliseconds since 1970, UTC.
    pub time_ms: i64,
    /// `ok`, or what is wrong.
    pub checksum: String,
}

/// A file of consume queues.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueFileInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// `segment` or `shared`.
    pub kind: &'static str,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its blocks.
    pub blocks: usize,
    /// Their rows.
    pub rows: u64,
    /// Columns with statistics.
    pub statistics: usize,
    /// `ok`, or what is wrong with header, footer or tail.
    pub checksum: String,
}

/// A block.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BlockInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// Its number in the file.
    pub block: usize,
    /// Its topic: the name, or the id if that has none any more.
    pub topic: String,
    /// Its queue.
    pub queue: u32,
    /// The offset of its first row.
    pub first: u64,
    /// Its rows.
    pub rows: u32,
    /// Its columns.
    pub columns: u32,
    /// Where it begins in the file.
    pub at: u64,
    /// Its length.
    pub bytes: u32,
    /// The log position of its first row.
    pub first_position: u64,
    /// The log position of its last row.
    pub last_position: u64,
    /// The smallest store time; milliseconds since 1970, UTC.
    pub store_time_min_ms: i64,
    /// The largest store time.
    pub store_time_max_ms: i64,
    /// `ok`, or what is wrong with header, directory or names.
    pub checksum: String,
}

/// A column of a block.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ColumnInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// The number of the block in the file.
    pub block: usize,
    /// The topic of the block.
    pub topic: String,
    /// The queue of the block.
    pub queue: u32,
    /// The name of the property, or of a fixed column.
    pub column: String,
    /// Whether it is a property.
    pub property: bool,
    /// How it lies in the block.
    pub shape: String,
    /// The kinds of its values.
    pub kinds: Vec<String>,
    /// Rows without a value.
    pub missing: u32,
    /// Distinct values, if they were counted.
    pub distinct: Option<u32>,
    /// Where its data begins in the file.
    pub at: u64,
    /// The length of its data.
    pub bytes: u32,
    /// `ok`, or what is wrong.
    pub checksum: String,
}

/// What is known of a column of a block without opening it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StatisticsInfo {
    /// The file, from the data directory on.
    pub file: String,
    /// The number of the block in the file.
    pub block: usize,
    /// The name of the property, or the number of the system column.
    pub column: String,
    /// Rows without a value; null if nothing is kept.
    pub missing: Option<u32>,
    /// Distinct values.
    pub distinct: Option<u32>,
    /// The kinds of its values.
    pub kinds: Option<Vec<String>>,
    /// A lower bound of the texts.
    pub text_min: Option<String>,
    /// An upper bound of the texts.
    pub text_max: Option<String>,
    /// The smallest integer.
    pub int_min: Option<i64>,
    /// The largest integer.
    pub int_max: Option<i64>,
    /// The smallest float.
    pub float_min: Option<f64>,
    /// The largest float.
    pub float_max: Option<f64>,
    /// The length of the Bloom filter.
    pub bloom_bytes: Option<usize>,
    /// `ok`, or what is wrong with the statistics of the column.
    pub checksum: String,
}

/// What of a directory is shown.
#[derive(Clone, Debug, Default)]
pub struct InspectFilter {
    /// Only this topic: its name, after its namespace and a slash if it has one.
    pub topic: Option<String>,
    /// Only this queue.
    pub queue: Option<QueueId>,
    /// Only files whose path ends so.
    pub file: Option<String>,
}

/// A data directory that is being shown.
#[derive(Debug)]
pub struct Inspection {
    env: Arc<dyn Env>,
    dir: PathBuf,
    uuid: [u8; 16],
    info: DirectoryInfo,
    names: std::collections::HashMap<TopicId, String>,
    files: Vec<ListedFile>,
}

/// What a view does with each piece. An error ends the view.
pub(super) type EachPiece<'a, T, E> = dyn FnMut(T) -> Result<(), E> + 'a;

type EachFile<'a, E> = dyn FnMut(&ListedFile, String, Result<QueueFile, String>) -> Result<(), E> + 'a;
type EachBlock<'a, E> = dyn FnMut(&str, &QueueFile, usize, &BlockEntry) -> Result<(), E> + 'a;

impl Inspection {
    /// Reads what says where the rest lies: `FORMAT`, catalogue, checkpoint.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or this is no data directory.
    pub fn open(env: &Arc<dyn Env>, dir: &Path) -> Result<Self, StorageError> {
        let mut quiet = |_: &super::Progress<'_>| {};
        let mut verifier = Verifier::new(env, dir, &mut quiet);
        verifier.format()?;
        verifier.read_checkpoint()?;
        verifier.read_catalogue()?;
        let checkpoint = verifier.checkpoint.as_ref();
        let listed = checkpoint.and_then(|checkpoint| QueuesCheckpoint::decode(&checkpoint.queues).ok());
        let files = listed.map(|listed| listed.files).unwrap_or_default();
        let uuid = verifier.uuid;
        let info = DirectoryInfo {
            uuid: format!("{:032x}", u128::from_be_bytes(uuid)),
            checkpoint: checkpoint.is_some(),
            clean: checkpoint.is_some_and(|checkpoint| checkpoint.clean),
            epoch: checkpoint.map_or(0, |checkpoint| checkpoint.epoch.0),
            queues_end: checkpoint.map_or(0, |checkpoint| checkpoint.log.0),
            log_end: checkpoint.map_or(0, |checkpoint| checkpoint.durable.0),
            journal_end: checkpoint.map_or(0, |checkpoint| checkpoint.journal.0),
            catalogue_end: checkpoint.map_or(0, |checkpoint| checkpoint.catalogue.0),
            store_time_ms: checkpoint.map(|checkpoint| checkpoint.store_time_ms).filter(|ms| *ms > i64::MIN),
            fences: checkpoint.map_or_else(Vec::new, |checkpoint| {
                checkpoint.fences.iter().map(|fence| (fence.start.0, fence.end.0)).collect()
            }),
            topics: verifier.catalogue.topics.len(),
            groups: verifier.catalogue.groups.len(),
            queue_files: files.len(),
            queue_bytes: files.iter().map(|file| file.len).sum(),
        };
        let names =
            verifier.catalogue.topics.iter().map(|(id, topic)| (*id, super::full_name(topic))).collect();
        Ok(Self { env: Arc::clone(env), dir: dir.to_owned(), uuid, info, names, files })
    }

    /// Returns what is known of the directory as a whole.
    pub const fn info(&self) -> &DirectoryInfo {
        &self.info
    }

    /// Shows the segments of log, journal and catalogue.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or `each` says so.
    pub fn segments<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, SegmentInfo, E>,
    ) -> Result<(), E> {
        self.each_segment(filter, &mut |file, base, bytes, opened| {
            let header = opened.as_ref().ok().map(|segment| segment.header);
            each(SegmentInfo {
                file,
                base: base.0,
                bytes,
                form: match header {
                    Some(header) if header.compacted => "compacted",
                    Some(_) => "frames",
                    None => "",
                },
                capacity: header.map_or(0, |header| header.capacity),
                epoch: header.map_or(0, |header| header.epoch.0),
                begun_ms: header.map_or(0, |header| header.created_ms),
                header: opened.err().unwrap_or_else(|| OK.to_owned()),
            })
        })
    }

    /// Shows the frames of log, journal and catalogue, as far as there are any.
    ///
    /// # Errors
    ///
    /// As [`segments`](Self::segments).
    pub fn frames<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, FrameInfo, E>,
    ) -> Result<(), E> {
        self.each_segment(filter, &mut |file, base, _, opened| {
            let Ok(segment) = opened else { return Ok(()) };
            if segment.tail().is_some() {
                for run in segment.runs()? {
                    each(run_info(&file, &segment, &run)?)?;
                }
                return Ok(());
            }
            let mut window = Window::new(&segment);
            let mut position = base;
            loop {
                let frame = window.frame(position)?;
                let found = window.header(position)?.ok();
                if found.is_none() {
                    let torn = window.bytes(position, FRAME_HEADER_LEN)?.iter().any(|byte| *byte != 0);
                    let next = window.later(position)?.first;
                    if !torn && next.is_none() {
                        return Ok(());
                    }
                    let fault = frame.err().map_or_else(String::new, |fault| fault.to_string());
                    each(frame_info(&file, &segment, position, None, fault))?;
                    let Some(next) = next else { return Ok(()) };
                    position = next;
                    continue;
                }
                let Some(header) = found else { return Ok(()) };
                let checksum = frame.err().map_or_else(|| OK.to_owned(), |fault| fault.to_string());
                each(frame_info(&file, &segment, position, Some(&header), checksum))?;
                if header.kind == FrameKind::Seal {
                    return Ok(());
                }
                position = header.end();
            }
        })
    }

    fn each_segment<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut dyn FnMut(String, LogPosition, u64, Result<SegmentFile, String>) -> Result<(), E>,
    ) -> Result<(), E> {
        let kinds = [
            ("log", SegmentKind::Log),
            ("journal", SegmentKind::Journal),
            ("catalogue", SegmentKind::Catalogue),
        ];
        for (dir, kind) in kinds {
            for name in list(self.env.as_ref(), &self.dir.join(dir))? {
                let file = format!("{dir}/{name}");
                let Some(base) = segment_base(kind, &name).filter(|_| filter.takes_file(&file)) else {
                    continue;
                };
                let path = self.dir.join(&file);
                // A broker may have unlinked it meanwhile.
                let Some(len) = super::file_len(self.env.as_ref(), &path)? else { continue };
                match SegmentFile::open(self.env.as_ref(), &path, kind, &self.uuid, Open::Read) {
                    Ok(segment) => each(file, base, len, Ok(segment))?,
                    Err(StorageError::Corrupt { fault, .. }) => {
                        each(file, base, len, Err(fault.to_string()))?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Shows the files of consume queues that the checkpoint lists.
    ///
    /// # Errors
    ///
    /// As [`segments`](Self::segments).
    pub fn queue_files<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, QueueFileInfo, E>,
    ) -> Result<(), E> {
        self.each_file(filter, &mut |listed, file, opened| {
            let entries = |opened: &QueueFile| -> Vec<BlockEntry> {
                (0..opened.blocks()).filter_map(|number| opened.entry(number).ok()).collect()
            };
            let found = opened.as_ref().map(entries).unwrap_or_default();
            if self.is_filtered_out(filter, &found) {
                return Ok(());
            }
            each(QueueFileInfo {
                file,
                kind: if listed.kind == FileKind::Segment { "segment" } else { "shared" },
                bytes: opened.as_ref().map_or(listed.len, QueueFile::len),
                blocks: found.len(),
                rows: found.iter().map(|entry| u64::from(entry.rows)).sum(),
                statistics: opened.as_ref().map_or(0, |file| file.tail().statistics as usize),
                checksum: opened.err().unwrap_or_else(|| OK.to_owned()),
            })
        })
    }

    fn is_filtered_out(&self, filter: &InspectFilter, entries: &[BlockEntry]) -> bool {
        (filter.topic.is_some() || filter.queue.is_some())
            && !entries.iter().any(|entry| filter.takes(&self.topic(entry.topic), entry.queue))
    }

    fn each_file<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachFile<'_, E>,
    ) -> Result<(), E> {
        for listed in &self.files {
            let path = listed.path(&self.dir.join("queues"));
            let file = path.strip_prefix(&self.dir).unwrap_or(&path).display().to_string();
            if !filter.takes_file(&file) {
                continue;
            }
            let opened = match QueueFile::open(self.env.as_ref(), &path, Arc::new(NoLog)) {
                Ok(opened) => Ok(opened),
                Err(StorageError::Corrupt { fault, .. }) => Err(fault.to_string()),
                Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Err("the file is missing".to_owned())
                }
                Err(error) => return Err(error.into()),
            };
            each(listed, file, opened)?;
        }
        Ok(())
    }

    fn each_block<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachBlock<'_, E>,
    ) -> Result<(), E> {
        self.each_file(filter, &mut |_, file, opened| {
            let Ok(opened) = opened else { return Ok(()) };
            for number in 0..opened.blocks() {
                let Ok(entry) = opened.entry(number) else { continue };
                if filter.takes(&self.topic(entry.topic), entry.queue) {
                    each(&file, &opened, number, &entry)?;
                }
            }
            Ok(())
        })
    }

    /// Shows the blocks of consume queues.
    ///
    /// # Errors
    ///
    /// As [`segments`](Self::segments).
    pub fn blocks<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, BlockInfo, E>,
    ) -> Result<(), E> {
        self.each_block(filter, &mut |file, opened, number, entry| {
            each(BlockInfo {
                file: file.to_owned(),
                block: number,
                topic: self.topic(entry.topic),
                queue: entry.queue.0,
                first: entry.base.0,
                rows: entry.rows,
                columns: entry.columns,
                at: entry.at,
                bytes: entry.len,
                first_position: entry.first_position.0,
                last_position: entry.last_position.0,
                store_time_min_ms: entry.store_time_min,
                store_time_max_ms: entry.store_time_max,
                checksum: opened.block(number).err().map_or_else(|| OK.to_owned(), |error| fault_of(&error)),
            })
        })
    }

    /// Shows the columns of blocks.
    ///
    /// # Errors
    ///
    /// As [`segments`](Self::segments).
    pub fn columns<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, ColumnInfo, E>,
    ) -> Result<(), E> {
        self.each_block(filter, &mut |file, opened, number, block| {
            let start = block.at as usize;
            let bytes = opened.bytes().get(start..start + block.len as usize).unwrap_or_default();
            let Ok(header) = BlockHeader::decode(bytes) else { return Ok(()) };
            for column in 0..header.columns as usize {
                let Ok(entry) = ColumnEntry::decode(bytes, column) else { continue };
                let data = entry.data(&header, BLOCK_HEADER_LEN + column * COLUMN_ENTRY_LEN);
                let checksum = match data {
                    Ok(data) if crc32c::crc32c(&bytes[data.clone()]) == entry.crc => OK.to_owned(),
                    Ok(_) => "the checksum differs".to_owned(),
                    Err(damage) => format!("{} is wrong", damage.what),
                };
                let name = match entry.fixed {
                    Some(fixed) => format!("{fixed:?}"),
                    None => String::from_utf8_lossy(ColumnEntry::key(bytes, &header, column).1).into_owned(),
                };
                each(ColumnInfo {
                    file: file.to_owned(),
                    block: number,
                    topic: self.topic(block.topic),
                    queue: block.queue.0,
                    column: name,
                    property: entry.fixed.is_none(),
                    shape: format!("{:?}", entry.shape).to_lowercase(),
                    kinds: kinds(entry.kinds),
                    missing: entry.missing,
                    distinct: Some(entry.distinct).filter(|distinct| *distinct != NOT_COUNTED),
                    at: block.at + u64::from(entry.at),
                    bytes: entry.len,
                    checksum,
                })?;
            }
            Ok(())
        })
    }

    /// Shows the statistics of the columns of queue segments, block by block.
    ///
    /// # Errors
    ///
    /// As [`segments`](Self::segments).
    pub fn statistics<E: From<StorageError>>(
        &self,
        filter: &InspectFilter,
        each: &mut EachPiece<'_, StatisticsInfo, E>,
    ) -> Result<(), E> {
        self.each_file(filter, &mut |_, file, opened| {
            let Ok(opened) = opened else { return Ok(()) };
            let tail = opened.tail();
            let entries: Vec<BlockEntry> =
                (0..opened.blocks()).filter_map(|number| opened.entry(number).ok()).collect();
            if self.is_filtered_out(filter, &entries) {
                return Ok(());
            }
            for number in 0..tail.statistics as usize {
                let bytes = opened.bytes();
                let Ok(entry) = StatisticsEntry::decode(bytes, tail.statistics_entry_at(number)) else {
                    continue;
                };
                let name = &bytes[tail.names_at() + entry.name_at as usize..][..usize::from(entry.name_len)];
                let column = match entry.system {
                    0 => String::from_utf8_lossy(name).into_owned(),
                    system => weir_columns::System::ALL.get(usize::from(system) - 1).map_or_else(
                        || format!("system {system}"),
                        |system| format!("sys.{}", system.name()),
                    ),
                };
                let range = entry.at as usize..entry.at as usize + entry.len as usize;
                let is_whole = crc32c::crc32c(&bytes[range.clone()]) == entry.crc;
                let decoded = statistics::decode(bytes, range, opened.blocks()).ok().filter(|_| is_whole);
                for block in 0..opened.blocks() {
                    each(statistics_info(&file, block, &column, decoded.as_ref()))?;
                }
            }
            Ok(())
        })
    }

    fn topic(&self, id: TopicId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

impl InspectFilter {
    fn takes_file(&self, file: &str) -> bool {
        self.file.as_ref().is_none_or(|wanted| file.ends_with(wanted.as_str()))
    }

    fn takes(&self, topic: &str, queue: QueueId) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
            && self.queue.is_none_or(|wanted| wanted == queue)
    }
}

fn frame_info(
    file: &str,
    segment: &SegmentFile,
    position: LogPosition,
    header: Option<&FrameHeader>,
    checksum: String,
) -> FrameInfo {
    FrameInfo {
        file: file.to_owned(),
        at: segment.header.file_position(position).0,
        position: position.0,
        kind: match header.map(|header| header.kind) {
            Some(FrameKind::Records) => "records",
            Some(FrameKind::Seal) => "seal",
            Some(FrameKind::Journal) => "journal",
            Some(FrameKind::Catalogue) => "catalogue",
            None => "",
        },
        epoch: header.map_or(0, |header| header.epoch.0),
        records: header.map_or(0, |header| header.records),
        bytes: header.map_or(0, FrameHeader::frame_len),
        durable: header.map_or(0, |header| header.durable.0),
        time_ms: header.map_or(0, |header| header.store_time_ms),
        checksum,
    }
}

fn run_info(file: &str, segment: &SegmentFile, run: &LogRun) -> Result<FrameInfo, StorageError> {
    let bytes = run.range.end.0 - run.range.start.0;
    let mut payload = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = segment.read_some(&mut payload, run.range.start)?;
    payload.truncate(read);
    let (mut records, mut time_ms, mut at) = (0, 0, 0);
    let mut checksum = OK.to_owned();
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        match RecordView::decode(rest, LogPosition(run.range.start.0 + at as u64)) {
            Ok(record) => {
                records += 1;
                time_ms = record.store_time_ms;
                at += padded(u64::from(record.size)) as usize;
            }
            Err(fault) => {
                checksum = fault.to_string();
                break;
            }
        }
    }
    Ok(FrameInfo {
        file: file.to_owned(),
        at: run.at,
        position: run.range.start.0,
        kind: "run",
        epoch: segment.header.epoch.0,
        records,
        bytes,
        durable: 0,
        time_ms,
        checksum,
    })
}

fn statistics_info(
    file: &str,
    block: usize,
    column: &str,
    kept: Option<&weir_columns::ColumnStatistics>,
) -> StatisticsInfo {
    /// Returns what an array has at a place, if it is kept.
    macro_rules! at {
        ($field:ident) => {
            kept.filter(|kept| kept.$field.is_valid(block)).map(|kept| kept.$field.value(block))
        };
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    StatisticsInfo {
        file: file.to_owned(),
        block,
        column: column.to_owned(),
        missing: at!(missing),
        distinct: at!(distinct),
        kinds: at!(kinds).map(kinds),
        text_min: at!(text_min).map(text),
        text_max: at!(text_max).map(text),
        int_min: at!(int_min),
        int_max: at!(int_max),
        float_min: at!(float_min),
        float_max: at!(float_max),
        bloom_bytes: at!(bloom).map(<[u8]>::len),
        checksum: if kept.is_some() { OK } else { "the checksum differs" }.to_owned(),
    }
}

fn kinds(bits: u16) -> Vec<String> {
    let set = KindSet(bits);
    Kind::ALL
        .into_iter()
        .filter(|kind| set.contains(*kind))
        .map(|kind| format!("{kind:?}").to_lowercase())
        .collect()
}

fn fault_of(error: &StorageError) -> String {
    match error {
        StorageError::Corrupt { fault, .. } => fault.to_string(),
        other => other.to_string(),
    }
}
