//! The pending topic: messages that nobody may see yet.

use std::sync::{Arc, atomic::Ordering};

use super::{Inner, Storage, open::add_queues};
use crate::{
    catalogue::{Catalogue, DurabilityClass, NewTopic, TopicEntry},
    error::StorageError,
    journal::JournalDone,
    lock::Feature,
    message::PendingRow,
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// Where the pending topic stands among the topics: no client can name it so.
const NAMESPACE: &str = "weir";
const NAME: &str = "pending";

impl Storage {
    /// Returns the topic that holds pending messages, if there have been any.
    pub fn pending_topic(&self) -> Option<Arc<TopicEntry>> {
        self.handle.inner.pending_topic()
    }

    /// Returns the topic that holds pending messages, with at least so many queues; makes it at first. From then on programs
    /// that know nothing of them refuse the directory. Durable when this returns.
    ///
    /// # Errors
    ///
    /// If the catalogue or `FORMAT` cannot be written.
    pub fn make_pending_topic(&self, queues: u32) -> Result<Arc<TopicEntry>, StorageError> {
        let inner = &self.handle.inner;
        if let Some(topic) = inner.pending_topic().filter(|topic| topic.queues >= queues) {
            return Ok(topic);
        }
        inner.need(Feature::PendingMessages)?;
        let topic = match inner.pending_topic() {
            Some(topic) => inner.change(|catalogue| {
                let TopicEntry { id, class, compression, attributes, .. } = topic.as_ref();
                catalogue.alter_topic(*id, queues, *class, *compression, attributes.clone())
            }),
            None => inner.change(|catalogue| {
                catalogue.create_topic(NewTopic {
                    namespace: NAMESPACE.to_owned(),
                    name: NAME.to_owned(),
                    queues,
                    class: DurabilityClass::Sync,
                    attributes: "{}".to_owned(),
                    ..NewTopic::default()
                })
            }),
        }?;
        add_queues(&inner.queues, &topic);
        Ok(topic)
    }

    /// Says that pending rows are done without having been released; `done` runs when that is durable. Rows that are
    /// done already stay so.
    ///
    /// If `done` is told of an error that is not [`Closed`](StorageError::Closed) or
    /// [`NoSpace`](StorageError::NoSpace), the rows may be done all the same.
    pub fn discard(&self, rows: &[PendingRow], done: JournalDone) {
        self.handle.inner.discard(rows, done);
    }

    /// Returns whether a pending row is done: released, or discarded.
    pub fn is_done(&self, row: &PendingRow) -> bool {
        self.handle.inner.done.lock().contains(row)
    }

    /// Returns the first row of a queue of the pending topic from `from` on that is not safely done.
    pub fn first_not_done(&self, topic: TopicId, queue: QueueId, from: QueueOffset) -> QueueOffset {
        self.handle.inner.done.lock().first_open(topic, queue, from)
    }
}

pub(super) fn pending_topic(catalogue: &Catalogue) -> Option<Arc<TopicEntry>> {
    catalogue.topic_named(NAMESPACE, NAME)
}

impl Inner {
    fn pending_topic(&self) -> Option<Arc<TopicEntry>> {
        pending_topic(&self.catalogue)
    }

    /// Returns the position that a checkpoint may reach, at most `log`: releases below it are in the journal, durably.
    pub(super) fn below_releases(&self, log: LogPosition) -> Result<LogPosition, StorageError> {
        let wanted = self.done.lock().wants_sync();
        if let Some(written) = wanted {
            self.journal.sync().inspect_err(|error| self.fail(error.clone()))?;
            self.done.lock().entries_durable(written);
        }
        Ok(self.done.lock().held_at().map_or(log, |held| log.min(held)))
    }

    pub(super) fn forget_done_before(&self, topic: TopicId, queue: QueueId, first: QueueOffset) {
        self.done.lock().forget_before(topic, queue, first);
        self.has_ended.store(true, Ordering::Release);
    }
}
