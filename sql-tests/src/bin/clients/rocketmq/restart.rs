//! The broker is killed while a producer and consumers of a client are at work, and starts again at its address.

use std::{collections::BTreeSet, sync::Mutex, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::run::Run;
use crate::broker::Weir;

/// Messages that are published, and how long the producer waits after each.
const MESSAGES: usize = 500;
const PAUSE_MS: &str = "20";

/// Messages that each group has acknowledged before the broker is killed.
const BEFORE: u64 = 30;

/// How long the broker is away, so that clients cannot connect.
const AWAY: Duration = Duration::from_secs(2);

pub(super) fn goes_on(run: &Run<'_>) -> Result<()> {
    let data = run.home.join("data");
    let broker = Weir::start(run.weir, &data)?;
    let endpoint = broker.endpoint.clone();
    let closing = Mutex::default();
    let run = &Run { endpoint: &endpoint, closing: &closing, ..run.clone() };
    let (topic, simple, push) = (run.named("orders"), run.named("simple"), run.named("push"));
    let count = MESSAGES.to_string();
    let wanted = ["--tags", "*", "--invisible", "10", "--expect", &count, "--seconds", "90"];
    let groups = match run.has_push() {
        true => vec![&simple, &push],
        false => vec![&simple],
    };
    thread::scope(|scope| {
        let receive = scope.spawn(|| run.consume_through_crashes("receive", &topic, &simple, &wanted));
        let pushed = run
            .has_push()
            .then(|| scope.spawn(|| run.consume_through_crashes("push", &topic, &push, &wanted)));
        wait_for(run, &groups, |group| {
            group["members"].as_array().is_some_and(|members| !members.is_empty())
        })?;
        let publish =
            scope.spawn(|| run.publish_through_crashes(&topic, MESSAGES, &["--pause-ms", PAUSE_MS]));
        wait_for(run, &groups, |group| acknowledged(group) >= BEFORE)?;
        let before = run.stored(&topic)?.len();
        broker.kill()?;
        ensure!(before < MESSAGES, "all was published before the broker was killed");
        thread::sleep(AWAY);
        let broker = Weir::start_at(run.weir, &data, &endpoint)?;

        publish.join().expect("checks do not panic").context("the producer")?;
        let receive = receive.join().expect("checks do not panic").context("the simple consumer")?;
        let stored = run.stored(&topic)?;
        ensure!(stored.keys().copied().eq(0..MESSAGES), "stored are {:?}", stored.keys());
        super::run::compare(&receive.times(), &stored).context("the simple consumer")?;
        if let Some(pushed) = pushed {
            // An acknowledgement that the crash cut short may have been for nothing, and the client does not say so.
            let pushed = pushed.join().expect("checks do not panic").context("the push consumer")?;
            let came: BTreeSet<usize> = pushed.values.into_iter().collect();
            let missing: Vec<_> = (0..MESSAGES).filter(|n| !came.contains(n)).collect();
            ensure!(missing.is_empty(), "the push consumer did not receive {missing:?}");
        }
        run.close()?;
        broker.stop()
    })
}

/// Waits until something holds for each group.
fn wait_for(run: &Run<'_>, groups: &[&String], holds: impl Fn(&Value) -> bool) -> Result<()> {
    groups.iter().try_for_each(|group| run.wait_for(&["group", "describe", group], &holds))
}

/// Returns how many messages a group is done with.
fn acknowledged(group: &Value) -> u64 {
    let topics = group["topics"].as_array().into_iter().flatten();
    let queues = topics.flat_map(|topic| topic["queues"].as_array().into_iter().flatten());
    queues.filter_map(|queue| queue["committed"].as_u64()).sum()
}
