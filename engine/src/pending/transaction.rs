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
    /// If the id is not that of a transaction of this topic, or the end cannot be stored.
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
        Core::to_the_end(async move {
            let claim = Claim::wait(&core, row).await;
            if core.is_done(&row) {
                return Ok(());
            }
            if resolution == Resolution::Rollback {
                return core.discard(vec![claim.row()]).await;
            }
            let reader = Arc::clone(&core);
            match core.reads.run(move || read(&reader, &row)).await?? {
                Found::Message(stored) => release_row(&core, &claim, *stored).await,
                Found::Lost => core.discard(vec![claim.row()]).await,
                Found::NoRow => Err(HandleFault::Forged.into()),
            }
        })
        .await
    }
}
