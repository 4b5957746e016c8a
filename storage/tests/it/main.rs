//! Storage from outside: what survives which accident, and what is said about it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod compaction;
mod copies;
mod damage;
mod formats;
mod heal;
mod lives;
mod salvage;
mod support;
mod verify;
