//! Which messages a topic takes: its type, as RocketMQ has it.
//!
//! A producer asks for the types of a topic before it sends, and refuses other messages by itself; the broker
//! refuses them too, whatever the protocol. The type is looked at when a message is published: what is stored stays
//! what it is when the type changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use weir_storage::{Message, MessageType};

use crate::{error::EngineError, topic::Topic};

/// Which messages a topic takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicType {
    /// Normal messages alone.
    Normal,
    /// Messages with a message group alone.
    Fifo,
    /// Messages with a delivery time alone.
    Delay,
    /// Messages of transactions alone.
    Transaction,
    /// Messages with a priority alone. Each level has a queue, and those of higher ones are received first.
    Priority,
    /// Messages of lite topics alone.
    Lite,
    /// Normal, FIFO, delayed and transactional messages. The default, and the type of topics from before there were
    /// types.
    #[default]
    Mixed,
}

impl TopicType {
    /// All types, in the order in which they are listed.
    pub const ALL: [Self; 7] =
        [Self::Normal, Self::Fifo, Self::Delay, Self::Transaction, Self::Priority, Self::Lite, Self::Mixed];

    /// Returns the name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
            Self::Priority => "priority",
            Self::Lite => "lite",
            Self::Mixed => "mixed",
        }
    }

    /// Returns the types of messages that a topic of this type is for.
    pub const fn message_types(self) -> &'static [MessageType] {
        match self {
            Self::Normal => &[MessageType::Normal],
            Self::Fifo => &[MessageType::Fifo],
            Self::Delay => &[MessageType::Delay],
            Self::Transaction => &[MessageType::Transaction],
            Self::Priority => &[MessageType::Priority],
            Self::Lite => &[MessageType::Lite],
            Self::Mixed => {
                &[MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction]
            }
        }
    }

    /// Returns whether a topic of this type takes messages of `message_type`.
    pub fn takes(self, message_type: MessageType) -> bool {
        self.message_types().contains(&message_type)
    }
}

impl fmt::Display for TopicType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TopicType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|topic_type| text.eq_ignore_ascii_case(topic_type.name())).ok_or_else(
            || {
                let names = Self::ALL.map(Self::name).join(", ");
                format!(
                    "there is no topic type {:?}; there are {names}",
                    text.chars().take(64).collect::<String>()
                )
            },
        )
    }
}

impl Topic {
    /// Refuses messages of a type that the topic does not take.
    pub(crate) fn check_types(&self, messages: &[Message]) -> Result<(), EngineError> {
        let topic_type = self.topic_type();
        match messages.iter().map(|message| message.message_type).find(|is| !topic_type.takes(*is)) {
            None => Ok(()),
            Some(message_type) => {
                Err(EngineError::MessageType { topic: self.name.clone(), topic_type, message_type })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for topic_type in TopicType::ALL {
            assert_eq!(topic_type.name().parse(), Ok(topic_type));
            assert_eq!(topic_type.name().to_uppercase().parse(), Ok(topic_type));
            assert_eq!(serde_json::to_value(topic_type).unwrap(), topic_type.name());
        }
        assert!("normal ".parse::<TopicType>().unwrap_err().contains("transaction"));
    }

    #[test]
    fn every_type_takes_its_own_and_mixed_ones_neither_lite_nor_priority() {
        for (topic_type, takes) in [
            (TopicType::Normal, "NORMAL"),
            (TopicType::Fifo, "FIFO"),
            (TopicType::Delay, "DELAY"),
            (TopicType::Transaction, "TRANSACTION"),
            (TopicType::Priority, "PRIORITY"),
            (TopicType::Lite, "LITE"),
            (TopicType::Mixed, "NORMAL FIFO DELAY TRANSACTION"),
        ] {
            let names = (1..=6).filter_map(MessageType::from_byte).filter(|is| topic_type.takes(*is));
            assert_eq!(names.map(MessageType::name).collect::<Vec<_>>().join(" "), takes, "{topic_type}");
        }
    }
}
