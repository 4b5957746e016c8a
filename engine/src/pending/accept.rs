//! Taking messages of all types: what is not to be visible yet becomes a row of the pending topic.

use std::sync::Arc;

use weir_storage::{Append, Message, MessageType, PendingRow, PendingTarget, QueueId};

use super::{
    handle::{PendingHandle, Purpose},
    place::{HALF, queue_of_delay},
};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::{DELAY_MAX, TRANSACTION_CHECK_FIRST, TRANSACTION_RECOVERY_MAX},
    name::TopicName,
    publish::{Published, check_batch, with_queues},
    topic::Topic,
};

/// What became of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is stored and visible.
    Stored(Published),
    /// It is stored, and becomes visible when it is due.
    Delayed {
        /// By this it can be [recalled](Broker::recall) until then.
        recall_handle: String,
        /// When it was stored; milliseconds since 1970, UTC.
        store_time_ms: i64,
    },
    /// It is stored, and becomes visible if its transaction is committed.
    Half {
        /// By this the transaction is [ended](Broker::end_transaction).
        transaction_id: String,
        /// When it was stored; milliseconds since 1970, UTC.
        store_time_ms: i64,
    },
}

/// Returns whether a message is not to be visible yet.
pub(crate) fn is_pending(message: &Message, now_ms: i64) -> bool {
    match message.message_type {
        MessageType::Transaction => true,
        MessageType::Delay => message.delivery_time_ms.is_some_and(|due_ms| due_ms > now_ms),
        _ => false,
    }
}

impl Broker {
    /// Stores messages of any type in a topic, and returns what became of each, in the order given, once that is durable.
    /// Those that are to be visible now are; delayed messages that are due already among them. The call is stored as a whole
    /// or not at all.
    ///
    /// # Errors
    ///
    /// Nothing is stored if a message breaks a limit or is of a type that is not offered, or if delayed or transactional
    /// messages are sent together with others.
    pub async fn send(&self, topic: &TopicName, messages: Vec<Message>) -> Result<Vec<Sent>, EngineError> {
        self.core.check_open()?;
        check_batch(&messages)?;
        let now_ms = self.core.time.wall_ms();
        messages.iter().try_for_each(|message| check_delay(message, now_ms))?;
        let topic = self.core.topic_or_create(topic).await?;
        topic.check_types(&messages)?;
        if !messages.iter().any(|message| is_pending(message, now_ms)) {
            if messages.is_empty() {
                return Ok(Vec::new());
            }
            let published = self.core.append(&topic, with_queues(&topic, messages)).await?;
            return Ok(published.into_iter().map(Sent::Stored).collect());
        }
        let waits =
            |message: &Message| matches!(message.message_type, MessageType::Delay | MessageType::Transaction);
        if !messages.iter().all(waits) {
            let text = "messages that wait and messages that do not cannot be sent in one call";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        self.core.put_off(&topic, messages, now_ms).await
    }
}

impl Core {
    /// Stores messages in the pending topic.
    async fn put_off(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        messages: Vec<Message>,
        now_ms: i64,
    ) -> Result<Vec<Sent>, EngineError> {
        let incarnation = self.storage.topic(topic.id).map_or(1, |entry| entry.incarnation);
        let pending = self.pending.topic_or_make(self).await?;
        let append = |mut message: Message| {
            let (queue, due_ms) = place_of(&message, now_ms);
            message.pending = Some(PendingTarget { topic: topic.id, incarnation, due_ms });
            Append { topic: pending.id, queue, message }
        };
        let batch: Vec<Append> = messages.into_iter().map(append).collect();
        let stored = self.append(&pending, batch).await?;
        let sent = |Published { queue, offset, store_time_ms }| {
            let row = PendingRow { topic: pending.id, queue, offset };
            let handle = PendingHandle { topic: topic.id, row };
            if queue == HALF {
                let transaction_id = handle.encode(Purpose::Transaction, &self.signer);
                Sent::Half { transaction_id, store_time_ms }
            } else {
                let recall_handle = handle.encode(Purpose::Recall, &self.signer);
                Sent::Delayed { recall_handle, store_time_ms }
            }
        };
        Ok(stored.into_iter().map(sent).collect())
    }
}

/// Returns the queue of a message that waits, and when something is to be done with it.
fn place_of(message: &Message, now_ms: i64) -> (QueueId, i64) {
    if message.message_type == MessageType::Transaction {
        let first = i64::try_from(TRANSACTION_CHECK_FIRST.as_millis()).unwrap_or(i64::MAX);
        let after = message.transaction_recovery_ms.filter(|after| *after > 0).unwrap_or(first);
        return (HALF, now_ms.saturating_add(after));
    }
    let due_ms = message.delivery_time_ms.unwrap_or(now_ms);
    (queue_of_delay(due_ms.saturating_sub(now_ms)), due_ms)
}

/// Checks how long a message is to wait.
fn check_delay(message: &Message, now_ms: i64) -> Result<(), EngineError> {
    let longest = i64::try_from(DELAY_MAX.as_millis()).unwrap_or(i64::MAX);
    if message.delivery_time_ms.is_some_and(|due_ms| due_ms.saturating_sub(now_ms) > longest) {
        let text = "the delivery time lies more than 40 days ahead";
        return Err(EngineError::Invalid(text.to_owned()));
    }
    let longest = i64::try_from(TRANSACTION_RECOVERY_MAX.as_millis()).unwrap_or(i64::MAX);
    if message.transaction_recovery_ms.is_some_and(|after| !(0..=longest).contains(&after)) {
        let text = "the transaction recovery time is not within 0 to 1 hour";
        return Err(EngineError::Invalid(text.to_owned()));
    }
    Ok(())
}
