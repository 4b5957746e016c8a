//! Who is about to end a pending row. Nobody else may do so meanwhile: a row must not be released twice, nor be released
//! and recalled.

use std::sync::Arc;

use weir_storage::PendingRow;

use crate::broker::Core;

/// The right to end a row, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    core: Arc<Core>,
    row: PendingRow,
}

impl Claim {
    /// Returns the claim on a row, or `None` if somebody else has it.
    ///
    /// Whether the row is done is to be asked afterwards: whoever had the claim before may have ended it.
    pub(super) fn on(core: &Arc<Core>, row: PendingRow) -> Option<Self> {
        let is_free = core.pending.claims.lock().insert(row);
        is_free.then(|| Self { core: Arc::clone(core), row })
    }

    /// As [`on`](Self::on), once nobody else has it.
    pub(super) async fn wait(core: &Arc<Core>, row: PendingRow) -> Self {
        loop {
            let freed = core.pending.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that a claim which is dropped right after it is noticed.
            freed.as_mut().enable();
            if let Some(claim) = Self::on(core, row) {
                return claim;
            }
            freed.await;
        }
    }

    pub(super) const fn row(&self) -> PendingRow {
        self.row
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.core.pending.claims.lock().remove(&self.row);
        self.core.pending.freed.notify_waiters();
    }
}
