//! QueryAssignment: which queues a push consumer reads.

use super::{
    Messaging,
    caller::Caller,
    convert::{group_name, topic_name},
    proto::{Assignment, Code, QueryAssignmentRequest, QueryAssignmentResponse},
    refusal::Refusal,
    route::{any_queue, endpoints, message_queues},
};

/// Assigns all queues at once, as queue −1: every member may receive from each of them. A FIFO group is assigned each
/// queue by itself, as RocketMQ does, so that its members make as many receives at a time as there are queues; whichever
/// queue such a receive names, the message groups keep their order.
pub(super) fn query_assignment(
    messaging: &Messaging,
    caller: &Caller,
    request: QueryAssignmentRequest,
) -> Result<QueryAssignmentResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let endpoints = endpoints(request.endpoints, &messaging.context)?;
    let topic = messaging.broker.topic(&topic)?;
    let is_fifo = messaging.broker.group_spec(&group).is_some_and(|spec| spec.fifo);
    let queues = match is_fifo {
        true => message_queues(messaging, caller, &topic, request.topic, endpoints),
        false => vec![any_queue(messaging, caller, topic.topic_type, request.topic, endpoints)],
    };
    let assigned = |queue| Assignment { message_queue: Some(queue) };
    Ok(QueryAssignmentResponse {
        status: Some(caller.status(Code::Ok, "")),
        assignments: queues.into_iter().map(assigned).collect(),
    })
}
