//! The pull command and the metadata of a pulled batch: JSON that both sides of the wire speak.

use std::{collections::BTreeMap, fmt, time::UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weir_engine::ColumnType;

/// The version of the pull command, and the value of its field `pull`.
pub const PULL_VERSION: u32 = 1;

/// What to read from a topic: the descriptor of `GetFlightInfo` and the hand-made ticket of `DoGet`.
///
/// ```json
/// {"pull":1,"topic":"orders","from":{"earliest":true},"to":{"snapshot":true},
///  "columns":["queue_offset","price"],"filter":"price > 10"}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullCommand {
    /// Always [`PULL_VERSION`].
    pub pull: u32,
    /// The topic, as `name` or `namespace/name`.
    pub topic: String,
    /// The queues; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<u32>>,
    /// Where to begin. Default: the earliest retained message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PullStart>,
    /// Where to end. Default: what is visible when the command is planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PullEnd>,
    /// The columns, in this order. Default: the nine of every topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Fixes the types of properties; what does not convert is null.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, ColumnType>,
    /// A selector; the broker sends only rows for which it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The dialect of the filter: `sql92`, `rocketmq` or `jms`. Default: that of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// Ends each endpoint after so many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// Ends each endpoint after about so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Rows of a batch, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<usize>,
    /// Bytes of a batch, about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_bytes: Option<usize>,
    /// How the buffers of the stream are compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
}

impl PullCommand {
    /// Returns the command that reads all of `topic`.
    pub fn of_topic(topic: impl Into<String>) -> Self {
        Self {
            pull: PULL_VERSION,
            topic: topic.into(),
            queues: None,
            from: None,
            to: None,
            columns: None,
            types: BTreeMap::new(),
            filter: None,
            dialect: None,
            max_rows: None,
            max_bytes: None,
            batch_rows: None,
            batch_bytes: None,
            compression: Compression::None,
        }
    }
}

/// Where a pull begins in each queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullStart {
    /// At the earliest retained message.
    Earliest(Yes),
    /// After the newest message.
    Latest(Yes),
    /// At these offsets, by queue; other queues at the earliest retained message.
    Offsets(BTreeMap<u32, u64>),
    /// At the first message stored at this time or later.
    Timestamp(Moment),
    /// At the committed offsets of a consumer group.
    Group(String),
}

/// Where a pull ends in each queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullEnd {
    /// After what is visible when the command is planned.
    Snapshot(Yes),
    /// Before these offsets, by queue; other queues after what is visible.
    Offsets(BTreeMap<u32, u64>),
    /// Before the first message stored at this time or later.
    Timestamp(Moment),
}

/// How the buffers of a stream are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all: the only form that every client reads.
    #[default]
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// The word `true`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "bool", try_from = "bool")]
pub struct Yes;

impl From<Yes> for bool {
    fn from(_: Yes) -> Self {
        true
    }
}

impl TryFrom<bool> for Yes {
    type Error = &'static str;

    fn try_from(yes: bool) -> Result<Self, Self::Error> {
        if yes { Ok(Self) } else { Err("the only value is true") }
    }
}

/// A time: milliseconds since 1970, or text such as `2026-11-01T00:00:00Z`. Always UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Moment(
    /// Milliseconds since 1970, UTC.
    pub i64,
);

impl std::str::FromStr for Moment {
    type Err = String;

    /// Reads `2026-11-01T00:00:00.000Z`, the same with a blank for the `T` or without the `Z`, or
    /// milliseconds.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ms) = text.parse() {
            return Ok(Self(ms));
        }
        let wrong = || {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} is no time; write 2026-11-01T00:00:00Z (UTC) or milliseconds since 1970")
        };
        let time = humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
        i64::try_from(since.as_millis()).map(Self).map_err(|_| wrong())
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: 2026-11-01T00:00:00Z or milliseconds since 1970")
            }

            fn visit_i64<E: serde::de::Error>(self, ms: i64) -> Result<Moment, E> {
                Ok(Moment(ms))
            }

            fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<Moment, E> {
                i64::try_from(ms).map(Moment).map_err(|_| E::custom("the time is beyond 64 bits"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Moment, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What the broker says of a pulled batch, as the `app_metadata` of its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchMetadata {
    /// The queue.
    pub q: u32,
    /// The offset at which the scan for this batch began.
    pub base: u64,
    /// The offset to resume from. Absent on all but the last message of a batch that had to be split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The earliest offset of the queue.
    pub low: u64,
    /// The offset that the next message of the queue will have.
    pub high: u64,
    /// The newest store time that the scan has seen; milliseconds since 1970, UTC.
    pub ts: i64,
    /// Set on the last message of an endpoint, and says why it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos: Option<EndOfStream>,
}

/// Why an endpoint of a pull ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndOfStream {
    /// All that was asked for was sent.
    End,
    /// The number of rows that was asked for was sent.
    MaxRows,
    /// The number of bytes that was asked for was sent.
    MaxBytes,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_written_and_read_alike() {
        let text = r#"{"pull":1,"topic":"orders","queues":[0,3],"from":{"offsets":{"0":120,"3":77}},
            "to":{"timestamp":"2026-11-01T00:00:00Z"},"columns":["queue_id","price"],
            "types":{"price":"float64"},"filter":"price > 10","max_rows":5,"max_bytes":null,
            "batch_rows":32768,"compression":"lz4"}"#;
        let command: PullCommand = serde_json::from_str(text).unwrap();
        assert_eq!(command.from, Some(PullStart::Offsets([(0, 120), (3, 77)].into())));
        assert_eq!(command.to, Some(PullEnd::Timestamp(Moment(1_793_491_200_000))));
        let again = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<PullCommand>(&again).unwrap(), command);
        let short = serde_json::to_string(&PullCommand::of_topic("orders")).unwrap();
        assert_eq!(short, r#"{"pull":1,"topic":"orders"}"#);
    }

    #[test]
    fn nonsense_in_a_command_is_refused() {
        for text in [
            r#"{"pull":1}"#,
            r#"{"pull":1,"topic":"a","filters":"x"}"#,
            r#"{"pull":1,"topic":"a","from":{"earliest":false}}"#,
            r#"{"pull":1,"topic":"a","from":{"timestamp":"yesterday"}}"#,
            r#"{"pull":1,"topic":"a","from":{"earliest":true,"latest":true}}"#,
            r#"{"pull":1,"topic":"a","from":{"offsets":{"-1":0}}}"#,
            r#"{"pull":1,"topic":"a","to":{"follow":true}}"#,
        ] {
            assert!(serde_json::from_str::<PullCommand>(text).is_err(), "{text}");
        }
    }
}
