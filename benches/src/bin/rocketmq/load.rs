//! Producers: as fast as acknowledgements come, or at a fixed rate whatever comes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use weir_benches::{Client, Latencies, Sent};

use crate::{content::Content, side::Side};

/// What is sent and not yet answered; with more, the broker does not follow at all.
const UNDER_WAY_MAX: usize = 200_000;

/// Clients that send to one topic, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    clients: Vec<Client>,
    content: Content,
    counts: Arc<Counts>,
}

/// Of all messages of a topic, over all its loads.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The number of the next message.
    next: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(crate) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }
}

impl Load {
    /// Connects `connections` producers.
    pub(crate) async fn connect(
        side: &Side,
        connections: usize,
        topic: &str,
        content: Content,
        counts: &Arc<Counts>,
    ) -> Result<Self> {
        let mut clients = Vec::new();
        for number in 0..connections {
            clients.push(Client::producer(&side.uri(), &format!("producer@1@{number}"), topic).await?);
        }
        Ok(Self { clients, content, counts: Arc::clone(counts) })
    }

    /// Sends `batch` messages in a call through one of the clients.
    async fn call(&self, client: usize, batch: u64) -> Result<Sent> {
        let first = self.counts.next.fetch_add(batch, Relaxed);
        let messages = (first..first + batch).map(|number| self.content.message(number)).collect();
        let mut client = self.clients[client % self.clients.len()].clone();
        let sent = client.send(messages).await?;
        let count = if sent == Sent::Acknowledged { &self.counts.acknowledged } else { &self.counts.refused };
        count.fetch_add(batch, Relaxed);
        if let Sent::Refused(why) = &sent
            && self.counts.refused() == batch
        {
            eprintln!("refused: {why}");
        }
        Ok(sent)
    }

    /// Sends `total` messages: `callers` that each send `batch` in a call when their last call is answered.
    pub(crate) async fn send(&self, total: u64, callers: usize, batch: u64) -> Result<()> {
        let left = Arc::new(AtomicU64::new(total / batch));
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (load, left) = (self.clone(), Arc::clone(&left));
            tasks.spawn(async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    load.call(caller, batch).await?;
                }
                anyhow::Ok(())
            });
        }
        joined(tasks).await
    }

    /// Returns how many messages a second are acknowledged during `run`, `lead` after the begin, when `callers` each send
    /// `batch` messages in a call as soon as their last call is answered.
    pub(crate) async fn flat_out(
        &self,
        lead: Duration,
        run: Duration,
        callers: usize,
        batch: u64,
    ) -> Result<f64> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let load = self.clone();
            tasks.spawn(async move {
                while start.elapsed() < lead + run {
                    load.call(caller, batch).await?;
                }
                anyhow::Ok(())
            });
        }
        tokio::time::sleep(lead).await;
        let (from, before) = (Instant::now(), self.counts.acknowledged());
        tokio::time::sleep(run).await;
        let (elapsed, sent) = (from.elapsed(), self.counts.acknowledged() - before);
        joined(tasks).await?;
        Ok(sent as f64 / elapsed.as_secs_f64())
    }

    /// Sends `rate` messages a second, one in a call, for `lead` and `run`, however long answers take. Returns how long
    /// it took to the acknowledgement from when each message of `run` was due, also if it was sent later than that.
    /// `begin` is told when the first is due.
    pub(crate) async fn paced(
        &self,
        lead: Duration,
        run: Duration,
        rate: f64,
        begin: impl FnOnce(Instant),
    ) -> Result<Latencies> {
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        begin(start);
        for number in 0..paced_count(lead, run, rate) {
            let after = Duration::from_secs_f64(number as f64 / rate);
            wait_until(start + after).await;
            let (load, latencies) = (self.clone(), Arc::clone(&latencies));
            tasks.spawn(async move {
                let sent = load.call(number as usize, 1).await?;
                if after >= lead && sent == Sent::Acknowledged {
                    let latency = (start + after).elapsed();
                    latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
                }
                anyhow::Ok(())
            });
            while let Some(ended) = tasks.try_join_next() {
                ended??;
            }
            ensure!(tasks.len() < UNDER_WAY_MAX, "the broker cannot follow {rate} messages a second");
        }
        joined(tasks).await?;
        let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut latencies))
    }
}

/// Returns how many messages [`Load::paced`] sends.
pub(crate) fn paced_count(lead: Duration, run: Duration, rate: f64) -> u64 {
    ((lead + run).as_secs_f64() * rate) as u64
}

async fn joined(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Sleeps to within two milliseconds, since timers are no finer, and lets others run through the rest, and at least
/// once.
async fn wait_until(due: Instant) {
    if let Some(rest) = due.checked_duration_since(Instant::now() + Duration::from_millis(2)) {
        tokio::time::sleep(rest).await;
    }
    loop {
        tokio::task::yield_now().await;
        if Instant::now() >= due {
            return;
        }
    }
}
