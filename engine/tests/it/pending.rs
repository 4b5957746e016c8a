//! Delayed and transactional messages: nobody sees them before, everybody once it is time, and no stop changes that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow_array::{RecordBatch, cast::AsArray};
use futures::TryStreamExt;
use parking_lot::Mutex;
use weir_engine::{
    AskProducer, Broker, Clock, EngineError, Message, MessageType, OrphanedTransaction, Readiness,
    ReceiveRequest, Resolution, Sent, SqlRequest, TopicChange, TopicName, TopicSpec, VirtualClock,
};
use weir_storage::Compression;

use crate::fixture::{Fixture, START_MS, group, numbered, numbers, settle, topic};

fn delayed(n: i64, due_ms: i64) -> Message {
    Message { message_type: MessageType::Delay, delivery_time_ms: Some(due_ms), ..numbered(n) }
}

fn half(n: i64) -> Message {
    Message { message_type: MessageType::Transaction, ..numbered(n) }
}

fn handle(sent: Sent) -> String {
    match sent {
        Sent::Delayed { recall_handle: handle, .. } | Sent::Half { transaction_id: handle, .. } => handle,
        Sent::Stored(published) => panic!("{published:?}"),
    }
}

impl Fixture {
    async fn send(&self, message: Message) -> Sent {
        self.broker.send(&topic("t"), vec![message]).await.unwrap().remove(0)
    }

    /// Sends a message that is due so many milliseconds after the clock stands now; returns its recall handle.
    async fn delay(&self, n: i64, after_ms: i64) -> String {
        handle(self.send(delayed(n, self.clock.wall_ms() + after_ms)).await)
    }

    async fn begin(&self, n: i64) -> String {
        handle(self.send(half(n)).await)
    }

    /// Begins a transaction, and starts the broker again when it is too old to be kept; returns its id.
    async fn begin_before_a_long_stop(&mut self, n: i64) -> String {
        let id = self.begin(n).await;
        self.broker.close().await.unwrap();
        self.clock.advance(Duration::from_secs(5 * 86_400));
        self.broker = Broker::open(self.starting()).await.unwrap();
        id
    }

    /// Lets the broker do what is due, then receives and acknowledges what there is.
    async fn arrived(&self) -> Vec<i64> {
        let mut all = Vec::new();
        for _ in 0..3 {
            settle().await;
            loop {
                let delivered = self.receive("TRUE").await;
                if delivered.is_empty() {
                    break;
                }
                assert!(self.ack(&delivered).await.iter().all(Result::is_ok));
                all.extend(numbers(&delivered));
            }
        }
        all
    }

    /// Waits until so many messages have arrived, which the broker need not do at once.
    async fn arrive(&self, count: usize) -> Vec<i64> {
        let mut all = Vec::new();
        for _ in 0..2000 {
            all.extend(self.arrived().await);
            if all.len() >= count {
                break;
            }
        }
        all
    }

    async fn end(&self, id: &str, resolution: Resolution) -> Result<(), EngineError> {
        self.broker.end_transaction(&topic("t"), id, resolution).await
    }

    /// The bodies of the topic as SQL reads them.
    async fn bodies(&self) -> Vec<String> {
        let request = SqlRequest { sql: "SELECT body FROM t".to_owned(), ..SqlRequest::default() };
        let plan = self.broker.plan_sql(request).await.unwrap();
        let (_, batches) = self.broker.run_sql(plan.ticket).await.unwrap();
        let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
        let bodies = batches.iter().flat_map(|batch| batch.column(0).as_binary::<i32>());
        bodies.map(|body| String::from_utf8(body.unwrap().to_vec()).unwrap()).collect()
    }

    /// Rows of the topic, visible to readers.
    fn rows(&self) -> u64 {
        let described = self.broker.topic(&topic("t")).unwrap();
        described.queues.iter().map(|queue| queue.end.0 - queue.first.0).sum()
    }
}

#[tokio::test]
async fn a_delayed_message_comes_when_it_is_due_and_not_before() {
    let weir = Fixture::new().await;
    weir.topic(4).await;
    // In an order that is not that of their times, over several queues of pending messages.
    let after_ms = [90_000, 1000, 4000, 250_000, 1500, 60_000, 3_600_000, 40 * 86_400_000];
    for (n, after_ms) in (0..).zip(after_ms) {
        weir.delay(n, after_ms).await;
    }
    assert!(weir.arrived().await.is_empty());
    assert_eq!(weir.rows(), 0, "no offset is given before");
    let mut order: Vec<(i64, i64)> = after_ms.into_iter().zip(0..).collect();
    order.sort_unstable();
    let mut now_ms = 0;
    for (due_ms, n) in order {
        weir.clock.advance(Duration::from_millis((due_ms - now_ms - 1).unsigned_abs()));
        assert!(weir.arrived().await.is_empty(), "{n} came a millisecond early");
        weir.clock.advance(Duration::from_millis(1));
        assert_eq!(weir.arrive(1).await, [n]);
        now_ms = due_ms;
    }
}

#[tokio::test]
async fn what_is_delivered_is_what_was_sent() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let sent = Message {
        tag: Some("tag".to_owned()),
        keys: vec!["a".to_owned(), "b".to_owned()],
        message_group: Some("group".to_owned()),
        born_time_ms: Some(5),
        trace_context: Some("trace".to_owned()),
        ..delayed(7, START_MS + 2500)
    };
    weir.send(sent.clone()).await;
    weir.advance(3);
    let mut delivered = Vec::new();
    for _ in 0..2000 {
        settle().await;
        delivered = weir.receive("n = 7 AND sys.tag = 'tag' AND sys.message_type = 'DELAY'").await;
        if !delivered.is_empty() {
            break;
        }
    }
    let handle = delivered[0].handle.clone();
    let mut message = delivered.remove(0).message;
    assert!(message.store_time_ms >= START_MS + 2500, "it is stored when it becomes visible");
    assert!(message.message.released.take().is_some());
    assert_eq!(message.message, sent);
    // Its copy among the dead letters is no release.
    weir.broker.forward_to_dead_letter(&group("g"), &topic("t"), &handle).await.unwrap();
    let dead = TopicName::dead_letter_of(&group("g"));
    let request = ReceiveRequest { topic: dead, ..weir.request("TRUE") };
    let copy = weir.broker.receive(request).await.unwrap().remove(0).message.message;
    assert_eq!((copy.released, copy.delivery_time_ms), (None, sent.delivery_time_ms));
}

#[tokio::test]
async fn what_is_due_already_is_published_at_once() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    for (n, due_ms) in [(0, i64::MIN), (1, 0), (2, START_MS)] {
        assert!(matches!(weir.send(delayed(n, due_ms)).await, Sent::Stored(_)));
    }
    assert_eq!(numbers(&weir.receive("sys.message_type = 'DELAY'").await), [0, 1, 2]);
    let far = delayed(3, START_MS + 40 * 86_400_000 + 1);
    let refused = weir.broker.send(&topic("t"), vec![far]).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))), "{refused:?}");
    let mixed = vec![delayed(4, START_MS + 1000), numbered(5)];
    let refused = weir.broker.send(&topic("t"), mixed).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))), "{refused:?}");
    weir.advance(61);
    assert_eq!(weir.arrived().await, [0, 1, 2], "nothing of what was refused is stored");
}

#[tokio::test]
async fn pending_messages_survive_every_kind_of_stop() {
    for stop in 0..4 {
        let (mut weir, env) = Fixture::on_sim(stop).await;
        weir.topic(2).await;
        let ids = [weir.begin(100).await, weir.begin(101).await, weir.begin(102).await];
        for n in 0..50 {
            weir.delay(n, 10_000 + n * 1000).await;
        }
        weir.advance(20);
        assert_eq!(weir.arrive(11).await.len(), 11);
        weir.end(&ids[0], Resolution::Commit).await.unwrap();
        weir.end(&ids[1], Resolution::Rollback).await.unwrap();
        match stop {
            0 => weir.broker.close().await.unwrap(),
            1 => env.kill(),
            2 => env.lose_power(),
            _ => {
                weir.broker.close().await.unwrap();
                let queues = env.paths().into_iter().filter(|path| {
                    path.to_string_lossy().contains("/queues/") || path.ends_with("checkpoint")
                });
                queues.for_each(|path| weir_storage::Env::remove(&env, &path).unwrap());
            }
        }
        weir.broker = Broker::open(weir.starting()).await.unwrap();
        assert_eq!(weir.arrive(1).await, [100], "stop {stop}");
        weir.end(&ids[0], Resolution::Rollback).await.unwrap();
        weir.end(&ids[1], Resolution::Commit).await.unwrap();
        weir.advance(100);
        let mut rest = weir.arrive(39).await;
        rest.extend(weir.arrived().await);
        assert_eq!(rest, (11..50).collect::<Vec<i64>>(), "stop {stop}");
        weir.end(&ids[2], Resolution::Commit).await.unwrap();
        assert_eq!(weir.arrive(1).await, [102], "stop {stop}");
    }
}

#[tokio::test]
async fn a_recalled_message_never_comes_and_one_that_has_come_is_not_recalled() {
    let (mut weir, env) = Fixture::on_sim(5).await;
    weir.topic(1).await;
    let handles = [weir.delay(0, 5000).await, weir.delay(1, 5000).await, weir.delay(2, 6000).await];
    assert_eq!(weir.broker.recall(&topic("t"), &handles[1]).await.unwrap(), "m1");
    let again = weir.broker.recall(&topic("t"), &handles[1]).await;
    assert!(matches!(again, Err(EngineError::MessageNotFound { .. })), "{again:?}");
    weir.broker.create_topic(&topic("other"), TopicSpec::default()).await.unwrap();
    for (name, handle) in [("other", handles[0].as_str()), ("t", "x"), ("t", ""), ("t", &handles[0][1..])] {
        let refused = weir.broker.recall(&topic(name), handle).await;
        assert!(matches!(refused, Err(EngineError::Handle(_))), "{refused:?}");
    }
    env.lose_power();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    assert_eq!(weir.broker.recall(&topic("t"), &handles[2]).await.unwrap(), "m2", "handles go on");
    weir.advance(5);
    let due = weir.broker.recall(&topic("t"), &handles[0]).await;
    assert!(matches!(due, Err(EngineError::MessageNotFound { .. })), "{due:?}");
    assert_eq!(weir.arrive(1).await, [0]);
    weir.advance(60);
    assert!(weir.arrived().await.is_empty());
}

/// Asks producers, in so far as there are any.
#[derive(Default)]
struct Producers {
    are_there: AtomicBool,
    asked: Mutex<Vec<OrphanedTransaction>>,
}

impl AskProducer for Producers {
    fn readiness(&self, _: &TopicName) -> Readiness {
        if self.are_there.load(Ordering::Relaxed) { Readiness::Ready } else { Readiness::Nobody }
    }

    fn ask(&self, orphan: &OrphanedTransaction) -> bool {
        let are_there = self.are_there.load(Ordering::Relaxed);
        if are_there {
            self.asked.lock().push(orphan.clone());
        }
        are_there
    }
}

impl Producers {
    fn of(weir: &Fixture, are_there: bool) -> (Arc<Self>, Arc<dyn AskProducer>) {
        let producers = Arc::new(Self { are_there: are_there.into(), asked: Mutex::default() });
        let asker: Arc<dyn AskProducer> = Arc::clone(&producers) as _;
        weir.broker.ask_producers_by(&asker);
        (producers, asker)
    }

    /// How often producers were asked.
    async fn questions(&self, at_least: usize) -> usize {
        for _ in 0..500 {
            settle().await;
            if self.asked.lock().len() >= at_least {
                break;
            }
        }
        settle().await;
        self.asked.lock().len()
    }
}

#[tokio::test]
async fn a_transaction_becomes_visible_by_its_commit_alone() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let ids = [weir.begin(0).await, weir.begin(1).await, weir.begin(2).await];
    assert!(weir.arrived().await.is_empty());
    assert_eq!(weir.rows(), 0);
    weir.end(&ids[2], Resolution::Commit).await.unwrap();
    weir.end(&ids[1], Resolution::Rollback).await.unwrap();
    weir.end(&ids[0], Resolution::Unknown).await.unwrap();
    assert_eq!(numbers(&weir.receive("sys.message_type = 'TRANSACTION'").await), [2], "at once");
    for resolution in [Resolution::Rollback, Resolution::Commit, Resolution::Unknown] {
        weir.end(&ids[1], resolution).await.unwrap();
        weir.end(&ids[2], resolution).await.unwrap();
    }
    assert_eq!(weir.rows(), 1, "the first end counts");
    weir.end(&ids[0], Resolution::Commit).await.unwrap();
    assert_eq!(weir.rows(), 2, "an unknown end is none");
    let recall = weir.delay(9, 100_000).await;
    for wrong in ["", "x", &ids[0][1..], recall.as_str()] {
        let refused = weir.end(wrong, Resolution::Commit).await;
        assert!(matches!(refused, Err(EngineError::Handle(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn two_ends_of_one_transaction_at_once_are_one() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    for n in 0..20 {
        let id = weir.begin(n).await;
        let ends = (0..8).map(|_| weir.end(&id, Resolution::Commit));
        assert!(futures::future::join_all(ends).await.iter().all(Result::is_ok));
        assert_eq!(weir.rows(), n.unsigned_abs() + 1);
    }
}

#[tokio::test]
async fn producers_are_asked_about_transactions_that_nobody_ends() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    let (producers, asker) = Producers::of(&weir, true);
    let id = weir.begin(1).await;
    let later = Message { transaction_recovery_ms: Some(60_000), ..half(2) };
    let later = handle(weir.send(later).await);
    weir.clock.advance(Duration::from_millis(5999));
    assert_eq!(producers.questions(0).await, 0, "six seconds are not over");
    weir.clock.advance(Duration::from_millis(1));
    assert_eq!(producers.questions(1).await, 1);
    let asked = producers.asked.lock().pop().unwrap();
    assert_eq!((asked.topic, &asked.transaction_id), (topic("t"), &id));
    assert_eq!(asked.message.message, half(1));
    weir.advance(29);
    assert_eq!(producers.questions(0).await, 0);
    weir.advance(1);
    assert_eq!(producers.questions(1).await, 1, "again after 30 s");
    weir.end(&id, Resolution::Commit).await.unwrap();
    weir.advance(24);
    assert_eq!(producers.questions(2).await, 2, "the other one after the time that it asked for");
    assert_eq!(producers.asked.lock()[1].transaction_id, later);
    // A start asks again; what it is told is the same.
    drop(asker);
    weir.restart().await;
    let (producers, _asker) = Producers::of(&weir, true);
    weir.advance(40);
    assert_eq!(producers.questions(1).await, 1);
    assert_eq!(producers.asked.lock()[0].transaction_id, later);
    weir.end(&later, Resolution::Rollback).await.unwrap();
    weir.advance(600);
    assert_eq!(producers.questions(1).await, 1);
    assert_eq!(weir.arrived().await, [1]);
    assert_eq!(weir.broker.transactions_given_up(), 0);
}

#[tokio::test]
async fn after_fifteen_questions_a_transaction_is_given_up_and_without_producers_none_counts() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let (producers, _asker) = Producers::of(&weir, false);
    let id = weir.begin(1).await;
    weir.advance(6);
    for _ in 0..30 {
        producers.questions(0).await;
        weir.advance(30);
    }
    assert_eq!(weir.broker.transactions_given_up(), 0);
    producers.are_there.store(true, Ordering::Relaxed);
    for asked in 1..=15 {
        weir.advance(30);
        assert_eq!(producers.questions(asked).await, asked);
    }
    assert_eq!(weir.broker.transactions_given_up(), 0);
    for _ in 0..100 {
        weir.advance(30);
        producers.questions(0).await;
        if weir.broker.transactions_given_up() > 0 {
            break;
        }
    }
    assert_eq!(weir.broker.transactions_given_up(), 1);
    assert_eq!(producers.asked.lock().len(), 15);
    let nothing = weir.end(&id, Resolution::Commit).await;
    assert!(matches!(nothing, Err(EngineError::MessageNotFound { .. })), "{nothing:?}");
    weir.end(&id, Resolution::Rollback).await.unwrap();
    assert!(weir.arrived().await.is_empty(), "it has ended");
}

#[tokio::test]
async fn a_transaction_without_producers_is_kept_for_three_days() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let (producers, _asker) = Producers::of(&weir, false);
    weir.begin(1).await;
    weir.advance(3 * 86_400 - 60);
    producers.questions(0).await;
    assert_eq!(weir.broker.transactions_given_up(), 0);
    for _ in 0..100 {
        weir.advance(30);
        producers.questions(0).await;
        if weir.broker.transactions_given_up() > 0 {
            return;
        }
    }
    panic!("it is kept for ever");
}

#[tokio::test]
async fn after_a_long_stop_a_transaction_is_asked_about_before_it_is_given_up() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    let id = weir.begin_before_a_long_stop(1).await;
    let (producers, _asker) = Producers::of(&weir, false);
    for _ in 0..10 {
        producers.questions(0).await;
        weir.advance(30);
    }
    assert_eq!(weir.broker.transactions_given_up(), 0, "nobody could be asked yet");
    producers.are_there.store(true, Ordering::Relaxed);
    weir.advance(30);
    assert_eq!(producers.questions(1).await, 1);
    assert_eq!(producers.asked.lock()[0].transaction_id, id);
    weir.end(&id, Resolution::Commit).await.unwrap();
    assert_eq!(weir.arrive(1).await, [1]);
}

/// A producer whose stream takes a question so slowly that the next would be due meanwhile.
struct SlowProducer {
    clock: Arc<VirtualClock>,
    asked: AtomicBool,
}

impl AskProducer for SlowProducer {
    fn readiness(&self, _: &TopicName) -> Readiness {
        Readiness::Ready
    }

    fn ask(&self, _: &OrphanedTransaction) -> bool {
        self.clock.advance(Duration::from_secs(40));
        self.asked.store(true, Ordering::Relaxed);
        true
    }
}

#[tokio::test]
async fn a_producer_has_time_to_answer_however_long_it_took_to_ask_it() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    let id = weir.begin_before_a_long_stop(1).await;
    let producer = Arc::new(SlowProducer { clock: Arc::clone(&weir.clock), asked: AtomicBool::new(false) });
    let asker: Arc<dyn AskProducer> = Arc::clone(&producer) as _;
    weir.broker.ask_producers_by(&asker);
    weir.advance(30);
    while !producer.asked.load(Ordering::Relaxed) {
        settle().await;
    }
    for _ in 0..20 {
        settle().await;
    }
    assert_eq!(weir.broker.transactions_given_up(), 0, "it was asked a moment ago");
    weir.end(&id, Resolution::Commit).await.unwrap();
    assert_eq!(weir.arrive(1).await, [1]);
}

#[tokio::test]
async fn what_waits_for_a_deleted_topic_is_dropped() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let (producers, _asker) = Producers::of(&weir, true);
    weir.delay(1, 5000).await;
    let id = weir.begin(2).await;
    weir.broker.delete_topic(&topic("t")).await.unwrap();
    weir.topic(1).await;
    let foreign = weir.end(&id, Resolution::Commit).await;
    assert!(matches!(foreign, Err(EngineError::Handle(_))), "it is another topic: {foreign:?}");
    weir.delay(3, 8000).await;
    weir.advance(10);
    assert_eq!(weir.arrive(1).await, [3]);
    assert_eq!(producers.questions(0).await, 0);
}

#[tokio::test]
async fn the_pending_topic_is_nobodys() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    weir.delay(1, 50_000).await;
    for _ in 0..2 {
        let topics: Vec<TopicName> =
            weir.broker.topics().into_iter().map(|described| described.name).collect();
        assert_eq!(topics, [topic("t")]);
        assert!("weir/pending".parse::<TopicName>().is_err());
        assert!(TopicName::new("weir", "pending").is_err());
        weir.restart().await;
    }
}

#[tokio::test]
async fn a_released_message_is_read_by_every_reader_compressed_or_not() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut weir = Fixture::new().await;
        weir.topic(1).await;
        let change = TopicChange { compression: Some(compression), ..TopicChange::default() };
        weir.broker.alter_topic(&topic("t"), change).await.unwrap();
        let body = format!("{{\"n\": 5, \"text\": \"{}\"}}", "weir ".repeat(100));
        let message = Message { body: body.clone().into(), ..delayed(5, START_MS + 1000) };
        weir.send(message).await;
        weir.advance(2);
        for _ in 0..2000 {
            settle().await;
            if weir.rows() == 1 {
                break;
            }
        }
        for _ in 0..2 {
            let delivered = weir.receive("JSON_VALUE(body, '$.n') = 5").await;
            assert_eq!(delivered.len(), 1, "{compression:?}");
            assert_eq!(delivered[0].message.message.body, body.as_bytes());
            let pulled = weir.bodies().await;
            assert_eq!(pulled, std::slice::from_ref(&body), "{compression:?}");
            weir.advance(61);
            weir.restart().await;
        }
    }
}

/// A log of 200 messages of 4,000 bytes behind one that is delayed, where 300 KiB are allowed.
async fn crowded(compaction_interval: Duration) -> Fixture {
    let weir = Fixture::with(|options| {
        options.storage.log_segment_bytes_min = 64 << 10;
        options.storage.log_segment_bytes_max = 64 << 10;
        options.storage.compaction_bytes_min = 4 << 10;
        options.storage.compaction_interval = compaction_interval;
        options.storage.checkpoint_interval = Duration::from_millis(5);
        options.retention_bytes = Some(300 << 10);
    })
    .await;
    weir.topic(1).await;
    weir.delay(0, 10_000_000).await;
    for n in 1..=200 {
        let large = Message { body: vec![b'x'; 4000].into(), ..numbered(n) };
        weir.broker.publish(&topic("t"), vec![large]).await.unwrap();
    }
    assert!(log_bytes(&weir) > 800_000);
    weir
}

fn log_bytes(weir: &Fixture) -> u64 {
    let files = std::fs::read_dir(weir.options.data_dir.join("log")).unwrap();
    files.map(|entry| entry.unwrap().metadata().map_or(0, |data| data.len())).sum()
}

/// The oldest messages end where there is too little room, and those that wait in front of them do not keep them.
#[tokio::test]
async fn what_is_pending_does_not_keep_others_when_there_is_no_room() {
    let weir = crowded(Duration::from_millis(5)).await;
    for _ in 0..50 {
        weir.advance(61);
        // The compactor needs some time of its own before room is looked for again.
        for _ in 0..100 {
            settle().await;
        }
        // Of the segment that is written to, zeros lie ahead of the end.
        if log_bytes(&weir) < 450 << 10 {
            break;
        }
    }
    assert!(log_bytes(&weir) < 450 << 10, "{}", log_bytes(&weir));
    // What is compacted keeps the heads of its files, so that one segment more may have to go.
    assert!((40..80).contains(&weir.rows()), "no more rows end than must: {}", weir.rows());
    weir.clock.advance(Duration::from_secs(20_000));
    for _ in 0..2000 {
        settle().await;
        if weir.receive("n = 0").await.len() == 1 {
            return;
        }
    }
    panic!("the pending message is lost");
}

/// What has ended counts as given back while compaction has not come to it.
#[tokio::test]
async fn rows_do_not_end_again_while_compaction_takes_its_time() {
    let weir = crowded(Duration::from_secs(3600)).await;
    for round in 0..10 {
        weir.advance(61);
        for _ in 0..40 {
            settle().await;
        }
        assert!((55..80).contains(&weir.rows()) || round == 0, "round {round}: {}", weir.rows());
    }
    assert!(log_bytes(&weir) > 800_000, "nothing was compacted: {}", log_bytes(&weir));
}

/// Rows end by time while others wait; those that wait keep what they need, and no more for ever.
#[tokio::test]
async fn retention_and_compaction_leave_what_is_pending() {
    let mut weir = Fixture::with(|options| {
        options.storage.log_segment_bytes_min = 64 << 10;
        options.storage.log_segment_bytes_max = 64 << 10;
        options.storage.compaction_bytes_min = 4 << 10;
        options.storage.compaction_interval = Duration::from_millis(5);
        options.storage.checkpoint_interval = Duration::from_millis(5);
    })
    .await;
    weir.topic(1).await;
    let change = TopicChange { retention: Some(Duration::from_secs(100)), ..TopicChange::default() };
    weir.broker.alter_topic(&topic("t"), change).await.unwrap();
    let large = |n, message: Message| Message { body: vec![b'0' + n as u8; 4000].into(), ..message };
    for n in 0..5 {
        weir.send(large(n, delayed(n, START_MS + 10_000_000 + n))).await;
        for _ in 0..40 {
            weir.broker.publish(&topic("t"), vec![large(9, numbered(9))]).await.unwrap();
        }
    }
    weir.advance(1000);
    for _ in 0..2000 {
        settle().await;
        if weir.rows() == 0 {
            break;
        }
        weir.advance(10);
    }
    assert_eq!(weir.rows(), 0, "rows of the topic end");
    let dir = weir.options.data_dir.join("log");
    let log_bytes = || -> u64 {
        std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().map_or(0, |data| data.len()))
            .sum()
    };
    for _ in 0..2000 {
        settle().await;
        if log_bytes() < 400 << 10 {
            break;
        }
    }
    assert!(log_bytes() < 400 << 10, "{} of 800,000", log_bytes());
    weir.restart().await;
    weir.advance(10_000);
    let mut bodies = Vec::new();
    for _ in 0..2000 {
        settle().await;
        let delivered = weir.receive("TRUE").await;
        weir.ack(&delivered).await;
        bodies.extend(delivered.iter().map(|one| one.message.message.body[0]));
        if bodies.len() >= 5 {
            break;
        }
    }
    assert_eq!(bodies, b"01234");
}
