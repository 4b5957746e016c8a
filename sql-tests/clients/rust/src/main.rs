//! The official Rust client against Weir. Arguments and output: ../README.md.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
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

    fn client_option(&self) -> Result<ClientOption, String> {
        let mut option = ClientOption::default();
        option.set_access_url(self.text("endpoint")?);
        option.set_enable_tls(false);
        option.set_long_polling_timeout(Duration::from_secs(1));
        Ok(option)
    }
}

async fn publish(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let (topic, count) = (arguments.text("topic")?, arguments.number("count", 100)?);
    let lines = arguments.number("lines", 0)?;
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let mut producer = Producer::new(option, arguments.client_option()?)?;
    producer.start().await?;
    let numbers: Vec<usize> = (0..count).collect();
    // The client takes no batch of several message groups.
    let at_once = if lines > 0 { 1 } else { BATCH };
    for batch in numbers.chunks(at_once) {
        let messages =
            batch.iter().map(|n| message(topic, *n, lines).build()).collect::<Result<Vec<_>, _>>()?;
        let receipts = producer.batch_send(messages).await?;
        assert_eq!(receipts.len(), batch.len(), "a receipt for each message");
    }
    producer.shutdown().await?;
    Ok(json!({"client": "rust", "published": count}))
}

/// Messages that are delayed, or sent in transactions: see ../README.md.
async fn pending(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let (topic, count) = (arguments.text("topic")?, arguments.number("count", 100)?);
    let end = Instant::now() + Duration::from_secs(arguments.number("seconds", 60)? as u64);
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let checked = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&checked);
    let check = move |_: String, half: MessageView| {
        let n = half.properties().get("n").and_then(|n| n.parse::<usize>().ok());
        let Some(n) = n.filter(|_| !is_wrong(&half)) else { return TransactionResolution::UNKNOWN };
        seen.lock().expect("nobody panics with it").insert(n);
        if n.is_multiple_of(2) { TransactionResolution::COMMIT } else { TransactionResolution::ROLLBACK }
    };
    let mut producer =
        Producer::new_transaction_producer(option, arguments.client_option()?, Box::new(check))?;
    producer.start().await?;
    for n in 0..count {
        let made = message(topic, n, 0);
        if n % 5 == 0 {
            let due = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3;
            producer.send(made.set_delivery_timestamp(due as i64).build()?).await?;
            continue;
        }
        let transaction = producer.send_transaction_message(made.enable_transaction().build()?).await?;
        match n % 5 {
            2 => transaction.commit().await?,
            // This client recalls nothing.
            1 | 3 => transaction.rollback().await?,
            _ => {}
        }
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
    Ok(json!({"client": "rust", "published": count}))
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
    if n.is_multiple_of(2) { "even" } else { "odd" }
}

fn is_wrong(received: &MessageView) -> bool {
    let properties = received.properties();
    let Some(n) = properties.get("n").and_then(|n| n.parse().ok()) else { return false };
    if !properties.contains_key("color") {
        return false;
    }
    received.body() != format!("message {n}").as_bytes()
        || received.tag() != Some(tag(n))
        || received.keys() != [format!("key-{n}")]
}

async fn receive(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let topic = arguments.text("topic")?;
    let limit = arguments.number("limit", usize::MAX)?;
    let expect = arguments.number("expect", usize::MAX)?;
    let property = arguments.text("property").unwrap_or("n");
    let invisible = Duration::from_secs(arguments.number("invisible", 15)? as u64);
    let end = Instant::now() + Duration::from_secs(arguments.number("seconds", 60)? as u64);
    let filter = FilterExpression::new(FilterType::Sql, arguments.text("where")?);

    let mut option = SimpleConsumerOption::default();
    option.set_consumer_group(arguments.text("group")?);
    option.set_topics(vec![topic]);
    let mut consumer = SimpleConsumer::new(option, arguments.client_option()?)?;
    consumer.start().await?;

    let (mut values, mut wrong, mut latest) = (Vec::new(), 0, Instant::now());
    while values.len() < limit && Instant::now() < end {
        if values.len() >= expect && latest.elapsed() > Duration::from_secs(2) {
            break;
        }
        for received in consumer.receive_with(topic, &filter, 32, invisible).await? {
            if values.len() >= limit {
                break;
            }
            consumer.ack(&received).await?;
            wrong += usize::from(is_wrong(&received));
            values.push(received.properties().get(property).cloned());
            latest = Instant::now();
        }
    }
    consumer.shutdown().await?;
    Ok(json!({"client": "rust", "values": values, "wrong": wrong}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (action, arguments) = Arguments::read()?;
    let report = match action.as_str() {
        "publish" => publish(&arguments).await?,
        "pending" => pending(&arguments).await?,
        "receive" => receive(&arguments).await?,
        other => return Err(format!("the client has no action {other}").into()),
    };
    println!("{report}");
    Ok(())
}
