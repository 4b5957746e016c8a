//! Atoms: conditions on one column, each kept once however many selectors have it.
//!
//! Each column knows which of its atoms are anchors. Those that ask for certain values are found by value;
//! the others are tried with every run that has the column.

use std::{
    fmt::{self, Write},
    hash::{BuildHasher, Hash, Hasher},
};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet, HashTable};

use crate::{
    operand::Operand,
    range::{NumberRange, TextBound},
    syntax::Comparison,
    tree::{Check, ColumnName, Condition, Test},
    types::{Scalar, Truth},
};

use super::slab::Slab;

/// A condition on one column.
#[derive(Debug)]
pub(super) struct Atom {
    /// Its place in [`Atoms::columns`].
    pub(super) column: u32,
    /// Its only column has the number 0.
    pub(super) condition: Condition,
    /// Whether it holds where the column has no value.
    pub(super) missing: bool,
    /// The conjunctions that it anchors.
    pub(super) conjunctions: Vec<u32>,
    /// Where it stands among the anchors of its column that are tried.
    tried_at: usize,
    /// How many conjunctions have it.
    uses: u32,
    hash: u64,
}

impl Atom {
    pub(super) fn holds(&self, value: Scalar<'_>) -> bool {
        self.condition.truth(&|_| value) == Truth::True
    }

    /// The range of numbers for which it holds or, the second is `true`, does not; `None` if it asks for
    /// something else. Where there is no number, it never holds.
    pub(super) fn number_range(&self) -> Option<(&NumberRange, bool)> {
        match &self.condition {
            Condition::Test(Test { check, negated }) => match check {
                Check::Number { range, .. } if check.plain_column().is_some() => Some((range, *negated)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A column that atoms look at.
#[derive(Debug)]
pub(super) struct AtomColumn {
    pub(super) name: ColumnName,
    /// Anchors by the text that they ask for.
    pub(super) texts: HashMap<Box<str>, Few, RandomState>,
    /// Anchors by the integer that they ask for.
    pub(super) ints: HashMap<i64, Few, RandomState>,
    /// Anchors by the bits of the float that they ask for.
    pub(super) floats: HashMap<u64, Few, RandomState>,
    /// Anchors that are tried with every run.
    pub(super) tried: Vec<u32>,
    /// How many of the tried anchors hold where the value is missing.
    pub(super) missing: usize,
    uses: u32,
    /// What has been seen of the column.
    seen: Option<Facts>,
    /// What anchors have been chosen by.
    chosen_by: Facts,
}

/// What decides how selective the atoms of a column are.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Distinct values.
    distinct: f32,
    /// The share of rows that have a value.
    present: f32,
}

/// What is thought of a column before any row has been seen.
const UNSEEN: Facts = Facts { distinct: 100.0, present: 1.0 };

impl AtomColumn {
    fn new(name: ColumnName) -> Self {
        Self {
            name,
            texts: HashMap::default(),
            ints: HashMap::default(),
            floats: HashMap::default(),
            tried: Vec::new(),
            missing: 0,
            uses: 0,
            seen: None,
            chosen_by: UNSEEN,
        }
    }

    pub(super) fn has_anchors(&self) -> bool {
        self.has_values() || !self.tried.is_empty()
    }

    /// Whether there are anchors that are found by value.
    pub(super) fn has_values(&self) -> bool {
        !(self.texts.is_empty() && self.ints.is_empty() && self.floats.is_empty())
    }

    /// The list of anchors for a value.
    fn list(&mut self, key: Key<'_>) -> &mut Few {
        match key {
            Key::Text(text) => self.texts.entry(text.into()).or_default(),
            Key::Int(int) => self.ints.entry(int).or_default(),
            Key::Float(bits) => self.floats.entry(bits).or_default(),
        }
    }

    fn delist(&mut self, key: Key<'_>, atom: u32) {
        if !self.list(key).remove(atom) {
            return;
        }
        match key {
            Key::Text(text) => drop(self.texts.remove(text)),
            Key::Int(int) => drop(self.ints.remove(&int)),
            Key::Float(bits) => drop(self.floats.remove(&bits)),
        }
    }
}

/// A value that an atom asks for.
#[derive(Clone, Copy, Debug)]
enum Key<'a> {
    Text(&'a str),
    Int(i64),
    Float(u64),
}

/// Equal for equal numbers: 0.0 and -0.0 have the same.
pub(super) fn float_key(value: f64) -> u64 {
    (value + 0.0).to_bits()
}

/// Up to this many atoms in a list are searched one after another.
const FEW: usize = 16;

/// A few numbers of atoms, or many.
#[derive(Debug)]
pub(super) enum Few {
    List(Vec<u32>),
    Set(HashSet<u32, RandomState>),
}

impl Default for Few {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Few {
    pub(super) fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Self::List(list) => list.iter().for_each(|atom| visit(*atom)),
            Self::Set(set) => set.iter().for_each(|atom| visit(*atom)),
        }
    }

    fn insert(&mut self, atom: u32) {
        match self {
            Self::List(list) if list.contains(&atom) => {}
            Self::List(list) if list.len() < FEW => {
                if list.is_empty() {
                    // Mostly it stays alone.
                    list.reserve_exact(1);
                }
                list.push(atom);
            }
            Self::List(list) => {
                let mut set: HashSet<u32, RandomState> = list.iter().copied().collect();
                set.insert(atom);
                *self = Self::Set(set);
            }
            Self::Set(set) => drop(set.insert(atom)),
        }
    }

    /// Returns whether none is left.
    fn remove(&mut self, atom: u32) -> bool {
        match self {
            Self::List(list) => {
                list.retain(|other| *other != atom);
                list.is_empty()
            }
            Self::Set(set) => {
                set.remove(&atom);
                set.is_empty()
            }
        }
    }
}

/// All atoms, and the columns that they look at.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    atoms: Slab<Atom>,
    by_condition: HashTable<u32>,
    columns: Slab<AtomColumn>,
    by_name: HashMap<ColumnName, u32, RandomState>,
    hasher: RandomState,
    /// Whether a column has turned out to be other than anchors were chosen by.
    changed: bool,
}

impl std::ops::Index<u32> for Atoms {
    type Output = Atom;

    fn index(&self, id: u32) -> &Atom {
        &self.atoms[id]
    }
}

impl Atoms {
    pub(super) fn len(&self) -> usize {
        self.atoms.len()
    }

    /// How many numbers of atoms have been given out.
    pub(super) fn slots(&self) -> usize {
        self.atoms.slots()
    }

    pub(super) fn columns(&self) -> &Slab<AtomColumn> {
        &self.columns
    }

    /// The atom of a condition on one of `names`, counted as used once more, and the work that this was.
    pub(super) fn intern(&mut self, names: &[ColumnName], condition: &Condition) -> (u32, u64) {
        let name = condition.single_column().and_then(|column| names.get(column));
        let name = name.unwrap_or_else(|| panic!("an atom looks at one column of its selector"));
        let mut condition = condition.clone();
        condition.for_each_column_mut(&mut |column| *column = 0);
        let column = match self.by_name.get(name) {
            Some(column) => *column,
            None => {
                let column = self.columns.insert(AtomColumn::new(name.clone()));
                self.by_name.insert(name.clone(), column);
                column
            }
        };
        let mut hasher = self.hasher.build_hasher();
        column.hash(&mut hasher);
        let work = fingerprint(&condition, &self.hasher, &mut hasher);
        let hash = hasher.finish();
        let atoms = &mut self.atoms;
        let equal = |id: &u32| atoms[*id].column == column && atoms[*id].condition == condition;
        let id = match self.by_condition.find(hash, equal) {
            Some(id) => *id,
            None => {
                self.columns[column].uses += 1;
                let missing = condition.truth(&|_| Scalar::Null) == Truth::True;
                let id = atoms.insert(Atom {
                    column,
                    condition,
                    missing,
                    conjunctions: Vec::new(),
                    tried_at: 0,
                    uses: 0,
                    hash,
                });
                self.by_condition.insert_unique(hash, id, |id| atoms[*id].hash);
                id
            }
        };
        self.atoms[id].uses += 1;
        (id, work)
    }

    /// Counts an atom as used once less. Returns the work that this was.
    pub(super) fn release(&mut self, id: u32) -> u64 {
        let atom = &mut self.atoms[id];
        atom.uses -= 1;
        if atom.uses > 0 {
            return 1;
        }
        let (hash, column) = (atom.hash, atom.column);
        if let Ok(entry) = self.by_condition.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.atoms.remove(id);
        self.columns[column].uses -= 1;
        if self.columns[column].uses == 0
            && let Some(gone) = self.columns.remove(column)
        {
            self.by_name.remove(&gone.name);
        }
        1
    }

    /// Enters a conjunction into the list of an anchor; returns its place there, and the work.
    pub(super) fn anchor(&mut self, id: u32, conjunction: u32) -> (u32, u64) {
        let atom = &mut self.atoms[id];
        atom.conjunctions.push(conjunction);
        let place = atom.conjunctions.len() - 1;
        let mut work = 1;
        if place == 0 {
            let column = &mut self.columns[atom.column];
            let by_value = for_each_key(&atom.condition, &mut |key| {
                column.list(key).insert(id);
                work += 1;
            });
            if !by_value {
                atom.tried_at = column.tried.len();
                column.tried.push(id);
                column.missing += usize::from(atom.missing);
            }
        }
        (u32::try_from(place).unwrap_or(u32::MAX), work)
    }

    /// Takes the conjunction at a place out of the list of its anchor. Returns the one that has moved to
    /// this place, and the work.
    pub(super) fn unanchor(&mut self, id: u32, place: u32) -> (Option<u32>, u64) {
        let atom = &mut self.atoms[id];
        atom.conjunctions.swap_remove(place as usize);
        let moved = atom.conjunctions.get(place as usize).copied();
        let mut work = 1;
        if atom.conjunctions.is_empty() {
            atom.conjunctions = Vec::new();
            let column = &mut self.columns[atom.column];
            let by_value = for_each_key(&atom.condition, &mut |key| {
                column.delist(key, id);
                work += 1;
            });
            if !by_value {
                let at = atom.tried_at;
                column.missing -= usize::from(atom.missing);
                column.tried.swap_remove(at);
                if let Some(moved) = column.tried.get(at).copied() {
                    self.atoms[moved].tried_at = at;
                }
            }
        }
        (moved, work)
    }

    /// Puts the best anchor first, then what leaves few rows.
    pub(super) fn sort_by_cost(&self, atoms: &mut [u32]) {
        let cost = |atom: u32| {
            let atom = &self.atoms[atom];
            cost(&atom.condition, self.columns[atom.column].chosen_by)
        };
        atoms.sort_by_cached_key(|atom| (cost(*atom) * 1e6) as u64);
    }

    /// Learns from a run what a column is like: `sampled` values of which `distinct` differ, and how many
    /// of `rows` have a value.
    pub(super) fn learn(
        &mut self,
        column: u32,
        sampled: usize,
        distinct: usize,
        present: usize,
        rows: usize,
    ) {
        if sampled == 0 || rows == 0 {
            return;
        }
        let column = &mut self.columns[column];
        let now = Facts {
            distinct: estimated_distinct(sampled, distinct),
            present: (present as f32 / rows as f32).max(0.001),
        };
        let seen = column.seen.map_or(now, |seen| {
            let weigh = |old: f32, new: f32| old + (new - old) * 0.1;
            Facts { distinct: weigh(seen.distinct, now.distinct), present: weigh(seen.present, now.present) }
        });
        column.seen = Some(seen);
        let far = |a: f32, b: f32| a > 2.0 * b || b > 2.0 * a;
        let chosen = column.chosen_by;
        if far(seen.distinct, chosen.distinct) || far(seen.present, chosen.present) {
            column.chosen_by = seen;
            self.changed = true;
        }
    }

    /// Returns whether anchors would now be chosen otherwise, and forgets it.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// How many distinct values a column has, if `distinct` of `sampled` values differ.
fn estimated_distinct(sampled: usize, distinct: usize) -> f32 {
    if 2 * distinct < sampled {
        return distinct as f32;
    }
    // Of s values out of n, about s²/2n are seen twice.
    let again = sampled - distinct.min(sampled);
    (sampled * sampled) as f32 / (2 * again + 1) as f32
}

/// What an anchor costs, about the share of rows that it leaves.
fn cost(condition: &Condition, facts: Facts) -> f32 {
    let mut keys = 0;
    if for_each_key(condition, &mut |_| keys += 1) {
        return (keys as f32 / facts.distinct).min(1.0) * facts.present;
    }
    let share = match condition {
        Condition::Test(Test { check, negated }) => {
            let share = match check {
                Check::Null { .. } => 1.0 - facts.present,
                Check::Like { pattern, .. } if !pattern.prefix().is_empty() => 0.05,
                Check::Like { .. } => 0.2,
                Check::Number { range, .. } => {
                    let is_open = range.ints.is_none_or(|(low, high)| low == i64::MIN || high == i64::MAX);
                    if is_open { 0.5 } else { 0.2 }
                }
                Check::Text { range, .. } if range.low.is_some() && range.high.is_some() => 0.2,
                Check::In { set, .. } => {
                    ((set.texts.len() + set.numbers.len() + 1) as f32 / facts.distinct).min(1.0)
                }
                _ => 0.5,
            };
            if *negated { 1.0 - share } else { share }
        }
        _ => 0.5,
    };
    // It is tried with every run, whether it holds or not.
    2.0 * share * facts.present + 0.01
}

/// Calls `visit` with each value for which the condition holds, which are all. Returns `false`, and has
/// called nothing, if it does not ask for certain values.
fn for_each_key(condition: &Condition, visit: &mut impl FnMut(Key<'_>)) -> bool {
    let Condition::Test(Test { check, negated: false }) = condition else { return false };
    if check.plain_column().is_none() {
        return false;
    }
    let number = |range: &NumberRange, visit: &mut dyn FnMut(Key<'_>)| {
        range.ints.into_iter().for_each(|(int, _)| visit(Key::Int(int)));
        range.floats.into_iter().for_each(|(float, _)| visit(Key::Float(float_key(float))));
    };
    match check {
        Check::Text { range, .. } => match range.single() {
            Some(text) => visit(Key::Text(text)),
            None => return false,
        },
        Check::Like { pattern, .. } => match pattern.single() {
            Some(text) => visit(Key::Text(text)),
            None => return false,
        },
        Check::Number { range, .. } => {
            let is_one = range.ints.is_none_or(|(low, high)| low == high)
                && range.floats.is_none_or(|(low, high)| low == high)
                && (range.ints.is_some() || range.floats.is_some());
            if !is_one {
                return false;
            }
            number(range, visit);
        }
        Check::In { set, .. } if set.booleans.is_empty() => {
            set.texts.iter().for_each(|text| visit(Key::Text(text)));
            for value in &set.numbers {
                number(&NumberRange::new(Comparison::Equal, *value), visit);
            }
        }
        _ => return false,
    }
    true
}

/// Hashes a condition, equal ones to the same, and returns how much that was.
fn fingerprint(condition: &Condition, state: &RandomState, hasher: &mut impl Hasher) -> u64 {
    match condition {
        Condition::Test(Test { check: Check::In { operand, set }, negated }) => {
            (*negated, set.texts.len(), set.numbers.len()).hash(hasher);
            write_debug(operand, hasher);
            // Sets have no order that equal ones share.
            let texts = set.texts.iter().map(|text| state.hash_one(text));
            hasher.write_u64(texts.fold(0, u64::wrapping_add));
            set.numbers.iter().for_each(|number| number.to_float().to_bits().hash(hasher));
            set.booleans.hash(hasher);
            (set.texts.len() + set.numbers.len()) as u64
        }
        Condition::Junction { connective, terms } => {
            write_debug(connective, hasher);
            terms.iter().map(|term| fingerprint(term, state, hasher)).sum()
        }
        Condition::IsUnknown { condition, negated } => {
            hasher.write_u8(u8::from(*negated));
            fingerprint(condition, state, hasher)
        }
        Condition::Same { sides, negated } => {
            hasher.write_u8(2 + u8::from(*negated));
            sides.iter().map(|side| fingerprint(side, state, hasher)).sum()
        }
        Condition::Test(Test { check: Check::Number { operand: Operand::Column(_), range }, negated }) => {
            (*negated, range.ints, range.floats.map(|(low, high)| (low.to_bits(), high.to_bits())))
                .hash(hasher);
            1
        }
        Condition::Test(Test { check: Check::Text { operand: Operand::Column(_), range }, negated }) => {
            let bound = |bound: &Option<TextBound>, hasher: &mut _| {
                bound.as_ref().map(|bound| (bound.text.as_str(), bound.inclusive)).hash(hasher);
            };
            negated.hash(hasher);
            bound(&range.low, hasher);
            bound(&range.high, hasher);
            1
        }
        Condition::Test(_) | Condition::Constant(_) => {
            write_debug(condition, hasher);
            1
        }
    }
}

fn write_debug(what: &dyn fmt::Debug, hasher: &mut impl Hasher) {
    struct Sink<'a, H>(&'a mut H);
    impl<H: Hasher> Write for Sink<'_, H> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    // A hasher takes all that it is given.
    let _ = write!(Sink(hasher), "{what:?}");
}
