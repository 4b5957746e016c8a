//! Messages that are not visible yet: delayed ones and those of transactions that have not ended.
//!
//! Each is a row of the pending topic, which nobody can name. A row is *done* when its message was released into the
//! topic that it is for, recalled, rolled back or given up. Storage knows which are, and keeps that over every kind of
//! stop (`docs/adr/0014`). One task releases what is due, and asks producers about transactions; it is told of new rows by
//! their becoming visible, and finds all others by their column `due`, so that nothing depends on what was in memory.

mod accept;
mod check;
mod claim;
mod due;
mod handle;
mod place;
mod recall;
mod release;
mod rows;
mod transaction;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};
use weir_storage::{PendingRow, QueueId, QueueOffset, Storage, TopicId};

pub use self::{
    accept::Sent,
    check::{AskProducer, OrphanedTransaction, Readiness},
    transaction::Resolution,
};
pub(crate) use self::{accept::is_pending, release::spawn};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    name::TopicName,
    topic::Topic,
};

/// What is known of pending messages beside their rows.
#[derive(Default)]
pub(crate) struct Pending {
    /// The pending topic, once there is one.
    topic: OnceLock<Arc<Topic>>,
    /// There are new rows, or something else for the task to do.
    wake: Arc<Notify>,
    /// Rows that somebody is about to end.
    claims: Mutex<HashSet<PendingRow>>,
    /// Somebody has dropped a claim.
    freed: Notify,
    /// Those who know producers.
    askers: RwLock<Vec<Weak<dyn AskProducer>>>,
    given_up: AtomicU64,
    dropped: Mutex<Dropped>,
}

/// Half messages that nobody has rolled back and that ended all the same, the last ones: their commit is no success.
#[derive(Default)]
struct Dropped {
    rows: HashSet<PendingRow>,
    order: VecDeque<PendingRow>,
}

impl Dropped {
    fn insert(&mut self, row: PendingRow) {
        if self.rows.insert(row) {
            self.order.push_back(row);
        }
        if self.order.len() > DROPPED_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.rows.remove(&first);
        }
    }
}

/// Dropped half messages that are remembered.
const DROPPED_MAX: usize = 65_536;

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("topic", &self.topic.get()).finish_non_exhaustive()
    }
}

impl Pending {
    /// Takes over the pending topic of a data directory, if it has one.
    pub(crate) fn of(storage: &Storage) -> Self {
        let pending = Self::default();
        if let Some(entry) = storage.pending_topic() {
            // Nobody else sets it.
            let _ = pending.topic.set(Arc::new(Topic::named(&entry, TopicName::pending())));
        }
        pending
    }

    /// Returns the pending topic, if this is its id.
    pub(crate) fn topic_with(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topic().filter(|topic| topic.id == id)
    }

    pub(crate) fn topic(&self) -> Option<&Arc<Topic>> {
        self.topic.get()
    }

    /// Says that rows have become visible.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns the pending topic, making it first if there is none.
    async fn topic_or_make(&self, core: &Core) -> Result<Arc<Topic>, EngineError> {
        if let Some(topic) = self.topic() {
            return Ok(Arc::clone(topic));
        }
        let _catalogue = core.catalogue.lock().await;
        let entry = core.blocking(|storage| storage.make_pending_topic(place::QUEUES)).await?;
        let topic = self.topic.get_or_init(|| Arc::new(Topic::named(&entry, TopicName::pending())));
        Ok(Arc::clone(topic))
    }
}

impl Core {
    /// Ends pending rows without releasing them; they are durably done when this returns.
    async fn discard(&self, rows: Vec<PendingRow>) -> Result<(), EngineError> {
        if rows.is_empty() {
            return Ok(());
        }
        let (told, outcome) = oneshot::channel();
        // Nobody is left to hear it if the receiver is gone.
        self.storage.discard(&rows, Box::new(move |result| drop(told.send(result))));
        outcome.await.map_err(|_| EngineError::Closed)?.map_err(EngineError::from)
    }

    /// As [`discard`](Self::discard), of rows that nobody asked to end.
    async fn drop_rows(&self, rows: Vec<PendingRow>) -> Result<(), EngineError> {
        {
            let mut dropped = self.pending.dropped.lock();
            rows.iter().filter(|row| row.queue == place::HALF).for_each(|row| dropped.insert(*row));
        }
        self.discard(rows).await
    }

    fn was_dropped(&self, row: &PendingRow) -> bool {
        self.pending.dropped.lock().rows.contains(row)
    }

    /// Waits until rows that are [done](Self::is_done) are durably so: what ended them may not have been written yet.
    async fn done_durably(&self) -> Result<(), EngineError> {
        let (told, outcome) = oneshot::channel();
        // Nobody is left to hear it if the receiver is gone.
        self.storage.when_discarded(Box::new(move |result| drop(told.send(result))));
        outcome.await.map_err(|_| EngineError::Closed)?.map_err(EngineError::from)
    }

    /// Returns whether a row is done, or so old that no row before the first one can be anything else.
    fn is_done(&self, row: &PendingRow) -> bool {
        self.storage.is_done(row) || row.offset < self.range(row.topic, row.queue).start
    }

    fn pending_row(&self, queue: QueueId, offset: QueueOffset) -> Option<PendingRow> {
        self.pending.topic().map(|topic| PendingRow { topic: topic.id, queue, offset })
    }
}

impl Broker {
    /// Returns how many transactions were given up since the start, because nobody ended them.
    pub fn transactions_given_up(&self) -> u64 {
        self.core.pending.given_up.load(Ordering::Relaxed)
    }
}
