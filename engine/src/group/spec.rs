//! What a group is made of, and what is told about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_filter::Dialect;
use weir_storage::{GroupId, QueueId, QueueOffset};

use crate::{
    limits::{ATTEMPTS_DEFAULT, LEASE_MIN, LITE_QUOTA_DEFAULT, PRIORITY_FACTOR_MAX},
    name::{GroupName, TopicName},
    serial,
};

/// How a group is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSpec {
    /// How often a message is delivered before it goes to the dead-letter topic. Default: 17.
    pub max_attempts: u32,
    /// How long a failed message waits. Default: exponential from 5 s, doubled up to 2 h.
    pub retry: RetryPolicy,
    /// The shortest lease that members may ask for. Default: 10 s.
    #[serde(rename = "lease_min_ms", with = "serial::duration_ms")]
    pub lease_min: Duration,
    /// Where the group begins in a topic that it has not read before. Default: earliest.
    pub start: GroupStart,
    /// Whether the messages of a message group are delivered one after the other: none while an earlier one is in
    /// the hands of a member or waits. Default: no.
    pub fifo: bool,
    /// The language of its selectors; `None` for that of each topic.
    #[serde(with = "serial::dialect_option", skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// Of a hundred receives on a topic of type PRIORITY, how many look at the highest priority first; the others
    /// begin at each in turn, so that the lowest are not starved. No meaning in a FIFO group. Default: 100.
    #[serde(skip_serializing_if = "is_always")]
    pub priority_factor: u8,
    /// The lite topics that it reads, if it reads such: it is FIFO then, and reads nothing else. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite: Option<LiteSpec>,
}

impl GroupSpec {
    /// Returns how the group reads lite topics, if it reads those that each of its clients subscribes to.
    pub fn lite_sets(&self) -> Option<&LiteSpec> {
        self.lite.as_ref().filter(|lite| !lite.wildcard)
    }
}

/// How a group reads lite topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteSpec {
    /// The parent of the lite topics, which is of type LITE. It stays the same.
    pub topic: TopicName,
    /// Whether a lite topic is one client's at a time: who subscribes to it takes it from the one before. Default: no.
    #[serde(default)]
    pub exclusive: bool,
    /// Whether every client reads all lite topics, whether it subscribes to them or not. The group is one like others then,
    /// whose message groups are the lite topics. It stays the same. Default: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wildcard: bool,
    /// How many lite topics each client may subscribe to; 1 to
    /// [`LITE_QUOTA_MAX`](crate::limits::LITE_QUOTA_MAX), which is told to clients. They are
    /// refused not before [`LITE_QUOTA_TOLERANCE`](crate::limits::LITE_QUOTA_TOLERANCE) more. Default:
    /// [`LITE_QUOTA_DEFAULT`].
    #[serde(default = "quota_default")]
    pub quota: u32,
}

impl LiteSpec {
    /// Returns the defaults for the lite topics of a parent.
    pub fn of(topic: TopicName) -> Self {
        Self { topic, exclusive: false, wildcard: false, quota: LITE_QUOTA_DEFAULT }
    }
}

fn quota_default() -> u32 {
    LITE_QUOTA_DEFAULT
}

/// Kept only where it differs, so that programs of before it read the others.
fn is_always(factor: &u8) -> bool {
    *factor == PRIORITY_FACTOR_MAX
}

impl Default for GroupSpec {
    fn default() -> Self {
        Self {
            max_attempts: ATTEMPTS_DEFAULT,
            retry: RetryPolicy::default(),
            lease_min: LEASE_MIN,
            start: GroupStart::Earliest,
            fifo: false,
            dialect: None,
            priority_factor: PRIORITY_FACTOR_MAX,
            lite: None,
        }
    }
}

/// How long a message waits after a failed delivery, by the number of that delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RetryPolicy {
    /// `min(max, initial × multiplier^(attempt − 1))`.
    Exponential {
        /// After the first delivery.
        #[serde(rename = "initial_ms", with = "serial::duration_ms")]
        initial: Duration,
        /// The longest.
        #[serde(rename = "max_ms", with = "serial::duration_ms")]
        max: Duration,
        /// The factor from one delivery to the next.
        multiplier: f64,
    },
    /// One after each delivery; the last one again and again.
    #[serde(rename = "customized_ms", with = "serial::durations_ms")]
    Customized(Vec<Duration>),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::Exponential {
            initial: Duration::from_secs(5),
            max: Duration::from_secs(2 * 60 * 60),
            multiplier: 2.0,
        }
    }
}

impl RetryPolicy {
    /// Returns how long to wait after delivery number `attempt`, counted from 1.
    pub fn delay(&self, attempt: u32) -> Duration {
        match self {
            Self::Exponential { initial, max, multiplier } => {
                let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
                let seconds = initial.as_secs_f64() * multiplier.powi(exponent);
                Duration::try_from_secs_f64(seconds).map_or(*max, |delay| delay.min(*max))
            }
            Self::Customized(delays) => {
                let at = (attempt.max(1) as usize).min(delays.len()).saturating_sub(1);
                delays.get(at).copied().unwrap_or_default()
            }
        }
    }
}

/// Where a group begins in a topic that it has not read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupStart {
    /// At the first retained row.
    #[default]
    Earliest,
    /// Behind the last visible row.
    Latest,
}

/// What is to change in a group; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupChange {
    /// How often a message is delivered before it goes to the dead-letter topic.
    pub max_attempts: Option<u32>,
    /// How long a failed message waits.
    pub retry: Option<RetryPolicy>,
    /// The shortest lease that members may ask for.
    #[serde(rename = "lease_min_ms", with = "serial::duration_ms_option")]
    pub lease_min: Option<Duration>,
    /// Where the group begins in a topic that it has not read before.
    pub start: Option<GroupStart>,
    /// Whether the messages of a message group are delivered one after the other.
    pub fifo: Option<bool>,
    /// The language of its selectors. Selectors in use stay what they are.
    #[serde(with = "serial::dialect_option")]
    pub dialect: Option<Dialect>,
    /// Of a hundred receives on a topic of type PRIORITY, how many look at the highest priority first.
    pub priority_factor: Option<u8>,
    /// How many lite topics each client may subscribe to.
    pub lite_quota: Option<u32>,
}

/// Where a group is put in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResetTo {
    /// To the first retained row of each queue.
    Earliest,
    /// Behind the last visible row of each queue.
    Latest,
    /// To an offset of one queue.
    Offset {
        /// The queue.
        queue: QueueId,
        /// The offset that is delivered next.
        offset: QueueOffset,
    },
    /// To the first row of each queue that was stored at this time or later; milliseconds since 1970, UTC.
    Timestamp(i64),
}

/// A group as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// Its name.
    pub name: GroupName,
    /// Its number, never given twice.
    pub id: GroupId,
    /// How it was made.
    pub spec: GroupSpec,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// Clients that are alive, by name.
    pub members: Vec<String>,
    /// The topics that it reads.
    pub topics: Vec<GroupTopic>,
}

/// A group on one topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupTopic {
    /// The topic.
    pub topic: TopicName,
    /// The selectors that its members use, or that are not yet passed by the others.
    pub selectors: Vec<GroupSelector>,
    /// The queues, in order.
    pub queues: Vec<GroupQueue>,
    /// If the group reads lite topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lite: Option<GroupLite>,
}

/// A group in the lite topics of its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLite {
    /// The clients that subscribe to some.
    pub members: Vec<String>,
    /// How many lite topics they subscribe to, those of each client counted.
    pub subscriptions: u64,
    /// In how many the group stands somewhere.
    pub positions: u64,
    /// How many queues wait because as many of their messages are leased or wait for redelivery as may be at a time.
    pub full_queues: u64,
}

/// A selector of a group on one topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSelector {
    /// Its text.
    pub text: String,
    /// `all`, `tags` or `sql`.
    pub kind: String,
    /// The language that it is written in.
    #[serde(default, with = "serial::dialect")]
    pub dialect: Dialect,
    /// The live clients that use it.
    pub members: Vec<String>,
    /// How far it has come.
    pub queues: Vec<SelectorQueue>,
}

/// How far a selector has judged a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorQueue {
    /// The queue.
    pub queue: QueueId,
    /// The first row that it judged.
    pub start: QueueOffset,
    /// The row that it judges next.
    pub cursor: QueueOffset,
}

/// A group on one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupQueue {
    /// The queue.
    pub queue: QueueId,
    /// Every row before this one is done with.
    pub committed: QueueOffset,
    /// The first offset that is not visible yet.
    pub end: QueueOffset,
    /// Rows that a member has.
    pub leased: u64,
    /// Rows that wait for their redelivery, or in line behind another one of their message group.
    pub waiting: u64,
    /// Rows that were dropped since the broker started, because no selector of the group matches them any more.
    pub dropped_by_selector_change: u64,
    /// Rows that ended since the broker started before the group was done with them; at most so many would have
    /// matched.
    #[serde(default)]
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_policy() {
        let secs = Duration::from_secs;
        let exponential = RetryPolicy::Exponential { initial: secs(5), max: secs(60), multiplier: 2.0 };
        let customized = RetryPolicy::Customized(vec![secs(1), secs(7)]);
        for (attempt, first, second) in
            [(0, 5, 1), (1, 5, 1), (2, 10, 7), (4, 40, 7), (5, 60, 7), (u32::MAX, 60, 7)]
        {
            assert_eq!(exponential.delay(attempt), secs(first), "attempt {attempt}");
            assert_eq!(customized.delay(attempt), secs(second), "attempt {attempt}");
        }
        assert_eq!(RetryPolicy::Customized(Vec::new()).delay(1), Duration::ZERO);
    }

    #[test]
    fn settings_are_json_with_milliseconds_and_no_unknown_keys() {
        let spec: GroupSpec =
            serde_json::from_str(r#"{"lease_min_ms": 500, "retry": {"customized_ms": [1, 2]}}"#).unwrap();
        assert_eq!(spec.lease_min, Duration::from_millis(500));
        assert_eq!(
            spec.retry,
            RetryPolicy::Customized(vec![Duration::from_millis(1), Duration::from_millis(2)])
        );
        let again: GroupSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        assert!(serde_json::from_str::<GroupSpec>(r#"{"lease_minimum": 5}"#).is_err());
    }
}
