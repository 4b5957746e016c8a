//! Damage of every kind is found, and costs no more than it must.

#![expect(clippy::disallowed_methods, reason = "one test looks at real files")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use weir_columns::{ColumnRef, Rows, Value};
use weir_storage::{
    Append, DiskEnv, DurabilityClass, Env, Events, Finding, GroupId, InspectFilter, Inspection, JournalEntry,
    Message, NewGroup, NewTopic, Part, QueueId, QueueOffset, Remedy, RepairLock, SimEnv, Storage,
    StorageError, StorageOptions, TopicId, Verified, VirtualClock, Wait, plan_repair, verify,
};

use crate::support::{Place, QUEUE, append, journal, new_topic};

/// A small part of a directory is looked at in every bit's neighbourhood; of zeros and of long files every so
/// many bytes.
const ZEROS_STEP: usize = 509;
const SHORT: usize = 6 << 10;

/// What was stored: of each topic its name, queues, and rows by queue.
struct Stored {
    topics: Vec<(TopicId, Vec<Vec<Message>>)>,
}

fn message_of(number: u64) -> Message {
    Message {
        message_id: format!("id{number}"),
        tag: (!number.is_multiple_of(3)).then(|| format!("tag{}", number % 2)),
        keys: vec![format!("k{number}")],
        properties: vec![
            ("n".into(), Value::I64(number as i64)),
            ("region".into(), Value::Text(if number.is_multiple_of(2) { "EU" } else { "US" }.into())),
        ],
        body: vec![number as u8; 20 + (number % 7) as usize].into(),
        ..Message::default()
    }
}

fn small_place() -> Place {
    let mut place = Place::new();
    place.options = StorageOptions {
        log_segment_bytes_min: 5 << 10,
        log_segment_bytes_max: 5 << 10,
        zero_ahead_bytes: 2 << 10,
        journal_segment_bytes: 8 << 10,
        journal_zero_ahead_bytes: 1 << 10,
        ..place.options
    };
    place
}

fn append_batch(storage: &Storage, batch: Vec<Append>) {
    let (sender, receiver) = mpsc::channel();
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
}

/// Makes a directory with topics, groups, a journal and `rows` rows in each queue.
fn fill(storage: &Storage, rows: u64, at_once: u64) -> Stored {
    let mut stored = Stored { topics: Vec::new() };
    for (name, queues) in [("orders", 2), ("bills", 1)] {
        let new = NewTopic { queues, ..new_topic(name, DurabilityClass::Sync) };
        let id = storage.create_topic(new).unwrap().id;
        stored.topics.push((id, vec![Vec::new(); queues as usize]));
    }
    storage.create_group(NewGroup { name: "g".into(), ..NewGroup::default() }).unwrap();
    for begin in (0..rows).step_by(at_once as usize) {
        for (topic, queues) in &mut stored.topics {
            let mut batch = Vec::new();
            for (queue, stored) in queues.iter_mut().enumerate() {
                for number in begin..(begin + at_once).min(rows) {
                    let message = message_of(number * 10 + queue as u64);
                    stored.push(message.clone());
                    batch.push(Append { topic: *topic, queue: QueueId(queue as u32), message });
                }
            }
            append_batch(storage, batch);
        }
        let offsets = vec![QueueOffset(begin)];
        let topic = stored.topics[0].0;
        let ack = JournalEntry::Ack { group: GroupId(1), topic, queue: QueueId(0), offsets };
        journal(storage, ack, Wait::Durable).unwrap();
    }
    stored
}

fn look(env: &SimEnv) -> Result<Verified, StorageError> {
    let env: Arc<dyn Env> = Arc::new(env.clone());
    verify(&env, Path::new("/data"), &mut |_| {})
}

fn data_files(env: &SimEnv) -> Vec<PathBuf> {
    env.paths().into_iter().filter(|path| path.extension() != Some("tmp".as_ref())).collect()
}

/// Reads every row: each is right, lost, or an error that says what is wrong.
fn read_all(storage: &Storage, stored: &Stored) -> usize {
    let mut right = 0;
    for (topic, queues) in &stored.topics {
        for (queue, messages) in queues.iter().enumerate() {
            let Some(view) = storage.view(*topic, QueueId(queue as u32)) else { continue };
            let range = view.range();
            assert!(range.end.0 <= messages.len() as u64);
            for offset in (range.start.0..range.end.0).map(QueueOffset) {
                let block = match view.part_at(offset).unwrap() {
                    Part::Segment(segment, number) => segment.block(number),
                    Part::Run(block) => Ok(block),
                };
                let Ok(block) = block.map_err(check_error) else { continue };
                let row = offset.since(block.base()).unwrap() as usize;
                if block.lost().is_some_and(|lost| lost.value(row)) {
                    continue;
                }
                let expected = &messages[offset.0 as usize];
                for (name, value) in &expected.properties {
                    match block.value(ColumnRef::Property(name), row) {
                        Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                        Err(error) => check_error(error),
                    }
                }
                match block.message(row) {
                    Ok(found) => {
                        assert_eq!(
                            (found.topic, found.queue.0 as usize, found.offset),
                            (*topic, queue, offset)
                        );
                        assert_eq!(found.message, *expected);
                        right += 1;
                    }
                    Err(error) => check_error(error),
                }
            }
        }
    }
    right
}

fn check_error(error: StorageError) {
    assert!(
        matches!(
            error,
            StorageError::Corrupt { .. } | StorageError::Lost { .. } | StorageError::NoRecord { .. }
        ),
        "{error}"
    );
}

fn finding_at<'a>(found: &'a Verified, path: &Path, at: u64) -> Option<&'a Finding> {
    found.findings.iter().find(|finding| finding.path == path && finding.bytes.contains(&at))
}

/// Returns the bytes of a file to be damaged: all of a short file; of a long one all that are not zero or stand beside
/// one that is not, and some zeros.
fn places(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| (at.saturating_sub(1)..(at + 2).min(bytes.len())).any(|at| bytes[at] != 0);
    let all = bytes.len() <= SHORT;
    (0..bytes.len()).filter(|at| all || near(*at) || at % ZEROS_STEP == 0 || at + 1 == bytes.len()).collect()
}

/// Damages a copy, opens it and reads everything; returns how many rows were right, if it could be opened.
fn life_after(
    place: &Place,
    stored: &Stored,
    path: &Path,
    damage: impl FnOnce(&mut Vec<u8>),
) -> Option<usize> {
    let copy = Place { env: place.env.copy(), told: Arc::default(), options: place.options.clone() };
    let copy = Place { options: StorageOptions { env: Arc::new(copy.env.clone()), ..copy.options }, ..copy };
    copy.env.damage(path, damage);
    match copy.try_open() {
        Ok(storage) => {
            let right = read_all(&storage, stored);
            copy.kill(storage);
            Some(right)
        }
        Err(error) => {
            assert!(
                matches!(
                    error,
                    StorageError::Corrupt { .. } | StorageError::Newer { .. } | StorageError::TooLarge { .. }
                ),
                "{}: {error}",
                path.display()
            );
            None
        }
    }
}

#[test]
fn a_directory_that_was_stopped_cleanly_is_whole() {
    let place = small_place();
    let storage = place.open();
    fill(&storage, 40, 4);
    let live = look(&place.env).unwrap();
    assert_eq!(live.findings, [], "while it is open");
    storage.close().unwrap();
    drop(storage);
    let found = look(&place.env).unwrap();
    assert_eq!(found.findings, []);
    assert!(found.clean);
    assert_eq!(found.rows, 120);
    assert!(found.records > 120, "topics have records, too");
    assert_eq!(found.files as usize, data_files(&place.env).len());
}

/// A directory that was stopped in good order, with sealed and open segments and a file of blocks.
fn stopped() -> (Place, Stored) {
    let place = small_place();
    let storage = place.open();
    let stored = fill(&storage, 12, 3);
    storage.close().unwrap();
    drop(storage);
    assert!(place.files("log").len() > 1 && place.files("queues/shared").len() == 1);
    (place, stored)
}

#[test]
fn every_flipped_bit_is_found_where_it_is() {
    let (place, _) = stopped();
    let env = &place.env;
    let mut looks = 0;
    for path in data_files(env) {
        for at in places(&env.bytes(&path).unwrap()) {
            let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            env.damage(&path, flip);
            let found = look(env);
            let seen = found.as_ref().is_ok_and(|found| finding_at(found, &path, at as u64).is_some());
            // A newer version is refused as a whole.
            let refused = matches!(found, Err(StorageError::Newer { .. }));
            assert!(seen || refused, "{} byte {at}: {found:?}", path.display());
            looks += 1;
            env.damage(&path, flip);
        }
    }
    assert!(looks > 5000, "{looks}");
    assert_eq!(look(env).unwrap().findings, []);
}

#[test]
fn every_file_that_was_cut_is_found() {
    let (place, stored) = stopped();
    let env = &place.env;
    for path in data_files(env) {
        let bytes = env.bytes(&path).unwrap();
        let step = (bytes.len() / 100).max(1);
        // Also where frames and blocks begin.
        let lens = (0..bytes.len()).filter(|len| len % step == 0 || len % 64 == 0 && bytes[*len] == b'W');
        for (number, len) in lens.enumerate() {
            env.damage(&path, |bytes| bytes.truncate(len));
            let found = look(env);
            let within = |finding: &&Finding| finding.path == path && finding.bytes.start <= len as u64;
            let seen =
                found.as_ref().is_ok_and(|found| found.findings.iter().any(|finding| within(&finding)));
            assert!(seen, "{} cut to {len} of {}: {found:?}", path.display(), bytes.len());
            env.damage(&path, |damaged| damaged.clone_from(&bytes));
            if number % 10 == 0 {
                life_after(&place, &stored, &path, |bytes| bytes.truncate(len));
            }
        }
    }
    assert_eq!(look(env).unwrap().findings, []);
}

#[test]
fn whatever_bit_is_flipped_no_wrong_row_is_read() {
    let (place, stored) = stopped();
    let rows = 36;
    for path in data_files(&place.env) {
        let (mut opened, mut worst) = (0, rows);
        for at in places(&place.env.bytes(&path).unwrap()).into_iter().step_by(29) {
            let right = life_after(&place, &stored, &path, |bytes| bytes[at] ^= 1 << (at % 8));
            opened += u32::from(right.is_some());
            worst = worst.min(right.unwrap_or(rows));
        }
        let dir = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let must_be_whole = ["FORMAT", "key"].contains(&path.file_name().unwrap().to_str().unwrap());
        assert_eq!(opened > 0, !must_be_whole, "{}", path.display());
        // Without a segment's header nothing in it can be read. Of a block's rows none can without its directory.
        let least = match dir {
            "log" => rows / 3,
            "shared" => rows / 2,
            _ => rows,
        };
        assert!(worst >= least, "{}: {worst} of {rows}", path.display());
    }
}

#[test]
fn in_a_crashed_directory_everything_below_a_stated_durable_end_is_checked() {
    let place = small_place();
    let storage = place.open();
    let mut stored = fill(&storage, 15, 3);
    storage.checkpoint().unwrap();
    // The next frames lie behind the checkpoint, and the last says that those before it were durable.
    let topic = stored.topics[0].0;
    let mut durable = 0;
    for number in 0..6 {
        durable = storage.ends().durable.0;
        let message = message_of(1000 + number);
        stored.topics[0].1[0].push(message.clone());
        append_batch(&storage, vec![Append { topic, queue: QueueId(0), message }]);
    }
    place.kill(storage);
    let env = &place.env;
    assert_eq!(look(env).unwrap().findings, []);
    assert!(!look(env).unwrap().clean);
    for path in place.files("log") {
        let base: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        for (number, at) in places(&env.bytes(&path).unwrap()).into_iter().step_by(3).enumerate() {
            let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            env.damage(&path, flip);
            let found = look(env);
            let is_below = at < 4096 || base + (at as u64 - 4096) < durable;
            let seen = found.as_ref().is_ok_and(|found| finding_at(found, &path, at as u64).is_some());
            let refused = matches!(found, Err(StorageError::Newer { .. }));
            assert!(seen || refused || !is_below, "{} byte {at}: {found:?}", path.display());
            env.damage(&path, flip);
            if number % 20 == 0 {
                life_after(&place, &stored, &path, flip);
            }
        }
    }
}

#[test]
fn rows_that_damage_of_the_log_costs_are_named() {
    let (place, stored) = stopped();
    let segment = place.files("log").remove(0);
    let bytes = place.env.bytes(&segment).unwrap();
    // The body of the first message of the second queue of the first topic.
    let body = &stored.topics[0].1[1][0].body;
    let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
    place.env.damage(&segment, |bytes| bytes[at] ^= 1);
    let found = look(&place.env).unwrap();
    let [finding] = found.findings.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (finding.remedy, finding.what.as_str()),
        (Remedy::StaysUnreadable, "a record: the checksum differs")
    );
    assert!(finding.bytes.contains(&(at as u64)) && finding.bytes.end - finding.bytes.start < 400);
    assert_eq!(finding.rows.len(), 1);
    assert_eq!(finding.rows[0].to_string(), "orders queue 1: 0");
}

#[test]
fn full_blocks_and_their_statistics_are_checked() {
    let place = Place::new();
    let place = Place {
        options: StorageOptions {
            log_segment_bytes_min: 1 << 20,
            log_segment_bytes_max: 1 << 20,
            ..place.options
        },
        ..place
    };
    let storage = place.open();
    let stored = fill(&storage, 8400, 2100);
    storage.close().unwrap();
    drop(storage);
    let env = &place.env;
    assert_eq!(look(env).unwrap().findings, []);
    let path =
        env.paths().into_iter().find(|path| path.extension().is_some_and(|end| end == "queue")).unwrap();
    let bytes = env.bytes(&path).unwrap();
    let step = bytes.len() / 60;
    // Statistics and the footer take the end of the file.
    let places = (0..60).map(|number| number * step + number % step);
    for at in places.chain(bytes.len() - 2000..bytes.len() - 1900).chain(bytes.len() - 40..bytes.len()) {
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
        env.damage(&path, flip);
        let found = look(env).unwrap();
        assert!(finding_at(&found, &path, at as u64).is_some(), "byte {at}: {found:?}");
        env.damage(&path, flip);
    }
    let right = life_after(&place, &stored, &path, |bytes| bytes[10 * step] ^= 1);
    assert!(right.is_some());
}

/// Repairs a directory as the command does, and returns the words of the steps.
fn repaired(env: &SimEnv) -> Vec<&'static str> {
    let found = look(env).unwrap();
    let env: Arc<dyn Env> = Arc::new(env.clone());
    let lock = RepairLock::take(&env, Path::new("/data"), &VirtualClock::new(0)).unwrap();
    let steps = plan_repair(&found);
    steps.iter().for_each(|step| lock.apply(step).unwrap());
    steps.iter().map(|step| step.word()).collect()
}

#[test]
fn a_repair_lets_everything_be_built_anew_that_is_derived() {
    for (file, at, step) in [
        ("queues/shared", 400, "remove_queue_file"),
        ("checkpoint", 30, "remove_checkpoint"),
        ("journal", 0, "cut_journal"),
        ("journal", 300, "write_zeros"),
        ("key", 3, "new_key"),
    ] {
        let (mut place, stored) = stopped();
        let path = match file {
            "checkpoint" | "key" => Path::new("/data").join(file),
            dir => place.files(dir).remove(0),
        };
        let env = place.env.copy();
        env.damage(&path, |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            let at = if file == "journal" { end + at } else { at };
            // The storage may have stopped before it wrote as many zeros ahead.
            bytes.resize(bytes.len().max(at + 8), 0);
            bytes[at] ^= 1;
        });
        assert_eq!(repaired(&env), [step]);
        let again = look(&env).unwrap();
        let is_missing = |finding: &&Finding| finding.what == "the file is missing";
        assert!(again.findings.iter().all(|finding| is_missing(&finding)), "{step}: {again:?}");
        place.env = env.clone();
        place.options.env = Arc::new(env);
        let storage = place.open();
        assert!(storage.report().fences.is_empty() && storage.report().journal_fences.is_empty(), "{step}");
        assert_eq!(read_all(&storage, &stored), 36, "{step}");
        assert_eq!(storage.take_journal().len(), if step == "cut_journal" { 3 } else { 4 });
        storage.close().unwrap();
        drop(storage);
        assert_eq!(look(&place.env).unwrap().findings, [], "{step}");
    }
}

#[test]
fn a_damaged_block_is_built_anew_by_the_checkpoint_after_it_was_met() {
    for kill in [true, false] {
        let (place, stored) = stopped();
        let shared = place.files("queues/shared").remove(0);
        place.env.damage(&shared, |bytes| bytes[400] ^= 1);
        let storage = place.open();
        assert!(read_all(&storage, &stored) < 36);
        if kill {
            storage.checkpoint().unwrap();
            assert_eq!(read_all(&storage, &stored), 36);
            place.kill(storage);
        } else {
            storage.close().unwrap();
            drop(storage);
        }
        let storage = place.open();
        assert_eq!(read_all(&storage, &stored), 36);
        storage.close().unwrap();
        drop(storage);
        assert_eq!(look(&place.env).unwrap().findings, []);
    }
}

#[test]
fn a_broker_at_work_keeps_a_repair_away() {
    let place = small_place();
    let storage = place.open();
    let env: Arc<dyn Env> = Arc::new(place.env.clone());
    let taken = RepairLock::take(&env, Path::new("/data"), &VirtualClock::new(0));
    assert!(matches!(taken, Err(StorageError::Locked { .. })), "{taken:?}");
    drop(storage);
}

#[test]
fn every_view_shows_what_is_there() {
    let (place, _) = stopped();
    let env: Arc<dyn Env> = Arc::new(place.env.clone());
    let view = Inspection::open(&env, Path::new("/data")).unwrap();
    assert!(view.info().clean);
    let filter = InspectFilter { topic: Some("orders".into()), queue: Some(QueueId(1)), file: None };
    let (mut segments, mut frames, mut blocks, mut columns) = (0, 0, Vec::new(), Vec::new());
    let everything = InspectFilter::default();
    let done = view.segments::<StorageError>(&everything, &mut |segment| {
        segments += 1;
        assert_eq!(segment.header, "ok");
        Ok(())
    });
    done.unwrap();
    let log = InspectFilter { file: Some(".log".into()), ..InspectFilter::default() };
    let done = view.frames::<StorageError>(&log, &mut |frame| {
        assert_eq!(frame.checksum, "ok");
        frames += u32::from(frame.kind == "records");
        Ok(())
    });
    done.unwrap();
    let done = view.blocks::<StorageError>(&filter, &mut |block| {
        blocks.push((block.topic, block.queue, block.first, block.rows, block.checksum));
        Ok(())
    });
    done.unwrap();
    let done = view.columns::<StorageError>(&filter, &mut |column| {
        columns.push(column.column);
        Ok(())
    });
    done.unwrap();
    assert_eq!(segments, place.files("log").len() + 2);
    assert_eq!(frames, 8);
    assert_eq!(blocks, [("orders".to_owned(), 1, 0, 12, "ok".to_owned())]);
    assert!(columns.ends_with(&["n".to_owned(), "region".to_owned()]), "{columns:?}");
}

/// A backup job may look at a directory that is at work. What changes under it is no damage.
#[test]
fn a_directory_at_work_gives_no_finding() {
    const LOOKS: usize = 200;
    const LOOKS_MAX: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        log_segment_bytes_min: 64 << 10,
        log_segment_bytes_max: 64 << 10,
        zero_ahead_bytes: 16 << 10,
        journal_segment_bytes: 16 << 10,
        journal_zero_ahead_bytes: 4 << 10,
        journal_rotate_bytes: 16 << 10,
        checkpoint_bytes: 64 << 10,
        checkpoint_interval: Duration::from_millis(10),
        compaction_interval: Duration::from_millis(3),
        compaction_bytes_min: 8 << 10,
        recent_bytes_max: 1,
        ..StorageOptions::small()
    };
    let told = Arc::new(Rotating::default());
    let storage = Storage::open(dir.path(), options, Arc::clone(&told) as _).unwrap();
    let new = |name: &str| storage.create_topic(new_topic(name, DurabilityClass::Async)).unwrap().id;
    let (ends, stays) = (new("ends"), new("stays"));
    let (stop, rotations) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut compacted = false;
    thread::scope(|scope| {
        let (storage, stop, rotations) = (&storage, &stop, &rotations);
        let publisher = scope.spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Acquire) {
                append(storage, ends, number).unwrap();
                if number % 20 == 0 {
                    append(storage, stays, number / 20).unwrap();
                }
                if number % 100 == 99 {
                    let end = storage.view(ends, QUEUE).unwrap().range().end;
                    storage.set_first_offset(ends, QUEUE, end).unwrap();
                }
                number += 1;
            }
        });
        let catalogue = scope.spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let topic = storage.create_topic(new_topic("passes", DurabilityClass::Sync)).unwrap().id;
                append(storage, topic, number).unwrap();
                storage.delete_topic(topic).unwrap();
                let name = format!("g{number}");
                let group = storage.create_group(NewGroup { name, ..NewGroup::default() }).unwrap().id;
                storage.delete_group(group).unwrap();
            }
        });
        let acker = scope.spawn(move || {
            let offsets: Vec<_> = (0..200).map(QueueOffset).collect();
            let entry = JournalEntry::Ack { group: GroupId(1), topic: stays, queue: QUEUE, offsets };
            while !stop.load(Ordering::Acquire) {
                journal(storage, entry.clone(), Wait::Durable).unwrap();
                if told.rotate.swap(false, Ordering::AcqRel) {
                    // What the journal must still say.
                    journal(storage, entry.clone(), Wait::Written).unwrap();
                    storage.journal_rotated();
                    rotations.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        let looking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let env: Arc<dyn Env> = Arc::new(DiskEnv);
            for look in 0..LOOKS_MAX {
                let published = storage.view(ends, QUEUE).unwrap().range().end.0;
                if look >= LOOKS && compacted && published >= 3000 && rotations.load(Ordering::Acquire) > 4 {
                    return;
                }
                let found = verify(&env, dir.path(), &mut |_| {}).unwrap();
                assert_eq!(found.findings, [], "look {look}");
                let log = fs::read_dir(dir.path().join("log")).unwrap();
                let is_compacted = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes.get(13) == Some(&1));
                compacted |= log.map(|entry| entry.unwrap().path()).any(|path| is_compacted(&path));
            }
            panic!("in {LOOKS_MAX} looks not everything has happened: {compacted} {rotations:?}");
        }));
        stop.store(true, Ordering::Release);
        publisher.join().unwrap();
        catalogue.join().unwrap();
        acker.join().unwrap();
        looking.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    storage.close().unwrap();
}

/// Notes that the journal wants to be told what it must still say.
#[derive(Default)]
struct Rotating {
    rotate: AtomicBool,
}

impl Events for Rotating {
    fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
    fn rotate_journal(&self) {
        self.rotate.store(true, Ordering::Release);
    }
    fn failed(&self, error: &StorageError) {
        panic!("{error}");
    }
}
