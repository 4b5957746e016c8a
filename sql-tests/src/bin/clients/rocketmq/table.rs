//! `docs/clients.md`: which client does what. It is made from what a run of the checks came to.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Column,
    feature::{Feature, Known},
};
use crate::Outcome;

/// What the page says of the clients that are not run.
const REPLAYED: &str = "\n## C++ and C#\n\n\
    These two clients are not run: they are in no package that the tests can install. Instead their calls, read off their\n\
    sources in [apache/rocketmq-clients](https://github.com/apache/rocketmq-clients) of summer 2026, are replayed against the\n\
    binary by `cargo test -p weir-server --test it replay`: the headers and signatures, the start, messages of every type with both\n\
    ends of a transaction and the broker's question, filters, simple and push consumers, retries up to the dead letter, FIFO\n\
    groups, the crash of the broker, and the good-bye. Each step asserts what the client looks at in the answer. What a\n\
    build of these clients does besides, nobody has seen.\n";

/// Checks that the page says what came out, or writes it.
pub(super) fn check(columns: &[Column], write: bool) -> Outcome {
    let failed =
        |column: &Column| column.cells.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    if columns.iter().any(failed) {
        return Outcome::Skipped("checks have failed".to_owned());
    }
    let page = page(columns);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
    let outcome = if write { std::fs::write(&file, &page).map(|()| true) } else { equals(&file, &page) };
    match outcome {
        Ok(true) => Outcome::Passed,
        Ok(false) => Outcome::Failed(
            "says something else than this run; `cargo xtask clients-table` writes it".to_owned(),
        ),
        Err(error) => Outcome::Failed(format!("cannot be read or written: {error}")),
    }
}

fn equals(file: &Path, page: &str) -> std::io::Result<bool> {
    Ok(std::fs::read_to_string(file)? == page)
}

fn page(columns: &[Column]) -> String {
    let mut page = String::from(
        "# What each client does\n\n\
         The official clients of RocketMQ 5, unmodified, against the binary. `cargo xtask test` runs every check and\n\
         compares this page with what came out; `cargo xtask clients-table` writes it. ✓ is a check that passed, ✗ one\n\
         that fails because of the client, – a feature that the client does not have.\n\n",
    );
    let mut notes: Vec<&str> = Vec::new();
    page.push_str("| |");
    for Column { client, version, .. } in columns {
        let _ = write!(page, " {} {version} |", client.label);
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(columns.len()));
    page.push('\n');
    for feature in Feature::ALL {
        let _ = write!(page, "| {} |", feature.name());
        for column in columns {
            let _ = write!(page, " {} |", cell(column, feature, &mut notes));
        }
        page.push('\n');
    }
    page.push('\n');
    for (place, note) in notes.iter().enumerate() {
        let (first, rest) = note.split_at(1);
        let _ = writeln!(page, "{}. {}{rest}.", place + 1, first.to_uppercase());
    }
    page.push_str("\n## What is checked\n\n| | |\n|---|---|\n");
    for feature in Feature::ALL {
        let _ = writeln!(page, "| {} | {} |", feature.name(), feature.about());
    }
    page.push_str(REPLAYED);
    page
}

/// Returns the mark of a cell with the number of its note.
fn cell(column: &Column, feature: Feature, notes: &mut Vec<&'static str>) -> String {
    let known = feature.known(column.client.name);
    let mark = match known {
        Some(Known::NotOffered(_)) => "–",
        Some(Known::Defect(_)) => "✗",
        Some(Known::Note(_)) | None => "✓",
    };
    let Some(known) = known else { return mark.to_owned() };
    let place = notes.iter().position(|note| *note == known.text()).unwrap_or_else(|| {
        notes.push(known.text());
        notes.len() - 1
    });
    format!("{mark} [{}]", place + 1)
}
