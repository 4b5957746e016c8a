//! Kills and losses of power at random points while messages are delayed, recalled, and in transactions.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_engine::{Broker, Clock, Message, MessageType, ReceiveRequest, Resolution, Sent, TopicSpec};
use weir_storage::{Env, SimEnv};

use crate::fixture::{Fixture, group, number, numbered, settle, topic};

/// Cases of one run, unless `WEIR_SEEDS` says otherwise.
const SEEDS: u64 = 48;

/// What a producer knows of one of its messages.
#[derive(Clone, Debug)]
enum Fate {
    /// The call failed: it may be there or not.
    Perhaps,
    /// It is to come when it is due.
    Delayed {
        recall_handle: String,
    },
    /// It is to come never.
    Recalled,
    /// It is to come when that is said.
    Half {
        transaction_id: String,
    },
    Committed,
    RolledBack,
    /// The last that was said of it failed.
    Unclear,
}

#[derive(Debug, Default)]
struct Ledger(BTreeMap<i64, Fate>);

impl Ledger {
    fn add(&mut self, fate: Fate) {
        self.0.insert(self.0.len() as i64, fate);
    }

    /// Returns some message whose fate is `wanted`.
    fn pick(&self, random: &mut StdRng, wanted: impl Fn(&Fate) -> bool) -> Option<(i64, Fate)> {
        let all: Vec<_> = self.0.iter().filter(|(_, fate)| wanted(fate)).collect();
        let at = random.random_range(0..all.len().max(1));
        all.get(at).map(|(n, fate)| (**n, (*fate).clone()))
    }

    fn owed(&self) -> usize {
        let is_owed = |fate: &&Fate| matches!(fate, Fate::Delayed { .. } | Fate::Committed);
        self.0.values().filter(is_owed).count()
    }
}

/// Does things at random until something fails.
async fn work(weir: &Fixture, random: &mut StdRng, steps: usize, ledger: &mut Ledger) {
    for _ in 0..steps {
        match random.random_range(0..10) {
            0..4 => send(weir, random, ledger).await,
            4..6 => {
                let is_half = |fate: &Fate| matches!(fate, Fate::Half { .. });
                let Some((n, Fate::Half { transaction_id })) = ledger.pick(random, is_half) else { continue };
                let (resolution, fate) = match random.random_range(0..5) {
                    0 => (Resolution::Unknown, Fate::Half { transaction_id: transaction_id.clone() }),
                    1 | 2 => (Resolution::Rollback, Fate::RolledBack),
                    _ => (Resolution::Commit, Fate::Committed),
                };
                let ended = weir.broker.end_transaction(&topic("t"), &transaction_id, resolution).await;
                ledger.0.insert(n, if ended.is_ok() { fate } else { Fate::Unclear });
            }
            6 => {
                let is_delayed = |fate: &Fate| matches!(fate, Fate::Delayed { .. });
                let Some((n, Fate::Delayed { recall_handle })) = ledger.pick(random, is_delayed) else {
                    continue;
                };
                match weir.broker.recall(&topic("t"), &recall_handle).await {
                    Ok(_) => drop(ledger.0.insert(n, Fate::Recalled)),
                    // It is due: then it comes.
                    Err(weir_engine::EngineError::MessageNotFound { .. }) => {}
                    Err(_) => drop(ledger.0.insert(n, Fate::Unclear)),
                }
            }
            7 | 8 => weir.clock.advance(Duration::from_millis(random.random_range(1..4000))),
            _ => settle().await,
        }
    }
}

async fn send(weir: &Fixture, random: &mut StdRng, ledger: &mut Ledger) {
    let n = ledger.0.len() as i64;
    let body = vec![b'x'; random.random_range(1..3000)];
    let message = if random.random_bool(0.6) {
        let due_ms = weir.clock.wall_ms() + random.random_range(-1000..30_000);
        Message { message_type: MessageType::Delay, delivery_time_ms: Some(due_ms), ..numbered(n) }
    } else {
        let tag = Some(String::from_utf8(body).unwrap());
        Message { message_type: MessageType::Transaction, trace_context: tag, ..numbered(n) }
    };
    ledger.add(match weir.broker.send(&topic("t"), vec![message]).await.map(|mut sent| sent.pop()) {
        Ok(Some(Sent::Delayed { recall_handle, .. })) => Fate::Delayed { recall_handle },
        Ok(Some(Sent::Half { transaction_id, .. })) => Fate::Half { transaction_id },
        Ok(_) => Fate::Committed,
        Err(_) => Fate::Perhaps,
    });
}

/// Opens the broker after an accident, and while it starts there may be others.
async fn open_again(weir: &mut Fixture, env: &SimEnv, random: &mut StdRng) {
    for attempt in 0.. {
        if !env.is_off() && random.random_bool(0.3) {
            env.kill();
        } else {
            env.lose_power();
        }
        if random.random_bool(0.3) {
            // What is derived from the log is derived again.
            let derived = |path: &std::path::PathBuf| {
                path.to_string_lossy().contains("/queues/") || path.ends_with("checkpoint")
            };
            env.paths().into_iter().filter(derived).for_each(|path| drop(env.remove(&path)));
        }
        if attempt < 3 && random.random_bool(0.3) {
            env.fail_power_after(random.random_range(0..60));
        }
        match Broker::open(weir.starting()).await {
            Ok(broker) => {
                weir.broker = broker;
                return;
            }
            Err(error) => assert!(env.is_off(), "the broker does not start: {error}"),
        }
    }
}

/// All rows of the topic, each with the time at which it was stored.
async fn rows(weir: &Fixture) -> Vec<(i64, i64, Message)> {
    let all = group("all");
    let mut rows = Vec::new();
    loop {
        let request = ReceiveRequest { group: all.clone(), ..weir.request("TRUE") };
        let delivered = weir.broker.receive(request).await.unwrap();
        if delivered.is_empty() {
            return rows;
        }
        let handles: Vec<String> = delivered.iter().map(|one| one.handle.clone()).collect();
        let acked = weir.broker.acknowledge(&all, &topic("t"), &handles).await;
        assert!(acked.iter().all(Result::is_ok));
        rows.extend(
            delivered.into_iter().map(|one| (number(&one), one.message.store_time_ms, one.message.message)),
        );
    }
}

#[tokio::test]
async fn no_stop_loses_a_pending_message_or_shows_it_early_twice_or_against_its_producer() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, count) = match number("WEIR_SEED") {
        Some(seed) => (seed, 1),
        None => (rand::random(), number("WEIR_SEEDS").unwrap_or(SEEDS)),
    };
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        check(seed).await;
    }
}

async fn check(seed: u64) {
    println!("WEIR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let env = SimEnv::new(seed);
    let mut weir = Fixture::on(&env, |options| {
        options.storage.journal_rotate_bytes = 2 << 10;
        options.storage.journal_segment_bytes = 16 << 10;
        options.storage.log_segment_bytes_min = 32 << 10;
        options.storage.log_segment_bytes_max = 32 << 10;
        options.storage.compaction_bytes_min = 4 << 10;
        options.storage.compaction_interval = Duration::from_millis(1);
        options.storage.checkpoint_interval = Duration::from_millis(3);
        options.storage.async_sync_interval = Duration::from_millis(5);
    })
    .await;
    let spec = TopicSpec { queues: 2, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    let mut ledger = Ledger::default();
    for _ in 0..4 {
        if random.random_bool(0.7) {
            env.fail_power_after(random.random_range(0..300));
        }
        work(&weir, &mut random, 30, &mut ledger).await;
        open_again(&mut weir, &env, &mut random).await;
    }
    // The last one starts on a disk that works.
    env.kill();
    env.lose_power();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    weir.clock.advance(Duration::from_secs(60));
    let count = |weir: &Fixture| -> u64 {
        let queues = weir.broker.topic(&topic("t")).unwrap().queues;
        queues.iter().map(|queue| queue.end.0 - queue.first.0).sum()
    };
    let mut last = 0;
    let mut quiet = 0;
    for _ in 0..1000 {
        settle().await;
        quiet = if count(&weir) == last { quiet + 1 } else { 0 };
        last = count(&weir);
        if last >= ledger.owed() as u64 && quiet > 30 {
            break;
        }
    }
    let mut seen: BTreeMap<i64, u32> = BTreeMap::new();
    for (n, stored_ms, message) in rows(&weir).await {
        *seen.entry(n).or_default() += 1;
        assert!(message.delivery_time_ms.is_none_or(|due| due <= stored_ms), "seed {seed}: {n} is early");
    }
    for (n, fate) in &ledger.0 {
        let times = seen.remove(n).unwrap_or_default();
        let is_right = match fate {
            Fate::Delayed { .. } | Fate::Committed => times == 1,
            Fate::Recalled | Fate::RolledBack | Fate::Half { .. } => times == 0,
            Fate::Perhaps | Fate::Unclear => times <= 1,
        };
        assert!(is_right, "seed {seed}: {n} is there {times} times, and {fate:?}");
    }
    assert!(seen.is_empty(), "seed {seed}: {seen:?}");
}
