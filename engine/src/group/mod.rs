//! Consumer groups: what each has been given, and what it is given next.
//!
//! ```text
//! receive ─► redeliveries that are due ─► scan from the cursor ─► lease ─► journal ─► handle
//!                                          └ rows that the index of the queue has found already
//! acknowledge, change, forward ─► handle ─► open row ─► journal ─► answer
//! ```
//!
//! The rules by which rows go to selectors stand in `selectors.rs`; what is remembered of a queue in `state.rs`; how
//! new rows are judged once for all groups in `live.rs`; how many wait in `count.rs`; which rows wait in line in FIFO groups in `order.rs`;
//! where groups stand in lite topics in `lite`.

mod again;
mod batch;
mod count;
#[cfg(test)]
mod ended;
#[expect(clippy::module_inception, reason = "the noun of the module is its main type")]
mod group;
mod lite;
mod live;
mod order;
mod receive;
mod replay;
mod search;
mod selectors;
mod settle;
mod spec;
mod state;
mod subscription;
mod waiters;

pub(crate) use count::Counted;
pub use count::{CountProgress, GroupWaiting, QueueWaiting, TopicWaiting};
pub(crate) use group::Group;
pub(crate) use lite::check_lite_topic;
pub use lite::{LiteAction, LiteFrom, LiteSync, LiteUnsubscribed};
pub(crate) use live::{Evaluator, Judged, LiveQueue};
pub use receive::{Delivered, LeaseTime, ReceiveRequest};
pub(crate) use replay::Replay;
pub(crate) use selectors::kind_name;
pub use spec::{
    GroupChange, GroupDescription, GroupLite, GroupQueue, GroupSelector, GroupSpec, GroupStart, GroupTopic,
    LiteSpec, ResetTo, RetryPolicy, SelectorQueue,
};
pub(crate) use state::Phase;
pub(crate) use subscription::Subscription;
