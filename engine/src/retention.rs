//! Time retention: rows that were stored longer ago than their topic keeps them end.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use weir_storage::QueueId;

use crate::{broker::Core, error::EngineError, scan::offset_at_time, topic::Topic};

/// How often old rows are looked for.
const INTERVAL: Duration = Duration::from_secs(60);

/// Ends old rows until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core), core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut closing: tokio::sync::watch::Receiver<bool>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        let topics: Vec<Arc<Topic>> = core.topics.read().by_id.values().cloned().collect();
        for topic in topics {
            if let Err(error) = end_old_rows(&core, &topic).await {
                tracing::warn!(%error, topic = %topic.name, "old rows cannot end now");
            }
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
