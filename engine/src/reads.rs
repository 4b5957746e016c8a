//! The bounded pool on which rows are read: asynchronous code never touches a mapped file.
//!
//! A producer works in slices, and gives its thread back between two. So a client that takes its answer
//! slowly holds no thread, and many scans share few.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

use crate::error::EngineError;

/// How long a producer works before it lets others work.
const SLICE: Duration = Duration::from_millis(20);
/// How many items are made before they are asked for.
const AHEAD: usize = 2;

/// Threads for reading, as many as there are permits. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReadPool {
    permits: Arc<Semaphore>,
}

impl ReadPool {
    /// Returns a pool in which `threads` read at once.
    pub(crate) fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.max(1))) }
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    ///
    /// If the runtime is stopping, or `work` panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| EngineError::Closed)?;
        Running::start(permit, work).await
    }

    /// Begins `work` on a thread that has nothing to do, or returns `None` if there is none. Called on a thread of
    /// the runtime.
    pub(crate) fn run_if_idle<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Running<T>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Running::start(permit, work))
    }
}

/// Work that has begun, and goes on if nobody waits for it.
#[derive(Debug)]
pub(crate) struct Running<T>(JoinHandle<T>);

impl<T: Send + 'static> Running<T> {
    fn start(permit: OwnedSemaphorePermit, work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        }))
    }
}

impl<T> Future for Running<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|error| {
            if error.is_panic() {
                EngineError::Internal("a read panicked; the log of the broker says where".to_owned())
            } else {
                EngineError::Closed
            }
        })
    }
}

/// What a producer has come to.
#[derive(Debug)]
pub(crate) enum Progress<T> {
    /// The next item.
    Item(T),
    /// Nothing yet; there is more to do.
    More,
    /// There will be nothing more.
    End,
}

/// Makes items, in slices of time.
pub(crate) trait Produce: Send + 'static {
    /// What is made.
    type Item: Send + 'static;

    /// Works until there is an item, or until about `until`.
    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError>;
}

/// Returns what `producer` makes. At most two items are made ahead; dropping the stream ends the work.
pub(crate) fn produced<P: Produce>(
    pool: ReadPool,
    producer: P,
) -> impl Stream<Item = Result<P::Item, EngineError>> + Send + 'static {
    let (items, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(error) = produce(&pool, producer, &items).await {
            // Nobody may be left to hear it.
            let _ = items.send(Err(error)).await;
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

async fn produce<P: Produce>(
    pool: &ReadPool,
    mut producer: P,
    items: &mpsc::Sender<Result<P::Item, EngineError>>,
) -> Result<(), EngineError> {
    // Room comes first, so that no item waits outside of the channel.
    while let Ok(room) = items.reserve().await {
        let (back, progress) = pool
            .run(move || {
                let progress = producer.advance(Instant::now() + SLICE);
                (producer, progress)
            })
            .await?;
        producer = back;
        match progress? {
            Progress::Item(item) => room.send(Ok(item)),
            Progress::More => {}
            Progress::End => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{StreamExt, pin_mut};

    use super::*;

    struct Count(Arc<AtomicUsize>);

    impl Produce for Count {
        type Item = usize;

        fn advance(&mut self, _: Instant) -> Result<Progress<usize>, EngineError> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                step if step % 2 == 1 => Ok(Progress::More),
                100 => Err(EngineError::Busy("full")),
                step => Ok(Progress::Item(step)),
            }
        }
    }

    #[tokio::test]
    async fn a_producer_stays_two_items_ahead_and_stops_with_its_stream() {
        let steps = Arc::new(AtomicUsize::new(0));
        let items = produced(ReadPool::new(1), Count(Arc::clone(&steps)));
        pin_mut!(items);
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(steps.load(Ordering::SeqCst) <= 6, "items are made that nobody asked for");
        let rest: Vec<_> = items.collect().await;
        assert!(matches!(rest.last(), Some(Err(EngineError::Busy(_)))));
        assert_eq!(rest.len(), 50);
    }

    #[tokio::test]
    async fn a_panic_while_reading_is_an_error() {
        let panicked = ReadPool::new(1).run(|| panic!("on purpose")).await;
        assert!(matches!(panicked, Err(EngineError::Internal(_))));
    }
}
