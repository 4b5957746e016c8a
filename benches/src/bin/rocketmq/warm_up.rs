//! Messages that are sent and received before anything is measured, so that a JVM has compiled what it runs.

use std::sync::Arc;

use anyhow::{Result, ensure};
use weir_benches::Consumer;

use crate::{
    Arguments, POLL, PRICES,
    content::Content,
    load::{Counts, Load},
    side::Side,
};

const TOPIC: &str = "warm-up";
const GROUP: &str = "warm-up";
/// Calls under way at once when a call has several messages.
const BATCH_CALLERS: usize = 16;
/// One message of so many is received, too.
const RECEIVED_OF: u64 = 10;

/// Sends messages one by one and in batches, receives some of them, and compares what is stored and received.
pub(crate) async fn warm_up(arguments: &Arguments, side: &Side) -> Result<()> {
    side.create_topic(TOPIC)?;
    side.create_groups(&[GROUP.to_owned()])?;
    let (content, counts) = (Content::new(TOPIC, 100, PRICES), Arc::new(Counts::default()));
    let load = Load::connect(side, arguments.connections, TOPIC, content.clone(), &counts).await?;
    load.send(arguments.warm_up, arguments.producers, 1).await?;
    load.send(arguments.warm_up, BATCH_CALLERS, arguments.batch).await?;
    let mut consumer = Consumer::connect(&side.uri(), "warm-up@1@0", GROUP, TOPIC, None).await?;
    let mut received = 0;
    while received < arguments.warm_up / RECEIVED_OF {
        let messages = consumer.receive(POLL).await?;
        ensure!(!messages.is_empty(), "only {received} messages can be received");
        for message in &messages {
            content.number(message)?;
        }
        consumer.acknowledge(&messages).await?;
        received += messages.len() as u64;
    }
    side.ensure_stored(TOPIC, counts.acknowledged(), counts.refused())
}
