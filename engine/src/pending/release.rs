//! The task that releases what is due, asks about transactions, and lets the pending topic end what is done.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::watch;
use weir_storage::{Append, PendingRow, PendingTarget, QueueId, QueueOffset, StorageError, StoredMessage};

use super::{
    check::Checks,
    claim::Claim,
    due::{DueRows, Key},
    place::HALF,
    rows::{Found, due_within, read},
};
use crate::{broker::Core, error::EngineError, publish::with_queues, topic::Topic};

/// What is due within this time is known in memory.
const WINDOW_MS: i64 = 120_000;
/// How many rows of each kind are looked for at once.
const KNOWN_MAX: usize = 250_000;
/// Rows that are released at once, up to so many bytes of bodies.
const ROWS_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 8 << 20;
/// What failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How often rows that are done end.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// The clock on the wall may be set: it is looked at so often at least.
const LOOK: Duration = Duration::from_secs(5);

/// Runs the task until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core), core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut closing: watch::Receiver<bool>) {
    let mut known = Known::new();
    let mut checks = Checks::default();
    let mut house = Duration::ZERO;
    loop {
        let Some(core) = core.upgrade() else { return };
        let wake = Arc::clone(&core.pending.wake);
        let mut next = core.time.now() + LOOK;
        if let Some(topic) = core.pending.topic().cloned() {
            next = round(&core, &topic, &mut known, &mut checks).await.unwrap_or_else(|error| {
                if !*core.closing.borrow() {
                    tracing::warn!(%error, "pending messages cannot be looked at now");
                }
                core.time.now() + RETRY
            });
            if core.time.now() >= house {
                if let Err(error) = end_done(&core, &topic).await {
                    tracing::warn!(%error, "pending messages that are done cannot end now");
                }
                house = core.time.now() + HOUSEKEEPING;
            }
        }
        let time = core.time.clone();
        // The core is not held while nothing happens, so that a broker that is dropped goes away.
        drop(core);
        tokio::select! {
            () = wake.notified() => {}
            () = time.sleep_until(next) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

/// Does what is due; returns the moment until which there is nothing to do.
async fn round(
    core: &Arc<Core>,
    topic: &Arc<Topic>,
    known: &mut Known,
    checks: &mut Checks,
) -> Result<Duration, EngineError> {
    loop {
        let now_ms = core.time.wall_ms();
        look(core, topic, known, checks, now_ms).await?;
        let mut keys = known.delayed.take(now_ms, ROWS_AT_ONCE);
        let is_idle = keys.is_empty();
        let failed = release_due(core, topic, &mut keys).await;
        known.delayed.put_back(keys);
        failed?;
        checks.begin(known.half.take(now_ms, checks.room()));
        let has_more = checks.ask(core).await;
        if *core.closing.borrow() || (is_idle && !has_more) {
            break;
        }
    }
    // First: if the clock is turned in between, the next round comes too early, not too late.
    let now = core.time.now();
    let now_ms = core.time.wall_ms();
    let half = known.half.next_ms().filter(|_| checks.room() > 0);
    let moments = [known.delayed.next_ms(), half, checks.next_ms()];
    let next = moments.into_iter().flatten().min().unwrap_or(i64::MAX);
    let rest = u64::try_from(next.saturating_sub(now_ms)).unwrap_or(0);
    Ok(now + Duration::from_millis(rest).min(LOOK))
}

/// What the task knows of the rows. All of it can be found again.
#[derive(Debug)]
struct Known {
    delayed: DueRows,
    half: DueRows,
    /// Of each queue: rows below have been looked at.
    seen: BTreeMap<QueueId, QueueOffset>,
    /// Rows of which the log has no record.
    lost: Vec<PendingRow>,
}

impl Known {
    fn new() -> Self {
        let (delayed, half) = (DueRows::new(KNOWN_MAX), DueRows::new(KNOWN_MAX));
        Self { delayed, half, seen: BTreeMap::new(), lost: Vec::new() }
    }

    /// Takes note of rows that have come, and of those that are due soon.
    fn look(&mut self, core: &Core, topic: &Topic, now_ms: i64) -> Result<(), EngineError> {
        for queue in (0..topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(topic.id, queue) else { continue };
            self.seen.entry(queue).or_insert_with(|| view.range().end);
        }
        self.look_at_new(core, topic)?;
        let wanted_ms = now_ms.saturating_add(WINDOW_MS / 2);
        let until_ms = now_ms.saturating_add(WINDOW_MS);
        let delayed: Vec<QueueId> = (0..topic.queues()).map(QueueId).filter(|queue| *queue != HALF).collect();
        let times = (wanted_ms, until_ms);
        widen(&mut self.delayed, core, topic, &delayed, &self.seen, times, &mut self.lost)?;
        widen(&mut self.half, core, topic, &[HALF], &self.seen, times, &mut self.lost)
    }

    fn look_at_new(&mut self, core: &Core, topic: &Topic) -> Result<(), EngineError> {
        for (queue, seen) in &mut self.seen {
            let Some(view) = core.storage.view(topic.id, *queue) else { continue };
            let end = view.range().end;
            if *seen >= end {
                continue;
            }
            let known = if *queue == HALF { &mut self.half } else { &mut self.delayed };
            let lost = &mut self.lost;
            due_within(&view, *seen..end, (i64::MIN, i64::MAX), &mut |offset, due_ms| {
                let row = PendingRow { topic: topic.id, queue: *queue, offset };
                match due_ms {
                    Some(due_ms) if !core.storage.is_done(&row) => known.offer((due_ms, *queue, offset)),
                    Some(_) => {}
                    None => lost.push(row),
                }
            })?;
            *seen = end;
        }
        Ok(())
    }
}

fn widen(
    known: &mut DueRows,
    core: &Core,
    topic: &Topic,
    queues: &[QueueId],
    seen: &BTreeMap<QueueId, QueueOffset>,
    (wanted_ms, until_ms): (i64, i64),
    lost: &mut Vec<PendingRow>,
) -> Result<(), EngineError> {
    let Some(mut widening) = known.widen(wanted_ms, until_ms) else { return Ok(()) };
    for queue in queues {
        let (Some(view), Some(seen)) = (core.storage.view(topic.id, *queue), seen.get(queue)) else {
            continue;
        };
        let times = widening.times();
        due_within(&view, view.range().start..*seen, times, &mut |offset, due_ms| {
            let row = PendingRow { topic: topic.id, queue: *queue, offset };
            match due_ms {
                Some(due_ms) if !core.storage.is_done(&row) => widening.offer((due_ms, *queue, offset)),
                Some(_) => {}
                None => lost.push(row),
            }
        })?;
    }
    known.widened(widening);
    Ok(())
}

async fn look(
    core: &Arc<Core>,
    topic: &Arc<Topic>,
    known: &mut Known,
    checks: &mut Checks,
    now_ms: i64,
) -> Result<(), EngineError> {
    let mut taken = std::mem::replace(known, Known::new());
    let (worker, of_worker) = (Arc::clone(core), Arc::clone(topic));
    let looked = core.reads.run(move || {
        let result = taken.look(&worker, &of_worker, now_ms);
        (taken, result)
    });
    match looked.await {
        Ok((taken, result)) => {
            *known = taken;
            result?;
        }
        Err(error) => {
            // What was known is gone, and is found again.
            *checks = Checks::default();
            return Err(error);
        }
    }
    let lost: Vec<PendingRow> = std::mem::take(&mut known.lost);
    let lost: Vec<PendingRow> = lost.into_iter().filter(|row| !core.storage.is_done(row)).collect();
    if !lost.is_empty() {
        tracing::error!(rows = lost.len(), "pending messages are lost: their records were damaged");
        core.discard(lost).await?;
    }
    Ok(())
}

/// Releases rows that are due, and takes them from `keys`; those stay that are to be tried again.
async fn release_due(core: &Arc<Core>, topic: &Topic, keys: &mut Vec<Key>) -> Result<(), EngineError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut claims = Vec::with_capacity(keys.len());
    for key in keys.iter() {
        let row = PendingRow { topic: topic.id, queue: key.1, offset: key.2 };
        // Who recalls it has found out in a moment that it is due, or has recalled it.
        let claim = Claim::wait(core, row).await;
        if !core.is_done(&row) {
            claims.push(claim);
        }
    }
    let rows: Vec<PendingRow> = claims.iter().map(Claim::row).collect();
    let worker = Arc::clone(core);
    let read = core.reads.run(move || read_some(&worker, &rows)).await??;
    let mut gone = Vec::new();
    let mut batches: BTreeMap<_, (Arc<Topic>, Vec<StoredMessage>)> = BTreeMap::new();
    for (claim, found) in claims.iter().zip(read) {
        let Found::Message(stored) = found else {
            gone.push(claim.row());
            continue;
        };
        match stored.message.pending.and_then(|target| core.target(&target)) {
            Some(topic) => batches.entry(topic.id).or_insert((topic, Vec::new())).1.push(*stored),
            None => gone.push(claim.row()),
        }
    }
    core.discard(gone).await?;
    for (topic, messages) in batches.into_values() {
        release(core, topic, messages).await?;
    }
    keys.retain(|key| !core.is_done(&PendingRow { topic: topic.id, queue: key.1, offset: key.2 }));
    Ok(())
}

/// Reads the records of some rows, or of the first of them, if they are large.
fn read_some(core: &Core, rows: &[PendingRow]) -> Result<Vec<Found>, EngineError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let one = read(core, row)?;
        if let Found::Message(stored) = &one {
            bytes += stored.message.body.len();
        }
        found.push(one);
        if bytes >= BYTES_AT_ONCE {
            break;
        }
    }
    Ok(found)
}

/// Releases one row.
pub(super) async fn release_row(
    core: &Arc<Core>,
    claim: &Claim,
    stored: StoredMessage,
) -> Result<(), EngineError> {
    match stored.message.pending.and_then(|target| core.target(&target)) {
        Some(topic) => release(core, topic, vec![stored]).await,
        None => core.discard(vec![claim.row()]).await,
    }
}

/// Makes messages visible, which the caller has claims on; their rows are durably done when this returns.
async fn release(
    core: &Arc<Core>,
    topic: Arc<Topic>,
    messages: Vec<StoredMessage>,
) -> Result<(), EngineError> {
    let row_of = |stored: &StoredMessage| PendingRow {
        topic: stored.topic,
        queue: stored.queue,
        offset: stored.offset,
    };
    let rows: Vec<PendingRow> = messages.iter().map(row_of).collect();
    let visible = |stored: StoredMessage| {
        let row = row_of(&stored);
        let mut message = stored.message;
        (message.pending, message.released) = (None, Some(row));
        message
    };
    let batch: Vec<Append> = with_queues(&topic, messages.into_iter().map(visible).collect());
    match core.append(&topic, batch).await {
        Ok(_) => Ok(()),
        Err(EngineError::Storage(StorageError::UnknownTopic { .. })) => core.discard(rows).await,
        Err(error) => Err(error),
    }
}

/// Ends the rows before the first of each queue that is not done.
async fn end_done(core: &Arc<Core>, topic: &Arc<Topic>) -> Result<(), EngineError> {
    for queue in (0..topic.queues()).map(QueueId) {
        let range = core.range(topic.id, queue);
        let first = core.storage.first_not_done(topic.id, queue, range.start).min(range.end);
        if first > range.start {
            let id = topic.id;
            core.blocking(move |storage| storage.set_first_offset(id, queue, first)).await?;
        }
    }
    Ok(())
}

impl Core {
    /// Returns the topic that a pending message is for, unless it was deleted.
    pub(super) fn target(&self, target: &PendingTarget) -> Option<Arc<Topic>> {
        let topic = self.topics.read().by_id.get(&target.topic).cloned()?;
        let entry = self.storage.topic(topic.id)?;
        (entry.incarnation == target.incarnation).then_some(topic)
    }
}
