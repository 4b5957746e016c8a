//! Which segments of the log are mostly dead, and rewriting them in the background, one at a time.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{FreedSpace, Inner};
use crate::{
    catalogue::TopicEntry,
    error::StorageError,
    format::record::RecordView,
    log::{compact::Pace, segment::SegmentFile},
    offset::{LogPosition, QueueId, TopicId},
    queue::view::QueueView,
};

/// A segment is rewritten when less than this share of its file can be reached, in percent.
const LIVE_PERCENT_MIN: u64 = 30;

/// After so many bytes the compactor rests, as long as they may take.
const PACE_BYTES: u64 = 1 << 20;

/// What of a segment of the log some reader can reach.
#[derive(Debug)]
pub(super) struct SegmentUse {
    pub(super) segment: Arc<SegmentFile>,
    /// About how many bytes of records each topic has in it; every topic that has some is there.
    pub(super) topics: HashMap<TopicId, u64>,
}

impl SegmentUse {
    pub(super) fn live(&self) -> u64 {
        self.topics.values().sum()
    }
}

/// Returns whether little of `len` bytes is `live`.
pub(super) const fn is_mostly_dead(live: u64, len: u64) -> bool {
    live.saturating_mul(100) < len.saturating_mul(LIVE_PERCENT_MIN)
}

/// What a topic takes before it is deleted.
#[derive(Debug)]
pub(super) struct BeforeDelete {
    rows: u64,
    queue_bytes: u64,
    log: Vec<SegmentUse>,
}

/// What the compactor keeps between segments.
#[derive(Debug, Default)]
pub(super) struct Compactor {
    pub(super) stop: bool,
    /// Segments that were rewritten, or could not be, with the live bytes that they had: an estimate that was wrong
    /// once is not followed again and again.
    seen: HashMap<LogPosition, u64>,
    /// The one that is being rewritten.
    rewritten: Option<LogPosition>,
    /// The live bytes of the segment at which the last try failed, unless that was for damage: there may have been no
    /// room for them.
    failed: Option<u64>,
}

impl Compactor {
    /// Returns whether a segment is worth another look, of which `live` bytes can be reached: if it was rewritten with so
    /// many before, there is nothing more to be had.
    fn takes(&self, base: LogPosition, live: u64) -> bool {
        self.seen.get(&base).is_none_or(|seen| is_mostly_dead(live, *seen))
    }
}

impl Inner {
    /// Returns, by position, which segments of the log are in use, and by whom. About: of a block whose rows lie in
    /// several segments each gets its share. No block is opened but the one of a queue in which its first row lies.
    pub(super) fn log_use(&self) -> Vec<SegmentUse> {
        let segments = self.log.segments.all();
        let mut uses: Vec<SegmentUse> =
            segments.into_iter().map(|segment| SegmentUse { segment, topics: HashMap::new() }).collect();
        for topic in self.catalogue.topics() {
            for view in (0..topic.queues).filter_map(|queue| self.queues.view(topic.id, QueueId(queue))) {
                add_queue(&mut uses, topic.id, &view);
            }
        }
        uses
    }

    /// Returns what the log will take once nothing is left to unlink or to compact, in bytes.
    pub(super) fn log_bytes_when_compacted(&self) -> Result<u64, StorageError> {
        let mut uses = self.log_use();
        let active = uses.pop().map_or(Ok(0), |active| self.log.bytes_of(&active.segment))?;
        let front = uses.iter().take_while(|used| used.topics.is_empty()).count();
        let compactor = self.compactor.lock();
        uses.split_off(front).into_iter().try_fold(active, |sum, used| {
            let len = used.segment.file_len()?;
            Ok(sum + self.len_when_compacted(&compactor, used.segment.base(), used.live(), len))
        })
    }

    /// Returns what a segment file of `len` bytes will take when `live` of them can be reached.
    fn len_when_compacted(&self, compactor: &Compactor, base: LogPosition, live: u64, len: u64) -> u64 {
        if compactor.rewritten == Some(base) {
            // What ends while it is rewritten is kept once more.
            return compactor.seen.get(&base).copied().unwrap_or(live).clamp(live.min(len), len);
        }
        let has_room = compactor.failed.is_none_or(|failed| live < failed);
        if has_room && self.is_worth_it(live, len) && compactor.takes(base, live) { live } else { len }
    }

    /// Returns whether a segment would be compacted if `live` bytes of it could be reached, or is so small that
    /// it is as good as that.
    pub(super) fn would_be_small(&self, base: LogPosition, live: u64) -> Result<bool, StorageError> {
        let Some(segment) = self.log.segments.at(base).filter(|segment| segment.base() == base) else {
            return Ok(true);
        };
        let len = segment.file_len()?;
        let compactor = self.compactor.lock();
        Ok(len <= self.options.compaction_bytes_min
            || self.len_when_compacted(&compactor, base, live, len) < len)
    }

    /// Returns what a topic takes that is about to be deleted.
    pub(super) fn before_delete(&self, topic: &TopicEntry) -> BeforeDelete {
        let (mut rows, mut queue_bytes) = (0, 0);
        for view in (0..topic.queues).filter_map(|queue| self.queues.view(topic.id, QueueId(queue))) {
            rows += view.range().end.since(view.range().start).unwrap_or_default();
            // A shared file goes when most of it is dead; nobody else has a share in the others.
            let own = view.segments().iter().filter(|segment| !segment.is_shared());
            queue_bytes += own.map(|segment| segment.file().len()).sum::<u64>();
        }
        BeforeDelete { rows, queue_bytes, log: self.log_use() }
    }

    /// Tells what has become free and what will, once the topic is gone and, if `unlinked`, its files are.
    pub(super) fn after_delete(&self, before: BeforeDelete, topic: TopicId, unlinked: bool) -> FreedSpace {
        let BeforeDelete { rows, queue_bytes, log } = before;
        let mut freed = FreedSpace { rows, ..FreedSpace::default() };
        if unlinked {
            freed.now_bytes = queue_bytes;
        }
        let below = self.lock_checkpoint().log;
        let compactor = self.compactor.lock();
        // Also what others have left to do: it may come first.
        let mut work = 0;
        for used in &log {
            let (segment, live) = (&used.segment, used.live());
            let dead = used.topics.get(&topic).copied().unwrap_or_default();
            // Its file may have been unlinked; then it still tells its length.
            let len = segment.file_len().unwrap_or_default();
            let is_here =
                self.log.segments.at(segment.base()).is_some_and(|now| now.base() == segment.base());
            if !is_here {
                freed.now_bytes += len;
            } else if self.is_worth_it(live - dead, len)
                && compactor.takes(segment.base(), live - dead)
                && segment.sealed_end().is_some_and(|end| end <= below)
            {
                freed.soon_bytes += dead;
                work += len + (live - dead);
            } else {
                freed.later_bytes += dead;
            }
        }
        if freed.soon_bytes > 0 {
            let seconds = work / self.options.compaction_bytes_per_second.max(1);
            freed.soon = self.options.compaction_interval + Duration::from_secs(seconds);
        }
        freed
    }

    /// Returns whether a segment file of `len` bytes is compacted when `live` ones can be reached.
    pub(super) fn is_worth_it(&self, live: u64, len: u64) -> bool {
        len > self.options.compaction_bytes_min && is_mostly_dead(live, len)
    }

    /// Rewrites one segment that is mostly dead; returns whether there was one.
    pub(crate) fn compact_once(&self, pace: &mut Pace<'_>) -> Result<bool, StorageError> {
        self.check()?;
        self.check_marked()?;
        if self.log.unpinned().is_none() {
            // The end of the copy asks for another look.
            return Ok(false);
        }
        let Some(found) = self.mostly_dead()? else { return Ok(false) };
        let base = found.segment.base();
        {
            let mut compactor = self.compactor.lock();
            compactor.seen.insert(base, found.live());
            compactor.rewritten = Some(base);
        }
        let compacted = self.compact(&found, pace);
        let mut compactor = self.compactor.lock();
        compactor.rewritten = None;
        compactor.failed = match compacted {
            Ok(_) | Err(StorageError::Corrupt { .. }) => None,
            Err(_) => Some(found.live()),
        };
        compacted
    }

    fn compact(&self, found: &SegmentUse, pace: &mut Pace<'_>) -> Result<bool, StorageError> {
        let (segment, live) = (&found.segment, found.live());
        let base = segment.base();
        // Topics as they are before the segment is read: what ends meanwhile is kept once more.
        let topics: HashMap<TopicId, Arc<TopicEntry>> =
            self.catalogue.topics().into_iter().map(|topic| (topic.id, topic)).collect();
        let keeps = |record: &RecordView<'_>| {
            let Some(topic) = topics.get(&record.topic) else { return false };
            if !record.kind.is_row() {
                return found.topics.contains_key(&record.topic);
            }
            topic.incarnation == record.incarnation
                && record.queue.0 < topic.queues
                && record.offset >= topic.first_offset(record.queue)
        };
        let rewritten = self.log.rewrite(segment, &self.reader.fences, &keeps, pace);
        let rewritten = rewritten.inspect_err(|error| {
            if !matches!(error, StorageError::Corrupt { .. }) {
                self.compactor.lock().seen.remove(&base);
            }
        })?;
        // Held, so that no checkpoint unlinks the segment meanwhile, and no close gives the directory away.
        let checkpoint = self.checkpoint.lock();
        let is_here = self.log.segments.at(base).is_some_and(|now| Arc::ptr_eq(&now, segment));
        if self.check_open().is_err() || !is_here {
            drop(checkpoint);
            self.log.drop_rewritten();
            return Ok(true);
        }
        let Some(unpinned) = self.log.unpinned() else {
            drop(checkpoint);
            self.log.drop_rewritten();
            self.compactor.lock().seen.remove(&base);
            return Ok(false);
        };
        let freed = self.log.replace(segment, rewritten).inspect_err(|_| {
            self.compactor.lock().seen.remove(&base);
        })?;
        drop(unpinned);
        drop(checkpoint);
        tracing::info!(segment = %segment.path.display(), live, freed, "a segment of the log was compacted");
        Ok(true)
    }

    /// Returns the segment that is to be rewritten next: the one with the smallest share that can be reached.
    fn mostly_dead(&self) -> Result<Option<SegmentUse>, StorageError> {
        let below = self.checkpoint.lock().log;
        let mut uses = self.log_use();
        let is_here = |base: &LogPosition| uses.iter().any(|used| used.segment.base() == *base);
        self.compactor.lock().seen.retain(|base, _| is_here(base));
        // A start tells where a segment ends by the one behind it.
        uses.pop();
        // What nobody needs at the front goes with the next checkpoint.
        let front = uses.iter().take_while(|used| used.topics.is_empty()).count();
        let mut best: Option<(u64, SegmentUse)> = None;
        for used in uses.drain(front..) {
            if used.segment.sealed_end().is_none_or(|end| end > below) {
                continue;
            }
            let (live, len) = (used.live(), used.segment.file_len()?);
            if !self.is_worth_it(live, len) || !self.compactor.lock().takes(used.segment.base(), live) {
                continue;
            }
            let share = live.saturating_mul(1000) / len;
            if best.as_ref().is_none_or(|(least, _)| share < *least) {
                best = Some((share, used));
            }
        }
        Ok(best.map(|(_, used)| used))
    }

    pub(super) fn run_compactor(&self) {
        loop {
            if self.rest_compactor(self.options.compaction_interval).is_err() {
                return;
            }
            if !self.has_ended.swap(false, Ordering::AcqRel) {
                continue;
            }
            let rate = self.options.compaction_bytes_per_second.max(1);
            let mut owed = 0_u64;
            let mut pace = |bytes: u64| {
                owed += bytes;
                if owed < PACE_BYTES {
                    return Ok(());
                }
                let micros = std::mem::take(&mut owed).saturating_mul(1_000_000) / rate;
                self.rest_compactor(Duration::from_micros(micros))
            };
            match self.compact_all(&mut pace) {
                Ok(()) => {}
                Err(StorageError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "a segment of the log cannot be compacted now");
                    self.has_ended.store(true, Ordering::Release);
                }
            }
        }
    }

    /// Rewrites segments until none is mostly dead. A damaged one stays as it is.
    fn compact_all(&self, pace: &mut Pace<'_>) -> Result<(), StorageError> {
        loop {
            match self.compact_once(pace) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error @ StorageError::Corrupt { .. }) => {
                    tracing::warn!(%error, "a segment of the log is damaged and cannot be compacted");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets some time go by; an error says that the compactor is to stop.
    fn rest_compactor(&self, time: Duration) -> Result<(), StorageError> {
        let until = Instant::now() + time;
        let mut compactor = self.compactor.lock();
        while !compactor.stop && !self.compactor_wanted.wait_until(&mut compactor, until).timed_out() {}
        if compactor.stop { Err(StorageError::Closed) } else { Ok(()) }
    }

    pub(super) fn stop_compactor(&self) {
        self.compactor.lock().stop = true;
        self.compactor_wanted.notify_all();
    }
}

fn add_queue(uses: &mut [SegmentUse], topic: TopicId, view: &QueueView) {
    for part in view.log_parts() {
        let (first, last) = (part.positions.start(), part.positions.end());
        let from = uses.partition_point(|used| used.segment.base() <= *first).saturating_sub(1);
        let to = uses.partition_point(|used| used.segment.base() <= *last);
        let all = (last.0 - first.0).saturating_add(1);
        for number in from..to {
            let next = uses.get(number + 1).map_or(u64::MAX, |next| next.segment.base().0);
            let Some(used) = uses.get_mut(number) else { continue };
            let start = used.segment.base().0.max(first.0);
            let len = next.min(last.0.saturating_add(1)).saturating_sub(start);
            let share = u128::from(part.bytes) * u128::from(len) / u128::from(all);
            // At least one byte: a topic that has something in a segment is never missing there.
            *used.topics.entry(topic).or_default() += u64::try_from(share).unwrap_or(u64::MAX).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::{
        Append, Env, Events, Message, NewTopic, QueueOffset, Storage, StorageOptions,
        queue::view::Part,
        sim::{SimCall, SimEnv},
    };

    const DIR: &str = "/data";
    const QUEUE: QueueId = QueueId(0);
    const ROWS: u64 = 400;

    struct Silent;

    impl Events for Silent {
        fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
        fn failed(&self, _: &StorageError) {}
    }

    fn open(env: &SimEnv) -> Storage {
        let options = StorageOptions {
            env: Arc::new(env.clone()),
            log_segment_bytes_min: 64 << 10,
            log_segment_bytes_max: 64 << 10,
            zero_ahead_bytes: 8 << 10,
            recent_bytes_max: 1,
            compaction_bytes_min: 5000,
            ..StorageOptions::small()
        };
        Storage::open_stepped(Path::new(DIR), options, Arc::new(Silent)).unwrap()
    }

    /// A log of which one row in ten is of the topic that stays, in runs of two.
    fn filled(env: &SimEnv) -> (Storage, TopicId, TopicId) {
        let storage = open(env);
        let topic = |name: &str| {
            let new = NewTopic { name: name.into(), queues: 1, ..NewTopic::default() };
            storage.create_topic(new).unwrap().id
        };
        let (stays, ends) = (topic("stays"), topic("ends"));
        for number in 0..ROWS {
            let topic = if number % 20 < 2 { stays } else { ends };
            let body = [number.to_le_bytes().to_vec(), vec![number as u8; 1000]].concat();
            let message = Message { body: body.into(), ..Message::default() };
            storage.append(vec![Append { topic, queue: QUEUE, message }], Box::new(|_| {}));
            // Some frames of one record, some of several.
            if number % 7 != 0 {
                storage.inner().append_once();
            }
        }
        storage.inner().append_once();
        storage.inner().flush_once(true);
        storage.inner().build_once();
        storage.checkpoint().unwrap();
        (storage, stays, ends)
    }

    fn end_rows(storage: &Storage, topic: TopicId) {
        let end = storage.view(topic, QUEUE).unwrap().range().end;
        storage.set_first_offset(topic, QUEUE, end).unwrap();
    }

    fn read_all(storage: &Storage, view: &QueueView) -> Vec<Result<u64, StorageError>> {
        let range = view.range();
        let row = |offset| {
            let offset = QueueOffset(offset);
            let block = match view.part_at(offset).unwrap() {
                Part::Segment(segment, block) => segment.block(block)?,
                Part::Run(block) => block,
            };
            let row = offset.since(block.base()).unwrap() as usize;
            let position = LogPosition(block.positions()?.value(row));
            if block.lost().is_some_and(|lost| lost.value(row)) {
                return Err(StorageError::Lost { position });
            }
            let stored = storage.read(position)?;
            assert_eq!(stored.offset, offset);
            Ok(u64::from_le_bytes(stored.message.body[..8].try_into().unwrap()))
        };
        (range.start.0..range.end.0).map(row).collect()
    }

    fn check(storage: &Storage, stays: TopicId, ends: TopicId) {
        let rows: Vec<u64> = read_all(storage, &storage.view(stays, QUEUE).unwrap())
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(rows, (0..ROWS).filter(|number| number % 20 < 2).collect::<Vec<_>>());
        let ended = storage.view(ends, QUEUE).unwrap().range();
        assert_eq!(ended, QueueOffset(360)..QueueOffset(360));
    }

    fn compact_all(storage: &Storage) -> usize {
        let mut count = 0;
        while storage.inner().compact_once(&mut |_| Ok(())).unwrap() {
            count += 1;
        }
        count
    }

    fn temporary() -> PathBuf {
        Path::new(DIR).join("log/compacted.tmp")
    }

    #[test]
    fn dead_records_give_their_room_back_and_the_others_stay_where_they_are() {
        let env = SimEnv::new(1);
        let (storage, stays, ends) = filled(&env);
        let before = storage.log_bytes().unwrap();
        assert_eq!(compact_all(&storage), 0, "all of it is needed");
        let held = storage.view(ends, QUEUE).unwrap();
        end_rows(&storage, ends);
        let sealed = storage.inner().log.segments.all().len() - 1;
        assert_eq!(compact_all(&storage), sealed);
        let after = storage.log_bytes().unwrap();
        assert!(after < before / 3, "{before} to {after}");
        check(&storage, stays, ends);
        // In memory and in the active segment there are some yet.
        for row in read_all(&storage, &held).iter().take(200) {
            assert!(matches!(row, Err(StorageError::NoRecord { .. })), "{row:?}");
        }
        assert_eq!(compact_all(&storage), 0, "once is enough");
        storage.close().unwrap();
        let storage = open(&env);
        assert!(storage.report().clean);
        check(&storage, stays, ends);

        // The rest ends, too, but for the last row.
        let end = storage.view(stays, QUEUE).unwrap().range().end;
        storage.set_first_offset(stays, QUEUE, QueueOffset(end.0 - 1)).unwrap();
        storage.checkpoint().unwrap();
        assert!(storage.log_bytes().unwrap() < 64 << 10, "the front is unlinked");
    }

    /// Rows of all segments share one block, and it is retained in part.
    #[test]
    fn rows_that_remain_are_not_taken_for_those_that_ended_in_front_of_them() {
        let env = SimEnv::new(9);
        let (storage, _, ends) = filled(&env);
        let view = storage.view(ends, QUEUE).unwrap();
        assert_eq!(view.segments().iter().map(|segment| segment.blocks()).sum::<usize>(), 1);
        storage.set_first_offset(ends, QUEUE, QueueOffset(200)).unwrap();
        let (before, expected) = (storage.log_bytes().unwrap(), storage.log_bytes_when_compacted().unwrap());
        let first = first_position_of(&storage, &storage.view(ends, QUEUE).unwrap());
        let below = storage.sealed_segments().iter().filter(|segment| segment.range.end <= first).count();
        assert!(below >= 3, "{below}");
        assert_eq!(compact_all(&storage), below);
        let after = storage.log_bytes().unwrap();
        assert!(after < before - (below as u64) * 40_000, "{before} to {after}");
        // The heads of files come on top.
        assert!(after.abs_diff(expected) < below as u64 * 8192, "{after}, {expected}");
        assert_eq!(storage.log_bytes_when_compacted().unwrap(), after);
    }

    fn first_position_of(storage: &Storage, view: &QueueView) -> LogPosition {
        let offset = view.range().start;
        let block = match view.part_at(offset).unwrap() {
            Part::Segment(segment, block) => segment.block(block).unwrap(),
            Part::Run(block) => block,
        };
        let position = block.positions().unwrap().value(offset.since(block.base()).unwrap() as usize);
        assert_eq!(storage.read(LogPosition(position)).unwrap().offset, offset);
        LogPosition(position)
    }

    #[test]
    fn what_cannot_be_compacted_does_not_count_as_given_back() {
        let env = SimEnv::new(10);
        let (storage, _, ends) = filled(&env);
        end_rows(&storage, ends);
        let all = storage.log_bytes().unwrap();
        let given_back = || storage.log_bytes().unwrap() - storage.log_bytes_when_compacted().unwrap();
        assert!(given_back() > all / 2);
        env.fail(SimCall::Write, 0, io::ErrorKind::StorageFull);
        let inner = storage.inner();
        assert!(inner.compact_all(&mut |_| Ok(())).is_err());
        env.fail_no_more();
        assert!(given_back() < all / 4, "what needs less room may have it");
        // The next that succeeds takes that back. While it is rewritten, a segment counts, too.
        let mut seen = 0;
        let mut pace = |_| {
            if storage.inner().compactor.lock().failed.is_none() {
                seen += 1;
                assert!(given_back() > 0);
            }
            Ok(())
        };
        inner.compact_all(&mut pace).unwrap();
        assert!(seen > 3, "{seen}");
        assert_eq!(given_back(), 0);
        assert!(storage.log_bytes().unwrap() < all / 3);
    }

    #[test]
    fn whatever_bit_of_a_compacted_segment_is_flipped_it_is_found_there() {
        let env = SimEnv::new(7);
        let (storage, _, ends) = filled(&env);
        end_rows(&storage, ends);
        let old = storage.inner().log.segments.all();
        assert!(compact_all(&storage) > 3);
        storage.close().unwrap();
        let door: Arc<dyn Env> = Arc::new(env.clone());
        let look = || crate::verify::verify(&door, Path::new(DIR), &mut |_| {}).unwrap();
        let whole = look();
        assert!(whole.findings.is_empty(), "{:?}", whole.findings);
        let path = &old[1].path;
        let mut len = 0;
        env.damage(path, |bytes| len = bytes.len());
        let tail = len - 64;
        // All of the header that is used, of a record and its neighbour, of the directory and the tail.
        let places = (0..80).chain((4096..4096 + 2400).step_by(3)).chain(tail - 200..len).chain([4095]);
        for place in places {
            let bit = 1 << (place % 8);
            env.damage(path, |bytes| bytes[place] ^= bit);
            let found = look();
            let of_file = || found.findings.iter().filter(|finding| finding.path == *path);
            assert!(
                of_file().any(|finding| finding.bytes.contains(&(place as u64))),
                "byte {place} of {len}: {:?}",
                found.findings
            );
            // What is whole is not blamed, and so not rebuilt.
            assert_eq!(of_file().count(), found.findings.len(), "byte {place}: {:?}", found.findings);
            env.damage(path, |bytes| bytes[place] ^= bit);
        }
        for cut in [0, 100, 4096, 4097, tail / 2, tail, len - 1] {
            let mut kept = Vec::new();
            env.damage(path, |bytes| kept = bytes.split_off(cut));
            let found = look();
            assert!(found.findings.iter().any(|finding| finding.path == *path), "cut at {cut} of {len}");
            env.damage(path, |bytes| bytes.extend(kept));
        }
        assert!(look().findings.is_empty());
    }

    #[test]
    fn deleting_a_topic_tells_what_becomes_free_and_it_does() {
        let env = SimEnv::new(5);
        let (storage, stays, ends) = filled(&env);
        let ended = storage.view(ends, QUEUE).unwrap();
        let all = ended.record_bytes(ended.range());
        let (used, log) = (env.used(), storage.log_bytes().unwrap());
        let freed = storage.delete_topic(ends).unwrap();
        assert_eq!(freed.rows, 360);
        assert!(freed.soon > Duration::from_secs(59) && freed.soon < Duration::from_secs(70), "{freed:?}");
        assert!(freed.later_bytes > 0 && freed.later_bytes < 64 << 10, "in the active segment: {freed:?}");
        assert!((freed.soon_bytes + freed.later_bytes).abs_diff(all) < all / 10, "{freed:?} of {all}");
        assert_eq!(freed.now_bytes, 0, "its rows were in a shared file: {freed:?}");
        assert!(compact_all(&storage) > 3);
        let less = log - storage.log_bytes().unwrap();
        // What compaction frees beside that are frames; what it adds are the heads of files.
        assert!(less.abs_diff(freed.soon_bytes) < freed.soon_bytes / 5, "{less} for {freed:?}");
        assert!(env.used() < used);

        let before = storage.log_bytes().unwrap();
        let freed = storage.delete_topic(stays).unwrap();
        assert_eq!((freed.rows, freed.soon), (40, Duration::ZERO));
        assert_eq!(freed.now_bytes, before - storage.log_bytes().unwrap(), "nobody else needs the segments");
    }

    #[test]
    fn who_reads_the_old_file_goes_on() {
        let env = SimEnv::new(2);
        let (storage, stays, ends) = filled(&env);
        let view = storage.view(ends, QUEUE).unwrap();
        let block = match view.part_at(QueueOffset(0)).unwrap() {
            Part::Segment(segment, block) => segment.block(block).unwrap(),
            Part::Run(block) => block,
        };
        let mut read = 0;
        block
            .visit_records([0, 1, 2], |record| {
                if read == 0 {
                    end_rows(&storage, ends);
                    assert!(compact_all(&storage) > 3);
                }
                assert_eq!(record.offset, QueueOffset(read));
                read += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(read, 3);
        assert!(matches!(block.message(0), Err(StorageError::NoRecord { .. })), "who begins anew is told");
        check(&storage, stays, ends);
    }

    #[test]
    fn a_crash_at_any_call_of_a_compaction_loses_nothing() {
        for seed in 0..4 {
            for calls in 0.. {
                let env = SimEnv::new(100 * seed + calls);
                let (storage, stays, ends) = filled(&env);
                end_rows(&storage, ends);
                env.fail_power_after(calls);
                let compacted = storage.inner().compact_once(&mut |_| Ok(()));
                let finished = !env.is_off();
                assert_eq!(compacted.is_ok(), finished);
                env.lose_power();
                drop(storage);
                if seed % 2 == 1 {
                    // The next start looks at every record.
                    env.lose(&Path::new(DIR).join("checkpoint"));
                }
                let storage = open(&env);
                let report = storage.report();
                assert!(report.fences.is_empty(), "call {calls}: {:?}", report.fences);
                assert!(!env.paths().contains(&temporary()));
                check(&storage, stays, ends);
                compact_all(&storage);
                check(&storage, stays, ends);
                if finished {
                    assert!(calls > 4, "{calls}");
                    break;
                }
            }
        }
    }

    #[test]
    fn a_compaction_that_fails_leaves_the_segment_as_it_is() {
        let env = SimEnv::new(3);
        let (storage, stays, ends) = filled(&env);
        end_rows(&storage, ends);
        for call in [SimCall::Open, SimCall::Write, SimCall::Sync, SimCall::Name] {
            let before = storage.log_bytes().unwrap();
            env.fail(call, 0, io::ErrorKind::StorageFull);
            storage.inner().compact_once(&mut |_| Ok(())).unwrap_err();
            env.fail_no_more();
            assert_eq!(storage.log_bytes().unwrap(), before);
            check(&storage, stays, ends);
        }
        storage.inner().compact_once(&mut |_| Err(StorageError::Closed)).unwrap_err();
        assert!(!env.paths().contains(&temporary()), "it takes up no room");
        assert!(compact_all(&storage) > 3);
        check(&storage, stays, ends);
    }

    #[test]
    fn damage_stops_a_compaction_and_in_a_compacted_segment_costs_a_record() {
        let env = SimEnv::new(4);
        let (storage, stays, ends) = filled(&env);
        end_rows(&storage, ends);
        storage.close().unwrap();
        let first = Path::new(DIR).join("log/00000000000000000000.log");
        env.damage(&first, |bytes| bytes[20_000] ^= 1);
        let storage = open(&env);
        let error = loop {
            match storage.inner().compact_once(&mut |_| Ok(())) {
                Ok(more) => assert!(more, "the damaged one comes, too"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        env.damage(&first, |bytes| bytes[20_000] ^= 1);
        compact_all(&storage);
        assert_eq!(compact_all(&storage), 0, "it is not tried again and again");
        storage.close().unwrap();

        let second = env
            .paths()
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "log") && *path > first);
        env.damage(&second.unwrap(), |bytes| bytes[4096 + 600] ^= 1);
        env.lose(&Path::new(DIR).join("checkpoint"));
        let storage = open(&env);
        assert_eq!(storage.report().fences.len(), 1, "{:?}", storage.report().fences);
        let rows = read_all(&storage, &storage.view(stays, QUEUE).unwrap());
        let lost = rows.iter().filter(|row| row.is_err()).count();
        assert_eq!((lost, rows.len()), (1, 40), "{rows:?}");
    }

    #[test]
    fn a_damaged_directory_of_a_compacted_segment_costs_the_segment_and_no_start() {
        let env = SimEnv::new(8);
        let (storage, stays, ends) = filled(&env);
        end_rows(&storage, ends);
        let second = storage.inner().log.segments.all()[1].path.clone();
        compact_all(&storage);
        storage.close().unwrap();
        env.damage(&second, |bytes| {
            let tail = bytes.len() - 64;
            bytes[tail - 3] ^= 1;
        });
        env.lose(&Path::new(DIR).join("checkpoint"));
        for is_first in [true, false] {
            let storage = open(&env);
            let report = storage.report();
            assert_eq!(report.fences.len(), usize::from(is_first), "{:?}", report.fences);
            let rows = read_all(&storage, &storage.view(stays, QUEUE).unwrap());
            let lost = rows.iter().filter(|row| row.is_err()).count();
            assert!((1..20).contains(&lost) && rows.len() == 40, "{rows:?}");
            storage.close().unwrap();
        }
    }
}
