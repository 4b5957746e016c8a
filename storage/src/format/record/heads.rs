//! What some records say besides their bodies, kept apart from the log.

use super::RecordView;
use crate::{compress::Compression, offset::LogPosition};

/// Copies of all that rows are made of, without the bodies.
#[derive(Debug)]
pub(crate) struct RecordHeads {
    heads: Vec<Head>,
    /// Fields and properties of one record after another.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Head {
    /// Without anything that it would borrow.
    view: RecordView<'static>,
    fields_len: usize,
    properties_len: usize,
}

impl RecordHeads {
    /// Copies the heads of some records.
    pub(crate) fn of(records: &[RecordView<'_>]) -> Self {
        let mut bytes = Vec::with_capacity(records.iter().map(|record| record.head_bytes()).sum());
        let heads = records.iter().map(|record| {
            bytes.extend_from_slice(record.fields);
            bytes.extend_from_slice(record.properties);
            Head {
                view: record.bare(),
                fields_len: record.fields.len(),
                properties_len: record.properties.len(),
            }
        });
        let heads = heads.collect();
        Self { heads, bytes }
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Returns the records, with empty bodies, whatever their length is said to be.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordView<'_>> {
        let mut at = 0;
        self.heads.iter().map(move |head| {
            let properties = at + head.fields_len;
            let end = properties + head.properties_len;
            let fields = at..properties;
            at = end;
            RecordView { fields: &self.bytes[fields], properties: &self.bytes[properties..end], ..head.view }
        })
    }

    /// Returns where the records begin.
    pub(crate) fn positions(&self) -> impl Iterator<Item = LogPosition> {
        self.heads.iter().map(|head| head.view.position)
    }

    /// Returns about how many bytes of memory they take.
    pub(crate) fn memory(&self) -> usize {
        self.heads.capacity() * size_of::<Head>() + self.bytes.capacity()
    }
}

impl RecordView<'_> {
    /// Returns what it says by itself: it has no fields, no properties and no body.
    const fn bare(&self) -> RecordView<'static> {
        RecordView {
            position: self.position,
            epoch: self.epoch,
            topic: self.topic,
            incarnation: self.incarnation,
            queue: self.queue,
            offset: self.offset,
            kind: self.kind,
            message_type: self.message_type,
            body_encoding: self.body_encoding,
            store_time_ms: self.store_time_ms,
            born_time_ms: self.born_time_ms,
            size: self.size,
            body_len: self.body_len,
            attempts: self.attempts,
            fields: &[],
            properties: &[],
            compression: Compression::None,
            stored: &[],
        }
    }

    /// Returns how many bytes its fields and properties take.
    pub(crate) const fn head_bytes(&self) -> usize {
        self.fields.len() + self.properties.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::record::{RecordPlace, encode_message},
        message::Message,
        offset::{Epoch, QueueId, QueueOffset, TopicId},
    };

    #[test]
    fn heads_say_what_the_records_say_besides_their_bodies() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for number in 0..3_u64 {
            let message = Message {
                message_id: format!("m{number}"),
                tag: (number > 0).then(|| "tag".repeat(number as usize)),
                keys: (0..number).map(|key| key.to_string()).collect(),
                properties: (0..number).map(|n| (format!("p{n}"), weir_columns::Value::I64(7))).collect(),
                body: vec![1; number as usize * 100].into(),
                ..Message::default()
            };
            let place = RecordPlace {
                position: LogPosition(64 + bytes.len() as u64),
                epoch: Epoch(1),
                topic: TopicId(2),
                incarnation: 1,
                queue: QueueId(3),
                offset: QueueOffset(number),
                store_time_ms: 5,
            };
            encode_message(&mut bytes, &place, &message, None);
            ends.push(bytes.len());
        }
        let mut start = 0;
        let records: Vec<RecordView<'_>> = ends
            .iter()
            .map(|end| {
                let at = std::mem::replace(&mut start, *end);
                RecordView::decode(&bytes[at..*end], LogPosition(64 + at as u64)).unwrap()
            })
            .collect();
        let heads = RecordHeads::of(&records);
        assert_eq!(heads.len(), 3);
        assert!(heads.positions().eq(records.iter().map(|record| record.position)));
        for (head, record) in heads.records().zip(&records) {
            assert_eq!(head.message_id(), record.message_id());
            assert_eq!(head.tag(), record.tag());
            assert!(head.keys().eq(record.keys()));
            assert!(head.properties().eq(record.properties()));
            assert_eq!(
                (head.offset, head.size, head.body_len),
                (record.offset, record.size, record.body_len)
            );
            assert_eq!(&*head.body().unwrap(), b"");
        }
    }
}
