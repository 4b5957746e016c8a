//! Tests of storage as a whole, step by step on a simulated disk.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use weir_columns::{Kind, KindSet, Value};

use super::{Events, Storage, open::read_checkpoint, options::StorageOptions};
use crate::{
    catalogue::{DurabilityClass, NewTopic},
    compress::Compression,
    env::read_file,
    error::StorageError,
    journal::{JournalEntry, SelectorKind, Wait},
    limits::{JOURNAL_HELD_BYTES_MAX, PROPERTY_KINDS_BYTES_MAX},
    log::appender::{Append, Appended},
    message::Message,
    offset::{GroupId, QueueId, QueueOffset, TopicId},
    sim::{SimCall, SimEnv},
};

/// Keeps what it is told.
#[derive(Default)]
pub(super) struct Told {
    visible: Mutex<HashMap<(TopicId, QueueId), QueueOffset>>,
    rotations: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Events for Told {
    fn visible(&self, topic: TopicId, queue: QueueId, end: QueueOffset) {
        self.visible.lock().insert((topic, queue), end);
    }
    fn rotate_journal(&self) {
        self.rotations.fetch_add(1, Ordering::SeqCst);
    }
    fn failed(&self, error: &StorageError) {
        self.failures.lock().push(error.to_string());
    }
}

fn message(number: u64) -> Message {
    Message {
        message_id: format!("id-{number}"),
        properties: vec![("number".into(), Value::I64(number as i64))],
        body: format!("body {number}").into(),
        ..Message::default()
    }
}

fn append(
    storage: &Storage,
    topic: TopicId,
    numbers: std::ops::Range<u64>,
) -> Result<Vec<Appended>, StorageError> {
    let (sender, receiver) = mpsc::channel();
    let queue = QueueId(0);
    let batch = numbers.map(|number| Append { topic, queue, message: message(number) }).collect();
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

pub(super) fn topic(name: &str) -> NewTopic {
    NewTopic { name: name.into(), queues: 2, attributes: "{}".into(), ..NewTopic::default() }
}

/// Storage without threads on a simulated disk, and where its answers go.
pub(super) fn stepped(options: StorageOptions) -> (Storage, SimEnv, TopicId, TopicId) {
    let env = SimEnv::new(3);
    let options = StorageOptions { env: Arc::new(env.clone()), ..options };
    let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
    let new = |name, class| NewTopic { class, ..topic(name) };
    let sync = storage.create_topic(new("sync", DurabilityClass::Sync)).unwrap().id;
    let relaxed = storage.create_topic(new("async", DurabilityClass::Async)).unwrap().id;
    (storage, env, sync, relaxed)
}

pub(super) fn send(
    storage: &Storage,
    topic: TopicId,
    number: u64,
) -> mpsc::Receiver<Result<Vec<Appended>, StorageError>> {
    let (sender, receiver) = mpsc::channel();
    let batch = vec![Append { topic, queue: QueueId(0), message: message(number) }];
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    receiver
}

#[test]
fn each_class_is_acknowledged_and_visible_at_its_own_moment() {
    let (storage, _, sync, relaxed) = stepped(StorageOptions::small());
    let (of_sync, of_relaxed) = (send(&storage, sync, 1), send(&storage, relaxed, 2));
    let inner = storage.inner();
    let visible = || [sync, relaxed].map(|topic| storage.view(topic, QueueId(0)).unwrap().range().end.0);
    assert!(of_relaxed.try_recv().is_err() && of_sync.try_recv().is_err());
    inner.append_once();
    inner.build_once();
    assert!(of_relaxed.try_recv().unwrap().is_ok(), "it is written");
    assert!(of_sync.try_recv().is_err(), "it is not durable");
    assert_eq!(visible(), [0, 1]);
    let ends = storage.ends();
    assert!(ends.durable < ends.written);
    inner.flush_once(false);
    assert!(of_sync.try_recv().unwrap().is_ok());
    assert_eq!(storage.ends().durable, ends.written);
    inner.build_once();
    assert_eq!(visible(), [1, 1]);
}

/// Who comes first writes for all, without the threads.
#[test]
fn a_publisher_with_the_turn_does_the_work_of_appender_and_builder() {
    let (storage, _, sync, relaxed) = stepped(StorageOptions::small());
    let inner = storage.inner();
    let answers: Arc<Mutex<Vec<u64>>> = Arc::default();
    let publish = |topic, number| {
        let answers = Arc::clone(&answers);
        let batch = vec![Append { topic, queue: QueueId(0), message: message(number) }];
        storage.append_now(batch, Box::new(move |result| answers.lock().push(result.unwrap()[0].offset.0)))
    };
    let visible = || [sync, relaxed].map(|topic| storage.view(topic, QueueId(0)).unwrap().range().end.0);
    let turn = publish(relaxed, 0).unwrap().expect("nobody waits");
    assert!(publish(relaxed, 1).unwrap().is_none() && publish(sync, 2).unwrap().is_none());
    turn.write();
    assert_eq!((answers.lock().as_slice(), visible()), ([0, 1].as_slice(), [0, 2]));
    assert!(inner.intake.lock().is_empty() && inner.build.lock().frames.is_empty());
    inner.flush_once(false);
    assert_eq!((answers.lock().as_slice(), visible()), ([0, 1, 0].as_slice(), [1, 2]));
    // The thread of the appender was sooner.
    let turn = publish(relaxed, 3).unwrap().unwrap();
    inner.append_once();
    turn.write();
    assert_eq!(visible(), [1, 2], "the rest is the builder's");
    inner.build_once();
    assert_eq!(visible(), [1, 3]);
    // What is left to the threads: all of a turn that is given up, while one of them is at work, and what is much.
    drop(publish(relaxed, 4).unwrap().unwrap());
    inner.append_once();
    inner.build_once();
    let turn = publish(relaxed, 5).unwrap().unwrap();
    let at_work = inner.appender.lock();
    turn.write();
    drop(at_work);
    assert!(!inner.intake.lock().is_empty());
    inner.append_once();
    let turn = publish(relaxed, 6).unwrap().unwrap();
    let at_work = inner.building.lock();
    turn.write();
    drop(at_work);
    assert_eq!((inner.intake.lock().is_empty(), inner.build.lock().frames.len()), (true, 2));
    inner.build_once();
    assert_eq!(visible(), [1, 6]);
    let turn = publish(relaxed, 7).unwrap().unwrap();
    let large = Message { body: vec![b'x'; 200 << 10].into(), ..message(8) };
    let batch = vec![Append { topic: relaxed, queue: QueueId(0), message: large }];
    assert!(storage.append_now(batch, Box::new(|result| drop(result.unwrap()))).unwrap().is_none());
    turn.write();
    assert!(!inner.intake.lock().is_empty());
    inner.append_once();
    inner.build_once();
    assert_eq!(visible(), [1, 8]);
}

/// The threads of storage do what nobody does at a turn.
#[test]
fn a_turn_that_is_not_taken_holds_up_nobody() {
    let (storage, _, _, topic) = stepped(StorageOptions::small());
    let inner = storage.inner();
    let (sender, answers) = mpsc::channel();
    let publish = |number| {
        let sender = sender.clone();
        let batch = vec![Append { topic, queue: QueueId(0), message: message(number) }];
        let done = Box::new(move |result: Result<Vec<Appended>, _>| sender.send(result.is_ok()).unwrap());
        storage.append_now(batch, done).unwrap().expect("nobody waits")
    };
    let is_stored = |rows| {
        assert_eq!(answers.recv_timeout(Duration::from_secs(30)), Ok(true));
        let start = Instant::now();
        while storage.view(topic, QueueId(0)).unwrap().range().end < QueueOffset(rows) {
            assert!(start.elapsed() < Duration::from_secs(30), "row {rows} is not visible");
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        // Without the keeper, which would come by anyway.
        scope.spawn(|| inner.run_appender());
        scope.spawn(|| inner.run_builder());
        let _stop = AtEnd(|| {
            inner.intake.lock().closed = true;
            inner.stop_appender();
            inner.stop_builder();
        });
        drop(publish(0));
        is_stored(1);
        let turn = publish(1);
        let at_work = inner.appender.lock();
        turn.write();
        drop(at_work);
        is_stored(2);
        let turn = publish(2);
        let at_work = inner.building.lock();
        turn.write();
        drop(at_work);
        is_stored(3);
        // Nobody who comes later waits for one that is not even dropped.
        std::mem::forget(publish(3));
        send(&storage, topic, 4).recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
        is_stored(5);
    });
}

/// If nobody comes later.
#[test]
fn the_keeper_looks_after_a_turn_that_is_never_taken() {
    let options = StorageOptions { env: Arc::new(SimEnv::new(3)), ..StorageOptions::small() };
    let storage = Storage::open(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
    let topic = storage.create_topic(topic("t")).unwrap().id;
    let (sender, answer) = mpsc::channel();
    let batch = vec![Append { topic, queue: QueueId(0), message: message(0) }];
    let turn = storage.append_now(batch, Box::new(move |result| sender.send(result.is_ok()).unwrap()));
    std::mem::forget(turn.unwrap().unwrap());
    assert_eq!(answer.recv_timeout(Duration::from_secs(30)), Ok(true));
    storage.close().unwrap();
}

/// Runs its closure when it is dropped, also by a test that fails.
struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn one_frame_takes_all_that_has_queued_up_and_a_publisher_that_waits_too_long_is_refused() {
    let busy_after = Duration::from_millis(1);
    let options = StorageOptions { unsynced_bytes_max: 2000, busy_after, ..StorageOptions::small() };
    let (storage, _, sync, _) = stepped(options);
    let waiting: Vec<_> = (0..).map(|number| send(&storage, sync, number)).take(40).collect();
    let refused = waiting.iter().filter(|answer| answer.try_recv().is_ok()).count();
    assert!((20..36).contains(&refused), "{refused}");
    let error = send(&storage, sync, 99).try_recv().unwrap().unwrap_err();
    assert!(matches!(error, StorageError::Busy { unsynced: 2000.., .. }), "{error}");
    let inner = storage.inner();
    inner.append_once();
    assert!(inner.intake.lock().is_empty());
    assert_eq!(inner.build.lock().frames.len(), 1);
    assert!(matches!(send(&storage, sync, 99).try_recv(), Ok(Err(StorageError::Busy { .. }))));
    inner.flush_once(false);
    assert!(send(&storage, sync, 99).try_recv().is_err(), "there is room again");
}

#[test]
fn nothing_is_changed_after_a_close() {
    let (storage, _, sync, _) = stepped(StorageOptions::small());
    let answer = send(&storage, sync, 1);
    storage.close().unwrap();
    assert!(answer.try_recv().unwrap().is_ok(), "what was taken is finished");
    assert!(matches!(storage.create_topic(topic("t")), Err(StorageError::Closed)));
    assert!(matches!(send(&storage, sync, 1).try_recv(), Ok(Err(StorageError::Closed))));
    assert!(storage.close().is_ok(), "twice does no harm");
    assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(1), "readers go on");
}

#[test]
fn what_was_acknowledged_is_there_after_close_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Told::default());
    let mut all = Vec::new();
    let mut id = None;
    for round in 0..4 {
        let storage =
            Storage::open(dir.path(), StorageOptions::small(), Arc::clone(&told) as Arc<dyn Events>).unwrap();
        let report = storage.report();
        assert_eq!(report.clean, round == 2, "{report:?}");
        let id = *id.get_or_insert_with(|| storage.create_topic(topic("t")).unwrap().id);
        for position in &all {
            let Appended { offset, position, .. } = *position;
            let stored = storage.read(position).unwrap();
            assert_eq!((stored.offset, stored.message), (offset, message(offset.0)));
        }
        let from = all.len() as u64;
        all.extend(append(&storage, id, from..from + 10).unwrap());
        all.extend(append(&storage, id, from + 10..from + 11).unwrap());
        assert!(all.iter().map(|appended| appended.offset.0).eq(0..all.len() as u64));
        let begun = Instant::now();
        while storage.view(id, QueueId(0)).unwrap().range().end.0 < all.len() as u64 {
            assert!(begun.elapsed() < Duration::from_secs(5), "rows become visible");
            thread::yield_now();
        }
        // The second round stops in good order, the others as if killed.
        if round == 1 {
            storage.close().unwrap();
        }
        drop(storage);
    }
    assert!(told.failures.lock().is_empty());
}

/// Storage whose journal rotates soon; opens the directory again after the first time.
pub(super) fn small_journal(env: &SimEnv) -> (Storage, Arc<Told>) {
    let options = StorageOptions {
        env: Arc::new(env.clone()),
        journal_segment_bytes: 64 << 10,
        journal_zero_ahead_bytes: 4 << 10,
        journal_rotate_bytes: 16 << 10,
        ..StorageOptions::small()
    };
    let told = Arc::new(Told::default());
    let storage = Storage::open_stepped(Path::new("/data"), options, Arc::clone(&told) as _).unwrap();
    (storage, told)
}

pub(super) fn selector(group: u32, text: &str) -> JournalEntry {
    JournalEntry::Selector {
        group: GroupId(group),
        topic: TopicId(1),
        slot: 0,
        text: text.repeat(4000),
        dialect: 0,
        kind: SelectorKind::Sql,
        starts: Vec::new(),
    }
}

/// Writes so much that a rotation begins.
pub(super) fn begin_rotation(storage: &Storage, told: &Told) -> Vec<JournalEntry> {
    let old: Vec<_> = (0..5).map(|group| selector(group, "old")).collect();
    storage.journal(old.clone(), Wait::Durable, None);
    storage.inner().flush_once(false);
    assert_eq!(told.rotations.load(Ordering::SeqCst), 1);
    old
}

#[test]
fn a_rotation_on_a_full_disk_loses_nothing() {
    for room_comes in [false, true] {
        let env = SimEnv::new(3);
        let (storage, told) = small_journal(&env);
        let old = begin_rotation(&storage, &told);
        env.set_capacity(Some(env.used()));
        let new: Vec<_> = (0..5).map(|group| selector(group, "new")).collect();
        for entry in &new {
            storage.journal(vec![entry.clone()], Wait::None, None);
            storage.inner().flush_once(false);
        }
        storage.journal_rotated();
        storage.inner().flush_once(false);
        env.set_capacity(None);
        if room_comes {
            storage.inner().flush_once(true);
        }
        env.kill();
        drop(storage);
        let entries = small_journal(&env).0.take_journal();
        assert_eq!(entries, if room_comes { new } else { old }, "room comes: {room_comes}");
    }
}

#[test]
fn a_large_snapshot_does_not_make_the_journal_rotate_again() {
    let (storage, told) = small_journal(&SimEnv::new(3));
    for entry in begin_rotation(&storage, &told) {
        storage.journal(vec![entry], Wait::None, None);
    }
    storage.journal_rotated();
    for _ in 0..3 {
        storage.journal(vec![selector(9, "")], Wait::None, None);
        storage.inner().flush_once(true);
    }
    assert_eq!(told.rotations.load(Ordering::SeqCst), 1);
    storage.journal(vec![selector(0, "more"), selector(1, "more")], Wait::None, None);
    storage.inner().flush_once(true);
    assert_eq!(told.rotations.load(Ordering::SeqCst), 2, "it has grown");
}

#[test]
fn a_rotation_is_abandoned_if_part_of_its_snapshot_was_refused() {
    let env = SimEnv::new(3);
    let (storage, told) = small_journal(&env);
    let old = begin_rotation(&storage, &told);
    let inner = storage.inner();
    inner.is_marked.store(false, Ordering::Release);
    storage.journal(vec![selector(0, "new")], Wait::None, None);
    inner.is_marked.store(true, Ordering::Release);
    storage.journal(vec![selector(1, "new")], Wait::None, None);
    storage.journal_rotated();
    inner.flush_once(false);
    inner.flush_once(true);
    assert_eq!(told.rotations.load(Ordering::SeqCst), 2, "it is tried again");
    env.kill();
    drop(storage);
    let (storage, _) = small_journal(&env);
    assert_eq!(storage.take_journal(), [old, vec![selector(1, "new")]].concat());
}

#[test]
fn entries_that_found_no_room_are_written_in_order_once_there_is_some() {
    let env = SimEnv::new(3);
    let (storage, _) = small_journal(&env);
    let all: Vec<_> = (0..3).map(|group| selector(group, "x")).collect();
    env.set_capacity(Some(env.used()));
    for entry in &all[..2] {
        storage.journal(vec![entry.clone()], Wait::None, None);
        storage.inner().flush_once(false);
    }
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    storage.journal(vec![all[2].clone()], Wait::Durable, Some(done));
    storage.inner().flush_once(false);
    assert!(matches!(receiver.recv().unwrap(), Err(StorageError::NoSpace { .. })));
    assert!(storage.inner().flush.lock().is_empty(), "the flusher does not spin");
    env.set_capacity(None);
    storage.inner().flush_once(true);
    env.lose_power();
    drop(storage);
    assert_eq!(small_journal(&env).0.take_journal(), all);
}

#[test]
fn entries_are_refused_when_too_many_wait_for_room() {
    let env = SimEnv::new(3);
    let (storage, _) = small_journal(&env);
    storage.inner().flush.lock().held.bytes = JOURNAL_HELD_BYTES_MAX;
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    storage.journal(vec![selector(0, "x")], Wait::None, Some(done));
    assert!(matches!(receiver.recv().unwrap(), Err(StorageError::NoSpace { .. })));
    assert!(storage.inner().flush.lock().refused);
}

#[test]
fn entries_that_never_find_room_make_a_close_fail_which_can_be_repeated() {
    let env = SimEnv::new(3);
    let (storage, _) = small_journal(&env);
    env.set_capacity(Some(env.used()));
    storage.journal(vec![selector(0, "x")], Wait::None, None);
    storage.inner().flush_once(false);
    let error = storage.close().unwrap_err();
    assert!(matches!(error, StorageError::Unwritten { bytes: 4000.., .. }), "{error}");
    env.set_capacity(None);
    storage.close().unwrap();
    env.lose_power();
    let (storage, _) = small_journal(&env);
    assert!(storage.report().clean);
    assert_eq!(storage.take_journal(), [selector(0, "x")]);
}

#[test]
fn after_a_failed_sync_every_sync_of_the_file_fails() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let answer = send(&storage, sync, 1);
        let inner = storage.inner();
        inner.append_once();
        env.fail(SimCall::Sync, 0, kind);
        // As the thread that writes zeros ahead does, just before it tells of its failure.
        assert!(inner.log.prepare().unwrap_err().is_failed_sync());
        inner.flush_once(false);
        let error = answer.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StorageError::Failed { .. }), "{error}");
    }
}

/// Returns the only segment of the log.
fn log_segment(env: &SimEnv) -> PathBuf {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    env.paths().into_iter().find(is_segment).unwrap()
}

#[test]
fn a_stop_gives_the_zeros_ahead_of_the_log_back() {
    const CAPACITY: u64 = 64 << 10;
    const AHEAD: u64 = 8 << 10;
    let options = StorageOptions {
        log_segment_bytes_min: CAPACITY,
        log_segment_bytes_max: CAPACITY,
        zero_ahead_bytes: AHEAD,
        ..StorageOptions::small()
    };
    let (storage, env, sync, _) = stepped(options.clone());
    let inner = storage.inner();
    let next = Path::new("/data/log/next.tmp");
    let mut number = 0;
    while env.bytes(next).is_none() {
        let answer = send(&storage, sync, number);
        inner.append_once();
        inner.flush_once(false);
        answer.try_recv().unwrap().unwrap();
        inner.upkeep_once(&mut |_| ()).unwrap();
        number += 1;
    }
    let written = inner.log.tip().written.0;
    let left = CAPACITY - written;
    assert!((AHEAD..=2 * AHEAD).contains(&left), "the next segment is made ready with {left} bytes left");
    let segment = log_segment(&env);
    let len = || env.bytes(&segment).unwrap().len() as u64;
    assert!(len() > 4096 + written);
    storage.close().unwrap();
    assert_eq!((len(), env.bytes(next)), (4096 + written, None));
    drop(storage);
    env.lose_power();
    let options = StorageOptions { env: Arc::new(env.clone()), ..options };
    let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
    assert!(storage.report().clean);
    assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(number));
}

#[test]
fn a_log_that_takes_no_messages_writes_no_zeros() {
    let (storage, env, _, _) = stepped(StorageOptions::small());
    let inner = storage.inner();
    let segment = log_segment(&env);
    let len = || env.bytes(&segment).unwrap().len();
    let before = len();
    inner.low_space.store(true, Ordering::Relaxed);
    inner.upkeep_once(&mut |_| ()).unwrap();
    assert_eq!(len(), before);
    inner.low_space.store(false, Ordering::Relaxed);
    inner.upkeep_once(&mut |_| ()).unwrap();
    assert!(len() > before);
}

#[test]
fn a_failed_sync_fails_the_storage_whoever_meets_it() {
    // The sync of a change of the catalogue; then, when it is summed up, those of the sealed segment and of
    // the new one.
    for after in [0, 1, 3] {
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let change = |size| {
            let attributes = "x".repeat(size);
            storage.alter_topic(sync, 2, DurabilityClass::Sync, Compression::None, attributes)
        };
        change(600 << 10).unwrap();
        env.fail(SimCall::Sync, after, io::ErrorKind::StorageFull);
        let error = change(600 << 10).unwrap_err();
        assert!(error.is_failed_sync(), "{after}: {error}");
        assert!(matches!(storage.create_topic(topic("t")), Err(StorageError::Failed { .. })), "{after}");
        assert!(matches!(send(&storage, sync, 1).try_recv(), Ok(Err(StorageError::Failed { .. }))));
    }
    let (storage, env, sync, _) = stepped(StorageOptions::small());
    let _answer = send(&storage, sync, 1);
    storage.inner().append_once();
    env.fail(SimCall::Sync, 0, io::ErrorKind::StorageFull);
    assert!(storage.inner().upkeep_once(&mut |_| ()).is_err());
    assert!(matches!(storage.checkpoint(), Err(StorageError::Failed { .. })));
}

/// Appends a message that begins a new segment, on a disk that has room for the seal of the last one alone.
fn fail_to_begin(storage: &Storage, env: &SimEnv, topic: TopicId) {
    let (sender, receiver) = mpsc::channel();
    let message = Message { body: vec![0; 1 << 20].into(), ..message(9) };
    let batch = vec![Append { topic, queue: QueueId(0), message }];
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    // The seal, the cut behind it, and the header of the next segment.
    env.fail(SimCall::Write, 2, io::ErrorKind::StorageFull);
    storage.inner().append_once();
    assert!(matches!(receiver.try_recv().unwrap(), Err(StorageError::NoSpace { .. })));
}

#[test]
fn rows_before_a_segment_that_cannot_be_begun_become_visible() {
    let (storage, env, sync, _) = stepped(StorageOptions::small());
    let answer = send(&storage, sync, 1);
    let inner = storage.inner();
    inner.append_once();
    inner.build_once();
    fail_to_begin(&storage, &env, sync);
    inner.flush_once(false);
    assert!(answer.try_recv().unwrap().is_ok());
    assert!(inner.build.lock().publish, "the builder is woken");
    inner.build_once();
    assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(1));
}

#[test]
fn nothing_is_appended_behind_a_seal() {
    let (storage, env, sync, _) = stepped(StorageOptions::small());
    let _answer = send(&storage, sync, 1);
    storage.inner().append_once();
    fail_to_begin(&storage, &env, sync);
    let open = || {
        let options = StorageOptions { env: Arc::new(env.clone()), ..StorageOptions::small() };
        Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap()
    };
    env.kill();
    drop(storage);
    env.set_capacity(Some(env.used()));
    let storage = open();
    env.set_capacity(None);
    // Both lie where the seal ends: the checkpoint, and the end that it states.
    storage.close().unwrap();
    env.kill();
    drop(storage);
    let storage = open();
    assert!(storage.report().clean);
    let answer = send(&storage, sync, 2);
    storage.inner().append_once();
    storage.inner().flush_once(false);
    assert!(answer.try_recv().unwrap().is_ok());
    env.kill();
    drop(storage);
    env.lose(Path::new("/data/checkpoint"));
    let storage = open();
    assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(2));
    let segments = env.paths().into_iter().filter(|path| path.starts_with("/data/log"));
    assert_eq!(segments.count(), 2);
}

#[test]
fn a_checkpoint_that_found_no_room_is_made_at_the_next_interval() {
    // Two writes of a file of consume queues, then that of the checkpoint file.
    for after in 0..3 {
        let (storage, env, sync, _) = stepped(StorageOptions::small());
        let _answer = send(&storage, sync, 1);
        let inner = storage.inner();
        inner.append_once();
        inner.flush_once(false);
        inner.build_once();
        let fail = |after| env.fail(SimCall::Write, after, io::ErrorKind::StorageFull);
        fail(after);
        inner.checkpoint_if_moved(&mut |_| ()).unwrap_err();
        inner.checkpoint_if_moved(&mut |_| ()).unwrap();
        let files = || env.paths().into_iter().filter(|path| path.starts_with("/data/queues")).count();
        assert_eq!(files(), 1);
        storage.set_first_offset(sync, QueueId(0), QueueOffset(1)).unwrap();
        fail(0);
        inner.checkpoint_if_moved(&mut |_| ()).unwrap_err();
        inner.checkpoint_if_moved(&mut |_| ()).unwrap();
        assert_eq!(files(), 0, "what it no longer lists is gone");
        let (end, uuid) = (storage.ends().durable, storage.uuid());
        env.kill();
        drop(storage);
        let checkpoint = read_checkpoint(&env, Path::new("/data"), &uuid).unwrap().unwrap();
        assert_eq!(checkpoint.log, end);
    }
}

#[test]
fn a_start_on_a_full_disk_writes_the_ends_that_it_found_before_anything_is_appended() {
    let (storage, env, _, relaxed) = stepped(StorageOptions::small());
    let inner = storage.inner();
    let ack = |offset| JournalEntry::Ack {
        group: GroupId(1),
        topic: relaxed,
        queue: QueueId(0),
        offsets: vec![QueueOffset(offset)],
    };
    let mut positions = Vec::new();
    for number in 0..5 {
        let answer = send(&storage, relaxed, number);
        inner.append_once();
        positions.push(answer.try_recv().unwrap().unwrap()[0].position);
    }
    storage.journal(vec![ack(1), ack(4)], Wait::Written, None);
    inner.flush_once(false);
    env.kill();
    drop(storage);
    let segment = env.paths().into_iter().find(|path| path.starts_with("/data/log")).unwrap();
    env.damage(&segment, |bytes| bytes[4096 + positions[3].0 as usize + 50] ^= 1);
    // Others take the room at once that a start gives back by cutting the zeros behind the end.
    env.set_capacity(Some(0));
    let open = || {
        let options = StorageOptions { env: Arc::new(env.clone()), ..StorageOptions::small() };
        Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap()
    };
    let storage = open();
    assert_eq!(storage.report().cut_queues, 1);
    assert_eq!(storage.view(relaxed, QueueId(0)).unwrap().range().end, QueueOffset(3));
    assert_eq!(storage.take_journal(), [ack(1)]);
    assert!(matches!(send(&storage, relaxed, 9).try_recv(), Ok(Err(StorageError::NoSpace { .. }))));
    storage.inner().mark_running().unwrap_err();
    assert!(matches!(send(&storage, relaxed, 9).try_recv(), Ok(Err(StorageError::NoSpace { .. }))));
    env.set_capacity(None);
    storage.inner().mark_running().unwrap();
    for number in 13..15 {
        let answer = send(&storage, relaxed, number);
        storage.inner().append_once();
        assert_eq!(answer.try_recv().unwrap().unwrap()[0].offset, QueueOffset(number - 10));
    }
    env.kill();
    drop(storage);
    assert_eq!(open().take_journal(), [ack(1)], "offset 4 is another message now");
}

#[test]
fn a_long_log_is_replayed_on_a_full_disk() {
    let options = || StorageOptions { checkpoint_bytes: 1000, ..StorageOptions::small() };
    let (storage, env, sync, _) = stepped(options());
    for number in 0..20 {
        let answer = send(&storage, sync, number);
        storage.inner().append_once();
        storage.inner().flush_once(false);
        answer.try_recv().unwrap().unwrap();
    }
    env.kill();
    drop(storage);
    env.set_capacity(Some(env.used()));
    let options = StorageOptions { env: Arc::new(env), ..options() };
    let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
    assert_eq!(storage.view(sync, QueueId(0)).unwrap().range().end, QueueOffset(20));
}

#[test]
fn a_checkpoint_that_could_take_no_row_is_not_followed_by_another_at_once() {
    let (storage, _, sync, relaxed) =
        stepped(StorageOptions { unfiled_bytes_max: 500, ..StorageOptions::small() });
    let inner = storage.inner();
    let take_wanted = || std::mem::take(&mut inner.keeper.lock().wanted);
    let add = |topic, number| {
        let answer = send(&storage, topic, number);
        inner.append_once();
        inner.build_once();
        answer
    };
    let _answer = add(relaxed, 1);
    assert!(take_wanted());
    // Nothing of it is durable yet.
    inner.keep_once(true, &mut |_| ());
    assert!(inner.queues.run_bytes() > 0 && !take_wanted());
    inner.flush_once(true);
    let _answer = add(sync, 2);
    assert!(take_wanted());
    inner.keep_once(true, &mut |_| ());
    assert!(inner.queues.run_bytes() > 0 && take_wanted(), "some rows went into files, and some are left");
    inner.flush_once(true);
    inner.keep_once(true, &mut |_| ());
    assert!(inner.queues.run_bytes() == 0 && !take_wanted());
}

#[test]
fn a_checkpoint_rests_unless_somebody_waits_for_it() {
    let (storage, _, _, relaxed) =
        stepped(StorageOptions { checkpoint_bytes: 4 << 20, ..StorageOptions::small() });
    let inner = storage.inner();
    let number = Cell::new(0);
    let fill = || {
        for _ in 0..100 {
            let first = number.replace(number.get() + 20);
            let answers: Vec<_> = (first..first + 20).map(|n| send(&storage, relaxed, n)).collect();
            inner.append_once();
            inner.build_once();
            answers.iter().for_each(|answer| drop(answer.try_recv().unwrap().unwrap()));
        }
        inner.flush_once(true);
    };
    let rests = || {
        fill();
        let mut rests = 0;
        inner
            .checkpoint_resting(&mut |time| {
                assert!(!time.is_zero());
                rests += 1;
            })
            .unwrap();
        assert_eq!(inner.checkpoint.lock().log, inner.log.durable());
        rests
    };
    assert!(rests() > 0);
    fill();
    thread::scope(|scope| {
        let mut rests = 0;
        let mut rest = |_| {
            rests += 1;
            assert_eq!(rests, 1, "somebody waits");
            scope.spawn(|| storage.checkpoint().unwrap());
            let until = Instant::now() + Duration::from_secs(10);
            while inner.checkpoint_waiters.load(Ordering::Acquire) == 0 && Instant::now() < until {
                thread::yield_now();
            }
        };
        inner.checkpoint_resting(&mut rest).unwrap();
        assert_eq!(rests, 1);
    });
    inner.low_space.store(true, Ordering::Relaxed);
    inner.checkpoint_resting(&mut |_| panic!("the disk is nearly full")).unwrap();
    inner.low_space.store(false, Ordering::Relaxed);
    assert!(rests() > 0);
    // More log than a start should read.
    while inner.built.load(Ordering::Acquire) < inner.checkpoint.lock().log.0 + (6 << 20) {
        let answers: Vec<_> = (0..100).map(|n| send(&storage, relaxed, n)).collect();
        inner.append_once();
        inner.build_once();
        answers.iter().for_each(|answer| drop(answer.try_recv().unwrap().unwrap()));
    }
    assert_eq!(rests(), 0);
    inner.is_closing.store(true, Ordering::Release);
    assert_eq!(rests(), 0);
}

#[test]
fn zeros_are_written_with_rests_while_some_lie_ahead() {
    const AHEAD: u64 = 32 << 20;
    let options = StorageOptions {
        log_segment_bytes_min: 4 * AHEAD,
        log_segment_bytes_max: 4 * AHEAD,
        zero_ahead_bytes: AHEAD,
        ..StorageOptions::small()
    };
    let (storage, _, _, relaxed) = stepped(options);
    let inner = storage.inner();
    inner.upkeep_once(&mut |_| ()).unwrap();
    // Of as many zeros as lie ahead then, more are missing the second time.
    for taken in [AHEAD / 2 + (1 << 20), AHEAD * 3 / 4 + (1 << 20)] {
        let end = inner.log.tip().written.0 + taken;
        while inner.log.tip().written.0 < end {
            let message = Message { body: vec![1; 1 << 20].into(), ..Message::default() };
            let batch = vec![Append { topic: relaxed, queue: QueueId(0), message }];
            storage.append(batch, Box::new(|appended| drop(appended.unwrap())));
            inner.append_once();
            inner.build_once();
            inner.flush_once(true);
        }
        assert!(inner.log.wants_preparing());
        let mut rests = 0;
        let mut rest = |_| {
            rests += 1;
            assert!(!inner.log.is_short());
        };
        inner.upkeep_once(&mut rest).unwrap();
        assert!(rests > 0, "{taken} are missing");
    }
}

#[test]
fn nothing_is_written_after_a_close() {
    let (storage, env, _, _) = stepped(StorageOptions::small());
    storage.close().unwrap();
    let checkpoint = |env: &SimEnv| read_file(env, Path::new("/data/checkpoint"), 1 << 20).unwrap();
    let before = checkpoint(&env);
    assert!(matches!(storage.checkpoint(), Err(StorageError::Closed)));
    assert!(matches!(storage.inner().mark_running(), Err(StorageError::Closed)));
    assert_eq!(checkpoint(&env), before);
}

#[test]
fn kinds_of_properties_only_grow_and_stay() {
    let (storage, env, topic, _) = stepped(StorageOptions::small());
    let set = |name: &str, kinds: KindSet| BTreeMap::from([(name.to_owned(), kinds)]);
    let (int, float) = (KindSet::default().with(Kind::Int), KindSet::default().with(Kind::Float));
    storage.add_property_kinds(topic, &set("a", int)).unwrap();
    storage.add_property_kinds(topic, &set("a", float)).unwrap();
    storage.add_property_kinds(topic, &set("b", int)).unwrap();
    env.fail(SimCall::Write, 0, io::ErrorKind::StorageFull);
    storage.add_property_kinds(topic, &set("a", int)).expect("nothing is new, and nothing is written");
    storage.add_property_kinds(topic, &set("c", int)).unwrap_err();
    env.fail_no_more();
    let long = "n".repeat(PROPERTY_KINDS_BYTES_MAX - 1);
    assert!(matches!(
        storage.add_property_kinds(topic, &set(&long, int)),
        Err(StorageError::TooLarge { .. })
    ));
    storage.add_property_kinds(topic, &set(&long[1..], int)).unwrap();
    // Enough changes that the catalogue is summed up.
    for _ in 0..8 {
        let entry = storage.topic(topic).unwrap();
        storage.alter_topic(topic, entry.queues, entry.class, Compression::None, "{}".to_owned()).unwrap();
    }
    env.kill();
    drop(storage);
    let options = StorageOptions { env: Arc::new(env), ..StorageOptions::small() };
    let storage = Storage::open_stepped(Path::new("/data"), options, Arc::new(Told::default())).unwrap();
    let kept = &storage.topic(topic).unwrap().property_kinds;
    assert_eq!((kept["a"], kept["b"], kept.len()), (int.union(float), int, 3));
}
