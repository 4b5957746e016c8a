//! A disk in memory that crashes, fills up and fails on command, and does the same again for the same seed.
//!
//! Writes reach the page cache at once and the disk when they are synced. A power loss keeps, of what was
//! not synced, an arbitrary part: sectors of 512 bytes of each write, and names made, moved or removed, each
//! on its own, in any combination. What was synced is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use crate::env::{Env, EnvFile, Hold, Locking, Open, Space};

/// A disk writes so many bytes whole or not at all.
const SECTOR: u64 = 512;

/// What a process asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimCall {
    /// Reading from a file.
    Read,
    /// Writing to a file or changing its length.
    Write,
    /// Syncing a file.
    Sync,
    /// Opening or making a file.
    Open,
    /// Renaming, unlinking, syncing a directory.
    Name,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimEnv {
    disk: Arc<Mutex<Disk>>,
    /// The life of the process that has this handle, if it is one of a process.
    life: Option<u64>,
}

impl fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.lock();
        f.debug_struct("SimEnv").field("files", &disk.names.keys()).finish_non_exhaustive()
    }
}

struct Disk {
    random: u64,
    files: Vec<File>,
    /// As processes see them.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, String>,
    /// Files opened in an earlier life cannot be used.
    life: u64,
    capacity: Option<u64>,
    /// What unlinked files still take up, if unlinking gives no room back.
    kept: Option<u64>,
    faults: Vec<Fault>,
    /// The power fails after so many calls that change something.
    power_fails_after: Option<u64>,
    is_off: bool,
}

#[derive(Default)]
struct File {
    /// As processes see it.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// A sync has failed: what processes see may never reach the disk.
    is_torn: bool,
}

enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Len(u64),
}

/// What names lead to afterwards; one rename changes two at once.
struct NameChange(Vec<(PathBuf, Option<usize>)>);

struct Fault {
    call: SimCall,
    after: u64,
    kind: io::ErrorKind,
}

impl Default for SimEnv {
    fn default() -> Self {
        Self::new(0)
    }
}

impl SimEnv {
    /// Returns an empty disk whose accidents follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeMap::new(),
            life: 0,
            capacity: None,
            kept: None,
            faults: Vec::new(),
            power_fails_after: None,
            is_off: false,
        };
        Self { disk: Arc::new(Mutex::new(disk)), life: None }
    }

    /// Returns the disk as a process sees it that starts now: nothing works through it once that has ended, by
    /// [`kill`](Self::kill) or [`lose_power`](Self::lose_power). Threads of a process that a test has killed may go on
    /// for a while.
    #[must_use]
    pub fn process(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), life: Some(self.disk.lock().life) }
    }

    /// Locks the disk for a call that comes from a process.
    fn of_process(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        if self.life.is_some_and(|life| life != disk.life) {
            return Err(io::Error::other("this process is gone"));
        }
        Ok(disk)
    }

    /// Kills the process: files opened so far cannot be used any more; everything written stays.
    pub fn kill(&self) {
        let mut disk = self.disk.lock();
        disk.life += 1;
        disk.locks.clear();
    }

    /// Cuts the power and turns it on again: unsynced changes are kept in part, as the seed decides.
    pub fn lose_power(&self) {
        let mut disk = self.disk.lock();
        disk.life += 1;
        disk.locks.clear();
        disk.is_off = false;
        disk.power_fails_after = None;
        disk.faults.clear();
        disk.crash();
    }

    /// Lets the power fail after `calls` more calls that change something; the call at which it does may
    /// have been carried out in part. Everything fails until [`lose_power`](Self::lose_power) turns it on.
    pub fn fail_power_after(&self, calls: u64) {
        self.disk.lock().power_fails_after = Some(calls);
    }

    /// Returns whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.disk.lock().is_off
    }

    /// Lets one call fail, after `after` of its kind have succeeded.
    pub fn fail(&self, call: SimCall, after: u64, kind: io::ErrorKind) {
        self.disk.lock().faults.push(Fault { call, after, kind });
    }

    /// Takes back what [`fail`](Self::fail) asked for and has not happened yet.
    pub fn fail_no_more(&self) {
        self.disk.lock().faults.clear();
    }

    /// Bounds the sum of the lengths of all files, or no longer.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// Lets unlinked files take up room as before, as if each had another name or lay in a snapshot.
    pub fn keep_room_of_removed(&self) {
        self.disk.lock().kept = Some(0);
    }

    /// Returns the sum of the lengths of all files.
    pub fn used(&self) -> u64 {
        self.disk.lock().used()
    }

    /// Returns the paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk.lock().names.keys().cloned().collect()
    }

    /// Changes a file behind everybody's back, durably: damage.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.lock();
        let file = *disk.names.get(path).expect("the file to be damaged exists");
        let file = &mut disk.files[file];
        change(&mut file.bytes);
        file.durable = file.bytes.clone();
        file.unsynced.clear();
    }

    /// Returns another disk with the same files, as processes see them.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new(0);
        let disk = self.disk.lock();
        let mut copied = copy.disk.lock();
        for (path, number) in &disk.names {
            let bytes = disk.files[*number].bytes.clone();
            copied.files.push(File { durable: bytes.clone(), bytes, ..File::default() });
            let number = copied.files.len() - 1;
            copied.names.insert(path.clone(), number);
            copied.durable_names.insert(path.clone(), number);
        }
        copied.dirs = disk.dirs.clone();
        drop(copied);
        copy
    }

    /// Returns the content of a file, as processes see it; nothing if there is no such file.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        disk.names.get(path).map(|number| disk.files[*number].bytes.clone())
    }

    /// Removes a file behind everybody's back, durably.
    pub fn lose(&self, path: &Path) {
        let mut disk = self.disk.lock();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }
}

impl Disk {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn used(&self) -> u64 {
        let files: BTreeSet<usize> = self.names.values().copied().collect();
        let named: u64 = files.iter().map(|file| self.files[*file].bytes.len() as u64).sum();
        named + self.kept.unwrap_or(0)
    }

    /// Meets a call; fails it if something says so.
    fn call(&mut self, call: SimCall) -> io::Result<()> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        if call != SimCall::Read
            && let Some(left) = &mut self.power_fails_after
        {
            if *left == 0 {
                self.is_off = true;
                return Err(io::Error::other("the power has failed"));
            }
            *left -= 1;
        }
        for (number, fault) in self.faults.iter_mut().enumerate() {
            if fault.call != call {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            let kind = fault.kind;
            self.faults.remove(number);
            return Err(kind.into());
        }
        Ok(())
    }

    fn file(&mut self, life: u64, number: usize) -> io::Result<&mut File> {
        if life != self.life {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        Ok(&mut self.files[number])
    }

    fn crash(&mut self) {
        // Each crash has its own mood: nothing kept, everything, or a part.
        let keep = [0, 30, 80, 100][(self.next() % 4) as usize];
        for number in 0..self.files.len() {
            let mut file = std::mem::take(&mut self.files[number]);
            for change in std::mem::take(&mut file.unsynced) {
                self.keep_part(&mut file.durable, change, keep);
            }
            file.bytes = file.durable.clone();
            file.is_torn = false;
            self.files[number] = file;
        }
        let keep = [0, 50, 100][(self.next() % 3) as usize];
        for NameChange(changes) in std::mem::take(&mut self.unsynced_names) {
            if self.next() % 100 < keep {
                set_names(&mut self.durable_names, &changes);
            }
        }
        self.names = self.durable_names.clone();
    }

    fn keep_part(&mut self, durable: &mut Vec<u8>, change: Change, keep: u64) {
        match change {
            Change::Len(len) => {
                if self.next() % 100 < keep {
                    durable.resize(len as usize, 0);
                }
            }
            Change::Write { at, bytes } => {
                let mut done = 0;
                while done < bytes.len() {
                    let here = at + done as u64;
                    let len = ((SECTOR - here % SECTOR) as usize).min(bytes.len() - done);
                    if self.next() % 100 < keep {
                        put(durable, here, &bytes[done..done + len]);
                    }
                    done += len;
                }
            }
        }
    }

    fn change_names(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        set_names(&mut self.names, &changes);
        self.unsynced_names.push(NameChange(changes));
    }
}

fn set_names(names: &mut BTreeMap<PathBuf, usize>, changes: &[(PathBuf, Option<usize>)]) {
    for (path, file) in changes {
        match file {
            Some(file) => names.insert(path.clone(), *file),
            None => names.remove(path),
        };
    }
}

fn put(out: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if out.len() < end {
        out.resize(end, 0);
    }
    out[at as usize..end].copy_from_slice(bytes);
}

impl Env for SimEnv {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn EnvFile>> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Open)?;
        let known = disk.names.get(path).copied();
        let number = match (how, known) {
            (Open::Read | Open::Write, Some(number)) => number,
            (Open::Read | Open::Write, None) => return Err(io::ErrorKind::NotFound.into()),
            (Open::Create | Open::CreatePrivate, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Open::Create | Open::CreatePrivate, None) => {
                disk.files.push(File::default());
                let number = disk.files.len() - 1;
                disk.change_names(vec![(path.to_owned(), Some(number))]);
                number
            }
        };
        Ok(Arc::new(SimFile { env: self.clone(), life: disk.life, number }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        disk.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Read)?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let paths = disk.names.keys().chain(&disk.dirs).filter(inside);
        let names = paths.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        Ok(names.collect::<BTreeSet<String>>().into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        let number = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(number))]);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        let number = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.change_names(vec![(to.to_owned(), Some(number))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        let file = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let len = disk.files[file].bytes.len() as u64;
        disk.kept = disk.kept.map(|kept| kept + len);
        disk.change_names(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        if disk.names.keys().chain(&disk.dirs).any(|inside| inside.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.dirs.remove(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Name)?;
        let concerns =
            |change: &NameChange| change.0.iter().any(|(changed, _)| changed.parent() == Some(path));
        let unsynced = std::mem::take(&mut disk.unsynced_names);
        for change in unsynced {
            if concerns(&change) {
                set_names(&mut disk.durable_names, &change.0);
            } else {
                disk.unsynced_names.push(change);
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path, content: &str) -> io::Result<Locking> {
        let mut disk = self.of_process()?;
        disk.call(SimCall::Open)?;
        if let Some(holder) = disk.locks.get(path) {
            return Ok(Locking::Taken(holder.clone()));
        }
        disk.locks.insert(path.to_owned(), content.to_owned());
        let held = SimLock { env: self.clone(), path: path.to_owned(), life: disk.life };
        Ok(Locking::Held(Box::new(held)))
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let disk = self.disk.lock();
        let total = disk.capacity.unwrap_or(1 << 40);
        Ok(Space { free: total.saturating_sub(disk.used()), total })
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        for byte in out {
            *byte = disk.next() as u8;
        }
        Ok(())
    }

    fn host(&self) -> String {
        "simulated".to_owned()
    }
}

#[derive(Debug)]
struct SimLock {
    env: SimEnv,
    path: PathBuf,
    life: u64,
}

impl Hold for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.env.disk.lock();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    env: SimEnv,
    life: u64,
    number: usize,
}

impl EnvFile for SimFile {
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.env.disk.lock();
        disk.call(SimCall::Read)?;
        let file = disk.file(self.life, self.number)?;
        let rest = file.bytes.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut disk = self.env.disk.lock();
        let mut result = disk.call(SimCall::Write);
        let mut len = bytes.len();
        if result.is_err() {
            // Some of it may have been carried out.
            len = (disk.next() % (len as u64 + 1)) as usize;
        }
        let old_len = disk.file(self.life, self.number)?.bytes.len() as u64;
        let growth = (position + len as u64).saturating_sub(old_len);
        let room = disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used()));
        if growth > room {
            len -= ((growth - room) as usize).min(len);
            result = Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = bytes[..len].to_vec();
        let file = disk.file(self.life, self.number)?;
        if len > 0 {
            put(&mut file.bytes, position, &bytes);
            file.unsynced.push(Change::Write { at: position, bytes });
        }
        result
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.env.disk.lock();
        disk.call(SimCall::Read)?;
        Ok(disk.file(self.life, self.number)?.bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.env.disk.lock();
        disk.call(SimCall::Write)?;
        let file = disk.file(self.life, self.number)?;
        file.bytes.resize(len as usize, 0);
        file.unsynced.push(Change::Len(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.env.disk.lock();
        if let Err(error) = disk.call(SimCall::Sync) {
            if !disk.is_off {
                let unsynced = std::mem::take(&mut disk.file(self.life, self.number)?.unsynced);
                // A part reached the disk. The rest stays in the page cache and is never written by itself.
                let keep = [0, 0, 50, 100][(disk.next() % 4) as usize];
                let mut durable = std::mem::take(&mut disk.files[self.number].durable);
                for change in unsynced {
                    disk.keep_part(&mut durable, change, keep);
                }
                let file = &mut disk.files[self.number];
                file.durable = durable;
                file.is_torn = true;
            }
            return Err(error);
        }
        let file = disk.file(self.life, self.number)?;
        if !file.unsynced.is_empty() {
            for change in std::mem::take(&mut file.unsynced) {
                match change {
                    Change::Write { at, bytes } => put(&mut file.durable, at, &bytes),
                    Change::Len(len) => file.durable.resize(len as usize, 0),
                }
            }
            debug_assert!(file.is_torn || file.durable == file.bytes, "everything is on the disk");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(env: &SimEnv, path: &str, bytes: &[u8]) -> Arc<dyn EnvFile> {
        let file = env.open(Path::new(path), Open::Create).unwrap();
        file.write_at(bytes, 0).unwrap();
        file
    }

    fn read(env: &SimEnv, path: &str) -> Option<Vec<u8>> {
        let file = env.open(Path::new(path), Open::Read).ok()?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_in_every_possible_way() {
        let mut kept = BTreeSet::new();
        for seed in 0..60 {
            let env = SimEnv::new(seed);
            env.make_dir(Path::new("d")).unwrap();
            let file = write(&env, "d/a", &[1; 1024]);
            file.sync_data().unwrap();
            env.sync_dir(Path::new("d")).unwrap();
            file.write_at(&[2; 1024], 0).unwrap();
            env.lose_power();
            assert!(file.len().is_err(), "an old handle is dead");
            let bytes = read(&env, "d/a").expect("its name was synced");
            assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]), "sectors are whole");
            kept.insert((bytes[0], bytes[512]));
        }
        assert_eq!(kept.len(), 4, "{kept:?}");
    }

    #[test]
    fn names_that_are_not_synced_may_be_lost_and_a_kill_loses_nothing() {
        let mut lost = 0;
        for seed in 0..20 {
            let env = SimEnv::new(seed);
            env.make_dir(Path::new("d")).unwrap();
            write(&env, "d/a", b"x").sync_data().unwrap();
            env.kill();
            assert_eq!(read(&env, "d/a"), Some(b"x".to_vec()));
            env.lose_power();
            lost += usize::from(read(&env, "d/a").is_none());
        }
        assert!((1..20).contains(&lost), "{lost}");
    }

    #[test]
    fn calls_fail_as_told() {
        let env = SimEnv::new(1);
        let file = write(&env, "a", b"x");
        env.fail(SimCall::Sync, 1, io::ErrorKind::Other);
        assert_eq!([(); 3].map(|()| file.sync_data().is_ok()), [true, false, true]);
        env.set_capacity(Some(4));
        assert_eq!(file.write_at(b"12345", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        env.set_capacity(None);
        file.write_at(b"12345", 0).unwrap();
        env.fail_power_after(0);
        assert!(file.write_at(b"1", 0).is_err() && env.is_off());
        env.lose_power();
        assert!(env.open(Path::new("b"), Open::Create).is_ok());
    }
}
