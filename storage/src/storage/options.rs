//! The settings of storage.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Clock, MachineClock},
    env::{DiskEnv, Env},
};

/// How storage works. The sizes are bounds; nothing is reserved for them.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The file system. Default: that of the machine.
    pub env: Arc<dyn Env>,
    /// The clock. Default: that of the machine.
    pub clock: Arc<dyn Clock>,
    /// Size of the first log segment, in bytes. Default: 64 MiB.
    pub log_segment_bytes_min: u64,
    /// The size to which log segments grow, in bytes. Default: 1 GiB.
    pub log_segment_bytes_max: u64,
    /// So many bytes of zeros are written ahead of the end of the log. Default: 64 MiB.
    pub zero_ahead_bytes: u64,
    /// Size of a segment of the group journal, in bytes. Default: 64 MiB.
    pub journal_segment_bytes: u64,
    /// So many bytes of zeros are written ahead of the end of the journal. Default: 4 MiB.
    pub journal_zero_ahead_bytes: u64,
    /// The journal is rotated when it has grown by so many bytes. Default: 64 MiB.
    pub journal_rotate_bytes: u64,
    /// A checkpoint is made after so many bytes of log. While it is made, up to half as many more may come before it
    /// hurries. Default: 256 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made, too, when rows that are in no file take so many bytes of memory: rows of very many queues
    /// take more there than in the log. While they take twice as many, publishers wait; from a quarter on they are
    /// merged at once. Default: 256 MiB.
    pub unfiled_bytes_max: u64,
    /// A checkpoint is made after this time if the log has grown. Default: 30 s.
    pub checkpoint_interval: Duration,
    /// How often segments of the log are looked for that are mostly dead, once rows or topics have ended. Default:
    /// 60 s.
    pub compaction_interval: Duration,
    /// Segments of the log that are no larger are not compacted, in bytes. Default: 1 MiB.
    pub compaction_bytes_min: u64,
    /// So many bytes a second are read and written to compact them. Default: 32 MiB.
    pub compaction_bytes_per_second: u64,
    /// What nobody waits for is synced after this time. Default: 200 ms.
    pub async_sync_interval: Duration,
    /// Publishers wait while so many bytes are not durable. Default: 8 MiB.
    pub unsynced_bytes_max: u64,
    /// Publishers wait while so many bytes are not in the consume queues. Default: 64 MiB.
    pub unbuilt_bytes_max: u64,
    /// Publishers that have waited so long are refused. Default: 1 s.
    pub busy_after: Duration,
    /// So many bytes written last are kept in memory for readers. Default: 64 MiB.
    pub recent_bytes_max: u64,
    /// Appends are refused while the disk has fewer free bytes. Default: 256 MiB.
    pub free_bytes_min: u64,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            env: Arc::new(DiskEnv),
            clock: Arc::new(MachineClock::default()),
            log_segment_bytes_min: 64 << 20,
            log_segment_bytes_max: 1 << 30,
            zero_ahead_bytes: 64 << 20,
            journal_segment_bytes: 64 << 20,
            journal_zero_ahead_bytes: 4 << 20,
            journal_rotate_bytes: 64 << 20,
            checkpoint_bytes: 256 << 20,
            unfiled_bytes_max: 256 << 20,
            checkpoint_interval: Duration::from_secs(30),
            compaction_interval: Duration::from_secs(60),
            compaction_bytes_min: 1 << 20,
            compaction_bytes_per_second: 32 << 20,
            async_sync_interval: Duration::from_millis(200),
            unsynced_bytes_max: 8 << 20,
            unbuilt_bytes_max: 64 << 20,
            busy_after: Duration::from_secs(1),
            recent_bytes_max: 64 << 20,
            free_bytes_min: 256 << 20,
        }
    }
}

impl StorageOptions {
    /// Returns options for tests: small files, so that opening a directory is quick and segments turn over.
    pub fn small() -> Self {
        Self {
            log_segment_bytes_min: 1 << 20,
            log_segment_bytes_max: 4 << 20,
            zero_ahead_bytes: 256 << 10,
            journal_segment_bytes: 1 << 20,
            journal_zero_ahead_bytes: 64 << 10,
            journal_rotate_bytes: 1 << 20,
            checkpoint_bytes: 4 << 20,
            recent_bytes_max: 4 << 20,
            free_bytes_min: 0,
            compaction_bytes_min: 64 << 10,
            ..Self::default()
        }
    }
}
