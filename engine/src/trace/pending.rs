//! What a message was before it became visible, from its row of the pending topic.

use std::sync::Arc;

use weir_storage::{PendingRow, PendingTarget};

use super::{
    answer::{PendingState, PendingTrace},
    find::Found,
    history::Told,
};
use crate::broker::Core;

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

    /// `ended_before_ms`: what was done before that moment has been looked for to the end where it would be visible.
    pub(super) fn traced(&self, core: &Core, told: &Told, ended_before_ms: Option<i64>) -> PendingTrace {
        let is_done = || {
            let first = core.range(self.row.topic, self.row.queue).start;
            self.row.offset < first || core.storage.is_done(&self.row)
        };
        let (state, done_ms) = match self.released_ms {
            Some(released_ms) => (PendingState::Released, Some(released_ms)),
            None if !is_done() => (PendingState::Waits, None),
            None if ended_before_ms.is_some_and(|before_ms| told.is_done_before(&self.row, before_ms)) => {
                (PendingState::Ended, told.done_ms(&self.row))
            }
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
