//! Responses of several parts, made after a wait, and given to the client as fast as it takes them.
//!
//! A client that takes nothing for a minute, though its connection lives, or has not taken all after ten, gets no more:
//! what it was to get is memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tonic::Status;

/// How long a client may take nothing of a response that is there.
const UNTAKEN_MAX: Duration = Duration::from_secs(60);

/// How often so long a client may take something, and not all.
const LOOKS_MAX: u32 = 10;

/// The parts of a response.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Parts that are made one by one, as they are taken.
pub(super) trait Parts: Iterator + Send + 'static {
    /// Returns whether they hold messages, which are memory.
    fn hold_messages(&self) -> bool;
}

/// Returns the response whose parts `waiting` comes to.
pub(super) fn streamed<T, P>(waiting: impl Future<Output = P> + Send + 'static) -> Streamed<T>
where
    T: Send + 'static,
    P: Parts<Item = Result<T, Status>>,
{
    Box::pin(stream::once(async move { Watched::new(waiting.await, UNTAKEN_MAX, LOOKS_MAX) }).flatten())
}

/// Parts that are dropped when nobody takes them.
struct Watched<P> {
    taking: Arc<Mutex<Taking<P>>>,
    watch: Option<AbortHandle>,
}

struct Taking<P> {
    /// `None` once nobody is to get them any more.
    parts: Option<P>,
    /// Counts the parts that were taken.
    taken: u64,
}

impl<P: Parts> Watched<P> {
    fn new(parts: P, untaken_max: Duration, looks_max: u32) -> Self {
        let holds_messages = parts.hold_messages();
        let taking = Arc::new(Mutex::new(Taking { parts: Some(parts), taken: 0 }));
        let watch = holds_messages.then(|| {
            let watched = Arc::clone(&taking);
            tokio::spawn(async move { give_up(&watched, untaken_max, looks_max).await }).abort_handle()
        });
        Self { taking, watch }
    }
}

/// Waits until nothing was taken for so long, or not all for so often as long, and drops the parts then.
async fn give_up<P>(watched: &Mutex<Taking<P>>, untaken_max: Duration, looks_max: u32) {
    let mut seen = 0;
    for _ in 0..looks_max {
        tokio::time::sleep(untaken_max).await;
        match look(watched, seen) {
            Some(taken) => seen = taken,
            None => {
                tracing::debug!("a client took nothing of its answer for {} s", untaken_max.as_secs());
                return;
            }
        }
    }
    let late = watched.lock().parts.take();
    // Not under the lock: leases are given back.
    drop(late);
    tracing::debug!("a client had not taken its answer after {} s", (untaken_max * looks_max).as_secs());
}

/// Returns how many parts were taken. If they are no more than had been `seen`, drops the others and returns `None`.
fn look<P>(watched: &Mutex<Taking<P>>, seen: u64) -> Option<u64> {
    let (taken, dropped) = {
        let mut taking = watched.lock();
        let dropped = if taking.taken == seen { taking.parts.take() } else { None };
        (taking.taken, dropped)
    };
    // Not under the lock: leases are given back.
    dropped.is_none().then_some(taken)
}

impl<T, P: Parts<Item = Result<T, Status>>> Stream for Watched<P> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut taking = self.taking.lock();
        taking.taken += 1;
        let Some(parts) = &mut taking.parts else {
            return Poll::Ready(Some(Err(Status::aborted("nothing of the answer was taken for too long"))));
        };
        Poll::Ready(parts.next())
    }
}

impl<P> Drop for Watched<P> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers {
        left: u32,
        dropped: Arc<Mutex<bool>>,
    }

    impl Iterator for Numbers {
        type Item = Result<u32, Status>;

        fn next(&mut self) -> Option<Self::Item> {
            self.left = self.left.checked_sub(1)?;
            Some(Ok(self.left))
        }
    }

    impl Parts for Numbers {
        fn hold_messages(&self) -> bool {
            true
        }
    }

    impl Drop for Numbers {
        fn drop(&mut self) {
            *self.dropped.lock() = true;
        }
    }

    fn watched(untaken_max: Duration) -> (Watched<Numbers>, Arc<Mutex<bool>>) {
        let dropped = Arc::new(Mutex::new(false));
        let numbers = Numbers { left: 5, dropped: Arc::clone(&dropped) };
        (Watched::new(numbers, untaken_max, LOOKS_MAX), dropped)
    }

    #[tokio::test]
    async fn what_is_taken_slowly_is_kept_and_what_is_not_taken_is_dropped() {
        let (mut stream, dropped) = watched(Duration::from_secs(3600));
        let mut seen = 0;
        for left in [4, 3, 2] {
            assert_eq!(stream.next().await.unwrap().unwrap(), left);
            seen = look(&stream.taking, seen).expect("a part was taken");
        }
        assert!(!*dropped.lock());
        assert_eq!(look(&stream.taking, seen), None);
        assert!(*dropped.lock());
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted, "the end does not look like one in good order");
    }

    #[tokio::test]
    async fn what_is_taken_slowly_is_dropped_in_the_end() {
        let (mut stream, dropped) = watched(Duration::from_secs(3600));
        assert!(stream.next().await.unwrap().is_ok());
        give_up(&stream.taking, Duration::from_millis(1), 1).await;
        assert!(*dropped.lock(), "a part was taken, and not all");
        assert!(stream.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn somebody_looks_by_himself() {
        let (mut stream, dropped) = watched(Duration::from_millis(10));
        assert!(stream.next().await.unwrap().is_ok());
        while !*dropped.lock() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(stream.next().await.unwrap().is_err());
    }
}
