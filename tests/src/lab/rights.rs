//! The right to make networks: root has it, and anybody else inside a user namespace of its own.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow};

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

/// Starts this program again as the first process of a process namespace, with the rights if it lacks them; returns once
/// it is there. The kernel ends all that is inside with it, however it ends. To be called before anything else.
pub fn enclose() -> Result<()> {
    if outer_process().is_ok() {
        return Ok(());
    }
    if !has_them() && !can_be_had() {
        return Err(refusal().unwrap_or_else(|| anyhow!(NO_REASON)));
    }
    let me = std::env::current_exe().context("asking where this program is")?;
    let mut command = Command::new("unshare");
    if !has_them() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(me);
    command.args(std::env::args_os().skip(1));
    // It goes on as this very process.
    command.env(OUTSIDE, std::process::id().to_string());
    command.env(IN_USER_NAMESPACE, if has_them() { "0" } else { "1" });
    Err(command.exec()).context("starting unshare (package util-linux)")
}

/// Outside, the process whose child is the first one inside.
pub fn outer_process() -> Result<u32> {
    let process = std::env::var(OUTSIDE).context("not in a process namespace of its own")?;
    process.parse().with_context(|| format!("{OUTSIDE} is {process}"))
}

/// Whether the rights are those of a user namespace.
#[must_use]
pub fn in_user_namespace() -> bool {
    std::env::var(IN_USER_NAMESPACE).is_ok_and(|word| word == "1")
}

const OUTSIDE: &str = "FARCALL_LAB_OUTSIDE";
const IN_USER_NAMESPACE: &str = "FARCALL_LAB_USER_NAMESPACE";

/// Fails with what to do about it if networks cannot be made.
pub fn check() -> Result<()> {
    let Err(error) = Namespace::new() else { return Ok(()) };
    Err(refusal().unwrap_or_else(|| error.context(NO_REASON)))
}

/// The setting that is in the way, if there is one.
fn refusal() -> Option<Error> {
    let setting = |path: &str, bad: &str| {
        let value = std::fs::read_to_string(path).unwrap_or_default();
        let name = path.trim_start_matches("/proc/sys/").replace('/', ".");
        let good = if bad == "1" {
            "0"
        } else if path.contains("max_") {
            "10000"
        } else {
            "1"
        };
        let command = format!("sysctl -w {name}={good}");
        (value.trim() == bad).then(|| format!("{path} is {bad}; to change it: {command}, or run as root"))
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
    reason.map(|reason| anyhow!("the lab cannot make networks: {reason}"))
}

const NO_REASON: &str =
    "the lab cannot make networks: run as root, or let unshare(2) through (in a container: --privileged)";

fn can_be_had() -> bool {
    let arguments = ["--user", "--map-root-user", "--net", "true"];
    Command::new("unshare").args(arguments).output().is_ok_and(|output| output.status.success())
}
