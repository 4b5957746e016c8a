//! What commands print: tables, numbers, times, progress. Colour only where the terminal wants it.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::Failure;
use crate::status::Exit;

/// Returns whether colour may be written to standard error.
pub(crate) fn stderr_has_colour() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// Prints a line to standard output.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Prints a line to standard error. If nobody reads it, that is that.
pub(crate) fn eprint_line(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Prints a JSON value on a line of its own.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print_line(&value.to_string())
}

/// Returns an empty table with these headings, as wide as the terminal.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    table
}

/// Returns a cell with a right-aligned number.
pub(crate) fn number_cell(number: u64) -> Cell {
    Cell::new(grouped(number)).set_alignment(CellAlignment::Right)
}

/// Returns `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns `1 message`, `2 messages`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Returns a time such as `2026-11-24T13:00:00.000Z`.
pub(crate) fn time(ms: i64) -> String {
    let since = Duration::from_millis(ms.unsigned_abs());
    let time = if ms < 0 {
        std::time::UNIX_EPOCH.checked_sub(since)
    } else {
        std::time::UNIX_EPOCH.checked_add(since)
    };
    // humantime ends in the year 9999.
    const MS_MAX: i64 = 253_402_300_799_999;
    match time {
        Some(time) if (0..=MS_MAX).contains(&ms) => humantime::format_rfc3339_millis(time).to_string(),
        _ => format!("{ms} ms"),
    }
}

/// Returns a length of time such as `3days` or `2m 30s`.
pub(crate) fn length(ms: u64) -> impl Display {
    humantime::format_duration(Duration::from_millis(ms))
}

/// Returns a size such as `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> impl Display {
    indicatif::HumanBytes(bytes)
}

/// Returns a bar that counts bytes up to `total`, or a spinner; hidden where there is no terminal.
pub(crate) fn progress(total: Option<u64>, noun: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
    let template = match total {
        Some(_) => "{bar:40.cyan/dim} {percent:>3} % {msg} {elapsed_precise} left {eta}",
        None => "{spinner:.cyan} {msg} {elapsed_precise}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar.set_message(noun.to_owned());
    bar
}

/// Asks before something is destroyed, unless `--yes` was given.
///
/// # Errors
///
/// Without a terminal there is nobody to ask.
pub(crate) fn confirm(question: &str, already: bool) -> Result<bool, Failure> {
    if already {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let text = format!("{question} There is no terminal to ask on; give --yes to do it without asking");
        return Err(Failure::new(Exit::Usage, text));
    }
    let _ = write!(anstream::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Returns a field of a JSON object as text for people.
pub(crate) fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns the dialect that a JSON object names, or whose it is else.
pub(crate) fn dialect(value: &Value, otherwise: &str) -> String {
    let named = field(value, "dialect");
    if named.is_empty() { otherwise.to_owned() } else { named }
}

/// Returns a field of a JSON object that counts something.
pub(crate) fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Returns a field of a JSON object that is a list; empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(i64::MAX), format!("{} ms", i64::MAX));
        assert_eq!(time(i64::MIN), format!("{} ms", i64::MIN));
    }
}
