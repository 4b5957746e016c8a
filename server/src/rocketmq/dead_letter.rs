//! ForwardMessageToDeadLetterQueue: a client gives a message up.

use super::{
    Messaging,
    caller::Caller,
    convert::{group_name, topic_name},
    proto::{Code, ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse},
    refusal::Refusal,
};

/// Moves a message to the dead-letter topic of the group. Clients repeat the call until it succeeds, so doing it
/// again succeeds.
pub(super) async fn forward_message_to_dead_letter_queue(
    messaging: &Messaging,
    caller: &Caller,
    request: ForwardMessageToDeadLetterQueueRequest,
) -> Result<ForwardMessageToDeadLetterQueueResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    messaging.broker.forward_to_dead_letter(&group, &topic, &request.receipt_handle).await?;
    Ok(ForwardMessageToDeadLetterQueueResponse { status: Some(caller.status(Code::Ok, "")) })
}
