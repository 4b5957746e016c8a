//! The binary under test as a process that is killed at any moment, also before it serves.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a stop in good order may take.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Small files and frequent checkpoints, so that kills hit them. The disk of the machine ends no message.
const CONFIG: &str = "\
retention-disk-percent = 100
auto-create-groups = false

[storage]
segment-bytes = 4194304
checkpoint-bytes = 2097152
checkpoint-seconds = 1
";

/// How to start the broker.
#[derive(Debug)]
pub(crate) struct Binary {
    path: PathBuf,
    home: PathBuf,
    address: String,
}

/// A broker that starts or runs. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Weir {
    process: Child,
    started: Instant,
    ready: Receiver<()>,
    /// How long the start took, once that is known.
    took: Option<Duration>,
}

impl Binary {
    /// Prepares `home` for a broker that will always listen at `address`.
    pub(crate) fn new(path: &Path, home: &Path, address: String) -> Result<Self> {
        std::fs::write(home.join("weir.toml"), CONFIG).context("cannot write the configuration")?;
        Ok(Self { path: path.to_owned(), home: home.to_owned(), address })
    }

    /// Starts the broker, and does not wait.
    pub(crate) fn start(&self) -> Result<Weir> {
        let log = OpenOptions::new().create(true).append(true).open(self.home.join("broker.log"));
        let log: File = log.context("cannot open the log of the broker")?;
        let mut process = Command::new(&self.path)
            .arg("serve")
            .arg("--config")
            .arg(self.home.join("weir.toml"))
            .arg("--data")
            .arg(self.home.join("data"))
            .args(["--listen", &self.address, "--log", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let output = process.stdout.take().context("the output of the broker is not piped")?;
        let (sender, ready) = mpsc::channel();
        // Reads on after that, so that the broker never waits for its output to be read.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.starts_with("ready on ") {
                    let _ = sender.send(());
                }
            }
        });
        Ok(Weir { process, started: Instant::now(), ready, took: None })
    }
}

impl Weir {
    /// Waits until the broker serves, and returns how long that took since the start.
    pub(crate) fn ready(&mut self) -> Result<Duration> {
        if let Some(took) = self.took {
            return Ok(took);
        }
        match self.ready.recv_timeout(START_MAX) {
            Ok(()) => Ok(*self.took.insert(self.started.elapsed())),
            Err(RecvTimeoutError::Timeout) => bail!("the broker was not ready after {START_MAX:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the broker did not start: it ended with {}", self.process.wait()?)
            }
        }
    }

    /// Kills the broker, which must have run up to now.
    pub(crate) fn kill(mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the broker ended by itself, with {status}");
        }
        self.process.kill().context("cannot kill the broker")?;
        self.process.wait().context("the killed broker does not end")?;
        Ok(())
    }

    /// Tells the broker to stop, and kills it after `delay` while it does. Returns whether it had not stopped yet.
    pub(crate) fn kill_while_stopping(mut self, delay: Duration) -> Result<bool> {
        self.tell_to_stop()?;
        thread::sleep(delay);
        match self.process.try_wait()? {
            None => {
                self.process.kill().context("cannot kill the broker")?;
                self.process.wait().context("the killed broker does not end")?;
                Ok(true)
            }
            Some(status) => {
                ensure!(status.success(), "the broker was told to stop, and ended with {status}");
                Ok(false)
            }
        }
    }

    /// Tells the broker to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.tell_to_stop()?;
        let asked = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(asked.elapsed() < STOP_MAX, "the broker was told to stop and still runs");
            thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "the broker was told to stop, and ended with {status}");
        Ok(())
    }

    fn tell_to_stop(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the broker ended by itself, with {status}");
        }
        kill_process(Pid::from_child(&self.process), Signal::TERM).context("cannot tell the broker to stop")
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
