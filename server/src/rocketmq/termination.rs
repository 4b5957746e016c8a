//! NotifyClientTermination: a client says good-bye.

use super::{
    Messaging,
    caller::Caller,
    proto::{Code, NotifyClientTerminationResponse},
    refusal::Refusal,
};

/// Forgets the client, ends its telemetry streams and lets the leases go that are renewed for it. A client that
/// is not known is answered alike, so that a call sent twice does no harm.
pub(super) fn notify_client_termination(
    messaging: &Messaging,
    caller: &Caller,
) -> Result<NotifyClientTerminationResponse, Refusal> {
    caller.check()?;
    messaging.sessions.leave(&caller.client);
    messaging.broker.client_gone(&caller.client);
    Ok(NotifyClientTerminationResponse { status: Some(caller.status(Code::Ok, "")) })
}
