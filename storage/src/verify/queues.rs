//! The files of consume queues, and whether their rows name the records that they should.

use std::{ops::Range, path::Path, sync::Arc};

use arrow_buffer::Buffer;
use hashbrown::HashMap;

use super::{Finding, Remedy, Verifier, frames::Followed};
use crate::{
    env::Open,
    error::StorageError,
    format::{
        block::{
            BLOCK_HEADER_LEN, BlockEntry, BlockHeader, COLUMN_ENTRY_LEN, ColumnEntry, Damage,
            FILE_HEADER_LEN, FileHeader, FileKind, Fixed, StatisticsEntry, TAIL_LEN, Tail,
        },
        segment::SegmentKind,
    },
    log::{
        fences::Fences,
        reader::{LogReader, RecentFrames},
        segment::{FrameLog, FrameLogSettings},
    },
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::{Block, ReadRecords},
        checkpoint::{ListedFile, ListedPart, QueuesCheckpoint},
        segment::QueueFile,
        statistics::StatisticsBuilder,
    },
    storage::CHECKPOINT,
};

const COST_BLOCK: &str = "no message; until the queues are built anew, rows here cannot be read or judged";
const COST_COLUMN: &str =
    "no message; until the queues are built anew, what needs this column fails for the rows here";
const COST_FILE: &str = "no message; the next start takes longer";
const COST_STATISTICS: &str =
    "no message; until the queues are built anew, selectors read more, or pass over rows";

/// The rows that a list in the checkpoint expects in some blocks of a file.
type Parts = HashMap<(u32, u32), Range<QueueOffset>>;

/// A file of blocks under the eyes.
struct Looked<'a> {
    path: &'a Path,
    bytes: &'a Buffer,
    log: &'a Arc<LogReader>,
    damaged: &'a Followed,
}

impl Verifier<'_> {
    /// Reads the files that the checkpoint lists; a start removes all others.
    pub(super) fn read_queues(&mut self, followed: Followed) -> Result<(), StorageError> {
        let Some(checkpoint) = self.checkpoint.clone() else { return Ok(()) };
        let listed = match QueuesCheckpoint::decode(&checkpoint.queues) {
            Ok(listed) => listed,
            Err(fault) => {
                let path = self.dir.join(CHECKPOINT);
                self.queue_finding(&path, 0..0, format!("the list of consume queues: {fault}"), COST_FILE);
                return Ok(());
            }
        };
        let settings = FrameLogSettings {
            kind: SegmentKind::Log,
            dir: self.dir.join("log"),
            uuid: self.uuid,
            segment_bytes_min: 0,
            segment_bytes_max: 0,
            zero_ahead_bytes: 0,
        };
        let Followed { segments, begin, end, damaged, hints, log_durable } = followed;
        let log = FrameLog::new(Arc::clone(self.env), settings, checkpoint.epoch, segments, end);
        let followed = Followed { segments: Default::default(), begin, end, damaged, hints, log_durable };
        let shared = Arc::clone(&log.shared);
        let log = Arc::new(LogReader {
            shared,
            recent: RecentFrames::new(0),
            fences: Fences::new(checkpoint.fences),
        });
        self.total += listed.files.iter().map(|file| file.len).sum::<u64>();
        let mut found = Parts::new();
        let mut by_file: Vec<Vec<(TopicId, QueueId, ListedPart)>> = vec![Vec::new(); listed.files.len()];
        for queue in &listed.queues {
            for part in &queue.parts {
                by_file[part.file as usize].push((queue.topic, queue.queue, *part));
            }
        }
        for (file, parts) in listed.files.iter().zip(&by_file) {
            let path = file.path(&self.dir.join("queues"));
            self.queue_file(file, &path, parts, &log, &followed, &mut found)?;
        }
        for queue in &listed.queues {
            let mut next = None;
            for part in &queue.parts {
                let Some(range) = found.get(&(part.file, part.first_block)) else { break };
                if next.is_some_and(|next| next != range.start) {
                    let path = self.dir.join(CHECKPOINT);
                    let what =
                        format!("the blocks of topic {} queue {} do not join", queue.topic, queue.queue);
                    self.queue_finding(&path, 0..0, what, COST_FILE);
                }
                next = Some(range.end);
            }
        }
        Ok(())
    }

    fn queue_finding(&mut self, path: &Path, bytes: Range<u64>, what: String, cost: &'static str) -> usize {
        let remedy = if cost == COST_FILE { Remedy::StartRebuilds } else { Remedy::RepairRebuilds };
        self.find(Finding { path: path.to_owned(), bytes, what, cost, rows: Vec::new(), remedy })
    }

    fn queue_file(
        &mut self,
        listed: &ListedFile,
        path: &Path,
        parts: &[(TopicId, QueueId, ListedPart)],
        log: &Arc<LogReader>,
        damaged: &Followed,
        found: &mut Parts,
    ) -> Result<(), StorageError> {
        let file = match self.env.open(path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.queue_finding(path, 0..0, "the file is missing".to_owned(), COST_FILE);
                return Ok(());
            }
            Err(error) => return Err(StorageError::io("open", path)(error)),
        };
        let bytes = file.map().map_err(StorageError::io("map", path))?;
        self.found.files += 1;
        let len = bytes.len() as u64;
        if len != listed.len {
            let what = format!("the file is {len} bytes long, and not {}", listed.len);
            self.queue_finding(path, len.min(listed.len)..len.max(listed.len), what, COST_FILE);
            return Ok(());
        }
        let looked = Looked { path, bytes: &bytes, log, damaged };
        let checked = self.queue_frame(&looked, listed);
        let file = match checked {
            Ok(file) => file,
            Err((bytes, what)) => {
                self.queue_finding(path, bytes, what, COST_FILE);
                return Ok(());
            }
        };
        let mut statistics = Some(StatisticsBuilder::default());
        for number in 0..file.blocks() {
            // Its directory was checked when it was opened.
            let Ok(entry) = file.entry(number) else { continue };
            let holds = |part: &&(TopicId, QueueId, ListedPart)| {
                (part.2.first_block as usize..part.2.first_block as usize + part.2.blocks as usize)
                    .contains(&number)
            };
            let part = parts.iter().find(holds);
            if part.is_some_and(|(topic, queue, _)| (*topic, *queue) != (entry.topic, entry.queue)) {
                let at = file.tail().block_entry_at(number) as u64;
                self.queue_finding(path, at..at, "a block of another queue".to_owned(), COST_FILE);
            }
            if let Some((_, _, part)) = part {
                let range = found.entry((part.file, part.first_block)).or_insert(entry.base..entry.base);
                range.end = entry.end();
            }
            match self.block(&looked, &file, number, &entry) {
                Some(block) => {
                    if let Some(statistics) = &mut statistics {
                        statistics.add(&block);
                    }
                    if part.is_some() {
                        self.rows(&looked, &entry, &block)?;
                    }
                }
                None => statistics = None,
            }
            self.read(entry.len.into(), path);
        }
        if let Some((_, _, part)) = parts
            .iter()
            .find(|(_, _, part)| u64::from(part.first_block) + u64::from(part.blocks) > file.blocks() as u64)
        {
            let what = format!(
                "it has {} blocks, and not the {} from {} on",
                file.blocks(),
                part.blocks,
                part.first_block
            );
            self.queue_finding(path, 0..FILE_HEADER_LEN as u64, what, COST_FILE);
        }
        self.statistics(&looked, &file, statistics);
        self.padding(&looked, &file);
        Ok(())
    }

    /// Checks header, footer and tail of a file.
    fn queue_frame(
        &self,
        looked: &Looked<'_>,
        listed: &ListedFile,
    ) -> Result<QueueFile, (Range<u64>, String)> {
        let len = looked.bytes.len() as u64;
        let header_range = 0..(FILE_HEADER_LEN as u64).min(len);
        let said = |damage: Damage| format!("{} is wrong", damage.what);
        let header =
            FileHeader::decode(looked.bytes).map_err(|damage| (header_range.clone(), said(damage)))?;
        let same = (header.number, header.kind, header.stamp) == (listed.number, listed.kind, listed.stamp);
        if !same || header.uuid != self.uuid {
            return Err((header_range, "the file belongs to another place".to_owned()));
        }
        let tail_range = len.saturating_sub(TAIL_LEN as u64)..len;
        let tail = Tail::decode(looked.bytes).map_err(|damage| (tail_range.clone(), said(damage)))?;
        let footer = tail.footer_at..tail_range.start;
        let log: Arc<dyn ReadRecords> = Arc::clone(looked.log) as _;
        QueueFile::over(looked.path, looked.bytes.clone(), log).map_err(|damage| (footer, said(damage)))
    }

    /// Checks a block and all its columns; returns it if they are whole.
    fn block(
        &mut self,
        looked: &Looked<'_>,
        file: &QueueFile,
        number: usize,
        entry: &BlockEntry,
    ) -> Option<Block> {
        let start = entry.at;
        let bytes = looked.bytes.slice_with_length(entry.at as usize, entry.len as usize);
        let directory = BLOCK_HEADER_LEN as u64 + u64::from(entry.columns) * COLUMN_ENTRY_LEN as u64;
        let offsets = entry.base..entry.end();
        let fault = |verifier: &mut Self, range: Range<u64>, what: String, cost| {
            let bytes = start + range.start..start + range.end.min(entry.len.into());
            let finding = verifier.queue_finding(looked.path, bytes, what, cost);
            verifier.affects(finding, entry.topic, entry.queue, offsets.clone());
        };
        let header = match BlockHeader::decode(&bytes) {
            Ok(header) => header,
            Err(damage) => {
                fault(self, 0..directory, format!("{} is wrong", damage.what), COST_BLOCK);
                return None;
            }
        };
        if header.checksum(&bytes) != header.crc {
            let range = 0..header.names_end() as u64;
            fault(self, range, "the checksum of a block's directory differs".to_owned(), COST_BLOCK);
            return None;
        }
        let mut whole = true;
        let mut covered = Vec::with_capacity(1 + header.columns as usize);
        covered.push(0..header.names_end());
        for column in 0..header.columns as usize {
            let at = BLOCK_HEADER_LEN + column * COLUMN_ENTRY_LEN;
            let data =
                ColumnEntry::decode(&bytes, column).and_then(|entry| Ok((entry.data(&header, at)?, entry)));
            match data {
                Ok((data, entry)) if crc32c::crc32c(&bytes[data.clone()]) != entry.crc => {
                    let what =
                        format!("the checksum of {} differs", name_of(&bytes, &header, column, &entry));
                    fault(self, data.start as u64..data.end as u64, what, COST_COLUMN);
                    covered.push(data);
                    whole = false;
                }
                Ok((data, _)) => covered.push(data),
                Err(damage) => {
                    let range = at as u64..(at + COLUMN_ENTRY_LEN) as u64;
                    fault(self, range, format!("{} is wrong", damage.what), COST_BLOCK);
                    whole = false;
                }
            }
        }
        for gap in gaps(covered, 0..entry.len as usize) {
            if let Some(range) = not_zero(&bytes, gap) {
                self.harmless_padding(looked.path, start + range.start as u64..start + range.end as u64);
            }
        }
        if !whole {
            return None;
        }
        // From here on a fault is one of who wrote the file: every checksum is right.
        match file
            .block(number)
            .map_err(|error| error.to_string())
            .and_then(|block| check_columns(&block, entry).map(|()| block))
        {
            Ok(block) => Some(block),
            Err(what) => {
                fault(self, 0..entry.len.into(), what, COST_BLOCK);
                None
            }
        }
    }

    /// Checks that the rows of a block name records of their topic, queue and offset.
    fn rows(&mut self, looked: &Looked<'_>, entry: &BlockEntry, block: &Block) -> Result<(), StorageError> {
        let Some(topic) = self.catalogue.topics.get(&entry.topic) else { return Ok(()) };
        // The log need not hold what lies before the first retained row.
        let first = topic.first_offset(entry.queue);
        let (positions, sizes) = (block.positions()?.clone(), block.record_sizes()?);
        let is_kept = |row: &usize| {
            entry.base.plus(*row as u64) >= first && !block.lost().is_some_and(|lost| lost.value(*row))
        };
        let rows: Vec<usize> = (0..block.len()).filter(is_kept).collect();
        self.found.rows += rows.len() as u64;
        let mut own = None;
        let mut done = 0;
        while let Some(rest) = rows.get(done..).filter(|rest| !rest.is_empty()) {
            let mut wrong = Vec::new();
            let mut visited = 0;
            let mut wanted = rest.iter().map(|row| LogPosition(positions.value(*row)));
            let result = looked.log.visit(&mut wanted, &mut |record| {
                let row = rest[visited];
                visited += 1;
                let same = (record.topic, record.incarnation, record.queue, record.offset)
                    == (entry.topic, entry.incarnation, entry.queue, entry.base.plus(row as u64));
                if !same || record.size != sizes.value(row) {
                    wrong.push(row);
                }
                Ok(())
            });
            done += visited;
            for row in wrong {
                self.wrong_row(looked, entry, row, &mut own, "a row names the record of another");
            }
            match result {
                Ok(()) => {}
                Err(
                    StorageError::Corrupt { .. } | StorageError::Lost { .. } | StorageError::NoRecord { .. },
                ) => {
                    let row = rest[visited];
                    done += 1;
                    let position = LogPosition(positions.value(row));
                    match looked.damaged.damage_within(&(position..LogPosition(position.0 + 1))) {
                        Some(finding) => {
                            let offset = entry.base.plus(row as u64);
                            self.affects(finding, entry.topic, entry.queue, offset..offset.plus(1));
                        }
                        None => self.wrong_row(
                            looked,
                            entry,
                            row,
                            &mut own,
                            "a row names a record that is not there",
                        ),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wrong_row(
        &mut self,
        looked: &Looked<'_>,
        entry: &BlockEntry,
        row: usize,
        own: &mut Option<usize>,
        what: &'static str,
    ) {
        let finding = *own.get_or_insert_with(|| {
            let bytes = entry.at..entry.at + u64::from(entry.len);
            self.queue_finding(looked.path, bytes, what.to_owned(), COST_BLOCK)
        });
        let offset = entry.base.plus(row as u64);
        self.affects(finding, entry.topic, entry.queue, offset..offset.plus(1));
    }

    /// Checks that statistics are whole, and that they say of the columns what is so.
    fn statistics(&mut self, looked: &Looked<'_>, file: &QueueFile, expected: Option<StatisticsBuilder>) {
        let tail = file.tail();
        let mut expected = expected.filter(|_| file.header().kind == FileKind::Segment).map(|builder| {
            let more_names = builder.more_names();
            (builder.finish().into_iter(), more_names)
        });
        for number in 0..tail.statistics as usize {
            let Ok(entry) = StatisticsEntry::decode(looked.bytes, tail.statistics_entry_at(number)) else {
                continue;
            };
            let range = entry.at as usize..entry.at as usize + entry.len as usize;
            let wide = range.start as u64..range.end as u64;
            let wanted = expected.as_mut().map(|(expected, _)| expected.next());
            self.read(entry.len.into(), looked.path);
            if crc32c::crc32c(&looked.bytes[range.clone()]) != entry.crc {
                self.queue_finding(
                    looked.path,
                    wide,
                    "the checksum of statistics differs".to_owned(),
                    COST_STATISTICS,
                );
                continue;
            }
            let name =
                &looked.bytes[tail.names_at() + entry.name_at as usize..][..usize::from(entry.name_len)];
            let agrees = wanted.is_none_or(|wanted| {
                wanted.is_some_and(|wanted| {
                    wanted.name.as_bytes() == name
                        && wanted.system == entry.system
                        && wanted.bytes == looked.bytes[range]
                })
            });
            if !agrees {
                let what = format!(
                    "the statistics of {} do not agree with the column",
                    String::from_utf8_lossy(name)
                );
                self.queue_finding(looked.path, wide, what, COST_STATISTICS);
            }
        }
        if let Some((mut rest, more_names)) = expected
            && (rest.next().is_some() || more_names != tail.more_names)
        {
            let range = tail.footer_at..looked.bytes.len() as u64;
            self.queue_finding(
                looked.path,
                range,
                "statistics of some columns are missing".to_owned(),
                COST_STATISTICS,
            );
        }
    }

    /// Checks that zeros lie between the parts of a file.
    fn padding(&mut self, looked: &Looked<'_>, file: &QueueFile) {
        let tail = file.tail();
        let blocks = (0..file.blocks()).filter_map(|number| file.entry(number).ok());
        let blocks = blocks.map(|entry| entry.at as usize..entry.at as usize + entry.len as usize);
        let statistics = (0..tail.statistics as usize)
            .filter_map(|number| StatisticsEntry::decode(looked.bytes, tail.statistics_entry_at(number)).ok())
            .map(|entry| entry.at as usize..entry.at as usize + entry.len as usize);
        let covered = std::iter::once(0..FILE_HEADER_LEN).chain(blocks).chain(statistics).collect();
        for gap in gaps(covered, 0..tail.footer_at as usize) {
            if let Some(range) = not_zero(looked.bytes, gap) {
                self.harmless_padding(looked.path, range.start as u64..range.end as u64);
            }
        }
    }

    fn harmless_padding(&mut self, path: &Path, bytes: Range<u64>) {
        self.find(Finding {
            path: path.to_owned(),
            bytes,
            what: "bytes between the parts of the file are not zero".to_owned(),
            cost: "nothing: these bytes hold nothing",
            rows: Vec::new(),
            remedy: Remedy::WriteZeros,
        });
    }
}

/// Returns what lies in `within` and in none of some ranges.
fn gaps(mut covered: Vec<Range<usize>>, within: Range<usize>) -> Vec<Range<usize>> {
    covered.sort_unstable_by_key(|range| range.start);
    covered.push(within.end..within.end);
    let mut at = within.start;
    let mut found = Vec::new();
    for range in covered {
        if range.start > at {
            found.push(at..range.start);
        }
        at = at.max(range.end);
    }
    found
}

fn not_zero(bytes: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let gap = bytes.get(range.clone()).unwrap_or_default();
    let first = gap.iter().position(|byte| *byte != 0)?;
    let last = gap.iter().rposition(|byte| *byte != 0)?;
    Some(range.start + first..range.start + last + 1)
}

fn name_of(bytes: &[u8], header: &BlockHeader, number: usize, entry: &ColumnEntry) -> String {
    match entry.fixed {
        Some(fixed) => format!("the column {fixed:?}"),
        None => format!("the column {}", String::from_utf8_lossy(ColumnEntry::key(bytes, header, number).1)),
    }
}

/// Takes every column once, so that its structure is checked, and compares the block with its entry.
fn check_columns(block: &Block, entry: &BlockEntry) -> Result<(), String> {
    let said = |damage: Damage| format!("{} is wrong at {} of the block", damage.what, damage.at);
    block.check_columns().map_err(said)?;
    for fixed in [Fixed::Position, Fixed::StoreTime, Fixed::Size, Fixed::BodySize] {
        if block.image().find(Some(fixed), b"").map_err(said)?.is_none() {
            return Err(format!("the column {fixed:?} is missing"));
        }
    }
    let header = block.header();
    let positions = block.record_positions().map_err(said)?.values();
    let ends = (positions.first().copied(), positions.last().copied());
    let agrees = (header.first_position, header.last_position) == (entry.first_position, entry.last_position)
        && (header.store_time_min, header.store_time_max) == (entry.store_time_min, entry.store_time_max)
        && ends == (Some(header.first_position.0), Some(header.last_position.0));
    if agrees { Ok(()) } else { Err("the block does not agree with the directory of its file".to_owned()) }
}
