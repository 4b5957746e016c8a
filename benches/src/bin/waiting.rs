//! How long does it take to count what waits for a group that is millions of messages behind, the first time and again?
//!
//! In-process. The messages lie in one topic of four queues, and a group has received one of those that its selector
//! matches.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use weir_benches::{data_dir, ensure_room, head, options, retain, row};
use weir_engine::{Broker, GroupName, ReceiveRequest, TopicName, TopicSpec};

/// A selector that statistics rule out in places, one that they do not, and one that matches everything.
const SELECTORS: [&str; 4] = ["level = 'urgent'", "price > 500", "price % 7 = 3 OR cust = 'c77'", "TRUE"];
/// Free room that stays on the disk, in GiB.
const KEEP_GIB: u64 = 4;

/// How many.
#[derive(Parser)]
struct Args {
    /// Messages that lie behind the group.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let directory = data_dir("waiting")?;
    ensure_room(directory.path(), args.messages, KEEP_GIB)?;
    let topic: TopicName = "bench".parse()?;
    let broker = Broker::open(options(directory.path())).await?;
    broker.create_topic(&topic, TopicSpec { retention: None, ..TopicSpec::default() }).await?;
    retain(&broker, &topic, args.messages).await?;
    // What a start finds lies in files.
    broker.close().await?;
    drop(broker);
    let broker = Broker::open(options(directory.path())).await?;
    head(&["selector", "waiting", "first", "again", "after 1,000 more"]);
    for (number, selector) in SELECTORS.iter().enumerate() {
        let group: GroupName = format!("group-{number}").parse()?;
        let request = ReceiveRequest {
            selector: broker.parse_selector(selector)?,
            max_messages: 1,
            wait: Duration::from_secs(10),
            client: "bench".to_owned(),
            ..ReceiveRequest::new(group.clone(), topic.clone())
        };
        ensure!(!broker.receive(request).await?.is_empty(), "nothing matches {selector}");
        let (waiting, first) = count(&broker, &group).await?;
        let (again, second) = count(&broker, &group).await?;
        ensure!(waiting == again, "{waiting} and then {again}");
        retain(&broker, &topic, 1_000).await?;
        let (_, more) = count(&broker, &group).await?;
        let ms = |took: Duration| format!("{:.1} ms", took.as_secs_f64() * 1e3);
        row(&[format!("`{selector}`"), waiting.to_string(), ms(first), ms(second), ms(more)]);
    }
    broker.close().await?;
    Ok(())
}

async fn count(broker: &Broker, group: &GroupName) -> Result<(u64, Duration)> {
    let start = std::time::Instant::now();
    let waiting = broker.count_waiting(group, Duration::from_secs(600), |_| {}).await?;
    ensure!(waiting.complete, "ten minutes were not enough");
    let queues = waiting.topics.iter().flat_map(|topic| &topic.queues);
    Ok((queues.map(|queue| queue.undelivered + queue.open).sum(), start.elapsed()))
}
