//! The selector: text that has been parsed and checked.

use std::{fmt, hash::Hash, sync::Arc};

use weir_columns::{ColumnRef, System};

use crate::{
    cost::Cost,
    dialect::Dialect,
    differences::{Difference, differences},
    error::SelectorError,
    exact,
    limits::Limits,
    parser,
    syntax::Expr,
    tree::{Condition, Tree},
    types::Truth,
};

/// A condition on messages: the `WHERE` clause of a subscription.
///
/// Cheap to clone. Two selectors are equal if text and dialect are. Displays as its text, which
/// [`parse`](Self::parse) turns into an equal selector.
///
/// ```
/// use weir_filter::{Dialect, Limits, Selector};
///
/// let selector = Selector::parse("region IN ('EU', 'US') AND price > 9.5", Dialect::Sql92, &Limits::default())?;
/// assert_eq!(selector.columns().map(|column| column.to_string()).collect::<Vec<_>>(), ["region", "price"]);
/// # Ok::<(), weir_filter::SelectorError>(())
/// ```
#[derive(Clone)]
pub struct Selector(Arc<Inner>);

struct Inner {
    text: String,
    dialect: Dialect,
    tree: Tree,
    has_now: bool,
    exact: Option<Arc<exact::Tree>>,
    cost: u64,
}

impl Selector {
    /// Parses and checks the whole of `text`.
    ///
    /// # Errors
    ///
    /// If the text is no condition, a type cannot fit, or a limit is passed. The error says where.
    /// `rocketmq` looks at no more than its own parser does; see [`dropped`](Self::dropped).
    pub fn parse(text: &str, dialect: Dialect, limits: &Limits) -> Result<Self, SelectorError> {
        let (tree, exact, cost) = if dialect == Dialect::Sql92 {
            let expr = parser::parse(text, limits)?;
            let cost = affordable(text, &expr, limits)?;
            (Tree::new(text, &expr)?, None, cost)
        } else {
            let tree = exact::parse(text, dialect, limits)?;
            (exact::approximation(&tree), Some(Arc::new(tree)), 0)
        };
        let has_now = tree.has_now();
        Ok(Self(Arc::new(Inner { text: text.to_owned(), dialect, tree, has_now, exact, cost })))
    }

    /// Parses a tag expression of RocketMQ: `*` or nothing for all messages, else tags joined by `||`.
    ///
    /// The result is the selector `sys.tag IN ('…', …)`, which is also its text.
    ///
    /// # Errors
    ///
    /// If the expression names no tag or passes a limit.
    pub fn parse_tags(expression: &str, limits: &Limits) -> Result<Self, SelectorError> {
        let error = |at, message: String| Err(SelectorError::new(expression, at, message));
        if expression.len() > limits.text_bytes_max {
            let message = format!("a tag expression may have {} bytes at most", limits.text_bytes_max);
            return error(limits.text_bytes_max, message);
        }
        if matches!(expression.trim(), "" | "*") {
            return Ok(Self::all());
        }
        let mut tags: Vec<&str> = Vec::new();
        for tag in expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
            if !tags.contains(&tag) {
                if tags.len() == limits.list_max {
                    let at = tag.as_ptr().addr() - expression.as_ptr().addr();
                    return error(at, format!("a tag expression may name {} tags at most", limits.list_max));
                }
                tags.push(tag);
            }
        }
        if tags.is_empty() {
            return error(0, "expected a tag, or * for all messages".to_owned());
        }
        let quoted: Vec<String> = tags.iter().map(|tag| format!("'{}'", tag.replace('\'', "''"))).collect();
        let text = format!("sys.{} IN ({})", System::Tag.name(), quoted.join(", "));
        // Quotes make the text longer than the expression, which has been measured.
        let limits = Limits { text_bytes_max: text.len(), tokens_max: 2 * tags.len() + 4, ..*limits };
        Self::parse(&text, Dialect::Sql92, &limits)
    }

    /// Returns the selector that matches every message.
    pub fn all() -> Self {
        let tree = Tree { condition: Condition::Constant(Truth::True), columns: Vec::new() };
        let (text, dialect) = ("TRUE".to_owned(), Dialect::default());
        Self(Arc::new(Inner { text, dialect, tree, has_now: false, exact: None, cost: 0 }))
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns the dialect that the text is written in.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// Returns whether every message matches, whatever it holds.
    pub fn matches_all(&self) -> bool {
        match &self.0.exact {
            None => self.tree().condition == Condition::Constant(Truth::True),
            Some(exact) => exact.is_true(),
        }
    }

    /// Returns the byte of the text from where on `rocketmq` ignores it, as RocketMQ does. `None` if all of
    /// the text counts, as always in the other dialects.
    ///
    /// ```
    /// use weir_filter::{Dialect, Limits, Selector};
    ///
    /// let text = "price = 5 OFF";
    /// let selector = Selector::parse(text, Dialect::RocketMq, &Limits::default())?;
    /// assert_eq!(selector.dropped(), text.find("OFF"));
    /// # Ok::<(), weir_filter::SelectorError>(())
    /// ```
    pub fn dropped(&self) -> Option<usize> {
        self.0.exact.as_ref()?.dropped
    }

    /// Returns what the selector costs a row at worst, about in nanoseconds on one core, for values of 100 bytes
    /// and bodies of 4 KiB. It depends on the text alone; see `docs/sql.md`. Of `sql92` only: the other dialects
    /// open no bodies and are bounded by their length, and 0 is returned.
    pub fn cost(&self) -> u64 {
        self.0.cost
    }

    /// Returns whether NOW decides, so that the answer for a row changes with time. Whoever keeps answers must
    /// ask, and judge with [`Predicate::at`](crate::Predicate::at).
    pub fn depends_on_now(&self) -> bool {
        self.0.has_now
    }

    /// Returns the columns that decide, each once, in the order of the text. Bodies are no column.
    pub fn columns(&self) -> impl Iterator<Item = ColumnRef<'_>> {
        self.tree().columns.iter().filter_map(|column| column.as_ref())
    }

    /// Returns whether bodies decide. They are read for rows that all else leaves open.
    pub fn reads_bodies(&self) -> bool {
        self.tree().columns.iter().any(|column| column.as_ref().is_none())
    }

    /// Returns where this selector of `sql92` means something else to RocketMQ, whose clients bring such
    /// texts, in the order of the text; each reason once. Empty in the other dialects.
    pub fn differences(&self) -> Vec<Difference> {
        if self.dialect() == Dialect::Sql92 { differences(self) } else { Vec::new() }
    }

    /// The condition; in an exact dialect one for statistics alone: where they rule it out, the selector does not
    /// match. Of a row it says nothing, because numbers in other scripts and the like are text to it.
    pub(crate) fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// The tree of an exact dialect.
    pub(crate) fn exact(&self) -> Option<&Arc<exact::Tree>> {
        self.0.exact.as_ref()
    }
}

/// What an expression costs, if that is allowed.
fn affordable(text: &str, expr: &Expr, limits: &Limits) -> Result<u64, SelectorError> {
    let Cost { total, highest, at } = Cost::of(expr);
    if total <= limits.cost_max {
        return Ok(total);
    }
    let message = format!(
        "this selector costs a row about {total} ns at worst, and {} are allowed; what begins here is the most \
         expensive part, with {highest} ns",
        limits.cost_max
    );
    Err(SelectorError::new(text, at, message))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({}: {:?})", self.dialect(), self.text())
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.text() == other.text() && self.dialect() == other.dialect())
    }
}

impl Eq for Selector {}

impl Hash for Selector {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text().hash(state);
        self.dialect().hash(state);
    }
}
