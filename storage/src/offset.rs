//! The numbers by which storage names things: offsets, positions, epochs, ids.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The position of a message in its queue, counted in messages from 0.
    ///
    /// Not a byte position: that is [`LogPosition`] or [`FilePosition`].
    QueueOffset(u64)
}
number! {
    /// A logical byte position in the commit log. Which file holds it is the segment's affair.
    LogPosition(u64)
}
number! {
    /// A byte position in one file.
    FilePosition(u64)
}
number! {
    /// Counts the starts that followed an unclean stop. No offset names two messages within one epoch.
    Epoch(u32)
}
number! {
    /// Names a topic in files. Never given twice, so that a topic made anew has another id.
    TopicId(u32)
}
number! {
    /// Names a consumer group in files. Never given twice.
    GroupId(u32)
}
number! {
    /// A queue of a topic, counted from 0.
    QueueId(u32)
}

impl QueueOffset {
    /// Returns how many messages lie from `earlier` up to this one, or `None` if it comes first.
    pub const fn since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// Returns the offset `count` messages further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}
