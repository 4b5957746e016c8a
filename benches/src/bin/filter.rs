//! How many rows a second does one core filter on warm blocks, against evaluation row at a time?
//!
//! E1 to E5 are the expressions of the cost model; the rows lie in sealed blocks of a real data directory. Row at a
//! time is what brokers with a property string do: decode it into a map, then walk the tree of the selector.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, mpsc},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_benches::{Messages, data_dir, head, median, row, timed};
use weir_filter::{Dialect, Limits, Predicate, Selector};
use weir_storage::{
    Append, Block, DurabilityClass, Events, NewTopic, QueueId, QueueOffset, Storage, StorageError,
    StorageOptions, TopicId,
};

/// How much is filtered.
#[derive(Parser)]
struct Arguments {
    /// Rows in all; whole blocks of 8,192 are used.
    #[arg(long, default_value_t = 1_048_576)]
    rows: usize,
    /// Turns of each side.
    #[arg(long, default_value_t = 7)]
    turns: usize,
}

/// A selector tree as brokers that evaluate row at a time have it.
enum Tree {
    Equal(&'static str, &'static str),
    Greater(&'static str, f64),
    Less(&'static str, f64),
    AtLeast(&'static str, f64),
    Between(&'static str, f64, f64),
    In(&'static str, &'static [&'static str]),
    Prefix(&'static str, &'static str),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    /// TRUE, FALSE or unknown for one decoded message.
    fn evaluate(&self, message: &HashMap<&str, &str>) -> Option<bool> {
        let number = |name: &str| message.get(name).and_then(|text| text.parse::<f64>().ok());
        match self {
            Self::Equal(name, text) => message.get(name).map(|found| found == text),
            Self::Greater(name, limit) => number(name).map(|found| found > *limit),
            Self::Less(name, limit) => number(name).map(|found| found < *limit),
            Self::AtLeast(name, limit) => number(name).map(|found| found >= *limit),
            Self::Between(name, low, high) => number(name).map(|found| found >= *low && found <= *high),
            Self::In(name, list) => message.get(name).map(|found| list.contains(found)),
            Self::Prefix(name, prefix) => message.get(name).map(|found| found.starts_with(prefix)),
            Self::And(terms) => {
                let mut all = Some(true);
                for term in terms {
                    match term.evaluate(message) {
                        Some(false) => return Some(false),
                        None => all = None,
                        Some(true) => {}
                    }
                }
                all
            }
            Self::Or(terms) => {
                let mut any = Some(false);
                for term in terms {
                    match term.evaluate(message) {
                        Some(true) => return Some(true),
                        None => any = None,
                        Some(false) => {}
                    }
                }
                any
            }
        }
    }
}

fn expressions() -> [(&'static str, &'static str, Tree); 5] {
    use Tree::{And, AtLeast, Between, Equal, Greater, In, Less, Or, Prefix};
    let ten = "region = 'EU' OR region = 'JP' OR tag = 'ctag2' OR cust = 'c77' OR tag LIKE 'b%' OR price > 99 OR \
               price < 0.5 OR level >= 9 OR price BETWEEN 50 AND 50.5 OR level < 0";
    [
        ("E1", "region = 'EU'", Equal("region", "EU")),
        ("E2", "price > 10", Greater("price", 10.0)),
        (
            "E3",
            "price BETWEEN 5 AND 10 AND region IN ('EU','US')",
            And(vec![Between("price", 5.0, 10.0), In("region", &["EU", "US"])]),
        ),
        ("E4", "tag LIKE 'a%' OR level >= 3", Or(vec![Prefix("tag", "a"), AtLeast("level", 3.0)])),
        (
            "E5",
            ten,
            Or(vec![
                Equal("region", "EU"),
                Equal("region", "JP"),
                Equal("tag", "ctag2"),
                Equal("cust", "c77"),
                Prefix("tag", "b"),
                Greater("price", 99.0),
                Less("price", 0.5),
                AtLeast("level", 9.0),
                Between("price", 50.0, 50.5),
                Less("level", 0.0),
            ]),
        ),
    ]
}

struct Quiet;

impl Events for Quiet {
    fn visible(&self, _topic: TopicId, _queue: QueueId, _end: QueueOffset) {}
    fn failed(&self, error: &StorageError) {
        eprintln!("{error}");
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("filter")?;
    let (texts, topic) = store(directory.path(), arguments.rows)?;
    let storage = Storage::open(directory.path(), StorageOptions::default(), Arc::new(Quiet))?;
    let view = storage.view(topic, QueueId(0)).context("the topic has a queue")?;
    let mut blocks: Vec<Arc<Block>> = Vec::new();
    for segment in view.segments() {
        for number in 0..segment.blocks() {
            blocks.push(segment.block(number)?);
        }
    }
    blocks.retain(|block| block.range().end.0 - block.range().start.0 == 8_192);
    let rows = blocks.len() * 8_192;
    ensure!(rows > 0, "there is no full block");
    println!("{} sealed blocks of 8,192 rows, one thread\n", blocks.len());
    head(&["", "selector", "matches", "rows/s", "ns/row", "row at a time, ns/row", "ratio"]);
    for (name, text, tree) in expressions() {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default())?;
        let predicate = Predicate::new(&selector);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut matches = 0;
        for turn in 0..=arguments.turns {
            let (seconds, found) = timed(|| -> Result<usize> {
                let mut found = 0;
                for block in &blocks {
                    found += black_box(predicate.evaluate(block.as_ref(), None)?).matches.count_set_bits();
                }
                Ok(found)
            });
            matches = found?;
            let (rival_seconds, rival) = timed(|| row_at_a_time(&texts[..rows.min(200_000)], &tree));
            if turn == 0 {
                // The first turn verifies checksums and binds; and both sides must agree on its rows.
                let all = row_at_a_time(&texts[..rows], &tree);
                ensure!(all == matches, "{name}: {matches} by column, {all} row at a time");
                continue;
            }
            black_box(rival);
            ours.push(seconds / rows as f64 * 1e9);
            theirs.push(rival_seconds / rows.min(200_000) as f64 * 1e9);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        row(&[
            name.to_owned(),
            format!("`{text}`"),
            matches.to_string(),
            format!("{:.0} million", 1e3 / ours),
            format!("{ours:.2}"),
            format!("{theirs:.0}"),
            format!("{:.0}", theirs / ours),
        ]);
    }
    drop(view);
    storage.close()?;
    Ok(())
}

/// Counts matches the way of a broker whose messages carry `name\x01value\x02…`.
fn row_at_a_time(texts: &[String], tree: &Tree) -> usize {
    let decode = |text: &str| -> Option<bool> {
        let message: HashMap<&str, &str> =
            text.split('\u{2}').filter_map(|property| property.split_once('\u{1}')).collect();
        tree.evaluate(&message)
    };
    texts.iter().filter(|text| decode(text) == Some(true)).count()
}

/// Stores messages in one queue, stops cleanly so that they lie in sealed blocks, and returns their properties.
fn store(data: &std::path::Path, rows: usize) -> Result<(Vec<String>, TopicId)> {
    let storage = Storage::open(data, StorageOptions::default(), Arc::new(Quiet))?;
    let topic = storage
        .create_topic(NewTopic {
            namespace: String::new(),
            name: "bench".to_owned(),
            queues: 1,
            class: DurabilityClass::Async,
            attributes: String::new(),
        })?
        .id;
    let mut messages = Messages::new(1, 16);
    let mut texts = Vec::with_capacity(rows);
    for _ in 0..rows.div_ceil(1_024) {
        let mut batch = Vec::new();
        for _ in 0..1_024 {
            let message = messages.next_message();
            let text: Vec<String> = message
                .properties
                .iter()
                .map(|(name, value)| format!("{name}\u{1}{}", value.to_text()))
                .collect();
            texts.push(text.join("\u{2}"));
            batch.push(Append { topic, queue: QueueId(0), message });
        }
        let (sender, receiver) = mpsc::channel();
        storage.append(
            batch,
            Box::new(move |result| {
                drop(sender.send(result.map(drop)));
            }),
        );
        receiver.recv()??;
    }
    storage.close()?;
    Ok((texts, topic))
}
