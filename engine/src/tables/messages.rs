//! The table of a topic: its messages.
//!
//! Every filter that can be evaluated on columns is taken, and applied in full: selectors by their
//! predicates with pruning, others as DataFusion evaluates them. Filter columns are read first, the rest
//! only for the rows that are left, and bodies last.

use std::{fmt, ops::Range, sync::Arc, time::Instant};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, RecordBatch},
        compute::concat_batches,
        datatypes::{DataType, SchemaRef, TimeUnit},
    },
    catalog::{Session, TableProvider},
    common::{DFSchema, DataFusionError, Result, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{
        BinaryExpr, Cast, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, TableProviderFilterPushDown, TableType, Volatility, utils::expr_to_columns,
    },
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use weir_filter::{Dialect, Limits, Predicate, Selector};
use weir_storage::{Block, QueueId, QueueOffset, QueueView};

use crate::{
    error::EngineError,
    logged::Logged,
    pull::{affordable, read_piece},
    reads::{Produce, Progress, ReadPool, produced},
    scan::{Scan, Step, offset_at_time},
    schema::{Projection, Source, TableColumn},
    sql::selectors::{MARKER, Properties},
};

/// About the bytes of a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Fewer rows than this are not worth a partition of their own.
const PARTITION_ROWS_MIN: u64 = 1 << 16;

/// The columns of a topic's table.
#[derive(Debug)]
pub(crate) struct Shape {
    key: String,
    columns: Vec<TableColumn>,
    schema: SchemaRef,
}

impl Shape {
    /// Returns the shape with these columns. `key` names the table among all others.
    pub(crate) fn new(key: String, columns: Vec<TableColumn>) -> Self {
        let schema = Arc::clone(Projection::new(columns.clone()).schema());
        Self { key, columns, schema }
    }

    /// Returns how many columns there are.
    pub(crate) fn width(&self) -> usize {
        self.columns.len()
    }
}

impl Properties for Shape {
    fn property(&self, column: &str) -> Option<&str> {
        match &self.columns[self.schema.index_of(column).ok()?].source {
            Source::Property(property, _) => Some(property),
            _ => None,
        }
    }

    fn key(&self) -> &str {
        &self.key
    }
}

/// Some offsets of a queue, fixed.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    /// The queue.
    pub(crate) queue: QueueId,
    /// How it was when it was fixed, or later.
    pub(crate) view: QueueView,
    /// The offsets.
    pub(crate) range: Range<QueueOffset>,
}

/// The messages of a topic at one moment.
#[derive(Debug)]
pub(crate) struct TopicTable {
    shape: Arc<Shape>,
    queues: Vec<Pinned>,
    pool: ReadPool,
    limits: Limits,
    kind: TableType,
    /// What NOW is in selectors, in milliseconds since 1970, UTC.
    now_ms: i64,
}

impl TopicTable {
    /// Returns the table of `queues`; `kind` is a view if a topic is shown in another way.
    pub(crate) fn new(
        shape: Arc<Shape>,
        queues: Vec<Pinned>,
        pool: ReadPool,
        limits: Limits,
        kind: TableType,
        now_ms: i64,
    ) -> Self {
        Self { shape, queues, pool, limits, kind, now_ms }
    }

    /// Returns the columns.
    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    fn columns(&self, places: &[usize]) -> Vec<TableColumn> {
        places.iter().map(|place| self.shape.columns[*place].clone()).collect()
    }

    /// The selectors among `filters` that are meant for this table.
    fn predicates(&self, filters: &[Expr]) -> Result<Vec<Arc<Predicate>>> {
        let marked = filters.iter().filter_map(marked_selector);
        marked
            .filter(|(_, key)| *key == self.shape.key)
            .map(|(text, _)| {
                let selector = Selector::parse(text, Dialect::Sql92, &self.limits)
                    .map_err(|error| external(EngineError::Selector(error)))?;
                Ok(Arc::new(Predicate::new(&selector)).at(self.now_ms))
            })
            .collect()
    }

    /// What is left of `filters` when selectors are taken out, ready to be evaluated.
    fn exact(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Exact>> {
        let filters: Vec<&Expr> = filters.iter().filter(|filter| marked_selector(filter).is_none()).collect();
        if filters.is_empty() {
            return Ok(None);
        }
        let mut named = std::collections::HashSet::new();
        for filter in &filters {
            expr_to_columns(filter, &mut named)?;
        }
        let mut places = named
            .iter()
            .map(|column| self.shape.schema.index_of(column.name()))
            .collect::<Result<Vec<_>, _>>()?;
        places.sort_unstable();
        let projection = Projection::new(self.columns(&places));
        let schema = DFSchema::try_from(Arc::clone(projection.schema()))?;
        let conditions = filters
            .into_iter()
            .map(|filter| state.create_physical_expr(filter.clone(), &schema))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Exact { projection, conditions }))
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shape.schema)
    }

    fn table_type(&self) -> TableType {
        self.kind
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            if marked_selector(filter).is_some() || is_evaluable(filter) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let places: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.shape.columns.len()).collect());
        let bounds = Bounds::of(filters);
        let queues = self.queues.clone();
        let clipped =
            self.pool.run(move || bounds.clip(queues)).await.map_err(external)?.map_err(external)?;
        let partitions = split(clipped, state.config().target_partitions());
        Ok(Arc::new(TopicScan::new(Work {
            table: self.shape.key.clone(),
            output: Projection::new(self.columns(&places)),
            predicates: self.predicates(filters)?,
            exact: self.exact(state, filters)?.map(Arc::new),
            limit,
            partitions,
            pool: self.pool.clone(),
        })))
    }
}

/// Whether a filter can be evaluated on the columns of one batch.
fn is_evaluable(filter: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    let fits = |expr: &Expr| {
        Ok(!matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
        ) && marked_selector(expr).is_none())
    };
    !filter.is_volatile() && !filter.exists(|expr| fits(expr).map(|fits: bool| !fits)).unwrap_or(true)
}

/// The text of a selector and the table that it is meant for, if `filter` is a marker.
fn marked_selector(filter: &Expr) -> Option<(&str, &str)> {
    let Expr::ScalarFunction(call) = filter else { return None };
    if call.name() != MARKER {
        return None;
    }
    let text = |index: usize| match call.args.get(index) {
        Some(Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _)) => {
            Some(text.as_str())
        }
        _ => None,
    };
    Some((text(0)?, text(1)?))
}

/// The function that stands for a selector in a plan. A table takes it as a filter; nobody ever calls it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SelectorMarker {
    signature: Signature,
}

impl SelectorMarker {
    /// Returns the function.
    pub(crate) fn function() -> ScalarUDF {
        ScalarUDF::from(Self { signature: Signature::any(4, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for SelectorMarker {
    fn name(&self) -> &str {
        MARKER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Plan(
            "a selector can only stand in the WHERE clause of a topic's table".to_owned(),
        ))
    }
}

/// What filters say about the place of rows, so that others are not even looked at.
#[derive(Debug, Default)]
struct Bounds {
    queue: Interval,
    offset: Interval,
    /// In microseconds.
    store_time: Interval,
}

/// Integers between two bounds, both included.
#[derive(Clone, Copy, Debug)]
struct Interval {
    low: i64,
    high: i64,
}

impl Default for Interval {
    fn default() -> Self {
        Self { low: i64::MIN, high: i64::MAX }
    }
}

impl Interval {
    /// Keeps what satisfies `value operator bound`.
    fn restrict(&mut self, operator: Operator, bound: i64) {
        match operator {
            Operator::Eq => {
                self.low = self.low.max(bound);
                self.high = self.high.min(bound);
            }
            Operator::Gt => self.low = self.low.max(bound.saturating_add(1)),
            Operator::GtEq => self.low = self.low.max(bound),
            Operator::Lt => self.high = self.high.min(bound.saturating_sub(1)),
            Operator::LtEq => self.high = self.high.min(bound),
            _ => {}
        }
    }

    fn is_all(self) -> bool {
        self.low == i64::MIN && self.high == i64::MAX
    }
}

impl Bounds {
    fn of(filters: &[Expr]) -> Self {
        let mut bounds = Self::default();
        for filter in filters {
            bounds.add(filter);
        }
        bounds
    }

    fn add(&mut self, filter: &Expr) {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return };
        if *op == Operator::And {
            self.add(left);
            self.add(right);
        } else if let (Some(column), Some(value)) = (column_of(left), literal_of(right)) {
            self.restrict(column, *op, value);
        } else if let (Some(value), Some(column), Some(op)) = (literal_of(left), column_of(right), op.swap())
        {
            self.restrict(column, op, value);
        }
    }

    fn restrict(&mut self, column: &str, operator: Operator, value: &ScalarValue) {
        let (interval, data_type) = match column {
            "queue_id" => (&mut self.queue, DataType::Int64),
            "queue_offset" => (&mut self.offset, DataType::Int64),
            "store_time" => {
                (&mut self.store_time, DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))))
            }
            _ => return,
        };
        let is_exact = value.data_type().is_integer() || matches!(value.data_type(), DataType::Timestamp(..));
        if !is_exact {
            return;
        }
        if let Ok(ScalarValue::Int64(Some(bound)) | ScalarValue::TimestampMicrosecond(Some(bound), _)) =
            value.cast_to(&data_type)
        {
            // A cast of nanoseconds rounds down, so that one more microsecond is let through.
            let bound = if operator == Operator::Lt { bound.saturating_add(1) } else { bound };
            let operator = if operator == Operator::Gt { Operator::GtEq } else { operator };
            interval.restrict(operator, bound);
        }
    }

    fn clip(&self, queues: Vec<Pinned>) -> Result<Vec<Pinned>, EngineError> {
        let wanted = queues.into_iter().filter(|pinned| {
            let queue = i64::from(pinned.queue.0);
            self.queue.low <= queue && queue <= self.queue.high
        });
        wanted
            .map(|mut pinned| {
                let offset = |bound: i64| QueueOffset(u64::try_from(bound).unwrap_or(0));
                let Range { mut start, mut end } = pinned.range;
                start = start.max(offset(self.offset.low));
                if self.offset.high != i64::MAX {
                    end = end.min(offset(self.offset.high.saturating_add(1)));
                }
                if !self.store_time.is_all() {
                    let low = self.store_time.low.div_euclid(1000);
                    let high = self.store_time.high.div_euclid(1000).saturating_add(1);
                    start = start.max(offset_at_time(&pinned.view, low)?);
                    end = end.min(offset_at_time(&pinned.view, high)?);
                }
                pinned.range = start..end.max(start);
                Ok(pinned)
            })
            .collect()
    }
}

fn column_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(column.name()),
        // `store_time > now()` compares nanoseconds. A cast to less precision makes other values equal.
        Expr::Cast(Cast { expr, field }) if keeps_values(field.data_type()) => match expr.as_ref() {
            Expr::Column(column) => Some(column.name()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a cast to this type keeps queue ids, offsets and times in microseconds as they are.
fn keeps_values(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
    )
}

fn literal_of(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => Some(value),
        _ => None,
    }
}

/// Cuts the rows into at most `count` lots of about the same size.
fn split(queues: Vec<Pinned>, count: usize) -> Vec<Vec<Pinned>> {
    let rows = |range: &Range<QueueOffset>| range.end.since(range.start).unwrap_or(0);
    let total: u64 = queues.iter().map(|pinned| rows(&pinned.range)).sum();
    let share = total.div_ceil(count.max(1) as u64).max(PARTITION_ROWS_MIN);
    let mut lots = vec![Vec::new()];
    let mut room = share;
    for mut pinned in queues {
        while !pinned.range.is_empty() {
            if room == 0 {
                lots.push(Vec::new());
                room = share;
            }
            let taken = rows(&pinned.range).min(room);
            let middle = pinned.range.start.plus(taken);
            let lot = Pinned { range: pinned.range.start..middle, ..pinned.clone() };
            lots.last_mut().expect("there is always one").push(lot);
            room -= taken;
            pinned.range.start = middle;
        }
    }
    lots
}

/// Conditions that DataFusion evaluates, and the columns that they need.
#[derive(Debug)]
struct Exact {
    projection: Projection,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
}

impl Exact {
    /// One bit a row: whether all conditions are true.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mut all = BooleanArray::from(vec![true; batch.num_rows()]);
        for condition in &self.conditions {
            let verdicts = condition.evaluate(batch)?.into_array(batch.num_rows())?;
            let verdicts = verdicts
                .as_boolean_opt()
                .ok_or_else(|| DataFusionError::Internal("a filter is not a boolean".to_owned()))?;
            let is_true = match verdicts.nulls() {
                Some(nulls) => verdicts.values() & nulls.inner(),
                None => verdicts.values().clone(),
            };
            all = BooleanArray::new(all.values() & &is_true, None);
        }
        Ok(all)
    }
}

/// All that a scan of a table does.
#[derive(Debug)]
struct Work {
    table: String,
    output: Projection,
    predicates: Vec<Arc<Predicate>>,
    exact: Option<Arc<Exact>>,
    limit: Option<usize>,
    partitions: Vec<Vec<Pinned>>,
    pool: ReadPool,
}

/// The scan of a topic's table, as a node of a plan.
#[derive(Debug)]
struct TopicScan {
    work: Work,
    properties: Arc<PlanProperties>,
}

impl TopicScan {
    fn new(work: Work) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(work.output.schema())),
            Partitioning::UnknownPartitioning(work.partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { work, properties: Arc::new(properties) }
    }
}

impl DisplayAs for TopicScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Work { table, output, predicates, exact, limit, partitions, .. } = &self.work;
        let columns: Vec<&str> = output.schema().fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "TopicScan: table={table}, partitions={}, columns=[{}]",
            partitions.len(),
            columns.join(", ")
        )?;
        for predicate in predicates {
            write!(f, ", selector=[{}]", predicate.selector())?;
        }
        for condition in exact.iter().flat_map(|exact| &exact.conditions) {
            write!(f, ", filter=[{condition}]")?;
        }
        match limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for TopicScan {
    fn name(&self) -> &str {
        "TopicScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for condition in self.work.exact.iter().flat_map(|exact| &exact.conditions) {
            if visit(condition)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let lot = self.work.partitions.get(partition).cloned().unwrap_or_default();
        let run = TableRun {
            waiting: lot.into_iter(),
            predicates: self.work.predicates.clone(),
            exact: self.work.exact.clone(),
            output: self.work.output.clone(),
            left: self.work.limit.unwrap_or(usize::MAX),
            batch_rows: context.session_config().batch_size(),
            scan: None,
            matched: None,
            ready: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
        };
        let batches = produced(self.work.pool.clone(), run).map_err(external);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.work.output.schema()), batches)))
    }

    fn fetch(&self) -> Option<usize> {
        self.work.limit
    }
}

/// Rows of a block that wait for the next stage.
struct Rows {
    block: Arc<Block>,
    rows: Vec<u32>,
    /// How many of `rows` are done with.
    done: usize,
    /// What the stage before had to read from the log.
    logged: Option<Logged>,
}

impl Rows {
    fn left(&self) -> &[u32] {
        &self.rows[self.done..]
    }
}

/// The scan of one partition while it runs: predicates, then exact filters, then the rest.
struct TableRun {
    waiting: std::vec::IntoIter<Pinned>,
    predicates: Vec<Arc<Predicate>>,
    exact: Option<Arc<Exact>>,
    output: Projection,
    /// How many rows may still be given.
    left: usize,
    /// How many rows a batch may have.
    batch_rows: usize,
    scan: Option<Scan>,
    /// Rows that the predicates let through.
    matched: Option<Rows>,
    /// Rows that every filter let through.
    ready: Option<Rows>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
}

impl TableRun {
    /// Scans on to the next block; false at the end.
    fn step(&mut self) -> Result<bool, EngineError> {
        let scan = match &mut self.scan {
            Some(scan) => scan,
            None => {
                let Some(pinned) = self.waiting.next() else { return Ok(false) };
                self.scan.insert(Scan::new(pinned.view, self.predicates.iter().cloned(), pinned.range))
            }
        };
        match scan.next()? {
            None => self.scan = None,
            Some(Step::Block { block, matches, .. }) if matches.has_true() => {
                let rows = Rows { block, rows: matches.set_indices_u32().collect(), done: 0, logged: None };
                match self.exact {
                    Some(_) => self.matched = Some(rows),
                    None => self.ready = Some(rows),
                }
            }
            Some(_) => {}
        }
        Ok(true)
    }

    /// Applies the exact filters to some of the rows that matched.
    fn filter(&mut self, exact: &Exact, mut matched: Rows) -> Result<(), EngineError> {
        let reads_log = exact.projection.needs_messages();
        let left = matched.left();
        let rows = if reads_log { &left[..affordable(&matched.block, left, BATCH_BYTES)?] } else { left };
        let sources = exact.projection.sources();
        // What the rows that are left need besides costs less now than finding their records again.
        let logged = if reads_log {
            Logged::read(sources.chain(self.output.sources()), &matched.block, rows)?
        } else {
            Logged::default()
        };
        let batch = exact.projection.read(&matched.block, rows, &logged)?;
        let verdicts = exact.evaluate(&batch).map_err(EngineError::from)?;
        let survivors: Vec<u32> = verdicts.values().set_indices().map(|index| rows[index]).collect();
        let taken = rows.len();
        if !survivors.is_empty() {
            let logged = if reads_log { Some(logged.filter(&verdicts)?) } else { None };
            let block = Arc::clone(&matched.block);
            self.ready = Some(Rows { block, rows: survivors, done: 0, logged });
        }
        matched.done += taken;
        if !matched.left().is_empty() {
            self.matched = Some(matched);
        }
        Ok(())
    }

    /// Reads some of the rows that are left.
    fn read(&mut self, mut ready: Rows) -> Result<(), EngineError> {
        let room = self.left.min(self.batch_rows - self.pending_rows);
        let rows = &ready.left()[..ready.left().len().min(room)];
        let piece = match &ready.logged {
            Some(logged) => self.output.read(&ready.block, rows, &logged.slice(ready.done, rows.len()))?,
            None => read_piece(&self.output, &ready.block, rows, BATCH_BYTES)?,
        };
        ready.done += piece.num_rows();
        self.left -= piece.num_rows();
        self.pending_rows += piece.num_rows();
        self.pending_bytes += piece.get_array_memory_size();
        self.pending.push(piece);
        if !ready.left().is_empty() {
            self.ready = Some(ready);
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<RecordBatch, EngineError> {
        let pending = std::mem::take(&mut self.pending);
        (self.pending_rows, self.pending_bytes) = (0, 0);
        match <[RecordBatch; 1]>::try_from(pending) {
            Ok([batch]) => Ok(batch),
            Err(pending) => concat_batches(self.output.schema(), &pending)
                .map_err(|error| EngineError::Internal(error.to_string())),
        }
    }
}

impl Produce for TableRun {
    type Item = RecordBatch;

    fn advance(&mut self, until: Instant) -> Result<Progress<RecordBatch>, EngineError> {
        loop {
            if self.left == 0 || self.pending_rows >= self.batch_rows || self.pending_bytes >= BATCH_BYTES {
                return if self.pending_rows > 0 {
                    self.batch().map(Progress::Item)
                } else {
                    Ok(Progress::End)
                };
            }
            if let Some(ready) = self.ready.take() {
                self.read(ready)?;
            } else if let (Some(exact), Some(matched)) = (self.exact.clone(), self.matched.take()) {
                self.filter(&exact, matched)?;
            } else if !self.step()? {
                return if self.pending_rows > 0 {
                    self.batch().map(Progress::Item)
                } else {
                    Ok(Progress::End)
                };
            }
            if Instant::now() >= until {
                return Ok(Progress::More);
            }
        }
    }
}

pub(super) fn external(error: EngineError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
