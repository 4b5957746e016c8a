//! Which rows of a block may be wanted, by the hashes of ids and keys in the consume queue.

use std::{sync::Arc, time::Instant};

use arrow_array::UInt32Array;
use weir_columns::{Column, ColumnRef, Rows, System};
use weir_storage::{Block, StorageError};

use super::find::{Name, Source, Wanted};

/// How many hashes of a block are looked at before the time is.
const HASHES_AT_ONCE: usize = 1 << 16;

/// The hashes of a column: where those of each row end, and they themselves.
type Hashes = (UInt32Array, UInt32Array);

/// A block that is being looked at.
pub(super) struct Looking {
    pub(super) source: usize,
    pub(super) block: Arc<Block>,
    ids: Option<Hashes>,
    keys: Option<Hashes>,
    /// Which of what is wanted is compared, and from which hash on.
    wanted: usize,
    hash: usize,
    /// Whether all hashes have been compared: then the records of `rows` are read.
    pub(super) is_sifted: bool,
    /// Those that may be wanted; once the block is sifted, the newest last.
    pub(super) rows: Vec<usize>,
}

impl Looking {
    pub(super) fn at(
        number: usize,
        block: Arc<Block>,
        source: &Source,
        wanted: &[Wanted],
    ) -> Result<Self, StorageError> {
        let hashes = |column: System| {
            let is_of = |name: &Name| matches!(name.column, System::Keys) == matches!(column, System::Keys);
            let is_asked =
                wanted.iter().filter_map(Wanted::name).any(|name| source.is_pending || is_of(name));
            if is_asked { hashes_of(&block, column) } else { Ok(None) }
        };
        let (ids, keys) = (hashes(System::MessageId)?, hashes(System::Keys)?);
        Ok(Self { source: number, block, ids, keys, wanted: 0, hash: 0, is_sifted: false, rows: Vec::new() })
    }

    /// Gathers the rows, visible and not lost, whose hashes are those of something wanted, until about `until`.
    pub(super) fn sift(&mut self, source: &Source, wanted: &[Wanted], until: Instant) {
        while let Some(next) = wanted.get(self.wanted) {
            match next {
                Wanted::Place(queue, offset) => {
                    let row = offset.since(self.block.base()).filter(|_| self.block.queue() == *queue);
                    self.rows.extend(row.and_then(|row| usize::try_from(row).ok()));
                }
                Wanted::Named(name) | Wanted::Copy(name, _) => {
                    let is_key = matches!(name.column, System::Keys);
                    let hashes = if is_key { self.keys.as_ref() } else { self.ids.as_ref() };
                    let next =
                        hashes.and_then(|hashes| rows_named(hashes, name, self.hash, until, &mut self.rows));
                    if let Some(next) = next {
                        self.hash = next;
                        return;
                    }
                }
            }
            (self.wanted, self.hash) = (self.wanted + 1, 0);
        }
        self.is_sifted = true;
        if source.is_pending && wanted.iter().any(|wanted| wanted.name().is_some()) {
            self.add_rows_without_names();
        }
        let (shown, block) = (source.view.range(), &self.block);
        self.rows.retain(|row| {
            let offset = block.base().plus(*row as u64);
            *row < Rows::len(&**block)
                && offset < shown.end
                && (source.is_pending || shown.start <= offset)
                && block.lost().is_none_or(|lost| !lost.value(*row))
        });
        self.rows.sort_unstable();
        self.rows.dedup();
    }

    /// Adds the rows of which neither id nor keys are known: pending rows that an earlier version has built have no
    /// hashes.
    fn add_rows_without_names(&mut self) {
        let has_some = |hashes: &Option<Hashes>, row| {
            hashes
                .as_ref()
                .is_some_and(|(ends, hashes)| !of_row(ends.values(), hashes.values(), row).is_empty())
        };
        let rows = 0..Rows::len(&*self.block);
        self.rows.extend(rows.filter(|row| !has_some(&self.ids, *row) && !has_some(&self.keys, *row)));
    }
}

/// Adds the rows that may have a name, each once, from a hash on until about `until`. Returns the hash at which to go on;
/// `None` at the end. A row with many equal hashes is compared once.
fn rows_named(
    (ends, hashes): &Hashes,
    name: &Name,
    mut at: usize,
    until: Instant,
    rows: &mut Vec<usize>,
) -> Option<usize> {
    let (ends, hashes) = (ends.values(), hashes.values());
    let first = name.hashes.first()?;
    loop {
        let rest = hashes.get(at..).filter(|rest| !rest.is_empty())?;
        let part = rest.get(..HASHES_AT_ONCE).unwrap_or(rest);
        match part.iter().position(|hash| hash == first) {
            Some(hit) => {
                let hit = at + hit;
                let row = ends.partition_point(|end| *end as usize <= hit);
                if name.is_in(of_row(ends, hashes, row)) {
                    rows.push(row);
                }
                at = ends.get(row).map_or(hashes.len(), |end| *end as usize).max(hit + 1);
            }
            None => at += part.len(),
        }
        if Instant::now() >= until {
            return Some(at);
        }
    }
}

fn hashes_of(block: &Block, column: System) -> Result<Option<Hashes>, StorageError> {
    Ok(match block.column(ColumnRef::System(column))? {
        Some(Column::Hashed { row_ends, hashes }) => Some((row_ends, hashes)),
        _ => None,
    })
}

fn of_row<'h>(ends: &[u32], hashes: &'h [u32], row: usize) -> &'h [u32] {
    let start = row.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    let end = ends.get(row).copied().unwrap_or(start);
    hashes.get(start as usize..end as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Rows with the hashes of these texts, as consume queues hold them.
    fn hashed(rows: &[&str]) -> Hashes {
        let (mut ends, mut hashes) = (Vec::new(), Vec::new());
        for row in rows {
            hashes.extend(row.split(' ').map(|part| weir_columns::hash32(part.as_bytes())));
            ends.push(hashes.len() as u32);
        }
        (ends.into(), hashes.into())
    }

    fn named(rows: &[&str], key: &str, until: Instant) -> (Vec<usize>, Option<usize>) {
        let Wanted::Named(name) = Wanted::key(key) else { panic!("{key}") };
        let mut found = Vec::new();
        let next = rows_named(&hashed(rows), &name, 0, until, &mut found);
        (found, next)
    }

    #[test]
    fn a_row_with_many_equal_words_is_named_once() {
        let later = Instant::now() + Duration::from_secs(600);
        let same = "a ".repeat(8190) + "a";
        let rows = ["b", &same, "a b", "", &same];
        assert_eq!(named(&rows, &same, later), (vec![1, 2, 4], None), "its record is compared in full");
        assert_eq!(named(&rows, "b a", later), (vec![2], None));
        assert_eq!(named(&rows, "c", later), (vec![], None));
        let long: Vec<String> = (0..8191).map(|word| word.to_string()).collect();
        let long = long.join(" ");
        assert_eq!(named(&["0", &long, "8190"], &long, later), (vec![1], None));
    }

    #[test]
    fn a_block_is_left_when_time_is_up_and_gone_on_with() {
        let rows: Vec<String> = (0..300_000).map(|row| format!("{}", row % 100_000)).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let hashes = hashed(&rows);
        let Wanted::Named(name) = Wanted::key("77") else { panic!() };
        let (mut found, mut at, mut steps) = (Vec::new(), Some(0), 0);
        while let Some(from) = at {
            at = rows_named(&hashes, &name, from, Instant::now(), &mut found);
            steps += 1;
        }
        assert!(steps > 3, "{steps}");
        let expected = [77, 100_077, 200_077];
        assert!(expected.iter().all(|row| found.contains(row)), "{found:?}");
        // Of a hundred thousand others, hashes of 32 bits may be those of another one.
        assert!(found.len() < 10 && found.is_sorted(), "{found:?}");
    }
}
