//! Cuts selector text into tokens.
//!
//! Reads left to right once and never looks back, so that its time is linear in the text. Each token
//! knows the byte where it starts. White space and comments (`-- …` to the end of the line or text,
//! `/* … */`) separate tokens and are dropped.

#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;

use crate::{error::SelectorError, limits::Limits};

/// A token and the byte at which it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) at: usize,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Keyword(Keyword),
    /// A name as written.
    Name(String),
    /// A name in double quotes: always a property, whatever it says.
    Quoted(String),
    /// A string without its quotes.
    Text(String),
    /// An integer; up to 2^63, because the sign is a token of its own.
    Integer(u64),
    /// A finite decimal number.
    Decimal(f64),
    Symbol(Symbol),
    /// `?`, which is empty here, or the name behind `:`.
    Parameter(String),
    End,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            const ALL: &[(&str, Self)] = &[$(($text, Self::$variant),)*];

            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

words! {
    /// A reserved word; upper and lower case are alike.
    Keyword {
        And = "AND", Between = "BETWEEN", Contains = "CONTAINS", EndsWith = "ENDSWITH", Escape = "ESCAPE",
        False = "FALSE", In = "IN", Is = "IS", Like = "LIKE", Not = "NOT", Null = "NULL", Or = "OR",
        StartsWith = "STARTSWITH", True = "TRUE",
    }
}

words! {
    /// An operator or a piece of punctuation. Longer ones come before their beginnings.
    Symbol {
        NotEqual = "<>", NotEqualC = "!=", LessEqual = "<=", GreaterEqual = ">=", Equal = "=", Less = "<",
        Greater = ">", Open = "(", Close = ")", Comma = ",", Plus = "+", Minus = "-", Times = "*",
        Divide = "/", Modulo = "%",
    }
}

impl Keyword {
    /// The keyword that `word` is, whatever its case.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(text, _)| text.eq_ignore_ascii_case(word)).map(|(_, keyword)| *keyword)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyword(keyword) => f.write_str(keyword.text()),
            Self::Name(name) => write!(f, "the name {}", excerpt(name)),
            Self::Quoted(name) => write!(f, "the name \"{}\"", excerpt(name)),
            Self::Text(text) => write!(f, "the string '{}'", excerpt(text)),
            Self::Integer(value) => write!(f, "the number {value}"),
            Self::Decimal(value) => write!(f, "the number {value:?}"),
            Self::Symbol(symbol) => write!(f, "'{}'", symbol.text()),
            Self::Parameter(name) if name.is_empty() => f.write_str("the parameter ?"),
            Self::Parameter(name) => write!(f, "the parameter :{}", excerpt(name)),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// The beginning of `text`, fit to stand in a message of one line.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 32;
    let shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '·' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() { shown + "…" } else { shown }
}

/// Refuses text that is too long for a selector.
pub(crate) fn check_length(text: &str, limits: &Limits) -> Result<(), SelectorError> {
    if text.len() <= limits.text_bytes_max {
        return Ok(());
    }
    let (max, len) = (limits.text_bytes_max, text.len());
    Err(SelectorError::new(text, max, format!("a selector may have {max} bytes at most, this one has {len}")))
}

/// Returns the tokens of `text`, the last of which is [`Token::End`].
pub(crate) fn tokens(text: &str, limits: &Limits) -> Result<Vec<Spanned>, SelectorError> {
    check_length(text, limits)?;
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        if let Token::Parameter(_) = token.token {
            let message = format!("{} has no value; bind one to it first", token.token);
            return Err(SelectorError::new(text, token.at, message));
        }
        let ended = token.token == Token::End;
        if !ended && tokens.len() == limits.tokens_max {
            let message = format!(
                "a selector may have {} words and symbols at most; IN takes a list",
                limits.tokens_max
            );
            return Err(SelectorError::new(text, token.at, message));
        }
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

/// Gives the tokens of a text one after the other, parameters too.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, rest: text }
    }

    pub(crate) fn next(&mut self) -> Result<Spanned, SelectorError> {
        self.skip_blanks()?;
        let at = self.at();
        let token = match self.rest.chars().next() {
            None => Token::End,
            Some('\'') => Token::Text(self.quoted('\'', "the string that starts here has no closing quote")?),
            Some('"') => self.quoted_name()?,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some('.') if self.rest.chars().nth(1).is_some_and(|c| c.is_ascii_digit()) => self.number()?,
            Some(c) if starts_name(c) => self.word()?,
            Some('?') => self.parameter(),
            Some(':') if self.rest.chars().nth(1).is_some_and(starts_name) => self.parameter(),
            Some(c) => self.symbol(c)?,
        };
        Ok(Spanned { token, at })
    }

    /// The byte at which the rest starts.
    pub(crate) fn at(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, SelectorError> {
        Err(SelectorError::new(self.text, at, message))
    }

    /// Takes as many characters as fit `wanted`.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) -> Result<(), SelectorError> {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            if self.rest.starts_with("--") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                let Some((_, rest)) = comment.split_once("*/") else {
                    return self.error(self.at(), "the comment that starts here has no closing */");
                };
                self.rest = rest;
            } else {
                return Ok(());
            }
        }
    }

    /// Text between `quote`s; a doubled quote stands for one.
    fn quoted(&mut self, quote: char, unterminated: &str) -> Result<String, SelectorError> {
        let start = self.at();
        let mut value = String::new();
        loop {
            // At the start this drops the opening quote, later the second of a doubled one.
            let mut rest = self.rest.chars();
            rest.next();
            let Some((part, after)) = rest.as_str().split_once(quote) else {
                return self.error(start, unterminated);
            };
            value.push_str(part);
            self.rest = after;
            if !after.starts_with(quote) {
                return Ok(value);
            }
            value.push(quote);
        }
    }

    fn quoted_name(&mut self) -> Result<Token, SelectorError> {
        let start = self.at();
        let name = self.quoted('"', "the quoted name that starts here has no closing quote")?;
        if name.is_empty() {
            return self.error(start, "a name cannot be empty; strings stand in single quotes");
        }
        Ok(Token::Quoted(name))
    }

    /// A keyword or a name. Points may join the parts of a name.
    fn word(&mut self) -> Result<Token, SelectorError> {
        let whole = self.rest;
        loop {
            self.take_while(continues_name);
            let Some(after) = self.rest.strip_prefix('.') else { break };
            if !after.starts_with(continues_name) {
                return self
                    .error(self.at(), "a name cannot end with a point; put other names in double quotes");
            }
            self.rest = after;
        }
        let (word, _) = whole.split_at(whole.len() - self.rest.len());
        Ok(Keyword::of(word).map_or_else(|| Token::Name(word.to_owned()), Token::Keyword))
    }

    /// `?`, or a name behind a colon.
    fn parameter(&mut self) -> Token {
        let mut rest = self.rest.chars();
        let named = rest.next() == Some(':');
        self.rest = rest.as_str();
        Token::Parameter(if named { self.take_while(continues_name).to_owned() } else { String::new() })
    }

    fn number(&mut self) -> Result<Token, SelectorError> {
        let start = self.at();
        let token = if self.rest.starts_with("0x") || self.rest.starts_with("0X") {
            self.hexadecimal()?
        } else {
            self.decimal()?
        };
        if self.rest.starts_with(|c| continues_name(c) || c == '.') {
            return self.error(
                start,
                "a number must end before the next word; put names that start with a digit in double quotes",
            );
        }
        Ok(token)
    }

    fn hexadecimal(&mut self) -> Result<Token, SelectorError> {
        let start = self.at();
        self.take_while(|c| c == '0');
        self.take_while(|c| c == 'x' || c == 'X');
        let digits = self.take_while(|c| c.is_ascii_hexdigit());
        if digits.is_empty() {
            return self.error(start, "expected hexadecimal digits after 0x");
        }
        match i64::from_str_radix(digits, 16) {
            Ok(value) => Ok(Token::Integer(value.unsigned_abs())),
            Err(_) => self.error(start, "this integer is beyond 0x7fffffffffffffff, the largest"),
        }
    }

    fn decimal(&mut self) -> Result<Token, SelectorError> {
        let start = self.at();
        let whole_text = self.rest;
        let digits = self.take_while(|c| c.is_ascii_digit());
        let mut is_integer = true;
        if let Some(fraction) = self.rest.strip_prefix('.') {
            is_integer = false;
            self.rest = fraction;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.skip_exponent() {
            is_integer = false;
        }
        let (written, _) = whole_text.split_at(whole_text.len() - self.rest.len());
        if is_integer { self.integer(start, digits) } else { self.float(start, written) }
    }

    /// Takes an exponent if a whole one follows.
    fn skip_exponent(&mut self) -> bool {
        let Some(exponent) = self.rest.strip_prefix(['e', 'E']) else { return false };
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !exponent.starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        self.rest = exponent;
        self.take_while(|c| c.is_ascii_digit());
        true
    }

    fn integer(&mut self, start: usize, digits: &str) -> Result<Token, SelectorError> {
        if digits.len() > 1 && digits.starts_with('0') {
            return self
                .error(start, "an integer cannot start with 0, because languages differ over its meaning");
        }
        // The other dialects and Java write long integers so.
        self.rest = self.rest.strip_prefix(['l', 'L']).unwrap_or(self.rest);
        match digits.parse::<u64>() {
            Ok(value) if value <= i64::MIN.unsigned_abs() => Ok(Token::Integer(value)),
            _ => self.error(start, INTEGER_RANGE),
        }
    }

    fn float(&self, start: usize, written: &str) -> Result<Token, SelectorError> {
        match written.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Decimal(value)),
            _ => self.error(start, "this number is too large: the largest is about 1.797e308"),
        }
    }

    fn symbol(&mut self, first: char) -> Result<Token, SelectorError> {
        let found =
            Symbol::ALL.iter().find_map(|(text, symbol)| Some((self.rest.strip_prefix(text)?, *symbol)));
        let message = match (found, first) {
            (Some((rest, Symbol::Equal)), _) if rest.starts_with('=') => "use = to compare".to_owned(),
            (Some((rest, symbol)), _) => {
                self.rest = rest;
                return Ok(Token::Symbol(symbol));
            }
            (None, '|') => "use OR to combine conditions, and CONCAT to join texts".to_owned(),
            (None, '&') => "use AND to combine conditions".to_owned(),
            (None, '!') => "use NOT to negate a condition, and <> for \"not equal\"".to_owned(),
            (None, ';') => "a selector is one condition without a semicolon".to_owned(),
            (None, '`' | '[') => "put names in double quotes".to_owned(),
            (None, '‘' | '’' | '“' | '”') => "use straight quotes: 'text' or \"name\"".to_owned(),
            (None, c) if c.is_control() || c.is_whitespace() => {
                format!("the character U+{:04X} is not allowed outside of strings", u32::from(c))
            }
            (None, c) => format!("the character {c:?} is not allowed outside of strings"),
        };
        self.error(self.at(), message)
    }
}

/// The message about integers that do not fit.
pub(crate) const INTEGER_RANGE: &str = "this integer is outside of -9223372036854775808 to 9223372036854775807; write it with a point, as 1e20 or 7.0";

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '$')
}

fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Result<Vec<Token>, String> {
        tokens(text, &Limits::default())
            .map(|tokens| tokens.into_iter().map(|spanned| spanned.token).collect())
            .map_err(|error| format!("{}: {}", error.position(), error.message()))
    }

    #[track_caller]
    fn check(text: &str, expected: &[Token]) {
        let mut tokens = lex(text).unwrap();
        assert_eq!(tokens.pop(), Some(Token::End));
        assert_eq!(tokens, expected, "{text}");
    }

    fn name(text: &str) -> Token {
        Token::Name(text.to_owned())
    }

    #[test]
    fn words_are_keywords_or_names() {
        check("and", &[Token::Keyword(Keyword::And)]);
        check("Contains", &[Token::Keyword(Keyword::Contains)]);
        check("android", &[name("android")]);
        check("a.in $b _c größe 价格 sys.tag", &["a.in", "$b", "_c", "größe", "价格", "sys.tag"].map(name));
        check(r#""a ""b"" 'c'" "and""#, &[r#"a "b" 'c'"#, "and"].map(|text| Token::Quoted(text.to_owned())));
    }

    #[test]
    fn strings_take_everything_but_one_quote() {
        check("'it''s' '' '\\' '\n😀'", &["it's", "", "\\", "\n😀"].map(|text| Token::Text(text.to_owned())));
    }

    #[test]
    fn numbers_are_integers_or_decimals() {
        let integers = [("0", 0), ("42", 42), ("5L", 5), ("0x1F", 31), ("9223372036854775808", 1 << 63)];
        for (text, value) in integers {
            check(text, &[Token::Integer(value)]);
        }
        for (text, value) in [("0.0", 0.0), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("00.5E-1", 0.05)] {
            check(text, &[Token::Decimal(value)]);
        }
    }

    #[test]
    fn blanks_and_comments_only_separate() {
        check("a/* b -- */\n-- c\r--d", &[name("a")]);
        check("a-b", &[name("a"), Token::Symbol(Symbol::Minus), name("b")]);
    }

    #[test]
    fn what_is_no_token_is_refused_where_it_stands() {
        for (text, position, part) in [
            ("a = 'b", 4, "no closing quote"),
            ("\"a", 0, "no closing quote"),
            ("\"\"", 0, "empty"),
            ("a /* b", 2, "no closing */"),
            ("007", 0, "cannot start with 0"),
            ("9223372036854775809", 0, "outside"),
            ("0x8000000000000000", 0, "beyond"),
            ("0x", 0, "hexadecimal"),
            ("1e400", 0, "too large"),
            ("12abc", 0, "must end"),
            ("1.2.3", 0, "must end"),
            ("1e", 0, "must end"),
            ("a. = 1", 1, "point"),
            ("a == 1", 2, "use ="),
            ("a && b", 2, "AND"),
            ("a || b", 2, "OR"),
            ("!a", 0, "NOT"),
            ("a;", 1, "semicolon"),
            ("a\u{a0}= 1", 1, "U+00A0"),
            ("a # b", 2, "'#'"),
        ] {
            let error = lex(text).unwrap_err();
            assert!(error.starts_with(&format!("{position}: ")) && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn text_and_tokens_are_bounded() {
        assert!(lex(&"x".repeat(8192)).is_ok());
        assert!(lex(&"x".repeat(8193)).unwrap_err().starts_with("8192: "));
        assert!(lex(&"x ".repeat(512)).is_ok());
        assert!(lex(&"x ".repeat(513)).unwrap_err().starts_with("1024: "));
    }
}
