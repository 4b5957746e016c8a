//! A selector at work on rows.

use std::{fmt, sync::Arc};

use arrow_array::RecordBatch;
use arrow_buffer::BooleanBuffer;
use hashbrown::HashMap;
use parking_lot::RwLock;
use weir_columns::{Column, Rows, Statistics, Value};

use crate::{
    compile::{Bound, Form, Misfit},
    error::EvaluateError,
    expressions, made,
    planes::Planes,
    prune,
    selector::Selector,
    types::Truth,
};

/// How many shapes of rows a predicate keeps its expressions for.
const SHAPES_MAX: usize = 64;

/// The most rows that are judged at once: sparse columns have row numbers of 16 bits.
pub(crate) const ROWS_MAX: usize = 1 << 16;

/// A selector that judges rows.
///
/// Binds itself to each shape of rows that it meets, and keeps what it has bound for a bounded number of
/// shapes. Can be shared by threads.
pub struct Predicate {
    selector: Selector,
    bound: RwLock<HashMap<u64, Arc<Bound>, foldhash::fast::RandomState>>,
}

/// The answer for each row.
///
/// A bit is set in one of the three at most; where in none, the selector is FALSE. Rows that were not
/// asked for are in none.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// The selector is TRUE: the row is delivered.
    pub matches: BooleanBuffer,
    /// The selector is UNKNOWN.
    pub unknown: BooleanBuffer,
    /// The evaluation failed, which only some dialects know. `None`: nowhere.
    pub failed: Option<BooleanBuffer>,
}

impl Predicate {
    /// Returns the predicate of a selector.
    pub fn new(selector: &Selector) -> Self {
        Self { selector: selector.clone(), bound: RwLock::default() }
    }

    /// Returns the selector.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Judges rows: all, or those that are set in `only`.
    ///
    /// Reads single values ([`Rows::value`]) only of rows that columns alone cannot decide.
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
        let len = rows.len();
        if len > ROWS_MAX {
            return Err(EvaluateError::TooManyRows(len));
        }
        if let Some(only) = only.filter(|only| only.len() != len) {
            return Err(EvaluateError::Mask { mask: only.len(), rows: len });
        }
        if only.is_some_and(|only| !only.has_true()) {
            return Ok(verdicts(Planes::constant(Truth::False, len), None));
        }
        let tree = self.selector.tree();
        let mut columns = Vec::with_capacity(tree.columns.len());
        for name in &tree.columns {
            columns.push(rows.column(name.as_ref()).map_err(EvaluateError::Rows)?);
        }
        let bound = self.bound(rows.shape(), &columns);
        let batch = bound.batch(tree, &columns, len)?;
        let mut planes = expressions::evaluate_for(&bound.worst, &batch, only)?;
        if let Some(open) = open_rows(&bound, &batch, &planes, only)? {
            self.read_hashed(rows, &bound, &open, &mut columns)?;
            planes = select(&open, &self.evaluate_read(&columns, &open)?, &planes);
        }
        Ok(verdicts(planes, only))
    }

    /// Returns for each block whether any row of it may match: one bit a block, which is never unset by
    /// mistake.
    pub fn may_match(&self, statistics: &dyn Statistics) -> BooleanBuffer {
        prune::may_match(self.selector.tree(), statistics)
    }

    fn bound(&self, shape: u64, columns: &[Option<Column>]) -> Arc<Bound> {
        let forms: Vec<Form> = columns.iter().map(|column| Form::of(column.as_ref())).collect();
        if let Some(bound) = self.bound.read().get(&shape).filter(|bound| bound.fits(&forms)) {
            return Arc::clone(bound);
        }
        let bound = Arc::new(Bound::new(self.selector.tree(), forms));
        let mut kept = self.bound.write();
        if kept.len() >= SHAPES_MAX && !kept.contains_key(&shape) {
            // Shapes come and go with blocks; binding costs microseconds.
            kept.clear();
        }
        kept.insert(shape, Arc::clone(&bound));
        bound
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
            let name = self.selector.tree().columns[column].as_ref();
            let mut present: Vec<(usize, Value)> = Vec::new();
            for row in open.set_indices() {
                let value = rows.value(name, row).map_err(EvaluateError::Rows)?;
                present.extend(value.map(|value| (row, value)));
            }
            columns[column] = made::sparse(&present);
        }
        Ok(())
    }

    /// Judges the open rows, whose hashed columns have been replaced.
    fn evaluate_read<E>(
        &self,
        columns: &[Option<Column>],
        open: &BooleanBuffer,
    ) -> Result<Planes, EvaluateError<E>> {
        let tree = self.selector.tree();
        let forms = columns.iter().map(|column| Form::of(column.as_ref())).collect();
        let bound = Bound::new(tree, forms);
        let batch = bound.batch(tree, columns, open.len())?;
        Ok(expressions::evaluate_for(&bound.worst, &batch, Some(open))?)
    }
}

/// The rows that hashes leave open; `None` if there are none.
fn open_rows<E>(
    bound: &Bound,
    batch: &RecordBatch,
    worst: &Planes,
    only: Option<&BooleanBuffer>,
) -> Result<Option<BooleanBuffer>, EvaluateError<E>> {
    let Some(best) = &bound.best else { return Ok(None) };
    let best = expressions::evaluate_for(best, batch, only)?;
    let mut open = &(&best.is_true ^ &worst.is_true) | &(&best.is_possible ^ &worst.is_possible);
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
    use std::convert::Infallible;

    use arrow_array::Int64Array;
    use weir_columns::ColumnRef;

    use super::*;
    use crate::{dialect::Dialect, limits::Limits};

    /// One row, `x` = 1, under some number of a shape.
    struct Shaped(u64);

    impl Rows for Shaped {
        type Error = Infallible;

        fn len(&self) -> usize {
            1
        }

        fn shape(&self) -> u64 {
            self.0
        }

        fn column(&self, _: ColumnRef<'_>) -> Result<Option<Column>, Infallible> {
            Ok(Some(Column::Int(Int64Array::from(vec![1]))))
        }

        fn value(&self, _: ColumnRef<'_>, _: usize) -> Result<Option<Value>, Infallible> {
            Ok(None)
        }
    }

    #[test]
    fn a_predicate_keeps_expressions_for_a_bounded_number_of_shapes() {
        let predicate =
            Predicate::new(&Selector::parse("x = 1", Dialect::Sql92, &Limits::default()).unwrap());
        for shape in 0..1000 {
            let verdicts = predicate.evaluate(&Shaped(shape), None).unwrap();
            assert_eq!(verdicts.truth(0), Some(Truth::True));
            let kept = predicate.bound.read();
            assert!(kept.len() <= SHAPES_MAX && kept.contains_key(&shape));
        }
    }

    #[test]
    fn threads_share_a_predicate() {
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&Predicate::new(&Selector::all()));
    }
}
