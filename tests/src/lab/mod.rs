//! The network lab: hosts, routers, translators and cables made of network namespaces, for programs that are to meet
//! across them.
//!
//! ```text
//!   host ── lan ─ Router ─ wan ── Internet ── wan ─ Router ─ lan ── host
//!                                    │
//!                                 servers
//! ```
//!
//! Nothing here has a name outside of this process: a lab is held by file descriptors, so any number of them can run
//! side by side, and the kernel takes one away with the process that made it, however that ends. It needs the right to
//! make network namespaces, which [`rights`] gets or explains.

pub mod cable;
pub mod internet;
pub mod namespace;
pub mod nat;
pub mod probe;
pub mod rights;
pub mod router;

pub use cable::Cable;
pub use internet::{Internet, Witness};
pub use namespace::Namespace;
pub use nat::Nat;
pub use router::Router;

#[cfg(test)]
mod tests;
