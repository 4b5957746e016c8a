//! JSON_VALUE: one scalar out of a body, by its path.
//!
//! A body is read once from its beginning to its end, and nothing but the scalar is kept: no tree is built,
//! what lies beside the path is passed over without recursion, and memory does not grow with the body.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use weir_columns::Value;

use crate::functions::TEXT_BYTES_MAX;

/// How long a body may be, unpacked, in bytes. A longer one has no values.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;
/// How many steps a path may have.
const STEPS_MAX: usize = 16;

/// Where in a JSON document a value lies: `$`, then names of members and indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// To the member of an object with this name.
    Member(String),
    /// To the element of an array at this place, from 0.
    Element(usize),
}

impl JsonPath {
    /// Reads `$`, `.name`, `["name"]` and `[index]`, or says why the text is no path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(mut rest) = text.strip_prefix('$') else {
            return Err("a path begins with $, as '$.order.id' or '$.items[0]'".to_owned());
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return Err(format!("a path may have {STEPS_MAX} steps at most"));
            }
            let (step, after) = step(rest)?;
            steps.push(step);
            rest = after;
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The steps, from the whole document on.
    #[cfg(feature = "oracle")]
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the scalar at the path: a string, a number or a boolean. `None` if there is none, or another
    /// value, or the body is not JSON in UTF-8 from its beginning to its end. Of members of one name the last
    /// counts. Takes linear time.
    pub(crate) fn value_in(&self, body: &[u8]) -> Option<Value> {
        let text = std::str::from_utf8(body).ok()?;
        let mut json = serde_json::Deserializer::from_str(text);
        let value = Walk(&self.steps).deserialize(&mut json).ok()?;
        json.end().ok()?;
        value
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON_VALUE(body, '{}')", self.text.replace('\'', "''"))
    }
}

/// The first step of `rest`, and what follows it.
fn step(rest: &str) -> Result<(Step, &str), String> {
    if let Some(after) = rest.strip_prefix('.') {
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '-');
        let end = after.find(|c| !is_of_name(c)).unwrap_or(after.len());
        if end == 0 {
            return Err(
                "expected a name after the point of a path; write other names as [\"name\"]".to_owned()
            );
        }
        let (name, after) = after.split_at(end);
        return Ok((Step::Member(name.to_owned()), after));
    }
    let Some(inner) = rest.strip_prefix('[') else {
        return Err("expected . or [ in the path".to_owned());
    };
    if inner.starts_with('"') {
        // The name is a JSON string, so JSON says where it ends.
        let mut names = serde_json::Deserializer::from_str(inner).into_iter::<String>();
        return match names.next() {
            Some(Ok(name)) => match inner[names.byte_offset()..].strip_prefix(']') {
                Some(after) => Ok((Step::Member(name), after)),
                None => Err("expected ] behind a name of the path".to_owned()),
            },
            _ => Err("a name of the path has no closing \"".to_owned()),
        };
    }
    let digits = inner.find(|c: char| !c.is_ascii_digit()).unwrap_or(inner.len());
    let (index, after) = inner.split_at(digits);
    match (index.parse::<u32>(), after.strip_prefix(']')) {
        (Ok(index), Some(after)) => Ok((Step::Element(index as usize), after)),
        _ => Err("expected an index or a name in double quotes, and ], in the path".to_owned()),
    }
}

/// Takes the steps that are left, then the scalar.
struct Walk<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        json.deserialize_any(self)
    }
}

impl Walk<'_> {
    fn scalar(&self, value: impl FnOnce() -> Option<Value>) -> Option<Value> {
        if self.0.is_empty() { value() } else { None }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(self.scalar(|| Some(Value::Bool(value))))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(self.scalar(|| Some(Value::I64(value))))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<Value>, E> {
        let number = || i64::try_from(value).map_or(Value::F64(value as f64), Value::I64);
        Ok(self.scalar(|| Some(number())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(self.scalar(|| Some(Value::F64(value))))
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<Value>, E> {
        Ok(self.scalar(|| (value.len() <= TEXT_BYTES_MAX).then(|| Value::Str(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Option<Value>, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Step::Element(index), rest)) => (Some(*index), rest),
            _ => (None, self.0),
        };
        let mut found = None;
        for place in 0.. {
            if Some(place) == wanted {
                match elements.next_element_seed(Walk(rest))? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if elements.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Option<Value>, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Step::Member(name), rest)) => (Some(name.as_str()), rest),
            _ => (None, self.0),
        };
        let mut found = None;
        while let Some(is_wanted) = members.next_key_seed(IsName(wanted))? {
            if is_wanted {
                found = members.next_value_seed(Walk(rest))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether the name of a member is this one.
struct IsName<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0 == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(path: &str, body: &str) -> Option<Value> {
        JsonPath::parse(path).unwrap().value_in(body.as_bytes())
    }

    fn str(text: &str) -> Option<Value> {
        Some(Value::Str(text.to_owned()))
    }

    #[test]
    fn the_scalar_at_a_path_is_the_value() {
        let body = r#" {"a": {"b c": [1, -2.5, "x", true, null, {"d": "y"}, [7]]}, "n": 18446744073709551615,
            "é-1": "\u00e9\n", "a.b": 0, "q\"": 5, "twice": 1, "twice": 2, "": 9} "#;
        for (path, expected) in [
            ("$.a[\"b c\"][0]", Some(Value::I64(1))),
            ("$.a[\"b c\"][1]", Some(Value::F64(-2.5))),
            ("$.a[\"b c\"][2]", str("x")),
            ("$.a[\"b c\"][3]", Some(Value::Bool(true))),
            ("$.a[\"b c\"][4]", None),
            ("$.a[\"b c\"][5].d", str("y")),
            ("$.a[\"b c\"][6][0]", Some(Value::I64(7))),
            ("$.a[\"b c\"][6]", None),
            ("$.a[\"b c\"][7]", None),
            ("$.a", None),
            ("$.a.b", None),
            ("$.n", Some(Value::F64(18_446_744_073_709_551_615.0))),
            ("$.n.x", None),
            ("$.n[0]", None),
            ("$.é-1", str("é\n")),
            ("$[\"a.b\"]", Some(Value::I64(0))),
            ("$[\"q\\\"\"]", Some(Value::I64(5))),
            ("$.twice", Some(Value::I64(2))),
            ("$[\"\"]", Some(Value::I64(9))),
            ("$", None),
        ] {
            assert_eq!(value(path, body), expected, "{path}");
        }
        assert_eq!(value("$", " 5 "), Some(Value::I64(5)));
        assert_eq!(value("$[1]", "[1,\"a\"]"), str("a"));
    }

    #[test]
    fn what_is_not_json_to_its_end_has_no_values() {
        for body in
            ["", "{\"a\":1", "{\"a\":1} x", "{\"a\":1,}", "a", "{\"b\":tru,\"a\":1}", "\u{feff}{\"a\":1}"]
        {
            assert_eq!(value("$.a", body), None, "{body}");
        }
        assert_eq!(JsonPath::parse("$.a").unwrap().value_in(b"{\"a\":1,\"b\":\"\xff\"}"), None);
        assert_eq!(value("$.a", "{\"a\":1e999}"), None);
    }

    /// Neither the parser nor dropping recurses, and no tree is built.
    #[test]
    fn deep_and_long_bodies_are_passed_over() {
        let deep = format!("{{\"b\":{}{},\"a\":1}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(value("$.a", &deep), Some(Value::I64(1)));
        assert_eq!(value("$.a", &"[".repeat(1_000_000)), None);
        assert_eq!(value("$.b[0][0]", &deep), None);
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(value("$.a", &long), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for (text, part) in [
            ("", "begins with $"),
            ("a", "begins with $"),
            ("$a", "expected . or ["),
            ("$.", "expected a name"),
            ("$..a", "expected a name"),
            ("$.a b", "expected . or ["),
            ("$[", "expected an index"),
            ("$[-1]", "expected an index"),
            ("$[*]", "expected an index"),
            ("$[99999999999]", "expected an index"),
            ("$[0", "expected an index"),
            ("$[\"a]", "no closing"),
            ("$[\"a\"", "expected ]"),
            (&".a".repeat(17).replacen('.', "$.", 1), "16 steps"),
        ] {
            let error = JsonPath::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(JsonPath::parse(&format!("${}", ".a".repeat(16))).is_ok());
    }
}
