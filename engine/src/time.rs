//! Waiting for a moment of an injected clock.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use weir_storage::Clock;

/// A clock that tasks can wait for, whether it runs by itself or is turned by hand.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    clock: Arc<dyn Clock>,
    turns: watch::Receiver<()>,
}

impl Time {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let (turn, turns) = watch::channel(());
        clock.on_turn(Box::new(move || turn.send_modify(|()| {})));
        Self { clock, turns }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Returns the wall time in milliseconds since 1970, UTC.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Returns when the clock has reached `moment`.
    pub(crate) async fn sleep_until(&self, moment: Duration) {
        let mut turns = self.turns.clone();
        let mut turned_by_hand = true;
        loop {
            turns.mark_unchanged();
            let Some(rest) = moment.checked_sub(self.now()).filter(|rest| !rest.is_zero()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                // A machine clock has dropped the sending half: then there is nothing but sleep.
                turn = turns.changed(), if turned_by_hand => turned_by_hand = turn.is_ok(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_storage::{MachineClock, VirtualClock};

    use super::*;

    #[tokio::test]
    async fn a_turn_of_the_clock_ends_a_sleep() {
        let clock = Arc::new(VirtualClock::new(0));
        let time = Time::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let sleeper = tokio::spawn(async move { time.sleep_until(Duration::from_secs(3600)).await });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(3599));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }

    #[tokio::test]
    async fn the_clock_of_the_machine_runs_by_itself() {
        let time = Time::new(Arc::new(MachineClock::default()));
        let before = time.now();
        time.sleep_until(before + Duration::from_millis(5)).await;
        assert!(time.now() >= before + Duration::from_millis(5));
    }
}
