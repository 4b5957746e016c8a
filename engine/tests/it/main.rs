//! The engine as its callers see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agreement;
mod catalogue;
mod checker;
mod compression;
mod crash;
mod delivery;
mod examine;
mod fixture;
mod lite;
mod lite_wildcard;
mod live;
mod members;
mod order;
mod pending;
mod pending_crash;
mod pull;
mod pull_messages;
mod selectors;
mod sql;
mod trace;
mod types;
mod waiting;
