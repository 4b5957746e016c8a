//! What a broker keeps for those who read tables and pull batches.

use weir_storage::{QueueId, QueueView, TopicId};

use crate::{
    broker::{Broker, BrokerOptions},
    error::EngineError,
    reads::ReadPool,
    schema::{ColumnType, Inference},
    sql::engine::Queries,
};

/// Part of every broker.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Where pulls read.
    pub(crate) pool: ReadPool,
    /// The types of properties.
    pub(crate) inference: Inference,
    /// Where queries run.
    pub(crate) queries: Queries,
}

impl Reading {
    /// Returns it for a broker that is opened with `options`.
    pub(crate) fn new(options: &BrokerOptions) -> Self {
        Self {
            pool: ReadPool::new(options.read_threads),
            inference: Inference::default(),
            queries: Queries::new(options),
        }
    }
}

impl Broker {
    /// Returns what is kept for readers.
    pub(crate) fn reading(&self) -> &Reading {
        &self.core.reading
    }

    /// Returns the properties that a topic has had, by name, with the types of their columns.
    ///
    /// # Errors
    ///
    /// If a block cannot be read.
    pub(crate) fn property_types(
        &self,
        topic: TopicId,
        views: &[(QueueId, QueueView)],
    ) -> Result<Vec<(String, ColumnType)>, EngineError> {
        self.reading().inference.properties(&self.core.storage, topic, views)
    }

    /// Returns a queue as it is now.
    ///
    /// # Errors
    ///
    /// If topic or queue does not exist.
    pub(crate) fn queue_view(&self, topic: TopicId, queue: QueueId) -> Result<QueueView, EngineError> {
        self.core.check_open()?;
        self.core.storage.view(topic, queue).ok_or_else(|| match self.core.topics.read().by_id.get(&topic) {
            Some(known) => EngineError::QueueNotFound {
                topic: known.name.clone(),
                queue: queue.0,
                queues: known.queues(),
            },
            None => EngineError::Ticket("names a topic that has been deleted".to_owned()),
        })
    }
}
