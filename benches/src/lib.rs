//! What the benchmark programs share: messages to store, percentiles, and how figures are printed.

mod child;
mod client;
mod process;
mod retained;
mod rocketmq;
mod tree;
mod weir;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_columns::Value;
use weir_engine::BrokerOptions;
use weir_storage::Message;

pub use child::{busy_time, cpu_time, pin};
pub use client::{Client, Consumer, Sent, resource};
pub use process::{Calls, Memory, disk_bytes, open_files, thread_time};
pub use retained::{ensure_room, retain, retained};
pub use rocketmq::{Flush, RocketMq};
pub use tree::{Decoded, Tree, decode};
pub use weir::Weir;

/// As in the `weir` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes messages with the eight properties of the consume queue's cost model.
///
/// `region` has 8 distinct values, `tag` 100, `cust` 10,000, `price` 10,000 numbers, `level` 10 numbers,
/// `source` and `target` 50 each, `wait` one.
#[derive(Debug)]
pub struct Messages {
    random: StdRng,
    body: Bytes,
}

const REGIONS: [&str; 8] = ["EU", "US", "APAC", "LATAM", "MEA", "UK", "JP", "CN"];

impl Messages {
    /// Returns a source of messages with bodies of `body_bytes`, the same ones for the same seed.
    pub fn new(seed: u64, body_bytes: usize) -> Self {
        Self { random: StdRng::seed_from_u64(seed), body: vec![b'x'; body_bytes].into() }
    }

    /// Returns the next message with all properties.
    pub fn next_message(&mut self) -> Message {
        let tag = self.random.random_range(0..100_u32);
        let letter = char::from(b'a' + (tag % 26) as u8);
        let properties = vec![
            text("region", REGIONS[self.random.random_range(0..REGIONS.len())]),
            text("tag", &format!("{letter}tag{tag}")),
            text("cust", &format!("c{}", self.random.random_range(0..10_000))),
            text("price", &format!("{:.2}", f64::from(self.random.random_range(0..10_000)) / 100.0)),
            text("level", &self.random.random_range(0..10).to_string()),
            text("source", &format!("host-{}", self.random.random_range(0..50))),
            text("target", &format!("host-{}", self.random.random_range(0..50))),
            text("wait", "true"),
        ];
        Message { properties, ..self.next_plain() }
    }

    /// Returns the next message, with a body and an id but no properties.
    pub fn next_plain(&mut self) -> Message {
        Message {
            message_id: format!("{:032X}", self.random.random::<u128>()),
            body: self.body.clone(),
            ..Message::default()
        }
    }
}

/// Returns the options of a broker that keeps everything in `data_dir`, however full the disk is.
pub fn options(data_dir: impl AsRef<Path>) -> BrokerOptions {
    BrokerOptions { retention_disk_percent: 100, ..BrokerOptions::new(data_dir) }
}

fn text(name: &str, value: &str) -> (String, Value) {
    (name.to_owned(), Value::Text(value.to_owned()))
}

/// Latencies with three significant digits, up to a minute.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self(histogram.unwrap_or_else(|error| panic!("the bounds are constant and valid: {error}")))
    }
}

impl Latencies {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds.max(1));
    }

    /// Adds all latencies of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// Returns how many latencies were counted.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether none was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the latency below which `percent` of all lie.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(percent / 100.0))
    }

    /// Returns p50, p99, p99.6 and p99.9 in milliseconds as one cell each.
    pub fn cells(&self) -> [String; 4] {
        [50.0, 99.0, 99.6, 99.9].map(|percent| format!("{:.3}", self.percentile(percent).as_secs_f64() * 1e3))
    }
}

/// Returns the median of `values`.
///
/// # Panics
///
/// If there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the seconds that `work` took, with what it returned.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64(), result)
}

/// Returns least, median and most of `values` as one cell each.
pub fn spread(values: &[f64], digits: usize) -> [String; 3] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [least, median(values.to_vec()), most].map(|value| format!("{value:.digits$}"))
}

/// Prints a row of a Markdown table.
pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Prints the head of a Markdown table.
pub fn head(cells: &[&str]) {
    println!("| {} |", cells.join(" | "));
    println!("|{}", " --- |".repeat(cells.len()));
}

/// Returns a new directory for data, on the disk of `$WEIR_BENCH_DIR` or the temporary directory.
///
/// # Errors
///
/// If it cannot be made.
pub fn data_dir(name: &str) -> std::io::Result<tempfile::TempDir> {
    let parent = std::env::var_os("WEIR_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix(&format!("weir-bench-{name}-")).tempdir_in(parent)
}

/// Returns the Python that has the packages of the rivals: `$WEIR_BENCH_PYTHON` or `python3`.
pub fn python() -> String {
    std::env::var("WEIR_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}
