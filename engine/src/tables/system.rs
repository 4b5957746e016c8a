//! A table about the broker: made anew for each query that reads it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{Session, TableProvider},
    common::Result,
    datasource::memory::MemorySourceConfig,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};

use super::{groups, queues, topics};
use crate::broker::Broker;

/// The name of a table, its columns, and what makes its rows.
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    pub(super) rows: fn(&Broker) -> Vec<ArrayRef>,
}

/// The type of a column.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Int,
    Time,
}

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
        }
    }
}

const TABLES: [&Definition; 4] = [&topics::TOPICS, &queues::QUEUES, &groups::GROUPS, &groups::GROUP_QUEUES];

/// A table of the schema `weir`.
pub(crate) struct SystemTable {
    definition: &'static Definition,
    schema: SchemaRef,
    broker: Broker,
}

impl SystemTable {
    /// Returns the names of all tables.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        TABLES.iter().map(|definition| definition.name)
    }

    /// Returns the table called `name`.
    pub(crate) fn named(name: &str, broker: &Broker) -> Option<Self> {
        let definition = TABLES.into_iter().find(|definition| definition.name == name)?;
        let fields: Vec<Field> =
            definition.columns.iter().map(|(name, kind)| Field::new(*name, kind.data_type(), true)).collect();
        Some(Self { definition, schema: Arc::new(Schema::new(fields)), broker: broker.clone() })
    }
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SystemTable").field(&self.definition.name).finish()
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), (self.definition.rows)(&self.broker))?;
        let exec =
            MemorySourceConfig::try_new_exec(&[vec![batch]], Arc::clone(&self.schema), projection.cloned())?;
        Ok(exec)
    }
}

pub(super) fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(values.into_iter().map(Some).collect::<StringArray>())
}

pub(super) fn ints(values: impl IntoIterator<Item = Option<u64>>) -> ArrayRef {
    let signed = values.into_iter().map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    Arc::new(signed.collect::<Int64Array>())
}

pub(super) fn times(values_ms: impl IntoIterator<Item = i64>) -> ArrayRef {
    let micros = values_ms.into_iter().map(|ms| ms.saturating_mul(1000));
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}
