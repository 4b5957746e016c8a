//! Delayed messages, their recall, and transactions, as clients see them on the wire.

use tokio_stream::wrappers::ReceiverStream;
use weir_server::rocketmq::proto::{
    ClientType, EndTransactionRequest, EndTransactionResponse, MessageType, Publishing, RecallMessageRequest,
    RecallMessageResponse, RecoverOrphanedTransactionCommand, SendResultEntry, Settings, TelemetryCommand,
    TransactionResolution, TransactionSource, settings::PubSub, telemetry_command::Command,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The time that it will be in so many seconds.
fn after(weir: &Weir, seconds: i64) -> prost_types::Timestamp {
    let ms = weir.broker.clock().wall_ms();
    let nanos = i32::try_from(ms % 1000).unwrap() * 1_000_000;
    prost_types::Timestamp { seconds: ms / 1000 + seconds, nanos }
}

fn millis(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1000 + i64::from(time.nanos / 1_000_000)
}

pub(super) fn delayed(text: &str, due: prost_types::Timestamp) -> Message {
    changed(text, |system| system.delivery_timestamp = Some(due))
}

pub(super) fn half(text: &str) -> Message {
    changed(text, |system| system.message_type = MessageType::Transaction.into())
}

fn changed(text: &str, change: impl FnOnce(&mut SystemProperties)) -> Message {
    let mut message = message(text);
    change(message.system_properties.as_mut().unwrap());
    message
}

impl Client {
    pub(super) async fn send_one(&self, message: Message) -> SendResultEntry {
        let mut sent = self.send(vec![message]).await;
        assert_eq!(code(&sent.status), Code::Ok, "{sent:?}");
        assert_eq!(code(&sent.entries[0].status), Code::Ok);
        sent.entries.remove(0)
    }

    pub(super) async fn end(
        &self,
        topic: &str,
        id: &str,
        how: TransactionResolution,
    ) -> EndTransactionResponse {
        let request = EndTransactionRequest {
            topic: resource(topic),
            message_id: "m".to_owned(),
            transaction_id: id.to_owned(),
            resolution: how.into(),
            source: TransactionSource::SourceClient.into(),
            trace_context: String::new(),
        };
        self.calls.clone().end_transaction(self.request(request)).await.unwrap().into_inner()
    }

    pub(super) async fn recall(&self, topic: &str, handle: &str) -> RecallMessageResponse {
        let request = RecallMessageRequest { topic: resource(topic), recall_handle: handle.to_owned() };
        self.calls.clone().recall_message(self.request(request)).await.unwrap().into_inner()
    }

    /// Opens a telemetry stream as a producer of some topics, and reads the settings that answer it.
    pub(super) async fn produce(
        &self,
        topics: &[&str],
    ) -> (tokio::sync::mpsc::Sender<TelemetryCommand>, tonic::Streaming<TelemetryCommand>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let publishing = Publishing {
            topics: topics.iter().filter_map(|topic| resource(topic)).collect(),
            ..Publishing::default()
        };
        let settings = Settings {
            client_type: Some(ClientType::Producer.into()),
            pub_sub: Some(PubSub::Publishing(publishing)),
            ..Settings::default()
        };
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        sender.send(command).await.unwrap();
        let stream = ReceiverStream::new(receiver);
        let mut commands = self.calls.clone().telemetry(self.request(stream)).await.unwrap().into_inner();
        let answer = commands.next().await.unwrap().unwrap();
        assert!(matches!(answer.command, Some(Command::Settings(_))));
        (sender, commands)
    }
}

#[tokio::test]
async fn a_delayed_message_arrives_later_as_it_was_sent() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    client.send_all(&["seen"]).await;
    assert_eq!(client.receive_all(1).await.len(), 1);
    let due = after(&weir, 2);
    let sent = client.send_one(delayed("later", due)).await;
    assert!(!sent.recall_handle.is_empty() && sent.transaction_id.is_empty());
    assert_eq!(sent.message_id, "later");
    let mut received = Vec::new();
    while received.is_empty() {
        received = client.receive(receive(|_| {})).await.messages();
    }
    assert!(weir.broker.clock().wall_ms() >= millis(&due), "not before it is due");
    assert_eq!(bodies(&received), ["later"]);
    let system = system(&received[0]);
    assert_eq!(system.message_type(), MessageType::Delay);
    assert_eq!(system.delivery_timestamp.as_ref().map(millis), Some(millis(&due)));
    assert_eq!(
        (system.message_id.as_str(), received[0].user_properties["name"].as_str()),
        ("later", "later")
    );
    // What is due already is there at once, with an offset, and nothing to recall.
    let past = client.send_one(delayed("past", after(&weir, 0))).await;
    assert!(past.recall_handle.is_empty());
}

#[tokio::test]
async fn a_delayed_message_is_recalled_before_it_is_due_across_a_restart() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    weir.broker.create_topic(&"other".parse().unwrap(), TopicSpec::default()).await.unwrap();
    let client = weir.client().await;
    let far = client.send_one(delayed("far", after(&weir, 3 * 86_400))).await.recall_handle;
    let soon = client.send_one(delayed("soon", after(&weir, 1))).await.recall_handle;
    for (topic, handle, expected) in [
        ("nothing", far.as_str(), Code::TopicNotFound),
        ("a topic", &far, Code::IllegalTopic),
        ("other", &far, Code::BadRequest),
        (TOPIC, "", Code::BadRequest),
        (TOPIC, " ", Code::BadRequest),
        (TOPIC, &far[1..], Code::BadRequest),
    ] {
        let refused = client.recall(topic, handle).await;
        assert_eq!(code(&refused.status), expected, "{topic} {handle:?}");
        assert!(refused.message_id.is_empty());
    }
    weir.stop().await;
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let recalled = client.recall(TOPIC, &far).await;
    assert_eq!((code(&recalled.status), recalled.message_id.as_str()), (Code::Ok, "far"));
    assert_eq!(code(&client.recall(TOPIC, &far).await.status), Code::NotFound);
    tokio::time::sleep(SECOND).await;
    assert_eq!(code(&client.recall(TOPIC, &soon).await.status), Code::NotFound, "it is due");
}

#[tokio::test]
async fn transactions_end_once_and_only_by_their_id() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    weir.broker.create_topic(&"other".parse().unwrap(), TopicSpec::default()).await.unwrap();
    let client = weir.client().await;
    client.send_all(&["seen"]).await;
    assert_eq!(client.receive_all(1).await.len(), 1);
    use TransactionResolution::{Commit, Rollback, Unspecified};
    let sent = client.send_one(half("kept")).await;
    assert!(sent.recall_handle.is_empty());
    let kept = sent.transaction_id;
    let dropped = client.send_one(half("dropped")).await.transaction_id;
    for (topic, id, expected) in [
        (TOPIC, "", Code::InvalidTransactionId),
        (TOPIC, "  ", Code::InvalidTransactionId),
        (TOPIC, "never", Code::InvalidTransactionId),
        ("other", &kept, Code::InvalidTransactionId),
        ("a topic", &kept, Code::IllegalTopic),
        ("nothing", &kept, Code::TopicNotFound),
    ] {
        assert_eq!(code(&client.end(topic, id, Commit).await.status), expected, "{topic} {id:?}");
    }
    for (id, how) in
        [(&dropped, Rollback), (&dropped, Commit), (&kept, Unspecified), (&kept, Commit), (&kept, Rollback)]
    {
        assert_eq!(code(&client.end(TOPIC, id, how).await.status), Code::Ok);
    }
    let received = client.receive_all(2).await;
    assert_eq!(bodies(&received), ["kept"]);
    assert_eq!(system(&received[0]).message_type(), MessageType::Transaction);
    // Neither does a transaction go together with what clients forbid.
    let mut wrong = half("wrong");
    wrong.system_properties.as_mut().unwrap().delivery_timestamp = Some(after(&weir, 5));
    let refused = client.send(vec![wrong]).await;
    assert_eq!(code(&refused.status), Code::MessagePropertyConflictWithType);
}

#[tokio::test]
async fn producers_of_the_topic_are_asked_about_a_transaction() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let other = weir.client_named("other@1", "JAVA", "5.0.8").await;
    let asked = weir.client_named("asked@1", "GOLANG", "5.1.4").await;
    let (_other, mut of_other) = other.produce(&["elsewhere"]).await;
    let (_asked, mut of_asked) = asked.produce(&[TOPIC]).await;
    let mut message = half("orphan");
    message.system_properties.as_mut().unwrap().orphaned_transaction_recovery_duration =
        Some(prost_types::Duration { seconds: 1, nanos: 0 });
    // Its own producer has no stream to be asked over.
    let id = client.send_one(message.clone()).await.transaction_id;
    let command = of_asked.next().await.unwrap().unwrap().command;
    let Some(Command::RecoverOrphanedTransactionCommand(RecoverOrphanedTransactionCommand {
        message: Some(orphan),
        transaction_id,
    })) = command
    else {
        panic!("{command:?}");
    };
    assert_eq!(transaction_id, id);
    assert_eq!((&orphan.topic, &orphan.body), (&resource(TOPIC), &message.body));
    assert_eq!(orphan.user_properties, message.user_properties);
    let system = system(&orphan);
    assert_eq!((system.message_id.as_str(), system.message_type()), ("orphan", MessageType::Transaction));
    assert!(system.body_digest.is_some() && system.receipt_handle.is_none());
    assert_eq!(system.orphaned_transaction_recovery_duration.map(|after| after.seconds), Some(1));
    let ended = asked.end(TOPIC, &transaction_id, TransactionResolution::Commit).await;
    assert_eq!(code(&ended.status), Code::Ok);
    assert_eq!(bodies(&client.receive_all(1).await), ["orphan"]);
    let silence = tokio::time::timeout(Duration::from_millis(100), of_other.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}
