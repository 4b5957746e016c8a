//! Work in the background leaves the cores to those who wait: it is done in pieces of some tenths of a millisecond, with
//! rests between them that are four times as long (`docs/adr/0021`).

use std::time::{Duration, Instant};

/// After so much work it is time to rest, as soon as the work can be interrupted: about so long a publisher waits that
/// comes meanwhile, on a machine with one core.
const PIECE: Duration = Duration::from_micros(400);
/// One rest is no longer, so that work which somebody begins to wait for goes on soon.
const REST_MAX: Duration = Duration::from_millis(8);
/// So many times as long as the work takes the rest after it.
const REST_FACTOR: u32 = 4;

/// Tells when work should rest. What it takes counts by the clock, so that it rests longer where others take the core.
#[derive(Debug)]
pub(super) struct Pieces {
    since: Instant,
}

impl Pieces {
    /// Begins the first piece of some work.
    pub(super) fn begin() -> Self {
        Self { since: Instant::now() }
    }

    /// Lets `sleep` take a rest, if a piece is done and `is_urgent` does not say that there is no time for one.
    pub(super) fn rest(&mut self, is_urgent: impl FnOnce() -> bool, sleep: impl FnOnce(Duration)) {
        let worked = self.since.elapsed();
        if worked < PIECE {
            return;
        }
        if !is_urgent() {
            sleep(worked.saturating_mul(REST_FACTOR).min(REST_MAX));
        }
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_work_is_followed_by_a_rest_unless_somebody_waits() {
        let mut pieces = Pieces { since: Instant::now() + Duration::from_secs(3600) };
        pieces.rest(|| false, |_| panic!("nothing has been done"));
        let before = |time| Pieces { since: Instant::now() - time };
        before(PIECE).rest(|| true, |_| panic!("it is urgent"));
        let mut slept = Duration::ZERO;
        let mut pieces = before(PIECE);
        pieces.rest(|| false, |time| slept = time);
        assert!((PIECE * REST_FACTOR..=REST_MAX).contains(&slept), "{slept:?}");
        assert!(pieces.since.elapsed() < Duration::from_secs(60));
        before(Duration::from_secs(9)).rest(|| false, |time| slept = time);
        assert_eq!(slept, REST_MAX);
        pieces = before(Duration::from_secs(3600));
        pieces.rest(|| true, |_| ());
        assert!(
            pieces.since.elapsed() < Duration::from_secs(60),
            "the next piece begins behind what was urgent"
        );
    }
}
