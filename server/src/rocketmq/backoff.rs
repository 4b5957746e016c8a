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
