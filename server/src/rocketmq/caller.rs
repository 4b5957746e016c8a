//! Who calls: what the headers of a request say of its client.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tonic::{Request, metadata::MetadataMap};
use weir_engine::{Principal, Unauthenticated, limits::CLIENT_BYTES_MAX};

use super::{
    proto::{Code, MessageType, Status},
    refusal::Refusal,
    signature::Admitted,
};

/// The client that sent a request, by the request's headers.
///
/// The values are free text of the client's: nothing is refused for what a client calls itself.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The client's id; all that is remembered of a client is kept under it.
    pub(crate) client: String,
    /// The implementation, as far as it makes a difference.
    pub(crate) language: Language,
    /// The version of the implementation.
    pub(crate) version: Version,
    /// The namespace of resources that name none.
    pub(crate) namespace: String,
    /// When the request arrived.
    pub(crate) arrived: Instant,
    /// How long the client waits from then on.
    pub(crate) timeout: Option<Duration>,
    /// The address of the other end.
    pub(crate) peer: Option<IpAddr>,
    /// Who it is, or why it is not let in.
    admission: Result<Principal, Unauthenticated>,
}

/// Implementations of the protocol with peculiarities of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Cpp,
    CSharp,
    Go,
    Java,
    Node,
    Python,
    Rust,
    Other,
}

/// A version number; what is no number counts as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Caller {
    /// Reads the headers of `request`. Who is not let in, and who has no id, is told by [`check`](Self::check).
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let headers = request.metadata();
        Self {
            client: header(headers, "x-mq-client-id").to_owned(),
            language: Language::of(header(headers, "x-mq-language")),
            version: Version::of(header(headers, "x-mq-client-version")),
            namespace: header(headers, "x-mq-namespace").to_owned(),
            arrived: Instant::now(),
            timeout: timeout(header(headers, "grpc-timeout")),
            peer: request.remote_addr().map(|address| address.ip()),
            // Nobody is let in whom the doorkeeper has not seen.
            admission: request
                .extensions()
                .get::<Admitted>()
                .map_or(Err(Unauthenticated::Missing), |admission| admission.0.clone()),
        }
    }

    /// Refuses a client without an id, or with one that is too long to be kept, and whoever is not let in.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.client.is_empty() {
            return Err(Refusal::new(Code::ClientIdRequired, "the header x-mq-client-id is missing"));
        }
        if self.client.len() > CLIENT_BYTES_MAX {
            let text = format!("the header x-mq-client-id is longer than {CLIENT_BYTES_MAX} bytes");
            return Err(Refusal::new(Code::RequestHeaderFieldsTooLarge, text));
        }
        match &self.admission {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::new(Code::Unauthorized, error.to_string())),
        }
    }

    /// Returns how long the client still waits for an answer; `None` means for ever.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout.saturating_sub(self.arrived.elapsed()))
    }

    /// Returns the status that tells this client `code`, in numbers that its version knows.
    ///
    /// Some clients end with a panic, or lose the cause, when they meet a number that is younger than they
    /// are. The name of the code that is meant goes into the text then.
    pub(crate) fn status(&self, code: Code, message: impl Into<String>) -> Status {
        let message = message.into();
        match self.known(code) {
            known if known == code => Status { code: code.into(), message },
            known => Status { code: known.into(), message: format!("{}: {message}", code.as_str_name()) },
        }
    }

    fn known(&self, code: Code) -> Code {
        match self.language {
            Language::Rust if self.version == Version(5, 0, 0) => known_to_rust_5_0_0(code),
            Language::Java if code == Code::IllegalPollingTime && self.version < Version(5, 0, 3) => {
                Code::BadRequest
            }
            _ => code,
        }
    }

    /// Returns the type as this client is told it. Some cannot read a whole route that names a type which is younger
    /// than they are; those are told that it is NORMAL.
    pub(crate) fn message_type(&self, message_type: MessageType) -> MessageType {
        let is_known = match message_type {
            MessageType::Lite => self.knows_lite(),
            MessageType::Priority => self.knows_priority(),
            _ => true,
        };
        if is_known { message_type } else { MessageType::Normal }
    }

    fn knows_lite(&self) -> bool {
        match self.language {
            Language::Java => self.version >= Version(5, 1, 0),
            Language::Python => self.version >= Version(5, 1, 2),
            Language::Node => self.version >= Version(1, 0, 8),
            Language::Go => self.version >= Version(5, 1, 4),
            Language::CSharp => self.version >= Version(5, 2, 1),
            Language::Cpp | Language::Rust | Language::Other => false,
        }
    }

    fn knows_priority(&self) -> bool {
        match self.language {
            Language::Java => self.version >= Version(5, 2, 0),
            // The first that knows it has no version of its own, and those before it read unknown numbers.
            Language::Cpp => true,
            _ => self.knows_lite(),
        }
    }

    /// Returns whether the client reads the seconds of a back-off as milliseconds.
    pub(crate) fn takes_seconds_for_milliseconds(&self) -> bool {
        self.language == Language::Node && self.version <= Version(1, 0, 8)
    }

    /// Returns whether the client sends the letters of a lite topic that it adds or removes in place of its name, each as
    /// a lite topic of its own, in order.
    pub(crate) fn sends_letters_of_lite_topics(&self) -> bool {
        self.language == Language::Python && self.version <= Version(5, 1, 2)
    }

    /// Returns whether the client, when its listener fails for a FIFO message, goes on with the next one of the message
    /// group that it has, and tries the one that failed again later.
    pub(crate) fn goes_on_after_failures(&self) -> bool {
        self.language == Language::Go && self.version <= Version(5, 1, 4)
    }

    /// Returns whether the client, of several messages of a FIFO group that came together, tries one that failed again by
    /// itself without an end, or forgets it until it ends; one that came alone it gives back. So does the C++ client, in
    /// `cpp/source/rocketmq/ConsumeTask.cpp` of apache/rocketmq-clients; no version is known in which it is otherwise.
    pub(crate) fn gives_back_only_single_fifo_messages(&self) -> bool {
        self.language == Language::Cpp
    }
}

impl Language {
    fn of(name: &str) -> Self {
        match name {
            "CPP" => Self::Cpp,
            "DOTNET" => Self::CSharp,
            "GO" => Self::Go,
            "JAVA" => Self::Java,
            "HTTP" | "NODE_JS" => Self::Node,
            "PYTHON" => Self::Python,
            "RUST" => Self::Rust,
            _ => Self::Other,
        }
    }
}

impl Version {
    fn of(text: &str) -> Self {
        let mut numbers = text.split('.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse().unwrap_or(0)
        });
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

/// Replaces the codes that came after the crate `rocketmq` 5.0.0, which panics on them.
fn known_to_rust_5_0_0(code: Code) -> Code {
    match code {
        Code::IllegalOffset | Code::IllegalLiteTopic | Code::InvalidClientProperties => Code::BadRequest,
        Code::OffsetNotFound => Code::NotFound,
        Code::MessageBodyEmpty => Code::MessageCorrupted,
        Code::LiteTopicQuotaExceeded | Code::LiteSubscriptionQuotaExceeded => Code::TooManyRequests,
        known => known,
    }
}

/// Returns the trimmed text of a header; what is missing or not ASCII is the empty text.
fn header<'a>(headers: &'a MetadataMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let unit = *text.as_bytes().last()?;
    let digits = text.get(..text.len() - 1)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 60 * 60)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_all_units_are_read() {
        for (text, expected) in [
            ("31536000M", Some(Duration::from_secs(31_536_000 * 60))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("3S", Some(Duration::from_secs(3))),
            ("40000m", Some(Duration::from_secs(40))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("3", None),
            ("-3S", None),
            ("123456789S", None),
            ("3ü", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(Version::of("5.0.3") > Version::of("5.0.2-SNAPSHOT"));
        assert!(Version::of("1.0.10") > Version::of("1.0.8"));
        assert_eq!(Version::of("v5"), Version(0, 0, 0));
        assert_eq!(Version::of("99999999999.ä.1"), Version(0, 0, 1));
    }

    #[test]
    fn old_clients_are_told_codes_that_they_know() {
        for (language, version, code, expected) in [
            ("RUST", "5.0.0", Code::MessageBodyEmpty, Code::MessageCorrupted),
            ("RUST", "5.0.0", Code::OffsetNotFound, Code::NotFound),
            ("RUST", "5.0.0", Code::IllegalLiteTopic, Code::BadRequest),
            ("RUST", "5.0.0", Code::LiteTopicQuotaExceeded, Code::TooManyRequests),
            ("RUST", "5.0.0", Code::TopicNotFound, Code::TopicNotFound),
            ("RUST", "5.0.1", Code::MessageBodyEmpty, Code::MessageBodyEmpty),
            ("PYTHON", "5.0.0", Code::MessageBodyEmpty, Code::MessageBodyEmpty),
            ("JAVA", "5.0.2", Code::IllegalPollingTime, Code::BadRequest),
            ("JAVA", "5.0.3", Code::IllegalPollingTime, Code::IllegalPollingTime),
        ] {
            let status = caller(language, version).status(code, "why");
            assert_eq!(status.code(), expected, "{language} {version} {code:?}");
            if expected != code {
                assert_eq!(status.message, format!("{}: why", code.as_str_name()));
            }
        }
    }

    #[test]
    fn types_that_a_client_cannot_read_are_normal_to_it() {
        use MessageType::{Fifo, Lite, Normal, Priority};
        for (language, version, lite, priority) in [
            ("JAVA", "5.0.8", Normal, Normal),
            ("JAVA", "5.1.0", Lite, Normal),
            ("JAVA", "5.2.0", Lite, Priority),
            ("PYTHON", "5.1.1", Normal, Normal),
            ("PYTHON", "5.1.2", Lite, Priority),
            ("HTTP", "1.0.8", Lite, Priority),
            ("GO", "5.1.3", Normal, Normal),
            ("GO", "5.1.4", Lite, Priority),
            ("DOTNET", "5.2.1", Lite, Priority),
            ("CPP", "5.0.0", Normal, Priority),
            ("RUST", "5.0.0", Normal, Normal),
            ("COBOL", "9.9.9", Normal, Normal),
        ] {
            let told = |message_type| caller(language, version).message_type(message_type);
            assert_eq!(
                (told(Lite), told(Priority), told(Fifo)),
                (lite, priority, Fifo),
                "{language} {version}"
            );
        }
    }

    /// The crate `rocketmq` 5.0.0 knows every number that the others do not replace.
    #[test]
    fn no_code_that_rust_5_0_0_does_not_know_is_left() {
        let unknown = [40019, 40020, 40021, 40404, 41302, 42901, 42902];
        for number in 0..=60_000 {
            if let Ok(code) = Code::try_from(number) {
                let sent = known_to_rust_5_0_0(code);
                assert!(!unknown.contains(&i32::from(sent)), "{code:?}");
                assert_eq!(sent == code, !unknown.contains(&number), "{code:?}");
            }
        }
    }

    fn caller(language: &str, version: &str) -> Caller {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-mq-language", language.parse().unwrap());
        request.metadata_mut().insert("x-mq-client-version", version.parse().unwrap());
        Caller::of(&request)
    }
}
