//! `cargo xtask simulate`: the models of storage and of delivery on the simulated disk, for as many seeds as wanted.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{tests, tidy};

/// Seeds of storage for one of delivery, which takes about a hundred times as long.
const STORAGE_FOR_ONE_DELIVERY: u64 = 100;
/// Seeds between two lines of progress.
const AT_ONCE: u64 = 20_000;

/// How many, and which.
#[derive(Args)]
pub(crate) struct Options {
    /// Seeds of the model of storage.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first seed; a random one by default.
    #[arg(long)]
    first: Option<u64>,
}

/// Runs the seeds. The first that fails ends it, with the fewest of its steps that still fail.
pub(crate) fn run(options: &Options) -> Result<()> {
    env::set_current_dir(tidy::root()?)?;
    let storage = tests::built("storage", "weir_storage")?;
    let delivery = tests::built("engine", "it")?;
    // Half of the numbers, so that there is room for all that follow.
    let first = options.first.unwrap_or_else(|| RandomState::new().hash_one(0) >> 1);
    println!("seeds from {first} on");
    let mut done = 0;
    while done < options.seeds {
        let count = AT_ONCE.min(options.seeds - done);
        let test = "model::crashes_lose_nothing_that_was_promised";
        seeds(&storage, "storage", test, first.saturating_add(done), count)?;
        let few = count.div_ceil(STORAGE_FOR_ONE_DELIVERY);
        let from = first.saturating_add(done / STORAGE_FOR_ONE_DELIVERY);
        seeds(&delivery, "engine", "checker::delivery_is_exact", from, few)?;
        done += count;
        println!("{done} seeds of storage and {} of delivery hold", done.div_ceil(STORAGE_FOR_ONE_DELIVERY));
    }
    Ok(())
}

fn seeds(program: &Path, directory: &str, test: &str, first: u64, count: u64) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["--exact", test, "--quiet"]).current_dir(directory);
    command.env("WEIR_FIRST_SEED", first.to_string()).env("WEIR_SEEDS", count.to_string());
    ensure!(command.status()?.success(), "a seed failed; which one is printed above");
    Ok(())
}
