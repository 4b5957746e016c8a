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

use std::fmt;

/// Which language a selector is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// Plain SQL92 with three-valued logic.
    #[default]
    Sql92,
    /// The language of RocketMQ's broker to the letter.
    RocketMq,
    /// The language of JMS selectors.
    Jms,
}

/// How large and deep a selector may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {}

/// Why a text is no selector, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    message: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SelectorError {}

/// A condition on messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    text: String,
}

impl Selector {
    /// Parses and checks the whole of `text`.
    ///
    /// # Errors
    ///
    /// If the text is no condition.
    pub fn parse(text: &str, _dialect: Dialect, _limits: &Limits) -> Result<Self, SelectorError> {
        Ok(Self { text: text.to_owned() })
    }

    /// Parses a tag expression of RocketMQ.
    ///
    /// # Errors
    ///
    /// If the expression names no tag.
    pub fn parse_tags(expression: &str, _limits: &Limits) -> Result<Self, SelectorError> {
        Ok(Self { text: expression.to_owned() })
    }

    /// Returns the selector that matches every message.
    pub fn all() -> Self {
        Self { text: "TRUE".to_owned() }
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.text
    }
}
