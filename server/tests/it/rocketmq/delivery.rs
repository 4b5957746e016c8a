//! Messages go in, come out to those who asked for them, and come again until they are acknowledged.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_engine::{GroupName, GroupSpec, RetryPolicy};
use weir_server::rocketmq::proto::{
    AckMessageRequest, ClientType, Code, DigestType, FilterType, ForwardMessageToDeadLetterQueueRequest,
    ReceiveMessageRequest, Resource,
};

use super::{
    settings::{Telemetry, consumer},
    *,
};

#[tokio::test]
async fn a_message_comes_out_as_it_went_in() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let mut sent = message("body");
    sent.user_properties.insert("price".to_owned(), "12.50".to_owned());
    if let Some(system) = &mut sent.system_properties {
        system.tag = Some("tag".to_owned());
        system.keys = vec!["k1".to_owned(), "k 2".to_owned()];
        system.born_timestamp = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 });
        system.trace_context = Some("trace".to_owned());
        system.body_encoding = 2;
        system.queue_id = 3;
    }
    let response = client.send(vec![sent.clone()]).await;
    assert_eq!(code(&response.status), Code::Ok);
    let received = client.receive(receive(|_| {})).await.messages();
    let [came] = &received[..] else { panic!("one message: {received:?}") };
    assert_eq!(
        (&came.topic, &came.body, &came.user_properties),
        (&sent.topic, &sent.body, &sent.user_properties)
    );
    let (came, sent) = (system(came), system(&sent));
    assert_eq!((&came.tag, &came.keys, &came.message_id), (&sent.tag, &sent.keys, &sent.message_id));
    assert_eq!((&came.born_timestamp, came.body_encoding), (&sent.born_timestamp, sent.body_encoding));
    assert_eq!((&came.trace_context, came.message_type), (&sent.trace_context, sent.message_type));
    assert_eq!(came.born_host, "127.0.0.1", "the peer's address stands in for a name");
    let digest = came.body_digest.as_ref().unwrap();
    assert_eq!(
        (digest.r#type(), digest.checksum.as_str()),
        (DigestType::Md5, "841A2D689AD86BD1611447453C22C6FC")
    );
    assert_eq!(came.delivery_attempt, Some(1));
    assert_eq!(came.queue_offset, Some(response.entries[0].offset));
    assert_eq!(came.invisible_duration.unwrap().seconds, 10);
    assert!(came.store_timestamp.is_some() && !came.store_host.is_empty());
    assert!(came.delivery_timestamp.is_none() && came.dead_letter_queue.is_none());
    let handle = came.receipt_handle.as_ref().unwrap();
    assert!(!handle.is_empty() && handle.len() <= 1024 && handle.bytes().all(|byte| byte.is_ascii_graphic()));
}

#[tokio::test]
async fn a_batch_is_answered_message_by_message_in_order() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let response = client.send(vec![message("a"), message("b"), message("c")]).await;
    let ids: Vec<_> = response.entries.iter().map(|entry| entry.message_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(response.entries.iter().all(|entry| code(&entry.status) == Code::Ok));
    let offsets: Vec<_> = response.entries.iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, [0, 1, 2], "one request goes to one queue");
    let received = client.receive_all(3).await;
    let order: Vec<_> = received.iter().map(|message| system(message).message_id.as_str()).collect();
    assert_eq!(order, ["a", "b", "c"]);
}

/// The Node client only ever asks for queue 0.
#[tokio::test]
async fn a_receive_on_one_queue_gets_messages_of_all() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    client.send_all(&["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    let received = client.receive_all(8).await;
    assert_eq!(bodies(&received), ["a", "b", "c", "d", "e", "f", "g", "h"]);
    let queues: std::collections::BTreeSet<_> =
        received.iter().map(|message| system(message).queue_id).collect();
    assert_eq!(queues.len(), 4, "single messages go round the queues");
}

#[tokio::test]
async fn filters_decide_what_comes() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    for (body, tag, price) in [
        ("a", Some("red"), Some("5")),
        ("b", Some("blue"), Some("50")),
        ("c", Some("green"), None),
        ("d", None, Some("500")),
    ] {
        let mut sent = message(body);
        sent.user_properties.extend(price.map(|price| ("price".to_owned(), price.to_owned())));
        if let Some(system) = &mut sent.system_properties {
            system.tag = tag.map(str::to_owned);
        }
        assert_eq!(code(&client.send(vec![sent]).await.status), Code::Ok);
    }
    for (group, expression, expected) in [
        ("all", Some(filter(FilterType::Tag, "*")), "abcd"),
        ("empty", Some(filter(FilterType::Tag, "")), "abcd"),
        ("none", None, "abcd"),
        ("untyped", Some(filter(FilterType::Unspecified, "red")), "a"),
        ("two", Some(filter(FilterType::Tag, "red || green")), "ac"),
        ("sql", Some(filter(FilterType::Sql, "price > 5 AND price <= 500")), "bd"),
        ("missing", Some(filter(FilterType::Sql, "price IS NULL OR name = 'a'")), "ac"),
    ] {
        let mut received = Vec::new();
        loop {
            let request = receive(|request| {
                request.group = resource(group);
                request.filter_expression = expression.clone();
                request.long_polling_timeout = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
            });
            let messages = client.receive(request).await.messages();
            if messages.is_empty() {
                break;
            }
            received.extend(messages);
        }
        assert_eq!(bodies(&received).concat(), expected, "{group}");
    }
}

#[tokio::test]
async fn a_poll_waits_as_long_as_asked_and_ends_before_the_deadline_of_the_call() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for (what, poll, deadline_ms, least_ms, most_ms) in [
        ("as asked", seconds(1), 10_000, 1000, 2000),
        ("before the deadline", seconds(40), 1500, 1100, 1499),
        ("what the deadline leaves", None, 2500, 900, 2000),
    ] {
        let start = Instant::now();
        let request = receive(|request| request.long_polling_timeout = poll);
        let received = client.receive_within(request, Duration::from_millis(deadline_ms)).await;
        let took = start.elapsed().as_millis();
        assert_eq!(received.code(), Code::MessageNotFound, "{what}");
        assert!((least_ms..=most_ms).contains(&took), "{what}: took {took} ms");
    }
    let near = client.receive_within(receive(|_| {}), Duration::from_millis(250)).await;
    assert_eq!(near.code(), Code::IllegalPollingTime);
}

#[tokio::test]
async fn a_waiting_poll_is_woken_by_a_message_that_matches() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            let request = receive(|request| {
                request.filter_expression = Some(filter(FilterType::Sql, "name = 'wanted'"));
                request.long_polling_timeout = Some(prost_types::Duration { seconds: 15, nanos: 0 });
            });
            client.receive_within(request, Duration::from_secs(20)).await.messages()
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    client.send_all(&["other", "wanted"]).await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["wanted"]);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn acknowledging_is_done_once_and_may_be_said_again() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    client.send_all(&["a", "b"]).await;
    let received = client.receive_all(2).await;
    let (a, b) = (handle(&received[0]), handle(&received[1]));
    assert_eq!(code(&client.ack(&[a]).await.status), Code::Ok);
    assert_eq!(code(&client.ack(&[a]).await.status), Code::Ok);
    assert_eq!(code(&client.ack(&["garbage"]).await.status), Code::InvalidReceiptHandle);
    let mixed = client.ack(&[a, "garbage", b]).await;
    assert_eq!(code(&mixed.status), Code::MultipleResults);
    let codes: Vec<_> = mixed.entries.iter().map(|entry| code(&entry.status)).collect();
    assert_eq!(codes, [Code::Ok, Code::InvalidReceiptHandle, Code::Ok]);
    assert_eq!(mixed.entries[1].receipt_handle, "garbage");
    assert_eq!(code(&client.ack(&[]).await.status), Code::BadRequest);

    // A handle is good for its group and topic alone.
    client.send_all(&["c"]).await;
    let received = client.receive_all(1).await;
    let request = AckMessageRequest {
        group: resource("strangers"),
        topic: resource(TOPIC),
        entries: vec![AckMessageEntry {
            receipt_handle: handle(&received[0]).to_owned(),
            ..Default::default()
        }],
    };
    let response = client.calls.clone().ack_message(client.request(request)).await.unwrap().into_inner();
    assert_eq!(code(&response.status), Code::InvalidReceiptHandle);
}

#[tokio::test]
async fn a_message_that_is_not_wanted_now_comes_again_under_a_new_handle() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    client.send_all(&["a"]).await;
    let first = client.receive_all(1).await;
    let changed = client.change(handle(&first[0]), Duration::from_secs(60)).await;
    assert_eq!(code(&changed.status), Code::Ok);
    assert_ne!(changed.receipt_handle, handle(&first[0]));
    assert_eq!(code(&client.ack(&[handle(&first[0])]).await.status), Code::InvalidReceiptHandle);
    let again = client.change(&changed.receipt_handle, Duration::ZERO).await;
    assert_eq!(code(&again.status), Code::Ok);
    let second = client.receive_all(1).await;
    assert_eq!(system(&second[0]).delivery_attempt, Some(2));
    assert_eq!(
        code(&client.change(&changed.receipt_handle, Duration::ZERO).await.status),
        Code::InvalidReceiptHandle
    );
    assert_eq!(code(&client.ack(&[handle(&second[0])]).await.status), Code::Ok);
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
}

/// Node up to 1.0.8 asks for milliseconds where its policy says seconds.
#[tokio::test]
async fn a_failing_listener_of_node_does_not_use_all_attempts_up_at_once() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client_named("node", "HTTP", "1.0.8").await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(consumer(ClientType::PushConsumer, FilterType::Tag, "*")).await;
    stream.settings().await;
    client.send_all(&["a"]).await;
    let first = client.receive_all(1).await;
    let changed = client.change(handle(&first[0]), Duration::from_millis(5)).await;
    assert_eq!(code(&changed.status), Code::Ok);
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn a_message_that_fails_too_often_goes_to_the_dead_letters() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let group: GroupName = GROUP.parse().unwrap();
    let retry = RetryPolicy::Customized(vec![Duration::ZERO]);
    let spec = GroupSpec { max_attempts: 3, retry, ..GroupSpec::default() };
    weir.broker.create_group(&group, spec).await.unwrap();
    client.send_all(&["poison"]).await;
    for attempt in 1..=3 {
        let received = client.receive_all(1).await;
        assert_eq!(system(&received[0]).delivery_attempt, Some(attempt));
        assert_eq!(code(&client.change(handle(&received[0]), Duration::ZERO).await.status), Code::Ok);
    }
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
    check_dead_letter(&client, "poison").await;
}

#[tokio::test]
async fn a_client_may_give_a_message_up_twice() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    client.send_all(&["hopeless"]).await;
    let received = client.receive_all(1).await;
    for _ in 0..2 {
        assert_eq!(forward(&client, handle(&received[0])).await, Code::Ok);
    }
    assert_eq!(forward(&client, "garbage").await, Code::InvalidReceiptHandle);
    assert_eq!(code(&client.ack(&[handle(&received[0])]).await.status), Code::Ok);
    check_dead_letter(&client, "hopeless").await;
}

#[tokio::test]
async fn what_a_cancelled_client_did_not_take_comes_again_soon() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    for n in 0..8 {
        let large = Message { body: body.clone(), ..message(&n.to_string()) };
        assert_eq!(code(&client.send(vec![large]).await.status), Code::Ok);
    }
    // The stream is dropped while most of it has not even left the broker.
    let request =
        client.request(receive(|request| request.invisible_duration.as_mut().unwrap().seconds = 600));
    let mut stream = client.calls.clone().receive_message(request).await.unwrap().into_inner();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let start = Instant::now();
    let mut received = Vec::new();
    while received.len() < 8 && start.elapsed() < Duration::from_secs(10) {
        received.extend(client.receive(receive(|_| {})).await.messages());
    }
    let ids: std::collections::BTreeSet<_> =
        received.iter().map(|message| system(message).message_id.as_str()).collect();
    assert_eq!(ids.len(), 8, "the leases of ten minutes did not stay");
    assert_eq!(received.len(), 8);
}

#[tokio::test]
async fn a_cancelled_poll_takes_no_message_with_it() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    for _ in 0..10 {
        let long = receive(|request| {
            request.long_polling_timeout = Some(prost_types::Duration { seconds: 15, nanos: 0 });
            request.invisible_duration.as_mut().unwrap().seconds = 600;
        });
        let stream = client.calls.clone().receive_message(client.request(long)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(stream);
    }
    client.send_all(&["a", "b", "c", "d"]).await;
    let start = Instant::now();
    let mut received = Vec::new();
    while received.len() < 4 && start.elapsed() < Duration::from_secs(10) {
        received.extend(client.receive(receive(|_| {})).await.messages());
    }
    assert_eq!(bodies(&received), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_restart_loses_nothing_and_repeats_nothing_acknowledged() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let group: GroupName = GROUP.parse().unwrap();
    let spec = GroupSpec { lease_min: Duration::from_millis(100), ..GroupSpec::default() };
    weir.broker.create_group(&group, spec).await.unwrap();
    client.send_all(&["a", "b", "c", "d"]).await;
    let short = || {
        receive(|request| {
            request.invisible_duration = Some(prost_types::Duration { seconds: 2, nanos: 0 });
        })
    };
    let mut leased = Vec::new();
    while leased.len() < 4 {
        leased.extend(client.receive(short()).await.messages());
    }
    let by_body = |body: &str| leased.iter().find(|message| message.body == body.as_bytes()).unwrap();
    assert_eq!(code(&client.ack(&[handle(by_body("a"))]).await.status), Code::Ok);
    weir.stop().await;

    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    // A handle of before the restart is still good.
    assert_eq!(code(&client.ack(&[handle(by_body("b"))]).await.status), Code::Ok);
    let mut received = Vec::new();
    let start = Instant::now();
    while received.len() < 2 && start.elapsed() < Duration::from_secs(10) {
        received.extend(client.receive(receive(|_| {})).await.messages());
    }
    assert_eq!(bodies(&received), ["c", "d"]);
    assert!(received.iter().all(|message| system(message).delivery_attempt == Some(2)));
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
}

/// Some clients name the namespace in the resource, some in a header alone.
#[tokio::test]
async fn a_namespace_is_the_same_from_the_resource_and_from_the_header() {
    let dir = directory();
    let options = BrokerOptions {
        auto_create_topics: true,
        retention_disk_percent: 100,
        ..BrokerOptions::new(dir.path())
    };
    let weir = Weir::start_with(options).await;
    let client = weir.client().await;
    let within = Some(Resource { resource_namespace: "shop".to_owned(), name: TOPIC.to_owned() });
    let topic: TopicName = "shop/orders".parse().unwrap();
    weir.broker.topic_or_create(&topic).await.unwrap();
    let sent = Message { topic: within.clone(), ..message("inside") };
    assert_eq!(code(&client.send(vec![sent]).await.status), Code::Ok);
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound, "not in the default one");
    let mut request = client.request(receive(|_| {}));
    request.metadata_mut().insert("x-mq-namespace", "shop".parse().unwrap());
    let mut stream = client.calls.clone().receive_message(request).await.unwrap().into_inner();
    let mut received = Received::default();
    while let Some(response) = stream.next().await {
        received.parts.push(response.unwrap().content.unwrap());
    }
    let messages = received.messages();
    assert_eq!(bodies(&messages), ["inside"]);
    assert_eq!(messages[0].topic, within);
}

pub(super) async fn forward(client: &Client, handle: &str) -> Code {
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: resource(GROUP),
        topic: resource(TOPIC),
        receipt_handle: handle.to_owned(),
        message_id: "id".to_owned(),
        delivery_attempt: 17,
        max_delivery_attempts: 17,
        lite_topic: None,
    };
    let response =
        client.calls.clone().forward_message_to_dead_letter_queue(client.request(request)).await.unwrap();
    code(&response.get_ref().status)
}

async fn check_dead_letter(client: &Client, body: &str) {
    let request: ReceiveMessageRequest = receive(|request| {
        request.group = resource("undertaker");
        request.message_queue.as_mut().unwrap().topic = resource(&format!("%DLQ%{GROUP}"));
        request.long_polling_timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    });
    let dead = client.receive(request.clone()).await.messages();
    assert_eq!(bodies(&dead), [body]);
    let origin = system(&dead[0]).dead_letter_queue.as_ref().expect("a dead letter names its origin");
    assert_eq!((origin.topic.as_str(), origin.message_id.as_str()), (TOPIC, body));
    assert_eq!(system(&dead[0]).delivery_attempt, Some(1));
    assert_eq!(dead[0].user_properties["name"], body);
    let once = receive(|again| {
        again.group = request.group;
        again.message_queue = request.message_queue;
    });
    assert_eq!(client.receive(once).await.code(), Code::MessageNotFound, "it died once");
}

#[tokio::test]
async fn a_fifo_group_gets_the_messages_of_a_message_group_one_after_the_other() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let spec = GroupSpec { fifo: true, ..GroupSpec::default() };
    weir.broker.create_group(&GROUP.parse::<GroupName>().unwrap(), spec).await.unwrap();
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(consumer(ClientType::PushConsumer, FilterType::Sql, "TRUE")).await;
    let Some(proto::settings::PubSub::Subscription(told)) = stream.settings().await.pub_sub else {
        panic!("a consumer's settings are answered with a consumer's")
    };
    assert_eq!(told.fifo, Some(true));
    let lined = |body: &str, group: &str| {
        let mut message = message(body);
        message.system_properties.as_mut().unwrap().message_group = Some(group.to_owned());
        message
    };
    let response = client.send(vec![lined("a1", "a"), lined("a2", "a"), lined("b1", "b")]).await;
    assert_eq!(code(&response.status), Code::Ok);
    let one = |id: &'static str| {
        receive(move |request| {
            request.batch_size = 1;
            request.attempt_id = Some(id.to_owned());
        })
    };
    let mut first = vec![
        client.receive(one("x")).await.messages().remove(0),
        client.receive(one("y")).await.messages().remove(0),
    ];
    assert_eq!(client.receive(one("z")).await.code(), Code::MessageNotFound, "both groups are held");
    let again = client.receive(one("x")).await.messages().remove(0);
    assert_eq!((&again.body, system(&again).delivery_attempt), (&first[0].body, Some(1)));
    first.sort_by(|left, right| left.body.cmp(&right.body));
    assert_eq!(bodies(&first), ["a1", "b1"]);
    let came = system(&first[0]);
    assert_eq!((came.message_type(), came.message_group.as_deref()), (proto::MessageType::Fifo, Some("a")));
    client.ack(&[came.receipt_handle()]).await;
    assert_eq!(bodies(&client.receive(one("z")).await.messages()), ["a2"]);
}

/// The Go client tries a message that has failed again, but goes on meanwhile with what else it was given.
#[tokio::test]
async fn go_gets_one_message_of_a_message_group_at_a_time() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let spec = GroupSpec { fifo: true, ..GroupSpec::default() };
    weir.broker.create_group(&GROUP.parse::<GroupName>().unwrap(), spec).await.unwrap();
    let client = weir.client_named("a-client@2", "GO", "5.1.4").await;
    let mut lined = ["1", "2", "3"].map(message);
    for message in &mut lined {
        message.system_properties.as_mut().unwrap().message_group = Some("a".to_owned());
    }
    assert_eq!(code(&client.send(lined.to_vec()).await.status), Code::Ok);
    for body in ["1", "2", "3"] {
        let came = client.receive(receive(|_| ())).await.messages();
        assert_eq!(bodies(&came), [body]);
        assert_eq!(client.receive(receive(|_| ())).await.code(), Code::MessageNotFound, "{body} is held");
        client.ack(&[system(&came[0]).receipt_handle()]).await;
    }
}
