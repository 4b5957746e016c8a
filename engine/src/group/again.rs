//! A receive of a FIFO group that is made again: the same messages, and none of them counted twice.
//!
//! A client that did not get its answer asks again under the same name. Were it given what comes next, the messages
//! before that would be in its hands without its knowing, and their lines would stand still until the leases end.

use std::collections::BTreeMap;

use weir_storage::{JournalEntry, QueueId, QueueOffset, StoredMessage};

use super::{
    batch::{Batch, Taken},
    receive::Reading,
    state::{NO_SLOT, Phase, bit},
    subscription::{lease_row, millis_u32, wait_of},
};
use crate::{answers::HeldAnswer, error::EngineError, limits::RECEIVE_BYTES_TARGET};

/// Queue and offset.
type Place = (QueueId, QueueOffset);
/// With the number of its lease.
type Again = (Place, u64, StoredMessage);

impl Reading {
    /// Returns what the receive of the same name has in its hands, with leases that begin now; nothing if there was
    /// none, or all of it is done.
    pub(super) async fn again(&self) -> Result<Option<Batch>, EngineError> {
        let Some(attempt_id) = self.attempt_id.as_ref().filter(|_| self.subscription.spec.load().fifo) else {
            return Ok(None);
        };
        let held = self.held(attempt_id);
        if held.is_empty() {
            return Ok(None);
        }
        let reading = self.clone();
        let (messages, answer) = self.core.reads.run(move || reading.read(held)).await??;
        Ok(Some(self.lease_again(messages, answer)).filter(|batch| !batch.rows.is_empty()))
    }

    /// Returns rows that were given to the receive of this name, as many as a receive takes, and the numbers of their
    /// leases.
    fn held(&self, attempt_id: &str) -> Vec<(Place, u64)> {
        let state = self.subscription.lock();
        let wanted = |queue: &QueueId| self.queue.is_none_or(|only| only == *queue);
        let mut held = Vec::new();
        for (queue, known) in state.queues.iter().filter(|(queue, _)| wanted(queue)) {
            let rows = known.open().iter().filter(|(_, row)| {
                row.attempt_id.as_deref() == Some(attempt_id)
                    && (self.slot == NO_SLOT || row.yes & bit(self.slot) != 0)
                    && matches!(row.phase, Phase::Leased { .. })
            });
            let rows = rows.take(self.want - held.len());
            held.extend(rows.map(|(offset, row)| ((*queue, *offset), row.lease)));
        }
        held
    }

    fn read(&self, held: Vec<(Place, u64)>) -> Result<(Vec<Again>, HeldAnswer), EngineError> {
        let answer = self.core.answers.begin(&self.share)?;
        let mut messages: Vec<Again> = Vec::with_capacity(held.len());
        let mut bytes = 0;
        for ((queue, offset), lease) in held {
            if bytes >= RECEIVE_BYTES_TARGET {
                break;
            }
            let Some(view) = self.core.storage.view(self.subscription.topic.id, queue) else { continue };
            // What is lost stays in its line until the lease ends.
            if let Some(message) = self.core.read_row(&view, offset)? {
                answer.add(&message);
                bytes += message.message.body.len();
                messages.push(((queue, offset), lease, message));
            }
        }
        Ok((messages, answer))
    }

    /// Lets the leases of rows that are still in these hands begin anew, under their numbers.
    fn lease_again(&self, messages: Vec<Again>, answer: HeldAnswer) -> Batch {
        let now = self.core.time.now();
        let (length, renewal) = self.lease_from(now);
        let until = now + length;
        let mut batch = Batch::new(&self.core, &self.subscription, answer);
        let mut rows: BTreeMap<(QueueId, u64), Vec<_>> = BTreeMap::new();
        let mut state = self.subscription.lock();
        for ((queue, offset), lease, message) in messages {
            let Some(known) = state.queues.get_mut(&queue) else { continue };
            let Some(row) = known.row_mut(offset).filter(|row| row.lease == lease) else { continue };
            if !matches!(row.phase, Phase::Leased { .. }) {
                continue;
            }
            rows.entry((queue, lease)).or_default().push(lease_row(offset, row));
            batch.rows.push(Taken { queue, lease, attempt: row.attempt, length, message });
            known.set_phase(offset, Phase::Leased { until, renewal: renewal.clone() });
        }
        let entry = |((queue, lease), rows)| JournalEntry::Lease {
            group: self.subscription.group,
            topic: self.subscription.topic.id,
            queue,
            rows,
            lease,
            until_ms: self.core.wall_at(until, now),
            length_ms: millis_u32(length),
            client: renewal.as_ref().map(|renewal| renewal.client.to_string()).unwrap_or_default(),
            attempt_id: self.attempt_id.as_deref().map(str::to_owned),
        };
        let entries: Vec<_> = rows.into_iter().map(entry).collect();
        if !entries.is_empty() {
            batch.journal(entries, wait_of(&self.subscription.topic));
            self.subscription.arm(&self.core, &mut state, until);
        }
        batch
    }
}
