//! A broker at work: services behind listeners, until a signal or a failure ends it.

use std::{io, sync::Arc, time::Duration};

use futures::future::join_all;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tonic::{service::Routes, transport::Server};
use weir_engine::Broker;

use crate::{
    context::{ServerContext, VERSION},
    flight,
    listen::Listener,
    rocketmq,
    status::Exit,
};

/// HTTP/2 windows: Arrow batches are about 1 MiB.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// How often an idle peer is asked whether it lives, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls under way on one connection.
const STREAMS_MAX: u32 = 4096;
/// How long calls under way may take to end once the broker is stopping.
const DRAIN: Duration = Duration::from_secs(4);
/// How long reads under way may take to end by themselves when storage has failed, before the others are cut.
const FINISH: Duration = Duration::from_secs(3);
/// How long storage may take to write what is outstanding. Together with `DRAIN` it stays below 10 s.
const CLOSE: Duration = Duration::from_secs(5);

/// How serving ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was told, with a clean data directory.
    Stopped,
    /// Storage failed, and this is why. What was acknowledged is safe.
    StorageFailed(String),
    /// As it was told, but storage could not write what was outstanding. The next start recovers.
    NotClean(String),
}

/// Becomes true when the process is told to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Tells as well as a signal does.
#[derive(Debug)]
pub struct End(watch::Sender<bool>);

impl End {
    /// Tells everything that waits for it to stop.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns whether the process has been told to stop.
    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns a `Stop` that is told when this one is, or by the `End`.
    pub fn with_end(mut self) -> (Arc<End>, Self) {
        let (sender, receiver) = watch::channel(false);
        let end = Arc::new(End(sender));
        let ended = Arc::clone(&end);
        tokio::spawn(async move {
            self.told().await;
            ended.end();
        });
        (end, Self(receiver))
    }

    /// Returns when the process is told to stop.
    pub async fn told(&mut self) {
        // An error means that nobody can tell any more, which is as good as being told.
        let _ = self.0.wait_for(|told| *told).await;
    }
}

/// Listens for SIGINT and SIGTERM. The second one ends the process at once.
///
/// # Errors
///
/// If the system offers no signals.
pub fn signals() -> io::Result<Stop> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send_replace(true) {
                tracing::warn!("told twice to stop: ending at once");
                std::process::exit(i32::from(Exit::Failed as u8));
            }
            tracing::info!("stopping; a second signal ends at once");
        }
    });
    Ok(Stop(receiver))
}

/// Has the system back memory by pages of 4 KiB alone. It fills a page with zeros when it is first touched, and for one of
/// 2 MiB that takes milliseconds on some machines, in which nobody is answered.
pub fn avoid_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay as they are");
    }
}

/// Allows as many open files as the system lets us: each connection and each segment needs one.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
}

/// Serves `broker` on all `listeners` until `stop` is told or storage fails.
pub async fn serve(broker: Broker, listeners: Vec<Listener>, mut stop: Stop) -> Ended {
    let (end, ending) = watch::channel(false);
    let servers: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(answer(broker.clone(), listener, Stop(ending.clone()))))
        .collect();
    let failed = broker.failed();
    tokio::pin!(failed);
    let failure = tokio::select! {
        () = stop.told() => None,
        why = &mut failed => Some(why),
    };
    // First no new connections, then an end to long polls and streams, so that the calls under way can finish.
    end.send_replace(true);
    let mut draining = Box::pin(join_all(servers));
    // What can be read is as good as ever, and this is the last chance. Nobody can write any more.
    let is_drained = failure.is_some() && timeout(FINISH, &mut draining).await.is_ok();
    let closed = timeout(CLOSE, broker.close());
    let drained = async { is_drained || timeout(DRAIN, draining).await.is_ok() };
    let (closed, is_drained) = tokio::join!(closed, drained);
    if !is_drained {
        tracing::warn!("some calls did not end in time and are cut");
    }
    match (failure, closed) {
        (Some(why), _) => Ended::StorageFailed(why),
        (None, Ok(Ok(()))) => Ended::Stopped,
        (None, Ok(Err(error))) => Ended::NotClean(error.to_string()),
        (None, Err(_)) => Ended::NotClean(format!("storage took longer than {} s", CLOSE.as_secs())),
    }
}

/// Answers the clients of one listener.
async fn answer(broker: Broker, listener: Listener, mut ending: Stop) {
    let local = listener.local();
    let context = Arc::new(ServerContext {
        advertised: listener.advertised().clone(),
        tls: listener.mode(),
        node_name: broker.info().node_name,
        version: VERSION,
    });
    let routes = Routes::new(rocketmq::service(broker.clone(), Arc::clone(&context)))
        .add_service(flight::service(broker, context));
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener.connections(), async move { ending.told().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, %local, "a listener ended");
    }
}
