//! How many GB/s does Flight's `DoGet` give, beside pyarrow's own C++ server in the same run?
//!
//! Weir reads its blocks and builds record batches; the rival sends batches that lie ready in memory. Both are
//! read by the same pyarrow client, turn by turn.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::process::Command;
use weir_benches::{Weir, data_dir, head, options, python, row};
use weir_columns::Value;
use weir_engine::{Broker, DurabilityClass, Message, TopicName, TopicSpec};

/// What is read how often.
#[derive(Parser)]
struct Arguments {
    /// Rows of the topic.
    #[arg(long, default_value_t = 4_000_000)]
    rows: u64,
    /// Turns of each side.
    #[arg(long, default_value_t = 15)]
    turns: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("flight")?;
    store(directory.path(), arguments.rows).await?;
    let weir = Weir::start(directory.path())?;
    head(&["columns", "rows", "Weir GB/s, best", "median", "pyarrow server GB/s, best", "median"]);
    let narrow = r#"{"pull":1,"topic":"bench","columns":["queue_offset","a","b","c","d"]}"#;
    measure("5 numbers", &weir, narrow, arguments.turns)?;
    let wide = r#"{"pull":1,"topic":"bench"}"#;
    measure("nine default columns", &weir, wide, arguments.turns.min(5))
}

async fn store(data: &std::path::Path, rows: u64) -> Result<()> {
    let broker = Broker::open(options(data)).await?;
    let topic: TopicName = "bench".parse()?;
    let spec = TopicSpec { queues: 1, class: DurabilityClass::Async, ..TopicSpec::default() };
    broker.create_topic(&topic, spec).await?;
    for first in (0..rows).step_by(1_000) {
        let messages = (first..first + 1_000).map(message).collect();
        broker.publish(&topic, messages).await?;
    }
    broker.close().await?;
    Ok(())
}

fn message(number: u64) -> Message {
    let value = |factor: f64| Value::F64((number % 1_000) as f64 * factor + 0.25);
    let properties = vec![
        ("a".to_owned(), value(1.0)),
        ("b".to_owned(), value(2.0)),
        ("c".to_owned(), value(0.5)),
        ("d".to_owned(), value(7.0)),
    ];
    Message {
        properties,
        message_id: format!("{number:032x}"),
        body: vec![b'x'; 16].into(),
        ..Message::default()
    }
}

fn measure(columns: &str, weir: &Weir, command: &str, turns: usize) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/flight_get.py");
    let output = Command::new(python()).args([script, weir.uri(), command, &turns.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rate = |side: &str, what: &str| -> Result<String> {
        let rate = report["gb_per_s"][side][what].as_f64().context("the script reports rates")?;
        Ok(format!("{rate:.2}"))
    };
    row(&[
        columns.to_owned(),
        report["rows"].to_string(),
        rate("weir", "best")?,
        rate("weir", "median")?,
        rate("pyarrow", "best")?,
        rate("pyarrow", "median")?,
    ]);
    Ok(())
}
