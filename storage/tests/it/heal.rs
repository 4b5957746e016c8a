//! Damaged blocks of consume queues: a reader is told, and then they are whole again, without another start.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use weir_columns::{ColumnRef, Rows, Value};
use weir_storage::{Append, DurabilityClass, Message, Part, QueueOffset, Storage, StorageError, TopicId};

use crate::support::{Place, QUEUE, message, new_topic, wait_visible};

const ROWS: u64 = 8192 + 500;

fn fill(storage: &Storage, topic: TopicId) {
    for first in (0..ROWS).step_by(500) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let message = |number: u64| Message {
            properties: vec![("n".to_owned(), Value::I64(number as i64))],
            body: number.to_le_bytes().to_vec().into(),
            ..Message::default()
        };
        let numbers = first..(first + 500).min(ROWS);
        let batch = numbers.map(|number| Append { topic, queue: QUEUE, message: message(number) }).collect();
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap().unwrap();
    }
    wait_visible(storage, topic, ROWS);
}

/// Reads every row with its property and its record.
fn read(storage: &Storage, topic: TopicId) -> Result<(), StorageError> {
    let view = storage.view(topic, QUEUE).unwrap();
    assert_eq!(view.range().end.0, ROWS);
    let mut offset = view.range().start;
    while offset.0 < ROWS {
        let block = match view.part_at(offset).unwrap() {
            Part::Segment(segment, number) => segment.block(number)?,
            Part::Run(block) => block,
        };
        let mut row = 0;
        block.visit_records(0..block.len(), |record| {
            assert_eq!(*record.body()?, (block.base().0 + row).to_le_bytes());
            assert_eq!(record.topic, topic);
            row += 1;
            Ok(())
        })?;
        for row in [0, block.len() / 2, block.len() - 1] {
            assert_eq!(
                block.value(ColumnRef::Property("n"), row)?,
                Some(Value::I64(block.base().0 as i64 + row as i64))
            );
        }
        assert!(block.lost().is_none());
        offset = block.range().end;
    }
    Ok(())
}

#[test]
fn damage_in_a_block_is_built_anew_beside_the_others() {
    // Header, entries of columns, and their data, in a queue segment and in a shared file.
    for (dir, steps) in [("queues/0000000001/0", 60), ("queues/shared", 30)] {
        let mut met = 0;
        for step in 0..steps {
            let mut place = Place::new();
            place.options.log_segment_bytes_max = 4 << 20;
            place.options.log_segment_bytes_min = 4 << 20;
            let storage = place.open();
            let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
            let other = storage.create_topic(new_topic("other", DurabilityClass::Sync)).unwrap().id;
            fill(&storage, topic);
            fill(&storage, other);
            storage.close().unwrap();
            drop(storage);
            let file = place.files(dir).into_iter().next().unwrap();
            let len = place.env.bytes(&file).unwrap().len();
            // The footer is at the end; a start reads it.
            let at = 64 + (len * 6 / 10 - 64) * step / steps;
            place.env.damage(&file, |bytes| bytes[at] ^= 1);

            let storage = place.open();
            let before = read(&storage, topic).and_then(|()| read(&storage, other));
            storage.checkpoint().unwrap();
            read(&storage, topic).unwrap();
            read(&storage, other).unwrap();
            if let Err(error) = &before {
                assert!(matches!(error, StorageError::Corrupt { path, .. } if *path == file), "{error}");
                assert!(place.env.bytes(&file).is_none(), "the damaged file is gone");
                met += 1;
            }
            place.kill(storage);
            let storage = place.open();
            assert!(storage.report().replayed_bytes < 10_000, "{:?}", storage.report());
            read(&storage, topic).unwrap();
            read(&storage, other).unwrap();
        }
        assert!(met > 5, "{met} of {steps} in {dir} lay where these readers look");
    }
}

/// What cannot be read in the log either is left to the next start, which knows how to go on.
#[test]
fn damage_in_block_and_log_is_left_to_the_next_start() {
    let mut place = Place::new();
    place.options.log_segment_bytes_max = 4 << 20;
    place.options.log_segment_bytes_min = 4 << 20;
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    fill(&storage, topic);
    storage.close().unwrap();
    drop(storage);
    let file = place.files("queues/0000000001/0").pop().unwrap();
    place.env.damage(&file, |bytes| bytes[64 + 20] ^= 1);
    place.env.damage(&place.files("log")[0], |bytes| bytes[50_000] ^= 1);
    let storage = place.open();
    read(&storage, topic).unwrap_err();
    storage.checkpoint().unwrap();
    read(&storage, topic).unwrap_err();
    place.kill(storage);
    let storage = place.open();
    assert_eq!(storage.report().fences.len(), 1, "{:?}", storage.report());
    let view = storage.view(topic, QUEUE).unwrap();
    let lost: usize = (0..view.range().end.0)
        .filter(|offset| {
            let offset = QueueOffset(*offset);
            let block = match view.part_at(offset).unwrap() {
                Part::Segment(segment, number) => segment.block(number).unwrap(),
                Part::Run(block) => block,
            };
            let row = offset.since(block.base()).unwrap() as usize;
            block.lost().is_some_and(|lost| lost.value(row))
        })
        .count();
    assert_eq!((view.range().end.0, lost), (ROWS, 1), "one record");
    assert!(place.env.bytes(Path::new("/data/checkpoint")).is_some());
}

#[test]
fn what_cannot_be_built_anew_of_one_queue_keeps_no_other_from_it() {
    let mut place = Place::new();
    place.options.log_segment_bytes_max = 4 << 20;
    place.options.log_segment_bytes_min = 4 << 20;
    let storage = place.open();
    let new = |name| storage.create_topic(new_topic(name, DurabilityClass::Sync)).unwrap().id;
    let (lost, other) = (new("lost"), new("other"));
    fill(&storage, lost);
    fill(&storage, other);
    storage.close().unwrap();
    drop(storage);
    for dir in ["queues/0000000001/0", "queues/0000000002/0"] {
        place.env.damage(&place.files(dir)[0], |bytes| bytes[64 + 20] ^= 1);
    }
    // A record of the first topic.
    place.env.damage(&place.files("log")[0], |bytes| bytes[50_000] ^= 1);
    let storage = place.open();
    read(&storage, lost).unwrap_err();
    read(&storage, other).unwrap_err();
    storage.checkpoint().unwrap();
    read(&storage, lost).unwrap_err();
    read(&storage, other).unwrap();
    assert_eq!(place.files("queues/0000000002/0").len(), 1, "the damaged file is gone");
    place.kill(storage);
    let storage = place.open();
    assert_eq!(storage.report().fences.len(), 1, "{:?}", storage.report());
    read(&storage, other).unwrap();
}

/// Publishes rows of a kilobyte, so that few of them fill a segment of the log.
fn fill_log(storage: &Storage, topic: TopicId, rows: std::ops::Range<u64>) {
    let end = rows.end;
    for first in rows.step_by(50) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let numbers = first..(first + 50).min(end);
        let batch = numbers.map(|number| Append { topic, queue: QUEUE, message: message(number) }).collect();
        storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap().unwrap();
    }
    wait_visible(storage, topic, end);
}

/// Rows that have ended need not be in the log any more; those behind them in their block are built anew all the same.
#[test]
fn a_block_is_built_anew_whose_first_rows_the_log_no_longer_has() {
    const END: u64 = 600;
    const FIRST: u64 = 500;
    // Unlinked segments, and compacted ones: of the second topic rows stay in each.
    for is_compacted in [false, true] {
        let mut met = [0, 0];
        for at in (64..20_000).step_by(201) {
            let mut place = Place::new();
            place.options.compaction_bytes_min = 4 << 10;
            place.options.compaction_interval = Duration::from_millis(1);
            place.options.recent_bytes_max = 1;
            let storage = place.open();
            let new = |name| storage.create_topic(new_topic(name, DurabilityClass::Sync)).unwrap().id;
            let (topic, stays) = (new("t"), new("stays"));
            if is_compacted {
                for number in 0..END / 50 {
                    fill_log(&storage, stays, number..number + 1);
                    fill_log(&storage, topic, number * 50..number * 50 + 50);
                }
            } else {
                fill_log(&storage, topic, 0..END);
            }
            storage.checkpoint().unwrap();
            storage.set_first_offset(topic, QUEUE, QueueOffset(FIRST)).unwrap();
            let oldest = Path::new("/data/log/00000000000000000000.log");
            let begun = Instant::now();
            // Until it is gone, or compacted.
            while place.env.bytes(oldest).is_some_and(|bytes| !is_compacted || bytes[13] == 0) {
                storage.checkpoint().unwrap();
                assert!(begun.elapsed() < Duration::from_secs(30), "what has ended goes");
                std::thread::sleep(Duration::from_millis(1));
            }
            storage.close().unwrap();
            drop(storage);
            let file = place.files("queues/shared").pop().unwrap();
            let len = place.env.bytes(&file).unwrap().len();
            if at >= len * 6 / 10 {
                continue;
            }
            place.env.damage(&file, |bytes| bytes[at] ^= 1);

            let storage = place.open();
            let read = || -> Result<(), StorageError> {
                let view = storage.view(topic, QUEUE).unwrap();
                assert_eq!(view.range(), QueueOffset(FIRST)..QueueOffset(END));
                let Part::Segment(segment, number) = view.part_at(QueueOffset(FIRST)).unwrap() else {
                    panic!()
                };
                let block = segment.block(number)?;
                let rows = (FIRST - block.base().0) as usize..block.len();
                let lost = block.lost().cloned();
                assert!(rows.clone().all(|row| !lost.as_ref().is_some_and(|lost| lost.value(row))));
                let mut number = FIRST;
                block.visit_records(rows, |record| {
                    assert_eq!(record.body()?[..8], number.to_le_bytes());
                    number += 1;
                    Ok(())
                })?;
                assert_eq!(number, END);
                assert_eq!(block.store_times()?.len(), block.record_sizes()?.len());
                Ok(())
            };
            let has_positions = || {
                let view = storage.view(topic, QUEUE).unwrap();
                let Part::Segment(segment, number) = view.part_at(QueueOffset(FIRST)).unwrap() else {
                    panic!()
                };
                segment.block(number).is_ok_and(|block| block.positions().is_ok())
            };
            let (before, by_position) = (read(), has_positions());
            storage.checkpoint().unwrap();
            read().unwrap();
            if let Err(error) = before {
                assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
                assert!(place.env.bytes(&file).is_none(), "the damaged file is gone");
                met[usize::from(by_position)] += 1;
            }
            place.kill(storage);
            let storage = place.open();
            assert!(storage.report().replayed_bytes < 10_000, "{:?}", storage.report());
        }
        assert!(met.iter().all(|met| *met > 0), "{met:?}");
    }
}
