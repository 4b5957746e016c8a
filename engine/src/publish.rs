//! Publishing: a batch is checked, finds its queue, and is answered once it is durable.

use serde::{Deserialize, Serialize};
use weir_storage::{Message, QueueId, QueueOffset};

use crate::{broker::Broker, error::EngineError, name::TopicName};

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
    /// Stores messages in a topic, and returns where, in the order given, once they are durable by its class.
    ///
    /// # Errors
    ///
    /// Nothing is stored if a message breaks a limit or is of a type that is not offered.
    pub async fn publish(
        &self,
        topic: &TopicName,
        messages: Vec<Message>,
    ) -> Result<Vec<Published>, EngineError> {
        todo!()
    }

    /// Checks one message against limits and rules.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn check_message(&self, message: &Message) -> Result<(), EngineError> {
        todo!()
    }
}
