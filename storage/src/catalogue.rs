//! The catalogue: topics and groups with their attributes.
//!
//! Changes are appended to a sequence of frames and synced before they count. When the changes outgrow what
//! they left behind, a new segment begins with everything that is known, and the older ones are unlinked.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use weir_columns::KindSet;

use crate::{
    clock::Clock,
    compress::Compression,
    env::Env,
    error::StorageError,
    format::{
        catalogue::{CatalogueEntry, decode_entries, encode_entry},
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameKind, finish_frame},
        segment::SegmentKind,
    },
    limits::{
        ATTRIBUTES_BYTES_MAX, FRAME_BYTES_TARGET, NAME_BYTES_MAX, PROPERTY_KINDS_BYTES_MAX, QUEUES_MAX,
    },
    log::{
        fences::Fences,
        segment::{FrameLog, FrameLogSettings, FrameLogShared},
        walk::for_each_piece,
    },
    offset::{Epoch, GroupId, LogPosition, QueueId, QueueOffset, TopicId},
    recovery::{Known, find_end},
};

/// Changes may take so much before they are summed up, however little they leave behind.
const CHANGES_BYTES_MIN: u64 = 1 << 20;
/// Changes may take so many times the space of what they leave behind.
const CHANGES_FACTOR: u64 = 4;
const SEGMENT_BYTES: u64 = 64 << 20;
const ZERO_AHEAD_BYTES: u64 = 256 << 10;

/// When a message counts as stored, chosen per topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityClass {
    /// Acknowledged, and visible, once it is synced: survives power loss.
    #[default]
    Sync,
    /// Acknowledged, and visible, once it is written: survives `kill -9`; power loss may cost the last few hundred ms.
    Async,
}

/// A topic to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// How many queues it has at first.
    pub queues: u32,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// How the bodies of messages that are stored from now on are compressed.
    pub compression: Compression,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicEntry {
    /// Never given twice.
    pub id: TopicId,
    /// How often the topic has been emptied under this id, counted from 1.
    pub incarnation: u32,
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// How many queues it has; it never falls.
    pub queues: u32,
    /// When its messages count as stored.
    pub class: DurabilityClass,
    /// How the bodies of messages that are stored from now on are compressed.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// The first retained offset of each queue where that is not 0, by queue.
    pub first_offsets: Vec<(QueueId, QueueOffset)>,
    /// What kinds of values its properties have had, as far as readers asked. A kind stays when its rows end.
    #[serde(default)]
    pub property_kinds: BTreeMap<String, KindSet>,
}

/// A group to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewGroup {
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEntry {
    /// Never given twice.
    pub id: GroupId,
    /// Namespace; empty for the default one.
    pub namespace: String,
    /// Name, unique within the namespace.
    pub name: String,
    /// What only the engine understands, as JSON text.
    pub attributes: String,
    /// When it was made; milliseconds since 1970, UTC.
    pub created_ms: i64,
}

impl TopicEntry {
    /// Returns the first retained offset of a queue.
    pub fn first_offset(&self, queue: QueueId) -> QueueOffset {
        let at = self.first_offsets.binary_search_by_key(&queue, |(queue, _)| *queue);
        at.ok().and_then(|at| self.first_offsets.get(at)).map_or(QueueOffset(0), |(_, offset)| *offset)
    }
}

/// What is known of topics and groups.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) topics: HashMap<TopicId, Arc<TopicEntry>>,
    pub(crate) groups: HashMap<GroupId, Arc<GroupEntry>>,
    topic_names: HashMap<(String, String), TopicId>,
    group_names: HashMap<(String, String), GroupId>,
    next_topic: u32,
    next_group: u32,
}

impl State {
    pub(crate) fn apply(&mut self, entry: CatalogueEntry) {
        match entry {
            CatalogueEntry::Topic(topic) => {
                self.next_topic = self.next_topic.max(topic.id.0.saturating_add(1));
                self.topic_names.insert((topic.namespace.clone(), topic.name.clone()), topic.id);
                self.topics.insert(topic.id, Arc::new(topic));
            }
            CatalogueEntry::Group(group) => {
                self.next_group = self.next_group.max(group.id.0.saturating_add(1));
                self.group_names.insert((group.namespace.clone(), group.name.clone()), group.id);
                self.groups.insert(group.id, Arc::new(group));
            }
            CatalogueEntry::DropTopic(id) => {
                if let Some(topic) = self.topics.remove(&id) {
                    self.topic_names.remove(&(topic.namespace.clone(), topic.name.clone()));
                }
            }
            CatalogueEntry::DropGroup(id) => {
                if let Some(group) = self.groups.remove(&id) {
                    self.group_names.remove(&(group.namespace.clone(), group.name.clone()));
                }
            }
            CatalogueEntry::FirstOffset { topic, queue, offset } => {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    Arc::make_mut(topic).raise_first_offset(queue, offset);
                }
            }
            CatalogueEntry::PropertyKinds { topic, kinds } => {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    Arc::make_mut(topic).property_kinds.extend(kinds);
                }
            }
            CatalogueEntry::Next { topic, group } => {
                self.next_topic = self.next_topic.max(topic.0);
                self.next_group = self.next_group.max(group.0);
            }
        }
    }

    fn everything(&self) -> impl Iterator<Item = CatalogueEntry> {
        let next = CatalogueEntry::Next { topic: TopicId(self.next_topic), group: GroupId(self.next_group) };
        let topics = self.topics.values().map(|topic| CatalogueEntry::Topic(topic.as_ref().clone()));
        let groups = self.groups.values().map(|group| CatalogueEntry::Group(group.as_ref().clone()));
        std::iter::once(next).chain(topics).chain(groups)
    }
}

impl TopicEntry {
    fn raise_first_offset(&mut self, queue: QueueId, offset: QueueOffset) {
        match self.first_offsets.binary_search_by_key(&queue, |(queue, _)| *queue) {
            Ok(at) => {
                if let Some((_, first)) = self.first_offsets.get_mut(at) {
                    *first = offset.max(*first);
                }
            }
            Err(at) => self.first_offsets.insert(at, (queue, offset)),
        }
    }
}

/// Topics and groups, kept durably.
#[derive(Debug)]
pub(crate) struct Catalogue {
    state: RwLock<State>,
    /// Held over each change, so that changes reach the file in the order in which they count.
    changes: Mutex<Changes>,
    shared: Arc<FrameLogShared>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Changes {
    log: FrameLog,
    /// Where the last summing up began, and where it ended.
    summed: (LogPosition, LogPosition),
}

impl Catalogue {
    /// Reads the catalogue in `dir`, or begins one.
    pub(crate) fn open(
        env: &Arc<dyn Env>,
        dir: &Path,
        uuid: [u8; 16],
        known: &Known,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StorageError> {
        let settings = FrameLogSettings {
            kind: SegmentKind::Catalogue,
            dir: dir.to_owned(),
            uuid,
            segment_bytes_min: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
            zero_ahead_bytes: ZERO_AHEAD_BYTES,
        };
        let found = find_end(env.as_ref(), &settings, known)?;
        if let Some(fence) = found.new_fences.first().cloned() {
            // A topic that is not known any more would lose all its rows: better not to start.
            return Err(StorageError::Corrupt {
                path: fence.path,
                position: fence.position,
                fault: fence.fault,
            });
        }
        let mut state = State::default();
        for_each_piece(&found.segments, &Fences::default(), LogPosition(0)..found.end, &mut |piece| {
            let entries = decode_entries(piece.bytes);
            for entry in entries.map_err(StorageError::corrupt(dir, piece.position.0))? {
                state.apply(entry);
            }
            Ok(())
        })?;
        state.next_topic = state.next_topic.max(1);
        state.next_group = state.next_group.max(1);
        let first = found.segments.all().first().map_or(found.end, |segment| segment.base());
        let log = FrameLog::new(Arc::clone(env), settings, Epoch(0), found.segments, found.end);
        let shared = Arc::clone(&log.shared);
        let changes = Mutex::new(Changes { log, summed: (first, first) });
        Ok(Self { state: RwLock::new(state), changes, shared, clock })
    }

    /// What threads beside the writer need of the files.
    pub(crate) fn frames(&self) -> &FrameLogShared {
        &self.shared
    }

    /// Leaves nothing but zeros behind the end.
    pub(crate) fn leave(&self) -> Result<(), StorageError> {
        self.changes.lock().log.leave()
    }

    pub(crate) fn topic(&self, id: TopicId) -> Option<Arc<TopicEntry>> {
        self.state.read().topics.get(&id).cloned()
    }

    pub(crate) fn topic_named(&self, namespace: &str, name: &str) -> Option<Arc<TopicEntry>> {
        let state = self.state.read();
        let id = state.topic_names.get(&(namespace.to_owned(), name.to_owned()))?;
        state.topics.get(id).cloned()
    }

    pub(crate) fn topics(&self) -> Vec<Arc<TopicEntry>> {
        let mut topics: Vec<_> = self.state.read().topics.values().cloned().collect();
        topics.sort_unstable_by_key(|topic| topic.id);
        topics
    }

    pub(crate) fn groups(&self) -> Vec<Arc<GroupEntry>> {
        let mut groups: Vec<_> = self.state.read().groups.values().cloned().collect();
        groups.sort_unstable_by_key(|group| group.id);
        groups
    }

    pub(crate) fn create_topic(&self, new: NewTopic) -> Result<Arc<TopicEntry>, StorageError> {
        check_names(&new.namespace, &new.name, &new.attributes)?;
        check_queues(new.queues)?;
        let mut changes = self.changes.lock();
        let id = {
            let state = self.state.read();
            if state.topic_names.contains_key(&(new.namespace.clone(), new.name.clone())) {
                return Err(exists("topic", &new.namespace, &new.name));
            }
            TopicId(state.next_topic)
        };
        let NewTopic { namespace, name, queues, class, compression, attributes } = new;
        let created_ms = self.clock.wall_ms();
        let first_offsets = Vec::new();
        let entry = TopicEntry {
            id,
            incarnation: 1,
            namespace,
            name,
            queues,
            class,
            compression,
            attributes,
            created_ms,
            first_offsets,
            property_kinds: BTreeMap::new(),
        };
        self.change(&mut changes, CatalogueEntry::Topic(entry))?;
        self.topic(id).ok_or(StorageError::UnknownTopic { topic: id })
    }

    pub(crate) fn alter_topic(
        &self,
        id: TopicId,
        queues: u32,
        class: DurabilityClass,
        compression: Compression,
        attributes: String,
    ) -> Result<Arc<TopicEntry>, StorageError> {
        check_names("", "", &attributes)?;
        check_queues(queues)?;
        let mut changes = self.changes.lock();
        let topic = self.topic(id).ok_or(StorageError::UnknownTopic { topic: id })?;
        if queues < topic.queues {
            return Err(StorageError::FewerQueues { topic: id, queues: topic.queues, asked: queues });
        }
        let entry = TopicEntry { queues, class, compression, attributes, ..topic.as_ref().clone() };
        self.change(&mut changes, CatalogueEntry::Topic(entry))?;
        self.topic(id).ok_or(StorageError::UnknownTopic { topic: id })
    }

    pub(crate) fn delete_topic(&self, id: TopicId) -> Result<(), StorageError> {
        let mut changes = self.changes.lock();
        self.topic(id).ok_or(StorageError::UnknownTopic { topic: id })?;
        self.change(&mut changes, CatalogueEntry::DropTopic(id))
    }

    /// Raises the first retained offset of a queue; a lower one than before changes nothing.
    pub(crate) fn set_first_offset(
        &self,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), StorageError> {
        let mut changes = self.changes.lock();
        let entry = self.topic(topic).ok_or(StorageError::UnknownTopic { topic })?;
        if queue.0 >= entry.queues {
            return Err(StorageError::UnknownQueue { topic, queue, queues: entry.queues });
        }
        if offset <= entry.first_offset(queue) {
            return Ok(());
        }
        self.change(&mut changes, CatalogueEntry::FirstOffset { topic, queue, offset })
    }

    /// Adds to the kinds that properties of a topic have had.
    pub(crate) fn add_property_kinds(
        &self,
        topic: TopicId,
        kinds: &BTreeMap<String, KindSet>,
    ) -> Result<(), StorageError> {
        let mut changes = self.changes.lock();
        let entry = self.topic(topic).ok_or(StorageError::UnknownTopic { topic })?;
        let known = &entry.property_kinds;
        let wider = kinds.iter().filter_map(|(name, kinds)| {
            let before = known.get(name).copied();
            let all = before.unwrap_or_default().union(*kinds);
            (before != Some(all)).then(|| (name.clone(), all))
        });
        let wider: BTreeMap<String, KindSet> = wider.collect();
        if wider.is_empty() {
            return Ok(());
        }
        let new = wider.keys().filter(|name| !known.contains_key(*name));
        let size: usize = known.keys().chain(new).map(String::len).sum();
        if size > PROPERTY_KINDS_BYTES_MAX {
            return Err(StorageError::TooLarge {
                what: "the names of the properties of a topic in bytes",
                size: size as u64,
                max: PROPERTY_KINDS_BYTES_MAX as u64,
            });
        }
        self.change(&mut changes, CatalogueEntry::PropertyKinds { topic, kinds: wider })
    }

    fn group(&self, id: GroupId) -> Option<Arc<GroupEntry>> {
        self.state.read().groups.get(&id).cloned()
    }

    pub(crate) fn create_group(&self, new: NewGroup) -> Result<Arc<GroupEntry>, StorageError> {
        check_names(&new.namespace, &new.name, &new.attributes)?;
        let mut changes = self.changes.lock();
        let id = {
            let state = self.state.read();
            if state.group_names.contains_key(&(new.namespace.clone(), new.name.clone())) {
                return Err(exists("group", &new.namespace, &new.name));
            }
            GroupId(state.next_group)
        };
        let NewGroup { namespace, name, attributes } = new;
        let entry = GroupEntry { id, namespace, name, attributes, created_ms: self.clock.wall_ms() };
        self.change(&mut changes, CatalogueEntry::Group(entry))?;
        self.group(id).ok_or(StorageError::UnknownGroup { group: id })
    }

    pub(crate) fn alter_group(
        &self,
        id: GroupId,
        attributes: String,
    ) -> Result<Arc<GroupEntry>, StorageError> {
        check_names("", "", &attributes)?;
        let mut changes = self.changes.lock();
        let group = self.group(id).ok_or(StorageError::UnknownGroup { group: id })?;
        let entry = GroupEntry { attributes, ..group.as_ref().clone() };
        self.change(&mut changes, CatalogueEntry::Group(entry))?;
        self.group(id).ok_or(StorageError::UnknownGroup { group: id })
    }

    pub(crate) fn delete_group(&self, id: GroupId) -> Result<(), StorageError> {
        let mut changes = self.changes.lock();
        self.group(id).ok_or(StorageError::UnknownGroup { group: id })?;
        self.change(&mut changes, CatalogueEntry::DropGroup(id))
    }

    /// Makes a change durable, then lets it count.
    fn change(&self, changes: &mut Changes, entry: CatalogueEntry) -> Result<(), StorageError> {
        let now_ms = self.clock.wall_ms();
        changes.write(std::slice::from_ref(&entry), now_ms)?;
        self.shared.sync()?;
        self.state.write().apply(entry);
        if changes.outgrown()
            && let Err(error) = self.sum_up(changes, now_ms)
        {
            if error.is_failed_sync() {
                return Err(error);
            }
            // The change itself is safe; the next one tries again to sum up.
            tracing::warn!(%error, "cannot sum up the catalogue");
        }
        Ok(())
    }

    /// Begins a new segment with everything that is known, and unlinks the older ones.
    fn sum_up(&self, changes: &mut Changes, now_ms: i64) -> Result<(), StorageError> {
        changes.log.seal()?;
        let base = self.shared.tip().written;
        let everything: Vec<CatalogueEntry> = self.state.read().everything().collect();
        changes.write(&everything, now_ms)?;
        let end = self.shared.sync()?;
        changes.summed = (base, end);
        self.shared.remove_before(base)?;
        Ok(())
    }
}

impl Changes {
    fn write(&mut self, mut entries: &[CatalogueEntry], now_ms: i64) -> Result<(), StorageError> {
        while !entries.is_empty() {
            let mut frame = vec![0; FRAME_HEADER_LEN];
            let mut count = 0;
            while let Some((entry, rest)) = entries.split_first() {
                encode_entry(&mut frame, entry);
                entries = rest;
                count += 1;
                if frame.len() as u64 >= FRAME_BYTES_TARGET {
                    break;
                }
            }
            let len = frame.len().next_multiple_of(FRAME_ALIGNMENT) as u64;
            let place = self.log.place(len, now_ms)?;
            finish_frame(&mut frame, FrameKind::Catalogue, Epoch(0), count, place, now_ms);
            self.log.write(&frame)?;
        }
        Ok(())
    }

    fn outgrown(&self) -> bool {
        let (base, end) = self.summed;
        let grown = self.log.shared.tip().written.0 - end.0;
        grown > CHANGES_BYTES_MIN.max(CHANGES_FACTOR * (end.0 - base.0))
    }
}

fn exists(what: &'static str, namespace: &str, name: &str) -> StorageError {
    let name = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    StorageError::Exists { what, name }
}

fn check_names(namespace: &str, name: &str, attributes: &str) -> Result<(), StorageError> {
    for (what, len, max) in [
        ("the namespace in bytes", namespace.len(), NAME_BYTES_MAX),
        ("the name in bytes", name.len(), NAME_BYTES_MAX),
        ("the attributes in bytes", attributes.len(), ATTRIBUTES_BYTES_MAX),
    ] {
        if len > max {
            return Err(StorageError::TooLarge { what, size: len as u64, max: max as u64 });
        }
    }
    Ok(())
}

fn check_queues(queues: u32) -> Result<(), StorageError> {
    if queues > QUEUES_MAX {
        let (size, max) = (queues.into(), QUEUES_MAX.into());
        return Err(StorageError::TooLarge { what: "the number of queues", size, max });
    }
    Ok(())
}
