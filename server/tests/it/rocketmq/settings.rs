//! Routes, settings, heartbeats and good-byes.

use std::time::{Duration, Instant};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Streaming, metadata::AsciiMetadataValue};
use weir_engine::{BrokerOptions, GroupChange, GroupName, GroupSpec};
use weir_server::rocketmq::proto::{
    ClientType, Code, FilterType, HeartbeatRequest, MessageType, NotifyClientTerminationRequest, Permission,
    Publishing, QueryAssignmentRequest, QueryRouteRequest, QueryRouteResponse, Settings, Subscription,
    SubscriptionEntry, TelemetryCommand, retry_policy::Strategy, settings::PubSub,
    telemetry_command::Command,
};

use super::*;

#[tokio::test]
async fn a_route_echoes_how_the_client_came_and_names_every_queue() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let response = route(&client, TOPIC, Some(endpoints())).await;
    assert_eq!(code(&response.status), Code::Ok);
    let ids: Vec<_> = response.message_queues.iter().map(|queue| queue.id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    for queue in &response.message_queues {
        let broker = queue.broker.as_ref().unwrap();
        assert_eq!((broker.name.as_str(), broker.id), ("node-1", 0));
        assert_eq!(broker.endpoints, Some(endpoints()));
        assert_eq!(queue.topic, resource(TOPIC));
        assert_eq!(queue.permission(), Permission::ReadWrite);
        use MessageType::{Delay, Fifo, Normal, Transaction};
        let types = [Normal, Fifo, Delay, Transaction].map(i32::from);
        assert_eq!(queue.accept_message_types, types, "a mixed topic");
    }
    // A client that does not say how it came is told where we are.
    let response = route(&client, TOPIC, None).await;
    let endpoints = response.message_queues[0].broker.as_ref().unwrap().endpoints.as_ref().unwrap();
    assert_eq!(format!("127.0.0.1:{}", endpoints.addresses[0].port), weir.address);

    let none = route(&client, "nothing", Some(super::endpoints())).await;
    assert_eq!((code(&none.status), none.message_queues.len()), (Code::TopicNotFound, 0));
}

#[tokio::test]
async fn a_topic_is_made_by_its_first_route_if_the_broker_may() {
    let dir = directory();
    let options = BrokerOptions {
        auto_create_topics: true,
        retention_disk_percent: 100,
        ..BrokerOptions::new(dir.path())
    };
    let weir = Weir::start_with(options).await;
    let client = weir.client().await;
    assert_eq!(route(&client, "new", Some(endpoints())).await.message_queues.len(), 4);
    assert_eq!(code(&route(&client, "TBW102", Some(endpoints())).await.status), Code::IllegalTopic);
}

#[tokio::test]
async fn a_push_consumer_is_assigned_all_queues_at_once() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let ask = |topic: &str| {
        client.request(QueryAssignmentRequest {
            topic: resource(topic),
            group: resource(GROUP),
            endpoints: Some(endpoints()),
        })
    };
    let response = client.calls.clone().query_assignment(ask(TOPIC)).await.unwrap().into_inner();
    assert_eq!(code(&response.status), Code::Ok);
    let queue = response.assignments[0].message_queue.as_ref().unwrap();
    assert_eq!((queue.id, queue.broker.as_ref().unwrap().endpoints.clone()), (-1, Some(endpoints())));
    assert_eq!(response.assignments.len(), 1);
    let response = client.calls.clone().query_assignment(ask("nothing")).await.unwrap().into_inner();
    assert_eq!(code(&response.status), Code::TopicNotFound);
    // A FIFO group is assigned each queue, until it is one no more.
    let group: GroupName = GROUP.parse().unwrap();
    weir.broker.create_group(&group, GroupSpec { fifo: true, ..GroupSpec::default() }).await.unwrap();
    let response = client.calls.clone().query_assignment(ask(TOPIC)).await.unwrap().into_inner();
    let queues = response.assignments.into_iter().map(|assignment| assignment.message_queue.unwrap());
    let queues: Vec<_> = queues.collect();
    assert_eq!(queues.iter().map(|queue| queue.id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(
        queues,
        route(&client, TOPIC, Some(endpoints())).await.message_queues,
        "as the route has them"
    );
    let change = GroupChange { fifo: Some(false), ..GroupChange::default() };
    weir.broker.alter_group(&group, change).await.unwrap();
    let response = client.calls.clone().query_assignment(ask(TOPIC)).await.unwrap().into_inner();
    assert_eq!(response.assignments.len(), 1);
}

#[tokio::test]
async fn telemetry_answers_its_headers_at_once_and_every_settings_with_settings() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let start = Instant::now();
    let mut stream = Telemetry::open(&client).await;
    assert!(start.elapsed() < Duration::from_millis(500), "before the client has said anything");
    for _ in 0..3 {
        stream.send(producer()).await;
        let settings = stream.settings().await;
        assert!(matches!(settings.backoff_policy.unwrap().strategy, Some(Strategy::ExponentialBackoff(_))));
        let Some(PubSub::Publishing(publishing)) = settings.pub_sub else {
            panic!("a producer's settings are answered with a producer's")
        };
        assert_eq!(publishing.max_body_size, 4 << 20);
        assert_eq!(publishing.topics, [resource(TOPIC).unwrap()]);
    }
}

#[tokio::test]
async fn a_consumer_is_told_the_policy_of_its_group_in_its_own_words() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    for (language, version, customized) in
        [("JAVA", "5.0.8", false), ("PYTHON", "5.1.2", true), ("HTTP", "1.0.8", false), ("COBOL", "?", false)]
    {
        let client = weir.client_named("consumer", language, version).await;
        let mut stream = Telemetry::open(&client).await;
        stream.send(consumer(ClientType::PushConsumer, FilterType::Sql, "color = 'red'")).await;
        let settings = stream.settings().await;
        let policy = settings.backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 17);
        assert_eq!(
            matches!(policy.strategy, Some(Strategy::CustomizedBackoff(ref list)) if !list.next.is_empty()),
            customized,
            "{language}"
        );
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else {
            panic!("a consumer's settings are answered with a consumer's")
        };
        assert_eq!(subscription.fifo, Some(false));
        assert_eq!(subscription.receive_batch_size, Some(32));
        assert_eq!(subscription.long_polling_timeout.unwrap().seconds, 20);
        assert_eq!(subscription.subscriptions.len(), 1);
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_end_the_stream() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let without = Settings { client_type: Some(ClientType::Producer.into()), ..Settings::default() };
    let mut illegal = producer();
    if let Some(PubSub::Publishing(publishing)) = &mut illegal.pub_sub {
        publishing.topics.extend(resource("a topic"));
    }
    let mut nobody = consumer(ClientType::SimpleConsumer, FilterType::Tag, "*");
    if let Some(PubSub::Subscription(subscription)) = &mut nobody.pub_sub {
        subscription.group = None;
    }
    let mut large = producer();
    large.user_agent = Some(proto::Ua { hostname: "h".repeat(300_000), ..Default::default() });
    for (what, settings) in [
        ("half a selector", consumer(ClientType::SimpleConsumer, FilterType::Sql, "a = ")),
        ("an empty selector", consumer(ClientType::SimpleConsumer, FilterType::Sql, "")),
        ("no tag", consumer(ClientType::SimpleConsumer, FilterType::Tag, " || ")),
        ("a consumer that calls itself a producer", consumer(ClientType::Producer, FilterType::Tag, "*")),
        ("neither side", without),
        ("an illegal topic", illegal),
        ("no group", nobody),
        ("too much", large),
    ] {
        let mut stream = Telemetry::open(&client).await;
        stream.send(settings).await;
        let status = stream.next().await.expect("an end with a cause").expect_err(what);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{what}");
        assert!(status.message().starts_with("process client telemetryCommand failed"), "{what}: {status}");
        assert!(stream.next().await.is_none(), "{what}");
    }
    // An unknown topic is the route's to report.
    let mut unknown = consumer(ClientType::SimpleConsumer, FilterType::Tag, "*");
    if let Some(PubSub::Subscription(subscription)) = &mut unknown.pub_sub {
        subscription.subscriptions[0].topic = resource("nothing");
    }
    let mut stream = Telemetry::open(&client).await;
    stream.send(unknown).await;
    stream.settings().await;
}

#[tokio::test]
async fn half_closing_ends_the_stream_and_not_the_client() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(producer()).await;
    stream.settings().await;
    stream.half_close();
    assert!(stream.next().await.is_none());
    assert_eq!(
        heartbeat(&client, ClientType::Unspecified).await,
        Code::Ok,
        "it is still known as a producer"
    );
}

#[tokio::test]
async fn a_node_client_is_sent_its_settings_again_after_a_route_on_every_stream_that_is_left() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client_named("node", "HTTP", "1.0.8").await;
    let mut lost = Telemetry::open(&client).await;
    let mut kept = Telemetry::open(&client).await;
    lost.send(producer()).await;
    lost.settings().await;
    drop(lost);
    kept.send(producer()).await;
    kept.settings().await;
    route(&client, TOPIC, Some(endpoints())).await;
    route(&client, TOPIC, Some(endpoints())).await;
    kept.settings().await;
    let more = timeout(Duration::from_millis(300), kept.next()).await;
    assert!(more.is_err(), "routes that come together are followed by settings once");
    // Others are not: the Rust client complains of each.
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(producer()).await;
    stream.settings().await;
    route(&client, TOPIC, Some(endpoints())).await;
    assert!(timeout(Duration::from_millis(300), stream.next()).await.is_err());
}

#[tokio::test]
async fn heartbeats_are_accepted_from_clients_that_are_not_known() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    assert_eq!(heartbeat(&client, ClientType::Unspecified).await, Code::UnrecognizedClientType);
    assert_eq!(heartbeat(&client, ClientType::SimpleConsumer).await, Code::Ok);
    assert_eq!(heartbeat(&client, ClientType::Unspecified).await, Code::Ok);
}

#[tokio::test]
async fn a_good_bye_ends_the_streams_of_a_client_and_may_be_said_twice() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(producer()).await;
    stream.settings().await;
    for _ in 0..2 {
        let request = client.request(NotifyClientTerminationRequest { group: resource("") });
        let response = client.calls.clone().notify_client_termination(request).await.unwrap();
        assert_eq!(code(&response.get_ref().status), Code::Ok);
    }
    let end = timeout(Duration::from_secs(5), stream.next()).await.expect("the stream ends");
    assert!(end.is_none());
}

#[tokio::test]
async fn a_client_without_an_id_is_told_so_by_every_call() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client_named("", "GO", "5.1.4").await;
    assert_eq!(code(&route(&client, TOPIC, None).await.status), Code::ClientIdRequired);
    assert_eq!(heartbeat(&client, ClientType::Producer).await, Code::ClientIdRequired);
    assert_eq!(code(&client.send(vec![message("a")]).await.status), Code::ClientIdRequired);
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::ClientIdRequired);
    assert_eq!(code(&client.ack(&["h"]).await.status), Code::ClientIdRequired);
    assert_eq!(code(&client.change("h", Duration::ZERO).await.status), Code::ClientIdRequired);
    let mut stream = Telemetry::open(&client).await;
    let command = stream.next().await.unwrap().unwrap();
    assert_eq!(code(&command.status), Code::ClientIdRequired);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_broker_that_stops_answers_who_waits() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(producer()).await;
    stream.settings().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            let long = receive(|request| {
                request.long_polling_timeout = Some(prost_types::Duration { seconds: 15, nanos: 0 });
            });
            client.receive_within(long, Duration::from_secs(20)).await.code()
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    weir.broker.close().await.unwrap();
    let answer = timeout(Duration::from_secs(5), waiting).await.expect("the long poll ends").unwrap();
    assert_eq!(answer, Code::MessageNotFound);
    assert!(timeout(Duration::from_secs(5), stream.next()).await.expect("telemetry ends").is_none());
    let request = client.request(SendMessageRequest { messages: vec![message("late")] });
    let status = client.calls.clone().send_message(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

pub(super) async fn route(client: &Client, topic: &str, endpoints: Option<Endpoints>) -> QueryRouteResponse {
    let request = client.request(QueryRouteRequest { topic: resource(topic), endpoints });
    client.calls.clone().query_route(request).await.unwrap().into_inner()
}

pub(super) async fn heartbeat(client: &Client, client_type: ClientType) -> Code {
    let request = HeartbeatRequest { group: resource(GROUP), client_type: client_type.into() };
    let response = client.calls.clone().heartbeat(client.request(request)).await.unwrap();
    code(&response.get_ref().status)
}

pub(super) fn producer() -> Settings {
    let publishing = Publishing {
        topics: resource(TOPIC).into_iter().collect(),
        max_body_size: 0,
        validate_message_type: false,
    };
    Settings {
        client_type: Some(ClientType::Producer.into()),
        pub_sub: Some(PubSub::Publishing(publishing)),
        ..Settings::default()
    }
}

pub(super) fn consumer(client_type: ClientType, filter_type: FilterType, expression: &str) -> Settings {
    let entry =
        SubscriptionEntry { topic: resource(TOPIC), expression: Some(filter(filter_type, expression)) };
    let subscription =
        Subscription { group: resource(GROUP), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(client_type.into()),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

/// An open telemetry stream, as its client holds it.
pub(super) struct Telemetry {
    commands: Option<mpsc::Sender<TelemetryCommand>>,
    replies: Streaming<TelemetryCommand>,
}

impl Telemetry {
    pub(super) async fn open(client: &Client) -> Self {
        let (sender, receiver) = mpsc::channel(8);
        let mut request = client.request(ReceiverStream::new(receiver));
        // Some clients give such a stream a deadline of years.
        let years = AsciiMetadataValue::from_static("31536000M");
        request.metadata_mut().insert("grpc-timeout", years);
        let response = timeout(Duration::from_secs(5), client.calls.clone().telemetry(request)).await;
        let replies = response.expect("the headers come at once").unwrap().into_inner();
        Self { commands: Some(sender), replies }
    }

    pub(super) async fn send(&self, settings: Settings) {
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        self.commands.as_ref().expect("not half-closed").send(command).await.unwrap();
    }

    pub(super) fn half_close(&mut self) {
        self.commands = None;
    }

    pub(super) async fn next(&mut self) -> Option<Result<TelemetryCommand, tonic::Status>> {
        self.replies.next().await
    }

    pub(super) async fn settings(&mut self) -> Settings {
        let reply = timeout(Duration::from_secs(5), self.next()).await.expect("settings come back");
        let command = reply.expect("the stream is open").unwrap();
        assert_eq!(code(&command.status), Code::Ok);
        match command.command {
            Some(Command::Settings(settings)) => settings,
            other => panic!("expected settings, got {other:?}"),
        }
    }
}
