//! What became of a row in a group: from what the journal tells, what the group remembers, and what its selectors say.

use weir_storage::QueueOffset;

use super::{
    answer::{GroupState, GroupTrace, JournalReach, JudgingSelector, TraceEvent, TracedMessage},
    find::Found,
    history::{Events, shortened},
    standing::{Open, OpenPhase, SelectorStanding, Standing},
};
use crate::examine::truth_of;

/// Everything that is known of a row in a group.
pub(super) struct GroupFate<'a> {
    pub(super) found: &'a Found,
    pub(super) standing: Standing,
    pub(super) events: Events,
    pub(super) reach: JournalReach,
    pub(super) now_ms: i64,
}

impl GroupFate<'_> {
    /// Says what became of it. `copy` is the one in the dead-letter topic of the group.
    pub(super) fn traced(mut self, copy: Option<TracedMessage>) -> GroupTrace {
        self.name_holder();
        let selectors: Vec<JudgingSelector> =
            self.standing.selectors.iter().map(|selector| self.judged(selector)).collect();
        let state = self.state(&selectors, copy.as_ref());
        GroupTrace {
            group: self.standing.group,
            state,
            selectors,
            events: self.events.list.into(),
            events_left_out: self.events.left_out,
            dead_letter: copy.map(Box::new),
        }
    }

    /// Names the member of the last delivery, which the group may remember where the journal does not tell.
    fn name_holder(&mut self) {
        let Some(Open { attempts, phase: OpenPhase::Leased { client, .. } }) = &self.standing.open else {
            return;
        };
        if let Some(TraceEvent::Leased { attempt, client: told @ None, .. }) = self.events.list.back_mut()
            && attempt == attempts
        {
            told.clone_from(client);
        }
    }

    fn judged(&self, selector: &SelectorStanding) -> JudgingSelector {
        let truth = match &selector.predicate {
            Some(predicate) => {
                let predicate = predicate.at(self.now_ms);
                truth_of(&predicate, &self.found.block, self.found.row).unwrap_or("unreadable")
            }
            None => "unreadable",
        };
        JudgingSelector {
            text: shortened(&selector.text),
            kind: selector.kind,
            dialect: selector.dialect,
            start: selector.start,
            cursor: selector.cursor,
            live: selector.live,
            truth,
        }
    }

    fn state(&self, selectors: &[JudgingSelector], copy: Option<&TracedMessage>) -> GroupState {
        let last = self.events.list.back();
        match (&self.standing.open, last) {
            // It was closed after the group was asked.
            (Some(_), Some(last)) if last.is_the_end() && self.reach.complete => self.told(last),
            (Some(open), _) => now(open),
            (None, Some(last)) => match last {
                TraceEvent::Reset { to, .. } if *to <= self.found.place.offset => {
                    self.by_selectors(selectors, copy, true)
                }
                _ if !self.reach.complete && !last.is_the_end() => {
                    GroupState::Unknown { why: "the group journal was not read to its end" }
                }
                last => self.told(last),
            },
            (None, None) => self.by_selectors(selectors, copy, false),
        }
    }

    /// What the last thing that the journal tells of it makes of it.
    fn told(&self, last: &TraceEvent) -> GroupState {
        match last.clone() {
            TraceEvent::Acknowledged { at_ms } => GroupState::Acknowledged { at_ms },
            TraceEvent::DeadLettered { at_ms } => GroupState::DeadLettered { at_ms },
            TraceEvent::Reset { at_ms, .. } => GroupState::Passed { at_ms: Some(at_ms) },
            TraceEvent::LinedUp { .. } => GroupState::WaitsInLine {},
            TraceEvent::Leased { attempt, until_ms, client, .. } => {
                self.leased_or_waits(attempt, until_ms, client)
            }
            TraceEvent::WasOpen { attempt, until_ms, leased: true, .. } => {
                self.leased_or_waits(attempt, until_ms, None)
            }
            TraceEvent::WasOpen { attempt, until_ms, .. } => self.waits(attempt, until_ms),
            TraceEvent::PutOff { until_ms, .. } => self.waits(self.attempts(), until_ms),
        }
    }

    /// How often it has been delivered, as the journal tells.
    fn attempts(&self) -> u32 {
        let attempt = |event: &TraceEvent| match event {
            TraceEvent::Leased { attempt, .. } | TraceEvent::WasOpen { attempt, .. } => Some(*attempt),
            _ => None,
        };
        self.events.list.iter().rev().find_map(attempt).unwrap_or(0)
    }

    fn leased_or_waits(&self, attempt: u32, until_ms: i64, client: Option<String>) -> GroupState {
        if until_ms > self.now_ms {
            GroupState::Leased { attempt, until_ms, client }
        } else {
            GroupState::WaitsForRedelivery { attempts: attempt, until_ms: None }
        }
    }

    fn waits(&self, attempts: u32, until_ms: i64) -> GroupState {
        GroupState::WaitsForRedelivery {
            attempts,
            until_ms: Some(until_ms).filter(|until| *until > self.now_ms),
        }
    }

    /// What follows for a row that is not open, and of which the journal tells nothing since the last reset.
    fn by_selectors(
        &self,
        selectors: &[JudgingSelector],
        copy: Option<&TracedMessage>,
        was_reset: bool,
    ) -> GroupState {
        let offset = self.found.place.offset;
        let store_time_ms = self.found.message.store_time_ms;
        let certain = self.reach.holds_all_of(store_time_ms);
        let has_passed = |selector: &JudgingSelector| selector.start <= offset && offset < selector.cursor;
        let is_true = |selector: &&JudgingSelector| selector.truth == "true";
        let selecting = || selectors.iter().filter(is_true);
        if let Some(copy) = copy.filter(|_| !was_reset) {
            // The log knows longer than the journal.
            return GroupState::DeadLettered { at_ms: copy.store_time_ms };
        }
        if selecting().any(has_passed) {
            return if certain {
                // A selector that asks for NOW may have said something else, or it was given out a moment ago.
                GroupState::Unknown {
                    why: "a selector that is true for it has passed it, and the group journal, which goes back to when it was stored, tells of no delivery",
                }
            } else if self.reach.complete {
                GroupState::DoneBeforeJournal {}
            } else {
                GroupState::Unknown { why: "the group journal was not read to its end" }
            };
        }
        if selectors.iter().any(|selector| matches!(selector.truth, "unreadable")) {
            return GroupState::Unknown { why: "a selector, or what it asks for, cannot be read" };
        }
        // The one that is nearest comes first.
        let behind = selecting().filter(|selector| selector.cursor <= offset && selector.start <= offset);
        if let Some(behind) = behind.map(|selector| offset.0.saturating_sub(selector.cursor.0)).min() {
            return GroupState::Waits { behind };
        }
        let first = selectors.iter().map(|selector| selector.start).min();
        match (first, self.standing.floor) {
            (Some(start), _) if offset < start => self.before(start, certain),
            (Some(_), _) => GroupState::NotSelected { certain },
            (None, Some(floor)) if offset < floor => GroupState::Passed { at_ms: None },
            (None, Some(floor)) => GroupState::Waits { behind: offset.0.saturating_sub(floor.0) },
            (None, None) => GroupState::Unknown { why: "the group does not read the topic" },
        }
    }

    fn before(&self, start: QueueOffset, certain: bool) -> GroupState {
        GroupState::BeforeSelectors { start, certain }
    }
}

/// What the group itself says of an open row.
fn now(open: &Open) -> GroupState {
    let attempts = open.attempts;
    match &open.phase {
        OpenPhase::Leased { until_ms, client } => {
            GroupState::Leased { attempt: attempts, until_ms: *until_ms, client: client.clone() }
        }
        OpenPhase::Moving => GroupState::MovesToDeadLetter { attempts },
        _ if attempts == 0 => GroupState::WaitsInLine {},
        OpenPhase::Waiting { until_ms } => {
            GroupState::WaitsForRedelivery { attempts, until_ms: Some(*until_ms) }
        }
        OpenPhase::Ready => GroupState::WaitsForRedelivery { attempts, until_ms: None },
    }
}
