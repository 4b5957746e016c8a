//! The table of bad input and its codes, a line each, in the order in which the protocol lists them.
//!
//! Not among them: credentials, since there are no accounts; transaction ids; and lite topics, which `lite.rs` has.

use std::time::Duration;

use weir_engine::{GroupName, RetryPolicy};
use weir_server::rocketmq::proto::{
    ClientType, Code, FilterType, GetOffsetRequest, MessageType, PullMessageRequest, QueryAssignmentRequest,
    UpdateOffsetRequest, pull_message_response::Content as Pulled,
};

use super::{
    delivery::forward,
    settings::{heartbeat, route},
    *,
};

struct Table {
    weir: Weir,
    client: Client,
}

impl Table {
    /// The code of a message that is spoiled in one place.
    async fn sent(&self, spoil: impl FnOnce(&mut Message, &mut SystemProperties)) -> Code {
        let mut message = message("bad");
        let mut system = message.system_properties.take().unwrap();
        spoil(&mut message, &mut system);
        message.system_properties = Some(system);
        code(&self.client.send(vec![message]).await.status)
    }

    /// The code of a message with a property.
    async fn property(&self, name: &str, value: &str) -> Code {
        self.sent(|message, _| drop(message.user_properties.insert(name.to_owned(), value.to_owned()))).await
    }

    /// The code of a receive that is spoiled in one place.
    async fn received(&self, spoil: impl FnOnce(&mut ReceiveMessageRequest)) -> Code {
        self.client.receive(receive(spoil)).await.code()
    }

    async fn assigned(&self, topic: &str, group: &str, endpoints: Option<Endpoints>) -> Code {
        let request = QueryAssignmentRequest { topic: resource(topic), group: resource(group), endpoints };
        let response =
            self.client.calls.clone().query_assignment(self.client.request(request)).await.unwrap();
        code(&response.get_ref().status)
    }

    async fn pulled(&self, queue: i32, offset: i64) -> Code {
        let request = PullMessageRequest {
            group: resource(GROUP),
            message_queue: Some(MessageQueue {
                topic: resource(TOPIC),
                id: queue,
                ..MessageQueue::default()
            }),
            offset,
            batch_size: 1,
            long_polling_timeout: Some(prost_types::Duration::default()),
            ..PullMessageRequest::default()
        };
        let request = self.client.request(request);
        let mut stream = self.client.calls.clone().pull_message(request).await.unwrap().into_inner();
        match stream.next().await.unwrap().unwrap().content {
            Some(Pulled::Status(status)) => status.code(),
            other => panic!("a status comes first: {other:?}"),
        }
    }

    async fn update_offset(&self, offset: i64) -> Code {
        let message_queue = Some(MessageQueue { topic: resource(TOPIC), ..MessageQueue::default() });
        let request = UpdateOffsetRequest { group: resource(GROUP), message_queue, offset };
        let response = self.client.calls.clone().update_offset(self.client.request(request)).await.unwrap();
        code(&response.get_ref().status)
    }

    async fn get_offset(&self) -> Code {
        let message_queue = Some(MessageQueue { topic: resource(TOPIC), ..MessageQueue::default() });
        let request = GetOffsetRequest { group: resource("never"), message_queue };
        let response = self.client.calls.clone().get_offset(self.client.request(request)).await.unwrap();
        code(&response.get_ref().status)
    }

    async fn acked(&self, group: &str, topic: &str, handle: &str) -> Code {
        let entry = AckMessageEntry { receipt_handle: handle.to_owned(), ..AckMessageEntry::default() };
        let request =
            AckMessageRequest { group: resource(group), topic: resource(topic), entries: vec![entry] };
        let response = self.client.calls.clone().ack_message(self.client.request(request)).await.unwrap();
        code(&response.get_ref().status)
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
#[rustfmt::skip]
async fn names_and_access() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let table = Table { client: weir.client().await, weir };
    let nobody = table.weir.client_named("", "JAVA", "5.2.0").await;
    let long_id = table.weir.client_named("i".repeat(256).leak(), "JAVA", "5.2.0").await;
    assert_eq!(code(&nobody.send(vec![message("a")]).await.status), Code::ClientIdRequired);
    assert_eq!(forward(&nobody, "h").await, Code::ClientIdRequired);
    assert_eq!(code(&long_id.send(vec![message("a")]).await.status), Code::RequestHeaderFieldsTooLarge);
    for topic in ["", " ", "a topic", "a/b", "tópico", &"t".repeat(128), "TBW102", "SCHEDULE_TOPIC_XXXX", "rmq_sys_x"] {
        assert_eq!(table.sent(|message, _| message.topic = resource(topic)).await, Code::IllegalTopic, "{topic:?}");
        assert_eq!(code(&route(&table.client, topic, Some(endpoints())).await.status), Code::IllegalTopic, "{topic:?}");
        assert_eq!(table.assigned(topic, GROUP, Some(endpoints())).await, Code::IllegalTopic, "{topic:?}");
        assert_eq!(table.acked(GROUP, topic, "h").await, Code::IllegalTopic, "{topic:?}");
    }
    assert_eq!(table.sent(|message, _| message.topic = resource(&"t".repeat(127))).await, Code::TopicNotFound);
    assert_eq!(code(&route(&table.client, "nothing", Some(endpoints())).await.status), Code::TopicNotFound);
    assert_eq!(table.assigned("nothing", GROUP, Some(endpoints())).await, Code::TopicNotFound);
    assert_eq!(table.received(|request| request.message_queue.as_mut().unwrap().topic = resource("nothing")).await, Code::TopicNotFound);
    for group in ["", " ", "a b", "a/b", &"g".repeat(121), "CID_RMQ_SYS_x"] {
        assert_eq!(table.received(|request| request.group = resource(group)).await, Code::IllegalConsumerGroup, "{group:?}");
        assert_eq!(table.assigned(TOPIC, group, Some(endpoints())).await, Code::IllegalConsumerGroup, "{group:?}");
        assert_eq!(table.acked(group, TOPIC, "h").await, Code::IllegalConsumerGroup, "{group:?}");
    }
    assert_eq!(table.assigned(TOPIC, GROUP, Some(Endpoints::default())).await, Code::IllegalAccessPoint);
    assert_eq!(code(&route(&table.client, TOPIC, Some(Endpoints::default())).await.status), Code::IllegalAccessPoint);
    assert_eq!(table.pulled(4, 0).await, Code::Forbidden, "no such queue");
}

#[tokio::test]
async fn groups_that_are_not_made_by_themselves() {
    let dir = directory();
    let options = BrokerOptions {
        auto_create_groups: false,
        retention_disk_percent: 100,
        ..BrokerOptions::new(dir.path())
    };
    let weir = Weir::start_with(options).await;
    let table = Table { client: weir.client().await, weir };
    assert_eq!(table.received(|_| {}).await, Code::ConsumerGroupNotFound);
    assert_eq!(table.pulled(0, 0).await, Code::ConsumerGroupNotFound);
}

#[tokio::test]
#[rustfmt::skip]
async fn messages() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let spec = TopicSpec { topic_type: weir_engine::TopicType::Fifo, ..TopicSpec::default() };
    weir.broker.create_topic(&"fifo".parse().unwrap(), spec).await.unwrap();
    let table = Table { client: weir.client().await, weir };
    for tag in ["", " ", "a|b", "a\u{0}", "a\u{7f}", "a\u{85}"] {
        assert_eq!(table.sent(|_, system| system.tag = Some(tag.to_owned())).await, Code::IllegalMessageTag, "{tag:?}");
    }
    for key in ["", "\t", "a\nb"] {
        assert_eq!(table.sent(|_, system| system.keys = vec![key.to_owned()]).await, Code::IllegalMessageKey, "{key:?}");
    }
    for group in [" ", "a\u{1}", &"g".repeat(64), &"é".repeat(32)] {
        assert_eq!(table.sent(|_, system| system.message_group = Some(group.to_owned())).await, Code::IllegalMessageGroup, "{group:?}");
    }
    for name in ["KEYS", "TAGS", "WAIT", "UNIQ_KEY", "__CRC32#", "POP_CK", "TIMER_DELAY_MS", "a\u{0}b"] {
        assert_eq!(table.property(name, "v").await, Code::IllegalMessagePropertyKey, "{name:?}");
    }
    assert_eq!(table.property("name", "a\u{9f}b").await, Code::IllegalMessagePropertyKey);
    for name in ["__SHARDINGKEY", "TRACE_CONTEXT", "__transactionId__", "REDIRECT", "ünïcode"] {
        assert_eq!(table.property(name, "v").await, Code::Ok, "{name:?} is a name like others");
    }
    assert_eq!(table.sent(|message, _| message.user_properties = (0..129).map(|n| (n.to_string(), "v".into())).collect()).await, Code::MessagePropertiesTooLarge);
    assert_eq!(table.sent(|message, _| message.user_properties = (0..128).map(|n| (n.to_string(), "v".into())).collect()).await, Code::Ok);
    assert_eq!(table.property("p", &"x".repeat(16 << 10)).await, Code::MessagePropertiesTooLarge);
    assert_eq!(table.sent(|_, system| system.keys = vec!["k".repeat(16 << 10), "k".into()]).await, Code::MessagePropertiesTooLarge);
    for id in ["", " ", "\t\n"] {
        assert_eq!(table.sent(|_, system| system.message_id = id.to_owned()).await, Code::IllegalMessageId, "{id:?}");
    }
    assert_eq!(table.sent(|message, _| message.body = Default::default()).await, Code::MessageBodyEmpty);
    assert_eq!(table.sent(|message, _| message.body = vec![0; 4 << 20].into()).await, Code::Ok);
    assert_eq!(table.sent(|message, _| message.body = vec![0; (4 << 20) + 1].into()).await, Code::MessageBodyTooLarge);
    assert_eq!(code(&table.client.send(vec![]).await.status), Code::MessageCorrupted);
    assert_eq!(code(&table.client.send(vec![message("a"), Message { topic: resource("b"), ..message("b") }]).await.status), Code::MessageCorrupted);
    let digest = |checksum: &str| Some(proto::Digest { r#type: proto::DigestType::Md5.into(), checksum: checksum.to_owned() });
    assert_eq!(table.sent(|_, system| system.body_digest = digest("00")).await, Code::MessageCorrupted);
    assert_eq!(table.sent(|message, _| message.topic = resource("fifo")).await, Code::MessagePropertyConflictWithType);
    assert_eq!(table.sent(|_, system| system.priority = Some(0)).await, Code::MessagePropertyConflictWithType);
    let far = std::time::SystemTime::now() + Duration::from_secs(41 * 24 * 60 * 60);
    assert_eq!(table.sent(|_, system| system.delivery_timestamp = Some(far.into())).await, Code::IllegalDeliveryTime);
    assert_eq!(table.sent(|_, system| system.delivery_timestamp = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 })).await, Code::IllegalDeliveryTime);
    for recovery in [seconds(3601), seconds(-1), seconds(i64::MAX)] {
        let transaction = |_: &mut Message, system: &mut SystemProperties| {
            system.message_type = MessageType::Transaction.into();
            system.orphaned_transaction_recovery_duration = recovery;
        };
        assert_eq!(table.sent(transaction).await, Code::BadRequest, "{recovery:?}");
    }
    for name in ["", "a.b", "a b", &"l".repeat(65)] {
        assert_eq!(table.sent(|_, system| system.lite_topic = Some(name.to_owned())).await, Code::IllegalLiteTopic, "{name:?}");
    }
    assert_eq!(table.sent(|_, system| system.priority = Some(-1)).await, Code::BadRequest);
}

#[tokio::test]
#[rustfmt::skip]
async fn receives_handles_and_offsets() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let group: GroupName = GROUP.parse().unwrap();
    let retry = RetryPolicy::Customized(vec![Duration::ZERO]);
    weir.broker.create_group(&group, weir_engine::GroupSpec { retry, ..Default::default() }).await.unwrap();
    let table = Table { client: weir.client().await, weir };
    for lease in [None, seconds(0), seconds(9), seconds(-10), seconds(12 * 3600 + 1), seconds(i64::MAX)] {
        assert_eq!(table.received(|request| request.invisible_duration = lease).await, Code::IllegalInvisibleTime, "{lease:?}");
    }
    assert_eq!(code(&table.client.change("h", Duration::from_secs(12 * 3600 + 1)).await.status), Code::IllegalInvisibleTime);
    for text in ["", " ", "a =", "a = 'x", "((a = 1)", "a ~ b", "1 = ", "\u{0}"] {
        assert_eq!(table.received(|request| request.filter_expression = Some(filter(FilterType::Sql, text))).await, Code::IllegalFilterExpression, "{text:?}");
    }
    assert_eq!(table.received(|request| request.filter_expression = Some(filter(FilterType::Tag, "||"))).await, Code::IllegalFilterExpression);
    for batch in [0, -1, i32::MIN] {
        assert_eq!(table.received(|request| request.batch_size = batch).await, Code::BadRequest, "{batch}");
    }
    table.client.send_all(&["a"]).await;
    let first = table.client.receive_all(1).await.remove(0);
    let changed = table.client.change(handle(&first), Duration::from_secs(60)).await;
    assert_eq!(code(&changed.status), Code::Ok);
    for (what, handle) in [("bad", "garbage"), ("none", ""), ("expired", handle(&first))] {
        assert_eq!(table.acked(GROUP, TOPIC, handle).await, Code::InvalidReceiptHandle, "{what}");
        assert_eq!(code(&table.client.change(handle, Duration::ZERO).await.status), Code::InvalidReceiptHandle, "{what}");
        assert_eq!(forward(&table.client, handle).await, Code::InvalidReceiptHandle, "{what}");
    }
    assert_eq!(table.acked("foreign", TOPIC, &changed.receipt_handle).await, Code::InvalidReceiptHandle, "of another group");
    assert_eq!(table.acked(GROUP, "nothing", &changed.receipt_handle).await, Code::InvalidReceiptHandle, "of a topic that is gone");
    let near = table.client.receive_within(receive(|_| {}), Duration::from_millis(250)).await;
    assert_eq!(near.code(), Code::IllegalPollingTime);
    let java = table.weir.client_named("old", "JAVA", "5.0.2").await;
    assert_eq!(java.receive_within(receive(|_| {}), Duration::from_millis(250)).await.code(), Code::BadRequest);
    let unknown = table.weir.client_named("unknown", "JAVA", "5.2.0").await;
    assert_eq!(heartbeat(&unknown, ClientType::Unspecified).await, Code::UnrecognizedClientType);
    for offset in [-1, i64::MIN, 2, i64::MAX] {
        assert_eq!(table.pulled(0, offset).await, Code::IllegalOffset, "{offset}");
        assert_eq!(table.update_offset(offset).await, Code::IllegalOffset, "{offset}");
    }
    assert_eq!(table.get_offset().await, Code::OffsetNotFound);
}

/// As many receives as one client may have waiting, and one more.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_polls() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let long = || receive(|request| request.long_polling_timeout = seconds(19));
    let mut waiting = Vec::new();
    for _ in 0..1024 {
        let request = client.request(long());
        waiting.push(client.calls.clone().receive_message(request).await.unwrap().into_inner());
    }
    let refused = async {
        loop {
            let received = client.receive(receive(|_| {})).await;
            // The last of those that wait may not have begun yet.
            if received.code() == Code::TooManyRequests {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("one more is refused");
    let other = weir.client_named("another", "JAVA", "5.2.0").await;
    assert_eq!(other.receive(receive(|_| {})).await.code(), Code::MessageNotFound, "others are served");
    drop(waiting);
    let served = async {
        while client.receive(receive(|_| {})).await.code() == Code::TooManyRequests {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served).await.expect("the places are given back");
}
