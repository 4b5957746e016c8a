//! Pulling by offset, and the offsets of groups and queues.

use std::time::Duration;

use weir_engine::{DurabilityClass, GroupName, QueueId, QueueOffset, ResetTo};
use weir_server::rocketmq::proto::{
    Code, FilterType, GetOffsetRequest, PullMessageRequest, QueryOffsetPolicy, QueryOffsetRequest,
    UpdateOffsetRequest, pull_message_response::Content as Pulled,
};

use super::*;

const PULLED: &str = "pulled";

/// A broker with a topic of two queues, and in queue 0 messages whose bodies are the numbers below `count`.
async fn start(dir: &Path, count: i64) -> Weir {
    let weir = Weir::start(dir).await;
    let topic: TopicName = PULLED.parse().unwrap();
    weir.broker.create_topic(&topic, TopicSpec { queues: 2, ..TopicSpec::default() }).await.unwrap();
    let client = weir.client().await;
    send(&client, 0..count).await;
    weir
}

/// Sends messages to queue 0, all in one call, and one to queue 1.
async fn send(client: &Client, numbers: std::ops::Range<i64>) {
    let numbered = |n: i64| {
        let mut sent = message(&n.to_string());
        sent.topic = resource(PULLED);
        sent.user_properties.insert("n".to_owned(), n.to_string());
        sent.system_properties.as_mut().unwrap().tag =
            Some(if n % 2 == 0 { "even" } else { "odd" }.to_owned());
        sent
    };
    if numbers.is_empty() {
        return;
    }
    assert_eq!(code(&client.send(numbers.map(numbered).collect()).await.status), Code::Ok);
    let mut other = message("other");
    other.topic = resource(PULLED);
    assert_eq!(code(&client.send(vec![other]).await.status), Code::Ok);
}

fn queue(id: i32) -> Option<MessageQueue> {
    Some(MessageQueue { topic: resource(PULLED), id, ..MessageQueue::default() })
}

/// A pull of queue 0 that waits for half a second, changed by `change`.
fn pull(offset: i64, change: impl FnOnce(&mut PullMessageRequest)) -> PullMessageRequest {
    let mut request = PullMessageRequest {
        group: resource(GROUP),
        message_queue: queue(0),
        offset,
        batch_size: 32,
        filter_expression: None,
        long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }),
    };
    change(&mut request);
    request
}

/// What a pull came to: its code, the messages, and the offset to go on from.
#[derive(Debug)]
struct Came {
    code: Code,
    messages: Vec<Message>,
    next: Option<i64>,
}

impl Client {
    async fn pull(&self, request: PullMessageRequest) -> Came {
        let mut request = self.request(request);
        request.set_timeout(Duration::from_secs(10));
        let mut stream = self.calls.clone().pull_message(request).await.unwrap().into_inner();
        let mut parts = Vec::new();
        while let Some(response) = stream.next().await {
            parts.push(response.unwrap().content.expect("no response is empty"));
        }
        let next = match parts.last() {
            Some(Pulled::NextOffset(next)) => Some(*next),
            _ => None,
        };
        parts.truncate(parts.len() - usize::from(next.is_some()));
        let Some(Pulled::Status(status)) = parts.first() else { panic!("a status comes first: {parts:?}") };
        let code = status.code();
        let message = |part| match part {
            Pulled::Message(message) => message,
            other => panic!("only messages stand between status and offset: {other:?}"),
        };
        Came { code, messages: parts.into_iter().skip(1).map(message).collect(), next }
    }

    async fn update_offset(&self, group: &str, queue: Option<MessageQueue>, offset: i64) -> Code {
        let request = UpdateOffsetRequest { group: resource(group), message_queue: queue, offset };
        let response = self.calls.clone().update_offset(self.request(request)).await.unwrap();
        code(&response.get_ref().status)
    }

    async fn get_offset(&self, group: &str, queue: Option<MessageQueue>) -> Result<i64, Code> {
        let request = GetOffsetRequest { group: resource(group), message_queue: queue };
        let response = self.calls.clone().get_offset(self.request(request)).await.unwrap().into_inner();
        match code(&response.status) {
            Code::Ok => Ok(response.offset),
            code => Err(code),
        }
    }

    async fn query_offset(
        &self,
        queue: Option<MessageQueue>,
        policy: i32,
        timestamp: Option<i64>,
    ) -> Result<i64, Code> {
        let timestamp = timestamp.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        let request = QueryOffsetRequest { message_queue: queue, query_offset_policy: policy, timestamp };
        let response = self.calls.clone().query_offset(self.request(request)).await.unwrap().into_inner();
        match code(&response.status) {
            Code::Ok => Ok(response.offset),
            code => Err(code),
        }
    }
}

fn in_order(messages: &[Message]) -> Vec<i64> {
    let number = |message: &Message| std::str::from_utf8(&message.body).unwrap().parse().unwrap();
    messages.iter().map(number).collect()
}

#[tokio::test]
async fn a_queue_is_pulled_from_offset_to_offset() {
    let dir = directory();
    let weir = start(dir.path(), 70).await;
    let client = weir.client().await;
    let mut next = 0;
    let mut all = Vec::new();
    loop {
        let came = client.pull(pull(next, |_| {})).await;
        assert_eq!(came.code == Code::Ok, !came.messages.is_empty(), "{came:?}");
        next = came.next.expect("a pull says where to go on");
        if came.messages.is_empty() {
            assert_eq!(came.code, Code::MessageNotFound);
            break;
        }
        assert!(came.messages.len() <= 32, "no more than a receive gives");
        all.extend(in_order(&came.messages));
    }
    assert_eq!(all, (0..70).collect::<Vec<i64>>());
    assert_eq!(next, 70);
    let came = client.pull(pull(5, |request| request.batch_size = 1)).await;
    let [message] = &came.messages[..] else { panic!("one message: {came:?}") };
    let system = system(message);
    assert_eq!((system.queue_id, system.queue_offset, came.next), (0, Some(5), Some(6)));
    assert_eq!((message.topic.clone(), system.tag.as_deref()), (resource(PULLED), Some("odd")));
    assert_eq!(system.body_digest.as_ref().unwrap().checksum, "E4DA3B7FBBCE2345D7772B0674A318D5");
    assert_eq!((&system.receipt_handle, system.delivery_attempt), (&None, None), "nothing is leased");
    assert!(client.get_offset(GROUP, queue(0)).await.is_err(), "and nothing moves");
    let other = client.pull(pull(0, |request| request.message_queue = queue(1))).await;
    assert_eq!(bodies(&other.messages), ["other"]);
}

#[tokio::test]
async fn filters_decide_what_is_pulled_in_the_dialect_of_the_group() {
    let dir = directory();
    let weir = start(dir.path(), 20).await;
    let client = weir.client().await;
    let pulled = async |group: &str, kind, text: &str| {
        let expression = filter(kind, text);
        let came = client
            .pull(pull(0, |request| {
                request.group = resource(group);
                request.filter_expression = Some(expression);
            }))
            .await;
        (came.code, in_order(&came.messages), came.next)
    };
    let even: Vec<i64> = (0..20).step_by(2).collect();
    assert_eq!(pulled(GROUP, FilterType::Tag, "even").await, (Code::Ok, even, Some(20)));
    assert_eq!(pulled(GROUP, FilterType::Tag, "odd || even").await.1.len(), 20);
    assert_eq!(pulled(GROUP, FilterType::Sql, "n BETWEEN 3 AND 5").await.1, [3, 4, 5]);
    let none = pulled(GROUP, FilterType::Sql, "n > 99").await;
    assert_eq!(none, (Code::MessageNotFound, vec![], Some(20)), "what does not match is passed");
    // RocketMQ's own language drops text behind a whole expression.
    let text = "n < 2 LIKE 'x'";
    assert_eq!(pulled(GROUP, FilterType::Sql, text).await, (Code::IllegalFilterExpression, vec![], None));
    let spec = weir_engine::GroupSpec {
        dialect: Some(weir_engine::Dialect::RocketMq),
        ..weir_engine::GroupSpec::default()
    };
    weir.broker.create_group(&"exact".parse().unwrap(), spec).await.unwrap();
    assert_eq!(pulled("exact", FilterType::Sql, text).await.1, [0, 1]);
}

#[tokio::test]
async fn an_offset_that_is_not_there_is_corrected() {
    let dir = directory();
    let weir = start(dir.path(), 10).await;
    let client = weir.client().await;
    for (offset, next) in [(11, 10), (i64::MAX, 10), (-1, 0), (i64::MIN, 0)] {
        let came = client.pull(pull(offset, |_| {})).await;
        assert_eq!(
            (came.code, came.messages.len(), came.next),
            (Code::IllegalOffset, 0, Some(next)),
            "{offset}"
        );
    }
    let came = client.pull(pull(10, |_| {})).await;
    assert_eq!((came.code, came.next), (Code::MessageNotFound, Some(10)), "the end is a place to wait at");
    // Rust 5.0.0 panics on codes that are younger than it is.
    let rust = weir.client_named("rust", "RUST", "5.0.0").await;
    let came = rust.pull(pull(11, |_| {})).await;
    assert_eq!((came.code, came.next), (Code::BadRequest, Some(10)));
    assert_eq!(rust.get_offset(GROUP, queue(0)).await, Err(Code::NotFound));
}

/// A crash may cut what a topic of class `async` had, and its readers may be ahead of what is left.
#[tokio::test]
async fn an_offset_that_a_crash_has_cut_is_corrected_to_the_end() {
    let dir = directory();
    let env = weir_storage::SimEnv::new(1);
    let mut options = BrokerOptions { retention_disk_percent: 100, ..BrokerOptions::new(dir.path()) };
    options.storage = weir_engine::StorageOptions::small();
    options.storage.env = Arc::new(env.process());
    let weir = Weir::start_with(options.clone()).await;
    let topic: TopicName = PULLED.parse().unwrap();
    let spec = TopicSpec { queues: 2, class: DurabilityClass::Async, ..TopicSpec::default() };
    weir.broker.create_topic(&topic, spec).await.unwrap();
    let client = weir.client().await;
    send(&client, 0..40).await;
    let seen = client.pull(pull(39, |_| {})).await.next.unwrap();
    assert_eq!(seen, 40);
    env.lose_power();
    drop(weir);
    options.storage.env = Arc::new(env.process());
    let weir = Weir::start_with(options).await;
    let client = weir.client().await;
    let end = client.query_offset(queue(0), QueryOffsetPolicy::End.into(), None).await.unwrap();
    let came = client.pull(pull(seen, |_| {})).await;
    let expected = if end < seen { Code::IllegalOffset } else { Code::MessageNotFound };
    assert_eq!((came.code, came.messages.len(), came.next), (expected, 0, Some(end)));
}

#[tokio::test]
async fn a_pull_waits_as_long_as_asked_and_ends_with_a_message() {
    let dir = directory();
    let weir = start(dir.path(), 4).await;
    let client = weir.client().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            let long = pull(4, |request| {
                request.filter_expression = Some(filter(FilterType::Sql, "n = 5"));
                request.long_polling_timeout = Some(prost_types::Duration { seconds: 9, nanos: 0 });
            });
            client.pull(long).await
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Calls take the queues in turn, and each of these makes two.
    send(&client, 4..6).await;
    let came = waiting.await.unwrap();
    assert_eq!((came.code, in_order(&came.messages), came.next), (Code::Ok, vec![5], Some(6)));
    let mut near = client.request(pull(6, |_| {}));
    near.set_timeout(Duration::from_millis(250));
    let mut stream = client.calls.clone().pull_message(near).await.unwrap().into_inner();
    let Some(Pulled::Status(status)) = stream.next().await.unwrap().unwrap().content else {
        panic!("a status comes first")
    };
    assert_eq!(status.code(), Code::IllegalPollingTime);
}

#[tokio::test]
async fn pulls_that_make_no_sense_are_refused_with_their_code() {
    let dir = directory();
    let weir = start(dir.path(), 4).await;
    let client = weir.client().await;
    type Change = fn(&mut PullMessageRequest);
    let cases: [(&str, Change, Code); 11] = [
        ("no queue", |request| request.message_queue = None, Code::IllegalTopic),
        ("no topic", |request| request.message_queue.as_mut().unwrap().topic = None, Code::IllegalTopic),
        (
            "an unknown topic",
            |request| request.message_queue.as_mut().unwrap().topic = resource("nothing"),
            Code::TopicNotFound,
        ),
        ("no group", |request| request.group = None, Code::IllegalConsumerGroup),
        ("all queues", |request| request.message_queue = queue(-1), Code::BadRequest),
        ("an unknown queue", |request| request.message_queue = queue(2), Code::Forbidden),
        ("an empty batch", |request| request.batch_size = 0, Code::BadRequest),
        ("a negative batch", |request| request.batch_size = i32::MIN, Code::BadRequest),
        (
            "half a selector",
            |request| request.filter_expression = Some(filter(FilterType::Sql, "a =")),
            Code::IllegalFilterExpression,
        ),
        (
            "no tag",
            |request| request.filter_expression = Some(filter(FilterType::Tag, " || ")),
            Code::IllegalFilterExpression,
        ),
        (
            "a negative poll",
            |request| {
                request.long_polling_timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
            },
            Code::IllegalPollingTime,
        ),
    ];
    for (what, change, expected) in cases {
        let came = client.pull(pull(0, change)).await;
        assert_eq!((came.code, came.messages.len(), came.next), (expected, 0, None), "{what}");
    }
    let nobody = weir.client_named("", "JAVA", "5.2.0").await;
    assert_eq!(nobody.pull(pull(0, |_| {})).await.code, Code::ClientIdRequired);
    assert_eq!(nobody.update_offset(GROUP, queue(0), 0).await, Code::ClientIdRequired);
    assert_eq!(nobody.get_offset(GROUP, queue(0)).await, Err(Code::ClientIdRequired));
    assert_eq!(nobody.query_offset(queue(0), 0, None).await, Err(Code::ClientIdRequired));
}

#[tokio::test]
async fn an_offset_that_is_set_is_where_the_group_goes_on() {
    let dir = directory();
    let weir = start(dir.path(), 10).await;
    let client = weir.client().await;
    assert_eq!(client.get_offset(GROUP, queue(0)).await, Err(Code::OffsetNotFound));
    assert_eq!(client.update_offset(GROUP, queue(0), 7).await, Code::Ok);
    assert_eq!(client.get_offset(GROUP, queue(0)).await, Ok(7));
    assert_eq!(client.get_offset("another", queue(0)).await, Err(Code::OffsetNotFound));
    // A receive of the group begins there, and moves what it has acknowledged.
    let request = || receive(|request| request.message_queue.as_mut().unwrap().topic = resource(PULLED));
    let received = client.receive(request()).await.messages();
    assert_eq!(bodies(&received), ["7", "8", "9", "other"]);
    assert_eq!(client.get_offset(GROUP, queue(0)).await, Ok(7), "nothing is done yet");
    let group: GroupName = GROUP.parse().unwrap();
    let handles: Vec<String> = received.iter().map(|message| handle(message).to_owned()).collect();
    for result in weir.broker.acknowledge(&group, &PULLED.parse().unwrap(), &handles).await {
        result.unwrap();
    }
    assert_eq!(client.get_offset(GROUP, queue(0)).await, Ok(10));
    // Back again: what was done comes again.
    assert_eq!(client.update_offset(GROUP, queue(0), 9).await, Code::Ok);
    assert_eq!(bodies(&client.receive(request()).await.messages()), ["9"]);
    for (what, queue, offset, expected) in [
        ("beyond the end", queue(0), 11, Code::IllegalOffset),
        ("negative", queue(0), -1, Code::IllegalOffset),
        ("an unknown queue", queue(2), 0, Code::Forbidden),
        ("all queues", queue(-1), 0, Code::BadRequest),
        ("no queue", None, 0, Code::IllegalTopic),
    ] {
        assert_eq!(client.update_offset(GROUP, queue, offset).await, expected, "{what}");
    }
    assert_eq!(client.update_offset("a b", queue(0), 0).await, Code::IllegalConsumerGroup);
    weir.stop().await;
    let weir = Weir::start(dir.path()).await;
    assert_eq!(weir.client().await.get_offset(GROUP, queue(0)).await, Ok(9));
}

#[tokio::test]
async fn a_group_that_nobody_has_made_is_told_apart_where_groups_are_not_made_by_themselves() {
    let dir = directory();
    let options = BrokerOptions {
        auto_create_groups: false,
        retention_disk_percent: 100,
        ..BrokerOptions::new(dir.path())
    };
    let weir = Weir::start_with(options).await;
    let client = weir.client().await;
    let queue = Some(MessageQueue { topic: resource(TOPIC), ..MessageQueue::default() });
    let asked = pull(0, |request| request.message_queue.clone_from(&queue));
    assert_eq!(client.pull(asked).await.code, Code::ConsumerGroupNotFound);
    assert_eq!(client.update_offset(GROUP, queue.clone(), 0).await, Code::ConsumerGroupNotFound);
    assert_eq!(client.get_offset(GROUP, queue).await, Err(Code::ConsumerGroupNotFound));
}

#[tokio::test]
async fn a_queue_tells_where_it_begins_and_ends_and_what_was_when() {
    let dir = directory();
    let weir = start(dir.path(), 10).await;
    let client = weir.client().await;
    let (beginning, end, time): (i32, i32, i32) = (
        QueryOffsetPolicy::Beginning.into(),
        QueryOffsetPolicy::End.into(),
        QueryOffsetPolicy::Timestamp.into(),
    );
    assert_eq!(client.query_offset(queue(0), beginning, None).await, Ok(0));
    assert_eq!(client.query_offset(queue(0), end, None).await, Ok(10));
    for (seconds, expected) in [(0, 0), (-1, 0), (i64::MIN, 0), (4_000_000_000, 10), (i64::MAX, 10)] {
        assert_eq!(client.query_offset(queue(0), time, Some(seconds)).await, Ok(expected), "{seconds}");
    }
    assert_eq!(client.query_offset(queue(0), time, None).await, Err(Code::BadRequest));
    for policy in [3, -1, i32::MAX] {
        assert_eq!(client.query_offset(queue(0), policy, None).await, Err(Code::BadRequest));
    }
    assert_eq!(client.query_offset(queue(5), end, None).await, Err(Code::Forbidden));
    assert_eq!(client.query_offset(None, end, None).await, Err(Code::IllegalTopic));
    // What has ended is behind the beginning, and a pull of it is corrected.
    let topic: TopicName = PULLED.parse().unwrap();
    let group: GroupName = GROUP.parse().unwrap();
    weir.broker.group_or_create(&group).await.unwrap();
    let to = ResetTo::Offset { queue: QueueId(0), offset: QueueOffset(3) };
    weir.broker.reset_group(&group, &topic, to).await.unwrap();
    assert_eq!(client.query_offset(queue(0), beginning, None).await, Ok(0), "a group moves no beginning");
}
