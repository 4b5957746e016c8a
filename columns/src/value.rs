//! One value as a producer set it.

use crate::kind::{Kind, classify};

/// The value of a property, with the type that its producer gave it.
///
/// Two values are equal if type and bits are equal: `Text("5")` is not `I64(5)`, and NaN equals itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// Untyped text, as every property of a RocketMQ client.
    Text(String),
    /// A string of a typed client.
    Str(String),
    /// A boolean of a typed client.
    Bool(bool),
    /// A 32-bit integer of a typed client.
    I32(i32),
    /// A 64-bit integer of a typed client.
    I64(i64),
    /// A 32-bit float of a typed client.
    F32(f32),
    /// A 64-bit float of a typed client.
    F64(f64),
}

impl Value {
    /// Returns the kind; untyped text is classified, which takes linear time.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Text(text) => classify(text).0,
            Self::Str(_) => Kind::Str,
            Self::Bool(_) => Kind::Bool,
            Self::I32(_) => Kind::I32,
            Self::I64(_) => Kind::I64,
            Self::F32(_) => Kind::F32,
            Self::F64(_) => Kind::F64,
        }
    }

    /// Returns the text by which clients that know only text see this value.
    ///
    /// Booleans are `true` and `false`; integers decimal; floats the shortest text that reads back to
    /// the same value, with a point or an exponent; `NaN`, `Infinity`, `-Infinity`.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Str(text) => text.clone(),
            Self::Bool(value) => value.to_string(),
            Self::I32(value) => value.to_string(),
            Self::I64(value) => value.to_string(),
            Self::F32(value) => float_text(f64::from(*value), || format!("{value:?}")),
            Self::F64(value) => float_text(*value, || format!("{value:?}")),
        }
    }
}

fn float_text(value: f64, finite: impl FnOnce() -> String) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        finite()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) | (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::I32(a), Self::I32(b)) => a == b,
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            _ => false,
        }
    }
}

impl Eq for Value {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_a_point_or_an_exponent_in_their_text() {
        for (value, text) in [
            (Value::F64(1.0), "1.0"),
            (Value::F64(1e300), "1e300"),
            (Value::F64(f64::NAN), "NaN"),
            (Value::F64(f64::NEG_INFINITY), "-Infinity"),
            (Value::F32(0.1), "0.1"),
            (Value::I64(-3), "-3"),
            (Value::Bool(true), "true"),
        ] {
            assert_eq!(value.to_text(), text);
        }
    }
}
