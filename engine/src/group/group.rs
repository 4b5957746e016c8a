//! A consumer group: its settings, and what it reads.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use weir_filter::near;
use weir_storage::{
    GroupEntry, GroupId, JournalEntry, NewGroup, QueueId, QueueOffset, Storage, TopicId, Wait,
};

use super::{
    spec::{GroupChange, GroupDescription, GroupSpec, ResetTo, RetryPolicy},
    subscription::{State, Subscription, wait_of},
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, LimitKind},
    limits::{GROUPS_MAX, LEASE_MAX, LITE_QUOTA_MAX, PRIORITY_FACTOR_MAX},
    name::{GroupName, TopicName},
    scan::offset_at_time,
    topic::{IfExists, Topic},
    topic_type::TopicType,
};

/// A group in memory.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) spec: Arc<ArcSwap<GroupSpec>>,
    created_ms: i64,
    subscriptions: Mutex<BTreeMap<TopicId, Arc<Subscription>>>,
}

impl Group {
    /// Returns the group of a catalogue entry, or `None`, with a line in the log, if its name is not allowed.
    pub(crate) fn of(entry: &GroupEntry) -> Option<Self> {
        let name = GroupName::new(&entry.namespace, &entry.name)
            .inspect_err(|error| tracing::error!(%error, "the catalogue names a group that cannot exist"))
            .ok()?;
        let spec = serde_json::from_str(&entry.attributes).unwrap_or_else(|error| {
            tracing::error!(%error, group = %name, "the settings of the group cannot be read; the defaults hold");
            GroupSpec::default()
        });
        Some(Self {
            id: entry.id,
            name,
            spec: Arc::new(ArcSwap::from_pointee(spec)),
            created_ms: entry.created_ms,
            subscriptions: Mutex::default(),
        })
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.lock().values().cloned().collect()
    }

    pub(crate) fn subscription(&self, topic: TopicId) -> Option<Arc<Subscription>> {
        self.subscriptions.lock().get(&topic).cloned()
    }

    /// Puts back what the journal says about a topic.
    pub(crate) fn restore(&self, topic: &Arc<Topic>, state: State) -> Arc<Subscription> {
        let made =
            Subscription::new(self.id, self.name.clone(), Arc::clone(&self.spec), Arc::clone(topic), state);
        let made = Arc::new(made);
        topic.add_reader(&made);
        self.subscriptions.lock().insert(topic.id, Arc::clone(&made));
        made
    }

    fn subscribe(&self, topic: &Arc<Topic>) -> Arc<Subscription> {
        let mut subscriptions = self.subscriptions.lock();
        if let Some(known) = subscriptions.get(&topic.id) {
            return Arc::clone(known);
        }
        let made = Subscription::new(
            self.id,
            self.name.clone(),
            Arc::clone(&self.spec),
            Arc::clone(topic),
            State::default(),
        );
        let made = Arc::new(made);
        topic.add_reader(&made);
        // A topic or group that is deleted at this moment may have missed it.
        subscriptions.insert(topic.id, Arc::clone(&made));
        made
    }

    /// Forgets a topic that is deleted.
    pub(crate) fn forget(&self, topic: TopicId) {
        if let Some(subscription) = self.subscriptions.lock().remove(&topic) {
            subscription.end();
        }
    }

    fn end(&self) {
        let subscriptions = std::mem::take(&mut *self.subscriptions.lock());
        subscriptions.values().for_each(|subscription| subscription.end());
    }

    fn describe(&self, core: &Core) -> GroupDescription {
        let topics: Vec<_> =
            self.subscriptions().iter().map(|subscription| subscription.describe(core)).collect();
        let members =
            topics.iter().flat_map(|topic| &topic.selectors).flat_map(|selector| selector.members.clone());
        let lite = topics.iter().filter_map(|topic| topic.lite.as_ref());
        let mut members: Vec<String> = members.chain(lite.flat_map(|lite| lite.members.clone())).collect();
        members.sort_unstable();
        members.dedup();
        GroupDescription {
            name: self.name.clone(),
            id: self.id,
            spec: GroupSpec::clone(&self.spec.load()),
            created_ms: self.created_ms,
            members,
            topics,
        }
    }
}

impl Broker {
    /// Makes a group. It begins to read a topic with its first receive or reset there.
    ///
    /// # Errors
    ///
    /// If the name is taken, or the settings make no sense.
    pub async fn create_group(
        &self,
        name: &GroupName,
        spec: GroupSpec,
    ) -> Result<GroupDescription, EngineError> {
        let group = self.core.create_group(name, spec, IfExists::Refuse).await?;
        Ok(group.describe(&self.core))
    }

    /// Changes a group.
    ///
    /// # Errors
    ///
    /// If there is no such group, or the settings make no sense.
    pub async fn alter_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<GroupDescription, EngineError> {
        let (core, name) = (Arc::clone(&self.core), name.clone());
        Core::to_the_end(async move { core.alter_group(&name, change).await }).await
    }

    /// Deletes a group and what it remembers. Its dead-letter topic stays.
    ///
    /// # Errors
    ///
    /// If there is no such group.
    pub async fn delete_group(&self, name: &GroupName) -> Result<(), EngineError> {
        let (core, name) = (Arc::clone(&self.core), name.clone());
        Core::to_the_end(async move { core.delete_group(&name).await }).await
    }

    /// Returns all groups, by name.
    pub fn groups(&self) -> Vec<GroupDescription> {
        let groups: Vec<Arc<Group>> = self.core.groups.read().by_name.values().cloned().collect();
        groups.iter().map(|group| group.describe(&self.core)).collect()
    }

    /// Returns a group as it is now.
    ///
    /// # Errors
    ///
    /// If there is no such group; the error names near ones.
    pub fn group(&self, name: &GroupName) -> Result<GroupDescription, EngineError> {
        Ok(self.core.existing_group(name)?.describe(&self.core))
    }

    /// Returns the settings of a group, if there is one. Cheap.
    pub fn group_spec(&self, name: &GroupName) -> Option<GroupSpec> {
        let groups = self.core.groups.read();
        groups.by_name.get(name).map(|group| GroupSpec::clone(&group.spec.load()))
    }

    /// Returns the settings of a group, making it first if the broker makes groups on their first use.
    ///
    /// # Errors
    ///
    /// If there is no such group and none is made.
    pub async fn group_or_create(&self, name: &GroupName) -> Result<GroupSpec, EngineError> {
        let group = self.core.group_or_create(name).await?;
        Ok(GroupSpec::clone(&group.spec.load()))
    }

    /// Puts a group elsewhere in a topic. What it had open is forgotten; handles given before are expired or,
    /// for rows before the new offset, taken as done.
    ///
    /// # Errors
    ///
    /// If there is no such group, topic or queue, or the offset is not retained.
    pub async fn reset_group(
        &self,
        group: &GroupName,
        topic: &TopicName,
        to: ResetTo,
    ) -> Result<(), EngineError> {
        let core = &self.core;
        core.check_open()?;
        let group = core.existing_group(group)?;
        let topic = core.existing_topic(topic)?;
        check_movable(&group)?;
        let subscription = core.subscription(&group, &topic);
        let (reader, target) = (Arc::clone(core), Arc::clone(&topic));
        let offsets = core.reads.run(move || reset_offsets(&reader, &target, to)).await??;
        let wait = wait_of(&topic);
        let reset = |(queue, offset)| subscription.reset(core, queue, offset, wait);
        let journaling: Vec<_> = offsets.into_iter().map(reset).collect();
        for journaling in journaling {
            journaling.done().await?;
        }
        Ok(())
    }
}

impl Broker {
    /// Puts a group to an offset of one queue, as [`Self::reset_group`] does, making the group first if the broker
    /// makes groups on their first use. An offset before the first retained one is raised to it.
    ///
    /// # Errors
    ///
    /// If there is no such topic, queue or group, or the offset is beyond the end. No group is made then.
    pub async fn update_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), EngineError> {
        let core = &self.core;
        core.check_open()?;
        let topic = core.existing_topic(topic)?;
        let available = checked_range(core, &topic, queue)?;
        if offset > available.end {
            return Err(EngineError::OffsetOutOfRange { queue: queue.0, asked: offset, available });
        }
        let group = core.group_or_create(group).await?;
        check_movable(&group)?;
        let subscription = core.subscription(&group, &topic);
        subscription.reset(core, queue, offset.max(available.start), wait_of(&topic)).done().await
    }
}

/// Refuses to move a group that reads lite topics, which has no place in a queue.
fn check_movable(group: &Group) -> Result<(), EngineError> {
    match group.spec.load().lite_sets() {
        None => Ok(()),
        Some(lite) => Err(EngineError::Invalid(format!(
            "group {} reads lite topics of {}: its clients say where it begins in each",
            group.name, lite.topic
        ))),
    }
}

/// Returns the offsets of a queue, if there is such a queue.
fn checked_range(core: &Core, topic: &Topic, queue: QueueId) -> Result<Range<QueueOffset>, EngineError> {
    let queues = topic.queues();
    if queue.0 >= queues {
        return Err(EngineError::QueueNotFound { topic: topic.name.clone(), queue: queue.0, queues });
    }
    Ok(core.range(topic.id, queue))
}

/// Returns where each queue that is to be reset begins anew.
fn reset_offsets(
    core: &Core,
    topic: &Topic,
    to: ResetTo,
) -> Result<Vec<(QueueId, QueueOffset)>, EngineError> {
    if let ResetTo::Offset { queue, offset } = to {
        let available = checked_range(core, topic, queue)?;
        if offset < available.start || offset > available.end {
            return Err(EngineError::OffsetOutOfRange { queue: queue.0, asked: offset, available });
        }
        return Ok(vec![(queue, offset)]);
    }
    let mut offsets = Vec::new();
    for queue in (0..topic.queues()).map(QueueId) {
        let Some(view) = core.storage.view(topic.id, queue) else { continue };
        let offset = match to {
            ResetTo::Earliest => view.range().start,
            ResetTo::Latest => view.range().end,
            ResetTo::Timestamp(time_ms) => offset_at_time(&view, time_ms)?,
            ResetTo::Offset { offset, .. } => offset,
        };
        offsets.push((queue, offset));
    }
    Ok(offsets)
}

impl Core {
    /// Returns a group, or an error that names near ones.
    pub(crate) fn existing_group(&self, name: &GroupName) -> Result<Arc<Group>, EngineError> {
        let groups = self.groups.read();
        if let Some(group) = groups.by_name.get(name) {
            return Ok(Arc::clone(group));
        }
        let names: Vec<String> = groups.by_name.keys().take(10_000).map(ToString::to_string).collect();
        drop(groups);
        let near = near(&name.to_string(), names.iter().map(String::as_str));
        Err(EngineError::GroupNotFound { group: name.clone(), near })
    }

    /// Returns a group, making it first if the broker makes groups on their first use.
    pub(crate) async fn group_or_create(
        self: &Arc<Self>,
        name: &GroupName,
    ) -> Result<Arc<Group>, EngineError> {
        let known = self.groups.read().by_name.get(name).cloned();
        match known {
            Some(group) => Ok(group),
            None if self.options.auto_create_groups => {
                self.create_group(name, GroupSpec::default(), IfExists::Take).await
            }
            None => self.existing_group(name),
        }
    }

    async fn create_group(
        self: &Arc<Self>,
        name: &GroupName,
        spec: GroupSpec,
        if_exists: IfExists,
    ) -> Result<Arc<Group>, EngineError> {
        let (core, name) = (Arc::clone(self), name.clone());
        Self::to_the_end(async move { core.make_group(&name, spec, if_exists).await }).await
    }

    async fn make_group(
        &self,
        name: &GroupName,
        spec: GroupSpec,
        if_exists: IfExists,
    ) -> Result<Arc<Group>, EngineError> {
        self.check_open()?;
        let mut spec = spec;
        spec.fifo |= spec.lite.is_some();
        check_spec(&spec)?;
        let _catalogue = self.catalogue.lock().await;
        if let Some(lite) = &spec.lite {
            let parent = self.existing_topic(&lite.topic)?;
            if parent.topic_type() != TopicType::Lite {
                let (topic, is) = (&lite.topic, parent.topic_type());
                let text =
                    format!("topic {topic} is of type {is}; the parent of lite topics is of type lite");
                return Err(EngineError::Invalid(text));
            }
        }
        let (known, count) = {
            let groups = self.groups.read();
            (groups.by_name.get(name).cloned(), groups.by_name.len())
        };
        match (known, if_exists) {
            (Some(group), IfExists::Take) => return Ok(group),
            (Some(_), IfExists::Refuse) => {
                return Err(EngineError::Exists { what: "group", name: name.to_string() });
            }
            (None, _) => {}
        }
        if count >= GROUPS_MAX {
            return Err(EngineError::Limit {
                what: "the number of groups",
                actual: count as u64 + 1,
                limit: GROUPS_MAX as u64,
                kind: LimitKind::Other,
            });
        }
        let new = NewGroup {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            attributes: attributes(&spec)?,
        };
        let is_lite = spec.lite.is_some();
        let make = move |storage: &Storage| {
            if is_lite {
                // Before the catalogue has what older programs would take for something else.
                storage.need_lite_topics()?;
            }
            storage.create_group(new)
        };
        let entry = self.blocking(make).await?;
        let group = Group::of(&entry)
            .map(Arc::new)
            .ok_or_else(|| EngineError::Internal("storage changed the name of a group".to_owned()))?;
        self.groups.write().insert(Arc::clone(&group));
        Ok(group)
    }

    /// Returns what a group remembers of a topic, beginning it if it is new.
    pub(crate) fn subscription(&self, group: &Arc<Group>, topic: &Arc<Topic>) -> Arc<Subscription> {
        let subscription = group.subscribe(topic);
        let is_here = !topic.is_gone()
            && self.groups.read().by_id.get(&group.id).is_some_and(|known| Arc::ptr_eq(known, group));
        if !is_here {
            group.forget(topic.id);
            subscription.end();
        }
        subscription
    }

    async fn alter_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<GroupDescription, EngineError> {
        self.check_open()?;
        let _catalogue = self.catalogue.lock().await;
        let group = self.existing_group(name)?;
        let mut spec = GroupSpec::clone(&group.spec.load());
        spec.max_attempts = change.max_attempts.unwrap_or(spec.max_attempts);
        spec.retry = change.retry.unwrap_or(spec.retry);
        spec.lease_min = change.lease_min.unwrap_or(spec.lease_min);
        spec.start = change.start.unwrap_or(spec.start);
        spec.fifo = change.fifo.unwrap_or(spec.fifo);
        spec.dialect = change.dialect.or(spec.dialect);
        spec.priority_factor = change.priority_factor.unwrap_or(spec.priority_factor);
        if let Some(quota) = change.lite_quota {
            let lite = spec.lite.as_mut();
            let none = || EngineError::Invalid(format!("group {name} reads no lite topics"));
            lite.ok_or_else(none)?.quota = quota;
        }
        check_spec(&spec)?;
        let (id, attributes) = (group.id, attributes(&spec)?);
        self.blocking(move |storage| storage.alter_group(id, attributes)).await?;
        group.spec.store(Arc::new(spec));
        // What waited in line may not have to any more.
        self.subscriptions().iter().filter(|of| of.group == id).for_each(|of| of.waiters.wake_all());
        Ok(group.describe(self))
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), EngineError> {
        self.check_open()?;
        let _catalogue = self.catalogue.lock().await;
        let group = self.existing_group(name)?;
        let id = group.id;
        self.blocking(move |storage| storage.delete_group(id)).await?;
        self.groups.write().remove(&group);
        group.end();
        self.journal(vec![JournalEntry::DropGroup { group: id }], Wait::Written).done().await
    }
}

fn attributes(spec: &GroupSpec) -> Result<String, EngineError> {
    serde_json::to_string(spec).map_err(|error| EngineError::Internal(error.to_string()))
}

/// The most delays of a customized retry policy.
const DELAYS_MAX: usize = 1000;

fn check_spec(spec: &GroupSpec) -> Result<(), EngineError> {
    let fault = if !(1..=10_000).contains(&spec.max_attempts) {
        "max_attempts must be 1 to 10,000"
    } else if spec.lease_min.is_zero() || spec.lease_min > LEASE_MAX {
        "lease_min must be more than nothing and at most 12 h"
    } else if spec.priority_factor > PRIORITY_FACTOR_MAX {
        "priority_factor must be 0 to 100"
    } else if spec.lite.is_some() && !spec.fifo {
        "a group that reads lite topics is FIFO"
    } else if spec.lite.as_ref().is_some_and(|lite| !(1..=LITE_QUOTA_MAX).contains(&lite.quota)) {
        "the quota of lite topics must be 1 to 10,000"
    } else if spec.lite.as_ref().is_some_and(|lite| lite.wildcard && lite.exclusive) {
        "where each client reads all lite topics, none is one client's alone"
    } else {
        match &spec.retry {
            RetryPolicy::Exponential { multiplier, .. } if !multiplier.is_finite() || *multiplier < 1.0 => {
                "the multiplier of the retry policy must be 1 or more"
            }
            RetryPolicy::Exponential { initial, max, .. } if initial > max || *max > LEASE_MAX => {
                "the delays of the retry policy must grow from the initial one to at most 12 h"
            }
            RetryPolicy::Customized(delays) if delays.is_empty() || delays.len() > DELAYS_MAX => {
                "a customized retry policy has 1 to 1,000 delays"
            }
            RetryPolicy::Customized(delays) if delays.iter().any(|delay| *delay > LEASE_MAX) => {
                "a delay of the retry policy is at most 12 h"
            }
            _ => return Ok(()),
        }
    };
    Err(EngineError::Invalid(fault.to_owned()))
}
