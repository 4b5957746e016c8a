//! Vectors: selectors of the exact dialects, properties, and what the original evaluator answers.
//!
//! One JSON object a line: `id`, `dialect` (`rocketmq` or `jms`), `expr`, `props`, `expect` (`match`,
//! `nomatch`, `unknown`, `parse_error` or `eval_error`), `deliver`. `props` maps names to strings in
//! `rocketmq` and to `{"t": type, "v": value}` in `jms`, with the types `i32`, `i64`, `f32`, `f64`, `bool`
//! and `str`; floats that JSON has not are the strings `NaN`, `Infinity` and `-Infinity`. `wire_expect` and
//! `wire_deliver` say what RocketMQ's broker answers, where that differs because of how it stores
//! properties.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use weir_columns::{System, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector, Truth,
    oracle::{Row, Shape, VecRows},
};

/// One line.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// A stable name.
    pub id: String,
    /// The dialect by its name.
    pub dialect: String,
    /// The selector.
    pub expr: String,
    /// The properties of the message.
    pub props: Map<String, Json>,
    /// What the evaluator answers.
    pub expect: String,
    /// Whether the message is delivered.
    pub deliver: bool,
    /// `expect` of the properties as RocketMQ stores them, if it differs.
    pub wire_expect: Option<String>,
    /// `deliver` likewise.
    pub wire_deliver: Option<bool>,
    /// What the line shows.
    #[serde(default)]
    pub note: String,
}

/// How properties reach the evaluator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Properties {
    /// As the line gives them.
    AsGiven,
    /// As RocketMQ's broker stores them.
    AsStored,
}

/// A line that was answered differently.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The line.
    pub line: Line,
    /// What was expected.
    pub expected: Outcome,
    /// What was found.
    pub found: Outcome,
    /// What happened besides, such as why the selector was refused.
    pub detail: String,
}

/// The answer to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `match`, `nomatch`, `unknown`, `parse_error` or `eval_error`.
    pub answer: String,
    /// Whether the message is delivered.
    pub deliver: bool,
}

impl Line {
    /// Returns what the original does.
    pub fn expected(&self, properties: Properties) -> Outcome {
        match (properties, &self.wire_expect) {
            (Properties::AsStored, Some(answer)) => {
                Outcome { answer: answer.clone(), deliver: self.wire_deliver.unwrap_or(self.deliver) }
            }
            _ => Outcome { answer: self.expect.clone(), deliver: self.deliver },
        }
    }

    /// Returns the dialect.
    ///
    /// # Errors
    ///
    /// If there is no such dialect.
    pub fn dialect(&self) -> Result<Dialect> {
        Ok(self.dialect.parse()?)
    }

    /// Returns the selector, or why it is refused. Its limits are far beyond those of a broker.
    pub fn selector(&self, dialect: Dialect) -> Result<Selector, weir_filter::SelectorError> {
        Selector::parse(&self.expr, dialect, &LIMITS)
    }

    /// Returns the properties.
    ///
    /// # Errors
    ///
    /// If a value has no type of the format.
    pub fn values(&self, properties: Properties) -> Result<Vec<(String, Value)>> {
        let values = self.props.iter().map(|(name, json)| Ok((name.clone(), value(json)?)));
        let values: Vec<(String, Value)> = values.collect::<Result<_>>()?;
        if properties == Properties::AsGiven || self.dialect != Dialect::RocketMq.name() {
            return Ok(values);
        }
        let text = values.iter().map(|(name, value)| format!("{name}\u{1}{}\u{2}", value.to_text()));
        Ok(stored(&text.collect::<String>()))
    }
}

/// Properties as RocketMQ's broker reads them from their one string: pairs end with U+0002, names with
/// U+0001, and a pair without a name or without a value is no property.
fn stored(text: &str) -> Vec<(String, Value)> {
    let mut values: Vec<(String, Value)> = Vec::new();
    for pair in text.split('\u{2}') {
        if let Some((name, value)) =
            pair.split_once('\u{1}').filter(|(name, value)| !name.is_empty() && !value.is_empty())
        {
            values.retain(|(known, _)| known != name);
            values.push((name.to_owned(), Value::Text(value.to_owned())));
        }
    }
    values
}

/// Far beyond what a broker grants: what the originals take is to be answered.
pub const LIMITS: Limits = Limits {
    text_bytes_max: 1 << 24,
    tokens_max: 1 << 20,
    depth_max: Limits::DEPTH_CEILING,
    list_max: 1 << 20,
    pattern_bytes_max: 1 << 20,
    cost_max: u64::MAX,
};

/// Returns the system value that holds what the dialect calls `name`, if one does.
pub fn system_value(dialect: Dialect, name: &str) -> Option<System> {
    Some(match (dialect, name) {
        (Dialect::RocketMq, "TAGS") => System::Tag,
        (Dialect::RocketMq, "KEYS") => System::Keys,
        (Dialect::RocketMq, "UNIQ_KEY") | (Dialect::Jms, "JMSMessageID") => System::MessageId,
        (Dialect::RocketMq, "BORN_TIMESTAMP") | (Dialect::Jms, "JMSTimestamp") => System::BornTime,
        (Dialect::Jms, "JMSXGroupID") => System::MessageGroup,
        _ => return None,
    })
}

/// Reads the lines of a file, and says which are malformed.
///
/// # Errors
///
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<(Vec<Line>, Vec<String>)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut lines, mut malformed) = (Vec::new(), Vec::new());
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(line) => lines.push(line),
            Err(error) => malformed.push(format!("{}:{}: {error}", path.display(), number + 1)),
        }
    }
    Ok((lines, malformed))
}

fn value(json: &Json) -> Result<Value> {
    if let Json::String(text) = json {
        return Ok(Value::Text(text.clone()));
    }
    let (Some(kind), value) = (json["t"].as_str(), &json["v"]) else {
        bail!("a value without a type: {json}")
    };
    let float = || match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(text) => text.parse().ok(),
        None => value.as_f64(),
    };
    let read = match kind {
        "str" => value.as_str().map(|text| Value::Str(text.to_owned())),
        "bool" => value.as_bool().map(Value::Bool),
        "i32" => value.as_i64().and_then(|value| i32::try_from(value).ok()).map(Value::I32),
        "i64" => value.as_i64().map(Value::I64),
        // The text of the number, so that it is rounded once.
        "f32" => match value.as_number() {
            Some(number) => number.to_string().parse().ok().map(Value::F32),
            None => float().map(|value| Value::F32(value as f32)),
        },
        "f64" => float().map(Value::F64),
        _ => None,
    };
    read.with_context(|| format!("{value} is no {kind}"))
}

/// Answers lines by the path that a broker takes: parse, compile for the columns, evaluate a batch. The
/// rows of lines with one selector share a batch, so that one that fails stands beside others. What cannot
/// be answered, because a value has no type or a batch fails as a whole, is a mismatch too.
pub fn judge(lines: &[Line], properties: Properties) -> Vec<Mismatch> {
    let mut groups: HashMap<(&str, &str), Vec<&Line>> = HashMap::new();
    let mut order = Vec::new();
    for line in lines {
        let key = (&*line.dialect, &*line.expr);
        let group = groups.entry(key).or_default();
        if group.is_empty() {
            order.push(key);
        }
        group.push(line);
    }
    let mut mismatches = Vec::new();
    for (number, key) in order.into_iter().enumerate() {
        let group = &groups[&key];
        if let Err(error) = judge_group(number, group, properties, &mut mismatches) {
            mismatches.extend(group.iter().map(|line| Mismatch {
                line: (*line).clone(),
                expected: line.expected(properties),
                found: Outcome { answer: "none".to_owned(), deliver: false },
                detail: format!("{error:#}"),
            }));
        }
    }
    mismatches
}

fn judge_group(
    number: usize,
    lines: &[&Line],
    properties: Properties,
    mismatches: &mut Vec<Mismatch>,
) -> Result<()> {
    let dialect = lines[0].dialect()?;
    let mut detail = String::new();
    let outcomes = match lines[0].selector(dialect) {
        Err(error) => {
            detail = error.to_string();
            vec![Outcome { answer: "parse_error".to_owned(), deliver: false }; lines.len()]
        }
        Ok(selector) => {
            let rows = lines.iter().map(|line| row(dialect, line, properties)).collect::<Result<Vec<_>>>()?;
            let mut rows = VecRows::new(rows);
            for (place, column) in selector.columns().enumerate() {
                rows = rows.with_shape(column, Shape::ALL[(number + place) % Shape::ALL.len()]);
            }
            let predicate = Predicate::new(&selector);
            let predicate =
                if properties == Properties::AsGiven { predicate.with_values_as_given() } else { predicate };
            let verdicts = predicate.evaluate(&rows, None)?;
            let answer = |row| match verdicts.truth(row) {
                Some(Truth::True) => "match",
                Some(Truth::False) => "nomatch",
                Some(Truth::Unknown) => "unknown",
                None => "eval_error",
            };
            let outcome =
                |row| Outcome { answer: answer(row).to_owned(), deliver: verdicts.matches.value(row) };
            (0..lines.len()).map(outcome).collect()
        }
    };
    for (line, found) in lines.iter().zip(outcomes) {
        let expected = line.expected(properties);
        if expected != found {
            mismatches.push(Mismatch { line: (*line).clone(), expected, found, detail: detail.clone() });
        }
    }
    Ok(())
}

fn row(dialect: Dialect, line: &Line, properties: Properties) -> Result<Row> {
    let mut row = Row::default();
    for (name, value) in line.values(properties)? {
        match (system_value(dialect, &name), value) {
            (Some(system), Value::I32(value)) => row.system.insert(system, Value::I64(i64::from(value))),
            (Some(system), value) => row.system.insert(system, value),
            (None, value) => row.properties.insert(name, value),
        };
    }
    Ok(row)
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, expected, found, detail } = self;
        write!(
            f,
            "{}: {:?} with {}: expected {} (deliver {}), found {} (deliver {}) {detail} [{}]",
            line.id,
            line.expr,
            Json::Object(line.props.clone()),
            expected.answer,
            expected.deliver,
            found.answer,
            found.deliver,
            line.note,
        )
    }
}
