//! Tests of the language: vectors of the exact dialects against the evaluation of this project; and what the
//! programs that drive real clients share.

pub mod toolchain;
pub mod vectors;
