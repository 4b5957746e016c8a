//! The commit log: who writes it, who makes it durable, who reads it.

pub(crate) mod appender;
pub(crate) mod compact;
pub(crate) mod fences;
pub(crate) mod flusher;
pub(crate) mod reader;
pub(crate) mod salvage;
pub(crate) mod segment;
pub(crate) mod walk;
