//! A copy of the data directory, made while the storage is open: complete, consistent, and whole when it is there.
//!
//! What never changes again is linked, so that it takes neither time nor room; on another file system, and where a file
//! still grows, it is copied. Meanwhile appends and reads go on, and nothing that existed is unlinked or replaced. What
//! the copy holds, and in which order it is looked at: `docs/format.md`, "Copies".

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use super::{CHECKPOINT, Inner, Mark, Storage, StorageOptions};
use crate::{
    env::{Env, Open, read_file, replace_file},
    error::StorageError,
    format::{checkpoint::Checkpoint, segment::SEGMENT_HEADER_LEN},
    limits::CHECKPOINT_BYTES_MAX,
    lock::{FORMAT, FORMAT_BYTES_MAX, KEY, KEY_FILE_LEN, UNFINISHED, check_format},
    log::segment::FrameLogShared,
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
    queue::checkpoint::QueuesCheckpoint,
};

/// So much is copied at once; so often can it be cancelled.
const CHUNK: usize = 1 << 20;
/// The next start of a copy begins so many epochs later at least, and up to twice as many: no epoch of it is one that
/// the original, or another copy, comes to as well.
const EPOCHS_APART: u32 = 1 << 16;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes of files that are in the copy.
    pub done: u64,
    /// Bytes of all its files.
    pub total: u64,
}

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its files.
    pub files: u64,
    /// Bytes of files that it shares with the original.
    pub linked_bytes: u64,
    /// Bytes of files of its own.
    pub copied_bytes: u64,
    /// Where its log ends: everything below is in it.
    pub log_end: LogPosition,
}

/// Told how far a copy has come; breaks it off, and what was made is removed.
pub type CopyWatch<'a> = dyn FnMut(CopyProgress) -> ControlFlow<()> + 'a;

/// One file of the copy.
struct Part {
    /// Below the data directory, as below the copy.
    path: PathBuf,
    /// So many bytes from its start.
    len: u64,
    /// It has had its last write, and nothing ever changes it in place.
    is_final: bool,
}

/// What the copy is made of.
struct Plan {
    parts: Vec<Part>,
    checkpoint: Checkpoint,
    /// The bytes of `FORMAT`.
    format: Vec<u8>,
    key: Vec<u8>,
}

impl Storage {
    /// Copies the data directory to `target`, which must not exist, in a way that another [`open`](Self::open) finds
    /// there everything that was acknowledged before the call: messages, what the journal was given, topics, groups.
    ///
    /// # Errors
    ///
    /// If `target` exists or lies in the data directory, another copy is being made, there is no room for it, `watch`
    /// breaks it off, the free space of the data directory falls below its bound or the storage is closed meanwhile, or
    /// a file cannot be read or written. Then what was made is removed; what is left of it after a crash is refused by
    /// name.
    pub fn copy_to(&self, target: &Path, watch: &mut CopyWatch<'_>) -> Result<Copied, StorageError> {
        self.handle.inner.copy_to(target, watch)
    }

    /// Copies a data directory that no process has open, as [`copy_to`](Self::copy_to). It is opened for that, so that
    /// what a crash has left is put right first, and closed in good order.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) and [`copy_to`](Self::copy_to), or if there is no data directory.
    pub fn copy_closed(
        dir: &Path,
        options: StorageOptions,
        target: &Path,
        watch: &mut CopyWatch<'_>,
    ) -> Result<Copied, StorageError> {
        let names = options.env.list(dir).map_err(StorageError::io("list", dir))?;
        check_format(&names, dir)?;
        // Nothing is appended, and nothing would free space: a full disk is no reason not to make a copy elsewhere.
        let options = StorageOptions { free_bytes_min: 0, ..options };
        let storage = Self::open_stepped(dir, options, Arc::new(Nobody))?;
        let copied = storage.copy_to(target, watch);
        let closed = storage.close();
        let copied = copied?;
        closed.map(|()| copied)
    }
}

/// Nobody is told anything: no thread runs.
struct Nobody;

impl super::Events for Nobody {
    fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
    fn failed(&self, _: &StorageError) {}
}

/// Nothing is unlinked or replaced while it lives.
struct Pin<'a>(&'a Inner);

impl<'a> Pin<'a> {
    fn new(inner: &'a Inner) -> Result<Self, StorageError> {
        if inner.is_copied.swap(true, Ordering::AcqRel) {
            return Err(StorageError::CopyUnderWay { path: inner.dir.clone() });
        }
        let pin = Self(inner);
        pin.set(true);
        Ok(pin)
    }

    fn set(&self, pinned: bool) {
        for frames in [self.0.log.as_ref(), self.0.journal.as_ref(), self.0.catalogue.frames()] {
            frames.pin(pinned);
        }
        // Whoever makes a checkpoint would not know that somebody waits for what it holds.
        let _last = self.0.lock_checkpoint();
        self.0.queues.pin(pinned);
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.set(false);
        if let Err(error) = self.0.remove_refused() {
            tracing::warn!(%error, "cannot remove what stayed for a checkpoint of the data directory");
        }
        // What else stayed for the copy goes with the next checkpoint.
        self.0.is_due.store(true, Ordering::Release);
        self.0.has_ended.store(true, Ordering::Release);
        self.0.is_copied.store(false, Ordering::Release);
    }
}

impl Inner {
    fn copy_to(&self, target: &Path, watch: &mut CopyWatch<'_>) -> Result<Copied, StorageError> {
        self.check_copied()?;
        if target.starts_with(&self.dir) {
            return Err(StorageError::CopyInside { path: target.to_owned(), dir: self.dir.clone() });
        }
        match self.options.env.list(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::NotADirectory => {
                return Err(StorageError::io("create", target)(error));
            }
            _ => return Err(StorageError::CopyExists { path: target.to_owned() }),
        }
        // So that a start of the copy reads little of the log.
        self.checkpoint(Mark::Running)?;
        let _pin = Pin::new(self)?;
        let plan = self.plan_copy()?;
        let mut copying = Copying {
            inner: self,
            target,
            watch,
            progress: CopyProgress { done: 0, total: plan.parts.iter().map(|part| part.len).sum() },
            copied: Copied { files: 0, linked_bytes: 0, copied_bytes: 0, log_end: plan.checkpoint.durable },
            files: Vec::new(),
            dirs: Vec::new(),
        };
        let made = copying.make(plan);
        if made.is_err() {
            copying.undo();
        }
        made.map(|()| copying.copied)
    }

    /// Looks at the files, in an order in which each knows nothing that those after it lack: a row that the journal
    /// names is in the log, and a topic that the log names is in the catalogue, or was deleted.
    fn plan_copy(&self) -> Result<Plan, StorageError> {
        let env = self.options.env.as_ref();
        // What was answered when it was written, too, is in it.
        self.sync_log()?;
        // Before the journal, which must tell of the releases below it.
        let mut checkpoint = {
            // Those of the files that are named there are pinned, and nothing that is unlinked later is.
            let _last = self.lock_checkpoint();
            let path = self.dir.join(CHECKPOINT);
            let bytes = read_file(env, &path, CHECKPOINT_BYTES_MAX)?;
            Checkpoint::decode(&bytes).map_err(StorageError::corrupt(&path, 0))?
        };
        let journal_end = self.synced(&self.journal)?;
        let mut parts = frame_parts(&self.journal, "journal", journal_end, false)?;
        let listed = QueuesCheckpoint::decode(&checkpoint.queues);
        let listed = listed.map_err(StorageError::corrupt(&self.dir.join(CHECKPOINT), 0))?;
        for file in listed.files {
            parts.push(Part { path: file.path(Path::new("queues")), len: file.len, is_final: true });
        }
        self.sync_log()?;
        let log_end = self.log.durable();
        parts.extend(frame_parts(&self.log, "log", log_end, true)?);
        let catalogue_end = self.catalogue.frames().durable();
        parts.extend(frame_parts(self.catalogue.frames(), "catalogue", catalogue_end, false)?);
        let mut random = [0; 4];
        env.random(&mut random).map_err(StorageError::io("read random numbers for", &self.dir))?;
        let apart = EPOCHS_APART + u32::from_le_bytes(random) % EPOCHS_APART;
        checkpoint.epoch = Epoch(self.epoch.0.checked_add(apart).unwrap_or(self.epoch.0));
        checkpoint.clean = false;
        (checkpoint.durable, checkpoint.journal, checkpoint.catalogue) =
            (log_end, journal_end, catalogue_end);
        checkpoint.file_lens = [0; 3];
        // Last: what is in the files is nothing that it does not know of.
        let format = read_file(env, &self.dir.join(FORMAT), FORMAT_BYTES_MAX)?;
        let key = read_file(env, &self.dir.join(KEY), KEY_FILE_LEN as u64)?;
        Ok(Plan { parts, checkpoint, format, key })
    }

    fn synced(&self, frames: &FrameLogShared) -> Result<LogPosition, StorageError> {
        frames.sync().inspect_err(|error| self.fail(error.clone()))?;
        Ok(frames.durable())
    }

    /// Unlinks the segments of journal and catalogue that would have gone while they were pinned: nothing but the next
    /// rotation, or summing up, would do it otherwise.
    fn remove_refused(&self) -> Result<(), StorageError> {
        // Held, so that no close gives the directory away meanwhile.
        let _last = self.lock_checkpoint();
        if self.check().and_then(|()| self.check_open()).is_err() {
            // Whoever opens it next reads them once more.
            return Ok(());
        }
        self.journal.remove_refused()?;
        self.catalogue.frames().remove_refused()
    }

    /// Returns an error if there is no more sense in a copy.
    fn check_copied(&self) -> Result<(), StorageError> {
        self.check()?;
        if self.intake.lock().closed {
            return Err(StorageError::Closed);
        }
        self.check_open()
    }
}

/// Returns the segments of a sequence of frames up to its end. Those that are complete may be `linked`, but for the last:
/// a start writes into that.
fn frame_parts(
    frames: &FrameLogShared,
    dir: &str,
    end: LogPosition,
    linked: bool,
) -> Result<Vec<Part>, StorageError> {
    let segments = frames.segments.all().into_iter().filter(|segment| segment.base() <= end);
    let mut parts = Vec::new();
    for segment in segments {
        let is_whole = segment.sealed_end().is_some_and(|sealed| sealed <= end);
        let len = if is_whole {
            segment.file_len()?
        } else {
            SEGMENT_HEADER_LEN as u64 + (end.0 - segment.base().0)
        };
        let name = segment.path.file_name().unwrap_or_default();
        parts.push(Part { path: Path::new(dir).join(name), len, is_final: linked && is_whole });
    }
    if let Some(last) = parts.last_mut() {
        last.is_final = false;
    }
    Ok(parts)
}

/// A copy that is being made.
struct Copying<'a, 'w> {
    inner: &'a Inner,
    target: &'a Path,
    watch: &'a mut CopyWatch<'w>,
    progress: CopyProgress,
    copied: Copied,
    /// What has been made, in order.
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Copying<'_, '_> {
    fn env(&self) -> &dyn Env {
        self.inner.options.env.as_ref()
    }

    fn make(&mut self, plan: Plan) -> Result<(), StorageError> {
        self.dir(self.target.to_owned())?;
        let marker = self.target.join(UNFINISHED);
        let said = format!("A checkpoint of {} that was not finished.\n", self.inner.dir.display());
        self.write(&marker, said.as_bytes(), Open::Create)?;
        let target = self.target;
        self.env().sync_dir(target).map_err(StorageError::io("sync", target))?;
        // What can be linked first, in no time: then it is known how much room the rest takes.
        let mut rest = Vec::new();
        for part in &plan.parts {
            if !self.link_part(part)? {
                rest.push(part);
            }
        }
        self.check_room(rest.iter().map(|part| part.len).sum())?;
        for part in rest {
            self.copy(part)?;
        }
        self.write(&target.join(KEY), &plan.key, Open::CreatePrivate)?;
        self.files.push(target.join(CHECKPOINT));
        replace_file(self.env(), &target.join(CHECKPOINT), &plan.checkpoint.encode(), Open::Create)?;
        for dir in self.dirs.iter().rev() {
            self.env().sync_dir(dir).map_err(StorageError::io("sync", dir))?;
        }
        // Once another process may have the directory, what was linked may be something else.
        self.inner.check_copied()?;
        self.env().remove(&marker).map_err(StorageError::io("remove", &marker))?;
        // What makes it a data directory comes last.
        self.files.push(target.join(FORMAT));
        replace_file(self.env(), &target.join(FORMAT), &plan.format, Open::Create)?;
        self.copied.files = self.files.len() as u64 - 1;
        Ok(())
    }

    /// Makes a directory of the copy, if it is not there yet.
    fn dir(&mut self, dir: PathBuf) -> Result<(), StorageError> {
        if self.dirs.contains(&dir) {
            return Ok(());
        }
        if let Some(parent) = dir.parent().filter(|parent| parent.starts_with(self.target)) {
            self.dir(parent.to_owned())?;
        }
        self.env().make_dir(&dir).map_err(StorageError::io("create", &dir))?;
        self.dirs.push(dir);
        Ok(())
    }

    /// Links a file of the copy, if it can be, or makes at least its directory.
    fn link_part(&mut self, part: &Part) -> Result<bool, StorageError> {
        let (from, to) = self.paths(part);
        if let Some(dir) = to.parent() {
            self.dir(dir.to_owned())?;
        }
        self.watch()?;
        if !part.is_final || !self.link(&from, &to)? {
            return Ok(false);
        }
        self.copied.linked_bytes += part.len;
        self.progress.done += part.len;
        Ok(true)
    }

    /// Returns where a file is, and where it is in the copy.
    fn paths(&self, part: &Part) -> (PathBuf, PathBuf) {
        (self.inner.dir.join(&part.path), self.target.join(&part.path))
    }

    /// Refuses a copy of so many bytes if there is no room for them, before hours have gone into it.
    fn check_room(&self, needed: u64) -> Result<(), StorageError> {
        match self.env().space(self.target) {
            Ok(space) if space.free < needed => {
                Err(StorageError::CopyTooLarge { path: self.target.to_owned(), needed, free: space.free })
            }
            // If nobody knows, a write tells.
            _ => Ok(()),
        }
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        match self.env().link(from, to) {
            Ok(()) => {
                self.files.push(to.to_owned());
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::TooManyLinks
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(StorageError::io("link", to)(error)),
        }
    }

    fn copy(&mut self, part: &Part) -> Result<(), StorageError> {
        let (from, to) = self.paths(part);
        let (from, to, len) = (from.as_path(), to.as_path(), part.len);
        self.watch()?;
        let source = self.env().open(from, Open::Read).map_err(StorageError::io("open", from))?;
        self.files.push(to.to_owned());
        let file = self.env().open(to, Open::Create).map_err(StorageError::io("create", to))?;
        let mut chunk = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
        let mut at = 0;
        while at < len {
            let size = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
            let bytes = &mut chunk[..size];
            source.read_exact_at(bytes, at).map_err(StorageError::io("read", from))?;
            file.write_at(bytes, at).map_err(StorageError::io("write", to))?;
            at += size as u64;
            self.copied.copied_bytes += size as u64;
            self.progress.done += size as u64;
            self.watch()?;
        }
        file.sync_data().map_err(StorageError::io("sync", to))
    }

    fn write(&mut self, path: &Path, bytes: &[u8], how: Open) -> Result<(), StorageError> {
        self.files.push(path.to_owned());
        let file = self.env().open(path, how).map_err(StorageError::io("create", path))?;
        file.write_at(bytes, 0).map_err(StorageError::io("write", path))?;
        file.sync_data().map_err(StorageError::io("sync", path))
    }

    fn watch(&mut self) -> Result<(), StorageError> {
        self.inner.check_copied()?;
        // As long as the copy goes on, retention and compaction free nothing, and the broker takes nothing.
        if self.inner.low_space.load(Ordering::Relaxed) {
            let (path, dir) = (self.target.to_owned(), self.inner.dir.clone());
            return Err(StorageError::CopyLowSpace { path, dir });
        }
        match (self.watch)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StorageError::CopyCancelled { path: self.target.to_owned() }),
        }
    }

    /// Removes what has been made. What cannot be removed is refused by name; the marker goes last.
    fn undo(&mut self) {
        for path in std::mem::take(&mut self.files).iter().rev() {
            match self.env().remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove what was made of a copy");
                    return;
                }
                _ => {}
            }
        }
        for dir in std::mem::take(&mut self.dirs).iter().rev() {
            if let Err(error) = self.env().remove_dir(dir) {
                tracing::warn!(path = %dir.display(), %error, "cannot remove what was made of a copy");
                return;
            }
        }
    }
}
