//! Rows that have just come in: kept as the heads of their records until somebody wants their columns.
//!
//! To make the columns of one row takes as long as to make those of dozens, and most small runs are merged, or written
//! into a file, before anybody has looked at one of their columns.

use std::{cell::RefCell, ops::Range};

use parking_lot::Mutex;

use crate::{
    format::record::{RecordHeads, RecordView, padded},
    queue::{
        builder::RunBuilder,
        image::Place,
        merge::TELLING_ROWS,
        rows::{Names, add_row, admit_all},
        tail::RunBytes,
    },
    raw::arrays::Image,
};

/// A run of more rows is built at once.
const ROWS_MAX: usize = 64;
/// A run whose heads take more bytes is built at once: to copy them would take as long as to build.
const BYTES_MAX: usize = 32 << 10;
// A merge looks at the columns of larger runs to see what is unique in them.
const _: () = assert!(ROWS_MAX < TELLING_ROWS);

thread_local! {
    /// Whoever asks for columns builds them.
    static BUILDER: RefCell<RunBuilder> = RefCell::default();
}

/// A run whose columns are made at their first use.
#[derive(Debug)]
pub(crate) struct Young {
    heads: RecordHeads,
    place: Place,
    /// What all runs take. The heads are counted by the list that the run is in, and stay where its columns are made.
    all: RunBytes,
    columns: Mutex<Columns>,
}

/// What is counted of the columns.
#[derive(Debug, Default)]
struct Columns {
    bytes: usize,
    /// The run has left its list: nothing is counted any more.
    has_left: bool,
}

impl Young {
    /// Returns the run of some records whose rows follow one another, unless it is better built at once. It is not if the
    /// topic may not have a column for each of their properties.
    pub(crate) fn of(
        records: &[RecordView<'_>],
        place: Place,
        names: &mut Names,
        all: &RunBytes,
    ) -> Option<Self> {
        let is_small = records.len() <= ROWS_MAX
            && records.iter().map(|record| record.head_bytes()).sum::<usize>() <= BYTES_MAX;
        let fits = is_small && records.iter().all(|record| admit_all(record, names));
        fits.then(|| Self {
            heads: RecordHeads::of(records),
            place,
            all: all.clone(),
            columns: Mutex::default(),
        })
    }

    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn heads(&self) -> &RecordHeads {
        &self.heads
    }

    /// Returns what the records take in the log, in bytes.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.heads.records().map(|record| padded(u64::from(record.size))).sum()
    }

    /// Returns about how many bytes of memory it takes besides its columns.
    pub(crate) fn memory(&self) -> usize {
        // Positions are copied, since they are asked for at once.
        self.heads.memory() + 8 * self.heads.len()
    }

    /// Adds some of the rows to a block in the making.
    pub(crate) fn add_to(&self, builder: &mut RunBuilder, rows: Range<usize>) {
        for record in self.heads.records().skip(rows.start).take(rows.len()) {
            add_row(builder, &record, &mut |_| true);
        }
    }

    /// Makes the columns.
    pub(crate) fn build(&self) -> Image {
        let bytes = BUILDER.with_borrow_mut(|builder| {
            builder.clear();
            self.add_to(builder, 0..self.heads.len());
            builder.finish(self.place)
        });
        let mut columns = self.columns.lock();
        if !columns.has_left {
            columns.bytes = bytes.len();
            self.all.add(bytes.len());
        }
        drop(columns);
        Image::built(bytes).expect("the builder makes whole blocks")
    }

    /// Its columns are counted no longer, whoever still has them.
    pub(crate) fn leave(&self) {
        let mut columns = self.columns.lock();
        columns.has_left = true;
        self.all.take(std::mem::take(&mut columns.bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        message::Message,
        offset::{LogPosition, QueueId, QueueOffset, TopicId},
        queue::{
            block::Block,
            model::{Messages, ModelLog, as_log},
        },
    };

    const PLACE: Place = Place { topic: TopicId(1), incarnation: 3, queue: QueueId(0), base: QueueOffset(0) };

    /// A log with so many random messages.
    fn log(rows: u64) -> Arc<ModelLog> {
        let (log, mut messages) = (Arc::new(ModelLog::default()), Messages::new(rows));
        for row in 0..rows {
            log.append(1, 0, row, &messages.next_message());
        }
        log
    }

    fn young(log: &ModelLog, names: &mut Names, all: &RunBytes) -> Option<Young> {
        log.from(LogPosition::default(), |records| Young::of(&records.collect::<Vec<_>>(), PLACE, names, all))
    }

    #[test]
    fn columns_that_are_made_later_are_those_that_would_have_been_made_at_once() {
        for rows in [1, 2, 7, ROWS_MAX as u64] {
            let (log, all) = (log(rows), RunBytes::new(u64::MAX));
            let at_once = log.from(LogPosition::default(), |records| {
                let mut builder = RunBuilder::default();
                records.for_each(|record| add_row(&mut builder, &record, &mut |_| true));
                builder.finish(PLACE)
            });
            let block = Block::young(young(&log, &mut Names::default(), &all).unwrap(), as_log(&log));
            let positions = block.positions().unwrap().clone();
            assert_eq!((block.len() as u64, block.range().end), (rows, QueueOffset(rows)));
            let (weight, record_bytes) = (block.weight(), block.record_bytes());
            assert_eq!(all.get(), 0, "the heads are counted by whoever has the run");
            assert_eq!(block.bytes().as_slice(), at_once.as_slice());
            assert_eq!(all.get(), at_once.len() as u64);
            assert_eq!((block.weight(), block.record_bytes()), (weight, block.header().record_bytes));
            assert_eq!(record_bytes, block.header().record_bytes);
            let built = Block::built(at_once, as_log(&log)).unwrap();
            assert_eq!(&positions, built.positions().unwrap());
            assert_eq!(block.first_position(), built.first_position());
            assert_eq!(block.last_position(), built.last_position());
            block.as_young().unwrap().leave();
            assert_eq!(all.get(), 0);
            let left = young(&log, &mut Names::default(), &all).unwrap();
            left.leave();
            left.build();
            assert_eq!(all.get(), 0, "readers alone have it");
        }
    }

    #[test]
    fn a_run_that_is_large_or_has_a_name_too_many_is_built_at_once() {
        let all = RunBytes::new(u64::MAX);
        assert!(young(&log(ROWS_MAX as u64 + 1), &mut Names::default(), &all).is_none());
        let log = Arc::new(ModelLog::default());
        let named = |name: &str, value: &str| Message {
            properties: vec![(name.to_owned(), weir_columns::Value::Str(value.to_owned()))],
            ..Message::default()
        };
        log.append(1, 0, 0, &named("a", &"x".repeat(BYTES_MAX)));
        assert!(young(&log, &mut Names::default(), &all).is_none());
        let log = Arc::new(ModelLog::default());
        log.append(1, 0, 0, &named("a", ""));
        let mut names = Names::default();
        assert!(young(&log, &mut names, &all).is_some());
        let mut number = 0..;
        while names.admit(TopicId(1), &format!("n{}", number.next().unwrap())) {}
        assert!(young(&log, &mut names, &all).is_some(), "its name is known");
        log.append(1, 0, 1, &named("b", ""));
        assert!(young(&log, &mut names, &all).is_none());
    }
}
