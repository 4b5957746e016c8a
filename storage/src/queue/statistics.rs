//! What is known of the columns of a file's blocks, column by column, so that pruning opens no block.

use std::{collections::BTreeMap, ops::Range};

use arrow_array::{
    Array, ArrowPrimitiveType, BinaryArray, Float64Array, Int64Array, PrimitiveArray,
    types::{Float64Type, Int64Type, UInt16Type, UInt32Type},
};
use arrow_buffer::{ArrowNativeType, Buffer, NullBuffer, OffsetBuffer, ToByteSlice};
use hashbrown::HashSet;
use weir_columns::{Bloom, Column, ColumnRef, ColumnStatistics, Kind, KindSet, Rows, System, Values};

use crate::{
    format::block::{ALIGNMENT, Damage, NAMES_MAX, NARROW_ALIGNMENT, NOT_COUNTED},
    queue::{block::Block, merge::IntText},
    raw::arrays::Parts,
};

/// Bounds of texts are cut to so many bytes.
const BOUND_BYTES: usize = 64;
/// A Bloom filter is kept for columns with at most so many distinct values.
const BLOOM_VALUES_MAX: usize = 4096;

/// What is known of one column of one block. `None`: not kept.
#[derive(Clone, Debug, Default, PartialEq)]
struct Summary {
    missing: Option<u32>,
    distinct: Option<u32>,
    kinds: Option<u16>,
    text_min: Option<Vec<u8>>,
    text_max: Option<Vec<u8>>,
    int_min: Option<i64>,
    int_max: Option<i64>,
    float_min: Option<f64>,
    float_max: Option<f64>,
    bloom: Option<Vec<u8>>,
}

impl Summary {
    /// What is known of a column that a block of `rows` rows does not have.
    fn absent(rows: u32) -> Self {
        Self { missing: Some(rows), distinct: Some(0), kinds: Some(0), ..Self::default() }
    }

    /// What is known of integers of the system.
    fn system_int(missing: u32, range: Option<(i64, i64)>) -> Self {
        Self {
            missing: Some(missing),
            kinds: Some(if range.is_some() { KindSet::default().with(Kind::Int).0 } else { 0 }),
            int_min: range.map(|range| range.0),
            int_max: range.map(|range| range.1),
            ..Self::default()
        }
    }

    fn of(column: &Column, rows: usize, distinct: Option<u32>, is_property: bool) -> Self {
        match column {
            Column::Dictionary { codes, values } => {
                Self::of_values(values, codes.null_count(), None, distinct)
            }
            Column::Sparse { rows: present, values, .. } => {
                Self::of_values(values, rows - present.len(), None, distinct)
            }
            Column::Plain { values, present } => {
                let missing = present.as_ref().map_or(0, NullBuffer::null_count);
                Self::of_values(values, missing, present.as_ref(), distinct)
            }
            Column::Int(ints) => Self::of_ints(ints, distinct, is_property),
            Column::Hashed { row_ends, .. } => {
                let ends = row_ends.values();
                let missing = (0..rows).filter(|row| ends[*row] == if *row == 0 { 0 } else { ends[row - 1] });
                Self { missing: Some(missing.count() as u32), ..Self::default() }
            }
        }
    }

    fn of_values(
        values: &Values,
        missing: usize,
        present: Option<&NullBuffer>,
        distinct: Option<u32>,
    ) -> Self {
        let used =
            || (0..values.len()).filter(|index| present.is_none_or(|present| present.is_valid(*index)));
        let kinds: KindSet = used().map(|index| values.kind(index)).collect();
        let (mut text_min, mut text_max): (Option<&str>, Option<&str>) = (None, None);
        for index in used() {
            let text = values.text.value(index);
            text_min = Some(text_min.map_or(text, |min| min.min(text)));
            text_max = Some(text_max.map_or(text, |max| max.max(text)));
        }
        let ints = || used().filter(|index| values.kind(*index).has_int());
        let ints = ints().filter_map(|index| values.ints.as_ref().map(|ints| ints.value(index)));
        let int_range = ints.fold(None, widened);
        let floats = used().filter(|index| values.kind(*index).has_float());
        let floats = floats.filter_map(|index| values.floats.as_ref().map(|floats| floats.value(index)));
        let float_range = floats.filter(|float| !float.is_nan()).fold(None, widened);
        let count = distinct.unwrap_or(u32::MAX) as usize;
        let bloom = (2..=BLOOM_VALUES_MAX)
            .contains(&count)
            .then(|| Bloom::build(count, used().map(|index| values.text.value(index).as_bytes())));
        Self {
            missing: Some(missing as u32),
            distinct,
            kinds: Some(kinds.0),
            text_min: text_min.map(lower_bound),
            text_max: text_max.and_then(upper_bound),
            int_min: int_range.map(|range| range.0),
            int_max: int_range.map(|range| range.1),
            float_min: float_range.map(|range| range.0),
            float_max: float_range.map(|range| range.1),
            bloom,
        }
    }

    fn of_ints(ints: &Int64Array, distinct: Option<u32>, is_property: bool) -> Self {
        let missing = ints.null_count() as u32;
        let range = ints.iter().flatten().fold(None, widened);
        let mut summary = Self::system_int(missing, range);
        summary.distinct = distinct;
        let count = distinct.unwrap_or(u32::MAX) as usize;
        if is_property && (2..=BLOOM_VALUES_MAX).contains(&count) {
            let different: HashSet<i64, foldhash::fast::RandomState> = ints.iter().flatten().collect();
            let mut room = IntText::default();
            let texts: Vec<String> = different.into_iter().map(|int| room.text(int).to_owned()).collect();
            summary.bloom = Some(Bloom::build(count, texts.iter().map(String::as_bytes)));
        }
        summary
    }
}

fn widened<T: PartialOrd + Copy>(range: Option<(T, T)>, value: T) -> Option<(T, T)> {
    let (min, max) = range.unwrap_or((value, value));
    Some((if value < min { value } else { min }, if value > max { value } else { max }))
}

fn lower_bound(text: &str) -> Vec<u8> {
    text.as_bytes()[..text.len().min(BOUND_BYTES)].to_vec()
}

/// Returns bytes that are not below any text with the beginning that is kept.
fn upper_bound(text: &str) -> Option<Vec<u8>> {
    if text.len() <= BOUND_BYTES {
        return Some(text.as_bytes().to_vec());
    }
    let mut bound = text.as_bytes()[..BOUND_BYTES].to_vec();
    while let Some(last) = bound.pop() {
        if last < u8::MAX {
            bound.push(last + 1);
            return Some(bound);
        }
    }
    None
}

/// System columns first, then properties by name.
type Key = (u8, String);

const PROPERTY: u8 = u8::MAX;

/// Collects statistics while a file is written.
#[derive(Debug, Default)]
pub(crate) struct StatisticsBuilder {
    columns: BTreeMap<Key, Vec<(usize, Summary)>>,
    rows: Vec<u32>,
    /// Blocks some of whose properties have no column.
    with_rest: Vec<usize>,
    more_names: bool,
}

/// The statistics of one column, ready to be written.
#[derive(Debug)]
pub(crate) struct EncodedStatistics {
    pub(crate) name: String,
    /// As [`StatisticsEntry::system`](crate::format::block::StatisticsEntry::system).
    pub(crate) system: u8,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the number under which a system column is kept.
pub(crate) fn system_number(system: System) -> u8 {
    System::ALL.iter().position(|other| *other == system).map_or(0, |number| number as u8 + 1)
}

impl StatisticsBuilder {
    /// Adds the next block. A column that is damaged is not kept.
    pub(crate) fn add(&mut self, block: &Block) {
        let number = self.rows.len();
        self.rows.push(block.len() as u32);
        for system in System::ALL {
            if let Some(summary) = system_summary(block, system) {
                self.put((system_number(system), String::new()), number, summary);
            }
        }
        for (_, entry) in block.entries().flatten().filter(|(_, entry)| entry.fixed.is_none()) {
            let name = block.image().name_of(&entry).and_then(|name| str::from_utf8(name).ok());
            let Some(name) = name else {
                self.more_names = true;
                continue;
            };
            let summary = match block.stored(None, name) {
                Ok(Some(column)) => {
                    let distinct = (entry.distinct != NOT_COUNTED).then_some(entry.distinct);
                    Summary::of(&column, block.len(), distinct, true)
                }
                _ => Summary::default(),
            };
            self.put((PROPERTY, name.to_owned()), number, summary);
        }
        if !matches!(block.rest(), Ok(None)) {
            self.with_rest.push(number);
            self.more_names = true;
        }
    }

    fn put(&mut self, key: Key, block: usize, summary: Summary) {
        if self.columns.len() >= NAMES_MAX && !self.columns.contains_key(&key) {
            self.more_names = true;
        } else {
            self.columns.entry(key).or_default().push((block, summary));
        }
    }

    /// Returns whether some block has properties that are not among the columns.
    pub(crate) fn more_names(&self) -> bool {
        self.more_names
    }

    /// Returns the statistics of all columns, in the order of the footer.
    pub(crate) fn finish(self) -> Vec<EncodedStatistics> {
        let Self { columns, rows, with_rest, .. } = self;
        let encode = |((system, name), kept): (Key, Vec<(usize, Summary)>)| {
            let mut summaries: Vec<Summary> = rows.iter().map(|rows| Summary::absent(*rows)).collect();
            for block in with_rest.iter().filter(|_| system == PROPERTY) {
                summaries[*block] = Summary::default();
            }
            for (block, summary) in kept {
                summaries[block] = summary;
            }
            let system = if system == PROPERTY { 0 } else { system };
            EncodedStatistics { name, system, bytes: encode(&summaries) }
        };
        columns.into_iter().map(encode).collect()
    }
}

fn system_summary(block: &Block, system: System) -> Option<Summary> {
    let header = block.header();
    let (base, last) =
        (header.base.0.cast_signed(), header.base.0.cast_signed() + i64::from(header.rows) - 1);
    match system {
        System::QueueId => Some(Summary::system_int(0, Some((header.queue.0.into(), header.queue.0.into())))),
        System::QueueOffset => Some(Summary::system_int(0, Some((base, last)))),
        _ => match block.column(ColumnRef::System(system)) {
            Ok(Some(column)) => {
                let distinct = match &column {
                    Column::Dictionary { values, .. } => Some(values.len() as u32),
                    _ => None,
                };
                Some(Summary::of(&column, block.len(), distinct, false))
            }
            Ok(None) => None,
            Err(_) => Some(Summary::default()),
        },
    }
}

fn encode(summaries: &[Summary]) -> Vec<u8> {
    let mut out = Vec::new();
    put_numbers(&mut out, summaries, |summary| summary.missing);
    put_numbers(&mut out, summaries, |summary| summary.distinct);
    put_numbers(&mut out, summaries, |summary| summary.kinds);
    put_binaries(&mut out, summaries, |summary| summary.text_min.as_deref());
    put_binaries(&mut out, summaries, |summary| summary.text_max.as_deref());
    put_numbers(&mut out, summaries, |summary| summary.int_min);
    put_numbers(&mut out, summaries, |summary| summary.int_max);
    put_numbers(&mut out, summaries, |summary| summary.float_min);
    put_numbers(&mut out, summaries, |summary| summary.float_max);
    put_binaries(&mut out, summaries, |summary| summary.bloom.as_deref());
    out
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(NARROW_ALIGNMENT), 0);
}

fn put_validity(out: &mut Vec<u8>, valid: impl Iterator<Item = bool>) {
    align(out);
    let start = out.len();
    for (index, valid) in valid.enumerate() {
        if index % 8 == 0 {
            out.push(0);
        }
        out[start + index / 8] |= u8::from(valid) << (index % 8);
    }
    align(out);
}

fn put_numbers<T: ArrowNativeType>(
    out: &mut Vec<u8>,
    summaries: &[Summary],
    of: impl Fn(&Summary) -> Option<T>,
) {
    put_validity(out, summaries.iter().map(|summary| of(summary).is_some()));
    let values: Vec<T> = summaries.iter().map(|summary| of(summary).unwrap_or_default()).collect();
    out.extend_from_slice(values.to_byte_slice());
}

fn put_binaries<'a>(
    out: &mut Vec<u8>,
    summaries: &'a [Summary],
    of: impl Fn(&'a Summary) -> Option<&'a [u8]>,
) {
    put_validity(out, summaries.iter().map(|summary| of(summary).is_some()));
    let mut end = 0_i32;
    out.extend_from_slice(&end.to_le_bytes());
    for summary in summaries {
        let len = of(summary).unwrap_or_default().len();
        end += i32::try_from(len).expect("a bound has 64 bytes, a filter 4,096");
        out.extend_from_slice(&end.to_le_bytes());
    }
    align(out);
    for summary in summaries {
        out.extend_from_slice(of(summary).unwrap_or_default());
    }
}

/// Reads the statistics of one column over `blocks` blocks, which lie at `range` of `file`.
pub(crate) fn decode(file: &Buffer, range: Range<usize>, blocks: usize) -> Result<ColumnStatistics, Damage> {
    debug_assert!(range.start.is_multiple_of(ALIGNMENT), "the file was checked when it was opened");
    let mut parts = Parts::unchecked_yet(file, range, NARROW_ALIGNMENT);
    let statistics = ColumnStatistics {
        missing: take_numbers::<UInt32Type>(&mut parts, blocks)?,
        distinct: take_numbers::<UInt32Type>(&mut parts, blocks)?,
        kinds: take_numbers::<UInt16Type>(&mut parts, blocks)?,
        text_min: take_binaries(&mut parts, blocks)?,
        text_max: take_binaries(&mut parts, blocks)?,
        int_min: take_numbers::<Int64Type>(&mut parts, blocks)?,
        int_max: take_numbers::<Int64Type>(&mut parts, blocks)?,
        float_min: take_numbers::<Float64Type>(&mut parts, blocks)?,
        float_max: take_numbers::<Float64Type>(&mut parts, blocks)?,
        bloom: take_binaries(&mut parts, blocks)?,
    };
    parts.finish()?;
    Ok(statistics)
}

fn take_numbers<T: ArrowPrimitiveType>(
    parts: &mut Parts<'_>,
    blocks: usize,
) -> Result<PrimitiveArray<T>, Damage> {
    let valid = NullBuffer::new(parts.bits(blocks)?);
    Ok(PrimitiveArray::new(parts.scalars(blocks)?, Some(valid)))
}

fn take_binaries(parts: &mut Parts<'_>, blocks: usize) -> Result<BinaryArray, Damage> {
    let valid = NullBuffer::new(parts.bits(blocks)?);
    let offsets = parts.scalars::<i32>(blocks + 1)?;
    let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    parts.expect(rising && offsets[0] == 0, "the order of bounds")?;
    let bytes = parts.buffer(offsets[blocks] as usize)?;
    Ok(BinaryArray::new(OffsetBuffer::new(offsets), bytes, Some(valid)))
}

/// Returns the statistics of some of the blocks.
pub(crate) fn slice(statistics: &ColumnStatistics, blocks: Range<usize>) -> ColumnStatistics {
    let (start, len) = (blocks.start, blocks.len());
    ColumnStatistics {
        missing: statistics.missing.slice(start, len),
        distinct: statistics.distinct.slice(start, len),
        kinds: statistics.kinds.slice(start, len),
        text_min: statistics.text_min.slice(start, len),
        text_max: statistics.text_max.slice(start, len),
        int_min: statistics.int_min.slice(start, len),
        int_max: statistics.int_max.slice(start, len),
        float_min: Float64Array::slice(&statistics.float_min, start, len),
        float_max: statistics.float_max.slice(start, len),
        bloom: statistics.bloom.slice(start, len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_long_texts_enclose_them() {
        let long = "\u{10ffff}".repeat(40);
        for text in ["", "a", &"a".repeat(64), &"a".repeat(65), &long] {
            assert!(lower_bound(text).as_slice() <= text.as_bytes());
            assert!(upper_bound(text).is_none_or(|bound| bound.as_slice() >= text.as_bytes()), "{text}");
        }
    }
}
