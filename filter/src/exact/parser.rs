//! Reads the grammar of the exact dialects, with the checks that the originals make meanwhile.
//!
//! Loosest first; the lines in brackets are those of `jms`:
//!
//! ```text
//! or       = and { OR and }
//! and      = equality { AND equality }
//! equality = relation { ("=" | "<>") relation | IS [NOT] NULL }
//! relation = sum { (">" | ">=" | "<" | "<=") sum
//!                | [NOT] BETWEEN sum AND sum
//!                | [NOT] IN "(" string { "," string } ")"
//!                | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string       rocketmq
//!                | [NOT] LIKE string [ESCAPE string] }                   [jms]
//! sum      = product { ("+" | "-") product }                             [jms; else unary]
//! product  = unary { ("*" | "/" | "%") unary }                           [jms]
//! unary    = { "+" | "-" | NOT } primary
//! primary  = literal | name | "(" or ")" | name "(" unary { "," unary } ")"   [calls: jms]
//! ```
//!
//! So NOT is tighter than every comparison. `rocketmq` never looks for the end of the text: what follows
//! the one token behind the expression is dropped.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    datum::{Big, Datum, Rules, compare},
    functions::{Call, Function},
    lexer::{Lexer, Spanned, Token},
    tree::{Form, Node, Step, Tree, Unary, Variable, column_of_jms, column_of_rocketmq},
};
use crate::{
    dialect::Dialect,
    error::SelectorError,
    lexer::{Keyword, Symbol, check_length, excerpt},
    limits::Limits,
    pattern::Pattern,
    syntax::{Arithmetic, Comparison, Connective, Search},
};

/// The prefix that makes `jms` convert text to numbers and booleans.
const CONVERT: &str = "convert_string_expressions:";

/// Parses a selector of `rocketmq` or, for every other dialect, `jms`.
pub(crate) fn parse(text: &str, dialect: Dialect, limits: &Limits) -> Result<Tree, SelectorError> {
    check_length(text, limits)?;
    let jms = dialect != Dialect::RocketMq;
    let converts = jms && text.starts_with(CONVERT);
    let rules = if jms { Rules::Jms { converts } } else { Rules::RocketMq };
    let mut lexer = Lexer::new(text, if converts { CONVERT.len() } else { 0 }, jms, limits);
    let peeked = lexer.next()?;
    let mut parser = Parser {
        text,
        limits,
        rules,
        jms,
        lexer,
        peeked,
        depth: 0,
        columns: Vec::new(),
        places: HashMap::default(),
    };
    let at = parser.peeked.at;
    let root = parser.or()?;
    let root = parser.condition(root, at)?;
    let rest = &parser.peeked;
    let dropped = (rest.token != Token::End).then_some(rest.at);
    if jms && dropped.is_some() {
        return parser.unexpected("AND, OR or the end of the text");
    }
    Ok(Tree { root: Arc::new(root), columns: parser.columns, rules, dropped })
}

struct Parser<'a> {
    text: &'a str,
    limits: &'a Limits,
    rules: Rules,
    jms: bool,
    lexer: Lexer<'a>,
    /// The one token that has been read ahead.
    peeked: Spanned,
    depth: usize,
    columns: Vec<Variable>,
    places: HashMap<String, usize, foldhash::fast::RandomState>,
}

type Parsed<T> = Result<T, SelectorError>;

impl Parser<'_> {
    fn error<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(SelectorError::new(self.text, at, message))
    }

    fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        self.error(self.peeked.at, format!("expected {expected}, found {}", self.peeked.token))
    }

    /// Takes the token that has been read ahead, and reads the next.
    fn take(&mut self) -> Parsed<Spanned> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.peeked, next))
    }

    fn take_if(&mut self, wanted: &Token) -> Parsed<bool> {
        let found = self.peeked.token == *wanted;
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn take_keyword(&mut self, keyword: Keyword) -> Parsed<bool> {
        self.take_if(&Token::Keyword(keyword))
    }

    fn expect_symbol(&mut self, symbol: Symbol, expected: &str) -> Parsed<()> {
        if self.take_if(&Token::Symbol(symbol))? { Ok(()) } else { self.unexpected(expected) }
    }

    fn expect_string(&mut self, of: &str) -> Parsed<String> {
        if !matches!(self.peeked.token, Token::Text(_)) {
            return self.unexpected(&format!("a string after {of}"));
        }
        match self.take()?.token {
            Token::Text(text) => Ok(text),
            _ => Ok(String::new()),
        }
    }

    fn or(&mut self) -> Parsed<Node> {
        self.junction(Keyword::Or, Connective::Or, Self::and)
    }

    fn and(&mut self) -> Parsed<Node> {
        self.junction(Keyword::And, Connective::And, Self::equality)
    }

    fn junction(
        &mut self,
        keyword: Keyword,
        connective: Connective,
        term: fn(&mut Self) -> Parsed<Node>,
    ) -> Parsed<Node> {
        let at = self.peeked.at;
        let first = term(self)?;
        if self.peeked.token != Token::Keyword(keyword) {
            return Ok(first);
        }
        let mut terms = vec![Arc::new(self.condition(first, at)?)];
        while self.take_keyword(keyword)? {
            let at = self.peeked.at;
            let next = term(self)?;
            terms.push(Arc::new(self.condition(next, at)?));
        }
        Ok(Node::Junction { connective, terms })
    }

    /// What stands where a condition must: a boolean node, or a property.
    fn condition(&self, node: Node, at: usize) -> Parsed<Node> {
        match node {
            Node::Column(column) => Ok(Node::Condition(column)),
            node if node.form().is_condition() => Ok(node),
            node => self.error(at, format!("expected a condition, found {}", node.form().noun())),
        }
    }

    fn equality(&mut self) -> Parsed<Node> {
        let at = self.peeked.at;
        let mut left = self.relation()?;
        loop {
            let comparison = match self.peeked.token {
                Token::Symbol(Symbol::Equal) => Comparison::Equal,
                Token::Symbol(Symbol::NotEqual) => Comparison::NotEqual,
                Token::Keyword(Keyword::Is) => {
                    self.take()?;
                    let negated = self.take_keyword(Keyword::Not)?;
                    if !self.take_keyword(Keyword::Null)? {
                        return self.unexpected("NULL after IS");
                    }
                    left = left.with_step(Step::IsNull { negated });
                    continue;
                }
                _ => return Ok(left),
            };
            self.take()?;
            let right_at = self.peeked.at;
            let right = self.relation()?;
            for (form, at) in [(left.form(), at), (right.form(), right_at)] {
                if form == Form::Null {
                    return self.error(at, "nothing can be compared with NULL; use IS NULL");
                }
            }
            if left.form() == Form::Boolean && right.form().is_constant() && right.form() != Form::Boolean {
                let message = format!("TRUE or FALSE cannot be compared with {}", right.form().noun());
                return self.error(at, message);
            }
            left = left.with_step(Step::Compare(comparison, right));
        }
    }

    fn relation(&mut self) -> Parsed<Node> {
        let at = self.peeked.at;
        let mut left = self.operand()?;
        loop {
            let comparison = match self.peeked.token {
                Token::Symbol(Symbol::Greater) => Comparison::Greater,
                Token::Symbol(Symbol::GreaterEqual) => Comparison::GreaterEqual,
                Token::Symbol(Symbol::Less) => Comparison::Less,
                Token::Symbol(Symbol::LessEqual) => Comparison::LessEqual,
                Token::Keyword(keyword) => {
                    let negated = keyword == Keyword::Not;
                    if negated {
                        self.take()?;
                    }
                    left = match self.peeked.token {
                        Token::Keyword(Keyword::Between) => self.between(left, at, negated)?,
                        Token::Keyword(Keyword::In) => self.list(left, at, negated)?,
                        Token::Keyword(Keyword::Like) => self.like(left, negated)?,
                        Token::Keyword(Keyword::Contains) => self.search(left, Search::Contains, negated)?,
                        Token::Keyword(Keyword::StartsWith) => {
                            self.search(left, Search::StartsWith, negated)?
                        }
                        Token::Keyword(Keyword::EndsWith) => self.search(left, Search::EndsWith, negated)?,
                        _ if negated => {
                            return self.unexpected(if self.jms {
                                "BETWEEN, IN or LIKE after NOT"
                            } else {
                                "BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH after NOT"
                            });
                        }
                        _ => return Ok(left),
                    };
                    continue;
                }
                _ => return Ok(left),
            };
            self.take()?;
            self.check_ordered(&left, at)?;
            let right = self.ordered_operand()?;
            left = left.with_step(Step::Compare(comparison, right));
        }
    }

    fn operand(&mut self) -> Parsed<Node> {
        if self.jms { self.sum() } else { self.unary() }
    }

    fn ordered_operand(&mut self) -> Parsed<Node> {
        let at = self.peeked.at;
        let node = self.operand()?;
        self.check_ordered(&node, at)?;
        Ok(node)
    }

    /// Strings, TRUE, FALSE, NULL and conditions have no order.
    fn check_ordered(&self, node: &Node, at: usize) -> Parsed<()> {
        let form = node.form();
        if form == Form::Text || form.is_condition() {
            return self.error(at, format!("{} cannot be ordered; only numbers can", form.noun()));
        }
        Ok(())
    }

    fn between(&mut self, left: Node, at: usize, negated: bool) -> Parsed<Node> {
        self.take()?;
        self.check_ordered(&left, at)?;
        let low_at = self.peeked.at;
        let low = self.ordered_operand()?;
        if !self.take_keyword(Keyword::And)? {
            return self.unexpected("AND between the bounds of BETWEEN");
        }
        let high = self.ordered_operand()?;
        if let (Node::Constant(low), Node::Constant(high)) = (&low, &high)
            && !self.jms
            && !negated
            && compare(self.rules, high, Comparison::Less, low) == Ok(Some(true))
        {
            return self.error(low_at, "BETWEEN takes the smaller bound first; no value lies between these");
        }
        Ok(left.with_step(Step::Between { low, high, negated }))
    }

    fn list(&mut self, left: Node, at: usize, negated: bool) -> Parsed<Node> {
        let list_at = self.take()?.at;
        if left.form() != Form::Property {
            return self.error(at, format!("IN asks a property, not {}", left.form().noun()));
        }
        self.expect_symbol(Symbol::Open, "'(' after IN")?;
        let mut texts = Vec::new();
        loop {
            if texts.len() == self.limits.list_max {
                let message = format!("a list may have {} entries at most", self.limits.list_max);
                return self.error(list_at, message);
            }
            texts.push(self.expect_string("IN (")?);
            if !self.take_if(&Token::Symbol(Symbol::Comma))? {
                break;
            }
        }
        self.expect_symbol(Symbol::Close, "',' or ')' in the list")?;
        texts.sort_unstable();
        texts.dedup();
        Ok(left.with_step(Step::In { texts, negated }))
    }

    fn pattern(&mut self, of: &str) -> Parsed<(String, usize)> {
        let at = self.peeked.at;
        let text = self.expect_string(of)?;
        if text.len() > self.limits.pattern_bytes_max {
            let message = format!("a pattern may have {} bytes at most", self.limits.pattern_bytes_max);
            return self.error(at, message);
        }
        Ok((text, at))
    }

    fn search(&mut self, left: Node, search: Search, negated: bool) -> Parsed<Node> {
        self.take()?;
        let (text, _) = self.pattern("CONTAINS, STARTSWITH or ENDSWITH")?;
        let pattern = (!text.is_empty()).then(|| Box::new(Pattern::search(search, &text)));
        Ok(left.with_step(Step::Search { pattern, negated }))
    }

    fn like(&mut self, left: Node, negated: bool) -> Parsed<Node> {
        self.take()?;
        let (pattern, at) = self.pattern("LIKE")?;
        let mut escape = None;
        if self.take_keyword(Keyword::Escape)? {
            let at = self.peeked.at;
            let text = self.expect_string("ESCAPE")?;
            let mut chars = text.chars();
            // One UTF-16 unit.
            escape = chars.next().filter(|c| c.len_utf16() == 1 && chars.next().is_none());
            if escape.is_none() {
                return self.error(at, "ESCAPE takes one character");
            }
        }
        let Some(pattern) = like_of_activemq(&pattern, escape) else {
            return self.error(at, "this escaped control character does not compile in ActiveMQ");
        };
        Ok(left.with_step(Step::Like { pattern: Box::new(pattern), negated }))
    }

    fn sum(&mut self) -> Parsed<Node> {
        self.arithmetic(Self::product, |symbol| match symbol {
            Symbol::Plus => Some(Arithmetic::Add),
            Symbol::Minus => Some(Arithmetic::Subtract),
            _ => None,
        })
    }

    fn product(&mut self) -> Parsed<Node> {
        self.arithmetic(Self::unary, |symbol| match symbol {
            Symbol::Times => Some(Arithmetic::Multiply),
            Symbol::Divide => Some(Arithmetic::Divide),
            Symbol::Modulo => Some(Arithmetic::Modulo),
            _ => None,
        })
    }

    fn arithmetic(
        &mut self,
        operand: fn(&mut Self) -> Parsed<Node>,
        operator_of: fn(Symbol) -> Option<Arithmetic>,
    ) -> Parsed<Node> {
        let mut left = operand(self)?;
        while let Token::Symbol(symbol) = self.peeked.token
            && let Some(operator) = operator_of(symbol)
        {
            self.take()?;
            left = left.with_step(Step::Compute(operator, operand(self)?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Node> {
        let mut operators = Vec::new();
        loop {
            match self.peeked.token {
                // Plus does nothing at all.
                Token::Symbol(Symbol::Plus) => drop(self.take()?),
                Token::Symbol(Symbol::Minus) => operators.push((Unary::Minus, self.take()?.at)),
                Token::Keyword(Keyword::Not) => operators.push((Unary::Not, self.take()?.at)),
                _ => break,
            }
        }
        let mut node = self.primary()?;
        for (operator, at) in operators.into_iter().rev() {
            if operator == Unary::Not {
                node = self.condition(node, at)?;
            }
            node = node.with_operator(operator);
        }
        Ok(node)
    }

    fn primary(&mut self) -> Parsed<Node> {
        let at = self.peeked.at;
        let constant = |datum| Ok(Node::Constant(datum));
        match self.peeked.token {
            Token::Symbol(Symbol::Open) => {
                self.deeper(at)?;
                self.take()?;
                let node = self.or()?;
                self.expect_symbol(Symbol::Close, "')'")?;
                self.depth -= 1;
                return Ok(node);
            }
            Token::XmlPath(word) => {
                return self.error(at, format!("{word} reads the body of a message, which selectors do not"));
            }
            Token::Symbol(_) | Token::End | Token::Keyword(_) => {}
            _ => {
                return match self.take()?.token {
                    Token::Text(text) => constant(Datum::Text(text.into())),
                    Token::Integer(digits) => constant(self.integer(at, &digits)?),
                    Token::Hexadecimal(digits) => constant(self.radix(at, &digits, 16)?),
                    Token::Octal(digits) => constant(self.radix(at, &digits, 8)?),
                    Token::Float(text) => constant(self.float(at, &text)?),
                    Token::Name(name) if self.jms && self.peeked.token == Token::Symbol(Symbol::Open) => {
                        self.call(&name, at)
                    }
                    Token::Name(name) => Ok(Node::Column(self.column(name))),
                    _ => self.unexpected("a value"),
                };
            }
        }
        let datum = match self.peeked.token {
            Token::Keyword(Keyword::True) => Datum::Bool(true),
            Token::Keyword(Keyword::False) => Datum::Bool(false),
            Token::Keyword(Keyword::Null) => Datum::Null,
            _ => return self.unexpected("a value"),
        };
        self.take()?;
        constant(datum)
    }

    fn deeper(&mut self, at: usize) -> Parsed<()> {
        self.depth += 1;
        let max = self.limits.depth_max.min(Limits::DEPTH_CEILING);
        if self.depth > max {
            return self.error(at, format!("parentheses may be nested {max} deep at most"));
        }
        Ok(())
    }

    fn column(&mut self, name: String) -> usize {
        if let Some(place) = self.places.get(&name) {
            return *place;
        }
        let place = self.columns.len();
        self.places.insert(name.clone(), place);
        self.columns.push(if self.jms { column_of_jms(name) } else { column_of_rocketmq(name) });
        place
    }

    fn call(&mut self, name: &str, at: usize) -> Parsed<Node> {
        let Some(function) = Function::of(name) else {
            let known = "REGEX, INLIST, MAKELIST, SPLIT and REPLACE";
            return self.error(at, format!("there is no function {}; there are {known}", excerpt(name)));
        };
        self.deeper(at)?;
        self.take()?;
        let mut arguments = Vec::new();
        loop {
            if arguments.len() == self.limits.list_max {
                let message = format!("a function takes {} arguments at most", self.limits.list_max);
                return self.error(at, message);
            }
            arguments.push(self.unary()?);
            if !self.take_if(&Token::Symbol(Symbol::Comma))? {
                break;
            }
        }
        self.expect_symbol(Symbol::Close, "',' or ')' in the arguments")?;
        self.depth -= 1;
        if !function.arguments().contains(&arguments.len()) {
            let message = format!("{name} does not take {} arguments", arguments.len());
            return self.error(at, message);
        }
        match Call::new(function, arguments, self.limits.pattern_bytes_max) {
            Ok(call) => Ok(Node::Call(Box::new(call))),
            Err(message) => self.error(at, message),
        }
    }

    /// A decimal integer: the smallest type that holds it.
    fn integer(&self, at: usize, digits: &str) -> Parsed<Datum<'static>> {
        match digits.parse::<i64>() {
            Ok(value) => Ok(narrowed(value)),
            Err(_) if self.jms => {
                let big = Big { negative: false, digits: digits.to_owned() };
                // ActiveMQ looks at the low 64 bits only to find the type.
                Ok(match i32::try_from(big.low_bits()) {
                    Ok(value) => Datum::Int(value),
                    Err(_) => Datum::Big(big.into()),
                })
            }
            Err(_) => self.error(at, "this integer is beyond 9223372036854775807, the largest"),
        }
    }

    fn radix(&self, at: usize, digits: &str, radix: u32) -> Parsed<Datum<'static>> {
        match i64::from_str_radix(if digits.is_empty() { "0" } else { digits }, radix) {
            Ok(value) => Ok(narrowed(value)),
            Err(_) => self.error(at, "this integer is beyond 9223372036854775807, the largest"),
        }
    }

    fn float(&self, at: usize, text: &str) -> Parsed<Datum<'static>> {
        match text.parse::<f64>() {
            Ok(value) if self.jms || (value.is_finite() && value != 0.0) => Ok(Datum::Double(value)),
            Ok(0.0) => self.error(at, "RocketMQ refuses a decimal zero; write 0"),
            _ => self.error(at, "this number is too large: the largest is about 1.797e308"),
        }
    }
}

fn narrowed(value: i64) -> Datum<'static> {
    i32::try_from(value).map_or(Datum::Long(value), Datum::Int)
}

/// The pattern of LIKE as ActiveMQ compiles it, through a regular expression; `None` if that is malformed.
///
/// The escape acts before `%`, `_` and itself. What is escaped becomes `\x` and its hexadecimal digits, of
/// which a regular expression takes two: of a longer one the rest is text, of a shorter one the next
/// character must be a digit. An escape elsewhere is a character of the pattern like others, `%` and `_`
/// included.
fn like_of_activemq(pattern: &str, escape: Option<char>) -> Option<Pattern> {
    let mut pieces = vec![Vec::new()];
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let last = pieces.len() - 1;
        let escaped = (Some(c) == escape)
            .then(|| chars.next_if(|next| matches!(next, '%' | '_') || Some(*next) == escape))
            .flatten();
        match (escaped, c) {
            (Some(escaped), _) => {
                let mut hex = format!("{:x}", u32::from(escaped));
                if hex.len() == 1 {
                    hex.push(chars.next_if(|next| next.is_ascii_hexdigit() && Some(*next) != escape)?);
                }
                let (code, rest) = hex.split_at(2);
                let code = u32::from_str_radix(code, 16).ok().and_then(char::from_u32)?;
                pieces[last].extend(std::iter::once(code).chain(rest.chars()).map(Some));
            }
            (None, '%') => pieces.push(Vec::new()),
            (None, '_') => pieces[last].push(None),
            (None, c) => pieces[last].push(Some(c)),
        }
    }
    Some(Pattern::of_pieces(&pieces))
}
