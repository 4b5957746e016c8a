//! New rows are judged once for all groups that have caught up, and nobody can tell but by the cost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::Value;
use weir_engine::{
    Broker, BrokerOptions, Delivered, EngineError, GroupDescription, GroupSpec, Message, QueueId,
    QueueOffset, ReceiveRequest, ResetTo, TopicChange, TopicSpec,
};
use weir_storage::SimEnv;

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
    let (by_index, by_receives) = weir.broker.judged();
    weir.publish([1, 2, 5, 3]).await;
    assert_eq!(numbers(&first.await.unwrap()), [5]);
    until(|| weir.broker.judged().0 == by_index + 1).await;
    let looks = weir.broker.looks();
    for n in 0..50 {
        weir.publish([-n]).await;
        until(|| weir.broker.judged().0 == by_index + 2 + n as u64).await;
    }
    until(|| cursor(&weir, "h") == 55).await;
    assert!(!other.is_finished());
    assert_eq!(weir.broker.looks(), looks, "somebody was woken in vain");
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

/// Runs in memory are merged into longer ones, of which the first rows have been judged.
#[tokio::test]
async fn a_row_in_a_run_that_was_merged_is_found_once() {
    let weir = Fixture::with(on_sim).await;
    weir.topic(1).await;
    weir.publish([0]).await;
    assert!(receive(&weir, "g", "n > 0").await.is_empty());
    let (mut by_index, by_receives) = weir.broker.judged();
    for n in 1..=1000 {
        weir.publish([n]).await;
        by_index += 1;
        until(|| weir.broker.judged().0 == by_index).await;
    }
    let mut found = Vec::new();
    while found.len() < 1000 {
        found.extend(receive(&weir, "g", "n > 0").await);
    }
    assert_eq!(found, (1..=1000).collect::<Vec<_>>());
    assert_eq!(weir.broker.judged().1, by_receives, "the list held them all");
}

/// What an index may not pass, since a receive would not have passed it: rows that come while a group holds as
/// many as it may.
#[tokio::test]
async fn a_poll_without_room_passes_nothing() {
    for live_index in [false, true] {
        let weir = with_index(live_index).await;
        weir.topic(1).await;
        weir.publish(0..4096).await;
        let mut all = Vec::new();
        while all.len() < 4096 {
            all.extend(weir.receive("n >= 0").await);
        }
        let poll = poll(&weir, "n >= 0");
        settle().await;
        let (by_index, _) = weir.broker.judged();
        weir.publish([-1]).await;
        if live_index {
            until(|| weir.broker.judged().0 > by_index).await;
        }
        let other = ReceiveRequest { client: "d".to_owned(), ..weir.request("n < 0") };
        assert!(weir.broker.receive(other.clone()).await.unwrap().is_empty(), "there is no room");
        weir.ack(&all[..1]).await;
        // The poll may look at the queue just then.
        let other = ReceiveRequest { wait: Duration::from_secs(20), ..other };
        let found = tokio::time::timeout(Duration::from_secs(10), weir.broker.receive(other)).await;
        assert_eq!(numbers(&found.expect("it was passed").unwrap()), [-1], "{live_index}");
        poll.abort();
    }
}

/// Rows for a poll lie there, and there is room for them once others have ended.
#[tokio::test]
async fn room_that_retention_makes_is_used_at_once() {
    for live_index in [false, true] {
        let weir = with_index(live_index).await;
        let retention = Some(Duration::from_secs(1000));
        let spec = TopicSpec { queues: 1, retention, ..TopicSpec::default() };
        weir.broker.create_topic(&topic("t"), spec).await.unwrap();
        weir.publish(0..4096).await;
        weir.advance(600);
        weir.publish(4096..4100).await;
        let mut received = 0;
        while received < 4096 {
            let long = ReceiveRequest { lease: lease(10_000), ..weir.request("n >= 0") };
            received += weir.broker.receive(long).await.unwrap().len();
        }
        // Retention comes by every minute, so here and 8 seconds after the poll has begun; and housekeeping
        // every five seconds.
        weir.advance(390);
        settle().await;
        // It plans its next visit when it is done, so it must be.
        tokio::time::sleep(Duration::from_millis(300)).await;
        weir.advance(52);
        let poll = poll(&weir, "n >= 0");
        settle().await;
        let step = async |seconds: u64| {
            for _ in 0..seconds {
                weir.advance(1);
                settle().await;
            }
        };
        step(9).await;
        until(|| weir.broker.topic(&topic("t")).unwrap().queues[0].first >= QueueOffset(4096)).await;
        step(6).await;
        until(|| poll.is_finished()).await;
        assert_eq!(numbers(&poll.await.unwrap()), [4096, 4097, 4098, 4099], "{live_index}");
    }
}

/// A list says what matches from somewhere on, wherever the cursor is put.
#[tokio::test]
async fn a_reset_into_a_list_and_before_it_misses_nothing() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..10).await;
    while !receive(&weir, "g", "n > 0").await.is_empty() {}
    weir.publish(10..50).await;
    let reset = async |offset: u64| {
        let to = ResetTo::Offset { queue: QueueId(0), offset: QueueOffset(offset) };
        weir.broker.reset_group(&group("g"), &topic("t"), to).await.unwrap();
    };
    reset(40).await;
    assert_eq!(receive(&weir, "g", "n > 0").await, (40..50).collect::<Vec<_>>());
    reset(5).await;
    assert_eq!(receive(&weir, "g", "n > 0").await, (5..37).collect::<Vec<_>>());
    assert_eq!(receive(&weir, "g", "n > 0").await, (37..50).collect::<Vec<_>>());
    let request = ReceiveRequest { wait: Duration::from_secs(20), ..request(&weir, "g", "n > 0") };
    let broker = weir.broker.clone();
    let poll = tokio::spawn(async move { broker.receive(request).await.unwrap() });
    settle().await;
    reset(48).await;
    assert_eq!(numbers(&poll.await.unwrap()), [48, 49]);
}

/// What a poll passes by the index is written down, so that a kill does not undo it.
#[tokio::test]
async fn what_a_poll_has_passed_survives_a_kill() {
    let env = SimEnv::new(3);
    let mut weir = Fixture::on(&env, |_| {}).await;
    weir.topic(1).await;
    weir.publish([0]).await;
    assert!(weir.receive("n = 5").await.is_empty());
    let poll = poll(&weir, "n = 5");
    settle().await;
    let (by_index, by_receives) = weir.broker.judged();
    weir.publish(10..20).await;
    until(|| weir.broker.judged().0 > by_index).await;
    // Housekeeping comes by. Nobody asks for the group, which would pass the rows as well.
    for _ in 0..15 {
        weir.advance(1);
        settle().await;
    }
    assert_eq!(weir.broker.judged().1, by_receives);
    poll.abort();
    env.kill();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    assert_eq!(cursor(&weir, "g"), 11);
}

#[tokio::test]
async fn a_poll_ends_with_its_group_and_with_its_topic() {
    let weir = Fixture::new().await;
    for deletes_topic in [false, true] {
        weir.topic(1).await;
        weir.publish([0]).await;
        assert!(weir.receive("n = 5").await.is_empty());
        let poll = {
            let request = ReceiveRequest { wait: Duration::from_secs(20), ..weir.request("n = 5") };
            let broker = weir.broker.clone();
            tokio::spawn(async move { broker.receive(request).await })
        };
        settle().await;
        if deletes_topic {
            weir.broker.delete_topic(&topic("t")).await.unwrap();
        } else {
            weir.broker.delete_group(&group("g")).await.unwrap();
        }
        let error = poll.await.unwrap().unwrap_err();
        if deletes_topic {
            assert!(matches!(error, EngineError::TopicNotFound { .. }), "{error}");
        } else {
            assert!(matches!(error, EngineError::GroupNotFound { .. }), "{error}");
            weir.publish([5]).await;
            assert_eq!(weir.receive("n = 5").await.len(), 1, "a group of the same name begins anew");
            weir.broker.delete_topic(&topic("t")).await.unwrap();
        }
    }
}

/// Receives that are given up at any moment, selectors that come and go, many consumers: each row is acknowledged
/// in the end, and no poll waits for a row that is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_receives_are_given_up() {
    const ROWS: i64 = 1200;
    let weir = Arc::new(Fixture::with(on_sim).await);
    weir.topic(2).await;
    weir.broker.create_group(&group("g"), undying()).await.unwrap();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let acknowledged = Arc::new(parking_lot::Mutex::new(BTreeMap::<i64, usize>::new()));
    // How often each consumer has had a turn.
    let turns: Arc<[AtomicU64; 6]> = Arc::default();
    let mut consumers = Vec::new();
    // Two selectors of one group, which together want all rows; each consumer of the second kind goes back and
    // forth between them.
    let wants = ["n % 3 <> 0", "n % 3 = 0"];
    // Both are in use before there are rows: what one has judged is not for another that comes later.
    for selector in wants {
        assert!(weir.receive(selector).await.is_empty());
    }
    for number in 0..6_usize {
        let (weir, done, acknowledged) = (Arc::clone(&weir), Arc::clone(&done), Arc::clone(&acknowledged));
        let turns = Arc::clone(&turns);
        consumers.push(tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
            let mut turn = number;
            while !done.load(Ordering::Acquire) {
                turns[number].fetch_add(1, Ordering::Relaxed);
                let selector = wants[turn % 2];
                let request = ReceiveRequest {
                    wait: Duration::from_secs(20),
                    max_messages: 5,
                    client: format!("c{number} {selector}"),
                    ..weir.request(selector)
                };
                let patience = match number {
                    // These never give up, but for the end of the test.
                    0 | 1 => Duration::from_millis(200),
                    _ => Duration::from_micros(random.random_range(50..3000)),
                };
                if let Ok(received) = tokio::time::timeout(patience, weir.broker.receive(request)).await {
                    let received = received.unwrap();
                    let results = weir.ack(&received).await;
                    for (n, result) in numbers(&received).into_iter().zip(results) {
                        if result.is_ok() {
                            *acknowledged.lock().entry(n).or_default() += 1;
                        }
                    }
                }
                if number >= 4 && random.random_bool(0.1) {
                    weir.broker.client_gone(&format!("c{number} {selector}"));
                    turn += 1;
                }
            }
        }));
    }
    for n in 0..ROWS {
        weir.publish([n]).await;
    }
    let all = || acknowledged.lock().len() == ROWS as usize;
    let (mut seen, mut since) = ([0; 6], [0; 6]);
    for _ in 0..4000 {
        if all() {
            break;
        }
        for number in 0..6 {
            let now = turns[number].load(Ordering::Relaxed);
            since[number] = if now == seen[number] { since[number] } else { 0 };
            seen[number] = now;
        }
        // Rows that were handed to a receive which was given up are there again after a while. The clock waits for
        // consumers that get no turn, where the machine is busy: after two minutes of it they would count as gone, and
        // what they alone want would be dropped.
        if since.iter().all(|seconds| *seconds < 30) {
            weir.advance(1);
            since.iter_mut().for_each(|seconds| *seconds += 1);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    done.store(true, Ordering::Release);
    for consumer in consumers {
        tokio::time::timeout(Duration::from_secs(30), consumer).await.expect("it ends").unwrap();
    }
    let missing: Vec<_> = (0..ROWS).filter(|n| !acknowledged.lock().contains_key(n)).collect();
    let described = weir.broker.group(&group("g")).unwrap();
    assert!(missing.is_empty(), "{missing:?} of {ROWS} are missing, seed {seed}: {described:?}");
    assert!(acknowledged.lock().values().all(|times| *times == 1), "seed {seed}");
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

/// A disk in memory, which syncs at once.
fn on_sim(options: &mut BrokerOptions) {
    options.storage.env = Arc::new(SimEnv::new(1));
}

async fn with_index(live_index: bool) -> Fixture {
    let set = |options: &mut BrokerOptions| {
        on_sim(options);
        options.live_index = live_index;
    };
    Fixture::with(set).await
}

/// A receive of group `g` that waits.
fn poll(weir: &Fixture, selector: &str) -> tokio::task::JoinHandle<Vec<Delivered>> {
    let request = ReceiveRequest { wait: Duration::from_secs(20), ..weir.request(selector) };
    let broker = weir.broker.clone();
    tokio::spawn(async move { broker.receive(request).await.unwrap() })
}

/// A group that gives up no row: what is delivered in vain counts as an attempt.
fn undying() -> GroupSpec {
    GroupSpec { max_attempts: 10_000, ..GroupSpec::default() }
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
    /// How often blocks were judged by the index and by receives, up to the last restart.
    judged: (u64, u64),
}

impl Pair {
    async fn new(seed: u64) -> Self {
        let with = Fixture::new().await;
        let without = Fixture::with(|options| options.live_index = false).await;
        for side in [&with, &without] {
            side.topic(1).await;
            for name in GROUPS {
                side.broker.create_group(&group(name), undying()).await.unwrap();
            }
        }
        Self {
            sides: [with, without],
            random: StdRng::seed_from_u64(seed),
            held: BTreeMap::new(),
            queues: 1,
            judged: (0, 0),
        }
    }

    /// A broker begins to count anew.
    fn note_judged(&mut self) {
        let (by_index, by_receives) = self.sides[0].broker.judged();
        self.judged = (self.judged.0 + by_index, self.judged.1 + by_receives);
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
                self.note_judged();
                for side in &mut self.sides {
                    side.restart().await;
                }
                // Both have kept house for the first time before anybody receives.
                settle().await;
            }
            98 => {
                for side in &self.sides {
                    side.broker.delete_group(&group(name)).await.unwrap();
                    side.broker.create_group(&group(name), undying()).await.unwrap();
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
        pair.note_judged();
        judged = (judged.0 + pair.judged.0, judged.1 + pair.judged.1);
    }
    assert!(judged.0 > 0 && judged.1 > 0, "{judged:?}");
}
