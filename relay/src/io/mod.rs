//! Sockets, batches and workers: the only system calls.
//!
//! Every worker is a thread with its own listening sockets (`SO_REUSEPORT`), its own state machine, routes, relay
//! sockets and stream clients. The kernel sends a client's datagrams to one worker only, and a stream stays with the
//! worker that accepted it, so nothing is shared where datagrams are handled.

mod backlog;
mod engine;
mod listeners;
mod portable;
mod relays;
mod streams;
mod token;
mod worker;

pub use listeners::{BindError, Listeners};
pub use worker::{Worker, WorkerHandle, WorkerParts};
