//! Bodies that the broker compresses, one by one. Layout: `docs/format.md`, "Record".

use std::{borrow::Cow, cell::RefCell};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::Fault,
    limits::RECORD_BYTES_MAX,
    message::{BodyEncoding, Message},
};

/// Shorter bodies stay as they are: there is nothing to be had.
const BODY_BYTES_MIN: usize = 64;
/// What saves less than one part in so many stays as it is: each reader would pay for it.
const SAVING_MIN: usize = 8;
/// More than a level of 1 saves a few percent, for twice the time and more.
const ZSTD_LEVEL: i32 = 1;

/// How the broker compresses the bodies of a topic. The discriminants are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Compression {
    /// Not at all: bodies are read where they lie.
    #[default]
    None = 0,
    /// LZ4 in blocks: quick to read.
    Lz4 = 1,
    /// Zstandard: small.
    Zstd = 2,
}

impl Compression {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::None,
            1 => Self::Lz4,
            2 => Self::Zstd,
            _ => return None,
        })
    }

    /// Returns whether bodies stay as they are.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// A body as it is stored in the place of the one that the producer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) compression: Compression,
    /// No longer than needed: it may wait, and counts as its length.
    pub(crate) bytes: Bytes,
    /// The length of the body that the producer sent.
    pub(crate) full_len: usize,
}

thread_local! {
    // What they need is allocated once a thread, not once a message.
    static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses the body of a message, if that is worth it. What the producer has compressed stays as it is.
pub(crate) fn pack(message: &Message, compression: Compression) -> Option<Packed> {
    let body = &message.body;
    if compression.is_none() || message.body_encoding != BodyEncoding::Identity || body.len() < BODY_BYTES_MIN
    {
        return None;
    }
    // No room for more: a body that does not shrink is given up early.
    let max = body.len() - body.len() / SAVING_MIN;
    let mut bytes = vec![0; max];
    let len = match compression {
        Compression::None => return None,
        Compression::Lz4 => {
            let mut whole = vec![0; lz4_flex::block::get_maximum_output_size(body.len())];
            let len = lz4_flex::block::compress_into(body, &mut whole).ok()?;
            bytes = whole;
            len
        }
        Compression::Zstd => PACKER.with_borrow_mut(|packer| {
            if packer.is_none() {
                *packer = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
            }
            packer.as_mut()?.compress_to_buffer(body, bytes.as_mut_slice()).ok()
        })?,
    };
    if len > max {
        return None;
    }
    // A copy: the buffer is as long as the body, and would be kept with what is in it.
    let bytes = bytes.get(..len)?;
    let bytes = Bytes::copy_from_slice(bytes);
    Some(Packed { compression, bytes, full_len: body.len() })
}

/// Returns a body of `len` bytes as the producer sent it. No more than that is ever allocated, whatever `stored` says.
pub(crate) fn unpack(stored: &[u8], compression: Compression, len: u32) -> Result<Cow<'_, [u8]>, Fault> {
    const WRONG: Fault = Fault::Structure("the compressed body");
    if compression.is_none() {
        return Ok(Cow::Borrowed(stored));
    }
    if u64::from(len) > RECORD_BYTES_MAX {
        return Err(Fault::Structure("the length of the body before compression"));
    }
    let mut body = vec![0; len as usize];
    let found = match compression {
        Compression::None => stored.len(),
        Compression::Lz4 => lz4_flex::block::decompress_into(stored, &mut body).map_err(|_| WRONG)?,
        Compression::Zstd => UNPACKER.with_borrow_mut(|unpacker| {
            if unpacker.is_none() {
                *unpacker = zstd::bulk::Decompressor::new().ok();
            }
            let unpacker = unpacker.as_mut().ok_or(WRONG)?;
            unpacker.decompress_to_buffer(stored, body.as_mut_slice()).map_err(|_| WRONG)
        })?,
    };
    if found == body.len() { Ok(Cow::Owned(body)) } else { Err(WRONG) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

    fn packed(body: Vec<u8>, compression: Compression) -> Option<Packed> {
        pack(&Message { body: body.into(), ..Message::default() }, compression)
    }

    fn text(len: usize) -> Vec<u8> {
        b"{\"order\": 5, \"region\": \"EU\"}".iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn bodies_read_back_and_what_is_not_worth_it_stays() {
        for compression in BOTH {
            for len in [BODY_BYTES_MIN, 1000, 200_000, 4 << 20] {
                let packed = packed(text(len), compression).unwrap();
                assert!(packed.bytes.len() <= len * 7 / 8 && packed.compression == compression);
                assert_eq!(packed.full_len, len);
                let read = unpack(&packed.bytes, compression, u32::try_from(len).unwrap()).unwrap();
                assert!(*read == text(len), "{compression:?} {len}");
            }
            assert_eq!(packed(text(BODY_BYTES_MIN - 1), compression), None);
            let mut state = 1_u64;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            };
            assert_eq!(packed((0..5000).map(|_| noise()).collect(), compression), None, "noise");
            let gzip =
                Message { body: text(1000).into(), body_encoding: BodyEncoding::Gzip, ..Message::default() };
            assert_eq!(pack(&gzip, compression), None, "what the producer has compressed");
        }
        assert_eq!(packed(text(1000), Compression::None), None);
        assert!(matches!(unpack(b"as it is", Compression::None, 8), Ok(Cow::Borrowed(b"as it is"))));
    }

    #[test]
    fn what_is_kept_is_no_larger_than_it_says() {
        for compression in BOTH {
            let bytes = packed(text(1 << 20), compression).unwrap().bytes;
            let (len, kept) = (bytes.len(), bytes.try_into_mut().unwrap().capacity());
            assert!(len < 50_000 && kept == len, "{compression:?}: {len} in {kept}");
        }
    }

    #[test]
    fn a_body_that_says_another_length_is_a_fault() {
        for compression in BOTH {
            let packed = packed(text(100_000), compression).unwrap().bytes;
            for len in [0, 1, 99_999, 100_001, 1 << 24, u32::MAX] {
                assert!(unpack(&packed, compression, len).is_err(), "{compression:?} {len}");
            }
            for cut in 0..packed.len() {
                assert!(unpack(&packed[..cut], compression, 100_000).is_err(), "{compression:?} {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_bounded_and_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            len in 0_u32..5000,
            flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..4),
        ) {
            for compression in BOTH {
                let _ = unpack(&bytes, compression, len);
                let mut real = packed(text(3000), compression).unwrap().bytes.to_vec();
                for (at, with) in &flips {
                    let at = at % real.len();
                    real[at] ^= with;
                }
                if let Ok(body) = unpack(&real, compression, 3000) {
                    prop_assert_eq!(body.len(), 3000);
                }
            }
            bytes.clear();
        }
    }
}
