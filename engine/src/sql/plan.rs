//! What a plan may hold, checked when names have been resolved and before anything is optimized.
//!
//! - Functions that [`functions`](super::functions) names, also where syntax stands for them (`ARRAY[…]`).
//! - Patterns that are the same for all rows and short, because each is compiled.
//! - Columns that are not too much when they are written out: the optimizer puts what a column stands for
//!   where it is named, so that `SELECT a + a AS a` nested in itself doubles with every level.

use std::collections::HashMap;

use datafusion::{
    common::{
        Column,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Between, BinaryExpr, Case, Expr, Like, LogicalPlan, Operator, WindowFunctionDefinition,
        expr::{InList, ScalarFunction},
    },
    scalar::ScalarValue,
};

use super::{
    concat,
    functions::{FUNCTIONS, is_known, no_function},
    numbers, selectors,
    text::within,
};
use crate::{
    error::EngineError,
    limits::{SQL_PATTERN_BYTES_MAX, SQL_PLAN_OPERATORS_MAX},
};

/// Checks a plan with all its subqueries.
///
/// # Errors
///
/// Says what it must not hold.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), EngineError> {
    let mut checker = Checker::default();
    checker.plan(plan)?;
    operators(checker.operators)?;
    operators(checker.conditions)
}

fn operators(count: u64) -> Result<(), EngineError> {
    within(
        "the operators and function calls of the SQL text, with each column counted as what it stands for,",
        usize::try_from(count).unwrap_or(usize::MAX),
        SQL_PLAN_OPERATORS_MAX,
    )
}

/// How many operators each column of a plan stands for, by its name; one that is not here stands for itself.
type Weights = HashMap<String, u64>;

#[derive(Default)]
struct Checker {
    /// Operators of all expressions.
    operators: u64,
    /// Operators of all conditions, with columns written out: conditions move towards the tables.
    conditions: u64,
}

impl Checker {
    /// Checks `plan` and what it stands on. Returns the weights of its columns.
    fn plan(&mut self, plan: &LogicalPlan) -> Result<Weights, EngineError> {
        let mut weights = Weights::new();
        let mut inputs = Vec::new();
        for input in plan.inputs() {
            let of_input = self.plan(input)?;
            for (name, weight) in &of_input {
                let known = weights.entry(name.clone()).or_default();
                *known = (*known).max(*weight);
            }
            inputs.push((input, of_input));
        }
        let is_condition = matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_));
        let mut failed = None;
        plan.apply_expressions(|expr| {
            let checked = self.expression(expr).and_then(|()| {
                let weight = weight(expr, &weights);
                if is_condition {
                    self.conditions = self.conditions.saturating_add(weight);
                }
                self.operators = self.operators.saturating_add(self::weight(expr, &Weights::new()));
                operators(weight)
            });
            Ok(match checked {
                Ok(()) => TreeNodeRecursion::Continue,
                Err(error) => {
                    failed = Some(error);
                    TreeNodeRecursion::Stop
                }
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.outputs(plan, weights, &inputs)
    }

    /// The weights of the columns of `plan`, whose inputs together have `weights`.
    fn outputs(
        &self,
        plan: &LogicalPlan,
        weights: Weights,
        inputs: &[(&LogicalPlan, Weights)],
    ) -> Result<Weights, EngineError> {
        let renamed = |from: &LogicalPlan, weights: &Weights| -> Weights {
            let pairs = from.schema().columns().into_iter().zip(plan.schema().columns());
            pairs.filter_map(|(from, to)| Some((to.flat_name(), *weights.get(&from.flat_name())?))).collect()
        };
        let named = |exprs: &mut dyn Iterator<Item = &Expr>| -> Weights {
            let heavy = exprs.map(|expr| {
                let (relation, name) = expr.qualified_name();
                (Column::new(relation, name).flat_name(), weight(expr, &weights))
            });
            heavy.filter(|(_, weight)| *weight > 0).collect()
        };
        Ok(match plan {
            LogicalPlan::Projection(projection) => named(&mut projection.expr.iter()),
            LogicalPlan::Aggregate(aggregate) => {
                let groups = aggregate.group_expr.iter().flat_map(|expr| match expr {
                    Expr::GroupingSet(sets) => sets.distinct_expr(),
                    expr => vec![expr],
                });
                named(&mut groups.chain(&aggregate.aggr_expr))
            }
            LogicalPlan::Window(window) => {
                let mut all = named(&mut window.window_expr.iter());
                all.extend(weights);
                all
            }
            LogicalPlan::SubqueryAlias(_) => match inputs {
                [(input, weights)] => renamed(input, weights),
                _ => weights,
            },
            LogicalPlan::Union(_) => {
                let mut all = Weights::new();
                for (input, weights) in inputs {
                    for (name, weight) in renamed(input, weights) {
                        let known = all.entry(name).or_default();
                        *known = (*known).max(weight);
                    }
                }
                all
            }
            LogicalPlan::Unnest(_) => return Err(no_function("unnest", &FUNCTIONS)),
            _ => weights,
        })
    }

    /// Checks what `expr` is made of.
    fn expression(&mut self, expr: &Expr) -> Result<(), EngineError> {
        let mut failed = None;
        expr.apply(|expr| {
            Ok(match self.node(expr) {
                Ok(()) => TreeNodeRecursion::Continue,
                Err(error) => {
                    failed = Some(error);
                    TreeNodeRecursion::Stop
                }
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn node(&mut self, expr: &Expr) -> Result<(), EngineError> {
        match expr {
            Expr::ScalarFunction(call) => scalar_call(call),
            Expr::AggregateFunction(call) => known(call.func.name()),
            Expr::WindowFunction(call) => match &call.fun {
                WindowFunctionDefinition::AggregateUDF(function) => known(function.name()),
                WindowFunctionDefinition::WindowUDF(function) => known(function.name()),
            },
            Expr::HigherOrderFunction(call) => Err(no_function(call.name(), &FUNCTIONS)),
            Expr::Unnest(_) => Err(no_function("unnest", &FUNCTIONS)),
            Expr::Like(Like { pattern: text, .. }) => pattern("LIKE", text),
            Expr::SimilarTo(Like { pattern: text, .. }) => pattern("SIMILAR TO", text),
            Expr::BinaryExpr(BinaryExpr { op, right, .. }) => match op {
                Operator::RegexMatch
                | Operator::RegexIMatch
                | Operator::RegexNotMatch
                | Operator::RegexNotIMatch
                | Operator::LikeMatch
                | Operator::ILikeMatch
                | Operator::NotLikeMatch
                | Operator::NotILikeMatch => pattern(&op.to_string(), right),
                Operator::StringConcat => {
                    Err(EngineError::Sql("|| joins text; cast other values to VARCHAR".to_owned()))
                }
                _ => Ok(()),
            },
            Expr::ScalarSubquery(subquery) => self.plan(&subquery.subquery).map(drop),
            Expr::Exists(exists) => self.plan(&exists.subquery.subquery).map(drop),
            Expr::InSubquery(list) => self.plan(&list.subquery.subquery).map(drop),
            Expr::SetComparison(comparison) => self.plan(&comparison.subquery.subquery).map(drop),
            _ => Ok(()),
        }
    }
}

fn known(name: &str) -> Result<(), EngineError> {
    if is_known(name) { Ok(()) } else { Err(no_function(name, &FUNCTIONS)) }
}

fn scalar_call(call: &ScalarFunction) -> Result<(), EngineError> {
    let name = call.func.name();
    if matches!(name, selectors::MARKER | numbers::NUMBER) || concat::is_operator(name) {
        return Ok(());
    }
    known(name)?;
    match (name, call.args.get(1)) {
        ("regexp_like" | "regexp_count" | "regexp_instr" | "to_char", Some(text)) => pattern(name, text),
        _ => Ok(()),
    }
}

/// Refuses a pattern that depends on the row, or is long.
fn pattern(of: &str, pattern: &Expr) -> Result<(), EngineError> {
    let (mut is_constant, mut bytes) = (!pattern.is_volatile(), 0);
    pattern.apply(|expr| {
        match expr {
            Expr::Literal(
                ScalarValue::Utf8(Some(text))
                | ScalarValue::LargeUtf8(Some(text))
                | ScalarValue::Utf8View(Some(text)),
                _,
            ) => bytes += text.len(),
            Expr::Column(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::ScalarSubquery(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_) => is_constant = false,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !is_constant {
        return Err(EngineError::Sql(format!(
            "the pattern of {of} must be the same for all rows: a literal or a parameter (contains, starts_with \
             and ends_with compare two columns)"
        )));
    }
    within("the bytes of a pattern in the SQL text", bytes, SQL_PATTERN_BYTES_MAX)
}

/// The operators of `expr` with columns written out, as many times as the optimizer may write them.
fn weight(expr: &Expr, columns: &Weights) -> u64 {
    let of = |expr: &Expr| weight(expr, columns);
    let twice = |expr: &Expr| weight(expr, columns).saturating_mul(2);
    let sum = |weights: &mut dyn Iterator<Item = u64>| weights.fold(0, u64::saturating_add);
    match expr {
        Expr::Column(column) => columns.get(&column.flat_name()).copied().unwrap_or(0),
        Expr::Literal(..) | Expr::Placeholder(_) | Expr::OuterReferenceColumn(..) => 0,
        Expr::Alias(alias) => of(&alias.expr),
        Expr::Cast(cast) => of(&cast.expr),
        Expr::TryCast(cast) => of(&cast.expr),
        Expr::GroupingSet(sets) => sum(&mut sets.distinct_expr().into_iter().map(of)),
        Expr::Between(Between { expr, low, high, .. }) => {
            sum(&mut [2, twice(expr), of(low), of(high)].into_iter())
        }
        Expr::ScalarFunction(call) if matches!(call.func.name(), "coalesce" | "nvl" | "nvl2" | "nullif") => {
            sum(&mut call.args.iter().map(twice)).saturating_add(1)
        }
        Expr::InList(InList { expr, list, .. }) => {
            let copies = if list.len() <= 3 { list.len() as u64 } else { 1 };
            sum(&mut list.iter().map(of)).saturating_add(of(expr).saturating_mul(copies)).saturating_add(1)
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let mut branches = when_then_expr.iter().map(|(when, then)| of(when).saturating_add(of(then)));
            let operand = expr.as_ref().map_or(0, |expr| of(expr));
            sum(&mut branches)
                .saturating_add(operand.saturating_mul(when_then_expr.len() as u64))
                .saturating_add(else_expr.as_ref().map_or(0, |expr| of(expr)))
                .saturating_add(1)
        }
        other => {
            let mut weight = 1_u64;
            let _ = other.apply_children(|child| {
                weight = weight.saturating_add(of(child));
                Ok(TreeNodeRecursion::Continue)
            });
            weight
        }
    }
}
