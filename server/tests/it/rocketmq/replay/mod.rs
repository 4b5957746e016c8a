//! What the official C++ and C# clients send, replayed over TLS against the real binary with accounts.
//!
//! These two clients cannot be installed where the tests run. Their calls were read off their sources, in
//! github.com/apache/rocketmq-clients as of summer 2026; comments name the file that a fact comes from. A step asserts what
//! the client itself looks at in an answer, or would fail on, and that what was sent is what is delivered.

mod cpp;
mod csharp;

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use rustix::process::Signal;
use sha1::Sha1;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, ClientTlsConfig},
};
use weir_server::rocketmq::proto::{
    ClientType, DigestType, Encoding, EndTransactionRequest, ForwardMessageToDeadLetterQueueRequest,
    HeartbeatRequest, MessageType, NotifyClientTerminationRequest, Permission, Publishing,
    QueryAssignmentRequest, QueryRouteRequest, RecallMessageRequest, Settings, Subscription,
    SubscriptionEntry, TelemetryCommand, TransactionResolution, Ua, retry_policy::Strategy, settings::PubSub,
    telemetry_command::Command,
};

use super::*;
use crate::{
    accounts::write_accounts,
    cli::{Ran, Served, run, write_certificates},
};

const ACCESS_KEY: &str = "ann";
const SECRET: &str = "ann's secret";
const HOST: &str = "client.example";
const SECOND: Duration = Duration::from_secs(1);
/// How long both clients wait for the answer of a call: `cpp/source/client/include/ClientConfig.h`,
/// `csharp/rocketmq-client-csharp/ClientConfig.cs`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The real binary, which lets in whoever signs as `ann`, on a port that takes TLS.
struct Site {
    dir: TempDir,
    served: Option<Served>,
    address: String,
}

impl Site {
    /// Starts a broker and runs commands against it, a line each.
    fn start(commands: &[&str]) -> Self {
        let dir = directory();
        write_certificates(dir.path());
        write_accounts(dir.path(), &[(ACCESS_KEY, SECRET)]);
        std::fs::write(dir.path().join("ann.secret"), format!("{SECRET}\n")).unwrap();
        let mut site = Self { dir, served: None, address: "127.0.0.1:0".to_owned() };
        site.serve();
        for command in commands {
            site.command(command);
        }
        site
    }

    fn serve(&mut self) {
        let config = self.dir.path().join("weir.toml");
        let listener = format!("[[listener]]\naddress = \"{}\"\ntls = \"both\"\n", self.address);
        let keys = "certificate = \"server.pem\"\nkey = \"server.key\"\n";
        let broker = "accounts = \"accounts.toml\"\nretention-disk-percent = 100\n";
        std::fs::write(&config, [broker, &listener, keys].concat()).unwrap();
        let words = ["--config", config.to_str().unwrap()];
        let served = Served::start_with(&self.dir.path().join("data"), &words);
        self.address = served.address().to_owned();
        self.served = Some(served);
    }

    fn command(&self, line: &str) {
        let ran = self.ran(line);
        assert_eq!(ran.code, 0, "{line}: {}", ran.err);
    }

    fn ran(&self, line: &str) -> Ran {
        let server = format!("grpc://{}", self.address);
        let file = self.dir.path().join("ann.secret");
        let account = ["--server", &server, "--user", ACCESS_KEY, "--password-file", file.to_str().unwrap()];
        let words: Vec<&str> = line.split_whitespace().chain(account).collect();
        run(&words, "")
    }

    /// Waits until there are dead letters of a group, and returns their topic.
    async fn dead_letters(&self, group: &str) -> String {
        let topic = format!("%DLQ%{group}");
        for _ in 0..100 {
            if self.ran(&format!("topic describe {topic}")).code == 0 {
                return topic;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        panic!("there are no dead letters");
    }

    /// Kills the broker.
    fn crash(&mut self) {
        let served = self.served.take().expect("it runs");
        served.signal(Signal::KILL);
    }

    /// Returns the address as both clients split the one that a user gives them.
    fn endpoints(&self) -> Endpoints {
        let (host, port) = self.address.split_once(':').unwrap();
        let address = proto::Address { host: host.to_owned(), port: port.parse().unwrap() };
        Endpoints { scheme: AddressScheme::IPv4.into(), addresses: vec![address] }
    }
}

/// A client at the other end of a connection: what it says of itself with every call.
#[derive(Clone)]
struct Peer {
    calls: MessagingServiceClient<Channel>,
    id: String,
    endpoints: Endpoints,
    headers: fn(&str) -> Vec<(&'static str, String)>,
}

macro_rules! unary {
    ($($call:ident: $request:ident => $response:ident,)*) => {
        impl Peer {
            $(
                /// Makes the call with the client's own timeout.
                async fn $call(&self, message: proto::$request) -> Result<proto::$response, Status> {
                    let request = self.request(message, Some(REQUEST_TIMEOUT));
                    Ok(self.calls.clone().$call(request).await?.into_inner())
                }
            )*
        }
    };
}

unary! {
    query_route: QueryRouteRequest => QueryRouteResponse,
    heartbeat: HeartbeatRequest => HeartbeatResponse,
    send_message: SendMessageRequest => SendMessageResponse,
    query_assignment: QueryAssignmentRequest => QueryAssignmentResponse,
    ack_message: AckMessageRequest => AckMessageResponse,
    change_invisible_duration: ChangeInvisibleDurationRequest => ChangeInvisibleDurationResponse,
    forward_message_to_dead_letter_queue:
        ForwardMessageToDeadLetterQueueRequest => ForwardMessageToDeadLetterQueueResponse,
    end_transaction: EndTransactionRequest => EndTransactionResponse,
    recall_message: RecallMessageRequest => RecallMessageResponse,
    notify_client_termination: NotifyClientTerminationRequest => NotifyClientTerminationResponse,
}

impl Peer {
    async fn connect(site: &Site, id: String, headers: fn(&str) -> Vec<(&'static str, String)>) -> Self {
        // TLS is on in both unless switched off, and both take any certificate: `cpp/source/client/ClientManagerImpl.cpp`,
        // `csharp/rocketmq-client-csharp/RpcClient.cs`. This one looks at it.
        let certificate = std::fs::read(site.dir.path().join("server.pem")).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{}", site.address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let calls = MessagingServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Self { calls, id, endpoints: site.endpoints(), headers }
    }

    fn request<T>(&self, message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in (self.headers)(&self.id) {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// Opens a telemetry stream and sends the settings without waiting for anything, as both clients do.
    async fn telemetry(&self, settings: &Settings, deadline: Option<Duration>) -> Result<Stream, Status> {
        let (commands, receiver) = mpsc::channel(8);
        commands.send(settings_command(settings)).await.unwrap();
        let request = self.request(ReceiverStream::new(receiver), deadline);
        let replies = self.calls.clone().telemetry(request).await?.into_inner();
        Ok(Stream { commands, replies })
    }

    /// Receives, and collects all of the answer as both clients do. Without a status it would count as a fault.
    async fn receive(
        &self,
        message: ReceiveMessageRequest,
        deadline: Duration,
    ) -> Result<(Code, Vec<Message>), Status> {
        let request = self.request(message, Some(deadline));
        let mut stream = self.calls.clone().receive_message(request).await?.into_inner();
        let (mut code, mut messages) = (Code::InternalServerError, Vec::new());
        while let Some(response) = stream.next().await {
            match response?.content {
                Some(Content::Status(status)) => code = status.code(),
                Some(Content::Message(message)) => messages.push(message),
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok((code, messages))
    }

    /// Asks for the route of a topic, and looks at what both clients take from it.
    async fn route(&self, topic: &str) -> Vec<MessageQueue> {
        let request = QueryRouteRequest { topic: resource(topic), endpoints: Some(self.endpoints.clone()) };
        let answer = self.query_route(request).await.unwrap();
        assert_eq!(code(&answer.status), Code::Ok, "{topic}: {:?}", answer.status);
        // An empty list is no route: `updateRouteCache` in `cpp/source/rocketmq/ClientImpl.cpp`.
        assert!(!answer.message_queues.is_empty());
        for queue in &answer.message_queues {
            self.check_queue(queue, topic);
        }
        answer.message_queues
    }

    /// A queue names its topic; its broker is a master, at the address that the session is with already.
    #[track_caller]
    fn check_queue(&self, queue: &MessageQueue, topic: &str) {
        let broker = queue.broker.as_ref().expect("a queue names its broker");
        assert_eq!(queue.topic, resource(topic));
        assert_eq!((broker.id, queue.permission()), (0, Permission::ReadWrite));
        assert_eq!(broker.endpoints.as_ref(), Some(&self.endpoints));
    }

    /// Sends a message as both clients do, one a call, and returns its entry.
    async fn send(&self, message: Message) -> proto::SendResultEntry {
        let id = system(&message).message_id.clone();
        let mut answer = self.send_message(SendMessageRequest { messages: vec![message] }).await.unwrap();
        assert_eq!(code(&answer.status), Code::Ok, "{:?}", answer.status);
        assert_eq!(answer.entries.len(), 1, "both take the first entry as the receipt");
        let entry = answer.entries.remove(0);
        assert_eq!((code(&entry.status), &entry.message_id), (Code::Ok, &id));
        entry
    }
}

/// An open telemetry stream. Both clients cancel it when they shut down, which dropping it does.
struct Stream {
    commands: mpsc::Sender<TelemetryCommand>,
    replies: Streaming<TelemetryCommand>,
}

impl Stream {
    async fn next(&mut self, within: Duration) -> Command {
        let command = timeout(within, self.replies.next()).await.expect("a command comes in time");
        command.expect("the stream is open").unwrap().command.expect("a command says something")
    }

    async fn settings(&mut self, within: Duration) -> Settings {
        match self.next(within).await {
            Command::Settings(settings) => settings,
            other => panic!("expected settings, got {other:?}"),
        }
    }

    /// Waits until the stream ends, as it does with its connection.
    async fn ended(&mut self) {
        let end = timeout(Duration::from_secs(10), self.replies.next()).await.expect("it ends");
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    }
}

fn settings_command(settings: &Settings) -> TelemetryCommand {
    TelemetryCommand { status: None, command: Some(Command::Settings(settings.clone())) }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap())
}

/// The date of a header: `yyyyMMddTHHmmssZ`, of which both clients leave the dashes and colons out.
fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}

/// The signature of a date, in upper-case hex.
fn signature(date: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(date.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Message ids of both clients: a version, the address of a network card, the process, the second, a number; see
/// `cpp/source/base/UniqueIdGenerator.cpp` and `csharp/rocketmq-client-csharp/MessageIdGenerator.cs`.
fn message_id(number: u32) -> String {
    let mut bytes = vec![1, 0x02, 0x42, 0xac, 0x11, 0x00, 0x02, 0x1f, 0x40];
    bytes.extend(186_000_000_u32.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    hex(&bytes)
}

/// The time that it will be after `delay`, in milliseconds as users give it.
fn due(delay: Duration) -> prost_types::Timestamp {
    let ms = (SystemTime::now() + delay).duration_since(UNIX_EPOCH).unwrap().as_millis();
    let nanos = i32::try_from(ms % 1000).unwrap() * 1_000_000;
    prost_types::Timestamp { seconds: i64::try_from(ms / 1000).unwrap(), nanos }
}

/// Looks at a delivered message as both clients do when they read one, and compares it with the one that was sent.
#[track_caller]
fn check_delivered(delivered: &Message, sent: &Message) {
    check_content(delivered, sent);
    let system = system(delivered);
    assert!(!handle(delivered).is_empty() && system.delivery_attempt >= Some(1), "{system:?}");
}

#[track_caller]
fn check_content(delivered: &Message, sent: &Message) {
    let (got, gave) = (system(delivered), system(sent));
    // `assert` in `wrapMessage` of `cpp/source/client/ClientManagerImpl.cpp`: the namespace is the client's own.
    assert_eq!(delivered.topic, sent.topic);
    // `FromProtobuf` in `csharp/rocketmq-client-csharp/MessageView.cs` fails on a message without digest or birth.
    let digest = got.body_digest.as_ref().expect("a message has a digest");
    assert_eq!((digest.r#type(), &digest.checksum), (DigestType::Md5, &hex(&Md5::digest(&delivered.body))));
    let (born, then) = (got.born_timestamp.unwrap(), gave.born_timestamp.unwrap());
    assert_eq!((born.seconds, born.nanos / 1_000_000), (then.seconds, then.nanos / 1_000_000));
    assert!(delivered.body == sent.body, "the body of {} is another one", got.message_id);
    assert_eq!(delivered.user_properties, sent.user_properties);
    assert_eq!((&got.tag, &got.keys, &got.message_id), (&gave.tag, &gave.keys, &gave.message_id));
    assert_eq!((got.message_type(), got.body_encoding()), (gave.message_type(), gave.body_encoding()));
    assert_eq!((&got.message_group, got.priority), (&gave.message_group, gave.priority));
    assert_eq!((&got.born_host, got.delivery_timestamp), (&gave.born_host, gave.delivery_timestamp));
    assert_eq!(got.trace_context, gave.trace_context);
}

/// A subscription to one topic, as it stands in settings.
fn entry(topic: &str, expression: Option<FilterExpression>) -> SubscriptionEntry {
    SubscriptionEntry { topic: resource(topic), expression }
}

fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| system(message).message_id.as_str()).collect()
}

/// An acknowledgement of one message, which is what both clients send.
fn ack_of(group: &str, topic: &str, message: &Message) -> AckMessageRequest {
    AckMessageRequest {
        group: resource(group),
        topic: resource(topic),
        entries: vec![AckMessageEntry {
            message_id: system(message).message_id.clone(),
            receipt_handle: handle(message).to_owned(),
            lite_topic: None,
        }],
    }
}

/// A lease that ends after `after` from now on, as both clients write it.
fn change_of(group: &str, topic: &str, message: &Message, after: Duration) -> ChangeInvisibleDurationRequest {
    ChangeInvisibleDurationRequest {
        group: resource(group),
        topic: resource(topic),
        receipt_handle: handle(message).to_owned(),
        invisible_duration: wire(after),
        message_id: system(message).message_id.clone(),
        ..Default::default()
    }
}

/// How long a client waits after `attempt` by the policy that it was told; a policy without a strategy, or with an empty
/// list, makes both fail.
#[track_caller]
fn delay(told: &Settings, attempt: i32) -> Duration {
    let of = |wire: &prost_types::Duration| Duration::try_from(*wire).unwrap();
    match told.backoff_policy.as_ref().and_then(|policy| policy.strategy.as_ref()) {
        Some(Strategy::CustomizedBackoff(list)) => {
            let last = list.next.len().checked_sub(1).expect("a list of waits is not empty");
            of(&list.next[usize::try_from(attempt - 1).unwrap().min(last)])
        }
        Some(Strategy::ExponentialBackoff(policy)) => {
            let factor = f64::from(policy.multiplier).powi(attempt - 1);
            let (first, max) = (policy.initial.as_ref().unwrap(), policy.max.as_ref().unwrap());
            of(first).mul_f64(factor).min(of(max))
        }
        None => panic!("a policy without a strategy"),
    }
}

/// The name of a receive, under which it is made again if it fails.
fn attempt() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn subscription(told: &Settings) -> &Subscription {
    match told.pub_sub.as_ref() {
        Some(PubSub::Subscription(subscription)) => subscription,
        other => panic!("expected what is subscribed to, got {other:?}"),
    }
}

fn publishing(told: &Settings) -> &Publishing {
    match told.pub_sub.as_ref() {
        Some(PubSub::Publishing(publishing)) => publishing,
        other => panic!("expected what is published, got {other:?}"),
    }
}
