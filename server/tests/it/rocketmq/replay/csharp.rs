//! The C# client of RocketMQ 5. Files that comments name are in `csharp/rocketmq-client-csharp` of its repository.

use super::*;

/// The version of the package, behind which the SDK writes the commit: `MetadataConstants.cs`.
const VERSION: &str = "5.2.1+08615212ee4cef16743dfee9d2fef73d6806043a";
/// How long a start waits for the settings that answer its own: `Session.cs`.
const SETTINGS_WITHIN: Duration = Duration::from_secs(6);
/// How far the clock on the wall of this client is from UTC.
const LOCAL_TIME: Duration = Duration::from_secs(8 * 60 * 60);

/// `Signature.cs`: the date is local time although it ends in Z, the namespace may be empty, and no protocol is named.
fn headers(id: &str) -> Vec<(&'static str, String)> {
    let date = date(SystemTime::now() + LOCAL_TIME);
    let authorization = format!(
        "MQv2-HMAC-SHA1 Credential={ACCESS_KEY}, SignedHeaders=x-mq-date-time, Signature={}",
        signature(&date)
    );
    vec![
        ("x-mq-language", "DOTNET".to_owned()),
        ("x-mq-client-version", VERSION.to_owned()),
        ("x-mq-request-id", uuid::Uuid::new_v4().to_string()),
        ("x-mq-client-id", id.to_owned()),
        ("x-mq-namespace", String::new()),
        ("x-mq-date-time", date),
        ("authorization", authorization),
    ]
}

/// A client that has started, or is started again.
struct CSharp {
    peer: Peer,
    settings: Settings,
    stream: Stream,
    /// The settings that it was told.
    told: Settings,
    /// The queues of its topics.
    routes: Vec<MessageQueue>,
}

impl CSharp {
    /// `Start` in `Client.cs`: the route of each topic; with the first one comes the session. A second later come a
    /// heartbeat, and the settings once more.
    async fn start(site: &Site, number: u32, settings: Settings, topics: &[&str]) -> Self {
        let peer = Peer::connect(site, format!("{HOST}@4711@{number}@MLWXGN5C"), headers).await;
        let settings = Settings {
            access_point: Some(peer.endpoints.clone()),
            request_timeout: wire(REQUEST_TIMEOUT),
            // `UserAgent.cs`: without a language.
            user_agent: Some(Ua {
                language: 0,
                version: VERSION.to_owned(),
                platform: "Unix 6.8.0.0".to_owned(),
                hostname: HOST.to_owned(),
            }),
            ..settings
        };
        let (first, others) = topics.split_first().unwrap();
        let mut routes = peer.route(first).await;
        let mut stream = peer.telemetry(&settings, None).await.unwrap();
        let told = stream.settings(SETTINGS_WITHIN).await;
        for topic in others {
            routes.extend(peer.route(topic).await);
        }
        // `MessageQueue.cs`: types that this version does not know would make it fail.
        let mut types = routes.iter().flat_map(|queue| &queue.accept_message_types);
        assert!(types.all(|number| *number > 0 && MessageType::try_from(*number).is_ok()));
        stream.commands.send(settings_command(&settings)).await.unwrap();
        assert_eq!(stream.settings(SETTINGS_WITHIN).await, told);
        let client = Self { peer, settings, stream, told, routes };
        client.beat().await;
        client
    }

    /// `ToProtobuf` and `Sync` in `PublishingSettings.cs`.
    async fn producer(site: &Site, number: u32, topics: &[&str]) -> Self {
        let at_once = proto::ExponentialBackoff { initial: seconds(0), max: seconds(0), multiplier: 1.0 };
        let settings = Settings {
            client_type: Some(ClientType::Producer.into()),
            backoff_policy: Some(proto::RetryPolicy {
                max_attempts: 3,
                strategy: Some(Strategy::ExponentialBackoff(at_once)),
            }),
            pub_sub: Some(PubSub::Publishing(Publishing {
                topics: topics.iter().filter_map(|topic| resource(topic)).collect(),
                max_body_size: 0,
                validate_message_type: true,
            })),
            ..Settings::default()
        };
        let producer = Self::start(site, number, settings, topics).await;
        // `InheritBackoff` in `ExponentialBackoffRetryPolicy.cs` fails on another strategy, or on an absent duration.
        let policy = producer.told.backoff_policy.as_ref().unwrap();
        let Some(Strategy::ExponentialBackoff(told)) = &policy.strategy else { panic!("{policy:?}") };
        assert!(told.initial.is_some() && told.max.is_some());
        assert!(publishing(&producer.told).max_body_size > 0);
        producer
    }

    /// `SimpleSubscriptionSettings.cs`, which makes a filter and forgets to put it into the entry.
    async fn simple(site: &Site, number: u32, group: &str, topic: &str, wait: Duration) -> Self {
        let subscription = Subscription {
            group: resource(group),
            subscriptions: vec![entry(topic, None)],
            long_polling_timeout: wire(wait),
            ..Subscription::default()
        };
        let settings = Settings {
            client_type: Some(ClientType::SimpleConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Settings::default()
        };
        let simple = Self::start(site, number, settings, &[topic]).await;
        assert_eq!(super::subscription(&simple.told).group, resource(group));
        simple
    }

    /// `ToProtobuf` and `Sync` in `PushSubscriptionSettings.cs`, which fails on a policy without a strategy.
    async fn push(site: &Site, number: u32, group: &str, topic: &str, filter: FilterExpression) -> Self {
        let subscription = Subscription {
            group: resource(group),
            subscriptions: vec![entry(topic, Some(filter))],
            ..Subscription::default()
        };
        let settings = Settings {
            client_type: Some(ClientType::PushConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Settings::default()
        };
        let push = Self::start(site, number, settings, &[topic]).await;
        assert!(delay(&push.told, 1) > Duration::ZERO);
        push
    }

    /// The group that the client is of.
    fn group(&self) -> Option<Resource> {
        match &self.settings.pub_sub {
            Some(PubSub::Subscription(own)) => own.group.clone(),
            _ => None,
        }
    }

    /// `Heartbeat` in `Client.cs`: what is OK brings an isolated endpoint back.
    async fn beat(&self) {
        let request =
            HeartbeatRequest { group: self.group(), client_type: self.settings.client_type.unwrap() };
        assert_eq!(code(&self.peer.heartbeat(request).await.unwrap().status), Code::Ok);
    }

    /// `Send0` in `Producer.cs`: a queue that takes the type, and the receipt of the first entry.
    async fn send(&self, message: &Message) -> proto::SendResultEntry {
        let id = system(message).queue_id;
        let queue = self.routes.iter().find(|queue| queue.topic == message.topic && queue.id == id).unwrap();
        assert!(queue.accept_message_types.contains(&system(message).message_type), "{queue:?}");
        self.peer.send(message.clone()).await
    }

    /// `EndTransaction` in `Producer.cs`: without a source.
    async fn end(&self, message_id: &str, transaction_id: &str, resolution: TransactionResolution) {
        let request = EndTransactionRequest {
            topic: resource(TOPIC),
            message_id: message_id.to_owned(),
            transaction_id: transaction_id.to_owned(),
            resolution: resolution.into(),
            ..EndTransactionRequest::default()
        };
        let answer = self.peer.end_transaction(request).await.unwrap();
        assert!(is_fine(code(&answer.status)), "{answer:?}");
    }

    /// `Receive` in `SimpleConsumer.cs`: from a queue of the route, whichever comes next.
    async fn take(&self, number: usize, filter: FilterExpression, limit: i32) -> Vec<Message> {
        let queue = &self.routes[number % self.routes.len()];
        let wait = subscription_of(self).long_polling_timeout.unwrap();
        let request = ReceiveMessageRequest {
            group: self.group(),
            message_queue: Some(queue.clone()),
            filter_expression: Some(filter),
            batch_size: limit,
            invisible_duration: seconds(15),
            auto_renew: false,
            long_polling_timeout: Some(wait),
            attempt_id: None,
        };
        let deadline = Duration::try_from(wait).unwrap() + REQUEST_TIMEOUT;
        let (answered, messages) = self.peer.receive(request, deadline).await.unwrap();
        // `StatusChecker.cs`: of a receive MESSAGE_NOT_FOUND is an empty list, and all other failures are exceptions.
        assert!(is_fine(answered) || answered == Code::MessageNotFound, "{answered:?}");
        messages
    }

    /// Scans assignments as a push consumer does a second after its start and every five.
    async fn assigned(&self, topic: &str) -> MessageQueue {
        let request = QueryAssignmentRequest {
            topic: resource(topic),
            group: self.group(),
            endpoints: Some(self.peer.endpoints.clone()),
        };
        let mut answer = self.peer.query_assignment(request).await.unwrap();
        assert!(is_fine(code(&answer.status)) && answer.assignments.len() == 1, "{answer:?}");
        let queue = answer.assignments.remove(0).message_queue.unwrap();
        self.peer.check_queue(&queue, topic);
        queue
    }

    /// `WrapReceiveMessageRequest` in `Consumer.cs` for a push consumer.
    async fn pop(&self, queue: &MessageQueue, attempt: &str) -> Result<(Code, Vec<Message>), Status> {
        let told = subscription(&self.told);
        let wait = told.long_polling_timeout.unwrap();
        let request = ReceiveMessageRequest {
            group: self.group(),
            message_queue: Some(queue.clone()),
            filter_expression: subscription_of(self).subscriptions[0].expression.clone(),
            batch_size: told.receive_batch_size.unwrap().min(1024),
            invisible_duration: None,
            auto_renew: true,
            long_polling_timeout: Some(wait),
            attempt_id: Some(attempt.to_owned()),
        };
        self.peer.receive(request, Duration::try_from(wait).unwrap() + REQUEST_TIMEOUT).await
    }

    /// `AckMessage` in `ProcessQueue.cs`: anything but OK is repeated each second.
    async fn ack(&self, message: &Message) -> Code {
        let request = ack_of(&self.group().unwrap().name, TOPIC, message);
        code(&self.peer.ack_message(request).await.unwrap().status)
    }

    /// `NackMessage` in `ProcessQueue.cs`; anything but OK is repeated each second.
    async fn nack(&self, message: &Message) {
        let after = delay(&self.told, system(message).delivery_attempt.unwrap());
        let request = change_of(&self.group().unwrap().name, TOPIC, message, after);
        let answer = self.peer.change_invisible_duration(request).await.unwrap();
        assert_eq!(code(&answer.status), Code::Ok);
    }

    /// `Shutdown` in `Client.cs`: a good-bye, without a group if it is a producer's; then the stream is disposed of.
    async fn shut_down(self) {
        let request = NotifyClientTerminationRequest { group: self.group() };
        let answer = self.peer.notify_client_termination(request).await.unwrap();
        assert!(is_fine(code(&answer.status)), "{answer:?}");
    }
}

/// What the client said that it subscribes to.
fn subscription_of(client: &CSharp) -> &Subscription {
    subscription(&client.settings)
}

/// `StatusChecker.cs`: what is no exception.
fn is_fine(code: Code) -> bool {
    matches!(code, Code::Ok | Code::MultipleResults)
}

/// `ToProtobuf` in `PublishingMessage.cs`.
fn made(topic: &str, number: u32, body: &[u8], change: impl FnOnce(&mut SystemProperties)) -> Message {
    let mut system = SystemProperties {
        born_timestamp: Some(SystemTime::now().into()),
        born_host: HOST.to_owned(),
        message_type: MessageType::Normal.into(),
        body_encoding: Encoding::Identity.into(),
        message_id: message_id(number),
        queue_id: i32::try_from(number % 4).unwrap(),
        ..SystemProperties::default()
    };
    change(&mut system);
    Message {
        topic: resource(topic),
        user_properties: [("n".to_owned(), number.to_string())].into(),
        system_properties: Some(system),
        body: body.to_vec().into(),
    }
}

fn lined(number: u32, line: &str) -> Message {
    made(TOPIC, number, b"fifo", |system| {
        system.message_type = MessageType::Fifo.into();
        system.message_group = Some(line.to_owned());
        // `TakeMessageQueueByMessageGroup` in `PublishingLoadBalancer.cs`: the same for all of a message group.
        system.queue_id = 0;
    })
}

fn every() -> FilterExpression {
    filter(FilterType::Tag, "*")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csharp_producer_sends_every_kind_of_message_and_a_consumer_gets_them() {
    let site = Site::start(&["topic create orders", "topic create ranks --type priority"]);
    let mut producer = CSharp::producer(&site, 1, &[TOPIC, "ranks"]).await;
    let normal = made(TOPIC, 1, b"normal", |system| {
        system.tag = Some("red".to_owned());
        system.keys = vec!["key".to_owned(), "other".to_owned()];
    });
    let timed = |number, after: u32| {
        made(TOPIC, number, b"timed", |system| {
            system.message_type = MessageType::Delay.into();
            system.delivery_timestamp = Some(due(SECOND * after));
        })
    };
    let half =
        |number| made(TOPIC, number, b"half", |system| system.message_type = MessageType::Transaction.into());
    let (first, second, delayed, recalled) = (lined(2, "line"), lined(3, "line"), timed(4, 2), timed(5, 600));
    for message in [&normal, &first, &second, &delayed] {
        producer.send(message).await;
    }
    let handle = producer.send(&recalled).await.recall_handle;
    let request = RecallMessageRequest { topic: resource(TOPIC), recall_handle: handle };
    let answer = producer.peer.recall_message(request).await.unwrap();
    assert_eq!((code(&answer.status), answer.message_id), (Code::Ok, message_id(5)));
    let (kept, dropped, forgotten) = (half(6), half(7), half(8));
    for (half, resolution) in
        [(&kept, TransactionResolution::Commit), (&dropped, TransactionResolution::Rollback)]
    {
        let sent = producer.send(half).await;
        producer.end(&sent.message_id, &sent.transaction_id, resolution).await;
    }
    let asked_for = producer.send(&forgotten).await.transaction_id;
    let Command::RecoverOrphanedTransactionCommand(orphan) = producer.stream.next(20 * SECOND).await else {
        panic!("nothing else is told to a producer that says nothing")
    };
    let half = orphan.message.expect("the checker of the application is asked about the message");
    check_content(&half, &forgotten);
    assert_eq!(orphan.transaction_id, asked_for);
    producer.end(&system(&half).message_id, &orphan.transaction_id, TransactionResolution::Commit).await;
    // As its documentation has it; the sources that were read have no priorities yet.
    for (number, priority) in [(10, 1), (11, 3), (12, 2)] {
        let message = made("ranks", number, b"ranked", |system| {
            system.message_type = MessageType::Priority.into();
            system.priority = Some(priority);
        });
        producer.send(&message).await;
    }
    producer.shut_down().await;

    let consumer = CSharp::simple(&site, 2, GROUP, TOPIC, 2 * SECOND).await;
    let mut open = vec![&normal, &first, &second, &delayed, &kept, &forgotten];
    for number in 0..20 {
        for message in consumer.take(number, every(), 16).await {
            let place = open.iter().position(|sent| system(sent).message_id == system(&message).message_id);
            check_delivered(&message, open.remove(place.expect("it is waited for")));
            assert!(is_fine(consumer.ack(&message).await));
        }
        if open.is_empty() {
            break;
        }
    }
    assert_eq!(open, Vec::<&Message>::new(), "these did not come");
    assert!(consumer.take(0, every(), 16).await.is_empty());
    consumer.shut_down().await;

    let ranked = CSharp::simple(&site, 3, GROUP, "ranks", SECOND).await;
    assert_eq!(ids(&ranked.take(0, every(), 1).await), [message_id(11)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csharp_simple_consumer_filters_at_each_receive_and_keeps_its_first_handle() {
    let site = Site::start(&["topic create orders"]);
    let producer = CSharp::producer(&site, 1, &[TOPIC]).await;
    for (number, tag) in [(1, "red"), (2, "green"), (3, "blue"), (4, "red")] {
        producer.send(&made(TOPIC, number, b"body", |system| system.tag = Some(tag.to_owned()))).await;
    }
    let tagged = CSharp::simple(&site, 2, "tagged", TOPIC, 5 * SECOND).await;
    let mut came = Vec::new();
    while came.len() < 3 {
        let messages = tagged.take(came.len(), filter(FilterType::Tag, "red || blue"), 16).await;
        assert!(!messages.is_empty(), "only {came:?} came");
        for message in &messages {
            assert!(is_fine(tagged.ack(message).await));
            came.push(system(message).message_id.clone());
        }
    }
    came.sort();
    assert_eq!(came, [message_id(1), message_id(3), message_id(4)]);
    let chosen = CSharp::simple(&site, 3, "chosen", TOPIC, 5 * SECOND).await;
    let sql = || filter(FilterType::Sql, "n IN ('2', '4') AND sys.tag = 'green'");
    let messages = chosen.take(0, sql(), 16).await;
    assert_eq!(ids(&messages), [message_id(2)]);
    // `ChangeInvisibleDuration` in `SimpleConsumer.cs` throws the new handle away, so that an acknowledgement after it
    // fails, and the message comes again.
    let request = change_of("chosen", TOPIC, &messages[0], 2 * SECOND);
    let changed = chosen.peer.change_invisible_duration(request).await.unwrap();
    assert!(is_fine(code(&changed.status)), "{changed:?}");
    assert_eq!(chosen.ack(&messages[0]).await, Code::InvalidReceiptHandle);
    let again = chosen.take(1, sql(), 16).await;
    assert_eq!((ids(&again), system(&again[0]).delivery_attempt), (vec![&*message_id(2)], Some(2)));
    assert!(is_fine(chosen.ack(&again[0]).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csharp_push_consumer_retries_until_the_broker_gives_a_message_up() {
    let site = Site::start(&[
        "topic create orders",
        "group create readers --max-attempts 3 --retry-initial 100ms --retry-max 300ms",
    ]);
    let producer = CSharp::producer(&site, 1, &[TOPIC]).await;
    for (number, tag) in [(1, "red"), (2, "green"), (3, "red")] {
        producer.send(&made(TOPIC, number, b"body", |system| system.tag = Some(tag.to_owned()))).await;
    }
    let push = CSharp::push(&site, 2, GROUP, TOPIC, filter(FilterType::Sql, "n <> '2'")).await;
    assert_eq!(push.told.backoff_policy.as_ref().unwrap().max_attempts, 3);
    assert_eq!(subscription(&push.told).fifo, Some(false), "a standard consume service");
    let queue = push.assigned(TOPIC).await;
    let (mut done, mut attempts) = (0, Vec::new());
    while done < 1 || attempts.len() < 3 {
        let (answered, messages) = push.pop(&queue, &attempt()).await.unwrap();
        assert_eq!(answered, Code::Ok);
        for message in messages {
            if system(&message).message_id == message_id(1) {
                attempts.push(system(&message).delivery_attempt.unwrap());
                push.nack(&message).await;
            } else {
                assert_eq!(system(&message).message_id, message_id(3));
                assert_eq!(push.ack(&message).await, Code::Ok);
                done += 1;
            }
        }
    }
    assert_eq!((done, attempts), (1, vec![1, 2, 3]));
    check_dead_letter(&site, 1).await;

    // What a client holds that shuts down is others' after its good-bye.
    producer.send(&made(TOPIC, 4, b"body", |_| {})).await;
    let (_, held) = push.pop(&queue, &attempt()).await.unwrap();
    assert_eq!(ids(&held), [message_id(4)]);
    let next = CSharp::push(&site, 3, GROUP, TOPIC, filter(FilterType::Sql, "n <> '2'")).await;
    push.shut_down().await;
    let (_, again) = next.pop(&queue, &attempt()).await.unwrap();
    assert_eq!((ids(&again), system(&again[0]).delivery_attempt), (vec![&*message_id(4)], Some(2)));
    assert_eq!(next.ack(&again[0]).await, Code::Ok);
}

/// Reads the one dead letter of the group.
async fn check_dead_letter(site: &Site, number: u32) {
    let letters = site.dead_letters(GROUP).await;
    let undertaker = CSharp::simple(site, 90, "undertaker", &letters, 10 * SECOND).await;
    let dead = undertaker.take(0, every(), 16).await;
    let origin = system(&dead[0]).dead_letter_queue.as_ref().expect("a dead letter names its origin");
    assert_eq!((origin.topic.as_str(), &origin.message_id), (TOPIC, &message_id(number)));
    assert_eq!(dead.len(), 1);
}

/// `EraseFifoMessage` in `ProcessQueue.cs`: attempts count in the client, up to those that it was told; then it forwards
/// the message, until that is OK.
#[tokio::test(flavor = "multi_thread")]
async fn a_csharp_push_consumer_of_a_fifo_group_forwards_what_fails_to_the_end() {
    let site = Site::start(&[
        "topic create orders --queues 1",
        "group create readers --fifo --max-attempts 3 --retry 100ms",
    ]);
    let producer = CSharp::producer(&site, 1, &[TOPIC]).await;
    let sent = [lined(1, "a"), lined(2, "a"), lined(3, "b")];
    for message in &sent {
        producer.send(message).await;
    }
    let push = CSharp::push(&site, 2, GROUP, TOPIC, every()).await;
    assert_eq!(subscription(&push.told).fifo, Some(true), "a FIFO consume service");
    let max_attempts = push.told.backoff_policy.as_ref().unwrap().max_attempts;
    let queue = push.assigned(TOPIC).await;
    let mut came = Vec::new();
    while came.len() < 3 {
        let (answered, messages) = push.pop(&queue, &attempt()).await.unwrap();
        assert_eq!(answered, Code::Ok);
        for message in &messages {
            let number = sent.iter().position(|sent| system(sent).message_id == system(message).message_id);
            check_delivered(message, &sent[number.unwrap()]);
            came.push(number.unwrap());
            if number != Some(0) {
                assert_eq!(push.ack(message).await, Code::Ok);
                continue;
            }
            let mut attempt = system(message).delivery_attempt.unwrap();
            while attempt < max_attempts {
                tokio::time::sleep(delay(&push.told, attempt)).await;
                attempt += 1;
            }
            // Twice, as if the first answer had been lost.
            for _ in 0..2 {
                let request = ForwardMessageToDeadLetterQueueRequest {
                    group: push.group(),
                    topic: resource(TOPIC),
                    receipt_handle: handle(message).to_owned(),
                    message_id: system(message).message_id.clone(),
                    delivery_attempt: attempt,
                    max_delivery_attempts: max_attempts,
                    ..Default::default()
                };
                let answer = push.peer.forward_message_to_dead_letter_queue(request).await.unwrap();
                assert_eq!(code(&answer.status), Code::Ok);
            }
        }
    }
    assert!(came.iter().position(|number| *number == 0) < came.iter().position(|number| *number == 1));
    check_dead_letter(&site, 1).await;
    push.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csharp_clients_go_on_after_a_crash_of_the_broker() {
    let mut site = Site::start(&["topic create orders"]);
    let mut producer = CSharp::producer(&site, 1, &[TOPIC]).await;
    let mut push = CSharp::push(&site, 2, GROUP, TOPIC, every()).await;
    producer.send(&made(TOPIC, 1, b"before", |_| {})).await;
    let queue = push.assigned(TOPIC).await;
    let (_, held) = push.pop(&queue, &attempt()).await.unwrap();
    let attempt = attempt();
    let crash = async {
        tokio::time::sleep(SECOND / 2).await;
        site.crash();
    };
    let (polled, ()) = tokio::join!(push.pop(&queue, &attempt), crash);
    assert!(polled.is_err(), "{polled:?}");
    producer.stream.ended().await;
    push.stream.ended().await;
    // `Send0` in `Producer.cs`: three attempts without a wait; the endpoint is isolated.
    let late = made(TOPIC, 2, b"late", |_| {});
    for _ in 0..3 {
        let request = SendMessageRequest { messages: vec![late.clone()] };
        assert!(producer.peer.send_message(request).await.is_err());
    }
    assert!(push.peer.ack_message(ack_of(GROUP, TOPIC, &held[0])).await.is_err(), "tried again each second");

    site.serve();
    // `ReconnectAsync` in `Session.cs`: a new stream a second later, and the settings without a wait for an answer.
    for client in [&mut producer, &mut push] {
        client.stream = client.peer.telemetry(&client.settings, None).await.unwrap();
        client.beat().await;
        assert_eq!(client.stream.settings(SETTINGS_WITHIN).await, client.told);
    }
    assert_eq!(push.ack(&held[0]).await, Code::Ok);
    producer.send(&late).await;
    // `OnReceiveMessageException` in `ProcessQueue.cs`: a second later the same attempt once more.
    let (answered, messages) = push.pop(&queue, &attempt).await.unwrap();
    assert_eq!((answered, ids(&messages)), (Code::Ok, vec![&*message_id(2)]));
    check_delivered(&messages[0], &late);
    assert_eq!(push.ack(&messages[0]).await, Code::Ok);
    assert_eq!(producer.peer.route(TOPIC).await, producer.routes);
    push.shut_down().await;
    producer.shut_down().await;
}
