//! The past as the group journal tells it: entries with the time at which they were written.
//!
//! Whoever asks reads the files beside the broker, which goes on writing and rotating: the segments are held open, and
//! nothing is read that was not written when the reading began. The journal tells of what came since it was rotated;
//! what it said before is in the state that a rotation writes, without when it happened.

use std::{collections::VecDeque, sync::Arc};

use super::Storage;
use crate::{
    error::StorageError,
    format::{
        frame::FrameKind,
        journal::{Stored, decode_entries},
    },
    journal::{DoneEntry, JournalEntry},
    log::{segment::SegmentFile, walk::Window},
    message::PendingRow,
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// One thing that the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// What a group was given, has acknowledged, and so on.
    Entry(JournalEntry),
    /// A start found the queue to end here: what was said before of rows at or above `end` is void, and their offsets
    /// have been given to others since.
    Cut {
        /// The topic.
        topic: TopicId,
        /// The queue.
        queue: QueueId,
        /// The end.
        end: QueueOffset,
    },
    /// Pending rows were released or given up.
    Done(DoneRows),
}

/// Some pending rows that are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneRows(DoneEntry);

impl DoneRows {
    /// Returns whether a row is among them.
    pub fn contains(&self, row: &PendingRow) -> bool {
        if self.0.place() != (row.topic, row.queue) {
            return false;
        }
        match &self.0 {
            DoneEntry::Rows { offsets, .. } => offsets.contains(&row.offset),
            DoneEntry::Stretch { first, rows, bits, .. } => {
                let at = row.offset.since(*first).filter(|at| *at < u64::from(*rows));
                at.is_some_and(|at| {
                    let byte = usize::try_from(at / 8).ok().and_then(|byte| bits.get(byte));
                    bits.is_empty() || byte.is_some_and(|byte| byte >> (at % 8) & 1 == 1)
                })
            }
        }
    }

    /// Returns whether it was a rotation that wrote this down: then it happened before, nobody knows when.
    pub const fn is_a_summary(&self) -> bool {
        matches!(self.0, DoneEntry::Stretch { .. })
    }
}

/// The group journal as it was when this was made, to be read from its beginning to its end.
#[derive(Debug)]
pub struct JournalHistory {
    segments: VecDeque<Arc<SegmentFile>>,
    position: LogPosition,
    end: LogPosition,
    begins_ms: Option<i64>,
    damaged: u64,
}

impl JournalHistory {
    /// Returns when the oldest part of the journal was begun, milliseconds since 1970, UTC: of what was written before,
    /// it has a summary at most. `None` if it has been there from the first entry on.
    pub const fn begins_ms(&self) -> Option<i64> {
        self.begins_ms
    }

    /// Returns how many places have been met so far at which the journal is damaged, so that entries are missing.
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Gives entries to `each`, in the order in which they were written, with the time at which that was; until there
    /// are no more, or `stop` says so, which is asked before each frame. Returns whether there are more.
    ///
    /// # Errors
    ///
    /// If a file cannot be read. What is damaged is passed over and [counted](Self::damaged).
    pub fn read(
        &mut self,
        stop: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(i64, Past),
    ) -> Result<bool, StorageError> {
        while let Some(segment) = self.segments.front().cloned() {
            let end = segment.sealed_end().unwrap_or(self.end).min(self.end);
            self.position = self.position.max(segment.base());
            let mut window = Window::new(&segment);
            while self.position < end {
                if stop() {
                    return Ok(true);
                }
                self.read_frame(&mut window, end, each)?;
            }
            self.segments.pop_front();
        }
        Ok(false)
    }

    fn read_frame(
        &mut self,
        window: &mut Window<'_>,
        end: LogPosition,
        each: &mut dyn FnMut(i64, Past),
    ) -> Result<(), StorageError> {
        let Ok(header) = window.frame(self.position)? else {
            self.damaged += 1;
            self.position = window.next_header(self.position, end)?.unwrap_or(end);
            return Ok(());
        };
        self.position = header.end();
        if header.kind != FrameKind::Journal {
            return Ok(());
        }
        match decode_entries(window.payload(&header)?) {
            Ok(stored) => stored.into_iter().for_each(|stored| each(header.store_time_ms, Past::of(stored))),
            Err(_) => self.damaged += 1,
        }
        Ok(())
    }
}

impl Past {
    fn of(stored: Stored) -> Self {
        match stored {
            Stored::Entry(entry) => Self::Entry(entry),
            Stored::Cut { topic, queue, end } => Self::Cut { topic, queue, end },
            Stored::Done(entry) => Self::Done(DoneRows(entry)),
        }
    }
}

impl Storage {
    /// Returns the group journal as it is now, to be read. What was handed to it and is not written yet is not in it.
    pub fn journal_history(&self) -> JournalHistory {
        self.journal_history_beside(&mut || {})
    }

    /// As [`journal_history`](Self::journal_history); `meanwhile` runs at the moment at which a rotation may end.
    fn journal_history_beside(&self, meanwhile: &mut dyn FnMut()) -> JournalHistory {
        let journal = &self.handle.inner.journal;
        let oldest = || journal.segments.all().first().map(|first| first.base());
        let (end, segments) = loop {
            let before = oldest();
            // Before the segments: one that is begun later holds nothing below this end.
            let end = journal.tip().written;
            meanwhile();
            let segments: VecDeque<_> = journal.segments.all().into();
            // Otherwise a rotation has ended in between, whose summary of what is gone may lie behind this end.
            if segments.front().map(|first| first.base()) == before {
                break (end, segments);
            }
        };
        let first = segments.front().filter(|first| first.base() > LogPosition(0));
        let begins_ms = first.map(|first| first.header.created_ms);
        JournalHistory { segments, position: LogPosition(0), end, begins_ms, damaged: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Events, GroupId, SimEnv, StorageOptions, VirtualClock, Wait, clock::Clock};

    struct Silent;

    impl Events for Silent {
        fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
        fn failed(&self, _: &StorageError) {}
    }

    const START_MS: i64 = 1_700_000_000_000;

    fn open(env: &SimEnv, clock: &Arc<VirtualClock>) -> Storage {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let options = StorageOptions { env: Arc::new(env.process()), clock, ..StorageOptions::small() };
        Storage::open_stepped(Path::new("/data"), options, Arc::new(Silent)).unwrap()
    }

    fn ack(offset: u64) -> JournalEntry {
        let offsets = vec![QueueOffset(offset)];
        JournalEntry::Ack { group: GroupId(1), topic: TopicId(1), queue: QueueId(0), offsets }
    }

    fn say(storage: &Storage, offset: u64) {
        storage.journal(vec![ack(offset)], Wait::None, None);
        storage.inner().flush_once(false);
    }

    fn read(history: &mut JournalHistory) -> Vec<(i64, Past)> {
        let mut all = Vec::new();
        let more =
            history.read(&mut || false, &mut |at_ms, past| all.push((at_ms - START_MS, past))).unwrap();
        assert!(!more);
        all
    }

    #[test]
    fn entries_come_in_their_order_with_their_times_and_nothing_that_was_written_later() {
        let (env, clock) = (SimEnv::new(1), Arc::new(VirtualClock::new(START_MS)));
        let storage = open(&env, &clock);
        for second in 0..3 {
            say(&storage, second);
            clock.advance(std::time::Duration::from_secs(1));
        }
        let mut before = storage.journal_history();
        assert_eq!(before.begins_ms(), None);
        say(&storage, 9);
        let expected: Vec<_> =
            (0..3_u64).map(|second| (1000 * second as i64, Past::Entry(ack(second)))).collect();
        assert_eq!(read(&mut before), expected);
        // In slices it is the same.
        let (mut sliced, mut all) = (storage.journal_history(), Vec::new());
        loop {
            let mut asked = 0;
            let mut stop = || {
                asked += 1;
                asked > 1
            };
            let more = sliced.read(&mut stop, &mut |_, past| all.push(past)).unwrap();
            if !more {
                break;
            }
        }
        assert_eq!(all, [0, 1, 2, 9].map(|offset| Past::Entry(ack(offset))));
    }

    #[test]
    fn a_rotation_ends_what_is_held_and_disturbs_nobody_who_reads() {
        let (env, clock) = (SimEnv::new(2), Arc::new(VirtualClock::new(START_MS)));
        let storage = open(&env, &clock);
        say(&storage, 1);
        let mut before = storage.journal_history();
        clock.advance(std::time::Duration::from_secs(5));
        let inner = storage.inner();
        inner.journal_writer.lock().rotate_soon();
        say(&storage, 2);
        say(&storage, 3);
        storage.journal_rotated();
        inner.flush_once(false);
        assert_eq!(
            read(&mut before),
            [(0, Past::Entry(ack(1)))],
            "its files are gone, and are read all the same"
        );
        let mut after = storage.journal_history();
        assert_eq!(after.begins_ms(), Some(START_MS + 5000));
        assert_eq!(read(&mut after), [(5000, Past::Entry(ack(3)))]);
    }

    #[test]
    fn what_a_rotation_writes_anew_that_ends_meanwhile_is_not_missing() {
        let (env, clock) = (SimEnv::new(4), Arc::new(VirtualClock::new(START_MS)));
        let storage = open(&env, &clock);
        say(&storage, 7);
        let inner = storage.inner();
        inner.journal_writer.lock().rotate_soon();
        say(&storage, 1);
        let mut has_ended = false;
        let mut history = storage.journal_history_beside(&mut || {
            if !std::mem::replace(&mut has_ended, true) {
                storage.journal(vec![ack(7)], Wait::None, None);
                storage.journal_rotated();
                inner.flush_once(false);
            }
        });
        assert!(history.begins_ms().is_some(), "what the rotation has summed up is gone");
        assert_eq!(read(&mut history), [(0, Past::Entry(ack(7)))]);
    }

    #[test]
    fn damage_is_passed_over_and_counted() {
        let (env, clock) = (SimEnv::new(3), Arc::new(VirtualClock::new(START_MS)));
        let storage = open(&env, &clock);
        (1..4).for_each(|offset| say(&storage, offset));
        let path = env.paths().into_iter().find(|path| path.to_string_lossy().ends_with(".journal")).unwrap();
        let file = crate::Env::open(&env.process(), &path, crate::Open::Write).unwrap();
        // A header, and one acknowledgement, padded.
        let frame = 64 + 32;
        file.write_at(&[0xff], 4096 + frame + 70).unwrap();
        let mut history = storage.journal_history();
        let read = read(&mut history);
        assert_eq!(read, [1, 3].map(|offset| (0, Past::Entry(ack(offset)))));
        assert_eq!(history.damaged(), 1);
    }
}
