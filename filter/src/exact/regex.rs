//! Java's regular expressions in linear time.
//!
//! The pattern is rewritten for the crate `regex`, whose automata take time in proportion to the text.
//! What they cannot do is refused: look-around, back-references, possessive and atomic groups. Nothing is
//! passed on as it is written: every character and class becomes a class of code points, so that `.` stops
//! at every line end that Java knows, `\d`, `\w`, `\s` and POSIX classes are ASCII, and `(?i)` folds ASCII
//! only.
//!
//! `$` also matches before a last line end, and what follows it may match that line end: it looks ahead,
//! which automata do not. So the byte [`MARK`], which no text holds, is put before a last line end; `$` is
//! the end of a line that ends with it, and whatever may match a line end skips it.

use std::{borrow::Cow, fmt::Write};

use regex::bytes::{Regex, RegexBuilder};

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// Whether it has a `$` or `\Z`.
    marks: bool,
}

/// Why a pattern is not compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Java refuses it too.
    Malformed,
    /// Java takes it.
    Unsupported(&'static str),
}

use Refusal::{Malformed, Unsupported};

const LOOKS: Refusal = Unsupported(
    "look-around, back-references and atomic groups are not part of REGEX here, because it takes linear time",
);
const POSSESSIVE: Refusal = Unsupported("possessive quantifiers are not part of REGEX here");
const ESCAPE: Refusal = Unsupported("this escape is not part of REGEX here");
const FLAG: Refusal = Unsupported("REGEX takes no flags but (?i) and (?s) here");
const PROPERTY: Refusal = Unsupported("this property of characters is not part of REGEX here");
const INTERSECTION: Refusal = Unsupported("this use of && is not part of REGEX here");
const DEPTH: Refusal = Unsupported("this regular expression is nested too deeply");

/// How much memory a compiled pattern may take, in bytes.
const COMPILED_MAX: usize = 1 << 20;

/// How deep groups and classes may be nested. What they are rewritten to is nested deeper, but not beyond
/// the limit of the automata, so that its being exceeded is never taken for an error of the pattern.
const DEPTH_MAX: usize = 40;
const NEST_LIMIT: u32 = 250;

/// Stands before the last line end.
const MARK: u8 = 0xFF;

/// Every line end of Java.
const LINE_ENDS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
/// The same as a character class without its brackets.
const LINE_END: &str = r"\n\r\x{85}\x{2028}\x{2029}";
const VERTICAL: &str = r"\n\x0B\f\r\x{85}\x{2028}\x{2029}";
const HORIZONTAL: &str = r" \t\x{A0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}";
const EVERYTHING: &str = r"\x{0}-\x{10FFFF}";
/// A class that nothing is in.
const NOTHING: &str = "[a&&b]";

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, Refusal> {
        let mut translator = Translator::new(pattern);
        translator.translate()?;
        let built = RegexBuilder::new(&translator.out)
            .size_limit(COMPILED_MAX)
            .dfa_size_limit(COMPILED_MAX)
            .nest_limit(NEST_LIMIT)
            .line_terminator(MARK)
            .build();
        match built {
            Ok(regex) => Ok(Self { regex, marks: translator.marks }),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(Unsupported("this regular expression is too large when compiled"))
            }
            Err(_) => Err(Malformed),
        }
    }

    fn mark<'a>(&self, text: &'a str) -> Marked<'a> {
        let last = text.chars().next_back().filter(|last| self.marks && LINE_ENDS.contains(last));
        let mark = last.map(|last| text.len() - if text.ends_with("\r\n") { 2 } else { last.len_utf8() });
        let bytes = match mark.and_then(|mark| text.as_bytes().split_at_checked(mark)) {
            Some((before, after)) => Cow::Owned([before, &[MARK], after].concat()),
            None => Cow::Borrowed(text.as_bytes()),
        };
        Marked { bytes, mark }
    }

    /// Whether some part of `text` matches.
    pub(super) fn finds(&self, text: &str) -> bool {
        self.regex.is_match(&self.mark(text).bytes)
    }

    /// `String.split`: a positive limit bounds the parts, 0 drops empty ones at the end. `None` if there
    /// are more than `max`.
    pub(super) fn split(&self, text: &str, limit: i32, max: usize) -> Option<Vec<String>> {
        let bound = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let marked = self.mark(text);
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some(from) = marked.from(at)
            && let Some(found) = self.regex.find_at(&marked.bytes, from)
        {
            if parts.len() + 1 >= bound {
                break;
            }
            let found = marked.original(found.start())..marked.original(found.end());
            at = after(text, &found);
            // An empty match at the start gives no empty part.
            if found.end == 0 {
                continue;
            }
            if parts.len() >= max {
                return None;
            }
            parts.push(text.get(start..found.start)?.to_owned());
            start = found.end;
        }
        if parts.len() >= max {
            return None;
        }
        parts.push(text.get(start..)?.to_owned());
        if limit == 0 && parts.len() > 1 {
            while parts.last().is_some_and(String::is_empty) {
                parts.pop();
            }
        }
        Some(parts)
    }

    /// `String.replaceAll`. `None` if the replacement names a group that does not exist, or the result is
    /// longer than `max`.
    pub(super) fn replace_all(&self, text: &str, replacement: &str, max: usize) -> Option<String> {
        let marked = self.mark(text);
        let mut result = String::new();
        let (mut start, mut at) = (0, 0);
        while let Some(from) = marked.from(at)
            && let Some(captures) = self.regex.captures_at(&marked.bytes, from)
        {
            let found = captures.get(0)?;
            let found = marked.original(found.start())..marked.original(found.end());
            result.push_str(text.get(start..found.start)?);
            let group = |group: Option<regex::bytes::Match<'_>>| match group {
                Some(group) => text.get(marked.original(group.start())..marked.original(group.end())),
                None => Some(""),
            };
            self.expand(&captures, group, replacement, &mut result)?;
            start = found.end;
            at = after(text, &found);
            if result.len() > max {
                return None;
            }
        }
        result.push_str(text.get(start..)?);
        (result.len() <= max).then_some(result)
    }

    /// Appends a replacement: `$1` and `${name}` are groups, a backslash takes the next character as it is.
    fn expand<'a, 'h>(
        &self,
        captures: &regex::bytes::Captures<'h>,
        text_of: impl Fn(Option<regex::bytes::Match<'h>>) -> Option<&'a str>,
        replacement: &str,
        result: &mut String,
    ) -> Option<()> {
        let mut chars = replacement.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' => result.push(chars.next()?),
                '$' if chars.next_if_eq(&'{').is_some() => {
                    let mut name = String::new();
                    loop {
                        match chars.next()? {
                            '}' => break,
                            c if c.is_ascii_alphanumeric() => name.push(c),
                            _ => return None,
                        }
                    }
                    if !self.regex.capture_names().flatten().any(|known| known == name) {
                        return None;
                    }
                    result.push_str(text_of(captures.name(&name))?);
                }
                '$' => {
                    let mut group = usize::try_from(chars.next()?.to_digit(10)?).ok()?;
                    if group >= captures.len() {
                        return None;
                    }
                    // Further digits belong to the number as long as there is such a group.
                    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                        let longer = group * 10 + usize::try_from(digit).ok()?;
                        if longer >= captures.len() {
                            break;
                        }
                        group = longer;
                        chars.next();
                    }
                    result.push_str(text_of(captures.get(group))?);
                }
                c => result.push(c),
            }
        }
        Some(())
    }
}

/// A text with the mark.
struct Marked<'a> {
    bytes: Cow<'a, [u8]>,
    mark: Option<usize>,
}

impl Marked<'_> {
    /// Where to go on from a place in the text, unless it is beyond the end.
    fn from(&self, place: usize) -> Option<usize> {
        let place = place + usize::from(self.mark.is_some_and(|mark| place > mark));
        (place <= self.bytes.len()).then_some(place)
    }

    /// The place in the text.
    fn original(&self, place: usize) -> usize {
        place - usize::from(self.mark.is_some_and(|mark| place > mark))
    }
}

/// Where Java looks on after a match: behind it, where an empty one may follow, or behind the next
/// character if it is empty.
fn after(text: &str, found: &std::ops::Range<usize>) -> usize {
    if !found.is_empty() {
        return found.end;
    }
    let next = text.get(found.end..).and_then(|rest| rest.chars().next());
    found.end + next.map_or(1, char::len_utf8)
}

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
struct Translator {
    chars: Vec<char>,
    at: usize,
    flags: Flags,
    out: String,
    marks: bool,
}

impl Translator {
    fn new(pattern: &str) -> Self {
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

    fn translate(&mut self) -> Result<(), Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).unwrap().finds(text)
    }

    #[test]
    fn patterns_mean_what_they_mean_in_java() {
        for (pattern, text, expected) in [
            ("^r.*d$", "round", true),
            ("^r.*d$", "round\n", true),
            ("^r.*d$", "ro\nund", false),
            ("a.b", "a\rb", false),
            ("a.b", "a\u{85}b", false),
            ("a.b", "a😀b", true),
            (r"\d", "٥", false),
            (r"^\w+$", "é", false),
            (r"[\d-]x", "-x", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b", "axb", false),
            (r"\u0041\x42\0103", "ABC", true),
            ("[]a]", "]", true),
            // Only ASCII is folded.
            ("(?i)É", "é", false),
            ("(?i)s", "ſ", false),
            ("(?i)[k-m]", "K", true),
            ("(?i)[^a]", "A", false),
            ("a(?i:b)c", "aBC", false),
            ("a((?i)b)c", "aBc", true),
            ("(?i)a(?-i)b", "AB", false),
            ("(?i)\\p{Lu}", "é", true),
            // Properties.
            (r"\p{Alpha}", "é", false),
            (r"\p{Alpha}", "e", true),
            (r"\p{Punct}", "$", true),
            (r"\p{Digit}", "٥", false),
            (r"\p{Nd}", "٥", true),
            (r"\pL", "é", true),
            (r"\P{L}", "é", false),
            (r"[^\P{Lu}]", "É", true),
            (r"\p{IsAlphabetic}", "é", true),
            (r"\p{IsLatin}\p{sc=Greek}", "éα", true),
            (r"\x{1F600}", "😀", true),
            (r"\ud83d\ude00", "😀", true),
            (r"[\ud83d\ude00-\x{1F603}]", "\u{1F602}", true),
            (r"\ud83d", "😀", false),
            // The end is before the last line end too, which may follow.
            ("a$\n", "a\n", true),
            ("$\n", "a\n", true),
            ("a\\Z\n", "a\n", true),
            ("a$\r\n$", "a\r\n", true),
            ("a$.", "a\n", false),
            ("(?s)a$.", "a\n", true),
            ("a$$[^b]", "a\u{2028}", true),
            ("a$b", "a\nb", false),
            ("a$", "a\n\n", false),
            ("^$", "\n", true),
            (r"a\z", "a\n", false),
            (r"a\n\z|$b", "a\n", true),
            // Brackets in brackets are classes.
            ("[[:alpha:]]", ":", true),
            ("[a[b-d]]", "c", true),
            ("[a-z&&^b]", "b", true),
            ("[~]", "~", true),
            ("[a~~b]", "~", true),
            (r"[\Qa-c\E]", "b", false),
            (r"^\v$", "\u{b}", true),
            (r"\cA", "\u{1}", true),
            ("(?s).", "\n", true),
            // A quantifier behind another one counts nothing.
            ("^a{1}{2}$", "aa", false),
            ("{2}a", "a", true),
            ("[a-c&&[^b]]", "b", false),
            ("(?i)ABC", "abc", true),
            ("(?<x>a)b", "ab", true),
            ("a{2,3}", "aa", true),
            ("", "anything", true),
        ] {
            assert_eq!(finds(pattern, text), expected, "{pattern} in {text:?}");
        }
    }

    #[test]
    fn what_takes_more_than_linear_time_is_refused() {
        for pattern in [
            "(?=a)",
            "(?<!a)b",
            r"(a)\1",
            "(?>a)",
            "a*+",
            "(a{1000}){1000}",
            r"\k<x>",
            "(?m)^a",
            r"\p{InGreek}",
            r"\X",
            r"\R{2}",
            r"\R+?",
        ] {
            assert!(matches!(Pattern::new(pattern), Err(Unsupported(_))), "{pattern}");
        }
        for pattern in [
            "(",
            "[",
            "a**",
            "\\",
            "*a",
            "a{",
            r"\y",
            "a*?*",
            "a??*",
            "a*??",
            "a{2}?*",
            "[a--b]",
            "(?<a_b>a)",
            r"\N",
            r"\p{alpha}",
            r"[a-\d]",
            "a)",
        ] {
            assert_eq!(Pattern::new(pattern).err(), Some(Malformed), "{pattern}");
        }
    }

    #[test]
    fn text_is_split_and_replaced_as_java_does() {
        let split = |pattern, text, limit| Pattern::new(pattern).unwrap().split(text, limit, 100).unwrap();
        assert_eq!(split(",", "a,b,,", 0), ["a", "b"]);
        assert_eq!(split(",", "a,b,,", -1), ["a", "b", "", ""]);
        assert_eq!(split(",", "a,b,c", 2), ["a", "b,c"]);
        assert_eq!(split(",", ",a", 0), ["", "a"]);
        assert_eq!(split("", "abc", 0), ["a", "b", "c"]);
        assert_eq!(split("", "ab", -1), ["a", "b", ""]);
        assert_eq!(split(",", "", 0), [""]);
        assert_eq!(split(",", ",", 0), Vec::<String>::new());
        assert!(Pattern::new("").unwrap().split("abc", 0, 2).is_none());
        // An empty match may lie right behind another match.
        assert_eq!(split("b*", "abab", -1), ["a", "", "a", "", ""]);
        assert_eq!(split("$", "a\n", -1), ["a", "\n", ""]);
        let replace = |pattern, text, with| Pattern::new(pattern).unwrap().replace_all(text, with, 100);
        assert_eq!(replace("o", "foo", "0").as_deref(), Some("f00"));
        assert_eq!(replace("(a)(b)", "ab", r"$2$1\$$11").as_deref(), Some("ba$a1"));
        assert_eq!(replace("(?<x>a)", "a", "${x}!").as_deref(), Some("a!"));
        assert_eq!(replace("b*", "abab", "-").as_deref(), Some("-a--a--"));
        assert_eq!(replace("a|", "ba", "-").as_deref(), Some("-b--"));
        assert_eq!(replace("(b)?", "ab", "<$1>").as_deref(), Some("<>a<b><>"));
        assert_eq!(replace("x*", "é", "-").as_deref(), Some("-é-"));
        assert_eq!(replace("$", "a\n", "!").as_deref(), Some("a!\n!"));
        assert_eq!(replace("(a$)(\n)", "a\n", "$2$1").as_deref(), Some("\na"));
        assert_eq!(replace("a", "a", "$1"), None);
        assert_eq!(replace("a", "b", "$1").as_deref(), Some("b"));
        assert_eq!(replace("a", "aaaa", &"b".repeat(50)), None);
    }
}
