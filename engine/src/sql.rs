//! Ad-hoc SQL over topics and over the broker itself.
//!
//! ```text
//! text ─ limits ─ parser ─ functions, cost ─ selectors marked ─ planner ─ checks ─ analyzer ─► plan_sql:
//!                                                                        schema, parameters, ticket
//! ticket ─ the same again, on the snapshot that it holds ─ optimizer ─► run_sql: batches
//! ```
//!
//! Queries run on a runtime of their own with few threads, bounded memory and bounded time, so that they
//! cannot hold up messages. Its threads have deep stacks: planners recurse, and text comes from outside.

pub(crate) mod concat;
pub(crate) mod cost;
pub(crate) mod engine;
pub(crate) mod functions;
pub(crate) mod memory;
pub(crate) mod numbers;
pub(crate) mod plan;
pub(crate) mod result;
pub(crate) mod selectors;
pub(crate) mod text;

use std::{collections::BTreeMap, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use datafusion::{
    common::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{ExecutionPlan, execute_stream, stream::RecordBatchStreamAdapter},
    scalar::ScalarValue,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use weir_storage::Epoch;

use self::engine::Prepared;
use crate::{
    broker::Broker,
    error::{EngineError, LimitKind},
    limits::{QUERY_TIME_MAX, SQL_PLAN_TIME_MAX},
    schema::ColumnType,
    tables::{RAW_SUFFIX, SYSTEM, SystemTable, Table, Tables, TopicSnapshot, schema_of},
};

/// Batches that are made before they are asked for.
const AHEAD: usize = 2;

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
    /// The properties of each topic with the types of their columns, by topic id.
    pub columns: BTreeMap<u32, Vec<(String, ColumnType)>>,
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
        let broker = self.clone();
        self.on_query_runtime(async move { broker.plan_here(request).await }).await
    }

    /// Runs a planned statement. The batches have exactly the schema that the plan announced, however
    /// often and whenever the ticket is run.
    ///
    /// Dropping the stream ends the query.
    ///
    /// # Errors
    ///
    /// If its rows are no longer retained, or it cannot run.
    pub async fn run_sql(
        &self,
        ticket: SqlTicket,
    ) -> Result<(SchemaRef, SendableRecordBatchStream), EngineError> {
        let broker = self.clone();
        self.on_query_runtime(async move { broker.run_here(ticket).await }).await
    }

    /// Returns all tables, without looking into any.
    pub fn catalog(&self) -> Vec<TableDescription> {
        let mut tables = Vec::new();
        for topic in self.topics() {
            let schema = schema_of(topic.name.namespace());
            let table = |name: String, kind| TableDescription { schema: schema.to_owned(), name, kind };
            tables.push(table(topic.name.name().to_owned(), TableKind::Topic));
            tables.push(table(format!("{}{RAW_SUFFIX}", topic.name.name()), TableKind::View));
        }
        tables.extend(SystemTable::names().map(|name| TableDescription {
            schema: SYSTEM.to_owned(),
            name: name.to_owned(),
            kind: TableKind::System,
        }));
        tables
    }

    /// Returns the columns of a table.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    pub async fn table_schema(&self, schema: &str, table: &str) -> Result<SchemaRef, EngineError> {
        let (broker, schema, table) = (self.clone(), schema.to_owned(), table.to_owned());
        self.on_query_runtime(async move {
            let tables = broker.tables(BTreeMap::new());
            match tables.table(&schema, &table).await? {
                Some(found) => Ok(found.schema()),
                None => Err(engine::no_table(&tables, &schema, &table)),
            }
        })
        .await
    }

    /// Runs `work` where queries run, and ends it if nobody waits for it any more.
    async fn on_query_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let mut task = Running(self.reading().queries.handle()?.spawn(work));
        match (&mut task.0).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => {
                Err(EngineError::Internal("a query panicked; the log of the broker says where".to_owned()))
            }
            Err(_) => Err(EngineError::Closed),
        }
    }

    fn tables(&self, snapshots: BTreeMap<u32, TopicSnapshot>) -> Arc<Tables> {
        let queries = &self.reading().queries;
        Tables::new(self.clone(), queries.pool().clone(), *queries.limits(), snapshots)
    }

    async fn plan_here(&self, request: SqlRequest) -> Result<SqlPlan, EngineError> {
        let broker = self.clone();
        let work = async move { broker.plan_now(request).await };
        self.reading().queries.planned(SQL_PLAN_TIME_MAX, work).await
    }

    async fn plan_now(&self, request: SqlRequest) -> Result<SqlPlan, EngineError> {
        let parameters = request.parameters.as_ref().map(parameter_values).transpose()?;
        let encoded = request.parameters.as_ref().map(encode_row).transpose()?;
        let tables = self.tables(BTreeMap::new());
        let prepared = self.prepare(&tables, &request.sql, &request.namespace, parameters.as_deref()).await?;
        let mut ticket = SqlTicket {
            sql: request.sql,
            namespace: request.namespace,
            parameters: encoded,
            snapshot: BTreeMap::new(),
            columns: BTreeMap::new(),
            epoch: self.info().epoch,
        };
        for (topic, snapshot) in tables.snapshots() {
            ticket.snapshot.insert(topic, snapshot.queues);
            if let Some(properties) = snapshot.properties {
                ticket.columns.insert(topic, properties);
            }
        }
        Ok(SqlPlan { schema: prepared.schema, parameters: parameter_schema(&prepared.parameters), ticket })
    }

    async fn run_here(
        &self,
        ticket: SqlTicket,
    ) -> Result<(SchemaRef, SendableRecordBatchStream), EngineError> {
        let deadline = Instant::now() + QUERY_TIME_MAX;
        let slot = self.reading().queries.slot().await?;
        let broker = self.clone();
        let work = async move { broker.open_now(ticket).await };
        let Opened { schema, plan, context } =
            self.reading().queries.planned(SQL_PLAN_TIME_MAX, work).await?;
        let batches = execute_stream(plan, context)?;
        Ok((Arc::clone(&schema), driven(batches, schema, slot, deadline)))
    }

    async fn open_now(&self, ticket: SqlTicket) -> Result<Opened, EngineError> {
        let parameters = match &ticket.parameters {
            Some(encoded) => parameter_values(&decode_row(encoded)?)?,
            None => Vec::new(),
        };
        let snapshots = snapshots_of(&ticket);
        let fixed: Vec<u32> = snapshots.keys().copied().collect();
        let tables = self.tables(snapshots);
        let prepared = self.prepare(&tables, &ticket.sql, &ticket.namespace, Some(&parameters)).await?;
        if tables.snapshots().keys().any(|topic| !fixed.contains(topic)) {
            return Err(EngineError::Ticket("names a topic that was deleted and made anew since".to_owned()));
        }
        let Prepared { state, plan, schema, .. } = prepared;
        let plan = state.create_physical_plan(&plan).await?;
        let (plan, context) = memory::counted(plan, TaskContext::from(&state))?;
        Ok(Opened { schema, plan, context: Arc::new(context) })
    }
}

/// A statement that is ready to run.
struct Opened {
    schema: SchemaRef,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

/// A task that ends with its handle.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads `batches` where queries run, and gives them on as announced.
fn driven(
    batches: SendableRecordBatchStream,
    schema: SchemaRef,
    slot: OwnedSemaphorePermit,
    deadline: Instant,
) -> SendableRecordBatchStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let announced = Arc::clone(&schema);
    let task = Running(tokio::spawn(async move {
        let _slot = slot;
        let mut batches = batches.map_err(EngineError::from);
        loop {
            let batch = match timeout_at(deadline, batches.next()).await {
                Ok(None) => return,
                Ok(Some(batch)) => batch.and_then(|batch| result::stamped(&batch, &announced)),
                Err(_) => Err(EngineError::Limit {
                    what: "the time of a query in seconds",
                    actual: QUERY_TIME_MAX.as_secs(),
                    limit: QUERY_TIME_MAX.as_secs(),
                    kind: LimitKind::Other,
                }),
            };
            let is_last = batch.is_err();
            let sent = sender.send(batch.map_err(|error| DataFusionError::External(Box::new(error))));
            if !matches!(timeout_at(deadline, sent).await, Ok(Ok(()))) || is_last {
                return;
            }
        }
    }));
    let received = stream::unfold(Some((receiver, task)), |reading| async move {
        let (mut receiver, mut task) = reading?;
        if let Some(batch) = receiver.recv().await {
            return Some((batch, Some((receiver, task))));
        }
        // Only a task that came to its end has told everything.
        let error = (&mut task.0).await.err()?;
        let error = EngineError::Internal(format!("the query broke off: {error}"));
        Some((Err(DataFusionError::External(Box::new(error))), None))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, received))
}

fn snapshots_of(ticket: &SqlTicket) -> BTreeMap<u32, TopicSnapshot> {
    let snapshot = |(topic, queues): (&u32, &BTreeMap<u32, (u64, u64)>)| {
        let properties = ticket.columns.get(topic).cloned();
        (*topic, TopicSnapshot { queues: queues.clone(), properties, epoch: ticket.epoch })
    };
    ticket.snapshot.iter().map(snapshot).collect()
}

fn parameter_schema(parameters: &[Option<arrow_schema::DataType>]) -> SchemaRef {
    let field = |(index, data_type): (usize, &Option<arrow_schema::DataType>)| {
        // A parameter may stand where any type would do; text is what every client can send.
        let data_type = data_type.as_ref().map_or(arrow_schema::DataType::Utf8, result::plain);
        Field::new(format!("${}", index + 1), data_type, true)
    };
    Arc::new(Schema::new(parameters.iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// The values of the first row.
fn parameter_values(batch: &RecordBatch) -> Result<Vec<ScalarValue>, EngineError> {
    if batch.num_rows() != 1 {
        return Err(EngineError::Sql(format!(
            "parameters are one row of values; {} rows were given",
            batch.num_rows()
        )));
    }
    batch.columns().iter().map(|column| Ok(ScalarValue::try_from_array(column, 0)?)).collect()
}

fn encode_row(batch: &RecordBatch) -> Result<String, EngineError> {
    let failed =
        |error: arrow_schema::ArrowError| EngineError::Sql(format!("parameters cannot be kept: {error}"));
    let mut bytes = Vec::new();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut bytes, &batch.schema()).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(STANDARD.encode(bytes))
}

fn decode_row(encoded: &str) -> Result<RecordBatch, EngineError> {
    let damaged = || EngineError::Ticket("holds parameters that cannot be read".to_owned());
    let bytes = STANDARD.decode(encoded).map_err(|_| damaged())?;
    let mut reader =
        arrow_ipc::reader::StreamReader::try_new(bytes.as_slice(), None).map_err(|_| damaged())?;
    reader.next().and_then(Result::ok).ok_or_else(damaged)
}

impl Table {
    fn schema(&self) -> SchemaRef {
        use datafusion::catalog::TableProvider;
        match self {
            Self::Topic(table) => table.schema(),
            Self::System(table) => table.schema(),
        }
    }
}
