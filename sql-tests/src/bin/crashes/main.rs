//! Kills the real binary with SIGKILL at random moments under the load of the official client, starts it again on
//! the same directory, and checks every message and acknowledgement that was confirmed, through the log.
//!
//! Neither class may lose anything by this: what was written is in the page cache, which survives the process.
//! The clients are not restarted; they find the broker again at the same address, as they would in production.

mod broker;
#[path = "../../../clients/rust/src/content.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file belongs to the load program, a workspace of its own")]
mod content;
mod ledger;
mod load;
mod log;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use weir_server::flight::client::{Client, ConnectOptions};
use weir_sql_tests::toolchain;

use broker::{Binary, Weir};
use content::Random;
use ledger::Ledger;
use load::{Load, Task};
use log::{Extent, check};

const GROUP: &str = "readers";
/// How long a broker serves before it is killed, at most.
const SERVING_MS_MAX: u64 = 2000;
/// So many of the kills come before the first start has ended, on a directory that is being made.
const FIRST_KILLS: u32 = 3;
/// How long a broker may stop in good order before it is killed: about as long as that takes.
const STOPPING_US_MAX: u64 = 30_000;
/// All rows are read so often, beside the end: they become many.
const WHOLE_CHECKS: u32 = 20;
/// How long consumers may take to get everything that is left, once nothing is published any more.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// Longer than a lease: if nothing comes for so long, nothing will.
const QUIET: Duration = Duration::from_secs(4);

/// Kills a broker at random moments under load, and checks that it keeps all that was confirmed.
#[derive(Parser)]
struct Options {
    /// The binary to kill.
    #[arg(long)]
    weir: PathBuf,
    /// How often.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Makes the same choices as an earlier run. Moments differ all the same: a machine is never twice as fast.
    #[arg(long)]
    seed: Option<u64>,
}

/// A run, up to now.
struct Run {
    seed: u64,
    address: String,
    random: Random,
    ledger: Ledger,
    kills: u32,
    /// Kills up to the last look at which all was right.
    passed: u32,
    /// Kills after which all rows are read next.
    whole_at: u32,
    whole_every: u32,
    starting: u32,
    stopping: u32,
    slowest_start: Duration,
    latest_start: Duration,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64 % 1_000_000_007
    });
    println!("seed {seed}, {} kills", options.kills);
    let home = match tempfile::Builder::new().prefix("weir-crashes-").tempdir() {
        Ok(home) => home,
        Err(error) => {
            eprintln!("error: cannot create a directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let mut run = None;
    let outcome = crashes(&options, seed, home.path(), &mut run);
    if let Some(run) = &run {
        run.report(start.elapsed());
    }
    let (kills, passed) = run.map_or((0, 0), |run| (run.kills, run.passed));
    match outcome {
        Ok(doubled) => {
            println!("doubled {doubled} (stored twice because a call was made again after an error)");
            println!("{passed} of {} kills passed", options.kills);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED after {kills} kills, seed {seed}: {error:#}");
            let home = home.keep();
            println!("kept {}: data, weir.toml, broker.log, events.log (what clients did)", home.display());
            println!(
                "look at it with: weir serve --config {0}/weir.toml --data {0}/data, and weir pull TOPIC",
                home.display()
            );
            println!("{passed} of {} kills passed", options.kills);
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and returns how many rows are doubles. `run` tells how far it came.
fn crashes(options: &Options, seed: u64, home: &Path, run: &mut Option<Run>) -> Result<u64> {
    let weir = options.weir.canonicalize();
    let weir = weir.with_context(|| format!("cannot find {}", options.weir.display()))?;
    let program = toolchain::rust_binary("rust", "weir-client-load")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    let topics = [("sync".to_owned(), 3), ("async".to_owned(), 2)];
    let address = format!("127.0.0.1:{}", free_port(seed)?);
    let binary = Binary::new(&weir, home, address.clone())?;
    let run = run.insert(Run {
        seed,
        address: address.clone(),
        random: Random::new(seed, 1 << 53),
        ledger: Ledger::new(seed, &topics),
        kills: 0,
        passed: 0,
        whole_at: 0,
        whole_every: (options.kills / WHOLE_CHECKS).max(10),
        starting: 0,
        stopping: 0,
        slowest_start: Duration::ZERO,
        latest_start: Duration::from_millis(40),
    });
    let mut weir = binary.start()?;
    while run.kills < FIRST_KILLS.min(options.kills) {
        run.kill_while_starting(weir)?;
        run.kills += 1;
        weir = binary.start()?;
    }
    weir.ready()?;
    runtime.block_on(set_up(&address, &topics))?;
    let task = Task {
        address,
        group: GROUP.to_owned(),
        topics: topics.into_iter().map(|(name, _)| name).collect(),
        seed,
        pause_ms: 15,
        producers: 8,
        consumers: 4,
    };
    let mut load = Load::start(&program, home, &task)?;
    while run.kills < options.kills {
        let (next, was_killed) = run.round(&binary, weir, &mut load, &runtime)?;
        weir = next;
        if was_killed {
            run.kills += 1;
            if run.kills.is_multiple_of(50) {
                run.say_progress();
            }
        }
    }
    run.ready(&mut weir)?;
    run.look(&mut load, &runtime, Extent::All)?;
    run.drain(&mut load, &runtime)?;
    let doubled = run.ledger.close()?;
    weir.stop()?;
    Ok(doubled)
}

/// Returns a port that nobody listens at, below those from which the system takes the ports of connections: while
/// the broker is down, nothing else must get its port.
fn free_port(seed: u64) -> Result<u16> {
    let mut random = Random::new(seed, u64::from(std::process::id()));
    for _ in 0..100 {
        let port = random.within(15_000, 30_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

async fn set_up(address: &str, topics: &[(String, u32)]) -> Result<()> {
    let client = Client::connect(&format!("grpc://{address}"), &ConnectOptions::default()).await?;
    for (topic, queues) in topics {
        let topic = json!({"topic": topic, "queues": queues, "class": topic});
        client.action("CreateTopic", &topic).await?;
    }
    // Nothing goes to the dead letters, however often a kill costs a message an attempt.
    let group = json!({"group": GROUP, "max_attempts": 10_000, "lease_min_ms": 1000,
                       "retry": {"customized_ms": [100]}});
    client.action("CreateGroup", &group).await?;
    Ok(())
}

impl Run {
    /// Waits or checks for a while, kills the broker, and starts it again; returns the new one, which may still be
    /// starting, and whether a kill happened.
    fn round(
        &mut self,
        binary: &Binary,
        mut weir: Weir,
        load: &mut Load,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<(Weir, bool)> {
        let mut is_killed = true;
        match self.random.within(0, 100) {
            0..20 => self.kill_while_starting(weir)?,
            // While it stops in good order, which ends with a checkpoint.
            20..32 => {
                self.ready(&mut weir)?;
                self.sleep(100, 800);
                let delay = Duration::from_micros(self.random.within(0, STOPPING_US_MAX));
                is_killed = weir.kill_while_stopping(delay)?;
                self.stopping += u32::from(is_killed);
            }
            // While it serves, in half of the cases after a look at what the kills before have left.
            kind => {
                self.ready(&mut weir)?;
                if kind < 68 {
                    let is_whole = self.kills >= self.whole_at;
                    if is_whole {
                        self.whole_at = self.kills + self.whole_every;
                    }
                    self.look(load, runtime, if is_whole { Extent::All } else { Extent::New })?;
                }
                self.sleep(50, SERVING_MS_MAX);
                // What was seen just before a kill must still be there after it.
                if kind % 4 == 0 {
                    self.look(load, runtime, Extent::New)?;
                }
                weir.kill()?;
            }
        }
        Ok((binary.start()?, is_killed))
    }

    /// Compares the log with what clients know.
    fn look(&mut self, load: &mut Load, runtime: &tokio::runtime::Runtime, extent: Extent) -> Result<()> {
        runtime.block_on(check(&self.address, &mut self.ledger, load, extent))?;
        self.passed = self.kills;
        Ok(())
    }

    /// Kills the broker at any moment of a start that takes as long as the one before, or shortly after.
    fn kill_while_starting(&mut self, weir: Weir) -> Result<()> {
        let longest = (self.latest_start * 5 / 4).as_micros() as u64;
        thread::sleep(Duration::from_micros(self.random.within(0, longest.max(1000))));
        weir.kill()?;
        self.starting += 1;
        Ok(())
    }

    fn ready(&mut self, weir: &mut Weir) -> Result<()> {
        let took = weir.ready()?;
        self.latest_start = took;
        self.slowest_start = self.slowest_start.max(took);
        Ok(())
    }

    fn sleep(&mut self, low_ms: u64, high_ms: u64) {
        thread::sleep(Duration::from_millis(self.random.within(low_ms, high_ms)));
    }

    /// Ends publishing, waits until consumers have got everything, and looks at all of it once more.
    fn drain(&mut self, load: &mut Load, runtime: &tokio::runtime::Runtime) -> Result<()> {
        load.drain()?;
        let start = Instant::now();
        let (mut is_drained, mut latest) = (false, Instant::now());
        while !is_drained || latest.elapsed() < QUIET {
            ensure!(start.elapsed() < DRAIN_MAX, "consumers still get messages {DRAIN_MAX:?} after the last");
            let Some(event) = load.next(Duration::from_millis(200))? else { continue };
            latest = Instant::now();
            is_drained |= matches!(event, load::Event::Drained);
            self.ledger.note(event)?;
        }
        self.look(load, runtime, Extent::All)?;
        let left = self.ledger.undelivered();
        ensure!(left.is_empty(), "messages match the selector and never came, such as {left:?}");
        runtime.block_on(nothing_is_left(&self.address))
    }

    fn say_progress(&self) {
        let counts = self.ledger.counts;
        println!(
            "{} kills: {} messages acknowledged, {} deliveries, {} acknowledgements",
            self.kills, counts.acknowledged, counts.deliveries, counts.acks
        );
    }

    fn report(&self, took: Duration) {
        let counts = self.ledger.counts;
        println!(
            "seed {}: {} kills in {} s, {} of them during a start, {} during a stop; slowest start {} ms",
            self.seed,
            self.kills,
            took.as_secs(),
            self.starting,
            self.stopping,
            self.slowest_start.as_millis()
        );
        println!(
            "{} messages acknowledged, {} rows, {} deliveries, {} acknowledgements, {} calls made again",
            counts.acknowledged,
            self.ledger.rows(),
            counts.deliveries,
            counts.acks,
            counts.retries
        );
    }
}

/// The group has nothing more to do, as the broker sees it.
async fn nothing_is_left(address: &str) -> Result<()> {
    let client = Client::connect(&format!("grpc://{address}"), &ConnectOptions::default()).await?;
    let group = client.action("DescribeGroup", &json!({"group": GROUP})).await?;
    for topic in group["topics"].as_array().context("the group has topics")? {
        for queue in topic["queues"].as_array().context("a topic has queues")? {
            let is_done = queue["committed"] == queue["end"] && queue["leased"] == 0 && queue["waiting"] == 0;
            ensure!(is_done, "the group is not done with {}: {queue}", topic["topic"]);
        }
    }
    Ok(())
}
