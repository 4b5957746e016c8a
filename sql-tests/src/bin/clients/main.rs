//! Runs real clients, unmodified, against the real binary, and says which passed, failed or could not run.
//!
//! Packages are installed outside the checkout, in `$WEIR_CACHE` or `~/.cache/weir`, once. A client whose toolchain
//! is not on the machine is skipped by name; that its packages cannot be installed is a failure.

mod arrow;
mod broker;
mod flights;
mod rocketmq;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

/// What became of a check.
#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A check by name, with what became of it.
type Checked = (String, Outcome);

fn main() -> ExitCode {
    match run() {
        Ok(checked) => report(&checked),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Vec<Checked>> {
    let weir = binary()?;
    let mut checked = rocketmq::check(&weir)?;
    checked.extend(arrow::check(&weir)?);
    checked.extend(flights::check(&weir)?);
    Ok(checked)
}

fn binary() -> Result<PathBuf> {
    let mut words = env::args_os().skip(1);
    match (words.next(), words.next(), words.next()) {
        (Some(option), Some(path), None) if option == "--weir" => {
            PathBuf::from(&path).canonicalize().with_context(|| format!("cannot find {}", path.display()))
        }
        _ => bail!("usage: clients --weir PATH-OF-THE-BINARY"),
    }
}

fn report(checked: &[Checked]) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
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
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
