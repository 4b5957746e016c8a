//! `DoAction` and `ListActions`.

use arrow_flight::{
    ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, RenewFlightEndpointRequest,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
        ActionCreatePreparedStatementResult, Any, Command, ProstMessageExt,
    },
};
use bytes::Bytes;
use prost::Message;
use tonic::{
    Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};
use weir_engine::SqlTicket;

use super::{
    admin,
    service::WeirFlight,
    ticket::{self, COMMAND_BYTES_MAX, Meaning, PullTicket, Purpose, check_size},
};

/// The actions of the protocol itself.
const ACTIONS: [(&str, &str); 7] = [
    ("CreatePreparedStatement", "Plans a statement. Flight SQL."),
    ("ClosePreparedStatement", "Forgets a statement. Flight SQL."),
    ("CancelFlightInfo", "Answers that reading is cancelled by ending the stream."),
    (
        "RenewFlightEndpoint",
        "Answers with the endpoint: tickets do not expire while their rows are retained.",
    ),
    ("SetSessionOptions", "Sets `catalog` and `schema` of the session."),
    ("GetSessionOptions", "Tells `catalog` and `schema` of the session."),
    ("CloseSession", "Forgets the session."),
];

/// What an action answers: bodies of results, and perhaps a cookie.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) results: Vec<Bytes>,
    pub(crate) cookie: Option<MetadataValue<Ascii>>,
}

impl Outcome {
    fn of(message: &impl Message) -> Self {
        Self { results: vec![message.encode_to_vec().into()], cookie: None }
    }
}

/// Returns all actions.
pub(crate) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS.iter().chain(&admin::ACTIONS).map(|(name, description)| ActionType {
        r#type: (*name).to_owned(),
        description: (*description).to_owned(),
    })
}

/// Runs the action `name`.
pub(crate) async fn run(
    flight: &WeirFlight,
    metadata: &MetadataMap,
    name: &str,
    body: &[u8],
) -> Result<Outcome, Status> {
    if let Some(result) = admin::run(flight.broker(), flight.context(), name, body).await {
        let json = serde_json::to_vec(&result?).map_err(|error| Status::internal(error.to_string()))?;
        return Ok(Outcome { results: vec![json.into()], cookie: None });
    }
    check_size("the body of the action", body.len(), COMMAND_BYTES_MAX)?;
    match name {
        "CreatePreparedStatement" => create_statement(flight, metadata, body).await,
        "ClosePreparedStatement" => {
            let request: ActionClosePreparedStatementRequest = unpack(body)?;
            flight.bindings().close(flight.broker(), &request.prepared_statement_handle);
            Ok(Outcome::default())
        }
        "CancelFlightInfo" => {
            let _: CancelFlightInfoRequest = decode(body)?;
            Ok(Outcome::of(&CancelFlightInfoResult::new(CancelStatus::NotCancellable)))
        }
        "RenewFlightEndpoint" => renew(flight, body),
        "SetSessionOptions" => {
            let (result, cookie) = flight.sessions().set(metadata, body)?;
            Ok(Outcome { cookie, ..Outcome::of(&result) })
        }
        "GetSessionOptions" => Ok(Outcome::of(&flight.sessions().get(metadata)?)),
        "CloseSession" => Ok(Outcome::of(&flight.sessions().close(metadata)?)),
        _ => Err(unknown(name)),
    }
}

async fn create_statement(
    flight: &WeirFlight,
    metadata: &MetadataMap,
    body: &[u8],
) -> Result<Outcome, Status> {
    let request: ActionCreatePreparedStatementRequest = unpack(body)?;
    refuse_transaction(request.transaction_id.as_ref())?;
    let namespace = flight.sessions().namespace(metadata)?;
    let statement = flight.bindings().create(flight.broker(), namespace, request.query).await?;
    let type_url = ActionCreatePreparedStatementResult::type_url().to_owned();
    Ok(Outcome::of(&Any { type_url, value: statement.encode_to_vec().into() }))
}

fn renew(flight: &WeirFlight, body: &[u8]) -> Result<Outcome, Status> {
    let endpoint = decode::<RenewFlightEndpointRequest>(body)?.endpoint;
    let endpoint = endpoint.ok_or_else(|| Status::invalid_argument("there is no endpoint to renew"))?;
    let ticket = endpoint.ticket.as_ref().map(|ticket| ticket.ticket.as_ref()).unwrap_or_default();
    match ticket::read(ticket)? {
        Meaning::Signed => ticket::open::<PullTicket>(flight.broker(), Purpose::Pull, ticket).map(|_| ())?,
        Meaning::Sql(Command::TicketStatementQuery(query)) => {
            ticket::open::<SqlTicket>(flight.broker(), Purpose::Query, &query.statement_handle)
                .map(|_| ())?;
        }
        _ => {}
    }
    Ok(Outcome::of(&endpoint))
}

/// Refuses a statement inside a transaction: there are none, and `GetSqlInfo` says so.
pub(crate) fn refuse_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => {
            Err(Status::invalid_argument("there are no transactions; connect with autocommit"))
        }
        _ => Ok(()),
    }
}

fn unknown(name: &str) -> Status {
    let name: String = name.chars().take(64).collect();
    Status::unimplemented(format!("there is no action {name:?}; ListActions names all"))
}

/// Reads the body of an action of Flight SQL, which is packed into an `Any`.
fn unpack<M: ProstMessageExt>(body: &[u8]) -> Result<M, Status> {
    let any: Any = decode(body)?;
    match any.unpack() {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::invalid_argument(format!("the body of the action is no {}", M::type_url()))),
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    M::decode(body)
        .map_err(|error| Status::invalid_argument(format!("the body of the action cannot be read: {error}")))
}
