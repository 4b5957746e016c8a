//! What waits for a group is counted exactly: whatever its selectors, whoever holds what, and however often it is asked.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_engine::{
    EngineError, GroupWaiting, QueueWaiting, ReceiveRequest, ResetTo, SqlRequest, TopicChange,
};

use crate::fixture::{Fixture, group, settle, topic};

const LONG: Duration = Duration::from_secs(60);

async fn count(weir: &Fixture) -> GroupWaiting {
    weir.broker.count_waiting(&group("g"), LONG, |_| {}).await.unwrap()
}

/// Undelivered and open messages of all queues.
async fn sums(weir: &Fixture) -> (u64, u64) {
    let waiting = count(weir).await;
    assert!(waiting.complete);
    let queues = waiting.topics.iter().flat_map(|topic| &topic.queues);
    queues.fold((0, 0), |(undelivered, open), queue| (undelivered + queue.undelivered, open + queue.open))
}

#[tokio::test]
async fn what_is_delivered_moves_from_one_count_to_the_other_and_is_gone_when_it_is_done() {
    let weir = Fixture::new().await;
    weir.topic(2).await;
    for call in 0..10 {
        weir.publish(call * 100..call * 100 + 100).await;
    }
    assert!(matches!(
        weir.broker.count_waiting(&group("g"), LONG, |_| {}).await,
        Err(EngineError::GroupNotFound { .. })
    ));
    let delivered = weir.receive("n % 10 = 0").await;
    assert_eq!(delivered.len(), 32);
    assert_eq!(sums(&weir).await, (68, 32));
    assert!(weir.ack(&delivered[..12]).await.iter().all(Result::is_ok));
    assert_eq!(sums(&weir).await, (68, 20));
    weir.publish([1000, 1001, 1010]).await;
    assert_eq!(sums(&weir).await, (70, 20));
    weir.advance(61);
    assert_eq!(sums(&weir).await, (70, 20), "what comes again is still the group's");
    weir.broker.reset_group(&group("g"), &topic("t"), ResetTo::Earliest).await.unwrap();
    assert_eq!(sums(&weir).await, (102, 0));
    weir.broker.reset_group(&group("g"), &topic("t"), ResetTo::Latest).await.unwrap();
    assert_eq!(sums(&weir).await, (0, 0));
}

#[tokio::test]
async fn blocks_in_files_are_counted_once() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    for call in 0..40 {
        weir.publish(call * 1000..call * 1000 + 1000).await;
    }
    weir.receive("n < 0 OR n % 7 = 3").await;
    weir.broker.reset_group(&group("g"), &topic("t"), ResetTo::Earliest).await.unwrap();
    weir.restart().await;
    let expected = (0..40_000).filter(|n| n % 7 == 3).count() as u64;
    let mut judged = Vec::new();
    for _ in 0..3 {
        let before = weir.broker.counted();
        assert_eq!(sums(&weir).await.0, expected);
        judged.push(weir.broker.counted() - before);
    }
    assert!(judged[0] > 1, "{judged:?}");
    assert_eq!(judged[1..], [0, 0], "{judged:?}");
    // New rows are judged, and only they.
    weir.publish(40_000..40_007).await;
    let before = weir.broker.counted();
    assert_eq!(sums(&weir).await.0, expected + 1);
    assert_eq!(weir.broker.counted() - before, 1);
    // A moment that decides is not kept.
    let late = "sys.born_time IS NULL AND NOW() > 0 AND n % 7 = 3";
    weir.broker.create_group(&group("now"), Default::default()).await.unwrap();
    let request = ReceiveRequest { group: group("now"), max_messages: 1, ..weir.request(late) };
    weir.broker.receive(request).await.unwrap();
    for _ in 0..2 {
        let before = weir.broker.counted();
        let waiting = weir.broker.count_waiting(&group("now"), LONG, |_| {}).await.unwrap();
        assert_eq!(waiting.topics[0].queues[0].undelivered, expected);
        assert!(weir.broker.counted() - before > 1);
    }
}

#[tokio::test]
async fn a_count_that_has_no_time_says_so_and_one_that_has_tells_how_far_it_is() {
    let mut weir = Fixture::new().await;
    weir.topic(4).await;
    for call in 0..40 {
        weir.publish(call * 500..call * 500 + 500).await;
    }
    weir.receive("n % 2 = 0").await;
    weir.restart().await;
    let none = weir.broker.count_waiting(&group("g"), Duration::ZERO, |_| {}).await.unwrap();
    assert!(!none.complete);
    let queues: Vec<QueueWaiting> = none.topics[0].queues.clone();
    assert_eq!(queues.len(), 4);
    assert_eq!(queues.iter().map(|queue| queue.open).sum::<u64>(), 32, "these need no time");
    assert!(queues.iter().all(|queue| queue.undelivered == 0 && !queue.complete));
    let mut told = Vec::new();
    let all = weir.broker.count_waiting(&group("g"), LONG, |progress| told.push(progress)).await.unwrap();
    assert!(all.complete);
    assert_eq!(all.topics[0].queues.iter().map(|queue| queue.undelivered).sum::<u64>(), 10_000 - 32);
    assert!(told.is_sorted_by_key(|progress| progress.done), "{told:?}");
    assert!(told.iter().all(|progress| progress.done <= progress.total));
    // What has ended does not wait.
    weir.broker
        .alter_topic(&topic("t"), TopicChange { retention: Some(LONG), ..TopicChange::default() })
        .await
        .unwrap();
    weir.advance(3600);
    settle().await;
    let left: u64 =
        weir.broker.topic(&topic("t")).unwrap().queues.iter().map(|queue| queue.end.0 - queue.first.0).sum();
    assert!(sums(&weir).await.0 <= left);
}

/// The same as a selector, by hand.
type ByHand = fn(i64) -> bool;

/// Selectors of a group.
const SELECTORS: [(&str, ByHand); 4] = [
    ("n % 3 = 0", |n| n % 3 == 0),
    ("n % 5 = 0 OR n % 3 = 1", |n| n % 5 == 0 || n % 3 == 1),
    ("n > 200", |n| n > 200),
    ("TRUE", |_| true),
];

/// Random members with random selectors, against a count by hand from what the group says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn random_groups_are_counted_exactly() {
    let first: u64 = rand::random();
    for seed in (0..12).map(|n| first.wrapping_add(n)) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut weir = Fixture::new().await;
        weir.topic(2).await;
        let (mut sent, mut held) = (0, Vec::new());
        for step in 0..60 {
            match random.random_range(0..10) {
                0..4 => {
                    let count = random.random_range(1..200);
                    weir.publish(sent..sent + count).await;
                    sent += count;
                }
                4..8 => {
                    let member = random.random_range(0..3);
                    let (text, _) = SELECTORS[random.random_range(0..SELECTORS.len())];
                    let request = ReceiveRequest {
                        client: format!("c{member}"),
                        max_messages: random.random_range(1..33),
                        ..weir.request(text)
                    };
                    held.extend(weir.broker.receive(request).await.unwrap());
                }
                8 => {
                    let count = random.random_range(0..=held.len());
                    weir.ack(&held.drain(..count).collect::<Vec<_>>()).await;
                }
                _ if step % 3 == 0 => {
                    weir.restart().await;
                    // Until then selectors are live though nobody has named them again.
                    weir.advance(121);
                }
                _ => weir.advance(random.random_range(1..90)),
            }
            if weir.broker.group(&group("g")).is_ok() {
                check(&weir, seed).await;
            }
        }
    }
}

async fn check(weir: &Fixture, seed: u64) {
    let numbers = numbers_by_queue(weir).await;
    let described = weir.broker.group(&group("g")).unwrap();
    let counted = count(weir).await;
    assert!(counted.complete);
    let topic = &described.topics[0];
    // All are live while some client names one; those that no live one names do not count.
    let is_live = |members: &[String]| !members.is_empty();
    let any_live = topic.selectors.iter().any(|selector| is_live(&selector.members));
    for queue in &topic.queues {
        let rows = numbers.get(&queue.queue.0).map(Vec::as_slice).unwrap_or_default();
        let mut spans = Vec::new();
        for selector in &topic.selectors {
            let by_hand = SELECTORS.iter().find(|(text, _)| *text == selector.text).unwrap().1;
            let Some(span) = selector.queues.iter().find(|span| span.queue == queue.queue) else { continue };
            let counts = !any_live || is_live(&selector.members);
            spans.push((span.start.0, span.cursor.0, by_hand, counts));
        }
        let waits = |(offset, n): &(u64, i64)| {
            let wanted =
                spans.iter().any(|(_, cursor, by_hand, counts)| *counts && cursor <= offset && by_hand(*n));
            let taken = spans
                .iter()
                .any(|(start, cursor, by_hand, _)| (start..cursor).contains(&offset) && by_hand(*n));
            wanted && !taken
        };
        let expected = QueueWaiting {
            queue: queue.queue,
            undelivered: rows.iter().filter(|row| waits(row)).count() as u64,
            open: queue.leased + queue.waiting,
            complete: true,
        };
        let found = counted.topics[0].queues.iter().find(|found| found.queue == queue.queue).unwrap();
        assert_eq!(*found, expected, "seed {seed}: {topic:?}");
    }
}

/// What SQL says of which number lies where.
async fn numbers_by_queue(weir: &Fixture) -> BTreeMap<u32, Vec<(u64, i64)>> {
    use arrow_array::{
        cast::AsArray,
        types::{Int32Type, Int64Type},
    };
    use futures::TryStreamExt;
    let sql = "SELECT queue_id, queue_offset, n FROM t".to_owned();
    let mut numbers = BTreeMap::<u32, Vec<(u64, i64)>>::new();
    let Ok(plan) = weir.broker.plan_sql(SqlRequest { sql, ..SqlRequest::default() }).await else {
        return numbers;
    };
    let (_, batches) = weir.broker.run_sql(plan.ticket).await.unwrap();
    let batches: Vec<arrow_array::RecordBatch> = batches.try_collect().await.unwrap();
    for batch in batches {
        let queues = batch.column(0).as_primitive::<Int32Type>();
        let (offsets, values) =
            (batch.column(1).as_primitive::<Int64Type>(), batch.column(2).as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let queue = u32::try_from(queues.value(row)).unwrap();
            let offset = u64::try_from(offsets.value(row)).unwrap();
            numbers.entry(queue).or_default().push((offset, values.value(row)));
        }
    }
    numbers
}
