//! A record: one message, or the description of a topic, in the log. Layout: `docs/format.md`, "Record".

mod heads;

use std::borrow::Cow;

use bytes::Bytes;
use weir_columns::Value;

use crate::{
    compress::{Compression, Packed, unpack},
    error::{Fault, StorageError},
    format::{
        cursor::{Cursor, put_text32},
        frame::FRAME_ALIGNMENT,
    },
    limits::{MESSAGE_ID_BYTES_MAX, NAME_BYTES_MAX, PROPERTIES_MAX, RECORD_BYTES_MAX},
    message::{
        BodyEncoding, DeadLetterOrigin, Message, MessageType, PendingRow, PendingTarget, StoredMessage,
    },
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
};

pub(crate) use heads::RecordHeads;

/// Length of the fixed part of a record.
pub(crate) const RECORD_HEADER_LEN: usize = 96;
const VERSION: u8 = 1;
/// Where it says how the broker has compressed the body.
const COMPRESSION_AT: usize = 30;
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 8;
/// The id of CRC-32C, the only checksum so far.
const CHECKSUM_CRC32C: u8 = 0;
/// Stands for "no born time".
const NO_TIME: i64 = i64::MIN;
/// A reader that does not know a field with such an id must not read the record.
const MUST_UNDERSTAND: u8 = 128;

/// What a record is. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A message: a row of its queue.
    Message = 1,
    /// The name of a topic whose messages follow in this segment. No row.
    Topic = 2,
    /// A message that was pending before: a row of its queue, and the end of the pending one.
    Release = 3,
}

impl RecordKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Topic,
            3 => Self::Release,
            _ => return None,
        })
    }

    /// Returns whether the record makes a row in its queue.
    pub const fn is_row(self) -> bool {
        !matches!(self, Self::Topic)
    }
}

/// Ids of the optional fields. They are part of the format.
mod field {
    pub(super) const MESSAGE_ID: u8 = 1;
    pub(super) const TAG: u8 = 2;
    /// One for each key, in order.
    pub(super) const KEY: u8 = 3;
    pub(super) const MESSAGE_GROUP: u8 = 4;
    pub(super) const DELIVERY_TIME: u8 = 5;
    pub(super) const PRIORITY: u8 = 6;
    pub(super) const LITE_TOPIC: u8 = 7;
    pub(super) const TRACE_CONTEXT: u8 = 8;
    pub(super) const PRODUCER_GROUP: u8 = 9;
    pub(super) const TRANSACTION_RECOVERY: u8 = 10;
    pub(super) const BORN_HOST: u8 = 11;
    pub(super) const STORE_HOST: u8 = 12;
    pub(super) const DEAD_LETTER: u8 = 13;
    /// A release without it carries its body.
    pub(super) const BODY_POSITION: u8 = 14;
    pub(super) const NAMESPACE: u8 = 16;
    pub(super) const TOPIC_NAME: u8 = 17;
    /// What a pending message waits for. Nobody may take it for a visible one.
    pub(super) const PENDING: u8 = 128;
    /// The pending row that a release ends. Who passed over it would release that row again.
    pub(super) const RELEASED: u8 = 129;
}

/// Types of a property's value. They are part of the format.
mod value_type {
    pub(super) const TEXT: u8 = 0;
    pub(super) const STR: u8 = 1;
    pub(super) const BOOL: u8 = 2;
    pub(super) const I32: u8 = 3;
    pub(super) const I64: u8 = 4;
    pub(super) const F32: u8 = 5;
    pub(super) const F64: u8 = 6;
}

/// The value of a property inside a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    /// Untyped text.
    Text(&'a str),
    /// A string of a typed client.
    Str(&'a str),
    /// A boolean.
    Bool(bool),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
}

impl ValueRef<'_> {
    /// Returns the value on its own.
    pub fn to_value(self) -> Value {
        match self {
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Str(text) => Value::Str(text.to_owned()),
            Self::Bool(value) => Value::Bool(value),
            Self::I32(value) => Value::I32(value),
            Self::I64(value) => Value::I64(value),
            Self::F32(value) => Value::F32(value),
            Self::F64(value) => Value::F64(value),
        }
    }
}

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) position: LogPosition,
    pub(crate) epoch: Epoch,
    pub(crate) topic: TopicId,
    pub(crate) incarnation: u32,
    pub(crate) queue: QueueId,
    pub(crate) offset: QueueOffset,
    pub(crate) store_time_ms: i64,
}

/// Checks that a record can hold the message, and returns the record's length without padding.
pub(crate) fn record_len(message: &Message) -> Result<u64, StorageError> {
    let too_large = |what, size: usize, max: usize| {
        if size > max {
            return Err(StorageError::TooLarge { what, size: size as u64, max: max as u64 });
        }
        Ok(())
    };
    too_large("the message id in bytes", message.message_id.len(), MESSAGE_ID_BYTES_MAX)?;
    too_large("the number of properties", message.properties.len(), PROPERTIES_MAX)?;
    let mut len = RECORD_HEADER_LEN as u64 + message.body.len() as u64;
    fields_of(message, &mut |_, parts| {
        len += 5 + parts.iter().map(|part| part.len() as u64).sum::<u64>();
    });
    if !message.properties.is_empty() {
        len += 2;
    }
    for (name, value) in &message.properties {
        too_large("the name of a property in bytes", name.len(), NAME_BYTES_MAX)?;
        len += 3 + name.len() as u64 + value_len(value);
    }
    if len > RECORD_BYTES_MAX {
        return Err(StorageError::TooLarge {
            what: "the message in bytes",
            size: len,
            max: RECORD_BYTES_MAX,
        });
    }
    Ok(len)
}

/// Returns the length of a record, which would be `len`, if `packed` takes the place of its body.
pub(crate) fn stored_len(len: u64, packed: Option<&Packed>) -> u64 {
    packed.map_or(len, |packed| len - packed.full_len as u64 + packed.bytes.len() as u64)
}

/// Returns the length of the record that describes a topic, without padding.
pub(crate) const fn topic_record_len(namespace: &str, name: &str) -> u64 {
    (RECORD_HEADER_LEN + 5 + namespace.len() + 5 + name.len()) as u64
}

/// Returns a length with the padding that the next record needs.
pub(crate) const fn padded(len: u64) -> u64 {
    len.next_multiple_of(FRAME_ALIGNMENT as u64)
}

fn value_len(value: &Value) -> u64 {
    match value {
        Value::Text(text) | Value::Str(text) => 4 + text.len() as u64,
        Value::Bool(_) => 1,
        Value::I32(_) | Value::F32(_) => 4,
        Value::I64(_) | Value::F64(_) => 8,
    }
}

/// Appends the record of a message that [`record_len`] accepted, with its padding; with `packed` in the place of its
/// body, if there is that: then the message need not have it any more.
pub(crate) fn encode_message(
    out: &mut Vec<u8>,
    place: &RecordPlace,
    message: &Message,
    packed: Option<&Packed>,
) {
    let start = out.len();
    let kind = if message.released.is_some() { RecordKind::Release } else { RecordKind::Message };
    put_header(out, kind, place, message);
    if let Some(packed) = packed {
        out[start + COMPRESSION_AT] = packed.compression as u8;
    }
    let body = packed.map_or(&message.body, |packed| &packed.bytes);
    let full_len = packed.map_or(message.body.len(), |packed| packed.full_len);
    let fields_at = out.len();
    fields_of(message, &mut |id, parts| put_field(out, id, parts));
    let properties_at = out.len();
    put_properties(out, &message.properties);
    let body_at = out.len();
    out.extend_from_slice(body);
    let lengths = [properties_at - fields_at, body_at - properties_at, body.len(), full_len];
    finish_record(out, start, place.position, lengths);
}

/// Appends the record that names a topic, with its padding.
pub(crate) fn encode_topic(out: &mut Vec<u8>, place: &RecordPlace, namespace: &str, name: &str) {
    let start = out.len();
    put_header(out, RecordKind::Topic, place, &Message::default());
    let fields_at = out.len();
    put_field(out, field::NAMESPACE, &[namespace.as_bytes()]);
    put_field(out, field::TOPIC_NAME, &[name.as_bytes()]);
    let fields_len = out.len() - fields_at;
    finish_record(out, start, place.position, [fields_len, 0, 0, 0]);
}

fn put_header(out: &mut Vec<u8>, kind: RecordKind, place: &RecordPlace, message: &Message) {
    let attempts = message.dead_letter.as_ref().map_or(0, |origin| origin.attempts);
    out.extend_from_slice(&[0; CHECKED_FROM]); // length and checksum follow when they are known
    out.extend_from_slice(&[VERSION, kind as u8]);
    out.extend_from_slice(&0_u16.to_le_bytes()); // flags
    out.extend_from_slice(&place.epoch.0.to_le_bytes());
    out.extend_from_slice(&place.topic.0.to_le_bytes());
    out.extend_from_slice(&place.incarnation.to_le_bytes());
    out.extend_from_slice(&place.queue.0.to_le_bytes());
    out.extend_from_slice(&[message.message_type as u8, message.body_encoding as u8, 0, CHECKSUM_CRC32C]);
    out.extend_from_slice(&place.offset.0.to_le_bytes());
    out.extend_from_slice(&place.store_time_ms.to_le_bytes());
    out.extend_from_slice(&message.born_time_ms.unwrap_or(NO_TIME).to_le_bytes());
    out.extend_from_slice(&[0; 16]); // producer id and sequence, encryption, replica
    out.extend_from_slice(&[0; 16]); // lengths
    out.extend_from_slice(&attempts.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn finish_record(out: &mut Vec<u8>, start: usize, position: LogPosition, lengths: [usize; 4]) {
    let end = out.len();
    let record = out.get_mut(start..).expect("the record was just appended");
    let len = u32::try_from(record.len()).expect("a record is bounded by RECORD_BYTES_MAX");
    let (header, _) = record.split_at_mut(RECORD_HEADER_LEN);
    for (slot, len) in header[72..88].chunks_exact_mut(4).zip(lengths) {
        let len = u32::try_from(len).expect("a part is no longer than its record");
        slot.copy_from_slice(&len.to_le_bytes());
    }
    header[..4].copy_from_slice(&len.to_le_bytes());
    let crc = record_crc(&record[CHECKED_FROM..], position, len);
    record[4..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + (end - start).next_multiple_of(FRAME_ALIGNMENT), 0);
}

fn record_crc(checked: &[u8], position: LogPosition, len: u32) -> u32 {
    let mut crc = crc32c::crc32c(&position.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &len.to_le_bytes());
    crc32c::crc32c_append(crc, checked)
}

fn put_field(out: &mut Vec<u8>, id: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(id);
    out.extend_from_slice(&u32::try_from(len).expect("a record is bounded").to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Calls `put` for each optional field that the message has, with the parts of its bytes.
fn fields_of(message: &Message, put: &mut dyn FnMut(u8, &[&[u8]])) {
    let mut text = |id, text: Option<&str>| {
        if let Some(text) = text {
            put(id, &[text.as_bytes()]);
        }
    };
    let filled = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    text(field::MESSAGE_ID, filled(&message.message_id).as_deref());
    text(field::TAG, message.tag.as_deref());
    for key in &message.keys {
        text(field::KEY, Some(key));
    }
    text(field::MESSAGE_GROUP, message.message_group.as_deref());
    text(field::LITE_TOPIC, message.lite_topic.as_deref());
    text(field::TRACE_CONTEXT, message.trace_context.as_deref());
    text(field::PRODUCER_GROUP, message.producer_group.as_deref());
    text(field::BORN_HOST, filled(&message.born_host).as_deref());
    if let Some(time) = message.delivery_time_ms {
        put(field::DELIVERY_TIME, &[&time.to_le_bytes()]);
    }
    if let Some(priority) = message.priority {
        put(field::PRIORITY, &[&priority.to_le_bytes()]);
    }
    if let Some(time) = message.transaction_recovery_ms {
        put(field::TRANSACTION_RECOVERY, &[&time.to_le_bytes()]);
    }
    if let Some(origin) = &message.dead_letter {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&origin.queue.0.to_le_bytes());
        bytes.extend_from_slice(&origin.offset.0.to_le_bytes());
        put_text32(&mut bytes, &origin.namespace);
        put_text32(&mut bytes, &origin.topic);
        put_text32(&mut bytes, &origin.message_id);
        put(field::DEAD_LETTER, &[&bytes]);
    }
    if let Some(PendingTarget { topic, incarnation, due_ms }) = message.pending {
        let numbers = [topic.0.to_le_bytes(), incarnation.to_le_bytes()];
        put(field::PENDING, &[&numbers[0], &numbers[1], &due_ms.to_le_bytes()]);
    }
    if let Some(PendingRow { topic, queue, offset }) = message.released {
        let numbers = [topic.0.to_le_bytes(), queue.0.to_le_bytes()];
        put(field::RELEASED, &[&numbers[0], &numbers[1], &offset.0.to_le_bytes()]);
    }
}

fn put_properties(out: &mut Vec<u8>, properties: &[(String, Value)]) {
    if properties.is_empty() {
        return;
    }
    let count = u16::try_from(properties.len()).expect("record_len has checked the count");
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in properties {
        let len = u16::try_from(name.len()).expect("record_len has checked the names");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        put_value(out, value);
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => {
            out.push(value_type::TEXT);
            put_text32(out, text);
        }
        Value::Str(text) => {
            out.push(value_type::STR);
            put_text32(out, text);
        }
        Value::Bool(value) => out.extend_from_slice(&[value_type::BOOL, u8::from(*value)]),
        Value::I32(value) => {
            out.push(value_type::I32);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::I64(value) => {
            out.push(value_type::I64);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::F32(value) => {
            out.push(value_type::F32);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::F64(value) => {
            out.push(value_type::F64);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Returns the length of the record that begins with `bytes`, without padding, if it can be one.
pub(crate) fn peek_len(bytes: &[u8]) -> Result<usize, Fault> {
    let len = Cursor::new(bytes).u32()? as usize;
    if len < RECORD_HEADER_LEN || len as u64 > RECORD_BYTES_MAX {
        return Err(Fault::Structure("the record's length"));
    }
    Ok(len)
}

/// Returns how long a record is by the lengths of its parts.
pub(crate) fn summed_len(bytes: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(bytes.get(72..84)?);
    let mut len = RECORD_HEADER_LEN;
    for _ in 0..3 {
        len = len.checked_add(cursor.u32().ok()? as usize)?;
    }
    Some(len)
}

/// What a damaged record seems to have been. Nothing vouches for it: whoever uses it checks that it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHint {
    pub(crate) position: LogPosition,
    pub(crate) topic: TopicId,
    pub(crate) incarnation: u32,
    pub(crate) queue: QueueId,
    pub(crate) offset: QueueOffset,
}

impl RecordHint {
    /// Reads what bytes say that are where a record was; nothing if it made no row.
    pub(crate) fn of(bytes: &[u8], position: LogPosition) -> Option<Self> {
        let mut cursor = Cursor::new(bytes.get(8..RECORD_HEADER_LEN)?);
        let (_version, kind) = (cursor.u8().ok()?, cursor.u8().ok()?);
        if !RecordKind::from_byte(kind)?.is_row() {
            return None;
        }
        let (_flags, _epoch) = (cursor.u16().ok()?, cursor.u32().ok()?);
        let (topic, incarnation) = (TopicId(cursor.u32().ok()?), cursor.u32().ok()?);
        let queue = QueueId(cursor.u32().ok()?);
        let _types = cursor.u32().ok()?;
        // Nobody has stored so many.
        let offset = cursor.u64().ok().filter(|offset| *offset < 1 << 62)?;
        Some(Self { position, topic, incarnation, queue, offset: QueueOffset(offset) })
    }
}

/// A record, decoded without copying. Its whole structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Where it begins in the log.
    pub position: LogPosition,
    /// The epoch in which it was stored.
    pub epoch: Epoch,
    /// Its topic.
    pub topic: TopicId,
    /// The incarnation of the topic.
    pub incarnation: u32,
    /// Its queue.
    pub queue: QueueId,
    /// Its offset in the queue.
    pub offset: QueueOffset,
    /// What it is.
    pub kind: RecordKind,
    /// What the message is for.
    pub message_type: MessageType,
    /// How the producer encoded the body.
    pub body_encoding: BodyEncoding,
    /// When it was stored; milliseconds since 1970, UTC.
    pub store_time_ms: i64,
    /// When the producer made it.
    pub born_time_ms: Option<i64>,
    /// Length of the whole record in bytes, without padding.
    pub size: u32,
    /// Length of the body in bytes, as the producer sent it.
    pub body_len: u32,
    /// How often a dead letter had been delivered.
    pub attempts: u32,
    fields: &'a [u8],
    properties: &'a [u8],
    compression: Compression,
    /// As it lies in the record.
    stored: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads the record at the front of `bytes` and verifies its checksum.
    pub(crate) fn decode(bytes: &'a [u8], position: LogPosition) -> Result<Self, Fault> {
        let len = peek_len(bytes)?;
        let record = bytes.get(..len).ok_or(Fault::Truncated)?;
        let mut cursor = Cursor::new(record);
        cursor.u32()?;
        let crc = cursor.u32()?;
        if crc != record_crc(cursor.rest(), position, u32::try_from(len).map_err(|_| Fault::Truncated)?) {
            return Err(Fault::Checksum);
        }
        Self::decode_checked(bytes, position)
    }

    /// As [`decode`](Self::decode), for bytes whose checksum needs no second look.
    pub(crate) fn decode_checked(bytes: &'a [u8], position: LogPosition) -> Result<Self, Fault> {
        let len = peek_len(bytes)?;
        let record = bytes.get(..len).ok_or(Fault::Truncated)?;
        let mut cursor = Cursor::new(record);
        let size = cursor.u32()?;
        cursor.u32()?;
        let version = cursor.u8()?;
        if version != VERSION {
            return Err(Fault::Version(version.into()));
        }
        let kind = RecordKind::from_byte(cursor.u8()?).ok_or(Fault::Unknown("kind of record"))?;
        cursor.u16()?;
        let epoch = Epoch(cursor.u32()?);
        let topic = TopicId(cursor.u32()?);
        let incarnation = cursor.u32()?;
        let queue = QueueId(cursor.u32()?);
        let message_type = MessageType::from_byte(cursor.u8()?).ok_or(Fault::Unknown("message type"))?;
        let body_encoding = body_encoding(cursor.u8()?)?;
        let compression = Compression::from_byte(cursor.u8()?).ok_or(Fault::Unknown("compression"))?;
        if cursor.u8()? != CHECKSUM_CRC32C {
            return Err(Fault::Unknown("checksum"));
        }
        let offset = QueueOffset(cursor.u64()?);
        let store_time_ms = cursor.i64()?;
        let born_time_ms = Some(cursor.i64()?).filter(|time| *time != NO_TIME);
        cursor.u64()?;
        cursor.u32()?;
        if cursor.u16()? != 0 {
            return Err(Fault::Unknown("encryption"));
        }
        cursor.u16()?;
        let fields_len = cursor.u32()? as usize;
        let properties_len = cursor.u32()? as usize;
        let stored_len = cursor.u32()?;
        let full_len = cursor.u32()?;
        let attempts = cursor.u32()?;
        cursor.u32()?;
        let fields = cursor.bytes(fields_len)?;
        let properties = cursor.bytes(properties_len)?;
        let stored = cursor.bytes(stored_len as usize)?;
        if !cursor.is_empty() {
            return Err(Fault::Structure("the sum of a record's parts"));
        }
        let view = Self {
            position,
            epoch,
            topic,
            incarnation,
            queue,
            offset,
            kind,
            message_type,
            body_encoding,
            store_time_ms,
            born_time_ms,
            size,
            body_len: if compression.is_none() { stored_len } else { full_len },
            attempts,
            fields,
            properties,
            compression,
            stored,
        };
        view.check()?;
        Ok(view)
    }

    /// Walks every field and property once, so that the iterators below never meet a fault.
    fn check(&self) -> Result<(), Fault> {
        let mut fields = Cursor::new(self.fields);
        while !fields.is_empty() {
            let (id, bytes) = next_field(&mut fields)?;
            check_field(id, bytes)?;
        }
        let mut properties = PropertiesCursor::new(self.properties)?;
        while properties.left > 0 {
            properties.next_property()?;
        }
        if !properties.cursor.is_empty() {
            return Err(Fault::Structure("the length of the properties"));
        }
        Ok(())
    }

    fn field(&self, wanted: u8) -> Option<&'a [u8]> {
        self.fields().find(|(id, _)| *id == wanted).map(|(_, bytes)| bytes)
    }

    fn fields(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(self.fields);
        std::iter::from_fn(move || next_field(&mut cursor).ok())
    }

    fn text(&self, wanted: u8) -> Option<&'a str> {
        self.field(wanted).and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// Returns the id that the producer gave; empty if none.
    pub fn message_id(&self) -> &'a str {
        self.text(field::MESSAGE_ID).unwrap_or_default()
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&'a str> {
        self.text(field::TAG)
    }

    /// Returns the keys, in the order given.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.fields().filter(|(id, _)| *id == field::KEY).filter_map(|(_, bytes)| str::from_utf8(bytes).ok())
    }

    /// Returns the host that the producer named, or its address; empty if none.
    pub fn born_host(&self) -> &'a str {
        self.text(field::BORN_HOST).unwrap_or_default()
    }

    /// Returns the message group.
    pub fn message_group(&self) -> Option<&'a str> {
        self.text(field::MESSAGE_GROUP)
    }

    /// Returns the lite topic.
    pub fn lite_topic(&self) -> Option<&'a str> {
        self.text(field::LITE_TOPIC)
    }

    /// Returns when to deliver.
    pub fn delivery_time_ms(&self) -> Option<i64> {
        self.field(field::DELIVERY_TIME).and_then(|bytes| Cursor::new(bytes).i64().ok())
    }

    /// Returns the priority.
    pub fn priority(&self) -> Option<i32> {
        self.field(field::PRIORITY).and_then(|bytes| Cursor::new(bytes).i32().ok())
    }

    /// Returns the trace context, as it came.
    pub fn trace_context(&self) -> Option<&'a str> {
        self.text(field::TRACE_CONTEXT)
    }

    /// Returns the group of the producer.
    pub fn producer_group(&self) -> Option<&'a str> {
        self.text(field::PRODUCER_GROUP)
    }

    /// Returns where a message of a dead-letter topic comes from.
    pub fn dead_letter(&self) -> Option<DeadLetterOrigin> {
        self.field(field::DEAD_LETTER).and_then(|bytes| dead_letter(Cursor::new(bytes), self.attempts).ok())
    }

    /// Returns where the body lies, if not in this record.
    pub fn body_position(&self) -> Option<LogPosition> {
        self.field(field::BODY_POSITION).and_then(|bytes| Cursor::new(bytes).u64().ok()).map(LogPosition)
    }

    /// Returns what the message waits for, if it is pending.
    pub fn pending(&self) -> Option<PendingTarget> {
        self.field(field::PENDING).and_then(|bytes| pending_target(Cursor::new(bytes)).ok())
    }

    /// Returns the pending row that this release ends.
    pub fn released(&self) -> Option<PendingRow> {
        if self.kind != RecordKind::Release {
            return None;
        }
        self.field(field::RELEASED).and_then(|bytes| pending_row(Cursor::new(bytes)).ok())
    }

    /// Returns namespace and name of the topic that a topic record describes.
    pub fn topic_name(&self) -> Option<(&'a str, &'a str)> {
        Some((self.text(field::NAMESPACE)?, self.text(field::TOPIC_NAME)?))
    }

    /// Returns the properties, in the order given.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let mut cursor = PropertiesCursor::new(self.properties).ok();
        std::iter::from_fn(move || cursor.as_mut()?.next_property().ok())
    }

    /// Returns the body as the producer sent it: where it lies, unless the broker has compressed it.
    ///
    /// # Errors
    ///
    /// If it cannot be decompressed to the length that the record states.
    pub fn body(&self) -> Result<Cow<'a, [u8]>, Fault> {
        unpack(self.stored, self.compression, self.body_len)
    }

    /// Returns the message on its own, with copies of everything.
    ///
    /// # Errors
    ///
    /// Those of [`body`](Self::body).
    pub fn to_stored(&self) -> Result<StoredMessage, Fault> {
        let mut message = Message {
            properties: self.properties().map(|(name, value)| (name.to_owned(), value.to_value())).collect(),
            body: match self.body()? {
                Cow::Borrowed(body) => Bytes::copy_from_slice(body),
                Cow::Owned(body) => body.into(),
            },
            body_encoding: self.body_encoding,
            message_type: self.message_type,
            born_time_ms: self.born_time_ms,
            ..Message::default()
        };
        for (id, bytes) in self.fields() {
            self.set_field(&mut message, id, bytes);
        }
        Ok(StoredMessage {
            position: self.position,
            epoch: self.epoch,
            topic: self.topic,
            queue: self.queue,
            offset: self.offset,
            store_time_ms: self.store_time_ms,
            message,
        })
    }

    fn set_field(&self, message: &mut Message, id: u8, bytes: &[u8]) {
        let text = || str::from_utf8(bytes).unwrap_or_default().to_owned();
        let mut cursor = Cursor::new(bytes);
        match id {
            field::MESSAGE_ID => message.message_id = text(),
            field::TAG => message.tag = Some(text()),
            field::KEY => message.keys.push(text()),
            field::MESSAGE_GROUP => message.message_group = Some(text()),
            field::LITE_TOPIC => message.lite_topic = Some(text()),
            field::TRACE_CONTEXT => message.trace_context = Some(text()),
            field::PRODUCER_GROUP => message.producer_group = Some(text()),
            field::BORN_HOST => message.born_host = text(),
            field::DELIVERY_TIME => message.delivery_time_ms = cursor.i64().ok(),
            field::PRIORITY => message.priority = cursor.i32().ok(),
            field::TRANSACTION_RECOVERY => message.transaction_recovery_ms = cursor.i64().ok(),
            field::DEAD_LETTER => message.dead_letter = dead_letter(cursor, self.attempts).ok(),
            field::PENDING => message.pending = pending_target(cursor).ok(),
            field::RELEASED => message.released = pending_row(cursor).ok(),
            _ => {}
        }
    }
}

fn body_encoding(byte: u8) -> Result<BodyEncoding, Fault> {
    match byte {
        0 => Ok(BodyEncoding::Identity),
        1 => Ok(BodyEncoding::Gzip),
        _ => Err(Fault::Unknown("body encoding")),
    }
}

fn next_field<'a>(cursor: &mut Cursor<'a>) -> Result<(u8, &'a [u8]), Fault> {
    let id = cursor.u8()?;
    let len = cursor.u32()? as usize;
    Ok((id, cursor.bytes(len)?))
}

fn check_field(id: u8, bytes: &[u8]) -> Result<(), Fault> {
    let mut cursor = Cursor::new(bytes);
    match id {
        field::MESSAGE_ID
        | field::TAG
        | field::KEY
        | field::MESSAGE_GROUP
        | field::LITE_TOPIC
        | field::TRACE_CONTEXT
        | field::PRODUCER_GROUP
        | field::BORN_HOST
        | field::STORE_HOST
        | field::NAMESPACE
        | field::TOPIC_NAME => cursor.text(bytes.len()).map(|_| ())?,
        field::DELIVERY_TIME | field::TRANSACTION_RECOVERY => cursor.i64().map(|_| ())?,
        field::BODY_POSITION => cursor.u64().map(|_| ())?,
        field::PRIORITY => cursor.i32().map(|_| ())?,
        field::DEAD_LETTER => dead_letter(cursor, 0).map(|_| ())?,
        field::PENDING => pending_target(cursor).map(|_| ())?,
        field::RELEASED => pending_row(cursor).map(|_| ())?,
        id if id >= MUST_UNDERSTAND => return Err(Fault::UnknownField(id)),
        _ => {}
    }
    Ok(())
}

fn dead_letter(mut cursor: Cursor<'_>, attempts: u32) -> Result<DeadLetterOrigin, Fault> {
    Ok(DeadLetterOrigin {
        queue: QueueId(cursor.u32()?),
        offset: QueueOffset(cursor.u64()?),
        namespace: cursor.text32()?.to_owned(),
        topic: cursor.text32()?.to_owned(),
        message_id: cursor.text32()?.to_owned(),
        attempts,
    })
}

fn pending_target(mut cursor: Cursor<'_>) -> Result<PendingTarget, Fault> {
    Ok(PendingTarget { topic: TopicId(cursor.u32()?), incarnation: cursor.u32()?, due_ms: cursor.i64()? })
}

fn pending_row(mut cursor: Cursor<'_>) -> Result<PendingRow, Fault> {
    Ok(PendingRow {
        topic: TopicId(cursor.u32()?),
        queue: QueueId(cursor.u32()?),
        offset: QueueOffset(cursor.u64()?),
    })
}

struct PropertiesCursor<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> PropertiesCursor<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        let left = if bytes.is_empty() { 0 } else { cursor.u16()? };
        Ok(Self { left, cursor })
    }

    fn next_property(&mut self) -> Result<(&'a str, ValueRef<'a>), Fault> {
        self.left = self.left.checked_sub(1).ok_or(Fault::Truncated)?;
        let name_len = self.cursor.u16()?;
        let name = self.cursor.text(name_len.into())?;
        let value = match self.cursor.u8()? {
            value_type::TEXT => ValueRef::Text(self.cursor.text32()?),
            value_type::STR => ValueRef::Str(self.cursor.text32()?),
            value_type::BOOL => match self.cursor.u8()? {
                0 => ValueRef::Bool(false),
                1 => ValueRef::Bool(true),
                _ => return Err(Fault::Structure("a boolean")),
            },
            value_type::I32 => ValueRef::I32(self.cursor.i32()?),
            value_type::I64 => ValueRef::I64(self.cursor.i64()?),
            value_type::F32 => ValueRef::F32(f32::from_bits(self.cursor.u32()?)),
            value_type::F64 => ValueRef::F64(f64::from_bits(self.cursor.u64()?)),
            _ => return Err(Fault::Unknown("type of a property")),
        };
        Ok((name, value))
    }
}

/// Returns the records of a frame's payload that begins at `position` and whose checksum is right.
///
/// Ends after the first fault.
pub(crate) fn records_of(
    payload: &[u8],
    position: LogPosition,
) -> impl Iterator<Item = Result<RecordView<'_>, (LogPosition, Fault)>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = payload.get(at..).filter(|rest| !rest.is_empty())?;
        let here = LogPosition(position.0 + at as u64);
        let record = RecordView::decode_checked(rest, here);
        match &record {
            Ok(view) => at += (view.size as usize).next_multiple_of(FRAME_ALIGNMENT),
            Err(_) => at = payload.len(),
        }
        Some(record.map_err(|fault| (here, fault)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compress::pack;

    const PLACE: RecordPlace = RecordPlace {
        position: LogPosition(64),
        epoch: Epoch(1),
        topic: TopicId(2),
        incarnation: 1,
        queue: QueueId(3),
        offset: QueueOffset(4),
        store_time_ms: 5,
    };

    fn full_message() -> Message {
        Message {
            message_id: "01AB".into(),
            tag: Some(String::new()),
            keys: vec!["k1".into(), "k 2".into()],
            properties: vec![
                ("a".into(), Value::Text("5".into())),
                ("b".into(), Value::Str("ü".into())),
                ("c".into(), Value::Bool(true)),
                ("d".into(), Value::I32(-1)),
                ("e".into(), Value::I64(i64::MIN)),
                ("f".into(), Value::F32(f32::NAN)),
                ("g".into(), Value::F64(-0.0)),
            ],
            body: Bytes::from_static(b"body"),
            body_encoding: BodyEncoding::Gzip,
            message_type: MessageType::Fifo,
            born_time_ms: Some(-1),
            born_host: "host".into(),
            message_group: Some("g".into()),
            delivery_time_ms: Some(6),
            priority: Some(-7),
            lite_topic: Some("l".into()),
            trace_context: Some("t".into()),
            producer_group: Some("p".into()),
            transaction_recovery_ms: Some(8),
            dead_letter: Some(DeadLetterOrigin {
                namespace: "n".into(),
                topic: "t".into(),
                message_id: "m".into(),
                queue: QueueId(9),
                offset: QueueOffset(10),
                attempts: 16,
            }),
            pending: Some(PendingTarget { topic: TopicId(11), incarnation: 12, due_ms: i64::MAX }),
            released: None,
        }
    }

    #[test]
    fn a_release_names_the_row_that_it_ends() {
        let row = PendingRow { topic: TopicId(1), queue: QueueId(22), offset: QueueOffset(u64::MAX) };
        let message = Message { released: Some(row), pending: None, ..full_message() };
        let bytes = encoded(&message);
        let view = RecordView::decode(&bytes, PLACE.position).unwrap();
        assert_eq!((view.kind, view.released(), view.pending()), (RecordKind::Release, Some(row), None));
        assert_eq!(view.to_stored().unwrap().message.released, Some(row));
        let message = full_message();
        let bytes = encoded(&message);
        let view = RecordView::decode(&bytes, PLACE.position).unwrap();
        assert_eq!(
            (view.kind, view.released(), view.pending()),
            (RecordKind::Message, None, message.pending)
        );
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        encode_message(&mut out, &PLACE, message, None);
        assert_eq!(out.len() as u64, padded(record_len(message).unwrap()));
        out
    }

    #[test]
    fn every_field_of_a_message_reads_back() {
        for message in [Message::default(), full_message()] {
            let bytes = encoded(&message);
            let view = RecordView::decode(&bytes, PLACE.position).unwrap();
            let stored = view.to_stored().unwrap();
            assert_eq!(stored.message, message);
            assert_eq!((stored.topic, stored.queue, stored.offset), (PLACE.topic, PLACE.queue, PLACE.offset));
            assert_eq!((stored.epoch, stored.store_time_ms), (PLACE.epoch, PLACE.store_time_ms));
            assert_eq!(view.keys().count(), message.keys.len());
        }
    }

    #[test]
    fn a_compressed_body_reads_back_and_is_as_long_as_it_was() {
        for compression in [Compression::Lz4, Compression::Zstd] {
            let message = Message {
                body: vec![7; 5000].into(),
                body_encoding: BodyEncoding::Identity,
                ..full_message()
            };
            let packed = pack(&message, compression);
            let mut bytes = Vec::new();
            // As the body waits: without the one that was sent.
            let waiting = Message { body: Bytes::new(), ..message.clone() };
            encode_message(&mut bytes, &PLACE, &waiting, packed.as_ref());
            assert_eq!(
                bytes.len() as u64,
                padded(stored_len(record_len(&message).unwrap(), packed.as_ref()))
            );
            assert!(bytes.len() < 1000);
            let view = RecordView::decode(&bytes, PLACE.position).unwrap();
            assert_eq!((view.to_stored().unwrap().message, view.body_len), (message, 5000));
            // With a checksum that is right, a length that is not is a fault of the record.
            let len = u32::try_from(peek_len(&bytes).unwrap()).unwrap();
            for full in [0, 4999, 5001, u32::MAX] {
                let mut wrong = bytes[..len as usize].to_vec();
                wrong[84..88].copy_from_slice(&full.to_le_bytes());
                let crc = record_crc(&wrong[CHECKED_FROM..], PLACE.position, len);
                wrong[4..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
                let view = RecordView::decode(&wrong, PLACE.position).unwrap();
                assert!(view.to_stored().is_err(), "{full}");
            }
        }
    }

    #[test]
    fn a_topic_record_names_its_topic() {
        let mut bytes = Vec::new();
        encode_topic(&mut bytes, &PLACE, "", "orders");
        assert_eq!(bytes.len() as u64, padded(topic_record_len("", "orders")));
        let view = RecordView::decode(&bytes, PLACE.position).unwrap();
        assert_eq!((view.kind, view.topic_name()), (RecordKind::Topic, Some(("", "orders"))));
        assert!(!view.kind.is_row());
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_no_cut_panics() {
        let bytes = encoded(&full_message());
        let len = peek_len(&bytes).unwrap();
        for bit in 0..len * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordView::decode(&damaged, PLACE.position).is_err(), "bit {bit}");
            let _ = RecordView::decode_checked(&damaged, PLACE.position).map(|view| view.to_stored());
        }
        for cut in 0..len {
            assert!(RecordView::decode(&bytes[..cut], PLACE.position).is_err(), "cut at {cut}");
        }
        assert_eq!(RecordView::decode(&bytes, LogPosition(72)).unwrap_err(), Fault::Checksum);
    }

    #[test]
    fn a_field_that_must_be_understood_stops_an_old_reader() {
        for (id, expected) in [(127, None), (200, Some(Fault::UnknownField(200)))] {
            let mut out = Vec::new();
            put_header(&mut out, RecordKind::Message, &PLACE, &Message::default());
            put_field(&mut out, id, &[b"?"]);
            finish_record(&mut out, 0, PLACE.position, [6, 0, 0, 0]);
            assert_eq!(RecordView::decode(&out, PLACE.position).err(), expected);
        }
    }

    #[test]
    fn what_does_not_fit_a_record_is_refused() {
        let long = |len| "x".repeat(len);
        for (message, what) in [
            (Message { message_id: long(256), ..Message::default() }, "the message id in bytes"),
            (
                Message { properties: vec![(long(65_536), Value::Bool(true))], ..Message::default() },
                "the name of a property in bytes",
            ),
            (
                Message { body: vec![0; RECORD_BYTES_MAX as usize].into(), ..Message::default() },
                "the message in bytes",
            ),
        ] {
            let error = record_len(&message).unwrap_err();
            assert!(matches!(error, StorageError::TooLarge { what: found, .. } if found == what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), fix: bool) {
            if fix && bytes.len() >= RECORD_HEADER_LEN {
                let len = bytes.len() as u32;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
                bytes[8..10].copy_from_slice(&[1, 1]);
                let compression = bytes[30] % 4;
                bytes[28..32].copy_from_slice(&[1, 0, compression, 0]);
                bytes[68..70].fill(0);
                let body = len - RECORD_HEADER_LEN as u32;
                bytes[72..76].copy_from_slice(&(body / 2).to_le_bytes());
                bytes[76..80].copy_from_slice(&(body - body / 2).to_le_bytes());
                bytes[80..84].fill(0);
                // A compressed body, and what it claims to be.
                let packed = body.min(40);
                bytes[76..80].copy_from_slice(&(body - body / 2 - packed.min(body - body / 2)).to_le_bytes());
                bytes[80..84].copy_from_slice(&packed.min(body - body / 2).to_le_bytes());
            }
            if let Ok(view) = RecordView::decode_checked(&bytes, LogPosition(0)) {
                let _ = view.to_stored();
            }
            let _ = RecordView::decode(&bytes, LogPosition(0));
        }
    }
}
