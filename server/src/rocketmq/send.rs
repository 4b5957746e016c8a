//! SendMessage: messages of one topic, stored together.

use weir_columns::Value;
use weir_engine::{
    BodyEncoding, Message, MessageType, Sent, TopicName,
    limits::{
        BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BODY_BYTES_MAX, DELAY_MAX, LITE_TOPIC_BYTES_MAX,
        MESSAGE_GROUP_BYTES_MAX, MESSAGE_ID_BYTES_MAX, PROPERTIES_BYTES_MAX, PROPERTIES_MAX,
        TRANSACTION_RECOVERY_MAX,
    },
};

use super::{
    Messaging,
    caller::Caller,
    convert::{self, topic_name},
    proto::{
        self, Code, DigestType, Encoding, SendMessageRequest, SendMessageResponse, SendResultEntry,
        SystemProperties,
    },
    refusal::Refusal,
};

/// Names that RocketMQ keeps for itself. A user property must not have them.
const RESERVED_PROPERTIES: [&str; 51] = [
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "MSG_REGION",
    "TRACE_ON",
    "UNIQ_KEY",
    "EXTEND_UNIQ_INFO",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "DUP_INFO",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
];

/// Stores the messages of a request: all of them, or none and the first thing that is wrong.
pub(super) async fn send_message(
    messaging: &Messaging,
    caller: &Caller,
    request: SendMessageRequest,
) -> Result<SendMessageResponse, Refusal> {
    caller.check()?;
    let topic = check_request(caller, &request)?;
    let now_ms = messaging.broker.clock().wall_ms();
    for message in &request.messages {
        check_message(message, now_ms)?;
    }
    for message in &request.messages {
        check_type(&topic, message)?;
    }
    let messages: Vec<_> = request.messages.into_iter().map(|message| stored(caller, message)).collect();
    let ids: Vec<_> = messages.iter().map(|message| message.message_id.clone()).collect();
    let sent = messaging.broker.send(&topic, messages).await?;
    if sent.iter().any(|sent| matches!(sent, Sent::Half { .. }))
        && let Ok(session) = messaging.sessions.enter(caller)
    {
        // It can be asked what becomes of it, if its settings do not name the topic.
        session.sends_to(&topic);
    }
    let ok = || Some(caller.status(Code::Ok, ""));
    let entry = |(message_id, sent): (String, Sent)| {
        let entry = SendResultEntry { status: ok(), message_id, ..SendResultEntry::default() };
        match sent {
            Sent::Stored(published) => {
                SendResultEntry { offset: i64::try_from(published.offset.0).unwrap_or(i64::MAX), ..entry }
            }
            Sent::Delayed { recall_handle, .. } => SendResultEntry { recall_handle, ..entry },
            Sent::Half { transaction_id, .. } => SendResultEntry { transaction_id, ..entry },
        }
    };
    let entries = ids.into_iter().zip(sent).map(entry).collect();
    Ok(SendMessageResponse { status: ok(), entries })
}

fn check_request(caller: &Caller, request: &SendMessageRequest) -> Result<TopicName, Refusal> {
    let Some(first) = request.messages.first() else {
        return Err(Refusal::new(Code::MessageCorrupted, "the request holds no messages"));
    };
    let topic = topic_name(first.topic.as_ref(), caller)?;
    if request.messages.iter().any(|message| message.topic != first.topic) {
        return Err(Refusal::new(
            Code::MessageCorrupted,
            "the messages of the request are of several topics",
        ));
    }
    if request.messages.len() > BATCH_MESSAGES_MAX {
        let text = format!("the request holds more than {BATCH_MESSAGES_MAX} messages");
        return Err(Refusal::new(Code::PayloadTooLarge, text));
    }
    let bytes: usize = request.messages.iter().map(|message| message.body.len()).sum();
    if request.messages.len() > 1 && bytes > BATCH_BYTES_MAX {
        let text = format!("the bodies of the request have {bytes} bytes; the limit is {BATCH_BYTES_MAX}");
        return Err(Refusal::new(Code::PayloadTooLarge, text));
    }
    Ok(topic)
}

/// Checks what can be told from a message alone, in the order in which RocketMQ does.
fn check_message(message: &proto::Message, now_ms: i64) -> Result<(), Refusal> {
    let absent = SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&absent);
    check_body(message)?;
    check_properties(message)?;
    check_tag_and_keys(system)?;
    check_properties_bytes(message, system)?;
    check_message_id(system)?;
    check_times(system, now_ms)?;
    check_message_group(system)?;
    check_lite_topic(system)?;
    if system.priority.is_some_and(|priority| priority < 0) {
        return Err(Refusal::new(Code::BadRequest, "the priority is negative"));
    }
    check_digest(message, system)
}

fn check_body(message: &proto::Message) -> Result<(), Refusal> {
    match message.body.len() {
        0 => Err(Refusal::new(Code::MessageBodyEmpty, "the body is empty")),
        1..=BODY_BYTES_MAX => Ok(()),
        bytes => {
            let text = format!("the body has {bytes} bytes; the limit is {BODY_BYTES_MAX}");
            Err(Refusal::new(Code::MessageBodyTooLarge, text))
        }
    }
}

fn check_properties(message: &proto::Message) -> Result<(), Refusal> {
    let count = message.user_properties.len();
    if count > PROPERTIES_MAX {
        let text = format!("the message has {count} properties; the limit is {PROPERTIES_MAX}");
        return Err(Refusal::new(Code::MessagePropertiesTooLarge, text));
    }
    for (name, value) in &message.user_properties {
        let fault = if name.trim().is_empty() {
            "the name of a property is blank".to_owned()
        } else if RESERVED_PROPERTIES.contains(&name.as_str()) {
            format!("the property name {name} is reserved")
        } else if name.chars().any(char::is_control) {
            format!("the property name {:?} holds a control character", excerpt(name))
        } else if value.chars().any(char::is_control) {
            format!("the value of property {} holds a control character", excerpt(name))
        } else {
            continue;
        };
        return Err(Refusal::new(Code::IllegalMessagePropertyKey, fault));
    }
    Ok(())
}

fn check_tag_and_keys(system: &SystemProperties) -> Result<(), Refusal> {
    if let Some(tag) = &system.tag
        && (tag.trim().is_empty() || tag.contains('|') || tag.chars().any(char::is_control))
    {
        let text = "the tag is blank, or holds a vertical bar or a control character";
        return Err(Refusal::new(Code::IllegalMessageTag, text));
    }
    if system.keys.iter().any(|key| key.trim().is_empty() || key.chars().any(char::is_control)) {
        return Err(Refusal::new(Code::IllegalMessageKey, "a key is blank, or holds a control character"));
    }
    Ok(())
}

fn check_properties_bytes(message: &proto::Message, system: &SystemProperties) -> Result<(), Refusal> {
    let properties = message.user_properties.iter().map(|(name, value)| name.len() + value.len());
    let keys = system.keys.iter().map(String::len);
    let bytes = properties.chain(keys).sum::<usize>() + system.tag.as_ref().map_or(0, String::len);
    if bytes > PROPERTIES_BYTES_MAX {
        let text =
            format!("properties, tag and keys have {bytes} bytes; the limit is {PROPERTIES_BYTES_MAX}");
        return Err(Refusal::new(Code::MessagePropertiesTooLarge, text));
    }
    Ok(())
}

fn check_message_id(system: &SystemProperties) -> Result<(), Refusal> {
    let fault = if system.message_id.trim().is_empty() {
        "the message id is blank"
    } else if system.message_id.len() > MESSAGE_ID_BYTES_MAX {
        "the message id is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::IllegalMessageId, fault))
}

fn check_times(system: &SystemProperties, now_ms: i64) -> Result<(), Refusal> {
    if let Some(after) = &system.orphaned_transaction_recovery_duration
        && convert::positive(after).is_none_or(|after| after > TRANSACTION_RECOVERY_MAX)
    {
        let text = "the transaction recovery duration is not within 0 to 1 hour";
        return Err(Refusal::new(Code::BadRequest, text));
    }
    let delay_ms = system.delivery_timestamp.as_ref().map(|at| convert::millis(at).saturating_sub(now_ms));
    if delay_ms.is_some_and(|delay| i128::from(delay) > DELAY_MAX.as_millis() as i128) {
        let text = "the delivery time lies more than 40 days ahead";
        return Err(Refusal::new(Code::IllegalDeliveryTime, text));
    }
    Ok(())
}

fn check_message_group(system: &SystemProperties) -> Result<(), Refusal> {
    let Some(group) = system.message_group.as_ref().filter(|group| !group.is_empty()) else { return Ok(()) };
    let fault = if group.trim().is_empty() {
        "the message group is blank"
    } else if group.len() > MESSAGE_GROUP_BYTES_MAX {
        "the message group is longer than 63 bytes"
    } else if group.chars().any(char::is_control) {
        "the message group holds a control character"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::IllegalMessageGroup, fault))
}

fn check_lite_topic(system: &SystemProperties) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let Some(name) = &system.lite_topic else { return Ok(()) };
    if (1..=LITE_TOPIC_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    let text = "the lite topic is not 1 to 64 characters of a-z, A-Z, 0-9, _ and -";
    Err(Refusal::new(Code::IllegalLiteTopic, text))
}

/// Compares an MD5 digest with the body. Clients differ in how they write the others.
fn check_digest(message: &proto::Message, system: &SystemProperties) -> Result<(), Refusal> {
    let digest = system.body_digest.as_ref().filter(|digest| digest.r#type() == DigestType::Md5);
    match digest {
        Some(digest) if !digest.checksum.eq_ignore_ascii_case(&convert::digest(&message.body)) => {
            Err(Refusal::new(Code::MessageCorrupted, "the body does not have the MD5 digest that was sent"))
        }
        _ => Ok(()),
    }
}

/// Refuses messages that would be of several types. What the topic does not take is refused by the engine.
fn check_type(topic: &TopicName, message: &proto::Message) -> Result<(), Refusal> {
    let Some(system) = &message.system_properties else { return Ok(()) };
    let is_delayed = system.delivery_timestamp.is_some();
    let is_grouped = system.message_group.as_ref().is_some_and(|group| !group.is_empty());
    let is_of = |message_type| effective_type(Some(system)) == message_type;
    let text = if is_of(proto::MessageType::Transaction) && (is_delayed || is_grouped) {
        "a TRANSACTION message has no delivery time and no message group"
    } else if system.lite_topic.is_some() && !is_of(proto::MessageType::Lite)
        || system.priority.is_some() && !is_of(proto::MessageType::Priority)
    {
        "a message has a priority, or a lite topic, or a message group, or a delivery time, or is in a transaction"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::MessagePropertyConflictWithType, format!("topic {topic}: {text}")))
}

/// Returns the type that a message is of by its properties: what its client calls it counts only for transactions.
fn effective_type(system: Option<&SystemProperties>) -> proto::MessageType {
    let Some(system) = system else { return proto::MessageType::Normal };
    if system.message_type() == proto::MessageType::Transaction {
        proto::MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        proto::MessageType::Delay
    } else if system.message_group.as_ref().is_some_and(|group| !group.is_empty()) {
        proto::MessageType::Fifo
    } else if system.lite_topic.is_some() {
        proto::MessageType::Lite
    } else if system.priority.is_some() {
        proto::MessageType::Priority
    } else {
        proto::MessageType::Normal
    }
}

/// Returns a message as the engine takes it.
fn stored(caller: &Caller, message: proto::Message) -> Message {
    let effective = effective_type(message.system_properties.as_ref());
    let mut system = message.system_properties.unwrap_or_default();
    let message_group = system.message_group.take().filter(|group| !group.is_empty());
    let body_encoding = match system.body_encoding() {
        Encoding::Gzip => BodyEncoding::Gzip,
        Encoding::Identity | Encoding::Unspecified => BodyEncoding::Identity,
    };
    let message_type = match effective {
        proto::MessageType::Transaction => MessageType::Transaction,
        proto::MessageType::Delay => MessageType::Delay,
        proto::MessageType::Fifo => MessageType::Fifo,
        proto::MessageType::Priority => MessageType::Priority,
        proto::MessageType::Lite => MessageType::Lite,
        _ => MessageType::Normal,
    };
    let recovery = system.orphaned_transaction_recovery_duration.as_ref().and_then(convert::positive);
    let born_host = match (system.born_host, caller.peer) {
        (host, Some(peer)) if host.is_empty() => peer.to_string(),
        (host, _) => host,
    };
    let text = |(name, value)| (name, Value::Text(value));
    Message {
        message_id: system.message_id,
        tag: system.tag,
        keys: system.keys,
        properties: message.user_properties.into_iter().map(text).collect(),
        body: message.body,
        body_encoding,
        message_type,
        priority: system.priority,
        lite_topic: system.lite_topic,
        delivery_time_ms: system.delivery_timestamp.as_ref().map(convert::millis),
        transaction_recovery_ms: recovery
            .filter(|_| message_type == MessageType::Transaction)
            .and_then(|recovery| i64::try_from(recovery.as_millis()).ok()),
        message_group,
        born_time_ms: system.born_timestamp.as_ref().map(convert::millis),
        born_host,
        trace_context: system.trace_context,
        ..Message::default()
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::Timestamp;

    use super::*;

    /// Each message breaks one rule, and is told which.
    #[test]
    fn a_message_that_breaks_a_rule_is_refused_with_its_code() {
        check("an empty body", Code::MessageBodyEmpty, |message, _| message.body = Default::default());
        check("a long body", Code::MessageBodyTooLarge, |message, _| {
            message.body = vec![0; BODY_BYTES_MAX + 1].into();
        });
        check("too many properties", Code::MessagePropertiesTooLarge, |message, _| {
            message.user_properties = (0..129).map(|n| (format!("p{n}"), String::new())).collect();
        });
        check("large properties", Code::MessagePropertiesTooLarge, |message, _| {
            property(message, "big", &"x".repeat(PROPERTIES_BYTES_MAX));
        });
        for name in ["TAGS", "__CRC32#", "a\u{7f}b", "\u{85}", " ", ""] {
            check(name, Code::IllegalMessagePropertyKey, |message, _| property(message, name, "v"));
        }
        check("a control character", Code::IllegalMessagePropertyKey, |message, _| {
            property(message, "name", "line\nbreak");
        });
        for tag in [" ", "a|b", "a\tb"] {
            check(tag, Code::IllegalMessageTag, |_, system| system.tag = Some(tag.to_owned()));
        }
        for key in ["", "\t", "a\u{0}b"] {
            check(key, Code::IllegalMessageKey, |_, system| system.keys = vec!["ok".into(), key.into()]);
        }
        for id in ["", "  ", &"x".repeat(256)] {
            check(id, Code::IllegalMessageId, |_, system| system.message_id = id.to_owned());
        }
        check("a long recovery", Code::BadRequest, |_, system| {
            system.orphaned_transaction_recovery_duration =
                Some(prost_types::Duration { seconds: 3601, nanos: 0 });
        });
        check("a far delivery", Code::IllegalDeliveryTime, |_, system| {
            system.delivery_timestamp = Some(Timestamp { seconds: 41 * 86_400, nanos: 0 });
        });
        check("the end of time", Code::IllegalDeliveryTime, |_, system| {
            system.delivery_timestamp = Some(Timestamp { seconds: i64::MAX, nanos: i32::MAX });
        });
        for group in [" ", "a\u{1}", &"g".repeat(64)] {
            check(group, Code::IllegalMessageGroup, |_, system| {
                system.message_group = Some(group.to_owned());
            });
        }
        for name in ["", "a.b", &"l".repeat(65)] {
            check(name, Code::IllegalLiteTopic, |_, system| system.lite_topic = Some(name.to_owned()));
        }
        check("a negative priority", Code::BadRequest, |_, system| system.priority = Some(-1));
        check("a wrong digest", Code::MessageCorrupted, |_, system| {
            system.body_digest =
                Some(proto::Digest { r#type: DigestType::Md5.into(), checksum: "00".to_owned() });
        });
        let (mut message, mut system) = good();
        system.body_digest = Some(proto::Digest {
            r#type: DigestType::Md5.into(),
            checksum: convert::digest(b"body").to_lowercase(),
        });
        message.system_properties = Some(system);
        assert_eq!(check_message(&message, 0), Ok(()));
    }

    /// What a client calls its message counts only for transactions.
    #[test]
    fn the_type_of_a_message_is_told_by_its_properties() {
        use proto::MessageType::*;
        type Change = fn(&mut SystemProperties);
        let cases: [(proto::MessageType, Change); 8] = [
            (Normal, |system| system.message_type = Fifo.into()),
            (Normal, |system| system.message_type = 77),
            (Normal, |system| system.message_group = Some(String::new())),
            (Transaction, |system| system.message_type = Transaction.into()),
            (Delay, |system| system.delivery_timestamp = Some(Timestamp::default())),
            (Fifo, |system| system.message_group = Some("g".into())),
            (Lite, |system| system.lite_topic = Some("l".into())),
            (Priority, |system| system.priority = Some(0)),
        ];
        for (expected, change) in cases {
            let (mut message, mut system) = good();
            change(&mut system);
            assert_eq!(effective_type(Some(&system)), expected);
            message.system_properties = Some(system);
            let topic = "t".parse().unwrap();
            assert_eq!(check_type(&topic, &message), Ok(()));
            let other: Change = match expected {
                Lite => |system| system.priority = Some(1),
                _ => |system| system.lite_topic = Some("l".into()),
            };
            other(message.system_properties.as_mut().unwrap());
            let is_lite_now = matches!(expected, Normal);
            match check_type(&topic, &message) {
                Ok(()) => assert!(is_lite_now, "{expected:?}"),
                Err(Refusal::Status { code, .. }) if !is_lite_now => {
                    assert_eq!(code, Code::MessagePropertyConflictWithType);
                }
                Err(other) => panic!("{expected:?}: {other:?}"),
            }
        }
    }

    #[track_caller]
    fn check(what: &str, code: Code, spoil: impl FnOnce(&mut proto::Message, &mut SystemProperties)) {
        let (mut message, mut system) = good();
        spoil(&mut message, &mut system);
        message.system_properties = Some(system);
        match check_message(&message, 0) {
            Err(Refusal::Status { code: actual, .. }) => assert_eq!(actual, code, "{what:?}"),
            other => panic!("{what:?} came to {other:?}"),
        }
    }

    fn good() -> (proto::Message, SystemProperties) {
        let message = proto::Message {
            body: (&b"body"[..]).into(),
            user_properties: BTreeMap::from([("color".to_owned(), "red".to_owned())]),
            ..proto::Message::default()
        };
        let system = SystemProperties { message_id: "id".to_owned(), ..SystemProperties::default() };
        (message, system)
    }

    fn property(message: &mut proto::Message, name: &str, value: &str) {
        message.user_properties.insert(name.to_owned(), value.to_owned());
    }
}
