//! Reads the row that a client binds to the parameters of a statement.
//!
//! The bytes may be hostile, and Arrow's decoder trusts what they say of themselves: it panics on types that
//! it does not know and on buffers that are too short. So they are read here. Only scalars can be bound.

use std::sync::Arc;

use arrow::{array::ArrayData, buffer::Buffer};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, LargeBinaryArray, LargeStringArray, RecordBatch, RecordBatchOptions,
    StringArray, make_array, new_null_array,
};
use arrow_flight::FlightData;
use arrow_ipc::{DateUnit, Precision, TimeUnit as IpcTimeUnit, Type};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use tonic::{Status, Streaming};
use weir_engine::limits::SQL_PARAMETERS_MAX;

use super::ticket::check_size;

/// Bytes of the values bound to one statement.
const PARAMETERS_BYTES_MAX: usize = 1024 * 1024;

/// Returns the one row that the messages of a `DoPut` hold.
pub(crate) async fn row(first: FlightData, rest: &mut Streaming<FlightData>) -> Result<RecordBatch, Status> {
    let mut bytes = 0;
    let mut messages = Vec::new();
    let mut next = Some(first);
    while let Some(message) = next {
        bytes += message.data_header.len() + message.data_body.len();
        check_size("the bound row", bytes, PARAMETERS_BYTES_MAX)?;
        if !message.data_header.is_empty() {
            messages.push(message);
        }
        next = rest.message().await?;
    }
    decode_row(&messages)
}

fn decode_row(messages: &[FlightData]) -> Result<RecordBatch, Status> {
    let [schema, row] = messages else {
        return Err(unreadable("expected a schema and one row, without dictionaries"));
    };
    let schema = read_schema(schema)?;
    let columns = read_row(&schema, row)?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options);
    batch.map_err(|error| unreadable(&error.to_string()))
}

fn read_schema(message: &FlightData) -> Result<Schema, Status> {
    let header =
        arrow_ipc::root_as_message(&message.data_header).map_err(|error| unreadable(&error.to_string()))?;
    let Some(schema) = header.header_as_schema() else {
        return Err(unreadable("expected a schema before the row"));
    };
    let fields = schema.fields().unwrap_or_default();
    if fields.len() > SQL_PARAMETERS_MAX || schema.endianness() != arrow_ipc::Endianness::Little {
        return Err(unreadable("there are too many values, or their bytes are not little-endian"));
    }
    fields.iter().map(read_field).collect::<Result<Vec<_>, _>>().map(Schema::new)
}

fn read_field(field: arrow_ipc::Field<'_>) -> Result<Field, Status> {
    let name = field.name().unwrap_or_default();
    match data_type(&field) {
        Some(data_type) => Ok(Field::new(name, data_type, true)),
        None => Err(unreadable(&format!(
            "{name:?} is {}; bind numbers, text, bytes, booleans, dates and times",
            field.type_type().variant_name().unwrap_or("of an unknown type")
        ))),
    }
}

/// Returns the type of a scalar, or `None` for everything else.
fn data_type(field: &arrow_ipc::Field<'_>) -> Option<DataType> {
    if field.dictionary().is_some() {
        return None;
    }
    Some(match field.type_type() {
        Type::Null => DataType::Null,
        Type::Bool => DataType::Boolean,
        Type::Utf8 => DataType::Utf8,
        Type::LargeUtf8 => DataType::LargeUtf8,
        Type::Binary => DataType::Binary,
        Type::LargeBinary => DataType::LargeBinary,
        Type::Int => {
            let int = field.type_as_int()?;
            match (int.bitWidth(), int.is_signed()) {
                (8, true) => DataType::Int8,
                (8, false) => DataType::UInt8,
                (16, true) => DataType::Int16,
                (16, false) => DataType::UInt16,
                (32, true) => DataType::Int32,
                (32, false) => DataType::UInt32,
                (64, true) => DataType::Int64,
                (64, false) => DataType::UInt64,
                _ => return None,
            }
        }
        Type::FloatingPoint => match field.type_as_floating_point()?.precision() {
            Precision::SINGLE => DataType::Float32,
            Precision::DOUBLE => DataType::Float64,
            _ => return None,
        },
        Type::Decimal => {
            let decimal = field.type_as_decimal()?;
            let (precision, scale) = (decimal.precision().try_into().ok()?, decimal.scale().try_into().ok()?);
            match (decimal.bitWidth(), precision) {
                (128, 1..=38) => DataType::Decimal128(precision, scale),
                (256, 1..=76) => DataType::Decimal256(precision, scale),
                _ => return None,
            }
        }
        Type::Date => match field.type_as_date()?.unit() {
            DateUnit::DAY => DataType::Date32,
            DateUnit::MILLISECOND => DataType::Date64,
            _ => return None,
        },
        Type::Time => {
            let time = field.type_as_time()?;
            match (time.bitWidth(), unit(time.unit())?) {
                (32, unit @ (TimeUnit::Second | TimeUnit::Millisecond)) => DataType::Time32(unit),
                (64, unit @ (TimeUnit::Microsecond | TimeUnit::Nanosecond)) => DataType::Time64(unit),
                _ => return None,
            }
        }
        Type::Timestamp => {
            let timestamp = field.type_as_timestamp()?;
            DataType::Timestamp(unit(timestamp.unit())?, timestamp.timezone().map(Arc::from))
        }
        _ => return None,
    })
}

const fn unit(unit: IpcTimeUnit) -> Option<TimeUnit> {
    Some(match unit {
        IpcTimeUnit::SECOND => TimeUnit::Second,
        IpcTimeUnit::MILLISECOND => TimeUnit::Millisecond,
        IpcTimeUnit::MICROSECOND => TimeUnit::Microsecond,
        IpcTimeUnit::NANOSECOND => TimeUnit::Nanosecond,
        _ => return None,
    })
}

fn read_row(schema: &Schema, message: &FlightData) -> Result<Vec<ArrayRef>, Status> {
    let header =
        arrow_ipc::root_as_message(&message.data_header).map_err(|error| unreadable(&error.to_string()))?;
    let Some(row) = header.header_as_record_batch() else {
        return Err(unreadable("expected one row after the schema"));
    };
    if row.length() != 1 {
        return Err(unreadable(&format!("bind one row at a time, not {}", row.length())));
    }
    if row.compression().is_some() {
        return Err(unreadable("the row is compressed"));
    }
    let mut nodes = row.nodes().into_iter().flatten();
    let mut buffers = row.buffers().into_iter().flatten().map(|b| inside(message, b.offset(), b.length()));
    let mut column = |field: &Field| {
        let is_valid = match nodes.next()?.null_count() {
            0 => true,
            1 => false,
            _ => return None,
        };
        read_value(field.data_type(), is_valid, || buffers.next().flatten())
    };
    let columns = schema.fields().iter().map(|field| column(field)).collect::<Option<Vec<_>>>();
    let columns = columns.ok_or_else(|| unreadable("a value is missing or damaged"))?;
    if nodes.next().is_some() || buffers.next().is_some() {
        return Err(unreadable("there are more values than the schema names"));
    }
    Ok(columns)
}

/// Returns the bytes of a buffer, if they lie inside the message.
fn inside(message: &FlightData, offset: i64, length: i64) -> Option<&[u8]> {
    let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
    message.data_body.get(offset..offset.checked_add(length)?)
}

/// Returns an array of the one value in `buffers`, or `None` if they do not hold one.
fn read_value<'a>(
    data_type: &DataType,
    is_valid: bool,
    mut buffers: impl FnMut() -> Option<&'a [u8]>,
) -> Option<ArrayRef> {
    if *data_type == DataType::Null {
        return Some(new_null_array(data_type, 1));
    }
    let _validity = buffers()?;
    let values = buffers()?;
    let is_variable =
        matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary);
    let bytes = if is_variable { Some(buffers()?) } else { None };
    if !is_valid {
        return Some(new_null_array(data_type, 1));
    }
    Some(match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from(vec![values.first()? & 1 == 1])),
        DataType::Utf8 => Arc::new(StringArray::from(vec![text(slice_i32(values, bytes?)?)?])),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from(vec![text(slice_i64(values, bytes?)?)?])),
        DataType::Binary => Arc::new(BinaryArray::from(vec![slice_i32(values, bytes?)?])),
        DataType::LargeBinary => Arc::new(LargeBinaryArray::from(vec![slice_i64(values, bytes?)?])),
        fixed => {
            let value = Buffer::from(values.get(..fixed.primitive_width()?)?);
            make_array(ArrayData::builder(fixed.clone()).len(1).add_buffer(value).build().ok()?)
        }
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn slice_i32<'a>(offsets: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (start, rest) = offsets.split_first_chunk()?;
    let end = rest.first_chunk()?;
    bytes.get(i32::from_le_bytes(*start).try_into().ok()?..i32::from_le_bytes(*end).try_into().ok()?)
}

fn slice_i64<'a>(offsets: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (start, rest) = offsets.split_first_chunk()?;
    let end = rest.first_chunk()?;
    bytes.get(i64::from_le_bytes(*start).try_into().ok()?..i64::from_le_bytes(*end).try_into().ok()?)
}

fn unreadable(fault: &str) -> Status {
    Status::invalid_argument(format!("cannot bind parameters: {fault}"))
}

#[cfg(test)]
mod tests {
    use arrow_array::{Decimal128Array, Int64Array, TimestampMicrosecondArray};
    use arrow_flight::utils::batches_to_flight_data;
    use bytes::Bytes;

    use super::{
        super::query::{parameters_of_text, parameters_text},
        *,
    };

    fn row(values: Vec<i64>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(values.clone()));
        let texts = values.iter().map(|length| "x".repeat(usize::try_from(*length).unwrap()));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let decimals = Decimal128Array::from_iter_values(values.iter().map(|value| i128::from(*value)));
        let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(20, 2).unwrap());
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"));
        RecordBatch::try_from_iter_with_nullable([
            ("0", numbers, true),
            ("1", texts, true),
            ("2", decimals, true),
            ("3", times, true),
        ])
        .unwrap()
    }

    fn messages(batch: &RecordBatch) -> Vec<FlightData> {
        batches_to_flight_data(&batch.schema(), vec![batch.clone()]).unwrap()
    }

    #[test]
    fn a_bound_row_survives_its_handle() {
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        let nulls = RecordBatch::try_from_iter_with_nullable([("x", nulls, true)]).unwrap();
        for row in [row(vec![5]), nulls] {
            assert_eq!(decode_row(&messages(&row)).unwrap(), row);
            assert_eq!(parameters_of_text(&parameters_text(&row).unwrap()).unwrap(), row);
        }
    }

    #[test]
    fn rows_that_lie_about_themselves_are_refused() {
        assert!(decode_row(&messages(&row(vec![1, 2]))).is_err());
        assert!(decode_row(&messages(&row(vec![1]))[..1]).is_err());
        let mut cut = messages(&row(vec![500]));
        cut[1].data_body.truncate(8);
        assert!(decode_row(&cut).is_err());
        let mut garbage = messages(&row(vec![5]));
        garbage[1].data_header = Bytes::from_static(b"\xff\xff\xff\x7f garbage");
        assert!(decode_row(&garbage).is_err());
    }

    #[test]
    fn a_damaged_message_never_panics() {
        let good = messages(&row(vec![5]));
        for part in 0..2 {
            for at in 0..good[part].data_header.len() + good[part].data_body.len() {
                for flip in [0x01, 0x10, 0x80, 0xff] {
                    let mut damaged = good.clone();
                    let mut header = damaged[part].data_header.to_vec();
                    let mut body = damaged[part].data_body.to_vec();
                    match at.checked_sub(header.len()) {
                        None => header[at] ^= flip,
                        Some(at) => body[at] ^= flip,
                    }
                    damaged[part].data_header = header.into();
                    damaged[part].data_body = body.into();
                    let _ = decode_row(&damaged);
                }
            }
        }
    }
}
