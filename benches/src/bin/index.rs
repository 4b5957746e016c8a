//! What does it cost to judge one live queue for many subscriptions at once?
//!
//! The index, against each selector's own predicate on the same columns and against evaluation row at a time on
//! decoded messages, all in one run; what they find must be the same. Then what a change costs.

use std::{
    collections::HashMap,
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use arrow_array::{Float64Array, Int64Array, StringArray, UInt8Array, UInt16Array};
use clap::Parser;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_benches::{Latencies, Messages, Tree, decode, head, median, row, timed};
use weir_columns::{Column, ColumnRef, Rows, Value, Values, classify};
use weir_filter::{Dialect, Index, Limits, Predicate, Selector};

/// How much is judged.
#[derive(Parser)]
struct Arguments {
    /// Numbers of subscriptions.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000,100000")]
    subscriptions: Vec<usize>,
    /// Rows of a run.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,8192")]
    runs: Vec<usize>,
    /// Rows in all.
    #[arg(long, default_value_t = 131_072)]
    rows: usize,
    /// Turns of the index; the median counts.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Subscriptions up to which each selector is also judged by its own predicate, and row at a time.
    #[arg(long, default_value_t = 10_000)]
    rivals: usize,
    /// Only tells how much memory this many subscriptions of `--workload` take.
    #[arg(long)]
    memory: Option<usize>,
    /// The workload of `--memory`.
    #[arg(long, default_value = "selective")]
    workload: String,
}

const REGIONS: [&str; 8] = ["EU", "US", "APAC", "LATAM", "MEA", "UK", "JP", "CN"];

/// A subscription as text, and as others evaluate it.
type Subscription = (String, Tree);

/// Makes the subscriptions of a workload.
type Make = fn(&mut StdRng) -> Subscription;

/// Most ask for one customer of 10,000 and match few rows.
fn selective(random: &mut StdRng) -> Subscription {
    let customer = |random: &mut StdRng| format!("c{}", random.random_range(0..10_000));
    let price = f64::from(random.random_range(0..10_000)) / 100.0;
    let region = REGIONS[random.random_range(0..8)].to_owned();
    let tag = random.random_range(0..100_u32);
    let letter = char::from(b'a' + (tag % 26) as u8).to_string();
    let level = random.random_range(0..10);
    match random.random_range(0..100) {
        0..60 => {
            let customer = customer(random);
            let text = format!("cust = '{customer}' AND price > {price}");
            (text, Tree::And(vec![Tree::Equal("cust", customer), Tree::Greater("price", price)]))
        }
        60..80 => {
            let list = vec![customer(random), customer(random), customer(random)];
            (format!("cust IN ('{}')", list.join("', '")), Tree::In("cust", list))
        }
        80..90 => {
            let tag = format!("{letter}tag{tag}");
            let text = format!("region = '{region}' AND tag = '{tag}' AND price > {price}");
            let terms =
                vec![Tree::Equal("region", region), Tree::Equal("tag", tag), Tree::Greater("price", price)];
            (text, Tree::And(terms))
        }
        90..95 => {
            let text = format!("tag LIKE '{letter}%' AND price < {price} AND level >= {level}");
            let terms = vec![
                Tree::Prefix("tag", letter),
                Tree::Less("price", price),
                Tree::AtLeast("level", f64::from(level)),
            ];
            (text, Tree::And(terms))
        }
        _ => between(random, Some(level)),
    }
}

/// Most ask for a region of eight and match many rows.
fn broad(random: &mut StdRng) -> Subscription {
    let price = f64::from(random.random_range(0..10_000)) / 100.0;
    let region = REGIONS[random.random_range(0..8)].to_owned();
    let letter = char::from(b'a' + random.random_range(0..26_u8)).to_string();
    let level = random.random_range(0..10);
    match random.random_range(0..100) {
        0..60 => {
            let text = format!("region = '{region}' AND price > {price}");
            (text, Tree::And(vec![Tree::Equal("region", region), Tree::Greater("price", price)]))
        }
        60..80 => {
            let text = format!("tag LIKE '{letter}%' OR level >= {level}");
            (text, Tree::Or(vec![Tree::Prefix("tag", letter), Tree::AtLeast("level", f64::from(level))]))
        }
        _ => between(random, None),
    }
}

fn between(random: &mut StdRng, level: Option<i32>) -> Subscription {
    let low = random.random_range(0..9_000);
    let (low, high) = (f64::from(low) / 100.0, f64::from(low + random.random_range(0..1_000)) / 100.0);
    let regions = [0, 4].map(|half| REGIONS[half + random.random_range(0..4)].to_owned());
    let mut text =
        format!("price BETWEEN {low} AND {high} AND region IN ('{}', '{}')", regions[0], regions[1]);
    let mut terms = vec![Tree::Between("price", low, high), Tree::In("region", regions.to_vec())];
    if let Some(level) = level {
        text += &format!(" AND level >= {level}");
        terms.push(Tree::AtLeast("level", f64::from(level)));
    }
    (text, Tree::And(terms))
}

/// A run whose columns have been built.
struct Built {
    rows: usize,
    columns: HashMap<&'static str, Column>,
}

impl Rows for Built {
    type Error = Infallible;

    fn len(&self) -> usize {
        self.rows
    }

    fn shape(&self) -> u64 {
        0
    }

    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, Infallible> {
        let ColumnRef::Property(name) = name else { return Ok(None) };
        Ok(self.columns.get(name).cloned())
    }

    fn value(&self, _: ColumnRef<'_>, _: usize) -> Result<Option<Value>, Infallible> {
        unreachable!("columns decide everything")
    }
}

const COLUMNS: [&str; 5] = ["region", "tag", "cust", "price", "level"];

impl Built {
    /// Makes the values of each column distinct, as the consume queue does.
    fn new(texts: &[String]) -> Self {
        let mut codes: Vec<Vec<u16>> = COLUMNS.map(|_| Vec::with_capacity(texts.len())).into();
        let mut distinct: Vec<HashMap<&str, u16>> = COLUMNS.map(|_| HashMap::default()).into();
        let mut values: Vec<Vec<&str>> = COLUMNS.map(|_| Vec::new()).into();
        for text in texts {
            for property in text.split('\u{2}') {
                let Some((name, value)) = property.split_once('\u{1}') else { continue };
                let Some(column) = COLUMNS.iter().position(|column| *column == name) else { continue };
                let code = *distinct[column].entry(value).or_insert_with(|| {
                    values[column].push(value);
                    (values[column].len() - 1) as u16
                });
                codes[column].push(code);
            }
        }
        let columns = COLUMNS.into_iter().zip(codes).zip(values).map(|((name, codes), values)| {
            let facts: Vec<_> = values.iter().map(|value| classify(value)).collect();
            let ints = facts.iter().any(|facts| facts.1.is_some());
            let floats = facts.iter().any(|facts| facts.2.is_some());
            let values = Values {
                kinds: UInt8Array::from_iter_values(facts.iter().map(|facts| facts.0 as u8)),
                ints: ints.then(|| Int64Array::from_iter(facts.iter().map(|facts| facts.1))),
                floats: floats.then(|| Float64Array::from_iter(facts.iter().map(|facts| facts.2))),
                text: StringArray::from_iter_values(values),
            };
            (name, Column::Dictionary { codes: UInt16Array::from(codes), values: Arc::new(values) })
        });
        Self { rows: texts.len(), columns: columns.collect() }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let workloads: [(&str, Make); 2] = [("selective", selective), ("broad", broad)];
    if let Some(count) = arguments.memory {
        let workload = workloads.iter().find(|(name, _)| *name == arguments.workload);
        let (_, make) = workload.context("the workloads are selective and broad")?;
        println!("{:.0}", memory(*make, count)? / count as f64);
        return Ok(());
    }
    let mut messages = Messages::new(1, 0);
    let texts: Vec<String> = (0..arguments.rows)
        .map(|_| {
            let properties = messages.next_message().properties;
            let text: Vec<String> =
                properties.iter().map(|(name, value)| format!("{name}\u{1}{}", value.to_text())).collect();
            text.join("\u{2}")
        })
        .collect();
    println!("One thread; nanoseconds on the core.\n");
    head(&[
        "workload",
        "subscriptions",
        "rows a run",
        "matches a row",
        "index ns/row",
        "rows/s",
        "with building ns/row",
        "each predicate ns/row",
        "row at a time ns/row",
    ]);
    for (name, make) in workloads {
        for count in &arguments.subscriptions {
            let mut random = StdRng::seed_from_u64(7);
            let made: Vec<Subscription> = (0..*count).map(|_| make(&mut random)).collect();
            compare(&arguments, name, &made, &texts)?;
        }
    }
    println!();
    head(&[
        "workload",
        "subscriptions",
        "bytes each",
        "change",
        "p50 µs",
        "p99 µs",
        "max µs",
        "run alone ms",
        "slowest run beside changes ms",
    ]);
    for (name, make) in workloads {
        for count in &arguments.subscriptions {
            changes(name, make, *count, &texts)?;
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Selector> {
    Ok(Selector::parse(text, Dialect::Sql92, &Limits::default())?)
}

/// Judges runs and counts matches.
fn count(index: &mut Index<usize>, run: &Built) -> Result<usize> {
    let mut found = 0;
    index.evaluate(run, |_, matches| found += matches.count())?;
    Ok(found)
}

fn compare(arguments: &Arguments, name: &str, made: &[Subscription], texts: &[String]) -> Result<()> {
    let selectors = made.iter().map(|(text, _)| parse(text)).collect::<Result<Vec<_>>>()?;
    let mut index = Index::new();
    for (key, selector) in selectors.iter().enumerate() {
        index.insert(key, selector);
    }
    let has_rivals = made.len() <= arguments.rivals;
    let predicates: Vec<Predicate> =
        if has_rivals { selectors.iter().map(Predicate::new).collect() } else { Vec::new() };
    // A row costs 100 ns or so at a time, and a predicate 5 ns or more.
    let sample = (10_000_000 / made.len()).clamp(256, 65_536).min(texts.len());
    let (trees_seconds, by_trees) = on_cpu(|| {
        let decoded: Vec<_> = texts[..sample].iter().map(|text| decode(text)).collect();
        let matches =
            |tree: &Tree| decoded.iter().filter(|message| tree.evaluate(message) == Some(true)).count();
        if has_rivals { made.iter().map(|(_, tree)| matches(tree)).sum::<usize>() } else { 0 }
    });
    for rows in &arguments.runs {
        let runs: Vec<Built> = texts.chunks_exact(*rows).map(Built::new).collect();
        // Anchors are chosen anew, a few with each run.
        for run in runs.iter().take(made.len() / 256 + 4) {
            black_box(count(&mut index, run)?);
        }
        let few = &runs[..runs.len().min((200_000_000 / made.len() / rows).max(4))];
        let found: usize = few.iter().map(|run| count(&mut index, run)).sum::<Result<usize>>()?;
        let mut turns = Vec::new();
        for _ in 0..arguments.turns {
            turns.push(seconds_a_row(few.len() * rows, || {
                few.iter().try_for_each(|run| count(&mut index, run).map(|found| _ = black_box(found)))
            })?);
        }
        let building = seconds_a_row(few.len() * rows, || {
            let chunks = texts.chunks_exact(*rows).take(few.len());
            let built: usize =
                chunks.map(|chunk| count(&mut index, &Built::new(chunk))).sum::<Result<usize>>()?;
            ensure!(built == found, "{name}: building changes what is found");
            Ok(())
        })?;
        let naive = has_rivals.then(|| -> Result<f64> {
            let some = &few[..few.len().min((2_000_000_000 / made.len() / 5 / rows).max(1)).min(few.len())];
            let by_index: usize = some.iter().map(|run| count(&mut index, run)).sum::<Result<usize>>()?;
            // The first time binds.
            predicates.iter().try_for_each(|predicate| predicate.evaluate(&some[0], None).map(drop))?;
            let mut by_predicates = 0;
            let seconds = seconds_a_row(some.len() * rows, || {
                by_predicates = 0;
                for run in some {
                    for predicate in &predicates {
                        by_predicates += predicate.evaluate(run, None)?.matches.count_set_bits();
                    }
                }
                Ok(())
            })?;
            ensure!(by_predicates == by_index, "{name}: predicates find something else");
            Ok(seconds)
        });
        let ns = |seconds: f64| format!("{:.0}", seconds * 1e9);
        let median = median(turns);
        row(&[
            name.to_owned(),
            made.len().to_string(),
            rows.to_string(),
            format!("{:.2}", found as f64 / (few.len() * rows) as f64),
            ns(median),
            format!("{:.0}", 1.0 / median),
            ns(building),
            naive.transpose()?.map_or_else(String::new, ns),
            if has_rivals { ns(trees_seconds / sample as f64) } else { String::new() },
        ]);
    }
    if has_rivals {
        let mut by_index = 0;
        for chunk in texts[..sample].chunks(1_024) {
            by_index += count(&mut index, &Built::new(chunk))?;
        }
        ensure!(by_index == by_trees, "{name}: {by_index} by the index, {by_trees} row at a time");
    }
    Ok(())
}

/// What it costs to put selectors in and to take them out, while runs are judged.
fn changes(name: &str, make: Make, count_of: usize, texts: &[String]) -> Result<()> {
    let mut random = StdRng::seed_from_u64(9);
    let selectors: Vec<Selector> =
        (0..count_of).map(|_| parse(&make(&mut random).0)).collect::<Result<Vec<_>>>()?;
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--workload", name, "--memory", &count_of.to_string()])
        .output()?;
    let bytes = String::from_utf8(output.stdout)?.trim().to_owned();
    let run = Built::new(&texts[..256]);
    let mut alone = f64::MAX;
    // The same changes several times, each counted as its shortest: what remains is their own work.
    let mut changes = Vec::new();
    let mut slowest = vec![f64::MAX; CHANGES / CHANGES_A_RUN];
    for _ in 0..CHANGES {
        changes.push((parse(&make(&mut random).0)?, [Duration::MAX; 2]));
    }
    for _ in 0..3 {
        let mut index = Index::new();
        for (key, selector) in selectors.iter().enumerate() {
            index.insert(key, selector);
        }
        for _ in 0..count_of / 256 + 4 {
            count(&mut index, &run)?;
        }
        alone = alone.min(timed(|| count(&mut index, &run)).0);
        for (key, (selector, [insert, remove])) in changes.iter_mut().enumerate() {
            let start = Instant::now();
            index.insert(count_of + key, selector);
            *insert = start.elapsed().min(*insert);
            let start = Instant::now();
            index.remove(&key);
            *remove = start.elapsed().min(*remove);
            if key % CHANGES_A_RUN == 0 {
                let slowest = &mut slowest[key / CHANGES_A_RUN];
                *slowest = timed(|| count(&mut index, &run)).0.min(*slowest);
            }
        }
    }
    for (number, change) in ["insert", "remove"].into_iter().enumerate() {
        let mut latencies = Latencies::default();
        changes.iter().for_each(|(_, durations)| latencies.record(durations[number]));
        let us = |percent| format!("{:.1}", latencies.percentile(percent).as_secs_f64() * 1e6);
        row(&[
            name.to_owned(),
            count_of.to_string(),
            bytes.clone(),
            change.to_owned(),
            us(50.0),
            us(99.0),
            us(100.0),
            format!("{:.2}", alone * 1e3),
            format!("{:.2}", slowest.iter().copied().fold(0.0, f64::max) * 1e3),
        ]);
    }
    Ok(())
}

/// Changes that are measured.
const CHANGES: usize = 20_000;

/// After so many changes a run is judged.
const CHANGES_A_RUN: usize = 500;

/// Returns the seconds a row that `work` takes, which it does as often as needed to be measured.
fn seconds_a_row(rows: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (mut seconds, mut times) = (0.0, 0);
    while seconds < 0.1 {
        let (more, result) = on_cpu(&mut work);
        result?;
        (seconds, times) = (seconds + more, times + 1);
    }
    Ok(seconds / (rows * times) as f64)
}

/// Returns the seconds that `work` had a core, since the machine is shared, with what it returned.
fn on_cpu<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        text.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let start = spent();
    let result = work();
    ((spent() - start) as f64 / 1e9, result)
}

/// Bytes that an index of so many subscriptions takes, without the selectors themselves.
fn memory(make: Make, count: usize) -> Result<f64> {
    let mut random = StdRng::seed_from_u64(9);
    let selectors = (0..count).map(|_| parse(&make(&mut random).0)).collect::<Result<Vec<_>>>()?;
    let before = resident();
    let mut index = Index::new();
    selectors.iter().enumerate().for_each(|(key, selector)| index.insert(key, selector));
    let bytes = resident().saturating_sub(before);
    black_box(&index);
    Ok(bytes as f64)
}

/// Bytes of memory that the process holds, as the kernel counts.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * 4_096
}
