//! What a receive has leased, until it is answered: messages that reach nobody are given back.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use weir_storage::{JournalEntry, QueueId, StorageError, StoredMessage, Wait};

use super::{
    receive::Delivered,
    subscription::{Subscription, journaled},
};
use crate::{answers::HeldAnswer, broker::Core, error::EngineError, handle::Handle, limits::LEASE_OF_GONE};

/// Messages that are leased to a receive which has not returned yet: given back if it never does.
pub(super) struct Batch {
    core: Arc<Core>,
    subscription: Arc<Subscription>,
    pub(super) rows: Vec<Taken>,
    /// Counts their messages as in memory.
    held: HeldAnswer,
    /// Told when the journal has the leases.
    pub(super) written: Vec<oneshot::Receiver<Result<(), StorageError>>>,
}

/// A message of a [`Batch`].
pub(super) struct Taken {
    pub(super) queue: QueueId,
    pub(super) lease: u64,
    pub(super) attempt: u32,
    pub(super) length: Duration,
    pub(super) message: StoredMessage,
}

impl Batch {
    pub(super) fn new(core: &Arc<Core>, subscription: &Arc<Subscription>, held: HeldAnswer) -> Self {
        Self {
            core: Arc::clone(core),
            subscription: Arc::clone(subscription),
            rows: Vec::new(),
            held,
            written: Vec::new(),
        }
    }

    /// Hands the leases of messages to the journal.
    pub(super) fn journal(&mut self, leases: Vec<JournalEntry>, wait: Wait) {
        let (done, written) = oneshot::channel();
        // Nobody may be left to hear it.
        let done = Box::new(move |result| drop(done.send(result)));
        self.core.storage.journal(leases, wait, Some(done));
        self.written.push(written);
    }

    /// Returns the messages once the journal has their leases.
    pub(super) async fn deliver(mut self) -> Result<Vec<Delivered>, EngineError> {
        for written in std::mem::take(&mut self.written) {
            match journaled(written.await.ok()) {
                Ok(()) => {}
                // A full disk costs the attempt count after a restart, and no more; reads go on.
                Err(EngineError::DiskFull | EngineError::Busy(_)) => {
                    tracing::warn!("leases are not in the journal, for it is full or busy");
                }
                Err(error) => return Err(error),
            }
        }
        let (core, subscription) = (Arc::clone(&self.core), Arc::clone(&self.subscription));
        let held = self.held.clone();
        let deliver = |taken: Taken| {
            let handle = Handle {
                group: subscription.group,
                topic: subscription.topic.id,
                queue: taken.queue,
                offset: taken.message.offset,
                lease: taken.lease,
                epoch: core.epoch,
            };
            Delivered {
                attempt: taken.attempt,
                handle: handle.encode(&core.signer),
                lease: taken.length,
                message: taken.message,
                held: held.clone(),
            }
        };
        Ok(std::mem::take(&mut self.rows).into_iter().map(deliver).collect())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.rows.is_empty() {
            let rows = self.rows.drain(..).map(|taken| (taken.queue, taken.message.offset, taken.lease));
            self.subscription.give_back(&self.core, rows, LEASE_OF_GONE);
        }
    }
}
