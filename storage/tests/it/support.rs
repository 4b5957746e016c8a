//! A data directory on a simulated disk, and short ways to use it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use weir_storage::{
    Append, Appended, DurabilityClass, Events, JournalEntry, LogPosition, Message, NewTopic, Part, QueueId,
    QueueOffset, SimEnv, Storage, StorageError, StorageOptions, TopicId, Wait,
};

pub(crate) const QUEUE: QueueId = QueueId(0);

#[derive(Default)]
pub(crate) struct Told {
    pub(crate) failures: Mutex<Vec<String>>,
    pub(crate) visible: Mutex<HashMap<(TopicId, QueueId), QueueOffset>>,
}

impl Events for Told {
    fn visible(&self, topic: TopicId, queue: QueueId, end: QueueOffset) {
        self.visible.lock().unwrap().insert((topic, queue), end);
    }
    fn failed(&self, error: &StorageError) {
        self.failures.lock().unwrap().push(error.to_string());
    }
}

/// A data directory on a disk of its own.
pub(crate) struct Place {
    pub(crate) env: SimEnv,
    pub(crate) told: Arc<Told>,
    pub(crate) options: StorageOptions,
}

impl Place {
    pub(crate) fn new() -> Self {
        let env = SimEnv::new(7);
        let options = StorageOptions {
            env: Arc::new(env.clone()),
            log_segment_bytes_min: 64 << 10,
            log_segment_bytes_max: 64 << 10,
            zero_ahead_bytes: 16 << 10,
            ..StorageOptions::small()
        };
        Self { env, told: Arc::default(), options }
    }

    pub(crate) fn try_open(&self) -> Result<Storage, StorageError> {
        Storage::open(Path::new("/data"), self.options.clone(), Arc::clone(&self.told) as _)
    }

    #[track_caller]
    pub(crate) fn open(&self) -> Storage {
        self.try_open().unwrap()
    }

    /// Ends the process without a word.
    pub(crate) fn kill(&self, storage: Storage) {
        self.env.kill();
        drop(storage);
    }

    /// Returns the files of a directory, sorted.
    pub(crate) fn files(&self, dir: &str) -> Vec<PathBuf> {
        let dir = Path::new("/data").join(dir);
        let inside = |path: &PathBuf| path.parent() == Some(&dir) && path.extension() != Some("tmp".as_ref());
        self.env.paths().into_iter().filter(inside).collect()
    }

    /// Flips a bit of the log at a position.
    pub(crate) fn flip(&self, position: LogPosition) {
        let base = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let segments = self.files("log");
        let segment = segments.iter().rfind(|path| base(path) <= position.0).unwrap();
        let at = 4096 + (position.0 - base(segment)) as usize;
        self.env.damage(segment, |bytes| bytes[at] ^= 1);
    }
}

pub(crate) fn new_topic(name: &str, class: DurabilityClass) -> NewTopic {
    NewTopic { name: name.into(), queues: 1, class, attributes: "{}".into(), ..NewTopic::default() }
}

pub(crate) fn message(number: u64) -> Message {
    let body = [number.to_le_bytes().to_vec(), vec![b'x'; 1000]].concat();
    Message {
        message_id: format!("m{number}"),
        tag: Some("t".into()),
        body: body.into(),
        ..Message::default()
    }
}

/// Appends one message and waits for the answer.
pub(crate) fn append(storage: &Storage, topic: TopicId, number: u64) -> Result<Appended, StorageError> {
    let (sender, receiver) = mpsc::channel();
    let batch = vec![Append { topic, queue: QUEUE, message: message(number) }];
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    let result = receiver.recv_timeout(Duration::from_secs(10)).expect("every append is answered");
    result.map(|appended| appended[0])
}

#[track_caller]
pub(crate) fn append_all(storage: &Storage, topic: TopicId, numbers: std::ops::Range<u64>) -> Vec<Appended> {
    numbers.map(|number| append(storage, topic, number).unwrap()).collect()
}

pub(crate) fn journal(storage: &Storage, entry: JournalEntry, wait: Wait) -> Result<(), StorageError> {
    let (sender, receiver) = mpsc::channel();
    storage.journal(vec![entry], wait, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver.recv_timeout(Duration::from_secs(10)).expect("every entry is answered")
}

/// Waits until rows are visible.
#[track_caller]
pub(crate) fn wait_visible(storage: &Storage, topic: TopicId, end: u64) {
    let begun = Instant::now();
    while storage.view(topic, QUEUE).unwrap().range().end.0 < end {
        assert!(begun.elapsed() < Duration::from_secs(10), "rows become visible");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the numbers of the messages that are visible; `None` for a lost row.
#[track_caller]
pub(crate) fn rows(storage: &Storage, topic: TopicId) -> Vec<Option<u64>> {
    let view = storage.view(topic, QUEUE).unwrap();
    let range = view.range();
    (range.start.0..range.end.0)
        .map(|offset| {
            let offset = QueueOffset(offset);
            let block = match view.part_at(offset).unwrap() {
                Part::Segment(segment, number) => segment.block(number).unwrap(),
                Part::Run(block) => block,
            };
            let row = offset.since(block.base()).unwrap() as usize;
            if block.lost().is_some_and(|lost| lost.value(row)) {
                return None;
            }
            let stored = storage.read(LogPosition(block.positions().unwrap().value(row))).unwrap();
            assert_eq!((stored.topic, stored.queue, stored.offset), (topic, QUEUE, offset));
            let number = u64::from_le_bytes(stored.message.body[..8].try_into().unwrap());
            assert_eq!(stored.message, message(number));
            Some(number)
        })
        .collect()
}

pub(crate) fn numbers(range: std::ops::Range<u64>) -> Vec<Option<u64>> {
    range.map(Some).collect()
}
