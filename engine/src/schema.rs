//! Which columns a topic has, of what type, and how rows become arrays of them.
//!
//! A property's type is inferred from the values that it has had: integers, else numbers, else text; it only
//! widens. Who needs a fixed type names it, and what does not convert is null.
//!
//! ```text
//! queue_id … properties   the nine columns of a pull        sys.NAME    what the broker knows besides
//! NAME                    a property                        prop.NAME   a property whose name means something else
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_columns::{Column, ColumnRef, Kind, KindSet, Presence, Rows, System, Values};
use weir_filter::{Number, did_you_mean, near, number_of};
use weir_storage::{
    Block, QueueId, QueueOffset, QueueView, Segment, Storage, TopicId, limits::PROPERTY_KINDS_BYTES_MAX,
};

use crate::{error::EngineError, logged::Logged};

/// Columns that are inferred for a topic; further properties are still found by name.
const COLUMNS_MAX: usize = 4096;

/// The type that a property's column is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// 64-bit integers.
    Int64,
    /// 64-bit floats.
    Float64,
    /// Text.
    Utf8,
    /// Booleans.
    Boolean,
}

impl ColumnType {
    /// Returns the narrowest type that holds values of all `kinds`.
    pub(crate) fn of(kinds: KindSet) -> Self {
        const INTS: KindSet = KindSet(0).with(Kind::Int).with(Kind::I32).with(Kind::I64);
        const NUMBERS: KindSet = INTS.with(Kind::Float).with(Kind::F32).with(Kind::F64);
        const BOOLEANS: KindSet = KindSet(0).with(Kind::Bool);
        let within = |set: KindSet| kinds.0 != 0 && kinds.0 & !set.0 == 0;
        if within(INTS) {
            Self::Int64
        } else if within(NUMBERS) {
            Self::Float64
        } else if within(BOOLEANS) {
            Self::Boolean
        } else {
            Self::Utf8
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Utf8 => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Utf8 => "utf8",
            Self::Boolean => "boolean",
        })
    }
}

impl FromStr for ColumnType {
    type Err = UnknownType;

    fn from_str(name: &str) -> Result<Self, UnknownType> {
        [Self::Int64, Self::Float64, Self::Utf8, Self::Boolean]
            .into_iter()
            .find(|known| known.to_string() == name)
            .ok_or_else(|| UnknownType(name.chars().take(32).collect()))
    }
}

/// No column type has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no column type {0:?}; there are int64, float64, utf8 and boolean")]
pub struct UnknownType(String);

/// What a column is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// `queue_id`
    QueueId,
    /// `queue_offset`
    QueueOffset,
    /// `store_time`
    StoreTime,
    /// `born_time`
    BornTime,
    /// `msg_id`
    MessageId,
    /// `tags`
    Tag,
    /// `msg_keys`
    Keys,
    /// `body`
    Body,
    /// `properties`
    Properties,
    /// `sys.message_type`
    MessageType,
    /// `sys.message_group`
    MessageGroup,
    /// `sys.body_size`
    BodySize,
    /// `sys.born_host`
    BornHost,
    /// `sys.delivery_time`
    DeliveryTime,
    /// A property.
    Property(String, ColumnType),
}

impl Source {
    /// The columns of a pull that names none, and their names.
    pub(crate) const NATIVE: [(&'static str, Self); 9] = [
        ("queue_id", Self::QueueId),
        ("queue_offset", Self::QueueOffset),
        ("store_time", Self::StoreTime),
        ("born_time", Self::BornTime),
        ("msg_id", Self::MessageId),
        ("tags", Self::Tag),
        ("msg_keys", Self::Keys),
        ("body", Self::Body),
        ("properties", Self::Properties),
    ];

    /// What may be named after `sys.`.
    const SYSTEM: [(&'static str, Self); 12] = [
        ("queue_id", Self::QueueId),
        ("queue_offset", Self::QueueOffset),
        ("store_time", Self::StoreTime),
        ("born_time", Self::BornTime),
        ("message_id", Self::MessageId),
        ("tag", Self::Tag),
        ("keys", Self::Keys),
        ("message_type", Self::MessageType),
        ("message_group", Self::MessageGroup),
        ("body_size", Self::BodySize),
        ("born_host", Self::BornHost),
        ("delivery_time", Self::DeliveryTime),
    ];

    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::QueueId => DataType::Int32,
            Self::QueueOffset | Self::BodySize => DataType::Int64,
            Self::StoreTime | Self::BornTime | Self::DeliveryTime => {
                DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
            }
            Self::MessageId
            | Self::Tag
            | Self::Keys
            | Self::MessageType
            | Self::MessageGroup
            | Self::BornHost => DataType::Utf8,
            Self::Body => DataType::Binary,
            Self::Properties => DataType::Map(
                Arc::new(Field::new(
                    "entries",
                    DataType::Struct(Fields::from(vec![
                        Field::new("key", DataType::Utf8, false),
                        Field::new("value", DataType::Utf8, true),
                    ])),
                    false,
                )),
                false,
            ),
            Self::Property(_, column_type) => column_type.data_type(),
        }
    }

    fn is_nullable(&self) -> bool {
        !matches!(self, Self::QueueId | Self::QueueOffset | Self::StoreTime)
    }

    /// Whether the column can only be had from the log.
    fn needs_message(&self) -> bool {
        matches!(
            self,
            Self::MessageId
                | Self::Keys
                | Self::Body
                | Self::Properties
                | Self::BornHost
                | Self::DeliveryTime
        )
    }
}

/// A column of a pull or a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableColumn {
    /// Its name.
    pub(crate) name: String,
    /// What it is made of.
    pub(crate) source: Source,
}

impl TableColumn {
    /// Returns the nine columns of a pull that names none.
    pub(crate) fn native() -> Vec<Self> {
        let columns = Source::NATIVE.into_iter();
        columns.map(|(name, source)| Self { name: name.to_owned(), source }).collect()
    }

    /// Returns the columns of a topic's table: those of the system, then its properties.
    pub(crate) fn table(properties: &[(String, ColumnType)]) -> Vec<Self> {
        let mut columns = Self::native();
        columns.retain(|column| column.source != Source::Properties);
        columns.extend(properties.iter().map(|(property, column_type)| Self {
            name: column_name(property),
            source: Source::Property(property.clone(), *column_type),
        }));
        columns
    }

    /// Returns the column that a pull names. `types` fixes types, `inferred` knows the others.
    ///
    /// # Errors
    ///
    /// If no row can have such a column; the error suggests names that are near.
    pub(crate) fn named(
        name: &str,
        types: &BTreeMap<String, ColumnType>,
        inferred: &[(String, ColumnType)],
    ) -> Result<Self, EngineError> {
        let column = |source| Ok(Self { name: name.to_owned(), source });
        let of = |list: &[(&str, Source)], name: &str| {
            list.iter().find(|(known, _)| *known == name).map(|(_, source)| source.clone())
        };
        if let Some(source) = of(&Source::NATIVE, name) {
            return column(source);
        }
        if let Some(system) = name.strip_prefix("sys.") {
            return match of(&Source::SYSTEM, system) {
                Some(source) => column(source),
                None => Err(unknown(name, Source::SYSTEM.iter().map(|(known, _)| format!("sys.{known}")))),
            };
        }
        let property = name.strip_prefix("prop.").unwrap_or(name);
        let known = inferred.iter().find(|(known, _)| known == property).map(|(_, column_type)| *column_type);
        match types.get(property).or_else(|| types.get(name)).copied().or(known) {
            Some(column_type) => column(Source::Property(property.to_owned(), column_type)),
            None => {
                let native = Source::NATIVE.iter().map(|(known, _)| (*known).to_owned());
                Err(unknown(name, native.chain(inferred.iter().map(|(known, _)| column_name(known)))))
            }
        }
    }
}

fn unknown(name: &str, known: impl Iterator<Item = String>) -> EngineError {
    let known: Vec<String> = known.collect();
    let near = near(name, known.iter().map(String::as_str));
    let name: String = name.chars().take(200).collect();
    EngineError::Invalid(match near.as_slice() {
        [] => format!(
            "there is no column {name:?}: it is none of the system, and no retained message has such a property"
        ),
        near => format!("there is no column {name:?}{}", did_you_mean(near)),
    })
}

/// The column of a property: its own name, unless that means something else.
pub(crate) fn column_name(property: &str) -> String {
    let clashes = Source::NATIVE.iter().any(|(name, _)| *name == property)
        || property.starts_with("prop.")
        || property.starts_with("sys.");
    if clashes { format!("prop.{property}") } else { property.to_owned() }
}

/// Columns that are read together.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    columns: Vec<TableColumn>,
    schema: SchemaRef,
}

impl Projection {
    /// Returns the projection to `columns`.
    pub(crate) fn new(columns: Vec<TableColumn>) -> Self {
        let fields: Fields = columns
            .iter()
            .map(|column| Field::new(&column.name, column.source.data_type(), column.source.is_nullable()))
            .collect();
        Self { columns, schema: Arc::new(Schema::new(fields)) }
    }

    /// Returns the schema of the batches.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns whether the log must be read.
    pub(crate) fn needs_messages(&self) -> bool {
        self.columns.iter().any(|column| column.source.needs_message())
    }

    /// Returns what the columns are made of.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.columns.iter().map(|column| &column.source)
    }

    /// Returns the columns of some `rows` of `block`, ascending. `logged` holds those that only the log has.
    ///
    /// # Errors
    ///
    /// If a stored column is damaged.
    pub(crate) fn read(
        &self,
        block: &Block,
        rows: &[u32],
        logged: &Logged,
    ) -> Result<RecordBatch, EngineError> {
        let arrays = self
            .sources()
            .map(|source| match logged.column(source) {
                Some(array) => Ok(Arc::clone(array)),
                None => read_column(source, block, rows),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| EngineError::Internal(error.to_string()))
    }
}

fn read_column(source: &Source, block: &Block, rows: &[u32]) -> Result<ArrayRef, EngineError> {
    let system = |system| block.column(ColumnRef::System(system));
    Ok(match source {
        Source::QueueId => {
            let queue = i32::try_from(block.queue().0).unwrap_or(i32::MAX);
            Arc::new(Int32Array::from_value(queue, rows.len()))
        }
        Source::QueueOffset => {
            let base = block.base().0.cast_signed();
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| base + i64::from(*row))))
        }
        Source::StoreTime => {
            let times = block.store_times()?;
            timestamps(rows.iter().map(|row| Some(times.value(*row as usize))))
        }
        Source::BornTime => match system(System::BornTime)? {
            Some(Column::Int(times)) => timestamps(rows.iter().map(|row| int_at(&times, *row))),
            _ => new_null_array(&source.data_type(), rows.len()),
        },
        Source::BodySize => match system(System::BodySize)? {
            Some(Column::Int(sizes)) => {
                Arc::new(rows.iter().map(|row| int_at(&sizes, *row)).collect::<Int64Array>())
            }
            _ => new_null_array(&source.data_type(), rows.len()),
        },
        Source::Tag => typed(system(System::Tag)?.as_ref(), rows, ColumnType::Utf8),
        Source::MessageType => typed(system(System::MessageType)?.as_ref(), rows, ColumnType::Utf8),
        Source::MessageGroup => typed(system(System::MessageGroup)?.as_ref(), rows, ColumnType::Utf8),
        Source::Property(name, column_type) => {
            typed(block.column(ColumnRef::Property(name))?.as_ref(), rows, *column_type)
        }
        Source::MessageId
        | Source::Keys
        | Source::Body
        | Source::Properties
        | Source::BornHost
        | Source::DeliveryTime => {
            return Err(EngineError::Internal(format!("{source:?} was not read from the log")));
        }
    })
}

fn timestamps(times_ms: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let micros = times_ms.map(|time| time.map(|ms| ms.saturating_mul(1000)));
    Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn int_at(ints: &Int64Array, row: u32) -> Option<i64> {
    let row = row as usize;
    ints.is_valid(row).then(|| ints.value(row))
}

/// The values of `rows`, ascending, in one type; null where a value does not convert.
fn typed(column: Option<&Column>, rows: &[u32], column_type: ColumnType) -> ArrayRef {
    match column {
        None | Some(Column::Hashed { .. }) => new_null_array(&column_type.data_type(), rows.len()),
        Some(Column::Int(ints)) => typed_ints(rows.iter().map(|row| int_at(ints, *row)), column_type),
        Some(Column::Dictionary { codes, values }) => {
            let place = |row: &u32| {
                let row = *row as usize;
                codes.is_valid(row).then(|| usize::from(codes.value(row)))
            };
            typed_values(values, rows.iter().map(place), column_type)
        }
        Some(Column::Sparse { rows: present, codes, values }) => {
            let mut next = 0;
            let place = |row: &u32| {
                let present = present.values();
                next += present[next..].partition_point(|known| u32::from(*known) < *row);
                let found = present.get(next).is_some_and(|known| u32::from(*known) == *row);
                found.then(|| usize::from(codes.value(next)))
            };
            typed_values(values, rows.iter().map(place), column_type)
        }
        Some(Column::Plain { values, present }) => {
            let place = |row: &u32| {
                let row = *row as usize;
                present.as_ref().is_none_or(|present| present.is_valid(row)).then_some(row)
            };
            typed_values(values, rows.iter().map(place), column_type)
        }
    }
}

fn typed_ints(ints: impl Iterator<Item = Option<i64>>, column_type: ColumnType) -> ArrayRef {
    match column_type {
        ColumnType::Int64 => Arc::new(ints.collect::<Int64Array>()),
        ColumnType::Float64 => Arc::new(ints.map(|int| int.map(|int| int as f64)).collect::<Float64Array>()),
        ColumnType::Utf8 => Arc::new(ints.map(|int| int.map(|int| int.to_string())).collect::<StringArray>()),
        ColumnType::Boolean => Arc::new(ints.map(|_| None::<bool>).collect::<BooleanArray>()),
    }
}

fn typed_values(
    values: &Values,
    places: impl Iterator<Item = Option<usize>>,
    column_type: ColumnType,
) -> ArrayRef {
    match column_type {
        ColumnType::Int64 => Arc::new(
            places.map(|place| place.and_then(|place| int_of(values, place))).collect::<Int64Array>(),
        ),
        ColumnType::Float64 => Arc::new(
            places.map(|place| place.and_then(|place| float_of(values, place))).collect::<Float64Array>(),
        ),
        ColumnType::Utf8 => {
            Arc::new(places.map(|place| place.map(|place| values.text.value(place))).collect::<StringArray>())
        }
        ColumnType::Boolean => Arc::new(
            places.map(|place| place.and_then(|place| boolean_of(values, place))).collect::<BooleanArray>(),
        ),
    }
}

fn number_at(values: &Values, place: usize) -> Option<Number> {
    let kind = values.kind(place);
    if kind.has_int() {
        values.ints.as_ref().map(|ints| Number::Int(ints.value(place)))
    } else if kind.has_float() {
        values.floats.as_ref().map(|floats| Number::Float(floats.value(place)))
    } else if kind == Kind::Odd {
        number_of(values.text.value(place))
    } else {
        None
    }
}

fn int_of(values: &Values, place: usize) -> Option<i64> {
    /// 2^63, the first double that is no i64.
    const END: f64 = 9_223_372_036_854_775_808.0;
    match number_at(values, place)? {
        Number::Int(value) => Some(value),
        Number::Float(value) => {
            (value.fract() == 0.0 && (-END..END).contains(&value)).then_some(value as i64)
        }
    }
}

fn float_of(values: &Values, place: usize) -> Option<f64> {
    number_at(values, place).map(|number| match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    })
}

fn boolean_of(values: &Values, place: usize) -> Option<bool> {
    let text = values.text.value(place);
    match values.kind(place) {
        Kind::Bool | Kind::Text if text.eq_ignore_ascii_case("true") => Some(true),
        Kind::Bool | Kind::Text if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The types of the properties of all topics that were asked for, as far as their rows were looked at. They
/// only widen: what readers were told is kept in the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Inference {
    topics: Mutex<HashMap<TopicId, Arc<Mutex<TopicKinds>>>>,
}

/// What values the properties of a topic have had. Only ever grows.
#[derive(Debug, Default)]
struct TopicKinds {
    /// Up to where each queue was looked at.
    seen: HashMap<QueueId, QueueOffset>,
    kinds: BTreeMap<String, KindSet>,
    /// What of `kinds` the catalogue does not have.
    unkept: BTreeMap<String, KindSet>,
    /// How many bytes the names take.
    name_bytes: usize,
}

impl Inference {
    /// Returns the properties of a topic, by name, with their types. Looks at new blocks only.
    ///
    /// # Errors
    ///
    /// If a block cannot be read.
    pub(crate) fn properties(
        &self,
        storage: &Storage,
        topic: TopicId,
        views: &[(QueueId, QueueView)],
    ) -> Result<Vec<(String, ColumnType)>, EngineError> {
        let kept = || TopicKinds::kept(storage.topic(topic).map(|entry| entry.property_kinds.clone()));
        let known =
            Arc::clone(self.topics.lock().entry(topic).or_insert_with(|| Arc::new(Mutex::new(kept()))));
        let mut known = known.lock();
        for (queue, view) in views {
            let from = known.seen.get(queue).copied().unwrap_or_default();
            known.look_at(view, from)?;
            known.seen.insert(*queue, view.range().end.max(from));
        }
        if !known.unkept.is_empty() {
            match storage.add_property_kinds(topic, &known.unkept) {
                Ok(()) => known.unkept.clear(),
                // Readers can do without: only when rows have expired and the broker starts anew, types may
                // be narrower than they were.
                Err(error) => tracing::warn!(%error, %topic, "the types of properties cannot be kept now"),
            }
        }
        Ok(known.kinds.iter().map(|(name, kinds)| (name.clone(), ColumnType::of(*kinds))).collect())
    }

    /// Forgets a topic that was deleted.
    pub(crate) fn forget(&self, topic: TopicId) {
        self.topics.lock().remove(&topic);
    }
}

impl TopicKinds {
    fn kept(kinds: Option<BTreeMap<String, KindSet>>) -> Self {
        let kinds = kinds.unwrap_or_default();
        let name_bytes = kinds.keys().map(String::len).sum();
        Self { kinds, name_bytes, ..Self::default() }
    }

    fn look_at(&mut self, view: &QueueView, from: QueueOffset) -> Result<(), EngineError> {
        let segments = view.segments();
        let first = segments.partition_point(|segment| segment.range().end <= from);
        for segment in &segments[first..] {
            self.look_at_segment(segment, from)?;
        }
        let runs = view.runs();
        let first = runs.partition_point(|run| run.range().end <= from);
        runs[first..].iter().try_for_each(|run| self.look_at_block(run, &mut |_| None))
    }

    fn look_at_segment(&mut self, segment: &Segment, from: QueueOffset) -> Result<(), EngineError> {
        let mut statistics = HashMap::new();
        for number in 0..segment.blocks() {
            if segment.block_range(number).end <= from {
                continue;
            }
            let mut kept = |name: &str| {
                if !statistics.contains_key(name) {
                    let found = segment.statistics().column(ColumnRef::Property(name));
                    statistics.insert(name.to_owned(), found);
                }
                match statistics.get(name) {
                    Some(Presence::Kept(column)) => column.kinds_of(number),
                    _ => None,
                }
            };
            self.look_at_block(&*segment.block(number)?, &mut kept)?;
        }
        Ok(())
    }

    /// Adds the kinds of a block's properties, as `kept` knows them or else from their columns.
    fn look_at_block(
        &mut self,
        block: &Block,
        kept: &mut dyn FnMut(&str) -> Option<KindSet>,
    ) -> Result<(), EngineError> {
        for name in block.property_names() {
            let known = self.kinds.get(name).copied();
            if known.is_some_and(|kinds| ColumnType::of(kinds) == ColumnType::Utf8)
                || (known.is_none() && !self.has_room(name))
            {
                // It widens no further, or has no room.
                continue;
            }
            let kinds = match kept(name) {
                Some(kinds) => kinds,
                None => kinds_of(block.column(ColumnRef::Property(name))?.as_ref()),
            };
            let all = known.unwrap_or_default().union(kinds);
            if known.is_none() {
                self.name_bytes += name.len();
            }
            if known != Some(all) {
                self.kinds.insert(name.to_owned(), all);
                self.unkept.insert(name.to_owned(), all);
            }
        }
        Ok(())
    }

    fn has_room(&self, name: &str) -> bool {
        self.kinds.len() < COLUMNS_MAX && self.name_bytes + name.len() <= PROPERTY_KINDS_BYTES_MAX
    }
}

fn kinds_of(column: Option<&Column>) -> KindSet {
    let bytes = |values: &Values, is_used: &dyn Fn(usize) -> bool| {
        let used = values.kinds.values().iter().enumerate().filter(|(place, _)| is_used(*place));
        used.filter_map(|(_, kind)| Kind::from_byte(*kind)).collect()
    };
    match column {
        None | Some(Column::Hashed { .. }) => KindSet::default(),
        Some(Column::Int(_)) => KindSet::default().with(Kind::Int),
        Some(Column::Dictionary { values, .. } | Column::Sparse { values, .. }) => bytes(values, &|_| true),
        Some(Column::Plain { values, present }) => {
            bytes(values, &|place| present.as_ref().is_none_or(|present| present.is_valid(place)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_the_narrowest_that_holds_all_values() {
        for (kinds, column_type) in [
            (&[Kind::Int][..], ColumnType::Int64),
            (&[Kind::Int, Kind::I32, Kind::I64], ColumnType::Int64),
            (&[Kind::Int, Kind::Float], ColumnType::Float64),
            (&[Kind::F32], ColumnType::Float64),
            (&[Kind::Int, Kind::Odd], ColumnType::Utf8),
            (&[Kind::Int, Kind::Bool], ColumnType::Utf8),
            (&[Kind::Bool], ColumnType::Boolean),
            (&[Kind::Str], ColumnType::Utf8),
            (&[], ColumnType::Utf8),
        ] {
            assert_eq!(ColumnType::of(kinds.iter().copied().collect()), column_type, "{kinds:?}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_suggested() {
        let inferred = [("price".to_owned(), ColumnType::Int64), ("body".to_owned(), ColumnType::Utf8)];
        let types = BTreeMap::from([("new".to_owned(), ColumnType::Float64)]);
        let source = |name: &str| TableColumn::named(name, &types, &inferred).map(|column| column.source);
        assert_eq!(source("body").unwrap(), Source::Body);
        assert_eq!(source("prop.body").unwrap(), Source::Property("body".to_owned(), ColumnType::Utf8));
        assert_eq!(source("price").unwrap(), Source::Property("price".to_owned(), ColumnType::Int64));
        assert_eq!(source("new").unwrap(), Source::Property("new".to_owned(), ColumnType::Float64));
        assert_eq!(source("sys.message_group").unwrap(), Source::MessageGroup);
        for (name, near) in [("prise", "price"), ("queue_od", "queue_id"), ("sys.tags", "sys.tag")] {
            let message = source(name).unwrap_err().to_string();
            assert!(message.contains(near), "{message}");
        }
    }

    #[test]
    fn a_property_with_a_taken_name_gets_another() {
        for (property, column) in [
            ("price", "price"),
            ("body", "prop.body"),
            ("prop.x", "prop.prop.x"),
            ("sys.tag", "prop.sys.tag"),
            ("topic", "topic"),
        ] {
            assert_eq!(column_name(property), column);
        }
    }

    #[test]
    fn what_does_not_convert_is_null() {
        let texts = ["7", "05", "1.5", "2.0", "x", "true"];
        let classified: Vec<_> = texts.iter().map(|text| weir_columns::classify(text)).collect();
        let values = Values {
            kinds: classified.iter().map(|(kind, ..)| *kind as u8).collect::<Vec<_>>().into(),
            text: StringArray::from_iter_values(texts),
            ints: Some(classified.iter().map(|(_, int, _)| *int).collect()),
            floats: Some(classified.iter().map(|(.., float)| *float).collect()),
        };
        let column = Column::Plain { values: Arc::new(values), present: None };
        let rows: Vec<u32> = (0..6).collect();
        let typed = |column_type| typed(Some(&column), &rows, column_type);
        let expected: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(vec![Some(7), Some(5), None, Some(2), None, None])),
            Arc::new(Float64Array::from(vec![Some(7.0), Some(5.0), Some(1.5), Some(2.0), None, None])),
            Arc::new(BooleanArray::from(vec![None, None, None, None, None, Some(true)])),
        ];
        let types = [ColumnType::Int64, ColumnType::Float64, ColumnType::Boolean];
        for (expected, column_type) in expected.iter().zip(types) {
            assert_eq!(&typed(column_type), expected);
        }
    }
}
