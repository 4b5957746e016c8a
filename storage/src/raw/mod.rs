//! The only module with `unsafe`: files become bytes, and checked bytes become Arrow arrays.

pub(crate) mod arrays;
pub(crate) mod map;
