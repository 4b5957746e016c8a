//! The tree of an exact dialect: what was written, in the order in which the originals evaluate it.
//!
//! Unlike the tree of `sql92` nothing is moved: which operand comes first decides what is looked at, and
//! so whether an evaluation fails. Operators of one level lie in one list, so that a long text makes a
//! wide tree and not a deep one; parentheses bound the depth.

use std::sync::Arc;

use weir_columns::{ColumnRef, System};

use super::{
    datum::{Datum, Rules},
    functions::Call,
};
use crate::{
    pattern::Pattern,
    syntax::{Arithmetic, Comparison, Connective},
    tree::ColumnName as PlainName,
};

/// A checked selector of an exact dialect.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Arc<Node>,
    /// The columns that are looked at, each once.
    pub(crate) columns: Vec<Variable>,
    pub(crate) rules: Rules,
    /// The byte from where the text was dropped unread, in `rocketmq`.
    pub(crate) dropped: Option<usize>,
}

impl Tree {
    /// Whether every row matches, whatever it holds.
    pub(crate) fn is_true(&self) -> bool {
        matches!(*self.root, Node::Constant(Datum::Bool(true)))
    }
}

/// The name of a column, owned.
#[derive(Debug)]
pub(crate) enum ColumnName {
    Property(String),
    System(System),
}

impl ColumnName {
    pub(crate) fn as_ref(&self) -> ColumnRef<'_> {
        match self {
            Self::Property(name) => ColumnRef::Property(name),
            Self::System(system) => ColumnRef::System(*system),
        }
    }

    pub(super) fn to_plain(&self) -> PlainName {
        match self {
            Self::Property(name) => PlainName::Property(name.clone()),
            Self::System(system) => PlainName::System(*system),
        }
    }
}

/// A column by the name that the dialect gives it.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: ColumnName,
    /// What the original reads where the value is missing.
    pub(crate) default: Datum<'static>,
}

#[derive(Debug)]
pub(crate) enum Node {
    Constant(Datum<'static>),
    /// A column by its place in [`Tree::columns`].
    Column(usize),
    /// A column where a condition is expected.
    Condition(usize),
    /// Operators in front of an operand, the innermost first.
    Unary {
        operators: Vec<Unary>,
        operand: Arc<Node>,
    },
    /// A value and what is done with it, from left to right.
    Steps {
        first: Box<Node>,
        steps: Vec<Step>,
    },
    /// At least two terms.
    Junction {
        connective: Connective,
        terms: Vec<Arc<Node>>,
    },
    Call(Box<Call>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Not,
    Minus,
}

/// What is done with the value so far.
#[derive(Debug)]
pub(crate) enum Step {
    Compare(Comparison, Node),
    Compute(Arithmetic, Node),
    IsNull {
        negated: bool,
    },
    Between {
        low: Node,
        high: Node,
        negated: bool,
    },
    In {
        texts: Vec<String>,
        negated: bool,
    },
    Like {
        pattern: Box<Pattern>,
        negated: bool,
    },
    /// `None`: the text to find is empty, which nothing contains.
    Search {
        pattern: Option<Box<Pattern>>,
        negated: bool,
    },
}

/// What a node is by its form; the originals refuse some forms in some places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Null,
    Boolean,
    Text,
    Number,
    Property,
    Condition,
    Computed,
}

impl Form {
    pub(super) const fn is_constant(self) -> bool {
        matches!(self, Self::Null | Self::Boolean | Self::Text | Self::Number)
    }

    /// Whether the originals count it among boolean expressions; a property becomes one.
    pub(super) const fn is_condition(self) -> bool {
        matches!(self, Self::Null | Self::Boolean | Self::Condition)
    }

    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Boolean => "TRUE or FALSE",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Property => "a property",
            Self::Condition => "a condition",
            Self::Computed => "a computed value",
        }
    }
}

impl Node {
    pub(super) fn form(&self) -> Form {
        match self {
            Self::Constant(Datum::Null) => Form::Null,
            Self::Constant(Datum::Bool(_)) => Form::Boolean,
            Self::Constant(Datum::Text(_)) => Form::Text,
            Self::Constant(_) => Form::Number,
            Self::Column(_) => Form::Property,
            Self::Condition(_) | Self::Junction { .. } => Form::Condition,
            Self::Unary { operators, .. } => match operators.last() {
                Some(Unary::Not) => Form::Condition,
                _ => Form::Computed,
            },
            Self::Steps { steps, .. } => match steps.last() {
                Some(Step::Compute(..)) | None => Form::Computed,
                Some(_) => Form::Condition,
            },
            Self::Call(call) => {
                if call.is_condition() {
                    Form::Condition
                } else {
                    Form::Computed
                }
            }
        }
    }

    pub(super) fn with_operator(self, operator: Unary) -> Self {
        match self {
            Self::Unary { mut operators, operand } => {
                operators.push(operator);
                Self::Unary { operators, operand }
            }
            operand => Self::Unary { operators: vec![operator], operand: Arc::new(operand) },
        }
    }

    pub(super) fn with_step(self, step: Step) -> Self {
        match self {
            Self::Steps { first, mut steps } => {
                steps.push(step);
                Self::Steps { first, steps }
            }
            first => Self::Steps { first: Box::new(first), steps: vec![step] },
        }
    }

    /// The columns that are looked at, each once, unless they are more than `most`.
    pub(super) fn columns(&self, most: usize) -> Option<Vec<usize>> {
        let mut columns = Vec::new();
        let mut more = false;
        self.for_each_column(&mut |column| {
            if !more && !columns.contains(&column) {
                more = columns.len() == most;
                columns.push(column);
            }
        });
        (!more).then_some(columns)
    }

    /// Calls `visit` with each column that is looked at, as often as it is.
    pub(crate) fn for_each_column(&self, visit: &mut impl FnMut(usize)) {
        match self {
            Self::Constant(_) => {}
            Self::Column(column) | Self::Condition(column) => visit(*column),
            Self::Unary { operand, .. } => operand.for_each_column(visit),
            Self::Steps { first, steps } => {
                first.for_each_column(visit);
                for step in steps {
                    match step {
                        Step::Compare(_, node) | Step::Compute(_, node) => node.for_each_column(visit),
                        Step::Between { low, high, .. } => {
                            low.for_each_column(visit);
                            high.for_each_column(visit);
                        }
                        Step::IsNull { .. } | Step::In { .. } | Step::Like { .. } | Step::Search { .. } => {}
                    }
                }
            }
            Self::Junction { terms, .. } => terms.iter().for_each(|term| term.for_each_column(visit)),
            Self::Call(call) => call.arguments.iter().for_each(|argument| argument.for_each_column(visit)),
        }
    }
}

/// The column that a name stands for in `rocketmq`: what RocketMQ keeps among its properties and Weir in
/// columns of its own.
pub(super) fn column_of_rocketmq(name: String) -> Variable {
    let name = match &*name {
        "TAGS" => ColumnName::System(System::Tag),
        "KEYS" => ColumnName::System(System::Keys),
        "UNIQ_KEY" => ColumnName::System(System::MessageId),
        "BORN_TIMESTAMP" => ColumnName::System(System::BornTime),
        _ => ColumnName::Property(name),
    };
    Variable { name, default: Datum::Null }
}

/// The column that a name stands for in `jms`. The headers that every JMS message has read as ActiveMQ
/// reads them on a message that does not set them.
pub(super) fn column_of_jms(name: String) -> Variable {
    let default = match &*name {
        "JMSPriority" => Datum::Int(4),
        "JMSTimestamp" | "JMSExpiration" => Datum::Long(0),
        "JMSDeliveryMode" => Datum::Text("NON_PERSISTENT".into()),
        "JMSRedelivered" => Datum::Bool(false),
        "JMSXDeliveryCount" => Datum::Int(1),
        "JMSXGroupSeq" => Datum::Int(0),
        _ => Datum::Null,
    };
    let name = match &*name {
        "JMSMessageID" => ColumnName::System(System::MessageId),
        "JMSTimestamp" => ColumnName::System(System::BornTime),
        "JMSXGroupID" => ColumnName::System(System::MessageGroup),
        _ => ColumnName::Property(name),
    };
    Variable { name, default }
}
