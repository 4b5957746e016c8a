//! What the bytes of a descriptor or a ticket mean, and tickets that only this broker can have made.
//!
//! Tickets are self-contained: they name everything that is needed to read the same rows again, on any
//! connection and after a restart. They are signed with the key of the data directory; a hand-made JSON
//! ticket is a command that runs with the rights of its caller.

use arrow_flight::sql::{Any, Command};
use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::Status;
use weir_engine::{Broker, PullPart};

use super::command::{Compression, PULL_VERSION, PullCommand};

/// Bytes of a descriptor, a ticket or the body of an action other than `Produce`.
pub(crate) const COMMAND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How everything begins that we sign. No protobuf message and no JSON begins with a zero byte.
const MAGIC: &[u8] = b"\0weir\x01";

const SQL_TYPES: &str = "arrow.flight.protocol.sql.";

/// What bytes mean.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// A command of Flight SQL.
    Sql(Command),
    /// A pull command.
    Pull(PullCommand),
    /// Signed by us; [`open`] tells the rest.
    Signed,
    /// Text: SQL, where SQL is expected.
    Text(String),
}

/// All that one endpoint of a pull needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PullTicket {
    pub(crate) part: PullPart,
    /// The schema that was announced, as [`schema_text`](super::info::schema_text).
    pub(crate) schema: String,
    pub(crate) compression: Compression,
}

/// What a signature is for. A ticket of one purpose is worth nothing for another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// One endpoint of a pull.
    Pull,
    /// One endpoint of a query.
    Query,
    /// A prepared statement.
    Statement,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Pull => "flight-pull",
            Self::Query => "flight-query",
            Self::Statement => "flight-statement",
        }
    }
}

/// Tells the meaning of the bytes of a descriptor or a ticket.
pub(crate) fn read(bytes: &[u8]) -> Result<Meaning, Status> {
    check_size("the command or ticket", bytes.len(), COMMAND_BYTES_MAX)?;
    if bytes.starts_with(MAGIC) {
        return Ok(Meaning::Signed);
    }
    if bytes.first() == Some(&b'{') {
        return pull_command(bytes).map(Meaning::Pull);
    }
    if let Some(command) = sql_command(bytes)? {
        return Ok(Meaning::Sql(command));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.trim().is_empty() => Ok(Meaning::Text(text.to_owned())),
        _ => Err(Status::invalid_argument(
            "expected a Flight SQL message, a JSON command such as {\"pull\":1,\"topic\":\"orders\"}, SQL text, \
             or a ticket of this broker",
        )),
    }
}

/// Signs `value` for `purpose`.
pub(crate) fn seal<T: Serialize>(broker: &Broker, purpose: Purpose, value: &T) -> Result<Bytes, Status> {
    let mut bytes = MAGIC.to_vec();
    serde_json::to_writer(&mut bytes, value).map_err(|error| Status::internal(error.to_string()))?;
    Ok(broker.sign(purpose.name(), &bytes).into())
}

/// Returns what was sealed for `purpose`.
pub(crate) fn open<T: DeserializeOwned>(
    broker: &Broker,
    purpose: Purpose,
    bytes: &[u8],
) -> Result<T, Status> {
    check_size("the ticket", bytes.len(), COMMAND_BYTES_MAX)?;
    let foreign = || {
        Status::invalid_argument(match purpose {
            Purpose::Pull | Purpose::Query => {
                "the ticket is damaged or not of this broker; ask GetFlightInfo for another"
            }
            Purpose::Statement => {
                "the statement handle is damaged or not of this broker; prepare the statement again"
            }
        })
    };
    let payload = broker.verify(purpose.name(), bytes).ok_or_else(foreign)?;
    let json = payload.strip_prefix(MAGIC).ok_or_else(foreign)?;
    // Signed by us and yet unreadable: the program that signed it was another version.
    serde_json::from_slice(json).map_err(|_| foreign())
}

/// Refuses what is longer than `max`.
pub(crate) fn check_size(what: &str, bytes: usize, max: usize) -> Result<(), Status> {
    if bytes > max {
        return Err(Status::invalid_argument(format!("{what} is {bytes} bytes long; the limit is {max}")));
    }
    Ok(())
}

fn pull_command(bytes: &[u8]) -> Result<PullCommand, Status> {
    let command: PullCommand = serde_json::from_slice(bytes)
        .map_err(|error| Status::invalid_argument(format!("bad pull command: {error}")))?;
    if command.pull != PULL_VERSION {
        let asked = command.pull;
        return Err(Status::invalid_argument(format!(
            "bad pull command: \"pull\" is {asked}; this broker speaks {PULL_VERSION}"
        )));
    }
    Ok(command)
}

/// Returns the Flight SQL message in `bytes`, or `None` if they hold something else.
fn sql_command(bytes: &[u8]) -> Result<Option<Command>, Status> {
    let Ok(mut any) = Any::decode(bytes) else {
        return Ok(None);
    };
    let Some(name) = any.type_url.rsplit('/').next().filter(|name| name.starts_with(SQL_TYPES)) else {
        return Ok(None);
    };
    any.type_url = format!("type.googleapis.com/{name}");
    Command::try_from(any).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandGetCatalogs, CommandStatementQuery, ProstMessageExt as _};

    use super::*;

    #[test]
    fn bytes_are_told_apart_by_how_they_begin() {
        let command = CommandStatementQuery { query: "select 1".into(), transaction_id: None };
        let any = command.as_any().encode_to_vec();
        assert!(matches!(read(&any), Ok(Meaning::Sql(Command::CommandStatementQuery(_)))));
        let mut other = CommandGetCatalogs {}.as_any();
        other.type_url = "example.com/x/arrow.flight.protocol.sql.CommandGetCatalogs".into();
        assert!(matches!(read(&other.encode_to_vec()), Ok(Meaning::Sql(Command::CommandGetCatalogs(_)))));
        assert!(matches!(read(b"{\"pull\":1,\"topic\":\"a\"}"), Ok(Meaning::Pull(_))));
        assert!(matches!(read(b"select 1"), Ok(Meaning::Text(_))));
        assert!(matches!(read(b"\0weir\x01{}"), Ok(Meaning::Signed)));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for bytes in [&b""[..], b"  ", b"\xff\xfe", b"\x80", b"{", b"{}", b"{\"pull\":2,\"topic\":\"a\"}"] {
            assert_eq!(read(bytes).unwrap_err().code(), tonic::Code::InvalidArgument, "{bytes:?}");
        }
        let long = vec![b'{'; COMMAND_BYTES_MAX + 1];
        assert!(read(&long).unwrap_err().message().contains("limit"));
        let deep = vec![b'{'; 100_000];
        assert!(read(&deep).is_err());
    }
}
