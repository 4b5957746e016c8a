//! The vectors in `vectors/`: answered on columns made of them, and by a broker that has stored them.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::{collections::BTreeSet, path::Path, sync::Arc};

use arrow::{array::AsArray, datatypes::Int64Type};
use futures::TryStreamExt;
use weir_columns::{System, Value};
use weir_engine::{
    Broker, BrokerOptions, Clock, Message, PullColumn, PullRequest, StorageOptions, TopicName, TopicSpec,
    VirtualClock,
};
use weir_filter::Dialect;
use weir_sql_tests::vectors::{self, LIMITS, Line, Properties, system_value};

/// 2026-01-01, UTC.
const START_MS: i64 = 1_767_225_600_000;

fn lines(name: &str) -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    let (lines, malformed) = vectors::read(&path).unwrap();
    assert!(malformed.is_empty(), "{malformed:?}");
    lines
}

const FILES: [&str; 2] = ["rocketmq-sample.jsonl", "jms-sample.jsonl"];

#[test]
fn every_vector_is_answered_as_the_original_does() {
    for file in FILES {
        let lines = lines(file);
        assert_eq!(lines.len(), 420);
        for properties in [Properties::AsGiven, Properties::AsStored] {
            let mismatches = vectors::judge(&lines, properties);
            let shown: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
            assert!(shown.is_empty(), "{properties:?}\n{}", shown.join("\n"));
        }
    }
}

/// A vector with a wrong answer is found, whatever the answer is.
#[test]
fn a_wrong_answer_is_told() {
    for answer in ["match", "nomatch", "unknown", "parse_error", "eval_error"] {
        let mut lines = lines(FILES[0]);
        lines.iter_mut().for_each(|line| line.expect = answer.to_owned());
        let wrong = vectors::judge(&lines, Properties::AsGiven).len();
        assert!(wrong > 200, "{wrong} of {} for {answer}", lines.len());
    }
}

/// All messages of a file lie in one topic, so that each selector meets those of all others.
///
/// A broker stores no control characters, which some vectors have in a value: an empty message lies in
/// their place, and their answer is not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_delivers_what_the_original_does() {
    for file in FILES {
        let lines = lines(file);
        let dialect: Dialect = lines[0].dialect().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = BrokerOptions {
            clock: Arc::new(VirtualClock::new(START_MS)) as Arc<dyn Clock>,
            storage: StorageOptions::small(),
            selector_limits: LIMITS,
            retention_disk_percent: 100,
            ..BrokerOptions::new(dir.path().join("data"))
        };
        let left_out = lines.iter().filter(|line| !is_stored(line)).count();
        assert!(left_out <= 30, "{left_out} of {} hold control characters", lines.len());
        let broker = Broker::open(options.clone()).await.unwrap();
        let topic: TopicName = "vectors".parse().unwrap();
        let spec = TopicSpec { queues: 1, dialect: Some(dialect), ..TopicSpec::default() };
        broker.create_topic(&topic, spec).await.unwrap();
        for some in lines.chunks(32) {
            let stored = |line| if is_stored(line) { message(dialect, line) } else { Message::default() };
            broker.publish(&topic, some.iter().map(stored).collect()).await.unwrap();
        }
        // Live runs first, blocks on the disk after a restart.
        check(&broker, &topic, &lines).await;
        broker.close().await.unwrap();
        let broker = Broker::open(options).await.unwrap();
        check(&broker, &topic, &lines).await;
        broker.close().await.unwrap();
    }
}

fn is_stored(line: &Line) -> bool {
    let values = line.values(Properties::AsStored).unwrap();
    !values.iter().any(|(name, value)| (name.clone() + &value.to_text()).chars().any(char::is_control))
}

async fn check(broker: &Broker, topic: &TopicName, lines: &[Line]) {
    let mut wrong = Vec::new();
    let mut asked: Vec<&str> = Vec::new();
    for line in lines {
        if asked.last() == Some(&&*line.expr) {
            continue;
        }
        asked.push(&line.expr);
        let found = pull(broker, topic, &line.expr).await;
        for (offset, other) in
            (0_i64..).zip(lines).filter(|(_, other)| other.expr == line.expr && is_stored(other))
        {
            let expected = other.expected(Properties::AsStored).deliver;
            let delivered = found.as_ref().is_some_and(|offsets| offsets.contains(&offset));
            if expected != delivered || found.is_none() != (other.expect == "parse_error") {
                wrong.push(format!("{}: expected {expected}, delivered {delivered}", other.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The offsets that a selector lets through; `None` if it is refused.
async fn pull(broker: &Broker, topic: &TopicName, selector: &str) -> Option<BTreeSet<i64>> {
    let request = PullRequest {
        columns: Some(vec![PullColumn("queue_offset".to_owned())]),
        selector: Some(selector.to_owned()),
        ..PullRequest::new(topic.clone())
    };
    let plan = broker.plan_pull(&request).await.ok()?;
    let mut offsets = BTreeSet::new();
    for part in plan.parts {
        let batches: Vec<_> = broker.pull(part).await.unwrap().try_collect().await.unwrap();
        for batch in batches {
            offsets.extend(batch.batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    Some(offsets)
}

fn message(dialect: Dialect, line: &Line) -> Message {
    let mut message = Message::default();
    for (name, value) in line.values(Properties::AsStored).unwrap() {
        match (system_value(dialect, &name), value) {
            (None, value) => message.properties.push((name, value)),
            (Some(System::Tag), value) => message.tag = Some(value.to_text()),
            (Some(System::Keys), value) => {
                message.keys = value.to_text().split(' ').map(str::to_owned).collect();
            }
            (Some(System::MessageId), value) => message.message_id = value.to_text(),
            (Some(System::BornTime), value) => message.born_time_ms = value.to_text().parse().ok(),
            (Some(System::MessageGroup), value) => message.message_group = Some(value.to_text()),
            (Some(other), value) => panic!("{} holds {value:?} for sys.{}", line.id, other.name()),
        }
    }
    message
}

/// What is read of a vector is the number that was written, to the last bit.
#[test]
fn numbers_of_vectors_are_read_exactly() {
    for text in [
        "4.788666270399254E18",
        "7.5364869790729513E18",
        "31.245270191439438",
        "121.48791951161945",
        "1.9999999999999998E23",
        "7.120190517612959e24",
        "0.11350553671408571",
        "100.78399658203125",
    ] {
        let props = format!(r#"{{"x": {{"t": "f64", "v": {text}}}}}"#);
        let line = r#"{"id": "n", "dialect": "jms", "expr": "TRUE", "expect": "match", "deliver": true"#;
        let line = format!(r#"{line}, "props": {props}}}"#);
        let line: Line = serde_json::from_str(&line).unwrap();
        let values = line.values(Properties::AsGiven).unwrap();
        assert_eq!(values, [("x".to_owned(), Value::F64(text.parse().unwrap()))], "{text}");
    }
}
