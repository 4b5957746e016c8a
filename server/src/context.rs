//! What the services know of the process and the listener that they answer on.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this program was built from, if the build knew it.
pub const COMMIT: Option<&str> = option_env!("WEIR_COMMIT");

/// The version of DataFusion that answers ad-hoc SQL.
pub const DATAFUSION_VERSION: &str = datafusion::DATAFUSION_VERSION;

/// A host and a port as clients dial them. The host is a name or an IP address, without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    /// A host name or an IP address; an IPv6 address stands without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// How connections of a listener are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Plaintext only.
    #[default]
    Off,
    /// TLS only.
    On,
    /// Either, told by the first byte that the client sends.
    Both,
}

/// What a service knows of its listener and of the process. One per listener.
#[derive(Clone, Debug)]
pub struct ServerContext {
    /// Where clients reach this listener: what routes and endpoints name.
    pub advertised: Address,
    /// How the listener is protected.
    pub tls: TlsMode,
    /// The name of this node.
    pub node_name: String,
    /// The version of this program.
    pub version: &'static str,
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT; examples: 127.0.0.1:8081, broker.example:8081, [::1]:8081")]
pub struct AddressError {
    /// The text, shortened to 200 characters.
    pub text: String,
}

impl Address {
    /// Returns the address of a host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError { text: text.chars().take(200).collect() };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || host.len() > 253 || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        if host.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']' | '@')) {
            return Err(wrong());
        }
        Ok(Self::new(host, port.parse().map_err(|_| wrong())?))
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip().to_string(), address.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["127.0.0.1:8081", "[::1]:0", "broker.example:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", ":1", "host", "host:", "host:65536", "::1:8081", "http://host:1", "a b:1", "[:1"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
