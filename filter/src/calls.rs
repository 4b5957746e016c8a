//! Checks calls of functions: how many values they take, and of which types.

use crate::{
    error::SelectorError,
    functions::{Function, Takes},
    operand::{Constant, Operand},
    regexp::Regexp,
    syntax::{Arithmetic, Comparison, Expr},
    tree::{Check, Checker, Condition, Type},
};

/// How many regular expressions a selector may have.
pub(crate) const REGEXPS_MAX: usize = 16;

impl Checker<'_> {
    /// A call whose function begins at byte `at`.
    pub(crate) fn call(
        &mut self,
        at: usize,
        function: Function,
        arguments: &[Expr],
    ) -> Result<(Operand, Type), SelectorError> {
        let (least, most) = function.count();
        if arguments.len() < least || most.is_some_and(|most| arguments.len() > most) {
            let count = match most {
                Some(most) if most == least => least.to_string(),
                Some(most) => format!("{least} to {most}"),
                None => format!("{least} or more"),
            };
            let values = if most == Some(1) { "value" } else { "values" };
            let message = format!("{} takes {count} {values}, found {}", function.name(), arguments.len());
            return self.error(at, message);
        }
        let mut operands = Vec::with_capacity(arguments.len());
        let mut types = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let (operand, kind) = self.value(argument, function.name())?;
            operands.push(operand);
            types.push(kind);
        }
        let result = match function.takes() {
            Takes::Text => {
                for (argument, kind) in arguments.iter().zip(&types) {
                    self.check_text(function, argument, *kind)?;
                }
                if matches!(function, Function::Length | Function::EpochMs) {
                    Type::Number
                } else {
                    Type::Text
                }
            }
            Takes::Number => {
                for (argument, kind) in arguments.iter().zip(&types) {
                    self.check_number(function, argument, *kind)?;
                }
                Type::Number
            }
            Takes::TextThenNumbers => {
                for (place, (argument, kind)) in arguments.iter().zip(&types).enumerate() {
                    match place {
                        0 => self.check_text(function, argument, *kind)?,
                        _ => self.check_number(function, argument, *kind)?,
                    }
                }
                Type::Text
            }
            Takes::OneType if function == Function::NullIf => {
                self.check_comparable(types[0], Comparison::Equal, &arguments[1], types[1])?;
                types[0]
            }
            Takes::OneType => self.one_type(function, arguments, &types)?,
        };
        let operand = match (function, <[Operand; 2]>::try_from(operands)) {
            (Function::Mod, Ok([first, second])) => {
                Operand::Arithmetic { first: Box::new(first), rest: vec![(Arithmetic::Modulo, second)] }
            }
            (_, Ok(arguments)) => Operand::Call { function, arguments: arguments.into() },
            (_, Err(arguments)) => Operand::Call { function, arguments },
        };
        let operand = operand.folded();
        let result = if operand == Operand::Constant(Constant::Null) { Type::Null } else { result };
        Ok((operand, result))
    }

    fn check_text(&self, function: Function, argument: &Expr, kind: Type) -> Result<(), SelectorError> {
        match kind {
            Type::Any | Type::Text | Type::Null => Ok(()),
            Type::Number | Type::Boolean => {
                let message = format!("{} needs text, found {}", function.name(), kind.noun());
                self.error(argument.at, message)
            }
        }
    }

    fn check_number(&self, function: Function, argument: &Expr, kind: Type) -> Result<(), SelectorError> {
        match kind {
            Type::Any | Type::Number | Type::Null => Ok(()),
            Type::Text | Type::Boolean => {
                let message = format!("{} needs a number, found {}", function.name(), kind.noun());
                self.error(argument.at, message)
            }
        }
    }

    /// The type that all known types are; any, if that of a property may be the result.
    fn one_type(
        &self,
        function: Function,
        arguments: &[Expr],
        types: &[Type],
    ) -> Result<Type, SelectorError> {
        let mut known = Type::Null;
        let mut is_any = false;
        for (argument, kind) in arguments.iter().zip(types) {
            match *kind {
                Type::Null => {}
                Type::Any => is_any = true,
                kind if known == Type::Null || known == kind => known = kind,
                kind => {
                    let message = format!(
                        "{} takes values of one type, found {} and {}",
                        function.name(),
                        known.noun(),
                        kind.noun()
                    );
                    return self.error(argument.at, message);
                }
            }
        }
        Ok(if is_any { Type::Any } else { known })
    }

    pub(crate) fn regexp(
        &mut self,
        operand: &Expr,
        (pattern, at): &(String, usize),
        negated: bool,
    ) -> Result<Condition, SelectorError> {
        let (value, kind) = self.value(operand, "REGEXP")?;
        if !matches!(kind, Type::Any | Type::Text | Type::Null) {
            return self.error(operand.at, format!("REGEXP needs text, found {}", kind.noun()));
        }
        self.regexps += 1;
        if self.regexps > REGEXPS_MAX {
            let message = format!("a selector may have {REGEXPS_MAX} regular expressions at most");
            return self.error(*at, message);
        }
        match Regexp::new(pattern) {
            Ok(regexp) => Ok(Condition::test(Check::Regexp { operand: value, regexp }, negated)),
            Err(message) => self.error(*at, message),
        }
    }
}
