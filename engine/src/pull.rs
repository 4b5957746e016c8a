//! Batch pull: offsets in, matching record batches out.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::Stream;
use serde::{Deserialize, Serialize};
use weir_storage::{Epoch, QueueId, QueueOffset, TopicId};

use crate::{
    broker::Broker,
    error::EngineError,
    name::{GroupName, TopicName},
    schema::ColumnType,
};

/// What is pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The topic.
    pub topic: TopicName,
    /// Some queues, or all.
    pub queues: Option<Vec<QueueId>>,
    /// Where to begin.
    pub from: PullFrom,
    /// Where to end.
    pub to: PullTo,
    /// The columns, or the nine default ones.
    pub columns: Option<Vec<PullColumn>>,
    /// Fixes the types of properties, by name.
    pub types: BTreeMap<String, ColumnType>,
    /// Which rows; all if `None`.
    pub selector: Option<String>,
    /// The most rows in all.
    pub max_rows: Option<u64>,
    /// About the most bytes in all.
    pub max_bytes: Option<u64>,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// About the most bytes of a batch.
    pub batch_bytes: usize,
}

impl PullRequest {
    /// Returns the request for all that is visible of `topic`.
    pub fn new(topic: TopicName) -> Self {
        Self {
            topic,
            queues: None,
            from: PullFrom::Earliest,
            to: PullTo::Snapshot,
            columns: None,
            types: BTreeMap::new(),
            selector: None,
            max_rows: None,
            max_bytes: None,
            batch_rows: 32_768,
            batch_bytes: 1 << 20,
        }
    }
}

/// Where a pull begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullFrom {
    /// At the first retained row.
    Earliest,
    /// Behind the last visible row.
    Latest,
    /// At these offsets, by queue; other queues at the first retained row.
    Offsets(BTreeMap<u32, u64>),
    /// At the first row stored at this time or later; milliseconds since 1970, UTC.
    Timestamp(i64),
    /// Where a group stands.
    Group(GroupName),
}

/// Where a pull ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullTo {
    /// Behind the last row that is visible now.
    Snapshot,
    /// Before these offsets, by queue; other queues behind the last row that is visible now.
    Offsets(BTreeMap<u32, u64>),
    /// Before the first row stored at this time or later; milliseconds since 1970, UTC.
    Timestamp(i64),
}

/// A column by name: of the system, a property, or `prop.NAME` for a property that clashes with one of the system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PullColumn(pub String);

/// A pull that has been planned.
#[derive(Clone, Debug)]
pub struct PullPlan {
    /// The columns of its batches.
    pub schema: SchemaRef,
    /// One part a queue.
    pub parts: Vec<PullPart>,
    /// How many rows there are, if that is known exactly.
    pub rows: Option<u64>,
    /// When the end was fixed; milliseconds since 1970, UTC.
    pub snapshot_ms: i64,
    /// First offset and end of each queue.
    pub ranges: BTreeMap<u32, (u64, u64)>,
}

/// All that is needed to pull one queue, now or again later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullPart {
    /// The topic.
    pub topic: TopicId,
    /// The epoch in which the offsets were fixed.
    pub epoch: Epoch,
    /// The queue.
    pub queue: QueueId,
    /// The first offset.
    pub from: QueueOffset,
    /// Behind the last offset.
    pub to: QueueOffset,
    /// The columns with the types of those that are properties; `None` for the nine default ones.
    pub columns: Option<Vec<(PullColumn, Option<ColumnType>)>>,
    /// Which rows; all if `None`.
    pub selector: Option<String>,
    /// The most rows.
    pub max_rows: Option<u64>,
    /// About the most bytes.
    pub max_bytes: Option<u64>,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// About the most bytes of a batch.
    pub batch_bytes: usize,
}

/// Rows of one queue, with how far it was scanned.
#[derive(Clone, Debug)]
pub struct PullBatch {
    /// The rows.
    pub batch: RecordBatch,
    /// The queue.
    pub queue: QueueId,
    /// The first offset that was scanned for this batch.
    pub base: QueueOffset,
    /// Behind the last offset that was scanned for this batch.
    pub next: QueueOffset,
    /// The first retained row.
    pub low: QueueOffset,
    /// Behind the last row that is visible now.
    pub high: QueueOffset,
    /// The store time of the last row; milliseconds since 1970, UTC.
    pub store_time_ms: i64,
}

/// The batches of one part.
#[derive(Debug)]
pub struct PullStream {}

impl Stream for PullStream {
    type Item = Result<PullBatch, EngineError>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        todo!()
    }
}

impl Broker {
    /// Plans a pull: fixes columns, types and offsets, and reads no row.
    ///
    /// # Errors
    ///
    /// If topic, queue, column or selector is wrong, or an offset is not retained.
    pub async fn plan_pull(&self, request: &PullRequest) -> Result<PullPlan, EngineError> {
        todo!()
    }

    /// Runs one part of a plan. A batch without rows at the end says how far the scan came.
    ///
    /// # Errors
    ///
    /// If the topic is gone, or its rows are no longer retained.
    pub async fn pull(&self, part: PullPart) -> Result<PullStream, EngineError> {
        todo!()
    }
}
