//! The examples of `docs/format.md` are what this program writes.

use weir_columns::Value;

use crate::{
    format::{
        frame::{FRAME_HEADER_LEN, FrameKind, FramePlace, finish_frame},
        record::{RecordPlace, encode_message, encode_topic},
        segment::{SegmentHeader, SegmentKind},
    },
    message::Message,
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
};

#[test]
fn the_example_of_a_log_is_what_this_program_writes() {
    let store_time_ms = 1_700_000_000_000;
    let header = SegmentHeader {
        kind: SegmentKind::Log,
        epoch: Epoch(1),
        base: LogPosition(0),
        capacity: 64 << 20,
        uuid: *b"\x01\x02\x03\x04\x05\x06\x47\x08\x89\x0a\x0b\x0c\x0d\x0e\x0f\x10",
        salt: 0x1122_3344_5566_7788,
        created_ms: store_time_ms,
    };
    let mut frame = vec![0; FRAME_HEADER_LEN];
    let place = |frame: &[u8], offset| RecordPlace {
        position: LogPosition(frame.len() as u64),
        epoch: Epoch(1),
        topic: TopicId(7),
        incarnation: 1,
        queue: QueueId(1),
        offset: QueueOffset(offset),
        store_time_ms,
    };
    let topic = place(&frame, 0);
    encode_topic(&mut frame, &topic, "", "orders");
    let message = Message {
        tag: Some("new".into()),
        keys: vec!["k".into()],
        properties: vec![("region".into(), Value::Text("EU".into())), ("paid".into(), Value::Bool(true))],
        body: "{}".into(),
        ..Message::default()
    };
    let at = place(&frame, 5);
    encode_message(&mut frame, &at, &message);
    let placed = FramePlace { salt: header.salt, position: LogPosition(0), durable: LogPosition(0) };
    finish_frame(&mut frame, FrameKind::Records, Epoch(1), 2, placed, store_time_ms);
    check_example("log", &[header.encode(), frame].concat());
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
