//! The dialects by name. What they decide differently belongs here, and nothing else.
//!
//! `sql92` is the language of `docs/sql.md`. `rocketmq` and `jms` are exact: they give the answers of
//! RocketMQ's own evaluator and of ActiveMQ Classic to the letter, their failures included.

use std::{fmt, str::FromStr};

/// Which language a selector is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// Plain SQL92 with three-valued logic; what people write. See `docs/sql.md`.
    #[default]
    Sql92,
    /// The language of RocketMQ's broker to the letter.
    RocketMq,
    /// The language of JMS selectors as ActiveMQ Classic answers them.
    Jms,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 3] = [Self::Sql92, Self::RocketMq, Self::Jms];

    /// Returns the name by which settings and clients choose the dialect.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sql92 => "sql92",
            Self::RocketMq => "rocketmq",
            Self::Jms => "jms",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        Self::ALL
            .into_iter()
            .find(|dialect| dialect.name() == name)
            .ok_or_else(|| UnknownDialect(name.chars().take(32).collect()))
    }
}

/// No dialect has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no selector dialect {0:?}; there are sql92, rocketmq and jms")]
pub struct UnknownDialect(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_known_by_its_name() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
        }
        assert!("SQL92".parse::<Dialect>().is_err());
    }
}
