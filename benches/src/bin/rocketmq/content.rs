//! The messages: each follows from its number, so that a receiver can tell whether it got what was sent.

use anyhow::{Context, Result, ensure};
use weir_benches::resource;
use weir_server::rocketmq::proto::{Encoding, Message, MessageType, Resource, SystemProperties};

/// A prime: multiples of it spread numbers evenly over the ranks.
const STRIDE: u64 = 999_999_937;
const REGIONS: [&str; 10] = ["EU", "US", "APAC", "LATAM", "MEA", "UK", "JP", "CN", "IN", "AU"];

/// What all messages of a topic have in common.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    topic: Resource,
    body_bytes: usize,
    /// Of so many consecutive messages each has another price, from 0 on.
    prices: u64,
}

/// Which messages a consumer wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    Tenth,
    Hundredth,
    HundredThousandth,
}

impl Content {
    pub(crate) fn new(topic: &str, body_bytes: usize, prices: u64) -> Self {
        Self { topic: resource(topic), body_bytes, prices }
    }

    /// Returns the message of a number.
    pub(crate) fn message(&self, number: u64) -> Message {
        let price = self.price(number);
        let region = REGIONS[(price % 10) as usize];
        let mut body = format!("{number:016x}").into_bytes();
        body.resize(self.body_bytes, b'.');
        let properties = [
            ("cust", format!("c{}", price / 10 % 100)),
            ("price", price.to_string()),
            ("region", region.to_owned()),
        ];
        Message {
            topic: Some(self.topic.clone()),
            user_properties: properties.map(|(name, value)| (name.to_owned(), value)).into(),
            system_properties: Some(SystemProperties {
                message_id: format!("{number:032X}"),
                message_type: MessageType::Normal.into(),
                body_encoding: Encoding::Identity.into(),
                ..SystemProperties::default()
            }),
            body: body.into(),
        }
    }

    /// Returns the number of a message that was received.
    ///
    /// # Errors
    ///
    /// If it is not as it was sent.
    pub(crate) fn number(&self, received: &Message) -> Result<u64> {
        let system = received.system_properties.as_ref().context("a message has system properties")?;
        let number = u64::from_str_radix(&system.message_id, 16).context("a message has another id")?;
        let sent = self.message(number);
        ensure!(received.body == sent.body, "message {number} has another body");
        ensure!(
            received.user_properties == sent.user_properties,
            "message {number} has other properties: {:?}",
            received.user_properties
        );
        Ok(number)
    }

    fn price(&self, number: u64) -> u64 {
        (number % self.prices) * STRIDE % self.prices
    }

    /// Returns whether a consumer of `share` wants the message of a number.
    pub(crate) fn wanted(&self, share: Share, number: u64) -> bool {
        let price = self.price(number);
        match share {
            Share::Tenth => price.is_multiple_of(10),
            Share::Hundredth => price / 10 % 100 == 7,
            Share::HundredThousandth => price < self.prices / 100_000,
        }
    }

    /// Returns the selector of `share`.
    pub(crate) fn selector(&self, share: Share) -> String {
        match share {
            Share::Tenth => "region = 'EU'".to_owned(),
            Share::Hundredth => "cust = 'c7'".to_owned(),
            Share::HundredThousandth => format!("price < {}", self.prices / 100_000),
        }
    }
}
