//! A frame: what one group commit writes. Layout: `docs/format.md`, "Frame".

use crate::{
    error::Fault,
    format::cursor::Cursor,
    limits::FRAME_PAYLOAD_MAX,
    offset::{Epoch, LogPosition},
};

/// Length of a frame's header.
pub(crate) const FRAME_HEADER_LEN: usize = 64;
/// Frames and records begin on this boundary.
pub(crate) const FRAME_ALIGNMENT: usize = 8;
const MAGIC: [u8; 4] = *b"WFRM";
const VERSION: u8 = 1;
const CRC_AT: usize = 60;

/// What a frame holds. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Records of the commit log.
    Records = 1,
    /// Nothing: its segment ends here, and the next begins where this frame ends.
    Seal = 2,
    /// Entries of the group journal.
    Journal = 3,
    /// Entries of the catalogue.
    Catalogue = 4,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Records,
            2 => Self::Seal,
            3 => Self::Journal,
            4 => Self::Catalogue,
            _ => return None,
        })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) epoch: Epoch,
    /// How many records or entries the payload has.
    pub(crate) records: u32,
    /// Where the frame begins, logically: a frame that was written elsewhere is no frame here.
    pub(crate) position: LogPosition,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    /// The durable end when this frame was written.
    pub(crate) durable: LogPosition,
    /// The latest store time in the payload.
    pub(crate) store_time_ms: i64,
    /// Of a frame of the journal: the durable end of the log when it was written.
    pub(crate) log_durable: LogPosition,
}

impl FrameHeader {
    /// Returns the length of the whole frame with its padding.
    pub(crate) const fn frame_len(&self) -> u64 {
        (FRAME_HEADER_LEN as u64 + self.payload_len as u64).next_multiple_of(FRAME_ALIGNMENT as u64)
    }

    /// Returns where the next frame begins.
    pub(crate) const fn end(&self) -> LogPosition {
        LogPosition(self.position.0 + self.frame_len())
    }

    /// Returns the bytes of the header. `salt` is that of the segment.
    pub(crate) fn encode(&self, salt: u64) -> [u8; FRAME_HEADER_LEN] {
        let mut out = Vec::with_capacity(FRAME_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(self.kind as u8);
        out.extend_from_slice(&(FRAME_HEADER_LEN as u16).to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.position.0.to_le_bytes());
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&self.durable.0.to_le_bytes());
        out.extend_from_slice(&self.store_time_ms.to_le_bytes());
        out.extend_from_slice(&self.log_durable.0.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = header_crc(&out, salt);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the fields above fill 60 bytes, the checksum the last four")
    }

    /// Reads the header of the frame at `position`.
    pub(crate) fn decode(bytes: &[u8], salt: u64, position: LogPosition) -> Result<Self, Fault> {
        let bytes: &[u8; FRAME_HEADER_LEN] = bytes.first_chunk().ok_or(Fault::Truncated)?;
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<4>()? != MAGIC {
            return Err(Fault::Magic);
        }
        let (before_crc, crc) = bytes.split_at(CRC_AT);
        if Cursor::new(crc).u32()? != header_crc(before_crc, salt) {
            return Err(Fault::Checksum);
        }
        let version = cursor.u8()?;
        if version != VERSION {
            return Err(Fault::Version(version.into()));
        }
        let kind = FrameKind::from_byte(cursor.u8()?).ok_or(Fault::Unknown("kind of frame"))?;
        if usize::from(cursor.u16()?) != FRAME_HEADER_LEN {
            return Err(Fault::Structure("the header's length"));
        }
        let header = Self {
            kind,
            epoch: Epoch(cursor.u32()?),
            records: cursor.u32()?,
            position: LogPosition(cursor.u64()?),
            payload_len: cursor.u32()?,
            payload_crc: cursor.u32()?,
            durable: LogPosition(cursor.u64()?),
            store_time_ms: cursor.i64()?,
            log_durable: LogPosition(cursor.u64()?),
        };
        if header.position != position {
            return Err(Fault::Foreign);
        }
        if u64::from(header.payload_len) > FRAME_PAYLOAD_MAX {
            return Err(Fault::Structure("the payload's length"));
        }
        Ok(header)
    }

    /// Checks the payload.
    pub(crate) fn verify(&self, payload: &[u8], salt: u64) -> Result<(), Fault> {
        if payload.len() != self.payload_len as usize {
            return Err(Fault::Truncated);
        }
        if payload_crc(payload, salt, self.epoch, self.position) != self.payload_crc {
            return Err(Fault::Checksum);
        }
        Ok(())
    }
}

/// Puts the header in front of a payload. `frame` is a header's length of anything, then the payload.
pub(crate) fn finish_frame(
    frame: &mut Vec<u8>,
    kind: FrameKind,
    epoch: Epoch,
    records: u32,
    place: FramePlace,
    store_time_ms: i64,
) -> FrameHeader {
    let payload = frame.get(FRAME_HEADER_LEN..).expect("a frame begins with room for its header");
    let payload_len = u32::try_from(payload.len()).expect("a payload is bounded by FRAME_PAYLOAD_MAX");
    let header = FrameHeader {
        kind,
        epoch,
        records,
        position: place.position,
        payload_len,
        payload_crc: payload_crc(payload, place.salt, epoch, place.position),
        durable: place.durable,
        store_time_ms,
        log_durable: place.log_durable,
    };
    let len = usize::try_from(header.frame_len()).expect("a payload is bounded by FRAME_PAYLOAD_MAX");
    frame.resize(len, 0);
    let (head, _) = frame.split_at_mut(FRAME_HEADER_LEN);
    head.copy_from_slice(&header.encode(place.salt));
    header
}

/// Where a frame is about to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramePlace {
    /// The salt of the segment.
    pub(crate) salt: u64,
    /// Where the frame begins.
    pub(crate) position: LogPosition,
    /// The durable end now.
    pub(crate) durable: LogPosition,
    /// In the journal: the durable end of the log now; else 0.
    pub(crate) log_durable: LogPosition,
}

/// Whether a frame may begin here: a quick look before its checksum is computed.
pub(crate) fn may_be_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn header_crc(before_crc: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), before_crc)
}

/// The salt keeps clients from putting a valid frame into a body: recovery would meet it after a tear.
fn payload_crc(payload: &[u8], salt: u64, epoch: Epoch, position: LogPosition) -> u32 {
    let mut crc = crc32c::crc32c(&salt.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &epoch.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &position.0.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn sample() -> (Vec<u8>, FrameHeader) {
        let mut frame = vec![0; FRAME_HEADER_LEN];
        frame.extend_from_slice(b"thirteen byte");
        let place = FramePlace {
            salt: SALT,
            position: LogPosition(640),
            durable: LogPosition(128),
            log_durable: LogPosition(77),
        };
        let header = finish_frame(&mut frame, FrameKind::Journal, Epoch(3), 2, place, 77);
        (frame, header)
    }

    #[test]
    fn a_frame_reads_back_and_is_padded() {
        let (frame, header) = sample();
        assert_eq!(frame.len(), 80);
        assert_eq!(FrameHeader::decode(&frame, SALT, LogPosition(640)), Ok(header));
        assert_eq!(header.end(), LogPosition(720));
        assert_eq!(header.verify(&frame[64..77], SALT), Ok(()));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let (frame, _) = sample();
        for bit in 0..77 * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = FrameHeader::decode(&damaged, SALT, LogPosition(640));
            let verified = read.and_then(|header| header.verify(&damaged[64..77], SALT));
            assert!(verified.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_elsewhere_or_of_another_segment_is_none() {
        let (frame, header) = sample();
        assert_eq!(FrameHeader::decode(&frame, SALT, LogPosition(648)), Err(Fault::Foreign));
        assert_eq!(FrameHeader::decode(&frame, SALT + 1, LogPosition(640)), Err(Fault::Checksum));
        assert_eq!(header.verify(&frame[64..77], SALT + 1), Err(Fault::Checksum));
    }
}
