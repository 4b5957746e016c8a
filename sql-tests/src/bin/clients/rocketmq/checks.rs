//! What is done with each client, but for what needs a broker of its own.

use std::{collections::BTreeMap, path::Path, thread};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    feature::Feature,
    lite, pending,
    run::{Run, compare, times},
};

/// Messages of the topic that is read through filters.
const MESSAGES: usize = 300;

/// FIFO messages, and into how many message groups.
const IN_LINES: usize = 60;
const LINES: usize = 7;

/// What consumers want: strings, numbers and missing values. [`matches()`] says the same in Rust.
const SELECTOR: &str = "color = 'red' AND n >= 30 AND (price IS NULL OR price < 400.5)";

/// The subscription without a filter.
const ALL: [&str; 2] = ["--tags", "*"];

/// Messages that go to a group in which some become dead letters: those whose number is a multiple.
const MORTAL: usize = 20;
const DEAD_EVERY: usize = 10;
const ATTEMPTS: usize = 3;

/// Messages that are sent with and without TLS.
const FEW: usize = 20;

/// The outcome of a check.
pub(super) type Done = (Feature, Result<()>);

/// Runs all of them, some side by side.
pub(super) fn all(run: &Run<'_>, certificate: &Path) -> Vec<Done> {
    let topic = run.named("orders");
    let produced = run.publish(&topic, MESSAGES, &[]).and_then(|()| {
        let expected: BTreeMap<_, _> = (0..MESSAGES).map(|n| (n, 1)).collect();
        compare(&run.stored(&topic)?, &expected)
    });
    let mut done = vec![(Feature::Normal, produced)];
    done.extend(filters(run, &topic));
    done.extend(thread::scope(|scope| {
        let in_order = scope.spawn(|| in_order(run));
        let dead = scope.spawn(|| dead_letters(run));
        let tls = scope.spawn(|| encrypted(run, certificate));
        let pending = scope.spawn(|| pending::all(run));
        let lite = scope.spawn(|| lite::all(run));
        let join =
            |thread: thread::ScopedJoinHandle<'_, Vec<Done>>| thread.join().expect("checks do not panic");
        [in_order, dead, tls, pending, lite].into_iter().flat_map(join).collect::<Vec<_>>()
    }));
    done
}

/// Each kind of consumer reads the topic without a filter and with each kind of filter.
fn filters(run: &Run<'_>, topic: &str) -> Vec<Done> {
    let with = |kind: &str, filter: &str, words: &[&str], expected: &[usize]| {
        let group = run.named(&format!("{kind}-{filter}"));
        let expect = expected.len().to_string();
        let consumed = run.consume(kind, topic, &group, &[words, &["--expect", &expect]].concat())?;
        consumed.exactly(expected.iter().copied())
    };
    let sql: Vec<usize> = (0..MESSAGES).filter(|n| matches(*n)).collect();
    let tagged: Vec<usize> = (0..MESSAGES).filter(|n| *n < 30 || n.is_multiple_of(2)).collect();
    let everything: Vec<usize> = (0..MESSAGES).collect();
    let reads = |kind: &'static str| {
        thread::scope(|scope| {
            let all = scope.spawn(|| with(kind, "all", &ALL, &everything));
            let sql = scope.spawn(|| with(kind, "sql", &["--where", SELECTOR], &sql));
            let tags = scope.spawn(|| with(kind, "tags", &["--tags", "low || even"], &tagged));
            [all, sql, tags].map(|thread| thread.join().expect("checks do not panic"))
        })
    };
    let [all, mut sql, mut tags] = reads("receive");
    let mut done = vec![(Feature::Simple, all)];
    if run.has_push() {
        let [all, pushed_sql, pushed_tags] = reads("push");
        done.push((Feature::Push, all));
        sql = sql.and(pushed_sql);
        tags = tags.and(pushed_tags);
    }
    done.extend([(Feature::Sql, sql), (Feature::Tags, tags)]);
    done
}

fn matches(n: usize) -> bool {
    let price = (!n.is_multiple_of(5)).then_some(n as f64 * 1.5);
    n.is_multiple_of(3) && n >= 30 && price.is_none_or(|price| price < 400.5)
}

/// FIFO messages of several message groups come in order to a FIFO group, also when the listener of a push consumer
/// fails at times.
fn in_order(run: &Run<'_>) -> Vec<Done> {
    let topic = run.named("lines");
    if let Err(error) = run.publish(&topic, IN_LINES, &["--lines", &LINES.to_string()]) {
        return vec![(Feature::Fifo, Err(error))];
    }
    let reads = |kind: &str, more: &[&str]| {
        let (group, expect) = (run.named(&format!("{kind}-lines")), IN_LINES.to_string());
        run.weir(&["group", "create", &group, "--retry", "1s", "--fifo"])?;
        let wanted = [&ALL[..], &["--expect", &expect], more].concat();
        let consumed = run.consume(kind, &topic, &group, &wanted)?;
        consumed.exactly(0..IN_LINES)?;
        for line in 0..LINES {
            let came = consumed.values.iter().filter(|n| **n % LINES == line);
            ensure!(came.is_sorted(), "of line {line} came {:?}", consumed.values);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let simple = scope.spawn(|| reads("receive", &[]));
        let push = run.has_push().then(|| scope.spawn(|| reads("push", &["--fail-every", "20"])));
        let mut done = vec![(Feature::Fifo, simple.join().expect("checks do not panic"))];
        done.extend(push.map(|push| (Feature::FifoRetry, push.join().expect("checks do not panic"))));
        done
    })
}

/// Messages that fail until their attempts are used up lie in the dead-letter topic.
fn dead_letters(run: &Run<'_>) -> Vec<Done> {
    let published = run.publish(&run.named("mortals"), MORTAL, &[]);
    if let Err(error) = published {
        return vec![(Feature::SimpleDead, Err(error))];
    }
    let lines = LINES.to_string();
    thread::scope(|scope| {
        let simple = scope.spawn(|| die(run, "receive", "mortals", &[]));
        let pushed = run.has_push().then(|| {
            let push = scope.spawn(|| die(run, "push", "mortals", &[]));
            let fifo = scope.spawn(|| {
                run.publish(&run.named("fifo-mortals"), MORTAL, &["--lines", &lines])?;
                die(run, "push", "fifo-mortals", &["--fifo"])
            });
            (push, fifo)
        });
        let mut done = vec![(Feature::SimpleDead, simple.join().expect("checks do not panic"))];
        if let Some((push, fifo)) = pushed {
            done.push((Feature::PushDead, push.join().expect("checks do not panic")));
            done.push((Feature::FifoDead, fifo.join().expect("checks do not panic")));
        }
        done
    })
}

fn die(run: &Run<'_>, action: &str, topic: &str, settings: &[&str]) -> Result<()> {
    let group = run.named(&format!("{action}-{topic}"));
    let attempts = ATTEMPTS.to_string();
    let create =
        ["group", "create", &group, "--retry", "1s", "--lease-min", "1s", "--max-attempts", &attempts];
    run.weir(&[&create, settings].concat())?;
    let dead: Vec<usize> = (0..MORTAL).step_by(DEAD_EVERY).collect();
    let (expect, failures) = ((MORTAL - dead.len()).to_string(), (dead.len() * ATTEMPTS).to_string());
    let (every, always) = (DEAD_EVERY.to_string(), (ATTEMPTS * 10).to_string());
    let more = [
        &ALL[..],
        &["--expect", &expect, "--expect-failed", &failures, "--invisible", "6"],
        &["--fail-every", &every, "--fail-times", &always],
    ];
    let consumed = run.consume(action, &run.named(topic), &group, &more.concat())?;
    consumed.exactly((0..MORTAL).filter(|n| !dead.contains(n)))?;
    compare(&times(&consumed.failed), &dead.iter().map(|n| (*n, ATTEMPTS)).collect())?;
    let (topic, reader) = (format!("%DLQ%{group}"), format!("dead-{group}"));
    run.wait_for(&["topic", "describe", &topic], |topic| ends(topic) >= dead.len() as u64)?;
    let count = dead.len().to_string();
    let wanted = [&ALL[..], &["--expect", &count]].concat();
    run.consume("receive", &topic, &reader, &wanted)?.exactly(dead)
}

/// Returns how many messages a topic has had.
fn ends(topic: &Value) -> u64 {
    topic["queues"].as_array().into_iter().flatten().filter_map(|queue| queue["end"].as_u64()).sum()
}

/// Sends and receives without and with TLS.
fn encrypted(run: &Run<'_>, certificate: &Path) -> Vec<Done> {
    let trusting = run.program.clone().with("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", certificate);
    let trusting = Run { program: trusting, ..run.clone() };
    let plaintext = there_and_back(run, "plaintext", &[]);
    let tls = there_and_back(&trusting, "tls", &["--tls", "on"]).and_then(|()| {
        let accepted = run.publish(&run.named("trust"), 1, &["--tls", "on", "--seconds", "5"]).is_ok();
        ensure!(!accepted || !run.client.verifies, "accepts a certificate for which nobody vouches");
        ensure!(accepted || run.client.verifies, "refuses a certificate, which it is said to accept unseen");
        Ok(())
    });
    vec![(Feature::Plaintext, plaintext), (Feature::Tls, tls)]
}

fn there_and_back(run: &Run<'_>, name: &str, more: &[&str]) -> Result<()> {
    let (topic, group) = (run.named(name), run.named(&format!("{name}-readers")));
    run.publish(&topic, FEW, more)?;
    let expect = FEW.to_string();
    let wanted = [&ALL[..], &["--expect", &expect], more].concat();
    run.consume("receive", &topic, &group, &wanted)?.exactly(0..FEW)
}
