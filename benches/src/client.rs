//! A client of RocketMQ's gRPC: the calls and the manner of an official producer or simple consumer, for any broker.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures::channel::mpsc;
use tokio::task::JoinHandle;
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use weir_server::rocketmq::proto::{
    AckMessageEntry, AckMessageRequest, ClientType, Code, FilterExpression, FilterType, HeartbeatRequest,
    Message, MessageQueue, Publishing, ReceiveMessageRequest, ReceiveMessageResponse, Resource,
    SendMessageRequest, Settings, Subscription, SubscriptionEntry, TelemetryCommand,
    messaging_service_client::MessagingServiceClient, receive_message_response::Content, settings::PubSub,
    telemetry_command::Command,
};

/// The timeout of a call, as the official clients have it; of a receive, what it takes beyond the wait.
const TIMEOUT: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Most messages of one receive, as brokers have it.
const RECEIVE_MAX: i32 = 32;
/// For how long a receive leases messages.
const LEASE: Duration = Duration::from_secs(60);
/// Bytes of a stream, and of a connection, under way at once.
const WINDOW: u32 = 4 << 20;

/// What became of a call that sends messages.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of them are acknowledged.
    Acknowledged,
    /// The broker refused them, or its answer was late: they may be stored or not.
    Refused(String),
}

/// A client with one connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    calls: MessagingServiceClient<Channel>,
    id: MetadataValue<Ascii>,
    topic: Resource,
    _session: Arc<Session>,
}

/// What goes on beside the calls, until the last clone is dropped.
#[derive(Debug)]
struct Session {
    /// Ends the telemetry stream when dropped.
    _settings: mpsc::Sender<TelemetryCommand>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A simple consumer: a client, its group, and its filter.
#[derive(Clone, Debug)]
pub struct Consumer {
    client: Client,
    group: Resource,
    filter: FilterExpression,
}

impl Client {
    /// Connects a producer, and waits until the broker has answered its settings.
    ///
    /// # Errors
    ///
    /// If the broker is not there, or does not answer.
    pub async fn producer(uri: &str, id: &str, topic: &str) -> Result<Self> {
        let publishing =
            Publishing { topics: vec![resource(topic)], max_body_size: 4 << 20, validate_message_type: true };
        Self::open(uri, id, topic, ClientType::Producer, None, PubSub::Publishing(publishing)).await
    }

    async fn open(
        uri: &str,
        id: &str,
        topic: &str,
        client_type: ClientType,
        group: Option<Resource>,
        pub_sub: PubSub,
    ) -> Result<Self> {
        let endpoint = Endpoint::from_shared(uri.to_owned())?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel = endpoint.connect().await.with_context(|| format!("cannot reach {uri}"))?;
        let mut calls = MessagingServiceClient::new(channel);
        let id: MetadataValue<Ascii> = id.parse()?;
        let settings = Settings {
            client_type: Some(client_type.into()),
            request_timeout: Some(span(TIMEOUT)),
            pub_sub: Some(pub_sub),
            ..Settings::default()
        };
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        let (mut sender, receiver) = mpsc::channel(1);
        sender.try_send(command)?;
        let mut answers = calls.telemetry(named(&id, receiver)).await?.into_inner();
        let answer = tokio::time::timeout(TIMEOUT * 3, answers.message()).await;
        let answer = answer.context("the broker does not answer settings")??;
        let command = answer.context("the broker ended the telemetry stream")?;
        ensure!(matches!(command.command, Some(Command::Settings(_))), "no settings: {command:?}");
        let listens = tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
        let beats = tokio::spawn(heartbeats(calls.clone(), id.clone(), client_type, group));
        let session = Arc::new(Session { _settings: sender, tasks: [listens, beats] });
        Ok(Self { calls, id, topic: resource(topic), _session: session })
    }

    /// Sends messages in one call.
    ///
    /// # Errors
    ///
    /// If the answer is not about these messages.
    pub async fn send(&mut self, messages: Vec<Message>) -> Result<Sent> {
        let single = messages.first().filter(|_| messages.len() == 1);
        let id = single.and_then(|message| Some(message.system_properties.as_ref()?.message_id.clone()));
        let mut request = named(&self.id, SendMessageRequest { messages });
        request.set_timeout(TIMEOUT);
        let response = match self.calls.send_message(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Sent::Refused(status.to_string())),
        };
        let status = response.status.context("a response has a status")?;
        if status.code != i32::from(Code::Ok) {
            return Ok(Sent::Refused(format!("{} {}", status.code, status.message)));
        }
        // Of a batch, RocketMQ answers one entry for all.
        ensure!(!response.entries.is_empty(), "nothing is said of the messages");
        for entry in &response.entries {
            let code = entry.status.as_ref().map(|status| status.code);
            ensure!(code == Some(Code::Ok.into()), "the call was answered with OK, a message with {code:?}");
            ensure!(id.as_ref().is_none_or(|id| *id == entry.message_id), "another message is acknowledged");
        }
        Ok(Sent::Acknowledged)
    }
}

impl Consumer {
    /// Connects a simple consumer, and waits until the broker has answered its settings. Without a selector, it wants
    /// all messages.
    ///
    /// # Errors
    ///
    /// If the broker is not there, or does not answer.
    pub async fn connect(
        uri: &str,
        id: &str,
        group: &str,
        topic: &str,
        selector: Option<&str>,
    ) -> Result<Self> {
        let filter = match selector {
            Some(selector) => {
                FilterExpression { r#type: FilterType::Sql.into(), expression: selector.to_owned() }
            }
            None => FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() },
        };
        let entry = SubscriptionEntry { topic: Some(resource(topic)), expression: Some(filter.clone()) };
        let group = resource(group);
        let subscription = Subscription {
            group: Some(group.clone()),
            subscriptions: vec![entry],
            ..Subscription::default()
        };
        let (kind, pub_sub) = (ClientType::SimpleConsumer, PubSub::Subscription(subscription));
        let client = Client::open(uri, id, topic, kind, Some(group.clone()), pub_sub).await?;
        Ok(Self { client, group, filter })
    }

    /// Receives up to 32 messages; waits so long for the first. None is an answer.
    ///
    /// # Errors
    ///
    /// If the broker refuses.
    pub async fn receive(&mut self, wait: Duration) -> Result<Vec<Message>> {
        let queue =
            MessageQueue { topic: Some(self.client.topic.clone()), id: -1, ..MessageQueue::default() };
        let mut request = named(
            &self.client.id,
            ReceiveMessageRequest {
                group: Some(self.group.clone()),
                message_queue: Some(queue),
                filter_expression: Some(self.filter.clone()),
                batch_size: RECEIVE_MAX,
                invisible_duration: Some(span(LEASE)),
                long_polling_timeout: Some(span(wait)),
                ..ReceiveMessageRequest::default()
            },
        );
        request.set_timeout(wait + TIMEOUT);
        received(self.client.calls.receive_message(request).await?.into_inner()).await
    }

    /// Acknowledges messages in one call.
    ///
    /// # Errors
    ///
    /// If the broker refuses one of them.
    pub async fn acknowledge(&mut self, messages: &[Message]) -> Result<()> {
        let entries = messages.iter().filter_map(|message| {
            let system = message.system_properties.as_ref()?;
            let receipt_handle = system.receipt_handle.clone()?;
            Some(AckMessageEntry {
                message_id: system.message_id.clone(),
                receipt_handle,
                ..AckMessageEntry::default()
            })
        });
        let request = AckMessageRequest {
            group: Some(self.group.clone()),
            topic: Some(self.client.topic.clone()),
            entries: entries.collect(),
        };
        ensure!(request.entries.len() == messages.len(), "a message has no receipt handle");
        let response = self.client.calls.ack_message(named(&self.client.id, request)).await?.into_inner();
        let status = response.status.context("a response has a status")?;
        ensure!(status.code == i32::from(Code::Ok), "{} {}", status.code, status.message);
        Ok(())
    }
}

async fn received(mut stream: Streaming<ReceiveMessageResponse>) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let mut code = None;
    while let Some(part) = stream.message().await? {
        match part.content {
            Some(Content::Status(status)) => code = Some((status.code, status.message)),
            Some(Content::Message(message)) => messages.push(message),
            Some(Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    let (code, text) = code.context("a response has a status")?;
    if code == i32::from(Code::MessageNotFound) {
        ensure!(messages.is_empty(), "no message was found, and some came");
    } else if code != i32::from(Code::Ok) {
        bail!("{code} {text}");
    }
    Ok(messages)
}

async fn heartbeats(
    mut calls: MessagingServiceClient<Channel>,
    id: MetadataValue<Ascii>,
    client_type: ClientType,
    group: Option<Resource>,
) {
    loop {
        // What a broker says to it, its next answers say better.
        let request = HeartbeatRequest { group: group.clone(), client_type: client_type.into() };
        drop(calls.heartbeat(named(&id, request)).await);
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Returns a name without a namespace.
pub fn resource(name: &str) -> Resource {
    Resource { resource_namespace: String::new(), name: name.to_owned() }
}

fn span(duration: Duration) -> prost_types::Duration {
    let nanos = duration.subsec_nanos().cast_signed();
    prost_types::Duration { seconds: duration.as_secs().cast_signed(), nanos }
}

/// Returns a request with the metadata of an official client.
fn named<T>(id: &MetadataValue<Ascii>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-mq-client-id", id.clone());
    for (name, value) in [
        ("x-mq-language", "RUST"),
        ("x-mq-client-version", "5.0.0"),
        ("x-mq-protocol", "v2"),
        ("x-mq-date-time", "20260101T000000Z"),
    ] {
        metadata.insert(name, MetadataValue::from_static(value));
    }
    request
}
