//! Rewrites patterns of Java for the crate `regex`, one construct after the other.
//!
//! Nothing is passed on as it is written: characters and classes become classes of code points.

use std::fmt::Write;

use super::{
    LINE_ENDS,
    Refusal::{self, Malformed, Unsupported},
};

const LOOKS: Refusal = Unsupported(
    "look-around, back-references and atomic groups are not part of REGEX here, because it takes linear time",
);
const POSSESSIVE: Refusal = Unsupported("possessive quantifiers are not part of REGEX here");
const ESCAPE: Refusal = Unsupported("this escape is not part of REGEX here");
const FLAG: Refusal = Unsupported("REGEX takes no flags but (?i) and (?s) here");
const PROPERTY: Refusal = Unsupported("this property of characters is not part of REGEX here");
const INTERSECTION: Refusal = Unsupported("this use of && is not part of REGEX here");
const DEPTH: Refusal = Unsupported("this regular expression is nested too deeply");

/// How deep groups and classes may be nested. What they are rewritten to is nested deeper, but not beyond
/// the limit of the automata, so that its being exceeded is never taken for an error of the pattern.
const DEPTH_MAX: usize = 40;

/// Every line end of Java, as a character class without its brackets.
const LINE_END: &str = r"\n\r\x{85}\x{2028}\x{2029}";
const VERTICAL: &str = r"\n\x0B\f\r\x{85}\x{2028}\x{2029}";
const HORIZONTAL: &str = r" \t\x{A0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}";
const EVERYTHING: &str = r"\x{0}-\x{10FFFF}";
/// A class that nothing is in.
const NOTHING: &str = "[a&&b]";

#[derive(Clone, Copy, Default)]
struct Flags {
    /// `(?i)`.
    fold: bool,
    /// `(?s)`.
    dot_all: bool,
}

/// A character class as it is written between brackets.
struct Set {
    text: String,
    /// Whether it may hold a line end.
    ends_lines: bool,
}

impl Set {
    fn new(text: &str, ends_lines: bool) -> Self {
        Self { text: text.to_owned(), ends_lines }
    }

    fn negated(&self) -> Self {
        Self { text: format!("[^{}]", self.text), ends_lines: true }
    }
}

/// What an escape is.
enum Escape {
    Code(u32),
    Set(Set),
    /// A condition on a place.
    Place(&'static str),
    /// `\Z`.
    End,
    /// `\R`.
    LineEnd,
}

/// Where an escape is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Pattern,
    Class,
    /// In a class, at the start of a range.
    RangeStart,
    /// In a class, at the end of a range.
    RangeEnd,
}

/// Rewrites a pattern of Java.
pub(super) struct Translator {
    chars: Vec<char>,
    at: usize,
    flags: Flags,
    pub(super) out: String,
    pub(super) marks: bool,
}

impl Translator {
    pub(super) fn new(pattern: &str) -> Self {
        let chars = without_quotes(pattern);
        // It does not matter if this is too often true.
        let marks = chars.iter().any(|c| matches!(c, '$' | 'Z'));
        Self { chars, at: 0, flags: Flags::default(), out: String::with_capacity(pattern.len()), marks }
    }

    fn peek(&self) -> Option<char> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.peek();
        self.at += usize::from(taken.is_some());
        taken
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub(super) fn translate(&mut self) -> Result<(), Refusal> {
        // The flags outside of each open group.
        let mut outside = Vec::new();
        // Whether what was written last can have a quantifier.
        let mut quantifiable = false;
        // Whether that is `\R`. Counted or lazy, Java never takes its `\r\n` apart.
        let mut line_end = false;
        while let Some(c) = self.take() {
            let was_quantifiable = std::mem::replace(&mut quantifiable, true);
            let was_line_end = std::mem::take(&mut line_end);
            match c {
                '\\' => match self.escape(Within::Pattern)? {
                    Escape::Code(code) => self.put_code(code),
                    Escape::Set(set) => self.put(&set),
                    // It is where neither side is a letter, but text that is marked is not looked through.
                    Escape::Place(r"\B") if self.marks => return Err(ESCAPE),
                    Escape::Place(place) => self.out.push_str(place),
                    Escape::End => self.out.push_str("(?m:$)"),
                    Escape::LineEnd => {
                        line_end = true;
                        let mark = self.skipped_mark();
                        let _ = write!(self.out, r"(?:{mark}(?:\r\n|[{VERTICAL}]))");
                    }
                },
                '[' => {
                    let set = self.class(0)?;
                    self.put(&set);
                }
                '.' if self.flags.dot_all => self.put(&Set::new(EVERYTHING, true)),
                '.' => self.put(&Set::new(&format!("[^{LINE_END}]"), false)),
                '^' => self.out.push_str(r"\A"),
                '$' => self.out.push_str("(?m:$)"),
                '|' => {
                    self.out.push('|');
                    quantifiable = false;
                }
                '(' => {
                    quantifiable = false;
                    let flags = self.flags;
                    if self.open()? {
                        outside.push(flags);
                        if outside.len() > DEPTH_MAX {
                            return Err(DEPTH);
                        }
                    }
                }
                ')' => {
                    self.flags = outside.pop().ok_or(Malformed)?;
                    self.out.push(')');
                }
                '{' if was_line_end => return Err(ESCAPE),
                '*' | '+' | '?' if was_line_end && self.peek() == Some('?') => return Err(ESCAPE),
                '*' | '+' | '?' if was_quantifiable => {
                    self.out.push(c);
                    self.laziness(true)?;
                    quantifiable = false;
                }
                '*' | '+' | '?' => return Err(Malformed),
                '{' => {
                    self.count(was_quantifiable)?;
                    quantifiable = false;
                }
                c => self.put_code(c.into()),
            }
        }
        if outside.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// What skips the mark.
    fn skipped_mark(&self) -> &'static str {
        if self.marks { r"(?-u:\xFF)?" } else { "" }
    }

    fn put(&mut self, set: &Set) {
        let text = &set.text;
        let _ = if self.marks && set.ends_lines {
            write!(self.out, "(?:{}[{text}])", self.skipped_mark())
        } else {
            write!(self.out, "[{text}]")
        };
    }

    fn put_code(&mut self, code: u32) {
        match char::from_u32(code) {
            Some(c) if c.is_ascii_alphanumeric() && !self.flags.fold => self.out.push(c),
            _ => {
                let mut set = Set::new("", false);
                self.push_range(&mut set, code, code);
                self.put(&set);
            }
        }
    }

    /// Adds the characters of a range. There are no surrogates in any text here.
    fn push_range(&self, set: &mut Set, low: u32, high: u32) {
        let from = if (0xD800..0xE000).contains(&low) { 0xE000 } else { low };
        let to = if (0xD800..0xE000).contains(&high) { 0xD7FF } else { high };
        if from > to {
            set.text.push_str(NOTHING);
            return;
        }
        set.ends_lines |= LINE_ENDS.iter().any(|end| (from..=to).contains(&u32::from(*end)));
        let mut push = |from: u32, to: u32| {
            let _ = write!(set.text, "\\x{{{from:x}}}-\\x{{{to:x}}}");
        };
        push(from, to);
        if self.flags.fold {
            for (first, last) in [('A', 'Z'), ('a', 'z')] {
                let (from, to) = (from.max(first.into()), to.min(last.into()));
                if from <= to {
                    push(from ^ 0x20, to ^ 0x20);
                }
            }
        }
    }

    /// The rest of what a bracket opens, if it is a group; flags for what follows are none.
    fn open(&mut self) -> Result<bool, Refusal> {
        if !self.take_if('?') {
            self.out.push('(');
            return Ok(true);
        }
        match self.peek() {
            Some('=' | '!' | '>') => return Err(LOOKS),
            Some('<') => {
                self.at += 1;
                if matches!(self.peek(), Some('=' | '!')) {
                    return Err(LOOKS);
                }
                let mut name = String::new();
                while let Some(c) = self.take() {
                    match c {
                        '>' if !name.is_empty() => {
                            let _ = write!(self.out, "(?<{name}>");
                            return Ok(true);
                        }
                        c if c.is_ascii_alphabetic() || (c.is_ascii_digit() && !name.is_empty()) => {
                            name.push(c);
                        }
                        _ => return Err(Malformed),
                    }
                }
                return Err(Malformed);
            }
            _ => {}
        }
        let mut on = true;
        loop {
            match self.take() {
                Some('i') => self.flags.fold = on,
                Some('s') => self.flags.dot_all = on,
                Some('-') => on = false,
                Some('m' | 'd' | 'u' | 'c' | 'x' | 'U') if on => return Err(FLAG),
                Some('m' | 'd' | 'u' | 'c' | 'x' | 'U') => {}
                Some(')') => return Ok(false),
                Some(':') => break,
                _ => return Err(Malformed),
            }
        }
        self.out.push_str("(?:");
        Ok(true)
    }

    /// What may follow a quantifier.
    fn laziness(&mut self, written: bool) -> Result<(), Refusal> {
        if self.take_if('+') {
            return if written { Err(POSSESSIVE) } else { Ok(()) };
        }
        if self.take_if('?') && written {
            self.out.push('?');
        }
        Ok(())
    }

    /// The rest of `{2}`, `{2,}` or `{2,3}`. Where there is nothing to count, it counts the empty text.
    fn count(&mut self, written: bool) -> Result<(), Refusal> {
        let low = self.digits().ok_or(Malformed)?;
        let mut high = Some(low);
        if self.take_if(',') {
            high = None;
            if self.peek() != Some('}') {
                high = Some(self.digits().ok_or(Malformed)?);
            }
        }
        if !self.take_if('}') || high.is_some_and(|high| high < low) {
            return Err(Malformed);
        }
        if written {
            let _ = match high {
                Some(high) => write!(self.out, "{{{low},{high}}}"),
                None => write!(self.out, "{{{low},}}"),
            };
        }
        self.laziness(written)
    }

    fn digits(&mut self) -> Option<i32> {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        digits.parse().ok()
    }

    /// The rest of a character class.
    fn class(&mut self, depth: usize) -> Result<Set, Refusal> {
        if depth > DEPTH_MAX {
            return Err(DEPTH);
        }
        let negated = self.take_if('^');
        // The sides of `&&` before, and the last one.
        let mut sides = String::new();
        let mut set = Set::new("", false);
        // Whether the last side starts with a class. Java drops that if more follows.
        let mut nested = false;
        loop {
            match self.peek().ok_or(Malformed)? {
                '[' => {
                    self.at += 1;
                    nested |= set.text.is_empty();
                    let inner = self.class(depth + 1)?;
                    set.ends_lines |= inner.ends_lines;
                    let _ = write!(set.text, "[{}]", inner.text);
                }
                ']' if !set.text.is_empty() => {
                    self.at += 1;
                    break;
                }
                '&' if self.peek_at(1) == Some('&') => {
                    if set.text.is_empty() {
                        return Err(INTERSECTION);
                    }
                    self.at += 2;
                    let _ = write!(sides, "[{}]&&", set.text);
                    set.text.clear();
                    nested = false;
                }
                c if !sides.is_empty() && (nested || c == '&' || (c == ']' && set.text.is_empty())) => {
                    return Err(INTERSECTION);
                }
                _ => self.range(&mut set)?,
            }
        }
        if !sides.is_empty() {
            set.text = format!("{sides}[{}]", set.text);
        }
        Ok(if negated { set.negated() } else { set })
    }

    /// A character, a range or an escape in a class.
    fn range(&mut self, set: &mut Set) -> Result<(), Refusal> {
        let low = match self.take().ok_or(Malformed)? {
            '\\' => {
                let starts = self.peek_at(1) == Some('-');
                match self.escape(if starts { Within::RangeStart } else { Within::Class })? {
                    Escape::Code(code) => code,
                    Escape::Set(inner) => {
                        set.ends_lines |= inner.ends_lines;
                        let _ = write!(set.text, "[{}]", inner.text);
                        return Ok(());
                    }
                    Escape::Place(_) | Escape::End | Escape::LineEnd => return Err(Malformed),
                }
            }
            c => u32::from(c),
        };
        let mut high = low;
        if self.peek() == Some('-') && !matches!(self.peek_at(1), Some('[' | ']')) {
            self.at += 1;
            high = match self.take().ok_or(Malformed)? {
                '\\' => match self.escape(Within::RangeEnd)? {
                    Escape::Code(code) => code,
                    _ => return Err(Malformed),
                },
                c => c.into(),
            };
        }
        if high < low {
            return Err(Malformed);
        }
        self.push_range(set, low, high);
        Ok(())
    }

    /// The rest of an escape.
    fn escape(&mut self, within: Within) -> Result<Escape, Refusal> {
        const DIGIT: &str = "0-9";
        const WORD: &str = "a-zA-Z_0-9";
        const SPACE: &str = r" \t\n\x0B\f\r";
        let set = |text, ends_lines| Escape::Set(Set::new(text, ends_lines));
        let not = |text| Escape::Set(Set::new(text, true).negated());
        Ok(match self.take().ok_or(Malformed)? {
            'A' | 'B' | 'G' | 'R' | 'X' | 'Z' | 'b' | 'k' | 'z' | '1'..='9' if within != Within::Pattern => {
                return Err(Malformed);
            }
            'k' | '1'..='9' => return Err(LOOKS),
            'G' | 'X' => return Err(ESCAPE),
            // A character by its name.
            'N' if self.peek() == Some('{') => return Err(ESCAPE),
            'A' => Escape::Place(r"\A"),
            'B' => Escape::Place(r"\B"),
            'b' if self.peek() == Some('{') && self.peek_at(1) == Some('g') => return Err(ESCAPE),
            'b' => Escape::Place(r"\b"),
            'z' => Escape::Place(r"\z"),
            'Z' => Escape::End,
            'R' => Escape::LineEnd,
            'd' => set(DIGIT, false),
            'D' => not(DIGIT),
            'w' => set(WORD, false),
            'W' => not(WORD),
            's' => set(SPACE, true),
            'S' => not(SPACE),
            'h' => set(HORIZONTAL, false),
            'H' => not(HORIZONTAL),
            'v' if matches!(within, Within::RangeStart | Within::RangeEnd) => Escape::Code(0x0B),
            'v' => set(VERTICAL, true),
            'V' => not(VERTICAL),
            'p' if within != Within::RangeEnd => Escape::Set(self.property()?),
            'P' if within != Within::RangeEnd => Escape::Set(self.property()?.negated()),
            'a' => Escape::Code(0x07),
            'e' => Escape::Code(0x1B),
            'f' => Escape::Code(0x0C),
            'n' => Escape::Code(0x0A),
            'r' => Escape::Code(0x0D),
            't' => Escape::Code(0x09),
            'c' => Escape::Code(u32::from(self.take().ok_or(Malformed)?) ^ 64),
            '0' => Escape::Code(self.octal()?),
            'x' => Escape::Code(self.hexadecimal()?),
            'u' => Escape::Code(self.utf16()?),
            c if c.is_ascii_alphabetic() => return Err(Malformed),
            c => Escape::Code(c.into()),
        })
    }

    fn octal(&mut self) -> Result<u32, Refusal> {
        let mut code = 0;
        let mut digits = 0;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(8))
            && digits < 3
            && code * 8 + digit <= 0o377
        {
            code = code * 8 + digit;
            digits += 1;
            self.at += 1;
        }
        if digits == 0 { Err(Malformed) } else { Ok(code) }
    }

    fn hexadecimal(&mut self) -> Result<u32, Refusal> {
        if !self.take_if('{') {
            return self.hexadecimal_digits(2);
        }
        let mut code = 0;
        let mut digits = 0;
        loop {
            match self.take().ok_or(Malformed)? {
                '}' if digits > 0 => return Ok(code),
                c => code = code * 16 + c.to_digit(16).ok_or(Malformed)?,
            }
            digits += 1;
            if code > u32::from(char::MAX) {
                return Err(Malformed);
            }
        }
    }

    fn hexadecimal_digits(&mut self, count: usize) -> Result<u32, Refusal> {
        let mut code = 0;
        for _ in 0..count {
            code = code * 16 + self.take().and_then(|c| c.to_digit(16)).ok_or(Malformed)?;
        }
        Ok(code)
    }

    /// Two surrogates are one character.
    fn utf16(&mut self) -> Result<u32, Refusal> {
        let first = self.hexadecimal_digits(4)?;
        let end = self.at;
        if (0xD800..0xDC00).contains(&first) && self.take_if('\\') && self.take_if('u') {
            let second = self.hexadecimal_digits(4)?;
            if (0xDC00..0xE000).contains(&second) {
                return Ok(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00));
            }
        }
        self.at = end;
        Ok(first)
    }

    /// The rest of `\pL` or `\p{Lu}`.
    fn property(&mut self) -> Result<Set, Refusal> {
        let mut name = String::new();
        match self.take().ok_or(Malformed)? {
            '{' => loop {
                match self.take().ok_or(Malformed)? {
                    '}' => break,
                    c => name.push(c),
                }
            },
            c => name.push(c),
        }
        let text = if let Some((key, value)) = name.split_once('=') {
            match &*key.to_ascii_lowercase() {
                "sc" | "script" => script(value)?,
                "gc" | "general_category" => self.category(value).ok_or(Malformed)?,
                "blk" | "block" => return Err(PROPERTY),
                _ => return Err(Malformed),
            }
        } else if name.starts_with("In") || name.starts_with("java") {
            return Err(PROPERTY);
        } else if let Some(name) = name.strip_prefix("Is") {
            match &*name.to_ascii_uppercase() {
                "ALPHABETIC" => r"\p{Alphabetic}".to_owned(),
                "IDEOGRAPHIC" => r"\p{Ideographic}".to_owned(),
                "LETTER" => r"\p{L}".to_owned(),
                "LOWERCASE" | "UPPERCASE" | "TITLECASE" if self.flags.fold => {
                    r"\p{Lowercase}\p{Uppercase}\p{Lt}".to_owned()
                }
                "LOWERCASE" => r"\p{Lowercase}".to_owned(),
                "UPPERCASE" => r"\p{Uppercase}".to_owned(),
                "TITLECASE" => r"\p{Lt}".to_owned(),
                "WHITE_SPACE" | "WHITESPACE" => r"\p{White_Space}".to_owned(),
                "CONTROL" => r"\p{Cc}".to_owned(),
                "PUNCTUATION" => r"\p{P}".to_owned(),
                "DIGIT" => r"\p{Nd}".to_owned(),
                "ASSIGNED" => r"\P{Cn}".to_owned(),
                "HEX_DIGIT"
                | "HEXDIGIT"
                | "NONCHARACTER_CODE_POINT"
                | "NONCHARACTERCODEPOINT"
                | "ALNUM"
                | "BLANK"
                | "GRAPH"
                | "PRINT"
                | "WORD"
                | "JOIN_CONTROL"
                | "JOINCONTROL" => {
                    return Err(PROPERTY);
                }
                _ => match self.category(name) {
                    Some(category) => category,
                    None => script(name)?,
                },
            }
        } else {
            self.category(&name).ok_or(Malformed)?
        };
        Ok(Set { text, ends_lines: true })
    }

    /// A general category, or a class of POSIX.
    fn category(&self, name: &str) -> Option<String> {
        let text = match name {
            "Lu" | "Ll" | "Lt" if self.flags.fold => r"\p{Lu}\p{Ll}\p{Lt}",
            "Lower" | "Upper" if self.flags.fold => "A-Za-z",
            "LC" => r"\p{Lu}\p{Ll}\p{Lt}",
            "LD" => r"\p{L}\p{Nd}",
            "L1" => r"\x{0}-\x{FF}",
            "all" => EVERYTHING,
            "Cs" => NOTHING,
            "ASCII" => r"\x{0}-\x{7F}",
            "Alnum" => "A-Za-z0-9",
            "Alpha" => "A-Za-z",
            "Blank" => r" \t",
            "Cntrl" => r"\x{0}-\x{1F}\x{7F}",
            "Digit" => "0-9",
            "Graph" => r"\x{21}-\x{7E}",
            "Lower" => "a-z",
            "Print" => r"\x{20}-\x{7E}",
            "Punct" => r"\x{21}-\x{2F}\x{3A}-\x{40}\x{5B}-\x{60}\x{7B}-\x{7E}",
            "Space" => r" \t\n\x0B\f\r",
            "Upper" => "A-Z",
            "XDigit" => "0-9A-Fa-f",
            "Cn" | "Lu" | "Ll" | "Lt" | "Lm" | "Lo" | "Mn" | "Me" | "Mc" | "Nd" | "Nl" | "No" | "Zs"
            | "Zl" | "Zp" | "Cc" | "Cf" | "Co" | "Pd" | "Ps" | "Pe" | "Pc" | "Po" | "Sm" | "Sc" | "Sk"
            | "So" | "Pi" | "Pf" | "L" | "M" | "N" | "Z" | "C" | "P" | "S" => {
                return Some(format!("\\p{{{name}}}"));
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// A script, if it is one that both know.
fn script(name: &str) -> Result<String, Refusal> {
    let text = format!("\\p{{sc={name}}}");
    let known =
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && regex::Regex::new(&text).is_ok();
    if known { Ok(text) } else { Err(PROPERTY) }
}

/// Writes what lies between `\Q` and `\E` with escapes, as Java does before it reads the pattern.
fn without_quotes(pattern: &str) -> Vec<char> {
    let mut chars = Vec::with_capacity(pattern.len());
    let mut quoted = false;
    let mut rest = pattern.chars();
    // Whether the first character of a quote is next.
    let mut starts = false;
    while let Some(c) = rest.next() {
        let first = std::mem::take(&mut starts);
        match c {
            '\\' if quoted && rest.as_str().starts_with('E') => {
                rest.next();
                quoted = false;
            }
            '\\' if !quoted && rest.as_str().starts_with('Q') => {
                rest.next();
                (quoted, starts) = (true, true);
            }
            '\\' if !quoted => {
                chars.push(c);
                chars.extend(rest.next());
            }
            // Such a digit is not to be one of an escape before.
            c if quoted && first && c.is_ascii_digit() => chars.extend(['\\', 'x', '3', c]),
            c if quoted && c.is_ascii() && !c.is_ascii_alphanumeric() => chars.extend(['\\', c]),
            c => chars.push(c),
        }
    }
    chars
}
