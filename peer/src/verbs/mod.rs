//! What the program can do, each on the library's face.

pub mod bench;
pub mod call;
pub mod candidates;
mod commands;
pub mod doctor;
pub mod echo;
mod files;
pub mod forward;
mod hold;
pub mod identity;
pub mod manual;
mod meeting;
pub mod nat;
pub mod pipe;
pub mod receive;
pub mod send;
mod session;

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Reason};

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let failure = |error: io::Error| Failure::new(Reason::Internal, error.to_string());
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failure)?,
            terminate: signal(SignalKind::terminate()).map_err(failure)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
