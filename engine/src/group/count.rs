//! How many messages a group has still to be given, exactly.
//!
//! Rows behind a cursor are not all for the group: those that its selectors match are. Whether a row matches never
//! changes, so the matches of a block that lies in a file are counted once and kept, two bytes a block; asked again,
//! only the newest rows are judged. What is kept is a memory of answers: it may be forgotten at any time. It is kept
//! by the text of the selectors, so that groups with the same share it, and goes when others are asked for.
//!
//! A row waits if a selector that counts has still to pass it and is TRUE for it, unless another one has taken it
//! ([rule 2](super::selectors)). The live selectors count, or all while none is live. A group that has received with
//! none yet has nothing that waits: nobody has said what it wants.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arrow_buffer::BooleanBuffer;
use futures::StreamExt as _;
use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_filter::Predicate;
use weir_storage::{Block, Part, QueueId, QueueOffset, QueueView, Segment, TopicId};

use super::{
    state::{Span, bit},
    subscription::Subscription,
};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::{COUNTED_BYTES_MAX, COUNTS_MAX},
    name::{GroupName, TopicName},
    reads::{Produce, Progress, produced},
    scan::{evaluation_error, readable},
};

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// A block whose matches nobody has counted. No block has so many rows.
const UNKNOWN: u16 = u16::MAX;
/// What a key takes beside its text, and a segment beside its blocks, about.
const KEY_BYTES: usize = 256;
const SEGMENT_BYTES: usize = 128;

/// What waits for a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupWaiting {
    /// The topics that it reads.
    pub topics: Vec<TopicWaiting>,
    /// Whether there was time to count everything.
    pub complete: bool,
}

/// What waits for a group on one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicWaiting {
    /// The topic.
    pub topic: TopicName,
    /// Its queues, in order.
    pub queues: Vec<QueueWaiting>,
}

/// What waits for a group in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueWaiting {
    /// The queue.
    pub queue: QueueId,
    /// Messages that have not been delivered yet and are for the group.
    pub undelivered: u64,
    /// Messages that were delivered and are not done: a member has them, or they are delivered again.
    pub open: u64,
    /// Whether there was time to count all; if not, there are at least so many.
    pub complete: bool,
}

/// How far a count has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountProgress {
    /// Rows that were counted.
    pub done: u64,
    /// Rows that there are behind the cursors.
    pub total: u64,
}

/// The matches of blocks, as far as somebody has counted them.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    kept: Mutex<Kept>,
    under_way: Arc<AtomicUsize>,
}

/// A count that is under way, until it is dropped.
#[derive(Debug)]
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<Key, Counts>,
    /// What all of it takes, about.
    bytes: usize,
    uses: u64,
}

/// A queue, and the selectors of which one at least is to match, in one text.
type Key = (TopicId, QueueId, Arc<str>);

#[derive(Debug, Default)]
struct Counts {
    by_segment: HashMap<QueueOffset, SegmentCounts>,
    used: u64,
}

#[derive(Clone, Debug)]
struct SegmentCounts {
    end: QueueOffset,
    blocks: Vec<u16>,
}

impl SegmentCounts {
    fn bytes(&self) -> usize {
        SEGMENT_BYTES + size_of_val(self.blocks.as_slice())
    }
}

/// Returns about what the counts of a key take in memory.
fn bytes_of((_, _, text): &Key, counts: &Counts) -> usize {
    KEY_BYTES + text.len() + counts.by_segment.values().map(SegmentCounts::bytes).sum::<usize>()
}

impl Counted {
    /// Returns the counts of a segment, of which some may be [`UNKNOWN`].
    fn of(&self, key: &Key, segment: &Segment) -> Vec<u16> {
        let range = segment.range();
        let kept = self.kept.lock();
        let known = kept.by_key.get(key).and_then(|counts| counts.by_segment.get(&range.start));
        match known.filter(|known| known.end == range.end && known.blocks.len() == segment.blocks()) {
            Some(known) => known.blocks.clone(),
            None => vec![UNKNOWN; segment.blocks()],
        }
    }

    /// Begins a count, unless there are too many under way.
    fn begin(&self) -> Result<UnderWay, EngineError> {
        let begun = UnderWay(Arc::clone(&self.under_way));
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= COUNTS_MAX {
            return Err(EngineError::Busy("too many counts of what waits are under way"));
        }
        Ok(begun)
    }

    /// Keeps the counts of a segment, and drops those of segments that end before `first`, which are not retained.
    /// What was not asked for longest makes room.
    fn keep(&self, key: &Key, first: QueueOffset, range: Range<QueueOffset>, blocks: Vec<u16>) {
        let kept = &mut *self.kept.lock();
        kept.uses += 1;
        let before = kept.by_key.get(key).map_or(0, |counts| bytes_of(key, counts));
        let counts = kept.by_key.entry(key.clone()).or_default();
        counts.used = kept.uses;
        counts.by_segment.retain(|_, segment| segment.end > first);
        counts.by_segment.insert(range.start, SegmentCounts { end: range.end, blocks });
        kept.bytes = kept.bytes - before + bytes_of(key, counts);
        while kept.bytes > COUNTED_BYTES_MAX {
            let others = kept.by_key.iter().filter(|(other, _)| *other != key);
            let oldest = others.min_by_key(|(_, counts)| counts.used).map(|(other, _)| other.clone());
            let oldest = oldest.unwrap_or_else(|| key.clone());
            kept.bytes -= kept.by_key.remove(&oldest).map_or(0, |gone| bytes_of(&oldest, &gone));
        }
    }

    /// Forgets a topic that is deleted.
    pub(crate) fn forget(&self, topic: TopicId) {
        let kept = &mut *self.kept.lock();
        kept.by_key.retain(|(of, ..), _| *of != topic);
        kept.bytes = kept.by_key.iter().map(|(key, counts)| bytes_of(key, counts)).sum();
    }
}

impl Broker {
    /// Counts the messages that a group has still to be given, for `within` at most. `told` hears how far that has
    /// come; the count ends when nobody waits for it.
    ///
    /// # Errors
    ///
    /// If there is no such group, rows cannot be read, or four counts are under way already.
    pub async fn count_waiting(
        &self,
        group: &GroupName,
        within: Duration,
        mut told: impl FnMut(CountProgress) + Send,
    ) -> Result<GroupWaiting, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let group = core.existing_group(group)?;
        let mut work = Counting::new(Arc::clone(core), within)?;
        for subscription in group.subscriptions() {
            subscription.begin_count(core, &mut work);
        }
        let mut steps = Box::pin(produced(core.reads.clone(), work));
        while let Some(step) = steps.next().await {
            match step? {
                Told::Progress(progress) => told(progress),
                Told::Done(waiting) => return Ok(waiting),
            }
        }
        Err(EngineError::Closed)
    }
}

impl Subscription {
    /// Notes of each queue where its selectors and its open rows are: all of a queue at one moment.
    fn begin_count(&self, core: &Core, work: &mut Counting) {
        let now = core.time.now();
        let mut state = self.lock();
        if state.gone {
            return;
        }
        work.answer.topics.push(TopicWaiting { topic: self.topic.name.clone(), queues: Vec::new() });
        let at = work.answer.topics.len() - 1;
        let live = match state.selectors.live(now, &core.clients) {
            0 => u8::MAX,
            live => live,
        };
        let wall_ms = core.time.wall_ms();
        let predicate = |slot: &super::selectors::Slot| Some(slot.predicate()?.at(wall_ms));
        let predicates: Vec<(u8, Arc<Predicate>)> =
            state.selectors.iter().filter_map(|(slot, held)| Some((slot, predicate(held)?))).collect();
        for queue in (0..self.topic.queues()).map(QueueId) {
            let Some(view) = core.storage.view(self.topic.id, queue) else { continue };
            let known = state.queue(queue, view.range().start);
            let spans = |(slot, predicate): &(u8, Arc<Predicate>)| {
                Some(Judge {
                    span: known.span(*slot)?,
                    counts: live & bit(*slot) != 0,
                    predicate: Arc::clone(predicate),
                })
            };
            let judges: Vec<Judge> = predicates.iter().filter_map(spans).collect();
            // Those that have ended are still there until somebody receives.
            let open = known.open().range(view.range().start..).count() as u64;
            // Of lite topics nobody counts what is behind each position.
            let complete = self.spec.load().lite_sets().is_none();
            let waiting = QueueWaiting { queue, undelivered: 0, open, complete };
            work.add(at, QueueCount::new(self.topic.id, view, judges, waiting));
        }
    }
}

/// A selector of the group, and where it is in a queue.
#[derive(Debug)]
struct Judge {
    span: Span,
    predicate: Arc<Predicate>,
    /// Whether what it has still to pass waits.
    counts: bool,
}

/// A queue that is counted.
#[derive(Debug)]
struct QueueCount {
    key: Option<Key>,
    view: QueueView,
    judges: Vec<Judge>,
    next: QueueOffset,
    /// From here on no selector has judged anything.
    fresh_from: QueueOffset,
    waiting: QueueWaiting,
}

impl QueueCount {
    fn new(topic: TopicId, view: QueueView, judges: Vec<Judge>, waiting: QueueWaiting) -> Self {
        let counting = || judges.iter().filter(|judge| judge.counts);
        let range = view.range();
        let next = counting().map(|judge| judge.span.cursor).min().unwrap_or(range.end);
        let fresh_from = judges.iter().map(|judge| judge.span.cursor).max().unwrap_or(range.end);
        // What NOW decides is not the same when it is asked again.
        let is_lasting = !counting().any(|judge| judge.predicate.selector().depends_on_now());
        let key =
            is_lasting.then(|| (topic, waiting.queue, text_of(counting().map(|judge| &*judge.predicate))));
        Self { key, judges, next: next.max(range.start), fresh_from, waiting, view }
    }

    fn rows_left(&self) -> u64 {
        self.view.range().end.since(self.next).unwrap_or(0)
    }

    fn counting(&self) -> impl Iterator<Item = &Judge> {
        self.judges.iter().filter(|judge| judge.counts)
    }

    /// Counts on, up to the end of a segment or of a run; returns whether it has come to the end. Ends early, between
    /// two blocks, behind `until`.
    fn step(&mut self, core: &Core, until: Instant) -> Result<bool, EngineError> {
        let end = self.view.range().end;
        if self.next >= end {
            return Ok(true);
        }
        match self.view.part_at(self.next) {
            Some(Part::Segment(segment, number)) => self.count_segment(&segment, number, core, until)?,
            Some(Part::Run(run)) => {
                self.waiting.undelivered += self.count_block(&run, core)?;
                self.next = run.range().end.min(end);
            }
            None => self.next = end,
        }
        Ok(self.next >= end)
    }

    fn count_segment(
        &mut self,
        segment: &Segment,
        from: usize,
        core: &Core,
        until: Instant,
    ) -> Result<(), EngineError> {
        let shown = self.view.range();
        let key = self.key.clone();
        let mut known = key.as_ref().map(|key| core.counted.of(key, segment));
        let mut candidates: Option<BooleanBuffer> = None;
        let mut is_news = false;
        let mut result = Ok(());
        for number in from..segment.blocks() {
            let range = segment.block_range(number);
            let is_whole = self.next <= range.start
                && range.start >= self.fresh_from.max(shown.start)
                && range.end <= shown.end;
            let place = known.as_mut().and_then(|known| known.get_mut(number)).filter(|_| is_whole);
            let matches = match place {
                Some(matches) if *matches != UNKNOWN => u64::from(*matches),
                place => {
                    let may_match = candidates.get_or_insert_with(|| self.may_match(segment)).value(number);
                    let matches = match may_match {
                        true => segment
                            .block(number)
                            .map_err(EngineError::from)
                            .and_then(|block| self.count_block(&block, core)),
                        false => Ok(0),
                    };
                    match matches {
                        Ok(matches) => {
                            if let (Some(place), Ok(short)) = (place, u16::try_from(matches)) {
                                *place = short;
                                is_news = true;
                            }
                            matches
                        }
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
            };
            self.waiting.undelivered += matches;
            self.next = range.end.min(shown.end);
            if Instant::now() >= until {
                break;
            }
        }
        if let (true, Some(key), Some(known)) = (is_news, &key, known) {
            core.counted.keep(key, shown.start, segment.range(), known);
        }
        result
    }

    /// Returns which blocks may have a row that waits.
    fn may_match(&self, segment: &Segment) -> BooleanBuffer {
        let asked = self.counting().map(|judge| judge.predicate.may_match(segment.statistics()));
        asked
            .reduce(|left, right| &left | &right)
            .unwrap_or_else(|| BooleanBuffer::new_unset(segment.blocks()))
    }

    /// Counts the rows of a block that wait.
    fn count_block(&self, block: &Block, core: &Core) -> Result<u64, EngineError> {
        let (all, shown) = (block.range(), self.view.range());
        let range = all.start.max(shown.start).max(self.next)..all.end.min(shown.end);
        if range.start >= range.end {
            return Ok(0);
        }
        core.judged.by_counts.fetch_add(1, Ordering::Relaxed);
        let only = readable(block, &range);
        let within = |judge: &Judge, passed: bool| {
            BooleanBuffer::collect_bool(block.len(), |row| {
                let offset = block.base().plus(row as u64);
                let is_his = if passed { judge.span.contains(offset) } else { judge.span.cursor <= offset };
                is_his && only.as_ref().is_none_or(|only| only.value(row))
            })
        };
        let mut waiting: Option<BooleanBuffer> = None;
        for judge in self.counting() {
            let rows = match judge.span.cursor <= range.start {
                true => only.clone(),
                false => Some(within(judge, false)),
            };
            let matches = matches(&judge.predicate, block, rows)?;
            waiting = Some(waiting.map_or_else(|| matches.clone(), |others| &others | &matches));
        }
        let Some(mut waiting) = waiting else { return Ok(0) };
        // What a selector has passed with TRUE was given to whoever had it. Where NOW decides that cannot be told.
        for judge in &self.judges {
            let has_passed = judge.span.start < range.end && range.start < judge.span.cursor;
            if has_passed && !judge.predicate.selector().depends_on_now() {
                let taken = matches(&judge.predicate, block, Some(within(judge, true)))?;
                waiting = &waiting & &!&taken;
            }
        }
        Ok(waiting.count_set_bits() as u64)
    }
}

/// Returns which rows match, of those in `only`.
fn matches(
    predicate: &Predicate,
    block: &Block,
    only: Option<BooleanBuffer>,
) -> Result<BooleanBuffer, EngineError> {
    if predicate.selector().matches_all() {
        return Ok(only.unwrap_or_else(|| BooleanBuffer::new_set(block.len())));
    }
    predicate.matches(block, only.as_ref()).map_err(evaluation_error)
}

/// Returns the texts of selectors as one, the same whatever their order.
fn text_of<'p>(predicates: impl Iterator<Item = &'p Predicate>) -> Arc<str> {
    let mut texts: Vec<String> = predicates
        .map(|predicate| {
            let selector = predicate.selector();
            format!("{}\0{}", selector.dialect().name(), selector.text())
        })
        .collect();
    texts.sort_unstable();
    texts.dedup();
    texts.join("\0\0").into()
}

/// What a count has to tell.
enum Told {
    Progress(CountProgress),
    Done(GroupWaiting),
}

/// A count under way.
struct Counting {
    core: Arc<Core>,
    /// With the place of their topic in the answer.
    queues: VecDeque<(usize, QueueCount)>,
    answer: GroupWaiting,
    total: u64,
    deadline: Instant,
    told: Instant,
    ended: bool,
    _under_way: UnderWay,
}

impl Counting {
    fn new(core: Arc<Core>, within: Duration) -> Result<Self, EngineError> {
        let under_way = core.counted.begin()?;
        let now = Instant::now();
        let deadline = now.checked_add(within).unwrap_or(now);
        let answer = GroupWaiting { topics: Vec::new(), complete: true };
        Ok(Self {
            core,
            queues: VecDeque::new(),
            answer,
            total: 0,
            deadline,
            told: now,
            ended: false,
            _under_way: under_way,
        })
    }

    fn add(&mut self, topic: usize, queue: QueueCount) {
        self.total += queue.rows_left();
        self.queues.push_back((topic, queue));
    }

    fn finish(&mut self, topic: usize, queue: QueueCount) {
        let complete = queue.waiting.complete && queue.rows_left() == 0;
        self.answer.complete &= complete;
        if let Some(topic) = self.answer.topics.get_mut(topic) {
            topic.queues.push(QueueWaiting { complete, ..queue.waiting });
        }
    }

    fn progress(&self) -> CountProgress {
        let left: u64 = self.queues.iter().map(|(_, queue)| queue.rows_left()).sum();
        CountProgress { done: self.total.saturating_sub(left), total: self.total }
    }
}

impl Produce for Counting {
    type Item = Told;

    fn advance(&mut self, until: Instant) -> Result<Progress<Told>, EngineError> {
        if self.ended {
            return Ok(Progress::End);
        }
        let until = until.min(self.deadline);
        while let Some((_, queue)) = self.queues.front_mut() {
            let now = Instant::now();
            if now >= self.deadline {
                break;
            }
            if now >= until {
                if now.saturating_duration_since(self.told) < TOLD_EVERY {
                    return Ok(Progress::More);
                }
                self.told = now;
                return Ok(Progress::Item(Told::Progress(self.progress())));
            }
            if queue.step(&self.core, until)?
                && let Some((topic, queue)) = self.queues.pop_front()
            {
                self.finish(topic, queue);
            }
        }
        while let Some((topic, queue)) = self.queues.pop_front() {
            self.finish(topic, queue);
        }
        self.ended = true;
        Ok(Progress::Item(Told::Done(std::mem::take(&mut self.answer))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_longest_makes_room() {
        let counted = Counted::default();
        let key = |queue: u32| (TopicId(1), QueueId(queue), Arc::from("a = 1"));
        let range = |segment: u64| QueueOffset(segment * 10)..QueueOffset(segment * 10 + 10);
        let keep = |key: &Key, segment, blocks| counted.keep(key, QueueOffset(0), range(segment), blocks);
        let bytes = || counted.kept.lock().bytes;
        let each = COUNTED_BYTES_MAX / 4 / size_of::<u16>() - KEY_BYTES;
        for queue in 0..4 {
            keep(&key(queue), 0, vec![7; each]);
        }
        let four = bytes();
        keep(&key(0), 0, vec![8; each]);
        assert_eq!(bytes(), four, "the same again takes no more");
        keep(&key(4), 0, vec![9; each]);
        let kept: Vec<u32> =
            (0..5).filter(|queue| counted.kept.lock().by_key.contains_key(&key(*queue))).collect();
        assert_eq!(kept, [0, 2, 3, 4]);
        keep(&key(2), 1, vec![7; COUNTED_BYTES_MAX / size_of::<u16>()]);
        assert!(bytes() <= COUNTED_BYTES_MAX);
        keep(&key(3), 0, vec![7; 5]);
        counted.forget(TopicId(1));
        let kept = counted.kept.lock();
        assert_eq!((kept.bytes, kept.by_key.len()), (0, 0));
    }

    #[test]
    fn texts_count_and_what_is_not_retained_is_dropped() {
        let counted = Counted::default();
        let range = |segment: u64| QueueOffset(segment * 10)..QueueOffset(segment * 10 + 10);
        for n in 0..64 {
            let text = format!("{n}{}", "x".repeat(COUNTED_BYTES_MAX / 16));
            counted.keep(&(TopicId(1), QueueId(0), text.into()), QueueOffset(0), range(0), vec![1]);
            assert!(counted.kept.lock().bytes <= COUNTED_BYTES_MAX);
        }
        assert_eq!(counted.kept.lock().by_key.len(), 15);
        let key = (TopicId(2), QueueId(0), Arc::from("a = 1"));
        for segment in 0..100 {
            let first = QueueOffset((segment * 10_u64).saturating_sub(25));
            counted.keep(&key, first, range(segment), vec![1]);
        }
        let kept: usize = counted.kept.lock().by_key[&key].by_segment.len();
        assert_eq!(kept, 4, "the last, and three of which the first is retained in part");
        let total: usize = counted.kept.lock().by_key.iter().map(|(key, counts)| bytes_of(key, counts)).sum();
        assert_eq!(counted.kept.lock().bytes, total);
    }

    #[test]
    fn few_counts_are_under_way_at_once() {
        let counted = Counted::default();
        let mut begun: Vec<_> = (0..COUNTS_MAX).map(|_| counted.begin().unwrap()).collect();
        assert!(matches!(counted.begin(), Err(EngineError::Busy(_))));
        assert!(counted.begin().is_err(), "what is refused takes no place");
        begun.pop();
        begun.push(counted.begin().unwrap());
        assert!(counted.begin().is_err());
    }
}
