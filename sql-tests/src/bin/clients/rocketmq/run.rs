//! Runs the program of one client, and reads what it reports.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use weir_sql_tests::toolchain::{Program, Running};

use super::Client;
use crate::broker;

/// How long a program may run. The programs end by themselves after a minute.
const PROGRAM_MAX: Duration = Duration::from_secs(120);

/// How long something that clients or the broker do by themselves may take.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A client and the broker that it works against.
#[derive(Clone, Debug)]
pub(super) struct Run<'a> {
    pub(super) client: &'static Client,
    pub(super) program: Program,
    pub(super) weir: &'a Path,
    pub(super) endpoint: &'a str,
    /// The home directory of the program, where it writes its log.
    pub(super) home: &'a Path,
    /// Push consumers that have reported and are being closed, which takes as long as a long poll.
    pub(super) closing: &'a Mutex<Vec<Running>>,
}

/// What a producer reports.
#[derive(Debug, Deserialize)]
pub(super) struct Published {
    pub(super) published: usize,
    /// How many messages were recalled, of an action that recalls.
    #[serde(default)]
    pub(super) recalled: usize,
    errors: usize,
    error: String,
}

/// What a consumer reports.
#[derive(Debug, Deserialize)]
pub(super) struct Consumed {
    /// The numbers of the messages that it acknowledged, in order.
    pub(super) values: Vec<usize>,
    /// The numbers of those that it gave back, in order.
    pub(super) failed: Vec<usize>,
    wrong: usize,
    errors: usize,
    error: String,
}

impl Run<'_> {
    /// Returns a name for a topic or a group of this client.
    pub(super) fn named(&self, what: &str) -> String {
        format!("{what}-{}", self.client.name)
    }

    /// Whether the client has a push consumer.
    pub(super) fn has_push(&self) -> bool {
        super::Feature::Push.known(self.client.name).is_none()
    }

    pub(super) fn version(&self) -> Result<String> {
        let report = self.act(&["version"])?;
        let version = report["version"].as_str().with_context(|| format!("the client says {report}"))?;
        Ok(version.to_owned())
    }

    /// Publishes to a topic, in which no call may fail.
    pub(super) fn publish(&self, topic: &str, count: usize, more: &[&str]) -> Result<()> {
        let report = self.publish_through_crashes(topic, count, more)?;
        ensure!(report.errors == 0, "{} calls failed, one with {}", report.errors, report.error);
        Ok(())
    }

    /// Publishes to a topic; the program repeats calls that fail.
    pub(super) fn publish_through_crashes(
        &self,
        topic: &str,
        count: usize,
        more: &[&str],
    ) -> Result<Published> {
        self.produce("publish", topic, count, more)
    }

    /// Sends messages to a topic that nobody is to see at once, in which no call may fail.
    pub(super) fn send_pending(&self, topic: &str, count: usize) -> Result<Published> {
        let report = self.produce("pending", topic, count, &[])?;
        ensure!(report.errors == 0, "{} calls failed, one with {}", report.errors, report.error);
        Ok(report)
    }

    fn produce(&self, action: &str, topic: &str, count: usize, more: &[&str]) -> Result<Published> {
        let number = count.to_string();
        let words = [action, "--endpoint", self.endpoint, "--topic", topic, "--count", &number];
        let report: Published = serde_json::from_value(self.act(&[&words, more].concat())?)
            .context("the producer reports something else")?;
        ensure!(report.published == count, "{} of {count} messages were published", report.published);
        Ok(report)
    }

    /// Consumes from a topic with `receive` or `push`, or from its lite topics, in which no call may fail. `more` names the filter and when it
    /// is enough.
    pub(super) fn consume(&self, action: &str, topic: &str, group: &str, more: &[&str]) -> Result<Consumed> {
        let report = self.consume_through_crashes(action, topic, group, more)?;
        ensure!(report.errors == 0, "{} calls failed, one with {}", report.errors, report.error);
        Ok(report)
    }

    /// Consumes from a topic; the program repeats calls that fail.
    pub(super) fn consume_through_crashes(
        &self,
        action: &str,
        topic: &str,
        group: &str,
        more: &[&str],
    ) -> Result<Consumed> {
        let words = [action, "--endpoint", self.endpoint, "--topic", topic, "--group", group];
        let report: Consumed = serde_json::from_value(self.act(&[&words, more].concat())?)
            .context("the consumer reports something else")?;
        ensure!(report.wrong == 0, "{} messages came out other than they went in", report.wrong);
        Ok(report)
    }

    fn act(&self, words: &[&str]) -> Result<Value> {
        let running = self.program.start(words, self.home, PROGRAM_MAX);
        let report = running.report();
        if report.is_ok() && words.first().is_some_and(|action| action.ends_with("push")) {
            self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        } else {
            running.end()?;
        }
        report
    }

    /// Waits until all push consumers are closed.
    pub(super) fn close(&self) -> Result<()> {
        let closing = std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        closing.into_iter().try_for_each(|running| running.end().context("while it closes"))
    }

    /// Runs a command of the binary.
    pub(super) fn weir(&self, words: &[&str]) -> Result<()> {
        broker::run(self.weir, self.endpoint, words).map(drop)
    }

    /// Runs a command of the binary, and returns its answer.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        broker::ask(self.weir, self.endpoint, words)
    }

    /// Runs a command of the binary until its answer is as wanted. What it asks for may not exist at first.
    pub(super) fn wait_for(&self, words: &[&str], holds: impl Fn(&Value) -> bool) -> Result<()> {
        let start = Instant::now();
        while !self.ask(words).is_ok_and(|answer| holds(&answer)) {
            ensure!(start.elapsed() < WAIT_MAX, "weir {words:?} did not come to answer what was expected");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Returns how often each message is stored in a topic, by its number.
    pub(super) fn stored(&self, topic: &str) -> Result<BTreeMap<usize, usize>> {
        self.stored_where(topic, "TRUE")
    }

    /// Returns how often each message for which a condition is true is stored in a topic, by its number.
    pub(super) fn stored_where(&self, topic: &str, condition: &str) -> Result<BTreeMap<usize, usize>> {
        let query = format!("SELECT n, count(*) AS times FROM \"{topic}\" WHERE {condition} GROUP BY n");
        let rows = self.ask(&["query", &query])?;
        let number = |row: &Value, name: &str| {
            row[name].as_u64().and_then(|number| usize::try_from(number).ok()).context("not a number")
        };
        let Value::Array(rows) = &rows else { bail!("the query answers {rows}") };
        rows.iter().map(|row| Ok((number(row, "n")?, number(row, "times")?))).collect()
    }
}

impl Consumed {
    /// Checks that exactly these were acknowledged, each once.
    pub(super) fn exactly(&self, expected: impl IntoIterator<Item = usize>) -> Result<()> {
        compare(&self.times(), &expected.into_iter().map(|n| (n, 1)).collect())
    }

    /// Returns how often each was acknowledged.
    pub(super) fn times(&self) -> BTreeMap<usize, usize> {
        times(&self.values)
    }
}

/// Returns how often each number is there.
pub(super) fn times(numbers: &[usize]) -> BTreeMap<usize, usize> {
    let mut times = BTreeMap::new();
    for n in numbers {
        *times.entry(*n).or_default() += 1;
    }
    times
}

/// Checks that each number came as often as it should.
pub(super) fn compare(came: &BTreeMap<usize, usize>, expected: &BTreeMap<usize, usize>) -> Result<()> {
    let times = |map: &BTreeMap<usize, usize>, n| map.get(&n).copied().unwrap_or_default();
    let mut differ = Vec::new();
    for n in came.keys().chain(expected.keys().filter(|n| !came.contains_key(n))).copied() {
        let (came, expected) = (times(came, n), times(expected, n));
        if came != expected {
            differ.push(format!("{n} came {came} times, not {expected}"));
        }
    }
    ensure!(
        differ.is_empty(),
        "of {} numbers {} differ: {}",
        expected.len(),
        differ.len(),
        differ.join("; ")
    );
    Ok(())
}
