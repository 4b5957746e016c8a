//! REGEXP: regular expressions that are matched in linear time and bounded in size.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// How large a compiled expression may be, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 18;
/// How much memory a thread that matches may use to remember states, in bytes. With less it matches more
/// slowly, still in linear time.
const CACHE_BYTES_MAX: usize = 1 << 18;
/// How deep groups may be nested.
const NEST_MAX: u32 = 32;

/// A compiled regular expression. Two are equal if their texts are.
#[derive(Clone)]
pub(crate) struct Regexp(Regex);

impl Regexp {
    /// Compiles a pattern, or says in one line why it is none.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let compiled = RegexBuilder::new(pattern)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(CACHE_BYTES_MAX)
            .nest_limit(NEST_MAX)
            .build();
        compiled.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "this regular expression is too large once compiled; \
                 repeat less, or write [0-9] for \\d and [A-Za-z] for letters"
                .to_owned(),
            // The last line says what is wrong; those before show the place.
            error => {
                let message = error.to_string();
                let reason = message.lines().last().unwrap_or_default();
                format!("this is no regular expression: {}", reason.trim_start_matches("error: "))
            }
        })
    }

    /// Returns whether the expression matches some part of `text`. Takes linear time.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Regexp {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Debug for Regexp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_or_too_large_is_refused_in_one_line() {
        for (pattern, part) in [
            ("(", "unclosed group"),
            ("a{5,2}", "invalid repetition"),
            ("(?=a)", "look-around"),
            ("(a)\\1", "backreferences"),
            (r"\w{200}", "too large"),
            ("(((((((((((((((((((((((((((((((((((((((a)))))))))))))))))))))))))))))))))))))))", "nest"),
        ] {
            let error = Regexp::new(pattern).unwrap_err();
            assert!(error.contains(part) && error.lines().count() == 1, "{pattern}: {error}");
        }
        assert!(Regexp::new(r"^[a-z]{2,8}-\d+$").is_ok());
    }
}
