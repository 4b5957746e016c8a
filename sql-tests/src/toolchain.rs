//! What clients need to run: their interpreter or compiler, and their packages.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long the installation of packages, or a build, may take.
const SETUP_MAX: Duration = Duration::from_secs(30 * 60);

/// A client that can be run: a program and the words before its own arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    words: Vec<PathBuf>,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Program {
    /// Returns the Python program of `clients/<name>`, with its packages in a virtual environment, or `None`
    /// without Python.
    ///
    /// # Errors
    ///
    /// If its packages cannot be installed.
    pub fn python(name: &str) -> Result<Option<Self>> {
        if !is_there("python3") {
            return Ok(None);
        }
        let source = source(name);
        let requirements = source.join("requirements.txt");
        let home = prepared(name, &requirements, |home| {
            run(Command::new("python3").args(["-m", "venv"]).arg(home))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            run(Command::new(home.join("bin/python")).args(pip).arg(&requirements))
        })?;
        Ok(Some(Self {
            path: home.join("bin/python"),
            words: vec![source.join("client.py")],
            variables: Vec::new(),
        }))
    }

    /// Returns the Node program of `clients/<name>`, with its packages, or `None` without Node.
    ///
    /// # Errors
    ///
    /// If its packages cannot be installed.
    pub fn node(name: &str) -> Result<Option<Self>> {
        if !is_there("node") || !is_there("npm") {
            return Ok(None);
        }
        let source = source(name);
        let package = source.join("package.json");
        let home = prepared(name, &package, |home| {
            fs::copy(&package, home.join("package.json")).context("cannot copy package.json")?;
            let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
            run(Command::new("npm").args(install).current_dir(home))
        })?;
        Ok(Some(Self {
            path: "node".into(),
            words: vec![source.join("client.js")],
            variables: vec![("NODE_PATH", home.join("node_modules"))],
        }))
    }

    /// Returns the Rust program of `clients/<name>`, built; `None` without cargo.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub fn rust(name: &str) -> Result<Option<Self>> {
        if !is_there("cargo") {
            return Ok(None);
        }
        let path = rust_binary(name, &format!("weir-client-{name}"))?;
        Ok(Some(Self { path, words: Vec::new(), variables: Vec::new() }))
    }

    /// Runs the program with `arguments`, and returns the JSON that it prints last. Its home directory is `home`:
    /// some clients write logs there.
    ///
    /// # Errors
    ///
    /// If it fails, takes longer than `limit`, or prints no JSON.
    pub fn run(&self, arguments: &[&str], home: &Path, limit: Duration) -> Result<serde_json::Value> {
        let mut command = Command::new(&self.path);
        command.args(&self.words).args(arguments).env("HOME", home).current_dir(home);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = output(&mut command, limit)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{arguments:?} ended with {}: {}{}", output.status, tail(&text), tail(&complaint));
        }
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{arguments:?} printed no JSON: {}", tail(&text)))?;
        serde_json::from_str(line).with_context(|| format!("{arguments:?} printed {line}"))
    }
}

/// Runs a Python script of `clients/<name>` that prepares its own packages, and returns what it prints; `None`
/// without Python. A script that reports failures and ends with 1 is no error.
///
/// # Errors
///
/// If it cannot be run, or ends with anything else.
pub fn python_script(name: &str, script: &str, weir: &Path, limit: Duration) -> Result<Option<String>> {
    if !is_there("python3") {
        return Ok(None);
    }
    let output =
        output(Command::new("python3").arg(source(name).join(script)).arg("--weir").arg(weir), limit)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !matches!(output.status.code(), Some(0 | 1)) || text.is_empty() {
        bail!("{script} ended with {}: {}", output.status, tail(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(Some(text))
}

/// Builds the Rust programs of `clients/<name>`, and returns where `binary`, one of them, lies.
///
/// # Errors
///
/// If they do not build.
pub fn rust_binary(name: &str, binary: &str) -> Result<PathBuf> {
    let target = cache()?.join(format!("{name}-target"));
    let build = ["build", "--quiet", "--locked", "--manifest-path"];
    let manifest = source(name).join("Cargo.toml");
    run(Command::new("cargo").args(build).arg(manifest).env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("debug").join(binary))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Returns the directory of a client's packages, which `install` fills unless that was done before for the same
/// list of packages.
fn prepared(name: &str, list: &Path, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let listed = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    let mut hasher = DefaultHasher::new();
    listed.hash(&mut hasher);
    let home = cache()?.join(format!("{name}-{:016x}", hasher.finish()));
    let complete = home.join("complete");
    if !complete.exists() {
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        install(&home).with_context(|| format!("cannot install the packages of the {name} client"))?;
        fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    }
    Ok(home)
}

fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("WEIR_CACHE") {
        return Ok(cache.into());
    }
    let home = env::var_os("HOME").context("neither WEIR_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/weir"))
}

fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = output(command, SETUP_MAX)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, tail(&complaint));
    }
    Ok(())
}

/// Returns what the command came to. It is killed if it takes longer than `limit`.
fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = drain(process.stdout.take());
    let stderr = drain(process.stderr.take());
    let ended = wait(&mut process, limit)?;
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    match ended {
        true => Ok(Output { status: process.wait()?, stdout, stderr }),
        false => {
            let (text, complaint) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            bail!("{command:?} took longer than {limit:?}: {}{}", tail(&text), tail(&complaint))
        }
    }
}

/// Returns whether the process ended by itself.
fn wait(process: &mut Child, limit: Duration) -> Result<bool> {
    let start = Instant::now();
    while process.try_wait()?.is_none() {
        if start.elapsed() > limit {
            process.kill()?;
            process.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

fn drain(output: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut output) = output {
            let _ = output.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Returns the end of a text, as long as it is helpful.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(20)..].iter().map(|line| format!("\n    {line}")).collect()
}
