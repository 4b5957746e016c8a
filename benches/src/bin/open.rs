//! How long does a start take with ten million messages retained, after a clean stop and after `kill -9`?
//!
//! The second figure comes from a copy of the data directory made while the broker runs, which is what a killed
//! process leaves behind in the page cache.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use weir_benches::{Messages, data_dir, head, options, row};
use weir_engine::{Broker, DurabilityClass, TopicName, TopicSpec};

/// What is stored.
#[derive(Parser)]
struct Arguments {
    /// Messages to store before the starts.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("open")?;
    let data = directory.path().join("clean");
    let killed = directory.path().join("killed");
    let broker = Broker::open(options(&data)).await?;
    let topic: TopicName = "bench".parse()?;
    broker.create_topic(&topic, TopicSpec { class: DurabilityClass::Async, ..TopicSpec::default() }).await?;
    let mut messages = Messages::new(1, 32);
    let start = Instant::now();
    for _ in 0..arguments.messages / 1_000 {
        broker.publish(&topic, (0..1_000).map(|_| messages.next_message()).collect()).await?;
    }
    let rate = arguments.messages as f64 / start.elapsed().as_secs_f64();
    println!("stored {} messages at {rate:.0}/s", arguments.messages);
    ensure!(Command::new("cp").arg("-r").arg(&data).arg(&killed).status()?.success(), "cp failed");
    broker.close().await?;
    drop(broker);
    head(&["start after", "seconds", "visible messages", "log read again, MiB"]);
    opened("a clean stop", &data, &topic).await?;
    opened("kill -9", &killed, &topic).await
}

async fn opened(after: &str, data: &Path, topic: &TopicName) -> Result<()> {
    let start = Instant::now();
    let broker = Broker::open(options(data)).await?;
    let seconds = start.elapsed().as_secs_f64();
    let visible: u64 =
        broker.topic(topic)?.queues.iter().filter_map(|queue| queue.end.since(queue.first)).sum();
    let replayed = broker.info().recovery.replayed_bytes as f64 / f64::from(1 << 20);
    row(&[after.to_owned(), format!("{seconds:.3}"), visible.to_string(), format!("{replayed:.1}")]);
    broker.close().await?;
    Ok(())
}
