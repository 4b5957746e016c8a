//! Why a call is not done, before it becomes a status on the wire.

use weir_engine::{EngineError, NameError, TopicName};

use super::{
    caller::Caller,
    proto::{self, Code},
};
use crate::status;

/// Why a call is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The answer carries this code; the call itself goes well.
    Status { code: Code, message: String },
    /// The broker is stopping: the call itself fails, so that clients try elsewhere.
    Stopping,
}

/// An answer that can carry a status alone.
pub(super) trait Answer: Sized {
    /// Returns the answer that says only `status`.
    fn with_status(status: proto::Status) -> Self;
}

impl Refusal {
    /// Returns the refusal with `code` and what is wrong.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::Status { code, message: message.into() }
    }

    /// Returns how a call fails while the broker is stopping.
    pub(super) fn unavailable() -> tonic::Status {
        tonic::Status::unavailable("the broker is stopping")
    }

    /// Returns the refusal with the topic that it is about.
    pub(super) fn about(self, topic: &TopicName) -> Self {
        match self {
            Self::Status { code, message } => Self::new(code, format!("topic {topic}: {message}")),
            Self::Stopping => self,
        }
    }

    /// Returns the status for `caller`.
    pub(super) fn status(self, caller: &Caller) -> proto::Status {
        match self {
            Self::Status { code, message } => caller.status(code, message),
            Self::Stopping => caller.status(Code::InternalServerError, "the broker is stopping"),
        }
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        match status::to_rocketmq(&error) {
            Some(code) => Self::new(code, error.to_string()),
            None => Self::Stopping,
        }
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        EngineError::from(error).into()
    }
}

/// Turns what a call came to into its answer.
pub(super) fn answer<A: Answer>(
    caller: &Caller,
    outcome: Result<A, Refusal>,
) -> Result<tonic::Response<A>, tonic::Status> {
    match outcome {
        Ok(answer) => Ok(tonic::Response::new(answer)),
        Err(Refusal::Stopping) => Err(Refusal::unavailable()),
        Err(refusal) => Ok(tonic::Response::new(A::with_status(refusal.status(caller)))),
    }
}

macro_rules! answers {
    ($($answer:ident { $($other:ident)? })*) => {$(
        impl Answer for proto::$answer {
            fn with_status(status: proto::Status) -> Self {
                Self { status: Some(status), $($other: Default::default())? }
            }
        }
    )*};
}

answers! {
    QueryRouteResponse { message_queues }
    HeartbeatResponse {}
    SendMessageResponse { entries }
    QueryAssignmentResponse { assignments }
    AckMessageResponse { entries }
    ForwardMessageToDeadLetterQueueResponse {}
    NotifyClientTerminationResponse {}
    ChangeInvisibleDurationResponse { receipt_handle }
    UpdateOffsetResponse {}
    GetOffsetResponse { offset }
    QueryOffsetResponse { offset }
    EndTransactionResponse {}
    RecallMessageResponse { message_id }
    SyncLiteSubscriptionResponse {}
}
