//! What the frames of log, journal and catalogue hold.

use hashbrown::HashMap;

use super::{
    Finding, Remedy, Verifier,
    frames::{Followed, Payload, Sequence},
};
use crate::{
    error::StorageError,
    format::{
        catalogue, journal,
        record::{RecordView, padded},
        segment::SegmentKind,
    },
    journal::note_named_ends,
    log::{fences::Fences, segment::SegmentFile},
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// The ends of queues, and where in the log their last rows lay.
type Ends = HashMap<(TopicId, QueueId), (QueueOffset, LogPosition)>;

/// So many of them are remembered that the consume queues tell of as well.
const LOST_BELOW_MAX: usize = 1000;
/// So many places where offsets are missing are remembered.
const GAPS_MAX: usize = 100_000;

impl Verifier<'_> {
    fn clean_len(&self, number: usize) -> Option<u64> {
        self.checkpoint
            .as_ref()
            .filter(|checkpoint| checkpoint.clean)
            .map(|checkpoint| checkpoint.file_lens[number])
    }

    pub(super) fn read_catalogue(&mut self) -> Result<(), StorageError> {
        let sequence = Sequence {
            kind: SegmentKind::Catalogue,
            dir: self.dir.join("catalogue"),
            durable: self.checkpoint.as_ref().map_or(LogPosition(0), |checkpoint| checkpoint.catalogue),
            clean: self.clean_len(2),
            fences: Fences::default(),
            checked: LogPosition(0),
            cost: "topics or groups are not known; without a topic its messages could not be reached",
            remedy: Remedy::Restore,
        };
        self.follow(&sequence, &mut |verifier, segment, payload| {
            let fault = match catalogue::decode_entries(payload.bytes) {
                Ok(entries) => {
                    let count = entries.len();
                    entries.into_iter().for_each(|entry| verifier.catalogue.apply(entry));
                    (payload.records != u32::try_from(count).ok())
                        .then(|| "the number of entries is wrong".to_owned())
                }
                Err(fault) => Some(fault.to_string()),
            };
            verifier.entries(segment, payload, fault, sequence.cost, Remedy::Restore);
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn read_journal(&mut self) -> Result<(), StorageError> {
        let sequence = Sequence {
            kind: SegmentKind::Journal,
            dir: self.dir.join("journal"),
            durable: self.checkpoint.as_ref().map_or(LogPosition(0), |checkpoint| checkpoint.journal),
            clean: self.clean_len(1),
            fences: Fences::default(),
            checked: LogPosition(0),
            cost: "no message; what groups leased and acknowledged there is forgotten, so that messages come again",
            remedy: Remedy::Fenced,
        };
        let followed = self.follow(&sequence, &mut |verifier, segment, payload| {
            let fault = match journal::decode_entries(payload.bytes) {
                Ok(entries) => {
                    note_named_ends(&mut verifier.named, &entries);
                    (payload.records != u32::try_from(entries.len()).ok())
                        .then(|| "the number of entries is wrong".to_owned())
                }
                Err(fault) => Some(fault.to_string()),
            };
            verifier.entries(segment, payload, fault, sequence.cost, Remedy::Fenced);
            Ok(())
        })?;
        if let Some((range, finding)) = followed.damaged.last()
            && range.end >= followed.end
            && let Some(finding) = self.found.findings.get_mut(*finding)
        {
            finding.remedy = Remedy::CutJournal;
        }
        self.log_durable = followed.log_durable;
        Ok(())
    }

    fn entries(
        &mut self,
        segment: &SegmentFile,
        payload: &Payload<'_>,
        fault: Option<String>,
        cost: &'static str,
        remedy: Remedy,
    ) {
        let Some(fault) = fault else { return };
        self.find(Finding {
            path: segment.path.clone(),
            bytes: bytes_of(segment, &payload.range),
            what: format!("the entries of a frame: {fault}"),
            cost,
            rows: Vec::new(),
            remedy,
        });
    }

    pub(super) fn read_log(&mut self) -> Result<Followed, StorageError> {
        let sequence = Sequence {
            kind: SegmentKind::Log,
            dir: self.dir.join("log"),
            durable: self
                .checkpoint
                .as_ref()
                .map_or(LogPosition(0), |checkpoint| checkpoint.durable)
                .max(self.log_durable),
            clean: self.clean_len(0),
            fences: self
                .checkpoint
                .as_ref()
                .map_or_else(Fences::default, |checkpoint| Fences::new(checkpoint.fences.clone())),
            checked: self.checkpoint.as_ref().map_or(LogPosition(0), |checkpoint| checkpoint.log),
            cost: "the messages in it",
            remedy: Remedy::Fenced,
        };
        // The rows of queues, and where in the log the last of them lay.
        let mut next = Ends::new();
        let mut gaps = Vec::new();
        let followed = self.follow(&sequence, &mut |verifier, segment, payload| {
            let mut records = 0_u32;
            let mut at = 0;
            while let Some(rest) = payload.bytes.get(at..).filter(|rest| !rest.is_empty()) {
                let here = LogPosition(payload.at.0 + at as u64);
                let record = match RecordView::decode(rest, here) {
                    Ok(record) => record,
                    Err(fault) => {
                        let bytes = bytes_of(segment, &(here..payload.range.end));
                        verifier.log_finding(segment, bytes, format!("a record: {fault}"));
                        return Ok(());
                    }
                };
                if let Err(fault) = record.body() {
                    let bytes = bytes_of(segment, &(here..LogPosition(here.0 + u64::from(record.size))));
                    verifier.log_finding(segment, bytes, format!("a record: {fault}"));
                }
                at += padded(u64::from(record.size)) as usize;
                records += 1;
                verifier.found.records += 1;
                if !record.kind.is_row() {
                    continue;
                }
                let place = (record.topic, record.queue);
                let here = (record.offset.plus(1), record.position);
                let known = next.insert(place, here);
                // What lies before the first retained row is gone for good.
                let first = || {
                    let topic = verifier.catalogue.topics.get(&record.topic)?;
                    (topic.incarnation == record.incarnation)
                        .then(|| (topic.first_offset(record.queue), LogPosition(0)))
                };
                if let Some((expected, before)) = known.or_else(first)
                    && record.offset > expected
                    && gaps.len() < GAPS_MAX
                {
                    gaps.push((place, expected..record.offset, before..record.position));
                }
            }
            if payload.records.is_some_and(|stated| stated != records) {
                let what = "the number of records in a frame is wrong".to_owned();
                verifier.log_finding(segment, bytes_of(segment, &payload.range), what);
            }
            Ok(())
        })?;
        self.found.log = followed.begin..followed.end;
        for ((topic, queue), offsets, between) in gaps {
            let Some(finding) = followed.damage_within(&between) else { continue };
            // Below the checkpoint the consume queues say more exactly what lay where.
            if between.end > sequence.checked {
                self.affects(finding, topic, queue, offsets);
            } else if self.lost_below.len() < LOST_BELOW_MAX {
                self.lost_below.push((topic, queue, offsets, finding));
            }
        }
        self.lost_ends(&sequence, &followed, &mut next);
        Ok(followed)
    }

    /// Says which rows were damaged at the end of their queue, where no later row shows that they were there.
    fn lost_ends(&mut self, sequence: &Sequence, followed: &Followed, next: &mut Ends) {
        let is_ours = |verifier: &Self, topic, queue: QueueId| {
            verifier.catalogue.topics.get(&topic).is_some_and(|topic| queue.0 < topic.queues)
        };
        let mut hints: Vec<_> =
            followed.hints.iter().filter(|(hint, _)| hint.position >= sequence.checked).collect();
        hints.sort_unstable_by_key(|(hint, _)| (hint.topic, hint.queue, hint.offset));
        let count = hints.len() as u64;
        for (hint, finding) in hints {
            let (end, last) = next.get(&(hint.topic, hint.queue)).copied().unwrap_or_default();
            let is_possible =
                last <= hint.position && hint.offset.since(end).is_some_and(|rows| rows < count);
            if is_possible && is_ours(self, hint.topic, hint.queue) {
                next.insert((hint.topic, hint.queue), (hint.offset.plus(1), hint.position));
                self.affects(*finding, hint.topic, hint.queue, hint.offset..hint.offset.plus(1));
            }
        }
        let Some((damaged, finding)) = followed.damaged.last() else { return };
        for ((topic, queue), named) in std::mem::take(&mut self.named) {
            let (end, last) = next.get(&(topic, queue)).copied().unwrap_or_default();
            if damaged.end > sequence.checked
                && last <= damaged.start
                && end < named
                && is_ours(self, topic, queue)
            {
                self.affects(*finding, topic, queue, end..named);
            }
        }
    }

    fn log_finding(&mut self, segment: &SegmentFile, bytes: std::ops::Range<u64>, what: String) {
        self.find(Finding {
            path: segment.path.clone(),
            bytes,
            what,
            cost: "the messages in it",
            rows: Vec::new(),
            remedy: Remedy::StaysUnreadable,
        });
    }
}

/// Where in a segment's file a range lies that is held there without a gap.
fn bytes_of(segment: &SegmentFile, range: &std::ops::Range<LogPosition>) -> std::ops::Range<u64> {
    let start = segment.file_position(range.start).0;
    start..start + (range.end.0 - range.start.0)
}
