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

/// How often old rows are looked for, and how full the disk is. File systems may take half of that to show the
/// room that an unlinked file gave back.
const INTERVAL: Duration = Duration::from_secs(60);

/// Ends old rows until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core), core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut closing: tokio::sync::watch::Receiver<bool>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        for topic in topics(&core) {
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

fn topics(core: &Core) -> Vec<Arc<Topic>> {
    core.topics.read().by_id.values().cloned().collect()
}

/// Ends the rows of the oldest segments of the log, as many as bring the disk back to what it may be filled.
/// The segment that is written to stays, and so do all from one on that a topic without a retention needs.
///
/// The disk is asked once: where an unlinked file gives its room back late, or never because of a snapshot or
/// a second name, asking again and again would end everything at once.
async fn make_room(core: &Arc<Core>) -> Result<(), EngineError> {
    let mut excess = excess_bytes(core.storage.space()?, core.options.retention_disk_percent);
    while excess > 0 && !*core.closing.borrow() {
        let Some(oldest) = core.storage.oldest_sealed_segment() else { return Ok(()) };
        let (worker, end) = (Arc::clone(core), oldest.end);
        core.reads.run(move || end_rows_before(&worker, end)).await??;
        if core.storage.oldest_sealed_segment().as_ref() == Some(&oldest) {
            // Somebody still needs it; more rows need not end before it can go.
            return Ok(());
        }
        tracing::warn!(excess, before = %end, "the oldest rows ended: the disk is too full");
        excess = excess.saturating_sub(oldest.end.0 - oldest.start.0);
    }
    Ok(())
}

/// How many bytes are in use above `percent` of the disk.
fn excess_bytes(space: Space, percent: u8) -> u64 {
    let used = space.total.saturating_sub(space.free);
    let allowed = u128::from(space.total) * u128::from(percent) / 100;
    used.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
}

/// Ends the rows that lie before `end`, unless a topic without a retention has some.
fn end_rows_before(core: &Core, end: LogPosition) -> Result<(), EngineError> {
    let topics = topics(core);
    let mut firsts = Vec::new();
    for topic in &topics {
        for queue in (0..topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(topic.id, queue) else { continue };
            let first = offset_at_position(&view, end);
            if first <= view.range().start {
                continue;
            }
            if topic.retention().is_none() {
                tracing::warn!(
                    topic = %topic.name,
                    "the disk is too full, and this topic keeps all its messages and has the oldest ones: give it a \
                     retention, delete it, or free some disk space"
                );
                return Ok(());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excess_is_what_lies_above_the_bound() {
        for (free, total, percent, excess) in
            [(20, 100, 80, 0), (19, 100, 80, 1), (0, 100, 100, 0), (0, 0, 80, 0), (200, 100, 80, 0)]
        {
            assert_eq!(excess_bytes(Space { free, total }, percent), excess, "{free} of {total}");
        }
        assert_eq!(excess_bytes(Space { free: 0, total: u64::MAX }, 100), 0);
    }
}
