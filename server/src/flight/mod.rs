//! Arrow Flight and Flight SQL, one file per call.
//!
//! ```text
//! descriptor or ticket ─► ticket.rs: what do the bytes mean?
//!     a path, a pull command, a signed ticket ─► pull.rs
//!     a query, prepared or not, SQL text      ─► query.rs
//!     a question about catalogs, schemas, …   ─► metadata.rs
//! action ─► action.rs ─► query.rs, session.rs, admin.rs; checkpoint.rs
//! every stream of batches ─► encode.rs
//! ```

use std::pin::Pin;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::Stream;
use tonic::{Status, service::interceptor::InterceptedService};

mod action;
mod admin;
mod binding;
mod checkpoint;
pub mod client;
pub mod command;
mod encode;
mod examine;
mod handshake;
mod info;
mod metadata;
mod publish;
mod pull;
mod query;
mod service;
mod session;
mod sql_info;
mod ticket;
mod trace;
mod waiting;

pub use handshake::Gate;
pub use service::{WeirFlight, service};

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// The service as tonic serves it.
pub type Server = InterceptedService<FlightServiceServer<WeirFlight>, Gate>;
