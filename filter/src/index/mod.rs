//! Many selectors over one run of rows: the predicate index.
//!
//! ```text
//! selector ─ normal ─► OR of conjunctions ─ atoms ─► interned conditions on one column each
//!                           │ anchored on its most selective atom
//! rows ─► values of each column, once a distinct value ─► anchors that hold ─► their conjunctions
//!             row by row where few rows are left, by shared bitmaps of atoms where many are
//! ```
//!
//! A conjunction is looked at only where its anchor holds. Anchors that ask for certain values are found by
//! the values of the run, so that thousands of them cost nothing where they do not hold. A condition that
//! many selectors share is one atom, which is evaluated once a run.
//!
//! Only TRUE delivers a row, and the typed tree has pushed NOT into its tests, so an atom either holds or
//! does not: whether it is FALSE or UNKNOWN where it does not is of no interest to AND and OR.
//!
//! What has no such form is judged by the selector's own [`Predicate`]: too many conjunctions, tests that
//! look at several columns or into bodies, and columns of which hashes alone are at hand.
//! Where the other atoms of a conjunction leave few rows, only these are judged so.

mod atoms;
mod memo;
mod normal;
mod ranks;
mod run;
mod slab;

use std::{fmt, hash::Hash, sync::OnceLock};

use arrow_buffer::BooleanBuffer;
use hashbrown::HashMap;
use weir_columns::Rows;

use crate::{error::EvaluateError, planes::Planes, predicate::Predicate, selector::Selector};

use self::{
    atoms::Atoms,
    memo::Memo,
    normal::{Normal, Term},
    slab::Slab,
};

/// How many conjunctions look for a better anchor after a run, at most.
const ANCHORS_A_RUN: usize = 512;

/// A set of selectors, each under a key, that are evaluated together.
///
/// A change costs time in proportion to the selector that comes or goes, whatever else is in the index,
/// and is in force for the next run.
///
/// ```
/// use weir_filter::{Dialect, Index, Limits, Selector};
///
/// let mut index = Index::new();
/// let selector = Selector::parse("region = 'EU' AND price > 9.5", Dialect::Sql92, &Limits::default())?;
/// index.insert("orders", &selector);
/// assert_eq!(index.len(), 1);
/// assert!(index.remove(&"orders"));
/// # Ok::<(), weir_filter::SelectorError>(())
/// ```
pub struct Index<K> {
    keys: HashMap<K, u32, foldhash::fast::RandomState>,
    subscriptions: Slab<Subscription<K>>,
    /// Subscriptions that every row matches.
    always: Vec<u32>,
    /// Subscriptions that their own predicates judge.
    whole: Vec<u32>,
    conjunctions: Slab<Conjunction>,
    atoms: Atoms,
    memo: Memo,
    /// The conjunction that next looks for a better anchor, and how many are still to do so.
    anchoring: (usize, usize),
    /// Atoms and list entries that changes have touched, ever: the cost of changes, for tests.
    touched: u64,
}

struct Subscription<K> {
    key: K,
    selector: Selector,
    /// Made when it is first needed.
    predicate: OnceLock<Box<Predicate>>,
    plan: Plan,
}

enum Plan {
    Never,
    /// At a place in [`Index::always`].
    Always(usize),
    /// At a place in [`Index::whole`].
    Whole(usize),
    Conjunctions(Box<[u32]>),
}

/// Atoms that must all hold.
struct Conjunction {
    subscription: u32,
    /// The anchor first, then the others from selective to not.
    atoms: AtomIds,
    /// Where it stands in the anchor's list.
    place: u32,
    /// Whether its selector has no other conjunction.
    is_single: bool,
    /// Whether there are tests that no atom covers: rows that pass may match.
    is_partial: bool,
}

/// What an index has done since it was made.
#[cfg(feature = "oracle")]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Atoms and list entries that changes have touched.
    pub touched: u64,
    /// Atoms that have been answered for all values or rows of a run.
    pub answered: u64,
    /// Conjunctions whose anchor held in a run.
    pub visited: u64,
}

/// Numbers of atoms. A few, which is what most have, lie where the conjunction does.
#[derive(Clone, Debug)]
enum AtomIds {
    Few { len: u8, ids: [u32; 4] },
    Many(Box<[u32]>),
}

impl AtomIds {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::Few { len, ids } => &ids[..usize::from(*len)],
            Self::Many(ids) => ids,
        }
    }
}

impl From<Vec<u32>> for AtomIds {
    fn from(all: Vec<u32>) -> Self {
        let mut ids = [0; 4];
        match ids.get_mut(..all.len()) {
            Some(few) => {
                few.copy_from_slice(&all);
                Self::Few { len: all.len() as u8, ids }
            }
            None => Self::Many(all.into()),
        }
    }
}

/// The rows of a run that match a selector.
#[derive(Clone, Debug)]
pub struct Matches<'a>(Matched<'a>);

#[derive(Clone, Debug)]
enum Matched<'a> {
    All(usize),
    /// Ascending.
    Rows(&'a [u16]),
    Bits {
        words: &'a [u64],
        len: usize,
    },
    Buffer(&'a BooleanBuffer),
}

impl Matches<'_> {
    /// Returns how many rows match: at least one.
    pub fn count(&self) -> usize {
        match &self.0 {
            Matched::All(len) => *len,
            Matched::Rows(rows) => rows.len(),
            Matched::Bits { words, .. } => words.iter().map(|word| word.count_ones() as usize).sum(),
            Matched::Buffer(buffer) => buffer.count_set_bits(),
        }
    }

    /// Calls `visit` with each row that matches, ascending.
    pub fn for_each(&self, mut visit: impl FnMut(usize)) {
        match &self.0 {
            Matched::All(len) => (0..*len).for_each(visit),
            Matched::Rows(rows) => rows.iter().for_each(|row| visit(usize::from(*row))),
            Matched::Bits { words, .. } => memo::for_each_bit(words, visit),
            Matched::Buffer(buffer) => buffer.set_indices().for_each(visit),
        }
    }

    /// Returns one bit a row of the run, set where it matches.
    ///
    /// `rows` is how many rows the run has.
    pub fn to_buffer(&self, rows: usize) -> BooleanBuffer {
        match &self.0 {
            Matched::All(_) => BooleanBuffer::new_set(rows),
            Matched::Rows(list) => {
                let mut words = vec![0_u64; rows.div_ceil(64)];
                memo::set_rows(&mut words, list);
                Planes::plane(words, rows)
            }
            Matched::Bits { words, len } => Planes::plane(words.to_vec(), *len),
            Matched::Buffer(buffer) => (*buffer).clone(),
        }
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self {
            keys: HashMap::default(),
            subscriptions: Slab::default(),
            always: Vec::new(),
            whole: Vec::new(),
            conjunctions: Slab::default(),
            atoms: Atoms::default(),
            memo: Memo::default(),
            anchoring: (0, 0),
            touched: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Index<K> {
    /// Returns an index without selectors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many keys have a selector.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether no key has a selector.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns whether `key` has a selector.
    pub fn contains(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }

    /// Puts a selector under a key, in place of the one that is there.
    ///
    /// If that [depends on the moment](Selector::depends_on_now), NOW has no value here.
    pub fn insert(&mut self, key: K, selector: &Selector) {
        self.remove(&key);
        let subscription = self.subscriptions.insert(Subscription {
            key: key.clone(),
            selector: selector.clone(),
            predicate: OnceLock::new(),
            plan: Plan::Never,
        });
        self.keys.insert(key, subscription);
        // The tree of an exact dialect says no more than where it may match.
        let normal = if selector.exact().is_some() { Normal::Whole } else { normal::of(selector.tree()) };
        let plan = match normal {
            Normal::Never => Plan::Never,
            Normal::Always => Plan::Always(push(&mut self.always, subscription)),
            Normal::Whole => Plan::Whole(push(&mut self.whole, subscription)),
            Normal::Terms(terms) => {
                let is_single = terms.len() == 1;
                let mut make = |term| self.conjunction(subscription, selector, term, is_single);
                let made = terms.into_iter().map(&mut make);
                Plan::Conjunctions(made.collect())
            }
        };
        self.subscriptions[subscription].plan = plan;
    }

    /// Removes the selector of a key; returns whether there was one.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(id) = self.keys.remove(key) else { return false };
        let Some(subscription) = self.subscriptions.remove(id) else { return false };
        match subscription.plan {
            Plan::Never => {}
            Plan::Always(place) => {
                if let Some(moved) = swap_remove(&mut self.always, place) {
                    self.subscriptions[moved].plan = Plan::Always(place);
                }
            }
            Plan::Whole(place) => {
                if let Some(moved) = swap_remove(&mut self.whole, place) {
                    self.subscriptions[moved].plan = Plan::Whole(place);
                }
            }
            Plan::Conjunctions(ids) => {
                for id in ids {
                    self.unanchor(id);
                    let Some(conjunction) = self.conjunctions.remove(id) else { continue };
                    for atom in conjunction.atoms.as_slice() {
                        self.touched += self.atoms.release(*atom);
                    }
                }
            }
        }
        true
    }

    /// Judges a run of rows, and calls `found` with each key whose selector matches some of them, once.
    ///
    /// The answers are those of [`Predicate`]. Single values are read only of rows that columns cannot
    /// decide.
    ///
    /// # Errors
    ///
    /// If the rows cannot be read or are malformed. Some keys may have been reported by then; the run
    /// counts as not judged for all of them.
    pub fn evaluate<R: Rows>(
        &mut self,
        rows: &R,
        found: impl FnMut(&K, Matches<'_>),
    ) -> Result<(), EvaluateError<R::Error>> {
        run::evaluate(self, rows, found)?;
        self.improve_anchors();
        Ok(())
    }

    /// Returns how much has been done so far, for tests of what things cost.
    #[cfg(feature = "oracle")]
    pub fn work(&self) -> Work {
        Work { touched: self.touched, answered: self.memo.answered, visited: self.memo.visited }
    }

    /// Returns whether nothing is left of selectors that were removed, for tests.
    #[cfg(feature = "oracle")]
    pub fn holds_nothing(&self) -> bool {
        let counts = [self.subscriptions.len(), self.conjunctions.len(), self.atoms.len()];
        counts == [0; 3] && self.atoms.columns().len() == 0 && self.always.is_empty() && self.whole.is_empty()
    }

    fn conjunction(
        &mut self,
        subscription: u32,
        selector: &Selector,
        term: Term<'_>,
        is_single: bool,
    ) -> u32 {
        let columns = &selector.tree().columns;
        let mut atoms: Vec<u32> = Vec::with_capacity(term.atoms.len());
        for condition in &term.atoms {
            let (atom, touched) = self.atoms.intern(columns, condition);
            self.touched += touched;
            if atoms.contains(&atom) {
                self.touched += self.atoms.release(atom);
            } else {
                atoms.push(atom);
            }
        }
        self.atoms.sort_by_cost(&mut atoms);
        let id = self.conjunctions.insert(Conjunction {
            subscription,
            atoms: atoms.into(),
            place: 0,
            is_single,
            is_partial: term.is_partial,
        });
        self.anchor(id);
        id
    }

    /// Enters a conjunction into the list of its anchor.
    fn anchor(&mut self, id: u32) {
        let conjunction = &mut self.conjunctions[id];
        let (place, touched) = self.atoms.anchor(conjunction.atoms.as_slice()[0], id);
        conjunction.place = place;
        self.touched += touched;
    }

    fn unanchor(&mut self, id: u32) {
        let Conjunction { atoms, place, .. } = &self.conjunctions[id];
        let place = *place;
        let (moved, touched) = self.atoms.unanchor(atoms.as_slice()[0], place);
        self.touched += touched;
        if let Some(moved) = moved {
            self.conjunctions[moved].place = place;
        }
    }

    /// Lets some conjunctions choose their anchors anew, after columns have turned out otherwise than was
    /// thought when these were chosen.
    fn improve_anchors(&mut self) {
        if self.atoms.take_changed() {
            self.anchoring.1 = self.conjunctions.slots();
        }
        let slots = self.conjunctions.slots();
        for _ in 0..ANCHORS_A_RUN.min(self.anchoring.1) {
            let next = self.anchoring.0 % slots.max(1);
            self.anchoring = (next + 1, self.anchoring.1 - 1);
            let Ok(id) = u32::try_from(next) else { break };
            let Some(conjunction) = self.conjunctions.get(id) else { continue };
            let mut atoms = conjunction.atoms.as_slice().to_vec();
            self.atoms.sort_by_cost(&mut atoms);
            if atoms[0] == conjunction.atoms.as_slice()[0] {
                self.conjunctions[id].atoms = atoms.into();
            } else {
                self.unanchor(id);
                self.conjunctions[id].atoms = atoms.into();
                self.anchor(id);
            }
        }
    }
}

impl<K> Subscription<K> {
    fn predicate(&self) -> &Predicate {
        self.predicate.get_or_init(|| Box::new(Predicate::new(&self.selector)))
    }
}

fn push(list: &mut Vec<u32>, id: u32) -> usize {
    list.push(id);
    list.len() - 1
}

/// Removes the entry at a place, and returns the one that has moved there.
fn swap_remove(list: &mut Vec<u32>, place: usize) -> Option<u32> {
    list.swap_remove(place);
    list.get(place).copied()
}

impl<K> fmt::Debug for Index<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("subscriptions", &self.keys.len())
            .field("conjunctions", &self.conjunctions.len())
            .field("atoms", &self.atoms.len())
            .field("whole", &self.whole.len())
            .finish_non_exhaustive()
    }
}
