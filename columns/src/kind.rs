//! What a value is: its kind, and the one grammar of number text.
//!
//! A property of a RocketMQ client is text without a type. Whether such text is a number is decided
//! here, once, for every dialect: `Int` and `Float` are numbers to all of them, `Odd` to some.

use serde::{Deserialize, Serialize};

/// What one value is. One byte per distinct value on disk; the discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Untyped text that is no number to any dialect.
    Text = 0,
    /// Untyped text that is a number to some dialect only: `+5`, `05`, ` 5`, `5d`, `0x1p3`, `NaN`.
    Odd = 1,
    /// Untyped text of a canonical integer: `-?(0|[1-9][0-9]*)`, not `-0`, within i64.
    Int = 2,
    /// Untyped text of a finite decimal number, `-?digits[.digits][(e|E)[+-]digits]`, that is no `Int`
    /// and has no superfluous leading zero.
    Float = 3,
    /// A string set by a typed client; never a number.
    Str = 4,
    /// A boolean set by a typed client.
    Bool = 5,
    /// A 32-bit integer set by a typed client.
    I32 = 6,
    /// A 64-bit integer set by a typed client.
    I64 = 7,
    /// A 32-bit float set by a typed client; may be NaN or infinite.
    F32 = 8,
    /// A 64-bit float set by a typed client; may be NaN or infinite.
    F64 = 9,
}

impl Kind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::Text,
        Self::Odd,
        Self::Int,
        Self::Float,
        Self::Str,
        Self::Bool,
        Self::I32,
        Self::I64,
        Self::F32,
        Self::F64,
    ];

    /// Returns the kind with this discriminant, or `None` if there is none.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Returns whether values of this kind came as untyped text.
    pub const fn is_untyped(self) -> bool {
        matches!(self, Self::Text | Self::Odd | Self::Int | Self::Float)
    }

    /// Returns whether the value lies in [`Values::ints`](crate::Values::ints).
    pub const fn has_int(self) -> bool {
        matches!(self, Self::Int | Self::I32 | Self::I64)
    }

    /// Returns whether the value lies in [`Values::floats`](crate::Values::floats).
    pub const fn has_float(self) -> bool {
        matches!(self, Self::Float | Self::F32 | Self::F64)
    }
}

/// A set of kinds: bit `n` is the kind with discriminant `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KindSet(pub u16);

impl KindSet {
    /// Returns the set with `kind` added.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Returns whether `kind` is in the set.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Returns the kinds of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether any kind of `other` is in the set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<Kind> for KindSet {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

/// Returns the kind of untyped text, with its value when it is an `Int` or a `Float`.
///
/// At most one of the two numbers is set. Takes linear time and does not allocate.
///
/// ```
/// use weir_columns::{Kind, classify};
/// assert_eq!(classify("42"), (Kind::Int, Some(42), None));
/// assert_eq!(classify("-1.5e3"), (Kind::Float, None, Some(-1500.0)));
/// assert_eq!(classify("+42").0, Kind::Odd);
/// assert_eq!(classify("EU").0, Kind::Text);
/// ```
pub fn classify(text: &str) -> (Kind, Option<i64>, Option<f64>) {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    match Shape::of(digits) {
        Shape::Integer => match text.parse::<i64>() {
            Ok(int) if text != "-0" => (Kind::Int, Some(int), None),
            _ => (Kind::Odd, None, None),
        },
        Shape::Decimal => match text.parse::<f64>() {
            Ok(float) if float.is_finite() => (Kind::Float, None, Some(float)),
            _ => (Kind::Odd, None, None),
        },
        Shape::Other if may_be_number(text) => (Kind::Odd, None, None),
        Shape::Other => (Kind::Text, None, None),
    }
}

enum Shape {
    Integer,
    Decimal,
    Other,
}

impl Shape {
    /// The shape of unsigned text: canonical integer, canonical decimal, or anything else.
    fn of(bytes: &[u8]) -> Self {
        let whole = count_digits(bytes);
        if whole == 0 || (whole > 1 && bytes[0] == b'0') {
            return Self::Other;
        }
        let mut rest = &bytes[whole..];
        if rest.is_empty() {
            return Self::Integer;
        }
        if let Some(fraction) = rest.strip_prefix(b".") {
            let digits = count_digits(fraction);
            if digits == 0 {
                return Self::Other;
            }
            rest = &fraction[digits..];
        }
        if let [b'e' | b'E', exponent @ ..] = rest {
            let exponent = match exponent {
                [b'+' | b'-', digits @ ..] => digits,
                digits => digits,
            };
            let digits = count_digits(exponent);
            if digits == 0 {
                return Self::Other;
            }
            rest = &exponent[digits..];
        }
        if rest.is_empty() { Self::Decimal } else { Self::Other }
    }
}

fn count_digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Whether some dialect may read `text` as a number: after blanks and a sign it starts with a digit of
/// any script, a point before a digit, or one of the words for NaN and infinity. Errs on the side of yes.
fn may_be_number(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c <= ' ');
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let text = text.strip_prefix('.').unwrap_or(text);
    text.starts_with("NaN")
        || text.starts_with("Infinity")
        || text.chars().next().is_some_and(char::is_numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_numbers_falls_into_three_kinds() {
        for (text, kind) in [
            ("0", Kind::Int),
            ("-1", Kind::Int),
            ("9223372036854775807", Kind::Int),
            ("-9223372036854775808", Kind::Int),
            ("9223372036854775808", Kind::Odd),
            ("-0", Kind::Odd),
            ("00", Kind::Odd),
            ("05", Kind::Odd),
            ("+5", Kind::Odd),
            (" 5", Kind::Odd),
            ("5 ", Kind::Odd),
            ("5d", Kind::Odd),
            ("5.", Kind::Odd),
            (".5", Kind::Odd),
            ("٥", Kind::Odd),
            ("0x10", Kind::Odd),
            ("NaN", Kind::Odd),
            ("-Infinity", Kind::Odd),
            ("1e400", Kind::Odd),
            ("0.5", Kind::Float),
            ("-0.0", Kind::Float),
            ("1e1", Kind::Float),
            ("1E-3", Kind::Float),
            ("10.50", Kind::Float),
            ("1e", Kind::Odd),
            ("2013-01-01", Kind::Odd),
            ("", Kind::Text),
            ("-", Kind::Text),
            ("EU", Kind::Text),
            ("nan", Kind::Text),
        ] {
            assert_eq!(classify(text).0, kind, "{text:?}");
        }
    }

    #[test]
    fn the_text_of_an_int_is_its_canonical_text() {
        for int in [0, 1, -1, i64::MAX, i64::MIN, 1_000_000] {
            assert_eq!(classify(&int.to_string()), (Kind::Int, Some(int), None));
        }
    }
}
