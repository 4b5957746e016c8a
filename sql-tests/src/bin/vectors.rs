//! Answers vectors: `vectors [--stored] FILE…`. Prints each that differs, and fails if one does.
//!
//! `--stored` takes properties as RocketMQ's broker stores them, and expects what it then answers.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use weir_sql_tests::vectors::{self, Properties};

fn main() -> anyhow::Result<ExitCode> {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    let given = files.len();
    files.retain(|file| file != "--stored");
    let properties = if files.len() < given { Properties::AsStored } else { Properties::AsGiven };
    if files.is_empty() {
        anyhow::bail!("usage: vectors [--stored] FILE…");
    }
    let mut out = io::stdout().lock();
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let (lines, malformed) = vectors::read(Path::new(&file))?;
        for line in &malformed {
            writeln!(out, "{line}")?;
        }
        failed += malformed.len();
        let mismatches = vectors::judge(&lines, properties);
        for mismatch in &mismatches {
            writeln!(out, "{mismatch}")?;
        }
        passed += lines.len() - mismatches.len();
        failed += mismatches.len();
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
