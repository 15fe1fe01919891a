//! The real binary over real sockets, driven by clients that know it only by its protocol.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail where it stands")]

mod cluster;
mod future;
mod harness;
mod limits;
mod operators;
mod process;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod refusals;
mod reload;
mod sessions;
mod tls;
mod tokens;
mod traces;
mod transport;
mod web;
