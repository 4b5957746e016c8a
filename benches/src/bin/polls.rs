//! What do idle long polls cost: memory and time of the broker for each of thousands of receives that wait?
//!
//! Through the wire, on loopback: the real binary, clients with a hundred receives each over a connection of their own,
//! on an empty topic, without a selector or with one of a hundred. Memory is that of the broker's process.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tonic::{Request, Streaming, transport::Channel};
use weir_benches::{Memory, Weir, data_dir, head, row};
use weir_server::{
    rocketmq::proto::{
        FilterExpression, FilterType, MessageQueue, QueryRouteRequest, ReceiveMessageRequest,
        ReceiveMessageResponse, Resource, messaging_service_client::MessagingServiceClient,
    },
    run::raise_open_files,
};

/// Receives of one client; a broker allows 1,024.
const POLLS_EACH: usize = 100;
/// How long polls wait; a broker allows no more.
const POLL: Duration = Duration::from_secs(20);
const TOPIC: &str = "idle";

/// How many.
#[derive(Parser)]
struct Args {
    /// Receives that wait at once.
    #[arg(long, default_value_t = 10_000)]
    polls: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.polls <= 100_000, "at most 100,000 polls");
    raise_open_files();
    head(&["filter", "polls", "before", "while they wait", "a poll", "CPU of the broker a second, idle"]);
    for selectors in [false, true] {
        measure(args.polls, selectors).await?;
    }
    Ok(())
}

async fn measure(polls: usize, selectors: bool) -> Result<()> {
    let directory = data_dir("polls")?;
    let weir = Weir::start(directory.path())?;
    let first = client(&weir).await?;
    // The topic is made by its first route.
    let route = QueryRouteRequest { topic: resource(TOPIC), endpoints: None };
    first.clone().query_route(named(route, "first")).await?;
    let mut clients = Vec::new();
    for _ in 0..polls.div_ceil(POLLS_EACH) {
        clients.push(client(&weir).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Memory::of(weir.id())?;
    let start = Instant::now();
    let mut waiting: Vec<Streaming<ReceiveMessageResponse>> = Vec::with_capacity(polls);
    for number in 0..polls {
        let (at, id) = (number / POLLS_EACH, format!("client-{}", number / POLLS_EACH));
        let calls = clients.get_mut(at).context("there is a client for every poll")?;
        let response = calls.receive_message(named(request(number, selectors), &id)).await?;
        waiting.push(response.into_inner());
    }
    // All of them have begun, and none has ended.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(start.elapsed() < POLL, "opening the polls took as long as they wait; ask for fewer");
    let during = Memory::of(weir.id())?;
    let before_idle = cpu(weir.id())?;
    let pause = Duration::from_secs(5).min(POLL.saturating_sub(start.elapsed()));
    tokio::time::sleep(pause).await;
    let idle = spent(&before_idle, &cpu(weir.id())?).as_secs_f64() / pause.as_secs_f64().max(0.001);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let each = during.own.saturating_sub(before.own) as f64 / polls as f64 / 1024.0;
    row(&[
        if selectors { "one of 100 in SQL" } else { "none" }.to_owned(),
        polls.to_string(),
        mib(before.own),
        mib(during.own),
        format!("{each:.1} KiB"),
        format!("{:.1} ms", idle * 1e3),
    ]);
    drop(waiting);
    Ok(())
}

async fn client(weir: &Weir) -> Result<MessagingServiceClient<Channel>> {
    Ok(MessagingServiceClient::new(Channel::from_shared(weir.http_uri())?.connect().await?))
}

fn request(number: usize, selectors: bool) -> ReceiveMessageRequest {
    // A group holds eight selectors on a topic at a time.
    let group = if selectors { format!("group-{}", number % 100) } else { "group".to_owned() };
    let expression = format!("n = {} AND kind <> 'x'", number % 100);
    ReceiveMessageRequest {
        group: resource(&group),
        message_queue: Some(MessageQueue { topic: resource(TOPIC), id: -1, ..MessageQueue::default() }),
        filter_expression: selectors.then(|| FilterExpression { r#type: FilterType::Sql.into(), expression }),
        batch_size: 32,
        auto_renew: true,
        long_polling_timeout: Some(prost_duration(POLL)),
        ..ReceiveMessageRequest::default()
    }
}

fn prost_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs().cast_signed(), nanos: 0 }
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn named<T>(message: T, client: &str) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(id) = client.parse() {
        request.metadata_mut().insert("x-mq-client-id", id);
    }
    request
}

/// Returns how long each thread of a process has had a core.
fn cpu(process: u32) -> Result<BTreeMap<OsString, Duration>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // A thread may end meanwhile.
        let Ok(times) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let on_core = times.split(' ').next().context("schedstat is empty")?;
        threads.insert(task.file_name(), Duration::from_nanos(on_core.parse()?));
    }
    Ok(threads)
}

/// Returns how long the threads that are there `now` have had a core since `before`.
fn spent(before: &BTreeMap<OsString, Duration>, now: &BTreeMap<OsString, Duration>) -> Duration {
    let since = |(thread, time): (&OsString, &Duration)| {
        time.saturating_sub(before.get(thread).copied().unwrap_or_default())
    };
    now.iter().map(since).sum()
}
