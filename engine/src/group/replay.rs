//! What a start makes of the group journal.
//!
//! Entries are applied in the order in which they were written. Leases run on the clock of this process, so
//! what is left of one is clamped to its original length: a wall clock that jumped cannot lengthen it.
//!
//! A lease that the broker had renewed is renewed further while its client lives. One that it had not renewed yet ends
//! in its time: the response with the message may have been lost with the broker, so that nobody has the message, and
//! clients ask again under another attempt.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use weir_storage::{GroupId, JournalEntry, OpenRow, QueueId, QueueOffset, TopicId};

use super::{
    state::{NO_SLOT, Phase, QueueState, Renewal, Row, Span},
    subscription::State,
};
use crate::limits::{CLIENT_ALIVE, LEASE_MAX, LEASE_RENEWED_MAX};

/// The state of every group on every topic, as the journal tells it.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) states: BTreeMap<(GroupId, TopicId), State>,
    /// The largest lease number that was given.
    pub(crate) lease: u64,
    /// Clients that held renewed leases: they get the time to come back.
    pub(crate) clients: Vec<Arc<str>>,
    wall_ms: i64,
    now: Duration,
}

impl Replay {
    pub(crate) fn new(wall_ms: i64, now: Duration) -> Self {
        Self { states: BTreeMap::new(), lease: 0, clients: Vec::new(), wall_ms, now }
    }

    pub(crate) fn apply(&mut self, entry: JournalEntry) {
        match entry {
            JournalEntry::Queue { group, topic, queue, cursors, open } => {
                let mut state = QueueState::default();
                for (slot, start, cursor) in cursors {
                    if slot == NO_SLOT {
                        state.set_floor(start);
                    } else {
                        state.set_span(slot, Span { start, cursor });
                    }
                }
                for row in open {
                    self.lease = self.lease.max(row.lease);
                    state.insert(row.offset, self.open_row(row));
                }
                self.state(group, topic).queues.insert(queue, state);
            }
            JournalEntry::Selector { group, topic, slot, text, dialect, kind, starts } => {
                let grace_until = self.now + CLIENT_ALIVE;
                let state = self.state(group, topic);
                state.selectors.restore(slot, text, dialect, kind, grace_until);
                for (queue, start) in starts {
                    // A queue that no entry has named yet: the other selectors stand at its first row.
                    state.queue(queue, QueueOffset(0)).set_span(slot, Span::at(start));
                }
            }
            JournalEntry::DropSelector { group, topic, slot } => self.state(group, topic).drop_selector(slot),
            JournalEntry::Cursor { group, topic, queue, slot, cursor } => {
                let queue = self.queue(group, topic, queue);
                queue.advance(slot, cursor);
                queue.set_journaled(slot, cursor);
            }
            JournalEntry::Lease {
                group,
                topic,
                queue,
                rows,
                lease,
                until_ms,
                length_ms,
                client,
                attempt_id,
            } => {
                self.lease = self.lease.max(lease);
                let until = self.moment(until_ms, Duration::from_millis(length_ms.into()));
                let renewal = self.renewal(until, &client);
                let attempt_id: Option<Arc<str>> = attempt_id.map(Arc::from);
                let queue = self.queue(group, topic, queue);
                for row in rows {
                    let attempt = u32::from(row.attempt);
                    let mut renewed = false;
                    if let Some(known) = queue.row_mut(row.offset) {
                        known.attempt = attempt;
                        renewed = std::mem::replace(&mut known.lease, lease) == lease;
                        if !renewed {
                            known.attempt_id = None;
                        }
                    } else {
                        queue.insert(row.offset, Row::new(attempt, lease, row.slot));
                        queue.advance(row.slot, row.offset.plus(1));
                        if row.slot == NO_SLOT {
                            queue.raise_floor(row.offset.plus(1));
                        }
                        queue.set_journaled(row.slot, row.offset.plus(1));
                    }
                    let renewal = renewal.clone().filter(|_| renewed);
                    queue.set_phase(row.offset, Phase::Leased { until, renewal });
                    if let Some(known) = queue.row_mut(row.offset).filter(|_| attempt_id.is_some()) {
                        known.attempt_id.clone_from(&attempt_id);
                    }
                }
            }
            JournalEntry::Ack { group, topic, queue, offsets } => {
                let queue = self.queue(group, topic, queue);
                offsets.into_iter().for_each(|offset| drop(queue.remove(offset)));
            }
            JournalEntry::Change { group, topic, queue, offset, lease, visible_at_ms } => {
                self.lease = self.lease.max(lease);
                let until = self.moment(visible_at_ms, LEASE_MAX);
                let queue = self.queue(group, topic, queue);
                if let Some(row) = queue.row_mut(offset) {
                    row.lease = lease;
                    queue.set_phase(offset, Phase::Waiting { until });
                }
            }
            JournalEntry::DeadLetter { group, topic, queue, offset } => {
                self.queue(group, topic, queue).remove(offset);
            }
            JournalEntry::Reset { group, topic, queue, offset } => {
                self.state(group, topic).queue(queue, offset).reset(offset);
            }
            JournalEntry::LitePosition { group, topic, queue, lite_topic, next } => {
                let now = self.now;
                self.state(group, topic).lite.restore(&lite_topic, queue, next, now);
            }
            JournalEntry::LiteForgotten { group, topic, lite_topic } => {
                self.state(group, topic).lite.forget(&lite_topic);
            }
            JournalEntry::DropGroup { group } => self.states.retain(|(of, _), _| *of != group),
            JournalEntry::DropTopic { topic } => self.states.retain(|(_, of), _| *of != topic),
        }
    }

    fn state(&mut self, group: GroupId, topic: TopicId) -> &mut State {
        self.states.entry((group, topic)).or_default()
    }

    fn queue(&mut self, group: GroupId, topic: TopicId, queue: QueueId) -> &mut QueueState {
        self.state(group, topic).queue(queue, QueueOffset(0))
    }

    fn open_row(&self, row: OpenRow) -> Row {
        let until = self.moment(row.until_ms, LEASE_MAX);
        let phase = match row.leased {
            true => Phase::Leased { until, renewal: None },
            false => Phase::Waiting { until },
        };
        Row { phase, ..Row::new(row.attempt.into(), row.lease, row.slot) }
    }

    fn renewal(&mut self, until: Duration, client: &str) -> Option<Renewal> {
        (!client.is_empty()).then(|| {
            let client: Arc<str> = client.into();
            if self.clients.last() != Some(&client) {
                self.clients.push(Arc::clone(&client));
            }
            Renewal { client, limit: until + LEASE_RENEWED_MAX }
        })
    }

    /// Returns the moment of a wall time, at most `length` from now.
    fn moment(&self, wall_ms: i64, length: Duration) -> Duration {
        let rest = u64::try_from(wall_ms.saturating_sub(self.wall_ms)).unwrap_or(0);
        self.now + Duration::from_millis(rest).min(length)
    }
}

#[cfg(test)]
mod tests {
    use weir_storage::{LeaseRow, SelectorKind};

    use super::*;

    const GROUP: GroupId = GroupId(1);
    const TOPIC: TopicId = TopicId(2);
    const QUEUE: QueueId = QueueId(0);

    fn lease(offsets: &[u64], attempt: u16, lease: u64, until_ms: i64, length_ms: u32) -> JournalEntry {
        let rows = offsets
            .iter()
            .map(|offset| LeaseRow { offset: QueueOffset(*offset), attempt, slot: 0 })
            .collect();
        let (client, attempt_id) = (String::new(), None);
        JournalEntry::Lease {
            group: GROUP,
            topic: TOPIC,
            queue: QUEUE,
            rows,
            lease,
            until_ms,
            length_ms,
            client,
            attempt_id,
        }
    }

    fn replay(entries: Vec<JournalEntry>) -> Replay {
        let mut replay = Replay::new(1_000_000, Duration::from_secs(5));
        replay.apply(JournalEntry::Selector {
            group: GROUP,
            topic: TOPIC,
            slot: 0,
            text: "a = 1".to_owned(),
            dialect: 0,
            kind: SelectorKind::Sql,
            starts: vec![(QUEUE, QueueOffset(3))],
        });
        entries.into_iter().for_each(|entry| replay.apply(entry));
        replay
    }

    #[test]
    fn leases_move_the_cursor_and_acknowledgements_close_their_rows() {
        let replay = replay(vec![
            lease(&[4, 9], 1, 70, 1_060_000, 60_000),
            JournalEntry::Ack { group: GROUP, topic: TOPIC, queue: QUEUE, offsets: vec![QueueOffset(4)] },
            lease(&[9], 2, 71, 1_070_000, 60_000),
        ]);
        let queue = &replay.states[&(GROUP, TOPIC)].queues[&QUEUE];
        assert_eq!(queue.span(0), Some(Span { start: QueueOffset(3), cursor: QueueOffset(10) }));
        let row = &queue.open()[&QueueOffset(9)];
        assert_eq!((queue.open().len(), row.attempt, row.lease, replay.lease), (1, 2, 71, 71));
    }

    #[test]
    fn what_is_left_of_a_lease_never_exceeds_its_length() {
        for (until_ms, rest) in [(1_010_000, 10), (9_000_000, 60), (500_000, 0)] {
            let replay = replay(vec![lease(&[4], 1, 1, until_ms, 60_000)]);
            let row = &replay.states[&(GROUP, TOPIC)].queues[&QUEUE].open()[&QueueOffset(4)];
            assert_eq!(row.phase.end(), Some(Duration::from_secs(5 + rest)), "until {until_ms}");
        }
    }

    #[test]
    fn a_reset_forgets_and_a_snapshot_replaces() {
        let reset = JournalEntry::Reset { group: GROUP, topic: TOPIC, queue: QUEUE, offset: QueueOffset(1) };
        let replayed = replay(vec![lease(&[4], 1, 1, 0, 0), reset.clone()]);
        let queue = &replayed.states[&(GROUP, TOPIC)].queues[&QUEUE];
        assert!(queue.open().is_empty());
        assert_eq!(queue.highest(), Some(QueueOffset(1)));
        let snapshot = JournalEntry::Queue {
            group: GROUP,
            topic: TOPIC,
            queue: QUEUE,
            cursors: vec![(0, QueueOffset(2), QueueOffset(8))],
            open: vec![OpenRow {
                offset: QueueOffset(5),
                attempt: 3,
                lease: 9,
                until_ms: 0,
                slot: 0,
                leased: false,
            }],
        };
        let replayed = replay(vec![reset, snapshot]);
        let queue = &replayed.states[&(GROUP, TOPIC)].queues[&QUEUE];
        assert_eq!(queue.span(0), Some(Span { start: QueueOffset(2), cursor: QueueOffset(8) }));
        assert_eq!(queue.open()[&QueueOffset(5)].attempt, 3);
    }
}
