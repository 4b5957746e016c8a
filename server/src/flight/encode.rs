//! Record batches → the messages of a `DoGet` stream.
//!
//! # Invariants
//!
//! - The first message is the schema, also if no row follows.
//! - Every other message is a record batch, possibly of zero rows: clients lose rows or fail on messages
//!   that hold metadata alone.
//! - Every batch has exactly the announced schema, nullability included: the ADBC driver compares.
//! - The next batch is asked for when the messages of the one before have been taken.

use std::{collections::VecDeque, time::Duration};

use arrow_array::{Array, RecordBatch, RecordBatchOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::{
    CompressionType,
    writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions},
};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tonic::Status;
use weir_engine::Broker;

use super::command::{BatchMetadata, Compression};

/// The bytes of a batch above which it is split. Clients take 4 MiB (tonic) or 16 MiB (ADBC) by default.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// After so long without a row an empty batch goes out, so that nothing on the way takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The stream that a call answers with.
pub(crate) type DataStream = BoxStream<'static, Result<FlightData, Status>>;

/// A batch on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The rows.
    pub(crate) batch: RecordBatch,
    /// What a pull says of them.
    pub(crate) metadata: Option<BatchMetadata>,
}

impl From<RecordBatch> for Outgoing {
    fn from(batch: RecordBatch) -> Self {
        Self { batch, metadata: None }
    }
}

/// Returns the messages of `batches`. The stream ends early, with `UNAVAILABLE`, when `broker` closes.
pub(crate) fn stream<S>(
    broker: &Broker,
    schema: SchemaRef,
    compression: Compression,
    batches: S,
) -> Result<DataStream, Status>
where
    S: Stream<Item = Result<Outgoing, Status>> + Send + Unpin + 'static,
{
    let encoder = Encoder::new(schema, compression).map_err(unencodable)?;
    let source = Source {
        ready: VecDeque::from([encoder.schema()]),
        encoder,
        batches,
        closing: broker.closing().boxed(),
        done: false,
    };
    Ok(stream::unfold(source, |mut source| async move { Some((source.next().await?, source)) }).boxed())
}

struct Source<S> {
    encoder: Encoder,
    batches: S,
    closing: BoxFuture<'static, ()>,
    /// Messages of the batch that was asked for last.
    ready: VecDeque<FlightData>,
    done: bool,
}

impl<S: Stream<Item = Result<Outgoing, Status>> + Unpin> Source<S> {
    async fn next(&mut self) -> Option<Result<FlightData, Status>> {
        if let Some(message) = self.ready.pop_front() {
            return Some(Ok(message));
        }
        if self.done {
            return None;
        }
        let Some(outgoing) = self.batch().await.transpose() else {
            self.done = true;
            return None;
        };
        match outgoing.and_then(|outgoing| self.encoder.batch(&outgoing)) {
            Ok(messages) => {
                self.ready = messages;
                self.ready.pop_front().map(Ok)
            }
            Err(status) => {
                self.done = true;
                Some(Err(status))
            }
        }
    }

    async fn batch(&mut self) -> Result<Option<Outgoing>, Status> {
        tokio::select! {
            biased;
            () = &mut self.closing => Err(Status::unavailable("the broker is stopping; read again from here later")),
            next = self.batches.next() => next.transpose(),
            () = tokio::time::sleep(KEEP_ALIVE) => {
                Ok(Some(RecordBatch::new_empty(SchemaRef::clone(&self.encoder.schema)).into()))
            }
        }
    }
}

struct Encoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    fn new(schema: SchemaRef, compression: Compression) -> Result<Self, ArrowError> {
        let compression = match compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
        };
        Ok(Self {
            schema,
            options: IpcWriteOptions::default().try_with_compression(compression)?,
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(true),
            context: IpcWriteContext::default(),
        })
    }

    fn schema(&self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &self.options).into()
    }

    fn batch(&mut self, outgoing: &Outgoing) -> Result<VecDeque<FlightData>, Status> {
        let stamped = restamp(&outgoing.batch, &self.schema).map_err(unencodable)?;
        let mut pieces = Vec::with_capacity(1);
        split(stamped, &mut pieces);
        let last = pieces.len() - 1;
        pieces
            .iter()
            .enumerate()
            .map(|(i, piece)| self.message(piece, &outgoing.metadata, i == last))
            .collect()
    }

    fn message(
        &mut self,
        piece: &RecordBatch,
        metadata: &Option<BatchMetadata>,
        last: bool,
    ) -> Result<FlightData, Status> {
        let Self { generator, dictionaries, options, context, .. } = self;
        let (_, encoded) = generator.encode(piece, dictionaries, options, context).map_err(unencodable)?;
        let mut message = FlightData::from(encoded);
        if let Some(metadata) = metadata {
            message.app_metadata = metadata_bytes(metadata, last)?;
        }
        Ok(message)
    }
}

/// Only the last message of a split batch says where to resume: before it, that is in the middle.
fn metadata_bytes(metadata: &BatchMetadata, last: bool) -> Result<Bytes, Status> {
    let bytes = if last {
        serde_json::to_vec(metadata)
    } else {
        serde_json::to_vec(&BatchMetadata { next: None, eos: None, ..metadata.clone() })
    };
    bytes.map(Bytes::from).map_err(|error| Status::internal(error.to_string()))
}

fn restamp(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), batch.columns().to_vec(), &options)
}

/// Halves `batch` until every piece is small enough or a single row.
fn split(batch: RecordBatch, pieces: &mut Vec<RecordBatch>) {
    let rows = batch.num_rows();
    if rows <= 1 || encoded_bytes(&batch) <= MESSAGE_BYTES_MAX {
        pieces.push(batch);
        return;
    }
    let half = rows / 2;
    split(batch.slice(0, half), pieces);
    split(batch.slice(half, rows - half), pieces);
}

/// About how many bytes the rows take; unlike the memory of the arrays, which a slice shares.
fn encoded_bytes(batch: &RecordBatch) -> usize {
    let bytes = |array: &dyn Array| {
        array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
    };
    batch.columns().iter().map(|column| bytes(column.as_ref())).sum()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn unencodable(error: ArrowError) -> Status {
    Status::internal(format!("cannot encode the answer: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    fn batch(rows: usize, bytes: usize) -> RecordBatch {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| "x".repeat(bytes))));
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..i32::try_from(rows).unwrap()));
        RecordBatch::try_from_iter([("text", text), ("number", numbers)]).unwrap()
    }

    fn metadata() -> BatchMetadata {
        BatchMetadata { q: 3, base: 0, next: Some(9), low: 0, high: 9, ts: 1, eos: None }
    }

    #[test]
    fn large_batches_are_split_and_only_the_last_piece_says_where_to_resume() {
        let batch = batch(64, 100_000);
        let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
        let messages = encoder.batch(&Outgoing { batch, metadata: Some(metadata()) }).unwrap();
        assert_eq!(messages.len(), 4);
        for (i, message) in messages.iter().enumerate() {
            assert!(message.data_body.len() <= MESSAGE_BYTES_MAX, "{}", message.data_body.len());
            let metadata: BatchMetadata = serde_json::from_slice(&message.app_metadata).unwrap();
            assert_eq!(metadata.next, (i == 3).then_some(9));
        }
    }

    #[test]
    fn a_row_that_is_too_large_goes_out_alone() {
        let batch = batch(3, 3 * 1024 * 1024);
        let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
        assert_eq!(encoder.batch(&batch.into()).unwrap().len(), 3);
    }

    #[test]
    fn batches_carry_the_announced_nullability() {
        let batch = batch(2, 1);
        let announced = Arc::new(Schema::new(vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("number", DataType::Int32, true),
        ]));
        assert_ne!(batch.schema(), announced);
        assert_eq!(restamp(&batch, &announced).unwrap().schema(), announced);
        let other = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
        assert!(restamp(&batch, &other).is_err());
    }

    #[test]
    fn zero_rows_and_zero_columns_are_batches() {
        let none = RecordBatch::new_empty(batch(1, 1).schema());
        let mut encoder = Encoder::new(none.schema(), Compression::Zstd).unwrap();
        let messages = encoder.batch(&none.into()).unwrap();
        assert!(messages.len() == 1 && !messages[0].data_header.is_empty());
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let mut encoder = Encoder::new(empty.schema(), Compression::None).unwrap();
        assert_eq!(encoder.batch(&empty.into()).unwrap().len(), 1);
    }
}
