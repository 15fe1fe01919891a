//! The real binary over real sockets, driven by clients that know it only by its protocol.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail where it stands")]

mod future;
mod harness;
mod process;
mod refusals;
mod sessions;
mod transport;
mod web;
