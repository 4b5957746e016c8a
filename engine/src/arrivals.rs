//! Who waits for new rows of a queue without being in a group.
//!
//! A visible row wakes all of them. Each looks for itself whether it is for it.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};
use weir_storage::QueueId;

use crate::limits::PULLS_WAITING_MAX;

/// Those who wait for rows of a topic.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    by_queue: Mutex<BTreeMap<QueueId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    count: usize,
    notify: Arc<Notify>,
}

/// A place among those who wait for rows of a queue, given up when dropped.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    arrivals: &'a Arrivals,
    queue: QueueId,
    notify: Arc<Notify>,
}

impl Arrivals {
    /// Takes a place, or returns `None` if there are too many.
    pub(crate) fn watch(&self, queue: QueueId) -> Option<Watch<'_>> {
        let mut by_queue = self.by_queue.lock();
        let waiting = by_queue.entry(queue).or_insert_with(|| Waiting { count: 0, notify: Arc::default() });
        if waiting.count >= PULLS_WAITING_MAX {
            return None;
        }
        waiting.count += 1;
        Some(Watch { arrivals: self, queue, notify: Arc::clone(&waiting.notify) })
    }

    /// Rows of a queue are visible.
    pub(crate) fn tell(&self, queue: QueueId) {
        if let Some(waiting) = self.by_queue.lock().get(&queue) {
            waiting.notify.notify_waiters();
        }
    }

    /// The topic is gone.
    pub(crate) fn tell_all(&self) {
        self.by_queue.lock().values().for_each(|waiting| waiting.notify.notify_waiters());
    }
}

impl Watch<'_> {
    /// Returns what resolves when rows become visible from now on, whether or not anybody waits for it already.
    pub(crate) fn next(&self) -> Pin<Box<OwnedNotified>> {
        let mut arrival = Box::pin(Arc::clone(&self.notify).notified_owned());
        arrival.as_mut().enable();
        arrival
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut by_queue = self.arrivals.by_queue.lock();
        if let Some(waiting) = by_queue.get_mut(&self.queue) {
            waiting.count -= 1;
            if waiting.count == 0 {
                by_queue.remove(&self.queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_row_wakes_all_who_watch_its_queue_and_nobody_else() {
        let arrivals = Arrivals::default();
        let (first, second) = (arrivals.watch(QueueId(0)).unwrap(), arrivals.watch(QueueId(0)).unwrap());
        let other = arrivals.watch(QueueId(1)).unwrap();
        let mut waits = [first.next(), second.next(), other.next()];
        arrivals.tell(QueueId(0));
        let woken = waits.each_mut().map(|wait| wait.now_or_never().is_some());
        assert_eq!(woken, [true, true, false]);
        assert!(first.next().now_or_never().is_none(), "what was told before is not told again");
        arrivals.tell_all();
        assert!(waits[2].as_mut().now_or_never().is_some());
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let arrivals = Arrivals::default();
        let places: Vec<_> = (0..PULLS_WAITING_MAX).map(|_| arrivals.watch(QueueId(0)).unwrap()).collect();
        assert!(arrivals.watch(QueueId(0)).is_none());
        assert!(arrivals.watch(QueueId(1)).is_some());
        drop(places);
        assert!(arrivals.by_queue.lock().is_empty());
    }
}
