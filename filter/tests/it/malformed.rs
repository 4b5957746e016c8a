//! Columns that break their invariants are reported by name; nothing panics.

use std::{convert::Infallible, sync::Arc};

use arrow_array::{Float64Array, Int64Array, StringArray, UInt8Array, UInt16Array, UInt32Array};
use arrow_buffer::NullBuffer;
use weir_columns::{Column, ColumnRef, Kind, Rows, Value, Values};
use weir_filter::{Dialect, EvaluateError, Limits, Predicate, Selector};

struct OneColumn {
    rows: usize,
    column: Column,
}

impl Rows for OneColumn {
    type Error = Infallible;

    fn len(&self) -> usize {
        self.rows
    }

    /// Always the same, although the columns differ.
    fn shape(&self) -> u64 {
        0
    }

    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, Infallible> {
        Ok((name == ColumnRef::Property("x")).then(|| self.column.clone()))
    }

    fn value(&self, _: ColumnRef<'_>, _: usize) -> Result<Option<Value>, Infallible> {
        Ok(None)
    }
}

fn values(count: usize) -> Values {
    Values {
        kinds: UInt8Array::from(vec![Kind::Int as u8; count]),
        text: StringArray::from_iter_values((0..count).map(|n| n.to_string())),
        ints: Some(Int64Array::from_iter_values(0..count as i64)),
        floats: None,
    }
}

fn dictionary(codes: Vec<u16>, values: Values) -> Column {
    Column::Dictionary { codes: codes.into(), values: Arc::new(values) }
}

fn sparse(rows: Vec<u16>, codes: Vec<u16>) -> Column {
    Column::Sparse { rows: rows.into(), codes: codes.into(), values: Arc::new(values(2)) }
}

fn hashed(row_ends: Vec<u32>, hashes: usize) -> Column {
    Column::Hashed { row_ends: row_ends.into(), hashes: UInt32Array::from(vec![7; hashes]) }
}

const SELECTORS: [&str; 6] =
    ["x = 1", "x = 'a'", "x LIKE 'a%'", "x = y", "x + 1 > x", "x IN ('a', 'b', 'c', 'd', 'e') OR x IS NULL"];

#[test]
fn each_fault_is_an_error_that_names_the_column() {
    let short_text = Values { text: StringArray::from(vec!["1"]), ..values(2) };
    let short_ints = Values { ints: Some(Int64Array::from(vec![1])), ..values(2) };
    let null_kinds = Values { kinds: UInt8Array::from(vec![Some(2), None]), ..values(2) };
    let present = Some(NullBuffer::from(vec![true; 2]));
    for column in [
        dictionary(vec![0, 1, 2], values(2)),
        dictionary(vec![0, 1], values(2)),
        dictionary(vec![0, 1, 0], short_text),
        dictionary(vec![0, 1, 0], short_ints),
        dictionary(vec![0, 1, 0], null_kinds),
        sparse(vec![0, 3], vec![0, 1]),
        sparse(vec![0, 1], vec![0, 2]),
        sparse(vec![0, 1], vec![0]),
        sparse(vec![0], vec![0, 1]),
        Column::Sparse {
            rows: UInt16Array::from(vec![Some(0), None]),
            codes: vec![0, 1].into(),
            values: Arc::new(values(2)),
        },
        Column::Plain { values: Arc::new(values(2)), present: None },
        Column::Plain { values: Arc::new(values(3)), present },
        Column::Int(Int64Array::from(vec![1, 2])),
        hashed(vec![1, 2], 2),
        hashed(vec![1, 2, 3], 2),
        hashed(vec![2, 1, 2], 2),
    ] {
        for text in SELECTORS {
            let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
            let rows = OneColumn { rows: 3, column: column.clone() };
            match Predicate::new(&selector).evaluate(&rows, None) {
                Err(EvaluateError::Column { column, .. }) => assert_eq!(column, "x"),
                // Hashes say nothing here, so they are not read.
                Ok(_)
                    if matches!(column, Column::Hashed { .. }) && text.contains('y') | text.contains('+') => {
                }
                other => panic!("{text} over {column:?}: {other:?}"),
            }
        }
    }
}

/// Kinds that contradict the numbers, or that do not exist, give some answer.
#[test]
fn values_that_lie_about_their_kind_do_not_panic() {
    for kind in 0..=255_u8 {
        let values = Values {
            kinds: UInt8Array::from(vec![kind; 2]),
            text: StringArray::from(vec!["1", "a"]),
            ints: Some(Int64Array::from(vec![Some(1), None])),
            floats: (kind % 2 == 0).then(|| Float64Array::from(vec![None, Some(f64::NAN)])),
        };
        for column in [
            dictionary(vec![0, 1, 0], values.clone()),
            Column::Sparse { rows: vec![1].into(), codes: vec![1].into(), values: Arc::new(values.clone()) },
        ] {
            for text in SELECTORS {
                let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
                let rows = OneColumn { rows: 3, column: column.clone() };
                Predicate::new(&selector).evaluate(&rows, None).unwrap();
            }
        }
    }
}

#[test]
fn a_predicate_binds_anew_when_columns_change_under_one_shape() {
    let selector = Selector::parse("x = 1", Dialect::Sql92, &Limits::default()).unwrap();
    let predicate = Predicate::new(&selector);
    for column in [
        dictionary(vec![1, 0, 1], values(2)),
        sparse(vec![0, 2], vec![1, 1]),
        Column::Int(Int64Array::from(vec![1, 2, 1])),
        Column::Plain {
            values: Arc::new(Values { ints: None, kinds: vec![1; 3].into(), ..values(3) }),
            present: None,
        },
    ] {
        let verdicts = predicate.evaluate(&OneColumn { rows: 3, column: column.clone() }, None).unwrap();
        let expected = if matches!(column, Column::Plain { .. }) { 1 } else { 2 };
        assert_eq!(verdicts.matches.count_set_bits(), expected, "{column:?}");
    }
}

#[test]
fn more_rows_than_row_numbers_are_refused() {
    let rows = OneColumn { rows: 65_537, column: Column::Int(Int64Array::from(vec![1; 65_537])) };
    let predicate = Predicate::new(&Selector::all());
    assert!(matches!(predicate.evaluate(&rows, None), Err(EvaluateError::TooManyRows(65_537))));
}
