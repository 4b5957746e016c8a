//! `weir selector`: selectors without a broker.

use std::io::{self, IsTerminal as _};

use clap::Subcommand;
use owo_colors::OwoColorize as _;
use serde_json::json;
use weir_filter::{Dialect, Limits, Selector};

use super::{
    Failure, Global,
    output::{print_json, print_line},
};
use crate::status::Exit;

/// What to do with a selector.
#[derive(Debug, Subcommand)]
pub(crate) enum SelectorCommand {
    /// Checks a selector: the WHERE clause of a subscription. Ends with 4 if it cannot be used.
    #[command(after_help = "Example: weir selector check \"origin IN ('JFK', 'LGA') AND dep_delay > 60\"")]
    Check {
        /// The selector; `-` reads it from standard input.
        text: String,
        /// Its dialect.
        #[arg(long, value_name = "DIALECT", default_value = "sql92")]
        dialect: Dialect,
    },
}

pub(crate) fn run(command: &SelectorCommand, global: &Global) -> Result<(), Failure> {
    let SelectorCommand::Check { text, dialect } = command;
    if text != "-" {
        return check(text, *dialect, global);
    }
    let text = io::read_to_string(io::stdin())
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
    check(text.trim_end(), *dialect, global)
}

fn check(text: &str, dialect: Dialect, global: &Global) -> Result<(), Failure> {
    let selector = match Selector::parse(text, dialect, &Limits::default()) {
        Ok(selector) => selector,
        Err(error) if global.json => {
            print_json(&json!({
                "ok": false, "message": error.message(), "position": error.position(),
                "line": error.line(), "column": error.column(),
            }))?;
            return Err(Failure::new(Exit::Refused, error.to_string()));
        }
        Err(error) => return Err(Failure::new(Exit::Refused, without_prefix(&error.report(text)))),
    };
    let columns: Vec<String> = selector.columns().map(|column| column.to_string()).collect();
    if global.json {
        return print_json(&json!({ "ok": true, "dialect": dialect.to_string(), "columns": columns }));
    }
    let ok = if io::stdout().is_terminal() { "ok".green().bold().to_string() } else { "ok".to_owned() };
    match columns.as_slice() {
        [] => print_line(&format!("{ok}: reads no property")),
        columns => print_line(&format!("{ok}: reads {}", columns.join(", "))),
    }
}

/// Returns where and why `text` is no selector, with a caret under the place; `None` if it is one.
pub(crate) fn explain(text: &str) -> Option<String> {
    let error = Selector::parse(text, Dialect::default(), &Limits::default()).err()?;
    Some(without_prefix(&error.report(text)))
}

/// Adds to a refusal where the selector is wrong, if that is what it is about.
pub(crate) fn with_place(failure: Failure, selector: Option<&str>) -> Failure {
    match selector.and_then(explain) {
        Some(report) if failure.kind() == Some(Exit::Refused) => {
            Failure::new(Exit::Refused, format!("bad selector: {report}"))
        }
        _ => failure,
    }
}

fn without_prefix(report: &str) -> String {
    report.strip_prefix("error: ").unwrap_or(report).to_owned()
}
