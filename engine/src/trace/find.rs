//! Finds messages by id, key or place. Consume queues hold the hashes of ids and keys, 4 bytes each; the log is read for rows
//! alone whose hashes are those of what is looked for, and their bodies are not unpacked.
//!
//! Blocks are looked at from the newest to the oldest, whatever queue they are of, so that the newest messages are found
//! first, and all that is newer than the last block was looked at when time runs out.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_array::UInt32Array;
use weir_columns::{Column, ColumnRef, Rows, System, hash32};
use weir_storage::{
    Block, DeadLetterOrigin, Part, PendingRow, PendingTarget, QueueId, QueueOffset, QueueView, RecordView,
    StorageError, TopicId,
};

use super::{
    answer::{DeadLetterTrace, PendingState, PendingTrace, SearchReach, TracedMessage},
    deadline,
    history::Told,
};
use crate::{
    broker::Core,
    error::EngineError,
    name::TopicName,
    reads::{Produce, Progress},
    topic::Topic,
};

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
    hashes: Vec<u32>,
    column: System,
}

impl Name {
    fn new(text: &str, column: System) -> Self {
        // As consume queues hash them.
        let hashes = text.split(' ').map(|part| hash32(part.as_bytes())).collect();
        Self { text: text.to_owned(), hashes, column }
    }

    fn is_in(&self, hashes: &[u32]) -> bool {
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

    fn name(&self) -> Option<&Name> {
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
    fn of(source: &Source, block: &Arc<Block>, row: usize, record: &RecordView<'_>) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
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
            producer_group: record.producer_group().map(str::to_owned),
            tag: record.tag().map(str::to_owned),
            keys: record.keys().map(str::to_owned).collect(),
            properties: record.properties().map(|(name, _)| name.to_owned()).collect(),
            message_group: record.message_group().map(str::to_owned),
            priority: record.priority(),
            trace_context: record.trace_context().map(str::to_owned),
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

    /// Returns whether this is the copy of a message of `topic`.
    pub(super) fn is_copy_of(&self, message: &Self, topic: Option<&Topic>) -> bool {
        let (Some(origin), Some(topic)) = (&self.origin, topic) else { return false };
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

/// Rows of a block whose records are to be read.
struct Candidates {
    source: usize,
    block: Arc<Block>,
    /// Which of them, the newest first.
    rows: std::vec::IntoIter<usize>,
}

/// A search under way.
pub(super) struct Search {
    sources: Vec<Source>,
    wanted: Vec<Wanted>,
    /// Pending rows count that are for this topic.
    only: Option<TopicId>,
    limit: usize,
    deadline: Instant,
    /// The blocks that are left, the newest last; `None` before they have been gathered.
    chunks: Option<Vec<Chunk>>,
    now: Option<Candidates>,
    /// The newest first, and one more than are wanted.
    found: Vec<Found>,
    reach: SearchReach,
    is_over: bool,
}

impl Search {
    pub(super) fn new(
        sources: Vec<Source>,
        wanted: Vec<Wanted>,
        only: Option<TopicId>,
        limit: usize,
        within: Duration,
    ) -> Self {
        let (chunks, now, found, reach) = (None, None, Vec::new(), SearchReach::default());
        let deadline = deadline(within);
        Self { sources, wanted, only, limit, deadline, chunks, now, found, reach, is_over: false }
    }

    fn gather(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (number, source) in self.sources.iter().enumerate() {
            let view = &source.view;
            let is_shown = |rows: std::ops::Range<QueueOffset>| {
                source.is_pending || (rows.start < view.range().end && view.range().start < rows.end)
            };
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
        }
        chunks.sort_by_key(|chunk| chunk.newest_ms);
        self.reach.of = chunks.iter().map(|chunk| self.rows_of(chunk)).sum();
        chunks
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

    /// Looks at the hashes of the next block; returns false if there is none.
    fn next_chunk(&mut self) -> bool {
        let chunk = self.chunks.as_mut().and_then(Vec::pop);
        let Some(chunk) = chunk.filter(|chunk| !self.has_enough(chunk.newest_ms)) else { return false };
        self.reach.messages += self.rows_of(&chunk);
        self.reach.back_to_ms = Some(chunk.newest_ms);
        let Some(source) = self.sources.get(chunk.source) else { return true };
        let block = match &chunk.part {
            Part::Segment(segment, number) => segment.block(*number),
            Part::Run(run) => Ok(Arc::clone(run)),
        };
        let rows = block.and_then(|block| Ok((candidates(&block, source, &self.wanted)?, block)));
        match rows {
            Ok((mut rows, block)) => {
                rows.sort_unstable_by_key(|row| Reverse(*row));
                rows.dedup();
                self.now = Some(Candidates { source: chunk.source, block, rows: rows.into_iter() });
            }
            Err(error) => {
                tracing::warn!(%error, "a block cannot be read in which a message may be that is traced");
                self.reach.unreadable += 1;
            }
        }
        true
    }

    /// Reads the record of the next candidate; returns false if there is none.
    fn next_candidate(&mut self) -> bool {
        let Some(Candidates { source, block, rows }) = &mut self.now else { return false };
        let (Some(row), Some(source)) = (rows.next(), self.sources.get(*source)) else { return false };
        let mut found = None;
        let place = (block.topic(), block.queue(), block.base().plus(row as u64));
        let visited = block.visit_records([row], |record| {
            // Compaction may have put another record there since the view was taken.
            let is_it = (record.topic, record.queue, record.offset) == place
                && self.wanted.iter().any(|wanted| wanted.is(record))
                && record.pending().is_none_or(|target| self.only.is_none_or(|only| target.topic == only));
            found = is_it.then(|| Found::of(source, block, row, record));
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
        self.reach.complete = complete && self.chunks.as_ref().is_none_or(Vec::is_empty) && !more;
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
        if self.chunks.is_none() {
            self.chunks = Some(self.gather());
        }
        loop {
            let now = Instant::now();
            let is_at_end = self.now.is_none() && self.chunks.as_ref().is_none_or(Vec::is_empty);
            if now >= self.deadline && !is_at_end {
                return Ok(Progress::Item(self.answer(false)));
            }
            if now >= until {
                return Ok(Progress::More);
            }
            if !self.next_candidate() {
                self.now = None;
                if !self.next_chunk() {
                    return Ok(Progress::Item(self.answer(true)));
                }
            }
        }
    }
}

/// Returns the rows of a block, visible and not lost, whose hashes are those of something wanted.
fn candidates(block: &Block, source: &Source, wanted: &[Wanted]) -> Result<Vec<usize>, StorageError> {
    let mut rows = Vec::new();
    for wanted in wanted {
        match wanted {
            Wanted::Place(queue, offset) if block.queue() == *queue => {
                rows.extend(offset.since(block.base()).and_then(|row| usize::try_from(row).ok()));
            }
            Wanted::Place(..) => {}
            Wanted::Named(name) | Wanted::Copy(name, _) => rows_named(block, name, &mut rows)?,
        }
    }
    if source.is_pending && wanted.iter().any(|wanted| wanted.name().is_some()) {
        rows_without_names(block, &mut rows)?;
    }
    let shown = source.view.range();
    rows.retain(|row| {
        let offset = block.base().plus(*row as u64);
        *row < Rows::len(block)
            && offset < shown.end
            && (source.is_pending || shown.start <= offset)
            && block.lost().is_none_or(|lost| !lost.value(*row))
    });
    Ok(rows)
}

/// Adds the rows that may have a name.
fn rows_named(block: &Block, name: &Name, rows: &mut Vec<usize>) -> Result<(), StorageError> {
    let Some((row_ends, hashes)) = hashes_of(block, name.column)? else { return Ok(()) };
    let (ends, hashes) = (row_ends.values(), hashes.values());
    let Some(first) = name.hashes.first() else { return Ok(()) };
    for (at, _) in hashes.iter().enumerate().filter(|(_, hash)| *hash == first) {
        let row = ends.partition_point(|end| *end as usize <= at);
        if name.hashes.len() == 1 || name.is_in(of_row(ends, hashes, row)) {
            rows.push(row);
        }
    }
    Ok(())
}

/// Adds the rows of which neither id nor keys are known: pending rows that an earlier version has built have no hashes.
fn rows_without_names(block: &Block, rows: &mut Vec<usize>) -> Result<(), StorageError> {
    let (ids, keys) = (hashes_of(block, System::MessageId)?, hashes_of(block, System::Keys)?);
    let has_some = |hashes: &Option<(UInt32Array, UInt32Array)>, row| {
        hashes.as_ref().is_some_and(|(ends, hashes)| !of_row(ends.values(), hashes.values(), row).is_empty())
    };
    rows.extend((0..Rows::len(block)).filter(|row| !has_some(&ids, *row) && !has_some(&keys, *row)));
    Ok(())
}

fn hashes_of(block: &Block, column: System) -> Result<Option<(UInt32Array, UInt32Array)>, StorageError> {
    Ok(match block.column(ColumnRef::System(column))? {
        Some(Column::Hashed { row_ends, hashes }) => Some((row_ends, hashes)),
        _ => None,
    })
}

fn of_row<'h>(ends: &[u32], hashes: &'h [u32], row: usize) -> &'h [u32] {
    let start = row.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    let end = ends.get(row).copied().unwrap_or(start);
    hashes.get(start as usize..end as usize).unwrap_or_default()
}

/// What a message is, or was, before it became visible.
#[derive(Debug)]
pub(super) struct PendingFound {
    pub(super) row: PendingRow,
    kind: &'static str,
    /// What its record says, if that is still there.
    stored: Option<(i64, PendingTarget)>,
    /// When it became visible.
    released_ms: Option<i64>,
}

impl PendingFound {
    /// Returns what is known of it; `None` if it has been visible from the beginning.
    pub(super) fn of(core: &Core, found: &Found) -> Option<Self> {
        let kind = if found.message.message_type == "TRANSACTION" { "transaction" } else { "delayed" };
        if let Some(target) = found.pending {
            let stored = Some((found.message.store_time_ms, target));
            return Some(Self { row: found.pending_row(), kind, stored, released_ms: None });
        }
        let row = found.released?;
        let released_ms = Some(found.message.store_time_ms);
        Some(Self { row, kind, stored: stored_as(core, &row), released_ms })
    }

    pub(super) fn traced(&self, core: &Core, told: &Told, whole: bool) -> PendingTrace {
        let is_done = || {
            let first = core.range(self.row.topic, self.row.queue).start;
            self.row.offset < first || core.storage.is_done(&self.row)
        };
        let (state, done_ms) = match self.released_ms {
            Some(released_ms) => (PendingState::Released, Some(released_ms)),
            None if !is_done() => (PendingState::Waits, None),
            None if whole => (PendingState::Ended, told.done_ms(&self.row)),
            None => (PendingState::Done, told.done_ms(&self.row)),
        };
        PendingTrace {
            kind: self.kind,
            queue: self.row.queue,
            offset: self.row.offset,
            stored_ms: self.stored.map(|(stored_ms, _)| stored_ms),
            due_ms: self.stored.map(|(_, target)| target.due_ms),
            state,
            done_ms,
        }
    }
}

/// Returns when a pending row was stored, and what for, if its record is still there. It may have ended.
fn stored_as(core: &Core, row: &PendingRow) -> Option<(i64, PendingTarget)> {
    let view = core.storage.view(row.topic, row.queue)?;
    let segment = view.segments().iter().find(|segment| segment.range().contains(&row.offset));
    let block = match segment {
        Some(segment) => {
            let number =
                (0..segment.blocks()).find(|number| segment.block_range(*number).contains(&row.offset))?;
            segment.block(number).ok()?
        }
        None => Arc::clone(view.runs().iter().find(|run| run.range().contains(&row.offset))?),
    };
    let number = row.offset.since(block.base()).and_then(|number| usize::try_from(number).ok())?;
    if block.lost().is_some_and(|lost| lost.value(number)) {
        return None;
    }
    let mut stored = None;
    let visited = block.visit_records([number], |record| {
        let is_it = (record.topic, record.queue, record.offset) == (row.topic, row.queue, row.offset);
        stored = record.pending().filter(|_| is_it).map(|target| (record.store_time_ms, target));
        Ok(())
    });
    visited.ok().and(stored)
}
