//! The search of a receive in one queue: which rows are for the member, by the index or by a scan, and their messages.
//!
//! Rows are chosen first and their messages read together at the end, so that a cold disk is waited for once and
//! not once a message. Several threads may search for one receive, in a queue each: what it may still take is
//! theirs together.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use weir_columns::Rows;
use weir_filter::Predicate;
use weir_storage::{Block, Part, QueueId, QueueOffset, QueueView, StorageError, StoredMessage, TopicId};

use super::{
    live::{Known, Member},
    order::{Line, Order},
    state::Span,
};
use crate::{
    answers::HeldAnswer,
    broker::Core,
    error::EngineError,
    limits::RECEIVE_BYTES_TARGET,
    scan::{Scan, Step, evaluation_error},
};

/// What there is to do in a queue.
pub(super) struct Work {
    pub(super) topic: TopicId,
    pub(super) queue: QueueId,
    pub(super) view: QueueView,
    pub(super) predicate: Arc<Predicate>,
    /// Other selectors that may have taken rows which this one has still to pass.
    pub(super) others: Vec<(Span, Arc<Predicate>)>,
    /// What the index of the queue has found, and from where on.
    pub(super) member: Option<Arc<Member>>,
    pub(super) from: QueueOffset,
    /// How many more rows of the queue may be open.
    pub(super) room: usize,
    /// Ready rows that the selector has not judged.
    pub(super) unknown: Vec<QueueOffset>,
}

/// A message on its way to a member.
pub(super) struct Read {
    pub(super) offset: QueueOffset,
    pub(super) message: StoredMessage,
    /// Whether this is its first delivery.
    pub(super) is_new: bool,
}

/// What a receive may still take, whichever thread takes it.
#[derive(Debug)]
pub(super) struct Allowance {
    rows: AtomicUsize,
    /// Bytes of the bodies that were read.
    bytes: AtomicUsize,
    /// Counts what was read as in memory.
    held: HeldAnswer,
}

impl Allowance {
    pub(super) fn new(rows: usize, held: HeldAnswer) -> Self {
        Self { rows: AtomicUsize::new(rows), bytes: AtomicUsize::new(0), held }
    }

    pub(super) fn held(&self) -> &HeldAnswer {
        &self.held
    }

    /// Takes up to `count` rows, and returns how many there were.
    pub(super) fn take(&self, count: usize) -> usize {
        let take = |left: usize| Some(left - left.min(count));
        let left = self.rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        left.unwrap_or_else(|left| left).min(count)
    }

    /// Gives back rows that were taken and are not delivered.
    pub(super) fn give_back(&self, count: usize) {
        self.rows.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a message that was read.
    pub(super) fn add(&self, message: &StoredMessage) {
        self.held.add(message);
        self.add_bytes(message.message.body.len());
    }

    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn rows_left(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    fn has_bytes_left(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < RECEIVE_BYTES_TARGET
    }

    pub(super) fn is_spent(&self) -> bool {
        self.rows_left() == 0 || !self.has_bytes_left()
    }
}

/// What a search came to.
pub(super) struct Found {
    pub(super) rows: Vec<Read>,
    /// The first row that was not judged, or that was not taken.
    pub(super) next: QueueOffset,
    /// Rows that ended, by retention, between their choice and now.
    pub(super) ended: Vec<QueueOffset>,
    /// Why the search ended at `next`.
    pub(super) failed: Option<EngineError>,
    /// In a FIFO group, which rows stand in which line.
    pub(super) order: Option<Order>,
}

/// A search in one queue, from the cursor of the selector on.
pub(super) struct Search<'a> {
    core: &'a Core,
    work: &'a Work,
    allowance: &'a Allowance,
    /// How many steps may still be taken.
    steps: &'a mut usize,
    /// Told after each step.
    on_step: &'a dyn Fn(),
    /// How many more rows may be chosen in this queue.
    room: usize,
    /// Rows that were chosen, whose messages are not read yet.
    chosen: Vec<(Arc<Block>, Vec<usize>)>,
    next: QueueOffset,
    /// In a FIFO group.
    order: Option<Order>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        core: &'a Core,
        work: &'a Work,
        allowance: &'a Allowance,
        room: usize,
        steps: &'a mut usize,
        on_step: &'a dyn Fn(),
    ) -> Self {
        let (chosen, next, order) = (Vec::new(), work.from, None);
        Self { core, work, allowance, steps, on_step, room, chosen, next, order }
    }

    /// Takes no row that has to wait in line.
    pub(super) fn in_order(mut self, order: Option<Order>) -> Self {
        self.order = order;
        self
    }

    /// Finds rows from the cursor on, and reads their messages. What cannot be read ends the search before it.
    pub(super) fn run(mut self) -> Found {
        let failed = self.choose().err();
        let mut found = Found { rows: Vec::new(), next: self.next, ended: Vec::new(), failed, order: None };
        if let Err(error) = self.read_chosen(&mut found) {
            // It lies before whatever ended the choice.
            found.failed = Some(error);
        }
        found.order = self.order;
        found
    }

    /// Whether the search ends here.
    fn is_full(&self) -> bool {
        self.room == 0 || *self.steps == 0 || self.allowance.is_spent()
    }

    fn step(&mut self) {
        *self.steps = self.steps.saturating_sub(1);
        (self.on_step)();
    }

    fn choose(&mut self) -> Result<(), EngineError> {
        let work = self.work;
        let end = work.view.range().end;
        if let Some(member) = &work.member {
            self.judge_rows(member.from())?;
            // The index may be at work: more rows than are wanted do not wait for it.
            let want = self.room.min(self.allowance.rows_left());
            let mut is_judged = member.ask(self.next, end).is_none_or(|known| known.rows.len() <= want);
            if is_judged {
                member.judge(&work.view, &self.core.judged);
            }
            while !self.is_full() {
                if let Some(known) = member.ask(self.next, end) {
                    self.choose_known(&known)?;
                } else if is_judged {
                    break;
                } else {
                    is_judged = true;
                    member.judge(&work.view, &self.core.judged);
                }
            }
        }
        self.judge_rows(end)
    }

    /// Judges the rows from the next one on, block by block, until `until` is reached.
    fn judge_rows(&mut self, until: QueueOffset) -> Result<(), EngineError> {
        let work = self.work;
        let rows = self.next..work.view.range().end;
        let mut scan = Scan::new(work.view.clone(), [Arc::clone(&work.predicate)], rows);
        if !self.core.options.skip_by_statistics {
            scan = scan.without_skipping();
        }
        while self.next < until
            && !self.is_full()
            && let Some(step) = scan.next()?
        {
            self.step();
            let step_end = step.end();
            if let Step::Block { block, matches, .. } = step {
                if !work.predicate.selector().matches_all() {
                    self.core.judged.by_receives.fetch_add(1, Ordering::Relaxed);
                }
                if !self.choose_rows(block, matches)? {
                    return Ok(());
                }
            }
            self.next = step_end;
        }
        Ok(())
    }

    /// Chooses rows that the index has found.
    fn choose_known(&mut self, known: &Known) -> Result<(), EngineError> {
        let mut rest = known.rows.as_slice();
        let mut passed = self.next;
        while let Some(first) = rest.first() {
            if self.is_full() {
                break;
            }
            self.step();
            let Some(block) = block_at(&self.work.view, *first)? else {
                rest = &rest[1..];
                continue;
            };
            let range = block.range();
            let (here, behind) = rest.split_at(rest.partition_point(|offset| *offset < range.end).max(1));
            rest = behind;
            self.next = *first;
            passed = range.end;
            let mut matches = BooleanBufferBuilder::new(Rows::len(&*block));
            matches.append_n(Rows::len(&*block), false);
            for row in here.iter().filter_map(|offset| usize::try_from(offset.since(range.start)?).ok()) {
                matches.set_bit(row, true);
            }
            if !self.choose_rows(block, matches.finish())? {
                return Ok(());
            }
        }
        // As a scan does, it ends with the block that has the last row that was wanted.
        let judged = rest.first().map_or(known.end, |next| *next);
        self.next = if self.is_full() { judged.min(passed) } else { judged };
        Ok(())
    }

    /// Chooses rows of a block that match. Returns whether there is room for more.
    ///
    /// If not, the next row is the one behind the last that was chosen, and not the next that matches: where the block ends
    /// depends on when storage merged rows, and where a cursor stands must not, because selectors that join begin there.
    fn choose_rows(&mut self, block: Arc<Block>, matches: BooleanBuffer) -> Result<bool, EngineError> {
        let matches = self.without_taken(&block, matches)?;
        if let Some(order) = self.order.take() {
            return self.choose_in_order(order, block, &matches);
        }
        let mut rows: Vec<usize> = matches.set_indices().collect();
        let count = self.allowance.take(rows.len().min(self.room));
        self.room -= count;
        let left = rows.get(count).copied();
        rows.truncate(count);
        let is_full = left.is_some() || !self.has_room();
        let next = rows.last().map(|last| last + 1).or(left).filter(|_| is_full);
        if let Some(row) = next {
            self.next = block.base().plus(row as u64);
        }
        if !rows.is_empty() {
            self.chosen.push((block, rows));
        }
        Ok(next.is_none())
    }

    fn has_room(&self) -> bool {
        self.room > 0 && self.allowance.rows_left() > 0
    }

    /// Chooses rows of a block that match and whose line nobody holds; the others of those that match are blocked.
    /// Returns whether there is room for more, as [`choose_rows`](Self::choose_rows) does.
    fn choose_in_order(
        &mut self,
        mut order: Order,
        block: Arc<Block>,
        matches: &BooleanBuffer,
    ) -> Result<bool, EngineError> {
        let mut rows = Vec::new();
        let (mut left, mut behind) = (None, None);
        let mut failed = None;
        for row in matches.set_indices() {
            let offset = block.base().plus(row as u64);
            let line = match Line::of_row(&block, row) {
                Ok(line) => line,
                Err(error) => {
                    (left, failed) = (Some(offset), Some(error));
                    break;
                }
            };
            let is_held = order.held.contains(&line);
            if self.room == 0 || !is_held && self.allowance.take(1) == 0 {
                left = behind.or(Some(offset));
                break;
            }
            self.room -= 1;
            behind = Some(offset.plus(1));
            order.lines.insert(offset, line);
            if is_held {
                order.blocked.push(offset);
            } else {
                rows.push(row);
                if order.one_by_one {
                    order.held.insert(line);
                }
            }
        }
        self.order = Some(order);
        if !self.has_room() {
            left = left.or(behind);
        }
        if !rows.is_empty() {
            self.chosen.push((block, rows));
        }
        if let Some(left) = left {
            self.next = left;
        }
        failed.map_or(Ok(left.is_none()), |error| Err(error.into()))
    }

    /// Reads the messages of the rows that were chosen.
    fn read_chosen(&mut self, found: &mut Found) -> Result<(), EngineError> {
        let chosen = std::mem::take(&mut self.chosen);
        let count: usize = chosen.iter().map(|(_, rows)| rows.len()).sum();
        if chosen.len() > 1 {
            for (block, rows) in &chosen {
                block.will_need_records(rows.iter().copied());
            }
        }
        let mut result = Ok(true);
        for (block, rows) in chosen {
            result = self.read_rows(found, &block, &rows);
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        self.allowance.give_back(count - found.rows.len());
        result.map(drop)
    }

    /// Reads the messages of rows of a block. Returns whether there was room for the bodies of all.
    fn read_rows(&self, found: &mut Found, block: &Block, rows: &[usize]) -> Result<bool, EngineError> {
        let offset = |row: usize| block.base().plus(row as u64);
        let mut rest = rows;
        while let Some(first) = rest.first() {
            if !self.allowance.has_bytes_left() {
                found.next = offset(*first);
                return Ok(false);
            }
            // At once, because records that lie close together are read together.
            let read = Cell::new(0);
            let wanted = rest.iter().copied().take_while(|_| self.allowance.has_bytes_left());
            let result = block.visit_records(wanted, |record| {
                let message = record.to_stored()?;
                self.allowance.add(&message);
                found.rows.push(Read { offset: offset(rest[read.get()]), message, is_new: true });
                read.set(read.get() + 1);
                Ok(())
            });
            rest = &rest[read.get()..];
            match (result, rest.split_first()) {
                (Err(StorageError::Lost { .. } | StorageError::NoRecord { .. }), Some((lost, behind))) => {
                    let lost = offset(*lost);
                    if lost < self.core.range(self.work.topic, self.work.queue).start {
                        found.ended.push(lost);
                    } else {
                        tracing::error!(offset = %lost, "a message was lost to damage before it was delivered");
                    }
                    rest = behind;
                }
                (Err(error), Some((row, _))) => {
                    found.next = offset(*row);
                    return Err(error.into());
                }
                (Err(error), None) => return Err(error.into()),
                (Ok(()), _) => {}
            }
        }
        Ok(true)
    }

    /// Takes away the rows that another selector has taken: see the rules in [`super::selectors`].
    fn without_taken(&self, block: &Block, mut matches: BooleanBuffer) -> Result<BooleanBuffer, EngineError> {
        for (span, predicate) in &self.work.others {
            // Its answer then cannot be told from its answer now. Twice is better than never.
            if predicate.selector().depends_on_now() {
                continue;
            }
            let theirs = BooleanBuffer::collect_bool(Rows::len(block), |row| {
                matches.value(row) && span.contains(block.base().plus(row as u64))
            });
            if theirs.has_true() {
                let taken = predicate.matches(block, Some(&theirs)).map_err(evaluation_error)?;
                matches = &matches & &!&(&taken & &theirs);
            }
        }
        Ok(matches)
    }
}

/// Returns the block that holds `offset`.
pub(super) fn block_at(view: &QueueView, offset: QueueOffset) -> Result<Option<Arc<Block>>, EngineError> {
    if !view.range().contains(&offset) {
        return Ok(None);
    }
    Ok(match view.part_at(offset) {
        Some(Part::Segment(segment, number)) => Some(segment.block(number)?),
        Some(Part::Run(run)) => Some(run),
        None => None,
    })
}

/// Returns the block that holds `offset`, and which of its rows that is.
pub(super) fn row_at(
    view: &QueueView,
    offset: QueueOffset,
) -> Result<Option<(Arc<Block>, usize)>, EngineError> {
    let Some(block) = block_at(view, offset)? else { return Ok(None) };
    let row = offset.since(block.base()).and_then(|row| usize::try_from(row).ok());
    Ok(row.filter(|row| *row < Rows::len(&*block)).map(|row| (block, row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_spent_by_rows_or_by_bytes() {
        let allowance = Allowance::new(5, HeldAnswer::default());
        assert_eq!([allowance.take(3), allowance.take(3), allowance.take(1)], [3, 2, 0]);
        assert!(allowance.is_spent());
        allowance.give_back(1);
        assert!(!allowance.is_spent());
        allowance.add_bytes(RECEIVE_BYTES_TARGET - 1);
        assert!(!allowance.is_spent());
        allowance.add_bytes(1);
        assert!(allowance.is_spent());
        assert_eq!(allowance.take(9), 1);
    }
}
