//! The handle that everything goes through.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use weir_filter::{Dialect, Limits, Selector};
use weir_storage::{Clock, Epoch, MachineClock, RecoveryReport, StorageOptions};

use crate::error::EngineError;

/// How a broker is opened.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where everything is kept. Created if missing.
    pub data_dir: PathBuf,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Sizes and times of storage.
    pub storage: StorageOptions,
    /// Whether a topic is made when it is first published to. Default: no.
    pub auto_create_topics: bool,
    /// Whether a group is made when it first receives. Default: yes.
    pub auto_create_groups: bool,
    /// How large and deep selectors may be.
    pub selector_limits: Limits,
    /// How many threads may read at once for receives and pulls.
    pub read_threads: usize,
    /// How much memory SQL queries may use in all.
    pub query_memory_bytes: usize,
    /// How many SQL queries run at once.
    pub query_slots: usize,
    /// The name of this broker in answers. Default: `weir`.
    pub node_name: String,
}

impl BrokerOptions {
    /// Returns the defaults, with everything kept in `data_dir`.
    pub fn new(data_dir: impl AsRef<Path>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            data_dir: data_dir.as_ref().to_owned(),
            clock: Arc::new(MachineClock::default()),
            storage: StorageOptions::default(),
            auto_create_topics: false,
            auto_create_groups: true,
            selector_limits: Limits::default(),
            read_threads: cores.max(2),
            query_memory_bytes: 256 << 20,
            query_slots: cores.div_ceil(2),
            node_name: "weir".to_owned(),
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
#[derive(Clone, Debug)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Broker {
    /// Opens the broker on its data directory, which takes as long as recovery needs.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged or cannot be read.
    pub async fn open(options: BrokerOptions) -> Result<Self, EngineError> {
        todo!()
    }

    /// Stops: answers long polls with nothing, refuses new work, and leaves a clean data directory.
    ///
    /// # Errors
    ///
    /// If storage cannot write what is outstanding.
    pub async fn close(&self) -> Result<(), EngineError> {
        todo!()
    }

    /// Resolves when [`close`](Self::close) begins.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        async { todo!() }
    }

    /// Resolves, saying why, when storage failed: the process must end.
    pub fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        async { todo!() }
    }

    /// Returns what this broker is.
    pub fn info(&self) -> BrokerInfo {
        todo!()
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        todo!()
    }

    /// Returns `bytes` with a signature that only this data directory makes, for `purpose` alone.
    pub fn sign(&self, purpose: &'static str, bytes: &[u8]) -> Vec<u8> {
        todo!()
    }

    /// Returns the bytes that were signed for `purpose`, or `None` if the signature is wrong.
    pub fn verify<'a>(&self, purpose: &'static str, signed: &'a [u8]) -> Option<&'a [u8]> {
        todo!()
    }

    /// Parses a selector in the dialect of this broker, within its limits.
    ///
    /// # Errors
    ///
    /// If it is no selector; the error says where.
    pub fn parse_selector(&self, text: &str) -> Result<Selector, EngineError> {
        todo!()
    }
}
