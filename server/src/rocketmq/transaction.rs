//! EndTransaction, and the question to a producer that has not sent it.

use std::{sync::Arc, time::Duration};

use weir_engine::{AskProducer, EngineError, OrphanedTransaction, Readiness, Resolution, TopicName};

use super::{
    Messaging,
    caller::Caller,
    convert::{self, topic_name},
    proto::{
        Code, EndTransactionRequest, EndTransactionResponse, Message, RecoverOrphanedTransactionCommand,
        TelemetryCommand, TransactionResolution, telemetry_command::Command,
    },
    refusal::Refusal,
    session::Sessions,
};

/// Ends a transaction. One that has ended before stays as it is, and that is no error.
pub(super) async fn end_transaction(
    messaging: &Messaging,
    caller: &Caller,
    request: EndTransactionRequest,
) -> Result<EndTransactionResponse, Refusal> {
    caller.check()?;
    let topic = topic_name(request.topic.as_ref(), caller)?;
    let resolution = match request.resolution() {
        TransactionResolution::Commit => Resolution::Commit,
        TransactionResolution::Rollback => Resolution::Rollback,
        TransactionResolution::Unspecified => Resolution::Unknown,
    };
    let id = request.transaction_id.trim();
    let ended = messaging.broker.end_transaction(&topic, id, resolution).await;
    ended.map_err(|error| match error {
        EngineError::Handle(fault) => {
            Refusal::new(Code::InvalidTransactionId, format!("the transaction id {fault}"))
        }
        EngineError::MessageNotFound { .. } => Refusal::new(Code::NotFound, error.to_string()),
        error => error.into(),
    })?;
    Ok(EndTransactionResponse { status: Some(caller.status(Code::Ok, "")) })
}

/// Asks producers over their telemetry streams.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) sessions: Arc<Sessions>,
    pub(super) store_host: String,
}

impl AskProducer for Asker {
    fn readiness(&self, topic: &TopicName) -> Readiness {
        self.sessions.readiness(topic)
    }

    fn ask(&self, orphan: &OrphanedTransaction) -> bool {
        self.sessions.tell_producer(&orphan.topic, || {
            let command = RecoverOrphanedTransactionCommand {
                message: Some(message(orphan, &self.store_host)),
                transaction_id: orphan.transaction_id.clone(),
            };
            TelemetryCommand {
                status: None,
                command: Some(Command::RecoverOrphanedTransactionCommand(command)),
            }
        })
    }
}

/// Returns the message of a transaction as its producer is to see it.
fn message(orphan: &OrphanedTransaction, store_host: &str) -> Message {
    let recovery_ms = orphan.message.message.transaction_recovery_ms;
    let mut message = convert::stored(orphan.message.clone(), &orphan.topic, store_host, None);
    if let Some(system) = &mut message.system_properties {
        (system.queue_id, system.queue_offset) = (0, None);
        system.orphaned_transaction_recovery_duration = recovery_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .map(|ms| convert::duration(Duration::from_millis(ms)));
    }
    message
}
