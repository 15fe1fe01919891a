//! A Redis of a scenario's own: on a socket file, with nothing kept on disk.

use std::path::PathBuf;

use anyhow::Result;

use crate::clock::{Deadline, PATIENCE};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::tools::Tool;
use crate::{Context, args};

/// A running server, whose socket goes away with it.
#[derive(Debug)]
pub struct Redis {
    /// The program.
    pub process: Process,
    socket: PathBuf,
}

impl Redis {
    /// Starts one. Where Debian's package runs another, that one is left alone.
    pub fn start(ctx: &Context, host: &Host) -> Result<Self> {
        // Not in the scenario's folder: the path of a socket may be no longer than a hundred bytes.
        let socket = std::env::temp_dir().join(format!("farcall-{:016x}.redis", rand::random::<u64>()));
        let args = args![
            "--port",
            "0",
            "--unixsocket",
            &socket,
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            "/tmp"
        ];
        let process = ctx.spawn_tool(host, "redis", Tool::Redis, args)?;
        process.wait_for("its word that it is ready", Mark::START, Deadline::after(PATIENCE), |line| {
            Ok(line.contains("ready to accept connections").then_some(()))
        })?;
        Ok(Self { process, socket })
    }

    /// For `--backplane`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It fails only if the server took it away itself.
        let _ = std::fs::remove_file(&self.socket);
    }
}
