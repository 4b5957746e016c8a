//! Asking producers what became of transactions that they have not ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use weir_storage::{PendingRow, QueueOffset, StoredMessage};

use super::{
    claim::Claim,
    due::Key,
    handle::{PendingHandle, Purpose},
    place::HALF,
    rows::{Found, read},
};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::{HALF_KEPT_MAX, TRANSACTION_CHECK_INTERVAL, TRANSACTION_CHECKS_MAX},
    name::TopicName,
};

/// Transactions that are asked about in one round.
const ROUND_MAX: usize = 256;
/// Transactions that have been asked about, and are to be asked about again.
const CHECKED_MAX: usize = 500_000;

/// A transaction that its producer has not ended in time.
#[derive(Clone, Debug)]
pub struct OrphanedTransaction {
    /// The topic of its message.
    pub topic: TopicName,
    /// Its message, as it was sent; its queue and offset mean nothing.
    pub message: StoredMessage,
    /// By this the transaction is [ended](Broker::end_transaction).
    pub transaction_id: String,
}

/// Who knows producers, and how to ask them.
pub trait AskProducer: Send + Sync {
    /// Asks a live producer of the topic what became of a transaction; its answer comes by
    /// [`Broker::end_transaction`]. Returns whether there was one to ask. Must not block.
    fn ask(&self, orphan: &OrphanedTransaction) -> bool;
}

impl Broker {
    /// Has producers asked by `asker`, too, as long as somebody else holds it.
    pub fn ask_producers_by(&self, asker: &Arc<dyn AskProducer>) {
        let mut askers = self.core.pending.askers.write();
        askers.retain(|asker| asker.strong_count() > 0);
        askers.push(Arc::downgrade(asker));
    }
}

/// Half messages that producers have been asked about.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// When the next question is due, of which row, and how many were asked.
    next: BTreeMap<(i64, QueueOffset), u32>,
    /// Since when somebody could have been asked.
    since: Option<Duration>,
}

impl Checks {
    /// Forgets what was asked; it is found again.
    pub(super) fn forget(&mut self) {
        self.next.clear();
    }

    /// Returns when the next question is due.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.next.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Returns how many half messages there is room for.
    pub(super) fn room(&self) -> usize {
        CHECKED_MAX.saturating_sub(self.next.len()).min(ROUND_MAX)
    }

    /// Takes half messages whose first question is due.
    pub(super) fn begin(&mut self, keys: Vec<Key>) {
        self.next.extend(keys.into_iter().map(|(due_ms, _, offset)| ((due_ms, offset), 0)));
    }

    /// Asks the questions that are due. Returns whether there are more.
    pub(super) async fn ask(&mut self, core: &Arc<Core>) -> bool {
        let since = *self.since.get_or_insert_with(|| core.time.now());
        for _ in 0..ROUND_MAX {
            let now_ms = core.time.wall_ms();
            let Some(entry) = self.next.first_entry().filter(|entry| entry.key().0 <= now_ms) else {
                return false;
            };
            let ((_, offset), asked) = entry.remove_entry();
            let Some(row) = core.pending_row(HALF, offset) else { return false };
            match ask_about(core, row, asked, since).await {
                Ok(None) => {}
                Ok(Some(asked)) => self.again(now_ms, offset, asked, TRANSACTION_CHECK_INTERVAL),
                Err(error) => {
                    tracing::warn!(%error, %offset, "a transaction cannot be looked at now");
                    self.again(now_ms, offset, asked, Duration::from_secs(1));
                }
            }
        }
        true
    }

    fn again(&mut self, now_ms: i64, offset: QueueOffset, asked: u32, after: Duration) {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        self.next.insert((now_ms.saturating_add(after), offset), asked);
    }
}

/// Asks about one transaction. Returns how often that was done by now, or `None` if the transaction has ended.
async fn ask_about(
    core: &Arc<Core>,
    row: PendingRow,
    asked: u32,
    since: Duration,
) -> Result<Option<u32>, EngineError> {
    let Some(claim) = Claim::on(core, row) else {
        // Its end is under way.
        return Ok(Some(asked));
    };
    if core.is_done(&row) {
        return Ok(None);
    }
    let reader = Arc::clone(core);
    let stored = match core.reads.run(move || read(&reader, &row)).await?? {
        Found::Message(stored) => stored,
        Found::Lost | Found::NoRow => {
            core.drop_rows(vec![claim.row()]).await?;
            return Ok(None);
        }
        Found::Damaged(_) => return Ok(None),
    };
    let topic = stored.message.pending.and_then(|target| core.target(&target));
    let Some(topic) = topic else {
        core.drop_rows(vec![claim.row()]).await?;
        return Ok(None);
    };
    let age_ms = core.time.wall_ms().saturating_sub(stored.store_time_ms);
    let is_too_old = u128::try_from(age_ms).is_ok_and(|age| age >= HALF_KEPT_MAX.as_millis());
    // After a long stop, a producer is asked once more before, or has all this time to come back.
    let had_a_chance = asked > 0 || core.time.now().saturating_sub(since) >= HALF_KEPT_MAX;
    if asked >= TRANSACTION_CHECKS_MAX || (is_too_old && had_a_chance) {
        core.drop_rows(vec![claim.row()]).await?;
        core.pending.given_up.fetch_add(1, Ordering::Relaxed);
        let (message_id, after) = (&stored.message.message_id, asked);
        tracing::warn!(
            topic = %topic.name, message_id, asked = after,
            "a transaction was given up: nobody has ended it"
        );
        return Ok(None);
    }
    let handle = PendingHandle { topic: topic.id, row };
    let mut message = *stored;
    message.message.pending = None;
    let orphan = OrphanedTransaction {
        topic: topic.name.clone(),
        message,
        transaction_id: handle.encode(Purpose::Transaction, &core.signer),
    };
    // An answer may come at once.
    drop(claim);
    let askers: Vec<_> = core.pending.askers.read().iter().filter_map(std::sync::Weak::upgrade).collect();
    let was_asked = askers.iter().any(|asker| asker.ask(&orphan));
    Ok(Some(asked + u32::from(was_asked)))
}
