//! Responses of several parts, made after a wait, and given to the client as fast as it takes them.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tonic::Status;

/// The parts of a response.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns the response whose parts `waiting` comes to.
pub(super) fn streamed<T, I>(waiting: impl Future<Output = I> + Send + 'static) -> Streamed<T>
where
    T: Send + 'static,
    I: Iterator<Item = Result<T, Status>> + Send + 'static,
{
    Box::pin(stream::once(async move { stream::iter(waiting.await) }).flatten())
}
