//! Starts the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_server::cli::run()
}
