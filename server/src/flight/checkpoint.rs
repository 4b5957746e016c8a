//! `Checkpoint`: has the broker copy its data directory, and tells how far that has come. It is broken off when the
//! client ends the stream.

use std::{ops::ControlFlow, path::PathBuf};

use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weir_engine::Broker;

use super::{BoxedStream, admin};
use crate::status::to_flight;

/// So many results wait for a client that reads slowly; of more, it is not told.
const WAITING_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    target: PathBuf,
}

/// Begins a copy. The last result says what it holds, those before it how far it has come.
pub(crate) fn run(broker: &Broker, body: &[u8]) -> Result<BoxedStream<arrow_flight::Result>, Status> {
    let Request { target } = admin::body(body)?;
    let (sender, progress) = mpsc::channel(WAITING_MAX);
    let broker = broker.clone();
    let copied = async move {
        let shown = target.display().to_string();
        let copied = broker.copy_to(&target, move |progress| {
            let (done, total) = (progress.done, progress.total);
            match sender.try_send(json!({ "done": done, "total": total })) {
                Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let copied = copied.await.map_err(to_flight)?;
        Ok(json!({
            "target": shown,
            "files": copied.files,
            "linked_bytes": copied.linked_bytes,
            "copied_bytes": copied.copied_bytes,
            "log_end": copied.log_end.0,
        }))
    };
    // Both are dropped with the stream: the watcher then finds nobody to tell. The copy runs on a task of its own.
    let copied = tokio::spawn(copied).map(|ended| match ended {
        Ok(copied) => copied,
        Err(error) => Err(Status::internal(error.to_string())),
    });
    let results = ReceiverStream::new(progress).map(Ok).chain(stream::once(copied));
    Ok(results.map(|result| result.map(|value: Value| value.to_string().into()).map(result_of)).boxed())
}

fn result_of(body: bytes::Bytes) -> arrow_flight::Result {
    arrow_flight::Result { body }
}
