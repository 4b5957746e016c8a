//! Puts the columns of a block together into its bytes.

use arrow_buffer::{ArrowNativeType, Buffer, MutableBuffer, ToByteSlice};
use weir_columns::{Kind, KindSet, hash64};

use crate::{
    format::{
        block::{
            ALIGNMENT, BLOCK_HEADER_LEN, BlockHeader, COLUMN_ENTRY_LEN, ColumnEntry, Fixed, NARROW_ALIGNMENT,
            Shape, WIDE_ROWS,
        },
        record::padded,
    },
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// Which queue a block belongs to, and where in it the block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) topic: TopicId,
    pub(crate) incarnation: u32,
    pub(crate) queue: QueueId,
    pub(crate) base: QueueOffset,
}

/// The bytes of a block in the making. Columns are written one after another, in the order of the directory.
///
/// Kept by the builder, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub(crate) struct ImageWriter {
    body: Vec<u8>,
    names: Vec<u8>,
    entries: Vec<ColumnEntry>,
    shape: Vec<u8>,
    alignment: usize,
    rows: usize,
}

/// Distinct values, or one value a row, as the builder has collected them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueParts<'a> {
    pub(crate) kinds: &'a [u8],
    /// Where the text of each value ends; the first begins at 0.
    pub(crate) ends: &'a [u32],
    pub(crate) text: &'a [u8],
    /// The integer, or the bits of the float, of each value that is a number.
    pub(crate) bits: &'a [u64],
}

impl ImageWriter {
    /// Begins a block of `rows` rows.
    pub(crate) fn begin(&mut self, rows: usize) {
        self.body.clear();
        self.names.clear();
        self.entries.clear();
        self.shape.clear();
        self.rows = rows;
        self.alignment = if rows >= WIDE_ROWS { ALIGNMENT } else { NARROW_ALIGNMENT };
    }

    /// Begins a column. What comes next, up to [`end`](Self::end), is its data.
    pub(crate) fn column(&mut self, fixed: Option<Fixed>, name: &[u8], shape: Shape) -> &mut ColumnEntry {
        self.align();
        let mut entry = ColumnEntry::new(fixed, shape);
        entry.name_at = self.names.len() as u32;
        entry.name_len = u16::try_from(name.len()).expect("the log bounds names to 64 KiB");
        entry.at = self.body.len() as u32;
        self.names.extend_from_slice(name);
        self.entries.push(entry);
        self.entry()
    }

    /// Returns the entry of the column that was begun last.
    pub(crate) fn entry(&mut self) -> &mut ColumnEntry {
        self.entries.last_mut().expect("a column was begun")
    }

    /// Ends the column that was begun last.
    pub(crate) fn end(&mut self) {
        let len = self.body.len() as u32;
        let entry = self.entries.last_mut().expect("a column was begun");
        entry.len = len - entry.at;
        let name = entry.name_at as usize..entry.name_at as usize + usize::from(entry.name_len);
        self.shape.extend_from_slice(&[entry.fixed.map_or(0, |fixed| fixed as u8), entry.shape as u8]);
        self.shape.extend_from_slice(&entry.kinds.to_le_bytes());
        self.shape.extend_from_slice(&entry.name_len.to_le_bytes());
        self.shape.extend_from_slice(&self.names[name]);
    }

    /// Adds what else decides how expressions bind to this block.
    pub(crate) fn shape(&mut self, name: &[u8], kinds: KindSet) {
        self.shape.extend_from_slice(&kinds.0.to_le_bytes());
        self.shape.extend_from_slice(&(name.len() as u32).to_le_bytes());
        self.shape.extend_from_slice(name);
    }

    fn align(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(self.alignment), 0);
    }

    /// Adds a buffer to the column.
    pub(crate) fn buffer<T: ArrowNativeType>(&mut self, values: &[T]) {
        self.align();
        self.body.extend_from_slice(values.to_byte_slice());
    }

    /// Adds a buffer of `count` numbers to the column.
    pub(crate) fn numbers<T: ArrowNativeType>(&mut self, values: impl Iterator<Item = T>) {
        self.align();
        for value in values {
            self.body.extend_from_slice([value].to_byte_slice());
        }
    }

    /// Adds a buffer of one bit for each of `count` things: those set that `set` names.
    pub(crate) fn bits(&mut self, count: usize, set: impl Iterator<Item = usize>) {
        self.align();
        let start = self.body.len();
        self.body.resize(start + count.div_ceil(8), 0);
        for bit in set {
            self.body[start + bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Adds codes of the least width to the column.
    pub(crate) fn codes(&mut self, distinct: usize, codes: &[u16]) {
        if distinct <= 1 << 8 {
            self.align();
            self.body.extend(codes.iter().map(|code| *code as u8));
            self.entry().code_width = 1;
        } else {
            self.buffer(codes);
            self.entry().code_width = 2;
        }
    }

    /// Adds texts to the column: offsets and bytes.
    pub(crate) fn strings(&mut self, ends: &[u32], text: &[u8]) {
        self.align();
        self.body.extend_from_slice(&[0; 4]);
        self.body.extend_from_slice(ends.to_byte_slice());
        self.buffer(text);
    }

    /// Adds values to the column.
    pub(crate) fn values(&mut self, values: ValueParts<'_>) {
        self.buffer(values.kinds);
        self.strings(values.ends, values.text);
        let kinds: KindSet = values.kinds.iter().filter_map(|kind| Kind::from_byte(*kind)).collect();
        let has =
            |test: fn(Kind) -> bool| Kind::ALL.into_iter().any(|kind| kinds.contains(kind) && test(kind));
        let (has_ints, has_floats) = (has(Kind::has_int), has(Kind::has_float));
        if has_ints {
            self.numbers_of(values, Kind::has_int);
        }
        if has_floats {
            self.numbers_of(values, Kind::has_float);
        }
        let entry = self.entry();
        entry.text_len = values.text.len() as u32;
        (entry.has_ints, entry.has_floats) = (has_ints, has_floats);
    }

    fn numbers_of(&mut self, values: ValueParts<'_>, wanted: fn(Kind) -> bool) {
        let is_wanted = |kind: &u8| Kind::from_byte(*kind).is_some_and(wanted);
        let count = values.kinds.len();
        self.bits(count, (0..count).filter(|index| is_wanted(&values.kinds[*index])));
        let number = |(kind, bits): (&u8, &u64)| if is_wanted(kind) { *bits } else { 0 };
        self.numbers(values.kinds.iter().zip(values.bits).map(number));
    }

    /// Returns the bytes of the block.
    pub(crate) fn finish(
        &mut self,
        place: Place,
        positions: &[u64],
        store_times: &[i64],
        sizes: &[u32],
    ) -> Buffer {
        self.align();
        let mut header = BlockHeader {
            wide: self.alignment == ALIGNMENT,
            rows: self.rows as u32,
            columns: self.entries.len() as u32,
            topic: place.topic,
            incarnation: place.incarnation,
            queue: place.queue,
            names_len: self.names.len() as u32,
            base: place.base,
            first_position: LogPosition(positions.first().copied().unwrap_or_default()),
            last_position: LogPosition(positions.last().copied().unwrap_or_default()),
            store_time_min: store_times.iter().copied().min().unwrap_or_default(),
            store_time_max: store_times.iter().copied().max().unwrap_or_default(),
            shape: hash64(&self.shape),
            length: 0,
            record_bytes: sizes.iter().map(|size| padded(u64::from(*size))).sum(),
            crc: 0,
        };
        let data_start = header.data_start();
        let length = (data_start + self.body.len()).next_multiple_of(ALIGNMENT);
        header.length = u32::try_from(length).expect("a block is bounded far below 4 GiB");
        let mut bytes = MutableBuffer::new(length);
        bytes.extend_from_slice(&header.encode());
        for entry in &mut self.entries {
            entry.at += data_start as u32;
            bytes.extend_from_slice(&entry.encode());
        }
        debug_assert_eq!(bytes.len(), BLOCK_HEADER_LEN + self.entries.len() * COLUMN_ENTRY_LEN);
        bytes.extend_from_slice(&self.names);
        bytes.resize(data_start, 0);
        bytes.extend_from_slice(&self.body);
        bytes.resize(length, 0);
        bytes.into()
    }
}
