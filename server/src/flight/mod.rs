//! Arrow Flight and Flight SQL, one file per call.

pub mod client;
pub mod command;
