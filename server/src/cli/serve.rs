//! `weir serve`: runs a broker until it is told to stop.

use std::{io::Write as _, path::PathBuf};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use weir_engine::{Broker, BrokerOptions};

use super::Failure;
use crate::{
    config::{Config, DATA_DIR_DEFAULT, LISTEN_DEFAULT, ListenerConfig},
    context::{Address, TlsMode},
    listen::{Listener, Reach},
    reload::Reload,
    run::{self, Ended},
    status::Exit,
};

/// Runs a broker.
#[derive(Debug, Args)]
#[command(after_help = "When it serves, it prints a line `ready on URI (data DIR)` per listener.")]
pub(crate) struct ServeArgs {
    /// The configuration file, TOML.
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Where to keep everything. Default: what the file says, else ./weir-data.
    #[arg(long, value_name = "DIR", env = "WEIR_DATA")]
    data: Option<PathBuf>,
    /// Where to listen, instead of where the file says; may be given several times. Port 0 lets the system
    /// choose. Default: 127.0.0.1:8081.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Listens where other machines reach it, although no accounts file says who may call.
    #[arg(long)]
    insecure: bool,
    /// Creates topics that producers and consumers ask for.
    #[arg(long)]
    auto_create_topics: bool,
}

pub(crate) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let mut config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    if !args.listen.is_empty() {
        config.listeners = args.listen.iter().cloned().map(ListenerConfig::at).collect();
    }
    if config.listeners.is_empty() {
        let address = LISTEN_DEFAULT.parse().expect("the default is an address");
        config.listeners.push(ListenerConfig::at(address));
    }
    config.auto_create_topics |= args.auto_create_topics;
    let data = args.data.or_else(|| config.data.take()).unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT));
    let has_accounts = config.accounts.is_some();
    let reach = if args.insecure || has_accounts { Reach::Anywhere } else { Reach::Loopback };
    // Listening comes first: a port in use must not cost a recovery.
    let listeners = bind(&config.listeners, reach).await?;
    let stop = run::signals().map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    // Before the broker is open, which may take a while. With nothing to read again, the end of a terminal is an end.
    let follows = has_accounts || config.listeners.iter().any(|listener| listener.identity.is_some());
    let hangup = follows.then(|| signal(SignalKind::hangup())).transpose();
    let hangup = hangup.map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    run::raise_open_files();
    let broker = open(&config, &data).await?;
    let identities = listeners.iter().filter_map(Listener::identity).cloned().collect();
    let reload = Reload::new(&broker, config.accounts.as_deref(), identities)?;
    if let Some(hangup) = hangup {
        reload.follow(hangup, stop.clone());
    }
    if has_accounts {
        warn_of_plaintext(&listeners);
    }
    say_ready(&listeners, &broker);
    let ended = run::serve(broker, listeners, stop).await;
    finish(ended)
}

/// Opens all listeners, or none.
pub(crate) async fn bind(configs: &[ListenerConfig], reach: Reach) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::with_capacity(configs.len());
    for config in configs {
        listeners.push(Listener::bind(config, reach).await?);
    }
    Ok(listeners)
}

/// Turns how serving ended into how the command ends.
pub(crate) fn finish(ended: Ended) -> Result<(), Failure> {
    match ended {
        Ended::Stopped => {
            tracing::info!("stopped");
            Ok(())
        }
        Ended::StorageFailed(why) => {
            Err(Failure::new(Exit::Disk, format!("storage failed, and nothing more can be stored: {why}")))
        }
        Ended::NotClean(why) => Err(Failure::new(Exit::Failed, format!("stopped, but not cleanly: {why}"))),
    }
}

async fn open(config: &Config, data: &std::path::Path) -> Result<Broker, Failure> {
    let mut options = BrokerOptions::new(data);
    options.auto_create_topics = config.auto_create_topics;
    options.auto_create_groups = config.auto_create_groups;
    options.retention_disk_percent = config.retention_disk_percent.into();
    options.retention_hold = config.retention_hold;
    options.retention_bytes = Some(config.retention_bytes.get()).filter(|bytes| *bytes > 0);
    options.node_name = config.node_name.to_string();
    options.selector_dialect = config.selector_dialect;
    if let Some(bytes) = config.query.memory_bytes {
        options.query_memory_bytes = bytes.get();
    }
    if let Some(slots) = config.query.slots {
        options.query_slots = slots.get();
    }
    if let Some(threads) = config.query.read_threads {
        options.read_threads = threads.get();
    }
    config.storage.apply(&mut options.storage);
    options.checkpoint_dir = config.storage.checkpoint_dir.clone();
    let opened = Broker::open(options).await;
    opened.map_err(|error| {
        Failure::from(error).while_doing(&format!("cannot open the data directory {}", data.display()))
    })
}

/// Says where secrets may be listened to.
fn warn_of_plaintext(listeners: &[Listener]) {
    for listener in listeners.iter().filter(|listener| !listener.local().ip().is_loopback()) {
        if listener.mode() != TlsMode::On {
            tracing::warn!(
                address = %listener.local(),
                "this listener takes plaintext: whoever can listen on the way learns the secrets of accounts; \
                 `tls = \"on\"` with a certificate takes none"
            );
        }
    }
}

fn say_ready(listeners: &[Listener], broker: &Broker) {
    let data = broker.info().data_dir;
    let mut out = std::io::stdout().lock();
    for listener in listeners {
        // If nobody reads it, the broker serves all the same.
        let _ = writeln!(out, "ready on {} (data {})", listener.uri(), data.display());
    }
    let _ = out.flush();
}
