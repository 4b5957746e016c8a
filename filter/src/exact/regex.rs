//! Java's regular expressions in linear time.
//!
//! The pattern is rewritten for the crate `regex`, whose automata take time in proportion to the text.
//! What they cannot do is refused: look-around, back-references, possessive and atomic groups. `.` stops at
//! every line end that Java knows, `$` also matches before a last one, `\d`, `\w` and `\s` are ASCII.

use std::fmt::Write;

use regex::{Regex, RegexBuilder};

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern(Regex);

/// Why a pattern is not compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Java refuses it too.
    Malformed,
    /// Java takes it.
    Unsupported(&'static str),
}

/// How much memory a compiled pattern may take, in bytes.
const COMPILED_MAX: usize = 1 << 20;

/// Every line end of Java, as a character class without its brackets.
const LINE_ENDS: &str = r"\n\r\u{85}\u{2028}\u{2029}";

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, Refusal> {
        let translated = translate(pattern)?;
        let built = RegexBuilder::new(&translated)
            .size_limit(COMPILED_MAX)
            .dfa_size_limit(COMPILED_MAX)
            .nest_limit(64)
            .build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                Refusal::Unsupported("this regular expression is too large when compiled")
            }
            _ => Refusal::Malformed,
        })
    }

    /// Whether some part of `text` matches.
    pub(super) fn finds(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// `String.split`: a positive limit bounds the parts, 0 drops empty ones at the end. `None` if there
    /// are more than `max`.
    pub(super) fn split(&self, text: &str, limit: i32, max: usize) -> Option<Vec<String>> {
        let bound = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        let mut start = 0;
        for found in self.0.find_iter(text) {
            if parts.len() + 1 >= bound {
                break;
            }
            // An empty match at the start gives no empty part.
            if found.end() == 0 {
                continue;
            }
            if parts.len() >= max {
                return None;
            }
            parts.push(text.get(start..found.start())?.to_owned());
            start = found.end();
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
        let mut result = String::new();
        let mut start = 0;
        for captures in self.0.captures_iter(text) {
            let found = captures.get(0)?;
            result.push_str(text.get(start..found.start())?);
            self.expand(&captures, replacement, &mut result)?;
            start = found.end();
            if result.len() > max {
                return None;
            }
        }
        result.push_str(text.get(start..)?);
        (result.len() <= max).then_some(result)
    }

    /// Appends a replacement: `$1` and `${name}` are groups, a backslash takes the next character as it is.
    fn expand(&self, captures: &regex::Captures<'_>, replacement: &str, result: &mut String) -> Option<()> {
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
                    if !self.0.capture_names().flatten().any(|known| known == name) {
                        return None;
                    }
                    result.push_str(captures.name(&name).map_or("", |group| group.as_str()));
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
                    result.push_str(captures.get(group).map_or("", |group| group.as_str()));
                }
                c => result.push(c),
            }
        }
        Some(())
    }
}

/// Rewrites a pattern of Java.
fn translate(pattern: &str) -> Result<String, Refusal> {
    const LOOKS: Refusal = Refusal::Unsupported(
        "look-around, back-references and atomic groups are not part of REGEX here, because it takes linear time",
    );
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    // How many brackets of character classes are open.
    let mut class = 0_usize;
    // Whether what was written last is a quantifier.
    let mut quantified = false;
    while let Some(c) = chars.next() {
        let was_quantified = std::mem::take(&mut quantified);
        match c {
            '\\' => match chars.next().ok_or(Refusal::Malformed)? {
                'Q' => {
                    let rest: String = chars.clone().collect();
                    let literal = rest.split_once("\\E").map_or(&*rest, |(literal, _)| literal);
                    out.push_str(&regex::escape(literal));
                    let skipped = literal.chars().count() + if literal.len() < rest.len() { 2 } else { 0 };
                    chars.nth(skipped.wrapping_sub(1)).filter(|_| skipped > 0);
                }
                'd' => out.push_str("[0-9]"),
                'D' => out.push_str("[^0-9]"),
                'w' => out.push_str("[a-zA-Z_0-9]"),
                'W' => out.push_str("[^a-zA-Z_0-9]"),
                's' => out.push_str(r"[ \t\n\x0B\f\r]"),
                'S' => out.push_str(r"[^ \t\n\x0B\f\r]"),
                'h' => out.push_str(r"[ \t\u{A0}\u{1680}\u{180e}\u{2000}-\u{200a}\u{202f}\u{205f}\u{3000}]"),
                'H' => out.push_str(r"[^ \t\u{A0}\u{1680}\u{180e}\u{2000}-\u{200a}\u{202f}\u{205f}\u{3000}]"),
                'e' => out.push_str(r"\x1B"),
                'R' if class == 0 => {
                    let _ = write!(out, r"(?:\r\n|[\x0B\f{LINE_ENDS}])");
                }
                'Z' if class == 0 => push_end(&mut out),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    match u32::from_str_radix(&digits, 16) {
                        Ok(code) if digits.len() == 4 => {
                            let _ = write!(out, "\\u{{{code:x}}}");
                        }
                        _ => return Err(Refusal::Malformed),
                    }
                }
                '0' => {
                    let mut code = 0;
                    let mut digits = 0;
                    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) {
                        if digits == 3 || code * 8 + digit > 0o377 {
                            break;
                        }
                        code = code * 8 + digit;
                        digits += 1;
                        chars.next();
                    }
                    if digits == 0 {
                        return Err(Refusal::Malformed);
                    }
                    let _ = write!(out, "\\u{{{code:x}}}");
                }
                'k' => return Err(LOOKS),
                c if c.is_ascii_digit() => return Err(LOOKS),
                'G' | 'X' | 'N' | 'c' | 'v' | 'V' => {
                    return Err(Refusal::Unsupported("this escape is not part of REGEX here"));
                }
                c @ ('a' | 'f' | 'n' | 'r' | 't' | 'x' | 'p' | 'P' | 'b' | 'B' | 'A' | 'z') => {
                    out.push('\\');
                    out.push(c);
                }
                c if c.is_ascii_alphabetic() => return Err(Refusal::Malformed),
                c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            },
            '[' => {
                class += 1;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that closes at once stands for itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            ']' if class > 0 => {
                class -= 1;
                out.push(']');
            }
            '~' if class > 0 => out.push_str("\\~"),
            '-' if class > 0 && chars.peek() == Some(&'-') => out.push_str("\\-"),
            c if class > 0 => out.push(c),
            ']' => out.push_str("\\]"),
            '}' => out.push('}'),
            '.' => {
                let _ = write!(out, "[^{LINE_ENDS}]");
            }
            '$' => push_end(&mut out),
            '(' => {
                out.push('(');
                if chars.next_if_eq(&'?').is_some() {
                    out.push('?');
                    match (chars.next(), chars.peek()) {
                        (Some(':'), _) => out.push(':'),
                        (Some('<'), Some(c)) if c.is_ascii_alphabetic() => out.push('<'),
                        (Some('=' | '!' | '>'), _) | (Some('<'), Some('=' | '!')) => return Err(LOOKS),
                        (Some('i'), Some(')' | ':')) => out.push('i'),
                        (Some('i' | 's' | 'm' | 'x' | 'u' | 'U' | 'd' | '-'), _) => {
                            return Err(Refusal::Unsupported("REGEX takes no flag but (?i) here"));
                        }
                        _ => return Err(Refusal::Malformed),
                    }
                }
            }
            '+' if was_quantified => {
                return Err(Refusal::Unsupported("possessive quantifiers are not part of REGEX here"));
            }
            '*' if was_quantified => return Err(Refusal::Malformed),
            '*' | '+' | '?' => {
                out.push(c);
                quantified = !was_quantified;
            }
            '{' => {
                out.push('{');
                loop {
                    match chars.next() {
                        Some(c) if c.is_ascii_digit() || c == ',' => out.push(c),
                        Some('}') => break,
                        _ => return Err(Refusal::Malformed),
                    }
                }
                out.push('}');
                quantified = true;
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// `$` and `\Z`: the end, or before the last line end.
fn push_end(out: &mut String) {
    let _ = write!(out, r"(?:\r\n|[{LINE_ENDS}])?\z");
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
        for pattern in ["(?=a)", "(?<!a)b", r"(a)\1", "(?>a)", "a*+", "a{1000}{1000}", r"\k<x>", "(?s)."] {
            assert!(matches!(Pattern::new(pattern), Err(Refusal::Unsupported(_))), "{pattern}");
        }
        for pattern in ["(", "[", "a**", "\\", "*a", "a{", r"\y"] {
            assert_eq!(Pattern::new(pattern).err(), Some(Refusal::Malformed), "{pattern}");
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
        let replace = |pattern, text, with| Pattern::new(pattern).unwrap().replace_all(text, with, 100);
        assert_eq!(replace("o", "foo", "0").as_deref(), Some("f00"));
        assert_eq!(replace("(a)(b)", "ab", r"$2$1\$$11").as_deref(), Some("ba$a1"));
        assert_eq!(replace("(?<x>a)", "a", "${x}!").as_deref(), Some("a!"));
        assert_eq!(replace("a", "a", "$1"), None);
        assert_eq!(replace("a", "b", "$1").as_deref(), Some("b"));
        assert_eq!(replace("a", "aaaa", &"b".repeat(50)), None);
    }
}
