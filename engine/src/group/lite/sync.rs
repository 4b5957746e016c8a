//! What clients subscribe to, and where that begins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};
use weir_columns::hash64;
use weir_storage::{JournalEntry, QueueId, QueueOffset, QueueView, TopicId};

use super::{
    Lite,
    names::{Names, check_name},
    receive::{STEPS_MAX, line_up},
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    group::{
        group::Group,
        order::{self, Line},
        search::block_at,
        settle::Journaling,
        spec::LiteSpec,
        state::QueueState,
        subscription::{State, Subscription, wait_of},
    },
    limits::{
        CLIENT_BYTES_MAX, LITE_POSITIONS_MAX, LITE_QUOTA_MAX, LITE_QUOTA_TOLERANCE, LITE_SUBSCRIPTIONS_MAX,
        LITE_TAIL_BLOCKS_MAX, RETENTION_DEFAULT,
    },
    name::{GroupName, TopicName},
    scan::offset_at_time,
    topic::Topic,
};

/// What a client says of the lite topics that it subscribes to.
#[derive(Clone, Debug)]
pub struct LiteSync {
    /// The group; bound to `topic`.
    pub group: GroupName,
    /// The parent of the lite topics.
    pub topic: TopicName,
    /// Who subscribes.
    pub client: String,
    /// What to do with `names`.
    pub action: LiteAction,
    /// Lite topics.
    pub names: Vec<String>,
    /// Where the group begins in those that are added. `None` is [`LiteFrom::Last`]; other actions than
    /// [`LiteAction::Add`] do not heed it.
    pub from: Option<LiteFrom>,
}

/// What to do with the lite topics that a client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteAction {
    /// It subscribes to these as well.
    Add,
    /// It subscribes to these no more.
    Remove,
    /// It subscribes to these and no others.
    Replace,
    /// It subscribes to nothing any more.
    Leave,
}

/// Where a group begins in a lite topic. Offsets are those of the queue of the lite topic. What is out of its bounds stands
/// for the nearest that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteFrom {
    /// Where it was; at the end if it was nowhere.
    Last,
    /// At the first retained message.
    Min,
    /// Behind the last message.
    Max,
    /// At this offset.
    Offset(u64),
    /// So many messages before the first that is not done; if the group was nowhere, at the end. It goes back through
    /// [`LITE_TAIL_BLOCKS_MAX`] blocks of rows, of whatever lite topics, at most, and begins there if that is not enough.
    Tail(u64),
    /// At the first message that was stored at this time or later; milliseconds since 1970, UTC.
    Time(i64),
}

/// A lite topic that another client has taken over. To be told to the client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiteUnsubscribed {
    /// Who subscribes to it no more.
    pub client: String,
    /// The lite topic.
    pub lite_topic: String,
}

/// A lite topic that is named, with its queue.
type Named = (Arc<str>, QueueId);
/// Where to begin in lite topics.
type Targets = HashMap<Arc<str>, QueueOffset>;

impl Broker {
    /// Changes the set of lite topics that a client subscribes to, which it keeps for two minutes by doing so. Answers
    /// once the positions that this has made or moved are durable by the class of the topic. In a group that reads all lite
    /// topics nothing changes.
    ///
    /// What a group had open in a lite topic that is put elsewhere is forgotten, whoever has it.
    ///
    /// # Errors
    ///
    /// If there is no such group or topic, the group is not bound to it, a name is not allowed, or there are too many:
    /// of this client, of the group, or of the broker.
    pub async fn sync_lite(&self, sync: LiteSync) -> Result<Vec<LiteUnsubscribed>, EngineError> {
        let core = &self.core;
        core.check_open()?;
        let group = core.existing_group(&sync.group)?;
        let (topic, spec) = core.lite_parent(&group, &sync.topic)?;
        if sync.client.len() > CLIENT_BYTES_MAX {
            let what = "the name of a client in bytes";
            return Err(limit(what, sync.client.len(), CLIENT_BYTES_MAX, LimitKind::Other));
        }
        let adds = matches!(sync.action, LiteAction::Add | LiteAction::Replace);
        let quota = spec.quota as usize + LITE_QUOTA_TOLERANCE;
        if adds {
            sync.names.iter().try_for_each(|name| check_name(name))?;
        }
        let subscription = core.subscription(&group, &topic);
        core.clients.saw(&sync.client, core.time.now());
        if spec.wildcard {
            // It has what it asks for, and what it does not want as well.
            return Ok(Vec::new());
        }
        if adds && sync.names.len() > quota {
            // Who is refused keeps what it has.
            subscription.lock().lite.keep(&sync.client, core.time.now());
            return Err(over_quota(sync.names.len(), quota));
        }
        let queues = u64::from(topic.queues().max(1));
        let queue_of = |name: &str| QueueId((hash64(name.as_bytes()) % queues) as u32);
        let named: Vec<Named> =
            sync.names.iter().map(|name| (Arc::from(name.as_str()), queue_of(name))).collect();
        let mut targets = Targets::new();
        if adds && !named.is_empty() {
            core.blocking(|storage| storage.need_lite_topics()).await?;
            let from = sync.from.filter(|_| sync.action == LiteAction::Add).unwrap_or(LiteFrom::Last);
            if from != LiteFrom::Last {
                let work = {
                    let (core, subscription, named) =
                        (Arc::clone(core), Arc::clone(&subscription), named.clone());
                    move || targets_of(&core, &subscription, &named, from)
                };
                let (known, tails) = core.reads.run(work).await??;
                targets = known;
                // From here on others read between the slices, and it ends with the call.
                let mut blocks = LITE_TAIL_BLOCKS_MAX;
                for mut tail in tails {
                    while !tail.is_done() && blocks > 0 {
                        let slice = STEPS_MAX.min(blocks);
                        blocks -= slice;
                        let (core, topic) = (Arc::clone(core), topic.id);
                        let work = move || tail.go_back(&core, topic, slice).map(|()| tail);
                        tail = self.core.reads.run(work).await??;
                    }
                    tail.end(&mut targets);
                }
            }
        }
        let (unsubscribed, journaling) = subscription.sync_lite(core, &spec, &sync, &named, &targets)?;
        if let Some(journaling) = journaling {
            journaling.done().await?;
        }
        subscription.lite_waiters.wake(&[Arc::from(sync.client.as_str())].into());
        Ok(unsubscribed)
    }
}

impl Core {
    /// Returns the parent topic of the lite topics of a group, if it is `topic`.
    pub(crate) fn lite_parent(
        &self,
        group: &Group,
        topic: &TopicName,
    ) -> Result<(Arc<Topic>, LiteSpec), EngineError> {
        let Some(spec) = group.spec.load().lite.clone() else {
            return Err(EngineError::LiteGroup { group: group.name.clone(), is_lite: false });
        };
        if spec.topic != *topic {
            return Err(EngineError::LiteParent { group: group.name.clone(), parent: spec.topic });
        }
        Ok((self.existing_topic(topic)?, spec))
    }
}

/// Returns where to begin in lite topics, as far as that is not where the group is, and where that is to be found by
/// going back.
fn targets_of(
    core: &Core,
    subscription: &Subscription,
    named: &[Named],
    from: LiteFrom,
) -> Result<(Targets, Vec<Tail>), EngineError> {
    let mut targets = Targets::new();
    let mut tails: BTreeMap<QueueId, Tail> = BTreeMap::new();
    let mut views: BTreeMap<QueueId, QueueView> = BTreeMap::new();
    for (name, queue) in named {
        if !views.contains_key(queue) {
            let Some(view) = core.storage.view(subscription.topic.id, *queue) else { continue };
            // What is open is found by its line.
            line_up(subscription, *queue, &view)?;
            views.insert(*queue, view);
        }
        let Some(view) = views.get(queue) else { continue };
        let range = view.range();
        let target = match from {
            LiteFrom::Last => continue,
            LiteFrom::Min => range.start,
            LiteFrom::Max => range.end,
            LiteFrom::Offset(offset) => QueueOffset(offset),
            LiteFrom::Time(time_ms) => offset_at_time(view, time_ms)?,
            LiteFrom::Tail(count) => {
                if let Some(committed) = subscription.committed_lite(name, *queue) {
                    let tail = tails.entry(*queue).or_insert_with(|| Tail::of(*queue));
                    tail.begin(name, committed.clamp(range.start, range.end), count);
                }
                continue;
            }
        };
        targets.insert(Arc::clone(name), target.clamp(range.start, range.end));
    }
    Ok((targets, tails.into_values().collect()))
}

/// The search of a queue, backwards, for where some lite topics have so many rows.
struct Tail {
    queue: QueueId,
    /// All rows from here on were looked at.
    at: QueueOffset,
    /// For each lite topic the row from which it goes back, and how many rows it still goes back.
    left: HashMap<Arc<str>, (QueueOffset, u64)>,
    found: Targets,
}

impl Tail {
    fn of(queue: QueueId) -> Self {
        Self { queue, at: QueueOffset::default(), left: HashMap::new(), found: Targets::new() }
    }

    fn begin(&mut self, name: &Arc<str>, from: QueueOffset, count: u64) {
        if count == 0 {
            self.found.insert(Arc::clone(name), from);
            return;
        }
        self.at = self.at.max(from);
        self.left.insert(Arc::clone(name), (from, count));
    }

    fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Looks at up to `blocks` blocks. What has fewer rows than it goes back begins at the first that is retained.
    fn go_back(&mut self, core: &Core, topic: TopicId, blocks: usize) -> Result<(), EngineError> {
        let Some(view) = core.storage.view(topic, self.queue) else {
            self.left.clear();
            return Ok(());
        };
        let first = view.range().start;
        for _ in 0..blocks {
            if self.is_done() {
                return Ok(());
            }
            if self.at <= first {
                break;
            }
            let Some(block) = block_at(&view, QueueOffset(self.at.0 - 1))? else {
                self.at = first;
                break;
            };
            let (base, at) = (block.range().start, self.at);
            let mut rows: Vec<(Arc<str>, QueueOffset)> = Vec::new();
            Names::of(&block)?.each(
                |text| self.left.get_key_value(text).map(|(name, (from, _))| (Arc::clone(name), *from)),
                |row, (name, from)| {
                    let offset = base.plus(row as u64);
                    if offset < *from {
                        rows.push((Arc::clone(name), offset));
                    }
                    offset < at
                },
            );
            for (name, offset) in rows.into_iter().rev().filter(|(_, offset)| *offset < at) {
                let Some((_, count)) = self.left.get_mut(&name) else { continue };
                *count -= 1;
                if *count == 0 {
                    self.left.remove(&name);
                    self.found.insert(name, offset.max(first));
                }
            }
            self.at = base;
        }
        if self.at <= first {
            self.found.extend(self.left.drain().map(|(name, _)| (name, first)));
        }
        Ok(())
    }

    /// What is not found yet begins at the row that was reached.
    fn end(self, targets: &mut Targets) {
        let reached = self.left.into_iter().map(|(name, (from, _))| (name, self.at.min(from)));
        targets.extend(reached.chain(self.found));
    }
}

impl Subscription {
    /// Returns the first row of a lite topic that the group is not done with; `None` if it is nowhere there.
    fn committed_lite(&self, name: &str, queue: QueueId) -> Option<QueueOffset> {
        let state = self.lock();
        let position = state.lite.positions.get(name)?;
        let open =
            state.queues.get(&queue).and_then(|known| open_rows(known, position.line).first().copied());
        Some(open.unwrap_or(position.next))
    }

    /// Does what a client says. Returns who is to be told what, and what is to be waited for.
    fn sync_lite(
        &self,
        core: &Core,
        spec: &LiteSpec,
        sync: &LiteSync,
        named: &[Named],
        targets: &Targets,
    ) -> Result<(Vec<LiteUnsubscribed>, Option<Journaling>), EngineError> {
        let now = core.time.now();
        let mut state = self.lock();
        self.check_here(&state)?;
        state.lite.count_in(&core.lite_subscriptions);
        state.lite.expire(now);
        let mut unsubscribed = Vec::new();
        let mut entries = Vec::new();
        match sync.action {
            LiteAction::Leave => state.lite.leave(&sync.client, now),
            LiteAction::Remove => {
                state.lite.refresh(&sync.client, now);
                named.iter().for_each(|(name, _)| state.lite.remove(&sync.client, name, now));
            }
            LiteAction::Add | LiteAction::Replace => {
                // Who is refused keeps what it has.
                let client = state.lite.refresh(&sync.client, now);
                let names: Vec<Named> = match sync.action {
                    // What others have it gets by adding it, and by that alone.
                    LiteAction::Replace => {
                        state.lite.replace(&client, named, spec.exclusive, now, &mut unsubscribed)
                    }
                    _ => named.to_vec(),
                };
                state.lite.check_room(&client, &names, spec)?;
                for (name, queue) in &names {
                    let target = targets.get(name).copied();
                    entries.extend(self.begin_lite(core, &mut state, name, *queue, target, now));
                    state.lite.add(&client, name);
                    if spec.exclusive && sync.action == LiteAction::Add {
                        let others = state.lite.evict_others(&client, name, now);
                        unsubscribed.extend(others.iter().map(|other| told(other, name)));
                    }
                }
                if !entries.is_empty() {
                    // What was open before others is not any more.
                    self.wake_lite(&state, names.iter().map(|(name, _)| Line::of_lite(name)));
                }
            }
        }
        let journaling = (!entries.is_empty()).then(|| core.journal(entries, wait_of(&self.topic)));
        unsubscribed.sort_unstable();
        unsubscribed.dedup();
        Ok((unsubscribed, journaling))
    }

    /// Makes a position where there is none, or puts it to `target`, with what the journal is to know of that.
    fn begin_lite(
        &self,
        core: &Core,
        state: &mut State,
        name: &Arc<str>,
        queue: QueueId,
        target: Option<QueueOffset>,
        now: Duration,
    ) -> Vec<JournalEntry> {
        let range = core.range(self.topic.id, queue);
        let is_known = state.lite.positions.contains_key(name);
        let next = match target {
            None if is_known => return Vec::new(),
            None => range.end,
            Some(target) => target,
        };
        let mut entries = Vec::new();
        if is_known {
            let known = state.queue(queue, range.start);
            let open = open_rows(known, Line::of_lite(name));
            open.iter().for_each(|offset| drop(known.remove(*offset)));
            if !open.is_empty() {
                entries.push(self.ack_entry(queue, open));
            }
        }
        // Where the rows end that were looked at, before there is one more to look for.
        state.lite.looked(queue, &range);
        state.lite.put(name, queue, next, now);
        entries.push(self.lite_entry(queue, name, next));
        entries
    }

    /// Forgets clients of lite topics that are silent, and positions that are of no use any more.
    pub(in crate::group) fn fade_lite(
        &self,
        core: &Core,
        state: &mut State,
        now: Duration,
    ) -> Vec<JournalEntry> {
        if self.spec.load().lite.is_none() {
            return Vec::new();
        }
        let kept = self.topic.retention().unwrap_or(RETENTION_DEFAULT);
        state.lite.expire(now);
        let mut queues = BTreeMap::new();
        for queue in (0..self.topic.queues()).map(QueueId) {
            let known = state.queues.get(&queue);
            if known.is_none_or(|known| order::unlined(known).is_empty()) {
                let held = known.map(order::held).unwrap_or_default();
                queues.insert(queue, (core.range(self.topic.id, queue), held));
            }
        }
        let (group, topic) = (self.group, self.topic.id);
        let faded = state.lite.fade(queues, kept, now).into_iter();
        faded.map(|lite_topic| JournalEntry::LiteForgotten { group, topic, lite_topic }).collect()
    }

    /// The entry for a position.
    pub(in crate::group) fn lite_entry(&self, queue: QueueId, name: &str, next: QueueOffset) -> JournalEntry {
        let (group, topic): (_, TopicId) = (self.group, self.topic.id);
        JournalEntry::LitePosition { group, topic, queue, lite_topic: name.to_owned(), next }
    }
}

/// Returns the open rows of a line, in order.
fn open_rows(known: &QueueState, line: Line) -> Vec<QueueOffset> {
    let rows = known.open().iter().filter(|(_, row)| row.line == Some(line));
    rows.map(|(offset, _)| *offset).collect()
}

impl Lite {
    /// Takes out of a client's set what is not `named`, and returns what is new in it. What others have, if the group is
    /// exclusive, or have taken over from it, and it still names, is not for it, and told again.
    fn replace(
        &mut self,
        client: &str,
        named: &[Named],
        is_exclusive: bool,
        now: Duration,
        unsubscribed: &mut Vec<LiteUnsubscribed>,
    ) -> Vec<Named> {
        let is_held = |name: &Arc<str>| {
            let position = self.positions.get(name).filter(|_| is_exclusive);
            position.is_some_and(|position| position.clients.iter().any(|other| **other != *client))
        };
        let names = named.iter().map(|(name, _)| name);
        let held: Vec<Arc<str>> = names.filter(|name| is_held(name)).cloned().collect();
        let Some(interest) = self.clients.get_mut(client) else { return Vec::new() };
        let kept: HashSet<&str> = named.iter().map(|(name, _)| name.as_ref()).collect();
        interest.evicted.retain(|name| kept.contains(name.as_ref()));
        // All of them are named, and so no more than a client may name.
        interest.evicted.extend(held);
        unsubscribed.extend(interest.evicted.iter().map(|name| told(client, name)));
        let is_new = |name: &Arc<str>| !interest.names.contains_key(name) && !interest.evicted.contains(name);
        let new = named.iter().filter(|(name, _)| is_new(name)).cloned().collect();
        let gone: Vec<Arc<str>> =
            interest.names.keys().filter(|name| !kept.contains(name.as_ref())).cloned().collect();
        gone.iter().for_each(|name| self.remove(client, name, now));
        new
    }

    /// Returns an error if there is no room for more subscriptions or positions.
    fn check_room(&self, client: &str, names: &[Named], spec: &LiteSpec) -> Result<(), EngineError> {
        let interest = self.clients.get(client);
        let has = |name: &str| interest.is_some_and(|interest| interest.names.contains_key(name));
        let new: HashSet<&str> =
            names.iter().map(|(name, _)| name.as_ref()).filter(|name| !has(name)).collect();
        let quota = spec.quota as usize + LITE_QUOTA_TOLERANCE;
        let wanted = interest.map_or(0, |interest| interest.names.len()) + new.len();
        if !new.is_empty() && wanted > quota {
            return Err(over_quota(wanted, quota));
        }
        let all = self.subscribed.all.load(std::sync::atomic::Ordering::Relaxed) + new.len();
        if !new.is_empty() && all > LITE_SUBSCRIPTIONS_MAX {
            let what = "the number of lite topics that clients of the broker subscribe to";
            return Err(limit(what, all, LITE_SUBSCRIPTIONS_MAX, LimitKind::LiteSubscriptions));
        }
        let made = new.iter().filter(|name| !self.positions.contains_key(**name)).count();
        if made > 0 && self.positions.len() + made > LITE_POSITIONS_MAX {
            let what = "the number of lite topics in which the group stands somewhere";
            return Err(limit(
                what,
                self.positions.len() + made,
                LITE_POSITIONS_MAX,
                LimitKind::LiteSubscriptions,
            ));
        }
        Ok(())
    }
}

fn told(client: &str, name: &str) -> LiteUnsubscribed {
    LiteUnsubscribed { client: client.to_owned(), lite_topic: name.to_owned() }
}

fn over_quota(count: usize, quota: usize) -> EngineError {
    limit("the number of lite topics of a client", count, quota, LimitKind::LiteSubscriptions)
}

fn limit(what: &'static str, actual: usize, limit: usize, kind: LimitKind) -> EngineError {
    EngineError::Limit { what, actual: actual as u64, limit: limit as u64, kind }
}

/// The most that a client can have had and lost.
pub(super) const EVICTED_MAX: usize = LITE_QUOTA_MAX as usize + LITE_QUOTA_TOLERANCE;
