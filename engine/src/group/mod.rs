//! Consumer groups: what each has been given, and what it is given next.
//!
//! ```text
//! receive ─► redeliveries that are due ─► scan from the cursor ─► lease ─► journal ─► handle
//! acknowledge, change, forward ─► handle ─► open row ─► journal ─► answer
//! ```

mod receive;
mod spec;

pub use receive::{Delivered, LeaseTime, ReceiveRequest};
pub use spec::{
    GroupChange, GroupDescription, GroupQueue, GroupSelector, GroupSpec, GroupStart, GroupTopic, ResetTo,
    RetryPolicy, SelectorQueue,
};
