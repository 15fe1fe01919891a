//! DTLS 1.2 for clients that come by datagram (RFC 7350), without I/O and without a clock.
//!
//! A ClientHello is answered with a cookie before anything is remembered, and whoever returns it is where it says it
//! is. From then on `session` has the handshake and the records to a library, and owns what is sent when.

mod cookie;
mod front;
mod hello;
mod session;
#[cfg(test)]
mod tests;

pub use cookie::CookieKey;
pub use front::{Front, Verdict};
pub use hello::{ClientHello, Version};
pub use session::{Outcome, Session, SessionConfig, SessionEnd, certificate};
