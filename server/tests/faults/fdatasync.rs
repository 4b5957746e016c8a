//! A library to preload: `fdatasync` fails with EIO while the file that `$FAIL_SYNC` names exists.

use std::ffi::{c_char, c_int, c_long};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn syscall(number: c_long, ...) -> c_long;
}

const EIO: c_int = 5;
const SYS_FDATASYNC: c_long = if cfg!(target_arch = "x86_64") { 75 } else { 83 };

/// Stands in for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: the C library's own functions, with strings that end in a zero.
    unsafe {
        let path = getenv(c"FAIL_SYNC".as_ptr());
        if !path.is_null() && access(path, 0) == 0 {
            *__errno_location() = EIO;
            return -1;
        }
        syscall(SYS_FDATASYNC, file) as c_int
    }
}
