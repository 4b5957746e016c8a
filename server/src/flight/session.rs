//! Session options: the schema in which bare names of tables resolve.
//!
//! A session is named by the bearer token or by a cookie that we set; everything works with neither. The
//! header `schema` (or `database`) of a call goes before the session.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{
    Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};
use weir_engine::{TopicName, limits::NAMESPACE_CHARS_MAX};

use super::{
    handshake::{Credentials, credentials},
    metadata::{CATALOG, DEFAULT_SCHEMA},
};

/// Sessions kept; then the oldest is forgotten.
const SESSIONS_MAX: usize = 4096;

const COOKIE: &str = "weir-session";

/// The sessions of a broker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The schema that a session chose.
    schemas: HashMap<SessionKey, String>,
    /// The same keys by age.
    order: VecDeque<SessionKey>,
}

type SessionKey = [u8; 32];

impl Sessions {
    /// Returns the namespace in which bare names resolve; empty for the default one.
    pub(crate) fn namespace(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let header = ["schema", "database"].iter().find_map(|name| metadata.get(*name));
        let schema = match header {
            Some(value) => Some(value.to_str().map_err(|_| bad_schema("that is not ASCII"))?.to_owned()),
            None => key(metadata)?.and_then(|key| self.state.lock().schemas.get(&key).cloned()),
        };
        match schema {
            Some(schema) => namespace_of(&schema),
            None => Ok(String::new()),
        }
    }

    /// Runs `SetSessionOptions`. Also returns the cookie to set, if the caller has no session yet.
    pub(crate) fn set(
        &self,
        metadata: &MetadataMap,
        body: &[u8],
    ) -> Result<(SetSessionOptionsResult, Option<MetadataValue<Ascii>>), Status> {
        let request = SetSessionOptionsRequest::decode(body).map_err(undecodable)?;
        let (key, cookie) = match key(metadata)? {
            Some(key) => (key, None),
            None => new_session()?,
        };
        let mut errors = HashMap::new();
        for (name, value) in request.session_options {
            if let Err(error) = self.set_one(key, &name, value.option_value) {
                errors.insert(name, SessionError { value: error as i32 });
            }
        }
        Ok((SetSessionOptionsResult { errors }, cookie))
    }

    fn set_one(&self, key: SessionKey, name: &str, value: Option<OptionValue>) -> Result<(), ErrorValue> {
        match (name, value) {
            ("catalog", None) => Ok(()),
            ("catalog", Some(OptionValue::String(catalog))) if catalog.is_empty() || catalog == CATALOG => {
                Ok(())
            }
            ("schema", None) => {
                self.state.lock().remove(&key);
                Ok(())
            }
            ("schema", Some(OptionValue::String(schema))) => {
                namespace_of(&schema).map_err(|_| ErrorValue::InvalidValue)?;
                self.state.lock().insert(key, schema);
                Ok(())
            }
            ("catalog" | "schema", Some(_)) => Err(ErrorValue::InvalidValue),
            _ => Err(ErrorValue::InvalidName),
        }
    }

    /// Runs `GetSessionOptions`.
    pub(crate) fn get(&self, metadata: &MetadataMap) -> Result<GetSessionOptionsResult, Status> {
        let schema = key(metadata)?.and_then(|key| self.state.lock().schemas.get(&key).cloned());
        let text = |text: String| SessionOptionValue { option_value: Some(OptionValue::String(text)) };
        let session_options = HashMap::from([
            ("catalog".to_owned(), text(CATALOG.to_owned())),
            ("schema".to_owned(), text(schema.unwrap_or_else(|| DEFAULT_SCHEMA.to_owned()))),
        ]);
        Ok(GetSessionOptionsResult { session_options })
    }

    /// Runs `CloseSession`. A session that is not known is closed already.
    pub(crate) fn close(&self, metadata: &MetadataMap) -> Result<CloseSessionResult, Status> {
        if let Some(key) = key(metadata)? {
            self.state.lock().remove(&key);
        }
        Ok(CloseSessionResult { status: CloseStatus::Closed as i32 })
    }
}

impl State {
    fn insert(&mut self, key: SessionKey, schema: String) {
        if self.schemas.insert(key, schema).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > SESSIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.schemas.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &SessionKey) {
        if self.schemas.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }
}

/// Returns the namespace of topics that a schema of the catalog shows.
fn namespace_of(schema: &str) -> Result<String, Status> {
    match schema {
        "" | DEFAULT_SCHEMA => Ok(String::new()),
        "weir" | "information_schema" => Ok(schema.to_owned()),
        _ if schema.len() > NAMESPACE_CHARS_MAX => Err(bad_schema("that is too long")),
        // A topic's name tells whether its namespace is well formed.
        _ => match TopicName::new(schema, "x") {
            Ok(_) => Ok(schema.to_owned()),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        },
    }
}

fn bad_schema(fault: &str) -> Status {
    Status::invalid_argument(format!("the header names a schema {fault}"))
}

fn key(metadata: &MetadataMap) -> Result<Option<SessionKey>, Status> {
    if let Credentials::Bearer(token) = credentials(metadata)? {
        return Ok(Some(digest("token", token)));
    }
    Ok(cookie(metadata).map(|cookie| digest("cookie", cookie)))
}

fn digest(kind: &str, value: &str) -> SessionKey {
    Sha256::new().chain_update(kind).chain_update([0]).chain_update(value).finalize().into()
}

fn cookie(metadata: &MetadataMap) -> Option<&str> {
    let headers = metadata.get_all("cookie").iter().filter_map(|header| header.to_str().ok());
    headers.flat_map(|header| header.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE && !value.is_empty()).then_some(value)
    })
}

fn new_session() -> Result<(SessionKey, Option<MetadataValue<Ascii>>), Status> {
    let name = uuid::Uuid::new_v4().simple().to_string();
    let header = format!("{COOKIE}={name}; HttpOnly; SameSite=Strict");
    let header = header.parse().map_err(|_| Status::internal("a cookie of ours is no header"))?;
    Ok((digest("cookie", &name), Some(header)))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn undecodable(error: prost::DecodeError) -> Status {
    Status::invalid_argument(format!("the body of the action cannot be read: {error}"))
}

/// `SetSessionOptionsRequest` of the Flight protocol.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

/// `SetSessionOptionsResult` of the Flight protocol.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, SessionError>,
}

/// Why an option was not set.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionError {
    #[prost(enumeration = "ErrorValue", tag = "1")]
    pub(crate) value: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ErrorValue {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

/// `GetSessionOptionsResult` of the Flight protocol.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

/// `SessionOptionValue` of the Flight protocol; without a value it unsets the option.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    StringList(StringList),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringList {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

/// `CloseSessionResult` of the Flight protocol.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CloseSessionResult {
    #[prost(enumeration = "CloseStatus", tag = "1")]
    pub(crate) status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CloseStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, OptionValue)]) -> Vec<u8> {
        let session_options = pairs.iter().map(|(name, value)| {
            ((*name).to_owned(), SessionOptionValue { option_value: Some(value.clone()) })
        });
        SetSessionOptionsRequest { session_options: session_options.collect() }.encode_to_vec()
    }

    fn text(text: &str) -> OptionValue {
        OptionValue::String(text.to_owned())
    }

    #[test]
    fn a_session_lives_by_its_cookie_or_its_token() {
        let sessions = Sessions::default();
        let nobody = MetadataMap::new();
        let (result, cookie) = sessions.set(&nobody, &options(&[("schema", text("sales"))])).unwrap();
        assert!(result.errors.is_empty());
        assert_eq!(sessions.namespace(&nobody).unwrap(), "");

        let cookie = cookie.unwrap().to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut known = MetadataMap::new();
        known.insert("cookie", format!("other=1; {cookie}").parse().unwrap());
        assert_eq!(sessions.namespace(&known).unwrap(), "sales");
        assert_eq!(sessions.get(&known).unwrap().session_options["schema"].option_value, Some(text("sales")));
        sessions.close(&known).unwrap();
        assert_eq!(sessions.namespace(&known).unwrap(), "");

        let mut bearer = MetadataMap::new();
        bearer.insert("authorization", "Bearer abc".parse().unwrap());
        assert!(sessions.set(&bearer, &options(&[("schema", text("a"))])).unwrap().1.is_none());
        assert_eq!(sessions.namespace(&bearer).unwrap(), "a");
        bearer.insert("schema", "public".parse().unwrap());
        assert_eq!(sessions.namespace(&bearer).unwrap(), "");
    }

    #[test]
    fn unknown_options_and_values_are_named_in_the_result() {
        let sessions = Sessions::default();
        let pairs = [("catalog", text(CATALOG)), ("colour", text("blue")), ("schema", text("a b"))];
        let (result, _) = sessions.set(&MetadataMap::new(), &options(&pairs)).unwrap();
        assert_eq!(result.errors.len(), 2);
        assert_eq!(result.errors["colour"].value(), ErrorValue::InvalidName);
        assert_eq!(result.errors["schema"].value(), ErrorValue::InvalidValue);
        let (result, _) = sessions.set(&MetadataMap::new(), &options(&[("catalog", text("x"))])).unwrap();
        assert_eq!(result.errors["catalog"].value(), ErrorValue::InvalidValue);
        assert!(sessions.set(&MetadataMap::new(), b"\xff").is_err());
    }

    #[test]
    fn sessions_are_bounded() {
        let sessions = Sessions::default();
        for i in 0..SESSIONS_MAX + 10 {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", format!("Bearer {i}").parse().unwrap());
            sessions.set(&metadata, &options(&[("schema", text("a"))])).unwrap();
        }
        let state = sessions.state.lock();
        assert_eq!((state.schemas.len(), state.order.len()), (SESSIONS_MAX, SESSIONS_MAX));
    }
}
