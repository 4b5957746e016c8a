//! How long a new group takes to receive all messages of a backlog that its selector wants.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use weir_benches::{Consumer, head, median, row, spread};

use crate::{
    Arguments, POLL,
    content::{Content, Share},
    load::{Counts, Load},
    ratio,
    side::{Class, Shares, Side},
};

const TOPIC: &str = "backlog";
const BODY_BYTES: usize = 100;
/// Calls under way while the backlog is published.
const PUBLISHERS: usize = 8;
const SHARES: [Share; 3] = [Share::HundredThousandth, Share::Hundredth, Share::Tenth];
/// After so long without being done, a turn ends the program.
const TURN_MAX: Duration = Duration::from_secs(300);

pub(crate) async fn compare(arguments: &Arguments, sides: &[Side; 2], class: Class) -> Result<()> {
    let content = Content::new(TOPIC, BODY_BYTES, arguments.backlog);
    for side in sides {
        let took = side.awake(async |side| publish(arguments, side, &content).await).await?;
        eprintln!("{}: backlog published in {:.1} s", side.name(), took.as_secs_f64());
    }
    println!(
        "\nClass {}: seconds until a new group has received every match of {} messages, {} receives at once\n",
        class.name(),
        arguments.backlog,
        arguments.receivers
    );
    let [weir, other] = sides.each_ref().map(Side::name);
    let (least, other_least, between, again) = (
        format!("{weir}, least"),
        format!("{other}, least"),
        format!("{other} / {weir}"),
        format!("delivered again, {weir}"),
    );
    head(&[
        "selector",
        "matches",
        &least,
        "median",
        "most",
        "broker's core, %",
        "generator's, %",
        &other_least,
        "median",
        "most",
        "broker's core, %",
        "generator's, %",
        &between,
        &again,
        other,
    ]);
    for share in SHARES {
        let (mut seconds, mut again) = ([Vec::new(), Vec::new()], [0, 0]);
        let mut busy = [Shares::default(); 2];
        // The first turn of each is for warming up, and looks for messages that nobody wanted.
        for turn in 0..=arguments.turns {
            for (at, side) in sides.iter().enumerate() {
                let group = group(share, turn);
                let caught_up = side
                    .awake(async |side| catch_up(arguments, side, &content, share, &group, turn == 0).await)
                    .await?;
                again[at] += caught_up.again;
                if turn > 0 {
                    seconds[at].push(caught_up.took.as_secs_f64());
                    busy[at] = caught_up.busy;
                }
            }
        }
        let mut cells =
            vec![format!("`{}`", content.selector(share)), wanted(&content, share, arguments).to_string()];
        for (seconds, Shares { broker, generator, .. }) in seconds.iter().zip(busy) {
            cells.extend(spread(seconds, 4));
            cells.extend([broker, generator].map(|share| format!("{:.0}", share * 100.0)));
        }
        let [weir, other] = seconds.map(median);
        cells.push(ratio(other / weir));
        cells.extend(again.map(|again| again.to_string()));
        row(&cells);
    }
    Ok(())
}

async fn publish(arguments: &Arguments, side: &Side, content: &Content) -> Result<Duration> {
    side.create_topic(TOPIC)?;
    let turns = SHARES.iter().flat_map(|share| (0..=arguments.turns).map(|turn| group(*share, turn)));
    side.create_groups(&turns.collect::<Vec<_>>())?;
    let counts = Arc::new(Counts::default());
    let load = Load::connect(side, arguments.connections, TOPIC, content.clone(), &counts).await?;
    let start = Instant::now();
    load.send(arguments.backlog, PUBLISHERS, arguments.batch).await?;
    let took = start.elapsed();
    ensure!(counts.refused() == 0, "{} messages of the backlog were refused", counts.refused());
    side.ensure_stored(TOPIC, arguments.backlog, 0)?;
    Ok(took)
}

/// Returns the group of a turn, which nobody has used before.
fn group(share: Share, turn: usize) -> String {
    format!("{share:?}-{turn}")
}

fn wanted(content: &Content, share: Share, arguments: &Arguments) -> usize {
    (0..arguments.backlog).filter(|number| content.wanted(share, *number)).count()
}

struct CaughtUp {
    took: Duration,
    /// The shares of the cores meanwhile; those of the last turn are printed.
    busy: Shares,
    /// Messages that came once more.
    again: u64,
}

/// What the receivers of a group have, together.
struct Receipts {
    seen: BTreeSet<u64>,
    again: u64,
    complete: Option<Instant>,
}

async fn catch_up(
    arguments: &Arguments,
    side: &Side,
    content: &Content,
    share: Share,
    group: &str,
    to_the_end: bool,
) -> Result<CaughtUp> {
    let wanted = wanted(content, share, arguments);
    let receipts = Arc::new(Mutex::new(Receipts { seen: BTreeSet::new(), again: 0, complete: None }));
    let mut consumers = Vec::new();
    for number in 0..arguments.receivers {
        let (id, selector) = (format!("consumer@1@{number}"), content.selector(share));
        consumers.push(Consumer::connect(&side.uri(), &id, group, TOPIC, Some(&selector)).await?);
    }
    let busy = side.busy()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut consumer in consumers {
        let (content, receipts) = (content.clone(), Arc::clone(&receipts));
        tasks.spawn(async move {
            loop {
                let messages = consumer.receive(POLL).await?;
                let complete = took(&content, share, &messages, &receipts, wanted)?;
                if !messages.is_empty() {
                    consumer.acknowledge(&messages).await?;
                }
                if complete && (messages.is_empty() || !to_the_end) {
                    return anyhow::Ok(());
                }
                ensure!(start.elapsed() < TURN_MAX, "not all messages came within {TURN_MAX:?}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
        if !to_the_end {
            // The others wait for messages that do not come.
            tasks.abort_all();
            break;
        }
    }
    let busy = busy.shares()?;
    let receipts = receipts.lock().unwrap_or_else(PoisonError::into_inner);
    let complete = receipts.complete.unwrap_or_else(Instant::now);
    Ok(CaughtUp { took: complete.duration_since(start), busy, again: receipts.again })
}

/// Notes messages that were received; returns whether all are there.
fn took(
    content: &Content,
    share: Share,
    messages: &[weir_server::rocketmq::proto::Message],
    receipts: &Mutex<Receipts>,
    wanted: usize,
) -> Result<bool> {
    let mut receipts = receipts.lock().unwrap_or_else(PoisonError::into_inner);
    for message in messages {
        let number = content.number(message)?;
        ensure!(content.wanted(share, number), "message {number} does not match, and was delivered");
        if !receipts.seen.insert(number) {
            receipts.again += 1;
        }
    }
    if receipts.seen.len() == wanted && receipts.complete.is_none() {
        receipts.complete = Some(Instant::now());
    }
    Ok(receipts.complete.is_some())
}
