//! The lite topics of the rows of a block, as its columns hold them, and the rules for their names.

use std::sync::Arc;

use arrow_array::Array as _;
use weir_columns::{Column, ColumnRef, Rows, System, Value, Values};
use weir_storage::{Block, StorageError};

use crate::{error::EngineError, limits::LITE_TOPIC_BYTES_MAX};

/// Which rows of a block have which name.
pub(super) enum Names {
    /// Each row that has a name, with its number among the values.
    Coded(Arc<Values>, Vec<(usize, usize)>),
    Texts(Vec<(usize, String)>),
}

impl Names {
    /// Returns the names of the rows of a block that are not lost.
    ///
    /// # Errors
    ///
    /// If the column cannot be read.
    pub(super) fn of(block: &Block) -> Result<Self, StorageError> {
        let name = ColumnRef::System(System::MessageGroup);
        let is_lost = |row: usize| block.lost().is_some_and(|lost| lost.value(row));
        let rows = || (0..Rows::len(block)).filter(|row| !is_lost(*row));
        Ok(match Rows::column(block, name)? {
            None => Self::Texts(Vec::new()),
            Some(Column::Dictionary { codes, values }) => {
                let codes =
                    rows().filter(|row| codes.is_valid(*row)).map(|row| (row, codes.value(row).into()));
                Self::Coded(values, codes.collect())
            }
            Some(Column::Sparse { rows, codes, values }) => {
                let pairs = rows.values().iter().zip(codes.values());
                let pairs = pairs.map(|(row, code)| (usize::from(*row), usize::from(*code)));
                Self::Coded(values, pairs.filter(|(row, _)| !is_lost(*row)).collect())
            }
            Some(Column::Plain { values, present }) => {
                let is_present = |row: &usize| present.as_ref().is_none_or(|present| present.is_valid(*row));
                Self::Coded(values, rows().filter(is_present).map(|row| (row, row)).collect())
            }
            Some(Column::Int(_) | Column::Hashed { .. }) => {
                let mut texts = Vec::new();
                for row in rows() {
                    if let Some(Value::Text(text) | Value::Str(text)) = block.value(name, row)? {
                        texts.push((row, text));
                    }
                }
                Self::Texts(texts)
            }
        })
    }

    /// Visits the rows in order, with what `choose` makes of their names, which it is asked about once for each name
    /// where the column is made so. Ends early when `visit` says so.
    pub(super) fn each<T>(
        &self,
        mut choose: impl FnMut(&str) -> Option<T>,
        mut visit: impl FnMut(usize, &T) -> bool,
    ) {
        match self {
            Self::Coded(values, rows) => {
                let chosen: Vec<Option<T>> =
                    (0..values.len()).map(|at| choose(values.text.value(at))).collect();
                for (row, code) in rows {
                    if let Some(Some(of)) = chosen.get(*code)
                        && !visit(*row, of)
                    {
                        return;
                    }
                }
            }
            Self::Texts(rows) => {
                for (row, text) in rows {
                    if let Some(of) = choose(text)
                        && !visit(*row, &of)
                    {
                        return;
                    }
                }
            }
        }
    }
}

/// Checks the name of a lite topic.
pub(crate) fn check_name(name: &str) -> Result<(), EngineError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=LITE_TOPIC_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(EngineError::LiteTopicName(name.chars().take(LITE_TOPIC_BYTES_MAX).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_of_few_characters() {
        let longest = "l".repeat(LITE_TOPIC_BYTES_MAX);
        for good in ["a", "Z-9_", &longest] {
            check_name(good).unwrap();
        }
        for bad in ["", " ", "a b", "a.b", "*", "ü", &format!("{longest}l")] {
            assert!(matches!(check_name(bad), Err(EngineError::LiteTopicName(_))), "{bad:?}");
        }
    }
}
