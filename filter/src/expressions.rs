//! The physical expressions that a condition is lowered to.
//!
//! Each gives a nullable boolean array, null for unknown. DataFusion's own comparisons are not used:
//! what untyped text means beside a number differs from row to row.

use std::{
    any::type_name,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow_array::{Array, ArrayRef, BooleanArray, ListArray, RecordBatch, UInt32Array};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Schema};
use datafusion_common::{DataFusionError, Result, internal_err};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;

use crate::{
    planes::Planes,
    syntax::Connective,
    tree::{Condition, Test},
    types::{Scalar, Truth},
    values::{OpenColumn, Source, truths},
};

/// A reference to a column of the batch.
pub(crate) type Input = Arc<dyn PhysicalExpr>;

/// What all expressions here have in common: they are boolean and may be unknown.
macro_rules! boolean_expression {
    () => {
        fn data_type(&self, _: &Schema) -> Result<DataType> {
            Ok(DataType::Boolean)
        }

        fn nullable(&self, _: &Schema) -> Result<bool> {
            Ok(true)
        }

        fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self}")
        }
    };
}

fn array(planes: Planes) -> Result<ColumnarValue> {
    Ok(ColumnarValue::Array(Arc::new(planes.into_array())))
}

fn evaluate_input(input: &Input, batch: &RecordBatch) -> Result<ArrayRef> {
    input.evaluate(batch)?.into_array(batch.num_rows())
}

fn unexpected<T>(what: &dyn Array) -> Result<T> {
    internal_err!("a column of a selector's batch has the type {}", what.data_type())
}

/// Evaluates a boolean expression.
pub(crate) fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Planes> {
    let array = evaluate_input(expr, batch)?;
    let Some(booleans) = array.as_any().downcast_ref::<BooleanArray>() else {
        return unexpected(&array);
    };
    Ok(Planes::from_array(booleans))
}

/// Evaluates a boolean expression where `rows` says so; elsewhere the answer means nothing.
pub(crate) fn evaluate_for(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    rows: Option<&BooleanBuffer>,
) -> Result<Planes> {
    if let Some(junction) = expr.downcast_ref::<Junction>() {
        junction.planes(batch, rows)
    } else if let Some(test) = expr.downcast_ref::<RowTest>() {
        test.planes(batch, rows)
    } else if let Some(test) = expr.downcast_ref::<ColumnTest>() {
        test.planes(batch, rows)
    } else {
        evaluate(expr, batch)
    }
}

/// A condition on one column: answered once a distinct value, then spread over the rows.
#[derive(Debug)]
pub(crate) struct ColumnTest {
    pub(crate) input: Input,
    pub(crate) condition: Arc<Condition>,
    /// The answer where the value is missing.
    pub(crate) missing: Truth,
    /// Whether integers of the column are the system's, and not those of a property.
    pub(crate) of_system: bool,
}

impl PartialEq for ColumnTest {
    fn eq(&self, other: &Self) -> bool {
        *self.input == *other.input
            && self.condition == other.condition
            && self.missing == other.missing
            && self.of_system == other.of_system
    }
}

impl Eq for ColumnTest {}

impl Hash for ColumnTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.missing.hash(state);
    }
}

impl fmt::Display for ColumnTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test({}, {:?})", self.input, self.condition)
    }
}

impl PhysicalExpr for ColumnTest {
    boolean_expression!();

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        array(self.planes(batch, None)?)
    }

    fn children(&self) -> Vec<&Input> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        let [input] = one_child::<Self>(children)?;
        let Self { condition, missing, of_system, .. } = &*self;
        Ok(Arc::new(Self {
            input,
            condition: Arc::clone(condition),
            missing: *missing,
            of_system: *of_system,
        }))
    }
}

impl ColumnTest {
    fn planes(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Planes> {
        let input = evaluate_input(&self.input, batch)?;
        Ok(match OpenColumn::open(&input, self.of_system) {
            Some(OpenColumn::Dictionary { codes, values }) => {
                Planes::from_codes(codes, &truths(&self.condition, &values), self.missing)
            }
            Some(OpenColumn::Plain { present, values }) => match rows {
                Some(rows) if rows.count_set_bits() < values.len() / FEW => {
                    self.of_few_rows(&values, present, rows)
                }
                _ => self.of_rows(&values, present),
            },
            Some(OpenColumn::Ints(ints)) => self.of_rows(&ints, ints.ints.nulls()),
            None => return unexpected(&input),
        })
    }

    fn of_rows(&self, source: &impl Source, present: Option<&NullBuffer>) -> Planes {
        let planes = Planes::from_truths(&truths(&self.condition, source));
        match present.filter(|present| present.null_count() > 0) {
            Some(present) => planes.with_missing(present, self.missing),
            None => planes,
        }
    }

    fn of_few_rows(
        &self,
        source: &impl Source,
        present: Option<&NullBuffer>,
        rows: &BooleanBuffer,
    ) -> Planes {
        let mut truths = vec![Truth::False as u8; source.len()];
        for row in rows.set_indices() {
            let is_present = present.is_none_or(|present| present.is_valid(row));
            let truth = if is_present { self.condition.truth(&|_| source.scalar(row)) } else { self.missing };
            truths[row] = truth as u8;
        }
        Planes::from_truths(&truths)
    }
}

/// Where fewer than one in so many rows are asked for, values are judged one by one.
const FEW: usize = 8;

fn one_child<T>(children: Vec<Input>) -> Result<[Input; 1]> {
    <[Input; 1]>::try_from(children)
        .map_err(|_| DataFusionError::Internal(format!("{} has one child", type_name::<T>())))
}

/// A test that looks at several columns: answered row by row.
#[derive(Debug, PartialEq)]
pub(crate) struct RowTest {
    /// For each input: the column of the tree that it is, and whether it is a system value.
    pub(crate) columns: Vec<(usize, bool)>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) test: Arc<Test>,
}

impl Eq for RowTest {}

impl Hash for RowTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.columns.hash(state);
        self.inputs.hash(state);
    }
}

impl fmt::Display for RowTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test({:?}, {:?})", self.inputs, self.test)
    }
}

impl PhysicalExpr for RowTest {
    boolean_expression!();

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        array(self.planes(batch, None)?)
    }

    fn children(&self) -> Vec<&Input> {
        self.inputs.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        let Self { columns, test, .. } = &*self;
        Ok(Arc::new(Self { columns: columns.clone(), inputs, test: Arc::clone(test) }))
    }
}

impl RowTest {
    fn planes(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Planes> {
        let arrays: Vec<ArrayRef> =
            self.inputs.iter().map(|input| evaluate_input(input, batch)).collect::<Result<_>>()?;
        let mut opened = Vec::with_capacity(arrays.len());
        for (array, (column, of_system)) in arrays.iter().zip(&self.columns) {
            match OpenColumn::open(array, *of_system) {
                Some(open) => opened.push((*column, open)),
                None => return unexpected(array),
            }
        }
        let truth = |row| {
            let truth = self.test.truth(&|wanted| {
                // Columns that are absent have no input; their value is missing.
                let found = opened.iter().find(|(column, _)| *column == wanted);
                found.map_or(Scalar::Null, |(_, open)| open.scalar(row))
            });
            truth as u8
        };
        Ok(Planes::from_truths(&match rows {
            None => (0..batch.num_rows()).map(truth).collect::<Vec<u8>>(),
            Some(rows) => {
                let mut truths = vec![Truth::False as u8; batch.num_rows()];
                for row in rows.set_indices() {
                    truths[row] = truth(row);
                }
                truths
            }
        }))
    }
}

/// What hashes can tell of a test on a column of strings.
#[derive(Debug)]
pub(crate) struct HashTest {
    pub(crate) input: Input,
    pub(crate) ask: HashAsk,
    /// The answer where the value is missing.
    pub(crate) missing: Truth,
    /// The answer where the hashes cannot tell.
    pub(crate) maybe: Truth,
}

impl PartialEq for HashTest {
    fn eq(&self, other: &Self) -> bool {
        *self.input == *other.input
            && self.ask == other.ask
            && self.missing == other.missing
            && self.maybe == other.maybe
    }
}

impl Eq for HashTest {}

impl Hash for HashTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.ask.hash(state);
    }
}

/// What is asked of the hashes of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HashAsk {
    /// Whether the parts have exactly one of these lists of hashes: "maybe", else `otherwise`.
    Equal { wanted: Vec<Vec<u32>>, otherwise: Truth },
    /// Something that hashes say nothing about.
    Anything,
    /// Whether there is a value; `present` if there is.
    Null { present: Truth },
}

impl fmt::Display for HashTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hashes({}, {:?})", self.input, self.ask)
    }
}

impl PhysicalExpr for HashTest {
    boolean_expression!();

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let input = evaluate_input(&self.input, batch)?;
        let opened = input
            .as_any()
            .downcast_ref::<ListArray>()
            .and_then(|list| Some((list, list.values().as_any().downcast_ref::<UInt32Array>()?)));
        let Some((list, hashes)) = opened else {
            return unexpected(&input);
        };
        let truths: Vec<u8> = list
            .value_offsets()
            .windows(2)
            .map(|ends| self.truth(&hashes.values()[ends[0] as usize..ends[1] as usize]) as u8)
            .collect();
        array(Planes::from_truths(&truths))
    }

    fn children(&self) -> Vec<&Input> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        let [input] = one_child::<Self>(children)?;
        let Self { ask, missing, maybe, .. } = &*self;
        Ok(Arc::new(Self { input, ask: ask.clone(), missing: *missing, maybe: *maybe }))
    }
}

impl HashTest {
    fn truth(&self, hashes: &[u32]) -> Truth {
        match &self.ask {
            _ if hashes.is_empty() => self.missing,
            HashAsk::Null { present } => *present,
            HashAsk::Equal { wanted, otherwise } if !wanted.iter().any(|wanted| wanted == hashes) => {
                *otherwise
            }
            HashAsk::Equal { .. } | HashAsk::Anything => self.maybe,
        }
    }
}

/// AND or OR of any number of terms. Stops when no row is open any more.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Junction {
    pub(crate) connective: Connective,
    pub(crate) terms: Vec<Arc<dyn PhysicalExpr>>,
}

impl fmt::Display for Junction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.connective {
            Connective::And => " AND ",
            Connective::Or => " OR ",
        };
        f.write_str("(")?;
        for (index, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if index == 0 { "" } else { word })?;
        }
        f.write_str(")")
    }
}

impl PhysicalExpr for Junction {
    boolean_expression!();

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        array(self.planes(batch, None)?)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.terms.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        terms: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { connective: self.connective, terms }))
    }
}

impl Junction {
    fn planes(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Planes> {
        let Some((first, rest)) = self.terms.split_first() else {
            let neutral = Truth::from(self.connective == Connective::And);
            return Ok(Planes::constant(neutral, batch.num_rows()));
        };
        let mut planes = evaluate_for(first, batch, rows)?;
        for term in rest {
            let mut open = planes.open(self.connective);
            if let Some(rows) = rows {
                open = &open & rows;
            }
            if !open.has_true() {
                break;
            }
            planes.combine(self.connective, &evaluate_for(term, batch, Some(&open))?);
        }
        Ok(planes)
    }
}
