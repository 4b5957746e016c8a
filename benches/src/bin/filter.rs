//! How many rows a second does one core filter on warm blocks, against evaluation row at a time? And how long does
//! it take from the text of a selector to an expression that does it?
//!
//! E1 to E5 are the expressions of the cost model; the rows lie in sealed blocks of a real data directory. Row at a
//! time is what brokers with a property string do: decode it into a map, then walk the tree of the selector.

use std::{
    hint::black_box,
    sync::{Arc, mpsc},
};

use anyhow::{Context, Result, ensure};
use arrow_buffer::BooleanBuffer;
use clap::Parser;
use weir_benches::{Messages, Tree, data_dir, decode, head, median, row, timed};
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

fn expressions() -> [(&'static str, &'static str, Tree); 5] {
    use Tree::{And, AtLeast, Between, Equal, Greater, In, Less, Or, Prefix};
    let ten = "region = 'EU' OR region = 'JP' OR tag = 'ctag2' OR cust = 'c77' OR tag LIKE 'b%' OR price > 99 OR \
               price < 0.5 OR level >= 9 OR price BETWEEN 50 AND 50.5 OR level < 0";
    [
        ("E1", "region = 'EU'", Equal("region", "EU".into())),
        ("E2", "price > 10", Greater("price", 10.0)),
        (
            "E3",
            "price BETWEEN 5 AND 10 AND region IN ('EU','US')",
            And(vec![Between("price", 5.0, 10.0), In("region", vec!["EU".into(), "US".into()])]),
        ),
        ("E4", "tag LIKE 'a%' OR level >= 3", Or(vec![Prefix("tag", "a".into()), AtLeast("level", 3.0)])),
        (
            "E5",
            ten,
            Or(vec![
                Equal("region", "EU".into()),
                Equal("region", "JP".into()),
                Equal("tag", "ctag2".into()),
                Equal("cust", "c77".into()),
                Prefix("tag", "b".into()),
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
    let block = blocks.first().context("there is a block")?;
    println!("\nFrom text to `PhysicalExpr`, µs, medians of {COMPILATIONS}\n");
    head(&["", "parsed and checked", "bound to the columns of a block", "together"]);
    for (name, text, _) in expressions() {
        let [parsed, bound] = compile(text, block)?;
        row(&[
            name.to_owned(),
            format!("{parsed:.1}"),
            format!("{bound:.1}"),
            format!("{:.1}", parsed + bound),
        ]);
    }
    drop(view);
    storage.close()?;
    Ok(())
}

/// How often each selector is compiled.
const COMPILATIONS: usize = 2_001;

/// Returns how long it takes to parse a selector and to bind it to a block, in µs.
///
/// A predicate binds itself to a block when it first judges a row of it, so binding is what the first time takes
/// longer than the second.
fn compile(text: &str, block: &Block) -> Result<[f64; 2]> {
    let rows = block.range().end.0 - block.range().start.0;
    let first_row = BooleanBuffer::collect_bool(usize::try_from(rows)?, |row| row == 0);
    let (mut parsed, mut bound) = (Vec::new(), Vec::new());
    for _ in 0..COMPILATIONS {
        let (seconds, predicate) = timed(|| -> Result<Predicate> {
            Ok(Predicate::new(&Selector::parse(black_box(text), Dialect::Sql92, &Limits::default())?))
        });
        let predicate = predicate?;
        let (first, matches) = timed(|| predicate.matches(block, Some(&first_row)));
        black_box(matches?);
        let (second, matches) = timed(|| predicate.matches(block, Some(&first_row)));
        black_box(matches?);
        parsed.push(seconds * 1e6);
        bound.push((first - second) * 1e6);
    }
    Ok([median(parsed), median(bound)])
}

/// Counts matches the way of a broker whose messages carry `name\x01value\x02…`.
fn row_at_a_time(texts: &[String], tree: &Tree) -> usize {
    texts.iter().filter(|text| tree.evaluate(&decode(text)) == Some(true)).count()
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
            ..NewTopic::default()
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
