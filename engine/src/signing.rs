//! Signatures by which the broker knows its own receipt handles and tickets again, also after a restart.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a signature: half of HMAC-SHA256, which nobody guesses.
const TAG_LEN: usize = 16;

/// Signs with the key of the data directory.
pub(crate) struct Signer {
    /// Has taken the key, which is half of the work for bytes as few as those of a handle.
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { keyed: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length") }
    }

    /// Returns `bytes` and their tag, which is good for `purpose` alone.
    pub(crate) fn sign(&self, purpose: &str, bytes: &[u8]) -> Vec<u8> {
        let tag = self.mac(purpose, bytes).finalize().into_bytes();
        [bytes, tag.get(..TAG_LEN).unwrap_or_default()].concat()
    }

    /// Returns the bytes that were signed, or `None` if they or the tag are not ours. Takes constant time.
    pub(crate) fn verify<'a>(&self, purpose: &str, signed: &'a [u8]) -> Option<&'a [u8]> {
        let (bytes, tag) = signed.split_at_checked(signed.len().checked_sub(TAG_LEN)?)?;
        self.mac(purpose, bytes).verify_truncated_left(tag).ok()?;
        Some(bytes)
    }

    /// Returns the tag alone.
    pub(crate) fn tag(&self, purpose: &str, bytes: &[u8]) -> [u8; TAG_LEN] {
        let tag = self.mac(purpose, bytes).finalize().into_bytes();
        std::array::from_fn(|at| tag[at])
    }

    /// Returns whether this is the tag of `bytes`. Takes constant time.
    pub(crate) fn is_tag_of(&self, purpose: &str, bytes: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        self.mac(purpose, bytes).verify_truncated_left(tag).is_ok()
    }

    fn mac(&self, purpose: &str, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        // The length in front keeps apart what a longer purpose and shorter bytes would make equal.
        mac.update(&(purpose.len() as u64).to_le_bytes());
        mac.update(purpose.as_bytes());
        mac.update(bytes);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_for_the_purpose_is_verified() {
        let signer = Signer::new([7; 32]);
        let signed = signer.sign("ticket", b"abc");
        assert_eq!(signer.verify("ticket", &signed), Some(b"abc".as_slice()));
        assert_eq!(signer.verify("handle", &signed), None);
        assert_eq!(Signer::new([8; 32]).verify("ticket", &signed), None);
        for at in 0..signed.len() {
            let mut damaged = signed.clone();
            damaged[at] ^= 1;
            assert_eq!(signer.verify("ticket", &damaged), None, "byte {at}");
            assert_eq!(signer.verify("ticket", &signed[..at]), None, "{at} bytes");
        }
    }
}
