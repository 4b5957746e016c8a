//! Actions on topics, groups and the broker: JSON in, JSON out. The command line is made of them.
//!
//! | action | body | result |
//! |---|---|---|
//! | `CreateTopic` | `{topic, queues?, class?, retention_ms?, retention_bytes?, dialect?, compression?, type?}` | the topic |
//! | `AlterTopic` | `{topic, queues?, class?, retention_ms?, retention_bytes?, dialect?, compression?, type?}` | the topic |
//! | `DeleteTopic` | `{topic}` | `{messages, free_now_bytes, free_soon_bytes, free_soon_ms, free_later_bytes}` |
//! | `DescribeTopic` | `{topic}` | the topic |
//! | `ListTopics` | `{}` | `{topics: […]}` |
//! | `CreateGroup` | `{group, max_attempts?, retry?, lease_min_ms?, start?, fifo?, dialect?, priority_factor?, lite?: {topic, exclusive?, wildcard?, quota?}}` | the group |
//! | `AlterGroup` | the same, but `lite_quota?` in place of `lite` | the group |
//! | `DeleteGroup` | `{group}` | `{}` |
//! | `DescribeGroup` | `{group}` | the group |
//! | `CountWaiting` | `{group, within_ms?}`, see `waiting.rs` | `{done, total}`, …, `{topics: […], complete}` |
//! | `ListGroups` | `{}` | `{groups: […]}` |
//! | `ResetGroup` | `{group, topic, to}` with `to` one of `"earliest"`, `"latest"`, `{"timestamp": ms}`, `{"offset": {queue, offset}}` | the group |
//! | `ListOffsets` | `{topic, queues?, at?}` with `at` one of `"earliest"`, `"latest"`, `{"timestamp": …}` | `{topic, epoch, offsets: {queue: offset}}` |
//! | `ExplainSelector` | `{topic, selector, dialect?, analyze?}` | see `docs/flight.md` |
//! | `TrySelector` | `{topic, selector, dialect?, limit?}` | `{rows: […], complete}` |
//! | `WhySelected` | `{topic, selector, dialect?, message}` | `{row, whole}` |
//! | `DiffSelectors` | `{topic, before, after, dialect?, limit?}` | `{both, gained, lost, …}` |
//! | `TraceMessage` | `{message \| key, topic?, limit?, within_ms?}` | see `docs/tracing.md` |
//! | `Produce` | see `publish.rs` | `{stored, offsets: [[queue, offset], …]}` |
//! | `BrokerInfo` | `{}` | what this broker is |
//! | `Checkpoint` | see `checkpoint.rs` | `{done, total}`, …, `{target, files, linked_bytes, copied_bytes, log_end}` |

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tonic::Status;
use weir_engine::{Broker, GroupName, PullFrom, PullRequest, ResetTo, TopicName};

use super::{
    command::Moment,
    examine, publish,
    ticket::{COMMAND_BYTES_MAX, check_size},
    trace,
};
use crate::{
    context::{COMMIT, DATAFUSION_VERSION, ServerContext},
    status::to_flight,
};

/// Names and what they do.
pub(crate) const ACTIONS: [(&str, &str); 21] = [
    (
        "CreateTopic",
        "Makes a topic. JSON: topic, queues, class, retention_ms, retention_bytes, dialect, compression, type.",
    ),
    (
        "AlterTopic",
        "Changes a topic. JSON: topic, queues, class, retention_ms, retention_bytes, dialect, compression, type.",
    ),
    ("DeleteTopic", "Deletes a topic and its messages. JSON: topic."),
    ("DescribeTopic", "Tells a topic. JSON: topic."),
    ("ListTopics", "Tells all topics. JSON: {}."),
    (
        "CreateGroup",
        "Makes a consumer group. JSON: group, max_attempts, retry, lease_min_ms, start, fifo, dialect, priority_factor, lite.",
    ),
    (
        "AlterGroup",
        "Changes a consumer group. JSON: group, max_attempts, retry, lease_min_ms, start, fifo, dialect, priority_factor, lite_quota.",
    ),
    ("DeleteGroup", "Deletes a consumer group. JSON: group."),
    ("DescribeGroup", "Tells a consumer group. JSON: group."),
    (
        "CountWaiting",
        "Counts the messages that wait for a consumer group, and tells how far it has come. JSON: group, within_ms.",
    ),
    ("ListGroups", "Tells all consumer groups. JSON: {}."),
    ("ResetGroup", "Puts a group elsewhere in a topic. JSON: group, topic, to."),
    ("ListOffsets", "Tells offsets of queues. JSON: topic, queues, at."),
    (
        "ExplainSelector",
        "Tells what a selector does on retained messages. JSON: topic, selector, dialect, analyze.",
    ),
    (
        "TrySelector",
        "Tells the first messages that a selector selects. JSON: topic, selector, dialect, limit.",
    ),
    (
        "WhySelected",
        "Tells why a selector selects a message or not. JSON: topic, selector, dialect, message.",
    ),
    (
        "DiffSelectors",
        "Compares two selectors on retained messages. JSON: topic, before, after, dialect, limit.",
    ),
    (
        "TraceMessage",
        "Tells what became of a message in each group. JSON: message or key, topic, limit, within_ms.",
    ),
    ("Produce", "Stores messages. JSON: topic, messages, untyped."),
    ("BrokerInfo", "Tells what this broker is. JSON: {}."),
    ("Checkpoint", "Copies the data directory, and tells how far it has come. JSON: target."),
];

pub(super) type Answer = Result<Value, Status>;

/// Runs the action `name`, or returns `None` if it is none of these.
pub(crate) async fn run(broker: &Broker, context: &ServerContext, name: &str, body: &[u8]) -> Option<Answer> {
    Some(match name {
        // Has a larger limit, and a reader that keeps it while it reads.
        "Produce" => publish::produce(broker, body).await,
        "CreateTopic" => create_topic(broker, body).await,
        "AlterTopic" => alter_topic(broker, body).await,
        "DeleteTopic" => delete_topic(broker, body).await,
        "DescribeTopic" => describe_topic(broker, body),
        "ListTopics" => list_topics(broker, body),
        "CreateGroup" => create_group(broker, body).await,
        "AlterGroup" => alter_group(broker, body).await,
        "DeleteGroup" => delete_group(broker, body).await,
        "DescribeGroup" => describe_group(broker, body),
        "ListGroups" => list_groups(broker, body),
        "ResetGroup" => reset_group(broker, body).await,
        "ListOffsets" => list_offsets(broker, body).await,
        "ExplainSelector" => examine::explain(broker, body).await,
        "TrySelector" => examine::try_rows(broker, body).await,
        "WhySelected" => examine::why(broker, body).await,
        "DiffSelectors" => examine::diff(broker, body).await,
        "TraceMessage" => trace::trace(broker, body).await,
        "BrokerInfo" => broker_info(broker, context, body),
        _ => return None,
    })
}

async fn create_topic(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, spec) = named(body, "topic")?;
    answer(broker.create_topic(&topic, spec).await.map_err(to_flight)?)
}

async fn alter_topic(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, change) = named(body, "topic")?;
    answer(broker.alter_topic(&topic, change).await.map_err(to_flight)?)
}

async fn delete_topic(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Nothing {}) = named(body, "topic")?;
    answer(broker.delete_topic(&topic).await.map_err(to_flight)?)
}

fn describe_topic(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Nothing {}) = named(body, "topic")?;
    answer(broker.topic(&topic).map_err(to_flight)?)
}

fn list_topics(broker: &Broker, body: &[u8]) -> Answer {
    let Nothing {} = read(object(body)?)?;
    answer(json!({ "topics": answer(broker.topics())? }))
}

async fn create_group(broker: &Broker, body: &[u8]) -> Answer {
    let (group, spec) = named(body, "group")?;
    answer(broker.create_group(&group, spec).await.map_err(to_flight)?)
}

async fn alter_group(broker: &Broker, body: &[u8]) -> Answer {
    let (group, change) = named(body, "group")?;
    answer(broker.alter_group(&group, change).await.map_err(to_flight)?)
}

async fn delete_group(broker: &Broker, body: &[u8]) -> Answer {
    let (group, Nothing {}) = named(body, "group")?;
    broker.delete_group(&group).await.map_err(to_flight)?;
    Ok(json!({}))
}

fn describe_group(broker: &Broker, body: &[u8]) -> Answer {
    let (group, Nothing {}) = named(body, "group")?;
    answer(broker.group(&group).map_err(to_flight)?)
}

fn list_groups(broker: &Broker, body: &[u8]) -> Answer {
    let Nothing {} = read(object(body)?)?;
    answer(json!({ "groups": answer(broker.groups())? }))
}

async fn reset_group(broker: &Broker, body: &[u8]) -> Answer {
    let (group, Reset { topic, to }) = named::<GroupName, _>(body, "group")?;
    broker.reset_group(&group, &topic, to).await.map_err(to_flight)?;
    answer(broker.group(&group).map_err(to_flight)?)
}

async fn list_offsets(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Offsets { queues, at }) = named::<TopicName, _>(body, "topic")?;
    let description = broker.topic(&topic).map_err(to_flight)?;
    if let Some(queue) = queues.iter().flatten().find(|queue| **queue as usize >= description.queues.len()) {
        let count = description.queues.len();
        return Err(Status::not_found(format!(
            "topic {topic} has {count} queues; there is no queue {queue}"
        )));
    }
    let mut offsets: BTreeMap<u32, u64> = match at {
        At::Earliest => description.queues.iter().map(|queue| (queue.queue.0, queue.first.0)).collect(),
        At::Latest => description.queues.iter().map(|queue| (queue.queue.0, queue.end.0)).collect(),
        At::Timestamp(moment) => offsets_at(broker, topic.clone(), moment).await?,
    };
    offsets.retain(|queue, _| queues.as_ref().is_none_or(|queues| queues.contains(queue)));
    answer(json!({ "topic": topic, "epoch": broker.info().epoch, "offsets": offsets }))
}

async fn offsets_at(broker: &Broker, topic: TopicName, moment: Moment) -> Result<BTreeMap<u32, u64>, Status> {
    let request = PullRequest { from: PullFrom::Timestamp(moment.0), ..PullRequest::new(topic) };
    let plan = broker.plan_pull(&request).await.map_err(to_flight)?;
    Ok(plan.parts.iter().map(|part| (part.queue.0, part.from.0)).collect())
}

fn broker_info(broker: &Broker, context: &ServerContext, body: &[u8]) -> Answer {
    let Nothing {} = read(object(body)?)?;
    let info = broker.info();
    Ok(json!({
        "node_name": context.node_name,
        "advertised": context.advertised,
        "version": context.version,
        "commit": COMMIT,
        "datafusion": DATAFUSION_VERSION,
        "format_version": info.format_version,
        "uuid": info.uuid.to_string(),
        "epoch": info.epoch,
        "data_dir": info.data_dir.display().to_string(),
        "started_ms": info.started_ms,
        "recovery": format!("{:?}", info.recovery),
        "auto_create_topics": info.auto_create_topics,
        "auto_create_groups": info.auto_create_groups,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    topic: TopicName,
    to: ResetTo,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offsets {
    queues: Option<Vec<u32>>,
    #[serde(default)]
    at: At,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum At {
    Earliest,
    #[default]
    Latest,
    Timestamp(Moment),
}

/// Reads a body that names a topic or a group, and says something more.
pub(super) fn named<N, T>(body: &[u8], what: &str) -> Result<(N, T), Status>
where
    N: FromStr<Err: std::fmt::Display>,
    T: DeserializeOwned,
{
    let mut object = object(body)?;
    let Some(Value::String(name)) = object.shift_remove(what) else {
        return Err(Status::invalid_argument(format!("the body must name a {what}: {{\"{what}\": \"…\"}}")));
    };
    let name = name.parse().map_err(|error: N::Err| Status::invalid_argument(error.to_string()))?;
    Ok((name, read(object)?))
}

/// Reads a body that names nothing in particular.
pub(super) fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    read(object(body)?)
}

/// Reads a body; nothing at all is an empty object.
fn object(body: &[u8]) -> Result<Map<String, Value>, Status> {
    check_size("the body of the action", body.len(), COMMAND_BYTES_MAX)?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| bad_body(&error))
}

fn read<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, Status> {
    serde_json::from_value(Value::Object(object)).map_err(|error| bad_body(&error))
}

pub(super) fn answer(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| Status::internal(error.to_string()))
}

pub(super) fn bad_body(error: &serde_json::Error) -> Status {
    Status::invalid_argument(format!("bad body of the action: {error}"))
}

#[cfg(test)]
mod tests {
    use weir_engine::{TopicChange, TopicSpec};

    use super::*;

    #[test]
    fn bodies_name_something_and_nothing_unknown() {
        let (topic, spec): (TopicName, TopicSpec) =
            named(br#"{"queues": 2, "topic": "orders", "retention_ms": null}"#, "topic").unwrap();
        assert_eq!((topic.to_string().as_str(), spec.queues, spec.retention), ("orders", 2, None));
        let (_, change): (TopicName, TopicChange) = named(br#"{"topic": "orders"}"#, "topic").unwrap();
        assert_eq!(change, TopicChange::default());
        for wrong in [
            &b""[..],
            b"[]",
            b"{}",
            br#"{"topic": 5}"#,
            br#"{"topic": "a b"}"#,
            br#"{"topic": "a", "x": 1}"#,
            b"\xff",
        ] {
            assert!(named::<TopicName, TopicSpec>(wrong, "topic").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_action_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            super::super::action::list().map(|action| action.r#type).collect();
        assert_eq!(names.len(), super::super::action::list().count());
    }
}
