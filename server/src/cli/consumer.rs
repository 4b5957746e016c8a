//! A small client of the RocketMQ protocol: one member of a consumer group, as a simple consumer is.

use std::time::Duration;

use prost_types::Duration as WireDuration;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::Failure;
use crate::{
    context::VERSION,
    flight::client::{ClientError, ConnectOptions, endpoint},
    rocketmq::proto::{
        AckMessageEntry, AckMessageRequest, ClientType, Code, FilterExpression, FilterType, HeartbeatRequest,
        Message, MessageQueue, NotifyClientTerminationRequest, ReceiveMessageRequest, Resource, Status,
        messaging_service_client::MessagingServiceClient, receive_message_response::Content,
    },
    status::Exit,
};

/// Bytes of one message that the client takes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a message is ours before it is delivered again.
const LEASE: Duration = Duration::from_secs(60);
/// How long an answer may take, beyond the time that the call itself waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most messages of one receive.
pub(crate) const RECEIVE_MAX: u32 = 32;

/// A member of a consumer group on one topic. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    client: MessagingServiceClient<Channel>,
    client_id: MetadataValue<Ascii>,
    uri: String,
    topic: Resource,
    group: Resource,
    filter: FilterExpression,
}

impl Consumer {
    /// Connects a member of `group` that wants the messages of `topic` for which `selector` is true.
    pub(crate) async fn connect(
        uri: &str,
        options: &ConnectOptions,
        topic: &str,
        group: &str,
        selector: Option<&str>,
    ) -> Result<Self, Failure> {
        let channel = endpoint(uri, options)?.connect().await.map_err(|error| unreachable(uri, &error))?;
        let client_id = format!("weir-cli@{}@{}", std::process::id(), uuid::Uuid::new_v4().simple());
        Ok(Self {
            client: MessagingServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            client_id: client_id.parse().expect("letters, digits, hyphens and @ may stand in a header"),
            uri: uri.to_owned(),
            topic: resource(topic),
            group: resource(group),
            filter: filter(selector),
        })
    }

    /// Returns the next messages, up to `most`; none if nothing came within `wait`.
    pub(crate) async fn receive(&self, most: u32, wait: Duration) -> Result<Vec<Message>, Failure> {
        let message = ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(MessageQueue {
                topic: Some(self.topic.clone()),
                id: -1,
                ..Default::default()
            }),
            filter_expression: Some(self.filter.clone()),
            batch_size: i32::try_from(most.min(RECEIVE_MAX)).expect("32 fits"),
            invisible_duration: Some(wire(LEASE)),
            auto_renew: false,
            long_polling_timeout: Some(wire(wait)),
            attempt_id: None,
        };
        let request = self.request(message, wait + ANSWER_TIMEOUT);
        let answer = self.client.clone().receive_message(request).await;
        let mut stream = answer.map_err(|status| self.failed(&status))?.into_inner();
        let mut messages = Vec::new();
        while let Some(part) = stream.message().await.map_err(|status| self.failed(&status))? {
            match part.content {
                Some(Content::Message(message)) => messages.push(message),
                Some(Content::Status(status)) if status.code() != Code::MessageNotFound => check(&status)?,
                Some(Content::Status(_) | Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok(messages)
    }

    /// Acknowledges messages: the group is done with them.
    pub(crate) async fn acknowledge(&self, entries: Vec<AckMessageEntry>) -> Result<(), Failure> {
        let message =
            AckMessageRequest { group: Some(self.group.clone()), topic: Some(self.topic.clone()), entries };
        let answer = self.client.clone().ack_message(self.request(message, ANSWER_TIMEOUT)).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        for entry in &answer.entries {
            check(entry.status.as_ref().unwrap_or(&Status::default()))
                .map_err(|failure| failure.while_doing("cannot acknowledge"))?;
        }
        check(&answer.status.unwrap_or_default())
    }

    /// Tells the broker that this member is alive.
    pub(crate) async fn heartbeat(&self) -> Result<(), Failure> {
        let message = HeartbeatRequest {
            group: Some(self.group.clone()),
            client_type: ClientType::SimpleConsumer.into(),
        };
        let answer = self.client.clone().heartbeat(self.request(message, ANSWER_TIMEOUT)).await;
        check(&answer.map_err(|status| self.failed(&status))?.into_inner().status.unwrap_or_default())
    }

    /// Tells the broker that this member goes.
    pub(crate) async fn leave(&self) -> Result<(), Failure> {
        let message = NotifyClientTerminationRequest { group: Some(self.group.clone()) };
        let request = self.request(message, ANSWER_TIMEOUT);
        let answer = self.client.clone().notify_client_termination(request).await;
        check(&answer.map_err(|status| self.failed(&status))?.into_inner().status.unwrap_or_default())
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", self.client_id.clone());
        metadata.insert("x-mq-language", MetadataValue::from_static("WEIR"));
        metadata.insert("x-mq-client-version", MetadataValue::from_static(VERSION));
        request
    }

    fn failed(&self, status: &tonic::Status) -> Failure {
        match Exit::of_grpc(status.code()) {
            Exit::Unreachable => unreachable(&self.uri, status),
            _ if std::error::Error::source(status).is_some() => unreachable(&self.uri, status),
            exit => Failure::new(exit, status.message()),
        }
    }
}

/// Returns what is needed to acknowledge `message`.
pub(crate) fn receipt(message: &Message) -> Option<AckMessageEntry> {
    let system = message.system_properties.as_ref()?;
    Some(AckMessageEntry {
        message_id: system.message_id.clone(),
        receipt_handle: system.receipt_handle.clone()?,
        lite_topic: None,
    })
}

fn filter(selector: Option<&str>) -> FilterExpression {
    match selector {
        Some(text) => FilterExpression { r#type: FilterType::Sql.into(), expression: text.to_owned() },
        None => FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() },
    }
}

/// Reads `name` or `namespace/name`.
fn resource(name: &str) -> Resource {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Resource { resource_namespace: namespace.to_owned(), name: name.to_owned() }
}

fn wire(time: Duration) -> WireDuration {
    WireDuration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn check(status: &Status) -> Result<(), Failure> {
    match status.code {
        code if code == i32::from(Code::Ok) => Ok(()),
        code => Err(Failure::new(Exit::of_rocketmq(code), status.message.clone())),
    }
}

fn unreachable(uri: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    ClientError::Unreachable { uri: uri.to_owned(), fault: innermost.to_string() }.into()
}
