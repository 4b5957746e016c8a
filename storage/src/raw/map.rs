//! Files that have had their last write, mapped into memory.

use std::{fs::File, io, ops::Range, sync::LazyLock};

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

/// The size of a page of memory.
static PAGE: LazyLock<usize> = LazyLock::new(|| {
    // SAFETY: this only asks for a number.
    #[expect(unsafe_code, reason = "the standard library does not tell")]
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
});

/// Asks the system to read the bytes of a map, unless they are in memory, and does not wait for it.
///
/// Only a hint: what is not read ahead is read when it is touched. Then the system reads what lies around as well,
/// up to megabytes, which costs more than a few columns of a few blocks.
pub(crate) fn will_need(bytes: &[u8]) {
    if is_resident(bytes) {
        return;
    }
    let pages = pages(bytes);
    // SAFETY: the range is that of a live slice, made larger to whole pages, which are mapped as a whole. The
    // advice changes no bytes.
    #[expect(unsafe_code, reason = "advice is given by address")]
    let result = unsafe {
        let start = std::ptr::with_exposed_provenance_mut(pages.start);
        libc::madvise(start, pages.len(), libc::MADV_WILLNEED)
    };
    // Memory without a file, as in tests, cannot be read ahead.
    let _ = result;
}

/// Returns whether all bytes of a map are in memory. Where the system does not tell, it says yes.
fn is_resident(bytes: &[u8]) -> bool {
    /// Pages that are asked about at once.
    const AT_ONCE: usize = 64;
    if bytes.is_empty() {
        return true;
    }
    let pages = pages(bytes);
    pages.clone().step_by(AT_ONCE * *PAGE).all(|start| {
        let len = (pages.end - start).min(AT_ONCE * *PAGE);
        let mut in_memory = [1_u8; AT_ONCE];
        // SAFETY: pages of a live slice are asked about, and for each there is a byte for the answer.
        #[expect(unsafe_code, reason = "the standard library has no such call")]
        let result = unsafe {
            libc::mincore(std::ptr::with_exposed_provenance_mut(start), len, in_memory.as_mut_ptr())
        };
        result != 0 || in_memory[..len / *PAGE].iter().all(|page| page & 1 != 0)
    })
}

/// The addresses of the pages that `bytes` lie in.
fn pages(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().expose_provenance();
    start - start % *PAGE..(start + bytes.len()).next_multiple_of(*PAGE)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_read_ahead_is_in_memory() {
        // Not in memory alone, as the temporary directory may be.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 64 * *PAGE]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let bytes = map(&file).unwrap();
        let place = &bytes[40 * *PAGE + 5..50 * *PAGE];
        let was_resident = is_resident(place);
        will_need(place);
        assert!(place.iter().all(|byte| *byte == 7));
        assert!(is_resident(place));
        // Some file systems keep all in memory.
        println!("before it was read it was in memory: {was_resident}");
        will_need(&[]);
        assert!(is_resident(&[]) && is_resident(&[1]));
    }
}
