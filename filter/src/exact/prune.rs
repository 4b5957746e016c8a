//! A condition of `sql92` that misses nothing which an exact selector matches.
//!
//! Blocks are pruned by it, with the rules that hold for every condition. It is TRUE wherever the exact
//! selector may be, and says so of more rows where the two languages differ:
//!
//! - Number text that `sql92` does not read (`05` it does, `٥`, `5d`, `0x1p3`, ` 5` and `NaN` it does
//!   not) is of the kind [`Odd`](weir_columns::Kind::Odd), which never prunes a comparison with a number.
//! - Integers beside a double are rounded by Java, so the range of what may match is one step wider.
//! - Values with a type are text to `rocketmq`; floats have NaN and their own rounding in `jms`. Where such
//!   values are, comparisons prune nothing.
//! - What may be TRUE of a missing value (`'x' <> p`, `p = q`, `NOT (p CONTAINS 's')`) is not pruned.

use weir_columns::Kind;

use super::{
    datum::{Datum, Rules, negate},
    tree::{Node, Step, Tree, Unary},
};
use crate::{
    operand::Operand,
    pattern::Pattern,
    range::{NumberRange, TextRange},
    syntax::{Comparison, Connective},
    tree::{Check, Condition, Test, Tree as PlainTree},
    types::{Number, Truth},
};

/// The condition, over the columns of `tree` in their order.
pub(crate) fn approximation(tree: &Tree) -> PlainTree {
    let condition = Pruner { tree }.may_be(&tree.root, true);
    PlainTree { condition, columns: tree.columns.iter().map(|column| column.name.to_plain()).collect() }
}

/// Any row.
const ANY: Condition = Condition::Constant(Truth::True);
/// No row.
const NONE: Condition = Condition::Constant(Truth::False);

struct Pruner<'a> {
    tree: &'a Tree,
}

impl Pruner<'_> {
    /// Where a node may be TRUE, or FALSE.
    fn may_be(&self, node: &Node, wanted: bool) -> Condition {
        match node {
            Node::Constant(Datum::Bool(value)) if *value == wanted => ANY,
            // Unknown is neither.
            Node::Constant(_) => NONE,
            Node::Junction { connective, terms } => {
                // Each term of an AND must be TRUE for it to be so; one that is FALSE makes it FALSE.
                let all = (*connective == Connective::And) == wanted;
                let connective = if all { Connective::And } else { Connective::Or };
                Condition::junction(connective, terms.iter().map(|term| self.may_be(term, wanted)).collect())
            }
            Node::Unary { operators, operand }
                if operators.iter().all(|operator| *operator == Unary::Not) =>
            {
                self.may_be(operand, wanted == operators.len().is_multiple_of(2))
            }
            Node::Condition(column) => self.bare(*column, wanted),
            Node::Steps { first, steps } => match (&**first, &steps[..]) {
                (Node::Column(column), [step]) if self.tree.columns[*column].default.is_null() => {
                    self.step(*column, step, wanted)
                }
                (constant, [Step::Compare(comparison, Node::Column(column))])
                    if self.tree.columns[*column].default.is_null() =>
                {
                    let constant = constant_of(constant);
                    constant.map_or(ANY, |constant| self.flipped(&constant, *comparison, *column, wanted))
                }
                _ => ANY,
            },
            _ => ANY,
        }
    }

    /// A property alone: to RocketMQ it is never TRUE.
    fn bare(&self, column: usize, wanted: bool) -> Condition {
        match (self.tree.rules, wanted) {
            _ if !self.tree.columns[column].default.is_null() => ANY,
            (Rules::RocketMq, true) => NONE,
            (Rules::Jms { .. }, true) => test(Check::Boolean { operand: Operand::Column(column) }, false),
            (_, false) => present(column),
        }
    }

    fn step(&self, column: usize, step: &Step, wanted: bool) -> Condition {
        match step {
            Step::IsNull { negated } => {
                if wanted != *negated {
                    self.missing(column)
                } else {
                    present(column)
                }
            }
            Step::Compare(comparison, right) => match constant_of(right) {
                Some(constant) => self.compare(column, *comparison, &constant, wanted),
                None => match (comparison, wanted) {
                    // Two missing values are equal.
                    (Comparison::Equal, true) | (Comparison::NotEqual, false) => ANY,
                    _ => present(column),
                },
            },
            Step::Between { low, high, negated } => {
                let (Some(low), Some(high)) = (constant_of(low), constant_of(high)) else {
                    return present(column);
                };
                // One value may be neither between two others nor not: what is no number is not compared.
                if !wanted || *negated {
                    return present(column);
                }
                let sides = [(Comparison::GreaterEqual, low), (Comparison::LessEqual, high)];
                let sides = sides.map(|(comparison, bound)| self.compare(column, comparison, &bound, true));
                Condition::junction(Connective::And, sides.into())
            }
            Step::In { texts, negated } if wanted != *negated => {
                let texts = texts.iter().map(|text| self.equals(column, text)).collect();
                Condition::junction(Connective::Or, texts)
            }
            Step::Like { pattern, negated } if wanted != *negated => {
                let operand = Operand::Column(column);
                test(Check::Like { operand, pattern: pattern.clone() }, false)
            }
            Step::Search { pattern: None, .. } if wanted => NONE,
            Step::Search { pattern: Some(pattern), negated: false } if wanted => self.search(column, pattern),
            // The negated form is FALSE on a missing value too.
            Step::Search { .. } if !wanted => ANY,
            Step::In { .. } | Step::Like { .. } | Step::Search { .. } => present(column),
            Step::Compute(..) => ANY,
        }
    }

    fn compare(
        &self,
        column: usize,
        comparison: Comparison,
        constant: &Datum<'_>,
        wanted: bool,
    ) -> Condition {
        let positive = match comparison {
            Comparison::NotEqual => !wanted,
            _ => wanted,
        };
        // Where the value is missing, all of these are unknown.
        if !positive {
            return present(column);
        }
        match (self.tree.rules, constant) {
            // A missing value equals an unknown one.
            (_, Datum::Null) if !comparison.is_ordering() => ANY,
            (Rules::Jms { converts: true }, _) => present(column),
            (_, Datum::Text(text)) => self.equals(column, text),
            (_, Datum::Int(value)) => self.number(column, comparison, Number::Int(i64::from(*value))),
            (_, Datum::Long(value)) => self.number(column, comparison, Number::Int(*value)),
            (_, Datum::Double(value)) if value.is_finite() => {
                self.number(column, comparison, Number::Float(*value))
            }
            (Rules::RocketMq, Datum::Bool(true)) => Condition::junction(
                Connective::Or,
                vec![
                    test(Check::Boolean { operand: Operand::Column(column) }, false),
                    typed(column, NO_TEXT),
                ],
            ),
            (Rules::Jms { .. }, Datum::Bool(value)) => {
                test(Check::Boolean { operand: Operand::Column(column) }, !value)
            }
            _ => present(column),
        }
    }

    /// The same with the constant on the left.
    fn flipped(
        &self,
        constant: &Datum<'_>,
        comparison: Comparison,
        column: usize,
        wanted: bool,
    ) -> Condition {
        match (comparison, wanted) {
            // TRUE where the value is missing.
            (Comparison::NotEqual, true) | (Comparison::Equal, false) => ANY,
            _ => self.compare(column, comparison.flipped(), constant, wanted),
        }
    }

    fn number(&self, column: usize, comparison: Comparison, bound: Number) -> Condition {
        let range = match (bound, comparison) {
            (_, Comparison::NotEqual) => None,
            (Number::Int(_), _) => Some(NumberRange::new(comparison, bound)),
            (Number::Float(bound), _) => {
                let side = |comparison, bound: f64| {
                    bound.is_finite().then(|| NumberRange::new(comparison, Number::Float(bound)))
                };
                let low = side(Comparison::GreaterEqual, bound.next_down());
                let high = side(Comparison::LessEqual, bound.next_up());
                match comparison {
                    Comparison::Greater | Comparison::GreaterEqual => low,
                    Comparison::Less | Comparison::LessEqual => high,
                    Comparison::Equal | Comparison::NotEqual => {
                        low.zip(high).map(|(low, high)| low.intersection(high))
                    }
                }
            }
        };
        let Some(range) = range else { return present(column) };
        let operand = Operand::Column(column);
        let in_range = test(Check::Number { operand, range }, false);
        let others = match self.tree.rules {
            // Their texts may be numbers, and other ones.
            Rules::RocketMq => typed(column, &[Kind::Str, Kind::Bool, Kind::F32, Kind::F64]),
            Rules::Jms { .. } => typed(column, &[Kind::F32, Kind::F64]),
        };
        Condition::junction(Connective::Or, vec![in_range, others])
    }

    /// Where the text is this one.
    fn equals(&self, column: usize, text: &str) -> Condition {
        let range = TextRange::new(Comparison::Equal, text);
        let equal = test(Check::Text { operand: Operand::Column(column), range }, false);
        match self.tree.rules {
            Rules::RocketMq => Condition::junction(Connective::Or, vec![equal, typed(column, NO_TEXT)]),
            Rules::Jms { .. } => equal,
        }
    }

    fn search(&self, column: usize, pattern: &Pattern) -> Condition {
        let operand = Operand::Column(column);
        let found = test(Check::Like { operand, pattern: Box::new(pattern.clone()) }, false);
        Condition::junction(Connective::Or, vec![found, typed(column, NO_TEXT)])
    }

    /// Where the value is missing; to `rocketmq` empty text may be.
    fn missing(&self, column: usize) -> Condition {
        let missing = test(Check::Null { operand: Operand::Column(column) }, false);
        match self.tree.rules {
            Rules::RocketMq => Condition::junction(Connective::Or, vec![missing, self.equals(column, "")]),
            Rules::Jms { .. } => missing,
        }
    }
}

fn test(check: Check, negated: bool) -> Condition {
    Condition::Test(Test { check, negated })
}

fn present(column: usize) -> Condition {
    test(Check::Null { operand: Operand::Column(column) }, true)
}

/// Where the value is of one of these kinds.
fn typed(column: usize, kinds: &[Kind]) -> Condition {
    let kinds = kinds.iter().copied().collect();
    test(Check::Typed { operand: Operand::Column(column), kinds }, false)
}

/// The kinds of values that are text to `rocketmq` alone.
const NO_TEXT: &[Kind] = &[Kind::Bool, Kind::I32, Kind::I64, Kind::F32, Kind::F64];

/// The value of a node that looks at no row: a literal, or a number with its sign.
fn constant_of(node: &Node) -> Option<Datum<'_>> {
    match node {
        Node::Constant(constant) => Some(constant.borrowed()),
        Node::Unary { operators, operand } if operators.iter().all(|operator| *operator == Unary::Minus) => {
            let Node::Constant(constant) = &**operand else { return None };
            Some(operators.iter().fold(constant.borrowed(), |value, _| negate(value)))
        }
        _ => None,
    }
}
