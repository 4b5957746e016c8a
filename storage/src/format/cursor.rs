//! Reads little-endian numbers and texts off the front of bytes that may be hostile.

use crate::error::Fault;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

macro_rules! number {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&mut self) -> Result<$type, Fault> {
            let (head, rest) = self.0.split_first_chunk().ok_or(Fault::Truncated)?;
            self.0 = rest;
            Ok(<$type>::from_le_bytes(*head))
        }
    };
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    number!(u8, u8);
    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);
    number!(i32, i32);
    number!(i64, i64);

    /// Takes the next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Fault::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    /// Takes a text of `len` bytes.
    pub(crate) fn text(&mut self, len: usize) -> Result<&'a str, Fault> {
        str::from_utf8(self.bytes(len)?).map_err(|_| Fault::Utf8)
    }

    /// Takes a text that follows its length of 32 bits.
    pub(crate) fn text32(&mut self) -> Result<&'a str, Fault> {
        let len = self.u32()? as usize;
        self.text(len)
    }

    /// Takes a count of things of at least `each` bytes; a count that cannot be true is a fault.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Fault> {
        let count = self.u32()? as usize;
        if count.saturating_mul(each) > self.0.len() {
            return Err(Fault::Truncated);
        }
        Ok(count)
    }

    /// Returns what is left.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a text after its length of 32 bits.
pub(crate) fn put_text32(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a count of 32 bits.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("everything that is counted is bounded far below 4 Gi");
    out.extend_from_slice(&count.to_le_bytes());
}
