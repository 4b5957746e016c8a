//! The file system as a trait: the only door to files.
//!
//! [`DiskEnv`] is the real one. [`SimEnv`](crate::SimEnv) keeps unsynced writes apart, crashes, fills up and fails.

#![expect(clippy::disallowed_methods, reason = "this is where the file system is meant to be used")]

use std::{
    any::Any,
    fmt::Debug,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_buffer::{Buffer, MutableBuffer};

use crate::error::StorageError;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// To read what is there.
    Read,
    /// To read and change what is there.
    Write,
    /// To make it; fails if it exists.
    Create,
    /// As [`Create`](Self::Create), readable by its owner alone.
    CreatePrivate,
}

/// Room on the disk that holds a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Size of the disk in bytes, without what only the system may use.
    pub total: u64,
}

/// What came of locking a file.
#[derive(Debug)]
pub enum Locking {
    /// It is ours until this value is dropped.
    Held(Box<dyn Hold>),
    /// Another process has it and wrote this text into it.
    Taken(String),
}

/// Something that is held until dropped.
pub trait Hold: Debug + Send + Sync + Any {}

/// A file system.
pub trait Env: Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn EnvFile>>;
    /// Makes a directory and those above it, where missing, durably.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names of the files and directories in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what had it. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file one more name, in a directory of the same file system; fails if there is something of that name.
    /// Durable after [`sync_dir`](Self::sync_dir). Where there are no such names it fails, and the caller copies.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Unlinks a file. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Locks a file against other processes, and writes `content` into it if that succeeds.
    fn lock(&self, path: &Path, content: &str) -> io::Result<Locking>;
    /// Returns the room on the disk that holds `dir`.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Fills `out` with bytes that nobody can guess.
    fn random(&self, out: &mut [u8]) -> io::Result<()>;
    /// Returns the name of this machine.
    fn host(&self) -> String;
}

/// An open file. All methods take positions, so that threads may share it.
pub trait EnvFile: Debug + Send + Sync {
    /// Reads up to `out.len()` bytes; 0 at the end of the file.
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Returns the length.
    fn len(&self) -> io::Result<u64>;
    /// Returns whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written durable, and the length with it.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns the whole content of a file that has had its last write, mapped where possible.
    fn map(&self) -> io::Result<Buffer> {
        let len = usize::try_from(self.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = MutableBuffer::from_len_zeroed(len);
        self.read_exact_at(bytes.as_slice_mut(), 0)?;
        Ok(bytes.into())
    }
    /// Reads exactly `out.len()` bytes.
    fn read_exact_at(&self, mut out: &mut [u8], mut position: u64) -> io::Result<()> {
        while !out.is_empty() {
            match self.read_at(out, position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    out = out.get_mut(read..).unwrap_or_default();
                    position += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads a whole file of at most `max` bytes.
pub(crate) fn read_file(env: &dyn Env, path: &Path, max: u64) -> Result<Vec<u8>, StorageError> {
    let file = env.open(path, Open::Read).map_err(StorageError::io("open", path))?;
    let len = file.len().map_err(StorageError::io("read", path))?;
    if len > max {
        return Err(StorageError::TooLarge { what: "a file of the data directory", size: len, max });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(StorageError::io("read", path))?;
    Ok(bytes)
}

/// Puts `bytes` durably where `path` is: readers find the old content or the new, never a mixture.
pub(crate) fn replace_file(env: &dyn Env, path: &Path, bytes: &[u8], how: Open) -> Result<(), StorageError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let file = create_anew(env, &temporary, how)?;
    file.write_at(bytes, 0).map_err(StorageError::io("write", &temporary))?;
    file.sync_data().map_err(StorageError::io("sync", &temporary))?;
    env.rename(&temporary, path).map_err(StorageError::io("rename", &temporary))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    env.sync_dir(dir).map_err(StorageError::io("sync", dir))
}

/// Creates a file, unlinking a leftover of that name.
pub(crate) fn create_anew(env: &dyn Env, path: &Path, how: Open) -> Result<Arc<dyn EnvFile>, StorageError> {
    match env.open(path, how) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            env.remove(path).map_err(StorageError::io("remove", path))?;
            env.open(path, how)
        }
        other => other,
    }
    .map_err(StorageError::io("create", path))
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskEnv;

impl Env for DiskEnv {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn EnvFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => &mut options,
            Open::Write => options.write(true),
            Open::Create => options.write(true).create_new(true),
            Open::CreatePrivate => options.write(true).create_new(true).mode(0o600),
        };
        Ok(Arc::new(DiskFile(options.open(path)?)))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.make_dir(parent)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, content: &str) -> io::Result<Locking> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.take(4096).read_to_string(&mut holder)?;
                return Ok(Locking::Taken(holder));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        match file.write_all(content.as_bytes()) {
            // The lock is held without the text, too, and a full disk must not keep readers away.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
            other => other?,
        }
        Ok(Locking::Held(Box::new(DiskFile(file))))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(Space {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            // As `df` counts: what is reserved for the system is neither free nor in use.
            total: (found.f_blocks.saturating_sub(found.f_bfree))
                .saturating_add(found.f_bavail)
                .saturating_mul(found.f_frsize),
        })
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        File::open("/dev/urandom")?.read_exact(out)
    }

    fn host(&self) -> String {
        let name = ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        name.map_or_else(|| "an unnamed host".to_owned(), |name| name.trim().to_owned())
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl Hold for DiskFile {}

impl EnvFile for DiskFile {
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(out, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn map(&self) -> io::Result<Buffer> {
        crate::raw::map::map(&self.0)
    }
}
