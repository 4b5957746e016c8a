//! Lite topics over the wire: what each call answers, and what lite consumers are told and given.

use std::collections::BTreeMap;

use tokio::time::timeout;
use weir_engine::{GroupName, GroupSpec, LiteSpec, TopicType, limits::LITE_QUOTA_TOLERANCE};
use weir_server::rocketmq::proto::{
    AckMessageEntry, ClientType, FilterType, ForwardMessageToDeadLetterQueueRequest, LiteSubscriptionAction,
    MessageType, NotifyClientTerminationRequest, OffsetOption, Settings, SyncLiteSubscriptionRequest,
    offset_option::{OffsetType, Policy},
    settings::PubSub,
    telemetry_command::Command,
};

use super::{
    settings::{Telemetry, consumer},
    *,
};

const PARENT: &str = "events";
const LITE_GROUP: &str = "sessions";

/// A parent topic, and a group that reads its lite topics.
async fn start(dir: &Path, exclusive: bool) -> Weir {
    start_with(dir, |lite| lite.exclusive = exclusive).await
}

async fn start_with(dir: &Path, change: impl FnOnce(&mut LiteSpec)) -> Weir {
    let weir = Weir::start(dir).await;
    let spec = TopicSpec { topic_type: TopicType::Lite, ..TopicSpec::default() };
    weir.broker.create_topic(&PARENT.parse().unwrap(), spec).await.unwrap();
    let mut lite = LiteSpec { quota: 50, ..LiteSpec::of(PARENT.parse().unwrap()) };
    change(&mut lite);
    let spec = GroupSpec { lite: Some(lite), ..GroupSpec::default() };
    weir.broker.create_group(&LITE_GROUP.parse::<GroupName>().unwrap(), spec).await.unwrap();
    weir
}

async fn client(weir: &Weir, id: &'static str) -> Client {
    weir.client_named(id, "JAVA", "5.2.0").await
}

/// Settings of a consumer of a group that reads a topic.
fn settings_of(client_type: ClientType, group: &str, topic: &str) -> Settings {
    let mut settings = consumer(client_type, FilterType::Tag, "*");
    if let Some(PubSub::Subscription(subscription)) = &mut settings.pub_sub {
        subscription.group = resource(group);
        subscription.subscriptions[0].topic = resource(topic);
    }
    settings
}

/// A client that has said what it is.
async fn lite_client(weir: &Weir, id: &'static str, client_type: ClientType) -> (Client, Telemetry) {
    let client = client(weir, id).await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(settings_of(client_type, LITE_GROUP, PARENT)).await;
    stream.settings().await;
    (client, stream)
}

pub(super) fn sync(action: LiteSubscriptionAction, names: &[&str]) -> SyncLiteSubscriptionRequest {
    SyncLiteSubscriptionRequest {
        action: action.into(),
        topic: resource(PARENT),
        group: resource(LITE_GROUP),
        lite_topic_set: names.iter().map(|name| (*name).to_owned()).collect(),
        version: None,
        offset_option: None,
    }
}

pub(super) async fn synced(client: &Client, request: SyncLiteSubscriptionRequest) -> Code {
    let response = client.calls.clone().sync_lite_subscription(client.request(request)).await.unwrap();
    code(&response.get_ref().status)
}

async fn add(client: &Client, names: &[&str]) {
    assert_eq!(synced(client, sync(LiteSubscriptionAction::PartialAdd, names)).await, Code::Ok);
}

async fn add_from(client: &Client, name: &str, offset_type: OffsetType) {
    let offset_option = Some(OffsetOption { offset_type: Some(offset_type) });
    let request =
        SyncLiteSubscriptionRequest { offset_option, ..sync(LiteSubscriptionAction::PartialAdd, &[name]) };
    assert_eq!(synced(client, request).await, Code::Ok);
}

async fn send(client: &Client, lite_topic: &str, bodies: &[&str]) {
    for body in bodies {
        let mut sent = message(body);
        sent.topic = resource(PARENT);
        let system = sent.system_properties.as_mut().unwrap();
        system.lite_topic = Some(lite_topic.to_owned());
        system.message_type = MessageType::Lite.into();
        let response = client.send(vec![sent]).await;
        assert_eq!(code(&response.status), Code::Ok, "{response:?}");
    }
}

/// A receive as a lite push consumer makes it: without a filter, renewed, on the queue that stands for all.
fn poll(millis: i32) -> ReceiveMessageRequest {
    receive(|request| {
        request.group = resource(LITE_GROUP);
        request.message_queue = Some(MessageQueue { topic: resource(PARENT), id: -1, ..Default::default() });
        request.filter_expression = None;
        request.invisible_duration = None;
        request.auto_renew = true;
        request.long_polling_timeout = Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    })
}

async fn came(client: &Client) -> Vec<Message> {
    client.receive(poll(200)).await.messages()
}

async fn ack(client: &Client, messages: &[Message]) {
    let entry = |message: &Message| AckMessageEntry {
        message_id: system(message).message_id.clone(),
        receipt_handle: handle(message).to_owned(),
        lite_topic: system(message).lite_topic.clone(),
    };
    let request = AckMessageRequest {
        group: resource(LITE_GROUP),
        topic: resource(PARENT),
        entries: messages.iter().map(entry).collect(),
    };
    let response = client.calls.clone().ack_message(client.request(request)).await.unwrap();
    assert_eq!(code(&response.get_ref().status), Code::Ok);
}

#[tokio::test]
async fn a_lite_consumer_is_told_its_quotas_and_a_consumer_of_the_wrong_kind_is_refused() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let client = client(&weir, "lite").await;
    for client_type in [ClientType::LitePushConsumer, ClientType::LiteSimpleConsumer] {
        let mut stream = Telemetry::open(&client).await;
        stream.send(settings_of(client_type, LITE_GROUP, PARENT)).await;
        let Some(PubSub::Subscription(told)) = stream.settings().await.pub_sub else {
            panic!("a consumer's settings are answered with a consumer's")
        };
        assert_eq!((told.lite_subscription_quota, told.max_lite_topic_size), (Some(50), Some(64)));
        assert_eq!(told.fifo, Some(true));
    }
    for (client_type, group, topic) in [
        (ClientType::LitePushConsumer, GROUP, TOPIC),
        (ClientType::LiteSimpleConsumer, "nobody", PARENT),
        (ClientType::PushConsumer, LITE_GROUP, PARENT),
        (ClientType::SimpleConsumer, LITE_GROUP, PARENT),
        (ClientType::LitePushConsumer, LITE_GROUP, TOPIC),
    ] {
        let mut stream = Telemetry::open(&client).await;
        stream.send(settings_of(client_type, group, topic)).await;
        let status = stream.next().await.expect("an end with a cause").unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{client_type:?} {group} {topic}");
        assert!(status.message().contains("lite topics"), "{status}");
    }
    // What other consumers are told has no quotas.
    let mut stream = Telemetry::open(&client).await;
    stream.send(consumer(ClientType::PushConsumer, FilterType::Tag, "*")).await;
    let Some(PubSub::Subscription(told)) = stream.settings().await.pub_sub else { panic!("a consumer's") };
    assert_eq!((told.lite_subscription_quota, told.max_lite_topic_size), (None, None));
}

#[tokio::test]
async fn lite_consumers_get_what_they_subscribe_to_one_lite_topic_in_order() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (push, _push) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    let (simple, _simple) = lite_client(&weir, "simple", ClientType::LiteSimpleConsumer).await;
    let producer = client(&weir, "producer").await;
    send(&producer, "a", &["before"]).await;
    assert_eq!(push.receive(poll(0)).await.code(), Code::MessageNotFound);
    add(&push, &["a", "b"]).await;
    add(&simple, &["c"]).await;
    let waiting = {
        let simple = simple.clone();
        tokio::spawn(async move { simple.receive(poll(900)).await.messages() })
    };
    send(&producer, "a", &["a1", "a2"]).await;
    send(&producer, "c", &["c1"]).await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["c1"]);
    let first = came(&push).await;
    assert_eq!(bodies(&first), ["a1", "a2"]);
    let told = system(&first[0]);
    assert_eq!((told.lite_topic.as_deref(), told.message_type()), (Some("a"), MessageType::Lite));
    assert_eq!(told.delivery_attempt, Some(1));
    send(&producer, "a", &["a3"]).await;
    send(&producer, "b", &["b1"]).await;
    let second = came(&push).await;
    assert_eq!(bodies(&second), ["b1"], "a waits for what is leased");
    ack(&push, &first).await;
    ack(&push, &second).await;
    let third = came(&push).await;
    assert_eq!(bodies(&third), ["a3"]);
    ack(&push, &third).await;
    assert_eq!(synced(&push, sync(LiteSubscriptionAction::PartialRemove, &["a"])).await, Code::Ok);
    send(&producer, "a", &["a4"]).await;
    send(&producer, "b", &["b2"]).await;
    let fourth = came(&push).await;
    assert_eq!(bodies(&fourth), ["b2"]);
    ack(&push, &fourth).await;
    assert_eq!(synced(&push, sync(LiteSubscriptionAction::CompleteAdd, &["a"])).await, Code::Ok);
    send(&producer, "b", &["b3"]).await;
    let fifth = came(&push).await;
    assert_eq!(bodies(&fifth), ["a4"], "what came meanwhile, and b no more");
    ack(&push, &fifth).await;
    add_from(&push, "a", OffsetType::Policy(Policy::Min.into())).await;
    assert_eq!(bodies(&came(&push).await), ["a1", "a2", "a3", "a4", "before"]);
    assert_eq!(synced(&push, sync(LiteSubscriptionAction::CompleteRemove, &[])).await, Code::Ok);
    add_from(&simple, "a", OffsetType::TailN(1)).await;
    assert_eq!(came(&simple).await.len(), 5, "the first that is not done is the first of all");
    add_from(&simple, "a", OffsetType::Policy(Policy::Max.into())).await;
    add_from(&simple, "a", OffsetType::TailN(2)).await;
    assert_eq!(bodies(&came(&simple).await), ["a3", "a4"]);
}

#[tokio::test]
async fn a_client_that_says_good_bye_subscribes_no_more() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (push, _stream) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    add(&push, &["a"]).await;
    let request = NotifyClientTerminationRequest { group: resource(LITE_GROUP) };
    push.calls.clone().notify_client_termination(push.request(request)).await.unwrap();
    send(&push, "a", &["a1"]).await;
    assert!(came(&push).await.is_empty());
    let (again, _stream) = lite_client(&weir, "again", ClientType::LitePushConsumer).await;
    add(&again, &["a"]).await;
    assert_eq!(bodies(&came(&again).await), ["a1"]);
}

#[tokio::test]
async fn who_loses_a_lite_topic_to_another_is_told() {
    let dir = directory();
    let weir = start(dir.path(), true).await;
    let (first, mut told) = lite_client(&weir, "first", ClientType::LitePushConsumer).await;
    let (second, _stream) = lite_client(&weir, "second", ClientType::LitePushConsumer).await;
    add(&first, &["a", "b"]).await;
    for step in 0..2 {
        match step {
            0 => add(&second, &["a"]).await,
            // It did not listen.
            _ => {
                let again = sync(LiteSubscriptionAction::CompleteAdd, &["a", "b"]);
                assert_eq!(synced(&first, again).await, Code::Ok);
            }
        }
        let command = timeout(Duration::from_secs(5), told.next()).await.expect("it is told").unwrap();
        match command.unwrap().command {
            Some(Command::NotifyUnsubscribeLiteCommand(lost)) => assert_eq!(lost.lite_topic, "a"),
            other => panic!("{step}: {other:?}"),
        }
    }
    send(&first, "a", &["a1"]).await;
    send(&first, "b", &["b1"]).await;
    assert_eq!(bodies(&came(&first).await), ["b1"]);
    assert_eq!(bodies(&came(&second).await), ["a1"]);
}

#[tokio::test]
async fn what_a_lite_consumer_suspends_has_not_failed_and_what_it_gives_up_is_a_dead_letter() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (push, _stream) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    add(&push, &["a"]).await;
    send(&push, "a", &["a1", "a2"]).await;
    let change = async |message: &Message, suspend: bool| {
        let request = ChangeInvisibleDurationRequest {
            group: resource(LITE_GROUP),
            topic: resource(PARENT),
            receipt_handle: handle(message).to_owned(),
            invisible_duration: Some(prost_types::Duration::default()),
            message_id: "id".to_owned(),
            lite_topic: system(message).lite_topic.clone(),
            suspend: Some(suspend),
        };
        let response = push.calls.clone().change_invisible_duration(push.request(request)).await.unwrap();
        assert_eq!(code(&response.get_ref().status), Code::Ok);
    };
    let one = || ReceiveMessageRequest { batch_size: 1, ..poll(2000) };
    for (suspend, attempt) in [(true, 1), (true, 1), (false, 1), (true, 2), (false, 2)] {
        let held = push.receive(one()).await.messages().remove(0);
        assert_eq!((&held.body[..], system(&held).delivery_attempt), (&b"a1"[..], Some(attempt)));
        change(&held, suspend).await;
    }
    let held = push.receive(one()).await.messages().remove(0);
    assert_eq!(system(&held).delivery_attempt, Some(3));
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: resource(LITE_GROUP),
        topic: resource(PARENT),
        receipt_handle: handle(&held).to_owned(),
        message_id: "a1".to_owned(),
        delivery_attempt: 3,
        max_delivery_attempts: 3,
        lite_topic: Some("a".to_owned()),
    };
    let response =
        push.calls.clone().forward_message_to_dead_letter_queue(push.request(request)).await.unwrap();
    assert_eq!(code(&response.get_ref().status), Code::Ok);
    assert_eq!(bodies(&came(&push).await), ["a2"]);
    let request = receive(|request| {
        request.group = resource("undertakers");
        request.message_queue.as_mut().unwrap().topic = resource("%DLQ%sessions");
    });
    let letters = client(&weir, "undertaker").await.receive(request).await.messages();
    assert_eq!(
        (bodies(&letters), system(&letters[0]).lite_topic.as_deref()),
        (vec!["a1".to_owned()], Some("a"))
    );
}

#[tokio::test]
async fn positions_outlive_a_restart() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (push, stream) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    add(&push, &["a"]).await;
    send(&push, "a", &["a1", "a2"]).await;
    let first = push.receive(ReceiveMessageRequest { batch_size: 1, ..poll(200) }).await.messages();
    ack(&push, &first).await;
    drop(stream);
    weir.stop().await;
    let weir = Weir::start(dir.path()).await;
    let (push, _stream) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    send(&push, "a", &["a3"]).await;
    assert!(came(&push).await.is_empty(), "the client has to say again what it wants");
    assert_eq!(synced(&push, sync(LiteSubscriptionAction::CompleteAdd, &["a"])).await, Code::Ok);
    assert_eq!(bodies(&came(&push).await), ["a2", "a3"]);
}

/// Python 5.1.2 takes the name that it adds or removes for a list of names. What its set is it says as it should.
#[tokio::test]
async fn the_letters_of_a_name_are_a_name_from_clients_that_send_them() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (java, _java) = lite_client(&weir, "java", ClientType::LiteSimpleConsumer).await;
    let python = weir.client_named("python", "PYTHON", "5.1.2").await;
    let mut stream = Telemetry::open(&python).await;
    stream.send(settings_of(ClientType::LiteSimpleConsumer, LITE_GROUP, PARENT)).await;
    stream.settings().await;
    let letters = ["l", "i", "t", "e", "-", "1"];
    for client in [&java, &python] {
        add(client, &letters).await;
        send(&java, "lite-1", &["whole"]).await;
        send(&java, "t", &["letter"]).await;
        let messages = came(client).await;
        let expected = if client.language == "JAVA" { "letter" } else { "whole" };
        assert_eq!(bodies(&messages), [expected]);
        ack(client, &messages).await;
        if client.language == "JAVA" {
            assert_eq!(synced(client, sync(LiteSubscriptionAction::CompleteRemove, &[])).await, Code::Ok);
        }
    }
    add(&python, &["x"]).await;
    assert_eq!(synced(&python, sync(LiteSubscriptionAction::CompleteAdd, &["x", "lite-1"])).await, Code::Ok);
    send(&java, "x", &["x1"]).await;
    send(&java, "lite-1", &["more"]).await;
    let mut messages = bodies(&came(&python).await);
    messages.sort_unstable();
    assert_eq!(messages, ["more", "x1"]);
    assert_eq!(synced(&python, sync(LiteSubscriptionAction::PartialRemove, &letters)).await, Code::Ok);
    let described = weir.broker.group(&LITE_GROUP.parse().unwrap()).unwrap();
    assert_eq!(described.topics[0].lite.as_ref().unwrap().subscriptions, 1);
}

/// The table of bad input, as far as it is about lite topics.
#[tokio::test]
async fn each_fault_has_its_code() {
    let dir = directory();
    let weir = start(dir.path(), false).await;
    let (push, _stream) = lite_client(&weir, "push", ClientType::LitePushConsumer).await;
    let add = LiteSubscriptionAction::PartialAdd;
    let many: Vec<String> = (0..=50 + LITE_QUOTA_TOLERANCE).map(|n| format!("l{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    weir.broker.create_group(&GROUP.parse::<GroupName>().unwrap(), GroupSpec::default()).await.unwrap();
    let with = |change: fn(&mut SyncLiteSubscriptionRequest)| {
        let mut request = sync(add, &["a"]);
        change(&mut request);
        request
    };
    for (what, request, expected) in [
        ("no topic", with(|request| request.topic = None), Code::IllegalTopic),
        ("a bad topic", with(|request| request.topic = resource("a b")), Code::IllegalTopic),
        ("another topic", with(|request| request.topic = resource(TOPIC)), Code::IllegalTopic),
        ("no group", with(|request| request.group = None), Code::IllegalConsumerGroup),
        ("a bad group", with(|request| request.group = resource("a b")), Code::IllegalConsumerGroup),
        ("an unknown group", with(|request| request.group = resource("x")), Code::IllegalConsumerGroup),
        ("an ordinary group", with(|request| request.group = resource(GROUP)), Code::IllegalConsumerGroup),
        ("an unknown action", with(|request| request.action = 9), Code::BadRequest),
        ("a blank name", sync(add, &[" "]), Code::IllegalLiteTopic),
        ("no name", sync(add, &[""]), Code::IllegalLiteTopic),
        ("all of them", sync(add, &["*"]), Code::IllegalLiteTopic),
        ("a long name", sync(add, &[&"l".repeat(65)]), Code::IllegalLiteTopic),
        ("too many", sync(add, &many), Code::LiteSubscriptionQuotaExceeded),
        (
            "too many at once",
            sync(LiteSubscriptionAction::CompleteAdd, &many),
            Code::LiteSubscriptionQuotaExceeded,
        ),
        ("as many as may be", sync(LiteSubscriptionAction::CompleteAdd, &many[1..]), Code::Ok),
        ("one more", sync(add, &many[..1]), Code::LiteSubscriptionQuotaExceeded),
    ] {
        assert_eq!(synced(&push, request).await, expected, "{what}");
    }
    let nobody = weir.client_named("", "JAVA", "5.2.0").await;
    assert_eq!(synced(&nobody, sync(add, &["a"])).await, Code::ClientIdRequired);
    // Consumers of one kind in groups of the other.
    let received = async |client: &Client, group: &str, topic: &str| {
        let mut request = poll(0);
        request.group = resource(group);
        request.message_queue.as_mut().unwrap().topic = resource(topic);
        client.receive(request).await.code()
    };
    assert_eq!(received(&push, GROUP, TOPIC).await, Code::IllegalConsumerGroup);
    assert_eq!(received(&push, LITE_GROUP, TOPIC).await, Code::IllegalTopic);
    let ordinary = client(&weir, "ordinary").await;
    let mut stream = Telemetry::open(&ordinary).await;
    stream.send(settings_of(ClientType::SimpleConsumer, GROUP, TOPIC)).await;
    stream.settings().await;
    assert_eq!(received(&ordinary, LITE_GROUP, PARENT).await, Code::IllegalConsumerGroup);
    assert_eq!(synced(&ordinary, sync(add, &["a"])).await, Code::IllegalConsumerGroup);
    // What is sent.
    let sent = async |topic: &str, change: fn(&mut SystemProperties)| {
        let mut sent = message("m");
        sent.topic = resource(topic);
        let system = sent.system_properties.as_mut().unwrap();
        system.lite_topic = Some("a".to_owned());
        change(system);
        code(&ordinary.send(vec![sent]).await.status)
    };
    assert_eq!(sent(PARENT, |_| {}).await, Code::Ok);
    assert_eq!(sent(PARENT, |system| system.lite_topic = None).await, Code::MessagePropertyConflictWithType);
    assert_eq!(sent(PARENT, |system| system.lite_topic = Some("a b".into())).await, Code::IllegalLiteTopic);
    assert_eq!(sent(TOPIC, |_| {}).await, Code::MessagePropertyConflictWithType);
    for other in [
        (|system| system.message_group = Some("g".to_owned())) as fn(&mut SystemProperties),
        |system| system.priority = Some(1),
        |system| system.delivery_timestamp = Some(prost_types::Timestamp::default()),
        |system| system.message_type = MessageType::Transaction.into(),
    ] {
        assert_eq!(sent(PARENT, other).await, Code::MessagePropertyConflictWithType);
    }
}

#[tokio::test]
async fn a_client_of_a_group_of_all_lite_topics_gets_them_without_subscribing() {
    let dir = directory();
    let weir = start_with(dir.path(), |lite| lite.wildcard = true).await;
    let producer = client(&weir, "producer").await;
    send(&producer, "a", &["1", "2"]).await;
    send(&producer, "b", &["3"]).await;
    let (consumer, _stream) = lite_client(&weir, "consumer", ClientType::LitePushConsumer).await;
    let mut bodies = BTreeMap::new();
    while bodies.values().map(Vec::len).sum::<usize>() < 3 {
        let messages = came(&consumer).await;
        assert!(!messages.is_empty(), "{bodies:?}");
        for message in &messages {
            let name = system(message).lite_topic.clone().unwrap();
            bodies.entry(name).or_insert_with(Vec::new).push(message.body.clone());
        }
        ack(&consumer, &messages).await;
    }
    let of = |name: &str| bodies.get(name).map(Vec::as_slice).unwrap_or_default();
    assert!(of("a") == ["1", "2"] && of("b") == ["3"], "{bodies:?}");
    add(&consumer, &["a"]).await;
    assert_eq!(
        synced(&consumer, sync(LiteSubscriptionAction::PartialAdd, &["*"])).await,
        Code::IllegalLiteTopic
    );
    let ordinary = client(&weir, "ordinary").await;
    let mut stream = Telemetry::open(&ordinary).await;
    stream.send(settings_of(ClientType::PushConsumer, LITE_GROUP, PARENT)).await;
    let status = stream.next().await.expect("an end with a cause").unwrap_err();
    assert!(status.message().contains("lite topics"), "{status}");
}
