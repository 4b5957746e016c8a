//! Bad input: each is told what is wrong, and nobody else is disturbed.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weir_server::rocketmq::proto::{Address, ClientType, Code, FilterType, MessageType, QueryRouteRequest};

use super::*;

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_refused_with_its_code_and_not_stored() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let spoiled = |spoil: &dyn Fn(&mut Message)| {
        let mut spoiled = message("bad");
        spoil(&mut spoiled);
        vec![spoiled]
    };
    let with = |spoil: &dyn Fn(&mut SystemProperties)| {
        spoiled(&|message| spoil(message.system_properties.as_mut().unwrap()))
    };
    let other_topic = Message { topic: resource("other"), ..message("b") };
    for (what, messages, expected) in [
        ("no messages", vec![], Code::MessageCorrupted),
        ("two topics", vec![message("a"), other_topic], Code::MessageCorrupted),
        ("no topic", spoiled(&|message| message.topic = None), Code::IllegalTopic),
        ("an illegal topic", spoiled(&|message| message.topic = resource("a topic")), Code::IllegalTopic),
        ("a reserved topic", spoiled(&|message| message.topic = resource("TBW102")), Code::IllegalTopic),
        ("an unknown topic", spoiled(&|message| message.topic = resource("nothing")), Code::TopicNotFound),
        ("no body", spoiled(&|message| message.body = Default::default()), Code::MessageBodyEmpty),
        (
            "a large body",
            spoiled(&|message| message.body = vec![0; (4 << 20) + 1].into()),
            Code::MessageBodyTooLarge,
        ),
        (
            "a reserved name",
            spoiled(&|message| {
                message.user_properties.insert("TAGS".into(), "x".into());
            }),
            Code::IllegalMessagePropertyKey,
        ),
        (
            "many properties",
            spoiled(&|message| {
                message.user_properties = (0..129).map(|n| (n.to_string(), "v".into())).collect();
            }),
            Code::MessagePropertiesTooLarge,
        ),
        (
            "large properties",
            spoiled(&|message| {
                message.user_properties.insert("big".into(), "x".repeat(16 << 10));
            }),
            Code::MessagePropertiesTooLarge,
        ),
        (
            "no system properties",
            spoiled(&|message| message.system_properties = None),
            Code::IllegalMessageId,
        ),
        ("a bar in the tag", with(&|system| system.tag = Some("a|b".into())), Code::IllegalMessageTag),
        ("a blank key", with(&|system| system.keys = vec![" ".into()]), Code::IllegalMessageKey),
        (
            "a long message group",
            with(&|system| system.message_group = Some("g".repeat(64))),
            Code::IllegalMessageGroup,
        ),
        (
            "a delayed transaction",
            with(&|system| {
                system.message_type = MessageType::Transaction.into();
                system.delivery_timestamp = Some(Default::default());
            }),
            Code::MessagePropertyConflictWithType,
        ),
        (
            "a transaction in a message group",
            with(&|system| {
                system.message_type = MessageType::Transaction.into();
                system.message_group = Some("g".into());
            }),
            Code::MessagePropertyConflictWithType,
        ),
        (
            "a lite message",
            with(&|system| system.lite_topic = Some("l".into())),
            Code::MessagePropertyConflictWithType,
        ),
        ("a priority", with(&|system| system.priority = Some(1)), Code::MessagePropertyConflictWithType),
        (
            "a good one and a bad one",
            vec![message("good"), spoiled(&|message| message.body = Default::default()).remove(0)],
            Code::MessageBodyEmpty,
        ),
    ] {
        let response = client.send(messages).await;
        assert_eq!(code(&response.status), expected, "{what}: {response:?}");
        assert!(response.entries.is_empty(), "{what}");
        assert!(!response.status.unwrap().message.is_empty(), "{what}: a refusal says why");
    }
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound, "nothing was stored");
}

#[tokio::test]
async fn a_receive_that_cannot_be_is_refused_with_its_code() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    type Change<'a> = &'a dyn Fn(&mut ReceiveMessageRequest);
    let cases: [(&str, Change<'_>, Code); 19] = [
        ("no queue", &|request| request.message_queue = None, Code::IllegalTopic),
        ("no topic", &|request| request.message_queue = Some(MessageQueue::default()), Code::IllegalTopic),
        ("an unknown topic", &|request| topic(request, "nothing"), Code::TopicNotFound),
        ("an illegal topic", &|request| topic(request, "rmq_sys_x"), Code::IllegalTopic),
        ("no group", &|request| request.group = None, Code::IllegalConsumerGroup),
        ("an illegal group", &|request| request.group = resource("a b"), Code::IllegalConsumerGroup),
        (
            "a reserved group",
            &|request| request.group = resource("CID_RMQ_SYS_x"),
            Code::IllegalConsumerGroup,
        ),
        ("no lease", &|request| request.invisible_duration = None, Code::IllegalInvisibleTime),
        ("a short lease", &|request| request.invisible_duration = seconds(9), Code::IllegalInvisibleTime),
        (
            "a long lease",
            &|request| request.invisible_duration = seconds(12 * 3600 + 1),
            Code::IllegalInvisibleTime,
        ),
        (
            "a negative lease",
            &|request| request.invisible_duration = seconds(-10),
            Code::IllegalInvisibleTime,
        ),
        ("half a selector", &|request| sql(request, "a = "), Code::IllegalFilterExpression),
        ("an empty selector", &|request| sql(request, " "), Code::IllegalFilterExpression),
        ("deep nesting", &|request| sql(request, &"(".repeat(100_000)), Code::IllegalFilterExpression),
        ("many terms", &|request| sql(request, &"a=1 OR ".repeat(50_000)), Code::IllegalFilterExpression),
        (
            "no tag",
            &|request| request.filter_expression = Some(filter(FilterType::Tag, "||")),
            Code::IllegalFilterExpression,
        ),
        ("an empty batch", &|request| request.batch_size = 0, Code::BadRequest),
        ("a long attempt id", &|request| request.attempt_id = Some("a".repeat(256)), Code::BadRequest),
        ("a negative poll", &|request| request.long_polling_timeout = seconds(-1), Code::IllegalPollingTime),
    ];
    for (what, change, expected) in cases {
        let received = client.receive(receive(|request| change(request))).await;
        assert_eq!(received.code(), expected, "{what}");
    }
    let extreme = receive(|request| {
        request.batch_size = i32::MAX;
        request.invisible_duration = Some(prost_types::Duration { seconds: i64::MAX, nanos: i32::MIN });
        request.auto_renew = true;
        request.attempt_id = Some("a".repeat(255));
    });
    assert_eq!(client.receive(extreme).await.code(), Code::MessageNotFound, "renewed leases name no length");
}

#[tokio::test]
async fn other_calls_with_bad_input_are_refused_with_their_code() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    for handle in ["", "garbage", "\u{1F980}", &"A".repeat(5000), "AAAA-____"] {
        assert_eq!(code(&client.ack(&[handle]).await.status), Code::InvalidReceiptHandle, "{handle}");
        let changed = client.change(handle, Duration::ZERO).await;
        assert_eq!(code(&changed.status), Code::InvalidReceiptHandle, "{handle}");
    }
    let long = client.change("garbage", Duration::from_secs(12 * 3600 + 1)).await;
    assert_eq!(code(&long.status), Code::IllegalInvisibleTime);

    let port = |port| Endpoints { addresses: vec![Address { host: "h".into(), port }], ..endpoints() };
    let host =
        |host: &str| Endpoints { addresses: vec![Address { host: host.into(), port: 1 }], ..endpoints() };
    for unusable in [
        Endpoints { addresses: vec![], ..endpoints() },
        Endpoints { scheme: 99, ..endpoints() },
        Endpoints { addresses: vec![Address { host: "h".into(), port: 1 }; 17], scheme: 1 },
        Endpoints { addresses: vec![Address { host: "h".into(), port: 1 }; 2], ..endpoints() },
        port(0),
        port(-1),
        port(65_536),
        host(""),
        host(&"h".repeat(254)),
    ] {
        let request =
            client.request(QueryRouteRequest { topic: resource(TOPIC), endpoints: Some(unusable.clone()) });
        let response = client.calls.clone().query_route(request).await.unwrap().into_inner();
        assert_eq!(code(&response.status), Code::IllegalAccessPoint, "{unusable:?}");
    }
}

#[tokio::test]
async fn a_client_is_not_told_codes_that_it_panics_on() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let mut empty = message("a");
    empty.body = Default::default();
    for (language, expected) in [("RUST", Code::MessageCorrupted), ("PYTHON", Code::MessageBodyEmpty)] {
        let client = weir.client_named("client", language, "5.0.0").await;
        let response = client.send(vec![empty.clone()]).await;
        assert_eq!(code(&response.status), expected, "{language}");
    }
}

#[tokio::test]
async fn requests_that_would_take_too_much_memory_and_garbage_disturb_nobody() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let many = SendMessageRequest { messages: vec![Message::default(); 70_000] };
    let status = client.calls.clone().send_message(client.request(many)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let names = proto::HeartbeatRequest {
        group: resource(&"g".repeat(2 << 20)),
        client_type: ClientType::SimpleConsumer.into(),
    };
    let status = client.calls.clone().heartbeat(client.request(names)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);

    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = TcpStream::connect(&weir.address).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
    }
    client.send_all(&["still here"]).await;
    assert_eq!(bodies(&client.receive_all(1).await), ["still here"]);
}

fn topic(request: &mut ReceiveMessageRequest, name: &str) {
    request.message_queue.as_mut().unwrap().topic = resource(name);
}

fn sql(request: &mut ReceiveMessageRequest, expression: &str) {
    request.filter_expression = Some(filter(FilterType::Sql, expression));
}
