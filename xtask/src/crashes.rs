//! `cargo xtask crashes`: the real binary is killed as often as one likes.

use std::{env, path::PathBuf, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{test, tidy};

/// How often, and what.
#[derive(Args)]
pub(crate) struct Options {
    /// How often the broker is killed.
    #[arg(long, default_value_t = 1000)]
    kills: u32,
    /// Makes the same choices as an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Another binary than that of this checkout.
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
}

/// Builds what is needed, and runs the test.
pub(crate) fn run(options: &Options) -> Result<()> {
    // A path on the command line starts at the directory of the caller.
    let weir = options.weir.as_ref().map(std::path::absolute).transpose()?;
    env::set_current_dir(tidy::root()?)?;
    test::cargo(&["build", "--quiet", "--workspace", "--all-targets"], &[])?;
    kill(weir, options.kills, options.seed)
}

/// Kills the broker that was built, or `weir`, so many times.
pub(crate) fn kill(weir: Option<PathBuf>, kills: u32, seed: Option<u64>) -> Result<()> {
    let mut command = Command::new(test::built("crashes"));
    command.arg("--weir").arg(weir.unwrap_or_else(|| test::built("weir")));
    command.arg("--kills").arg(kills.to_string());
    if let Some(seed) = seed {
        command.arg("--seed").arg(seed.to_string());
    }
    test::check(&mut command, "the crash test")
}
