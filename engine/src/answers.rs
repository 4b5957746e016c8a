//! Answers whose messages are in memory because those who asked have not taken them yet.
//!
//! A reader may be slow, and there may be many. While the messages that wait for readers take too much together, no
//! further ones are read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use weir_storage::StoredMessage;

use crate::{
    broker::{Broker, Core},
    error::EngineError,
    limits::ANSWERS_BYTES_MAX,
};

/// What a message takes beside its body, about.
const MESSAGE_BYTES: usize = 1024;

/// An answer that has not been taken, as long as this is held.
#[derive(Debug)]
pub struct HeldAnswer {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Broker {
    /// Counts messages as in memory until what this returns is dropped: for whoever hands them to a slow reader.
    pub fn hold_answer<'m>(&self, messages: impl IntoIterator<Item = &'m StoredMessage>) -> HeldAnswer {
        let bytes = messages.into_iter().map(|stored| stored.message.body.len() + MESSAGE_BYTES).sum();
        let all = Arc::clone(&self.core.answers);
        all.fetch_add(bytes, Ordering::Relaxed);
        HeldAnswer { all, bytes }
    }
}

impl Core {
    /// Returns an error while readers are too far behind for more to be read.
    pub(crate) fn check_answers(&self) -> Result<(), EngineError> {
        if self.answers.load(Ordering::Relaxed) < ANSWERS_BYTES_MAX {
            return Ok(());
        }
        Err(EngineError::Busy("too many messages wait for readers that do not take them"))
    }
}
