//! A commit log, and the columnar consume queues derived from it. Layout: `docs/format.md`.
//!
//! Storage never sees a selector, a wire format or an async runtime.

mod clock;
mod message;
mod offset;

pub use clock::{Clock, MachineClock, VirtualClock};
pub use message::{BodyEncoding, DeadLetterOrigin, Message, MessageType, StoredMessage};
pub use offset::{Epoch, FilePosition, GroupId, LogPosition, QueueId, QueueOffset, TopicId};
