//! What can be done about damage while no broker runs: derived files go, so that they are built anew; a damaged end of
//! the group journal is cut. No byte of the log is touched that a frame holds.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Remedy, Verified};
use crate::{
    clock::Clock,
    env::{Env, Hold, Open, replace_file},
    error::StorageError,
    format::{
        checkpoint::Checkpoint,
        segment::{SEGMENT_HEADER_LEN, SegmentKind},
    },
    lock::{check_format, create_key, lock},
    log::segment::segment_base,
    offset::LogPosition,
    storage::CHECKPOINT,
};

/// One thing that a repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairStep {
    /// Removes a damaged file of consume queues; the next start builds all of them anew from the log.
    RemoveQueueFile(PathBuf),
    /// Removes a damaged checkpoint; the next start reads the whole log.
    RemoveCheckpoint(PathBuf),
    /// Cuts the group journal at a byte of its last file.
    CutJournal(PathBuf, u64),
    /// Makes a new key; receipt handles and tickets given out before are refused.
    NewKey(PathBuf),
    /// Writes zeros where nothing else belongs.
    WriteZeros(PathBuf, Range<u64>),
}

impl fmt::Display for RepairStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveQueueFile(path) => {
                write!(f, "remove {}: the next start builds the consume queues anew", path.display())
            }
            Self::RemoveCheckpoint(path) => {
                write!(f, "remove {}: the next start reads the whole log", path.display())
            }
            Self::CutJournal(path, at) => {
                write!(f, "cut {} at byte {at}: what groups did last is forgotten", path.display())
            }
            Self::NewKey(path) => {
                write!(f, "make a new {}: receipt handles given out are refused", path.display())
            }
            Self::WriteZeros(path, bytes) => {
                write!(f, "write zeros into bytes {} to {} of {}", bytes.start, bytes.end - 1, path.display())
            }
        }
    }
}

impl RepairStep {
    /// Returns a word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::RemoveQueueFile(_) => "remove_queue_file",
            Self::RemoveCheckpoint(_) => "remove_checkpoint",
            Self::CutJournal(..) => "cut_journal",
            Self::NewKey(_) => "new_key",
            Self::WriteZeros(..) => "write_zeros",
        }
    }

    /// Returns the file that it changes.
    pub fn path(&self) -> &Path {
        match self {
            Self::RemoveQueueFile(path)
            | Self::RemoveCheckpoint(path)
            | Self::CutJournal(path, _)
            | Self::NewKey(path)
            | Self::WriteZeros(path, _) => path,
        }
    }
}

/// Returns what a repair would do about what was found, in order.
pub fn plan_repair(found: &Verified) -> Vec<RepairStep> {
    let mut steps = Vec::new();
    for finding in &found.findings {
        let path = finding.path.clone();
        let is_list = path.ends_with(CHECKPOINT);
        let step = match finding.remedy {
            // A start does this by itself, unless it has not got the file at all.
            Remedy::StartRebuilds | Remedy::RepairRebuilds if is_list => RepairStep::RemoveCheckpoint(path),
            Remedy::StartRebuilds | Remedy::RepairRebuilds => RepairStep::RemoveQueueFile(path),
            Remedy::ReadWholeLog => RepairStep::RemoveCheckpoint(path),
            Remedy::CutJournal => RepairStep::CutJournal(path, finding.bytes.start),
            Remedy::NewKey => RepairStep::NewKey(path),
            Remedy::WriteZeros => RepairStep::WriteZeros(path, finding.bytes.clone()),
            Remedy::StartRestores
            | Remedy::Fenced
            | Remedy::StaysUnreadable
            | Remedy::Known
            | Remedy::Restore
            | Remedy::Nothing => continue,
        };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    // What is removed needs no zeros.
    let removed: Vec<PathBuf> = steps
        .iter()
        .filter(|step| matches!(step, RepairStep::RemoveQueueFile(_)))
        .map(|step| step.path().to_owned())
        .collect();
    steps.retain(|step| {
        !matches!(step, RepairStep::WriteZeros(..)) || !removed.iter().any(|path| path == step.path())
    });
    steps
}

/// A data directory that no broker can open meanwhile.
#[derive(Debug)]
pub struct RepairLock {
    env: Arc<dyn Env>,
    dir: PathBuf,
    _lock: Box<dyn Hold>,
}

impl RepairLock {
    /// Locks a data directory.
    ///
    /// # Errors
    ///
    /// If a process has it, if it is none, or if it cannot be read.
    pub fn take(env: &Arc<dyn Env>, dir: &Path, clock: &dyn Clock) -> Result<Self, StorageError> {
        let names = env.list(dir).map_err(StorageError::io("list", dir))?;
        check_format(&names, dir)?;
        let lock = lock(env.as_ref(), dir, clock)?;
        Ok(Self { env: Arc::clone(env), dir: dir.to_owned(), _lock: lock })
    }

    /// Does one step, durably.
    ///
    /// # Errors
    ///
    /// If a file cannot be changed; the step can be done again.
    pub fn apply(&self, step: &RepairStep) -> Result<(), StorageError> {
        let env = self.env.as_ref();
        match step {
            RepairStep::RemoveQueueFile(path) | RepairStep::RemoveCheckpoint(path) => self.remove(path),
            RepairStep::NewKey(_) => create_key(env, &self.dir),
            RepairStep::CutJournal(path, at) => self.cut_journal(path, *at),
            RepairStep::WriteZeros(path, bytes) => {
                let file = env.open(path, Open::Write).map_err(StorageError::io("open", path))?;
                let mut at = bytes.start;
                while at < bytes.end {
                    let len = usize::try_from(bytes.end - at).unwrap_or(1 << 20).min(1 << 20);
                    file.write_at(&vec![0; len], at).map_err(StorageError::io("write", path))?;
                    at += len as u64;
                }
                file.sync_data().map_err(StorageError::io("sync", path))
            }
        }
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match self.env.remove(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(StorageError::io("remove", path))?,
        }
        match path.parent() {
            // With a missing file its directory may be missing, too.
            Some(dir) if self.env.list(dir).is_ok() => {
                self.env.sync_dir(dir).map_err(StorageError::io("sync", dir))
            }
            _ => Ok(()),
        }
    }

    /// Cuts the journal, after the checkpoint has stopped saying that it was longer.
    fn cut_journal(&self, path: &Path, at: u64) -> Result<(), StorageError> {
        let env = self.env.as_ref();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let header_len = SEGMENT_HEADER_LEN as u64;
        let Some(base) = segment_base(SegmentKind::Journal, name) else { return Ok(()) };
        let end = LogPosition(base.0 + at.saturating_sub(header_len));
        let bytes = super::door::read_checkpoint_bytes(env, &self.dir)?;
        if let Some(mut checkpoint) = bytes.and_then(|bytes| Checkpoint::decode(&bytes).ok()) {
            checkpoint.journal = checkpoint.journal.min(end);
            checkpoint.clean = false;
            let path = self.dir.join(CHECKPOINT);
            replace_file(env, &path, &checkpoint.encode(), Open::Create)?;
        }
        if at < header_len {
            return self.remove(path);
        }
        let file = env.open(path, Open::Write).map_err(StorageError::io("open", path))?;
        file.set_len(at).map_err(StorageError::io("cut", path))?;
        file.sync_data().map_err(StorageError::io("sync", path))
    }
}
