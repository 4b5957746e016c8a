//! What this process takes, as the system tells it in `/proc/self`.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

use anyhow::{Context, Result};

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// All that is resident, pages of mapped files among it.
    pub resident: u64,
    /// What is no page of a file: the heap, mostly.
    pub own: u64,
}

impl Memory {
    /// Returns what is taken now.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn now() -> Result<Self> {
        Self::in_file("/proc/self/status")
    }

    /// Returns what another process takes now.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn of(process: u32) -> Result<Self> {
        Self::in_file(&format!("/proc/{process}/status"))
    }

    fn in_file(path: &str) -> Result<Self> {
        let status = fs::read_to_string(path)?;
        let of = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<u64>()? << 10)
        };
        Ok(Self { resident: of("VmRSS:")?, own: of("RssAnon:")? })
    }
}

/// Calls that read and write, and their bytes, since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// `read`, `pread` and the like.
    pub reads: u64,
    /// What they read, in bytes, be it in the page cache or not.
    pub read_bytes: u64,
    /// `write`, `pwrite` and the like.
    pub writes: u64,
    /// What they wrote, in bytes.
    pub written_bytes: u64,
}

impl Calls {
    /// Returns the calls until now.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn now() -> Result<Self> {
        let io = fs::read_to_string("/proc/self/io")?;
        let of = |name: &str| -> Result<u64> {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
        };
        Ok(Self {
            reads: of("syscr:")?,
            read_bytes: of("rchar:")?,
            writes: of("syscw:")?,
            written_bytes: of("wchar:")?,
        })
    }

    /// Returns the calls since `earlier`.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

/// Returns how long the threads of this process with a name have had a core.
///
/// # Errors
///
/// If the system does not say.
pub fn thread_time(name: &str) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread may end meanwhile.
        let Ok(comm) = fs::read_to_string(task.join("comm")) else { continue };
        if comm.trim() == name {
            let times = fs::read_to_string(task.join("schedstat"))?;
            let on_core = times.split(' ').next().context("schedstat is empty")?;
            sum += Duration::from_nanos(on_core.parse()?);
        }
    }
    Ok(sum)
}

/// Returns how many files this process has open.
///
/// # Errors
///
/// If the system does not say.
pub fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Returns what the files of a directory and those below it take of the disk, in bytes. A file that goes meanwhile
/// counts nothing.
///
/// # Errors
///
/// If a directory cannot be read.
pub fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
