//! The numbers of a column in order, so that a range is an interval of small integers.
//!
//! With the rank of each row at hand, any range of numbers costs two searches and then one comparison of
//! 16 bits a row, whatever it is compared with.

use super::memo::pack;
use crate::{range::NumberRange, types::Number};

/// The rank of what is no number.
const NONE: u16 = u16::MAX;

/// The numbers of a column in order: integers, then floats.
#[derive(Debug)]
pub(super) struct Ranks {
    ints: Vec<i64>,
    floats: Vec<f64>,
    of_rows: Vec<u16>,
}

/// The ranks at which an atom holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    ints: (u16, u16),
    floats: (u16, u16),
    negated: bool,
}

impl Ranks {
    /// Ranks the numbers at `places` places, and then `rows` rows, each of which has a place or none.
    /// `None` if there are too many for 16 bits.
    pub(super) fn new(
        places: usize,
        rows: usize,
        number: impl Fn(usize) -> Option<Number>,
        place: impl Fn(usize) -> Option<usize>,
    ) -> Option<Self> {
        let (mut ints, mut floats) = (Vec::new(), Vec::new());
        for place in 0..places {
            match number(place) {
                Some(Number::Int(value)) => ints.push((value, place)),
                Some(Number::Float(value)) if !value.is_nan() => floats.push((value, place)),
                _ => {}
            }
        }
        if ints.len() + floats.len() >= usize::from(NONE) {
            return None;
        }
        ints.sort_unstable();
        floats.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut of_places = vec![NONE; places];
        let in_order = ints.iter().map(|(_, place)| *place).chain(floats.iter().map(|(_, place)| *place));
        for (rank, place) in (0..).zip(in_order) {
            of_places[place] = rank;
        }
        Some(Self {
            ints: ints.into_iter().map(|(value, _)| value).collect(),
            floats: floats.into_iter().map(|(value, _)| value).collect(),
            of_rows: (0..rows).map(|row| place(row).map_or(NONE, |place| of_places[place])).collect(),
        })
    }

    /// Where a range, or its negation, holds.
    pub(super) fn interval(&self, range: &NumberRange, negated: bool) -> Interval {
        // There are fewer than 65,535 numbers.
        let rank = |rank: usize| rank as u16;
        let ints = range.ints.map_or((0, 0), |(low, high)| {
            let start = self.ints.partition_point(|value| *value < low);
            (rank(start), rank(start + self.ints[start..].partition_point(|value| *value <= high)))
        });
        let floats = range.floats.map_or((0, 0), |(low, high)| {
            let start = self.floats.partition_point(|value| *value < low);
            let end = start + self.floats[start..].partition_point(|value| *value <= high);
            (rank(self.ints.len() + start), rank(self.ints.len() + end))
        });
        Interval { ints, floats, negated }
    }

    /// Whether an atom holds in one row.
    pub(super) fn has(&self, interval: Interval, row: usize) -> bool {
        interval.has(self.of_rows[row])
    }

    /// One bit a row, set where an atom holds.
    pub(super) fn bitmap(&self, interval: Interval, words: &mut [u64]) {
        let Interval { ints, floats, negated } = interval;
        let in_ints = |rank: u16| rank.wrapping_sub(ints.0) < ints.1 - ints.0;
        let in_floats = |rank: u16| rank.wrapping_sub(floats.0) < floats.1 - floats.0;
        let of_rows = &self.of_rows;
        match (ints.0 < ints.1, floats.0 < floats.1, negated) {
            (false, false, false) => words.fill(0),
            (true, false, false) => pack(of_rows, words, in_ints),
            (false, true, false) => pack(of_rows, words, in_floats),
            _ => pack(of_rows, words, |rank| interval.has(rank)),
        }
    }
}

impl Interval {
    fn has(self, rank: u16) -> bool {
        let inside = (rank.wrapping_sub(self.ints.0) < self.ints.1 - self.ints.0)
            | (rank.wrapping_sub(self.floats.0) < self.floats.1 - self.floats.0);
        (rank != NONE) & (inside != self.negated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::Comparison;

    #[test]
    fn an_interval_of_ranks_is_the_range_itself() {
        let numbers: Vec<Option<Number>> = [
            Some(Number::Int(5)),
            Some(Number::Float(5.0)),
            Some(Number::Float(-0.0)),
            Some(Number::Float(0.0)),
            Some(Number::Int(i64::MAX)),
            None,
            Some(Number::Float(f64::NAN)),
            Some(Number::Float(f64::INFINITY)),
            Some(Number::Int(-7)),
            Some(Number::Float(4.5)),
            Some(Number::Int(5)),
        ]
        .to_vec();
        let rows = 100;
        let place = |row: usize| (!row.is_multiple_of(13)).then_some(row * 7 % numbers.len());
        let ranks = Ranks::new(numbers.len(), rows, |place| numbers[place], place).unwrap();
        let bounds = [Number::Int(5), Number::Float(4.7), Number::Float(0.0), Number::Int(i64::MIN)];
        for bound in bounds {
            for comparison in [Comparison::Less, Comparison::Equal, Comparison::GreaterEqual] {
                for negated in [false, true] {
                    let range = NumberRange::new(comparison, bound);
                    let interval = ranks.interval(&range, negated);
                    let mut words = vec![0; rows.div_ceil(64)];
                    ranks.bitmap(interval, &mut words);
                    for row in 0..rows {
                        let number = place(row).and_then(|place| numbers[place]);
                        let number = number.filter(|n| !matches!(n, Number::Float(f) if f.is_nan()));
                        let expected = number.is_some_and(|number| range.has(number) != negated);
                        assert_eq!(ranks.has(interval, row), expected, "{number:?} {comparison:?} {bound:?}");
                        assert_eq!(words[row / 64] >> (row % 64) & 1 == 1, expected);
                    }
                }
            }
        }
    }
}
