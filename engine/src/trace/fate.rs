//! What became of a row in a group: from what the journal tells, what the group remembers, and what its selectors say.

use weir_storage::QueueOffset;

use super::{
    answer::{GroupState, GroupTrace, JournalReach, JudgingSelector, TraceEvent, TracedMessage},
    history::Events,
    standing::{Open, OpenPhase, SelectorStanding, Standing},
};

/// What a selector says that cannot be read, or asks for what cannot.
pub(super) const UNREADABLE: &str = "unreadable";
/// What a selector says that there was no time to ask.
pub(super) const NOT_JUDGED: &str = "not_judged";

/// Everything that is known of a row in a group.
pub(super) struct GroupFate {
    pub(super) offset: QueueOffset,
    /// When the message was stored.
    pub(super) stored_ms: i64,
    pub(super) standing: Standing,
    pub(super) events: Events,
    pub(super) reach: JournalReach,
    pub(super) now_ms: i64,
    /// What each selector says of it.
    pub(super) truths: Vec<&'static str>,
}

impl GroupFate {
    /// Says what became of it. `copy` is the one in the dead-letter topic of the group.
    pub(super) fn traced(mut self, copy: Option<TracedMessage>) -> GroupTrace {
        self.name_holder();
        let truths = self.truths.iter().copied().chain(std::iter::repeat(NOT_JUDGED));
        let selectors: Vec<JudgingSelector> = self
            .standing
            .selectors
            .iter()
            .zip(truths)
            .map(|(selector, truth)| judging(selector, truth))
            .collect();
        let state = self.state(&selectors, copy.as_ref().map(|copy| copy.store_time_ms));
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

    fn state(&self, selectors: &[JudgingSelector], copy_ms: Option<i64>) -> GroupState {
        let last = self.events.list.back();
        match (&self.standing.open, last) {
            // It was closed after the group was asked. Where something is missing, it may have been opened again before.
            (Some(_), Some(last)) if last.is_the_end() && self.reach.is_whole() => self.told(last),
            (Some(open), _) => now(open),
            (None, Some(last)) => match last {
                TraceEvent::Reset { to, .. } if *to <= self.offset => {
                    self.by_selectors(selectors, copy_ms, true)
                }
                last if self.reach.is_whole() => self.told(last),
                // Done is done, unless a reset is missing behind which a selector comes to it again.
                last if last.is_the_end() && !self.may_come(selectors) => self.told(last),
                _ => self.not_whole(),
            },
            (None, None) => self.by_selectors(selectors, copy_ms, false),
        }
    }

    /// What is said where something may be missing in the journal.
    const fn not_whole(&self) -> GroupState {
        let why = if self.reach.complete {
            "the group journal is damaged, and may have held what became of it"
        } else {
            "the group journal was not read to its end"
        };
        GroupState::Unknown { why }
    }

    /// How far the nearest selector that is true for it has to go.
    fn behind(&self, selectors: &[JudgingSelector]) -> Option<u64> {
        let offset = self.offset;
        let comes = |one: &&JudgingSelector| is_true(one) && one.start <= offset && one.cursor <= offset;
        selectors.iter().filter(comes).map(|one| offset.0.saturating_sub(one.cursor.0)).min()
    }

    /// Whether a selector has it ahead that is not known to leave it out.
    fn may_come(&self, selectors: &[JudgingSelector]) -> bool {
        let has_it_ahead = |one: &JudgingSelector| one.start <= self.offset && one.cursor <= self.offset;
        let may_be_true = |one: &JudgingSelector| matches!(one.truth, "true" | UNREADABLE | NOT_JUDGED);
        selectors.iter().any(|one| may_be_true(one) && has_it_ahead(one))
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
        copy_ms: Option<i64>,
        was_reset: bool,
    ) -> GroupState {
        let offset = self.offset;
        let certain = self.reach.holds_all_of(self.stored_ms);
        let passed: Vec<bool> = selectors
            .iter()
            .zip(&self.standing.selectors)
            .filter(|(one, _)| is_true(one) && one.start <= offset && offset < one.cursor)
            .map(|(_, standing)| standing.depends_on_now())
            .collect();
        let behind = self.behind(selectors);
        if let Some(at_ms) = copy_ms
            && !was_reset
            && (!passed.is_empty() || !self.may_come(selectors))
        {
            // The log knows longer than the journal.
            return GroupState::DeadLettered { at_ms };
        }
        if self.standing.is_lite {
            return self.of_lite_topic();
        }
        if !passed.is_empty() {
            return if !self.reach.is_whole() {
                self.not_whole()
            } else if was_reset {
                GroupState::Unknown {
                    why: "a selector that is true for it has passed it since the group was reset, and the group journal tells of no delivery since",
                }
            } else if certain {
                // It was given out a moment ago, or NOW has decided.
                GroupState::Unknown {
                    why: "a selector that is true for it has passed it, and the group journal, which goes back to when it was stored, tells of no delivery",
                }
            } else if passed.iter().all(|depends_on_now| *depends_on_now) {
                GroupState::Unknown {
                    why: "a selector that asks for NOW is true for it and has passed it, and may have said something else then",
                }
            } else {
                GroupState::DoneBeforeJournal {}
            };
        }
        if selectors.iter().any(|selector| selector.truth == NOT_JUDGED) {
            return GroupState::Unknown { why: "time ran out" };
        }
        if selectors.iter().any(|selector| selector.truth == UNREADABLE) {
            return GroupState::Unknown { why: "a selector, or what it asks for, cannot be read" };
        }
        if let Some(behind) = behind {
            return GroupState::Waits { behind };
        }
        // Those that are true for it begin later, or none is.
        if let Some(start) = selectors.iter().filter(is_true).map(|selector| selector.start).min() {
            return GroupState::BeforeSelectors { start, certain };
        }
        let first = selectors.iter().map(|selector| selector.start).min();
        match (first, self.standing.floor) {
            (Some(start), _) if offset < start => GroupState::BeforeSelectors { start, certain },
            (Some(_), _) => GroupState::NotSelected { certain },
            (None, Some(floor)) if offset < floor => GroupState::Passed { at_ms: None },
            (None, Some(floor)) => GroupState::Waits { behind: offset.0.saturating_sub(floor.0) },
            (None, None) => GroupState::Unknown { why: "the group does not read the topic" },
        }
    }

    /// What follows in a group that reads lite topics. Where it stands in each changes with those who subscribe.
    fn of_lite_topic(&self) -> GroupState {
        if !self.reach.is_whole() {
            return self.not_whole();
        }
        GroupState::Unknown {
            why: "the group reads lite topics, and the group journal tells of no delivery: it waits, nobody has subscribed to its lite topic in time, or it was done before the journal begins",
        }
    }
}

fn is_true(selector: &&JudgingSelector) -> bool {
    selector.truth == "true"
}

fn judging(selector: &SelectorStanding, truth: &'static str) -> JudgingSelector {
    JudgingSelector {
        text: selector.text.clone(),
        kind: selector.kind,
        dialect: selector.dialect,
        start: selector.start,
        cursor: selector.cursor,
        live: selector.live,
        truth,
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

#[cfg(test)]
mod tests {
    use std::{slice::from_ref, sync::Arc};

    use weir_filter::{Dialect, Limits, Predicate, Selector};
    use weir_storage::GroupId;

    use super::*;

    /// What a selector says of the row at 5, where it begins, how far it is, and its text.
    type Said = (&'static str, u64, u64, &'static str);

    const WHOLE: JournalReach = JournalReach { begins_ms: Some(900), complete: true, damaged: 0 };
    const DAMAGED: JournalReach = JournalReach { damaged: 1, ..WHOLE };
    const CUT_SHORT: JournalReach = JournalReach { complete: false, ..WHOLE };
    const STORED_MS: i64 = 500;

    fn fate(said: &[Said], events: &[TraceEvent], reach: JournalReach) -> GroupFate {
        let selector = |(_, start, cursor, text): &Said| {
            let parsed = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
            SelectorStanding {
                text: (*text).to_owned(),
                kind: "sql",
                dialect: Dialect::Sql92,
                start: QueueOffset(*start),
                cursor: QueueOffset(*cursor),
                live: true,
                predicate: Some(Arc::new(Predicate::new(&parsed))),
            }
        };
        let standing = Standing {
            group: "g".parse().unwrap(),
            group_id: GroupId(1),
            open: None,
            selectors: said.iter().map(selector).collect(),
            floor: None,
            is_lite: false,
        };
        let events = Events { list: events.to_vec().into(), left_out: 0 };
        let truths = said.iter().map(|said| said.0).collect();
        let (offset, stored_ms) = (QueueOffset(5), STORED_MS);
        GroupFate { offset, stored_ms, standing, events, reach, now_ms: 2000, truths }
    }

    fn state(said: &[Said], events: &[TraceEvent], reach: JournalReach, copy_ms: Option<i64>) -> GroupState {
        let fate = fate(said, events, reach);
        let truths = fate.standing.selectors.iter().zip(fate.truths.iter().copied());
        let selectors: Vec<_> = truths.map(|(selector, truth)| judging(selector, truth)).collect();
        fate.state(&selectors, copy_ms)
    }

    fn is_unknown(state: &GroupState) -> bool {
        matches!(state, GroupState::Unknown { .. })
    }

    #[test]
    fn a_journal_that_is_not_whole_is_not_the_last_word() {
        const PASSED: &[Said] = &[("true", 0, 9, "n = 1")];
        const BEHIND: &[Said] = &[("true", 0, 3, "n = 1")];
        let given = TraceEvent::Leased {
            at_ms: 1000,
            attempt: 1,
            until_ms: 3000,
            renewals: 0,
            client: None,
            selector: None,
            lease: 1,
        };
        let done = TraceEvent::Acknowledged { at_ms: 1000 };
        assert_eq!(state(PASSED, &[], WHOLE, None), GroupState::DoneBeforeJournal {});
        assert!(matches!(state(PASSED, from_ref(&given), WHOLE, None), GroupState::Leased { .. }));
        for reach in [DAMAGED, CUT_SHORT] {
            assert!(is_unknown(&state(PASSED, &[], reach, None)));
            assert!(is_unknown(&state(PASSED, from_ref(&given), reach, None)));
            assert_eq!(state(PASSED, from_ref(&done), reach, None), GroupState::Acknowledged { at_ms: 1000 });
            // The reset is missing that has put the group before it again.
            assert!(is_unknown(&state(BEHIND, from_ref(&done), reach, None)));
            // What is open was asked of the group itself.
            let mut fate = fate(PASSED, from_ref(&done), reach);
            fate.standing.open = Some(Open { attempts: 2, phase: OpenPhase::Ready });
            let waits = GroupState::WaitsForRedelivery { attempts: 2, until_ms: None };
            assert_eq!(fate.traced(None).state, waits);
        }
        let mut fate = fate(PASSED, from_ref(&done), WHOLE);
        fate.standing.open = Some(Open { attempts: 2, phase: OpenPhase::Ready });
        assert_eq!(fate.traced(None).state, GroupState::Acknowledged { at_ms: 1000 });
    }

    #[test]
    fn what_a_group_comes_to_again_is_not_done_though_there_is_a_copy_of_it() {
        let behind = state(&[("true", 0, 3, "n = 1")], &[], WHOLE, Some(700));
        assert_eq!(behind, GroupState::Waits { behind: 2 });
        let passed = state(&[("true", 0, 9, "n = 1")], &[], WHOLE, Some(700));
        assert_eq!(passed, GroupState::DeadLettered { at_ms: 700 });
        // With a selector that the group does not have any more.
        assert_eq!(state(&[("false", 0, 9, "n = 1")], &[], WHOLE, Some(700)), passed);
    }

    #[test]
    fn one_that_selects_it_and_begins_later_has_not_judged_it() {
        let said = [("false", 0, 9, "n = 1"), ("true", 8, 9, "n = 2"), ("true", 7, 9, "n = 3")];
        let expected = GroupState::BeforeSelectors { start: QueueOffset(7), certain: false };
        assert_eq!(state(&said, &[], WHOLE, None), expected);
        assert_eq!(state(&said[..1], &[], WHOLE, None), GroupState::NotSelected { certain: false });
    }

    #[test]
    fn what_now_decides_or_a_reset_has_begun_anew_is_not_said_to_be_done() {
        const NOW: Said = ("true", 0, 9, "sys.born_time < NOW()");
        const PASSED: Said = ("true", 0, 9, "n = 1");
        assert!(is_unknown(&state(&[NOW], &[], WHOLE, None)));
        assert_eq!(state(&[NOW, PASSED], &[], WHOLE, None), GroupState::DoneBeforeJournal {});
        let reset = TraceEvent::Reset { at_ms: 1000, to: QueueOffset(0) };
        assert!(is_unknown(&state(&[PASSED], &[reset], WHOLE, None)));
    }

    #[test]
    fn of_a_group_that_reads_lite_topics_only_the_journal_and_what_is_open_tell() {
        let lite = |events: &[TraceEvent]| {
            let mut fate = fate(&[], events, WHOLE);
            fate.standing.is_lite = true;
            fate.traced(None).state
        };
        assert!(matches!(lite(&[]), GroupState::Unknown { .. }));
        let acknowledged = lite(&[TraceEvent::Acknowledged { at_ms: 1500 }]);
        assert!(matches!(acknowledged, GroupState::Acknowledged { at_ms: 1500 }), "{acknowledged:?}");
    }

    #[test]
    fn what_there_was_no_time_to_ask_is_unknown() {
        let said = [(NOT_JUDGED, 0, 3, "n = 1"), ("true", 0, 3, "n = 2")];
        assert_eq!(state(&said, &[], WHOLE, None), GroupState::Unknown { why: "time ran out" });
        let done = TraceEvent::Acknowledged { at_ms: 1000 };
        assert_eq!(state(&said[..1], from_ref(&done), WHOLE, None), GroupState::Acknowledged { at_ms: 1000 });
        // It may come again, as far as is known.
        assert!(is_unknown(&state(&said[..1], &[done], DAMAGED, None)));
        assert!(is_unknown(&state(&said[..1], &[], WHOLE, Some(700))));
    }
}
