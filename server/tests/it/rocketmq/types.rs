//! Topics of a type over the wire: what a producer is told and refused, and what comes first.

use weir_engine::{TopicChange, TopicType};
use weir_server::rocketmq::proto::{
    Code, MessageType, QueryAssignmentRequest, QueryRouteRequest, settings::PubSub,
};

use super::{
    settings::{Telemetry, producer},
    *,
};

async fn make(weir: &Weir, topic_type: TopicType) -> String {
    let name = format!("of-{topic_type}");
    let spec = TopicSpec { topic_type, ..TopicSpec::default() };
    weir.broker.create_topic(&name.parse().unwrap(), spec).await.unwrap();
    name
}

/// The types that a route tells of a topic, the same for every queue and for the assignment.
async fn types(client: &Client, topic: &str) -> Vec<MessageType> {
    let request = QueryRouteRequest { topic: resource(topic), endpoints: Some(endpoints()) };
    let route = client.calls.clone().query_route(client.request(request)).await.unwrap().into_inner();
    let request = QueryAssignmentRequest {
        topic: resource(topic),
        group: resource(GROUP),
        endpoints: Some(endpoints()),
    };
    let assigned = client.calls.clone().query_assignment(client.request(request)).await.unwrap().into_inner();
    let assigned = assigned.assignments.into_iter().filter_map(|assignment| assignment.message_queue);
    let mut all: Vec<_> =
        route.message_queues.into_iter().chain(assigned).map(|queue| queue.accept_message_types).collect();
    assert_eq!(all.len(), 5);
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].iter().map(|number| MessageType::try_from(*number).unwrap()).collect()
}

#[tokio::test]
async fn a_route_tells_the_types_of_a_topic_as_far_as_the_client_can_read_them() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    for topic_type in TopicType::ALL {
        make(&weir, topic_type).await;
    }
    use MessageType::{Fifo, Lite, Normal, Priority};
    for (language, version, lite, priority) in [
        ("JAVA", "5.0.8", Normal, Normal),
        ("JAVA", "5.1.0", Lite, Normal),
        ("JAVA", "5.2.0", Lite, Priority),
        ("PYTHON", "5.1.2", Lite, Priority),
        ("HTTP", "1.0.8", Lite, Priority),
        ("GO", "5.1.4", Lite, Priority),
        ("DOTNET", "5.2.1", Lite, Priority),
        ("RUST", "5.0.0", Normal, Normal),
    ] {
        let client = weir.client_named("client", language, version).await;
        for (topic, expected) in [
            ("of-normal", vec![Normal]),
            ("of-fifo", vec![Fifo]),
            ("of-priority", vec![priority]),
            ("of-lite", vec![lite]),
        ] {
            assert_eq!(types(&client, topic).await, expected, "{language} {version} {topic}");
        }
        let mixed = types(&client, "of-mixed").await;
        assert!(mixed.starts_with(&[Normal, Fifo]) && !mixed.contains(&Priority), "{mixed:?}");
        assert_eq!(types(&client, TOPIC).await, mixed, "the type of a topic of which nothing is said");
    }
    let name: TopicName = "of-normal".parse().unwrap();
    let change = TopicChange { topic_type: Some(TopicType::Fifo), ..TopicChange::default() };
    weir.broker.alter_topic(&name, change).await.unwrap();
    assert_eq!(types(&weir.client().await, "of-normal").await, [Fifo]);
}

#[tokio::test]
async fn what_a_topic_does_not_take_is_refused_and_clients_are_told_to_look_as_well() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    for topic_type in TopicType::ALL {
        make(&weir, topic_type).await;
    }
    let client = weir.client().await;
    let mut stream = Telemetry::open(&client).await;
    stream.send(producer()).await;
    let Some(PubSub::Publishing(publishing)) = stream.settings().await.pub_sub else {
        panic!("a producer's settings are answered with a producer's")
    };
    assert!(publishing.validate_message_type);
    type Change = fn(&mut SystemProperties);
    let kinds: [(&str, Change); 5] = [
        ("normal", |_| {}),
        ("fifo", |system| system.message_group = Some("g".to_owned())),
        ("priority", |system| system.priority = Some(2)),
        ("lite", |system| system.lite_topic = Some("l".to_owned())),
        // What a client calls its message does not count.
        ("normal", |system| system.message_type = MessageType::Fifo.into()),
    ];
    for topic_type in TopicType::ALL {
        for (kind, change) in kinds {
            let mut sent = message("m");
            sent.topic = resource(&format!("of-{topic_type}"));
            change(sent.system_properties.as_mut().unwrap());
            let is_taken = match topic_type {
                TopicType::Mixed => !matches!(kind, "priority" | "lite"),
                other => other.name() == kind,
            };
            let response = client.send(vec![sent]).await;
            let expected = if is_taken { Code::Ok } else { Code::MessagePropertyConflictWithType };
            assert_eq!(code(&response.status), expected, "{kind} to {topic_type}: {response:?}");
        }
    }
    for both in [
        |system: &mut SystemProperties| system.message_group = Some("g".to_owned()),
        |system: &mut SystemProperties| system.delivery_timestamp = Some(prost_types::Timestamp::default()),
    ] {
        let mut sent = message("m");
        sent.topic = resource("of-priority");
        let system = sent.system_properties.as_mut().unwrap();
        system.priority = Some(1);
        both(system);
        let response = client.send(vec![sent]).await;
        assert_eq!(code(&response.status), Code::MessagePropertyConflictWithType, "{response:?}");
    }
}

#[tokio::test]
async fn what_is_of_higher_priority_comes_first_and_says_so() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let topic = make(&weir, TopicType::Priority).await;
    for (language, version, told) in
        [("JAVA", "5.2.0", MessageType::Priority), ("RUST", "5.0.0", MessageType::Normal)]
    {
        let client = weir.client_named("client", language, version).await;
        for (body, priority) in [("low", 0), ("middle", 2), ("highest", 7), ("high", 3)] {
            let mut sent = message(body);
            sent.topic = resource(&topic);
            let system = sent.system_properties.as_mut().unwrap();
            system.priority = Some(priority);
            system.message_type = MessageType::Priority.into();
            assert_eq!(code(&client.send(vec![sent]).await.status), Code::Ok);
        }
        let request = receive(|request| {
            request.message_queue.as_mut().unwrap().topic = resource(&topic);
            request.group = resource(language);
            request.batch_size = 4;
        });
        let received = client.receive(request).await.messages();
        let came: Vec<_> = received
            .iter()
            .map(|message| (String::from_utf8(message.body.to_vec()).unwrap(), system(message).priority))
            .collect();
        let expected = [("highest", 7), ("high", 3), ("middle", 2), ("low", 0)];
        let expected = expected.map(|(body, priority)| (body.to_owned(), Some(priority)));
        // The second client is of another group, which reads what was sent for the first one too.
        assert_eq!(came[0], expected[0], "{language}");
        if language == "JAVA" {
            assert_eq!(came, expected);
        }
        assert!(received.iter().all(|message| system(message).message_type() == told), "{language}");
    }
}
