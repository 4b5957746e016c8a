//! A thin client of Weir's Flight service: actions, batch pull, SQL. The command line stands on it.

use std::{fmt, sync::Arc, time::Duration};

use arrow_array::RecordBatch;
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo,
    decode::{DecodedPayload, FlightDataDecoder},
    error::FlightError,
    flight_service_client::FlightServiceClient,
    sql::{Any, CommandStatementQuery},
};
use arrow_schema::{Schema, SchemaRef};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use prost::Message as _;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::command::{BatchMetadata, PullCommand};

/// Bytes of one message that the client takes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// HTTP/2 windows: batches are about 1 MiB.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call failed. Each variant tells the caller what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address makes no sense. Correct it.
    #[error("{0:?} is no address of a broker; write grpc://HOST:PORT or grpc+tls://HOST:PORT")]
    Uri(String),

    /// Nobody answers there, or the connection broke. Start the broker, correct the address, try again.
    #[error("cannot reach {uri}: {fault}")]
    Unreachable {
        /// The address as it was given.
        uri: String,
        /// What the network said.
        fault: String,
    },

    /// The broker refused. The code and the message say why.
    #[error("{message}")]
    Refused {
        /// The class of the fault.
        code: Code,
        /// What is wrong and what to do.
        message: String,
    },

    /// What came back is not what was agreed. The other side is no Weir, or of another version.
    #[error("cannot read the answer of the broker: {0}")]
    Answer(String),
}

/// How to connect, beyond the address.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// Certificates to trust with `grpc+tls://`, as PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Sent as `authorization: Bearer …`, unless there is an account.
    pub token: Option<String>,
    /// Name and secret of an account, sent as `authorization: Basic …`.
    pub account: Option<(String, String)>,
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("account", &self.account.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// A connection to a broker. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    uri: Arc<str>,
    authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
    flight: FlightServiceClient<Channel>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// What a pull or a query returns.
pub struct Answer<T> {
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// How many rows will come, if the broker knows.
    pub rows: Option<u64>,
    /// The endpoints, one after the other.
    pub batches: BoxStream<'static, Result<T, ClientError>>,
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// A batch of a pull, and what the broker says of it.
#[derive(Clone, Debug)]
pub struct PulledBatch {
    /// The rows; possibly none.
    pub batch: RecordBatch,
    /// Where it stands in its queue.
    pub metadata: BatchMetadata,
}

impl Client {
    /// Connects to `grpc://HOST:PORT` or `grpc+tls://HOST:PORT`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Uri`] or [`ClientError::Unreachable`].
    pub async fn connect(uri: &str, options: &ConnectOptions) -> Result<Self, ClientError> {
        let channel = endpoint(uri, options)?.connect().await;
        let channel = channel
            .map_err(|error| ClientError::Unreachable { uri: uri.to_owned(), fault: innermost(&error) })?;
        let authorization = match (&options.account, &options.token) {
            (Some((name, secret)), _) => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{secret}"))))
            }
            (None, Some(token)) => Some(format!("Bearer {token}")),
            (None, None) => None,
        };
        let authorization = authorization.map(MetadataValue::try_from).transpose();
        let mut authorization = authorization
            .map_err(|_| ClientError::Answer("the token holds characters that no header may".into()))?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        Ok(Self::over(uri, channel, authorization))
    }

    fn over(
        uri: &str,
        channel: Channel,
        authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
    ) -> Self {
        let flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { uri: uri.into(), authorization, flight }
    }

    /// Runs an action with a JSON body, and returns its JSON result.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached or refuses.
    pub async fn action(
        &self,
        name: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, ClientError> {
        self.watched_action(name, body, &mut |_| {}).await
    }

    /// As [`action`](Self::action), for one that answers more than once: `watch` is told all results but the last.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached or refuses.
    pub async fn watched_action(
        &self,
        name: &str,
        body: &serde_json::Value,
        watch: &mut (dyn FnMut(&serde_json::Value) + Send),
    ) -> Result<serde_json::Value, ClientError> {
        let action = Action::new(name, body.to_string());
        let answer = self.flight.clone().do_action(self.request(action)).await;
        let mut results = answer.map_err(|status| self.failed(&status))?.into_inner();
        let mut last = serde_json::Value::Null;
        while let Some(result) = results.message().await.map_err(|status| self.failed(&status))? {
            if !last.is_null() {
                watch(&last);
            }
            last = serde_json::from_slice(&result.body).map_err(|e| ClientError::Answer(e.to_string()))?;
        }
        Ok(last)
    }

    /// Plans a pull, and returns its batches queue by queue. `max_rows` of the command holds for all of them
    /// together.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached or refuses.
    pub async fn pull(&self, command: &PullCommand) -> Result<Answer<PulledBatch>, ClientError> {
        let limit = command.max_rows;
        let command = serde_json::to_vec(command).map_err(|e| ClientError::Answer(e.to_string()))?;
        let answer = self.read(FlightDescriptor::new_cmd(command)).await?;
        let batches = answer.batches.try_filter_map(async |(batch, metadata)| {
            // Sent now and then when there is nothing to send.
            if metadata.is_empty() && batch.num_rows() == 0 {
                return Ok(None);
            }
            let metadata =
                serde_json::from_slice(&metadata).map_err(|e| ClientError::Answer(e.to_string()))?;
            Ok(Some(PulledBatch { batch, metadata }))
        });
        let rows = answer.rows.map(|rows| limit.map_or(rows, |limit| rows.min(limit)));
        Ok(Answer { schema: answer.schema, rows, batches: limited(batches, limit).boxed() })
    }

    /// Runs ad-hoc SQL, and returns its rows.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached or refuses.
    pub async fn query(&self, sql: &str) -> Result<Answer<RecordBatch>, ClientError> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let command = Any::pack(&command).map_err(|e| ClientError::Answer(e.to_string()))?;
        let answer = self.read(FlightDescriptor::new_cmd(command.encode_to_vec())).await?;
        let batches = answer.batches.map_ok(|(batch, _)| batch).boxed();
        Ok(Answer { schema: answer.schema, rows: answer.rows, batches })
    }

    async fn read(
        &self,
        descriptor: FlightDescriptor,
    ) -> Result<Answer<(RecordBatch, bytes::Bytes)>, ClientError> {
        let info = self.flight.clone().get_flight_info(self.request(descriptor)).await;
        let info = info.map_err(|status| self.failed(&status))?.into_inner();
        let rows = u64::try_from(info.total_records).ok();
        let endpoints = info.endpoint.clone();
        let schema = schema_of(info)?;
        let client = self.clone();
        let batches = futures::stream::iter(endpoints)
            .then(move |endpoint| {
                let client = client.clone();
                async move { client.endpoint(endpoint).await }
            })
            .try_flatten()
            .boxed();
        Ok(Answer { schema: Arc::new(schema), rows, batches })
    }

    async fn endpoint(
        &self,
        endpoint: FlightEndpoint,
    ) -> Result<impl Stream<Item = Result<(RecordBatch, bytes::Bytes), ClientError>> + use<>, ClientError>
    {
        let Some(ticket) = endpoint.ticket else {
            return Err(ClientError::Answer("an endpoint has no ticket".into()));
        };
        let stream = self.flight.clone().do_get(self.request(ticket)).await;
        let stream = stream.map_err(|status| self.failed(&status))?.into_inner();
        let decoder = FlightDataDecoder::new(stream.map_err(|status| FlightError::Tonic(Box::new(status))));
        let client = self.clone();
        Ok(decoder.filter_map(move |message| {
            let item = match message {
                Ok(message) => match message.payload {
                    DecodedPayload::RecordBatch(batch) => Some(Ok((batch, message.inner.app_metadata))),
                    DecodedPayload::Schema(_) | DecodedPayload::None => None,
                },
                Err(FlightError::Tonic(status)) => Some(Err(client.failed(&status))),
                Err(error) => Some(Err(ClientError::Answer(error.to_string()))),
            };
            async move { item }
        }))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    fn failed(&self, status: &Status) -> ClientError {
        let broken = std::error::Error::source(status).is_some();
        if status.code() == Code::Unavailable || broken {
            let fault =
                std::error::Error::source(status).map_or_else(|| status.message().to_owned(), innermost);
            return ClientError::Unreachable { uri: self.uri.to_string(), fault };
        }
        ClientError::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Cuts `batches` after `limit` rows. What the last one says of its queue then holds for the whole batch.
fn limited<S>(batches: S, limit: Option<u64>) -> impl Stream<Item = Result<PulledBatch, ClientError>> + Send
where
    S: Stream<Item = Result<PulledBatch, ClientError>> + Send,
{
    batches.scan(limit.unwrap_or(u64::MAX), |left, pulled| {
        if *left == 0 {
            return std::future::ready(None);
        }
        let cut = |mut pulled: PulledBatch| {
            let rows = usize::try_from(*left).unwrap_or(usize::MAX).min(pulled.batch.num_rows());
            pulled.batch = pulled.batch.slice(0, rows);
            *left -= rows as u64;
            pulled
        };
        std::future::ready(Some(pulled.map(cut)))
    })
}

pub(crate) fn endpoint(uri: &str, options: &ConnectOptions) -> Result<Endpoint, ClientError> {
    let wrong = || ClientError::Uri(uri.chars().take(200).collect());
    let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
    let (http, tls) = match scheme {
        "grpc" | "grpc+tcp" => ("http", false),
        "grpc+tls" => ("https", true),
        _ => return Err(wrong()),
    };
    let address = rest.strip_suffix('/').unwrap_or(rest);
    if address.parse::<crate::context::Address>().is_err() {
        return Err(wrong());
    }
    let endpoint = Endpoint::from_shared(format!("{http}://{address}")).map_err(|_| wrong())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true);
    if !tls {
        return Ok(endpoint);
    }
    let mut config = ClientTlsConfig::new();
    if let Some(pem) = &options.ca_pem {
        config = config.ca_certificate(Certificate::from_pem(pem));
    }
    endpoint
        .tls_config(config)
        .map_err(|error| ClientError::Unreachable { uri: uri.to_owned(), fault: innermost(&error) })
}

fn schema_of(info: FlightInfo) -> Result<Schema, ClientError> {
    info.try_decode_schema().map_err(|e| ClientError::Answer(e.to_string()))
}

/// Returns the last error of the chain: the one that says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_dialled() {
        for uri in ["grpc://127.0.0.1:8081", "grpc+tls://broker.example:443", "grpc://[::1]:1/"] {
            assert!(endpoint(uri, &ConnectOptions::default()).is_ok(), "{uri}");
        }
        for uri in
            ["", "127.0.0.1:8081", "http://a:1", "grpc://", "grpc://host", "grpc://a:1/x", "grpc://a b:1"]
        {
            assert!(matches!(endpoint(uri, &ConnectOptions::default()), Err(ClientError::Uri(_))), "{uri}");
        }
    }
}
