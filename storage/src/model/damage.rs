//! What the model does at the end of each seed: it stops the storage, damages a file or lets reads fail, and compares
//! what is there then with what an undamaged copy of the same disk has.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{DIR, Listener, Model, Place, Random, options};
use crate::{
    clock::VirtualClock,
    env::Env,
    error::StorageError,
    journal::JournalEntry,
    offset::{LogPosition, QueueId, QueueOffset},
    queue::view::{Part, QueueView},
    sim::{SimCall, SimEnv},
    storage::{RecoveryReport, Storage},
    verify::{Verified, verify},
};

/// What somebody can read.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The first offset of each queue, and of each row the number of its message, if it can be read.
    rows: BTreeMap<Place, (u64, Vec<Option<u64>>)>,
    journal: Vec<JournalEntry>,
    /// Where log and journal were cut.
    cuts: [Option<LogPosition>; 2],
}

fn open(env: &SimEnv, clock: &Arc<VirtualClock>) -> Result<Storage, StorageError> {
    Storage::open_stepped(Path::new(DIR), options(env, clock), Arc::new(Listener::default()))
}

fn see(storage: &Storage) -> Seen {
    let mut rows = BTreeMap::new();
    for topic in storage.topics() {
        for queue in (0..topic.queues).map(QueueId) {
            let view = storage.view(topic.id, queue).unwrap();
            let range = view.range();
            let read = |offset| row(storage, &view, (topic.id, queue), QueueOffset(offset));
            rows.insert((topic.id, queue), (range.start.0, (range.start.0..range.end.0).map(read).collect()));
        }
    }
    let report = storage.report();
    let cuts = [report.cut, report.journal_cut].map(|cut| cut.map(|cut| cut.position));
    Seen { rows, journal: storage.take_journal(), cuts }
}

/// Returns the number of the message in a row; none if it cannot be read, which must be said as what it is.
fn row(storage: &Storage, view: &QueueView, place: Place, offset: QueueOffset) -> Option<u64> {
    let read = || {
        let block = match view.part_at(offset).expect("offsets have no gaps") {
            Part::Segment(segment, block) => segment.block(block)?,
            Part::Run(block) => block,
        };
        let row = offset.since(block.base()).unwrap() as usize;
        if block.lost().is_some_and(|lost| lost.value(row)) {
            return Ok(None);
        }
        let stored = storage.read(LogPosition(block.positions()?.value(row)))?;
        assert_eq!((stored.topic, stored.queue, stored.offset), (place.0, place.1, offset));
        Ok(Some(u64::from_le_bytes(stored.message.body[..8].try_into().unwrap())))
    };
    match read() {
        Ok(found) => found,
        Err(StorageError::Corrupt { .. } | StorageError::Lost { .. } | StorageError::NoRecord { .. }) => None,
        // A read that failed.
        Err(StorageError::Io { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

impl Model {
    /// Ends the seed with damage.
    pub(super) fn damage(mut self) {
        self.env.set_capacity(None);
        self.env.fail_no_more();
        let storage = self.storage.take().expect("it is closed only between lives");
        let is_clean = !self.env.is_off() && self.random.below(3) == 0 && storage.close().is_ok();
        if self.env.is_off() || (!is_clean && self.random.below(2) == 0) {
            self.env.lose_power();
        } else {
            self.env.kill();
        }
        drop(storage);
        self.held.clear();
        let whole = see(&open(&self.env.copy(), &self.clock).unwrap());
        let (env, clock) = (self.env.copy(), Arc::clone(&self.clock));
        if self.random.below(4) == 0 {
            reads_fail(&env, &clock, &mut self.random, &whole);
        } else {
            bit_flips(&env, &clock, &mut self.random, &whole, is_clean);
        }
    }
}

/// A read that fails costs an answer, and nothing else.
fn reads_fail(env: &SimEnv, clock: &Arc<VirtualClock>, random: &mut Random, whole: &Seen) {
    env.fail(SimCall::Read, random.below(60), io::ErrorKind::Other);
    match open(env, clock) {
        Ok(storage) => {
            let seen = see(&storage);
            for (place, (first, rows)) in &seen.rows {
                let (expected_first, expected) = &whole.rows[place];
                assert_eq!((first, rows.len()), (expected_first, expected.len()));
                let is_same =
                    |(row, expected): (&Option<u64>, &Option<u64>)| row.is_none() || row == expected;
                assert!(rows.iter().zip(expected).all(is_same), "{place:?}");
                assert!(rows.iter().filter(|row| row.is_none()).count() <= 1, "one read has failed");
            }
            assert_eq!(storage.report().fences, [], "a read that fails is no damage");
        }
        Err(error) => assert!(matches!(error, StorageError::Io { .. }), "{error}"),
    }
    env.fail_no_more();
    env.kill();
    let storage = open(env, clock).unwrap();
    assert_eq!(see(&storage).rows, whole.rows, "nothing is lost by a read that failed");
}

fn bit_flips(env: &SimEnv, clock: &Arc<VirtualClock>, random: &mut Random, whole: &Seen, is_clean: bool) {
    let in_dir = |path: &Path, dir: &str| path.starts_with(Path::new(DIR).join(dir));
    let is_wanted = |path: &PathBuf| {
        let is_ours = ["log", "journal", "queues", "checkpoint"].iter().any(|dir| in_dir(path, dir));
        is_ours && path.extension().is_none_or(|extension| extension != "tmp")
    };
    let paths: Vec<PathBuf> = env.paths().into_iter().filter(is_wanted).collect();
    let path = &paths[random.below(paths.len() as u64) as usize];
    let bytes = env.bytes(path).unwrap();
    // What holds nothing is rarely hit.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) as u64;
    let bound = if random.below(8) == 0 { bytes.len() as u64 } else { used };
    if bound == 0 {
        return;
    }
    let at = random.below(bound) as usize;
    let is_cut = random.below(6) == 0;
    let bit = random.below(8);
    env.damage(path, |bytes| if is_cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit });
    let dynamic: Arc<dyn Env> = Arc::new(env.clone());
    let found = verify(&dynamic, Path::new(DIR), &mut |_| {}).unwrap();
    let what = format!("{}, byte {at}, cut {is_cut}, clean {is_clean}", path.display());
    // A crash may have left bytes behind an end that hold nothing.
    let is_there = |finding: &crate::Finding| {
        finding.path == *path || finding.what.contains("missing") || finding.cost.starts_with("nothing")
    };
    assert!(found.findings.iter().all(is_there), "{what}: {:?}", found.findings);
    let storage = open(env, clock).unwrap_or_else(|error| panic!("{what}: {error}"));
    if is_clean && found.findings.is_empty() {
        // A file that could not be removed before, and that no checkpoint lists.
        let is_removed = in_dir(path, "queues") && env.bytes(path).is_none();
        assert!(is_removed, "{what}: nothing was found");
    }
    let report = storage.report().clone();
    let what = format!("{what}: {report:?}, {:?}", found.findings);
    let seen = see(&storage);
    // Nothing states that there was more.
    if !is_cut || is_clean || !found.findings.is_empty() {
        check(&seen, whole, &found, &report, is_cut, &what);
    }
    drop(storage);
    env.kill();
    let again = open(env, clock).unwrap();
    assert_eq!((&again.report().fences, &again.report().cut), (&Vec::new(), &None), "said once; {what}");
}

fn check(
    seen: &Seen,
    whole: &Seen,
    found: &Verified,
    report: &RecoveryReport,
    is_truncated: bool,
    what: &str,
) {
    // The loss of power may have torn the end, too.
    let [is_cut, is_journal_cut] =
        [0, 1].map(|number| seen.cuts[number].is_some() && seen.cuts[number] != whole.cuts[number]);
    let mut missing = 0;
    for (place, (expected_first, expected)) in &whole.rows {
        let (first, rows) = &seen.rows[place];
        assert_eq!(first, expected_first, "{place:?}; {what}");
        assert!(rows.len() <= expected.len(), "rows that were never there; {place:?}; {what}");
        for (offset, (row, expected)) in rows.iter().zip(expected).enumerate() {
            assert!(row.is_none() || row == expected, "another message at {offset} of {place:?}; {what}");
            missing += usize::from(row.is_none());
        }
        // Only what nothing proves is taken for a tear; a lost row keeps its offset, unless its bytes are gone and no
        // group knows of it.
        let gone = expected.len() - rows.len();
        // A bit may hit the one field that tells the offset.
        let is_said = is_cut || ((is_truncated || gone == 1) && !report.fences.is_empty());
        assert!(gone == 0 || is_said, "{gone} rows of {place:?} are gone without a word; {what}");
    }
    let is_found = !found.findings.is_empty();
    assert!(missing == 0 || is_found, "{missing} rows are lost without a word; {what}");
    assert!(report.fences.is_empty() || is_found, "a start finds more than verify; {what}");
    assert!(
        !is_cut || !found.findings.iter().any(|finding| finding.path.extension().is_some_and(|e| e == "log")),
        "what verify knows to be damaged is not cut; {what}"
    );
    if !is_cut && !is_journal_cut && report.journal_fences.is_empty() {
        assert_eq!(seen.journal, whole.journal, "groups step back over nothing; {what}");
    }
}
