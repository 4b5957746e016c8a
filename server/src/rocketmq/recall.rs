//! RecallMessage: a delayed message is taken back.

use weir_engine::EngineError;

use super::{
    Messaging,
    caller::Caller,
    convert::topic_name,
    proto::{Code, RecallMessageRequest, RecallMessageResponse},
    refusal::Refusal,
};

/// Takes a delayed message back, unless it is due.
pub(super) async fn recall_message(
    messaging: &Messaging,
    caller: &Caller,
    request: RecallMessageRequest,
) -> Result<RecallMessageResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let recalled = messaging.broker.recall(&topic, request.recall_handle.trim()).await;
    let message_id = recalled.map_err(|error| match error {
        EngineError::Handle(fault) => Refusal::new(Code::BadRequest, format!("the recall handle {fault}")),
        EngineError::MessageNotFound { .. } => Refusal::new(Code::NotFound, error.to_string()),
        error => error.into(),
    })?;
    Ok(RecallMessageResponse { status: Some(caller.status(Code::Ok, "")), message_id })
}
