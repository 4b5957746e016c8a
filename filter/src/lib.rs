//! The selector language: SQL92 text becomes a predicate over columns.
//!
//! ```text
//! text ─ lexer ─ parser ─► syntax ─ types ─► tree ─┬─ compile ─► PhysicalExpr a shape ─► Verdicts
//!                                                  ├─ prune ───► blocks that may match
//!                                                  └─ index ───► matches of many selectors at once
//!                             └─ oracle ──► the same answers, row by row (tests)
//! ```
//!
//! No files, no async, no topics. The language is described in `docs/sql.md`.

mod compile;
mod dialect;
mod error;
mod expressions;
mod index;
mod lexer;
mod limits;
mod made;
mod near;
#[cfg(feature = "oracle")]
pub mod oracle;
mod parser;
mod pattern;
mod planes;
mod predicate;
mod prune;
mod range;
mod selector;
mod syntax;
mod tree;
mod types;
mod values;

pub use dialect::{Dialect, UnknownDialect};
pub use error::{EvaluateError, SelectorError};
#[cfg(feature = "oracle")]
pub use index::Work;
pub use index::{Index, Matches};
pub use limits::Limits;
pub use near::{did_you_mean, near};
pub use predicate::{Predicate, Verdicts};
pub use selector::Selector;
pub use types::{Number, Truth, number_of};
