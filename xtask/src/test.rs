//! `cargo xtask test`: all checks in the order in which they fail soonest, each timed.
//!
//! All steps build the whole workspace with the same features and the same profile, so that DataFusion
//! is compiled once for lints and once for code.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{crashes, tidy};

/// How often the test command kills the broker.
const KILLS: u32 = 50;

/// What to leave out.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out the real clients and the real crashes, which need packages for Python, Node, Java and Go.
    #[arg(long)]
    no_clients: bool,
}

struct Outcome {
    step: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

/// Runs every step, also after one has failed, and fails if any did.
pub(crate) fn run(options: &Options) -> Result<()> {
    env::set_current_dir(tidy::root()?)?;
    let mut outcomes = Vec::new();
    let mut step = |name: &'static str, work: &dyn Fn() -> Result<()>| {
        println!("\n── {name} ──");
        let start = Instant::now();
        let error = work().err();
        if let Some(error) = &error {
            eprintln!("error: {error:#}");
        }
        outcomes.push(Outcome { step: name, took: start.elapsed(), error });
    };
    step("format", &|| cargo(&["fmt", "--all", "--check"], &[]));
    step("tidy", &tidy::run);
    step("clippy", &|| {
        cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
    });
    step("documentation", &|| {
        cargo(&["doc", "--quiet", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
    });
    step("tests", &|| cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"], &[]));
    if !options.no_clients {
        step("real clients", &clients);
        step("real crashes", &|| crashes::kill(None, KILLS, None));
    }
    report(&outcomes)
}

/// Drives the official clients against the binary that the tests have built.
fn clients() -> Result<()> {
    drive_clients(&[])
}

/// Runs the RocketMQ clients, and writes what each of them does to `docs/clients.md`.
pub(crate) fn write_clients_table() -> Result<()> {
    env::set_current_dir(tidy::root()?)?;
    drive_clients(&["--write-table"])
}

fn drive_clients(options: &[&str]) -> Result<()> {
    cargo(&["build", "--quiet", "--workspace", "--all-targets"], &[])?;
    let mut clients = Command::new(built("clients"));
    check(clients.arg("--weir").arg(built("weir")).args(options), "the client tests")
}

/// Returns where a program of the workspace lies once it is built.
pub(crate) fn built(program: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("debug").join(program)
}

pub(crate) fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    check(Command::new(cargo).args(arguments).envs(variables.iter().copied()), arguments[0])
}

pub(crate) fn check(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    println!();
    for Outcome { step, took, error } in outcomes {
        let mark = if error.is_none() { "ok    " } else { "FAILED" };
        println!("{mark} {step:<16} {:>5} s", took.as_secs());
    }
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    println!("steps: {} passed, {failed} failed", outcomes.len() - failed);
    if failed > 0 {
        bail!("{failed} of {} steps failed", outcomes.len());
    }
    Ok(())
}
