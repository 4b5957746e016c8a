//! Arrow Flight and Flight SQL over a real connection to a service in this process.

mod actions;
mod metadata;
mod pull;
mod query;
mod refusals;

use std::{path::Path, sync::Arc};

use arrow_array::RecordBatch;
use arrow_flight::{
    FlightData, FlightDescriptor, FlightInfo, Ticket,
    decode::FlightRecordBatchStream,
    error::FlightError,
    flight_service_client::FlightServiceClient,
    sql::{Any, ProstMessageExt, client::FlightSqlServiceClient},
};
use arrow_schema::{Schema, SchemaRef};
use futures::TryStreamExt as _;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, transport::Channel};
use weir_engine::{Broker, BrokerOptions};
use weir_server::{
    context::{Address, ServerContext, TlsMode, VERSION},
    flight::{
        client::{Client, ClientError, ConnectOptions},
        command::BatchMetadata,
        service,
    },
};

/// A broker with its service, which ends when dropped.
struct Weir {
    broker: Broker,
    address: String,
    service: JoinHandle<()>,
    calls: FlightServiceClient<Channel>,
}

impl Weir {
    async fn start(dir: &Path) -> Self {
        let broker = Broker::open(BrokerOptions { retention_disk_percent: 100, ..BrokerOptions::new(dir) })
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let context = Arc::new(ServerContext {
            advertised: Address::from(address),
            tls: TlsMode::Off,
            node_name: "node-1".to_owned(),
            version: VERSION,
        });
        let server = tonic::transport::Server::builder().add_service(service(broker.clone(), context));
        let service = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        let calls = FlightServiceClient::new(channel(&address.to_string()).await)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(80 << 20);
        Self { broker, address: address.to_string(), service, calls }
    }

    /// Starts with the topic `orders`: two queues, ten messages a call, four calls.
    ///
    /// Message `n` has `n`, its `region` (missing for every fifth), a `price` of `n / 2` and a body.
    async fn with_orders(dir: &Path) -> Self {
        let weir = Self::start(dir).await;
        weir.act("CreateTopic", json!({"topic": "orders", "queues": 2})).await.unwrap();
        for call in 0..4 {
            let messages: Vec<Value> = (call * 10..call * 10 + 10).map(order).collect();
            let stored = weir.act("Produce", json!({"topic": "orders", "messages": messages})).await.unwrap();
            assert_eq!(stored["stored"], 10);
        }
        weir
    }

    async fn stop(self) {
        self.broker.close().await.unwrap();
    }

    async fn client(&self) -> Client {
        Client::connect(&format!("grpc://{}", self.address), &ConnectOptions::default()).await.unwrap()
    }

    async fn sql_client(&self) -> FlightSqlServiceClient<Channel> {
        FlightSqlServiceClient::new(channel(&self.address).await)
    }

    async fn act(&self, name: &str, body: Value) -> Result<Value, Code> {
        self.client().await.action(name, &body).await.map_err(|error| match error {
            ClientError::Refused { code, .. } => code,
            error => panic!("{error}"),
        })
    }

    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        Ok(self.calls.clone().get_flight_info(descriptor).await?.into_inner())
    }

    async fn info_of(&self, command: Value) -> Result<FlightInfo, Status> {
        self.info(FlightDescriptor::new_cmd(command.to_string())).await
    }

    async fn info_of_sql<M: ProstMessageExt>(&self, message: &M) -> Result<FlightInfo, Status> {
        self.info(FlightDescriptor::new_cmd(message.as_any().encode_to_vec())).await
    }

    /// Returns every message of a stream as it came.
    async fn messages(&self, ticket: impl Into<bytes::Bytes>) -> Result<Vec<FlightData>, Status> {
        self.calls.clone().do_get(Ticket::new(ticket)).await?.into_inner().try_collect().await
    }

    /// Returns schema and batches of a stream, after checking what every stream must be.
    async fn read(&self, ticket: impl Into<bytes::Bytes>) -> Result<(SchemaRef, Vec<RecordBatch>), Status> {
        let messages = self.messages(ticket).await?;
        for message in &messages {
            assert!(!message.data_header.is_empty(), "a message holds metadata alone");
            assert!(message.data_body.len() <= 2 << 20, "a message has {} bytes", message.data_body.len());
        }
        let schema = Arc::new(Schema::try_from(&messages[0]).unwrap());
        let stream = futures::stream::iter(messages.into_iter().map(Ok::<_, FlightError>));
        let batches: Vec<_> =
            FlightRecordBatchStream::new_from_flight_data(stream).try_collect().await.unwrap();
        for batch in &batches {
            assert_eq!(batch.schema(), schema);
        }
        Ok((schema, batches))
    }

    /// Reads all endpoints, and checks that they have the schema that was announced.
    async fn read_all(&self, info: FlightInfo) -> Result<RecordBatch, Status> {
        let endpoints = info.endpoint.clone();
        let announced = Arc::new(info.try_decode_schema().unwrap());
        let mut all = Vec::new();
        for endpoint in endpoints {
            let (schema, batches) = self.read(endpoint.ticket.unwrap().ticket).await?;
            assert_eq!(schema, announced);
            all.extend(batches);
        }
        Ok(arrow_select::concat::concat_batches(&announced, &all).unwrap())
    }

    /// Runs a statement as Grafana does: plan, one endpoint, read.
    async fn query(&self, sql: &str) -> Result<RecordBatch, Status> {
        let info = self.info(FlightDescriptor::new_cmd(sql.to_owned())).await?;
        assert_eq!(info.endpoint.len(), 1);
        self.read_all(info).await
    }

    /// Runs a question about metadata.
    async fn ask(&self, command: impl ProstMessageExt) -> Result<RecordBatch, Status> {
        let info = self.info_of_sql(&command).await?;
        assert_eq!(info.endpoint.len(), 1);
        self.read_all(info).await
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        self.service.abort();
    }
}

async fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn order(n: usize) -> Value {
    let region = (!n.is_multiple_of(5)).then(|| if n.is_multiple_of(2) { "EU" } else { "US" });
    json!({
        "properties": {"n": n, "region": region, "price": n as f64 / 2.0},
        "body": format!("order {n}"),
        "tag": "new",
        "keys": [format!("k{n}")],
        "message_id": format!("id-{n}"),
    })
}

fn metadata_of(message: &FlightData) -> BatchMetadata {
    serde_json::from_slice(&message.app_metadata).unwrap()
}

/// The numbers of a column of 64-bit integers, sorted.
fn numbers(batch: &RecordBatch, column: &str) -> Vec<i64> {
    use arrow_array::{cast::AsArray as _, types::Int64Type};
    let mut numbers = batch[column].as_primitive::<Int64Type>().values().to_vec();
    numbers.sort_unstable();
    numbers
}

/// The texts of a column, in order.
fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    use arrow_array::cast::AsArray as _;
    batch[column].as_string::<i32>().iter().map(|text| text.unwrap_or("NULL").to_owned()).collect()
}

/// Packs a message that Flight SQL's crate does not know into an `Any`.
fn any(name: &str) -> Vec<u8> {
    let type_url = format!("type.googleapis.com/arrow.flight.protocol.sql.{name}");
    Any { type_url, value: bytes::Bytes::new() }.encode_to_vec()
}
