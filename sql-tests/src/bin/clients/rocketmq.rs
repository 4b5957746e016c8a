//! The official RocketMQ clients publish, receive what a selector matches and acknowledge it, with a crash of the
//! broker in between; keep the order of message groups; and send messages that are delayed, or in transactions.

use std::{collections::BTreeSet, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_sql_tests::toolchain::Program;

use crate::{
    Checked, Outcome,
    broker::{self, Weir},
};

/// Messages that each client publishes.
const MESSAGES: usize = 300;

/// Messages that each client acknowledges before the crash. It has received more by then.
const BEFORE_CRASH: usize = 40;

/// FIFO messages that each client publishes, and into how many message groups.
const IN_LINES: usize = 60;
const LINES: usize = 7;

/// Messages that each client delays, recalls, and sends in transactions.
const PENDING: usize = 50;

/// What the clients want: strings, numbers and missing values. [`matches()`] says the same in Rust.
const SELECTOR: &str = "color = 'red' AND n >= 30 AND (price IS NULL OR price < 400.5)";

const CLIENT_MAX: Duration = Duration::from_secs(120);

/// A client, by the name of its directory.
#[derive(Clone, Debug)]
struct Client {
    name: &'static str,
    program: Program,
    has_push: bool,
}

/// Checks all clients, side by side.
pub(crate) fn check(weir: &Path) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    let mut clients = Vec::new();
    for (name, toolchain, program, has_push) in [
        ("python", "python3", Program::python("python"), true),
        ("node", "node and npm", Program::node("node"), true),
        ("rust", "cargo", Program::rust("rust"), false),
    ] {
        match program {
            Ok(Some(program)) => clients.push(Client { name, program, has_push }),
            Ok(None) => {
                let why = format!("{toolchain} is not on this machine");
                checked.push((format!("rocketmq-{name}"), Outcome::Skipped(why)));
            }
            Err(error) => checked.push((format!("rocketmq-{name}"), Outcome::Failed(format!("{error:#}")))),
        }
    }
    checked.extend(crash_between(weir, &clients)?);
    checked.extend(in_order(weir, &clients)?);
    checked.extend(later(weir, &clients)?);
    Ok(checked)
}

/// FIFO messages of several message groups, received by a FIFO group; where the client has a push consumer, its
/// listener fails at times and the client tries again before it goes on.
fn in_order(weir: &Path, clients: &[Client]) -> Result<Vec<Checked>> {
    let home = tempfile::tempdir().context("cannot create a directory")?;
    let (data, home) = (home.path().join("data"), home.path());
    let broker = Weir::start(weir, &data)?;
    for client in clients {
        let group = format!("lined-{}", client.name);
        broker::run(weir, &broker.endpoint, &["group", "create", &group, "--retry", "1s", "--fifo"])?;
    }
    let ordered = side_by_side(clients, |client| publish_and_keep_order(client, &broker.endpoint, home));
    broker.stop()?;
    let named = |(client, result): (&Client, Result<()>)| {
        (format!("rocketmq-{} keeps the order of FIFO messages", client.name), outcome(result))
    };
    Ok(clients.iter().zip(ordered).map(named).collect())
}

/// Messages that nobody is to see at once, or ever: see `sql-tests/clients/README.md`.
fn later(weir: &Path, clients: &[Client]) -> Result<Vec<Checked>> {
    let home = tempfile::tempdir().context("cannot create a directory")?;
    let (data, home) = (home.path().join("data"), home.path());
    let broker = Weir::start(weir, &data)?;
    let results = side_by_side(clients, |client| send_and_receive_later(client, &broker.endpoint, home));
    broker.stop()?;
    let named = |(client, result): (&Client, Result<()>)| {
        (format!("rocketmq-{} delays, recalls, commits and rolls back", client.name), outcome(result))
    };
    Ok(clients.iter().zip(results).map(named).collect())
}

fn send_and_receive_later(client: &Client, endpoint: &str, home: &Path) -> Result<()> {
    let topic = format!("orders-{}", client.name);
    let count = PENDING.to_string();
    let arguments = ["pending", "--endpoint", endpoint, "--topic", &topic, "--count", &count];
    let report = client.program.run(&arguments, home, CLIENT_MAX)?;
    ensure!(report["published"] == PENDING, "the client says {report}");
    let expected: Vec<usize> = (0..PENDING)
        .filter(|n| match n % 5 {
            0 | 2 => true,
            4 => n.is_multiple_of(2),
            _ => false,
        })
        .collect();
    let expect = expected.len().to_string();
    let mut received = consume(client, "receive", "later", "TRUE", endpoint, home, &["--expect", &expect])?;
    received.sort_unstable();
    ensure!(received == expected, "received {received:?}");
    Ok(())
}

fn publish_and_keep_order(client: &Client, endpoint: &str, home: &Path) -> Result<()> {
    let topic = format!("orders-{}", client.name);
    let (count, lines) = (IN_LINES.to_string(), LINES.to_string());
    let arguments =
        ["publish", "--endpoint", endpoint, "--topic", &topic, "--count", &count, "--lines", &lines];
    let report = client.program.run(&arguments, home, CLIENT_MAX)?;
    ensure!(report["published"] == IN_LINES, "the client says {report}");
    let more = ["--expect", &count, "--fail-every", "20"];
    let (action, more) = if client.has_push { ("push", &more[..]) } else { ("receive", &more[..2]) };
    let received = consume(client, action, "lined", "TRUE", endpoint, home, more)?;
    for line in 0..LINES {
        let came: Vec<_> = received.iter().filter(|n| **n % LINES == line).collect();
        let sent: Vec<_> = (0..IN_LINES).filter(|n| n % LINES == line).collect();
        ensure!(came.iter().copied().eq(&sent), "of line {line} came {came:?}");
    }
    Ok(())
}

/// Each client has its own topic and groups, so they run at the same time; the broker crashes once for all.
fn crash_between(weir: &Path, clients: &[Client]) -> Result<Vec<Checked>> {
    let home = tempfile::tempdir().context("cannot create a directory")?;
    let (data, home) = (home.path().join("data"), home.path());
    let broker = Weir::start(weir, &data)?;
    let before = side_by_side(clients, |client| publish_and_begin(client, &broker.endpoint, home));
    broker.kill()?;
    let broker = Weir::start(weir, &data)?;
    let after = side_by_side(clients, |client| finish(client, &broker.endpoint, home));
    broker.stop()?;

    let mut checked = Vec::new();
    for ((client, before), after) in clients.iter().zip(before).zip(after) {
        let name = |what| format!("rocketmq-{} {what}", client.name);
        let (simple, pushed) = match after {
            Ok(After { simple, pushed }) => (Ok(simple), pushed.map(Ok)),
            Err(error) => (Err(error), None),
        };
        let simple = before.and_then(|before| compare(&before, &simple?));
        checked.push((name("publishes, receives by selector, and goes on after a crash"), outcome(simple)));
        if let Some(pushed) = pushed {
            checked.push((
                name("push consumer receives by selector"),
                outcome(pushed.and_then(|p| complete(&p))),
            ));
        }
    }
    Ok(checked)
}

fn side_by_side<T: Send>(clients: &[Client], act: impl Fn(&Client) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let act = &act;
        let running: Vec<_> = clients.iter().map(|client| scope.spawn(move || act(client))).collect();
        running.into_iter().map(|thread| thread.join().expect("a check does not panic")).collect()
    })
}

/// The numbers of messages that a client acknowledged, in order.
type Numbers = Vec<usize>;

struct After {
    simple: Numbers,
    pushed: Option<Numbers>,
}

fn publish_and_begin(client: &Client, endpoint: &str, home: &Path) -> Result<Numbers> {
    let topic = format!("orders-{}", client.name);
    let count = MESSAGES.to_string();
    let arguments = ["publish", "--endpoint", endpoint, "--topic", &topic, "--count", &count];
    let report = client.program.run(&arguments, home, CLIENT_MAX)?;
    ensure!(report["published"] == MESSAGES, "the client says {report}");
    let limit = BEFORE_CRASH.to_string();
    consume(client, "receive", "readers", SELECTOR, endpoint, home, &["--limit", &limit, "--invisible", "10"])
}

fn finish(client: &Client, endpoint: &str, home: &Path) -> Result<After> {
    let all = expected().len();
    let rest = (all - BEFORE_CRASH).to_string();
    let simple = consume(client, "receive", "readers", SELECTOR, endpoint, home, &["--expect", &rest])?;
    let all = all.to_string();
    let push = || consume(client, "push", "pushed", SELECTOR, endpoint, home, &["--expect", &all]);
    let pushed = if client.has_push { Some(push()?) } else { None };
    Ok(After { simple, pushed })
}

fn consume(
    client: &Client,
    action: &str,
    group: &str,
    selector: &str,
    endpoint: &str,
    home: &Path,
    more: &[&str],
) -> Result<Numbers> {
    let topic = format!("orders-{}", client.name);
    let group = format!("{group}-{}", client.name);
    let mut arguments = vec![action, "--endpoint", endpoint, "--topic", &topic, "--group", &group];
    arguments.extend(["--where", selector]);
    arguments.extend(more);
    let report = client.program.run(&arguments, home, CLIENT_MAX)?;
    ensure!(report["wrong"] == 0, "messages came out other than they went in: {report}");
    let values = report["values"].as_array().with_context(|| format!("the client says {report}"))?;
    let number = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse().ok());
    values.iter().map(number).collect::<Option<_>>().with_context(|| format!("the client says {report}"))
}

fn matches(n: usize) -> bool {
    let price = (!n.is_multiple_of(5)).then_some(n as f64 * 1.5);
    n.is_multiple_of(3) && n >= 30 && price.is_none_or(|price| price < 400.5)
}

fn expected() -> BTreeSet<usize> {
    (0..MESSAGES).filter(|n| matches(*n)).collect()
}

/// What was acknowledged before the crash does not come again, and everything else that matches comes.
fn compare(before: &Numbers, after: &Numbers) -> Result<()> {
    ensure!(before.len() == BEFORE_CRASH, "{} messages were received before the crash", before.len());
    let first: BTreeSet<_> = before.iter().copied().collect();
    let repeated: Vec<_> = after.iter().filter(|n| first.contains(n)).collect();
    ensure!(repeated.is_empty(), "acknowledged before the crash and received again: {repeated:?}");
    let all: Vec<_> = before.iter().chain(after).copied().collect();
    complete(&all)
}

/// Everything that matches came, once, and nothing else.
fn complete(received: &Numbers) -> Result<()> {
    let mut distinct = BTreeSet::new();
    let twice: Vec<_> = received.iter().filter(|n| !distinct.insert(**n)).collect();
    let expected = expected();
    let missing: Vec<_> = expected.difference(&distinct).collect();
    let extra: Vec<_> = distinct.difference(&expected).collect();
    ensure!(
        twice.is_empty() && missing.is_empty() && extra.is_empty(),
        "received twice: {twice:?}; missing: {missing:?}; not asked for: {extra:?}"
    );
    Ok(())
}

fn outcome(result: Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
