//! ReceiveMessage: messages that match, leased to the client.
//!
//! The response is a status, then the messages, then the time of delivery. What a client has not taken when its
//! stream ends early goes back to the group after a second.

use std::time::Duration;

use tonic::Status;
use weir_engine::{
    Broker, Delivered, EngineError, GroupName, GroupSpec, LeaseTime, ReceiveRequest, TopicName,
    limits::{LEASE_MAX, LEASE_MIN, POLL_MAX, RECEIVE_MESSAGES_MAX},
};

use super::{
    Messaging,
    caller::Caller,
    convert::{self, Filter, group_name, positive, topic_name},
    lite,
    proto::{self, Code, ReceiveMessageRequest, ReceiveMessageResponse, receive_message_response::Content},
    refusal::Refusal,
    session::Poll,
    streamed::{Parts, Streamed, streamed},
};

/// The response must be there this long before the client gives up.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);

/// The timeout of a call of a client that has not said its own.
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// When messages that the client did not take may be received again.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(1);

/// Returns the response as a stream, in which the wait for messages happens.
pub(super) fn receive_message(
    messaging: &Messaging,
    caller: Caller,
    request: ReceiveMessageRequest,
) -> Streamed<ReceiveMessageResponse> {
    let messaging = messaging.clone();
    // Before the wait, which may be long: a request is decoded to much more than what is needed of it.
    let asked = asked(&messaging, &caller, request);
    streamed(async move {
        let outcome = match asked {
            Ok((asked, poll)) => receive(&messaging, asked, poll).await,
            Err(refusal) => Err(refusal),
        };
        Response::of(&messaging, caller, outcome)
    })
}

async fn receive(messaging: &Messaging, asked: ReceiveRequest, poll: Poll) -> Result<Leased, Refusal> {
    let topic = asked.topic.clone();
    let delivered = messaging.broker.receive_for(asked, poll.share()).await?;
    Ok(Leased::new(messaging.broker.clone(), topic, delivered, poll))
}

/// Returns what a client asks for, and that it waits.
fn asked(
    messaging: &Messaging,
    caller: &Caller,
    request: ReceiveMessageRequest,
) -> Result<(ReceiveRequest, Poll), Refusal> {
    caller.check()?;
    let queue = request.message_queue.as_ref();
    let topic = topic_name(queue.and_then(|queue| queue.topic.as_ref()), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let spec = messaging.broker.group_spec(&group);
    let lease = lease_time(spec.as_ref(), &request)?;
    let selector = messaging.selector(Filter::of(request.filter_expression.as_ref()), &topic, &group)?;
    let max_messages = match batch_size(request.batch_size)? {
        _ if must_come_alone(caller, spec.as_ref(), &request) => 1,
        asked => asked,
    };
    let request_timeout = messaging.sessions.request_timeout(&caller.client);
    let wait = poll_time(request.long_polling_timeout.as_ref(), caller.remaining(), request_timeout)?;
    let spec = spec.unwrap_or_default();
    lite::check_kind(&group, &spec, messaging.sessions.client_type(&caller.client))?;
    lite::check_parent(&group, &spec, &topic)?;
    messaging.broker.topic(&topic)?;
    let poll = messaging.sessions.enter(caller)?.poll()?;
    messaging.broker.client_alive(&caller.client);
    let asked = ReceiveRequest {
        group,
        topic,
        // Whatever queue the client names: some only ever ask for the first, and the group shares them all.
        queue: None,
        selector,
        max_messages,
        lease,
        wait,
        client: caller.client.clone(),
        attempt_id: request.attempt_id,
        one_by_one: caller.goes_on_after_failures(),
    };
    Ok((asked, poll))
}

/// Returns whether a push consumer would never give a message of this group back that came with others. Only push
/// consumers ask for renewed leases.
fn must_come_alone(caller: &Caller, spec: Option<&GroupSpec>, request: &ReceiveMessageRequest) -> bool {
    request.auto_renew && caller.gives_back_only_single_fifo_messages() && spec.is_some_and(|spec| spec.fifo)
}

fn lease_time(spec: Option<&GroupSpec>, request: &ReceiveMessageRequest) -> Result<LeaseTime, Refusal> {
    if request.auto_renew {
        return Ok(LeaseTime::Renewed);
    }
    let min = spec.map_or(LEASE_MIN, |spec| spec.lease_min);
    let asked = request.invisible_duration.as_ref().and_then(positive);
    match asked.filter(|lease| (min..=LEASE_MAX).contains(lease)) {
        Some(lease) => Ok(LeaseTime::Fixed(lease)),
        None => {
            let text = format!("the invisible duration is not within {min:?} to {LEASE_MAX:?}");
            Err(Refusal::new(Code::IllegalInvisibleTime, text))
        }
    }
}

/// Returns how many messages are wanted at most.
pub(super) fn batch_size(asked: i32) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(asked @ 1..) => Ok(asked.min(RECEIVE_MESSAGES_MAX)),
        _ => Err(Refusal::new(Code::BadRequest, format!("the batch size is {asked}; it must be 1 or more"))),
    }
}

/// Returns how long to wait for the first message: as long as asked, but never so long that the client gives up
/// before it has the answer. Without a wish, what the client's own timeout leaves.
pub(super) fn poll_time(
    wish: Option<&prost_types::Duration>,
    remaining: Option<Duration>,
    request_timeout: Option<Duration>,
) -> Result<Duration, Refusal> {
    let refused = |text| Refusal::new(Code::IllegalPollingTime, text);
    let wished = match (wish, remaining) {
        (Some(wish), _) => positive(wish).ok_or_else(|| refused("the polling time is negative"))?,
        (None, Some(remaining)) => {
            remaining.saturating_sub(request_timeout.unwrap_or(REQUEST_TIMEOUT_DEFAULT) / 2)
        }
        (None, None) => POLL_MAX,
    };
    let Some(remaining) = remaining else { return Ok(wished.min(POLL_MAX)) };
    let usable = remaining.checked_sub(DEADLINE_MARGIN).filter(|usable| !usable.is_zero());
    let usable =
        usable.ok_or_else(|| refused("the deadline of the call is too near to wait for messages"))?;
    Ok(wished.min(POLL_MAX).min(usable))
}

/// Messages that are leased, on their way to the client.
struct Leased {
    broker: Broker,
    topic: TopicName,
    messages: std::vec::IntoIter<Delivered>,
    /// The handles of all of them, until the client has them.
    handles: Vec<String>,
    /// The receive counts as waiting until its answer is taken, which is memory until then.
    _poll: Poll,
}

impl Leased {
    fn new(broker: Broker, topic: TopicName, messages: Vec<Delivered>, poll: Poll) -> Self {
        let handles = messages.iter().map(|delivered| delivered.handle.clone()).collect();
        Self { broker, topic, messages: messages.into_iter(), handles, _poll: poll }
    }

    /// Notes that the response was handed over to its end.
    fn handed_over(&mut self) {
        self.handles.clear();
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let handles = std::mem::take(&mut self.handles);
        // Without a runtime the process is ending, and the leases end by themselves.
        let (false, Ok(runtime)) = (handles.is_empty(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let broker = self.broker.clone();
        runtime.spawn(async move { broker.give_back(&handles, GIVEN_BACK_AFTER).await });
    }
}

/// The parts of a response that are still to be sent.
struct Response {
    broker: Broker,
    status: Option<Result<proto::Status, Status>>,
    leased: Option<Leased>,
    caller: Caller,
    store_host: String,
    ended: bool,
}

impl Response {
    fn of(messaging: &Messaging, caller: Caller, outcome: Result<Leased, Refusal>) -> Self {
        let (status, leased) = match outcome {
            Ok(leased) if leased.handles.is_empty() => {
                (Ok(caller.status(Code::MessageNotFound, "no new message")), None)
            }
            Ok(leased) => (Ok(caller.status(Code::Ok, "")), Some(leased)),
            Err(Refusal::Stopping) => (Err(Refusal::unavailable()), None),
            Err(refusal) => (Ok(refusal.status(&caller)), None),
        };
        Self {
            broker: messaging.broker.clone(),
            ended: status.is_err(),
            status: Some(status),
            leased,
            caller,
            store_host: messaging.context.advertised.to_string(),
        }
    }
}

impl Iterator for Response {
    type Item = Result<ReceiveMessageResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(status) = self.status.take() {
            return Some(status.map(|status| response(Content::Status(status))));
        }
        if let Some(leased) = &mut self.leased
            && let Some(message) = leased.messages.next()
        {
            let message = convert::delivered(message, &leased.topic, &self.store_host, &self.caller);
            return Some(Ok(response(Content::Message(message))));
        }
        if !self.ended {
            self.ended = true;
            let now = convert::timestamp(self.broker.clock().wall_ms());
            return Some(Ok(response(Content::DeliveryTimestamp(now))));
        }
        if let Some(leased) = &mut self.leased {
            leased.handed_over();
        }
        None
    }
}

impl Parts for Response {
    fn hold_messages(&self) -> bool {
        self.leased.is_some()
    }
}

fn response(content: Content) -> ReceiveMessageResponse {
    ReceiveMessageResponse { content: Some(content) }
}

impl Messaging {
    /// Returns the selector that a filter of a group on a topic means.
    pub(super) fn selector(
        &self,
        filter: Filter<'_>,
        topic: &TopicName,
        group: &GroupName,
    ) -> Result<weir_filter::Selector, Refusal> {
        Ok(match filter {
            Filter::Sql(text) => {
                self.broker.parse_selector_in(text, self.broker.selector_dialect(topic, Some(group)))?
            }
            Filter::Tags(text) => {
                let limits = weir_filter::Limits::default();
                weir_filter::Selector::parse_tags(text, &limits).map_err(EngineError::Selector)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_as_long_as_asked_and_end_before_the_client_gives_up() {
        let ms = Duration::from_millis;
        for (what, wish_ms, remaining_ms, timeout_ms, expected_ms) in [
            ("nothing said", None, None, None, Some(20_000)),
            ("no deadline", Some(5000), None, None, Some(5000)),
            ("Rust asks for 40 s within 40 s", Some(40_000), Some(40_000), None, Some(20_000)),
            ("Python", Some(20_000), Some(23_000), Some(3000), Some(20_000)),
            ("Go names no time", None, Some(3000), Some(3000), Some(1500)),
            ("Go has not sent its settings", None, Some(3000), None, Some(1500)),
            ("an endless timeout of calls", None, Some(3000), Some(u64::MAX), Some(0)),
            ("a short wait", Some(0), Some(3000), None, Some(0)),
            ("the deadline comes first", Some(5000), Some(1000), None, Some(700)),
            ("the deadline is too near", Some(5000), Some(300), None, None),
            ("the deadline is over", None, Some(0), None, None),
        ] {
            let wish = wish_ms.map(|wish| convert::duration(ms(wish)));
            let poll = poll_time(wish.as_ref(), remaining_ms.map(ms), timeout_ms.map(ms));
            assert_eq!(poll.ok(), expected_ms.map(ms), "{what}");
        }
        let negative = prost_types::Duration { seconds: 0, nanos: -1 };
        assert!(poll_time(Some(&negative), None, None).is_err());
    }
}
