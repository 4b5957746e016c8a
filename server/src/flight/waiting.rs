//! `CountWaiting`: counts what waits for a group, and tells how far that has come. It ends when the client ends the stream.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weir_engine::{Broker, GroupName};

use super::{BoxedStream, admin};
use crate::status::to_flight;

/// So many results wait for a client that reads slowly; of more, it is not told.
const WAITING_MAX: usize = 16;
/// How long a count takes at most, whatever is asked for.
const WITHIN_MAX: Duration = Duration::from_secs(10 * 60);
/// The same where nothing is asked for.
const WITHIN_DEFAULT_MS: u64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "within_default")]
    within_ms: u64,
}

fn within_default() -> u64 {
    WITHIN_DEFAULT_MS
}

/// Ends a task that nobody waits for any more.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to count. The last result is the count, those before it say how far it has come.
pub(crate) fn run(broker: &Broker, body: &[u8]) -> Result<BoxedStream<arrow_flight::Result>, Status> {
    let (group, Request { within_ms }) = admin::named::<GroupName, _>(body, "group")?;
    let (sender, progress) = mpsc::channel(WAITING_MAX);
    let broker = broker.clone();
    let counted = tokio::spawn(async move {
        let within = Duration::from_millis(within_ms).min(WITHIN_MAX);
        let told = move |progress: weir_engine::CountProgress| {
            // One that is not told is followed by others.
            let _ = sender.try_send(json!({ "done": progress.done, "total": progress.total }));
        };
        admin::answer(broker.count_waiting(&group, within, told).await.map_err(to_flight)?)
    });
    let ends = Ends(counted.abort_handle());
    let counted = counted.map(|ended| match ended {
        Ok(counted) => counted,
        Err(error) => Err(Status::internal(error.to_string())),
    });
    let results = ReceiverStream::new(progress).map(Ok).chain(stream::once(counted));
    let results = results.map(move |result| {
        let _ends_with_the_stream = &ends;
        result.map(|value: Value| arrow_flight::Result { body: value.to_string().into() })
    });
    Ok(results.boxed())
}
