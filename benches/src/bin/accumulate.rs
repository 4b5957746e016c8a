//! What do retained messages cost? Publishing, live delivery and a selective catch-up with very many messages
//! retained, against the same with a million.
//!
//! Two brokers in this process, one with each, take turns. What an operation did is counted too: the blocks of rows
//! that it judged, its calls to the system that read or wrote, and their bytes. Sealed files are mapped, so what is
//! read of them makes no call; the blocks tell of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_benches::{
    Calls, Latencies, Memory, data_dir, disk_bytes, ensure_room, head, options, retain, retained, row, spread,
};
use weir_engine::{
    Broker, BrokerOptions, Dialect, DurabilityClass, GroupName, GroupSpec, LeaseTime, QueueId, QueueOffset,
    ReceiveRequest, ResetTo, Selector, SelectorLimits, StorageOptions, TopicName, TopicSpec,
};

/// What is stored and how often it is looked at.
#[derive(Parser)]
struct Arguments {
    /// Messages of the large broker: a body of 32 bytes and three properties each, some 220 bytes on disk.
    #[arg(long, default_value_t = 100_000_000)]
    messages: u64,
    /// Messages of the small broker.
    #[arg(long, default_value_t = 1_000_000)]
    against: u64,
    /// Turns of each; least, median and most are printed.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Messages that a turn publishes, one a call.
    #[arg(long, default_value_t = 100_000)]
    publish: u64,
    /// Producers that publish at once.
    #[arg(long, default_value_t = 64)]
    producers: u64,
    /// Rows that a catch-up passes, of which one in a thousand matches.
    #[arg(long, default_value_t = 800_000)]
    rows: u64,
    /// Messages that a turn delivers live, one a millisecond.
    #[arg(long, default_value_t = 1_000)]
    live: u64,
    /// The program refuses to begin if the disk would have fewer GiB free.
    #[arg(long, default_value_t = 15)]
    keep_gib: u64,
}

const QUEUES: u32 = 4;
const SELECTOR: &str = "level = 'urgent'";

/// Segments of the log are equally large in both: of sealed ones messages are read without a call, of the last one with
/// a call each.
fn settings(data: &Path) -> BrokerOptions {
    let storage = StorageOptions { log_segment_bytes_max: 64 << 20, ..StorageOptions::default() };
    BrokerOptions { storage, ..options(data) }
}

/// A broker with its retained messages.
struct Retained {
    broker: Broker,
    topic: TopicName,
    /// Where catch-ups begin, by queue.
    from: Vec<QueueOffset>,
    measured: [Vec<Turn>; 3],
}

/// What one turn of an operation came to.
struct Turn {
    figure: f64,
    blocks: u64,
    calls: Calls,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rows <= arguments.against, "a catch-up passes rows that are there");
    let directory = data_dir("accumulate")?;
    ensure_room(directory.path(), arguments.messages + arguments.against, arguments.keep_gib)?;
    let mut both = Vec::new();
    for (name, count) in [("small", arguments.against), ("large", arguments.messages)] {
        both.push(Retained::new(directory.path().join(name), count, &arguments).await?);
    }
    for turn in 0..=arguments.turns {
        // In turns, and each first every other time.
        for at in [turn % 2, 1 - turn % 2] {
            both[at].turn(turn, &arguments).await?;
        }
    }
    println!();
    head(&[
        "operation",
        "retained",
        "least",
        "median",
        "most",
        "blocks judged",
        "reading calls",
        "KiB read",
        "writing calls",
        "KiB written",
    ]);
    let names = ["publish, messages/s", "live delivery, ms (median of a turn)", "catch-up, rows/s"];
    for (operation, name) in names.into_iter().enumerate() {
        for (retained, count) in both.iter().zip([arguments.against, arguments.messages]) {
            retained.print(operation, name, count);
        }
    }
    for retained in both {
        retained.broker.close().await?;
    }
    Ok(())
}

impl Retained {
    async fn new(data: PathBuf, count: u64, arguments: &Arguments) -> Result<Self> {
        let broker = Broker::open(settings(&data)).await?;
        let topic: TopicName = "bench".parse()?;
        let spec = TopicSpec { class: DurabilityClass::Sync, queues: QUEUES, ..TopicSpec::default() };
        broker.create_topic(&topic, spec).await?;
        let start = Instant::now();
        retain(&broker, &topic, count).await?;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        // As after a restart: all rows lie in files.
        broker.close().await?;
        drop(broker);
        let start = Instant::now();
        let broker = Broker::open(settings(&data)).await?;
        let opened = start.elapsed().as_secs_f64();
        let bytes = disk_bytes(&data)? as f64 / f64::from(1 << 30);
        let memory = Memory::now()?.own >> 20;
        println!(
            "stored {count} messages at {rate:.0}/s: {bytes:.2} GiB; opened again in {opened:.3} s; {memory} MiB of own memory"
        );
        let back = arguments.rows / u64::from(QUEUES);
        let ends = broker.topic(&topic)?.queues;
        let from = ends.iter().map(|queue| QueueOffset(queue.end.0.saturating_sub(back))).collect();
        Ok(Self { broker, topic, from, measured: Default::default() })
    }

    async fn turn(&mut self, turn: usize, arguments: &Arguments) -> Result<()> {
        for operation in 0..3 {
            let (blocks, calls) = (self.broker.judged(), Calls::now()?);
            let figure = match operation {
                0 => self.publish(arguments).await?,
                1 => self.live(turn, arguments).await?,
                _ => self.catch_up(turn, arguments).await?,
            };
            let after = self.broker.judged();
            let blocks = after.0 + after.1 - blocks.0 - blocks.1;
            // The first turn warms up.
            if turn > 0 {
                self.measured[operation].push(Turn { figure, blocks, calls: Calls::now()?.since(calls) });
            }
        }
        Ok(())
    }

    fn print(&self, operation: usize, name: &str, count: u64) {
        let turns = &self.measured[operation];
        let digits = if operation == 1 { 3 } else { 0 };
        let mut cells = vec![name.to_owned(), count.to_string()];
        cells.extend(spread(&turns.iter().map(|turn| turn.figure).collect::<Vec<_>>(), digits));
        let counted: [fn(&Turn) -> u64; 5] = [
            |turn| turn.blocks,
            |turn| turn.calls.reads,
            |turn| turn.calls.read_bytes >> 10,
            |turn| turn.calls.writes,
            |turn| turn.calls.written_bytes >> 10,
        ];
        for counted in counted {
            let [_, median, _] =
                spread(&turns.iter().map(|turn| counted(turn) as f64).collect::<Vec<_>>(), 0);
            cells.push(median);
        }
        row(&cells);
    }

    /// Messages a second of producers that each wait for their acknowledgement.
    async fn publish(&self, arguments: &Arguments) -> Result<f64> {
        let each = arguments.publish / arguments.producers;
        let start = Instant::now();
        let mut tasks = Vec::new();
        for producer in 0..arguments.producers {
            let (broker, topic) = (self.broker.clone(), self.topic.clone());
            tasks.push(tokio::spawn(async move {
                for number in 0..each {
                    broker.publish(&topic, vec![retained(producer * each + number)]).await?;
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok((each * arguments.producers) as f64 / start.elapsed().as_secs_f64())
    }

    /// The median of the time from a publish to its delivery to a group that has caught up, in ms.
    async fn live(&self, turn: usize, arguments: &Arguments) -> Result<f64> {
        let group: GroupName = format!("live-{turn}").parse()?;
        self.broker.create_group(&group, GroupSpec::default()).await?;
        self.broker.reset_group(&group, &self.topic, ResetTo::Latest).await?;
        let request = self.request(&group)?;
        let (broker, topic) = (self.broker.clone(), self.topic.clone());
        let wanted = arguments.live;
        let receiver = tokio::spawn(async move {
            let mut at = Vec::new();
            while (at.len() as u64) < wanted {
                let delivered = broker.receive(request.clone()).await?;
                let now = Instant::now();
                ensure!(!delivered.is_empty(), "{} of {wanted} messages came", at.len());
                for message in delivered {
                    at.push((message.message.message.message_id.clone(), now));
                    let handle = [message.handle];
                    broker
                        .acknowledge(&group, &topic, &handle)
                        .await
                        .pop()
                        .context("one answer a handle")??;
                }
            }
            Ok(at)
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut sent = Vec::new();
        for number in 0..wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut message = retained(999);
            message.message_id = number.to_string();
            sent.push(Instant::now());
            self.broker.publish(&self.topic, vec![message]).await?;
        }
        let mut latencies = Latencies::default();
        for (id, at) in receiver.await?? {
            let number: usize = id.parse()?;
            latencies.record(at.saturating_duration_since(sent[number]));
        }
        Ok(latencies.percentile(50.0).as_secs_f64() * 1e3)
    }

    /// Rows a second that a new group passes until it has what it selects of them.
    async fn catch_up(&self, turn: usize, arguments: &Arguments) -> Result<f64> {
        let group: GroupName = format!("behind-{turn}").parse()?;
        self.broker.create_group(&group, GroupSpec::default()).await?;
        for (queue, offset) in self.from.iter().enumerate() {
            let to = ResetTo::Offset { queue: QueueId(queue as u32), offset: *offset };
            self.broker.reset_group(&group, &self.topic, to).await?;
        }
        let request = self.request(&group)?;
        let wanted = arguments.rows / 1_000;
        let start = Instant::now();
        let mut received = 0;
        while received < wanted {
            let delivered = self.broker.receive(request.clone()).await?;
            ensure!(!delivered.is_empty(), "{received} of {wanted} messages came");
            received += delivered.len() as u64;
        }
        let rate = arguments.rows as f64 / start.elapsed().as_secs_f64();
        self.broker.delete_group(&group).await?;
        Ok(rate)
    }

    fn request(&self, group: &GroupName) -> Result<ReceiveRequest> {
        Ok(ReceiveRequest {
            selector: Selector::parse(SELECTOR, Dialect::Sql92, &SelectorLimits::default())?,
            max_messages: 32,
            lease: LeaseTime::Fixed(Duration::from_secs(600)),
            wait: Duration::from_secs(20),
            client: "bench".to_owned(),
            ..ReceiveRequest::new(group.clone(), self.topic.clone())
        })
    }
}
