//! `weir.queues`: one row a queue of a topic.

use datafusion::arrow::array::ArrayRef;

use super::system::{Definition, Kind, ints, texts};
use crate::broker::Broker;

pub(super) const QUEUES: Definition = Definition {
    name: "queues",
    columns: &[
        ("namespace", Kind::Text),
        ("topic", Kind::Text),
        ("queue_id", Kind::Int),
        ("first_offset", Kind::Int),
        ("end_offset", Kind::Int),
        ("messages", Kind::Int),
    ],
    rows,
};

fn rows(broker: &Broker) -> Vec<ArrayRef> {
    let topics = broker.topics();
    let queues = || topics.iter().flat_map(|topic| topic.queues.iter().map(move |queue| (topic, queue)));
    vec![
        texts(queues().map(|(topic, _)| topic.name.namespace())),
        texts(queues().map(|(topic, _)| topic.name.name())),
        ints(queues().map(|(_, queue)| Some(queue.queue.0.into()))),
        ints(queues().map(|(_, queue)| Some(queue.first.0))),
        ints(queues().map(|(_, queue)| Some(queue.end.0))),
        ints(queues().map(|(_, queue)| queue.end.since(queue.first))),
    ]
}
