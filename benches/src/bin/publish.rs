//! How fast are messages published, and how long does an acknowledgement take?
//!
//! For bodies of 100 B and 1 KiB, classes `sync` and `async`, in-process and through RocketMQ's gRPC to the real
//! binary: the rate of 64 producers that each wait for their acknowledgement, then, at half that rate, the
//! latency from when a message was due to be sent until its acknowledgement, and until it was visible.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tonic::transport::{Channel, Endpoint};
use weir_benches::{Latencies, Messages, Weir, data_dir, head, options, row};
use weir_engine::{Broker, DurabilityClass, Message, TopicName, TopicSpec};
use weir_server::rocketmq::proto;

/// How long each measurement takes.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Producers that publish at once.
    #[arg(long, default_value_t = 64)]
    producers: usize,
}

/// A way to publish one message.
#[derive(Clone)]
enum Way {
    InProcess(Broker),
    Grpc(proto::messaging_service_client::MessagingServiceClient<Channel>),
}

impl Way {
    async fn publish(&mut self, topic: &TopicName, message: Message) -> Result<()> {
        match self {
            Self::InProcess(broker) => {
                broker.publish(topic, vec![message]).await?;
            }
            Self::Grpc(client) => {
                let mut request = tonic::Request::new(send_request(topic, message));
                request.metadata_mut().insert("x-mq-client-id", "bench".parse()?);
                let response = client.send_message(request).await?.into_inner();
                let status = response.status.context("a response has a status")?;
                ensure!(status.code == 20_000, "{} {}", status.code, status.message);
            }
        }
        Ok(())
    }
}

fn send_request(topic: &TopicName, message: Message) -> proto::SendMessageRequest {
    let system_properties = proto::SystemProperties {
        message_id: message.message_id,
        message_type: proto::MessageType::Normal as i32,
        body_encoding: proto::Encoding::Identity as i32,
        ..Default::default()
    };
    proto::SendMessageRequest {
        messages: vec![proto::Message {
            topic: Some(proto::Resource { resource_namespace: String::new(), name: topic.name().to_owned() }),
            user_properties: message
                .properties
                .into_iter()
                .map(|(name, value)| (name, value.to_text()))
                .collect(),
            system_properties: Some(system_properties),
            body: message.body,
        }],
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    head(&["way", "class", "body", "messages/s", "p50 ms", "p99 ms", "p99.6 ms", "p99.9 ms", "at msg/s"]);
    for body in [100, 1024] {
        for class in [DurabilityClass::Sync, DurabilityClass::Async] {
            in_process(&arguments, class, body).await?;
            over_grpc(&arguments, class, body).await?;
        }
    }
    println!();
    head(&["publish to visible, 1,000 msg/s", "p50 ms", "p99 ms", "p99.6 ms", "p99.9 ms"]);
    for class in [DurabilityClass::Sync, DurabilityClass::Async] {
        visible(&arguments, class).await?;
    }
    Ok(())
}

async fn in_process(arguments: &Arguments, class: DurabilityClass, body: usize) -> Result<()> {
    let directory = data_dir("publish")?;
    let broker = Broker::open(options(directory.path())).await?;
    let topic: TopicName = "bench".parse()?;
    broker.create_topic(&topic, TopicSpec { class, ..TopicSpec::default() }).await?;
    measure(arguments, "in-process", class, body, &Way::InProcess(broker.clone()), &topic).await?;
    broker.close().await?;
    Ok(())
}

async fn over_grpc(arguments: &Arguments, class: DurabilityClass, body: usize) -> Result<()> {
    let directory = data_dir("publish-grpc")?;
    let topic: TopicName = "bench".parse()?;
    let broker = Broker::open(options(directory.path())).await?;
    broker.create_topic(&topic, TopicSpec { class, ..TopicSpec::default() }).await?;
    broker.close().await?;
    drop(broker);
    let weir = Weir::start(directory.path())?;
    let channel = Endpoint::from_shared(weir.http_uri())?.connect().await?;
    let client = proto::messaging_service_client::MessagingServiceClient::new(channel);
    measure(arguments, "gRPC", class, body, &Way::Grpc(client), &topic).await
}

async fn measure(
    arguments: &Arguments,
    name: &str,
    class: DurabilityClass,
    body: usize,
    way: &Way,
    topic: &TopicName,
) -> Result<()> {
    let run = Duration::from_secs(arguments.seconds);
    flat_out(arguments.producers, Duration::from_secs(1), body, way, topic).await?;
    let rate = flat_out(arguments.producers, run, body, way, topic).await?;
    let (at, latencies) = paced(arguments.producers, run, rate / 2.0, body, way, topic).await?;
    let class = format!("{class:?}").to_lowercase();
    let mut cells = vec![name.to_owned(), class, format!("{body} B"), format!("{rate:.0}")];
    cells.extend(latencies.cells());
    cells.push(format!("{at:.0}"));
    row(&cells);
    Ok(())
}

/// Messages a second when every producer sends its next message as soon as the last one is acknowledged.
async fn flat_out(producers: usize, run: Duration, body: usize, way: &Way, topic: &TopicName) -> Result<f64> {
    let start = Instant::now();
    let mut tasks = Vec::new();
    for producer in 0..producers {
        let (mut way, topic) = (way.clone(), topic.clone());
        tasks.push(tokio::spawn(async move {
            let mut messages = Messages::new(producer as u64, body);
            let mut count = 0_u64;
            while start.elapsed() < run {
                way.publish(&topic, messages.next_plain()).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Latencies when messages are due at a fixed rate, counted from when each was due.
async fn paced(
    producers: usize,
    run: Duration,
    rate: f64,
    body: usize,
    way: &Way,
    topic: &TopicName,
) -> Result<(f64, Latencies)> {
    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for producer in 0..producers {
        let (mut way, topic, next) = (way.clone(), topic.clone(), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut messages = Messages::new(producer as u64, body);
            let mut latencies = Latencies::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = start + Duration::from_secs_f64(number as f64 / rate);
                if due > start + run {
                    return anyhow::Ok(latencies);
                }
                wait_until(due).await;
                way.publish(&topic, messages.next_plain()).await?;
                latencies.record(due.elapsed());
            }
        }));
    }
    let mut all = Latencies::default();
    for task in tasks {
        all.add(&task.await??);
    }
    Ok((all.len() as f64 / start.elapsed().as_secs_f64(), all))
}

/// Sleeps to the last millisecond and yields through the rest, since timers have that granularity.
async fn wait_until(due: Instant) {
    if let Some(rest) = due.checked_duration_since(Instant::now() + Duration::from_millis(1)) {
        tokio::time::sleep(rest).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

async fn visible(arguments: &Arguments, class: DurabilityClass) -> Result<()> {
    let directory = data_dir("visible")?;
    let broker = Broker::open(options(directory.path())).await?;
    let topic: TopicName = "bench".parse()?;
    broker.create_topic(&topic, TopicSpec { queues: 1, class, ..TopicSpec::default() }).await?;
    let mut messages = Messages::new(1, 100);
    let mut latencies = Latencies::default();
    let start = Instant::now();
    for number in 0..arguments.seconds * 1_000 {
        wait_until(start + Duration::from_millis(number)).await;
        let sent = Instant::now();
        let published = broker.publish(&topic, vec![messages.next_plain()]).await?;
        let wanted = published[0].offset.plus(1);
        while broker.topic(&topic)?.queues[0].end < wanted {
            tokio::task::yield_now().await;
        }
        latencies.record(sent.elapsed());
    }
    let mut cells = vec![format!("{class:?}").to_lowercase()];
    cells.extend(latencies.cells());
    row(&cells);
    broker.close().await?;
    Ok(())
}
