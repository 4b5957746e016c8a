//! What the engine refuses or cannot do. Each protocol maps these variants to its own codes.

use std::{ops::Range, time::Duration};

use weir_filter::{SelectorError, did_you_mean};
use weir_storage::{MessageType, QueueOffset, StorageError};

use crate::{
    name::{GroupName, NameError, TopicName},
    topic_type::TopicType,
};

/// What went wrong. Each variant tells the caller what to do next.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields say what the message of the variant says")]
pub enum EngineError {
    /// A name breaks the rules. Use another name.
    #[error(transparent)]
    Name(#[from] NameError),

    /// There is no such topic. Create it, or correct the name.
    #[error("topic {topic} does not exist{}", did_you_mean(near))]
    TopicNotFound { topic: TopicName, near: Vec<String> },

    /// There is no such group.
    #[error("group {group} does not exist{}", did_you_mean(near))]
    GroupNotFound { group: GroupName, near: Vec<String> },

    /// A topic or group of that name exists already.
    #[error("{what} {name} exists already")]
    Exists { what: &'static str, name: String },

    /// The queue does not exist in the topic.
    #[error("topic {topic} has {queues} queues; there is no queue {queue}")]
    QueueNotFound { topic: TopicName, queue: u32, queues: u32 },

    /// The selector cannot be used. The message says where and what was expected.
    #[error("bad selector: {0}")]
    Selector(SelectorError),

    /// A limit of the broker is exceeded. Send less.
    #[error("{what} is {actual}; the limit is {limit}")]
    Limit { what: &'static str, actual: u64, limit: u64, kind: LimitKind },

    /// An argument makes no sense. The message says which and why.
    #[error("{0}")]
    Invalid(String),

    /// The request needs something that this broker does not offer.
    #[error("{0}")]
    Unsupported(String),

    /// The topic does not take messages of this type. Send them to another one, or change its type.
    #[error("topic {topic} is of type {topic_type} and takes no {} messages", message_type.name())]
    MessageType { topic: TopicName, topic_type: TopicType, message_type: MessageType },

    /// The name of a lite topic breaks the rules. Use another name.
    #[error("the lite topic {0:?} is not 1 to 64 characters of a-z, A-Z, 0-9, _ and -")]
    LiteTopicName(String),

    /// A group that reads lite topics is asked for other messages, or one that reads none for those of lite topics. Use
    /// another group.
    #[error("group {group} {}", if *is_lite { "reads lite topics alone" } else { "reads no lite topics" })]
    LiteGroup { group: GroupName, is_lite: bool },

    /// The group reads lite topics of another parent.
    #[error("group {group} reads lite topics of {parent}, and nothing else")]
    LiteParent { group: GroupName, parent: TopicName },

    /// The time for which a message is to be invisible is not allowed. Ask for one in between.
    #[error("a message can be invisible for {min:?} to {max:?}, not for {asked:?}")]
    InvisibleTime { asked: Duration, min: Duration, max: Duration },

    /// The receipt handle is damaged, expired, or belongs to another group or topic.
    #[error("receipt handle {0}")]
    Handle(HandleFault),

    /// The offset was removed by retention or is not written yet. Ask again inside `available`.
    #[error("offset {asked} of queue {queue} is outside {}..{}", available.start, available.end)]
    OffsetOutOfRange { queue: u32, asked: QueueOffset, available: Range<QueueOffset> },

    /// An offset of an earlier epoch lies above what survived a crash.
    #[error("offset {asked} of queue {queue} was cut by a crash; the queue ends at {end}")]
    Truncated { queue: u32, asked: QueueOffset, end: QueueOffset },

    /// A ticket is damaged, expired or not of this broker.
    #[error("ticket {0}")]
    Ticket(String),

    /// There is no such message, or it is no longer retained.
    #[error("topic {topic} has no message {message}")]
    MessageNotFound { topic: TopicName, message: String },

    /// No message is named so, among all that are retained where it was looked for. It may have ended, or never have come.
    #[error("no message {message} among the {rows} that {} retained", match topic {
        Some(topic) => format!("topic {topic} has"),
        None => "all topics have".to_owned(),
    })]
    NothingToTrace { message: String, topic: Option<TopicName>, rows: u64 },

    /// SQL text names a schema or a table that does not exist. The message says what is near.
    #[error("{0}")]
    TableNotFound(String),

    /// SQL text cannot be planned or run. The message says why.
    #[error("{0}")]
    Sql(String),

    /// Too much is waiting. Try again in a moment.
    #[error("the broker is too busy: {0}")]
    Busy(&'static str),

    /// The disk is full. Reads go on; messages are accepted again when there is room.
    #[error("no room on the disk for more messages")]
    DiskFull,

    /// The broker is stopping.
    #[error("the broker is stopping")]
    Closed,

    /// The data directory cannot be copied; there is no copy.
    #[error("{0}")]
    Copy(#[source] StorageError),

    /// Something that cannot happen has happened: a fault of the broker. Report it.
    #[error("internal error: {0}")]
    Internal(String),

    /// Storage failed.
    #[error("storage failed: {0}")]
    Storage(#[source] StorageError),
}

/// Which limit was exceeded; protocols have a code for some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// The body.
    Body,
    /// Number or size of properties.
    Properties,
    /// The batch.
    Batch,
    /// Lite topics that clients subscribe to, or in which a group stands somewhere.
    LiteSubscriptions,
    /// Anything else.
    Other,
}

/// What is wrong with a receipt handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleFault {
    /// It was not made by this broker, or it is damaged.
    #[error("is not of this broker or is damaged")]
    Forged,
    /// It belongs to another group or topic.
    #[error("belongs to another group or topic")]
    Foreign,
    /// The lease ended and the message was handed out again, or a newer handle replaced this one.
    #[error("is expired")]
    Expired,
}

impl From<HandleFault> for EngineError {
    fn from(fault: HandleFault) -> Self {
        Self::Handle(fault)
    }
}

impl From<StorageError> for EngineError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Busy { .. } => Self::Busy("publishers wait for the disk"),
            StorageError::NoSpace { .. } => Self::DiskFull,
            StorageError::Closed => Self::Closed,
            error => Self::Storage(error),
        }
    }
}
