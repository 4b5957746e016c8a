//! Bytes ↔ structs of blocks and of the files that hold them. Layout: `docs/format.md`, "Consume queues".
//!
//! A block describes itself: header, directory, names, then the data of its columns. The builder makes it
//! in memory in the same bytes in which files keep it; only the checksums are added on the way to a file.

use crate::offset::{LogPosition, QueueId, QueueOffset, TopicId};

/// Blocks begin on this boundary in a file, and so do the buffers of blocks of [`WIDE_ROWS`] rows or more.
pub(crate) const ALIGNMENT: usize = 64;
/// Buffers of smaller blocks begin on this boundary, so that a block of one row is no kilobytes of padding.
pub(crate) const NARROW_ALIGNMENT: usize = 8;
/// From so many rows on a block pads its buffers to [`ALIGNMENT`] and chooses the shape of each column.
pub(crate) const WIDE_ROWS: usize = 1024;
/// The rows of a full block.
pub(crate) const BLOCK_ROWS: usize = 8192;
/// A block is full, too, when it holds about so many bytes.
pub(crate) const BLOCK_BYTES: usize = 8 << 20;
/// The blocks of a full queue segment.
pub(crate) const SEGMENT_BLOCKS: usize = 128;
/// The property columns of a block; what has no room goes into the `rest` column.
pub(crate) const COLUMNS_MAX: usize = 1024;
/// More fixed columns than there will be.
pub(crate) const FIXED_COLUMNS_MAX: usize = 32;
/// The property names that a topic may have as columns; and the names in the statistics of one file.
pub(crate) const NAMES_MAX: usize = 4096;

const _: () = assert!(BLOCK_ROWS <= 1 << 16, "codes and row numbers are u16");
const _: () = assert!(cfg!(target_endian = "little"), "buffers are mapped, and they are little-endian");

pub(crate) const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"WBLK");
pub(crate) const BLOCK_VERSION: u16 = 1;
pub(crate) const BLOCK_HEADER_LEN: usize = 128;
pub(crate) const COLUMN_ENTRY_LEN: usize = 64;

pub(crate) const FILE_MAGIC: [u8; 8] = *b"WEIRQUE1";
pub(crate) const FILE_VERSION: u16 = 1;
pub(crate) const FILE_HEADER_LEN: usize = 64;
pub(crate) const BLOCK_ENTRY_LEN: usize = 96;
pub(crate) const STATISTICS_ENTRY_LEN: usize = 32;
pub(crate) const TAIL_LEN: usize = 64;
pub(crate) const TAIL_MAGIC: [u8; 8] = *b"WEIRQEND";

/// Which part of a block, a column or a file is wrong, and where, counted from the start of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl Damage {
    pub(crate) const fn new(at: usize, what: &'static str) -> Self {
        Self { at, what }
    }
}

/// How a column lies in its block. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Shape {
    Dictionary = 1,
    Sparse = 2,
    Plain = 3,
    Int = 4,
    Hashed = 5,
    /// One u64 a row.
    Long = 6,
    /// One u32 a row.
    Word = 7,
    /// One bit a row.
    Bits = 8,
    /// Properties without a column of their own.
    Rest = 9,
}

impl Shape {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Dictionary,
            2 => Self::Sparse,
            3 => Self::Plain,
            4 => Self::Int,
            5 => Self::Hashed,
            6 => Self::Long,
            7 => Self::Word,
            8 => Self::Bits,
            9 => Self::Rest,
            _ => return None,
        })
    }
}

/// What a column holds if it is no property. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Fixed {
    Position = 1,
    StoreTime = 2,
    BornTime = 3,
    Size = 4,
    BodySize = 5,
    Lost = 6,
    MessageType = 7,
    MessageGroup = 8,
    Tag = 9,
    Keys = 10,
    MessageId = 11,
    Rest = 12,
    /// Where the body lies if it is not in the record that made the row. 0: it is.
    BodyPosition = 13,
}

impl Fixed {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Position,
            2 => Self::StoreTime,
            3 => Self::BornTime,
            4 => Self::Size,
            5 => Self::BodySize,
            6 => Self::Lost,
            7 => Self::MessageType,
            8 => Self::MessageGroup,
            9 => Self::Tag,
            10 => Self::Keys,
            11 => Self::MessageId,
            12 => Self::Rest,
            13 => Self::BodyPosition,
            _ => return None,
        })
    }
}

/// The first bytes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) wide: bool,
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    pub(crate) topic: TopicId,
    pub(crate) incarnation: u32,
    pub(crate) queue: QueueId,
    pub(crate) names_len: u32,
    pub(crate) base: QueueOffset,
    pub(crate) first_position: LogPosition,
    pub(crate) last_position: LogPosition,
    pub(crate) store_time_min: i64,
    pub(crate) store_time_max: i64,
    pub(crate) shape: u64,
    /// All bytes of the block, a multiple of [`ALIGNMENT`].
    pub(crate) length: u32,
    /// What the records of the rows take in the log, with padding.
    pub(crate) record_bytes: u64,
    /// Over the header before it, the directory and the names.
    pub(crate) crc: u32,
}

const CRC_AT: usize = 124;
const RECORD_BYTES_AT: usize = 88;

impl BlockHeader {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEADER_LEN] {
        let mut bytes = [0; BLOCK_HEADER_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u32(BLOCK_MAGIC);
        put.u16(BLOCK_VERSION);
        put.u16(u16::from(self.wide));
        put.u32(self.rows);
        put.u32(self.columns);
        put.u32(self.topic.0);
        put.u32(self.incarnation);
        put.u32(self.queue.0);
        put.u32(self.names_len);
        put.u64(self.base.0);
        put.u64(self.first_position.0);
        put.u64(self.last_position.0);
        put.i64(self.store_time_min);
        put.i64(self.store_time_max);
        put.u64(self.shape);
        put.u32(self.length);
        put.at = RECORD_BYTES_AT;
        put.u64(self.record_bytes);
        put.at = CRC_AT;
        put.u32(self.crc);
        bytes
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, Damage> {
        let mut take = Take { bytes: block, at: 0 };
        if take.u32()? != BLOCK_MAGIC {
            return Err(Damage::new(0, "the start of a block"));
        }
        if take.u16()? != BLOCK_VERSION {
            return Err(Damage::new(4, "the version of a block"));
        }
        let flags = take.u16()?;
        if flags > 1 {
            return Err(Damage::new(6, "the flags of a block"));
        }
        let header = Self {
            wide: flags == 1,
            rows: take.u32()?,
            columns: take.u32()?,
            topic: TopicId(take.u32()?),
            incarnation: take.u32()?,
            queue: QueueId(take.u32()?),
            names_len: take.u32()?,
            base: QueueOffset(take.u64()?),
            first_position: LogPosition(take.u64()?),
            last_position: LogPosition(take.u64()?),
            store_time_min: take.i64()?,
            store_time_max: take.i64()?,
            shape: take.u64()?,
            length: take.u32()?,
            record_bytes: Take { bytes: block, at: RECORD_BYTES_AT }.u64()?,
            crc: Take { bytes: block, at: CRC_AT }.u32()?,
        };
        header.check(block.len())?;
        Ok(header)
    }

    fn check(&self, available: usize) -> Result<(), Damage> {
        if self.rows == 0 || self.rows as usize > BLOCK_ROWS {
            return Err(Damage::new(8, "the number of rows"));
        }
        if self.length as usize > available || !(self.length as usize).is_multiple_of(ALIGNMENT) {
            return Err(Damage::new(80, "the length of a block"));
        }
        if self.columns as usize > COLUMNS_MAX + FIXED_COLUMNS_MAX || self.data_start() > self.length as usize
        {
            return Err(Damage::new(12, "the number of columns or the length of their names"));
        }
        if self.base.0.checked_add(u64::from(self.rows)).is_none() {
            return Err(Damage::new(32, "the base offset"));
        }
        Ok(())
    }

    /// Returns the boundary on which the buffers begin.
    pub(crate) const fn alignment(&self) -> usize {
        if self.wide { ALIGNMENT } else { NARROW_ALIGNMENT }
    }

    /// Returns where the names begin.
    pub(crate) const fn names_start(&self) -> usize {
        BLOCK_HEADER_LEN + self.columns as usize * COLUMN_ENTRY_LEN
    }

    /// Returns where the names end.
    pub(crate) const fn names_end(&self) -> usize {
        self.names_start() + self.names_len as usize
    }

    /// Returns where the data of the columns begins.
    pub(crate) const fn data_start(&self) -> usize {
        self.names_end().next_multiple_of(ALIGNMENT)
    }

    /// Returns the checksum of the header, the directory and the names in `block`.
    pub(crate) fn checksum(&self, block: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        crc32c::crc32c_append(crc, &block[BLOCK_HEADER_LEN..self.names_end()])
    }
}

/// Writes the checksums into a block that was built in memory.
pub(crate) fn seal(block: &mut [u8]) -> Result<(), Damage> {
    let header = BlockHeader::decode(block)?;
    for column in 0..header.columns as usize {
        let at = BLOCK_HEADER_LEN + column * COLUMN_ENTRY_LEN;
        let entry = ColumnEntry::decode(block, column)?;
        let data = entry.data(&header, at)?;
        let crc = crc32c::crc32c(&block[data]);
        block[at + COLUMN_CRC_AT..at + COLUMN_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = header.checksum(block);
    block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Stands behind all fixed columns in the order of a directory.
pub(crate) const PROPERTY_ORDER: u8 = u8::MAX;
const COLUMN_CRC_AT: usize = 44;
/// In place of a number of distinct values that was not counted.
pub(crate) const NOT_COUNTED: u32 = u32::MAX;

/// One column in the directory of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnEntry {
    /// Where the name lies, counted from the start of the names.
    pub(crate) name_at: u32,
    pub(crate) name_len: u16,
    /// `None`: a property.
    pub(crate) fixed: Option<Fixed>,
    pub(crate) shape: Shape,
    pub(crate) kinds: u16,
    /// Bytes of a code: 1 or 2; 0 where there are none.
    pub(crate) code_width: u8,
    pub(crate) has_validity: bool,
    pub(crate) has_ints: bool,
    pub(crate) has_floats: bool,
    /// Rows without a value.
    pub(crate) missing: u32,
    /// Distinct values.
    pub(crate) distinct: u32,
    /// Of a sparse column its rows, of a hashed one its hashes, of the rest its entries.
    pub(crate) entries: u32,
    /// Bytes of the text of all values.
    pub(crate) text_len: u32,
    /// Of the rest: how many names.
    pub(crate) rest_names: u32,
    /// Of the rest: bytes of the names.
    pub(crate) rest_names_len: u32,
    /// Where its data lies, counted from the start of the block.
    pub(crate) at: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl ColumnEntry {
    pub(crate) fn new(fixed: Option<Fixed>, shape: Shape) -> Self {
        Self {
            name_at: 0,
            name_len: 0,
            fixed,
            shape,
            kinds: 0,
            code_width: 0,
            has_validity: false,
            has_ints: false,
            has_floats: false,
            missing: 0,
            distinct: NOT_COUNTED,
            entries: 0,
            text_len: 0,
            rest_names: 0,
            rest_names_len: 0,
            at: 0,
            len: 0,
            crc: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; COLUMN_ENTRY_LEN] {
        let mut bytes = [0; COLUMN_ENTRY_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u32(self.name_at);
        put.u16(self.name_len);
        put.u8(self.fixed.map_or(0, |fixed| fixed as u8));
        put.u8(self.shape as u8);
        put.u16(self.kinds);
        put.u8(self.code_width);
        put.u8(u8::from(self.has_validity) | u8::from(self.has_ints) << 1 | u8::from(self.has_floats) << 2);
        put.u32(self.missing);
        put.u32(self.distinct);
        put.u32(self.entries);
        put.u32(self.text_len);
        put.u32(self.rest_names);
        put.u32(self.rest_names_len);
        put.u32(self.at);
        put.u32(self.len);
        put.u32(self.crc);
        bytes
    }

    /// Returns what decides the place of column `number` in the directory of `block`, whose header says that
    /// there is one: the number of the fixed column, or [`PROPERTY_ORDER`], and the name.
    pub(crate) fn key<'a>(block: &'a [u8], header: &BlockHeader, number: usize) -> (u8, &'a [u8]) {
        let at = BLOCK_HEADER_LEN + number * COLUMN_ENTRY_LEN;
        let Some(&[a, b, c, d, low, high, fixed]) = block.get(at..).and_then(|bytes| bytes.first_chunk())
        else {
            return (PROPERTY_ORDER, b"");
        };
        if fixed != 0 {
            return (fixed, b"");
        }
        let start = header.names_start().saturating_add(u32::from_le_bytes([a, b, c, d]) as usize);
        let len = usize::from(u16::from_le_bytes([low, high]));
        (PROPERTY_ORDER, block.get(start..start + len).unwrap_or_default())
    }

    /// Returns column `number` of `block`, whose header says that there is one.
    pub(crate) fn decode(block: &[u8], number: usize) -> Result<Self, Damage> {
        let at = BLOCK_HEADER_LEN + number * COLUMN_ENTRY_LEN;
        let mut take = Take { bytes: block, at };
        let (name_at, name_len) = (take.u32()?, take.u16()?);
        let fixed = match take.u8()? {
            0 => None,
            byte => Some(Fixed::from_byte(byte).ok_or(Damage::new(at + 6, "the number of a fixed column"))?),
        };
        let shape = Shape::from_byte(take.u8()?).ok_or(Damage::new(at + 7, "the shape of a column"))?;
        let (kinds, code_width, flags) = (take.u16()?, take.u8()?, take.u8()?);
        if flags > 7 {
            return Err(Damage::new(at + 11, "the flags of a column"));
        }
        Ok(Self {
            name_at,
            name_len,
            fixed,
            shape,
            kinds,
            code_width,
            has_validity: flags & 1 != 0,
            has_ints: flags & 2 != 0,
            has_floats: flags & 4 != 0,
            missing: take.u32()?,
            distinct: take.u32()?,
            entries: take.u32()?,
            text_len: take.u32()?,
            rest_names: take.u32()?,
            rest_names_len: take.u32()?,
            at: take.u32()?,
            len: take.u32()?,
            crc: take.u32()?,
        })
    }

    /// Returns where the data lies, once it is sure that it lies in the block.
    pub(crate) fn data(
        &self,
        header: &BlockHeader,
        entry_at: usize,
    ) -> Result<std::ops::Range<usize>, Damage> {
        let (start, len) = (self.at as usize, self.len as usize);
        let inside = start >= header.data_start() && start + len <= header.length as usize;
        if !inside || !start.is_multiple_of(header.alignment()) {
            return Err(Damage::new(entry_at + 36, "the place of a column"));
        }
        Ok(start..start + len)
    }
}

/// What a file holds. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum FileKind {
    /// Full blocks of one queue, with statistics.
    Segment = 1,
    /// Small blocks of many queues, without statistics.
    Shared = 2,
}

impl FileKind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Segment),
            2 => Some(Self::Shared),
            _ => None,
        }
    }
}

/// The first bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    pub(crate) number: u64,
    /// The data directory's.
    pub(crate) uuid: [u8; 16],
    /// Drawn by the process that wrote the file.
    pub(crate) stamp: u64,
    pub(crate) blocks: u32,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut bytes = [0; FILE_HEADER_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(&FILE_MAGIC);
        put.u16(FILE_VERSION);
        put.u16(FILE_VERSION);
        put.u8(self.kind as u8);
        put.at = 16;
        put.u64(self.number);
        put.slice(&self.uuid);
        put.u64(self.stamp);
        put.u32(self.blocks);
        let crc = crc32c::crc32c(&bytes[..FILE_HEADER_LEN - 4]);
        bytes[FILE_HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(file: &[u8]) -> Result<Self, Damage> {
        let bytes = file.get(..FILE_HEADER_LEN).ok_or(Damage::new(0, "the length of the file"))?;
        if bytes[..8] != FILE_MAGIC {
            return Err(Damage::new(0, "the start of the file"));
        }
        let mut take = Take { bytes, at: 8 };
        let (_version, reader) = (take.u16()?, take.u16()?);
        if reader > FILE_VERSION {
            return Err(Damage::new(10, "the version, which is newer than this program,"));
        }
        let kind = take.u8()?;
        take.at = FILE_HEADER_LEN - 4;
        if take.u32()? != crc32c::crc32c(&bytes[..FILE_HEADER_LEN - 4]) {
            return Err(Damage::new(0, "the checksum of the file header"));
        }
        take.at = 16;
        Ok(Self {
            kind: FileKind::from_byte(kind).ok_or(Damage::new(12, "the kind of the file"))?,
            number: take.u64()?,
            uuid: take.array()?,
            stamp: take.u64()?,
            blocks: take.u32()?,
        })
    }
}

/// One block in the directory of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub(crate) topic: TopicId,
    pub(crate) incarnation: u32,
    pub(crate) queue: QueueId,
    pub(crate) rows: u32,
    pub(crate) base: QueueOffset,
    pub(crate) first_position: LogPosition,
    pub(crate) last_position: LogPosition,
    pub(crate) store_time_min: i64,
    pub(crate) store_time_max: i64,
    /// Where the block begins in the file.
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) columns: u32,
    /// How many columns the blocks before it have in all.
    pub(crate) columns_before: u32,
    /// What the records of the rows take in the log, with padding.
    pub(crate) record_bytes: u64,
}

const ENTRY_RECORD_BYTES_AT: usize = 80;

impl BlockEntry {
    pub(crate) fn end(&self) -> QueueOffset {
        QueueOffset(self.base.0.saturating_add(u64::from(self.rows)))
    }

    pub(crate) fn encode(&self) -> [u8; BLOCK_ENTRY_LEN] {
        let mut bytes = [0; BLOCK_ENTRY_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u32(self.topic.0);
        put.u32(self.incarnation);
        put.u32(self.queue.0);
        put.u32(self.rows);
        put.u64(self.base.0);
        put.u64(self.first_position.0);
        put.u64(self.last_position.0);
        put.i64(self.store_time_min);
        put.i64(self.store_time_max);
        put.u64(self.at);
        put.u32(self.len);
        put.u32(self.columns);
        put.u32(self.columns_before);
        put.at = ENTRY_RECORD_BYTES_AT;
        put.u64(self.record_bytes);
        bytes
    }

    /// Reads the entry that begins at `at`.
    pub(crate) fn decode(file: &[u8], at: usize) -> Result<Self, Damage> {
        let mut take = Take { bytes: file, at };
        Ok(Self {
            topic: TopicId(take.u32()?),
            incarnation: take.u32()?,
            queue: QueueId(take.u32()?),
            rows: take.u32()?,
            base: QueueOffset(take.u64()?),
            first_position: LogPosition(take.u64()?),
            last_position: LogPosition(take.u64()?),
            store_time_min: take.i64()?,
            store_time_max: take.i64()?,
            at: take.u64()?,
            len: take.u32()?,
            columns: take.u32()?,
            columns_before: take.u32()?,
            record_bytes: Take { bytes: file, at: at.saturating_add(ENTRY_RECORD_BYTES_AT) }.u64()?,
        })
    }
}

/// The statistics of one column of a file, in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatisticsEntry {
    /// Where the name lies, counted from the start of the names of the footer.
    pub(crate) name_at: u32,
    pub(crate) name_len: u16,
    /// The system column as [`weir_columns::System::ALL`] counts it, plus 1; 0: a property.
    pub(crate) system: u8,
    /// Where the arrays lie in the file.
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl StatisticsEntry {
    pub(crate) fn encode(&self) -> [u8; STATISTICS_ENTRY_LEN] {
        let mut bytes = [0; STATISTICS_ENTRY_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u32(self.name_at);
        put.u16(self.name_len);
        put.u8(self.system);
        put.at = 8;
        put.u64(self.at);
        put.u32(self.len);
        put.u32(self.crc);
        bytes
    }

    /// Reads the entry that begins at `at`.
    pub(crate) fn decode(file: &[u8], at: usize) -> Result<Self, Damage> {
        let mut take = Take { bytes: file, at };
        let (name_at, name_len, system) = (take.u32()?, take.u16()?, take.u8()?);
        take.at = at + 8;
        Ok(Self { name_at, name_len, system, at: take.u64()?, len: take.u32()?, crc: take.u32()? })
    }
}

/// The last bytes of a file: where its footer lies.
///
/// The footer is the directory of blocks, the directory of statistics and the names, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) footer_at: u64,
    pub(crate) blocks: u32,
    pub(crate) statistics: u32,
    pub(crate) names_len: u32,
    /// Some block has properties whose names are not in the footer.
    pub(crate) more_names: bool,
    pub(crate) columns: u32,
    /// Over the footer.
    pub(crate) footer_crc: u32,
}

impl Tail {
    pub(crate) fn encode(&self) -> [u8; TAIL_LEN] {
        let mut bytes = [0; TAIL_LEN];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u64(self.footer_at);
        put.u32(self.blocks);
        put.u32(self.statistics);
        put.u32(self.names_len);
        put.u32(u32::from(self.more_names));
        put.u32(self.columns);
        put.u32(self.footer_crc);
        let crc = crc32c::crc32c(&bytes[..52]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes[56..].copy_from_slice(&TAIL_MAGIC);
        bytes
    }

    /// Reads the tail of `file` and checks that the footer fits between header and tail.
    pub(crate) fn decode(file: &[u8]) -> Result<Self, Damage> {
        let Some(at) = file.len().checked_sub(TAIL_LEN).filter(|at| *at >= FILE_HEADER_LEN) else {
            return Err(Damage::new(0, "the length of the file"));
        };
        let bytes = &file[at..];
        if bytes[56..] != TAIL_MAGIC {
            return Err(Damage::new(at + 56, "the end of the file"));
        }
        if (Take { bytes, at: 52 }).u32()? != crc32c::crc32c(&bytes[..52]) {
            return Err(Damage::new(at, "the checksum of the tail"));
        }
        let mut take = Take { bytes, at: 0 };
        let tail = Self {
            footer_at: take.u64()?,
            blocks: take.u32()?,
            statistics: take.u32()?,
            names_len: take.u32()?,
            more_names: take.u32()? != 0,
            columns: take.u32()?,
            footer_crc: take.u32()?,
        };
        let footer_at = usize::try_from(tail.footer_at).unwrap_or(usize::MAX);
        if footer_at < FILE_HEADER_LEN || footer_at.checked_add(tail.footer_len()) != Some(at) {
            return Err(Damage::new(at, "the place of the footer"));
        }
        Ok(tail)
    }

    pub(crate) const fn footer_len(&self) -> usize {
        self.blocks as usize * BLOCK_ENTRY_LEN
            + self.statistics as usize * STATISTICS_ENTRY_LEN
            + self.names_len as usize
    }

    pub(crate) const fn block_entry_at(&self, number: usize) -> usize {
        self.footer_at as usize + number * BLOCK_ENTRY_LEN
    }

    pub(crate) const fn statistics_entry_at(&self, number: usize) -> usize {
        self.block_entry_at(self.blocks as usize) + number * STATISTICS_ENTRY_LEN
    }

    pub(crate) const fn names_at(&self) -> usize {
        self.statistics_entry_at(self.statistics as usize)
    }
}

/// Writes numbers one after another. The caller knows that they fit.
struct Put<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn slice(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u8(&mut self, value: u8) {
        self.slice(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.slice(&value.to_le_bytes());
    }
}

/// Reads numbers one after another.
pub(crate) struct Take<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl Take<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let end = self.at.checked_add(N);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).and_then(|b| b.first_chunk());
        let bytes = *bytes.ok_or(Damage::new(self.at, "the length"))?;
        self.at += N;
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Damage> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }
}
