//! `cargo xtask up`: signaling and relay on this machine, until Ctrl-C.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::e2e;
use crate::shell::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    e2e::build(workspace)?;
    // It takes our place, so that Ctrl-C reaches the one who knows how to end the two.
    let error = workspace.command(workspace.program("farcall-up")).exec();
    Err(error).context("starting farcall-up")
}
