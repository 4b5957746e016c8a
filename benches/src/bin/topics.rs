//! What do ten thousand topics cost? Memory, open files, disk, and the rate of publishing against one topic.
//!
//! Producers take the topics in turn, one message a call. First a broker with all of them alone, then, in turns, it
//! and a broker with one topic in the same process.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use weir_benches::{Memory, Messages, data_dir, disk_bytes, head, open_files, options, row, spread};
use weir_engine::{Broker, DurabilityClass, EngineError, Message, TopicName, TopicSpec};

/// What is stored.
#[derive(Parser)]
struct Arguments {
    /// Topics of the large broker.
    #[arg(long, default_value_t = 10_000)]
    topics: usize,
    /// Queues of each topic.
    #[arg(long, default_value_t = 4)]
    queues: u32,
    /// Messages that the large broker takes before the turns.
    #[arg(long, default_value_t = 4_000_000)]
    messages: u64,
    /// Messages of each turn.
    #[arg(long, default_value_t = 200_000)]
    turn_messages: u64,
    /// Turns of each; least, median and most are printed.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Producers that publish at once.
    #[arg(long, default_value_t = 64)]
    producers: u64,
    /// Bytes of each body; the eight properties take some 80.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Topics of class `async` instead of `sync`.
    #[arg(long)]
    relaxed: bool,
}

struct Topics {
    broker: Broker,
    names: Arc<Vec<TopicName>>,
    next: Arc<AtomicU64>,
    /// Bytes of bodies and properties.
    payload: Arc<AtomicU64>,
}

#[derive(Default)]
struct Most {
    resident: AtomicU64,
    own: AtomicU64,
    files: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("topics")?;
    let data = directory.path().join("many");
    let start = Instant::now();
    let many = Topics::open(&data, arguments.topics, &arguments).await?;
    let count = arguments.topics;
    println!(
        "made {count} topics of {} queues in {:.1} s\n",
        arguments.queues,
        start.elapsed().as_secs_f64()
    );
    let most = Arc::new(Most::default());
    let over = Arc::new(AtomicBool::new(false));
    let watch = tokio::task::spawn_blocking({
        let (most, over) = (Arc::clone(&most), Arc::clone(&over));
        move || watch(&most, &over)
    });
    let rate = many.publish(arguments.messages, &arguments).await?;
    over.store(true, Ordering::Relaxed);
    watch.await??;
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let payload = many.payload.load(Ordering::Relaxed);
    let running = disk_bytes(&data)?;
    many.broker.close().await?;
    drop(many);
    let closed = disk_bytes(&data)?;
    head(&[
        "topics",
        "messages",
        "messages/s",
        "most memory, MiB",
        "of it no file, MiB",
        "most open files",
        "payload and properties, MiB",
        "disk, MiB",
        "times",
        "after a stop, MiB",
        "times ",
    ]);
    row(&[
        count.to_string(),
        arguments.messages.to_string(),
        format!("{rate:.0}"),
        mib(most.resident.load(Ordering::Relaxed)),
        mib(most.own.load(Ordering::Relaxed)),
        most.files.load(Ordering::Relaxed).to_string(),
        mib(payload),
        mib(running),
        format!("{:.2}", running as f64 / payload as f64),
        mib(closed),
        format!("{:.2}", closed as f64 / payload as f64),
    ]);
    println!();
    let start = Instant::now();
    let many = Topics::open(&data, arguments.topics, &arguments).await?;
    println!("opened again in {:.3} s\n", start.elapsed().as_secs_f64());
    let one = Topics::open(&directory.path().join("one"), 1, &arguments).await?;
    let (mut rates, mut ones, mut ratios) = (vec![], vec![], vec![]);
    for turn in 0..=arguments.turns {
        let (rate, of_one) = match turn % 2 {
            0 => {
                let rate = many.publish(arguments.turn_messages, &arguments).await?;
                (rate, one.publish(arguments.turn_messages, &arguments).await?)
            }
            _ => {
                let of_one = one.publish(arguments.turn_messages, &arguments).await?;
                (many.publish(arguments.turn_messages, &arguments).await?, of_one)
            }
        };
        // The first turn warms up.
        if turn > 0 {
            rates.push(rate);
            ones.push(of_one);
            ratios.push(of_one / rate);
        }
    }
    head(&["messages/s", "least", "median", "most"]);
    for (name, values, digits) in
        [("one topic", ones, 0), ("all topics", rates, 0), ("one topic is so many times faster", ratios, 2)]
    {
        let mut cells = vec![name.to_owned()];
        cells.extend(spread(&values, digits));
        row(&cells);
    }
    many.broker.close().await?;
    one.broker.close().await?;
    Ok(())
}

impl Topics {
    async fn open(data: &Path, count: usize, arguments: &Arguments) -> Result<Self> {
        let broker = Broker::open(options(data)).await?;
        let class = if arguments.relaxed { DurabilityClass::Async } else { DurabilityClass::Sync };
        let names = (0..count).map(|number| Ok(format!("topic-{number}").parse()?));
        let names: Vec<TopicName> = names.collect::<Result<_>>()?;
        for name in &names {
            let spec = TopicSpec { queues: arguments.queues, class, ..TopicSpec::default() };
            match broker.create_topic(name, spec).await {
                Ok(_) | Err(EngineError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { broker, names: Arc::new(names), next: Arc::default(), payload: Arc::default() })
    }

    /// Messages a second of producers that each wait for their acknowledgement and take the topics in turn.
    async fn publish(&self, count: u64, arguments: &Arguments) -> Result<f64> {
        let end = self.next.load(Ordering::Relaxed) + count;
        let start = Instant::now();
        let mut tasks = Vec::new();
        for producer in 0..arguments.producers {
            let (broker, names, next) =
                (self.broker.clone(), Arc::clone(&self.names), Arc::clone(&self.next));
            let payload = Arc::clone(&self.payload);
            let mut source = Messages::new(producer, arguments.body);
            tasks.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return anyhow::Ok(());
                    }
                    let message = source.next_message();
                    payload.fetch_add(payload_of(&message), Ordering::Relaxed);
                    broker.publish(&names[number as usize % names.len()], vec![message]).await?;
                }
            }));
        }
        for task in tasks {
            task.await??;
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        // Every producer has asked for one more.
        self.next.store(end, Ordering::Relaxed);
        Ok(rate)
    }
}

fn payload_of(message: &Message) -> u64 {
    let properties = message.properties.iter().map(|(name, value)| name.len() + value.to_text().len());
    (message.body.len() + properties.sum::<usize>()) as u64
}

/// Looks every few milliseconds how much memory is taken and how many files are open.
fn watch(most: &Most, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let memory = Memory::now()?;
        most.resident.fetch_max(memory.resident, Ordering::Relaxed);
        most.own.fetch_max(memory.own, Ordering::Relaxed);
        most.files.fetch_max(open_files()?, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
