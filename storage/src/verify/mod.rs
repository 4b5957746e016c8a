//! Looks for damage in a data directory: reads every byte of it, changes nothing, and takes no lock.
//!
//! What is still being written to is not damage: only what lies below a durable end that a file states must be
//! whole. In a directory that was stopped in good order that is everything.

mod door;
mod frames;
mod inspect;
mod log;
mod queues;
mod repair;

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{
    inspect::{
        BlockInfo, ColumnInfo, DirectoryInfo, FrameInfo, InspectFilter, Inspection, QueueFileInfo,
        SegmentInfo, StatisticsInfo,
    },
    repair::{RepairLock, RepairStep, plan_repair},
};
use crate::{
    catalogue::{State, TopicEntry},
    env::{Env, Open},
    error::StorageError,
    format::checkpoint::Checkpoint,
    journal::NamedEnds,
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// So many findings are kept; the rest is counted.
const FINDINGS_MAX: usize = 1000;
/// So many ranges of rows are kept of each finding.
const AFFECTED_MAX: usize = 1000;
/// While a broker changes the directory, so many looks are taken before the last one is believed.
const LOOKS_MAX: u32 = 4;
/// Progress is told after so many bytes.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Something in a file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The damaged structure: its bytes in the file.
    pub bytes: Range<u64>,
    /// What is wrong.
    pub what: String,
    /// What it costs.
    pub cost: &'static str,
    /// The rows that cannot be read because of it, as far as they are known.
    pub rows: Vec<AffectedRows>,
    /// What is done about it.
    pub remedy: Remedy,
}

/// Rows that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffectedRows {
    /// Their topic.
    pub topic: TopicId,
    /// Its name, after its namespace and a slash if it has one; empty if it is not known.
    pub name: String,
    /// Their queue.
    pub queue: QueueId,
    /// Their offsets. A few between them may be readable.
    pub offsets: Range<QueueOffset>,
}

/// What a start or a repair does about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The next start builds all consume queues anew from the log.
    StartRebuilds,
    /// A broker notices when it uses it, and builds it anew from the log; or a repair removes the file, and the next start
    /// builds all consume queues anew.
    RepairRebuilds,
    /// A repair removes the file; without it, as with it, the next start reads the whole log.
    ReadWholeLog,
    /// A start writes it anew from what else is known.
    StartRestores,
    /// A start fences it off and goes on behind it.
    Fenced,
    /// A repair cuts the journal there; without it the next start passes over it.
    CutJournal,
    /// Whoever reads the rows is told that they are damaged; everything else stays readable.
    StaysUnreadable,
    /// An earlier start has found it and fenced it off.
    Known,
    /// A repair makes a new key.
    NewKey,
    /// No start is possible: the file must be restored from a copy.
    Restore,
    /// A repair writes the zeros that belong there.
    WriteZeros,
    /// Nothing needs to be done.
    Nothing,
}

impl Remedy {
    /// Returns a sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::StartRebuilds => "the next start builds the consume queues anew from the log",
            Self::RepairRebuilds => {
                "a broker builds it anew from the log once it has met it; a repair removes the file, and the next start builds all consume queues anew"
            }
            Self::ReadWholeLog => "the next start reads the whole log instead; a repair removes the file",
            Self::StartRestores => "the next start writes it anew",
            Self::Fenced => "the next start fences it off, and everything else stays readable",
            Self::CutJournal => "a repair cuts it off; without one the next start passes over it",
            Self::StaysUnreadable => "who reads these rows is told so, and everything else stays readable",
            Self::Known => "a start has fenced it off; everything else is readable",
            Self::NewKey => "a repair makes a new key",
            Self::Restore => "no start is possible: restore the file from a copy",
            Self::WriteZeros => "a repair writes the zeros that belong there; nothing depends on it",
            Self::Nothing => "nothing needs to be done",
        }
    }

    /// Returns a word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::StartRebuilds => "start_rebuilds",
            Self::RepairRebuilds => "repair_rebuilds",
            Self::ReadWholeLog => "read_whole_log",
            Self::StartRestores => "start_restores",
            Self::Fenced => "fenced",
            Self::CutJournal => "cut_journal",
            Self::StaysUnreadable => "stays_unreadable",
            Self::Known => "known",
            Self::NewKey => "new_key",
            Self::Restore => "restore",
            Self::WriteZeros => "write_zeros",
            Self::Nothing => "nothing",
        }
    }
}

/// What a look at a data directory has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// The first thousand findings.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
    /// The checkpoint says that the last stop was in good order.
    pub clean: bool,
    /// Where the log begins and ends.
    pub log: Range<LogPosition>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whole records of the log.
    pub records: u64,
    /// Rows in the files of consume queues.
    pub rows: u64,
}

impl Verified {
    /// Returns the rows whose records the log has lost, if what was found leads to consume queues being built anew: they
    /// can be selected until then, as far as their columns are whole, and never after that.
    pub fn missing_after_rebuild(&self) -> Vec<AffectedRows> {
        let rebuilds = |finding: &Finding| {
            matches!(finding.remedy, Remedy::StartRebuilds | Remedy::RepairRebuilds | Remedy::ReadWholeLog)
        };
        if !self.findings.iter().any(rebuilds) {
            return Vec::new();
        }
        let lost = |finding: &&Finding| {
            matches!(finding.remedy, Remedy::Fenced | Remedy::StaysUnreadable | Remedy::Known)
        };
        let mut rows: Vec<AffectedRows> =
            self.findings.iter().filter(lost).flat_map(|finding| finding.rows.iter().cloned()).collect();
        rows.sort_by_key(|rows| (rows.topic, rows.queue, rows.offsets.start));
        rows.dedup_by(|next, before| {
            let joins = (next.topic, next.queue) == (before.topic, before.queue)
                && next.offsets.start <= before.offsets.end;
            if joins {
                before.offsets.end = before.offsets.end.max(next.offsets.end);
            }
            joins
        });
        rows
    }
}

/// How far a look has come.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Bytes read.
    pub done: u64,
    /// Bytes to be read, as far as is known.
    pub total: u64,
    /// The file that is being read.
    pub path: &'a Path,
}

/// Reads a whole data directory and returns what is damaged. Writes nothing and takes no lock.
///
/// A broker may be at work in it; then the look is taken again until nothing moved meanwhile, a few times at most.
/// The memory that it takes does not grow with the directory, but for a few numbers of each queue.
///
/// # Errors
///
/// If a file cannot be read, the directory is no data directory, or a newer program has written it.
pub fn verify(
    env: &Arc<dyn Env>,
    dir: &Path,
    watch: &mut dyn FnMut(&Progress<'_>),
) -> Result<Verified, StorageError> {
    let mut look = 1;
    let mut seen: Option<Vec<Finding>> = None;
    loop {
        let before = Files::of(env.as_ref(), dir)?;
        let mut result = Verifier::new(env, dir, watch).run();
        if let (Ok(found), Some(seen)) = (&mut result, &seen) {
            // What moves under one look is damaged nowhere; what is damaged is so under all of them.
            let is_same =
                |a: &Finding, b: &Finding| (&a.path, &a.bytes, &a.what) == (&b.path, &b.bytes, &b.what);
            found.findings.retain(|finding| seen.iter().any(|before| is_same(before, finding)));
        }
        let found_nothing = result.as_ref().is_ok_and(|found| found.findings.is_empty());
        if found_nothing || look >= LOOKS_MAX || before == Files::of(env.as_ref(), dir)? {
            return result;
        }
        // Only a complete list says what was not found.
        seen = result.ok().filter(|found| found.more_findings == 0).map(|found| found.findings).or(seen);
        look += 1;
    }
}

/// What shows that a broker has moved something: the checkpoint, and names and lengths of the files that it appends to.
#[derive(PartialEq, Eq)]
struct Files {
    checkpoint: Option<Vec<u8>>,
    lens: Vec<(PathBuf, Option<u64>)>,
}

impl Files {
    fn of(env: &dyn Env, dir: &Path) -> Result<Self, StorageError> {
        let checkpoint = door::read_checkpoint_bytes(env, dir)?;
        let mut lens = Vec::new();
        for dir in ["log", "journal", "catalogue"].map(|name| dir.join(name)) {
            for path in list(env, &dir)?.into_iter().map(|name| dir.join(name)) {
                let len = file_len(env, &path)?;
                lens.push((path, len));
            }
        }
        Ok(Self { checkpoint, lens })
    }
}

/// One look.
struct Verifier<'a> {
    env: &'a Arc<dyn Env>,
    dir: &'a Path,
    uuid: [u8; 16],
    checkpoint: Option<Checkpoint>,
    catalogue: State,
    /// How far the journal states that the log was durable.
    log_durable: LogPosition,
    /// How far queues went, as far as the journal names rows.
    named: NamedEnds,
    /// Rows that the log has lost below the checkpoint, with the finding: the consume queues say the same of them, as
    /// far as they are whole.
    lost_below: Vec<(TopicId, QueueId, Range<QueueOffset>, usize)>,
    found: Verified,
    watch: &'a mut dyn FnMut(&Progress<'_>),
    total: u64,
    /// Bytes read when progress was told last.
    told: u64,
}

impl<'a> Verifier<'a> {
    fn new(env: &'a Arc<dyn Env>, dir: &'a Path, watch: &'a mut dyn FnMut(&Progress<'_>)) -> Self {
        Self {
            env,
            dir,
            uuid: [0; 16],
            checkpoint: None,
            catalogue: State::default(),
            log_durable: LogPosition(0),
            named: NamedEnds::new(),
            lost_below: Vec::new(),
            found: Verified::default(),
            watch,
            total: 0,
            told: 0,
        }
    }

    fn run(mut self) -> Result<Verified, StorageError> {
        self.total = self.size()?;
        self.format()?;
        self.key()?;
        self.read_checkpoint()?;
        self.read_catalogue()?;
        // It states how far the log was durable; of a broker at work the log is further by the time that it is read.
        self.read_journal()?;
        let log = self.read_log()?;
        self.read_queues(log)?;
        for (topic, queue, offsets, finding) in std::mem::take(&mut self.lost_below) {
            if !self.is_affected(topic, queue, &offsets) {
                self.affects(finding, topic, queue, offsets);
            }
        }
        Ok(self.found)
    }

    /// Returns how much there is to read.
    fn size(&self) -> Result<u64, StorageError> {
        let mut total = 0;
        for dir in ["log", "journal", "catalogue"] {
            let dir = self.dir.join(dir);
            for name in list(self.env.as_ref(), &dir)? {
                total += file_len(self.env.as_ref(), &dir.join(name))?.unwrap_or_default();
            }
        }
        Ok(total)
    }

    fn find(&mut self, finding: Finding) -> usize {
        if self.found.findings.len() < FINDINGS_MAX {
            self.found.findings.push(finding);
            return self.found.findings.len() - 1;
        }
        self.found.more_findings += 1;
        FINDINGS_MAX
    }

    fn read(&mut self, bytes: u64, path: &Path) {
        self.found.bytes += bytes;
        if self.found.bytes >= self.told + PROGRESS_BYTES {
            self.told = self.found.bytes;
            (self.watch)(&Progress { done: self.told, total: self.total, path });
        }
    }

    /// Returns whether a finding names one of these rows.
    fn is_affected(&self, topic: TopicId, queue: QueueId, offsets: &Range<QueueOffset>) -> bool {
        self.found.findings.iter().filter(|finding| !finding.path.starts_with(self.dir.join("queues"))).any(
            |finding| {
                finding.rows.iter().any(|rows| {
                    (rows.topic, rows.queue) == (topic, queue)
                        && rows.offsets.start < offsets.end
                        && offsets.start < rows.offsets.end
                })
            },
        )
    }

    /// Notes that rows cannot be read because of a finding.
    fn affects(&mut self, finding: usize, topic: TopicId, queue: QueueId, offsets: Range<QueueOffset>) {
        let Some(found) = self.found.findings.get_mut(finding) else { return };
        let same = |rows: &&mut AffectedRows| (rows.topic, rows.queue) == (topic, queue);
        for rows in found.rows.iter_mut().filter(same) {
            if offsets.start <= rows.offsets.end && rows.offsets.start <= offsets.end {
                rows.offsets = rows.offsets.start.min(offsets.start)..rows.offsets.end.max(offsets.end);
                return;
            }
        }
        if found.rows.len() < AFFECTED_MAX {
            let name = self.catalogue.topics.get(&topic).map(|topic| full_name(topic));
            found.rows.push(AffectedRows { topic, name: name.unwrap_or_default(), queue, offsets });
        }
    }
}

/// Returns the name of a topic, after its namespace and a slash if it has one.
fn full_name(topic: &TopicEntry) -> String {
    match topic.namespace.as_str() {
        "" => topic.name.clone(),
        namespace => format!("{namespace}/{}", topic.name),
    }
}

/// Returns the names in a directory; none if it is not there.
fn list(env: &dyn Env, dir: &Path) -> Result<Vec<String>, StorageError> {
    match env.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StorageError::io("list", dir)),
    }
}

/// Returns how long a file is, if it is still there.
fn file_len(env: &dyn Env, path: &Path) -> Result<Option<u64>, StorageError> {
    match env.open(path, Open::Read).and_then(|file| file.len()) {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io("read", path)(error)),
    }
}

impl fmt::Display for AffectedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "topic {}", self.topic)?,
            name => f.write_str(name)?,
        }
        let (first, last) = (self.offsets.start.0, self.offsets.end.0.saturating_sub(1));
        write!(f, " queue {}: ", self.queue)?;
        if first == last { write!(f, "{first}") } else { write!(f, "{first} to {last}") }
    }
}
