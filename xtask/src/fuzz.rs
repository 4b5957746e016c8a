//! `cargo xtask fuzz-selectors`: the property tests of selectors, with new random cases until time is up.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::tidy;

/// Cases of each property in one run of the tests.
const CASES: u32 = 20_000;

/// How long.
#[derive(Args)]
pub(crate) struct Options {
    /// Minutes, beside the time that building takes. The run that is under way when they are over is finished.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only properties whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs the tests again and again. What fails is shrunk, printed, and kept in `proptest-regressions`.
pub(crate) fn run(options: &Options) -> Result<()> {
    env::set_current_dir(tidy::root()?)?;
    let tests = built()?;
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut runs = 0_u32;
    while Instant::now() < end {
        let mut command = Command::new(&tests);
        command
            .args(options.only.as_deref().map_or(&["random::", "fuzz::", "exact::", "index::"][..], |_| &[]));
        command.args(options.only.iter()).env("PROPTEST_CASES", CASES.to_string()).current_dir("filter");
        ensure!(command.status()?.success(), "run {runs} failed; the case is printed above");
        runs += 1;
        println!("{runs} runs of {CASES} cases of every property agree");
    }
    Ok(())
}

/// Builds the tests of the crate `filter` with the features of the whole workspace, and returns their program.
fn built() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut found = None;
    for line in BufReader::new(child.stdout.take().context("its output is piped")?).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let is_ours = message["package_id"].as_str().is_some_and(|id| id.contains("/filter#"))
            && message["target"]["name"] == "it";
        if let (true, Some(program)) = (is_ours, message["executable"].as_str()) {
            found = Some(PathBuf::from(program));
        }
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    found.context("the crate filter has no test program \"it\"")
}
