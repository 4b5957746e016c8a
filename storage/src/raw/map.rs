//! Files that have had their last write, mapped into memory.

use std::{fs::File, io};

use arrow_buffer::Buffer;
use bytes::Bytes;
use memmap2::Mmap;

/// Maps a file that has had its last write. The bytes begin on a page, so that Arrow reads them in place.
///
/// The caller promises that nobody writes to the file any more and that it is never truncated: files
/// are written under a temporary name, synced, renamed and later only unlinked, which leaves maps whole.
pub(crate) fn map(file: &File) -> io::Result<Buffer> {
    if file.metadata()?.len() == 0 {
        // There is no map without bytes.
        return Ok(Buffer::default());
    }
    // SAFETY: the bytes under the map must not change. Callers map only what is past its last write, and
    // docs/format.md ("Assumptions") asks operators to keep other programs away from the files.
    #[expect(unsafe_code, reason = "the compiler cannot see who else writes to a file")]
    let map = unsafe { Mmap::map(file)? };
    Ok(Buffer::from(Bytes::from_owner(map)))
}
