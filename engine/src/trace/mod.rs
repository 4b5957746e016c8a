//! What became of a message: from the log, the group journal and what groups remember. `docs/tracing.md` tells people.
//!
//! ```text
//! find ─► copies in dead-letter topics ─► where groups stand ─► the journal ─► what became of it
//!  hashes of ids and keys in consume        memory, under       read beside    of each message
//!  queues, newest block first; the          the locks           the broker     and each group
//!  records of rows that may match
//! ```
//!
//! What groups remember is asked before the journal is read, up to an end behind which lies nothing of what they
//! remembered: so the journal knows at least as much as they did, and where both tell, its last word holds. What neither
//! of them knows is said to be unknown.
//!
//! Nothing here moves an offset, takes a row from anybody or reads a body. The work is done in slices on the pool of reading threads, and
//! each of its two parts, finding and reading the journal, ends after the time that the caller gives.

mod answer;
mod fate;
mod find;
mod history;
mod standing;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_storage::{PendingRow, QueueId, Wait};

pub use self::answer::{
    DeadLetterTrace, GroupState, GroupTrace, JournalReach, JudgingSelector, MessageTrace, PendingState,
    PendingTrace, SearchReach, TraceEvent, TracedMessage,
};
use self::{
    fate::GroupFate,
    find::{Found, Search, Source, Wanted},
    history::{History, Told},
    standing::Standing,
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    examine::MessageName,
    limits::{TRACE_GROUPS_MAX, TRACE_MESSAGES_MAX, TRACE_NAME_BYTES_MAX, TRACE_TIME_MAX},
    name::TopicName,
    topic::Topic,
};

/// Which messages are traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TracedName {
    /// The one at a place of the topic, or those that have an id: a producer that tries again may use one twice.
    Message(MessageName),
    /// Those that have a key.
    Key(String),
}

/// What is to be traced.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    /// Where it is looked for, and for what it is pending; everywhere if nobody says. Without a topic, a place is the id that
    /// is written so.
    pub topic: Option<TopicName>,
    /// What is looked for.
    pub name: TracedName,
    /// How many messages are traced, the newest; 1 to [`TRACE_MESSAGES_MAX`].
    pub limit: usize,
    /// How long it is looked for, and how long the journal is read; more than [`TRACE_TIME_MAX`] is taken as that.
    pub within: Duration,
}

impl Broker {
    /// Tells what became of messages.
    ///
    /// If time runs out before one is found, there is no message in the answer, and it says how far that has come.
    ///
    /// # Errors
    ///
    /// If there is no such topic or queue, no such message is retained, or the request makes no sense.
    pub async fn trace(&self, mut request: TraceRequest) -> Result<MessageTrace, EngineError> {
        let core = &self.core;
        core.check_open()?;
        check(&request)?;
        // Without a topic it can only be an id that looks like a place.
        if let TracedName::Message(name @ MessageName::Place(..)) = &request.name
            && request.topic.is_none()
        {
            request.name = TracedName::Message(MessageName::Id(name.to_string()));
        }
        let topics = match &request.topic {
            Some(name) => vec![core.existing_topic(name)?],
            None => core.topics.read().by_name.values().cloned().collect(),
        };
        let within = request.within.min(TRACE_TIME_MAX);
        let only = request.topic.is_some().then(|| topics.first().map(|topic| topic.id)).flatten();
        let wanted = wanted(&request, &topics)?;
        let place = matches!(wanted, Wanted::Place(..));
        let mut sources = sources(core, &topics);
        if !place {
            sources.extend(core.pending.topic().into_iter().flat_map(|topic| sources_of(core, topic, true)));
        }
        let search = Search::new(sources, vec![wanted], only, request.limit, within);
        let (found, more, searched) = self.examined(search).await?;
        if found.is_empty() && searched.complete {
            let message = request.name.to_string();
            return Err(EngineError::NothingToTrace {
                message,
                topic: request.topic,
                rows: searched.messages,
            });
        }
        let mut answer =
            MessageTrace { messages: Vec::new(), more, searched, journal: JournalReach::default() };
        if found.is_empty() {
            return Ok(answer);
        }
        let copies = self.copies(&found, within).await?;
        let (worker, items) = (Arc::clone(core), Arc::new(Items::of(core, found, copies)));
        let asked = Arc::clone(&items);
        let standings = core.reads.run(move || asked.standings(&worker)).await?;
        // Behind it, the journal holds all that groups have just remembered.
        let is_behind = core.journal(Vec::new(), Wait::Written).done().await.is_ok();
        let history = History::new(core.storage.journal_history(), items.rows(), items.pending(), within);
        let told = self.examined(history).await?;
        answer.journal = JournalReach { complete: told.reach.complete && is_behind, ..told.reach };
        let reach = answer.journal;
        let (worker, whole) = (Arc::clone(core), answer.searched.complete || answer.more);
        let judged = move || items.assemble(&worker, standings, &told, reach, whole);
        answer.messages = core.reads.run(judged).await?;
        Ok(answer)
    }

    /// Finds the copies of messages in the dead-letter topics of the groups that read their topics.
    async fn copies(&self, found: &[Found], within: Duration) -> Result<Vec<Found>, EngineError> {
        let core = &self.core;
        let mut topics = BTreeMap::new();
        let mut wanted = Vec::new();
        for found in found.iter().filter(|found| !found.is_pending) {
            let Some(topic) = core.topics.read().by_id.get(&found.place.topic).cloned() else { continue };
            // What fails in a dead-letter topic stays there.
            if topic.name.is_dead_letter() {
                continue;
            }
            wanted.extend(Wanted::copy_of(&topic.name, found));
            for reader in topic.readers() {
                if let Ok(copies) = core.existing_topic(&TopicName::dead_letter_of(&reader.group_name)) {
                    topics.insert(copies.id, copies);
                }
            }
        }
        if topics.is_empty() || wanted.is_empty() {
            return Ok(Vec::new());
        }
        let topics: Vec<_> = topics.into_values().collect();
        let search = Search::new(sources(core, &topics), wanted, None, TRACE_GROUPS_MAX, within);
        self.examined(search).await.map(|(copies, ..)| copies)
    }
}

fn check(request: &TraceRequest) -> Result<(), EngineError> {
    if !(1..=TRACE_MESSAGES_MAX).contains(&request.limit) {
        let text = format!("limit is {}; 1 to {TRACE_MESSAGES_MAX} messages are traced", request.limit);
        return Err(EngineError::Invalid(text));
    }
    let name = match &request.name {
        TracedName::Message(MessageName::Place(..)) => return Ok(()),
        TracedName::Message(MessageName::Id(name)) | TracedName::Key(name) => name,
    };
    if name.is_empty() {
        return Err(EngineError::Invalid("name a message by its id, a key or QUEUE:OFFSET".to_owned()));
    }
    if name.len() > TRACE_NAME_BYTES_MAX {
        return Err(EngineError::Limit {
            what: "the id or key in bytes",
            actual: name.len() as u64,
            limit: TRACE_NAME_BYTES_MAX as u64,
            kind: LimitKind::Other,
        });
    }
    Ok(())
}

fn wanted(request: &TraceRequest, topics: &[Arc<Topic>]) -> Result<Wanted, EngineError> {
    Ok(match &request.name {
        TracedName::Key(key) => Wanted::key(key),
        TracedName::Message(MessageName::Id(id)) => Wanted::id(id),
        TracedName::Message(MessageName::Place(queue, offset)) => {
            if let Some(topic) = topics.first().filter(|topic| queue.0 >= topic.queues()) {
                let (topic, queues) = (topic.name.clone(), topic.queues());
                return Err(EngineError::QueueNotFound { topic, queue: queue.0, queues });
            }
            Wanted::Place(*queue, *offset)
        }
    })
}

fn sources(core: &Core, topics: &[Arc<Topic>]) -> Vec<Source> {
    topics.iter().flat_map(|topic| sources_of(core, topic, false)).collect()
}

fn sources_of(core: &Core, topic: &Arc<Topic>, is_pending: bool) -> Vec<Source> {
    let views = (0..topic.queues()).map(QueueId).filter_map(|queue| core.storage.view(topic.id, queue));
    views.map(|view| Source { view, is_pending }).collect()
}

/// The messages of an answer, and the copies that groups have made of them.
struct Items {
    messages: Vec<Item>,
    copies: Vec<Item>,
}

/// A message that is visible or pending.
struct Item {
    found: Found,
    /// Its topic, or the one that it is for; `None` if that is deleted.
    topic: Option<Arc<Topic>>,
    /// What it was before it became visible, or still is.
    pending: Option<find::PendingFound>,
}

/// Where each group that reads the topic of an item stands.
type Standings = Vec<Vec<Standing>>;

impl Items {
    fn of(core: &Arc<Core>, found: Vec<Found>, copies: Vec<Found>) -> Self {
        // A copy is shown below its message, not beside it.
        let is_copy = |found: &Found| copies.iter().any(|copy| copy.place == found.place);
        let (pending, visible): (Vec<Found>, Vec<Found>) =
            found.into_iter().filter(|found| !is_copy(found)).partition(|found| found.is_pending);
        let released: Vec<PendingRow> = visible.iter().filter_map(|found| found.released).collect();
        let pending = pending.into_iter().filter(|found| !released.contains(&found.pending_row()));
        let mut messages: Vec<Item> =
            visible.into_iter().chain(pending).map(|found| Item::of(core, found)).collect();
        messages.sort_by_key(|item| std::cmp::Reverse(item.found.message.store_time_ms));
        let copies = copies.into_iter().map(|found| Item::of(core, found)).collect();
        Self { messages, copies }
    }

    fn all(&self) -> impl Iterator<Item = &Item> {
        self.messages.iter().chain(&self.copies)
    }

    /// The rows of which the journal is asked, in the order of [`all`](Self::all).
    fn rows(&self) -> Vec<find::RowPlace> {
        self.all().map(|item| item.found.place).collect()
    }

    fn pending(&self) -> Vec<PendingRow> {
        self.all().filter_map(|item| item.pending.as_ref().map(|pending| pending.row)).collect()
    }

    fn standings(&self, core: &Core) -> Standings {
        let mut left = TRACE_GROUPS_MAX;
        self.all()
            .map(|item| {
                let of_item = item.standings(core, left);
                left -= of_item.len().min(left);
                of_item
            })
            .collect()
    }

    fn assemble(
        &self,
        core: &Core,
        standings: Standings,
        told: &Told,
        reach: JournalReach,
        whole: bool,
    ) -> Vec<TracedMessage> {
        let mut standings: HashMap<_, _> = self.rows().into_iter().zip(standings).collect();
        let mut traced = |item: &Item, copies: &[(&Item, TracedMessage)]| {
            let standings = standings.remove(&item.found.place).unwrap_or_default();
            item.traced(core, standings, told, reach, whole, copies)
        };
        let copies: Vec<_> = self.copies.iter().map(|item| (item, traced(item, &[]))).collect();
        self.messages.iter().map(|item| traced(item, &copies)).collect()
    }
}

impl Item {
    fn of(core: &Arc<Core>, found: Found) -> Self {
        let topics = core.topics.read();
        let target = found.pending.map(|target| target.topic);
        let topic = topics.by_id.get(&target.unwrap_or(found.place.topic)).cloned();
        drop(topics);
        let pending = find::PendingFound::of(core, &found);
        Self { found, topic, pending }
    }

    /// Whether a group may read it.
    fn visible(&self) -> Option<&Arc<Topic>> {
        self.topic.as_ref().filter(|_| !self.found.is_pending)
    }

    fn standings(&self, core: &Core, count_max: usize) -> Vec<Standing> {
        let Some(topic) = self.visible() else { return Vec::new() };
        let mut readers = topic.readers();
        readers.sort_unstable_by(|left, right| left.group_name.cmp(&right.group_name));
        let place = &self.found.place;
        let standings =
            readers.iter().filter_map(|reader| Standing::of(core, reader, place.queue, place.offset));
        standings.take(count_max).collect()
    }

    fn traced(
        &self,
        core: &Core,
        standings: Vec<Standing>,
        told: &Told,
        reach: JournalReach,
        whole: bool,
        copies: &[(&Self, TracedMessage)],
    ) -> TracedMessage {
        let readers = self.visible().map_or(0, |topic| topic.readers().len());
        let mut traced = self.found.message.clone();
        traced.topic = self.topic.as_ref().map(|topic| topic.name.clone());
        traced.pending = self.pending.as_ref().map(|pending| pending.traced(core, told, whole));
        traced.groups_left_out = if standings.len() >= TRACE_GROUPS_MAX {
            readers.saturating_sub(standings.len()) as u64
        } else {
            0
        };
        let now_ms = core.time.wall_ms();
        traced.groups = standings
            .into_iter()
            .map(|standing| {
                let name = TopicName::dead_letter_of(&standing.group);
                // The newest: a reset can have it fail again.
                let copy = copies.iter().find(|(copy, _)| {
                    copy.topic.as_ref().is_some_and(|topic| topic.name == name)
                        && copy.found.is_copy_of(&self.found, self.topic.as_deref())
                });
                let events = told.events(&self.found.place, standing.group_id);
                GroupFate { found: &self.found, standing, events, reach, now_ms }
                    .traced(copy.map(|(_, copy)| copy.clone()))
            })
            .collect();
        traced
    }
}

impl std::fmt::Display for TracedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(MessageName::Id(id)) => write!(f, "with the id {}", visible(id)),
            Self::Message(place) => write!(f, "at {place}"),
            Self::Key(key) => write!(f, "with the key {}", visible(key)),
        }
    }
}

/// Returns the beginning of a name that somebody gave, with its control characters escaped.
fn visible(name: &str) -> String {
    const CHARS: usize = 200;
    let mut text = String::new();
    for character in name.chars().take(CHARS) {
        match character.is_control() {
            true => text.extend(character.escape_default()),
            false => text.push(character),
        }
    }
    if name.chars().nth(CHARS).is_some() {
        text.push('…');
    }
    text
}

/// The moment at which something ends that takes `within` at most.
fn deadline(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or(now)
}
