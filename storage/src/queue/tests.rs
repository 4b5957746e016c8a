//! Queues against a model: random rows, checkpoints, reopening, damage.

#![expect(clippy::disallowed_methods, reason = "these tests look at real files, and damage them")]

mod young;

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use arrow_buffer::MutableBuffer;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use weir_columns::{Column, ColumnRef, Presence, Rows, System};

use crate::{
    catalogue::DurabilityClass,
    env::{DiskEnv, Env, EnvFile, Locking, Open, Space},
    error::StorageError,
    format::{
        block::{BLOCK_ROWS, FileHeader, FileKind, seal},
        record::ValueRef,
    },
    message::Message,
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::Block,
        builder::{RowFacts, RunBuilder},
        checkpoint::QueuesCheckpoint,
        image::Place,
        merge::{Slice, merge},
        model::{Messages, ModelLog, ModelQueue, as_log, store_time},
        segment::{FileWriter, QueueFile, Segment},
        statistics::StatisticsBuilder,
        store::{OpenedQueues, Queues, QueuesSettings},
        tail::MERGED,
        view::{Part, QueueView},
    },
    raw::arrays::Checks,
};

const SETTINGS: QueuesSettings = QueuesSettings { epoch: Epoch(1), uuid: [7; 16], run_bytes_many: u64::MAX };
const SYNC: DurabilityClass = DurabilityClass::Sync;

/// Queues in a directory of their own, with the log that they are built from.
struct Bench {
    dir: TempDir,
    log: Arc<ModelLog>,
    queues: Queues,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let log = Arc::new(ModelLog::default());
        let queues = open(dir.path(), &log, None, LogPosition(0)).unwrap().queues;
        Self { dir, log, queues }
    }

    fn append(&self, topic: u32, queue: u32, offset: u64, message: &Message) -> LogPosition {
        self.log.append(topic, queue, offset, message)
    }

    /// Builds what the log has from `position` on, and makes all of it visible.
    fn build(&self, position: LogPosition) -> LogPosition {
        self.log.from(position, |records| self.queues.add(records));
        let end = self.log.end();
        self.queues.publish(end, end, &mut |_, _, _| {});
        self.queues.merge_all();
        end
    }

    fn append_rows(&self, topic: u32, queue: u32, offsets: std::ops::Range<u64>) {
        let start = self.log.end();
        for offset in offsets {
            self.append(topic, queue, offset, &numbered(offset));
        }
        self.build(start);
    }

    fn checkpoint(&self) -> QueuesCheckpoint {
        let checkpoint = self.queues.checkpoint(self.log.end(), &mut || ()).unwrap();
        self.queues.retire();
        checkpoint
    }

    fn view(&self, topic: u32, queue: u32) -> QueueView {
        self.queues.view(TopicId(topic), QueueId(queue)).unwrap()
    }

    /// Stops and starts again with what a checkpoint lists.
    fn reopen(self, checkpoint: Option<&QueuesCheckpoint>, end: LogPosition) -> (Self, OpenedQueues) {
        let Self { dir, log, queues } = self;
        drop(queues);
        let bytes = checkpoint.map(QueuesCheckpoint::encode);
        let checkpoint = bytes.map(|bytes| QueuesCheckpoint::decode(&bytes).unwrap());
        let mut opened = open(dir.path(), &log, checkpoint.as_ref(), end).unwrap();
        let spare = TempDir::new().unwrap();
        let other = open(spare.path(), &log, None, end).unwrap().queues;
        let queues = std::mem::replace(&mut opened.queues, other);
        (Self { dir, log, queues }, opened)
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path.display().to_string()) }
    }
}

fn open(
    dir: &Path,
    log: &Arc<ModelLog>,
    checkpoint: Option<&QueuesCheckpoint>,
    end: LogPosition,
) -> Result<OpenedQueues, StorageError> {
    Queues::open(dir, Arc::new(DiskEnv), as_log(log), checkpoint, end, SETTINGS)
}

fn numbered(offset: u64) -> Message {
    let text = |text: String| weir_columns::Value::Text(text);
    Message {
        properties: vec![
            ("n".into(), text(offset.to_string())),
            ("region".into(), text(["EU", "US", "ASIA"][offset as usize % 3].into())),
            ("id".into(), text(format!("id-{offset:08}"))),
        ],
        tag: Some("t".into()),
        ..Message::default()
    }
}

fn model_of(rows: u64) -> ModelQueue {
    ModelQueue { rows: (0..rows).map(|offset| Some(numbered(offset))).collect() }
}

/// Adds random rows in calls of random size, with gaps, checkpoints and starts in between, and compares.
fn random_history(seed: u64, rows: usize, call_max: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut messages = Messages::new(seed);
    let mut model = ModelQueue::default();
    let mut bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let mut built = bench.log.end();
    let mut durable = built;
    let mut checkpoint = None;
    while model.rows.len() < rows {
        for _ in 0..random.random_range(1..=call_max) {
            if random.random_bool(0.002) {
                model.rows.extend((0..random.random_range(1..50)).map(|_| None));
            }
            let message = messages.next_message();
            bench.append(1, 0, model.rows.len() as u64, &message);
            model.rows.push(Some(message));
        }
        if random.random_bool(0.3) {
            durable = built;
        }
        built = bench.build(built);
        if random.random_bool(0.1) {
            checkpoint = Some((bench.queues.checkpoint(durable, &mut || ()).unwrap(), durable));
            bench.queues.retire();
        }
        if let Some((listed, position)) = checkpoint.as_ref().filter(|_| random.random_bool(0.05)) {
            let (reopened, opened) = bench.reopen(Some(listed), built);
            assert!(!opened.rebuild && opened.dropped.is_empty());
            bench = reopened;
            bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
            let position = *position;
            built = bench.build(position);
        }
    }
    let end = model.rows.len() as u64;
    model.check(&bench.view(1, 0), 0, end);
    bench.queues.checkpoint(bench.log.end(), &mut || ()).unwrap();
    let view = bench.view(1, 0);
    assert!(view.runs().is_empty(), "all rows are in files");
    model.check(&view, 0, end);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The seed of a failure is printed, and kept in `proptest-regressions`.
    #[test]
    fn random_rows_read_back_from_memory_and_from_files(seed: u64, call_max in 1_usize..200) {
        random_history(seed, 600, call_max);
    }
}

#[test]
fn big_random_blocks_take_every_shape_and_read_back() {
    for seed in 0..4 {
        random_history(seed, 9000, 3000);
    }
}

/// Each shape comes up for the data that it is meant for.
#[test]
fn a_full_block_chooses_the_shape_of_each_column() {
    let mut builder = RunBuilder::default();
    for row in 0..2000_u64 {
        add_row(
            &mut builder,
            row,
            &[
                ("few", ValueRef::Text(["EU", "US"][row as usize % 2])),
                ("digit", ValueRef::Text(&(row % 10).to_string())),
                ("int", ValueRef::Text(&(row * 1000).to_string())),
                ("unique", ValueRef::Text(&format!("id-{row}"))),
            ],
        );
        if row % 10 == 0 {
            add_property(&mut builder, "seldom", ValueRef::Bool(true));
        }
        builder.end_row();
    }
    let log = Arc::new(ModelLog::default());
    let block = Block::built(builder.finish(place(0)), as_log(&log)).unwrap();
    let shape = |name| block.column(ColumnRef::Property(name)).unwrap().unwrap();
    assert!(matches!(shape("few"), Column::Dictionary { .. }));
    assert!(matches!(shape("digit"), Column::Dictionary { .. }));
    assert!(matches!(shape("int"), Column::Int(_)));
    assert!(matches!(shape("unique"), Column::Plain { .. }));
    assert!(matches!(shape("seldom"), Column::Sparse { .. }));
}

#[test]
fn equal_columns_give_equal_shapes_and_others_do_not() {
    let log = Arc::new(ModelLog::default());
    let shape = |properties: &[(&str, ValueRef<'_>)]| {
        let mut builder = RunBuilder::default();
        add_row(&mut builder, 0, properties);
        builder.end_row();
        Block::built(builder.finish(place(0)), as_log(&log)).unwrap().shape()
    };
    let one = shape(&[("a", ValueRef::Text("x")), ("b", ValueRef::Text("5"))]);
    assert_eq!(one, shape(&[("b", ValueRef::Text("7")), ("a", ValueRef::Text("yy"))]));
    assert_ne!(one, shape(&[("a", ValueRef::Text("x"))]));
    assert_ne!(one, shape(&[("a", ValueRef::Text("x")), ("b", ValueRef::Text("y"))]));
    assert_ne!(one, shape(&[("a", ValueRef::Text("x")), ("c", ValueRef::Text("5"))]));
}

fn place(base: u64) -> Place {
    Place { topic: TopicId(1), incarnation: 1, queue: QueueId(0), base: QueueOffset(base) }
}

fn add_row(builder: &mut RunBuilder, row: u64, properties: &[(&str, ValueRef<'_>)]) {
    builder.begin_row(RowFacts {
        position: row * 100,
        store_time_ms: row as i64,
        born_time_ms: None,
        size: 100,
        body_size: 1,
        body_position: None,
    });
    for (name, value) in properties {
        add_property(builder, name, *value);
    }
}

fn add_property(builder: &mut RunBuilder, name: &str, value: ValueRef<'_>) {
    builder.property(name, value, &mut |_| true);
}

#[test]
fn a_row_is_visible_by_the_class_of_its_topic() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    bench.queues.add_queue(TopicId(2), QueueId(0), DurabilityClass::Async, QueueOffset(0));
    let mut positions = Vec::new();
    for offset in 0..4 {
        positions.push(bench.append(1, 0, offset, &numbered(offset)));
        bench.append(2, 0, offset, &numbered(offset));
    }
    bench.log.from(LogPosition(0), |records| bench.queues.add(records));
    let ends = || [bench.view(1, 0).range().end.0, bench.view(2, 0).range().end.0];
    assert_eq!(ends(), [0, 0], "rows that were added are not visible");

    let mut moved = Vec::new();
    bench.queues.publish(positions[3], positions[1], &mut |topic, _, end| moved.push((topic.0, end.0)));
    moved.sort_unstable();
    assert_eq!(moved, [(1, 1), (2, 3)]);
    assert_eq!(ends(), [1, 3]);

    let held = bench.view(1, 0);
    let end = bench.log.end();
    let mut moved = Vec::new();
    bench.queues.publish(end, end, &mut |topic, _, end| moved.push((topic.0, end.0)));
    moved.sort_unstable();
    assert_eq!(moved, [(1, 4), (2, 4)]);
    assert_eq!(held.range().end.0, 1, "a view that is held stays as it is");
    bench.queues.publish(end, end, &mut |_, _, _| panic!("nothing has moved"));
}

#[test]
fn a_checkpoint_takes_only_rows_below_the_durable_end() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let positions: Vec<LogPosition> =
        (0..100).map(|offset| bench.append(1, 0, offset, &numbered(offset))).collect();
    bench.build(LogPosition(0));
    bench.queues.checkpoint(positions[30], &mut || ()).unwrap();
    let view = bench.view(1, 0);
    assert_eq!(view.segments().last().unwrap().range().end, QueueOffset(30));
    model_of(100).check(&view, 0, 100);
}

#[test]
fn offsets_that_the_log_leaves_out_become_lost_rows() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    for offset in [0, 1, 5, 20_000] {
        bench.append(1, 0, offset, &numbered(offset));
    }
    bench.build(LogPosition(0));
    let rows =
        (0..=20_000).map(|offset| [0, 1, 5, 20_000].contains(&offset).then(|| numbered(offset))).collect();
    let model = ModelQueue { rows };
    model.check(&bench.view(1, 0), 0, 20_001);
    bench.checkpoint();
    model.check(&bench.view(1, 0), 0, 20_001);
    let lost = bench.view(1, 0).segments()[0].block(0).unwrap();
    assert_eq!(lost.lost().unwrap().count_set_bits(), BLOCK_ROWS - 3);
    assert_eq!(lost.value(ColumnRef::System(System::Tag), 3).unwrap(), None);
}

#[test]
fn rows_that_are_there_already_are_passed_over() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    bench.append_rows(1, 0, 0..50);
    bench.build(LogPosition(0));
    model_of(50).check(&bench.view(1, 0), 0, 50);
    assert_eq!(bench.queues.next_offset(TopicId(1), QueueId(0)), QueueOffset(50));
}

#[test]
fn small_blocks_of_a_queue_become_one_and_full_ones_move_to_a_segment() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let mut end = 0;
    for call in 0..60 {
        bench.append_rows(1, 0, end..end + 200);
        end += 200;
        bench.checkpoint();
        let small = bench.view(1, 0).segments().iter().filter(|segment| segment.is_shared()).count();
        assert!(small <= 15, "{small} small blocks after {call} checkpoints");
        let listed = bench.files().len();
        assert!(listed <= 20, "{listed} files after {call} checkpoints");
    }
    let view = bench.view(1, 0);
    let large = view.segments().iter().find(|segment| !segment.is_shared()).unwrap();
    assert_eq!(large.block_range(0), QueueOffset(0)..QueueOffset(BLOCK_ROWS as u64));
    assert!(matches!(large.statistics().column(ColumnRef::Property("n")), Presence::Kept(_)));
    assert!(matches!(large.statistics().column(ColumnRef::Property("no")), Presence::Absent));
    model_of(end).check(&view, 0, end);
}

#[test]
fn neighbouring_small_segments_become_one() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let rows = BLOCK_ROWS as u64;
    for call in 0..9 {
        bench.append_rows(1, 0, call * rows..(call + 1) * rows);
        bench.checkpoint();
    }
    let view = bench.view(1, 0);
    let blocks: Vec<usize> = view.segments().iter().map(|segment| segment.blocks()).collect();
    assert_eq!(blocks, [8, 1]);
    assert_eq!(bench.files().len(), 2, "the files that were merged are gone: {:?}", bench.files());
    model_of(9 * rows).check(&view, 0, 9 * rows);
}

#[test]
fn many_queues_share_one_file_and_idle_ones_have_none() {
    let bench = Bench::new();
    for topic in 0..1000 {
        for queue in 0..4 {
            bench.queues.add_queue(TopicId(topic), QueueId(queue), SYNC, QueueOffset(0));
        }
    }
    for topic in 0..500 {
        bench.append(topic, 1, 0, &numbered(0));
    }
    bench.build(LogPosition(0));
    let checkpoint = bench.checkpoint();
    assert_eq!((checkpoint.files.len(), checkpoint.queues.len()), (1, 500));
    assert_eq!(bench.files().len(), 1);
    model_of(1).check(&bench.view(499, 1), 0, 1);
    assert_eq!(bench.view(499, 2).range(), QueueOffset(0)..QueueOffset(0));

    // Nine more checkpoints of few rows each: shared files of like size are gathered into one.
    for call in 1..10 {
        bench.append_rows(call, 1, 1..2);
        bench.checkpoint();
    }
    assert!(bench.files().len() <= 8, "{:?}", bench.files());
    model_of(2).check(&bench.view(5, 1), 0, 2);
}

#[test]
fn a_deleted_topic_leaves_no_file_and_its_readers_go_on() {
    let bench = Bench::new();
    for topic in [1, 2] {
        bench.queues.add_queue(TopicId(topic), QueueId(0), SYNC, QueueOffset(0));
        bench.append_rows(topic, 0, 0..BLOCK_ROWS as u64 + 10);
    }
    bench.checkpoint();
    let view = bench.view(1, 0);
    bench.queues.remove_topic(TopicId(1));
    assert!(bench.queues.view(TopicId(1), QueueId(0)).is_none());
    let checkpoint = bench.checkpoint();
    assert_eq!(checkpoint.queues.len(), 1);
    assert!(bench.files().iter().all(|file| !file.contains("0000000001/")), "{:?}", bench.files());
    let end = BLOCK_ROWS as u64 + 10;
    model_of(end).check(&view, 0, end);
}

#[test]
fn rows_before_the_first_offset_end_and_their_files_go() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let rows = BLOCK_ROWS as u64;
    bench.append_rows(1, 0, 0..rows);
    bench.checkpoint();
    bench.append_rows(1, 0, rows..2 * rows);
    bench.checkpoint();
    bench.queues.set_first_offset(TopicId(1), QueueId(0), QueueOffset(rows + 5));
    let view = bench.view(1, 0);
    assert_eq!(view.segments().len(), 1);
    model_of(2 * rows).check(&view, rows + 5, 2 * rows);
    let checkpoint = bench.checkpoint();
    assert_eq!(bench.files().len(), 1);

    let end = bench.log.end();
    let (bench, opened) = bench.reopen(Some(&checkpoint), end);
    assert!(!opened.rebuild);
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(rows + 5));
    model_of(2 * rows).check(&bench.view(1, 0), rows + 5, 2 * rows);
}

#[test]
fn a_block_that_names_a_position_above_the_recovered_end_is_dropped() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let rows = BLOCK_ROWS as u64;
    let positions: Vec<LogPosition> =
        (0..2 * rows + 10).map(|offset| bench.append(1, 0, offset, &numbered(offset))).collect();
    bench.build(LogPosition(0));
    let checkpoint = bench.checkpoint();
    let (bench, opened) = bench.reopen(Some(&checkpoint), positions[rows as usize + 5]);
    assert!(!opened.rebuild);
    let dropped: Vec<(u64, LogPosition)> =
        opened.dropped.iter().map(|block| (block.base.0, block.first_position)).collect();
    assert_eq!(dropped, [(rows, positions[rows as usize]), (2 * rows, positions[2 * rows as usize])]);
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    assert_eq!(bench.queues.next_offset(TopicId(1), QueueId(0)), QueueOffset(rows));
    bench.build(dropped[0].1);
    model_of(2 * rows + 10).check(&bench.view(1, 0), 0, 2 * rows + 10);
}

#[test]
fn what_no_checkpoint_lists_is_removed_and_foreign_files_stay() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    bench.append_rows(1, 0, 0..BLOCK_ROWS as u64 + 1);
    bench.checkpoint();
    let shared = bench.dir.path().join("queues/shared");
    fs::write(shared.join("notes.txt"), "mine").unwrap();
    fs::write(shared.join("00000000000000000099.blocks.tmp"), "torn").unwrap();
    fs::write(bench.dir.path().join("queues/12345"), "mine").unwrap();
    let end = bench.log.end();
    let (bench, opened) = bench.reopen(None, end);
    assert!(!opened.rebuild);
    assert_eq!(bench.files().len(), 2, "{:?}", bench.files());
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    bench.build(LogPosition(0));
    model_of(BLOCK_ROWS as u64 + 1).check(&bench.view(1, 0), 0, BLOCK_ROWS as u64 + 1);
}

#[test]
fn a_missing_or_damaged_file_asks_for_a_rebuild() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("of another start", |path| {
            let mut bytes = fs::read(path).unwrap();
            let mut header = FileHeader::decode(&bytes).unwrap();
            header.stamp += 1;
            bytes[..64].copy_from_slice(&header.encode());
            fs::write(path, bytes).unwrap();
        }),
        ("header", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let bench = Bench::new();
        bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
        bench.append_rows(1, 0, 0..20);
        let checkpoint = bench.checkpoint();
        harm(Path::new(&bench.files()[0]));
        let end = bench.log.end();
        let (bench, opened) = bench.reopen(Some(&checkpoint), end);
        assert!(opened.rebuild, "{what}");
        assert!(bench.files().is_empty(), "{what}");
        bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
        bench.build(LogPosition(0));
        model_of(20).check(&bench.view(1, 0), 0, 20);
    }
}

#[test]
fn a_damaged_column_is_an_error_and_the_others_stay_readable() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    bench.append_rows(1, 0, 0..20);
    let checkpoint = bench.checkpoint();
    let path = bench.files().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"ASIAE" || window == b"USASI").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let end = bench.log.end();
    let (bench, opened) = bench.reopen(Some(&checkpoint), end);
    assert!(!opened.rebuild);
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let block = bench.view(1, 0).segments()[0].block(0).unwrap();
    let error = block.column(ColumnRef::Property("region")).unwrap_err();
    let StorageError::Corrupt { path: named, position, .. } = &error else { panic!("{error}") };
    assert_eq!(named.display().to_string(), path);
    assert!(position.0 <= at as u64 && at as u64 - position.0 < 1000, "{position} names the column at {at}");
    assert!(block.column(ColumnRef::Property("n")).unwrap().is_some());
    assert!(block.column(ColumnRef::System(System::Tag)).unwrap().is_some());

    // Later checkpoints leave the block as it is; rows still go into files.
    for call in 1..10 {
        bench.append_rows(1, 0, call * 20..(call + 1) * 20);
        bench.checkpoint();
    }
    let view = bench.view(1, 0);
    assert!(view.runs().is_empty());
    let first = view.segments()[0].block(0).unwrap();
    assert_eq!(first.range(), QueueOffset(0)..QueueOffset(20));
    first.column(ColumnRef::Property("region")).unwrap_err();
}

/// Whoever adds rows does not wait for merges, but for so many runs.
#[test]
fn runs_are_merged_by_whoever_has_the_time() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let runs = || bench.view(1, 0).runs().len();
    let add = |rows: std::ops::Range<u64>| {
        for offset in rows {
            let start = bench.append(1, 0, offset, &numbered(offset));
            bench.log.from(start, |records| bench.queues.add(records));
            bench.queues.publish(bench.log.end(), bench.log.end(), &mut |_, _, _| {});
        }
    };
    add(0..100);
    assert_eq!(runs(), 100);
    assert!(bench.queues.merge_next(&mut || ()));
    assert_eq!(runs(), 1);
    add(100..611);
    assert!(!bench.queues.is_crowded());
    add(611..612);
    assert!(bench.queues.is_crowded(), "{}", runs());
    bench.queues.merge_all();
    assert!(runs() < 20 && !bench.queues.is_crowded(), "{}", runs());
    // Some of another size have come since it was worth it.
    add(612..621);
    bench.append_rows(1, 0, 621..721);
    assert!(runs() < 20, "{}", runs());
    model_of(721).check(&bench.view(1, 0), 0, 721);
}

#[test]
fn readers_see_whole_queues_while_rows_arrive_and_go_into_files() {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    let done = AtomicBool::new(false);
    let rows = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for start in (0..rows).step_by(100) {
                bench.append_rows(1, 0, start..start + 100);
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let end = bench.view(1, 0).range().end;
                bench.queues.checkpoint(bench.log.position_of(end.0), &mut || ()).unwrap();
                bench.queues.retire();
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                bench.queues.merge_next(&mut || ());
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    last = check_whole(&bench.view(1, 0), last);
                }
            });
        }
    });
    model_of(rows).check(&bench.view(1, 0), 0, rows);
}

/// Checks that the parts of a view follow each other and that some of its rows are right; returns its end.
fn check_whole(view: &QueueView, last: u64) -> u64 {
    let end = view.range().end.0;
    assert!(end >= last, "the visible end never falls");
    let mut next = 0;
    let segments = view.segments().iter().map(|segment| segment.range());
    for range in segments.chain(view.runs().iter().map(|run| run.range())) {
        assert_eq!(range.start.0, next);
        next = range.end.0;
    }
    assert!(next >= end);
    for offset in [0, end / 3, end.saturating_sub(1)].into_iter().filter(|offset| *offset < end) {
        let block = match view.part_at(QueueOffset(offset)).unwrap() {
            Part::Segment(segment, number) => segment.block(number).unwrap(),
            Part::Run(run) => run,
        };
        let row = (offset - block.base().0) as usize;
        let value = block.value(ColumnRef::Property("n"), row).unwrap().unwrap();
        assert_eq!(value.to_text(), offset.to_string());
    }
    end
}

/// A disk that takes so many bytes and no more.
#[derive(Debug)]
struct SmallDisk {
    disk: DiskEnv,
    left: Arc<AtomicI64>,
}

#[derive(Debug)]
struct SmallDiskFile {
    file: Arc<dyn EnvFile>,
    left: Arc<AtomicI64>,
}

impl Env for SmallDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn EnvFile>> {
        let file = self.disk.open(path, how)?;
        Ok(Arc::new(SmallDiskFile { file, left: Arc::clone(&self.left) }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.make_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path, content: &str) -> io::Result<Locking> {
        self.disk.lock(path, content)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.disk.random(out)
    }

    fn host(&self) -> String {
        self.disk.host()
    }
}

impl EnvFile for SmallDiskFile {
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(out, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        if self.left.fetch_sub(bytes.len() as i64, Ordering::Relaxed) < bytes.len() as i64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[test]
fn a_full_disk_fails_the_checkpoint_and_the_next_one_makes_up_for_it() {
    let dir = TempDir::new().unwrap();
    let log = Arc::new(ModelLog::default());
    let left = Arc::new(AtomicI64::new(0));
    let env = Arc::new(SmallDisk { disk: DiskEnv, left: Arc::clone(&left) });
    let opened = Queues::open(dir.path(), env, as_log(&log), None, LogPosition(0), SETTINGS).unwrap();
    let bench = Bench { dir, log, queues: opened.queues };
    let rows = BLOCK_ROWS as u64 + 100;
    for queue in 0..3 {
        bench.queues.add_queue(TopicId(1), QueueId(queue), SYNC, QueueOffset(0));
        bench.append_rows(1, queue, 0..rows);
    }
    for room in [0, 1000, 700_000, 1_000_000] {
        left.store(room, Ordering::Relaxed);
        let error = bench.queues.checkpoint(bench.log.end(), &mut || ()).unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert_eq!(bench.files(), [""; 0], "nothing is left behind with room for {room} bytes");
        model_of(rows).check(&bench.view(1, 2), 0, rows);
    }
    left.store(i64::MAX, Ordering::Relaxed);
    bench.append_rows(1, 1, rows..rows + 50);
    bench.checkpoint();
    assert!(bench.view(1, 1).runs().is_empty());
    model_of(rows + 50).check(&bench.view(1, 1), 0, rows + 50);
}

#[test]
fn a_shared_file_that_is_mostly_dead_is_left_and_removed() {
    let bench = Bench::new();
    for queue in 0..40 {
        bench.queues.add_queue(TopicId(1), QueueId(queue), SYNC, QueueOffset(0));
        bench.append_rows(1, queue, 0..60);
    }
    let first = bench.checkpoint();
    // All but one queue go on until their small blocks are merged into others.
    for call in 1..8 {
        for queue in 1..40 {
            bench.append_rows(1, queue, call * 60..(call + 1) * 60);
        }
        bench.checkpoint();
    }
    let last = bench.checkpoint();
    assert!(last.files.iter().all(|file| file.number != first.files[0].number), "{:?}", last.files);
    model_of(60).check(&bench.view(1, 0), 0, 60);
    model_of(480).check(&bench.view(1, 39), 0, 480);
}

#[test]
fn a_damaged_block_stays_in_a_shared_file_that_is_mostly_dead() {
    let bench = Bench::new();
    let add = |bench: &Bench, first| {
        for queue in 0..40 {
            let first = if queue < 2 { 0 } else { first };
            bench.queues.add_queue(TopicId(1), QueueId(queue), SYNC, QueueOffset(first));
        }
    };
    add(&bench, 0);
    for queue in 0..40 {
        bench.append_rows(1, queue, 0..60);
    }
    let checkpoint = bench.checkpoint();
    let path = bench.files().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    // The block of the first queue is the first in the file, behind its header.
    bytes[64 + 90] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let end = bench.log.end();
    let (bench, _) = bench.reopen(Some(&checkpoint), end);
    add(&bench, 60);
    bench.checkpoint();
    assert_eq!(bench.files().len(), 2, "the other live block has moved");
    model_of(60).check(&bench.view(1, 1), 0, 60);
    bench.view(1, 0).segments()[0].block(0).unwrap_err();
}

/// Whatever is damaged in the files, rows go into new ones: memory must not grow with every checkpoint.
#[test]
fn rows_go_into_files_beside_damaged_ones() {
    let mut met = 0;
    for at in (64..40_000).step_by(331) {
        let bench = Bench::new();
        let rows = BLOCK_ROWS as u64 + 40;
        let counts = [rows, 60, 60];
        let add_queues = |bench: &Bench| {
            for queue in 0..3 {
                bench.queues.add_queue(TopicId(1), QueueId(queue), SYNC, QueueOffset(0));
            }
        };
        add_queues(&bench);
        let mut checkpoint = QueuesCheckpoint::default();
        for queue in 0..3 {
            bench.append_rows(1, queue, 0..counts[queue as usize]);
            checkpoint = bench.checkpoint();
        }
        let mut touched = 0;
        for path in bench.files() {
            let mut bytes = fs::read(&path).unwrap();
            // The footer is at the end; a start reads it.
            let Some(byte) = bytes.get_mut(at) else { continue };
            *byte ^= 1;
            touched += 1;
            fs::write(&path, &bytes).unwrap();
        }
        if touched == 0 {
            continue;
        }
        let end = bench.log.end();
        let (bench, opened) = bench.reopen(Some(&checkpoint), end);
        if opened.rebuild {
            continue;
        }
        add_queues(&bench);
        for round in 0..8_u64 {
            // At last enough for large blocks to become one.
            let more = if round == 7 { BLOCK_ROWS as u64 } else { 20 };
            for queue in 0..3 {
                let next = bench.queues.next_offset(TopicId(1), QueueId(queue)).0;
                bench.append_rows(1, queue, next..next + more);
            }
            bench.queues.checkpoint(bench.log.end(), &mut || ()).unwrap();
            assert_eq!(bench.queues.run_bytes(), 0, "byte {at}, round {round}");
        }
        met += usize::from(bench.queues.is_damaged());
    }
    assert!(met > 10, "{met}");
}

/// A name may have a column in one block and lie in the rest of another.
#[test]
fn statistics_say_nothing_of_a_block_that_keeps_the_property_in_its_rest() {
    let dir = TempDir::new().unwrap();
    let log = Arc::new(ModelLog::default());
    let path = dir.path().join("file");
    let header = FileHeader { kind: FileKind::Segment, number: 1, uuid: [7; 16], stamp: 9, blocks: 0 };
    let mut writer = FileWriter::create(&DiskEnv, path.clone(), header).unwrap();
    let mut builder = RunBuilder::default();
    for (block, admit) in [true, false, true].into_iter().enumerate() {
        add_row(&mut builder, block as u64, &[]);
        builder.property("x", ValueRef::Text("5"), &mut |_| admit);
        builder.end_row();
        let block = Block::built(builder.finish(place(block as u64)), as_log(&log)).unwrap();
        assert!(block.column(ColumnRef::Property("x")).unwrap().is_some());
        writer.add(&block).unwrap();
    }
    writer.finish().unwrap();
    let file = Arc::new(QueueFile::open(&DiskEnv, &path, as_log(&log)).unwrap());
    let segment = Segment::new(Arc::clone(&file), 0..3).unwrap();
    let Presence::Kept(kept) = segment.statistics().column(ColumnRef::Property("x")) else {
        panic!("it is kept")
    };
    assert_eq!(kept.missing.iter().collect::<Vec<_>>(), [Some(0), None, Some(0)]);
    assert_eq!(kept.int_max.iter().collect::<Vec<_>>(), [Some(5), None, Some(5)]);
    assert!(matches!(segment.statistics().column(ColumnRef::Property("y")), Presence::Unknown));

    // The last two blocks alone.
    let segment = Segment::new(file, 1..3).unwrap();
    let Presence::Kept(kept) = segment.statistics().column(ColumnRef::Property("x")) else {
        panic!("it is kept")
    };
    assert_eq!(kept.missing.iter().collect::<Vec<_>>(), [None, Some(0)]);
}

/// Returns the bytes of a file of two small blocks, with statistics, and its rows.
fn small_file() -> (Vec<u8>, ModelQueue, Arc<ModelLog>) {
    let dir = TempDir::new().unwrap();
    let log = Arc::new(ModelLog::default());
    let path = dir.path().join("file");
    let mut messages = Messages::new(1);
    let mut builder = RunBuilder::default();
    let mut model = ModelQueue::default();
    let header = FileHeader { kind: FileKind::Segment, number: 1, uuid: [7; 16], stamp: 9, blocks: 0 };
    let mut writer = FileWriter::create(&DiskEnv, path.clone(), header).unwrap();
    for block in 0..2 {
        for _ in 0..6 {
            let message = messages.next_message();
            let offset = model.rows.len() as u64;
            let position = log.append(1, 0, offset, &message);
            add_row(&mut builder, position.0 / 100, &[]);
            for (name, value) in &message.properties {
                add_property(&mut builder, name, as_ref(value));
            }
            add_property(&mut builder, "seldom", ValueRef::F64(offset as f64));
            builder.property("not admitted", ValueRef::Text("ü"), &mut |_| false);
            builder.key("a key");
            builder.tag("tag");
            builder.end_row();
            model.rows.push(Some(message));
        }
        let block = Block::built(builder.finish(place(block * 6)), as_log(&log)).unwrap();
        writer.add(&block).unwrap();
    }
    writer.finish().unwrap();
    (fs::read(path).unwrap(), model, log)
}

fn as_ref(value: &weir_columns::Value) -> ValueRef<'_> {
    use weir_columns::Value;
    match value {
        Value::Text(text) => ValueRef::Text(text),
        Value::Str(text) => ValueRef::Str(text),
        Value::Bool(value) => ValueRef::Bool(*value),
        Value::I32(value) => ValueRef::I32(*value),
        Value::I64(value) => ValueRef::I64(*value),
        Value::F32(value) => ValueRef::F32(*value),
        Value::F64(value) => ValueRef::F64(*value),
    }
}

/// Returns everything that a file says, each part on its own: what it is, or that it is damaged.
fn read_all(bytes: &[u8], log: &Arc<ModelLog>) -> Option<Vec<Option<String>>> {
    let mut buffer = MutableBuffer::new(bytes.len());
    buffer.extend_from_slice(bytes);
    let file = Arc::new(QueueFile::over(Path::new("file"), buffer.into(), as_log(log)).ok()?);
    let segment = Segment::new(file, 0..2).ok()?;
    let mut said = Vec::new();
    for number in 0..2 {
        let Ok(block) = segment.block(number) else {
            said.push(None);
            continue;
        };
        let names: Vec<String> = block.property_names().map(str::to_owned).collect();
        // Without the rest the names in it are not known, which reading any property reports.
        let whole = block.column(ColumnRef::Property("no such")).is_ok();
        said.push(whole.then(|| format!("{names:?} {:?}", block.shape())));
        said.push(block.positions().ok().map(|positions| format!("{positions:?}")));
        said.push(block.store_times().ok().map(|times| format!("{times:?}")));
        for name in
            names.iter().map(|name| ColumnRef::Property(name)).chain(System::ALL.map(ColumnRef::System))
        {
            said.push(block.column(name).ok().map(|column| format!("{number} {name} {column:?}")));
        }
        said.push(block.record_sizes().ok().map(|sizes| format!("{sizes:?}")));
    }
    for name in ["seldom", "no such", "p3"] {
        said.push(match segment.statistics().column(ColumnRef::Property(name)) {
            Presence::Unknown => None,
            other => Some(format!("{name} {other:?}")),
        });
    }
    Some(said)
}

#[test]
fn every_flipped_byte_is_detected_or_harmless() {
    let (bytes, _, log) = small_file();
    let whole = read_all(&bytes, &log).unwrap();
    assert!(whole.iter().filter(|part| part.is_none()).count() <= 1, "{whole:?}");
    let mut undetected = 0;
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let Some(said) = read_all(&damaged, &log) else {
            continue;
        };
        undetected += usize::from(said == whole);
        for part in said.into_iter().flatten() {
            assert!(
                whole.contains(&Some(part.clone())),
                "byte {at} of {} changes a value: {part}",
                bytes.len()
            );
        }
    }
    // Padding, and what is not read above.
    assert!(undetected < bytes.len() / 2, "{undetected} of {} bytes", bytes.len());
}

#[test]
fn no_cut_file_opens() {
    let (bytes, _, log) = small_file();
    for len in 0..bytes.len() {
        assert!(read_all(&bytes[..len], &log).is_none(), "cut to {len} of {}", bytes.len());
    }
}

/// Bytes whose checksums are right may still be wrong, if a faulty program wrote them: no panic, no wild read.
#[test]
fn a_block_with_right_checksums_and_wrong_structure_does_not_panic() {
    let log = Arc::new(ModelLog::default());
    let mut builder = RunBuilder::default();
    let mut random = StdRng::seed_from_u64(11);
    for row in 0..9 {
        add_row(
            &mut builder,
            row,
            &[("a", ValueRef::Text(["x", "yü", "5"][row as usize % 3])), ("b", ValueRef::F64(row as f64))],
        );
        builder.property("not admitted", ValueRef::I64(3), &mut |_| false);
        builder.key("key one");
        builder.end_row();
    }
    let block = Block::built(builder.finish(place(0)), as_log(&log)).unwrap();
    for round in 0..4000 {
        let mut bytes = MutableBuffer::new(block.bytes().len());
        bytes.extend_from_slice(block.bytes());
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes.as_slice_mut()[at] = random.random();
        }
        if seal(bytes.as_slice_mut()).is_err() {
            continue;
        }
        let checks = Arc::new(Checks::new(64));
        let source =
            crate::queue::block::Source { path: Path::new("file").into(), at: 0, is_damaged: Arc::default() };
        let Ok(damaged) = Block::open(bytes.into(), &checks, 0, as_log(&log), source) else {
            continue;
        };
        let names: Vec<String> = damaged.property_names().map(str::to_owned).collect();
        for name in
            names.iter().map(|name| ColumnRef::Property(name)).chain(System::ALL.map(ColumnRef::System))
        {
            for row in 0..damaged.len().min(20) {
                let _ = damaged.value(name, row);
            }
        }
        let slice = Slice::all(&Arc::new(damaged));
        let _ = merge(&mut builder, &[slice], &mut || ());
        builder.clear();
        let _ = round;
    }
}

/// The examples of docs/format.md are what this program writes.
#[test]
fn the_documented_bytes_are_the_bytes_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    let mut builder = RunBuilder::default();
    builder.begin_row(RowFacts {
        position: 4096,
        store_time_ms: 1_700_000_000_000,
        born_time_ms: None,
        size: 120,
        body_size: 9,
        body_position: None,
    });
    builder.message_type("NORMAL");
    add_property(&mut builder, "region", ValueRef::Text("EU"));
    builder.end_row();
    let place = Place { topic: TopicId(7), incarnation: 1, queue: QueueId(3), base: QueueOffset(100) };
    let block = Block::built(builder.finish(place), as_log(&Arc::default())).unwrap();
    let uuid = *b"\x01\x02\x03\x04\x05\x06\x47\x08\x89\x0a\x0b\x0c\x0d\x0e\x0f\x10";
    let header = FileHeader { kind: FileKind::Shared, number: 1, uuid, stamp: 2, blocks: 0 };
    let mut writer = FileWriter::create(&DiskEnv, path.clone(), header).unwrap();
    writer.add(&block).unwrap();
    writer.finish().unwrap();
    crate::format::example::check_example("shared file", &fs::read(path).unwrap());

    let mut statistics = StatisticsBuilder::default();
    statistics.add(&block);
    let columns = statistics.finish();
    crate::format::example::check_example(
        "statistics",
        &columns.iter().find(|column| column.name == "region").unwrap().bytes,
    );
}
