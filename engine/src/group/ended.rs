//! Tests: rows that end while a receive is at work, at each moment at which it asks for the time.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use weir_storage::{Clock, DurabilityClass, Message, QueueId, QueueOffset, StorageOptions, VirtualClock};

use crate::{Broker, BrokerOptions, GroupName, GroupSpec, ReceiveRequest, TopicName, TopicSpec};

const ROWS: u64 = 100;
/// At so many moments they end.
const LOOKS_MAX: usize = 10;
/// So many of them end.
const ENDED: u64 = 50;

/// A clock that does something when it is asked for the n-th time, by whoever is no thread of storage.
struct Interrupting {
    clock: VirtualClock,
    asked: AtomicUsize,
    then: Mutex<Option<Interruption>>,
}

struct Interruption {
    after: usize,
    does: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Interrupting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupting").finish_non_exhaustive()
    }
}

impl Clock for Interrupting {
    fn wall_ms(&self) -> i64 {
        let is_ours = std::thread::current().name().is_none_or(|name| !name.starts_with("weir-"));
        if is_ours {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            let due = self.then.lock().take_if(|then| asked >= then.after);
            if let Some(interruption) = due {
                (interruption.does)();
            }
        }
        self.clock.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn on_turn(&self, turned: Box<dyn Fn() + Send + Sync>) {
        self.clock.on_turn(turned);
    }
}

/// Receives everything while the first rows end at the `after`-th look at the clock, those that were delivered once come
/// again or not. Returns how many were missed, and whether there was such a look.
async fn received(after: usize, redelivers: bool) -> (u64, bool) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Interrupting {
        clock: VirtualClock::new(1_700_000_000_000),
        asked: AtomicUsize::new(0),
        then: Mutex::new(None),
    });
    let storage = StorageOptions {
        log_segment_bytes_min: 64 << 10,
        log_segment_bytes_max: 64 << 10,
        recent_bytes_max: 1,
        ..StorageOptions::small()
    };
    let options = BrokerOptions {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        storage,
        retention_disk_percent: 100,
        ..BrokerOptions::new(dir.path())
    };
    let broker = Broker::open(options).await.unwrap();
    let (topic, group): (TopicName, GroupName) = ("t".parse().unwrap(), "g".parse().unwrap());
    let spec = TopicSpec { queues: 1, class: DurabilityClass::Sync, retention: None, ..TopicSpec::default() };
    let id = broker.create_topic(&topic, spec).await.unwrap().id;
    let message = |number: u64| {
        let body = [number.to_le_bytes().to_vec(), vec![0; 10_000]].concat();
        Message { body: body.into(), ..Message::default() }
    };
    // Not within the receive: storage asks for the time while it holds what the interruption needs.
    broker.create_group(&group, GroupSpec::default()).await.unwrap();
    for first in (0..ROWS).step_by(5) {
        broker.publish(&topic, (first..first + 5).map(message).collect()).await.unwrap();
    }
    broker.core.storage.checkpoint().unwrap();
    let request =
        || ReceiveRequest { client: "c".into(), ..ReceiveRequest::new(group.clone(), topic.clone()) };
    if redelivers {
        // All that one call gives out comes again.
        assert_eq!(broker.receive(request()).await.unwrap().len(), 32);
        clock.clock.advance(Duration::from_secs(61));
    }
    let storage = broker.core.storage.clone();
    let does = Box::new(move || {
        storage.set_first_offset(id, QueueId(0), QueueOffset(ENDED)).unwrap();
        storage.checkpoint().unwrap();
        assert!(storage.sealed_segments()[0].range.start.0 > 0, "records are gone");
    });
    clock.asked.store(0, Ordering::Relaxed);
    *clock.then.lock() = Some(Interruption { after, does });
    let mut came = BTreeSet::new();
    let mut was_interrupted = false;
    let mut empty = 0;
    let mut is_first = true;
    loop {
        let delivered = broker.receive(request()).await.unwrap();
        if std::mem::take(&mut is_first) {
            // Only what happens within the first call is of interest.
            was_interrupted = clock.then.lock().take().is_none();
        }
        // A call that found nothing but what had ended by then has nothing to give.
        empty = if delivered.is_empty() { empty + 1 } else { 0 };
        if empty > 3 {
            break;
        }
        let handles: Vec<String> = delivered.iter().map(|delivered| delivered.handle.clone()).collect();
        for result in broker.acknowledge(&group, &topic, &handles).await {
            // What has ended may be unknown by now.
            let _ = result;
        }
        let number =
            |body: &[u8]| u64::from_le_bytes(body[..8].try_into().expect("a body begins with a number"));
        came.extend(delivered.iter().map(|delivered| number(&delivered.message.message.body)));
    }
    let missed = broker.group(&group).unwrap().topics[0].queues[0].missed;
    if was_interrupted {
        assert!((ENDED..ROWS).all(|number| came.contains(&number)), "look {after}: {came:?}");
        // None is neither. Those that were the member's when they ended came, and are missed all the same.
        let said = format!("look {after}: {came:?} came, {missed} were missed");
        assert!(came.len() as u64 + missed >= ROWS && missed <= ENDED, "{said}");
    }
    broker.close().await.unwrap();
    (missed, was_interrupted)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_end_during_a_receive_are_counted_as_missed() {
    for redelivers in [false, true] {
        let mut looks = 0;
        // Behind these it has what it needs, and answers.
        while looks < LOOKS_MAX {
            let (missed, was_interrupted) = received(looks, redelivers).await;
            if !was_interrupted {
                break;
            }
            assert!(missed > 0, "look {looks}");
            looks += 1;
        }
        assert!(looks > 1, "it looks at the clock more than once");
    }
}
