//! A selector at work on rows.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use arrow_array::RecordBatch;
use arrow_buffer::BooleanBuffer;
use weir_columns::{Column, ColumnRef, Rows, Statistics, Value};

use crate::{
    compile::{Bound, Form, Misfit},
    error::EvaluateError,
    exact, expressions,
    json::{BODY_BYTES_MAX, JsonPath},
    made,
    planes::Planes,
    prune,
    selector::Selector,
    shapes::ByShape,
    tree::{ColumnName, Tree},
    types::Truth,
};

/// The most rows that are judged at once: sparse columns have row numbers of 16 bits.
pub(crate) const ROWS_MAX: usize = 1 << 16;

/// Of how many rows bodies are looked into before the rows are judged: what is kept of them takes memory.
const BODIES_AT_ONCE: usize = 256;

/// A selector that judges rows.
///
/// Binds itself to each shape of rows that it meets, and keeps what it has bound for a bounded number of
/// shapes. Can be shared by threads.
pub struct Predicate {
    selector: Selector,
    /// What judges, if it is not the selector's own tree: the tree of one moment.
    tree: Option<Tree>,
    bound: ByShape<Bound>,
    lead: OnceLock<Option<Lead>>,
    exact: exact::Bounds,
    empty_is_missing: bool,
}

/// The condition of an AND that is judged first, so that the columns of the others are read only where it leaves
/// rows.
struct Lead {
    tree: Tree,
    bound: ByShape<Bound>,
    /// In how many of the last blocks it was judged, and in how many it left no row.
    judged: AtomicU32,
    none_left: AtomicU32,
    /// How often it was passed by, because it did not pay.
    passed_by: AtomicU32,
}

impl Lead {
    /// Which rows it leaves to the other conditions.
    fn matches<R: Rows>(
        &self,
        rows: &R,
        only: Option<&BooleanBuffer>,
    ) -> Result<BooleanBuffer, EvaluateError<R::Error>> {
        let columns = columns(&self.tree, rows)?;
        let bound = bound(&self.bound, &self.tree, rows, &columns);
        let batch = bound.batch(&self.tree, &columns, rows.len())?;
        // Where hashes cannot tell, a row is left.
        let likely = bound.best.as_ref().unwrap_or(&bound.worst);
        Ok(verdicts(expressions::evaluate_for(likely, &batch, only)?, only).matches)
    }

    /// Whether it has been worth its cost.
    fn pays(&self) -> bool {
        let (judged, none_left) =
            (self.judged.load(Ordering::Relaxed), self.none_left.load(Ordering::Relaxed));
        judged < 8 || 4 * none_left >= judged
    }

    /// Whether to judge it now: if it pays, and else now and then, as data changes.
    fn is_due(&self) -> bool {
        self.pays() || self.passed_by.fetch_add(1, Ordering::Relaxed) % 64 == 63
    }

    fn note(&self, none_left: bool) {
        if none_left {
            self.none_left.fetch_add(1, Ordering::Relaxed);
        }
        if self.judged.fetch_add(1, Ordering::Relaxed) >= 256 {
            // What was long ago counts less and less. It does not matter who else counts meanwhile.
            self.judged.store(128, Ordering::Relaxed);
            self.none_left.store(self.none_left.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }
}

/// The answer for each row.
///
/// A bit is set in one of the three at most; where in none, the selector is FALSE. Rows that were not
/// asked for are in none. In `jms` alone a row can match and have failed: ActiveMQ delivers by a way to
/// evaluate that stops earlier than the one whose failures are told here.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// The row is delivered: the selector is TRUE.
    pub matches: BooleanBuffer,
    /// The selector is UNKNOWN.
    pub unknown: BooleanBuffer,
    /// The evaluation failed, which only some dialects know. `None`: nowhere.
    pub failed: Option<BooleanBuffer>,
}

impl Predicate {
    /// Returns the predicate of a selector. If that [depends on the moment](Selector::depends_on_now), NOW has
    /// no value until [`at`](Self::at) gives it one.
    pub fn new(selector: &Selector) -> Self {
        Self {
            selector: selector.clone(),
            tree: None,
            bound: ByShape::default(),
            lead: OnceLock::new(),
            exact: exact::Bounds::default(),
            empty_is_missing: true,
        }
    }

    /// Takes values as they are given: to `rocketmq`, empty text is then a value.
    ///
    /// RocketMQ's evaluator makes this distinction, but its broker stores no empty values, so that to a
    /// selector there they are missing. Without this call the predicate answers as the broker does.
    #[must_use]
    pub fn with_values_as_given(mut self) -> Self {
        self.empty_is_missing = false;
        self
    }

    /// Returns the predicate of a scan that begins at `now_ms`, in milliseconds since 1970, UTC: for all its
    /// rows NOW is that. It is this one if the moment does not matter.
    #[must_use]
    pub fn at(self: &Arc<Self>, now_ms: i64) -> Arc<Self> {
        if !self.selector.depends_on_now() {
            return Arc::clone(self);
        }
        let tree = Some(self.selector.tree().at(now_ms));
        Arc::new(Self { tree, ..Self::new(&self.selector) })
    }

    fn tree(&self) -> &Tree {
        self.tree.as_ref().unwrap_or_else(|| self.selector.tree())
    }

    /// Returns the selector.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Judges rows: all, or those that are set in `only`.
    ///
    /// Reads single values ([`Rows::value`]) only of rows that columns alone cannot decide, and bodies
    /// ([`Rows::bodies`]) only of those that are still open then.
    ///
    /// # Errors
    ///
    /// If the rows cannot be read or are malformed. What producers and selectors say never fails: values
    /// that do not fit make a verdict unknown.
    pub fn evaluate<R: Rows>(
        &self,
        rows: &R,
        only: Option<&BooleanBuffer>,
    ) -> Result<Verdicts, EvaluateError<R::Error>> {
        match self.selector.exact() {
            Some(tree) => {
                check(rows, only)?;
                self.exact.evaluate(tree, self.empty_is_missing, rows, only)
            }
            None => Ok(verdicts(self.planes(rows, only, Ask::Truth)?, only)),
        }
    }

    /// Returns which rows match: all, or of those that are set in `only`.
    ///
    /// The same as [`evaluate`](Self::evaluate), for those to whom FALSE and UNKNOWN are one: no value and no
    /// body is read to tell these two apart.
    ///
    /// # Errors
    ///
    /// If the rows cannot be read or are malformed.
    pub fn matches<R: Rows>(
        &self,
        rows: &R,
        only: Option<&BooleanBuffer>,
    ) -> Result<BooleanBuffer, EvaluateError<R::Error>> {
        if self.selector.exact().is_some() {
            return Ok(self.evaluate(rows, only)?.matches);
        }
        let len = check(rows, only)?;
        let asked = only.map_or(len, BooleanBuffer::count_set_bits);
        // A few rows of a block say little of the next block, and are soon judged.
        let lead = self.lead().filter(|_| 4 * asked >= len && asked > 0);
        if let Some(lead) = lead.filter(|lead| lead.is_due()) {
            let left = lead.matches(rows, only)?;
            lead.note(!left.has_true());
            if !left.has_true() {
                return Ok(left);
            }
            rows.will_read(&mut self.tree().columns.iter().filter_map(ColumnName::as_ref));
            return Ok(verdicts(self.planes(rows, Some(&left), Ask::Matches)?, Some(&left)).matches);
        }
        match (self.planes(rows, only, Ask::Matches), lead) {
            // Whether a damaged column matters must not depend on whether this pays.
            (Err(error @ EvaluateError::Rows(_)), Some(lead)) => match lead.matches(rows, only) {
                Ok(left) if !left.has_true() => Ok(left),
                _ => Err(error),
            },
            (planes, _) => Ok(verdicts(planes?, only).matches),
        }
    }

    fn lead(&self) -> Option<&Lead> {
        let make = || {
            let tree = self.tree().lead()?;
            let count = || AtomicU32::new(0);
            let (judged, none_left, passed_by) = (count(), count(), count());
            Some(Lead { tree, bound: ByShape::default(), judged, none_left, passed_by })
        };
        self.lead.get_or_init(make).as_ref()
    }

    /// Returns the columns that [`matches`](Self::matches) reads of each block: fewer than the selector's where
    /// these leave rows for the others seldom.
    pub fn first_columns(&self) -> impl Iterator<Item = ColumnRef<'_>> {
        let lead = self.selector.exact().is_none().then(|| self.lead()).flatten();
        let tree = lead.filter(|lead| lead.pays()).map_or_else(|| self.tree(), |lead| &lead.tree);
        tree.columns.iter().filter_map(ColumnName::as_ref)
    }

    fn planes<R: Rows>(
        &self,
        rows: &R,
        only: Option<&BooleanBuffer>,
        ask: Ask,
    ) -> Result<Planes, EvaluateError<R::Error>> {
        let len = check(rows, only)?;
        if only.is_some_and(|only| !only.has_true()) {
            return Ok(Planes::constant(Truth::False, len));
        }
        let tree = self.tree();
        let mut columns = columns(tree, rows)?;
        let bound = bound(&self.bound, tree, rows, &columns);
        let (mut planes, mut open) = self.judge(&bound, &columns, len, only, ask)?;
        if let Some(undecided) = &open
            && bound.hashed_columns().next().is_some()
        {
            self.read_hashed(rows, &bound, undecided, &mut columns)?;
            let bound = Bound::new(tree, Form::all(tree, &columns, false));
            let (read, still_open) = self.judge(&bound, &columns, len, Some(undecided), ask)?;
            planes = select(undecided, &read, &planes);
            open = still_open;
        }
        // What is open now, bodies decide.
        while let Some(undecided) = &open {
            let (some, rest) = first_rows(undecided, BODIES_AT_ONCE);
            self.read_bodies(rows, &some, &mut columns)?;
            let bound = Bound::new(tree, Form::all(tree, &columns, true));
            let (read, _) = self.judge(&bound, &columns, len, Some(&some), ask)?;
            planes = select(&some, &read, &planes);
            open = rest;
        }
        Ok(planes)
    }

    /// What is certain of rows, and which of them are open, if any.
    fn judge<E>(
        &self,
        bound: &Bound,
        columns: &[Option<Column>],
        len: usize,
        only: Option<&BooleanBuffer>,
        ask: Ask,
    ) -> Result<(Planes, Option<BooleanBuffer>), EvaluateError<E>> {
        let batch = bound.batch(self.tree(), columns, len)?;
        let planes = expressions::evaluate_for(&bound.worst, &batch, only)?;
        let open = open_rows(bound, &batch, &planes, only, ask)?;
        Ok((planes, open))
    }

    /// Returns for each block whether any row of it may match: one bit a block, which is never unset by
    /// mistake.
    pub fn may_match(&self, statistics: &dyn Statistics) -> BooleanBuffer {
        prune::may_match(self.tree(), statistics)
    }

    /// Replaces each hashed column by the values of the open rows.
    fn read_hashed<R: Rows>(
        &self,
        rows: &R,
        bound: &Bound,
        open: &BooleanBuffer,
        columns: &mut [Option<Column>],
    ) -> Result<(), EvaluateError<R::Error>> {
        for column in bound.hashed_columns() {
            let Some(name) = self.tree().columns[column].as_ref() else { continue };
            let mut present: Vec<(usize, Value)> = Vec::new();
            for row in open.set_indices() {
                let value = rows.value(name, row).map_err(EvaluateError::Rows)?;
                present.extend(value.map(|value| (row, value)));
            }
            columns[column] = made::sparse(&present);
        }
        Ok(())
    }

    /// Makes columns of what the selector looks at in the bodies of some rows.
    fn read_bodies<R: Rows>(
        &self,
        rows: &R,
        some: &BooleanBuffer,
        columns: &mut [Option<Column>],
    ) -> Result<(), EvaluateError<R::Error>> {
        let names = self.tree().columns.iter().enumerate();
        let paths: Vec<(usize, &JsonPath)> = names
            .filter_map(|(column, name)| match name {
                ColumnName::Json(path) => Some((column, path)),
                _ => None,
            })
            .collect();
        let mut present: Vec<Vec<(usize, Value)>> = vec![Vec::new(); paths.len()];
        rows.bodies(&mut some.set_indices(), BODY_BYTES_MAX, &mut |row, body| {
            for ((_, path), present) in paths.iter().zip(&mut present) {
                present.extend(body.and_then(|body| path.value_in(body)).map(|value| (row, value)));
            }
        })
        .map_err(EvaluateError::Rows)?;
        for ((column, _), present) in paths.iter().zip(&present) {
            columns[*column] = made::sparse(present);
        }
        Ok(())
    }
}

/// Reads the columns of a tree.
fn columns<R: Rows>(tree: &Tree, rows: &R) -> Result<Vec<Option<Column>>, EvaluateError<R::Error>> {
    let read = |name: &ColumnName| match name.as_ref() {
        Some(name) => rows.column(name),
        None => Ok(None),
    };
    tree.columns.iter().map(read).collect::<Result<_, _>>().map_err(EvaluateError::Rows)
}

fn bound<R: Rows>(kept: &ByShape<Bound>, tree: &Tree, rows: &R, columns: &[Option<Column>]) -> Arc<Bound> {
    let forms = Form::all(tree, columns, false);
    kept.get(rows.shape(), forms, |forms| Bound::new(tree, forms))
}

/// How many rows there are, if they can be judged at once.
fn check<R: Rows>(rows: &R, only: Option<&BooleanBuffer>) -> Result<usize, EvaluateError<R::Error>> {
    let len = rows.len();
    if len > ROWS_MAX {
        return Err(EvaluateError::TooManyRows(len));
    }
    match only.filter(|only| only.len() != len) {
        Some(only) => Err(EvaluateError::Mask { mask: only.len(), rows: len }),
        None => Ok(len),
    }
}

/// What is asked of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// TRUE, FALSE or UNKNOWN.
    Truth,
    /// TRUE or not.
    Matches,
}

/// The first rows of a mask, and the rest, if there is any.
fn first_rows(mask: &BooleanBuffer, count: usize) -> (BooleanBuffer, Option<BooleanBuffer>) {
    match mask.set_indices().nth(count) {
        None => (mask.clone(), None),
        Some(end) => {
            let is_first = BooleanBuffer::collect_bool(mask.len(), |row| row < end);
            (mask & &is_first, Some(mask & &!&is_first))
        }
    }
}

/// The rows that hashes and bodies which were not read leave open; `None` if there are none.
fn open_rows<E>(
    bound: &Bound,
    batch: &RecordBatch,
    worst: &Planes,
    only: Option<&BooleanBuffer>,
    ask: Ask,
) -> Result<Option<BooleanBuffer>, EvaluateError<E>> {
    let Some(best) = &bound.best else { return Ok(None) };
    let best = expressions::evaluate_for(best, batch, only)?;
    let mut open = &best.is_true ^ &worst.is_true;
    if ask == Ask::Truth {
        open = &open | &(&best.is_possible ^ &worst.is_possible);
    }
    if let Some(only) = only {
        open = &open & only;
    }
    Ok(open.has_true().then_some(open))
}

/// `left` where `mask` is set, else `right`.
fn select(mask: &BooleanBuffer, left: &Planes, right: &Planes) -> Planes {
    let pick = |left: &BooleanBuffer, right: &BooleanBuffer| &(left & mask) | &(right & &!mask);
    Planes {
        is_true: pick(&left.is_true, &right.is_true),
        is_possible: pick(&left.is_possible, &right.is_possible),
    }
}

fn verdicts(planes: Planes, only: Option<&BooleanBuffer>) -> Verdicts {
    let Planes { is_true, is_possible } = planes;
    let unknown = &is_possible ^ &is_true;
    let masked = |plane: BooleanBuffer| only.map_or_else(|| plane.clone(), |only| &plane & only);
    Verdicts { matches: masked(is_true), unknown: masked(unknown), failed: None }
}

impl Verdicts {
    /// Returns the answer for one row, as far as it was asked for; `None` if the evaluation failed.
    ///
    /// # Panics
    ///
    /// If `row` is out of bounds.
    pub fn truth(&self, row: usize) -> Option<Truth> {
        if self.failed.as_ref().is_some_and(|failed| failed.value(row)) {
            return None;
        }
        Some(match (self.matches.value(row), self.unknown.value(row)) {
            (true, _) => Truth::True,
            (false, true) => Truth::Unknown,
            (false, false) => Truth::False,
        })
    }
}

impl<E> From<Misfit> for EvaluateError<E> {
    fn from(Misfit { column, fault }: Misfit) -> Self {
        Self::Column { column, fault }
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predicate").field("selector", &self.selector).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_a_predicate() {
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&Predicate::new(&Selector::all()));
    }
}
