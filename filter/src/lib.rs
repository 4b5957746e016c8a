//! The selector language: SQL92 text becomes a predicate over columns.
//!
//! ```text
//! text ─ lexer ─ parser ─► syntax ─ types ─► tree ─┬─ compile ─► PhysicalExpr a shape ─► Verdicts
//!                                                  ├─ prune ───► blocks that may match
//!                                                  └─ index ───► matches of many selectors at once
//!                             └─ oracle ──► the same answers, row by row (tests)
//! ```
//!
//! The dialects `rocketmq` and `jms` have a tree of their own, in `exact`.
//!
//! No files, no async, no topics. The language is described in `docs/sql.md`.

mod calls;
mod compile;
mod cost;
mod dialect;
mod differences;
mod error;
mod exact;
mod expressions;
mod functions;
mod index;
mod json;
mod lexer;
mod limits;
mod made;
mod near;
mod operand;
#[cfg(feature = "oracle")]
pub mod oracle;
mod parameters;
mod parser;
mod parts;
mod pattern;
mod planes;
mod predicate;
mod prune;
mod range;
mod regexp;
mod selector;
mod shapes;
mod syntax;
mod timestamp;
mod tree;
mod types;
mod values;

pub use dialect::{Dialect, UnknownDialect};
pub use differences::Difference;
pub use error::{EvaluateError, SelectorError};
pub use functions::function_names;
#[cfg(feature = "oracle")]
pub use index::Work;
pub use index::{Index, Matches};
pub use limits::Limits;
pub use near::{did_you_mean, near};
pub use parameters::{Parameters, read_value};
pub use parts::{Part, PartKind};
pub use predicate::{Predicate, Verdicts};
pub use selector::Selector;
pub use types::{Number, Truth, number_of};
