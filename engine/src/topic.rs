//! Topics: which exist, with how many queues, and how long their rows are retained.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use weir_storage::{DurabilityClass, QueueId, QueueOffset, TopicId};

use crate::{
    broker::Broker,
    error::EngineError,
    limits::{QUEUES_DEFAULT, RETENTION_DEFAULT},
    name::TopicName,
    serial,
};

/// How a topic is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSpec {
    /// How many queues it has. Default: 4.
    pub queues: u32,
    /// When its messages count as stored. Default: `sync`.
    pub class: DurabilityClass,
    /// How long rows are retained; `None` for ever. Default: 72 hours.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
}

impl Default for TopicSpec {
    fn default() -> Self {
        Self { queues: QUEUES_DEFAULT, class: DurabilityClass::Sync, retention: Some(RETENTION_DEFAULT) }
    }
}

/// What is to change in a topic; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicChange {
    /// How many queues it is to have; they may only grow.
    pub queues: Option<u32>,
    /// When its messages count as stored.
    pub class: Option<DurabilityClass>,
    /// How long rows are retained.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
}

/// A topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// Its number, never given twice.
    pub id: TopicId,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// How long rows are retained; `None` for ever.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
    /// Its queues, in order.
    pub queues: Vec<QueueDescription>,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
}

/// A queue as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDescription {
    /// Its number within the topic.
    pub queue: QueueId,
    /// The first retained row.
    pub first: QueueOffset,
    /// The first offset that is not visible yet.
    pub end: QueueOffset,
}

/// What a deleted topic had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDeleted {
    /// Its rows.
    pub messages: u64,
    /// Bytes of consume queues that are free now.
    pub queue_bytes: u64,
    /// Bytes of the log that become free when no other topic needs their segments.
    pub log_bytes: u64,
}

impl Broker {
    /// Makes a topic.
    ///
    /// # Errors
    ///
    /// If the name is taken or reserved, or the number of queues is not allowed.
    pub async fn create_topic(
        &self,
        name: &TopicName,
        spec: TopicSpec,
    ) -> Result<TopicDescription, EngineError> {
        todo!()
    }

    /// Changes a topic.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or it would have fewer queues or more than allowed.
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        change: TopicChange,
    ) -> Result<TopicDescription, EngineError> {
        todo!()
    }

    /// Deletes a topic with all its rows, and what groups remember of it.
    ///
    /// # Errors
    ///
    /// If there is no such topic.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<TopicDeleted, EngineError> {
        todo!()
    }

    /// Returns a topic as it is now.
    ///
    /// # Errors
    ///
    /// If there is no such topic; the error names near ones.
    pub fn topic(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        todo!()
    }

    /// Returns a topic as it is now, making it first if the broker makes topics on their first use.
    ///
    /// # Errors
    ///
    /// If there is no such topic and none is made.
    pub async fn topic_or_create(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        todo!()
    }

    /// Returns all topics, by name.
    pub fn topics(&self) -> Vec<TopicDescription> {
        todo!()
    }
}
