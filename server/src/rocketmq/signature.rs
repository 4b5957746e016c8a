//! Access keys: the header `authorization: MQv2-HMAC-SHA1 Credential=…, SignedHeaders=x-mq-date-time, Signature=…`.
//!
//! The signature covers the header `x-mq-date-time` alone, with the secret as the key. Clients write local time there
//! and call it UTC, and those that hold a stream open never sign again, so no age can be asked of it. RocketMQ's own
//! clients sign so; see `org.apache.rocketmq.client.java.rpc.Signature`.

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use tonic::{Request, Status, metadata::MetadataMap, service::Interceptor};
use weir_engine::{Broker, Principal, Unauthenticated};

const SCHEME: &str = "MQv2-HMAC-SHA1";
/// Bytes of HMAC-SHA1.
const SIGNATURE_LEN: usize = 20;

/// Whether the caller of a request is let in. Every request that reaches the service carries one.
#[derive(Clone, Debug)]
pub(super) struct Admitted(pub(super) Result<Principal, Unauthenticated>);

/// Finds out who sends each request.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    broker: Broker,
}

impl Doorkeeper {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker }
    }
}

impl Interceptor for Doorkeeper {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let admission = Admitted(admit(&self.broker, request.metadata()));
        request.extensions_mut().insert(admission);
        Ok(request)
    }
}

fn admit(broker: &Broker, metadata: &MetadataMap) -> Result<Principal, Unauthenticated> {
    let accounts = broker.accounts();
    if accounts.is_open() {
        // Some clients send a header without any key.
        return Ok(Principal::Anonymous);
    }
    let header = metadata.get("authorization").ok_or(Unauthenticated::Missing)?;
    let header = header.to_str().map_err(|_| Unauthenticated::Wrong)?;
    let Signed { credential, signature } = Signed::parse(header).ok_or(Unauthenticated::Wrong)?;
    if credential.is_empty() {
        return Err(Unauthenticated::Missing);
    }
    let date = metadata.get("x-mq-date-time").ok_or(Unauthenticated::Wrong)?;
    accounts.by_proof(credential, |secret| is_signed(secret, date.as_bytes(), &signature))
}

/// Returns whether `signature` is that of `text` with `secret`. Takes constant time.
fn is_signed(secret: &[u8], text: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.verify_slice(signature).is_ok()
}

/// What an `authorization` header says.
#[derive(Debug, PartialEq, Eq)]
struct Signed<'a> {
    /// The access key.
    credential: &'a str,
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> Signed<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        let (mut credential, mut signature) = (None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            match name.trim() {
                // Some clients put region and service behind it.
                "Credential" => credential = value.split('/').next(),
                "Signature" => signature = unhex(value.trim()),
                _ => {}
            }
        }
        Some(Self { credential: credential?.trim(), signature: signature? })
    }
}

/// Reads digits of either case.
fn unhex(text: &str) -> Option<[u8; SIGNATURE_LEN]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * SIGNATURE_LEN {
        return None;
    }
    let mut bytes = [0; SIGNATURE_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let [high, low] = [digit(*pair.first()?)?, digit(*pair.get(1)?)?];
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As real clients signed them: Python and Go, Java and Node, Rust, Python without keys.
    #[test]
    fn signatures_of_real_clients_are_right() {
        for (secret, date, signature) in [
            ("SECRET", "20261123T023657Z", "a429ea77334dcdcc5fc72ff94e0a8dac5096bde6"),
            ("SECRET", "20261123T023821Z", "9666563FE4835ED166296CADA704F35C00F9753A"),
            ("SECRET", "2026-11-23T02:51:18.182715841Z", "c4094ec2a428809cd277ad3666f93c084b1d67e1"),
            ("", "20261123T023646Z", "8511ee45cae221509ceaadb457eb3842bd76a88f"),
        ] {
            let bytes = unhex(signature).unwrap();
            assert!(is_signed(secret.as_bytes(), date.as_bytes(), &bytes), "{signature}");
            assert!(!is_signed(b"secret", date.as_bytes(), &bytes));
            assert!(!is_signed(secret.as_bytes(), b"20261123T023658Z", &bytes));
        }
    }

    #[test]
    fn headers_of_all_clients_are_read() {
        let hex = "a429ea77334dcdcc5fc72ff94e0a8dac5096bde6";
        for (credential, expected) in
            [("AK", "AK"), ("AK//Rocketmq", "AK"), ("AK/region/RocketMQ", "AK"), ("", "")]
        {
            let header = format!(
                "MQv2-HMAC-SHA1 Credential={credential}, SignedHeaders=x-mq-date-time, Signature={hex}"
            );
            assert_eq!(Signed::parse(&header).map(|signed| signed.credential), Some(expected), "{header}");
        }
        for wrong in [
            String::new(),
            "MQv2-HMAC-SHA1".to_owned(),
            format!("Basic Credential=AK, Signature={hex}"),
            format!("MQv2-HMAC-SHA1 Credential=AK, Signature={hex}0"),
            format!("MQv2-HMAC-SHA1 Credential=AK, Signature={}", hex.replace('a', "g")),
            format!("MQv2-HMAC-SHA1 Credential=AK, Signature={}é", &hex[2..]),
            format!("MQv2-HMAC-SHA1 Signature={hex}"),
            "MQv2-HMAC-SHA1 Credential=AK".to_owned(),
            format!("MQv2-HMAC-SHA1 Credential=AK, Signature {hex}"),
        ] {
            assert_eq!(Signed::parse(&wrong), None, "{wrong}");
        }
    }
}
