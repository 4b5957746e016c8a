//! The rows that a selector selects, and why it does or does not select one.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Instant};

use arrow_buffer::BooleanBuffer;
use serde::Serialize;
use weir_columns::{ColumnRef, System, Value};
use weir_filter::{Dialect, Part, Predicate, Selector};
use weir_storage::{Block, MessageType, QueueId, QueueOffset, Segment, StoredMessage};

use super::{Blocks, Candidates, Judgeable};
use crate::{
    broker::{Broker, Core},
    error::EngineError,
    name::TopicName,
    reads::{Produce, Progress},
    scan::evaluation_error,
};

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 512;

/// A message as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct ExaminedRow {
    /// Its queue.
    pub queue: QueueId,
    /// Its offset.
    pub offset: QueueOffset,
    /// The id that its producer gave it.
    pub message_id: String,
    /// When it was stored; milliseconds since 1970, UTC.
    pub store_time_ms: i64,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys.
    pub keys: Vec<String>,
    /// Its properties, as text.
    pub properties: BTreeMap<String, String>,
    /// The beginning of its body as stored; what is no UTF-8 is replaced.
    pub body: String,
    /// How long its body is, in bytes.
    pub body_bytes: usize,
}

impl ExaminedRow {
    /// Reads a row; `None` if damage has taken its message.
    pub(super) fn read(core: &Core, rows: &Judgeable, row: usize) -> Result<Option<Self>, EngineError> {
        Ok(core.read_row(&rows.view, rows.offset(row))?.map(Self::of))
    }

    fn of(stored: StoredMessage) -> Self {
        let message = stored.message;
        let shown = &message.body[..message.body.len().min(BODY_SHOWN)];
        Self {
            queue: stored.queue,
            offset: stored.offset,
            message_id: message.message_id,
            store_time_ms: stored.store_time_ms,
            tag: message.tag,
            keys: message.keys,
            properties: message
                .properties
                .iter()
                .map(|(name, value)| (name.clone(), value.to_text()))
                .collect(),
            body: String::from_utf8_lossy(shown).into_owned(),
            body_bytes: message.body.len(),
        }
    }
}

/// The first rows that a selector selects.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SelectorTrial {
    /// The rows, by queue and offset.
    pub rows: Vec<ExaminedRow>,
    /// Whether there are no more.
    pub complete: bool,
}

/// Which message is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageName {
    /// By its place.
    Place(QueueId, QueueOffset),
    /// By the id that its producer gave it.
    Id(String),
}

impl FromStr for MessageName {
    type Err = std::convert::Infallible;

    /// Reads `QUEUE:OFFSET`; anything else is an id.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.split_once(':').and_then(|(queue, offset)| {
            Some(Self::Place(QueueId(queue.parse().ok()?), QueueOffset(offset.parse().ok()?)))
        });
        Ok(place.unwrap_or_else(|| Self::Id(text.to_owned())))
    }
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(queue, offset) => write!(f, "{queue}:{offset}"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// Why a selector selects a message, or does not.
#[derive(Clone, Debug, Serialize)]
pub struct SelectorWhy {
    /// The message.
    pub row: ExaminedRow,
    /// What the selector is for it, with all its parts.
    pub whole: JudgedPart,
}

/// A condition, judged for itself on one message.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedPart {
    /// `and`, `or`, `not` or `condition`.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
    /// `true`, `false`, `unknown` or `failed`.
    pub truth: &'static str,
    /// What the message has in the columns that decide; null where it has nothing.
    pub values: BTreeMap<String, Option<String>>,
    /// What it is made of.
    pub parts: Vec<JudgedPart>,
}

impl Broker {
    /// Returns the first rows of a topic that a selector selects, `rows_max` at most.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or rows cannot be read.
    pub async fn try_selector(
        &self,
        topic: &TopicName,
        selector: &Selector,
        rows_max: usize,
    ) -> Result<SelectorTrial, EngineError> {
        let work = Trial {
            core: Arc::clone(&self.core),
            blocks: Blocks::new(self.views(topic)?),
            predicate: self.core.judging(selector),
            candidates: Candidates::default(),
            rows_max,
            answer: Some(SelectorTrial::default()),
        };
        self.examined(work).await
    }

    /// Judges one message, part by part.
    ///
    /// # Errors
    ///
    /// If there is no such topic or message, or it cannot be read.
    pub async fn why_selected(
        &self,
        topic: &TopicName,
        selector: &Selector,
        message: &MessageName,
    ) -> Result<SelectorWhy, EngineError> {
        let missing = || EngineError::MessageNotFound { topic: topic.clone(), message: message.to_string() };
        let mut views = self.views(topic)?;
        let (queue, offset) = match message {
            MessageName::Place(queue, offset) => (*queue, *offset),
            MessageName::Id(id) => {
                let text = format!("sys.{} = '{}'", System::MessageId.name(), id.replace('\'', "''"));
                let named = Selector::parse(&text, Dialect::Sql92, &self.core.options.selector_limits)
                    .map_err(EngineError::Selector)?;
                let found = self.try_selector(topic, &named, 1).await?;
                found.rows.first().map(|row| (row.queue, row.offset)).ok_or_else(missing)?
            }
        };
        views.retain(|(known, view)| *known == queue && view.range().contains(&offset));
        if views.is_empty() {
            return Err(missing());
        }
        let part = Part::of(selector, &self.core.options.selector_limits);
        let core = Arc::clone(&self.core);
        let why = self.reading().pool.run(move || why(&core, views, &part, offset)).await??;
        why.ok_or_else(missing)
    }
}

fn why(
    core: &Core,
    views: Vec<(QueueId, weir_storage::QueueView)>,
    part: &Part,
    offset: QueueOffset,
) -> Result<Option<SelectorWhy>, EngineError> {
    let mut wanted = |_, segment: &Segment, number| segment.block_range(number).contains(&offset);
    let mut blocks = Blocks::new(views);
    while let Some(rows) = blocks.next(&mut wanted)? {
        let Some(row) = offset.since(rows.block.base()).and_then(|row| usize::try_from(row).ok()) else {
            continue;
        };
        if row >= rows.block.len() || rows.only.as_ref().is_some_and(|only| !only.value(row)) {
            continue;
        }
        let Some(stored) = core.read_row(&rows.view, offset)? else { return Ok(None) };
        let whole = judged(core, part, &rows, row, &stored)?;
        return Ok(Some(SelectorWhy { row: ExaminedRow::of(stored), whole }));
    }
    Ok(None)
}

fn judged(
    core: &Core,
    part: &Part,
    rows: &Judgeable,
    row: usize,
    stored: &StoredMessage,
) -> Result<JudgedPart, EngineError> {
    let truth = truth_of(&core.judging(&part.selector), &rows.block, row)?;
    let values = part.selector.columns().map(|column| (column.to_string(), value_of(stored, column)));
    let parts = part.parts.iter().map(|part| judged(core, part, rows, row, stored));
    Ok(JudgedPart {
        kind: part.kind.name(),
        text: part.selector.text().to_owned(),
        truth,
        values: values.collect(),
        parts: parts.collect::<Result<_, _>>()?,
    })
}

/// Returns what a predicate is for one row of a block: `true`, `false`, `unknown` or `failed`.
///
/// # Errors
///
/// If the block, or the message where the predicate asks for it, cannot be read.
pub(crate) fn truth_of(
    predicate: &Predicate,
    block: &Block,
    row: usize,
) -> Result<&'static str, EngineError> {
    let only = BooleanBuffer::collect_bool(block.len(), |at| at == row);
    let verdicts = predicate.evaluate(block, Some(&only)).map_err(evaluation_error)?;
    Ok(if verdicts.failed.is_some_and(|failed| failed.value(row)) {
        "failed"
    } else if verdicts.matches.value(row) {
        "true"
    } else if verdicts.unknown.value(row) {
        "unknown"
    } else {
        "false"
    })
}

/// What a message has in a column, as text.
fn value_of(stored: &StoredMessage, column: ColumnRef<'_>) -> Option<String> {
    let message = &stored.message;
    match column {
        ColumnRef::Property(name) => {
            let found = message.properties.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| match value {
                Value::Text(text) | Value::Str(text) => format!("'{text}'"),
                value => value.to_text(),
            })
        }
        ColumnRef::System(system) => match system {
            System::StoreTime => Some(stored.store_time_ms.to_string()),
            System::BornTime => message.born_time_ms.map(|time| time.to_string()),
            System::Tag => message.tag.clone(),
            System::Keys => (!message.keys.is_empty()).then(|| message.keys.join(" ")),
            System::MessageId => Some(message.message_id.clone()),
            System::QueueId => Some(stored.queue.to_string()),
            System::QueueOffset => Some(stored.offset.to_string()),
            System::MessageType => Some(message.message_type.name().to_owned()),
            System::MessageGroup => {
                let is_lite = message.message_type == MessageType::Lite;
                let lite_topic = message.lite_topic.as_ref().filter(|_| is_lite);
                message.message_group.as_ref().or(lite_topic).cloned()
            }
            System::BodySize => Some(message.body.len().to_string()),
        },
    }
}

struct Trial {
    core: Arc<Core>,
    blocks: Blocks,
    predicate: Arc<Predicate>,
    candidates: Candidates,
    rows_max: usize,
    /// `None` once it was given.
    answer: Option<SelectorTrial>,
}

impl Produce for Trial {
    type Item = SelectorTrial;

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        let Some(answer) = &mut self.answer else { return Ok(Progress::End) };
        'blocks: while !self.blocks.is_late() {
            let mut wanted = |queue, segment: &Segment, number| {
                self.candidates.may_match(queue, segment, number, &[&self.predicate])
            };
            let Some(rows) = self.blocks.next(&mut wanted)? else {
                answer.complete = true;
                break;
            };
            for row in rows.matches(&self.predicate)?.set_indices() {
                if answer.rows.len() >= self.rows_max {
                    break 'blocks;
                }
                answer.rows.extend(ExaminedRow::read(&self.core, &rows, row)?);
            }
            if Instant::now() >= until {
                return Ok(Progress::More);
            }
        }
        Ok(self.answer.take().map_or(Progress::End, Progress::Item))
    }
}
