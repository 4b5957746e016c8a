//! AckMessage: messages are done for a group.

use std::collections::BTreeSet;

use weir_engine::EngineError;

use super::{
    Messaging,
    caller::Caller,
    convert::{group_name, topic_name},
    proto::{AckMessageEntry, AckMessageRequest, AckMessageResponse, AckMessageResultEntry, Code, Status},
    refusal::Refusal,
};

/// Acknowledges each entry by itself; the status of the whole is theirs if they agree.
///
/// Push consumers repeat an acknowledgement every second until it is done or its handle is refused. So what
/// cannot succeed any more, because topic or group are gone, is told as a refused handle.
pub(super) async fn ack_message(
    messaging: &Messaging,
    caller: &Caller,
    request: AckMessageRequest,
) -> Result<AckMessageResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    if request.entries.is_empty() {
        return Err(Refusal::new(Code::BadRequest, "the request holds no entries"));
    }
    let handles: Vec<_> = request.entries.iter().map(|entry| entry.receipt_handle.clone()).collect();
    let outcomes = messaging.broker.acknowledge(&group, &topic, &handles).await;
    let mut entries = Vec::with_capacity(request.entries.len());
    for (entry, outcome) in request.entries.into_iter().zip(outcomes) {
        entries.push(result(caller, entry, outcome)?);
    }
    Ok(AckMessageResponse { status: Some(common(caller, &entries)), entries })
}

fn result(
    caller: &Caller,
    entry: AckMessageEntry,
    outcome: Result<(), EngineError>,
) -> Result<AckMessageResultEntry, Refusal> {
    let status = match outcome.map_err(handle_refusal) {
        Ok(()) => caller.status(Code::Ok, ""),
        Err(Refusal::Stopping) => return Err(Refusal::Stopping),
        Err(refusal) => refusal.status(caller),
    };
    Ok(AckMessageResultEntry {
        message_id: entry.message_id,
        receipt_handle: entry.receipt_handle,
        status: Some(status),
    })
}

/// Returns the refusal of a handle. That of a topic or group that is gone can be good no more.
pub(super) fn handle_refusal(error: EngineError) -> Refusal {
    match error {
        EngineError::TopicNotFound { .. } | EngineError::GroupNotFound { .. } => {
            Refusal::new(Code::InvalidReceiptHandle, error.to_string())
        }
        error => error.into(),
    }
}

fn common(caller: &Caller, entries: &[AckMessageResultEntry]) -> Status {
    let statuses = || entries.iter().filter_map(|entry| entry.status.as_ref());
    let codes: BTreeSet<i32> = statuses().map(|status| status.code).collect();
    match statuses().next() {
        Some(first) if codes.len() == 1 => first.clone(),
        _ => caller.status(Code::MultipleResults, "the entries came to different results"),
    }
}
