//! The binary under test as a process.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);

/// However full the disk of the machine is, no message ends before its time.
const CONFIG: &str = "retention-disk-percent = 100\n";

/// A running broker. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Weir {
    process: Child,
    /// Where it listens: host and port.
    pub(crate) endpoint: String,
}

impl Weir {
    /// Starts the broker on a free port, and returns once it is ready.
    pub(crate) fn start(binary: &Path, data_dir: &Path) -> Result<Self> {
        Self::start_at(binary, data_dir, "127.0.0.1:0")
    }

    /// Starts the broker at an address, and returns once it is ready.
    pub(crate) fn start_at(binary: &Path, data_dir: &Path, address: &str) -> Result<Self> {
        Self::start_with(binary, data_dir, &format!("{CONFIG}[[listener]]\naddress = \"{address}\"\n"))
    }

    /// Starts the broker on a free port, which takes TLS and plaintext, and returns once it is ready. The certificate
    /// is written beside its data: `server.pem`.
    pub(crate) fn start_with_tls(binary: &Path, data_dir: &Path) -> Result<(Self, PathBuf)> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        let made = made.context("cannot make a certificate")?;
        let certificate = data_dir.with_file_name("server.pem");
        std::fs::write(&certificate, made.cert.pem()).context("cannot write the certificate")?;
        let key = data_dir.with_file_name("server.key");
        std::fs::write(key, made.signing_key.serialize_pem()).context("cannot write the key")?;
        let listener = "address = \"127.0.0.1:0\"\ntls = \"both\"\n";
        let files = "certificate = \"server.pem\"\nkey = \"server.key\"\n";
        let broker = Self::start_with(binary, data_dir, &format!("{CONFIG}[[listener]]\n{listener}{files}"))?;
        Ok((broker, certificate))
    }

    fn start_with(binary: &Path, data_dir: &Path, text: &str) -> Result<Self> {
        let config = data_dir.with_extension("toml");
        std::fs::write(&config, text).context("cannot write the configuration")?;
        let mut process = Command::new(binary)
            .args(["serve", "--auto-create-topics", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let output = process.stdout.take().context("the output of the broker is not piped")?;
        let (sender, ready) = mpsc::channel();
        // Reads on after that, so that the broker never waits for its output to be read.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(endpoint) = endpoint(&line) {
                    let _ = sender.send(endpoint.to_owned());
                }
            }
        });
        match ready.recv_timeout(START_MAX) {
            Ok(endpoint) => Ok(Self { process, endpoint }),
            Err(_) => {
                let _ = process.kill();
                bail!("the broker did not become ready (it ended with {:?})", process.wait());
            }
        }
    }

    /// Ends the broker as a crash would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.kill().context("cannot kill the broker")?;
        self.process.wait().context("the killed broker does not end")?;
        Ok(())
    }

    /// Asks the broker to stop, and returns once it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).context("cannot stop the broker")?;
        let status = self.process.wait().context("the broker does not stop")?;
        if !status.success() {
            bail!("the broker stopped with {status}");
        }
        Ok(())
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a command of the binary against a broker, and returns what it prints.
pub(crate) fn run(weir: &Path, endpoint: &str, arguments: &[&str]) -> Result<String> {
    let server = format!("grpc://{endpoint}");
    let mut command = Command::new(weir);
    command.args(arguments).args(["--server", &server]).stdin(Stdio::null());
    let output = command.output().context("cannot start weir")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir {arguments:?} ended with {}: {complaint}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command of the binary against a broker, and returns the JSON that it answers.
pub(crate) fn ask(weir: &Path, endpoint: &str, arguments: &[&str]) -> Result<serde_json::Value> {
    let answer = run(weir, endpoint, &[arguments, &["--json"]].concat())?;
    serde_json::from_str(&answer).with_context(|| format!("weir {arguments:?} answers {answer}"))
}

/// Returns host and port of a line `ready on grpc://HOST:PORT …`.
fn endpoint(line: &str) -> Option<&str> {
    let uri = line.strip_prefix("ready on ")?.split_whitespace().next()?;
    uri.split_once("//").map(|(_, endpoint)| endpoint)
}
