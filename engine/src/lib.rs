//! Topics, consumer groups, delivery, batch pull and SQL tables: the broker without its wire.
//!
//! Usable in-process: see `examples/`. No protobuf, HTTP or command line in here.

mod account;
mod answers;
mod arrivals;
mod broker;
mod clients;
mod copy;
mod dialect;
mod error;
mod examine;
mod group;
mod handle;
pub mod limits;
mod logged;
mod name;
mod pending;
mod publish;
mod pull;
mod pull_messages;
mod reading;
mod reads;
mod retention;
mod scan;
mod schema;
mod serial;
mod signing;
mod sql;
mod tables;
mod time;
mod timer;
mod topic;
mod topic_type;
mod trace;

pub use account::{Account, AccountError, Accounts, Principal, Unauthenticated};
pub use answers::{AnswerShare, HeldAnswer};
pub use broker::{Broker, BrokerInfo, BrokerOptions};
pub use error::{EngineError, HandleFault, LimitKind};
pub use examine::{
    ExaminedRow, ExplainedPart, JudgedPart, MessageName, SelectorDiff, SelectorExplanation, SelectorTrial,
    SelectorWhy,
};
pub use group::{
    CountProgress, Delivered, GroupChange, GroupDescription, GroupLite, GroupQueue, GroupSelector, GroupSpec,
    GroupStart, GroupTopic, GroupWaiting, LeaseTime, LiteAction, LiteFrom, LiteSpec, LiteSync,
    LiteUnsubscribed, QueueWaiting, ReceiveRequest, ResetTo, RetryPolicy, SelectorQueue, TopicWaiting,
};
pub use name::{GroupName, NameError, TopicName};
pub use pending::{AskProducer, OrphanedTransaction, Readiness, Resolution, Sent};
pub use publish::Published;
pub use pull::{PullBatch, PullColumn, PullFrom, PullPart, PullPlan, PullRequest, PullStream, PullTo};
pub use pull_messages::{MessagePull, OffsetAt, PulledMessages};
pub use schema::{ColumnType, UnknownType};
pub use sql::{SqlPlan, SqlRequest, SqlTicket, TableDescription, TableKind};
pub use topic::{QueueDescription, TopicChange, TopicDeleted, TopicDescription, TopicSpec};
pub use topic_type::TopicType;
pub use trace::{
    DeadLetterTrace, GroupState, GroupTrace, JournalReach, JudgingSelector, MessageTrace, PendingState,
    PendingTrace, SearchReach, TraceEvent, TraceRequest, TracedMessage, TracedName,
};
pub use weir_filter::{Dialect, Limits as SelectorLimits, Parameters, Selector, SelectorError};
pub use weir_storage::{
    BodyEncoding, Clock, Compression, DeadLetterOrigin, DurabilityClass, Epoch, GroupId, LogPosition,
    MachineClock, Message, MessageType, QueueId, QueueOffset, RecoveryReport, StorageOptions, StoredMessage,
    TopicId, VirtualClock,
};
