//! Makes columns of single values.

use std::sync::Arc;

use arrow_array::{Float64Array, Int64Array, StringArray, UInt8Array, UInt16Array};
use weir_columns::{Column, Kind, Value, Values, classify};

/// A sparse column of values by row, ascending; at most 65,536. `None` if there are none.
pub(crate) fn sparse(values: &[(usize, Value)]) -> Option<Column> {
    let codes = u16::try_from(values.len().checked_sub(1)?).ok()?;
    let rows: Vec<u16> = values.iter().filter_map(|(row, _)| u16::try_from(*row).ok()).collect();
    Some(Column::Sparse {
        rows: rows.into(),
        codes: UInt16Array::from_iter_values(0..=codes),
        values: Arc::new(distinct(values.iter().map(|(_, value)| value))),
    })
}

/// Values as columns keep them, in the order given.
pub(crate) fn distinct<'a>(values: impl Iterator<Item = &'a Value> + Clone) -> Values {
    let (mut kinds, mut ints, mut floats) = (Vec::new(), Vec::new(), Vec::new());
    for value in values.clone() {
        let (kind, int, float) = facts(value);
        kinds.push(kind as u8);
        ints.push(int);
        floats.push(float);
    }
    Values {
        kinds: UInt8Array::from(kinds),
        text: StringArray::from_iter_values(values.map(Value::to_text)),
        ints: ints.iter().any(Option::is_some).then(|| Int64Array::from(ints)),
        floats: floats.iter().any(Option::is_some).then(|| Float64Array::from(floats)),
    }
}

fn facts(value: &Value) -> (Kind, Option<i64>, Option<f64>) {
    match value {
        Value::Text(text) => classify(text),
        Value::Str(_) => (Kind::Str, None, None),
        Value::Bool(_) => (Kind::Bool, None, None),
        Value::I32(value) => (Kind::I32, Some(i64::from(*value)), None),
        Value::I64(value) => (Kind::I64, Some(*value), None),
        Value::F32(value) => (Kind::F32, None, Some(f64::from(*value))),
        Value::F64(value) => (Kind::F64, None, Some(*value)),
    }
}
