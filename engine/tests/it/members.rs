//! Members of one group that work at the same time, on threads of their own; then SQL over the log judges.
//!
//! Time stands still, so that no lease runs out: a row comes again only where a member has given it back, and so it
//! comes once more than it was given back. `checker.rs` has leases, restarts and power losses, one call after another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_engine::{Broker, Message, ReceiveRequest, TopicSpec};

use crate::{
    agreement::{NAMES, SORTS, condition, truth, value},
    fixture::{Fixture, group, settle, topic},
};

const SEEDS: u64 = 12;
const QUEUES: u32 = 3;
const PRODUCERS: u64 = 2;
const CALLS: usize = 40;
/// Of these the first two always have members; the last one has some at times.
const SELECTORS: usize = 3;
const MEMBERS: usize = 6;

/// Queue and offset.
type Row = (u32, u64);

/// What a member saw of a row.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    selector: usize,
    attempt: u32,
    /// Whether it was given back, and not acknowledged.
    is_given_back: bool,
}

/// What all threads share.
struct Shared {
    broker: Broker,
    sorts: Vec<usize>,
    selectors: Vec<String>,
    published: AtomicBool,
    seen: Mutex<BTreeMap<Row, Vec<Delivery>>>,
}

impl Shared {
    fn request(&self, client: String, selector: usize, max_messages: usize) -> ReceiveRequest {
        ReceiveRequest {
            client,
            max_messages,
            selector: self.broker.parse_selector(&self.selectors[selector]).unwrap(),
            ..ReceiveRequest::new(group("g"), topic("t"))
        }
    }

    /// Receives once, and settles all. Returns how many messages came.
    async fn receive(&self, random: &mut StdRng, member: usize, selector: usize, give_back: f64) -> usize {
        let request = self.request(format!("c{member}"), selector, random.random_range(1..8));
        let delivered = self.broker.receive(request).await.unwrap();
        for one in &delivered {
            let row = (one.message.queue.0, one.message.offset.0);
            let is_given_back = random.random_bool(give_back);
            let delivery = Delivery { selector, attempt: one.attempt, is_given_back };
            // Before the call, as others may get it while this one waits for the answer.
            self.seen.lock().entry(row).or_default().push(delivery);
            let handle = &one.handle;
            if is_given_back {
                let (name, of) = (group("g"), topic("t"));
                self.broker.change_invisible(&name, &of, handle, Duration::ZERO).await.unwrap();
            } else {
                let handles = std::slice::from_ref(handle);
                let result = self.broker.acknowledge(&group("g"), &topic("t"), handles).await;
                assert!(result[0].is_ok(), "{row:?}: {result:?}");
            }
        }
        delivered.len()
    }

    /// Works until all is published and nothing comes any more.
    async fn member(self: Arc<Self>, member: usize, mut random: StdRng) {
        let mut selector = member % SELECTORS;
        let mut idle = 0;
        while idle < 3 {
            // Two members stay for each of the first two selectors; the others come and go.
            if selector != member % SELECTORS || member % SELECTORS == 2 {
                match random.random_range(0..20) {
                    0 => selector = random.random_range(0..SELECTORS),
                    1 => self.broker.client_gone(&format!("c{member}")),
                    _ => {}
                }
            }
            let is_published = self.published.load(Ordering::Acquire);
            let came = self.receive(&mut random, member, selector, 0.2).await;
            idle = if came == 0 && is_published { idle + 1 } else { 0 };
            tokio::task::yield_now().await;
        }
    }

    fn message(&self, random: &mut StdRng, odds: f64) -> Message {
        let mut properties = Vec::new();
        for (name, sort) in NAMES.iter().zip(&self.sorts) {
            if random.random_bool(odds) {
                properties.push(((*name).to_owned(), value(random, *sort)));
            }
        }
        let tag = random.random_bool(0.5).then(|| "red".to_owned());
        Message { properties, tag, ..Message::default() }
    }

    async fn producer(self: Arc<Self>, mut random: StdRng) {
        for _ in 0..CALLS {
            let count = random.random_range(1..12);
            let messages = (0..count).map(|_| self.message(&mut random, 0.7)).collect();
            self.broker.publish(&topic("t"), messages).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

async fn run(seed: u64) -> (usize, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let weir = Fixture::new().await;
    let spec = TopicSpec { queues: QUEUES, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    let mut shared = Shared {
        broker: weir.broker.clone(),
        sorts: NAMES.iter().map(|_| random.random_range(0..SORTS)).collect(),
        selectors: Vec::new(),
        published: AtomicBool::new(false),
        seen: Mutex::default(),
    };
    // Every name is a column, so that SQL knows it.
    let all = (0..QUEUES).map(|_| shared.message(&mut random, 1.0)).collect();
    let first = weir.broker.publish(&topic("t"), all).await.unwrap();
    while !truth(&weir.broker, "queue_id >= 0").await.is_ok_and(|rows| rows.len() >= first.len()) {
        tokio::task::yield_now().await;
    }
    while shared.selectors.len() < SELECTORS {
        let text = condition(&mut random, 2);
        if NAMES.iter().any(|name| text.contains(name))
            && !shared.selectors.contains(&text)
            && weir.broker.parse_selector(&text).is_ok()
            && truth(&weir.broker, &text).await.is_ok()
        {
            shared.selectors.push(text);
        }
    }
    let shared = Arc::new(shared);
    // The members that stay are there before anything else is, as a selector begins where its group has come to.
    let stay = 2;
    for selector in 0..stay {
        while shared.receive(&mut random, selector, selector, 0.0).await > 0 {}
    }
    let begun: BTreeMap<u32, u64> = weir
        .broker
        .topic(&topic("t"))
        .unwrap()
        .queues
        .iter()
        .map(|queue| (queue.queue.0, queue.end.0))
        .collect();
    let of = |random: &mut StdRng| StdRng::seed_from_u64(random.random());
    let producers: Vec<_> =
        (0..PRODUCERS).map(|_| tokio::spawn(Arc::clone(&shared).producer(of(&mut random)))).collect();
    let members: Vec<_> = (0..MEMBERS)
        .map(|member| tokio::spawn(Arc::clone(&shared).member(member, of(&mut random))))
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let ends = || weir.broker.topic(&topic("t")).unwrap().queues;
    let stored: u64 = ends().iter().map(|queue| queue.end.0).sum();
    while !truth(&weir.broker, "queue_id >= 0").await.is_ok_and(|rows| rows.len() as u64 >= stored) {
        tokio::task::yield_now().await;
    }
    shared.published.store(true, Ordering::Release);
    for member in members {
        member.await.unwrap();
    }
    // What was given back last, by members that were the last to go; and after a second what was on its way to one
    // when another selector was dropped.
    weir.advance(2);
    settle().await;
    for selector in (0..SELECTORS).chain(0..SELECTORS) {
        while shared.receive(&mut random, selector, selector, 0.0).await > 0 {}
    }
    let mut truths = Vec::new();
    for text in &shared.selectors {
        truths.push(truth(&weir.broker, text).await.unwrap());
    }
    let seen = shared.seen.lock();
    let described = weir.broker.group(&group("g")).unwrap().topics;
    let queues = described.iter().flat_map(|topic| &topic.queues);
    let dropped: u64 = queues.map(|queue| queue.dropped_by_selector_change).sum();
    let mut given_up = 0;
    for (row, deliveries) in &*seen {
        let mut attempts: Vec<u32> = deliveries.iter().map(|delivery| delivery.attempt).collect();
        attempts.sort_unstable();
        let expected: Vec<u32> = (1..=deliveries.len() as u32).collect();
        assert_eq!(attempts, expected, "seed {seed}, {row:?}: {deliveries:?}");
        let given_back = deliveries.iter().filter(|delivery| delivery.is_given_back).count();
        given_up += usize::from(given_back == deliveries.len());
        assert!(given_back + 1 >= deliveries.len(), "seed {seed}, {row:?}: {deliveries:?}");
        for delivery in deliveries {
            let text = &shared.selectors[delivery.selector];
            assert!(truths[delivery.selector].contains(row), "seed {seed}, {row:?}: not TRUE: {text}");
        }
    }
    assert!(given_up as u64 <= dropped, "seed {seed}: {given_up} did not come back, {dropped} were dropped");
    for (text, truth) in shared.selectors.iter().zip(&truths).take(stay) {
        let missing = truth.iter().find(|row| row.1 >= begun[&row.0] && !seen.contains_key(row));
        assert_eq!(missing, None, "seed {seed}: nobody got it, of `{text}`");
    }
    let all: usize = seen.values().map(Vec::len).sum();
    (seen.len(), all - seen.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_at_the_same_time_get_each_row_once() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, count) = match number("WEIR_SEED") {
        Some(seed) => (seed, 1),
        None => (number("WEIR_FIRST_SEED").unwrap_or(0), number("WEIR_SEEDS").unwrap_or(SEEDS)),
    };
    let (mut rows, mut again) = (0, 0);
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        let (new_rows, new_again) = run(seed).await;
        (rows, again) = (rows + new_rows, again + new_again);
    }
    println!("{rows} rows delivered, {again} times more, in {count} runs");
    assert!(rows > 20 * count as usize && again > 4 * count as usize, "too little was delivered");
}
