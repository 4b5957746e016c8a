//! Finds messages by id, key or place. Consume queues hold the hashes of ids and keys, 4 bytes each; the log is read for rows
//! alone whose hashes are those of what is looked for, and their bodies are not unpacked.
//!
//! Blocks are looked at from the newest to the oldest, whatever queue they are of, so that the newest messages are found
//! first, and all that is newer than the last block was looked at when time runs out.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_columns::{System, hash32};
use weir_storage::{
    Block, DeadLetterOrigin, Part, PendingRow, PendingTarget, QueueId, QueueOffset, QueueView, RecordView,
    StorageError, TopicId,
};

use super::{
    answer::{DeadLetterTrace, SearchReach, TracedMessage},
    deadline,
    sift::Looking,
};
use crate::{
    broker::Core,
    error::EngineError,
    limits::TRACE_LIST_MAX,
    name::TopicName,
    reads::{Produce, Progress},
    topic::Topic,
};

/// How many hashes of a name are compared. The record of a row that has them all is compared in full.
const HASHES_MAX: usize = 8;

/// A row of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RowPlace {
    pub(super) topic: TopicId,
    pub(super) queue: QueueId,
    pub(super) offset: QueueOffset,
}

/// A queue in which it is looked for messages.
pub(super) struct Source {
    pub(super) view: QueueView,
    /// It is one of the pending topic: rows that are done are shown as well, as long as they are there.
    pub(super) is_pending: bool,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Place(QueueId, QueueOffset),
    Named(Name),
    /// The copy of a message that a group could not deliver.
    Copy(Name, Box<DeadLetterOrigin>),
}

/// An id or a key, with the hashes of its parts.
#[derive(Clone, Debug)]
pub(super) struct Name {
    text: String,
    /// Those that are least, each once; [`HASHES_MAX`] at most.
    pub(super) hashes: Vec<u32>,
    pub(super) column: System,
}

impl Name {
    fn new(text: &str, column: System) -> Self {
        // As consume queues hash them.
        let mut hashes: Vec<u32> = text.split(' ').map(|part| hash32(part.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.truncate(HASHES_MAX);
        Self { text: text.to_owned(), hashes, column }
    }

    pub(super) fn is_in(&self, hashes: &[u32]) -> bool {
        self.hashes.iter().all(|hash| hashes.contains(hash))
    }

    fn is_of(&self, record: &RecordView<'_>) -> bool {
        match self.column {
            System::Keys => record.keys().any(|key| key == self.text),
            _ => record.message_id() == self.text,
        }
    }
}

impl Wanted {
    pub(super) fn id(id: &str) -> Self {
        Self::Named(Name::new(id, System::MessageId))
    }

    pub(super) fn key(key: &str) -> Self {
        Self::Named(Name::new(key, System::Keys))
    }

    /// Returns the copies of a message, by its id or its first key; `None` if it has neither.
    pub(super) fn copy_of(topic: &TopicName, found: &Found) -> Option<Self> {
        let message = &found.message;
        let name = match message.keys.first() {
            _ if !message.message_id.is_empty() => Name::new(&message.message_id, System::MessageId),
            Some(key) => Name::new(key, System::Keys),
            None => return None,
        };
        let origin = DeadLetterOrigin {
            namespace: topic.namespace().to_owned(),
            topic: topic.name().to_owned(),
            queue: found.place.queue,
            offset: found.place.offset,
            ..DeadLetterOrigin::default()
        };
        Some(Self::Copy(name, Box::new(origin)))
    }

    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Place(..) => None,
            Self::Named(name) | Self::Copy(name, _) => Some(name),
        }
    }

    fn is(&self, record: &RecordView<'_>) -> bool {
        match self {
            Self::Place(queue, offset) => (record.queue, record.offset) == (*queue, *offset),
            Self::Named(name) => name.is_of(record),
            Self::Copy(name, origin) => {
                name.is_of(record) && record.dead_letter().is_some_and(|from| is_from(&from, origin))
            }
        }
    }
}

fn is_from(from: &DeadLetterOrigin, origin: &DeadLetterOrigin) -> bool {
    (&from.namespace, &from.topic, from.queue, from.offset)
        == (&origin.namespace, &origin.topic, origin.queue, origin.offset)
}

/// A message that was found.
pub(super) struct Found {
    pub(super) place: RowPlace,
    pub(super) is_pending: bool,
    /// The block that holds the row, and which of its rows it is.
    pub(super) block: Arc<Block>,
    pub(super) row: usize,
    pub(super) message: TracedMessage,
    /// What it waits for, if it is a pending row.
    pub(super) pending: Option<PendingTarget>,
    /// The pending row that it was.
    pub(super) released: Option<PendingRow>,
    origin: Option<DeadLetterOrigin>,
}

impl Found {
    /// `is_copy`: what a dead letter has from its message is left out, as that tells it.
    fn of(source: &Source, block: &Arc<Block>, row: usize, record: &RecordView<'_>, is_copy: bool) -> Self {
        let text = |text: &str| (!is_copy && !text.is_empty()).then(|| text.to_owned());
        let told = if is_copy { 0 } else { TRACE_LIST_MAX };
        let left_out = |count: usize| count.saturating_sub(told) as u64;
        let origin = record.dead_letter();
        let visible = !source.is_pending;
        let message = TracedMessage {
            topic: None,
            queue: visible.then_some(record.queue),
            offset: visible.then_some(record.offset),
            log_position: record.position,
            epoch: record.epoch,
            message_id: record.message_id().to_owned(),
            message_type: record.message_type.name(),
            store_time_ms: record.store_time_ms,
            born_time_ms: record.born_time_ms,
            born_host: text(record.born_host()),
            producer_group: record.producer_group().and_then(text),
            tag: record.tag().and_then(text),
            keys: record.keys().take(told).map(str::to_owned).collect(),
            keys_left_out: left_out(record.keys().count()),
            properties: record.properties().take(told).map(|(name, _)| name.to_owned()).collect(),
            properties_left_out: left_out(record.properties().count()),
            message_group: record.message_group().and_then(text),
            priority: record.priority(),
            trace_context: record.trace_context().and_then(text),
            delivery_time_ms: record.delivery_time_ms(),
            body_bytes: record.body_len,
            record_bytes: record.size,
            pending: None,
            dead_letter_of: origin.as_ref().map(|origin| DeadLetterTrace {
                topic: match origin.namespace.as_str() {
                    "" => origin.topic.clone(),
                    namespace => format!("{namespace}/{}", origin.topic),
                },
                queue: origin.queue,
                offset: origin.offset,
                message_id: origin.message_id.clone(),
                attempts: origin.attempts,
            }),
            groups: Vec::new(),
            groups_left_out: 0,
        };
        Self {
            place: RowPlace { topic: record.topic, queue: record.queue, offset: record.offset },
            is_pending: source.is_pending,
            block: Arc::clone(block),
            row,
            message,
            pending: record.pending(),
            released: record.released(),
            origin,
        }
    }

    pub(super) fn pending_row(&self) -> PendingRow {
        let RowPlace { topic, queue, offset } = self.place;
        PendingRow { topic, queue, offset }
    }

    /// Returns whether this is the copy of a message of `topic`. What lies before the message in the log is that of one
    /// that had its offset before a loss of power.
    pub(super) fn is_copy_of(&self, message: &Self, topic: Option<&Topic>) -> bool {
        let (Some(origin), Some(topic)) = (&self.origin, topic) else { return false };
        if self.message.log_position <= message.message.log_position {
            return false;
        }
        (origin.namespace.as_str(), origin.topic.as_str()) == (topic.name.namespace(), topic.name.name())
            && (origin.queue, origin.offset) == (message.place.queue, message.place.offset)
    }
}

/// A block to be looked at.
struct Chunk {
    source: usize,
    part: Part,
    /// When the last of its rows was stored.
    newest_ms: i64,
}

/// A search under way.
pub(super) struct Search {
    core: Arc<Core>,
    /// The topics whose queues have not been gathered, and whether each is the pending topic.
    topics: Vec<(Arc<Topic>, bool)>,
    /// The one that is being gathered, and which of its queues are left.
    topic: Option<(TopicId, bool)>,
    queues: Range<u32>,
    is_gathered: bool,
    sources: Vec<Source>,
    wanted: Vec<Wanted>,
    /// Pending rows count that are for this topic.
    only: Option<TopicId>,
    limit: usize,
    deadline: Instant,
    /// The blocks that are left, the newest last once all are gathered.
    chunks: Vec<Chunk>,
    now: Option<Looking>,
    /// The newest first, and one more than are wanted.
    found: Vec<Found>,
    reach: SearchReach,
    is_over: bool,
}

impl Search {
    /// `topics` are those in which it is looked, and whether each is the pending topic.
    pub(super) fn new(
        core: Arc<Core>,
        topics: Vec<(Arc<Topic>, bool)>,
        wanted: Vec<Wanted>,
        only: Option<TopicId>,
        limit: usize,
        within: Duration,
    ) -> Self {
        Self {
            core,
            topics,
            topic: None,
            queues: 0..0,
            is_gathered: false,
            sources: Vec::new(),
            wanted,
            only,
            limit,
            deadline: deadline(within),
            chunks: Vec::new(),
            now: None,
            found: Vec::new(),
            reach: SearchReach::default(),
            is_over: false,
        }
    }

    /// The place that is looked for.
    fn place(&self) -> Option<(QueueId, QueueOffset)> {
        self.wanted.iter().find_map(|wanted| match wanted {
            Wanted::Place(queue, offset) => Some((*queue, *offset)),
            _ => None,
        })
    }

    /// Takes the view of the next queue.
    fn gather_next(&mut self) {
        let (Some(queue), Some((topic, is_pending))) = (self.queues.next(), self.topic) else {
            let Some((topic, is_pending)) = self.topics.pop() else {
                self.chunks.sort_by_key(|chunk| chunk.newest_ms);
                self.is_gathered = true;
                return;
            };
            self.topic = Some((topic.id, is_pending));
            self.queues = match self.place() {
                Some((queue, _)) => queue.0..queue.0.saturating_add(1),
                None => 0..topic.queues(),
            };
            return;
        };
        if let Some(view) = self.core.storage.view(topic, QueueId(queue)) {
            self.gather(Source { view, is_pending });
        }
    }

    fn gather(&mut self, source: Source) {
        let (number, view, place) = (self.sources.len(), &source.view, self.place());
        let is_shown = |rows: Range<QueueOffset>| match place {
            Some((_, offset)) => rows.contains(&offset),
            None => source.is_pending || (rows.start < view.range().end && view.range().start < rows.end),
        };
        let mut chunks = Vec::new();
        for segment in view.segments() {
            let blocks = (0..segment.blocks()).filter(|block| is_shown(segment.block_range(*block)));
            chunks.extend(blocks.map(|block| Chunk {
                source: number,
                newest_ms: *segment.block_times(block).end(),
                part: Part::Segment(Arc::clone(segment), block),
            }));
        }
        for run in view.runs().iter().filter(|run| is_shown(run.range())) {
            // In memory, where times do not fail.
            let times = run.store_times().ok();
            let newest = times.and_then(|times| times.iter().rev().flatten().next());
            let newest_ms = newest.unwrap_or(i64::MAX);
            chunks.push(Chunk { source: number, newest_ms, part: Part::Run(Arc::clone(run)) });
        }
        if place.is_some() {
            let shown = view.range();
            self.reach.of += shown.end.since(shown.start).unwrap_or(0);
        }
        self.sources.push(source);
        if place.is_none() {
            self.reach.of += chunks.iter().map(|chunk| self.rows_of(chunk)).sum::<u64>();
        }
        self.chunks.append(&mut chunks);
    }

    /// Counts the rows of a chunk that may be found.
    fn rows_of(&self, chunk: &Chunk) -> u64 {
        let rows = match &chunk.part {
            Part::Segment(segment, block) => segment.block_range(*block),
            Part::Run(run) => run.range(),
        };
        let Some(source) = self.sources.get(chunk.source) else { return 0 };
        let shown = source.view.range();
        let first = if source.is_pending { rows.start } else { rows.start.max(shown.start) };
        rows.end.min(shown.end).since(first).unwrap_or(0)
    }

    /// Whether there are enough messages, and none that is newer can come.
    fn has_enough(&self, newest_ms: i64) -> bool {
        self.found.get(self.limit).is_some_and(|last| newest_ms <= last.message.store_time_ms)
    }

    /// Whether there is nothing left to be looked at.
    fn is_at_end(&self) -> bool {
        self.is_gathered && self.now.is_none() && self.chunks.is_empty()
    }

    /// Does a little; returns false if there is nothing to do any more.
    fn step(&mut self, until: Instant) -> bool {
        if !self.is_gathered {
            self.gather_next();
        } else if let Some(looking) = self.now.as_mut().filter(|looking| !looking.is_sifted) {
            if let Some(source) = self.sources.get(looking.source) {
                looking.sift(source, &self.wanted, until);
            }
        } else if !self.next_candidate() {
            self.now = None;
            return self.next_chunk();
        }
        true
    }

    /// Opens the next block; returns false if there is none.
    fn next_chunk(&mut self) -> bool {
        let chunk = self.chunks.pop();
        let Some(chunk) = chunk.filter(|chunk| !self.has_enough(chunk.newest_ms)) else { return false };
        self.reach.messages += self.rows_of(&chunk);
        self.reach.back_to_ms = Some(chunk.newest_ms);
        let Some(source) = self.sources.get(chunk.source) else { return true };
        let block = match &chunk.part {
            Part::Segment(segment, number) => segment.block(*number),
            Part::Run(run) => Ok(Arc::clone(run)),
        };
        let looking = block.and_then(|block| Looking::at(chunk.source, block, source, &self.wanted));
        match looking {
            Ok(looking) => self.now = Some(looking),
            Err(error) => {
                tracing::warn!(%error, "a block cannot be read in which a message may be that is traced");
                self.reach.unreadable += 1;
            }
        }
        true
    }

    /// Reads the record of the next candidate; returns false if there is none.
    fn next_candidate(&mut self) -> bool {
        let Some(Looking { source, block, rows, .. }) = &mut self.now else { return false };
        let (Some(row), Some(source)) = (rows.pop(), self.sources.get(*source)) else { return false };
        let mut found = None;
        let place = (block.topic(), block.queue(), block.base().plus(row as u64));
        let visited = block.visit_records([row], |record| {
            // Compaction may have put another record there since the view was taken.
            let is_there = (record.topic, record.queue, record.offset) == place
                && record.pending().is_none_or(|target| self.only.is_none_or(|only| target.topic == only));
            let wanted = self.wanted.iter().find(|wanted| is_there && wanted.is(record));
            found = wanted
                .map(|wanted| Found::of(source, block, row, record, matches!(wanted, Wanted::Copy(..))));
            Ok(())
        });
        self.reach.records += 1;
        match visited {
            Ok(()) => {}
            // What has ended may have been compacted away.
            Err(StorageError::NoRecord { .. }) if source.is_pending => {}
            Err(error) => {
                tracing::warn!(%error, "a record cannot be read that may be of a message that is traced");
                self.reach.unreadable += 1;
            }
        }
        let Some(found) = found else { return true };
        let time_ms = found.message.store_time_ms;
        let at = self.found.partition_point(|known| known.message.store_time_ms >= time_ms);
        self.found.insert(at, found);
        self.found.truncate(self.limit + 1);
        // The others in the block are older.
        !self.has_enough(time_ms)
    }

    fn answer(&mut self, complete: bool) -> (Vec<Found>, bool, SearchReach) {
        self.is_over = true;
        let more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        self.reach.complete = complete && self.is_gathered && self.chunks.is_empty() && !more;
        if self.reach.complete {
            self.reach.back_to_ms = None;
        }
        (std::mem::take(&mut self.found), more, self.reach)
    }
}

impl Produce for Search {
    type Item = (Vec<Found>, bool, SearchReach);

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        if self.is_over {
            return Ok(Progress::End);
        }
        loop {
            let now = Instant::now();
            if now >= self.deadline && !self.is_at_end() {
                return Ok(Progress::Item(self.answer(false)));
            }
            if now >= until {
                return Ok(Progress::More);
            }
            if !self.step(until.min(self.deadline)) {
                return Ok(Progress::Item(self.answer(true)));
            }
        }
    }
}
