//! How many messages a second do 1, 16 and 256 callers acknowledge, one message a call?
//!
//! In-process, classes `sync` and `async`. The messages are received before the clock starts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use weir_benches::{Messages, data_dir, head, options, row};
use weir_engine::{
    Broker, DurabilityClass, GroupName, LeaseTime, ReceiveRequest, Selector, TopicName, TopicSpec,
};

/// Messages of one measurement: 64 queues hold at most 4,096 open rows each.
const MESSAGES: usize = 100_000;

#[tokio::main]
async fn main() -> Result<()> {
    head(&["class", "callers", "acknowledged/s"]);
    for class in [DurabilityClass::Sync, DurabilityClass::Async] {
        for callers in [1, 16, 256] {
            let rate = measure(class, callers).await?;
            row(&[format!("{class:?}").to_lowercase(), callers.to_string(), format!("{rate:.0}")]);
        }
    }
    Ok(())
}

async fn measure(class: DurabilityClass, callers: usize) -> Result<f64> {
    let count = MESSAGES.min(callers * 20_000);
    let directory = data_dir("acknowledge")?;
    let broker = Broker::open(options(directory.path())).await?;
    let topic: TopicName = "bench".parse()?;
    let group: GroupName = "bench".parse()?;
    broker.create_topic(&topic, TopicSpec { queues: 64, class, ..TopicSpec::default() }).await?;
    let mut messages = Messages::new(1, 100);
    for _ in 0..count / 1_000 {
        broker.publish(&topic, (0..1_000).map(|_| messages.next_plain()).collect()).await?;
    }
    let mut handles = VecDeque::new();
    while handles.len() < count / 1_000 * 1_000 {
        let received = broker.receive(request(&group, &topic)).await?;
        anyhow::ensure!(!received.is_empty(), "nothing more comes after {} messages", handles.len());
        handles.extend(received.into_iter().map(|delivered| delivered.handle));
    }
    let total = handles.len();
    let handles = Arc::new(Mutex::new(handles));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (broker, topic, group, handles) =
            (broker.clone(), topic.clone(), group.clone(), Arc::clone(&handles));
        tasks.push(tokio::spawn(async move {
            loop {
                let next = handles.lock().map_err(|_| anyhow::anyhow!("a caller panicked"))?.pop_front();
                let Some(handle) = next else { return anyhow::Ok(()) };
                broker
                    .acknowledge(&group, &topic, &[handle])
                    .await
                    .pop()
                    .context("one answer a handle")??;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    broker.close().await?;
    Ok(rate)
}

fn request(group: &GroupName, topic: &TopicName) -> ReceiveRequest {
    ReceiveRequest {
        group: group.clone(),
        topic: topic.clone(),
        queue: None,
        selector: Selector::all(),
        max_messages: 32,
        lease: LeaseTime::Fixed(Duration::from_secs(3_600)),
        wait: Duration::from_secs(5),
        client: "bench".to_owned(),
        attempt_id: None,
        one_by_one: false,
    }
}
