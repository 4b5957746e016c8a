//! Reads rows of the pending topic.

use std::{ops::Range, sync::Arc};

use weir_columns::{Column, ColumnRef, Presence, Rows, Values};
use weir_storage::{
    Block, DUE_COLUMN, LogPosition, Part, PendingRow, PendingTarget, QueueOffset, QueueView, Segment,
    StorageError, StoredMessage,
};

use crate::{broker::Core, error::EngineError};

const DUE: ColumnRef<'static> = ColumnRef::Property(DUE_COLUMN);

/// Gives to `each` the rows of `range` that are due within `times`, the end included, with when they are due. Those of which
/// the log has no record come without a time. The rows of blocks that cannot be read go to `unread`.
pub(super) fn due_within(
    view: &QueueView,
    range: Range<QueueOffset>,
    times: (i64, i64),
    each: &mut dyn FnMut(QueueOffset, Option<i64>),
    unread: &mut dyn FnMut(Range<QueueOffset>, StorageError),
) {
    let end = range.end.min(view.range().end);
    let mut at = range.start.max(view.range().start);
    while at < end {
        let (block, rows) = match view.part_at(at) {
            Some(Part::Segment(segment, number)) => {
                let rows = segment.block_range(number);
                if is_outside(&segment, number, times) {
                    at = rows.end;
                    continue;
                }
                (segment.block(number), rows)
            }
            Some(Part::Run(run)) => {
                let rows = run.range();
                (Ok(run), rows)
            }
            None => return,
        };
        let dues = block.and_then(|block| dues(&block)).unwrap_or_else(|error| {
            unread(at..rows.end.min(end), error);
            Vec::new()
        });
        for (row, due) in dues.into_iter().enumerate() {
            let offset = rows.start.plus(row as u64);
            let is_wanted = due.is_none_or(|due| (times.0..=times.1).contains(&due));
            if is_wanted && (at..end).contains(&offset) {
                each(offset, due);
            }
        }
        at = rows.end;
    }
}

/// Returns whether statistics rule a block out.
fn is_outside(segment: &Segment, number: usize, times: (i64, i64)) -> bool {
    let Presence::Kept(column) = segment.statistics().column(DUE) else { return false };
    let bound = |bounds: &arrow_array::Int64Array| {
        let known = arrow_array::Array::is_valid(bounds, number);
        known.then(|| bounds.value(number))
    };
    let has_all = arrow_array::Array::is_valid(&column.missing, number) && column.missing.value(number) == 0;
    match (bound(&column.int_min), bound(&column.int_max)) {
        (Some(min), Some(max)) => has_all && (max < times.0 || times.1 < min),
        _ => false,
    }
}

fn dues(block: &Block) -> Result<Vec<Option<i64>>, StorageError> {
    let int = |values: &Values, at: usize| {
        let ints = values.ints.as_ref()?;
        (at < ints.len() && arrow_array::Array::is_valid(ints, at)).then(|| ints.value(at))
    };
    Ok(match block.column(DUE)? {
        None | Some(Column::Hashed { .. }) => vec![None; Rows::len(block)],
        Some(Column::Int(ints)) => ints.iter().collect(),
        Some(Column::Dictionary { codes, values }) => {
            codes.iter().map(|code| int(&values, code?.into())).collect()
        }
        Some(Column::Plain { values, present }) => (0..Rows::len(block))
            .map(|row| {
                let is_there = present.as_ref().is_none_or(|present| present.is_valid(row));
                if is_there { int(&values, row) } else { None }
            })
            .collect(),
        Some(Column::Sparse { rows, codes, values }) => {
            let mut dues = vec![None; Rows::len(block)];
            for (row, code) in rows.values().iter().zip(codes.values()) {
                if let Some(due) = dues.get_mut(usize::from(*row)) {
                    *due = int(&values, usize::from(*code));
                }
            }
            dues
        }
    })
}

/// What became of a row's record.
#[derive(Debug)]
pub(super) enum Found {
    Message(Box<StoredMessage>),
    /// Nothing will bring it back: a start has found it damaged, and has gone on without it.
    Lost,
    /// It is damaged. The file may be restored from a copy, so that its row stays open; a start looks at it again.
    Damaged(StorageError),
    /// The row is not there: it has ended, or was never given.
    NoRow,
}

/// Where the record of a row is.
enum Place {
    At(Arc<Block>, usize, LogPosition),
    Lost,
    NoRow,
}

/// Returns where the record of a row is.
///
/// # Errors
///
/// If the block of the queue cannot be read now. It is derived from the log, so that its damage says nothing of the record.
fn place(core: &Core, row: &PendingRow) -> Result<Place, StorageError> {
    let view = core.storage.view(row.topic, row.queue);
    let block: Arc<Block> = match view.as_ref().and_then(|view| view.part_at(row.offset)) {
        Some(Part::Segment(segment, number)) => segment.block(number)?,
        Some(Part::Run(run)) => run,
        None => return Ok(Place::NoRow),
    };
    let number = row.offset.since(block.base()).and_then(|number| usize::try_from(number).ok());
    let Some(number) = number.filter(|number| *number < Rows::len(block.as_ref())) else {
        return Ok(Place::NoRow);
    };
    if block.lost().is_some_and(|lost| lost.value(number)) {
        return Ok(Place::Lost);
    }
    let at = block.positions()?.values().get(number).copied();
    Ok(at.map_or(Place::NoRow, |at| Place::At(block, number, LogPosition(at))))
}

/// Reads the record of a row. Called on a thread that may block.
///
/// # Errors
///
/// If it cannot be read now.
pub(super) fn read(core: &Core, row: &PendingRow) -> Result<Found, EngineError> {
    let at = match place(core, row)? {
        Place::At(_, _, at) => at,
        Place::Lost => return Ok(Found::Lost),
        Place::NoRow => return Ok(Found::NoRow),
    };
    match core.storage.read(at) {
        Ok(stored) if (stored.topic, stored.queue, stored.offset) == (row.topic, row.queue, row.offset) => {
            Ok(Found::Message(Box::new(stored)))
        }
        // Compaction or a checkpoint came in between, or the block is not what the log says.
        Ok(_) | Err(StorageError::NoRecord { .. }) => Err(EngineError::Internal(format!(
            "the queue has another record at {at} than row {}",
            row.offset
        ))),
        Err(StorageError::Lost { .. }) => Ok(Found::Lost),
        Err(error @ StorageError::Corrupt { .. }) => {
            tracing::error!(
                %error, queue = %row.queue, offset = %row.offset,
                "a pending message is damaged; it waits for the next start, until which its file can be restored"
            );
            Ok(Found::Damaged(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns what a row is for, when it was stored and its message id, without its body; or `None` if [`read`] tells why there is nothing to be
/// had. Called on a thread that may block.
pub(super) fn peek(core: &Core, row: &PendingRow) -> Option<(PendingTarget, i64, String)> {
    let Ok(Place::At(block, number, _)) = place(core, row) else { return None };
    let mut peeked = None;
    let visited = block.visit_records([number], |record| {
        let is_it = (record.topic, record.queue, record.offset) == (row.topic, row.queue, row.offset);
        peeked = record.pending().filter(|_| is_it).map(|target| {
            let message_id = record.message_id().to_owned();
            (target, record.store_time_ms, message_id)
        });
        Ok(())
    });
    visited.ok().and(peeked)
}
