//! What is wrong is refused with the code that says so, and disturbs nobody else.

use arrow_flight::{
    Action, CancelFlightInfoRequest, Empty,
    sql::{CommandStatementQuery, CommandStatementUpdate, TicketStatementQuery},
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_commands_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    for (command, code, word) in [
        (json!({"pull": 1, "topic": "ordres"}), Code::NotFound, "orders"),
        (json!({"pull": 1, "topic": "orders", "queues": [7]}), Code::NotFound, "7"),
        (
            json!({"pull": 1, "topic": "orders", "filter": "region = = 'EU'"}),
            Code::InvalidArgument,
            "selector",
        ),
        (json!({"pull": 1, "topic": "orders", "columns": ["regoin"]}), Code::InvalidArgument, "region"),
        (json!({"pull": 1, "topic": "orders", "columns": []}), Code::InvalidArgument, "column"),
        (json!({"pull": 1, "topic": "orders", "from": {"offsets": {"0": 99}}}), Code::OutOfRange, "99"),
        (json!({"pull": 1, "topic": "orders", "from": {"group": "nobody"}}), Code::NotFound, "nobody"),
        (json!({"pull": 1, "topic": "orders", "follow": true}), Code::InvalidArgument, "follow"),
        (json!({"pull": 9, "topic": "orders"}), Code::InvalidArgument, "9"),
        (json!({"topic": "orders"}), Code::InvalidArgument, "pull"),
    ] {
        let planned = weir.info_of(command.clone()).await.unwrap_err();
        assert_eq!(planned.code(), code, "{command}: {planned}");
        assert!(planned.message().contains(word), "{command}: {planned}");
        let read = weir.messages(command.to_string()).await.unwrap_err();
        assert_eq!(read.code(), code, "{command}: {read}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_sql_are_told_when_it_is_planned() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let mut client = weir.sql_client().await;
    for (sql, code) in [
        ("SELEC 1", Code::InvalidArgument),
        ("SELECT", Code::InvalidArgument),
        ("SELECT nothing FROM orders", Code::InvalidArgument),
        ("SELECT * FROM ordres", Code::NotFound),
        ("DELETE FROM orders", Code::Unimplemented),
        ("CREATE TABLE x (a INT)", Code::Unimplemented),
    ] {
        let status = weir.query(sql).await.unwrap_err();
        assert_eq!(status.code(), code, "{sql}: {status}");
        assert!(client.prepare(sql.into(), None).await.is_err(), "{sql}");
    }
    let long = format!("SELECT {}1", "1 + ".repeat(400_000));
    assert_eq!(weir.query(&long).await.unwrap_err().code(), Code::InvalidArgument);
    let deep = format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000));
    assert_eq!(weir.query(&deep).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(weir.query("SELECT 1 AS one").await.unwrap().num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_foreign_tickets_are_refused() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weir = Weir::with_orders(dir.path()).await;
    let other = Weir::with_orders(other_dir.path()).await;
    let path = FlightDescriptor::new_path(vec!["orders".into()]);
    let pull = weir.info(path).await.unwrap().endpoint[0].ticket.clone().unwrap().ticket;
    let query = weir.info(FlightDescriptor::new_cmd("SELECT 1")).await.unwrap();
    let query = query.endpoint[0].ticket.clone().unwrap().ticket;
    let refused =
        async |weir: &Weir, ticket: &[u8]| weir.messages(ticket.to_vec()).await.map_err(|s| s.code());
    for ticket in [&pull, &query] {
        assert!(refused(&weir, ticket).await.is_ok());
        assert_eq!(refused(&other, ticket).await, Err(Code::InvalidArgument));
        // What stands before the signed bytes is the envelope of Flight SQL.
        let signed = ticket.windows(6).position(|bytes| bytes == b"\0weir\x01").unwrap();
        for at in (signed..ticket.len()).step_by(7) {
            let mut damaged = ticket.to_vec();
            damaged[at] ^= 1;
            assert!(refused(&weir, &damaged).await.is_err(), "byte {at}");
        }
        for length in (0..ticket.len()).step_by(11) {
            assert!(refused(&weir, &ticket[..length]).await.is_err(), "{length} bytes");
        }
    }
    // A ticket for one thing is worth nothing for another.
    let swapped = TicketStatementQuery { statement_handle: pull.clone() }.as_any().encode_to_vec();
    assert_eq!(refused(&weir, &swapped).await, Err(Code::InvalidArgument));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_unimplemented_and_writes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let mut calls = weir.calls.clone();
    let path = FlightDescriptor::new_path(vec!["orders".into()]);
    assert_eq!(calls.poll_flight_info(path.clone()).await.unwrap_err().code(), Code::Unimplemented);
    let exchange = calls.do_exchange(futures::stream::iter([FlightData::new()])).await;
    assert_eq!(exchange.unwrap_err().code(), Code::Unimplemented);
    for name in ["CommandStatementSubstraitPlan", "CommandGetXdbcTypeInfo", "CommandThatNobodyKnows"] {
        let status = weir.info(FlightDescriptor::new_cmd(any(name))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
    }
    for name in ["BeginTransaction", "EndTransaction", "BeginSavepoint", "CreatePreparedSubstraitPlan"] {
        assert_eq!(
            calls.do_action(Action::new(name, "")).await.unwrap_err().code(),
            Code::Unimplemented,
            "{name}"
        );
    }
    let update = CommandStatementUpdate { query: "DELETE FROM orders".into(), transaction_id: None };
    let update =
        FlightData::new().with_descriptor(FlightDescriptor::new_cmd(update.as_any().encode_to_vec()));
    let status = calls.do_put(futures::stream::iter([update])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let publish = FlightData::new().with_descriptor(path);
    let status = calls.do_put(futures::stream::iter([publish])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let in_transaction =
        CommandStatementQuery { query: "SELECT 1".into(), transaction_id: Some(b"t".as_slice().into()) };
    assert_eq!(weir.info_of_sql(&in_transaction).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let mut calls = weir.calls.clone();
    for bytes in [&b"\xff\xff"[..], b"", b"{", b"\x0a\xff\xff\xff\xff\x0f", b"\0weir\x01"] {
        let descriptor = FlightDescriptor::new_cmd(bytes.to_vec());
        assert_eq!(weir.info(descriptor).await.unwrap_err().code(), Code::InvalidArgument, "{bytes:?}");
        assert_eq!(
            weir.messages(bytes.to_vec()).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bytes:?}"
        );
    }
    for name in [
        "CreatePreparedStatement",
        "ClosePreparedStatement",
        "SetSessionOptions",
        "CancelFlightInfo",
        "Produce",
        "CreateTopic",
    ] {
        let status = calls.do_action(Action::new(name, b"\xff\xff\xff".as_slice())).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
    }
    assert_eq!(calls.do_put(futures::stream::iter([])).await.unwrap_err().code(), Code::InvalidArgument);
    let large = vec![b'{'; 5 << 20];
    assert_eq!(weir.info(FlightDescriptor::new_cmd(large)).await.unwrap_err().code(), Code::InvalidArgument);
    let beyond = Action::new("Produce", vec![b' '; 65 << 20]);
    assert_eq!(calls.do_action(beyond).await.unwrap_err().code(), Code::OutOfRange);

    let cancel = CancelFlightInfoRequest { info: Some(FlightInfo::new()) };
    calls.do_action(Action::new("CancelFlightInfo", cancel.encode_to_vec())).await.unwrap();
    let close = arrow_flight::sql::ActionClosePreparedStatementRequest {
        prepared_statement_handle: b"no handle of ours".as_slice().into(),
    };
    let close = Action::new("ClosePreparedStatement", close.as_any().encode_to_vec());
    calls.do_action(close).await.unwrap();
    assert!(calls.list_actions(Empty {}).await.is_ok());
    assert_eq!(weir.query("SELECT count(*) AS c FROM orders").await.unwrap().num_rows(), 1);
}
