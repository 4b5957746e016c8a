//! What can go wrong: a selector that is refused, rows that cannot be judged.

use std::fmt;

use datafusion_common::DataFusionError;

/// Why a text is no selector, and where.
///
/// Displays as one line. [`report`](Self::report) also shows the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    message: String,
    position: usize,
    line: usize,
    column: usize,
}

impl SelectorError {
    /// An error at byte `position` of `text`.
    pub(crate) fn new(text: &str, position: usize, message: impl Into<String>) -> Self {
        let mut position = position.min(text.len());
        while !text.is_char_boundary(position) {
            position -= 1;
        }
        let before = &text[..position];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            message: message.into(),
            position,
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// Returns where in the text the error lies, in bytes from 0.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Returns the line of the error, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the column of the error, in characters from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Returns what is wrong and what was expected, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the message, the line of `text` that it concerns, and a caret under the place.
    ///
    /// Of long lines only the surroundings are shown; control characters appear as `·`.
    ///
    /// ```
    /// use weir_filter::{Dialect, Limits, Selector};
    ///
    /// let text = "region = 'EU' AND price >";
    /// let error = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap_err();
    /// assert_eq!(
    ///     error.report(text),
    ///     "error: expected a value, found the end of the text\n  \
    ///      at line 1, column 26\n  \
    ///      | region = 'EU' AND price >\n  \
    ///      |                          ^"
    /// );
    /// ```
    pub fn report(&self, text: &str) -> String {
        let line = text.split('\n').nth(self.line - 1).unwrap_or_default();
        let skipped = self.column.saturating_sub(1 + SHOWN_BEFORE);
        let lead = if skipped > 0 { "…" } else { "" };
        let shown: String = line
            .chars()
            .skip(skipped)
            .take(SHOWN_BEFORE + SHOWN_AFTER)
            .map(|c| if c.is_control() { '·' } else { c })
            .collect();
        let indent = " ".repeat(self.column - 1 - skipped + lead.chars().count());
        format!(
            "error: {}\n  at line {}, column {}\n  | {lead}{shown}\n  | {indent}^",
            self.message, self.line, self.column
        )
    }
}

/// How many characters of a long line a report shows before and after the place.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 20;

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}, column {}", self.message, self.line, self.column)
    }
}

impl std::error::Error for SelectorError {}

/// Why rows could not be judged. Nothing that a selector or a producer says causes this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError<E> {
    /// The rows could not be read.
    #[error("cannot read the rows")]
    Rows(#[source] E),

    /// A column does not fit its rows. Its source is damaged or has a fault.
    #[error("column {column} is malformed: {fault}")]
    Column {
        /// The name of the column.
        column: String,
        /// What does not fit.
        fault: String,
    },

    /// The mask of rows to judge is not as long as the rows.
    #[error("a mask of {mask} rows for {rows} rows")]
    Mask {
        /// The length of the mask.
        mask: usize,
        /// How many rows there are.
        rows: usize,
    },

    /// More rows than a 16-bit row number can name.
    #[error("{0} rows at once; at most 65,536 can be judged")]
    TooManyRows(usize),

    /// The expression could not be evaluated. This is a fault of Weir.
    #[error("cannot evaluate the selector")]
    Expression(#[from] DataFusionError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "größe = 1\n  AND x ! 3";
        let error = SelectorError::new(text, text.find('!').unwrap(), "unexpected");
        assert_eq!((error.line(), error.column()), (2, 9));
        assert_eq!(
            error.report(text),
            "error: unexpected\n  at line 2, column 9\n  |   AND x ! 3\n  |         ^"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}!{}", "a".repeat(500), "b".repeat(500));
        let report = SelectorError::new(&text, 500, "x").report(&text);
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(lines[2].chars().count(), "  | …".chars().count() + 80);
        assert_eq!(lines[2].chars().nth(lines[3].chars().count() - 1), Some('!'));
    }

    #[test]
    fn a_place_beyond_the_text_or_inside_a_character_is_moved_back() {
        assert_eq!(SelectorError::new("ab", 9, "x").position(), 2);
        assert_eq!(SelectorError::new("é", 1, "x").position(), 0);
    }
}
