//! Which blocks may hold a match, by their statistics alone.
//!
//! For each condition and block the set of truth values that some row may have is computed, never too
//! small: from what is known of missing values, kinds, bounds and Bloom filters. What is not kept
//! allows everything. A block goes where TRUE is not in the set.
//!
//! Numbers of untyped text have no bounds where they are [`Kind::Odd`], because `05`, `+5` and `5` are
//! the same number and different texts.

use arrow_array::{Array, BinaryArray, PrimitiveArray, types::ArrowPrimitiveType};
use arrow_buffer::BooleanBuffer;
use weir_columns::{ColumnStatistics, Kind, KindSet, Presence, Statistics};

use crate::{
    pattern::Pattern,
    range::{NumberRange, TextBound, TextRange},
    syntax::{Comparison, Connective},
    tree::{Check, ColumnName, Condition, Set, Test, Tree},
    types::{Scalar, Truth},
};

/// One bit a block: whether some row may match.
pub(crate) fn may_match(tree: &Tree, statistics: &dyn Statistics) -> BooleanBuffer {
    let blocks = statistics.blocks();
    let column = |name: &ColumnName| match name.as_ref() {
        Some(name) => checked(statistics.column(name), blocks),
        None => Presence::Unknown,
    };
    let columns = tree.columns.iter().map(column).collect();
    let rows = (0..blocks).map(|block| statistics.rows(block)).collect();
    let possible = Pruner { rows, columns }.possible(&tree.condition);
    BooleanBuffer::collect_bool(blocks, |block| possible[block].has(Truth::True))
}

/// Statistics that do not speak of every block say nothing.
fn checked(column: Presence<ColumnStatistics>, blocks: usize) -> Presence<ColumnStatistics> {
    match column {
        Presence::Kept(kept) => {
            let lengths = [
                kept.missing.len(),
                kept.kinds.len(),
                kept.text_min.len(),
                kept.text_max.len(),
                kept.int_min.len(),
                kept.int_max.len(),
                kept.float_min.len(),
                kept.float_max.len(),
                kept.bloom.len(),
            ];
            if lengths.iter().all(|len| *len == blocks) { Presence::Kept(kept) } else { Presence::Unknown }
        }
        other => other,
    }
}

/// A set of truth values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Possible(u8);

impl Possible {
    const NONE: Self = Self(0);
    const ALL: Self = Self(0b111);
    const UNKNOWN: Self = Self::of(Truth::Unknown);

    const fn of(truth: Truth) -> Self {
        Self(1 << truth as u8)
    }

    /// `True` and `False`, as far as each is possible.
    const fn known(may_be_true: bool, may_be_false: bool) -> Self {
        Self((may_be_true as u8) << Truth::True as u8 | (may_be_false as u8) << Truth::False as u8)
    }

    const fn has(self, truth: Truth) -> bool {
        self.0 & (1 << truth as u8) != 0
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn or_if(self, condition: bool, other: Self) -> Self {
        if condition { self.or(other) } else { self }
    }

    const fn negated(self) -> Self {
        let turned = Self::known(self.has(Truth::False), self.has(Truth::True));
        Self(turned.0 | self.0 & Self::UNKNOWN.0)
    }

    fn negated_if(self, negated: bool) -> Self {
        if negated { self.negated() } else { self }
    }

    /// All that two sets can give when their members are combined.
    fn combined(self, combine: impl Fn(Truth, Truth) -> Truth, other: Self) -> Self {
        let mut all = Self::NONE;
        for a in TRUTHS.into_iter().filter(|a| self.has(*a)) {
            for b in TRUTHS.into_iter().filter(|b| other.has(*b)) {
                all = all.or(Self::of(combine(a, b)));
            }
        }
        all
    }
}

const TRUTHS: [Truth; 3] = [Truth::False, Truth::Unknown, Truth::True];

struct Pruner {
    /// How many rows each block has.
    rows: Vec<usize>,
    /// What is known of each column of the tree.
    columns: Vec<Presence<ColumnStatistics>>,
}

impl Pruner {
    fn blocks(&self) -> std::ops::Range<usize> {
        0..self.rows.len()
    }

    /// The possible truth values, one set a block.
    fn possible(&self, condition: &Condition) -> Vec<Possible> {
        match condition {
            Condition::Constant(truth) => vec![Possible::of(*truth); self.rows.len()],
            Condition::Test(test) => self.test(test),
            Condition::IsUnknown { condition, negated } => {
                let mut possible = self.possible(condition);
                for set in &mut possible {
                    let known = set.has(Truth::True) || set.has(Truth::False);
                    *set = Possible::known(set.has(Truth::Unknown), known).negated_if(*negated);
                }
                possible
            }
            Condition::Same { sides, negated } => {
                let [mut left, right] = sides.each_ref().map(|side| self.possible(side));
                for (set, other) in left.iter_mut().zip(&right) {
                    *set = set.combined(Truth::same_as, *other).negated_if(*negated);
                }
                left
            }
            Condition::Junction { connective, terms } => self.junction(*connective, terms),
        }
    }

    fn junction(&self, connective: Connective, terms: &[Condition]) -> Vec<Possible> {
        let mut table = [[Possible::NONE; 8]; 8];
        for (a, row) in (0..).zip(&mut table) {
            for (b, cell) in (0..).zip(row) {
                *cell = Possible(a).combined(|a, b| connective.combine(a, b), Possible(b));
            }
        }
        let mut sets = terms.iter().map(|term| self.possible(term));
        let mut result = sets.next().unwrap_or_default();
        for term in sets {
            for (set, other) in result.iter_mut().zip(&term) {
                *set = table[usize::from(set.0)][usize::from(other.0)];
            }
        }
        result
    }

    fn test(&self, test: &Test) -> Vec<Possible> {
        let mut possible = match (&test.check, test.check.plain_column()) {
            (check, Some(column)) => self.on_column(column, check),
            (check, None) => self.computed(check),
        };
        if test.negated {
            for set in &mut possible {
                *set = set.negated();
            }
        }
        possible
    }

    /// A check that computes, or looks at several columns: where one without which there is no result has
    /// no value, there is none; else nothing is known.
    fn computed(&self, check: &Check) -> Vec<Possible> {
        let mut columns = Vec::new();
        check.for_each_strict_column(&mut |column| columns.push(column));
        let (missing, present) = match check {
            Check::Null { .. } => (Possible::of(Truth::True), Possible::known(true, true)),
            _ => (Possible::UNKNOWN, Possible::ALL),
        };
        let set = |block| {
            let is_missing = columns.iter().any(|column| match &self.columns[*column] {
                Presence::Absent => true,
                Presence::Unknown => false,
                Presence::Kept(kept) => !self.presence(kept, block).has_values,
            });
            match self.rows[block] {
                0 => Possible::NONE,
                _ if is_missing => missing,
                _ => present,
            }
        };
        self.blocks().map(set).collect()
    }

    /// A check that asks one column as it is.
    fn on_column(&self, column: usize, check: &Check) -> Vec<Possible> {
        let missing = Possible::of(check.truth(&|_| Scalar::Null));
        let kept = match &self.columns[column] {
            Presence::Kept(kept) => kept,
            Presence::Absent => {
                return self.blocks().map(|block| self.unless_empty(block, missing)).collect();
            }
            Presence::Unknown => {
                return self.blocks().map(|block| self.unless_empty(block, Possible::ALL)).collect();
            }
        };
        match check {
            Check::Null { .. } => self.each(kept, missing, |_| Possible::of(Truth::False)),
            Check::Number { range, .. } => self.each(kept, missing, |block| number(kept, block, range)),
            Check::Text { range, .. } => self.each(kept, missing, |block| text(kept, block, range)),
            Check::Boolean { .. } => self.each(kept, missing, |block| boolean(kept, block)),
            Check::In { set, .. } => {
                let list = List::new(set);
                self.each(kept, missing, |block| list.possible(kept, block))
            }
            Check::Like { pattern, .. } => self.each(kept, missing, |block| like(kept, block, pattern)),
            Check::Regexp { .. } => self.each(kept, missing, |block| any_text(kept, block)),
            // Both sides are the same column.
            Check::Compare { .. } => self.each(kept, missing, |_| Possible::ALL),
        }
    }

    fn unless_empty(&self, block: usize, set: Possible) -> Possible {
        if self.rows[block] == 0 { Possible::NONE } else { set }
    }

    /// The set of each block: of its values by `of_values`, and `missing` where it has gaps.
    fn each(
        &self,
        kept: &ColumnStatistics,
        missing: Possible,
        of_values: impl Fn(usize) -> Possible,
    ) -> Vec<Possible> {
        let set = |block| {
            let presence = self.presence(kept, block);
            let values = if presence.has_values { of_values(block) } else { Possible::NONE };
            let all = if presence.is_kept { values } else { Possible::ALL };
            self.unless_empty(block, all.or_if(presence.has_gaps, missing))
        };
        self.blocks().map(set).collect()
    }

    fn presence(&self, kept: &ColumnStatistics, block: usize) -> BlockPresence {
        match get(&kept.missing, block) {
            None => BlockPresence { is_kept: false, has_values: true, has_gaps: true },
            Some(missing) => BlockPresence {
                is_kept: true,
                has_values: (missing as usize) < self.rows[block],
                has_gaps: missing > 0,
            },
        }
    }
}

#[derive(Clone, Copy)]
struct BlockPresence {
    is_kept: bool,
    has_values: bool,
    has_gaps: bool,
}

fn get<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, block: usize) -> Option<T::Native> {
    array.is_valid(block).then(|| array.value(block))
}

fn bytes(array: &BinaryArray, block: usize) -> Option<&[u8]> {
    array.is_valid(block).then(|| array.value(block))
}

const fn kinds<const N: usize>(kinds: [Kind; N]) -> KindSet {
    let mut set = KindSet(0);
    let mut index = 0;
    while index < N {
        set = set.with(kinds[index]);
        index += 1;
    }
    set
}

const INTS: KindSet = kinds([Kind::Int, Kind::I32, Kind::I64]);
const FLOATS: KindSet = kinds([Kind::Float, Kind::F32, Kind::F64]);
const ODD: KindSet = kinds([Kind::Odd]);
/// Values that are no number, or may be NaN.
const NOT_ALWAYS_NUMBERS: KindSet = kinds([Kind::Text, Kind::Str, Kind::Bool, Kind::F32, Kind::F64]);
const TEXTS: KindSet = kinds([Kind::Text, Kind::Odd, Kind::Int, Kind::Float, Kind::Str]);
const NOT_TEXTS: KindSet = kinds([Kind::Bool, Kind::I32, Kind::I64, Kind::F32, Kind::F64]);
const BOOLEANS: KindSet = kinds([Kind::Bool, Kind::Text]);
const NOT_ALWAYS_BOOLEANS: KindSet = KindSet(KindSet(0x3ff).0 & !kinds([Kind::Bool]).0);

fn kinds_of(kept: &ColumnStatistics, block: usize) -> KindSet {
    kept.kinds_of(block).unwrap_or(KindSet(u16::MAX))
}

fn number(kept: &ColumnStatistics, block: usize, range: &NumberRange) -> Possible {
    let kinds = kinds_of(kept, block);
    let mut possible = Possible::NONE.or_if(kinds.intersects(NOT_ALWAYS_NUMBERS), Possible::UNKNOWN);
    if kinds.intersects(ODD) {
        return Possible::ALL;
    }
    if kinds.intersects(INTS) {
        possible = possible.or(in_range(range.ints, int_bounds(kept, block)));
    }
    if kinds.intersects(FLOATS) {
        possible = possible.or(in_range(range.floats, float_bounds(kept, block)));
    }
    possible
}

fn int_bounds(kept: &ColumnStatistics, block: usize) -> (i64, i64) {
    (get(&kept.int_min, block).unwrap_or(i64::MIN), get(&kept.int_max, block).unwrap_or(i64::MAX))
}

fn float_bounds(kept: &ColumnStatistics, block: usize) -> (f64, f64) {
    let number = |value: &f64| !value.is_nan();
    (
        get(&kept.float_min, block).filter(number).unwrap_or(f64::NEG_INFINITY),
        get(&kept.float_max, block).filter(number).unwrap_or(f64::INFINITY),
    )
}

/// Whether values between `min` and `max` may lie in and out of the range.
fn in_range<T: PartialOrd + Copy>(range: Option<(T, T)>, (min, max): (T, T)) -> Possible {
    match range {
        None => Possible::of(Truth::False),
        Some((low, high)) => Possible::known(low <= max && min <= high, min < low || high < max),
    }
}

fn text(kept: &ColumnStatistics, block: usize, range: &TextRange) -> Possible {
    let kinds = kinds_of(kept, block);
    let possible = Possible::NONE.or_if(kinds.intersects(NOT_TEXTS), Possible::UNKNOWN);
    if !kinds.intersects(TEXTS) {
        return possible;
    }
    let (min, max) = (bytes(&kept.text_min, block), bytes(&kept.text_max, block));
    let above = |text: &[u8], bound: &TextBound| {
        text > bound.text.as_bytes() || (bound.inclusive && text == bound.text.as_bytes())
    };
    let below = |text: &[u8], bound: &TextBound| {
        text < bound.text.as_bytes() || (bound.inclusive && text == bound.text.as_bytes())
    };
    let (low, high) = (range.low.as_ref(), range.high.as_ref());
    let may_be_inside = low.is_none_or(|low| max.is_none_or(|max| above(max, low)))
        && high.is_none_or(|high| min.is_none_or(|min| below(min, high)))
        && range.single().is_none_or(|single| kept.may_contain(block, single));
    let are_inside = low.is_none_or(|low| min.is_some_and(|min| above(min, low)))
        && high.is_none_or(|high| max.is_some_and(|max| below(max, high)));
    possible.or(Possible::known(may_be_inside, !are_inside))
}

fn boolean(kept: &ColumnStatistics, block: usize) -> Possible {
    let kinds = kinds_of(kept, block);
    let possible = Possible::NONE.or_if(kinds.intersects(NOT_ALWAYS_BOOLEANS), Possible::UNKNOWN);
    if !kinds.intersects(BOOLEANS) {
        return possible;
    }
    possible.or(Possible::known(may_be_boolean(kept, block, true), may_be_boolean(kept, block, false)))
}

/// Whether some text may be this boolean, in any case of its letters.
fn may_be_boolean(kept: &ColumnStatistics, block: usize, value: bool) -> bool {
    let (upper, lower): (&[u8], &[u8]) = if value { (b"TRUE", b"true") } else { (b"FALSE", b"false") };
    may_overlap(kept, block, upper, lower)
}

/// Whether some text may lie between two texts.
fn may_overlap(kept: &ColumnStatistics, block: usize, low: &[u8], high: &[u8]) -> bool {
    bytes(&kept.text_max, block).is_none_or(|max| low <= max)
        && bytes(&kept.text_min, block).is_none_or(|min| min <= high)
}

/// A question to texts of which nothing is known but that others than texts give no answer.
fn any_text(kept: &ColumnStatistics, block: usize) -> Possible {
    let kinds = kinds_of(kept, block);
    Possible::NONE
        .or_if(kinds.intersects(NOT_TEXTS), Possible::UNKNOWN)
        .or_if(kinds.intersects(TEXTS), Possible::known(true, true))
}

fn like(kept: &ColumnStatistics, block: usize, pattern: &Pattern) -> Possible {
    if let Some(single) = pattern.single() {
        return text(kept, block, &TextRange::new(Comparison::Equal, single));
    }
    let kinds = kinds_of(kept, block);
    let possible = Possible::NONE.or_if(kinds.intersects(NOT_TEXTS), Possible::UNKNOWN);
    if !kinds.intersects(TEXTS) {
        return possible;
    }
    let prefix = pattern.prefix().as_bytes();
    let (min, max) = (bytes(&kept.text_min, block), bytes(&kept.text_max, block));
    let may_match =
        max.is_none_or(|max| prefix <= max) && min.is_none_or(|min| min <= prefix || min.starts_with(prefix));
    let has_prefix =
        |bound: Option<&[u8]>| prefix.is_empty() || bound.is_some_and(|text| text.starts_with(prefix));
    let all_match = pattern.is_prefix() && has_prefix(min) && has_prefix(max);
    possible.or(Possible::known(may_match, !all_match))
}

/// The entries of a list, as ranges.
struct List<'a> {
    set: &'a Set,
    numbers: Vec<NumberRange>,
}

impl<'a> List<'a> {
    fn new(set: &'a Set) -> Self {
        let range = |number| NumberRange::new(Comparison::Equal, number);
        Self { set, numbers: set.numbers.iter().copied().map(range).collect() }
    }

    fn possible(&self, kept: &ColumnStatistics, block: usize) -> Possible {
        let kinds = kinds_of(kept, block);
        let has = |of: KindSet| kinds.intersects(of);
        let Set { texts, booleans, .. } = self.set;
        let may_be_unknown = (!texts.is_empty() && has(NOT_TEXTS))
            || (!self.numbers.is_empty() && (has(NOT_ALWAYS_NUMBERS) || has(ODD)))
            || (!booleans.is_empty() && has(NOT_ALWAYS_BOOLEANS));
        let equals_text = || {
            texts.iter().any(|text| {
                may_overlap(kept, block, text.as_bytes(), text.as_bytes()) && kept.may_contain(block, text)
            })
        };
        let may_be_true = (has(TEXTS) && equals_text())
            || self.numbers.iter().any(|range| number(kept, block, range).has(Truth::True))
            || (has(BOOLEANS) && booleans.iter().any(|value| may_be_boolean(kept, block, *value)));
        Possible::known(may_be_true, true).or_if(may_be_unknown, Possible::UNKNOWN)
    }
}
