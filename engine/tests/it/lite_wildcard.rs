//! Groups of which every client reads all lite topics of their parent.

use weir_engine::{
    Broker, EngineError, GroupSpec, LiteAction, LiteFrom, LiteSpec, LiteSync, Message, MessageType,
    ReceiveRequest, ResetTo, TopicSpec, TopicType,
};

use crate::fixture::{Fixture, group, lease, numbers, topic};

async fn publish(weir: &Fixture, messages: &[(i64, &str)]) {
    for (n, name) in messages {
        let message = Message {
            message_type: MessageType::Lite,
            lite_topic: Some((*name).to_owned()),
            message_id: format!("m{n}"),
            body: n.to_string().into(),
            ..Message::default()
        };
        weir.broker.publish(&topic("t"), vec![message]).await.unwrap();
    }
}

fn spec(change: impl FnOnce(&mut LiteSpec)) -> GroupSpec {
    let mut lite = LiteSpec { wildcard: true, ..LiteSpec::of(topic("t")) };
    change(&mut lite);
    GroupSpec { lite: Some(lite), ..GroupSpec::default() }
}

fn request(weir: &Fixture, client: &str) -> ReceiveRequest {
    ReceiveRequest { client: client.to_owned(), lease: lease(30), ..weir.request("TRUE") }
}

async fn make(weir: &Fixture) {
    let parent = TopicSpec { queues: 2, topic_type: TopicType::Lite, ..TopicSpec::default() };
    weir.broker.create_topic(&topic("t"), parent).await.unwrap();
    weir.broker.create_group(&group("g"), spec(|_| {})).await.unwrap();
}

#[tokio::test]
async fn clients_get_all_lite_topics_each_in_order_whatever_they_subscribe_to() {
    let (mut weir, env) = Fixture::on_sim(1).await;
    make(&weir).await;
    publish(&weir, &[(0, "a"), (1, "b"), (2, "a"), (3, "c")]).await;
    let one = ReceiveRequest { max_messages: 1, one_by_one: true, ..request(&weir, "one") };
    let first = weir.broker.receive(one).await.unwrap();
    for (action, from) in [(LiteAction::Add, Some(LiteFrom::Max)), (LiteAction::Replace, None)] {
        let sync = LiteSync {
            group: group("g"),
            topic: topic("t"),
            client: "two".to_owned(),
            action,
            names: vec!["z".to_owned()],
            from,
        };
        assert!(weir.broker.sync_lite(sync).await.unwrap().is_empty());
    }
    let others = weir.broker.receive(request(&weir, "two")).await.unwrap();
    let held = first[0].message.message.lite_topic.clone();
    assert!(!others.is_empty() && others.iter().all(|other| other.message.message.lite_topic != held));
    weir.ack(&first).await.into_iter().for_each(Result::unwrap);
    weir.ack(&others).await.into_iter().for_each(Result::unwrap);
    let mut all = [numbers(&first), numbers(&others)].concat();
    env.kill();
    weir.broker = Broker::open(weir.starting()).await.unwrap();
    publish(&weir, &[(4, "new")]).await;
    loop {
        let more = weir.broker.receive(request(&weir, "three")).await.unwrap();
        if more.is_empty() {
            break;
        }
        all.extend(numbers(&more));
        weir.ack(&more).await.into_iter().for_each(Result::unwrap);
    }
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
    weir.broker.reset_group(&group("g"), &topic("t"), ResetTo::Earliest).await.unwrap();
    let again = weir.broker.receive(request(&weir, "one")).await.unwrap();
    assert!(!again.is_empty(), "it has a place in each queue, as other groups");
}

#[tokio::test]
async fn such_a_group_reads_its_parent_alone_and_nothing_of_it_is_exclusive() {
    let weir = Fixture::new().await;
    make(&weir).await;
    let refused = weir.broker.create_group(&group("h"), spec(|lite| lite.exclusive = true)).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))), "{refused:?}");
    weir.broker.create_topic(&topic("other"), TopicSpec::default()).await.unwrap();
    let refused = weir.broker.receive(ReceiveRequest { topic: topic("other"), ..request(&weir, "c") }).await;
    assert!(matches!(refused, Err(EngineError::LiteParent { .. })), "{refused:?}");
}
