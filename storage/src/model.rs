//! A model of storage: random appends, acknowledgements, ends of rows and topics, compactions, stops, kills and
//! power losses on a simulated disk, compared with plain vectors. Without threads, so that a seed does the same every time.

mod damage;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    catalogue::{DurabilityClass, NewTopic},
    clock::VirtualClock,
    error::StorageError,
    journal::{JournalEntry, OpenRow, Wait},
    log::appender::Append,
    message::Message,
    offset::{GroupId, QueueId, QueueOffset, TopicId},
    queue::view::{Part, QueueView},
    sim::{SimCall, SimEnv},
    storage::{Events, Storage, StorageOptions},
};

const SEEDS: u64 = 2000;
const STEPS: u64 = 120;
const DIR: &str = "/data";
const GROUP: GroupId = GroupId(1);

type Place = (TopicId, QueueId);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Passed to storage; no answer yet.
    Open,
    Acknowledged,
    /// Answered with an error: it may be there or not.
    Refused,
}

#[derive(Default)]
struct Told {
    /// The fate of each message.
    fates: BTreeMap<u64, Fate>,
    /// The offset that a message was given.
    offsets: BTreeMap<u64, QueueOffset>,
    visible: BTreeMap<Place, QueueOffset>,
    rotate: bool,
    failed: bool,
    /// Acknowledgements by consumers that storage has confirmed, and how safe they are.
    acked: BTreeMap<(Place, QueueOffset), Wait>,
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Told>>);

impl Events for Listener {
    fn visible(&self, topic: TopicId, queue: QueueId, end: QueueOffset) {
        let mut told = self.0.lock();
        let known = told.visible.entry((topic, queue)).or_default();
        assert!(*known < end, "visible ends rise");
        *known = end;
    }
    fn rotate_journal(&self) {
        self.0.lock().rotate = true;
    }
    fn failed(&self, _: &StorageError) {
        self.0.lock().failed = true;
    }
}

/// What a stop does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Clean,
    Kill,
    PowerLoss,
}

struct Model {
    seed: u64,
    random: Random,
    env: SimEnv,
    clock: Arc<VirtualClock>,
    storage: Option<Storage>,
    told: Listener,
    topics: Vec<(TopicId, DurabilityClass)>,
    /// The messages passed to storage, per queue, in order.
    sent: BTreeMap<Place, Vec<u64>>,
    /// The first retained row of each queue, where it has been raised.
    firsts: BTreeMap<Place, QueueOffset>,
    /// Ends of rows that were answered with an error: they count, or do not.
    open_ends: Vec<(Place, QueueOffset, Vec<u64>)>,
    /// What readers hold on to, with the messages that it shows.
    held: Vec<(QueueView, QueueOffset, Vec<u64>)>,
    /// Topics made so far.
    made: u64,
    /// Rows that groups have asked to acknowledge.
    asked: BTreeSet<(Place, QueueOffset)>,
    next_message: u64,
}

fn options(env: &SimEnv, clock: &Arc<VirtualClock>) -> StorageOptions {
    StorageOptions {
        env: Arc::new(env.clone()),
        clock: Arc::clone(clock) as _,
        log_segment_bytes_min: 16 << 10,
        log_segment_bytes_max: 64 << 10,
        zero_ahead_bytes: 8 << 10,
        journal_segment_bytes: 4 << 10,
        journal_zero_ahead_bytes: 1 << 10,
        journal_rotate_bytes: 4 << 10,
        recent_bytes_max: 16 << 10,
        compaction_bytes_min: 5000,
        busy_after: Duration::ZERO,
        ..StorageOptions::small()
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let env = SimEnv::new(seed);
        let clock = Arc::new(VirtualClock::new(1_700_000_000_000));
        let told = Listener::default();
        let storage =
            Storage::open_stepped(Path::new(DIR), options(&env, &clock), Arc::new(told.clone())).unwrap();
        let mut topics = Vec::new();
        for (name, class) in [("sync", DurabilityClass::Sync), ("async", DurabilityClass::Async)] {
            let new = NewTopic {
                name: name.into(),
                queues: 2,
                class,
                attributes: "{}".into(),
                ..NewTopic::default()
            };
            topics.push((storage.create_topic(new).unwrap().id, class));
        }
        let storage = Some(storage);
        let (sent, asked) = (BTreeMap::new(), BTreeSet::new());
        Self {
            seed,
            random: Random(seed),
            env,
            clock,
            storage,
            told,
            topics,
            sent,
            firsts: BTreeMap::new(),
            open_ends: Vec::new(),
            held: Vec::new(),
            made: 0,
            asked,
            next_message: 0,
        }
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("it is closed only between lives")
    }

    fn class(&self, place: Place) -> DurabilityClass {
        self.topics.iter().find(|(id, _)| *id == place.0).unwrap().1
    }

    fn step(&mut self) {
        self.clock.advance(Duration::from_millis(self.random.below(5)));
        match self.random.below(115) {
            0..30 => self.append(),
            30..50 => self.storage().inner().append_once(),
            50..62 => {
                let all = self.random.below(3) == 0;
                self.storage().inner().flush_once(all);
            }
            62..72 => self.storage().inner().build_once(),
            72..74 => {
                self.storage().inner().merge_once();
            }
            74..77 => {
                let _ = self.storage().inner().upkeep_once(&mut |_| ());
            }
            77..79 => {
                let _ = self.storage().inner().mark_running();
                let _ = self.storage().checkpoint();
            }
            79..91 => self.acknowledge(),
            91..93 => self.check_visible(),
            93..95 => {
                let used = self.env.used();
                let room = self.random.below(30_000);
                self.env.set_capacity((self.random.below(2) == 0).then_some(used + room));
            }
            95..97 => self.env.fail_power_after(self.random.below(12)),
            100..106 => self.end_rows(),
            106..111 => {
                if self.storage().checkpoint().is_ok() {
                    let _ = self.storage().inner().compact_once(&mut |_| Ok(()));
                }
                self.check_held();
            }
            111 => self.replace_topic(),
            112..115 => {
                let call = [SimCall::Write, SimCall::Sync, SimCall::Name][self.random.below(3) as usize];
                self.env.fail(call, self.random.below(6), io::ErrorKind::Other);
            }
            97 => self.restart(Stop::Clean),
            98 => self.restart(Stop::Kill),
            99.. => self.restart(Stop::PowerLoss),
        }
        if std::mem::take(&mut self.told.0.lock().rotate) {
            self.rotate();
        }
        if self.env.is_off() {
            self.restart(Stop::PowerLoss);
        } else if self.told.0.lock().failed {
            // The process ends; the page cache keeps what the failed sync did not write.
            let stop = [Stop::Kill, Stop::PowerLoss][self.random.below(2) as usize];
            self.restart(stop);
        }
    }

    fn append(&mut self) {
        let mut batch = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..[1, 1, 2, 4][self.random.below(4) as usize] {
            let place = (self.topics[self.random.below(2) as usize].0, QueueId(self.random.below(2) as u32));
            let number = self.next_message;
            self.next_message += 1;
            numbers.push(number);
            self.sent.entry(place).or_default().push(number);
            // Few different lengths, so that frames of one life often end where those of another did.
            let filler = [20, 20, 20, 20, 4000, 9000][self.random.below(6) as usize];
            let body = [number.to_le_bytes().to_vec(), vec![7; filler as usize]].concat();
            let message = Message { body: body.into(), ..Message::default() };
            batch.push(Append { topic: place.0, queue: place.1, message });
        }
        let told = self.told.clone();
        told.0.lock().fates.extend(numbers.iter().map(|number| (*number, Fate::Open)));
        // Taken at once, given up, or not had: the steps of appender and builder come anyway.
        let takes_turn = self.random.below(3) == 0;
        let turn = self.storage().append_now(
            batch,
            Box::new(move |result| {
                let mut told = told.0.lock();
                match result {
                    Ok(appended) => {
                        for (number, appended) in numbers.into_iter().zip(appended) {
                            told.fates.insert(number, Fate::Acknowledged);
                            told.offsets.insert(number, appended.offset);
                        }
                    }
                    Err(_) => told.fates.extend(numbers.into_iter().map(|number| (number, Fate::Refused))),
                }
            }),
        );
        match turn {
            Ok(Some(turn)) if takes_turn => turn.write(),
            Ok(_) => {}
            Err(admitted) => self.storage().append_admitted(admitted),
        }
    }

    fn first(&self, place: Place) -> QueueOffset {
        self.firsts.get(&place).copied().unwrap_or_default()
    }

    /// Ends some of the oldest rows of a queue.
    fn end_rows(&mut self) {
        let place = (self.topics[self.random.below(2) as usize].0, QueueId(self.random.below(2) as u32));
        if self.env.is_off() {
            return;
        }
        let view = self.storage().view(place.0, place.1).unwrap();
        let range = view.range();
        let to = QueueOffset(range.start.0 + self.random.below(range.end.0 - range.start.0 + 1));
        let rows = self.rows(place).unwrap();
        let ended = rows[..(to.0 - range.start.0) as usize].to_vec();
        self.held.truncate(3);
        self.held.insert(0, (view, range.start, rows));
        match self.storage().set_first_offset(place.0, place.1, to) {
            Ok(()) => self.rows_ended(place, to, &ended),
            Err(_) => self.open_ends.push((place, to, ended)),
        }
    }

    /// The rows of a queue below `to` have ended, of which these were there.
    fn rows_ended(&mut self, place: Place, to: QueueOffset, ended: &[u64]) {
        if to <= self.first(place) {
            return;
        }
        self.firsts.insert(place, to);
        let sent = self.sent.entry(place).or_default();
        let count = sent.iter().rposition(|number| ended.contains(number)).map_or(0, |last| last + 1);
        sent.drain(..count);
    }

    /// Deletes a topic and makes another one.
    fn replace_topic(&mut self) {
        self.env.set_capacity(None);
        let number = self.random.below(2) as usize;
        let _ = self.storage().delete_topic(self.topics[number].0);
        self.env.fail_no_more();
        self.settle_topics();
    }

    /// Forgets the topics that are gone, and makes new ones in their place.
    fn settle_topics(&mut self) {
        for number in 0..self.topics.len() {
            let (id, class) = self.topics[number];
            if self.storage().topic(id).is_some() {
                continue;
            }
            self.made += 1;
            let name = format!("again-{}", self.made);
            let new = NewTopic { name, queues: 2, class, attributes: "{}".into(), ..NewTopic::default() };
            let Ok(made) = self.storage().create_topic(new) else {
                let has_failed = self.told.0.lock().failed;
                assert!(self.env.is_off() || has_failed, "seed {}", self.seed);
                return;
            };
            self.topics[number].0 = made.id;
            self.sent.retain(|(topic, _), _| *topic != id);
            self.firsts.retain(|(topic, _), _| *topic != id);
            self.open_ends.retain(|((topic, _), ..)| *topic != id);
            self.asked.retain(|((topic, _), _)| *topic != id);
            let mut told = self.told.0.lock();
            told.visible.retain(|(topic, _), _| *topic != id);
            told.acked.retain(|((topic, _), _), _| *topic != id);
        }
    }

    /// Who holds on to a view reads what it shows, or learns that there is no such record any more.
    fn check_held(&self) {
        if self.env.is_off() {
            return;
        }
        for (view, first, rows) in &self.held {
            for (number, offset) in rows.iter().zip(first.0..) {
                match self.row(view, QueueOffset(offset)) {
                    Ok((_, found)) => assert_eq!(found, *number),
                    Err(error) => assert!(matches!(error, StorageError::NoRecord { .. }), "{error}"),
                }
            }
        }
    }

    /// Acknowledges, as a consumer, some row that is visible.
    fn acknowledge(&mut self) {
        let place = (self.topics[self.random.below(2) as usize].0, QueueId(self.random.below(2) as u32));
        let end = self.storage().view(place.0, place.1).unwrap().range().end;
        if end.0 == 0 {
            return;
        }
        // Most often one of the last, which a crash is most likely to take away.
        let offset = QueueOffset(match self.random.below(4) {
            0 => self.random.below(end.0),
            _ => end.0 - 1 - self.random.below(end.0.min(3)),
        });
        let wait = [Wait::None, Wait::Written, Wait::Durable][self.random.below(3) as usize];
        self.asked.insert((place, offset));
        let entry = JournalEntry::Ack { group: GROUP, topic: place.0, queue: place.1, offsets: vec![offset] };
        let told = self.told.clone();
        let done = move |result: Result<(), StorageError>| {
            if result.is_ok() && wait != Wait::None {
                let acked = &mut told.0.lock().acked;
                let known = acked.entry((place, offset)).or_insert(wait);
                if wait == Wait::Durable {
                    *known = wait;
                }
            }
        };
        self.storage().journal(vec![entry], wait, Some(Box::new(done)));
    }

    /// Writes what a rotation asks for. Rows that were acknowledged stand in as open rows here.
    fn rotate(&self) {
        let places: BTreeSet<Place> = self.asked.iter().map(|(place, _)| *place).collect();
        let entries = places.into_iter().map(|place| JournalEntry::Queue {
            group: GROUP,
            topic: place.0,
            queue: place.1,
            cursors: Vec::new(),
            open: self
                .asked
                .iter()
                .filter(|(of, _)| *of == place)
                .map(|(_, offset)| OpenRow {
                    offset: *offset,
                    attempt: 1,
                    lease: 0,
                    until_ms: 0,
                    slot: 0,
                    leased: false,
                })
                .collect(),
        });
        self.storage().journal(entries.collect(), Wait::Written, None);
        self.storage().journal_rotated();
    }

    fn places(&self) -> Vec<Place> {
        self.topics.iter().flat_map(|(id, _)| [(*id, QueueId(0)), (*id, QueueId(1))]).collect()
    }

    /// Reads every visible row of a queue, and returns the numbers of its messages.
    fn rows(&self, place: Place) -> Result<Vec<u64>, StorageError> {
        let view = self.storage().view(place.0, place.1).unwrap();
        let range = view.range();
        (range.start.0..range.end.0)
            .map(|offset| {
                let (of, number) = self.row(&view, QueueOffset(offset))?;
                assert_eq!(of, place);
                Ok(number)
            })
            .collect()
    }

    /// Reads a row, and returns its queue and the number of its message.
    fn row(&self, view: &QueueView, offset: QueueOffset) -> Result<(Place, u64), StorageError> {
        let block = match view.part_at(offset).expect("offsets have no gaps") {
            Part::Segment(segment, block) => segment.block(block)?,
            Part::Run(block) => block,
        };
        let row = offset.since(block.base()).unwrap() as usize;
        assert!(block.lost().is_none_or(|lost| !lost.value(row)), "no row is lost without damage");
        let position = crate::offset::LogPosition(block.positions()?.value(row));
        let stored = self.storage().read(position)?;
        assert_eq!(stored.offset, offset);
        let number = u64::from_le_bytes(stored.message.body[..8].try_into().unwrap());
        Ok(((stored.topic, stored.queue), number))
    }

    /// What readers see is what was sent, in order, and nothing that was not stored yet.
    fn check_visible(&self) {
        if self.env.is_off() {
            return;
        }
        for place in self.places() {
            assert_eq!(self.storage().view(place.0, place.1).unwrap().range().start, self.first(place));
            let rows = self.rows(place).unwrap();
            self.check_order(place, &rows, |_| false);
        }
        self.check_held();
    }

    /// Checks that `rows` are messages of the queue in the order sent, that they were given these offsets,
    /// and that, before the last of them, and wherever `must_be_there` says so, none is missing that was not refused.
    #[track_caller]
    fn check_order(&self, place: Place, rows: &[u64], must_be_there: impl Fn(u64) -> bool) {
        let told = self.told.0.lock();
        let mut rest = (self.first(place).0..).zip(rows.iter().copied()).peekable();
        for number in self.sent.get(&place).into_iter().flatten() {
            match rest.peek().copied() {
                Some((offset, row)) if row == *number => {
                    rest.next();
                    let given = told.offsets.get(number);
                    assert!(given.is_none_or(|given| given.0 == offset), "{number} has moved");
                }
                Some(_) => {
                    let fate = told.fates[number];
                    assert_eq!(
                        fate,
                        Fate::Refused,
                        "{number} is missing before others in {place:?}: {rows:?}"
                    );
                }
                None => assert!(!must_be_there(*number), "{number} is gone from {place:?}: {rows:?}"),
            }
        }
        assert_eq!(rest.next(), None, "rows that were never sent");
    }

    fn restart(&mut self, stop: Stop) {
        self.env.set_capacity(None);
        self.env.fail_no_more();
        let storage = self.storage.take().expect("it is closed only between lives");
        let stop = match (stop, self.env.is_off()) {
            (_, true) => Stop::PowerLoss,
            (Stop::Clean, false) => match storage.close() {
                Ok(()) => Stop::Clean,
                // The power failed meanwhile.
                Err(_) => Stop::PowerLoss,
            },
            (stop, false) => stop,
        };
        match stop {
            Stop::PowerLoss => self.env.lose_power(),
            Stop::Clean | Stop::Kill => self.env.kill(),
        }
        drop(storage);
        self.held.clear();
        if stop != Stop::Clean && self.random.below(6) == 0 {
            // The next start reads the whole log.
            self.env.lose(&Path::new(DIR).join("checkpoint"));
        }
        if self.random.below(4) == 0 {
            // A full disk keeps nobody from reading.
            self.env.set_capacity(Some(self.env.used() + self.random.below(2) * self.random.below(10_000)));
        }
        self.open_again(stop);
    }

    fn open_again(&mut self, mut stop: Stop) {
        let visible = std::mem::take(&mut self.told.0.lock().visible);
        self.told.0.lock().failed = false;
        self.told.0.lock().rotate = false;
        // The power may fail again while the start is under way.
        let fails_again = stop == Stop::PowerLoss && self.random.below(3) == 0;
        if fails_again {
            self.env.fail_power_after(self.random.below(25));
        }
        let open = || {
            let options = options(&self.env, &self.clock);
            Storage::open_stepped(Path::new(DIR), options, Arc::new(self.told.clone()))
        };
        let mut opened = open();
        if self.env.is_off() || opened.is_err() {
            assert!(self.env.is_off(), "seed {}: {:?}", self.seed, opened.err());
            drop(opened);
            stop = Stop::PowerLoss;
            self.env.lose_power();
            opened = open();
        }
        let storage = opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let report = storage.report();
        assert!(report.fences.is_empty() && report.journal_fences.is_empty(), "no damage: {report:?}");
        assert!(stop != Stop::Clean || report.clean, "{report:?}");
        self.storage = Some(storage);
        self.env.set_capacity(None);
        self.settle_topics();
        if self.env.is_off() {
            self.told.0.lock().visible = visible;
            return self.restart(Stop::PowerLoss);
        }
        for (place, to, ended) in std::mem::take(&mut self.open_ends) {
            if self.storage().view(place.0, place.1).is_some_and(|view| view.range().start >= to) {
                self.rows_ended(place, to, &ended);
            }
        }
        let ends = self.check_rows(stop, &visible);
        self.check_journal(stop, &ends);
    }

    fn check_rows(&mut self, stop: Stop, visible: &BTreeMap<Place, QueueOffset>) -> BTreeMap<Place, u64> {
        let mut ends = BTreeMap::new();
        for place in self.places() {
            let first = self.first(place);
            assert_eq!(self.storage().view(place.0, place.1).unwrap().range().start, first, "{place:?}");
            let rows = self.rows(place).unwrap();
            let fates = self.told.0.lock().fates.clone();
            let safe = stop != Stop::PowerLoss || self.class(place) == DurabilityClass::Sync;
            self.check_order(place, &rows, |number| safe && fates[&number] == Fate::Acknowledged);
            let seen = visible.get(&place).copied().unwrap_or_default();
            assert!(!safe || seen.0 <= first.0 + rows.len() as u64, "a reader saw what is gone");
            ends.insert(place, first.0 + rows.len() as u64);
            // What is there now stays; what is not is forgotten, and was never acknowledged for good.
            let mut told = self.told.0.lock();
            for (offset, number) in (first.0..).zip(&rows) {
                told.offsets.insert(*number, QueueOffset(offset));
                told.fates.insert(*number, Fate::Acknowledged);
            }
            drop(told);
            self.sent.insert(place, rows);
        }
        ends
    }

    fn check_journal(&mut self, stop: Stop, ends: &BTreeMap<Place, u64>) {
        let mut replayed = BTreeSet::new();
        for entry in self.storage().take_journal() {
            match entry {
                JournalEntry::Ack { topic, queue, offsets, .. } => {
                    replayed.extend(offsets.into_iter().map(|offset| ((topic, queue), offset)));
                }
                JournalEntry::Queue { topic, queue, open, .. } => {
                    replayed.retain(|(place, _)| *place != (topic, queue));
                    replayed.extend(open.into_iter().map(|row| ((topic, queue), row.offset)));
                }
                other => panic!("{other:?} was never written"),
            }
        }
        for (place, offset) in &replayed {
            assert!(offset.0 < ends[place], "the journal names a row that is gone");
            assert!(self.asked.contains(&(*place, *offset)), "nobody acknowledged {offset} of {place:?}");
        }
        let mut told = self.told.0.lock();
        for ((place, offset), wait) in std::mem::take(&mut told.acked) {
            let safe = stop != Stop::PowerLoss || wait == Wait::Durable;
            let there = replayed.contains(&(place, offset));
            assert!(
                there || !safe || ends.get(&place).is_none_or(|end| offset.0 >= *end),
                "an acknowledgement is lost: {offset} of {place:?}"
            );
            if there {
                // It was replayed, from files that the start has synced.
                told.acked.insert((place, offset), Wait::Durable);
            }
        }
        drop(told);
        self.asked = replayed;
    }
}

/// Takes those steps of a seed. Each draws random numbers of its own, so that leaving one out changes no other.
fn run(seed: u64, steps: &[u64]) {
    let mut model = Model::new(seed);
    for step in steps {
        model.random = Random(Random(seed ^ step.rotate_left(32)).below(u64::MAX));
        model.step();
    }
    if seed.is_multiple_of(2) {
        model.restart(Stop::Clean);
    } else {
        model.random = Random(seed);
        model.damage();
    }
}

fn fails(seed: u64, steps: &[u64]) -> bool {
    std::panic::catch_unwind(|| run(seed, steps)).is_err()
}

/// Leaves out steps, many at once and then few, as long as those that stay fail.
fn shrunk(mut steps: Vec<u64>, fails: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    let mut count = steps.len() / 2;
    while count > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + count).min(steps.len()));
            if fails(&fewer) {
                steps = fewer;
            } else {
                at += count;
            }
        }
        count /= 2;
    }
    steps
}

#[test]
fn steps_that_do_not_matter_are_left_out() {
    let fails = |steps: &[u64]| steps.contains(&7) && steps.contains(&90);
    assert_eq!(shrunk((0..120).collect(), fails), [7, 90]);
}

/// `WEIR_SEED` runs one seed, of which `WEIR_STEPS` may name the steps; `WEIR_SEEDS` that many, from
/// `WEIR_FIRST_SEED` on.
#[test]
fn crashes_lose_nothing_that_was_promised() {
    let variable = |name| std::env::var(name).ok();
    let number = |name| variable(name).and_then(|number| number.parse::<u64>().ok());
    let all: Vec<u64> = (0..STEPS).collect();
    if let Some(seed) = number("WEIR_SEED") {
        let named = |text: String| text.split(',').map(|step| step.parse().unwrap()).collect();
        return run(seed, &variable("WEIR_STEPS").map_or(all, named));
    }
    let first = number("WEIR_FIRST_SEED").unwrap_or(0);
    let end = first.saturating_add(number("WEIR_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failed = Mutex::new(None);
    let work = || {
        while failed.lock().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            if fails(seed, &all) {
                failed.lock().get_or_insert(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some(seed) = failed.into_inner() {
        eprintln!("seed {seed} fails; steps are left out while it does");
        let steps = shrunk(all, |steps| fails(seed, steps));
        let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
        panic!("run it alone with WEIR_SEED={seed} WEIR_STEPS={}", steps.join(","));
    }
}
