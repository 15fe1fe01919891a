//! `farcall-signaling` under test.

use std::ffi::OsString;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::clock::{Deadline, PATIENCE};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::{Context, args};

/// A running signaling server.
#[derive(Debug)]
pub struct Signaling {
    /// The program.
    pub process: Process,
    /// Where it serves.
    pub grpc: SocketAddr,
}

impl Signaling {
    /// Starts one on a port that the kernel picks.
    pub fn start(ctx: &Context, host: &Host, extra: &[OsString]) -> Result<Self> {
        Self::listen(ctx, host, "signaling", &host.any_port(), extra)
    }

    /// Starts one in the place of another that has ended: same host, same port. `name` tells their logs apart.
    pub fn restart(ctx: &Context, host: &Host, name: &str, old: &Self, extra: &[OsString]) -> Result<Self> {
        Self::listen(ctx, host, name, &old.grpc.to_string(), extra)
    }

    /// Starts one at `listen`.
    pub fn listen(ctx: &Context, host: &Host, name: &str, listen: &str, extra: &[OsString]) -> Result<Self> {
        let mut args = args!["--listen", listen];
        args.extend_from_slice(extra);
        let process = ctx.spawn(host, name, "farcall-signaling", args)?;
        let grpc = process.wait_for("its ready line", Mark::START, Deadline::after(PATIENCE), |line| {
            serde_json::from_str::<Line>(line).context("not a ready line").map(|line| Some(line.ready.grpc))
        })?;
        Ok(Self { process, grpc })
    }

    /// For `--signaling`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }
}

#[derive(Deserialize)]
struct Line {
    ready: Ready,
}

#[derive(Deserialize)]
struct Ready {
    grpc: SocketAddr,
}
