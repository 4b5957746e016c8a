//! `weir selector`: whether a selector can be used, and what it does on the messages of a topic.

use std::io::{self, IsTerminal as _};

use clap::{Args, Subcommand};
use owo_colors::OwoColorize as _;
use serde_json::json;
use weir_filter::{Dialect, Limits, Selector, SelectorError};

use super::{
    Failure, Global, examine,
    output::{print_json, print_line},
    parameters::{ParameterArgs, Unbound},
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
        #[command(flatten)]
        parameters: ParameterArgs,
    },
    /// Shows which part of a selector decides on the retained messages of a topic, and what it costs.
    #[command(
        after_help = "Example: weir selector explain --topic flights \"origin = 'JFK' AND dep_delay > 60\""
    )]
    Explain {
        /// The selector.
        text: String,
        #[command(flatten)]
        on: On,
        /// Judge all retained messages instead of some.
        #[arg(long)]
        analyze: bool,
    },
    /// Shows the first messages that a selector selects; no offset moves. Or why it selects one.
    #[command(after_help = "Example: weir selector try --topic flights \"dep_delay > 60\" --why 0:17")]
    Try {
        /// The selector.
        text: String,
        #[command(flatten)]
        on: On,
        /// How many messages to show; at most 1,000.
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: usize,
        /// Judge this message instead, part by part: its id, or QUEUE:OFFSET.
        #[arg(long, value_name = "MESSAGE", conflicts_with = "limit")]
        why: Option<String>,
    },
    /// Shows which retained messages a second selector gains and loses against a first.
    #[command(
        after_help = "Example: weir selector diff --topic flights \"dep_delay > 60\" \"dep_delay >= 45\""
    )]
    Diff {
        /// The selector as it is.
        before: String,
        /// The selector as it would be.
        after: String,
        #[command(flatten)]
        on: On,
        /// How many messages to show of those gained and of those lost; at most 1,000.
        #[arg(long, value_name = "N", default_value_t = 5)]
        limit: usize,
    },
}

/// On what a selector is looked at.
#[derive(Debug, Args)]
pub(crate) struct On {
    /// The topic.
    #[arg(long, value_name = "TOPIC")]
    pub(super) topic: String,
    /// The dialect of the selector. Default: that of the topic.
    #[arg(long, value_name = "DIALECT")]
    pub(super) dialect: Option<Dialect>,
    #[command(flatten)]
    parameters: ParameterArgs,
}

pub(crate) async fn run(command: SelectorCommand, global: &Global) -> Result<(), Failure> {
    match command {
        SelectorCommand::Check { text, dialect, parameters } => {
            let text = if text == "-" { read_selector()? } else { text };
            match parameters.bind(&text) {
                Ok(text) => check(&text, dialect, global),
                Err(Unbound::Selector(text, error)) => Err(not_a_selector(&text, &error, global)?),
                Err(error) => Err(error.into()),
            }
        }
        SelectorCommand::Explain { text, on, analyze } => {
            examine::explain(&on.parameters.bind(&text)?, &on, analyze, global).await
        }
        SelectorCommand::Try { text, on, why: Some(message), .. } => {
            examine::why(&on.parameters.bind(&text)?, &on, &message, global).await
        }
        SelectorCommand::Try { text, on, limit, why: None } => {
            examine::try_rows(&on.parameters.bind(&text)?, &on, limit, global).await
        }
        SelectorCommand::Diff { before, after, on, limit } => {
            let bound = on.parameters.bind_all([&before, &after])?;
            examine::diff([&bound[0], &bound[1]], &on, limit, global).await
        }
    }
}

fn read_selector() -> Result<String, Failure> {
    let text = io::read_to_string(io::stdin())
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
    Ok(text.trim_end().to_owned())
}

fn check(text: &str, dialect: Dialect, global: &Global) -> Result<(), Failure> {
    let selector = match Selector::parse(text, dialect, &Limits::default()) {
        Ok(selector) => selector,
        Err(error) => return Err(not_a_selector(text, &error, global)?),
    };
    let columns: Vec<String> = selector.columns().map(|column| column.to_string()).collect();
    if global.json {
        let differences: Vec<_> = selector
            .differences()
            .iter()
            .map(|difference| json!({ "message": difference.message(), "position": difference.position() }))
            .collect();
        return print_json(&json!({
            "ok": true, "dialect": dialect.to_string(), "columns": columns,
            "dropped": selector.dropped(), "rocketmq_differs": differences,
        }));
    }
    let ok = if io::stdout().is_terminal() { "ok".green().bold().to_string() } else { "ok".to_owned() };
    match columns.as_slice() {
        [] => print_line(&format!("{ok}: reads no property"))?,
        columns => print_line(&format!("{ok}: reads {}", columns.join(", ")))?,
    }
    if let Some(dropped) = selector.dropped() {
        let rest: String = text.get(dropped..).unwrap_or_default().chars().take(40).collect();
        print_line(&format!(
            "note: from column {} on the text is ignored, as RocketMQ does: {rest}",
            column(text, dropped)
        ))?;
    }
    let differences = selector.differences();
    if !differences.is_empty() {
        print_line("RocketMQ's own evaluator would answer differently:")?;
    }
    for difference in differences {
        print_line(&format!("  column {}: {}", difference.column(), difference.message()))?;
    }
    Ok(())
}

/// Tells where and why `text` is no selector, in JSON if that is asked for, and returns how the command ends.
fn not_a_selector(text: &str, error: &SelectorError, global: &Global) -> Result<Failure, Failure> {
    if !global.json {
        return Ok(Failure::new(Exit::Refused, without_prefix(&error.report(text))));
    }
    print_json(&json!({
        "ok": false, "message": error.message(), "position": error.position(),
        "line": error.line(), "column": error.column(),
    }))?;
    Ok(Failure::new(Exit::Refused, error.to_string()))
}

/// Returns the column of a byte of the last line before it, in characters from 1.
fn column(text: &str, byte: usize) -> usize {
    let before = text.get(..byte).unwrap_or(text);
    before.rsplit('\n').next().unwrap_or_default().chars().count() + 1
}

/// Adds to a refusal where one of some selectors is wrong.
pub(crate) fn with_place_in(failure: Failure, selectors: &[&str], dialect: Dialect) -> Failure {
    let is_refused = failure.kind() == Some(Exit::Refused);
    let wrong = selectors.iter().find_map(|text| {
        let error = Selector::parse(text, dialect, &Limits::default()).err()?;
        Some(without_prefix(&error.report(text)))
    });
    match wrong {
        Some(report) if is_refused => Failure::new(Exit::Refused, format!("bad selector: {report}")),
        _ => failure,
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

pub(super) fn without_prefix(report: &str) -> String {
    report.strip_prefix("error: ").unwrap_or(report).to_owned()
}
