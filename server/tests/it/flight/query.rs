//! Statements, prepared statements, sessions.

use arrow_array::{ArrayRef, Int32Array, StringArray};
use arrow_flight::{
    Action,
    sql::{
        ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        CommandPreparedStatementQuery, CommandStatementQuery,
    },
};

use super::*;

async fn all(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let stream = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
        batches.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    }
    batches
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_planned_then_read() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let command = CommandStatementQuery {
        query: "SELECT region, count(*) AS c, avg(price) AS p FROM orders GROUP BY region ORDER BY region"
            .into(),
        transaction_id: None,
    };
    let info = weir.info_of_sql(&command).await.unwrap();
    assert_eq!((info.endpoint.len(), info.total_records), (1, -1));
    let batch = weir.read_all(info.clone()).await.unwrap();
    assert_eq!(texts(&batch, "region"), ["EU", "US", "NULL"]);
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let schema = weir.calls.clone().get_schema(descriptor).await.unwrap().into_inner();
    assert_eq!(Schema::try_from(schema).unwrap(), info.try_decode_schema().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_keeps_its_snapshot_also_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let info = weir.info(FlightDescriptor::new_cmd("SELECT count(*) AS c FROM orders")).await.unwrap();
    weir.act("Produce", json!({"topic": "orders", "messages": [order(40), order(41)]})).await.unwrap();
    assert_eq!(numbers(&weir.read_all(info.clone()).await.unwrap(), "c"), [40]);
    assert_eq!(numbers(&weir.query("SELECT count(*) AS c FROM orders").await.unwrap(), "c"), [42]);
    weir.stop().await;
    let weir = Weir::start(dir.path()).await;
    assert_eq!(numbers(&weir.read_all(info).await.unwrap(), "c"), [40]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_runs_with_what_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let mut client = weir.sql_client().await;
    let mut plain = client.prepare("SELECT n FROM orders WHERE n < 7".into(), None).await.unwrap();
    assert_eq!(plain.parameter_schema().unwrap().fields().len(), 0);
    assert_eq!(plain.dataset_schema().unwrap().fields().len(), 1);
    let info = plain.execute().await.unwrap();
    assert_eq!(count(&all(&mut client, info).await), 7);
    plain.close().await.unwrap();

    let sql = "SELECT n FROM orders WHERE n < ? AND region = ? AND body IS NOT NULL -- really?";
    let mut bound = client.prepare(sql.into(), None).await.unwrap();
    assert_eq!(bound.parameter_schema().unwrap().fields().len(), 2);
    for (n, region, expected) in [(10, "EU", 4), (20, "US", 8)] {
        let number: ArrayRef = Arc::new(Int32Array::from(vec![n]));
        let text: ArrayRef = Arc::new(StringArray::from(vec![region]));
        bound.set_parameters(RecordBatch::try_from_iter([("0", number), ("1", text)]).unwrap()).unwrap();
        let info = bound.execute().await.unwrap();
        assert_eq!(count(&all(&mut client, info).await), expected, "{n} {region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_first_handle_still_has_its_values() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let request = ActionCreatePreparedStatementRequest {
        query: "SELECT n FROM orders WHERE n = ?".into(),
        transaction_id: None,
    };
    let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
    let result = weir.calls.clone().do_action(action).await.unwrap().into_inner().message().await.unwrap();
    let result: ActionCreatePreparedStatementResult =
        Any::decode(result.unwrap().body).unwrap().unpack().unwrap().unwrap();
    let handle = result.prepared_statement_handle;
    let query = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    let unbound = weir.info_of_sql(&query).await.unwrap_err();
    assert_eq!(unbound.code(), Code::InvalidArgument);

    let number: ArrayRef = Arc::new(Int32Array::from(vec![33]));
    let row = RecordBatch::try_from_iter([("whatever", number)]).unwrap();
    let mut messages = arrow_flight::utils::batches_to_flight_data(&row.schema(), vec![row]).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(query.as_any().encode_to_vec()));
    let answer = weir.calls.clone().do_put(futures::stream::iter(messages)).await.unwrap();
    answer.into_inner().message().await.unwrap().unwrap();

    let info = weir.info_of_sql(&query).await.unwrap();
    assert_eq!(numbers(&weir.read_all(info).await.unwrap(), "n"), [33]);
    let (_, batches) = weir.read(query.as_any().encode_to_vec()).await.unwrap();
    assert_eq!(count(&batches), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_names_resolve_in_the_schema_of_the_call() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "sales/orders", "queues": 1})).await.unwrap();
    weir.act("Produce", json!({"topic": "sales/orders", "messages": [{"properties": {"n": 1}}]}))
        .await
        .unwrap();
    let mut client = weir.sql_client().await;
    let sql = "SELECT n FROM orders";
    assert!(client.execute(sql.into(), None).await.is_err());
    client.set_header("schema", "sales");
    let info = client.execute(sql.into(), None).await.unwrap();
    assert_eq!(count(&all(&mut client, info).await), 1);
    let batch = weir.query("SELECT n FROM sales.orders").await.unwrap();
    assert_eq!(numbers(&batch, "n"), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_gives_a_token_and_closing_a_session_always_works() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    let mut client = weir.sql_client().await;
    client.handshake("user", "password").await.unwrap();
    assert!(client.token().is_some_and(|token| token.len() > 16));
    client.execute("SELECT 1".into(), None).await.unwrap();
    let closed = weir.calls.clone().do_action(Action::new("CloseSession", "")).await.unwrap();
    assert_eq!(closed.into_inner().message().await.unwrap().unwrap().body, b"\x08\x01".as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_left_stream_frees_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    for _ in 0..50 {
        let info = weir
            .info(FlightDescriptor::new_cmd("SELECT a.n FROM orders a, orders b, orders c"))
            .await
            .unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = weir.calls.clone().do_get(ticket).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
    }
    let read = weir.query("SELECT count(*) AS c FROM orders");
    let batch = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.unwrap().unwrap();
    assert_eq!(numbers(&batch, "c"), [40]);
}
