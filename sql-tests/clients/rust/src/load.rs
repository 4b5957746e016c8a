//! The load of the crash test: producers and consumers on the official Rust client, which work on while the broker
//! is killed and started again, and say on standard output what they did and what they were told. Arguments, words
//! and lines: ../README.md.

mod content;

use std::{
    collections::HashMap,
    error::Error,
    fmt::Arguments as Text,
    future::Future,
    io::{BufRead, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rocketmq::{
    Producer, SimpleConsumer,
    conf::{ClientOption, LoggingFormat, ProducerOption, SimpleConsumerOption},
    error::{ClientError, ErrorKind},
    model::{
        common::{FilterExpression, FilterType},
        message::{Message, MessageBuilder, MessageView},
    },
};
use tokio::{task::JoinSet, time::sleep};

use content::{Content, Random, SELECTOR};

/// Messages of one call, at most.
const BATCH_MAX: u64 = 8;
/// How long a message is leased. A part of them is never acknowledged and comes again after this.
const LEASE: Duration = Duration::from_secs(2);
/// How often a call is repeated that failed because the broker was gone.
const TRIES_MAX: u32 = 200;
/// Errors after which a client is thrown away and made anew; up to then it has to find the way back by itself.
const ERRORS_MAX: u32 = 400;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What all tasks share.
struct Load {
    endpoint: String,
    group: String,
    topics: Vec<String>,
    seed: u64,
    /// Between two calls of a producer, on average.
    pause: Duration,
    next: AtomicU64,
    batches: AtomicU64,
    /// No more is published, and everything received is acknowledged.
    draining: AtomicBool,
}

fn say(line: Text<'_>) {
    let mut out = std::io::stdout().lock();
    // Without its reader the load is of no use.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// A message that is sent again as the same, with its id: what clients do that repeat a call by themselves.
#[derive(Clone)]
struct Outgoing {
    topic: String,
    id: String,
    content: Content,
}

impl Message for Outgoing {
    fn take_message_id(&mut self) -> String {
        self.id.clone()
    }
    fn take_topic(&mut self) -> String {
        self.topic.clone()
    }
    fn take_body(&mut self) -> Vec<u8> {
        self.content.body.clone().into_bytes()
    }
    fn take_tag(&mut self) -> Option<String> {
        self.content.tag.map(str::to_owned)
    }
    fn take_keys(&mut self) -> Vec<String> {
        self.content.keys.clone()
    }
    fn take_properties(&mut self) -> HashMap<String, String> {
        self.content.properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }
    fn take_message_group(&mut self) -> Option<String> {
        None
    }
    fn take_delivery_timestamp(&mut self) -> Option<i64> {
        None
    }
    fn transaction_enabled(&mut self) -> bool {
        false
    }
}

impl Load {
    fn client_option(&self) -> ClientOption {
        let mut option = ClientOption::default();
        option.set_access_url(&self.endpoint);
        option.set_enable_tls(false);
        option.set_timeout(Duration::from_secs(5));
        option.set_long_polling_timeout(Duration::from_millis(1500));
        option
    }

    fn outgoing(&self, topic: &str, n: u64) -> Outcome<Outgoing> {
        // The client makes ids by itself; the message around it is not needed.
        let mut made = MessageBuilder::builder().set_topic(topic).set_body(vec![0]).build()?;
        let content = Content::of(self.seed, n);
        Ok(Outgoing { topic: topic.to_owned(), id: made.take_message_id(), content })
    }

    /// Publishes until the load drains.
    async fn produce(self: Arc<Self>, number: u64) -> Outcome<()> {
        let topic = self.topics[number as usize % self.topics.len()].clone();
        let mut option = ProducerOption::default();
        option.set_topics(vec![topic.clone()]);
        option.set_logging_format(LoggingFormat::Json);
        let mut producer = Producer::new(option, self.client_option())?;
        producer.start().await?;
        let mut random = Random::new(self.seed, (1 << 50) + self.batches.fetch_add(1, Ordering::Relaxed));
        let mut errors = 0;
        while !self.draining.load(Ordering::Relaxed) && errors < ERRORS_MAX {
            let count = if random.percent(60) { 1 } else { random.within(2, BATCH_MAX + 1) };
            let first = self.next.fetch_add(count, Ordering::Relaxed);
            let messages =
                (first..first + count).map(|n| self.outgoing(&topic, n)).collect::<Outcome<Vec<_>>>()?;
            let ids: Vec<&str> = messages.iter().map(|message| message.id.as_str()).collect();
            // It is said before it is done: whatever the log holds was announced.
            say(format_args!("send {first} {topic} {}", ids.join(" ")));
            // A part of the callers gives up at the first error. Then nobody knows what became of the call.
            let tries = if random.percent(60) { TRIES_MAX } else { 1 };
            let mut told = "gave-up";
            for attempt in 0..tries {
                if attempt > 0 {
                    sleep(Duration::from_millis(random.within(10, 60))).await;
                    say(format_args!("again {first}"));
                }
                match producer.batch_send(messages.clone()).await {
                    Ok(receipts) => {
                        if receipts.len() != messages.len() {
                            say(format_args!("wrong {} receipts for {count} messages", receipts.len()));
                        }
                        told = "sent";
                        break;
                    }
                    Err(_) => errors += 1,
                }
            }
            say(format_args!("{told} {first}"));
            let pause = 2 * self.pause.as_micros() as u64 + 1;
            sleep(Duration::from_micros(random.within(0, pause))).await;
        }
        Ok(())
    }

    /// Receives and acknowledges until the process ends.
    async fn consume(self: Arc<Self>, number: u64) -> Outcome<()> {
        let topic = self.topics[number as usize % self.topics.len()].clone();
        let mut option = SimpleConsumerOption::default();
        option.set_consumer_group(&self.group);
        option.set_topics(vec![topic.clone()]);
        option.set_logging_format(LoggingFormat::Json);
        let mut consumer = SimpleConsumer::new(option, self.client_option())?;
        consumer.start().await?;
        let consumer = Arc::new(consumer);
        let filter = FilterExpression::new(FilterType::Sql, SELECTOR);
        let mut random = Random::new(self.seed, (1 << 51) + self.batches.fetch_add(1, Ordering::Relaxed));
        let mut errors = 0;
        while errors < ERRORS_MAX {
            let Ok(received) = consumer.receive_with(&topic, &filter, 16, LEASE).await else {
                errors += 1;
                sleep(Duration::from_millis(random.within(10, 60))).await;
                continue;
            };
            for message in &received {
                self.told(&topic, message);
            }
            let mut calls = JoinSet::new();
            for message in received {
                if self.draining.load(Ordering::Relaxed) || random.percent(90) {
                    calls.spawn(acknowledge(Arc::clone(&consumer), message));
                }
            }
            while calls.join_next().await.is_some() {}
        }
        Ok(())
    }

    /// Says that a message came, after it was compared with what was sent under its number.
    fn told(&self, topic: &str, message: &MessageView) {
        let number = message.properties().get("n").and_then(|n| n.parse().ok());
        let Some(n) = number else {
            return say(format_args!("wrong a message without a number: {message:?}"));
        };
        let expected = Content::of(self.seed, n);
        let has_properties = message.properties().len() == expected.properties.len()
            && expected.properties.iter().all(|(name, value)| message.properties().get(*name) == Some(value));
        let is_right = has_properties
            && message.topic() == topic
            && message.body() == expected.body.as_bytes()
            && message.tag() == expected.tag
            && message.keys() == expected.keys;
        if !is_right {
            return say(format_args!("wrong message {n} came as {message:?}, not as {expected:?}"));
        }
        say(format_args!("got {n} {topic} {} {}", message.message_id(), message.delivery_attempt()));
    }
}

/// Acknowledges a message, if need be with the same handle at the broker that was started again.
async fn acknowledge(consumer: Arc<SimpleConsumer>, message: MessageView) {
    let n = message.properties()["n"].clone();
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            sleep(Duration::from_millis(40)).await;
        }
        match consumer.ack(&message).await {
            Ok(()) => return say(format_args!("acked {n}")),
            // Told by the broker: the message was handed out again meanwhile.
            Err(error) if is_refusal(&error) => return say(format_args!("refused {n}")),
            Err(_) => {}
        }
    }
}

fn is_refusal(error: &ClientError) -> bool {
    matches!(error.kind(), ErrorKind::Server)
}

/// Runs `work` again and again, as long as it ends with an error or a panic of the client: it panics when it
/// cannot connect at some moments.
async fn again<F: Future<Output = Outcome<()>> + Send + 'static>(work: impl Fn() -> F, until: &AtomicBool) {
    loop {
        let ended = tokio::spawn(work()).await;
        if matches!(ended, Ok(Ok(()))) && until.load(Ordering::Relaxed) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Does what standard input says, line by line, until it ends.
fn listen(load: &Load) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "drain" => load.draining.store(true, Ordering::Relaxed),
            "quit" => break,
            // An answer to `mark N`: everything that happened before has been said.
            mark => say(format_args!("{mark}")),
        }
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut words = std::env::args().skip(1);
    let mut values = HashMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        values.insert(name, value);
    }
    let text = |name: &str| values.get(name).cloned().ok_or(format!("{name} is missing"));
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().map_err(|e| e.to_string()));
    // The client panics in its tasks when a connection cannot be made. They are started again.
    std::panic::set_hook(Box::new(|_| {}));
    // The client writes its log there.
    std::fs::create_dir_all("logs")?;
    let load = Arc::new(Load {
        endpoint: text("--endpoint")?,
        group: text("--group")?,
        topics: text("--topics")?.split(',').map(str::to_owned).collect(),
        seed: number("--seed")?,
        pause: Duration::from_millis(number("--pause-ms")?),
        next: AtomicU64::new(0),
        batches: AtomicU64::new(0),
        draining: AtomicBool::new(false),
    });
    let mut producers = JoinSet::new();
    for task in 0..number("--producers")? {
        let load = Arc::clone(&load);
        producers.spawn(async move { again(|| Arc::clone(&load).produce(task), &load.draining).await });
    }
    for task in 0..number("--consumers")? {
        let load = Arc::clone(&load);
        let never = AtomicBool::new(false);
        tokio::spawn(async move { again(|| Arc::clone(&load).consume(task), &never).await });
    }
    let producing = tokio::spawn(async move {
        while producers.join_next().await.is_some() {}
        say(format_args!("drained"));
    });
    tokio::task::spawn_blocking(move || listen(&load)).await?;
    producing.abort();
    // Clients are not shut down: that would wait for calls, and all has been said.
    std::process::exit(0);
}
