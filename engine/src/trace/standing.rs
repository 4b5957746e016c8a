//! Where a group stands with a row, as it remembers.

use std::sync::Arc;

use weir_filter::{Dialect, Predicate};
use weir_storage::{GroupId, QueueId, QueueOffset};

use super::history::shortened;
use crate::{
    broker::Core,
    group::{Phase, Subscription, kind_name},
    name::GroupName,
};

/// Where a group stands with a row.
pub(super) struct Standing {
    pub(super) group: GroupName,
    pub(super) group_id: GroupId,
    /// Set while the row is open.
    pub(super) open: Option<Open>,
    pub(super) selectors: Vec<SelectorStanding>,
    /// Where the group stands in the queue if it has no selector there.
    pub(super) floor: Option<QueueOffset>,
    /// It reads lite topics, and has neither selectors nor one place in the queue.
    pub(super) is_lite: bool,
}

/// An open row.
pub(super) struct Open {
    /// How often it has been delivered.
    pub(super) attempts: u32,
    pub(super) phase: OpenPhase,
}

/// Where an open row is.
pub(super) enum OpenPhase {
    Leased { until_ms: i64, client: Option<String> },
    Waiting { until_ms: i64 },
    Ready,
    Moving,
}

/// How far a selector is in the queue of the row.
pub(super) struct SelectorStanding {
    /// Of a long one, the beginning.
    pub(super) text: String,
    pub(super) kind: &'static str,
    pub(super) dialect: Dialect,
    pub(super) start: QueueOffset,
    pub(super) cursor: QueueOffset,
    pub(super) live: bool,
    /// `None` if its text cannot be read any more.
    pub(super) predicate: Option<Arc<Predicate>>,
}

impl SelectorStanding {
    /// Whether what it says of a row changes with time.
    pub(super) fn depends_on_now(&self) -> bool {
        self.predicate.as_ref().is_some_and(|predicate| predicate.selector().depends_on_now())
    }
}

impl Standing {
    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let of_selector = |selector: &SelectorStanding| size_of::<SelectorStanding>() + selector.text.len();
        size_of::<Self>() + self.selectors.iter().map(of_selector).sum::<usize>()
    }

    /// Returns where a group stands with a row, or `None` if it does not read the queue.
    pub(super) fn of(
        core: &Core,
        subscription: &Subscription,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Option<Self> {
        let now = core.time.now();
        let first = core.range(subscription.topic.id, queue).start;
        let state = subscription.lock();
        if state.gone {
            return None;
        }
        let live = state.selectors.live(now, &core.clients);
        let known = state.queues.get(&queue);
        let selectors: Vec<_> = state
            .selectors
            .iter()
            .map(|(slot, selector)| {
                let span = known.and_then(|known| known.span(slot));
                SelectorStanding {
                    text: shortened(selector.text()),
                    kind: kind_name(selector.kind()),
                    dialect: selector.dialect(),
                    // A queue that nobody has visited yet begins at its first row.
                    start: span.map_or(first, |span| span.start),
                    cursor: span.map_or(first, |span| span.cursor),
                    live: live >> slot & 1 == 1,
                    predicate: selector.predicate().cloned(),
                }
            })
            .collect();
        let is_lite = subscription.spec.load().lite_sets().is_some();
        let floor = known.and_then(|known| known.floor()).filter(|_| !is_lite);
        if selectors.is_empty() && floor.is_none() && !is_lite {
            return None;
        }
        let open = known.and_then(|known| known.open().get(&offset)).map(|row| {
            // What a start has found in the journal names it only so.
            let client = |renewed: Option<&str>| {
                let of_attempt = || row.attempt_id.as_deref()?.split('\n').next();
                let named = row.client.as_deref().or(renewed).or_else(of_attempt);
                named.filter(|client| !client.is_empty()).map(str::to_owned)
            };
            let phase = match &row.phase {
                Phase::Leased { until, renewal } => OpenPhase::Leased {
                    until_ms: core.wall_at(*until, now),
                    client: client(renewal.as_ref().map(|renewal| renewal.client.as_ref())),
                },
                Phase::Waiting { until } => OpenPhase::Waiting { until_ms: core.wall_at(*until, now) },
                Phase::Ready | Phase::InHand => OpenPhase::Ready,
                Phase::Moving => OpenPhase::Moving,
            };
            Open { attempts: row.attempt, phase }
        });
        drop(state);
        let (group, group_id) = (subscription.group_name.clone(), subscription.group);
        Some(Self { group, group_id, open, selectors, floor, is_lite })
    }
}
