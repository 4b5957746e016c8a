//! The door of a data directory: its `LOCK`, its `FORMAT` and its `key`. Layout: `docs/format.md`, "Data directory".

use std::{fmt::Write as _, path::Path};

use crate::{
    clock::Clock,
    env::{Env, Hold, Locking, Open, read_file, replace_file},
    error::{Fault, StorageError},
};

/// The version that this program writes.
pub const FORMAT_VERSION: u32 = 1;
/// The oldest program that can read what this one writes.
const MINIMUM_READER: u32 = 1;
const TITLE: &str = "weir data directory";
pub(crate) const FORMAT: &str = "FORMAT";
const LOCK: &str = "LOCK";
pub(crate) const KEY: &str = "key";
pub(crate) const KEY_LEN: usize = 32;
/// The key and its checksum.
pub(crate) const KEY_FILE_LEN: usize = KEY_LEN + 4;
/// Such a file says little.
pub(crate) const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// A data directory that is ours.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub(crate) uuid: [u8; 16],
    /// Signs receipt handles and tickets.
    pub(crate) key: [u8; KEY_LEN],
    _lock: Box<dyn Hold>,
}

impl DataDirectory {
    /// Locks a data directory, making it if there is none.
    pub(crate) fn open(env: &dyn Env, dir: &Path, clock: &dyn Clock) -> Result<Self, StorageError> {
        env.make_dir(dir).map_err(StorageError::io("create", dir))?;
        // Before the lock, so that nothing is left in a directory that is not ours.
        has_format(env, dir)?;
        let lock = lock(env, dir, clock)?;
        // Again, because another first start may have been quicker.
        if !has_format(env, dir)? {
            create(env, dir, clock)?;
        }
        let uuid = read_format(env, dir)?;
        let key = read_key(env, dir)?;
        Ok(Self { uuid, key, _lock: lock })
    }
}

/// Returns whether this is a data directory already; an error if it cannot become one.
fn has_format(env: &dyn Env, dir: &Path) -> Result<bool, StorageError> {
    let names = env.list(dir).map_err(StorageError::io("list", dir))?;
    let has_format = names.iter().any(|name| name == FORMAT);
    let ours = [LOCK, "FORMAT.tmp", "key.tmp", KEY];
    if !has_format && names.iter().any(|name| !ours.contains(&name.as_str())) {
        return Err(StorageError::Foreign { path: dir.to_owned() });
    }
    Ok(has_format)
}

pub(crate) fn lock(env: &dyn Env, dir: &Path, clock: &dyn Clock) -> Result<Box<dyn Hold>, StorageError> {
    let path = dir.join(LOCK);
    let (pid, host, since) = (std::process::id(), env.host(), utc(clock.wall_ms()));
    let content = format!("process {pid} on {host}, started {since}\n");
    match env.lock(&path, &content).map_err(StorageError::io("lock", &path))? {
        Locking::Held(hold) => Ok(hold),
        Locking::Taken(holder) => {
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another process" } else { holder };
            Err(StorageError::Locked { path: dir.to_owned(), holder: holder.to_owned() })
        }
    }
}

/// Writes the key and, last, the file that makes this a data directory.
fn create(env: &dyn Env, dir: &Path, clock: &dyn Clock) -> Result<(), StorageError> {
    let random = |out: &mut [u8]| env.random(out).map_err(StorageError::io("read random numbers for", dir));
    create_key(env, dir)?;
    let mut uuid = [0; 16];
    random(&mut uuid)?;
    // A random UUID, version 4.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let text = format_text(&uuid, clock.wall_ms());
    replace_file(env, &dir.join(FORMAT), text.as_bytes(), Open::Create)
}

/// Makes a key, or another in its place: what was signed with the old one is refused from then on.
pub(crate) fn create_key(env: &dyn Env, dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(KEY);
    let mut key = [0; KEY_LEN];
    env.random(&mut key).map_err(StorageError::io("read random numbers for", &path))?;
    let mut bytes = key.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&key).to_le_bytes());
    replace_file(env, &path, &bytes, Open::CreatePrivate)
}

fn format_text(uuid: &[u8; 16], created_ms: i64) -> String {
    let mut text = format!("{TITLE}\nversion {FORMAT_VERSION}\nminimum-reader {MINIMUM_READER}\nuuid ");
    for byte in uuid {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let _ = writeln!(text, "\ncreated {}", utc(created_ms));
    text.push_str(&crc_line(&text));
    text
}

fn crc_line(before: &str) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(before.as_bytes()))
}

fn read_format(env: &dyn Env, dir: &Path) -> Result<[u8; 16], StorageError> {
    let path = dir.join(FORMAT);
    let bytes = read_file(env, &path, FORMAT_BYTES_MAX)?;
    let (minimum_reader, uuid) = parse_format(&bytes).map_err(StorageError::corrupt(&path, 0))?;
    if minimum_reader > FORMAT_VERSION {
        return Err(StorageError::Newer {
            path: dir.to_owned(),
            found: minimum_reader,
            supported: FORMAT_VERSION,
        });
    }
    Ok(uuid)
}

pub(crate) fn parse_format(bytes: &[u8]) -> Result<(u32, [u8; 16]), Fault> {
    let text = str::from_utf8(bytes).map_err(|_| Fault::Utf8)?;
    let crc_at = text.rfind("crc32c ").ok_or(Fault::Truncated)?;
    let (before_crc, crc) = text.split_at(crc_at);
    if !before_crc.starts_with(TITLE) {
        return Err(Fault::Magic);
    }
    // The whole line is compared, so that not even its case or its end can change unnoticed.
    if crc != crc_line(before_crc) {
        return Err(Fault::Checksum);
    }
    let field = |name: &str| {
        before_crc
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or(Fault::Structure("a line"))
    };
    let minimum_reader =
        field("minimum-reader")?.parse().map_err(|_| Fault::Structure("the minimum reader"))?;
    let digits = field("uuid")?;
    let number = u128::from_str_radix(digits, 16).map_err(|_| Fault::Structure("the uuid"))?;
    Ok((minimum_reader, number.to_be_bytes()))
}

fn read_key(env: &dyn Env, dir: &Path) -> Result<[u8; KEY_LEN], StorageError> {
    let path = dir.join(KEY);
    let bytes = read_file(env, &path, KEY_FILE_LEN as u64)?;
    parse_key(&bytes).map_err(StorageError::corrupt(&path, 0))
}

pub(crate) fn parse_key(bytes: &[u8]) -> Result<[u8; KEY_LEN], Fault> {
    let bytes: &[u8; KEY_FILE_LEN] = bytes.try_into().map_err(|_| Fault::Truncated)?;
    let (key, crc) = bytes.split_first_chunk().ok_or(Fault::Truncated)?;
    if *crc != crc32c::crc32c(key).to_le_bytes() {
        return Err(Fault::Checksum);
    }
    Ok(*key)
}

/// Returns a wall time as text, in UTC, to the second.
fn utc(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;

    use super::*;
    use crate::{
        clock::VirtualClock,
        env::{EnvFile, Space},
        sim::SimEnv,
    };

    /// A disk on which another process opens the data directory just before this one locks it.
    #[derive(Debug)]
    struct Raced(SimEnv, Mutex<Option<[u8; 16]>>);

    impl Env for Raced {
        fn lock(&self, path: &Path, content: &str) -> io::Result<Locking> {
            *self.1.lock() = Some(open(&self.0).uuid);
            self.0.lock(path, content)
        }
        fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn EnvFile>> {
            self.0.open(path, how)
        }
        fn make_dir(&self, path: &Path) -> io::Result<()> {
            self.0.make_dir(path)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
        fn remove_dir(&self, path: &Path) -> io::Result<()> {
            self.0.remove_dir(path)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.0.sync_dir(path)
        }
        fn space(&self, dir: &Path) -> io::Result<Space> {
            self.0.space(dir)
        }
        fn random(&self, out: &mut [u8]) -> io::Result<()> {
            self.0.random(out)
        }
        fn host(&self) -> String {
            self.0.host()
        }
    }

    fn open(env: &dyn Env) -> DataDirectory {
        DataDirectory::open(env, Path::new("/data"), &VirtualClock::new(0)).unwrap()
    }

    #[test]
    fn of_two_first_starts_at_once_one_makes_the_directory() {
        let env = Raced(SimEnv::new(1), Mutex::default());
        let uuid = open(&env).uuid;
        assert_eq!(*env.1.lock(), Some(uuid));
    }

    #[test]
    fn times_are_written_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_528_800_000, "2026-11-24T14:00:00Z"),
            (-1000, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn the_format_file_reads_back_and_notices_changes() {
        let text = format_text(&[0xab; 16], 0);
        assert_eq!(parse_format(text.as_bytes()), Ok((1, [0xab; 16])));
        let newer = text.replace("version 1", "version 2");
        assert_eq!(parse_format(newer.as_bytes()), Err(Fault::Checksum));
        assert_eq!(parse_format(b""), Err(Fault::Truncated));
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_format(&damaged).is_err(), "bit {bit}");
        }
    }
}
