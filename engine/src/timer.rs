//! Wakes subscriptions when a lease or a wait ends, and keeps house now and then.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_storage::{GroupId, TopicId};

use crate::{broker::Core, publish::SEEN_WITHIN};

/// How often cursors are written, slots freed, orphans dropped, and publishers let go.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

type Key = (GroupId, TopicId);

/// The next moment of each subscription that waits for one.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    armed: Mutex<BTreeSet<(Duration, Key)>>,
    earlier: Arc<Notify>,
}

impl Timer {
    /// Sets the moment of a subscription, instead of the one that it had.
    pub(crate) fn arm(&self, key: Key, was: Option<Duration>, moment: Duration) {
        let mut armed = self.armed.lock();
        if let Some(was) = was {
            armed.remove(&(was, key));
        }
        armed.insert((moment, key));
        if armed.first() == Some(&(moment, key)) {
            self.earlier.notify_one();
        }
    }

    fn next(&self) -> Option<Duration> {
        self.armed.lock().first().map(|(moment, _)| *moment)
    }

    fn pop(&self, now: Duration) -> Option<Key> {
        let mut armed = self.armed.lock();
        let due = armed.first().is_some_and(|(moment, _)| *moment <= now);
        due.then(|| armed.pop_first()).flatten().map(|(_, key)| key)
    }
}

/// Runs the timer until the broker closes.
pub(crate) fn spawn(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core), core.closing.subscribe()));
}

async fn run(core: Weak<Core>, mut closing: tokio::sync::watch::Receiver<bool>) {
    let mut house = Duration::ZERO;
    loop {
        let Some(core) = core.upgrade() else { return };
        let now = core.time.now();
        if now >= house {
            core.subscriptions().iter().for_each(|subscription| subscription.keep_house(&core));
            if let Some(before) = Instant::now().checked_sub(SEEN_WITHIN) {
                core.topics.read().by_id.values().for_each(|topic| topic.let_go(before));
                core.pending.topic().into_iter().for_each(|topic| topic.let_go(before));
            }
            house = now + HOUSEKEEPING;
        }
        while let Some((group, topic)) = core.timer.pop(now) {
            if let Some(subscription) = core.known_subscription(group, topic) {
                subscription.tick(&core);
            }
        }
        let next = core.timer.next().map_or(house, |next| next.min(house));
        let time = core.time.clone();
        let earlier = Arc::clone(&core.timer.earlier);
        // The core is not held while nothing happens, so that a broker that is dropped goes away.
        drop(core);
        tokio::select! {
            () = earlier.notified() => {}
            () = time.sleep_until(next) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_has_one_moment() {
        let timer = Timer::default();
        let key = |group| (GroupId(group), TopicId(0));
        timer.arm(key(1), None, Duration::from_secs(9));
        timer.arm(key(2), None, Duration::from_secs(5));
        timer.arm(key(1), Some(Duration::from_secs(9)), Duration::from_secs(3));
        assert_eq!(timer.next(), Some(Duration::from_secs(3)));
        assert_eq!(timer.pop(Duration::from_secs(2)), None);
        assert_eq!(timer.pop(Duration::from_secs(9)), Some(key(1)));
        assert_eq!(timer.pop(Duration::from_secs(9)), Some(key(2)));
        assert_eq!(timer.pop(Duration::from_secs(9)), None);
    }
}
