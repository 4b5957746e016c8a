//! The end of a transaction: its half message becomes visible, or never does.

use std::sync::Arc;

use super::{
    claim::Claim,
    handle::{PendingHandle, Purpose},
    release::release_row,
    rows::{Found, read},
};
use crate::{
    broker::{Broker, Core},
    error::{EngineError, HandleFault},
    name::TopicName,
};

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its message becomes visible.
    Commit,
    /// Its message never becomes visible.
    Rollback,
    /// It does not end yet.
    Unknown,
}

impl Broker {
    /// Ends a transaction. Of one that has ended before nothing changes, whatever is said of it now; nor does anything
    /// change by [`Resolution::Unknown`]. Once this returns, the end is durable.
    ///
    /// # Errors
    ///
    /// If the id is not that of a transaction of this topic, or the end cannot be stored; and if there is no message to
    /// commit, since it was given up or is lost ([`MessageNotFound`](EngineError::MessageNotFound)).
    pub async fn end_transaction(
        &self,
        topic: &TopicName,
        transaction_id: &str,
        resolution: Resolution,
    ) -> Result<(), EngineError> {
        self.core.check_open()?;
        let known = self.core.existing_topic(topic)?;
        let PendingHandle { topic: id, row } =
            PendingHandle::decode(transaction_id, Purpose::Transaction, &self.core.signer)?;
        if id != known.id {
            return Err(HandleFault::Foreign.into());
        }
        if resolution == Resolution::Unknown {
            return Ok(());
        }
        let core = Arc::clone(&self.core);
        let nothing_to_commit = EngineError::MessageNotFound {
            topic: topic.clone(),
            message: "of this transaction: it was given up or lost, and is not visible".to_owned(),
        };
        Core::to_the_end(async move {
            let claim = Claim::wait(&core, row).await;
            if core.is_done(&row) {
                core.done_durably().await?;
                let is_false = resolution == Resolution::Commit && core.was_dropped(&row);
                return if is_false { Err(nothing_to_commit) } else { Ok(()) };
            }
            if resolution == Resolution::Rollback {
                return core.discard(vec![claim.row()]).await;
            }
            let reader = Arc::clone(&core);
            match core.reads.run(move || read(&reader, &row)).await?? {
                Found::Message(stored) => {
                    let is_visible = release_row(&core, &claim, *stored).await?;
                    if is_visible { Ok(()) } else { Err(nothing_to_commit) }
                }
                Found::Lost => {
                    core.drop_rows(vec![claim.row()]).await?;
                    Err(nothing_to_commit)
                }
                Found::Damaged(error) => Err(error.into()),
                Found::NoRow => Err(HandleFault::Forged.into()),
            }
        })
        .await
    }
}
