//! Runs `slt/**/*.slt` against a broker in this process, a fresh one for each file.
//!
//! Besides SQL, a file may say:
//!
//! ```text
//! CREATE TOPIC <name> [QUEUES <n>]       one queue if no number is given
//! PRODUCE <topic> <JSON line>…           stored a second after the one before; strings are untyped text
//! PULL <columns> FROM <topic> [WHERE <selector>]
//! ```
//!
//! `WEIR_SLT_UPDATE=1` writes the rows that came into the files. Read the difference before keeping it.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::RecordBatch,
    datatypes::DataType,
    util::display::{ArrayFormatter, FormatOptions},
};
use async_trait::async_trait;
use futures::TryStreamExt;
use serde_json::{Map, Value as Json};
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, Runner, default_column_validator, default_normalizer,
    default_validator,
};
use weir_columns::Value;
use weir_engine::{
    Broker, BrokerOptions, Clock, EngineError, Message, PullColumn, PullRequest, SqlRequest, StorageOptions,
    TopicName, TopicSpec, VirtualClock,
};

/// 2026-01-01, UTC.
const START_MS: i64 = 1_767_225_600_000;

#[test]
fn every_file_gives_the_rows_that_it_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failures = Vec::new();
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("slt")) {
        if let Err(error) = runtime.block_on(run(&file)) {
            failures.push(format!("{}: {error}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

async fn run(file: &Path) -> Result<(), String> {
    let mut runner = Runner::new(|| async { Weir::new().await });
    let result = if std::env::var_os("WEIR_SLT_UPDATE").is_some() {
        let update = runner.update_test_file(
            file,
            "\t",
            default_validator,
            default_normalizer,
            default_column_validator,
        );
        update.await.map_err(|error| error.to_string())
    } else {
        runner.run_file_async(file).await.map_err(|error| error.display(false).to_string())
    };
    runner.shutdown_async().await;
    result
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

struct Weir {
    broker: Broker,
    clock: Arc<VirtualClock>,
    _dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Self(error)
    }
}

#[async_trait]
impl AsyncDB for Weir {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let (verb, rest) = sql.split_once(char::is_whitespace).unwrap_or((sql, ""));
        match verb {
            "CREATE" if rest.starts_with("TOPIC ") => self.create_topic(rest).await,
            "PRODUCE" => self.produce(rest).await,
            "PULL" => self.pull(rest).await,
            _ => self.query(sql).await,
        }
    }

    async fn shutdown(&mut self) {
        self.broker.close().await.unwrap();
    }

    fn engine_name(&self) -> &str {
        "weir"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

impl Weir {
    async fn new() -> Result<Self, Failed> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let clock = Arc::new(VirtualClock::new(START_MS));
        let options = BrokerOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            storage: StorageOptions::small(),
            retention_disk_percent: 100,
            ..BrokerOptions::new(dir.path().join("data"))
        };
        Ok(Self { broker: Broker::open(options).await?, clock, _dir: dir })
    }

    async fn create_topic(&mut self, rest: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let (name, queues) = match *rest.split_whitespace().collect::<Vec<_>>() {
            [_, name] => (name, 1),
            [_, name, "QUEUES", queues] => {
                (name, queues.parse().map_err(|_| "QUEUES takes a number".to_owned())?)
            }
            _ => return Err("CREATE TOPIC <name> [QUEUES <n>]".to_owned().into()),
        };
        self.broker.create_topic(&topic(name)?, TopicSpec { queues, ..TopicSpec::default() }).await?;
        Ok(DBOutput::StatementComplete(0))
    }

    async fn produce(&mut self, rest: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let (name, lines) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let topic = topic(name)?;
        let mut stored = 0;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            self.clock.advance(Duration::from_secs(1));
            let published = self.broker.publish(&topic, vec![message(line)?]).await?;
            stored += published.len() as u64;
            for row in published {
                while !self
                    .broker
                    .topic(&topic)?
                    .queues
                    .iter()
                    .any(|queue| queue.queue == row.queue && row.offset < queue.end)
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        Ok(DBOutput::StatementComplete(stored))
    }

    async fn pull(&mut self, rest: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let (columns, rest) = rest.split_once(" FROM ").ok_or("PULL <columns> FROM <topic>".to_owned())?;
        let (name, selector) = match rest.split_once(" WHERE ") {
            Some((name, selector)) => (name, Some(selector.to_owned())),
            None => (rest, None),
        };
        let columns = columns.split(',').map(|column| PullColumn(column.trim().to_owned())).collect();
        let request =
            PullRequest { columns: Some(columns), selector, ..PullRequest::new(topic(name.trim())?) };
        let plan = self.broker.plan_pull(&request).await?;
        let mut batches = Vec::new();
        for part in plan.parts {
            let pulled: Vec<_> = self.broker.pull(part).await?.try_collect().await?;
            batches.extend(pulled.into_iter().map(|batch| batch.batch));
        }
        let types = plan.schema.fields().iter().map(|field| column_type(field.data_type())).collect();
        Ok(DBOutput::Rows { types, rows: rows(&batches)? })
    }

    async fn query(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let plan = self.broker.plan_sql(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() }).await?;
        let (schema, batches) = self.broker.run_sql(plan.ticket).await?;
        if schema != plan.schema {
            return Err(format!("announced {:?}, answered {schema:?}", plan.schema).into());
        }
        let batches: Vec<RecordBatch> = batches.try_collect().await.map_err(EngineError::from)?;
        let types = schema.fields().iter().map(|field| column_type(field.data_type())).collect();
        Ok(DBOutput::Rows { types, rows: rows(&batches)? })
    }
}

fn topic(name: &str) -> Result<TopicName, Failed> {
    name.parse().map_err(|error: weir_engine::NameError| Failed(error.to_string()))
}

fn message(line: &str) -> Result<Message, Failed> {
    let json: Map<String, Json> = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
    let text = |name: &str| json.get(name).and_then(Json::as_str).map(str::to_owned);
    let properties = json.get("properties").and_then(Json::as_object).into_iter().flatten();
    Ok(Message {
        message_id: text("message_id").unwrap_or_default(),
        tag: text("tag"),
        keys: text("keys").into_iter().collect(),
        message_group: text("message_group"),
        body: text("body").unwrap_or_default().into(),
        properties: properties
            .map(|(name, value)| Ok((name.clone(), property(value)?)))
            .collect::<Result<_, Failed>>()?,
        ..Message::default()
    })
}

/// `{"str": "x"}` is a string of a typed client, `{"f64": "NaN"}` a float that JSON cannot write.
fn property(json: &Json) -> Result<Value, Failed> {
    Ok(match json {
        Json::String(text) => Value::Text(text.clone()),
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::I64(int),
            (None, Some(float)) => Value::F64(float),
            _ => return Err(format!("{number} is no number of 64 bits").into()),
        },
        Json::Object(typed) => {
            match (typed.get("str").and_then(Json::as_str), typed.get("f64").and_then(Json::as_str)) {
                (Some(text), _) => Value::Str(text.to_owned()),
                (None, Some(float)) => {
                    Value::F64(float.parse().map_err(|_| format!("{float} is no number"))?)
                }
                _ => return Err("a typed value is {\"str\": …} or {\"f64\": …}".to_owned().into()),
            }
        }
        Json::Null | Json::Array(_) => {
            return Err("a property is a string, a number or a boolean".to_owned().into());
        }
    })
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_floating() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

fn rows(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, Failed> {
    let options = FormatOptions::default().with_null("NULL");
    let failed = |error: arrow::error::ArrowError| Failed(error.to_string());
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).map_err(failed))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| shown(&column.value(row).to_string())).collect());
        }
    }
    Ok(rows)
}

fn shown(value: &str) -> String {
    if value.is_empty() { "(empty)".to_owned() } else { value.replace('\n', "\\n") }
}
