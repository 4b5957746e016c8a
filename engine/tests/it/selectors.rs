//! The rules by which rows go to the selectors of a group, against a model too plain to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::Value;
use weir_engine::{
    Broker, Clock, Delivered, EngineError, GroupDescription, GroupSpec, Message, ReceiveRequest,
};
use weir_storage::{QueueId, QueueOffset, SimEnv};

use crate::fixture::{Fixture, group, lease, numbers, settle, topic};

#[tokio::test]
async fn a_new_selector_begins_where_the_group_has_come_to() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..10).await;
    assert_eq!(numbers(&weir.receive("n < 5").await), [0, 1, 2, 3, 4]);
    let new = ReceiveRequest { client: "d".to_owned(), ..weir.request("n > 7") };
    assert!(weir.broker.receive(new.clone()).await.unwrap().is_empty(), "all were judged");
    weir.publish([2, 9, 6]).await;
    assert_eq!(numbers(&weir.broker.receive(new).await.unwrap()), [9]);
    assert_eq!(numbers(&weir.receive("n < 5").await), [2], "the old one goes on");
}

/// Rows that come one by one lie in blocks of their own, as those of a call do not.
#[tokio::test]
async fn a_receive_that_is_full_has_come_to_behind_its_last_row_however_rows_came() {
    for (at_once, fifo) in [(true, false), (false, false), (true, true), (false, true)] {
        let weir = Fixture::new().await;
        weir.topic(1).await;
        weir.broker.create_group(&group("g"), GroupSpec { fifo, ..GroupSpec::default() }).await.unwrap();
        if at_once {
            weir.publish(0..6).await;
        } else {
            for n in 0..6 {
                weir.publish([n]).await;
            }
        }
        let few = ReceiveRequest { max_messages: 2, ..weir.request("n < 2 OR n = 4") };
        assert_eq!(numbers(&weir.broker.receive(few).await.unwrap()), [0, 1]);
        let told = weir.broker.group(&group("g")).unwrap();
        let cursor = told.topics[0].selectors[0].queues[0].cursor;
        assert_eq!(cursor, QueueOffset(2), "at once {at_once}, fifo {fifo}");
        let joins = ReceiveRequest { client: "d".to_owned(), ..weir.request("n >= 0") };
        let joined = numbers(&weir.broker.receive(joins).await.unwrap());
        // In a FIFO group messages without a message group stand in one line.
        assert_eq!(joined, if fifo { vec![] } else { vec![2, 3, 4, 5] });
        let told = weir.broker.group(&group("g")).unwrap();
        assert_eq!(told.topics[0].selectors[1].queues[0].start, QueueOffset(2));
    }
}

#[tokio::test]
async fn a_row_goes_to_the_first_selector_that_passes_it() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let low = weir.request("n < 6");
    let high = ReceiveRequest { client: "d".to_owned(), ..weir.request("n > 3") };
    assert!(weir.broker.receive(low.clone()).await.unwrap().is_empty());
    assert!(weir.broker.receive(high.clone()).await.unwrap().is_empty());
    weir.publish(0..10).await;
    assert_eq!(numbers(&weir.broker.receive(low).await.unwrap()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(numbers(&weir.broker.receive(high).await.unwrap()), [6, 7, 8, 9]);
}

#[tokio::test]
async fn a_selector_without_clients_is_kept_until_the_others_have_passed_it() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let old = weir.request("n < 6");
    let new = ReceiveRequest { client: "d".to_owned(), max_messages: 1, ..weir.request("n > 3") };
    weir.broker.receive(old.clone()).await.unwrap();
    weir.broker.receive(new.clone()).await.unwrap();
    weir.publish(0..8).await;
    let taken = weir.broker.receive(old).await.unwrap();
    weir.ack(&taken).await;
    weir.broker.client_gone("c");
    let texts = || {
        let described = weir.broker.group(&group("g")).unwrap();
        described.topics[0].selectors.iter().map(|selector| selector.text.clone()).collect::<Vec<_>>()
    };
    weir.advance(10);
    settle().await;
    assert_eq!(texts(), ["n < 6", "n > 3"]);
    assert_eq!(
        numbers(&weir.broker.receive(new.clone()).await.unwrap()),
        [6],
        "4 and 5 were taken by the other"
    );
    assert_eq!(numbers(&weir.broker.receive(new).await.unwrap()), [7]);
    weir.advance(10);
    settle().await;
    assert_eq!(texts(), ["n > 3"]);
}

/// The first one is ahead of the second in one queue, which is ahead of the third in the other. When only the third is
/// left, the first has been passed by it; but the second stays, and may come back to rows that the first has taken.
#[tokio::test]
async fn a_selector_without_clients_is_kept_as_long_as_one_that_has_not_passed_it() {
    let weir = Fixture::new().await;
    weir.topic(2).await;
    let of = |text: &str, client: &str, queue: u32| ReceiveRequest {
        client: client.to_owned(),
        queue: Some(QueueId(queue)),
        ..weir.request(text)
    };
    for (text, client) in [("n >= 0", "first"), ("n >= 1", "second"), ("n < 0", "third")] {
        for queue in [0, 1] {
            assert!(weir.broker.receive(of(text, client, queue)).await.unwrap().is_empty());
        }
    }
    for n in [10, 11] {
        weir.publish([n]).await;
    }
    let taken = weir.broker.receive(of("n >= 0", "first", 0)).await.unwrap();
    assert_eq!(taken.len(), 1);
    weir.ack(&taken).await;
    assert_eq!(weir.broker.receive(of("n >= 1", "second", 1)).await.unwrap().len(), 1);
    assert!(weir.broker.receive(of("n < 0", "third", 0)).await.unwrap().is_empty());
    weir.broker.client_gone("first");
    weir.broker.client_gone("second");
    weir.advance(10);
    settle().await;
    let again = weir.broker.receive(of("n >= 1", "second", 0)).await.unwrap();
    assert!(again.is_empty(), "{:?} was acknowledged", numbers(&again));
}

#[tokio::test]
async fn a_row_that_no_selector_matches_any_more_is_dropped_and_counted() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..4).await;
    assert_eq!(weir.receive("n < 3").await.len(), 3);
    weir.broker.client_gone("c");
    let new = ReceiveRequest { client: "d".to_owned(), lease: lease(3600), ..weir.request("n >= 2") };
    assert!(weir.broker.receive(new.clone()).await.unwrap().is_empty());
    weir.advance(60);
    let again = weir.broker.receive(new.clone()).await.unwrap();
    assert_eq!((numbers(&again), again[0].attempt), (vec![2], 2), "the new selector is TRUE for this one");
    for _ in 0..14 {
        settle().await;
        let queue = weir.broker.group(&group("g")).unwrap().topics[0].queues[0];
        assert_eq!((queue.waiting, queue.dropped_by_selector_change), (2, 0));
        weir.broker.client_alive("d");
        weir.advance(8);
    }
    weir.advance(30);
    weir.broker.client_alive("d");
    settle().await;
    let queue = weir.broker.group(&group("g")).unwrap().topics[0].queues[0];
    assert_eq!((queue.waiting, queue.leased, queue.dropped_by_selector_change), (0, 1, 2));
}

#[tokio::test]
async fn a_group_that_is_down_drops_nothing() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish(0..4).await;
    assert_eq!(weir.receive("n < 3").await.len(), 3);
    weir.broker.client_gone("c");
    weir.advance(24 * 3600);
    settle().await;
    assert_eq!(numbers(&weir.receive("n < 3").await), [0, 1, 2]);
}

#[tokio::test]
async fn each_receive_takes_the_moment_anew() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let selector =
        "NOW() >= TIMESTAMP '2026-01-01T00:00:10Z' AND sys.store_time > NOW() - INTERVAL '5' SECONDS";
    weir.publish([1]).await;
    assert!(weir.receive(selector).await.is_empty());
    weir.publish([2]).await;
    weir.advance(10);
    weir.publish([3]).await;
    // The second is too old by now; the first was judged before.
    assert_eq!(numbers(&weir.receive(selector).await), [3]);
}

#[tokio::test]
async fn what_a_selector_with_now_has_chosen_is_delivered_again_however_late() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1]).await;
    let selector = "sys.store_time > NOW() - 5000";
    assert_eq!(numbers(&weir.receive(selector).await), [1]);
    weir.restart().await;
    weir.advance(1000);
    settle().await;
    let again = weir.receive(selector).await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![1], 2));
}

/// The first selector is FALSE for the row when it passes it, and would be TRUE later.
#[tokio::test]
async fn what_a_selector_with_now_has_passed_is_not_kept_from_others() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let late = weir.request("sys.store_time < NOW() - 5000");
    let other = ReceiveRequest { client: "d".to_owned(), ..weir.request("n = 1") };
    weir.broker.receive(late.clone()).await.unwrap();
    weir.broker.receive(other.clone()).await.unwrap();
    weir.publish([1]).await;
    assert!(weir.broker.receive(late).await.unwrap().is_empty());
    weir.advance(10);
    assert_eq!(numbers(&weir.broker.receive(other).await.unwrap()), [1]);
}

#[tokio::test]
async fn a_group_holds_eight_selectors_at_a_time() {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    for n in 0..8 {
        weir.receive(&format!("n = {n}")).await;
    }
    let ninth = weir.broker.receive(weir.request("n = 8")).await;
    assert!(matches!(ninth, Err(EngineError::Limit { .. })), "{ninth:?}");
    weir.advance(121);
    weir.broker.receive(weir.request("n = 8")).await.unwrap();
}

const SELECTORS: [&str; 5] = ["a < 5", "a >= 3", "a = 7", "TRUE", "a <> 2 AND a <> 6"];

fn is_true(selector: &str, a: i64) -> bool {
    match selector {
        "a < 5" => a < 5,
        "a >= 3" => a >= 3,
        "a = 7" => a == 7,
        "TRUE" => true,
        _ => a != 2 && a != 6,
    }
}

/// What happened to each row of the one queue.
struct Model {
    rows: Vec<i64>,
    /// Rows that were given to somebody at least once.
    taken: BTreeSet<u64>,
    done: BTreeSet<u64>,
    /// Rows that were given and not acknowledged: the last handle, attempts, and when they are due.
    held: BTreeMap<u64, (String, u32, Duration)>,
    dropped: u64,
}

struct Run {
    weir: Fixture,
    env: SimEnv,
    random: StdRng,
    model: Model,
}

type Spans = BTreeMap<String, (u64, u64)>;

impl Run {
    async fn new(seed: u64) -> Self {
        let (weir, env) = Fixture::on_sim(seed).await;
        weir.topic(1).await;
        let spec = GroupSpec { max_attempts: 10_000, ..GroupSpec::default() };
        weir.broker.create_group(&group("g"), spec).await.unwrap();
        let model = Model {
            rows: Vec::new(),
            taken: BTreeSet::new(),
            done: BTreeSet::new(),
            held: BTreeMap::new(),
            dropped: 0,
        };
        Self { weir, env, random: StdRng::seed_from_u64(seed), model }
    }

    fn now(&self) -> Duration {
        self.weir.clock.monotonic()
    }

    fn described(&self) -> Option<GroupDescription> {
        self.weir.broker.group(&group("g")).ok().filter(|described| !described.topics.is_empty())
    }

    fn spans(&self) -> Spans {
        let selectors =
            self.described().into_iter().flat_map(|described| described.topics[0].selectors.clone());
        selectors
            .map(|selector| (selector.text, (selector.queues[0].start.0, selector.queues[0].cursor.0)))
            .collect()
    }

    async fn publish(&mut self) {
        let values: Vec<i64> =
            (0..self.random.random_range(1..12)).map(|_| self.random.random_range(0..10)).collect();
        let messages = values
            .iter()
            .map(|a| Message { properties: vec![("a".to_owned(), Value::I64(*a))], ..Message::default() });
        self.weir.broker.publish(&topic("t"), messages.collect()).await.unwrap();
        self.model.rows.extend(values);
    }

    async fn receive(&mut self, selector: &str) {
        let before = self.spans();
        let max_messages = self.random.random_range(1..10);
        let seconds = self.random.random_range(10..40);
        let request = ReceiveRequest {
            client: format!("client of {selector}"),
            max_messages,
            lease: lease(seconds),
            ..self.weir.request(selector)
        };
        let delivered = match self.weir.broker.receive(request).await {
            Ok(delivered) => delivered,
            Err(EngineError::Limit { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        self.check(selector, max_messages, &before, &delivered);
        for one in &delivered {
            let until = self.now() + one.lease;
            self.model.taken.insert(one.message.offset.0);
            self.model.held.insert(one.message.offset.0, (one.handle.clone(), one.attempt, until));
        }
    }

    /// Compares one answer with the rules.
    fn check(&self, selector: &str, max_messages: usize, before: &Spans, delivered: &[Delivered]) {
        let model = &self.model;
        let after = self.spans();
        let highest = before.values().map(|(_, cursor)| *cursor).max().unwrap_or(0);
        let (start, from) = before.get(selector).copied().unwrap_or((highest, highest));
        let (start_after, to) = after[selector];
        assert_eq!(start_after, start, "{selector} begins at the highest cursor and stays there");
        assert!(to >= from);
        let mut first = Vec::new();
        for one in delivered {
            let offset = one.message.offset.0;
            assert!(
                is_true(selector, model.rows[offset as usize]),
                "{selector} is not TRUE for row {offset}"
            );
            assert!(!model.done.contains(&offset), "row {offset} is done");
            match model.held.get(&offset) {
                None => {
                    assert!(!model.taken.contains(&offset) && one.attempt == 1, "row {offset}");
                    first.push(offset);
                }
                Some((_, attempt, due)) => {
                    assert_eq!(one.attempt, attempt + 1, "row {offset}");
                    assert!(*due <= self.now(), "row {offset} is leased");
                }
            }
        }
        let passed = (from..to).filter(|offset| is_true(selector, model.rows[*offset as usize]));
        let expected: Vec<u64> = passed.filter(|offset| !model.taken.contains(offset)).collect();
        assert_eq!(first, expected, "{selector} passed {from}..{to}: none skipped, none extra, in order");
        if delivered.len() < max_messages {
            assert_eq!(to, model.rows.len() as u64, "{selector} has seen everything");
        }
    }

    async fn settle_one(&mut self) {
        let held: Vec<u64> = self.model.held.keys().copied().collect();
        let Some(offset) = held.choose(&mut self.random).copied() else { return };
        let (handle, attempt, _) = self.model.held[&offset].clone();
        if self.random.random_bool(0.7) {
            let result = self.weir.broker.acknowledge(&group("g"), &topic("t"), &[handle]).await.remove(0);
            // An orphan that was dropped is done as well.
            result.unwrap();
            self.model.held.remove(&offset);
            self.model.done.insert(offset);
        } else {
            let after = Duration::from_secs(self.random.random_range(0..30));
            match self.weir.broker.change_invisible(&group("g"), &topic("t"), &handle, after).await {
                Ok(handle) => {
                    let due = self.now() + after;
                    self.model.held.insert(offset, (handle, attempt, due));
                }
                // It may have been dropped, for nobody matches it any more.
                Err(error) => assert!(self.dropped() > 0, "{error}"),
            }
        }
    }

    fn dropped(&self) -> u64 {
        let now =
            self.described().map_or(0, |described| described.topics[0].queues[0].dropped_by_selector_change);
        self.model.dropped + now
    }

    async fn restart(&mut self) {
        self.model.dropped = self.dropped();
        if self.random.random_bool(0.5) {
            self.weir.broker.close().await.unwrap();
        } else {
            self.env.kill();
        }
        self.weir.broker = Broker::open(self.weir.starting()).await.unwrap();
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..20 => self.publish().await,
            20..60 => {
                let selector = *SELECTORS.choose(&mut self.random).unwrap();
                self.receive(selector).await;
            }
            60..85 => self.settle_one().await,
            85..94 => {
                let seconds =
                    if self.random.random_bool(0.2) { 150 } else { self.random.random_range(1..30) };
                self.weir.advance(seconds);
                settle().await;
            }
            94..97 => {
                let selector = SELECTORS.choose(&mut self.random).unwrap();
                self.weir.broker.client_gone(&format!("client of {selector}"));
                settle().await;
            }
            _ => self.restart().await,
        }
    }

    /// In the end everything that was taken comes back, but for what was acknowledged or dropped.
    async fn finish(mut self) {
        let mut outstanding: BTreeSet<u64> = self.model.held.keys().copied().collect();
        // In pieces, so that nothing becomes an orphan on the way.
        for _ in 0..5 {
            self.weir.advance(10);
            self.receive_all(&mut outstanding).await;
        }
        let dropped = self.dropped();
        assert!(
            outstanding.len() as u64 <= dropped,
            "{outstanding:?} did not come back, {dropped} were dropped"
        );
    }

    async fn receive_all(&mut self, outstanding: &mut BTreeSet<u64>) {
        loop {
            let request =
                ReceiveRequest { lease: lease(3600), client: "last".to_owned(), ..self.weir.request("TRUE") };
            let delivered = match self.weir.broker.receive(request).await {
                Err(EngineError::Limit { .. }) => {
                    self.weir.broker.client_gone("client of a = 7");
                    self.weir.advance(1);
                    continue;
                }
                other => other.unwrap(),
            };
            if delivered.is_empty() {
                return;
            }
            for one in &delivered {
                assert!(!self.model.done.contains(&one.message.offset.0));
                outstanding.remove(&one.message.offset.0);
            }
        }
    }
}

/// For any group, the rows delivered are exactly those whose selector is TRUE: none skipped, none extra.
#[tokio::test]
async fn rows_go_to_selectors_by_the_rules() {
    let first: u64 =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    for seed in (0..10).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        let mut run = Run::new(seed).await;
        for _ in 0..150 {
            run.step().await;
        }
        run.finish().await;
    }
}

/// A scan looks ahead into segments that it has not come to, and comes to all of them.
#[tokio::test(flavor = "multi_thread")]
async fn few_rows_are_found_in_many_segments() {
    const LIVES: i64 = 5;
    const ROWS: i64 = 20_000;
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    for life in 0..LIVES {
        for first in (life * ROWS..(life + 1) * ROWS).step_by(1000) {
            weir.publish(first..first + 1000).await;
        }
        // Each stop seals what is there.
        weir.restart().await;
    }
    let wanted = [3, 8_191, 8_192, 19_999, 20_000, 45_000, 45_001, 61_234, 81_000, 99_999];
    let few = wanted.map(|n: i64| n.to_string()).join(", ");
    // The first block of most segments, all of one, and none of another.
    let mixed = "n < 2 OR n BETWEEN 40000 AND 40004 OR n BETWEEN 60000 AND 80000 AND n % 2500 = 1";
    let of_mixed: Vec<i64> = (0..2).chain(40_000..40_005).chain((60_001..80_000).step_by(2_500)).collect();
    for (text, expected) in [(format!("n IN ({few})"), &wanted[..]), (mixed.to_owned(), &of_mixed)] {
        let mut received = Vec::new();
        loop {
            let batch = weir.receive(&text).await;
            if batch.is_empty() {
                break;
            }
            received.extend(numbers(&batch));
            weir.ack(&batch).await.into_iter().for_each(Result::unwrap);
        }
        assert_eq!(received, expected, "{text}");
        weir.broker.delete_group(&group("g")).await.unwrap();
    }
}
