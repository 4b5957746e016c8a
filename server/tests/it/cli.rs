//! The binary as a user meets it: every command, its exit code and its JSON, and what a start and a stop do.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");
const START_MAX: Duration = Duration::from_secs(60);
/// What the documentation promises.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A running broker. It is killed when dropped.
pub(crate) struct Served {
    process: Child,
    pub(crate) uri: String,
}

impl Served {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &["--listen", "127.0.0.1:0"])
    }

    pub(crate) fn start_with(data: &Path, words: &[&str]) -> Self {
        let process = weir()
            .arg("serve")
            .args(words)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self::over(process, data)
    }

    /// Waits until a broker that was started is ready.
    pub(crate) fn over(mut process: Child, data: &Path) -> Self {
        let (sender, lines) = mpsc::channel();
        let output = process.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = lines.recv_timeout(START_MAX).expect("a broker that starts says that it is ready");
        let uri = line.strip_prefix("ready on ").and_then(|rest| rest.split(' ').next()).unwrap();
        assert_eq!(line, format!("ready on {uri} (data {})", data.display()));
        Self { uri: uri.to_owned(), process }
    }

    /// Returns where it serves, as HOST:PORT.
    pub(crate) fn address(&self) -> &str {
        self.uri.split_once("://").map_or(&self.uri, |(_, address)| address)
    }

    /// Returns the number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Runs a command of the binary against this broker.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        run(&[words, &["--server", &self.uri]].concat(), "")
    }

    pub(crate) fn run_with_input(&self, words: &[&str], input: &str) -> Ran {
        run(&[words, &["--server", &self.uri]].concat(), input)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let ran = self.run(&[words, &["--json"]].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{words:?}: {error} in {}", ran.out))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the end, and returns the exit code.
    fn ended(mut self, within: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < within {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the broker did not end within {within:?}");
    }

    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        assert_eq!(self.ended(STOP_MAX), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn weir() -> Command {
    let mut command = Command::new(WEIR);
    for variable in [
        "WEIR_SERVER",
        "WEIR_DATA",
        "WEIR_CONFIG",
        "WEIR_LOG",
        "WEIR_LOG_FORMAT",
        "WEIR_CA",
        "WEIR_USER",
        "WEIR_PASSWORD",
        "WEIR_PASSWORD_FILE",
    ] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(words: &[&str], input: &str) -> Ran {
    let mut command = weir();
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let writer = feed(process.stdin.take().unwrap(), input);
    let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        code: status.code().expect("no command ends by a signal"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn feed(mut stdin: ChildStdin, input: &str) -> thread::JoinHandle<()> {
    let input = input.to_owned();
    // A command that reads nothing closes its input, which is no fault.
    thread::spawn(move || drop(stdin.write_all(input.as_bytes())))
}

#[track_caller]
pub(crate) fn refused(ran: &Ran, code: i32, says: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert!(ran.err.contains(says), "{says:?} is not in {}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

pub(crate) fn data() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn topics_are_made_shown_changed_and_deleted() {
    let data = data();
    let broker = Served::start(data.path());
    let made = broker.json(&["topic", "create", "orders", "--queues", "2", "--class", "async"]);
    assert_eq!((made["name"].as_str(), made["class"].as_str()), (Some("orders"), Some("async")));
    assert_eq!(made["queues"].as_array().unwrap().len(), 2);
    refused(&broker.run(&["topic", "create", "orders"]), 4, "exists already");
    assert_eq!(broker.run(&["topic", "create", "orders", "--if-not-exists"]).code, 0);
    refused(&broker.run(&["topic", "create", "a b"]), 4, "allowed are letters");
    let altered = broker.json(&[
        "topic",
        "alter",
        "orders",
        "--queues",
        "3",
        "--retention",
        "2days",
        "--retention-bytes",
        "10GiB",
    ]);
    assert_eq!(altered["retention_ms"], json!(2 * 24 * 60 * 60 * 1000));
    assert_eq!(altered["retention_bytes"], json!(10_u64 << 30));
    assert_eq!(broker.json(&["topic", "describe", "orders"]), altered);
    assert_eq!(broker.json(&["topic", "list"])["topics"], json!([altered]));
    assert!(broker.run(&["topic", "list"]).out.contains("orders"));
    assert_eq!(altered["type"], "mixed");
    let priority = broker.json(&["topic", "create", "urgent", "--type", "PRIORITY"]);
    assert_eq!(priority["type"], "priority");
    let sent = broker.run_with_input(&["produce", "urgent"], "{\"priority\":3}\n{\"priority\":1}\n");
    assert_eq!(sent.code, 0, "{}", sent.err);
    refused(&broker.run_with_input(&["produce", "urgent"], "{}\n"), 4, "takes no NORMAL messages");
    assert_eq!(broker.json(&["topic", "alter", "urgent", "--type", "normal"])["type"], "normal");
    assert!(broker.run(&["topic", "describe", "urgent"]).out.contains("type       normal"));
    refused(&broker.run(&["topic", "alter", "urgent", "--type", "odd"]), 2, "there is no topic type");
    assert_eq!(broker.run(&["topic", "delete", "urgent", "--yes"]).code, 0);
    refused(&broker.run(&["topic", "alter", "orders"]), 2, "nothing to change");
    refused(&broker.run(&["topic", "describe", "order"]), 3, "did you mean orders?");
    refused(&broker.run(&["topic", "delete", "orders"]), 2, "give --yes");
    assert_eq!(broker.run(&["topic", "describe", "orders"]).code, 0);
    assert_eq!(broker.run(&["topic", "delete", "orders", "--yes"]).code, 0);
    refused(&broker.run(&["topic", "delete", "orders"]), 3, "does not exist");
    assert_eq!(broker.run(&["topic", "delete", "orders", "--if-exists"]).code, 0);
    broker.stop();
}

#[test]
fn groups_that_read_lite_topics_are_made_shown_and_not_moved() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "events", "--type", "lite", "--queues", "2"]);
    broker.json(&["topic", "create", "orders"]);
    let words = ["group", "create", "sessions", "--lite-topic", "events", "--lite-quota", "7"];
    let made = broker.json(&words);
    assert_eq!(made["spec"]["lite"], json!({ "topic": "events", "exclusive": false, "quota": 7 }));
    assert_eq!(made["spec"]["fifo"], true);
    let altered = broker.json(&["group", "alter", "sessions", "--lite-quota", "9"]);
    assert_eq!(altered["spec"]["lite"]["quota"], 9);
    let exclusive = ["group", "create", "alone", "--lite-topic", "events", "--lite-exclusive"];
    assert_eq!(broker.json(&exclusive)["spec"]["lite"]["exclusive"], true);
    let shown = broker.run(&["group", "describe", "alone"]).out;
    assert!(shown.contains("of events, exclusive, 1,200 a client"), "{shown}");
    let wildcard = ["group", "create", "all", "--lite-topic", "events", "--lite-wildcard"];
    assert_eq!(broker.json(&wildcard)["spec"]["lite"]["wildcard"], true);
    let shown = broker.run(&["group", "describe", "all"]).out;
    assert!(shown.contains("all of events\n"), "{shown}");
    let sent = broker.run_with_input(&["produce", "events"], "{\"lite_topic\":\"a\"}\n");
    assert_eq!(sent.code, 0, "{}", sent.err);
    refused(&broker.run_with_input(&["produce", "events"], "{}\n"), 4, "takes no NORMAL messages");
    refused(&broker.run_with_input(&["produce", "events"], "{\"lite_topic\":\"a b\"}\n"), 4, "lite topic");
    for (words, code, text) in [
        (&["group", "create", "h", "--lite-topic", "orders"][..], 4, "is of type mixed"),
        (&["group", "create", "h", "--lite-topic", "nothing"], 3, "does not exist"),
        (&["group", "create", "h", "--lite-quota", "5"], 2, "need --lite-topic"),
        (&["group", "create", "h", "--lite-wildcard"], 2, "need --lite-topic"),
        (
            &["group", "create", "h", "--lite-topic", "events", "--lite-wildcard", "--lite-exclusive"],
            2,
            "cannot be used with",
        ),
        (&["group", "alter", "all", "--lite-wildcard", "false"], 2, "is fixed when it is made"),
        (&["group", "create", "h", "--lite-topic", "events", "--lite-quota", "0"], 2, "0 is not in"),
        (&["group", "alter", "sessions", "--lite-topic", "events"], 2, "is fixed when it is made"),
        (&["group", "alter", "sessions", "--fifo", "false"], 4, "is FIFO"),
        (&["group", "reset", "sessions", "events", "--to", "latest", "--yes"], 4, "its clients say where"),
        (&["topic", "alter", "events", "--queues", "3"], 4, "is fixed when it is made"),
        (&["topic", "alter", "orders", "--type", "lite"], 4, "is fixed when it is made"),
    ] {
        refused(&broker.run(words), code, text);
    }
    broker.stop();
}

#[test]
fn groups_are_made_shown_changed_moved_and_deleted() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "t", "--queues", "1"]);
    let words = ["group", "create", "g", "--max-attempts", "3", "--retry", "1s,2s", "--start", "latest"];
    let made = broker.json(&words);
    assert_eq!(made["spec"]["max_attempts"], 3);
    assert_eq!(made["spec"]["retry"], json!({ "customized_ms": [1000, 2000] }));
    refused(&broker.run(&words), 4, "exists already");
    let altered = broker.json(&["group", "alter", "g", "--start", "earliest", "--retry-initial", "3s"]);
    assert_eq!(altered["spec"]["retry"]["exponential"]["initial_ms"], 3000);
    assert_eq!(broker.json(&["group", "list"])["groups"][0]["name"], "g");

    let lines = "{\"body\":\"a\"}\n{\"body\":\"b\"}\n{\"body\":\"c\"}\n";
    assert_eq!(broker.run_with_input(&["produce", "t"], lines).code, 0);
    let consume = ["consume", "t", "--group", "g", "--json", "--wait", "200ms"];
    assert_eq!(broker.run(&consume).out.lines().count(), 3);
    assert_eq!(broker.run(&consume).out, "");
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described["topics"][0]["queues"][0]["committed"], 3);
    assert_eq!(described["topics"][0]["queues"][0]["to_deliver"], 0);
    assert!(broker.run(&["group", "describe", "g"]).out.contains("behind"));
    refused(&broker.run(&["group", "reset", "g", "t", "--to", "0:1"]), 2, "give --yes");
    assert_eq!(broker.run(&["group", "reset", "g", "t", "--to", "0:1", "--yes"]).code, 0);
    let queue = &broker.json(&["group", "describe", "g"])["topics"][0]["queues"][0];
    assert_eq!((&queue["to_deliver"], &queue["to_deliver_complete"]), (&json!(2), &json!(true)));
    let queue = &broker.json(&["group", "describe", "g", "--within", "0s"])["topics"][0]["queues"][0];
    assert!(queue.get("to_deliver").is_none());
    assert_eq!(broker.run(&consume).out.lines().count(), 2);
    refused(&broker.run(&["group", "reset", "g", "t", "--to", "soon"]), 2, "earliest, latest");
    refused(&broker.run(&["group", "delete", "g"]), 2, "give --yes");
    assert_eq!(broker.run(&["group", "delete", "g", "--yes"]).code, 0);
    refused(&broker.run(&["group", "describe", "g"]), 3, "does not exist");
    broker.stop();
}

#[test]
fn what_goes_in_comes_out_in_every_way() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "sales"]);
    let file = data.path().join("sales.csv");
    fs::write(&file, "region,price,note\nEU,10,\nUS,12.5,big\nEU,NA,\nEU,7,small\n").unwrap();
    let path = file.to_str().unwrap();
    let stored = broker.json(&["produce", "sales", path, "--null", "NA", "--tag", "region"]);
    assert_eq!((stored["topic"].as_str(), stored["stored"].as_u64()), (Some("sales"), Some(4)));

    let ran = broker.run(&["consume", "sales", "--where", "region = 'EU' AND price > 8", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let message: Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!(message["properties"], json!({ "region": "EU", "price": "10" }));
    assert_eq!(message["body"], "{\"region\":\"EU\",\"price\":10}");
    assert_eq!((message["tag"].as_str(), message["attempt"].as_u64()), (Some("EU"), Some(1)));
    assert!(broker.run(&["consume", "sales", "--where", "price IS NULL"]).out.contains("region=EU"));
    assert_eq!(broker.run(&["consume", "sales", "--limit", "2", "--json"]).out.lines().count(), 2);
    assert_eq!(broker.json(&["group", "list"])["groups"], json!([]), "temporary groups are deleted");

    let pulled = broker.run(&["pull", "sales", "--where", "price > 8", "--columns", "region,price"]);
    let mut rows: Vec<Value> = pulled.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.sort_by_key(|row| row["region"].to_string());
    assert_eq!(rows, [json!({"region": "EU", "price": 10.0}), json!({"region": "US", "price": 12.5})]);
    for (name, magic) in [("p.arrow", &b"ARROW1"[..]), ("p.parquet", b"PAR1"), ("p.csv", b"queue_id,")] {
        let output = data.path().join(name);
        let pulled = broker.json(&["pull", "sales", "-o", output.to_str().unwrap()]);
        assert_eq!(pulled["rows"], 4, "{name}");
        assert!(fs::read(&output).unwrap().starts_with(magic), "{name}");
    }
    refused(&broker.run(&["pull", "sales", "-o", "x.xls"]), 2, "--format");

    let sql = "SELECT region, count(*) AS n, max(price) AS top FROM sales GROUP BY region ORDER BY region";
    assert_eq!(
        broker.json(&["query", sql]),
        json!([{"region": "EU", "n": 3, "top": 10.0}, {"region": "US", "n": 1, "top": 12.5}])
    );
    assert_eq!(broker.run(&["query", sql, "--format", "csv"]).out, "region,n,top\nEU,3,10.0\nUS,1,12.5\n");
    let table = broker.run(&["query", sql]).out;
    assert!(table.contains("region") && table.contains("12.5"), "{table}");
    assert_eq!(broker.json(&["query", "SELECT * FROM sales WHERE region = 'XX'"]), json!([]));
    broker.stop();
}

#[test]
fn faults_have_their_exit_codes_and_say_what_to_do() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "t"]);
    let lines = "{\"properties\":{\"a\":1}}\n{\"properties\":{\"a\":[1]}}\n";
    let ran = broker.run_with_input(&["produce", "t"], lines);
    refused(&ran, 4, "standard input:2: property \"a\"");
    refused(&ran, 4, "1 message is stored");
    refused(&broker.run_with_input(&["produce", "x"], ""), 3, "weir topic create x");
    refused(&broker.run(&["produce", "t", "/nowhere/file.csv"]), 3, "cannot read /nowhere/file.csv");
    refused(&broker.run(&["consume", "x"]), 3, "topic x does not exist");
    refused(&broker.run(&["consume", "t", "--where", "a = "]), 4, "^");
    refused(&broker.run(&["pull", "t", "--where", "a >"]), 4, "^");
    refused(&broker.run(&["pull", "x"]), 3, "does not exist");
    refused(&broker.run(&["query", "SELEC 1"]), 4, "SELEC");
    refused(&broker.run(&["query", "SELECT * FROM x"]), 3, "there is no table public.x");
    refused(&broker.run(&["frobnicate"]), 2, "Usage");
    refused(&run(&["topic", "list", "--server", "http://x"], ""), 2, "grpc://HOST:PORT");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&run(&["topic", "list", "--server", &format!("grpc://{free}")], ""), 5, "weir serve");
    let ran = broker.run(&["topic", "describe", "x", "--json"]);
    let error: Value = serde_json::from_str(ran.err.trim()).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exit"]), (&json!("not_found"), &json!(3)));
    broker.stop();
}

#[test]
fn selectors_are_checked_without_a_broker() {
    let ran = run(&["selector", "check", "origin = 'JFK' AND dest <> 'LGA'"], "");
    assert_eq!((ran.code, ran.out.as_str()), (0, "ok: reads origin, dest\n"));
    refused(&run(&["selector", "check", "price > "], ""), 4, "|         ^");
    let ran = run(&["selector", "check", "price >", "--json"], "");
    let answer: Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!((ran.code, &answer["ok"], &answer["line"]), (4, &json!(false), &json!(1)));
    assert_eq!(run(&["selector", "check", "-"], "a IS NULL\n").code, 0);
}

#[test]
fn selectors_are_compared_with_those_of_rocketmq() {
    let ran = run(&["selector", "check", "NOT delay > 60"], "");
    assert_eq!(ran.code, 0);
    for part in ["RocketMQ's own evaluator would answer differently:", "column 1: ", "column 13: "] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
    let ran = run(&["selector", "check", "delay > 60", "--json"], "");
    let answer: Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!((&answer["dropped"], &answer["rocketmq_differs"][0]["position"]), (&Value::Null, &json!(8)));
    let ran = run(&["selector", "check", "--dialect", "rocketmq", "delay = 60 LIKE 'x%'"], "");
    assert_eq!(
        ran.out,
        "ok: reads delay\nnote: from column 12 on the text is ignored, as RocketMQ does: LIKE 'x%'\n"
    );
    refused(&run(&["selector", "check", "--dialect", "jms", "delay = 60 'x'"], ""), 4, "^");
}

#[test]
fn selectors_are_in_the_dialect_of_their_topic() {
    let data = data();
    let broker = Served::start(data.path());
    let ran = broker.run(&["topic", "create", "t", "--dialect", "rocketmq", "--json"]);
    assert!(ran.out.contains("\"dialect\":\"rocketmq\""), "{}", ran.out);
    assert_eq!(
        broker.run_with_input(&["produce", "t"], "{\"properties\":{\"n\":\"x\"},\"body\":\"b\"}").code,
        0
    );
    // TRUE where `p` is missing in `rocketmq`, and UNKNOWN in `sql92`.
    let pulled = |broker: &Served| {
        let ran = broker.run(&["pull", "t", "--where", "'x' <> p", "--columns", "n", "--format", "json"]);
        ran.out.lines().count()
    };
    assert_eq!(pulled(&broker), 1);
    let tried =
        |words: &[&str]| broker.run(&[&["selector", "try", "--topic", "t", "'x' <> p"], words].concat()).out;
    assert!(tried(&[]).contains("1 message in all"), "{}", tried(&[]));
    assert_eq!(tried(&["--dialect", "sql92"]), "no message matches\n");
    assert_eq!(broker.run(&["topic", "alter", "t", "--dialect", "sql92"]).code, 0);
    assert!(broker.run(&["topic", "describe", "t"]).out.contains("dialect    sql92"));
    assert_eq!(pulled(&broker), 0);
    assert_eq!(broker.run(&["topic", "alter", "t", "--dialect", "sql93"]).code, 2);
    assert_eq!(broker.run(&["group", "create", "g", "--dialect", "jms"]).code, 0);
    assert!(broker.run(&["group", "describe", "g"]).out.contains("dialect       jms"));
    broker.stop();
}

#[test]
fn parameters_are_bound_before_anything_else() {
    let check = |text: &str, values: &[&str]| run(&[&["selector", "check", text], values].concat(), "");
    let ran = check("a = ? AND b > ?", &["--param", "it's", "--param", "-5"]);
    assert!(ran.out.starts_with("ok: reads a, b\n"), "{}", ran.out);
    assert_eq!(check("a = :v OR b = :v", &["--param", "v=x=y"]).out, "ok: reads a, b\n");
    refused(&check("a = ?", &[]), 4, "the parameter ? has no value");
    refused(&check("a = ? AND b = ?", &["--param", "1"]), 4, "|               ^");
    refused(&check("a = 1", &["--param", "1"]), 4, "0 parameters");
    refused(&check("a = :v", &["--param", "1"]), 2, "NAME=VALUE");
    refused(&check("a = :v", &["--param", "w=1"]), 2, "no parameter :w");
    refused(&check("a = :v AND b = :w", &["--param", "w=1"]), 4, "there is no value for :v");
    let ran = check("a = ? AND b = ?", &["--param", "1", "--json"]);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &told["ok"], &told["position"]), (4, &json!(false), &json!(14)));
    // The text with its values is what the report shows.
    refused(&check("a > ?", &["--param", "TRUE"]), 4, "a >  TRUE");

    let data = data();
    let broker = Served::start(data.path());
    assert_eq!(broker.run(&["topic", "create", "t"]).code, 0);
    // Bodies that no random id can contain.
    let lines = r#"{"properties":{"who":"O'Neil","n":5},"body":"one"}"#.to_owned()
        + "\n"
        + r#"{"properties":{"who":"x' OR TRUE --","n":"05"},"body":"two"}"#
        + "\n";
    assert_eq!(broker.run_with_input(&["produce", "t"], &lines).code, 0);
    for (value, body) in [("O'Neil", "one"), ("x' OR TRUE --", "two")] {
        for command in ["consume", "pull"] {
            let ran = broker.run(&[command, "t", "--where", "who = ?", "--param", value]);
            assert_eq!(ran.code, 0, "{}", ran.err);
            let other = if body == "one" { "two" } else { "one" };
            assert!(ran.out.contains(body) && !ran.out.contains(other), "{}", ran.out);
        }
    }
    let on = ["--topic", "t", "--param", "n=5", "--param", "text='05'"];
    let diff = [&["selector", "diff", "n = :n", "n = :n AND n <> :text"], &on[..]].concat();
    let shown = broker.run(&diff).out;
    assert!(shown.contains("both select"), "{shown}");
    let explain = [&["selector", "explain", "n = :n OR n = :text"], &on[..]].concat();
    assert!(broker.run(&explain).out.contains("n = "), "{}", broker.run(&explain).out);
    refused(&broker.run(&["consume", "t", "--param", "1"]), 2, "--where");
    broker.stop();
}

#[test]
fn selectors_are_explained_tried_and_compared() {
    let data = data();
    let broker = Served::start(data.path());
    assert_eq!(broker.run(&["topic", "create", "t"]).code, 0);
    let lines: String =
        (0..100).map(|n| format!("{{\"properties\":{{\"n\":{n}}},\"body\":\"b{n}\"}}\n")).collect();
    assert_eq!(broker.run_with_input(&["produce", "t"], &lines).code, 0);
    let explain = ["selector", "explain", "--topic", "t", "n < 10 AND word IS NULL", "--analyze"];
    let shown = broker.run(&explain).out;
    for part in ["columns   n, word", "100 messages", "├─ n < 10", "10.000 %", "└─ word IS NULL", "100.000 %"]
    {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let told: Value = serde_json::from_str(&broker.run(&[&explain[..], &["--json"]].concat()).out).unwrap();
    assert_eq!((&told["whole"]["matches"], &told["judged"]), (&json!(10), &json!(100)));
    assert_eq!(told["whole"]["ms_per_million"], Value::Null, "a hundred rows say nothing of a million");
    let shown = broker.run(&["selector", "try", "--topic", "t", "n BETWEEN 3 AND 50", "--limit", "2"]).out;
    assert!(shown.contains("n=") && shown.contains("the first 2 messages; there may be more"), "{shown}");
    let shown = broker.run(&["selector", "try", "--topic", "t", "n > 990"]).out;
    assert_eq!(shown, "no message matches\n");
    let shown = broker.run(&["selector", "try", "--topic", "t", "n > 990 OR word = 'x'", "--why", "0:0"]).out;
    for part in ["OR ", "unknown", "├─ n > 990", "false", "word is missing"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let why = ["selector", "try", "--topic", "t", "n > 1", "--why", "nobody"];
    refused(&broker.run(&why), 3, "no message nobody");
    let shown = broker.run(&["selector", "diff", "--topic", "t", "n < 10", "n < 15 AND n <> 3"]).out;
    assert!(shown.contains("both select 9, the second gains 5 and loses 1"), "{shown}");
    refused(&broker.run(&["selector", "diff", "--topic", "t", "n < 10", "n <"]), 4, "|    ^");
    refused(&broker.run(&["selector", "try", "--topic", "nope", "n < 10"]), 3, "does not exist");
    refused(&broker.run(&["selector", "try", "--topic", "t", "n", "--limit", "5000"]), 4, "1000 rows");
    broker.stop();
}

#[test]
fn the_version_names_format_datafusion_and_commit() {
    let ran = run(&["--version"], "");
    for part in ["weir 0", "format 4", "DataFusion ", "commit "] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
    assert_eq!(ran.code, 0);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_its_place() {
    let dir = data();
    let file = dir.path().join("weir.toml");
    let path = file.to_str().unwrap();
    for (text, says) in [
        ("[[listener]]\naddres = \"127.0.0.1:0\"\n", "weir.toml:2:1: unknown field `addres`"),
        ("node-name = 3\n", "weir.toml:1:13: node-name:"),
        ("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"on\"\n", "certificate"),
    ] {
        fs::write(&file, text).unwrap();
        refused(&run(&["serve", "--config", path], ""), 2, says);
    }
    refused(&run(&["serve", "--config", "/nowhere/weir.toml"], ""), 1, "/nowhere/weir.toml");
    let config =
        "data = \"kept\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    fs::write(&file, config).unwrap();
    // The flag wins over the file.
    let broker = Served::start_with(&dir.path().join("flag"), &["--config", path]);
    assert!(!dir.path().join("kept").exists());
    broker.stop();
}

/// Writes a certificate for this machine with its key, and a certificate that has not signed it.
pub(crate) fn write_certificates(dir: &Path) {
    let made =
        || rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let server = made();
    fs::write(dir.join("server.pem"), server.cert.pem()).unwrap();
    fs::write(dir.join("server.key"), server.signing_key.serialize_pem()).unwrap();
    fs::write(dir.join("other.pem"), made().cert.pem()).unwrap();
}

#[test]
fn a_listener_speaks_tls_alone_or_beside_plaintext() {
    let dir = data();
    write_certificates(dir.path());
    let file = dir.path().join("weir.toml");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (mode, plaintext) in [("on", false), ("both", true)] {
        let listener = "address = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
        fs::write(&file, format!("[[listener]]\n{listener}tls = \"{mode}\"\n")).unwrap();
        let broker = Served::start_with(&dir.path().join(mode), &["--config", file.to_str().unwrap()]);
        let (_, address) = broker.uri.split_once("://").unwrap();
        let list = |scheme: &str, ca: &str| {
            run(
                &["topic", "list", "--json", "--server", &format!("{scheme}://{address}"), "--ca", &path(ca)],
                "",
            )
        };
        let ran = list("grpc+tls", "server.pem");
        assert_eq!((ran.code, ran.out.trim()), (0, "{\"topics\":[]}"), "{mode}: {}", ran.err);
        let ran = list("grpc+tls", "other.pem");
        refused(&ran, 5, "certificate");
        let ran = list("grpc", "server.pem");
        assert_eq!(ran.code, if plaintext { 0 } else { 5 }, "{mode}: {}", ran.err);
        // Whoever says nothing, or nonsense, disturbs nobody.
        let _silent = TcpStream::connect(address).unwrap();
        TcpStream::connect(address).unwrap().write_all(&[0x16; 200]).unwrap();
        assert_eq!(list("grpc+tls", "server.pem").code, 0);
        broker.stop();
    }
}

#[test]
fn a_broker_whose_disk_fails_ends_with_its_own_code_and_keeps_what_it_acknowledged() {
    let dir = data();
    let (library, fails) = (dir.path().join("fault.so"), dir.path().join("fails"));
    let built = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&library, Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/fdatasync.rs").as_path()])
        .status();
    assert!(built.unwrap().success());
    let path = dir.path().join("data");
    let process = weir()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(&path)
        .env("LD_PRELOAD", &library)
        .env("FAIL_SYNC", &fails)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let broker = Served::over(process, &path);
    assert_eq!(broker.run(&["topic", "create", "t", "--queues", "1"]).code, 0);
    // Long enough that an answer with all of them does not fit into what the network buffers.
    const ROWS: usize = 300;
    let body = "x".repeat(100_000);
    let lines: String = (0..ROWS).map(|row| format!("{{\"body\":\"{row} {body}\"}}\n")).collect();
    assert_eq!(broker.run_with_input(&["produce", "t", "-"], &lines).code, 0);
    // A read that is under way: it has begun, and waits until somebody takes its rows.
    let mut reader = weir()
        .args(["pull", "t", "--server", &broker.uri])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut rows = BufReader::new(reader.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&rows.next().unwrap().unwrap()).unwrap();
    assert!(first.is_object());
    fs::write(&fails, "").unwrap();
    // The broker may have met the fault by itself, and be gone.
    let ran = broker.run_with_input(&["produce", "t", "-"], "{\"body\":\"refused\"}\n");
    assert!(ran.code != 0, "{ran:?}");
    let rest: Vec<String> = rows.map(Result::unwrap).collect();
    assert_eq!(1 + rest.len(), ROWS, "the read goes on to its end");
    let mut err = String::new();
    reader.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(reader.wait().unwrap().code(), Some(0), "{err}");
    assert_eq!(broker.ended(STOP_MAX), Some(74));

    let broker = Served::start(&path);
    let pulled = broker.run(&["pull", "t"]);
    let number = |line: &str| -> Option<usize> {
        let line: Value = serde_json::from_str(line).unwrap();
        line["body"].as_str()?.split_once(' ')?.0.parse().ok()
    };
    // What was refused may be there or not.
    let mut numbers: Vec<usize> = pulled.out.lines().filter_map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..ROWS).collect::<Vec<_>>(), "everything that was acknowledged is there, once");
    broker.stop();
}

#[test]
fn a_broker_without_accounts_stays_on_this_machine() {
    let dir = data();
    let path = dir.path().join("d");
    let serve = ["serve", "--listen", "0.0.0.0:0", "--data", path.to_str().unwrap()];
    refused(&run(&serve, ""), 2, "--insecure");
    assert!(!path.exists(), "nothing is made by a start that is refused");
    Served::start_with(&path, &["--listen", "0.0.0.0:0", "--insecure"]).stop();
}

#[test]
fn what_stands_in_the_way_of_a_start_is_named() {
    let dir = data();
    let broker = Served::start(dir.path());
    let id = broker.process.id().to_string();
    let path = dir.path().to_str().unwrap();
    let second = run(&["serve", "--listen", "127.0.0.1:0", "--data", path], "");
    refused(&second, 1, &id);
    let taken = broker.uri.strip_prefix("grpc://").unwrap();
    let other = data();
    let ran = run(&["serve", "--listen", taken, "--data", other.path().to_str().unwrap()], "");
    refused(&ran, 1, "is in use by another process");
    let file = other.path().join("file");
    fs::write(&file, "").unwrap();
    let ran = run(&["serve", "--listen", "127.0.0.1:0", "--data", file.to_str().unwrap()], "");
    assert!(matches!(ran.code, 1 | 74), "{ran:?}");
    assert!(ran.err.contains(file.to_str().unwrap()), "{}", ran.err);
    broker.json(&["topic", "list"]);
    broker.stop();
}

#[test]
fn garbage_on_the_port_disturbs_nobody() {
    let data = data();
    let broker = Served::start(data.path());
    let address = broker.uri.strip_prefix("grpc://").unwrap();
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x01\x02\x03\xff\xfe",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/1.1\r\n\r\n",
        b"P",
        b"",
    ];
    let mut open = Vec::new();
    for bytes in garbage.iter().cycle().take(60) {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(bytes);
        open.push(stream);
    }
    broker.json(&["topic", "create", "t"]);
    let mut web = TcpStream::connect(address).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let _ = web.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = web.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer:?}");
    drop(open);
    broker.stop();
}

#[test]
fn a_stop_answers_long_polls_and_a_restart_keeps_everything() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "t"]);
    let lines: String = (0..100).map(|n| format!("{{\"properties\":{{\"n\":{n}}}}}\n")).collect();
    assert_eq!(broker.run_with_input(&["produce", "t"], &lines).code, 0);
    let words = ["consume", "t", "--group", "g", "--limit", "40", "--json", "--where", "n < 60"];
    assert_eq!(broker.run(&words).out.lines().count(), 40);
    let mut follower = weir()
        .args([
            "consume",
            "t",
            "--group",
            "other",
            "--follow",
            "--where",
            "n > 1000",
            "--server",
            &broker.uri,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    broker.stop();
    assert_ne!(follower.wait().unwrap().code(), Some(0), "a follower says that its broker is gone");

    let broker = Served::start(data.path());
    let words = ["consume", "t", "--group", "g", "--json", "--where", "n < 60"];
    assert_eq!(broker.run(&words).out.lines().count(), 20);
    broker.signal(Signal::KILL);
    let _ = broker.ended(STOP_MAX);

    let broker = Served::start(data.path());
    assert_eq!(broker.run(&words).out, "");
    assert_eq!(broker.json(&["query", "SELECT count(*) AS n FROM t"]), json!([{ "n": 100 }]));
    broker.stop();
}

#[test]
fn storage_is_looked_at_while_a_broker_runs_and_repaired_when_it_has_stopped() {
    let data = data();
    let dir = data.path().to_str().unwrap();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "t", "--queues", "1"]);
    let lines: String = (0..100).map(|n| format!("{{\"properties\":{{\"n\":{n}}}}}\n")).collect();
    assert_eq!(broker.run_with_input(&["produce", "t"], &lines).code, 0);
    let ran = run(&["storage", "verify", dir], "");
    assert!(ran.code == 0 && ran.out.contains("everything is whole"), "{ran:?}");
    assert_eq!(run(&["storage", "inspect", dir, "--view", "frames"], "").code, 0);
    refused(&run(&["storage", "repair", dir, "--yes"], ""), 1, "is in use by process");
    broker.stop();

    let ran = run(&["storage", "inspect", dir, "--view", "blocks", "--topic", "t", "--json"], "");
    let shown: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&shown["directory"]["clean"], &shown["blocks"][0]["rows"]), (&json!(true), &json!(100)));
    let blocks = data.path().join(shown["blocks"][0]["file"].as_str().unwrap());
    let mut bytes = fs::read(&blocks).unwrap();
    bytes[700] ^= 4;
    fs::write(&blocks, &bytes).unwrap();

    let ran = run(&["storage", "verify", dir], "");
    assert!(ran.out.contains("t queue 0: 0 to 99"), "{ran:?}");
    refused(&ran, 1, "is damaged");
    let ran = run(&["storage", "verify", dir, "--json"], "");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let finding = &found["findings"][0];
    assert_eq!((ran.code, &finding["remedy"]), (1, &json!("repair_rebuilds")));
    assert!(finding["at"].as_u64() <= Some(700) && finding["end"].as_u64() > Some(700), "{found}");
    let ran = run(&["storage", "repair", dir, "--dry-run"], "");
    assert!(ran.code == 0 && ran.out.contains("remove ") && blocks.exists(), "{ran:?}");
    refused(&run(&["storage", "repair", dir], ""), 2, "--yes");
    let ran = run(&["storage", "repair", dir, "--yes", "--json"], "");
    let done: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &done["done"], &done["steps"][0]["step"]),
        (0, &json!(true), &json!("remove_queue_file"))
    );
    assert!(!blocks.exists());

    let broker = Served::start(data.path());
    assert_eq!(broker.json(&["query", "SELECT sum(n) AS n FROM t"]), json!([{ "n": 4950 }]));
    broker.stop();
    assert_eq!(run(&["storage", "verify", dir], "").code, 0);
    refused(&run(&["storage", "verify", "/nonexistent"], ""), 3, "/nonexistent");
}

#[test]
fn a_second_signal_ends_at_once() {
    let data = data();
    let broker = Served::start(data.path());
    broker.signal(Signal::INT);
    broker.signal(Signal::INT);
    assert!(matches!(broker.ended(STOP_MAX), Some(0 | 1)));
}

#[test]
fn the_demonstration_shows_everything_and_ends() {
    let ran = run(&["demo", "--once", "--listen", "127.0.0.1:0"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in [
        "4,210 flights",
        "WHERE origin = 'JFK'",
        "of 4,210 messages matched",
        "Arrow record batches",
        "SELECT carrier",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
    assert!(!ran.out.contains('\u{1b}'), "no colour without a terminal");
}
