//! Lite topics: each client the ones that it subscribes to, in order, from where the group is in each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinHandle;
use weir_engine::{
    Broker, Delivered, EngineError, GroupChange, GroupSpec, HandleFault, LimitKind, LiteAction, LiteFrom,
    LiteSpec, LiteSync, LiteUnsubscribed, Message, MessageType, ReceiveRequest, ResetTo, TopicChange,
    TopicSpec, TopicType, limits::LITE_QUOTA_TOLERANCE,
};
use weir_storage::{QueueId, QueueOffset};

use crate::fixture::{Fixture, group, lease, numbers, settle, topic};

fn message(n: i64, name: &str) -> Message {
    Message {
        message_type: MessageType::Lite,
        lite_topic: Some(name.to_owned()),
        message_id: format!("m{n}"),
        body: n.to_string().into(),
        ..Message::default()
    }
}

async fn parent(weir: &Fixture, queues: u32) {
    let spec = TopicSpec { queues, topic_type: TopicType::Lite, retention: None, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
}

async fn bound(weir: &Fixture, change: impl FnOnce(&mut GroupSpec, &mut LiteSpec)) {
    let mut lite = LiteSpec::of(topic("t"));
    let mut spec = GroupSpec { max_attempts: 3, ..GroupSpec::default() };
    change(&mut spec, &mut lite);
    spec.lite = Some(lite);
    weir.broker.create_group(&group("g"), spec).await.unwrap();
}

/// A parent with so many queues, and a group that reads its lite topics.
async fn made(queues: u32) -> Fixture {
    let weir = Fixture::new().await;
    parent(&weir, queues).await;
    bound(&weir, |_, _| {}).await;
    weir
}

async fn publish(weir: &Fixture, messages: &[(i64, &str)]) {
    for (n, name) in messages {
        weir.broker.publish(&topic("t"), vec![message(*n, name)]).await.unwrap();
    }
}

fn sync(client: &str, action: LiteAction, names: &[&str]) -> LiteSync {
    LiteSync {
        group: group("g"),
        topic: topic("t"),
        client: client.to_owned(),
        action,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        from: None,
    }
}

async fn add(weir: &Fixture, client: &str, names: &[&str]) -> Vec<LiteUnsubscribed> {
    weir.broker.sync_lite(sync(client, LiteAction::Add, names)).await.unwrap()
}

async fn add_from(weir: &Fixture, client: &str, names: &[&str], from: LiteFrom) {
    let sync = LiteSync { from: Some(from), ..sync(client, LiteAction::Add, names) };
    weir.broker.sync_lite(sync).await.unwrap();
}

async fn act(weir: &Fixture, client: &str, action: LiteAction, names: &[&str]) -> Vec<LiteUnsubscribed> {
    weir.broker.sync_lite(sync(client, action, names)).await.unwrap()
}

fn request(weir: &Fixture, client: &str) -> ReceiveRequest {
    ReceiveRequest { client: client.to_owned(), lease: lease(30), ..weir.request("TRUE") }
}

async fn receive(weir: &Fixture, client: &str) -> Vec<Delivered> {
    weir.broker.receive(request(weir, client)).await.unwrap()
}

/// The numbers that a client receives, which it acknowledges.
async fn take(weir: &Fixture, client: &str) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let delivered = receive(weir, client).await;
        if delivered.is_empty() {
            all.sort_unstable();
            return all;
        }
        all.extend(numbers(&delivered));
        ack(weir, &delivered).await;
    }
}

async fn ack(weir: &Fixture, delivered: &[Delivered]) {
    weir.ack(delivered).await.into_iter().for_each(Result::unwrap);
}

fn names(delivered: &[Delivered]) -> BTreeSet<&str> {
    delivered.iter().filter_map(|one| one.message.message.lite_topic.as_deref()).collect()
}

#[tokio::test]
async fn a_client_gets_its_lite_topics_and_of_each_nothing_more_before_what_it_has_is_done() {
    let weir = made(1).await;
    publish(&weir, &[(0, "a")]).await;
    assert!(receive(&weir, "c").await.is_empty(), "it has subscribed to nothing");
    add(&weir, "c", &["a", "b"]).await;
    assert!(receive(&weir, "c").await.is_empty(), "it begins at the end");
    publish(&weir, &[(1, "a"), (2, "b"), (3, "other"), (4, "a")]).await;
    let first = weir.broker.receive(ReceiveRequest { max_messages: 1, ..request(&weir, "c") }).await.unwrap();
    assert_eq!(numbers(&first), [1]);
    let second = receive(&weir, "c").await;
    assert_eq!((numbers(&second), names(&second)), (vec![2], ["b"].into()), "others go on");
    publish(&weir, &[(5, "a"), (6, "b")]).await;
    assert!(receive(&weir, "c").await.is_empty());
    ack(&weir, &second).await;
    assert_eq!(numbers(&receive(&weir, "c").await), [6]);
    ack(&weir, &first).await;
    let third = receive(&weir, "c").await;
    assert_eq!(numbers(&third), [4, 5], "several may go to one receive");
    publish(&weir, &[(7, "a")]).await;
    ack(&weir, &third[1..]).await;
    assert!(receive(&weir, "c").await.is_empty(), "an earlier one is not done");
    weir.advance(31);
    let again = receive(&weir, "c").await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![4, 6], 2));
    ack(&weir, &again).await;
    assert_eq!(take(&weir, "c").await, [7]);
    let told = weir.broker.group(&group("g")).unwrap();
    assert_eq!(told.members, ["c"]);
    let lite = told.topics[0].lite.as_ref().unwrap();
    assert_eq!((lite.subscriptions, lite.positions), (2, 2));
}

#[tokio::test]
async fn older_programs_must_refuse_a_directory_with_lite_topics_from_when_they_are_made() {
    let (weir, env) = Fixture::on_sim(1).await;
    let format = || {
        let path = env.paths().into_iter().find(|path| path.ends_with("FORMAT")).unwrap();
        env.bytes(&path).unwrap()
    };
    weir.broker.create_topic(&topic("plain"), TopicSpec::default()).await.unwrap();
    weir.broker.create_group(&group("plain"), GroupSpec::default()).await.unwrap();
    let before = format();
    parent(&weir, 1).await;
    assert_ne!(format(), before);
}

#[tokio::test]
async fn who_subscribes_later_goes_on_where_the_group_was() {
    for kill in [false, true] {
        let (mut weir, env) = Fixture::on_sim(1).await;
        parent(&weir, 3).await;
        bound(&weir, |_, _| {}).await;
        let all = ["a", "b", "c", "d", "e"];
        add(&weir, "one", &all).await;
        for n in 0..10 {
            publish(&weir, &[(n, all[n as usize % 5])]).await;
        }
        // Of some nothing was ever delivered.
        act(&weir, "one", LiteAction::Remove, &["d", "e"]).await;
        assert_eq!(take(&weir, "one").await, [0, 1, 2, 5, 6, 7]);
        act(&weir, "one", LiteAction::Leave, &[]).await;
        assert!(receive(&weir, "one").await.is_empty());
        for n in 10..20 {
            publish(&weir, &[(n, all[n as usize % 5])]).await;
        }
        if kill {
            env.kill();
        } else {
            weir.broker.close().await.unwrap();
        }
        weir.broker = Broker::open(weir.starting()).await.unwrap();
        publish(&weir, &[(20, "a")]).await;
        assert!(receive(&weir, "one").await.is_empty(), "sets are not kept");
        add(&weir, "two", &["a", "d"]).await;
        assert_eq!(take(&weir, "two").await, [3, 8, 10, 13, 15, 18, 20], "kill {kill}");
        act(&weir, "three", LiteAction::Replace, &["a", "b", "new"]).await;
        assert_eq!(take(&weir, "three").await, [11, 16], "kill {kill}");
        add_from(&weir, "three", &["c"], LiteFrom::Last).await;
        assert_eq!(take(&weir, "three").await, [12, 17]);
        assert!(take(&weir, "two").await.is_empty());
    }
}

#[tokio::test]
async fn what_is_leased_outlives_a_kill_and_so_do_its_handles() {
    let (mut weir, env) = Fixture::on_sim(2).await;
    parent(&weir, 1).await;
    bound(&weir, |_, _| {}).await;
    add(&weir, "c", &["a", "b"]).await;
    publish(&weir, &[(0, "a"), (1, "a"), (2, "b"), (3, "a")]).await;
    let one = ReceiveRequest { max_messages: 1, ..request(&weir, "c") };
    let held = weir.broker.receive(one).await.unwrap();
    env.lose_power();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    add(&weir, "c", &["a", "b"]).await;
    assert_eq!(numbers(&receive(&weir, "c").await), [2], "the lease of the other goes on");
    ack(&weir, &held).await;
    ack(&weir, &held).await;
    assert_eq!(numbers(&receive(&weir, "c").await), [1, 3]);
    weir.advance(31);
    assert_eq!(numbers(&receive(&weir, "c").await), [1, 2, 3]);
    let late = weir.ack(&held).await;
    assert!(late[0].is_ok(), "it was done before");
}

#[tokio::test]
async fn clients_share_a_lite_topic_and_keep_its_order() {
    let weir = made(2).await;
    add(&weir, "one", &["a", "x"]).await;
    add(&weir, "two", &["b", "x"]).await;
    publish(&weir, &[(0, "a"), (1, "b"), (2, "x"), (3, "x")]).await;
    let two = receive(&weir, "two").await;
    assert_eq!(names(&two), ["b", "x"].into());
    assert_eq!(numbers(&receive(&weir, "one").await), [0], "the other has what is shared");
    publish(&weir, &[(4, "x")]).await;
    assert!(receive(&weir, "one").await.is_empty());
    ack(&weir, &two).await;
    assert_eq!(numbers(&receive(&weir, "one").await), [4]);
    act(&weir, "one", LiteAction::Leave, &[]).await;
    weir.advance(31);
    let again = receive(&weir, "two").await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![4], 2), "it comes to who is there");
}

#[tokio::test]
async fn a_client_may_say_where_it_begins() {
    let weir = made(1).await;
    let mut times = Vec::new();
    for n in 0..10 {
        publish(&weir, &[(n, if n % 2 == 0 { "a" } else { "b" })]).await;
        times.push(weir.clock_ms());
        weir.advance(1);
    }
    let even = |from: i64| (from..10).filter(|n| n % 2 == 0).collect::<Vec<_>>();
    add_from(&weir, "c", &["a"], LiteFrom::Tail(2)).await;
    assert!(take(&weir, "c").await.is_empty(), "the group was nowhere");
    for (from, expected) in [
        (LiteFrom::Min, even(0)),
        (LiteFrom::Last, Vec::new()),
        (LiteFrom::Tail(0), Vec::new()),
        (LiteFrom::Tail(3), even(4)),
        (LiteFrom::Tail(100), even(0)),
        (LiteFrom::Offset(5), even(5)),
        (LiteFrom::Offset(u64::MAX), Vec::new()),
        (LiteFrom::Time(times[7]), even(7)),
        (LiteFrom::Time(0), even(0)),
        (LiteFrom::Max, Vec::new()),
    ] {
        add_from(&weir, "c", &["a"], from).await;
        assert_eq!(take(&weir, "c").await, expected, "{from:?}");
    }
    // What is open is forgotten, and counts from the first that is not done.
    add_from(&weir, "c", &["a"], LiteFrom::Offset(6)).await;
    let open = receive(&weir, "c").await;
    assert_eq!(numbers(&open), [6, 8]);
    add_from(&weir, "c", &["a"], LiteFrom::Tail(1)).await;
    let open = receive(&weir, "c").await;
    assert_eq!((numbers(&open), open[0].attempt), (vec![4, 6, 8], 1));
    // Only an addition says where.
    let replace = LiteSync { from: Some(LiteFrom::Min), ..sync("c", LiteAction::Replace, &["a"]) };
    weir.broker.sync_lite(replace).await.unwrap();
    ack(&weir, &open).await;
    assert!(take(&weir, "c").await.is_empty());
}

#[tokio::test]
async fn what_was_put_back_is_put_back_after_a_restart_too() {
    let mut weir = made(1).await;
    add(&weir, "c", &["a"]).await;
    publish(&weir, &[(0, "a"), (1, "a")]).await;
    let open = receive(&weir, "c").await;
    ack(&weir, &open[..1]).await;
    weir.restart().await;
    // The row that a start finds open is not looked up yet.
    add_from(&weir, "c", &["a"], LiteFrom::Min).await;
    weir.restart().await;
    add(&weir, "c", &["a"]).await;
    let again = receive(&weir, "c").await;
    assert_eq!((numbers(&again), again[1].attempt), (vec![0, 1], 1));
}

#[tokio::test]
async fn a_receive_that_waits_is_woken_by_what_is_for_it() {
    let weir = made(2).await;
    let long = |client: &str| {
        let request = ReceiveRequest { wait: Duration::from_secs(20), ..request(&weir, client) };
        let broker = weir.broker.clone();
        tokio::spawn(async move { numbers(&broker.receive(request).await.unwrap()) })
    };
    let (one, two, three) = (long("one"), long("two"), long("three"));
    settle().await;
    // Whoever looks first, the others are woken by it.
    add(&weir, "one", &["a"]).await;
    add(&weir, "two", &["b"]).await;
    publish(&weir, &[(1, "b")]).await;
    assert_eq!(two.await.unwrap(), [1]);
    publish(&weir, &[(2, "a")]).await;
    assert_eq!(one.await.unwrap(), [2]);
    assert!(!three.is_finished());
    // By a subscription to what is there.
    publish(&weir, &[(3, "c"), (4, "c")]).await;
    add_from(&weir, "three", &["c"], LiteFrom::Min).await;
    assert_eq!(three.await.unwrap(), [3, 4]);
    // By the end of a lease; by what another member does with what it has.
    let three = long("three");
    settle().await;
    weir.advance(15);
    add(&weir, "three", &["c"]).await;
    weir.advance(16);
    assert_eq!(three.await.unwrap(), [3, 4]);
    weir.advance(31);
    add(&weir, "four", &["c"]).await;
    let held = receive(&weir, "four").await;
    publish(&weir, &[(5, "c")]).await;
    act(&weir, "three", LiteAction::Replace, &["c"]).await;
    let three = long("three");
    settle().await;
    assert!(!three.is_finished());
    ack(&weir, &held).await;
    assert_eq!(three.await.unwrap(), [5]);
}

/// What a receive that waits is given: the clock stands still, so that nothing but a wake-up ends it.
async fn given(waits: JoinHandle<Vec<i64>>) -> Vec<i64> {
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it is woken").unwrap()
}

#[tokio::test]
async fn a_receive_that_waits_is_woken_when_what_stands_before_is_gone() {
    let long = |weir: &Fixture| {
        let request = ReceiveRequest { wait: Duration::from_secs(20), ..request(weir, "c") };
        let broker = weir.broker.clone();
        tokio::spawn(async move { numbers(&broker.receive(request).await.unwrap()) })
    };
    let one = |weir: &Fixture| ReceiveRequest { max_messages: 1, ..request(weir, "c") };
    // By its copy in the dead letters.
    let weir = Fixture::new().await;
    parent(&weir, 1).await;
    bound(&weir, |spec, _| spec.max_attempts = 1).await;
    add(&weir, "c", &["a"]).await;
    publish(&weir, &[(0, "a"), (1, "a")]).await;
    assert_eq!(numbers(&weir.broker.receive(one(&weir)).await.unwrap()), [0]);
    weir.advance(25);
    add(&weir, "c", &["a"]).await;
    let waits = long(&weir);
    settle().await;
    assert!(!waits.is_finished());
    weir.advance(6);
    assert_eq!(given(waits).await, [1]);
    // By a member that sends it there.
    let weir = made(1).await;
    add(&weir, "c", &["a"]).await;
    publish(&weir, &[(0, "a"), (1, "a")]).await;
    let held = weir.broker.receive(one(&weir)).await.unwrap();
    let waits = long(&weir);
    settle().await;
    assert!(!waits.is_finished());
    weir.broker.forward_to_dead_letter(&group("g"), &topic("t"), &held[0].handle).await.unwrap();
    assert_eq!(given(waits).await, [1]);
}

#[tokio::test]
async fn each_receive_of_a_client_that_waits_is_woken() {
    let weir = made(1).await;
    add(&weir, "c", &["a", "b"]).await;
    let long = || {
        let wait = Duration::from_secs(20);
        let request = ReceiveRequest { wait, max_messages: 1, ..request(&weir, "c") };
        let broker = weir.broker.clone();
        tokio::spawn(async move { numbers(&broker.receive(request).await.unwrap()) })
    };
    let both = (long(), long());
    settle().await;
    let batch = vec![message(0, "a"), message(1, "b")];
    weir.broker.publish(&topic("t"), batch).await.unwrap();
    let mut came = [given(both.0).await, given(both.1).await].concat();
    came.sort_unstable();
    assert_eq!(came, [0, 1]);
}

#[tokio::test]
async fn so_many_messages_before_are_found_for_all_that_are_named() {
    let weir = made(1).await;
    let all = ["a", "b", "c", "d"];
    for round in 0..100 {
        // The last is rare.
        let name = |n: i64| if n == 7 && round % 20 == 0 { "c" } else { all[n as usize % 2] };
        let batch = (0..200).map(|n| message(200 * round + n, name(n))).collect();
        weir.broker.publish(&topic("t"), batch).await.unwrap();
    }
    add(&weir, "c", &all[..3]).await;
    add_from(&weir, "c", &all, LiteFrom::Tail(2)).await;
    assert_eq!(take(&weir, "c").await, [12007, 16007, 19996, 19997, 19998, 19999]);
    add_from(&weir, "c", &["c", "a"], LiteFrom::Tail(6)).await;
    let came = take(&weir, "c").await;
    assert_eq!(came, [7, 4007, 8007, 12007, 16007, 19988, 19990, 19992, 19994, 19996, 19998]);
}

#[tokio::test]
async fn who_takes_a_lite_topic_over_has_it_alone() {
    let weir = Fixture::new().await;
    parent(&weir, 1).await;
    bound(&weir, |_, lite| lite.exclusive = true).await;
    let told = |client: &str, name: &str| LiteUnsubscribed { client: client.into(), lite_topic: name.into() };
    assert!(add(&weir, "one", &["a", "b"]).await.is_empty());
    assert_eq!(add(&weir, "two", &["a"]).await, [told("one", "a")]);
    publish(&weir, &[(0, "a"), (1, "b")]).await;
    assert_eq!(take(&weir, "one").await, [1]);
    assert_eq!(take(&weir, "two").await, [0]);
    // It has not heard it: it is told again, and still does not have it.
    for _ in 0..2 {
        let again = act(&weir, "one", LiteAction::Replace, &["a", "b"]).await;
        assert_eq!(again, [told("one", "a")]);
    }
    publish(&weir, &[(2, "a"), (3, "b")]).await;
    assert_eq!(take(&weir, "one").await, [3]);
    // It has let go, and subscribes again.
    assert!(act(&weir, "one", LiteAction::Replace, &["b"]).await.is_empty());
    assert_eq!(add(&weir, "one", &["a"]).await, [told("two", "a")]);
    assert_eq!(take(&weir, "one").await, [2]);
    assert!(act(&weir, "two", LiteAction::Remove, &["a"]).await.is_empty());
    // A set takes nothing from others, also the first of a client.
    let replace = async |client: &str| act(&weir, client, LiteAction::Replace, &["a", "c"]).await;
    assert_eq!(replace("two").await, [told("two", "a")]);
    assert_eq!(replace("three").await, [told("three", "a"), told("three", "c")]);
    publish(&weir, &[(4, "a"), (5, "c")]).await;
    assert_eq!(take(&weir, "two").await, [5]);
    assert_eq!(take(&weir, "one").await, [4]);
    act(&weir, "one", LiteAction::Leave, &[]).await;
    assert_eq!(act(&weir, "three", LiteAction::Replace, &["a"]).await, [told("three", "a")]);
    assert!(act(&weir, "four", LiteAction::Replace, &["a"]).await.is_empty(), "nobody has it");
}

#[tokio::test]
async fn a_client_that_is_silent_or_gone_subscribes_no_more() {
    let weir = made(1).await;
    add(&weir, "silent", &["a"]).await;
    add(&weir, "gone", &["b"]).await;
    weir.broker.client_gone("gone");
    weir.advance(119);
    act(&weir, "silent", LiteAction::Replace, &["a"]).await;
    weir.advance(119);
    publish(&weir, &[(0, "a"), (1, "b")]).await;
    assert_eq!(take(&weir, "silent").await, [0]);
    assert!(take(&weir, "gone").await.is_empty());
    publish(&weir, &[(2, "a")]).await;
    weir.advance(2);
    assert!(take(&weir, "silent").await.is_empty());
    act(&weir, "silent", LiteAction::Replace, &["a", "b"]).await;
    assert_eq!(take(&weir, "silent").await, [1, 2]);
}

#[tokio::test]
async fn what_fails_too_often_goes_to_the_dead_letters_and_what_is_suspended_has_not_failed() {
    let mut weir = made(1).await;
    add(&weir, "c", &["a"]).await;
    publish(&weir, &[(0, "a"), (1, "a")]).await;
    let one = |weir: &Fixture| ReceiveRequest { max_messages: 1, ..request(weir, "c") };
    for round in 0..5 {
        let held = weir.broker.receive(one(&weir)).await.unwrap();
        assert_eq!((numbers(&held), held[0].attempt), (vec![0], 1), "{round}");
        let (g, t, after) = (group("g"), topic("t"), Duration::from_secs(5));
        let handle = weir.broker.suspend(&g, &t, &held[0].handle, after).await.unwrap();
        assert!(weir.broker.receive(one(&weir)).await.unwrap().is_empty(), "the lite topic waits");
        let old = weir.broker.suspend(&g, &t, &held[0].handle, after).await.unwrap_err();
        assert!(matches!(old, EngineError::Handle(HandleFault::Expired)), "{old}");
        if round == 2 {
            weir.restart().await;
            weir.broker.suspend(&g, &t, &handle, after).await.unwrap();
            add(&weir, "c", &["a"]).await;
        }
        weir.advance(6);
    }
    for attempt in 1..=3 {
        let held = weir.broker.receive(one(&weir)).await.unwrap();
        assert_eq!((numbers(&held), held[0].attempt), (vec![0], attempt));
        weir.advance(31);
        add(&weir, "c", &["a"]).await;
    }
    let next = loop {
        let next = weir.broker.receive(one(&weir)).await.unwrap();
        if !next.is_empty() {
            break next;
        }
        // The copy is being stored.
        settle().await;
    };
    assert_eq!(numbers(&next), [1]);
    weir.broker.forward_to_dead_letter(&group("g"), &topic("t"), &next[0].handle).await.unwrap();
    let letters = weir.broker.receive(ReceiveRequest::new(group("other"), topic("%DLQ%g"))).await.unwrap();
    assert_eq!((numbers(&letters), names(&letters)), (vec![0, 1], ["a"].into()));
}

#[tokio::test]
async fn a_receive_made_again_gets_the_same_messages() {
    let weir = made(1).await;
    add(&weir, "c", &["a"]).await;
    publish(&weir, &[(0, "a"), (1, "a"), (2, "a")]).await;
    let named = |name: &str| ReceiveRequest {
        attempt_id: Some(name.to_owned()),
        max_messages: 2,
        ..request(&weir, "c")
    };
    let first = weir.broker.receive(named("x")).await.unwrap();
    let again = weir.broker.receive(named("x")).await.unwrap();
    assert_eq!((numbers(&first), numbers(&again), again[0].attempt), (vec![0, 1], vec![0, 1], 1));
    assert!(weir.broker.receive(named("y")).await.unwrap().is_empty());
    ack(&weir, &first).await;
    assert_eq!(numbers(&weir.broker.receive(named("y")).await.unwrap()), [2]);
}

#[tokio::test]
async fn one_by_one_a_lite_topic_gives_one_message_at_a_time() {
    let weir = made(1).await;
    add(&weir, "c", &["a", "b"]).await;
    publish(&weir, &[(0, "a"), (1, "a"), (2, "b"), (3, "a"), (4, "b")]).await;
    for expected in [vec![0, 2], vec![1, 4], vec![3]] {
        let one_by_one = ReceiveRequest { one_by_one: true, ..request(&weir, "c") };
        let came = weir.broker.receive(one_by_one).await.unwrap();
        assert_eq!(numbers(&came), expected);
        ack(&weir, &came).await;
    }
}

#[tokio::test]
async fn what_is_asked_of_the_wrong_group_or_too_much_is_refused() {
    let weir = made(2).await;
    weir.broker.create_topic(&topic("plain"), TopicSpec::default()).await.unwrap();
    weir.broker.create_group(&group("plain"), GroupSpec::default()).await.unwrap();
    let refused = |sync: LiteSync| {
        let broker = weir.broker.clone();
        async move { broker.sync_lite(sync).await.unwrap_err() }
    };
    let good = || sync("c", LiteAction::Add, &["a"]);
    let error = refused(LiteSync { group: group("none"), ..good() }).await;
    assert!(matches!(error, EngineError::GroupNotFound { .. }), "{error}");
    let error = refused(LiteSync { group: group("plain"), ..good() }).await;
    assert!(matches!(error, EngineError::LiteGroup { is_lite: false, .. }), "{error}");
    let error = refused(LiteSync { topic: topic("plain"), ..good() }).await;
    assert!(matches!(error, EngineError::LiteParent { .. }), "{error}");
    let error = refused(sync("c", LiteAction::Add, &["a", "*"])).await;
    assert!(matches!(error, EngineError::LiteTopicName(_)), "{error}");
    let other = ReceiveRequest { topic: topic("plain"), ..request(&weir, "c") };
    let error = weir.broker.receive(other).await.unwrap_err();
    assert!(matches!(error, EngineError::LiteParent { .. }), "{error}");
    let filtered = ReceiveRequest { lease: lease(30), ..weir.request("n > 3") };
    let error = weir.broker.receive(filtered).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    for to in [ResetTo::Latest, ResetTo::Offset { queue: QueueId(0), offset: QueueOffset(0) }] {
        let error = weir.broker.reset_group(&group("g"), &topic("t"), to).await.unwrap_err();
        assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    }
    for change in [
        TopicChange { queues: Some(3), ..TopicChange::default() },
        TopicChange { topic_type: Some(TopicType::Mixed), ..TopicChange::default() },
    ] {
        let error = weir.broker.alter_topic(&topic("t"), change).await.unwrap_err();
        assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    }
    let change = GroupChange { fifo: Some(false), ..GroupChange::default() };
    assert!(weir.broker.alter_group(&group("g"), change).await.is_err());
    let lite = Some(LiteSpec::of(topic("plain")));
    let error = weir.broker.create_group(&group("h"), GroupSpec { lite, ..GroupSpec::default() }).await;
    assert!(matches!(error, Err(EngineError::Invalid(_))), "{error:?}");
    let wrong = Message { lite_topic: None, ..message(0, "a") };
    assert!(weir.broker.publish(&topic("t"), vec![wrong]).await.is_err());
    let error = weir.broker.publish(&topic("plain"), vec![message(0, "a")]).await.unwrap_err();
    assert!(matches!(error, EngineError::MessageType { .. }), "{error}");
    // Other groups read a parent as any topic.
    publish(&weir, &[(5, "a"), (6, "b")]).await;
    let plain = ReceiveRequest { group: group("plain"), ..weir.request("sys.message_group = 'b'") };
    assert_eq!(numbers(&weir.broker.receive(plain).await.unwrap()), [6]);
}

#[tokio::test]
async fn a_client_subscribes_to_as_many_as_its_group_allows() {
    let weir = made(1).await;
    let change = GroupChange { lite_quota: Some(10), ..GroupChange::default() };
    weir.broker.alter_group(&group("g"), change).await.unwrap();
    let most = 10 + LITE_QUOTA_TOLERANCE;
    let many: Vec<String> = (0..=most).map(|n| format!("l{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let is_over = |result: Result<_, EngineError>| {
        matches!(result, Err(EngineError::Limit { kind: LimitKind::LiteSubscriptions, .. }))
    };
    assert!(is_over(weir.broker.sync_lite(sync("c", LiteAction::Replace, &many)).await));
    act(&weir, "c", LiteAction::Replace, &many[1..]).await;
    assert!(is_over(weir.broker.sync_lite(sync("c", LiteAction::Add, &many[..1])).await));
    assert!(add(&weir, "c", &many[1..2]).await.is_empty(), "it has this one");
    // Who is refused keeps what it has.
    for _ in 0..3 {
        weir.advance(100);
        assert!(is_over(weir.broker.sync_lite(sync("c", LiteAction::Replace, &many)).await));
    }
    publish(&weir, &[(0, many[7])]).await;
    assert_eq!(take(&weir, "c").await, [0]);
    add(&weir, "d", &many[..1]).await;
    act(&weir, "c", LiteAction::Remove, &many[1..2]).await;
    add(&weir, "c", &many[..1]).await;
    let lite = weir.broker.group(&group("g")).unwrap().topics[0].lite.clone().unwrap();
    assert_eq!((lite.subscriptions, lite.positions), (most as u64 + 1, most as u64 + 1));
}

#[tokio::test]
async fn a_position_goes_with_the_last_message_of_its_lite_topic() {
    let weir = Fixture::new().await;
    let hour = Duration::from_secs(3600);
    let spec =
        TopicSpec { queues: 1, topic_type: TopicType::Lite, retention: Some(hour), ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    bound(&weir, |_, _| {}).await;
    add(&weir, "c", &["a", "b"]).await;
    publish(&weir, &[(0, "a"), (1, "b")]).await;
    assert_eq!(take(&weir, "c").await, [0, 1]);
    act(&weir, "c", LiteAction::Leave, &[]).await;
    let positions = || weir.broker.group(&group("g")).unwrap().topics[0].lite.as_ref().unwrap().positions;
    let pass = async |seconds: u64| {
        for _ in 0..seconds / 30 {
            weir.advance(30);
            settle().await;
        }
    };
    pass(1800).await;
    publish(&weir, &[(2, "b")]).await;
    pass(2400).await;
    // Somebody has to look at the last row.
    assert!(receive(&weir, "other").await.is_empty());
    pass(60).await;
    assert_eq!(positions(), 1, "of one there is a message that was not read");
    add(&weir, "c", &["a", "b"]).await;
    assert_eq!(take(&weir, "c").await, [2]);
}

/// Clients with changing sets, failures, kills and losses of power: each message of a lite topic is delivered in order,
/// none before those in front of it are done or in the same hands, none again that is done, and all in the end.
#[tokio::test]
async fn random_clients_keep_the_order_through_kills() {
    let first: u64 =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    for seed in (0..8).map(|n| first.wrapping_add(n)) {
        println!("WEIR_SEED={seed}");
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut weir, env) = Fixture::on_sim(seed).await;
    parent(&weir, 2).await;
    bound(&weir, |spec, _| spec.max_attempts = 10_000).await;
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    add(&weir, "x", &all).await;
    // The messages of each lite topic, in order; and what is done.
    let mut sent: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut done: BTreeSet<i64> = BTreeSet::new();
    let mut held: BTreeMap<i64, (String, Duration)> = BTreeMap::new();
    let mut next = 0;
    for step in 0..400 {
        let client = ["x", "y", "z"][random.random_range(0..3)];
        let now = weir.now();
        match random.random_range(0..100) {
            0..30 => {
                let name = *all.choose(&mut random).unwrap();
                publish(&weir, &[(next, name)]).await;
                sent.entry(name).or_default().push(next);
                next += 1;
            }
            30..60 => {
                let max_messages = random.random_range(1..6);
                let request = ReceiveRequest { max_messages, ..request(&weir, client) };
                let came = weir.broker.receive(request).await.unwrap();
                let mut here: BTreeSet<i64> = BTreeSet::new();
                for (one, n) in came.iter().zip(numbers(&came)) {
                    let name = one.message.message.lite_topic.as_deref().unwrap();
                    let before = sent[name].iter().take_while(|other| **other != n);
                    let missing: Vec<_> = before.filter(|n| !done.contains(n) && !here.contains(n)).collect();
                    assert!(missing.is_empty(), "seed {seed} step {step}: {n} came before {missing:?}");
                    assert!(!done.contains(&n), "seed {seed} step {step}: {n} is done");
                    let is_leased = held.get(&n).is_some_and(|(_, until)| now < *until);
                    assert!(!is_leased, "seed {seed} step {step}: {n} is leased");
                    here.insert(n);
                    held.insert(n, (one.handle.clone(), now + one.lease));
                }
            }
            60..80 => {
                let Some(n) = held.keys().copied().collect::<Vec<_>>().choose(&mut random).copied() else {
                    continue;
                };
                let (handle, _) = held.remove(&n).unwrap();
                if random.random_bool(0.8) {
                    let result = weir.broker.acknowledge(&group("g"), &topic("t"), &[handle]).await;
                    if result[0].is_ok() {
                        done.insert(n);
                    }
                } else {
                    let later = Duration::from_secs(random.random_range(0..5));
                    let _ = weir.broker.change_invisible(&group("g"), &topic("t"), &handle, later).await;
                }
            }
            80..90 => {
                let count = random.random_range(0..all.len());
                let names: Vec<&str> = all.choose_multiple(&mut random, count).copied().collect();
                let action =
                    *[LiteAction::Add, LiteAction::Remove, LiteAction::Replace].choose(&mut random).unwrap();
                act(&weir, client, action, &names).await;
            }
            90..96 => {
                weir.advance(random.random_range(1..25));
                settle().await;
            }
            _ => {
                match random.random_range(0..3) {
                    0 => weir.broker.close().await.unwrap(),
                    1 => env.kill(),
                    _ => env.lose_power(),
                }
                weir.broker = Broker::open(weir.starting()).await.unwrap();
            }
        }
    }
    act(&weir, "last", LiteAction::Replace, &all).await;
    let owed = (0..next).filter(|n| !done.contains(n)).collect::<Vec<_>>();
    let mut came = Vec::new();
    for _ in 0..20 {
        came.extend(take(&weir, "last").await);
        weir.advance(15);
        act(&weir, "last", LiteAction::Replace, &all).await;
        settle().await;
    }
    came.sort_unstable();
    assert_eq!(came, owed, "seed {seed}");
}

/// A lite topic that stands among many rows of others, with more than a step takes.
#[tokio::test]
async fn a_lite_topic_is_found_among_many_rows_of_others() {
    let weir = made(1).await;
    publish(&weir, &[(-1, "a")]).await;
    for round in 0..100 {
        let batch = (0..200).map(|n| message(200 * round + n, &format!("l{}", n % 50))).collect();
        weir.broker.publish(&topic("t"), batch).await.unwrap();
    }
    publish(&weir, &[(-2, "a")]).await;
    add_from(&weir, "c", &["a", "l7"], LiteFrom::Min).await;
    let first = receive(&weir, "c").await;
    let expected: Vec<i64> = std::iter::once(-1).chain((0..).map(|n| 50 * n + 7)).take(32).collect();
    assert_eq!(numbers(&first), expected);
    ack(&weir, &first).await;
    let rest = take(&weir, "c").await;
    assert_eq!((rest.len(), rest[0]), (400 - 31 + 1, -2));
}

impl Fixture {
    fn clock_ms(&self) -> i64 {
        weir_engine::Clock::wall_ms(&*self.clock)
    }

    fn now(&self) -> Duration {
        weir_engine::Clock::monotonic(&*self.clock)
    }
}
