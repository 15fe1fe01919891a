//! A new process goes on where an old one stops, and no call notices.
//!
//! The new one connects to the old one's socket, gets its listening sockets, and makes ready. Then the old one's workers
//! stand still, and the new one gets their relay sockets and their state. When it has it all, the old one says "released",
//! and that is the one moment of decision. Before it, whatever goes wrong, the old one goes on as if nothing had
//! happened; after it, the old one never reads from those sockets again. What arrives meanwhile waits in them: they are
//! the same ones all the time.

mod give;
mod take;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use give::{Giver, serve};
pub use take::{Taking, Unready};

use crate::auth::NonceSecret;
use crate::io::WorkerState;
use crate::turn::HandleSecret;

/// What the new process says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
}

/// What the old one answers. Behind it come the descriptors: of each worker UDP, TCP, TLS and DTLS in turn, then the
/// others.
#[derive(Debug, Serialize, Deserialize)]
enum Offer {
    /// Another version, or nothing to give.
    Refused(String),
    /// All of this.
    Made(Box<Offered>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    /// Listening sockets of one worker: so many by UDP, TCP, TLS and DTLS.
    counts: [u16; 4],
    workers: u16,
    /// Addresses of behaviour discovery.
    pairs: Vec<(SocketAddr, SocketAddr)>,
    nonces: NonceSecret,
    handles: HandleSecret,
    /// Sockets for metrics, the operator, and the next upgrade.
    others: Vec<String>,
}

/// The new process is ready to take over.
#[derive(Debug, Serialize, Deserialize)]
struct Freeze;

/// What the old one then says. Behind it come the relay sockets, worker by worker.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    next_serial: u64,
    workers: Vec<WorkerState>,
}

/// The new process has it all.
#[derive(Debug, Serialize, Deserialize)]
struct Taken;

/// The old one has let go.
#[derive(Debug, Serialize, Deserialize)]
struct Released;

/// Changes with every change to what is said here, and to what a snapshot says.
const VERSION: u32 = 1;
/// For all that the other process has to do while nobody is served.
const STANDSTILL_TIMEOUT: Duration = Duration::from_secs(5);
/// For the other one to say what it has to say while the old one serves.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// For the new one to make ready, while the old one serves.
const PREPARATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a message that says little.
const SHORT: u32 = 1 << 10;
/// Of an offer.
const MEDIUM: u32 = 1 << 16;
/// Of a state: some kilobytes for every port there is.
const LONG: u32 = 1 << 30;
