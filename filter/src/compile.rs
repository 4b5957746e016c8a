//! Binds a condition to the shapes of its columns: a tree of `PhysicalExpr`, and the batch it reads.
//!
//! ```text
//! shape of a column    in the batch                          evaluated
//! dictionary           dictionary of structs, codes shared   once a distinct value
//! plain, int           struct, int64                         once a row
//! sparse               a boolean array a test                once a distinct value, few rows touched
//! hashed               list of hashes                        twice: at worst and at best
//! in the body          nothing, until it is read             twice: at worst and at best
//! absent               nothing                               while binding
//! ```
//!
//! Conditions on the same column are first put together, so that their answers meet a distinct value
//! and not a row.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, UInt16Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::{
    PhysicalExpr,
    expressions::{BinaryExpr, Column as InputColumn, IsNotNullExpr, IsNullExpr, Literal},
};
use weir_columns::{Column, Values, hash32};

use crate::{
    expressions::{ColumnTest, HashAsk, HashTest, Input, Junction, RowTest},
    operand::Operand,
    planes::Planes,
    shapes::Bind,
    syntax::Connective,
    tree::{Check, ColumnName, Condition, Test, Tree, shown},
    types::{Scalar, Truth},
    values::{OpenValues, truths, values_array, values_type},
};

/// The shape of one column, as far as binding depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Absent,
    Dictionary(DataType),
    Sparse(DataType),
    Plain(DataType),
    Int,
    Hashed,
    /// In bodies that have not been read.
    Body,
}

impl Form {
    /// The forms of the columns of a tree, and of what has been read of bodies, if it has.
    pub(crate) fn all(tree: &Tree, columns: &[Option<Column>], bodies_are_read: bool) -> Vec<Self> {
        let form = |(name, column): (&ColumnName, &Option<Column>)| match name {
            ColumnName::Json(_) if !bodies_are_read => Self::Body,
            _ => Self::of(column.as_ref()),
        };
        tree.columns.iter().zip(columns).map(form).collect()
    }

    /// Whether the column alone may leave a row undecided.
    fn is_open(&self) -> bool {
        matches!(self, Self::Hashed | Self::Body)
    }

    pub(crate) fn of(column: Option<&Column>) -> Self {
        match column {
            None => Self::Absent,
            Some(Column::Dictionary { values, .. }) => Self::Dictionary(values_type(values)),
            Some(Column::Sparse { values, .. }) => Self::Sparse(values_type(values)),
            Some(Column::Plain { values, .. }) => Self::Plain(values_type(values)),
            Some(Column::Int(_)) => Self::Int,
            Some(Column::Hashed { .. }) => Self::Hashed,
        }
    }
}

/// A condition bound to the forms of its columns.
#[derive(Debug)]
pub(crate) struct Bound {
    forms: Vec<Form>,
    fields: Vec<BatchField>,
    schema: SchemaRef,
    /// What is certain: where hashes cannot tell, the least true answer.
    pub(crate) worst: Arc<dyn PhysicalExpr>,
    /// What is possible: the most true answer. `None` if it is the same, because nothing is hashed.
    pub(crate) best: Option<Arc<dyn PhysicalExpr>>,
}

impl Bind for Bound {
    fn fits(&self, forms: &[Form]) -> bool {
        self.forms == forms
    }
}

/// What one field of the batch holds.
#[derive(Debug)]
pub(crate) enum BatchField {
    /// A column of the tree.
    Column(usize),
    /// A sparse column, with a code for each row.
    Dense(usize),
    /// The answers to a condition on a sparse column.
    Answers { column: usize, condition: Arc<Condition>, missing: Truth },
}

impl Bound {
    pub(crate) fn new(tree: &Tree, forms: Vec<Form>) -> Self {
        let mut binder =
            Binder { tree, forms: &forms, maybe: Truth::False, fields: Vec::new(), schema: Vec::new() };
        let worst = binder.lower(&tree.condition).into_expr();
        let best = forms.iter().any(Form::is_open).then(|| {
            binder.maybe = Truth::True;
            binder.lower(&tree.condition).into_expr()
        });
        let Binder { fields, schema, .. } = binder;
        Self { forms, fields, schema: Arc::new(Schema::new(schema)), worst, best }
    }

    pub(crate) fn hashed_columns(&self) -> impl Iterator<Item = usize> {
        let hashed = self.forms.iter().enumerate().filter(|(_, form)| **form == Form::Hashed);
        hashed.map(|(column, _)| column)
    }

    /// The batch over `rows` rows that the expressions read.
    pub(crate) fn batch(
        &self,
        tree: &Tree,
        columns: &[Option<Column>],
        rows: usize,
    ) -> Result<RecordBatch, Misfit> {
        let mut arrays = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            let (BatchField::Column(place)
            | BatchField::Dense(place)
            | BatchField::Answers { column: place, .. }) = field;
            let array = columns[*place].as_ref().map(|column| field.array(column, rows));
            let array = array.unwrap_or_else(|| Err("the column is gone".to_owned()));
            let array = array.map_err(|fault| Misfit::new(&tree.columns[*place], fault))?;
            if array.len() != rows {
                let fault = format!("it has {} rows of {rows}", array.len());
                return Err(Misfit::new(&tree.columns[*place], fault));
            }
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Misfit { column: "batch".to_owned(), fault: error.to_string() })
    }
}

/// A column that does not have the shape it claims.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) column: String,
    pub(crate) fault: String,
}

impl Misfit {
    pub(crate) fn new(column: &ColumnName, fault: String) -> Self {
        Self { column: shown(column), fault }
    }
}

impl BatchField {
    pub(crate) fn array(&self, column: &Column, rows: usize) -> Result<ArrayRef, String> {
        let arrow = |error: ArrowError| error.to_string();
        match (self, column) {
            (Self::Column(_), Column::Dictionary { codes, values }) => {
                dictionary(codes.clone(), values).map_err(arrow)
            }
            (Self::Column(_), Column::Plain { values, present }) => {
                Ok(Arc::new(values_array(values, present.clone()).map_err(arrow)?))
            }
            (Self::Column(_), Column::Int(ints)) => Ok(Arc::new(Int64Array::clone(ints))),
            (Self::Column(_), Column::Hashed { row_ends, hashes }) => {
                Ok(Arc::new(hash_list(row_ends.values(), hashes.clone())?))
            }
            (Self::Dense(_), Column::Sparse { rows: present, codes, values }) => {
                let codes = dense_codes(present, codes, values, rows)?;
                dictionary(codes, values).map_err(arrow)
            }
            (Self::Answers { condition, missing, .. }, Column::Sparse { rows: present, codes, values }) => {
                answers(condition, *missing, present, codes, values, rows)
            }
            _ => Err("its shape changed under one shape number".to_owned()),
        }
    }
}

/// A column as one array over `rows` rows: codes with their values, values, integers, or lists of hashes.
pub(crate) fn dense_array(name: &ColumnName, column: &Column, rows: usize) -> Result<ArrayRef, Misfit> {
    let field = match column {
        Column::Sparse { .. } => BatchField::Dense(0),
        _ => BatchField::Column(0),
    };
    let array = field.array(column, rows).map_err(|fault| Misfit::new(name, fault))?;
    if array.len() != rows {
        return Err(Misfit::new(name, format!("it has {} rows of {rows}", array.len())));
    }
    Ok(array)
}

fn dictionary(codes: UInt16Array, values: &Values) -> Result<ArrayRef, ArrowError> {
    let values = Arc::new(values_array(values, None)?);
    Ok(Arc::new(DictionaryArray::try_new(codes, values)?))
}

fn hash_list(row_ends: &[u32], hashes: arrow_array::UInt32Array) -> Result<ListArray, String> {
    let mut offsets = Vec::with_capacity(row_ends.len() + 1);
    offsets.push(0_i32);
    let mut last = 0;
    for end in row_ends {
        let offset = i32::try_from(*end).ok().filter(|_| *end >= last && *end as usize <= hashes.len());
        offsets.push(
            offset.ok_or_else(|| format!("a row ends at hash {end}, after {last}, of {}", hashes.len()))?,
        );
        last = *end;
    }
    let field = Arc::new(Field::new_list_field(DataType::UInt32, false));
    ListArray::try_new(field, OffsetBuffer::new(ScalarBuffer::from(offsets)), Arc::new(hashes), None)
        .map_err(|error| error.to_string())
}

/// The rows of a sparse column and their codes, checked.
fn sparse_entries<'a>(
    present: &'a UInt16Array,
    codes: &'a UInt16Array,
    values: &Values,
    rows: usize,
) -> Result<impl Iterator<Item = (usize, u16)> + 'a, String> {
    if present.len() != codes.len() || present.null_count() + codes.null_count() > 0 {
        return Err(format!("{} rows with {} codes", present.len(), codes.len()));
    }
    if let Some(row) = present.values().iter().find(|row| usize::from(**row) >= rows) {
        return Err(format!("row {row} of {rows}"));
    }
    if let Some(code) = codes.values().iter().find(|code| usize::from(**code) >= values.len()) {
        return Err(format!("code {code} of {} values", values.len()));
    }
    let entries = present.values().iter().zip(codes.values());
    Ok(entries.map(|(row, code)| (usize::from(*row), *code)))
}

fn dense_codes(
    present: &UInt16Array,
    codes: &UInt16Array,
    values: &Values,
    rows: usize,
) -> Result<UInt16Array, String> {
    let mut dense = vec![0_u16; rows];
    let mut valid = vec![false; rows];
    for (row, code) in sparse_entries(present, codes, values, rows)? {
        (dense[row], valid[row]) = (code, true);
    }
    Ok(UInt16Array::new(dense.into(), Some(NullBuffer::from(valid))))
}

fn answers(
    condition: &Condition,
    missing: Truth,
    present: &UInt16Array,
    codes: &UInt16Array,
    values: &Values,
    rows: usize,
) -> Result<ArrayRef, String> {
    let array = values_array(values, None).map_err(|error| error.to_string())?;
    let open = OpenValues::open(&array).ok_or("its values are malformed")?;
    let truths = truths(condition, &open);
    let mut words = [vec![0_u64; rows.div_ceil(64)], vec![0_u64; rows.div_ceil(64)]];
    if missing == Truth::True {
        words[0].fill(u64::MAX);
    }
    if missing != Truth::False {
        words[1].fill(u64::MAX);
    }
    for (row, code) in sparse_entries(present, codes, values, rows)? {
        let truth = truths[usize::from(code)];
        for (plane, set) in words.iter_mut().zip([truth == Truth::True as u8, truth != Truth::False as u8]) {
            let bit = 1 << (row % 64);
            if set {
                plane[row / 64] |= bit;
            } else {
                plane[row / 64] &= !bit;
            }
        }
    }
    let [is_true, is_possible] = words.map(|words| Planes::plane(words, rows));
    Ok(Arc::new(Planes { is_true, is_possible }.into_array()))
}

/// A condition on its way to an expression.
enum Lowered {
    Constant(Truth),
    Expr { expr: Arc<dyn PhysicalExpr>, cost: u32 },
}

impl Lowered {
    fn into_expr(self) -> Arc<dyn PhysicalExpr> {
        match self {
            Self::Constant(truth) => Arc::new(Literal::new(ScalarValue::Boolean(match truth {
                Truth::False => Some(false),
                Truth::Unknown => None,
                Truth::True => Some(true),
            }))),
            Self::Expr { expr, .. } => expr,
        }
    }

    fn into_expr_and_cost(self) -> (Arc<dyn PhysicalExpr>, u32) {
        let cost = if let Self::Expr { cost, .. } = self { cost } else { 0 };
        (self.into_expr(), cost)
    }
}

struct Binder<'a> {
    tree: &'a Tree,
    forms: &'a [Form],
    /// What to answer where hashes cannot tell.
    maybe: Truth,
    fields: Vec<BatchField>,
    schema: Vec<Field>,
}

impl Binder<'_> {
    fn lower(&mut self, condition: &Condition) -> Lowered {
        if let Some(column) = condition.single_column()
            && !self.forms[column].is_open()
        {
            return self.lower_on_column(condition, column);
        }
        match condition {
            Condition::Constant(truth) => Lowered::Constant(*truth),
            Condition::Test(test) => match test.check.plain_column() {
                Some(column) => self.lower_hashed(test, column),
                None => self.lower_row_test(test),
            },
            // These two do not rise with their parts, so worst and best parts say nothing of the whole.
            Condition::IsUnknown { .. } | Condition::Same { .. } if self.looks_at_hashes(condition) => {
                Lowered::Constant(self.maybe)
            }
            Condition::IsUnknown { condition: inner, negated } => match self.lower(inner) {
                Lowered::Constant(truth) => {
                    Lowered::Constant(Truth::from((truth == Truth::Unknown) != *negated))
                }
                Lowered::Expr { expr, cost } if *negated => {
                    Lowered::Expr { expr: Arc::new(IsNotNullExpr::new(expr)), cost }
                }
                Lowered::Expr { expr, cost } => Lowered::Expr { expr: Arc::new(IsNullExpr::new(expr)), cost },
            },
            Condition::Same { sides, negated } => {
                let operator = if *negated { Operator::NotEq } else { Operator::Eq };
                let [left, right] = sides.each_ref().map(|side| self.lower(side).into_expr_and_cost());
                let expr = Arc::new(BinaryExpr::new(left.0, operator, right.0));
                Lowered::Expr { expr, cost: left.1 + right.1 }
            }
            Condition::Junction { connective, terms } => self.lower_junction(*connective, terms),
        }
    }

    /// A condition on one column that leaves no row undecided.
    fn lower_on_column(&mut self, condition: &Condition, column: usize) -> Lowered {
        let missing = condition.truth(&|_| Scalar::Null);
        let (expr, cost): (Arc<dyn PhysicalExpr>, u32) = match &self.forms[column] {
            Form::Absent => return Lowered::Constant(missing),
            Form::Sparse(_) => {
                let condition = Arc::new(condition.clone());
                let field = BatchField::Answers { column, condition, missing };
                (self.input(field, column, DataType::Boolean), 1)
            }
            form => {
                let cost = if matches!(form, Form::Plain(_)) { 20 } else { 4 };
                let input = self.column(column);
                let of_system = self.is_system(column);
                let condition = Arc::new(condition.clone());
                (Arc::new(ColumnTest { input, condition, missing, of_system }), cost)
            }
        };
        Lowered::Expr { expr, cost: cost + cost_of(condition) }
    }

    /// A test on one hashed column as it is, or on a body.
    fn lower_hashed(&mut self, test: &Test, column: usize) -> Lowered {
        if self.forms[column] == Form::Body {
            return Lowered::Constant(self.maybe);
        }
        let no = Truth::False.negated_if(test.negated);
        let ask = match &test.check {
            Check::Null { .. } => HashAsk::Null { present: no },
            Check::Text { range, .. } if range.single().is_some() => HashAsk::Equal {
                wanted: range.single().map(hashes_of_parts).into_iter().collect(),
                otherwise: no,
            },
            Check::In { set, .. } if set.is_text_only() => HashAsk::Equal {
                wanted: set.texts.iter().map(|text| hashes_of_parts(text)).collect(),
                otherwise: no,
            },
            _ => HashAsk::Anything,
        };
        let missing = test.truth(&|_| Scalar::Null);
        let input = self.column(column);
        let expr = Arc::new(HashTest { input, ask, missing, maybe: self.maybe });
        Lowered::Expr { expr, cost: 10 }
    }

    /// A test that looks at several columns, or computes with hashed ones.
    fn lower_row_test(&mut self, test: &Test) -> Lowered {
        let mut columns = Vec::new();
        test.check.for_each_column(&mut |column| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        });
        if columns.iter().any(|column| self.forms[*column].is_open()) {
            return Lowered::Constant(self.maybe);
        }
        columns.retain(|column| self.forms[*column] != Form::Absent);
        if columns.is_empty() {
            return Lowered::Constant(test.truth(&|_| Scalar::Null));
        }
        let inputs: Vec<Input> = columns.iter().map(|column| self.column(*column)).collect();
        let columns = columns.into_iter().map(|column| (column, self.is_system(column))).collect();
        let expr = Arc::new(RowTest { columns, inputs, test: Arc::new(test.clone()) });
        Lowered::Expr { expr, cost: 100 }
    }

    fn lower_junction(&mut self, connective: Connective, terms: &[Condition]) -> Lowered {
        let deciding = match connective {
            Connective::And => Truth::False,
            Connective::Or => Truth::True,
        };
        let mut constant = deciding.negated();
        let mut exprs = Vec::new();
        for group in self.groups(connective, terms) {
            match self.lower(&group) {
                Lowered::Constant(truth) => constant = connective.combine(constant, truth),
                Lowered::Expr { expr, cost } => exprs.push((cost, expr)),
            }
        }
        if constant == deciding || exprs.is_empty() {
            return Lowered::Constant(constant);
        }
        // The cheapest first: often they decide all rows.
        exprs.sort_by_key(|(cost, _)| *cost);
        let cost = exprs.iter().map(|(cost, _)| cost).sum();
        let mut terms: Vec<Arc<dyn PhysicalExpr>> = exprs.into_iter().map(|(_, expr)| expr).collect();
        if constant == Truth::Unknown {
            terms.push(Lowered::Constant(constant).into_expr());
        }
        if terms.len() == 1 {
            return Lowered::Expr { expr: terms.swap_remove(0), cost };
        }
        Lowered::Expr { expr: Arc::new(Junction { connective, terms }), cost }
    }

    /// Puts terms on the same column together.
    fn groups(&self, connective: Connective, terms: &[Condition]) -> Vec<Condition> {
        let mut groups: Vec<Vec<Condition>> = Vec::new();
        let mut group_of_column = vec![None; self.forms.len()];
        for term in terms {
            let column = term.single_column().filter(|column| !self.forms[*column].is_open());
            match column.and_then(|column| group_of_column[column]) {
                Some(group) => Vec::push(&mut groups[group], term.clone()),
                None => {
                    if let Some(column) = column {
                        group_of_column[column] = Some(groups.len());
                    }
                    groups.push(vec![term.clone()]);
                }
            }
        }
        groups.into_iter().map(|terms| Condition::junction(connective, terms)).collect()
    }

    /// The field of a column of the tree.
    fn column(&mut self, column: usize) -> Input {
        let known = self.fields.iter().position(
            |field| matches!(field, BatchField::Column(known) | BatchField::Dense(known) if *known == column),
        );
        if let Some(index) = known {
            return Arc::new(InputColumn::new(self.schema[index].name(), index));
        }
        let dictionary =
            |values: &DataType| DataType::Dictionary(Box::new(DataType::UInt16), Box::new(values.clone()));
        let (field, data_type) = match &self.forms[column] {
            Form::Dictionary(values) => (BatchField::Column(column), dictionary(values)),
            Form::Sparse(values) => (BatchField::Dense(column), dictionary(values)),
            Form::Plain(values) => (BatchField::Column(column), values.clone()),
            Form::Int | Form::Absent | Form::Body => (BatchField::Column(column), DataType::Int64),
            Form::Hashed => {
                let hashes = DataType::List(Arc::new(Field::new_list_field(DataType::UInt32, false)));
                (BatchField::Column(column), hashes)
            }
        };
        self.input(field, column, data_type)
    }

    fn input(&mut self, field: BatchField, column: usize, data_type: DataType) -> Input {
        let name = self.tree.columns[column].to_string();
        let input = Arc::new(InputColumn::new(&name, self.fields.len()));
        self.fields.push(field);
        self.schema.push(Field::new(name, data_type, true));
        input
    }

    fn is_system(&self, column: usize) -> bool {
        self.tree.columns[column].is_system()
    }

    fn looks_at_hashes(&self, condition: &Condition) -> bool {
        let mut hashed = false;
        condition.for_each_column(&mut |column| hashed |= self.forms[column].is_open());
        hashed
    }
}

/// What a condition costs a value, roughly in comparisons.
fn cost_of(condition: &Condition) -> u32 {
    match condition {
        Condition::Constant(_) => 0,
        Condition::Test(test) => match &test.check {
            Check::Regexp { .. } => 100,
            Check::Like { .. } => 10,
            Check::In { .. } => 4,
            Check::Compare { .. } => 8,
            Check::Number { operand, .. }
            | Check::Text { operand, .. }
            | Check::Boolean { operand }
            | Check::Null { operand }
                if !matches!(operand, Operand::Column(_)) =>
            {
                8
            }
            _ => 1,
        },
        Condition::IsUnknown { condition, .. } => cost_of(condition),
        Condition::Same { sides, .. } => sides.iter().map(cost_of).sum(),
        Condition::Junction { terms, .. } => terms.iter().map(cost_of).sum(),
    }
}

/// The hashes of the parts between single spaces, as hashed columns keep them.
pub(crate) fn hashes_of_parts(text: &str) -> Vec<u32> {
    text.split(' ').map(|part| hash32(part.as_bytes())).collect()
}
