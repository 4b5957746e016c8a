//! Retention: rows end when they were stored longer ago than their topic keeps them, and the oldest ones before
//! that while the disk is too full.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use weir_storage::{LogPosition, QueueId, Space};

use crate::{
    broker::Core,
    error::EngineError,
    scan::{offset_at_position, offset_at_time},
    topic::Topic,
};

/// How often it is asked how full the disk is.
const INTERVAL: Duration = Duration::from_secs(10);
/// Old rows are looked for every so many times.
const ROUNDS: u64 = 6;

/// Ends old rows until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core), core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut closing: tokio::sync::watch::Receiver<bool>) {
    for round in 0_u64.. {
        let Some(core) = core.upgrade() else { return };
        let is_due = round.is_multiple_of(ROUNDS);
        let topics: Vec<Arc<Topic>> = core.topics.read().by_id.values().cloned().collect();
        for topic in topics.into_iter().filter(|_| is_due) {
            if let Err(error) = end_old_rows(&core, &topic).await {
                tracing::warn!(%error, topic = %topic.name, "old rows cannot end now");
            }
        }
        if let Err(error) = make_room(&core).await {
            tracing::warn!(%error, "no room can be made on the disk now");
        }
        let time = core.time.clone();
        drop(core);
        let next = time.now() + INTERVAL;
        tokio::select! {
            () = time.sleep_until(next) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

async fn end_old_rows(core: &Arc<Core>, topic: &Arc<Topic>) -> Result<(), EngineError> {
    let Some(retention) = topic.retention() else { return Ok(()) };
    let oldest_ms =
        core.time.wall_ms().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    let (core, topic) = (Arc::clone(core), Arc::clone(topic));
    let reads = core.reads.clone();
    let work = move || {
        for queue in (0..topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(topic.id, queue) else { return Ok(()) };
            if view.range().is_empty() {
                continue;
            }
            let first = offset_at_time(&view, oldest_ms)?;
            if first > view.range().start {
                core.storage.set_first_offset(topic.id, queue, first)?;
                tracing::info!(topic = %topic.name, %queue, %first, "rows ended by retention");
            }
        }
        Ok(())
    };
    reads.run(work).await?
}

/// Ends the rows of the oldest segment of the log, and of the next, until the disk is no fuller than it may be.
/// The segment that is written to stays, and what topics without a retention hold.
async fn make_room(core: &Arc<Core>) -> Result<(), EngineError> {
    loop {
        let space = core.storage.space()?;
        if used_percent(space) <= u64::from(core.options.retention_disk_percent) || *core.closing.borrow() {
            return Ok(());
        }
        let Some(end) = core.storage.oldest_sealed_end() else { return Ok(()) };
        let worker = Arc::clone(core);
        core.reads.run(move || end_rows_before(&worker, end)).await??;
        if core.storage.oldest_sealed_end() == Some(end) {
            // Somebody still needs it; more rows need not end before it can go.
            return Ok(());
        }
        tracing::warn!(used_percent = used_percent(space), before = %end, "the oldest rows ended: the disk is too full");
    }
}

/// How much of the disk is in use, in percent rounded up.
fn used_percent(space: Space) -> u64 {
    let used = u128::from(space.total.saturating_sub(space.free)) * 100;
    u64::try_from(used.div_ceil(u128::from(space.total.max(1)))).unwrap_or(100)
}

fn end_rows_before(core: &Core, end: LogPosition) -> Result<(), EngineError> {
    let topics: Vec<Arc<Topic>> = core.topics.read().by_id.values().cloned().collect();
    let mut firsts = Vec::new();
    for topic in &topics {
        for queue in (0..topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(topic.id, queue) else { continue };
            let first = offset_at_position(&view, end)?;
            if first <= view.range().start {
                continue;
            }
            if topic.retention().is_none() {
                return Err(EngineError::Internal(format!(
                    "topic {} keeps all its messages and has the oldest ones; give it a retention, delete it, or \
                     free some disk space",
                    topic.name
                )));
            }
            firsts.push((topic, queue, first));
        }
    }
    for (topic, queue, first) in firsts {
        core.storage.set_first_offset(topic.id, queue, first)?;
        tracing::info!(topic = %topic.name, %queue, %first, "rows ended before their time: the disk is too full");
    }
    Ok(core.storage.checkpoint()?)
}
