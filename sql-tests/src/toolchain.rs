//! What clients need to run: their interpreter or compiler, and their packages.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    ffi::OsString,
    fs,
    hash::{Hash, Hasher},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    slice,
    sync::mpsc,
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
    words: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    /// Makes an option that names the home directory, where the variable `HOME` does not.
    home_option: Option<&'static str>,
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
        let home = prepared(name, slice::from_ref(&requirements), |home| {
            run(Command::new("python3").args(["-m", "venv"]).arg(home))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            run(Command::new(home.join("bin/python")).args(pip).arg(&requirements))
        })?;
        Ok(Some(Self::new(home.join("bin/python"), vec![source.join("client.py").into()])))
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
        let home = prepared(name, slice::from_ref(&package), |home| {
            fs::copy(&package, home.join("package.json")).context("cannot copy package.json")?;
            let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
            run(Command::new("npm").args(install).current_dir(home))
        })?;
        let program = Self::new("node".into(), vec![source.join("client.js").into()]);
        Ok(Some(program.with("NODE_PATH", home.join("node_modules"))))
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
        Ok(Some(Self::new(rust_binary(name, &format!("weir-client-{name}"))?, Vec::new())))
    }

    /// Returns the Go program of `clients/<name>`, built; `None` without Go.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub fn go(name: &str) -> Result<Option<Self>> {
        if !answers("go", "version") {
            return Ok(None);
        }
        let program = built(name)?.join(format!("weir-client-{name}"));
        let build = ["build", "-buildvcs=false", "-o"];
        run(Command::new("go").args(build).arg(&program).arg(".").current_dir(source(name)))?;
        Ok(Some(Self::new(program, Vec::new())))
    }

    /// Returns the Java program of `clients/<name>`, built with a profile of its `pom.xml`; `None` without a JDK and
    /// Maven.
    ///
    /// # Errors
    ///
    /// If its packages cannot be fetched, or it does not build.
    pub fn java(name: &str, profile: &str) -> Result<Option<Self>> {
        if !["java", "javac", "mvn"].into_iter().all(is_there) {
            return Ok(None);
        }
        let source = source(name);
        let home = prepared(&format!("{name}-{profile}"), &files(&source)?, |home| {
            let mut build = Command::new("mvn");
            build.args(["--quiet", "--batch-mode", "--activate-profiles", profile, "--file"]);
            build.arg(source.join("pom.xml")).arg(format!("-Doutput={}", home.display()));
            run(build.args(["compiler:compile", "dependency:copy-dependencies"]))
        })?;
        let mut classes = home.join("classes").into_os_string();
        classes.push(":");
        classes.push(home.join("dependency/*"));
        // These programs end before a better compiler would pay.
        let quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp"];
        let mut words: Vec<OsString> = quick.into_iter().map(OsString::from).collect();
        words.extend([classes, "weir.client.Client".into()]);
        Ok(Some(Self { home_option: Some("-Duser.home="), ..Self::new("java".into(), words) }))
    }

    fn new(path: PathBuf, words: Vec<OsString>) -> Self {
        Self { path, words, variables: Vec::new(), home_option: None }
    }

    /// Returns the program with a variable of its environment.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs the program with `arguments`, and returns the JSON that it prints. Its home directory is `home`: some
    /// clients write logs there.
    ///
    /// # Errors
    ///
    /// If it fails, takes longer than `limit`, or prints no JSON.
    pub fn run(&self, arguments: &[&str], home: &Path, limit: Duration) -> Result<serde_json::Value> {
        let running = self.start(arguments, home, limit);
        let report = running.report();
        running.end()?;
        report
    }

    /// Starts the program as [`run`](Self::run) does, and returns at once.
    #[must_use]
    pub fn start(&self, arguments: &[&str], home: &Path, limit: Duration) -> Running {
        let mut command = Command::new(&self.path);
        command.args(self.home_option.map(|option| format!("{option}{}", home.display())));
        command.args(&self.words).args(arguments).env("HOME", home).current_dir(home);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let words = format!("{arguments:?}");
        let (sender, reports) = mpsc::channel();
        let ended = thread::spawn(move || {
            let output = watched(&mut command, limit, move |line| {
                if line.starts_with('{') {
                    let _ = sender.send(line.to_owned());
                }
            })?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stdout);
                let complaint = String::from_utf8_lossy(&output.stderr);
                bail!("{words} ended with {}: {}{}", output.status, tail(&text), tail(&complaint));
            }
            Ok(())
        });
        Running { reports, ended }
    }
}

/// A program that has been started.
#[derive(Debug)]
pub struct Running {
    reports: mpsc::Receiver<String>,
    ended: thread::JoinHandle<Result<()>>,
}

impl Running {
    /// Returns the JSON that the program prints, as soon as it does.
    ///
    /// # Errors
    ///
    /// If it ends without.
    pub fn report(&self) -> Result<serde_json::Value> {
        let line = self.reports.recv().context("no JSON was printed")?;
        serde_json::from_str(&line).with_context(|| format!("printed was {line}"))
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    ///
    /// If it fails or takes too long.
    pub fn end(self) -> Result<()> {
        self.ended.join().unwrap_or_else(|_| bail!("the thread that watches a program has panicked"))
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
    let target = built(name)?;
    let build = ["build", "--quiet", "--locked", "--manifest-path"];
    let manifest = source(name).join("Cargo.toml");
    run(Command::new("cargo").args(build).arg(manifest).env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("debug").join(binary))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Returns the directory of what is built of a client in place. It is that of this checkout alone: of another one's
/// files cargo only sees that they are older than what lies there, and takes that for built of them.
fn built(name: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    source(name).hash(&mut hasher);
    Ok(cache()?.join(format!("{name}-built-{:016x}", hasher.finish())))
}

/// Returns the directory of a client's packages, which `install` fills unless that was done before for files of the
/// same content.
fn prepared(name: &str, files: &[PathBuf], install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    let home = cache()?.join(format!("{name}-{:016x}", hasher.finish()));
    let complete = home.join("complete");
    if !complete.exists() {
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        install(&home).with_context(|| format!("cannot install the packages of the {name} client"))?;
        fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    }
    Ok(home)
}

/// Returns the files of a directory and of those in it, sorted.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    Ok(found)
}

fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("WEIR_CACHE") {
        return Ok(cache.into());
    }
    let home = env::var_os("HOME").context("neither WEIR_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/weir"))
}

fn is_there(program: &str) -> bool {
    answers(program, "--version")
}

fn answers(program: &str, word: &str) -> bool {
    let answer = Command::new(program).arg(word).stdout(Stdio::null()).stderr(Stdio::null()).status();
    answer.is_ok_and(|status| status.success())
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
    watched(command, limit, |_| ())
}

/// Returns what the command came to, and shows each line of its output to `see` as it comes.
fn watched(command: &mut Command, limit: Duration, see: impl Fn(&str) + Send + 'static) -> Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = drain(process.stdout.take(), see);
    let stderr = drain(process.stderr.take(), |_| ());
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

fn drain(
    output: Option<impl Read + Send + 'static>,
    see: impl Fn(&str) + Send + 'static,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let Some(mut output) = output.map(BufReader::new) else { return bytes };
        loop {
            let before = bytes.len();
            match output.read_until(b'\n', &mut bytes) {
                Ok(1..) => see(&String::from_utf8_lossy(&bytes[before..])),
                Ok(0) | Err(_) => return bytes,
            }
        }
    })
}

/// Returns the end of a text, as long as it is helpful.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(20)..].iter().map(|line| format!("\n    {line}")).collect()
}
