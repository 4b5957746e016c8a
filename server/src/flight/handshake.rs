//! Who calls: the `authorization` header of every call, and `Handshake`, which turns a password into a token.
//!
//! A broker without accounts lets everybody in. Clients that are configured with a password handshake all the same, and
//! take the token from the header of the answer.

use arrow_flight::HandshakeResponse;
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::Interceptor,
};
use weir_engine::{Broker, Principal, Unauthenticated};

const AUTHORIZATION: &str = "authorization";

/// Clients in Go leave the padding out.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the `authorization` header says. Not to be printed.
#[derive(PartialEq, Eq)]
pub(crate) enum Credentials<'a> {
    /// No header.
    None,
    /// A user name and a password.
    Basic { user: String, password: String },
    /// A token.
    Bearer(&'a str),
}

/// Returns the credentials of a call.
pub(crate) fn credentials(metadata: &MetadataMap) -> Result<Credentials<'_>, Status> {
    let Some(header) = metadata.get(AUTHORIZATION) else {
        return Ok(Credentials::None);
    };
    let wrong = || Status::unauthenticated("the authorization header is neither Basic nor Bearer");
    let (scheme, rest) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Bearer(rest.trim()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let decoded = BASIC.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => {
            Ok(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
        }
        None => Err(Status::unauthenticated("the Basic credentials are not base64 of USER:PASSWORD")),
    }
}

/// Returns who calls, if the caller is let in.
fn admit(broker: &Broker, metadata: &MetadataMap) -> Result<Principal, Status> {
    let accounts = broker.accounts();
    let admitted = match credentials(metadata)? {
        Credentials::Bearer(token) => accounts.by_token(token),
        Credentials::Basic { user, password } => accounts.by_secret(&user, &password),
        Credentials::None if accounts.is_open() => Ok(Principal::Anonymous),
        Credentials::None => Err(Unauthenticated::Missing),
    };
    admitted.map_err(|error| Status::unauthenticated(error.to_string()))
}

/// Refuses callers that are not let in, of any call, before anything that they send is read.
#[derive(Clone, Debug)]
pub struct Gate {
    broker: Broker,
}

impl Gate {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker }
    }
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        admit(&self.broker, request.metadata())?;
        Ok(request)
    }
}

/// Answers `Handshake`: echoes the payload, and gives a token for what comes next.
pub(crate) async fn handshake(
    broker: &Broker,
    request: Request<Streaming<arrow_flight::HandshakeRequest>>,
) -> Result<Response<super::BoxedStream<HandshakeResponse>>, Status> {
    let shown = match credentials(request.metadata())? {
        Credentials::Bearer(token) => Ok(token.to_owned()),
        Credentials::Basic { user, password } => broker.accounts().token_by_secret(&user, &password),
        Credentials::None => broker.accounts().token_by_secret("", ""),
    };
    let token = shown.map_err(|error| Status::unauthenticated(error.to_string()))?;
    let header = bearer(&token)?;
    let payload = first_payload(request.into_inner()).await?;
    let answer = HandshakeResponse { protocol_version: 0, payload };
    let stream: super::BoxedStream<_> = Box::pin(futures::stream::iter([Ok(answer)]));
    let mut response = Response::new(stream);
    response.metadata_mut().insert(AUTHORIZATION, header);
    Ok(response)
}

/// Clients may end the stream without a message: what counts is the header.
async fn first_payload(mut requests: Streaming<arrow_flight::HandshakeRequest>) -> Result<Bytes, Status> {
    Ok(requests.message().await?.map(|request| request.payload).unwrap_or_default())
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Status> {
    format!("Bearer {token}")
        .parse()
        .map_err(|_| Status::unauthenticated("the token holds forbidden characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_are_read_and_others_refused() {
        let of = |header: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(AUTHORIZATION, MetadataValue::from_static(header));
            match credentials(&metadata) {
                Ok(Credentials::Basic { user, password }) => Ok(format!("basic {user} {password}")),
                Ok(Credentials::Bearer(token)) => Ok(format!("bearer {token}")),
                Ok(Credentials::None) => Ok(String::new()),
                Err(status) => Err(status.code()),
            }
        };
        assert_eq!(of("Basic dTpw"), Ok("basic u p".into()));
        assert_eq!(of("Basic dXNlcjpwYXNzd29yZA"), Ok("basic user password".into()));
        assert_eq!(of("bearer abc"), Ok("bearer abc".into()));
        for wrong in ["Basic", "Basic !!!", "Basic dXA=", "Digest x", ""] {
            assert_eq!(of(wrong), Err(tonic::Code::Unauthenticated), "{wrong:?}");
        }
        assert!(credentials(&MetadataMap::new()).is_ok_and(|found| found == Credentials::None));
    }
}
