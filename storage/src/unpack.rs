//! Unpacks bodies that producers packed, never to more than was asked for.

use std::io::Read;

/// Returns the content of a gzip or zlib body, told by its first bytes. `None` if it is neither, is cut short,
/// or has more than `bytes_max` bytes: a small body can unpack to a thousand times its size.
pub(crate) fn unpacked(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let taken = (bytes_max as u64).saturating_add(1);
    let read = match packed {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(packed).take(taken).read_to_end(&mut content),
        _ => flate2::read::ZlibDecoder::new(packed).take(taken).read_to_end(&mut content),
    };
    (read.is_ok() && content.len() <= bytes_max).then_some(content)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    #[test]
    fn both_packings_are_unpacked_up_to_a_bound() {
        let content = vec![b'a'; 1 << 20];
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&content).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&content).unwrap();
        for packed in [gzip.finish().unwrap(), zlib.finish().unwrap()] {
            assert_eq!(unpacked(&packed, 1 << 20).as_ref(), Some(&content));
            assert_eq!(unpacked(&packed, (1 << 20) - 1), None);
            assert_eq!(unpacked(&packed[..packed.len() / 2], 1 << 20), None);
        }
        assert_eq!(unpacked(b"", 10), None);
        assert_eq!(unpacked(b"plain text", 10), None);
    }
}
