//! The RocketMQ protocol over a real connection to a service in this process.

mod acceptance;
mod bad_input;
mod delivery;
mod fuzz;
mod limits;
mod lite;
mod pending;
mod pull;
mod refusals;
mod replay;
mod settings;
mod types;
mod wire;

use std::{path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, transport::Channel};
use weir_engine::{Broker, BrokerOptions, TopicName, TopicSpec};
use weir_server::{
    context::{Address, ServerContext, TlsMode, VERSION},
    rocketmq::{
        proto::{
            self, AckMessageEntry, AckMessageRequest, AckMessageResponse, AddressScheme,
            ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Code, Endpoints,
            FilterExpression, FilterType, Message, MessageQueue, ReceiveMessageRequest, Resource,
            SendMessageRequest, SendMessageResponse, SystemProperties,
            messaging_service_client::MessagingServiceClient, receive_message_response::Content,
        },
        service,
    },
};

const GROUP: &str = "readers";
const TOPIC: &str = "orders";

/// A broker with its service, which ends when dropped.
struct Weir {
    broker: Broker,
    address: String,
    service: JoinHandle<()>,
}

impl Weir {
    /// Starts over `dir`, with a topic of four queues.
    async fn start(dir: &Path) -> Self {
        Self::start_with(BrokerOptions { retention_disk_percent: 100, ..BrokerOptions::new(dir) }).await
    }

    async fn start_with(options: BrokerOptions) -> Self {
        let broker = Broker::open(options).await.unwrap();
        let topic: TopicName = TOPIC.parse().unwrap();
        if broker.topic(&topic).is_err() {
            broker.create_topic(&topic, TopicSpec::default()).await.unwrap();
        }
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
        Self { broker, address: address.to_string(), service }
    }

    /// Stops broker and service, so that the directory can be opened again.
    async fn stop(self) {
        self.broker.close().await.unwrap();
    }

    async fn client(&self) -> Client {
        self.client_named("a-client@1", "JAVA", "5.0.8").await
    }

    async fn client_named(&self, id: &'static str, language: &'static str, version: &'static str) -> Client {
        let channel =
            Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        let calls = MessagingServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Client { calls, id, language, version }
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        self.service.abort();
    }
}

/// Calls as a client would, with its headers.
#[derive(Clone)]
struct Client {
    calls: MessagingServiceClient<Channel>,
    id: &'static str,
    language: &'static str,
    version: &'static str,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        headers.insert("x-mq-language", self.language.parse().unwrap());
        headers.insert("x-mq-client-version", self.version.parse().unwrap());
        if !self.id.is_empty() {
            headers.insert("x-mq-client-id", self.id.parse().unwrap());
        }
        request
    }

    async fn send(&self, messages: Vec<Message>) -> SendMessageResponse {
        let request = self.request(SendMessageRequest { messages });
        self.calls.clone().send_message(request).await.unwrap().into_inner()
    }

    /// Sends messages whose bodies are `bodies`, one a call.
    async fn send_all(&self, bodies: &[&str]) {
        for body in bodies {
            assert_eq!(code(&self.send(vec![message(body)]).await.status), Code::Ok);
        }
    }

    async fn receive(&self, request: ReceiveMessageRequest) -> Received {
        self.receive_within(request, Duration::from_secs(10)).await
    }

    async fn receive_within(&self, request: ReceiveMessageRequest, timeout: Duration) -> Received {
        let mut request = self.request(request);
        request.set_timeout(timeout);
        let mut stream = self.calls.clone().receive_message(request).await.unwrap().into_inner();
        let mut received = Received::default();
        while let Some(response) = stream.next().await {
            received.parts.push(response.unwrap().content.expect("no response is empty"));
        }
        received
    }

    /// Receives until `count` messages came, or none for half a second.
    async fn receive_all(&self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let received = self.receive(receive(|_| {})).await.messages();
            if received.is_empty() {
                break;
            }
            messages.extend(received);
        }
        messages
    }

    async fn ack(&self, handles: &[&str]) -> AckMessageResponse {
        let entry = |handle: &&str| AckMessageEntry {
            message_id: "id".to_owned(),
            receipt_handle: (*handle).to_owned(),
            lite_topic: None,
        };
        let request = AckMessageRequest {
            group: resource(GROUP),
            topic: resource(TOPIC),
            entries: handles.iter().map(entry).collect(),
        };
        self.calls.clone().ack_message(self.request(request)).await.unwrap().into_inner()
    }

    async fn change(&self, handle: &str, after: Duration) -> ChangeInvisibleDurationResponse {
        let request = ChangeInvisibleDurationRequest {
            group: resource(GROUP),
            topic: resource(TOPIC),
            receipt_handle: handle.to_owned(),
            invisible_duration: Some(after.try_into().unwrap()),
            message_id: "id".to_owned(),
            ..Default::default()
        };
        self.calls.clone().change_invisible_duration(self.request(request)).await.unwrap().into_inner()
    }
}

/// The response to a receive, in order.
#[derive(Default, Debug)]
struct Received {
    parts: Vec<Content>,
}

impl Received {
    /// Returns the code, having checked that the parts come in the order that clients expect.
    #[track_caller]
    fn code(&self) -> Code {
        let (Some(Content::Status(status)), Some(Content::DeliveryTimestamp(time))) =
            (self.parts.first(), self.parts.last())
        else {
            panic!("a response begins with a status and ends with a time: {:?}", self.parts);
        };
        assert!(time.seconds > 0);
        let messages = &self.parts[1..self.parts.len() - 1];
        assert!(messages.iter().all(|part| matches!(part, Content::Message(_))));
        assert_eq!(status.code() == Code::Ok, !messages.is_empty(), "{status:?}");
        status.code()
    }

    #[track_caller]
    fn messages(self) -> Vec<Message> {
        self.code();
        let message = |part| if let Content::Message(message) = part { Some(message) } else { None };
        self.parts.into_iter().filter_map(message).collect()
    }
}

fn code(status: &Option<proto::Status>) -> Code {
    status.as_ref().expect("every answer has a status").code()
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn endpoints() -> Endpoints {
    let address = proto::Address { host: "broker.example".to_owned(), port: 18081 };
    Endpoints { scheme: AddressScheme::DomainName.into(), addresses: vec![address] }
}

/// A message whose body, id and property `name` are `text`.
fn message(text: &str) -> Message {
    Message {
        topic: resource(TOPIC),
        user_properties: [("name".to_owned(), text.to_owned())].into(),
        system_properties: Some(SystemProperties {
            message_id: text.to_owned(),
            message_type: proto::MessageType::Normal.into(),
            body_encoding: proto::Encoding::Identity.into(),
            ..Default::default()
        }),
        body: text.as_bytes().to_vec().into(),
    }
}

/// A receive that waits for half a second, changed by `change`.
fn receive(change: impl FnOnce(&mut ReceiveMessageRequest)) -> ReceiveMessageRequest {
    let mut request = ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(MessageQueue { topic: resource(TOPIC), id: 0, ..Default::default() }),
        filter_expression: Some(filter(FilterType::Tag, "*")),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        auto_renew: false,
        long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 }),
        attempt_id: None,
    };
    change(&mut request);
    request
}

fn filter(filter_type: FilterType, expression: &str) -> FilterExpression {
    FilterExpression { r#type: filter_type.into(), expression: expression.to_owned() }
}

fn system(message: &Message) -> &SystemProperties {
    message.system_properties.as_ref().expect("a delivered message has system properties")
}

fn handle(message: &Message) -> &str {
    system(message).receipt_handle.as_deref().expect("a delivered message has a handle")
}

/// The bodies of messages, sorted.
fn bodies(messages: &[Message]) -> Vec<String> {
    let mut bodies: Vec<_> =
        messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect();
    bodies.sort();
    bodies
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}
