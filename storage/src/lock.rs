//! The door of a data directory: its `LOCK`, its `FORMAT` and its `key`. Layout: `docs/format.md`, "Data directory".

use std::{fmt::Write as _, path::Path};

use crate::{
    clock::Clock,
    env::{Env, Hold, Locking, Open, read_file, replace_file},
    error::{Fault, StorageError},
};

/// The newest version of the format that this program knows, and writes.
pub const FORMAT_VERSION: u32 = 4;
/// What any program can read that knows the oldest version: a directory without a [`Feature`].
const MINIMUM_READER: u32 = 1;
/// How this program calls itself in `FORMAT`.
const PROGRAM: &str = concat!("weir ", env!("CARGO_PKG_VERSION"));
const TITLE: &str = "weir data directory";
pub(crate) const FORMAT: &str = "FORMAT";
/// Stands in a copy of a data directory until it is complete.
pub(crate) const UNFINISHED: &str = "UNFINISHED";
const LOCK: &str = "LOCK";
pub(crate) const KEY: &str = "key";
pub(crate) const KEY_LEN: usize = 32;
/// The key and its checksum.
pub(crate) const KEY_FILE_LEN: usize = KEY_LEN + 4;
/// Such a file says little.
pub(crate) const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// What a directory may hold that not every program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Bodies that the broker has compressed, and topics that say so.
    CompressedBodies,
    /// The pending topic, releases, and entries of the journal that say which pending rows are done.
    PendingMessages,
    /// Entries of the journal that say where groups stand in lite topics.
    LiteTopics,
}

impl Feature {
    /// The version from which on programs know it.
    const fn since(self) -> u32 {
        match self {
            Self::CompressedBodies => 2,
            Self::PendingMessages => 3,
            Self::LiteTopics => 4,
        }
    }

    /// Its name in `FORMAT`, for people.
    const fn name(self) -> &'static str {
        match self {
            Self::CompressedBodies => "compressed bodies",
            Self::PendingMessages => "pending messages",
            Self::LiteTopics => "lite topics",
        }
    }
}

/// What `FORMAT` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// The newest version that a program knew which has started on the directory.
    pub(crate) version: u32,
    /// What a reader must know at least.
    pub(crate) minimum_reader: u32,
    /// Why it must: versions, and what is in the directory that came with them.
    pub(crate) needs: Vec<(u32, String)>,
    pub(crate) uuid: [u8; 16],
    /// As it was written.
    created: String,
    /// The program that has written this file, as it calls itself.
    written_by: Option<String>,
}

/// A data directory that is ours.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub(crate) uuid: [u8; 16],
    format: Format,
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
        let format = read_format(env, dir)?;
        let key = read_key(env, dir)?;
        Ok(Self { uuid: format.uuid, format, key, _lock: lock })
    }

    /// Says, once a start has succeeded, that a program of this version has the directory. An older one may still
    /// read it, as long as nothing [needs](Self::need) more.
    pub(crate) fn note_version(&mut self, env: &dyn Env, dir: &Path) -> Result<(), StorageError> {
        if self.format.version >= FORMAT_VERSION {
            return Ok(());
        }
        self.write(env, dir, self.format.clone())
    }

    /// Says that there is, or will be, something that older programs cannot read, so that they refuse the directory.
    /// Durable when this returns; comes before whatever needs it.
    pub(crate) fn need(&mut self, env: &dyn Env, dir: &Path, feature: Feature) -> Result<(), StorageError> {
        let line = (feature.since(), feature.name().to_owned());
        if self.format.needs.contains(&line) {
            return Ok(());
        }
        let mut format = self.format.clone();
        format.minimum_reader = format.minimum_reader.max(feature.since());
        format.needs.push(line);
        self.write(env, dir, format)
    }

    fn write(&mut self, env: &dyn Env, dir: &Path, mut format: Format) -> Result<(), StorageError> {
        format.version = format.version.max(FORMAT_VERSION);
        format.written_by = Some(PROGRAM.to_owned());
        replace_file(env, &dir.join(FORMAT), format.text().as_bytes(), Open::Create)?;
        self.format = format;
        Ok(())
    }
}

/// Returns whether this is a data directory already; an error if it cannot become one.
fn has_format(env: &dyn Env, dir: &Path) -> Result<bool, StorageError> {
    let names = env.list(dir).map_err(StorageError::io("list", dir))?;
    let has_format = names.iter().any(|name| name == FORMAT);
    let ours = [LOCK, "FORMAT.tmp", "key.tmp", KEY];
    if !has_format && names.iter().any(|name| !ours.contains(&name.as_str())) {
        return check_format(&names, dir).map(|()| has_format);
    }
    Ok(has_format)
}

/// Returns an error if a directory with files of these names is no data directory.
pub(crate) fn check_format(names: &[String], dir: &Path) -> Result<(), StorageError> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let path = dir.to_owned();
    match (has(FORMAT), has(UNFINISHED)) {
        (true, _) => Ok(()),
        (false, true) => Err(StorageError::CopyUnfinished { path }),
        (false, false) => Err(StorageError::Foreign { path }),
    }
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
    let format = Format {
        version: FORMAT_VERSION,
        minimum_reader: MINIMUM_READER,
        needs: Vec::new(),
        uuid,
        created: utc(clock.wall_ms()),
        written_by: Some(PROGRAM.to_owned()),
    };
    replace_file(env, &dir.join(FORMAT), format.text().as_bytes(), Open::Create)
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

impl Format {
    fn text(&self) -> String {
        let mut text = format!("{TITLE}\nversion {}\nminimum-reader {}\n", self.version, self.minimum_reader);
        // Writing to a String cannot fail.
        for (version, what) in &self.needs {
            let _ = writeln!(text, "needs {version} {what}");
        }
        text.push_str("uuid ");
        for byte in self.uuid {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = writeln!(text, "\ncreated {}", self.created);
        if let Some(program) = &self.written_by {
            let _ = writeln!(text, "written-by {program}");
        }
        text.push_str(&crc_line(&text));
        text
    }

    /// Returns an error, which says why, if this program cannot read the directory.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), StorageError> {
        if self.minimum_reader <= FORMAT_VERSION {
            return Ok(());
        }
        let needs = self.needs.iter().filter(|(version, _)| *version > FORMAT_VERSION);
        let needs: Vec<&str> = needs.map(|(_, what)| what.as_str()).collect();
        Err(StorageError::NeedsNewer {
            path: dir.to_owned(),
            needed: self.minimum_reader,
            supported: FORMAT_VERSION,
            why: if needs.is_empty() { "a newer format".to_owned() } else { needs.join(", ") },
            written_by: self
                .written_by
                .clone()
                .unwrap_or_else(|| format!("a Weir of format {}", self.version)),
        })
    }
}

fn crc_line(before: &str) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(before.as_bytes()))
}

fn read_format(env: &dyn Env, dir: &Path) -> Result<Format, StorageError> {
    let path = dir.join(FORMAT);
    let bytes = read_file(env, &path, FORMAT_BYTES_MAX)?;
    let format = parse_format(&bytes).map_err(StorageError::corrupt(&path, 0))?;
    format.check(dir)?;
    Ok(format)
}

pub(crate) fn parse_format(bytes: &[u8]) -> Result<Format, Fault> {
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
    let all = |name: &'static str| {
        before_crc.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let field = |name| all(name).next().ok_or(Fault::Structure("a line"));
    let number = |name| field(name)?.parse().map_err(|_| Fault::Structure("the number of a version"));
    let uuid = u128::from_str_radix(field("uuid")?, 16).map_err(|_| Fault::Structure("the uuid"))?;
    let need = |line: &str| {
        let (version, what) = line.split_once(' ')?;
        Some((version.parse().ok()?, what.to_owned()))
    };
    Ok(Format {
        version: number("version")?,
        minimum_reader: number("minimum-reader")?,
        needs: all("needs").filter_map(need).collect(),
        uuid: uuid.to_be_bytes(),
        created: field("created")?.to_owned(),
        written_by: all("written-by").next().map(str::to_owned),
    })
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
    fn a_need_is_said_once_and_an_older_directory_says_who_has_it_when_told() {
        let env = SimEnv::new(1);
        let dir = Path::new("/data");
        drop(open(&env));
        let path = dir.join(FORMAT);
        let read = || parse_format(&env.bytes(&path).unwrap()).unwrap();
        let made = read();
        assert_eq!((made.version, made.minimum_reader), (FORMAT_VERSION, 1));
        // As the first program wrote it.
        let first = Format { version: 1, written_by: None, ..made.clone() };
        env.damage(&path, |bytes| *bytes = first.text().into_bytes());
        let mut directory = open(&env);
        assert_eq!(read(), first, "opening changes nothing");
        directory.note_version(&env, dir).unwrap();
        assert_eq!(read(), made);
        for _ in 0..2 {
            directory.need(&env, dir, Feature::CompressedBodies).unwrap();
            let needs = vec![(2, "compressed bodies".to_owned())];
            assert_eq!(read(), Format { minimum_reader: 2, needs, ..made.clone() });
        }
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
        let format = Format {
            version: 3,
            minimum_reader: 2,
            needs: vec![(2, "a thing".to_owned()), (2, "another".to_owned())],
            uuid: [0xab; 16],
            created: utc(0),
            written_by: Some("weir 9".to_owned()),
        };
        let text = format.text();
        assert_eq!(parse_format(text.as_bytes()), Ok(format.clone()));
        let least = Format { needs: Vec::new(), written_by: None, ..format };
        assert_eq!(parse_format(least.text().as_bytes()), Ok(least));
        let newer = text.replace("version 3", "version 4");
        assert_eq!(parse_format(newer.as_bytes()), Err(Fault::Checksum));
        assert_eq!(parse_format(b""), Err(Fault::Truncated));
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_format(&damaged).is_err(), "bit {bit}");
        }
    }
}
