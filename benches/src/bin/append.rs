//! How near does the append path come to what the disk gives?
//!
//! Four questions, each against the bare system calls in the same run, in turns:
//!
//! - class `async`: messages in-process, against `pwrite` of the very frames that they became, in which many calls are
//!   together, and of the same bytes with a frame for each call, as a log without group commit writes them;
//! - class `sync`: 64 producers, against as many threads with a group commit of their own;
//! - one acknowledged publish at a time in class `sync`, against `pwrite` and `fdatasync`;
//! - the builder of the consume queues: its rate, its time on a core, and how publishers are braked where it is slower.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_benches::{Latencies, Memory, Messages, data_dir, head, median, options, row, thread_time};
use weir_engine::{Broker, DurabilityClass, TopicName, TopicSpec};
use weir_storage::{
    Append, Events, NewTopic, QueueId, QueueOffset, Storage, StorageError, StorageOptions, TopicId,
};

/// How much is measured.
#[derive(Parser)]
struct Arguments {
    /// Turns of each comparison; the medians are printed.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Messages of one turn in class `async`.
    #[arg(long, default_value_t = 500_000)]
    messages: usize,
    /// Bytes of each body.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Messages of one call in class `async`, one measurement for each.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
    batches: Vec<usize>,
    /// Producers that publish at once in class `async`.
    #[arg(long, default_value_t = 256)]
    async_producers: usize,
    /// Producers that publish at once in class `sync`.
    #[arg(long, default_value_t = 64)]
    producers: usize,
    /// Seconds of one turn in class `sync`.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Syncs whose latency is taken.
    #[arg(long, default_value_t = 20_000)]
    syncs: u64,
    /// Seconds for which the builder is kept busy.
    #[arg(long, default_value_t = 10.0)]
    builder_seconds: f64,
    /// Which questions are asked.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "async,sync,latency,builder")]
    only: Vec<Question>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Question {
    Async,
    Sync,
    Latency,
    Builder,
}

/// Length of the header of a segment and of a frame of the log: docs/format.md.
const SEGMENT_HEADER: u64 = 4096;
const FRAME_HEADER: usize = 64;
/// Length of a record with an id of 32 characters and no properties, without its body.
const RECORD: usize = 96 + 5 + 32;
/// The bare group commit writes this file over and over, as zeros lie ahead of the log.
const RAW_FILE: u64 = 256 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.only.contains(&Question::Async) {
        head(&[
            "async: messages a call",
            "messages/s",
            "messages a frame",
            "pwrite of its frames, messages/s",
            "ratio",
            "least",
            "most",
            "pwrite of a frame a call, messages/s",
            "ratio",
            "least",
            "most",
        ]);
        for batch in &arguments.batches {
            against_pwrite(&arguments, *batch).await?;
        }
        println!();
    }
    if arguments.only.contains(&Question::Sync) {
        against_group_commit(&arguments).await?;
        println!();
    }
    if arguments.only.contains(&Question::Latency) {
        against_fdatasync(&arguments).await?;
        println!();
    }
    if arguments.only.contains(&Question::Builder) {
        builder(&arguments)?;
    }
    Ok(())
}

async fn open(data: &Path, class: DurabilityClass) -> Result<(Broker, TopicName)> {
    let broker = Broker::open(options(data)).await?;
    let topic: TopicName = "bench".parse()?;
    broker.create_topic(&topic, TopicSpec { class, ..TopicSpec::default() }).await?;
    // The first zeros ahead of the log are written meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok((broker, topic))
}

// ---- class `async`

async fn against_pwrite(arguments: &Arguments, batch: usize) -> Result<()> {
    let directory = data_dir("append")?;
    let data = directory.path().join("data");
    let (broker, topic) = open(&data, DurabilityClass::Async).await?;
    let mut frames = Frames { dir: data.join("log"), next: 0 };
    let (mut ours, mut a_frame) = (vec![], vec![]);
    let (mut of_frames, mut of_calls) = (Bare::default(), Bare::default());
    for turn in 0..=arguments.turns {
        let messages = if batch == 1 { arguments.messages / 5 } else { arguments.messages };
        let calls = messages / batch / arguments.async_producers;
        let body = arguments.body;
        let count = (calls * batch * arguments.async_producers) as f64;
        let start = Instant::now();
        let mut tasks = Vec::new();
        for producer in 0..arguments.async_producers {
            let (broker, topic) = (broker.clone(), topic.clone());
            let mut source = Messages::new((turn * 1000 + producer) as u64, body);
            tasks.push(tokio::spawn(async move {
                for _ in 0..calls {
                    let messages = (0..batch).map(|_| source.next_plain()).collect();
                    broker.publish(&topic, messages).await?;
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        let our = count / start.elapsed().as_secs_f64();
        let written = frames.read()?;
        let bare = directory.path().join("bare");
        let grouped = count / pwrite(&bare, &written)?;
        let single = count / pwrite(&bare, &of_each_call(&written, batch, arguments.body))?;
        // The first turn warms up.
        if turn > 0 {
            ours.push(our);
            a_frame.push(count / written.len() as f64);
            of_frames.push(our, grouped);
            of_calls.push(our, single);
        }
    }
    broker.close().await?;
    let mut cells =
        vec![batch.to_string(), format!("{:.0}", median(ours)), format!("{:.0}", median(a_frame))];
    cells.extend(of_frames.cells());
    cells.extend(of_calls.cells());
    row(&cells);
    Ok(())
}

/// What bare writes gave, by turn.
#[derive(Default)]
struct Bare {
    rates: Vec<f64>,
    ratios: Vec<f64>,
}

impl Bare {
    fn push(&mut self, our: f64, bare: f64) {
        self.rates.push(bare);
        self.ratios.push(our / bare);
    }

    fn cells(self) -> [String; 4] {
        let least = self.ratios.iter().copied().fold(f64::MAX, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        [
            format!("{:.0}", median(self.rates)),
            format!("{:.2}", median(self.ratios)),
            format!("{least:.2}"),
            format!("{most:.2}"),
        ]
    }
}

/// Returns the records of frames anew, in a frame for each call.
fn of_each_call(frames: &[Vec<u8>], batch: usize, body: usize) -> Vec<Vec<u8>> {
    let records: Vec<u8> = frames.iter().flat_map(|frame| frame.iter().skip(FRAME_HEADER)).copied().collect();
    let call = batch * (RECORD + body).next_multiple_of(8);
    let header = frames.first().and_then(|frame| frame.get(..FRAME_HEADER)).unwrap_or_default();
    records.chunks(call).map(|records| [header, records].concat()).collect()
}

/// Reads the frames that have come into a log since the last time.
struct Frames {
    dir: PathBuf,
    next: u64,
}

impl Frames {
    fn read(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(base) = name.strip_suffix(".log").and_then(|base| base.parse::<u64>().ok()) {
                bases.push(base);
            }
        }
        bases.sort_unstable();
        let mut frames = Vec::new();
        loop {
            let place = bases.partition_point(|base| *base <= self.next);
            let base = bases[place.checked_sub(1).context("there is a first segment")?];
            let file = File::open(self.dir.join(format!("{base:020}.log")))?;
            let mut header = [0; FRAME_HEADER];
            let at = SEGMENT_HEADER + self.next - base;
            if file.read_exact_at(&mut header, at).is_err() || header[..4] != *b"WFRM" {
                return Ok(frames);
            }
            let payload = u32::from_le_bytes(header[24..28].try_into()?) as usize;
            let mut frame = vec![0; (FRAME_HEADER + payload).next_multiple_of(8)];
            file.read_exact_at(&mut frame, at)?;
            self.next += frame.len() as u64;
            if payload > 0 {
                frames.push(frame);
            }
        }
    }
}

/// Writes frames one after the other over zeros that lie ready, and returns the seconds that it took.
fn pwrite(path: &Path, frames: &[Vec<u8>]) -> Result<f64> {
    let file = zeroed(path, frames.iter().map(|frame| frame.len() as u64).sum())?;
    let start = Instant::now();
    let mut at = 0;
    for frame in frames {
        file.write_all_at(frame, at)?;
        at += frame.len() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(seconds)
}

/// Makes a file of `len` bytes of zeros, synced.
fn zeroed(path: &Path, len: u64) -> Result<File> {
    let file = File::create_new(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..len).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

// ---- class `sync`

async fn against_group_commit(arguments: &Arguments) -> Result<()> {
    let directory = data_dir("append-sync")?;
    let (broker, topic) = open(&directory.path().join("data"), DurabilityClass::Sync).await?;
    let group = Arc::new(GroupCommit {
        file: zeroed(&directory.path().join("bare"), RAW_FILE)?,
        state: Mutex::default(),
        written: Condvar::new(),
    });
    let (mut of_tasks, mut of_threads, mut bare, mut ratios, mut thread_ratios) =
        (vec![], vec![], vec![], vec![], vec![]);
    for turn in 0..=arguments.turns {
        let run = Duration::from_secs_f64(arguments.seconds);
        let tasks = by_tasks(&broker, &topic, arguments, run).await?;
        let raw = tokio::task::block_in_place(|| by_group_commit(&group, arguments, run))?;
        let threads = tokio::task::block_in_place(|| by_threads(&broker, &topic, arguments, run))?;
        if turn > 0 {
            of_tasks.push(tasks);
            of_threads.push(threads);
            bare.push(raw);
            ratios.push(tasks / raw);
            thread_ratios.push(threads / raw);
        }
    }
    broker.close().await?;
    head(&["sync: producers", "messages/s", "ratio to the bare group commit", "least", "most"]);
    let producers = arguments.producers;
    let spread = |ratios: &[f64]| {
        [
            format!("{:.2}", median(ratios.to_vec())),
            format!("{:.2}", ratios.iter().copied().fold(f64::MAX, f64::min)),
            format!("{:.2}", ratios.iter().copied().fold(0.0, f64::max)),
        ]
    };
    let line = |name: String, rates: Vec<f64>, ratios: [String; 3]| {
        let mut cells = vec![name, format!("{:.0}", median(rates))];
        cells.extend(ratios);
        row(&cells);
    };
    line(format!("{producers} threads, bare group commit"), bare, ["1".into(), String::new(), String::new()]);
    line(format!("{producers} threads"), of_threads, spread(&thread_ratios));
    line(format!("{producers} tasks"), of_tasks, spread(&ratios));
    Ok(())
}

async fn by_tasks(broker: &Broker, topic: &TopicName, arguments: &Arguments, run: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut tasks = Vec::new();
    for producer in 0..arguments.producers {
        let (broker, topic) = (broker.clone(), topic.clone());
        let mut source = Messages::new(producer as u64, arguments.body);
        tasks.push(tokio::spawn(async move {
            let mut count = 0_u64;
            while start.elapsed() < run {
                broker.publish(&topic, vec![source.next_plain()]).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }));
    }
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn by_threads(broker: &Broker, topic: &TopicName, arguments: &Arguments, run: Duration) -> Result<f64> {
    let runtime = tokio::runtime::Handle::current();
    many_threads(arguments.producers, |producer, start| {
        let mut source = Messages::new(producer as u64, arguments.body);
        let mut count = 0;
        while start.elapsed() < run {
            runtime.block_on(broker.publish(topic, vec![source.next_plain()]))?;
            count += 1;
        }
        Ok(count)
    })
}

/// Runs `work` on so many threads at once, and returns the sum of what they count, a second.
fn many_threads(count: usize, work: impl Fn(usize, Instant) -> Result<u64> + Sync) -> Result<f64> {
    let start = Instant::now();
    let total = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number, start))).collect();
        let counted = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a producer panicked"))));
        counted.sum::<Result<u64>>()
    })?;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Group commit and nothing else: whoever finds no leader writes what has gathered, syncs, and wakes all.
struct GroupCommit {
    file: File,
    state: Mutex<Commit>,
    written: Condvar,
}

#[derive(Default)]
struct Commit {
    gathered: Vec<u8>,
    spare: Vec<u8>,
    at: u64,
    /// The number of the group that gathers now, and of the last that is durable, from 1.
    group: u64,
    durable: u64,
    has_leader: bool,
}

impl GroupCommit {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        let poisoned = |_| anyhow::anyhow!("a producer panicked");
        let mut state = self.state.lock().map_err(poisoned)?;
        state.gathered.extend_from_slice(bytes);
        let group = state.group;
        while state.durable <= group {
            if state.has_leader {
                state = self.written.wait(state).map_err(|_| anyhow::anyhow!("a producer panicked"))?;
                continue;
            }
            state.has_leader = true;
            let spare = std::mem::take(&mut state.spare);
            let bytes = std::mem::replace(&mut state.gathered, spare);
            if state.at + bytes.len() as u64 > RAW_FILE {
                state.at = 0;
            }
            let at = state.at;
            state.at += bytes.len() as u64;
            let written = state.group;
            state.group += 1;
            drop(state);
            self.file.write_all_at(&bytes, at)?;
            self.file.sync_data()?;
            state = self.state.lock().map_err(|_| anyhow::anyhow!("a producer panicked"))?;
            state.spare = bytes;
            state.spare.clear();
            state.durable = written + 1;
            state.has_leader = false;
            self.written.notify_all();
        }
        Ok(())
    }
}

fn by_group_commit(group: &GroupCommit, arguments: &Arguments, run: Duration) -> Result<f64> {
    let record = vec![b'x'; (RECORD + arguments.body).next_multiple_of(8)];
    many_threads(arguments.producers, |_, start| {
        let mut count = 0;
        while start.elapsed() < run {
            group.append(&record)?;
            count += 1;
        }
        Ok(count)
    })
}

// ---- latency

async fn against_fdatasync(arguments: &Arguments) -> Result<()> {
    let directory = data_dir("append-latency")?;
    let (broker, topic) = open(&directory.path().join("data"), DurabilityClass::Sync).await?;
    let file = zeroed(&directory.path().join("bare"), RAW_FILE)?;
    let frame = vec![b'x'; FRAME_HEADER + (RECORD + arguments.body).next_multiple_of(8)];
    let mut source = Messages::new(1, arguments.body);
    let (mut published, mut synced, mut at) = (Latencies::default(), Latencies::default(), 0);
    for _ in 0..arguments.syncs {
        let message = source.next_plain();
        let start = Instant::now();
        broker.publish(&topic, vec![message]).await?;
        published.record(start.elapsed());
        if at + frame.len() as u64 > RAW_FILE {
            at = 0;
        }
        file.write_all_at(&frame, at)?;
        at += frame.len() as u64;
        let start = Instant::now();
        file.sync_data()?;
        synced.record(start.elapsed());
    }
    broker.close().await?;
    let percents = [50.0, 90.0, 99.0, 99.6, 99.9, 99.99];
    let mut names = vec!["one at a time, in turns; ms".to_owned()];
    names.extend(percents.iter().map(|percent| format!("p{percent}")));
    head(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, latencies) in [("publish acknowledged, `sync`", published), ("bare fdatasync", synced)] {
        let mut cells = vec![name.to_owned()];
        cells.extend(
            percents
                .iter()
                .map(|percent| format!("{:.3}", latencies.percentile(*percent).as_secs_f64() * 1e3)),
        );
        row(&cells);
    }
    Ok(())
}

// ---- the builder

/// Nobody reads.
struct Nobody;

impl Events for Nobody {
    fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
    fn failed(&self, _: &StorageError) {}
}

/// What one thread appends as fast as storage takes it, and what that cost.
fn builder(arguments: &Arguments) -> Result<()> {
    head(&[
        "builder: bounds of unsynced and unbuilt",
        "messages/s",
        "builder on a core, ns/message",
        "%",
        "appender, ns/message",
        "most unbuilt, MiB",
        "most unsynced, MiB",
        "memory before, MiB",
        "most memory, MiB",
        "publisher braked, %",
        "refused",
    ]);
    let defaults = StorageOptions::default();
    for (name, unsynced) in [("8 MiB, 64 MiB", defaults.unsynced_bytes_max), ("none, 64 MiB", 1 << 40)] {
        let directory = data_dir("append-builder")?;
        let options = StorageOptions { unsynced_bytes_max: unsynced, ..StorageOptions::default() };
        keep_busy(arguments, name, &Storage::open(directory.path(), options, Arc::new(Nobody))?)?;
    }
    Ok(())
}

fn keep_busy(arguments: &Arguments, name: &str, storage: &Storage) -> Result<()> {
    let class = DurabilityClass::Async;
    let topic = storage.create_topic(NewTopic {
        name: "bench".into(),
        queues: 4,
        class,
        attributes: "{}".into(),
        ..NewTopic::default()
    })?;
    let mut source = Messages::new(1, arguments.body);
    let batches: Vec<Vec<Append>> = (0..64_u32)
        .map(|batch| {
            let queue = QueueId(batch % 4);
            (0..100).map(|_| Append { topic: topic.id, queue, message: source.next_message() }).collect()
        })
        .collect();
    let memory = Memory::now()?.resident;
    let (refused, stored) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let over = AtomicBool::new(false);
    let run = Duration::from_secs_f64(arguments.builder_seconds);
    let start = Instant::now();
    let (most, braked) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(storage, &over));
        let mut braked = Duration::ZERO;
        for batch in batches.iter().cycle() {
            if start.elapsed() >= run {
                break;
            }
            let (refused, stored) = (Arc::clone(&refused), Arc::clone(&stored));
            let done = Box::new(move |result: Result<Vec<_>, _>| match result {
                Ok(appended) => {
                    stored.fetch_add(appended.len() as u64, Ordering::Relaxed);
                }
                Err(_) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
            let batch = batch.clone();
            let is_braked = storage.is_overloaded();
            let before = Instant::now();
            storage.append(batch, done);
            if is_braked {
                braked += before.elapsed();
            }
        }
        over.store(true, Ordering::Relaxed);
        (watch.join(), braked)
    });
    let most = most.map_err(|_| anyhow::anyhow!("the watch panicked"))??;
    let seconds = start.elapsed().as_secs_f64();
    let count = stored.load(Ordering::Relaxed);
    ensure!(count > 0, "nothing was stored");
    let (built, appended) = (thread_time("weir-builder")?, thread_time("weir-appender")?);
    storage.close()?;
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let a_message = |time: Duration| format!("{:.0}", time.as_nanos() as f64 / count as f64);
    row(&[
        name.to_owned(),
        format!("{:.0}", count as f64 / seconds),
        a_message(built),
        format!("{:.0}", 100.0 * built.as_secs_f64() / seconds),
        a_message(appended),
        mib(most.unbuilt),
        mib(most.unsynced),
        mib(memory),
        mib(most.memory),
        format!("{:.0}", 100.0 * braked.as_secs_f64() / seconds),
        refused.load(Ordering::Relaxed).to_string(),
    ]);
    Ok(())
}

#[derive(Default)]
struct Most {
    unbuilt: u64,
    unsynced: u64,
    memory: u64,
}

/// Looks every few milliseconds how far builder and disk are behind, and how much memory is taken.
fn watch(storage: &Storage, over: &AtomicBool) -> Result<Most> {
    let mut most = Most::default();
    while !over.load(Ordering::Relaxed) {
        let ends = storage.ends();
        most.unbuilt = most.unbuilt.max(ends.written.0 - ends.built.0);
        most.unsynced = most.unsynced.max(ends.written.0 - ends.durable.0);
        most.memory = most.memory.max(Memory::now()?.resident);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(most)
}
