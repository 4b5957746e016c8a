//! How long does a start take with very many messages retained, after a clean stop and after `kill -9`?
//!
//! The second figure comes from a copy of the data directory made while the broker runs, which is what a killed
//! process leaves behind in the page cache. Each start is one of a new process, so that its memory is its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_benches::{Memory, data_dir, ensure_room, head, options, retain, row};
use weir_engine::{Broker, DurabilityClass, TopicName, TopicSpec};

/// What is stored.
#[derive(Parser)]
struct Arguments {
    /// Messages to store before the starts: a body of 32 bytes and three properties each, some 220 bytes on disk.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// The program refuses to begin if the disk would have fewer GiB free.
    #[arg(long, default_value_t = 15)]
    keep_gib: u64,
    /// Opens this directory and prints what that took: how the program starts itself.
    #[arg(long, hide = true)]
    start: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let topic: TopicName = "bench".parse()?;
    if let Some(data) = &arguments.start {
        return start(data, &topic).await;
    }
    let directory = data_dir("open")?;
    ensure_room(directory.path(), arguments.messages, arguments.keep_gib)?;
    let data = directory.path().join("clean");
    let killed = directory.path().join("killed");
    let broker = Broker::open(options(&data)).await?;
    broker.create_topic(&topic, TopicSpec { class: DurabilityClass::Async, ..TopicSpec::default() }).await?;
    let start = Instant::now();
    retain(&broker, &topic, arguments.messages).await?;
    let rate = arguments.messages as f64 / start.elapsed().as_secs_f64();
    println!("stored {} messages at {rate:.0}/s\n", arguments.messages);
    copy(&data, &killed)?;
    broker.close().await?;
    drop(broker);
    head(&[
        "start after",
        "seconds",
        "visible messages",
        "log read again, MiB",
        "own memory, MiB",
        "resident, MiB",
    ]);
    for (after, data) in [("a clean stop", &data), ("kill -9", &killed)] {
        let output = Command::new(std::env::current_exe()?).arg("--start").arg(data).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut cells = vec![after.to_owned()];
        cells.extend(String::from_utf8(output.stdout)?.split_whitespace().map(str::to_owned));
        row(&cells);
    }
    Ok(())
}

async fn start(data: &Path, topic: &TopicName) -> Result<()> {
    let start = Instant::now();
    let broker = Broker::open(options(data)).await?;
    let seconds = start.elapsed().as_secs_f64();
    let memory = Memory::now()?;
    let visible: u64 =
        broker.topic(topic)?.queues.iter().filter_map(|queue| queue.end.since(queue.first)).sum();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let replayed = mib(broker.info().recovery.replayed_bytes);
    let (own, resident) = (mib(memory.own), mib(memory.resident));
    println!("{seconds:.3} {visible} {replayed:.1} {own:.0} {resident:.0}");
    Ok(broker.close().await?)
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
