//! Ad-hoc SQL: statements, prepared statements and their parameters.
//!
//! A handle of a prepared statement holds the statement and the values bound to it, so that it serves on
//! any connection and after a restart. Binding answers with a new handle; for clients that keep the old one
//! the newest values are also remembered here, within bounds.

use std::{
    collections::{HashMap, VecDeque},
    io::Cursor,
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_flight::{
    FlightData, FlightDescriptor, FlightInfo, PutResult,
    sql::{DoPutPreparedStatementResult, ProstMessageExt as _, TicketStatementQuery},
};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{ArrowError, SchemaRef};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use futures::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::{Status, Streaming};
use weir_engine::{Broker, EngineError, SqlPlan, SqlRequest, SqlTicket, limits::SQL_BYTES_MAX};

use super::{
    binding,
    command::Compression,
    encode::{self, DataStream},
    info,
    ticket::{self, Purpose, check_size},
};
use crate::status::to_flight;

/// Bytes of all values that are remembered; then the oldest are forgotten.
const BINDINGS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Statements whose values are remembered.
const BINDINGS_MAX: usize = 4096;

/// A prepared statement, as its handle says it.
#[derive(Debug, Serialize, Deserialize)]
struct Statement {
    /// Random: names the statement among those that are remembered.
    id: String,
    sql: String,
    namespace: String,
    /// The bound row as an Arrow IPC stream in base64.
    parameters: Option<Arc<str>>,
}

/// The answer to `CreatePreparedStatement`, with the field that says whether rows come.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreparedStatement {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) prepared_statement_handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub(crate) is_update: Option<bool>,
}

/// Answers `GetFlightInfo` for a statement.
pub(crate) async fn flight_info(
    broker: &Broker,
    namespace: String,
    sql: String,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let plan = plan(broker, SqlRequest { sql, namespace, parameters: None }).await?;
    info_of(broker, &plan, descriptor)
}

/// Returns the schema of the answer to a statement.
pub(crate) async fn schema(broker: &Broker, namespace: String, sql: String) -> Result<SchemaRef, Status> {
    Ok(plan(broker, SqlRequest { sql, namespace, parameters: None }).await?.schema)
}

/// Answers `DoGet` for the ticket of a statement.
pub(crate) async fn read_ticket(
    broker: &Broker,
    ticket: &TicketStatementQuery,
) -> Result<DataStream, Status> {
    run(broker, ticket::open(broker, Purpose::Query, &ticket.statement_handle)?).await
}

async fn plan(broker: &Broker, request: SqlRequest) -> Result<SqlPlan, Status> {
    check_size("the statement", request.sql.len(), SQL_BYTES_MAX)?;
    let bound = request.parameters.is_some();
    let plan = broker.plan_sql(request).await.map_err(to_flight)?;
    if !bound && !plan.parameters.fields().is_empty() {
        let count = plan.parameters.fields().len();
        return Err(Status::invalid_argument(format!(
            "the statement has {count} parameters; prepare it and bind a value to each"
        )));
    }
    Ok(plan)
}

async fn run(broker: &Broker, ticket: SqlTicket) -> Result<DataStream, Status> {
    let (schema, rows) = broker.run_sql(ticket).await.map_err(to_flight)?;
    let batches = rows.map(|batch| batch.map(Into::into).map_err(query_status));
    encode::stream(broker, schema, Compression::None, batches)
}

fn info_of(broker: &Broker, plan: &SqlPlan, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let statement_handle = ticket::seal(broker, Purpose::Query, &plan.ticket)?;
    let ticket = TicketStatementQuery { statement_handle }.as_any().encode_to_vec();
    info::flight_info(&plan.schema, descriptor, vec![info::endpoint(ticket)], None)
}

/// What the run of a query can fail with, as a status.
fn query_status(error: DataFusionError) -> Status {
    match error {
        DataFusionError::ResourcesExhausted(what) => {
            Status::resource_exhausted(format!("the query needs more memory than it may use: {what}"))
        }
        DataFusionError::External(error) => match error.downcast::<EngineError>() {
            Ok(error) => to_flight(*error),
            Err(error) => Status::internal(error.to_string()),
        },
        DataFusionError::ArrowError(error, _) => match *error {
            ArrowError::ExternalError(error) => query_status(DataFusionError::External(error)),
            error => Status::invalid_argument(error.to_string()),
        },
        DataFusionError::Context(_, error) | DataFusionError::Diagnostic(_, error) => query_status(*error),
        DataFusionError::Shared(error) => match Arc::try_unwrap(error) {
            Ok(error) => query_status(error),
            Err(error) => Status::invalid_argument(error.strip_backtrace()),
        },
        error @ (DataFusionError::Internal(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::IoError(_)) => Status::internal(error.strip_backtrace()),
        error => Status::invalid_argument(error.strip_backtrace()),
    }
}

/// The values bound to prepared statements whose clients keep their first handle.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    state: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    parameters: HashMap<String, Arc<str>>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Bindings {
    /// Runs `CreatePreparedStatement`: plans, so that errors of the text appear here.
    pub(crate) async fn create(
        &self,
        broker: &Broker,
        namespace: String,
        sql: String,
    ) -> Result<PreparedStatement, Status> {
        check_size("the statement", sql.len(), SQL_BYTES_MAX)?;
        let request = SqlRequest { sql: sql.clone(), namespace: namespace.clone(), parameters: None };
        let plan = broker.plan_sql(request).await.map_err(to_flight)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let statement = Statement { id, sql, namespace, parameters: None };
        Ok(PreparedStatement {
            prepared_statement_handle: ticket::seal(broker, Purpose::Statement, &statement)?,
            dataset_schema: info::schema_message(&plan.schema)?,
            parameter_schema: info::schema_message(&plan.parameters)?,
            is_update: Some(false),
        })
    }

    /// Runs `ClosePreparedStatement`. A handle that is not known is closed already.
    pub(crate) fn close(&self, broker: &Broker, handle: &[u8]) {
        if let Ok(statement) = ticket::open::<Statement>(broker, Purpose::Statement, handle) {
            self.state.lock().forget(&statement.id);
        }
    }

    /// Answers `GetFlightInfo` for a prepared statement.
    pub(crate) async fn flight_info(
        &self,
        broker: &Broker,
        handle: &[u8],
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Status> {
        let plan = plan(broker, self.request(broker, handle)?).await?;
        info_of(broker, &plan, descriptor)
    }

    /// Returns the schema of the answer to a prepared statement, whether its parameters are bound or not.
    pub(crate) async fn schema(&self, broker: &Broker, handle: &[u8]) -> Result<SchemaRef, Status> {
        let request = self.request(broker, handle)?;
        Ok(broker.plan_sql(request).await.map_err(to_flight)?.schema)
    }

    /// Answers `DoGet` for a client that sends the handle itself as its ticket.
    pub(crate) async fn read(&self, broker: &Broker, handle: &[u8]) -> Result<DataStream, Status> {
        let plan = plan(broker, self.request(broker, handle)?).await?;
        run(broker, plan.ticket).await
    }

    fn request(&self, broker: &Broker, handle: &[u8]) -> Result<SqlRequest, Status> {
        let statement: Statement = ticket::open(broker, Purpose::Statement, handle)?;
        let remembered = || self.state.lock().parameters.get(&statement.id).map(Arc::clone);
        let parameters = statement.parameters.clone().or_else(remembered);
        let parameters = parameters.map(|text| parameters_of_text(&text)).transpose()?;
        Ok(SqlRequest { sql: statement.sql, namespace: statement.namespace, parameters })
    }

    /// Binds the row that a `DoPut` brings, and answers with the handle that holds it.
    pub(crate) async fn bind(
        &self,
        broker: &Broker,
        handle: &[u8],
        first: FlightData,
        rest: &mut Streaming<FlightData>,
    ) -> Result<PutResult, Status> {
        let statement: Statement = ticket::open(broker, Purpose::Statement, handle)?;
        let row = binding::row(first, rest).await?;
        let text: Arc<str> = parameters_text(&row).map_err(|e| Status::internal(e.to_string()))?.into();
        self.state.lock().remember(&statement.id, Arc::clone(&text));
        let statement = Statement { parameters: Some(text), ..statement };
        let handle = ticket::seal(broker, Purpose::Statement, &statement)?;
        let result = DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) };
        Ok(PutResult { app_metadata: result.encode_to_vec().into() })
    }
}

impl Remembered {
    fn remember(&mut self, id: &str, parameters: Arc<str>) {
        self.forget(id);
        self.bytes += parameters.len();
        self.parameters.insert(id.to_owned(), parameters);
        self.order.push_back(id.to_owned());
        while self.order.len() > BINDINGS_MAX || self.bytes > BINDINGS_BYTES_MAX {
            let Some(oldest) = self.order.front().cloned() else {
                return;
            };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(parameters) = self.parameters.remove(id) {
            self.bytes -= parameters.len();
            self.order.retain(|other| other != id);
        }
    }
}

pub(super) fn parameters_text(row: &RecordBatch) -> Result<String, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &row.schema())?;
    writer.write(row)?;
    Ok(BASE64_STANDARD.encode(writer.into_inner()?))
}

pub(super) fn parameters_of_text(text: &str) -> Result<RecordBatch, Status> {
    let damaged = |what: &str| Status::internal(format!("bound parameters cannot be read: {what}"));
    let bytes = BASE64_STANDARD.decode(text).map_err(|e| damaged(&e.to_string()))?;
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|e| damaged(&e.to_string()))?;
    reader.next().ok_or_else(|| damaged("there is no row"))?.map_err(|e| damaged(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_values_are_bounded() {
        let mut remembered = Remembered::default();
        for i in 0..BINDINGS_MAX + 5 {
            remembered.remember(&i.to_string(), "x".into());
        }
        assert_eq!((remembered.parameters.len(), remembered.bytes), (BINDINGS_MAX, BINDINGS_MAX));
        let large: Arc<str> = "x".repeat(BINDINGS_BYTES_MAX / 3).into();
        for i in 0..5 {
            remembered.remember(&format!("large {i}"), Arc::clone(&large));
        }
        assert!(remembered.bytes <= BINDINGS_BYTES_MAX);
        remembered.remember("large 4", "y".into());
        assert_eq!(remembered.parameters["large 4"].as_ref(), "y");
    }
}
