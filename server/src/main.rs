//! Starts the command line.

use std::process::ExitCode;

/// A message is made on one thread and freed on another, a hundred thousand times a second and more; the allocator of the
/// C library takes a lock for each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weir_server::cli::run()
}
