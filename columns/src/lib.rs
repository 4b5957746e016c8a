//! How stored message properties look in memory: the seam between storage and filter.
//!
//! Arrow arrays in plain structs. Storage makes them from blocks, runs and decoded messages; filter
//! reads them. Neither of the two knows the other, and nothing here opens a file or knows SQL.

mod column;
mod hash;
mod kind;
mod rows;
mod statistics;
mod value;

pub use column::{Column, Values};
pub use hash::{hash32, hash64};
pub use kind::{Kind, KindSet, classify};
pub use rows::{ColumnRef, Presence, Rows, System};
pub use statistics::{Bloom, ColumnStatistics, Statistics};
pub use value::Value;
