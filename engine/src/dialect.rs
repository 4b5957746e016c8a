//! Which language a selector is written in: that of the group, else of the topic, else of the broker.

use weir_filter::{Dialect, Parameters, Selector};

use crate::{
    broker::Broker,
    error::EngineError,
    name::{GroupName, TopicName},
};

impl Broker {
    /// Returns the dialect of selectors on a topic: for a group the one that it names, else that of the
    /// topic, else that of the broker. A group or topic that does not exist names none.
    pub fn selector_dialect(&self, topic: &TopicName, group: Option<&GroupName>) -> Dialect {
        let of_group = || self.group_spec(group?)?.dialect;
        let of_topic = || self.core.known_topic(topic)?.dialect();
        of_group().or_else(of_topic).unwrap_or(self.core.options.selector_dialect)
    }

    /// Parses a selector in the dialect of this broker, within its limits.
    ///
    /// # Errors
    ///
    /// If it is no selector; the error says where.
    pub fn parse_selector(&self, text: &str) -> Result<Selector, EngineError> {
        self.parse_selector_in(text, self.core.options.selector_dialect)
    }

    /// Parses a selector whose parameters (`?` or `:name`) have these values, in the dialect of this broker and
    /// within its limits. The text of the selector has literals in their place.
    ///
    /// # Errors
    ///
    /// If parameters and values do not match, or it is no selector with them; the error says where, of the text
    /// given or of the one with literals.
    pub fn bind_selector(&self, text: &str, values: &Parameters) -> Result<Selector, EngineError> {
        let bound = values.bind(text, &self.core.options.selector_limits).map_err(EngineError::Selector)?;
        self.parse_selector(&bound)
    }

    /// Parses a selector in a dialect, within the limits of this broker.
    ///
    /// # Errors
    ///
    /// If it is no selector; the error says where.
    pub fn parse_selector_in(&self, text: &str, dialect: Dialect) -> Result<Selector, EngineError> {
        Selector::parse(text, dialect, &self.core.options.selector_limits).map_err(EngineError::Selector)
    }
}
