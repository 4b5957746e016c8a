//! Who waits for rows, and who is woken.
//!
//! A visible row wakes one waiter of each selector, not all: the one that is woken looks, and when it leaves
//! it wakes the next if there is more. A wake-up that comes while somebody looks is kept for them. Waiters of a
//! selector that is in the index of a queue are woken by the index, when it has found a row for them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_storage::QueueId;

use crate::limits::{POLLS_MAX, SELECTORS_MAX};

/// Those who wait on one topic for one group.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    by_slot: Mutex<[VecDeque<Arc<Waiter>>; SELECTORS_MAX]>,
    /// The selectors that are in the index of a queue, each with the number of its place there. It has a second
    /// one while two receives join at once, or one whose slot was freed is still at work.
    indexed: Mutex<HashMap<(QueueId, u8), Vec<u64>>>,
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
        self.by_slot.lock().iter().for_each(|waiting| wake_first(waiting, queue));
    }

    /// A row is visible: wakes one waiter of each selector that reads `queue` and is not in its index.
    pub(crate) fn wake_new(&self, queue: QueueId) {
        let mut slots = 0_u8..;
        let by_slot = self.by_slot.lock();
        let indexed = self.indexed.lock();
        for (slot, waiting) in slots.by_ref().zip(by_slot.iter()) {
            if !waiting.is_empty() && !indexed.contains_key(&(queue, slot)) {
                wake_first(waiting, queue);
            }
        }
    }

    /// Wakes one waiter of a selector that reads `queue`.
    pub(crate) fn wake_slot(&self, slot: u8, queue: QueueId) {
        if let Some(waiting) = self.by_slot.lock().get(usize::from(slot)) {
            wake_first(waiting, queue);
        }
    }

    /// Notes that a selector is in the index of a queue, at place `id`.
    pub(crate) fn set_indexed(&self, queue: QueueId, slot: u8, id: u64) {
        self.indexed.lock().entry((queue, slot)).or_default().push(id);
    }

    /// Notes that place `id` in the index of a queue is given up.
    pub(crate) fn forget_indexed(&self, queue: QueueId, slot: u8, id: u64) {
        let mut indexed = self.indexed.lock();
        if let Some(places) = indexed.get_mut(&(queue, slot)) {
            places.retain(|place| *place != id);
            if places.is_empty() {
                indexed.remove(&(queue, slot));
            }
        }
    }

    /// Returns whether somebody waits for rows of `queue` with the selector in `slot`.
    pub(crate) fn waits(&self, slot: u8, queue: QueueId) -> bool {
        let by_slot = self.by_slot.lock();
        let waiting = by_slot.get(usize::from(slot));
        waiting.is_some_and(|waiting| waiting.iter().any(|waiter| waiter.reads(queue)))
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        for waiter in self.by_slot.lock().iter().flatten() {
            waiter.wake();
        }
    }
}

fn wake_first(waiting: &VecDeque<Arc<Waiter>>, queue: QueueId) {
    // One that is woken already has not looked yet, so it will find this as well.
    if let Some(waiter) = waiting.iter().find(|waiter| waiter.reads(queue)) {
        waiter.wake();
    }
}

impl Waiter {
    fn reads(&self, queue: QueueId) -> bool {
        self.queue.is_none_or(|only| only == queue)
    }

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
    fn a_selector_in_the_index_is_woken_by_the_index_alone() {
        let waiters = Waiters::default();
        let inside = waiters.enter(0, None).unwrap();
        let outside = waiters.enter(1, None).unwrap();
        waiters.set_indexed(QueueId(0), 0, 7);
        waiters.wake_new(QueueId(0));
        assert_eq!([&inside, &outside].map(is_woken), [false, true]);
        waiters.wake_slot(0, QueueId(0));
        assert!(is_woken(&inside));
        inside.look();
        waiters.wake_new(QueueId(1));
        assert!(is_woken(&inside), "it is in the index of another queue");
    }

    #[test]
    fn a_place_given_up_leaves_the_other_place_of_its_selector() {
        let waiters = Waiters::default();
        let place = waiters.enter(0, None).unwrap();
        waiters.set_indexed(QueueId(0), 0, 1);
        waiters.set_indexed(QueueId(0), 0, 2);
        waiters.forget_indexed(QueueId(0), 0, 2);
        waiters.forget_indexed(QueueId(0), 0, 2);
        waiters.wake_new(QueueId(0));
        assert!(!is_woken(&place));
        waiters.forget_indexed(QueueId(0), 0, 1);
        waiters.wake_new(QueueId(0));
        assert!(is_woken(&place));
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
