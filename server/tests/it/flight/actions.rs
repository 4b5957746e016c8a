//! Actions: topics, groups, offsets, messages.

use arrow_flight::{Action, Empty};
use serde_json::json;
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_told_changed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    let made = weir.act("CreateTopic", json!({"topic": "a", "queues": 2, "class": "async"})).await.unwrap();
    assert_eq!((&made["name"], made["queues"].as_array().unwrap().len()), (&json!("a"), 2));
    assert_eq!(weir.act("DescribeTopic", json!({"topic": "a"})).await.unwrap(), made);
    assert_eq!(weir.act("ListTopics", json!({})).await.unwrap()["topics"], json!([made]));
    let grown = weir.act("AlterTopic", json!({"topic": "a", "queues": 3})).await.unwrap();
    assert_eq!(grown["queues"].as_array().unwrap().len(), 3);
    assert_eq!(weir.act("DeleteTopic", json!({"topic": "a"})).await.unwrap()["messages"], 0);

    for (name, body, code) in [
        ("DescribeTopic", json!({"topic": "a"}), Code::NotFound),
        ("DeleteTopic", json!({"topic": "a"}), Code::NotFound),
        ("CreateTopic", json!({"topic": "a b"}), Code::InvalidArgument),
        ("CreateTopic", json!({"topic": "b", "colour": 1}), Code::InvalidArgument),
        ("CreateTopic", json!({"topic": "b", "type": "odd"}), Code::InvalidArgument),
        ("CreateGroup", json!({"group": "b", "priority_factor": 101}), Code::InvalidArgument),
        ("CreateTopic", json!({}), Code::InvalidArgument),
        ("TraceMessage", json!({"message": "m"}), Code::NotFound),
        ("TraceMessage", json!({"message": "m", "topic": "a"}), Code::NotFound),
        ("TraceMessage", json!({"message": "m", "key": "k"}), Code::InvalidArgument),
        ("TraceMessage", json!({"topic": "a"}), Code::InvalidArgument),
        ("TraceMessage", json!({"message": 5}), Code::InvalidArgument),
        ("TraceMessage", json!({"message": "m", "limit": 0}), Code::InvalidArgument),
        ("Nonsense", json!({}), Code::Unimplemented),
    ] {
        assert_eq!(weir.act(name, body.clone()).await, Err(code), "{name} {body}");
    }
    weir.act("CreateTopic", json!({"topic": "a"})).await.unwrap();
    assert_eq!(weir.act("CreateTopic", json!({"topic": "a"})).await, Err(Code::AlreadyExists));
    assert_eq!(weir.act("DescribeTopic", json!({"topic": "a"})).await.unwrap()["type"], "mixed");
    let fifo = weir.act("AlterTopic", json!({"topic": "a", "type": "fifo"})).await.unwrap();
    assert_eq!(fifo["type"], "fifo");
    let normal = json!({"topic": "a", "messages": [{"message_group": "g"}, {"body": "x"}]});
    assert_eq!(weir.act("Produce", normal).await, Err(Code::InvalidArgument));
    let lined = json!({"topic": "a", "messages": [{"message_group": "g"}]});
    assert_eq!(weir.act("Produce", lined).await.unwrap()["stored"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_made_told_changed_reset_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let made =
        weir.act("CreateGroup", json!({"group": "g", "max_attempts": 3, "start": "latest"})).await.unwrap();
    assert_eq!((&made["name"], &made["spec"]["max_attempts"]), (&json!("g"), &json!(3)));
    let changed = weir.act("AlterGroup", json!({"group": "g", "lease_min_ms": 500})).await.unwrap();
    assert_eq!(
        (&changed["spec"]["lease_min_ms"], &changed["spec"]["max_attempts"]),
        (&json!(500), &json!(3))
    );
    assert_eq!(weir.act("ListGroups", json!({})).await.unwrap()["groups"].as_array().unwrap().len(), 1);
    weir.act("ResetGroup", json!({"group": "g", "topic": "orders", "to": "earliest"})).await.unwrap();
    assert_eq!(
        weir.act("ResetGroup", json!({"group": "g", "topic": "nowhere", "to": "latest"})).await,
        Err(Code::NotFound)
    );
    let counted = weir.act("CountWaiting", json!({"group": "g"})).await.unwrap();
    assert_eq!((&counted["complete"], &counted["topics"][0]["topic"]), (&json!(true), &json!("orders")));
    let queues = counted["topics"][0]["queues"].as_array().unwrap();
    let numbers: Vec<_> =
        queues.iter().map(|queue| (queue["queue"].clone(), queue["open"].clone())).collect();
    assert_eq!(numbers, [(json!(0), json!(0)), (json!(1), json!(0))]);
    assert_eq!(weir.act("CountWaiting", json!({"group": "nobody"})).await, Err(Code::NotFound));
    assert_eq!(
        weir.act("CountWaiting", json!({"group": "g", "within": 1})).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(weir.act("DeleteGroup", json!({"group": "g"})).await.unwrap(), json!({}));
    assert_eq!(weir.act("DescribeGroup", json!({"group": "g"})).await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_told_by_place_and_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::with_orders(dir.path()).await;
    let offsets = async |body| weir.act("ListOffsets", body).await.map(|answer| answer["offsets"].clone());
    assert_eq!(offsets(json!({"topic": "orders", "at": "earliest"})).await, Ok(json!({"0": 0, "1": 0})));
    assert_eq!(offsets(json!({"topic": "orders"})).await, Ok(json!({"0": 20, "1": 20})));
    assert_eq!(offsets(json!({"topic": "orders", "queues": [1]})).await, Ok(json!({"1": 20})));
    let past = json!({"topic": "orders", "at": {"timestamp": "2020-01-01T00:00:00Z"}});
    assert_eq!(offsets(past).await, Ok(json!({"0": 0, "1": 0})));
    let future = json!({"topic": "orders", "at": {"timestamp": i64::MAX}});
    assert_eq!(offsets(future).await, Ok(json!({"0": 20, "1": 20})));
    assert_eq!(offsets(json!({"topic": "orders", "queues": [2]})).await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_bad_message_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    weir.act("CreateTopic", json!({"topic": "a", "queues": 1})).await.unwrap();
    let large = "x".repeat(weir_engine::limits::BODY_BYTES_MAX + 1);
    let messages = json!([{"body": "good"}, {"body": large}]);
    let produce = weir.act("Produce", json!({"topic": "a", "messages": messages})).await;
    assert_eq!(produce, Err(Code::InvalidArgument));
    assert_eq!(weir.act("Produce", json!({"topic": "b", "messages": [{}]})).await, Err(Code::NotFound));
    let ends = weir.act("ListOffsets", json!({"topic": "a"})).await.unwrap();
    assert_eq!(ends["offsets"], json!({"0": 0}));
    let stored = weir.act("Produce", json!({"topic": "a", "messages": [{"body": {"any": ["json"]}}]})).await;
    assert_eq!(stored, Ok(json!({"stored": 1, "offsets": [[0, 0]]})));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_actions_are_listed_and_the_broker_tells_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    let actions: Vec<_> =
        weir.calls.clone().list_actions(Empty {}).await.unwrap().into_inner().try_collect().await.unwrap();
    for name in ["CreatePreparedStatement", "CloseSession", "Produce", "ListOffsets", "BrokerInfo"] {
        assert!(actions.iter().any(|action| action.r#type == name), "{name}");
    }
    let info = weir.act("BrokerInfo", json!({})).await.unwrap();
    assert_eq!(info["advertised"], weir.address);
    assert_eq!(info["version"], VERSION);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_without_a_body_is_an_empty_object() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::start(dir.path()).await;
    let answer = weir.calls.clone().do_action(Action::new("ListTopics", "")).await.unwrap();
    let result = answer.into_inner().message().await.unwrap().unwrap();
    assert_eq!(result.body, r#"{"topics":[]}"#);
}
