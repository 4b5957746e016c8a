//! FIFO groups: the messages of a message group one after the other, whoever takes them and whatever fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_columns::Value;
use weir_engine::{Delivered, GroupChange, GroupSpec, Message, MessageType, ReceiveRequest, TopicSpec};

use crate::fixture::{Fixture, group, lease, numbers, settle, topic};

fn message(n: i64, line: &str) -> Message {
    let line = (!line.is_empty()).then(|| line.to_owned());
    Message {
        message_type: if line.is_some() { MessageType::Fifo } else { MessageType::Normal },
        message_group: line,
        properties: vec![("n".to_owned(), Value::I64(n))],
        body: n.to_string().into(),
        ..Message::default()
    }
}

/// A FIFO group on a topic with one queue, and a message for each number, of the message group beside it.
async fn filled(messages: &[(i64, &str)]) -> Fixture {
    let weir = Fixture::new().await;
    weir.topic(1).await;
    let spec = GroupSpec { fifo: true, max_attempts: 3, ..GroupSpec::default() };
    weir.broker.create_group(&group("g"), spec).await.unwrap();
    publish(&weir, messages).await;
    weir
}

async fn publish(weir: &Fixture, messages: &[(i64, &str)]) {
    let messages = messages.iter().map(|(n, line)| message(*n, line)).collect();
    weir.broker.publish(&topic("t"), messages).await.unwrap();
}

async fn receive(weir: &Fixture, max_messages: usize) -> Vec<Delivered> {
    let request = ReceiveRequest { max_messages, lease: lease(30), ..weir.request("TRUE") };
    weir.broker.receive(request).await.unwrap()
}

async fn ack(weir: &Fixture, delivered: &[Delivered]) {
    weir.ack(delivered).await.into_iter().for_each(Result::unwrap);
}

#[tokio::test]
async fn a_message_group_waits_for_its_first_message_and_others_go_on() {
    let weir = filled(&[(0, "a"), (1, "a"), (2, "b"), (3, ""), (4, "a"), (5, ""), (6, "c")]).await;
    let first = receive(&weir, 1).await;
    assert_eq!(numbers(&first), [0]);
    let second = receive(&weir, 2).await;
    assert_eq!(numbers(&second), [2, 3], "those without a message group stand in one line");
    assert_eq!(numbers(&receive(&weir, 9).await), [6]);
    assert!(receive(&weir, 9).await.is_empty());
    ack(&weir, &first).await;
    let third = receive(&weir, 9).await;
    assert_eq!(numbers(&third), [1, 4], "of one line several may go to one receive");
    // A later one may be done before an earlier one.
    ack(&weir, &third[1..]).await;
    publish(&weir, &[(7, "a")]).await;
    assert!(receive(&weir, 9).await.is_empty());
    ack(&weir, &third[..1]).await;
    assert_eq!(numbers(&receive(&weir, 9).await), [7]);
    ack(&weir, &second).await;
    assert_eq!(numbers(&receive(&weir, 9).await), [5]);
}

#[tokio::test]
async fn what_failed_comes_again_before_what_follows() {
    let weir = filled(&[(0, "a"), (1, "a"), (2, "a")]).await;
    let first = receive(&weir, 2).await;
    let later = Duration::from_secs(5);
    weir.broker.change_invisible(&group("g"), &topic("t"), &first[0].handle, later).await.unwrap();
    ack(&weir, &first[1..]).await;
    assert!(receive(&weir, 9).await.is_empty());
    weir.advance(5);
    let again = receive(&weir, 9).await;
    assert_eq!((numbers(&again), again[0].attempt, again[1].attempt), (vec![0, 2], 2, 1));
    // A lease that ends without an answer: all of it comes again, in its order.
    weir.advance(31);
    let again = receive(&weir, 9).await;
    assert_eq!((numbers(&again), again[0].attempt, again[1].attempt), (vec![0, 2], 3, 2));
    // Delivered often enough, it goes to the dead letters, and is in nobody's way any more.
    weir.advance(31);
    let last = loop {
        let last = receive(&weir, 9).await;
        if !last.is_empty() {
            break last;
        }
        // The copy is being stored.
        settle().await;
    };
    assert_eq!((numbers(&last), last[0].attempt), (vec![2], 3));
    let letters = ReceiveRequest::new(group("other"), topic("%DLQ%g"));
    assert_eq!(numbers(&weir.broker.receive(letters).await.unwrap()), [0]);
}

#[tokio::test]
async fn a_message_that_is_given_up_lets_the_next_one_go() {
    let weir = filled(&[(0, "a"), (1, "a")]).await;
    let first = receive(&weir, 1).await;
    assert!(receive(&weir, 9).await.is_empty());
    weir.broker.forward_to_dead_letter(&group("g"), &topic("t"), &first[0].handle).await.unwrap();
    assert_eq!(numbers(&receive(&weir, 9).await), [1]);
}

#[tokio::test]
async fn a_receive_that_waits_is_woken_by_the_end_of_what_it_waits_for() {
    let weir = filled(&[(0, "a"), (1, "a")]).await;
    let first = receive(&weir, 1).await;
    let broker = weir.broker.clone();
    let request = ReceiveRequest { wait: Duration::from_secs(20), ..weir.request("TRUE") };
    let waiting = tokio::spawn(async move { broker.receive(request).await });
    settle().await;
    assert!(!waiting.is_finished());
    ack(&weir, &first).await;
    assert_eq!(numbers(&waiting.await.unwrap().unwrap()), [1]);
}

#[tokio::test]
async fn lines_outlive_a_restart() {
    let mut weir = filled(&[(0, "a"), (1, "a"), (2, "b"), (3, "a"), (4, "b")]).await;
    let first = receive(&weir, 1).await;
    assert_eq!(numbers(&receive(&weir, 1).await), [2]);
    // It has passed those that wait in line.
    assert!(receive(&weir, 9).await.is_empty());
    weir.restart().await;
    assert!(receive(&weir, 9).await.is_empty(), "all lines are held");
    ack(&weir, &first).await;
    let second = receive(&weir, 9).await;
    assert_eq!((numbers(&second), second[0].attempt), (vec![1, 3], 1));
    weir.advance(31);
    assert_eq!(numbers(&receive(&weir, 9).await), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_receive_made_again_gets_the_same_messages_uncounted() {
    let mut weir = filled(&[(0, "a"), (1, "a"), (2, "a"), (3, "b")]).await;
    let named = |weir: &Fixture, name: &str, max_messages| ReceiveRequest {
        attempt_id: Some(name.to_owned()),
        max_messages,
        lease: lease(30),
        ..weir.request("TRUE")
    };
    let first = weir.broker.receive(named(&weir, "one", 2)).await.unwrap();
    weir.advance(20);
    let again = weir.broker.receive(named(&weir, "one", 2)).await.unwrap();
    assert_eq!((numbers(&first), numbers(&again)), (vec![0, 1], vec![0, 1]));
    assert_eq!([again[0].attempt, again[1].attempt], [1, 1]);
    // The lease began anew, and both handles speak of it.
    weir.advance(20);
    ack(&weir, &first[..1]).await;
    weir.restart().await;
    let again = weir.broker.receive(named(&weir, "one", 2)).await.unwrap();
    assert_eq!((numbers(&again), again[0].attempt), (vec![1], 1), "after a restart as well");
    assert_eq!(numbers(&weir.broker.receive(named(&weir, "two", 9)).await.unwrap()), [3]);
    ack(&weir, &again).await;
    assert_eq!(numbers(&weir.broker.receive(named(&weir, "one", 9)).await.unwrap()), [2]);
    // Another client has names of its own, and no name at all is none.
    let other = ReceiveRequest { client: "d".to_owned(), ..named(&weir, "one", 9) };
    assert!(weir.broker.receive(other).await.unwrap().is_empty());
    assert!(weir.broker.receive(named(&weir, "", 9)).await.unwrap().is_empty());
    // In other groups the name of a receive means nothing.
    let change = GroupChange { fifo: Some(false), ..GroupChange::default() };
    weir.broker.alter_group(&group("g"), change).await.unwrap();
    assert!(weir.broker.receive(named(&weir, "one", 9)).await.unwrap().is_empty());
}

#[tokio::test]
async fn messages_of_type_fifo_have_a_message_group() {
    let weir = filled(&[]).await;
    let without = Message { message_group: None, ..message(0, "a") };
    let refused = weir.broker.publish(&topic("t"), vec![without]).await.unwrap_err();
    assert!(refused.to_string().contains("message group"), "{refused}");
}

const LINES: usize = 7;
const MESSAGES: usize = 400;
const MEMBERS: usize = 5;

/// Queue, offset.
type Row = (u32, u64);

/// Members at the same time, which fail at times; nothing is given out before what precedes it is done or in the
/// same hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_at_the_same_time_keep_the_order() {
    let first: u64 = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + 8 {
        println!("WEIR_SEED={seed}");
        let weir = Fixture::new().await;
        let spec = TopicSpec { queues: 2, ..TopicSpec::default() };
        weir.broker.create_topic(&topic("t"), spec).await.unwrap();
        let spec = GroupSpec { fifo: true, max_attempts: 10_000, ..GroupSpec::default() };
        weir.broker.create_group(&group("g"), spec).await.unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let selector = if seed % 2 == 0 { "TRUE" } else { "n % 3 <> 0" };
        let lines: Vec<usize> = (0..MESSAGES).map(|_| random.random_range(0..LINES)).collect();
        let mut rows: BTreeMap<usize, BTreeSet<Row>> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for (n, line) in lines.iter().enumerate() {
            let name = if *line == 0 { String::new() } else { format!("line {line}") };
            let published = weir.broker.publish(&topic("t"), vec![message(n as i64, &name)]).await.unwrap();
            let row = (published[0].queue.0, published[0].offset.0);
            if selector == "TRUE" || n % 3 != 0 {
                // Without a message group it stands in the line of its queue.
                let line = if *line == 0 { LINES + row.0 as usize } else { *line };
                rows.entry(line).or_default().insert(row);
                wanted.insert(row);
            }
        }
        let of_row: BTreeMap<Row, usize> =
            rows.iter().flat_map(|(line, rows)| rows.iter().map(|row| (*row, *line))).collect();
        let (rows, of_row, done) = (Arc::new(rows), Arc::new(of_row), Arc::new(Mutex::new(BTreeSet::new())));
        let members = (0..MEMBERS).map(|member| {
            let (broker, rows, of_row) = (weir.broker.clone(), Arc::clone(&rows), Arc::clone(&of_row));
            let (done, mut random) = (Arc::clone(&done), StdRng::seed_from_u64(random.random()));
            let lease = lease(12 * 60 * 60);
            let request = ReceiveRequest { client: format!("c{member}"), lease, ..weir.request(selector) };
            tokio::spawn(async move {
                while done.lock().len() < of_row.len() {
                    let max_messages = random.random_range(1..12);
                    let batch =
                        broker.receive(ReceiveRequest { max_messages, ..request.clone() }).await.unwrap();
                    let mut in_hand: BTreeSet<Row> = BTreeSet::new();
                    for one in &batch {
                        let row = (one.message.queue.0, one.message.offset.0);
                        let before = rows[&of_row[&row]].range(..row);
                        let missing: Vec<Row> = {
                            let done = done.lock();
                            before
                                .copied()
                                .filter(|row| !done.contains(row) && !in_hand.contains(row))
                                .collect()
                        };
                        assert!(missing.is_empty(), "seed {seed}: {row:?} came before {missing:?}");
                        assert!(!done.lock().contains(&row), "seed {seed}: {row:?} is done");
                        in_hand.insert(row);
                    }
                    let mut failed = BTreeSet::new();
                    for one in &batch {
                        let row = (one.message.queue.0, one.message.offset.0);
                        let line = of_row[&row];
                        if failed.contains(&line) || random.random_bool(0.2) {
                            failed.insert(line);
                            let (name, of) = (group("g"), topic("t"));
                            broker.change_invisible(&name, &of, &one.handle, Duration::ZERO).await.unwrap();
                        } else {
                            // Before the call, as the next one may be out before this one has its answer.
                            done.lock().insert(row);
                            let handles = std::slice::from_ref(&one.handle);
                            let result = broker.acknowledge(&group("g"), &topic("t"), handles).await;
                            assert!(result[0].is_ok(), "seed {seed}: {result:?}");
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        });
        let members: Vec<_> = members.collect();
        // What was put off while it was on its way to somebody else comes back after a second.
        while members.iter().any(|member| !member.is_finished()) {
            weir.advance(1);
            settle().await;
        }
        for member in members {
            member.await.unwrap();
        }
        assert_eq!(*done.lock(), wanted, "seed {seed}");
    }
}

/// One call after the other, with leases that end, restarts, kills and power losses: nothing is given out before what
/// precedes it is done or in the same hands, nothing is lost, and nothing that is done comes again.
#[tokio::test]
async fn order_outlives_crashes() {
    const SEEDS: u64 = 40;
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, count) = match number("WEIR_SEED") {
        Some(seed) => (seed, 1),
        None => (number("WEIR_FIRST_SEED").unwrap_or(0), number("WEIR_SEEDS").unwrap_or(SEEDS)),
    };
    let mut crashes = 0;
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        crashes += lived_through(seed).await;
    }
    assert!(crashes > 2 * count, "{crashes} crashes in {count} runs");
}

/// Returns how often the broker crashed.
async fn lived_through(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut weir, env) = Fixture::on_sim(seed).await;
    weir.topic(2).await;
    let spec = GroupSpec { fifo: true, max_attempts: 10_000, ..GroupSpec::default() };
    weir.broker.create_group(&group("g"), spec).await.unwrap();
    let mut lines: BTreeMap<(u32, usize), BTreeSet<u64>> = BTreeMap::new();
    let mut of_row: BTreeMap<Row, (u32, usize)> = BTreeMap::new();
    let mut done: BTreeSet<Row> = BTreeSet::new();
    // What is in somebody's hands, and when that ends.
    let mut held: BTreeMap<Row, (String, Duration)> = BTreeMap::new();
    let (mut crashes, mut idle) = (0, 0);
    for step in 0.. {
        // In the end all of it comes.
        let is_over = step > 120;
        if is_over && done.len() == of_row.len() {
            break;
        }
        assert!(idle < 50, "seed {seed}: {} of {} are done, and no more comes", done.len(), of_row.len());
        let now = weir_engine::Clock::monotonic(&*weir.clock);
        match random.random_range(0..100) {
            0..25 if !is_over => {
                let chosen: Vec<usize> =
                    (0..random.random_range(1..8)).map(|_| random.random_range(0..4)).collect();
                let name = |line: &usize| if *line == 0 { String::new() } else { format!("line {line}") };
                let messages = chosen.iter().map(|line| message(0, &name(line))).collect();
                let published = weir.broker.publish(&topic("t"), messages).await.unwrap();
                for (line, row) in chosen.into_iter().zip(published) {
                    let (line, row) = ((row.queue.0, line), (row.queue.0, row.offset.0));
                    lines.entry(line).or_default().insert(row.1);
                    of_row.insert(row, line);
                }
            }
            0..60 => {
                let max_messages = random.random_range(1..9);
                let request = ReceiveRequest { max_messages, lease: lease(20), ..weir.request("TRUE") };
                let batch = weir.broker.receive(request).await.unwrap();
                idle = if batch.is_empty() { idle } else { 0 };
                let mut in_hand = BTreeSet::new();
                for one in batch {
                    let row = (one.message.queue.0, one.message.offset.0);
                    let before = lines[&of_row[&row]].range(..row.1).map(|offset| (row.0, *offset));
                    let missing: Vec<Row> =
                        before.filter(|row| !done.contains(row) && !in_hand.contains(row)).collect();
                    assert!(missing.is_empty(), "seed {seed}: {row:?} came before {missing:?}");
                    assert!(!done.contains(&row), "seed {seed}: {row:?} is done");
                    let is_leased = held.get(&row).is_some_and(|(_, until)| now < *until);
                    assert!(!is_leased, "seed {seed}: {row:?} is leased");
                    in_hand.insert(row);
                    held.insert(row, (one.handle, now + one.lease));
                }
            }
            60..85 => {
                let rows: Vec<Row> = held.keys().copied().collect();
                let Some(row) = rows.get(random.random_range(0..rows.len().max(1))) else { continue };
                let (handle, _) = held.remove(row).unwrap();
                if random.random_bool(0.8) {
                    // The lease may be over, and the message in other hands.
                    let result = weir.broker.acknowledge(&group("g"), &topic("t"), &[handle]).await;
                    if result[0].is_ok() {
                        done.insert(*row);
                    }
                } else {
                    let later = Duration::from_secs(random.random_range(0..5));
                    let _ = weir.broker.change_invisible(&group("g"), &topic("t"), &handle, later).await;
                }
            }
            85..93 => {
                weir.advance(random.random_range(1..25));
                settle().await;
                idle += u32::from(is_over);
            }
            _ if is_over => {}
            _ => {
                match random.random_range(0..3) {
                    0 => weir.broker.close().await.unwrap(),
                    1 => env.kill(),
                    _ => {
                        env.lose_power();
                        // Leases of class `sync` are durable before their messages are out.
                    }
                }
                crashes += 1;
                weir.broker = weir_engine::Broker::open(weir.starting()).await.unwrap();
            }
        }
    }
    weir.broker.close().await.unwrap();
    crashes
}
