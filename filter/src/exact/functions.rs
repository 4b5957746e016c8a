//! The functions of ActiveMQ Classic: REGEX, INLIST, MAKELIST, SPLIT, REPLACE.

use std::ops::RangeInclusive;

use super::{
    datum::{Datum, Failed, TEXT_MAX},
    regex::{Pattern, Refusal},
    tree::Node,
};

/// A list of more elements is never made; the evaluation fails instead.
const LIST_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Regex,
    InList,
    MakeList,
    Split,
    Replace,
}

impl Function {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "REGEX" => Self::Regex,
            "INLIST" => Self::InList,
            "MAKELIST" => Self::MakeList,
            "SPLIT" => Self::Split,
            "REPLACE" => Self::Replace,
            _ => return None,
        })
    }

    /// How many arguments it takes.
    pub(super) const fn arguments(self) -> RangeInclusive<usize> {
        match self {
            Self::Regex | Self::InList => 2..=2,
            Self::MakeList => 1..=usize::MAX,
            Self::Split => 2..=3,
            Self::Replace => 3..=3,
        }
    }

    /// Which argument is a regular expression.
    const fn pattern(self) -> Option<usize> {
        match self {
            Self::Regex => Some(0),
            Self::Split | Self::Replace => Some(1),
            Self::InList | Self::MakeList => None,
        }
    }
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    function: Function,
    pub(super) arguments: Vec<Node>,
    /// The regular expression, if it is the same for all rows; `Err` if it is malformed, on which the
    /// original fails row by row.
    pattern: Option<Result<Pattern, Failed>>,
    pattern_bytes_max: usize,
}

impl Call {
    /// Prepares a call. Fails with a message if its regular expression is one that Java would take and
    /// Weir does not.
    pub(super) fn new(
        function: Function,
        arguments: Vec<Node>,
        pattern_bytes_max: usize,
    ) -> Result<Self, String> {
        let mut pattern = None;
        let constant = function.pattern().and_then(|place| arguments.get(place));
        if let Some(Node::Constant(constant)) = constant
            && !constant.is_null()
        {
            let text = constant.to_text().map_err(|Failed| "the pattern is too long".to_owned())?;
            if text.len() > pattern_bytes_max {
                return Err(format!("a pattern may have {pattern_bytes_max} bytes at most"));
            }
            pattern = Some(match Pattern::new(&text) {
                Ok(pattern) => Ok(pattern),
                Err(Refusal::Malformed) => Err(Failed),
                Err(Refusal::Unsupported(what)) => return Err(what.to_owned()),
            });
        }
        Ok(Self { function, arguments, pattern, pattern_bytes_max })
    }

    pub(super) fn is_condition(&self) -> bool {
        matches!(self.function, Function::Regex | Function::InList)
    }

    /// The value for one row, whose arguments `evaluate` gives.
    pub(super) fn value<'a>(
        &'a self,
        evaluate: impl Fn(&'a Node) -> Result<Datum<'a>, Failed>,
    ) -> Result<Datum<'a>, Failed> {
        let argument = |place: usize| self.arguments.get(place).map_or(Ok(Datum::Null), &evaluate);
        match self.function {
            Function::Regex => {
                let pattern = argument(0)?;
                if pattern.is_null() {
                    return Ok(Datum::Bool(false));
                }
                let text = argument(1)?;
                if text.is_null() {
                    return Ok(Datum::Bool(false));
                }
                let text = text.to_text()?;
                self.with_pattern(&pattern, |pattern| Ok(Datum::Bool(pattern.finds(&text))))
            }
            Function::InList => {
                let Datum::List(list) = argument(0)? else { return Err(Failed) };
                let wanted = argument(1)?;
                for element in &list {
                    if element.is_null() {
                        return Err(Failed);
                    }
                    if element.equals(&wanted) {
                        return Ok(Datum::Bool(true));
                    }
                }
                Ok(Datum::Bool(false))
            }
            Function::MakeList => {
                self.arguments.iter().map(evaluate).collect::<Result<Vec<_>, _>>().map(Datum::List)
            }
            Function::Split => {
                let (Datum::Text(text), pattern @ Datum::Text(_)) = (argument(0)?, argument(1)?) else {
                    return Err(Failed);
                };
                let limit = match argument(2)? {
                    Datum::Int(limit) => limit,
                    Datum::Null if self.arguments.len() == 2 => 0,
                    _ => return Err(Failed),
                };
                let parts = self
                    .with_pattern(&pattern, |pattern| pattern.split(&text, limit, LIST_MAX).ok_or(Failed))?;
                Ok(Datum::List(parts.into_iter().map(|part| Datum::Text(part.into())).collect()))
            }
            Function::Replace => {
                let values = (argument(0)?, argument(1)?, argument(2)?);
                let (Datum::Text(text), pattern @ Datum::Text(_), replacement) = values else {
                    return Err(Failed);
                };
                let replaced = self.with_pattern(&pattern, |pattern| match &replacement {
                    Datum::Text(replacement) => {
                        pattern.replace_all(&text, replacement, TEXT_MAX).ok_or(Failed)
                    }
                    // The original looks at it only where it puts it.
                    Datum::Null if !pattern.finds(&text) => Ok(text.to_string()),
                    _ => Err(Failed),
                })?;
                Ok(Datum::Text(replaced.into()))
            }
        }
    }

    fn with_pattern<T>(
        &self,
        text: &Datum<'_>,
        then: impl FnOnce(&Pattern) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        match &self.pattern {
            Some(pattern) => then(pattern.as_ref().map_err(|failed| *failed)?),
            None => {
                let text = text.to_text()?;
                if text.len() > self.pattern_bytes_max {
                    return Err(Failed);
                }
                then(&Pattern::new(&text).map_err(|_| Failed)?)
            }
        }
    }
}
