//! Retention: rows end when they were stored longer ago than their topic keeps them, when their topic takes too
//! many bytes of the log, and the oldest of all before that while the log is too large or the disk too full.
//!
//! Time waits for groups that still need the rows, up to a bound; sizes do not (`docs/adr/0011`).

use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, Weak},
    time::Duration,
};

use weir_storage::{LogPosition, QueueId, QueueOffset, QueueView, SealedSegment, Space};

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
    let (retention, bytes_max) = (topic.retention(), topic.retention_bytes());
    if retention.is_none() && bytes_max.is_none() {
        return Ok(());
    }
    let (worker, topic) = (Arc::clone(core), Arc::clone(topic));
    let work = move || {
        if let Some(retention) = retention {
            end_by_time(&worker, &topic, retention)?;
        }
        if let Some(bytes_max) = bytes_max {
            end_by_size(&worker, &topic, bytes_max)?;
        }
        Ok(())
    };
    core.reads.run(work).await?
}

fn end_by_time(core: &Core, topic: &Topic, retention: Duration) -> Result<(), EngineError> {
    let before = |age: Duration| {
        core.time.wall_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
    };
    let hold = core.options.retention_hold;
    for (queue, view) in views(core, topic) {
        let due = offset_at_time(&view, before(retention))?;
        if due <= view.range().start {
            continue;
        }
        let needed = needed_from(core, topic, queue, &view).filter(|needed| !hold.is_zero() && *needed < due);
        let first = match needed {
            None => due,
            Some(needed) => needed.max(offset_at_time(&view, before(retention.saturating_add(hold)))?),
        };
        if first > view.range().start {
            core.storage.set_first_offset(topic.id, queue, first)?;
            tracing::info!(topic = %topic.name, %queue, %first, "rows ended by retention");
        }
    }
    Ok(())
}

/// Returns the first row that some group is not done with.
fn needed_from(core: &Core, topic: &Topic, queue: QueueId, view: &QueueView) -> Option<QueueOffset> {
    let range = view.range();
    topic.readers().iter().filter_map(|reader| reader.needs_from(core, queue, &range)).min()
}

fn end_by_size(core: &Core, topic: &Topic, bytes_max: u64) -> Result<(), EngineError> {
    let views = views(core, topic);
    let Some(cut) = cut_by_size(&views, bytes_max) else { return Ok(()) };
    for (queue, view) in &views {
        let first = offset_at_position(view, cut);
        if first > view.range().start {
            core.storage.set_first_offset(topic.id, *queue, first)?;
            tracing::info!(topic = %topic.name, %queue, %first, bytes_max, "rows ended: the topic is too large");
        }
    }
    Ok(())
}

/// The queues of a topic that have rows.
fn views(core: &Core, topic: &Topic) -> Vec<(QueueId, QueueView)> {
    let view = |queue| core.storage.view(topic.id, queue).map(|view| (queue, view));
    (0..topic.queues()).map(QueueId).filter_map(view).filter(|(_, view)| !view.range().is_empty()).collect()
}

/// Returns the highest position of the log from which on rows take `bytes_max` or more, if those before it take
/// anything: a topic keeps its newest rows up to the one with which they reach the bound.
fn cut_by_size(views: &[(QueueId, QueueView)], bytes_max: u64) -> Option<LogPosition> {
    let all: u64 = views.iter().map(|(_, view)| view.record_bytes(view.range())).sum();
    let excess = all.checked_sub(bytes_max).filter(|excess| *excess > 0)?;
    let before = |position| {
        let of_queue = |view: &QueueView| {
            view.record_bytes(view.range().start..offset_at_position(view, LogPosition(position)))
        };
        views.iter().map(|(_, view)| of_queue(view)).sum::<u64>()
    };
    let end = views.iter().filter_map(|(_, view)| last_position(view)).max()?;
    let (mut low, mut high) = (0, end.0.saturating_add(1));
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if before(middle) <= excess { low = middle } else { high = middle }
    }
    (before(low) > 0).then_some(LogPosition(low))
}

/// Where the last row of a queue lies in the log, or a position behind it.
fn last_position(view: &QueueView) -> Option<LogPosition> {
    let run = view.runs().last().and_then(|run| run.positions().ok()?.values().last().copied());
    let segment =
        || view.segments().last().map(|segment| *segment.block_positions(segment.blocks() - 1).end());
    run.map(LogPosition).or_else(segment)
}

fn topics(core: &Core) -> Vec<Arc<Topic>> {
    core.topics.read().by_id.values().cloned().collect()
}

/// Why rows end though their topics would keep them.
#[derive(Clone, Copy, Debug)]
enum Pressure {
    Disk,
    Log,
}

impl Pressure {
    const fn text(self) -> &'static str {
        match self {
            Self::Disk => "the disk is too full",
            Self::Log => "the log is larger than retention-bytes allows",
        }
    }
}

/// Ends the rows of the oldest segments of the log, as many as bring the disk back to what it may be filled, and
/// the log to the size that it may have. The segment that is written to stays, and so do all from one on that a
/// topic without a retention needs.
///
/// What has ended gives its room back later, where it lies behind a segment that is still needed, or a copy is being
/// made: that room counts as given back, and no more rows end for it.
///
/// The disk is asked once: where an unlinked file gives its room back late, or never because of a snapshot or
/// a second name, asking again and again would end everything at once.
async fn make_room(core: &Arc<Core>) -> Result<(), EngineError> {
    let on_disk = excess_bytes(core.storage.space()?, core.options.retention_disk_percent);
    let log_bytes = core.storage.log_bytes()?;
    let log_max = match core.options.retention_bytes {
        None | Some(0) => u64::MAX,
        Some(bytes_max) => bytes_max,
    };
    let (allowed, pressure) = if on_disk > 0 && log_bytes.saturating_sub(on_disk) <= log_max {
        (log_bytes.saturating_sub(on_disk), Pressure::Disk)
    } else {
        (log_max, Pressure::Log)
    };
    if log_bytes <= allowed {
        return Ok(());
    }
    for segment in core.storage.sealed_segments() {
        let worker = Arc::clone(core);
        let work = move || end_rows_of(&worker, &segment, allowed, pressure);
        if *core.closing.borrow() || core.reads.run(work).await??.is_break() {
            break;
        }
    }
    Ok(())
}

/// Ends the rows of a segment and of those before it, if the log will take more than is `allowed` otherwise.
///
/// Of a segment that pending messages keep, or that lies behind one, compaction takes the rest. If it will not, to end rows
/// in it would free nothing, and they stay, and so do all others.
fn end_rows_of(
    core: &Core,
    segment: &SealedSegment,
    allowed: u64,
    pressure: Pressure,
) -> Result<ControlFlow<()>, EngineError> {
    let storage = &core.storage;
    let will_take = storage.log_bytes_when_compacted()?;
    if will_take <= allowed {
        return Ok(ControlFlow::Break(()));
    }
    let end = segment.range.end;
    let may_end = !core.has_pending_before(end)
        || storage.would_be_small(segment.range.start, core.pending_bytes(segment.range.clone()))?;
    match end_rows_before(core, end, may_end, pressure)? {
        None => return Ok(ControlFlow::Break(())),
        Some(false) => return Ok(ControlFlow::Continue(())),
        Some(true) => {
            tracing::warn!(will_take, allowed, before = %end, "the oldest rows ended: {}", pressure.text());
        }
    }
    let is_small = segment.bytes <= core.options.storage.compaction_bytes_min;
    if is_small || storage.log_bytes_when_compacted()? < will_take {
        return Ok(ControlFlow::Continue(()));
    }
    // Somebody still needs it: no more rows end in this round.
    Ok(ControlFlow::Break(()))
}

/// How many bytes are in use above `percent` of the disk.
fn excess_bytes(space: Space, percent: u8) -> u64 {
    let used = space.total.saturating_sub(space.free);
    let allowed = u128::from(space.total) * u128::from(percent) / 100;
    used.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
}

/// Ends the rows that lie before `end`. Returns whether there were any, or `None` if some stay, and so do all others: a topic
/// without a retention has them, or none `may_end` since pending messages keep what they take.
fn end_rows_before(
    core: &Core,
    end: LogPosition,
    may_end: bool,
    pressure: Pressure,
) -> Result<Option<bool>, EngineError> {
    let topics = topics(core);
    let mut firsts: Vec<(&Arc<Topic>, QueueId, QueueOffset)> = Vec::new();
    for topic in &topics {
        for (queue, view) in views(core, topic) {
            let first = offset_at_position(&view, end);
            if first <= view.range().start {
                continue;
            }
            if topic.keeps_all() {
                tracing::warn!(
                    topic = %topic.name,
                    "{}, and this topic keeps all its messages and has the oldest ones: give it a retention, delete \
                     it, or make some room",
                    pressure.text()
                );
                return Ok(None);
            }
            firsts.push((topic, queue, first));
        }
    }
    if firsts.is_empty() {
        return Ok(Some(false));
    }
    if !may_end {
        tracing::warn!(
            before = %end,
            "{}, and messages that are delayed or in transactions keep the oldest segments of the log, which cannot be \
             compacted: make some room",
            pressure.text()
        );
        return Ok(None);
    }
    for (topic, queue, first) in firsts {
        core.storage.set_first_offset(topic.id, queue, first)?;
        tracing::info!(topic = %topic.name, %queue, %first, "rows ended before their time: {}", pressure.text());
    }
    core.storage.checkpoint()?;
    Ok(Some(true))
}

impl Core {
    /// Returns how many bytes pending messages keep in a range of the log.
    fn pending_bytes(&self, range: Range<LogPosition>) -> u64 {
        let Some(topic) = self.pending.topic() else { return 0 };
        let bytes = |view: &QueueView| {
            let rows = offset_at_position(view, range.start)..offset_at_position(view, range.end);
            view.record_bytes(rows)
        };
        views(self, topic).iter().map(|(_, view)| bytes(view)).sum()
    }

    /// Returns whether a pending message lies before a position of the log.
    fn has_pending_before(&self, end: LogPosition) -> bool {
        let Some(topic) = self.pending.topic() else { return false };
        views(self, topic).iter().any(|(_, view)| offset_at_position(view, end) > view.range().start)
    }
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
