//! Entries of the group journal. Layout: `docs/format.md`, "Group journal".

use crate::{
    done::STRETCH_ROWS_MAX,
    error::Fault,
    format::cursor::{Cursor, put_count, put_text32},
    journal::{DoneEntry, JournalEntry, LeaseRow, OpenRow, SelectorKind},
    offset::{GroupId, QueueId, QueueOffset, TopicId},
};

/// Kinds of entries. They are part of the format.
mod kind {
    pub(super) const QUEUE: u8 = 1;
    pub(super) const SELECTOR: u8 = 2;
    pub(super) const DROP_SELECTOR: u8 = 3;
    pub(super) const CURSOR: u8 = 4;
    pub(super) const LEASE: u8 = 5;
    pub(super) const ACK: u8 = 6;
    pub(super) const CHANGE: u8 = 7;
    pub(super) const DEAD_LETTER: u8 = 8;
    pub(super) const RESET: u8 = 9;
    pub(super) const DROP_GROUP: u8 = 10;
    pub(super) const DROP_TOPIC: u8 = 11;
    pub(super) const DONE_ROWS: u8 = 12;
    pub(super) const DONE_STRETCH: u8 = 13;
    pub(super) const LITE_POSITION: u8 = 14;
    pub(super) const LITE_FORGOTTEN: u8 = 15;
    /// Written by a start: see [`Stored::Cut`](super::Stored::Cut).
    pub(super) const CUT: u8 = 64;
}

const OPEN_ROW_LEN: usize = 28;
const LEASE_ROW_LEN: usize = 11;
const OFFSET_LEN: usize = 8;

/// What the journal's files hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// An entry of the engine.
    Entry(JournalEntry),
    /// A start found the queue to end here; entries before this one that name later offsets mean rows that
    /// a crash removed.
    Cut { topic: TopicId, queue: QueueId, end: QueueOffset },
    /// Pending rows are done.
    Done(DoneEntry),
}

struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        put_text32(self.0, text);
        self
    }
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn count(&mut self, count: usize) -> &mut Self {
        put_count(self.0, count);
        self
    }
    fn place(&mut self, kind: u8, group: GroupId, topic: TopicId, queue: QueueId) -> &mut Self {
        self.u8(kind).u32(group.0).u32(topic.0).u32(queue.0)
    }
}

/// Appends an entry: its length, then its bytes.
pub(crate) fn encode_entry(out: &mut Vec<u8>, entry: &JournalEntry) {
    with_length(out, |out| encode_body(out, entry));
}

/// Appends what a start writes when it has cut a queue.
pub(crate) fn encode_cut(out: &mut Vec<u8>, topic: TopicId, queue: QueueId, end: QueueOffset) {
    with_length(out, |out| {
        out.u8(kind::CUT).u32(topic.0).u32(queue.0).u64(end.0);
    });
}

/// Appends what says that pending rows are done.
pub(crate) fn encode_done(out: &mut Vec<u8>, entry: &DoneEntry) {
    with_length(out, |out| match entry {
        DoneEntry::Rows { topic, queue, offsets } => {
            out.u8(kind::DONE_ROWS).u32(topic.0).u32(queue.0).count(offsets.len());
            for offset in offsets {
                out.u64(offset.0);
            }
        }
        DoneEntry::Stretch { topic, queue, first, rows, bits } => {
            out.u8(kind::DONE_STRETCH).u32(topic.0).u32(queue.0).u64(first.0).u32(*rows).count(bits.len());
            out.bytes(bits);
        }
    });
}

fn with_length(out: &mut Vec<u8>, body: impl FnOnce(&mut Out<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(&mut Out(out));
    let len = u32::try_from(out.len() - start - 4).expect("the engine bounds what an entry names");
    let slot = out.get_mut(start..start + 4).expect("it was just appended");
    slot.copy_from_slice(&len.to_le_bytes());
}

fn encode_body(out: &mut Out<'_>, entry: &JournalEntry) {
    match entry {
        JournalEntry::Queue { group, topic, queue, cursors, open } => {
            out.place(kind::QUEUE, *group, *topic, *queue).count(cursors.len());
            for (slot, start, cursor) in cursors {
                out.u8(*slot).u64(start.0).u64(cursor.0);
            }
            out.count(open.len());
            for row in open {
                out.u64(row.offset.0).u64(row.lease).i64(row.until_ms);
                out.u16(row.attempt).u8(row.slot).u8(u8::from(row.leased));
            }
        }
        JournalEntry::Selector { group, topic, slot, text, dialect, kind, starts } => {
            out.u8(kind::SELECTOR).u32(group.0).u32(topic.0);
            out.u8(*slot).u8(*dialect).u8(*kind as u8).text(text).count(starts.len());
            for (queue, start) in starts {
                out.u32(queue.0).u64(start.0);
            }
        }
        JournalEntry::DropSelector { group, topic, slot } => {
            out.u8(kind::DROP_SELECTOR).u32(group.0).u32(topic.0).u8(*slot);
        }
        JournalEntry::Cursor { group, topic, queue, slot, cursor } => {
            out.place(kind::CURSOR, *group, *topic, *queue).u8(*slot).u64(cursor.0);
        }
        JournalEntry::Lease { group, topic, queue, rows, lease, until_ms, length_ms, client, attempt_id } => {
            out.place(kind::LEASE, *group, *topic, *queue);
            out.u64(*lease).i64(*until_ms).u32(*length_ms).text(client);
            out.u8(u8::from(attempt_id.is_some())).text(attempt_id.as_deref().unwrap_or_default());
            out.count(rows.len());
            for row in rows {
                out.u64(row.offset.0).u16(row.attempt).u8(row.slot);
            }
        }
        JournalEntry::Ack { group, topic, queue, offsets } => {
            out.place(kind::ACK, *group, *topic, *queue).count(offsets.len());
            for offset in offsets {
                out.u64(offset.0);
            }
        }
        JournalEntry::Change { group, topic, queue, offset, lease, visible_at_ms } => {
            out.place(kind::CHANGE, *group, *topic, *queue).u64(offset.0).u64(*lease).i64(*visible_at_ms);
        }
        JournalEntry::DeadLetter { group, topic, queue, offset } => {
            out.place(kind::DEAD_LETTER, *group, *topic, *queue).u64(offset.0);
        }
        JournalEntry::Reset { group, topic, queue, offset } => {
            out.place(kind::RESET, *group, *topic, *queue).u64(offset.0);
        }
        JournalEntry::LitePosition { group, topic, queue, lite_topic, next } => {
            out.place(kind::LITE_POSITION, *group, *topic, *queue).text(lite_topic).u64(next.0);
        }
        JournalEntry::LiteForgotten { group, topic, lite_topic } => {
            out.u8(kind::LITE_FORGOTTEN).u32(group.0).u32(topic.0).text(lite_topic);
        }
        JournalEntry::DropGroup { group } => {
            out.u8(kind::DROP_GROUP).u32(group.0);
        }
        JournalEntry::DropTopic { topic } => {
            out.u8(kind::DROP_TOPIC).u32(topic.0);
        }
    }
}

/// Reads the entries of a frame's payload.
pub(crate) fn decode_entries(payload: &[u8]) -> Result<Vec<Stored>, Fault> {
    let mut cursor = Cursor::new(payload);
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        let len = cursor.u32()? as usize;
        let mut body = Cursor::new(cursor.bytes(len)?);
        entries.push(decode_body(&mut body)?);
        if !body.is_empty() {
            return Err(Fault::Structure("the length of an entry"));
        }
    }
    Ok(entries)
}

fn decode_body(cursor: &mut Cursor<'_>) -> Result<Stored, Fault> {
    let kind = cursor.u8()?;
    Ok(Stored::Entry(match kind {
        kind::CUT => {
            let (topic, queue) = (topic(cursor)?, queue(cursor)?);
            return Ok(Stored::Cut { topic, queue, end: offset(cursor)? });
        }
        kind::DONE_ROWS => return decode_done_rows(cursor).map(Stored::Done),
        kind::DONE_STRETCH => return decode_done_stretch(cursor).map(Stored::Done),
        kind::QUEUE => decode_queue(cursor)?,
        kind::SELECTOR => decode_selector(cursor)?,
        kind::DROP_SELECTOR => {
            JournalEntry::DropSelector { group: group(cursor)?, topic: topic(cursor)?, slot: cursor.u8()? }
        }
        kind::CURSOR => JournalEntry::Cursor {
            group: group(cursor)?,
            topic: topic(cursor)?,
            queue: queue(cursor)?,
            slot: cursor.u8()?,
            cursor: offset(cursor)?,
        },
        kind::LEASE => decode_lease(cursor)?,
        kind::ACK => decode_ack(cursor)?,
        kind::CHANGE => JournalEntry::Change {
            group: group(cursor)?,
            topic: topic(cursor)?,
            queue: queue(cursor)?,
            offset: offset(cursor)?,
            lease: cursor.u64()?,
            visible_at_ms: cursor.i64()?,
        },
        kind::DEAD_LETTER => JournalEntry::DeadLetter {
            group: group(cursor)?,
            topic: topic(cursor)?,
            queue: queue(cursor)?,
            offset: offset(cursor)?,
        },
        kind::RESET => JournalEntry::Reset {
            group: group(cursor)?,
            topic: topic(cursor)?,
            queue: queue(cursor)?,
            offset: offset(cursor)?,
        },
        kind::LITE_POSITION => JournalEntry::LitePosition {
            group: group(cursor)?,
            topic: topic(cursor)?,
            queue: queue(cursor)?,
            lite_topic: cursor.text32()?.to_owned(),
            next: offset(cursor)?,
        },
        kind::LITE_FORGOTTEN => JournalEntry::LiteForgotten {
            group: group(cursor)?,
            topic: topic(cursor)?,
            lite_topic: cursor.text32()?.to_owned(),
        },
        kind::DROP_GROUP => JournalEntry::DropGroup { group: group(cursor)? },
        kind::DROP_TOPIC => JournalEntry::DropTopic { topic: topic(cursor)? },
        _ => return Err(Fault::Unknown("kind of a journal entry")),
    }))
}

fn group(cursor: &mut Cursor<'_>) -> Result<GroupId, Fault> {
    cursor.u32().map(GroupId)
}

fn topic(cursor: &mut Cursor<'_>) -> Result<TopicId, Fault> {
    cursor.u32().map(TopicId)
}

fn queue(cursor: &mut Cursor<'_>) -> Result<QueueId, Fault> {
    cursor.u32().map(QueueId)
}

fn offset(cursor: &mut Cursor<'_>) -> Result<QueueOffset, Fault> {
    cursor.u64().map(QueueOffset)
}

fn decode_queue(cursor: &mut Cursor<'_>) -> Result<JournalEntry, Fault> {
    let (group, topic, queue) = (group(cursor)?, topic(cursor)?, queue(cursor)?);
    let cursors_len = cursor.count(1 + 2 * OFFSET_LEN)?;
    let cursors = (0..cursors_len)
        .map(|_| Ok((cursor.u8()?, offset(cursor)?, offset(cursor)?)))
        .collect::<Result<_, Fault>>()?;
    let open_len = cursor.count(OPEN_ROW_LEN)?;
    let open = (0..open_len)
        .map(|_| {
            Ok(OpenRow {
                offset: offset(cursor)?,
                lease: cursor.u64()?,
                until_ms: cursor.i64()?,
                attempt: cursor.u16()?,
                slot: cursor.u8()?,
                leased: cursor.u8()? != 0,
            })
        })
        .collect::<Result<_, Fault>>()?;
    Ok(JournalEntry::Queue { group, topic, queue, cursors, open })
}

fn decode_selector(cursor: &mut Cursor<'_>) -> Result<JournalEntry, Fault> {
    let (group, topic) = (group(cursor)?, topic(cursor)?);
    let (slot, dialect) = (cursor.u8()?, cursor.u8()?);
    let kind = match cursor.u8()? {
        0 => SelectorKind::All,
        1 => SelectorKind::Tags,
        2 => SelectorKind::Sql,
        _ => return Err(Fault::Unknown("kind of a selector")),
    };
    let text = cursor.text32()?.to_owned();
    let starts_len = cursor.count(4 + OFFSET_LEN)?;
    let starts =
        (0..starts_len).map(|_| Ok((queue(cursor)?, offset(cursor)?))).collect::<Result<_, Fault>>()?;
    Ok(JournalEntry::Selector { group, topic, slot, text, dialect, kind, starts })
}

fn decode_lease(cursor: &mut Cursor<'_>) -> Result<JournalEntry, Fault> {
    let (group, topic, queue) = (group(cursor)?, topic(cursor)?, queue(cursor)?);
    let (lease, until_ms, length_ms) = (cursor.u64()?, cursor.i64()?, cursor.u32()?);
    let client = cursor.text32()?.to_owned();
    let has_attempt = cursor.u8()? != 0;
    let attempt_id = Some(cursor.text32()?.to_owned()).filter(|_| has_attempt);
    let rows_len = cursor.count(LEASE_ROW_LEN)?;
    let rows = (0..rows_len)
        .map(|_| Ok(LeaseRow { offset: offset(cursor)?, attempt: cursor.u16()?, slot: cursor.u8()? }))
        .collect::<Result<_, Fault>>()?;
    Ok(JournalEntry::Lease { group, topic, queue, rows, lease, until_ms, length_ms, client, attempt_id })
}

fn decode_ack(cursor: &mut Cursor<'_>) -> Result<JournalEntry, Fault> {
    let (group, topic, queue) = (group(cursor)?, topic(cursor)?, queue(cursor)?);
    let offsets_len = cursor.count(OFFSET_LEN)?;
    let offsets = (0..offsets_len).map(|_| offset(cursor)).collect::<Result<_, Fault>>()?;
    Ok(JournalEntry::Ack { group, topic, queue, offsets })
}

fn decode_done_rows(cursor: &mut Cursor<'_>) -> Result<DoneEntry, Fault> {
    let (topic, queue) = (topic(cursor)?, queue(cursor)?);
    let offsets_len = cursor.count(OFFSET_LEN)?;
    let offsets = (0..offsets_len).map(|_| offset(cursor)).collect::<Result<_, Fault>>()?;
    Ok(DoneEntry::Rows { topic, queue, offsets })
}

fn decode_done_stretch(cursor: &mut Cursor<'_>) -> Result<DoneEntry, Fault> {
    let (topic, queue, first) = (topic(cursor)?, queue(cursor)?, offset(cursor)?);
    let rows = cursor.u32()?;
    let bits_len = cursor.count(1)?;
    let bits = cursor.bytes(bits_len)?.to_vec();
    let bits_wanted = if bits.is_empty() { 0 } else { u64::from(rows).div_ceil(8) };
    if u64::from(rows) > STRETCH_ROWS_MAX || bits.len() as u64 != bits_wanted || first.0 >= 1 << 62 {
        return Err(Fault::Structure("a stretch of rows that are done"));
    }
    Ok(DoneEntry::Stretch { topic, queue, first, rows, bits })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_of_each() -> Vec<JournalEntry> {
        let (group, topic, queue) = (GroupId(1), TopicId(2), QueueId(3));
        let offset = QueueOffset(4);
        vec![
            JournalEntry::Queue {
                group,
                topic,
                queue,
                cursors: vec![(0, QueueOffset(1), QueueOffset(9))],
                open: vec![OpenRow { offset, attempt: 2, lease: 3, until_ms: -4, slot: 5, leased: true }],
            },
            JournalEntry::Selector {
                group,
                topic,
                slot: 7,
                text: "a > 'ü'".into(),
                dialect: 1,
                kind: SelectorKind::Sql,
                starts: vec![(queue, offset)],
            },
            JournalEntry::DropSelector { group, topic, slot: 1 },
            JournalEntry::Cursor { group, topic, queue, slot: 1, cursor: offset },
            JournalEntry::Lease {
                group,
                topic,
                queue,
                rows: vec![LeaseRow { offset, attempt: 1, slot: 2 }],
                lease: 5,
                until_ms: 6,
                length_ms: 7,
                client: "c".into(),
                attempt_id: Some(String::new()),
            },
            JournalEntry::Ack { group, topic, queue, offsets: vec![offset, QueueOffset(9)] },
            JournalEntry::Change { group, topic, queue, offset, lease: 1, visible_at_ms: 2 },
            JournalEntry::DeadLetter { group, topic, queue, offset },
            JournalEntry::Reset { group, topic, queue, offset },
            JournalEntry::LitePosition { group, topic, queue, lite_topic: "ü".into(), next: offset },
            JournalEntry::LiteForgotten { group, topic, lite_topic: "l".into() },
            JournalEntry::DropGroup { group },
            JournalEntry::DropTopic { topic },
        ]
    }

    #[test]
    fn every_entry_reads_back() {
        let mut bytes = Vec::new();
        for entry in one_of_each() {
            encode_entry(&mut bytes, &entry);
        }
        encode_cut(&mut bytes, TopicId(1), QueueId(2), QueueOffset(3));
        let mut expected: Vec<Stored> = one_of_each().into_iter().map(Stored::Entry).collect();
        expected.push(Stored::Cut { topic: TopicId(1), queue: QueueId(2), end: QueueOffset(3) });
        let (topic, queue, first) = (TopicId(1), QueueId(2), QueueOffset(3));
        let done = [
            DoneEntry::Rows { topic, queue, offsets: vec![first, QueueOffset(9)] },
            DoneEntry::Stretch { topic, queue, first, rows: 9, bits: vec![5, 1] },
            DoneEntry::Stretch { topic, queue, first, rows: 4096, bits: Vec::new() },
        ];
        for entry in done {
            encode_done(&mut bytes, &entry);
            expected.push(Stored::Done(entry));
        }
        assert_eq!(decode_entries(&bytes), Ok(expected));
        for cut in 1..bytes.len() {
            let _ = decode_entries(&bytes[..cut]);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(kind in 0_u8..70, body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = (body.len() as u32 + 1).to_le_bytes().to_vec();
            bytes.push(kind);
            bytes.extend_from_slice(&body);
            let _ = decode_entries(&bytes);
        }
    }
}
