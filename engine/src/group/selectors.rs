//! The selectors of a group on one topic.
//!
//! A group may hold up to eight selectors at a time, so that a rolling deployment that changes the `WHERE`
//! clause neither errors nor loses. Each has a slot, and in each queue a span `[start, cursor)` of rows that
//! it has judged. The rules:
//!
//! 1. The first selector begins where the group begins. Each later one begins, in each queue, at the highest
//!    cursor of the others: what has been judged is not judged again because somebody new has come.
//! 2. A row goes to the first selector whose cursor passes it with TRUE. A cursor that passes a row asks each
//!    other selector whose span holds the row: if one of them is TRUE for it, that one has taken it, and it is
//!    passed over. No list of taken rows is kept: a selector and a row always give the same answer. Where a
//!    selector asks for NOW they do not; what it has taken cannot be told, and its rows go to both.
//! 3. A client names the selector of its last receive, and those that it used in the last 120 s. A selector is
//!    *live* while a live client names it. Those that a start finds are taken to be live for 120 s, since their
//!    clients may not have come back yet.
//! 4. A selector that is not live stays as a shadow, for rule 2, until each live one has passed its cursor in
//!    every queue; then its slot is free. While no selector is live, all stay: the group is down, and whoever
//!    comes back goes on where it was.
//! 5. A row that is delivered again goes to a member whose selector is TRUE for it, whichever chose it. While
//!    some selector is live but none of the live ones is TRUE for it, it waits; after 120 s of that it is
//!    dropped and counted. For a selector that asks for NOW, what it has once chosen stays chosen.
//! 6. The committed offset of a queue is its smallest open row, else the lowest cursor of a live selector (of
//!    any, while none is live).

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use weir_columns::{ColumnRef, System};
use weir_filter::{Dialect, Limits, Predicate, Selector};
use weir_storage::SelectorKind;

use crate::{
    clients::Clients,
    limits::{CLIENT_ALIVE, SELECTORS_MAX},
};

/// A selector in use.
#[derive(Debug)]
pub(crate) struct Slot {
    text: String,
    dialect: Dialect,
    kind: SelectorKind,
    /// `None` if a text that the journal holds cannot be read any more.
    predicate: Option<Arc<Predicate>>,
    /// When each client last received with it.
    named: HashMap<Arc<str>, Duration>,
    /// Until then it is live whoever names it.
    grace_until: Duration,
}

impl Slot {
    fn new(selector: &Selector) -> Self {
        Self {
            text: selector.text().to_owned(),
            dialect: selector.dialect(),
            kind: kind_of(selector),
            predicate: Some(Arc::new(Predicate::new(selector))),
            named: HashMap::new(),
            grace_until: Duration::ZERO,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn kind(&self) -> SelectorKind {
        self.kind
    }

    pub(crate) fn predicate(&self) -> Option<&Arc<Predicate>> {
        self.predicate.as_ref()
    }
}

/// All selectors of a group on one topic, by slot.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    slots: [Option<Slot>; SELECTORS_MAX],
    /// The selector of each client's last receive.
    latest: HashMap<Arc<str>, u8>,
}

impl Selectors {
    pub(crate) fn get(&self, slot: u8) -> Option<&Slot> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &Slot)> {
        (0_u8..).zip(&self.slots).filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }

    /// Returns the slot that holds `selector`.
    pub(crate) fn find(&self, selector: &Selector) -> Option<u8> {
        self.iter()
            .find(|(_, slot)| slot.dialect == selector.dialect() && slot.text == selector.text())
            .map(|(number, _)| number)
    }

    /// Puts `selector` into a free slot, or returns `None` if there is none.
    pub(crate) fn insert(&mut self, selector: &Selector) -> Option<u8> {
        let number = (0_u8..).zip(&self.slots).find(|(_, slot)| slot.is_none())?.0;
        self.set(number, Slot::new(selector));
        Some(number)
    }

    /// Puts back a selector that the journal names, live until `grace_until`.
    pub(crate) fn restore(
        &mut self,
        number: u8,
        text: String,
        dialect: u8,
        kind: SelectorKind,
        grace_until: Duration,
    ) {
        let dialect = dialect_of(dialect);
        // It was accepted under the limits of its time.
        let limits = Limits {
            text_bytes_max: text.len().max(1),
            tokens_max: text.len().max(1),
            list_max: text.len().max(1),
            pattern_bytes_max: text.len().max(1),
            cost_max: u64::MAX,
            ..Limits::default()
        };
        let selector = if kind == SelectorKind::All {
            Ok(Selector::all())
        } else {
            Selector::parse(&text, dialect, &limits)
        };
        if let Err(error) = &selector {
            tracing::error!(%error, text, "a selector of the group journal cannot be read any more");
        }
        let predicate = selector.ok().map(|selector| Arc::new(Predicate::new(&selector)));
        self.set(number, Slot { text, dialect, kind, predicate, named: HashMap::new(), grace_until });
    }

    fn set(&mut self, number: u8, slot: Slot) {
        if let Some(place) = self.slots.get_mut(usize::from(number)) {
            *place = Some(slot);
        }
    }

    pub(crate) fn remove(&mut self, number: u8) {
        if let Some(place) = self.slots.get_mut(usize::from(number)) {
            *place = None;
        }
        self.latest.retain(|_, latest| *latest != number);
    }

    /// Notes that `client` receives with the selector in slot `number`.
    pub(crate) fn name(&mut self, number: u8, selector: &Selector, client: &str, now: Duration) {
        let Some(slot) = self.slots.get_mut(usize::from(number)).and_then(Option::as_mut) else { return };
        slot.predicate.get_or_insert_with(|| Arc::new(Predicate::new(selector)));
        let client: Arc<str> = match slot.named.get_key_value(client) {
            Some((name, _)) => Arc::clone(name),
            None => client.into(),
        };
        if slot.named.len() >= 1024 && slot.named.len().is_power_of_two() {
            let latest = &self.latest;
            slot.named.retain(|name, last| {
                now.saturating_sub(*last) <= CLIENT_ALIVE || latest.get(name) == Some(&number)
            });
        }
        slot.named.insert(Arc::clone(&client), now);
        if self.latest.len() >= 1024 && self.latest.len().is_power_of_two() {
            let slots = &self.slots;
            self.latest.retain(|name, latest| {
                slots.get(usize::from(*latest)).and_then(Option::as_ref).is_some_and(|slot| {
                    slot.named.get(name).is_some_and(|last| now.saturating_sub(*last) <= CLIENT_ALIVE)
                })
            });
        }
        self.latest.insert(client, number);
    }

    /// Forgets a client that is gone.
    pub(crate) fn forget(&mut self, client: &str) {
        self.latest.remove(client);
        for slot in self.slots.iter_mut().flatten() {
            slot.named.remove(client);
        }
    }

    /// Returns the clients that name the selector in slot `number` now.
    pub(crate) fn members(&self, number: u8, now: Duration, clients: &Clients) -> Vec<Arc<str>> {
        let Some(slot) = self.get(number) else { return Vec::new() };
        let names = |client: &Arc<str>, last: Duration| self.names(number, client, last, now, clients);
        slot.named
            .iter()
            .filter(|(client, last)| names(client, **last))
            .map(|(client, _)| Arc::clone(client))
            .collect()
    }

    fn names(&self, number: u8, client: &str, last: Duration, now: Duration, clients: &Clients) -> bool {
        now.saturating_sub(last) <= CLIENT_ALIVE
            || (self.latest.get(client) == Some(&number) && clients.is_alive(client, now))
    }

    /// Returns the slots whose selector is live, as bits.
    pub(crate) fn live(&self, now: Duration, clients: &Clients) -> u8 {
        let is_live = |number, slot: &Slot| {
            now < slot.grace_until
                || slot.named.iter().any(|(client, last)| self.names(number, client, *last, now, clients))
        };
        self.iter()
            .filter(|(number, slot)| is_live(*number, slot))
            .fold(0, |live, (number, _)| live | 1 << number)
    }
}

/// Returns the number by which the journal names a dialect.
pub(crate) fn dialect_number(dialect: Dialect) -> u8 {
    match dialect {
        Dialect::Sql92 => 0,
        Dialect::RocketMq => 1,
        Dialect::Jms => 2,
    }
}

fn dialect_of(number: u8) -> Dialect {
    match number {
        1 => Dialect::RocketMq,
        2 => Dialect::Jms,
        _ => Dialect::Sql92,
    }
}

/// Returns the name of a kind.
pub(crate) fn kind_name(kind: SelectorKind) -> &'static str {
    match kind {
        SelectorKind::All => "all",
        SelectorKind::Tags => "tags",
        SelectorKind::Sql => "sql",
    }
}

/// Returns what people call the selector: one that reads the tag alone is a tag expression.
fn kind_of(selector: &Selector) -> SelectorKind {
    if selector.matches_all() {
        return SelectorKind::All;
    }
    let mut columns = selector.columns();
    match (columns.next(), columns.next()) {
        (Some(ColumnRef::System(System::Tag)), None) => SelectorKind::Tags,
        _ => SelectorKind::Sql,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap()
    }

    #[test]
    fn a_selector_lives_while_a_live_client_names_it() {
        let clients = Clients::default();
        let at = Duration::from_secs;
        let mut selectors = Selectors::default();
        let (old, new) = (selector("a = 1"), selector("a = 2"));
        let slot = selectors.insert(&old).unwrap();
        assert_eq!(selectors.live(at(0), &clients), 0);
        clients.saw("c", at(0));
        selectors.name(slot, &old, "c", at(0));
        assert_eq!(selectors.live(at(120), &clients), 0b1);
        clients.saw("c", at(300));
        assert_eq!(selectors.live(at(300), &clients), 0b1, "it was the client's last, and the client lives");
        let other = selectors.insert(&new).unwrap();
        selectors.name(other, &new, "c", at(300));
        clients.saw("c", at(400));
        assert_eq!(selectors.live(at(400), &clients), 0b10, "the client uses another one now");
        selectors.forget("c");
        assert_eq!(selectors.live(at(400), &clients), 0);
    }

    #[test]
    fn a_selector_is_found_again_by_its_text() {
        let mut selectors = Selectors::default();
        for number in 0..SELECTORS_MAX {
            assert_eq!(selectors.insert(&selector(&format!("a = {number}"))), Some(number as u8));
        }
        assert_eq!(selectors.insert(&selector("b = 1")), None);
        assert_eq!(selectors.find(&selector("a = 3")), Some(3));
        selectors.remove(3);
        assert_eq!(selectors.find(&selector("a = 3")), None);
        assert_eq!(selectors.insert(&selector("b = 1")), Some(3));
    }

    #[test]
    fn the_journal_brings_any_selector_back() {
        let tags = Selector::parse_tags("a || b", &Limits::default()).unwrap();
        for selector in [Selector::all(), tags, selector("price > 10")] {
            let mut selectors = Selectors::default();
            let text = selector.text().to_owned();
            let number = dialect_number(selector.dialect());
            selectors.restore(2, text, number, kind_of(&selector), Duration::from_secs(9));
            assert_eq!(selectors.find(&selector), Some(2));
            assert!(selectors.get(2).unwrap().predicate().is_some());
            assert_eq!(selectors.live(Duration::from_secs(8), &Clients::default()), 0b100);
            assert_eq!(selectors.live(Duration::from_secs(9), &Clients::default()), 0);
        }
    }
}
