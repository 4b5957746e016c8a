//! Columns that only the log holds, read a run of rows at a time.

use std::{fmt::Write, sync::Arc};

use arrow::compute::filter;
use arrow_array::{
    Array, ArrayRef, BooleanArray,
    builder::{BinaryBuilder, MapBuilder, MapFieldNames, StringBuilder, TimestampMicrosecondBuilder},
};
use arrow_schema::{DataType, Field};
use weir_storage::{Block, Fault, RecordView, ValueRef};

use crate::{error::EngineError, schema::Source};

/// Columns of some rows that only the log holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logged(Vec<(Source, ArrayRef)>);

impl Logged {
    /// Reads the records of `rows`, ascending, once for all of `sources` that need them.
    ///
    /// # Errors
    ///
    /// If a record cannot be read, or is lost.
    pub(crate) fn read<'s>(
        sources: impl IntoIterator<Item = &'s Source>,
        block: &Block,
        rows: &[u32],
    ) -> Result<Self, EngineError> {
        let mut columns: Vec<(Source, Builder)> = Vec::new();
        for source in sources {
            if columns.iter().all(|(known, _)| known != source)
                && let Some(builder) = Builder::new(source, rows.len())
            {
                columns.push((source.clone(), builder));
            }
        }
        if columns.is_empty() {
            return Ok(Self::default());
        }
        block.visit_records(rows.iter().map(|row| *row as usize), |record| {
            for (source, builder) in &mut columns {
                builder.append(source, record)?;
            }
            Ok(())
        })?;
        Ok(Self(columns.into_iter().map(|(source, builder)| (source, builder.finish())).collect()))
    }

    /// Returns a column that was read.
    pub(crate) fn column(&self, source: &Source) -> Option<&ArrayRef> {
        self.0.iter().find(|(known, _)| known == source).map(|(_, array)| array)
    }

    /// Keeps the rows for which `verdicts` is true.
    ///
    /// # Errors
    ///
    /// Never, as long as there is one verdict a row.
    pub(crate) fn filter(&self, verdicts: &BooleanArray) -> Result<Self, EngineError> {
        let kept = self.0.iter().map(|(source, array)| Ok((source.clone(), filter(array, verdicts)?)));
        let kept: Result<_, arrow_schema::ArrowError> = kept.collect();
        kept.map(Self).map_err(|error| EngineError::Internal(error.to_string()))
    }

    /// Returns `len` rows from `from` on.
    pub(crate) fn slice(&self, from: usize, len: usize) -> Self {
        Self(self.0.iter().map(|(source, array)| (source.clone(), array.slice(from, len))).collect())
    }
}

enum Builder {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Time(TimestampMicrosecondBuilder),
    Map(Box<MapBuilder<StringBuilder, StringBuilder>>),
}

impl Builder {
    /// Returns the builder of a column; `None` for one that consume queues hold.
    fn new(source: &Source, rows: usize) -> Option<Self> {
        match source {
            Source::MessageId | Source::Keys | Source::BornHost => {
                Some(Self::Text(StringBuilder::with_capacity(rows, 0)))
            }
            Source::Body => Some(Self::Bytes(BinaryBuilder::with_capacity(rows, 0))),
            Source::DeliveryTime => Some(Self::Time(
                TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(source.data_type()),
            )),
            Source::Properties => Some(Self::Map(Box::new(properties_builder(rows)))),
            _ => None,
        }
    }

    fn append(&mut self, source: &Source, record: &RecordView<'_>) -> Result<(), Fault> {
        match self {
            Self::Text(texts) => {
                let text = match source {
                    Source::MessageId => record.message_id(),
                    Source::BornHost => record.born_host(),
                    _ => {
                        append_keys(texts, record);
                        return Ok(());
                    }
                };
                texts.append_option((!text.is_empty()).then_some(text));
            }
            Self::Bytes(bodies) => bodies.append_value(record.body()?),
            Self::Time(times) => {
                times.append_option(record.delivery_time_ms().map(|ms| ms.saturating_mul(1000)));
            }
            Self::Map(map) => append_properties(map, record),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut texts) => Arc::new(texts.finish()),
            Self::Bytes(mut bodies) => Arc::new(bodies.finish()),
            Self::Time(mut times) => Arc::new(times.finish()),
            Self::Map(mut map) => Arc::new(map.finish()),
        }
    }
}

/// Keys stand in one text, a blank between two.
fn append_keys(texts: &mut StringBuilder, record: &RecordView<'_>) {
    let mut keys = record.keys().peekable();
    if keys.peek().is_none() {
        return texts.append_null();
    }
    let mut between = "";
    for key in keys {
        // Writing into memory does not fail.
        let _ = texts.write_str(between).and_then(|()| texts.write_str(key));
        between = " ";
    }
    texts.append_value("");
}

fn append_properties(map: &mut MapBuilder<StringBuilder, StringBuilder>, record: &RecordView<'_>) {
    for (name, value) in record.properties() {
        map.keys().append_value(name);
        match value {
            ValueRef::Text(text) | ValueRef::Str(text) => map.values().append_value(text),
            other => map.values().append_value(other.to_value().to_text()),
        }
    }
    map.append(true).expect("as many keys as values were appended");
}

fn properties_builder(rows: usize) -> MapBuilder<StringBuilder, StringBuilder> {
    let names =
        MapFieldNames { entry: "entries".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
    MapBuilder::with_capacity(Some(names), StringBuilder::new(), StringBuilder::new(), rows)
        .with_keys_field(Field::new("key", DataType::Utf8, false))
        .with_values_field(Field::new("value", DataType::Utf8, true))
}
