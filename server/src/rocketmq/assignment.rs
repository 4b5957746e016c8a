//! QueryAssignment: which queues a push consumer reads.

use super::{
    Messaging,
    caller::Caller,
    convert::{group_name, topic_name},
    proto::{Assignment, Code, QueryAssignmentRequest, QueryAssignmentResponse},
    refusal::Refusal,
    route::{any_queue, endpoints},
};

/// Assigns all queues at once, as queue −1: every member may receive from each of them.
pub(super) fn query_assignment(
    messaging: &Messaging,
    caller: &Caller,
    request: QueryAssignmentRequest,
) -> Result<QueryAssignmentResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    group_name(request.group.as_ref(), caller)?;
    let endpoints = endpoints(request.endpoints, &messaging.context)?;
    let topic_type = messaging.broker.topic(&topic)?.topic_type;
    let queue = any_queue(messaging, caller, topic_type, request.topic, endpoints);
    Ok(QueryAssignmentResponse {
        status: Some(caller.status(Code::Ok, "")),
        assignments: vec![Assignment { message_queue: Some(queue) }],
    })
}
