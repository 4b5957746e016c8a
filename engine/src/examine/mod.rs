//! What a selector does on the rows that a topic retains: explained part by part, tried, compared with another.
//!
//! Nothing here moves an offset or takes a row from anybody. The work is done in slices on the pool of reading
//! threads, and ends after [`EXAMINE_TIME_MAX`]; an answer that is not complete says so.
//!
//! ```text
//! explain   of every part: blocks that statistics rule out, rows that match, time a row
//! try       the first rows that match
//! why       of one row and every part: true, false, unknown or failed
//! diff      how many rows two selectors select each, and the first rows that only one does
//! ```

mod diff;
mod explain;
mod rows;

use std::{sync::Arc, time::Instant};

use arrow_buffer::BooleanBuffer;
use futures::StreamExt;
use weir_filter::{Predicate, Selector};
use weir_storage::{Block, QueueId, QueueOffset, QueueView, Segment};

pub(crate) use self::rows::truth_of;
pub use self::{
    diff::SelectorDiff,
    explain::{ExplainedPart, SelectorExplanation},
    rows::{ExaminedRow, JudgedPart, MessageName, SelectorTrial, SelectorWhy},
};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::EXAMINE_TIME_MAX,
    name::TopicName,
    reads::{Produce, produced},
    scan::{evaluation_error, readable},
};

impl Core {
    /// Returns a selector at work, of which NOW is this moment.
    fn judging(&self, selector: &Selector) -> Arc<Predicate> {
        Arc::new(Predicate::new(selector)).at(self.time.wall_ms())
    }
}

impl Broker {
    /// The queues of a topic as they are now.
    fn views(&self, topic: &TopicName) -> Result<Vec<(QueueId, QueueView)>, EngineError> {
        let topic = self.topic(topic)?;
        topic.queues.iter().map(|queue| Ok((queue.queue, self.queue_view(topic.id, queue.queue)?))).collect()
    }

    /// Runs `work` on the pool of reading threads until it has its one answer.
    pub(crate) async fn examined<W: Produce>(&self, work: W) -> Result<W::Item, EngineError> {
        let mut answers = Box::pin(produced(self.reading().pool.clone(), work));
        answers.next().await.unwrap_or(Err(EngineError::Closed))
    }
}

/// The blocks of some queues, one after another.
#[derive(Debug)]
struct Blocks {
    queues: std::vec::IntoIter<(QueueId, QueueView)>,
    queue: Option<(QueueId, QueueView)>,
    segment: usize,
    block: usize,
    run: usize,
    deadline: Instant,
}

/// Which blocks of the segment that was asked last some predicate may match.
#[derive(Debug, Default)]
struct Candidates(Option<(QueueId, QueueOffset, BooleanBuffer)>);

impl Candidates {
    /// Whether one of `predicates` may match a row of the block.
    fn may_match(
        &mut self,
        queue: QueueId,
        segment: &Segment,
        number: usize,
        predicates: &[&Predicate],
    ) -> bool {
        let base = segment.range().start;
        let known = self.0.take().filter(|(of_queue, of, _)| (*of_queue, *of) == (queue, base));
        let (.., blocks) = self.0.insert(known.unwrap_or_else(|| {
            let asked = predicates.iter().map(|predicate| predicate.may_match(segment.statistics()));
            let any = asked.reduce(|left, right| &left | &right);
            (queue, base, any.unwrap_or_else(|| BooleanBuffer::new_set(segment.blocks())))
        }));
        blocks.value(number)
    }
}

/// A block, and those of its rows that are retained and not lost; `None` if all are.
struct Judgeable {
    view: QueueView,
    block: Arc<Block>,
    only: Option<BooleanBuffer>,
}

impl Blocks {
    fn new(queues: Vec<(QueueId, QueueView)>) -> Self {
        let deadline = Instant::now() + EXAMINE_TIME_MAX;
        Self { queues: queues.into_iter(), queue: None, segment: 0, block: 0, run: 0, deadline }
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The next block, of sealed ones only those that `wanted` says, by segment and number.
    fn next(
        &mut self,
        wanted: &mut dyn FnMut(QueueId, &Segment, usize) -> bool,
    ) -> Result<Option<Judgeable>, EngineError> {
        loop {
            let Some((queue, view)) = &self.queue else {
                let Some(next) = self.queues.next() else { return Ok(None) };
                self.queue = Some(next);
                (self.segment, self.block, self.run) = (0, 0, 0);
                continue;
            };
            let block = if let Some(segment) = view.segments().get(self.segment) {
                if self.block == segment.blocks() {
                    (self.segment, self.block) = (self.segment + 1, 0);
                    continue;
                }
                let number = self.block;
                self.block += 1;
                // Of the first segment, some blocks may have ended.
                if segment.block_range(number).end <= view.range().start || !wanted(*queue, segment, number) {
                    continue;
                }
                segment.block(number)?
            } else if let Some(run) = view.runs().get(self.run) {
                self.run += 1;
                Arc::clone(run)
            } else {
                self.queue = None;
                continue;
            };
            let (all, shown) = (block.range(), view.range());
            let range = all.start.max(shown.start)..all.end.min(shown.end);
            if range.start >= range.end {
                continue;
            }
            let only = readable(&block, &range);
            return Ok(Some(Judgeable { view: view.clone(), block, only }));
        }
    }
}

impl Judgeable {
    /// The offset of a row.
    fn offset(&self, row: usize) -> QueueOffset {
        self.block.base().plus(row as u64)
    }

    fn rows(&self) -> u64 {
        self.only.as_ref().map_or(self.block.len(), BooleanBuffer::count_set_bits) as u64
    }

    fn matches(&self, predicate: &Predicate) -> Result<BooleanBuffer, EngineError> {
        predicate.matches(&*self.block, self.only.as_ref()).map_err(evaluation_error)
    }
}

fn columns_of(selector: &Selector) -> Vec<String> {
    selector.columns().map(|column| column.to_string()).collect()
}
