//! Group commit: what has queued up becomes one frame and one write.

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};

use crate::{
    catalogue::{DurabilityClass, TopicEntry},
    compress::{Compression, Packed, pack},
    error::StorageError,
    format::{
        frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind, FramePlace, finish_frame},
        record::{
            RecordPlace, encode_message, encode_topic, padded, record_len, stored_len, topic_record_len,
        },
    },
    limits::{BATCH_BYTES_MAX, FRAME_BYTES_TARGET, FRAME_PAYLOAD_MAX},
    log::segment::FrameLog,
    message::{Message, PendingRow},
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
};

/// About what the names of the topics of a frame take.
const TOPIC_RECORDS_BYTES: u64 = 16 << 10;

/// A message and the queue that it goes to.
#[derive(Clone, Debug)]
pub struct Append {
    /// Its topic.
    pub topic: TopicId,
    /// Its queue.
    pub queue: QueueId,
    /// The message.
    pub message: Message,
}

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its queue.
    pub queue: QueueId,
    /// Its offset in its queue.
    pub offset: QueueOffset,
    /// Where its record begins.
    pub position: LogPosition,
    /// When it was stored; milliseconds since 1970, UTC.
    pub store_time_ms: i64,
}

/// Told where the messages of a batch were stored, in the order of the batch.
///
/// It runs on a thread on which others wait too: it must not block, nor append.
pub type AppendDone = Box<dyn FnOnce(Result<Vec<Appended>, StorageError>) + Send>;

/// What one call appends.
pub(crate) struct Batch {
    /// Without their bodies where something else is stored in their place.
    pub(crate) messages: Vec<Append>,
    /// What is stored in the place of bodies, by message; empty if all are stored as they came.
    pub(crate) packed: Vec<Option<Packed>>,
    /// Length of its records, padded.
    pub(crate) bytes: u64,
    pub(crate) done: AppendDone,
}

/// A batch that has been checked and compressed, and that storage has not taken yet.
pub struct Admitted(pub(crate) Batch);

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("bytes", &self.0.bytes).finish_non_exhaustive()
    }
}

/// Messages as they are stored: what stands in the place of their bodies, and how long their records are.
pub(crate) type Packing = (Vec<Option<Packed>>, u64);

/// Compresses bodies as their topics say, if a log can hold the batch. What is too large without compression is too large
/// with it. Of a body only what is stored is kept: what waits takes as much memory as it counts.
pub(crate) fn pack_batch(
    messages: &mut [Append],
    compression: impl Fn(TopicId) -> Compression,
) -> Result<Packing, StorageError> {
    let mut bytes = 0;
    for append in messages.iter() {
        bytes += padded(record_len(&append.message)?);
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(StorageError::TooLarge { what: "the batch in bytes", size: bytes, max: BATCH_BYTES_MAX });
    }
    let mut packed = Vec::new();
    // Nearly all batches are of one topic, which is looked up once.
    let mut known: Option<(TopicId, Compression)> = None;
    let count = messages.len();
    for (at, append) in messages.iter_mut().enumerate() {
        let (_, method) = match known {
            Some(known) if known.0 == append.topic => known,
            _ => *known.insert((append.topic, compression(append.topic))),
        };
        let Some(of_body) = pack(&append.message, method) else { continue };
        let len = record_len(&append.message)?;
        bytes -= padded(len) - padded(stored_len(len, Some(&of_body)));
        append.message.body = Bytes::new();
        packed.resize_with(count, || None);
        if let Some(place) = packed.get_mut(at) {
            *place = Some(of_body);
        }
    }
    Ok((packed, bytes))
}

/// Batches that wait for the appender.
#[derive(Default)]
pub(crate) struct Intake {
    batches: VecDeque<Batch>,
    pub(crate) bytes: u64,
    /// Somebody has had the turn to write since then.
    pub(crate) turn_since: Option<Instant>,
    /// So many publishers wait for room.
    pub(crate) waiting: usize,
    pub(crate) closed: bool,
}

impl Intake {
    pub(crate) fn push(&mut self, batch: Batch) {
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes what goes into the next frame.
    pub(crate) fn take(&mut self) -> Vec<Batch> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while bytes < FRAME_BYTES_TARGET {
            let Some(batch) = self.batches.pop_front() else {
                break;
            };
            bytes += batch.bytes;
            taken.push(batch);
        }
        self.bytes -= bytes;
        self.turn_since = None;
        taken
    }
}

/// A frame of the log as it was written.
#[derive(Clone, Debug)]
pub(crate) struct WrittenFrame {
    pub(crate) header: FrameHeader,
    pub(crate) bytes: Bytes,
}

impl WrittenFrame {
    pub(crate) fn payload(&self) -> &[u8] {
        self.bytes
            .get(FRAME_HEADER_LEN..FRAME_HEADER_LEN + self.header.payload_len as usize)
            .unwrap_or_default()
    }

    pub(crate) fn payload_position(&self) -> LogPosition {
        LogPosition(self.header.position.0 + FRAME_HEADER_LEN as u64)
    }
}

/// A batch that has been written.
pub(crate) struct WrittenBatch {
    pub(crate) appended: Vec<Appended>,
    pub(crate) done: AppendDone,
    /// One of its topics is of class `sync`, or a pending row ends with it.
    pub(crate) must_sync: bool,
    /// The pending rows that it releases.
    pub(crate) released: Vec<PendingRow>,
}

/// What the appender needs to know of topics and queues.
pub(crate) trait Topics {
    fn topic(&self, id: TopicId) -> Option<Arc<TopicEntry>>;
    /// Returns where a queue that has not been appended to since the start goes on.
    fn next_offset(&self, topic: TopicId, queue: QueueId) -> QueueOffset;
}

/// Gives offsets and store times, and writes frames of records.
#[derive(Debug)]
pub(crate) struct Appender {
    log: FrameLog,
    epoch: Epoch,
    next_offsets: HashMap<(TopicId, QueueId), QueueOffset, foldhash::fast::RandomState>,
    /// Topics that have a topic record in the active segment.
    described: HashSet<TopicId, foldhash::fast::RandomState>,
    store_time_ms: i64,
}

/// What came of writing batches.
pub(crate) enum Outcome {
    /// They are in the page cache.
    Written(WrittenFrame, Vec<WrittenBatch>),
    /// Nothing was written.
    Failed(StorageError, Vec<AppendDone>),
}

impl Appender {
    pub(crate) fn new(log: FrameLog, epoch: Epoch, store_time_ms: i64) -> Self {
        let (next_offsets, described) = (HashMap::default(), HashSet::default());
        Self { log, epoch, next_offsets, described, store_time_ms }
    }

    pub(crate) const fn store_time_ms(&self) -> i64 {
        self.store_time_ms
    }

    /// Whether records of so many bytes, with names of topics of common length, fit into the active segment.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.log.has_room(bytes + TOPIC_RECORDS_BYTES)
    }

    /// Leaves nothing behind the end of the log. Journal and catalogue keep their zeros, which are few: on a full disk
    /// acknowledgements, and what ends topics, must still be taken after the next start.
    pub(crate) fn leave(&mut self) -> Result<(), StorageError> {
        self.log.leave()?;
        self.log.give_back()
    }

    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.next_offsets.retain(|(of, _), _| *of != topic);
        self.described.remove(&topic);
    }

    /// Writes batches as one frame. Those whose topic is gone are answered at once.
    pub(crate) fn append(
        &mut self,
        batches: Vec<Batch>,
        topics: &dyn Topics,
        now_ms: i64,
    ) -> Option<Outcome> {
        let mut known = HashMap::default();
        let batches = refuse_unknown(batches, topics, &mut known);
        if batches.is_empty() {
            return None;
        }
        let place = match self.place(&batches, &known, now_ms) {
            Ok(place) => place,
            Err(error) => return Some(Outcome::Failed(error, dones(batches))),
        };
        let store_time_ms = now_ms.max(self.store_time_ms);
        let mut draft = Draft {
            frame: Vec::with_capacity(
                FRAME_HEADER_LEN + usize::try_from(place.payload_len).unwrap_or_default(),
            ),
            records: 0,
            place: place.frame,
            epoch: self.epoch,
            store_time_ms,
            before: Vec::new(),
            described: Vec::new(),
        };
        draft.frame.resize(FRAME_HEADER_LEN, 0);
        let written =
            batches.into_iter().map(|batch| self.encode(&mut draft, batch, topics, &known)).collect();
        self.write(draft, written)
    }

    /// Finds the place of the frame; how long it is depends on whether it begins a segment.
    fn place(&mut self, batches: &[Batch], known: &Known, now_ms: i64) -> Result<Place, StorageError> {
        let records: u64 = batches.iter().map(|batch| batch.bytes).sum();
        let described = |topic: &TopicEntry| padded(topic_record_len(&topic.namespace, &topic.name));
        let all: u64 = known.values().map(|topic| described(topic)).sum();
        let new: u64 = known
            .values()
            .filter(|topic| !self.described.contains(&topic.id))
            .map(|topic| described(topic))
            .sum();
        if records + all > FRAME_PAYLOAD_MAX {
            let (size, max) = (records + all, FRAME_PAYLOAD_MAX);
            return Err(StorageError::TooLarge { what: "the batch with its topics' names", size, max });
        }
        let header = FRAME_HEADER_LEN as u64;
        let (frame, first) = self.log.place_within(header + records + new, header + records + all, now_ms)?;
        if first {
            self.described.clear();
        }
        Ok(Place { frame, payload_len: records + all })
    }

    fn encode(
        &mut self,
        draft: &mut Draft,
        batch: Batch,
        topics: &dyn Topics,
        known: &Known,
    ) -> WrittenBatch {
        let mut appended = Vec::with_capacity(batch.messages.len());
        let (mut must_sync, mut released) = (false, Vec::new());
        let mut packed = batch.packed.iter().map(Option::as_ref);
        for Append { topic, queue, message } in &batch.messages {
            let packed = packed.next().flatten();
            let entry = known.get(topic).expect("batches of unknown topics have been refused");
            must_sync |= entry.class == DurabilityClass::Sync || message.released.is_some();
            released.extend(message.released);
            let next = self
                .next_offsets
                .entry((*topic, *queue))
                .or_insert_with(|| topics.next_offset(*topic, *queue));
            let offset = *next;
            *next = offset.plus(1);
            draft.before.push(((*topic, *queue), offset));
            if self.described.insert(*topic) {
                draft.described.push(*topic);
                let place = draft.record_place(entry, *queue, QueueOffset(0));
                encode_topic(&mut draft.frame, &place, &entry.namespace, &entry.name);
                draft.records += 1;
            }
            let place = draft.record_place(entry, *queue, offset);
            encode_message(&mut draft.frame, &place, message, packed);
            draft.records += 1;
            appended.push(Appended {
                queue: *queue,
                offset,
                position: place.position,
                store_time_ms: draft.store_time_ms,
            });
        }
        WrittenBatch { appended, done: batch.done, must_sync, released }
    }

    fn write(&mut self, mut draft: Draft, written: Vec<WrittenBatch>) -> Option<Outcome> {
        let time = draft.store_time_ms;
        let header =
            finish_frame(&mut draft.frame, FrameKind::Records, self.epoch, draft.records, draft.place, time);
        match self.log.write(&draft.frame) {
            Ok(()) => {
                self.store_time_ms = time;
                let frame = WrittenFrame { header, bytes: draft.frame.into() };
                Some(Outcome::Written(frame, written))
            }
            Err(error) => {
                // Backwards, so that the first offset given to a queue is the one that stays.
                for (queue, offset) in draft.before.into_iter().rev() {
                    self.next_offsets.insert(queue, offset);
                }
                for topic in draft.described {
                    self.described.remove(&topic);
                }
                Some(Outcome::Failed(error, written.into_iter().map(|batch| batch.done).collect()))
            }
        }
    }
}

type Known = HashMap<TopicId, Arc<TopicEntry>, foldhash::fast::RandomState>;

struct Place {
    frame: FramePlace,
    payload_len: u64,
}

/// A frame while records are put into it.
struct Draft {
    frame: Vec<u8>,
    records: u32,
    place: FramePlace,
    epoch: Epoch,
    store_time_ms: i64,
    /// The next offsets as they were, in case the write fails.
    before: Vec<((TopicId, QueueId), QueueOffset)>,
    described: Vec<TopicId>,
}

impl Draft {
    fn record_place(&self, topic: &TopicEntry, queue: QueueId, offset: QueueOffset) -> RecordPlace {
        RecordPlace {
            position: LogPosition(self.place.position.0 + self.frame.len() as u64),
            epoch: self.epoch,
            topic: topic.id,
            incarnation: topic.incarnation,
            queue,
            offset,
            store_time_ms: self.store_time_ms,
        }
    }
}

fn dones(batches: Vec<Batch>) -> Vec<AppendDone> {
    batches.into_iter().map(|batch| batch.done).collect()
}

/// Answers batches whose topic is gone, or never had the queue, and returns the others.
fn refuse_unknown(batches: Vec<Batch>, topics: &dyn Topics, known: &mut Known) -> Vec<Batch> {
    let mut kept = Vec::with_capacity(batches.len());
    for batch in batches {
        match check_batch(&batch, topics, known) {
            Ok(()) => kept.push(batch),
            Err(error) => (batch.done)(Err(error)),
        }
    }
    kept
}

fn check_batch(batch: &Batch, topics: &dyn Topics, known: &mut Known) -> Result<(), StorageError> {
    for Append { topic, queue, .. } in &batch.messages {
        let (topic, queue) = (*topic, *queue);
        let queues = match known.get(&topic) {
            Some(entry) => entry.queues,
            None => {
                let entry = topics.topic(topic).ok_or(StorageError::UnknownTopic { topic })?;
                let queues = entry.queues;
                known.insert(topic, entry);
                queues
            }
        };
        if queue.0 >= queues {
            return Err(StorageError::UnknownQueue { topic, queue, queues });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_keeps_no_body_but_the_one_that_is_stored() {
        let append = |body: Vec<u8>| Append {
            topic: TopicId(1),
            queue: QueueId(0),
            message: Message { body: body.into(), ..Message::default() },
        };
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut appends = vec![append(vec![0; 4 << 20]), append(b"short".to_vec())];
            let (packed, bytes) = pack_batch(&mut appends, |_| compression).unwrap();
            let held: usize = appends.iter().map(|append| append.message.body.len()).sum();
            let instead: usize = packed.iter().flatten().map(|packed| packed.bytes.len()).sum();
            let held = held + instead;
            assert!(held as u64 <= bytes && bytes < 40_000, "{compression:?}: {held} counted as {bytes}");
            assert_eq!(appends[1].message.body, "short");
            assert!(packed[0].is_some() && packed[1].is_none());
        }
        let (packed, bytes) = pack_batch(&mut [append(vec![0; 4 << 20])], |_| Compression::None).unwrap();
        assert!(packed.is_empty() && bytes > 4 << 20);
    }
}
