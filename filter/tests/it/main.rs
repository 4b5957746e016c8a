//! The behaviour of selectors, a module per question.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod documentation;
mod exact;
mod exact_random;
mod fuzz;
mod grammar;
mod hostile;
mod index;
mod lead;
mod malformed;
mod pruning;
mod random;
mod truth;
