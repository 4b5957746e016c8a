//! The header of a segment: of the commit log, the group journal and the catalogue. Layout:
//! `docs/format.md`, "Segment header".

use crate::{
    error::Fault,
    format::cursor::Cursor,
    offset::{Epoch, FilePosition, LogPosition},
};

/// Length of a segment's header: the first frame begins there.
pub(crate) const SEGMENT_HEADER_LEN: usize = 4096;
const MAGIC: [u8; 8] = *b"WEIRSEGM";
const VERSION: u16 = 1;
const CRC_AT: usize = SEGMENT_HEADER_LEN - 4;

/// To what a segment belongs. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentKind {
    /// The commit log.
    Log = 1,
    /// The group journal.
    Journal = 2,
    /// The catalogue.
    Catalogue = 3,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) kind: SegmentKind,
    /// The epoch in which it was begun.
    pub(crate) epoch: Epoch,
    /// Where it begins, logically.
    pub(crate) base: LogPosition,
    /// How many bytes of frames it may hold.
    pub(crate) capacity: u64,
    /// The data directory that it belongs to.
    pub(crate) uuid: [u8; 16],
    /// Seeds the checksums of its frames; random, and known to nobody outside.
    pub(crate) salt: u64,
    pub(crate) created_ms: i64,
    /// It has been rewritten: records instead of frames, with a directory behind them.
    pub(crate) compacted: bool,
}

impl SegmentHeader {
    /// Returns where in the file a logical position lies, unless the segment is compacted.
    pub(crate) const fn file_position(&self, position: LogPosition) -> FilePosition {
        FilePosition(SEGMENT_HEADER_LEN as u64 + (position.0 - self.base.0))
    }

    /// Returns the bytes of the header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, u8::from(self.compacted), 0, 0]);
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Returns the bytes that a damaged header must have had, if that can be told: most of them are zeros or follow from
    /// the name of the file and the directory, and of the others one bit may be wrong. The checksum decides.
    pub(crate) fn restored(
        bytes: &[u8],
        kind: SegmentKind,
        base: LogPosition,
        uuid: &[u8; 16],
    ) -> Option<Vec<u8>> {
        let mut bytes = bytes.get(..SEGMENT_HEADER_LEN)?.to_vec();
        let mut put = |at: usize, known: &[u8]| bytes[at..at + known.len()].copy_from_slice(known);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &VERSION.to_le_bytes());
        put(12, &[kind as u8]);
        put(14, &[0; 2]);
        put(20, &[0; 4]);
        put(24, &base.0.to_le_bytes());
        put(40, uuid);
        put(72, &[0; CRC_AT - 72]);
        let is_right = |bytes: &[u8]| {
            Self::decode(bytes, kind).is_ok_and(|header| header.base == base && header.uuid == *uuid)
        };
        if is_right(&bytes) {
            return Some(bytes);
        }
        // Form, epoch, capacity, salt and time, and the checksum.
        let unknown = (13..14).chain(16..20).chain(32..40).chain(56..72).chain(CRC_AT..SEGMENT_HEADER_LEN);
        for (byte, bit) in unknown.flat_map(|byte| (0..8).map(move |bit| (byte, 1 << bit))) {
            bytes[byte] ^= bit;
            if is_right(&bytes) {
                return Some(bytes);
            }
            bytes[byte] ^= bit;
        }
        None
    }

    /// Reads a header.
    pub(crate) fn decode(bytes: &[u8], expected: SegmentKind) -> Result<Self, Fault> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] = bytes.first_chunk().ok_or(Fault::Truncated)?;
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<8>()? != MAGIC {
            return Err(Fault::Magic);
        }
        let (before_crc, crc) = bytes.split_at(CRC_AT);
        if Cursor::new(crc).u32()? != crc32c::crc32c(before_crc) {
            return Err(Fault::Checksum);
        }
        let _version = cursor.u16()?;
        let minimum_reader = cursor.u16()?;
        if minimum_reader > VERSION {
            return Err(Fault::Version(minimum_reader.into()));
        }
        let kind = cursor.u8()?;
        let form = cursor.u8()?;
        cursor.bytes(2)?;
        let epoch = Epoch(cursor.u32()?);
        cursor.bytes(4)?;
        if kind != expected as u8 {
            return Err(Fault::Foreign);
        }
        if form > u8::from(expected == SegmentKind::Log) {
            return Err(Fault::Unknown("form of a segment"));
        }
        let header = Self {
            kind: expected,
            epoch,
            base: LogPosition(cursor.u64()?),
            capacity: cursor.u64()?,
            uuid: cursor.array()?,
            salt: cursor.u64()?,
            created_ms: cursor.i64()?,
            compacted: form == 1,
        };
        if header.base.0.checked_add(header.capacity).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Fault::Structure("the capacity"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_notices_flipped_bits() {
        let header = SegmentHeader {
            kind: SegmentKind::Log,
            epoch: Epoch(2),
            base: LogPosition(4096),
            capacity: 1 << 20,
            uuid: [7; 16],
            salt: 99,
            created_ms: 1,
            compacted: false,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER_LEN);
        assert_eq!(SegmentHeader::decode(&bytes, SegmentKind::Log), Ok(header));
        assert_eq!(SegmentHeader::decode(&bytes, SegmentKind::Journal), Err(Fault::Foreign));
        assert_eq!(header.file_position(LogPosition(4100)), FilePosition(4100));
        for bit in (0..SEGMENT_HEADER_LEN * 8).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged, SegmentKind::Log).is_err(), "bit {bit}");
        }
    }
}
