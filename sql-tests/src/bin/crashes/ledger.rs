//! What is known of every message without asking the broker, what the broker's log was seen to hold, and whether
//! the two agree.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::{content::Content, load::Event};

/// Queue and offset.
pub(crate) type Place = (u32, u64);

/// Counts of what has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Messages whose publish was acknowledged.
    pub(crate) acknowledged: u64,
    /// Messages that came, each time counted.
    pub(crate) deliveries: u64,
    /// Acknowledgements of the group that were confirmed.
    pub(crate) acks: u64,
    /// Calls that were made once more after an error.
    pub(crate) retries: u64,
}

/// All calls and all rows.
#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    /// By the number of the first message.
    calls: BTreeMap<u64, Call>,
    topics: Vec<Topic>,
    /// What must be in the log at the next look, and why.
    owed: BTreeMap<u64, &'static str>,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
struct Call {
    topic: usize,
    items: Vec<Item>,
    attempts: u32,
    is_acknowledged: bool,
    promised: Option<Vec<Place>>,
}

#[derive(Debug)]
struct Item {
    id: Box<str>,
    matches: bool,
    /// Where the log holds it.
    places: Vec<Place>,
    delivered: u32,
    acked: u32,
    /// The most acknowledgements that were confirmed when it came yet again.
    acked_when_it_came: u32,
}

/// What the log of a topic was seen to hold: numbers of messages, by queue and offset.
#[derive(Debug)]
struct Topic {
    name: String,
    queues: Vec<Vec<u64>>,
}

/// A row of the log.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) place: Place,
    pub(crate) id: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) keys: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) properties: Vec<(&'a str, &'a str)>,
}

impl Ledger {
    pub(crate) fn new(seed: u64, topics: &[(String, u32)]) -> Self {
        let topic = |(name, queues): &(String, u32)| Topic {
            name: name.clone(),
            queues: vec![Vec::new(); *queues as usize],
        };
        Self {
            seed,
            calls: BTreeMap::new(),
            topics: topics.iter().map(topic).collect(),
            owed: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Takes in what happened, and judges deliveries as far as that can be done at once.
    pub(crate) fn note(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Send { first, topic, ids } => {
                let topic = self.topics.iter().position(|known| known.name == topic);
                let topic = topic.context("the load sends to another topic")?;
                let item = |(n, id): (u64, String)| Item {
                    id: id.into(),
                    matches: Content::of(self.seed, n).matches,
                    places: Vec::new(),
                    delivered: 0,
                    acked: 0,
                    acked_when_it_came: 0,
                };
                let items = (first..).zip(ids).map(item).collect();
                let call = Call { topic, items, attempts: 1, is_acknowledged: false, promised: None };
                ensure!(self.calls.insert(first, call).is_none(), "the load uses number {first} twice");
            }
            Event::Again { first } => {
                self.call(first)?.attempts += 1;
                self.counts.retries += 1;
            }
            Event::Sent { first, places } => {
                let call = self.call(first)?;
                call.is_acknowledged = true;
                call.promised = places;
                let count = call.items.len() as u64;
                self.counts.acknowledged += count;
                self.owed.extend((first..first + count).map(|n| (n, "its publish was acknowledged")));
            }
            Event::Got { n, topic, id } => {
                let topic = self.topics.iter().position(|known| known.name == topic);
                let (call, index) = self.item(n).context("a message came that nobody sent")?;
                let attempts = call.attempts;
                let belongs = Some(call.topic) == topic;
                let item = &mut call.items[index];
                ensure!(belongs && *item.id == *id, "message {n} came from another topic or with id {id}");
                ensure!(item.matches, "message {n} came, which does not match the selector");
                ensure!(
                    item.acked < attempts,
                    "message {n} came again after its acknowledgement was confirmed"
                );
                item.delivered += 1;
                item.acked_when_it_came = item.acked_when_it_came.max(item.acked);
                self.counts.deliveries += 1;
                self.owed.insert(n, "it was delivered");
            }
            Event::Acked { n } => {
                let (call, index) = self.item(n).context("a message was acknowledged that nobody sent")?;
                call.items[index].acked += 1;
                self.counts.acks += 1;
            }
            Event::Wrong(what) => bail!("the load says: {what}"),
            Event::Refused | Event::Drained | Event::Mark(_) | Event::Ended => {}
        }
        Ok(())
    }

    fn call(&mut self, first: u64) -> Result<&mut Call> {
        self.calls.get_mut(&first).with_context(|| format!("the load speaks of an unknown call {first}"))
    }

    fn item(&mut self, n: u64) -> Option<(&mut Call, usize)> {
        let (first, call) = self.calls.range_mut(..=n).next_back()?;
        let index = usize::try_from(n - first).ok()?;
        (index < call.items.len()).then_some((call, index))
    }

    /// Takes what must be in a log that is looked at from now on.
    pub(crate) fn take_owed(&mut self) -> BTreeMap<u64, &'static str> {
        std::mem::take(&mut self.owed)
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }

    /// Returns how many rows of each queue are known.
    pub(crate) fn ends(&self, topic: usize) -> Vec<u64> {
        self.topics[topic].queues.iter().map(|rows| rows.len() as u64).collect()
    }

    /// Compares a row with what its number says, and with what was there before. Returns the number if the row is
    /// new; its message is compared by [`settle`](Self::settle).
    pub(crate) fn see(&mut self, topic: usize, row: &Row<'_>) -> Result<Option<u64>> {
        let (queue, offset) = row.place;
        let name = &self.topics[topic].name;
        let at = || format!("{name}, queue {queue}, offset {offset}");
        let n = row.properties.iter().find(|(name, _)| *name == "n").and_then(|(_, n)| n.parse().ok());
        let n: u64 = n.with_context(|| format!("{}: a row that nobody sent: {row:?}", at()))?;
        let expected = Content::of(self.seed, n);
        let is_right = row.body == expected.body.as_bytes()
            && row.tag == expected.tag
            && row.keys == expected.keys.join(" ")
            && row.properties.len() == expected.properties.len()
            && row.properties.iter().zip(&expected.properties).all(|(a, b)| a.0 == b.0 && a.1 == b.1);
        ensure!(is_right, "{}: the row {row:?} is not {expected:?}", at());
        let rows = self.topics[topic].queues.get(queue as usize);
        let known = rows.with_context(|| format!("{}: no such queue", at()))?.get(offset as usize).copied();
        if let Some(known) = known {
            ensure!(known == n, "{}: message {n} lies where message {known} was", at());
        }
        let (call, index) = self.item(n).map_or((None, 0), |(call, index)| (Some(call), index));
        if let Some(call) = call {
            let id = &call.items[index].id;
            ensure!(**id == *row.id, "message {n} has the id {}, not {id}", row.id);
        }
        if known.is_none() {
            self.topics[topic].queues[queue as usize].push(n);
        }
        Ok(known.is_none().then_some(n))
    }

    /// Notes where new rows lie, once everything has been told that happened before they were seen; and checks that
    /// what was `owed` is there.
    pub(crate) fn settle(
        &mut self,
        rows: Vec<(usize, u64, Place)>,
        owed: &BTreeMap<u64, &'static str>,
    ) -> Result<()> {
        for (topic, n, place) in rows {
            let (call, index) = self.item(n).with_context(|| {
                format!("{place:?} of topic {topic} holds message {n}, which nobody sent")
            })?;
            ensure!(call.topic == topic, "message {n} lies in another topic");
            let attempts = call.attempts as usize;
            let item = &mut call.items[index];
            item.places.push(place);
            ensure!(
                item.places.len() <= attempts,
                "message {n} was sent {attempts} times and lies at {:?}",
                item.places
            );
        }
        for (n, why) in owed {
            let (call, index) = self.item(*n).context("what is owed was sent")?;
            let (topic, places) = (call.topic, &call.items[index].places);
            let promised = call.promised.as_ref().and_then(|places| places.get(index));
            ensure!(!places.is_empty(), "message {n} of topic {topic} is lost, although {why}");
            if let Some(promised) = promised {
                ensure!(
                    places.contains(promised),
                    "message {n} of topic {topic} lies at {places:?}, but {promised:?} was acknowledged"
                );
            }
        }
        Ok(())
    }

    /// Returns messages that a consumer must still get, some of them.
    pub(crate) fn undelivered(&self) -> Vec<u64> {
        let lacks = |item: &Item| item.matches && (item.delivered as usize) < item.places.len();
        let numbers = self.calls.iter().flat_map(|(first, call)| {
            (*first..).zip(&call.items).filter(|(_, item)| lacks(item)).map(|(n, _)| n)
        });
        numbers.take(20).collect()
    }

    /// Checks what can only be said when all has come to rest. Returns how many rows are doubles.
    pub(crate) fn close(&self) -> Result<u64> {
        let mut doubled = 0;
        for (first, call) in &self.calls {
            let set = |index: usize| -> BTreeSet<(u32, Option<u64>)> {
                let places = call.items[index].places.iter();
                places.map(|(queue, offset)| (*queue, offset.checked_sub(index as u64))).collect()
            };
            for (index, item) in call.items.iter().enumerate() {
                let n = first + index as u64;
                let copies = item.places.len() as u64;
                ensure!(
                    set(index) == set(0),
                    "call {first} is not stored as a whole: message {n} lies at {:?}, its first at {:?}",
                    item.places,
                    call.items[0].places
                );
                ensure!(copies > 0 || !call.is_acknowledged, "message {n} is lost");
                ensure!(
                    u64::from(item.acked_when_it_came) < copies.max(1),
                    "message {n} came again after its acknowledgement was confirmed"
                );
                ensure!(
                    !item.matches || u64::from(item.delivered) >= copies,
                    "message {n} matches the selector, lies at {:?}, and came {} times",
                    item.places,
                    item.delivered
                );
                doubled += copies.saturating_sub(1);
            }
        }
        Ok(doubled)
    }

    /// Returns how many rows the log holds.
    pub(crate) fn rows(&self) -> u64 {
        self.topics.iter().flat_map(|topic| &topic.queues).map(|rows| rows.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Random;

    /// One under which one of the first two messages matches.
    const SEED: u64 = 9;

    /// A ledger in which messages 0 and 1 were sent in one call and acknowledged.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(SEED, &[("t".to_owned(), 2)]);
        let ids = vec!["id-0".to_owned(), "id-1".to_owned()];
        ledger.note(Event::Send { first: 0, topic: "t".to_owned(), ids }).unwrap();
        ledger.note(Event::Sent { first: 0, places: None }).unwrap();
        ledger
    }

    /// Looks at rows, given as place and number, as a check does.
    fn look(ledger: &mut Ledger, rows: &[(Place, u64)]) -> Result<()> {
        let owed = ledger.take_owed();
        let mut new = Vec::new();
        for (place, n) in rows {
            let content = Content::of(SEED, *n);
            let (id, keys) = (format!("id-{n}"), content.keys.join(" "));
            let row = Row {
                place: *place,
                id: &id,
                tag: content.tag,
                keys: &keys,
                body: content.body.as_bytes(),
                properties: content.properties.iter().map(|(a, b)| (*a, b.as_str())).collect(),
            };
            new.extend(ledger.see(0, &row)?.map(|n| (0, n, *place)));
        }
        ledger.settle(new, &owed)
    }

    fn got(ledger: &mut Ledger, n: u64) -> Result<()> {
        ledger.note(Event::Got { n, topic: "t".to_owned(), id: format!("id-{n}") })
    }

    /// Delivers and acknowledges what matches.
    fn consume(ledger: &mut Ledger) {
        for n in (0..2).filter(|n| Content::of(SEED, *n).matches) {
            got(ledger, n).unwrap();
            ledger.note(Event::Acked { n }).unwrap();
        }
    }

    fn fault(outcome: Result<impl std::fmt::Debug>) -> String {
        format!("{:#}", outcome.unwrap_err())
    }

    #[test]
    fn what_was_sent_and_lies_there_is_right() {
        let mut ledger = ledger();
        look(&mut ledger, &[((1, 0), 0), ((1, 1), 1)]).unwrap();
        consume(&mut ledger);
        assert_eq!(ledger.close().unwrap(), 0);
    }

    #[test]
    fn a_lost_message_is_found() {
        assert!(fault(look(&mut ledger(), &[((1, 0), 0)])).contains("message 1 of topic 0 is lost"));
    }

    #[test]
    fn a_message_that_nobody_sent_is_found() {
        let rows = [((1, 0), 0), ((1, 1), 1), ((1, 2), 7)];
        assert!(fault(look(&mut ledger(), &rows)).contains("which nobody sent"));
    }

    #[test]
    fn a_row_that_became_another_is_found() {
        let mut ledger = ledger();
        look(&mut ledger, &[((1, 0), 0), ((1, 1), 1)]).unwrap();
        assert!(fault(look(&mut ledger, &[((1, 1), 0)])).contains("lies where message 1 was"));
    }

    #[test]
    fn a_message_in_another_place_than_was_acknowledged_is_found() {
        let mut ledger = ledger();
        ledger.note(Event::Sent { first: 0, places: Some(vec![(0, 0), (0, 1)]) }).unwrap();
        assert!(
            fault(look(&mut ledger, &[((1, 0), 0), ((1, 1), 1)])).contains("but (0, 0) was acknowledged")
        );
    }

    #[test]
    fn a_double_is_right_only_after_a_second_call() {
        let rows = [((1, 0), 0), ((1, 1), 1), ((0, 0), 0), ((0, 1), 1)];
        assert!(fault(look(&mut ledger(), &rows)).contains("was sent 1 times and lies at"));
        let mut ledger = ledger();
        ledger.note(Event::Again { first: 0 }).unwrap();
        look(&mut ledger, &rows).unwrap();
        consume(&mut ledger);
        consume(&mut ledger);
        assert_eq!(ledger.close().unwrap(), 2);
    }

    #[test]
    fn half_a_call_is_found() {
        let mut ledger = ledger();
        ledger.note(Event::Again { first: 0 }).unwrap();
        look(&mut ledger, &[((1, 0), 0), ((1, 1), 1), ((0, 0), 0)]).unwrap();
        consume(&mut ledger);
        consume(&mut ledger);
        assert!(fault(ledger.close()).contains("not stored as a whole"));
    }

    #[test]
    fn a_delivery_after_a_confirmed_acknowledgement_is_found() {
        let n = (0..2).find(|n| Content::of(SEED, *n).matches).expect("one of the two matches");
        let mut ledger = ledger();
        consume(&mut ledger);
        assert!(fault(got(&mut ledger, n)).contains("came again after its acknowledgement"));
        // After a second call there may be a second message, but only if the log holds it.
        let mut ledger = self::ledger();
        ledger.note(Event::Again { first: 0 }).unwrap();
        look(&mut ledger, &[((1, 0), 0), ((1, 1), 1)]).unwrap();
        consume(&mut ledger);
        got(&mut ledger, n).unwrap();
        assert!(fault(ledger.close()).contains("came again after its acknowledgement"));
    }

    #[test]
    fn what_never_came_is_found() {
        let mut ledger = ledger();
        look(&mut ledger, &[((1, 0), 0), ((1, 1), 1)]).unwrap();
        assert!(!ledger.undelivered().is_empty());
        assert!(fault(ledger.close()).contains("came 0 times"));
    }

    #[test]
    fn content_is_a_function_of_seed_and_number() {
        let mut random = Random::new(SEED, 1);
        let n = random.next();
        assert_eq!(Content::of(SEED, n), Content::of(SEED, n));
        assert_ne!(Content::of(SEED, n), Content::of(SEED + 1, n));
        let matching = (0..1000).filter(|n| Content::of(SEED, *n).matches).count();
        assert!((200..800).contains(&matching), "{matching} of 1,000 match");
    }
}
