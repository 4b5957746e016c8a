//! Where a text means something else to RocketMQ than in `sql92`.
//!
//! Looks at both parses: what only one accepts, what RocketMQ drops, how far its NOT reaches, and which
//! operators answer differently for which values. Each reason is told once, at its first place. An empty
//! list means that no reason of these was found, which are all that `docs/sql.md` lists.

#![warn(clippy::indexing_slicing)]

use std::fmt;

use crate::{
    dialect::Dialect,
    error::SelectorError,
    exact,
    lexer::{Keyword, Spanned, Symbol, Token, tokens},
    limits::Limits,
    parser,
    selector::Selector,
    syntax::{Comparison, Expr, ExprKind, Literal},
};

/// A reason why RocketMQ answers differently, and where.
///
/// Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(SelectorError);

impl Difference {
    /// Returns what differs.
    pub fn message(&self) -> &str {
        self.0.message()
    }

    /// Returns where in the text, in bytes from 0.
    pub fn position(&self) -> usize {
        self.0.position()
    }

    /// Returns the column, in characters from 1.
    pub fn column(&self) -> usize {
        self.0.column()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text has been accepted before, so that only its depth is bounded anew.
const ACCEPTED: Limits = Limits {
    cost_max: u64::MAX,
    text_bytes_max: usize::MAX,
    tokens_max: usize::MAX,
    depth_max: Limits::DEPTH_CEILING,
    list_max: usize::MAX,
    pattern_bytes_max: usize::MAX,
};

/// Returns where `selector`, written in `sql92`, means something else in `rocketmq`, in the order of the text.
pub(crate) fn differences(selector: &Selector) -> Vec<Difference> {
    let text = selector.text();
    let mut found = Finder { text, found: Vec::new() };
    match exact::parse(text, Dialect::RocketMq, &ACCEPTED) {
        Err(error) => found.add(error.position(), format!("RocketMQ refuses this: {}", error.message())),
        Ok(exact) => {
            if let Some(dropped) = exact.dropped {
                found.add(dropped, "RocketMQ ignores the text from here on");
            }
        }
    }
    if let Ok(tokens) = tokens(text, &ACCEPTED) {
        found.tight_nots(&tokens);
        for Spanned { token, at } in &tokens {
            if matches!(token, Token::Name(name) if matches!(&**name, "TAGS" | "KEYS" | "UNIQ_KEY" | "BORN_TIMESTAMP"))
            {
                found.add(
                    *at,
                    "to RocketMQ this is the tag, keys, id or time of the message, here a property",
                );
            }
        }
    }
    if let Ok(expr) = parser::parse(text, &ACCEPTED) {
        found.condition(&expr, false);
    }
    found.found.sort_by_key(Difference::position);
    found.found
}

struct Finder<'a> {
    text: &'a str,
    found: Vec<Difference>,
}

impl Finder<'_> {
    fn add(&mut self, at: usize, message: impl Into<String>) {
        let difference = Difference(SelectorError::new(self.text, at, message));
        if !self.found.iter().any(|known| known.message() == difference.message()) {
            self.found.push(difference);
        }
    }

    /// Each NOT in front of an operand that goes on as a comparison.
    fn tight_nots(&mut self, tokens: &[Spanned]) {
        let token = |place: usize| tokens.get(place).map_or(&Token::End, |spanned| &spanned.token);
        // Matching parentheses, so that none is looked for twice.
        let mut open = Vec::new();
        let mut close_of = vec![0; tokens.len()];
        for (place, spanned) in tokens.iter().enumerate() {
            match spanned.token {
                Token::Symbol(Symbol::Open) => open.push(place),
                Token::Symbol(Symbol::Close) => {
                    if let Some(close) = open.pop().and_then(|open: usize| close_of.get_mut(open)) {
                        *close = place;
                    }
                }
                _ => {}
            }
        }
        for (place, spanned) in tokens.iter().enumerate() {
            let is_prefix = place == 0
                || matches!(
                    token(place - 1),
                    Token::Symbol(Symbol::Open) | Token::Keyword(Keyword::And | Keyword::Or)
                );
            if spanned.token != Token::Keyword(Keyword::Not) || !is_prefix {
                continue;
            }
            let mut behind = place;
            while matches!(
                token(behind),
                Token::Keyword(Keyword::Not) | Token::Symbol(Symbol::Plus | Symbol::Minus)
            ) {
                behind += 1;
            }
            if *token(behind) == Token::Symbol(Symbol::Open) {
                behind = close_of.get(behind).copied().unwrap_or(behind).max(behind);
            }
            let goes_on = !matches!(
                token(behind + 1),
                Token::End | Token::Symbol(Symbol::Close) | Token::Keyword(Keyword::And | Keyword::Or)
            );
            if goes_on {
                self.add(
                    spanned.at,
                    "RocketMQ applies this NOT to the next value alone, and the comparison then mostly fails",
                );
            }
        }
    }

    /// `negated` says whether an odd number of NOTs stands around.
    fn condition(&mut self, expr: &Expr, negated: bool) {
        match &expr.kind {
            ExprKind::Property(_) => {
                self.add(
                    expr.at,
                    "to RocketMQ a property alone is never TRUE, and its NOT always if it is there",
                );
            }
            ExprKind::Not(operand) => self.condition(operand, !negated),
            ExprKind::Junction { terms, .. } => terms.iter().for_each(|term| self.condition(term, negated)),
            ExprKind::Compare { left, comparison, right } => {
                self.compare(left, *comparison, right, negated);
            }
            ExprKind::Between { operand, low, high, .. } => {
                for value in [operand, low, high] {
                    self.value(value);
                }
                for bound in [low, high] {
                    self.number(operand, bound);
                }
            }
            ExprKind::Search { operand, text, .. } => {
                self.value(operand);
                if text.is_empty() {
                    self.add(expr.at, "to RocketMQ nothing contains an empty text, and nothing does not");
                } else if negated {
                    self.add(
                        expr.at,
                        "to RocketMQ the NOT around this is TRUE where the property is missing",
                    );
                }
            }
            ExprKind::IsNull { operand, .. } if operand.is_condition() => self.condition(operand, true),
            ExprKind::IsNull { operand, .. } => {
                self.value(operand);
                if matches!(operand.kind, ExprKind::Property(_)) {
                    self.add(expr.at, EMPTY);
                }
            }
            _ => {}
        }
    }

    fn compare(&mut self, left: &Expr, comparison: Comparison, right: &Expr, negated: bool) {
        if left.is_condition() || right.is_condition() {
            for side in [left, right] {
                match side.is_condition() {
                    true => self.condition(side, true),
                    false => self.value(side),
                }
            }
            self.add(
                left.at,
                "to RocketMQ two unknown conditions are equal, and an unknown one is unequal to others",
            );
            return;
        }
        self.value(left);
        self.value(right);
        self.number(left, right);
        self.number(right, left);
        let is_property = |side: &Expr| matches!(side.kind, ExprKind::Property(_));
        if !comparison.is_ordering() {
            for (side, other) in [(left, right), (right, left)] {
                match &side.kind {
                    ExprKind::Literal(Literal::Text(text)) if text.is_empty() && is_property(other) => {
                        self.add(side.at, EMPTY);
                    }
                    ExprKind::Literal(Literal::Boolean(_)) if is_property(other) => self.add(
                        side.at,
                        "to RocketMQ every text but true is FALSE, and TRUE or FALSE on the left of a property fails",
                    ),
                    _ => {}
                }
            }
        }
        match (is_property(left), is_property(right)) {
            (true, true) if comparison.is_ordering() => {
                self.add(left.at, "RocketMQ orders properties as numbers, and fails on other text");
            }
            (true, true) => self.add(
                left.at,
                "to RocketMQ two missing properties are equal, one missing on the right is unequal, and `5` is not `5.0`",
            ),
            (false, true)
                if !comparison.is_ordering() && (comparison == Comparison::NotEqual) != negated =>
            {
                self.add(left.at, "to RocketMQ a missing property on the right is unequal");
            }
            _ => {}
        }
    }

    /// A property beside a number.
    fn number(&mut self, property: &Expr, number: &Expr) {
        if !matches!(property.kind, ExprKind::Property(_)) {
            return;
        }
        match &number.kind {
            ExprKind::Literal(Literal::Integer(value)) => {
                let bits = if i32::try_from(*value).is_ok() { 32 } else { 64 };
                self.add(
                    number.at,
                    format!("RocketMQ fails beside this number unless the text is an integer of {bits} bits"),
                );
            }
            ExprKind::Literal(Literal::Decimal(_)) => self.add(
                number.at,
                "beside this number RocketMQ reads ` 5 `, `5d`, `0x1p3` and `NaN` too, rounds integers, and fails on other text",
            ),
            _ => {}
        }
    }

    fn value(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Sign { negative: true, operand } if matches!(operand.kind, ExprKind::Property(_)) => {
                self.add(expr.at, "to RocketMQ minus a property is always NULL");
            }
            ExprKind::Sign { operand, .. } => self.value(operand),
            _ => {}
        }
    }
}

const EMPTY: &str = "RocketMQ stores no empty text: there it is a missing property";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(usize, &str)]) {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
        let found = differences(&selector);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {shown:#?}");
        for (difference, (position, part)) in found.iter().zip(expected) {
            assert_eq!(difference.position(), *position, "{text}: {difference}");
            assert!(difference.message().contains(part), "{text}: {difference}");
        }
    }

    #[test]
    fn what_means_the_same_has_no_difference() {
        for text in [
            "region = 'EU'",
            "region IN ('EU', 'US') AND tag <> 'x' OR NOT (region = 'EU')",
            "region CONTAINS 'E' AND TRUE",
            "region NOT CONTAINS 'E'",
            "'EU' = region",
        ] {
            check(text, &[]);
        }
    }

    #[test]
    fn each_difference_has_a_reason_and_a_place() {
        check("a = 'x' AND b LIKE 'x%'", &[(14, "ignores")]);
        check("(b LIKE 'x%')", &[(3, "refuses")]);
        check("a > '2013-06'", &[(4, "refuses")]);
        check("NOT a = 'x'", &[(0, "NOT")]);
        check("NOT (a = 'x') = b", &[(0, "NOT"), (5, "unknown")]);
        check("price > 5 OR price > 6", &[(8, "32 bits")]);
        check("price > 5000000000", &[(8, "64 bits")]);
        check("price > 5.5", &[(8, "NaN")]);
        check("price > 0.0", &[(8, "refuses"), (8, "NaN")]);
        check("'x' <> p", &[(0, "missing")]);
        check("NOT ('x' = p)", &[(5, "missing")]);
        check("p = q", &[(0, "equal")]);
        check("p < q", &[(0, "orders")]);
        check("flag", &[(0, "alone")]);
        check("flag = TRUE", &[(7, "every text but true")]);
        check("NOT (p CONTAINS 'x')", &[(5, "missing")]);
        check("p CONTAINS ''", &[(0, "empty")]);
        check("p IS NULL", &[(0, "empty")]);
        check("p = ''", &[(4, "empty")]);
        check("TAGS = 'x'", &[(0, "the tag")]);
        check("sys.tag = 'x'", &[(3, "refuses")]);
        check("-p = -5", &[(0, "minus")]);
    }
}
