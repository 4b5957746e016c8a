//! The catalogue: topics and groups with their attributes.

use serde::{Deserialize, Serialize};

use crate::offset::{GroupId, QueueId, QueueOffset, TopicId};

/// When a message counts as stored, chosen per topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityClass {
    /// Acknowledged, and visible, once it is synced: survives power loss.
    #[default]
    Sync,
    /// Acknowledged, and visible, once it is written: survives `kill -9`; power loss may cost the last few hundred ms.
    Async,
}

/// A topic to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// How many queues it has at first.
    pub queues: u32,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicEntry {
    /// Never given twice.
    pub id: TopicId,
    /// How often the topic has been emptied under this id, counted from 1.
    pub incarnation: u32,
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// How many queues it has; it never falls.
    pub queues: u32,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// The first retained offset of each queue where that is not 0, by queue.
    pub first_offsets: Vec<(QueueId, QueueOffset)>,
}

/// A group to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewGroup {
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEntry {
    /// Never given twice.
    pub id: GroupId,
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
}

impl TopicEntry {
    /// Returns the first retained offset of a queue.
    pub fn first_offset(&self, queue: QueueId) -> QueueOffset {
        let at = self.first_offsets.binary_search_by_key(&queue, |(queue, _)| *queue);
        at.ok().and_then(|at| self.first_offsets.get(at)).map_or(QueueOffset(0), |(_, offset)| *offset)
    }
}
