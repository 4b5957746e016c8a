//! `weir.groups`: one row a consumer group. `weir.group_queues`: where each group stands in each queue.

use datafusion::arrow::array::ArrayRef;

use super::system::{Definition, Kind, ints, texts, times};
use crate::broker::Broker;

pub(super) const GROUPS: Definition = Definition {
    name: "groups",
    columns: &[
        ("namespace", Kind::Text),
        ("group_name", Kind::Text),
        ("group_id", Kind::Int),
        ("members", Kind::Int),
        ("topics", Kind::Int),
        ("max_attempts", Kind::Int),
        ("created", Kind::Time),
    ],
    rows: groups,
};

pub(super) const GROUP_QUEUES: Definition = Definition {
    name: "group_queues",
    columns: &[
        ("namespace", Kind::Text),
        ("group_name", Kind::Text),
        ("topic", Kind::Text),
        ("queue_id", Kind::Int),
        ("committed_offset", Kind::Int),
        ("end_offset", Kind::Int),
        ("leased", Kind::Int),
        ("waiting", Kind::Int),
        ("dropped_by_selector_change", Kind::Int),
        ("missed", Kind::Int),
    ],
    rows: group_queues,
};

fn groups(broker: &Broker) -> Vec<ArrayRef> {
    let groups = broker.groups();
    vec![
        texts(groups.iter().map(|group| group.name.namespace())),
        texts(groups.iter().map(|group| group.name.name())),
        ints(groups.iter().map(|group| Some(group.id.0.into()))),
        ints(groups.iter().map(|group| Some(group.members.len() as u64))),
        ints(groups.iter().map(|group| Some(group.topics.len() as u64))),
        ints(groups.iter().map(|group| Some(group.spec.max_attempts.into()))),
        times(groups.iter().map(|group| group.created_ms)),
    ]
}

fn group_queues(broker: &Broker) -> Vec<ArrayRef> {
    let groups = broker.groups();
    let queues = || {
        groups.iter().flat_map(|group| {
            let topics = group.topics.iter();
            topics.flat_map(move |topic| topic.queues.iter().map(move |queue| (group, topic, queue)))
        })
    };
    vec![
        texts(queues().map(|(group, ..)| group.name.namespace())),
        texts(queues().map(|(group, ..)| group.name.name())),
        texts(queues().map(|(_, topic, _)| topic.topic.name())),
        ints(queues().map(|(.., queue)| Some(queue.queue.0.into()))),
        ints(queues().map(|(.., queue)| Some(queue.committed.0))),
        ints(queues().map(|(.., queue)| Some(queue.end.0))),
        ints(queues().map(|(.., queue)| Some(queue.leased))),
        ints(queues().map(|(.., queue)| Some(queue.waiting))),
        ints(queues().map(|(.., queue)| Some(queue.dropped_by_selector_change))),
        ints(queues().map(|(.., queue)| Some(queue.missed))),
    ]
}
