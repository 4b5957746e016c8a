//! Accounts and certificates that change while the broker runs: their files are looked at every few seconds, and at
//! once on SIGHUP. What cannot be used is said in the log, and what was in force before stays.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::Signal;
use weir_engine::Broker;

use crate::{
    accounts::{self, AccountsError},
    identity::Identity,
    run::Stop,
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What may change.
#[derive(Debug)]
pub(crate) struct Reload {
    broker: Broker,
    accounts: Option<(PathBuf, Seen)>,
    identities: Vec<(Arc<Identity>, Seen)>,
}

/// Files as they were when they were read last.
#[derive(Debug)]
struct Seen {
    stamps: Stamps,
    /// How often they were looked at since they could not be used.
    failed_looks: Option<u32>,
}

/// What tells whether files are others than before.
type Stamps = Vec<Option<Stamp>>;

/// Device, inode, length, and when the file or what it says of itself last changed.
type Stamp = (u64, u64, u64, i64, i64);

/// A file that could not be used is tried again after so many looks, whether or not it seems to have changed.
const RETRY_LOOKS: u32 = 12;

impl Reload {
    /// Lets in who stands in the accounts file, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be used.
    pub(crate) fn new(
        broker: &Broker,
        accounts: Option<&Path>,
        identities: Vec<Arc<Identity>>,
    ) -> Result<Self, AccountsError> {
        // The stamps come first: a file that changes while it is read is read once more.
        let accounts = accounts.map(|path| (path.to_owned(), Seen::new(vec![stamp(path)])));
        if let Some((path, _)) = &accounts {
            set_accounts(broker, path)?;
        }
        let from_files = |identity: Arc<Identity>| {
            let stamps = stamps(&identity)?;
            Some((identity, Seen::new(stamps)))
        };
        let identities = identities.into_iter().filter_map(from_files).collect();
        Ok(Self { broker: broker.clone(), accounts, identities })
    }

    /// Follows the files until `stop` is told; `hangup` asks for a look at once.
    pub(crate) fn follow(mut self, mut hangup: Signal, mut stop: Stop) {
        tokio::spawn(async move {
            loop {
                let all = tokio::select! {
                    () = stop.told() => return,
                    _ = hangup.recv() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                };
                let looked = tokio::task::spawn_blocking(move || {
                    self.look(all);
                    self
                });
                match looked.await {
                    Ok(back) => self = back,
                    // The runtime is ending.
                    Err(_) => return,
                }
            }
        });
    }

    /// Reads what has changed, what could not be used before, or everything.
    fn look(&mut self, all: bool) {
        if let Some((path, seen)) = &mut self.accounts {
            seen.look(all, vec![stamp(path)], || match set_accounts(&self.broker, path) {
                Ok(count) => {
                    tracing::info!(file = %path.display(), count, "the accounts were read again");
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "the accounts stay as they were");
                    false
                }
            });
        }
        for (identity, seen) in &mut self.identities {
            seen.look(all, stamps(identity).unwrap_or_default(), || match identity.reload() {
                Ok(()) => {
                    tracing::info!(files = ?identity.files(), "a certificate was read again");
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "the certificate stays as it was");
                    false
                }
            });
        }
    }
}

impl Seen {
    fn new(stamps: Stamps) -> Self {
        Self { stamps, failed_looks: None }
    }

    /// Reads files unless they are as they were, and could be used.
    fn look(&mut self, all: bool, stamps: Stamps, read: impl FnOnce() -> bool) {
        let is_due = self.failed_looks.is_some_and(|looks| looks >= RETRY_LOOKS);
        if all || is_due || stamps != self.stamps {
            self.failed_looks = (!read()).then_some(0);
            self.stamps = stamps;
        } else if let Some(looks) = &mut self.failed_looks {
            *looks += 1;
        }
    }
}

fn set_accounts(broker: &Broker, path: &Path) -> Result<usize, AccountsError> {
    let accounts = accounts::read(path)?;
    let count = accounts.len();
    let set = broker.accounts().set(accounts);
    set.map_err(|source| AccountsError::Rule { path: path.to_owned(), source })?;
    Ok(count)
}

fn stamps(identity: &Identity) -> Option<Stamps> {
    let files = identity.files()?;
    Some(vec![stamp(&files.certificate), stamp(&files.key)])
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}
