//! PullMessage: messages of one queue from an offset on, for clients that keep their place by themselves.
//!
//! The response is a status, then the messages, then the offset to go on from. Nothing is leased.

use tonic::Status;
use weir_engine::{
    EngineError, HeldAnswer, MessagePull, PulledMessages, QueueId, QueueOffset, StoredMessage, TopicName,
};

use super::{
    Messaging,
    caller::Caller,
    convert::{self, Filter, group_name, topic_name},
    proto::{
        self, Code, MessageQueue, PullMessageRequest, PullMessageResponse, pull_message_response::Content,
    },
    receive::{batch_size, poll_time},
    refusal::Refusal,
    session::Poll,
    streamed::{Parts, Streamed, streamed},
};

/// Returns the response as a stream, in which the wait for messages happens.
pub(super) fn pull_message(
    messaging: &Messaging,
    caller: Caller,
    request: PullMessageRequest,
) -> Streamed<PullMessageResponse> {
    let messaging = messaging.clone();
    // Before the wait, which may be long: a request is decoded to much more than what is needed of it.
    let asked = asked(&messaging, &caller, &request);
    drop(request);
    streamed(async move {
        let outcome = match asked {
            Ok(asked) => pull(&messaging, asked).await,
            Err(refusal) => Err(refusal.into()),
        };
        Response::of(&messaging, caller, outcome)
    })
}

/// Why nothing was pulled, and where to go on, if that is known.
struct Failed {
    refusal: Refusal,
    next: Option<QueueOffset>,
}

impl<E: Into<Refusal>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { refusal: error.into(), next: None }
    }
}

struct Pulled {
    topic: TopicName,
    came: PulledMessages,
    poll: Poll,
}

/// What a client asks for.
struct Asked {
    /// From the first offset, whatever the client says.
    pull: MessagePull,
    offset: i64,
    poll: Poll,
}

fn asked(messaging: &Messaging, caller: &Caller, request: &PullMessageRequest) -> Result<Asked, Refusal> {
    caller.check()?;
    let topic = topic_name(request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref()), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let queue = queue_id(request.message_queue.as_ref())?;
    let selector = messaging.selector(Filter::of(request.filter_expression.as_ref()), &topic, &group)?;
    let max_messages = batch_size(request.batch_size)?;
    let request_timeout = messaging.sessions.request_timeout(&caller.client);
    let wait = poll_time(request.long_polling_timeout.as_ref(), caller.remaining(), request_timeout)?;
    messaging.broker.topic(&topic)?;
    messaging.broker.check_group(&group)?;
    let poll = messaging.sessions.enter(caller)?.poll()?;
    let pull = MessagePull { topic, queue, from: QueueOffset(0), selector, max_messages, wait };
    Ok(Asked { pull, offset: request.offset, poll })
}

async fn pull(messaging: &Messaging, Asked { mut pull, offset, poll }: Asked) -> Result<Pulled, Failed> {
    let topic = pull.topic.clone();
    pull.from = match u64::try_from(offset) {
        Ok(offset) => QueueOffset(offset),
        Err(_) => return Err(negative(messaging, &topic, pull.queue, offset).await),
    };
    match messaging.broker.pull_messages_for(pull, poll.share()).await {
        Ok(came) => Ok(Pulled { topic, came, poll }),
        Err(error) => {
            let next = match &error {
                EngineError::OffsetOutOfRange { asked, available, .. } => {
                    Some((*asked).clamp(available.start, available.end))
                }
                _ => None,
            };
            Err(Failed { refusal: error.into(), next })
        }
    }
}

/// Returns how a pull fails that asks for an offset before all others.
async fn negative(messaging: &Messaging, topic: &TopicName, queue: QueueId, offset: i64) -> Failed {
    match messaging.broker.offset_at(topic, queue, weir_engine::OffsetAt::Earliest).await {
        Ok(first) => Failed { refusal: negative_offset(offset), next: Some(first) },
        Err(error) => error.into(),
    }
}

/// Returns the refusal of an offset below 0.
pub(super) fn negative_offset(offset: i64) -> Refusal {
    Refusal::new(Code::IllegalOffset, format!("the offset is {offset}; the first of a queue is 0"))
}

/// Returns the one queue that a request is about.
pub(super) fn queue_id(queue: Option<&MessageQueue>) -> Result<QueueId, Refusal> {
    let id = queue.map_or(0, |queue| queue.id);
    let wrong =
        |_| Refusal::new(Code::BadRequest, format!("the queue is {id}; it must be one queue of the topic"));
    u32::try_from(id).map(QueueId).map_err(wrong)
}

/// Returns an offset as the wire has it.
pub(super) fn wire_offset(offset: QueueOffset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

/// The parts of a response that are still to be sent.
struct Response {
    status: Option<Result<proto::Status, Status>>,
    messages: std::vec::IntoIter<StoredMessage>,
    next: Option<QueueOffset>,
    topic: Option<TopicName>,
    caller: Caller,
    store_host: String,
    /// The pull counts as waiting until its answer is taken, which is memory until then.
    _poll: Option<Poll>,
    _held: Option<HeldAnswer>,
}

impl Response {
    fn of(messaging: &Messaging, caller: Caller, outcome: Result<Pulled, Failed>) -> Self {
        let (status, messages, next, topic, waiting) = match outcome {
            Ok(Pulled { topic, came: PulledMessages { messages, next, held }, poll }) => {
                let status = match messages.is_empty() {
                    true => caller.status(Code::MessageNotFound, "no new message"),
                    false => caller.status(Code::Ok, ""),
                };
                (Ok(status), messages, Some(next), Some(topic), Some((poll, held)))
            }
            Err(Failed { refusal: Refusal::Stopping, .. }) => {
                (Err(Refusal::unavailable()), Vec::new(), None, None, None)
            }
            Err(Failed { refusal, next }) => (Ok(refusal.status(&caller)), Vec::new(), next, None, None),
        };
        let (poll, held) = waiting.unzip();
        Self {
            status: Some(status),
            messages: messages.into_iter(),
            next,
            topic,
            store_host: messaging.context.advertised.to_string(),
            caller,
            _poll: poll,
            _held: held,
        }
    }
}

impl Iterator for Response {
    type Item = Result<PullMessageResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let content = if let Some(status) = self.status.take() {
            match status {
                Ok(status) => Content::Status(status),
                Err(status) => return Some(Err(status)),
            }
        } else if let (Some(message), Some(topic)) = (self.messages.next(), &self.topic) {
            Content::Message(convert::stored(message, topic, &self.store_host, Some(&self.caller)))
        } else {
            Content::NextOffset(wire_offset(self.next.take()?))
        };
        Some(Ok(PullMessageResponse { content: Some(content) }))
    }
}

impl Parts for Response {
    fn hold_messages(&self) -> bool {
        self.messages.len() > 0
    }
}
