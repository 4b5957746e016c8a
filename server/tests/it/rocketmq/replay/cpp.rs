//! The C++ client of RocketMQ 5. Paths in comments are below `cpp/source` of its repository.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use weir_server::rocketmq::proto::Language;

use super::*;

/// What a build says that was given no version: `base/MetadataConstants.cpp`.
const VERSION: &str = "5.0.0";
/// How long the client waits for the settings that answer its own: `client/TelemetryBidiReactor.cpp`.
const SETTINGS_WITHIN: Duration = Duration::from_secs(3);
/// The deadline of a telemetry stream, after which it is opened anew: the same file.
const TELEMETRY_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// Bodies of this size and above are compressed, and above the same size refused: `base/MixAll.cpp`.
const COMPRESSED_FROM: usize = 4 << 20;
/// What a push consumer writes as the lease, though the broker is to renew it: `base/MixAll.cpp`.
const LEASE: Duration = Duration::from_secs(30);

/// `client/Signature.cpp`: everything is signed, the region stands in the credential, the namespace may be empty.
fn headers(id: &str) -> Vec<(&'static str, String)> {
    let date = date(SystemTime::now());
    let authorization = format!(
        "MQv2-HMAC-SHA1 Credential={ACCESS_KEY}/cn-hangzhou/RocketMQ, SignedHeaders=x-mq-date-time, Signature={}",
        signature(&date)
    );
    vec![
        ("x-mq-language", "CPP".to_owned()),
        ("x-mq-client-id", id.to_owned()),
        ("x-mq-namespace", String::new()),
        ("x-mq-client-version", VERSION.to_owned()),
        ("x-mq-protocol-version", "v2".to_owned()),
        ("x-mq-date-time", date),
        ("authorization", authorization),
    ]
}

/// A client that has started, or is started again.
struct Cpp {
    peer: Peer,
    settings: Settings,
    stream: Stream,
    /// The settings that it was told.
    told: Settings,
}

impl Cpp {
    /// `start` in `rocketmq/ClientImpl.cpp`: the session first, with the address that the user gave; then the routes.
    async fn start(
        site: &Site,
        number: u32,
        client_type: ClientType,
        pub_sub: PubSub,
        topics: &[&str],
    ) -> Self {
        let id = format!("{HOST}@4711#{number}_1795000000000");
        let peer = Peer::connect(site, id, headers).await;
        let settings = Settings {
            client_type: Some(client_type.into()),
            access_point: Some(peer.endpoints.clone()),
            request_timeout: wire(REQUEST_TIMEOUT),
            user_agent: Some(Ua {
                language: Language::Cpp.into(),
                version: VERSION.to_owned(),
                platform: "Linux 64-bit".to_owned(),
                hostname: HOST.to_owned(),
            }),
            pub_sub: Some(pub_sub),
            ..Settings::default()
        };
        let mut stream = peer.telemetry(&settings, Some(TELEMETRY_DEADLINE)).await.unwrap();
        let told = stream.settings(SETTINGS_WITHIN).await;
        for topic in topics {
            peer.route(topic).await;
        }
        Self { peer, settings, stream, told }
    }

    /// `buildClientSettings` in `rocketmq/ProducerImpl.cpp`.
    async fn producer(site: &Site, number: u32, topics: &[&str]) -> Self {
        let publishing = Publishing {
            topics: topics.iter().filter_map(|topic| resource(topic)).collect(),
            max_body_size: 4 << 20,
            validate_message_type: false,
        };
        let producer =
            Self::start(site, number, ClientType::Producer, PubSub::Publishing(publishing), topics).await;
        // `applyPublishingConfig`: a namespace in there would become the client's own.
        let told = super::publishing(&producer.told);
        assert!(told.topics.iter().all(|topic| topic.resource_namespace.is_empty()));
        assert!(usize::try_from(told.max_body_size).unwrap() >= COMPRESSED_FROM);
        producer.beat(None).await;
        producer
    }

    /// `buildClientSettings` in `rocketmq/SimpleConsumerImpl.cpp`.
    async fn simple(site: &Site, number: u32, group: &str, topic: &str, filter: FilterExpression) -> Self {
        let subscription = Subscription {
            group: resource(group),
            subscriptions: vec![entry(topic, Some(filter))],
            ..Subscription::default()
        };
        let pub_sub = PubSub::Subscription(subscription);
        let simple = Self::start(site, number, ClientType::SimpleConsumer, pub_sub, &[topic]).await;
        simple.beat(Some(group)).await;
        simple
    }

    /// `buildClientSettings` in `rocketmq/PushConsumerImpl.cpp`; the heartbeat follows at once.
    async fn push(site: &Site, number: u32, group: &str, topic: &str, filter: FilterExpression) -> Self {
        let subscription = Subscription {
            group: resource(group),
            subscriptions: vec![entry(topic, Some(filter))],
            receive_batch_size: Some(32),
            long_polling_timeout: seconds(30),
            ..Subscription::default()
        };
        let pub_sub = PubSub::Subscription(subscription);
        let push = Self::start(site, number, ClientType::PushConsumer, pub_sub, &[topic]).await;
        push.beat(Some(group)).await;
        push
    }

    /// `heartbeat` in `rocketmq/ClientImpl.cpp`: what is not OK is a warning, and an endpoint stays isolated.
    async fn beat(&self, group: Option<&str>) {
        let request = HeartbeatRequest {
            group: group.and_then(resource),
            client_type: self.settings.client_type.unwrap(),
        };
        assert_eq!(code(&self.peer.heartbeat(request).await.unwrap().status), Code::Ok);
    }

    /// Both kinds of consumers receive from what they are assigned; an empty answer leaves a simple one with nothing.
    async fn assigned(&self, group: &str, topic: &str) -> MessageQueue {
        let request = QueryAssignmentRequest {
            topic: resource(topic),
            group: resource(group),
            endpoints: Some(self.peer.endpoints.clone()),
        };
        let mut answer = self.peer.query_assignment(request).await.unwrap();
        assert_eq!((code(&answer.status), answer.assignments.len()), (Code::Ok, 1));
        let queue = answer.assignments.remove(0).message_queue.expect("an assignment names its queue");
        self.peer.check_queue(&queue, topic);
        queue
    }

    fn filter(&self) -> Option<FilterExpression> {
        let Some(PubSub::Subscription(own)) = &self.settings.pub_sub else { return None };
        own.subscriptions[0].expression.clone()
    }

    /// `receive` in `rocketmq/SimpleConsumerImpl.cpp`.
    async fn take(&self, group: &str, topic: &str, limit: i32, wait: Duration) -> (Code, Vec<Message>) {
        let request = ReceiveMessageRequest {
            group: resource(group),
            message_queue: Some(self.assigned(group, topic).await),
            filter_expression: self.filter(),
            batch_size: limit,
            invisible_duration: wire(LEASE),
            auto_renew: false,
            long_polling_timeout: wire(wait),
            attempt_id: None,
        };
        self.peer.receive(request, wait + REQUEST_TIMEOUT).await.unwrap()
    }

    /// `wrapPopMessageRequest` in `rocketmq/ProcessQueueImpl.cpp`: renewed, with a lease all the same, and without a time
    /// for the poll; the deadline is the time that was told and the client's own.
    async fn pop(
        &self,
        group: &str,
        queue: MessageQueue,
        attempt: &str,
    ) -> Result<(Code, Vec<Message>), Status> {
        let request = ReceiveMessageRequest {
            group: resource(group),
            message_queue: Some(queue),
            filter_expression: self.filter(),
            batch_size: 32,
            invisible_duration: wire(LEASE),
            auto_renew: true,
            long_polling_timeout: None,
            attempt_id: Some(attempt.to_owned()),
        };
        let polling = subscription(&self.told).long_polling_timeout.unwrap();
        self.peer.receive(request, Duration::try_from(polling).unwrap() + REQUEST_TIMEOUT).await
    }

    async fn ack(&self, group: &str, topic: &str, message: &Message) -> Code {
        code(&self.peer.ack_message(ack_of(group, topic, message)).await.unwrap().status)
    }

    /// `nack` in `rocketmq/PushConsumerImpl.cpp`, which counts one attempt more than there were.
    async fn nack(&self, group: &str, topic: &str, message: &Message) {
        let after = delay(&self.told, system(message).delivery_attempt.unwrap() + 1);
        let request = change_of(group, topic, message, after);
        let answer = self.peer.change_invisible_duration(request).await.unwrap();
        assert_eq!(code(&answer.status), Code::Ok, "anything else but a bad handle is tried again for ever");
    }

    /// `endTransaction0` in `rocketmq/ProducerImpl.cpp`: without a source. All but OK is a failure.
    async fn end(&self, message_id: &str, transaction_id: &str, resolution: TransactionResolution) {
        let request = EndTransactionRequest {
            topic: resource(TOPIC),
            message_id: message_id.to_owned(),
            transaction_id: transaction_id.to_owned(),
            resolution: resolution.into(),
            ..EndTransactionRequest::default()
        };
        assert_eq!(code(&self.peer.end_transaction(request).await.unwrap().status), Code::Ok);
    }

    /// Receives and acknowledges until as many have come, and compares them with what was sent.
    async fn take_all(&self, group: &str, topic: &str, sent: &[&Message]) {
        let mut open: Vec<&Message> = sent.to_vec();
        for _ in 0..20 {
            let (answered, messages) = self.take(group, topic, 32, 2 * SECOND).await;
            // `client/ReceiveMessageStreamReader.cpp`: the one is a list, the other NoContent.
            assert!(matches!(answered, Code::Ok | Code::MessageNotFound), "{answered:?}");
            for message in &messages {
                let place = open
                    .iter()
                    .position(|sent| system(sent).message_id == system(message).message_id)
                    .unwrap_or_else(|| panic!("nobody waits for {:?}", system(message)));
                check_delivered(message, open.remove(place));
                assert_eq!(self.ack(group, topic, message).await, Code::Ok);
            }
            if open.is_empty() {
                return;
            }
        }
        panic!("these did not come: {:?}", open.iter().map(|sent| system(sent)).collect::<Vec<_>>());
    }
}

/// `wrapSendMessageRequest` in `rocketmq/ProducerImpl.cpp`.
fn made(topic: &str, number: u32, body: &[u8], change: impl FnOnce(&mut SystemProperties)) -> Message {
    let now = prost_types::Timestamp::from(SystemTime::now());
    let mut system = SystemProperties {
        born_timestamp: Some(now),
        born_host: HOST.to_owned(),
        message_type: MessageType::Normal.into(),
        body_encoding: Encoding::Identity.into(),
        message_id: message_id(number),
        queue_id: i32::try_from(number % 4).unwrap(),
        ..SystemProperties::default()
    };
    let mut body = body.to_vec();
    if body.len() >= COMPRESSED_FROM {
        body = deflated(&body);
        system.body_encoding = Encoding::Gzip.into();
    }
    change(&mut system);
    Message {
        topic: resource(topic),
        user_properties: [("n".to_owned(), number.to_string())].into(),
        system_properties: Some(system),
        body: body.into(),
    }
}

/// `UtilAll::compress` in `base/UtilAll.cpp`: it says GZIP, and is zlib.
fn deflated(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A transaction's half.
fn half(number: u32) -> Message {
    made(TOPIC, number, b"half", |system| system.message_type = MessageType::Transaction.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_producer_sends_every_kind_of_message_and_a_consumer_gets_them() {
    let site = Site::start(&["topic create orders", "topic create ranks --type priority"]);
    let mut producer = Cpp::producer(&site, 0, &[TOPIC, "ranks"]).await;
    let normal = made(TOPIC, 1, b"normal", |system| {
        system.tag = Some("red".to_owned());
        system.keys = vec!["key".to_owned(), "other".to_owned()];
        system.trace_context = Some("00-1f-2e-01".to_owned());
    });
    let lined = |number| {
        made(TOPIC, number, b"fifo", |system| {
            system.message_type = MessageType::Fifo.into();
            system.message_group = Some("line".to_owned());
        })
    };
    let timed = |number: u32, after: u32| {
        made(TOPIC, number, b"timed", |system| {
            let due = due(SECOND * after);
            system.message_type = MessageType::Delay.into();
            system.delivery_timestamp = Some(due);
            // It writes the milliseconds there too, as far as they fit.
            system.delivery_attempt = Some((due.seconds * 1000) as i32);
        })
    };
    let plain: Vec<u8> = (0..COMPRESSED_FROM).map(|at| (at / 1000) as u8).collect();
    let large = made(TOPIC, 2, &plain, |_| {});
    assert_eq!(system(&large).body_encoding(), Encoding::Gzip);
    let (first, second, delayed, recalled) = (lined(3), lined(4), timed(5, 2), timed(6, 600));
    for message in [&normal, &large, &first, &second, &delayed] {
        producer.peer.send(message.clone()).await;
    }
    // `recall` in `rocketmq/ProducerImpl.cpp` hands on the id of what it answers.
    let handle = producer.peer.send(recalled.clone()).await.recall_handle;
    assert!(!handle.is_empty());
    let request = RecallMessageRequest { topic: resource(TOPIC), recall_handle: handle };
    let answer = producer.peer.recall_message(request).await.unwrap();
    assert_eq!((code(&answer.status), answer.message_id), (Code::Ok, message_id(6)));

    let (kept, dropped, forgotten) = (half(7), half(8), half(9));
    for (half, resolution) in
        [(&kept, TransactionResolution::Commit), (&dropped, TransactionResolution::Rollback)]
    {
        let sent = producer.peer.send(half.clone()).await;
        producer.end(&sent.message_id, &sent.transaction_id, resolution).await;
    }
    let asked_for = producer.peer.send(forgotten.clone()).await.transaction_id;
    let Command::RecoverOrphanedTransactionCommand(orphan) = producer.stream.next(20 * SECOND).await else {
        panic!("nothing else is told to a producer that says nothing")
    };
    let half = orphan.message.expect("the client asks its checker about the message");
    check_content(&half, &forgotten);
    assert_eq!(orphan.transaction_id, asked_for);
    producer.end(&system(&half).message_id, &orphan.transaction_id, TransactionResolution::Commit).await;

    let consumer = Cpp::simple(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    let all = [&normal, &large, &first, &second, &delayed, &kept, &forgotten];
    consumer.take_all(GROUP, TOPIC, &all).await;
    assert_eq!(consumer.take(GROUP, TOPIC, 32, SECOND).await.0, Code::MessageNotFound);

    for (number, priority) in [(10, 1), (11, 3), (12, 2)] {
        let message = made("ranks", number, b"ranked", |system| {
            system.message_type = MessageType::Priority.into();
            system.priority = Some(priority);
        });
        producer.peer.send(message).await;
    }
    let ranked = Cpp::simple(&site, 2, GROUP, "ranks", filter(FilterType::Tag, "*")).await;
    let (_, best) = ranked.take(GROUP, "ranks", 1, SECOND).await;
    assert_eq!(
        (system(&best[0]).priority, system(&best[0]).message_type()),
        (Some(3), MessageType::Priority)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_consumer_reads_a_large_body_as_it_was_before_it_was_compressed() {
    let site = Site::start(&["topic create orders"]);
    let producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    let plain: Vec<u8> = (0..COMPRESSED_FROM).map(|at| (at / 999) as u8).collect();
    producer.peer.send(made(TOPIC, 1, &plain, |_| {})).await;
    let consumer = Cpp::simple(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    let (_, messages) = consumer.take(GROUP, TOPIC, 32, 5 * SECOND).await;
    // `wrapMessage` inflates what says GZIP; C# and Java tell zlib by its first byte.
    assert_eq!((system(&messages[0]).body_encoding(), messages[0].body[0]), (Encoding::Gzip, 0x78));
    let mut inflated = Vec::new();
    ZlibDecoder::new(&messages[0].body[..]).read_to_end(&mut inflated).unwrap();
    assert!(inflated == plain, "the body is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_simple_consumer_filters_and_holds_messages_as_long_as_it_wants() {
    let site = Site::start(&["topic create orders"]);
    let producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    let mut sent = Vec::new();
    for (number, tag) in [(1, "red"), (2, "green"), (3, "blue"), (4, "red")] {
        let message = made(TOPIC, number, tag.as_bytes(), |system| system.tag = Some(tag.to_owned()));
        producer.peer.send(message.clone()).await;
        sent.push(message);
    }
    let tagged = Cpp::simple(&site, 1, "tagged", TOPIC, filter(FilterType::Tag, "red || blue")).await;
    tagged.take_all("tagged", TOPIC, &[&sent[0], &sent[2], &sent[3]]).await;
    let sql = filter(FilterType::Sql, "n IN ('2', '4') AND sys.tag = 'green'");
    let chosen = Cpp::simple(&site, 2, "chosen", TOPIC, sql).await;
    let (_, messages) = chosen.take("chosen", TOPIC, 32, 5 * SECOND).await;
    assert_eq!(ids(&messages), [message_id(2)]);

    // `changeInvisibleDuration` in `rocketmq/SimpleConsumerImpl.cpp`: the call has the duration for its deadline, and the
    // application gets the new handle. The old one is good for nothing.
    let request = change_of("chosen", TOPIC, &messages[0], 2 * SECOND);
    let request = chosen.peer.request(request, Some(2 * SECOND));
    let changed = chosen.peer.calls.clone().change_invisible_duration(request).await.unwrap().into_inner();
    assert!(code(&changed.status) == Code::Ok && !changed.receipt_handle.is_empty());
    assert_eq!(chosen.ack("chosen", TOPIC, &messages[0]).await, Code::InvalidReceiptHandle);
    let (_, again) = chosen.take("chosen", TOPIC, 32, 10 * SECOND).await;
    assert_eq!((ids(&again), system(&again[0]).delivery_attempt), (vec![&*message_id(2)], Some(2)));
    assert_eq!(chosen.ack("chosen", TOPIC, &again[0]).await, Code::Ok);
    assert_eq!(chosen.take("chosen", TOPIC, 32, SECOND).await.0, Code::MessageNotFound);
    // There is no good-bye: neither it nor the producer overrides `notifyClientTermination`. Only the streams end.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_push_consumer_retries_until_the_broker_gives_a_message_up() {
    let site = Site::start(&[
        "topic create orders",
        "topic create empty",
        "group create readers --max-attempts 3 --retry 100ms,200ms,300ms",
    ]);
    let producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    let push = Cpp::push(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "red")).await;
    // `applySettings` in `client/TelemetryBidiReactor.cpp`.
    assert_eq!(push.told.backoff_policy.as_ref().unwrap().max_attempts, 3);
    assert_eq!(subscription(&push.told).fifo, Some(false));
    assert_eq!(subscription(&push.told).receive_batch_size, Some(32));
    for (number, tag) in [(1, "red"), (2, "green"), (3, "red")] {
        producer.peer.send(made(TOPIC, number, b"body", |system| system.tag = Some(tag.to_owned()))).await;
    }
    // A poll for which it names no time ends before its deadline; it would be an error otherwise.
    let idle = Cpp::push(&site, 2, GROUP, "empty", filter(FilterType::Tag, "*")).await;
    let nothing = async {
        let queue = idle.assigned(GROUP, "empty").await;
        idle.pop(GROUP, queue, "8f14e45f-ceea-467f-9a36-dd4b0a5a1b2c").await.unwrap().0
    };
    let work = async {
        let queue = push.assigned(GROUP, TOPIC).await;
        let (mut done, mut attempts) = (0, Vec::new());
        while done < 1 || attempts.len() < 3 {
            let (answered, messages) = push.pop(GROUP, queue.clone(), &attempt()).await.unwrap();
            assert_eq!(answered, Code::Ok);
            for message in messages {
                if system(&message).message_id == message_id(1) {
                    attempts.push(system(&message).delivery_attempt.unwrap());
                    push.nack(GROUP, TOPIC, &message).await;
                } else {
                    assert_eq!(system(&message).message_id, message_id(3));
                    assert_eq!(push.ack(GROUP, TOPIC, &message).await, Code::Ok);
                    done += 1;
                }
            }
        }
        check_dead_letter(&site, GROUP, 1).await;
        (done, attempts)
    };
    let (polled, worked) = tokio::join!(nothing, work);
    assert_eq!((polled, worked), (Code::MessageNotFound, (1, vec![1, 2, 3])));
}

/// Reads the one dead letter of a group.
async fn check_dead_letter(site: &Site, group: &str, number: u32) {
    let letters = site.dead_letters(group).await;
    let undertaker = Cpp::simple(site, 90, "undertaker", &letters, filter(FilterType::Tag, "*")).await;
    let (_, dead) = undertaker.take("undertaker", &letters, 32, 10 * SECOND).await;
    let origin = system(&dead[0]).dead_letter_queue.as_ref().expect("a dead letter names its origin");
    assert_eq!((origin.topic.as_str(), &origin.message_id), (TOPIC, &message_id(number)));
    assert_eq!(dead.len(), 1);
}

/// `ConsumeTask` in `rocketmq/ConsumeTask.cpp`: of a FIFO batch of several, what fails is tried again by the client alone,
/// without an end, or forgotten (before June 2026 `schedule` in `ConsumeMessageServiceImpl.cpp` did nothing). What came
/// alone is given back. It never forwards a dead letter: nothing leads to `NextStep::Forward`.
#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_push_consumer_of_a_fifo_group_gets_each_message_alone_so_that_retries_end() {
    let site = Site::start(&[
        "topic create orders --queues 1",
        "group create readers --fifo --max-attempts 2 --retry 100ms",
    ]);
    let producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    for (number, line) in [(1, "a"), (2, "a"), (3, "b")] {
        let message = made(TOPIC, number, b"body", |system| {
            system.message_type = MessageType::Fifo.into();
            system.message_group = Some(line.to_owned());
        });
        producer.peer.send(message).await;
    }
    let push = Cpp::push(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    assert_eq!(subscription(&push.told).fifo, Some(true));
    let queue = push.assigned(GROUP, TOPIC).await;
    let mut came = Vec::new();
    while came.len() < 4 {
        let (answered, messages) = push.pop(GROUP, queue.clone(), &attempt()).await.unwrap();
        assert_eq!((answered, messages.len()), (Code::Ok, 1));
        came.push((system(&messages[0]).message_id.clone(), system(&messages[0]).delivery_attempt));
        if system(&messages[0]).message_id == message_id(1) {
            push.nack(GROUP, TOPIC, &messages[0]).await;
        } else {
            assert_eq!(push.ack(GROUP, TOPIC, &messages[0]).await, Code::Ok);
        }
    }
    let of_a: Vec<_> = came.iter().filter(|(id, _)| *id != message_id(3)).cloned().collect();
    assert_eq!(of_a, [(message_id(1), Some(1)), (message_id(1), Some(2)), (message_id(2), Some(1))]);
    check_dead_letter(&site, GROUP, 1).await;
    // `forwardToDeadLetterQueue` in `rocketmq/PushConsumerImpl.cpp` would name no handle. It takes these two for done.
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: resource(GROUP),
        topic: resource(TOPIC),
        message_id: message_id(2),
        delivery_attempt: 17,
        max_delivery_attempts: 16,
        ..Default::default()
    };
    let answer = push.peer.forward_message_to_dead_letter_queue(request).await.unwrap();
    assert!(matches!(code(&answer.status), Code::Ok | Code::InvalidReceiptHandle), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpp_push_consumer_that_shuts_down_leaves_its_messages_to_others() {
    let site = Site::start(&["topic create orders"]);
    let producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    producer.peer.send(made(TOPIC, 1, b"body", |_| {})).await;
    let push = Cpp::push(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    let queue = push.assigned(GROUP, TOPIC).await;
    let (_, held) = push.pop(GROUP, queue.clone(), "c9f0f895-fb98-4b91-99f5-1fd0297e236d").await.unwrap();
    assert_eq!(ids(&held), [message_id(1)]);
    let next = Cpp::push(&site, 2, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    // `notifyClientTermination` in `rocketmq/PushConsumerImpl.cpp`; then the stream is cancelled.
    let request = NotifyClientTerminationRequest { group: resource(GROUP) };
    assert_eq!(code(&push.peer.notify_client_termination(request).await.unwrap().status), Code::Ok);
    drop(push);
    let (_, again) = next.pop(GROUP, queue, "45c48cce-2e2d-4bda-ba1a-fc51c7c6ad26").await.unwrap();
    assert_eq!((ids(&again), system(&again[0]).delivery_attempt), (vec![&*message_id(1)], Some(2)));
    assert_eq!(next.ack(GROUP, TOPIC, &again[0]).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn cpp_clients_go_on_after_a_crash_of_the_broker() {
    let mut site = Site::start(&["topic create orders --queues 1", "topic create empty"]);
    let mut producer = Cpp::producer(&site, 0, &[TOPIC]).await;
    let mut push = Cpp::push(&site, 1, GROUP, TOPIC, filter(FilterType::Tag, "*")).await;
    producer.peer.send(made(TOPIC, 1, b"before", |_| {})).await;
    let queue = push.assigned(GROUP, TOPIC).await;
    let (_, held) = push.pop(GROUP, queue.clone(), "d3d94468-02a4-4259-b55d-38e6d163e820").await.unwrap();
    let attempt = "6512bd43-d9ca-46e0-ac99-0b0a82652dca";
    let polling = push.pop(GROUP, queue.clone(), attempt);
    let crash = async {
        tokio::time::sleep(SECOND / 2).await;
        site.crash();
    };
    let (polled, ()) = tokio::join!(polling, crash);
    assert!(polled.is_err(), "{polled:?}");
    producer.stream.ended().await;
    push.stream.ended().await;
    // `onFailure` in `rocketmq/SendContext.cpp`: three attempts at once, then the application is told.
    let late = made(TOPIC, 2, b"late", |_| {});
    for _ in 0..3 {
        let request = SendMessageRequest { messages: vec![late.clone()] };
        assert!(producer.peer.send_message(request).await.is_err());
    }
    assert!(push.peer.ack_message(ack_of(GROUP, TOPIC, &held[0])).await.is_err(), "tried again each second");

    site.serve();
    // `OnDone` in `client/TelemetryBidiReactor.cpp`: a second later a new stream, with the settings again.
    for client in [&mut producer, &mut push] {
        client.stream = client.peer.telemetry(&client.settings, Some(TELEMETRY_DEADLINE)).await.unwrap();
        let told = client.stream.settings(SETTINGS_WITHIN).await;
        assert_eq!(told, client.told);
    }
    push.beat(Some(GROUP)).await;
    assert_eq!(push.ack(GROUP, TOPIC, &held[0]).await, Code::Ok);
    producer.peer.send(late.clone()).await;
    // `onCompletion` in `rocketmq/AsyncReceiveMessageCallback.cpp`: the same attempt once more.
    let (answered, messages) = push.pop(GROUP, queue, attempt).await.unwrap();
    assert_eq!((answered, ids(&messages)), (Code::Ok, vec![&*message_id(2)]));
    check_delivered(&messages[0], &late);
    assert_eq!(push.ack(GROUP, TOPIC, &messages[0]).await, Code::Ok);
}
