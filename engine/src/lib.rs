//! Topics, consumer groups, delivery, batch pull and SQL tables: the broker without its wire.
//!
//! Usable in-process: see `examples/`. No protobuf, HTTP or command line in here.

mod error;
pub mod limits;
mod name;

pub use error::{EngineError, HandleFault, LimitKind};
pub use name::{GroupName, NameError, TopicName};
