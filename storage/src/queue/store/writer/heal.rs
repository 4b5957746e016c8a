//! Builds damaged blocks of consume queues anew from the log, while storage is open.
//!
//! The other blocks of a damaged file are copied. Only the records of the damaged blocks are read: by their positions if
//! that column is whole, else from the part of the log that the directory of the file names.

use std::sync::Arc;

use super::{
    super::{Queue, Queues},
    Change, CheckpointWriter, Piece,
};
use crate::{
    error::StorageError,
    format::{
        block::{BlockEntry, Damage, Fixed},
        record::RecordView,
    },
    offset::{LogPosition, QueueOffset},
    queue::{
        block::Block,
        builder::RunBuilder,
        image::Place,
        rows::{Names, add_row},
        segment::Segment,
    },
};

impl Queues {
    /// Replaces the files in which damage was met since the start. The next [checkpoint](Queues::checkpoint) lists the new
    /// ones. Does nothing if no damage was met.
    ///
    /// # Errors
    ///
    /// If a file cannot be written; then everything stays as it was. A queue for which the log cannot be read where it is
    /// needed stays as it was alone.
    pub(crate) fn heal(&self, pause: &mut dyn FnMut()) -> Result<(), StorageError> {
        if !self.is_damaged() {
            return Ok(());
        }
        let checkpointing = &mut *self.checkpointing.lock();
        let mut queues: Vec<Arc<Queue>> = self.queues.read().values().cloned().collect();
        queues.sort_unstable_by_key(|queue| (queue.topic, queue.queue));
        let writer = CheckpointWriter::new(self, checkpointing, pause);
        for Change { queue, segments, .. } in writer.heal(&queues)? {
            let mut state = queue.state.lock();
            state.segments = segments.into();
            state.drop_expired();
            queue.publish(&state, self.settings.epoch);
        }
        Ok(())
    }
}

impl CheckpointWriter<'_> {
    fn heal(mut self, queues: &[Arc<Queue>]) -> Result<Vec<Change>, StorageError> {
        let built = queues.iter().try_for_each(|queue| {
            let parts = self.build_queue(queue).unwrap_or_else(|error| {
                tracing::warn!(%error, topic = %queue.topic, queue = %queue.queue,
                    "damaged blocks of a consume queue cannot be built anew beside the others");
                None
            });
            parts.map_or(Ok(()), |parts| self.put_queue(queue, parts))
        });
        let finished = built.and_then(|()| self.finish());
        if finished.is_err() {
            self.undo();
        }
        finished
    }

    /// Builds what is damaged of a queue, and writes nothing yet; `None` if all of it is whole.
    fn build_queue(&mut self, queue: &Queue) -> Result<Option<Vec<Part>>, StorageError> {
        let (segments, first) = {
            let mut state = queue.state.lock();
            state.drop_expired();
            let is_damaged = state.segments.iter().any(|segment| segment.file().is_damaged());
            if state.removed || !is_damaged {
                return Ok(None);
            }
            (Arc::clone(&state.segments), state.first)
        };
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments.iter() {
            if !segment.file().is_damaged() {
                parts.push(Part::Whole(Arc::clone(segment)));
                continue;
            }
            let mut blocks = Vec::with_capacity(segment.blocks());
            for number in 0..segment.blocks() {
                (self.pause)();
                let entry = segment.entry(number);
                // The log need not hold rows that have ended.
                if parts.is_empty() && blocks.is_empty() && entry.end() <= first {
                    continue;
                }
                match whole_block(segment, number) {
                    Ok(block) => blocks.push(block),
                    Err(error) => {
                        tracing::warn!(%error, topic = %queue.topic, queue = %queue.queue, rows = entry.rows,
                            first = %entry.base, "a damaged block of a consume queue is built anew from the log");
                        self.rebuild(queue, segment, number, first, &mut blocks)?;
                    }
                }
            }
            parts.push(Part::Built { blocks, is_shared: segment.is_shared() });
        }
        Ok(Some(parts))
    }

    fn put_queue(&mut self, queue: &Arc<Queue>, parts: Vec<Part>) -> Result<(), StorageError> {
        let mut pieces = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Whole(segment) => pieces.push(Piece::Ready(segment)),
                Part::Built { blocks, is_shared: false } => self.put_segments(queue, &blocks, &mut pieces)?,
                Part::Built { blocks, is_shared: true } => {
                    for block in &blocks {
                        pieces.push(self.put_small(block)?);
                    }
                }
            }
        }
        self.changes.push((Arc::clone(queue), pieces, false));
        Ok(())
    }

    fn rebuild(
        &mut self,
        queue: &Queue,
        segment: &Segment,
        number: usize,
        first: QueueOffset,
        out: &mut Vec<Arc<Block>>,
    ) -> Result<(), StorageError> {
        let entry = segment.entry(number);
        let log = &self.queues.log;
        let builder = &mut self.checkpointing.builder;
        builder.clear();
        let (base, names, built) = (entry.base, Names::default(), Vec::new());
        let mut rows = Rows { entry: &entry, builder, names, base, next: base, built };
        let positions = segment.block(number).ok().and_then(|block| {
            let positions = block.positions().ok()?.clone();
            // The log need not hold rows that have ended: they become lost ones, which nobody sees.
            let is_there = |row: &usize| {
                entry.base.plus(*row as u64) >= first && block.lost().is_none_or(|lost| !lost.value(*row))
            };
            let rows: Vec<usize> = (0..block.len()).filter(is_there).collect();
            Some(rows.into_iter().map(move |row| LogPosition(positions.value(row))))
        });
        match positions {
            Some(mut positions) => log.visit(&mut positions, &mut |record| {
                rows.add(record);
                Ok(())
            })?,
            None => log.scan(entry.first_position..=entry.last_position, &mut |record| rows.add(record))?,
        }
        rows.lose_to(entry.end(), entry.last_position, entry.store_time_max);
        rows.finish_block();
        for (base, image) in rows.built {
            let block = Block::built(image, Arc::clone(log))?;
            debug_assert_eq!((block.base(), block.queue()), (base, queue.queue), "blocks follow each other");
            out.push(Arc::new(block));
        }
        Ok(())
    }
}

/// What a queue consists of once it is whole again.
enum Part {
    Whole(Arc<Segment>),
    Built { blocks: Vec<Arc<Block>>, is_shared: bool },
}

/// The rows of a block on their way into new ones.
struct Rows<'a> {
    entry: &'a BlockEntry,
    builder: &'a mut RunBuilder,
    names: Names,
    base: QueueOffset,
    next: QueueOffset,
    built: Vec<(QueueOffset, arrow_buffer::Buffer)>,
}

impl Rows<'_> {
    fn add(&mut self, record: &RecordView<'_>) {
        let entry = self.entry;
        let is_ours = (record.topic, record.incarnation, record.queue)
            == (entry.topic, entry.incarnation, entry.queue)
            && (self.next..entry.end()).contains(&record.offset);
        if !is_ours {
            return;
        }
        self.lose_to(record.offset, record.position, record.store_time_ms);
        add_row(self.builder, record, &mut |name| self.names.admit(record.topic, name));
        self.row_added();
    }

    /// Fills up with rows whose record is lost.
    fn lose_to(&mut self, end: QueueOffset, position: LogPosition, store_time_ms: i64) {
        while self.next < end {
            self.builder.lost_row(position.0, store_time_ms);
            self.row_added();
        }
    }

    fn row_added(&mut self) {
        self.next = self.next.plus(1);
        if self.builder.is_full() {
            self.finish_block();
        }
    }

    fn finish_block(&mut self) {
        if self.builder.rows() > 0 {
            let entry = self.entry;
            let place = Place {
                topic: entry.topic,
                incarnation: entry.incarnation,
                queue: entry.queue,
                base: self.base,
            };
            self.built.push((self.base, self.builder.finish(place)));
            self.base = self.next;
        }
    }
}

/// Returns a block all of whose columns are whole.
fn whole_block(segment: &Segment, number: usize) -> Result<Arc<Block>, StorageError> {
    let block = segment.block(number)?;
    let check = |block: &Block| -> Result<(), Damage> {
        block.check_columns()?;
        block.record_positions()?;
        block.words(Fixed::Size).map(|_| ())
    };
    check(&block).map_err(|damage| block.damaged(damage))?;
    Ok(block)
}
