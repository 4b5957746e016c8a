//! The two brokers: started alike, and at rest while the other one is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tempfile::TempDir;
use weir_benches::{Flush, RocketMq, Weir, busy_time, cpu_time, data_dir};

use crate::Arguments;

/// Queues of each topic.
const QUEUES: u32 = 4;
/// How long a broker rests before and after it is measured: what it wrote is on the disk then.
const REST: Duration = Duration::from_millis(1_200);

/// When a message counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    Async,
    Sync,
}

impl Class {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Sync => "sync",
        }
    }
}

/// A running broker with topics of one class, and its data. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Side {
    name: &'static str,
    broker: Broker,
    class: Class,
    /// After the broker, so that it is dropped later.
    _data: TempDir,
}

#[derive(Debug)]
enum Broker {
    Weir(Weir),
    RocketMq(RocketMq),
}

/// Starts both, Weir first; both rest.
pub(crate) fn both(arguments: &Arguments, class: Class) -> Result<[Side; 2]> {
    let data = data_dir("weir")?;
    let weir = Weir::start_on(arguments.broker_core, data.path())?;
    let weir = Side { name: "Weir", broker: Broker::Weir(weir), class, _data: data };
    weir.pause()?;
    let other = match &arguments.beside {
        Some(program) => {
            let data = data_dir("weir")?;
            let weir = Weir::start_other_on(arguments.broker_core, program, data.path())?;
            Side { name: "the other Weir", broker: Broker::Weir(weir), class, _data: data }
        }
        None => rocketmq(arguments, class)?,
    };
    other.pause()?;
    Ok([weir, other])
}

fn rocketmq(arguments: &Arguments, class: Class) -> Result<Side> {
    let data = data_dir("rocketmq")?;
    let flush = match class {
        Class::Async => Flush::Async,
        Class::Sync => Flush::Sync,
    };
    let rocketmq = RocketMq::start_on(arguments.broker_core, data.path(), flush, arguments.heap_mib)?;
    eprintln!("RocketMQ {} is ready", rocketmq.version()?);
    Ok(Side { name: "RocketMQ", broker: Broker::RocketMq(rocketmq), class, _data: data })
}

impl Side {
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn uri(&self) -> String {
        match &self.broker {
            Broker::Weir(weir) => weir.http_uri(),
            Broker::RocketMq(rocketmq) => rocketmq.http_uri(),
        }
    }

    /// Makes a topic, while the broker is awake.
    pub(crate) fn create_topic(&self, topic: &str) -> Result<()> {
        match &self.broker {
            Broker::Weir(weir) => {
                let queues = QUEUES.to_string();
                let words = ["topic", "create", topic, "--queues", &queues, "--class", self.class.name()];
                weir.run(&words).map(drop)
            }
            Broker::RocketMq(rocketmq) => rocketmq.create_topic(topic, QUEUES),
        }
    }

    /// Makes consumer groups, while the broker is awake. Weir makes those that a consumer names.
    pub(crate) fn create_groups(&self, groups: &[String]) -> Result<()> {
        match &self.broker {
            Broker::Weir(_) => Ok(()),
            Broker::RocketMq(rocketmq) => rocketmq.create_groups(groups),
        }
    }

    /// Makes sure that the topic holds what was acknowledged, and nothing but that and what was refused: of that
    /// nobody knows.
    pub(crate) fn ensure_stored(&self, topic: &str, acknowledged: u64, refused: u64) -> Result<()> {
        let stored = match &self.broker {
            Broker::Weir(weir) => {
                let described = weir.run(&["topic", "describe", topic])?;
                let queues = described["queues"].as_array().context("a topic has queues")?;
                let held =
                    |queue: &serde_json::Value| Some(queue["end"].as_u64()? - queue["first"].as_u64()?);
                queues.iter().map(held).sum::<Option<u64>>().context("a queue has an end")?
            }
            Broker::RocketMq(rocketmq) => rocketmq.stored(topic)?,
        };
        let name = self.name();
        ensure!(
            (acknowledged..=acknowledged + refused).contains(&stored),
            "{name} acknowledged {acknowledged} messages and refused {refused}, but {stored} are stored"
        );
        eprintln!("{name}: {acknowledged} acknowledged, {refused} refused, {stored} stored in {topic}");
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        match &self.broker {
            Broker::Weir(weir) => weir.pause(),
            Broker::RocketMq(rocketmq) => rocketmq.pause(),
        }
    }

    fn resume(&self) -> Result<()> {
        match &self.broker {
            Broker::Weir(weir) => weir.resume(),
            Broker::RocketMq(rocketmq) => rocketmq.resume(),
        }
    }

    /// Wakes the broker for `work`, and lets it rest afterwards.
    pub(crate) async fn awake<T>(&self, work: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        self.resume()?;
        tokio::time::sleep(REST).await;
        let worked = work(self).await.with_context(|| format!("{}, {}", self.name(), self.class.name()));
        tokio::time::sleep(REST).await;
        self.pause()?;
        worked
    }

    /// Begins to count for how much of the time broker, generator and everybody else have a core.
    pub(crate) fn busy(&self) -> Result<Busy> {
        let broker = match &self.broker {
            Broker::Weir(weir) => weir.id(),
            Broker::RocketMq(rocketmq) => rocketmq.id(),
        };
        let processes = [broker, std::process::id()];
        Ok(Busy { processes, before: times(processes)?, start: Instant::now() })
    }
}

/// Times on a core at a moment.
#[derive(Debug)]
pub(crate) struct Busy {
    processes: [u32; 2],
    before: [Duration; 3],
    start: Instant,
}

/// Shares of a core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    pub(crate) broker: f64,
    pub(crate) generator: f64,
    /// All other programs of the machine, and the system.
    pub(crate) others: f64,
}

impl Busy {
    /// Returns who had how much since then.
    pub(crate) fn shares(&self) -> Result<Shares> {
        let elapsed = self.start.elapsed().as_secs_f64();
        let now = times(self.processes)?;
        let [broker, generator, all] =
            [0, 1, 2].map(|of: usize| now[of].saturating_sub(self.before[of]).as_secs_f64() / elapsed);
        Ok(Shares { broker, generator, others: (all - broker - generator).max(0.0) })
    }
}

/// Returns how long two processes and all of the machine have had a core.
fn times([first, second]: [u32; 2]) -> Result<[Duration; 3]> {
    Ok([cpu_time(first)?, cpu_time(second)?, busy_time()?])
}
