//! `cargo xtask check`: what can be said about the code without running it.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup;
use crate::shell::Workspace;
use crate::steps::{Steps, Verdict};
use crate::tidy;

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.run("setup", || setup::for_check(workspace));
    add_to(&mut steps, workspace);
    Ok(steps.finish())
}

/// The checks, for whoever has done the setup.
///
/// Warnings become errors through the arguments of clippy and rustdoc, never through `RUSTFLAGS`, which would compile
/// every dependency anew. Both read the same metadata of the dependencies.
pub(crate) fn add_to(steps: &mut Steps, workspace: &Workspace) {
    steps.command("formatting", workspace.cargo(["fmt", "--all", "--check"]));
    steps.command(
        "clippy",
        workspace.cargo(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    );
    let mut doc = workspace.cargo(["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    steps.command("documentation", doc);
    if setup::has_cargo_deny(workspace) {
        let mut deny = workspace.command(workspace.tool("cargo-deny"));
        deny.args(["--log-level", "error", "check", "licenses", "bans", "sources"]);
        steps.command("licences and sources", deny);
    } else {
        steps.run("licences and sources", || {
            Ok(Verdict::CouldNotRun("cargo-deny is missing (cargo xtask setup)".to_owned()))
        });
    }
    steps.run("tidy", || tidy::step(workspace));
}
