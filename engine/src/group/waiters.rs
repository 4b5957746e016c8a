//! Who waits for rows, and who is woken.
//!
//! A visible row wakes one waiter of each selector, not all: the one that is woken looks, and when it leaves
//! it wakes the next if there is more. A wake-up that comes while somebody looks is kept for them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_storage::QueueId;

use crate::limits::{POLLS_MAX, SELECTORS_MAX};

/// Those who wait on one topic for one group.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    by_slot: Mutex<[VecDeque<Arc<Waiter>>; SELECTORS_MAX]>,
}

#[derive(Debug)]
struct Waiter {
    /// One queue, or all.
    queue: Option<QueueId>,
    woken: AtomicBool,
    /// It looks, and has neither gone back to wait nor left.
    looking: AtomicBool,
    notify: Notify,
}

/// A place among the waiters, given up when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    waiters: &'a Waiters,
    slot: u8,
    waiter: Arc<Waiter>,
}

impl Waiters {
    /// Takes a place for a reader with the selector in `slot`, or returns `None` if there are too many.
    pub(crate) fn enter(&self, slot: u8, queue: Option<QueueId>) -> Option<Place<'_>> {
        let waiter = Arc::new(Waiter {
            queue,
            woken: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            notify: Notify::new(),
        });
        let mut by_slot = self.by_slot.lock();
        let waiting = by_slot.get_mut(usize::from(slot))?;
        if waiting.len() >= POLLS_MAX {
            return None;
        }
        waiting.push_back(Arc::clone(&waiter));
        Some(Place { waiters: self, slot, waiter })
    }

    /// Wakes one waiter of each selector that reads `queue`.
    pub(crate) fn wake(&self, queue: QueueId) {
        for waiting in self.by_slot.lock().iter() {
            // One that is woken already has not looked yet, so it will find this as well.
            if let Some(waiter) = waiting.iter().find(|waiter| waiter.queue.is_none_or(|only| only == queue))
            {
                waiter.wake();
            }
        }
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        for waiter in self.by_slot.lock().iter().flatten() {
            waiter.wake();
        }
    }
}

impl Waiter {
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }
}

impl Place<'_> {
    /// Says that the reader looks now: wake-ups from here on are for the next look.
    pub(crate) fn look(&self) {
        self.waiter.looking.store(true, Ordering::Release);
        self.waiter.woken.store(false, Ordering::Release);
    }

    /// Waits for a wake-up that came since the last look.
    pub(crate) async fn woken(&self) {
        self.waiter.looking.store(false, Ordering::Release);
        while !self.waiter.woken.load(Ordering::Acquire) {
            self.waiter.notify.notified().await;
        }
    }
}

impl Drop for Place<'_> {
    /// Passes on a wake-up that the reader did not follow, or may have left in the middle of.
    fn drop(&mut self) {
        let mut by_slot = self.waiters.by_slot.lock();
        let Some(waiting) = by_slot.get_mut(usize::from(self.slot)) else { return };
        waiting.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
        if !self.waiter.woken.load(Ordering::Acquire) && !self.waiter.looking.load(Ordering::Acquire) {
            return;
        }
        match self.waiter.queue {
            Some(queue) => {
                let next = waiting.iter().find(|waiter| waiter.queue.is_none_or(|only| only == queue));
                next.into_iter().for_each(|waiter| waiter.wake());
            }
            // Which queue it was is not known: one for all queues, and those for a single one.
            None => {
                let mut for_all = true;
                for waiter in waiting.iter() {
                    if waiter.queue.is_some() || std::mem::take(&mut for_all) {
                        waiter.wake();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn is_woken(place: &Place<'_>) -> bool {
        place.woken().now_or_never().is_some()
    }

    #[test]
    fn a_row_wakes_one_waiter_of_each_selector() {
        let waiters = Waiters::default();
        let first = waiters.enter(0, None).unwrap();
        let second = waiters.enter(0, None).unwrap();
        let other = waiters.enter(1, Some(QueueId(3))).unwrap();
        waiters.wake(QueueId(2));
        assert_eq!([&first, &second, &other].map(is_woken), [true, false, false]);
        waiters.wake(QueueId(3));
        assert_eq!([&first, &second, &other].map(is_woken), [true, false, true]);
    }

    #[test]
    fn a_waiter_that_leaves_while_it_looks_passes_its_wake_up_on() {
        let waiters = Waiters::default();
        let first = waiters.enter(0, None).unwrap();
        let second = waiters.enter(0, None).unwrap();
        waiters.wake(QueueId(0));
        first.look();
        drop(first);
        assert!(is_woken(&second));
    }

    #[test]
    fn a_waiter_that_leaves_passes_its_wake_up_on() {
        let waiters = Waiters::default();
        let first = waiters.enter(0, None).unwrap();
        let second = waiters.enter(0, None).unwrap();
        waiters.wake(QueueId(0));
        drop(first);
        assert!(is_woken(&second));
        second.look();
        assert!(!is_woken(&second));
        waiters.wake(QueueId(0));
        assert!(is_woken(&second));
    }
}
