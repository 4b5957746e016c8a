//! Calls of functions, and the names that mean something before what follows them.
//!
//! ```text
//! call      = name "(" [ sum { "," sum } ] ")"
//!           | SUBSTRING "(" sum FROM sum [FOR sum] ")"
//!           | REGEXP "(" sum "," string ")"
//!           | JSON_VALUE "(" BODY "," string ")"
//! moment    = NOW "(" ")" | CURRENT_TIMESTAMP [ "(" ")" ] | TIMESTAMP string
//! length    = INTERVAL string unit
//! ```
//!
//! None of these names is reserved: each is a property unless what follows says otherwise, but for
//! CURRENT_TIMESTAMP, which SQL writes without parentheses.

use super::Parser;
use crate::{
    error::SelectorError,
    functions::{CALLABLE, CURRENT_TIMESTAMP, Callable, Function},
    json::JsonPath,
    lexer::{Spanned, Symbol, Token, excerpt},
    near::near,
    syntax::{Expr, ExprKind, Literal},
    timestamp,
};

impl<'a> Parser<'a> {
    /// What begins with `name`, the next token, if that is no property or system value here.
    pub(super) fn name_with_meaning(&mut self, name: &str) -> Result<Option<Expr>, SelectorError> {
        let at = self.at();
        let kind = match self.second() {
            Token::Symbol(Symbol::Open) => self.call(name)?,
            Token::Text(_) if name.eq_ignore_ascii_case("TIMESTAMP") => {
                self.advance();
                self.timestamp()?
            }
            Token::Text(_) if name.eq_ignore_ascii_case("INTERVAL") => {
                self.advance();
                self.interval()?
            }
            _ if name.eq_ignore_ascii_case(CURRENT_TIMESTAMP) => {
                self.advance();
                ExprKind::Now
            }
            _ => return Ok(None),
        };
        Ok(Some(Expr { kind, at }))
    }

    /// The token behind the next one.
    fn second(&self) -> &'a Token {
        match self.tokens {
            [_, Spanned { token, .. }, ..] => token,
            _ => &Token::End,
        }
    }

    fn call(&mut self, name: &str) -> Result<ExprKind, SelectorError> {
        let found = CALLABLE.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((name, callable)) = found else {
            let near = near(name, CALLABLE.iter().map(|(known, _)| *known)).first().map_or_else(
                || {
                    let all: Vec<&str> = CALLABLE.iter().map(|(known, _)| *known).collect();
                    format!("there are {}", all.join(", "))
                },
                |near| format!("did you mean {near}?"),
            );
            return self.fail(format!("there is no function {}; {near}", excerpt(name)));
        };
        self.advance();
        let opened = self.at();
        self.open()?;
        let kind = match callable {
            Callable::Now => ExprKind::Now,
            Callable::Regexp => {
                let operand = Box::new(self.sum()?);
                if !self.take_symbol(Symbol::Comma) {
                    return self.expected("',' and a pattern");
                }
                let pattern = self.pattern_and_place("a pattern in single quotes")?;
                ExprKind::Regexp { operand, pattern, negated: false }
            }
            Callable::JsonValue => self.json_value()?,
            Callable::Function(function) => {
                let arguments = self.arguments(*function)?;
                ExprKind::Call { function: *function, arguments }
            }
        };
        if !self.take_symbol(Symbol::Close) {
            if *self.peek() == Token::End {
                return self.error(opened, "this '(' is never closed");
            }
            return self.expected(match callable {
                Callable::Now => return self.fail(format!("{name} takes no values")),
                Callable::Regexp | Callable::JsonValue => "')'",
                Callable::Function(_) => "',' or ')'",
            });
        }
        self.depth -= 1;
        Ok(kind)
    }

    fn json_value(&mut self) -> Result<ExprKind, SelectorError> {
        if !self.take_word("BODY") {
            return self.fail("JSON_VALUE opens the body and nothing else: JSON_VALUE(body, '$.path')");
        }
        if !self.take_symbol(Symbol::Comma) {
            return self.expected("',' and a path");
        }
        let (path, at) = self.pattern_and_place("a path in single quotes")?;
        match JsonPath::parse(&path) {
            Ok(path) => Ok(ExprKind::JsonValue(path)),
            Err(message) => self.error(at, message),
        }
    }

    /// The values up to the closing parenthesis.
    fn arguments(&mut self, function: Function) -> Result<Vec<Expr>, SelectorError> {
        let mut arguments = Vec::new();
        if *self.peek() == Token::Symbol(Symbol::Close) {
            return Ok(arguments);
        }
        arguments.push(self.sum()?);
        if function == Function::Substring && self.take_word("FROM") {
            arguments.push(self.sum()?);
            if self.take_word("FOR") {
                arguments.push(self.sum()?);
            }
            return Ok(arguments);
        }
        while self.take_symbol(Symbol::Comma) {
            arguments.push(self.sum()?);
        }
        Ok(arguments)
    }

    /// Takes a word that is a keyword only here.
    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Name(name) if name.eq_ignore_ascii_case(word));
        if found {
            self.advance();
        }
        found
    }

    /// The pattern of REGEXP, or a path, and the byte at which it starts.
    pub(super) fn pattern_and_place(&mut self, expected: &str) -> Result<(String, usize), SelectorError> {
        let at = self.at();
        Ok((self.search_text(expected)?, at))
    }

    fn timestamp(&mut self) -> Result<ExprKind, SelectorError> {
        let at = self.at();
        let text = self.search_text("a date and time in single quotes")?;
        match timestamp::milliseconds(&text) {
            Some(time) => Ok(ExprKind::Literal(Literal::Integer(time))),
            None => {
                self.error(at, "expected a date or a date and time, as 2026-01-02 or 2026-01-02T03:04:05Z")
            }
        }
    }

    fn interval(&mut self) -> Result<ExprKind, SelectorError> {
        let at = self.at();
        let text = self.search_text("a number in single quotes")?;
        let Ok(count) = text.trim().parse::<i64>() else {
            return self.error(at, "expected a whole number in the quotes of INTERVAL, as INTERVAL '1' HOUR");
        };
        let unit = match self.peek() {
            Token::Name(name) => timestamp::unit(name),
            _ => None,
        };
        let Some(unit) = unit else {
            return self.expected("MILLISECOND, SECOND, MINUTE, HOUR, DAY or WEEK behind the number");
        };
        let Some(length) = count.checked_mul(unit) else {
            return self.error(at, "this interval is too long");
        };
        self.advance();
        Ok(ExprKind::Literal(Literal::Integer(length)))
    }
}
