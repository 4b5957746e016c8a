//! Batch pull as callers of the engine use it.

use std::collections::BTreeMap;

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Int32Type, Int64Type},
};
use arrow_schema::DataType;
use futures::TryStreamExt;
use weir_columns::Value;
use weir_engine::{
    Broker, ColumnType, EngineError, Message, PullBatch, PullColumn, PullFrom, PullPart, PullRequest, PullTo,
    QueueId, QueueOffset, SqlRequest,
};

use crate::fixture::{Fixture, START_MS, topic};

async fn filled(count: i64) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.topic(1).await;
    add(&fixture.broker, 0..count).await;
    fixture
}

async fn add(broker: &Broker, numbers: std::ops::Range<i64>) {
    let message = |n: i64| Message {
        message_id: format!("id-{n}"),
        tag: (n % 2 == 0).then(|| "even".to_owned()),
        keys: vec![format!("k{n}"), "all".to_owned()],
        properties: vec![
            ("n".to_owned(), Value::Text(n.to_string())),
            ("body".to_owned(), Value::Text("a property".to_owned())),
            ("odd".to_owned(), Value::Text(if n % 10 == 0 { "05" } else { "x" }.to_owned())),
        ],
        body: format!("body {n}").into(),
        born_time_ms: Some(START_MS - 5),
        ..Message::default()
    };
    let published = broker.publish(&topic("t"), numbers.map(message).collect()).await.unwrap();
    let end = published.last().unwrap().offset;
    while broker.topic(&topic("t")).unwrap().queues[0].end <= end {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_pull_has_the_moment_when_it_was_planned() {
    let fixture = filled(10).await;
    let selector = "sys.born_time > NOW() - INTERVAL '1' SECOND";
    let part = part(&fixture.broker, &request(&["n"], selector)).await.unwrap();
    fixture.advance(3600);
    for _ in 0..2 {
        let batches: Vec<PullBatch> =
            fixture.broker.pull(part.clone()).await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 10);
    }
    let late = self::part(&fixture.broker, &request(&["n"], selector)).await.unwrap();
    let batches: Vec<PullBatch> = fixture.broker.pull(late).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 0);
}

#[tokio::test]
async fn selectors_and_queries_look_into_bodies() {
    let fixture = Fixture::new().await;
    fixture.topic(1).await;
    let packed = [
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 202, 83, 178, 50, 215, 81, 42, 72, 76, 206, 78, 77, 81,
        178, 42, 41, 42, 77, 173, 5, 0, 75, 140, 181, 89, 21, 0, 0, 0,
    ];
    let body = |n: usize| match n {
        7 => Message {
            body: packed.to_vec().into(),
            body_encoding: weir_engine::BodyEncoding::Gzip,
            ..Message::default()
        },
        n => Message { body: format!("{{\"n\":{n},\"packed\":false}}").into(), ..Message::default() },
    };
    let messages = (0..10)
        .map(|n| Message { properties: vec![("n".to_owned(), Value::Text(n.to_string()))], ..body(n) });
    fixture.broker.publish(&topic("t"), messages.collect()).await.unwrap();
    while fixture.broker.topic(&topic("t")).unwrap().queues[0].end.0 < 10 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for (text, rows) in [
        ("JSON_VALUE(body, '$.n') >= 7", 3),
        ("JSON_VALUE(body, '$.packed') AND n > 2", 1),
        ("n < 5 OR JSON_VALUE(body, '$.packed') = TRUE", 6),
    ] {
        let part = part(&fixture.broker, &request(&["n"], text)).await.unwrap();
        let batches: Vec<PullBatch> = fixture.broker.pull(part).await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), rows, "{text}");
        let sql = format!("SELECT queue_offset FROM t WHERE ({text}) AND queue_id = 0");
        let plan = fixture.broker.plan_sql(SqlRequest { sql, ..SqlRequest::default() }).await.unwrap();
        let (_, batches) = fixture.broker.run_sql(plan.ticket).await.unwrap();
        let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{text}");
    }
    let sql = "SELECT json_value(body, '$.n') FROM t".to_owned();
    let error = fixture.broker.plan_sql(SqlRequest { sql, ..SqlRequest::default() }).await.unwrap_err();
    assert!(error.to_string().contains("function of selectors"), "{error}");
    assert_eq!(fixture.receive("JSON_VALUE(body, '$.n') >= 7").await.len(), 3);
}

fn request(columns: &[&str], selector: &str) -> PullRequest {
    PullRequest {
        columns: Some(columns.iter().map(|name| PullColumn((*name).to_owned())).collect()),
        selector: (!selector.is_empty()).then(|| selector.to_owned()),
        ..PullRequest::new(topic("t"))
    }
}

async fn part(broker: &Broker, request: &PullRequest) -> Result<PullPart, EngineError> {
    let mut plan = broker.plan_pull(request).await?;
    assert_eq!(plan.parts.len(), 1);
    Ok(plan.parts.remove(0))
}

async fn pull(broker: &Broker, part: PullPart) -> Result<Vec<PullBatch>, EngineError> {
    broker.pull(part).await?.try_collect().await
}

async fn rows(broker: &Broker, request: &PullRequest) -> Result<RecordBatch, EngineError> {
    let plan = broker.plan_pull(request).await?;
    let mut batches = Vec::new();
    for part in plan.parts {
        batches.extend(pull(broker, part).await?.into_iter().map(|batch| batch.batch));
    }
    Ok(arrow::compute::concat_batches(&plan.schema, &batches).unwrap())
}

fn numbers(batch: &RecordBatch, column: usize) -> Vec<i64> {
    batch.column(column).as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_columns_has_the_nine_default_ones() {
    let fixture = filled(3).await;
    let request = PullRequest::new(topic("t"));
    let plan = fixture.broker.plan_pull(&request).await.unwrap();
    assert_eq!((plan.rows, &plan.ranges), (Some(3), &BTreeMap::from([(0, (0, 3))])));
    let batch = rows(&fixture.broker, &request).await.unwrap();
    assert_eq!(batch.schema(), plan.schema);
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let expected = [
        "queue_id",
        "queue_offset",
        "store_time",
        "born_time",
        "msg_id",
        "tags",
        "msg_keys",
        "body",
        "properties",
    ];
    assert_eq!(names, expected);
    assert_eq!(batch.column(0).as_primitive::<Int32Type>().value(2), 0);
    assert_eq!(numbers(&batch, 1), [0, 1, 2]);
    assert_eq!(batch.column(4).as_string::<i32>().value(1), "id-1");
    assert!(batch.column(5).is_null(1) && batch.column(5).is_valid(2));
    assert_eq!(batch.column(6).as_string::<i32>().value(1), "k1 all");
    assert_eq!(batch.column(7).as_binary::<i32>().value(2), b"body 2");
    let properties = batch.column(8).as_map().value(2);
    assert_eq!(properties.column(0).as_string::<i32>().value(0), "n");
    assert_eq!(properties.column(1).as_string::<i32>().value(0), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_are_typed_columns() {
    let fixture = filled(21).await;
    let mut wanted = request(&["n", "odd", "prop.body", "body", "sys.body_size"], "n >= 19");
    let batch = rows(&fixture.broker, &wanted).await.unwrap();
    let types: Vec<_> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8, DataType::Utf8, DataType::Binary, DataType::Int64]);
    assert_eq!(numbers(&batch, 0), [19, 20]);
    assert_eq!(batch.column(2).as_string::<i32>().value(0), "a property");
    assert_eq!(numbers(&batch, 4), [7, 7]);
    wanted.types =
        BTreeMap::from([("odd".to_owned(), ColumnType::Int64), ("n".to_owned(), ColumnType::Float64)]);
    let batch = rows(&fixture.broker, &wanted).await.unwrap();
    assert_eq!(batch.schema().field(0).data_type(), &DataType::Float64);
    let odd = batch.column(1).as_primitive::<Int64Type>();
    assert!(odd.is_null(0), "x is no number");
    assert_eq!(odd.value(1), 5);
    let error = rows(&fixture.broker, &request(&["queue_of"], "")).await.unwrap_err();
    assert!(error.to_string().contains("there is no column"), "{error}");
    let error = rows(&fixture.broker, &request(&["n", "n"], "")).await.unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_batch_says_how_far_the_scan_came() {
    let fixture = filled(100).await;
    let batches = pull(&fixture.broker, part(&fixture.broker, &request(&["n"], "n < 10")).await.unwrap())
        .await
        .unwrap();
    let last = batches.last().unwrap();
    assert_eq!((last.batch.num_rows(), last.next, last.high), (0, QueueOffset(100), QueueOffset(100)));
    let nothing =
        pull(&fixture.broker, part(&fixture.broker, &request(&["n"], "n < 0")).await.unwrap()).await.unwrap();
    assert_eq!(nothing.len(), 1);
    assert_eq!(nothing[0].next, QueueOffset(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_gives_the_same_rows_again_and_its_batches_join() {
    let mut fixture = filled(100).await;
    let mut wanted = request(&["queue_offset", "body"], "n >= 50");
    wanted.batch_rows = 7;
    let part = part(&fixture.broker, &wanted).await.unwrap();
    let text = serde_json::to_string(&part).unwrap();
    let before = pull(&fixture.broker, part).await.unwrap();
    add(&fixture.broker, 100..120).await;
    fixture.restart().await;
    let after = pull(&fixture.broker, serde_json::from_str(&text).unwrap()).await.unwrap();
    let batches = |pulled: &[PullBatch]| pulled.iter().map(|batch| batch.batch.clone()).collect::<Vec<_>>();
    assert_eq!(batches(&before), batches(&after));
    assert_eq!(before[0].batch.num_rows(), 7);
    for pair in before.windows(2) {
        assert_eq!(pair[0].next, pair[1].base);
    }
    assert_eq!(before.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_end_a_pull_where_it_can_go_on() {
    let fixture = filled(100).await;
    let mut wanted = request(&["n"], "n % 2 = 0");
    wanted.max_rows = Some(5);
    let first = pull(&fixture.broker, part(&fixture.broker, &wanted).await.unwrap()).await.unwrap();
    let next = first.last().unwrap().next;
    assert_eq!(numbers(&first[0].batch, 0), [0, 2, 4, 6, 8]);
    wanted.from = PullFrom::Offsets(BTreeMap::from([(0, next.0)]));
    let second = pull(&fixture.broker, part(&fixture.broker, &wanted).await.unwrap()).await.unwrap();
    assert_eq!(numbers(&second[0].batch, 0), [10, 12, 14, 16, 18]);
    wanted.max_rows = Some(0);
    let none = pull(&fixture.broker, part(&fixture.broker, &wanted).await.unwrap()).await.unwrap();
    assert_eq!((none.len(), none[0].next), (1, next));
    let mut bytes = request(&["body"], "");
    bytes.max_bytes = Some(1);
    let some = rows(&fixture.broker, &bytes).await.unwrap();
    assert!((1..100).contains(&some.num_rows()), "{}", some.num_rows());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_offsets_times_or_groups() {
    let fixture = filled(10).await;
    fixture.advance(60);
    add(&fixture.broker, 10..20).await;
    let ranged = |from: PullFrom, to: PullTo| {
        let wanted = PullRequest { from, to, ..request(&["n"], "") };
        async {
            let wanted = wanted;
            rows(&fixture.broker, &wanted).await.map(|batch| numbers(&batch, 0))
        }
    };
    let offsets = |queue: u32, offset: u64| BTreeMap::from([(queue, offset)]);
    let all: Vec<i64> = (0..20).collect();
    assert_eq!(ranged(PullFrom::Earliest, PullTo::Snapshot).await.unwrap(), all);
    assert!(ranged(PullFrom::Latest, PullTo::Snapshot).await.unwrap().is_empty());
    assert_eq!(ranged(PullFrom::Timestamp(START_MS + 1000), PullTo::Snapshot).await.unwrap(), &all[10..]);
    assert_eq!(ranged(PullFrom::Earliest, PullTo::Timestamp(START_MS + 1000)).await.unwrap(), &all[..10]);
    assert_eq!(ranged(PullFrom::Timestamp(START_MS), PullTo::Timestamp(i64::MAX)).await.unwrap(), all);
    assert_eq!(
        ranged(PullFrom::Offsets(offsets(0, 3)), PullTo::Offsets(offsets(0, 5))).await.unwrap(),
        [3, 4]
    );
    for (from, to) in [
        (PullFrom::Offsets(offsets(0, 21)), PullTo::Snapshot),
        (PullFrom::Earliest, PullTo::Offsets(offsets(0, 21))),
    ] {
        let error = ranged(from, to).await.unwrap_err();
        assert!(matches!(error, EngineError::OffsetOutOfRange { .. }), "{error}");
    }
    let error = ranged(PullFrom::Offsets(offsets(1, 0)), PullTo::Snapshot).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    let wanted = PullRequest { queues: Some(vec![QueueId(1)]), ..request(&["n"], "") };
    assert!(matches!(rows(&fixture.broker, &wanted).await, Err(EngineError::QueueNotFound { .. })));
    let delivered = fixture.receive("TRUE").await;
    assert!(fixture.ack(&delivered).await.iter().all(Result::is_ok));
    let group = PullFrom::Group(crate::fixture::group("g"));
    assert_eq!(ranged(group, PullTo::Snapshot).await.unwrap(), &all[delivered.len()..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_time_is_refused() {
    let fixture = filled(10).await;
    let good = part(&fixture.broker, &request(&["n"], "")).await.unwrap();
    let beyond = PullPart { to: QueueOffset(11), ..good.clone() };
    let error = pull(&fixture.broker, beyond).await.unwrap_err();
    assert!(matches!(error, EngineError::OffsetOutOfRange { .. }), "{error}");
    fixture.broker.delete_topic(&topic("t")).await.unwrap();
    assert!(pull(&fixture.broker, good).await.is_err());
}
