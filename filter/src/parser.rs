//! Builds the syntax tree from tokens: recursive descent, one function a precedence, loosest first.
//!
//! ```text
//! or        = and { OR and }
//! and       = not { AND not }
//! not       = { NOT } predicate
//! predicate = sum [ ("=" | "<>" | "!=" | "<" | "<=" | ">" | ">=") sum
//!                 | [NOT] BETWEEN sum AND sum
//!                 | [NOT] IN "(" literal { "," literal } ")"
//!                 | [NOT] LIKE string [ESCAPE string]
//!                 | [NOT] (CONTAINS | STARTSWITH | ENDSWITH | REGEXP) string
//!                 | IS [NOT] NULL ]
//! sum       = product { ("+" | "-") product }
//! product   = unary { ("*" | "/" | "%") unary }
//! unary     = { "+" | "-" } primary
//! primary   = literal | name | call | "(" or ")"
//! call      = name "(" [ sum { "," sum } ] ")"      see `crate::parser::calls`
//! ```
//!
//! Only parentheses recurse, those of calls too, and their depth is bounded; everything else is a loop.

mod calls;

use weir_columns::System;

use crate::{
    error::SelectorError,
    functions,
    lexer::{self, Keyword, Spanned, Symbol, Token, excerpt},
    limits::Limits,
    near::near,
    syntax::{Arithmetic, Comparison, Connective, Expr, ExprKind, Literal, Search},
};

/// Parses the whole of `text`.
pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Expr, SelectorError> {
    let tokens = lexer::tokens(text, limits)?;
    let mut parser = Parser { text, limits, tokens: &tokens, depth: 0 };
    if *parser.peek() == Token::End {
        return parser.error(0, "a selector cannot be empty; TRUE matches every message");
    }
    let expr = parser.or()?;
    match parser.peek() {
        Token::End => Ok(expr),
        Token::Symbol(Symbol::Close) => parser.fail("this ')' closes nothing"),
        _ => parser.expected("AND, OR or the end of the text"),
    }
}

struct Parser<'a> {
    text: &'a str,
    limits: &'a Limits,
    /// What is left; the last one is [`Token::End`], which is never taken.
    tokens: &'a [Spanned],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a Token {
        self.tokens.first().map_or(&Token::End, |spanned| &spanned.token)
    }

    /// The byte at which the next token starts.
    fn at(&self) -> usize {
        self.tokens.first().map_or(self.text.len(), |spanned| spanned.at)
    }

    fn advance(&mut self) {
        if let [_, rest @ ..] = self.tokens
            && !rest.is_empty()
        {
            self.tokens = rest;
        }
    }

    fn take_symbol(&mut self, symbol: Symbol) -> bool {
        let found = *self.peek() == Token::Symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn take_keyword(&mut self, keyword: Keyword) -> bool {
        let found = *self.peek() == Token::Keyword(keyword);
        if found {
            self.advance();
        }
        found
    }

    fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, SelectorError> {
        Err(SelectorError::new(self.text, at, message))
    }

    /// An error at the next token.
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SelectorError> {
        self.error(self.at(), message)
    }

    fn expected<T>(&self, what: &str) -> Result<T, SelectorError> {
        self.fail(format!("expected {what}, found {}", self.peek()))
    }

    fn or(&mut self) -> Result<Expr, SelectorError> {
        self.junction(Connective::Or, Keyword::Or, Self::and)
    }

    fn and(&mut self) -> Result<Expr, SelectorError> {
        self.junction(Connective::And, Keyword::And, Self::not)
    }

    fn junction(
        &mut self,
        connective: Connective,
        keyword: Keyword,
        term: fn(&mut Self) -> Result<Expr, SelectorError>,
    ) -> Result<Expr, SelectorError> {
        let first = term(self)?;
        if *self.peek() != Token::Keyword(keyword) {
            return Ok(first);
        }
        let at = first.at;
        let mut terms = vec![first];
        while self.take_keyword(keyword) {
            terms.push(term(self)?);
        }
        Ok(Expr { kind: ExprKind::Junction { connective, terms }, at })
    }

    fn not(&mut self) -> Result<Expr, SelectorError> {
        let at = self.at();
        let mut negations = 0_usize;
        while self.take_keyword(Keyword::Not) {
            negations += 1;
        }
        let operand = self.predicate()?;
        Ok(match negations {
            0 => operand,
            odd if odd % 2 == 1 => Expr { kind: ExprKind::Not(Box::new(operand)), at },
            // Two negations cancel, but what they stand before must be a condition.
            _ => {
                let once = Expr { kind: ExprKind::Not(Box::new(operand)), at };
                Expr { kind: ExprKind::Not(Box::new(once)), at }
            }
        })
    }

    fn predicate(&mut self) -> Result<Expr, SelectorError> {
        let operand = self.sum()?;
        if !self.starts_predicate() && *self.peek() != Token::Keyword(Keyword::Not) {
            return Ok(operand);
        }
        let at = operand.at;
        let kind = self.predicate_of(Box::new(operand))?;
        if self.starts_predicate() {
            return self.fail("comparisons cannot be chained; combine them with AND, or use parentheses");
        }
        Ok(Expr { kind, at })
    }

    fn starts_predicate(&self) -> bool {
        match self.peek() {
            Token::Keyword(
                Keyword::Between
                | Keyword::In
                | Keyword::Like
                | Keyword::Contains
                | Keyword::StartsWith
                | Keyword::EndsWith
                | Keyword::Is,
            ) => true,
            Token::Symbol(symbol) => comparison(*symbol).is_some(),
            // A name cannot follow a value, so this is no property.
            Token::Name(name) => name.eq_ignore_ascii_case(functions::REGEXP),
            _ => false,
        }
    }

    /// What follows `operand` and makes it a condition.
    fn predicate_of(&mut self, operand: Box<Expr>) -> Result<ExprKind, SelectorError> {
        if let Token::Symbol(symbol) = self.peek()
            && let Some(comparison) = comparison(*symbol)
        {
            self.advance();
            let right = Box::new(self.sum()?);
            return Ok(ExprKind::Compare { left: operand, comparison, right });
        }
        if self.take_keyword(Keyword::Is) {
            let negated = self.take_keyword(Keyword::Not);
            if !self.take_keyword(Keyword::Null) {
                return self.expected(if negated { "NULL" } else { "NULL or NOT NULL" });
            }
            return Ok(ExprKind::IsNull { operand, negated });
        }
        let negated = self.take_keyword(Keyword::Not);
        match self.peek() {
            Token::Keyword(Keyword::Between) => self.between(operand, negated),
            Token::Keyword(Keyword::In) => self.list(operand, negated),
            Token::Keyword(Keyword::Like) => self.like(operand, negated),
            Token::Keyword(Keyword::Contains | Keyword::StartsWith | Keyword::EndsWith) => {
                self.search(operand, negated)
            }
            Token::Name(name) if name.eq_ignore_ascii_case(functions::REGEXP) => {
                self.advance();
                let pattern = self.pattern_and_place("a pattern in single quotes after REGEXP")?;
                Ok(ExprKind::Regexp { operand, pattern, negated })
            }
            _ => self.expected("BETWEEN, IN, LIKE, CONTAINS, STARTSWITH, ENDSWITH or REGEXP after NOT"),
        }
    }

    fn between(&mut self, operand: Box<Expr>, negated: bool) -> Result<ExprKind, SelectorError> {
        self.advance();
        let low = Box::new(self.sum()?);
        if !self.take_keyword(Keyword::And) {
            return self.expected("AND between the two bounds");
        }
        let high = Box::new(self.sum()?);
        Ok(ExprKind::Between { operand, low, high, negated })
    }

    fn list(&mut self, operand: Box<Expr>, negated: bool) -> Result<ExprKind, SelectorError> {
        self.advance();
        if !self.take_symbol(Symbol::Open) {
            return self.expected("'(' and a list after IN");
        }
        let mut list = Vec::new();
        loop {
            if list.len() == self.limits.list_max {
                return self.fail(format!("a list may have {} entries at most", self.limits.list_max));
            }
            list.push(self.list_entry()?);
            if self.take_symbol(Symbol::Close) {
                return Ok(ExprKind::In { operand, list, negated });
            }
            if !self.take_symbol(Symbol::Comma) {
                return self.expected("',' or ')'");
            }
        }
    }

    fn list_entry(&mut self) -> Result<Literal, SelectorError> {
        let at = self.at();
        match self.peek() {
            Token::Keyword(Keyword::Null) => {
                return self.fail("NULL in a list equals nothing; add OR … IS NULL instead");
            }
            Token::Symbol(Symbol::Open) => return self.fail("a list holds literals without parentheses"),
            _ => {}
        }
        match self.unary()? {
            Expr { kind: ExprKind::Literal(literal), .. } => Ok(literal),
            _ => self.error(at, "a list holds strings, numbers, TRUE and FALSE only"),
        }
    }

    fn like(&mut self, operand: Box<Expr>, negated: bool) -> Result<ExprKind, SelectorError> {
        self.advance();
        let pattern = self.search_text("a pattern in single quotes after LIKE")?;
        let escape = if self.take_keyword(Keyword::Escape) { Some(self.escape()?) } else { None };
        Ok(ExprKind::Like { operand, pattern, escape, negated })
    }

    fn escape(&mut self) -> Result<char, SelectorError> {
        let Token::Text(text) = self.peek() else {
            return self.expected("one character in single quotes after ESCAPE");
        };
        let mut chars = text.chars();
        let (Some(escape), None) = (chars.next(), chars.next()) else {
            return self.fail("ESCAPE takes exactly one character");
        };
        self.advance();
        Ok(escape)
    }

    fn search(&mut self, operand: Box<Expr>, negated: bool) -> Result<ExprKind, SelectorError> {
        let (search, expected) = match self.peek() {
            Token::Keyword(Keyword::StartsWith) => {
                (Search::StartsWith, "a text in single quotes after STARTSWITH")
            }
            Token::Keyword(Keyword::EndsWith) => (Search::EndsWith, "a text in single quotes after ENDSWITH"),
            _ => (Search::Contains, "a text in single quotes after CONTAINS"),
        };
        self.advance();
        let text = self.search_text(expected)?;
        Ok(ExprKind::Search { operand, search, text, negated })
    }

    fn search_text(&mut self, expected: &str) -> Result<String, SelectorError> {
        let Token::Text(text) = self.peek() else {
            return self.expected(expected);
        };
        if text.len() > self.limits.pattern_bytes_max {
            return self.fail(format!(
                "a pattern may have {} bytes at most, this one has {}",
                self.limits.pattern_bytes_max,
                text.len()
            ));
        }
        self.advance();
        Ok(text.clone())
    }

    fn sum(&mut self) -> Result<Expr, SelectorError> {
        let operators = |symbol| match symbol {
            Symbol::Plus => Some(Arithmetic::Add),
            Symbol::Minus => Some(Arithmetic::Subtract),
            _ => None,
        };
        self.arithmetic(operators, Self::product)
    }

    fn product(&mut self) -> Result<Expr, SelectorError> {
        let operators = |symbol| match symbol {
            Symbol::Times => Some(Arithmetic::Multiply),
            Symbol::Divide => Some(Arithmetic::Divide),
            Symbol::Modulo => Some(Arithmetic::Modulo),
            _ => None,
        };
        self.arithmetic(operators, Self::unary)
    }

    fn arithmetic(
        &mut self,
        operators: impl Fn(Symbol) -> Option<Arithmetic>,
        term: fn(&mut Self) -> Result<Expr, SelectorError>,
    ) -> Result<Expr, SelectorError> {
        let first = term(self)?;
        let mut rest = Vec::new();
        while let Token::Symbol(symbol) = self.peek()
            && let Some(operator) = operators(*symbol)
        {
            self.advance();
            rest.push((operator, term(self)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let at = first.at;
        Ok(Expr { kind: ExprKind::Arithmetic { first: Box::new(first), rest }, at })
    }

    fn unary(&mut self) -> Result<Expr, SelectorError> {
        let at = self.at();
        let mut signed = false;
        let mut negative = false;
        loop {
            if self.take_symbol(Symbol::Minus) {
                negative = !negative;
            } else if !self.take_symbol(Symbol::Plus) {
                break;
            }
            signed = true;
        }
        match self.peek() {
            Token::Integer(value) => self.integer(*value, negative, at),
            Token::Decimal(value) => {
                self.advance();
                let value = if negative { -value } else { *value };
                Ok(Expr { kind: ExprKind::Literal(Literal::Decimal(value)), at })
            }
            _ if signed => {
                let operand = Box::new(self.primary()?);
                Ok(Expr { kind: ExprKind::Sign { negative, operand }, at })
            }
            _ => self.primary(),
        }
    }

    fn integer(&mut self, value: u64, negative: bool, at: usize) -> Result<Expr, SelectorError> {
        let signed = if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() };
        let Some(signed) = signed else {
            return self.fail(lexer::INTEGER_RANGE);
        };
        self.advance();
        Ok(Expr { kind: ExprKind::Literal(Literal::Integer(signed)), at })
    }

    fn primary(&mut self) -> Result<Expr, SelectorError> {
        let at = self.at();
        let kind = match self.peek() {
            Token::Symbol(Symbol::Open) => return self.parenthesis(),
            Token::Text(text) => ExprKind::Literal(Literal::Text(text.clone())),
            Token::Keyword(Keyword::True) => ExprKind::Literal(Literal::Boolean(true)),
            Token::Keyword(Keyword::False) => ExprKind::Literal(Literal::Boolean(false)),
            Token::Keyword(Keyword::Null) => ExprKind::Literal(Literal::Null),
            Token::Quoted(name) => ExprKind::Property(name.clone()),
            Token::Name(name) => match self.name_with_meaning(name)? {
                Some(expr) => return Ok(expr),
                None => self.name(name)?,
            },
            Token::Keyword(Keyword::Not) => {
                return self.fail("NOT stands before a whole condition; put the condition in parentheses");
            }
            Token::Keyword(keyword) => {
                return self.fail(format!(
                    "expected a value, found {0}; as a name write it \"{0}\"",
                    keyword.text()
                ));
            }
            _ => return self.expected("a value"),
        };
        self.advance();
        if matches!(self.peek(), Token::Symbol(Symbol::Open)) && matches!(kind, ExprKind::Property(_)) {
            return self.error(at, "a name in double quotes is a property, and cannot be called");
        }
        Ok(Expr { kind, at })
    }

    fn parenthesis(&mut self) -> Result<Expr, SelectorError> {
        let at = self.at();
        self.open()?;
        let inner = self.or()?;
        if !self.take_symbol(Symbol::Close) {
            if *self.peek() == Token::End {
                return self.error(at, "this '(' is never closed");
            }
            return self.expected("AND, OR or ')'");
        }
        self.depth -= 1;
        Ok(inner)
    }

    /// Takes an opening parenthesis, if nesting may go deeper.
    fn open(&mut self) -> Result<(), SelectorError> {
        let depth_max = self.limits.depth_max.min(Limits::DEPTH_CEILING);
        if self.depth == depth_max {
            return self.fail(format!("parentheses may be nested {depth_max} deep at most"));
        }
        self.depth += 1;
        self.advance();
        Ok(())
    }

    /// A bare name: a property, or a system value after `sys.`.
    fn name(&self, name: &str) -> Result<ExprKind, SelectorError> {
        let Some((prefix, system)) =
            name.split_once('.').filter(|(prefix, _)| prefix.eq_ignore_ascii_case("sys"))
        else {
            return Ok(ExprKind::Property(name.to_owned()));
        };
        if prefix == "sys"
            && let Some(system) = System::from_name(system)
        {
            return Ok(ExprKind::System(system));
        }
        let near = near(system, System::ALL.map(System::name)).first().map_or_else(
            || format!("there are {}", System::ALL.map(|system| format!("sys.{}", system.name())).join(", ")),
            |near| format!("did you mean sys.{near}?"),
        );
        let name = excerpt(name);
        self.fail(format!("there is no system value {name}; {near} (in double quotes it is a property)"))
    }
}

fn comparison(symbol: Symbol) -> Option<Comparison> {
    Some(match symbol {
        Symbol::Equal => Comparison::Equal,
        Symbol::NotEqual | Symbol::NotEqualC => Comparison::NotEqual,
        Symbol::Less => Comparison::Less,
        Symbol::LessEqual => Comparison::LessEqual,
        Symbol::Greater => Comparison::Greater,
        Symbol::GreaterEqual => Comparison::GreaterEqual,
        _ => return None,
    })
}
