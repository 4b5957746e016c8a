//! Bytes of one block → Arrow arrays, in place.
//!
//! The bytes of a column are checked once (checksum and structure), at its first use in this process; from
//! then on arrays are made without looking at them. An [`Image`] owns both the bytes, which cannot change,
//! and the marks of what was checked, so that nothing outside this file can make the promise untrue.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow_array::{
    Array, Float64Array, Int64Array, StringArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use weir_columns::{Column, Kind, Values};

use crate::{
    format::block::{
        ALIGNMENT, BLOCK_HEADER_LEN, BlockHeader, COLUMN_ENTRY_LEN, ColumnEntry, Damage, Fixed, NOT_COUNTED,
        PROPERTY_ORDER, Shape,
    },
    raw::map::will_need,
};

/// Which parts of a file have been checked in this process; one bit for each.
#[derive(Debug)]
pub(crate) struct Checks(Box<[AtomicU64]>);

impl Checks {
    pub(crate) fn new(columns: usize) -> Self {
        Self((0..columns.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn is_set(&self, bit: usize) -> bool {
        self.0.get(bit / 64).is_some_and(|word| word.load(Ordering::Acquire) & (1 << (bit % 64)) != 0)
    }

    /// Runs a check unless it has passed before.
    pub(crate) fn once(&self, bit: usize, check: impl FnOnce() -> Result<(), Damage>) -> Result<(), Damage> {
        if !self.is_set(bit) {
            check()?;
            self.set(bit);
        }
        Ok(())
    }

    fn set(&self, bit: usize) {
        if let Some(word) = self.0.get(bit / 64) {
            word.fetch_or(1 << (bit % 64), Ordering::Release);
        }
    }
}

/// Where the bytes of a block come from.
#[derive(Clone, Debug)]
enum Origin {
    /// Built by this process: [`ImageWriter`](crate::queue::image::ImageWriter) keeps the structure.
    Built,
    /// Out of a file: bit `first + 1 + n` of `checks` says that column `n` was checked, bit `first` that
    /// header, directory and names were.
    File { checks: Arc<Checks>, first: usize },
}

/// The bytes of one block, with its header.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    bytes: Buffer,
    header: BlockHeader,
    origin: Origin,
}

/// The properties of a block that have no column of their own, ordered by name, then row.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    /// Ascending.
    pub(crate) names: StringArray,
    /// Where the entries of each name end.
    pub(crate) ends: ScalarBuffer<u32>,
    /// The row of each entry, ascending within a name.
    pub(crate) rows: UInt16Array,
    /// The value of each entry.
    pub(crate) values: Values,
}

impl Rest {
    /// Returns which entries belong to name `number`.
    pub(crate) fn entries(&self, number: usize) -> std::ops::Range<usize> {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        start as usize..self.ends[number] as usize
    }
}

impl Image {
    /// Takes the bytes of a block that this process has built.
    pub(crate) fn built(bytes: Buffer) -> Result<Self, Damage> {
        let header = decode_header(&bytes)?;
        Ok(Self { bytes, header, origin: Origin::Built })
    }

    /// Takes the bytes of a block that lie in a file, whose marks begin at bit `first` of `checks`.
    ///
    /// A bit means these very bytes: the caller gives each block of a file bits of its own.
    pub(crate) fn open(bytes: Buffer, checks: &Arc<Checks>, first: usize) -> Result<Self, Damage> {
        let header = decode_header(&bytes)?;
        let image = Self { bytes, header, origin: Origin::File { checks: Arc::clone(checks), first } };
        if !checks.is_set(first) {
            image.check_directory()?;
            checks.set(first);
        }
        Ok(image)
    }

    pub(crate) fn header(&self) -> &BlockHeader {
        &self.header
    }

    pub(crate) fn bytes(&self) -> &Buffer {
        &self.bytes
    }

    /// Asks the system to read a column that may not be in memory. Returns whether there is one.
    pub(crate) fn will_need(&self, fixed: Option<Fixed>, name: &[u8]) -> bool {
        if matches!(self.origin, Origin::Built) {
            return true;
        }
        let Ok(Some((number, entry))) = self.find(fixed, name) else { return false };
        let at = BLOCK_HEADER_LEN + number * COLUMN_ENTRY_LEN;
        if let Ok(data) = entry.data(&self.header, at) {
            will_need(&self.bytes[data]);
        }
        true
    }

    fn rows(&self) -> usize {
        self.header.rows as usize
    }

    fn check_directory(&self) -> Result<(), Damage> {
        if self.header.checksum(&self.bytes) != self.header.crc {
            return Err(Damage::new(0, "the checksum of a block's directory"));
        }
        let mut before: Option<(Option<Fixed>, Vec<u8>)> = None;
        for number in 0..self.header.columns as usize {
            let at = BLOCK_HEADER_LEN + number * COLUMN_ENTRY_LEN;
            let entry = ColumnEntry::decode(&self.bytes, number)?;
            entry.data(&self.header, at)?;
            let name = self.name_of(&entry).filter(|name| str::from_utf8(name).is_ok());
            let name = name.ok_or(Damage::new(at, "the name of a column"))?;
            let key = (entry.fixed, name.to_owned());
            if before.is_some_and(|before| order(&before) >= order(&key)) {
                return Err(Damage::new(at, "the order of columns"));
            }
            before = Some(key);
        }
        Ok(())
    }

    /// Returns column `number` of the directory.
    pub(crate) fn entry(&self, number: usize) -> Result<ColumnEntry, Damage> {
        ColumnEntry::decode(&self.bytes, number)
    }

    /// Returns the name of a property's column as bytes.
    pub(crate) fn name_of(&self, entry: &ColumnEntry) -> Option<&[u8]> {
        let names = &self.bytes[self.header.names_start()..self.header.names_end()];
        let start = entry.name_at as usize;
        names.get(start..start + usize::from(entry.name_len))
    }

    /// Returns the number and the entry of a fixed column or of a property, if the block has it.
    pub(crate) fn find(
        &self,
        fixed: Option<Fixed>,
        name: &[u8],
    ) -> Result<Option<(usize, ColumnEntry)>, Damage> {
        let wanted = (fixed_order(fixed), name);
        let (mut low, mut high) = (0, self.header.columns as usize);
        while low < high {
            let middle = usize::midpoint(low, high);
            match ColumnEntry::key(&self.bytes, &self.header, middle).cmp(&wanted) {
                std::cmp::Ordering::Equal => return Ok(Some((middle, self.entry(middle)?))),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Returns where the data of a column begins.
    fn parts<'a>(&'a self, number: usize, entry: &'a ColumnEntry) -> Result<Parts<'a>, Damage> {
        let at = BLOCK_HEADER_LEN + number * COLUMN_ENTRY_LEN;
        let data = entry.data(&self.header, at)?;
        let check = match &self.origin {
            Origin::Built => cfg!(debug_assertions),
            Origin::File { checks, first } => !checks.is_set(first + 1 + number),
        };
        if check && matches!(self.origin, Origin::File { .. }) {
            // The checks read all of it, and who uses it for the first time may find it on the disk.
            will_need(&self.bytes[data.clone()]);
        }
        if check
            && matches!(self.origin, Origin::File { .. })
            && crc32c::crc32c(&self.bytes[data.clone()]) != entry.crc
        {
            return Err(Damage::new(data.start, "the checksum of a column"));
        }
        Ok(Parts {
            bytes: &self.bytes,
            at: data.start,
            end: data.end,
            alignment: self.header.alignment(),
            check,
        })
    }

    fn checked(&self, number: usize, parts: &Parts<'_>) {
        if let (true, Origin::File { checks, first }) = (parts.check, &self.origin) {
            checks.set(first + 1 + number);
        }
    }

    /// Returns a column whose shape filters know.
    pub(crate) fn column(&self, number: usize, entry: &ColumnEntry) -> Result<Column, Damage> {
        let rows = self.rows();
        let mut parts = self.parts(number, entry)?;
        let column = match entry.shape {
            Shape::Dictionary => {
                let nulls = parts.validity(entry, rows)?;
                let codes = parts.codes(rows, entry.code_width)?;
                if parts.check {
                    let valid = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                    parts.expect(
                        codes
                            .iter()
                            .enumerate()
                            .all(|(row, code)| u32::from(*code) < entry.distinct || !valid(row)),
                        "a code of a dictionary",
                    )?;
                }
                let values = Arc::new(parts.values(entry, entry.distinct as usize)?);
                Column::Dictionary { codes: UInt16Array::new(codes, nulls), values }
            }
            Shape::Sparse => {
                let present = entry.entries as usize;
                let row_numbers: ScalarBuffer<u16> = parts.scalars(present)?;
                let codes = parts.codes(present, entry.code_width)?;
                if parts.check {
                    parts.expect(ascending(&row_numbers, rows), "a row of a sparse column")?;
                    parts.expect(present + entry.missing as usize == rows, "rows of a sparse column")?;
                    parts.expect(
                        codes.iter().all(|code| u32::from(*code) < entry.distinct),
                        "a code of a sparse column",
                    )?;
                }
                let values = Arc::new(parts.values(entry, entry.distinct as usize)?);
                Column::Sparse {
                    rows: UInt16Array::new(row_numbers, None),
                    codes: UInt16Array::new(codes, None),
                    values,
                }
            }
            Shape::Plain => {
                let present = parts.validity(entry, rows)?;
                Column::Plain { values: Arc::new(parts.values(entry, rows)?), present }
            }
            Shape::Int => {
                let nulls = parts.validity(entry, rows)?;
                Column::Int(Int64Array::new(parts.scalars(rows)?, nulls))
            }
            Shape::Hashed => {
                let ends: ScalarBuffer<u32> = parts.scalars(rows)?;
                let hashes = parts.scalars(entry.entries as usize)?;
                if parts.check {
                    let rising = ends.windows(2).all(|pair| pair[0] <= pair[1]);
                    parts.expect(rising && ends.last() == Some(&entry.entries), "an end of hashes")?;
                }
                Column::Hashed {
                    row_ends: UInt32Array::new(ends, None),
                    hashes: UInt32Array::new(hashes, None),
                }
            }
            Shape::Long | Shape::Word | Shape::Bits | Shape::Rest => {
                return Err(Damage::new(parts.at, "the shape of a column"));
            }
        };
        parts.finish()?;
        self.checked(number, &parts);
        Ok(column)
    }

    /// Returns a column of one u64 a row; that of record positions never falls.
    pub(crate) fn longs(&self, number: usize, entry: &ColumnEntry) -> Result<UInt64Array, Damage> {
        let mut parts = self.parts(number, entry)?;
        let values: ScalarBuffer<u64> = parts.expect_shape(entry, Shape::Long)?.scalars(self.rows())?;
        if parts.check && entry.fixed == Some(Fixed::Position) {
            parts.expect(values.windows(2).all(|pair| pair[0] <= pair[1]), "the order of positions")?;
        }
        parts.finish()?;
        self.checked(number, &parts);
        Ok(UInt64Array::new(values, None))
    }

    /// Returns a column of one u32 a row.
    pub(crate) fn words(&self, number: usize, entry: &ColumnEntry) -> Result<UInt32Array, Damage> {
        let mut parts = self.parts(number, entry)?;
        let values = parts.expect_shape(entry, Shape::Word)?.scalars(self.rows())?;
        parts.finish()?;
        self.checked(number, &parts);
        Ok(UInt32Array::new(values, None))
    }

    /// Returns a column of one bit a row.
    pub(crate) fn bits(&self, number: usize, entry: &ColumnEntry) -> Result<BooleanBuffer, Damage> {
        let mut parts = self.parts(number, entry)?;
        let bits = parts.expect_shape(entry, Shape::Bits)?.bits(self.rows())?;
        parts.finish()?;
        self.checked(number, &parts);
        Ok(bits)
    }

    /// Returns the properties without a column of their own.
    pub(crate) fn rest(&self, number: usize, entry: &ColumnEntry) -> Result<Rest, Damage> {
        let mut parts = self.parts(number, entry)?;
        parts.expect_shape(entry, Shape::Rest)?;
        let count = entry.rest_names as usize;
        let names = parts.strings(count, entry.rest_names_len as usize)?;
        let ends: ScalarBuffer<u32> = parts.scalars(count)?;
        let rows: ScalarBuffer<u16> = parts.scalars(entry.entries as usize)?;
        let values = parts.values(entry, entry.entries as usize)?;
        let rest = Rest { names, ends, rows: UInt16Array::new(rows, None), values };
        if parts.check {
            parts.expect(count > 0 && rest.ends[0] > 0, "the names of the rest")?;
            parts.expect(rest.ends.windows(2).all(|pair| pair[0] < pair[1]), "the ends of the rest")?;
            parts.expect(rest.ends.last() == Some(&entry.entries), "the end of the rest")?;
            let sorted = (1..count).all(|n| rest.names.value(n - 1) < rest.names.value(n));
            parts.expect(sorted, "the order of the names of the rest")?;
            let rows = (0..count).all(|n| ascending(&rest.rows.values()[rest.entries(n)], self.rows()));
            parts.expect(rows, "the rows of the rest")?;
        }
        parts.finish()?;
        self.checked(number, &parts);
        Ok(rest)
    }
}

fn decode_header(block: &Buffer) -> Result<BlockHeader, Damage> {
    if !block.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return Err(Damage::new(0, "the place of a block"));
    }
    BlockHeader::decode(block)
}

/// Fixed columns come first, in the order of their numbers, then properties by name.
fn fixed_order(fixed: Option<Fixed>) -> u8 {
    fixed.map_or(PROPERTY_ORDER, |fixed| fixed as u8)
}

fn order(key: &(Option<Fixed>, Vec<u8>)) -> (u8, &[u8]) {
    (fixed_order(key.0), &key.1)
}

fn ascending(rows: &[u16], end: usize) -> bool {
    rows.windows(2).all(|pair| pair[0] < pair[1]) && rows.last().is_none_or(|last| usize::from(*last) < end)
}

/// The buffers of a column, taken one after another.
pub(crate) struct Parts<'a> {
    bytes: &'a Buffer,
    at: usize,
    end: usize,
    alignment: usize,
    /// Whether the bytes are yet to be checked.
    check: bool,
}

impl<'a> Parts<'a> {
    /// Takes buffers from bytes that are checked each time.
    pub(crate) fn unchecked_yet(bytes: &'a Buffer, range: std::ops::Range<usize>, alignment: usize) -> Self {
        Self { bytes, at: range.start, end: range.end, alignment, check: true }
    }

    pub(crate) fn expect(&self, holds: bool, what: &'static str) -> Result<(), Damage> {
        if holds { Ok(()) } else { Err(Damage::new(self.at, what)) }
    }

    fn expect_shape(&mut self, entry: &ColumnEntry, shape: Shape) -> Result<&mut Self, Damage> {
        self.expect(entry.shape == shape, "the shape of a column")?;
        Ok(self)
    }

    /// Takes a buffer of `len` bytes, and the padding after it.
    pub(crate) fn buffer(&mut self, len: usize) -> Result<Buffer, Damage> {
        if len > self.end - self.at {
            return Err(Damage::new(self.at, "a buffer that does not fit its column"));
        }
        let buffer = self.bytes.slice_with_length(self.at, len);
        self.at = (self.at + len).next_multiple_of(self.alignment).min(self.end);
        Ok(buffer)
    }

    pub(crate) fn scalars<T: ArrowNativeType>(&mut self, count: usize) -> Result<ScalarBuffer<T>, Damage> {
        let len = count.checked_mul(size_of::<T>()).ok_or(Damage::new(self.at, "a count"))?;
        Ok(ScalarBuffer::new(self.buffer(len)?, 0, count))
    }

    pub(crate) fn bits(&mut self, count: usize) -> Result<BooleanBuffer, Damage> {
        Ok(BooleanBuffer::new(self.buffer(count.div_ceil(8))?, 0, count))
    }

    fn validity(&mut self, entry: &ColumnEntry, rows: usize) -> Result<Option<NullBuffer>, Damage> {
        if !entry.has_validity {
            self.expect(entry.missing == 0, "missing rows without validity")?;
            return Ok(None);
        }
        let nulls = NullBuffer::new(self.bits(rows)?);
        self.expect(nulls.null_count() == entry.missing as usize, "the number of missing rows")?;
        Ok(Some(nulls))
    }

    fn codes(&mut self, count: usize, width: u8) -> Result<ScalarBuffer<u16>, Damage> {
        match width {
            1 => Ok(self.buffer(count)?.iter().map(|code| u16::from(*code)).collect()),
            2 => self.scalars(count),
            _ => Err(Damage::new(self.at, "the width of codes")),
        }
    }

    /// Takes texts; the length of all of them is `len`.
    pub(crate) fn strings(&mut self, count: usize, len: usize) -> Result<StringArray, Damage> {
        let offsets: ScalarBuffer<i32> = self.scalars(count + 1)?;
        let text = self.buffer(len)?;
        if self.check {
            self.check_strings(&offsets, &text)?;
        }
        // SAFETY: `check_strings` has seen that these bytes are UTF-8, that the offsets begin at 0, never
        // fall, end at the end of the text and lie between characters: just now, or, if `check` is not
        // set, when the mark of this column was set or when this process built the block out of `str`s.
        #[expect(unsafe_code, reason = "checked once per process, not once per use")]
        let array = unsafe { StringArray::new_unchecked(OffsetBuffer::new_unchecked(offsets), text, None) };
        Ok(array)
    }

    fn check_strings(&self, offsets: &[i32], text: &[u8]) -> Result<(), Damage> {
        let text = str::from_utf8(text).map_err(|_| Damage::new(self.at, "a text is not UTF-8"))?;
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        self.expect(rising && offsets.first() == Some(&0), "the order of texts")?;
        self.expect(offsets.last().is_some_and(|last| *last as usize == text.len()), "the end of texts")?;
        self.expect(
            offsets.iter().all(|at| text.is_char_boundary(*at as usize)),
            "a text that begins in a character",
        )
    }

    /// Takes `count` values.
    fn values(&mut self, entry: &ColumnEntry, count: usize) -> Result<Values, Damage> {
        self.expect(
            entry.distinct != NOT_COUNTED || entry.shape == Shape::Plain || entry.shape == Shape::Rest,
            "the number of values",
        )?;
        let kinds: ScalarBuffer<u8> = self.scalars(count)?;
        let text = self.strings(count, entry.text_len as usize)?;
        let ints = if entry.has_ints {
            let valid = self.bits(count)?;
            Some(Int64Array::new(self.scalars(count)?, Some(NullBuffer::new(valid))))
        } else {
            None
        };
        let floats = if entry.has_floats {
            let valid = self.bits(count)?;
            Some(Float64Array::new(self.scalars(count)?, Some(NullBuffer::new(valid))))
        } else {
            None
        };
        if self.check {
            let is_valid = |index: usize, kind: Kind| {
                ints.as_ref().map_or(!kind.has_int(), |ints| ints.is_valid(index) == kind.has_int())
                    && floats
                        .as_ref()
                        .map_or(!kind.has_float(), |floats| floats.is_valid(index) == kind.has_float())
            };
            let valid = kinds
                .iter()
                .enumerate()
                .all(|(index, kind)| Kind::from_byte(*kind).is_some_and(|kind| is_valid(index, kind)));
            self.expect(valid, "the kind of a value")?;
        }
        Ok(Values { kinds: UInt8Array::new(kinds, None), text, ints, floats })
    }

    pub(crate) fn finish(&self) -> Result<(), Damage> {
        self.expect(self.at == self.end, "the length of a column")
    }
}
