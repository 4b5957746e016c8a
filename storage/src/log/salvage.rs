//! Finds which records of a damaged frame are whole.

use std::ops::Range;

use crate::{
    error::Fault,
    format::{
        frame::FRAME_ALIGNMENT,
        record::{RecordView, peek_len},
    },
    offset::LogPosition,
};

/// A part of a frame's payload that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedPart {
    pub(crate) range: Range<LogPosition>,
    pub(crate) fault: Fault,
}

/// Returns the damaged parts of a payload that begins at `position`, of `count` records if that is known; everything
/// between them is as it was written.
///
/// From one record to the next leads the length of the first, also if its checksum differs; that is believed if
/// it leads through all records to the end. Nobody searches for the next record: what a client has sent could
/// look like one. If the way is lost, everything from the first damaged record on is damaged.
pub(crate) fn damaged_parts(payload: &[u8], position: LogPosition, count: Option<u32>) -> Vec<DamagedPart> {
    let logical = |range: Range<usize>| {
        LogPosition(position.0 + range.start as u64)..LogPosition(position.0 + range.end as u64)
    };
    let mut parts = Vec::new();
    let mut first: Option<(usize, Fault)> = None;
    let (mut at, mut records) = (0, 0_u32);
    while at < payload.len() {
        let rest = payload.get(at..).unwrap_or_default();
        let here = LogPosition(position.0 + at as u64);
        let decoded = RecordView::decode(rest, here).map(|record| record.size as usize);
        let len = match decoded {
            Ok(len) => len,
            Err(fault) => {
                let (_, fault) = *first.get_or_insert((at, fault));
                let Some(len) = peek_len(rest).ok().filter(|len| *len <= rest.len()) else { break };
                let end = (at + len.next_multiple_of(FRAME_ALIGNMENT)).min(payload.len());
                parts.push(DamagedPart { range: logical(at..end), fault });
                len
            }
        };
        let end = (at + len.next_multiple_of(FRAME_ALIGNMENT)).min(payload.len());
        let padding = payload.get(at + len..end).unwrap_or_default();
        if decoded.is_ok() && padding.iter().any(|byte| *byte != 0) {
            let fault = Fault::Structure("the padding between records");
            parts.push(DamagedPart { range: logical(at + len..end), fault });
        }
        at = end;
        records += 1;
    }
    match first {
        Some((from, fault)) if at != payload.len() || count.is_some_and(|count| records != count) => {
            parts.retain(|part| part.range.end.0 <= position.0 + from as u64);
            parts.push(DamagedPart { range: logical(from..payload.len()), fault });
        }
        _ => {}
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::record::{RecordPlace, encode_message},
        message::Message,
        offset::{Epoch, QueueId, QueueOffset, TopicId},
    };

    const START: LogPosition = LogPosition(640);

    fn payload() -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut out, mut ranges) = (Vec::new(), Vec::new());
        for number in 0..3_u64 {
            let start = out.len();
            let place = RecordPlace {
                position: LogPosition(START.0 + start as u64),
                epoch: Epoch(1),
                topic: TopicId(1),
                incarnation: 1,
                queue: QueueId(0),
                offset: QueueOffset(number),
                store_time_ms: 1,
            };
            let message = Message { body: vec![7; 21].into(), ..Message::default() };
            encode_message(&mut out, &place, &message, None);
            ranges.push(start..out.len());
        }
        (out, ranges)
    }

    #[test]
    fn a_flipped_bit_costs_one_record_unless_it_hits_a_length() {
        let (whole, ranges) = payload();
        assert_eq!(damaged_parts(&whole, START, Some(3)), []);
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << (byte % 8);
            let parts = damaged_parts(&damaged, START, Some(3));
            let [part] = parts.as_slice() else { panic!("byte {byte}: {parts:?}") };
            let at = START.0 + byte as u64;
            assert!((part.range.start.0..part.range.end.0).contains(&at), "byte {byte}: {part:?}");
            let record = ranges.iter().find(|range| range.contains(&byte)).unwrap();
            let ends = [START.0 + record.end as u64, START.0 + whole.len() as u64];
            // A length may change and still lead to the next record.
            let in_len = byte - record.start < 4;
            assert!(
                part.range.end.0 == ends[0] || in_len && part.range.end.0 == ends[1],
                "byte {byte}: {part:?}"
            );
        }
    }
}
