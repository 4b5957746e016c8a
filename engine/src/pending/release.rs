//! The task that releases what is due, asks about transactions, and lets the pending topic end what is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::join_all;
use tokio::sync::watch;
use weir_storage::{
    Append, PendingRow, PendingTarget, QueueId, QueueOffset, QueueView, StorageError, StoredMessage,
};

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
/// After so many turns, or when housekeeping is due, a round ends, however much there is to do.
const TURNS_MAX: usize = 16;
/// Blocks that could not be read, and rows that could not be released, which are remembered to be tried again. More of
/// them hold up the others.
const UNREAD_MAX: usize = 4096;
const LATER_MAX: usize = 16_384;
/// What failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How often rows that are done end.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// The clock on the wall may be set: it is looked at so often at least.
const LOOK: Duration = Duration::from_secs(5);

/// Runs the task until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    let checks = Checks::new(core.time.now());
    tokio::spawn(run(Arc::downgrade(core), checks, core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut checks: Checks, mut closing: watch::Receiver<bool>) {
    let mut known = Known::new();
    let mut house = Duration::ZERO;
    loop {
        let Some(core) = core.upgrade() else { return };
        let wake = Arc::clone(&core.pending.wake);
        let mut next = core.time.now() + LOOK;
        if let Some(topic) = core.pending.topic().cloned() {
            next = round(&core, &topic, &mut known, &mut checks, house).await.unwrap_or_else(|error| {
                if !*core.closing.borrow() {
                    tracing::warn!(%error, "pending messages cannot be looked at now");
                }
                core.time.now() + RETRY
            });
            if core.time.now() >= house {
                end_done(&core, &topic).await;
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

/// Does what is due, but not for ever: at `house` there is something else to do. Returns the moment until which there is
/// nothing to do.
async fn round(
    core: &Arc<Core>,
    topic: &Arc<Topic>,
    known: &mut Known,
    checks: &mut Checks,
    house: Duration,
) -> Result<Duration, EngineError> {
    for _ in 0..TURNS_MAX {
        let now_ms = core.time.wall_ms();
        look(core, topic, known, checks, now_ms).await?;
        let mut keys = known.delayed.take(now_ms, ROWS_AT_ONCE);
        let is_idle = keys.is_empty();
        let failed = release_due(core, topic, &mut keys).await;
        known.delayed.put_back(keys);
        known.try_later(failed?, core.time.now())?;
        checks.begin(known.half.take(now_ms, checks.room()));
        let has_more = checks.ask(core).await;
        if *core.closing.borrow() || (is_idle && !has_more) {
            return Ok(next_moment(core, known, checks));
        }
        if core.time.now() >= house {
            break;
        }
    }
    Ok(core.time.now())
}

fn next_moment(core: &Core, known: &Known, checks: &Checks) -> Duration {
    // First: if the clock is turned in between, the next round comes too early, not too late.
    let now = core.time.now();
    let now_ms = core.time.wall_ms();
    let half = known.half.next_ms().filter(|_| checks.room() > 0);
    let moments = [known.delayed.next_ms(), half, checks.next_ms()];
    let next = moments.into_iter().flatten().min().unwrap_or(i64::MAX);
    let rest = u64::try_from(next.saturating_sub(now_ms)).unwrap_or(0);
    let next = now + Duration::from_millis(rest).min(LOOK);
    known.later.first().map_or(next, |(at, _)| next.min(*at))
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
    unread: Unread,
    /// Rows that could not be released, and when that is tried again.
    later: BTreeSet<(Duration, Key)>,
}

/// Rows of blocks that could not be read.
#[derive(Debug, Default)]
struct Unread {
    rows: BTreeSet<(QueueId, QueueOffset, QueueOffset)>,
    /// When they are read again.
    again: Duration,
    /// Some had no place any more.
    is_full: bool,
}

impl Unread {
    fn insert(&mut self, queue: QueueId, rows: Range<QueueOffset>, error: &StorageError) {
        let key = (queue, rows.start, rows.end);
        if self.rows.contains(&key) {
            return;
        }
        if self.rows.len() >= UNREAD_MAX {
            self.is_full = true;
            return;
        }
        self.rows.insert(key);
        tracing::error!(
            %error, %queue, first = %rows.start, end = %rows.end,
            "pending messages cannot be looked at; they wait until they can be read"
        );
    }

    fn check(&self) -> Result<(), EngineError> {
        let is_full = self.is_full;
        if is_full { Err(EngineError::Busy("too many pending messages cannot be read")) } else { Ok(()) }
    }
}

impl Known {
    fn new() -> Self {
        let (delayed, half) = (DueRows::new(KNOWN_MAX), DueRows::new(KNOWN_MAX));
        let (unread, later) = (Unread::default(), BTreeSet::new());
        Self { delayed, half, seen: BTreeMap::new(), lost: Vec::new(), unread, later }
    }

    /// Has rows that could not be released tried again later.
    fn try_later(&mut self, keys: Vec<Key>, now: Duration) -> Result<(), EngineError> {
        if self.later.len() + keys.len() > LATER_MAX {
            self.delayed.put_back(keys);
            return Err(EngineError::Busy("too many pending messages cannot be released"));
        }
        self.later.extend(keys.into_iter().map(|key| (now + RETRY, key)));
        Ok(())
    }

    /// Takes note of rows that have come, and of those that are due soon.
    fn look(&mut self, core: &Core, topic: &Topic, now_ms: i64) -> Result<(), EngineError> {
        let now = core.time.now();
        let not_yet =
            self.later.split_off(&(now + Duration::from_nanos(1), (i64::MIN, QueueId(0), QueueOffset(0))));
        let due = std::mem::replace(&mut self.later, not_yet);
        self.delayed.put_back(due.into_iter().map(|(_, key)| key));
        for queue in (0..topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(topic.id, queue) else { continue };
            self.seen.entry(queue).or_insert_with(|| view.range().end);
        }
        self.unread.is_full = false;
        if now >= self.unread.again {
            self.look_at_unread(core, topic);
            self.unread.again = now + LOOK;
        }
        self.look_at_new(core, topic)?;
        let wanted_ms = now_ms.saturating_add(WINDOW_MS / 2);
        let until_ms = now_ms.saturating_add(WINDOW_MS);
        let delayed: Vec<QueueId> = (0..topic.queues()).map(QueueId).filter(|queue| *queue != HALF).collect();
        self.widen(core, topic, &delayed, (wanted_ms, until_ms))?;
        self.widen(core, topic, &[HALF], (wanted_ms, until_ms))
    }

    fn look_at_new(&mut self, core: &Core, topic: &Topic) -> Result<(), EngineError> {
        let new: Vec<_> = self.seen.iter().map(|(queue, seen)| (*queue, *seen)).collect();
        for (queue, seen) in new {
            let Some(view) = core.storage.view(topic.id, queue) else { continue };
            let end = view.range().end;
            if seen < end {
                let mut failed = Vec::new();
                self.take_all(core, topic, &view, (queue, seen..end), &mut |rows, error| {
                    failed.push((rows, error));
                });
                failed.into_iter().for_each(|(rows, error)| self.unread.insert(queue, rows, &error));
                self.unread.check()?;
                self.seen.insert(queue, end);
            }
        }
        Ok(())
    }

    /// Tries once more what could not be read.
    fn look_at_unread(&mut self, core: &Core, topic: &Topic) {
        for (queue, first, end) in self.unread.rows.clone() {
            let mut has_failed = false;
            if let Some(view) = core.storage.view(topic.id, queue) {
                self.take_all(core, topic, &view, (queue, first..end), &mut |_, _| has_failed = true);
            }
            if !has_failed {
                self.unread.rows.remove(&(queue, first, end));
            }
        }
    }

    /// Takes note of rows of a queue, whenever they are due.
    fn take_all(
        &mut self,
        core: &Core,
        topic: &Topic,
        view: &QueueView,
        (queue, rows): (QueueId, Range<QueueOffset>),
        unread: &mut dyn FnMut(Range<QueueOffset>, StorageError),
    ) {
        let known = if queue == HALF { &mut self.half } else { &mut self.delayed };
        let lost = &mut self.lost;
        let mut each = |offset, due_ms| {
            let row = PendingRow { topic: topic.id, queue, offset };
            match due_ms {
                Some(due_ms) if !core.storage.is_done(&row) => known.offer((due_ms, queue, offset)),
                Some(_) => {}
                None => lost.push(row),
            }
        };
        due_within(view, rows, (i64::MIN, i64::MAX), &mut each, unread);
    }

    fn widen(
        &mut self,
        core: &Core,
        topic: &Topic,
        queues: &[QueueId],
        (wanted_ms, until_ms): (i64, i64),
    ) -> Result<(), EngineError> {
        let known = if queues == [HALF] { &mut self.half } else { &mut self.delayed };
        let Some(mut widening) = known.widen(wanted_ms, until_ms) else { return Ok(()) };
        let (lost, unread) = (&mut self.lost, &mut self.unread);
        for queue in queues.iter().copied() {
            let (Some(view), Some(seen)) = (core.storage.view(topic.id, queue), self.seen.get(&queue)) else {
                continue;
            };
            let times = widening.times();
            let mut each = |offset, due_ms| {
                let row = PendingRow { topic: topic.id, queue, offset };
                match due_ms {
                    Some(due_ms) if !core.storage.is_done(&row) => widening.offer((due_ms, queue, offset)),
                    Some(_) => {}
                    None => lost.push(row),
                }
            };
            due_within(&view, view.range().start..*seen, times, &mut each, &mut |rows, error| {
                unread.insert(queue, rows, &error);
            });
        }
        unread.check()?;
        known.widened(widening);
        Ok(())
    }
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
            checks.forget();
            return Err(error);
        }
    }
    let lost: Vec<PendingRow> = std::mem::take(&mut known.lost);
    let lost: Vec<PendingRow> = lost.into_iter().filter(|row| !core.storage.is_done(row)).collect();
    if !lost.is_empty() {
        tracing::error!(rows = lost.len(), "pending messages are lost: their records were damaged");
        core.drop_rows(lost).await?;
    }
    Ok(())
}

/// Releases rows that are due, and takes them from `keys`; those stay that are still to be tried. Returns those that could
/// not be released now.
async fn release_due(core: &Arc<Core>, topic: &Topic, keys: &mut Vec<Key>) -> Result<Vec<Key>, EngineError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut claims = Vec::with_capacity(keys.len());
    for key in keys.iter() {
        let row = PendingRow { topic: topic.id, queue: key.1, offset: key.2 };
        // Who recalls it has found out in a moment that it is due, or has recalled it.
        let claim = Claim::wait(core, row).await;
        if !core.is_done(&row) {
            claims.push((*key, claim));
        }
    }
    let rows: Vec<PendingRow> = claims.iter().map(|(_, claim)| claim.row()).collect();
    let worker = Arc::clone(core);
    let read = core.reads.run(move || read_some(&worker, &rows)).await?;
    let (mut gone, mut failed, mut damaged) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut batches: BTreeMap<_, (Arc<Topic>, Vec<Key>, Vec<StoredMessage>)> = BTreeMap::new();
    for ((key, claim), found) in claims.iter().zip(read) {
        let stored = match found {
            Ok(Found::Message(stored)) => stored,
            Ok(Found::Damaged(_)) => {
                damaged.insert(*key);
                continue;
            }
            Ok(Found::Lost | Found::NoRow) => {
                gone.push(claim.row());
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, row = ?claim.row(), "a pending message cannot be read now");
                failed.push(*key);
                continue;
            }
        };
        match stored.message.pending.and_then(|target| core.target(&target)) {
            Some(topic) => {
                let (_, keys, messages) = batches.entry(topic.id).or_insert((topic, Vec::new(), Vec::new()));
                keys.push(*key);
                messages.push(*stored);
            }
            None => gone.push(claim.row()),
        }
    }
    core.drop_rows(gone).await?;
    let released = join_all(batches.into_values().map(|(topic, keys, messages)| async move {
        let result = release(core, Arc::clone(&topic), messages).await;
        (topic, keys, result)
    }));
    for (topic, keys, result) in released.await {
        if let Err(error) = result {
            if !*core.closing.borrow() {
                tracing::warn!(%error, topic = %topic.name, rows = keys.len(), "messages cannot be released now");
            }
            failed.extend(keys);
        }
    }
    damaged.extend(failed.iter().copied());
    keys.retain(|key| {
        let row = PendingRow { topic: topic.id, queue: key.1, offset: key.2 };
        !damaged.contains(key) && !core.is_done(&row)
    });
    Ok(failed)
}

/// Reads the records of some rows, or of the first of them, if they are large.
fn read_some(core: &Core, rows: &[PendingRow]) -> Vec<Result<Found, EngineError>> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let one = read(core, row);
        if let Ok(Found::Message(stored)) = &one {
            bytes += stored.message.body.len();
        }
        found.push(one);
        if bytes >= BYTES_AT_ONCE {
            break;
        }
    }
    found
}

/// Releases one row. Returns whether it is visible: its topic may be gone.
pub(super) async fn release_row(
    core: &Arc<Core>,
    claim: &Claim,
    stored: StoredMessage,
) -> Result<bool, EngineError> {
    match stored.message.pending.and_then(|target| core.target(&target)) {
        Some(topic) => release(core, topic, vec![stored]).await,
        None => core.drop_rows(vec![claim.row()]).await.map(|()| false),
    }
}

/// Makes messages visible, which the caller has claims on; their rows are durably done when this returns. Returns whether
/// they are visible: the topic may be gone.
async fn release(
    core: &Arc<Core>,
    topic: Arc<Topic>,
    messages: Vec<StoredMessage>,
) -> Result<bool, EngineError> {
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
        Ok(_) => Ok(true),
        Err(EngineError::Storage(StorageError::UnknownTopic { .. })) => {
            core.drop_rows(rows).await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// Ends the rows before the first of each queue that is not done.
async fn end_done(core: &Arc<Core>, topic: &Arc<Topic>) {
    for queue in (0..topic.queues()).map(QueueId) {
        let range = core.range(topic.id, queue);
        let first = core.storage.first_not_done(topic.id, queue, range.start).min(range.end);
        if first > range.start {
            let id = topic.id;
            let ended = core.blocking(move |storage| storage.set_first_offset(id, queue, first)).await;
            if let Err(error) = ended {
                tracing::warn!(%error, %queue, "pending messages that are done cannot end now");
            }
        }
    }
}

impl Core {
    /// Returns the topic that a pending message is for, unless it was deleted.
    pub(super) fn target(&self, target: &PendingTarget) -> Option<Arc<Topic>> {
        let topic = self.topics.read().by_id.get(&target.topic).cloned()?;
        let entry = self.storage.topic(topic.id)?;
        (entry.incarnation == target.incarnation).then_some(topic)
    }
}
