//! What a checkpoint remembers of the consume queues: which blocks of which files are theirs.

use std::path::{Path, PathBuf};

use crate::{
    error::Fault,
    format::{
        block::FileKind,
        cursor::{Cursor, put_count},
    },
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

const VERSION: u16 = 1;
const FILE_LEN: usize = 41;
const QUEUE_LEN: usize = 12;
const PART_LEN: usize = 12;

/// The consume queues at a checkpoint. What it does not list is not theirs and is removed at the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueuesCheckpoint {
    /// The number of the next file.
    pub(crate) next_file: u64,
    pub(crate) files: Vec<ListedFile>,
    pub(crate) queues: Vec<ListedQueue>,
}

/// A file that some queue needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedFile {
    pub(crate) number: u64,
    pub(crate) kind: FileKind,
    /// As in the header of the file.
    pub(crate) stamp: u64,
    pub(crate) len: u64,
    /// Of a queue segment: whose it is, and where it begins. Of a shared file all 0.
    pub(crate) topic: TopicId,
    pub(crate) queue: QueueId,
    pub(crate) base: QueueOffset,
}

/// The blocks of a queue, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedQueue {
    pub(crate) topic: TopicId,
    pub(crate) queue: QueueId,
    pub(crate) parts: Vec<ListedPart>,
}

/// Neighbouring blocks of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedPart {
    /// Which of the files listed.
    pub(crate) file: u32,
    pub(crate) first_block: u32,
    pub(crate) blocks: u32,
}

/// A block that named positions at or above the end of the log that a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DroppedBlock {
    pub(crate) topic: TopicId,
    pub(crate) queue: QueueId,
    pub(crate) base: QueueOffset,
    pub(crate) rows: u32,
    /// The rows come back if the log is read again from here.
    pub(crate) first_position: LogPosition,
}

impl ListedFile {
    /// Returns where the file lies in the directory of consume queues.
    pub(crate) fn path(&self, queues: &Path) -> PathBuf {
        match self.kind {
            FileKind::Shared => queues.join("shared").join(format!("{:020}.blocks", self.number)),
            FileKind::Segment => queues
                .join(format!("{:010}", self.topic.0))
                .join(self.queue.0.to_string())
                .join(format!("{:020}-{}.queue", self.base.0, self.number)),
        }
    }
}

impl QueuesCheckpoint {
    /// Returns the bytes that a checkpoint file embeds.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.next_file.to_le_bytes());
        put_count(&mut out, self.files.len());
        for file in &self.files {
            out.extend_from_slice(&file.number.to_le_bytes());
            out.push(file.kind as u8);
            out.extend_from_slice(&file.stamp.to_le_bytes());
            out.extend_from_slice(&file.len.to_le_bytes());
            out.extend_from_slice(&file.topic.0.to_le_bytes());
            out.extend_from_slice(&file.queue.0.to_le_bytes());
            out.extend_from_slice(&file.base.0.to_le_bytes());
        }
        put_count(&mut out, self.queues.len());
        for queue in &self.queues {
            out.extend_from_slice(&queue.topic.0.to_le_bytes());
            out.extend_from_slice(&queue.queue.0.to_le_bytes());
            put_count(&mut out, queue.parts.len());
            for part in &queue.parts {
                out.extend_from_slice(&part.file.to_le_bytes());
                out.extend_from_slice(&part.first_block.to_le_bytes());
                out.extend_from_slice(&part.blocks.to_le_bytes());
            }
        }
        out
    }

    /// Reads the bytes of [`encode`](Self::encode).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        let version = cursor.u16()?;
        if version > VERSION {
            return Err(Fault::Version(version.into()));
        }
        let next_file = cursor.u64()?;
        let count = cursor.count(FILE_LEN)?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            files.push(ListedFile {
                number: cursor.u64()?,
                kind: FileKind::from_byte(cursor.u8()?).ok_or(Fault::Unknown("kind of a file"))?,
                stamp: cursor.u64()?,
                len: cursor.u64()?,
                topic: TopicId(cursor.u32()?),
                queue: QueueId(cursor.u32()?),
                base: QueueOffset(cursor.u64()?),
            });
        }
        let count = cursor.count(QUEUE_LEN)?;
        let mut queues = Vec::with_capacity(count);
        for _ in 0..count {
            let (topic, queue) = (TopicId(cursor.u32()?), QueueId(cursor.u32()?));
            let count = cursor.count(PART_LEN)?;
            let mut parts = Vec::with_capacity(count);
            for _ in 0..count {
                let (file, first_block, blocks) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
                if file as usize >= files.len() {
                    return Err(Fault::Structure("the number of a file"));
                }
                parts.push(ListedPart { file, first_block, blocks });
            }
            queues.push(ListedQueue { topic, queue, parts });
        }
        if !cursor.is_empty() {
            return Err(Fault::Structure("the length of the list of consume queues"));
        }
        Ok(Self { next_file, files, queues })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> QueuesCheckpoint {
        QueuesCheckpoint {
            next_file: 9,
            files: vec![
                ListedFile {
                    number: 3,
                    kind: FileKind::Segment,
                    stamp: 5,
                    len: 1000,
                    topic: TopicId(7),
                    queue: QueueId(2),
                    base: QueueOffset(100),
                },
                ListedFile {
                    number: 8,
                    kind: FileKind::Shared,
                    stamp: 6,
                    len: 10,
                    topic: TopicId(0),
                    queue: QueueId(0),
                    base: QueueOffset(0),
                },
            ],
            queues: vec![ListedQueue {
                topic: TopicId(7),
                queue: QueueId(2),
                parts: vec![
                    ListedPart { file: 0, first_block: 0, blocks: 5 },
                    ListedPart { file: 1, first_block: 4, blocks: 1 },
                ],
            }],
        }
    }

    #[test]
    fn a_checkpoint_reads_back_and_no_cut_or_flip_panics() {
        let bytes = example().encode();
        assert_eq!(QueuesCheckpoint::decode(&bytes).unwrap(), example());
        for cut in 0..bytes.len() {
            QueuesCheckpoint::decode(&bytes[..cut]).unwrap_err();
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = QueuesCheckpoint::decode(&damaged);
        }
    }

    #[test]
    fn files_lie_by_topic_and_queue() {
        let paths: Vec<PathBuf> = example().files.iter().map(|file| file.path(Path::new("q"))).collect();
        assert_eq!(paths[0], Path::new("q/0000000007/2/00000000000000000100-3.queue"));
        assert_eq!(paths[1], Path::new("q/shared/00000000000000000008.blocks"));
    }
}
