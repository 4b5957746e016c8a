//! The real binary and the real protocols, as a user meets them: one module per behaviour.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod accounts;
mod checkpoint;
mod cli;
mod flight;
mod rocketmq;
mod trace;
