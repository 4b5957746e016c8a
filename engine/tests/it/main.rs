//! The engine as its callers see it.

mod delivery;
mod fixture;
