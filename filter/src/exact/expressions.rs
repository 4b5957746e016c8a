//! The physical expressions of the exact dialects.
//!
//! Each gives one byte a row: the discriminant of an [`Answer`].

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int64Array, RecordBatch, StructArray, UInt8Array, UInt16Array,
    types::UInt16Type,
};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Schema};
use datafusion_common::{DataFusionError, Result, internal_err};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;

use super::{
    compile::is_system,
    datum::{Datum, Rules},
    evaluate::{Answer, stored},
    tree::{Node, Tree},
};
use crate::{expressions::Input, syntax::Connective, values::OpenValues};

/// What gives nodes their meaning. Equal only to itself.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) tree: Arc<Tree>,
    /// Whether empty text is a missing value to `rocketmq`.
    pub(super) empty_is_missing: bool,
}

impl PartialEq for Meaning {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tree, &other.tree) && self.empty_is_missing == other.empty_is_missing
    }
}

/// What all expressions here have in common.
macro_rules! answers_expression {
    () => {
        fn data_type(&self, _: &Schema) -> Result<DataType> {
            Ok(DataType::UInt8)
        }

        fn nullable(&self, _: &Schema) -> Result<bool> {
            Ok(false)
        }

        fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
            Ok(ColumnarValue::Array(Arc::new(UInt8Array::from(self.answers(batch, None)?))))
        }

        fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self}")
        }
    };
}

/// Evaluates an expression where `rows` says so; elsewhere the answer means nothing.
pub(super) fn answers(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    rows: Option<&BooleanBuffer>,
) -> Result<Vec<u8>> {
    if let Some(expr) = expr.downcast_ref::<JunctionAnswers>() {
        expr.answers(batch, rows)
    } else if let Some(expr) = expr.downcast_ref::<RowAnswers>() {
        expr.answers(batch, rows)
    } else if let Some(expr) = expr.downcast_ref::<ColumnAnswers>() {
        expr.answers(batch, rows)
    } else if let Some(expr) = expr.downcast_ref::<NotAnswers>() {
        expr.answers(batch, rows)
    } else {
        let array = expr.evaluate(batch)?.into_array(batch.num_rows())?;
        match array.as_any().downcast_ref::<UInt8Array>() {
            Some(answers) => Ok(answers.values().to_vec()),
            None => internal_err!("answers have the type {}", array.data_type()),
        }
    }
}

/// A column of a batch, whose value in each row can be asked.
enum OpenColumn<'a> {
    Dictionary { codes: &'a UInt16Array, values: OpenValues<'a> },
    Plain { present: Option<&'a NullBuffer>, values: OpenValues<'a> },
    Ints { ints: &'a Int64Array, of_system: bool },
}

impl<'a> OpenColumn<'a> {
    fn open(array: &'a dyn Array, of_system: bool) -> Result<Self> {
        let any = array.as_any();
        let opened = if let Some(dictionary) = any.downcast_ref::<DictionaryArray<UInt16Type>>() {
            let values = dictionary.values().as_any().downcast_ref().and_then(OpenValues::open);
            values.map(|values| Self::Dictionary { codes: dictionary.keys(), values })
        } else if let Some(values) = any.downcast_ref::<StructArray>() {
            let present = values.nulls();
            OpenValues::open(values).map(|values| Self::Plain { present, values })
        } else {
            any.downcast_ref().map(|ints| Self::Ints { ints, of_system })
        };
        match opened {
            Some(opened) => Ok(opened),
            None => internal_err!("a column of a selector's batch has the type {}", array.data_type()),
        }
    }

    fn datum(&self, meaning: &Meaning, row: usize) -> Datum<'a> {
        match self {
            Self::Dictionary { codes, values } if codes.is_valid(row) => {
                datum(meaning, values, usize::from(codes.value(row)))
            }
            Self::Plain { present, values } if present.is_none_or(|present| present.is_valid(row)) => {
                datum(meaning, values, row)
            }
            Self::Ints { ints, of_system } if ints.is_valid(row) => match (of_system, meaning.tree.rules) {
                (true, Rules::Jms { .. }) => Datum::Long(ints.value(row)),
                _ => Datum::Text(ints.value(row).to_string().into()),
            },
            Self::Dictionary { .. } | Self::Plain { .. } | Self::Ints { .. } => Datum::Null,
        }
    }
}

fn datum<'a>(meaning: &Meaning, values: &OpenValues<'a>, place: usize) -> Datum<'a> {
    let (kind, text, int, float) = values.stored(place);
    stored(meaning.tree.rules, meaning.empty_is_missing, kind, text, int, float)
}

fn evaluate_input(input: &Input, batch: &RecordBatch) -> Result<ArrayRef> {
    input.evaluate(batch)?.into_array(batch.num_rows())
}

/// One answer a row where `rows` says so; elsewhere any.
fn each_row(len: usize, rows: Option<&BooleanBuffer>, answer: impl Fn(usize) -> Answer) -> Vec<u8> {
    match rows {
        None => (0..len).map(|row| answer(row) as u8).collect(),
        Some(rows) => {
            let mut answers = vec![Answer::False as u8; len];
            for row in rows.set_indices() {
                answers[row] = answer(row) as u8;
            }
            answers
        }
    }
}

/// A condition on one column: answered once a distinct value, then spread over the rows.
#[derive(Debug)]
pub(super) struct ColumnAnswers {
    pub(super) meaning: Meaning,
    pub(super) input: Input,
    pub(super) column: usize,
    pub(super) node: Arc<Node>,
    /// The answer where the value is missing.
    pub(super) missing: Answer,
}

impl PartialEq for ColumnAnswers {
    fn eq(&self, other: &Self) -> bool {
        self.meaning == other.meaning && *self.input == *other.input && Arc::ptr_eq(&self.node, &other.node)
    }
}

impl Eq for ColumnAnswers {}

impl Hash for ColumnAnswers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        Arc::as_ptr(&self.node).hash(state);
    }
}

impl fmt::Display for ColumnAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answers({}, {:?})", self.input, self.node)
    }
}

impl PhysicalExpr for ColumnAnswers {
    answers_expression!();

    fn children(&self) -> Vec<&Input> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        let input = only_child(children)?;
        let Self { meaning, column, node, missing, .. } = &*self;
        let (meaning, node) = (meaning.clone(), Arc::clone(node));
        Ok(Arc::new(Self { meaning, input, column: *column, node, missing: *missing }))
    }
}

fn only_child(mut children: Vec<Input>) -> Result<Input> {
    match (children.pop(), children.is_empty()) {
        (Some(child), true) => Ok(child),
        _ => Err(DataFusionError::Internal("an expression has one child".to_owned())),
    }
}

impl ColumnAnswers {
    fn answers(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Vec<u8>> {
        let tree = &*self.meaning.tree;
        let input = evaluate_input(&self.input, batch)?;
        let column = OpenColumn::open(&input, is_system(tree, self.column))?;
        if let OpenColumn::Dictionary { codes, values } = &column
            && values.len() <= codes.len()
        {
            let of_values: Vec<u8> = (0..values.len())
                .map(|place| tree.answer(&self.node, &|_| datum(&self.meaning, values, place)) as u8)
                .collect();
            let missing = self.missing as u8;
            // What lies under a null is any code.
            let spread = |code: &u16| of_values.get(usize::from(*code)).copied().unwrap_or(missing);
            let mut answers: Vec<u8> = codes.values().iter().map(spread).collect();
            if let Some(nulls) = codes.nulls().filter(|nulls| nulls.null_count() > 0) {
                for (answer, valid) in answers.iter_mut().zip(nulls) {
                    *answer = if valid { *answer } else { missing };
                }
            }
            return Ok(answers);
        }
        Ok(each_row(batch.num_rows(), rows, |row| {
            tree.answer(&self.node, &|_| column.datum(&self.meaning, row))
        }))
    }
}

/// A condition on several columns: answered row by row.
#[derive(Debug)]
pub(super) struct RowAnswers {
    pub(super) meaning: Meaning,
    pub(super) inputs: Vec<Input>,
    /// Which column of the tree each input is. Columns without input are missing.
    pub(super) columns: Vec<usize>,
    pub(super) node: Arc<Node>,
}

impl PartialEq for RowAnswers {
    fn eq(&self, other: &Self) -> bool {
        self.meaning == other.meaning && self.inputs == other.inputs && Arc::ptr_eq(&self.node, &other.node)
    }
}

impl Eq for RowAnswers {}

impl Hash for RowAnswers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inputs.hash(state);
        Arc::as_ptr(&self.node).hash(state);
    }
}

impl fmt::Display for RowAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answers({:?}, {:?})", self.inputs, self.node)
    }
}

impl PhysicalExpr for RowAnswers {
    answers_expression!();

    fn children(&self) -> Vec<&Input> {
        self.inputs.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        let Self { meaning, columns, node, .. } = &*self;
        let (meaning, node) = (meaning.clone(), Arc::clone(node));
        Ok(Arc::new(Self { meaning, inputs, columns: columns.clone(), node }))
    }
}

impl RowAnswers {
    fn answers(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Vec<u8>> {
        let tree = &*self.meaning.tree;
        let arrays: Vec<ArrayRef> =
            self.inputs.iter().map(|input| evaluate_input(input, batch)).collect::<Result<_>>()?;
        let mut opened: Vec<Option<OpenColumn<'_>>> = tree.columns.iter().map(|_| None).collect();
        for (array, column) in arrays.iter().zip(&self.columns) {
            opened[*column] = Some(OpenColumn::open(array, is_system(tree, *column))?);
        }
        Ok(each_row(batch.num_rows(), rows, |row| {
            tree.answer(&self.node, &|column| {
                opened[column].as_ref().map_or(Datum::Null, |column| column.datum(&self.meaning, row))
            })
        }))
    }
}

/// AND or OR of any number of terms, in their order.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JunctionAnswers {
    pub(super) connective: Connective,
    pub(super) terms: Vec<Arc<dyn PhysicalExpr>>,
}

impl fmt::Display for JunctionAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, term) in self.terms.iter().enumerate() {
            let word = if self.connective == Connective::And { " AND " } else { " OR " };
            write!(f, "{}{term}", if index == 0 { "" } else { word })?;
        }
        f.write_str(")")
    }
}

impl PhysicalExpr for JunctionAnswers {
    answers_expression!();

    fn children(&self) -> Vec<&Input> {
        self.terms.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, terms: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { connective: self.connective, terms }))
    }
}

impl JunctionAnswers {
    fn answers(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Vec<u8>> {
        let len = batch.num_rows();
        let mut table = [[0_u8; Answer::ALL.len()]; Answer::ALL.len()];
        for a in Answer::ALL {
            for b in Answer::ALL {
                table[usize::from(a as u8)][usize::from(b as u8)] = a.combine(self.connective, b) as u8;
            }
        }
        let (start, deciding) = match self.connective {
            Connective::And => (Answer::True as u8, Answer::False as u8),
            Connective::Or => (Answer::False as u8, Answer::True as u8),
        };
        let mut result = vec![start; len];
        let mut open = rows.cloned();
        for term in &self.terms {
            if open.as_ref().is_some_and(|open| !open.has_true()) {
                break;
            }
            let next = answers(term, batch, open.as_ref())?;
            for (answer, next) in result.iter_mut().zip(&next) {
                *answer = if *answer == deciding {
                    deciding
                } else {
                    table[usize::from(*answer)][usize::from(*next)]
                };
            }
            // What is decided or has failed stays so.
            let is_open = |row: usize| result[row] != deciding && result[row] != Answer::Failed as u8;
            open = Some(BooleanBuffer::collect_bool(len, |row| {
                is_open(row) && rows.is_none_or(|rows| rows.value(row))
            }));
        }
        Ok(result)
    }
}

/// NOT, so many times.
#[derive(Debug, Eq)]
pub(super) struct NotAnswers {
    pub(super) operand: Arc<dyn PhysicalExpr>,
    pub(super) times: usize,
}

impl PartialEq for NotAnswers {
    fn eq(&self, other: &Self) -> bool {
        *self.operand == *other.operand && self.times == other.times
    }
}

impl Hash for NotAnswers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operand.hash(state);
        self.times.hash(state);
    }
}

impl fmt::Display for NotAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", "NOT ".repeat(self.times), self.operand)
    }
}

impl PhysicalExpr for NotAnswers {
    answers_expression!();

    fn children(&self) -> Vec<&Input> {
        vec![&self.operand]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Input>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { operand: only_child(children)?, times: self.times }))
    }
}

impl NotAnswers {
    fn answers(&self, batch: &RecordBatch, rows: Option<&BooleanBuffer>) -> Result<Vec<u8>> {
        let negated = |byte| {
            let once = Answer::from_byte(byte).negated();
            (if self.times % 2 == 1 { once } else { once.negated() }) as u8
        };
        Ok(answers(&self.operand, batch, rows)?.into_iter().map(negated).collect())
    }
}
