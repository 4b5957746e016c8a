//! Receiving from lite topics: what is delivered again first, then what comes behind the positions.
//!
//! ```text
//! row visible ─► one waiting receive looks at it, for all ─► wakes the clients that subscribe to its lite topic
//!                                                             └► each reads on from its own positions
//! ```
//!
//! Receives of a group read a queue at the same time: what one has found is the member's only if nobody else has opened a
//! row of the lite topic, or put its position elsewhere, in between.

use std::{collections::HashSet as LineSet, ops::Range, sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};
use weir_storage::{JournalEntry, QueueId, QueueOffset, QueueView, StorageError};

use super::{Wanted, names::Names};
use crate::{
    broker::Core,
    error::EngineError,
    group::{
        batch::{Batch, Taken},
        order::{self, Line},
        receive::{Delivered, Reading},
        search::{Allowance, Read, block_at, row_at},
        state::{NO_SLOT, Phase, Row},
        subscription::{State, Subscription, lease_row, millis_u32, wait_of},
    },
    limits::{LEASE_OF_GONE, LITE_OPEN_ROWS_MAX},
};

/// Blocks that one visit of the reading pool opens to look at new rows, and again so many to find messages, before it lets
/// others read.
pub(super) const STEPS_MAX: usize = 64;

/// What is left of [`STEPS_MAX`] in a visit. A client reads on while new rows, maybe many after a start, are looked at.
struct Steps {
    look: usize,
    find: usize,
}

/// What one visit came to.
struct Visit {
    batch: Batch,
    /// Whether rows are left that were not looked at.
    more: bool,
    failed: Option<EngineError>,
}

/// Reads, or waits until there is something to read, until `deadline`.
pub(in crate::group) async fn receive(
    reading: Reading,
    deadline: Duration,
) -> Result<Vec<Delivered>, EngineError> {
    let core = Arc::clone(&reading.core);
    let subscription = Arc::clone(&reading.subscription);
    // Whoever waits may have to look at rows for the others.
    let place = subscription
        .waiters
        .enter(0, None)
        .ok_or(EngineError::Busy("too many receives wait on this topic for this group"))?;
    let mine = subscription.lite_waiters.enter(&reading.client);
    loop {
        let woken = mine.notify.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        place.look();
        if *core.closing.borrow() {
            return Ok(Vec::new());
        }
        if let Some(batch) = reading.again().await? {
            return batch.deliver().await;
        }
        let queues = subscription.lite_work(&core, &reading.client)?;
        let mut more = false;
        if !queues.is_empty() {
            let reader = reading.clone();
            let work = move || {
                let allowance = Allowance::new(reader.want, reader.core.answers.begin(&reader.share)?);
                Ok::<_, EngineError>(reader.visit_lite(queues, &allowance))
            };
            let visit = core.reads.run(work).await??;
            if !visit.batch.rows.is_empty() {
                return visit.batch.deliver().await;
            }
            if let Some(error) = visit.failed {
                return Err(error);
            }
            more = visit.more;
        }
        let now = core.time.now();
        if now >= deadline {
            return Ok(Vec::new());
        }
        core.clients.saw(&reading.client, now);
        if !more {
            let mut closing = core.closing.subscribe();
            tokio::select! {
                () = &mut woken => {}
                () = place.woken() => {}
                () = core.time.sleep_until(deadline) => {}
                // The sending half lives in the core, so this ends only when the broker closes.
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    }
}

impl Subscription {
    /// Returns the queues in which there is something to do for a client, or rows that nobody has looked at.
    fn lite_work(self: &Arc<Self>, core: &Arc<Core>, client: &str) -> Result<Vec<QueueId>, EngineError> {
        let now = core.time.now();
        let (queues, _) = self.rotation(None);
        let mut state = self.lock();
        self.check_here(&state)?;
        let subscribes = state.lite.is_subscribed(client, now);
        let has_work = |queue: &QueueId| {
            let range = core.range(self.topic.id, *queue);
            self.end_leases(core, &mut state, *queue, now);
            if state.lite.looked(*queue, &range) < range.end {
                return true;
            }
            if !subscribes {
                return false;
            }
            let State { queues, lite, .. } = &*state;
            let Some(known) = queues.get(queue) else {
                return !lite.wanted(client, *queue, range.start, &LineSet::new()).is_empty();
            };
            let is_unlined = || known.open().values().any(|row| row.line.is_none());
            is_unlined()
                || known.open().len() < LITE_OPEN_ROWS_MAX
                    && !lite.wanted(client, *queue, range.start, &order::held(known)).is_empty()
                || known.has_ready()
                    && !order::take_lines(known, &lite.lines(client, *queue), 1, false).is_empty()
        };
        Ok(queues.into_iter().filter(has_work).collect())
    }

    /// Returns the clients that may be given something now that rows of these lines are ready or done.
    pub(in crate::group) fn wake_lite(&self, state: &State, lines: impl IntoIterator<Item = Line>) {
        self.lite_waiters.wake(&state.lite.clients_of(lines));
    }
}

/// Finds out in which lines the open rows of a queue stand.
pub(super) fn line_up(
    subscription: &Subscription,
    queue: QueueId,
    view: &QueueView,
) -> Result<(), EngineError> {
    let unlined = {
        let state = subscription.lock();
        state.queues.get(&queue).map(order::unlined).unwrap_or_default()
    };
    for offset in unlined {
        let line = match row_at(view, offset)? {
            Some((block, row)) => Line::of_row(&block, row)?,
            None => Line::of_lost(offset),
        };
        let mut state = subscription.lock();
        if let Some(row) = state.queues.get_mut(&queue).and_then(|known| known.row_mut(offset)) {
            row.line = Some(line);
        }
    }
    Ok(())
}

/// Rows that were taken in hand, and wait a little when they are not handed out.
struct InHand<'a> {
    reading: &'a Reading,
    queue: QueueId,
    offsets: Vec<QueueOffset>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let Reading { core, subscription, .. } = self.reading;
        let until = core.time.now() + LEASE_OF_GONE;
        let mut state = subscription.lock();
        let mut waits = false;
        if let Some(known) = state.queues.get_mut(&self.queue) {
            for offset in self.offsets.drain(..) {
                if known.open().get(&offset).is_some_and(|row| row.phase == Phase::InHand) {
                    known.set_phase(offset, Phase::Waiting { until });
                    waits = true;
                }
            }
        }
        if waits {
            subscription.arm(core, &mut state, until);
        }
    }
}

/// That a receive looks at the new rows of a queue, which others leave to it meanwhile.
struct Looking<'a> {
    subscription: &'a Subscription,
    queue: QueueId,
}

impl<'a> Looking<'a> {
    fn begin(subscription: &'a Subscription, queue: QueueId) -> Option<Self> {
        let mut state = subscription.lock();
        if let Some(has_come) = state.lite.looking.get_mut(&queue) {
            *has_come = true;
            return None;
        }
        state.lite.looking.insert(queue, false);
        drop(state);
        Some(Self { subscription, queue })
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        // Others may have come for rows that this one could not see yet.
        if self.subscription.lock().lite.looking.remove(&self.queue) == Some(true) {
            self.subscription.waiters.wake(self.queue);
        }
    }
}

/// What was read behind the positions of a queue.
#[derive(Default)]
struct Found {
    /// With the number of their lite topic.
    rows: Vec<(usize, Read)>,
    /// All rows below were looked at.
    next: QueueOffset,
}

impl Reading {
    fn visit_lite(&self, queues: Vec<QueueId>, allowance: &Allowance) -> Visit {
        let batch = Batch::new(&self.core, &self.subscription, allowance.held().clone());
        let mut visit = Visit { batch, more: false, failed: None };
        let mut steps = Steps { look: STEPS_MAX, find: STEPS_MAX };
        for queue in queues {
            if allowance.is_spent() {
                break;
            }
            if steps.find == 0 {
                visit.more = true;
                break;
            }
            if let Err(error) = self.read_lite(queue, allowance, &mut steps, &mut visit) {
                visit.failed = Some(error);
            }
        }
        visit
    }

    fn read_lite(
        &self,
        queue: QueueId,
        allowance: &Allowance,
        steps: &mut Steps,
        visit: &mut Visit,
    ) -> Result<(), EngineError> {
        let (core, subscription) = (&self.core, &self.subscription);
        let Some(view) = core.storage.view(subscription.topic.id, queue) else { return Ok(()) };
        let range = view.range();
        self.look(queue, &view, &mut steps.look, visit)?;
        line_up(subscription, queue, &view)?;
        let (taken, wanted, names, room) = {
            let mut state = subscription.lock();
            subscription.check_here(&state)?;
            let known = state.queue(queue, range.start);
            let open = known.open().len();
            subscription.follow_retention(known, queue, range.start);
            subscription.wake_if_done(known, queue, open);
            if !state.lite.is_subscribed(&self.client, core.time.now()) {
                return Ok(());
            }
            let State { queues, lite, .. } = &mut *state;
            let Some(known) = queues.get_mut(&queue) else { return Ok(()) };
            let mut taken = if known.has_ready() {
                order::take_lines(known, &lite.lines(&self.client, queue), self.want, self.one_by_one)
            } else {
                Vec::new()
            };
            taken.truncate(allowance.take(taken.len()));
            taken.iter().for_each(|(offset, _)| known.set_phase(*offset, Phase::InHand));
            let wanted = lite.wanted(&self.client, queue, range.start, &order::held(known));
            let names: HashSet<Arc<str>> = if taken.is_empty() {
                HashSet::new()
            } else {
                lite.of(&self.client, queue).map(|(name, _)| Arc::clone(name)).collect()
            };
            (taken, wanted, names, LITE_OPEN_ROWS_MAX.saturating_sub(known.open().len()))
        };
        let offsets = taken.iter().map(|(offset, _)| *offset).collect();
        let in_hand = InHand { reading: self, queue, offsets };
        let again = self.read_again(queue, &view, taken, &names, allowance);
        let mut found = Found::default();
        let mut failed = None;
        if !wanted.is_empty() && room > 0 && !allowance.is_spent() {
            found.next = wanted.iter().map(|wanted| wanted.next).min().unwrap_or(range.end);
            failed = self.find(&view, &wanted, room, allowance, &mut steps.find, &mut found).err();
            visit.more |= failed.is_none() && wanted.iter().any(|wanted| found.next < wanted.end);
        }
        self.commit_lite(queue, &range, again, &wanted, found, visit)?;
        drop(in_hand);
        failed.map_or(Ok(()), Err)
    }

    /// Looks at the rows that nobody has looked at, for all positions of the queue, unless somebody else does so now.
    fn look(
        &self,
        queue: QueueId,
        view: &QueueView,
        steps: &mut usize,
        visit: &mut Visit,
    ) -> Result<(), EngineError> {
        let range = view.range();
        if self.subscription.lock().lite.looked(queue, &range) >= range.end {
            return Ok(());
        }
        let Some(_looking) = Looking::begin(&self.subscription, queue) else { return Ok(()) };
        let mut next = self.subscription.lock().lite.looked(queue, &range);
        while next < range.end {
            if *steps == 0 {
                visit.more = true;
                break;
            }
            *steps -= 1;
            let Some(block) = block_at(view, next)? else { break };
            let (base, end) = (block.range().start, block.range().end.min(range.end));
            let mut last: HashMap<String, QueueOffset> = HashMap::new();
            let names = Names::of(&block)?;
            names.each(
                |name| Some(name.to_owned()),
                |row, name| {
                    let offset = base.plus(row as u64);
                    if (next..end).contains(&offset) {
                        match last.get_mut(name.as_str()) {
                            Some(known) => *known = offset,
                            None => drop(last.insert(name.clone(), offset)),
                        }
                    }
                    offset < end
                },
            );
            let seen = last.iter().map(|(name, offset)| (name.as_str(), *offset));
            let clients = self.subscription.lock().lite.saw(queue, end, seen);
            // Among them other receives of this client.
            self.subscription.lite_waiters.wake(&clients);
            next = end;
        }
        Ok(())
    }

    /// Reads messages that are delivered again.
    fn read_again(
        &self,
        queue: QueueId,
        view: &QueueView,
        taken: Vec<(QueueOffset, Line)>,
        names: &HashSet<Arc<str>>,
        allowance: &Allowance,
    ) -> Vec<Read> {
        let count = taken.len();
        let mut again = Vec::with_capacity(count);
        let mut lost = Vec::new();
        let mut failed = Vec::new();
        for (offset, line) in taken {
            // Not before those of its lite topic that stand before it.
            if failed.contains(&line) {
                continue;
            }
            let is_ours = |name: &String| names.contains(name.as_str());
            match self.core.read_row(view, offset) {
                // Another lite topic with the same hash is not for this client.
                Ok(Some(message)) if message.message.lite_topic.as_ref().is_some_and(is_ours) => {
                    allowance.add(&message);
                    again.push(Read { offset, message, is_new: false });
                }
                Ok(Some(_)) => {}
                Ok(None) => lost.push(offset),
                // It stays in hand, and goes back to wait a while; other lite topics are not held up by it.
                Err(error) => {
                    tracing::error!(%error, %queue, %offset, "a message of a lite topic cannot be read for its redelivery");
                    failed.push(line);
                }
            }
        }
        allowance.give_back(count - again.len());
        if !lost.is_empty() {
            let first = self.core.range(self.subscription.topic.id, queue).start;
            if lost.iter().any(|offset| *offset >= first) {
                tracing::error!(
                    %queue, ?lost, topic = %self.subscription.topic.name,
                    "messages of lite topics were lost to damage before they were delivered again"
                );
            }
            let mut state = self.subscription.lock();
            if let Some(known) = state.queues.get_mut(&queue) {
                let lines: Vec<Line> = lost.iter().filter_map(|offset| known.remove(*offset)?.line).collect();
                self.core.note(vec![self.subscription.ack_entry(queue, lost)]);
                self.subscription.wake_lite(&state, lines);
            }
        }
        again
    }

    /// Reads rows of the lite topics that are wanted, from the first position on.
    fn find(
        &self,
        view: &QueueView,
        wanted: &[Wanted],
        room: usize,
        allowance: &Allowance,
        steps: &mut usize,
        found: &mut Found,
    ) -> Result<(), EngineError> {
        let range = view.range();
        let by_name: HashMap<&str, usize> =
            wanted.iter().enumerate().map(|(number, wanted)| (wanted.name.as_ref(), number)).collect();
        let until = wanted.iter().map(|wanted| wanted.end).max().unwrap_or_default().min(range.end);
        while found.next < until && *steps > 0 {
            *steps -= 1;
            let Some(block) = block_at(view, found.next)? else {
                found.next = range.end;
                break;
            };
            let (base, end) = (block.range().start, block.range().end.min(range.end));
            let mut rows = Vec::new();
            Names::of(&block)?.each(
                |name| by_name.get(name).copied(),
                |row, number| {
                    let offset = base.plus(row as u64);
                    let is_his = wanted.get(*number).is_some_and(|wanted| wanted.next <= offset);
                    if is_his && (found.next..end).contains(&offset) {
                        rows.push((*number, row, offset));
                    }
                    offset < end
                },
            );
            for (number, row, offset) in rows {
                if self.one_by_one && found.rows.iter().any(|(other, _)| *other == number) {
                    continue;
                }
                if found.rows.len() >= room || allowance.is_spent() || allowance.take(1) == 0 {
                    found.next = offset;
                    return Ok(());
                }
                match block.message(row) {
                    // Before the topic was what it is, others may have had such a message group.
                    Ok(message) if message.message.lite_topic.is_none() => allowance.give_back(1),
                    Ok(message) => {
                        allowance.add(&message);
                        found.rows.push((number, Read { offset, message, is_new: true }));
                    }
                    Err(StorageError::Lost { .. } | StorageError::NoRecord { .. }) => {
                        allowance.give_back(1);
                        // Or it has ended since.
                        let queue = block.queue();
                        if offset >= self.core.range(self.subscription.topic.id, queue).start {
                            tracing::error!(%queue, %offset, "a message of a lite topic was lost to damage before it was delivered");
                        }
                    }
                    Err(error) => {
                        allowance.give_back(1);
                        found.next = offset;
                        return Err(error.into());
                    }
                }
            }
            found.next = end;
        }
        Ok(())
    }

    /// Makes what was read the member's.
    fn commit_lite(
        &self,
        queue: QueueId,
        range: &Range<QueueOffset>,
        again: Vec<Read>,
        wanted: &[Wanted],
        found: Found,
        visit: &mut Visit,
    ) -> Result<(), EngineError> {
        let (core, subscription) = (&self.core, &self.subscription);
        let now = core.time.now();
        let (length, renewal) = self.lease_from(now);
        let (until, lease) = (now + length, core.next_lease());
        let mut state = subscription.lock();
        subscription.check_here(&state)?;
        let State { queues, lite, .. } = &mut *state;
        let Some(known) = queues.get_mut(&queue) else { return Ok(()) };
        let held = order::held(known);
        let mut rows = Vec::new();
        let mut lease_to = |known: &mut crate::group::state::QueueState, offset, row: Row, message| {
            rows.push(lease_row(offset, &row));
            let attempt = row.attempt;
            visit.batch.rows.push(Taken { queue, lease, attempt, length, message });
            known.insert(offset, row);
            known.set_phase(offset, Phase::Leased { until, renewal: renewal.clone() });
        };
        // Of a lite topic of which a row was put off while it was in hand, what stands behind it waits for it.
        let mut put_off = Vec::new();
        for Read { offset, message, .. } in again {
            let is_mine =
                message.message.lite_topic.as_deref().is_some_and(|name| lite.subscribes(&self.client, name));
            let Some(row) = known.row_mut(offset) else { continue };
            // What it has let go of meanwhile waits a little for whoever has it now.
            if !is_mine || row.phase != Phase::InHand || row.line.is_some_and(|line| put_off.contains(&line))
            {
                put_off.extend(row.line);
                continue;
            }
            row.attempt += 1;
            row.lease = lease;
            row.attempt_id.clone_from(&self.attempt_id);
            let row = row.clone();
            lease_to(known, offset, row, message);
        }
        // How far each lite topic comes; none if somebody else was quicker, or the client has let go of it.
        let mut ends: Vec<Option<QueueOffset>> = Vec::with_capacity(wanted.len());
        for (number, of) in wanted.iter().enumerate() {
            let mut next = of.next.max(found.next);
            if self.one_by_one
                && let Some((_, first)) = found.rows.iter().find(|(other, _)| *other == number)
            {
                // Others of it have been passed over.
                next = first.offset.plus(1);
            }
            let is_ours = lite.subscribes(&self.client, &of.name)
                && !held.contains(&of.line)
                && lite.advance(of, range.start, next);
            visit.more |= !is_ours;
            ends.push(is_ours.then_some(of.next));
        }
        let mut positions: Vec<Option<QueueOffset>> = vec![None; wanted.len()];
        for (number, Read { offset, message, .. }) in found.rows {
            let (Some(of), Some(Some(_)), Some(position)) =
                (wanted.get(number), ends.get(number), positions.get_mut(number))
            else {
                continue;
            };
            let row = Row {
                line: Some(of.line),
                attempt_id: self.attempt_id.clone(),
                ..Row::new(1, lease, NO_SLOT)
            };
            known.raise_floor(offset.plus(1));
            lease_to(known, offset, row, message);
            *position = Some(offset.plus(1));
        }
        if rows.is_empty() {
            return Ok(());
        }
        if known.open().len() >= LITE_OPEN_ROWS_MAX && !std::mem::replace(&mut lite.has_warned, true) {
            tracing::warn!(
                group = %subscription.group_name, topic = %subscription.topic.name, %queue,
                "as many messages of this queue are leased or wait for redelivery as may be at a time: its other lite topics wait"
            );
        }
        let mut entries = vec![JournalEntry::Lease {
            group: subscription.group,
            topic: subscription.topic.id,
            queue,
            rows,
            lease,
            until_ms: core.wall_at(until, now),
            length_ms: millis_u32(length),
            client: renewal.map(|renewal| renewal.client.to_string()).unwrap_or_default(),
            attempt_id: self.attempt_id.as_deref().map(str::to_owned),
        }];
        for (of, position) in wanted.iter().zip(positions) {
            entries.extend(position.map(|next| subscription.lite_entry(queue, &of.name, next)));
        }
        // What is out of order for good after a power loss must not have been seen before it.
        visit.batch.journal(entries, wait_of(&subscription.topic));
        subscription.arm(core, &mut state, until);
        Ok(())
    }
}
