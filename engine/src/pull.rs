//! Batch pull: offsets in, matching record batches out.
//!
//! A plan fixes everything that time could change: offsets, columns and their types. Its parts hold all of
//! that, so they can be run elsewhere, later and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arrow::compute::concat_batches;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::Stream;
use serde::{Deserialize, Serialize};
use weir_filter::{Dialect, Predicate, Selector};
use weir_storage::{Block, Epoch, Part, QueueId, QueueOffset, QueueView, TopicId};

use crate::{
    broker::Broker,
    error::EngineError,
    logged::Logged,
    name::{GroupName, TopicName},
    reads::{Produce, Progress, produced},
    scan::{Scan, Step, offset_at_time},
    schema::{ColumnType, Projection, Source, TableColumn},
    serial,
    topic::TopicDescription,
};

/// The most rows of a batch, whatever is asked for.
const BATCH_ROWS_MAX: usize = 1 << 20;
/// About the most bytes of a batch, whatever is asked for.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How long rows wait for others to share a batch with.
const GATHER_MAX: Duration = Duration::from_millis(500);

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
    /// The language of the selector; `None` for that of the topic.
    pub dialect: Option<Dialect>,
    /// The most rows of a queue.
    pub max_rows: Option<u64>,
    /// About the most bytes of a queue.
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
            dialect: None,
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
    /// The language of the selector.
    #[serde(default, with = "serial::dialect")]
    pub dialect: Dialect,
    /// The most rows.
    pub max_rows: Option<u64>,
    /// About the most bytes.
    pub max_bytes: Option<u64>,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// About the most bytes of a batch.
    pub batch_bytes: usize,
    /// What NOW is in the selector: when the pull was planned; milliseconds since 1970, UTC.
    #[serde(default)]
    pub now_ms: i64,
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
pub struct PullStream(Pin<Box<dyn Stream<Item = Result<PullBatch, EngineError>> + Send>>);

impl Stream for PullStream {
    type Item = Result<PullBatch, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for PullStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullStream").finish_non_exhaustive()
    }
}

impl Broker {
    /// Plans a pull: fixes columns, types and offsets, and reads no row.
    ///
    /// Limits on rows and bytes hold for each part. Rows that were lost to damage count in
    /// [`rows`](PullPlan::rows), though they are not pulled.
    ///
    /// # Errors
    ///
    /// If topic, queue, column or selector is wrong, or an offset is not retained.
    pub async fn plan_pull(&self, request: &PullRequest) -> Result<PullPlan, EngineError> {
        let topic = self.topic(&request.topic)?;
        let dialect = request.dialect.unwrap_or_else(|| self.selector_dialect(&request.topic, None));
        let parse = |text| self.parse_selector_in(text, dialect);
        let selector = request.selector.as_deref().map(parse).transpose()?;
        let queues = chosen_queues(&topic, request.queues.as_deref())?;
        let views = queues
            .into_iter()
            .map(|queue| Ok((queue, self.queue_view(topic.id, queue)?)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let committed = self.committed_offsets(request)?;
        let planning =
            Planning { broker: self.clone(), request: request.clone(), topic: topic.id, views, committed };
        let (columns, ranges) = self.reading().pool.run(move || planning.run()).await??;
        let projection = Projection::new(columns.clone().unwrap_or_else(TableColumn::native));
        let columns = columns.map(|columns| columns.into_iter().map(part_column).collect::<Vec<_>>());
        let epoch = self.info().epoch;
        let matches_all = selector.as_ref().is_none_or(Selector::matches_all);
        let now_ms = self.clock().wall_ms();
        let parts = ranges.iter().map(|(queue, range)| PullPart {
            topic: topic.id,
            epoch,
            queue: *queue,
            from: range.start,
            to: range.end,
            columns: columns.clone(),
            selector: request.selector.clone(),
            dialect,
            max_rows: request.max_rows,
            max_bytes: request.max_bytes,
            batch_rows: request.batch_rows,
            batch_bytes: request.batch_bytes,
            now_ms,
        });
        let count = |range: &Range<QueueOffset>| range.end.since(range.start).unwrap_or(0);
        let limited = |rows: u64| request.max_rows.map_or(rows, |most| rows.min(most));
        let exact = matches_all && request.max_bytes.is_none();
        Ok(PullPlan {
            schema: Arc::clone(projection.schema()),
            parts: parts.collect(),
            rows: exact.then(|| ranges.iter().map(|(_, range)| limited(count(range))).sum()),
            snapshot_ms: now_ms,
            ranges: ranges.iter().map(|(queue, range)| (queue.0, (range.start.0, range.end.0))).collect(),
        })
    }

    /// Runs one part of a plan. A batch without rows at the end says how far the scan came.
    ///
    /// Batches are made while the stream is read, at most two ahead; dropping it ends the scan. The same
    /// part gives the same rows, as long as they are retained.
    ///
    /// # Errors
    ///
    /// If the topic is gone, or its rows are no longer retained.
    pub async fn pull(&self, part: PullPart) -> Result<PullStream, EngineError> {
        let view = self.queue_view(part.topic, part.queue)?;
        let range = part.from..part.to;
        let (queue, epoch) = (part.queue, part.epoch);
        let checked = view.clone();
        self.reading().pool.run(move || check_range(&checked, queue, &range, epoch)).await??;
        let run = PullRun::new(self, view, part)?;
        Ok(PullStream(Box::pin(produced(self.reading().pool.clone(), run))))
    }

    fn committed_offsets(&self, request: &PullRequest) -> Result<HashMap<QueueId, QueueOffset>, EngineError> {
        let PullFrom::Group(name) = &request.from else { return Ok(HashMap::new()) };
        let group = self.group(name)?;
        let topic = group.topics.iter().find(|topic| topic.topic == request.topic);
        Ok(topic
            .into_iter()
            .flat_map(|topic| &topic.queues)
            .map(|queue| (queue.queue, queue.committed))
            .collect())
    }
}

fn part_column(column: TableColumn) -> (PullColumn, Option<ColumnType>) {
    let column_type = match column.source {
        Source::Property(_, column_type) => Some(column_type),
        _ => None,
    };
    (PullColumn(column.name), column_type)
}

fn chosen_queues(topic: &TopicDescription, asked: Option<&[QueueId]>) -> Result<Vec<QueueId>, EngineError> {
    let Some(asked) = asked else {
        return Ok(topic.queues.iter().map(|queue| queue.queue).collect());
    };
    let queues: BTreeSet<QueueId> = asked.iter().copied().collect();
    for queue in &queues {
        known_queue(topic, queue.0)?;
    }
    Ok(queues.into_iter().collect())
}

fn known_queue(topic: &TopicDescription, queue: u32) -> Result<(), EngineError> {
    if topic.queues.iter().any(|known| known.queue.0 == queue) {
        return Ok(());
    }
    let queues = u32::try_from(topic.queues.len()).unwrap_or(u32::MAX);
    Err(EngineError::QueueNotFound { topic: topic.name.clone(), queue, queues })
}

/// The part of planning that may open blocks.
struct Planning {
    broker: Broker,
    request: PullRequest,
    topic: TopicId,
    views: Vec<(QueueId, QueueView)>,
    committed: HashMap<QueueId, QueueOffset>,
}

type Planned = (Option<Vec<TableColumn>>, Vec<(QueueId, Range<QueueOffset>)>);

impl Planning {
    fn run(self) -> Result<Planned, EngineError> {
        self.check_offsets()?;
        let ranges = self
            .views
            .iter()
            .map(|(queue, view)| Ok((*queue, self.range(*queue, view)?)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        Ok((self.columns()?, ranges))
    }

    /// Offsets may be given only for queues that are pulled: another one is a mistake.
    fn check_offsets(&self) -> Result<(), EngineError> {
        let from = match &self.request.from {
            PullFrom::Offsets(offsets) => Some(offsets),
            _ => None,
        };
        let to = match &self.request.to {
            PullTo::Offsets(offsets) => Some(offsets),
            _ => None,
        };
        for queue in from.into_iter().chain(to).flat_map(BTreeMap::keys) {
            if !self.views.iter().any(|(known, _)| known.0 == *queue) {
                return Err(EngineError::Invalid(format!(
                    "an offset is given for queue {queue}, which is not among the queues that are pulled"
                )));
            }
        }
        Ok(())
    }

    fn range(&self, queue: QueueId, view: &QueueView) -> Result<Range<QueueOffset>, EngineError> {
        let available = view.range();
        let inside = |asked: u64| {
            let asked = QueueOffset(asked);
            if asked < available.start || asked > available.end {
                return Err(EngineError::OffsetOutOfRange {
                    queue: queue.0,
                    asked,
                    available: available.clone(),
                });
            }
            Ok(asked)
        };
        let from = match &self.request.from {
            PullFrom::Earliest => available.start,
            PullFrom::Latest => available.end,
            PullFrom::Timestamp(time_ms) => offset_at_time(view, *time_ms)?,
            PullFrom::Offsets(offsets) => match offsets.get(&queue.0) {
                Some(offset) => inside(*offset)?,
                None => available.start,
            },
            // What a group has not begun, or what retention took from it, begins at the first row.
            PullFrom::Group(_) => {
                let committed = self.committed.get(&queue).copied().unwrap_or(available.start);
                committed.clamp(available.start, available.end)
            }
        };
        let to = match &self.request.to {
            PullTo::Snapshot => available.end,
            PullTo::Timestamp(time_ms) => offset_at_time(view, *time_ms)?,
            PullTo::Offsets(offsets) => match offsets.get(&queue.0) {
                Some(offset) => inside(*offset)?,
                None => available.end,
            },
        };
        Ok(from..to.max(from))
    }

    fn columns(&self) -> Result<Option<Vec<TableColumn>>, EngineError> {
        let Some(asked) = &self.request.columns else { return Ok(None) };
        if asked.is_empty() {
            return Err(EngineError::Invalid("a pull needs at least one column".to_owned()));
        }
        let inferred = self.broker.property_types(self.topic, &self.views)?;
        let mut columns: Vec<TableColumn> = Vec::with_capacity(asked.len());
        for PullColumn(name) in asked {
            if columns.iter().any(|column| column.name == *name) {
                return Err(EngineError::Invalid(format!("column {name:?} is asked for twice")));
            }
            columns.push(TableColumn::named(name, &self.request.types, &inferred)?);
        }
        Ok(Some(columns))
    }
}

/// Whether the rows of `range`, fixed in `epoch`, are still these rows.
///
/// # Errors
///
/// If some are no longer retained, or were cut by a crash and perhaps written anew.
pub(crate) fn check_range(
    view: &QueueView,
    queue: QueueId,
    range: &Range<QueueOffset>,
    epoch: Epoch,
) -> Result<(), EngineError> {
    let available = view.range();
    if range.is_empty() {
        return Ok(());
    }
    if range.start < available.start {
        return Err(EngineError::OffsetOutOfRange { queue: queue.0, asked: range.start, available });
    }
    if range.end > available.end {
        return Err(if epoch < view.epoch() {
            EngineError::Truncated { queue: queue.0, asked: range.end, end: available.end }
        } else {
            EngineError::OffsetOutOfRange { queue: queue.0, asked: range.end, available }
        });
    }
    if epoch < view.epoch() && is_newer(view, QueueOffset(range.end.0 - 1), epoch)? {
        return Err(EngineError::Truncated { queue: queue.0, asked: range.end, end: available.end });
    }
    Ok(())
}

/// Whether the row at `offset` was written after `epoch`. A crash cuts the end of a queue, so that looking
/// at the last row tells of all.
fn is_newer(view: &QueueView, offset: QueueOffset, epoch: Epoch) -> Result<bool, EngineError> {
    let block = match view.part_at(offset) {
        Some(Part::Segment(segment, number)) => segment.block(number)?,
        Some(Part::Run(block)) => block,
        None => return Ok(true),
    };
    let row = usize::try_from(offset.0 - block.base().0).unwrap_or(usize::MAX);
    if block.lost().is_some_and(|lost| lost.value(row)) {
        return Ok(false);
    }
    Ok(block.message(row)?.epoch > epoch)
}

/// Matching rows of a block that wait to be read.
struct Matched {
    block: Arc<Block>,
    rows: Vec<u32>,
    /// How many of `rows` were read.
    read: usize,
    /// Behind the last offset that was judged.
    end: QueueOffset,
}

/// A part while it runs.
struct PullRun {
    view: QueueView,
    scan: Scan,
    projection: Projection,
    queue: QueueId,
    batch_rows: usize,
    batch_bytes: usize,
    rows_left: u64,
    bytes_left: u64,
    matched: Option<Matched>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    pending_since: Option<Instant>,
    /// The first offset of the batch that is being gathered.
    base: QueueOffset,
    /// Up to where rows were taken or did not match.
    next: QueueOffset,
    store_time_ms: i64,
    ended: bool,
}

impl PullRun {
    fn new(broker: &Broker, view: QueueView, part: PullPart) -> Result<Self, EngineError> {
        let parse = |text| broker.parse_selector_in(text, part.dialect);
        let selector = part.selector.as_deref().map(parse).transpose()?;
        let columns = match &part.columns {
            None => TableColumn::native(),
            Some(columns) => columns.iter().map(table_column).collect::<Result<_, _>>()?,
        };
        let predicate = selector.map(|selector| Arc::new(Predicate::new(&selector)).at(part.now_ms));
        let scan = Scan::new(view.clone(), predicate, part.from..part.to);
        Ok(Self {
            scan,
            view,
            projection: Projection::new(columns),
            queue: part.queue,
            batch_rows: part.batch_rows.clamp(1, BATCH_ROWS_MAX),
            batch_bytes: part.batch_bytes.clamp(1, BATCH_BYTES_MAX),
            rows_left: part.max_rows.unwrap_or(u64::MAX),
            bytes_left: part.max_bytes.unwrap_or(u64::MAX),
            matched: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            pending_since: None,
            base: part.from,
            next: part.from,
            store_time_ms: 0,
            ended: false,
        })
    }

    fn has_reached_limit(&self) -> bool {
        self.rows_left == 0 || self.bytes_left == 0
    }

    fn is_batch_full(&self) -> bool {
        self.pending_rows >= self.batch_rows || self.pending_bytes >= self.batch_bytes
    }

    /// Scans on to the next block.
    fn step(&mut self) -> Result<bool, EngineError> {
        let Some(step) = self.scan.next()? else { return Ok(false) };
        let end = step.end();
        if let Step::Block { block, matches, .. } = step
            && matches.has_true()
        {
            let rows = matches.set_indices_u32().collect();
            self.matched = Some(Matched { block, rows, read: 0, end });
        } else {
            self.next = end;
        }
        Ok(true)
    }

    /// Reads some of the rows that matched.
    fn read(&mut self, mut matched: Matched) -> Result<(), EngineError> {
        let room =
            usize::try_from(self.rows_left).unwrap_or(usize::MAX).min(self.batch_rows - self.pending_rows);
        let waiting = &matched.rows[matched.read..];
        let waiting = &waiting[..waiting.len().min(room)];
        let left = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        let bytes = (self.batch_bytes - self.pending_bytes).min(left);
        let piece = read_piece(&self.projection, &matched.block, waiting, bytes)?;
        let taken = piece.num_rows();
        let bytes = piece.get_array_memory_size();
        let last = waiting[taken - 1];
        self.store_time_ms = matched.block.store_times()?.value(last as usize);
        self.pending_rows += taken;
        self.pending_bytes += bytes;
        self.pending_since.get_or_insert_with(Instant::now);
        self.pending.push(piece);
        self.rows_left -= taken as u64;
        self.bytes_left = self.bytes_left.saturating_sub(bytes as u64);
        matched.read += taken;
        if matched.read == matched.rows.len() {
            self.next = matched.end;
        } else {
            self.next = matched.block.base().plus(u64::from(last) + 1);
            self.matched = Some(matched);
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<PullBatch, EngineError> {
        let batch = concat_batches(self.projection.schema(), &self.pending)
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        self.pending.clear();
        (self.pending_rows, self.pending_bytes, self.pending_since) = (0, 0, None);
        let visible = self.view.range();
        let base = std::mem::replace(&mut self.base, self.next);
        Ok(PullBatch {
            batch,
            queue: self.queue,
            base,
            next: self.next,
            low: visible.start,
            high: visible.end,
            store_time_ms: self.store_time_ms,
        })
    }
}

impl Produce for PullRun {
    type Item = PullBatch;

    fn advance(&mut self, until: Instant) -> Result<Progress<PullBatch>, EngineError> {
        if self.ended {
            return Ok(Progress::End);
        }
        loop {
            let limit = self.has_reached_limit();
            if limit || self.is_batch_full() {
                if self.pending_rows > 0 {
                    return self.batch().map(Progress::Item);
                }
                self.ended = limit;
            } else if let Some(matched) = self.matched.take() {
                self.read(matched)?;
            } else if !self.step()? {
                if self.pending_rows > 0 {
                    return self.batch().map(Progress::Item);
                }
                self.ended = true;
            }
            if self.ended {
                // Says how far the scan came, which rows that do not match would hide.
                return self.batch().map(Progress::Item);
            }
            if Instant::now() >= until {
                let waited = self.pending_since.is_some_and(|since| since.elapsed() >= GATHER_MAX);
                return if waited { self.batch().map(Progress::Item) } else { Ok(Progress::More) };
            }
        }
    }
}

fn table_column(
    (PullColumn(name), column_type): &(PullColumn, Option<ColumnType>),
) -> Result<TableColumn, EngineError> {
    let mut types = BTreeMap::new();
    if let Some(column_type) = column_type {
        types.insert(name.strip_prefix("prop.").unwrap_or(name).to_owned(), *column_type);
    }
    TableColumn::named(name, &types, &[])
}

/// Reads as many of `rows` as have about `bytes` of messages, at least one.
pub(crate) fn read_piece(
    projection: &Projection,
    block: &Block,
    rows: &[u32],
    bytes: usize,
) -> Result<RecordBatch, EngineError> {
    let rows = if projection.needs_messages() { &rows[..affordable(block, rows, bytes)?] } else { rows };
    let logged = Logged::read(projection.sources(), block, rows)?;
    projection.read(block, rows, &logged)
}

/// How many of `rows` have about `bytes` of messages, at least one. What a row takes in the log is not enough: a body
/// that the broker compressed takes a thousand times as much once it is read.
pub(crate) fn affordable(block: &Block, rows: &[u32], bytes: usize) -> Result<usize, EngineError> {
    let (sizes, bodies) = (block.record_sizes()?, block.body_sizes()?);
    let mut sum = 0_usize;
    let fitting = rows.iter().take_while(|row| {
        let (fits, row) = (sum < bytes, **row as usize);
        sum = sum.saturating_add(sizes.value(row).max(bodies.value(row)) as usize);
        fits
    });
    Ok(fitting.count().max(1).min(rows.len()))
}
