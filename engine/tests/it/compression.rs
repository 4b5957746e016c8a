//! Topics whose bodies the broker compresses look like any other to all who read them.

use std::time::Duration;

use arrow_array::{RecordBatch, cast::AsArray, types::Int64Type};
use bytes::Bytes;
use futures::TryStreamExt;
use weir_columns::Value;
use weir_engine::{
    BodyEncoding, Broker, Compression, Message, PullColumn, PullRequest, ReceiveRequest, SqlRequest,
    TopicChange, TopicSpec,
};

use crate::fixture::{Fixture, topic};

const ROWS: i64 = 60;

/// Bodies that shrink and that do not, short, empty and long ones, and some that their producer has compressed.
fn message(n: i64) -> Message {
    let json = format!(r#"{{"n":{n},"text":"{}"}}"#, "again and ".repeat(usize::try_from(n).unwrap() * 20));
    let noise = (0..2000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13 ^ at.pow(2)) as u8).collect();
    let (body, body_encoding): (Bytes, _) = match n % 6 {
        0 => (noise, BodyEncoding::Identity),
        1 => (Bytes::new(), BodyEncoding::Identity),
        // Whatever it holds, it is kept as it came.
        2 => (json.into(), BodyEncoding::Gzip),
        _ => (json.into(), BodyEncoding::Identity),
    };
    Message {
        properties: vec![("n".to_owned(), Value::Text(n.to_string()))],
        message_id: n.to_string(),
        body,
        body_encoding,
        ..Message::default()
    }
}

async fn pulled(broker: &Broker, request: &PullRequest) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for part in broker.plan_pull(request).await.unwrap().parts {
        let part: Vec<_> = broker.pull(part).await.unwrap().try_collect().await.unwrap();
        batches.extend(part.into_iter().map(|batch| batch.batch));
    }
    batches
}

/// Compares all bodies, by each way to them.
async fn check(weir: &Fixture, group: &str) {
    let broker = &weir.broker;
    while broker.topic(&topic("t")).unwrap().queues[0].end.0 < ROWS as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut came = 0;
    loop {
        let request =
            ReceiveRequest { client: "c".into(), ..ReceiveRequest::new(group.parse().unwrap(), topic("t")) };
        let delivered = broker.receive(request).await.unwrap();
        for (number, delivered) in (came..).zip(&delivered) {
            assert_eq!(delivered.message.message, message(number), "{number}");
        }
        came += delivered.len() as i64;
        if delivered.is_empty() {
            break;
        }
    }
    assert_eq!(came, ROWS);

    let columns = ["n", "body", "sys.body_size"].map(|name| PullColumn(name.to_owned()));
    let request = PullRequest { columns: Some(columns.to_vec()), ..PullRequest::new(topic("t")) };
    let mut number = 0;
    for batch in pulled(broker, &request).await {
        let (bodies, sizes) = (batch.column(1).as_binary::<i32>(), batch.column(2));
        let sizes = arrow::compute::cast(sizes, &arrow_schema::DataType::Int64).unwrap();
        for row in 0..batch.num_rows() {
            let body = message(number).body;
            assert_eq!(bodies.value(row), body, "{number}");
            assert_eq!(sizes.as_primitive::<Int64Type>().value(row), body.len() as i64, "{number}");
            number += 1;
        }
    }
    assert_eq!(number, ROWS);

    // A selector that opens bodies, and the same condition in SQL.
    let condition = "JSON_VALUE(body, '$.n') >= 40";
    let expected: Vec<i64> = (40..ROWS).filter(|n| n % 6 > 2).collect();
    let request = PullRequest { selector: Some(condition.to_owned()), ..request };
    let selected: usize = pulled(broker, &request).await.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(selected, expected.len());
    let sql = "SELECT body FROM t ORDER BY n";
    let plan = broker.plan_sql(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() }).await.unwrap();
    let (_, batches) = broker.run_sql(plan.ticket).await.unwrap();
    let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
    let bodies = batches.iter().flat_map(|batch| batch.column(0).as_binary::<i32>());
    let bodies: Vec<&[u8]> = bodies.map(Option::unwrap).collect();
    let expected: Vec<Bytes> = (0..ROWS).map(|n| message(n).body).collect();
    assert_eq!(bodies, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_as_they_were_sent_by_every_reader() {
    let mut bytes = Vec::new();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let mut weir = Fixture::new().await;
        let spec = TopicSpec { queues: 1, compression, ..TopicSpec::default() };
        assert_eq!(weir.broker.create_topic(&topic("t"), spec).await.unwrap().compression, compression);
        let messages: Vec<Message> = (0..ROWS).map(message).collect();
        for messages in messages.chunks(7) {
            weir.broker.publish(&topic("t"), messages.to_vec()).await.unwrap();
        }
        check(&weir, "g1").await;
        weir.restart().await;
        check(&weir, "g2").await;
        bytes.push(weir.broker.topic(&topic("t")).unwrap().log_bytes);
    }
    assert!(bytes[1] < bytes[0] / 2 && bytes[2] < bytes[1], "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_change_how_it_compresses() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    for (part, compression) in
        [Compression::Zstd, Compression::None, Compression::Lz4].into_iter().enumerate()
    {
        let change = TopicChange { compression: Some(compression), ..TopicChange::default() };
        let altered = weir.broker.alter_topic(&topic("t"), change).await.unwrap();
        assert_eq!(altered.compression, compression);
        let part = i64::try_from(part).unwrap();
        let messages = (part * ROWS / 3..(part + 1) * ROWS / 3).map(message).collect();
        weir.broker.publish(&topic("t"), messages).await.unwrap();
    }
    check(&weir, "g1").await;
    weir.restart().await;
    assert_eq!(weir.broker.topic(&topic("t")).unwrap().compression, Compression::Lz4);
    check(&weir, "g2").await;
}

/// A body that the broker compresses a thousandfold counts as what a reader gets.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_bounded_by_bodies_as_they_were_sent() {
    const BODY: usize = 256 << 10;
    const BODIES: usize = 96;
    let weir = Fixture::new().await;
    let spec = TopicSpec { queues: 1, compression: Compression::Zstd, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    let zeros = Message { body: vec![0; BODY].into(), ..Message::default() };
    for _ in 0..BODIES / 32 {
        weir.broker.publish(&topic("t"), vec![zeros.clone(); 32]).await.unwrap();
    }
    while weir.broker.topic(&topic("t")).unwrap().queues[0].end.0 < BODIES as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stored = weir.broker.topic(&topic("t")).unwrap().log_bytes;
    assert!(stored < (BODIES * BODY / 500) as u64, "{stored}");

    let request = PullRequest {
        columns: Some(vec![PullColumn("body".to_owned())]),
        batch_bytes: 1 << 20,
        ..PullRequest::new(topic("t"))
    };
    let mut ways = vec![("a pull".to_owned(), pulled(&weir.broker, &request).await)];
    let sql = ["SELECT body FROM t", "SELECT body FROM t WHERE CAST(body AS VARCHAR) <> 'x'"];
    for sql in sql.map(str::to_owned) {
        let plan = SqlRequest { sql: sql.clone(), ..SqlRequest::default() };
        let plan = weir.broker.plan_sql(plan).await.unwrap();
        let (_, batches) = weir.broker.run_sql(plan.ticket).await.unwrap();
        ways.push((sql, batches.try_collect().await.unwrap()));
    }
    for (way, batches) in ways {
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows.iter().sum::<usize>(), BODIES, "{way}");
        // The row that crosses the bound is in it.
        assert!(rows.iter().all(|rows| rows * BODY <= (1 << 20) + BODY), "{way}: {rows:?}");
        let bodies = batches.iter().flat_map(|batch| batch.column(0).as_binary::<i32>());
        assert!(bodies.flatten().all(|body| body.len() == BODY && body.iter().all(|byte| *byte == 0)));
    }
}
