//! Tests of the language: vectors of the exact dialects against the evaluation of this project.

pub mod vectors;
