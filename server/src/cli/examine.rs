//! `weir selector explain`, `try` and `diff`: what selectors do on retained messages.

use comfy_table::{Cell, CellAlignment};
use serde_json::{Value, json};
use weir_filter::Dialect;

use super::{
    Failure, Global,
    output::{count, counted, field, list, print_json, print_line, table},
    selector::{On, with_place_in},
};

/// Characters of a body, and of a condition, that a line shows.
const SHOWN: usize = 72;

async fn asked(
    action: &str,
    body: &Value,
    selectors: &[&str],
    on: &On,
    global: &Global,
) -> Result<Value, Failure> {
    let answer = global.connect().await?.action(action, body).await;
    answer.map_err(|error| with_place_in(error.into(), selectors, on.dialect.unwrap_or_default()))
}

pub(super) async fn explain(text: &str, on: &On, analyze: bool, global: &Global) -> Result<(), Failure> {
    let body = json!({
        "topic": on.topic, "selector": text, "dialect": on.dialect.map(Dialect::name), "analyze": analyze,
    });
    let answer = asked("ExplainSelector", &body, &[text], on, global).await?;
    if global.json {
        return print_json(&answer);
    }
    let (rows, judged) = (count(&answer, "rows"), count(&answer, "judged"));
    let how = match answer["complete"].as_bool() {
        Some(true) if analyze => "all were judged".to_owned(),
        Some(true) if judged == rows => "all were judged".to_owned(),
        Some(true) => format!("{judged} were judged to estimate; --analyze judges all"),
        _ => format!("{judged} were judged before time ran out"),
    };
    print_line(&format!(
        "dialect   {}\ncolumns   {}\nretained  {}, {} sealed; {how}\n",
        field(&answer, "dialect"),
        names(&answer["columns"]),
        counted(rows, "message"),
        counted(count(&answer, "blocks"), "block"),
    ))?;
    let mut shown = table(["condition", "true", "unknown", "blocks ruled out", "ms a million"]);
    let columns = answer["whole"]["failed"].as_u64().is_some_and(|failed| failed > 0);
    if columns {
        shown = table(["condition", "true", "unknown", "failed", "blocks ruled out", "ms a million"]);
    }
    let blocks = count(&answer, "blocks");
    each_part(&answer["whole"], "", "", &mut |lead, part| {
        let share = |name: &str| match judged {
            0 => "-".to_owned(),
            judged => format!("{:.3} %", 100.0 * count(part, name) as f64 / judged as f64),
        };
        let mut cells = vec![
            Cell::new(format!("{lead}{}", label(part))),
            right(share("matches")),
            right(share("unknown")),
        ];
        if columns {
            cells.push(right(share("failed")));
        }
        cells.push(right(format!("{} of {blocks}", count(part, "ruled_out"))));
        cells.push(right(part["ms_per_million"].as_f64().map_or("-".to_owned(), |ms| format!("{ms:.1}"))));
        shown.add_row(cells);
    });
    print_line(&shown.to_string())
}

pub(super) async fn try_rows(text: &str, on: &On, limit: usize, global: &Global) -> Result<(), Failure> {
    let body = json!({
        "topic": on.topic, "selector": text, "dialect": on.dialect.map(Dialect::name), "limit": limit,
    });
    let answer = asked("TrySelector", &body, &[text], on, global).await?;
    if global.json {
        return print_json(&answer);
    }
    let rows = list(&answer, "rows");
    if rows.is_empty() {
        let end = if answer["complete"] == true { "" } else { " before time ran out" };
        return print_line(&format!("no message matches{end}"));
    }
    print_rows(rows)?;
    match answer["complete"].as_bool() {
        Some(true) => print_line(&format!("{} in all", counted(rows.len() as u64, "message"))),
        _ => print_line(&format!("the first {}; there may be more", counted(rows.len() as u64, "message"))),
    }
}

pub(super) async fn why(text: &str, on: &On, message: &str, global: &Global) -> Result<(), Failure> {
    let body = json!({
        "topic": on.topic, "selector": text, "dialect": on.dialect.map(Dialect::name), "message": message,
    });
    let answer = asked("WhySelected", &body, &[text], on, global).await?;
    if global.json {
        return print_json(&answer);
    }
    print_rows(std::slice::from_ref(&answer["row"]))?;
    let mut shown = table(["condition", "is", "because of"]);
    each_part(&answer["whole"], "", "", &mut |lead, part| {
        let values = part["values"].as_object().into_iter().flatten();
        let values = values.map(|(name, value)| match value.as_str() {
            Some(value) => format!("{name} = {}", cut(value)),
            None => format!("{name} is missing"),
        });
        let is_whole = part["kind"] != "condition";
        let because = if is_whole { String::new() } else { values.collect::<Vec<_>>().join(", ") };
        shown.add_row([format!("{lead}{}", label(part)), field(part, "truth"), because]);
    });
    print_line(&shown.to_string())
}

pub(super) async fn diff(
    [before, after]: [&str; 2],
    on: &On,
    limit: usize,
    global: &Global,
) -> Result<(), Failure> {
    let body = json!({
        "topic": on.topic, "before": before, "after": after, "dialect": on.dialect.map(Dialect::name), "limit": limit,
    });
    let answer = asked("DiffSelectors", &body, &[before, after], on, global).await?;
    if global.json {
        return print_json(&answer);
    }
    let time = if answer["complete"] == true { "" } else { ", as far as there was time" };
    print_line(&format!(
        "{} retained{time}: both select {}, the second gains {} and loses {}",
        counted(count(&answer, "rows"), "message"),
        count(&answer, "both"),
        count(&answer, "gained"),
        count(&answer, "lost"),
    ))?;
    for (name, title) in [("gained_rows", "gained"), ("lost_rows", "lost")] {
        let rows = list(&answer, name);
        if !rows.is_empty() {
            print_line(&format!("\n{title}:"))?;
            print_rows(rows)?;
        }
    }
    Ok(())
}

fn print_rows(rows: &[Value]) -> Result<(), Failure> {
    let mut shown = table(["message", "tag", "properties", "body"]);
    for row in rows {
        let properties = row["properties"].as_object().into_iter().flatten();
        let properties: Vec<String> = properties
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        shown.add_row([
            format!("{}:{}", field(row, "queue"), field(row, "offset")),
            row["tag"].as_str().unwrap_or_default().to_owned(),
            cut(&properties.join(" ")),
            cut(row["body"].as_str().unwrap_or_default()),
        ]);
    }
    print_line(&shown.to_string())
}

/// Calls `visit` with each part and the lines of a tree that lead to it.
fn each_part(part: &Value, lead: &str, below: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(lead, part);
    let parts = part["parts"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, inner) in parts.iter().enumerate() {
        let (branch, on) = if index + 1 == parts.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        each_part(inner, &format!("{below}{branch}"), &format!("{below}{on}"), visit);
    }
}

fn label(part: &Value) -> String {
    match part["kind"].as_str() {
        Some("condition") | None => cut(part["text"].as_str().unwrap_or_default()),
        Some(kind) => kind.to_uppercase(),
    }
}

/// One line, and not all of a long one.
fn cut(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() { shown + "…" } else { shown }
}

fn names(columns: &Value) -> String {
    let names: Vec<&str> = columns.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
