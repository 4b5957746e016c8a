//! The examples of `docs/format.md` are what this program writes.

use weir_columns::Value;

use crate::{
    format::{
        compacted::{CompactedTail, RunEntry},
        frame::{FRAME_HEADER_LEN, FrameKind, FramePlace, finish_frame},
        record::{RecordPlace, encode_message, encode_topic},
        segment::{SegmentHeader, SegmentKind},
    },
    message::Message,
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
};

const STORE_TIME_MS: i64 = 1_700_000_000_000;

fn log_header() -> SegmentHeader {
    SegmentHeader {
        kind: SegmentKind::Log,
        epoch: Epoch(1),
        base: LogPosition(0),
        capacity: 64 << 20,
        uuid: *b"\x01\x02\x03\x04\x05\x06\x47\x08\x89\x0a\x0b\x0c\x0d\x0e\x0f\x10",
        salt: 0x1122_3344_5566_7788,
        created_ms: STORE_TIME_MS,
        compacted: false,
    }
}

fn place(position: LogPosition, offset: u64) -> RecordPlace {
    RecordPlace {
        position,
        epoch: Epoch(1),
        topic: TopicId(7),
        incarnation: 1,
        queue: QueueId(1),
        offset: QueueOffset(offset),
        store_time_ms: STORE_TIME_MS,
    }
}

fn message() -> Message {
    Message {
        tag: Some("new".into()),
        keys: vec!["k".into()],
        properties: vec![("region".into(), Value::Text("EU".into())), ("paid".into(), Value::Bool(true))],
        body: "{}".into(),
        ..Message::default()
    }
}

#[test]
fn the_example_of_a_log_is_what_this_program_writes() {
    let header = log_header();
    let mut frame = vec![0; FRAME_HEADER_LEN];
    let topic = place(LogPosition(frame.len() as u64), 0);
    encode_topic(&mut frame, &topic, "", "orders");
    let at = place(LogPosition(frame.len() as u64), 5);
    encode_message(&mut frame, &at, &message(), None);
    let placed = FramePlace {
        salt: header.salt,
        position: LogPosition(0),
        durable: LogPosition(0),
        log_durable: LogPosition(0),
    };
    finish_frame(&mut frame, FrameKind::Records, Epoch(1), 2, placed, STORE_TIME_MS);
    check_example("log", &[header.encode(), frame].concat());
}

#[test]
fn the_example_of_a_compacted_segment_is_what_this_program_writes() {
    let header = SegmentHeader { compacted: true, ..log_header() };
    let mut run = Vec::new();
    let position = LogPosition(FRAME_HEADER_LEN as u64 + 112);
    encode_message(&mut run, &place(position, 5), &message(), None);
    run.resize(run.len().next_multiple_of(8), 0);
    let directory = RunEntry { position, at: 4096 }.encode();
    let tail = CompactedTail {
        directory_at: 4096 + run.len() as u64,
        runs: 1,
        end: LogPosition(2 * FRAME_HEADER_LEN as u64 + 256),
        store_time_ms: STORE_TIME_MS,
        directory_crc: crc32c::crc32c(&directory),
    };
    check_example("compacted segment", &[&header.encode(), &run, &directory[..], &tail.encode()].concat());
}

/// Compares the bytes of an example in `docs/format.md` with those that were written.
#[track_caller]
pub(crate) fn check_example(name: &str, bytes: &[u8]) {
    let document = include_str!("../../../docs/format.md");
    let marker = format!("<!-- example: {name} -->\n```text\n");
    let (_, example) = document.split_once(&marker).unwrap();
    let (example, _) = example.split_once("```").unwrap();
    // Each line: a position, bytes, and after a bar what they are. Lines that are left out are zeros.
    let mut documented = Vec::new();
    for line in example.lines() {
        let (at, rest) = line.split_once("  ").unwrap_or((line, ""));
        documented.resize(usize::from_str_radix(at, 16).unwrap(), 0);
        let hex = rest.split('|').next().unwrap_or_default();
        documented.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    assert!(documented == bytes, "docs/format.md should say:\n{}", dump(bytes));
}

fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(16).enumerate() {
        let is_last = (number + 1) * 16 >= bytes.len();
        if line.iter().any(|byte| *byte != 0) || is_last {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:04x}  {}\n", number * 16, hex.join(" "));
        }
    }
    text
}
