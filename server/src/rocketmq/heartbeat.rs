//! Heartbeat: a client is alive.

use super::{
    Messaging,
    caller::Caller,
    convert::group_name,
    proto::{ClientType, Code, HeartbeatRequest, HeartbeatResponse},
    refusal::Refusal,
};

/// Keeps the client alive. One that is unknown is accepted: after a restart of the broker some clients send
/// no settings for a long time.
pub(super) fn heartbeat(
    messaging: &Messaging,
    caller: &Caller,
    request: &HeartbeatRequest,
) -> Result<HeartbeatResponse, Refusal> {
    caller.check()?;
    let claimed = ClientType::try_from(request.client_type).unwrap_or_default();
    let session = messaging.sessions.enter(caller)?;
    if session.meet(claimed) == ClientType::Unspecified {
        let text = "the heartbeat names no known client type, and no settings were sent";
        return Err(Refusal::new(Code::UnrecognizedClientType, text));
    }
    if let Some(group) = request.group.as_ref().filter(|group| !group.name.is_empty()) {
        group_name(Some(group), caller)?;
    }
    messaging.broker.client_alive(&caller.client);
    Ok(HeartbeatResponse { status: Some(caller.status(Code::Ok, "")) })
}
