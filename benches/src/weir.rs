//! The real `weir` binary as a child process, for benchmarks that go through the wire.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::child::{pause, pinned, resume};

/// However full the disk of the machine is, no message ends before its time.
const CONFIG: &str = "retention-disk-percent = 100\n";

/// A running `weir serve`; ends when dropped.
#[derive(Debug)]
pub struct Weir {
    child: Child,
    uri: String,
}

impl Weir {
    /// Starts the binary that lies beside this program, on a free port of loopback.
    ///
    /// # Errors
    ///
    /// If it does not start and say that it is ready.
    pub fn start(data: &Path) -> Result<Self> {
        Self::start_by(Command::new(program()?), data)
    }

    /// Starts it on one core; it is killed when the calling thread ends.
    ///
    /// # Errors
    ///
    /// If it does not start and say that it is ready.
    pub fn start_on(core: usize, data: &Path) -> Result<Self> {
        Self::start_other_on(core, &program()?, data)
    }

    /// As [`start_on`](Self::start_on), of a binary that lies elsewhere.
    ///
    /// # Errors
    ///
    /// If it does not start and say that it is ready.
    pub fn start_other_on(core: usize, program: &Path, data: &Path) -> Result<Self> {
        Self::start_by(pinned(core, program), data)
    }

    fn start_by(mut command: Command, data: &Path) -> Result<Self> {
        let config = NamedTempFile::new()?;
        std::fs::write(&config, CONFIG)?;
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--auto-create-topics", "--config"])
            .arg(config.path())
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {command:?}; build it first"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        for line in BufReader::new(stdout).lines() {
            if let Some(rest) = line?.strip_prefix("ready on ") {
                let uri = rest.split_whitespace().next().unwrap_or_default().to_owned();
                return Ok(Self { child, uri });
            }
        }
        bail!("weir ended before it was ready: {}", child.wait()?)
    }

    /// Returns the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its address as `grpc://HOST:PORT`.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns its address as gRPC libraries want it.
    pub fn http_uri(&self) -> String {
        self.uri.replace("grpc://", "http://")
    }

    /// Stops the process until it is resumed.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn pause(&self) -> Result<()> {
        pause(&self.child)
    }

    /// Lets the process go on.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn resume(&self) -> Result<()> {
        resume(&self.child)
    }

    /// Runs `weir` with `arguments` against this broker, and returns the JSON that it prints.
    ///
    /// # Errors
    ///
    /// If it fails or prints none.
    pub fn run(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut command = Command::new(program()?);
        let output = command.args(["--server", &self.uri, "--json"]).args(arguments).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir {}: {}", arguments.join(" "), complaint.trim());
        serde_json::from_slice(&output.stdout).context("weir printed no JSON")
    }
}

fn program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("weir"))
}

impl Drop for Weir {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
