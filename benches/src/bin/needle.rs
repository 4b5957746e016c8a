//! How long does a subscription take to the ten messages among ten million that it selects?
//!
//! The workload is the published one of RabbitMQ's stream filters: ten types of events, one in 100,000 is
//! `order.created`, and every tenth of these is wanted. Theirs took 24.71 s with the SQL filter and 2.05 s with
//! a Bloom filter that the publisher had to set, on another machine.
//!
//! Measured in-process, from the receive that opens the group to the tenth message with its body in hand. Cold:
//! the page cache was told to drop the files while the broker was closed; how much of them stayed is printed.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_benches::{data_dir, head, options, row};
use weir_columns::Value;
use weir_engine::{
    Broker, BrokerOptions, DurabilityClass, GroupName, LeaseTime, Message, ReceiveRequest, TopicName,
    TopicSpec,
};
use weir_filter::{Dialect, Limits, Selector};

const TYPES: [&str; 9] = [
    "order.updated",
    "order.shipped",
    "order.cancelled",
    "user.registered",
    "user.updated",
    "payment.received",
    "payment.failed",
    "cart.updated",
    "product.viewed",
];
const REGIONS: [&str; 4] = ["LATAM", "AMER", "EMEA", "APAC"];
const SELECTOR: &str = "subject = 'order.created' AND sys.born_time > NOW() - 3600000 \
                        AND region IN ('AMER','EMEA','APJ') \
                        AND (priority > 4 OR price >= 99.99 OR premium_customer = TRUE)";

/// What is stored, and how often it is read.
#[derive(Parser)]
struct Arguments {
    /// Events to store.
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Bytes of each body.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Queues of the topic.
    #[arg(long, default_value_t = 4)]
    queues: u32,
    /// Runs of each kind; the median is printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("needle")?;
    let data = directory.path().join("data");
    let topic: TopicName = "events".parse()?;
    store(&data, &topic, &arguments).await?;
    let expected = arguments.events.div_ceil(1_000_000);
    head(&["statistics", "page cache", "median, ms", "least, ms", "resident before, %", "messages"]);
    for skips in [false, true] {
        for cold in [false, true] {
            let mut times = Vec::new();
            let mut resident = 0.0;
            for run in 0..arguments.runs {
                if cold {
                    drop_pages(&data)?;
                }
                resident = resident_percent(&data)?;
                let broker = Broker::open(BrokerOptions { skip_by_statistics: skips, ..options(&data) });
                let broker = broker.await?;
                if !cold && run == 0 {
                    // Once unmeasured, so that all is warm.
                    measured(&broker, &topic, &format!("warm-{skips}"), expected).await?;
                }
                let group = format!("g-{skips}-{cold}-{run}");
                times.push(measured(&broker, &topic, &group, expected).await?);
                broker.close().await?;
            }
            times.sort_unstable();
            let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
            row(&[
                if skips { "used" } else { "not used" }.to_owned(),
                if cold { "dropped" } else { "warm" }.to_owned(),
                ms(times[times.len() / 2]),
                ms(times[0]),
                format!("{resident:.1}"),
                expected.to_string(),
            ]);
        }
    }
    Ok(())
}

async fn store(data: &Path, topic: &TopicName, arguments: &Arguments) -> Result<()> {
    let broker = Broker::open(options(data)).await?;
    let spec = TopicSpec { class: DurabilityClass::Async, queues: arguments.queues, ..TopicSpec::default() };
    broker.create_topic(topic, spec).await?;
    let start = Instant::now();
    let mut batch = Vec::with_capacity(1000);
    for number in 0..arguments.events {
        batch.push(event(number, arguments.body, now_ms()?));
        if batch.len() == 1000 || number + 1 == arguments.events {
            broker.publish(topic, std::mem::take(&mut batch)).await?;
        }
    }
    println!(
        "stored {} events in {} queues at {:.0}/s\n",
        arguments.events,
        arguments.queues,
        arguments.events as f64 / start.elapsed().as_secs_f64()
    );
    Ok(broker.close().await?)
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Every 100,000th event is an order; every tenth of these is from EMEA and urgent.
fn event(number: u64, body: usize, born_time_ms: i64) -> Message {
    let is_order = number.is_multiple_of(100_000);
    let is_wanted = number.is_multiple_of(1_000_000);
    let subject = if is_order { "order.created" } else { TYPES[(number % 9) as usize] };
    let region = if is_wanted { "EMEA" } else { REGIONS[(number % 4) as usize] };
    let priority = if is_wanted { "5" } else { "4" };
    let text = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
    Message {
        message_id: format!("{number:032X}"),
        properties: vec![text("subject", subject), text("region", region), text("priority", priority)],
        body: vec![b'x'; body].into(),
        born_time_ms: Some(born_time_ms),
        ..Message::default()
    }
}

/// The time until a new group has all `expected` messages.
async fn measured(broker: &Broker, topic: &TopicName, group: &str, expected: u64) -> Result<Duration> {
    let start = Instant::now();
    let selector = Selector::parse(SELECTOR, Dialect::Sql92, &Limits::default())?;
    let group: GroupName = group.parse()?;
    let mut received = 0;
    while received < expected {
        let request = ReceiveRequest {
            group: group.clone(),
            topic: topic.clone(),
            queue: None,
            selector: selector.clone(),
            max_messages: 32,
            lease: LeaseTime::Fixed(Duration::from_secs(600)),
            wait: Duration::from_secs(20),
            client: "bench".to_owned(),
            attempt_id: None,
            one_by_one: false,
        };
        let delivered = broker.receive(request).await?;
        ensure!(!delivered.is_empty(), "{received} of {expected} messages came");
        received += delivered.len() as u64;
    }
    ensure!(received == expected, "{received} messages came, {expected} were wanted");
    Ok(start.elapsed())
}

fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

/// Asks the system to forget the pages of all files.
fn drop_pages(data: &Path) -> Result<()> {
    each_file(data, &mut |path| {
        let file = File::open(path)?;
        file.sync_all()?;
        Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
    })
}

/// How much of all files is in the page cache, as `fincore` of util-linux tells; NaN without it.
fn resident_percent(data: &Path) -> Result<f64> {
    let (mut resident, mut all) = (0_u64, 0_u64);
    each_file(data, &mut |path| {
        all += fs::metadata(path)?.len();
        let Ok(output) = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path).output() else {
            resident = u64::MAX;
            return Ok(());
        };
        let text = String::from_utf8_lossy(&output.stdout);
        resident = resident.saturating_add(text.trim().parse().unwrap_or(0));
        Ok(())
    })?;
    Ok(if resident == u64::MAX { f64::NAN } else { 100.0 * resident as f64 / all.max(1) as f64 })
}
