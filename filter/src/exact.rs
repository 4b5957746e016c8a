//! The exact dialects: `rocketmq` answers as RocketMQ's own evaluator does, `jms` as ActiveMQ Classic.
//!
//! ```text
//! text ─ lexer ─ parser ─► tree ─┬─ compile ─► PhysicalExpr a shape ─► Verdicts
//!                                ├─ evaluate: one row
//!                                └─ prune ───► a condition of sql92 that misses nothing
//! ```
//!
//! They have a tree of their own, because an evaluation can fail in them, and whether it does depends on
//! the order of what is written. Limits, errors, patterns and columns are those of `sql92`.

mod compile;
mod datum;
mod evaluate;
mod expressions;
mod functions;
mod lexer;
mod numbers;
mod parser;
mod prune;
mod regex;
mod tree;

pub(crate) use compile::Bounds;
#[cfg(feature = "oracle")]
pub(crate) use datum::Datum;
#[cfg(feature = "oracle")]
pub(crate) use evaluate::stored;
pub(crate) use parser::parse;
pub(crate) use prune::approximation;
pub(crate) use tree::Tree;
