//! Lite topics: where a group stands in each, and which clients subscribe to them.
//!
//! Plain data, behind the lock of the subscription. A group that is bound to a parent topic has neither selectors nor
//! cursors there, but a [`Position`] for each lite topic. Its open rows are those of any group (`state.rs`), and the rows
//! of a lite topic a line in them (`order.rs`).
//!
//! ```text
//! rows of a lite topic:   done or open │ next … │ end        looked
//!                                      └ known to be there ┘    └ up to here, of all lite topics of the queue
//! ```
//!
//! # Invariants
//!
//! - Of the rows of a lite topic below its `next`, each is open or done. Below `looked` of its queue, none lies at or
//!   behind its `end`; there may be fewer than `end` says.
//! - The clients of a position are exactly those whose set has its name.

mod names;
mod receive;
mod sync;

use std::{
    collections::{BTreeMap, HashSet as LineSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_storage::{QueueId, QueueOffset};

use super::order::Line;
use crate::limits::CLIENT_ALIVE;

pub(crate) use names::check_name as check_lite_topic;
pub(super) use receive::receive;
pub use sync::{LiteAction, LiteFrom, LiteSync, LiteUnsubscribed};

/// A group in the lite topics of its parent.
#[derive(Debug, Default)]
pub(crate) struct Lite {
    positions: HashMap<Arc<str>, Position>,
    by_line: HashMap<Line, Arc<str>>,
    clients: HashMap<Arc<str>, Interest>,
    /// Rows below are looked at, for all positions of the queue.
    looked: BTreeMap<QueueId, QueueOffset>,
    /// Queues whose rows a receive looks at now, and whether another one has come to look meanwhile.
    looking: BTreeMap<QueueId, bool>,
    /// That a queue has as many open rows as it may have was said in the log.
    has_warned: bool,
    subscribed: Subscribed,
}

/// Counts the subscriptions of one group among those of the broker, until it is dropped.
#[derive(Debug, Default)]
struct Subscribed {
    here: usize,
    all: Arc<AtomicUsize>,
}

/// Where a group stands in a lite topic.
#[derive(Debug)]
struct Position {
    queue: QueueId,
    line: Line,
    next: QueueOffset,
    end: QueueOffset,
    clients: Vec<Arc<str>>,
    /// When the last client has gone, or the position was made or put back by a start.
    left: Duration,
    /// Since the start nobody has subscribed; how long that was so before it is not known.
    is_restored: bool,
}

/// What a client has subscribed to.
#[derive(Debug)]
struct Interest {
    /// With their queues.
    names: HashMap<Arc<str>, QueueId>,
    /// Lite topics that others have taken over from it, and that it has not let go of yet.
    evicted: HashSet<Arc<str>>,
    refreshed: Duration,
}

/// A lite topic from which a client can be given rows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    name: Arc<str>,
    line: Line,
    next: QueueOffset,
    end: QueueOffset,
}

impl Subscribed {
    fn change(&mut self, add: usize, remove: usize) {
        self.here = (self.here + add).saturating_sub(remove);
        self.all.fetch_add(add, Ordering::Relaxed);
        self.all.fetch_sub(remove, Ordering::Relaxed);
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.all.fetch_sub(self.here, Ordering::Relaxed);
    }
}

impl Lite {
    /// Puts back a position that the journal names.
    pub(super) fn restore(&mut self, name: &str, queue: QueueId, next: QueueOffset, now: Duration) {
        match self.positions.get_mut(name) {
            Some(position) => (position.queue, position.next, position.end) = (queue, next, next),
            None => self.begin(name.into(), queue, next, now).is_restored = true,
        }
    }

    /// Forgets a position, as the journal says.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(position) = self.positions.remove(name) {
            self.by_line.remove(&position.line);
        }
    }

    /// Nothing lies at `end` of a queue, or above: a crash may have cut off what the journal names.
    pub(crate) fn cut(&mut self, queue: QueueId, end: QueueOffset) {
        for position in self.positions.values_mut().filter(|position| position.queue == queue) {
            position.next = position.next.min(end);
            position.end = position.end.min(end);
        }
    }

    /// Counts subscriptions in `all` from now on.
    fn count_in(&mut self, all: &Arc<AtomicUsize>) {
        if !Arc::ptr_eq(&self.subscribed.all, all) {
            let here = self.subscribed.here;
            self.subscribed.change(0, here);
            self.subscribed.all = Arc::clone(all);
            self.subscribed.change(here, 0);
        }
    }

    fn begin(&mut self, name: Arc<str>, queue: QueueId, next: QueueOffset, now: Duration) -> &mut Position {
        let line = Line::of_lite(&name);
        self.by_line.insert(line, Arc::clone(&name));
        // Rows that were looked at before there was the position may be its.
        let end = self.looked.get(&queue).map_or(next, |looked| next.max(*looked));
        let made = Position { queue, line, next, end, clients: Vec::new(), left: now, is_restored: false };
        self.positions.entry(name).insert(made).into_mut()
    }

    /// Puts a position elsewhere, or makes it there.
    fn put(&mut self, name: &Arc<str>, queue: QueueId, next: QueueOffset, now: Duration) {
        let looked = self.looked.get(&queue).copied();
        match self.positions.get_mut(name) {
            Some(position) => {
                position.next = next;
                position.end = position.end.max(looked.unwrap_or(next)).max(next);
            }
            None => drop(self.begin(Arc::clone(name), queue, next, now)),
        }
    }

    /// Returns up to which row of a queue, which shows `range`, all rows were looked at.
    fn looked(&mut self, queue: QueueId, range: &Range<QueueOffset>) -> QueueOffset {
        let positions = &self.positions;
        let looked = self.looked.entry(queue).or_insert_with(|| {
            let here = positions.values().filter(|position| position.queue == queue);
            here.map(|position| position.next).min().unwrap_or(range.end)
        });
        *looked = (*looked).clamp(range.start, range.end.max(range.start));
        *looked
    }

    /// Notes that the rows of a queue up to `to` were looked at, and the last row of each lite topic among them. Returns
    /// the clients that there is something for.
    fn saw<'n>(
        &mut self,
        queue: QueueId,
        to: QueueOffset,
        last: impl IntoIterator<Item = (&'n str, QueueOffset)>,
    ) -> HashSet<Arc<str>> {
        let mut clients = HashSet::new();
        for (name, offset) in last {
            let Some(position) = self.positions.get_mut(name) else { continue };
            if offset >= position.next {
                position.end = position.end.max(offset.plus(1));
                clients.extend(position.clients.iter().cloned());
            }
        }
        if let Some(looked) = self.looked.get_mut(&queue) {
            *looked = (*looked).max(to);
        }
        clients
    }

    /// Returns the lines of a queue to which a client subscribes.
    fn lines(&self, client: &str, queue: QueueId) -> LineSet<Line> {
        self.of(client, queue).map(|(_, position)| position.line).collect()
    }

    fn of(&self, client: &str, queue: QueueId) -> impl Iterator<Item = (&Arc<str>, &Position)> {
        let names = self.clients.get(client).into_iter().flat_map(|interest| &interest.names);
        let names = names.filter(move |(_, of)| **of == queue);
        names.filter_map(|(name, _)| Some((name, self.positions.get(name)?)))
    }

    /// Returns the lite topics of a client that have rows in a queue, whose first is `first`, and of which none is open.
    fn wanted(&self, client: &str, queue: QueueId, first: QueueOffset, held: &LineSet<Line>) -> Vec<Wanted> {
        let wanted = self.of(client, queue).filter_map(|(name, position)| {
            let Position { line, next, end, .. } = *position;
            let next = next.max(first);
            (next < end && !held.contains(&line)).then(|| Wanted { name: Arc::clone(name), line, next, end })
        });
        wanted.collect()
    }

    /// Moves a position on to `next`, unless it was put elsewhere or has moved on since it was `wanted`. Returns whether.
    fn advance(&mut self, wanted: &Wanted, first: QueueOffset, next: QueueOffset) -> bool {
        match self.positions.get_mut(&wanted.name) {
            Some(position) if position.next.max(first) == wanted.next.max(first) => {
                position.next = next.max(position.next);
                true
            }
            _ => false,
        }
    }

    /// Returns the clients that subscribe to the lite topics of some lines.
    pub(super) fn clients_of(&self, lines: impl IntoIterator<Item = Line>) -> HashSet<Arc<str>> {
        let names = lines.into_iter().filter_map(|line| self.by_line.get(&line));
        names.filter_map(|name| self.positions.get(name)).flat_map(|at| at.clients.iter().cloned()).collect()
    }

    /// Returns what is to be kept of each position of a queue.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&str, QueueId, QueueOffset)> {
        self.positions.iter().map(|(name, position)| (name.as_ref(), position.queue, position.next))
    }

    /// Returns whether a client has subscribed, and said so in the last two minutes.
    fn is_subscribed(&self, client: &str, now: Duration) -> bool {
        self.clients.get(client).is_some_and(|interest| interest.is_alive(now))
    }

    /// Returns whether a client has a lite topic in its set.
    fn subscribes(&self, client: &str, name: &str) -> bool {
        self.clients.get(client).is_some_and(|interest| interest.names.contains_key(name))
    }

    /// Returns the clients that subscribe, how many subscriptions they have, and the number of positions.
    pub(super) fn describe(&self) -> (Vec<String>, u64, u64) {
        let clients = self.clients.iter().filter(|(_, interest)| !interest.names.is_empty());
        let mut clients: Vec<String> = clients.map(|(client, _)| client.to_string()).collect();
        clients.sort_unstable();
        (clients, self.subscribed.here as u64, self.positions.len() as u64)
    }

    /// Adds a lite topic, whose position is there, to the set of a client.
    fn add(&mut self, client: &Arc<str>, name: &str) {
        let Some((name, position)) = self.positions.get_key_value(name) else { return };
        let (name, queue) = (Arc::clone(name), position.queue);
        let Some(interest) = self.clients.get_mut(client) else { return };
        interest.evicted.remove(&name);
        if interest.names.insert(Arc::clone(&name), queue).is_none()
            && let Some(position) = self.positions.get_mut(&name)
        {
            position.clients.push(Arc::clone(client));
            position.is_restored = false;
            self.subscribed.change(1, 0);
        }
    }

    /// Takes a lite topic out of the set of a client.
    fn remove(&mut self, client: &str, name: &str, now: Duration) {
        let Some(interest) = self.clients.get_mut(client) else { return };
        interest.evicted.remove(name);
        if interest.names.remove(name).is_none() {
            return;
        }
        self.subscribed.change(0, 1);
        if let Some(position) = self.positions.get_mut(name) {
            position.clients.retain(|other| **other != *client);
            position.left = now;
        }
    }

    /// Takes a lite topic away from all clients but one, and returns who had it.
    fn evict_others(&mut self, client: &str, name: &Arc<str>, now: Duration) -> Vec<Arc<str>> {
        let Some(position) = self.positions.get(name) else { return Vec::new() };
        let others: Vec<Arc<str>> =
            position.clients.iter().filter(|other| ***other != *client).cloned().collect();
        for other in &others {
            self.remove(other, name, now);
            if let Some(interest) = self.clients.get_mut(other)
                && interest.evicted.len() < sync::EVICTED_MAX
            {
                interest.evicted.insert(Arc::clone(name));
            }
        }
        others
    }

    /// Notes that a client keeps its set, if it has one that is not over yet.
    fn keep(&mut self, client: &str, now: Duration) {
        if let Some(interest) = self.clients.get_mut(client).filter(|interest| interest.is_alive(now)) {
            interest.refreshed = now;
        }
    }

    /// Notes that a client keeps its set, and begins one if it has none.
    fn refresh(&mut self, client: &str, now: Duration) -> Arc<str> {
        if let Some((name, _)) = self.clients.get_key_value(client) {
            let name = Arc::clone(name);
            if let Some(interest) = self.clients.get_mut(&name) {
                interest.refreshed = now;
            }
            return name;
        }
        let name: Arc<str> = client.into();
        let interest = Interest { names: HashMap::new(), evicted: HashSet::new(), refreshed: now };
        self.clients.insert(Arc::clone(&name), interest);
        name
    }

    /// Forgets a client with its set.
    pub(super) fn leave(&mut self, client: &str, now: Duration) {
        let Some(interest) = self.clients.get(client) else { return };
        let names: Vec<Arc<str>> = interest.names.keys().cloned().collect();
        names.iter().for_each(|name| self.remove(client, name, now));
        self.clients.remove(client);
    }

    /// Forgets the clients that have not refreshed their sets for two minutes.
    pub(super) fn expire(&mut self, now: Duration) {
        let silent = self.clients.iter().filter(|(_, interest)| !interest.is_alive(now));
        let silent: Vec<Arc<str>> = silent.map(|(client, _)| Arc::clone(client)).collect();
        silent.iter().for_each(|client| self.leave(client, now));
    }

    /// Forgets the positions of some queues to which nobody has subscribed for `kept`, or since the start if they lie below
    /// what is retained, and of which no row is left or open. Returns their names. For each queue what it shows, and the
    /// lines that have open rows.
    pub(super) fn fade(
        &mut self,
        mut queues: BTreeMap<QueueId, (Range<QueueOffset>, LineSet<Line>)>,
        kept: Duration,
        now: Duration,
    ) -> Vec<String> {
        // Of rows that nobody has looked at nobody knows whose they are.
        queues.retain(|queue, (range, _)| self.looked(*queue, range) >= range.end);
        // Where the row at the position has ended, none of the lite topic has come for as long as rows are kept. Clients
        // have the time to come back after a start.
        let waits = |position: &Position, first: QueueOffset| {
            if position.is_restored && position.next < first { CLIENT_ALIVE.min(kept) } else { kept }
        };
        let is_over = |position: &Position| {
            let Some((range, held)) = queues.get(&position.queue) else { return false };
            position.clients.is_empty()
                && position.end <= range.start
                && position.next <= range.start
                && now.saturating_sub(position.left) >= waits(position, range.start)
                && !held.contains(&position.line)
        };
        let over = self.positions.iter().filter(|(_, position)| is_over(position));
        let over: Vec<String> = over.map(|(name, _)| name.to_string()).collect();
        over.iter().for_each(|name| self.forget(name));
        over
    }
}

impl Interest {
    fn is_alive(&self, now: Duration) -> bool {
        now.saturating_sub(self.refreshed) <= CLIENT_ALIVE
    }
}

/// Who waits for rows of lite topics, by client.
#[derive(Debug, Default)]
pub(crate) struct LiteWaiters(Mutex<HashMap<Arc<str>, Waiting>>);

/// The receives of one client that may wait.
#[derive(Debug, Default)]
struct Waiting {
    notify: Arc<Notify>,
    count: usize,
}

/// A receive that may wait, until it is dropped.
#[derive(Debug)]
struct LitePlace<'a> {
    waiters: &'a LiteWaiters,
    client: Arc<str>,
    notify: Arc<Notify>,
}

impl LiteWaiters {
    fn enter(&self, client: &Arc<str>) -> LitePlace<'_> {
        let mut waiters = self.0.lock();
        let waiting = waiters.entry(Arc::clone(client)).or_default();
        waiting.count += 1;
        LitePlace { waiters: self, client: Arc::clone(client), notify: Arc::clone(&waiting.notify) }
    }

    /// Wakes all receives of some clients.
    pub(super) fn wake(&self, clients: &HashSet<Arc<str>>) {
        if clients.is_empty() {
            return;
        }
        let waiters = self.0.lock();
        let waiting = clients.iter().filter_map(|client| waiters.get(client));
        waiting.for_each(|waiting| waiting.notify.notify_waiters());
    }

    /// Wakes all receives.
    pub(super) fn wake_all(&self) {
        self.0.lock().values().for_each(|waiting| waiting.notify.notify_waiters());
    }
}

impl Drop for LitePlace<'_> {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock();
        if let Some(waiting) = waiters.get_mut(&self.client) {
            waiting.count -= 1;
            if waiting.count == 0 {
                waiters.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(0);

    fn at(offset: u64) -> QueueOffset {
        QueueOffset(offset)
    }

    fn range(start: u64, end: u64) -> Range<QueueOffset> {
        at(start)..at(end)
    }

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    /// A client `c` that subscribes to `a` and `b` from row 10 on, which is the end.
    fn subscribed() -> Lite {
        let mut lite = Lite::default();
        lite.looked(QUEUE, &range(0, 10));
        let client = lite.refresh("c", second(0));
        for name in ["a", "b"] {
            lite.put(&name.into(), QUEUE, at(10), second(0));
            lite.add(&client, name);
        }
        lite
    }

    fn wanted(lite: &Lite, client: &str, first: u64) -> Vec<(String, u64)> {
        let wanted = lite.wanted(client, QUEUE, at(first), &LineSet::new());
        let mut wanted: Vec<_> = wanted.into_iter().map(|of| (of.name.to_string(), of.next.0)).collect();
        wanted.sort();
        wanted
    }

    /// What fades with a retention of 1000 seconds.
    fn fade(lite: &mut Lite, range: Range<QueueOffset>, held: &LineSet<Line>, now: Duration) -> Vec<String> {
        lite.fade([(QUEUE, (range, held.clone()))].into(), second(1000), now)
    }

    #[test]
    fn rows_are_wanted_of_lite_topics_that_have_them() {
        let mut lite = subscribed();
        assert!(wanted(&lite, "c", 0).is_empty());
        let clients = lite.saw(QUEUE, at(20), [("a", at(12)), ("other", at(15)), ("b", at(3))]);
        assert_eq!(clients.into_iter().collect::<Vec<_>>(), ["c".into()]);
        assert_eq!(wanted(&lite, "c", 0), [("a".to_owned(), 10)]);
        assert!(wanted(&lite, "d", 0).is_empty());
        assert!(wanted(&lite, "c", 13).is_empty(), "it has ended");
        let of = lite.wanted("c", QUEUE, at(0), &LineSet::new()).remove(0);
        assert!(lite.wanted("c", QUEUE, at(0), &[of.line].into()).is_empty(), "a row of it is open");
        assert!(lite.advance(&of, at(0), at(13)));
        assert!(!lite.advance(&of, at(0), at(13)), "somebody else was quicker");
        assert!(wanted(&lite, "c", 0).is_empty());
    }

    #[test]
    fn a_position_that_is_put_back_is_read_from_there() {
        let mut lite = subscribed();
        lite.saw(QUEUE, at(20), [("a", at(12))]);
        lite.put(&"b".into(), QUEUE, at(4), second(1));
        assert_eq!(wanted(&lite, "c", 0), [("a".to_owned(), 10), ("b".to_owned(), 4)]);
        let client = lite.refresh("d", second(1));
        lite.put(&"new".into(), QUEUE, at(2), second(1));
        lite.add(&client, "new");
        assert_eq!(wanted(&lite, "d", 0), [("new".to_owned(), 2)]);
    }

    #[test]
    fn clients_that_are_silent_or_leave_subscribe_no_more_and_positions_stay() {
        let all = Arc::new(AtomicUsize::new(0));
        let mut lite = subscribed();
        lite.count_in(&all);
        lite.refresh("d", second(60));
        lite.add(&"d".into(), "a");
        assert_eq!(all.load(Ordering::Relaxed), 3);
        assert!(lite.is_subscribed("c", second(120)) && !lite.is_subscribed("c", second(121)));
        lite.expire(second(121));
        assert_eq!(lite.describe(), (vec!["d".to_owned()], 1, 2));
        lite.leave("d", second(121));
        assert_eq!((lite.describe().2, all.load(Ordering::Relaxed)), (2, 0));
        let client = lite.refresh("d", second(130));
        lite.add(&client, "a");
        assert_eq!(all.load(Ordering::Relaxed), 1);
        drop(lite);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_takes_a_lite_topic_over_evicts_the_others() {
        let mut lite = subscribed();
        let client = lite.refresh("d", second(1));
        lite.add(&client, "a");
        assert_eq!(lite.evict_others("d", &"a".into(), second(1)), ["c".into()]);
        assert!(lite.evict_others("d", &"a".into(), second(1)).is_empty());
        assert!(lite.clients["c"].evicted.contains("a") && !lite.clients["c"].names.contains_key("a"));
        lite.add(&"c".into(), "a");
        assert!(lite.clients["c"].evicted.is_empty());
    }

    #[test]
    fn a_position_fades_when_nobody_is_there_and_no_row_is_left() {
        let mut lite = subscribed();
        lite.saw(QUEUE, at(20), [("a", at(12))]);
        lite.leave("c", second(100));
        let none = LineSet::new();
        assert!(fade(&mut lite, range(12, 20), &none, second(2000)) == ["b"]);
        assert!(fade(&mut lite, range(13, 20), &none, second(1099)).is_empty(), "too early");
        let line = Line::of_lite("a");
        assert!(fade(&mut lite, range(13, 20), &[line].into(), second(1100)).is_empty(), "open");
        assert!(fade(&mut lite, range(13, 21), &none, second(1100)).is_empty(), "not looked at");
        assert_eq!(fade(&mut lite, range(13, 20), &none, second(1100)), ["a"]);
        assert!(lite.positions.is_empty() && lite.by_line.is_empty());
    }

    #[test]
    fn what_a_start_has_found_below_all_rows_fades_when_clients_had_the_time_to_come_back() {
        let mut lite = Lite::default();
        for (name, next) in [("a", 5), ("b", 10), ("c", 5)] {
            lite.restore(name, QUEUE, at(next), second(10));
        }
        lite.looked(QUEUE, &range(10, 10));
        let client = lite.refresh("c", second(20));
        lite.add(&client, "c");
        lite.leave("c", second(30));
        let mut fade = |now| fade(&mut lite, range(10, 10), &LineSet::new(), second(now));
        assert!(fade(129).is_empty());
        assert_eq!(fade(130), ["a"]);
        assert_eq!(fade(1010), ["b"], "of what is behind it nothing has ended");
        assert_eq!(fade(1030), ["c"]);
    }

    #[test]
    fn a_client_that_is_refused_keeps_the_set_that_it_has() {
        let mut lite = subscribed();
        lite.keep("c", second(100));
        assert!(lite.is_subscribed("c", second(220)));
        lite.keep("c", second(221));
        lite.keep("d", second(221));
        assert!(!lite.is_subscribed("c", second(221)) && !lite.is_subscribed("d", second(221)));
    }
}
