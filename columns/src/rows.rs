//! The trait by which rows are read, whatever they are stored as.

use std::fmt;

use crate::{column::Column, value::Value};

/// A system value of a message, which selectors name `sys.…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// When the broker stored the message; milliseconds since 1970, UTC.
    StoreTime,
    /// When the producer made the message; milliseconds since 1970, UTC.
    BornTime,
    /// The tag.
    Tag,
    /// The keys, joined by single spaces. Stored as hashes.
    Keys,
    /// The id that the producer gave. Stored as a hash.
    MessageId,
    /// The queue that holds the row.
    QueueId,
    /// The offset of the row in its queue.
    QueueOffset,
    /// The message type: `NORMAL`, `FIFO`, `DELAY`, `TRANSACTION`, `LITE`, `PRIORITY`.
    MessageType,
    /// The message group; of a message of type `LITE`, its lite topic.
    MessageGroup,
    /// Length of the body as stored, in bytes.
    BodySize,
}

impl System {
    /// All system values.
    pub const ALL: [Self; 10] = [
        Self::StoreTime,
        Self::BornTime,
        Self::Tag,
        Self::Keys,
        Self::MessageId,
        Self::QueueId,
        Self::QueueOffset,
        Self::MessageType,
        Self::MessageGroup,
        Self::BodySize,
    ];

    /// Returns the name without its `sys.`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoreTime => "store_time",
            Self::BornTime => "born_time",
            Self::Tag => "tag",
            Self::Keys => "keys",
            Self::MessageId => "message_id",
            Self::QueueId => "queue_id",
            Self::QueueOffset => "queue_offset",
            Self::MessageType => "message_type",
            Self::MessageGroup => "message_group",
            Self::BodySize => "body_size",
        }
    }

    /// Returns the system value with this name (without `sys.`), if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    /// Returns whether the value is a 64-bit integer; the others are strings.
    pub const fn is_int(self) -> bool {
        matches!(self, Self::StoreTime | Self::BornTime | Self::QueueId | Self::QueueOffset | Self::BodySize)
    }
}

/// What a column holds: a property that a producer set, or a value that the broker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ColumnRef<'a> {
    /// A property by its exact name.
    Property(&'a str),
    /// A system value.
    System(System),
}

impl fmt::Display for ColumnRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(name) => f.write_str(name),
            Self::System(system) => write!(f, "sys.{}", system.name()),
        }
    }
}

/// What is known of something that may not be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence<T> {
    /// It is certain that no row has it.
    Absent,
    /// It is here.
    Kept(T),
    /// Rows may have it; nothing more is known.
    Unknown,
}

/// Rows of one queue: a block, a live run, or decoded messages.
pub trait Rows: Send + Sync {
    /// Why a column cannot be read.
    type Error;

    /// Returns how many rows there are; at most 65,536.
    fn len(&self) -> usize;

    /// Returns whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a number that is equal for rows with the same columns of the same shapes.
    ///
    /// Whoever binds an expression to columns may keep it by this number.
    fn shape(&self) -> u64;

    /// Returns a column, or `None` if no row has the value. Reads and checks it at the first call.
    ///
    /// # Errors
    ///
    /// If the stored column cannot be read or is damaged.
    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, Self::Error>;

    /// Returns one value of one row, reading the message where the column does not hold it.
    ///
    /// # Errors
    ///
    /// If the column or the message cannot be read or is damaged.
    fn value(&self, name: ColumnRef<'_>, row: usize) -> Result<Option<Value>, Self::Error>;

    /// Says that columns are read next, so that those which lie on a disk can be read at once.
    fn will_read(&self, columns: &mut dyn Iterator<Item = ColumnRef<'_>>) {
        let _ = columns;
    }

    /// Gives the bodies of some rows, in ascending order, to `visit` with their rows: unpacked if their
    /// producers packed them, and `None` where there is none, it cannot be unpacked, or is longer than
    /// `bytes_max`. Lost rows are left out. Rows that are nothing but columns have no bodies.
    ///
    /// # Errors
    ///
    /// If a message cannot be read or is damaged.
    fn bodies(
        &self,
        rows: &mut dyn Iterator<Item = usize>,
        bytes_max: usize,
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Self::Error> {
        let _ = bytes_max;
        rows.for_each(|row| visit(row, None));
        Ok(())
    }
}
