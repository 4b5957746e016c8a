//! What a compacted segment of the log has behind its records: a directory of runs, and a tail. Layout:
//! `docs/format.md`, "Compacted segment".

use crate::{error::Fault, format::cursor::Cursor, offset::LogPosition};

/// Length of a run's entry in the directory.
pub(crate) const RUN_ENTRY_LEN: usize = 16;
/// Length of the tail.
pub(crate) const COMPACTED_TAIL_LEN: usize = 64;
/// A run is no longer than this, unless it is a single record.
pub(crate) const RUN_BYTES_MAX: u64 = 1 << 20;
const MAGIC: [u8; 8] = *b"WEIRCOMP";
const CRC_AT: usize = 52;

/// The last bytes of a compacted segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactedTail {
    /// Where in the file the directory begins, and the last run ends.
    pub(crate) directory_at: u64,
    pub(crate) runs: u64,
    /// Where the segment ends, logically.
    pub(crate) end: LogPosition,
    /// The latest store time of a record that the segment ever had.
    pub(crate) store_time_ms: i64,
    /// Over the directory.
    pub(crate) directory_crc: u32,
}

/// Records that follow each other without a gap, in the log and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) position: LogPosition,
    /// Where in the file they begin.
    pub(crate) at: u64,
}

impl CompactedTail {
    pub(crate) fn encode(&self) -> [u8; COMPACTED_TAIL_LEN] {
        let mut out = Vec::with_capacity(COMPACTED_TAIL_LEN);
        out.extend_from_slice(&self.directory_at.to_le_bytes());
        out.extend_from_slice(&self.runs.to_le_bytes());
        out.extend_from_slice(&self.end.0.to_le_bytes());
        out.extend_from_slice(&self.store_time_ms.to_le_bytes());
        out.extend_from_slice(&self.directory_crc.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.try_into().expect("these are 64 bytes")
    }

    /// Reads the tail of a file that is `file_len` bytes long and whose runs begin at `first`.
    pub(crate) fn decode(bytes: &[u8; COMPACTED_TAIL_LEN], first: u64, file_len: u64) -> Result<Self, Fault> {
        let (before_crc, rest) = bytes.split_at(CRC_AT);
        let mut rest = Cursor::new(rest);
        let crc = rest.u32()?;
        if rest.array::<8>()? != MAGIC {
            return Err(Fault::Magic);
        }
        if crc != crc32c::crc32c(before_crc) {
            return Err(Fault::Checksum);
        }
        let mut cursor = Cursor::new(before_crc);
        let tail = Self {
            directory_at: cursor.u64()?,
            runs: cursor.u64()?,
            end: LogPosition(cursor.u64()?),
            store_time_ms: cursor.i64()?,
            directory_crc: cursor.u32()?,
        };
        let directory_len = tail.runs.checked_mul(RUN_ENTRY_LEN as u64);
        let end = directory_len
            .and_then(|len| tail.directory_at.checked_add(len))
            .and_then(|end| end.checked_add(COMPACTED_TAIL_LEN as u64));
        if tail.directory_at < first || end != Some(file_len) {
            return Err(Fault::Structure("the place of the directory"));
        }
        Ok(tail)
    }
}

impl RunEntry {
    pub(crate) fn encode(self) -> [u8; RUN_ENTRY_LEN] {
        let mut bytes = [0; RUN_ENTRY_LEN];
        bytes[..8].copy_from_slice(&self.position.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    /// Returns entry `number` of a directory, if it has one.
    pub(crate) fn of(directory: &[u8], number: usize) -> Option<Self> {
        let mut cursor = Cursor::new(directory.get(number.checked_mul(RUN_ENTRY_LEN)?..)?);
        Some(Self { position: LogPosition(cursor.u64().ok()?), at: cursor.u64().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_reads_back_and_notices_damage() {
        let tail = CompactedTail {
            directory_at: 5000,
            runs: 2,
            end: LogPosition(9000),
            store_time_ms: 7,
            directory_crc: 8,
        };
        let bytes = tail.encode();
        let len = 5000 + 32 + 64;
        assert_eq!(CompactedTail::decode(&bytes, 4096, len), Ok(tail));
        assert!(CompactedTail::decode(&bytes, 4096, len + 1).is_err());
        assert!(CompactedTail::decode(&bytes, 5001, len).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(CompactedTail::decode(&damaged, 4096, len).is_err(), "bit {bit}");
        }
    }
}
