//! Native batch pull: `GetFlightInfo`, `GetSchema`, `ListFlights` and `DoGet` for topics.
//!
//! A plan has one endpoint per queue, since queues have no order among each other. Its end is fixed when it
//! is planned and lies in the signed tickets, so that reading again gives the same rows.

use arrow_array::RecordBatch;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo};
use arrow_schema::SchemaRef;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;
use weir_engine::{
    Broker, GroupName, PullBatch, PullColumn, PullFrom, PullPart, PullPlan, PullRequest, PullStream, PullTo,
    QueueId, TopicName,
};
use weir_filter::Dialect;

use super::{
    BoxedStream,
    command::{BatchMetadata, Compression, EndOfStream, PullCommand, PullEnd, PullStart},
    encode::{self, DataStream, Outgoing},
    info,
    ticket::{self, PullTicket, Purpose},
};
use crate::status::to_flight;

/// Bytes that a batch may be asked to have: one message is sent whole.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Rows that a batch may be asked to have.
const BATCH_ROWS_MAX: usize = 1024 * 1024;

/// Returns the command that a path stands for: `[topic]` or `[namespace, topic]`, then perhaps a queue.
pub(crate) fn command_of_path(path: &[String]) -> Result<PullCommand, Status> {
    let (names, queues) = match path {
        [names @ .., queue]
            if !names.is_empty() && !queue.is_empty() && queue.bytes().all(|b| b.is_ascii_digit()) =>
        {
            let queue =
                queue.parse().map_err(|_| Status::invalid_argument(format!("there is no queue {queue}")))?;
            (names, Some(vec![queue]))
        }
        names => (names, None),
    };
    let topic = match names {
        [topic] => topic.clone(),
        [namespace, topic] if namespace.is_empty() || namespace == "public" => topic.clone(),
        [namespace, topic] => format!("{namespace}/{topic}"),
        _ => {
            return Err(Status::invalid_argument(
                "a path is [topic] or [namespace, topic], and perhaps the number of a queue",
            ));
        }
    };
    Ok(PullCommand { queues, ..PullCommand::of_topic(topic) })
}

/// Answers `GetFlightInfo`.
pub(crate) async fn flight_info(
    broker: &Broker,
    command: &PullCommand,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let request = request(command)?;
    let plan = broker.plan_pull(&request).await.map_err(to_flight)?;
    let schema = info::schema_text(&plan.schema)?;
    let endpoints = plan.parts.iter().map(|part| endpoint(broker, part, &schema, command.compression));
    let endpoints = endpoints.collect::<Result<_, _>>()?;
    let info = info::flight_info(&plan.schema, descriptor, endpoints, plan.rows)?;
    Ok(info.with_app_metadata(plan_metadata(&request.topic, &plan).to_string()))
}

/// Answers `GetSchema`.
pub(crate) async fn schema(broker: &Broker, command: &PullCommand) -> Result<SchemaRef, Status> {
    Ok(broker.plan_pull(&request(command)?).await.map_err(to_flight)?.schema)
}

/// Answers `ListFlights`: a flight per topic whose name matches `criteria`, planned when it is taken.
pub(crate) fn list(broker: &Broker, criteria: &[u8]) -> Result<BoxedStream<FlightInfo>, Status> {
    let pattern = match std::str::from_utf8(criteria) {
        Ok("") => "%".to_owned(),
        Ok(pattern) => pattern.to_owned(),
        Err(_) => {
            return Err(Status::invalid_argument("the criteria are a pattern of LIKE for names of topics"));
        }
    };
    let names: Vec<TopicName> = broker.topics().into_iter().map(|topic| topic.name).collect();
    let broker = broker.clone();
    let wanted = names.into_iter().filter(move |name| super::metadata::matches(&pattern, &name.to_string()));
    let infos = stream::iter(wanted).filter_map(move |name| {
        let broker = broker.clone();
        async move { listed(&broker, &name).await.transpose() }
    });
    Ok(infos.boxed())
}

/// Returns `None` for a topic that was deleted since the names were collected.
async fn listed(broker: &Broker, name: &TopicName) -> Result<Option<FlightInfo>, Status> {
    let mut path = vec![name.name().to_owned()];
    if !name.namespace().is_empty() {
        path.insert(0, name.namespace().to_owned());
    }
    let command = PullCommand::of_topic(name.to_string());
    match flight_info(broker, &command, FlightDescriptor::new_path(path)).await {
        Ok(info) => Ok(Some(info)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Answers `DoGet` for a ticket of ours.
pub(crate) fn read_ticket(broker: &Broker, bytes: &[u8]) -> Result<DataStream, Status> {
    let PullTicket { part, schema, compression } = ticket::open(broker, Purpose::Pull, bytes)?;
    let schema = info::schema_of_text(&schema)?;
    read_parts(broker, schema, vec![part], compression)
}

/// Answers `DoGet` for a hand-made ticket: a command whose queues follow one another in one stream.
pub(crate) async fn read_command(broker: &Broker, command: &PullCommand) -> Result<DataStream, Status> {
    let plan = broker.plan_pull(&request(command)?).await.map_err(to_flight)?;
    read_parts(broker, plan.schema, plan.parts, command.compression)
}

fn read_parts(
    broker: &Broker,
    schema: SchemaRef,
    parts: Vec<PullPart>,
    compression: Compression,
) -> Result<DataStream, Status> {
    let reader = broker.clone();
    let empty = RecordBatch::new_empty(SchemaRef::clone(&schema));
    let batches = stream::iter(parts)
        .then(move |part| {
            let (broker, empty) = (reader.clone(), empty.clone());
            async move {
                let stream = broker.pull(part.clone()).await.map_err(to_flight)?;
                Ok::<_, Status>(marked(part, stream, empty))
            }
        })
        .try_flatten();
    encode::stream(broker, schema, compression, batches.boxed())
}

/// Gives each batch its metadata, and ends with an empty one that says why.
fn marked(
    part: PullPart,
    batches: PullStream,
    empty: RecordBatch,
) -> impl futures::Stream<Item = Result<Outgoing, Status>> + Send {
    let state = Marking { part, batches, empty, rows: 0, last: None, done: false };
    stream::try_unfold(state, |mut state| async move { Ok(state.next().await?.map(|batch| (batch, state))) })
}

struct Marking {
    part: PullPart,
    batches: PullStream,
    empty: RecordBatch,
    rows: u64,
    /// What was said of the newest batch, sent or not.
    last: Option<BatchMetadata>,
    done: bool,
}

impl Marking {
    /// A batch without rows waits: the one after it says more, and so does the end.
    async fn next(&mut self) -> Result<Option<Outgoing>, Status> {
        if self.done {
            return Ok(None);
        }
        while let Some(pulled) = self.batches.try_next().await.map_err(to_flight)? {
            let metadata = metadata_of(&pulled);
            self.last = Some(metadata.clone());
            if pulled.batch.num_rows() > 0 {
                self.rows += pulled.batch.num_rows() as u64;
                return Ok(Some(Outgoing { batch: pulled.batch, metadata: Some(metadata) }));
            }
        }
        self.done = true;
        let last = self.last.take().map(|last| self.end(last));
        Ok(last.map(|metadata| Outgoing { batch: self.empty.clone(), metadata: Some(metadata) }))
    }

    fn end(&self, last: BatchMetadata) -> BatchMetadata {
        let next = last.next.unwrap_or(last.base);
        let why = if next >= self.part.to.0 {
            EndOfStream::End
        } else if self.part.max_rows.is_some_and(|max| self.rows >= max) {
            EndOfStream::MaxRows
        } else {
            EndOfStream::MaxBytes
        };
        BatchMetadata { base: next, next: Some(next), eos: Some(why), ..last }
    }
}

fn metadata_of(pulled: &PullBatch) -> BatchMetadata {
    BatchMetadata {
        q: pulled.queue.0,
        base: pulled.base.0,
        next: Some(pulled.next.0),
        low: pulled.low.0,
        high: pulled.high.0,
        ts: pulled.store_time_ms,
        eos: None,
    }
}

fn endpoint(
    broker: &Broker,
    part: &PullPart,
    schema: &str,
    compression: Compression,
) -> Result<FlightEndpoint, Status> {
    let ticket = PullTicket { part: part.clone(), schema: schema.to_owned(), compression };
    let metadata = serde_json::json!({
        "queue": part.queue.0,
        "from": part.from.0,
        "to": part.to.0,
        "leader_epoch": part.epoch.0,
    });
    let ticket = ticket::seal(broker, Purpose::Pull, &ticket)?;
    Ok(info::endpoint(ticket).with_app_metadata(metadata.to_string()))
}

fn plan_metadata(topic: &TopicName, plan: &PullPlan) -> serde_json::Value {
    let queues: serde_json::Map<_, _> = plan
        .ranges
        .iter()
        .map(|(queue, (low, high))| (queue.to_string(), serde_json::json!({"low": low, "high": high})))
        .collect();
    serde_json::json!({
        "v": 1,
        "topic": topic.to_string(),
        "queues": queues,
        "snapshot_time": plan.snapshot_ms,
    })
}

/// Turns a command into what the engine asks for; the engine checks the rest.
fn request(command: &PullCommand) -> Result<PullRequest, Status> {
    let topic = command.topic.parse::<TopicName>().map_err(|e| Status::invalid_argument(e.to_string()))?;
    let defaults = PullRequest::new(topic);
    let dialect = command.dialect.as_deref().map(str::parse::<Dialect>).transpose();
    Ok(PullRequest {
        queues: command.queues.as_ref().map(|queues| queues.iter().copied().map(QueueId).collect()),
        from: from(command.from.as_ref())?,
        to: to(command.to.as_ref()),
        columns: command.columns.as_ref().map(|names| names.iter().cloned().map(PullColumn).collect()),
        types: command.types.clone(),
        selector: command.filter.clone(),
        dialect: dialect.map_err(|error| Status::invalid_argument(error.to_string()))?,
        max_rows: command.max_rows,
        max_bytes: command.max_bytes,
        batch_rows: bounded("batch_rows", command.batch_rows, defaults.batch_rows, BATCH_ROWS_MAX)?,
        batch_bytes: bounded("batch_bytes", command.batch_bytes, defaults.batch_bytes, BATCH_BYTES_MAX)?,
        ..defaults
    })
}

fn from(start: Option<&PullStart>) -> Result<PullFrom, Status> {
    Ok(match start {
        None | Some(PullStart::Earliest(_)) => PullFrom::Earliest,
        Some(PullStart::Latest(_)) => PullFrom::Latest,
        Some(PullStart::Offsets(offsets)) => PullFrom::Offsets(offsets.clone()),
        Some(PullStart::Timestamp(moment)) => PullFrom::Timestamp(moment.0),
        Some(PullStart::Group(group)) => {
            PullFrom::Group(group.parse::<GroupName>().map_err(|e| Status::invalid_argument(e.to_string()))?)
        }
    })
}

fn to(end: Option<&PullEnd>) -> PullTo {
    match end {
        None | Some(PullEnd::Snapshot(_)) => PullTo::Snapshot,
        Some(PullEnd::Offsets(offsets)) => PullTo::Offsets(offsets.clone()),
        Some(PullEnd::Timestamp(moment)) => PullTo::Timestamp(moment.0),
    }
}

fn bounded(what: &str, asked: Option<usize>, default: usize, max: usize) -> Result<usize, Status> {
    match asked {
        None => Ok(default),
        Some(asked) if (1..=max).contains(&asked) => Ok(asked),
        Some(asked) => {
            Err(Status::invalid_argument(format!("{what} is {asked}; it must lie between 1 and {max}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_topic_and_perhaps_a_namespace_and_a_queue() {
        let of = |path: &[&str]| {
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            command_of_path(&path)
                .map(|command| (command.topic, command.queues))
                .map_err(|status| status.code())
        };
        assert_eq!(of(&["orders"]), Ok(("orders".into(), None)));
        assert_eq!(of(&["orders", "3"]), Ok(("orders".into(), Some(vec![3]))));
        assert_eq!(of(&["public", "orders"]), Ok(("orders".into(), None)));
        assert_eq!(of(&["ns", "orders"]), Ok(("ns/orders".into(), None)));
        assert_eq!(of(&["ns", "orders", "0"]), Ok(("ns/orders".into(), Some(vec![0]))));
        assert_eq!(of(&["7"]), Ok(("7".into(), None)));
        for path in [&[][..], &["a", "b", "c"], &["a", "99999999999"]] {
            assert_eq!(of(path), Err(tonic::Code::InvalidArgument), "{path:?}");
        }
    }

    #[test]
    fn sizes_of_batches_are_refused_rather_than_bent() {
        for (rows, bytes, good) in [
            (None, None, true),
            (Some(1), Some(BATCH_BYTES_MAX), true),
            (Some(0), None, false),
            (None, Some(BATCH_BYTES_MAX + 1), false),
        ] {
            let command = PullCommand { batch_rows: rows, batch_bytes: bytes, ..PullCommand::of_topic("a") };
            assert_eq!(request(&command).is_ok(), good, "{rows:?} {bytes:?}");
        }
    }
}
