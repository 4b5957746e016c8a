//! The configuration file, and what a start makes of it together with flags and environment.
//!
//! The file is TOML. What parses is valid: unknown keys, bad values and tables that contradict themselves are
//! errors that name the file, the line and the key. `docs/cli.md` lists every key.

use std::{
    fmt, io,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use weir_engine::limits::{RETENTION_DISK_PERCENT_DEFAULT, RETENTION_HOLD_DEFAULT};
use weir_filter::Dialect;
use weir_storage::StorageOptions;

use crate::context::{Address, TlsMode};

/// Where the data lies if neither flag, environment nor file say so.
pub const DATA_DIR_DEFAULT: &str = "./weir-data";

/// Where a broker listens if nobody says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8081";

/// The whole configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The data directory. A relative path starts at the file's directory. Default: `./weir-data`.
    pub data: Option<PathBuf>,
    /// The name of this node, which routes name. Default: `weir`.
    pub node_name: NodeName,
    /// Creates topics that producers and consumers ask for. Default: no.
    pub auto_create_topics: bool,
    /// Creates groups that consumers name. Default: yes.
    pub auto_create_groups: bool,
    /// The oldest messages end while more than this share of the disk is in use; in percent, 100 for never.
    /// Default: 90.
    pub retention_disk_percent: Percent,
    /// How much longer messages are retained that a group is not done with. Default: 24h.
    #[serde(deserialize_with = "duration")]
    pub retention_hold: Duration,
    /// The oldest messages end while the log takes more bytes; 0 for any number. Default: any.
    pub retention_bytes: ByteCount,
    /// The language of selectors where neither group nor topic names one. Default: `sql92`.
    #[serde(deserialize_with = "dialect")]
    pub selector_dialect: Dialect,
    /// The file that says who may call, `docs/cli.md`. Default: everybody may.
    pub accounts: Option<PathBuf>,
    /// Where to listen. Default: one listener at `127.0.0.1:8081`.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerConfig>,
    /// Ad-hoc SQL and batch pull.
    pub query: QueryConfig,
    /// Sizes and times of what lies on disk.
    pub storage: StorageConfig,
}

/// A `[[listener]]` table of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawListener")]
pub struct ListenerConfig {
    /// Where to listen. Port 0 lets the system choose.
    pub address: Address,
    /// How connections are protected, and with what.
    pub tls: TlsMode,
    /// Certificate chain and key. Where plaintext and TLS are both taken, a certificate is made at each start without them.
    pub identity: Option<IdentityFiles>,
    /// Where clients reach this listener, if not at `address`.
    pub advertised: Option<Address>,
    /// How many connections may be open at a time. Default: 10,000.
    pub connections_max: NonZeroU32,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The `[query]` table of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QueryConfig {
    /// Bytes of memory that ad-hoc SQL may hold.
    pub memory_bytes: Option<NonZeroUsize>,
    /// Queries that run at a time.
    pub slots: Option<NonZeroUsize>,
    /// Threads that read for receives, pulls and queries.
    pub read_threads: Option<NonZeroUsize>,
}

/// The `[storage]` table of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StorageConfig {
    /// The size to which segments of the log grow, in bytes. Default: 1 GiB.
    pub segment_bytes: Option<SegmentBytes>,
    /// A checkpoint is made after so many bytes of log. Default: 256 MiB.
    pub checkpoint_bytes: Option<NonZeroU64>,
    /// A checkpoint is made after so many seconds if the log has grown. Default: 30.
    pub checkpoint_seconds: Option<NonZeroU32>,
    /// Where `weir storage checkpoint` may have the broker make copies. Default: the directory in which the data
    /// directory lies.
    pub checkpoint_dir: Option<PathBuf>,
}

/// The size of a segment: from 1 MiB to 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct SegmentBytes(u64);

/// The name of a node: up to 64 characters of `a-zA-Z0-9_-.`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeName(String);

/// A share in percent, from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct Percent(u8);

/// A number of bytes: plain, or with a unit such as `10GiB` or `500MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub struct ByteCount(u64);

impl ByteCount {
    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000_u64.pow(2),
            "gb" => 1000_u64.pow(3),
            "tb" => 1000_u64.pow(4),
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(format!("{text:?} is no number of bytes; write 500MB or 10GiB")),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no number of bytes; write 500MB or 10GiB"))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for ByteCount {
    type Error = String;

    fn try_from(from: NumberOrText) -> Result<Self, String> {
        match from {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says something that makes no sense.
    #[error("{}:{line}:{column}: {message}\n  | {text}\n  | {:>column$}", path.display(), '^')]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// What is wrong, with the key.
        message: String,
        /// The line itself, shortened.
        text: String,
    },
}

/// What stands in a `[[listener]]` table, before its keys have been held against each other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawListener {
    address: Address,
    #[serde(default = "both")]
    tls: TlsMode,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    advertised: Option<Address>,
    connections_max: Option<NonZeroU32>,
}

const fn both() -> TlsMode {
    TlsMode::Both
}

const CONNECTIONS_MAX_DEFAULT: NonZeroU32 = NonZeroU32::new(10_000).expect("10,000 is not zero");
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 30;
const NODE_NAME_CHARS_MAX: usize = 64;
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or says something that makes no sense.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            read_bounded(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text, path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        config.resolve(base);
        Ok(config)
    }

    /// Reads `text`; `path` is named in errors.
    ///
    /// # Errors
    ///
    /// If the text is not TOML, or says something that makes no sense.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| located(&error, text, path))
    }

    /// Makes relative paths start at `base`, the directory of the file.
    fn resolve(&mut self, base: &Path) {
        if let Some(data) = &mut self.data {
            *data = base.join(&*data);
        }
        if let Some(accounts) = &mut self.accounts {
            *accounts = base.join(&*accounts);
        }
        if let Some(dir) = &mut self.storage.checkpoint_dir {
            *dir = base.join(&*dir);
        }
        for identity in self.listeners.iter_mut().filter_map(|listener| listener.identity.as_mut()) {
            identity.certificate = base.join(&identity.certificate);
            identity.key = base.join(&identity.key);
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: None,
            node_name: NodeName::default(),
            auto_create_topics: false,
            auto_create_groups: true,
            retention_disk_percent: Percent(RETENTION_DISK_PERCENT_DEFAULT),
            retention_hold: RETENTION_HOLD_DEFAULT,
            retention_bytes: ByteCount::default(),
            selector_dialect: Dialect::default(),
            accounts: None,
            listeners: Vec::new(),
            query: QueryConfig::default(),
            storage: StorageConfig::default(),
        }
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

fn dialect<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Dialect, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

impl ListenerConfig {
    /// Returns a listener at `address`, for plaintext and for TLS with a certificate of our own.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            tls: TlsMode::Both,
            identity: None,
            advertised: None,
            connections_max: CONNECTIONS_MAX_DEFAULT,
        }
    }
}

impl TryFrom<RawListener> for ListenerConfig {
    type Error = String;

    fn try_from(raw: RawListener) -> Result<Self, String> {
        let identity = match (raw.tls, raw.certificate, raw.key) {
            (TlsMode::Off | TlsMode::Both, None, None) => None,
            (TlsMode::On, None, None) => {
                return Err("`tls = \"on\"` needs `certificate` and `key`, each a PEM file".to_owned());
            }
            (TlsMode::Off, ..) => {
                return Err("`certificate` and `key` need `tls = \"on\"` or `tls = \"both\"`".to_owned());
            }
            (_, Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
            (..) => return Err("`certificate` and `key` belong together, each a PEM file".to_owned()),
        };
        if raw.advertised.as_ref().is_some_and(|advertised| advertised.port == 0) {
            return Err("`advertised` needs the port that clients dial; 0 is none".to_owned());
        }
        Ok(Self {
            address: raw.address,
            tls: raw.tls,
            identity,
            advertised: raw.advertised,
            connections_max: raw.connections_max.unwrap_or(CONNECTIONS_MAX_DEFAULT),
        })
    }
}

impl Default for NodeName {
    fn default() -> Self {
        Self("weir".to_owned())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > NODE_NAME_CHARS_MAX || !name.chars().all(allowed) {
            return Err(format!(
                "a node name is 1 to {NODE_NAME_CHARS_MAX} letters, digits or _-. characters"
            ));
        }
        Ok(Self(name))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(percent: u8) -> Result<Self, String> {
        if !(1..=100).contains(&percent) {
            return Err(format!("{percent} is no share; it is 1 to 100 percent"));
        }
        Ok(Self(percent))
    }
}

impl From<SegmentBytes> for u64 {
    fn from(bytes: SegmentBytes) -> Self {
        bytes.0
    }
}

impl TryFrom<u64> for SegmentBytes {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(format!(
                "a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, not {bytes}"
            ));
        }
        Ok(Self(bytes))
    }
}

impl StorageConfig {
    /// Changes `options` as the table says. Smaller segments are also begun and written ahead in smaller pieces,
    /// those of the group journal as well.
    pub fn apply(&self, options: &mut StorageOptions) {
        if let Some(SegmentBytes(bytes)) = self.segment_bytes {
            options.log_segment_bytes_max = bytes;
            for part in [
                &mut options.log_segment_bytes_min,
                &mut options.journal_segment_bytes,
                &mut options.journal_rotate_bytes,
            ] {
                *part = bytes.min(*part);
            }
            options.zero_ahead_bytes = options.zero_ahead_bytes.min(bytes / 4);
            options.journal_zero_ahead_bytes = options.journal_zero_ahead_bytes.min(bytes / 16);
        }
        if let Some(bytes) = self.checkpoint_bytes {
            options.checkpoint_bytes = bytes.get();
        }
        if let Some(seconds) = self.checkpoint_seconds {
            options.checkpoint_interval = Duration::from_secs(seconds.get().into());
        }
    }
}

/// Reads a text file of reasonable size.
fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

fn located(error: &toml::de::Error, text: &str, path: &Path) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line_text = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    ConfigError::Invalid {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        message: with_key(error.message(), line_text),
        text: line_text.chars().take(200).collect(),
    }
}

/// Says which key the message is about, where the message does not.
fn with_key(message: &str, line: &str) -> String {
    let message = message.trim_end().replace('\n', "; ");
    match line.split_once('=').map(|(key, _)| key.trim()) {
        Some(key) if !message.contains(&format!("`{key}`")) => format!("{key}: {message}"),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("weir.toml"))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            data = "d"
            node-name = "n-1"
            auto-create-topics = true
            auto-create-groups = false
            [query]
            memory-bytes = 1000
            slots = 2
            read-threads = 3
            [storage]
            segment-bytes = 2097152
            checkpoint-bytes = 1000
            checkpoint-seconds = 7
            [[listener]]
            address = "127.0.0.1:0"
            connections-max = 7
            [[listener]]
            address = "[::]:8082"
            tls = "both"
            certificate = "c.pem"
            key = "k.pem"
            advertised = "broker.example:443"
            "#,
        )
        .unwrap();
        assert_eq!(config.data, Some(PathBuf::from("d")));
        assert!(config.auto_create_topics && !config.auto_create_groups);
        let mut storage = StorageOptions::default();
        config.storage.apply(&mut storage);
        assert_eq!((storage.log_segment_bytes_min, storage.log_segment_bytes_max), (2 << 20, 2 << 20));
        assert_eq!((storage.checkpoint_bytes, storage.checkpoint_interval), (1000, Duration::from_secs(7)));
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.listeners[0].connections_max.get(), 7);
        assert_eq!(config.listeners[1].tls, TlsMode::Both);
        assert_eq!(config.listeners[1].advertised, Some(Address::new("broker.example", 443)));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("a = 1", "weir.toml:1:1: unknown field `a`"),
            ("\nnode-name = \"a b\"", "weir.toml:2:13: node-name: a node name is"),
            ("\n\nauto-create-topics = 3", "weir.toml:3:22: auto-create-topics: invalid type"),
            ("[query]\nslots = 0", "weir.toml:2:9: slots: invalid value"),
            ("[storage]\nsegment-bytes = 9", "weir.toml:2:17: segment-bytes: a segment has"),
            ("[[listener]]\ntls = \"off\"", "weir.toml:1:1: missing field `address`"),
            ("[[listener]]\naddress = \"x\"", "weir.toml:2:11: address: \"x\" is not HOST:PORT"),
            ("[[listener]]\naddress = \"x:1\"\ntls = \"on\"", "needs `certificate` and `key`"),
            ("[[listener]]\naddress = \"x:1\"\nkey = \"k\"", "`certificate` and `key` belong together"),
            (
                "[[listener]]\naddress = \"x:1\"\nkey = \"k\"\ncertificate = \"c\"\ntls = \"off\"",
                "`certificate` and `key` need `tls",
            ),
            ("[[listener]]\naddress = \"x:1\"\nadvertised = \"x:0\"", "`advertised` needs the port"),
            ("data = ", "weir.toml:1:"),
        ];
        for (text, expected) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?} gives {message}");
        }
    }

    #[test]
    fn bytes_and_times_have_units() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("3 kB", 3000), ("10GiB", 10 << 30), ("1tb", 1_000_000_000_000)]
        {
            assert_eq!(text.parse::<ByteCount>().map(ByteCount::get), Ok(bytes), "{text}");
            let config = parse(&format!("retention-bytes = {text:?}")).unwrap();
            assert_eq!(config.retention_bytes.get(), bytes);
        }
        assert_eq!(parse("retention-hold = \"2h\"").unwrap().retention_hold, Duration::from_secs(7200));
        assert!(parse("retention-hold = \"soon\"").is_err());
        assert_eq!(parse("retention-bytes = 5").unwrap().retention_bytes.get(), 5);
        for text in ["", "GiB", "-1", "1.5GB", "99999999999TiB", "1 mile"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_start_at_the_directory_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.toml");
        std::fs::write(&path, "data = \"d\"").unwrap();
        assert_eq!(Config::read(&path).unwrap().data, Some(dir.path().join("d")));
        assert!(matches!(Config::read(dir.path()), Err(ConfigError::Read { .. })));
    }
}
