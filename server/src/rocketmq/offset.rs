//! UpdateOffset, GetOffset and QueryOffset: how far a group has come in a queue, and where a queue begins and ends.

use weir_engine::{OffsetAt, QueueOffset};

use super::{
    Messaging,
    caller::Caller,
    convert::{self, group_name, topic_name},
    proto::{
        Code, GetOffsetRequest, GetOffsetResponse, QueryOffsetPolicy, QueryOffsetRequest,
        QueryOffsetResponse, UpdateOffsetRequest, UpdateOffsetResponse,
    },
    pull::{negative_offset, queue_id, wire_offset},
    refusal::Refusal,
};

/// Puts the group to an offset of a queue, and answers once that is as durable as the topic's messages. What the group
/// had open in the queue is forgotten. An offset that is not retained any more stands for the first that is.
pub(super) async fn update_offset(
    messaging: &Messaging,
    caller: &Caller,
    request: UpdateOffsetRequest,
) -> Result<UpdateOffsetResponse, Refusal> {
    caller.check()?;
    let queue = request.message_queue.as_ref();
    let topic = topic_name(queue.and_then(|queue| queue.topic.as_ref()), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let queue = queue_id(queue)?;
    let offset = u64::try_from(request.offset).map_err(|_| negative_offset(request.offset))?;
    messaging.broker.update_offset(&group, &topic, queue, QueueOffset(offset)).await?;
    Ok(UpdateOffsetResponse { status: Some(caller.status(Code::Ok, "")) })
}

/// Tells the first offset of a queue that the group is not done with.
pub(super) fn get_offset(
    messaging: &Messaging,
    caller: &Caller,
    request: &GetOffsetRequest,
) -> Result<GetOffsetResponse, Refusal> {
    caller.check()?;
    let queue = request.message_queue.as_ref();
    let topic = topic_name(queue.and_then(|queue| queue.topic.as_ref()), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let committed = messaging.broker.committed_offset(&group, &topic, queue_id(queue)?)?;
    let none =
        || Refusal::new(Code::OffsetNotFound, format!("group {group} has no offset in this queue yet"));
    Ok(GetOffsetResponse {
        status: Some(caller.status(Code::Ok, "")),
        offset: wire_offset(committed.ok_or_else(none)?),
    })
}

/// Tells where a queue begins, where it ends, or which of its messages was the first from a time on.
pub(super) async fn query_offset(
    messaging: &Messaging,
    caller: &Caller,
    request: QueryOffsetRequest,
) -> Result<QueryOffsetResponse, Refusal> {
    caller.check()?;
    let queue = request.message_queue.as_ref();
    let topic = topic_name(queue.and_then(|queue| queue.topic.as_ref()), caller)?;
    let queue = queue_id(queue)?;
    let at = match QueryOffsetPolicy::try_from(request.query_offset_policy) {
        Ok(QueryOffsetPolicy::Beginning) => OffsetAt::Earliest,
        Ok(QueryOffsetPolicy::End) => OffsetAt::Latest,
        Ok(QueryOffsetPolicy::Timestamp) => {
            let missing = || Refusal::new(Code::BadRequest, "the policy TIMESTAMP needs a timestamp");
            OffsetAt::Timestamp(convert::millis(request.timestamp.as_ref().ok_or_else(missing)?))
        }
        Err(_) => {
            let text = format!("there is no offset policy {}", request.query_offset_policy);
            return Err(Refusal::new(Code::BadRequest, text));
        }
    };
    let offset = messaging.broker.offset_at(&topic, queue, at).await?;
    Ok(QueryOffsetResponse { status: Some(caller.status(Code::Ok, "")), offset: wire_offset(offset) })
}
