//! The same language, row by row, for tests: too plain to be wrong.
//!
//! Walks the syntax tree as it was written and asks [`Rows::value`] for each value. Shares the parser
//! with the fast way and nothing else: no types, no normal form, no ranges, no patterns, no functions.
//! (What a regular expression matches is left to the `regex` crate on both sides.)
//!
//! Also here: [`VecRows`] and [`VecStatistics`], which present plain values as columns and statistics.

mod functions;
mod rows;
mod statistics;

use std::cmp::Ordering;

use weir_columns::{ColumnRef, Rows, Value};

pub use rows::{Row, Shape, VecRows};
pub use statistics::VecStatistics;

use crate::{
    exact,
    json::{JsonPath, Step},
    limits::Limits,
    parser,
    selector::Selector,
    syntax::{Arithmetic, Comparison, Connective, Expr, ExprKind, Literal, Search},
    types::Truth,
};

/// Judges one row.
///
/// # Errors
///
/// If the row cannot be read.
///
/// # Panics
///
/// If `row` is out of bounds.
pub fn evaluate<R: Rows>(selector: &Selector, rows: &R, row: usize) -> Result<Truth, R::Error> {
    Oracle::new(selector).truth(rows, row)
}

/// Judges one row by a selector of an exact dialect: its truth, `None` if the evaluation fails, and whether
/// it is delivered.
///
/// Shares the evaluation of values with the fast way, and not the columns, masks and pruning around it.
///
/// # Errors
///
/// If the row cannot be read.
///
/// # Panics
///
/// If the selector is of `sql92`, or `row` is out of bounds.
pub fn evaluate_exact<R: Rows>(
    selector: &Selector,
    rows: &R,
    row: usize,
    empty_is_missing: bool,
) -> Result<(Option<Truth>, bool), R::Error> {
    let tree = selector.exact().expect("a selector of an exact dialect");
    let values: Vec<Option<Value>> =
        tree.columns.iter().map(|column| rows.value(column.name.as_ref(), row)).collect::<Result<_, _>>()?;
    let texts: Vec<String> =
        values.iter().map(|value| value.as_ref().map_or_else(String::new, Value::to_text)).collect();
    let answer = tree.answer(&tree.root, &|place| {
        let Some(value) = &values[place] else { return exact::Datum::Null };
        let (int, float) = match value {
            Value::I32(value) => (Some(i64::from(*value)), None),
            Value::I64(value) => (Some(*value), None),
            Value::F32(value) => (None, Some(f64::from(*value))),
            Value::F64(value) => (None, Some(*value)),
            Value::Text(_) | Value::Str(_) | Value::Bool(_) => (None, None),
        };
        exact::stored(tree.rules, empty_is_missing, value.kind(), &texts[place], int, float)
    });
    Ok((answer.truth(), answer.delivers(tree.rules)))
}

/// A selector that judges one row after another.
#[derive(Debug)]
pub struct Oracle {
    expr: Expr,
    /// What NOW is, in milliseconds since 1970.
    now_ms: Option<i64>,
}

impl Oracle {
    /// Returns the oracle of a selector.
    pub fn new(selector: &Selector) -> Self {
        let limits = Limits {
            text_bytes_max: usize::MAX,
            tokens_max: usize::MAX,
            depth_max: usize::MAX,
            list_max: usize::MAX,
            pattern_bytes_max: usize::MAX,
            cost_max: u64::MAX,
        };
        let expr =
            parser::parse(selector.text(), &limits).expect("the text of a selector has been parsed before");
        Self { expr, now_ms: None }
    }

    /// Returns the oracle of a scan at this moment, in milliseconds since 1970. Before, NOW is NULL.
    #[must_use]
    pub fn at(mut self, now_ms: i64) -> Self {
        self.now_ms = Some(now_ms);
        self
    }

    /// Judges one row.
    ///
    /// # Errors
    ///
    /// If the row cannot be read.
    pub fn truth<R: Rows>(&self, rows: &R, row: usize) -> Result<Truth, R::Error> {
        let read = |source: Source<'_>| match source {
            Source::Column(name) => Ok(rows.value(name, row)?.into()),
            Source::Json(path) => {
                let mut found = Item::Missing;
                rows.bodies(&mut std::iter::once(row), usize::MAX, &mut |_, body| {
                    found = body.map_or(Item::Missing, |body| json(body, path.steps()));
                })?;
                Ok(found)
            }
            Source::Now => Ok(self.now_ms.map_or(Item::Missing, Item::Int)),
        };
        truth(&self.expr, &read)
    }
}

/// Where a value comes from.
enum Source<'a> {
    Column(ColumnRef<'a>),
    Json(&'a JsonPath),
    Now,
}

/// A value as it stands in an expression.
#[derive(Clone, Debug)]
enum Item {
    Missing,
    /// Untyped.
    Text(String),
    Str(String),
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl From<Option<Value>> for Item {
    fn from(value: Option<Value>) -> Self {
        match value {
            None => Self::Missing,
            Some(Value::Text(text)) => Self::Text(text),
            Some(Value::Str(text)) => Self::Str(text),
            Some(Value::Bool(value)) => Self::Bool(value),
            Some(Value::I32(value)) => Self::Int(i64::from(value)),
            Some(Value::I64(value)) => Self::Int(value),
            Some(Value::F32(value)) => Self::Float(f64::from(value)),
            Some(Value::F64(value)) => Self::Float(value),
        }
    }
}

impl From<&Literal> for Item {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Self::Missing,
            Literal::Text(text) => Self::Str(text.clone()),
            Literal::Boolean(value) => Self::Bool(*value),
            Literal::Integer(value) => Self::Int(*value),
            Literal::Decimal(value) => Self::Float(*value),
        }
    }
}

fn truth<E>(expr: &Expr, read: &impl Fn(Source<'_>) -> Result<Item, E>) -> Result<Truth, E> {
    let negate = |truth: Truth, negated: bool| if negated { truth.negated() } else { truth };
    Ok(match &expr.kind {
        ExprKind::Junction { connective, terms } => {
            let truths = terms.iter().map(|term| truth(term, read)).collect::<Result<Vec<_>, E>>()?;
            let (decides, else_) = match connective {
                Connective::And => (Truth::False, Truth::True),
                Connective::Or => (Truth::True, Truth::False),
            };
            if truths.contains(&decides) {
                decides
            } else if truths.contains(&Truth::Unknown) {
                Truth::Unknown
            } else {
                else_
            }
        }
        ExprKind::Not(operand) => truth(operand, read)?.negated(),
        ExprKind::Compare { left, comparison, right } => {
            let left = item_or_truth(left, read)?;
            let right = item_or_truth(right, read)?;
            compare(&left, *comparison, &right)
        }
        ExprKind::Between { operand, low, high, negated } => {
            let operand = item(operand, read)?;
            let from = compare(&operand, Comparison::GreaterEqual, &item(low, read)?);
            let to = compare(&operand, Comparison::LessEqual, &item(high, read)?);
            let both = match (from, to) {
                (Truth::False, _) | (_, Truth::False) => Truth::False,
                (Truth::True, Truth::True) => Truth::True,
                _ => Truth::Unknown,
            };
            negate(both, *negated)
        }
        ExprKind::In { operand, list, negated } => {
            let operand = item(operand, read)?;
            let answers: Vec<Truth> =
                list.iter().map(|entry| compare(&operand, Comparison::Equal, &Item::from(entry))).collect();
            let any = if answers.contains(&Truth::True) {
                Truth::True
            } else if answers.contains(&Truth::Unknown) {
                Truth::Unknown
            } else {
                Truth::False
            };
            negate(any, *negated)
        }
        ExprKind::Like { operand, pattern, escape, negated } => match item(operand, read)? {
            Item::Text(text) | Item::Str(text) => {
                let pattern: Vec<char> = pattern.chars().collect();
                let text: Vec<char> = text.chars().collect();
                negate(Truth::from(like(&pattern, *escape, &text)), *negated)
            }
            _ => Truth::Unknown,
        },
        ExprKind::Search { operand, search, text: wanted, negated } => match item(operand, read)? {
            Item::Text(text) | Item::Str(text) => {
                let found = match search {
                    Search::Contains => text.contains(wanted.as_str()),
                    Search::StartsWith => text.starts_with(wanted.as_str()),
                    Search::EndsWith => text.ends_with(wanted.as_str()),
                };
                negate(Truth::from(found), *negated)
            }
            _ => Truth::Unknown,
        },
        ExprKind::Regexp { operand, pattern: (pattern, _), negated } => match item(operand, read)? {
            Item::Text(text) | Item::Str(text) => {
                let found = regex::Regex::new(pattern).expect("it has been compiled before").is_match(&text);
                negate(Truth::from(found), *negated)
            }
            _ => Truth::Unknown,
        },
        ExprKind::IsNull { operand, negated } => {
            let is_null = if operand.is_condition() {
                truth(operand, read)? == Truth::Unknown
            } else {
                matches!(item(operand, read)?, Item::Missing)
            };
            negate(Truth::from(is_null), *negated)
        }
        _ => match item(expr, read)? {
            Item::Bool(value) => Truth::from(value),
            Item::Text(text) => boolean(&text).map_or(Truth::Unknown, Truth::from),
            _ => Truth::Unknown,
        },
    })
}

fn item<E>(expr: &Expr, read: &impl Fn(Source<'_>) -> Result<Item, E>) -> Result<Item, E> {
    Ok(match &expr.kind {
        ExprKind::Literal(literal) => Item::from(literal),
        ExprKind::Property(name) => read(Source::Column(ColumnRef::Property(name)))?,
        ExprKind::System(system) => read(Source::Column(ColumnRef::System(*system)))?,
        ExprKind::JsonValue(path) => read(Source::Json(path))?,
        ExprKind::Now => read(Source::Now)?,
        ExprKind::Call { function, arguments } => {
            let arguments =
                arguments.iter().map(|argument| item(argument, read)).collect::<Result<_, E>>()?;
            functions::call(*function, arguments)
        }
        ExprKind::Sign { negative, operand } => match (number(&item(operand, read)?), negative) {
            (Item::Int(value), true) => value.checked_neg().map_or(Item::Missing, Item::Int),
            (Item::Float(value), true) => finite(-value),
            (number, _) => number,
        },
        ExprKind::Arithmetic { first, rest } => {
            let mut result = number(&item(first, read)?);
            for (operator, operand) in rest {
                result = compute(&result, *operator, &number(&item(operand, read)?));
            }
            result
        }
        _ => unreachable!("the types of the selector have been checked"),
    })
}

/// Builds the whole document and walks it.
fn json(body: &[u8], steps: &[Step]) -> Item {
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else { return Item::Missing };
    let found = steps.iter().try_fold(&document, |value, step| match step {
        Step::Member(name) => value.as_object()?.get(name),
        Step::Element(index) => value.as_array()?.get(*index),
    });
    match found {
        Some(serde_json::Value::String(text)) if text.len() <= 65_536 => Item::Str(text.clone()),
        Some(serde_json::Value::Bool(value)) => Item::Bool(*value),
        Some(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Item::Int(int),
            (None, Some(float)) => Item::Float(float),
            _ => Item::Missing,
        },
        _ => Item::Missing,
    }
}

/// A condition beside TRUE or FALSE counts as the boolean that it is.
fn item_or_truth<E>(expr: &Expr, read: &impl Fn(Source<'_>) -> Result<Item, E>) -> Result<Item, E> {
    if !expr.is_condition() {
        return item(expr, read);
    }
    Ok(match truth(expr, read)? {
        Truth::True => Item::Bool(true),
        Truth::False => Item::Bool(false),
        Truth::Unknown => Item::Missing,
    })
}

/// What the value is as a number: `Int`, `Float`, or `Missing`.
fn number(item: &Item) -> Item {
    match item {
        Item::Int(_) | Item::Float(_) => item.clone(),
        Item::Text(text) => number_text(text).unwrap_or(Item::Missing),
        Item::Missing | Item::Str(_) | Item::Bool(_) => Item::Missing,
    }
}

/// `[+-]?(d+[.d*]|.d+)(e[+-]?d+)?`
fn number_text(text: &str) -> Option<Item> {
    let all_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let fits = all_digits(whole)
        && fraction.is_none_or(all_digits)
        && !(whole.is_empty() && fraction.is_none_or(str::is_empty))
        && exponent.is_none_or(|exponent| !exponent.is_empty() && all_digits(exponent));
    if !fits {
        return None;
    }
    if fraction.is_none()
        && exponent.is_none()
        && let Ok(int) = text.parse()
    {
        return Some(Item::Int(int));
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Item::Float)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn finite(value: f64) -> Item {
    if value.is_finite() { Item::Float(value) } else { Item::Missing }
}

fn compute(a: &Item, operator: Arithmetic, b: &Item) -> Item {
    let float = |item: &Item| match item {
        Item::Int(value) => Some(*value as f64),
        Item::Float(value) => Some(*value),
        _ => None,
    };
    if let (Item::Int(a), Item::Int(b)) = (a, b)
        && operator != Arithmetic::Divide
    {
        let (a, b) = (i128::from(*a), i128::from(*b));
        let exact = match operator {
            Arithmetic::Add => Some(a + b),
            Arithmetic::Subtract => Some(a - b),
            Arithmetic::Multiply => Some(a * b),
            Arithmetic::Modulo | Arithmetic::Divide => a.checked_rem(b),
        };
        return exact.and_then(|exact| i64::try_from(exact).ok()).map_or(Item::Missing, Item::Int);
    }
    let (Some(a), Some(b)) = (float(a), float(b)) else { return Item::Missing };
    finite(match operator {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::Modulo => a % b,
    })
}

/// The rules of `docs/sql.md`, "What compares with what", one by one.
fn compare(left: &Item, comparison: Comparison, right: &Item) -> Truth {
    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    let ordering = match (left, right) {
        (Item::Missing, _) | (_, Item::Missing) => None,
        (Item::Text(a), Item::Text(b)) => match (number_text(a), number_text(b)) {
            (Some(a), Some(b)) => compare_numbers(&a, &b),
            (None, None) if equality => Some(a.cmp(b)),
            _ => None,
        },
        (Item::Text(a) | Item::Str(a), Item::Text(b) | Item::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Item::Bool(a), Item::Bool(b)) if equality => Some(a.cmp(b)),
        (Item::Text(a), Item::Bool(b)) if equality => boolean(a).map(|a| a.cmp(b)),
        (Item::Bool(a), Item::Text(b)) if equality => boolean(b).map(|b| a.cmp(&b)),
        (Item::Int(_) | Item::Float(_), Item::Int(_) | Item::Float(_)) => compare_numbers(left, right),
        (Item::Text(a), Item::Int(_) | Item::Float(_)) => {
            number_text(a).and_then(|a| compare_numbers(&a, right))
        }
        (Item::Int(_) | Item::Float(_), Item::Text(b)) => {
            number_text(b).and_then(|b| compare_numbers(left, &b))
        }
        _ => None,
    };
    let Some(ordering) = ordering else { return Truth::Unknown };
    Truth::from(match comparison {
        Comparison::Equal => ordering == Ordering::Equal,
        Comparison::NotEqual => ordering != Ordering::Equal,
        Comparison::Less => ordering == Ordering::Less,
        Comparison::LessEqual => ordering != Ordering::Greater,
        Comparison::Greater => ordering == Ordering::Greater,
        Comparison::GreaterEqual => ordering != Ordering::Less,
    })
}

fn compare_numbers(a: &Item, b: &Item) -> Option<Ordering> {
    match (a, b) {
        (Item::Int(a), Item::Int(b)) => Some(a.cmp(b)),
        (Item::Float(a), Item::Float(b)) => a.partial_cmp(b),
        (Item::Int(a), Item::Float(b)) => compare_exactly(*a, *b),
        (Item::Float(a), Item::Int(b)) => compare_exactly(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

/// Doubles up to 2^100 without their fraction are exact as i128; larger ones are larger than all integers.
fn compare_exactly(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float.abs() > 2_f64.powi(100) {
        return 0.0.partial_cmp(&float);
    }
    let whole = float.trunc();
    match i128::from(int).cmp(&(whole as i128)) {
        Ordering::Equal => whole.partial_cmp(&float),
        ordering => Some(ordering),
    }
}

/// Whether a pattern matches a text, by trying.
fn like(pattern: &[char], escape: Option<char>, text: &[char]) -> bool {
    /// One part of a pattern.
    enum Part {
        AnyText,
        AnyChar,
        Char(char),
    }
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let [first, after @ ..] = rest {
        rest = after;
        match after.first() {
            Some(next) if Some(*first) == escape && (['%', '_'].contains(next) || Some(*next) == escape) => {
                parts.push(Part::Char(*next));
                rest = &after[1..];
            }
            _ if Some(*first) == escape => parts.push(Part::Char(*first)),
            _ if *first == '%' => parts.push(Part::AnyText),
            _ if *first == '_' => parts.push(Part::AnyChar),
            _ => parts.push(Part::Char(*first)),
        }
    }
    // ends[n]: whether the parts so far match the first n characters.
    let mut ends: Vec<bool> = (0..=text.len()).map(|n| n == 0).collect();
    for part in parts {
        ends = match part {
            Part::AnyText => (0..=text.len()).map(|n| ends[..=n].contains(&true)).collect(),
            Part::AnyChar => (0..=text.len()).map(|n| n > 0 && ends[n - 1]).collect(),
            Part::Char(c) => (0..=text.len()).map(|n| n > 0 && ends[n - 1] && text[n - 1] == c).collect(),
        };
    }
    ends[text.len()]
}
