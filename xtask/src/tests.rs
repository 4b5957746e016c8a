//! Builds the programs of tests that long runs start again and again.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Builds the tests of the workspace, and returns the program of target `target` of the crate in directory `of`.
///
/// # Errors
///
/// If they do not build, or there is no such program.
pub(crate) fn built(of: &str, target: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut found = None;
    for line in BufReader::new(child.stdout.take().context("its output is piped")?).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let is_ours = message["package_id"].as_str().is_some_and(|id| id.contains(&format!("/{of}#")))
            && message["target"]["name"] == target;
        if let (true, Some(program)) = (is_ours, message["executable"].as_str()) {
            found = Some(PathBuf::from(program));
        }
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    found.with_context(|| format!("the crate {of} has no test program {target:?}"))
}
