//! Neighbouring blocks become one: dictionaries are mapped, rows are copied, the log is not read again.

use std::{ops::Range, sync::Arc};

use arrow_array::Array;
use arrow_buffer::Buffer;
use hashbrown::{HashMap, HashSet};
use weir_columns::{Column, Kind, Values};

use crate::{
    error::StorageError,
    format::block::{BLOCK_BYTES, BLOCK_ROWS, Damage, Fixed, WIDE_ROWS},
    queue::{
        block::Block,
        builder::{KnownValue, RowFacts, RunBuilder, Target},
        image::Place,
    },
};

/// A block of fewer rows does not tell whether values repeat.
pub(crate) const TELLING_ROWS: usize = 512;

/// Some rows of a block.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) block: Arc<Block>,
    pub(crate) rows: Range<usize>,
}

impl Slice {
    pub(crate) fn all(block: &Arc<Block>) -> Self {
        Self { block: Arc::clone(block), rows: 0..block.len() }
    }

    pub(crate) fn is_all(&self) -> bool {
        self.rows == (0..self.block.len())
    }

    /// Estimates the bytes of the rows.
    fn bytes(&self) -> usize {
        self.block.weight() * self.rows.len() / self.block.len()
    }
}

/// Slices that make one block.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) slices: Vec<Slice>,
    /// Nothing more fits in.
    pub(crate) full: bool,
}

/// Divides neighbouring slices into groups that fit into one block each. All groups but the last are full.
pub(crate) fn pack(slices: impl IntoIterator<Item = Slice>) -> Vec<Group> {
    let mut groups = Vec::new();
    let (mut open, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for mut slice in slices {
        while !slice.rows.is_empty() {
            if rows > 0 && (rows == BLOCK_ROWS || bytes + slice.bytes() > BLOCK_BYTES) {
                groups.push(Group { slices: std::mem::take(&mut open), full: true });
                (rows, bytes) = (0, 0);
            }
            let take = slice.rows.len().min(BLOCK_ROWS - rows);
            let part =
                Slice { block: Arc::clone(&slice.block), rows: slice.rows.start..slice.rows.start + take };
            slice.rows.start += take;
            rows += take;
            bytes += part.bytes();
            open.push(part);
        }
    }
    if !open.is_empty() {
        groups.push(Group { slices: open, full: rows == BLOCK_ROWS || bytes >= BLOCK_BYTES });
    }
    groups
}

/// Returns the bytes of one block with all rows of `slices`, which are neighbours and fit. Calls `pause` between pieces of
/// some tenths of a millisecond.
///
/// # Errors
///
/// If a column of one of them is damaged.
pub(crate) fn merge(
    builder: &mut RunBuilder,
    slices: &[Slice],
    pause: &mut dyn FnMut(),
) -> Result<Buffer, StorageError> {
    let first = slices.first().expect("there is something to merge");
    let place = first.block.place();
    let place = Place { base: place.base.plus(first.rows.start as u64), ..place };
    builder.clear();
    let unique = unique_names(slices);
    for slice in slices {
        debug_assert_eq!(
            slice.block.base().plus(slice.rows.start as u64),
            place.base.plus(builder.rows() as u64),
            "slices are neighbours"
        );
        pause();
        if let Some(young) = slice.block.as_young() {
            young.add_to(builder, slice.rows.clone());
        } else if let Err(damage) = add_slice(builder, &slice.block, slice.rows.clone(), &unique, pause) {
            builder.clear();
            return Err(slice.block.damaged(damage));
        }
    }
    Ok(builder.finish_pausing(place, pause))
}

/// Returns the properties that have another value in nearly every row of large blocks: to look for the few
/// that repeat costs more than it saves.
fn unique_names(slices: &[Slice]) -> HashSet<Vec<u8>> {
    let rows: usize = slices.iter().map(|slice| slice.rows.len()).sum();
    if rows < WIDE_ROWS || slices.iter().any(|slice| slice.block.len() < TELLING_ROWS) {
        return HashSet::new();
    }
    // Counted over whole blocks, which is near enough for the parts that are taken.
    let mut found: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
    for slice in slices {
        for (_, entry) in slice.block.entries().flatten().filter(|(_, entry)| entry.fixed.is_none()) {
            let present = slice.block.len() - (entry.missing as usize).min(slice.block.len());
            let distinct = (entry.distinct as usize).min(present);
            let counts =
                found.entry_ref(slice.block.image().name_of(&entry).unwrap_or_default()).or_default();
            *counts = (counts.0 + present, counts.1 + distinct);
        }
    }
    let is_unique = |present: usize, distinct: usize| distinct * 10 >= present * 9 && present * 2 > rows;
    found
        .into_iter()
        .filter(|(_, (present, distinct))| is_unique(*present, *distinct))
        .map(|(name, _)| name)
        .collect()
}

fn add_slice(
    builder: &mut RunBuilder,
    block: &Block,
    rows: Range<usize>,
    unique: &HashSet<Vec<u8>>,
    pause: &mut dyn FnMut(),
) -> Result<(), Damage> {
    let shift = builder.rows();
    add_facts(builder, block, rows.clone())?;
    let moved = Moved { rows: rows.clone(), shift };
    for found in block.entries() {
        pause();
        let (number, entry) = found?;
        let target = match entry.fixed {
            None => {
                let name = block.image().name_of(&entry).and_then(|name| str::from_utf8(name).ok());
                let name = name.ok_or(Damage::new(0, "the name of a column"))?;
                match builder.merged_column(name) {
                    Some(column) => {
                        if unique.contains(name.as_bytes()) {
                            builder.expect_unique(column);
                        }
                        Target::Property(column)
                    }
                    None => {
                        add_column_to_rest(builder, name, &block.image().column(number, &entry)?, &moved);
                        continue;
                    }
                }
            }
            Some(fixed @ (Fixed::MessageType | Fixed::MessageGroup | Fixed::Tag)) => Target::Fixed(fixed),
            Some(_) => continue,
        };
        add_column(builder, target, &block.image().column(number, &entry)?, &moved);
    }
    add_rest(builder, block, &moved)
}

/// Which rows are taken, and where they begin in the block that is made.
struct Moved {
    rows: Range<usize>,
    shift: usize,
}

impl Moved {
    fn row(&self, row: usize) -> u16 {
        (row - self.rows.start + self.shift) as u16
    }
}

fn add_facts(builder: &mut RunBuilder, block: &Block, rows: Range<usize>) -> Result<(), Damage> {
    let born = match block.stored(Some(Fixed::BornTime), "")? {
        Some(Column::Int(times)) => Some(times),
        _ => None,
    };
    let (sizes, body_sizes) = (block.words(Fixed::Size)?, block.words(Fixed::BodySize)?);
    let body_positions = block.body_positions()?;
    let hashes = [Fixed::Keys, Fixed::MessageId].map(|fixed| (fixed, block.stored(Some(fixed), "")));
    let (positions, store_times) = (block.record_positions()?, block.times()?);
    for row in rows {
        builder.begin_row(RowFacts {
            position: positions.value(row),
            store_time_ms: store_times.values()[row],
            born_time_ms: born.as_ref().filter(|born| born.is_valid(row)).map(|born| born.value(row)),
            size: sizes.value(row),
            body_size: body_sizes.value(row),
            body_position: body_positions.as_ref().map(|at| at.value(row)).filter(|at| *at != 0),
        });
        if block.lost().is_some_and(|lost| lost.value(row)) {
            builder.mark_lost((builder.rows() - 1) as u16);
        }
        for (fixed, column) in &hashes {
            if let Ok(Some(Column::Hashed { row_ends, hashes })) = column {
                let start = if row == 0 { 0 } else { row_ends.value(row - 1) };
                let of_row = &hashes.values()[start as usize..row_ends.value(row) as usize];
                builder.hashes(*fixed).add_hashes(of_row);
            }
        }
        builder.end_row();
    }
    for (_, column) in hashes {
        column?;
    }
    Ok(())
}

fn add_column(builder: &mut RunBuilder, target: Target, column: &Column, moved: &Moved) {
    match column {
        Column::Dictionary { codes, values } => {
            let mut map = CodeMap::new(values.len());
            let map = map.codes();
            for row in moved.rows.clone() {
                if codes.is_valid(row) {
                    add_code(builder, target, values, map, codes.value(row), moved.row(row));
                }
            }
        }
        Column::Sparse { rows, codes, values } => {
            let mut map = CodeMap::new(values.len());
            let map = map.codes();
            let from = rows.values().partition_point(|row| usize::from(*row) < moved.rows.start);
            for entry in from..rows.len() {
                let row = usize::from(rows.value(entry));
                if row >= moved.rows.end {
                    break;
                }
                add_code(builder, target, values, map, codes.value(entry), moved.row(row));
            }
        }
        Column::Plain { values, present } => {
            for row in moved.rows.clone() {
                if present.as_ref().is_none_or(|present| present.is_valid(row)) {
                    let code = builder.code_of(target, known_value(values, row));
                    builder.target(target).push(moved.row(row), code);
                }
            }
        }
        Column::Int(ints) => {
            let mut room = IntText::default();
            for row in moved.rows.clone() {
                if ints.is_valid(row) {
                    let code = builder.code_of(target, room.known(ints.value(row)));
                    builder.target(target).push(moved.row(row), code);
                }
            }
        }
        Column::Hashed { .. } => {}
    }
}

/// The codes of values in the block that is made, by their codes in the one that is read.
enum CodeMap {
    /// Blocks of a few rows, of which queues with little traffic have many, need no allocation for each column.
    Few([Option<u16>; CodeMap::FEW], usize),
    Many(Vec<Option<u16>>),
}

impl CodeMap {
    const FEW: usize = 16;

    fn new(codes: usize) -> Self {
        if codes <= Self::FEW { Self::Few([None; Self::FEW], codes) } else { Self::Many(vec![None; codes]) }
    }

    fn codes(&mut self) -> &mut [Option<u16>] {
        match self {
            Self::Few(codes, len) => &mut codes[..*len],
            Self::Many(codes) => codes,
        }
    }
}

fn add_code(
    builder: &mut RunBuilder,
    target: Target,
    values: &Values,
    map: &mut [Option<u16>],
    code: u16,
    row: u16,
) {
    let code = usize::from(code);
    let mapped = match map[code] {
        Some(mapped) => mapped,
        None => *map[code].insert(builder.code_of(target, known_value(values, code))),
    };
    builder.target(target).push(row, mapped);
}

/// Adds a column for which there is no room to the rest.
fn add_column_to_rest(builder: &mut RunBuilder, name: &str, column: &Column, moved: &Moved) {
    let mut room = IntText::default();
    for row in moved.rows.clone() {
        let value = match column {
            Column::Dictionary { codes, values } if codes.is_valid(row) => {
                known_value(values, codes.value(row).into())
            }
            Column::Sparse { rows, codes, values } => match rows.values().binary_search(&(row as u16)) {
                Ok(entry) => known_value(values, codes.value(entry).into()),
                Err(_) => continue,
            },
            Column::Plain { values, present }
                if present.as_ref().is_none_or(|present| present.is_valid(row)) =>
            {
                known_value(values, row)
            }
            Column::Int(ints) if ints.is_valid(row) => room.known(ints.value(row)),
            _ => continue,
        };
        builder.add_to_rest(name, moved.row(row), value);
    }
}

/// Adds the rest of a block: into columns where there are some of that name by now.
fn add_rest(builder: &mut RunBuilder, block: &Block, moved: &Moved) -> Result<(), Damage> {
    let Some(rest) = block.rest()? else {
        return Ok(());
    };
    for number in 0..rest.names.len() {
        let name = rest.names.value(number);
        let column = builder.existing_column(name);
        for entry in rest.entries(number) {
            let row = usize::from(rest.rows.value(entry));
            if !moved.rows.contains(&row) {
                continue;
            }
            let value = known_value(&rest.values, entry);
            match column {
                Some(column) => {
                    let target = Target::Property(column);
                    let code = builder.code_of(target, value);
                    builder.target(target).push(moved.row(row), code);
                }
                None => builder.add_to_rest(name, moved.row(row), value),
            }
        }
    }
    Ok(())
}

fn known_value(values: &Values, index: usize) -> KnownValue<'_> {
    let kind = values.kind(index);
    let text = values.text.value(index);
    let bits = match kind {
        Kind::Bool => u64::from(text == "true"),
        kind if kind.has_int() => values.ints.as_ref().map_or(0, |ints| ints.value(index).cast_unsigned()),
        kind if kind.has_float() => values.floats.as_ref().map_or(0, |floats| floats.value(index).to_bits()),
        _ => 0,
    };
    KnownValue { kind, text, bits }
}

/// Room for the text of one integer, so that a column of integers needs no allocation for each.
#[derive(Debug, Default)]
pub(crate) struct IntText([u8; 20]);

impl IntText {
    /// Returns the canonical text.
    pub(crate) fn text(&mut self, int: i64) -> &str {
        let mut at = self.0.len();
        let mut left = int.unsigned_abs();
        loop {
            at -= 1;
            self.0[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if int < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        str::from_utf8(&self.0[at..]).expect("digits are ASCII")
    }

    fn known(&mut self, int: i64) -> KnownValue<'_> {
        KnownValue { kind: Kind::Int, text: self.text(int), bits: int.cast_unsigned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_integer_is_canonical() {
        let mut room = IntText::default();
        for int in [0, 7, -7, 10, 123_456, i64::MAX, i64::MIN] {
            assert_eq!(room.text(int), int.to_string());
        }
    }
}
