//! A message on its way into the log and out of it.

use bytes::Bytes;
use weir_columns::Value;

use crate::offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId};

/// What a message is for. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// Delivered as soon as it is stored.
    #[default]
    Normal = 1,
    /// Ordered within its message group.
    Fifo = 2,
    /// Delivered at its delivery time.
    Delay = 3,
    /// Delivered when its transaction commits.
    Transaction = 4,
    /// Of a lite topic.
    Lite = 5,
    /// Delivered before messages of lower priority.
    Priority = 6,
}

impl MessageType {
    /// Returns the type with this discriminant.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Normal,
            2 => Self::Fifo,
            3 => Self::Delay,
            4 => Self::Transaction,
            5 => Self::Lite,
            6 => Self::Priority,
            _ => return None,
        })
    }

    /// Returns the name, as `sys.message_type` gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            Self::Lite => "LITE",
            Self::Priority => "PRIORITY",
        }
    }
}

/// How the producer encoded the body. Weir keeps the bytes as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BodyEncoding {
    /// As it is.
    #[default]
    Identity = 0,
    /// Called GZIP on the wire; gzip or zlib, told by the first bytes.
    Gzip = 1,
}

/// Where a message in a dead-letter topic comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterOrigin {
    /// Namespace of the topic it could not be delivered from.
    pub namespace: String,
    /// Name of that topic.
    pub topic: String,
    /// The id that the producer gave.
    pub message_id: String,
    /// Its queue there.
    pub queue: QueueId,
    /// Its offset there.
    pub offset: QueueOffset,
    /// How often it had been delivered.
    pub attempts: u32,
}

/// What a message that is not visible yet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingTarget {
    /// The topic that it is for.
    pub topic: TopicId,
    /// The incarnation of that topic.
    pub incarnation: u32,
    /// When something is to be done with it; milliseconds since 1970, UTC.
    pub due_ms: i64,
}

/// A row of the pending topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PendingRow {
    /// The pending topic.
    pub topic: TopicId,
    /// The queue.
    pub queue: QueueId,
    /// The offset in the queue.
    pub offset: QueueOffset,
}

/// A message as its producer made it: all that the record keeps but where and when it was stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The id that the producer gave, up to 255 bytes; empty if none.
    pub message_id: String,
    /// The tag.
    pub tag: Option<String>,
    /// The keys.
    pub keys: Vec<String>,
    /// User properties in the order given; names are distinct.
    pub properties: Vec<(String, Value)>,
    /// The body as it came.
    pub body: Bytes,
    /// How the producer encoded the body.
    pub body_encoding: BodyEncoding,
    /// What the message is for.
    pub message_type: MessageType,
    /// When the producer made it; milliseconds since 1970, UTC.
    pub born_time_ms: Option<i64>,
    /// The host that the producer named, or its address.
    pub born_host: String,
    /// The message group of a FIFO message.
    pub message_group: Option<String>,
    /// When to deliver; milliseconds since 1970, UTC.
    pub delivery_time_ms: Option<i64>,
    /// The priority.
    pub priority: Option<i32>,
    /// The lite topic.
    pub lite_topic: Option<String>,
    /// Trace context of the producer, kept as it came.
    pub trace_context: Option<String>,
    /// The producer's group.
    pub producer_group: Option<String>,
    /// When to ask the producer about a transaction, in milliseconds after it was stored.
    pub transaction_recovery_ms: Option<i64>,
    /// Set in dead-letter topics.
    pub dead_letter: Option<DeadLetterOrigin>,
    /// Set in the pending topic.
    pub pending: Option<PendingTarget>,
    /// The row of the pending topic that the message was until it became visible.
    pub released: Option<PendingRow>,
}

/// A message read back from the log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// Where its record begins.
    pub position: LogPosition,
    /// The epoch in which it was stored.
    pub epoch: Epoch,
    /// Its topic.
    pub topic: TopicId,
    /// Its queue.
    pub queue: QueueId,
    /// Its offset in the queue.
    pub offset: QueueOffset,
    /// When the broker stored it; milliseconds since 1970, UTC; never decreases along the log.
    pub store_time_ms: i64,
    /// What the producer made.
    pub message: Message,
}
