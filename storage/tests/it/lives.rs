//! What goes on from one life of the process to the next.

use std::{sync::Arc, thread};

use weir_storage::{
    Compression, DurabilityClass, GroupId, JournalEntry, NewGroup, NewTopic, Part, QueueId, QueueOffset,
    Storage, StorageError, StorageOptions, TopicId, Wait,
};

use crate::support::{
    Place, QUEUE, Told, append, append_all, journal, new_topic, numbers, rows, wait_visible,
};

#[test]
fn topics_and_groups_live_on_and_their_ids_are_never_given_twice() {
    let place = Place::new();
    let storage = place.open();
    let new = NewTopic {
        namespace: "n".into(),
        queues: 3,
        attributes: r#"{"a":1}"#.into(),
        ..new_topic("t", DurabilityClass::Async)
    };
    let first = storage.create_topic(new.clone()).unwrap();
    let second = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap();
    let group = storage.create_group(NewGroup { name: "g".into(), ..NewGroup::default() }).unwrap();
    append_all(&storage, second.id, 0..7);
    wait_visible(&storage, second.id, 7);
    storage.set_first_offset(second.id, QUEUE, QueueOffset(7)).unwrap();
    storage.set_first_offset(second.id, QUEUE, QueueOffset(3)).unwrap();
    let altered =
        storage.alter_topic(first.id, 5, DurabilityClass::Sync, Compression::None, "{}".into()).unwrap();
    storage.delete_group(group.id).unwrap();
    place.kill(storage);

    let storage = place.open();
    let topics = storage.topics();
    assert_eq!(topics[0], altered);
    assert_eq!((topics[0].queues, topics[0].namespace.as_str()), (5, "n"));
    assert_eq!(topics[1].first_offset(QUEUE), QueueOffset(7));
    assert_eq!(storage.view(second.id, QUEUE).unwrap().range(), QueueOffset(7)..QueueOffset(7));
    assert_eq!(append(&storage, second.id, 1).unwrap().offset, QueueOffset(7));
    assert!(storage.groups().is_empty());
    storage.delete_topic(first.id).unwrap();
    assert!(storage.view(first.id, QueueId(4)).is_none());
    storage.close().unwrap();

    let storage = place.open();
    let again = storage.create_topic(new).unwrap();
    assert!(again.id > second.id);
    assert!(
        storage.create_group(NewGroup { name: "g".into(), ..NewGroup::default() }).unwrap().id > group.id
    );
}

#[test]
fn rows_of_a_deleted_topic_do_not_come_back() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..20);
    wait_visible(&storage, topic, 20);
    storage.checkpoint().unwrap();
    let freed = storage.delete_topic(topic).unwrap();
    assert_eq!(freed.rows, 20);
    assert!(freed.later_bytes > 0, "in the segment that is written to: {freed:?}");
    let again = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, again, 0..3);
    place.kill(storage);
    let storage = place.open();
    assert!(storage.view(topic, QUEUE).is_none());
    assert_eq!(rows(&storage, again), numbers(0..3));
}

#[test]
fn many_changes_of_the_catalogue_are_summed_up() {
    let place = Place::new();
    let storage = place.open();
    let attributes = "x".repeat(2000);
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let size = || place.files("catalogue").len();
    for round in 0..1200_u64 {
        storage
            .alter_topic(topic, 1, DurabilityClass::Sync, Compression::None, format!("{round}{attributes}"))
            .unwrap();
    }
    assert_eq!(size(), 1, "older segments are unlinked");
    let bytes = {
        use weir_storage::Env;
        let file = place.env.open(&place.files("catalogue")[0], weir_storage::Open::Read).unwrap();
        file.len().unwrap()
    };
    assert!(bytes < 2_000_000, "{bytes}");
    place.kill(storage);
    assert!(place.open().topics()[0].attributes.starts_with("1199x"));
}

#[test]
fn a_checkpoint_shortens_the_next_start() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, topic, 0..50);
    wait_visible(&storage, topic, 50);
    storage.checkpoint().unwrap();
    append_all(&storage, topic, 50..53);
    place.kill(storage);
    let storage = place.open();
    let report = storage.report();
    assert!(!report.clean && report.replayed_bytes < 5000, "{report:?}");
    assert_eq!(rows(&storage, topic), numbers(0..53));
    storage.close().unwrap();
    let epoch = storage.epoch();
    drop(storage);
    let storage = place.open();
    assert!(storage.report().clean && storage.report().replayed_bytes == 0);
    assert_eq!(storage.epoch(), epoch, "no row can have been lost");
    assert_eq!(rows(&storage, topic), numbers(0..53));
}

#[test]
fn log_segments_go_when_no_queue_reaches_them() {
    let mut place = Place::new();
    place.options.recent_bytes_max = 0;
    let storage = place.open();
    let held = storage.create_topic(new_topic("held", DurabilityClass::Sync)).unwrap().id;
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    append(&storage, held, 0).unwrap();
    let appended = append_all(&storage, topic, 0..150);
    wait_visible(&storage, topic, 150);
    wait_visible(&storage, held, 1);
    let segments = place.files("log");
    assert!(segments.len() >= 3);
    storage.set_first_offset(topic, QUEUE, QueueOffset(140)).unwrap();
    storage.checkpoint().unwrap();
    assert_eq!(place.files("log"), segments, "the other topic's row lies in the first");
    assert_eq!(rows(&storage, held), numbers(0..1));

    storage.delete_topic(held).unwrap();
    storage.checkpoint().unwrap();
    assert_eq!(place.files("log"), segments[segments.len() - 1..]);
    assert!(matches!(storage.read(appended[0].position), Err(StorageError::NoRecord { .. })));
    for lost in ["", "checkpoint", "queues/shared"] {
        assert_eq!(rows(&place_open(&place, lost), topic), numbers(140..150), "{lost}");
    }
    place.env.kill();
    let storage = place.open();
    assert_eq!(append(&storage, topic, 150).unwrap().offset, QueueOffset(150));
}

#[test]
fn log_segments_go_though_the_first_block_of_a_queue_is_damaged() {
    let place = Place::new();
    let storage = place.open();
    let quiet = storage.create_topic(new_topic("quiet", DurabilityClass::Sync)).unwrap().id;
    let busy = storage.create_topic(new_topic("busy", DurabilityClass::Sync)).unwrap().id;
    append_all(&storage, busy, 0..150);
    append(&storage, quiet, 0).unwrap();
    wait_visible(&storage, busy, 150);
    wait_visible(&storage, quiet, 1);
    storage.checkpoint().unwrap();
    place.kill(storage);
    let [shared] = place.files("queues/shared").try_into().unwrap();
    // The block of the first topic is the first in the file, behind its header.
    place.env.damage(&shared, |bytes| bytes[64 + 90] ^= 1);
    let storage = place.open();
    assert!(place.files("log").len() >= 3);
    storage.set_first_offset(busy, QUEUE, QueueOffset(150)).unwrap();
    storage.checkpoint().unwrap();
    assert_eq!(place.files("log").len(), 1);
    let view = storage.view(quiet, QUEUE).unwrap();
    let Some(Part::Segment(segment, number)) = view.part_at(QueueOffset(0)) else { panic!("{view:?}") };
    assert!(matches!(segment.block(number), Err(StorageError::Corrupt { .. })), "its readers learn of it");
}

/// Opens the directory after a kill and the loss of some files.
fn place_open(place: &Place, lost: &str) -> Storage {
    place.env.kill();
    let path = std::path::Path::new("/data").join(lost);
    for file in place.env.paths() {
        if !lost.is_empty() && file.starts_with(&path) {
            place.env.lose(&file);
        }
    }
    let storage = place.open();
    assert!(storage.report().fences.is_empty(), "{:?}", storage.report());
    storage
}

#[test]
fn the_journal_comes_back_in_order_and_shorter_after_a_rotation() {
    let mut place = Place::new();
    place.options.journal_rotate_bytes = u64::MAX;
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Async)).unwrap().id;
    append_all(&storage, topic, 0..5);
    let cursor = |cursor| JournalEntry::Cursor {
        group: GroupId(1),
        topic,
        queue: QUEUE,
        slot: 0,
        cursor: QueueOffset(cursor),
    };
    for wait in [Wait::None, Wait::Written, Wait::Durable] {
        journal(&storage, cursor(wait as u64), wait).unwrap();
    }
    // Journalled after the others, so that it cannot be written before them.
    journal(&storage, cursor(9), Wait::Durable).unwrap();
    storage.close().unwrap();
    drop(storage);
    let storage = place.open();
    // The queue ends at 5: no cursor stands behind that.
    assert_eq!(storage.take_journal(), [cursor(0), cursor(1), cursor(2), cursor(5)]);
}

#[test]
fn publishers_at_once_get_offsets_without_gaps_and_batches_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path(), StorageOptions::small(), Arc::new(Told::default())).unwrap();
    let topics: Vec<TopicId> = [("s", DurabilityClass::Sync), ("a", DurabilityClass::Async)]
        .map(|(name, class)| storage.create_topic(new_topic(name, class)).unwrap().id)
        .to_vec();
    let mut offsets: Vec<Vec<u64>> = vec![Vec::new(); topics.len()];
    thread::scope(|scope| {
        let (storage, topics) = (&storage, &topics);
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                scope.spawn(move || {
                    let topic = topics[thread % 2];
                    (0..200)
                        .map(|number| append(storage, topic, number).unwrap().offset.0)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for (thread, found) in threads.into_iter().enumerate() {
            let found = found.join().unwrap();
            assert!(found.is_sorted(), "one publisher's messages keep their order");
            offsets[thread % 2].extend(found);
        }
    });
    for (topic, mut offsets) in topics.iter().zip(offsets) {
        offsets.sort_unstable();
        assert!(offsets.into_iter().eq(0..600));
        wait_visible(&storage, *topic, 600);
    }
    storage.close().unwrap();
    drop(storage);
    let storage = Storage::open(dir.path(), StorageOptions::small(), Arc::new(Told::default())).unwrap();
    for topic in topics {
        assert_eq!(rows(&storage, topic).len(), 600);
    }
}
