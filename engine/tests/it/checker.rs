//! Is delivery exact? Random groups, members, selectors, restarts and power losses; then SQL over the log judges.
//!
//! A run only does and writes down: who received what, when, with which selector, from which offset to which. When
//! it is over, SQL says for each selector for which rows of the log it is TRUE, and the history is held against
//! that: none skipped, none spurious, order within a queue, again only when a lease ran out. Selectors are judged by
//! the crate `filter`, SQL by DataFusion: the two share no evaluator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arrow_array::{
    cast::AsArray,
    types::{Int32Type, Int64Type},
};
use futures::TryStreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::Value;
use weir_engine::{
    Broker, Clock, DurabilityClass, EngineError, GroupName, GroupSpec, Message, ReceiveRequest, SqlRequest,
    TopicSpec,
};
use weir_storage::SimEnv;

use crate::{
    agreement::{NAMES, SORTS, condition, truth, value},
    fixture::{Fixture, group, lease, settle, topic},
};

const SEEDS: u64 = 200;
const STEPS: usize = 90;
const QUEUES: u32 = 3;
const GROUPS: usize = 3;
const SELECTORS: usize = 6;

/// Queue and offset.
type Row = (u32, u64);
/// By selector and queue: the first row that it judged, and the next.
type Spans = BTreeMap<(usize, u32), (u64, u64)>;

/// What happened, in the order in which it did.
#[derive(Debug)]
enum Event {
    Received {
        group: usize,
        selector: usize,
        now: Duration,
        wanted: usize,
        before: Spans,
        after: Spans,
        /// With the number of the message and of the delivery, and when the lease ends.
        rows: Vec<(Row, u64, u32, Duration)>,
    },
    /// Confirmed to the member.
    Acknowledged { group: usize, row: Row },
    /// Asked for; the answer was an error. Expected where the power is about to fail or a power loss took the lease.
    NotAcknowledged { group: usize, row: Row, is_power_failing: bool },
    /// The message was put off; it is due then.
    Changed { group: usize, row: Row, due: Duration },
    /// The broker was closed or killed, and opened again.
    Restarted,
    /// The power failed. What stood behind these ends is gone.
    PowerLoss { class: DurabilityClass, ends: Vec<u64> },
}

struct Run {
    seed: u64,
    weir: Fixture,
    env: SimEnv,
    random: StdRng,
    class: DurabilityClass,
    sorts: Vec<usize>,
    selectors: Vec<String>,
    next_number: u64,
    /// By group: the last handle of rows that members hold.
    handles: Vec<BTreeMap<Row, String>>,
    /// By group: rows that were dropped in earlier lives of the broker.
    dropped: Vec<u64>,
    events: Vec<Event>,
}

fn group_name(number: usize) -> GroupName {
    group(&format!("g{number}"))
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (weir, env) = Fixture::on_sim(seed).await;
        let class = if random.random_bool(0.5) { DurabilityClass::Sync } else { DurabilityClass::Async };
        let spec = TopicSpec { queues: QUEUES, class, ..TopicSpec::default() };
        weir.broker.create_topic(&topic("t"), spec).await.unwrap();
        for number in 0..GROUPS {
            let spec = GroupSpec { max_attempts: 10_000, ..GroupSpec::default() };
            weir.broker.create_group(&group_name(number), spec).await.unwrap();
        }
        let sorts = NAMES.iter().map(|_| random.random_range(0..SORTS)).collect();
        let mut run = Self {
            seed,
            weir,
            env,
            random,
            class,
            sorts,
            selectors: Vec::new(),
            next_number: 0,
            handles: vec![BTreeMap::new(); GROUPS],
            dropped: vec![0; GROUPS],
            events: Vec::new(),
        };
        run.publish_rows(vec![1.0; QUEUES as usize]).await.unwrap();
        run.choose_selectors().await;
        run
    }

    /// Makes selectors that SQL understands as well.
    async fn choose_selectors(&mut self) {
        while self.selectors.len() < SELECTORS {
            let text = condition(&mut self.random, 2);
            let names_column = NAMES.iter().any(|name| text.contains(name));
            let is_new = !self.selectors.contains(&text);
            if names_column
                && is_new
                && self.weir.broker.parse_selector(&text).is_ok()
                && truth(&self.weir.broker, &text).await.is_ok()
            {
                self.selectors.push(text);
            }
        }
        self.selectors.push("TRUE".to_owned());
    }

    /// Publishes one message for each probability with which it has a property.
    async fn publish_rows(&mut self, odds: Vec<f64>) -> Result<(), EngineError> {
        let messages = odds.into_iter().map(|odds| {
            let mut properties = Vec::new();
            for (name, sort) in NAMES.iter().zip(&self.sorts) {
                if self.random.random_bool(odds) {
                    properties.push(((*name).to_owned(), value(&mut self.random, *sort)));
                }
            }
            properties.push(("number".to_owned(), Value::I64(self.next_number as i64)));
            let tag = self.random.random_bool(0.5).then(|| "red".to_owned());
            let body = self.next_number.to_string().into();
            self.next_number += 1;
            Message { properties, tag, body, ..Message::default() }
        });
        let messages = messages.collect();
        self.weir.broker.publish(&topic("t"), messages).await.map(drop)
    }

    async fn publish(&mut self) {
        let count = self.random.random_range(1..12);
        self.publish_rows(vec![0.7; count]).await.unwrap();
    }

    fn now(&self) -> Duration {
        self.weir.clock.monotonic()
    }

    fn spans(&self, group: usize) -> Spans {
        let mut spans = Spans::new();
        for topic in self.weir.broker.group(&group_name(group)).unwrap().topics {
            for selector in topic.selectors {
                let Some(number) = self.selectors.iter().position(|text| *text == selector.text) else {
                    continue;
                };
                spans.extend(
                    selector.queues.iter().map(|at| ((number, at.queue.0), (at.start.0, at.cursor.0))),
                );
            }
        }
        spans
    }

    /// Returns the rows that came, or `None` if the group has too many selectors.
    async fn receive(&mut self, group: usize, selector: usize) -> Option<Vec<Row>> {
        let wanted = self.random.random_range(1..10);
        let lease = lease(self.random.random_range(10..40));
        let request = ReceiveRequest {
            group: group_name(group),
            client: format!("{group} {selector}"),
            max_messages: wanted,
            lease,
            ..self.weir.request(&self.selectors[selector])
        };
        let before = self.spans(group);
        let delivered = match self.weir.broker.receive(request).await {
            Ok(delivered) => delivered,
            Err(EngineError::Limit { .. }) => return None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        let (now, after) = (self.now(), self.spans(group));
        let mut rows = Vec::new();
        for one in delivered {
            let row = (one.message.queue.0, one.message.offset.0);
            let number = std::str::from_utf8(&one.message.message.body).unwrap().parse().unwrap();
            rows.push((row, number, one.attempt, now + one.lease));
            self.handles[group].insert(row, one.handle);
        }
        let delivered = rows.iter().map(|(row, ..)| *row).collect();
        self.events.push(Event::Received { group, selector, now, wanted, before, after, rows });
        Some(delivered)
    }

    async fn settle_one(&mut self, group: usize) {
        let held: Vec<Row> = self.handles[group].keys().copied().collect();
        let Some(row) = held.choose(&mut self.random).copied() else { return };
        let handle = self.handles[group][&row].clone();
        if self.random.random_bool(0.75) {
            let name = group_name(group);
            let result = self.weir.broker.acknowledge(&name, &topic("t"), &[handle]).await.remove(0);
            self.handles[group].remove(&row);
            self.events.push(match result {
                Ok(()) => Event::Acknowledged { group, row },
                Err(_) => Event::NotAcknowledged { group, row, is_power_failing: self.env.is_off() },
            });
        } else {
            let after = Duration::from_secs(self.random.random_range(0..30));
            let name = group_name(group);
            // It may have been dropped, or a power loss has taken the lease.
            if let Ok(handle) = self.weir.broker.change_invisible(&name, &topic("t"), &handle, after).await {
                self.handles[group].insert(row, handle);
                self.events.push(Event::Changed { group, row, due: self.now() + after });
            }
        }
    }

    fn dropped_now(&self, group: usize) -> u64 {
        let topics = self.weir.broker.group(&group_name(group)).unwrap().topics;
        topics.iter().flat_map(|topic| &topic.queues).map(|queue| queue.dropped_by_selector_change).sum()
    }

    async fn restart(&mut self) {
        let how = self.random.random_range(0..3);
        if how == 0 {
            self.weir.broker.close().await.unwrap();
        }
        // Behind the close, during which housekeeping may go on.
        for group in 0..GROUPS {
            self.dropped[group] += self.dropped_now(group);
        }
        match how {
            0 => {}
            1 => self.env.kill(),
            _ => return self.lose_power().await,
        }
        self.weir.broker = Broker::open(self.weir.starting()).await.unwrap();
        self.events.push(Event::Restarted);
    }

    /// Half of the time the power fails while something is being written.
    async fn lose_power(&mut self) {
        if self.random.random_bool(0.5) {
            self.env.fail_power_after(self.random.random_range(0..6));
            let count = self.random.random_range(1..5);
            // Whether it was stored is not told, and not asked.
            drop(self.publish_rows(vec![0.7; count]).await);
            let group = self.random.random_range(0..GROUPS);
            self.settle_one(group).await;
        }
        self.env.lose_power();
        self.weir.broker = Broker::open(self.weir.starting()).await.unwrap();
        let queues = self.weir.broker.topic(&topic("t")).unwrap().queues;
        let ends: Vec<u64> = queues.iter().map(|queue| queue.end.0).collect();
        for handles in &mut self.handles {
            handles.retain(|(queue, offset), _| *offset < ends[*queue as usize]);
        }
        self.events.push(Event::PowerLoss { class: self.class, ends });
    }

    async fn step(&mut self) {
        let group = self.random.random_range(0..GROUPS);
        // Mostly a few selectors a group, so that they come to the same rows.
        let selector = (group + [0, 0, 0, 1, 1, 2, 3][self.random.random_range(0..7)]) % SELECTORS;
        match self.random.random_range(0..100) {
            0..22 => self.publish().await,
            22..62 => drop(self.receive(group, selector).await),
            62..86 => self.settle_one(group).await,
            86..93 => {
                let seconds =
                    if self.random.random_bool(0.15) { 150 } else { self.random.random_range(1..30) };
                self.weir.advance(seconds);
                settle().await;
            }
            93..96 => {
                self.weir.broker.client_gone(&format!("{group} {selector}"));
                settle().await;
            }
            _ => self.restart().await,
        }
    }

    /// Lets every selector that is still there see everything, and every lease run out. What no selector is there
    /// for any more goes to one that is always TRUE.
    async fn finish(&mut self) {
        for group in 0..GROUPS {
            let mut selectors: BTreeSet<usize> =
                self.spans(group).into_keys().map(|(selector, _)| selector).collect();
            selectors.insert(SELECTORS);
            for _ in 0..6 {
                for selector in &selectors {
                    self.drain(group, *selector).await;
                }
                self.weir.advance(10);
                settle().await;
            }
        }
    }

    async fn drain(&mut self, group: usize, selector: usize) {
        while let Some(rows) = self.receive(group, selector).await.filter(|rows| !rows.is_empty()) {
            for row in rows {
                let handle = self.handles[group].remove(&row).unwrap();
                let result = self.weir.broker.acknowledge(&group_name(group), &topic("t"), &[handle]).await;
                assert!(result[0].is_ok(), "seed {}: {result:?}", self.seed);
                self.events.push(Event::Acknowledged { group, row });
            }
        }
    }

    /// Returns the number in each message of the log.
    async fn log(&self) -> BTreeMap<Row, u64> {
        let request = SqlRequest {
            sql: "SELECT queue_id, queue_offset, CAST(number AS BIGINT) FROM t".to_owned(),
            ..SqlRequest::default()
        };
        let plan = self.weir.broker.plan_sql(request).await.unwrap();
        let (_, batches) = self.weir.broker.run_sql(plan.ticket).await.unwrap();
        let mut log = BTreeMap::new();
        for batch in batches.try_collect::<Vec<_>>().await.unwrap() {
            let queues = batch.column(0).as_primitive::<Int32Type>().values();
            let offsets = batch.column(1).as_primitive::<Int64Type>().values();
            let numbers = batch.column(2).as_primitive::<Int64Type>().values();
            for ((queue, offset), number) in queues.iter().zip(offsets).zip(numbers) {
                log.insert((*queue as u32, *offset as u64), *number as u64);
            }
        }
        log
    }

    async fn check(&self) -> Counts {
        let mut truths = Vec::new();
        for text in &self.selectors {
            truths.push(truth(&self.weir.broker, text).await.unwrap());
        }
        let log = self.log().await;
        let mut counts = Counts::default();
        for group in 0..GROUPS {
            let mut history = History::new(self, group, &truths, &log);
            for (number, event) in self.events.iter().enumerate() {
                history.limits = limits(&self.events[number..]);
                history.add(event);
            }
            let spans = self.spans(group);
            for ((selector, queue), (_, cursor)) in &spans {
                let end = log.keys().filter(|(of, _)| of == queue).count() as u64;
                assert_eq!(*cursor, end, "seed {}: selector {selector} stops in queue {queue}", self.seed);
            }
            let is_there = |selector| spans.keys().any(|(other, _)| *other == selector);
            let gone = history.held.iter().filter(|(_, held)| held.is_exact || is_there(held.selector));
            let gone: Vec<_> = gone.collect();
            let dropped = self.dropped[group] + self.dropped_now(group);
            let stories: Vec<String> =
                gone.iter().map(|(row, _)| story(&self.events, group, **row)).collect();
            assert!(
                gone.len() as u64 <= dropped,
                "seed {}: {gone:?} did not come back to group {group}, {dropped} were dropped\n{}",
                self.seed,
                stories.join("\n")
            );
            counts.first += history.counts.first;
            counts.again += history.counts.again;
        }
        counts
    }
}

/// What happened to a row in a group, a line each, for who looks for the cause.
fn story(events: &[Event], group: usize, row: Row) -> String {
    let mut lines = String::new();
    for event in events {
        let line = match event {
            Event::Received { group: of, selector, now, after, rows, .. } if *of == group => {
                let Some((.., attempt, due)) = rows.iter().find(|(one, ..)| *one == row) else { continue };
                let cursors: Vec<_> = after.iter().filter(|((_, queue), _)| *queue == row.0).collect();
                format!("{now:?}: delivery {attempt} to selector {selector}, until {due:?}; {cursors:?}")
            }
            Event::Acknowledged { group: of, row: one }
            | Event::NotAcknowledged { group: of, row: one, .. }
            | Event::Changed { group: of, row: one, .. }
                if *of == group && *one == row =>
            {
                format!("{event:?}")
            }
            Event::Restarted | Event::PowerLoss { .. } => format!("{event:?}"),
            _ => continue,
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// The ends behind which rows are removed by some power loss among `events`.
fn limits(events: &[Event]) -> [u64; QUEUES as usize] {
    let mut limits = [u64::MAX; QUEUES as usize];
    for event in events {
        if let Event::PowerLoss { ends, .. } = event {
            limits.iter_mut().zip(ends).for_each(|(limit, end)| *limit = (*limit).min(*end));
        }
    }
    limits
}

#[derive(Default)]
struct Counts {
    first: usize,
    again: usize,
}

/// A row that was delivered and not acknowledged.
#[derive(Clone, Debug)]
struct Held {
    selector: usize,
    attempt: u32,
    due: Duration,
    /// Whether no power loss can have taken the lease.
    is_exact: bool,
}

/// What a group was given so far, held against what SQL says.
struct History<'a> {
    seed: u64,
    group: usize,
    events: &'a [Event],
    selectors: &'a [String],
    truths: &'a [BTreeSet<Row>],
    log: &'a BTreeMap<Row, u64>,
    /// Rows from here on are gone in the end, so that SQL cannot say anything about them.
    limits: [u64; QUEUES as usize],
    held: BTreeMap<Row, Held>,
    done: BTreeSet<Row>,
    /// Acknowledged, unless a power loss took that back.
    unsure: BTreeSet<Row>,
    cursors: Spans,
    counts: Counts,
}

impl<'a> History<'a> {
    fn new(run: &'a Run, group: usize, truths: &'a [BTreeSet<Row>], log: &'a BTreeMap<Row, u64>) -> Self {
        Self {
            seed: run.seed,
            group,
            events: &run.events,
            selectors: &run.selectors,
            truths,
            log,
            limits: [u64::MAX; QUEUES as usize],
            held: BTreeMap::new(),
            done: BTreeSet::new(),
            unsure: BTreeSet::new(),
            cursors: Spans::new(),
            counts: Counts::default(),
        }
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::Received { group, selector, now, before, after, rows, wanted } if *group == self.group => {
                assert!(rows.len() <= *wanted);
                self.received(*selector, *now, before, after, rows);
            }
            Event::Acknowledged { group, row } if *group == self.group => {
                self.held.remove(row);
                self.unsure.remove(row);
                self.done.insert(*row);
            }
            Event::NotAcknowledged { group, row, is_power_failing } if *group == self.group => {
                if *is_power_failing {
                    self.held.remove(row);
                    self.unsure.insert(*row);
                } else {
                    let is_exact = self.held.get(row).is_some_and(|held| held.is_exact);
                    assert!(!is_exact, "seed {}: {row:?} was not acknowledged", self.seed);
                }
            }
            Event::Changed { group, row, due } if *group == self.group => {
                if let Some(held) = self.held.get_mut(row) {
                    held.due = *due;
                }
            }
            Event::PowerLoss { class, ends } => {
                let is_there = |row: &Row| row.1 < ends[row.0 as usize];
                if *class == DurabilityClass::Sync {
                    let seen = self.held.keys().chain(&self.done).find(|row| !is_there(row));
                    assert_eq!(seen, None, "seed {}: a reader saw what a power loss removed", self.seed);
                } else {
                    self.unsure.append(&mut self.done);
                }
                self.held.retain(|row, _| is_there(row));
                self.unsure.retain(is_there);
                self.held.values_mut().for_each(|held| held.is_exact = false);
                for ((_, queue), (start, cursor)) in &mut self.cursors {
                    *start = (*start).min(ends[*queue as usize]);
                    *cursor = (*cursor).min(ends[*queue as usize]);
                }
            }
            _ => {}
        }
    }

    fn received(
        &mut self,
        selector: usize,
        now: Duration,
        before: &Spans,
        after: &Spans,
        rows: &[(Row, u64, u32, Duration)],
    ) {
        let place = |row: Row| {
            let story = story(self.events, self.group, row);
            format!(
                "seed {}, group {}, `{}`, row {row:?}\n{story}",
                self.seed, self.group, self.selectors[selector]
            )
        };
        let mut first = vec![Vec::new(); QUEUES as usize];
        for (row, number, attempt, _) in rows {
            if row.1 < self.limits[row.0 as usize] {
                assert!(self.truths[selector].contains(row), "{}: not TRUE for SQL", place(*row));
                assert_eq!(self.log.get(row), Some(number), "{}: another message", place(*row));
            }
            assert!(!self.done.contains(row), "{}: was acknowledged", place(*row));
            match self.held.get(row) {
                Some(held) if held.is_exact => {
                    assert_eq!(*attempt, held.attempt + 1, "{}: attempt", place(*row));
                    assert!(held.due <= now, "{}: is leased until {:?}", place(*row), held.due);
                }
                Some(held) => assert!(*attempt <= held.attempt + 1, "{}: attempt", place(*row)),
                None if self.unsure.contains(row) => {}
                None => {
                    assert_eq!(*attempt, 1, "{}: was never delivered", place(*row));
                    first[row.0 as usize].push(row.1);
                }
            }
        }
        if !before.keys().any(|(known, _)| *known == selector) {
            // It was dropped, since nobody named it and others had passed it. What it judged anew because a power
            // loss took its leases may have been left to nobody.
            let lost = |_: &Row, held: &mut Held| !held.is_exact && held.selector == selector;
            self.unsure.extend(self.held.extract_if(.., lost).map(|(row, _)| row));
        }
        for (queue, first) in (0..).zip(first) {
            let key = (selector, queue);
            let (start, to) = after[&key];
            let highest =
                before.iter().filter(|((_, of), _)| *of == queue).map(|(_, (_, cursor))| *cursor).max();
            let mut from = match before.get(&key) {
                Some((start_before, cursor)) => {
                    assert_eq!(start, *start_before, "{}: it begins elsewhere", place((queue, 0)));
                    *cursor
                }
                None => {
                    let highest = highest.unwrap_or(0);
                    assert!(start >= highest, "{}: new, behind {highest}", place((queue, start)));
                    start
                }
            };
            // What was passed since it was last looked at counts as passed now.
            if let Some((known_start, known)) = self.cursors.get(&key)
                && *known_start == start
                && before.contains_key(&key)
            {
                from = from.min(*known);
            }
            let is_new = |row: &Row| {
                !(self.held.contains_key(row) || self.done.contains(row) || self.unsure.contains(row))
            };
            let limit = self.limits[queue as usize];
            let expected = self.truths[selector].range((queue, from)..(queue, to.min(limit).max(from)));
            let expected: Vec<u64> = expected.filter(|row| is_new(row)).map(|row| row.1).collect();
            let first: Vec<u64> = first.into_iter().filter(|offset| *offset < limit).collect();
            assert_eq!(
                first,
                expected,
                "{} to {to}: none skipped, none extra, in order",
                place((queue, from))
            );
            self.counts.first += first.len();
        }
        self.cursors.retain(|(other, _), _| *other != selector);
        self.cursors.extend(after.iter().filter(|((other, _), _)| *other == selector));
        for (row, _, attempt, due) in rows {
            self.counts.again += usize::from(*attempt > 1);
            self.unsure.remove(row);
            self.held.insert(*row, Held { selector, attempt: *attempt, due: *due, is_exact: true });
        }
    }
}

#[tokio::test]
async fn delivery_is_exact() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, count) = match number("WEIR_SEED") {
        Some(seed) => (seed, 1),
        None => {
            let first = number("WEIR_FIRST_SEED").unwrap_or(0);
            (first, number("WEIR_SEEDS").unwrap_or(SEEDS))
        }
    };
    let mut counts = Counts::default();
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        let mut run = Run::new(seed).await;
        for _ in 0..STEPS {
            run.step().await;
        }
        run.finish().await;
        let found = run.check().await;
        counts.first += found.first;
        counts.again += found.again;
        run.weir.broker.close().await.unwrap();
    }
    println!("{} first deliveries and {} more in {count} runs", counts.first, counts.again);
    assert!(counts.first > 20 * count as usize && counts.again > count as usize, "too little was delivered");
}
