//! The group journal: what groups have leased and acknowledged.
//!
//! Storage keeps the entries in order, cuts those that name offsets which a crash removed, and replays
//! them at the next start. What they mean is the engine's affair.

use crate::offset::{GroupId, QueueId, QueueOffset, TopicId};

/// How long a caller of the journal waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: answered at once.
    None,
    /// Until the entries survive `kill -9`.
    Written,
    /// Until they survive power loss.
    Durable,
}

/// What a selector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SelectorKind {
    /// Every row.
    All = 0,
    /// A tag expression.
    Tags = 1,
    /// A SQL text.
    Sql = 2,
}

/// A row that a group has been given, or that waits to be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRow {
    /// The row.
    pub offset: QueueOffset,
    /// The delivery attempt, counted from 1.
    pub attempt: u16,
    /// The lease that it is, or was last, given under.
    pub lease: u64,
    /// When the lease or the wait ends; wall time in milliseconds.
    pub until_ms: i64,
    /// The selector that chose it.
    pub slot: u8,
    /// Whether it is leased; else it waits.
    pub leased: bool,
}

/// A row in a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// The row.
    pub offset: QueueOffset,
    /// The delivery attempt, counted from 1.
    pub attempt: u16,
    /// The selector that chose it.
    pub slot: u8,
}

/// One thing that the journal remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields that recur in every variant are described at the enum's variants"
)]
pub enum JournalEntry {
    /// Everything about one group on one queue; replaces what came before. Written when the journal rotates.
    Queue {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        /// Of each selector slot: where it began, and how far it has judged the queue.
        cursors: Vec<(u8, QueueOffset, QueueOffset)>,
        open: Vec<OpenRow>,
    },
    /// A selector in a slot of a group, with the offset at which it begins in each queue.
    Selector {
        group: GroupId,
        topic: TopicId,
        slot: u8,
        text: String,
        /// The number of the dialect, which the engine gives.
        dialect: u8,
        kind: SelectorKind,
        starts: Vec<(QueueId, QueueOffset)>,
    },
    /// A slot becomes free.
    DropSelector { group: GroupId, topic: TopicId, slot: u8 },
    /// How far a selector has judged a queue.
    Cursor { group: GroupId, topic: TopicId, queue: QueueId, slot: u8, cursor: QueueOffset },
    /// Rows were given out.
    Lease {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        rows: Vec<LeaseRow>,
        lease: u64,
        /// When the lease ends; wall time in milliseconds.
        until_ms: i64,
        /// How long it was made for, in milliseconds.
        length_ms: u32,
        client: String,
        attempt_id: Option<String>,
    },
    /// Rows are done with.
    Ack { group: GroupId, topic: TopicId, queue: QueueId, offsets: Vec<QueueOffset> },
    /// A row is to be given again at another time, under a new lease number.
    Change {
        group: GroupId,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        lease: u64,
        visible_at_ms: i64,
    },
    /// A row went to the dead-letter topic.
    DeadLetter { group: GroupId, topic: TopicId, queue: QueueId, offset: QueueOffset },
    /// All open rows are forgotten, and all cursors stand at `offset`.
    Reset { group: GroupId, topic: TopicId, queue: QueueId, offset: QueueOffset },
    /// The group is gone.
    DropGroup { group: GroupId },
    /// The topic is gone.
    DropTopic { topic: TopicId },
}
