//! New rows are judged once for all groups that have caught up, and nobody can tell but by the cost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::Value;
use weir_engine::{
    Delivered, GroupDescription, GroupSpec, Message, QueueId, QueueOffset, ReceiveRequest, ResetTo,
    TopicChange, TopicSpec,
};

use crate::fixture::{Fixture, group, lease, numbers, topic};

fn request(weir: &Fixture, name: &str, selector: &str) -> ReceiveRequest {
    ReceiveRequest { client: format!("{name} {selector}"), group: group(name), ..weir.request(selector) }
}

async fn receive(weir: &Fixture, name: &str, selector: &str) -> Vec<i64> {
    numbers(&weir.broker.receive(request(weir, name, selector)).await.unwrap())
}

/// The point of the index: a thousand groups cost one evaluation of each run, and not a thousand.
#[tokio::test]
async fn a_run_is_judged_once_for_a_thousand_groups() {
    const GROUPS: i64 = 1000;
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([-1]).await;
    for n in 0..GROUPS {
        assert!(receive(&weir, &format!("g{n}"), &format!("n % {GROUPS} = {n} AND n >= 0")).await.is_empty());
    }
    let (by_index, by_receives) = weir.broker.judged();
    assert_eq!(by_receives, GROUPS as u64, "each has judged the first run by itself");
    for round in 0..3 {
        weir.publish([7, 8, 9].map(|n| n + round * GROUPS)).await;
        for n in 0..GROUPS {
            let found = receive(&weir, &format!("g{n}"), &format!("n % {GROUPS} = {n} AND n >= 0")).await;
            let expected = if (7..10).contains(&n) { vec![n + round * GROUPS] } else { vec![] };
            assert_eq!(found, expected, "group {n}");
        }
    }
    assert_eq!(weir.broker.judged(), (by_index + 3, by_receives));
}

/// Nobody is woken in vain, and a cursor passes what does not match while its group waits.
#[tokio::test]
async fn a_poll_is_woken_by_a_row_that_is_for_it() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([0]).await;
    for (name, selector) in [("g", "n = 5"), ("h", "n = 6")] {
        assert!(receive(&weir, name, selector).await.is_empty());
    }
    let wait = |name: &str, selector: &str| {
        let request = ReceiveRequest { wait: Duration::from_secs(20), ..request(&weir, name, selector) };
        let broker = weir.broker.clone();
        tokio::spawn(async move { broker.receive(request).await.unwrap() })
    };
    let (first, other) = (wait("g", "n = 5"), wait("h", "n = 6"));
    settle().await;
    let (_, by_receives) = weir.broker.judged();
    weir.publish([1, 2, 5, 3]).await;
    assert_eq!(numbers(&first.await.unwrap()), [5]);
    weir.publish([4]).await;
    until(|| cursor(&weir, "h") == 6).await;
    assert!(!other.is_finished());
    weir.publish([6]).await;
    assert_eq!(numbers(&other.await.unwrap()), [6]);
    assert_eq!(weir.broker.judged().1, by_receives);
}

/// A slow consumer costs a bounded list, and misses nothing.
#[tokio::test]
async fn a_list_that_is_full_is_left_and_taken_up_again() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([0]).await;
    assert!(receive(&weir, "g", "n > 0").await.is_empty());
    for base in 0..30 {
        weir.publish(base * 100 + 1..=base * 100 + 100).await;
    }
    let before = weir.broker.judged();
    let mut found = Vec::new();
    while found.len() < 3000 {
        found.extend(receive(&weir, "g", "n > 0").await);
    }
    assert_eq!(found, (1..=3000).collect::<Vec<_>>());
    assert!(weir.broker.judged().1 > before.1, "the last two thousand are not in the list");
    assert!(receive(&weir, "g", "n > 0").await.is_empty());
    let before = weir.broker.judged();
    weir.publish([3001]).await;
    assert_eq!(receive(&weir, "g", "n > 0").await, [3001]);
    assert_eq!(weir.broker.judged().1, before.1, "it has caught up again");
}

/// What waits in a list may end before it is received.
#[tokio::test]
async fn retention_ends_rows_in_a_list() {
    let weir = Fixture::new().await;
    let spec = TopicSpec { queues: 1, retention: Some(Duration::from_secs(1000)), ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    weir.publish([0]).await;
    assert!(receive(&weir, "g", "n > 0").await.is_empty());
    weir.publish(1..20).await;
    weir.advance(600);
    weir.publish(20..30).await;
    weir.advance(600);
    let first = || weir.broker.topic(&topic("t")).unwrap().queues[0].first;
    while first() < QueueOffset(20) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        weir.advance(1);
    }
    weir.publish(30..32).await;
    assert_eq!(receive(&weir, "g", "n > 0").await, (20..32).collect::<Vec<_>>());
}

/// What was found for a selector is not for the one that has its slot next.
#[tokio::test]
async fn a_slot_that_is_freed_takes_its_list_along() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([0]).await;
    assert!(receive(&weir, "g", "n = 7 OR n = 11").await.is_empty());
    weir.publish([7]).await;
    assert!(receive(&weir, "g", "n < 0").await.is_empty());
    weir.broker.client_gone("g n = 7 OR n = 11");
    // The other passes the cursor of the first, whose slot is free then.
    weir.publish([5]).await;
    assert!(receive(&weir, "g", "n < 0").await.is_empty());
    let texts = || {
        let described = weir.broker.group(&group("g")).unwrap();
        described.topics[0].selectors.iter().map(|selector| selector.text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(texts(), ["n < 0"]);
    weir.publish([11]).await;
    assert_eq!(receive(&weir, "g", "n > 9").await, [11]);
    assert_eq!(texts(), ["n > 9", "n < 0"], "it has the slot of the first");
    weir.publish([7, 12]).await;
    assert_eq!(receive(&weir, "g", "n > 9").await, [12]);
}

/// Groups that are down cost nothing.
#[tokio::test]
async fn a_selector_without_clients_leaves_the_index() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([0]).await;
    assert!(receive(&weir, "g", "n = 7").await.is_empty());
    weir.publish([1]).await;
    until(|| weir.broker.judged().0 == 1).await;
    weir.broker.client_gone("g n = 7");
    // Housekeeping comes by.
    for _ in 0..20 {
        weir.advance(1);
        settle().await;
    }
    weir.publish([7]).await;
    settle().await;
    assert_eq!(weir.broker.judged().0, 1);
    assert_eq!(receive(&weir, "g", "n = 7").await, [7]);
}

fn cursor(weir: &Fixture, name: &str) -> u64 {
    weir.broker.group(&group(name)).unwrap().topics[0].selectors[0].queues[0].cursor.0
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it has not happened after ten seconds");
}

/// Lets the tasks of the broker do what is due.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// The clock stands still, so that a poll which is not woken waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_while_rows_come_and_selectors_join() {
    const ROWS: i64 = 600;
    let weir = Arc::new(Fixture::new().await);
    weir.topic(2).await;
    let mut readers = Vec::new();
    for reader in 0..6_i64 {
        let weir = Arc::clone(&weir);
        readers.push(tokio::spawn(async move {
            let selector = format!("n % 6 = {reader} OR n % 7 = {reader}");
            let expected = (0..ROWS).filter(|n| n % 6 == reader || n % 7 == reader).count();
            let mut found = Vec::new();
            while found.len() < expected {
                let request = ReceiveRequest {
                    wait: Duration::from_secs(20),
                    max_messages: 5,
                    ..request(&weir, &format!("g{reader}"), &selector)
                };
                found.extend(numbers(&weir.broker.receive(request).await.unwrap()));
            }
            found.sort_unstable();
            let wanted = (0..ROWS).filter(|n| n % 6 == reader || n % 7 == reader);
            assert_eq!(found, wanted.collect::<Vec<_>>(), "reader {reader}");
        }));
    }
    for n in 0..ROWS {
        weir.publish([n]).await;
        if n % 50 == 0 {
            settle().await;
        }
    }
    for reader in readers {
        let done = tokio::time::timeout(Duration::from_secs(60), reader).await;
        done.expect("a poll waits for a row that is there").unwrap();
    }
}

const SELECTORS: [&str; 5] =
    ["a < 5", "a >= 3 AND b = 'x'", "a = 7 OR b IS NULL", "TRUE", "a <> 2 AND NOT a = 6"];
const GROUPS: [&str; 3] = ["g", "h", "i"];

/// A broker with the index and one without, which are asked the same.
struct Pair {
    sides: [Fixture; 2],
    random: StdRng,
    /// The last handles of rows, of both sides, by group.
    held: BTreeMap<&'static str, Vec<[String; 2]>>,
    queues: u32,
}

impl Pair {
    async fn new(seed: u64) -> Self {
        let with = Fixture::new().await;
        let without = Fixture::with(|options| options.live_index = false).await;
        for side in [&with, &without] {
            side.topic(1).await;
            for name in GROUPS {
                let spec = GroupSpec { max_attempts: 10_000, ..GroupSpec::default() };
                side.broker.create_group(&group(name), spec).await.unwrap();
            }
        }
        Self { sides: [with, without], random: StdRng::seed_from_u64(seed), held: BTreeMap::new(), queues: 1 }
    }

    async fn publish(&mut self) {
        // Now and then more than a list holds.
        let count = if self.random.random_bool(0.05) { 1500 } else { self.random.random_range(1..20) };
        let messages: Vec<Message> = (0..count)
            .map(|_| {
                let mut properties =
                    vec![("a".to_owned(), Value::Text(self.random.random_range(0..10).to_string()))];
                if self.random.random_bool(0.8) {
                    let b = ["x", "y"].choose(&mut self.random).unwrap();
                    properties.push(("b".to_owned(), Value::Text((*b).to_owned())));
                }
                Message { properties, ..Message::default() }
            })
            .collect();
        for side in &self.sides {
            side.broker.publish(&topic("t"), messages.clone()).await.unwrap();
        }
    }

    async fn receive(&mut self, name: &'static str) {
        let selector = *SELECTORS.choose(&mut self.random).unwrap();
        // With which queue a receive begins depends on how often others have looked for something.
        let queue = (self.queues > 1).then(|| QueueId(self.random.random_range(0..self.queues)));
        let max_messages = self.random.random_range(1..32);
        let length = lease(self.random.random_range(10..40));
        let mut answers: Vec<Vec<Delivered>> = Vec::new();
        for side in &self.sides {
            let request =
                ReceiveRequest { queue, max_messages, lease: length, ..request(side, name, selector) };
            answers.push(side.broker.receive(request).await.unwrap());
        }
        let shown = |answer: &[Delivered]| -> Vec<_> {
            let one = |one: &Delivered| (one.message.queue, one.message.offset, one.attempt);
            answer.iter().map(one).collect()
        };
        assert_eq!(shown(&answers[0]), shown(&answers[1]), "{name} receives {selector} from {queue:?}");
        let handles = answers[0].iter().zip(&answers[1]).map(|(a, b)| [a.handle.clone(), b.handle.clone()]);
        self.held.entry(name).or_default().extend(handles);
    }

    async fn acknowledge(&mut self, name: &'static str) {
        let held = self.held.entry(name).or_default();
        held.retain(|_| self.random.random_bool(0.3));
        for handles in held.drain(..) {
            let mut results = Vec::new();
            for (side, handle) in self.sides.iter().zip(handles) {
                let result = side.broker.acknowledge(&group(name), &topic("t"), &[handle]).await.remove(0);
                results.push(result.map_err(|error| error.to_string()));
            }
            assert_eq!(results[0], results[1]);
        }
    }

    async fn reset(&mut self, name: &str) {
        let queue = QueueId(self.random.random_range(0..self.queues));
        let end = self.sides[0].broker.topic(&topic("t")).unwrap().queues[queue.0 as usize].end.0;
        let to = match self.random.random_range(0..4) {
            0 => ResetTo::Earliest,
            1 => ResetTo::Latest,
            _ => ResetTo::Offset { queue, offset: QueueOffset(self.random.random_range(0..=end)) },
        };
        for side in &self.sides {
            side.broker.reset_group(&group(name), &topic("t"), to).await.unwrap();
        }
    }

    async fn step(&mut self) {
        let name = *GROUPS.choose(&mut self.random).unwrap();
        match self.random.random_range(0..100) {
            0..25 => self.publish().await,
            25..70 => self.receive(name).await,
            70..80 => self.acknowledge(name).await,
            80..84 => self.reset(name).await,
            84..92 => {
                let seconds =
                    if self.random.random_bool(0.2) { 150 } else { self.random.random_range(1..30) };
                for side in &self.sides {
                    side.advance(seconds);
                }
                settle().await;
            }
            92..94 if self.queues < 4 => {
                self.queues += 1;
                let change = TopicChange { queues: Some(self.queues), ..TopicChange::default() };
                for side in &self.sides {
                    side.broker.alter_topic(&topic("t"), change.clone()).await.unwrap();
                }
            }
            94..96 => {
                let selector = SELECTORS.choose(&mut self.random).unwrap();
                for side in &self.sides {
                    side.broker.client_gone(&format!("{name} {selector}"));
                }
                settle().await;
            }
            96..98 => {
                for side in &mut self.sides {
                    side.restart().await;
                }
            }
            98 => {
                for side in &self.sides {
                    side.broker.delete_group(&group(name)).await.unwrap();
                    side.broker.create_group(&group(name), GroupSpec::default()).await.unwrap();
                }
                self.held.remove(name);
            }
            _ => {}
        }
        let described = |side: &Fixture| -> GroupDescription {
            let mut described = side.broker.group(&group(name)).unwrap();
            described.created_ms = 0;
            described
        };
        assert_eq!(described(&self.sides[0]), described(&self.sides[1]));
    }
}

/// Cursors, open rows and deliveries mean with the index what they mean without it.
#[tokio::test]
async fn the_index_changes_nothing_but_the_cost() {
    let first: u64 =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let mut judged = (0, 0);
    for seed in (0..6).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        let mut pair = Pair::new(seed).await;
        for _ in 0..150 {
            pair.step().await;
        }
        let (by_index, by_receives) = pair.sides[0].broker.judged();
        judged = (judged.0 + by_index, judged.1 + by_receives);
    }
    assert!(judged.0 > 0 && judged.1 > 0, "{judged:?}");
}
