//! What is known of blocks without opening them.
//!
//! One entry a block in each array. An entry that is null was not kept, which never prunes.

use arrow_array::{Array, BinaryArray, Float64Array, Int64Array, UInt16Array, UInt32Array};

use crate::{
    hash::hash64,
    kind::KindSet,
    rows::{ColumnRef, Presence},
};

/// Statistics of one column, one entry a block.
#[derive(Clone, Debug)]
pub struct ColumnStatistics {
    /// Rows without a value. Null: the whole entry was not kept.
    pub missing: UInt32Array,
    /// Distinct values; null if not counted.
    pub distinct: UInt32Array,
    /// The kinds of the values, as [`KindSet`]; null if not kept.
    pub kinds: UInt16Array,
    /// A lower bound of the text of all values by UTF-8 bytes; may be shortened.
    pub text_min: BinaryArray,
    /// An upper bound of the text of all values by UTF-8 bytes; may be shortened and rounded up, so that
    /// it need not be UTF-8. Null: no upper bound is known.
    pub text_max: BinaryArray,
    /// Smallest of the integers (`Kind::has_int`). Null: not kept; look at `kinds` for "none".
    pub int_min: Int64Array,
    /// Largest of the integers.
    pub int_max: Int64Array,
    /// Smallest of the floats (`Kind::has_float`) that are not NaN.
    pub float_min: Float64Array,
    /// Largest of the floats that are not NaN.
    pub float_max: Float64Array,
    /// A [`Bloom`] filter over the texts of the values; null if not kept.
    pub bloom: BinaryArray,
}

impl ColumnStatistics {
    /// Returns the kinds of the values in `block`, or `None` if not kept.
    pub fn kinds_of(&self, block: usize) -> Option<KindSet> {
        self.kinds.is_valid(block).then(|| KindSet(self.kinds.value(block)))
    }

    /// Returns whether the text of some value in `block` may equal `text`, as far as the Bloom filter tells.
    pub fn may_contain(&self, block: usize, text: &str) -> bool {
        !self.bloom.is_valid(block) || Bloom(self.bloom.value(block)).may_contain(text.as_bytes())
    }
}

/// Statistics of many blocks, column by column.
pub trait Statistics {
    /// Returns how many blocks there are.
    fn blocks(&self) -> usize;

    /// Returns how many rows `block` has.
    fn rows(&self, block: usize) -> usize;

    /// Returns what is known of a column.
    fn column(&self, name: ColumnRef<'_>) -> Presence<ColumnStatistics>;
}

/// A Bloom filter of 8 bits a value, with five probes.
///
/// Bit `n` is bit `n % 8` of byte `n / 8`. Probe `i` of a value with [`hash64`] `h` is
/// `(low + i * high) mod bits`, where `low` and `high` are the 32-bit halves and `high` is made odd.
#[derive(Clone, Copy, Debug)]
pub struct Bloom<'a>(pub &'a [u8]);

impl Bloom<'_> {
    const PROBES: u64 = 5;

    /// Returns the bytes of a filter over `values`, of which there are `count`.
    pub fn build<'v>(count: usize, values: impl IntoIterator<Item = &'v [u8]>) -> Vec<u8> {
        let mut bytes = vec![0_u8; count.max(1)];
        let bits = bytes.len() as u64 * 8;
        for value in values {
            for bit in probes(value, bits) {
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        bytes
    }

    /// Returns whether `value` may be in the set; always true for a filter without bits.
    pub fn may_contain(&self, value: &[u8]) -> bool {
        let bits = self.0.len() as u64 * 8;
        bits == 0 || probes(value, bits).all(|bit| self.0[(bit / 8) as usize] & (1 << (bit % 8)) != 0)
    }
}

fn probes(value: &[u8], bits: u64) -> impl Iterator<Item = u64> {
    let hash = hash64(value);
    let (low, high) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..Bloom::PROBES).map(move |probe| (low + probe * high) % bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bloom_filter_never_forgets_and_rarely_invents() {
        let values: Vec<String> = (0..1000).map(|i| format!("customer-{i}")).collect();
        let bytes = Bloom::build(values.len(), values.iter().map(String::as_bytes));
        let bloom = Bloom(&bytes);
        assert!(values.iter().all(|value| bloom.may_contain(value.as_bytes())));
        let wrong = (1000..11_000).filter(|i| bloom.may_contain(format!("customer-{i}").as_bytes())).count();
        assert!(wrong < 500, "{wrong} of 10,000 absent values pass");
    }
}
