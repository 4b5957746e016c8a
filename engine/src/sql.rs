//! Ad-hoc SQL over topics and over the broker itself.

pub(crate) mod numbers;
pub(crate) mod result;
pub(crate) mod selectors;
pub(crate) mod text;

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use serde::{Deserialize, Serialize};
use weir_storage::Epoch;

use crate::{broker::Broker, error::EngineError};

/// A statement to be planned.
#[derive(Clone, Debug, Default)]
pub struct SqlRequest {
    /// The statement.
    pub sql: String,
    /// The schema in which bare names are looked up; empty for `public`.
    pub namespace: String,
    /// The values of its parameters by position, as one row.
    pub parameters: Option<RecordBatch>,
}

/// A statement that has been planned.
#[derive(Clone, Debug)]
pub struct SqlPlan {
    /// The columns of its answer.
    pub schema: SchemaRef,
    /// The parameters that it takes.
    pub parameters: SchemaRef,
    /// By this it is run.
    pub ticket: SqlTicket,
}

/// All that is needed to run a statement, now or again later, on the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SqlTicket {
    /// The statement.
    pub sql: String,
    /// The schema in which bare names are looked up.
    pub namespace: String,
    /// The values of its parameters, as an Arrow IPC stream in base64.
    pub parameters: Option<String>,
    /// First offset and end of the queues of each topic, by topic id and queue.
    pub snapshot: BTreeMap<u32, BTreeMap<u32, (u64, u64)>>,
    /// The epoch in which the snapshot was made.
    pub epoch: Epoch,
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A topic.
    Topic,
    /// Another way to see a topic.
    View,
    /// Something about the broker.
    System,
}

/// A table of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDescription {
    /// The schema that holds it.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: TableKind,
}

impl Broker {
    /// Plans a statement and fixes the rows that it sees; runs nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be planned; the error says why.
    pub async fn plan_sql(&self, request: SqlRequest) -> Result<SqlPlan, EngineError> {
        todo!()
    }

    /// Runs a planned statement.
    ///
    /// # Errors
    ///
    /// If its rows are no longer retained, or it cannot run.
    pub async fn run_sql(
        &self,
        ticket: SqlTicket,
    ) -> Result<(SchemaRef, SendableRecordBatchStream), EngineError> {
        todo!()
    }

    /// Returns all tables, without looking into any.
    pub fn catalog(&self) -> Vec<TableDescription> {
        todo!()
    }

    /// Returns the columns of a table.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    pub async fn table_schema(&self, schema: &str, table: &str) -> Result<SchemaRef, EngineError> {
        todo!()
    }
}
