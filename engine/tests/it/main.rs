//! The engine as its callers see it.

mod catalogue;
mod crash;
mod delivery;
mod fixture;
mod selectors;
