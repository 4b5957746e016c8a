//! What does it cost, and save, that the broker compresses bodies?
//!
//! For bodies of JSON of several sizes, and for each method: the bytes of the log, the rate at which they are published,
//! and the rate at which they are read, by a batch pull of the bodies and by a receive; all methods in turn, several
//! times, medians printed. Beside them, what Zstandard makes of the bodies of 100 messages at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Parser;
use futures::TryStreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_benches::{data_dir, head, median, options, row};
use weir_engine::{
    Broker, Compression, Dialect, DurabilityClass, LeaseTime, Message, PullColumn, PullRequest,
    ReceiveRequest, Selector, SelectorLimits, TopicName, TopicSpec,
};

/// How much is stored.
#[derive(Parser)]
struct Arguments {
    /// Bytes of bodies of each measurement, in MiB.
    #[arg(long, default_value_t = 64)]
    mebibytes: usize,
    /// Times that each is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const METHODS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];
/// Messages of one publish call.
const BATCH: usize = 100;

/// One run of one method: bytes of the log, and messages a second.
struct Run {
    log_bytes: f64,
    published: f64,
    pulled: f64,
    received: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    head(&[
        "body",
        "method",
        "log, B/message",
        "share",
        "published/s",
        "pulled/s",
        "received/s",
        "100 at once",
    ]);
    for size in [300, 1000, 4000, 16_000] {
        let bodies = bodies(size, (arguments.mebibytes << 20) / size);
        let at_once = at_once(&bodies)?;
        let mut runs: [Vec<Run>; 3] = Default::default();
        for _ in 0..arguments.runs {
            for (method, runs) in METHODS.into_iter().zip(&mut runs) {
                runs.push(measure(&bodies, method).await?);
            }
        }
        let mut plain = None;
        for (method, runs) in METHODS.into_iter().zip(&runs) {
            let median_of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
            let bytes = median_of(|run| run.log_bytes) / bodies.len() as f64;
            let plain = *plain.get_or_insert(bytes);
            row(&[
                format!("{} B", bodies.iter().map(Bytes::len).sum::<usize>() / bodies.len()),
                format!("{method:?}").to_lowercase(),
                format!("{bytes:.0}"),
                format!("{:.0} %", bytes / plain * 100.0),
                format!("{:.0}", median_of(|run| run.published)),
                format!("{:.0}", median_of(|run| run.pulled)),
                format!("{:.0}", median_of(|run| run.received)),
                if method == Compression::Zstd { format!("{at_once:.0} %") } else { String::new() },
            ]);
        }
    }
    Ok(())
}

/// Orders as JSON: names that recur, and numbers and texts that do not.
fn bodies(size: usize, count: usize) -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(1);
    let words =
        ["blue", "shirt", "cotton", "large", "gift", "express", "fragile", "return", "paper", "glass"];
    let body = |random: &mut StdRng| {
        let mut text = format!(
            r#"{{"order_id":"{:032x}","customer":"c{}","region":"EU","created":{},"items":["#,
            random.random::<u128>(),
            random.random_range(0..100_000),
            1_790_000_000_000_u64 + random.random_range(0..1_000_000_000),
        );
        loop {
            let word = |random: &mut StdRng| words[random.random_range(0..words.len())];
            text += &format!(
                r#"{{"sku":"{:08x}","name":"{} {}","price":{}.{:02},"count":{}}}"#,
                random.random::<u32>(),
                word(random),
                word(random),
                random.random_range(1..500),
                random.random_range(0..100),
                random.random_range(1..9),
            );
            if text.len() + 40 >= size {
                break;
            }
            text.push(',');
        }
        text += "]}";
        Bytes::from(text)
    };
    (0..count).map(|_| body(&mut random)).collect()
}

/// Returns the share, in percent, that bodies take if those of a publish call are compressed together.
fn at_once(bodies: &[Bytes]) -> Result<f64> {
    let (mut before, mut after) = (0, 0);
    for batch in bodies.chunks(BATCH).take(50) {
        let together = batch.concat();
        before += together.len();
        after += zstd::bulk::compress(&together, 1)?.len();
    }
    Ok(after as f64 / before as f64 * 100.0)
}

async fn measure(bodies: &[Bytes], compression: Compression) -> Result<Run> {
    let directory = data_dir("compression")?;
    let broker = Broker::open(options(directory.path())).await?;
    let topic: TopicName = "bench".parse()?;
    let class = DurabilityClass::Async;
    broker.create_topic(&topic, TopicSpec { queues: 1, class, compression, ..TopicSpec::default() }).await?;
    let rate = |begun: Instant| bodies.len() as f64 / begun.elapsed().as_secs_f64();

    let begun = Instant::now();
    for (number, batch) in bodies.chunks(BATCH).enumerate() {
        let message = |(place, body): (usize, &Bytes)| Message {
            message_id: format!("{:032X}", number * BATCH + place),
            body: body.clone(),
            ..Message::default()
        };
        broker.publish(&topic, batch.iter().enumerate().map(message).collect()).await?;
    }
    let published = rate(begun);
    while broker.topic(&topic)?.queues[0].end.0 < bodies.len() as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let log_bytes = broker.topic(&topic)?.log_bytes as f64;

    let begun = Instant::now();
    let request =
        PullRequest { columns: Some(vec![PullColumn("body".to_owned())]), ..PullRequest::new(topic.clone()) };
    let mut rows = 0;
    for part in broker.plan_pull(&request).await?.parts {
        let mut batches = broker.pull(part).await?;
        while let Some(batch) = batches.try_next().await? {
            rows += batch.batch.num_rows();
        }
    }
    let pulled = rate(begun);
    ensure!(rows == bodies.len(), "{rows} rows were pulled");

    let begun = Instant::now();
    let mut received = 0;
    let selector = Selector::parse("TRUE", Dialect::Sql92, &SelectorLimits::default())?;
    while received < bodies.len() {
        let request = ReceiveRequest {
            group: "g".parse()?,
            topic: topic.clone(),
            queue: None,
            selector: selector.clone(),
            max_messages: 32,
            lease: LeaseTime::Fixed(Duration::from_secs(600)),
            wait: Duration::from_secs(5),
            client: "bench".to_owned(),
            attempt_id: None,
            one_by_one: false,
        };
        let delivered = broker.receive(request).await?;
        ensure!(!delivered.is_empty(), "{received} messages came");
        let handles: Vec<String> = delivered.iter().map(|delivered| delivered.handle.clone()).collect();
        for acknowledged in broker.acknowledge(&"g".parse()?, &topic, &handles).await {
            acknowledged?;
        }
        received += delivered.len();
    }
    let received = rate(begun);
    broker.close().await?;
    Ok(Run { log_bytes, published, pulled, received })
}
