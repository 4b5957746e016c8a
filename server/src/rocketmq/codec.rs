//! Decodes requests, after a look at how much memory they would take.
//!
//! Two bytes on the wire can make a struct of some hundred in memory, so that a limit on bytes alone does not
//! bound what one request takes. Only sent messages may be large; their parts are counted first.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;
use weir_engine::limits::BATCH_MESSAGES_MAX;

use super::proto;

/// Bytes of a request that carries no messages.
pub(super) const SMALL_BYTES_MAX: usize = 1 << 20;

/// Properties and keys of all messages of one request.
const ENTRIES_MAX: usize = 1 << 21;

/// The numbers of the repeated fields, as the protocol has them.
const MESSAGES: u64 = 1;
const USER_PROPERTIES: u64 = 2;
const SYSTEM_PROPERTIES: u64 = 3;
const KEYS: u64 = 2;

/// Encodes as usual, and decodes what [`Bounded`] lets through.
#[derive(Debug)]
pub(super) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// Decodes what [`Bounded`] lets through.
#[derive(Debug)]
pub(super) struct BoundedDecoder<U>(PhantomData<U>);

/// A message whose encoded form tells how much memory it takes.
pub(super) trait Bounded {
    /// Refuses what would take too much.
    fn check(encoded: &[u8]) -> Result<(), Status>;
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Bounded + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

impl<U: Message + Default + Bounded> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let encoded: Bytes = source.copy_to_bytes(source.remaining());
        U::check(&encoded)?;
        U::decode(encoded).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Bounded for proto::SendMessageRequest {
    fn check(encoded: &[u8]) -> Result<(), Status> {
        let mut counted = Counted::default();
        for message in nested(encoded, MESSAGES) {
            counted.messages += 1;
            counted.count_message(message?)?;
        }
        counted.check()
    }
}

macro_rules! small {
    ($($request:ident)*) => {$(
        impl Bounded for proto::$request {
            fn check(encoded: &[u8]) -> Result<(), Status> {
                if encoded.len() > SMALL_BYTES_MAX {
                    let text = format!("the request has {} bytes; the limit is {SMALL_BYTES_MAX}", encoded.len());
                    return Err(Status::resource_exhausted(text));
                }
                Ok(())
            }
        }
    )*};
}

small! {
    QueryRouteRequest
    HeartbeatRequest
    QueryAssignmentRequest
    ReceiveMessageRequest
    AckMessageRequest
    ForwardMessageToDeadLetterQueueRequest
    PullMessageRequest
    UpdateOffsetRequest
    GetOffsetRequest
    QueryOffsetRequest
    EndTransactionRequest
    TelemetryCommand
    NotifyClientTerminationRequest
    ChangeInvisibleDurationRequest
    RecallMessageRequest
    SyncLiteSubscriptionRequest
}

macro_rules! trusted {
    ($($response:ident)*) => {$(
        impl Bounded for proto::$response {
            fn check(_: &[u8]) -> Result<(), Status> {
                Ok(())
            }
        }
    )*};
}

// What a client of ours reads comes from a broker that it chose.
trusted! {
    QueryRouteResponse
    HeartbeatResponse
    SendMessageResponse
    QueryAssignmentResponse
    ReceiveMessageResponse
    AckMessageResponse
    ForwardMessageToDeadLetterQueueResponse
    PullMessageResponse
    UpdateOffsetResponse
    GetOffsetResponse
    QueryOffsetResponse
    EndTransactionResponse
    NotifyClientTerminationResponse
    ChangeInvisibleDurationResponse
    RecallMessageResponse
    SyncLiteSubscriptionResponse
}

#[derive(Default)]
struct Counted {
    messages: usize,
    entries: usize,
}

impl Counted {
    fn count_message(&mut self, message: &[u8]) -> Result<(), Status> {
        for property in nested(message, USER_PROPERTIES) {
            property?;
            self.entries += 1;
        }
        for system in nested(message, SYSTEM_PROPERTIES) {
            for key in nested(system?, KEYS) {
                key?;
                self.entries += 1;
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), Status> {
        if self.messages > BATCH_MESSAGES_MAX {
            let text = format!("the request holds more than {BATCH_MESSAGES_MAX} messages");
            return Err(Status::resource_exhausted(text));
        }
        if self.entries > ENTRIES_MAX {
            let text = format!("the messages hold more than {ENTRIES_MAX} properties and keys");
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }
}

/// Returns the contents of each field `number` of a message, up to the first damage.
fn nested(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Status>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match field(&mut rest) {
                Some((found, content)) if found == number => return Some(Ok(content)),
                Some(_) => {}
                None => {
                    rest = &[];
                    return Some(Err(Status::internal("the request is damaged")));
                }
            }
        }
        None
    })
}

/// Takes a field off the front. The content of a number is empty; groups are not part of the protocol.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let tag = varint(rest)?;
    let len = match tag & 7 {
        0 => {
            varint(rest)?;
            return Some((tag >> 3, &[]));
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let content = rest.get(..len)?;
    *rest = &rest[len..];
    Some((tag >> 3, content))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, others) = rest.split_first()?;
        *rest = others;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn parts_of_messages_are_counted_as_they_are_decoded() {
        let message = proto::Message {
            user_properties: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            system_properties: Some(proto::SystemProperties {
                tag: Some("t".into()),
                keys: vec!["k".into(), String::new()],
                delivery_attempt: Some(3),
                ..Default::default()
            }),
            body: Bytes::from_static(b"body"),
            ..Default::default()
        };
        let request = proto::SendMessageRequest { messages: vec![message.clone(), message] };
        let encoded = request.encode_to_vec();
        let mut counted = Counted::default();
        for message in nested(&encoded, MESSAGES) {
            counted.messages += 1;
            counted.count_message(message.unwrap()).unwrap();
        }
        assert_eq!((counted.messages, counted.entries), (2, 8));
        assert!(proto::SendMessageRequest::check(&encoded).is_ok());
    }

    #[test]
    fn few_bytes_do_not_become_much_memory() {
        let messages = [0x0a, 0x00].repeat(BATCH_MESSAGES_MAX + 1);
        let error = proto::SendMessageRequest::check(&messages).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        let keys = [0x12, 0x00].repeat(ENTRIES_MAX + 1);
        let system = proto::SendMessageRequest {
            messages: vec![proto::Message {
                system_properties: Some(Default::default()),
                ..Default::default()
            }],
        };
        assert!(proto::SendMessageRequest::check(&system.encode_to_vec()).is_ok());
        let wrapped = wrap(MESSAGES, &wrap(SYSTEM_PROPERTIES, &keys));
        let error = proto::SendMessageRequest::check(&wrapped).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        assert!(proto::AckMessageRequest::check(&vec![0; SMALL_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn damaged_requests_are_refused_and_cause_no_panic() {
        for bytes in [
            &[0x0a][..],
            &[0x0a, 0x05, 0x00],
            &[0xff; 11],
            &[0x0b],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0a, 0x01, 0x12],
        ] {
            assert!(proto::SendMessageRequest::check(bytes).is_err(), "{bytes:?}");
        }
        // What passes the count decodes, or fails to, without a panic.
        let seed = 7_u64;
        let mut state = seed;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 60) as u8
                })
                .collect();
            if proto::SendMessageRequest::check(&bytes).is_ok() {
                let _ = proto::SendMessageRequest::decode(&bytes[..]);
            }
        }
    }

    fn wrap(number: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(
            u32::try_from(number).unwrap(),
            prost::encoding::WireType::LengthDelimited,
            &mut bytes,
        );
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes
    }
}
