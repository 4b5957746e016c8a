//! Pulls of messages: offsets in, messages out, waits for them, and where a group stands beside it.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_engine::{
    AnswerShare, Broker, EngineError, Message, MessagePull, OffsetAt, PulledMessages, QueueId, QueueOffset,
    ResetTo, TopicSpec,
};

use crate::fixture::{Fixture, START_MS, group, numbered, settle, topic};

const QUEUE: QueueId = QueueId(0);

fn pull(weir: &Fixture, from: u64, selector: &str) -> MessagePull {
    MessagePull {
        topic: topic("t"),
        queue: QUEUE,
        from: QueueOffset(from),
        selector: weir.broker.parse_selector(selector).unwrap(),
        max_messages: 32,
        wait: Duration::ZERO,
    }
}

async fn filled(numbers: std::ops::Range<i64>) -> Fixture {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(numbers).await;
    weir
}

fn numbers(pulled: &PulledMessages) -> Vec<i64> {
    let number = |body: &[u8]| std::str::from_utf8(body).unwrap().parse().unwrap();
    pulled.messages.iter().map(|stored| number(&stored.message.body)).collect()
}

#[tokio::test]
async fn a_pull_gives_what_matches_from_an_offset_on_and_says_where_to_go_on() {
    let weir = filled(0..100).await;
    let mut from = 0;
    let mut all = Vec::new();
    loop {
        let pulled = weir.broker.pull_messages(pull(&weir, from, "n % 2 = 1")).await.unwrap();
        assert!(pulled.messages.iter().all(|stored| stored.offset.0 >= from && stored.offset < pulled.next));
        from = pulled.next.0;
        if pulled.messages.is_empty() {
            break;
        }
        assert!(pulled.messages.len() <= 32);
        all.extend(numbers(&pulled));
    }
    assert_eq!(all, (0..100).filter(|n| n % 2 == 1).collect::<Vec<i64>>());
    assert_eq!(from, 100, "what does not match is passed");
    let some = MessagePull { max_messages: 2, ..pull(&weir, 7, "n > 10") };
    let some = weir.broker.pull_messages(some).await.unwrap();
    assert_eq!((numbers(&some), some.next), (vec![11, 12], QueueOffset(13)));
    // Nothing is leased, and nothing moves.
    assert!(weir.broker.groups().is_empty());
    let again = weir.broker.pull_messages(pull(&weir, 7, "n > 10")).await.unwrap();
    assert_eq!(numbers(&again)[..2], [11, 12]);
}

#[tokio::test]
async fn offsets_that_are_not_there_are_refused_with_those_that_are() {
    let weir = filled(0..10).await;
    for (from, available) in [(10, None), (11, Some(0..10)), (u64::MAX, Some(0..10))] {
        match (weir.broker.pull_messages(pull(&weir, from, "TRUE")).await, available) {
            (Ok(pulled), None) => assert_eq!((pulled.messages.len(), pulled.next.0), (0, 10)),
            (Err(EngineError::OffsetOutOfRange { available: is, asked, .. }), Some(available)) => {
                assert_eq!((is.start.0..is.end.0, asked.0), (available, from));
            }
            other => panic!("{from}: {other:?}"),
        }
    }
    let spec = |queue| MessagePull { queue: QueueId(queue), ..pull(&weir, 0, "TRUE") };
    let error = weir.broker.pull_messages(spec(1)).await.unwrap_err();
    assert!(matches!(error, EngineError::QueueNotFound { .. }), "{error}");
    let none = MessagePull { max_messages: 0, ..pull(&weir, 0, "TRUE") };
    assert!(matches!(weir.broker.pull_messages(none).await, Err(EngineError::Invalid(_))));
    let nothing = MessagePull { topic: topic("nothing"), ..pull(&weir, 0, "TRUE") };
    assert!(matches!(weir.broker.pull_messages(nothing).await, Err(EngineError::TopicNotFound { .. })));
}

/// What a crash has cut is refused, and never answered with another message while the queue is shorter.
#[tokio::test]
async fn an_offset_of_before_a_crash_that_was_cut_is_refused() {
    let (mut weir, env) = Fixture::on_sim(7).await;
    let spec = TopicSpec { queues: 1, class: weir_engine::DurabilityClass::Async, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    weir.publish(0..50).await;
    let before = weir.broker.pull_messages(pull(&weir, 20, "TRUE")).await.unwrap();
    assert_eq!(before.next.0, 50);
    env.lose_power();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    let end = weir.broker.offset_at(&topic("t"), QUEUE, OffsetAt::Latest).await.unwrap();
    match weir.broker.pull_messages(pull(&weir, before.next.0, "TRUE")).await {
        Err(EngineError::OffsetOutOfRange { available, .. }) => assert_eq!(available.end, end),
        Ok(pulled) => assert_eq!((end.0, pulled.messages.len()), (50, 0), "it was durable after all"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_pull_waits_for_a_message_that_matches() {
    let weir = filled(0..10).await;
    let waiting = |selector: &str| {
        let (broker, pull) = (weir.broker.clone(), pull(&weir, 10, selector));
        let pull = MessagePull { wait: Duration::from_secs(20), ..pull };
        tokio::spawn(async move { broker.pull_messages(pull).await })
    };
    let (wanted, other) = (waiting("n = 12"), waiting("n = 99"));
    settle().await;
    weir.publish([11]).await;
    settle().await;
    assert!(!wanted.is_finished() && !other.is_finished());
    weir.publish([12]).await;
    let pulled = wanted.await.unwrap().unwrap();
    assert_eq!((numbers(&pulled), pulled.next.0), (vec![12], 12));
    weir.advance(19);
    settle().await;
    assert!(!other.is_finished());
    weir.advance(1);
    let nothing = other.await.unwrap().unwrap();
    assert_eq!((nothing.messages.len(), nothing.next.0), (0, 12), "it was passed");
}

#[tokio::test]
async fn waits_end_with_the_topic_and_with_the_broker() {
    let weir = filled(0..1).await;
    let waiting = || {
        let (broker, pull) = (weir.broker.clone(), pull(&weir, 1, "TRUE"));
        let pull = MessagePull { wait: Duration::from_secs(20), ..pull };
        tokio::spawn(async move { broker.pull_messages(pull).await })
    };
    let first = waiting();
    settle().await;
    weir.broker.delete_topic(&topic("t")).await.unwrap();
    assert!(matches!(first.await.unwrap(), Err(EngineError::TopicNotFound { .. })));
    weir.topic(1).await;
    weir.publish([0]).await;
    let second = waiting();
    settle().await;
    weir.broker.close().await.unwrap();
    assert!(second.await.unwrap().unwrap().messages.is_empty());
    let late = weir.broker.pull_messages(pull(&weir, 0, "TRUE")).await;
    assert!(matches!(late, Err(EngineError::Closed)));
}

#[tokio::test]
async fn one_answer_holds_bodies_of_bounded_size() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    for n in 0..12 {
        let large = Message { body: vec![b'x'; 4 << 20].into(), ..numbered(n) };
        weir.broker.publish(&topic("t"), vec![large]).await.unwrap();
    }
    let first = weir.broker.pull_messages(pull(&weir, 0, "TRUE")).await.unwrap();
    assert_eq!((first.messages.len(), first.next.0), (8, 8));
    let second = weir.broker.pull_messages(pull(&weir, 8, "TRUE")).await.unwrap();
    assert_eq!((second.messages.len(), second.next.0), (4, 12));
}

#[tokio::test]
async fn places_in_a_queue_are_told() {
    let weir = filled(0..5).await;
    weir.advance(60);
    weir.publish(5..9).await;
    let minute = START_MS + 60_000;
    for (at, expected) in [
        (OffsetAt::Earliest, 0),
        (OffsetAt::Latest, 9),
        (OffsetAt::Timestamp(i64::MIN), 0),
        (OffsetAt::Timestamp(START_MS), 0),
        (OffsetAt::Timestamp(START_MS + 1000), 5),
        (OffsetAt::Timestamp(minute), 5),
        (OffsetAt::Timestamp(minute + 60_000), 9),
        (OffsetAt::Timestamp(i64::MAX), 9),
    ] {
        let offset = weir.broker.offset_at(&topic("t"), QUEUE, at).await.unwrap();
        assert_eq!(offset.0, expected, "{at:?}");
    }
}

#[tokio::test]
async fn an_offset_that_is_set_is_the_committed_one_and_outlives_a_crash() {
    let (mut weir, env) = Fixture::on_sim(8).await;
    let t = weir.topic(2).await;
    let committed = |weir: &Fixture, queue| weir.broker.committed_offset(&group("g"), &t, QueueId(queue));
    assert_eq!(committed(&weir, 0).unwrap(), None, "a group that is not there yet");
    for n in 0..20 {
        weir.publish([n]).await;
    }
    weir.broker.group_or_create(&group("g")).await.unwrap();
    assert_eq!(committed(&weir, 0).unwrap(), None, "a group that has read nothing yet");
    let to = ResetTo::Offset { queue: QUEUE, offset: QueueOffset(4) };
    weir.broker.reset_group(&group("g"), &t, to).await.unwrap();
    env.lose_power();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    assert_eq!(committed(&weir, 0).unwrap(), Some(QueueOffset(4)));
    let delivered = weir.receive("TRUE").await;
    assert_eq!(delivered.len(), 16, "a receive goes on from there, and from the start elsewhere");
    assert_eq!(committed(&weir, 0).unwrap(), Some(QueueOffset(4)), "nothing is done yet");
    assert!(weir.ack(&delivered).await.iter().all(Result::is_ok));
    assert_eq!([0, 1].map(|queue| committed(&weir, queue).unwrap()), [Some(QueueOffset(10)); 2]);
    assert!(matches!(committed(&weir, 2), Err(EngineError::QueueNotFound { .. })));
}

/// Random pulls of random size, while messages arrive: together exactly what the selector is TRUE for.
#[tokio::test(flavor = "multi_thread")]
async fn random_pulls_miss_nothing_and_repeat_nothing() {
    let first: u64 = rand::random();
    for seed in (0..10).map(|n| first.wrapping_add(n)) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let weir = Fixture::new().await;
        weir.topic(2).await;
        let (modulus, rest) = (random.random_range(1..5), random.random_range(0..5));
        let selector = format!("n % {modulus} = {rest} OR n > 1000");
        let mut next = BTreeMap::from([(0, 0), (1, 0)]);
        let (mut came, mut sent) = (Vec::new(), 0);
        for _ in 0..40 {
            let count = random.random_range(0..30);
            weir.publish(sent..sent + count).await;
            sent += count;
            let queue = random.random_range(0..2);
            let max_messages = random.random_range(1..40);
            let asked =
                MessagePull { queue: QueueId(queue), max_messages, ..pull(&weir, next[&queue], &selector) };
            let pulled = weir.broker.pull_messages(asked).await.unwrap();
            came.extend(numbers(&pulled));
            next.insert(queue, pulled.next.0);
        }
        for queue in 0..2 {
            loop {
                let asked = MessagePull { queue: QueueId(queue), ..pull(&weir, next[&queue], &selector) };
                let pulled = weir.broker.pull_messages(asked).await.unwrap();
                if pulled.messages.is_empty() {
                    break;
                }
                came.extend(numbers(&pulled));
                next.insert(queue, pulled.next.0);
            }
        }
        came.sort_unstable();
        let expected: Vec<i64> = (0..sent).filter(|n| n % modulus == rest || *n > 1000).collect();
        assert_eq!(came, expected, "seed {seed}");
    }
}

/// A reader that takes nothing holds messages in memory; there is a bound for each, over all of its calls.
#[tokio::test]
async fn while_answers_that_a_reader_does_not_take_are_too_large_it_is_given_no_more() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let large = Message { body: vec![b'x'; 4 << 20].into(), ..numbered(0) };
    weir.broker.publish(&topic("t"), vec![large]).await.unwrap();
    let (slow, other) = (AnswerShare::default(), AnswerShare::default());
    let pulled = |share| weir.broker.pull_messages_for(pull(&weir, 0, "TRUE"), share);
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(pulled(&slow).await.unwrap());
    }
    assert!(matches!(pulled(&slow).await, Err(EngineError::Busy(_))));
    assert!(matches!(weir.broker.receive_for(weir.request("TRUE"), &slow).await, Err(EngineError::Busy(_))));
    assert_eq!(pulled(&other).await.unwrap().messages.len(), 1);
    held.pop();
    let received = weir.broker.receive_for(weir.request("TRUE"), &slow).await.unwrap();
    assert_eq!(received.len(), 1);
    assert!(matches!(pulled(&slow).await, Err(EngineError::Busy(_))), "what was received counts as well");
    drop(received);
    assert_eq!(pulled(&slow).await.unwrap().messages.len(), 1);
}
