//! The pending rows that are due next, in memory: all of them up to some moment, and never more than so many.

use std::collections::BTreeSet;

use weir_storage::{QueueId, QueueOffset};

/// When a row is due, and which it is.
pub(super) type Key = (i64, QueueId, QueueOffset);

/// Below all keys.
const NOTHING: Key = (i64::MIN, QueueId(0), QueueOffset(0));

/// Rows that are due next.
///
/// # Invariants
///
/// - Every row whose key lies below `below`, and which is not done, is in `rows`, or in the hands of who has taken it.
#[derive(Debug)]
pub(super) struct DueRows {
    rows: BTreeSet<Key>,
    below: Key,
    /// How many rows are looked for at once. New ones may bring them to twice that.
    capacity: usize,
}

/// Rows that are being looked for, from the bound of before on.
#[derive(Debug)]
pub(super) struct Widening {
    from: Key,
    below: Key,
    found: BTreeSet<Key>,
    room: usize,
}

impl Widening {
    /// Returns the times within which a row is looked for; the end is included.
    pub(super) const fn times(&self) -> (i64, i64) {
        (self.from.0, self.below.0)
    }

    /// Takes a row that is not done.
    pub(super) fn offer(&mut self, key: Key) {
        if (self.from..self.below).contains(&key) {
            self.found.insert(key);
            if self.found.len() > self.room
                && let Some(last) = self.found.pop_last()
            {
                self.below = last;
            }
        }
    }
}

impl DueRows {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { rows: BTreeSet::new(), below: NOTHING, capacity }
    }

    /// Begins to look for the rows that are due before `until_ms`, if `wanted_ms` lies behind what is known, and there is
    /// room.
    pub(super) fn widen(&self, wanted_ms: i64, until_ms: i64) -> Option<Widening> {
        let is_wanted = self.below.0 < wanted_ms && self.rows.len() <= self.capacity / 2;
        is_wanted.then(|| Widening {
            from: self.below,
            below: (until_ms, QueueId(0), QueueOffset(0)),
            found: BTreeSet::new(),
            room: self.capacity - self.rows.len(),
        })
    }

    /// Ends the search.
    pub(super) fn widened(&mut self, mut widening: Widening) {
        self.rows.append(&mut widening.found);
        self.below = widening.below;
    }

    /// Takes a row that has just come.
    pub(super) fn offer(&mut self, key: Key) {
        if key < self.below {
            self.rows.insert(key);
            if self.rows.len() > 2 * self.capacity
                && let Some(last) = self.rows.pop_last()
            {
                self.below = last;
            }
        }
    }

    /// Takes up to `count` rows that are due.
    pub(super) fn take(&mut self, now_ms: i64, count: usize) -> Vec<Key> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(key) = self.rows.pop_first()
        {
            if key.0 > now_ms {
                self.rows.insert(key);
                break;
            }
            taken.push(key);
        }
        taken
    }

    /// Gives back what was taken.
    pub(super) fn put_back(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.rows.extend(keys);
    }

    /// Returns when the first row is due.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.rows.first().map(|key| key.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However few rows have room in memory, each is taken when it is due, in order, and none twice.
        #[test]
        fn every_row_is_taken_once_it_is_due(
            rows in proptest::collection::vec((0_i64..1000, 0_i64..1000), 0..200),
            capacity in 4_usize..40,
            step in 1_i64..60,
        ) {
            // When each comes, and when it is due.
            let rows: Vec<(i64, Key)> = rows
                .iter()
                .enumerate()
                .map(|(n, (comes, due))| (*comes, (*due, QueueId(1), QueueOffset(n as u64))))
                .collect();
            let mut known = DueRows::new(capacity);
            let mut done = BTreeSet::new();
            let mut now = -step;
            while done.len() < rows.len() {
                now += step;
                prop_assert!(now < 3000, "{} of {}", done.len(), rows.len());
                for (_, key) in rows.iter().filter(|(comes, _)| (now - step + 1..=now).contains(comes)) {
                    known.offer(*key);
                }
                loop {
                    while let Some(mut widening) = known.widen(now + 1, now + 100) {
                        let (from, until) = widening.times();
                        let here = rows.iter().filter(|(comes, key)| {
                            *comes <= now && (from..=until).contains(&key.0) && !done.contains(key)
                        });
                        here.for_each(|(_, key)| widening.offer(*key));
                        known.widened(widening);
                        prop_assert!(known.rows.len() <= 2 * capacity);
                    }
                    let taken = known.take(now, 3);
                    if taken.is_empty() {
                        break;
                    }
                    for key in taken {
                        prop_assert!(key.0 <= now && done.insert(key), "{key:?}");
                    }
                }
                let late = rows.iter().find(|(comes, key)| *comes <= now && key.0 <= now && !done.contains(key));
                prop_assert!(late.is_none(), "{late:?} at {now}");
            }
        }
    }
}
