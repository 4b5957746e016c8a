//! Receiving, acknowledging, delivering again.

use std::time::Duration;

use weir_engine::{
    EngineError, GroupChange, GroupSpec, HandleFault, LeaseTime, ReceiveRequest, ResetTo, TopicName,
};

use crate::fixture::{Fixture, group, lease, number, numbers, topic};

fn is_expired(result: &Result<(), EngineError>) -> bool {
    matches!(result, Err(EngineError::Handle(HandleFault::Expired)))
}

#[tokio::test]
async fn a_group_receives_what_its_selector_is_true_for() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..100).await;
    let delivered = weir.receive("n >= 90 AND n <> 95").await;
    assert_eq!(numbers(&delivered), [90, 91, 92, 93, 94, 96, 97, 98, 99]);
    assert!(delivered.iter().all(|delivered| delivered.attempt == 1));
    assert!(weir.ack(&delivered).await.iter().all(Result::is_ok));
    assert!(weir.receive("n >= 90 AND n <> 95").await.is_empty());
    let described = weir.broker.group(&group("g")).unwrap();
    let queue = described.topics[0].queues[0];
    assert_eq!((queue.committed.0, queue.end.0, queue.leased, queue.waiting), (100, 100, 0, 0));
}

#[tokio::test]
async fn every_queue_is_read_and_each_in_order() {
    let weir = Fixture::new().await;
    weir.topic(3).await;
    for n in 0..30 {
        weir.publish([n]).await;
    }
    let mut seen = Vec::new();
    loop {
        let delivered =
            weir.broker.receive(ReceiveRequest { max_messages: 4, ..weir.request("TRUE") }).await.unwrap();
        if delivered.is_empty() {
            break;
        }
        weir.ack(&delivered).await;
        seen.extend(delivered.iter().map(|one| (one.message.queue, one.message.offset, number(one))));
    }
    for queue in 0..3 {
        let offsets: Vec<u64> =
            seen.iter().filter(|(of, ..)| of.0 == queue).map(|(_, offset, _)| offset.0).collect();
        assert_eq!(offsets, (0..10).collect::<Vec<u64>>(), "queue {queue}");
    }
    let mut all: Vec<i64> = seen.iter().map(|(.., n)| *n).collect();
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_lease_that_ends_is_delivered_again() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1, 2]).await;
    let first =
        weir.broker.receive(ReceiveRequest { lease: lease(10), ..weir.request("TRUE") }).await.unwrap();
    assert_eq!(numbers(&first), [1, 2]);
    weir.ack(&first[..1]).await;
    weir.advance(9);
    assert!(weir.receive("TRUE").await.is_empty());
    weir.advance(1);
    let again = weir.receive("TRUE").await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![2], 2));
    assert!(is_expired(&weir.ack(&first[1..]).await[0]), "it was handed out again");
    assert!(weir.ack(&again).await[0].is_ok());
    assert!(weir.ack(&again).await[0].is_ok(), "what is done can be done again");
}

#[tokio::test]
async fn a_late_acknowledgement_counts_until_the_message_is_handed_out_again() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1]).await;
    let delivered =
        weir.broker.receive(ReceiveRequest { lease: lease(10), ..weir.request("TRUE") }).await.unwrap();
    weir.advance(3600);
    assert!(weir.ack(&delivered).await[0].is_ok());
    assert!(weir.receive("TRUE").await.is_empty());
}

#[tokio::test]
async fn a_changed_message_comes_back_in_time_under_a_new_handle() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish([1]).await;
    let delivered = weir.receive("TRUE").await;
    let change = |handle: String, seconds| {
        let (broker, t) = (weir.broker.clone(), t.clone());
        async move { broker.change_invisible(&group("g"), &t, &handle, Duration::from_secs(seconds)).await }
    };
    let handle = change(delivered[0].handle.clone(), 30).await.unwrap();
    assert!(is_expired(&weir.ack(&delivered).await[0]), "the handle was replaced");
    weir.advance(29);
    assert!(weir.receive("TRUE").await.is_empty());
    weir.advance(1);
    let again = weir.receive("TRUE").await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![1], 2));
    assert!(change(handle, 1).await.is_err());
    let handle = change(again[0].handle.clone(), 0).await.unwrap();
    assert!(weir.broker.acknowledge(&group("g"), &t, std::slice::from_ref(&handle)).await[0].is_ok());
    assert!(change(handle.clone(), 1).await.is_err(), "it is done");
    assert!(matches!(change(handle, 43_201).await, Err(EngineError::InvisibleTime { .. })));
}

#[tokio::test]
async fn a_message_that_fails_too_often_goes_to_the_dead_letter_topic() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let spec = GroupSpec { max_attempts: 2, ..GroupSpec::default() };
    weir.broker.create_group(&group("g"), spec).await.unwrap();
    weir.publish([7]).await;
    for attempt in 1..=2 {
        let delivered = weir.receive("TRUE").await;
        assert_eq!((numbers(&delivered), delivered[0].attempt), (vec![7], attempt));
        weir.advance(60);
    }
    let dead = TopicName::dead_letter_of(&group("g"));
    let request = ReceiveRequest {
        wait: Duration::from_secs(20),
        ..ReceiveRequest::new(group("undertaker"), dead.clone())
    };
    let copy = loop {
        assert!(weir.receive("TRUE").await.is_empty());
        match weir.broker.receive(request.clone()).await {
            Ok(delivered) => break delivered,
            Err(EngineError::TopicNotFound { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((numbers(&copy), copy[0].attempt), (vec![7], 1));
    let origin = copy[0].message.message.dead_letter.clone().unwrap();
    assert_eq!((origin.topic.as_str(), origin.attempts, origin.message_id.as_str()), ("t", 2, "m7"));
    let described = weir.broker.group(&group("g")).unwrap();
    assert_eq!(described.topics[0].queues[0].committed.0, 1);
}

#[tokio::test]
async fn forwarding_to_the_dead_letter_topic_is_idempotent() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish([7]).await;
    let delivered = weir.receive("TRUE").await;
    for _ in 0..3 {
        weir.broker.forward_to_dead_letter(&group("g"), &t, &delivered[0].handle).await.unwrap();
    }
    let dead = weir.broker.topic(&TopicName::dead_letter_of(&group("g"))).unwrap();
    assert_eq!((dead.queues.len(), dead.queues[0].end.0), (1, 1));
    assert!(weir.ack(&delivered).await[0].is_ok());
    weir.advance(3600);
    assert!(weir.receive("TRUE").await.is_empty());
}

#[tokio::test]
async fn a_dead_letter_that_fails_again_stays_where_it_is() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.broker
        .create_group(&group("u"), GroupSpec { max_attempts: 1, ..GroupSpec::default() })
        .await
        .unwrap();
    weir.publish([7]).await;
    let delivered = weir.receive("TRUE").await;
    weir.broker.forward_to_dead_letter(&group("g"), &t, &delivered[0].handle).await.unwrap();
    let dead = TopicName::dead_letter_of(&group("g"));
    let request = ReceiveRequest::new(group("u"), dead.clone());
    assert_eq!(weir.broker.receive(request.clone()).await.unwrap().len(), 1);
    weir.advance(60);
    assert!(weir.broker.receive(request).await.unwrap().is_empty());
    assert_eq!(weir.broker.group(&group("u")).unwrap().topics[0].queues[0].committed.0, 1);
    assert!(weir.broker.topic(&TopicName::dead_letter_of(&group("u"))).is_err());
}

#[tokio::test]
async fn renewed_leases_live_as_long_as_their_client() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.broker.create_group(&group("g"), GroupSpec::default()).await.unwrap();
    weir.publish([1]).await;
    let renewed = ReceiveRequest { lease: LeaseTime::Renewed, ..weir.request("TRUE") };
    let delivered = weir.broker.receive(renewed.clone()).await.unwrap();
    let other = ReceiveRequest { client: "other".to_owned(), ..weir.request("TRUE") };
    for _ in 0..20 {
        weir.advance(50);
        weir.broker.client_alive("c");
        assert!(weir.broker.receive(other.clone()).await.unwrap().is_empty());
    }
    weir.broker.client_gone("c");
    weir.advance(1);
    let again = weir.broker.receive(ReceiveRequest { lease: LeaseTime::Renewed, ..other }).await.unwrap();
    assert_eq!((numbers(&again), again[0].attempt), (vec![1], 2));
    assert!(is_expired(&weir.ack(&delivered).await[0]));
    // The other client goes silent: two minutes later it counts as dead, then the retry policy holds.
    for _ in 0..20 {
        weir.advance(10);
        tokio::task::yield_now().await;
    }
    assert_eq!(weir.broker.receive(renewed).await.unwrap()[0].attempt, 3);
}

#[tokio::test]
async fn no_renewed_lease_is_longer_than_three_hours() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1]).await;
    let renewed = ReceiveRequest { lease: LeaseTime::Renewed, ..weir.request("TRUE") };
    assert_eq!(weir.broker.receive(renewed.clone()).await.unwrap().len(), 1);
    let mut elapsed = 0;
    loop {
        weir.advance(30);
        elapsed += 30;
        let again = weir.broker.receive(renewed.clone()).await.unwrap();
        if !again.is_empty() {
            assert_eq!(again[0].attempt, 2);
            break;
        }
    }
    // Three hours, and the first delay of the retry policy, in steps of 30 s.
    assert_eq!(elapsed, 3 * 3600 + 30);
}

#[tokio::test]
async fn messages_that_did_not_reach_their_receiver_come_back() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1, 2]).await;
    let delivered = weir.receive("TRUE").await;
    let handles: Vec<String> =
        delivered.iter().map(|one| one.handle.clone()).chain(["x".to_owned()]).collect();
    weir.broker.give_back(&handles, Duration::from_secs(1)).await;
    assert!(weir.receive("TRUE").await.is_empty());
    weir.advance(1);
    let again = weir.receive("TRUE").await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![1, 2], 2));
}

#[tokio::test]
async fn handles_are_told_apart() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.broker.create_topic(&topic("other"), Default::default()).await.unwrap();
    weir.publish([1]).await;
    let handle = weir.receive("TRUE").await[0].handle.clone();
    weir.broker.create_group(&group("stranger"), GroupSpec::default()).await.unwrap();
    let ack = async |of, topic, handle: &str| {
        weir.broker.acknowledge(&group(of), &topic, &[handle.to_owned()]).await.remove(0)
    };
    let mut damaged = handle.clone();
    damaged.replace_range(10..11, if &damaged[10..11] == "A" { "B" } else { "A" });
    let fault = |result| match result {
        Err(EngineError::Handle(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(ack("g", t.clone(), &damaged).await), HandleFault::Forged);
    assert_eq!(fault(ack("g", t.clone(), "").await), HandleFault::Forged);
    assert_eq!(fault(ack("stranger", t.clone(), &handle).await), HandleFault::Foreign);
    assert_eq!(fault(ack("g", topic("other"), &handle).await), HandleFault::Foreign);
    assert!(matches!(ack("nobody", t.clone(), &handle).await, Err(EngineError::GroupNotFound { .. })));
    assert!(matches!(ack("g", topic("nowhere"), &handle).await, Err(EngineError::TopicNotFound { .. })));
    ack("g", t, &handle).await.unwrap();
}

#[tokio::test]
async fn at_most_4096_rows_of_a_queue_are_open() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..5000).await;
    let mut all = Vec::new();
    loop {
        let delivered = weir.receive("TRUE").await;
        if delivered.is_empty() {
            break;
        }
        all.extend(delivered);
    }
    assert_eq!(all.len(), 4096);
    weir.ack(&all[..10]).await;
    assert_eq!(numbers(&weir.receive("TRUE").await), (4096..4106).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_long_poll_is_answered_by_a_visible_row() {
    let weir = Fixture::new().await;
    weir.topic(4).await;
    let request = ReceiveRequest { max_messages: 1, wait: Duration::from_secs(20), ..weir.request("n = 5") };
    let polls: Vec<_> = (0..8)
        .map(|_| {
            let (broker, request) = (weir.broker.clone(), request.clone());
            tokio::spawn(async move { broker.receive(request).await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for n in 0..6 {
        weir.publish([n]).await;
    }
    weir.publish([5]).await;
    let answered = || polls.iter().filter(|poll| poll.is_finished()).count();
    while answered() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(answered(), 2, "two rows match, so two polls are answered");
    weir.advance(20);
    let mut received = Vec::new();
    for poll in polls {
        received.extend(numbers(&poll.await.unwrap()));
    }
    assert_eq!(received, [5, 5]);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_a_lease_ends() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish([1]).await;
    let first =
        weir.broker.receive(ReceiveRequest { lease: lease(10), ..weir.request("TRUE") }).await.unwrap();
    let poll = {
        let (broker, request) =
            (weir.broker.clone(), ReceiveRequest { wait: Duration::from_secs(20), ..weir.request("TRUE") });
        tokio::spawn(async move { broker.receive(request).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!poll.is_finished());
    weir.broker.change_invisible(&group("g"), &t, &first[0].handle, Duration::from_secs(5)).await.unwrap();
    weir.advance(5);
    let again = tokio::time::timeout(Duration::from_secs(10), poll).await.unwrap().unwrap();
    assert_eq!((numbers(&again), again[0].attempt), (vec![1], 2));
}

#[tokio::test]
async fn closing_answers_long_polls_and_refuses_new_work() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let closing = weir.broker.closing();
    let poll = {
        let (broker, request) =
            (weir.broker.clone(), ReceiveRequest { wait: Duration::from_secs(20), ..weir.request("TRUE") });
        tokio::spawn(async move { broker.receive(request).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    weir.broker.close().await.unwrap();
    closing.await;
    assert!(poll.await.unwrap().unwrap().is_empty());
    assert!(matches!(weir.broker.receive(weir.request("TRUE")).await, Err(EngineError::Closed)));
    assert!(matches!(weir.broker.publish(&topic("t"), Vec::new()).await, Err(EngineError::Closed)));
    weir.broker.close().await.unwrap();
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_nothing() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..32).await;
    for _ in 0..20 {
        let receive = weir.broker.receive(weir.request("TRUE"));
        let _ = tokio::time::timeout(Duration::from_micros(300), receive).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    weir.advance(61);
    let mut seen = Vec::new();
    loop {
        let delivered = weir.receive("TRUE").await;
        if delivered.is_empty() {
            break;
        }
        weir.ack(&delivered).await;
        seen.extend(numbers(&delivered));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_selective_filter_over_a_long_backlog_moves_on() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    for base in 0..6 {
        weir.publish((0..10_000).map(|n| base * 10_000 + n)).await;
    }
    let delivered = weir.receive("n = 59999").await;
    assert_eq!(numbers(&delivered), [59_999]);
    let queue = weir.broker.group(&group("g")).unwrap().topics[0].queues[0];
    assert_eq!((queue.committed.0, queue.leased), (59_999, 1));
}

#[tokio::test]
async fn threads_that_help_a_receive_take_no_more_than_was_asked_for() {
    let mut weir = Fixture::with(|options| options.read_threads = 4).await;
    weir.topic(8).await;
    for base in 0..160 {
        // A run of a queue each, with a match now and then.
        weir.publish((0..100).map(|n| base * 100 + n)).await;
    }
    let want = |n: &i64| n % 97 == 3;
    let mut seen = Vec::new();
    for max_messages in [1, 3, 32].into_iter().cycle() {
        let request = ReceiveRequest { max_messages, ..weir.request("MOD(n, 97) = 3") };
        let delivered = weir.broker.receive(request).await.unwrap();
        if delivered.is_empty() {
            break;
        }
        assert!(delivered.len() <= max_messages, "{} for {max_messages}", delivered.len());
        seen.extend(delivered.iter().map(|one| (one.message.queue, one.message.offset, number(one))));
        weir.ack(&delivered).await;
    }
    seen.sort_by_key(|(queue, ..)| *queue);
    assert!(seen.is_sorted_by_key(|(queue, offset, _)| (*queue, *offset)), "a queue out of order: {seen:?}");
    let mut numbers: Vec<i64> = seen.iter().map(|(.., n)| *n).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..16_000).filter(want).collect::<Vec<i64>>());
    assert!(weir.broker.helped() > 0, "nobody helped");
    // Nothing was left leased or passed by.
    weir.restart().await;
    weir.advance(61);
    assert_eq!(weir.receive("MOD(n, 97) = 3").await.len(), 0);
}

#[tokio::test]
async fn a_reset_begins_anew() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish(0..4).await;
    weir.advance(10);
    weir.publish(4..8).await;
    let first = weir.receive("TRUE").await;
    weir.ack(&first[..6]).await;
    let reset = async |to| weir.broker.reset_group(&group("g"), &t, to).await;
    let at = ResetTo::Offset { queue: weir_engine::QueueId(0), offset: weir_engine::QueueOffset(2) };
    reset(at).await.unwrap();
    assert_eq!(numbers(&weir.receive("TRUE").await), [2, 3, 4, 5, 6, 7]);
    assert!(is_expired(&weir.ack(&first[7..]).await[0]));
    reset(ResetTo::Timestamp(crate::fixture::START_MS + 5_000)).await.unwrap();
    assert_eq!(numbers(&weir.receive("TRUE").await), [4, 5, 6, 7]);
    reset(ResetTo::Latest).await.unwrap();
    assert!(weir.receive("TRUE").await.is_empty());
    reset(ResetTo::Earliest).await.unwrap();
    assert_eq!(weir.receive("TRUE").await.len(), 8);
    let outside = ResetTo::Offset { queue: weir_engine::QueueId(0), offset: weir_engine::QueueOffset(9) };
    assert!(matches!(reset(outside).await, Err(EngineError::OffsetOutOfRange { .. })));
    let nowhere = ResetTo::Offset { queue: weir_engine::QueueId(1), offset: weir_engine::QueueOffset(0) };
    assert!(matches!(reset(nowhere).await, Err(EngineError::QueueNotFound { .. })));
}

#[tokio::test]
async fn a_group_may_be_put_somewhere_before_it_reads() {
    let mut weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish(0..8).await;
    weir.broker.create_group(&group("g"), GroupSpec::default()).await.unwrap();
    let at = ResetTo::Offset { queue: weir_engine::QueueId(0), offset: weir_engine::QueueOffset(6) };
    weir.broker.reset_group(&group("g"), &t, at).await.unwrap();
    weir.restart().await;
    assert_eq!(numbers(&weir.receive("TRUE").await), [6, 7]);
}

#[tokio::test]
async fn requests_are_checked() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let refused = async |request| weir.broker.receive(request).await.unwrap_err();
    let error = refused(ReceiveRequest { lease: lease(9), ..weir.request("TRUE") }).await;
    assert!(matches!(error, EngineError::InvisibleTime { .. }), "{error}");
    let error = refused(ReceiveRequest { max_messages: 0, ..weir.request("TRUE") }).await;
    assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    let error =
        refused(ReceiveRequest { queue: Some(weir_engine::QueueId(1)), ..weir.request("TRUE") }).await;
    assert!(matches!(error, EngineError::QueueNotFound { .. }), "{error}");
    let error = refused(ReceiveRequest { client: "c".repeat(256), ..weir.request("TRUE") }).await;
    assert!(matches!(error, EngineError::Limit { .. }), "{error}");
    let error = refused(ReceiveRequest { topic: topic("nowhere"), ..weir.request("TRUE") }).await;
    assert!(matches!(error, EngineError::TopicNotFound { .. }), "{error}");
    let change = GroupChange { lease_min: Some(Duration::from_millis(10)), ..GroupChange::default() };
    weir.broker.alter_group(&group("g"), change).await.unwrap();
    weir.broker.receive(ReceiveRequest { lease: lease(1), ..weir.request("TRUE") }).await.unwrap();
}
