//! Truth values of many rows as two bitmaps.
//!
//! With FALSE < UNKNOWN < TRUE, one bitmap says "true" and one "at least unknown". AND and OR of truth
//! values are then plain AND and OR of both bitmaps.

use arrow_array::{Array, BooleanArray, UInt16Array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};

use crate::{syntax::Connective, types::Truth};

/// Truth values of rows.
#[derive(Clone, Debug)]
pub(crate) struct Planes {
    pub(crate) is_true: BooleanBuffer,
    /// True or unknown.
    pub(crate) is_possible: BooleanBuffer,
}

impl Planes {
    /// `len` times the same.
    pub(crate) fn constant(truth: Truth, len: usize) -> Self {
        let plane = |set| if set { BooleanBuffer::new_set(len) } else { BooleanBuffer::new_unset(len) };
        Self { is_true: plane(truth == Truth::True), is_possible: plane(truth != Truth::False) }
    }

    /// A bitmap of `len` rows, 64 to a word.
    pub(crate) fn plane(words: Vec<u64>, len: usize) -> BooleanBuffer {
        BooleanBuffer::new(Buffer::from_vec(words), 0, len)
    }

    /// One truth a row, as its discriminant.
    pub(crate) fn from_truths(truths: &[u8]) -> Self {
        let has_unknown = truths.contains(&(Truth::Unknown as u8));
        pack(truths.len(), has_unknown, |row| truths[row])
    }

    /// The truth (its discriminant) of each code; `missing` where the code is null.
    ///
    /// A code beyond `truths` counts as false; columns with such codes are refused before this.
    pub(crate) fn from_codes(codes: &UInt16Array, truths: &[u8], missing: Truth) -> Self {
        let len = codes.len();
        let everywhere = |wanted: Truth| truths.iter().all(|truth| *truth == wanted as u8);
        let constant =
            [Truth::False, Truth::Unknown, Truth::True].into_iter().find(|truth| everywhere(*truth));
        let present =
            constant.map_or_else(|| spread(codes.values(), truths), |truth| Self::constant(truth, len));
        match codes.nulls() {
            Some(nulls) if nulls.null_count() > 0 => present.with_missing(nulls, missing),
            _ => present,
        }
    }

    /// Replaces the truth where `valid` is null.
    pub(crate) fn with_missing(self, valid: &NullBuffer, missing: Truth) -> Self {
        let valid = valid.inner();
        let fill = |plane: &BooleanBuffer, set| if set { plane | &!valid } else { plane & valid };
        Self {
            is_true: fill(&self.is_true, missing == Truth::True),
            is_possible: fill(&self.is_possible, missing != Truth::False),
        }
    }

    pub(crate) fn from_array(array: &BooleanArray) -> Self {
        match array.nulls() {
            None => Self { is_true: array.values().clone(), is_possible: array.values().clone() },
            Some(nulls) => Self {
                is_true: array.values() & nulls.inner(),
                is_possible: array.values() | &!nulls.inner(),
            },
        }
    }

    pub(crate) fn into_array(self) -> BooleanArray {
        if self.is_true.ptr_eq(&self.is_possible) {
            return BooleanArray::new(self.is_true, None);
        }
        let known = &self.is_true | &!&self.is_possible;
        BooleanArray::new(self.is_true, Some(NullBuffer::new(known)))
    }

    pub(crate) fn combine(&mut self, connective: Connective, other: &Self) {
        let one = self.is_true.ptr_eq(&self.is_possible) && other.is_true.ptr_eq(&other.is_possible);
        let apply = |a: &BooleanBuffer, b: &BooleanBuffer| match connective {
            Connective::And => a & b,
            Connective::Or => a | b,
        };
        self.is_true = apply(&self.is_true, &other.is_true);
        self.is_possible =
            if one { self.is_true.clone() } else { apply(&self.is_possible, &other.is_possible) };
    }

    /// The rows that a further term may change.
    pub(crate) fn open(&self, connective: Connective) -> BooleanBuffer {
        match connective {
            Connective::And => self.is_possible.clone(),
            Connective::Or => !&self.is_true,
        }
    }
}

fn spread(codes: &[u16], truths: &[u8]) -> Planes {
    let has_unknown = truths.contains(&(Truth::Unknown as u8));
    // Tables of full width need no bounds check in the loop.
    if truths.len() <= 256 {
        let mut table = [0_u8; 256];
        table[..truths.len()].copy_from_slice(truths);
        pack(codes.len(), has_unknown, |row| table[usize::from(codes[row] & 0xff)])
    } else {
        debug_assert!(truths.len() <= 65_536, "codes have 16 bits");
        let truths = &truths[..truths.len().min(65_536)];
        let mut table = vec![0_u8; 65_536];
        table[..truths.len()].copy_from_slice(truths);
        let table: &[u8; 65_536] = table.as_slice().try_into().unwrap_or(&[0; 65_536]);
        pack(codes.len(), has_unknown, |row| table[usize::from(codes[row])])
    }
}

/// Packs one truth a row, as its discriminant, into bits.
#[inline(always)]
fn pack(len: usize, has_unknown: bool, truth: impl Fn(usize) -> u8) -> Planes {
    let mut is_true = Vec::with_capacity(len.div_ceil(64));
    if !has_unknown {
        for_words(len, |rows| {
            let mut word = 0_u64;
            for (bit, row) in rows.enumerate() {
                word |= u64::from(truth(row) >> 1) << bit;
            }
            is_true.push(word);
        });
        let plane = Planes::plane(is_true, len);
        return Planes { is_true: plane.clone(), is_possible: plane };
    }
    let mut is_possible = Vec::with_capacity(len.div_ceil(64));
    for_words(len, |rows| {
        let (mut high, mut low) = (0_u64, 0_u64);
        for (bit, row) in rows.enumerate() {
            let truth = truth(row);
            high |= u64::from(truth >> 1) << bit;
            low |= u64::from(truth & 1) << bit;
        }
        is_true.push(high);
        is_possible.push(high | low);
    });
    Planes { is_true: Planes::plane(is_true, len), is_possible: Planes::plane(is_possible, len) }
}

#[inline(always)]
fn for_words(len: usize, mut word: impl FnMut(std::ops::Range<usize>)) {
    let whole = len / 64 * 64;
    for start in (0..whole).step_by(64) {
        word(start..start + 64);
    }
    if whole < len {
        word(whole..len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTHS: [Truth; 3] = [Truth::False, Truth::Unknown, Truth::True];

    fn bytes(truths: &[Truth]) -> Vec<u8> {
        truths.iter().map(|truth| *truth as u8).collect()
    }

    fn truths_of(planes: &Planes) -> Vec<Truth> {
        let truth = |row| match (planes.is_true.value(row), planes.is_possible.value(row)) {
            (true, true) => Truth::True,
            (false, true) => Truth::Unknown,
            (false, false) => Truth::False,
            (true, false) => panic!("true but not possible"),
        };
        (0..planes.is_true.len()).map(truth).collect()
    }

    #[test]
    fn planes_keep_truths_of_any_number_of_rows() {
        for len in [0, 1, 63, 64, 65, 200] {
            for step in 1..4 {
                let truths: Vec<Truth> = (0..len).map(|row| TRUTHS[row * step % 3]).collect();
                let planes = Planes::from_truths(&bytes(&truths));
                assert_eq!(truths_of(&planes), truths);
                assert_eq!(truths_of(&Planes::from_array(&planes.into_array())), truths);
            }
        }
    }

    #[test]
    fn codes_spread_the_truths_of_few_and_of_many_values() {
        for distinct in [1_u16, 3, 256, 257, 1000] {
            let truths: Vec<Truth> = (0..distinct).map(|code| TRUTHS[usize::from(code) % 3]).collect();
            let codes: Vec<Option<u16>> =
                (0..3000).map(|row| (row % 7 != 0).then_some(row % distinct)).collect();
            let array = UInt16Array::from(codes.clone());
            for missing in TRUTHS {
                let expected: Vec<Truth> =
                    codes.iter().map(|code| code.map_or(missing, |code| truths[usize::from(code)])).collect();
                assert_eq!(truths_of(&Planes::from_codes(&array, &bytes(&truths), missing)), expected);
            }
        }
    }

    #[test]
    fn and_is_the_smaller_and_or_the_larger() {
        let left: Vec<Truth> = TRUTHS.iter().flat_map(|truth| [*truth; 3]).collect();
        let right: Vec<Truth> = TRUTHS.repeat(3);
        for (connective, pick) in
            [(Connective::And, Ord::min as fn(Truth, Truth) -> Truth), (Connective::Or, Ord::max)]
        {
            let mut planes = Planes::from_truths(&bytes(&left));
            planes.combine(connective, &Planes::from_truths(&bytes(&right)));
            let expected: Vec<Truth> = left.iter().zip(&right).map(|(a, b)| pick(*a, *b)).collect();
            assert_eq!(truths_of(&planes), expected);
        }
    }
}
