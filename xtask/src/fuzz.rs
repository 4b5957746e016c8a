//! `cargo xtask fuzz-selectors` and `fuzz-formats`: the property tests of selectors, and of bytes on disk, with new
//! random cases until time is up.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{tests, tidy};

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
    again_and_again(options, "filter", "it", &["random::", "fuzz::", "exact::", "index::"])
}

/// As [`run`], for what lies on disk: `cargo xtask fuzz-formats`.
pub(crate) fn run_formats(options: &Options) -> Result<()> {
    env::set_current_dir(tidy::root()?)?;
    again_and_again(options, "storage", "weir_storage", &["format::fuzz::"])
}

fn again_and_again(options: &Options, folder: &str, target: &str, names: &[&str]) -> Result<()> {
    let tests = tests::built(folder, target)?;
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut runs = 0_u32;
    while Instant::now() < end {
        let mut command = Command::new(&tests);
        command.args(options.only.as_deref().map_or(names, |_| &[]));
        command.args(options.only.iter()).env("PROPTEST_CASES", CASES.to_string()).current_dir(folder);
        ensure!(command.status()?.success(), "run {runs} failed; the case is printed above");
        runs += 1;
        println!("{runs} runs of {CASES} cases of every property agree");
    }
    Ok(())
}
