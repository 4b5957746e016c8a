//! The handle that everything goes through, and the core behind it.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use weir_filter::{Dialect, Limits};
use weir_storage::{
    Clock, Epoch, Events, GroupId, MachineClock, QueueId, QueueOffset, RecoveryReport, Storage, StorageError,
    StorageOptions, TopicId,
};

use crate::{
    account::Accounts,
    answers::Answers,
    clients::Clients,
    error::EngineError,
    group::{Counted, Evaluator, Group, Judged, Replay, Subscription},
    limits::{RETENTION_DISK_PERCENT_DEFAULT, RETENTION_HOLD_DEFAULT},
    name::{GroupName, TopicName},
    pending::Pending,
    reading::Reading,
    reads::ReadPool,
    signing::Signer,
    time::Time,
    timer::Timer,
    topic::Topic,
};

/// How a broker is opened.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where everything is kept. Created if missing.
    pub data_dir: PathBuf,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Sizes and times of storage.
    pub storage: StorageOptions,
    /// Copies of the data directory are made in this directory and those below it; `None` for the directory in which the
    /// data directory lies. Default: `None`.
    pub checkpoint_dir: Option<PathBuf>,
    /// Whether a topic is made when it is first published to. Default: no.
    pub auto_create_topics: bool,
    /// Whether a group is made when it first receives. Default: yes.
    pub auto_create_groups: bool,
    /// The oldest rows end while more than this share of the disk is in use, whoever uses it; in percent, 100
    /// for never. Default: [`RETENTION_DISK_PERCENT_DEFAULT`].
    pub retention_disk_percent: u8,
    /// How much longer than their topic says rows are retained that a group is not done with; zero for no longer.
    /// Bounds in bytes and of the disk do not wait for groups. Default: [`RETENTION_HOLD_DEFAULT`].
    pub retention_hold: Duration,
    /// The oldest rows end while the log takes more bytes; `None` or 0 for any number. Default: any.
    pub retention_bytes: Option<u64>,
    /// How large and deep selectors may be.
    pub selector_limits: Limits,
    /// Whether receives let statistics rule blocks out. Default: yes. No is for measuring what that is worth;
    /// what is delivered is the same.
    pub skip_by_statistics: bool,
    /// The language of selectors where neither group nor topic names one. Default: `sql92`.
    pub selector_dialect: Dialect,
    /// How many threads may read at once for receives and pulls.
    pub read_threads: usize,
    /// How much memory SQL queries may use in all.
    pub query_memory_bytes: usize,
    /// How many SQL queries run at once.
    pub query_slots: usize,
    /// The name of this broker in answers. Default: `weir`.
    pub node_name: String,
    /// Whether new rows are judged once for all groups that have caught up. Default: yes; tests compare.
    #[doc(hidden)]
    pub live_index: bool,
}

impl BrokerOptions {
    /// Returns the defaults, with everything kept in `data_dir`.
    pub fn new(data_dir: impl AsRef<Path>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            data_dir: data_dir.as_ref().to_owned(),
            clock: Arc::new(MachineClock::default()),
            storage: StorageOptions::default(),
            checkpoint_dir: None,
            auto_create_topics: false,
            auto_create_groups: true,
            retention_disk_percent: RETENTION_DISK_PERCENT_DEFAULT,
            retention_hold: RETENTION_HOLD_DEFAULT,
            retention_bytes: None,
            selector_limits: Limits::default(),
            skip_by_statistics: true,
            selector_dialect: Dialect::default(),
            read_threads: cores.max(2),
            query_memory_bytes: 256 << 20,
            query_slots: cores.div_ceil(2),
            node_name: "weir".to_owned(),
            live_index: true,
        }
    }
}

/// What a broker is.
#[derive(Clone, Debug)]
pub struct BrokerInfo {
    /// The number of the data directory.
    pub uuid: uuid::Uuid,
    /// Counts the starts that followed an unclean stop.
    pub epoch: Epoch,
    /// The version of the storage format.
    pub format_version: u32,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// What the start found.
    pub recovery: RecoveryReport,
    /// When the broker was opened; milliseconds since 1970, UTC.
    pub started_ms: i64,
    /// The name of this broker in answers.
    pub node_name: String,
    /// Whether a topic is made when it is first published to.
    pub auto_create_topics: bool,
    /// Whether a group is made when it first receives.
    pub auto_create_groups: bool,
}

/// A running broker. Cheap to clone.
///
/// Dropping the last clone without [`close`](Self::close) is like a kill: nothing acknowledged is lost.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) core: Arc<Core>,
}

/// What all clones of a broker, and its tasks, share.
pub(crate) struct Core {
    pub(crate) options: BrokerOptions,
    pub(crate) storage: Storage,
    pub(crate) epoch: Epoch,
    pub(crate) time: Time,
    pub(crate) signer: Signer,
    accounts: Accounts,
    pub(crate) clients: Clients,
    pub(crate) timer: Timer,
    /// Messages that are not visible yet.
    pub(crate) pending: Pending,
    /// The threads on which rows are read.
    pub(crate) reads: ReadPool,
    /// What tables and pulls need.
    pub(crate) reading: Reading,
    /// The thread that judges new rows for all groups.
    pub(crate) evaluator: Evaluator,
    pub(crate) judged: Judged,
    /// The matches of blocks that were counted for groups.
    pub(crate) counted: Counted,
    /// Bytes of messages that readers have not taken yet.
    pub(crate) answers: Answers,
    /// Lite topics that clients subscribe to.
    pub(crate) lite_subscriptions: Arc<AtomicUsize>,
    /// The next lease number.
    pub(crate) leases: AtomicU64,
    pub(crate) topics: RwLock<Topics>,
    pub(crate) groups: RwLock<Groups>,
    /// Held by whoever makes, changes or deletes a topic or a group.
    pub(crate) catalogue: tokio::sync::Mutex<()>,
    pub(crate) closing: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    rotate: Arc<Notify>,
    started_ms: i64,
}

/// The topics that exist.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    /// In no order: a publisher looks there for each call.
    pub(crate) by_name: HashMap<TopicName, Arc<Topic>>,
    pub(crate) by_id: BTreeMap<TopicId, Arc<Topic>>,
}

/// The groups that exist.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) by_name: BTreeMap<GroupName, Arc<Group>>,
    pub(crate) by_id: BTreeMap<GroupId, Arc<Group>>,
}

impl Topics {
    pub(crate) fn insert(&mut self, topic: Arc<Topic>) {
        self.by_id.insert(topic.id, Arc::clone(&topic));
        self.by_name.insert(topic.name.clone(), topic);
    }

    pub(crate) fn remove(&mut self, topic: &Topic) {
        self.by_id.remove(&topic.id);
        self.by_name.remove(&topic.name);
    }
}

impl Groups {
    pub(crate) fn insert(&mut self, group: Arc<Group>) {
        self.by_id.insert(group.id, Arc::clone(&group));
        self.by_name.insert(group.name.clone(), group);
    }

    pub(crate) fn remove(&mut self, group: &Group) {
        self.by_id.remove(&group.id);
        self.by_name.remove(&group.name);
    }
}

/// What storage tells the broker, from threads of storage and of publishers.
#[derive(Debug)]
struct Told {
    core: OnceLock<Weak<Core>>,
    failed: watch::Sender<Option<String>>,
    rotate: Arc<Notify>,
}

impl Events for Told {
    fn visible(&self, id: TopicId, queue: QueueId, end: QueueOffset) {
        let Some(core) = self.core.get().and_then(Weak::upgrade) else { return };
        let topic = core.topics.read().by_id.get(&id).cloned();
        if let Some(topic) = topic {
            topic.show(&core, queue, end);
        } else if let Some(topic) = core.pending.topic_with(id) {
            topic.show(&core, queue, end);
            core.pending.wake();
        }
    }

    fn rotate_journal(&self) {
        self.rotate.notify_one();
    }

    fn failed(&self, error: &StorageError) {
        tracing::error!(%error, "storage failed; the broker must stop");
        self.failed.send_replace(Some(error.to_string()));
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("data_dir", &self.options.data_dir).finish_non_exhaustive()
    }
}

impl Broker {
    /// Opens the broker on its data directory, which takes as long as recovery needs.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged or cannot be read.
    pub async fn open(options: BrokerOptions) -> Result<Self, EngineError> {
        let (failed, has_failed) = watch::channel(None);
        let told = Arc::new(Told { core: OnceLock::new(), failed, rotate: Arc::default() });
        let storage = {
            let (dir, told) = (options.data_dir.clone(), Arc::clone(&told));
            let settings = StorageOptions { clock: Arc::clone(&options.clock), ..options.storage.clone() };
            let open = move || Storage::open(&dir, settings, told);
            tokio::task::spawn_blocking(open)
                .await
                .map_err(|error| EngineError::Internal(error.to_string()))??
        };
        let (evaluator, rows_told) = Evaluator::new();
        let core = Arc::new(Core::new(options, storage, has_failed, Arc::clone(&told.rotate), evaluator));
        Evaluator::spawn(&core, rows_told)
            .map_err(|error| EngineError::Internal(format!("there can be no more threads: {error}")))?;
        core.take_over_journal();
        // Nobody else sets it.
        let _ = told.core.set(Arc::downgrade(&core));
        crate::timer::spawn(&core);
        crate::retention::spawn(&core);
        crate::pending::spawn(&core);
        spawn_rotation(&core);
        Ok(Self { core })
    }

    /// Stops: answers long polls with nothing, refuses new work, and leaves a clean data directory.
    ///
    /// Closing again does nothing. Once begun, it goes on even if nobody waits for it.
    ///
    /// # Errors
    ///
    /// If storage cannot write what is outstanding.
    pub async fn close(&self) -> Result<(), EngineError> {
        if self.core.closing.send_replace(true) {
            return Ok(());
        }
        for subscription in self.core.subscriptions() {
            subscription.keep_house(&self.core);
        }
        self.core.blocking(Storage::close).await
    }

    /// Resolves when [`close`](Self::close) begins.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closing = self.core.closing.subscribe();
        async move {
            // The broker is gone if the sending half is: that is closing, too.
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }

    /// Resolves, saying why, when storage failed: the process must end. Never resolves otherwise.
    pub fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut failed = self.core.failed.clone();
        async move {
            let why = match failed.wait_for(Option::is_some).await {
                Ok(why) => why.clone(),
                Err(_) => None,
            };
            match why {
                Some(why) => why,
                None => std::future::pending().await,
            }
        }
    }

    /// Returns what this broker is.
    pub fn info(&self) -> BrokerInfo {
        let core = &self.core;
        BrokerInfo {
            uuid: uuid::Uuid::from_bytes(core.storage.uuid()),
            epoch: core.epoch,
            format_version: weir_storage::FORMAT_VERSION,
            data_dir: core.options.data_dir.clone(),
            recovery: core.storage.report(),
            started_ms: core.started_ms,
            node_name: core.options.node_name.clone(),
            auto_create_topics: core.options.auto_create_topics,
            auto_create_groups: core.options.auto_create_groups,
        }
    }

    /// Returns how many blocks of rows have been judged by indexes, for all groups at once, and by receives, for
    /// their own selectors: for tests of what is judged how often.
    #[doc(hidden)]
    pub fn judged(&self) -> (u64, u64) {
        let Judged { by_index, by_receives, .. } = &self.core.judged;
        (by_index.load(Ordering::Relaxed), by_receives.load(Ordering::Relaxed))
    }

    /// Returns how many blocks have been judged to count what waits for groups: for tests of what is counted once.
    #[doc(hidden)]
    pub fn counted(&self) -> u64 {
        self.core.judged.by_counts.load(Ordering::Relaxed)
    }

    /// Returns how often receives have looked for rows: for tests that nobody is woken in vain.
    #[doc(hidden)]
    pub fn looks(&self) -> u64 {
        self.core.judged.looks.load(Ordering::Relaxed)
    }

    /// Returns how often another thread has helped a receive: for tests.
    #[doc(hidden)]
    pub fn helped(&self) -> u64 {
        self.core.judged.helped.load(Ordering::Relaxed)
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.core.time.clock()
    }

    /// Returns `bytes` with a signature that only this data directory makes, for `purpose` alone.
    pub fn sign(&self, purpose: &'static str, bytes: &[u8]) -> Vec<u8> {
        self.core.signer.sign(purpose, bytes)
    }

    /// Returns the bytes that were signed for `purpose`, or `None` if the signature is wrong.
    pub fn verify<'a>(&self, purpose: &'static str, signed: &'a [u8]) -> Option<&'a [u8]> {
        self.core.signer.verify(purpose, signed)
    }

    /// Returns who may call. A broker lets everybody in until accounts are [set](Accounts::set); whoever offers it to
    /// others than its own process asks them.
    pub fn accounts(&self) -> &Accounts {
        &self.core.accounts
    }

    /// Notes a sign of life of a client.
    pub fn client_alive(&self, client: &str) {
        self.core.clients.saw(client, self.core.time.now());
    }

    /// Notes that a client is gone: its renewed leases end in a second, and it no longer holds a selector.
    pub fn client_gone(&self, client: &str) {
        let core = &self.core;
        core.clients.gone(client);
        let now = core.time.now();
        for subscription in core.subscriptions() {
            subscription.forget_client(core, client, now);
        }
    }
}

impl Core {
    fn new(
        options: BrokerOptions,
        storage: Storage,
        failed: watch::Receiver<Option<String>>,
        rotate: Arc<Notify>,
        evaluator: Evaluator,
    ) -> Self {
        let time = Time::new(Arc::clone(&options.clock));
        let pending = Pending::of(&storage);
        let mut topics = Topics::default();
        storage
            .topics()
            .iter()
            .filter(|entry| pending.topic_with(entry.id).is_none())
            .filter_map(|entry| Topic::of(entry))
            .for_each(|topic| topics.insert(Arc::new(topic)));
        let mut groups = Groups::default();
        storage
            .groups()
            .iter()
            .filter_map(|entry| Group::of(entry))
            .for_each(|group| groups.insert(Arc::new(group)));
        let reading = Reading::new(&options);
        Self {
            epoch: storage.epoch(),
            signer: Signer::new(*storage.key()),
            accounts: Accounts::new(Signer::new(*storage.key()), time.clone()),
            clients: Clients::default(),
            timer: Timer::default(),
            pending,
            reads: reading.pool.clone(),
            reading,
            evaluator,
            judged: Judged::default(),
            counted: Counted::default(),
            answers: Answers::default(),
            lite_subscriptions: Arc::default(),
            leases: AtomicU64::new(0),
            topics: RwLock::new(topics),
            groups: RwLock::new(groups),
            catalogue: tokio::sync::Mutex::default(),
            closing: watch::Sender::new(false),
            failed,
            rotate,
            started_ms: time.wall_ms(),
            time,
            options,
            storage,
        }
    }

    /// Goes on where the group journal ends.
    fn take_over_journal(self: &Arc<Self>) {
        let now = self.time.now();
        let mut replay = Replay::new(self.time.wall_ms(), now);
        self.storage.take_journal().into_iter().for_each(|entry| replay.apply(entry));
        // Above all numbers that were ever given, also those that a power loss took from the journal.
        let floor = u64::try_from(self.started_ms).unwrap_or(0) << 20;
        self.leases.store(floor.max(replay.lease + 1), Ordering::Relaxed);
        replay.clients.iter().for_each(|client| self.clients.saw(client, now));
        let (topics, groups) = (self.topics.read(), self.groups.read());
        for ((group, topic), mut state) in replay.states {
            let (Some(group), Some(topic)) = (groups.by_id.get(&group), topics.by_id.get(&topic)) else {
                continue;
            };
            for (queue, known) in &mut state.queues {
                known.cut(self.range(topic.id, *queue).end);
            }
            for queue in (0..topic.queues()).map(QueueId) {
                state.lite.cut(queue, self.range(topic.id, queue).end);
            }
            let subscription = group.restore(topic, state);
            subscription.tick(self);
        }
    }

    /// Returns an error if the broker is stopping.
    pub(crate) fn check_open(&self) -> Result<(), EngineError> {
        if *self.closing.borrow() { Err(EngineError::Closed) } else { Ok(()) }
    }

    pub(crate) fn next_lease(&self) -> u64 {
        self.leases.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the offsets that readers see of a queue; none if there is no such queue.
    pub(crate) fn range(&self, topic: TopicId, queue: QueueId) -> Range<QueueOffset> {
        self.storage.view(topic, queue).map_or(QueueOffset(0)..QueueOffset(0), |view| view.range())
    }

    /// Returns the wall time of a moment.
    pub(crate) fn wall_at(&self, moment: Duration, now: Duration) -> i64 {
        let rest = i64::try_from(moment.saturating_sub(now).as_millis()).unwrap_or(i64::MAX);
        self.time.wall_ms().saturating_add(rest)
    }

    /// Returns everything that groups read.
    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        let groups: Vec<Arc<Group>> = self.groups.read().by_id.values().cloned().collect();
        groups.iter().flat_map(|group| group.subscriptions()).collect()
    }

    /// Returns what a group remembers of a topic, if it has read it.
    pub(crate) fn known_subscription(&self, group: GroupId, topic: TopicId) -> Option<Arc<Subscription>> {
        let group = self.groups.read().by_id.get(&group).cloned()?;
        group.subscription(topic)
    }

    /// Runs a change of the catalogue to its end, whether or not somebody waits for it: storage and memory must
    /// not come apart because a client went away in between.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        change: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        tokio::spawn(change).await.map_err(|error| EngineError::Internal(error.to_string()))?
    }

    /// Runs a call of storage that may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let storage = self.storage.clone();
        let called = tokio::task::spawn_blocking(move || call(&storage)).await;
        called.map_err(|error| EngineError::Internal(error.to_string()))?.map_err(EngineError::from)
    }
}

/// Answers storage when it asks for a new journal.
fn spawn_rotation(core: &Arc<Core>) {
    let rotate = Arc::clone(&core.rotate);
    let mut closing = core.closing.subscribe();
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = rotate.notified() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            let Some(core) = core.upgrade() else { return };
            for subscription in core.subscriptions() {
                subscription.snapshot(&core);
                tokio::task::yield_now().await;
            }
            core.storage.journal_rotated();
        }
    });
}
