//! Tests of how publishers are braked while the consume queues or the memory are behind.

use std::{path::Path, sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{
    Events, LogEnds, Storage,
    options::StorageOptions,
    tests::{send, stepped, topic},
};
use crate::{
    catalogue::{DurabilityClass, NewTopic},
    error::StorageError,
    log::appender::Append,
    message::Message,
    offset::{QueueId, QueueOffset, TopicId},
    sim::SimEnv,
};

/// Holds up the builder in its first call.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Events for Gate {
    fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {
        let mut is_open = self.is_open.lock();
        while !*is_open {
            self.opened.wait(&mut is_open);
        }
    }
    fn failed(&self, _: &StorageError) {}
}

struct Opener<'a>(&'a Gate);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        *self.0.is_open.lock() = true;
        self.0.opened.notify_all();
    }
}

#[test]
fn publishers_wait_for_a_builder_that_is_behind_and_go_on_when_it_is_not() {
    let gate = Arc::new(Gate::default());
    let unbuilt_bytes_max = 20_000;
    let options = StorageOptions {
        env: Arc::new(SimEnv::new(3)),
        unbuilt_bytes_max,
        busy_after: Duration::from_secs(3_600),
        ..StorageOptions::small()
    };
    let storage = Storage::open(Path::new("/data"), options, Arc::clone(&gate) as Arc<dyn Events>).unwrap();
    let relaxed = NewTopic { class: DurabilityClass::Async, ..topic("async") };
    let relaxed = storage.create_topic(relaxed).unwrap().id;
    let (publisher, most) = (storage.clone(), 1_000);
    let publisher = thread::spawn(move || {
        let answers: Vec<_> = (0..most).map(|number| send(&publisher, relaxed, number)).collect();
        answers.into_iter().map(|answer| answer.recv().unwrap().unwrap()[0].offset.0).collect::<Vec<_>>()
    });
    // Also if an assertion fails: storage waits for its threads when it is dropped.
    let opener = Opener(&gate);
    while !storage.is_overloaded() {
        assert!(!publisher.is_finished(), "nothing held it up");
        thread::yield_now();
    }
    // The builder is held up, so from here on nothing makes room.
    let behind = |ends: LogEnds| ends.written.0 - ends.built.0;
    for _ in 0..1_000 {
        let intake = storage.inner().intake.lock().bytes;
        // One batch passes while there is a byte left, and each has a frame of its own at worst.
        assert!(intake + behind(storage.ends()) < 2 * unbuilt_bytes_max);
        thread::yield_now();
    }
    assert!(storage.is_overloaded() && !publisher.is_finished());
    drop(opener);
    assert_eq!(publisher.join().unwrap(), (0..most).collect::<Vec<_>>());
    storage.close().unwrap();
    assert_eq!(storage.view(relaxed, QueueId(0)).unwrap().range().end, QueueOffset(most));
    assert_eq!(behind(storage.ends()), 0);
}

/// Puts a message into a queue and takes all steps but a checkpoint; returns the refusal, if it was refused.
fn put(storage: &Storage, topic: TopicId, queue: u32) -> Option<StorageError> {
    let refused = Arc::new(Mutex::new(None));
    let told = Arc::clone(&refused);
    let batch = vec![Append { topic, queue: QueueId(queue), message: Message::default() }];
    storage.append(batch, Box::new(move |result| *told.lock() = result.err()));
    let inner = storage.inner();
    inner.append_once();
    inner.flush_once(true);
    inner.build_once();
    refused.lock().take()
}

/// Rows of many queues take more memory than log.
#[test]
fn rows_that_take_much_memory_ask_for_a_checkpoint_and_brake_publishers_until_it_is_made() {
    let (busy_after, unfiled_bytes_max) = (Duration::from_millis(1), 60_000);
    let (storage, ..) = stepped(StorageOptions { busy_after, unfiled_bytes_max, ..StorageOptions::small() });
    let wide = storage.create_topic(NewTopic { queues: 1_000, ..topic("wide") }).unwrap().id;
    let runs = |queue| storage.view(wide, QueueId(queue)).unwrap().runs().len();
    let wants_checkpoint = || storage.inner().keeper.lock().wanted;
    for _ in 0..3 {
        assert!(put(&storage, wide, 0).is_none());
    }
    assert_eq!(runs(0), 3);
    let mut queues = 1..;
    while !wants_checkpoint() {
        assert!(put(&storage, wide, queues.next().unwrap()).is_none());
    }
    let first = queues.start;
    assert!((20..60).contains(&first), "{first} queues take {unfiled_bytes_max} bytes");
    assert!(put(&storage, wide, 0).is_none());
    assert_eq!(runs(0), 1, "they are merged at once");
    let refused = (&mut queues).take(200).find_map(|queue| put(&storage, wide, queue));
    assert!(matches!(refused, Some(StorageError::Busy { unfiled: 120_000.., .. })), "{refused:?}");
    storage.checkpoint().unwrap();
    assert!(put(&storage, wide, 0).is_none(), "there is room again");
    assert_eq!(storage.view(wide, QueueId(0)).unwrap().range().end, QueueOffset(5));
}
