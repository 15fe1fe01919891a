//! `cargo xtask lab NAT-A NAT-B`: a network lab for a person to play with.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::e2e;
use crate::shell::Workspace;

pub(crate) fn run(workspace: &Workspace, words: &[String]) -> Result<ExitCode> {
    e2e::build(workspace)?;
    // It takes our place, so that Ctrl-C reaches the one who knows how to end everything.
    let error = workspace.command(workspace.program("farcall-lab")).args(words).exec();
    Err(error).context("starting farcall-lab")
}
