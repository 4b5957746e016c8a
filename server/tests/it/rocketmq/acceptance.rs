//! What a server must do for the clients to work, step by step, against the real binary over real connections. The
//! numbers are those of the list that servers of this protocol are accepted by; what stands elsewhere in more detail
//! stands here once.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig};
use weir_server::rocketmq::proto::{
    ClientType, Code, FilterType, MessageType, Publishing, Settings, TransactionResolution,
    retry_policy::Strategy, settings::PubSub, telemetry_command::Command,
};

use super::{
    delivery::forward,
    pending::{delayed, half},
    settings::{Telemetry, consumer, heartbeat, producer, route},
    *,
};
use crate::cli::{Served, write_certificates};

/// The real binary, on a port that takes TLS and plaintext, with topics and groups for the steps.
struct Accepted {
    served: Served,
    dir: TempDir,
}

impl Accepted {
    fn start() -> Self {
        let dir = directory();
        write_certificates(dir.path());
        let config = dir.path().join("weir.toml");
        let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"both\"\ncertificate = \"server.pem\"\n\
                        key = \"server.key\"\n";
        std::fs::write(&config, format!("retention-disk-percent = 100\n{listener}")).unwrap();
        let served = Served::start_with(&dir.path().join("data"), &["--config", config.to_str().unwrap()]);
        for topic in [TOPIC, "empty", "two"] {
            served.json(&["topic", "create", topic, "--queues", "2"]);
        }
        served.json(&["group", "create", "ordered", "--fifo"]);
        Self { served, dir }
    }

    async fn client_of(&self, id: &'static str, language: &'static str, version: &'static str) -> Client {
        let uri = format!("http://{}", self.served.address());
        let channel = Channel::from_shared(uri).unwrap().connect().await.unwrap();
        Client { calls: MessagingServiceClient::new(channel), id, language, version }
    }

    async fn client(&self) -> Client {
        self.client_of("a-client@1", "JAVA", "5.0.8").await
    }

    async fn client_over_tls(&self) -> Client {
        let certificate = std::fs::read(self.dir.path().join("server.pem")).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{}", self.served.address())).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        Client { calls: MessagingServiceClient::new(channel), id: "tls", language: "GO", version: "5.1.4" }
    }
}

fn to(topic: &str, group: &str) -> ReceiveMessageRequest {
    receive(|request| {
        request.message_queue.as_mut().unwrap().topic = resource(topic);
        request.group = resource(group);
    })
}

fn sent_to(topic: &str, body: &str) -> Message {
    Message { topic: resource(topic), ..message(body) }
}

#[tokio::test(flavor = "multi_thread")]
async fn step_1_plaintext_and_tls_share_a_port() {
    let weir = Accepted::start();
    for client in [weir.client().await, weir.client_over_tls().await] {
        assert_eq!(code(&route(&client, TOPIC, Some(endpoints())).await.status), Code::Ok, "{}", client.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_2_to_5_a_client_starts() {
    let weir = Accepted::start();
    let client = weir.client().await;
    // 2. The route names the queues from 0 on, and echoes how the client came.
    let told = route(&client, TOPIC, Some(endpoints())).await;
    assert_eq!(code(&told.status), Code::Ok);
    assert_eq!(told.message_queues.iter().map(|queue| queue.id).collect::<Vec<_>>(), [0, 1]);
    assert!(told.message_queues.iter().all(|queue| {
        queue.broker.as_ref().and_then(|broker| broker.endpoints.clone()) == Some(endpoints())
    }));
    // 3. The headers of a telemetry stream come before the client says anything: opening waits for them.
    let mut stream = Telemetry::open(&client).await;
    // 4. The settings of a producer are answered with a back-off and a size.
    stream.send(producer()).await;
    let settings = stream.settings().await;
    assert!(matches!(settings.backoff_policy.unwrap().strategy, Some(Strategy::ExponentialBackoff(_))));
    let Some(PubSub::Publishing(publishing)) = settings.pub_sub else { panic!("those of a producer") };
    assert!(publishing.max_body_size > 0 && publishing.validate_message_type);
    // 4. Also where there are no topics yet.
    let none = Settings {
        client_type: Some(ClientType::Producer.into()),
        pub_sub: Some(PubSub::Publishing(Publishing::default())),
        ..Settings::default()
    };
    stream.send(none).await;
    stream.settings().await;
    // 5. Heartbeats, also of a client that nobody has heard of.
    assert_eq!(heartbeat(&client, ClientType::Producer).await, Code::Ok);
    let stranger = weir.client_of("stranger@2", "NODE_JS", "1.0.8").await;
    assert_eq!(heartbeat(&stranger, ClientType::PushConsumer).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_6_to_8_messages_go_in_and_come_out() {
    let weir = Accepted::start();
    let client = weir.client().await;
    // 6. One message, and three, with an entry for each in their order.
    let one = client.send(vec![message("one")]).await;
    assert_eq!((code(&one.status), one.entries.len()), (Code::Ok, 1));
    let three = client.send(vec![message("a"), message("b"), message("c")]).await;
    assert_eq!(code(&three.status), Code::Ok);
    let entries: Vec<_> =
        three.entries.iter().map(|entry| (entry.message_id.as_str(), code(&entry.status))).collect();
    assert_eq!(entries, [("a", Code::Ok), ("b", Code::Ok), ("c", Code::Ok)]);
    // 7. A receive of a client that has sent no settings.
    let newcomer = weir.client_of("newcomer@3", "PYTHON", "5.1.2").await;
    assert_eq!(newcomer.receive_all(4).await.len(), 4);
    // 8. A receive on queue 0 gets what lies in queue 1 alone.
    let mut queues = Vec::new();
    for n in 0..2 {
        client.send(vec![sent_to("two", &n.to_string())]).await;
    }
    for message in client.receive(to("two", GROUP)).await.messages() {
        queues.push(system(&message).queue_id);
        let request = AckMessageRequest {
            group: resource(GROUP),
            topic: resource("two"),
            entries: vec![AckMessageEntry {
                receipt_handle: handle(&message).to_owned(),
                ..AckMessageEntry::default()
            }],
        };
        let acked = client.calls.clone().ack_message(client.request(request)).await.unwrap().into_inner();
        assert_eq!(code(&acked.status), Code::Ok);
    }
    queues.sort_unstable();
    assert_eq!(queues, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_9_a_poll_of_40_seconds_within_40_ends_after_20() {
    let weir = Accepted::start();
    let client = weir.client_of("rust@4", "RUST", "5.0.0").await;
    let start = Instant::now();
    let mut request = to("empty", GROUP);
    request.long_polling_timeout = Some(prost_types::Duration { seconds: 40, nanos: 0 });
    let received = client.receive_within(request, Duration::from_secs(40)).await;
    // `code` also checks that a status is first and the time of delivery last.
    assert_eq!(received.code(), Code::MessageNotFound);
    assert!(start.elapsed() > Duration::from_secs(19), "it waited: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_10_to_12_handles_and_selectors() {
    let weir = Accepted::start();
    let client = weir.client().await;
    client.send_all(&["done", "again"]).await;
    let received = client.receive_all(2).await;
    let of = |body: &str| handle(received.iter().find(|message| message.body == body.as_bytes()).unwrap());
    // 10. Acknowledged once, twice, and with garbage.
    assert_eq!(code(&client.ack(&[of("done")]).await.status), Code::Ok);
    assert_eq!(code(&client.ack(&[of("done")]).await.status), Code::Ok);
    assert_eq!(code(&client.ack(&["garbage"]).await.status), Code::InvalidReceiptHandle);
    // 11. Given back at once, it comes again, counted, and the old handle is void.
    let changed = client.change(of("again"), Duration::ZERO).await;
    assert!(code(&changed.status) == Code::Ok && !changed.receipt_handle.is_empty());
    let second = client.receive_all(1).await;
    assert_eq!((bodies(&second), system(&second[0]).delivery_attempt), (vec!["again".to_owned()], Some(2)));
    assert_eq!(code(&client.ack(&[of("again")]).await.status), Code::InvalidReceiptHandle);
    // 12. Half a selector ends a telemetry stream, and a receive is refused.
    let mut stream = Telemetry::open(&client).await;
    stream.send(consumer(ClientType::SimpleConsumer, FilterType::Sql, "a = ")).await;
    let end = stream.next().await.expect("an end with a cause").unwrap_err();
    assert_eq!(end.code(), tonic::Code::InvalidArgument);
    let half = receive(|request| request.filter_expression = Some(filter(FilterType::Sql, "a = ")));
    assert_eq!(client.receive(half).await.code(), Code::IllegalFilterExpression);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_13_a_transaction_is_seen_once_it_is_committed() {
    let weir = Accepted::start();
    let client = weir.client().await;
    let (_settings, mut commands) = client.produce(&[TOPIC]).await;
    let kept = client.send_one(half("kept")).await.transaction_id;
    client.send_one(half("forgotten")).await;
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
    for _ in 0..2 {
        let ended = client.end(TOPIC, &kept, TransactionResolution::Commit).await;
        assert_eq!(code(&ended.status), Code::Ok);
    }
    assert_eq!(bodies(&client.receive_all(1).await), ["kept"]);
    let asked =
        timeout(Duration::from_secs(15), commands.next()).await.expect("it is asked about the other one");
    let Some(Command::RecoverOrphanedTransactionCommand(orphan)) = asked.unwrap().unwrap().command else {
        panic!("nothing else is told to a producer that says nothing")
    };
    assert_eq!(orphan.message.unwrap().body, b"forgotten".as_slice());
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
    let ended = client.end(TOPIC, &orphan.transaction_id, TransactionResolution::Commit).await;
    assert_eq!(code(&ended.status), Code::Ok);
    assert_eq!(bodies(&client.receive_all(1).await), ["forgotten"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_15_a_delayed_message_comes_in_time_and_a_recalled_one_never() {
    let weir = Accepted::start();
    let client = weir.client().await;
    let due = std::time::SystemTime::now() + Duration::from_secs(5);
    client.send_one(delayed("later", due.into())).await;
    let recalled = client.send_one(delayed("never", due.into())).await.recall_handle;
    assert_eq!(code(&client.recall(TOPIC, &recalled).await.status), Code::Ok);
    let mut request = receive(|_| {});
    request.long_polling_timeout = Some(prost_types::Duration { seconds: 9, nanos: 0 });
    let received = client.receive(request).await.messages();
    assert_eq!(bodies(&received), ["later"]);
    assert!(std::time::SystemTime::now() >= due, "not before it is due");
    // When it became visible, whenever it was fetched.
    let stored = system(&received[0]).store_timestamp.unwrap();
    let late = std::time::SystemTime::try_from(stored).unwrap().duration_since(due).unwrap();
    println!("{late:?} late");
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_14_a_message_group_is_handed_out_one_by_one() {
    let weir = Accepted::start();
    let client = weir.client().await;
    for body in ["first", "second"] {
        let mut lined = message(body);
        let system = lined.system_properties.as_mut().unwrap();
        system.message_group = Some("line".to_owned());
        system.message_type = MessageType::Fifo.into();
        assert_eq!(code(&client.send(vec![lined]).await.status), Code::Ok);
    }
    let one = |attempt_id: &str| {
        let mut request = to(TOPIC, "ordered");
        (request.batch_size, request.attempt_id) = (1, Some(attempt_id.to_owned()));
        request
    };
    let first = client.receive(one("x")).await.messages();
    assert_eq!(bodies(&first), ["first"]);
    assert_eq!(client.receive(one("y")).await.code(), Code::MessageNotFound, "the second one waits");
    let again = client.receive(one("x")).await.messages();
    assert_eq!((bodies(&again), system(&again[0]).delivery_attempt), (vec!["first".to_owned()], Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn step_16_the_seventeenth_failure_is_the_last() {
    let weir = Accepted::start();
    let client = weir.client().await;
    client.send_all(&["poison"]).await;
    for attempt in 1..=17 {
        let received = client.receive_all(1).await;
        assert_eq!(system(&received[0]).delivery_attempt, Some(attempt));
        assert_eq!(code(&client.change(handle(&received[0]), Duration::ZERO).await.status), Code::Ok);
    }
    assert_eq!(client.receive(receive(|_| {})).await.code(), Code::MessageNotFound);
    let mut letters = to(&format!("%DLQ%{GROUP}"), "undertaker");
    letters.long_polling_timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let dead = client.receive(letters).await.messages();
    assert_eq!(bodies(&dead), ["poison"]);
    let origin = system(&dead[0]).dead_letter_queue.as_ref().expect("a dead letter names its origin");
    assert_eq!((origin.topic.as_str(), origin.message_id.as_str()), (TOPIC, "poison"));
    // A client that gives a message up by itself gets there too, and may say it twice.
    client.send_all(&["hopeless"]).await;
    let received = client.receive_all(1).await;
    assert_eq!(forward(&client, handle(&received[0])).await, Code::Ok);
    assert_eq!(forward(&client, handle(&received[0])).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_17_to_20_streams_old_clients_and_headers() {
    let weir = Accepted::start();
    // 17. What is sent to a client comes over the stream that is left.
    let node = weir.client_of("node@5", "HTTP", "1.0.8").await;
    let (mut lost, mut kept) = (Telemetry::open(&node).await, Telemetry::open(&node).await);
    for stream in [&mut lost, &mut kept] {
        stream.send(producer()).await;
        stream.settings().await;
    }
    lost.half_close();
    drop(lost);
    assert_eq!(code(&route(&node, TOPIC, Some(endpoints())).await.status), Code::Ok);
    let command = timeout(Duration::from_secs(5), kept.settings()).await;
    assert!(command.is_ok(), "the settings are sent again, as this client needs after a route");
    // 18. A client is told no code that it does not know.
    let mut empty = message("a");
    empty.body = Default::default();
    for (language, version, expected) in
        [("RUST", "5.0.0", Code::MessageCorrupted), ("JAVA", "5.2.0", Code::MessageBodyEmpty)]
    {
        let client = weir.client_of("client", language, version).await;
        assert_eq!(code(&client.send(vec![empty.clone()]).await.status), expected, "{language}");
    }
    // 19. A client without an id is told so inside of the answer.
    let nobody = weir.client_of("", "GO", "5.1.4").await;
    assert_eq!(code(&route(&nobody, TOPIC, None).await.status), Code::ClientIdRequired);
    // 20. Without accounts nothing is signed for; clients sign all the same, in three forms, or with nothing at all.
    let client = weir.client().await;
    for (time, credential, signature) in [
        ("20261123T023657Z", "AK", "a429ea77334dcdcc5fc72ff94e0a8dac5096bde6"),
        ("20261123T023821Z", "AK//Rocketmq", "9666563FE4835ED166296CADA704F35C00F9753A"),
        ("2026-11-23T02:51:18.182715841Z", "AK/region/RocketMQ", "c4094ec2a428809cd277ad3666f93c084b1d67e1"),
        ("20261123T023646Z", "", "8511ee45cae221509ceaadb457eb3842bd76a88f"),
    ] {
        let mut request = client.request(SendMessageRequest { messages: vec![message("signed")] });
        let signed = format!(
            "MQv2-HMAC-SHA1 Credential={credential}, SignedHeaders=x-mq-date-time, Signature={signature}"
        );
        request.metadata_mut().insert("x-mq-date-time", time.parse().unwrap());
        request.metadata_mut().insert("authorization", signed.parse().unwrap());
        let sent = client.calls.clone().send_message(request).await.unwrap();
        assert_eq!(code(&sent.get_ref().status), Code::Ok, "{time}");
    }
}
