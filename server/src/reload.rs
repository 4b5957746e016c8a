//! Accounts and certificates that change while the broker runs: their files are looked at every few seconds, and at
//! once on SIGHUP. What cannot be used is said in the log, and what was in force before stays.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
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
    accounts: Option<(PathBuf, Stamps)>,
    identities: Vec<(Arc<Identity>, Stamps)>,
}

/// What tells whether files are others than before.
type Stamps = Vec<Option<Stamp>>;

/// Device, inode, length, and when the file last changed.
type Stamp = (u64, u64, u64, i64, i64);

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
        let accounts = accounts.map(|path| (path.to_owned(), vec![stamp(path)]));
        if let Some((path, _)) = &accounts {
            set_accounts(broker, path)?;
        }
        let from_files = |identity: Arc<Identity>| {
            let stamps = stamps(&identity)?;
            Some((identity, stamps))
        };
        let identities = identities.into_iter().filter_map(from_files).collect();
        Ok(Self { broker: broker.clone(), accounts, identities })
    }

    /// Follows the files until `stop` is told.
    ///
    /// # Errors
    ///
    /// If the system offers no signals.
    pub(crate) fn follow(mut self, mut stop: Stop) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
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
        Ok(())
    }

    /// Reads what has changed, or everything.
    fn look(&mut self, all: bool) {
        if let Some((path, before)) = &mut self.accounts {
            let now = vec![stamp(path)];
            if all || now != *before {
                match set_accounts(&self.broker, path) {
                    Ok(count) => {
                        tracing::info!(file = %path.display(), count, "the accounts were read again");
                    }
                    Err(error) => tracing::error!(%error, "the accounts stay as they were"),
                }
                *before = now;
            }
        }
        for (identity, before) in &mut self.identities {
            let now = stamps(identity).unwrap_or_default();
            if all || now != *before {
                match identity.reload() {
                    Ok(()) => tracing::info!(files = ?identity.files(), "a certificate was read again"),
                    Err(error) => tracing::error!(%error, "the certificate stays as it was"),
                }
                *before = now;
            }
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
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}
