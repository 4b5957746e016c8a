//! Every error of ours becomes a status of each protocol here, in one `match` per protocol.

use tonic::Status;
use weir_engine::{EngineError, LimitKind};

use crate::rocketmq::proto::Code;

/// Returns the code by which RocketMQ clients know `error`, or `None` if the broker is stopping: that is told
/// by failing the call itself.
pub(crate) fn to_rocketmq(error: &EngineError) -> Option<Code> {
    Some(match error {
        EngineError::Name(error) => match error.what {
            "group" => Code::IllegalConsumerGroup,
            _ => Code::IllegalTopic,
        },
        EngineError::TopicNotFound { .. } => Code::TopicNotFound,
        EngineError::GroupNotFound { .. } => Code::ConsumerGroupNotFound,
        EngineError::QueueNotFound { .. } => Code::Forbidden,
        EngineError::Selector(_) => Code::IllegalFilterExpression,
        EngineError::Limit { kind: LimitKind::Body, .. } => Code::MessageBodyTooLarge,
        EngineError::Limit { kind: LimitKind::Properties, .. } => Code::MessagePropertiesTooLarge,
        EngineError::Limit { kind: LimitKind::Batch, .. } => Code::PayloadTooLarge,
        EngineError::Limit { kind: LimitKind::Other, .. } => Code::BadRequest,
        EngineError::Exists { .. } | EngineError::Invalid(_) => Code::BadRequest,
        EngineError::Unsupported(_) => Code::Unsupported,
        EngineError::Handle(_) => Code::InvalidReceiptHandle,
        EngineError::OffsetOutOfRange { .. } | EngineError::Truncated { .. } => Code::IllegalOffset,
        EngineError::Busy(_) | EngineError::DiskFull => Code::TooManyRequests,
        EngineError::Closed => return None,
        EngineError::Ticket(_) | EngineError::Sql(_) | EngineError::Storage(_) => Code::InternalServerError,
        _ => Code::InternalServerError,
    })
}

/// Returns the status by which Flight clients know `error`.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
pub(crate) fn to_flight(error: EngineError) -> Status {
    let code = match &error {
        EngineError::Name(_)
        | EngineError::Selector(_)
        | EngineError::Limit { .. }
        | EngineError::Invalid(_)
        | EngineError::Handle(_)
        | EngineError::Ticket(_)
        | EngineError::Sql(_) => tonic::Code::InvalidArgument,
        EngineError::TopicNotFound { .. }
        | EngineError::GroupNotFound { .. }
        | EngineError::QueueNotFound { .. } => tonic::Code::NotFound,
        EngineError::Exists { .. } => tonic::Code::AlreadyExists,
        EngineError::Unsupported(_) => tonic::Code::Unimplemented,
        EngineError::OffsetOutOfRange { .. } | EngineError::Truncated { .. } => tonic::Code::OutOfRange,
        EngineError::Busy(_) | EngineError::DiskFull => tonic::Code::ResourceExhausted,
        EngineError::Closed => tonic::Code::Unavailable,
        EngineError::Storage(_) => tonic::Code::Internal,
        _ => tonic::Code::Internal,
    };
    Status::new(code, error.to_string())
}
