//! What a restart, a kill, a power loss and a full disk cost: no more than is promised.

use std::{collections::BTreeSet, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_engine::{
    Broker, Delivered, DurabilityClass, EngineError, LeaseTime, ReceiveRequest, TopicSpec,
    limits::LEASE_DEFAULT,
};
use weir_storage::SimCall;

use crate::fixture::{Fixture, group, number, numbered, numbers, topic};

impl Fixture {
    /// Opens the broker anew after `accident`, which ended the one before.
    async fn after(&mut self, accident: impl FnOnce()) {
        accident();
        self.broker = Broker::open(self.starting()).await.unwrap();
    }

    /// Receives and acknowledges until nothing is left, also what is leased.
    async fn drain(&self) -> Vec<Delivered> {
        let mut all = Vec::new();
        // The lease of those who received before a crash ends in between.
        for _ in 0..2 {
            loop {
                let delivered = self.receive("TRUE").await;
                if delivered.is_empty() {
                    break;
                }
                assert!(self.ack(&delivered).await.iter().all(Result::is_ok));
                all.extend(delivered);
            }
            self.advance(61);
        }
        all
    }
}

/// The response to a receive can be lost with the broker. A client that lives on would keep the lease alive for hours.
#[tokio::test]
async fn what_was_leased_right_before_a_crash_comes_again_though_its_client_lives() {
    let (mut weir, env) = Fixture::on_sim(1).await;
    weir.topic(1).await;
    let renewed = |weir: &Fixture, client: &str| ReceiveRequest {
        lease: LeaseTime::Renewed,
        client: client.to_owned(),
        ..weir.request("TRUE")
    };
    let seconds = LEASE_DEFAULT.as_secs();
    weir.publish([1]).await;
    let held = weir.broker.receive(renewed(&weir, "c")).await.unwrap();
    for step in 0..3 {
        weir.broker.client_alive("c");
        weir.advance(seconds / 2);
        assert!(weir.broker.receive(renewed(&weir, "other")).await.unwrap().is_empty(), "{step}");
    }
    weir.publish([2]).await;
    assert_eq!(numbers(&weir.broker.receive(renewed(&weir, "c")).await.unwrap()), [2]);
    weir.after(|| env.kill()).await;
    weir.broker.client_alive("c");
    assert!(weir.broker.receive(renewed(&weir, "c")).await.unwrap().is_empty(), "leases go on");
    weir.advance(seconds);
    weir.broker.client_alive("c");
    let again = weir.broker.receive(renewed(&weir, "c")).await.unwrap();
    assert_eq!((numbers(&again), again[0].attempt), (vec![2], 2), "the client is known to have 1 alone");
    assert!(weir.ack(&held).await[0].is_ok());
}

#[tokio::test]
async fn a_restart_loses_nothing_and_repeats_nothing_acknowledged() {
    for kill in [false, true] {
        let (mut weir, env) = Fixture::on_sim(1).await;
        weir.topic(1).await;
        weir.publish(0..20).await;
        let held =
            weir.broker.receive(ReceiveRequest { max_messages: 10, ..weir.request("TRUE") }).await.unwrap();
        weir.ack(&held[..5]).await;
        if kill {
            weir.after(|| env.kill()).await;
        } else {
            weir.restart().await;
        }
        assert_eq!(weir.broker.info().recovery.clean, !kill);
        let rest = weir.receive("TRUE").await;
        assert_eq!(numbers(&rest), (10..20).collect::<Vec<i64>>(), "leases go on");
        assert!(weir.ack(&held[5..6]).await[0].is_ok(), "handles go on");
        weir.advance(60);
        let again = weir.receive("TRUE").await;
        assert_eq!(numbers(&again), (6..20).collect::<Vec<i64>>());
        assert!(again.iter().all(|one| one.attempt == 2), "attempts are counted");
    }
}

#[tokio::test]
async fn selectors_and_cursors_survive_a_start() {
    for kill in [false, true] {
        let (mut weir, env) = Fixture::on_sim(2).await;
        weir.topic(2).await;
        for n in 0..20 {
            weir.publish([n]).await;
        }
        weir.ack(&weir.receive("n < 5").await).await;
        weir.publish(20..30).await;
        weir.receive("n > 17 AND n < 25").await;
        let before = weir.broker.group(&group("g")).unwrap().topics;
        if kill {
            weir.after(|| env.kill()).await;
        } else {
            weir.restart().await;
        }
        let mut after = weir.broker.group(&group("g")).unwrap().topics;
        for (after, before) in after[0].selectors.iter_mut().zip(&before[0].selectors) {
            assert!(after.members.is_empty());
            after.members.clone_from(&before.members);
            for (after, before) in after.queues.iter_mut().zip(&before.queues) {
                // Cursors over rows that did not match are written lazily; the next scan finds the same.
                assert!(after.cursor <= before.cursor && (kill || after.cursor == before.cursor));
                after.cursor = before.cursor;
            }
        }
        assert_eq!(after[0].selectors, before[0].selectors);
        assert_eq!(after[0].queues.iter().map(|queue| queue.leased).sum::<u64>(), 5);
        assert!(weir.receive("n < 5").await.is_empty());
    }
}

#[tokio::test]
async fn the_journal_is_written_anew_and_says_the_same() {
    let (mut weir, env) = Fixture::on_sim(3).await;
    weir.topic(1).await;
    let mut held = Vec::new();
    for round in 0..40 {
        weir.publish((0..32).map(|n| 32 * round + n)).await;
        let delivered = weir.receive("n <> 3").await;
        let (keep, done) = delivered.split_at(2);
        assert!(weir.ack(done).await.iter().all(Result::is_ok));
        held.extend(keep.iter().map(number));
    }
    let journals = env.paths().into_iter().filter(|path| path.to_string_lossy().contains("journal")).count();
    assert!(journals > 0, "the test looks for the journal in the wrong place: {:?}", env.paths());
    weir.after(|| env.kill()).await;
    weir.advance(60);
    let mut again = Vec::new();
    loop {
        let delivered = weir.receive("n <> 3").await;
        if delivered.is_empty() {
            break;
        }
        again.extend(numbers(&delivered));
    }
    again.retain(|n| held.contains(n) || *n >= 32 * 40);
    again.sort_unstable();
    assert_eq!(again, held);
}

/// Publishes, receives and acknowledges at random until the power fails or `steps` are done.
async fn work(weir: &Fixture, random: &mut StdRng, steps: usize, log: &mut Log) {
    for _ in 0..steps {
        if random.random_bool(0.5) {
            let batch: Vec<i64> = (0..random.random_range(1..8)).map(|n| log.next + n).collect();
            log.next += batch.len() as i64;
            let messages = batch.iter().copied().map(numbered).collect();
            match weir.broker.publish(&topic("t"), messages).await {
                Ok(_) => log.stored.extend(batch),
                Err(_) => return,
            }
        } else {
            let Ok(delivered) = weir.broker.receive(weir.request("TRUE")).await else { return };
            let count = random.random_range(0..=delivered.len());
            for (one, result) in delivered[..count].iter().zip(weir.ack(&delivered[..count]).await) {
                match result {
                    Ok(()) => log.acknowledged.insert(number(one)),
                    // It may have become durable before the power failed.
                    Err(_) => log.perhaps.insert(number(one)),
                };
            }
        }
    }
}

#[derive(Default)]
struct Log {
    next: i64,
    stored: BTreeSet<i64>,
    acknowledged: BTreeSet<i64>,
    perhaps: BTreeSet<i64>,
}

impl Log {
    /// What must still come.
    fn owed(&self) -> BTreeSet<i64> {
        self.stored
            .iter()
            .filter(|n| !self.acknowledged.contains(n) && !self.perhaps.contains(n))
            .copied()
            .collect()
    }
}

#[tokio::test]
async fn a_power_loss_costs_nothing_that_was_promised_in_class_sync() {
    let first: u64 = rand::random();
    for seed in (0..12).map(|n| first.wrapping_add(n)) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut weir, env) = Fixture::on_sim(seed).await;
        weir.topic(2).await;
        let mut log = Log::default();
        for _ in 0..3 {
            env.fail_power_after(random.random_range(0..200));
            work(&weir, &mut random, 40, &mut log).await;
            weir.after(|| env.lose_power()).await;
        }
        let received: BTreeSet<i64> = weir.drain().await.iter().map(number).collect();
        let lost: Vec<_> = log.owed().into_iter().filter(|n| !received.contains(n)).collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
        let repeated: Vec<_> = received.intersection(&log.acknowledged).collect();
        assert!(repeated.is_empty(), "seed {seed}: acknowledged and delivered again {repeated:?}");
    }
}

#[tokio::test]
async fn class_async_survives_a_kill_whole_and_a_power_loss_in_order() {
    let first: u64 = rand::random();
    for seed in (0..8).map(|n| first.wrapping_add(n)) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut weir, env) = Fixture::on_sim(seed).await;
        let spec = TopicSpec { queues: 1, class: DurabilityClass::Async, ..TopicSpec::default() };
        weir.broker.create_topic(&topic("t"), spec).await.unwrap();
        let mut log = Log::default();
        work(&weir, &mut random, 30, &mut log).await;
        if seed % 2 == 0 {
            weir.after(|| env.kill()).await;
            let received: BTreeSet<i64> = weir.drain().await.iter().map(number).collect();
            assert_eq!(received, log.owed(), "seed {seed}");
        } else {
            weir.after(|| env.lose_power()).await;
            let received: BTreeSet<i64> = weir.drain().await.iter().map(number).collect();
            let end = weir.broker.topic(&topic("t")).unwrap().queues[0].end.0 as i64;
            // One queue and one publisher: offsets are numbers, and what is lost is the tail.
            let kept: Vec<_> = log.owed().into_iter().filter(|n| *n < end && !received.contains(n)).collect();
            assert!(kept.is_empty(), "seed {seed}: lost {kept:?} below {end}");
            weir.publish([end]).await;
            assert_eq!(
                numbers(&weir.receive("TRUE").await),
                [end],
                "seed {seed}: a new row in the old place"
            );
        }
    }
}

#[tokio::test]
async fn a_failed_sync_is_told_and_nothing_is_taken_any_more() {
    let (weir, env) = Fixture::on_sim(4).await;
    let t = weir.topic(1).await;
    let failed = weir.broker.failed();
    weir.publish([0]).await;
    // Some syncs are of files that can be made anew; this fails them all.
    for _ in 0..100 {
        env.fail(SimCall::Sync, 0, std::io::ErrorKind::Other);
    }
    assert!(weir.broker.publish(&t, vec![numbered(1)]).await.is_err());
    let why = tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert!(!why.is_empty());
    assert!(weir.broker.publish(&t, vec![numbered(2)]).await.is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_messages_and_still_delivers() {
    let (weir, env) = Fixture::on_sim(5).await;
    let t = weir.topic(1).await;
    weir.publish(0..10).await;
    assert!(weir.receive("n > 10").await.is_empty());
    weir.broker.reset_group(&group("g"), &t, weir_engine::ResetTo::Earliest).await.unwrap();
    // A little room for the journal, none for a segment.
    env.set_capacity(Some(env.used() + 4096));
    let mut refused = None;
    for _ in 0..2000 {
        let large = weir_engine::Message { body: vec![0; 64 << 10].into(), ..numbered(99) };
        if let Err(error) = weir.broker.publish(&t, vec![large]).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(EngineError::DiskFull)), "{refused:?}");
    assert_eq!(weir.receive("n < 10").await.len(), 10);
    env.set_capacity(None);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut taken = weir.broker.publish(&t, vec![numbered(11)]).await;
    for _ in 0..200 {
        if taken.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        taken = weir.broker.publish(&t, vec![numbered(11)]).await;
    }
    taken.unwrap();
}

#[tokio::test]
async fn a_second_broker_on_the_same_directory_is_refused() {
    let weir = Fixture::new().await;
    let error = Broker::open(weir.starting()).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    weir.topic(1).await;
    weir.publish([1]).await;
    assert_eq!(numbers(&weir.receive("TRUE").await), [1]);
}
