//! Puts the answer of a trace together, one group of one message a step: asks groups where they stand, and has their
//! selectors judge the message.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_filter::Selector;
use weir_storage::PendingRow;

use super::{
    answer::{GroupTrace, TraceEvent, TracedMessage},
    deadline,
    fate::{GroupFate, NOT_JUDGED, UNREADABLE},
    find::{Found, RowPlace},
    history::Told,
    pending::PendingFound,
    standing::Standing,
};
use crate::{
    broker::Core,
    error::EngineError,
    examine::truth_of,
    group::Subscription,
    limits::{TRACE_ANSWER_BYTES_MAX, TRACE_GROUPS_MAX},
    name::TopicName,
    reads::{Produce, Progress},
    topic::Topic,
};

/// The messages of an answer, and the copies that groups have made of them.
pub(super) struct Items {
    /// The copies come first: each is shown below its message.
    all: Vec<Item>,
    copies: usize,
}

/// A message that is visible or pending.
struct Item {
    found: Found,
    /// Its topic, or the one that it is for; `None` if that is deleted.
    topic: Option<Arc<Topic>>,
    /// What it was before it became visible, or still is.
    pending: Option<PendingFound>,
}

/// Where the groups that read the topic of an item stand.
#[derive(Default)]
pub(super) struct Standings {
    asked: VecDeque<Standing>,
    /// So many more read it, and were not asked.
    left_out: u64,
}

impl Items {
    /// Reads records: not to be called on a thread of the runtime.
    pub(super) fn of(core: &Core, found: Vec<Found>, copies: Vec<Found>) -> Self {
        // A copy is shown below its message, not beside it.
        let is_copy = |found: &Found| copies.iter().any(|copy| copy.place == found.place);
        let (pending, visible): (Vec<Found>, Vec<Found>) =
            found.into_iter().filter(|found| !is_copy(found)).partition(|found| found.is_pending);
        let released: Vec<PendingRow> = visible.iter().filter_map(|found| found.released).collect();
        let pending = pending.into_iter().filter(|found| !released.contains(&found.pending_row()));
        let mut messages: Vec<Item> =
            visible.into_iter().chain(pending).map(|found| Item::of(core, found)).collect();
        messages.sort_by_key(|item| std::cmp::Reverse(item.found.message.store_time_ms));
        let mut all: Vec<Item> = copies.into_iter().map(|found| Item::of(core, found)).collect();
        let copies = all.len();
        all.append(&mut messages);
        Self { all, copies }
    }

    /// The rows of which the journal is asked.
    pub(super) fn rows(&self) -> Vec<RowPlace> {
        self.all.iter().map(|item| item.found.place).collect()
    }

    pub(super) fn pending(&self) -> Vec<PendingRow> {
        self.all.iter().filter_map(|item| item.pending.as_ref().map(|pending| pending.row)).collect()
    }

    /// Asks groups where they stand with each item, the messages before the copies, as long as there is room.
    pub(super) fn standings(&self, core: &Core) -> Vec<Standings> {
        let (mut groups, mut bytes) = (TRACE_GROUPS_MAX, TRACE_ANSWER_BYTES_MAX);
        let mut readers = HashMap::new();
        let mut standings: Vec<Standings> = self.all.iter().map(|_| Standings::default()).collect();
        let (copies, messages) = standings.split_at_mut(self.copies);
        let (of_copies, of_messages) = self.all.split_at(self.copies);
        let in_order = of_messages.iter().zip(messages).chain(of_copies.iter().zip(copies));
        for (item, standings) in in_order {
            let Some(topic) = item.visible() else { continue };
            let readers: &Vec<Arc<Subscription>> = readers.entry(topic.id).or_insert_with(|| {
                let mut readers = topic.readers();
                readers.sort_unstable_by(|left, right| left.group_name.cmp(&right.group_name));
                readers
            });
            let place = &item.found.place;
            for (number, reader) in readers.iter().enumerate() {
                if groups == 0 || bytes == 0 {
                    standings.left_out = readers.len().saturating_sub(number) as u64;
                    break;
                }
                if let Some(standing) = Standing::of(core, reader, place.queue, place.offset) {
                    (groups, bytes) = (groups - 1, bytes.saturating_sub(standing.bytes()));
                    standings.asked.push_back(standing);
                }
            }
        }
        standings
    }
}

impl Item {
    fn of(core: &Core, found: Found) -> Self {
        let topics = core.topics.read();
        let target = found.pending.map(|target| target.topic);
        let topic = topics.by_id.get(&target.unwrap_or(found.place.topic)).cloned();
        drop(topics);
        let pending = PendingFound::of(core, &found);
        Self { found, topic, pending }
    }

    /// Whether a group may read it.
    fn visible(&self) -> Option<&Arc<Topic>> {
        self.topic.as_ref().filter(|_| !self.found.is_pending)
    }
}

/// An answer that is being put together.
pub(super) struct Assembly {
    core: Arc<Core>,
    items: Arc<Items>,
    told: Told,
    /// What was done before that moment has been looked for to the end where it would be visible.
    ended_before_ms: Option<i64>,
    /// The moment of the answer, which is NOW to selectors.
    now_ms: i64,
    deadline: Instant,
    bytes_left: usize,
    /// Of the items from `at` on.
    standings: VecDeque<Standings>,
    at: usize,
    now: Option<(TracedMessage, Standings)>,
    /// What the selectors that were asked say of the message.
    judged: HashMap<Selector, &'static str>,
    /// Those that are ready, until their message takes them.
    copies: Vec<Option<TracedMessage>>,
    /// Where they are, by dead-letter topic.
    copies_of: BTreeMap<TopicName, Vec<usize>>,
    messages: Vec<TracedMessage>,
    is_over: bool,
}

impl Assembly {
    pub(super) fn new(
        core: Arc<Core>,
        items: Arc<Items>,
        standings: Vec<Standings>,
        told: Told,
        ended_before_ms: Option<i64>,
        within: Duration,
    ) -> Self {
        let mut copies_of: BTreeMap<TopicName, Vec<usize>> = BTreeMap::new();
        for (number, item) in items.all.iter().take(items.copies).enumerate() {
            if let Some(topic) = &item.topic {
                copies_of.entry(topic.name.clone()).or_default().push(number);
            }
        }
        Self {
            now_ms: core.time.wall_ms(),
            core,
            items,
            told,
            ended_before_ms,
            deadline: deadline(within),
            bytes_left: TRACE_ANSWER_BYTES_MAX,
            standings: standings.into(),
            at: 0,
            now: None,
            judged: HashMap::new(),
            copies: Vec::new(),
            copies_of,
            messages: Vec::new(),
            is_over: false,
        }
    }

    /// Tells of the next group; returns false if there is none.
    fn step(&mut self) -> bool {
        let items = Arc::clone(&self.items);
        let Some(item) = items.all.get(self.at) else { return false };
        let (mut message, mut standings) = self.now.take().unwrap_or_else(|| self.begin(item));
        let Some(standing) = standings.asked.pop_front() else {
            if self.at < items.copies {
                self.copies.push(Some(message));
            } else {
                self.messages.push(message);
            }
            self.at += 1;
            self.judged.clear();
            return true;
        };
        let copy = self.copy_of(item, &standing);
        let truths = self.judge(item, &standing);
        let events = self.told.events(&item.found.place, standing.group_id);
        let (reach, now_ms) = (self.told.reach, self.now_ms);
        let (offset, stored_ms) = (item.found.place.offset, item.found.message.store_time_ms);
        let group = GroupFate { offset, stored_ms, standing, events, reach, now_ms, truths }.traced(copy);
        match self.bytes_left.checked_sub(bytes_of_group(&group)) {
            Some(left) => {
                self.bytes_left = left;
                message.groups.push(group);
            }
            None => message.groups_left_out += 1,
        }
        self.now = Some((message, standings));
        true
    }

    fn begin(&mut self, item: &Item) -> (TracedMessage, Standings) {
        let standings = self.standings.pop_front().unwrap_or_default();
        let mut message = item.found.message.clone();
        message.topic = item.topic.as_ref().map(|topic| topic.name.clone());
        let pending = item.pending.as_ref();
        message.pending = pending.map(|pending| pending.traced(&self.core, &self.told, self.ended_before_ms));
        message.groups_left_out = standings.left_out;
        self.bytes_left = self.bytes_left.saturating_sub(bytes_of_message(&message));
        (message, standings)
    }

    /// Takes the copy that a group has made of a message: the newest, as a reset can have it fail again.
    fn copy_of(&mut self, item: &Item, standing: &Standing) -> Option<TracedMessage> {
        let numbers = self.copies_of.get(&TopicName::dead_letter_of(&standing.group))?;
        let copies = numbers.iter().filter_map(|number| Some((*number, &self.items.all.get(*number)?.found)));
        let (number, _) = copies
            .filter(|(_, copy)| copy.is_copy_of(&item.found, item.topic.as_deref()))
            .max_by_key(|(_, copy)| copy.message.log_position)?;
        self.copies.get_mut(number)?.take()
    }

    /// Has the selectors of a group judge a message. What many groups ask for is judged once.
    fn judge(&mut self, item: &Item, standing: &Standing) -> Vec<&'static str> {
        let mut truths = Vec::with_capacity(standing.selectors.len());
        for selector in &standing.selectors {
            let Some(predicate) = &selector.predicate else {
                truths.push(UNREADABLE);
                continue;
            };
            if let Some(truth) = self.judged.get(predicate.selector()) {
                truths.push(*truth);
                continue;
            }
            if Instant::now() >= self.deadline {
                truths.push(NOT_JUDGED);
                continue;
            }
            let found = &item.found;
            let truth = truth_of(&predicate.at(self.now_ms), &found.block, found.row).unwrap_or(UNREADABLE);
            self.judged.insert(predicate.selector().clone(), truth);
            truths.push(truth);
        }
        truths
    }
}

impl Produce for Assembly {
    type Item = Vec<TracedMessage>;

    fn advance(&mut self, until: Instant) -> Result<Progress<Self::Item>, EngineError> {
        if self.is_over {
            return Ok(Progress::End);
        }
        while self.step() {
            if Instant::now() >= until {
                return Ok(Progress::More);
            }
        }
        self.is_over = true;
        Ok(Progress::Item(std::mem::take(&mut self.messages)))
    }
}

/// About how many bytes a group takes in an answer, without the copy of the message.
fn bytes_of_group(group: &GroupTrace) -> usize {
    const FIELDS: usize = 128;
    let selectors = group.selectors.iter().map(|selector| FIELDS + selector.text.len());
    let events = group.events.iter().map(|event| match event {
        TraceEvent::Leased { client, selector, .. } => {
            FIELDS + client.as_ref().map_or(0, String::len) + selector.as_ref().map_or(0, |text| text.len())
        }
        _ => FIELDS,
    });
    FIELDS + selectors.chain(events).sum::<usize>()
}

fn bytes_of_message(message: &TracedMessage) -> usize {
    const FIELDS: usize = 1024;
    let lists = message.keys.iter().chain(&message.properties);
    let texts = [&message.born_host, &message.producer_group, &message.tag, &message.trace_context];
    FIELDS + lists.chain(texts.into_iter().flatten()).map(String::len).sum::<usize>()
}
