//! Recall: a delayed message is taken back before it is due.

use std::sync::Arc;

use super::{
    claim::Claim,
    handle::{PendingHandle, Purpose},
    rows::{Found, read},
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, HandleFault},
    name::TopicName,
};

impl Broker {
    /// Takes a delayed message of a topic back, and returns the id that its producer gave it. Once this returns, the
    /// message is never delivered.
    ///
    /// # Errors
    ///
    /// If the handle is not one of that topic, or the message is due or was recalled before
    /// ([`MessageNotFound`](EngineError::MessageNotFound)).
    pub async fn recall(&self, topic: &TopicName, handle: &str) -> Result<String, EngineError> {
        self.core.check_open()?;
        let known = self.core.existing_topic(topic)?;
        let PendingHandle { topic: id, row } =
            PendingHandle::decode(handle, Purpose::Recall, &self.core.signer)?;
        if id != known.id {
            return Err(HandleFault::Foreign.into());
        }
        let core = Arc::clone(&self.core);
        let recalled = Core::to_the_end(async move {
            // Before the claim, so that nobody who recalls too late holds up what is due.
            if core.is_done(&row) {
                core.done_durably().await?;
                return Ok(None);
            }
            let reader = Arc::clone(&core);
            let stored = match core.reads.run(move || read(&reader, &row)).await?? {
                Found::Message(stored) => stored,
                Found::Lost | Found::NoRow => return Ok(None),
                Found::Damaged(error) => return Err(error.into()),
            };
            let due_ms = stored.message.delivery_time_ms.unwrap_or(i64::MIN);
            let is_due = || due_ms <= core.time.wall_ms();
            if is_due() {
                return Ok(None);
            }
            let claim = Claim::wait(&core, row).await;
            if core.is_done(&row) {
                core.done_durably().await?;
                return Ok(None);
            }
            if is_due() {
                return Ok(None);
            }
            core.discard(vec![claim.row()]).await?;
            Ok(Some(stored.message.message_id))
        });
        recalled.await?.ok_or_else(|| EngineError::MessageNotFound {
            topic: topic.clone(),
            message: "that waits under this handle: it is due, or was recalled before".to_owned(),
        })
    }
}
