//! Data directories that earlier programs wrote, one of each version of the format, in `storage/tests/formats`. They
//! are opened, compared by content and verified, and what is newer than this program is refused by name.
//!
//! A version gets its directory when it is released, and the directory never changes after that:
//! `cargo test -p weir-storage --test it formats::make -- --ignored`.

#![expect(clippy::disallowed_methods, reason = "the test prepares real files")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use weir_columns::Value;
use weir_storage::{
    Append, BodyEncoding, Compression, DeadLetterOrigin, DiskEnv, DurabilityClass, Env, FORMAT_VERSION,
    GroupId, JournalEntry, LeaseRow, LogPosition, Message, MessageType, NewGroup, NewTopic, Part, PendingRow,
    PendingTarget, QueueId, QueueOffset, SelectorKind, Storage, StorageError, StorageOptions, TopicId, Wait,
    verify,
};

use crate::support::{QUEUE, Told, journal};

/// Rows of the topic that stays.
const KEPT: u64 = 200;
/// So many of them lie among others.
const AMONG: u64 = 120;
/// Rows that end, or whose topic is deleted, for each row that stays among them.
const DEAD_PER_KEPT: u64 = 6;
/// So many rows of the topic `ends` are still there.
const LEFT: u64 = 20;
const GROUP: GroupId = GroupId(1);
const STAYS: TopicId = TopicId(1);
const ENDS: TopicId = TopicId(2);
/// A topic with a full block, of which only the last rows are left.
const LONG: TopicId = TopicId(4);
const LONG_ROWS: u64 = 8200;
const LONG_LEFT: u64 = 30;
/// A topic with messages that were pending before, and the pending topic; since version 3.
const LATER: TopicId = TopicId(5);
const PENDING: TopicId = TopicId(6);
/// Rows that are or were pending: the first ones are released, the next ones discarded, and the rest wait.
const PENDING_ROWS: u64 = 12;
const RELEASED: u64 = 4;
const DISCARDED: u64 = 3;

fn options() -> StorageOptions {
    StorageOptions {
        log_segment_bytes_min: 32 << 10,
        log_segment_bytes_max: 32 << 10,
        zero_ahead_bytes: 4 << 10,
        journal_segment_bytes: 32 << 10,
        journal_zero_ahead_bytes: 4 << 10,
        compaction_bytes_min: 8 << 10,
        compaction_interval: Duration::from_millis(20),
        ..StorageOptions::small()
    }
}

fn open(dir: &Path) -> Result<Storage, StorageError> {
    Storage::open(dir, options(), Arc::new(Told::default()))
}

/// A message with something in every field.
fn message(number: u64) -> Message {
    Message {
        message_id: format!("id-{number}"),
        tag: (!number.is_multiple_of(3)).then(|| format!("tag{}", number % 3)),
        keys: (0..number % 3).map(|key| format!("key{key}")).collect(),
        properties: vec![
            ("number".into(), Value::I64(number.cast_signed())),
            ("text".into(), Value::Text(number.to_string())),
            ("typed".into(), Value::Str("ü".into())),
            ("even".into(), Value::Bool(number.is_multiple_of(2))),
            ("small".into(), Value::I32(-5)),
            ("single".into(), Value::F32(0.5)),
            ("double".into(), Value::F64(number as f64 / 3.0)),
        ],
        body: format!("{{\"number\": {number}, \"text\": \"{}\"}}", "weir ".repeat(20)).into(),
        body_encoding: if number % 10 == 9 { BodyEncoding::Gzip } else { BodyEncoding::Identity },
        message_type: MessageType::Normal,
        born_time_ms: Some(1_700_000_000_000 + number.cast_signed()),
        born_host: "host".into(),
        message_group: number.is_multiple_of(4).then(|| "group".into()),
        delivery_time_ms: number.is_multiple_of(5).then_some(7),
        priority: number.is_multiple_of(6).then_some(-1),
        lite_topic: number.is_multiple_of(7).then(|| "lite".into()),
        trace_context: Some("trace".into()),
        producer_group: Some("producers".into()),
        transaction_recovery_ms: number.is_multiple_of(8).then_some(9),
        dead_letter: number.is_multiple_of(11).then(|| DeadLetterOrigin {
            namespace: "n".into(),
            topic: "t".into(),
            message_id: "m".into(),
            queue: QueueId(3),
            offset: QueueOffset(number),
            attempts: 16,
        }),
        pending: None,
        released: None,
    }
}

/// What the groups remember.
fn entries() -> Vec<JournalEntry> {
    let (group, topic, queue) = (GROUP, STAYS, QUEUE);
    vec![
        JournalEntry::Selector {
            group,
            topic,
            slot: 0,
            text: "number > 3".into(),
            dialect: 0,
            kind: SelectorKind::Sql,
            starts: vec![(queue, QueueOffset(0))],
        },
        JournalEntry::Lease {
            group,
            topic,
            queue,
            rows: vec![LeaseRow { offset: QueueOffset(4), attempt: 1, slot: 0 }],
            lease: 77,
            until_ms: 1_700_000_000_000,
            length_ms: 30_000,
            client: "client".into(),
            attempt_id: Some("attempt".into()),
        },
        JournalEntry::Ack { group, topic, queue, offsets: vec![QueueOffset(4), QueueOffset(5)] },
        JournalEntry::Cursor { group, topic, queue, slot: 0, cursor: QueueOffset(50) },
    ]
}

/// What the groups remember of lite topics; since version 4.
fn lite_entries() -> Vec<JournalEntry> {
    let (group, topic, queue) = (GROUP, STAYS, QUEUE);
    let position = |lite_topic: &str, next| {
        let next = QueueOffset(next);
        JournalEntry::LitePosition { group, topic, queue, lite_topic: lite_topic.into(), next }
    };
    vec![
        position("lite", 3),
        position("other", 8),
        JournalEntry::LiteForgotten { group, topic, lite_topic: "other".into() },
    ]
}

/// A message of the topic with many.
fn short(number: u64) -> Message {
    let properties = vec![("seventh".into(), Value::Text((number % 7).to_string()))];
    Message { properties, body: vec![number as u8].into(), ..Message::default() }
}

fn message_of(topic: TopicId, number: u64) -> Message {
    match topic {
        LONG => short(number),
        LATER => Message { released: Some(pending_row(number)), ..message(number) },
        PENDING => {
            let target = PendingTarget { topic: LATER, incarnation: 1, due_ms: 1_800_000_000_000 };
            Message { pending: Some(target), ..message(number) }
        }
        _ => message(number),
    }
}

fn pending_row(number: u64) -> PendingRow {
    PendingRow { topic: PENDING, queue: QUEUE, offset: QueueOffset(number) }
}

fn append(storage: &Storage, batch: Vec<(TopicId, u64)>) {
    let (sender, receiver) = mpsc::channel();
    let append = |(topic, number)| Append { topic, queue: QUEUE, message: message_of(topic, number) };
    storage.append(
        batch.into_iter().map(append).collect(),
        Box::new(move |result| sender.send(result).unwrap()),
    );
    receiver.recv().unwrap().unwrap();
}

fn new_topic(name: &str) -> NewTopic {
    let (class, attributes) = (DurabilityClass::Sync, r#"{"a":1}"#.into());
    let compression = compression(name, FORMAT_VERSION);
    NewTopic { namespace: "ns".into(), name: name.into(), queues: 1, class, compression, attributes }
}

/// Returns how a topic compresses bodies in the directory of a version.
fn compression(topic: &str, version: u32) -> Compression {
    match topic {
        "stays" if version >= 2 => Compression::Zstd,
        "ends" if version >= 2 => Compression::Lz4,
        _ => Compression::None,
    }
}

/// Returns how many segments of the log are of the compacted form, and of the other.
fn forms(dir: &Path) -> (usize, usize) {
    let segments = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let segments = segments.filter(|path| path.extension() == Some("log".as_ref()));
    let (compacted, frames): (Vec<_>, Vec<_>) =
        segments.partition(|path| fs::read(path).is_ok_and(|bytes| bytes.get(13) == Some(&1)));
    (compacted.len(), frames.len())
}

/// Makes messages pending, and ends some of them.
fn make_pending(storage: &Storage) {
    assert_eq!(storage.create_topic(new_topic("later")).unwrap().id, LATER);
    assert_eq!(storage.make_pending_topic(2).unwrap().id, PENDING);
    append(storage, (0..PENDING_ROWS).map(|number| (PENDING, number)).collect());
    append(storage, (0..RELEASED).map(|number| (LATER, number)).collect());
    let rows: Vec<PendingRow> = (RELEASED..RELEASED + DISCARDED).map(pending_row).collect();
    let (sender, receiver) = mpsc::channel();
    storage.discard(&rows, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap();
}

/// Makes a directory with one of everything.
fn make_in(dir: &Path) {
    let storage = open(dir).unwrap();
    let names = ["stays", "ends", "deleted", "long"];
    let ids = names.map(|name| storage.create_topic(new_topic(name)).unwrap().id);
    assert_eq!(ids, [STAYS, ENDS, TopicId(3), LONG]);
    let group = NewGroup { namespace: "ns".into(), name: "g".into(), attributes: r#"{"b":2}"#.into() };
    assert_eq!(storage.create_group(group).unwrap().id, GROUP);
    let long: Vec<u64> = (0..LONG_ROWS).collect();
    long.chunks(200).for_each(|some| append(&storage, some.iter().map(|number| (LONG, *number)).collect()));
    for number in 0..AMONG {
        let dead = [ids[1], ids[2]].into_iter().cycle().take(DEAD_PER_KEPT as usize);
        append(&storage, std::iter::once(STAYS).chain(dead).map(|topic| (topic, number)).collect());
        // Blocks that do not reach over everything tell what of a segment is live.
        if number % 20 == 19 {
            storage.checkpoint().unwrap();
        }
    }
    (AMONG..KEPT).for_each(|number| append(&storage, vec![(STAYS, number)]));
    storage.need_lite_topics().unwrap();
    for entry in entries().into_iter().chain(lite_entries()) {
        journal(&storage, entry, Wait::Durable).unwrap();
    }
    make_pending(&storage);
    let end = AMONG * DEAD_PER_KEPT / 2;
    while storage.view(ENDS, QUEUE).unwrap().range().end.0 < end {
        thread::sleep(Duration::from_millis(1));
    }
    storage.delete_topic(ids[2]).unwrap();
    storage.set_first_offset(LONG, QUEUE, QueueOffset(LONG_ROWS - LONG_LEFT)).unwrap();
    storage.set_first_offset(ENDS, QUEUE, QueueOffset(end - LEFT)).unwrap();
    storage.checkpoint().unwrap();
    while forms(dir).0 < 3 {
        thread::sleep(Duration::from_millis(10));
    }
    storage.close().unwrap();
    fs::remove_file(dir.join("LOCK")).unwrap();
    // A segment that was being prepared; a start removes it.
    let _ = fs::remove_file(dir.join("log/next.tmp"));
    // However far the compactor came.
    assert!(forms(dir).1 >= 1, "segments of both forms");
    assert!(dir.join("queues/0000000004/0").exists(), "a queue segment");
}

/// Compares everything that the directory of a version holds with what was put into it.
fn check(storage: &Storage, version: u32) {
    let topics = storage.topics();
    let names: Vec<_> = topics.iter().map(|topic| (topic.id, topic.name.as_str())).collect();
    let mut expected = vec![(STAYS, "stays"), (ENDS, "ends"), (LONG, "long")];
    if version >= 3 {
        expected.extend([(LATER, "later"), (PENDING, "pending")]);
    }
    assert_eq!(names, expected);
    for topic in topics.iter().filter(|topic| topic.id != PENDING) {
        assert_eq!((topic.namespace.as_str(), topic.queues, topic.incarnation), ("ns", 1, 1));
        assert_eq!((topic.class, topic.attributes.as_str()), (DurabilityClass::Sync, r#"{"a":1}"#));
        assert_eq!(topic.compression, compression(&topic.name, version));
    }
    let groups = storage.groups();
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].id, groups[0].name.as_str()), (GROUP, "g"));
    let lite = if version >= 4 { lite_entries() } else { Vec::new() };
    assert_eq!(storage.take_journal(), [entries(), lite].concat());
    let end = AMONG * DEAD_PER_KEPT / 2;
    check_rows(storage, STAYS, 0..KEPT, &|offset| offset);
    check_rows(storage, LONG, LONG_ROWS - LONG_LEFT..LONG_ROWS, &|offset| offset);
    check_rows(storage, ENDS, end - LEFT..end, &|offset| offset / (DEAD_PER_KEPT / 2));
    if version >= 3 {
        check_pending(storage);
    }
}

fn check_pending(storage: &Storage) {
    assert_eq!(storage.pending_topic().map(|topic| (topic.id, topic.queues)), Some((PENDING, 2)));
    check_rows(storage, PENDING, 0..PENDING_ROWS, &|offset| offset);
    check_rows(storage, LATER, 0..RELEASED, &|offset| offset);
    for number in 0..PENDING_ROWS {
        assert_eq!(storage.is_done(&pending_row(number)), number < RELEASED + DISCARDED, "{number}");
    }
}

fn check_rows(storage: &Storage, topic: TopicId, offsets: std::ops::Range<u64>, number: &dyn Fn(u64) -> u64) {
    let view = storage.view(topic, QUEUE).unwrap();
    assert_eq!(view.range(), QueueOffset(offsets.start)..QueueOffset(offsets.end));
    for offset in offsets.map(QueueOffset) {
        let block = match view.part_at(offset).unwrap() {
            Part::Segment(segment, number) => segment.block(number).unwrap(),
            Part::Run(block) => block,
        };
        let row = usize::try_from(offset.since(block.base()).unwrap()).unwrap();
        let stored = storage.read(LogPosition(block.positions().unwrap().value(row))).unwrap();
        assert_eq!((stored.topic, stored.offset), (topic, offset));
        assert_eq!(stored.message, message_of(topic, number(offset.0)));
    }
}

fn released() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn assert_whole(dir: &Path) {
    let found = verify(&(Arc::new(DiskEnv) as Arc<dyn Env>), dir, &mut |_| {}).unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

#[test]
#[ignore = "makes the directory of this version of the format, once it is released"]
fn make() {
    let dir = released().join(FORMAT_VERSION.to_string());
    assert!(!dir.exists(), "{} is there and never changes", dir.display());
    make_in(&dir);
}

#[test]
fn what_this_program_writes_holds_one_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    make_in(dir.path());
    assert_whole(dir.path());
    check(&open(dir.path()).unwrap(), FORMAT_VERSION);
}

/// Returns the lines of the file that says what a directory is.
fn format_lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("FORMAT")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn only_what_older_programs_cannot_read_keeps_them_away() {
    let dir = tempfile::tempdir().unwrap();
    copy(&released().join("1"), dir.path());
    let has = |line: &str| format_lines(dir.path()).iter().any(|found| found == line);
    let storage = open(dir.path()).unwrap();
    assert!(has(&format!("version {FORMAT_VERSION}")) && has("minimum-reader 1"), "after a start");
    append(&storage, vec![(STAYS, KEPT)]);
    let topic = storage.topic(STAYS).unwrap();
    let alter = |compression| {
        let altered = storage.alter_topic(STAYS, 1, topic.class, compression, topic.attributes.clone());
        assert_eq!(altered.unwrap().compression, compression);
    };
    alter(Compression::None);
    assert!(has("minimum-reader 1"), "nothing needs more");
    alter(Compression::Zstd);
    assert!(has("minimum-reader 2") && has("needs 2 compressed bodies"));
    append(&storage, vec![(STAYS, KEPT + 1)]);
    alter(Compression::None);
    append(&storage, vec![(STAYS, KEPT + 2)]);
    while storage.view(STAYS, QUEUE).unwrap().range().end.0 <= KEPT + 2 {
        thread::sleep(Duration::from_millis(1));
    }
    check_rows(&storage, STAYS, 0..KEPT + 3, &|offset| offset);
    storage.close().unwrap();
    assert!(has("minimum-reader 2"), "bodies that are there stay");
    assert_whole(dir.path());
    let storage = open(dir.path()).unwrap();
    storage.make_pending_topic(1).unwrap();
    assert!(has("minimum-reader 3") && has("needs 3 pending messages"));
    storage.need_lite_topics().unwrap();
    assert!(has("minimum-reader 4") && has("needs 4 lite topics") && has("needs 3 pending messages"));
    storage.close().unwrap();
}

#[test]
fn a_directory_that_a_newer_program_wrote_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    copy(&released().join("1"), dir.path());
    let path = dir.path().join("FORMAT");
    let newer = FORMAT_VERSION + 1;
    let with_crc = |text: &str| {
        let (checked, _) = text.split_once("crc32c").unwrap();
        format!("{checked}crc32c {:08x}\n", crc32c::crc32c(checked.as_bytes()))
    };
    let first = fs::read_to_string(&path).unwrap();
    let needs = format!("minimum-reader {newer}\nneeds {newer} rows of light");
    let text =
        first.replace("version 1", &format!("version {}", newer + 1)).replace("minimum-reader 1", &needs);
    let text = text.replace("crc32c", "written-by weir 9.5\ncrc32c");
    fs::write(&path, with_crc(&text)).unwrap();
    let env: Arc<dyn Env> = Arc::new(DiskEnv);
    for error in [open(dir.path()).err(), verify(&env, dir.path(), &mut |_| {}).err()] {
        let error = error.unwrap();
        assert!(matches!(error, StorageError::NeedsNewer { .. }), "{error}");
        let said = error.to_string();
        for part in [
            dir.path().to_str().unwrap(),
            "weir 9.5",
            "rows of light",
            &format!("format {newer}"),
            &format!("up to format {FORMAT_VERSION}"),
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
    // Written by a newer program, and nothing in it needs one.
    let text = first.replace("version 1", &format!("version {newer}\ncolour blue"));
    fs::write(&path, with_crc(&text)).unwrap();
    let storage = open(dir.path()).unwrap();
    check(&storage, 1);
    storage.close().unwrap();
    assert!(format_lines(dir.path()).contains(&format!("version {newer}")), "it stays as it is");
}

#[test]
fn every_released_version_is_read_whole_and_goes_on() {
    for version in 1..=FORMAT_VERSION {
        let dir = tempfile::tempdir().unwrap();
        copy(&released().join(version.to_string()), dir.path());
        assert!(forms(dir.path()).0 >= 3, "version {version} has compacted segments");
        assert_whole(dir.path());
        let storage = open(dir.path()).unwrap();
        assert!(storage.report().clean && storage.report().fences.is_empty());
        check(&storage, version);
        append(&storage, vec![(STAYS, KEPT)]);
        storage.close().unwrap();
        assert_whole(dir.path());
        let storage = open(dir.path()).unwrap();
        while storage.view(STAYS, QUEUE).unwrap().range().end.0 <= KEPT {
            thread::sleep(Duration::from_millis(1));
        }
        check_rows(&storage, STAYS, 0..KEPT + 1, &|offset| offset);
        storage.close().unwrap();
        // All of it is derived from the log, also from the compacted segments.
        fs::remove_dir_all(dir.path().join("queues")).unwrap();
        fs::remove_file(dir.path().join("checkpoint")).unwrap();
        check_rows(&open(dir.path()).unwrap(), STAYS, 0..KEPT + 1, &|offset| offset);
    }
}
