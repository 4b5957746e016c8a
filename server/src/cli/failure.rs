//! Why a command ends, and how it says so.

use std::io;

use owo_colors::OwoColorize as _;
use weir_engine::EngineError;

use super::output::eprint_line;
use crate::{
    accounts::AccountsError, config::ConfigError, flight::client::ClientError, listen::ListenError,
    status::Exit,
};

/// A command could not do what it was asked. The message says what, where, and what to do.
#[derive(Debug)]
pub struct Failure {
    exit: Option<Exit>,
    message: String,
}

impl Failure {
    /// Returns a failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit: Some(exit), message: message.into() }
    }

    /// Returns the end of a command whose reader went away: nothing more can be said, and nothing is wrong.
    fn reader_gone() -> Self {
        Self { exit: None, message: String::new() }
    }

    /// Says before the message what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Returns what to tell the user.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns how the process ends.
    pub fn exit(&self) -> ExitStatus {
        ExitStatus(self.exit)
    }

    /// Returns the kind of failure, or `None` if only the reader of the output went away.
    pub fn kind(&self) -> Option<Exit> {
        self.exit
    }

    /// Tells the user, as text or as JSON.
    pub fn report(&self, json: bool) {
        let Some(exit) = self.exit else { return };
        if json {
            let error = serde_json::json!({
                "error": { "kind": exit.word(), "exit": exit as u8, "message": self.message }
            });
            eprint_line(&error.to_string());
        } else {
            eprint_line(&format!("{} {}", "error:".red().bold(), self.message));
        }
    }
}

/// How the process ends.
#[derive(Clone, Copy, Debug)]
pub struct ExitStatus(Option<Exit>);

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.0.map_or(Self::SUCCESS, Self::from)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Uri(_) => Self::new(Exit::Usage, error.to_string()),
            ClientError::Unreachable { .. } => Self::new(
                Exit::Unreachable,
                format!("{error}; start a broker with `weir serve`, or name another one with --server"),
            ),
            ClientError::Refused { code, .. } => Self::new(Exit::of_grpc(*code), error.to_string()),
            ClientError::Answer(_) => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let exit = match error {
            ConfigError::Read { .. } => Exit::Failed,
            ConfigError::Invalid { .. } => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit = match error {
            ListenError::Insecure { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<AccountsError> for Failure {
    fn from(error: AccountsError) -> Self {
        let exit = match error {
            AccountsError::Read { .. } => Exit::Failed,
            _ => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(Exit::of_engine(&error), error.to_string())
    }
}

/// Only for standard output: files name themselves.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reader_gone(),
            _ => Self::new(Exit::Failed, format!("cannot write to standard output: {error}")),
        }
    }
}
