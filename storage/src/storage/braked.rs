//! Tests of how publishers are braked while the consume queues or the memory are behind.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

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
    sim::{SimCall, SimEnv},
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
    // The builder is held up, or will be once it has taken what there is.
    let behind = |ends: LogEnds| ends.written.0 - ends.built.0;
    for _ in 0..1_000 {
        let intake = storage.inner().intake.lock().bytes;
        // One batch passes while there is a byte left, and each has a frame of its own at worst.
        assert!(intake + behind(storage.ends()) < 2 * unbuilt_bytes_max);
        thread::yield_now();
    }
    while !storage.is_overloaded() {
        assert!(!publisher.is_finished(), "nothing held it up");
        thread::yield_now();
    }
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

/// Fills the intake with messages of `topic` until a publisher of `other` waits for room, which gets a day for it;
/// then lets `act` do something that makes room, and waits until the publisher has been let in.
fn while_one_waits(storage: &Storage, topic: TopicId, other: TopicId, act: impl FnOnce()) {
    let inner = storage.inner();
    let mut answers = Vec::new();
    while !storage.is_overloaded() {
        answers.push(send(storage, topic, 0));
    }
    let (publisher, (told, was_told)) = (storage.clone(), mpsc::channel());
    let publisher = thread::spawn(move || {
        let answer = send(&publisher, other, 1);
        told.send(()).unwrap();
        answer
    });
    while inner.intake.lock().waiting == 0 {
        assert!(!publisher.is_finished(), "nothing held it up");
        thread::yield_now();
    }
    act();
    assert!(!storage.is_overloaded(), "there is room");
    // A bound on how long a test that has failed hangs.
    let let_in = was_told.recv_timeout(Duration::from_secs(20));
    // Whatever came of it, the thread must end.
    inner.make_room();
    let answer = publisher.join().unwrap();
    assert!(let_in.is_ok(), "nobody told the publisher that there is room");
    inner.append_once();
    inner.flush_once(true);
    assert!(answer.try_recv().unwrap().is_ok());
}

fn patient() -> StorageOptions {
    let busy_after = Duration::from_secs(86_400);
    StorageOptions { unsynced_bytes_max: 2_000, busy_after, ..StorageOptions::small() }
}

#[test]
fn batches_that_are_refused_or_cannot_be_written_make_room() {
    let (storage, env, sync, relaxed) = stepped(patient());
    let inner = storage.inner();
    while_one_waits(&storage, sync, relaxed, || {
        env.fail(SimCall::Write, 0, io::ErrorKind::Other);
        inner.append_once();
        env.fail_no_more();
    });
    // Batches of a topic that is gone by the time when they would be written.
    while_one_waits(&storage, TopicId(99), relaxed, || inner.append_once());
}

#[test]
fn nobody_overtakes_publishers_that_wait() {
    let (storage, _, sync, relaxed) = stepped(patient());
    let inner = storage.inner();
    let try_now = || {
        let batch = vec![Append { topic: relaxed, queue: QueueId(0), message: Message::default() }];
        storage.append_now(batch, Box::new(|_| {})).is_ok()
    };
    assert!(try_now());
    while_one_waits(&storage, sync, relaxed, || {
        assert!(!try_now());
        inner.append_once();
        // Makes room, and tells nobody yet.
        inner.log.sync().unwrap();
        assert!(!storage.is_overloaded() && !try_now(), "the one that waits comes first");
        inner.make_room();
    });
    assert!(try_now());
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
    assert!((50..120).contains(&first), "{first} queues take {unfiled_bytes_max} bytes");
    assert!(put(&storage, wide, 0).is_none());
    while storage.inner().merge_once() {}
    assert_eq!(runs(0), 1, "four are merged where memory is short");
    let refused = (&mut queues).take(200).find_map(|queue| put(&storage, wide, queue));
    assert!(matches!(refused, Some(StorageError::Busy { unfiled: 120_000.., .. })), "{refused:?}");
    storage.checkpoint().unwrap();
    assert!(put(&storage, wide, 0).is_none(), "there is room again");
    assert_eq!(storage.view(wide, QueueId(0)).unwrap().range().end, QueueOffset(5));
}

/// Whoever makes it: the call of an operator, a copy, the end of a topic.
#[test]
fn each_checkpoint_makes_room() {
    let (busy_after, unfiled_bytes_max) = (Duration::from_secs(86_400), 30_000);
    let (storage, ..) = stepped(StorageOptions { busy_after, unfiled_bytes_max, ..StorageOptions::small() });
    let wide = storage.create_topic(NewTopic { queues: 1_000, ..topic("wide") }).unwrap().id;
    let mut queues = 0..;
    while !storage.is_overloaded() {
        assert!(put(&storage, wide, queues.next().unwrap()).is_none());
    }
    while_one_waits(&storage, wide, wide, || storage.checkpoint().unwrap());
}
