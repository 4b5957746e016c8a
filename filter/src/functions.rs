//! The functions of `sql92`: their names, what they take, what they give.
//!
//! A function answers NULL where an argument is NULL or does not fit, except where SQL says otherwise
//! (COALESCE, NULLIF); it never fails. Texts count in code points.

use std::borrow::Cow;

use crate::{
    operand::{Computed, Operand},
    syntax::Comparison,
    timestamp,
    types::{Number, Scalar, Truth},
};

/// The longest text that a function makes, in bytes. What would be longer is NULL.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 16;

/// A function of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Function {
    Abs,
    Ceil,
    Coalesce,
    Concat,
    EpochMs,
    Floor,
    Length,
    Lower,
    Mod,
    NullIf,
    Round,
    Substring,
    Trim,
    Upper,
}

/// What a name before a parenthesis calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callable {
    Function(Function),
    /// The moment of the scan.
    Now,
    /// A condition: whether a regular expression finds something.
    Regexp,
    /// A scalar out of the body.
    JsonValue,
}

/// All that can be called, by name.
pub(crate) const CALLABLE: &[(&str, Callable)] = &[
    ("ABS", Callable::Function(Function::Abs)),
    ("CEIL", Callable::Function(Function::Ceil)),
    ("CEILING", Callable::Function(Function::Ceil)),
    ("COALESCE", Callable::Function(Function::Coalesce)),
    ("CONCAT", Callable::Function(Function::Concat)),
    (CURRENT_TIMESTAMP, Callable::Now),
    ("EPOCH_MS", Callable::Function(Function::EpochMs)),
    ("FLOOR", Callable::Function(Function::Floor)),
    ("JSON_VALUE", Callable::JsonValue),
    ("LENGTH", Callable::Function(Function::Length)),
    ("LOWER", Callable::Function(Function::Lower)),
    ("MOD", Callable::Function(Function::Mod)),
    ("NOW", Callable::Now),
    ("NULLIF", Callable::Function(Function::NullIf)),
    (REGEXP, Callable::Regexp),
    ("ROUND", Callable::Function(Function::Round)),
    ("SUBSTRING", Callable::Function(Function::Substring)),
    ("TRIM", Callable::Function(Function::Trim)),
    ("UPPER", Callable::Function(Function::Upper)),
];

/// Returns the names of all functions of `sql92`, in upper case.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    CALLABLE.iter().map(|(name, _)| *name)
}

/// The one function that needs no parentheses, as in SQL.
pub(crate) const CURRENT_TIMESTAMP: &str = "CURRENT_TIMESTAMP";
/// Also an operator between a value and its pattern.
pub(crate) const REGEXP: &str = "REGEXP";

/// What a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Text alone.
    Text,
    /// Numbers alone.
    Number,
    /// Text, then numbers.
    TextThenNumbers,
    /// Values of one type.
    OneType,
}

impl Function {
    /// The name, as messages show it.
    pub(crate) fn name(self) -> &'static str {
        let name = CALLABLE.iter().find(|(_, callable)| *callable == Callable::Function(self));
        name.map_or("?", |(name, _)| name)
    }

    /// How many arguments it takes, from and to; `None` is any number.
    pub(crate) const fn count(self) -> (usize, Option<usize>) {
        match self {
            Self::Coalesce | Self::Concat => (2, None),
            Self::Mod | Self::NullIf => (2, Some(2)),
            Self::Substring => (2, Some(3)),
            Self::Abs
            | Self::Ceil
            | Self::Floor
            | Self::Length
            | Self::Lower
            | Self::Round
            | Self::EpochMs
            | Self::Trim
            | Self::Upper => (1, Some(1)),
        }
    }

    pub(crate) const fn takes(self) -> Takes {
        match self {
            Self::Abs | Self::Ceil | Self::Floor | Self::Mod | Self::Round => Takes::Number,
            Self::Concat | Self::Length | Self::Lower | Self::EpochMs | Self::Trim | Self::Upper => {
                Takes::Text
            }
            Self::Substring => Takes::TextThenNumbers,
            Self::Coalesce | Self::NullIf => Takes::OneType,
        }
    }

    /// How many of the first arguments make the result NULL where one of them is.
    pub(crate) const fn strict_arguments(self) -> usize {
        match self {
            Self::Coalesce => 0,
            Self::NullIf => 1,
            _ => usize::MAX,
        }
    }

    /// The value for one row, whose columns `column` gives.
    pub(crate) fn apply<'a>(
        self,
        arguments: &'a [Operand],
        column: &impl Fn(usize) -> Scalar<'a>,
    ) -> Computed<'a> {
        let value = match self {
            Self::Coalesce => arguments
                .iter()
                .map(|argument| argument.value(column))
                .find(|value| !value.as_scalar().is_null()),
            Self::NullIf => null_if(arguments, column),
            Self::Abs => number(arguments, column, Number::absolute),
            Self::Ceil => number(arguments, column, |value| value.whole(f64::ceil)),
            Self::Floor => number(arguments, column, |value| value.whole(f64::floor)),
            Self::Round => number(arguments, column, |value| value.whole(f64::round)),
            Self::Mod => modulo(arguments, column),
            Self::Length => first_text(arguments, column).and_then(|text| length(&text)),
            Self::EpochMs => first_text(arguments, column)
                .and_then(|text| timestamp::milliseconds(&text))
                .map(|time| Computed::from(Number::Int(time))),
            Self::Lower => first_text(arguments, column).and_then(|text| bounded(text.to_lowercase())),
            Self::Upper => first_text(arguments, column).and_then(|text| bounded(text.to_uppercase())),
            Self::Trim => first_text(arguments, column).map(|text| {
                let start = text.len() - text.trim_start_matches(' ').len();
                let end = start + text[start..].trim_end_matches(' ').len();
                part(text, start, end)
            }),
            Self::Substring => substring(arguments, column),
            Self::Concat => concat(arguments, column),
        };
        value.unwrap_or(Computed::Scalar(Scalar::Null))
    }
}

fn null_if<'a>(arguments: &'a [Operand], column: &impl Fn(usize) -> Scalar<'a>) -> Option<Computed<'a>> {
    let [first, second] = arguments else { return None };
    let (value, other) = (first.value(column), second.value(column));
    let equal = value.as_scalar().compare(Comparison::Equal, other.as_scalar());
    (equal != Truth::True).then_some(value)
}

fn number<'a>(
    arguments: &'a [Operand],
    column: &impl Fn(usize) -> Scalar<'a>,
    compute: impl FnOnce(Number) -> Option<Number>,
) -> Option<Computed<'a>> {
    compute(arguments.first()?.number(column)?).map(Computed::from)
}

fn modulo<'a>(arguments: &'a [Operand], column: &impl Fn(usize) -> Scalar<'a>) -> Option<Computed<'a>> {
    let [first, second] = arguments else { return None };
    let result = first.number(column)?.compute(crate::syntax::Arithmetic::Modulo, second.number(column)?)?;
    Some(Computed::from(result))
}

fn length<'a>(text: &str) -> Option<Computed<'a>> {
    i64::try_from(text.chars().count()).ok().map(|count| Computed::from(Number::Int(count)))
}

/// The first argument, if it is text.
fn first_text<'a>(arguments: &'a [Operand], column: &impl Fn(usize) -> Scalar<'a>) -> Option<Cow<'a, str>> {
    arguments.first()?.value(column).into_text()
}

fn bounded<'a>(text: String) -> Option<Computed<'a>> {
    (text.len() <= TEXT_BYTES_MAX).then_some(Computed::Str(text))
}

/// The bytes from `start` to `end` of a text.
fn part(text: Cow<'_, str>, start: usize, end: usize) -> Computed<'_> {
    match text {
        Cow::Borrowed(text) => Computed::Scalar(Scalar::Str(&text[start..end])),
        Cow::Owned(text) => Computed::Str(text[start..end].to_owned()),
    }
}

/// `SUBSTRING(text FROM from [FOR count])`: the characters at the places `from` to `from + count - 1`, of
/// which those before the first and behind the last are empty.
fn substring<'a>(arguments: &'a [Operand], column: &impl Fn(usize) -> Scalar<'a>) -> Option<Computed<'a>> {
    let [text, from, rest @ ..] = arguments else { return None };
    let from = i128::from(from.number(column)?.as_integer()?);
    let end = match rest {
        [] => i128::MAX,
        [count, ..] => from + i128::from(count.number(column)?.as_integer().filter(|count| *count >= 0)?),
    };
    let text = text.value(column).into_text()?;
    let skipped = usize::try_from((from - 1).max(0)).unwrap_or(usize::MAX);
    let taken = usize::try_from((end - from.max(1)).max(0)).unwrap_or(usize::MAX);
    let byte_of = |text: &str, place| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    let start = byte_of(&text, skipped);
    let end = start + byte_of(&text[start..], taken);
    Some(part(text, start, end))
}

fn concat<'a>(arguments: &'a [Operand], column: &impl Fn(usize) -> Scalar<'a>) -> Option<Computed<'a>> {
    let mut joined = String::new();
    for argument in arguments {
        let text = argument.value(column).into_text()?;
        if joined.len() + text.len() > TEXT_BYTES_MAX {
            return None;
        }
        joined.push_str(&text);
    }
    Some(Computed::Str(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_lead_back() {
        assert!(CALLABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (name, callable) in CALLABLE {
            if let Callable::Function(function) = callable {
                assert!(name.starts_with(function.name()), "{name}");
            }
        }
    }
}
