//! Who works while the broker is killed: the load program on the official client, and producers on `Produce` of
//! Flight, which is told where each message went. What they did and were told comes in one order, as events.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weir_server::flight::client::{Client, ConnectOptions};

use crate::content::{Content, Random};

/// How long the load program may take to say what has happened.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Numbers from here on are those of messages that went in by Flight.
pub(crate) const FLIGHT: u64 = 1 << 40;

/// Something that happened outside of the broker. A call is named by the number of its first message.
#[derive(Debug)]
pub(crate) enum Event {
    /// A call is about to be made.
    Send { first: u64, topic: String, ids: Vec<String> },
    /// The same once more.
    Again { first: u64 },
    /// The call was acknowledged, by Flight with queue and offset of each message.
    Sent { first: u64, places: Option<Vec<(u32, u64)>> },
    /// A message was delivered, with the content that it should have.
    Got { n: u64, topic: String, id: String },
    /// The broker confirmed that a message is acknowledged.
    Acked { n: u64 },
    /// The broker refused an acknowledgement.
    Refused,
    /// Something was not as it must be.
    Wrong(String),
    /// Producers of the load program are done.
    Drained,
    /// Everything before the mark has been told.
    Mark(u64),
    /// The load program is gone.
    Ended,
}

/// Load on a broker at one address. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Load {
    process: Child,
    words: ChildStdin,
    events: Receiver<Event>,
    marks: u64,
    flight_ends: Arc<AtomicBool>,
}

/// What the load is to do.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) address: String,
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) pause_ms: u64,
    pub(crate) producers: usize,
    pub(crate) consumers: usize,
}

impl Load {
    /// Starts `program` and the producers by Flight. All that happens is also written to `home/events.log`.
    pub(crate) fn start(program: &Path, home: &Path, task: &Task) -> Result<Self> {
        let log = File::create(home.join("load.log")).context("cannot create the log of the load")?;
        let mut process = Command::new(program)
            .args(["--endpoint", &task.address, "--group", &task.group, "--topics", &task.topics.join(",")])
            .args(["--seed", &task.seed.to_string(), "--pause-ms", &task.pause_ms.to_string()])
            .args(["--producers", &task.producers.to_string(), "--consumers", &task.consumers.to_string()])
            .current_dir(home)
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let words = process.stdin.take().context("the input of the load is not piped")?;
        let output = process.stdout.take().context("the output of the load is not piped")?;
        let kept = File::create(home.join("events.log")).context("cannot keep events")?;
        let (sender, events) = std::sync::mpsc::channel();
        let teller = Teller { kept: Arc::new(Mutex::new(kept)), events: sender };
        let told = teller.clone();
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| told.tell(&line));
            let _ = told.events.send(Event::Ended);
        });
        let flight_ends = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(AtomicU64::new(FLIGHT));
        for (stream, topic) in task.topics.iter().enumerate() {
            let producer = Flight {
                topic: topic.clone(),
                task: task.clone(),
                random: Random::new(task.seed, (1 << 52) + stream as u64),
                numbers: Arc::clone(&numbers),
                teller: teller.clone(),
                ends: Arc::clone(&flight_ends),
            };
            tokio::spawn(producer.run());
        }
        Ok(Self { process, words, events, marks: 0, flight_ends })
    }

    /// Gives everything that has happened up to now to `note`.
    pub(crate) fn catch_up(&mut self, mut note: impl FnMut(Event) -> Result<()>) -> Result<()> {
        self.marks += 1;
        let mark = self.marks;
        self.say(&format!("mark {mark}"))?;
        loop {
            match self.next(ANSWER_MAX)? {
                Some(Event::Mark(found)) if found == mark => return Ok(()),
                Some(event) => note(event)?,
                None => bail!("the load program has not answered for {ANSWER_MAX:?}"),
            }
        }
    }

    /// Returns what happened next, or `None` if nothing did for so long.
    pub(crate) fn next(&mut self, wait: Duration) -> Result<Option<Event>> {
        match self.events.recv_timeout(wait) {
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                bail!("the load program ended with {}", self.process.wait()?)
            }
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
        }
    }

    /// Has producers finish what they do, and consumers leave nothing.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.flight_ends.store(true, Ordering::Relaxed);
        self.say("drain")
    }

    fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.words, "{word}").context("the load program does not listen")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.flight_ends.store(true, Ordering::Relaxed);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Event {
    /// Reads a line of the load program, or of a producer by Flight, which adds places to `sent`.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ');
        let mut number = || words.next()?.parse().ok();
        Some(match word {
            "send" => Self::Send {
                first: number()?,
                topic: words.next()?.to_owned(),
                ids: words.map(str::to_owned).collect(),
            },
            "again" => Self::Again { first: number()? },
            "sent" => {
                let first = number()?;
                let place = |word: &str| {
                    let (queue, offset) = word.split_once(':')?;
                    Some((queue.parse().ok()?, offset.parse().ok()?))
                };
                let places: Vec<_> = words.map(place).collect::<Option<_>>()?;
                Self::Sent { first, places: (!places.is_empty()).then_some(places) }
            }
            "got" => {
                Self::Got { n: number()?, topic: words.next()?.to_owned(), id: words.next()?.to_owned() }
            }
            "acked" => Self::Acked { n: number()? },
            "refused" | "gave-up" => Self::Refused,
            "mark" => Self::Mark(number()?),
            "drained" => Self::Drained,
            "wrong" => Self::Wrong(rest.to_owned()),
            _ => return None,
        })
    }
}

/// Tells what happens, and keeps it in a file for those who have to look for a fault.
#[derive(Clone, Debug)]
struct Teller {
    kept: Arc<Mutex<File>>,
    events: Sender<Event>,
}

impl Teller {
    fn tell(&self, line: &str) {
        let event = Event::parse(line).unwrap_or_else(|| Event::Wrong(format!("{line:?}")));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(kept, "{line}");
        // At the end nobody listens any more.
        let _ = self.events.send(event);
    }
}

/// A producer that is told queues and offsets.
struct Flight {
    topic: String,
    task: Task,
    random: Random,
    numbers: Arc<AtomicU64>,
    teller: Teller,
    ends: Arc<AtomicBool>,
}

impl Flight {
    async fn run(mut self) {
        while !self.ends.load(Ordering::Relaxed) {
            let uri = format!("grpc://{}", self.task.address);
            if let Ok(client) = Client::connect(&uri, &ConnectOptions::default()).await {
                self.produce(&client).await;
            }
            self.pause(30).await;
        }
    }

    /// Publishes until nobody listens for what comes of it, or until the end. The connection finds the broker
    /// again by itself.
    async fn produce(&mut self, client: &Client) {
        while !self.ends.load(Ordering::Relaxed) {
            let count = if self.random.percent(50) { 1 } else { self.random.within(2, 6) };
            let first = self.numbers.fetch_add(count, Ordering::Relaxed);
            let ids: Vec<String> =
                (first..first + count).map(|n| format!("flight-{:x}-{n}", self.task.seed)).collect();
            let messages: Vec<_> = (first..).zip(&ids).map(|(n, id)| self.message(n, id)).collect();
            let body = json!({"topic": self.topic, "untyped": true, "messages": messages});
            self.teller.tell(&format!("send {first} {} {}", self.topic, ids.join(" ")));
            let tries = if self.random.percent(50) { 100 } else { 1 };
            for attempt in 0..tries {
                if attempt > 0 {
                    self.pause(80).await;
                    self.teller.tell(&format!("again {first}"));
                }
                if let Ok(answer) = client.action("Produce", &body).await {
                    self.teller.tell(&match places(&answer, count) {
                        Ok(places) => format!("sent {first} {}", places.join(" ")),
                        Err(error) => format!("wrong {error:#}"),
                    });
                    break;
                }
            }
            self.pause(4 * self.task.pause_ms + 1).await;
        }
    }

    fn message(&self, n: u64, id: &str) -> serde_json::Value {
        let content = Content::of(self.task.seed, n);
        let properties: serde_json::Map<_, _> =
            content.properties.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        json!({"properties": properties, "body": content.body, "tag": content.tag, "keys": content.keys,
               "message_id": id})
    }

    async fn pause(&mut self, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.within(0, ms_max))).await;
    }
}

/// Returns queue and offset of each message, as words.
fn places(answer: &serde_json::Value, count: u64) -> Result<Vec<String>> {
    let places: Vec<(u32, u64)> = serde_json::from_value(answer["offsets"].clone())
        .with_context(|| format!("Produce answers {answer}"))?;
    ensure!(places.len() as u64 == count, "Produce took {count} messages and answers {answer}");
    Ok(places.into_iter().map(|(queue, offset)| format!("{queue}:{offset}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_events() {
        let event = |line: &str| format!("{:?}", Event::parse(line));
        assert_eq!(event("sent 7"), r"Some(Sent { first: 7, places: None })");
        assert_eq!(event("sent 7 1:2 0:3"), r"Some(Sent { first: 7, places: Some([(1, 2), (0, 3)]) })");
        assert_eq!(event("send 7 t a b"), r#"Some(Send { first: 7, topic: "t", ids: ["a", "b"] })"#);
        assert_eq!(event("got 8 t id-8 2"), r#"Some(Got { n: 8, topic: "t", id: "id-8" })"#);
        assert_eq!(event("wrong a b"), r#"Some(Wrong("a b"))"#);
        for line in ["", "sent", "sent x", "sent 7 1", "got 8", "hello 1"] {
            assert_eq!(event(line), "None", "{line}");
        }
    }
}
