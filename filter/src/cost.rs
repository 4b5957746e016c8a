//! What a selector costs a row at worst, estimated from its text alone.
//!
//! The unit is about a nanosecond on one core, for values of 100 bytes and bodies of 4 KiB. Each part has a
//! fixed price and parts add up, as if nothing were decided early and no value came twice; so the estimate is
//! the same on every machine and for all data. `docs/sql.md` shows the prices.

use crate::{
    functions::{Function, Takes},
    syntax::{Expr, ExprKind},
};

/// To look at a property or a system value.
const VALUE: u64 = 20;
/// To compare two values, or to ask a value something as simple.
const COMPARE: u64 = 20;
/// To look a value up in a list.
const LIST: u64 = 50;
/// To compute a number.
const NUMBER: u64 = 10;
/// To make a text, or to go through one.
const TEXT: u64 = 100;
/// To match a pattern of LIKE, for each byte of it.
const PATTERN_BYTE: u64 = 2;
/// To match a regular expression.
const REGEXP: u64 = 5_000;
/// To read a body and to go through it.
const BODY: u64 = 20_000;

/// The prices as the documentation shows them.
#[cfg(test)]
const PRICES: [(&str, u64); 7] = [
    ("`JSON_VALUE`", BODY),
    ("`REGEXP`", REGEXP),
    ("LIKE, CONTAINS, STARTSWITH, ENDSWITH; a function of text", TEXT),
    ("a list after IN", LIST),
    ("a comparison, BETWEEN (twice), IS NULL, COALESCE, NULLIF", COMPARE),
    ("a property or system value", VALUE),
    ("an operator or a function of numbers", NUMBER),
];

/// What a selector costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) total: u64,
    /// The price of the most expensive part, by itself.
    pub(crate) highest: u64,
    /// Where that part begins, in bytes; of equals the first.
    pub(crate) at: usize,
}

impl Cost {
    pub(crate) fn of(expr: &Expr) -> Self {
        let mut cost = Self { at: expr.at, ..Self::default() };
        cost.add(expr);
        cost
    }

    fn add(&mut self, expr: &Expr) {
        let price = price(&expr.kind);
        self.total = self.total.saturating_add(price);
        if price > self.highest {
            (self.highest, self.at) = (price, expr.at);
        }
        match &expr.kind {
            ExprKind::Literal(_)
            | ExprKind::Property(_)
            | ExprKind::System(_)
            | ExprKind::JsonValue(_)
            | ExprKind::Now => {}
            ExprKind::Sign { operand, .. }
            | ExprKind::In { operand, .. }
            | ExprKind::Like { operand, .. }
            | ExprKind::Search { operand, .. }
            | ExprKind::Regexp { operand, .. }
            | ExprKind::IsNull { operand, .. }
            | ExprKind::Not(operand) => self.add(operand),
            ExprKind::Arithmetic { first, rest } => {
                self.add(first);
                rest.iter().for_each(|(_, operand)| self.add(operand));
            }
            ExprKind::Compare { left, right, .. } => {
                self.add(left);
                self.add(right);
            }
            ExprKind::Between { operand, low, high, .. } => {
                // Each bound asks for the value anew.
                self.add(operand);
                self.add(operand);
                self.add(low);
                self.add(high);
            }
            ExprKind::Call { arguments: terms, .. } | ExprKind::Junction { terms, .. } => {
                terms.iter().for_each(|term| self.add(term));
            }
        }
    }
}

/// What a part costs without those that it is made of.
fn price(kind: &ExprKind) -> u64 {
    match kind {
        ExprKind::Literal(_) | ExprKind::Now | ExprKind::Not(_) | ExprKind::Junction { .. } => 0,
        ExprKind::Property(_) | ExprKind::System(_) => VALUE,
        ExprKind::JsonValue(_) => BODY,
        ExprKind::Sign { .. } => NUMBER,
        ExprKind::Arithmetic { rest, .. } => NUMBER.saturating_mul(rest.len() as u64),
        ExprKind::Compare { .. } | ExprKind::IsNull { .. } => COMPARE,
        ExprKind::Between { .. } => 2 * COMPARE,
        ExprKind::In { .. } => LIST,
        ExprKind::Like { pattern, .. } => {
            TEXT.saturating_add(PATTERN_BYTE.saturating_mul(pattern.len() as u64))
        }
        ExprKind::Search { .. } => TEXT,
        ExprKind::Regexp { .. } => REGEXP,
        ExprKind::Call { function, arguments } => match function.takes() {
            Takes::Number => NUMBER,
            Takes::OneType => COMPARE,
            Takes::Text | Takes::TextThenNumbers if *function == Function::Concat => {
                TEXT.saturating_mul(arguments.len() as u64)
            }
            Takes::Text | Takes::TextThenNumbers => TEXT,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, parser};

    #[test]
    fn parts_add_up_and_the_most_expensive_one_is_known() {
        for (text, total, at) in [
            ("TRUE", 0, 0),
            ("a = 5", 40, 0),
            ("a = 5 AND b LIKE 'x%'", 40 + 20 + 104, 10),
            ("a + 1 > b * 2 * 3", 20 + 20 + 20 + 10 + 20, 0),
            ("a BETWEEN 1 AND 2", 40 + 20 + 20, 0),
            ("UPPER(a) IN ('x')", 50 + 100 + 20, 0),
            ("a = 1 OR REGEXP(b, 'x')", 40 + 5_020, 9),
            ("a REGEXP 'x' OR JSON_VALUE(body, '$.a') = 1", 5_020 + 20_020, 16),
        ] {
            let cost = Cost::of(&parser::parse(text, &Limits::default()).unwrap());
            assert_eq!((cost.total, cost.at), (total, at), "{text}");
        }
    }

    #[test]
    fn the_documentation_shows_the_prices() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md");
        let text = std::fs::read_to_string(path).unwrap();
        for (part, price) in PRICES {
            let price = if price < 1000 {
                price.to_string()
            } else {
                format!("{},{:03}", price / 1000, price % 1000)
            };
            let row = format!("| {part} | {price} |");
            assert!(text.lines().any(|line| line == row), "docs/sql.md needs the line\n{row}");
        }
    }
}
