//! The checkpoint file: from where a start reads the log. Layout: `docs/format.md`, "Checkpoint".

use std::ops::Range;

use crate::{
    error::Fault,
    format::cursor::{Cursor, put_count},
    offset::{Epoch, LogPosition},
};

const MAGIC: [u8; 8] = *b"WEIRCKPT";
const VERSION: u16 = 1;
const CRC_LEN: usize = 4;
const FENCE_LEN: usize = 16;

/// What the checkpoint file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: Epoch,
    /// The broker stopped in good order: log and journal end exactly where this says.
    pub(crate) clean: bool,
    /// The consume queues hold every row below; a start reads the log from here.
    pub(crate) log: LogPosition,
    /// The durable end of the log.
    pub(crate) durable: LogPosition,
    /// The durable end of the group journal.
    pub(crate) journal: LogPosition,
    /// The durable end of the catalogue.
    pub(crate) catalogue: LogPosition,
    /// How long the last files of log, journal and catalogue were. They stay so if `clean`.
    pub(crate) file_lens: [u64; 3],
    /// No message was stored later than this.
    pub(crate) store_time_ms: i64,
    /// Damaged ranges of the log that have been reported.
    pub(crate) fences: Vec<Range<LogPosition>>,
    /// What the consume queues need to open their files.
    pub(crate) queues: Vec<u8>,
}

impl Checkpoint {
    /// Returns the bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.queues.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.clean).to_le_bytes());
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        put_count(&mut out, self.fences.len());
        out.extend_from_slice(&self.log.0.to_le_bytes());
        out.extend_from_slice(&self.durable.0.to_le_bytes());
        out.extend_from_slice(&self.journal.0.to_le_bytes());
        out.extend_from_slice(&self.catalogue.0.to_le_bytes());
        for len in self.file_lens {
            out.extend_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&self.store_time_ms.to_le_bytes());
        for fence in &self.fences {
            out.extend_from_slice(&fence.start.0.to_le_bytes());
            out.extend_from_slice(&fence.end.0.to_le_bytes());
        }
        out.extend_from_slice(&(self.queues.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.queues);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let split = bytes.len().checked_sub(CRC_LEN).ok_or(Fault::Truncated)?;
        let (before_crc, crc) = bytes.split_at(split);
        let mut cursor = Cursor::new(before_crc);
        if cursor.array::<8>()? != MAGIC {
            return Err(Fault::Magic);
        }
        if Cursor::new(crc).u32()? != crc32c::crc32c(before_crc) {
            return Err(Fault::Checksum);
        }
        cursor.u16()?;
        let minimum_reader = cursor.u16()?;
        if minimum_reader > VERSION {
            return Err(Fault::Version(minimum_reader.into()));
        }
        let clean = cursor.u32()? & 1 == 1;
        let uuid = cursor.array()?;
        let epoch = Epoch(cursor.u32()?);
        let fences_len = cursor.u32()? as usize;
        let log = LogPosition(cursor.u64()?);
        let durable = LogPosition(cursor.u64()?);
        let journal = LogPosition(cursor.u64()?);
        let catalogue = LogPosition(cursor.u64()?);
        let file_lens = [cursor.u64()?, cursor.u64()?, cursor.u64()?];
        let store_time_ms = cursor.i64()?;
        if fences_len > cursor.rest().len() / FENCE_LEN {
            return Err(Fault::Truncated);
        }
        let mut fences = Vec::with_capacity(fences_len);
        for _ in 0..fences_len {
            fences.push(LogPosition(cursor.u64()?)..LogPosition(cursor.u64()?));
        }
        let queues_len = usize::try_from(cursor.u64()?).map_err(|_| Fault::Truncated)?;
        let queues = cursor.bytes(queues_len)?.to_vec();
        if !cursor.is_empty() {
            return Err(Fault::Structure("the file's length"));
        }
        Ok(Self {
            uuid,
            epoch,
            clean,
            log,
            durable,
            journal,
            catalogue,
            file_lens,
            store_time_ms,
            fences,
            queues,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_notices_damage() {
        let checkpoint = Checkpoint {
            uuid: [1; 16],
            epoch: Epoch(2),
            clean: true,
            log: LogPosition(3),
            durable: LogPosition(4),
            journal: LogPosition(5),
            catalogue: LogPosition(8),
            file_lens: [9, 10, 11],
            store_time_ms: 6,
            fences: vec![LogPosition(1)..LogPosition(2)],
            queues: vec![7; 9],
        };
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&damaged).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
