//! Which queue of the pending topic a row goes to.

use weir_storage::QueueId;

/// Queues of the pending topic: one for half messages, and one for each power of two of seconds up to that of the longest
/// delay.
pub(super) const QUEUES: u32 = 23;

/// The queue of half messages.
pub(super) const HALF: QueueId = QueueId(0);

/// Returns the queue of messages that are delayed so long. The rows of one come due about in the order in which they were
/// stored: none waits more than twice as long as another.
pub(super) fn queue_of_delay(delay_ms: i64) -> QueueId {
    let seconds = u64::try_from(delay_ms / 1000).unwrap_or(0).max(1);
    QueueId(1 + seconds.ilog2().min(QUEUES - 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DELAY_MAX;

    #[test]
    fn the_queues_are_powers_of_two_up_to_the_longest_delay() {
        let longest = i64::try_from(DELAY_MAX.as_millis()).unwrap();
        for (delay_ms, queue) in [
            (i64::MIN, 1),
            (-1, 1),
            (0, 1),
            (1999, 1),
            (2000, 2),
            (3999, 2),
            (4000, 3),
            (60_000, 6),
            (longest, QUEUES - 1),
            (i64::MAX, QUEUES - 1),
        ] {
            assert_eq!(queue_of_delay(delay_ms), QueueId(queue), "{delay_ms} ms");
        }
    }
}
