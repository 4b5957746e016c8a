//! Which types compare, and to what they convert: the meaning of values in `sql92`.
//!
//! A property of a RocketMQ client is text without a type and adapts to what it meets: it is a number
//! beside a number, a boolean beside TRUE or FALSE, a string beside a string. A value that a typed
//! client set behaves as a literal of its type does. Whatever does not fit is unknown, never an error.

use std::cmp::Ordering;

use crate::{
    range::compare_int_float,
    syntax::{Arithmetic, Comparison},
};

/// The three truth values, ordered so that AND is the smaller and OR the larger of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Truth {
    /// The condition does not hold.
    False = 0,
    /// It cannot be said: a value is missing, or has no meaning here.
    Unknown = 1,
    /// The condition holds.
    True = 2,
}

impl Truth {
    /// Returns what NOT makes of it.
    #[must_use]
    pub const fn negated(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
            Self::True => Self::False,
        }
    }

    /// Whether two truth values are the same, as far as both are known.
    pub(crate) const fn same_as(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::True, Self::True) | (Self::False, Self::False) => Self::True,
            (Self::True, Self::False) | (Self::False, Self::True) => Self::False,
        }
    }

    /// Negates if `negated` is set.
    #[must_use]
    pub(crate) const fn negated_if(self, negated: bool) -> Self {
        if negated { self.negated() } else { self }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl From<Option<bool>> for Truth {
    fn from(value: Option<bool>) -> Self {
        value.map_or(Self::Unknown, Self::from)
    }
}

/// A number: an integer as long as it can be one, else a double.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A 64-bit integer.
    Int(i64),
    /// A finite double.
    Float(f64),
}

impl Number {
    /// Compares exactly; `None` if one is NaN.
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => compare_int_float(a, b),
            (Self::Float(a), Self::Int(b)) => compare_int_float(b, a).map(Ordering::reverse),
        }
    }

    pub(crate) fn to_float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// `None` on overflow.
    pub(crate) fn negated(self) -> Option<Self> {
        match self {
            Self::Int(value) => value.checked_neg().map(Self::Int),
            Self::Float(value) => finite(-value),
        }
    }

    /// Without its sign; `None` on overflow.
    pub(crate) fn absolute(self) -> Option<Self> {
        match self {
            Self::Int(value) => value.checked_abs().map(Self::Int),
            Self::Float(value) => finite(value.abs()),
        }
    }

    /// The whole number that `rounded` makes of a double; an integer as it is.
    pub(crate) fn whole(self, rounded: impl FnOnce(f64) -> f64) -> Option<Self> {
        match self {
            Self::Int(value) => Some(Self::Int(value)),
            Self::Float(value) => finite(rounded(value)),
        }
    }

    /// The integer that equals it, if one does.
    pub(crate) fn as_integer(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            Self::Float(value) => {
                let int = value as i64;
                (compare_int_float(int, value) == Some(Ordering::Equal)).then_some(int)
            }
        }
    }

    /// Computes; `None` on overflow, division by zero, and where the result is not finite.
    pub(crate) fn compute(self, operator: Arithmetic, other: Self) -> Option<Self> {
        if let (Self::Int(a), Self::Int(b)) = (self, other)
            && operator != Arithmetic::Divide
        {
            return compute_ints(a, operator, b).map(Self::Int);
        }
        let (a, b) = (self.to_float(), other.to_float());
        finite(match operator {
            Arithmetic::Add => a + b,
            Arithmetic::Subtract => a - b,
            Arithmetic::Multiply => a * b,
            Arithmetic::Divide => a / b,
            Arithmetic::Modulo => a % b,
        })
    }
}

fn compute_ints(a: i64, operator: Arithmetic, b: i64) -> Option<i64> {
    match operator {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        // The one quotient that overflows has the remainder 0.
        Arithmetic::Modulo => (b != 0).then(|| a.wrapping_rem(b)),
        Arithmetic::Divide => None,
    }
}

fn finite(value: f64) -> Option<Number> {
    value.is_finite().then_some(Number::Float(value))
}

/// The number that untyped text is: `[+-]?(d+[.d*]|.d+)(e[+-]?d+)?` in ASCII.
///
/// `None` if it is none, or too large for a double. Integers beyond 64 bits are doubles.
pub fn number_of(text: &str) -> Option<Number> {
    let bytes = text.as_bytes();
    let unsigned = match bytes {
        [b'+' | b'-', rest @ ..] => rest,
        _ => bytes,
    };
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    if rest.is_empty() && whole > 0 {
        return text.parse().map_or_else(|_| float_of(text), |int| Some(Number::Int(int)));
    }
    if let [b'.', fraction @ ..] = rest {
        let count = digits(fraction);
        if whole + count == 0 {
            return None;
        }
        rest = &fraction[count..];
    } else if whole == 0 {
        return None;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', rest @ ..] => rest,
            _ => exponent,
        };
        let count = digits(exponent);
        if count == 0 {
            return None;
        }
        rest = &exponent[count..];
    }
    if rest.is_empty() { float_of(text) } else { None }
}

fn float_of(text: &str) -> Option<Number> {
    text.parse().ok().and_then(finite)
}

/// The boolean that untyped text is, whatever its case.
pub(crate) fn boolean_of(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// One value while it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    /// Untyped text, with the number that it is, if any.
    Text(&'a str, Option<Number>),
    /// Untyped text that is this integer in canonical decimal digits.
    Digits(i64),
    Str(&'a str),
    Boolean(bool),
    Number(Number),
}

impl Scalar<'_> {
    /// The value as a number beside a number.
    #[inline]
    pub(crate) fn as_number(self) -> Option<Number> {
        match self {
            Self::Text(_, number) => number,
            Self::Digits(value) => Some(Number::Int(value)),
            Self::Number(number) => Some(number),
            Self::Null | Self::Str(_) | Self::Boolean(_) => None,
        }
    }

    /// Asks something of the value as a string beside a string; `None` if it is none.
    #[inline]
    pub(crate) fn map_text<T>(self, ask: impl FnOnce(&str) -> T) -> Option<T> {
        match self {
            Self::Text(text, _) | Self::Str(text) => Some(ask(text)),
            Self::Digits(value) => Some(with_digits(value, ask)),
            Self::Null | Self::Boolean(_) | Self::Number(_) => None,
        }
    }

    /// The value as a boolean beside a boolean.
    #[inline]
    pub(crate) fn as_boolean(self) -> Option<bool> {
        match self {
            Self::Text(text, _) => boolean_of(text),
            Self::Boolean(value) => Some(value),
            Self::Null | Self::Digits(_) | Self::Str(_) | Self::Number(_) => None,
        }
    }

    pub(crate) fn is_null(self) -> bool {
        matches!(self, Self::Null)
    }

    /// Compares two values of any types.
    pub(crate) fn compare(self, comparison: Comparison, other: Self) -> Truth {
        let ordering = match (self, other) {
            (Self::Null, _) | (_, Self::Null) => None,
            (Self::Text(a, None), Self::Text(b, None)) if !comparison.is_ordering() => Some(a.cmp(b)),
            // Two untyped texts have an order only as numbers: nothing says that they are strings.
            (Self::Text(..) | Self::Digits(_), Self::Text(..) | Self::Digits(_))
            | (Self::Number(_), _)
            | (_, Self::Number(_)) => compare_numbers(self.as_number(), other.as_number()),
            (Self::Str(_), _) | (_, Self::Str(_)) => {
                self.map_text(|a| other.map_text(|b| a.cmp(b))).flatten()
            }
            (Self::Boolean(_), _) | (_, Self::Boolean(_)) if comparison.is_ordering() => None,
            (Self::Boolean(_), _) | (_, Self::Boolean(_)) => {
                self.as_boolean().zip(other.as_boolean()).map(|(a, b)| a.cmp(&b))
            }
        };
        Truth::from(ordering.map(|ordering| holds(comparison, ordering)))
    }
}

/// Shows the decimal digits of `value` to `ask`, without allocating.
fn with_digits<T>(value: i64, ask: impl FnOnce(&str) -> T) -> T {
    /// The longest is that of the smallest integer.
    const LEN: usize = "-9223372036854775808".len();
    let mut buffer = [0_u8; LEN];
    let mut start = LEN;
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start -= 1;
        buffer[start] = b'-';
    }
    ask(std::str::from_utf8(&buffer[start..]).unwrap_or_default())
}

fn holds(comparison: Comparison, ordering: Ordering) -> bool {
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterEqual => ordering.is_ge(),
    }
}

fn compare_numbers(a: Option<Number>, b: Option<Number>) -> Option<Ordering> {
    a?.compare(b?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_number_by_one_grammar() {
        for (text, number) in [
            ("5", Some(Number::Int(5))),
            ("+5", Some(Number::Int(5))),
            ("-05", Some(Number::Int(-5))),
            ("-0", Some(Number::Int(0))),
            ("9223372036854775808", Some(Number::Float(9_223_372_036_854_775_808.0))),
            ("5.", Some(Number::Float(5.0))),
            (".5", Some(Number::Float(0.5))),
            ("1e1", Some(Number::Float(10.0))),
            ("-1.5E-1", Some(Number::Float(-0.15))),
            ("1e400", None),
            ("", None),
            (".", None),
            ("+", None),
            ("e5", None),
            (".e5", None),
            ("5e", None),
            ("5e+", None),
            (" 5", None),
            ("5 ", None),
            ("5d", None),
            ("0x5", None),
            ("1_000", None),
            ("NaN", None),
            ("inf", None),
            ("٥", None),
            ("--5", None),
        ] {
            assert_eq!(number_of(text), number, "{text:?}");
        }
    }

    #[test]
    fn digits_are_the_canonical_text() {
        for value in [0, 1, -1, 10, -10, 1234567890, i64::MAX, i64::MIN] {
            assert_eq!(with_digits(value, str::to_owned), value.to_string());
        }
    }

    #[test]
    fn what_columns_call_a_number_is_one_here() {
        for text in ["0", "-1", "42", "9223372036854775807", "0.5", "-0.0", "1e1", "10.50", "1E-3"] {
            let (_, int, float) = weir_columns::classify(text);
            let expected = int.map(Number::Int).or(float.map(Number::Float));
            assert!(expected.is_some());
            assert_eq!(number_of(text), expected, "{text}");
        }
    }

    #[test]
    fn arithmetic_has_no_value_where_it_has_no_finite_result() {
        use Arithmetic::{Add, Divide, Modulo, Multiply, Subtract};
        let (int, float) = (Number::Int, Number::Float);
        for (a, operator, b, expected) in [
            (int(i64::MAX), Add, int(1), None),
            (int(i64::MIN), Subtract, int(1), None),
            (int(i64::MAX), Multiply, int(2), None),
            (int(i64::MIN), Modulo, int(-1), Some(int(0))),
            (int(-7), Modulo, int(3), Some(int(-1))),
            (int(7), Modulo, int(0), None),
            (int(5), Divide, int(2), Some(float(2.5))),
            (int(5), Divide, int(0), None),
            (float(1e308), Multiply, int(10), None),
            (float(5.5), Modulo, int(2), Some(float(1.5))),
            (float(f64::INFINITY), Add, int(1), None),
        ] {
            assert_eq!(a.compute(operator, b), expected, "{a:?} {operator:?} {b:?}");
        }
        assert_eq!(int(i64::MIN).negated(), None);
    }

    #[test]
    fn untyped_text_adapts_and_typed_values_do_not() {
        use Truth::{False as F, True as T, Unknown as U};
        let text = |text| Scalar::Text(text, number_of(text));
        let int = |value| Scalar::Number(Number::Int(value));
        for (a, comparison, b, expected) in [
            (text("05"), Comparison::Equal, text("5.0"), T),
            (text("a"), Comparison::Equal, text("a"), T),
            (text("a"), Comparison::NotEqual, text("b"), T),
            (text("a"), Comparison::Less, text("b"), U),
            (text("a"), Comparison::Equal, text("5"), U),
            (text("5"), Comparison::Equal, int(5), T),
            (Scalar::Digits(5), Comparison::Equal, text("+5"), T),
            (Scalar::Digits(10), Comparison::Less, Scalar::Str("9"), T),
            (Scalar::Digits(1), Comparison::Equal, Scalar::Boolean(true), U),
            (text("x"), Comparison::NotEqual, int(5), U),
            (Scalar::Str("5"), Comparison::Equal, int(5), U),
            (Scalar::Str("5"), Comparison::Equal, text("5"), T),
            (Scalar::Str("a"), Comparison::Less, Scalar::Str("b"), T),
            (text("TRUE"), Comparison::Equal, Scalar::Boolean(true), T),
            (text("yes"), Comparison::Equal, Scalar::Boolean(false), U),
            (Scalar::Boolean(true), Comparison::Greater, Scalar::Boolean(false), U),
            (Scalar::Boolean(true), Comparison::Equal, Scalar::Boolean(false), F),
            (Scalar::Null, Comparison::Equal, Scalar::Null, U),
            (Scalar::Number(Number::Float(f64::NAN)), Comparison::NotEqual, int(1), U),
        ] {
            assert_eq!(a.compare(comparison, b), expected, "{a:?} {comparison:?} {b:?}");
            assert_eq!(b.compare(comparison.flipped(), a), expected, "{b:?} flipped {comparison:?} {a:?}");
        }
    }
}
