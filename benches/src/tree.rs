//! Selectors evaluated row at a time, the way of brokers whose messages carry a property string.

use std::collections::HashMap;

/// The properties of a decoded message.
pub type Decoded<'a> = HashMap<&'a str, &'a str>;

/// Decodes `name\x01value\x02…`.
pub fn decode(text: &str) -> Decoded<'_> {
    text.split('\u{2}').filter_map(|property| property.split_once('\u{1}')).collect()
}

/// A selector tree as brokers that evaluate row at a time have it.
#[derive(Clone, Debug)]
pub enum Tree {
    /// `name = 'text'`
    Equal(&'static str, String),
    /// `name > number`
    Greater(&'static str, f64),
    /// `name < number`
    Less(&'static str, f64),
    /// `name >= number`
    AtLeast(&'static str, f64),
    /// `name BETWEEN number AND number`
    Between(&'static str, f64, f64),
    /// `name IN (…)`
    In(&'static str, Vec<String>),
    /// `name LIKE 'text%'`
    Prefix(&'static str, String),
    /// All hold.
    And(Vec<Self>),
    /// One holds.
    Or(Vec<Self>),
}

impl Tree {
    /// TRUE, FALSE or unknown for one decoded message.
    pub fn evaluate(&self, message: &Decoded<'_>) -> Option<bool> {
        let number = |name: &str| message.get(name).and_then(|text| text.parse::<f64>().ok());
        match self {
            Self::Equal(name, text) => message.get(name).map(|found| found == text),
            Self::Greater(name, limit) => number(name).map(|found| found > *limit),
            Self::Less(name, limit) => number(name).map(|found| found < *limit),
            Self::AtLeast(name, limit) => number(name).map(|found| found >= *limit),
            Self::Between(name, low, high) => number(name).map(|found| found >= *low && found <= *high),
            Self::In(name, list) => message.get(name).map(|found| list.iter().any(|entry| entry == found)),
            Self::Prefix(name, prefix) => message.get(name).map(|found| found.starts_with(prefix)),
            Self::And(terms) => {
                let mut all = Some(true);
                for term in terms {
                    match term.evaluate(message) {
                        Some(false) => return Some(false),
                        None => all = None,
                        Some(true) => {}
                    }
                }
                all
            }
            Self::Or(terms) => {
                let mut any = Some(false);
                for term in terms {
                    match term.evaluate(message) {
                        Some(true) => return Some(true),
                        None => any = None,
                        Some(false) => {}
                    }
                }
                any
            }
        }
    }
}
