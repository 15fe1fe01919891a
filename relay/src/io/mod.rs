//! Sockets, batches and workers: the only system calls.
//!
//! Every worker is a thread with its own listening sockets (`SO_REUSEPORT`), its own state machine, routes, relay
//! sockets and stream clients. The kernel sends a client's datagrams to one worker only, and a stream stays with the
//! worker that accepted it, so nothing is shared where datagrams are handled.

mod alarm;
mod backlog;
mod batch;
mod carrier;
mod command;
mod connections;
mod dtls;
mod engine;
mod exchange;
mod handover;
#[expect(unsafe_code, reason = "system calls that no safe crate offers")]
mod linux;
mod listeners;
mod outbox;
mod parcels;
mod portable;
mod ready;
mod relays;
mod secure_listeners;
mod sending;
mod splice;
mod streams;
mod succession;
mod tcp_relay;
mod token;
mod worker;

pub use batch::{Arrival, Batch, Plane, Readiness};
pub use command::{Command, Count, Listed, Traffic, Wanted, Whose};
pub use dtls::DtlsParts;
pub use exchange::Exchange;
pub use handover::Handover;
pub use listeners::{BindError, Buffers, Listeners};
pub use outbox::{Envelope, Outbox, Outcome, Purpose};
pub use secure_listeners::SecureListeners;
pub use succession::{Frozen, Step, WorkerState};
pub use worker::{SecureParts, Worker, WorkerHandle, WorkerParts};
