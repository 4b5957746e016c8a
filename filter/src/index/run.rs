//! One run of rows against all selectors of an index.

use std::cell::OnceCell;

use arrow_array::{Array, ArrayRef, ListArray, UInt32Array};
use arrow_buffer::NullBuffer;
use hashbrown::HashMap;
use weir_columns::{Column, Rows};

use crate::{
    compile::{dense_array, hashes_of_parts},
    error::EvaluateError,
    planes::Planes,
    predicate::ROWS_MAX,
    types::{Number, Scalar, Truth},
    values::{OpenColumn, Source, truths},
};

use super::{
    Conjunction, Index, Matched, Matches, Subscription,
    atoms::{Atom, AtomColumn, Atoms, float_key},
    memo::{Buffers, Memo, NONE, for_each_bit, pack, set_rows},
    ranks::Ranks,
    slab::Slab,
};

/// Where an anchor leaves fewer than one in so many rows, they are tested one by one.
const SPARSE: usize = 32;

/// A list of at least so many rows is worth two searches among the ranks of a column.
const RANKED_ROWS: usize = 16;

/// Values are put in order when about so many tests for each of them have been made.
const TESTS_A_RANK: usize = 4;

/// Up to so many values of a column without a dictionary are looked at to guess how many differ.
const SAMPLE: usize = 64;

/// Judges a run. See [`Index::evaluate`].
pub(super) fn evaluate<K, R: Rows>(
    index: &mut Index<K>,
    rows: &R,
    found: impl FnMut(&K, Matches<'_>),
) -> Result<(), EvaluateError<R::Error>> {
    let len = rows.len();
    if len > ROWS_MAX {
        return Err(EvaluateError::TooManyRows(len));
    }
    if len == 0 {
        return Ok(());
    }
    let Index { subscriptions, always, whole, conjunctions, atoms, memo, .. } = index;
    memo.start(len, atoms.slots(), subscriptions.slots());
    let slots = atoms.columns().slots();
    let stored: Vec<OnceCell<Stored>> = std::iter::repeat_with(OnceCell::new).take(slots).collect();
    let columns = std::iter::repeat_with(OnceCell::new).take(slots).collect();
    let mut run = Run {
        rows,
        len,
        atoms,
        stored: &stored,
        columns,
        subscriptions,
        conjunctions,
        memo,
        found,
        unsure: false,
    };
    for id in &*always {
        (run.found)(&run.subscriptions[*id].key, Matches(Matched::All(len)));
    }
    for id in &*whole {
        run.judge_whole(*id)?;
    }
    for (id, column) in atoms.columns().iter() {
        if column.has_anchors() {
            run.judge_column(id, column)?;
        }
    }
    run.report_matches();
    let facts: Vec<(u32, Sample)> = run.samples().collect();
    for (column, Sample { sampled, distinct, present }) in facts {
        atoms.learn(column, sampled, distinct, present, len);
    }
    Ok(())
}

/// A column of the run as it is held.
enum Stored {
    Absent,
    Hashed(ListArray),
    Values(ArrayRef),
}

/// A column of the run, opened.
enum RunColumn<'a> {
    Absent,
    /// A list of hashes a row.
    Hashed(&'a ListArray),
    Values(Box<ValueColumn<'a>>),
}

struct ValueColumn<'a> {
    values: OpenColumn<'a>,
    rows_by_place: OnceCell<RowsByPlace>,
    /// `None` inside if there are too many numbers.
    ranks: OnceCell<Option<Ranks>>,
    /// How many values have been tested, about.
    tests: std::cell::Cell<usize>,
}

/// The rows at each value of a dictionary, ascending.
struct RowsByPlace {
    starts: Vec<u32>,
    rows: Vec<u16>,
}

/// What a run says of a column.
struct Sample {
    sampled: usize,
    distinct: usize,
    present: usize,
}

struct Run<'a, K, R: Rows, F> {
    rows: &'a R,
    len: usize,
    atoms: &'a Atoms,
    stored: &'a [OnceCell<Stored>],
    columns: Vec<OnceCell<RunColumn<'a>>>,
    subscriptions: &'a Slab<Subscription<K>>,
    conjunctions: &'a Slab<Conjunction>,
    memo: &'a mut Memo,
    found: F,
    /// Whether what is left of the conjunction in hand may match, but need not.
    unsure: bool,
}

/// Rows that are left.
#[derive(Clone, Copy)]
enum Left<'a> {
    Rows(&'a [u16]),
    Bits(&'a [u64]),
}

impl<'a, K, R: Rows, F: FnMut(&K, Matches<'_>)> Run<'a, K, R, F> {
    fn column(&self, id: u32) -> Result<&RunColumn<'a>, EvaluateError<R::Error>> {
        let cell = &self.columns[id as usize];
        if let Some(column) = cell.get() {
            return Ok(column);
        }
        let name = &self.atoms.columns()[id].name;
        let stored = &self.stored[id as usize];
        let stored = match stored.get() {
            Some(stored) => stored,
            None => {
                let column = name.as_ref().map(|name| self.rows.column(name)).transpose();
                let column = match column.map_err(EvaluateError::Rows)?.flatten() {
                    None => Stored::Absent,
                    Some(column) => {
                        let array = dense_array(name, &column, self.len)?;
                        match (&column, array.as_any().downcast_ref::<ListArray>()) {
                            (Column::Hashed { .. }, Some(list)) => Stored::Hashed(list.clone()),
                            _ => Stored::Values(array),
                        }
                    }
                };
                stored.get_or_init(|| column)
            }
        };
        let column = match stored {
            Stored::Absent => RunColumn::Absent,
            Stored::Hashed(list) => RunColumn::Hashed(list),
            Stored::Values(array) => match OpenColumn::open(array, name.is_system()) {
                Some(values) => RunColumn::Values(Box::new(ValueColumn::new(values))),
                None => {
                    let fault = format!("it has the type {}", array.data_type());
                    return Err(EvaluateError::Column { column: crate::tree::shown(name), fault });
                }
            },
        };
        Ok(cell.get_or_init(|| column))
    }

    /// Looks at all conjunctions that are anchored on a column.
    fn judge_column(&mut self, id: u32, column: &'a AtomColumn) -> Result<(), EvaluateError<R::Error>> {
        if matches!(self.column(id)?, RunColumn::Absent) && column.missing == 0 {
            return Ok(());
        }
        match self.columns[id as usize].get() {
            Some(RunColumn::Values(values)) if column.has_values() => {
                find(values, column, self.memo);
                self.judge_hits(id, false)?;
            }
            Some(RunColumn::Hashed(list)) if column.has_values() => {
                let (anything, rows) = find_by_hash(list, column, self.memo);
                self.judge_hits(id, true)?;
                anything.iter().try_for_each(|atom| self.judge_anchor(*atom, &rows, true))?;
            }
            _ => {}
        }
        for atom in &column.tried {
            self.judge_tried(*atom)?;
        }
        Ok(())
    }

    /// Looks at the conjunctions of all anchors of a column that have been found by value.
    fn judge_hits(&mut self, column: u32, unsure: bool) -> Result<(), EvaluateError<R::Error>> {
        let hit_atoms = std::mem::take(&mut self.memo.hit_atoms);
        let mut anchor_rows = std::mem::take(&mut self.memo.buffers.anchor_rows);
        for atom in &hit_atoms {
            let hit = self.memo.atom(*atom).first_hit;
            gather(self.column(column)?, &self.memo.hits, hit, &mut anchor_rows);
            self.judge_anchor(*atom, &anchor_rows, unsure)?;
        }
        self.memo.buffers.anchor_rows = anchor_rows;
        self.memo.hit_atoms = hit_atoms;
        self.memo.hit_atoms.clear();
        self.memo.hits.clear();
        Ok(())
    }

    fn judge_anchor(&mut self, atom: u32, rows: &[u16], unsure: bool) -> Result<(), EvaluateError<R::Error>> {
        if rows.is_empty() {
            return Ok(());
        }
        let conjunctions = &self.atoms[atom].conjunctions;
        if rows.len() < self.len / SPARSE || rows.len() == 1 {
            return conjunctions.iter().try_for_each(|id| self.judge(*id, Left::Rows(rows), unsure));
        }
        let mut bits = std::mem::take(&mut self.memo.buffers.anchor_bits);
        bits.fill(0);
        set_rows(&mut bits, rows);
        let result = conjunctions.iter().try_for_each(|id| self.judge(*id, Left::Bits(&bits), unsure));
        self.memo.buffers.anchor_bits = bits;
        result
    }

    /// Looks at the conjunctions of an anchor that is not found by value.
    fn judge_tried(&mut self, id: u32) -> Result<(), EvaluateError<R::Error>> {
        let atom = &self.atoms[id];
        if !atom.missing && matches!(self.column(atom.column)?, RunColumn::Absent) {
            return Ok(());
        }
        self.unsure = false;
        let mut bits = std::mem::take(&mut self.memo.buffers.anchor_bits);
        bits.copy_from_slice(self.bitmap(id)?);
        let unsure = self.unsure;
        let count: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
        let result = if count == 0 {
            Ok(())
        } else if count < self.len / SPARSE || count == 1 {
            let mut rows = std::mem::take(&mut self.memo.buffers.anchor_rows);
            rows_of(&bits, &mut rows);
            let mut conjunctions = atom.conjunctions.iter();
            let result = conjunctions.try_for_each(|id| self.judge(*id, Left::Rows(&rows), unsure));
            self.memo.buffers.anchor_rows = rows;
            result
        } else {
            atom.conjunctions.iter().try_for_each(|id| self.judge(*id, Left::Bits(&bits), unsure))
        };
        self.memo.buffers.anchor_bits = bits;
        result
    }

    /// Tests the other atoms of a conjunction where its anchor holds.
    fn judge(&mut self, id: u32, anchor: Left<'_>, unsure: bool) -> Result<(), EvaluateError<R::Error>> {
        let Conjunction { subscription, atoms, is_partial, is_single, .. } = &self.conjunctions[id];
        if !is_single && self.memo.is_reported(*subscription) {
            return Ok(());
        }
        self.memo.visited += 1;
        self.unsure = unsure || *is_partial;
        let rest = &atoms.as_slice()[1..];
        if rest.is_empty() {
            return self.report(*subscription, *is_single, anchor);
        }
        let Buffers { rows, bits, .. } = &mut self.memo.buffers;
        let (mut rows, mut bits) = (std::mem::take(rows), std::mem::take(bits));
        let left = self.judge_rest(rest, anchor, &mut rows, &mut bits);
        let result = left.and_then(|left| match left {
            Some(left) => self.report(*subscription, *is_single, left),
            None => Ok(()),
        });
        (self.memo.buffers.rows, self.memo.buffers.bits) = (rows, bits);
        result
    }

    /// What the atoms leave of an anchor's rows; `None` if nothing.
    fn judge_rest<'b>(
        &mut self,
        rest: &[u32],
        anchor: Left<'_>,
        rows: &'b mut Vec<u16>,
        bits: &'b mut Vec<u64>,
    ) -> Result<Option<Left<'b>>, EvaluateError<R::Error>> {
        let mut rest = rest.iter();
        match anchor {
            Left::Rows(anchor) => {
                rows.clear();
                rows.extend_from_slice(anchor);
            }
            Left::Bits(anchor) => {
                bits.clear();
                bits.extend_from_slice(anchor);
                loop {
                    let Some(atom) = rest.next() else {
                        return Ok(bits.iter().any(|word| *word != 0).then_some(Left::Bits(bits)));
                    };
                    for (word, other) in bits.iter_mut().zip(self.bitmap(*atom)?) {
                        *word &= other;
                    }
                    if rest.as_slice().is_empty() {
                        continue;
                    }
                    let count: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
                    if count < self.len / SPARSE {
                        rows_of(bits, rows);
                        break;
                    }
                }
            }
        }
        for atom in rest {
            if rows.is_empty() {
                break;
            }
            self.retain(*atom, rows)?;
        }
        Ok((!rows.is_empty()).then_some(Left::Rows(rows)))
    }

    /// Keeps the rows where an atom holds.
    fn retain(&mut self, id: u32, rows: &mut Vec<u16>) -> Result<(), EvaluateError<R::Error>> {
        let atom = &self.atoms[id];
        self.column(atom.column)?;
        let column = match self.columns[atom.column as usize].get() {
            Some(RunColumn::Values(column)) => column,
            Some(RunColumn::Hashed(_)) => {
                self.unsure = true;
                return Ok(());
            }
            Some(RunColumn::Absent) | None => {
                if !atom.missing {
                    rows.clear();
                }
                return Ok(());
            }
        };
        let range = atom.number_range();
        if range.is_some() && rows.len() < RANKED_ROWS {
            // As quick as to look for something better.
            rows.retain(|row| column.holds(atom, usize::from(*row)));
            return Ok(());
        }
        let state = *self.memo.atom(id);
        if state.lut == NONE
            && let Some((range, negated)) = range
            && let Some(ranks) = column.ranks(rows.len())
        {
            let interval = ranks.interval(range, negated);
            rows.retain(|row| ranks.has(interval, usize::from(*row)));
            return Ok(());
        }
        let places = column.places();
        let tests = state.tests as usize + rows.len();
        if state.lut == NONE && (tests * 4 < places || !self.memo.has_room_for_lut(places)) {
            column.tests.set(column.tests.get() + rows.len());
            rows.retain(|row| column.holds(atom, usize::from(*row)));
            self.memo.atom(id).tests = tests as u32;
            return Ok(());
        }
        let lut = match state.lut {
            NONE => {
                let lut = column.truths(atom);
                self.memo.keep_lut(id, lut)
            }
            kept => kept,
        };
        let lut = self.memo.lut(lut);
        rows.retain(|row| match column.place(usize::from(*row)) {
            Some(place) => lut[place] == Truth::True as u8,
            None => atom.missing,
        });
        Ok(())
    }

    /// The rows where an atom holds.
    fn bitmap(&mut self, id: u32) -> Result<&[u64], EvaluateError<R::Error>> {
        let atom = &self.atoms[id];
        self.column(atom.column)?;
        let Some(column) = self.columns[atom.column as usize].get() else { return Ok(&[]) };
        self.unsure |= matches!(column, RunColumn::Hashed(_));
        let len = self.len;
        Ok(self.memo.bitmap_of(id, |memo, words| {
            match column {
                RunColumn::Absent => words.fill(if atom.missing { u64::MAX } else { 0 }),
                RunColumn::Hashed(_) => words.fill(u64::MAX),
                RunColumn::Values(column) => column.fill(id, atom, memo, words),
            }
            if !len.is_multiple_of(64)
                && let Some(last) = words.last_mut()
            {
                *last &= (1 << (len % 64)) - 1;
            }
        }))
    }

    /// Reports the rows that one conjunction of a subscription leaves.
    fn report(&mut self, id: u32, is_single: bool, left: Left<'_>) -> Result<(), EvaluateError<R::Error>> {
        let subscription = &self.subscriptions[id];
        match (is_single, self.unsure) {
            (true, false) => {
                let matched = match left {
                    Left::Rows(rows) => Matched::Rows(rows),
                    Left::Bits(words) => Matched::Bits { words, len: self.len },
                };
                (self.found)(&subscription.key, Matches(matched));
                Ok(())
            }
            (true, true) => {
                let mut words = vec![0; self.memo.words];
                match left {
                    Left::Rows(rows) => set_rows(&mut words, rows),
                    Left::Bits(bits) => words.copy_from_slice(bits),
                }
                let only = Planes::plane(words, self.len);
                let matches = subscription.predicate().matches(self.rows, Some(&only))?;
                if matches.has_true() {
                    (self.found)(&subscription.key, Matches(Matched::Buffer(&matches)));
                }
                Ok(())
            }
            (false, false) => {
                let Some(words) = self.memo.matches_of(id) else { return self.judge_whole(id) };
                match left {
                    Left::Rows(rows) => set_rows(words, rows),
                    Left::Bits(bits) => words.iter_mut().zip(bits).for_each(|(word, other)| *word |= other),
                }
                Ok(())
            }
            (false, true) => self.judge_whole(id),
        }
    }

    /// Has a selector judged by its own predicate.
    fn judge_whole(&mut self, id: u32) -> Result<(), EvaluateError<R::Error>> {
        self.memo.set_reported(id);
        let subscription = &self.subscriptions[id];
        let matches = subscription.predicate().matches(self.rows, None)?;
        if matches.has_true() {
            (self.found)(&subscription.key, Matches(Matched::Buffer(&matches)));
        }
        Ok(())
    }

    /// Reports the subscriptions with several conjunctions.
    fn report_matches(&mut self) {
        for (number, id) in self.memo.matching.iter().enumerate() {
            if !self.memo.is_reported(*id) {
                let words = self.memo.matches(number);
                (self.found)(&self.subscriptions[*id].key, Matches(Matched::Bits { words, len: self.len }));
            }
        }
    }

    fn samples(&self) -> impl Iterator<Item = (u32, Sample)> {
        (0..).zip(&self.columns).filter_map(|(id, column)| match column.get()? {
            RunColumn::Values(column) => Some((id, column.sample(self.len))),
            RunColumn::Absent | RunColumn::Hashed(_) => None,
        })
    }
}

/// Finds the anchors of a column that ask for values of the run.
fn find(values: &ValueColumn<'_>, column: &AtomColumn, memo: &mut Memo) {
    // Row numbers and codes have 16 bits.
    for place in 0..=u16::MAX {
        if usize::from(place) >= values.places() {
            break;
        }
        let value = values.at(usize::from(place));
        if !column.texts.is_empty() {
            let atoms = value.map_text(|text| column.texts.get(text)).flatten();
            atoms.into_iter().for_each(|atoms| atoms.for_each(|atom| memo.hit(atom, place)));
        }
        if column.ints.is_empty() && column.floats.is_empty() {
            continue;
        }
        let atoms = value.as_number().and_then(|number| match number {
            Number::Int(value) => column.ints.get(&value),
            Number::Float(value) => column.floats.get(&float_key(value)),
        });
        atoms.into_iter().for_each(|atoms| atoms.for_each(|atom| memo.hit(atom, place)));
    }
}

/// Finds the anchors of a column of hashes that ask for texts; they hold at most where they are found.
///
/// Returns the anchors that ask for numbers, of which hashes say nothing, and the rows that have a value.
fn find_by_hash(list: &ListArray, column: &AtomColumn, memo: &mut Memo) -> (Vec<u32>, Vec<u16>) {
    let mut anything = Vec::new();
    let numbers = column.ints.values().chain(column.floats.values());
    numbers.for_each(|atoms| atoms.for_each(|atom| anything.push(atom)));
    anything.sort_unstable();
    anything.dedup();
    let mut present = Vec::new();
    let Some(hashes) = list.values().as_any().downcast_ref::<UInt32Array>() else {
        return (anything, present);
    };
    let mut rows: HashMap<&[u32], Vec<u16>, foldhash::fast::RandomState> = HashMap::default();
    for (row, ends) in (0..=u16::MAX).zip(list.value_offsets().windows(2)) {
        let hashes = &hashes.values()[ends[0] as usize..ends[1] as usize];
        if !hashes.is_empty() {
            rows.entry(hashes).or_default().push(row);
            present.push(row);
        }
    }
    for (text, atoms) in &column.texts {
        for row in rows.get(hashes_of_parts(text).as_slice()).into_iter().flatten() {
            atoms.for_each(|atom| {
                if anything.binary_search(&atom).is_err() {
                    memo.hit(atom, *row);
                }
            });
        }
    }
    (anything, present)
}

/// The rows of an anchor, ascending, from the chain of its hits.
fn gather(column: &RunColumn<'_>, hits: &[super::memo::Hit], first: u32, rows: &mut Vec<u16>) {
    rows.clear();
    let mut next = first;
    while let Some(hit) = hits.get(next as usize) {
        match column {
            RunColumn::Values(column) => column.extend_rows(hit.place, rows),
            RunColumn::Absent | RunColumn::Hashed(_) => rows.push(hit.place),
        }
        next = hit.next;
    }
    if !rows.is_sorted() {
        rows.sort_unstable();
    }
    // `x IN ('5', 5)` finds the text 5 twice.
    rows.dedup();
}

fn rows_of(words: &[u64], rows: &mut Vec<u16>) {
    rows.clear();
    for_each_bit(words, |row| rows.push(row as u16));
}

impl<'a> ValueColumn<'a> {
    fn new(values: OpenColumn<'a>) -> Self {
        Self {
            values,
            rows_by_place: OnceCell::new(),
            ranks: OnceCell::new(),
            tests: std::cell::Cell::new(0),
        }
    }

    /// How many values there are: distinct ones of a dictionary, else one a row.
    fn places(&self) -> usize {
        match &self.values {
            OpenColumn::Dictionary { values, .. } | OpenColumn::Plain { values, .. } => values.len(),
            OpenColumn::Ints(ints) => ints.len(),
        }
    }

    /// The number of a row's value.
    fn place(&self, row: usize) -> Option<usize> {
        match &self.values {
            OpenColumn::Dictionary { codes, .. } => {
                codes.is_valid(row).then(|| usize::from(codes.value(row)))
            }
            OpenColumn::Plain { present, .. } => {
                present.is_none_or(|present| present.is_valid(row)).then_some(row)
            }
            OpenColumn::Ints(ints) => ints.ints.is_valid(row).then_some(row),
        }
    }

    /// A value by its number.
    fn at(&self, place: usize) -> Scalar<'_> {
        match &self.values {
            OpenColumn::Dictionary { values, .. } => values.scalar(place),
            OpenColumn::Plain { .. } | OpenColumn::Ints(_) => self.values.scalar(place),
        }
    }

    fn holds(&self, atom: &Atom, row: usize) -> bool {
        match &self.values {
            OpenColumn::Dictionary { codes, .. } if codes.is_null(row) => atom.missing,
            _ => atom.holds(self.values.scalar(row)),
        }
    }

    /// The answer at each value; where a value is missing, it means nothing.
    fn truths(&self, atom: &Atom) -> Vec<u8> {
        match &self.values {
            OpenColumn::Dictionary { values, .. } | OpenColumn::Plain { values, .. } => {
                truths(&atom.condition, values)
            }
            OpenColumn::Ints(ints) => truths(&atom.condition, ints),
        }
    }

    fn nulls(&self) -> Option<&NullBuffer> {
        let nulls = match &self.values {
            OpenColumn::Dictionary { codes, .. } => codes.nulls(),
            OpenColumn::Plain { present, .. } => *present,
            OpenColumn::Ints(ints) => ints.ints.nulls(),
        };
        nulls.filter(|nulls| nulls.null_count() > 0)
    }

    /// Appends the rows of a value.
    fn extend_rows(&self, place: u16, rows: &mut Vec<u16>) {
        let OpenColumn::Dictionary { codes, values } = &self.values else {
            rows.push(place);
            return;
        };
        let by_place = self.rows_by_place.get_or_init(|| RowsByPlace::new(codes, values.len()));
        let ends = &by_place.starts[usize::from(place)..][..2];
        rows.extend_from_slice(&by_place.rows[ends[0] as usize..ends[1] as usize]);
    }

    /// The ranks of the numbers, if it pays to have them, counting `tests` more that they would save.
    fn ranks(&self, tests: usize) -> Option<&Ranks> {
        self.tests.set(self.tests.get() + tests);
        if self.ranks.get().is_none() && self.tests.get() < self.places() * TESTS_A_RANK {
            return None;
        }
        let number = |place| self.at(place).as_number();
        let rows = self.rows();
        let ranks = self.ranks.get_or_init(|| Ranks::new(self.places(), rows, number, |row| self.place(row)));
        ranks.as_ref()
    }

    fn rows(&self) -> usize {
        match &self.values {
            OpenColumn::Dictionary { codes, .. } => codes.len(),
            OpenColumn::Plain { .. } | OpenColumn::Ints(_) => self.places(),
        }
    }

    /// Sets the bits of all rows where an atom holds.
    fn fill(&self, id: u32, atom: &Atom, memo: &mut Memo, words: &mut [u64]) {
        let places = self.places();
        let kept = memo.atom(id).lut;
        if kept == NONE
            && let Some((range, negated)) = atom.number_range()
            && let Some(ranks) = self.ranks(places / 4)
        {
            ranks.bitmap(ranks.interval(range, negated), words);
            return;
        }
        let fresh = if kept == NONE { self.truths(atom) } else { Vec::new() };
        let lut = if kept == NONE { &fresh } else { memo.lut(kept) };
        match &self.values {
            OpenColumn::Dictionary { codes, .. } => {
                // Under a null any code may lie.
                let holds = |code: u16| lut.get(usize::from(code)) == Some(&(Truth::True as u8));
                pack(codes.values(), words, holds);
            }
            OpenColumn::Plain { .. } | OpenColumn::Ints(_) => {
                pack(lut, words, |truth| truth == Truth::True as u8);
            }
        }
        if let Some(nulls) = self.nulls() {
            let valid = nulls.inner().bit_chunks();
            for (word, valid) in words.iter_mut().zip(valid.iter_padded()) {
                *word = if atom.missing { *word | !valid } else { *word & valid };
            }
        }
    }

    fn sample(&self, len: usize) -> Sample {
        let present = len - self.nulls().map_or(0, NullBuffer::null_count);
        match &self.values {
            OpenColumn::Dictionary { values, .. } => {
                Sample { sampled: present, distinct: values.len(), present }
            }
            // It would be a dictionary if many were equal.
            OpenColumn::Plain { .. } => Sample { sampled: present, distinct: present, present },
            OpenColumn::Ints(ints) => {
                let step = (len / SAMPLE).max(1);
                let rows = (0..len).step_by(step).filter(|row| ints.ints.is_valid(*row));
                let mut values: Vec<i64> = rows.map(|row| ints.ints.value(row)).collect();
                let sampled = values.len();
                values.sort_unstable();
                values.dedup();
                Sample { sampled, distinct: values.len(), present }
            }
        }
    }
}

impl RowsByPlace {
    fn new(codes: &arrow_array::UInt16Array, places: usize) -> Self {
        let mut starts = vec![0_u32; places + 1];
        let valid = |row: &usize| codes.is_valid(*row);
        for row in (0..codes.len()).filter(valid) {
            starts[usize::from(codes.value(row)) + 1] += 1;
        }
        for place in 0..places {
            starts[place + 1] += starts[place];
        }
        let mut next = starts.clone();
        let mut rows = vec![0_u16; starts[places] as usize];
        for row in (0..codes.len()).filter(valid) {
            let at = &mut next[usize::from(codes.value(row))];
            rows[*at as usize] = row as u16;
            *at += 1;
        }
        Self { starts, rows }
    }
}
