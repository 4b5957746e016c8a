//! Files that were damaged, cut or lost behind our back.

use std::{path::Path, sync::mpsc, time::Duration};

use weir_storage::{
    Append, DurabilityClass, Fault, GroupId, JournalEntry, LogPosition, Message, QueueOffset, StorageError,
    TopicId, Wait,
};

use crate::support::{
    Place, QUEUE, append, append_all, journal, message, new_topic, numbers, rows, wait_visible,
};

#[test]
fn a_flipped_bit_costs_the_rows_of_its_frame_and_is_reported_once() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let appended = append_all(&storage, topic, 0..30);
    let epoch = storage.epoch();
    place.kill(storage);
    let damaged = appended[10].position;
    place.flip(LogPosition(damaged.0 + 200));

    let storage = place.open();
    let report = storage.report();
    let [fence] = report.fences.as_slice() else { panic!("{report:?}") };
    assert!(fence.range.contains(&damaged), "{fence:?}");
    assert_eq!((fence.fault, report.cut), (Fault::Checksum, None));
    assert!(fence.path.starts_with("/data/log"));
    assert!(report.epoch > epoch);
    let mut expected = numbers(0..30);
    expected[10] = None;
    assert_eq!(rows(&storage, topic), expected);
    assert!(matches!(storage.read(damaged), Err(StorageError::Lost { position }) if position == damaged));
    assert_eq!(append(&storage, topic, 30).unwrap().offset, QueueOffset(30));
    place.kill(storage);

    let storage = place.open();
    assert!(storage.report().fences.is_empty(), "it is known already");
    expected.push(Some(30));
    assert_eq!(rows(&storage, topic), expected);
}

#[test]
fn a_damaged_last_frame_cannot_be_told_from_a_tear() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let appended = append_all(&storage, topic, 0..5);
    place.kill(storage);
    place.flip(LogPosition(appended[4].position.0 + 50));
    let storage = place.open();
    let report = storage.report();
    assert!(report.fences.is_empty());
    assert_eq!(
        report.cut.map(|cut| (cut.position <= appended[4].position, cut.fault)),
        Some((true, Fault::Checksum))
    );
    assert_eq!(rows(&storage, topic), numbers(0..4));
}

/// The frames after the damaged one were whole, and would fit behind one that takes its place.
#[test]
fn what_was_cut_off_never_comes_back() {
    let mut place = Place::new();
    // Nothing is synced, so that no frame proves that another was durable.
    place.options.async_sync_interval = Duration::from_secs(1000);
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Async)).unwrap().id;
    let appended = append_all(&storage, topic, 0..6);
    journal(&storage, ack(topic, 1), Wait::Written).unwrap();
    journal(&storage, ack(topic, 4), Wait::Written).unwrap();
    place.kill(storage);
    place.flip(LogPosition(appended[3].position.0 + 50));
    // A frame's header lies before the record.
    let end_of_the_damaged = LogPosition(appended[4].position.0 - 64);

    let storage = place.open();
    let report = storage.report();
    assert_eq!(report.cut.map(|cut| cut.frames), Some(2), "those behind the damage");
    assert_eq!((report.fences.len(), report.cut_queues), (0, 1));
    assert_eq!(rows(&storage, topic), numbers(0..3));
    assert_eq!(storage.take_journal(), [ack(topic, 1)]);
    // With the topic's record that a start writes again, its frame is as long as the one that was cut off.
    let shorter = Message { body: vec![0; message(3).body.len() - 112].into(), ..message(3) };
    let (sender, receiver) = mpsc::channel();
    let batch = vec![Append { topic, queue: QUEUE, message: shorter }];
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    assert_eq!(receiver.recv().unwrap().unwrap()[0].offset, QueueOffset(3));
    assert_eq!(storage.ends().written, end_of_the_damaged);
    place.kill(storage);

    let storage = place.open();
    assert_eq!(storage.view(topic, QUEUE).unwrap().range().end, QueueOffset(4), "no row after it came back");
    append_all(&storage, topic, 101..104);
    place.kill(storage);
    let storage = place.open();
    assert_eq!(storage.take_journal(), [ack(topic, 1)], "offset 4 is another message now");
}

#[test]
fn a_stop_in_good_order_proves_damage_of_the_last_frame() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let appended = append_all(&storage, topic, 0..5);
    storage.close().unwrap();
    drop(storage);
    // Only a rebuild reads what lies below the checkpoint; a reader meets the damage earlier.
    place.flip(LogPosition(appended[4].position.0 + 50));
    let storage = place.open();
    assert!(storage.report().clean);
    let error = storage.read(appended[4].position).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { fault: Fault::Checksum, .. }), "{error}");
    assert_eq!(storage.read(appended[3].position).unwrap().message, message(3));
    place.kill(storage);

    place.env.damage(Path::new("/data/checkpoint"), |bytes| bytes[30] ^= 1);
    let storage = place.open();
    let report = storage.report();
    assert!(report.without_checkpoint.is_some_and(|reason| reason.contains("damaged")));
}

#[test]
fn a_log_that_was_cut_short_never_gives_a_position_twice() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let appended = append_all(&storage, topic, 0..10);
    let end = storage.ends().durable;
    storage.close().unwrap();
    drop(storage);
    let segment = place.files("log").pop().unwrap();
    place.env.damage(&segment, |bytes| bytes.truncate(4096 + appended[5].position.0 as usize));
    for queues in place.files("queues/shared") {
        place.env.lose(&queues);
    }

    let storage = place.open();
    let report = storage.report();
    assert_eq!(report.fences.len(), 1, "{report:?}");
    assert_eq!(report.fences[0].range.end, end);
    assert_eq!(rows(&storage, topic), numbers(0..5));
    let next = append(&storage, topic, 100).unwrap();
    assert!(next.position >= end);
    place.kill(storage);
    let storage = place.open();
    assert!(storage.report().fences.is_empty());
    assert_eq!(storage.read(next.position).unwrap().message, message(100));
    assert_eq!(storage.read(appended[4].position).unwrap().message, message(4));
}

#[test]
fn a_lost_or_unreadable_segment_costs_its_own_rows() {
    for damage_header in [false, true] {
        let place = Place::new();
        let storage = place.open();
        let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
        let appended = append_all(&storage, topic, 0..150);
        place.kill(storage);
        let segments = place.files("log");
        assert!(segments.len() >= 3, "{segments:?}");
        if damage_header {
            place.env.damage(&segments[1], |bytes| bytes[56..64].fill(7));
        } else {
            place.env.lose(&segments[1]);
        }
        let storage = place.open();
        let report = storage.report();
        let [fence] = report.fences.as_slice() else { panic!("{report:?}") };
        let expected: Vec<Option<u64>> = appended
            .iter()
            .map(|row| (!fence.range.contains(&row.position)).then_some(row.offset.0))
            .collect();
        let lost = expected.iter().filter(|row| row.is_none()).count();
        assert!((30..80).contains(&lost), "{lost}");
        assert_eq!(rows(&storage, topic), expected);
        assert_eq!(append(&storage, topic, 150).unwrap().offset, QueueOffset(150));
        place.kill(storage);
        let storage = place.open();
        assert!(storage.report().fences.is_empty(), "{:?}", storage.report());
        assert_eq!(rows(&storage, topic).len(), 151);
    }
}

#[test]
fn a_damaged_header_of_the_last_segment_is_passed_over() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..80);
    let end = storage.ends().written;
    place.kill(storage);
    let last = place.files("log").pop().unwrap();
    place.env.damage(&last, |bytes| bytes[56..64].fill(7));
    let storage = place.open();
    assert_eq!(storage.report().fences.len(), 1);
    let kept = rows(&storage, topic).len() as u64;
    assert!(kept > 0 && kept < 80);
    assert!(append(&storage, topic, kept).unwrap().position >= end);
    place.kill(storage);
    let storage = place.open();
    assert_eq!(rows(&storage, topic), numbers(0..kept + 1));
}

#[test]
fn consume_queues_and_checkpoint_can_be_deleted() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..150);
    wait_visible(&storage, topic, 150);
    storage.close().unwrap();
    drop(storage);
    for (lost, replays) in [("", false), ("queues/shared", true), ("checkpoint", true)] {
        let path = Path::new("/data").join(lost);
        for file in place.env.paths() {
            if !lost.is_empty() && file.starts_with(&path) {
                place.env.lose(&file);
            }
        }
        let storage = place.open();
        let report = storage.report();
        assert_eq!(report.replayed_bytes > 100_000, replays, "{lost}: {report:?}");
        assert_eq!(report.without_checkpoint.is_some(), lost == "checkpoint");
        assert_eq!(rows(&storage, topic), numbers(0..150), "{lost}");
        storage.close().unwrap();
    }
}

#[test]
fn a_long_log_is_replayed_in_parts() {
    let mut place = Place::new();
    place.options.checkpoint_bytes = 32 << 10;
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..150);
    place.kill(storage);
    place.env.lose(Path::new("/data/checkpoint"));
    let storage = place.open();
    assert!(!place.files("queues/shared").is_empty(), "parts have gone into files");
    assert_eq!(rows(&storage, topic), numbers(0..150));
    place.kill(storage);
    let storage = place.open();
    assert!(storage.report().replayed_bytes < 40_000, "{:?}", storage.report());
    assert_eq!(rows(&storage, topic), numbers(0..150));
}

#[test]
fn a_quiet_queue_is_there_after_a_replay_in_parts_and_keeps_its_log() {
    let mut place = Place::new();
    place.options.checkpoint_bytes = 32 << 10;
    let storage = place.open();
    let quiet = storage.create_topic(new_topic("quiet", DurabilityClass::Sync)).unwrap().id;
    let busy = storage.create_topic(new_topic("busy", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, quiet, 0..20);
    append_all(&storage, busy, 0..400);
    place.kill(storage);
    place.env.lose(Path::new("/data/checkpoint"));
    for _ in 0..2 {
        let storage = place.open();
        assert_eq!(rows(&storage, quiet), numbers(0..20));
        storage.checkpoint().unwrap();
        assert_eq!(rows(&storage, quiet), numbers(0..20));
        assert_eq!(rows(&storage, busy), numbers(0..400));
        place.kill(storage);
    }
}

#[test]
fn a_damaged_catalogue_stops_the_start() {
    let place = Place::new();
    let storage = place.open();
    for number in 0..5 {
        storage.create_topic(new_topic(&format!("t{number}"), DurabilityClass::Sync)).unwrap();
    }
    place.kill(storage);
    let catalogue = place.files("catalogue").pop().unwrap();
    place.env.damage(&catalogue, |bytes| bytes[4096 + 100] ^= 1);
    let error = place.try_open().unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt { path, .. } if *path == catalogue), "{error}");
}

#[test]
fn damage_in_the_journal_is_reported_and_passed_over() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..5);
    for offset in 0..5 {
        journal(&storage, ack(topic, offset), Wait::Durable).unwrap();
    }
    place.kill(storage);
    let file = place.files("journal").pop().unwrap();
    place.env.damage(&file, |bytes| bytes[4096 + 2 * 96 + 70] ^= 1);
    let storage = place.open();
    assert_eq!(storage.report().journal_fences.len(), 1, "{:?}", storage.report());
    assert_eq!(storage.take_journal(), [ack(topic, 0), ack(topic, 1), ack(topic, 3), ack(topic, 4)]);
    assert!(storage.take_journal().is_empty(), "once");
}

fn ack(topic: TopicId, offset: u64) -> JournalEntry {
    JournalEntry::Ack { group: GroupId(1), topic, queue: QUEUE, offsets: vec![QueueOffset(offset)] }
}
