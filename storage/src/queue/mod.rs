//! Consume queues: per topic and queue the rows of its messages, column by column, derived from the log.
//!
//! ```text
//! records ─► runs in memory ─► small blocks in shared files ─► full blocks in queue segments
//!            (one per call and queue,      (a checkpoint writes them)      (8,192 rows; 128 blocks a file)
//!             eight become one)
//! ```
//!
//! A builder makes columns of records: of a small run when somebody asks for one, or when it is merged.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod checkpoint;
pub(crate) mod image;
pub mod measure;
pub(crate) mod merge;
pub(crate) mod rows;
pub(crate) mod segment;
pub(crate) mod statistics;
pub(crate) mod store;
pub(crate) mod tail;
pub(crate) mod view;
pub(crate) mod young;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
