//! `--param`: values for the parameters of a selector, bound here, so that brokers see literals only.

use clap::Args;
use weir_filter::{Limits, Parameters, SelectorError, read_value};

use super::{Failure, selector::without_prefix};
use crate::status::Exit;

/// Values for `?` and `:name`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ParameterArgs {
    /// A value for a parameter of the selector: VALUE for each ?, in their order, or NAME=VALUE for :NAME. 5, -0.5,
    /// TRUE and 'text' are literals; everything else is text.
    #[arg(long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    values: Vec<String>,
}

impl ParameterArgs {
    /// Returns the selector with literals in place of its parameters. Without values it is returned as it is.
    pub(crate) fn bind(&self, text: &str) -> Result<String, Unbound> {
        Ok(self.bind_all([text])?.concat())
    }

    /// Binds the selector of `--where`, if there is one.
    pub(crate) fn bind_where(&self, text: Option<String>) -> Result<Option<String>, Failure> {
        match text {
            Some(text) => Ok(Some(self.bind(&text)?)),
            None if self.values.is_empty() => Ok(None),
            None => Err(Failure::new(
                Exit::Usage,
                "--param gives values to the selector of --where, which is missing",
            )),
        }
    }

    /// Binds several selectors. Named values are for those that name them, others for each.
    pub(crate) fn bind_all<const N: usize>(&self, texts: [&str; N]) -> Result<[String; N], Unbound> {
        let mut bound = texts.map(str::to_owned);
        if self.values.is_empty() {
            return Ok(bound);
        }
        let limits = Limits::default();
        let mut names = Vec::new();
        for text in texts {
            names.push(Parameters::names_in(text, &limits).map_err(|error| refused(text, error))?);
        }
        let named = self.named(&names.concat())?;
        for (text, names) in bound.iter_mut().zip(&names) {
            let parameters = match &named {
                Some(values) => {
                    let wanted = values.iter().filter(|(name, _)| names.iter().any(|known| known == name));
                    Parameters::Named(
                        wanted.map(|(name, value)| ((*name).to_owned(), read_value(value))).collect(),
                    )
                }
                None => Parameters::Positional(self.values.iter().map(|value| read_value(value)).collect()),
            };
            *text = parameters.bind(text, &limits).map_err(|error| refused(text, error))?;
        }
        Ok(bound)
    }

    /// The values by name, if selectors with parameters of these names want them so.
    fn named(&self, names: &[String]) -> Result<Option<Vec<(&str, &str)>>, Unbound> {
        if names.iter().all(String::is_empty) {
            return Ok(None);
        }
        let pair = |value| match str::split_once(value, '=') {
            None => Err(format!("the selector has named parameters: write NAME=VALUE instead of {value:?}")),
            Some((name, _)) if !names.iter().any(|known| known == name) => {
                Err(format!("the selector has no parameter :{name}"))
            }
            Some(pair) => Ok(pair),
        };
        let pairs: Result<Vec<_>, String> = self.values.iter().map(|value| pair(value)).collect();
        pairs.map(Some).map_err(Unbound::Usage)
    }
}

/// Why parameters cannot be bound.
#[derive(Debug)]
pub(crate) enum Unbound {
    /// The values are not given as the selector wants them.
    Usage(String),
    /// The selector, and what is wrong with it.
    Selector(String, SelectorError),
}

fn refused(text: &str, error: SelectorError) -> Unbound {
    Unbound::Selector(text.to_owned(), error)
}

impl From<Unbound> for Failure {
    fn from(unbound: Unbound) -> Self {
        match unbound {
            Unbound::Usage(message) => Self::new(Exit::Usage, message),
            Unbound::Selector(text, error) => {
                Self::new(Exit::Refused, format!("bad selector: {}", without_prefix(&error.report(&text))))
            }
        }
    }
}
