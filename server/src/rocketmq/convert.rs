//! Words of the wire become words of the engine, and back.

use std::time::Duration;

use md5::{Digest, Md5};
use prost_types::Timestamp;
use weir_engine::{Delivered, GroupName, Message, StoredMessage, TopicName};
use weir_storage::{BodyEncoding, MessageType};

use super::{
    caller::Caller,
    proto::{self, Code, Encoding, FilterExpression, FilterType, Resource},
    refusal::Refusal,
};

/// Returns the name of a topic. A resource without a namespace is in that of the caller.
pub(super) fn topic_name(resource: Option<&Resource>, caller: &Caller) -> Result<TopicName, Refusal> {
    let resource = resource.ok_or_else(|| Refusal::new(Code::IllegalTopic, "the request names no topic"))?;
    Ok(TopicName::new(namespace(resource, caller), &resource.name)?)
}

/// Returns the name of a group. A resource without a namespace is in that of the caller.
pub(super) fn group_name(resource: Option<&Resource>, caller: &Caller) -> Result<GroupName, Refusal> {
    let resource =
        resource.ok_or_else(|| Refusal::new(Code::IllegalConsumerGroup, "the request names no group"))?;
    let name = GroupName::new(namespace(resource, caller), &resource.name);
    name.map_err(|error| Refusal::new(Code::IllegalConsumerGroup, error.to_string()))
}

fn namespace<'a>(resource: &'a Resource, caller: &'a Caller) -> &'a str {
    if resource.resource_namespace.is_empty() { &caller.namespace } else { &resource.resource_namespace }
}

/// What a consumer wants to see of a topic, as it stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter<'a> {
    Tags(&'a str),
    Sql(&'a str),
}

impl<'a> Filter<'a> {
    /// Reads a filter. Without one, or without its type, tags are meant.
    pub(super) fn of(expression: Option<&'a FilterExpression>) -> Self {
        match expression {
            None => Self::Tags("*"),
            Some(expression) if expression.r#type() == FilterType::Sql => Self::Sql(&expression.expression),
            Some(expression) => Self::Tags(&expression.expression),
        }
    }
}

/// Returns milliseconds since 1970; beyond what fits, the nearest that does.
pub(super) fn millis(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos.div_euclid(1_000_000)))
}

/// Returns the wire's form of milliseconds since 1970.
pub(super) fn timestamp(millis: i64) -> Timestamp {
    let nanos = millis.rem_euclid(1000) * 1_000_000;
    Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(nanos).expect("less than a second of nanoseconds fits"),
    }
}

/// Returns a duration that is not negative, or `None`.
pub(super) fn positive(duration: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*duration).ok()
}

/// Returns the wire's form of a duration; beyond what fits, the longest that does.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second of nanoseconds fits"),
    }
}

/// Returns the MD5 digest of `body` in upper-case hex, as clients compare it.
pub(super) fn digest(body: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
    Md5::digest(body).iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Returns a delivered message as the wire has it. `topic` is the resource that the client asked for.
pub(super) fn delivered(
    delivered: Delivered,
    topic: &TopicName,
    store_host: &str,
    caller: &Caller,
) -> proto::Message {
    let Delivered { message, attempt, handle, lease, held: _ } = delivered;
    let mut message = stored(message, topic, store_host, Some(caller));
    if let Some(system) = &mut message.system_properties {
        system.receipt_handle = Some(handle);
        system.invisible_duration = Some(duration(lease));
        system.delivery_attempt = Some(i32::try_from(attempt.max(1)).unwrap_or(i32::MAX));
    }
    message
}

/// Returns a message that is leased to nobody as the wire has it. Without a caller, to whom types may be told otherwise,
/// all clients know its type.
pub(super) fn stored(
    stored: StoredMessage,
    topic: &TopicName,
    store_host: &str,
    caller: Option<&Caller>,
) -> proto::Message {
    let Message {
        message_id,
        tag,
        keys,
        properties,
        body,
        body_encoding,
        message_type,
        born_time_ms,
        born_host,
        message_group,
        delivery_time_ms,
        priority,
        lite_topic,
        trace_context,
        dead_letter,
        ..
    } = stored.message;
    let system = proto::SystemProperties {
        tag,
        keys,
        message_id,
        body_digest: Some(proto::Digest { r#type: proto::DigestType::Md5.into(), checksum: digest(&body) }),
        body_encoding: encoding(body_encoding).into(),
        message_type: caller
            .map_or_else(|| wire_type(message_type), |caller| caller.message_type(wire_type(message_type)))
            .into(),
        born_timestamp: born_time_ms.map(timestamp),
        born_host,
        store_timestamp: Some(timestamp(stored.store_time_ms)),
        store_host: store_host.to_owned(),
        delivery_timestamp: delivery_time_ms.map(timestamp),
        receipt_handle: None,
        queue_id: i32::try_from(stored.queue.0).unwrap_or(i32::MAX),
        queue_offset: Some(i64::try_from(stored.offset.0).unwrap_or(i64::MAX)),
        invisible_duration: None,
        delivery_attempt: None,
        message_group,
        trace_context,
        orphaned_transaction_recovery_duration: None,
        dead_letter_queue: dead_letter
            .map(|origin| proto::DeadLetterQueue { topic: origin.topic, message_id: origin.message_id }),
        lite_topic,
        priority,
    };
    proto::Message {
        topic: Some(Resource {
            resource_namespace: topic.namespace().to_owned(),
            name: topic.name().to_owned(),
        }),
        user_properties: properties.into_iter().map(|(name, value)| (name, value.to_text())).collect(),
        system_properties: Some(system),
        body,
    }
}

fn encoding(encoding: BodyEncoding) -> Encoding {
    match encoding {
        BodyEncoding::Identity => Encoding::Identity,
        BodyEncoding::Gzip => Encoding::Gzip,
    }
}

/// Returns a type of messages as the wire has it.
pub(super) fn wire_type(message_type: MessageType) -> proto::MessageType {
    match message_type {
        MessageType::Normal => proto::MessageType::Normal,
        MessageType::Fifo => proto::MessageType::Fifo,
        MessageType::Delay => proto::MessageType::Delay,
        MessageType::Transaction => proto::MessageType::Transaction,
        MessageType::Lite => proto::MessageType::Lite,
        MessageType::Priority => proto::MessageType::Priority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire_to_the_millisecond() {
        for ms in [0, 1, 999, 1000, -1, -1500, 1_795_000_000_123] {
            assert_eq!(millis(&timestamp(ms)), ms);
        }
        assert_eq!(millis(&Timestamp { seconds: i64::MAX, nanos: i32::MAX }), i64::MAX);
        assert_eq!(millis(&Timestamp { seconds: i64::MIN, nanos: i32::MIN }), i64::MIN);
    }

    #[test]
    fn negative_durations_are_none() {
        assert_eq!(positive(&prost_types::Duration { seconds: -1, nanos: 0 }), None);
        assert_eq!(positive(&prost_types::Duration { seconds: 0, nanos: -1 }), None);
        assert_eq!(
            positive(&prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            Some(Duration::from_millis(1500))
        );
        assert!(positive(&prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX }).is_some());
    }

    #[test]
    fn digests_are_upper_case_hex() {
        assert_eq!(digest(b""), "D41D8CD98F00B204E9800998ECF8427E");
        assert_eq!(digest(b"weir"), digest(b"weir").to_uppercase());
    }
}
