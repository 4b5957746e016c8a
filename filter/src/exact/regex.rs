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

mod translate;

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

use translate::Translator;

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

/// How much memory a compiled pattern may take, in bytes.
const COMPILED_MAX: usize = 1 << 20;

/// How deep what is built may be nested: beyond what `DEPTH_MAX` levels of a pattern are rewritten to.
const NEST_LIMIT: u32 = 250;

/// Stands before the last line end.
const MARK: u8 = 0xFF;

/// Every line end of Java.
const LINE_ENDS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

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
