//! SyncLiteSubscription: which lite topics a client subscribes to; and which clients a group is for.

use weir_engine::{
    EngineError, GroupName, GroupSpec, LiteAction, LiteFrom, LiteSync, LiteUnsubscribed, TopicName,
};

use super::{
    Messaging,
    caller::Caller,
    convert::{group_name, topic_name},
    proto::{
        ClientType, Code, LiteSubscriptionAction, NotifyUnsubscribeLiteCommand, OffsetOption,
        SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse, TelemetryCommand,
        offset_option::{OffsetType, Policy},
        telemetry_command::Command,
    },
    refusal::Refusal,
};

/// Changes the set of a client, and tells those from which it takes lite topics.
pub(super) async fn sync_lite_subscription(
    messaging: &Messaging,
    caller: &Caller,
    request: SyncLiteSubscriptionRequest,
) -> Result<SyncLiteSubscriptionResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let group = group_name(request.group.as_ref(), caller)?;
    let unknown = || Refusal::new(Code::IllegalConsumerGroup, format!("group {group} does not exist"));
    let spec = messaging.broker.group_spec(&group).ok_or_else(unknown)?;
    messaging.sessions.enter(caller)?;
    check_kind(&group, &spec, messaging.sessions.client_type(&caller.client))?;
    let action = match LiteSubscriptionAction::try_from(request.action) {
        Ok(LiteSubscriptionAction::PartialAdd) => LiteAction::Add,
        Ok(LiteSubscriptionAction::PartialRemove) => LiteAction::Remove,
        Ok(LiteSubscriptionAction::CompleteAdd) => LiteAction::Replace,
        Ok(LiteSubscriptionAction::CompleteRemove) => LiteAction::Leave,
        Err(_) => {
            let text = format!("there is no action {} on lite subscriptions", request.action);
            return Err(Refusal::new(Code::BadRequest, text));
        }
    };
    let from = request.offset_option.and_then(from);
    let client = caller.client.clone();
    let mut names = request.lite_topic_set;
    if matches!(action, LiteAction::Add | LiteAction::Remove) && caller.sends_letters_of_lite_topics() {
        names = joined(names);
    }
    let sync = LiteSync { group, topic, client, action, names, from };
    for unsubscribed in messaging.broker.sync_lite(sync).await? {
        let LiteUnsubscribed { client, lite_topic } = unsubscribed;
        let command = Command::NotifyUnsubscribeLiteCommand(NotifyUnsubscribeLiteCommand { lite_topic });
        // Who does not hear it is told again when it names the lite topic next.
        messaging.sessions.tell(&client, TelemetryCommand { status: None, command: Some(command) });
    }
    Ok(SyncLiteSubscriptionResponse { status: Some(caller.status(Code::Ok, "")) })
}

/// Makes one name of several that are all of one character: clients that send the letters of a name send one name in a
/// call.
fn joined(names: Vec<String>) -> Vec<String> {
    let is_letter = |name: &String| name.chars().nth(1).is_none() && !name.is_empty();
    if names.len() > 1 && names.iter().all(is_letter) { vec![names.concat()] } else { names }
}

/// Reads where to begin. What is negative stands for the smallest that is not.
fn from(option: OffsetOption) -> Option<LiteFrom> {
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    Some(match option.offset_type? {
        OffsetType::Policy(policy) => match Policy::try_from(policy).ok()? {
            Policy::Last => LiteFrom::Last,
            Policy::Min => LiteFrom::Min,
            Policy::Max => LiteFrom::Max,
        },
        OffsetType::Offset(offset) => LiteFrom::Offset(positive(offset)),
        OffsetType::TailN(count) => LiteFrom::Tail(positive(count)),
        OffsetType::Timestamp(time_ms) => LiteFrom::Time(time_ms),
    })
}

/// Refuses clients for lite topics in other groups, and others in groups that read lite topics.
pub(super) fn check_kind(
    group: &GroupName,
    spec: &GroupSpec,
    client_type: ClientType,
) -> Result<(), Refusal> {
    let is_lite = match client_type {
        ClientType::LitePushConsumer | ClientType::LiteSimpleConsumer => true,
        ClientType::PushConsumer | ClientType::SimpleConsumer | ClientType::PullConsumer => false,
        ClientType::Unspecified | ClientType::Producer => return Ok(()),
    };
    if is_lite == spec.lite.is_some() {
        return Ok(());
    }
    Err(EngineError::LiteGroup { group: group.clone(), is_lite: spec.lite.is_some() }.into())
}

/// Refuses another topic than the parent of the lite topics that a group reads, if it reads such.
pub(super) fn check_parent(group: &GroupName, spec: &GroupSpec, topic: &TopicName) -> Result<(), Refusal> {
    match &spec.lite {
        Some(lite) if lite.topic != *topic => {
            Err(EngineError::LiteParent { group: group.clone(), parent: lite.topic.clone() }.into())
        }
        _ => Ok(()),
    }
}
