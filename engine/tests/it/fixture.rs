//! A broker on a directory of its own, with a clock that the test turns.

use std::{sync::Arc, time::Duration};

use weir_columns::Value;
use weir_engine::{
    Broker, BrokerOptions, Clock, Delivered, EngineError, GroupName, LeaseTime, Message, ReceiveRequest,
    StorageOptions, TopicName, TopicSpec, VirtualClock,
};
use weir_storage::SimEnv;

/// 2026-01-01, UTC.
pub(crate) const START_MS: i64 = 1_767_225_600_000;

pub(crate) struct Fixture {
    pub(crate) broker: Broker,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) options: BrokerOptions,
    sim: Option<SimEnv>,
    _dir: Option<tempfile::TempDir>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BrokerOptions)) -> Self {
        Self::start(None, change).await
    }

    async fn start(sim: Option<SimEnv>, change: impl FnOnce(&mut BrokerOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(VirtualClock::new(START_MS));
        let mut options = BrokerOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            storage: StorageOptions::small(),
            // However full the disk of this machine is.
            retention_disk_percent: 100,
            retention_hold: Duration::ZERO,
            ..BrokerOptions::new(dir.path().join("data"))
        };
        change(&mut options);
        if let Some(env) = &sim {
            options.storage.env = Arc::new(env.process());
        }
        let broker = Broker::open(options.clone()).await.unwrap();
        Self { broker, clock, options, sim, _dir: Some(dir) }
    }

    /// A broker on a disk in memory, whose journal is written anew often.
    pub(crate) async fn on_sim(seed: u64) -> (Self, SimEnv) {
        let env = SimEnv::new(seed);
        let weir = Self::on(&env, |options| options.storage.journal_rotate_bytes = 8 << 10);
        (weir.await, env)
    }

    /// A broker on a disk in memory.
    pub(crate) async fn on(env: &SimEnv, change: impl FnOnce(&mut BrokerOptions)) -> Self {
        Self::start(Some(env.clone()), change).await
    }

    /// Returns the options of a broker that starts now. On a disk in memory nothing works any more through those of one
    /// that was killed, whose threads may go on for a while.
    pub(crate) fn starting(&self) -> BrokerOptions {
        let mut options = self.options.clone();
        if let Some(env) = &self.sim {
            options.storage.env = Arc::new(env.process());
        }
        options
    }

    /// Closes the broker and opens it again.
    pub(crate) async fn restart(&mut self) {
        self.broker.close().await.unwrap();
        self.broker = Broker::open(self.starting()).await.unwrap();
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Makes topic `t` with so many queues.
    pub(crate) async fn topic(&self, queues: u32) -> TopicName {
        let name = topic("t");
        self.broker.create_topic(&name, TopicSpec { queues, ..TopicSpec::default() }).await.unwrap();
        name
    }

    /// Publishes one message with property `n` for each number, in one call.
    pub(crate) async fn publish(&self, numbers: impl IntoIterator<Item = i64>) {
        let messages = numbers.into_iter().map(numbered).collect();
        self.broker.publish(&topic("t"), messages).await.unwrap();
    }

    pub(crate) fn request(&self, selector: &str) -> ReceiveRequest {
        ReceiveRequest {
            selector: self.broker.parse_selector(selector).unwrap(),
            client: "c".to_owned(),
            ..ReceiveRequest::new(group("g"), topic("t"))
        }
    }

    pub(crate) async fn receive(&self, selector: &str) -> Vec<Delivered> {
        self.broker.receive(self.request(selector)).await.unwrap()
    }

    pub(crate) async fn ack(&self, delivered: &[Delivered]) -> Vec<Result<(), EngineError>> {
        let handles: Vec<String> = delivered.iter().map(|delivered| delivered.handle.clone()).collect();
        self.broker.acknowledge(&group("g"), &topic("t"), &handles).await
    }
}

pub(crate) fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

pub(crate) fn numbered(n: i64) -> Message {
    Message {
        message_id: format!("m{n}"),
        properties: vec![("n".to_owned(), Value::I64(n))],
        body: n.to_string().into(),
        ..Message::default()
    }
}

/// The numbers of delivered messages, in the order of their delivery.
pub(crate) fn numbers(delivered: &[Delivered]) -> Vec<i64> {
    delivered.iter().map(number).collect()
}

pub(crate) fn number(delivered: &Delivered) -> i64 {
    std::str::from_utf8(&delivered.message.message.body).unwrap().parse().unwrap()
}

pub(crate) fn lease(seconds: u64) -> LeaseTime {
    LeaseTime::Fixed(Duration::from_secs(seconds))
}

/// Lets the tasks of the broker do what is due.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
}
