//! The action `Produce`: JSON messages into a topic.
//!
//! ```json
//! {"topic": "orders", "messages": [
//!   {"properties": {"region": "EU", "price": 12.5, "express": true}, "body": {"any": "JSON"},
//!    "tag": "new", "keys": ["o-17"], "message_group": null, "lite_topic": null, "delivery_time": null, "priority": null,
//!    "message_id": null}]}
//! ```
//!
//! A property is typed by its JSON: a string, a 64-bit integer, a 64-bit float or a boolean; null means that
//! it is missing. With `"untyped": true` strings are untyped text, of which the broker tells numbers
//! apart: what CSV needs. A body that is no string is stored as its JSON text.
//!
//! The reader keeps the limits of a batch while it reads, so that a short text cannot become much memory.

use std::{cell::Cell, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::json;
use tonic::Status;
use weir_columns::Value;
use weir_engine::{
    Broker, Message, MessageType, TopicName,
    limits::{BATCH_MESSAGES_MAX, PROPERTIES_MAX},
};

use super::{admin::bad_body, command::Moment};
use crate::status::to_flight;

/// Stores the messages of `body`, and answers where.
pub(crate) async fn produce(broker: &Broker, body: &[u8]) -> Result<serde_json::Value, Status> {
    let request: Request = serde_json::from_slice(body).map_err(|error| bad_body(&error))?;
    let now = broker.clock().wall_ms();
    let untyped = request.untyped;
    let messages = request.messages.0.into_iter().map(|message| message.into_message(untyped, now)).collect();
    let stored = broker.publish(&request.topic, messages).await.map_err(to_flight)?;
    let offsets: Vec<_> = stored.iter().map(|place| json!([place.queue, place.offset])).collect();
    Ok(json!({ "stored": stored.len(), "offsets": offsets }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    topic: TopicName,
    #[serde(default)]
    untyped: bool,
    messages: Bounded<Produced, BATCH_MESSAGES_MAX>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Produced {
    #[serde(default)]
    properties: Properties,
    #[serde(default)]
    body: Option<Text>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    keys: Option<Bounded<String, PROPERTIES_MAX>>,
    #[serde(default)]
    message_group: Option<String>,
    #[serde(default)]
    lite_topic: Option<String>,
    #[serde(default)]
    delivery_time: Option<Moment>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    message_id: Option<String>,
}

impl Produced {
    fn into_message(self, untyped: bool, now: i64) -> Message {
        let message_type = if self.delivery_time.is_some() {
            MessageType::Delay
        } else if self.message_group.is_some() {
            MessageType::Fifo
        } else if self.lite_topic.is_some() {
            MessageType::Lite
        } else if self.priority.is_some() {
            MessageType::Priority
        } else {
            MessageType::Normal
        };
        let property = |(name, value)| match value {
            Value::Str(text) if untyped => (name, Value::Text(text)),
            value => (name, value),
        };
        Message {
            message_id: self.message_id.unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string()),
            tag: self.tag,
            keys: self.keys.map(|keys| keys.0).unwrap_or_default(),
            properties: self.properties.0.into_iter().map(property).collect(),
            body: self.body.map(|text| Bytes::from(text.0)).unwrap_or_default(),
            message_type,
            born_time_ms: Some(now),
            message_group: self.message_group,
            delivery_time_ms: self.delivery_time.map(|moment| moment.0),
            priority: self.priority,
            lite_topic: self.lite_topic,
            ..Message::default()
        }
    }
}

/// A list of at most `MAX` items.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    list.push(item);
                }
                Ok(Bounded(list))
            }
        }
        deserializer.deserialize_seq(Items(std::marker::PhantomData))
    }
}

/// Properties in the order given, without those that are null.
#[derive(Default)]
struct Properties(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Properties;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {PROPERTIES_MAX} strings, numbers and booleans")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Properties, E> {
                Ok(Properties::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Properties, A::Error> {
                let mut properties: Vec<(String, Value)> = Vec::new();
                while let Some(name) = pairs.next_key::<String>()? {
                    let Property(value) = pairs.next_value()?;
                    if properties.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format!("the property {name:?} is there twice")));
                    }
                    let Some(value) = value else { continue };
                    if properties.len() == PROPERTIES_MAX {
                        return Err(A::Error::invalid_length(PROPERTIES_MAX + 1, &self));
                    }
                    properties.push((name, value));
                }
                Ok(Properties(properties))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

struct Property(Option<Value>);

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = Property;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, a boolean or null")
            }

            fn visit_unit<E>(self) -> Result<Property, E> {
                Ok(Property(None))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Property, E> {
                Ok(Property(Some(Value::Bool(value))))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Property, E> {
                Ok(Property(Some(Value::I64(value))))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Property, E> {
                match i64::try_from(value) {
                    Ok(value) => self.visit_i64(value),
                    Err(_) => Err(E::custom(format!(
                        "the integer {value} does not fit 64 bits; send it as a string"
                    ))),
                }
            }

            fn visit_f64<E>(self, value: f64) -> Result<Property, E> {
                Ok(Property(Some(Value::F64(value))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Property, E> {
                Ok(Property(Some(Value::Str(text.to_owned()))))
            }

            fn visit_string<E>(self, text: String) -> Result<Property, E> {
                Ok(Property(Some(Value::Str(text))))
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// A string as it is, anything else as its JSON text. Written while it is read: no tree is built.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a body")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Text, E> {
                json_text(|json| json.visit_bool(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Text, E> {
                json_text(|json| json.visit_i64(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Text, E> {
                json_text(|json| json.visit_u64(value))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Text, E> {
                json_text(|json| json.visit_f64(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Text, A::Error> {
                json_text(|json| json.visit_seq(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<Text, A::Error> {
                json_text(|json| json.visit_map(pairs))
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

fn json_text<E>(write: impl FnOnce(Json<'_>) -> Result<(), E>) -> Result<Text, E> {
    let text = Cell::new(String::new());
    write(Json(&text))?;
    Ok(Text(text.into_inner()))
}

/// Appends the JSON text of what it visits.
#[derive(Clone, Copy)]
struct Json<'a>(&'a Cell<String>);

impl Json<'_> {
    fn push(self, piece: &str) {
        let mut text = self.0.take();
        text.push_str(piece);
        self.0.set(text);
    }

    fn push_string<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.push(&serde_json::to_string(value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.push("null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.push(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.push(&json!(value).to_string());
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.push_string(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.push("[");
        let mut first = true;
        while items.next_element_seed(Item { json: self, first })?.is_some() {
            first = false;
        }
        self.push("]");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        self.push("{");
        let mut first = true;
        while let Some(name) = pairs.next_key::<String>()? {
            if !std::mem::replace(&mut first, false) {
                self.push(",");
            }
            self.push_string(&name)?;
            self.push(":");
            pairs.next_value_seed(self)?;
        }
        self.push("}");
        Ok(())
    }
}

/// An item of a list, with the comma before it.
struct Item<'a> {
    json: Json<'a>,
    first: bool,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !self.first {
            self.json.push(",");
        }
        self.json.deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Result<Vec<Message>, String> {
        let request: Request = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let untyped = request.untyped;
        Ok(request.messages.0.into_iter().map(|message| message.into_message(untyped, 7)).collect())
    }

    #[test]
    fn json_gives_properties_their_types() {
        let properties = r#"{"s":"5","i":-5,"f":1.5,"b":true,"n":null}"#;
        let typed =
            messages(&format!(r#"{{"topic":"a","messages":[{{"properties":{properties}}}]}}"#)).unwrap();
        let expected = [
            ("s".to_owned(), Value::Str("5".into())),
            ("i".to_owned(), Value::I64(-5)),
            ("f".to_owned(), Value::F64(1.5)),
            ("b".to_owned(), Value::Bool(true)),
        ];
        assert_eq!(typed[0].properties, expected);
        let untyped = messages(&format!(
            r#"{{"topic":"a","untyped":true,"messages":[{{"properties":{properties}}}]}}"#
        ))
        .unwrap();
        assert_eq!(untyped[0].properties[0].1, Value::Text("5".into()));
        assert_eq!(untyped[0].properties[1..], expected[1..]);
    }

    #[test]
    fn a_body_is_its_text_or_the_text_of_its_json() {
        for (body, expected) in [
            (r#""plain \"text\"""#, r#"plain "text""#),
            ("null", ""),
            ("5", "5"),
            ("1.50", "1.5"),
            ("[1, -2, [], {}, \"a\\nb\", null, true]", r#"[1,-2,[],{},"a\nb",null,true]"#),
            (r#"{"z": {"y": [1.0]}, "a": "ü"}"#, r#"{"z":{"y":[1.0]},"a":"ü"}"#),
        ] {
            let text = format!(r#"{{"topic":"a","messages":[{{"body":{body}}}]}}"#);
            assert_eq!(messages(&text).unwrap()[0].body, expected, "{body}");
        }
    }

    #[test]
    fn the_rest_of_a_message_is_kept() {
        let text = r#"{"topic":"a","messages":[
            {"tag":"t","keys":["k1","k2"],"message_group":"g","message_id":"m"},
            {"delivery_time":"2026-11-01T00:00:00Z"}, {}]}"#;
        let [first, second, third] = messages(text).unwrap().try_into().unwrap();
        assert_eq!((first.tag.as_deref(), first.keys.len(), first.message_id.as_str()), (Some("t"), 2, "m"));
        assert_eq!((first.message_type, first.message_group.as_deref()), (MessageType::Fifo, Some("g")));
        assert_eq!(
            (second.message_type, second.delivery_time_ms),
            (MessageType::Delay, Some(1_793_491_200_000))
        );
        assert_eq!((third.message_type, third.born_time_ms), (MessageType::Normal, Some(7)));
        assert!(!third.message_id.is_empty() && third.message_id != second.message_id);
    }

    #[test]
    fn what_breaks_a_limit_or_makes_no_sense_is_refused_while_it_is_read() {
        let many = format!(r#"{{"topic":"a","messages":[{}{{}}]}}"#, "{},".repeat(BATCH_MESSAGES_MAX));
        let wide: Vec<String> = (0..=PROPERTIES_MAX).map(|i| format!(r#""p{i}":1"#)).collect();
        let wide = format!(r#"{{"topic":"a","messages":[{{"properties":{{{}}}}}]}}"#, wide.join(","));
        let keys =
            format!(r#"{{"topic":"a","messages":[{{"keys":[{}"k"]}}]}}"#, r#""k","#.repeat(PROPERTIES_MAX));
        let deep = format!(r#"{{"topic":"a","messages":[{{"body":{}"#, "[".repeat(100_000));
        for text in [
            &many,
            &wide,
            &keys,
            &deep,
            r#"{"topic":"a b","messages":[]}"#,
            r#"{"topic":"a"}"#,
            r#"{"topic":"a","messages":[{"properties":{"x":[1]}}]}"#,
            r#"{"topic":"a","messages":[{"properties":{"x":1,"x":2}}]}"#,
            r#"{"topic":"a","messages":[{"properties":{"x":18446744073709551615}}]}"#,
            r#"{"topic":"a","messages":[{"colour":"blue"}]}"#,
        ] {
            let shown: String = text.chars().take(80).collect();
            assert!(messages(text).is_err(), "{shown}");
        }
    }
}
