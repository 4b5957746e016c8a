//! Which columns a topic has, and of what type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The type that a property's column is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// 64-bit integers.
    Int64,
    /// 64-bit floats.
    Float64,
    /// Text.
    Utf8,
    /// Booleans.
    Boolean,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Utf8 => "utf8",
            Self::Boolean => "boolean",
        })
    }
}

impl FromStr for ColumnType {
    type Err = UnknownType;

    fn from_str(name: &str) -> Result<Self, UnknownType> {
        [Self::Int64, Self::Float64, Self::Utf8, Self::Boolean]
            .into_iter()
            .find(|known| known.to_string() == name)
            .ok_or_else(|| UnknownType(name.chars().take(32).collect()))
    }
}

/// No column type has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no column type {0:?}; there are int64, float64, utf8 and boolean")]
pub struct UnknownType(String);
