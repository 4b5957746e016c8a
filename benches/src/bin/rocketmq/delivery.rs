//! How long it takes from when a message is due to be sent until a consumer that waits for it has it.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{sync::oneshot, task::JoinSet};
use weir_benches::{Consumer, Latencies, head, row, spread};

use crate::{
    Arguments, LEAD, PERCENTS, POLL, PRICES, cells,
    content::Content,
    load::{Counts, Load, paced_count},
    milliseconds,
    side::{Class, Side},
};

const TOPIC: &str = "delivery";
const GROUP: &str = "delivery";
/// How long messages may be on their way after the last was sent.
const LATE_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn compare(arguments: &Arguments, sides: &[Side; 2], class: Class) -> Result<()> {
    let counts = [Arc::new(Counts::default()), Arc::new(Counts::default())];
    for side in sides {
        side.awake(async |side| {
            side.create_topic(TOPIC)?;
            side.create_groups(&[GROUP.to_owned()])
        })
        .await?;
    }
    let mut measured = [Vec::new(), Vec::new()];
    let mut again = [0, 0];
    // The first turn of each is for warming up.
    for turn in 0..=arguments.turns {
        for (at, side) in sides.iter().enumerate() {
            let (latencies, more) =
                side.awake(async |side| deliver(arguments, side, &counts[at]).await).await?;
            again[at] += more;
            if turn > 0 {
                measured[at].push(latencies);
            }
        }
    }
    let rate = arguments.delivery_rate;
    println!(
        "\nClass {}: from when a message is due to its receipt, {rate} messages a second, ms\n",
        class.name()
    );
    let mut names = vec!["broker".to_owned()];
    names.extend(PERCENTS.iter().map(|percent| format!("p{percent}")));
    names.extend(["p99.6, least to most".to_owned(), "delivered again".to_owned()]);
    head(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, side) in sides.iter().enumerate() {
        let mut row_of = vec![side.name().to_owned()];
        row_of.extend(cells(&measured[at]));
        let [least, _, most] = spread(&milliseconds(&measured[at], 99.6), 3);
        row_of.extend([format!("{least} to {most}"), again[at].to_string()]);
        row(&row_of);
        let counts = &counts[at];
        side.awake(async |side| side.ensure_stored(TOPIC, counts.acknowledged(), counts.refused())).await?;
    }
    Ok(())
}

/// Returns the latencies, and how many messages came once more.
async fn deliver(arguments: &Arguments, side: &Side, counts: &Arc<Counts>) -> Result<(Latencies, u64)> {
    let run = Duration::from_secs_f64(arguments.seconds);
    let rate = arguments.delivery_rate;
    let content = Content::new(TOPIC, 100, PRICES);
    let load = Load::connect(side, arguments.connections, TOPIC, content.clone(), counts).await?;
    let first = counts.next();
    let numbers = first..first + paced_count(LEAD, run, rate);
    let consumer = Consumer::connect(&side.uri(), "consumer@1@0", GROUP, TOPIC, None).await?;
    let (begin, begun) = oneshot::channel();
    let receipts = tokio::spawn(receive(consumer, content, numbers.clone()));
    let begin = |start| {
        let _ = begin.send(start);
    };
    load.paced(LEAD, run, rate, begin).await?;
    ensure!(counts.refused() == 0, "messages were refused at {rate} a second");
    let received = tokio::time::timeout(LATE_MAX, receipts).await;
    let (receipts, again) = received.context("not every message was delivered within a minute")???;
    let start = begun.await?;
    let mut latencies = Latencies::default();
    for (number, at) in receipts {
        let after = Duration::from_secs_f64((number - numbers.start) as f64 / rate);
        if after >= LEAD {
            latencies.record(at.saturating_duration_since(start + after));
        }
    }
    Ok((latencies, again))
}

/// Receives and acknowledges until all of `numbers` are there; returns when each came first, and how many came once
/// more.
async fn receive(
    mut consumer: Consumer,
    content: Content,
    numbers: Range<u64>,
) -> Result<(Vec<(u64, Instant)>, u64)> {
    let (mut receipts, mut seen, mut again) = (Vec::new(), BTreeSet::new(), 0);
    let mut acknowledgements = JoinSet::new();
    while (receipts.len() as u64) < numbers.end - numbers.start {
        let messages = consumer.receive(POLL).await?;
        let at = Instant::now();
        if messages.is_empty() {
            continue;
        }
        for message in &messages {
            let number = content.number(message)?;
            ensure!(number < numbers.end, "message {number} was not sent yet");
            if number >= numbers.start && seen.insert(number) {
                receipts.push((number, at));
            } else {
                again += 1;
            }
        }
        let mut consumer = consumer.clone();
        acknowledgements.spawn(async move { consumer.acknowledge(&messages).await });
        while let Some(ended) = acknowledgements.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = acknowledgements.join_next().await {
        ended??;
    }
    Ok((receipts, again))
}
