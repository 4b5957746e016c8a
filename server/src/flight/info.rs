//! `FlightInfo` and `SchemaResult`: what a client learns before it reads.

use std::sync::Arc;

use arrow_flight::{
    FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, SchemaResult, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use tonic::Status;

/// Returns the info of an answer that `endpoints` serve.
///
/// `rows` is `None` if nobody knows without reading.
pub(crate) fn flight_info(
    schema: &Schema,
    descriptor: FlightDescriptor,
    endpoints: Vec<FlightEndpoint>,
    rows: Option<u64>,
) -> Result<FlightInfo, Status> {
    let rows = rows.and_then(|rows| i64::try_from(rows).ok()).unwrap_or(-1);
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(unencodable)?
        .with_descriptor(descriptor)
        .with_endpoints(endpoints)
        .with_total_records(rows)
        .with_total_bytes(-1);
    Ok(info)
}

/// Returns an endpoint that is read where its info came from.
pub(crate) fn endpoint(ticket: impl Into<Bytes>) -> FlightEndpoint {
    FlightEndpoint::new().with_ticket(Ticket::new(ticket))
}

/// Returns the answer to `GetSchema`.
pub(crate) fn schema_result(schema: &Schema) -> Result<SchemaResult, Status> {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(unencodable)
}

/// Returns `schema` as an encapsulated IPC message.
pub(crate) fn schema_message(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message: IpcMessage = SchemaAsIpc::new(schema, &options).try_into().map_err(unencodable)?;
    Ok(message.0)
}

/// Returns `schema` as text, for tickets.
pub(crate) fn schema_text(schema: &Schema) -> Result<String, Status> {
    Ok(BASE64_STANDARD.encode(schema_message(schema)?))
}

/// Returns the schema of a text that [`schema_text`] made.
pub(crate) fn schema_of_text(text: &str) -> Result<SchemaRef, Status> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| Status::internal(error.to_string()))?;
    let schema = Schema::try_from(IpcMessage(bytes.into())).map_err(unencodable)?;
    Ok(Arc::new(schema))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn unencodable(error: ArrowError) -> Status {
    Status::internal(format!("cannot encode a schema: {error}"))
}
