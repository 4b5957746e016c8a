//! How long does a start take with ten million messages retained, after a clean stop and after `kill -9`?
//!
//! The second figure comes from a copy of the data directory made while the broker runs, which is what a killed
//! process leaves behind in the page cache.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result};
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
    copy(&data, &killed)?;
    broker.close().await?;
    drop(broker);
    head(&["start after", "seconds", "visible messages", "log read again, MiB", "memory without maps, MiB"]);
    opened("a clean stop", &data, &topic).await?;
    opened("kill -9", &killed, &topic).await
}

/// Copies a data directory. Files that have had their last write are linked, so that no disk need hold them twice: all
/// but the last of each directory.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    let is_sealed = |path: &Path| {
        path.extension().is_some_and(|kind| ["log", "queue", "blocks"].contains(&&*kind.to_string_lossy()))
    };
    for (number, path) in paths.iter().enumerate() {
        let copied = to.join(path.file_name().context("a file has a name")?);
        if is_sealed(path) && number + 1 < paths.len() {
            fs::hard_link(path, copied)?;
        } else {
            fs::copy(path, copied)?;
        }
    }
    Ok(())
}

async fn opened(after: &str, data: &Path, topic: &TopicName) -> Result<()> {
    let start = Instant::now();
    let broker = Broker::open(options(data)).await?;
    let seconds = start.elapsed().as_secs_f64();
    let visible: u64 =
        broker.topic(topic)?.queues.iter().filter_map(|queue| queue.end.since(queue.first)).sum();
    let replayed = broker.info().recovery.replayed_bytes as f64 / f64::from(1 << 20);
    // What was freed since the messages were stored may still be counted.
    let memory = own_memory()? as f64 / f64::from(1 << 20);
    row(&[
        after.to_owned(),
        format!("{seconds:.3}"),
        visible.to_string(),
        format!("{replayed:.1}"),
        format!("{memory:.0}"),
    ]);
    broker.close().await?;
    Ok(())
}

/// Returns the bytes of memory of this process that are no pages of files.
fn own_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
