//! Publishing: a batch is checked, finds its queue, and is answered once it is durable and visible.
//!
//! Visible, so that who publishes and then reads finds what was published.
//!
//! All messages of a call without a message group go to one queue, so that they keep their order; calls take
//! the queues in turn. A message with a group goes to queue `hash64(group) mod queues`
//! ([`weir_columns::hash64`]), which stays the same across restarts while the number of queues does. A message with a
//! priority goes to the queue of that number, or to the last one; one of a lite topic to `hash64(lite topic) mod queues`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use weir_columns::{Value, hash64};
use weir_storage::{Append, AppendDone, Appended, Message, MessageType, QueueId, QueueOffset};

use crate::{
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    group::check_lite_topic,
    limits::{
        BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BODY_BYTES_MAX, FIELD_BYTES_MAX, MESSAGE_GROUP_BYTES_MAX,
        MESSAGE_ID_BYTES_MAX, PROPERTIES_BYTES_MAX, PROPERTIES_MAX,
    },
    name::TopicName,
    pending::is_pending,
    topic::{Topic, Unseen},
};

/// A publisher waits no longer for its rows to become visible, up to the next round of housekeeping. Only a failure
/// of storage takes so long.
pub(crate) const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The queue.
    pub queue: QueueId,
    /// The offset in the queue.
    pub offset: QueueOffset,
    /// When; milliseconds since 1970, UTC.
    pub store_time_ms: i64,
}

impl Broker {
    /// Stores messages in a topic, and returns where, in the order given, once they are durable by
    /// its class and every reader sees them.
    ///
    /// # Errors
    ///
    /// Nothing is stored if a message breaks a limit or is of a type that is not offered; nor if one is delayed or in a
    /// transaction, as [`send`](Self::send) takes it.
    pub async fn publish(
        &self,
        topic: &TopicName,
        messages: Vec<Message>,
    ) -> Result<Vec<Published>, EngineError> {
        self.core.check_open()?;
        check_batch(&messages)?;
        let now_ms = self.core.time.wall_ms();
        if messages.iter().any(|message| is_pending(message, now_ms)) {
            let text = "messages that are delayed or in a transaction cannot be published here";
            return Err(EngineError::Unsupported(text.to_owned()));
        }
        let topic = self.core.topic_or_create(topic).await?;
        topic.check_types(&messages)?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        self.core.append(&topic, with_queues(&topic, messages)).await
    }

    /// Checks one message against limits and rules.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn check_message(&self, message: &Message) -> Result<(), EngineError> {
        check_message(message)
    }
}

impl Core {
    /// Appends messages to queues of a topic, and returns where once they are durable and visible.
    pub(crate) async fn append(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        batch: Vec<Append>,
    ) -> Result<Vec<Published>, EngineError> {
        let is_slow = topic.is_slow_to_pack(batch.iter().map(|append| append.message.body.len()).sum());
        let (publisher, published) = oneshot::channel();
        let (core, topic) = (Arc::downgrade(self), Arc::clone(topic));
        let done: AppendDone = Box::new(move |result| match (result, core.upgrade()) {
            (Ok(appended), Some(core)) => {
                let unseen = stored(&appended, publisher);
                topic.tell_when_seen(&core, unseen);
            }
            (Err(error), _) => drop(publisher.send(Err(error.into()))),
            // Nobody is left to hear it.
            (Ok(_), None) => {}
        });
        // Storage makes publishers wait, and compresses what they bring; a thread of the runtime must do neither.
        if is_slow {
            self.blocking(move |storage| {
                storage.append(batch, done);
                Ok(())
            })
            .await?;
        } else {
            match self.storage.append_now(batch, done) {
                Ok(None) => {}
                Ok(Some(turn)) => {
                    // Those who are ready to publish come first, so that one frame has the messages of all.
                    tokio::task::yield_now().await;
                    turn.write();
                }
                Err(admitted) => {
                    self.blocking(move |storage| {
                        storage.append_admitted(admitted);
                        Ok(())
                    })
                    .await?;
                }
            }
        }
        published.await.map_err(|_| EngineError::Closed)?
    }
}

/// Returns a publisher that waits for its rows to become visible.
fn stored(appended: &[Appended], publisher: oneshot::Sender<Result<Vec<Published>, EngineError>>) -> Unseen {
    let published = appended.iter().map(|stored| Published {
        queue: stored.queue,
        offset: stored.offset,
        store_time_ms: stored.store_time_ms,
    });
    let (last, others) = match appended {
        // Most calls go to one queue.
        [.., last] if appended.iter().all(|row| row.queue == last.queue) => {
            (Some((last.queue, last.offset)), Vec::new())
        }
        all => {
            let rows: BTreeMap<_, _> = all.iter().map(|row| (row.queue, row.offset)).collect();
            (None, rows.into_iter().collect())
        }
    };
    Unseen { last, others, since: Instant::now(), published: published.collect(), publisher }
}

/// Gives each message its queue.
pub(crate) fn with_queues(topic: &Topic, messages: Vec<Message>) -> Vec<Append> {
    let queues = u64::from(topic.queues().max(1));
    let mut of_call = None;
    let mut queue_of = |message: &Message| match &message.message_group {
        Some(group) => QueueId((hash64(group.as_bytes()) % queues) as u32),
        None if message.priority.is_some() => level(message.priority, topic.queues()),
        None if message.lite_topic.is_some() => {
            let name = message.lite_topic.as_deref().unwrap_or_default();
            QueueId((hash64(name.as_bytes()) % queues) as u32)
        }
        None => *of_call.get_or_insert_with(|| topic.next_queue()),
    };
    let append = |message| Append { topic: topic.id, queue: queue_of(&message), message };
    messages.into_iter().map(append).collect()
}

/// Returns the queue of a priority: there is one a level, and the last is for all that are higher.
fn level(priority: Option<i32>, queues: u32) -> QueueId {
    let priority = u32::try_from(priority.unwrap_or_default()).unwrap_or_default();
    QueueId(priority.min(queues.saturating_sub(1)))
}

pub(crate) fn check_batch(messages: &[Message]) -> Result<(), EngineError> {
    if messages.len() > BATCH_MESSAGES_MAX {
        return Err(limit(
            "the number of messages of a batch",
            messages.len(),
            BATCH_MESSAGES_MAX,
            LimitKind::Batch,
        ));
    }
    let mut bytes = 0_usize;
    for message in messages {
        bytes = bytes.saturating_add(message.body.len()).saturating_add(properties_bytes(message));
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(limit("the size of a batch in bytes", bytes, BATCH_BYTES_MAX, LimitKind::Batch));
    }
    messages.iter().try_for_each(check_message)
}

fn check_message(message: &Message) -> Result<(), EngineError> {
    check_type(message)?;
    if message.body.len() > BODY_BYTES_MAX {
        return Err(limit("the body in bytes", message.body.len(), BODY_BYTES_MAX, LimitKind::Body));
    }
    check_properties(message)?;
    if let Some(tag) = &message.tag {
        check_text("tag", tag)?;
        if tag.contains('|') {
            return Err(invalid("the tag holds '|', which separates tags in a subscription"));
        }
    }
    message.keys.iter().try_for_each(|key| check_text("key", key))?;
    let id = message.message_id.len();
    if id > MESSAGE_ID_BYTES_MAX {
        return Err(limit("the message id in bytes", id, MESSAGE_ID_BYTES_MAX, LimitKind::Other));
    }
    if has_control(&message.message_id) {
        return Err(invalid("the message id holds a control character"));
    }
    if let Some(group) = &message.message_group {
        check_text("message group", group)?;
        if group.len() > MESSAGE_GROUP_BYTES_MAX {
            let what = "the message group in bytes";
            return Err(limit(what, group.len(), MESSAGE_GROUP_BYTES_MAX, LimitKind::Other));
        }
    }
    let fields = [Some(&message.born_host), message.trace_context.as_ref(), message.producer_group.as_ref()];
    match fields.into_iter().flatten().map(String::len).max() {
        Some(bytes) if bytes > FIELD_BYTES_MAX => {
            let what = "the host, producer group or trace context in bytes";
            Err(limit(what, bytes, FIELD_BYTES_MAX, LimitKind::Other))
        }
        _ => Ok(()),
    }
}

/// Refuses what does not fit its type, so that nothing is stored as less than it was meant to be.
fn check_type(message: &Message) -> Result<(), EngineError> {
    match message.message_type {
        MessageType::Normal => {}
        MessageType::Fifo if message.message_group.is_some() => {}
        MessageType::Fifo => return Err(invalid("a FIFO message needs a message group")),
        MessageType::Priority => check_priority(message)?,
        MessageType::Delay if message.delivery_time_ms.is_some() => {}
        MessageType::Delay => return Err(invalid("a DELAY message needs a delivery time")),
        MessageType::Transaction if message.message_group.is_none() => {}
        MessageType::Transaction => return Err(invalid("a TRANSACTION message has no message group")),
        MessageType::Lite => match &message.lite_topic {
            None => return Err(invalid("a message of type LITE needs a lite topic")),
            Some(_) if message.message_group.is_some() => {
                return Err(invalid("a message has a lite topic or a message group, not both"));
            }
            Some(name) => check_lite_topic(name)?,
        },
    }
    if message.delivery_time_ms.is_some() && message.message_type != MessageType::Delay {
        return Err(invalid("only DELAY messages have a delivery time"));
    }
    if message.transaction_recovery_ms.is_some() && message.message_type != MessageType::Transaction {
        return Err(invalid("only TRANSACTION messages have a recovery time"));
    }
    if message.priority.is_some() && message.message_type != MessageType::Priority {
        return Err(invalid("only PRIORITY messages have a priority"));
    }
    if message.lite_topic.is_some() && message.message_type != MessageType::Lite {
        return Err(invalid("only LITE messages have a lite topic"));
    }
    if message.dead_letter.is_some() || message.pending.is_some() || message.released.is_some() {
        return Err(invalid("what a message was before is said by the broker alone"));
    }
    Ok(())
}

fn check_priority(message: &Message) -> Result<(), EngineError> {
    match message.priority {
        None => Err(invalid("a message of type PRIORITY needs a priority")),
        Some(priority) if priority < 0 => Err(invalid("the priority is negative")),
        Some(_) if message.message_group.is_some() => {
            Err(invalid("a message has a priority or a message group, not both"))
        }
        Some(_) => Ok(()),
    }
}

fn check_properties(message: &Message) -> Result<(), EngineError> {
    let count = message.properties.len();
    if count > PROPERTIES_MAX {
        return Err(limit("the number of properties", count, PROPERTIES_MAX, LimitKind::Properties));
    }
    let bytes = properties_bytes(message);
    if bytes > PROPERTIES_BYTES_MAX {
        let what = "the size of properties, tag and keys in bytes";
        return Err(limit(what, bytes, PROPERTIES_BYTES_MAX, LimitKind::Properties));
    }
    for (at, (name, value)) in message.properties.iter().enumerate() {
        if name.is_empty() {
            return Err(invalid("a property has an empty name"));
        }
        if has_control(name) {
            return Err(EngineError::Invalid(format!(
                "the property name {name:?} holds a control character"
            )));
        }
        if let Value::Text(text) | Value::Str(text) = value
            && has_control(text)
        {
            return Err(EngineError::Invalid(format!(
                "the value of property {name:?} holds a control character"
            )));
        }
        if message.properties.iter().take(at).any(|(other, _)| other == name) {
            return Err(EngineError::Invalid(format!("the property {name:?} is set twice")));
        }
    }
    Ok(())
}

/// Returns the bytes that count for the limit of properties.
fn properties_bytes(message: &Message) -> usize {
    let properties = message.properties.iter().map(|(name, value)| name.len() + value_bytes(value));
    let keys = message.keys.iter().map(String::len);
    properties.chain(keys).sum::<usize>() + message.tag.as_ref().map_or(0, String::len)
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Str(text) => text.len(),
        Value::Bool(_) => 1,
        Value::I32(_) | Value::F32(_) => 4,
        Value::I64(_) | Value::F64(_) => 8,
    }
}

fn check_text(what: &str, text: &str) -> Result<(), EngineError> {
    if text.trim().is_empty() {
        return Err(EngineError::Invalid(format!("the {what} is blank")));
    }
    if has_control(text) {
        return Err(EngineError::Invalid(format!("the {what} {text:?} holds a control character")));
    }
    Ok(())
}

/// Returns whether a text holds a control character: as `char::is_control`, byte by byte, which is many times faster
/// for texts without characters beyond ASCII.
fn has_control(text: &str) -> bool {
    let (mut control, mut beyond) = (false, false);
    for byte in text.bytes() {
        control |= byte < 0x20 || byte == 0x7f;
        beyond |= byte >= 0x80;
    }
    control || beyond && text.chars().any(char::is_control)
}

fn invalid(text: &str) -> EngineError {
    EngineError::Invalid(text.to_owned())
}

fn limit(what: &'static str, actual: usize, limit: usize, kind: LimitKind) -> EngineError {
    EngineError::Limit { what, actual: actual as u64, limit: limit as u64, kind }
}

#[cfg(test)]
mod tests {
    use weir_storage::{PendingRow, PendingTarget, TopicId};

    use super::*;

    fn with(change: impl FnOnce(&mut Message)) -> Result<(), EngineError> {
        let mut message = Message::default();
        change(&mut message);
        check_message(&message)
    }

    #[test]
    fn messages_within_the_limits_are_taken() {
        with(|_| {}).unwrap();
        with(|message| message.body = vec![0; BODY_BYTES_MAX].into()).unwrap();
        with(|message| message.message_group = Some("g".repeat(63))).unwrap();
        with(|message| message.message_id = "i".repeat(255)).unwrap();
        with(|message| message.properties = (0..128).map(|i| (format!("p{i}"), Value::I64(i))).collect())
            .unwrap();
    }

    #[test]
    fn each_limit_is_named() {
        let text = |len| Value::Text("x".repeat(len));
        for (result, kind) in [
            (with(|message| message.body = vec![0; BODY_BYTES_MAX + 1].into()), LimitKind::Body),
            (
                with(|message| message.properties = (0..129).map(|i| (format!("p{i}"), text(0))).collect()),
                LimitKind::Properties,
            ),
            (
                with(|message| message.properties = vec![("p".to_owned(), text(16 * 1024))]),
                LimitKind::Properties,
            ),
            (with(|message| message.keys = vec!["k".repeat(16 * 1024 + 1)]), LimitKind::Properties),
            (with(|message| message.message_id = "i".repeat(256)), LimitKind::Other),
            (with(|message| message.message_group = Some("g".repeat(64))), LimitKind::Other),
            (with(|message| message.trace_context = Some("t".repeat(4097))), LimitKind::Other),
        ] {
            assert!(matches!(&result, Err(EngineError::Limit { kind: is, .. }) if *is == kind), "{result:?}");
        }
        let many = vec![Message::default(); BATCH_MESSAGES_MAX + 1];
        assert!(matches!(check_batch(&many), Err(EngineError::Limit { kind: LimitKind::Batch, .. })));
        let large = Message { body: vec![0; BODY_BYTES_MAX].into(), ..Message::default() };
        assert!(check_batch(&vec![large.clone(); 8]).is_ok());
        assert!(matches!(
            check_batch(&vec![large; 9]),
            Err(EngineError::Limit { kind: LimitKind::Batch, .. })
        ));
    }

    #[test]
    fn control_characters_are_those_of_unicode() {
        for character in '\0'..=char::MAX {
            let text = format!("é{character}a");
            assert_eq!(has_control(&text), character.is_control(), "{character:?}");
        }
    }

    #[test]
    fn texts_are_printable_and_names_are_distinct() {
        let property = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
        for result in [
            with(|message| message.tag = Some(" ".to_owned())),
            with(|message| message.tag = Some("a|b".to_owned())),
            with(|message| message.keys = vec![String::new()]),
            with(|message| message.message_group = Some("a\u{7f}".to_owned())),
            with(|message| message.properties = vec![property("", "x")]),
            with(|message| message.properties = vec![property("a\n", "x")]),
            with(|message| message.properties = vec![property("a", "\u{85}")]),
            with(|message| message.properties = vec![property("a", "1"), property("a", "1")]),
        ] {
            assert!(matches!(result, Err(EngineError::Invalid(_))), "{result:?}");
        }
    }

    #[test]
    fn what_a_message_has_fits_its_type() {
        with(|message| (message.message_type, message.delivery_time_ms) = (MessageType::Delay, Some(0)))
            .unwrap();
        with(|message| message.message_type = MessageType::Transaction).unwrap();
        let row = PendingRow { topic: TopicId(1), queue: QueueId(0), offset: QueueOffset(0) };
        let target = PendingTarget { topic: TopicId(1), incarnation: 1, due_ms: 0 };
        for result in [
            with(|message| message.message_type = MessageType::Fifo),
            with(|message| message.message_type = MessageType::Delay),
            with(|message| message.message_type = MessageType::Lite),
            with(|message| message.lite_topic = Some("l".to_owned())),
            with(|message| message.delivery_time_ms = Some(0)),
            with(|message| message.transaction_recovery_ms = Some(0)),
            with(|message| {
                (message.message_type, message.message_group) = (MessageType::Transaction, Some("g".into()));
            }),
            with(|message| message.pending = Some(target)),
            with(|message| message.released = Some(row)),
        ] {
            assert!(matches!(result, Err(EngineError::Invalid(_))), "{result:?}");
        }
    }
}
