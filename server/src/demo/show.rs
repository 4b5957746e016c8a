//! How the demonstration looks in a terminal. Without one, or with `NO_COLOR`, it is the same without colour.

use std::{path::Path, time::Duration};

use owo_colors::OwoColorize as _;

use super::{connect, host_and_port, shown_path};
use crate::{
    cli::{Failure, output::print_line},
    context::VERSION,
    rocketmq::proto::Message,
};

/// Prints the demonstration.
pub(super) struct Show;

impl Show {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn title(&self, uri: &str, data: &Path) -> Result<(), Failure> {
        print_line("")?;
        print_line(&format!(
            "  {} {}  {}",
            "Weir".bold().cyan(),
            VERSION.dimmed(),
            "every subscription is a SQL WHERE clause, every topic is a table".italic()
        ))?;
        print_line(&format!("  {} {}   {}", "●".green(), uri.bold(), shown_path(data).dimmed()))
    }

    /// Opens a step: what is done, and how long it took.
    pub(super) fn step(&self, name: &str, what: &str, took: Option<Duration>) -> Result<(), Failure> {
        let took = took.map(|took| format!("  {}", elapsed(took).dimmed())).unwrap_or_default();
        print_line("")?;
        print_line(&format!("{} {}  {what}{took}", "▌".cyan(), format!("{name:<9}").bold().cyan()))
    }

    pub(super) fn note(&self, text: &str) -> Result<(), Failure> {
        self.indented(text, |line| line.dimmed().to_string())
    }

    pub(super) fn code(&self, text: &str) -> Result<(), Failure> {
        self.indented(text, highlighted)
    }

    pub(super) fn result(&self, text: &str) -> Result<(), Failure> {
        print_line(&format!("  {} {text}", "✓".green().bold()))
    }

    pub(super) fn table(&self, table: &str) -> Result<(), Failure> {
        self.indented(table, str::to_owned)
    }

    /// Shows a message of the topic of flights.
    pub(super) fn flight(&self, message: &Message) -> Result<(), Failure> {
        let get = |name: &str| message.user_properties.get(name).map_or("", String::as_str);
        let date = format!("2013-{:0>2}-{:0>2}", get("month"), get("day"));
        let number = format!("{} {}", get("carrier"), get("flight"));
        print_line(&format!(
            "    {} {}  {} {} {}  {}",
            date.dimmed(),
            format!("{number:<8}").bold(),
            get("origin"),
            "→".dimmed(),
            get("dest"),
            format!("{:>4} min late", get("dep_delay")).yellow()
        ))
    }

    /// Shows how each client connects.
    pub(super) fn connect(&self, uri: &str) -> Result<(), Failure> {
        print_line("")?;
        print_line(&format!(
            "{} {}  from another terminal",
            "▌".cyan(),
            format!("{:<9}", "Connect").bold().cyan()
        ))?;
        for way in connect::ways(uri, host_and_port(uri)) {
            print_line(&format!("  {} {}", format!("{:<8}", way.client).bold(), way.needs.dimmed()))?;
            self.indented(&way.code, str::to_owned)?;
        }
        print_line("")?;
        print_line(&format!("  {} serving on {} until {}", "●".green(), uri.bold(), "Ctrl-C".bold()))
    }

    fn indented(&self, text: &str, paint: impl Fn(&str) -> String) -> Result<(), Failure> {
        text.lines().try_for_each(|line| print_line(&format!("    {}", paint(line))))
    }
}

/// Paints the words of SQL that stand in capitals, and the strings.
fn highlighted(line: &str) -> String {
    let mut painted = String::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            painted.push_str(&format!("'{part}'").green().to_string());
            continue;
        }
        for word in part.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let letters = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let rest = &word[letters.len()..];
            let keyword = letters.len() > 1 && letters.chars().all(|c| c.is_ascii_uppercase());
            painted.push_str(&if keyword { letters.magenta().to_string() } else { letters.to_owned() });
            painted.push_str(rest);
        }
    }
    painted
}

fn elapsed(took: Duration) -> String {
    match took.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}
