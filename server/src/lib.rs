//! Protocols on the outside, `engine` on the inside: the `weir` binary as a library.
//!
//! No delivery decision is made here. What a protocol asks is turned into a call of the engine, and what the
//! engine answers into the words of the protocol.

pub mod accounts;
pub mod cli;
pub mod config;
pub mod context;
pub mod demo;
pub mod flight;
pub mod identity;
pub mod listen;
mod reload;
pub mod rocketmq;
pub mod run;
pub mod status;
