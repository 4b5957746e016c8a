//! Answers whose messages are in memory because those who asked have not taken them yet.
//!
//! A reader may be slow, and there may be many. While the messages that wait for readers take too much together, or
//! those of one reader more than its share, no further ones are read. Messages count from the moment that they are
//! read, so that what goes beyond a bound is at most what the threads of the reading pool are at.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use weir_storage::StoredMessage;

use crate::{
    error::EngineError,
    limits::{ANSWERS_BYTES_MAX, ANSWERS_SHARE_BYTES_MAX},
};

/// What a message takes beside its body, about.
const MESSAGE_BYTES: usize = 1024;

/// The messages that wait for one reader, whose calls share a bound. Clones are of the same reader.
#[derive(Clone, Debug, Default)]
pub struct AnswerShare(Arc<AtomicUsize>);

/// The messages that wait for all readers.
#[derive(Debug, Default)]
pub(crate) struct Answers(Arc<AtomicUsize>);

/// An answer that has not been taken, until this and all its clones are dropped.
#[derive(Clone, Debug, Default)]
pub struct HeldAnswer(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    all: Arc<AtomicUsize>,
    share: Arc<AtomicUsize>,
    bytes: AtomicUsize,
}

impl Answers {
    /// Begins an answer, without messages yet. To be called where they are read, directly before.
    ///
    /// # Errors
    ///
    /// While readers, or the one that asks, are too far behind for more to be read.
    pub(crate) fn begin(&self, share: &AnswerShare) -> Result<HeldAnswer, EngineError> {
        if self.0.load(Ordering::Relaxed) >= ANSWERS_BYTES_MAX {
            return Err(EngineError::Busy("too many messages wait for readers that do not take them"));
        }
        if share.0.load(Ordering::Relaxed) >= ANSWERS_SHARE_BYTES_MAX {
            return Err(EngineError::Busy(
                "too many messages wait for this reader, which does not take them",
            ));
        }
        let held = Held { all: Arc::clone(&self.0), share: Arc::clone(&share.0), bytes: AtomicUsize::new(0) };
        Ok(HeldAnswer(Arc::new(held)))
    }
}

impl HeldAnswer {
    /// Counts a message that was read.
    pub(crate) fn add(&self, stored: &StoredMessage) {
        self.add_bytes(stored.message.body.len() + MESSAGE_BYTES);
    }

    fn add_bytes(&self, bytes: usize) {
        let Held { all, share, bytes: own } = &*self.0;
        for count in [own, &**all, &**share] {
            count.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        for count in [&self.all, &self.share] {
            count.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_a_bound_and_each_has_its_own() {
        let answers = Answers::default();
        let readers: Vec<AnswerShare> =
            (0..=ANSWERS_BYTES_MAX / ANSWERS_SHARE_BYTES_MAX).map(|_| AnswerShare::default()).collect();
        let (last, others) = readers.split_last().unwrap();
        let mut held = Vec::new();
        for share in others {
            let first = answers.begin(share).unwrap();
            first.add_bytes(ANSWERS_SHARE_BYTES_MAX - 1);
            let second = answers.begin(share).unwrap();
            second.add_bytes(1);
            assert!(answers.begin(share).is_err(), "it has its share");
            held.push((first, second));
        }
        assert!(answers.begin(last).is_err(), "all together have too much");
        let (first, second) = held.pop().unwrap();
        let clone = first.clone();
        drop((first, second));
        let begun = answers.begin(last).unwrap();
        begun.add_bytes(2);
        assert!(answers.begin(last).is_err(), "a clone holds what it is a clone of");
        drop(clone);
        assert!(answers.begin(last).is_ok());
        drop((held, begun));
        assert_eq!(answers.0.load(Ordering::Relaxed), 0);
        assert!(readers.iter().all(|share| share.0.load(Ordering::Relaxed) == 0));
    }
}
