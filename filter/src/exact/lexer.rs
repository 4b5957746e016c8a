//! Cuts the text of the exact dialects into tokens, one at a time.
//!
//! Lazily, because `rocketmq` never looks at what stands behind the token after the expression. Numbers
//! keep their text: whether one is in range matters only if it is used.

use crate::{
    error::SelectorError,
    lexer::{Keyword, Symbol, excerpt},
    limits::Limits,
};

/// A token and the byte at which it starts.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Keyword(Keyword),
    /// XPATH or XQUERY.
    XmlPath(&'static str),
    Name(String),
    Text(String),
    /// Decimal digits.
    Integer(String),
    /// Hexadecimal digits behind `0x`.
    Hexadecimal(String),
    /// Octal digits behind a `0`.
    Octal(String),
    Float(String),
    Symbol(Symbol),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keyword(keyword) => f.write_str(keyword.text()),
            Self::XmlPath(word) => f.write_str(word),
            Self::Name(name) => write!(f, "the name {}", excerpt(name)),
            Self::Text(text) => write!(f, "the string '{}'", excerpt(text)),
            Self::Integer(digits) | Self::Float(digits) => write!(f, "the number {}", excerpt(digits)),
            Self::Hexadecimal(digits) => write!(f, "the number 0x{}", excerpt(digits)),
            Self::Octal(digits) => write!(f, "the number 0{}", excerpt(digits)),
            Self::Symbol(symbol) => write!(f, "'{}'", symbol.text()),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    rest: &'a str,
    /// Whether this is `jms`; else it is `rocketmq`.
    jms: bool,
    tokens_left: usize,
    tokens_max: usize,
    /// The rest is known to have no line end, or no end of a comment: not looked for again.
    no_line_end: bool,
    no_comment_end: bool,
}

impl<'a> Lexer<'a> {
    /// Starts at byte `start` of `text`.
    pub(super) fn new(text: &'a str, start: usize, jms: bool, limits: &Limits) -> Self {
        Self {
            text,
            rest: text.get(start..).unwrap_or_default(),
            jms,
            tokens_left: limits.tokens_max,
            tokens_max: limits.tokens_max,
            no_line_end: false,
            no_comment_end: false,
        }
    }

    pub(super) fn next(&mut self) -> Result<Spanned, SelectorError> {
        self.skip_blanks();
        let at = self.text.len() - self.rest.len();
        let Some(first) = self.rest.chars().next() else { return Ok(Spanned { token: Token::End, at }) };
        let Some(left) = self.tokens_left.checked_sub(1) else {
            let message =
                format!("a selector may have {} words and symbols at most; IN takes a list", self.tokens_max);
            return Err(SelectorError::new(self.text, at, message));
        };
        self.tokens_left = left;
        let token = match first {
            '\'' => self.string(at)?,
            c if c.is_ascii_digit() => self.number(),
            '.' if self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => self.number(),
            c if c.is_ascii_alphabetic() || matches!(c, '_' | '$') => self.word(),
            c => self.symbol(at, c)?,
        };
        Ok(Spanned { token, at })
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// Skips blanks and comments. `--` without a line end is no comment, and neither is `/*` without `*/`.
    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            if self.rest.starts_with("--") && !self.no_line_end {
                match self.rest.find(['\n', '\r']) {
                    Some(end) => drop(self.take(end)),
                    None => self.no_line_end = true,
                }
            } else if self.rest.starts_with("/*") && !self.no_comment_end {
                match self.rest[2..].find("*/") {
                    Some(end) => drop(self.take(end + 4)),
                    None => self.no_comment_end = true,
                }
            } else {
                return;
            }
        }
    }

    /// A string. One without a closing quote is refused, but to `rocketmq` it ends at its last doubled
    /// quote if it has one: the longest text that is a token is the token.
    fn string(&mut self, start: usize) -> Result<Token, SelectorError> {
        let mut value = String::new();
        // The rest from the second quote of the last doubled one, and the length of the value before.
        let mut last_pair = None;
        loop {
            // At the start this drops the opening quote, later the second of a doubled one.
            self.take(1);
            let Some(end) = self.rest.find('\'') else {
                if let Some((rest, len)) = last_pair.filter(|_| !self.jms) {
                    self.rest = rest;
                    value.truncate(len);
                    return Ok(Token::Text(value));
                }
                let message = "the string that starts here has no closing quote";
                return Err(SelectorError::new(self.text, start, message));
            };
            value.push_str(self.take(end));
            self.take(1);
            if !self.rest.starts_with('\'') {
                return Ok(Token::Text(value));
            }
            last_pair = Some((self.rest, value.len()));
            value.push('\'');
        }
    }

    fn word(&mut self) -> Token {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$')));
        let word = self.take(end.unwrap_or(self.rest.len()));
        let reserved = |keyword: Keyword| match keyword {
            Keyword::Contains | Keyword::StartsWith | Keyword::EndsWith => !self.jms,
            Keyword::Like | Keyword::Escape => self.jms,
            _ => true,
        };
        if let Some(keyword) = Keyword::of(word).filter(|keyword| reserved(*keyword)) {
            return Token::Keyword(keyword);
        }
        match ["XPATH", "XQUERY"].into_iter().find(|xml| self.jms && xml.eq_ignore_ascii_case(word)) {
            Some(xml) => Token::XmlPath(xml),
            None => Token::Name(word.to_owned()),
        }
    }

    /// The longest number that starts here.
    fn number(&mut self) -> Token {
        let bytes = self.rest.as_bytes();
        let count = |bytes: &[u8], of: fn(&u8) -> bool| bytes.iter().take_while(|byte| of(byte)).count();
        let digits = count(bytes, u8::is_ascii_digit);
        let mut float = digits;
        if bytes.get(digits) == Some(&b'.') {
            float = digits + 1 + count(&bytes[digits + 1..], u8::is_ascii_digit);
        }
        float += exponent_len(&bytes[float..]);
        if float > digits {
            return Token::Float(self.take(float).to_owned());
        }
        if bytes[0] != b'0' {
            let value = self.take(digits).to_owned();
            self.rest = self.rest.strip_prefix(['l', 'L']).unwrap_or(self.rest);
            return Token::Integer(value);
        }
        if !self.jms {
            self.take(1);
            return Token::Integer("0".to_owned());
        }
        if matches!(bytes.get(1), Some(b'x' | b'X')) {
            let digits = count(&bytes[2..], u8::is_ascii_hexdigit);
            if digits > 0 {
                return Token::Hexadecimal(self.take(2 + digits)[2..].to_owned());
            }
        }
        let octal = count(&bytes[1..], |byte| matches!(byte, b'0'..=b'7'));
        Token::Octal(self.take(1 + octal)[1..].to_owned())
    }

    fn symbol(&mut self, at: usize, first: char) -> Result<Token, SelectorError> {
        let second = self.rest.as_bytes().get(1);
        let symbol = match (first, second) {
            ('<', Some(b'>')) => Symbol::NotEqual,
            ('<', Some(b'=')) => Symbol::LessEqual,
            ('<', _) => Symbol::Less,
            ('>', Some(b'=')) => Symbol::GreaterEqual,
            ('>', _) => Symbol::Greater,
            ('=', _) => Symbol::Equal,
            ('(', _) => Symbol::Open,
            (')', _) => Symbol::Close,
            (',', _) => Symbol::Comma,
            ('+', _) => Symbol::Plus,
            ('-', _) => Symbol::Minus,
            ('*', _) if self.jms => Symbol::Times,
            ('/', _) if self.jms => Symbol::Divide,
            ('%', _) if self.jms => Symbol::Modulo,
            (c, _) => {
                let message = if self.rest.starts_with("/*") {
                    "the comment that starts here has no closing */".to_owned()
                } else if c.is_control() || c.is_whitespace() {
                    format!("the character U+{:04X} is not allowed outside of strings", u32::from(c))
                } else {
                    format!("the character {c:?} is not allowed outside of strings in this dialect")
                };
                return Err(SelectorError::new(self.text, at, message));
            }
        };
        self.take(symbol.text().len());
        Ok(Token::Symbol(symbol))
    }
}

/// The length of an exponent, if a whole one starts `bytes`; else 0.
fn exponent_len(bytes: &[u8]) -> usize {
    let [b'e' | b'E', rest @ ..] = bytes else { return 0 };
    let (sign, digits) = match rest {
        [b'+' | b'-', digits @ ..] => (1, digits),
        digits => (0, digits),
    };
    match digits.iter().take_while(|byte| byte.is_ascii_digit()).count() {
        0 => 0,
        count => 1 + sign + count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str, jms: bool) -> Result<Vec<String>, String> {
        let mut lexer = Lexer::new(text, 0, jms, &Limits::default());
        let mut shown = Vec::new();
        loop {
            match lexer.next().map_err(|error| format!("{}: {}", error.position(), error.message()))?.token {
                Token::End => return Ok(shown),
                token => shown.push(token.to_string()),
            }
        }
    }

    #[track_caller]
    fn check(text: &str, rocketmq: &[&str], jms: &[&str]) {
        assert_eq!(lex(text, false).unwrap(), rocketmq, "{text}");
        assert_eq!(lex(text, true).unwrap(), jms, "{text}");
    }

    #[test]
    fn the_longest_token_wins() {
        let n = |text: &str| format!("the number {text}");
        let name = |text: &str| format!("the name {text}");
        check(
            "007 0x1F 5L 5l 5lx 7.5f",
            &[
                &n("0"),
                &n("0"),
                &n("7"),
                &n("0"),
                &name("x1F"),
                &n("5"),
                &n("5"),
                &n("5"),
                &name("x"),
                &n("7.5"),
                &name("f"),
            ],
            &[&n("007"), &n("0x1F"), &n("5"), &n("5"), &n("5"), &name("x"), &n("7.5"), &name("f")],
        );
        check(
            "010.5 01e1 5.e3 .5 5. 5e 5e+",
            &[
                &n("010.5"),
                &n("01e1"),
                &n("5.e3"),
                &n(".5"),
                &n("5."),
                &n("5"),
                &name("e"),
                &n("5"),
                &name("e"),
                "'+'",
            ],
            &[
                &n("010.5"),
                &n("01e1"),
                &n("5.e3"),
                &n(".5"),
                &n("5."),
                &n("5"),
                &name("e"),
                &n("5"),
                &name("e"),
                "'+'",
            ],
        );
        check("0L 08", &[&n("0"), &name("L"), &n("0"), &n("8")], &[&n("0"), &name("L"), &n("0"), &n("8")]);
        check("<>=>==", &["'<>'", "'='", "'>='", "'='"], &["'<>'", "'='", "'>='", "'='"]);
    }

    #[test]
    fn comments_need_their_ends() {
        check(
            "a--b\n-/**/-c",
            &["the name a", "'-'", "'-'", "the name c"],
            &["the name a", "'-'", "'-'", "the name c"],
        );
        check("--5", &["'-'", "'-'", "the number 5"], &["'-'", "'-'", "the number 5"]);
        check("a/* * / **/b", &["the name a", "the name b"], &["the name a", "the name b"]);
        assert!(lex("a /* b", false).is_err());
        assert_eq!(lex("a /* b", true).unwrap(), ["the name a", "'/'", "'*'", "the name b"]);
    }

    #[test]
    fn dialects_reserve_different_words() {
        check("like contains", &["the name like", "CONTAINS"], &["LIKE", "the name contains"]);
        check("XPath EXISTS", &["the name XPath", "the name EXISTS"], &["XPATH", "the name EXISTS"]);
    }

    #[test]
    fn a_string_without_an_end_ends_at_its_last_doubled_quote() {
        for (text, string, rest) in
            [("'a''b", "a", 3), ("'''", "", 2), ("'a''b''c", "a'b", 6), ("'''''", "'", 4)]
        {
            let mut lexer = Lexer::new(text, 0, false, &Limits::default());
            assert_eq!(lexer.next().unwrap().token, Token::Text(string.to_owned()), "{text}");
            assert_eq!(lexer.next().unwrap_err().position(), rest, "{text}");
            assert!(lex(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn other_characters_are_refused_where_they_stand() {
        for text in ["a.b", "a\u{a0}", "a ? b", "\"a\"", "a != b", "\u{feff}", "'a", "\u{b}", "é"] {
            assert!(lex(text, false).is_err() && lex(text, true).is_err(), "{text}");
        }
    }
}
