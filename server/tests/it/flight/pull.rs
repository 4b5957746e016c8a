//! Native batch pull.

use arrow_array::cast::AsArray as _;
use arrow_flight::Criteria;
use arrow_schema::{DataType, TimeUnit};
use weir_server::flight::command::{EndOfStream, PullCommand};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_path_reads_the_whole_topic_with_an_endpoint_a_queue() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let info = weir.info(FlightDescriptor::new_path(vec!["orders".into()])).await.unwrap();
    assert_eq!((info.endpoint.len(), info.total_records, info.ordered), (2, 40, false));
    let about: Value = serde_json::from_slice(&info.app_metadata).unwrap();
    assert_eq!((&about["topic"], &about["queues"]["1"]), (&json!("orders"), &json!({"low": 0, "high": 20})));
    let endpoint: Value = serde_json::from_slice(&info.endpoint[1].app_metadata).unwrap();
    assert_eq!((&endpoint["queue"], &endpoint["from"], &endpoint["to"]), (&json!(1), &json!(0), &json!(20)));

    let batch = weir.read_all(info).await.unwrap();
    assert_eq!(batch.num_rows(), 40);
    let types: Vec<_> = batch.schema().fields().iter().map(|f| (f.name().clone(), f.is_nullable())).collect();
    let expected = [
        ("queue_id", false),
        ("queue_offset", false),
        ("store_time", false),
        ("born_time", true),
        ("msg_id", true),
        ("tags", true),
        ("msg_keys", true),
        ("body", true),
        ("properties", true),
    ];
    assert_eq!(types, expected.map(|(name, nullable)| (name.to_owned(), nullable)));
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(batch["store_time"].data_type(), &time);
    let mut ids = texts(&batch, "msg_id");
    ids.sort();
    let mut expected: Vec<_> = (0..40).map(|n| format!("id-{n}")).collect();
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(batch["body"].as_binary::<i32>().value(0), b"order 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_columns_leave_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let command = json!({"pull": 1, "topic": "orders", "columns": ["n", "region"],
        "filter": "region = 'EU' AND price > 10 OR region IS NULL AND n >= 30"});
    let info = weir.info_of(command).await.unwrap();
    assert_eq!(info.total_records, -1);
    let batch = weir.read_all(info).await.unwrap();
    let expected: Vec<i64> = (0..40)
        .filter(|n| match n % 5 {
            0 => *n >= 30,
            _ => n % 2 == 0 && *n > 20,
        })
        .collect();
    assert_eq!(numbers(&batch, "n"), expected);
    assert_eq!(batch.num_columns(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_say_where_to_resume_and_the_last_one_why_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let pull = |from: u64| {
        json!({"pull": 1, "topic": "orders", "queues": [1], "from": {"offsets": {"1": from}},
            "columns": ["queue_offset"], "max_rows": 8, "batch_rows": 3})
    };
    let mut offsets = Vec::new();
    let mut from = 0;
    for expected in [EndOfStream::MaxRows, EndOfStream::MaxRows, EndOfStream::End] {
        let messages = weir.messages(pull(from).to_string()).await.unwrap();
        let (_, batches) = weir.read(pull(from).to_string()).await.unwrap();
        offsets.extend(batches.iter().flat_map(|batch| numbers(batch, "queue_offset")));
        let mut position = from;
        for message in &messages[1..] {
            let metadata = metadata_of(message);
            assert_eq!((metadata.q, metadata.base, metadata.low, metadata.high), (1, position, 0, 20));
            position = metadata.next.unwrap();
        }
        let last = metadata_of(messages.last().unwrap());
        assert_eq!(last.eos, Some(expected));
        from = last.next.unwrap();
    }
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_gives_the_same_rows_after_more_came_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let command = json!({"pull": 1, "topic": "orders", "columns": ["n"], "filter": "n > 5"});
    let info = weir.info_of(command).await.unwrap();
    let first = weir.read_all(info.clone()).await.unwrap();
    weir.act("Produce", json!({"topic": "orders", "messages": [order(50)]})).await.unwrap();
    assert_eq!(weir.read_all(info.clone()).await.unwrap(), first);
    weir.stop().await;
    let weir = Weir::start(dir.path()).await;
    assert_eq!(weir.read_all(info).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_topic_has_a_schema_and_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "empty"})).await.unwrap();
    let info = weir.info(FlightDescriptor::new_path(vec!["empty".into()])).await.unwrap();
    assert_eq!(info.total_records, 0);
    let batch = weir.read_all(info).await.unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_are_listed_and_picked_by_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "ns/other"})).await.unwrap();
    let list = async |pattern: &str| {
        let criteria = Criteria { expression: pattern.to_owned().into() };
        let infos = weir.calls.clone().list_flights(criteria).await.unwrap().into_inner();
        let infos: Vec<FlightInfo> = infos.try_collect().await.unwrap();
        infos.into_iter().map(|info| info.flight_descriptor.unwrap().path).collect::<Vec<_>>()
    };
    assert_eq!(list("").await.len(), 2);
    assert_eq!(list("ord%").await, [["orders"]]);
    assert_eq!(list("ns/other").await, [["ns", "other"]]);
    assert!(list("nothing").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_are_sent_in_messages_that_every_client_takes() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "large", "queues": 1})).await.unwrap();
    for _ in 0..3 {
        let messages: Vec<_> = (0..4).map(|_| json!({"body": "x".repeat(700_000)})).collect();
        weir.act("Produce", json!({"topic": "large", "messages": messages})).await.unwrap();
    }
    let info = weir.info(FlightDescriptor::new_path(vec!["large".into()])).await.unwrap();
    let batch = weir.read_all(info).await.unwrap();
    assert_eq!(batch.num_rows(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_broker_ends_streams() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "much", "queues": 1, "class": "async"})).await.unwrap();
    for _ in 0..20 {
        let messages: Vec<_> = (0..20).map(|_| json!({"body": "x".repeat(50_000)})).collect();
        weir.act("Produce", json!({"topic": "much", "messages": messages})).await.unwrap();
    }
    let ticket = PullCommand::of_topic("much");
    let ticket = Ticket::new(serde_json::to_vec(&ticket).unwrap());
    let mut stream = weir.calls.clone().do_get(ticket).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    weir.broker.close().await.unwrap();
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if it were complete"),
                Err(status) => return status.code(),
            }
        }
    };
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), end).await.unwrap();
    assert_eq!(end, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_client_reads_all_queues_and_stops_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let client = weir.client().await;
    let command = PullCommand { columns: Some(vec!["n".into()]), ..PullCommand::of_topic("orders") };
    let rows = async |command: &PullCommand| {
        let answer = client.pull(command).await.unwrap();
        let batches: Vec<_> = answer.batches.try_collect().await.unwrap();
        (answer.rows, batches.iter().map(|pulled| pulled.batch.num_rows()).sum::<usize>())
    };
    assert_eq!(rows(&command).await, (Some(40), 40));
    let limited = PullCommand { max_rows: Some(25), ..command };
    assert_eq!(rows(&limited).await.1, 25);
    let answer = client.query("SELECT n FROM orders WHERE n < 3").await.unwrap();
    let batches: Vec<_> = answer.batches.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}
