//! Values in a condition: columns, constants, and what is computed from them.

use std::borrow::Cow;

use crate::{
    functions::Function,
    syntax::{Arithmetic, Literal},
    types::{Number, Scalar},
};

/// A value: a column, a constant, or what is computed from them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A column by its place in [`Tree::columns`](crate::tree::Tree::columns).
    Column(usize),
    Constant(Constant),
    /// The moment of the scan, in milliseconds since 1970. Has no value until [`Operand::at`] gives it one.
    Now,
    /// The value as a number, negated or not.
    Sign {
        negative: bool,
        operand: Box<Operand>,
    },
    Arithmetic {
        first: Box<Operand>,
        rest: Vec<(Arithmetic, Operand)>,
    },
    Call {
        function: Function,
        arguments: Vec<Operand>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Null,
    Text(String),
    Boolean(bool),
    Number(Number),
}

/// A value that may be a text of its own, which functions make.
#[derive(Debug)]
pub(crate) enum Computed<'a> {
    Scalar(Scalar<'a>),
    Str(String),
}

impl<'a> Computed<'a> {
    #[inline]
    pub(crate) fn as_scalar(&self) -> Scalar<'_> {
        match self {
            Self::Scalar(scalar) => *scalar,
            Self::Str(text) => Scalar::Str(text),
        }
    }

    /// The value as a string beside a string; `None` if it is none.
    pub(crate) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Str(text) => Some(Cow::Owned(text)),
            Self::Scalar(Scalar::Text(text, _) | Scalar::Str(text)) => Some(Cow::Borrowed(text)),
            Self::Scalar(Scalar::Digits(value)) => Some(Cow::Owned(value.to_string())),
            Self::Scalar(Scalar::Null | Scalar::Boolean(_) | Scalar::Number(_)) => None,
        }
    }
}

impl From<Number> for Computed<'_> {
    fn from(number: Number) -> Self {
        Self::Scalar(Scalar::Number(number))
    }
}

impl Operand {
    pub(crate) fn for_each_column(&self, visit: &mut impl FnMut(usize)) {
        match self {
            Self::Column(column) => visit(*column),
            Self::Constant(_) | Self::Now => {}
            Self::Sign { operand, .. } => operand.for_each_column(visit),
            Self::Arithmetic { first, rest } => {
                first.for_each_column(visit);
                rest.iter().for_each(|(_, operand)| operand.for_each_column(visit));
            }
            Self::Call { arguments, .. } => {
                arguments.iter().for_each(|argument| argument.for_each_column(visit));
            }
        }
    }

    pub(crate) fn for_each_column_mut(&mut self, visit: &mut impl FnMut(&mut usize)) {
        match self {
            Self::Column(column) => visit(column),
            Self::Constant(_) | Self::Now => {}
            Self::Sign { operand, .. } => operand.for_each_column_mut(visit),
            Self::Arithmetic { first, rest } => {
                first.for_each_column_mut(visit);
                rest.iter_mut().for_each(|(_, operand)| operand.for_each_column_mut(visit));
            }
            Self::Call { arguments, .. } => {
                arguments.iter_mut().for_each(|argument| argument.for_each_column_mut(visit));
            }
        }
    }

    /// Calls `visit` with each column without whose value there is no value at all.
    pub(crate) fn for_each_strict_column(&self, visit: &mut impl FnMut(usize)) {
        match self {
            Self::Sign { operand, .. } => operand.for_each_strict_column(visit),
            Self::Arithmetic { first, rest } => {
                first.for_each_strict_column(visit);
                rest.iter().for_each(|(_, operand)| operand.for_each_strict_column(visit));
            }
            Self::Call { function, arguments } => arguments
                .iter()
                .take(function.strict_arguments())
                .for_each(|argument| argument.for_each_strict_column(visit)),
            Self::Column(_) | Self::Constant(_) | Self::Now => self.for_each_column(visit),
        }
    }

    /// Whether the moment of the scan decides.
    pub(crate) fn has_now(&self) -> bool {
        match self {
            Self::Now => true,
            Self::Column(_) | Self::Constant(_) => false,
            Self::Sign { operand, .. } => operand.has_now(),
            Self::Arithmetic { first, rest } => {
                first.has_now() || rest.iter().any(|(_, operand)| operand.has_now())
            }
            Self::Call { arguments, .. } => arguments.iter().any(Self::has_now),
        }
    }

    /// Whether neither rows nor the moment decide.
    pub(crate) fn is_fixed(&self) -> bool {
        let mut looks_at_rows = false;
        self.for_each_column(&mut |_| looks_at_rows = true);
        !looks_at_rows && !self.has_now()
    }

    /// The same with the moment of the scan in its place.
    pub(crate) fn at(&self, now_ms: i64) -> Self {
        if !self.has_now() {
            return self.clone();
        }
        let bound = match self {
            Self::Now => Self::Constant(Constant::Number(Number::Int(now_ms))),
            Self::Column(_) | Self::Constant(_) => self.clone(),
            Self::Sign { negative, operand } => {
                Self::Sign { negative: *negative, operand: Box::new(operand.at(now_ms)) }
            }
            Self::Arithmetic { first, rest } => Self::Arithmetic {
                first: Box::new(first.at(now_ms)),
                rest: rest.iter().map(|(operator, operand)| (*operator, operand.at(now_ms))).collect(),
            },
            Self::Call { function, arguments } => Self::Call {
                function: *function,
                arguments: arguments.iter().map(|argument| argument.at(now_ms)).collect(),
            },
        };
        bound.folded()
    }

    /// The value in one row, whose columns `column` gives.
    #[inline]
    pub(crate) fn value<'a>(&'a self, column: &impl Fn(usize) -> Scalar<'a>) -> Computed<'a> {
        match self {
            Self::Column(place) => Computed::Scalar(column(*place)),
            Self::Constant(constant) => Computed::Scalar(constant.as_scalar()),
            Self::Now => Computed::Scalar(Scalar::Null),
            Self::Sign { .. } | Self::Arithmetic { .. } => {
                Computed::Scalar(self.number(column).map_or(Scalar::Null, Scalar::Number))
            }
            Self::Call { function, arguments } => function.apply(arguments, column),
        }
    }

    /// The value in one row as a number.
    pub(crate) fn number<'a>(&'a self, column: &impl Fn(usize) -> Scalar<'a>) -> Option<Number> {
        match self {
            Self::Sign { negative, operand } => {
                let number = operand.number(column)?;
                if *negative { number.negated() } else { Some(number) }
            }
            Self::Arithmetic { first, rest } => {
                let mut number = first.number(column)?;
                for (operator, operand) in rest {
                    number = number.compute(*operator, operand.number(column)?)?;
                }
                Some(number)
            }
            Self::Column(place) => column(*place).as_number(),
            Self::Constant(constant) => constant.as_scalar().as_number(),
            Self::Now => None,
            Self::Call { .. } => self.value(column).as_scalar().as_number(),
        }
    }

    /// Computes now what looks neither at rows nor at the moment.
    pub(crate) fn folded(self) -> Self {
        if !self.is_fixed() {
            return self;
        }
        let constant = match self.value(&|_| Scalar::Null) {
            Computed::Str(text) => Constant::Text(text),
            Computed::Scalar(scalar) => Constant::from(scalar),
        };
        Self::Constant(constant)
    }
}

impl Constant {
    pub(crate) fn as_scalar(&self) -> Scalar<'_> {
        match self {
            Self::Null => Scalar::Null,
            Self::Text(text) => Scalar::Str(text),
            Self::Boolean(value) => Scalar::Boolean(*value),
            Self::Number(number) => Scalar::Number(*number),
        }
    }
}

impl From<&Literal> for Constant {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Text(text) => Self::Text(text.clone()),
            Literal::Boolean(value) => Self::Boolean(*value),
            Literal::Integer(value) => Self::Number(Number::Int(*value)),
            Literal::Decimal(value) => Self::Number(Number::Float(*value)),
        }
    }
}

impl From<Scalar<'_>> for Constant {
    fn from(scalar: Scalar<'_>) -> Self {
        match scalar {
            Scalar::Null => Self::Null,
            // Constants are typed; no column, of which alone untyped text comes, has been looked at.
            Scalar::Text(text, _) | Scalar::Str(text) => Self::Text(text.to_owned()),
            Scalar::Digits(value) => Self::Number(Number::Int(value)),
            Scalar::Boolean(value) => Self::Boolean(value),
            Scalar::Number(number) => Self::Number(number),
        }
    }
}
