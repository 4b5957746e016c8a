//! Memory that the operators of a plan use and do not count by themselves.
//!
//! - Windows keep their rows, and reserve nothing for them. Here each window stands between a [`Held`] that
//!   counts what goes in, and a stream that gives back what came out, where that is no longer kept.
//! - A join writes the row of one side once for every match of the other, a whole batch of them before
//!   anybody counts it. Where bodies may be among them, batches have few rows.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datafusion::{
    arrow::{
        array::{Array, RecordBatch},
        datatypes::{DataType, SchemaRef},
    },
    common::{
        Result,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{
        RecordBatchStream, SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{
        PhysicalExpr,
        window::{PlainAggregateWindowExpr, StandardWindowExpr, WindowExpr},
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
        execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions},
        stream::RecordBatchStreamAdapter,
        windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr},
    },
};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

/// Rows of a batch where a join may repeat bodies: with the largest body, 1 GiB.
const JOINED_ROWS: usize = 256;
/// A window keeps the batches that it was given and makes one of them.
const COPIES: usize = 2;

/// Returns `plan` with the memory of its windows counted, and the context in which it is to run.
///
/// # Errors
///
/// If the plan cannot be changed.
pub(crate) fn counted(
    plan: Arc<dyn ExecutionPlan>,
    context: TaskContext,
) -> Result<(Arc<dyn ExecutionPlan>, TaskContext)> {
    let may_repeat_bodies =
        plan.exists(|node| Ok(is_join(node)))? && plan.exists(|node| Ok(reads_bytes(node)))?;
    let context = if may_repeat_bodies {
        let config = context.session_config().clone().with_batch_size(JOINED_ROWS);
        context.with_session_config(config)
    } else {
        context
    };
    let plan = plan.transform_up(|node| {
        Ok(match Counted::of(node)? {
            (node, true) => Transformed::yes(node),
            (node, false) => Transformed::no(node),
        })
    })?;
    Ok((plan.data, context))
}

/// Whether an operator puts rows of two inputs together.
fn is_join(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.children().len() > 1 && node.name().contains("Join")
}

fn reads_bytes(node: &Arc<dyn ExecutionPlan>) -> bool {
    let is_binary = |data_type: &DataType| matches!(data_type, DataType::Binary | DataType::BinaryView);
    node.children().is_empty() && node.schema().fields().iter().any(|field| is_binary(field.data_type()))
}

/// A window whose memory is counted.
#[derive(Debug)]
struct Counted {
    window: Arc<dyn ExecutionPlan>,
    /// Whether a row is no longer kept when it comes out.
    lets_go: bool,
}

impl Counted {
    /// Returns `node`, counted if it is a window, and whether it is one.
    fn of(node: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
        let lets_go = if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
            window.input_order_mode == InputOrderMode::Sorted && window.window_expr().iter().all(lets_go)
        } else if node.is::<WindowAggExec>() {
            false
        } else {
            return Ok((node, false));
        };
        Ok((Arc::new(Self { window: node, lets_go }), true))
    }
}

/// Whether a row is not needed for the rows behind it. Others than these may look back, far or for ever.
fn lets_go(window: &Arc<dyn WindowExpr>) -> bool {
    if let Some(aggregate) = window.as_any().downcast_ref::<PlainAggregateWindowExpr>() {
        return aggregate.get_window_frame().start_bound.is_unbounded();
    }
    let function = window.as_any().downcast_ref::<StandardWindowExpr>();
    let function =
        function.and_then(|window| window.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>());
    function.is_some_and(|function| matches!(function.fun().name(), "row_number" | "rank" | "dense_rank"))
}

impl DisplayAs for Counted {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl ExecutionPlan for Counted {
    fn name(&self) -> &str {
        "Counted"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.window]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { window: children.swap_remove(0), lets_go: self.lets_go }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let held = Arc::new(Mutex::new(Held {
            reservation: MemoryConsumer::new("window").register(context.memory_pool()),
            batches: VecDeque::new(),
        }));
        let input = |input: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            Arc::new(Input { input: Arc::clone(input), held: Arc::clone(&held) })
        };
        let inputs = self.window.children().into_iter().map(input).collect();
        let same = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        let rows = Arc::clone(&self.window).replace_children(inputs, same)?.execute(partition, context)?;
        Ok(Box::pin(Output { rows, held, lets_go: self.lets_go }))
    }
}

/// What a window keeps, in the order in which it came.
#[derive(Debug)]
struct Held {
    reservation: MemoryReservation,
    /// Rows and bytes of each batch.
    batches: VecDeque<(usize, usize)>,
}

impl Held {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = bytes_of(batch).saturating_mul(COPIES);
        self.reservation.try_grow(bytes)?;
        self.batches.push_back((batch.num_rows(), bytes));
        Ok(())
    }

    fn let_go(&mut self, mut rows: usize) {
        while let Some((first, bytes)) = self.batches.front_mut() {
            if *first > rows {
                // The rest of the batch keeps its bytes until it goes as well.
                *first -= rows;
                return;
            }
            rows -= *first;
            self.reservation.shrink(*bytes);
            self.batches.pop_front();
        }
    }
}

/// The bytes of the rows of `batch`, without what its buffers hold besides.
fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &Arc<dyn Array>| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum()
}

/// The input of a window for one partition.
#[derive(Debug)]
struct Input {
    input: Arc<dyn ExecutionPlan>,
    held: Arc<Mutex<Held>>,
}

impl DisplayAs for Input {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

impl ExecutionPlan for Input {
    fn name(&self) -> &str {
        "Input"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: children.swap_remove(0), held: Arc::clone(&self.held) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (held, schema) = (Arc::clone(&self.held), self.schema());
        let rows = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            held.lock().take(&batch)?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// What comes out of a window.
struct Output {
    rows: SendableRecordBatchStream,
    held: Arc<Mutex<Held>>,
    lets_go: bool,
}

impl Stream for Output {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.rows.poll_next_unpin(context);
        if let (true, Poll::Ready(Some(Ok(batch)))) = (self.lets_go, &next) {
            self.held.lock().let_go(batch.num_rows());
        }
        next
    }
}

impl RecordBatchStream for Output {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::array::Int64Array,
        execution::memory_pool::{GreedyMemoryPool, MemoryPool},
    };

    use super::*;

    #[test]
    fn what_came_out_is_given_back_when_its_batch_is_through() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(400));
        let mut held =
            Held { reservation: MemoryConsumer::new("test").register(&pool), batches: VecDeque::new() };
        let batch = |rows: i64| {
            let column: Arc<dyn Array> = Arc::new(Int64Array::from_iter_values(0..rows));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        held.take(&batch(10)).unwrap();
        held.take(&batch(15).slice(5, 10)).unwrap();
        assert_eq!(pool.reserved(), 320);
        assert!(held.take(&batch(10)).is_err());
        held.let_go(9);
        assert_eq!(pool.reserved(), 320);
        held.let_go(2);
        assert_eq!(pool.reserved(), 160);
        held.let_go(9);
        assert_eq!(pool.reserved(), 0);
        drop(held);
        assert_eq!(pool.reserved(), 0);
    }
}
