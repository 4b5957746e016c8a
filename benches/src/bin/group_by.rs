//! How long does a `group by` over 20 million rows take, beside DuckDB on a Parquet file of the same rows?
//!
//! The rows are messages of a topic, published in-process; the file is made by a batch pull.

use std::{fs::File, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::StreamExt as _;
use parquet::arrow::ArrowWriter;
use weir_benches::{Messages, data_dir, head, median, options, python, row};
use weir_engine::{Broker, DurabilityClass, PullColumn, PullRequest, SqlRequest, TopicName, TopicSpec};

/// What is asked how often.
#[derive(Parser)]
struct Arguments {
    /// Rows of the topic.
    #[arg(long, default_value_t = 20_000_000)]
    rows: u64,
    /// Turns of each side.
    #[arg(long, default_value_t = 5)]
    turns: usize,
}

const QUERIES: [(&str, &str); 3] = [
    ("group by 8", "select region, count(*), avg(price) from t where price > 50 group by region"),
    ("count, one of 10,000", "select count(*) from t where cust = 'c77'"),
    ("top 5 of 10,000", "select cust, count(*) c from t group by cust order by c desc, cust limit 5"),
];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = data_dir("group-by")?;
    let data = directory.path().join("data");
    let broker = Broker::open(options(&data)).await?;
    let topic: TopicName = "t".parse()?;
    broker.create_topic(&topic, TopicSpec { class: DurabilityClass::Async, ..TopicSpec::default() }).await?;
    let mut messages = Messages::new(1, 16);
    for _ in 0..arguments.rows / 1_000 {
        broker.publish(&topic, (0..1_000).map(|_| messages.next_message()).collect()).await?;
    }
    broker.close().await?;
    drop(broker);
    let broker = Broker::open(options(&data)).await?;
    let parquet = directory.path().join("t.parquet");
    export(&broker, &topic, &parquet).await?;
    head(&["query", "Weir s", "DuckDB 1 thread s", "DuckDB 2 threads s"]);
    for (name, sql) in QUERIES {
        let weir = ask(&broker, sql, arguments.turns).await?;
        let [one, two] = ask_duckdb(&parquet, sql, arguments.turns)?;
        row(&[name.to_owned(), format!("{weir:.3}"), format!("{one:.3}"), format!("{two:.3}")]);
    }
    broker.close().await?;
    Ok(())
}

async fn export(broker: &Broker, topic: &TopicName, path: &Path) -> Result<()> {
    let columns = ["region", "tag", "cust", "price", "level"].map(|name| PullColumn(name.to_owned()));
    let request = PullRequest { columns: Some(columns.to_vec()), ..PullRequest::new(topic.clone()) };
    let plan = broker.plan_pull(&request).await?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, plan.schema.clone(), None)?;
    for part in plan.parts {
        let mut batches = broker.pull(part).await?;
        while let Some(batch) = batches.next().await {
            writer.write(&batch?.batch)?;
        }
    }
    writer.close()?;
    Ok(())
}

async fn ask(broker: &Broker, sql: &str, turns: usize) -> Result<f64> {
    let mut seconds = Vec::new();
    for turn in 0..=turns {
        let start = Instant::now();
        let plan = broker.plan_sql(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() }).await?;
        let (_, mut batches) = broker.run_sql(plan.ticket).await?;
        while let Some(batch) = batches.next().await {
            batch?;
        }
        if turn > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(median(seconds))
}

fn ask_duckdb(parquet: &Path, sql: &str, turns: usize) -> Result<[f64; 2]> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/duckdb_group_by.py");
    let turns = turns.to_string();
    let output = Command::new(python()).arg(script).arg(parquet).args([sql, &turns]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let seconds = |threads: &str| -> Result<f64> {
        let turns = report["seconds"][threads].as_array().context("the script reports seconds")?;
        Ok(median(turns.iter().filter_map(serde_json::Value::as_f64).collect()))
    };
    Ok([seconds("1")?, seconds("2")?])
}
