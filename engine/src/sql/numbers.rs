//! Arithmetic and comparison in SQL, where a condition is no selector: as near to selectors as types allow.
//!
//! - `/` is division of doubles; division and remainder by zero are null.
//! - `||` has a bound on what it makes.
//! - Text beside a number is the number that it reads as in a selector, else null: one odd value among a
//!   million rows must not fail a query.
//!
//! Operators are replaced while the planner reads them, because it would refuse some of them or give them
//! another type. BETWEEN and IN do not pass there; an analyzer rule sees to them.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Float64Array},
        compute::cast,
        datatypes::DataType,
    },
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    functions::core::expr_fn::nullif,
    logical_expr::{
        Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
        ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast as cast_expr,
        expr::InList,
        expr_rewriter::NamePreserver,
        lit,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
        utils::merge_schema,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
    sql::sqlparser::ast::BinaryOperator,
};
use weir_filter::{Number, number_of};

use super::concat::{has_text, is_operator};

/// The function that reads text as a number.
pub(crate) const NUMBER: &str = "weir$number";

/// Reads text as selectors do: `weir$number('05')` is 5.0, and null for what is no number.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct NumberOfText {
    signature: Signature,
}

impl NumberOfText {
    /// Returns the function.
    pub(crate) fn function() -> ScalarUDF {
        ScalarUDF::from(Self { signature: Signature::any(1, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for NumberOfText {
    fn name(&self) -> &str {
        NUMBER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = matches!(args.args[..], [ColumnarValue::Scalar(_)]);
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let text = cast(&arrays[0], &DataType::Utf8)?;
        let numbers: Float64Array =
            text.as_string::<i32>().iter().map(|text| text.and_then(number_of).map(double)).collect();
        if scalar && numbers.len() == 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(numbers.iter().next().flatten())));
        }
        Ok(ColumnarValue::Array(Arc::new(numbers) as ArrayRef))
    }
}

fn double(number: Number) -> f64 {
    match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    }
}

/// Plans the operators of arithmetic and comparison.
#[derive(Debug)]
pub(crate) struct Operators {
    /// Reads text as a number.
    pub(crate) number: Arc<ScalarUDF>,
    /// Stands for `||`.
    pub(crate) concat: Arc<ScalarUDF>,
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if expr.op == BinaryOperator::StringConcat {
            return Ok(self.joined(expr, schema));
        }
        let Some(operator) = operator(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        let (Ok(left_type), Ok(right_type)) = (expr.left.get_type(schema), expr.right.get_type(schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        let (left, right) = (Side::of(&left_type), Side::of(&right_type));
        let both_text = left == Side::Text && right == Side::Text;
        let numeric = matches!(
            (left, right),
            (Side::Int | Side::Float | Side::Text, Side::Int | Side::Float | Side::Text)
        );
        let comparison = is_comparison(operator);
        if !numeric || (both_text && comparison) {
            return Ok(PlannerResult::Original(expr));
        }
        let changes = left == Side::Text
            || right == Side::Text
            || matches!(operator, Operator::Divide | Operator::Modulo);
        if !changes {
            return Ok(PlannerResult::Original(expr));
        }
        let mut new_left = self.number(expr.left, left);
        let mut new_right = self.number(expr.right, right);
        match operator {
            Operator::Divide => {
                new_left = cast_expr(new_left, DataType::Float64);
                new_right = no_zero(cast_expr(new_right, DataType::Float64));
            }
            Operator::Modulo if right == Side::Int => new_right = nullif(new_right, lit(0_i64)),
            Operator::Modulo => new_right = no_zero(new_right),
            _ => {}
        }
        Ok(PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(
            Box::new(new_left),
            operator,
            Box::new(new_right),
        ))))
    }
}

impl Operators {
    /// `||`, as one call for a whole chain of it.
    fn joined(&self, expr: RawBinaryExpr, schema: &DFSchema) -> PlannerResult<RawBinaryExpr> {
        let is_text = |expr: &Expr| expr.get_type(schema).is_ok_and(|data_type| has_text(&data_type));
        if !is_text(&expr.left) || !is_text(&expr.right) {
            return PlannerResult::Original(expr);
        }
        let mut parts = match expr.left {
            Expr::ScalarFunction(call) if is_operator(call.func.name()) => call.args,
            left => vec![left],
        };
        parts.push(expr.right);
        PlannerResult::Planned(self.concat.call(parts))
    }

    fn number(&self, expr: Expr, side: Side) -> Expr {
        if side == Side::Text { self.number.call(vec![expr]) } else { expr }
    }
}

/// Null where `divisor`, a float, is zero. Arrow takes the two zeros of floats for different values.
fn no_zero(divisor: Expr) -> Expr {
    nullif(nullif(divisor, lit(0.0_f64)), lit(-0.0_f64))
}

/// What an operand is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Text,
    Int,
    Float,
    Other,
}

impl Side {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Self::Text,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Float,
            data_type if data_type.is_integer() => Self::Int,
            _ => Self::Other,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float)
    }
}

fn operator(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}

const fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
}

/// Makes BETWEEN and IN read text beside numbers as numbers. Runs before types are coerced.
#[derive(Debug)]
pub(crate) struct NumbersInText(pub(crate) Arc<ScalarUDF>);

impl AnalyzerRule for NumbersInText {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let mut schema = merge_schema(&plan.inputs());
            if let LogicalPlan::TableScan(scan) = &plan {
                schema.merge(&scan.projected_schema);
            }
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| Ok(self.expression(expr, &schema)))?;
                Ok(if expr.transformed { expr.update_data(|expr| name.restore(expr)) } else { expr })
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "numbers_in_text"
    }
}

impl NumbersInText {
    fn expression(&self, expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
        match expr {
            Expr::Between(Between { expr, negated, low, high })
                if self.is_mixed([&*expr, &*low, &*high], schema) =>
            {
                let [expr, low, high] =
                    [expr, low, high].map(|operand| Box::new(self.number(*operand, schema)));
                Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
            }
            Expr::InList(InList { expr, list, negated })
                if self.is_mixed(std::iter::once(&*expr).chain(&list), schema) =>
            {
                let expr = Box::new(self.number(*expr, schema));
                let list = list.into_iter().map(|entry| self.number(entry, schema)).collect();
                Transformed::yes(Expr::InList(InList { expr, list, negated }))
            }
            other => Transformed::no(other),
        }
    }

    /// Whether some operand is text, some a number, and none anything else.
    fn is_mixed<'e>(&self, operands: impl IntoIterator<Item = &'e Expr>, schema: &DFSchema) -> bool {
        let (mut text, mut number) = (false, false);
        for operand in operands {
            match operand.get_type(schema) {
                Ok(DataType::Null) => {}
                Ok(data_type) => match Side::of(&data_type) {
                    Side::Text => text = true,
                    side if side.is_number() => number = true,
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
        text && number
    }

    fn number(&self, expr: Expr, schema: &DFSchema) -> Expr {
        match expr.get_type(schema) {
            Ok(data_type) if Side::of(&data_type) == Side::Text => self.0.call(vec![expr]),
            _ => expr,
        }
    }
}
