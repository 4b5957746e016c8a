//! SQL as callers of the engine use it: snapshots, parameters, limits, cancelling.

use std::{sync::Arc, time::Duration};

use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type,
};
use arrow_schema::DataType;
use futures::{StreamExt, TryStreamExt};
use weir_columns::Value;
use weir_engine::{Broker, EngineError, Message, SqlPlan, SqlRequest, SqlTicket, TableKind, TopicSpec};

use crate::fixture::{Fixture, topic};

/// A broker with topic `t`, in which `n` counts from 0 and `word` is some text.
async fn numbers(count: i64) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.topic(2).await;
    add(&fixture.broker, 0..count).await;
    fixture
}

async fn add(broker: &Broker, numbers: std::ops::Range<i64>) {
    let message = |n: i64| Message {
        properties: vec![
            ("n".to_owned(), Value::Text(n.to_string())),
            ("word".to_owned(), Value::Text(format!("w{}", n % 7))),
        ],
        body: format!("body {n}").into(),
        ..Message::default()
    };
    let messages: Vec<Message> = numbers.map(message).collect();
    publish(broker, messages).await;
}

async fn publish(broker: &Broker, messages: Vec<Message>) {
    let published = broker.publish(&topic("t"), messages).await.unwrap();
    let is_seen = || {
        let queues = broker.topic(&topic("t")).unwrap().queues;
        published
            .iter()
            .all(|row| queues.iter().any(|queue| queue.queue == row.queue && row.offset < queue.end))
    };
    while !is_seen() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn plan(broker: &Broker, sql: &str) -> Result<SqlPlan, EngineError> {
    broker.plan_sql(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() }).await
}

async fn run(broker: &Broker, ticket: SqlTicket) -> Result<RecordBatch, EngineError> {
    let (schema, batches) = broker.run_sql(ticket).await?;
    let batches: Vec<RecordBatch> = batches.try_collect().await?;
    Ok(arrow::compute::concat_batches(&schema, &batches).unwrap())
}

async fn query(broker: &Broker, sql: &str) -> Result<RecordBatch, EngineError> {
    let plan = plan(broker, sql).await?;
    let answer = run(broker, plan.ticket).await?;
    assert_eq!(answer.schema(), plan.schema, "{sql}");
    Ok(answer)
}

async fn one(broker: &Broker, sql: &str) -> i64 {
    query(broker, sql).await.unwrap().column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_gives_the_same_rows_whenever_it_is_run() {
    let fixture = numbers(100).await;
    let broker = &fixture.broker;
    let plan = plan(broker, "SELECT n, word FROM t WHERE n >= 90 ORDER BY n").await.unwrap();
    assert_eq!(plan.schema.field(0).data_type(), &DataType::Int64);
    let before = run(broker, plan.ticket.clone()).await.unwrap();
    assert_eq!(before.num_rows(), 10);
    // More rows come, and widen the type of a column.
    add(broker, 100..150).await;
    let odd =
        vec![("n".to_owned(), Value::Text("not a number".to_owned())), ("new".to_owned(), Value::Bool(true))];
    publish(broker, vec![Message { properties: odd, ..Message::default() }]).await;
    let text = serde_json::to_string(&plan.ticket).unwrap();
    let after = run(broker, serde_json::from_str(&text).unwrap()).await.unwrap();
    assert_eq!(before, after);
    assert_eq!(one(broker, "SELECT count(*) FROM t").await, 151);
    let widened = query(broker, "SELECT n, \"new\" FROM t").await.unwrap();
    let types: Vec<_> = widened.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Utf8, DataType::Boolean]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_outlives_a_restart_but_not_its_topic() {
    let mut fixture = numbers(20).await;
    let ticket = plan(&fixture.broker, "SELECT sum(n) FROM t").await.unwrap().ticket;
    fixture.restart().await;
    let sum = run(&fixture.broker, ticket.clone()).await.unwrap();
    assert_eq!(sum.column(0).as_primitive::<Int64Type>().value(0), 190);
    fixture.broker.delete_topic(&topic("t")).await.unwrap();
    assert!(run(&fixture.broker, ticket.clone()).await.is_err());
    fixture.broker.create_topic(&topic("t"), TopicSpec::default()).await.unwrap();
    let error = run(&fixture.broker, ticket).await.unwrap_err();
    assert!(matches!(error, EngineError::Ticket(_) | EngineError::Sql(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound_by_position_and_lose_nothing() {
    let fixture = numbers(20).await;
    let bind = |sql: &str, values: Vec<ArrayRef>| {
        let columns = values.into_iter().enumerate().map(|(index, value)| (index.to_string(), value));
        let parameters = Some(RecordBatch::try_from_iter(columns).unwrap());
        let request = SqlRequest { sql: sql.to_owned(), parameters, ..SqlRequest::default() };
        async {
            let plan = fixture.broker.plan_sql(request).await?;
            run(&fixture.broker, plan.ticket).await
        }
    };
    let int = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let float = |value: f64| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
    let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let count = |batch: RecordBatch| batch.column(0).as_primitive::<Int64Type>().value(0);
    let sql = "SELECT count(*) FROM t WHERE n > ? AND word = ?";
    assert_eq!(count(bind(sql, vec![int(6), text("w0")]).await.unwrap()), 2);
    assert_eq!(count(bind(sql, vec![float(6.5), text("it's")]).await.unwrap()), 0);
    // As an integer it would be 6, and one row less would match.
    assert_eq!(count(bind("SELECT count(*) FROM t WHERE n < ?", vec![float(6.5)]).await.unwrap()), 7);
    assert_eq!(count(bind("SELECT ? + 1", vec![int(41)]).await.unwrap()), 42);
    assert_eq!(count(bind("SELECT n FROM t ORDER BY n LIMIT ?", vec![int(1)]).await.unwrap()), 0);
    for (sql, values) in [("SELECT ?", vec![]), ("SELECT 1", vec![int(1)]), ("SELECT ?, ?", vec![int(1)])] {
        if values.is_empty() {
            let plan = plan(&fixture.broker, sql).await.unwrap();
            assert_eq!(plan.parameters.fields().len(), 1);
            assert!(run(&fixture.broker, plan.ticket).await.is_err(), "{sql} runs without its value");
        } else {
            assert!(bind(sql, values).await.is_err(), "{sql}");
        }
    }
    let plan = plan(&fixture.broker, "SELECT n + ? FROM t WHERE word = $$x$$ OR n = ?").await.unwrap();
    let types: Vec<_> = plan.parameters.fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Int64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_an_error() {
    let fixture = numbers(1).await;
    let terms = |count: usize, term: &str, between: &str| vec![term; count].join(between);
    let texts = [
        format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500)),
        format!("SELECT * FROM t WHERE {}", terms(50_000, "n = 1", " OR ")),
        format!("SELECT '{}'", "x".repeat(1 << 20)),
        format!("SELECT {}", "NOT ".repeat(4000) + "TRUE"),
        format!("SELECT {}1", "- ".repeat(4000)),
        format!("SELECT {}", "CASE WHEN ".repeat(500)),
        format!("SELECT * FROM {}", terms(2000, "t", " NATURAL JOIN ")),
        format!("SELECT {}", "f(".repeat(3000)),
        format!("{}SELECT 1", "EXPLAIN ".repeat(2000)),
        format!("SELECT {}1{}", "ARRAY[".repeat(1000), "]".repeat(1000)),
        format!("SELECT {}1{}", "ARRAY[".repeat(60), "]".repeat(60)),
        format!("SELECT {}{}1", "CAST(".repeat(60), "NOT ".repeat(300)),
        format!("SELECT {}{}1", "CAST(".repeat(6), "NOT ".repeat(300)),
        format!("SELECT {}{}1{}", "(".repeat(40), "NOT ".repeat(300), ")".repeat(40)),
        "SELECT repeat('x', 2000000000)".to_owned(),
        "SELECT range(0, 10000000000)".to_owned(),
        // Too much for the planner.
        format!("SELECT {}", terms(1001, "1", " + ")),
        format!("SELECT n FROM t WHERE n = 1{}", " + n".repeat(1000)),
        format!("SELECT {}", terms(200, "sum(n) OVER (ORDER BY n + 1)", ", ")),
        format!("SELECT count(*) FROM {}", (0..80).map(|i| format!("t t{i}")).collect::<Vec<_>>().join(", ")),
        format!("SELECT n FROM t {}", "UNION ALL SELECT n FROM t ".repeat(600)),
        format!(
            "SELECT 1 FROM t GROUP BY CUBE({})",
            (0..14).map(|i| format!("n + {i}")).collect::<Vec<_>>().join(", ")
        ),
        format!(
            "WITH c0 AS (SELECT n FROM t){} SELECT n FROM c39",
            (1..40).map(|i| format!(", c{i} AS (SELECT x.n FROM c{0} x, c{0} y)", i - 1)).collect::<String>()
        ),
        nested(40, "SELECT n FROM t", |inner| format!("SELECT n + n AS n FROM ({inner})")) + " WHERE n > 3",
        format!(
            "SELECT n FROM ({}) WHERE n > 3",
            nested(40, "SELECT n FROM t", |inner| format!("SELECT n + n AS n FROM ({inner})"))
        ),
        nested(40, "n", |inner| format!("coalesce({inner}, n)")).replacen("coalesce", "SELECT coalesce", 1)
            + " FROM t",
        format!(
            "SELECT n FROM t WHERE upper(word) BETWEEN 'a' AND 'b'{}",
            " BETWEEN false AND true".repeat(40)
        ),
        // Much of little.
        nested(40, "SELECT word FROM t", |inner| format!("SELECT word || word AS word FROM ({inner})")),
        nested(12, "SELECT body FROM t", |inner| {
            format!("SELECT concat(body, body, body, body) AS body FROM ({inner})")
        }),
        "SELECT array_agg(n) FROM t".to_owned(),
        "SELECT string_agg(word, ',') FROM t".to_owned(),
        "SELECT [n, n] FROM t".to_owned(),
        "SELECT (n, n) FROM t".to_owned(),
        "SELECT {'a': n} FROM t".to_owned(),
        "SELECT unnest([1, 2])".to_owned(),
        "SELECT * FROM unnest([1, 2])".to_owned(),
        "SELECT overlay(word placing word from 1 for 0) FROM t".to_owned(),
        // A pattern for each row.
        "SELECT n FROM t WHERE regexp_like(word, word)".to_owned(),
        "SELECT n FROM t WHERE word ~ word".to_owned(),
        "SELECT n FROM t WHERE upper(word) LIKE word || '%'".to_owned(),
        format!("SELECT regexp_like(word, '{}') FROM t", "x".repeat(2000)),
        "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT * FROM a) SELECT * FROM a".to_owned(),
        "\0\u{202e}'\"".to_owned(),
    ];
    for sql in &texts {
        let start: String = sql.chars().take(60).collect();
        let answer = tokio::time::timeout(Duration::from_secs(60), query(&fixture.broker, sql)).await;
        assert!(matches!(answer, Ok(Err(_))), "{start}");
    }
}

fn nested(times: usize, inner: &str, around: impl Fn(&str) -> String) -> String {
    (0..times).fold(inner.to_owned(), |inner, _| around(&inner))
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_put_together_is_bounded() {
    let fixture = numbers(10).await;
    let broker = &fixture.broker;
    let long = "x".repeat(10_000);
    for sql in [
        format!("SELECT n || '{long}' AS a, concat(word, '{long}', NULL) AS b FROM t"),
        "SELECT word || NULL AS a, concat(NULL, n) AS b FROM t".to_owned(),
        "SELECT word || '-' || n || '-' || 1.5 AS a, NULL || 'x' AS b FROM t WHERE n = 3".to_owned(),
    ] {
        query(broker, &sql).await.unwrap_or_else(|error| panic!("{sql:.60}: {error}"));
    }
    let joined = query(broker, "SELECT word || '-' || n || '-' || 1.5 FROM t WHERE n = 3").await.unwrap();
    assert_eq!(joined.column(0).as_string::<i32>().value(0), "w3-3-1.5");
    assert_eq!(
        joined.schema().field(0).name(),
        "t.word || Utf8(\"-\") || t.n || Utf8(\"-\") || Float64(1.5)"
    );
    // 16 times 16 times … of a long text.
    let grown = nested(5, &format!("SELECT '{long}' AS a FROM t"), |inner| {
        format!("SELECT concat({}) AS a FROM ({inner})", ["a"; 8].join(", "))
    });
    let error = query(broker, &format!("SELECT length(a) FROM ({grown})")).await.unwrap_err();
    assert!(matches!(error, EngineError::Limit { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_function_is_named_with_those_that_are_near() {
    let fixture = numbers(1).await;
    for (sql, hint) in [
        ("SELECT lenght(word) FROM t", "there is no function lenght here; did you mean length?"),
        ("SELECT repeat(word, 3) FROM t", "there is no function repeat here"),
        ("SELECT * FROM generate_series(1, 2)", "there is no function generate_series here"),
        ("SELECT \"UPPER\"(word) FROM t", "did you mean upper?"),
        ("SELECT n FROM t WHERE array_agg(n) = 1", "docs/queries.md"),
    ] {
        let message = query(&fixture.broker, sql).await.unwrap_err().to_string();
        assert!(message.contains(hint), "{sql}: {message}");
    }
    for sql in [
        "SELECT UPPER(word), count(DISTINCT n), Sum(n) FILTER (WHERE n > 0) FROM t GROUP BY 1",
        "SELECT extract(year FROM store_time), substring(word FROM 1 FOR 1), position('w' IN word), trim(word), ceil(1.5) FROM t",
        "SELECT row_number() OVER w, lag(n) OVER w FROM t WINDOW w AS (ORDER BY n)",
        "SELECT properties['n'], map_keys(properties) FROM \"t$raw\"",
        "SELECT DISTINCT ON (word) word, n FROM t ORDER BY word, n",
        "SELECT date_trunc('hour', store_time), now() - store_time, current_date FROM t",
        "SELECT n FROM t WHERE upper(word) LIKE 'W' || '%' AND regexp_like(word, '^w[0-9]') AND word ~ 'w.'",
        "SELECT * FROM t WHERE word NOT ILIKE '%X%'",
        "SELECT CASE n WHEN 1 THEN 'a' END, nullif(n, 0), greatest(n, 1), n IS DISTINCT FROM 1 FROM t",
    ] {
        query(&fixture.broker, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// These are long, but within the limits: they must neither abort nor take long.
#[tokio::test(flavor = "multi_thread")]
async fn long_text_is_planned() {
    let fixture = numbers(10).await;
    let terms = |count: usize, term: &str, between: &str| vec![term; count].join(between);
    for (sql, rows) in [
        (format!("SELECT n FROM t WHERE {}", terms(150, "upper(word) = 'W1'", " OR ")), 2),
        (format!("SELECT n FROM t WHERE {}", terms(150, "upper(word) = 'W1'", " AND ")), 2),
        (format!("SELECT n FROM t WHERE n = 1{}", " + 0".repeat(200)), 1),
        (format!("SELECT n FROM t WHERE n IN ({})", terms(3000, "1", ", ")), 1),
        (format!("SELECT {}", terms(200, "1", " + ")), 1),
        (format!("SELECT 1 {}", terms(100, "UNION ALL SELECT 1", " ")), 101),
    ] {
        let start: String = sql.chars().take(60).collect();
        let started = std::time::Instant::now();
        let answer = query(&fixture.broker, &sql).await;
        println!("{:?} for {start}", started.elapsed());
        assert_eq!(answer.unwrap_or_else(|error| panic!("{start}: {error}")).num_rows(), rows, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_queries_run() {
    let fixture = numbers(1).await;
    for sql in [
        "CREATE TABLE x (a INT)",
        "INSERT INTO t VALUES (1)",
        "DROP TABLE t",
        "SET datafusion.execution.batch_size = 1",
        "COPY t TO '/tmp/x'",
        "SELECT 1 INTO x",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT * FROM '/etc/passwd'",
        "EXPLAIN DELETE FROM t",
    ] {
        assert!(query(&fixture.broker, sql).await.is_err(), "{sql}");
    }
    for sql in ["SHOW TABLES", "DESCRIBE t", "EXPLAIN SELECT * FROM t", "SHOW COLUMNS FROM t", "VALUES (1)"] {
        query(&fixture.broker, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_was_meant() {
    let fixture = numbers(1).await;
    for (sql, hint) in [
        ("SELECT * FROM tt", "did you mean t?"),
        ("SELECT * FROM publik.t", "did you mean public?"),
        ("SELECT wort FROM t", "there is no column wort; did you mean word?"),
        ("SELECT x.wort FROM t x", "there is no column x.wort; did you mean word?"),
        ("SELECT n FROM t WHERE upper(wort) = 'W1' ORDER BY n", "did you mean word?"),
        ("SELECT n FROM t GROUP BY n HAVING max(wort) = 'w'", "did you mean word?"),
        ("SELECT a.n FROM t a JOIN t b ON a.wort = b.word", "did you mean word?"),
        ("SELECT m FROM t", "there is no column m; the columns here are"),
        ("SELECT n FROM t WHERE word = \"w1\"", "strings stand in single quotes"),
        ("SELECT * FROM other.public.t", "the only one is weir"),
    ] {
        let message = query(&fixture.broker, sql).await.unwrap_err().to_string();
        assert!(message.contains(hint), "{sql}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_column_lists_few_of_many() {
    let fixture = Fixture::new().await;
    fixture.topic(1).await;
    let properties = (0..100).map(|n| (format!("property {n}"), Value::I64(n))).collect();
    publish(&fixture.broker, vec![Message { properties, ..Message::default() }]).await;
    let message = query(&fixture.broker, "SELECT \"proprety 17\" FROM t").await.unwrap_err().to_string();
    assert!(message.contains("did you mean \"property 17\""), "{message}");
    assert!(message.contains("and 88 more") && message.len() < 600, "{message}");
    assert!(message.find("did you mean") < message.find("The columns here are"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_needs_too_much_memory_fails_alone() {
    let fixture = Fixture::with(|options| options.query_memory_bytes = 1 << 20).await;
    fixture.topic(1).await;
    add(&fixture.broker, 0..2000).await;
    let error =
        query(&fixture.broker, "SELECT a.n, b.body FROM t a, t b ORDER BY a.n, b.body").await.unwrap_err();
    assert!(matches!(error, EngineError::Busy(_)), "{error}");
    assert_eq!(one(&fixture.broker, "SELECT count(*) FROM t").await, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_windows_keep_is_counted() {
    let fixture = Fixture::with(|options| options.query_memory_bytes = 4 << 20).await;
    fixture.topic(1).await;
    add(&fixture.broker, 0..1000).await;
    for window in [
        "sum(a.n) OVER ()",
        "lead(a.n, 900000) OVER ()",
        "lag(a.n, 900000) OVER ()",
        "sum(a.n) OVER (ROWS BETWEEN 900000 PRECEDING AND CURRENT ROW)",
        "sum(a.n) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 900000 FOLLOWING)",
        "first_value(a.n) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
    ] {
        let sql = format!("SELECT max(w) FROM (SELECT {window} AS w FROM t a, t b)");
        let error = query(&fixture.broker, &sql).await.unwrap_err();
        assert!(matches!(error, EngineError::Busy(_)), "{window}: {error}");
    }
    // These keep nothing of the rows behind them.
    for (window, last) in [
        ("row_number() OVER ()", 1_000_000),
        ("count(*) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)", 1_000_000),
        ("count(*) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 5 FOLLOWING)", 1_000_000),
    ] {
        let sql = format!("SELECT max(w) FROM (SELECT {window} AS w FROM t a, t b)");
        assert_eq!(one(&fixture.broker, &sql).await, last, "{window}");
    }
    assert_eq!(
        one(&fixture.broker, "SELECT sum(w) FROM (SELECT sum(1) OVER () AS w FROM t)").await,
        1_000_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn types_do_not_narrow_when_rows_expire_and_the_broker_starts_anew() {
    let mut fixture = Fixture::new().await;
    let spec = TopicSpec { queues: 1, retention: Some(Duration::from_secs(1000)), ..TopicSpec::default() };
    fixture.broker.create_topic(&topic("t"), spec).await.unwrap();
    let message = |properties: &[(&str, &str)]| Message {
        properties: properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::Text((*value).to_owned())))
            .collect(),
        ..Message::default()
    };
    publish(&fixture.broker, vec![message(&[("a", "x"), ("b", "1.5"), ("gone", "1")])]).await;
    let types = async |fixture: &Fixture| -> Vec<(String, DataType)> {
        let schema = plan(&fixture.broker, "SELECT * FROM t").await.unwrap().schema;
        let inferred = ["a", "b", "c", "gone"];
        let fields = schema.fields().iter().filter(|field| inferred.contains(&field.name().as_str()));
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let named = |name: &str, data_type| (name.to_owned(), data_type);
    let before = [named("a", DataType::Utf8), named("b", DataType::Float64), named("gone", DataType::Int64)];
    assert_eq!(types(&fixture).await, before);
    fixture.advance(1100);
    while fixture.broker.topic(&topic("t")).unwrap().queues[0].first.0 < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        fixture.advance(1);
    }
    publish(&fixture.broker, vec![message(&[("a", "1"), ("b", "1"), ("c", "1")])]).await;
    fixture.restart().await;
    let [a, b, gone] = before;
    assert_eq!(types(&fixture).await, [a, b, named("c", DataType::Int64), gone]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_may_repeat_bodies_makes_small_batches() {
    let fixture = Fixture::new().await;
    fixture.topic(1).await;
    add(&fixture.broker, 0..600).await;
    for (columns, rows_max) in
        [("a.body, b.n", 256), ("length(a.body) AS l, b.n", 256), ("a.n, b.n AS m", 8192)]
    {
        let ticket = plan(&fixture.broker, &format!("SELECT {columns} FROM t a, t b")).await.unwrap().ticket;
        let (_, batches) = fixture.broker.run_sql(ticket).await.unwrap();
        let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
        let largest = batches.iter().map(RecordBatch::num_rows).max().unwrap();
        assert!(largest <= rows_max && largest > rows_max / 20, "{columns}: {largest}");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 360_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_answer_frees_the_slot() {
    let fixture = Fixture::with(|options| options.query_slots = 1).await;
    fixture.topic(1).await;
    add(&fixture.broker, 0..1000).await;
    let endless = "SELECT a.n FROM t a, t b, t c";
    for _ in 0..3 {
        let ticket = plan(&fixture.broker, endless).await.unwrap().ticket;
        let (_, mut batches) = fixture.broker.run_sql(ticket).await.unwrap();
        assert!(batches.next().await.unwrap().unwrap().num_rows() > 0);
        drop(batches);
    }
    assert_eq!(one(&fixture.broker, "SELECT count(*) FROM t").await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_lists_tables_without_looking_into_them() {
    let fixture = numbers(1).await;
    fixture.broker.create_topic(&topic("ns/x"), TopicSpec::default()).await.unwrap();
    let tables = fixture.broker.catalog();
    let find = |schema: &str, name: &str| {
        tables.iter().find(|table| table.schema == schema && table.name == name).map(|table| table.kind)
    };
    assert_eq!(find("public", "t"), Some(TableKind::Topic));
    assert_eq!(find("public", "t$raw"), Some(TableKind::View));
    assert_eq!(find("ns", "x"), Some(TableKind::Topic));
    assert_eq!(find("weir", "topics"), Some(TableKind::System));
    let columns = fixture.broker.table_schema("public", "t").await.unwrap();
    assert_eq!(columns.fields().len(), 10);
    assert_eq!(fixture.broker.table_schema("public", "t$raw").await.unwrap().fields().len(), 9);
    assert!(fixture.broker.table_schema("public", "nothing").await.is_err());
    let in_namespace =
        SqlRequest { sql: "SELECT count(*) FROM x".to_owned(), namespace: "ns".to_owned(), parameters: None };
    assert!(fixture.broker.plan_sql(in_namespace).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_prune_by_place_and_time() {
    let fixture = numbers(10).await;
    fixture.advance(3600);
    add(&fixture.broker, 10..20).await;
    let broker = &fixture.broker;
    for (condition, count) in [
        ("queue_id = 0", 10),
        ("queue_id = 7", 0),
        ("queue_offset >= 5", 10),
        ("queue_offset < 2 AND queue_id = 1", 2),
        ("store_time >= '2026-01-01T00:30:00Z'", 10),
        ("store_time < TIMESTAMP '2026-01-01 00:30:00'", 10),
        ("store_time > '2027-01-01'", 0),
        ("store_time BETWEEN '2026-01-01' AND '2026-01-02'", 20),
        ("body = 'body 3'", 1),
        ("CAST(body AS VARCHAR) LIKE 'body 1%' AND n > 10", 9),
        ("queue_offset % 2 = 0 AND n < 10", 5),
    ] {
        assert_eq!(
            one(broker, &format!("SELECT count(*) FROM t WHERE {condition}")).await,
            count,
            "{condition}"
        );
    }
    let limited = query(broker, "SELECT body FROM t WHERE n > 3 LIMIT 5").await.unwrap();
    assert_eq!(limited.num_rows(), 5);
    assert_eq!(limited.column(0).null_count(), 0);
}
