//! Runs real clients, unmodified, against the real binary, and says which passed, failed or could not run.
//!
//! Packages are installed outside the checkout, in `$WEIR_CACHE` or `~/.cache/weir`, once. A client whose toolchain
//! is not on the machine is skipped by name; that its packages cannot be installed is a failure.

mod arrow;
mod broker;
mod flights;
mod rocketmq;

use std::{path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Runs real clients against the real binary.
#[derive(Debug, Parser)]
struct Options {
    /// The binary.
    #[arg(long)]
    weir: PathBuf,
    /// Write docs/clients.md instead of comparing it with what came out.
    #[arg(long)]
    write_table: bool,
    /// Run this RocketMQ client alone: java-newest, java-oldest, go, python, node or rust.
    #[arg(long)]
    only: Option<String>,
}

/// What became of a check.
#[derive(Clone, Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
    /// It is known that the client cannot do it, and why.
    Known(&'static str),
}

/// A check by name, with what became of it.
type Checked = (String, Outcome);

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(checked) => report(&checked),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Vec<Checked>> {
    let weir = &options.weir;
    let weir = weir.canonicalize().with_context(|| format!("cannot find {}", weir.display()))?;
    if options.only.is_some() || options.write_table {
        return rocketmq::check(&weir, options.only.as_deref(), options.write_table);
    }
    // RocketMQ's clients wait most of the time; these do not.
    thread::scope(|scope| {
        let busy = scope.spawn(|| Ok([arrow::check(&weir)?, flights::check(&weir)?].concat()));
        let mut checked = rocketmq::check(&weir, None, false)?;
        checked.extend(busy.join().unwrap_or_else(|_| bail!("a check has panicked"))?);
        Ok(checked)
    })
}

fn report(checked: &[Checked]) -> ExitCode {
    let (mut passed, mut failed, mut skipped, mut known) = (0, 0, 0, 0);
    for (name, outcome) in checked {
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("ok      {name}");
            }
            Outcome::Failed(why) => {
                failed += 1;
                println!("FAILED  {name}: {why}");
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!("skipped {name}: {why}");
            }
            Outcome::Known(why) => {
                known += 1;
                println!("known   {name}: {why}");
            }
        }
    }
    println!("{known} known to be impossible for the client");
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
