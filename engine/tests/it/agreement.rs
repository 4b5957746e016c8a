//! A WHERE text that is a selector and SQL alike selects the same rows.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use futures::TryStreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::Value;
use weir_engine::{Broker, EngineError, Message, PullColumn, PullRequest, SqlRequest, TopicName, TopicSpec};

use crate::fixture::Fixture;

const TOPICS: usize = 6;
const ROWS: usize = 300;
const TEXTS: usize = 120;
pub(crate) const NAMES: [&str; 6] = ["a", "b", "Text", "flag", "body", "x.y"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_and_sql_select_the_same_rows() {
    let seed: u64 =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("WEIR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Fixture::new().await;
    let (mut compared, mut selected) = (0, 0);
    for number in 0..TOPICS {
        let topic: TopicName = format!("t{number}").parse().unwrap();
        fill(&fixture.broker, &topic, &mut random).await;
        for _ in 0..TEXTS {
            let text = condition(&mut random, 3);
            let Some(rows) = by_selector(&fixture.broker, &topic, &text).await else { continue };
            // What names no column is left to SQL, where integers wrap around.
            if !NAMES.iter().any(|name| text.contains(name)) {
                continue;
            }
            // In SQL, a property that is called like a system column has another name.
            let sql_text = text.replace("body", "\"prop.body\"");
            let sql = format!("SELECT queue_id, queue_offset FROM {topic} WHERE {sql_text}");
            match by_sql(&fixture.broker, &sql).await {
                Ok(found) => {
                    assert_eq!(found, rows, "WEIR_SEED={seed}: {sql}");
                    compared += 1;
                    selected += usize::from(!rows.is_empty() && rows.len() < ROWS);
                }
                Err(EngineError::Sql(message)) => println!("SQL refuses {text}: {message}"),
                Err(error) => panic!("WEIR_SEED={seed}: {sql}: {error}"),
            }
        }
    }
    println!("{compared} texts compared, {selected} of them select some rows but not all");
    assert!(compared > TOPICS * TEXTS / 2, "too few texts are accepted by both: {compared}");
    assert!(selected > compared / 10, "too few texts select anything: {selected} of {compared}");
}

async fn fill(broker: &Broker, topic: &TopicName, random: &mut StdRng) {
    broker.create_topic(topic, TopicSpec { queues: 2, ..TopicSpec::default() }).await.unwrap();
    // Some columns hold one sort of value, so that they get a type; others hold anything.
    let sorts: Vec<usize> = NAMES.iter().map(|_| random.random_range(0..SORTS)).collect();
    for _ in 0..6 {
        let messages = (0..ROWS / 6)
            .map(|_| {
                let mut properties = Vec::new();
                for (name, sort) in NAMES.iter().zip(&sorts) {
                    if random.random_bool(0.8) {
                        properties.push(((*name).to_owned(), value(random, *sort)));
                    }
                }
                Message {
                    properties,
                    tag: random.random_bool(0.5).then(|| "red".to_owned()),
                    ..Message::default()
                }
            })
            .collect();
        broker.publish(topic, messages).await.unwrap();
    }
    // Each name is a column, so that SQL knows it.
    let all =
        NAMES.iter().zip(&sorts).map(|(name, sort)| ((*name).to_owned(), value(random, *sort))).collect();
    let last = broker.publish(topic, vec![Message { properties: all, ..Message::default() }]).await.unwrap();
    visible(broker, topic, &last).await;
}

/// Waits until readers see what was published.
async fn visible(broker: &Broker, topic: &TopicName, published: &[weir_engine::Published]) {
    let is_seen = || {
        let queues = broker.topic(topic).unwrap().queues;
        published
            .iter()
            .all(|row| queues.iter().any(|queue| queue.queue == row.queue && row.offset < queue.end))
    };
    while !is_seen() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

pub(crate) const SORTS: usize = 8;

pub(crate) fn value(random: &mut StdRng, sort: usize) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    match sort {
        0 => Value::Text(random.random_range(-5..6).to_string()),
        1 => text(["1.5", "2", "-0.5", "1e1", "3.0"].choose(random).unwrap()),
        2 => text(
            ["5", "05", "+5", " 5", "5.0", "5.", ".5", "5d", "0x5", "NaN", "9223372036854775808"]
                .choose(random)
                .unwrap(),
        ),
        3 => text(["a", "b%", "a_c", "it's", "", "B", "é", "a\\b"].choose(random).unwrap()),
        4 => Value::Bool(random.random_bool(0.5)),
        5 => match random.random_range(0..4) {
            0 => Value::I32(random.random_range(-5..6)),
            1 => Value::I64(*[i64::MAX, i64::MIN, 0, 3].choose(random).unwrap()),
            2 => Value::F64(*[f64::NAN, f64::INFINITY, 0.5, -0.0, 1e300].choose(random).unwrap()),
            _ => Value::F32(*[0.1, 5.0].choose(random).unwrap()),
        },
        6 => text(["true", "FALSE", "True", "yes", "1"].choose(random).unwrap()),
        _ => {
            let sort = random.random_range(0..7);
            match value(random, sort) {
                Value::Text(text) if random.random_bool(0.2) => Value::Str(text),
                value => value,
            }
        }
    }
}

pub(crate) fn condition(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 || random.random_bool(0.3) {
        return predicate(random);
    }
    match random.random_range(0..4) {
        0 => format!("{} AND {}", condition(random, depth - 1), condition(random, depth - 1)),
        1 => format!("{} or {}", condition(random, depth - 1), condition(random, depth - 1)),
        2 => format!("({})", condition(random, depth - 1)),
        _ => format!("NOT {}", condition(random, depth - 1)),
    }
}

fn predicate(random: &mut StdRng) -> String {
    let not = if random.random_bool(0.3) { "NOT " } else { "" };
    match random.random_range(0..20) {
        14 => format!("{}{}{}", text(random, 2), comparison(random), literal(random)),
        15 => format!("{}{}{}", number(random, 2), comparison(random), number(random, 1)),
        16 => format!("{}{}{}", text(random, 2), equality(random), text(random, 1)),
        17 => format!(
            "{} IS {not}NULL",
            if random.random_bool(0.5) { text(random, 2) } else { number(random, 2) }
        ),
        18 => format!("{} {not}LIKE 'a%'", text(random, 2)),
        19 => format!("{} {not}REGEXP '^[a-z]'", text(random, 1)),
        10 => format!("({}) IS {not}NULL", condition(random, 1)),
        11 => format!("({}){}({})", condition(random, 1), equality(random), condition(random, 1)),
        12 => format!("({}){}{}", predicate(random), equality(random), name(random)),
        13 => name(random).to_owned(),
        0..4 => format!("{}{}{}", operand(random, 2), comparison(random), operand(random, 2)),
        4 => format!("{} {not}BETWEEN {} AND {}", operand(random, 1), operand(random, 1), operand(random, 1)),
        5 => format!(
            "{} {not}IN ({}, {}, {})",
            name(random),
            literal(random),
            literal(random),
            literal(random)
        ),
        6 => {
            let pattern = ["a%", "%", "a!_c", "_", "b!%", "a\\b", "a\\%", "%'%", "", "%%", "!!", "__%"]
                .choose(random)
                .unwrap();
            let escape = ["", " ESCAPE '!'", " ESCAPE '\\'"].choose(random).unwrap();
            format!("{} {not}LIKE '{}'{escape}", name(random), pattern.replace('\'', "''"))
        }
        7 => format!("{} IS {not}NULL", operand(random, 1)),
        8 => format!("sys.tag {} 'red'", comparison(random)),
        _ => format!("{} = {}", name(random), if random.random_bool(0.5) { "TRUE" } else { "false" }),
    }
}

/// A value that functions make of text.
fn text(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        return name(random).to_owned();
    }
    let inner = text(random, depth - 1);
    match random.random_range(0..8) {
        0 => format!("upper({inner})"),
        1 => format!("LOWER( {inner} )"),
        2 => format!("TRIM({inner})"),
        3 => format!("substring({inner}, 2)"),
        4 => format!("SUBSTRING({inner} FROM 1 FOR {})", number(random, 1)),
        5 => format!("concat({inner}, '-', {})", name(random)),
        6 => format!("coalesce({inner}, {})", literal(random)),
        _ => format!("nullif({inner}, {})", literal(random)),
    }
}

/// A value that functions make of numbers.
fn number(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        return operand(random, 1);
    }
    let inner = number(random, depth - 1);
    match random.random_range(0..7) {
        0 => format!("abs({inner})"),
        1 => format!("FLOOR({inner})"),
        2 => format!("ceil({inner})"),
        3 => format!("round({inner})"),
        4 => format!("length({})", text(random, depth - 1)),
        5 => format!("coalesce({inner}, 0)"),
        _ => inner,
    }
}

fn equality(random: &mut StdRng) -> &'static str {
    [" = ", " <> "].choose(random).unwrap()
}

fn comparison(random: &mut StdRng) -> &'static str {
    ["=", " <> ", "!=", " < ", "<=", " > ", ">= /* so */ "].choose(random).unwrap()
}

fn operand(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 || random.random_bool(0.5) {
        return if random.random_bool(0.6) { name(random).to_owned() } else { literal(random) };
    }
    let operator = ["+", " - ", "*", " / ", " % "].choose(random).unwrap();
    match random.random_range(0..5) {
        3 => format!("+{}", name(random)),
        4 => format!("-(-{})", operand(random, depth - 1)),
        0 => format!("({}{operator}{})", operand(random, depth - 1), operand(random, depth - 1)),
        1 => format!("- {}", operand(random, depth - 1)),
        _ => format!("{}{operator}{}", operand(random, depth - 1), operand(random, depth - 1)),
    }
}

fn name(random: &mut StdRng) -> &'static str {
    ["a", "b", "\"Text\"", "Text", "flag", "body", "x.y", "\"x.y\"", "a", "b"].choose(random).unwrap()
}

fn literal(random: &mut StdRng) -> String {
    (*[
        "0",
        "1",
        "5",
        "-3",
        "0x5",
        "1.5",
        ".5",
        "1e1",
        "9223372036854775807",
        "'5'",
        "'a'",
        "''",
        "'it''s'",
        "'b%'",
        "'a\\b'",
        "2",
        "3",
        "0.0",
        "'05'",
        "'true'",
        "1E-1",
        "2.5e+0",
        "-0.0",
        "5.",
        "'5.0'",
        "'1e1'",
        "TRUE",
        "false",
    ]
    .choose(random)
    .unwrap())
    .to_owned()
}

pub(crate) type Found = BTreeSet<(i32, i64)>;

async fn by_selector(broker: &Broker, topic: &TopicName, text: &str) -> Option<Found> {
    let request = PullRequest {
        selector: Some(text.to_owned()),
        columns: Some(vec![PullColumn("queue_id".to_owned()), PullColumn("queue_offset".to_owned())]),
        ..PullRequest::new(topic.clone())
    };
    let plan = match broker.plan_pull(&request).await {
        Ok(plan) => plan,
        Err(EngineError::Selector(_)) => return None,
        Err(error) => panic!("{text}: {error}"),
    };
    let mut found = Found::new();
    for part in plan.parts {
        let batches: Vec<_> = broker.pull(part).await.unwrap().try_collect().await.unwrap();
        batches.iter().for_each(|batch| add(&mut found, &batch.batch));
    }
    Some(found)
}

/// Returns the rows of topic `t`, by queue and offset, for which SQL says that a selector's text is TRUE.
pub(crate) async fn truth(broker: &Broker, text: &str) -> Result<BTreeSet<(u32, u64)>, EngineError> {
    // In SQL, a property that is called like a system column has another name.
    let text = text.replace("body", "\"prop.body\"");
    let found = by_sql(broker, &format!("SELECT queue_id, queue_offset FROM t WHERE {text}")).await?;
    Ok(found.into_iter().map(|(queue, offset)| (queue as u32, offset as u64)).collect())
}

async fn by_sql(broker: &Broker, sql: &str) -> Result<Found, EngineError> {
    let plan = broker.plan_sql(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() }).await?;
    let (_, batches) = broker.run_sql(plan.ticket).await?;
    let batches: Vec<_> = batches.try_collect().await?;
    let mut found = Found::new();
    batches.iter().for_each(|batch| add(&mut found, batch));
    Ok(found)
}

fn add(found: &mut Found, batch: &arrow_array::RecordBatch) {
    let queues = batch.column(0).as_primitive::<Int32Type>();
    let offsets = batch.column(1).as_primitive::<Int64Type>();
    found.extend(queues.values().iter().copied().zip(offsets.values().iter().copied()));
}
