//! How does Weir compare with Apache RocketMQ behind its own protocol?
//!
//! The real binary and a real RocketMQ, broker and proxy in one JVM, each on the same one core, and one generator on
//! another core that speaks RocketMQ's gRPC to both with the same code. Only one of them is awake at a time; they are
//! measured in turns. Maven fetches RocketMQ at the first run.
//!
//! - publishing: acknowledged messages a second, and latencies at half of that, counted from when a message was due;
//! - delivery: from when a message was due to a consumer that waits for it;
//! - catch-up: until a new group has every message of a backlog that its selector wants.
//!
//! What is acknowledged must be stored, and what is received must be what was sent, or the program fails.

mod catch_up;
mod content;
mod delivery;
mod load;
mod publish;
mod side;
mod warm_up;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use side::Class;
use weir_benches::{Latencies, median, pin};

/// The begin of each measurement, which is not counted.
const LEAD: Duration = Duration::from_millis(500);
/// How long a receive waits for messages; RocketMQ's proxy lets none wait shorter.
const POLL: Duration = Duration::from_secs(5);
/// So many different prices do messages have that nobody selects.
const PRICES: u64 = 1_000_000;
const PERCENTS: [f64; 5] = [50.0, 99.0, 99.6, 99.9, 99.99];

/// What is compared, and how much of it.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Which questions are asked.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "publish,delivery,catch-up")]
    only: Vec<Question>,
    /// When messages count as stored: `ASYNC_FLUSH` and `SYNC_FLUSH` of RocketMQ. Catch-up is asked of the first alone.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "async,sync")]
    class: Vec<Class>,
    /// Turns of each measurement; the medians are printed.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of a turn that measures latencies of acknowledgements.
    #[arg(long, default_value_t = 5.0)]
    latency_seconds: f64,
    /// Messages that each broker gets before anything is measured, one a call, and as many in batches; a tenth of them
    /// is received.
    #[arg(long, default_value_t = 320_000)]
    warm_up: u64,
    /// Calls under way at once when messages are published one a call.
    #[arg(long, default_value_t = 64)]
    producers: usize,
    /// Connections of the producers.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Messages of a call, where a call has several.
    #[arg(long, default_value_t = 32)]
    batch: u64,
    /// Messages a second while delivery is measured.
    #[arg(long, default_value_t = 1_000.0)]
    delivery_rate: f64,
    /// Messages of the backlog, a multiple of 100,000.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: u64,
    /// Receives under way at once while a group catches up.
    #[arg(long, default_value_t = 4)]
    receivers: usize,
    /// Another `weir` program, in the place of RocketMQ: that of before a change, say.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Heap of RocketMQ's JVM, in MiB.
    #[arg(long, default_value_t = 3_072)]
    heap_mib: u32,
    /// The core of the brokers.
    #[arg(long, default_value_t = 0)]
    broker_core: usize,
    /// The core of the generator.
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Publish,
    Delivery,
    CatchUp,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let whole = arguments.backlog > 0 && arguments.backlog.is_multiple_of(100_000);
    ensure!(
        whole && arguments.backlog.is_multiple_of(arguments.batch),
        "the backlog is no multiple of 100,000 and a batch"
    );
    ensure!(arguments.backlog < 100_000_000, "the backlog has fewer than 100 million messages");
    ensure!(arguments.warm_up.is_multiple_of(arguments.batch), "the warm-up is no multiple of a batch");
    pin(arguments.generator_core)?;
    // One thread, so that children end with it; responses are looked for often, also while others wait for their time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(16).build()?;
    runtime.block_on(compare(&arguments))
}

async fn compare(arguments: &Arguments) -> Result<()> {
    for (number, class) in arguments.class.iter().enumerate() {
        let sides = side::both(arguments, *class)?;
        for side in &sides {
            side.awake(async |side| warm_up::warm_up(arguments, side).await).await?;
        }
        for question in &arguments.only {
            match question {
                Question::Publish => publish::compare(arguments, &sides, *class).await?,
                Question::Delivery => delivery::compare(arguments, &sides, *class).await?,
                Question::CatchUp if number == 0 => catch_up::compare(arguments, &sides, *class).await?,
                Question::CatchUp => {}
            }
        }
    }
    Ok(())
}

/// Returns a percentile of each turn, in milliseconds.
fn milliseconds(turns: &[Latencies], percent: f64) -> Vec<f64> {
    turns.iter().map(|latencies| latencies.percentile(percent).as_secs_f64() * 1e3).collect()
}

/// Returns the median of each of [`PERCENTS`] over the turns, in milliseconds.
fn cells(turns: &[Latencies]) -> Vec<String> {
    PERCENTS.iter().map(|percent| format!("{:.3}", median(milliseconds(turns, *percent)))).collect()
}

fn ratio(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
