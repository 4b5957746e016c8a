//! Every example of `docs/sql.md` is true.

use std::{fs, path::Path, sync::Arc};

use weir_columns::{System, Value};
use weir_filter::{
    Dialect, Limits, Parameters, Predicate, Selector, SelectorError, Truth,
    oracle::{Oracle, Row, VecRows},
    read_value,
};

/// When the scans of the examples begin: 2026-01-02T03:04:05Z.
const NOW_MS: i64 = 1_767_323_045_000;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sql.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of one language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let starts = document.match_indices(&fence).map(|(at, fence)| at + fence.len());
    starts.map(|start| document[start..].split_once("```").expect("fences are closed").0).collect()
}

fn parse(text: &str) -> Result<Selector, SelectorError> {
    Selector::parse(text, Dialect::Sql92, &Limits::default())
}

#[test]
fn selectors_are_accepted() {
    let document = document();
    let selectors: Vec<&str> =
        blocks(&document, "sql").into_iter().flat_map(str::lines).filter(|line| !line.is_empty()).collect();
    assert!(selectors.len() >= 6);
    for selector in selectors {
        if let Err(error) = parse(selector) {
            panic!("{}", error.report(selector));
        }
    }
}

/// `{name: value, …}   selector   ANSWER`
#[test]
fn answers_are_right() {
    let document = document();
    let lines: Vec<&str> = blocks(&document, "answers").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() >= 60, "{}", lines.len());
    for line in lines {
        // The braces of a body lie within those of the message, behind which there is a blank.
        let end = line.find("} ").expect("a message in braces comes first");
        let (message, rest) = (&line[..end], &line[end + 1..]);
        let (selector, answer) = rest.trim().rsplit_once(' ').expect("an answer comes last");
        let row = row(message.strip_prefix('{').expect("a message in braces comes first"));
        let expected = match answer {
            "TRUE" => Truth::True,
            "FALSE" => Truth::False,
            "UNKNOWN" => Truth::Unknown,
            other => panic!("{other} is no answer in {line}"),
        };
        let selector =
            parse(selector.trim()).unwrap_or_else(|error| panic!("{}", error.report(selector.trim())));
        let rows = VecRows::new(vec![row]);
        let verdicts = Arc::new(Predicate::new(&selector)).at(NOW_MS).evaluate(&rows, None).unwrap();
        assert_eq!(verdicts.truth(0), Some(expected), "{line}");
        let Ok(plain) = Oracle::new(&selector).at(NOW_MS).truth(&rows, 0);
        assert_eq!(plain, expected, "{line}");
    }
}

/// `| message | selector | answer | answer | answer | note |`, one answer a dialect.
#[test]
fn dialects_answer_as_the_table_says() {
    let document = document();
    let table = document.split_once("\n## The exact dialects\n").expect("there is such a section").1;
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `{")) {
        rows += 1;
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let (message, selector) = (cells[0].trim_matches('`'), cells[1].trim_matches('`'));
        let row = row(message.trim_matches(['{', '}']));
        let answers = Dialect::ALL.map(|dialect| {
            let Ok(selector) = Selector::parse(selector, dialect, &Limits::default()) else {
                return "refused";
            };
            let verdicts =
                Predicate::new(&selector).evaluate(&VecRows::new(vec![row.clone()]), None).unwrap();
            match verdicts.truth(0) {
                Some(Truth::True) => "TRUE",
                Some(Truth::False) => "FALSE",
                Some(Truth::Unknown) => "UNKNOWN",
                None => "fails",
            }
        });
        if answers != cells[2..5] {
            wrong.push(format!("{line}\n  is {answers:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 80, "{rows}");
}

fn row(text: &str) -> Row {
    let mut row = Row::default();
    // A body has commas of its own, so it stands alone.
    if let Some(body) = text.strip_prefix("body of ") {
        row.body = Some(body.as_bytes().to_vec());
        return row;
    }
    for entry in text.split(", ").filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once(": ").expect("a value follows its name");
        match name.strip_prefix("sys.").and_then(System::from_name) {
            Some(system) => drop(row.system.insert(system, self::value(value))),
            None => drop(row.properties.insert(name.to_owned(), self::value(value))),
        }
    }
    row
}

fn value(text: &str) -> Value {
    let quoted = |text: &str| Some(text.strip_prefix('\'')?.strip_suffix('\'')?.to_owned());
    if let Some(untyped) = quoted(text) {
        return Value::Text(untyped);
    }
    if let Some(string) = text.strip_prefix("str ").and_then(quoted) {
        return Value::Str(string);
    }
    if let Some(number) = text.strip_prefix("i32 ") {
        return Value::I32(number.parse().expect("a number"));
    }
    if let Some(number) = text.strip_prefix("f32 ") {
        return Value::F32(number.parse().expect("a number"));
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        number if number.contains('.') => Value::F64(number.parse().expect("a number")),
        number => Value::I64(number.parse().expect("a number")),
    }
}

#[test]
fn refusals_are_shown_as_they_are() {
    let document = document();
    let reports = blocks(&document, "refused");
    assert!(reports.len() >= 6);
    for report in reports {
        let text =
            report.lines().find_map(|line| line.strip_prefix("  | ")).expect("a report shows the text");
        let error = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(error.report(text), report.trim_end());
    }
}

/// `selector   value, value   selector`, three or more blanks apart.
#[test]
fn parameters_are_bound_as_shown() {
    let document = document();
    let limits = Limits::default();
    let lines: Vec<&str> = blocks(&document, "parameters").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() >= 5);
    for line in lines {
        let cells: Vec<&str> = line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let [text, values, expected] = cells[..] else { panic!("three columns in {line}") };
        let values = values.split(", ");
        let parameters = if text.contains(':') {
            let pairs = values.map(|value| value.split_once('=').expect("NAME=VALUE"));
            Parameters::Named(pairs.map(|(name, value)| (name.to_owned(), read_value(value))).collect())
        } else {
            Parameters::Positional(values.map(read_value).collect())
        };
        let bound = parameters.bind(text, &limits).unwrap_or_else(|error| panic!("{}", error.report(text)));
        assert_eq!(bound.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        parse(&bound).unwrap_or_else(|error| panic!("{}", error.report(&bound)));
    }
}

#[test]
fn system_values_and_limits_are_all_there() {
    let document = document();
    for system in System::ALL {
        let kind = if system.is_int() { "an integer" } else { "a string" };
        let row = format!("| `sys.{}` | {kind} |", system.name());
        assert!(document.contains(&row), "{row}");
    }
    let limits = Limits::default();
    for row in [
        format!("| text | {} bytes |", thousands(limits.text_bytes_max)),
        format!("| words and symbols | {} |", thousands(limits.tokens_max)),
        format!("| nested parentheses | {} |", thousands(limits.depth_max)),
        format!("| entries of a list | {} |", thousands(limits.list_max)),
        format!("ENDSWITH | {} bytes |", thousands(limits.pattern_bytes_max)),
        format!("| cost | {} |", thousands(limits.cost_max as usize)),
    ] {
        assert!(document.contains(&row), "{row}");
    }
}

#[test]
fn functions_are_all_there() {
    let document = document();
    for name in weir_filter::function_names() {
        assert!(document.contains(&format!("`{name}")), "{name}");
    }
}

fn thousands(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}
