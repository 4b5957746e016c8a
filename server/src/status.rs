//! Every error of ours becomes a status of each protocol here, in one `match` per protocol.

use std::process::ExitCode;

use tonic::{Code as GrpcCode, Status};
use weir_engine::{EngineError, LimitKind};
use weir_storage::StorageError;

use crate::rocketmq::proto::Code;

/// How the process ends. The numbers are part of the command line's promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// The command line or a configuration file makes no sense.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The broker, or a check, refused.
    Refused = 4,
    /// No broker answers.
    Unreachable = 5,
    /// The disk failed. The number is that of `EX_IOERR`.
    Disk = 74,
}

impl Exit {
    /// Returns the word that `--json` uses for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Disk => "disk",
        }
    }

    /// Returns how a command ends whose call was answered with this gRPC code.
    pub const fn of_grpc(code: GrpcCode) -> Self {
        match code {
            GrpcCode::NotFound => Self::NotFound,
            GrpcCode::InvalidArgument
            | GrpcCode::AlreadyExists
            | GrpcCode::PermissionDenied
            | GrpcCode::Unauthenticated
            | GrpcCode::ResourceExhausted
            | GrpcCode::FailedPrecondition
            | GrpcCode::OutOfRange
            | GrpcCode::Unimplemented => Self::Refused,
            GrpcCode::Unavailable | GrpcCode::DeadlineExceeded => Self::Unreachable,
            GrpcCode::Ok
            | GrpcCode::Cancelled
            | GrpcCode::Unknown
            | GrpcCode::Aborted
            | GrpcCode::Internal
            | GrpcCode::DataLoss => Self::Failed,
        }
    }

    /// Returns how a command ends whose call was answered with this code in a RocketMQ status.
    pub const fn of_rocketmq(code: i32) -> Self {
        match code / 100 {
            404 => Self::NotFound,
            400..=499 => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// Returns how a process ends that opens a broker or asks it without a network.
    pub fn of_engine(error: &EngineError) -> Self {
        match error {
            EngineError::TopicNotFound { .. }
            | EngineError::GroupNotFound { .. }
            | EngineError::MessageNotFound { .. }
            | EngineError::NothingToTrace { .. }
            | EngineError::TableNotFound(_) => Self::NotFound,
            EngineError::Storage(StorageError::Io { .. } | StorageError::Corrupt { .. })
            | EngineError::Copy(StorageError::Io { .. } | StorageError::NoSpace { .. })
            | EngineError::DiskFull => Self::Disk,
            EngineError::Storage(_) | EngineError::Closed => Self::Failed,
            _ => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

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
        EngineError::Limit { kind: LimitKind::LiteSubscriptions, .. } => Code::LiteSubscriptionQuotaExceeded,
        EngineError::Limit { kind: LimitKind::Other, .. } => Code::BadRequest,
        EngineError::Exists { .. } | EngineError::Invalid(_) => Code::BadRequest,
        EngineError::MessageType { .. } => Code::MessagePropertyConflictWithType,
        EngineError::LiteTopicName(_) => Code::IllegalLiteTopic,
        EngineError::LiteGroup { .. } => Code::IllegalConsumerGroup,
        EngineError::LiteParent { .. } => Code::IllegalTopic,
        EngineError::Unsupported(_) => Code::Unsupported,
        EngineError::InvisibleTime { .. } => Code::IllegalInvisibleTime,
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
        | EngineError::MessageType { .. }
        | EngineError::LiteTopicName(_)
        | EngineError::LiteGroup { .. }
        | EngineError::LiteParent { .. }
        | EngineError::Handle(_)
        | EngineError::Ticket(_)
        | EngineError::Sql(_) => tonic::Code::InvalidArgument,
        EngineError::TopicNotFound { .. }
        | EngineError::GroupNotFound { .. }
        | EngineError::QueueNotFound { .. }
        | EngineError::MessageNotFound { .. }
        | EngineError::NothingToTrace { .. }
        | EngineError::TableNotFound(_) => tonic::Code::NotFound,
        EngineError::Exists { .. } => tonic::Code::AlreadyExists,
        EngineError::Unsupported(_) => tonic::Code::Unimplemented,
        EngineError::OffsetOutOfRange { .. } | EngineError::Truncated { .. } => tonic::Code::OutOfRange,
        EngineError::Busy(_) | EngineError::DiskFull => tonic::Code::ResourceExhausted,
        EngineError::Closed => tonic::Code::Unavailable,
        EngineError::Copy(error) => match error {
            StorageError::CopyExists { .. } => tonic::Code::AlreadyExists,
            StorageError::CopyInside { .. } => tonic::Code::InvalidArgument,
            StorageError::CopyUnderWay { .. }
            | StorageError::CopyTooLarge { .. }
            | StorageError::CopyLowSpace { .. }
            | StorageError::NoSpace { .. } => tonic::Code::ResourceExhausted,
            StorageError::CopyCancelled { .. } => tonic::Code::Cancelled,
            _ => tonic::Code::Internal,
        },
        EngineError::Storage(_) => tonic::Code::Internal,
        _ => tonic::Code::Internal,
    };
    Status::new(code, error.to_string())
}
