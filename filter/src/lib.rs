//! The selector language: SQL92 text becomes a predicate over columns.
//!
//! ```text
//! text ─ lexer ─ parser ─► Selector ─ types ─► typed tree ─┬─ compile ─► PhysicalExpr a shape ─► Verdicts
//!                                                          ├─ prune ───► blocks that may match
//!                                                          └─ oracle ──► the same, row by row (tests)
//! ```
//!
//! No files, no async, no topics.

// The public interface that the other crates build on:
//
// pub enum Dialect { Sql92 /* default */, RocketMq, Jms }   (only Sql92 is accepted so far; Display/FromStr `sql92`, `rocketmq`, `jms`)
// pub struct Limits { text_bytes_max: usize = 8192, tokens_max = 512, depth_max = 32, list_max = 256, pattern_bytes_max = 1024 }  Default
//
// pub struct Selector (cheap to clone behind Arc; Display gives back the text; Eq/Hash by (text, dialect))
//   Selector::parse(text: &str, dialect: Dialect, limits: &Limits) -> Result<Selector, SelectorError>
//   Selector::parse_tags(expression: &str, limits: &Limits) -> Result<Selector, SelectorError>    RocketMQ TAG: `*`/empty = all, `a || b`
//   Selector::all() -> Selector                                                       matches every row
//   text(), dialect(), matches_all() -> bool, columns() -> impl Iterator<Item = ColumnRef<'_>> (distinct)
//
// pub struct SelectorError { .. }  position() -> usize (byte), line/column, message(); Display is one line;
//   report(&self, text) -> String: message, the line, a caret under the place
//
// pub struct Predicate  (Send + Sync; keeps bound expressions by shape, bounded)
//   Predicate::new(selector: &Selector) -> Predicate
//   evaluate<R: Rows>(&self, rows: &R, only: Option<&BooleanBuffer>) -> Result<Verdicts, EvaluateError<R::Error>>
//   may_match(&self, statistics: &dyn Statistics) -> BooleanBuffer       one bit a block
// pub struct Verdicts { pub matches: BooleanBuffer, pub unknown: BooleanBuffer, pub failed: Option<BooleanBuffer> }
// pub enum EvaluateError<E> { Rows(E), .. }
//
// pub mod oracle (feature "oracle"): evaluate(selector: &Selector, rows: &impl Rows, row: usize) -> Result<Truth, _>
