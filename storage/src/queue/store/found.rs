//! What a start finds in the files of consume queues, and what it removes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};

use super::{FoundSegments, QueuesSettings};
use crate::{
    env::Env,
    error::StorageError,
    offset::LogPosition,
    queue::{
        block::ReadRecords,
        checkpoint::{DroppedBlock, ListedQueue, QueuesCheckpoint},
        segment::{QueueFile, Segment, TEMPORARY},
    },
};

/// What a start finds in the files that are listed.
#[derive(Default)]
pub(super) struct Found {
    pub(super) files: HashMap<u64, Arc<QueueFile>>,
    pub(super) queues: FoundSegments,
    pub(super) dropped: Vec<DroppedBlock>,
}

impl Found {
    pub(super) fn open(
        dir: &Path,
        env: &dyn Env,
        log: &Arc<dyn ReadRecords>,
        listed: &QueuesCheckpoint,
        recovered_end: LogPosition,
        settings: QueuesSettings,
    ) -> Result<Self, StorageError> {
        let mut files = Vec::with_capacity(listed.files.len());
        for listed in &listed.files {
            let path = listed.path(dir);
            let file = QueueFile::open(env, &path, Arc::clone(log))?;
            let header = file.header();
            let same = (header.number, header.kind, header.stamp)
                == (listed.number, listed.kind, listed.stamp)
                && file.len() == listed.len;
            if !same || header.uuid != settings.uuid {
                return Err(StorageError::corrupt(&path, 0)(crate::error::Fault::Foreign));
            }
            files.push(Arc::new(file));
        }
        let mut found = Self::default();
        for queue in &listed.queues {
            found.open_queue(queue, &files, recovered_end)?;
        }
        found.files = files.into_iter().map(|file| (file.header().number, file)).collect();
        Ok(found)
    }

    fn open_queue(
        &mut self,
        queue: &ListedQueue,
        files: &[Arc<QueueFile>],
        recovered_end: LogPosition,
    ) -> Result<(), StorageError> {
        let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(queue.parts.len());
        let mut cut = false;
        for part in &queue.parts {
            let file = &files[part.file as usize];
            let (start, len) = (part.first_block as usize, part.blocks as usize);
            let segment = Segment::new(Arc::clone(file), start..start + len)?;
            let first = segment.entry(0);
            let follows = segments.last().is_none_or(|last| last.range().end == segment.range().start);
            if (first.topic, first.queue) != (queue.topic, queue.queue) || (!follows && !cut) {
                return Err(StorageError::corrupt(file.path(), 0)(crate::error::Fault::Foreign));
            }
            let is_below = |block: &usize| segment.entry(*block).last_position < recovered_end;
            let keep = if cut { 0 } else { (0..len).take_while(is_below).count() };
            for block in keep..len {
                let entry = segment.entry(block);
                self.dropped.push(DroppedBlock {
                    topic: queue.topic,
                    queue: queue.queue,
                    base: entry.base,
                    rows: entry.rows,
                    first_position: entry.first_position,
                });
            }
            cut |= keep < len;
            match keep {
                0 => {}
                keep if keep == len => segments.push(Arc::new(segment)),
                keep => segments.push(Arc::new(Segment::new(Arc::clone(file), start..start + keep)?)),
            }
        }
        self.queues.insert((queue.topic, queue.queue), segments);
        Ok(())
    }
}

/// Removes what earlier processes left in the directory of consume queues and nobody lists.
pub(super) fn remove_unlisted(
    env: &dyn Env,
    dir: &Path,
    keep: &HashSet<PathBuf>,
) -> Result<(), StorageError> {
    let list = |dir: &Path| match env.list(dir) {
        // A file of somebody else's, named like a directory of ours.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(vec![String::new()]),
        other => other.map_err(StorageError::io("list", dir)),
    };
    let is_number = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    remove_files(env, &dir.join("shared"), ".blocks", keep)?;
    for topic in list(dir)?.into_iter().filter(is_number) {
        let topic = dir.join(topic);
        for queue in list(&topic)?.into_iter().filter(is_number) {
            let queue = topic.join(queue);
            if !list(&queue)?.contains(&String::new()) && remove_files(env, &queue, ".queue", keep)? == 0 {
                env.remove_dir(&queue).map_err(StorageError::io("remove", &queue))?;
            }
        }
        if list(&topic)?.is_empty() {
            env.remove_dir(&topic).map_err(StorageError::io("remove", &topic))?;
        }
    }
    Ok(())
}

/// Removes files of ours that nobody lists; returns how many names are left.
fn remove_files(
    env: &dyn Env,
    dir: &Path,
    suffix: &str,
    keep: &HashSet<PathBuf>,
) -> Result<usize, StorageError> {
    let mut left = 0;
    for name in env.list(dir).map_err(StorageError::io("list", dir))? {
        let path = dir.join(&name);
        let is_ours = name.strip_suffix(TEMPORARY).unwrap_or(&name).ends_with(suffix);
        if is_ours && !keep.contains(&path) {
            env.remove(&path).map_err(StorageError::io("remove", &path))?;
        } else {
            left += 1;
        }
    }
    Ok(left)
}

pub(super) fn remove_empty_dirs(env: &dyn Env, file: &Path) {
    // Directories of other topics and queues are not empty, and then this fails, as it should.
    for dir in file.ancestors().skip(1).take(2) {
        if !env.list(dir).is_ok_and(|names| names.is_empty()) || env.remove_dir(dir).is_err() {
            return;
        }
    }
}
