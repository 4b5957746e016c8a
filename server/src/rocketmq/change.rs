//! ChangeInvisibleDuration: a lease ends earlier or later.

use std::time::Duration;

use weir_engine::limits::LEASE_MAX;

use super::{
    Messaging,
    ack::handle_refusal,
    caller::Caller,
    convert::{group_name, positive, topic_name},
    proto::{ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, ClientType, Code},
    refusal::Refusal,
};

/// Below this a push consumer that takes seconds for milliseconds is not believed.
const BELIEVED_MIN: Duration = Duration::from_secs(1);

/// Gives the lease its new end and answers with its new handle.
pub(super) async fn change_invisible_duration(
    messaging: &Messaging,
    caller: &Caller,
    request: ChangeInvisibleDurationRequest,
) -> Result<ChangeInvisibleDurationResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let mut after = requested(&request)?;
    if after < BELIEVED_MIN && is_misled(messaging, caller) {
        let delay = messaging.broker.retry_delay(&group, &topic, &request.receipt_handle);
        after = delay.map_err(handle_refusal)?;
    }
    // Its client takes a break with the whole lite topic, and the message has not failed.
    let suspends =
        request.suspend() && messaging.broker.group_spec(&group).is_some_and(|spec| spec.lite.is_some());
    let changed = match suspends {
        true => messaging.broker.suspend(&group, &topic, &request.receipt_handle, after).await,
        false => messaging.broker.change_invisible(&group, &topic, &request.receipt_handle, after).await,
    };
    Ok(ChangeInvisibleDurationResponse {
        status: Some(caller.status(Code::Ok, "")),
        receipt_handle: changed.map_err(handle_refusal)?,
    })
}

fn requested(request: &ChangeInvisibleDurationRequest) -> Result<Duration, Refusal> {
    let wire = request.invisible_duration.unwrap_or_default();
    let fits = positive(&wire).filter(|after| *after <= LEASE_MAX);
    fits.ok_or_else(|| {
        Refusal::new(Code::IllegalInvisibleTime, "the invisible duration is not within 0 to 12 hours")
    })
}

/// Returns whether the client may ask for a thousandth of the delay that its retry policy means. A listener that
/// fails would use all attempts up within milliseconds.
fn is_misled(messaging: &Messaging, caller: &Caller) -> bool {
    caller.takes_seconds_for_milliseconds()
        && matches!(
            messaging.sessions.client_type(&caller.client),
            ClientType::PushConsumer | ClientType::LitePushConsumer
        )
}
