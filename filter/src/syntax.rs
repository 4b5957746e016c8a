//! The syntax tree: what was written, before types are looked at.
//!
//! AND, OR and arithmetic keep all their operands in one list, so that a long text makes a wide tree
//! and not a deep one. The parser bounds the depth, so recursion over the tree (dropping it included)
//! is bounded too.

use weir_columns::System;

use crate::{functions::Function, json::JsonPath, types::Truth};

/// A piece of a selector and the byte at which it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) at: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ExprKind {
    Literal(Literal),
    Property(String),
    System(System),
    /// JSON_VALUE: a scalar out of the body.
    JsonValue(JsonPath),
    /// NOW(): the moment of the scan.
    Now,
    Call {
        function: Function,
        arguments: Vec<Expr>,
    },
    /// `-x` or `+x` of something that is no number literal.
    Sign {
        negative: bool,
        operand: Box<Expr>,
    },
    /// Operators of one precedence, from left to right.
    Arithmetic {
        first: Box<Expr>,
        rest: Vec<(Arithmetic, Expr)>,
    },
    Compare {
        left: Box<Expr>,
        comparison: Comparison,
        right: Box<Expr>,
    },
    Between {
        operand: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    In {
        operand: Box<Expr>,
        list: Vec<Literal>,
        negated: bool,
    },
    Like {
        operand: Box<Expr>,
        pattern: String,
        escape: Option<char>,
        negated: bool,
    },
    Search {
        operand: Box<Expr>,
        search: Search,
        text: String,
        negated: bool,
    },
    /// The pattern starts at byte `pattern.1`.
    Regexp {
        operand: Box<Expr>,
        pattern: (String, usize),
        negated: bool,
    },
    IsNull {
        operand: Box<Expr>,
        negated: bool,
    },
    Not(Box<Expr>),
    /// At least two terms.
    Junction {
        connective: Connective,
        terms: Vec<Expr>,
    },
}

impl Expr {
    /// Returns whether this is true, false or unknown by its form: anything but a value.
    pub(crate) fn is_condition(&self) -> bool {
        match self.kind {
            ExprKind::Literal(_)
            | ExprKind::Property(_)
            | ExprKind::System(_)
            | ExprKind::JsonValue(_)
            | ExprKind::Now
            | ExprKind::Call { .. }
            | ExprKind::Sign { .. }
            | ExprKind::Arithmetic { .. } => false,
            ExprKind::Compare { .. }
            | ExprKind::Between { .. }
            | ExprKind::In { .. }
            | ExprKind::Like { .. }
            | ExprKind::Search { .. }
            | ExprKind::Regexp { .. }
            | ExprKind::IsNull { .. }
            | ExprKind::Not(_)
            | ExprKind::Junction { .. } => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Text(String),
    Integer(i64),
    Decimal(f64),
    Boolean(bool),
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    /// The comparison that holds for `b, a` exactly when this one holds for `a, b`.
    pub(crate) const fn flipped(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::NotEqual => Self::NotEqual,
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
        }
    }

    /// Whether it asks for an order, and not only for equality.
    pub(crate) const fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Connective {
    And,
    Or,
}

impl Connective {
    /// AND for OR, and OR for AND.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::And => Self::Or,
            Self::Or => Self::And,
        }
    }

    /// FALSE < UNKNOWN < TRUE: AND is the smaller, OR the larger.
    pub(crate) fn combine(self, a: Truth, b: Truth) -> Truth {
        match self {
            Self::And => a.min(b),
            Self::Or => a.max(b),
        }
    }
}
