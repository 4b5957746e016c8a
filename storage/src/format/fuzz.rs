//! Damaged bytes of every format, with and without a checksum that is right again: none may make a reader panic or
//! allocate more than its input bears out. `cargo xtask fuzz-formats` does so for minutes.

use arrow_buffer::Buffer;
use proptest::prelude::*;

use super::{
    block::{BlockHeader, ColumnEntry, FileHeader, Shape, StatisticsEntry, Tail, seal},
    catalogue::{self, CatalogueEntry},
    checkpoint::Checkpoint,
    frame::{FrameHeader, FrameKind, FramePlace, finish_frame},
    journal,
    record::{RecordPlace, RecordView, encode_message, records_of},
    segment::{SegmentHeader, SegmentKind},
};
use crate::{
    journal::{JournalEntry, LeaseRow},
    limits::RECORD_BYTES_MAX,
    lock::{parse_format, parse_key},
    log::salvage::damaged_parts,
    message::Message,
    offset::{Epoch, GroupId, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{builder::RunBuilder, checkpoint::QueuesCheckpoint, image::Place, statistics},
    raw::arrays::{Checks, Image},
};

const POSITION: LogPosition = LogPosition(640);

/// What is done to bytes. Places are shares of their length.
#[derive(Clone, Debug)]
enum Change {
    Flip(f64, u8),
    Set(f64, u8),
    Number(f64, u32),
    Cut(f64),
    Remove(f64, usize),
    Repeat(f64, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = || 0.0..1.0_f64;
    let numbers =
        prop::sample::select(vec![0, 1, 7, 8, 63, 64, 0x7fff_ffff, 0x8000_0000, u32::MAX - 7, u32::MAX]);
    let change = prop_oneof![
        4 => (place(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (place(), numbers).prop_map(|(at, number)| Change::Number(at, number)),
        1 => place().prop_map(Change::Cut),
        1 => (place(), 1..40_usize).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => (place(), 1..40_usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ];
    prop::collection::vec(change, 1..5)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let at = |share: f64| (share * bytes.len() as f64) as usize;
        match *change {
            Change::Flip(share, bit) => {
                let at = at(share);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            Change::Set(share, new) => {
                let at = at(share);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = new);
            }
            Change::Number(share, number) => {
                let at = at(share) / 4 * 4;
                bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Change::Cut(share) => bytes.truncate(at(share)),
            Change::Remove(share, len) => {
                let start = at(share);
                bytes.drain(start..(start + len).min(bytes.len()));
            }
            Change::Repeat(share, len) => {
                let start = at(share);
                let piece = bytes[start..(start + len).min(bytes.len())].to_vec();
                bytes.splice(start..start, piece);
            }
        }
    }
    bytes
}

fn message(number: u64) -> Message {
    Message {
        message_id: format!("m{number}"),
        tag: Some("t".into()),
        keys: vec!["a".into(), "b".into()],
        properties: vec![
            ("i".into(), weir_columns::Value::I64(number as i64)),
            ("f".into(), weir_columns::Value::F64(0.5)),
            ("t".into(), weir_columns::Value::Text(format!("x{number}"))),
        ],
        body: vec![1; 30].into(),
        ..Message::default()
    }
}

fn payload() -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..4 {
        let place = RecordPlace {
            position: LogPosition(POSITION.0 + out.len() as u64),
            epoch: Epoch(1),
            topic: TopicId(1),
            incarnation: 1,
            queue: QueueId(0),
            offset: QueueOffset(number),
            store_time_ms: 1,
        };
        encode_message(&mut out, &place, &message(number), None);
    }
    out
}

/// Returns a block of some rows: small ones have dictionaries alone, large ones all shapes.
fn block(rows: u64) -> Vec<u8> {
    let mut builder = RunBuilder::default();
    for row in 0..rows {
        builder.begin_row(crate::queue::builder::RowFacts {
            position: row * 100,
            store_time_ms: 5,
            born_time_ms: None,
            size: 90,
            body_size: 9,
            body_position: None,
        });
        builder.message_type("NORMAL");
        builder.key("k");
        let number = row.to_string();
        builder.property("int", super::record::ValueRef::Text(&number), &mut |_| true);
        builder.property("few", super::record::ValueRef::Str("a"), &mut |_| true);
        builder.property("rest", super::record::ValueRef::Bool(true), &mut |_| false);
        if row % 5 == 0 {
            builder.property("sparse", super::record::ValueRef::F64(1.5), &mut |_| true);
        }
        builder.end_row();
    }
    let place = Place { topic: TopicId(1), incarnation: 1, queue: QueueId(0), base: QueueOffset(0) };
    let mut bytes = builder.finish(place).to_vec();
    seal(&mut bytes).expect("the builder makes whole blocks");
    bytes
}

/// Reads all that a block says.
fn read_block(bytes: &[u8]) {
    let Ok(image) = Image::open(
        Buffer::from(arrow_buffer::MutableBuffer::from(bytes.to_vec())),
        &Checks::new(4096).into(),
        0,
    ) else {
        return;
    };
    for number in 0..image.header().columns as usize {
        let Ok(entry) = image.entry(number) else { continue };
        let _ = match entry.shape {
            Shape::Long => image.longs(number, &entry).map(drop),
            Shape::Word => image.words(number, &entry).map(drop),
            Shape::Bits => image.bits(number, &entry).map(drop),
            Shape::Rest => image.rest(number, &entry).map(drop),
            _ => image.column(number, &entry).map(drop),
        };
    }
}

proptest! {
    #[test]
    fn frames_and_segments(changes in changes()) {
        let mut frame = vec![0; 64];
        frame.extend(payload());
        let place = FramePlace { salt: 3, position: POSITION, durable: LogPosition(0), log_durable: LogPosition(0) };
        finish_frame(&mut frame, FrameKind::Records, Epoch(1), 4, place, 1);
        let frame = changed(frame, &changes);
        if let Ok(header) = FrameHeader::decode(&frame, 3, POSITION) {
            let _ = header.verify(frame.get(64..).unwrap_or_default(), 3);
        }
        let header = SegmentHeader {
            kind: SegmentKind::Log,
            epoch: Epoch(1),
            base: POSITION,
            capacity: 1 << 20,
            uuid: [1; 16],
            salt: 3,
            created_ms: 1,
            compacted: false,
        };
        let _ = SegmentHeader::decode(&changed(header.encode(), &changes), SegmentKind::Log);
        let _ = parse_format(&changed(b"weir data directory\nversion 1\nuuid 1\ncrc32c 00000000\n".to_vec(), &changes));
        let _ = parse_key(&changed(vec![1; 36], &changes));
    }

    #[test]
    fn records(changes in changes()) {
        let bytes = changed(payload(), &changes);
        for record in records_of(&bytes, POSITION).flatten() {
            // One that says that its body is compressed may have none that can be unpacked.
            if let Ok(stored) = record.to_stored() {
                prop_assert!(stored.message.body.len() as u64 <= RECORD_BYTES_MAX);
            }
        }
        let _ = RecordView::decode(&bytes, POSITION);
        for part in damaged_parts(&bytes, POSITION, Some(4)) {
            prop_assert!(part.range.end.0 <= POSITION.0 + bytes.len() as u64);
        }
    }

    #[test]
    fn entries(changes in changes()) {
        let (group, topic, queue, offset) = (GroupId(1), TopicId(1), QueueId(0), QueueOffset(5));
        let mut bytes = Vec::new();
        for entry in [
            JournalEntry::Ack { group, topic, queue, offsets: vec![offset; 3] },
            JournalEntry::Lease {
                group,
                topic,
                queue,
                rows: vec![LeaseRow { offset, attempt: 1, slot: 0 }],
                lease: 1,
                until_ms: 1,
                length_ms: 1,
                client: "c".into(),
                attempt_id: Some("a".into()),
            },
            JournalEntry::Queue { group, topic, queue, cursors: vec![(0, offset, offset)], open: Vec::new() },
            JournalEntry::LitePosition { group, topic, queue, lite_topic: "l".into(), next: offset },
            JournalEntry::LiteForgotten { group, topic, lite_topic: "l".into() },
        ] {
            journal::encode_entry(&mut bytes, &entry);
        }
        let _ = journal::decode_entries(&changed(bytes, &changes));
        let mut bytes = Vec::new();
        catalogue::encode_entry(&mut bytes, &CatalogueEntry::Next { topic, group });
        catalogue::encode_entry(&mut bytes, &CatalogueEntry::FirstOffset { topic, queue, offset });
        let _ = catalogue::decode_entries(&changed(bytes, &changes));
    }

    #[test]
    fn checkpoints(changes in changes(), right in any::<bool>()) {
        let checkpoint = Checkpoint {
            uuid: [1; 16],
            epoch: Epoch(1),
            clean: true,
            log: POSITION,
            durable: POSITION,
            journal: POSITION,
            catalogue: POSITION,
            file_lens: [1, 2, 3],
            store_time_ms: 1,
            fences: vec![LogPosition(1)..LogPosition(2); 2],
            queues: QueuesCheckpoint::default().encode(),
        };
        let mut bytes = changed(checkpoint.encode(), &changes);
        if let (true, Some(at)) = (right, bytes.len().checked_sub(4)) {
            let crc = crc32c::crc32c(&bytes[..at]);
            bytes[at..].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(checkpoint) = Checkpoint::decode(&bytes) {
            let _ = QueuesCheckpoint::decode(&checkpoint.queues);
        }
        let _ = QueuesCheckpoint::decode(&bytes);
    }

    #[test]
    fn blocks(changes in changes(), large in prop::bool::weighted(0.1), right in any::<bool>()) {
        let mut bytes = changed(block(if large { 1100 } else { 6 }), &changes);
        if right {
            // As if a writer had made it so: the structure alone must be enough to refuse it.
            let _ = seal(&mut bytes);
        }
        read_block(&bytes);
        let _ = (BlockHeader::decode(&bytes), ColumnEntry::decode(&bytes, 0));
        let _ = (FileHeader::decode(&bytes), Tail::decode(&bytes), StatisticsEntry::decode(&bytes, 64));
        if let Some(len) = bytes.len().checked_sub(64) {
            let file = Buffer::from(arrow_buffer::MutableBuffer::from(bytes));
            let _ = statistics::decode(&file, 64..64 + len, 2);
        }
    }
}
