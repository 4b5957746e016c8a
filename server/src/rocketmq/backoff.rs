//! When clients try again: the policy of a group, in the form that each client understands.

use std::time::Duration;

use weir_engine::{GroupSpec, RetryPolicy};

use super::{
    caller::{Caller, Language},
    convert::duration,
    proto::{self, CustomizedBackoff, ExponentialBackoff, retry_policy::Strategy},
};

/// How often a producer tries to send a message.
const PRODUCER_ATTEMPTS: i32 = 3;
const PRODUCER_INITIAL: Duration = Duration::from_millis(10);
const PRODUCER_MAX: Duration = Duration::from_secs(1);

/// Delays in the policy of a client that knows only lists of them.
const LISTED_MAX: u32 = 64;

/// Returns the policy of a producer that is told to slow down.
pub(super) fn producer(caller: &Caller) -> proto::RetryPolicy {
    proto::RetryPolicy {
        max_attempts: PRODUCER_ATTEMPTS,
        strategy: Some(exponential(caller, PRODUCER_INITIAL, PRODUCER_MAX, 2.0)),
    }
}

/// Returns the policy by which a consumer of a group delays what it could not process.
pub(super) fn consumer(caller: &Caller, spec: &GroupSpec) -> proto::RetryPolicy {
    let strategy = match (&spec.retry, caller.language) {
        // This client ignores any other strategy.
        (RetryPolicy::Exponential { .. }, Language::Python) => {
            customized((1..=spec.max_attempts.clamp(1, LISTED_MAX)).map(|attempt| spec.retry.delay(attempt)))
        }
        (RetryPolicy::Exponential { initial, max, multiplier }, _) => {
            exponential(caller, *initial, *max, *multiplier)
        }
        // This one asserts that the strategy is exponential. From the first delay to the longest, then.
        (RetryPolicy::Customized(delays), Language::Node) => {
            let first = delays.first().copied().unwrap_or_default();
            exponential(caller, first, delays.iter().copied().max().unwrap_or(first), 2.0)
        }
        (RetryPolicy::Customized(delays), _) => customized(delays.iter().copied()),
    };
    let max_attempts = i32::try_from(spec.max_attempts).unwrap_or(i32::MAX);
    proto::RetryPolicy { max_attempts, strategy: Some(strategy) }
}

fn exponential(caller: &Caller, initial: Duration, max: Duration, multiplier: f64) -> Strategy {
    let told = |wanted: Duration| {
        if caller.takes_seconds_for_milliseconds() {
            duration(Duration::from_secs(u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX)))
        } else {
            duration(wanted)
        }
    };
    Strategy::ExponentialBackoff(ExponentialBackoff {
        initial: Some(told(initial)),
        max: Some(told(max)),
        multiplier: multiplier as f32,
    })
}

fn customized(delays: impl Iterator<Item = Duration>) -> Strategy {
    Strategy::CustomizedBackoff(CustomizedBackoff { next: delays.map(duration).collect() })
}

#[cfg(test)]
mod tests {
    use tonic::Request;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_client_is_told_a_policy_that_it_understands() {
        let exponential = RetryPolicy::Exponential { initial: SECOND, max: 60 * SECOND, multiplier: 2.0 };
        let listed = RetryPolicy::Customized(vec![SECOND, 5 * SECOND]);
        for (language, version, retry, expected) in [
            ("JAVA", "5.0.8", &exponential, "1s..60s x2"),
            ("JAVA", "5.0.8", &listed, "1s 5s"),
            ("PYTHON", "5.1.2", &exponential, "1s 2s 4s"),
            ("PYTHON", "5.1.2", &listed, "1s 5s"),
            // A second is a millisecond to this one.
            ("HTTP", "1.0.8", &exponential, "1000s..60000s x2"),
            ("NODE_JS", "1.0.9", &exponential, "1s..60s x2"),
            ("NODE_JS", "1.0.9", &listed, "1s..5s x2"),
        ] {
            let spec = GroupSpec { max_attempts: 3, retry: retry.clone(), ..GroupSpec::default() };
            let policy = consumer(&caller(language, version), &spec);
            assert_eq!(policy.max_attempts, 3);
            assert_eq!(text(policy.strategy), expected, "{language} {version}");
        }
        assert_eq!(text(producer(&caller("JAVA", "5.0.8")).strategy), "0.01s..1s x2");
    }

    fn text(strategy: Option<Strategy>) -> String {
        let seconds =
            |wire: &prost_types::Duration| format!("{}s", wire.seconds as f64 + f64::from(wire.nanos) / 1e9);
        match strategy.unwrap() {
            Strategy::CustomizedBackoff(list) => list.next.iter().map(seconds).collect::<Vec<_>>().join(" "),
            Strategy::ExponentialBackoff(ExponentialBackoff { initial, max, multiplier }) => {
                format!("{}..{} x{multiplier}", seconds(&initial.unwrap()), seconds(&max.unwrap()))
            }
        }
    }

    fn caller(language: &str, version: &str) -> Caller {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-mq-language", language.parse().unwrap());
        request.metadata_mut().insert("x-mq-client-version", version.parse().unwrap());
        Caller::of(&request)
    }
}
