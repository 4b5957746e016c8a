//! The command line: one file per command. Shapes of `--json` and exit codes: `docs/cli.md`.

mod consume;
pub(crate) mod consumer;
mod examine;
mod failure;
mod group;
pub(crate) mod output;
mod parameters;
pub(crate) mod produce;
mod pull;
pub(crate) mod query;
mod selector;
pub(crate) mod serve;
mod storage;
mod storage_checkpoint;
mod topic;
mod trace;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, sync::LazyLock};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use failure::Failure;

use crate::{
    context::{Address, COMMIT, DATAFUSION_VERSION, VERSION},
    demo,
    flight::client::{Client, ConnectOptions},
    status::Exit,
};

/// Where a broker is looked for if nobody says otherwise.
pub const SERVER_DEFAULT: &str = "grpc://127.0.0.1:8081";

static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{VERSION}\nformat {}\nDataFusion {DATAFUSION_VERSION}\ncommit {}",
        weir_storage::FORMAT_VERSION,
        COMMIT.unwrap_or("unknown, a development build")
    )
});

/// A message broker in which every subscription is a SQL WHERE clause and every topic is a table.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version = LONG_VERSION.as_str(),
    propagate_version = false,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, 74 disk."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The broker to talk to: grpc://HOST:PORT or grpc+tls://HOST:PORT.
    #[arg(long, global = true, env = "WEIR_SERVER", default_value = SERVER_DEFAULT, value_name = "URI")]
    #[arg(help_heading = "Global options")]
    server: String,
    /// Certificates to trust with grpc+tls://, a PEM file. Default: those of the system.
    #[arg(long, global = true, env = "WEIR_CA", value_name = "FILE", help_heading = "Global options")]
    ca: Option<PathBuf>,
    /// The account to use, if the broker has accounts.
    #[arg(long, global = true, env = "WEIR_USER", value_name = "NAME", help_heading = "Global options")]
    user: Option<String>,
    /// A file that holds the secret of the account. Default: the secret in the variable WEIR_PASSWORD.
    #[arg(long, global = true, env = "WEIR_PASSWORD_FILE", value_name = "FILE")]
    #[arg(help_heading = "Global options")]
    password_file: Option<PathBuf>,
    /// Answers in JSON, in the shapes that docs/cli.md lists.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// What to log to stderr: off, error, warn, info, debug, trace, or filters such as `weir_server=debug`.
    /// Default: info for serve, warn for everything else.
    #[arg(long, global = true, env = "WEIR_LOG", value_name = "LEVEL", help_heading = "Global options")]
    log: Option<String>,
    /// How to log.
    #[arg(long, global = true, env = "WEIR_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    #[arg(help_heading = "Global options")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a broker.
    Serve(serve::ServeArgs),
    /// Runs a broker with real data in it, and shows what can be done with it.
    Demo(demo::DemoArgs),
    /// Creates, lists, describes, alters and deletes topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Creates, lists, describes, alters, resets and deletes consumer groups.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Sends the messages of a file: JSON lines or CSV.
    Produce(produce::ProduceArgs),
    /// Receives messages that match a WHERE clause, and acknowledges them.
    Consume(consume::ConsumeArgs),
    /// Reads retained messages in bulk into an Arrow, Parquet, CSV or JSON file.
    Pull(pull::PullArgs),
    /// Answers a SQL query over topics.
    Query(query::QueryArgs),
    /// Shows what became of a message in each group, up to its acknowledgement.
    Trace(trace::TraceArgs),
    /// Checks selectors without a broker.
    #[command(subcommand)]
    Selector(selector::SelectorCommand),
    /// Looks at a data directory itself: whether it is whole, what it holds, what can be repaired; and copies it.
    #[command(subcommand)]
    Storage(storage::StorageCommand),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done if not even the help can be printed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let json = cli.global.json;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            failure.exit().into()
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let serves = matches!(cli.command, Command::Serve(_));
    log_to_stderr(&cli.global, if serves { "info" } else { "warn" })?;
    if serves {
        crate::run::avoid_huge_pages();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(dispatch(cli));
    // A thread that still reads standard input must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Topic(command) => topic::run(command, global).await,
        Command::Group(command) => group::run(command, global).await,
        Command::Produce(args) => produce::run(args, global).await,
        Command::Consume(args) => consume::run(args, global).await,
        Command::Pull(args) => pull::run(args, global).await,
        Command::Query(args) => query::run(args, global).await,
        Command::Trace(args) => trace::run(args, global).await,
        Command::Selector(command) => selector::run(command, global).await,
        Command::Storage(command) => storage::run(command, global).await,
    }
}

impl Global {
    /// Connects to the broker's Flight service.
    async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.server, &self.connect_options()?).await?)
    }

    fn connect_options(&self) -> Result<ConnectOptions, Failure> {
        let ca_pem = if self.server.starts_with("grpc+tls") { Some(self.certificates()?) } else { None };
        let account = self.account()?;
        if account.is_some() && ca_pem.is_none() && !is_this_machine(&self.server) {
            tracing::warn!(
                server = self.server,
                "the secret of the account goes over the network as it is: use grpc+tls:// where others can listen"
            );
        }
        Ok(ConnectOptions { ca_pem, token: None, account })
    }

    /// Returns name and secret of the account to use.
    fn account(&self) -> Result<Option<(String, String)>, Failure> {
        let Some(name) = &self.user else {
            return match &self.password_file {
                Some(_) => {
                    Err(Failure::new(Exit::Usage, "--password-file needs --user, the name of the account"))
                }
                None => Ok(None),
            };
        };
        if name.contains(':') || name.chars().any(char::is_control) {
            return Err(Failure::new(Exit::Usage, format!("--user {name:?} is no name of an account")));
        }
        let secret = match &self.password_file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Failure::new(Exit::Usage, format!("cannot read a secret from {}: {error}", path.display()))
            })?,
            None => std::env::var("WEIR_PASSWORD").map_err(|_| {
                let text = "--user needs a secret: name a file with --password-file, or set WEIR_PASSWORD";
                Failure::new(Exit::Usage, text)
            })?,
        };
        // A file that was made with an editor ends with a newline.
        let secret = secret.strip_suffix('\n').map_or(secret.as_str(), |line| line.trim_end_matches('\r'));
        Ok(Some((name.clone(), secret.to_owned())))
    }

    /// Returns the certificates to trust, as PEM.
    fn certificates(&self) -> Result<Vec<u8>, Failure> {
        const SYSTEM: [&str; 4] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        if let Some(path) = &self.ca {
            return std::fs::read(path).map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("cannot read certificates from {}: {error}", path.display()),
                )
            });
        }
        SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).ok_or_else(|| {
            Failure::new(Exit::Usage, "this system has no list of certificates; name one with --ca FILE")
        })
    }
}

/// Returns whether the address of a broker is one of this machine's own.
fn is_this_machine(server: &str) -> bool {
    let authority = server.split_once("://").map_or(server, |(_, rest)| rest);
    let address = authority.parse::<Address>().ok();
    address.is_some_and(|Address { host, .. }| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn log_to_stderr(global: &Global, default: &str) -> Result<(), Failure> {
    let directives = global.log.as_deref().unwrap_or(default);
    let filter = tracing_subscriber::EnvFilter::try_new(directives)
        .map_err(|error| Failure::new(Exit::Usage, format!("--log {directives:?}: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(output::stderr_has_colour()).with_target(false).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
