//! The pending topic: messages that nobody may see yet.

use std::sync::{Arc, atomic::Ordering};

use super::{Inner, Storage, open::add_queues};
use crate::{
    catalogue::{Catalogue, DurabilityClass, NewTopic, TopicEntry},
    error::StorageError,
    journal::JournalDone,
    lock::Feature,
    message::PendingRow,
    offset::{LogPosition, QueueId, QueueOffset, TopicId},
};

/// Where the pending topic stands among the topics: no client can name it so.
const NAMESPACE: &str = "weir";
const NAME: &str = "pending";

impl Storage {
    /// Returns the topic that holds pending messages, if there have been any.
    pub fn pending_topic(&self) -> Option<Arc<TopicEntry>> {
        self.handle.inner.pending_topic()
    }

    /// Returns the topic that holds pending messages, with at least so many queues; makes it at first. From then on programs
    /// that know nothing of them refuse the directory. Durable when this returns.
    ///
    /// # Errors
    ///
    /// If the catalogue or `FORMAT` cannot be written.
    pub fn make_pending_topic(&self, queues: u32) -> Result<Arc<TopicEntry>, StorageError> {
        let inner = &self.handle.inner;
        if let Some(topic) = inner.pending_topic().filter(|topic| topic.queues >= queues) {
            return Ok(topic);
        }
        inner.need(Feature::PendingMessages)?;
        let topic = match inner.pending_topic() {
            Some(topic) => inner.change(|catalogue| {
                let TopicEntry { id, class, compression, attributes, .. } = topic.as_ref();
                catalogue.alter_topic(*id, queues, *class, *compression, attributes.clone())
            }),
            None => inner.change(|catalogue| {
                catalogue.create_topic(NewTopic {
                    namespace: NAMESPACE.to_owned(),
                    name: NAME.to_owned(),
                    queues,
                    class: DurabilityClass::Sync,
                    attributes: "{}".to_owned(),
                    ..NewTopic::default()
                })
            }),
        }?;
        add_queues(&inner.queues, &topic);
        Ok(topic)
    }

    /// Says that pending rows are done without having been released; `done` runs when that is durable. Rows that are
    /// done already stay so.
    ///
    /// If `done` is told of an error that is not [`Closed`](StorageError::Closed) or
    /// [`NoSpace`](StorageError::NoSpace), the rows may be done all the same.
    pub fn discard(&self, rows: &[PendingRow], done: JournalDone) {
        self.handle.inner.discard(rows, done);
    }

    /// Runs `done` when all that was said of pending rows before is durable, as if some were discarded again.
    pub fn when_discarded(&self, done: JournalDone) {
        self.handle.inner.discard(&[], done);
    }

    /// Returns whether a pending row is done: released, or discarded.
    pub fn is_done(&self, row: &PendingRow) -> bool {
        self.handle.inner.done.lock().contains(row)
    }

    /// Returns the first row of a queue of the pending topic from `from` on that is not safely done. While a copy of the
    /// directory is made, it is `from`: a release behind the end of the log of the copy must not end its row in the copy.
    pub fn first_not_done(&self, topic: TopicId, queue: QueueId, from: QueueOffset) -> QueueOffset {
        let inner = &self.handle.inner;
        // Before the look: what is durable before a copy begins is in its log.
        let first = inner.done.lock().first_open(topic, queue, from);
        if inner.is_copied.load(Ordering::Acquire) { from } else { first }
    }
}

pub(super) fn pending_topic(catalogue: &Catalogue) -> Option<Arc<TopicEntry>> {
    catalogue.topic_named(NAMESPACE, NAME)
}

impl Inner {
    fn pending_topic(&self) -> Option<Arc<TopicEntry>> {
        pending_topic(&self.catalogue)
    }

    /// Returns the position that a checkpoint may reach, at most `log`: releases below it are in the journal, durably.
    pub(super) fn below_releases(&self, log: LogPosition) -> Result<LogPosition, StorageError> {
        let wanted = self.done.lock().wants_sync();
        if let Some(written) = wanted {
            self.journal.sync().inspect_err(|error| self.fail(error.clone()))?;
            self.done.lock().entries_durable(written);
        }
        Ok(self.done.lock().held_at().map_or(log, |held| log.min(held)))
    }

    pub(super) fn forget_done_before(&self, topic: TopicId, queue: QueueId, first: QueueOffset) {
        self.done.lock().forget_before(topic, queue, first);
        self.has_ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        Append, Events, Message, PendingTarget, StorageOptions,
        sim::{SimCall, SimEnv},
    };

    const DIR: &str = "/data";
    const QUEUE: QueueId = QueueId(0);
    const ROWS: u64 = 20;

    struct Silent;

    impl Events for Silent {
        fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
        fn failed(&self, _: &StorageError) {}
    }

    fn open(env: &SimEnv) -> Storage {
        open_in(env, DIR)
    }

    fn open_in(env: &SimEnv, dir: &str) -> Storage {
        let env = Arc::new(env.process());
        let options = StorageOptions { env, ..StorageOptions::small() };
        Storage::open_stepped(Path::new(dir), options, Arc::new(Silent)).unwrap()
    }

    fn append(storage: &Storage, topic: TopicId, message: Message) {
        let refused = |result: Result<_, StorageError>| drop(result.unwrap());
        storage.append(vec![Append { topic, queue: QUEUE, message }], Box::new(refused));
        storage.inner().append_once();
    }

    fn row(topic: TopicId, offset: u64) -> PendingRow {
        PendingRow { topic, queue: QUEUE, offset: QueueOffset(offset) }
    }

    /// A topic and the pending one, with rows of which the first half is released, not yet durably.
    fn filled(env: &SimEnv) -> (Storage, TopicId) {
        let storage = open(env);
        let new = NewTopic { name: "t".into(), queues: 1, ..NewTopic::default() };
        let topic = storage.create_topic(new).unwrap().id;
        let pending = storage.make_pending_topic(1).unwrap().id;
        let target = PendingTarget { topic, incarnation: 1, due_ms: 5 };
        for _ in 0..ROWS {
            append(&storage, pending, Message { pending: Some(target), ..Message::default() });
        }
        storage.inner().flush_once(true);
        storage.inner().build_once();
        for offset in 0..ROWS / 2 {
            append(&storage, topic, Message { released: Some(row(pending, offset)), ..Message::default() });
        }
        (storage, pending)
    }

    #[track_caller]
    fn assert_done(storage: &Storage, pending: TopicId, when: &str) {
        for offset in 0..ROWS {
            assert_eq!(storage.is_done(&row(pending, offset)), offset < ROWS / 2, "{offset} {when}");
        }
    }

    /// The log alone tells of a release until the journal does, through any number of losses of power.
    #[test]
    fn a_release_counts_once_it_is_durable_whatever_becomes_of_its_entry() {
        for seed in 0..60 {
            let env = SimEnv::new(seed);
            let (storage, pending) = filled(&env);
            assert_done(&storage, pending, "as soon as it is written");
            assert_eq!(storage.first_not_done(pending, QUEUE, QueueOffset(0)), QueueOffset(0), "not safely");
            // The log is synced, and the entries are written, not synced.
            storage.inner().flush_once(false);
            assert_eq!(storage.first_not_done(pending, QUEUE, QueueOffset(0)).0, ROWS / 2);
            for start in 0..4 {
                env.lose_power();
                let storage = open(&env);
                assert_done(&storage, pending, &format!("at start {start} of seed {seed}"));
                // Sometimes the power fails before anything else is done, sometimes behind a checkpoint.
                if (seed >> start) & 1 == 0 {
                    storage.inner().flush_once(false);
                }
                if (seed >> start) & 2 == 0 {
                    storage.checkpoint().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_release_that_is_lost_leaves_its_row_pending() {
        let mut lost = 0;
        for seed in 0..40 {
            let env = SimEnv::new(seed);
            let (storage, pending) = filled(&env);
            env.lose_power();
            drop(storage);
            let storage = open(&env);
            let topic = storage.topics()[0].id;
            let released = storage.inner().queues.next_offset(topic, QUEUE).0;
            for offset in 0..ROWS {
                assert_eq!(
                    storage.is_done(&row(pending, offset)),
                    offset < released,
                    "seed {seed}: {offset}"
                );
            }
            lost += u64::from(released < ROWS / 2);
        }
        assert!(lost > 10, "the power took releases {lost} times");
    }

    #[test]
    fn no_checkpoint_passes_a_release_whose_entry_cannot_be_written() {
        let env = SimEnv::new(1);
        let (storage, pending) = filled(&env);
        let inner = storage.inner();
        let before = inner.log.durable();
        inner.sync_log().unwrap();
        inner.build_once();
        // Nothing has told the journal of the releases yet.
        storage.checkpoint().unwrap();
        assert!(inner.checkpoint.lock().log <= before, "the checkpoint stays before the first of them");
        // The journal finds no room.
        env.fail(SimCall::Write, 0, std::io::ErrorKind::StorageFull);
        inner.flush_once(false);
        storage.checkpoint().unwrap();
        assert!(inner.checkpoint.lock().log <= before, "nor while the entries wait");
        env.fail_no_more();
        inner.flush_once(false);
        storage.checkpoint().unwrap();
        assert_eq!(inner.checkpoint.lock().log, inner.log.durable());
        env.lose_power();
        drop(storage);
        let storage = open(&env);
        assert_eq!(storage.report().replayed_bytes, 0);
        assert_done(&storage, pending, "after a start that reads none of them");
    }

    #[test]
    fn a_copy_knows_what_is_done_whether_the_journal_or_the_log_tells() {
        for is_told in [false, true] {
            let env = SimEnv::new(2);
            let (storage, pending) = filled(&env);
            if is_told {
                storage.inner().flush_once(false);
                storage.inner().build_once();
                storage.checkpoint().unwrap();
            }
            storage.copy_to(Path::new("/copy"), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
            let copy = open_in(&env, "/copy");
            assert_eq!(copy.report().replayed_bytes == 0, is_told);
            assert_done(&copy, pending, "in the copy");
        }
    }

    /// A rotation writes what is done into the new journal, and the old one goes.
    #[test]
    fn what_is_done_outlives_the_journal_that_said_so() {
        let env = SimEnv::new(3);
        let (storage, pending) = filled(&env);
        let inner = storage.inner();
        inner.flush_once(true);
        inner.journal_writer.lock().rotate_soon();
        inner.flush_once(true);
        storage.journal_rotated();
        inner.flush_once(true);
        inner.build_once();
        storage.checkpoint().unwrap();
        env.lose_power();
        drop(storage);
        let storage = open(&env);
        assert_eq!(storage.report().replayed_bytes, 0);
        assert_done(&storage, pending, "by the snapshot alone");
    }
}
