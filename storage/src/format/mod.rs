//! Bytes ↔ structs of everything that a data directory holds; no I/O. Layout: `docs/format.md`.

pub(crate) mod block;
pub(crate) mod catalogue;
pub(crate) mod checkpoint;
pub(crate) mod compacted;
pub(crate) mod cursor;
#[cfg(test)]
pub(crate) mod example;
pub(crate) mod frame;
#[cfg(test)]
mod fuzz;
pub(crate) mod journal;
pub(crate) mod record;
pub(crate) mod segment;
