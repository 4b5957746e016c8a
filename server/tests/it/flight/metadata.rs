//! What database tools ask before they show anything.

use arrow_array::{Array as _, cast::AsArray as _, types::UInt32Type};
use arrow_flight::{
    Action, IpcMessage,
    sql::{
        CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
        CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
        CommandGetTables,
    },
};
use arrow_schema::{DataType, Field};

use super::*;

fn fields(batch: &RecordBatch) -> Vec<(String, DataType, bool)> {
    let field = |f: &Arc<Field>| (f.name().clone(), f.data_type().clone(), f.is_nullable());
    batch.schema().fields().iter().map(field).collect()
}

fn expected(names: &[(&str, DataType, bool)]) -> Vec<(String, DataType, bool)> {
    names.iter().map(|(name, data_type, null)| ((*name).to_owned(), data_type.clone(), *null)).collect()
}

fn text(name: &'static str, nullable: bool) -> (&'static str, DataType, bool) {
    (name, DataType::Utf8, nullable)
}

fn tables() -> CommandGetTables {
    CommandGetTables::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_schemas_that_adbc_compares_with() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let catalogs = weir.ask(CommandGetCatalogs {}).await.unwrap();
    assert_eq!(fields(&catalogs), expected(&[text("catalog_name", false)]));
    assert_eq!(texts(&catalogs, "catalog_name"), ["weir"]);

    let schemas = weir.ask(CommandGetDbSchemas::default()).await.unwrap();
    assert_eq!(fields(&schemas), expected(&[text("catalog_name", true), text("db_schema_name", false)]));
    let names = texts(&schemas, "db_schema_name");
    assert!(names.contains(&"public".to_owned()) && names.contains(&"weir".to_owned()), "{names:?}");

    let types = weir.ask(CommandGetTableTypes {}).await.unwrap();
    assert_eq!(fields(&types), expected(&[text("table_type", false)]));

    let mut columns = vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("table_type", false),
    ];
    assert_eq!(fields(&weir.ask(tables()).await.unwrap()), expected(&columns));
    columns.push(("table_schema", DataType::Binary, false));
    let with_schema = weir.ask(CommandGetTables { include_schema: true, ..tables() }).await.unwrap();
    assert_eq!(fields(&with_schema), expected(&columns));

    let keys =
        weir.ask(CommandGetPrimaryKeys { table: "orders".into(), ..Default::default() }).await.unwrap();
    let columns = [
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        ("key_sequence", DataType::Int32, false),
        text("key_name", true),
    ];
    assert_eq!((fields(&keys), keys.num_rows()), (expected(&columns), 0));

    let columns = [
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        ("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        ("update_rule", DataType::UInt8, false),
        ("delete_rule", DataType::UInt8, false),
    ];
    for keys in [
        weir.ask(CommandGetImportedKeys { table: "orders".into(), ..Default::default() }).await.unwrap(),
        weir.ask(CommandGetExportedKeys { table: "orders".into(), ..Default::default() }).await.unwrap(),
        weir.ask(CommandGetCrossReference::default()).await.unwrap(),
    ] {
        assert_eq!((fields(&keys), keys.num_rows()), (expected(&columns), 0));
    }

    let info = weir.ask(CommandGetSqlInfo { info: vec![8] }).await.unwrap();
    assert_eq!(info["info_name"].as_primitive::<UInt32Type>().values(), &[8]);
    let DataType::Union(children, _) = info["value"].data_type() else {
        panic!("{:?}", info["value"].data_type())
    };
    let children: Vec<_> = children.iter().map(|(_, field)| field.name().clone()).collect();
    let names = [
        "string_value",
        "bool_value",
        "bigint_value",
        "int32_bitmask",
        "string_list",
        "int32_to_int32_list_map",
    ];
    assert_eq!(children, names);
    assert_eq!(info["value"].as_union().type_id(0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_found_by_name_pattern_and_type() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "100%|off"})).await.unwrap();
    weir.act("CreateTopic", json!({"topic": "ns/deep"})).await.unwrap();
    let find = async |command: CommandGetTables| texts(&weir.ask(command).await.unwrap(), "table_name");
    let named = |pattern: &str| CommandGetTables {
        table_name_filter_pattern: Some(pattern.to_owned()),
        table_types: vec!["TABLE".into()],
        ..tables()
    };
    assert_eq!(find(named("orders")).await, ["orders"]);
    assert_eq!(find(named("ord%")).await, ["orders"]);
    assert_eq!(find(named("100%|off")).await, ["100%|off"]);
    assert_eq!(find(named("select * from orders where region like 'E%'")).await, Vec::<String>::new());
    assert_eq!(find(named("%\\")).await, Vec::<String>::new());

    let typed = |types: &[&str]| CommandGetTables {
        table_types: types.iter().map(|name| (*name).to_owned()).collect(),
        ..tables()
    };
    let grafana = find(typed(&["BASE TABLE", "table"])).await;
    assert_eq!(grafana, ["deep", "100%|off", "orders"]);
    assert!(find(typed(&["SYSTEM TABLE"])).await.iter().all(|name| name != "orders"));
    assert!(!find(typed(&["SYSTEM TABLE"])).await.is_empty());
    assert_eq!(
        find(CommandGetTables { catalog: Some(String::new()), ..tables() }).await,
        Vec::<String>::new()
    );
    let in_schema = CommandGetTables { db_schema_filter_pattern: Some("n_".into()), ..typed(&["TABLE"]) };
    assert_eq!(find(in_schema).await, ["deep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_table_is_the_one_that_queries_have() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let command = CommandGetTables {
        table_name_filter_pattern: Some("orders".into()),
        include_schema: true,
        ..tables()
    };
    let answer = weir.ask(command).await.unwrap();
    let message = answer["table_schema"].as_binary::<i32>().value(0).to_vec();
    let told = Schema::try_from(IpcMessage(message.into())).unwrap();
    let queried = weir.query("SELECT * FROM orders LIMIT 1").await.unwrap().schema();
    let plain = |schema: &Schema| {
        schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>()
    };
    assert_eq!(plain(&told), plain(&queried));
    assert_eq!(told.field_with_name("n").unwrap().metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"], "BIGINT");
}

/// What the JDBC driver sends when DBeaver opens a connection and a table, in its order.
#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_jdbc_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let mut client = weir.sql_client().await;
    client.handshake("user", "password").await.unwrap();
    // SetSessionOptionsRequest { session_options: { "catalog": "weir" } }, as a driver encodes it.
    let entry = [&b"\x0a\x07catalog\x12\x06\x0a\x04weir"[..]].concat();
    let body = [&[0x0a, u8::try_from(entry.len()).unwrap()][..], &entry].concat();
    let set = weir.calls.clone().do_action(Action::new("SetSessionOptions", body)).await.unwrap();
    assert!(set.metadata().contains_key("set-cookie"));
    assert!(set.into_inner().message().await.unwrap().unwrap().body.is_empty());

    let info = weir.ask(CommandGetSqlInfo { info: vec![] }).await.unwrap();
    assert!(info.num_rows() > 80, "{}", info.num_rows());
    weir.ask(CommandGetCatalogs {}).await.unwrap();
    let schemas = CommandGetDbSchemas { catalog: Some("weir".into()), db_schema_filter_pattern: None };
    assert!(weir.ask(schemas).await.unwrap().num_rows() >= 2);
    weir.ask(CommandGetTableTypes {}).await.unwrap();
    let all = CommandGetTables {
        catalog: Some("weir".into()),
        db_schema_filter_pattern: Some("public".into()),
        table_name_filter_pattern: Some("%".into()),
        table_types: vec!["TABLE".into(), "VIEW".into()],
        include_schema: false,
    };
    let found = weir.ask(all.clone()).await.unwrap();
    assert!(texts(&found, "table_name").contains(&"orders".to_owned()));
    for column in ["catalog_name", "db_schema_name"] {
        assert_eq!(found[column].null_count(), 0, "{column}");
    }
    let one =
        CommandGetTables { table_name_filter_pattern: Some("orders".into()), include_schema: true, ..all };
    assert_eq!(weir.ask(one).await.unwrap().num_rows(), 1);
    let mut statement = client.prepare("SELECT * FROM orders".into(), None).await.unwrap();
    let info = statement.execute().await.unwrap();
    assert_eq!(weir.read_all(info).await.unwrap().num_rows(), 40);
    statement.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_schema_has_types_that_some_client_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    for sql in [
        "SELECT * FROM orders",
        "SELECT upper(region) AS u, region || '!' AS c, now() AS t, length(region) AS l, count(*) AS n FROM orders \
         GROUP BY region",
        "SELECT date_trunc('day', store_time) AS d, CAST(store_time AS DATE) AS e, row_number() OVER () AS r FROM orders",
        "SELECT * FROM information_schema.tables",
    ] {
        let batch = weir.query(sql).await.unwrap();
        for field in batch.schema().fields() {
            let data_type = format!("{}", field.data_type());
            let bad = ["View", "Large", "Dictionary", "UInt", "+00:00"];
            assert!(bad.iter().all(|bad| !data_type.contains(bad)), "{sql}: {} is {data_type}", field.name());
        }
    }
}
