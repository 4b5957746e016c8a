//! How values look in JSON: durations as whole milliseconds, dialects by their names.

/// `Option<Duration>` as milliseconds or null.
pub(crate) mod duration_ms_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        value.map(super::millis).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

/// `Duration` as milliseconds.
pub(crate) mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        super::millis(*value).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// `Vec<Duration>` as milliseconds.
pub(crate) mod durations_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(values: &[Duration], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(values.iter().map(|value| super::millis(*value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<u64>::deserialize(from)?.into_iter().map(Duration::from_millis).collect())
    }
}

/// A dialect by its name.
pub(crate) mod dialect {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use weir_filter::Dialect;

    pub(crate) fn serialize<S: Serializer>(value: &Dialect, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(value.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dialect, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// `Option<Dialect>` by its name or null.
pub(crate) mod dialect_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use weir_filter::Dialect;

    pub(crate) fn serialize<S: Serializer>(value: &Option<Dialect>, out: S) -> Result<S::Ok, S::Error> {
        value.map(Dialect::name).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Dialect>, D::Error> {
        let name = Option::<String>::deserialize(from)?;
        name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A text that many share, or null.
pub(crate) fn shared_text<S: serde::Serializer>(
    text: &Option<std::sync::Arc<str>>,
    out: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&text.as_deref(), out)
}

fn millis(value: std::time::Duration) -> u64 {
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}
