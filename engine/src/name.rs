//! Names of topics and groups, and the rules for them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::limits::{GROUP_NAME_CHARS_MAX, NAMESPACE_CHARS_MAX, TOPIC_NAME_CHARS_MAX};

/// The prefix of dead-letter topics; the rest of the name is the group's.
pub(crate) const DEAD_LETTER_PREFIX: &str = "%DLQ%";

/// The prefix of retry topics in RocketMQ. Reserved: Weir redelivers from the topic itself.
pub(crate) const RETRY_PREFIX: &str = "%RETRY%";

/// Topics that RocketMQ keeps to itself; clients must not use them.
const RESERVED_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} {fault}")]
pub struct NameError {
    /// `topic`, `group` or `namespace`.
    pub what: &'static str,
    /// The name, shortened to 200 characters.
    pub name: String,
    /// What is wrong with it.
    pub fault: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $type {
            namespace: String,
            name: String,
        }

        impl $type {
            /// Returns the name in `namespace`; the empty namespace is the default one.
            ///
            /// # Errors
            ///
            /// If either breaks the rules.
            pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
                check_namespace(namespace)?;
                $check(name)?;
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }

            /// Returns the namespace; empty for the default one.
            pub fn namespace(&self) -> &str {
                &self.namespace
            }

            /// Returns the name without its namespace.
            pub fn name(&self) -> &str {
                &self.name
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.namespace.is_empty() {
                    f.write_str(&self.name)
                } else {
                    write!(f, "{}/{}", self.namespace, self.name)
                }
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            /// Reads `name` or `namespace/name`.
            fn from_str(text: &str) -> Result<Self, NameError> {
                match text.split_once('/') {
                    Some((namespace, name)) => Self::new(namespace, name),
                    None => Self::new("", text),
                }
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    };
}

name! {
    /// The name of a topic: up to 127 characters of `%|a-zA-Z0-9_-`, in a namespace.
    TopicName, check_topic
}
name! {
    /// The name of a consumer group: up to 120 characters of `%|a-zA-Z0-9_-`, in a namespace.
    GroupName, check_group
}

impl TopicName {
    /// Returns the name of the topic that holds pending messages. No text is read as this name.
    pub(crate) fn pending() -> Self {
        Self { namespace: "weir".to_owned(), name: "pending".to_owned() }
    }

    /// Returns the dead-letter topic of `group`.
    pub fn dead_letter_of(group: &GroupName) -> Self {
        Self { namespace: group.namespace.clone(), name: format!("{DEAD_LETTER_PREFIX}{}", group.name) }
    }

    /// Returns whether this is the dead-letter topic of some group.
    pub fn is_dead_letter(&self) -> bool {
        self.name.starts_with(DEAD_LETTER_PREFIX)
    }

    /// Returns whether only the broker may create the topic.
    pub fn is_reserved(&self) -> bool {
        self.is_dead_letter() || self.name.starts_with(RETRY_PREFIX)
    }
}

fn check_topic(name: &str) -> Result<(), NameError> {
    check_characters("topic", name, TOPIC_NAME_CHARS_MAX + DEAD_LETTER_PREFIX.len())?;
    let fault = if RESERVED_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
        "is reserved for the broker"
    } else if name.len() > TOPIC_NAME_CHARS_MAX && !name.starts_with(DEAD_LETTER_PREFIX) {
        "is longer than 127 characters"
    } else {
        return Ok(());
    };
    Err(refused("topic", name, fault))
}

fn check_group(name: &str) -> Result<(), NameError> {
    check_characters("group", name, GROUP_NAME_CHARS_MAX)?;
    if name.starts_with("CID_RMQ_SYS_") {
        return Err(refused("group", name, "is reserved for the broker"));
    }
    Ok(())
}

fn check_namespace(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Ok(());
    }
    check_characters("namespace", name, NAMESPACE_CHARS_MAX)?;
    if matches!(name, "public" | "weir" | "information_schema") {
        return Err(refused("namespace", name, "is reserved: it names a schema of the SQL catalog"));
    }
    Ok(())
}

fn check_characters(what: &'static str, name: &str, chars_max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(refused(what, name, "is blank"));
    }
    if let Some(wrong) =
        name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-')))
    {
        let fault = format!("holds {wrong:?}; allowed are letters, digits and %|_-");
        return Err(refused(what, name, &fault));
    }
    if name.len() > chars_max {
        return Err(refused(what, name, &format!("is longer than {chars_max} characters")));
    }
    Ok(())
}

fn refused(what: &'static str, name: &str, fault: &str) -> NameError {
    NameError { what, name: name.chars().take(200).collect(), fault: fault.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_rocketmq() {
        for good in ["orders", "a-b_c|d%e", "%DLQ%workers", "ns/orders"] {
            assert_eq!(good.parse::<TopicName>().unwrap().to_string(), good);
        }
        for bad in ["", " ", "a b", "a.b", "TBW102", "rmq_sys_x", "public/orders", "a/b/c", "ü"] {
            assert!(bad.parse::<TopicName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(127).parse::<TopicName>().is_ok());
        assert!("x".repeat(128).parse::<TopicName>().is_err());
        assert!("x".repeat(120).parse::<GroupName>().is_ok());
        assert!("x".repeat(121).parse::<GroupName>().is_err());
        assert!("CID_RMQ_SYS_x".parse::<GroupName>().is_err());
    }

    #[test]
    fn every_group_has_a_dead_letter_topic() {
        let group = GroupName::new("ns", &"g".repeat(120)).unwrap();
        let topic = TopicName::dead_letter_of(&group);
        assert!(topic.is_dead_letter() && topic.is_reserved());
        assert_eq!(topic.to_string().parse::<TopicName>().unwrap(), topic);
    }
}
