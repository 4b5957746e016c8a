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
//! Nothing here moves an offset or takes a row from anybody. A body is read where a selector of a group asks for it. The work is
//! done in slices on the pool of reading threads, and each of its parts, finding messages, finding their copies, reading the
//! journal and asking selectors, ends after the time that the caller gives.

mod answer;
mod assemble;
mod fate;
mod find;
mod history;
mod pending;
mod sift;
mod standing;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_storage::{QueueId, Wait};

pub use self::answer::{
    DeadLetterTrace, GroupState, GroupTrace, JournalReach, JudgingSelector, MessageTrace, PendingState,
    PendingTrace, SearchReach, TraceEvent, TracedMessage,
};
use self::{
    assemble::{Assembly, Items},
    find::{Found, Search, Wanted},
    history::History,
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
    /// How long it is looked for, how long the journal is read, and how long selectors are asked; more than [`TRACE_TIME_MAX`] is taken as that.
    pub within: Duration,
}

impl Broker {
    /// Tells what became of messages.
    ///
    /// If time runs out before one is found, or none is where something cannot be read, there is no message in the answer, and
    /// it says how far that has come.
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
            None => core.all_topics(),
        };
        let within = request.within.min(TRACE_TIME_MAX);
        let only = request.topic.is_some().then(|| topics.first().map(|topic| topic.id)).flatten();
        let wanted = wanted(&request, &topics)?;
        let is_place = matches!(wanted, Wanted::Place(..));
        // Of a place, its queue alone is looked at.
        let only_topic = topics.first().filter(|_| is_place).cloned();
        let mut places: Vec<_> = topics.into_iter().map(|topic| (topic, false)).collect();
        if !is_place {
            places.extend(core.pending.topic().map(|topic| (Arc::clone(topic), true)));
        }
        let before_ms = core.time.wall_ms();
        let search = Search::new(Arc::clone(core), places, vec![wanted], only, request.limit, within);
        let (found, more, searched) = self.examined(search).await?;
        if found.is_empty() && searched.complete && searched.unreadable == 0 {
            let message = request.name.to_string();
            let rows = only_topic.map_or(searched.of, |topic| rows_of(core, &topic));
            return Err(EngineError::NothingToTrace { message, topic: request.topic, rows });
        }
        let mut answer =
            MessageTrace { messages: Vec::new(), more, searched, journal: JournalReach::default() };
        if found.is_empty() {
            return Ok(answer);
        }
        // Else what became of a pending row may be where it was not looked.
        let is_whole = (searched.complete || more) && searched.unreadable == 0;
        let (found, copies) = self.copies(found, &mut answer.searched, within).await?;
        let worker = Arc::clone(core);
        let asked = core.reads.run(move || {
            let items = Items::of(&worker, found, copies);
            let standings = items.standings(&worker);
            (Arc::new(items), standings)
        });
        let (items, standings) = asked.await?;
        // Behind it, the journal holds all that groups have just remembered.
        let is_behind = core.journal(Vec::new(), Wait::Written).done().await.is_ok();
        let history = History::new(core.storage.journal_history(), items.rows(), items.pending(), within);
        let mut told = self.examined(history).await?;
        told.reach.complete &= is_behind;
        answer.journal = told.reach;
        let ended_before_ms = is_whole.then_some(before_ms);
        let assembly = Assembly::new(Arc::clone(core), items, standings, told, ended_before_ms, within);
        answer.messages = self.examined(assembly).await?;
        Ok(answer)
    }

    /// Finds the copies of messages in the dead-letter topics of the groups that read their topics. How far it was looked
    /// for them is added to `reach`.
    async fn copies(
        &self,
        found: Vec<Found>,
        reach: &mut SearchReach,
        within: Duration,
    ) -> Result<(Vec<Found>, Vec<Found>), EngineError> {
        let core = &self.core;
        let worker = Arc::clone(core);
        let asked = core.reads.run(move || {
            let (topics, wanted) = copies_wanted(&worker, &found);
            (found, topics, wanted)
        });
        let (found, topics, wanted) = asked.await?;
        if topics.is_empty() || wanted.is_empty() {
            return Ok((found, Vec::new()));
        }
        let search = Search::new(Arc::clone(core), topics, wanted, None, TRACE_GROUPS_MAX, within);
        let (copies, _, of_copies) = self.examined(search).await?;
        reach.add(&of_copies);
        Ok((found, copies))
    }
}

/// Returns the dead-letter topics in which copies of messages may be, and what to look for there.
fn copies_wanted(core: &Core, found: &[Found]) -> (Vec<(Arc<Topic>, bool)>, Vec<Wanted>) {
    let (mut letters, mut known, mut wanted) = (BTreeMap::new(), HashSet::new(), Vec::new());
    for found in found.iter().filter(|found| !found.is_pending) {
        let Some(topic) = core.topics.read().by_id.get(&found.place.topic).cloned() else { continue };
        // What fails in a dead-letter topic stays there.
        if topic.name.is_dead_letter() {
            continue;
        }
        wanted.extend(Wanted::copy_of(&topic.name, found));
        if !known.insert(topic.id) {
            continue;
        }
        for reader in topic.readers() {
            if let Some(copies) = core.known_topic(&TopicName::dead_letter_of(&reader.group_name)) {
                letters.insert(copies.id, copies);
            }
        }
    }
    (letters.into_values().map(|topic| (topic, false)).collect(), wanted)
}

/// Counts the messages of a topic that are retained.
fn rows_of(core: &Core, topic: &Topic) -> u64 {
    let queues = (0..topic.queues()).map(QueueId);
    queues.map(|queue| core.range(topic.id, queue)).map(|rows| rows.end.since(rows.start).unwrap_or(0)).sum()
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
