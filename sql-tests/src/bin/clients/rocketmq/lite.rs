//! Lite topics: each consumer gets those that it subscribes to, in order, and what came while nobody did.

use anyhow::{Context, Result, ensure};

use super::{
    checks::Done,
    feature::{Feature, Known},
    run::{Consumed, Run},
};

/// Messages that are sent at a time, and into how many lite topics.
const MESSAGES: usize = 60;
const LITE_TOPICS: usize = 6;

pub(super) fn all(run: &Run<'_>) -> Vec<Done> {
    let mut done = Vec::new();
    for (feature, action) in [(Feature::LiteSimple, "lite-receive"), (Feature::LitePush, "lite-push")] {
        if !matches!(feature.known(run.client.name), Some(Known::NotOffered(_))) {
            done.push((feature, there_and_back(run, action)));
        }
    }
    done
}

/// A consumer subscribes to some lite topics, and gets what is sent to them from then on; another one goes on where it
/// ended, with what has been sent meanwhile.
fn there_and_back(run: &Run<'_>, action: &str) -> Result<()> {
    let (topic, group) = (run.named(action), run.named(&format!("{action}-readers")));
    run.weir(&["topic", "create", &topic, "--type", "lite"])?;
    run.weir(&["group", "create", &group, "--lite-topic", &topic, "--retry", "1s"])?;
    let sends = |first: usize| {
        let (lite_topics, first) = (LITE_TOPICS.to_string(), first.to_string());
        run.publish(&topic, MESSAGES, &["--lite-topics", &lite_topics, "--first", &first])
    };
    // Nobody has subscribed: these are for nobody.
    sends(0)?;
    let expect = (MESSAGES / 2).to_string();
    let reads = |names: &str, more: &[&str]| {
        let words = ["--lite-topics", names, "--expect", &expect];
        run.consume(action, &topic, &group, &[&words[..], more].concat())
    };
    // A simple consumer has later messages in its hands when it gives one back.
    let failing: &[&str] = if action == "lite-push" { &["--fail-every", "20"] } else { &[] };
    let wait_for = |subscriptions: u64| {
        run.wait_for(&["group", "describe", &group], |answer| {
            let topics = answer["topics"].as_array().into_iter().flatten();
            topics.map(|topic| &topic["lite"]["subscriptions"]).any(|count| *count == subscriptions)
        })
    };
    let first = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| reads("0,2,4", failing));
        let sent = wait_for(3).and_then(|()| sends(MESSAGES));
        let consumed = consumer.join().expect("checks do not panic");
        sent.and(consumed)
    });
    of(&first.context("subscribed")?, MESSAGES, &[0, 2, 4])?;
    // It has reported, and may still be at work.
    wait_for(0).context("said good-bye")?;
    sends(2 * MESSAGES)?;
    // Of the others nothing was ever for the group.
    of(&reads("0,1,2,3,4", &[]).context("subscribed again")?, 2 * MESSAGES, &[0, 2, 4])
}

/// Checks that all messages from `first` on of some lite topics came, each once and in order.
fn of(consumed: &Consumed, first: usize, lite_topics: &[usize]) -> Result<()> {
    consumed.exactly((first..first + MESSAGES).filter(|n| lite_topics.contains(&(n % LITE_TOPICS))))?;
    for lite_topic in lite_topics {
        let came = consumed.values.iter().filter(|n| **n % LITE_TOPICS == *lite_topic);
        ensure!(came.is_sorted(), "of lite topic {lite_topic} came {:?}", consumed.values);
    }
    Ok(())
}
