//! The one hash whose values are stored or promised: Bloom filters, hashed keys, choice of a queue.
//!
//! FNV-1a over 64 bits with the finaliser of SplitMix64, so that short keys that differ in one bit
//! spread over all bits. Its values are part of the storage format and must never change.

/// Returns the stored 64-bit hash of `bytes`.
pub fn hash64(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Returns the stored 32-bit hash of `bytes`: the upper half of [`hash64`].
pub fn hash32(bytes: &[u8]) -> u32 {
    (hash64(bytes) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values lie on disks; a change would make old Bloom filters lie.
    #[test]
    fn hashes_never_change() {
        assert_eq!(hash64(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash64(b"orders"), hash64(b"orders"));
        assert_ne!(hash64(b"a"), hash64(b"b"));
    }
}
