//! Damage of every kind is found, and costs no more than it must.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use weir_columns::{ColumnRef, Rows, Value};
use weir_storage::{
    Append, DurabilityClass, Env, Finding, GroupId, JournalEntry, Message, NewGroup, NewTopic, Part, QueueId,
    QueueOffset, Remedy, SimEnv, Storage, StorageError, StorageOptions, TopicId, Verified, Wait, verify,
};

use crate::support::{Place, journal, new_topic};

/// A small part of a directory is looked at in every bit's neighbourhood; of zeros and of long files every so
/// many bytes.
const ZEROS_STEP: usize = 509;

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
        log_segment_bytes_min: 8 << 10,
        log_segment_bytes_max: 8 << 10,
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
                        assert_eq!((found.topic, found.queue.0 as usize, found.offset), (*topic, queue, offset));
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
        matches!(error, StorageError::Corrupt { .. } | StorageError::Lost { .. } | StorageError::NoRecord { .. }),
        "{error}"
    );
}

fn finding_at<'a>(found: &'a Verified, path: &Path, at: u64) -> Option<&'a Finding> {
    found.findings.iter().find(|finding| finding.path == path && finding.bytes.contains(&at))
}

/// Returns the bytes of a file to be damaged: all that are not zero or stand beside one that is not, and some zeros.
fn places(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| (at.saturating_sub(1)..(at + 2).min(bytes.len())).any(|at| bytes[at] != 0);
    (0..bytes.len()).filter(|at| near(*at) || at % ZEROS_STEP == 0 || at + 1 == bytes.len()).collect()
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

#[test]
fn every_flipped_bit_is_found_where_it_is() {
    let place = small_place();
    let storage = place.open();
    fill(&storage, 12, 3);
    storage.close().unwrap();
    drop(storage);
    let env = &place.env;
    let mut looks = 0;
    let began = std::time::Instant::now();
    for path in data_files(env) {
        let bytes = env.bytes(&path).unwrap();
        let places = places(&bytes);
        let n = places.len();
        for at in places {
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
        eprintln!("{} {} places of {} {:?}", path.display(), n, bytes.len(), began.elapsed());
    }
    assert!(looks > 5000, "{looks}");
    assert_eq!(look(env).unwrap().findings, []);
}
