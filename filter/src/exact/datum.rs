//! Values as the originals hold them while they evaluate: Java's types, its comparisons, its arithmetic.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use super::numbers::{double_text, float_text, parse_double, parse_float, parse_int, parse_long};
use crate::syntax::{Arithmetic, Comparison};

/// The evaluation of a row failed: the original throws an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// A longer text is never computed; the evaluation fails instead.
pub(super) const TEXT_MAX: usize = 1 << 20;

/// One value.
#[derive(Clone, Debug)]
pub(crate) enum Datum<'a> {
    /// A missing value, and the truth value unknown.
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Text(Cow<'a, str>),
    /// An integer literal beyond 64 bits.
    Big(Arc<Big>),
    /// What MAKELIST and SPLIT give.
    List(Vec<Datum<'a>>),
}

/// An integer beyond 64 bits, or one that has been.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Big {
    pub(super) negative: bool,
    /// Decimal, without superfluous zeros.
    pub(super) digits: String,
}

impl Big {
    /// The low 64 bits of its two's complement, which is what Java makes a `long` of.
    pub(super) fn low_bits(&self) -> i64 {
        let magnitude = self
            .digits
            .bytes()
            .fold(0_i64, |value, digit| value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')));
        if self.negative { magnitude.wrapping_neg() } else { magnitude }
    }

    fn text(&self) -> String {
        format!("{}{}", if self.negative { "-" } else { "" }, self.digits)
    }

    fn compare(&self, other: &Self) -> Ordering {
        let magnitudes =
            || self.digits.len().cmp(&other.digits.len()).then_with(|| self.digits.cmp(&other.digits));
        match (self.negative, other.negative) {
            (false, false) => magnitudes(),
            (true, true) => magnitudes().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// The rules by which values meet, where the dialects differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    RocketMq,
    Jms {
        /// Whether text is converted to meet a number or a boolean.
        converts: bool,
    },
}

impl Datum<'_> {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The same value, borrowed where it can be.
    pub(super) fn borrowed(&self) -> Datum<'_> {
        match self {
            Self::Null => Datum::Null,
            Self::Bool(value) => Datum::Bool(*value),
            Self::Int(value) => Datum::Int(*value),
            Self::Long(value) => Datum::Long(*value),
            Self::Float(value) => Datum::Float(*value),
            Self::Double(value) => Datum::Double(*value),
            Self::Text(text) => Datum::Text(Cow::Borrowed(text)),
            Self::Big(big) => Datum::Big(Arc::clone(big)),
            Self::List(list) => Datum::List(list.iter().map(Datum::borrowed).collect()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Long(_) | Self::Float(_) | Self::Double(_) | Self::Big(_))
    }

    /// `Number.longValue` of an integer.
    fn to_long(&self) -> i64 {
        match self {
            Self::Int(value) => i64::from(*value),
            Self::Long(value) => *value,
            Self::Big(big) => big.low_bits(),
            _ => 0,
        }
    }

    /// `Number.doubleValue`.
    fn to_double(&self) -> f64 {
        match self {
            Self::Int(value) => f64::from(*value),
            Self::Long(value) => *value as f64,
            Self::Float(value) => f64::from(*value),
            Self::Double(value) => *value,
            Self::Big(big) => big.text().parse().unwrap_or(f64::NAN),
            _ => f64::NAN,
        }
    }

    /// What Java's `toString` gives.
    pub(super) fn to_text(&self) -> Result<Cow<'_, str>, Failed> {
        Ok(match self {
            Self::Null => Cow::Borrowed("null"),
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Int(value) => Cow::Owned(value.to_string()),
            Self::Long(value) => Cow::Owned(value.to_string()),
            Self::Float(value) => Cow::Owned(float_text(*value)),
            Self::Double(value) => Cow::Owned(double_text(*value)),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Big(big) => Cow::Owned(big.text()),
            Self::List(list) => {
                let mut text = "[".to_owned();
                for (index, element) in list.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    text.push_str(&element.to_text()?);
                    if text.len() > TEXT_MAX {
                        return Err(Failed);
                    }
                }
                Cow::Owned(text + "]")
            }
        })
    }

    /// Java's `equals`: type and value.
    pub(super) fn equals(&self, other: &Datum<'_>) -> bool {
        match (self, other) {
            (Self::Null, Datum::Null) => true,
            (Self::Bool(a), Datum::Bool(b)) => a == b,
            (Self::Int(a), Datum::Int(b)) => a == b,
            (Self::Long(a), Datum::Long(b)) => a == b,
            (Self::Float(a), Datum::Float(b)) => compare_floats(*a, *b).is_eq(),
            (Self::Double(a), Datum::Double(b)) => compare_doubles(*a, *b).is_eq(),
            (Self::Text(a), Datum::Text(b)) => a == b,
            (Self::Big(a), Datum::Big(b)) => a == b,
            (Self::List(a), Datum::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            _ => false,
        }
    }
}

/// Compares two values that are not null; unknown if one is.
///
/// For `=` and `<>` the null on the left decides before the one on the right does.
pub(super) fn compare(
    rules: Rules,
    left: &Datum<'_>,
    comparison: Comparison,
    right: &Datum<'_>,
) -> Result<Option<bool>, Failed> {
    if comparison.is_ordering() {
        // The original casts each side to what can be ordered before it looks at the next.
        for side in [left, right] {
            match side {
                Datum::Null => return Ok(None),
                Datum::List(_) => return Err(Failed),
                _ => {}
            }
        }
        return order(rules, left, comparison, right).map(Some);
    }
    let equal = match (left.is_null(), right.is_null()) {
        (true, true) => true,
        (true, false) => return Ok(None),
        (false, true) => false,
        (false, false) if left.equals(right) => true,
        (false, false) => match (left, right) {
            // Lists have no order to ask for.
            (Datum::List(_), _) | (_, Datum::List(_)) => false,
            _ => ordering(rules, left, right)?.is_some_and(Ordering::is_eq),
        },
    };
    Ok(Some(equal == (comparison == Comparison::Equal)))
}

fn order(rules: Rules, left: &Datum<'_>, comparison: Comparison, right: &Datum<'_>) -> Result<bool, Failed> {
    let ordering = match (rules, left, right) {
        (Rules::RocketMq, Datum::Text(a), Datum::Text(b)) => {
            let a = parse_double(a).ok_or(Failed)?;
            Some(compare_doubles(a, parse_double(b).ok_or(Failed)?))
        }
        _ => ordering(rules, left, right)?,
    };
    Ok(ordering.is_some_and(|ordering| match comparison {
        Comparison::Less => ordering.is_lt(),
        Comparison::LessEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterEqual => ordering.is_ge(),
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
    }))
}

/// How two values are ordered that are neither null nor lists. `None`: by no comparison.
fn ordering(rules: Rules, left: &Datum<'_>, right: &Datum<'_>) -> Result<Option<Ordering>, Failed> {
    match rules {
        Rules::RocketMq => ordering_of_rocketmq(left, right).map(Some),
        Rules::Jms { converts } => ordering_of_jms(converts, left, right),
    }
}

fn ordering_of_rocketmq(left: &Datum<'_>, right: &Datum<'_>) -> Result<Ordering, Failed> {
    match (left, right) {
        (Datum::Text(a), Datum::Text(b)) => Ok(compare_units(a, b)),
        (Datum::Text(a), Datum::Bool(b)) => Ok(a.eq_ignore_ascii_case("true").cmp(b)),
        (Datum::Text(a), _) => Ok(compare_like(&like(right, a).ok_or(Failed)?, right)),
        (Datum::Bool(a), Datum::Bool(b)) => Ok(a.cmp(b)),
        (Datum::Bool(_), Datum::Text(_)) => Err(Failed),
        (Datum::Bool(_), _) | (_, Datum::Bool(_)) => Ok(Ordering::Less),
        (_, Datum::Text(b)) => Ok(compare_like(left, &like(left, b).ok_or(Failed)?)),
        _ => Ok(compare_like(left, right)),
    }
}

fn ordering_of_jms(converts: bool, left: &Datum<'_>, right: &Datum<'_>) -> Result<Option<Ordering>, Failed> {
    Ok(match (left, right) {
        (Datum::Text(a), Datum::Text(b)) => Some(compare_units(a, b)),
        (Datum::Bool(a), Datum::Bool(b)) => Some(a.cmp(b)),
        (Datum::Big(a), Datum::Big(b)) => Some(a.compare(b)),
        (Datum::Big(_), _) | (_, Datum::Big(_)) => None,
        (Datum::Double(_), Datum::Float(_)) => return Err(Failed),
        (Datum::Bool(_), Datum::Text(_)) if converts => return Err(Failed),
        (Datum::Text(a), Datum::Bool(b)) if converts => Some(a.eq_ignore_ascii_case("true").cmp(b)),
        (Datum::Bool(_), _) | (_, Datum::Bool(_)) => None,
        (Datum::Text(a), _) if converts => like(right, a).map(|a| compare_like(&a, right)),
        (_, Datum::Text(b)) if converts => like(left, b).map(|b| compare_like(left, &b)),
        (Datum::Text(_), _) | (_, Datum::Text(_)) => None,
        _ => Some(compare_like(left, right)),
    })
}

/// The number that `text` is, of the type of `number`; `None` if it is none.
fn like(number: &Datum<'_>, text: &str) -> Option<Datum<'static>> {
    match number {
        Datum::Int(_) => parse_int(text).map(Datum::Int),
        Datum::Long(_) => parse_long(text).map(Datum::Long),
        Datum::Float(_) => parse_float(text).map(Datum::Float),
        Datum::Double(_) => parse_double(text).map(Datum::Double),
        _ => None,
    }
}

/// Compares two numbers in the wider of their types: int, long, float, double.
fn compare_like(left: &Datum<'_>, right: &Datum<'_>) -> Ordering {
    match (left, right) {
        (Datum::Double(_), _) | (_, Datum::Double(_)) => compare_doubles(left.to_double(), right.to_double()),
        (Datum::Float(_), _) | (_, Datum::Float(_)) => compare_floats(to_float(left), to_float(right)),
        _ => left.to_long().cmp(&right.to_long()),
    }
}

/// `Number.floatValue`.
fn to_float(number: &Datum<'_>) -> f32 {
    match number {
        Datum::Float(value) => *value,
        Datum::Int(value) => *value as f32,
        Datum::Long(value) => *value as f32,
        _ => number.to_double() as f32,
    }
}

/// `Double.compare`: -0.0 is below 0.0; NaN equals itself and is above everything.
fn compare_doubles(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.total_cmp(&b),
    }
}

fn compare_floats(a: f32, b: f32) -> Ordering {
    compare_doubles(f64::from(a), f64::from(b))
}

/// The order of UTF-16 code units, which is not that of UTF-8 bytes beyond the Basic Multilingual Plane.
fn compare_units(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// `-x`: null for everything that is no number, and wrapping at the smallest of its type.
pub(super) fn negate(value: Datum<'_>) -> Datum<'static> {
    match value {
        Datum::Int(value) => Datum::Int(value.wrapping_neg()),
        Datum::Long(value) => Datum::Long(value.wrapping_neg()),
        Datum::Float(value) => Datum::Float(-value),
        Datum::Double(value) => Datum::Double(-value),
        Datum::Big(big) if !big.negative && big.digits == "9223372036854775808" => Datum::Long(i64::MIN),
        Datum::Big(big) => Datum::Big(Arc::new(Big { negative: !big.negative, digits: big.digits.clone() })),
        Datum::Null | Datum::Bool(_) | Datum::Text(_) | Datum::List(_) => Datum::Null,
    }
}

/// Arithmetic of `jms` on two values that are not null.
pub(super) fn compute(
    left: &Datum<'_>,
    operator: Arithmetic,
    right: &Datum<'_>,
) -> Result<Datum<'static>, Failed> {
    if let (Datum::Text(a), Arithmetic::Add) = (left, operator) {
        let b = right.to_text()?;
        return match a.len() + b.len() {
            ..=TEXT_MAX => Ok(Datum::Text(Cow::Owned(format!("{a}{b}")))),
            _ => Err(Failed),
        };
    }
    if !left.is_number() || !right.is_number() {
        return Err(Failed);
    }
    let is_float = |value: &Datum<'_>| matches!(value, Datum::Float(_) | Datum::Double(_));
    let doubles = || (left.to_double(), right.to_double());
    Ok(match operator {
        Arithmetic::Divide => {
            let (a, b) = doubles();
            Datum::Double(a / b)
        }
        Arithmetic::Modulo => {
            let (a, b) = doubles();
            Datum::Double(a % b)
        }
        _ if is_float(left) || is_float(right) => {
            let (a, b) = doubles();
            Datum::Double(match operator {
                Arithmetic::Add => a + b,
                Arithmetic::Subtract => a - b,
                _ => a * b,
            })
        }
        _ => {
            let (a, b) = (left.to_long(), right.to_long());
            let value = match operator {
                Arithmetic::Add => a.wrapping_add(b),
                Arithmetic::Subtract => a.wrapping_sub(b),
                _ => a.wrapping_mul(b),
            };
            if matches!(left, Datum::Long(_)) || matches!(right, Datum::Long(_)) {
                Datum::Long(value)
            } else {
                // The low 32 bits of a sum, difference or product follow from those of its operands.
                Datum::Int(value as i32)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JMS: Rules = Rules::Jms { converts: false };
    const CONVERTS: Rules = Rules::Jms { converts: true };

    fn text(text: &str) -> Datum<'_> {
        Datum::Text(Cow::Borrowed(text))
    }

    fn big(text: &str) -> Datum<'static> {
        Datum::Big(Arc::new(Big { negative: false, digits: text.to_owned() }))
    }

    #[test]
    fn equality_follows_the_tables_of_the_originals() {
        use Datum::{Bool, Double, Float, Int, Long, Null};
        let (t, f, u) = (Ok(Some(true)), Ok(Some(false)), Ok(None));
        for (rules, left, right, expected) in [
            (Rules::RocketMq, Null, Null, t),
            (Rules::RocketMq, Null, Int(5), u),
            (Rules::RocketMq, Int(5), Null, f),
            (Rules::RocketMq, text("05"), Int(5), t),
            (Rules::RocketMq, text("5.0"), Int(5), Err(Failed)),
            (Rules::RocketMq, Int(5), text("3000000000"), Err(Failed)),
            (Rules::RocketMq, Long(5), text("3000000000"), f),
            (Rules::RocketMq, text(" 5d"), Double(5.0), t),
            (Rules::RocketMq, text("TRUE"), Bool(true), t),
            (Rules::RocketMq, text("yes"), Bool(false), t),
            (Rules::RocketMq, Bool(true), text("true"), Err(Failed)),
            (Rules::RocketMq, Int(1), Bool(true), f),
            (Rules::RocketMq, Long(9_007_199_254_740_993), Double(9_007_199_254_740_992.0), t),
            (Rules::RocketMq, Double(f64::NAN), Double(f64::NAN), t),
            (Rules::RocketMq, Double(0.0), Double(-0.0), f),
            (JMS, text("5"), Int(5), f),
            (JMS, Int(16_777_217), Float(16_777_216.0), t),
            (JMS, Float(0.1), Double(0.1), f),
            (JMS, Double(5.0), Float(5.0), Err(Failed)),
            (JMS, Bool(true), text("true"), f),
            (JMS, big("9223372036854775808"), Long(1), f),
            (JMS, big("99999999999999999999"), big("99999999999999999999"), t),
            (CONVERTS, text("5"), Int(5), t),
            (CONVERTS, text("x"), Int(5), f),
            (CONVERTS, Bool(true), text("true"), Err(Failed)),
            (CONVERTS, text("true"), Bool(true), t),
            (CONVERTS, Float(0.1), text("0.1"), t),
        ] {
            assert_eq!(
                compare(rules, &left, Comparison::Equal, &right),
                expected,
                "{rules:?} {left:?} = {right:?}"
            );
            let negated = expected.map(|truth: Option<bool>| truth.map(|truth| !truth));
            assert_eq!(compare(rules, &left, Comparison::NotEqual, &right), negated, "{left:?} <> {right:?}");
        }
    }

    #[test]
    fn order_is_by_numbers_and_code_units() {
        let less = |rules, left, right| compare(rules, &left, Comparison::Less, &right);
        assert_eq!(less(Rules::RocketMq, text("9"), text("10")), Ok(Some(true)));
        assert_eq!(less(Rules::RocketMq, text("x"), text("10")), Err(Failed));
        assert_eq!(less(JMS, text("9"), text("10")), Ok(Some(false)));
        assert_eq!(less(CONVERTS, text("9"), text("10")), Ok(Some(false)));
        // UTF-8 orders these two the other way round.
        assert_eq!(less(JMS, text("😀"), text("\u{ffff}")), Ok(Some(true)));
        assert_eq!(less(JMS, Datum::Float(1.0), Datum::Double(f64::NAN)), Ok(Some(true)));
        assert_eq!(less(JMS, Datum::List(Vec::new()), Datum::Int(1)), Err(Failed));
    }

    #[test]
    fn arithmetic_wraps_in_the_wider_integer_type() {
        let int = |left, operator, right| match compute(&left, operator, &right) {
            Ok(Datum::Int(value)) => i64::from(value),
            Ok(Datum::Long(value)) => value,
            other => panic!("{other:?}"),
        };
        assert_eq!(int(Datum::Int(i32::MAX), Arithmetic::Add, Datum::Int(1)), i64::from(i32::MIN));
        assert_eq!(int(Datum::Int(i32::MAX), Arithmetic::Add, Datum::Long(1)), 1 << 31);
        assert_eq!(int(Datum::Int(65_536), Arithmetic::Multiply, Datum::Int(65_537)), 65_536);
        assert_eq!(int(big("18446744073709551617"), Arithmetic::Multiply, Datum::Int(3)), 3);
        assert!(matches!(
            compute(&Datum::Int(5), Arithmetic::Divide, &Datum::Int(2)),
            Ok(Datum::Double(2.5))
        ));
        assert!(compute(&Datum::Int(5), Arithmetic::Add, &text("x")).is_err());
        let joined = compute(&text("a"), Arithmetic::Add, &Datum::Double(1.0)).unwrap();
        assert!(joined.equals(&text("a1.0")));
        assert!(matches!(negate(big("9223372036854775808")), Datum::Long(i64::MIN)));
        assert!(matches!(negate(text("5")), Datum::Null));
    }
}
