//! `cargo xtask bench`: builds everything for release and takes the measurements of `docs/perf.md`.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::shell::Workspace;
use crate::terminal::heading;

pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    heading("build for release");
    let mut build = workspace.cargo(["build", "--release", "--workspace", "--exclude", "xtask", "--bins"]);
    ensure!(build.status().context("starting cargo")?.success(), "the programs do not build");
    heading("bench");
    let bench = workspace.target().join("release").join("farcall-bench");
    let status = workspace.command(bench).args(args).status().context("starting farcall-bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
