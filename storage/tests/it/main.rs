//! Storage from outside: what survives which accident, and what is said about it.

mod bad_input;
mod damage;
mod lives;
mod support;
