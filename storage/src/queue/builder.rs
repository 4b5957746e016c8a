//! Rows in the order of the log become the columns of one block.
//!
//! A column keeps only the rows that have a value, so that a row costs nothing for the columns it lacks.
//! Values are made distinct as they come; the shape of a column is chosen when the block is complete.

use std::hash::BuildHasher;

use arrow_buffer::Buffer;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use weir_columns::{Kind, KindSet, Value, classify, hash32};

use crate::{
    format::{
        block::{BLOCK_BYTES, BLOCK_ROWS, COLUMNS_MAX, Fixed, Shape, WIDE_ROWS},
        record::ValueRef,
    },
    queue::image::{ImageWriter, Place, ValueParts},
};

/// Up to so many distinct values are searched one by one, which is faster than a table for small runs.
const LINEAR_MAX: usize = 16;
/// A builder keeps the buffers of so many columns for the next block.
const KEPT_COLUMNS: usize = 256;
/// A column keeps text buffers up to this size for the next block.
const KEPT_BYTES: usize = 1 << 20;

/// What every row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowFacts {
    pub(crate) position: u64,
    pub(crate) store_time_ms: i64,
    pub(crate) born_time_ms: Option<i64>,
    /// Bytes of the whole record.
    pub(crate) size: u32,
    /// Bytes of the body as stored.
    pub(crate) body_size: u32,
    /// Where the body lies, if not in the record itself.
    pub(crate) body_position: Option<u64>,
}

/// A value on its way into a column, with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownValue<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// The integer, or the bits of the float; of a boolean 0 or 1; otherwise 0.
    pub(crate) bits: u64,
}

/// Collects the rows of one block. Kept between blocks, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub(crate) struct RunBuilder {
    hasher: RandomState,
    writer: ImageWriter,
    scratch: Scratch,
    rows: usize,
    bytes: usize,
    positions: Vec<u64>,
    store_times: Vec<i64>,
    born_times: Vec<i64>,
    born_missing: Vec<u16>,
    sizes: Vec<u32>,
    body_sizes: Vec<u32>,
    body_positions: Vec<u64>,
    any_body_position: bool,
    lost: Vec<u16>,
    message_type: ColumnBuilder,
    message_group: ColumnBuilder,
    tag: ColumnBuilder,
    keys: HashesBuilder,
    message_id: HashesBuilder,
    columns: Vec<ColumnBuilder>,
    /// How many of `columns` belong to this block.
    used: usize,
    by_name: HashTable<u32>,
    /// Where the next property is expected: rows mostly have the same properties in the same order.
    expected: usize,
    rest: RestBuilder,
}

impl RunBuilder {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns whether a block of these rows is full.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= BLOCK_ROWS || self.bytes >= BLOCK_BYTES
    }

    fn row(&self) -> u16 {
        debug_assert!(self.rows > 0 && self.rows <= BLOCK_ROWS, "a row was begun, and blocks are bounded");
        (self.rows - 1) as u16
    }

    /// Begins a row. What is added next, up to [`end_row`](Self::end_row), belongs to it.
    pub(crate) fn begin_row(&mut self, facts: RowFacts) {
        self.rows += 1;
        self.bytes += 40;
        self.expected = 0;
        self.positions.push(facts.position);
        self.store_times.push(facts.store_time_ms);
        if facts.born_time_ms.is_none() {
            self.born_missing.push(self.row());
        }
        self.born_times.push(facts.born_time_ms.unwrap_or_default());
        self.sizes.push(facts.size);
        self.body_sizes.push(facts.body_size);
        self.body_positions.push(facts.body_position.unwrap_or_default());
        self.any_body_position |= facts.body_position.is_some();
    }

    pub(crate) fn end_row(&mut self) {
        self.keys.end_row();
        self.message_id.end_row();
    }

    /// Adds a row whose record is lost.
    pub(crate) fn lost_row(&mut self, position: u64, store_time_ms: i64) {
        self.begin_row(RowFacts {
            position,
            store_time_ms,
            born_time_ms: None,
            size: 0,
            body_size: 0,
            body_position: None,
        });
        self.lost.push(self.row());
        self.end_row();
    }

    pub(crate) fn message_type(&mut self, name: &str) {
        let row = self.row();
        self.message_type.add_str(&self.hasher, row, name);
    }

    pub(crate) fn message_group(&mut self, group: &str) {
        let row = self.row();
        self.bytes += self.message_group.add_str(&self.hasher, row, group);
    }

    pub(crate) fn tag(&mut self, tag: &str) {
        let row = self.row();
        self.bytes += self.tag.add_str(&self.hasher, row, tag);
    }

    pub(crate) fn key(&mut self, key: &str) {
        self.bytes += self.keys.add(key);
    }

    pub(crate) fn message_id(&mut self, id: &str) {
        self.bytes += self.message_id.add(id);
    }

    /// Adds a property of the row. `admit` says whether the topic may have another column of this name.
    pub(crate) fn property(&mut self, name: &str, value: ValueRef<'_>, admit: &mut dyn FnMut(&str) -> bool) {
        let row = self.row();
        self.bytes += match self.column_of(name, admit) {
            Some(column) => self.columns[column].add(&self.hasher, row, value),
            None => self.rest.add(name, row, known(value, &mut String::new())),
        };
    }

    /// Returns the column of this name, or `None` if the property goes into the rest.
    fn column_of(&mut self, name: &str, admit: &mut dyn FnMut(&str) -> bool) -> Option<usize> {
        let expected = self.expected;
        if expected < self.used && self.columns[expected].name == name {
            self.expected += 1;
            return Some(expected);
        }
        let found = self.find_column(name).or_else(|| self.new_column(name, admit));
        if let Some(column) = found {
            self.expected = column + 1;
        }
        found
    }

    fn find_column(&self, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.by_name
            .find(hash, |column| self.columns[*column as usize].name == name)
            .map(|column| *column as usize)
    }

    fn new_column(&mut self, name: &str, admit: &mut dyn FnMut(&str) -> bool) -> Option<usize> {
        if self.used >= COLUMNS_MAX || self.rest.has(name) || !admit(name) {
            return None;
        }
        let column = self.used;
        if column == self.columns.len() {
            self.columns.push(ColumnBuilder::default());
        }
        self.columns[column].name.push_str(name);
        self.used += 1;
        self.bytes += 128;
        let (columns, hasher) = (&self.columns, &self.hasher);
        let rehash = |column: &u32| hasher.hash_one(columns[*column as usize].name.as_str());
        self.by_name.insert_unique(hasher.hash_one(name), column as u32, rehash);
        Some(column)
    }

    /// Returns the bytes of a block of all rows, and is empty again.
    pub(crate) fn finish(&mut self, place: Place) -> Buffer {
        self.finish_pausing(place, &mut || ())
    }

    /// Does the same, and calls `pause` between columns.
    pub(crate) fn finish_pausing(&mut self, place: Place, pause: &mut dyn FnMut()) -> Buffer {
        let rows = self.rows;
        debug_assert!(rows > 0, "blocks are not empty");
        let (writer, scratch) = (&mut self.writer, &mut self.scratch);
        writer.begin(rows);
        writer.column(Some(Fixed::Position), b"", Shape::Long);
        writer.buffer(&self.positions);
        writer.end();
        write_ints(writer, Fixed::StoreTime, &self.store_times, &self.lost);
        if self.born_missing.len() < rows {
            write_ints(writer, Fixed::BornTime, &self.born_times, &self.born_missing);
        }
        for (fixed, words) in [(Fixed::Size, &self.sizes), (Fixed::BodySize, &self.body_sizes)] {
            writer.column(Some(fixed), b"", Shape::Word);
            writer.buffer(words);
            writer.end();
        }
        if !self.lost.is_empty() {
            writer.column(Some(Fixed::Lost), b"", Shape::Bits);
            writer.bits(rows, self.lost.iter().map(|row| usize::from(*row)));
            writer.end();
        }
        pause();
        self.message_type.write(writer, scratch, rows, Some(Fixed::MessageType));
        self.message_group.write(writer, scratch, rows, Some(Fixed::MessageGroup));
        self.tag.write(writer, scratch, rows, Some(Fixed::Tag));
        pause();
        self.keys.write(writer, Fixed::Keys);
        self.message_id.write(writer, Fixed::MessageId);
        self.rest.write(writer);
        if self.any_body_position {
            writer.column(Some(Fixed::BodyPosition), b"", Shape::Long);
            writer.buffer(&self.body_positions);
            writer.end();
        }
        let mut order = std::mem::take(&mut self.scratch.order);
        order.clear();
        order.extend(0..self.used);
        order.sort_unstable_by(|a, b| self.columns[*a].name.cmp(&self.columns[*b].name));
        for column in &order {
            pause();
            self.columns[*column].write(&mut self.writer, &mut self.scratch, rows, None);
        }
        self.scratch.order = order;
        pause();
        let image = self.writer.finish(place, &self.positions, &self.store_times, &self.sizes);
        self.clear();
        image
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        (self.rows, self.bytes, self.any_body_position) = (0, 0, false);
        self.positions.clear();
        self.store_times.clear();
        self.born_times.clear();
        self.born_missing.clear();
        self.sizes.clear();
        self.body_sizes.clear();
        self.body_positions.clear();
        self.lost.clear();
        for column in [&mut self.message_type, &mut self.message_group, &mut self.tag] {
            column.clear();
        }
        self.keys.clear();
        self.message_id.clear();
        for column in &mut self.columns[..self.used] {
            column.clear();
        }
        self.columns.truncate(KEPT_COLUMNS);
        self.used = 0;
        self.by_name.clear();
        self.rest.clear();
    }

    /// Begins a column for a merge, or goes on with it: `None` if there is no room left and the property goes into the
    /// rest.
    pub(crate) fn merged_column(&mut self, name: &str) -> Option<usize> {
        self.column_of(name, &mut |_| true)
    }

    /// Says that hardly any value of a column comes twice, so that none is looked for.
    pub(crate) fn expect_unique(&mut self, column: usize) {
        self.columns[column].unique = true;
    }

    /// Returns the column of this name, if there is one.
    pub(crate) fn existing_column(&self, name: &str) -> Option<usize> {
        self.find_column(name)
    }

    fn fixed_column(&mut self, fixed: Fixed) -> &mut ColumnBuilder {
        match fixed {
            Fixed::MessageType => &mut self.message_type,
            Fixed::MessageGroup => &mut self.message_group,
            _ => &mut self.tag,
        }
    }

    /// Returns the code of a value in a column, for [`push_code`](Self::push_code).
    pub(crate) fn code_of(&mut self, column: Target, value: KnownValue<'_>) -> u16 {
        let hasher = &self.hasher;
        match column {
            Target::Fixed(Fixed::MessageType) => self.message_type.code_of_known(hasher, value).0,
            Target::Fixed(Fixed::MessageGroup) => self.message_group.code_of_known(hasher, value).0,
            Target::Fixed(_) => self.tag.code_of_known(hasher, value).0,
            Target::Property(column) => self.columns[column].code_of_known(hasher, value).0,
        }
    }

    pub(crate) fn target(&mut self, column: Target) -> &mut ColumnBuilder {
        match column {
            Target::Fixed(fixed) => self.fixed_column(fixed),
            Target::Property(column) => &mut self.columns[column],
        }
    }

    pub(crate) fn add_to_rest(&mut self, name: &str, row: u16, value: KnownValue<'_>) {
        self.rest.add(name, row, value);
    }

    pub(crate) fn hashes(&mut self, fixed: Fixed) -> &mut HashesBuilder {
        if fixed == Fixed::Keys { &mut self.keys } else { &mut self.message_id }
    }

    pub(crate) fn mark_lost(&mut self, row: u16) {
        self.lost.push(row);
    }
}

/// A column of distinct values in a [`RunBuilder`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Fixed(Fixed),
    Property(usize),
}

fn write_ints(writer: &mut ImageWriter, fixed: Fixed, values: &[i64], missing: &[u16]) {
    writer.column(Some(fixed), b"", Shape::Int);
    if !missing.is_empty() {
        write_validity(writer, values.len(), missing);
    }
    writer.buffer(values);
    let entry = writer.entry();
    entry.missing = missing.len() as u32;
    entry.has_validity = !missing.is_empty();
    entry.kinds = KindSet::default().with(Kind::Int).0;
    writer.end();
}

fn write_validity(writer: &mut ImageWriter, rows: usize, missing: &[u16]) {
    let mut missing = missing.iter().map(|row| usize::from(*row)).peekable();
    writer.bits(rows, (0..rows).filter(|row| missing.next_if_eq(row).is_none()));
}

/// Returns what is known of a value, with room for its text.
fn known<'a>(value: ValueRef<'a>, room: &'a mut String) -> KnownValue<'a> {
    let (kind, bits, typed) = match value {
        ValueRef::Text(text) => {
            let (kind, int, float) = classify(text);
            let bits = int.map(i64::cast_unsigned).or(float.map(f64::to_bits)).unwrap_or_default();
            return KnownValue { kind, text, bits };
        }
        ValueRef::Str(text) => return KnownValue { kind: Kind::Str, text, bits: 0 },
        ValueRef::Bool(value) => (Kind::Bool, u64::from(value), Value::Bool(value)),
        ValueRef::I32(value) => (Kind::I32, i64::from(value).cast_unsigned(), Value::I32(value)),
        ValueRef::I64(value) => (Kind::I64, value.cast_unsigned(), Value::I64(value)),
        ValueRef::F32(value) => (Kind::F32, widen(value), Value::F32(value)),
        ValueRef::F64(value) => (Kind::F64, value.to_bits(), Value::F64(value)),
    };
    *room = typed.to_text();
    KnownValue { kind, text: room, bits }
}

/// Returns the bits of the f64 that stands for an f32, whose bits [`narrow`] gives back even if it is NaN.
fn widen(value: f32) -> u64 {
    if value.is_nan() {
        let bits = u64::from(value.to_bits());
        (bits >> 31) << 63 | 0x7ff << 52 | (bits & 0x7f_ffff) << 29
    } else {
        f64::from(value).to_bits()
    }
}

/// Returns the f32 that an f64 out of [`widen`] stands for.
pub(crate) fn narrow(value: f64) -> f32 {
    if value.is_nan() {
        let bits = value.to_bits();
        f32::from_bits((bits >> 63 << 31) as u32 | 0xff << 23 | (bits >> 29) as u32 & 0x7f_ffff)
    } else {
        value as f32
    }
}

/// What decides whether two values are the same: type and bits.
#[derive(Clone, Copy)]
enum Identity<'a> {
    Untyped(&'a str),
    Str(&'a str),
    Bits(Kind, u64),
}

impl Identity<'_> {
    fn of(value: KnownValue<'_>) -> Identity<'_> {
        match value.kind {
            kind if kind.is_untyped() => Identity::Untyped(value.text),
            Kind::Str => Identity::Str(value.text),
            kind => Identity::Bits(kind, value.bits),
        }
    }

    fn hash(self, hasher: &RandomState) -> u64 {
        match self {
            Self::Untyped(text) => hasher.hash_one(text.as_bytes()),
            Self::Str(text) => hasher.hash_one(text.as_bytes()).rotate_left(7),
            Self::Bits(kind, bits) => hasher.hash_one(bits).rotate_left(kind as u32),
        }
    }
}

/// One property, or one fixed column of texts, of all rows that have it.
#[derive(Debug, Default)]
pub(crate) struct ColumnBuilder {
    name: String,
    rows: Vec<u16>,
    codes: Vec<u16>,
    hashes: Vec<u64>,
    kinds: Vec<u8>,
    ends: Vec<u32>,
    text: Vec<u8>,
    bits: Vec<u64>,
    /// Codes by hash, once there are more than [`LINEAR_MAX`].
    table: HashTable<u16>,
    /// Every value gets a code of its own, and no hash.
    unique: bool,
}

impl ColumnBuilder {
    fn add_str(&mut self, hasher: &RandomState, row: u16, text: &str) -> usize {
        self.add(hasher, row, ValueRef::Str(text))
    }

    /// Adds the value of a row; returns how many bytes it takes. A row has one value: the first.
    fn add(&mut self, hasher: &RandomState, row: u16, value: ValueRef<'_>) -> usize {
        let (code, bytes) = match value {
            ValueRef::Text(text) => self.code(hasher, Identity::Untyped(text), value),
            ValueRef::Str(text) => self.code(hasher, Identity::Str(text), value),
            ValueRef::Bool(bit) => self.code(hasher, Identity::Bits(Kind::Bool, u64::from(bit)), value),
            ValueRef::I32(int) => {
                self.code(hasher, Identity::Bits(Kind::I32, i64::from(int).cast_unsigned()), value)
            }
            ValueRef::I64(int) => self.code(hasher, Identity::Bits(Kind::I64, int.cast_unsigned()), value),
            ValueRef::F32(float) => self.code(hasher, Identity::Bits(Kind::F32, widen(float)), value),
            ValueRef::F64(float) => self.code(hasher, Identity::Bits(Kind::F64, float.to_bits()), value),
        };
        self.push(row, code);
        bytes
    }

    /// Gives a row the value of a code. A row has one value: the first.
    pub(crate) fn push(&mut self, row: u16, code: u16) {
        if self.rows.last() != Some(&row) {
            self.rows.push(row);
            self.codes.push(code);
        }
    }

    fn code(&mut self, hasher: &RandomState, identity: Identity<'_>, value: ValueRef<'_>) -> (u16, usize) {
        let hash = identity.hash(hasher);
        match self.find(hash, identity) {
            Some(code) => (code, 4),
            None => self.insert(hash, known(value, &mut String::new())),
        }
    }

    fn code_of_known(&mut self, hasher: &RandomState, value: KnownValue<'_>) -> (u16, usize) {
        if self.unique {
            return (self.append(value), value.text.len() + 20);
        }
        let identity = Identity::of(value);
        let hash = identity.hash(hasher);
        self.find(hash, identity).map_or_else(|| self.insert(hash, value), |code| (code, 4))
    }

    fn find(&self, hash: u64, identity: Identity<'_>) -> Option<u16> {
        if self.hashes.len() <= LINEAR_MAX {
            let is_it = |code: &usize| self.hashes[*code] == hash && self.is(*code, identity);
            return (0..self.hashes.len()).find(is_it).map(|code| code as u16);
        }
        self.table.find(hash, |code| self.is(usize::from(*code), identity)).copied()
    }

    fn is(&self, code: usize, identity: Identity<'_>) -> bool {
        let kind = Kind::from_byte(self.kinds[code]).unwrap_or(Kind::Text);
        match identity {
            Identity::Untyped(text) => kind.is_untyped() && self.text_of(code) == text.as_bytes(),
            Identity::Str(text) => kind == Kind::Str && self.text_of(code) == text.as_bytes(),
            Identity::Bits(of, bits) => kind == of && self.bits[code] == bits,
        }
    }

    fn text_of(&self, code: usize) -> &[u8] {
        let start = if code == 0 { 0 } else { self.ends[code - 1] };
        &self.text[start as usize..self.ends[code] as usize]
    }

    fn append(&mut self, value: KnownValue<'_>) -> u16 {
        let code = self.kinds.len() as u16;
        self.kinds.push(value.kind as u8);
        self.text.extend_from_slice(value.text.as_bytes());
        self.ends.push(self.text.len() as u32);
        self.bits.push(value.bits);
        code
    }

    fn insert(&mut self, hash: u64, value: KnownValue<'_>) -> (u16, usize) {
        let code = self.append(value);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        let rehash = |code: &u16| hashes[usize::from(*code)];
        match hashes.len() {
            ..=LINEAR_MAX => {}
            len if len == LINEAR_MAX + 1 => {
                for (code, hash) in hashes.iter().enumerate() {
                    self.table.insert_unique(*hash, code as u16, rehash);
                }
            }
            _ => {
                self.table.insert_unique(hash, code, rehash);
            }
        }
        (code, value.text.len() + 20)
    }

    fn clear(&mut self) {
        self.name.clear();
        self.rows.clear();
        self.codes.clear();
        if self.hashes.len() > LINEAR_MAX {
            self.table.clear();
        }
        self.hashes.clear();
        self.kinds.clear();
        self.ends.clear();
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.bits.clear();
        self.unique = false;
    }

    fn values(&self) -> ValueParts<'_> {
        ValueParts { kinds: &self.kinds, ends: &self.ends, text: &self.text, bits: &self.bits }
    }

    /// Chooses the shape of the column in a block of `rows` rows.
    ///
    /// Small blocks keep to one shape, so that bindings made for one of them suit the next.
    fn shape(&self, rows: usize, kinds: KindSet) -> Shape {
        let (present, distinct) = (self.rows.len(), self.kinds.len());
        let width = if distinct <= 1 << 8 { 1 } else { 2 };
        let dictionary_bytes = rows * width + distinct * 13 + self.text.len();
        let all_ints = kinds == KindSet::default().with(Kind::Int);
        if self.unique {
            if all_ints { Shape::Int } else { Shape::Plain }
        } else if rows < WIDE_ROWS {
            Shape::Dictionary
        } else if present * 3 < rows {
            Shape::Sparse
        } else if all_ints && rows * 8 <= dictionary_bytes {
            Shape::Int
        } else if distinct * 2 > rows {
            Shape::Plain
        } else {
            Shape::Dictionary
        }
    }

    fn write(&self, writer: &mut ImageWriter, scratch: &mut Scratch, rows: usize, fixed: Option<Fixed>) {
        if self.rows.is_empty() {
            return;
        }
        let kinds: KindSet = self.kinds.iter().filter_map(|kind| Kind::from_byte(*kind)).collect();
        let shape = if fixed.is_some() { Shape::Dictionary } else { self.shape(rows, kinds) };
        let (present, distinct) = (self.rows.len(), self.kinds.len());
        let entry = writer.column(fixed, self.name.as_bytes(), shape);
        entry.kinds = kinds.0;
        entry.missing = (rows - present) as u32;
        if !self.unique {
            entry.distinct = distinct as u32;
        }
        match shape {
            Shape::Sparse => {
                entry.entries = present as u32;
                writer.buffer(&self.rows);
                writer.codes(distinct, &self.codes);
                writer.values(self.values());
            }
            Shape::Int => {
                self.write_validity(writer, rows);
                scratch.ints.clear();
                scratch.ints.resize(rows, 0);
                for (row, code) in self.rows.iter().zip(&self.codes) {
                    scratch.ints[usize::from(*row)] = self.bits[usize::from(*code)].cast_signed();
                }
                writer.buffer(&scratch.ints);
            }
            Shape::Plain => {
                self.write_validity(writer, rows);
                scratch.spread(self, rows);
                writer.values(scratch.values());
            }
            _ => {
                self.write_validity(writer, rows);
                writer.codes(distinct, scratch.dense_codes(self, rows));
                writer.values(self.values());
            }
        }
        writer.end();
    }

    fn write_validity(&self, writer: &mut ImageWriter, rows: usize) {
        if self.rows.len() < rows {
            writer.bits(rows, self.rows.iter().map(|row| usize::from(*row)));
            writer.entry().has_validity = true;
        }
    }
}

/// Buffers that are needed only while a column is written.
#[derive(Debug, Default)]
struct Scratch {
    order: Vec<usize>,
    codes: Vec<u16>,
    ints: Vec<i64>,
    kinds: Vec<u8>,
    ends: Vec<u32>,
    text: Vec<u8>,
    bits: Vec<u64>,
}

impl Scratch {
    /// Returns one code a row, 0 where the row is missing.
    fn dense_codes<'a>(&'a mut self, column: &'a ColumnBuilder, rows: usize) -> &'a [u16] {
        if column.rows.len() == rows {
            return &column.codes;
        }
        self.codes.clear();
        self.codes.resize(rows, 0);
        for (row, code) in column.rows.iter().zip(&column.codes) {
            self.codes[usize::from(*row)] = *code;
        }
        &self.codes
    }

    /// Lays out one value a row, an empty text where the row is missing.
    fn spread(&mut self, column: &ColumnBuilder, rows: usize) {
        self.kinds.clear();
        self.ends.clear();
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.bits.clear();
        let mut present = column.rows.iter().zip(&column.codes).peekable();
        for row in 0..rows {
            let code = present.next_if(|(present, _)| usize::from(**present) == row).map(|(_, code)| *code);
            match code.map(usize::from) {
                Some(code) => {
                    self.kinds.push(column.kinds[code]);
                    self.text.extend_from_slice(column.text_of(code));
                    self.bits.push(column.bits[code]);
                }
                None => {
                    self.kinds.push(Kind::Text as u8);
                    self.bits.push(0);
                }
            }
            self.ends.push(self.text.len() as u32);
        }
    }

    fn values(&self) -> ValueParts<'_> {
        ValueParts { kinds: &self.kinds, ends: &self.ends, text: &self.text, bits: &self.bits }
    }
}

/// The hashes of the keys, or of the message id, of all rows.
#[derive(Debug, Default)]
pub(crate) struct HashesBuilder {
    ends: Vec<u32>,
    hashes: Vec<u32>,
}

impl HashesBuilder {
    fn add(&mut self, text: &str) -> usize {
        let before = self.hashes.len();
        self.hashes.extend(text.split(' ').map(|part| hash32(part.as_bytes())));
        (self.hashes.len() - before) * 4
    }

    pub(crate) fn add_hashes(&mut self, hashes: &[u32]) {
        self.hashes.extend_from_slice(hashes);
    }

    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.hashes.len() as u32);
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.hashes.clear();
    }

    fn write(&self, writer: &mut ImageWriter, fixed: Fixed) {
        if self.hashes.is_empty() {
            return;
        }
        let starts = std::iter::once(&0).chain(&self.ends);
        let missing = starts.zip(&self.ends).filter(|(start, end)| start == end).count();
        let entry = writer.column(Some(fixed), b"", Shape::Hashed);
        entry.missing = missing as u32;
        entry.entries = self.hashes.len() as u32;
        writer.buffer(&self.ends);
        writer.buffer(&self.hashes);
        writer.end();
    }
}

/// Properties that have no room among the columns.
#[derive(Debug, Default)]
struct RestBuilder {
    names: HashMap<String, u32, RandomState>,
    entries: Vec<RestEntry>,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct RestEntry {
    name: u32,
    row: u16,
    kind: Kind,
    bits: u64,
    text: (u32, u32),
}

impl RestBuilder {
    fn has(&self, name: &str) -> bool {
        !self.names.is_empty() && self.names.contains_key(name)
    }

    fn add(&mut self, name: &str, row: u16, value: KnownValue<'_>) -> usize {
        let next = self.names.len() as u32;
        let number = match self.names.get(name) {
            Some(number) => *number,
            None => *self.names.entry(name.to_owned()).or_insert(next),
        };
        let start = self.text.len() as u32;
        self.text.extend_from_slice(value.text.as_bytes());
        self.entries.push(RestEntry {
            name: number,
            row,
            kind: value.kind,
            bits: value.bits,
            text: (start, self.text.len() as u32),
        });
        value.text.len() + 20 + if number == next { name.len() + 8 } else { 0 }
    }

    fn clear(&mut self) {
        self.names.clear();
        self.entries.clear();
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
    }

    fn write(&mut self, writer: &mut ImageWriter) {
        if self.entries.is_empty() {
            return;
        }
        let mut names: Vec<(&str, u32)> =
            self.names.iter().map(|(name, number)| (name.as_str(), *number)).collect();
        names.sort_unstable();
        let mut ranks = vec![0; names.len()];
        for (rank, (_, number)) in names.iter().enumerate() {
            ranks[*number as usize] = rank;
        }
        // A stable sort, so that of two values of one row the first stays.
        self.entries.sort_by_key(|entry| (ranks[entry.name as usize], entry.row));
        self.entries.dedup_by_key(|entry| (entry.name, entry.row));
        let mut ends = vec![0_u32; names.len()];
        let (mut value_ends, mut text) =
            (Vec::with_capacity(self.entries.len()), Vec::with_capacity(self.text.len()));
        for (index, entry) in self.entries.iter().enumerate() {
            ends[ranks[entry.name as usize]] = index as u32 + 1;
            text.extend_from_slice(&self.text[entry.text.0 as usize..entry.text.1 as usize]);
            value_ends.push(text.len() as u32);
        }
        let (mut name_ends, mut name_text) = (Vec::new(), Vec::new());
        for (name, _) in &names {
            name_text.extend_from_slice(name.as_bytes());
            name_ends.push(name_text.len() as u32);
        }
        let kinds: Vec<u8> = self.entries.iter().map(|entry| entry.kind as u8).collect();
        let bits: Vec<u64> = self.entries.iter().map(|entry| entry.bits).collect();
        let rows: Vec<u16> = self.entries.iter().map(|entry| entry.row).collect();
        let entry = writer.column(Some(Fixed::Rest), b"", Shape::Rest);
        entry.entries = rows.len() as u32;
        entry.rest_names = names.len() as u32;
        entry.rest_names_len = name_text.len() as u32;
        entry.kinds = self.entries.iter().map(|entry| entry.kind).collect::<KindSet>().0;
        writer.strings(&name_ends, &name_text);
        writer.buffer(&ends);
        writer.buffer(&rows);
        writer.values(ValueParts { kinds: &kinds, ends: &value_ends, text: &text, bits: &bits });
        writer.end();
        for (rank, (name, _)) in names.iter().enumerate() {
            let start = if rank == 0 { 0 } else { ends[rank - 1] as usize };
            let kinds: KindSet =
                self.entries[start..ends[rank] as usize].iter().map(|entry| entry.kind).collect();
            writer.shape(name.as_bytes(), kinds);
        }
    }
}
