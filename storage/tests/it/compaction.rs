//! The compactor at work, on real files, while others publish and read what they looked at before.

#![expect(clippy::disallowed_methods, reason = "the test looks at real files")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use weir_storage::{
    Compression, DiskEnv, DurabilityClass, Env, LogPosition, NewTopic, Part, QueueOffset, QueueView, Storage,
    StorageError, StorageOptions, TopicId, verify,
};

use crate::support::{QUEUE, Told, append, message, new_topic, rows, wait_visible};

fn options() -> StorageOptions {
    StorageOptions {
        log_segment_bytes_min: 128 << 10,
        log_segment_bytes_max: 128 << 10,
        zero_ahead_bytes: 32 << 10,
        checkpoint_bytes: 64 << 10,
        checkpoint_interval: Duration::from_millis(20),
        compaction_interval: Duration::from_millis(5),
        compaction_bytes_min: 16 << 10,
        recent_bytes_max: 1,
        ..StorageOptions::small()
    }
}

fn open(dir: &Path, options: StorageOptions) -> Storage {
    Storage::open(dir, options, Arc::new(Told::default())).unwrap()
}

/// Returns the segments that have been compacted, by name.
fn compacted(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap());
    names
        .filter(|entry| {
            // It may have been unlinked meanwhile.
            let is_log = entry.path().extension() == Some("log".as_ref());
            is_log && fs::read(entry.path()).is_ok_and(|bytes| bytes.get(13) == Some(&1))
        })
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn assert_whole(dir: &Path) {
    let found = verify(&(Arc::new(DiskEnv) as Arc<dyn Env>), dir, &mut |_| {}).unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

/// Reads one row of a view that may be old; `None` if its record is gone.
fn read(storage: &Storage, view: &QueueView, offset: QueueOffset) -> Option<u64> {
    let block = match view.part_at(offset).unwrap() {
        Part::Segment(segment, number) => segment.block(number).unwrap(),
        Part::Run(block) => block,
    };
    let row = usize::try_from(offset.since(block.base()).unwrap()).unwrap();
    let stored = match storage.read(LogPosition(block.positions().unwrap().value(row))) {
        Ok(stored) => stored,
        Err(StorageError::NoRecord { .. }) => return None,
        Err(error) => panic!("{offset}: {error}"),
    };
    let number = u64::from_le_bytes(stored.message.body[..8].try_into().unwrap());
    assert_eq!((stored.offset, &stored.message), (offset, &message(number)));
    Some(number)
}

/// Reads all rows of old views, again and again. Those that have not ended are there, and each is what it was.
fn read_old(storage: &Storage, topic: TopicId, stays: bool, reads: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let view = storage.view(topic, QUEUE).unwrap();
        for _ in 0..3 {
            for offset in (view.range().start.0..view.range().end.0).map(QueueOffset) {
                match read(storage, &view, offset) {
                    Some(number) => assert_eq!(number, offset.0),
                    None => {
                        let first = storage.view(topic, QUEUE).unwrap().range().start;
                        assert!(!stays && offset < first, "row {offset} of {topic}, which begins at {first}");
                    }
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn readers_of_old_views_and_publishers_are_not_disturbed() {
    const ROWS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), options());
    let topic = |name: &str, compression| {
        let new = NewTopic { compression, ..new_topic(name, DurabilityClass::Async) };
        storage.create_topic(new).unwrap().id
    };
    let (stays, ends) = (topic("stays", Compression::Zstd), topic("ends", Compression::None));
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut seen = BTreeSet::new();
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (topic, stays) in [(stays, true), (ends, false)] {
            let (storage, reads, stop) = (&storage, &reads, &stop);
            scope.spawn(move || read_old(storage, topic, stays, reads, stop));
        }
        for number in 0..ROWS {
            append(&storage, ends, number).unwrap();
            if number % 20 == 0 {
                append(&storage, stays, number / 20).unwrap();
            }
            if number % 200 == 199 {
                let end = storage.view(ends, QUEUE).unwrap().range().end.0.saturating_sub(50);
                storage.set_first_offset(ends, QUEUE, QueueOffset(end)).unwrap();
                seen.extend(compacted(dir.path()));
            }
        }
        wait_visible(&storage, ends, ROWS);
        storage.set_first_offset(ends, QUEUE, QueueOffset(ROWS)).unwrap();
        while seen.len() < 10 {
            thread::sleep(Duration::from_millis(5));
            seen.extend(compacted(dir.path()));
        }
    });
    assert!(reads.load(Ordering::Relaxed) > ROWS);
    assert_eq!(rows(&storage, stays), (0..ROWS / 20).map(Some).collect::<Vec<_>>());
    storage.close().unwrap();
    assert_whole(dir.path());
    let storage = open(dir.path(), options());
    assert_eq!(rows(&storage, stays), (0..ROWS / 20).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_compactor_that_rests_does_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let slow = StorageOptions {
        log_segment_bytes_min: 4 << 20,
        log_segment_bytes_max: 4 << 20,
        // For a piece of the first segment it would rest for days.
        compaction_bytes_per_second: 1,
        ..options()
    };
    let storage = open(dir.path(), slow.clone());
    let topic = |name: &str| storage.create_topic(new_topic(name, DurabilityClass::Async)).unwrap().id;
    let (stays, ends) = (topic("stays"), topic("ends"));
    append(&storage, stays, 0).unwrap();
    for number in 0..9000 {
        append(&storage, ends, number).unwrap();
    }
    wait_visible(&storage, ends, 9000);
    storage.set_first_offset(ends, QUEUE, QueueOffset(9000)).unwrap();
    let temporary = dir.path().join("log/compacted.tmp");
    while !temporary.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    // It has begun, and has read more than it may at once.
    storage.close().unwrap();
    assert!(compacted(dir.path()).is_empty(), "nobody lets it go on before its time");
    assert!(!temporary.exists());
    assert_whole(dir.path());
    let storage = open(dir.path(), StorageOptions { compaction_bytes_per_second: 1 << 30, ..slow });
    while compacted(dir.path()).is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(rows(&storage, stays), [Some(0)]);
}
