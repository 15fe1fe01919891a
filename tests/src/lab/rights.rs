//! The right to make networks: root has it, and anybody else inside a user namespace of its own.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::namespace::Namespace;

/// Whether this process is root, be it in a user namespace.
#[must_use]
pub fn has_them() -> bool {
    rustix::process::geteuid().is_root()
}

/// Starts this program again with the rights if it lacks them and they can be had; returns otherwise. To be called
/// before anything else.
pub fn acquire() -> Result<()> {
    if has_them() || !can_be_had() {
        return Ok(());
    }
    let me = std::env::current_exe().context("asking where this program is")?;
    let error = elevated(&me).args(std::env::args_os().skip(1)).exec();
    Err(error).context("starting unshare (package util-linux)")
}

/// A command that runs `program` as root of a user namespace, and takes everything with it when it ends.
#[must_use]
pub fn elevated(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg("--").arg(program);
    command
}

/// Fails with what to do about it if networks cannot be made.
pub fn check() -> Result<()> {
    let Err(error) = Namespace::new() else { return Ok(()) };
    let setting = |path: &str, bad: &str| {
        let value = std::fs::read_to_string(path).unwrap_or_default();
        (value.trim() == bad).then(|| format!("{path} is {bad}"))
    };
    let reason = [
        setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        setting("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        setting("/proc/sys/user/max_user_namespaces", "0"),
        setting("/proc/sys/user/max_net_namespaces", "0"),
    ]
    .into_iter()
    .flatten()
    .next();
    match reason {
        Some(reason) => bail!("the lab cannot make networks: {reason} (sysctl -w changes it, or run as root)"),
        None => Err(error.context(
            "the lab cannot make networks: run as root, or let unshare(2) through (in a container: --privileged)",
        )),
    }
}

fn can_be_had() -> bool {
    let arguments = ["--user", "--map-root-user", "--net", "true"];
    Command::new("unshare").args(arguments).output().is_ok_and(|output| output.status.success())
}
