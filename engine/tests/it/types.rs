//! Topics of a type: which messages they take, and what receives of a topic of priorities look at first.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_columns::Value;
use weir_engine::{
    Delivered, EngineError, GroupChange, GroupSpec, Message, MessageType, ReceiveRequest, TopicChange,
    TopicSpec, TopicType,
};

use crate::fixture::{Fixture, group, lease, number, numbers, topic};

/// Types that are sent.
const SENT: [MessageType; 3] = [MessageType::Normal, MessageType::Fifo, MessageType::Priority];

fn message(message_type: MessageType) -> Message {
    Message {
        message_type,
        message_group: (message_type == MessageType::Fifo).then(|| "line".to_owned()),
        priority: (message_type == MessageType::Priority).then_some(1),
        ..Message::default()
    }
}

#[tokio::test]
async fn a_topic_takes_what_its_type_says_and_nothing_else() {
    let weir = Fixture::new().await;
    for topic_type in TopicType::ALL {
        let name = topic(topic_type.name());
        let spec = TopicSpec { topic_type, ..TopicSpec::default() };
        assert_eq!(weir.broker.create_topic(&name, spec).await.unwrap().topic_type, topic_type);
        let taken: Vec<MessageType> = SENT.into_iter().filter(|sent| topic_type.takes(*sent)).collect();
        for message_type in SENT {
            // Those before it are as they should be: nothing is stored of a call with one that is not taken.
            let good = taken.iter().map(|taken| message(*taken));
            let result = weir.broker.publish(&name, good.chain([message(message_type)]).collect()).await;
            match result {
                Ok(_) => assert!(topic_type.takes(message_type), "{topic_type} {message_type:?}"),
                Err(EngineError::MessageType { topic, topic_type: is, message_type: sent }) => {
                    assert_eq!((topic, is, sent), (name.clone(), topic_type, message_type));
                    assert!(!topic_type.takes(message_type), "{topic_type} {message_type:?}");
                }
                Err(error) => panic!("{topic_type} {message_type:?}: {error}"),
            }
        }
        let stored: u64 = weir.broker.topic(&name).unwrap().queues.iter().map(|queue| queue.end.0).sum();
        assert_eq!(stored, (taken.len() * (taken.len() + 1)) as u64, "{topic_type}");
    }
}

#[tokio::test]
async fn a_type_may_change_and_outlives_a_restart() {
    let mut weir = Fixture::new().await;
    let t = weir.topic(2).await;
    assert_eq!(weir.broker.topic(&t).unwrap().topic_type, TopicType::Mixed, "unless it is said");
    weir.publish([0]).await;
    let change = TopicChange { topic_type: Some(TopicType::Fifo), ..TopicChange::default() };
    weir.broker.alter_topic(&t, change).await.unwrap();
    weir.broker.alter_topic(&t, TopicChange { queues: Some(3), ..TopicChange::default() }).await.unwrap();
    for _ in 0..2 {
        assert_eq!(weir.broker.topic(&t).unwrap().topic_type, TopicType::Fifo);
        let refused = weir.broker.publish(&t, vec![message(MessageType::Normal)]).await.unwrap_err();
        assert!(refused.to_string().contains("type fifo and takes no NORMAL"), "{refused}");
        weir.broker.publish(&t, vec![message(MessageType::Fifo)]).await.unwrap();
        weir.restart().await;
    }
    assert_eq!(weir.receive("TRUE").await.len(), 3, "what is stored stays");
}

#[tokio::test]
async fn dead_letters_may_be_of_any_type_and_their_topic_takes_normal_messages() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.broker.publish(&t, vec![message(MessageType::Fifo)]).await.unwrap();
    let delivered = weir.receive("TRUE").await;
    weir.broker.forward_to_dead_letter(&group("g"), &t, &delivered[0].handle).await.unwrap();
    let letters = topic("%DLQ%g");
    assert_eq!(weir.broker.topic(&letters).unwrap().topic_type, TopicType::Normal);
    let request = ReceiveRequest::new(group("other"), letters);
    let letter = weir.broker.receive(request).await.unwrap().remove(0);
    assert_eq!(letter.message.message.message_type, MessageType::Fifo);
}

#[tokio::test]
async fn a_priority_and_its_type_belong_together() {
    let weir = Fixture::new().await;
    let prioritised = |priority| Message { priority, ..message(MessageType::Priority) };
    for (wrong, says) in [
        (prioritised(None), "needs a priority"),
        (prioritised(Some(-1)), "negative"),
        (Message { message_group: Some("g".to_owned()), ..prioritised(Some(1)) }, "not both"),
        (Message { priority: Some(1), ..message(MessageType::Normal) }, "only PRIORITY messages"),
    ] {
        let error = weir.broker.check_message(&wrong).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

fn prioritised(n: i64, priority: i32) -> Message {
    Message {
        message_type: MessageType::Priority,
        priority: Some(priority),
        properties: vec![("n".to_owned(), Value::I64(n))],
        body: n.to_string().into(),
        ..Message::default()
    }
}

/// A topic of priorities with four queues, and as many messages of each of the levels 0 to 3, the lowest first. The
/// number of a message is a hundred times its level, and which of them it is.
async fn levels(count: i64, spec: GroupSpec) -> Fixture {
    let weir = Fixture::new().await;
    let topic_spec = TopicSpec { topic_type: TopicType::Priority, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), topic_spec).await.unwrap();
    weir.broker.create_group(&group("g"), spec).await.unwrap();
    for level in 0..4 {
        let messages = (0..count).map(|n| prioritised(i64::from(level) * 100 + n, level)).collect();
        weir.broker.publish(&topic("t"), messages).await.unwrap();
    }
    weir
}

async fn receive(weir: &Fixture, max_messages: usize) -> Vec<Delivered> {
    let request = ReceiveRequest { max_messages, lease: lease(30), ..weir.request("TRUE") };
    weir.broker.receive(request).await.unwrap()
}

#[tokio::test]
async fn each_level_has_a_queue_and_the_last_is_for_all_above() {
    let weir = levels(0, GroupSpec::default()).await;
    let priorities = [0, 1, 2, 3, 4, 1000, i32::MAX];
    let messages = priorities.iter().map(|priority| prioritised(i64::from(*priority), *priority)).collect();
    let published = weir.broker.publish(&topic("t"), messages).await.unwrap();
    assert_eq!(published.iter().map(|at| at.queue.0).collect::<Vec<_>>(), [0, 1, 2, 3, 3, 3, 3]);
    let delivered = receive(&weir, 32).await;
    assert_eq!(numbers(&delivered), [3, 4, 1000, i64::from(i32::MAX), 2, 1, 0]);
    assert_eq!(delivered[0].message.message.priority, Some(3), "it is told as it was sent");
}

#[tokio::test]
async fn what_is_of_higher_priority_comes_first_also_when_it_comes_again() {
    let weir = levels(3, GroupSpec::default()).await;
    let first = receive(&weir, 2).await;
    assert_eq!(numbers(&first), [300, 301]);
    assert_eq!(numbers(&receive(&weir, 4).await), [302, 200, 201, 202]);
    // One of high priority that arrives late, and one that failed, go before those that have waited.
    weir.broker.publish(&topic("t"), vec![prioritised(303, 9)]).await.unwrap();
    let later = std::time::Duration::from_secs(1);
    weir.broker.change_invisible(&group("g"), &topic("t"), &first[1].handle, later).await.unwrap();
    weir.advance(1);
    let next = receive(&weir, 3).await;
    assert_eq!(numbers(&next), [301, 303, 100]);
    assert_eq!(next[0].attempt, 2);
    assert_eq!(numbers(&receive(&weir, 9).await), [101, 102, 0, 1, 2]);
}

#[tokio::test]
async fn the_factor_of_a_group_says_how_many_receives_begin_at_the_top() {
    for (factor, top) in [(100, 20), (75, 15), (50, 10), (0, 0)] {
        let spec = GroupSpec { priority_factor: factor, ..GroupSpec::default() };
        let weir = levels(30, spec).await;
        let mut by_level = BTreeMap::<i64, usize>::new();
        for _ in 0..20 {
            let delivered = receive(&weir, 1).await;
            *by_level.entry(number(&delivered[0]) / 100).or_default() += 1;
        }
        // The others begin at each queue in turn, at the lowest first.
        let others = 20 - top;
        for level in 0..4 {
            let in_turn = (0..others).filter(|turn| turn % 4 == level).count();
            let expected = in_turn + if level == 3 { top } else { 0 };
            assert_eq!(
                by_level.get(&(level as i64)).copied().unwrap_or(0),
                expected,
                "{factor} {by_level:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_factor_can_be_changed_and_has_bounds() {
    let mut weir = levels(2, GroupSpec::default()).await;
    let too_much = GroupChange { priority_factor: Some(101), ..GroupChange::default() };
    assert!(weir.broker.alter_group(&group("g"), too_much).await.is_err());
    let never = GroupChange { priority_factor: Some(0), ..GroupChange::default() };
    weir.broker.alter_group(&group("g"), never).await.unwrap();
    weir.restart().await;
    assert_eq!(weir.broker.group(&group("g")).unwrap().spec.priority_factor, 0);
    assert_eq!(numbers(&receive(&weir, 1).await), [0]);
    // A group whose settings say nothing of it looks at the top first, and says nothing of it either.
    let old: GroupSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(old.priority_factor, 100);
    assert!(!serde_json::to_string(&old).unwrap().contains("priority"));
}

#[tokio::test]
async fn a_fifo_group_takes_no_notice_of_priorities() {
    let weir = levels(1, GroupSpec { fifo: true, ..GroupSpec::default() }).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        came.extend(numbers(&receive(&weir, 1).await));
    }
    assert_eq!(came, [0, 100, 200, 300], "the queues in turn");
}

/// Whatever the factor and whoever takes them: each message once, in the order of its level.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_or_doubled_whatever_the_factor() {
    let first: u64 = rand::random();
    for seed in (0..8).map(|n| first.wrapping_add(n)) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let spec = GroupSpec { priority_factor: random.random_range(0..=100), ..GroupSpec::default() };
        let weir = levels(0, spec).await;
        let mut next = BTreeMap::<i32, i64>::new();
        let mut came = BTreeMap::<i64, Vec<i64>>::new();
        let mut sent = 0;
        for _ in 0..60 {
            let priority = random.random_range(0..4);
            let count = random.random_range(0..6);
            let messages: Vec<Message> = (0..count)
                .map(|_| {
                    let n = next.entry(priority).or_default();
                    *n += 1;
                    prioritised(i64::from(priority) * 1000 + *n, priority)
                })
                .collect();
            sent += messages.len();
            weir.broker.publish(&topic("t"), messages).await.unwrap();
            let delivered = receive(&weir, random.random_range(1..6)).await;
            assert!(weir.ack(&delivered).await.iter().all(Result::is_ok));
            delivered.iter().for_each(|one| came.entry(number(one) / 1000).or_default().push(number(one)));
        }
        loop {
            let delivered = receive(&weir, 32).await;
            if delivered.is_empty() {
                break;
            }
            delivered.iter().for_each(|one| came.entry(number(one) / 1000).or_default().push(number(one)));
        }
        assert_eq!(came.values().map(Vec::len).sum::<usize>(), sent, "seed {seed}");
        for (level, numbers) in &came {
            let count = next[&i32::try_from(*level).unwrap()];
            let expected: Vec<i64> = (1..=count).map(|n| level * 1000 + n).collect();
            assert_eq!(*numbers, expected, "seed {seed}, level {level}");
        }
    }
}
