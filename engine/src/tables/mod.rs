//! What SQL sees: one catalog, a schema per namespace with a table per topic, and the broker itself.
//!
//! ```text
//! weir ─┬─ public            topics without a namespace: "orders", and "orders$raw" as a pull shows it
//!       ├─ <namespace>       the same, one schema a namespace
//!       └─ weir              topics, queues, groups, group_queues
//! ```
//!
//! Listing tables opens nothing. A topic's columns are looked up when it is named.

mod catalog;
mod groups;
mod messages;
mod queues;
mod system;
mod topics;

pub(crate) use catalog::{
    CATALOG, Catalog, PUBLIC, RAW_SUFFIX, SYSTEM, Table, Tables, TopicSnapshot, schema_of,
};
pub(crate) use messages::SelectorMarker;
pub(crate) use system::SystemTable;
