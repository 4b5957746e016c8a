//! `weir.topics`: one row a topic.

use datafusion::arrow::array::ArrayRef;
use weir_storage::DurabilityClass;

use super::system::{Definition, Kind, ints, texts, times};
use crate::{broker::Broker, topic::TopicDescription};

pub(super) const TOPICS: Definition = Definition {
    name: "topics",
    columns: &[
        ("namespace", Kind::Text),
        ("topic", Kind::Text),
        ("topic_id", Kind::Int),
        ("class", Kind::Text),
        ("type", Kind::Text),
        ("queues", Kind::Int),
        ("messages", Kind::Int),
        ("retention_ms", Kind::Int),
        ("retention_bytes", Kind::Int),
        ("log_bytes", Kind::Int),
        ("created", Kind::Time),
    ],
    rows,
};

fn rows(broker: &Broker) -> Vec<ArrayRef> {
    let topics = broker.topics();
    let retention = |topic: &TopicDescription| {
        topic.retention.map(|retention| u64::try_from(retention.as_millis()).unwrap_or(u64::MAX))
    };
    vec![
        texts(topics.iter().map(|topic| topic.name.namespace())),
        texts(topics.iter().map(|topic| topic.name.name())),
        ints(topics.iter().map(|topic| Some(topic.id.0.into()))),
        texts(topics.iter().map(|topic| class_name(topic.class))),
        texts(topics.iter().map(|topic| topic.topic_type.name())),
        ints(topics.iter().map(|topic| Some(topic.queues.len() as u64))),
        ints(topics.iter().map(|topic| {
            Some(topic.queues.iter().map(|queue| queue.end.since(queue.first).unwrap_or(0)).sum())
        })),
        ints(topics.iter().map(retention)),
        ints(topics.iter().map(|topic| topic.retention_bytes)),
        ints(topics.iter().map(|topic| Some(topic.log_bytes))),
        times(topics.iter().map(|topic| topic.created_ms)),
    ]
}

fn class_name(class: DurabilityClass) -> &'static str {
    match class {
        DurabilityClass::Sync => "sync",
        DurabilityClass::Async => "async",
    }
}
