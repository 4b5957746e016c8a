//! The live tail of a queue: each new row is judged once for all selectors that have caught up.
//!
//! A selector that has judged all visible rows of a queue joins the predicate index of that queue. From then
//! on each run of new rows goes through the index once, whatever the number of groups, and the rows that match
//! go to the *ready list* of each selector. A receive takes them from there.
//!
//! # Why nothing changes but the cost
//!
//! A ready list is a memory of answers and decides nothing. It says: of the offsets `[from, end)`, exactly
//! these rows match this selector. Rows never change and neither does a selector, so this stays true whatever
//! becomes of cursors, leases, resets and retention. A scan asks the list where the list knows, and judges by
//! itself where it does not: before `from` and from `end` on. Everything else (who takes a row, what is open,
//! where the cursor goes, what the journal is told) is done by the scan as without a list, under the same lock.
//! A list that is given up at any moment costs time and nothing more:
//!
//! - It ends when 1,024 rows wait in it (a slow consumer must not cost memory), when a block cannot be read,
//!   and when its selector is not live any more. The scan goes on behind its end, and when it has caught up
//!   again the selector joins again, with a new list.
//! - It is dropped with what holds it: when the slot is freed, or the group or the topic is deleted. New queues
//!   of a topic have no lists yet. After a start there are none.
//! - After a reset to an earlier offset, the scan judges by itself up to `from`. Rows that the cursor has passed
//!   are taken from the front of a list, and `from` rises with them.
//!
//! # Who judges
//!
//! Whoever comes first: a thread that is told of visible rows, or a receive that finds rows which the index has
//! not judged yet. Both hold the lock of the index, so each row is judged once. What is judged ends at `judged`
//! and is raised after the lists have their rows, so that who reads it before the list sees all rows below it.
//!
//! # Who is woken
//!
//! A waiting receive whose selector is in the index is not woken by a row, but by the index if the row is for
//! it. No wake-up is lost: a selector that joins behind rows which it has not judged looks again, and
//! [`Topic::show`](crate::topic::Topic::show) wakes those outside of the index before it asks whether there
//! is somebody inside.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use weir_columns::Rows;
use weir_filter::{Index, Selector};
use weir_storage::{Part, QueueId, QueueOffset, QueueView};

use super::subscription::Subscription;
use crate::{broker::Core, error::EngineError, limits::READY_ROWS_MAX, scan::evaluation_error, topic::Topic};

/// How often runs have been judged, for tests and those who measure.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Blocks that went through an index.
    pub(crate) by_index: AtomicU64,
    /// Blocks that a receive judged for its own selector.
    pub(crate) by_receives: AtomicU64,
    /// Blocks that were judged to count what waits.
    pub(crate) by_counts: AtomicU64,
    /// How often a receive has looked whether there is something for it.
    pub(crate) looks: AtomicU64,
    /// How often a thread was called to help a receive.
    pub(crate) helped: AtomicU64,
}

/// The predicate index of one queue.
#[derive(Debug)]
pub(crate) struct LiveQueue {
    queue: QueueId,
    /// The offset behind the last row that was judged.
    judged: AtomicU64,
    /// How many selectors are in the index.
    members: AtomicUsize,
    /// Whether the evaluator has been told of rows and has not come yet.
    told: AtomicBool,
    /// Members that leave.
    leaving: Mutex<Vec<u64>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    index: Index<u64>,
    lists: HashMap<u64, Listed>,
    next: u64,
}

/// A selector in the index.
#[derive(Debug)]
struct Listed {
    list: Arc<ReadyList>,
    subscription: Weak<Subscription>,
    slot: u8,
}

/// The rows that the index has found for one selector.
#[derive(Debug)]
pub(crate) struct ReadyList {
    rows: Mutex<ReadyRows>,
}

#[derive(Debug)]
struct ReadyRows {
    /// Of the offsets from here on the list says which match.
    from: QueueOffset,
    /// Up to here; `None` while the selector is in the index.
    end: Option<QueueOffset>,
    /// Ascending.
    rows: VecDeque<QueueOffset>,
}

/// A selector's place in the index of a queue, left when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    id: u64,
    list: Arc<ReadyList>,
    live: Arc<LiveQueue>,
    subscription: Weak<Subscription>,
    slot: u8,
}

/// What a list says of some offsets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The rows that match.
    pub(crate) rows: Vec<QueueOffset>,
    /// The offset behind those that the list speaks of.
    pub(crate) end: QueueOffset,
}

impl LiveQueue {
    pub(crate) fn new(queue: QueueId) -> Self {
        Self {
            queue,
            judged: AtomicU64::new(0),
            members: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            leaving: Mutex::default(),
            inner: Mutex::default(),
        }
    }

    /// Puts a selector that has judged all rows below `at` into the index.
    pub(crate) fn join(
        self: &Arc<Self>,
        selector: &Selector,
        subscription: &Arc<Subscription>,
        slot: u8,
        at: QueueOffset,
    ) -> Member {
        let mut inner = self.inner.lock();
        self.remove_leaving(&mut inner);
        if inner.lists.is_empty() {
            // Nobody has asked for the rows before.
            self.judged.store(at.0, Ordering::Release);
        }
        let from = at.max(QueueOffset(self.judged.load(Ordering::Acquire)));
        let list =
            Arc::new(ReadyList { rows: Mutex::new(ReadyRows { from, end: None, rows: VecDeque::new() }) });
        let id = inner.next;
        inner.next += 1;
        inner.index.insert(id, selector);
        let weak = Arc::downgrade(subscription);
        let listed = Listed { list: Arc::clone(&list), subscription: Weak::clone(&weak), slot };
        inner.lists.insert(id, listed);
        self.members.store(inner.lists.len(), Ordering::Release);
        subscription.waiters.set_indexed(self.queue, slot, id);
        Member { id, list, live: Arc::clone(self), subscription: weak, slot }
    }

    /// Tells the evaluator of visible rows, if there is somebody in the index.
    pub(crate) fn tell(self: &Arc<Self>, topic: &Arc<Topic>, evaluator: &Evaluator) {
        if self.members.load(Ordering::Acquire) > 0 && !self.told.swap(true, Ordering::AcqRel) {
            evaluator.tell(topic, self);
        }
    }

    /// Judges all rows of `view` that have not been judged.
    ///
    /// Whoever may not block must not call this: it takes as long as the index needs for these rows.
    pub(crate) fn judge(&self, view: &QueueView, judged: &Judged) {
        let mut inner = self.inner.lock();
        self.remove_leaving(&mut inner);
        let range = view.range();
        let mut next = QueueOffset(self.judged.load(Ordering::Acquire)).max(range.start);
        while next < range.end && !inner.lists.is_empty() {
            judged.by_index.fetch_add(1, Ordering::Relaxed);
            match inner.judge_part(view, next) {
                Ok(Judgement { end, found, full }) => {
                    next = end;
                    self.judged.store(next.0, Ordering::Release);
                    full.into_iter().for_each(|id| self.remove(&mut inner, id));
                    found.into_iter().for_each(|id| self.wake(&inner, id));
                }
                Err(error) => {
                    // Each receive comes to the same block, and says so to its client.
                    tracing::warn!(%error, queue = %self.queue, "new rows cannot be judged for all selectors at once");
                    let all: Vec<u64> = inner.lists.keys().copied().collect();
                    for id in all {
                        if let Some(listed) = inner.lists.get(&id) {
                            listed.list.end_at(next);
                        }
                        self.remove(&mut inner, id);
                    }
                }
            }
        }
    }

    fn remove_leaving(&self, inner: &mut Inner) {
        let leaving = std::mem::take(&mut *self.leaving.lock());
        leaving.into_iter().for_each(|id| self.remove(inner, id));
    }

    /// Takes a selector out of the index, and wakes a receive that may have relied on it.
    fn remove(&self, inner: &mut Inner, id: u64) {
        let Some(Listed { list, subscription, slot }) = inner.lists.remove(&id) else { return };
        inner.index.remove(&id);
        self.members.store(inner.lists.len(), Ordering::Release);
        list.end_at(QueueOffset(self.judged.load(Ordering::Acquire)));
        if let Some(subscription) = subscription.upgrade() {
            subscription.waiters.forget_indexed(self.queue, slot, id);
            subscription.waiters.wake_slot(slot, self.queue);
        }
    }

    fn wake(&self, inner: &Inner, id: u64) {
        let listed = inner.lists.get(&id);
        if let Some((subscription, slot)) =
            listed.and_then(|listed| Some((listed.subscription.upgrade()?, listed.slot)))
        {
            subscription.waiters.wake_slot(slot, self.queue);
        }
    }
}

/// What came of the rows of one block.
struct Judgement {
    /// The offset behind them.
    end: QueueOffset,
    /// Selectors that match some.
    found: Vec<u64>,
    /// Selectors whose lists have no room for all.
    full: Vec<u64>,
}

impl Inner {
    /// Judges the rows from `next` on that lie in the same block.
    fn judge_part(&mut self, view: &QueueView, next: QueueOffset) -> Result<Judgement, EngineError> {
        let range = view.range();
        let block = match view.part_at(next) {
            Some(Part::Segment(segment, number)) => segment.block(number)?,
            Some(Part::Run(run)) => run,
            None => return Ok(Judgement { end: range.end, found: Vec::new(), full: Vec::new() }),
        };
        let end = block.range().end.min(range.end);
        let (base, lost) = (block.base(), block.lost());
        let (mut found, mut full) = (Vec::new(), Vec::new());
        let Self { index, lists, .. } = self;
        index
            .evaluate(&*block, |id, matches| {
                let Some(listed) = lists.get(id) else { return };
                let mut rows = listed.list.rows.lock();
                let before = rows.rows.len();
                matches.for_each(|row| {
                    let offset = base.plus(row as u64);
                    if (next..end).contains(&offset) && lost.is_none_or(|lost| !lost.value(row)) {
                        rows.push(offset);
                    }
                });
                if rows.end.is_some() {
                    full.push(*id);
                } else if rows.rows.len() > before {
                    found.push(*id);
                }
            })
            .map_err(evaluation_error)?;
        debug_assert_eq!(base.plus(Rows::len(&*block) as u64), block.range().end);
        Ok(Judgement { end, found, full })
    }
}

impl ReadyRows {
    /// Adds a row that matches, or ends the list before it if there is no room.
    fn push(&mut self, offset: QueueOffset) {
        if offset < self.from || self.end.is_some() {
            return;
        }
        if self.rows.len() >= READY_ROWS_MAX {
            self.end = Some(offset);
        } else {
            self.rows.push_back(offset);
        }
    }
}

impl ReadyList {
    /// Ends the list at `end`, unless it has ended before.
    fn end_at(&self, end: QueueOffset) {
        let mut rows = self.rows.lock();
        if rows.end.is_none() {
            rows.end = Some(end.max(rows.from));
            while rows.rows.back().is_some_and(|row| *row >= end) {
                rows.rows.pop_back();
            }
        }
    }
}

impl Member {
    /// Where the list begins.
    pub(crate) fn from(&self) -> QueueOffset {
        self.list.rows.lock().from
    }

    /// Whether the selector is not in the index any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.list.rows.lock().end.is_some()
    }

    /// Has the index judge the rows of `view`, if the selector is in it. May block.
    pub(crate) fn judge(&self, view: &QueueView, judged: &Judged) {
        if !self.has_ended() && self.live.judged.load(Ordering::Acquire) < view.range().end.0 {
            self.live.judge(view, judged);
        }
    }

    /// What the list says of the offsets from `cursor` to `end`; `None` if it does not know the first.
    pub(crate) fn ask(&self, cursor: QueueOffset, end: QueueOffset) -> Option<Known> {
        // Read before the list: all rows below it are in the list.
        let judged = QueueOffset(self.live.judged.load(Ordering::Acquire));
        let rows = self.list.rows.lock();
        let end = rows.end.unwrap_or(judged).min(end);
        if cursor < rows.from || cursor >= end {
            return None;
        }
        let first = rows.rows.partition_point(|row| *row < cursor);
        let rows = rows.rows.range(first..).copied().take_while(|row| *row < end).collect();
        Some(Known { rows, end })
    }

    /// Returns where a cursor comes that passes the rows which do not match, at most to `end`.
    pub(crate) fn pass(&self, cursor: QueueOffset, end: QueueOffset) -> QueueOffset {
        let judged = QueueOffset(self.live.judged.load(Ordering::Acquire));
        let rows = self.list.rows.lock();
        let end = rows.end.unwrap_or(judged).min(end);
        if cursor < rows.from || cursor >= end {
            return cursor;
        }
        let first = rows.rows.partition_point(|row| *row < cursor);
        rows.rows.get(first).map_or(end, |row| (*row).min(end))
    }

    /// Forgets what lies before `cursor`.
    pub(crate) fn forget_before(&self, cursor: QueueOffset) {
        let mut rows = self.list.rows.lock();
        if cursor > rows.from {
            rows.from = cursor;
            while rows.rows.front().is_some_and(|row| *row < cursor) {
                rows.rows.pop_front();
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Its slot may have another selector by now, which is to be woken by every row again.
        if let Some(subscription) = self.subscription.upgrade() {
            subscription.waiters.forget_indexed(self.live.queue, self.slot, self.id);
            subscription.waiters.wake_slot(self.slot, self.live.queue);
        }
        // Under the lock of a subscription there is no time to wait for the index.
        self.live.leaving.lock().push(self.id);
    }
}

/// A queue with rows that have not been judged.
type New = (Arc<Topic>, Arc<LiveQueue>);

/// The thread that judges new rows when no receive does.
#[derive(Debug)]
pub(crate) struct Evaluator {
    queues: mpsc::Sender<New>,
}

impl Evaluator {
    /// Returns it with what it is told, to be given to [`run`](Self::run).
    pub(crate) fn new() -> (Self, mpsc::Receiver<New>) {
        let (queues, told) = mpsc::channel();
        (Self { queues }, told)
    }

    fn tell(&self, topic: &Arc<Topic>, live: &Arc<LiveQueue>) {
        // The thread is gone if the broker is.
        let _ = self.queues.send((Arc::clone(topic), Arc::clone(live)));
    }

    /// Starts the thread, which ends with the broker.
    ///
    /// # Errors
    ///
    /// If there can be no more threads.
    pub(crate) fn spawn(core: &Arc<Core>, told: mpsc::Receiver<New>) -> std::io::Result<()> {
        let core = Arc::downgrade(core);
        let run = move || {
            while let Ok((topic, live)) = told.recv() {
                let Some(core) = core.upgrade() else { return };
                // Not a plain store: the view below must not be an earlier one.
                live.told.swap(false, Ordering::AcqRel);
                if let Some(view) = core.storage.view(topic.id, live.queue) {
                    live.judge(&view, &core.judged);
                }
            }
        };
        std::thread::Builder::new().name("weir-evaluator".to_owned()).spawn(run).map(drop)
    }
}
