//! `weir produce`: sends the messages of a file, JSON lines or CSV.
//!
//! One thread reads and parses, several calls are under way, and each is a batch that is stored whole or not at
//! all. So whatever goes wrong, it can be said which lines are stored.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tonic::Code;
use weir_columns::{Kind, classify};

use super::{
    Failure, Global,
    output::{counted, grouped, print_json, print_line, progress},
};
use crate::{
    flight::client::{Client, ClientError},
    status::Exit,
};

/// Sends the messages of a file.
#[derive(Debug, Args)]
#[command(after_help = "\
JSON lines: {\"properties\":{\"region\":\"EU\",\"price\":9.5},\"body\":\"any text or JSON\",\"tag\":\"t\",\"keys\":[\"k\"]}
CSV: the header names the properties; an empty field is a missing property.
Files that end in .gz are unpacked.")]
pub(crate) struct ProduceArgs {
    /// The topic.
    topic: String,
    /// The file; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What is in the file. Default: by its extension (.csv, .jsonl); else JSON lines.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// CSV: fields with this text are missing properties too, such as NA.
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// CSV: what the body of a message is.
    #[arg(long, value_name = "BODY", default_value = "json")]
    body: BodyKind,
    /// CSV: the column that is also the tag.
    #[arg(long, value_name = "COLUMN")]
    tag: Option<String>,
    /// CSV: a column that is also a key; may be given several times.
    #[arg(long, value_name = "COLUMN")]
    key: Vec<String>,
    /// Messages of one call.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Calls under way at a time. With 1, messages are stored in the order of the file.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
    in_flight: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line.
    #[value(alias = "json")]
    Jsonl,
    /// CSV with a header.
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BodyKind {
    /// The row as a JSON object.
    Json,
    /// Nothing.
    None,
}

/// Bytes of text of one call, about.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of one line of JSON. A body of the largest size fits, whatever of it is escaped.
const LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Batches that wait to be sent.
const READ_AHEAD: usize = 4;
/// How often a call is made again while the broker is too busy, and how long to wait before.
const TRIES_MAX: u32 = 8;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Where batches go.
struct Target<'a> {
    client: &'a Client,
    topic: &'a str,
    /// Whether strings are text of which the broker tells numbers apart, as in CSV.
    untyped: bool,
}

/// Messages of consecutive lines.
struct Batch {
    first_line: u64,
    last_line: u64,
    messages: Vec<Value>,
}

/// What became of the batches.
#[derive(Default)]
struct Sent {
    stored: u64,
    /// The first batch that was refused, and why.
    refused: Option<(u64, u64, Failure)>,
    /// The last line of the batches that were stored after the refused one.
    stored_up_to: u64,
}

/// One line of JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    keys: Option<Vec<String>>,
    #[serde(default)]
    message_group: Option<String>,
    #[serde(default)]
    lite_topic: Option<String>,
    #[serde(default)]
    delivery_time: Option<Value>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    message_id: Option<String>,
}

pub(crate) async fn run(args: ProduceArgs, global: &Global) -> Result<(), Failure> {
    let format = format(&args)?;
    let client = global.connect().await?;
    client.action("DescribeTopic", &json!({ "topic": args.topic })).await.map_err(|error| {
        let failure = Failure::from(error);
        let hint = format!("; create it with: weir topic create {}", args.topic);
        match failure.kind() {
            Some(exit @ Exit::NotFound) => Failure::new(exit, format!("{}{hint}", failure.message())),
            _ => failure,
        }
    })?;
    let started = Instant::now();
    let read = Arc::new(AtomicU64::new(0));
    let (input, total) = open(&args.file, Arc::clone(&read))?;
    let bar = progress(total, "");
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let topic = args.topic.clone();
    let in_flight = usize::from(args.in_flight);
    let reader = tokio::task::spawn_blocking(move || match format {
        Format::Jsonl => read_jsonl(input, &args, &sender),
        Format::Csv => read_csv(input, &args, &sender),
    });
    let target = Target { client: &client, topic: &topic, untyped: format == Format::Csv };
    let sent = send(&target, receiver, in_flight, |stored| {
        bar.set_position(read.load(Ordering::Relaxed));
        bar.set_message(counted(stored, "message"));
    })
    .await;
    bar.finish_and_clear();
    if let Some((first, last, failure)) = sent.refused {
        let exit = failure.kind().unwrap_or(Exit::Failed);
        let later = match sent.stored_up_to {
            line if line > last => format!(", and of later lines up to line {line} some"),
            _ => String::new(),
        };
        let message = format!(
            "lines {first} to {last} were not stored: {}; {} stored: all before line {first}{later}",
            failure.message(),
            were(sent.stored),
        );
        return Err(Failure::new(exit, message));
    }
    let read = reader.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    read.map_err(|failure| {
        let message = format!("{}; {} stored: all before that line", failure.message(), were(sent.stored));
        Failure::new(failure.kind().unwrap_or(Exit::Failed), message)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if global.json {
        return print_json(&json!({ "topic": topic, "stored": sent.stored, "seconds": seconds }));
    }
    let rate = (sent.stored as f64 / seconds.max(0.001)).round() as u64;
    print_line(&format!(
        "stored {} in {topic} in {seconds:.1} s ({} a second)",
        counted(sent.stored, "message"),
        grouped(rate)
    ))
}

/// Stores the rows of a CSV file with a header in `topic`; the body of each is the row as a JSON object.
pub(crate) async fn store_csv(
    client: &Client,
    topic: &str,
    input: Box<dyn BufRead + Send>,
    tick: impl FnMut(u64),
) -> Result<u64, Failure> {
    let args = ProduceArgs {
        topic: topic.to_owned(),
        file: PathBuf::from("-"),
        format: Some(Format::Csv),
        null: None,
        body: BodyKind::Json,
        tag: None,
        key: Vec::new(),
        batch: 500,
        in_flight: 4,
    };
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || read_csv(input, &args, &sender));
    let target = Target { client, topic, untyped: true };
    let sent = send(&target, receiver, 4, tick).await;
    if let Some((.., failure)) = sent.refused {
        return Err(failure);
    }
    reader.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
    Ok(sent.stored)
}

fn were(stored: u64) -> String {
    format!("{} {}", counted(stored, "message"), if stored == 1 { "is" } else { "are" })
}

fn format(args: &ProduceArgs) -> Result<Format, Failure> {
    let name = args.file.to_string_lossy().to_ascii_lowercase();
    let csv_only = args.null.is_some() || args.tag.is_some() || !args.key.is_empty();
    let format = match args.format {
        Some(format) => format,
        None if name.strip_suffix(".gz").unwrap_or(&name).ends_with(".csv") => Format::Csv,
        None => Format::Jsonl,
    };
    if format == Format::Jsonl && csv_only {
        return Err(Failure::new(Exit::Usage, "--null, --tag and --key are for CSV; add --format csv"));
    }
    Ok(format)
}

/// Opens the file, and counts in `read` how much of it has been read.
fn open(path: &Path, read: Arc<AtomicU64>) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let wrong = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("cannot read {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if metadata.is_dir() {
        return Err(wrong(io::ErrorKind::IsADirectory.into()));
    }
    let total = metadata.is_file().then_some(metadata.len());
    let counted = Counted { file, read };
    let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let input: Box<dyn BufRead + Send> = match packed {
        true => Box::new(BufReader::with_capacity(1 << 17, flate2::read::MultiGzDecoder::new(counted))),
        false => Box::new(BufReader::with_capacity(1 << 17, counted)),
    };
    Ok((input, total))
}

struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Sends batches, some at a time, until there are no more or one is refused.
async fn send(
    target: &Target<'_>,
    mut batches: mpsc::Receiver<Batch>,
    in_flight: usize,
    mut tick: impl FnMut(u64),
) -> Sent {
    let mut sent = Sent::default();
    let mut calls = FuturesUnordered::new();
    let mut open = true;
    loop {
        tokio::select! {
            batch = batches.recv(), if open && calls.len() < in_flight => match batch {
                Some(batch) => calls.push(target.store(batch)),
                None => open = false,
            },
            Some((first, last, stored)) = calls.next() => {
                match stored {
                    Ok(stored) => {
                        sent.stored += stored;
                        sent.stored_up_to = sent.stored_up_to.max(last);
                    }
                    Err(failure) => {
                        // Nothing new is sent, but what is under way is waited for, to say what is stored.
                        open = false;
                        batches.close();
                        if sent.refused.as_ref().is_none_or(|(earlier, ..)| first < *earlier) {
                            sent.refused = Some((first, last, failure));
                        }
                    }
                }
                tick(sent.stored);
            },
            else => return sent,
        }
    }
}

impl Target<'_> {
    /// Stores one batch, again and again while the broker is too busy.
    async fn store(&self, batch: Batch) -> (u64, u64, Result<u64, Failure>) {
        let body = json!({ "topic": self.topic, "untyped": self.untyped, "messages": batch.messages });
        let mut pause = BUSY_PAUSE;
        let mut tries = 1;
        let stored = loop {
            match self.client.action("Produce", &body).await {
                Ok(answer) => break Ok(answer.get("stored").and_then(Value::as_u64).unwrap_or_default()),
                Err(ClientError::Refused { code: Code::ResourceExhausted, .. }) if tries < TRIES_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                Err(error) => break Err(error.into()),
            }
        };
        (batch.first_line, batch.last_line, stored)
    }
}

/// Gathers messages into batches.
struct Batches<'a> {
    sender: &'a mpsc::Sender<Batch>,
    messages_max: usize,
    bytes: usize,
    batch: Batch,
}

impl<'a> Batches<'a> {
    fn new(sender: &'a mpsc::Sender<Batch>, messages_max: u32) -> Self {
        let batch = Batch { first_line: 0, last_line: 0, messages: Vec::new() };
        Self { sender, messages_max: messages_max as usize, bytes: 0, batch }
    }

    /// Adds the message of a line that has `bytes`. Returns whether more is wanted.
    fn add(&mut self, line: u64, bytes: usize, message: Value) -> bool {
        let full = self.batch.messages.len() >= self.messages_max || self.bytes + bytes > BATCH_BYTES;
        if full && !self.flush() {
            return false;
        }
        if self.batch.messages.is_empty() {
            self.batch.first_line = line;
        }
        self.batch.last_line = line;
        self.bytes += bytes;
        self.batch.messages.push(message);
        true
    }

    /// Sends what has been gathered. Returns whether more is wanted.
    fn flush(&mut self) -> bool {
        if self.batch.messages.is_empty() {
            return true;
        }
        self.bytes = 0;
        let next = Batch { first_line: 0, last_line: 0, messages: Vec::new() };
        self.sender.blocking_send(std::mem::replace(&mut self.batch, next)).is_ok()
    }
}

/// Reads JSON lines. On a line that is wrong, what stands before it is still sent.
fn read_jsonl(
    mut input: Box<dyn BufRead + Send>,
    args: &ProduceArgs,
    sender: &mpsc::Sender<Batch>,
) -> Result<(), Failure> {
    let mut batches = Batches::new(sender, args.batch);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let result = next_line(&mut *input, &mut text).and_then(|more| match more {
            true => Ok(Some(parse_line(&text)?)),
            false => Ok(None),
        });
        match result {
            Ok(Some(Some(message))) => {
                if !batches.add(line, text.len(), message) {
                    return Ok(());
                }
            }
            Ok(Some(None)) => {}
            Ok(None) => break,
            Err(fault) => {
                batches.flush();
                return Err(Failure::new(Exit::Refused, format!("{}:{line}: {fault}", name(&args.file))));
            }
        }
    }
    batches.flush();
    Ok(())
}

/// Reads a line of bounded length. Returns whether there was one.
fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<bool, String> {
    let read =
        input.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', line).map_err(|error| error.to_string())?;
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("the line is longer than {} MiB", LINE_BYTES_MAX >> 20));
    }
    Ok(read > 0)
}

/// Turns a line into a message, a blank one into none.
fn parse_line(line: &[u8]) -> Result<Option<Value>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // Lines are counted by the caller.
        let text = error.to_string();
        let fault = text.rsplit_once(" at line ").map_or(text.as_str(), |(fault, _)| fault);
        if !line.trim_ascii_start().starts_with(b"{") {
            // What the parser would miss says little to somebody who has no JSON at all.
            return "each line must be a JSON object such as {\"properties\":{\"price\":5},\"body\":\"text\"}; \
                    for CSV, name the file .csv or give --format csv"
                .to_owned();
        }
        format!("column {}: {fault}", error.column())
    })?;
    let mut message = Map::new();
    let mut properties = line.properties.unwrap_or_default();
    properties.retain(|_, value| !value.is_null());
    for (name, value) in &properties {
        if value.is_array() || value.is_object() {
            return Err(format!("property {name:?} is neither a string nor a number nor true nor false"));
        }
    }
    message.insert("properties".to_owned(), properties.into());
    let parts = [
        ("body", line.body),
        ("tag", line.tag.map(Value::from)),
        ("keys", line.keys.map(Value::from)),
        ("message_group", line.message_group.map(Value::from)),
        ("lite_topic", line.lite_topic.map(Value::from)),
        ("delivery_time", line.delivery_time),
        ("priority", line.priority.map(Value::from)),
        ("message_id", line.message_id.map(Value::from)),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            message.insert(name.to_owned(), value);
        }
    }
    Ok(Some(message.into()))
}

/// Reads CSV. On a record that is wrong, what stands before it is still sent.
fn read_csv(
    input: Box<dyn BufRead + Send>,
    args: &ProduceArgs,
    sender: &mpsc::Sender<Batch>,
) -> Result<(), Failure> {
    let mut reader = csv::ReaderBuilder::new().from_reader(input);
    let wrong =
        |line: u64, fault: &str| Failure::new(Exit::Refused, format!("{}:{line}: {fault}", name(&args.file)));
    let header = reader.headers().map_err(|error| wrong(1, &csv_fault(&error)))?.clone();
    let columns = Columns::of(&header, args).map_err(|fault| wrong(1, &fault))?;
    let mut batches = Batches::new(sender, args.batch);
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                batches.flush();
                let line = error.position().map_or(line, csv::Position::line);
                return Err(wrong(line, &csv_fault(&error)));
            }
        }
        let line = record.position().map_or(line, csv::Position::line);
        let bytes = record.as_slice().len() * 2 + columns.header_bytes;
        if !batches.add(line, bytes, columns.message(&record, args)) {
            return Ok(());
        }
    }
    batches.flush();
    Ok(())
}

/// The columns of a CSV file.
struct Columns {
    names: Vec<String>,
    header_bytes: usize,
    tag: Option<usize>,
    keys: Vec<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord, args: &ProduceArgs) -> Result<Self, String> {
        let mut names: Vec<String> = header.iter().map(str::to_owned).collect();
        if let Some(first) = names.first_mut()
            && let Some(rest) = first.strip_prefix('\u{feff}')
        {
            *first = rest.to_owned();
        }
        for (at, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("column {} has no name", at + 1));
            }
            if names[..at].contains(name) {
                return Err(format!("two columns are called {name:?}"));
            }
        }
        let place = |wanted: &String| {
            names
                .iter()
                .position(|name| name == wanted)
                .ok_or_else(|| format!("there is no column {wanted:?}"))
        };
        Ok(Self {
            tag: args.tag.as_ref().map(place).transpose()?,
            keys: args.key.iter().map(place).collect::<Result<_, _>>()?,
            header_bytes: header.as_slice().len() * 2,
            names,
        })
    }

    fn message(&self, record: &csv::StringRecord, args: &ProduceArgs) -> Value {
        let missing = |field: &str| field.is_empty() || args.null.as_deref() == Some(field);
        let present = || self.names.iter().zip(record).filter(|(_, field)| !missing(field));
        let properties: Map<String, Value> =
            present().map(|(name, field)| (name.clone(), Value::from(field))).collect();
        let mut message = json!({ "properties": properties });
        if args.body == BodyKind::Json {
            let row: Map<String, Value> =
                present().map(|(name, field)| (name.clone(), json_value(field))).collect();
            message["body"] = row.into();
        }
        let field = |at: usize| record.get(at).filter(|field| !missing(field));
        if let Some(tag) = self.tag.and_then(field) {
            message["tag"] = tag.into();
        }
        let keys: Vec<&str> = self.keys.iter().filter_map(|at| field(*at)).collect();
        if !keys.is_empty() {
            message["keys"] = keys.into();
        }
        message
    }
}

/// Returns a field as JSON: a number where it is written as JSON writes one, else text.
fn json_value(field: &str) -> Value {
    let number = match classify(field).0 {
        Kind::Int | Kind::Float => serde_json::from_str::<serde_json::Number>(field).ok(),
        _ => None,
    };
    number.map_or_else(|| field.into(), Value::Number)
}

fn csv_fault(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "a field is not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn args(line: &[&str]) -> ProduceArgs {
        Parsed::parse_from([&["produce", "t"], line].concat()).args
    }

    fn read(text: &'static str, line: &[&str]) -> (Vec<(u64, Value)>, Result<(), Failure>) {
        let args = args(line);
        let (sender, mut receiver) = mpsc::channel(100);
        let input = Box::new(text.as_bytes());
        let result = match format(&args).unwrap() {
            Format::Jsonl => read_jsonl(input, &args, &sender),
            Format::Csv => read_csv(input, &args, &sender),
        };
        drop(sender);
        let mut messages = Vec::new();
        while let Some(batch) = receiver.blocking_recv() {
            messages.extend(batch.messages.into_iter().map(|message| (batch.first_line, message)));
        }
        (messages, result)
    }

    #[test]
    fn csv_rows_become_messages_without_their_missing_fields() {
        let (messages, result) = read(
            "carrier,delay,note\nUA,5,\n\"B6\",NA,\"a \"\"b\"\"\"\n",
            &["--format", "csv", "--null", "NA", "--tag", "carrier", "--key", "note", "--batch", "1"],
        );
        result.unwrap();
        assert_eq!(
            messages,
            [
                (
                    2,
                    json!({"properties": {"carrier": "UA", "delay": "5"}, "body": {"carrier": "UA", "delay": 5}, "tag": "UA"})
                ),
                (
                    3,
                    json!({"properties": {"carrier": "B6", "note": "a \"b\""}, "body": {"carrier": "B6", "note": "a \"b\""},
                           "tag": "B6", "keys": ["a \"b\""]})
                ),
            ]
        );
        let (messages, _) = read("a\n1\n", &["--format", "csv", "--body", "none"]);
        assert_eq!(messages, [(2, json!({"properties": {"a": "1"}}))]);
    }

    #[test]
    fn json_lines_become_messages() {
        let (messages, result) = read(
            "{\"properties\":{\"a\":1,\"b\":null,\"c\":true},\"body\":{\"x\":[1]},\"keys\":[\"k\"]}\n\n{\"body\":\"b\"}",
            &["--batch", "1"],
        );
        result.unwrap();
        assert_eq!(
            messages,
            [
                (1, json!({"properties": {"a": 1, "c": true}, "body": {"x": [1]}, "keys": ["k"]})),
                (3, json!({"properties": {}, "body": "b"})),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_what_stands_before_is_sent() {
        let cases: [(&'static str, &[&str], usize, &str); 8] = [
            ("{}\n{\"propertis\":{}}\n", &[], 1, "standard input:2: column 12: unknown field `propertis`"),
            ("{}\n{}\n{\"properties\":{\"a\":[]}}", &[], 2, "standard input:3: property \"a\" is neither"),
            ("nonsense", &[], 0, "standard input:1: each line must be a JSON object"),
            ("[1]", &[], 0, "standard input:1: each line must be a JSON object"),
            ("a,b\n1,2\n3\n", &["--format", "csv"], 1, "standard input:3: 1 fields where the header has 2"),
            ("a,a\n1,2\n", &["--format", "csv"], 0, "standard input:1: two columns are called \"a\""),
            ("a,\n1,2\n", &["--format", "csv"], 0, "standard input:1: column 2 has no name"),
            ("a\n1\n", &["--format", "csv", "--tag", "b"], 0, "standard input:1: there is no column \"b\""),
        ];
        for (text, line, sent, expected) in cases {
            let (messages, result) = read(text, line);
            let message = result.unwrap_err().message().to_owned();
            assert!(message.contains(expected), "{text:?} gives {message}");
            assert_eq!(messages.len(), sent, "{text:?}");
        }
    }

    #[test]
    fn numbers_in_bodies_are_those_of_json() {
        for (field, expected) in [
            ("5", json!(5)),
            ("-1.5", json!(-1.5)),
            ("05", json!("05")),
            ("1e400", json!("1e400")),
            ("NaN", json!("NaN")),
            ("+5", json!("+5")),
            ("", json!("")),
        ] {
            assert_eq!(json_value(field), expected, "{field}");
        }
    }

    #[test]
    fn options_of_csv_are_refused_for_json_lines() {
        assert!(format(&args(&["--null", "NA"])).is_err());
        assert_eq!(format(&args(&["x.CSV.gz"])).unwrap(), Format::Csv);
        assert_eq!(format(&args(&["x.txt"])).unwrap(), Format::Jsonl);
    }
}
