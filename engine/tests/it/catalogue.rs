//! Topics and groups: making, changing, finding and deleting them; what publishing asks of them; retention.

use std::{path::PathBuf, time::Duration};

use weir_columns::Value;
use weir_engine::{
    Broker, BrokerOptions, Compression, DurabilityClass, EngineError, GroupChange, GroupSpec, GroupStart,
    Message, PullFrom, PullRequest, QueueId, QueueOffset, ReceiveRequest, RetryPolicy, TopicChange,
    TopicName, TopicSpec, TopicType,
};
use weir_filter::Dialect;
use weir_storage::SimEnv;

use crate::fixture::{Fixture, group, numbered, numbers, topic};

#[tokio::test]
async fn topics_are_made_changed_found_again_and_deleted() {
    let mut weir = Fixture::new().await;
    let spec = TopicSpec {
        queues: 2,
        class: DurabilityClass::Async,
        retention: None,
        retention_bytes: Some(5000),
        dialect: None,
        compression: Compression::None,
        topic_type: TopicType::Normal,
    };
    weir.broker.create_topic(&topic("ns/orders"), spec).await.unwrap();
    weir.broker.create_topic(&topic("orders"), TopicSpec::default()).await.unwrap();
    let change = TopicChange {
        queues: Some(5),
        retention: Some(Duration::from_secs(60)),
        dialect: Some(Dialect::RocketMq),
        ..TopicChange::default()
    };
    weir.broker.alter_topic(&topic("ns/orders"), change).await.unwrap();
    weir.restart().await;
    let described = weir.broker.topic(&topic("ns/orders")).unwrap();
    assert_eq!(
        (described.queues.len(), described.class, described.retention),
        (5, DurabilityClass::Async, Some(Duration::from_secs(60)))
    );
    assert_eq!((described.dialect, described.retention_bytes), (Some(Dialect::RocketMq), Some(5000)));
    assert_eq!(described.topic_type, TopicType::Normal);
    let any = TopicChange { retention_bytes: Some(0), ..TopicChange::default() };
    assert_eq!(weir.broker.alter_topic(&topic("ns/orders"), any).await.unwrap().retention_bytes, None);
    let names: Vec<String> = weir.broker.topics().iter().map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["orders", "ns/orders"]);
    weir.broker.publish(&topic("orders"), vec![Message::default(); 3]).await.unwrap();
    let deleted = weir.broker.delete_topic(&topic("orders")).await.unwrap();
    assert_eq!((deleted.messages, deleted.free_soon_bytes), (3, 0));
    assert_eq!(deleted.free_later_bytes, 3 * 96, "in the segment that is written to: {deleted:?}");
    assert!(matches!(weir.broker.topic(&topic("orders")), Err(EngineError::TopicNotFound { .. })));
    let anew = weir.broker.create_topic(&topic("orders"), TopicSpec::default()).await.unwrap();
    assert_eq!(anew.queues[0].end, QueueOffset(0));
}

#[tokio::test]
async fn what_topics_may_not_be_is_refused() {
    let weir = Fixture::new().await;
    let t = weir.topic(2).await;
    let create = async |name: &str, queues| {
        weir.broker.create_topic(&topic(name), TopicSpec { queues, ..TopicSpec::default() }).await
    };
    assert!(matches!(create("t", 1).await, Err(EngineError::Exists { .. })));
    assert!(matches!(create("u", 0).await, Err(EngineError::Invalid(_))));
    assert!(matches!(create("u", 1025).await, Err(EngineError::Limit { .. })));
    assert!(matches!(create("%DLQ%g", 1).await, Err(EngineError::Invalid(_))));
    assert!(matches!(create("%RETRY%g", 1).await, Err(EngineError::Invalid(_))));
    let fewer = TopicChange { queues: Some(1), ..TopicChange::default() };
    assert!(matches!(weir.broker.alter_topic(&t, fewer).await, Err(EngineError::Invalid(_))));
    let nowhere = weir.broker.publish(&topic("tt"), vec![Message::default()]).await.unwrap_err();
    assert_eq!(nowhere.to_string(), "topic tt does not exist; did you mean t?");
}

#[tokio::test]
async fn topics_and_groups_are_made_on_first_use_where_that_is_wanted() {
    let weir = Fixture::with(|options| options.auto_create_topics = true).await;
    weir.broker.publish(&topic("t"), vec![numbered(1)]).await.unwrap();
    assert_eq!(weir.broker.topic(&topic("t")).unwrap().queues.len(), 4);
    assert_eq!(numbers(&weir.receive("TRUE").await), [1]);
    assert_eq!(weir.broker.group_spec(&group("g")), Some(GroupSpec::default()));
    let dead = TopicName::dead_letter_of(&group("g"));
    assert!(weir.broker.publish(&dead, vec![numbered(1)]).await.is_err());

    let weir = Fixture::with(|options| options.auto_create_groups = false).await;
    weir.topic(1).await;
    let refused = weir.broker.receive(weir.request("TRUE")).await;
    assert!(matches!(refused, Err(EngineError::GroupNotFound { .. })));
}

#[tokio::test]
async fn groups_are_made_changed_found_again_and_deleted() {
    let mut weir = Fixture::new().await;
    weir.topic(1).await;
    weir.publish([1, 2]).await;
    let spec = GroupSpec {
        retry: RetryPolicy::Customized(vec![Duration::from_secs(1)]),
        start: GroupStart::Latest,
        ..GroupSpec::default()
    };
    weir.broker.create_group(&group("g"), spec.clone()).await.unwrap();
    assert!(matches!(weir.broker.create_group(&group("g"), spec).await, Err(EngineError::Exists { .. })));
    let change = GroupChange { max_attempts: Some(3), ..GroupChange::default() };
    weir.broker.alter_group(&group("g"), change).await.unwrap();
    let zero = GroupChange { max_attempts: Some(0), ..GroupChange::default() };
    assert!(matches!(weir.broker.alter_group(&group("g"), zero).await, Err(EngineError::Invalid(_))));
    assert!(weir.receive("TRUE").await.is_empty(), "it starts at the latest row");
    weir.publish([3]).await;
    weir.restart().await;
    assert_eq!(weir.broker.group_spec(&group("g")).unwrap().max_attempts, 3);
    assert_eq!(numbers(&weir.receive("TRUE").await), [3]);
    let described = weir.broker.group(&group("g")).unwrap();
    assert_eq!(described.members, ["c"]);
    assert_eq!(described.topics[0].selectors[0].kind, "all");
    weir.broker.delete_group(&group("g")).await.unwrap();
    assert!(matches!(weir.broker.group(&group("g")), Err(EngineError::GroupNotFound { .. })));
    weir.restart().await;
    assert!(weir.broker.groups().is_empty());
    assert_eq!(numbers(&weir.receive("TRUE").await), [1, 2, 3], "a group made anew knows nothing");
}

#[tokio::test]
async fn deleting_a_topic_ends_those_who_wait_for_it() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    let poll = {
        let request = ReceiveRequest { wait: Duration::from_secs(20), ..weir.request("TRUE") };
        let broker = weir.broker.clone();
        tokio::spawn(async move { broker.receive(request).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    weir.broker.delete_topic(&t).await.unwrap();
    assert!(matches!(poll.await.unwrap(), Err(EngineError::TopicNotFound { .. })));
    assert!(weir.broker.group(&group("g")).unwrap().topics.is_empty());
}

#[tokio::test]
async fn a_call_keeps_its_order_and_a_message_group_its_queue() {
    let weir = Fixture::new().await;
    let t = weir.topic(4).await;
    let mut used = Vec::new();
    for base in 0..4 {
        let stored =
            weir.broker.publish(&t, (0..10).map(|n| numbered(10 * base + n)).collect()).await.unwrap();
        assert!(stored.iter().all(|one| one.queue == stored[0].queue), "one call, one queue");
        assert!(stored.windows(2).all(|pair| pair[1].offset == pair[0].offset.plus(1)));
        used.push(stored[0].queue);
    }
    used.sort_unstable();
    assert_eq!(used, (0..4).map(QueueId).collect::<Vec<_>>(), "calls take the queues in turn");
    let of_group = |name: &str| Message { message_group: Some(name.to_owned()), ..numbered(0) };
    for name in ["a", "b", "customer-17"] {
        let expected = QueueId((weir_columns::hash64(name.as_bytes()) % 4) as u32);
        for _ in 0..2 {
            let stored = weir.broker.publish(&t, vec![of_group(name), of_group(name)]).await.unwrap();
            assert!(stored.iter().all(|one| one.queue == expected), "{name}");
        }
    }
}

#[tokio::test]
async fn a_topic_that_grows_is_read_whole() {
    let weir = Fixture::new().await;
    let t = weir.topic(1).await;
    weir.publish([1]).await;
    weir.ack(&weir.receive("TRUE").await).await;
    weir.broker.alter_topic(&t, TopicChange { queues: Some(3), ..TopicChange::default() }).await.unwrap();
    for n in 2..5 {
        weir.publish([n]).await;
    }
    let mut seen = numbers(&weir.receive("TRUE").await);
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4]);
}

#[tokio::test]
async fn rows_end_when_their_time_is_over_and_groups_go_on_behind_them() {
    let weir = Fixture::new().await;
    let t = topic("t");
    let spec = TopicSpec { queues: 1, retention: Some(Duration::from_secs(1000)), ..TopicSpec::default() };
    weir.broker.create_topic(&t, spec).await.unwrap();
    weir.publish(0..10).await;
    let held = weir.broker.receive(ReceiveRequest { max_messages: 2, ..weir.request("TRUE") }).await.unwrap();
    assert_eq!(numbers(&held), [0, 1]);
    weir.advance(990);
    weir.publish(10..12).await;
    weir.advance(70);
    while weir.broker.topic(&t).unwrap().queues[0].first < QueueOffset(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        weir.advance(1);
    }
    assert_eq!(numbers(&weir.receive("TRUE").await), [10, 11]);
    let queue = weir.broker.group(&group("g")).unwrap().topics[0].queues[0];
    assert_eq!((queue.committed.0, queue.leased), (10, 2));
    assert!(weir.ack(&held).await.iter().all(Result::is_ok), "what retention ended is done");
}

/// Makes topic `t` with one queue that retains its rows for so long.
async fn retaining(weir: &Fixture, seconds: u64) -> TopicName {
    let retention = Some(Duration::from_secs(seconds));
    let spec = TopicSpec { queues: 1, retention, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), spec).await.unwrap();
    topic("t")
}

#[tokio::test]
async fn rows_that_a_group_needs_are_retained_longer_up_to_a_bound() {
    let weir = Fixture::with(|options| options.retention_hold = Duration::from_secs(500)).await;
    let t = retaining(&weir, 1000).await;
    weir.publish(0..10).await;
    let held = weir.broker.receive(ReceiveRequest { max_messages: 4, ..weir.request("TRUE") }).await.unwrap();
    assert!(weir.ack(&held).await.iter().all(Result::is_ok));
    let first = || weir.broker.topic(&t).unwrap().queues[0].first.0;
    weir.advance(1010);
    pass_minutes(&weir, 1).await;
    assert_eq!(first(), 4, "the group is done with four of them");
    let missed = || weir.broker.group(&group("g")).unwrap().topics[0].queues[0].missed;
    assert_eq!(missed(), 0);
    weir.advance(500);
    pass_minutes(&weir, 1).await;
    assert_eq!(first(), 10, "the bound");
    assert_eq!(missed(), 6);
}

#[tokio::test]
async fn a_group_that_falls_behind_is_told_how_much_it_missed() {
    let weir = Fixture::new().await;
    let t = retaining(&weir, 1000).await;
    weir.publish(0..10).await;
    let held =
        weir.broker.receive(ReceiveRequest { max_messages: 3, ..weir.request("n < 5") }).await.unwrap();
    assert_eq!(numbers(&held), [0, 1, 2]);
    assert!(weir.ack(&held[..1]).await.iter().all(Result::is_ok));
    weir.advance(1010);
    pass_minutes(&weir, 1).await;
    assert_eq!(weir.broker.topic(&t).unwrap().queues[0].first.0, 10);
    let queue = || weir.broker.group(&group("g")).unwrap().topics[0].queues[0];
    // Two that it had, and all that nobody had judged, whether or not they match.
    assert_eq!((queue().committed.0, queue().missed, queue().leased), (10, 9, 0));
    weir.publish(10..12).await;
    assert!(weir.receive("n < 5").await.is_empty());
    assert_eq!(queue().missed, 9, "counted once");
    let request = PullRequest { from: PullFrom::Offsets([(0, 3)].into()), ..PullRequest::new(t) };
    let refused = weir.broker.plan_pull(&request).await.unwrap_err();
    assert!(matches!(refused, EngineError::OffsetOutOfRange { .. }), "{refused}");
    assert!(refused.to_string().contains("10"), "{refused}");
    // A group that is new to the queue is put to what there is, and none is made for what will not be.
    let put = |queue, offset| {
        let (name, t) = (group("new"), topic("t"));
        let broker = weir.broker.clone();
        async move { broker.update_offset(&name, &t, QueueId(queue), QueueOffset(offset)).await }
    };
    assert!(matches!(put(0, 13).await, Err(EngineError::OffsetOutOfRange { .. })));
    assert!(matches!(put(1, 10).await, Err(EngineError::QueueNotFound { .. })));
    assert!(weir.broker.group(&group("new")).is_err());
    for (offset, expected) in [(3, 10), (11, 11), (12, 12)] {
        put(0, offset).await.unwrap();
        let committed = weir.broker.committed_offset(&group("new"), &topic("t"), QueueId(0)).unwrap();
        assert_eq!(committed, Some(QueueOffset(expected)));
    }
}

/// May fill four fifths of its disk.
fn four_fifths(options: &mut BrokerOptions) {
    options.retention_disk_percent = 80;
}

/// Publishes 7 MB, more than one segment of the log, and returns the next number.
async fn fill_log(weir: &Fixture, t: &TopicName, first: i64) -> i64 {
    for number in (first..first + 700).step_by(100) {
        let body = |number| Message { body: vec![0; 10_000].into(), ..numbered(number) };
        weir.broker.publish(t, (number..number + 100).map(body).collect()).await.unwrap();
    }
    first + 700
}

#[tokio::test]
async fn the_oldest_rows_end_while_the_disk_is_too_full() {
    let env = SimEnv::new(5);
    let weir = Fixture::on(&env, four_fifths).await;
    let (t, kept) = (weir.topic(2).await, topic("kept"));
    let spec = TopicSpec { queues: 1, retention: None, ..TopicSpec::default() };
    weir.broker.create_topic(&kept, spec).await.unwrap();
    let published = fill_log(&weir, &t, 0).await;
    let held = weir.broker.receive(ReceiveRequest { max_messages: 3, ..weir.request("TRUE") }).await.unwrap();
    weir.broker.publish(&kept, vec![numbered(1)]).await.unwrap();
    let later = fill_log(&weir, &t, published).await;
    let first = || weir.broker.topic(&t).unwrap().queues.iter().map(|queue| queue.first.0).sum::<u64>();
    weir.advance(60);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(first(), 0, "there is room");

    // What the topic that keeps everything holds lies behind the rows that end.
    let used = env.used();
    env.set_capacity(Some(used * 100 / 81));
    pass_minutes(&weir, 2).await;
    assert!(env.used() * 100 <= used * 100 / 81 * 80);
    let ended = first();
    assert!(ended > 0 && ended < later as u64, "{ended} of {later}");
    assert!(weir.ack(&held).await.iter().all(Result::is_ok));
    let all = weir.broker.plan_pull(&PullRequest::new(t.clone())).await.unwrap();
    assert_eq!(all.rows, Some(later as u64 - ended), "the others can still be read");

    // Now it holds the oldest ones.
    env.set_capacity(Some(env.used()));
    pass_minutes(&weir, 2).await;
    assert!(first() <= published as u64 + 3, "rows behind those of a topic that keeps everything stay");
    assert_eq!(weir.broker.topic(&kept).unwrap().queues[0].first, QueueOffset(0));
}

/// A topic keeps its newest rows up to the one with which they reach the bound, whatever queue they are in.
#[tokio::test]
async fn the_oldest_rows_end_while_their_topic_takes_too_many_bytes() {
    let mut weir = Fixture::new().await;
    let (t, other) = (weir.topic(2).await, topic("other"));
    let spec = TopicSpec { queues: 1, ..TopicSpec::default() };
    weir.broker.create_topic(&other, spec).await.unwrap();
    let body = |n| Message { body: vec![0; 1000].into(), ..numbered(n) };
    for n in 0..100 {
        weir.broker.publish(&t, vec![body(n)]).await.unwrap();
        weir.broker.publish(&other, vec![body(n)]).await.unwrap();
    }
    let all = weir.broker.topic(&t).unwrap().log_bytes;
    assert!(all > 100_000, "{all}");
    // Half of it in files, the rest in memory.
    weir.restart().await;
    for n in 100..200 {
        weir.broker.publish(&t, vec![body(n)]).await.unwrap();
    }
    let change = TopicChange { retention_bytes: Some(all), ..TopicChange::default() };
    weir.broker.alter_topic(&t, change).await.unwrap();
    pass_minutes(&weir, 1).await;
    let described = weir.broker.topic(&t).unwrap();
    let kept = described.queues.iter().map(|queue| queue.end.0 - queue.first.0).collect::<Vec<_>>();
    assert!((100..=101).contains(&kept.iter().sum::<u64>()), "{kept:?}");
    assert!(kept[0].abs_diff(kept[1]) <= 2, "the oldest of both queues: {kept:?}");
    assert!(described.log_bytes >= all && described.log_bytes < all + 2000, "{}", described.log_bytes);
    assert_eq!(weir.broker.topic(&other).unwrap().queues[0].first, QueueOffset(0), "each has its own bound");
    weir.restart().await;
    let again = weir.broker.topic(&t).unwrap();
    assert_eq!((again.queues, again.retention_bytes), (described.queues, Some(all)));
}

#[tokio::test]
async fn the_oldest_rows_end_while_the_log_is_too_large() {
    let weir = Fixture::with(|options| options.retention_bytes = Some(10 << 20)).await;
    let t = weir.topic(1).await;
    let mut next = 0;
    for _ in 0..4 {
        next = fill_log(&weir, &t, next).await;
    }
    pass_minutes(&weir, 2).await;
    let described = weir.broker.topic(&t).unwrap();
    assert!(described.queues[0].first.0 > 0);
    // Whole segments go, of 4 MB at most.
    assert!((5 << 20..=10 << 20).contains(&described.log_bytes), "{}", described.log_bytes);
}

/// Lets so many minutes go by, and what is done every minute with them.
async fn pass_minutes(weir: &Fixture, minutes: u64) {
    for _ in 0..minutes * 60 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        weir.advance(1);
    }
    // What fell due with the last second is still being done.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn log_segments(env: &SimEnv) -> usize {
    env.paths().iter().filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
}

#[tokio::test]
async fn few_rows_end_though_unlinked_files_give_no_room_back() {
    let env = SimEnv::new(6);
    let weir = Fixture::on(&env, four_fifths).await;
    let t = weir.topic(1).await;
    let next = fill_log(&weir, &t, 0).await;
    fill_log(&weir, &t, next).await;
    let before = log_segments(&env);
    assert!(before > 3, "{before}");
    env.keep_room_of_removed();
    // One byte too much: one segment is more than enough.
    env.set_capacity(Some((env.used() - 1) * 100 / 80));
    pass_minutes(&weir, 1).await;
    let gone = before - log_segments(&env);
    assert_eq!(gone, 1, "of {before} segments in a minute");
}

#[tokio::test]
async fn rows_end_though_a_block_is_damaged() {
    let env = SimEnv::new(7);
    let mut weir = Fixture::on(&env, four_fifths).await;
    let t = weir.topic(1).await;
    for first in (0..10_000).step_by(500) {
        let body = |number| Message { body: vec![0; 1000].into(), ..numbered(number) };
        weir.broker.publish(&t, (first..first + 500).map(body).collect()).await.unwrap();
    }
    weir.broker.close().await.unwrap();
    let is_queue = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "queue");
    let damaged = env.paths().iter().find(is_queue).cloned().unwrap();
    // The header of the first block.
    env.damage(&damaged, |bytes| bytes[64 + 8] ^= 1);
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    let before = log_segments(&env);
    env.set_capacity(Some((env.used() - 1) * 100 / 80));
    pass_minutes(&weir, 2).await;
    let first = weir.broker.topic(&t).unwrap().queues[0].first;
    assert_eq!(first, QueueOffset(8192), "nobody can read the rows of the damaged block");
    assert!(log_segments(&env) < before);
}

#[tokio::test]
async fn signatures_hold_across_starts_and_for_one_purpose() {
    let mut weir = Fixture::new().await;
    let signed = weir.broker.sign("ticket", b"abc");
    weir.restart().await;
    assert_eq!(weir.broker.verify("ticket", &signed), Some(b"abc".as_slice()));
    assert_eq!(weir.broker.verify("other", &signed), None);
}

#[tokio::test]
async fn a_selector_is_in_the_dialect_of_its_group_or_topic_or_broker() {
    let mut weir = Fixture::with(|options| options.selector_dialect = Dialect::Jms).await;
    weir.topic(1).await;
    let dialect = |weir: &Fixture, name: Option<&str>| {
        weir.broker.selector_dialect(&topic("t"), name.map(group).as_ref())
    };
    assert_eq!(dialect(&weir, None), Dialect::Jms);
    let change = TopicChange { dialect: Some(Dialect::Sql92), ..TopicChange::default() };
    weir.broker.alter_topic(&topic("t"), change).await.unwrap();
    let spec = GroupSpec { dialect: Some(Dialect::RocketMq), ..GroupSpec::default() };
    weir.broker.create_group(&group("g"), spec).await.unwrap();
    weir.restart().await;
    assert_eq!(dialect(&weir, None), Dialect::Sql92);
    assert_eq!(dialect(&weir, Some("other")), Dialect::Sql92);
    assert_eq!(dialect(&weir, Some("g")), Dialect::RocketMq);
    let change = GroupChange { dialect: Some(Dialect::Jms), ..GroupChange::default() };
    assert_eq!(weir.broker.alter_group(&group("g"), change).await.unwrap().spec.dialect, Some(Dialect::Jms));
}

/// A selector keeps its dialect across a restart, and a row on which it fails stops nobody.
#[tokio::test]
async fn a_group_receives_by_a_selector_of_an_exact_dialect() {
    let mut weir = Fixture::new().await;
    let t = weir.topic(1).await;
    let texts = ["7", "boom", "", "8"];
    let messages = texts.map(|text| Message {
        properties: vec![("p".to_owned(), Value::Text(text.to_owned()))],
        body: text.into(),
        ..Message::default()
    });
    weir.broker.publish(&t, messages.into()).await.unwrap();
    let bodies = async |weir: &Fixture, text: &str| {
        let selector = weir.broker.parse_selector_in(text, Dialect::RocketMq).unwrap();
        let request = ReceiveRequest { selector, ..weir.request("TRUE") };
        let delivered = weir.broker.receive(request).await.unwrap();
        weir.ack(&delivered).await.into_iter().collect::<Result<Vec<()>, _>>().unwrap();
        let bodies = delivered.iter().map(|delivered| delivered.message.message.body.clone());
        bodies.map(|body| String::from_utf8(body.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&weir, "'x' <> p AND p > 7 OR p IS NULL").await, ["", "8"]);
    weir.restart().await;
    weir.broker.publish(&t, vec![Message { body: "new".into(), ..Message::default() }]).await.unwrap();
    assert_eq!(bodies(&weir, "'x' <> p AND p > 7 OR p IS NULL").await, ["new"]);
    let group = weir.broker.group(&group("g")).unwrap();
    assert_eq!(group.topics[0].selectors.len(), 1);
}
