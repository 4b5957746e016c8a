//! A commit log, and the columnar consume queues derived from it. Layout: `docs/format.md`.
//!
//! Storage never sees a selector, a wire format or an async runtime.

mod catalogue;
mod clock;
mod compress;
mod done;
mod env;
mod error;
mod format;
mod journal;
pub mod limits;
mod lock;
mod log;
mod message;
#[cfg(test)]
mod model;
mod offset;
mod queue;
mod raw;
mod recovery;
mod sim;
mod storage;
mod unpack;
mod verify;

pub use catalogue::{DurabilityClass, GroupEntry, NewGroup, NewTopic, TopicEntry};
pub use clock::{Clock, MachineClock, VirtualClock};
pub use compress::Compression;
pub use env::{DiskEnv, Env, EnvFile, Hold, Locking, Open, Space};
pub use error::{Fault, StorageError};
pub use format::record::{RecordKind, RecordView, ValueRef};
pub use journal::{JournalDone, JournalEntry, LeaseRow, OpenRow, SelectorKind, Wait};
pub use lock::FORMAT_VERSION;
pub use log::appender::{Admitted, Append, AppendDone, Appended};
pub use message::{
    BodyEncoding, DeadLetterOrigin, Message, MessageType, PendingRow, PendingTarget, StoredMessage,
};
pub use offset::{Epoch, FilePosition, GroupId, LogPosition, QueueId, QueueOffset, TopicId};
#[doc(hidden)]
pub use queue::measure;
pub use queue::{
    block::Block,
    rows::DUE_COLUMN,
    segment::Segment,
    view::{Part, QueueView},
};
pub use recovery::{Cut, Fence};
pub use sim::{SimCall, SimEnv};
pub use storage::{
    Copied, CopyProgress, CopyWatch, DoneRows, Events, FreedSpace, JournalHistory, LogEnds, Past,
    RecoveryReport, SealedSegment, Storage, StorageOptions, Turn,
};
pub use verify::{
    AffectedRows, BlockInfo, ColumnInfo, DirectoryInfo, Finding, FrameInfo, InspectFilter, Inspection,
    Progress, QueueFileInfo, Remedy, RepairLock, RepairStep, SegmentInfo, StatisticsInfo, Verified,
    plan_repair, verify,
};
