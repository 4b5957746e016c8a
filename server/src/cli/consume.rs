//! `weir consume`: receives what matches, prints it, and acknowledges it.

use std::{
    io::{self, BufWriter, IsTerminal as _, Read as _, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::{Args, ValueEnum};
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    Failure, Global,
    consumer::{Consumer, RECEIVE_MAX, receipt},
    output::{count, counted, eprint_line, field, list, progress, time},
    parameters::ParameterArgs,
    selector::with_place,
};
use crate::{
    flight::client::Client,
    rocketmq::proto::{Encoding, Message, SystemProperties},
    status::Exit,
};

/// Receives messages.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: weir consume flights --where \"dest = 'HNL' AND arr_delay > 30\" --limit 10"
)]
pub(crate) struct ConsumeArgs {
    /// The topic.
    topic: String,
    /// Only messages for which this is true, such as "origin = 'JFK' AND dep_delay > 60".
    #[arg(long = "where", value_name = "SQL")]
    selector: Option<String>,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// The consumer group, which remembers what it has read. Default: a new one that is deleted at the end.
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Where to begin without --group.
    #[arg(long, value_name = "PLACE", default_value = "earliest", conflicts_with = "group")]
    from: From,
    /// Ends after so many messages.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
    /// Does not acknowledge: the group gets the messages again.
    #[arg(long)]
    no_ack: bool,
    /// Goes on waiting for messages until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// How long to wait for more before ending.
    #[arg(long, value_name = "TIME", default_value = "1s", conflicts_with = "follow")]
    wait: humantime::Duration,
    /// How many receives are under way at a time. With 1, the messages of a queue come in their order.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=64))]
    in_flight: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    Earliest,
    Latest,
}

/// How long one receive waits while following.
const FOLLOW_WAIT: Duration = Duration::from_secs(15);
/// The longest that one receive waits.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// How often the broker is told that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Acknowledgements under way per receive.
const ACKS_MAX: usize = 4;
/// Bytes of a body that is unpacked for display.
const UNPACKED_MAX: u64 = 16 * 1024 * 1024;

/// What the receives of one command share.
struct Session {
    args: ConsumeArgs,
    consumer: Consumer,
    client: Client,
    group: String,
    /// How many messages may still be received.
    budget: AtomicU64,
    received: AtomicU64,
    acknowledged: AtomicU64,
    printer: Mutex<Printer>,
    bar: indicatif::ProgressBar,
    stop: watch::Receiver<bool>,
}

struct Printer {
    out: Box<dyn io::Write + Send>,
    json: bool,
    colour: bool,
}

pub(crate) async fn run(mut args: ConsumeArgs, global: &Global) -> Result<(), Failure> {
    args.selector = args.parameters.bind_where(args.selector)?;
    let client = global.connect().await?;
    let group = match &args.group {
        Some(group) => group.clone(),
        None => temporary_group(&client, &args).await?,
    };
    let options = global.connect_options()?;
    let selector = args.selector.as_deref();
    let consumer = Consumer::connect(&global.server, &options, &args.topic, &group, selector).await?;
    let (stopper, stop) = watch::channel(false);
    let session = Arc::new(Session {
        budget: AtomicU64::new(args.limit.unwrap_or(u64::MAX)),
        received: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        printer: Mutex::new(Printer::new(global.json)),
        bar: if io::stdout().is_terminal() { indicatif::ProgressBar::hidden() } else { progress(None, "") },
        args,
        consumer,
        client,
        group,
        stop,
    });
    let interrupted = tokio::spawn(async move {
        // Without a signal handler, Ctrl-C ends the process at once, which loses nothing either.
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = stopper.send(true);
        } else {
            std::future::pending::<()>().await;
        }
    });
    let heart = tokio::spawn(beat(session.consumer.clone()));
    let result = session.consume().await;
    heart.abort();
    interrupted.abort();
    session.bar.finish_and_clear();
    session.leave().await;
    result.map_err(|failure| with_place(failure, session.args.selector.as_deref()))?;
    session.report(global.json);
    Ok(())
}

/// Creates a group for this command alone.
async fn temporary_group(client: &Client, args: &ConsumeArgs) -> Result<String, Failure> {
    let name = format!("weir-cli-{}", uuid::Uuid::new_v4().simple());
    let start = match args.from {
        From::Earliest => "earliest",
        From::Latest => "latest",
    };
    // An unknown topic must not leave a group behind.
    client.action("DescribeTopic", &json!({ "topic": args.topic })).await?;
    let group = match args.topic.split_once('/') {
        Some((namespace, _)) => format!("{namespace}/{name}"),
        None => name,
    };
    client.action("CreateGroup", &json!({ "group": group, "start": start })).await?;
    Ok(group)
}

async fn beat(consumer: Consumer) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        if let Err(failure) = consumer.heartbeat().await {
            tracing::warn!(error = failure.message(), "heartbeat failed");
        }
    }
}

impl Session {
    async fn consume(self: &Arc<Self>) -> Result<(), Failure> {
        let mut receives = JoinSet::new();
        for _ in 0..self.args.in_flight {
            let session = Arc::clone(self);
            receives.spawn(async move { session.receive_on().await });
        }
        let mut result = Ok(());
        while let Some(ended) = receives.join_next().await {
            let ended = ended.map_err(|error| Failure::new(Exit::Failed, error.to_string())).flatten();
            if ended.is_err() && result.is_ok() {
                result = ended;
                // What the others have received they still acknowledge.
                self.budget.store(0, Ordering::Relaxed);
            }
        }
        result
    }

    /// Receives, prints and acknowledges until there is no more, or no more is wanted.
    async fn receive_on(&self) -> Result<(), Failure> {
        let mut stop = self.stop.clone();
        let mut acks = JoinSet::new();
        while let Some(wanted) = self.reserve() {
            let received = tokio::select! {
                received = self.consumer.receive(wanted, self.wait()) => received?,
                Ok(_) = stop.wait_for(|stop| *stop) => break,
            };
            self.budget.fetch_add(u64::from(wanted) - received.len() as u64, Ordering::Relaxed);
            if received.is_empty() {
                if self.is_over().await? { break } else { continue }
            }
            self.print(&received)?;
            if !self.args.no_ack {
                self.acknowledge(&received, &mut acks).await?;
            }
        }
        while let Some(done) = acks.join_next().await {
            self.acknowledged.fetch_add(finished(done)?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes up to one receive's worth of the messages that are still wanted.
    fn reserve(&self) -> Option<u32> {
        let mut wanted = 0;
        let take = |left: u64| {
            wanted = left.min(u64::from(RECEIVE_MAX));
            (wanted > 0).then(|| left - wanted)
        };
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        u32::try_from(wanted).ok()
    }

    fn wait(&self) -> Duration {
        if self.args.follow { FOLLOW_WAIT } else { (*self.args.wait).min(WAIT_MAX) }
    }

    async fn acknowledge(
        &self,
        messages: &[Message],
        acks: &mut JoinSet<Result<u64, Failure>>,
    ) -> Result<(), Failure> {
        if acks.len() >= ACKS_MAX
            && let Some(done) = acks.join_next().await
        {
            self.acknowledged.fetch_add(finished(done)?, Ordering::Relaxed);
        }
        let entries: Vec<_> = messages.iter().filter_map(receipt).collect();
        let consumer = self.consumer.clone();
        acks.spawn(async move {
            let count = entries.len() as u64;
            consumer.acknowledge(entries).await.map(|()| count)
        });
        Ok(())
    }

    /// Returns whether the group has judged all that is there, so that nothing more can come at once.
    async fn is_over(&self) -> Result<bool, Failure> {
        if self.args.follow {
            return Ok(false);
        }
        if self.args.no_ack {
            // The broker holds back once too many are unacknowledged; the cursor then never arrives.
            return Ok(true);
        }
        let group = self.client.action("DescribeGroup", &json!({ "group": self.group })).await?;
        let topic = list(&group, "topics").iter().find(|topic| field(topic, "topic") == self.args.topic);
        Ok(topic.is_none_or(|topic| self.has_passed(topic)))
    }

    fn has_passed(&self, topic: &Value) -> bool {
        let text = self.args.selector.as_deref();
        let selector = list(topic, "selectors").iter().find(|selector| match text {
            Some(text) => field(selector, "text") == text,
            None => field(selector, "kind") == "all",
        });
        let Some(selector) = selector else { return true };
        list(topic, "queues").iter().all(|queue| {
            let number = count(queue, "queue");
            let cursor = list(selector, "queues").iter().find(|cursor| count(cursor, "queue") == number);
            cursor.is_none_or(|cursor| count(cursor, "cursor") >= count(queue, "end"))
        })
    }

    fn print(&self, messages: &[Message]) -> Result<(), Failure> {
        let mut printer = self.printer.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            printer.print(message, &self.args.topic)?;
        }
        printer.out.flush()?;
        let received = self.received.fetch_add(messages.len() as u64, Ordering::Relaxed);
        self.bar.set_message(counted(received + messages.len() as u64, "message"));
        self.bar.tick();
        Ok(())
    }

    /// Says goodbye. If that fails, the broker finds out by itself.
    async fn leave(&self) {
        if let Err(failure) = self.consumer.leave().await {
            tracing::debug!(error = failure.message(), "cannot say goodbye");
        }
        if self.args.group.is_none()
            && let Err(error) = self.client.action("DeleteGroup", &json!({ "group": self.group })).await
        {
            tracing::warn!(%error, group = self.group, "cannot delete the temporary group");
        }
    }

    fn report(&self, json: bool) {
        if json {
            return;
        }
        let received = counted(self.received.load(Ordering::Relaxed), "message");
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        match &self.args.group {
            Some(group) => {
                eprint_line(&format!("received {received}, acknowledged {acknowledged} as group {group}"));
            }
            None => eprint_line(&format!("received {received}")),
        }
    }
}

fn finished(done: Result<Result<u64, Failure>, tokio::task::JoinError>) -> Result<u64, Failure> {
    done.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
}

impl Printer {
    fn new(json: bool) -> Self {
        let colour = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        Self { out: Box::new(BufWriter::with_capacity(1 << 16, io::stdout())), json, colour }
    }

    fn print(&mut self, message: &Message, topic: &str) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{}", as_json(message, topic))
        } else {
            writeln!(self.out, "{}", as_line(message, self.colour))
        }
    }
}

/// Returns a message as one line for people.
pub(crate) fn as_line(message: &Message, colour: bool) -> String {
    let unknown = SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&unknown);
    let place = format!("{}:{}", system.queue_id, system.queue_offset.unwrap_or_default());
    let mut line = if colour { place.dimmed().to_string() } else { place };
    if let Some(tag) = &system.tag {
        line.push_str(&format!(" [{}]", printable(tag)));
    }
    for (name, value) in &message.user_properties {
        let (name, value) = (printable(name), printable(value));
        line.push_str(&if colour {
            format!(" {}{}", format!("{name}=").cyan(), value)
        } else {
            format!(" {name}={value}")
        });
    }
    let body = match body(message, system) {
        Body::Text(text) => printable(&text),
        Body::Bytes(bytes) => format!("<{} bytes>", bytes.len()),
    };
    if !body.is_empty() {
        line.push_str(&if colour { format!(" {}", body.dimmed()) } else { format!(" {body}") });
    }
    line
}

fn as_json(message: &Message, topic: &str) -> Value {
    let unknown = SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&unknown);
    let mut object = json!({
        "topic": topic,
        "queue": system.queue_id,
        "offset": system.queue_offset,
        "message_id": system.message_id,
        "store_time": system.store_timestamp.as_ref().map(moment),
        "born_time": system.born_timestamp.as_ref().map(moment),
        "attempt": system.delivery_attempt,
        "tag": system.tag,
        "keys": system.keys,
        "properties": message.user_properties,
    });
    match body(message, system) {
        Body::Text(text) => object["body"] = text.into(),
        Body::Bytes(bytes) => object["body_base64"] = BASE64_STANDARD.encode(bytes).into(),
    }
    object
}

enum Body {
    Text(String),
    Bytes(Vec<u8>),
}

/// Returns the body, unpacked if the producer packed it.
fn body(message: &Message, system: &SystemProperties) -> Body {
    let bytes = if system.body_encoding() == Encoding::Gzip { unpacked(&message.body) } else { None };
    let bytes = bytes.unwrap_or_else(|| message.body.to_vec());
    match String::from_utf8(bytes) {
        Ok(text) => Body::Text(text),
        Err(error) => Body::Bytes(error.into_bytes()),
    }
}

/// Returns the content of a gzip or zlib body, or `None` if it is neither, or too much.
fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let read = match packed {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(packed).take(UNPACKED_MAX).read_to_end(&mut content)
        }
        _ => flate2::read::ZlibDecoder::new(packed).take(UNPACKED_MAX).read_to_end(&mut content),
    };
    (read.is_ok() && (content.len() as u64) < UNPACKED_MAX).then_some(content)
}

fn moment(at: &prost_types::Timestamp) -> String {
    time(at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos / 1_000_000)))
}

/// Keeps a message from moving the cursor or ending the line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}
