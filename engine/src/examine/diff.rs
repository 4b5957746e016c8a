//! What would change if one selector took the place of another.

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use weir_filter::{Predicate, Selector};
use weir_storage::Segment;

use super::{Blocks, Candidates, ExaminedRow};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    name::TopicName,
    reads::{Produce, Progress},
};

/// How two selectors differ on the retained rows of a topic.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SelectorDiff {
    /// Rows that both select.
    pub both: u64,
    /// Rows that only the second selects.
    pub gained: u64,
    /// Rows that only the first selects.
    pub lost: u64,
    /// The first rows that only the second selects.
    pub gained_rows: Vec<ExaminedRow>,
    /// The first rows that only the first selects.
    pub lost_rows: Vec<ExaminedRow>,
    /// Rows that are retained and were judged or ruled out.
    pub rows: u64,
    /// Whether all retained rows were; if not, there was no time left.
    pub complete: bool,
}

impl Broker {
    /// Compares two selectors on the retained rows of a topic. Shows up to `rows_max` rows that one gains, and
    /// as many that it loses.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or rows cannot be read.
    pub async fn diff_selectors(
        &self,
        topic: &TopicName,
        before: &Selector,
        after: &Selector,
        rows_max: usize,
    ) -> Result<SelectorDiff, EngineError> {
        let views = self.views(topic)?;
        let rows =
            views.iter().map(|(_, view)| view.range().end.since(view.range().start).unwrap_or(0)).sum();
        let work = Diff {
            core: Arc::clone(&self.core),
            blocks: Blocks::new(views),
            predicates: [before, after].map(|selector| self.predicate_now(selector)),
            candidates: Candidates::default(),
            rows_max,
            answer: Some(SelectorDiff { rows, ..SelectorDiff::default() }),
        };
        self.examined(work).await
    }
}

struct Diff {
    core: Arc<Core>,
    blocks: Blocks,
    predicates: [Arc<Predicate>; 2],
    candidates: Candidates,
    rows_max: usize,
    /// `None` once it was given.
    answer: Option<SelectorDiff>,
}

impl Produce for Diff {
    type Item = SelectorDiff;

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        let Some(answer) = &mut self.answer else { return Ok(Progress::End) };
        let [before, after] = &self.predicates;
        loop {
            let mut wanted = |queue, segment: &Segment, number| {
                self.candidates.may_match(queue, segment, number, &[before, after])
            };
            let Some(rows) = self.blocks.next(&mut wanted)? else {
                answer.complete = true;
                break;
            };
            let (had, has) = (rows.matches(before)?, rows.matches(after)?);
            answer.both += (&had & &has).count_set_bits() as u64;
            let (gained, lost) = (&has & &!&had, &had & &!&has);
            answer.gained += gained.count_set_bits() as u64;
            answer.lost += lost.count_set_bits() as u64;
            for (some, shown) in [(gained, &mut answer.gained_rows), (lost, &mut answer.lost_rows)] {
                for row in some.set_indices().take(self.rows_max.saturating_sub(shown.len())) {
                    shown.extend(ExaminedRow::read(&self.core, &rows, row)?);
                }
            }
            if self.blocks.is_late() {
                break;
            }
            if Instant::now() >= until {
                return Ok(Progress::More);
            }
        }
        Ok(self.answer.take().map_or(Progress::End, Progress::Item))
    }
}
