//! Which part of a selector decides, what statistics rule out by it, and what it costs.

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use weir_filter::{Part, Predicate, Selector};
use weir_storage::{QueueId, QueueView, Segment};

use super::{Blocks, Judgeable, columns_of};
use crate::{
    broker::Broker,
    error::EngineError,
    name::TopicName,
    reads::{Produce, Progress},
    scan::evaluation_error,
};

/// About how many rows are judged to estimate what all would come to.
const SAMPLE_ROWS: u64 = 1 << 16;

/// What a selector does on the rows of a topic.
#[derive(Clone, Debug, Serialize)]
pub struct SelectorExplanation {
    /// The topic.
    pub topic: TopicName,
    /// The selector.
    pub selector: String,
    /// Its dialect.
    pub dialect: &'static str,
    /// The columns that decide.
    pub columns: Vec<String>,
    /// Rows that are retained.
    pub rows: u64,
    /// Sealed blocks, of which statistics are kept.
    pub blocks: u64,
    /// Rows that were judged: all, or some of them to estimate the rest.
    pub judged: u64,
    /// Whether all was done that was asked for; if not, there was no time left.
    pub complete: bool,
    /// The selector as a whole, with its parts.
    pub whole: ExplainedPart,
}

/// A condition, judged for itself on the same rows as all others.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPart {
    /// `and`, `or`, `not` or `condition`.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
    /// Where it begins in the text of the whole, in bytes.
    pub at: usize,
    /// The columns that decide.
    pub columns: Vec<String>,
    /// Sealed blocks that statistics rule out for it.
    pub ruled_out: u64,
    /// Judged rows for which it is true.
    pub matches: u64,
    /// Judged rows for which it is unknown.
    pub unknown: u64,
    /// Judged rows for which it failed.
    pub failed: u64,
    /// Time for a million rows on one core, in milliseconds; `None` if fewer than 4,096 were judged.
    pub ms_per_million: Option<f64>,
    /// What it is made of.
    pub parts: Vec<ExplainedPart>,
}

/// Among fewer rows, what a block costs once, binding and checking columns, is most of what is seen.
const TIMED_ROWS_MIN: u64 = 4096;

impl Broker {
    /// Explains what a selector does on the retained rows of a topic. Judges some of them to estimate the rest,
    /// or all if `analyze` is set.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or rows cannot be read.
    pub async fn explain_selector(
        &self,
        topic: &TopicName,
        selector: &Selector,
        analyze: bool,
    ) -> Result<SelectorExplanation, EngineError> {
        let views = self.views(topic)?;
        let part = Part::of(selector, &self.core.options.selector_limits);
        let mut parts = Vec::new();
        part.for_each(&mut |part| parts.push(Tally::new(self.core.judging(&part.selector))));
        let work = Explain {
            topic: topic.clone(),
            selector: selector.clone(),
            part,
            tallies: parts,
            blocks: Blocks::new(views.clone()),
            every: 1,
            analyze,
            waiting: Some(views),
            counted: Counted::default(),
            done: false,
        };
        self.examined(work).await
    }
}

/// What is counted of one part.
#[derive(Debug)]
struct Tally {
    predicate: Arc<Predicate>,
    ruled_out: u64,
    matches: u64,
    unknown: u64,
    failed: u64,
    nanoseconds: u128,
}

impl Tally {
    fn new(predicate: Arc<Predicate>) -> Self {
        Self { predicate, ruled_out: 0, matches: 0, unknown: 0, failed: 0, nanoseconds: 0 }
    }

    fn judge(&mut self, rows: &Judgeable) -> Result<(), EngineError> {
        let start = Instant::now();
        let verdicts = self.predicate.evaluate(&*rows.block, rows.only.as_ref()).map_err(evaluation_error)?;
        self.nanoseconds += start.elapsed().as_nanos();
        self.matches += verdicts.matches.count_set_bits() as u64;
        self.unknown += verdicts.unknown.count_set_bits() as u64;
        self.failed += verdicts.failed.map_or(0, |failed| failed.count_set_bits() as u64);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Counted {
    rows: u64,
    blocks: u64,
    /// Blocks that have been passed, to choose some of them evenly.
    passed: u64,
    judged: u64,
    complete: bool,
}

struct Explain {
    topic: TopicName,
    selector: Selector,
    part: Part,
    tallies: Vec<Tally>,
    blocks: Blocks,
    /// Of so many blocks one is judged.
    every: u64,
    analyze: bool,
    /// The queues of which statistics have not been asked.
    waiting: Option<Vec<(QueueId, QueueView)>>,
    counted: Counted,
    done: bool,
}

impl Explain {
    /// Asks the statistics of one queue.
    fn ask_statistics(&mut self) {
        let Some(view) = self.waiting.as_mut().and_then(Vec::pop) else {
            self.waiting = None;
            if !self.analyze {
                self.every = (self.counted.rows / SAMPLE_ROWS).max(1);
            }
            return;
        };
        let range = view.1.range();
        self.counted.rows += range.end.since(range.start).unwrap_or(0);
        for segment in view.1.segments() {
            self.counted.blocks += segment.blocks() as u64;
            for tally in &mut self.tallies {
                let may_match = tally.predicate.may_match(segment.statistics());
                tally.ruled_out += (segment.blocks() - may_match.count_set_bits()) as u64;
            }
        }
    }

    fn judge_next(&mut self) -> Result<bool, EngineError> {
        let (every, passed) = (self.every, &mut self.counted.passed);
        let mut wanted = |_, _: &Segment, _| {
            *passed += 1;
            (*passed - 1).is_multiple_of(every)
        };
        let Some(rows) = self.blocks.next(&mut wanted)? else {
            self.counted.complete = true;
            return Ok(false);
        };
        self.counted.judged += rows.rows();
        for tally in &mut self.tallies {
            tally.judge(&rows)?;
        }
        Ok(!self.blocks.is_late())
    }

    fn answer(&mut self) -> SelectorExplanation {
        let judged = self.counted.judged;
        let mut tallies = self.tallies.iter();
        SelectorExplanation {
            topic: self.topic.clone(),
            selector: self.selector.text().to_owned(),
            dialect: self.selector.dialect().name(),
            columns: columns_of(&self.selector),
            rows: self.counted.rows,
            blocks: self.counted.blocks,
            judged,
            complete: self.counted.complete,
            whole: explained(&self.part, &mut tallies, judged),
        }
    }
}

/// The part and all below, which `tallies` has in this order.
fn explained<'a>(part: &Part, tallies: &mut impl Iterator<Item = &'a Tally>, judged: u64) -> ExplainedPart {
    let tally = tallies.next();
    let of = |count: fn(&Tally) -> u64| tally.map_or(0, count);
    let milliseconds =
        tally.filter(|_| judged >= TIMED_ROWS_MIN).map(|tally| tally.nanoseconds as f64 / judged as f64);
    ExplainedPart {
        kind: part.kind.name(),
        text: part.selector.text().to_owned(),
        at: part.at,
        columns: columns_of(&part.selector),
        ruled_out: of(|tally| tally.ruled_out),
        matches: of(|tally| tally.matches),
        unknown: of(|tally| tally.unknown),
        failed: of(|tally| tally.failed),
        ms_per_million: milliseconds,
        parts: part.parts.iter().map(|part| explained(part, tallies, judged)).collect(),
    }
}

impl Produce for Explain {
    type Item = SelectorExplanation;

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        if self.done {
            return Ok(Progress::End);
        }
        loop {
            if self.waiting.is_some() {
                self.ask_statistics();
            } else if !self.judge_next()? {
                self.done = true;
                return Ok(Progress::Item(self.answer()));
            }
            if Instant::now() >= until {
                return Ok(Progress::More);
            }
        }
    }
}
