//! `TraceMessage`: what became of a message.

use std::time::Duration;

use serde::Deserialize;
use tonic::Status;
use weir_engine::{Broker, MessageName, TopicName, TraceRequest, TracedName};

use super::admin::{Answer, answer, body};
use crate::status::to_flight;

/// Messages that are traced unless the caller says how many.
const LIMIT_DEFAULT: usize = 10;
/// How long a message is looked for where nobody says.
const WITHIN_DEFAULT_MS: u64 = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    /// An id, or `QUEUE:OFFSET`.
    message: Option<String>,
    key: Option<String>,
    topic: Option<TopicName>,
    limit: Option<usize>,
    within_ms: Option<u64>,
}

pub(super) async fn trace(broker: &Broker, bytes: &[u8]) -> Answer {
    let Trace { message, key, topic, limit, within_ms } = body(bytes)?;
    let name = match (message, key) {
        (Some(message), None) => {
            let Ok(message) = message.parse::<MessageName>();
            TracedName::Message(message)
        }
        (None, Some(key)) => TracedName::Key(key),
        _ => return Err(Status::invalid_argument("the body must name a message or a key, one of both")),
    };
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    let within = Duration::from_millis(within_ms.unwrap_or(WITHIN_DEFAULT_MS));
    answer(broker.trace(TraceRequest { topic, name, limit, within }).await.map_err(to_flight)?)
}
