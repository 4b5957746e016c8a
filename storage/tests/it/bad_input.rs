//! Foreign directories, second processes, full and failing disks, and callers who ask too much.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weir_storage::{
    Append, Compression, DurabilityClass, Env, FORMAT_VERSION, JournalEntry, Message, NewGroup, Open,
    QueueId, QueueOffset, SimCall, Storage, StorageError, StorageOptions, TopicId, Wait,
};

use crate::support::{
    Place, QUEUE, Told, append, append_all, journal, message, new_topic, numbers, rows, wait_visible,
};

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Storage::open(dir.path(), StorageOptions::small(), Arc::new(Told::default()));
    let storage = open().unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
    assert!(error.contains(", started 20") && error.contains("choose another"), "{error}");
    storage.close().unwrap();
    let again = open().unwrap();
    assert_eq!((again.uuid(), again.key()), (storage.uuid(), storage.key()));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the mode of the real file is what matters")]
fn the_key_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path(), StorageOptions::small(), Arc::new(Told::default())).unwrap();
    let mode = dir.path().join("key").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_ne!(storage.key(), &[0; 32]);
}

#[test]
fn directories_that_are_not_ours_are_left_alone() {
    let place = Place::new();
    place.env.make_dir(Path::new("/data")).unwrap();
    place.env.open(Path::new("/data/holiday.jpg"), Open::Create).unwrap();
    let error = place.try_open().unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
    assert_eq!(place.env.paths(), [PathBuf::from("/data/holiday.jpg")]);
}

#[test]
fn the_format_file_is_checked() {
    for (from, to, fixed, newer) in [
        ("minimum-reader 1", "minimum-reader 9", true, true),
        ("minimum-reader 1", "minimum-reader 9", false, false),
        ("uuid ", "UUID ", true, false),
    ] {
        let place = Place::new();
        place.open().close().unwrap();
        place.env.damage(Path::new("/data/FORMAT"), |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap().replace(from, to);
            let (checked, _) = text.split_once("crc32c").unwrap();
            let crc = crc32c::crc32c(checked.as_bytes());
            *bytes = if fixed { format!("{checked}crc32c {crc:08x}\n") } else { text }.into_bytes();
        });
        let error = place.try_open().unwrap_err();
        let is_newer = matches!(error, StorageError::NeedsNewer { needed: 9, supported: FORMAT_VERSION, .. });
        assert_eq!(is_newer, newer, "{error}");
        assert_eq!(matches!(error, StorageError::Corrupt { .. }), !newer, "{error}");
    }
}

#[test]
fn a_full_disk_refuses_publishers_and_nobody_else() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let first = append(&storage, topic, 0).unwrap();
    // The zeros ahead of the end are still good for a few messages.
    place.env.set_capacity(Some(place.env.used()));
    let mut stored = 1;
    let error = loop {
        match append(&storage, topic, stored) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1000);
    };
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("free some disk space"), "{error}");
    let (sender, receiver) = std::sync::mpsc::channel();
    let batch = (0..20).map(|_| Append { topic, queue: QUEUE, message: message(0) }).collect();
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    assert!(receiver.recv().unwrap().is_err());
    assert_eq!(storage.read(first.position).unwrap().message, message(0));
    place.env.set_capacity(None);
    assert_eq!(append(&storage, topic, stored).unwrap().offset, QueueOffset(stored));
    wait_visible(&storage, topic, stored + 1);
    assert_eq!(rows(&storage, topic), numbers(0..stored + 1));
    assert!(place.told.failures.lock().unwrap().is_empty());
    place.kill(storage);
    let storage = place.open();
    let report = storage.report();
    assert!(report.fences.is_empty());
    assert_eq!(report.cut, None, "nothing of the refused batches is left");
    assert_eq!(rows(&storage, topic), numbers(0..stored + 1));
}

#[test]
fn nothing_is_left_of_a_batch_that_did_not_fit() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append(&storage, topic, 0).unwrap();
    // Zeros are written ahead of the end by a thread of their own: the small message is to fit among them.
    let (mut used, mut since) = (0, std::time::Instant::now());
    while since.elapsed().as_millis() < 200 {
        if place.env.used() != used {
            (used, since) = (place.env.used(), std::time::Instant::now());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    place.env.set_capacity(Some(used));
    let (sender, receiver) = std::sync::mpsc::channel();
    let batch = (0..40).map(|_| Append { topic, queue: QUEUE, message: message(9) }).collect();
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    assert!(matches!(receiver.recv().unwrap(), Err(StorageError::NoSpace { .. })));
    append(&storage, topic, 1).unwrap();
    place.kill(storage);
    place.env.set_capacity(None);
    let storage = place.open();
    assert_eq!(storage.report().cut, None);
    assert_eq!(rows(&storage, topic), numbers(0..2));
}

#[test]
fn a_start_on_a_full_disk_serves_readers() {
    for clean in [false, true] {
        let place = Place::new();
        let storage = place.open();
        let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
        append_all(&storage, topic, 0..3);
        if clean {
            storage.close().unwrap();
        }
        place.kill(storage);
        // Others take the room at once that a start gives back by cutting the zeros behind the end.
        place.env.set_capacity(Some(0));
        let storage = place.open();
        assert_eq!(rows(&storage, topic), numbers(0..3));
        let refused = append(&storage, topic, 3);
        assert!(matches!(refused, Err(StorageError::NoSpace { .. })), "{refused:?}");
        let refused = journal(&storage, JournalEntry::DropTopic { topic }, Wait::Durable);
        assert!(matches!(refused, Err(StorageError::NoSpace { .. })), "{refused:?}");
        place.env.set_capacity(None);
        let begun = std::time::Instant::now();
        while append(&storage, topic, 3).is_err() {
            assert!(begun.elapsed().as_secs() < 5, "there is room again");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        place.kill(storage);
        let storage = place.open();
        assert_eq!((storage.report().clean, rows(&storage, topic)), (false, numbers(0..4)));
    }
}

#[test]
fn publishers_are_refused_before_the_disk_is_full() {
    let mut place = Place::new();
    place.open().close().unwrap();
    place.options.free_bytes_min = 1 << 20;
    place.env.set_capacity(Some(place.env.used() + (1 << 19)));
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let error = append(&storage, topic, 0).unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    for class in [DurabilityClass::Sync, DurabilityClass::Async] {
        let place = Place::new();
        let storage = place.open();
        let topic = storage.create_topic(new_topic("t", class)).unwrap().id;
        let first = append(&storage, topic, 0).unwrap();
        place.env.fail(SimCall::Sync, 0, io::ErrorKind::Other);
        // Whoever syncs next fails: the flusher, or the thread that writes zeros ahead.
        let mut number = 1;
        let error = loop {
            match append(&storage, topic, number) {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(number < 1000);
        };
        assert!(matches!(error, StorageError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("cannot sync /data/"), "{error}");
        for refused in [
            append(&storage, topic, 9).map(|_| ()),
            journal(&storage, JournalEntry::DropTopic { topic }, Wait::Durable),
            storage.create_topic(new_topic("u", class)).map(|_| ()),
            storage.checkpoint(),
            storage.close(),
        ] {
            assert!(matches!(refused, Err(StorageError::Failed { .. })), "{refused:?}");
        }
        assert_eq!(storage.read(first.position).unwrap().message, message(0), "readers go on");
        assert_eq!(place.told.failures.lock().unwrap().len(), 1, "told once");
        place.env.lose_power();
        drop(storage);
        let storage = place.open();
        if class == DurabilityClass::Sync {
            assert_eq!(rows(&storage, topic)[0], Some(0));
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_stops_one_reader_or_the_start() {
    let mut place = Place::new();
    place.options.recent_bytes_max = 0;
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let appended = append_all(&storage, topic, 0..3);
    place.env.fail(SimCall::Read, 0, io::ErrorKind::PermissionDenied);
    let error = storage.read(appended[1].position).unwrap_err();
    assert!(
        matches!(&error, StorageError::Io { action: "read", path, .. } if path.starts_with("/data/log")),
        "{error}"
    );
    assert_eq!(storage.read(appended[1].position).unwrap().message, message(1));
    place.kill(storage);
    for after in 0..40 {
        place.env.fail(SimCall::Read, after, io::ErrorKind::PermissionDenied);
        let opened = place.try_open();
        place.env.fail_no_more();
        match opened {
            Ok(storage) => {
                assert_eq!(rows(&storage, topic), numbers(0..3));
                assert!(storage.report().fences.is_empty());
                place.kill(storage);
            }
            Err(error) => {
                assert!(
                    matches!(&error, StorageError::Io { path, .. } if path.starts_with("/data")),
                    "{error}"
                );
                place.env.kill();
            }
        }
    }
}

#[test]
fn callers_are_told_what_they_asked_too_much_of() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let unknown = TopicId(99);
    assert!(
        matches!(append(&storage, unknown, 0), Err(StorageError::UnknownTopic { topic }) if topic == unknown)
    );
    let (sender, receiver) = std::sync::mpsc::channel();
    for (queue, message) in [
        (QueueId(1), message(0)),
        (QUEUE, Message { body: vec![0; 17 << 20].into(), ..Message::default() }),
        (QUEUE, Message { message_id: "x".repeat(256), ..Message::default() }),
    ] {
        let sender = sender.clone();
        // The good message of the batch is not stored either.
        let batch = vec![
            Append { topic, queue: QUEUE, message: crate::support::message(1) },
            Append { topic, queue, message },
        ];
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        let error = receiver.recv().unwrap().unwrap_err();
        assert!(
            matches!(error, StorageError::UnknownQueue { .. } | StorageError::TooLarge { .. }),
            "{error}"
        );
    }
    assert_eq!(append(&storage, topic, 0).unwrap().offset, QueueOffset(0));
    let taken = storage.create_topic(new_topic("t", DurabilityClass::Async)).unwrap_err();
    assert_eq!(taken.to_string(), "topic t exists already");
    let fewer =
        storage.alter_topic(topic, 0, DurabilityClass::Sync, Compression::None, String::new()).unwrap_err();
    assert!(matches!(fewer, StorageError::FewerQueues { queues: 1, asked: 0, .. }));
    storage.create_group(NewGroup { name: "g".into(), ..NewGroup::default() }).unwrap();
    assert!(storage.create_group(NewGroup { name: "g".into(), ..NewGroup::default() }).is_err());
    for position in [1, 1 << 40, u64::MAX] {
        assert!(storage.read(weir_storage::LogPosition(position)).is_err());
    }
    wait_visible(&storage, topic, 1);
    let ended = storage.set_first_offset(topic, QUEUE, QueueOffset(2)).unwrap_err();
    assert!(matches!(ended, StorageError::OffsetOutOfRange { asked: QueueOffset(2), .. }), "{ended}");
    assert_eq!(append(&storage, topic, 1).unwrap().offset, QueueOffset(1));
    wait_visible(&storage, topic, 2);
    storage.close().unwrap();
    assert!(matches!(append(&storage, topic, 1), Err(StorageError::Closed)));
}
