//! Topics: which exist, with how many queues, and how long their rows are retained.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use weir_filter::{Dialect, near};
use weir_storage::{
    Compression, DurabilityClass, JournalEntry, NewTopic, QueueId, QueueOffset, QueueView, Storage,
    TopicEntry, TopicId, Wait,
};

use crate::{
    arrivals::Arrivals,
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    group::{LiveQueue, Subscription},
    limits::{QUEUES_DEFAULT, QUEUES_MAX, RETENTION_DEFAULT, TOPICS_MAX},
    name::TopicName,
    publish::Published,
    serial,
    topic_type::TopicType,
};

/// So many bytes are compressed in a few hundred microseconds.
const PACKED_BYTES_QUICK: usize = 64 << 10;

/// How a topic is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSpec {
    /// How many queues it has. Default: 4.
    pub queues: u32,
    /// When its messages count as stored. Default: `sync`.
    pub class: DurabilityClass,
    /// How long rows are retained; `None` for ever. Default: 72 hours.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
    /// How many bytes of the log its rows may take before the oldest end; `None` or 0 for any number. Default: any.
    pub retention_bytes: Option<u64>,
    /// The language of selectors on it, unless a group says otherwise; `None` for that of the broker.
    #[serde(with = "serial::dialect_option")]
    pub dialect: Option<Dialect>,
    /// How the broker compresses bodies. Default: not at all.
    pub compression: Compression,
    /// Which messages it takes. Default: mixed.
    #[serde(rename = "type")]
    pub topic_type: TopicType,
}

impl Default for TopicSpec {
    fn default() -> Self {
        Self {
            queues: QUEUES_DEFAULT,
            class: DurabilityClass::Sync,
            retention: Some(RETENTION_DEFAULT),
            retention_bytes: None,
            dialect: None,
            compression: Compression::None,
            topic_type: TopicType::Mixed,
        }
    }
}

/// What is to change in a topic; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicChange {
    /// How many queues it is to have; they may only grow.
    pub queues: Option<u32>,
    /// When its messages count as stored.
    pub class: Option<DurabilityClass>,
    /// How long rows are retained.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
    /// How many bytes of the log its rows may take before the oldest end; 0 for any number.
    pub retention_bytes: Option<u64>,
    /// The language of selectors on it. Selectors in use stay what they are.
    #[serde(with = "serial::dialect_option")]
    pub dialect: Option<Dialect>,
    /// How the broker compresses bodies from now on. What is stored stays as it is.
    pub compression: Option<Compression>,
    /// Which messages it takes from now on. What is stored stays as it is.
    #[serde(rename = "type")]
    pub topic_type: Option<TopicType>,
}

/// A topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// Its number, never given twice.
    pub id: TopicId,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// How long rows are retained; `None` for ever.
    #[serde(rename = "retention_ms", with = "serial::duration_ms_option")]
    pub retention: Option<Duration>,
    /// How many bytes of the log its rows may take before the oldest end; `None` for any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// About how many bytes of the log its rows take.
    pub log_bytes: u64,
    /// The language of selectors on it; `None` for that of the broker.
    #[serde(default, with = "serial::dialect_option", skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// How the broker compresses the bodies of messages that are stored from now on.
    #[serde(default)]
    pub compression: Compression,
    /// Which messages it takes.
    #[serde(default, rename = "type")]
    pub topic_type: TopicType,
    /// Its queues, in order.
    pub queues: Vec<QueueDescription>,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
}

/// A queue as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDescription {
    /// Its number within the topic.
    pub queue: QueueId,
    /// The first retained row.
    pub first: QueueOffset,
    /// The first offset that is not visible yet.
    pub end: QueueOffset,
}

/// What a deleted topic had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDeleted {
    /// Its rows.
    pub messages: u64,
    /// Bytes that are free now: files of its queues, and segments of the log that nobody else needed.
    pub free_now_bytes: u64,
    /// About how many bytes of the log become free when the segments that hold them are compacted.
    pub free_soon_bytes: u64,
    /// About how long that takes; zero if there are none.
    #[serde(rename = "free_soon_ms", with = "serial::duration_ms")]
    pub free_soon: Duration,
    /// About how many bytes of the log become free when enough of the messages beside them end.
    pub free_later_bytes: u64,
}

/// A topic in memory.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
    created_ms: i64,
    settings: ArcSwap<Settings>,
    /// The groups that read it.
    readers: RwLock<Vec<Weak<Subscription>>>,
    /// Of each queue that some group has caught up with: the selectors that its new rows are judged for.
    live: RwLock<BTreeMap<QueueId, Arc<LiveQueue>>>,
    /// Counts the calls that publish to it, for the choice of their queue.
    turn: AtomicU32,
    /// Publishers whose rows are stored and not visible yet, each with the row in this queue that it waits for.
    unseen: Mutex<BTreeMap<QueueId, Vec<(QueueOffset, Unseen)>>>,
    /// Who waits for rows without being in a group.
    pub(crate) arrivals: Arrivals,
    gone: AtomicBool,
}

/// A publisher whose messages are stored, and who is told so once readers see them.
#[derive(Debug)]
pub(crate) struct Unseen {
    /// The last row in its queue, unless readers are known to see it: of most calls there is one.
    pub(crate) last: Option<(QueueId, QueueOffset)>,
    /// The last rows in other queues, likewise.
    pub(crate) others: Vec<(QueueId, QueueOffset)>,
    pub(crate) since: Instant,
    pub(crate) published: Vec<Published>,
    pub(crate) publisher: oneshot::Sender<Result<Vec<Published>, EngineError>>,
}

impl Unseen {
    fn tell(self) {
        // Nobody may be left to hear it.
        let _ = self.publisher.send(Ok(self.published));
    }
}

/// What may change in a topic.
#[derive(Clone, Debug)]
struct Settings {
    queues: u32,
    class: DurabilityClass,
    retention: Option<Duration>,
    retention_bytes: Option<u64>,
    dialect: Option<Dialect>,
    compression: Compression,
    topic_type: TopicType,
}

/// What storage keeps for us with a topic.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Attributes {
    #[serde(default, rename = "retention_ms", with = "serial::duration_ms_option")]
    retention: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention_bytes: Option<u64>,
    #[serde(default, with = "serial::dialect_option", skip_serializing_if = "Option::is_none")]
    dialect: Option<Dialect>,
    /// Absent from topics of before there were types.
    #[serde(default, rename = "type")]
    topic_type: TopicType,
}

/// What to do about a topic or group that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfExists {
    /// It is as good as a new one.
    Take,
    /// That is an error.
    Refuse,
}

impl Topic {
    /// Returns the topic of a catalogue entry, or `None`, with a line in the log, if its name is not allowed.
    pub(crate) fn of(entry: &TopicEntry) -> Option<Self> {
        let name = TopicName::new(&entry.namespace, &entry.name)
            .inspect_err(|error| tracing::error!(%error, "the catalogue names a topic that cannot exist"))
            .ok()?;
        Some(Self::named(entry, name))
    }

    /// Returns the topic of a catalogue entry under this name.
    pub(crate) fn named(entry: &TopicEntry, name: TopicName) -> Self {
        Self {
            id: entry.id,
            created_ms: entry.created_ms,
            settings: ArcSwap::from_pointee(Settings::of(entry, &name)),
            name,
            readers: RwLock::default(),
            live: RwLock::default(),
            turn: AtomicU32::new(0),
            unseen: Mutex::default(),
            arrivals: Arrivals::default(),
            gone: AtomicBool::new(false),
        }
    }

    pub(crate) fn queues(&self) -> u32 {
        self.settings.load().queues
    }

    pub(crate) fn class(&self) -> DurabilityClass {
        self.settings.load().class
    }

    pub(crate) fn retention(&self) -> Option<Duration> {
        self.settings.load().retention
    }

    pub(crate) fn retention_bytes(&self) -> Option<u64> {
        self.settings.load().retention_bytes
    }

    /// Returns whether its rows never end by themselves.
    pub(crate) fn keeps_all(&self) -> bool {
        let settings = self.settings.load();
        settings.retention.is_none() && settings.retention_bytes.is_none()
    }

    pub(crate) fn dialect(&self) -> Option<Dialect> {
        self.settings.load().dialect
    }

    /// Returns which messages it takes.
    pub(crate) fn topic_type(&self) -> TopicType {
        self.settings.load().topic_type
    }

    /// Returns whether it takes long, for a thread that others need, to compress so many bytes of bodies.
    pub(crate) fn is_slow_to_pack(&self, bytes: usize) -> bool {
        bytes > PACKED_BYTES_QUICK && !self.settings.load().compression.is_none()
    }

    /// Returns whether the topic has been deleted.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Returns the queue of the next call that publishes without a message group.
    pub(crate) fn next_queue(&self) -> QueueId {
        QueueId(self.turn.fetch_add(1, Ordering::Relaxed) % self.queues().max(1))
    }

    /// Adds a group that is told of visible rows.
    pub(crate) fn add_reader(&self, subscription: &Arc<Subscription>) {
        let mut readers = self.readers.write();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(subscription));
    }

    /// Returns the groups that read it.
    pub(crate) fn readers(&self) -> Vec<Arc<Subscription>> {
        self.readers.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells publishers and readers that the rows of a queue below `end` are visible.
    pub(crate) fn show(self: &Arc<Self>, core: &Core, queue: QueueId, end: QueueOffset) {
        let seen: Vec<Unseen> = match self.unseen.lock().get_mut(&queue) {
            Some(waiting) => {
                waiting.extract_if(.., |(row, _)| *row < end).map(|(_, unseen)| unseen).collect()
            }
            None => Vec::new(),
        };
        for unseen in seen {
            self.tell_when_seen(core, unseen);
        }
        for reader in self.readers.read().iter().filter_map(Weak::upgrade) {
            reader.waiters.wake_new(queue);
        }
        self.arrivals.tell(queue);
        // After those outside of the index: who joined in between has seen these rows, or is woken by the index.
        let live = self.live.read().get(&queue).cloned();
        if let Some(live) = live {
            live.tell(self, &core.evaluator);
        }
    }

    /// Returns the index of a queue.
    pub(crate) fn live(&self, queue: QueueId) -> Arc<LiveQueue> {
        if let Some(live) = self.live.read().get(&queue) {
            return Arc::clone(live);
        }
        Arc::clone(self.live.write().entry(queue).or_insert_with(|| Arc::new(LiveQueue::new(queue))))
    }

    /// Tells a publisher where its messages are once readers see them all: now, or in [`show`](Self::show).
    ///
    /// Runs on threads of storage too, so that the publisher is woken once, not first to learn where its rows are.
    pub(crate) fn tell_when_seen(&self, core: &Core, mut unseen: Unseen) {
        while let Some((queue, row)) = unseen.last.take().or_else(|| unseen.others.pop()) {
            let mut waiting = self.unseen.lock();
            // Under the lock, which `show` takes after the rows have become visible. Of a topic that is gone there is
            // nothing to see.
            if !self.is_gone() && core.range(self.id, queue).end <= row {
                waiting.entry(queue).or_default().push((row, unseen));
                return;
            }
        }
        unseen.tell();
    }

    /// Tells publishers whose rows have not become visible since `before`. Their messages are stored, whatever
    /// becomes of the consume queues.
    pub(crate) fn let_go(&self, before: Instant) {
        let mut unseen = self.unseen.lock();
        for (queue, waiting) in &mut *unseen {
            for (_, unseen) in waiting.extract_if(.., |(_, unseen)| unseen.since < before) {
                tracing::warn!(topic = %self.name, %queue, "the consume queues are far behind the log");
                unseen.tell();
            }
        }
    }

    /// Returns the topic as it is now.
    pub(crate) fn describe(&self, core: &Core) -> TopicDescription {
        let settings = self.settings.load();
        let mut log_bytes = 0;
        let queues = (0..settings.queues).map(|queue| {
            let view = core.storage.view(self.id, QueueId(queue));
            let range = view.as_ref().map_or(QueueOffset(0)..QueueOffset(0), QueueView::range);
            log_bytes += view.map_or(0, |view| view.about_record_bytes());
            QueueDescription { queue: QueueId(queue), first: range.start, end: range.end }
        });
        let queues = queues.collect();
        TopicDescription {
            name: self.name.clone(),
            id: self.id,
            class: settings.class,
            retention: settings.retention,
            retention_bytes: settings.retention_bytes,
            log_bytes,
            dialect: settings.dialect,
            compression: settings.compression,
            topic_type: settings.topic_type,
            queues,
            created_ms: self.created_ms,
        }
    }
}

impl Settings {
    fn of(entry: &TopicEntry, name: &TopicName) -> Self {
        let attributes = serde_json::from_str(&entry.attributes).unwrap_or_else(|error| {
            // For ever, since the alternative loses rows.
            tracing::error!(%error, topic = %name, "the settings of the topic cannot be read; its rows are kept");
            Attributes::default()
        });
        Self {
            queues: entry.queues,
            class: entry.class,
            retention: attributes.retention,
            retention_bytes: attributes.retention_bytes,
            dialect: attributes.dialect,
            compression: entry.compression,
            topic_type: attributes.topic_type,
        }
    }

    fn attributes(&self) -> Result<String, EngineError> {
        let attributes = Attributes {
            retention: self.retention,
            retention_bytes: self.retention_bytes,
            dialect: self.dialect,
            topic_type: self.topic_type,
        };
        serde_json::to_string(&attributes).map_err(|error| EngineError::Internal(error.to_string()))
    }
}

impl Broker {
    /// Makes a topic.
    ///
    /// # Errors
    ///
    /// If the name is taken or reserved, or the settings are not allowed.
    pub async fn create_topic(
        &self,
        name: &TopicName,
        spec: TopicSpec,
    ) -> Result<TopicDescription, EngineError> {
        check_not_reserved(name)?;
        let topic = self.core.create_topic(name, spec, IfExists::Refuse).await?;
        Ok(topic.describe(&self.core))
    }

    /// Changes a topic.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or it would have fewer queues or more than allowed.
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        change: TopicChange,
    ) -> Result<TopicDescription, EngineError> {
        let (core, name) = (Arc::clone(&self.core), name.clone());
        Core::to_the_end(async move { core.alter_topic(&name, change).await }).await
    }

    /// Deletes a topic with all its rows, and what groups remember of it.
    ///
    /// # Errors
    ///
    /// If there is no such topic.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<TopicDeleted, EngineError> {
        let (core, name) = (Arc::clone(&self.core), name.clone());
        Core::to_the_end(async move { core.delete_topic(&name).await }).await
    }

    /// Returns a topic as it is now.
    ///
    /// # Errors
    ///
    /// If there is no such topic; the error names near ones.
    pub fn topic(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        Ok(self.core.existing_topic(name)?.describe(&self.core))
    }

    /// Returns a topic as it is now, making it first if the broker makes topics on their first use.
    ///
    /// # Errors
    ///
    /// If there is no such topic and none is made.
    pub async fn topic_or_create(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        Ok(self.core.topic_or_create(name).await?.describe(&self.core))
    }

    /// Returns all topics, by name.
    pub fn topics(&self) -> Vec<TopicDescription> {
        let topics = self.core.all_topics();
        topics.iter().map(|topic| topic.describe(&self.core)).collect()
    }
}

impl Core {
    /// Returns all topics, by name.
    pub(crate) fn all_topics(&self) -> Vec<Arc<Topic>> {
        let mut topics: Vec<Arc<Topic>> = self.topics.read().by_name.values().cloned().collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// Returns a topic, if there is one of this name.
    pub(crate) fn known_topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.read().by_name.get(name).cloned()
    }

    /// Returns a topic, or an error that names near ones, which takes a while to find where there are many.
    pub(crate) fn existing_topic(&self, name: &TopicName) -> Result<Arc<Topic>, EngineError> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        let names: Vec<String> =
            self.topics.read().by_name.keys().take(10_000).map(ToString::to_string).collect();
        let near = near(&name.to_string(), names.iter().map(String::as_str));
        Err(EngineError::TopicNotFound { topic: name.clone(), near })
    }

    /// Returns a topic, making it first if the broker makes topics on their first use.
    pub(crate) async fn topic_or_create(
        self: &Arc<Self>,
        name: &TopicName,
    ) -> Result<Arc<Topic>, EngineError> {
        match self.known_topic(name) {
            Some(topic) => Ok(topic),
            None if self.options.auto_create_topics && !name.is_reserved() => {
                self.create_topic(name, TopicSpec::default(), IfExists::Take).await
            }
            None => self.existing_topic(name),
        }
    }

    pub(crate) async fn create_topic(
        self: &Arc<Self>,
        name: &TopicName,
        spec: TopicSpec,
        if_exists: IfExists,
    ) -> Result<Arc<Topic>, EngineError> {
        let (core, name) = (Arc::clone(self), name.clone());
        Self::to_the_end(async move { core.make_topic(&name, spec, if_exists).await }).await
    }

    async fn make_topic(
        &self,
        name: &TopicName,
        spec: TopicSpec,
        if_exists: IfExists,
    ) -> Result<Arc<Topic>, EngineError> {
        self.check_open()?;
        let TopicSpec { queues, class, retention, retention_bytes, dialect, compression, topic_type } = spec;
        let retention_bytes = retention_bytes.filter(|bytes| *bytes > 0);
        let settings =
            Settings { queues, class, retention, retention_bytes, dialect, compression, topic_type };
        check_settings(&settings)?;
        let _catalogue = self.catalogue.lock().await;
        let (known, count) = {
            let topics = self.topics.read();
            (topics.by_name.get(name).cloned(), topics.by_name.len())
        };
        match (known, if_exists) {
            (Some(topic), IfExists::Take) => return Ok(topic),
            (Some(_), IfExists::Refuse) => {
                return Err(EngineError::Exists { what: "topic", name: name.to_string() });
            }
            (None, _) => {}
        }
        if count >= TOPICS_MAX {
            return Err(limit("the number of topics", count as u64 + 1, TOPICS_MAX as u64));
        }
        let new = NewTopic {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            queues: settings.queues,
            class: settings.class,
            compression: settings.compression,
            attributes: settings.attributes()?,
        };
        let is_lite = settings.topic_type == TopicType::Lite;
        let make = move |storage: &Storage| {
            if is_lite {
                // Before the catalogue has what older programs would take for something else.
                storage.need_lite_topics()?;
            }
            storage.create_topic(new)
        };
        let entry = self.blocking(make).await?;
        let topic = Topic::of(&entry)
            .map(Arc::new)
            .ok_or_else(|| EngineError::Internal("storage changed the name of a topic".to_owned()))?;
        self.topics.write().insert(Arc::clone(&topic));
        Ok(topic)
    }

    async fn alter_topic(
        &self,
        name: &TopicName,
        change: TopicChange,
    ) -> Result<TopicDescription, EngineError> {
        self.check_open()?;
        let _catalogue = self.catalogue.lock().await;
        let topic = self.existing_topic(name)?;
        let mut settings = Settings::clone(&topic.settings.load());
        let queues = change.queues.unwrap_or(settings.queues);
        if queues < settings.queues {
            let text =
                format!("topic {name} has {} queues, and queues are never taken away", settings.queues);
            return Err(EngineError::Invalid(text));
        }
        let is_lite = |topic_type| topic_type == TopicType::Lite;
        let change_of_type = change.topic_type.filter(|to| is_lite(*to) != is_lite(settings.topic_type));
        if change_of_type.is_some() || is_lite(settings.topic_type) && queues != settings.queues {
            let text = format!(
                "topic {name}: whether a topic is of type lite, and how many queues it has then, is fixed when it is made"
            );
            return Err(EngineError::Invalid(text));
        }
        settings.queues = queues;
        settings.class = change.class.unwrap_or(settings.class);
        settings.retention = change.retention.or(settings.retention);
        settings.retention_bytes =
            change.retention_bytes.or(settings.retention_bytes).filter(|bytes| *bytes > 0);
        settings.dialect = change.dialect.or(settings.dialect);
        settings.compression = change.compression.unwrap_or(settings.compression);
        settings.topic_type = change.topic_type.unwrap_or(settings.topic_type);
        check_settings(&settings)?;
        let (id, class, compression) = (topic.id, settings.class, settings.compression);
        let attributes = settings.attributes()?;
        self.blocking(move |storage| storage.alter_topic(id, queues, class, compression, attributes)).await?;
        topic.settings.store(Arc::new(settings));
        Ok(topic.describe(self))
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<TopicDeleted, EngineError> {
        self.check_open()?;
        let _catalogue = self.catalogue.lock().await;
        let topic = self.existing_topic(name)?;
        let described = topic.describe(self);
        let messages = described.queues.iter().map(|queue| queue.end.since(queue.first).unwrap_or(0)).sum();
        let id = topic.id;
        let freed = self.blocking(move |storage| storage.delete_topic(id)).await?;
        self.topics.write().remove(&topic);
        topic.gone.store(true, Ordering::Release);
        topic.arrivals.tell_all();
        std::mem::take(&mut *topic.unseen.lock())
            .into_values()
            .flatten()
            .for_each(|(_, unseen)| unseen.tell());
        let groups: Vec<_> = self.groups.read().by_id.values().cloned().collect();
        groups.iter().for_each(|group| group.forget(id));
        self.reading.inference.forget(id);
        self.counted.forget(id);
        self.journal(vec![JournalEntry::DropTopic { topic: id }], Wait::Written).done().await?;
        Ok(TopicDeleted {
            messages,
            free_now_bytes: freed.now_bytes,
            free_soon_bytes: freed.soon_bytes,
            free_soon: freed.soon,
            free_later_bytes: freed.later_bytes,
        })
    }
}

fn check_not_reserved(name: &TopicName) -> Result<(), EngineError> {
    if name.is_reserved() {
        let text = format!("topic {name} has a reserved prefix: only the broker makes it");
        return Err(EngineError::Invalid(text));
    }
    Ok(())
}

fn check_settings(settings: &Settings) -> Result<(), EngineError> {
    if settings.queues == 0 {
        return Err(EngineError::Invalid("a topic has at least one queue".to_owned()));
    }
    if settings.queues > QUEUES_MAX {
        return Err(limit("the number of queues", settings.queues.into(), QUEUES_MAX.into()));
    }
    if settings.retention.is_some_and(|retention| retention.is_zero()) {
        return Err(EngineError::Invalid("the retention is at least a millisecond".to_owned()));
    }
    Ok(())
}

fn limit(what: &'static str, actual: u64, limit: u64) -> EngineError {
    EngineError::Limit { what, actual, limit, kind: LimitKind::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_before_there_were_types_is_mixed() {
        let attributes: Attributes = serde_json::from_str(r#"{"retention_ms":259200000}"#).unwrap();
        assert_eq!(attributes.topic_type, TopicType::Mixed);
        let attributes = Attributes { topic_type: TopicType::Priority, ..attributes };
        let text = serde_json::to_string(&attributes).unwrap();
        assert_eq!(text, r#"{"retention_ms":259200000,"type":"priority"}"#);
    }
}
