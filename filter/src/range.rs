//! What a comparison with a constant lets through, as ranges.
//!
//! `x > 10.5` becomes "at least 11" for integers and "at least the next double" for floats, so that an
//! integer is never rounded to a double to be compared.

use std::cmp::Ordering;

use crate::{syntax::Comparison, types::Number};

/// The numbers that pass a comparison. Both ends belong to the range; `None` is empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NumberRange {
    pub(crate) ints: Option<(i64, i64)>,
    pub(crate) floats: Option<(f64, f64)>,
}

impl NumberRange {
    /// The numbers `x` for which `x comparison bound` holds; for [`Comparison::NotEqual`] those for which
    /// it does *not* hold. `bound` is finite.
    pub(crate) fn new(comparison: Comparison, bound: Number) -> Self {
        let (ints, floats) = match bound {
            Number::Int(bound) => (int_cuts(bound), float_cuts_of_int(bound)),
            Number::Float(bound) => (int_cuts_of_float(bound), float_cuts(bound)),
        };
        Self {
            ints: between(comparison, &ints, (i64::MIN, i64::MAX)),
            floats: between(comparison, &floats, (f64::NEG_INFINITY, f64::INFINITY)),
        }
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self {
            ints: self.ints.zip(other.ints).and_then(|(a, b)| ordered(a.0.max(b.0), a.1.min(b.1))),
            floats: self.floats.zip(other.floats).and_then(|(a, b)| ordered(a.0.max(b.0), a.1.min(b.1))),
        }
    }

    #[inline]
    pub(crate) fn has_int(&self, value: i64) -> bool {
        self.ints.is_some_and(|(low, high)| low <= value && value <= high)
    }

    /// Whether `value`, which is not NaN, lies in the range.
    #[inline]
    pub(crate) fn has_float(&self, value: f64) -> bool {
        self.floats.is_some_and(|(low, high)| low <= value && value <= high)
    }

    pub(crate) fn has(&self, value: Number) -> bool {
        match value {
            Number::Int(value) => self.has_int(value),
            Number::Float(value) => self.has_float(value),
        }
    }
}

/// Where a bound cuts the values of one type. `None`: there is no such value.
struct Cuts<T> {
    /// The largest value below the bound.
    below: Option<T>,
    /// The largest value not above it.
    at_most: Option<T>,
    /// The smallest value not below it.
    at_least: Option<T>,
    /// The smallest value above it.
    above: Option<T>,
}

fn between<T: PartialOrd + Copy>(comparison: Comparison, cuts: &Cuts<T>, all: (T, T)) -> Option<(T, T)> {
    let (low, high) = match comparison {
        Comparison::Equal | Comparison::NotEqual => (cuts.at_least?, cuts.at_most?),
        Comparison::Less => (all.0, cuts.below?),
        Comparison::LessEqual => (all.0, cuts.at_most?),
        Comparison::Greater => (cuts.above?, all.1),
        Comparison::GreaterEqual => (cuts.at_least?, all.1),
    };
    ordered(low, high)
}

fn ordered<T: PartialOrd>(low: T, high: T) -> Option<(T, T)> {
    (low <= high).then_some((low, high))
}

fn int_cuts(bound: i64) -> Cuts<i64> {
    Cuts {
        below: bound.checked_sub(1),
        at_most: Some(bound),
        at_least: Some(bound),
        above: bound.checked_add(1),
    }
}

fn float_cuts(bound: f64) -> Cuts<f64> {
    Cuts {
        below: Some(bound.next_down()),
        at_most: Some(bound),
        at_least: Some(bound),
        above: Some(bound.next_up()),
    }
}

fn int_cuts_of_float(bound: f64) -> Cuts<i64> {
    let (floor, ceil) = (int_of(bound.floor()), int_of(bound.ceil()));
    match (floor, ceil) {
        (Ok(floor), Ok(ceil)) => Cuts {
            below: ceil.checked_sub(1),
            at_most: Some(floor),
            at_least: Some(ceil),
            above: floor.checked_add(1),
        },
        // No double lies between i64::MAX and the next integer, so both are beyond on the same side.
        (Err(Ordering::Less), _) | (_, Err(Ordering::Less)) => {
            Cuts { below: None, at_most: None, at_least: Some(i64::MIN), above: Some(i64::MIN) }
        }
        _ => Cuts { below: Some(i64::MAX), at_most: Some(i64::MAX), at_least: None, above: None },
    }
}

/// An integral double as an integer, or on which side of all integers it lies.
fn int_of(value: f64) -> Result<i64, Ordering> {
    if value < -TWO_POW_63 {
        Err(Ordering::Less)
    } else if value >= TWO_POW_63 {
        Err(Ordering::Greater)
    } else {
        Ok(value as i64)
    }
}

const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;

fn float_cuts_of_int(bound: i64) -> Cuts<f64> {
    let near = bound as f64;
    match compare_int_float(bound, near) {
        Some(Ordering::Less) => {
            let below = Some(near.next_down());
            Cuts { below, at_most: below, at_least: Some(near), above: Some(near) }
        }
        Some(Ordering::Greater) => {
            let above = Some(near.next_up());
            Cuts { below: Some(near), at_most: Some(near), at_least: above, above }
        }
        _ => float_cuts(near),
    }
}

/// Compares exactly; `None` for NaN.
pub(crate) fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    let floor = float.floor();
    Some(match int_of(floor) {
        Err(Ordering::Less) => Ordering::Greater,
        Err(_) => Ordering::Less,
        Ok(whole) if int == whole && float > floor => Ordering::Less,
        Ok(whole) => int.cmp(&whole),
    })
}

/// The texts that pass a comparison with a string, by the bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextRange {
    pub(crate) low: Option<TextBound>,
    pub(crate) high: Option<TextBound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextBound {
    pub(crate) text: String,
    pub(crate) inclusive: bool,
}

impl TextRange {
    /// The texts `x` for which `x comparison bound` holds; for [`Comparison::NotEqual`] those for which it
    /// does *not* hold.
    pub(crate) fn new(comparison: Comparison, bound: &str) -> Self {
        let with = |inclusive| Some(TextBound { text: bound.to_owned(), inclusive });
        let (low, high) = match comparison {
            Comparison::Equal | Comparison::NotEqual => (with(true), with(true)),
            Comparison::Less => (None, with(false)),
            Comparison::LessEqual => (None, with(true)),
            Comparison::Greater => (with(false), None),
            Comparison::GreaterEqual => (with(true), None),
        };
        Self { low, high }
    }

    /// The one text that passes, if it can be only one.
    pub(crate) fn single(&self) -> Option<&str> {
        match (&self.low, &self.high) {
            (Some(low), Some(high)) if low == high && low.inclusive => Some(&low.text),
            _ => None,
        }
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        let above = self.low.as_ref().is_none_or(|low| match text.cmp(low.text.as_str()) {
            Ordering::Less => false,
            Ordering::Equal => low.inclusive,
            Ordering::Greater => true,
        });
        above
            && self.high.as_ref().is_none_or(|high| match text.cmp(high.text.as_str()) {
                Ordering::Less => true,
                Ordering::Equal => high.inclusive,
                Ordering::Greater => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPARISONS: [Comparison; 5] = [
        Comparison::Equal,
        Comparison::Less,
        Comparison::LessEqual,
        Comparison::Greater,
        Comparison::GreaterEqual,
    ];

    fn holds(comparison: Comparison, ordering: Ordering) -> bool {
        match comparison {
            Comparison::Equal | Comparison::NotEqual => ordering.is_eq(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterEqual => ordering.is_ge(),
        }
    }

    /// All pairs of numbers around the places where integers and doubles part.
    #[test]
    fn a_range_holds_exactly_what_the_comparison_says() {
        let two_53 = 1_i64 << 53;
        let ints = [
            0,
            1,
            -1,
            10,
            11,
            two_53,
            two_53 + 1,
            two_53 - 1,
            i64::MAX,
            i64::MAX - 1,
            i64::MIN,
            i64::MIN + 1,
        ];
        let mut floats =
            vec![0.0, -0.0, 0.5, 10.5, -10.5, 1e300, -1e300, f64::MAX, f64::MIN, 5e-324, TWO_POW_63];
        floats.extend(ints.map(|int| int as f64));
        floats.extend(floats.clone().into_iter().flat_map(|f| [f.next_up(), f.next_down(), -f]));
        let finite = floats.iter().copied().filter(|f| f.is_finite());
        let bounds: Vec<Number> =
            ints.map(Number::Int).into_iter().chain(finite.map(Number::Float)).collect();
        let values: Vec<Number> =
            ints.map(Number::Int).into_iter().chain(floats.into_iter().map(Number::Float)).collect();
        for bound in bounds {
            for comparison in COMPARISONS {
                let range = NumberRange::new(comparison, bound);
                for value in &values {
                    let expected = holds(comparison, value.compare(bound).unwrap());
                    assert_eq!(range.has(*value), expected, "{value:?} {comparison:?} {bound:?}: {range:?}");
                }
            }
        }
    }

    #[test]
    fn integers_and_doubles_compare_without_rounding() {
        let big = (1_i64 << 53) + 1;
        assert_eq!(compare_int_float(big, big as f64), Some(Ordering::Greater));
        assert_eq!(compare_int_float(i64::MAX, TWO_POW_63), Some(Ordering::Less));
        assert_eq!(compare_int_float(i64::MIN, -TWO_POW_63), Some(Ordering::Equal));
        assert_eq!(compare_int_float(-1, -1.5), Some(Ordering::Greater));
        assert_eq!(compare_int_float(1, f64::NAN), None);
    }

    #[test]
    fn texts_are_ordered_by_their_bytes() {
        let range = TextRange::new(Comparison::Greater, "2013-06");
        assert!(range.has("2013-06-01") && !range.has("2013-06") && !range.has("2013-05-31"));
        // As UTF-16 the first would come after the second.
        assert!(TextRange::new(Comparison::Less, "\u{10000}").has("\u{ffff}"));
        assert_eq!(TextRange::new(Comparison::Equal, "a").single(), Some("a"));
    }
}
