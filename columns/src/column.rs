//! The shapes in which one property of many rows is stored and evaluated.

use std::sync::Arc;

use arrow_array::{Array, Float64Array, Int64Array, StringArray, UInt8Array, UInt16Array, UInt32Array};

use crate::kind::Kind;

/// Distinct values, with what each of them is.
///
/// # Invariants
///
/// - All arrays have the same length; `kinds` and `text` have no nulls; every byte of `kinds` is a [`Kind`].
/// - `ints[i]` is valid exactly where `kinds[i].has_int()`, `floats[i]` exactly where
///   `kinds[i].has_float()`; the arrays are `None` where no value needs them.
/// - `text[i]` is [`Value::to_text`](crate::Value::to_text) of the value.
#[derive(Clone, Debug)]
pub struct Values {
    /// One [`Kind`] a value.
    pub kinds: UInt8Array,
    /// The text of each value.
    pub text: StringArray,
    /// The value of each integer.
    pub ints: Option<Int64Array>,
    /// The value of each float; may hold NaN and infinities of typed clients.
    pub floats: Option<Float64Array>,
}

impl Values {
    /// Returns how many values there are.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Returns the kind of value `index`.
    ///
    /// # Panics
    ///
    /// If `index` is out of bounds.
    pub fn kind(&self, index: usize) -> Kind {
        Kind::from_byte(self.kinds.value(index)).unwrap_or(Kind::Text)
    }
}

/// One property (or system value) of all rows of a block, run or batch.
///
/// A missing value has a null code, or no entry.
#[derive(Clone, Debug)]
pub enum Column {
    /// Each row has a code, null where the value is missing.
    Dictionary {
        /// One code a row, below `values.len()`.
        codes: UInt16Array,
        /// The distinct values.
        values: Arc<Values>,
    },
    /// Few rows have the property.
    Sparse {
        /// The rows that have it, ascending, without nulls.
        rows: UInt16Array,
        /// The code of each of these rows, without nulls.
        codes: UInt16Array,
        /// The distinct values.
        values: Arc<Values>,
    },
    /// One value a row, not made distinct. Rows without a value are null in `present`.
    Plain {
        /// One value a row; where the row is missing, any value.
        values: Arc<Values>,
        /// Which rows have a value; `None` if all.
        present: Option<arrow_buffer::NullBuffer>,
    },
    /// All values are canonical integers ([`Kind::Int`]) or integers of the system; null where missing.
    Int(Int64Array),
    /// Only hashes ([`hash32`](crate::hash32)) are at hand: they answer "no" or "maybe".
    ///
    /// Row `i` has the hashes `row_ends[i - 1]..row_ends[i]`, one for each part of the value between
    /// single spaces; a missing value has none.
    Hashed {
        /// One end a row, ascending.
        row_ends: UInt32Array,
        /// The hashes of all rows.
        hashes: UInt32Array,
    },
}
