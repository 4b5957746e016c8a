//! Telemetry: the stream over which client and broker tell each other their settings.
//!
//! The response begins at once: some clients wait for its headers before they say anything. From then on each
//! settings command is answered with one, which holds what the client must go by.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weir_engine::{
    GroupName, TopicName,
    limits::{BODY_BYTES_MAX, LITE_TOPIC_BYTES_MAX, POLL_MAX, RECEIVE_MESSAGES_MAX},
};
use weir_filter::Selector;

use super::{
    Messaging, backoff,
    caller::Caller,
    convert::{Filter, duration, group_name, positive, topic_name},
    lite,
    proto::{
        ClientType, Code, Metric, Publishing, Settings, Subscription, TelemetryCommand, settings::PubSub,
        telemetry_command::Command,
    },
    refusal::Refusal,
    session::{Registration, Sent, settings_command},
};

/// Commands that wait for a client that does not read; then its own commands wait too.
const COMMANDS_WAITING_MAX: usize = 16;

/// Bytes of the settings of one client. They are kept, and sent back.
const SETTINGS_BYTES_MAX: usize = 256 * 1024;

/// How often an open stream counts as a sign of life.
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Selectors that the log has been told about. Clients bring theirs again at each start, and there are many.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<u64>>);

impl Told {
    /// How many are remembered.
    const MAX: usize = 4096;

    /// Returns whether this selector is new for this topic and group.
    fn is_new(&self, selector: &Selector, topic: &TopicName, group: &GroupName) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one((selector, topic, group));
        let mut told = self.0.lock();
        if told.len() >= Self::MAX {
            told.clear();
        }
        told.insert(hash)
    }
}

/// Says in the log where a selector means something else to RocketMQ, in one line.
fn log_differences(told: &Told, selector: &Selector, topic: &TopicName, group: &GroupName) {
    let dropped =
        selector.dropped().map(|at| format!("the text from byte {at} on is ignored, as RocketMQ does"));
    let differences = selector.differences();
    let reasons: Vec<String> =
        dropped.into_iter().chain(differences.iter().map(ToString::to_string)).collect();
    if !reasons.is_empty() && told.is_new(selector, topic, group) {
        let dialect = selector.dialect().name();
        let reasons = reasons.join("; ");
        tracing::info!(%topic, %group, dialect, selector = selector.text(), reasons, "a selector as RocketMQ reads it differs");
    }
}

/// Opens the stream of a client and answers it until either side has had enough.
pub(super) fn telemetry(
    messaging: &Messaging,
    caller: Caller,
    commands: Streaming<TelemetryCommand>,
) -> ReceiverStream<Sent> {
    let (sender, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
    let entered = caller.check().and_then(|()| messaging.sessions.enter(&caller));
    match entered {
        Ok(session) => {
            let registration = session.register(&sender);
            tokio::spawn(converse(messaging.clone(), caller, registration, commands, sender));
        }
        Err(refusal) => {
            let status = refusal.status(&caller);
            // Clients that only read commands would wait for settings until their start fails by time.
            let end = (status.code() == Code::Unauthorized).then(|| Status::unauthenticated(&status.message));
            let command = TelemetryCommand { status: Some(status), command: None };
            for sent in [Some(Ok(command)), end.map(Err)].into_iter().flatten() {
                sender.try_send(sent).expect("an empty channel has room for two");
            }
        }
    }
    ReceiverStream::new(receiver)
}

async fn converse(
    messaging: Messaging,
    caller: Caller,
    registration: Registration,
    mut commands: Streaming<TelemetryCommand>,
    sender: Sender<Sent>,
) {
    let mut alive = tokio::time::interval(ALIVE_INTERVAL);
    let ended = async {
        tokio::select! {
            () = messaging.broker.closing() => {}
            () = registration.closed() => {}
            () = sender.closed() => {}
        }
    };
    tokio::pin!(ended);
    loop {
        let command = tokio::select! {
            () = &mut ended => return,
            _ = alive.tick() => {
                messaging.broker.client_alive(&caller.client);
                continue;
            }
            command = commands.message() => command,
        };
        let Ok(Some(command)) = command else { return };
        let Some(reply) = reply(&messaging, &caller, &registration, command) else { continue };
        let refused = reply.is_err();
        tokio::select! {
            () = &mut ended => return,
            sent = sender.send(reply) => if sent.is_err() || refused { return },
        }
    }
}

fn reply(
    messaging: &Messaging,
    caller: &Caller,
    registration: &Registration,
    command: TelemetryCommand,
) -> Option<Sent> {
    // The other commands answer questions that this broker does not ask.
    let Some(Command::Settings(settings)) = command.command else { return None };
    Some(match merge(messaging, caller, settings) {
        Ok((settings, request_timeout)) => {
            registration.session().keep(caller, &settings, request_timeout);
            Ok(settings_command(settings))
        }
        Err(refusal) => {
            let status = refusal.status(caller);
            let text = status.message;
            tracing::debug!(client = caller.client, code = status.code, text, "refused settings");
            Err(Status::invalid_argument(format!("process client telemetryCommand failed: {text}")))
        }
    })
}

/// Checks the settings and fills in what the broker decides. Also returns the client's timeout of a call.
fn merge(
    messaging: &Messaging,
    caller: &Caller,
    settings: Settings,
) -> Result<(Settings, Option<Duration>), Refusal> {
    if settings.encoded_len() > SETTINGS_BYTES_MAX {
        let text = format!("the settings are longer than {SETTINGS_BYTES_MAX} bytes");
        return Err(Refusal::new(Code::PayloadTooLarge, text));
    }
    let client_type = settings.client_type();
    let (backoff_policy, pub_sub) = match settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            let publishing = merge_publishing(caller, client_type, publishing)?;
            (backoff::producer(caller), PubSub::Publishing(publishing))
        }
        Some(PubSub::Subscription(subscription)) => {
            let subscription = merge_subscription(messaging, caller, client_type, subscription)?;
            let group = group_name(subscription.group.as_ref(), caller)?;
            let spec = messaging.broker.group_spec(&group).unwrap_or_default();
            (backoff::consumer(caller, &spec), PubSub::Subscription(subscription))
        }
        None => {
            let text = "the settings say neither what is published nor what is subscribed to";
            return Err(Refusal::new(Code::BadRequest, text));
        }
    };
    let request_timeout = settings.request_timeout.as_ref().and_then(positive);
    let merged = Settings {
        backoff_policy: Some(backoff_policy),
        pub_sub: Some(pub_sub),
        metric: Some(Metric { on: false, endpoints: None }),
        client_properties: Default::default(),
        ..settings
    };
    Ok((merged, request_timeout))
}

fn merge_publishing(
    caller: &Caller,
    client_type: ClientType,
    publishing: Publishing,
) -> Result<Publishing, Refusal> {
    if !matches!(client_type, ClientType::Unspecified | ClientType::Producer) {
        return Err(Refusal::new(Code::BadRequest, "the settings of a consumer say what is published"));
    }
    for topic in &publishing.topics {
        topic_name(Some(topic), caller)?;
    }
    Ok(Publishing {
        topics: publishing.topics,
        max_body_size: i32::try_from(BODY_BYTES_MAX).unwrap_or(i32::MAX),
        validate_message_type: true,
    })
}

fn merge_subscription(
    messaging: &Messaging,
    caller: &Caller,
    client_type: ClientType,
    subscription: Subscription,
) -> Result<Subscription, Refusal> {
    if client_type == ClientType::Producer {
        return Err(Refusal::new(Code::BadRequest, "the settings of a producer say what is subscribed to"));
    }
    let group = group_name(subscription.group.as_ref(), caller)?;
    let spec = messaging.broker.group_spec(&group).unwrap_or_default();
    lite::check_kind(&group, &spec, client_type)?;
    for entry in &subscription.subscriptions {
        let topic = topic_name(entry.topic.as_ref(), caller)?;
        lite::check_parent(&group, &spec, &topic)?;
        let filter = Filter::of(entry.expression.as_ref());
        let selector = messaging.selector(filter, &topic, &group).map_err(|refusal| refusal.about(&topic))?;
        log_differences(&messaging.told, &selector, &topic, &group);
    }
    Ok(Subscription {
        group: subscription.group,
        subscriptions: subscription.subscriptions,
        fifo: Some(spec.fifo),
        receive_batch_size: Some(i32::try_from(RECEIVE_MESSAGES_MAX).unwrap_or(i32::MAX)),
        long_polling_timeout: Some(duration(POLL_MAX)),
        lite_subscription_quota: spec.lite.as_ref().map(|lite| i32::try_from(lite.quota).unwrap_or(i32::MAX)),
        max_lite_topic_size: spec.lite.map(|_| i32::try_from(LITE_TOPIC_BYTES_MAX).unwrap_or(i32::MAX)),
    })
}
