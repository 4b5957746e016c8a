//! `weir topic`: which topics exist, and how they are made.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use weir_engine::TopicType;
use weir_filter::Dialect;

use super::{
    Failure, Global,
    output::{
        confirm, count, counted, dialect, field, grouped, length, list, number_cell, print_json, print_line,
        size, table, time,
    },
};
use crate::{config::ByteCount, status::Exit};

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Creates a topic.
    Create {
        /// Its name: letters, digits and %|_-, perhaps after a namespace and a slash.
        topic: String,
        #[command(flatten)]
        settings: Settings,
        /// Is content if the topic exists already.
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Lists all topics.
    List,
    /// Shows a topic and its queues.
    Describe {
        /// Its name.
        topic: String,
    },
    /// Changes how a topic is made; what is not named stays.
    Alter {
        /// Its name.
        topic: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Deletes a topic with all its messages.
    Delete {
        /// Its name.
        topic: String,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
        /// Is content if there is no such topic.
        #[arg(long)]
        if_exists: bool,
    },
}

/// How a topic is made.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// How many queues it has; they may only grow. Default for a new topic: 4.
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// When a message counts as stored: once on the disk (sync), or once written (async).
    #[arg(long)]
    class: Option<Class>,
    /// How long messages are retained, such as 72h or 30days. Default for a new topic: 72h.
    #[arg(long, value_name = "TIME")]
    retention: Option<humantime::Duration>,
    /// How many bytes of the log its messages may take before the oldest end, such as 10GiB; 0 for any number.
    #[arg(long, value_name = "BYTES")]
    retention_bytes: Option<ByteCount>,
    /// The language of selectors on it: sql92, rocketmq or jms. Default: that of the broker.
    #[arg(long, value_name = "DIALECT")]
    dialect: Option<Dialect>,
    /// How the broker compresses the body of each message: zstd takes least room, lz4 least time. What producers have
    /// compressed, and what does not shrink, stays as it is. Default for a new topic: none.
    #[arg(long, value_name = "METHOD")]
    compression: Option<Compression>,
    /// Which messages it takes: normal, fifo, delay, transaction, priority or lite ones alone, or mixed: all of these
    /// but the last two. Default for a new topic: mixed.
    #[arg(long = "type", value_name = "TYPE")]
    topic_type: Option<TopicType>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Class {
    Sync,
    Async,
}

impl Settings {
    /// Returns the body of an action on `topic` with these settings.
    fn body(&self, topic: &str) -> Value {
        let mut body = json!({ "topic": topic });
        if let Some(queues) = self.queues {
            body["queues"] = queues.into();
        }
        if let Some(class) = self.class {
            body["class"] = match class {
                Class::Sync => "sync".into(),
                Class::Async => "async".into(),
            };
        }
        if let Some(retention) = self.retention {
            body["retention_ms"] = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(bytes) = self.retention_bytes {
            body["retention_bytes"] = bytes.get().into();
        }
        if let Some(dialect) = self.dialect {
            body["dialect"] = dialect.name().into();
        }
        if let Some(compression) = self.compression {
            body["compression"] = match compression {
                Compression::None => "none".into(),
                Compression::Lz4 => "lz4".into(),
                Compression::Zstd => "zstd".into(),
            };
        }
        if let Some(topic_type) = self.topic_type {
            body["type"] = topic_type.name().into();
        }
        body
    }

    fn is_empty(&self) -> bool {
        self.queues.is_none()
            && self.class.is_none()
            && self.retention.is_none()
            && self.retention_bytes.is_none()
            && self.dialect.is_none()
            && self.compression.is_none()
            && self.topic_type.is_none()
    }
}

pub(crate) async fn run(command: TopicCommand, global: &Global) -> Result<(), Failure> {
    match command {
        TopicCommand::Create { topic, settings, if_not_exists } => {
            create(&topic, &settings, if_not_exists, global).await
        }
        TopicCommand::List => show_list(global).await,
        TopicCommand::Describe { topic } => describe(&topic, global).await,
        TopicCommand::Alter { topic, settings } => alter(&topic, &settings, global).await,
        TopicCommand::Delete { topic, yes, if_exists } => delete(&topic, yes, if_exists, global).await,
    }
}

async fn create(
    topic: &str,
    settings: &Settings,
    if_not_exists: bool,
    global: &Global,
) -> Result<(), Failure> {
    let client = global.connect().await?;
    if if_not_exists && let Ok(existing) = client.action("DescribeTopic", &json!({ "topic": topic })).await {
        return if global.json { print_json(&existing) } else { print_line(&format!("{topic} exists")) };
    }
    let made = client.action("CreateTopic", &settings.body(topic)).await?;
    if global.json {
        return print_json(&made);
    }
    let queues = list(&made, "queues").len() as u64;
    print_line(&format!(
        "created topic {topic}: {}, class {}",
        counted(queues, "queue"),
        field(&made, "class")
    ))
}

async fn show_list(global: &Global) -> Result<(), Failure> {
    let answer = global.connect().await?.action("ListTopics", &json!({})).await?;
    if global.json {
        return print_json(&answer);
    }
    let topics = list(&answer, "topics");
    if topics.is_empty() {
        return print_line("no topics; create one with: weir topic create NAME");
    }
    let mut shown = table(["topic", "type", "queues", "messages", "class", "retention", "created"]);
    for topic in topics {
        shown.add_row(vec![
            field(topic, "name").into(),
            field(topic, "type").into(),
            number_cell(list(topic, "queues").len() as u64),
            number_cell(messages(topic)),
            field(topic, "class").into(),
            retention(topic).into(),
            created(topic).into(),
        ]);
    }
    print_line(&shown.to_string())
}

async fn describe(topic: &str, global: &Global) -> Result<(), Failure> {
    let answer = global.connect().await?.action("DescribeTopic", &json!({ "topic": topic })).await?;
    if global.json { print_json(&answer) } else { show(&answer) }
}

async fn alter(topic: &str, settings: &Settings, global: &Global) -> Result<(), Failure> {
    if settings.is_empty() {
        let message = "nothing to change; name --queues, --class, --retention, --retention-bytes, --dialect, --compression or --type";
        return Err(Failure::new(Exit::Usage, message));
    }
    let answer = global.connect().await?.action("AlterTopic", &settings.body(topic)).await?;
    if global.json { print_json(&answer) } else { show(&answer) }
}

async fn delete(topic: &str, yes: bool, if_exists: bool, global: &Global) -> Result<(), Failure> {
    let client = global.connect().await?;
    let body = json!({ "topic": topic });
    let found = client.action("DescribeTopic", &body).await.map_err(Failure::from);
    let described = match found {
        Err(failure) if if_exists && failure.kind() == Some(Exit::NotFound) => return Ok(()),
        found => found?,
    };
    let question = format!("Delete topic {topic} with {}?", counted(messages(&described), "message"));
    if !confirm(&question, yes)? {
        return Err(Failure::new(Exit::Failed, "not deleted"));
    }
    let answer = client.action("DeleteTopic", &body).await?;
    if global.json {
        return print_json(&answer);
    }
    print_line(&deleted(topic, &answer))
}

/// Says how much is free, and how much will be by when.
fn deleted(topic: &str, answer: &Value) -> String {
    let mut text = format!(
        "deleted topic {topic}: {}; {} free now",
        counted(count(answer, "messages"), "message"),
        size(count(answer, "free_now_bytes")),
    );
    let (soon, later) = (count(answer, "free_soon_bytes"), count(answer, "free_later_bytes"));
    if soon > 0 {
        let minutes = count(answer, "free_soon_ms").div_ceil(60_000).max(1);
        let minutes = counted(minutes, "minute");
        text += &format!("; {} of the log within about {minutes}, as segments are compacted", size(soon));
    }
    if later > 0 {
        text += &format!("; {} of the log when enough of the messages beside them end", size(later));
    }
    text
}

fn show(topic: &Value) -> Result<(), Failure> {
    print_line(&format!(
        "topic {}\n  class      {}\n  type       {}\n  retention  {}\n  dialect    {}\n  bodies     {}\n  created    {}\n  messages   {}\n  log        about {}",
        field(topic, "name"),
        field(topic, "class"),
        field(topic, "type"),
        retention(topic),
        dialect(topic, "the broker's"),
        match field(topic, "compression").as_str() {
            "none" => "as they come".to_owned(),
            compression => format!("compressed, {compression}"),
        },
        created(topic),
        grouped(messages(topic)),
        size(count(topic, "log_bytes")),
    ))?;
    let mut queues = table(["queue", "first", "end", "messages"]);
    for queue in list(topic, "queues") {
        let (first, end) = (count(queue, "first"), count(queue, "end"));
        queues.add_row(vec![
            number_cell(count(queue, "queue")),
            number_cell(first),
            number_cell(end),
            number_cell(end.saturating_sub(first)),
        ]);
    }
    print_line(&queues.to_string())
}

fn messages(topic: &Value) -> u64 {
    list(topic, "queues")
        .iter()
        .map(|queue| count(queue, "end").saturating_sub(count(queue, "first")))
        .fold(0, u64::saturating_add)
}

fn retention(topic: &Value) -> String {
    let time = topic.get("retention_ms").and_then(Value::as_u64).map(|ms| length(ms).to_string());
    let bytes = topic.get("retention_bytes").and_then(Value::as_u64).map(|bytes| size(bytes).to_string());
    match (time, bytes) {
        (None, None) => "for ever".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(time), Some(bytes)) => format!("{time}, {bytes}"),
    }
}

fn created(topic: &Value) -> String {
    topic.get("created_ms").and_then(Value::as_i64).map(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_says_how_much_is_free_by_when() {
        let answer = json!({"messages": 5, "free_now_bytes": 2048, "free_soon_bytes": 3_u64 << 30, "free_soon_ms": 200_000,
            "free_later_bytes": 1024});
        assert_eq!(
            deleted("t", &answer),
            "deleted topic t: 5 messages; 2.00 KiB free now; 3.00 GiB of the log within about 4 minutes, as segments \
             are compacted; 1.00 KiB of the log when enough of the messages beside them end"
        );
        let answer = json!({"messages": 0, "free_now_bytes": 0, "free_soon_bytes": 0, "free_later_bytes": 0});
        assert_eq!(deleted("t", &answer), "deleted topic t: 0 messages; 0 B free now");
    }
}
