//! Copies of a data directory that is at work: what was acknowledged before is in them, whatever happens meanwhile.

#![expect(clippy::disallowed_methods, reason = "the test prepares real files")]

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use weir_storage::{
    CopyProgress, DiskEnv, DurabilityClass, Env, EnvFile, GroupId, JournalEntry, Locking, MachineClock, Open,
    QueueOffset, RepairLock, SimEnv, Space, Storage, StorageError, StorageOptions, TopicId, Wait, verify,
};

use crate::support::{Place, QUEUE, Told, append, journal, new_topic, numbers, rows, wait_visible};

const TARGET: &str = "/copy";

/// The disk of the machine, without second names: as if the copy were on another file system, with so much room.
#[derive(Debug)]
struct NoLinks(DiskEnv, u64);

impl Env for NoLinks {
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
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::CrossesDevices.into())
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
    fn lock(&self, path: &Path, content: &str) -> io::Result<Locking> {
        self.0.lock(path, content)
    }
    fn space(&self, dir: &Path) -> io::Result<Space> {
        let Space { total, .. } = self.0.space(dir)?;
        Ok(Space { free: self.1, total })
    }
    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.0.random(out)
    }
    fn host(&self) -> String {
        self.0.host()
    }
}

fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn ack(topic: TopicId, offset: u64) -> JournalEntry {
    JournalEntry::Ack { group: GroupId(1), topic, queue: QUEUE, offsets: vec![QueueOffset(offset)] }
}

fn acked(storage: &Storage, topic: TopicId) -> Vec<u64> {
    let entries = storage.take_journal().into_iter().filter_map(|entry| match entry {
        JournalEntry::Ack { topic: of, offsets, .. } if of == topic => Some(offsets[0].0),
        _ => None,
    });
    entries.collect()
}

/// What a thread has been told, and what it has asked for, of one topic.
#[derive(Default)]
struct Counts {
    stored: AtomicU64,
    acked: AtomicU64,
    /// Rows below may have ended.
    ending: AtomicU64,
    /// Rows below have ended.
    ended: AtomicU64,
}

/// Stores numbers one after the other, acknowledges some, and ends the oldest rows, until told to stop.
fn work(storage: &Storage, topic: TopicId, counts: &Counts, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        assert_eq!(append(storage, topic, number).unwrap().offset, QueueOffset(number));
        counts.stored.store(number + 1, Ordering::Release);
        if number.is_multiple_of(5) {
            let wait = if number % 2 == 0 { Wait::Written } else { Wait::Durable };
            journal(storage, ack(topic, number), wait).unwrap();
            counts.acked.store(number + 1, Ordering::Release);
        }
        if number % 50 == 49 {
            // All that is visible but a few: of class `async`, rows that no sync has reached yet.
            let end = storage.view(topic, QUEUE).unwrap().range().end.0.saturating_sub(3);
            counts.ending.store(end, Ordering::Release);
            storage.set_first_offset(topic, QUEUE, QueueOffset(end)).unwrap();
            counts.ended.store(end, Ordering::Release);
        }
        if number % 200 == 199 {
            let name = format!("{topic}-{number}");
            let gone = storage.create_topic(new_topic(&name, DurabilityClass::Sync)).unwrap().id;
            append(storage, gone, 0).unwrap();
            storage.delete_topic(gone).unwrap();
        }
    }
}

fn copies_are_whole_under_load(env: Arc<dyn Env>, has_links: bool) {
    let dir = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        env,
        log_segment_bytes_min: 128 << 10,
        log_segment_bytes_max: 128 << 10,
        zero_ahead_bytes: 32 << 10,
        journal_rotate_bytes: 8 << 10,
        checkpoint_bytes: 64 << 10,
        checkpoint_interval: Duration::from_millis(20),
        compaction_interval: Duration::from_millis(5),
        compaction_bytes_min: 16 << 10,
        recent_bytes_max: 1,
        ..StorageOptions::small()
    };
    let data = dir.path().join("data");
    let storage = Storage::open(&data, options.clone(), Arc::new(Told::default())).unwrap();
    let classes = [DurabilityClass::Sync, DurabilityClass::Async];
    let topics =
        classes.map(|class| storage.create_topic(new_topic(&format!("{class:?}"), class)).unwrap().id);
    // Keeps the segments alive in which the others' rows end.
    let long = storage.create_topic(new_topic("long", DurabilityClass::Async)).unwrap().id;
    let (counts, stop) = ([Counts::default(), Counts::default()], AtomicBool::new(false));
    let mut linked = 0;
    thread::scope(|scope| {
        for (topic, counts) in topics.iter().zip(&counts) {
            let (storage, stop) = (&storage, &stop);
            scope.spawn(move || work(storage, *topic, counts, stop));
        }
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                append(&storage, long, number).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        // Also if something fails: the others would never end.
        let _stop = Stop(&stop);
        for number in 0..6 {
            let goal = counts[0].stored.load(Ordering::Acquire) + 150;
            while counts[0].stored.load(Ordering::Acquire) < goal {
                thread::sleep(Duration::from_millis(1));
            }
            let before = counts.each_ref().map(|counts| {
                let load = |count: &AtomicU64| count.load(Ordering::Acquire);
                (load(&counts.stored), load(&counts.acked), load(&counts.ended))
            });
            let target = dir.path().join(format!("copy-{number}"));
            // Slow, so that much happens meanwhile.
            let copied = storage.copy_to(&target, &mut |_| {
                thread::sleep(Duration::from_millis(2));
                ControlFlow::Continue(())
            });
            let copied = copied.unwrap();
            linked += copied.linked_bytes;
            let found = verify(&options.env, &target, &mut |_| {}).unwrap();
            assert!(found.findings.is_empty(), "copy {number}: {:?}", found.findings);
            let copy = Storage::open(&target, options.clone(), Arc::new(Told::default())).unwrap();
            assert!(copy.report().fences.is_empty() && copy.report().journal_fences.is_empty());
            assert!(copy.epoch().0 >= storage.epoch().0 + (1 << 16), "its epochs are its own");
            let names: Vec<_> = copy.topics().iter().map(|topic| topic.name.clone()).collect();
            assert_eq!(names[..3], ["Sync", "Async", "long"]);
            let journal = copy.take_journal();
            for ((topic, counts), (stored, acked, ended)) in topics.iter().zip(&counts).zip(before) {
                let range = copy.view(*topic, QUEUE).unwrap().range();
                assert!(range.end.0 >= stored, "{range:?} has the {stored} that were acknowledged");
                let ending = counts.ending.load(Ordering::Acquire);
                assert!((ended..=ending).contains(&range.start.0), "{ended} {range:?} {ending}");
                // Each is compared with what was sent.
                let found = rows(&copy, *topic);
                let expected = numbers(range.start.0..range.end.0);
                assert!(found == expected, "copy {number} of {topic}: {range:?} {found:?}");
                for offset in (0..acked).step_by(5) {
                    assert!(journal.contains(&ack(*topic, offset)), "copy {number}: {topic} {offset}");
                }
            }
            assert!(rows(&copy, long).iter().all(Option::is_some));
            // It goes on by itself.
            let end = copy.view(topics[0], QUEUE).unwrap().range().end;
            assert_eq!(append(&copy, topics[0], end.0).unwrap().offset, end);
            copy.close().unwrap();
            std::fs::remove_dir_all(&target).unwrap();
        }
    });
    assert_eq!(linked > 0, has_links);
    storage.close().unwrap();
    let found = verify(&options.env, &data, &mut |_| {}).unwrap();
    assert!(found.findings.is_empty(), "the original: {:?}", found.findings);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn copies_made_under_load_hold_all_that_was_acknowledged_before() {
    copies_are_whole_under_load(Arc::new(DiskEnv), true);
}

#[test]
fn copies_to_another_file_system_hold_all_that_was_acknowledged_before() {
    copies_are_whole_under_load(Arc::new(NoLinks(DiskEnv, u64::MAX)), false);
}

/// A place with two sealed segments and more, and its topic.
fn filled(place: &Place) -> (Storage, TopicId) {
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    for number in 0..150 {
        append(&storage, topic, number).unwrap();
    }
    journal(&storage, ack(topic, 7), Wait::Written).unwrap();
    wait_visible(&storage, topic, 150);
    (storage, topic)
}

fn open_at(env: &SimEnv, options: &StorageOptions, path: &str) -> Result<Storage, StorageError> {
    let options = StorageOptions { env: Arc::new(env.clone()), ..options.clone() };
    Storage::open(Path::new(path), options, Arc::new(Told::default()))
}

#[test]
fn a_copy_that_a_crash_broke_off_is_refused_by_name() {
    let (mut refused, mut absent, mut complete) = (0, 0, 0);
    for calls in 0.. {
        let place = Place::new();
        let (storage, topic) = filled(&place);
        storage.close().unwrap();
        place.kill(storage);
        // Without threads, so that each life makes the same calls.
        place.env.fail_power_after(calls);
        let options = StorageOptions { env: Arc::new(place.env.clone()), ..place.options.clone() };
        let copied = Storage::copy_closed(Path::new("/data"), options, Path::new(TARGET), &mut go_on);
        place.env.lose_power();
        let has_copy = place.env.paths().iter().any(|path| path.starts_with(TARGET));
        match open_at(&place.env, &place.options, TARGET) {
            Ok(copy) if has_copy => {
                complete += 1;
                assert_eq!(rows(&copy, topic), numbers(0..150), "after {calls} calls");
                assert_eq!(acked(&copy, topic), [7]);
            }
            // An empty directory is as good as none.
            Ok(_) => absent += 1,
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(error, StorageError::CopyUnfinished { .. } | StorageError::Foreign { .. }),
                    "after {calls} calls: {error}"
                );
                assert!(error.to_string().contains(TARGET), "{error}");
            }
        }
        let original = place.open();
        assert_eq!(rows(&original, topic), numbers(0..150), "the original after {calls} calls");
        assert_eq!(acked(&original, topic), [7]);
        if copied.is_ok() {
            break;
        }
    }
    assert!(refused > 5 && absent > 0 && complete > 0, "{refused} {absent} {complete}");
}

#[test]
fn what_cannot_be_copied_leaves_nothing() {
    let place = Place::new();
    let (storage, topic) = filled(&place);
    let is_there = || place.env.paths().iter().any(|path| path.starts_with(TARGET));
    // Broken off, at each step.
    let mut steps = 0;
    loop {
        let mut left = steps;
        let copied = storage.copy_to(Path::new(TARGET), &mut |progress| {
            assert!(progress.done <= progress.total);
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match copied {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, StorageError::CopyCancelled { .. }), "{error}"),
        }
        assert!(!is_there(), "after {steps} steps");
        steps += 1;
    }
    assert!(steps > 3 && is_there());
    // Nothing takes the place of something.
    let exists = storage.copy_to(Path::new(TARGET), &mut go_on).unwrap_err();
    assert!(matches!(exists, StorageError::CopyExists { .. }), "{exists}");
    let inside = storage.copy_to(Path::new("/data/copy"), &mut go_on).unwrap_err();
    assert!(matches!(inside, StorageError::CopyInside { .. }), "{inside}");
    // One at a time.
    let other: PathBuf = "/other".into();
    let mut second = None;
    storage
        .copy_to(&other, &mut |_| {
            second.get_or_insert_with(|| storage.copy_to(Path::new("/third"), &mut go_on));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(matches!(second, Some(Err(StorageError::CopyUnderWay { .. }))), "{second:?}");
    storage.checkpoint().unwrap();
    // There is no room for the last segments, or none is left while they are copied.
    for is_late in [false, true] {
        let fill = || place.env.set_capacity(Some(place.env.used() + 6000));
        if !is_late {
            fill();
        }
        let mut is_full = !is_late;
        let full = storage.copy_to(Path::new("/full"), &mut |_| {
            // The journal is never linked.
            if !is_full && place.env.paths().iter().any(|path| path.starts_with("/full/journal")) {
                fill();
                is_full = true;
            }
            ControlFlow::Continue(())
        });
        let full = full.unwrap_err();
        match full {
            StorageError::NoSpace { .. } => assert!(is_late, "{full}"),
            StorageError::CopyTooLarge { needed, free, .. } => {
                assert!(!is_late && needed > free && free <= 6000, "{full}");
            }
            _ => panic!("{full}"),
        }
        place.env.set_capacity(None);
        assert!(!place.env.paths().iter().any(|path| path.starts_with("/full")));
    }
    place.env.set_capacity(None);
    storage.copy_to(Path::new("/full"), &mut go_on).unwrap();
    // Nobody unlinks what is gone from the original only.
    storage.delete_topic(topic).unwrap();
    storage.close().unwrap();
    let closed = storage.copy_to(Path::new("/late"), &mut go_on).unwrap_err();
    assert!(matches!(closed, StorageError::Closed), "{closed}");
    place.kill(storage);
    for path in [TARGET, "/other", "/full"] {
        let copy = open_at(&place.env, &place.options, path).unwrap();
        assert_eq!(rows(&copy, topic), numbers(0..150), "{path}");
    }
}

#[test]
fn a_copy_for_which_another_file_system_has_no_room_is_refused_before_it_is_made() {
    let (dir, free) = (tempfile::tempdir().unwrap(), 200_000);
    let options = StorageOptions {
        env: Arc::new(NoLinks(DiskEnv, free)),
        log_segment_bytes_min: 128 << 10,
        log_segment_bytes_max: 128 << 10,
        ..StorageOptions::small()
    };
    let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
    let storage = Storage::open(&data, options, Arc::new(Told::default())).unwrap();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Async)).unwrap().id;
    for number in 0.. {
        append(&storage, topic, number).unwrap();
        if storage.ends().written.0 > 2 * free {
            break;
        }
    }
    let mut done = 0;
    let refused = storage.copy_to(&target, &mut |progress| {
        done = progress.done;
        ControlFlow::Continue(())
    });
    let error = refused.unwrap_err();
    assert!(
        matches!(error, StorageError::CopyTooLarge { needed, free: said, .. } if needed > 2 * free && said == free),
        "{error}"
    );
    assert!(done == 0 && !target.exists(), "nothing was copied");
    storage.close().unwrap();
}

#[test]
fn an_unfinished_copy_is_named_by_all_who_are_asked_to_use_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("UNFINISHED"), "").unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let env: Arc<dyn Env> = Arc::new(DiskEnv);
    let options = StorageOptions::small();
    let errors = [
        Storage::open(dir.path(), options.clone(), Arc::new(Told::default())).err(),
        verify(&env, dir.path(), &mut |_| {}).err(),
        RepairLock::take(&env, dir.path(), &MachineClock::default()).err(),
        Storage::copy_closed(dir.path(), options, Path::new("/nowhere"), &mut go_on).err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(StorageError::CopyUnfinished { .. })), "{error:?}");
    }
    assert!(!dir.path().join("LOCK").exists(), "nothing is left in what is not ours");
}
