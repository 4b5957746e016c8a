//! What goes wrong in storage: one enum whose variants tell the caller what to do next.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::offset::{FilePosition, GroupId, LogPosition, QueueId, QueueOffset, TopicId};

/// What went wrong in storage. Each variant tells the caller what to do next.
///
/// It is cheap to clone, because one failure may have to be told to many waiters.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The file system refused. Trying again may help.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive: `read`, `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// The disk is full. Nothing was stored; the same call works once there is room.
    #[error("no space left to {action} {}: free some disk space, then try again", path.display())]
    NoSpace {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
    },

    /// The bytes break the format. Trying again does not help; restoring the file does.
    #[error("{} is damaged at byte {position}: {fault}; restore the file from a copy", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged part begins.
        position: FilePosition,
        /// What is wrong with it.
        fault: Fault,
    },

    /// Another process serves this data directory. Stop it, or use another directory.
    #[error("{} is in use by {holder}: stop that process or choose another data directory", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who holds it, as that process wrote it down.
        holder: String,
    },

    /// The data directory holds what only a newer Weir can read. Use that one.
    #[error(
        "{} was written by {written_by} and holds what only a Weir of format {needed} can read ({why}); this one \
         reads up to format {supported}: use a newer Weir",
        path.display()
    )]
    NeedsNewer {
        /// The data directory.
        path: PathBuf,
        /// What a reader must know at least.
        needed: u32,
        /// The newest format that this program knows.
        supported: u32,
        /// What it is that needs it.
        why: String,
        /// The program that wrote it last.
        written_by: String,
    },

    /// A file of the data directory was written by a newer Weir. Use that one.
    #[error("{} has format {found}, and this program reads up to {supported}: use a newer Weir", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The oldest format that a reader must know.
        found: u32,
        /// The newest format that this program knows.
        supported: u32,
    },

    /// The directory holds something else. Choose an empty one.
    #[error("{} has files but no FORMAT file: it is no Weir data directory; choose an empty one", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },

    /// The copy to be made would take the place of something. Name a directory that does not exist.
    #[error("{} exists already: name a directory that does not", path.display())]
    CopyExists {
        /// Where the copy was to be.
        path: PathBuf,
    },

    /// The copy to be made would lie in what it copies. Name another directory.
    #[error("{} lies in the data directory {}: name a directory outside of it", path.display(), dir.display())]
    CopyInside {
        /// Where the copy was to be.
        path: PathBuf,
        /// The data directory.
        dir: PathBuf,
    },

    /// One copy is made at a time. Wait for the other one.
    #[error("another checkpoint of {} is being made: wait for its end, then try again", path.display())]
    CopyUnderWay {
        /// The data directory.
        path: PathBuf,
    },

    /// There is no room for the copy. Nothing was copied.
    #[error(
        "{} would take {needed} bytes, and {free} are free there: free some space, or name a directory on another disk",
        path.display()
    )]
    CopyTooLarge {
        /// Where the copy was to be.
        path: PathBuf,
        /// Bytes of its files that cannot be shared with the data directory.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },

    /// The disk of the data directory runs low, and nothing can be freed on it while a copy is made.
    #[error(
        "the disk of {} has too little free space left, and none can be freed while a checkpoint is made: {} is not \
         there; try again when there is room",
        dir.display(), path.display()
    )]
    CopyLowSpace {
        /// Where the copy was to be.
        path: PathBuf,
        /// The data directory.
        dir: PathBuf,
    },

    /// Whoever asked for the copy broke it off.
    #[error("cancelled; {} is not there", path.display())]
    CopyCancelled {
        /// Where the copy was to be.
        path: PathBuf,
    },

    /// The directory is a copy that was not finished. Make another.
    #[error("{} is a checkpoint that was not finished: remove it, and make another", path.display())]
    CopyUnfinished {
        /// The directory.
        path: PathBuf,
    },

    /// There is no such topic; it may have been deleted.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// The id asked for.
        topic: TopicId,
    },

    /// The topic has fewer queues.
    #[error("topic {topic} has no queue {queue}; it has {queues}")]
    UnknownQueue {
        /// The topic.
        topic: TopicId,
        /// The queue asked for.
        queue: QueueId,
        /// How many it has.
        queues: u32,
    },

    /// There is no such group; it may have been deleted.
    #[error("group {group} does not exist")]
    UnknownGroup {
        /// The id asked for.
        group: GroupId,
    },

    /// A topic or group has this name already.
    #[error("{what} {name} exists already")]
    Exists {
        /// `topic` or `group`.
        what: &'static str,
        /// Namespace and name.
        name: String,
    },

    /// Queues may be added, never taken away.
    #[error("topic {topic} has {queues} queues; {asked} would be fewer")]
    FewerQueues {
        /// The topic.
        topic: TopicId,
        /// How many it has.
        queues: u32,
        /// How many were asked for.
        asked: u32,
    },

    /// More than a record, a batch or a name may hold. Send less.
    #[error("{what} is {size}, more than {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The bound.
        max: u64,
    },

    /// The offset was deleted by retention or is not written yet. Pull again inside `available`.
    #[error("offset {asked} is outside {}..{}", available.start, available.end)]
    OffsetOutOfRange {
        /// The offset asked for.
        asked: QueueOffset,
        /// What there is.
        available: Range<QueueOffset>,
    },

    /// No record begins at this position, or its segment is gone.
    #[error("the log holds no record at position {position}")]
    NoRecord {
        /// The position asked for.
        position: LogPosition,
    },

    /// The record lies in a range of the log that was found damaged at a start.
    #[error("the record at log position {position} was lost to damage")]
    Lost {
        /// The position asked for.
        position: LogPosition,
    },

    /// Too much is waiting for the disk or for the consume queues. Try again soon.
    #[error(
        "busy: {unsynced} bytes wait for the disk and {unbuilt} for the consume queues, of which {unfiled} bytes are \
         in no file yet; try again"
    )]
    Busy {
        /// Bytes written or queued, not yet durable.
        unsynced: u64,
        /// Bytes not yet in the consume queues.
        unbuilt: u64,
        /// Bytes of rows in memory that wait for a checkpoint.
        unfiled: u64,
    },

    /// Journal entries waited for room until the end, in vain. Close again once there is some; if the process ends
    /// without that, they are lost, and the next start works as after a kill.
    #[error(
        "the last {bytes} bytes of the group journal could not be written into {}: \
         free some disk space, then close again",
        path.display()
    )]
    Unwritten {
        /// How many bytes of entries.
        bytes: u64,
        /// The directory of the journal.
        path: PathBuf,
    },

    /// The storage has been closed. Nothing more is taken.
    #[error("the storage is closed")]
    Closed,

    /// A thread of storage has panicked: a bug. The process must stop; a new start finds out what was stored.
    #[error("the thread {thread} has panicked, which is a bug in Weir")]
    Panicked {
        /// Its name.
        thread: String,
    },

    /// A sync failed, so that nobody knows what the disk holds. The process must stop; a new start finds out.
    #[error("the storage has stopped, because: {cause}")]
    Failed {
        /// The failure.
        cause: Arc<StorageError>,
    },
}

impl StorageError {
    /// Returns whether a sync failed of what somebody counts on: the storage must stop.
    pub(crate) fn is_failed_sync(&self) -> bool {
        matches!(self, Self::Io { action: "sync", .. } | Self::Failed { .. })
    }

    /// Returns a function that makes an error of the file system into one of storage.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { action, path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    /// Returns a function that says in which file, and where, a fault lies.
    pub fn corrupt(path: &Path, position: u64) -> impl FnOnce(Fault) -> Self {
        move |fault| Self::Corrupt { path: path.to_owned(), position: FilePosition(position), fault }
    }
}

/// What is wrong with bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// They do not begin as they must.
    Magic,
    /// A newer program wrote them.
    Version(u32),
    /// The checksum differs.
    Checksum,
    /// They end too early.
    Truncated,
    /// They belong to another data directory or another place.
    Foreign,
    /// A text is not UTF-8.
    Utf8,
    /// A field that a reader must understand has an id that this program does not know.
    UnknownField(u8),
    /// A number names no known thing; says which.
    Unknown(&'static str),
    /// The structure contradicts itself; says where.
    Structure(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin as it must"),
            Self::Version(version) => write!(f, "version {version} is newer than this program"),
            Self::Checksum => f.write_str("the checksum differs"),
            Self::Truncated => f.write_str("it ends too early"),
            Self::Foreign => f.write_str("it belongs to another place"),
            Self::Utf8 => f.write_str("a text is not UTF-8"),
            Self::UnknownField(id) => write!(f, "field {id} is not known to this program"),
            Self::Unknown(what) => write!(f, "the {what} is not known to this program"),
            Self::Structure(what) => write!(f, "{what} is wrong"),
        }
    }
}
