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
    rows::{Found, peek, read},
};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::{HALF_KEPT_MAX, TRANSACTION_CHECK_INTERVAL, TRANSACTION_CHECKS_MAX},
    name::TopicName,
};

/// Transactions that are asked about in one round.
const ROUND_MAX: usize = 256;
/// Bodies that are read for it, in bytes, but for the last one.
const BYTES_MAX: usize = 8 << 20;
/// When a transaction is looked at again that could not be looked at, or whose producers were busy.
const SOON: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_secs(3);
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

/// Whether somebody can be asked about transactions of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// There is no live producer.
    Nobody,
    /// All there are have not read the last questions yet.
    Busy,
    /// One can be asked.
    Ready,
}

/// Who knows producers, and how to ask them.
pub trait AskProducer: Send + Sync {
    /// Returns whether a live producer of the topic can be asked now. Must not block.
    fn readiness(&self, topic: &TopicName) -> Readiness;

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
#[derive(Debug)]
pub(super) struct Checks {
    /// When the next question is due, of which row, and how many were asked.
    next: BTreeMap<(i64, QueueOffset), u32>,
    /// Since when somebody could have been asked.
    since: Duration,
}

impl Checks {
    /// Knows of nothing yet; somebody can be asked since `since`.
    pub(super) const fn new(since: Duration) -> Self {
        Self { next: BTreeMap::new(), since }
    }

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
        let since = self.since;
        let mut dropped = Vec::new();
        let (mut bytes, mut has_more) = (0, true);
        for _ in 0..ROUND_MAX {
            let now_ms = core.time.wall_ms();
            let Some(entry) = self.next.first_entry().filter(|entry| entry.key().0 <= now_ms) else {
                has_more = false;
                break;
            };
            let ((_, offset), asked) = entry.remove_entry();
            let Some(row) = core.pending_row(HALF, offset) else { continue };
            match ask_about(core, row, asked, since, &mut bytes).await {
                Ok(Next::Ended) => {}
                Ok(Next::Drop(claim)) => dropped.push((claim, asked)),
                // From now on, and not from before: the producer has all this time to answer.
                Ok(Next::Again(asked, after)) => self.again(core.time.wall_ms(), offset, asked, after),
                Err(error) => {
                    tracing::warn!(%error, %offset, "a transaction cannot be looked at now");
                    self.again(core.time.wall_ms(), offset, asked, SOON);
                }
            }
            if bytes >= BYTES_MAX {
                break;
            }
        }
        if let Err(error) = core.drop_rows(dropped.iter().map(|(claim, _)| claim.row()).collect()).await {
            tracing::warn!(%error, "transactions cannot be given up now");
            let now_ms = core.time.wall_ms();
            dropped.iter().for_each(|(claim, asked)| self.again(now_ms, claim.row().offset, *asked, SOON));
        }
        has_more
    }

    fn again(&mut self, now_ms: i64, offset: QueueOffset, asked: u32, after: Duration) {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        self.next.insert((now_ms.saturating_add(after), offset), asked);
    }
}

/// What is to be done with a transaction next.
enum Next {
    /// It has ended.
    Ended,
    /// Its row is to be dropped.
    Drop(Claim),
    /// It has been asked about so often, and is to be looked at again after this time.
    Again(u32, Duration),
}

/// Asks about one transaction. Adds to `bytes` what was read of its body.
async fn ask_about(
    core: &Arc<Core>,
    row: PendingRow,
    asked: u32,
    since: Duration,
    bytes: &mut usize,
) -> Result<Next, EngineError> {
    let Some(claim) = Claim::on(core, row) else {
        // Its end is under way.
        return Ok(Next::Again(asked, TRANSACTION_CHECK_INTERVAL));
    };
    if core.is_done(&row) {
        return Ok(Next::Ended);
    }
    let now_ms = core.time.wall_ms();
    let reader = Arc::clone(core);
    let peeked = core.reads.run(move || peek(&reader, &row)).await?;
    if let Some((target, store_time_ms, message_id)) = peeked {
        let Some(topic) = core.target(&target) else { return Ok(Next::Drop(claim)) };
        let age_ms = now_ms.saturating_sub(store_time_ms);
        let is_too_old = u128::try_from(age_ms).is_ok_and(|age| age >= HALF_KEPT_MAX.as_millis());
        // After a long stop, a producer is asked once more before, or has all this time to come back.
        let had_a_chance = asked > 0 || core.time.now().saturating_sub(since) >= HALF_KEPT_MAX;
        if asked >= TRANSACTION_CHECKS_MAX || (is_too_old && had_a_chance) {
            core.pending.given_up.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                topic = %topic.name, message_id, asked,
                "a transaction is given up: nobody has ended it"
            );
            return Ok(Next::Drop(claim));
        }
        // A body is read for somebody alone.
        match askers(core).iter().map(|asker| asker.readiness(&topic.name)).max() {
            None | Some(Readiness::Nobody) => return Ok(Next::Again(asked, TRANSACTION_CHECK_INTERVAL)),
            Some(Readiness::Busy) => return Ok(Next::Again(asked, BUSY)),
            Some(Readiness::Ready) => {}
        }
    }
    let reader = Arc::clone(core);
    let stored = match core.reads.run(move || read(&reader, &row)).await?? {
        Found::Message(stored) => stored,
        Found::Lost | Found::NoRow => return Ok(Next::Drop(claim)),
        Found::Damaged(_) => return Ok(Next::Ended),
    };
    *bytes += stored.message.body.len();
    let topic = stored.message.pending.and_then(|target| core.target(&target));
    let Some(topic) = topic else { return Ok(Next::Drop(claim)) };
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
    let was_asked = askers(core).iter().any(|asker| asker.ask(&orphan));
    Ok(match was_asked {
        true => Next::Again(asked + 1, TRANSACTION_CHECK_INTERVAL),
        // The room that there was has just been taken.
        false => Next::Again(asked, BUSY),
    })
}

fn askers(core: &Core) -> Vec<Arc<dyn AskProducer>> {
    core.pending.askers.read().iter().filter_map(std::sync::Weak::upgrade).collect()
}
