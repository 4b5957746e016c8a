//! The Flight service: every call goes from here to its file.
//!
//! arrow-flight's own service for Flight SQL takes every descriptor and ticket for a message of Flight SQL,
//! so that paths, JSON and SQL text would never arrive. This one looks at the bytes first.

use std::sync::Arc;

use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
    flight_descriptor::DescriptorType,
    flight_service_server::{FlightService, FlightServiceServer},
    sql::Command,
};
use arrow_schema::SchemaRef;
use futures::{StreamExt, stream};
use tonic::{
    Request, Response, Status, Streaming, metadata::MetadataMap, service::interceptor::InterceptedService,
};
use weir_engine::Broker;

use super::{
    BoxedStream, Server, action, checkpoint,
    command::{Compression, PullCommand},
    encode::{self, DataStream},
    handshake, info, metadata, pull,
    query::{self, Bindings},
    session::Sessions,
    ticket::{self, Meaning},
    waiting,
};
use crate::context::ServerContext;

/// Bytes of one message that is taken.
const DECODE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Returns the service for `broker` on the listener that `context` describes.
pub fn service(broker: Broker, context: Arc<ServerContext>) -> Server {
    let gate = handshake::Gate::new(broker.clone());
    let flight = FlightServiceServer::new(WeirFlight::new(broker, context));
    InterceptedService::new(flight.max_decoding_message_size(DECODE_BYTES_MAX), gate)
}

/// Flight and Flight SQL over a broker. Cheap to clone; clones share sessions and bound parameters.
#[derive(Clone, Debug)]
pub struct WeirFlight {
    broker: Broker,
    context: Arc<ServerContext>,
    sessions: Arc<Sessions>,
    bindings: Arc<Bindings>,
}

/// What a descriptor asks for.
enum Asked {
    Pull(PullCommand),
    Text(String),
    Sql(Command),
}

impl WeirFlight {
    /// Asks nobody who it is: [`service`] puts a gate before it.
    fn new(broker: Broker, context: Arc<ServerContext>) -> Self {
        Self { broker, context, sessions: Arc::default(), bindings: Arc::default() }
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(crate) fn context(&self) -> &ServerContext {
        &self.context
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    async fn info(&self, metadata: &MetadataMap, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        let broker = &self.broker;
        match asked(&descriptor)? {
            Asked::Pull(command) => pull::flight_info(broker, &command, descriptor).await,
            Asked::Text(sql) => {
                query::flight_info(broker, self.sessions.namespace(metadata)?, sql, descriptor).await
            }
            Asked::Sql(Command::CommandStatementQuery(command)) => {
                action::refuse_transaction(command.transaction_id.as_ref())?;
                let namespace = self.sessions.namespace(metadata)?;
                query::flight_info(broker, namespace, command.query, descriptor).await
            }
            Asked::Sql(Command::CommandPreparedStatementQuery(command)) => {
                self.bindings.flight_info(broker, &command.prepared_statement_handle, descriptor).await
            }
            Asked::Sql(command) => {
                let schema = metadata::schema(&command).ok_or_else(|| not_offered(&command))?;
                let endpoint = info::endpoint(descriptor.cmd.clone());
                info::flight_info(&schema, descriptor, vec![endpoint], None)
            }
        }
    }

    async fn schema(
        &self,
        metadata: &MetadataMap,
        descriptor: &FlightDescriptor,
    ) -> Result<SchemaRef, Status> {
        let broker = &self.broker;
        match asked(descriptor)? {
            Asked::Pull(command) => pull::schema(broker, &command).await,
            Asked::Text(sql) => query::schema(broker, self.sessions.namespace(metadata)?, sql).await,
            Asked::Sql(Command::CommandStatementQuery(command)) => {
                query::schema(broker, self.sessions.namespace(metadata)?, command.query).await
            }
            Asked::Sql(Command::CommandPreparedStatementQuery(command)) => {
                self.bindings.schema(broker, &command.prepared_statement_handle).await
            }
            Asked::Sql(command) => metadata::schema(&command).ok_or_else(|| not_offered(&command)),
        }
    }

    async fn read(&self, ticket: &[u8]) -> Result<DataStream, Status> {
        let broker = &self.broker;
        match ticket::read(ticket)? {
            Meaning::Signed => pull::read_ticket(broker, ticket),
            Meaning::Pull(command) => pull::read_command(broker, &command).await,
            Meaning::Sql(Command::TicketStatementQuery(ticket)) => query::read_ticket(broker, &ticket).await,
            Meaning::Sql(Command::CommandPreparedStatementQuery(command)) => {
                self.bindings.read(broker, &command.prepared_statement_handle).await
            }
            Meaning::Sql(command) => {
                let answer = metadata::answer(broker, &command).await?;
                let batch = answer.ok_or_else(|| not_offered(&command))?;
                let batches = stream::iter([Ok(batch.clone().into())]);
                encode::stream(broker, batch.schema(), Compression::None, batches)
            }
            Meaning::Text(_) => Err(Status::invalid_argument(
                "the ticket is not of this broker; ask GetFlightInfo for one, or send a JSON command",
            )),
        }
    }

    async fn put(&self, mut stream: Streaming<FlightData>) -> Result<PutResult, Status> {
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let Some(descriptor) = &first.flight_descriptor else {
            return Err(Status::invalid_argument("the first message has no descriptor"));
        };
        match asked(descriptor)? {
            Asked::Sql(Command::CommandPreparedStatementQuery(command)) => {
                let handle = command.prepared_statement_handle;
                self.bindings.bind(&self.broker, &handle, first, &mut stream).await
            }
            Asked::Sql(Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_)) => {
                Err(Status::invalid_argument("SQL is read-only here: topics are written by publishing"))
            }
            Asked::Sql(command) => Err(not_offered(&command)),
            Asked::Pull(_) | Asked::Text(_) => {
                Err(Status::unimplemented("publishing by DoPut is not offered; use the action Produce"))
            }
        }
    }
}

fn asked(descriptor: &FlightDescriptor) -> Result<Asked, Status> {
    if descriptor.r#type == DescriptorType::Path as i32 {
        return pull::command_of_path(&descriptor.path).map(Asked::Pull);
    }
    match ticket::read(&descriptor.cmd)? {
        Meaning::Pull(command) => Ok(Asked::Pull(command)),
        Meaning::Sql(command) => Ok(Asked::Sql(command)),
        Meaning::Text(sql) => Ok(Asked::Text(sql)),
        Meaning::Signed => Err(Status::invalid_argument("a ticket is no command; read it with DoGet")),
    }
}

fn not_offered(command: &Command) -> Status {
    let name = command.type_url().rsplit('.').next().unwrap_or_default();
    let name: String = name.chars().take(64).collect();
    Status::unimplemented(format!("{name} is not offered here"))
}

#[tonic::async_trait]
impl FlightService for WeirFlight {
    type HandshakeStream = BoxedStream<HandshakeResponse>;
    type ListFlightsStream = BoxedStream<FlightInfo>;
    type DoGetStream = DataStream;
    type DoPutStream = BoxedStream<PutResult>;
    type DoExchangeStream = BoxedStream<FlightData>;
    type DoActionStream = BoxedStream<arrow_flight::Result>;
    type ListActionsStream = BoxedStream<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        handshake::handshake(&self.broker, request).await
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        pull::list(&self.broker, &request.into_inner().expression).map(Response::new)
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let (metadata, _, descriptor) = request.into_parts();
        self.info(&metadata, descriptor).await.map(Response::new)
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("PollFlightInfo is not offered; GetFlightInfo answers at once"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let (metadata, _, descriptor) = request.into_parts();
        let schema = self.schema(&metadata, &descriptor).await?;
        info::schema_result(&schema).map(Response::new)
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.read(&request.into_inner().ticket).await.map(Response::new)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let result = self.put(request.into_inner()).await?;
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange is not offered"))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let (metadata, _, Action { r#type, body }) = request.into_parts();
        if r#type == "Checkpoint" {
            return checkpoint::run(&self.broker, &body).map(Response::new);
        }
        if r#type == "CountWaiting" {
            return waiting::run(&self.broker, &body).map(Response::new);
        }
        let outcome = action::run(self, &metadata, &r#type, &body).await?;
        let results = outcome.results.into_iter().map(|body| Ok(arrow_flight::Result { body }));
        let mut response = Response::new(stream::iter(results.collect::<Vec<_>>()).boxed());
        if let Some(cookie) = outcome.cookie {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(stream::iter(action::list().map(Ok).collect::<Vec<_>>()).boxed()))
    }
}
