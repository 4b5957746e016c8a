//! `weir trace` on the real binary: what it tells, in both shapes, and how it ends.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cli::{Ran, Served, data, refused, run};

const LINES: &str = r#"{"message_id":"one","keys":["order 1","eu"],"tag":"new","properties":{"price":5,"region":"EU"},"body":"a"}
{"message_id":"two","keys":["order 2","eu"],"properties":{"price":20},"body":"bb"}
{"message_id":"three","keys":["order 1"],"properties":{"price":30},"body":"ccc"}
"#;

fn group<'t>(traced: &'t Value, name: &str) -> &'t Value {
    let groups = traced["messages"][0]["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == name).unwrap_or_else(|| panic!("{traced}"))
}

#[track_caller]
fn says(ran: &Ran, texts: &[&str]) {
    assert_eq!(ran.code, 0, "{ran:?}");
    for text in texts {
        assert!(ran.out.contains(text), "{text:?} is not in {}", ran.out);
    }
}

#[test]
fn a_message_is_followed_from_its_producer_to_its_groups_over_a_kill() {
    let data = data();
    let mut broker = Served::start(data.path());
    broker.json(&["topic", "create", "orders", "--queues", "1"]);
    assert_eq!(broker.run_with_input(&["produce", "orders"], LINES).code, 0);
    let consume = |broker: &Served, name: &str, words: &[&str]| {
        let ran = broker
            .run(&[&["consume", "orders", "--group", name, "--wait", "100ms", "--json"], words].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.lines().count()
    };
    assert_eq!(consume(&broker, "billing", &["--where", "price > 10"]), 2);
    assert_eq!(consume(&broker, "held", &["--no-ack"]), 3);
    for start in 0..2 {
        if start == 1 {
            broker.signal(Signal::KILL);
            drop(broker);
            broker = Served::start(data.path());
        }
        let traced = broker.json(&["trace", "two"]);
        assert_eq!((&traced["more"], &traced["searched"]["complete"]), (&json!(false), &json!(true)));
        assert_eq!(
            (&traced["searched"]["records"], &traced["journal"]["begins_ms"]),
            (&json!(1), &Value::Null)
        );
        let message = &traced["messages"][0];
        assert_eq!(
            (&message["topic"], &message["queue"], &message["offset"]),
            (&json!("orders"), &json!(0), &json!(1))
        );
        assert_eq!(
            (&message["keys"], &message["properties"]),
            (&json!(["order 2", "eu"]), &json!(["price"]))
        );
        assert_eq!(message["body_bytes"], 2);
        let billing = group(&traced, "billing");
        assert_eq!(billing["state"], "acknowledged");
        let events: Vec<_> =
            billing["events"].as_array().unwrap().iter().map(|event| &event["event"]).collect();
        assert_eq!(events, ["leased", "acknowledged"]);
        assert_eq!(billing["events"][0]["selector"], "price > 10");
        let stored_ms = message["store_time_ms"].as_i64().unwrap();
        assert!(billing["at_ms"].as_i64().unwrap() >= stored_ms);
        let held = group(&traced, "held");
        assert_eq!((&held["state"], &held["attempt"]), (&json!("leased"), &json!(1)));
        assert!(held["until_ms"].as_i64().unwrap() > stored_ms);
        let traced = broker.json(&["trace", "one", "--topic", "orders"]);
        assert_eq!(group(&traced, "billing")["state"], "not_selected");
        assert_eq!(group(&traced, "billing")["certain"], true);
        assert_eq!(group(&traced, "billing")["selectors"][0]["truth"], "false");

        says(
            &broker.run(&["trace", "two"]),
            &[
                "message two",
                "place       topic orders, queue 0, offset 1",
                "keys        order 2, eu",
                "group billing: acknowledged at 20",
                "selector price > 10: true, has judged offsets 0 to 3",
                "delivery 1",
                "group held: leased to ",
                "The group journal holds everything",
            ],
        );
        says(&broker.run(&["trace", "one"]), &["group billing: not selected\n"]);
        let by_key = broker.json(&["trace", "order 1", "--key", "--limit", "1"]);
        assert_eq!((&by_key["messages"][0]["message_id"], &by_key["more"]), (&json!("three"), &json!(true)));
        says(
            &broker.run(&["trace", "order 1", "--key", "--limit", "1"]),
            &["message three", "There are more, older ones"],
        );
        let place = broker.json(&["trace", "0:1", "--topic", "orders"]);
        assert_eq!(place["messages"][0]["message_id"], "two");
    }
    broker.stop();
}

#[test]
fn what_cannot_be_traced_is_told_as_everywhere() {
    let data = data();
    let broker = Served::start(data.path());
    broker.json(&["topic", "create", "orders", "--queues", "2"]);
    assert_eq!(broker.run_with_input(&["produce", "orders"], LINES).code, 0);
    refused(
        &broker.run(&["trace", "four"]),
        3,
        "no message with the id four among the 3 that all topics have retained",
    );
    refused(&broker.run(&["trace", "four", "--topic", "orders"]), 3, "that topic orders has retained");
    refused(&broker.run(&["trace", "order", "--key"]), 3, "no message with the key order");
    refused(&broker.run(&["trace", "one", "--topic", "order"]), 3, "did you mean orders?");
    refused(&broker.run(&["trace", "one", "--topic", "a b"]), 4, "allowed are letters");
    refused(&broker.run(&["trace", "7:0", "--topic", "orders"]), 3, "there is no queue 7");
    refused(&broker.run(&["trace", "0:9", "--topic", "orders"]), 3, "no message at 0:9");
    refused(&broker.run(&["trace", ""]), 4, "name a message by its id");
    refused(&broker.run(&["trace"]), 2, "MESSAGE");
    refused(&broker.run(&["trace", "one", "--limit", "101"]), 4, "1 to 100");
    refused(&broker.run(&["trace", "one", "--within", "soon"]), 2, "--within");
    refused(&broker.run(&["trace", "four", "--within", "0s"]), 1, "give it more with --within");
    refused(&broker.run(&["trace", &"x".repeat(20_000)]), 4, "the limit is 16384");
    for hostile in
        ["' OR '1'='1", "\u{1b}]0;x\u{7}", "../../etc/passwd", "%s%n", "one two", "0:18446744073709551616"]
    {
        let ran = broker.run(&["trace", hostile]);
        refused(&ran, 3, "no message with the id");
        assert!(!ran.err.trim_end().contains(char::is_control), "{ran:?}");
    }
    let ran = broker.run(&["trace", "four", "--json"]);
    let error: Value = serde_json::from_str(ran.err.trim()).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exit"]), (&json!("not_found"), &json!(3)));
    refused(&run(&["trace", "one", "--server", "grpc://127.0.0.1:1"], ""), 5, "weir serve");
    broker.stop();
}

#[test]
fn who_has_no_account_traces_nothing() {
    let data = data();
    let accounts = data.path().join("accounts.toml");
    fs::write(&accounts, "[[account]]\nname = \"ops\"\nsecret = \"correct horse\"\n").unwrap();
    fs::set_permissions(&accounts, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = data.path().join("weir.toml");
    fs::write(&config, "accounts = \"accounts.toml\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let broker = Served::start_with(&data.path().join("data"), &["--config", config.to_str().unwrap()]);
    refused(&broker.run(&["trace", "one"]), 4, "account");
    let secret = data.path().join("secret");
    fs::write(&secret, "correct horse\n").unwrap();
    let known = ["trace", "one", "--user", "ops", "--password-file", secret.to_str().unwrap()];
    refused(&broker.run(&known), 3, "no message with the id one");
    broker.stop();
}
