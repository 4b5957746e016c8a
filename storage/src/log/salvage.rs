//! Finds which records of a damaged frame are whole.

use std::ops::Range;

use crate::{
    error::{Fault, StorageError},
    format::{
        frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameKind},
        record::{RecordHint, RecordView, peek_len, summed_len},
        segment::SegmentKind,
    },
    limits::FRAME_PAYLOAD_MAX,
    log::walk::Window,
    offset::LogPosition,
};

/// What is known of a frame that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Where the next frame begins.
    pub(crate) end: LogPosition,
    /// Everything between these parts is as it was written.
    pub(crate) damaged: Vec<DamagedPart>,
    /// The header is whole: what is damaged is in the payload.
    pub(crate) has_header: bool,
    /// What damaged records seem to have been. Nothing vouches for it.
    pub(crate) hints: Vec<RecordHint>,
}

/// Finds what can be read of a frame that is damaged, and was durable once. If its header is damaged, too, it goes up
/// to the next whole header, or to `resume`, where the next whole frame begins.
///
/// Without a header the records are found all the same: the first one lies where it always does, and each has a
/// checksum that covers its position.
pub(crate) fn salvage(
    window: &mut Window<'_>,
    kind: SegmentKind,
    here: LogPosition,
    fault: Fault,
    resume: LogPosition,
) -> Result<Salvaged, StorageError> {
    let payload_at = LogPosition(here.0 + FRAME_HEADER_LEN as u64);
    let header: Option<FrameHeader> = window.header(here)?.ok();
    let end = match header {
        Some(header) => header.end(),
        // Only this process knows the salt that its checksum begins with: no client can have sent it.
        None => window.next_header(here, resume)?.unwrap_or(resume),
    };
    let all = vec![DamagedPart { range: here..end, fault }];
    let lost = Salvaged { end, damaged: all, has_header: header.is_some(), hints: Vec::new() };
    let holds_records = match header {
        Some(header) => header.kind == FrameKind::Records,
        None => kind == SegmentKind::Log && end > payload_at,
    };
    if !holds_records {
        return Ok(lost);
    }
    let len = header.map_or(end.0.saturating_sub(payload_at.0), |header| u64::from(header.payload_len));
    let len = usize::try_from(len.min(FRAME_PAYLOAD_MAX)).unwrap_or(usize::MAX);
    let payload = window.bytes(payload_at, len)?;
    if header.is_none() && RecordView::decode(payload, payload_at).is_err() {
        return Ok(lost);
    }
    let mut damaged = Vec::new();
    if header.is_none() {
        damaged.push(DamagedPart { range: here..payload_at, fault });
    }
    damaged.extend(damaged_parts(payload, payload_at, header.map(|header| header.records)));
    let read_to = LogPosition(payload_at.0 + payload.len().next_multiple_of(FRAME_ALIGNMENT) as u64);
    if read_to < end {
        // The file ends within the frame.
        let is_last =
            |part: &&mut DamagedPart| part.range.end.0.next_multiple_of(FRAME_ALIGNMENT as u64) >= read_to.0;
        match damaged.last_mut().filter(is_last) {
            Some(part) => part.range.end = end,
            None => damaged.push(DamagedPart { range: read_to..end, fault: Fault::Truncated }),
        }
    }
    if damaged.is_empty() {
        return Ok(lost);
    }
    let hint = |part: &DamagedPart| {
        let at = usize::try_from(part.range.start.0.checked_sub(payload_at.0)?).ok()?;
        RecordHint::of(payload.get(at..)?, part.range.start)
    };
    let hints = damaged.iter().filter_map(hint).collect();
    Ok(Salvaged { end, damaged, has_header: header.is_some(), hints })
}

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
/// it leads through all records to the end. Another way are the lengths of its parts. Nobody searches for the next record: what a client has sent could
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
                let Some(len) = way_on(rest, here) else { break };
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

/// Returns how long a damaged record seems to be: as its length says or, if that leads to no record, as the lengths of
/// its parts say.
fn way_on(rest: &[u8], here: LogPosition) -> Option<usize> {
    let leads_on = |len: &usize| {
        let next = len.next_multiple_of(FRAME_ALIGNMENT);
        let after = rest.get(next..).unwrap_or_default();
        after.is_empty() || RecordView::decode(after, LogPosition(here.0 + next as u64)).is_ok()
    };
    let fits = |len: &usize| *len <= rest.len();
    let stated = peek_len(rest).ok().filter(fits);
    let summed = || summed_len(rest).filter(fits).filter(leads_on);
    stated.filter(leads_on).or_else(summed).or(stated)
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
