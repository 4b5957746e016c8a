//! The official Rust client against Weir. Arguments and output: ../README.md.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rocketmq::{
    Producer, SimpleConsumer,
    conf::{ClientOption, ProducerOption, SimpleConsumerOption},
    model::{
        common::{FilterExpression, FilterType},
        message::{MessageBuilder, MessageView},
        transaction::{Transaction, TransactionResolution},
    },
};
use serde_json::{Value, json};

const COLORS: [&str; 3] = ["red", "green", "blue"];

/// Messages that are sent in one call.
const BATCH: usize = 10;

/// Messages that are received in one call.
const RECEIVE_MAX: i32 = 32;

/// By how much messages are delayed.
const DELAY_SECONDS: u64 = 3;

/// How long nothing more has come once it is enough.
const QUIET: Duration = Duration::from_secs(2);

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn read() -> Result<(String, Self), String> {
        let mut words = std::env::args().skip(1);
        let action = words.next().ok_or("no action")?;
        let mut values = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or(format!("{word} is not an option"))?;
            values.insert(name.to_owned(), words.next().ok_or(format!("{word} has no value"))?);
        }
        Ok((action, Self(values)))
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or(format!("--{name} is missing"))
    }

    fn number(&self, name: &str, otherwise: usize) -> Result<usize, String> {
        let Some(text) = self.0.get(name) else { return Ok(otherwise) };
        text.parse().map_err(|_| format!("--{name} is no number"))
    }

    fn end(&self) -> Result<Instant, String> {
        Ok(Instant::now() + Duration::from_secs(self.number("seconds", 60)? as u64))
    }

    fn filter(&self) -> Result<FilterExpression, String> {
        match self.text("tags") {
            Ok(tags) => Ok(FilterExpression::new(FilterType::Tag, tags)),
            Err(_) => Ok(FilterExpression::new(FilterType::Sql, self.text("where")?)),
        }
    }

    fn client_option(&self) -> Result<ClientOption, String> {
        let mut option = ClientOption::default();
        option.set_access_url(self.text("endpoint")?);
        option.set_enable_tls(self.0.contains_key("tls"));
        option.set_long_polling_timeout(Duration::from_secs(1));
        Ok(option)
    }
}

/// Calls that failed and were made again.
#[derive(Default)]
struct Errors {
    count: usize,
    latest: String,
}

impl Errors {
    /// Notes a failure, and waits a little.
    async fn add(&mut self, error: impl std::fmt::Display) {
        self.count += 1;
        self.latest = error.to_string();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Makes a call again until it succeeds.
    async fn repeat<T, E: Error + 'static, F: Future<Output = Result<T, E>>>(
        &mut self,
        end: Instant,
        mut call: impl FnMut() -> F,
    ) -> Result<T, E> {
        loop {
            match call().await {
                Err(error) if Instant::now() < end => self.add(error).await,
                outcome => return outcome,
            }
        }
    }
}

/// What has been acknowledged and what has been left, and when it is enough.
struct Tally {
    expect: usize,
    expect_failed: usize,
    fail_every: usize,
    fail_times: usize,
    end: Instant,
    latest: Instant,
    values: Vec<usize>,
    failed: Vec<usize>,
    wrong: usize,
}

impl Tally {
    fn new(arguments: &Arguments) -> Result<Self, String> {
        Ok(Self {
            expect: arguments.number("expect", 0)?,
            expect_failed: arguments.number("expect-failed", 0)?,
            fail_every: arguments.number("fail-every", 0)?,
            fail_times: arguments.number("fail-times", 1)?,
            end: arguments.end()?,
            latest: Instant::now(),
            values: Vec::new(),
            failed: Vec::new(),
            wrong: 0,
        })
    }

    /// Returns whether the message is to fail this time, and notes it then.
    fn fails(&mut self, n: usize) -> bool {
        let times = self.failed.iter().filter(|other| **other == n).count();
        if self.fail_every == 0 || !n.is_multiple_of(self.fail_every) || times >= self.fail_times {
            return false;
        }
        self.failed.push(n);
        self.latest = Instant::now();
        true
    }

    fn add(&mut self, n: usize, received: &MessageView) {
        self.values.push(n);
        self.wrong += usize::from(is_wrong(n, received));
        self.latest = Instant::now();
    }

    fn is_enough(&self) -> bool {
        let distinct: BTreeSet<_> = self.values.iter().collect();
        let complete = distinct.len() >= self.expect && self.failed.len() >= self.expect_failed;
        complete && self.latest.elapsed() > QUIET || Instant::now() > self.end
    }
}

async fn publish(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let (topic, count) = (arguments.text("topic")?, arguments.number("count", 100)?);
    let lines = arguments.number("lines", 0)?;
    let pause = Duration::from_millis(arguments.number("pause-ms", 0)? as u64);
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let mut producer = Producer::new(option, arguments.client_option()?)?;
    producer.start().await?;
    let (mut errors, end) = (Errors::default(), arguments.end()?);
    let numbers: Vec<usize> = (0..count).collect();
    // The client takes no batch of several message groups.
    let at_once = if lines > 0 { 1 } else { BATCH };
    for batch in numbers.chunks(at_once) {
        let send = || async {
            let messages =
                batch.iter().map(|n| message(topic, *n, lines).build()).collect::<Result<Vec<_>, _>>()?;
            producer.batch_send(messages).await
        };
        let receipts = errors.repeat(end, send).await?;
        assert_eq!(receipts.len(), batch.len(), "a receipt for each message");
        tokio::time::sleep(pause * batch.len() as u32).await;
    }
    producer.shutdown().await?;
    Ok(json!({"client": "rust", "published": count, "errors": errors.count, "error": errors.latest}))
}

/// Sends messages that nobody is to see at once: see ../README.md.
async fn pending(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let (topic, count) = (arguments.text("topic")?, arguments.number("count", 100)?);
    let end = arguments.end()?;
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let checked = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&checked);
    let check = move |_: String, half: MessageView| {
        let n = half.properties().get("n").and_then(|n| n.parse::<usize>().ok());
        let Some(n) = n.filter(|n| !is_wrong(*n, &half)) else { return TransactionResolution::UNKNOWN };
        noted.lock().expect("nobody panics with it").insert(n);
        if n.is_multiple_of(2) { TransactionResolution::COMMIT } else { TransactionResolution::ROLLBACK }
    };
    let mut producer =
        Producer::new_transaction_producer(option, arguments.client_option()?, Box::new(check))?;
    producer.start().await?;
    for n in 0..count {
        send_pending(&producer, topic, n).await?;
    }
    let open: BTreeSet<usize> = (0..count).filter(|n| n % 5 == 4).collect();
    while *checked.lock().expect("nobody panics with it") != open {
        if Instant::now() > end {
            return Err(format!("asked about {checked:?} alone").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The answers go out behind the questions.
    tokio::time::sleep(Duration::from_secs(1)).await;
    producer.shutdown().await?;
    Ok(json!({"client": "rust", "published": count, "recalled": 0, "errors": 0, "error": ""}))
}

async fn send_pending(producer: &Producer, topic: &str, n: usize) -> Result<(), Box<dyn Error>> {
    let made = message(topic, n, 0);
    if n.is_multiple_of(5) {
        // The client takes whole seconds.
        let due = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + DELAY_SECONDS;
        producer.send(made.set_delivery_timestamp(due as i64).build()?).await?;
        return Ok(());
    }
    let transaction = producer.send_transaction_message(made.enable_transaction().build()?).await?;
    match n % 5 {
        2 => transaction.commit().await?,
        // The client has no recall.
        1 | 3 => transaction.rollback().await?,
        _ => {}
    }
    Ok(())
}

fn message(topic: &str, n: usize, lines: usize) -> MessageBuilder {
    let mut properties =
        HashMap::from([("n", n.to_string()), ("color", COLORS[n % COLORS.len()].to_owned())]);
    if !n.is_multiple_of(5) {
        properties.insert("price", format!("{:.1}", n as f64 * 1.5));
    }
    let mut builder = MessageBuilder::builder()
        .set_topic(topic)
        .set_body(format!("message {n}").into_bytes())
        .set_tag(tag(n))
        .set_keys(vec![format!("key-{n}")])
        .set_properties(properties);
    if lines > 0 {
        builder = builder.set_message_group(format!("line-{}", n % lines));
    }
    builder
}

fn tag(n: usize) -> &'static str {
    match n {
        0..30 => "low",
        _ if n.is_multiple_of(2) => "even",
        _ => "odd",
    }
}

fn is_wrong(n: usize, received: &MessageView) -> bool {
    received.body() != format!("message {n}").as_bytes()
        || received.tag() != Some(tag(n))
        || received.keys() != [format!("key-{n}")]
}

async fn receive(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let topic = arguments.text("topic")?;
    let invisible = Duration::from_secs(arguments.number("invisible", 15)? as u64);
    let filter = arguments.filter()?;

    let mut option = SimpleConsumerOption::default();
    option.set_consumer_group(arguments.text("group")?);
    option.set_topics(vec![topic]);
    let mut consumer = SimpleConsumer::new(option, arguments.client_option()?)?;
    consumer.start().await?;

    let (mut errors, mut tally) = (Errors::default(), Tally::new(arguments)?);
    while !tally.is_enough() {
        let messages = match consumer.receive_with(topic, &filter, RECEIVE_MAX, invisible).await {
            Ok(messages) => messages,
            Err(error) => {
                errors.add(error).await;
                continue;
            }
        };
        for received in messages {
            let n: usize = received.properties().get("n").ok_or("a message has no number")?.parse()?;
            // The client cannot give a message back: it comes again when its lease has ended.
            if !tally.fails(n) {
                errors.repeat(tally.end, || consumer.ack(&received)).await?;
                tally.add(n, &received);
            }
        }
    }
    consumer.shutdown().await?;
    Ok(json!({
        "client": "rust",
        "values": tally.values,
        "failed": tally.failed,
        "wrong": tally.wrong,
        "errors": errors.count,
        "error": errors.latest,
    }))
}

/// Returns the version of the client in the lock file by which this program was built.
fn version() -> Result<Value, Box<dyn Error>> {
    let mut lines = include_str!("../Cargo.lock").lines();
    lines.find(|line| *line == "name = \"rocketmq\"").ok_or("the lock file does not name the client")?;
    let version = lines.next().and_then(|line| line.strip_prefix("version = "));
    let version = version.ok_or("the lock file has no version of the client")?;
    Ok(json!({"client": "rust", "version": version.trim_matches('"')}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (action, arguments) = Arguments::read()?;
    let report = match action.as_str() {
        "version" => version()?,
        "publish" => publish(&arguments).await?,
        "pending" => pending(&arguments).await?,
        "receive" => receive(&arguments).await?,
        other => return Err(format!("the client has no action {other}").into()),
    };
    println!("{report}");
    Ok(())
}
