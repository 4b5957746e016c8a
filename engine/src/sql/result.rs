//! What leaves the engine as the answer of a query: only types that every client takes.
//!
//! No views, dictionaries, unsigned or large types; timestamps count microseconds, and the zone of an
//! instant is spelled `UTC`. Every column may be null, because what a plan says about nulls and what its
//! batches hold differ, and clients compare the two.

use std::sync::Arc;

use arrow::{
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit},
    record_batch::{RecordBatch, RecordBatchOptions},
};

use crate::error::EngineError;

/// Returns the schema that is announced for a plan with `schema`.
pub(crate) fn announced(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(|field| plain_field(field, true)).collect();
    Arc::new(Schema::new(fields))
}

/// Returns `batch` with exactly the announced schema.
pub(crate) fn stamped(batch: &RecordBatch, announced: &SchemaRef) -> Result<RecordBatch, EngineError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch
        .columns()
        .iter()
        .zip(announced.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            cast_with_options(column, field.data_type(), &options)
                .map_err(|error| EngineError::Sql(format!("column {}: {error}", field.name())))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(announced), columns, &options)
        .map_err(|error| EngineError::Sql(error.to_string()))
}

fn plain_field(field: &Field, nullable: bool) -> FieldRef {
    Arc::new(Field::new(field.name(), plain(field.data_type()), nullable))
}

/// Returns the type that stands for `data_type` in answers.
pub(crate) fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Date64 => DataType::Date32,
        DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(plain_field(item, true)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item, true), *size),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain_field(field, field.is_nullable())).collect())
        }
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries, entries.is_nullable()), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, DictionaryArray, StringViewArray, TimestampNanosecondArray, UInt64Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn answers_have_plain_types_only() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("view", Arc::new(StringViewArray::from(vec![Some("a"), None]))),
            ("unsigned", Arc::new(UInt64Array::from(vec![1, 2]))),
            ("dictionary", Arc::new(vec!["x", "y"].into_iter().collect::<DictionaryArray<Int32Type>>())),
            ("time", Arc::new(TimestampNanosecondArray::from(vec![1000, 2000]).with_timezone("+00:00"))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let schema = announced(&batch.schema());
        let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(types, [DataType::Utf8, DataType::Int64, DataType::Utf8, micros]);
        let stamped = stamped(&batch, &schema).unwrap();
        assert_eq!(stamped.schema(), schema);
        assert_eq!(stamped.num_rows(), 2);
    }

    #[test]
    fn an_unsigned_number_beyond_64_signed_bits_is_an_error() {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        assert!(stamped(&batch, &announced(&batch.schema())).is_err());
    }
}
