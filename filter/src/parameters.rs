//! Parameters: `?` and `:name` in a text stand for literals that are put in before it is parsed.
//!
//! A selector is kept, compared and sent as text, so what is bound must be text again. Values become literals
//! with blanks around them, and so can never end a string, begin a comment or join what stands beside them.

use std::fmt::Write as _;

use weir_columns::Value;

use crate::{
    error::SelectorError,
    lexer::{Keyword, Lexer, Token, check_length, excerpt},
    limits::Limits,
    near::near,
};

/// Values for the parameters of a selector.
///
/// [`Value::Text`] and [`Value::Str`] become strings alike, because literals have a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// One for each `?`, in their order.
    Positional(Vec<Value>),
    /// One for each `:name`, which may stand in several places. Names differ in upper and lower case.
    Named(Vec<(String, Value)>),
}

impl Parameters {
    /// Returns `text` with literals in place of its parameters: a selector, if it is one, also of another dialect
    /// than `sql92` as long as `sql92` can cut the text into words.
    ///
    /// What stands in strings, quoted names and comments is no parameter.
    ///
    /// ```
    /// use weir_filter::{Dialect, Limits, Parameters, Selector};
    /// use weir_columns::Value;
    ///
    /// let limits = Limits::default();
    /// let values = Parameters::Named(vec![("region".to_owned(), Value::Text("Côte d'Or".to_owned()))]);
    /// let text = values.bind("region = :region", &limits)?;
    /// assert_eq!(text.trim_end(), "region =  'Côte d''Or'");
    /// let selector = Selector::parse(&text, Dialect::Sql92, &limits)?;
    /// # Ok::<(), weir_filter::SelectorError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a parameter has no value or a value no parameter, a value is an infinite number or none, or `text`
    /// cannot be cut into words or passes a limit. Of what comes out, [`Selector::parse`](crate::Selector::parse)
    /// checks the limits.
    pub fn bind(&self, text: &str, limits: &Limits) -> Result<String, SelectorError> {
        check_length(text, limits)?;
        let mut used = vec![false; self.len()];
        let mut next = 0;
        let mut bound = String::with_capacity(text.len());
        let mut done = 0;
        let mut lexer = Lexer::new(text);
        loop {
            let spanned = lexer.next()?;
            let name = match &spanned.token {
                Token::End => break,
                Token::Parameter(name) => name.as_str(),
                _ => continue,
            };
            let error = |message| Err(SelectorError::new(text, spanned.at, message));
            let found = match self {
                Self::Positional(values) if name.is_empty() => {
                    next += 1;
                    values.get(next - 1).map(|value| (next - 1, value))
                }
                Self::Named(values) if !name.is_empty() => values
                    .iter()
                    .enumerate()
                    .find_map(|(i, (known, value))| (known == name).then_some((i, value))),
                Self::Positional(_) => return error(MIXED_NAMES.to_owned()),
                Self::Named(_) => return error(MIXED_PLACES.to_owned()),
            };
            let Some((place, value)) = found else {
                return error(self.missing(name, next));
            };
            if let Some(used) = used.get_mut(place) {
                *used = true;
            }
            bound.push_str(text.get(done..spanned.at).unwrap_or_default());
            if let Err(message) = push_literal(&mut bound, value) {
                return error(message);
            }
            done = lexer.at();
            if bound.len() > limits.text_bytes_max {
                return error(format!(
                    "a selector may have {} bytes at most, and with its values this one has more",
                    limits.text_bytes_max
                ));
            }
        }
        bound.push_str(text.get(done..).unwrap_or_default());
        match used.iter().position(|used| !used) {
            None => Ok(bound),
            Some(place) => Err(SelectorError::new(text, text.len(), self.superfluous(place, next))),
        }
    }

    /// Returns the names of the parameters of `text`, in their order; `?` is an empty one.
    ///
    /// # Errors
    ///
    /// If `text` cannot be cut into words or is too long.
    pub fn names_in(text: &str, limits: &Limits) -> Result<Vec<String>, SelectorError> {
        check_length(text, limits)?;
        let mut lexer = Lexer::new(text);
        let mut names = Vec::new();
        loop {
            match lexer.next()?.token {
                Token::End => return Ok(names),
                Token::Parameter(name) => names.push(name),
                _ => {}
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Positional(values) => values.len(),
            Self::Named(values) => values.len(),
        }
    }

    /// What to say of a parameter without a value: `:name`, or the `?` at place `place` from 1.
    fn missing(&self, name: &str, place: usize) -> String {
        match self {
            Self::Positional(values) => {
                format!("this is parameter {place}, and there are {} values", values.len())
            }
            Self::Named(values) => {
                let near = near(name, values.iter().map(|(name, _)| name.as_str()));
                let hint = near.first().map(|near| format!("; did you mean :{}?", excerpt(near)));
                format!("there is no value for :{}{}", excerpt(name), hint.unwrap_or_default())
            }
        }
    }

    fn superfluous(&self, place: usize, parameters: usize) -> String {
        match self {
            Self::Positional(values) => {
                format!("there are {} values, and the selector has {parameters} parameters (?)", values.len())
            }
            Self::Named(values) => {
                let name = values.get(place).map_or("", |(name, _)| name);
                format!(
                    "there is a value for :{0}, and the selector has no :{0}, or a value before it",
                    excerpt(name)
                )
            }
        }
    }
}

/// Reads a value as a person writes it: a literal of `sql92`, such as `5`, `-0.5`, `TRUE` or `'text'`, is what it
/// says; everything else is text as it is.
///
/// ```
/// use weir_columns::Value;
/// use weir_filter::read_value;
///
/// assert_eq!(read_value("5"), Value::I64(5));
/// assert_eq!(read_value("EU"), Value::Text("EU".to_owned()));
/// assert_eq!(read_value("'5'"), Value::Text("5".to_owned()));
/// assert_eq!(read_value("05"), Value::Text("05".to_owned()));
/// ```
pub fn read_value(text: &str) -> Value {
    literal(text).unwrap_or_else(|| Value::Text(text.to_owned()))
}

/// The literal that all of `text` is.
fn literal(text: &str) -> Option<Value> {
    let sign = text.strip_prefix(['-', '+']);
    let negative = text.starts_with('-');
    let unsigned = sign.unwrap_or(text);
    let mut lexer = Lexer::new(unsigned);
    let spanned = lexer.next().ok()?;
    if spanned.at != 0 || lexer.at() != unsigned.len() {
        return None;
    }
    match spanned.token {
        Token::Integer(value) if negative => 0_i64.checked_sub_unsigned(value).map(Value::I64),
        Token::Integer(value) => i64::try_from(value).ok().map(Value::I64),
        Token::Decimal(value) => Some(Value::F64(if negative { -value } else { value })),
        Token::Text(value) if sign.is_none() => Some(Value::Text(value)),
        Token::Keyword(Keyword::True) if sign.is_none() => Some(Value::Bool(true)),
        Token::Keyword(Keyword::False) if sign.is_none() => Some(Value::Bool(false)),
        _ => None,
    }
}

const MIXED_NAMES: &str = "this parameter has a name, and the values have places";
const MIXED_PLACES: &str = "this parameter has no name, and the values have names";

fn push_literal(text: &mut String, value: &Value) -> Result<(), String> {
    let result = match value {
        Value::Text(value) | Value::Str(value) => write!(text, " '{}' ", value.replace('\'', "''")),
        Value::Bool(value) => text.write_str(if *value { " TRUE " } else { " FALSE " }),
        Value::I32(value) => write!(text, " {value} "),
        Value::I64(value) => write!(text, " {value} "),
        Value::F32(value) => return push_decimal(text, f64::from(*value)),
        Value::F64(value) => return push_decimal(text, *value),
    };
    result.map_err(|_| "this value cannot be written".to_owned())
}

fn push_decimal(text: &mut String, value: f64) -> Result<(), String> {
    if !value.is_finite() {
        return Err(format!("the value {value} of this parameter is no number that a selector can hold"));
    }
    // With an exponent or a point, so that it stays a decimal.
    write!(text, " {value:?} ").map_err(|_| "this value cannot be written".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Dialect, Selector};

    fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    fn places(text: &str, values: Vec<Value>) -> Result<String, String> {
        let bound = Parameters::Positional(values).bind(text, &Limits::default());
        bound.map_err(|error| format!("{}: {}", error.position(), error.message()))
    }

    fn names(text: &str, values: &[(&str, Value)]) -> Result<String, String> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let bound = Parameters::Named(values).bind(text, &Limits::default());
        bound.map_err(|error| format!("{}: {}", error.position(), error.message()))
    }

    /// Two texts that mean the same to the parser.
    #[track_caller]
    fn same(bound: &str, expected: &str) {
        let parse = |text: &str| {
            let tokens = crate::lexer::tokens(text, &Limits::default()).unwrap();
            tokens.into_iter().map(|spanned| spanned.token).collect::<Vec<_>>()
        };
        assert_eq!(parse(bound), parse(expected), "{bound}");
    }

    #[test]
    fn values_stand_where_parameters_stood() {
        let bound = places("a=? AND b IN(?,?)", vec![text("it's"), Value::I64(-5), Value::Bool(true)]);
        same(&bound.unwrap(), "a = 'it''s' AND b IN (-5, TRUE)");
        let bound =
            names("a>:low AND a<:high OR b=:low", &[("high", Value::F64(1e300)), ("low", Value::I32(0))]);
        same(&bound.unwrap(), "a > 0 AND a < 1e300 OR b = 0");
        same(&places("a = ?", vec![Value::F64(5.0)]).unwrap(), "a = 5.0");
        same(&places("a = ?", vec![Value::I64(i64::MIN)]).unwrap(), "a = -9223372036854775808");
    }

    #[test]
    fn what_no_parameter_is_stays() {
        let template = "a = '?' AND \":b\" = ? -- ?\n AND c = /* :x */ 1";
        same(&places(template, vec![Value::I64(1)]).unwrap(), "a = '?' AND \":b\" = 1 AND c = 1");
    }

    proptest! {
        /// Whatever a text and a value hold, the tokens are those of the text with the value as one of them.
        #[test]
        fn a_value_is_always_one_token(
            pieces in prop::collection::vec("\\?|:v|'[^']{0,3}'|[-a-z0-9.+*/=' \n\"]{0,4}", 0..8),
            value in "\\PC{0,12}|['\"\\\\/*:?\n-]{0,6}",
        ) {
            let template = pieces.concat();
            let tokens = |text: &str| -> Option<Vec<Token>> {
                let mut lexer = Lexer::new(text);
                let mut tokens = Vec::new();
                loop {
                    match lexer.next().ok()?.token {
                        Token::End => return Some(tokens),
                        token => tokens.push(token),
                    }
                }
            };
            let (mut expected, before) = (Vec::new(), tokens(&template));
            let places = before.iter().flatten().filter(|token| matches!(token, Token::Parameter(_))).count();
            let values = vec![text(&value); places];
            let named = before.iter().flatten().any(|token| *token == Token::Parameter("v".to_owned()));
            let bound = match named {
                true => Parameters::Named(vec![("v".to_owned(), text(&value))]),
                false => Parameters::Positional(values),
            }
            .bind(&template, &Limits::default());
            if before.is_none() {
                prop_assert!(bound.is_err());
            }
            let Ok(bound) = bound else { return Ok(()) };
            for token in before.into_iter().flatten() {
                expected.push(match token {
                    Token::Parameter(_) => Token::Text(value.clone()),
                    token => token,
                });
            }
            prop_assert_eq!(tokens(&bound), Some(expected), "{}", bound);
        }
    }

    #[test]
    fn a_value_cannot_leave_its_place() {
        // Without blanks, the first would join the strings and the second begin a comment.
        let bound = places("a = 'x'?", vec![text("y")]).unwrap();
        assert!(Selector::parse(&bound, Dialect::Sql92, &Limits::default()).is_err());
        same(&places("a = b -?", vec![Value::I64(-5)]).unwrap(), "a = b - -5");
        for hostile in ["' OR TRUE --", "\\' OR 1=1", "?", ":a", "''", "'", "/*", "\n", "\0"] {
            for dialect in [Dialect::Sql92, Dialect::RocketMq, Dialect::Jms] {
                let bound = places("a = ? AND b = ?", vec![text(hostile), text("x")]).unwrap();
                let selector = Selector::parse(&bound, dialect, &Limits::default()).unwrap();
                assert_eq!(
                    selector.columns().map(|column| column.to_string()).collect::<Vec<_>>(),
                    ["a", "b"]
                );
                assert_eq!(selector.dropped(), None);
            }
        }
    }

    #[test]
    fn values_and_parameters_must_match() {
        let one = || vec![Value::I64(1)];
        assert_eq!(
            places("a = ? OR a = ?", one()).unwrap_err(),
            "13: this is parameter 2, and there are 1 values"
        );
        assert_eq!(
            places("a = 1", one()).unwrap_err(),
            "5: there are 1 values, and the selector has 0 parameters (?)"
        );
        assert_eq!(places("a = :b", one()).unwrap_err(), format!("4: {MIXED_NAMES}"));
        let named = [("region", Value::I64(1))];
        assert_eq!(names("a = ?", &named).unwrap_err(), format!("4: {MIXED_PLACES}"));
        assert_eq!(
            names("a = :regoin", &named).unwrap_err(),
            "4: there is no value for :regoin; did you mean :region?"
        );
        assert!(names("a = 1", &named).unwrap_err().contains("no :region"));
        let twice = [("x", Value::I64(1)), ("x", Value::I64(2))];
        assert!(names("a = :x", &twice).unwrap_err().contains("a value before it"));
        assert_eq!(
            places("a = ?", vec![Value::F64(f64::NAN)]).unwrap_err(),
            "4: the value NaN of this parameter is no number that a selector can hold"
        );
    }

    #[test]
    fn people_write_values_as_literals_or_as_they_are() {
        let literals = [
            ("-9223372036854775808", Value::I64(i64::MIN)),
            ("+5", Value::I64(5)),
            ("-.5", Value::F64(-0.5)),
            ("false", Value::Bool(false)),
            ("'it''s'", text("it's")),
        ];
        for (written, value) in literals {
            assert_eq!(read_value(written), value, "{written}");
        }
        let texts =
            ["", " 5", "5 ", "5 -- x", "'a' 'b'", "--5", "-'a'", "9223372036854775808", "1e999", "?", "NULL"];
        for written in texts {
            assert_eq!(read_value(written), text(written), "{written}");
        }
        let names = Parameters::names_in("a = :b OR a = ? OR c = ':d'", &Limits::default()).unwrap();
        assert_eq!(names, ["b", ""]);
    }

    #[test]
    fn long_values_are_refused_early() {
        let parameters = Parameters::Named(vec![("a".to_owned(), text(&"x".repeat(5_000)))]);
        let template = ":a ".repeat(2_000);
        let error = parameters.bind(&template, &Limits::default()).unwrap_err();
        assert!(error.message().contains("with its values"), "{error}");
    }

    #[test]
    fn an_unbound_parameter_is_refused_by_name() {
        for (text, at) in [("a = ?", 4), ("a IN (1, :x)", 9)] {
            let error = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap_err();
            assert_eq!(error.position(), at);
            assert!(error.message().contains("parameter"), "{error}");
        }
        let error = Selector::parse("a = : x", Dialect::Sql92, &Limits::default()).unwrap_err();
        assert!(error.message().contains("':'"), "{error}");
    }
}
