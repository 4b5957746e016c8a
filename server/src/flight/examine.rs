//! Actions that look at what selectors do on retained messages.

use serde::Deserialize;
use tonic::Status;
use weir_engine::{Broker, Dialect, MessageName, Selector, TopicName};
use weir_filter::UnknownDialect;

use super::admin::{Answer, answer, named};
use crate::status::to_flight;

/// Rows that are shown unless the caller says how many.
const ROWS_DEFAULT: usize = 10;
/// Rows that are shown at most: each is read from the log.
const ROWS_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    selector: String,
    dialect: Option<String>,
    #[serde(default)]
    analyze: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    selector: String,
    dialect: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    selector: String,
    dialect: Option<String>,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Diff {
    before: String,
    after: String,
    dialect: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn explain(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Explain { selector, dialect, analyze }) = named::<TopicName, _>(body, "topic")?;
    let selector = parsed(broker, &topic, &selector, dialect.as_deref())?;
    answer(broker.explain_selector(&topic, &selector, analyze).await.map_err(to_flight)?)
}

pub(super) async fn try_rows(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Try { selector, dialect, limit }) = named::<TopicName, _>(body, "topic")?;
    let selector = parsed(broker, &topic, &selector, dialect.as_deref())?;
    answer(broker.try_selector(&topic, &selector, rows(limit)?).await.map_err(to_flight)?)
}

pub(super) async fn why(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Why { selector, dialect, message }) = named::<TopicName, _>(body, "topic")?;
    let selector = parsed(broker, &topic, &selector, dialect.as_deref())?;
    let Ok(message) = message.parse::<MessageName>();
    answer(broker.why_selected(&topic, &selector, &message).await.map_err(to_flight)?)
}

pub(super) async fn diff(broker: &Broker, body: &[u8]) -> Answer {
    let (topic, Diff { before, after, dialect, limit }) = named::<TopicName, _>(body, "topic")?;
    let before = parsed(broker, &topic, &before, dialect.as_deref())?;
    let after = parsed(broker, &topic, &after, dialect.as_deref())?;
    answer(broker.diff_selectors(&topic, &before, &after, rows(limit)?).await.map_err(to_flight)?)
}

/// Parses a selector in the dialect that was asked for, else in that of the topic.
fn parsed(broker: &Broker, topic: &TopicName, text: &str, dialect: Option<&str>) -> Result<Selector, Status> {
    let dialect: Dialect = dialect
        .map(str::parse)
        .transpose()
        .map_err(|error: UnknownDialect| Status::invalid_argument(error.to_string()))?
        .unwrap_or_else(|| broker.selector_dialect(topic, None));
    broker.parse_selector_in(text, dialect).map_err(to_flight)
}

fn rows(limit: Option<usize>) -> Result<usize, Status> {
    match limit {
        Some(limit) if limit > ROWS_MAX => {
            Err(Status::invalid_argument(format!("limit is {limit}; {ROWS_MAX} rows are shown at most")))
        }
        limit => Ok(limit.unwrap_or(ROWS_DEFAULT)),
    }
}
