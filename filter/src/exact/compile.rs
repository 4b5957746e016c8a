//! Binds a tree of an exact dialect to the shapes of its columns.
//!
//! Conditions on one column are answered once a distinct value; AND, OR and NOT combine answers; all
//! others are answered row by row. Rows of which a column keeps hashes only are read and then judged.

use std::sync::Arc;

use arrow_array::{Array, RecordBatch, RecordBatchOptions};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::{
    PhysicalExpr,
    expressions::{Column as InputColumn, Literal},
};
use weir_columns::{Column, ColumnRef, Rows, Value};

use super::{
    datum::Datum,
    evaluate::Answer,
    expressions::{ColumnAnswers, JunctionAnswers, Meaning, NotAnswers, RowAnswers, answers},
    tree::{Node, Tree, Unary, Variable},
};
use crate::{
    compile::{BatchField, Form, Misfit},
    error::EvaluateError,
    expressions::Input,
    lexer::excerpt,
    made,
    predicate::Verdicts,
    shapes::{Bind, ByShape},
};

/// The expressions of one selector, by the shapes of rows that it has met.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    by_shape: ByShape<Bound>,
}

/// A tree bound to the forms of its columns.
#[derive(Debug)]
struct Bound {
    forms: Vec<Form>,
    fields: Vec<(usize, BatchField)>,
    schema: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
}

impl Bounds {
    /// Judges rows: all, or those that are set in `only`.
    pub(crate) fn evaluate<R: Rows>(
        &self,
        tree: &Arc<Tree>,
        empty_is_missing: bool,
        rows: &R,
        only: Option<&BooleanBuffer>,
    ) -> Result<Verdicts, EvaluateError<R::Error>> {
        let mut columns = Vec::with_capacity(tree.columns.len());
        for column in &tree.columns {
            columns.push(rows.column(column.name.as_ref()).map_err(EvaluateError::Rows)?);
        }
        let len = rows.len();
        let hashed = |column: &Option<Column>| matches!(column, Some(Column::Hashed { .. }));
        let bound = if columns.iter().any(hashed) {
            for (variable, column) in
                tree.columns.iter().zip(&mut columns).filter(|(_, column)| hashed(column))
            {
                *column = read(variable, rows, only)?;
            }
            // The shape of what has been read differs from read to read.
            Arc::new(Bound::new(tree, empty_is_missing, forms(&columns)))
        } else {
            let bind = |forms| Bound::new(tree, empty_is_missing, forms);
            self.by_shape.get(rows.shape(), forms(&columns), bind)
        };
        let batch = bound.batch(tree, &columns, len)?;
        let answers = answers(&bound.expr, &batch, only)?;
        let plane = |is: &dyn Fn(Answer) -> bool| {
            BooleanBuffer::collect_bool(len, |row| {
                is(Answer::from_byte(answers[row])) && only.is_none_or(|only| only.value(row))
            })
        };
        let failed = plane(&|answer| answer.truth().is_none());
        Ok(Verdicts {
            matches: plane(&|answer| answer.delivers(tree.rules)),
            unknown: plane(&|answer| answer == Answer::Unknown),
            failed: failed.has_true().then_some(failed),
        })
    }
}

impl Bind for Bound {
    fn fits(&self, forms: &[Form]) -> bool {
        self.forms == forms
    }
}

fn forms(columns: &[Option<Column>]) -> Vec<Form> {
    columns.iter().map(|column| Form::of(column.as_ref())).collect()
}

/// The values of the rows that are asked for, in place of their hashes.
fn read<R: Rows>(
    variable: &Variable,
    rows: &R,
    only: Option<&BooleanBuffer>,
) -> Result<Option<Column>, EvaluateError<R::Error>> {
    let mut present: Vec<(usize, Value)> = Vec::new();
    for row in (0..rows.len()).filter(|row| only.is_none_or(|only| only.value(*row))) {
        let value = rows.value(variable.name.as_ref(), row).map_err(EvaluateError::Rows)?;
        present.extend(value.map(|value| (row, value)));
    }
    Ok(made::sparse(&present))
}

impl Bound {
    fn new(tree: &Arc<Tree>, empty_is_missing: bool, forms: Vec<Form>) -> Self {
        let meaning = Meaning { tree: Arc::clone(tree), empty_is_missing };
        let mut binder = Binder { meaning, forms: &forms, fields: Vec::new(), schema: Vec::new() };
        let expr = binder.lower(&tree.root);
        let Binder { fields, schema, .. } = binder;
        Self { fields, schema: Arc::new(Schema::new(schema)), expr, forms }
    }

    fn batch(&self, tree: &Tree, columns: &[Option<Column>], rows: usize) -> Result<RecordBatch, Misfit> {
        let mut arrays = Vec::with_capacity(self.fields.len());
        for (place, field) in &self.fields {
            let name = tree.columns[*place].name.as_ref();
            let array = columns[*place].as_ref().map(|column| field.array(column, rows));
            let array = array.unwrap_or_else(|| Err("the column is gone".to_owned()));
            let array = array.map_err(|fault| misfit(name, fault))?;
            if array.len() != rows {
                return Err(misfit(name, format!("it has {} rows of {rows}", array.len())));
            }
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Misfit { column: "batch".to_owned(), fault: error.to_string() })
    }
}

struct Binder<'a> {
    meaning: Meaning,
    forms: &'a [Form],
    fields: Vec<(usize, BatchField)>,
    schema: Vec<Field>,
}

impl Binder<'_> {
    fn lower(&mut self, node: &Arc<Node>) -> Arc<dyn PhysicalExpr> {
        let meaning = self.meaning.clone();
        let columns = node.columns(1);
        if let Some(columns) = &columns {
            let missing = meaning.tree.answer(node, &|_| Datum::Null);
            let present = columns.iter().find(|column| self.forms[**column] != Form::Absent);
            return match present {
                None => Arc::new(Literal::new(ScalarValue::UInt8(Some(missing as u8)))),
                Some(column) => {
                    let input = self.input(*column);
                    Arc::new(ColumnAnswers {
                        meaning,
                        input,
                        column: *column,
                        node: Arc::clone(node),
                        missing,
                    })
                }
            };
        }
        match &**node {
            Node::Junction { connective, terms } => {
                let terms = grouped(node, terms).iter().map(|term| self.lower(term)).collect();
                Arc::new(JunctionAnswers { connective: *connective, terms })
            }
            Node::Unary { operators, operand }
                if operators.iter().all(|operator| *operator == Unary::Not)
                    && matches!(**operand, Node::Junction { .. }) =>
            {
                Arc::new(NotAnswers { operand: self.lower(operand), times: operators.len() })
            }
            _ => {
                let mut columns = node.columns(usize::MAX).unwrap_or_default();
                columns.retain(|column| self.forms[*column] != Form::Absent);
                let inputs = columns.iter().map(|column| self.input(*column)).collect();
                Arc::new(RowAnswers { meaning, inputs, columns, node: Arc::clone(node) })
            }
        }
    }

    fn input(&mut self, column: usize) -> Input {
        let known = self.fields.iter().position(|(known, _)| *known == column);
        let index = known.unwrap_or_else(|| {
            let name = self.meaning.tree.columns[column].name.as_ref().to_string();
            let dictionary = |values: &DataType| {
                DataType::Dictionary(Box::new(DataType::UInt16), Box::new(values.clone()))
            };
            let (field, data_type) = match &self.forms[column] {
                Form::Dictionary(values) => (BatchField::Column(column), dictionary(values)),
                Form::Sparse(values) => (BatchField::Dense(column), dictionary(values)),
                Form::Plain(values) => (BatchField::Column(column), values.clone()),
                // Hashed columns have been read, absent ones are not asked, and no name is a body.
                Form::Int | Form::Absent | Form::Hashed | Form::Body => {
                    (BatchField::Column(column), DataType::Int64)
                }
            };
            self.fields.push((column, field));
            self.schema.push(Field::new(name, data_type, true));
            self.fields.len() - 1
        });
        Arc::new(InputColumn::new(self.schema[index].name(), index))
    }
}

/// Puts terms side by side together that look at the same one column. Others keep their places: which
/// comes first decides whether an evaluation fails.
fn grouped(node: &Node, terms: &[Arc<Node>]) -> Vec<Arc<Node>> {
    let Node::Junction { connective, .. } = node else { return terms.to_vec() };
    let mut groups: Vec<(Option<usize>, Vec<Arc<Node>>)> = Vec::new();
    for term in terms {
        let column = term.columns(1).and_then(|columns| columns.first().copied());
        match groups.last_mut() {
            Some((last, group)) if column.is_some() && *last == column => group.push(Arc::clone(term)),
            _ => groups.push((column, vec![Arc::clone(term)])),
        }
    }
    let group = |(_, mut terms): (_, Vec<Arc<Node>>)| match terms.len() {
        1 => terms.swap_remove(0),
        _ => Arc::new(Node::Junction { connective: *connective, terms }),
    };
    groups.into_iter().map(group).collect()
}

/// Whether integers of a column are the system's, and not the text of a property.
pub(super) fn is_system(tree: &Tree, column: usize) -> bool {
    matches!(tree.columns[column].name.as_ref(), ColumnRef::System(_))
}

fn misfit(column: ColumnRef<'_>, fault: String) -> Misfit {
    Misfit { column: excerpt(&column.to_string()), fault }
}
