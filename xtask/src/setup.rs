//! `cargo xtask setup`: what the machine needs besides Rust and git, installed if it is missing, never silently.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{Workspace, answers, on_path};
use crate::steps::{Steps, Verdict};
use crate::terminal::say;

/// A program that comes in a Debian package.
#[derive(Debug, Clone, Copy)]
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDS: [Need; 11] = [
    Need {
        program: "turnutils_uclient",
        package: "coturn",
        why: "its clients test the relay; they know nothing of us",
    },
    Need { program: "c++", package: "g++", why: "compiles the H.264 encoder" },
    Need { program: "ffprobe", package: "ffmpeg", why: "decodes what a peer recorded" },
    Need { program: "chromium", package: "chromium", why: "opens the page as people do" },
    Need { program: "chromedriver", package: "chromium-driver", why: "clicks and types in it" },
    Need { program: "redis-server", package: "redis-server", why: "is where signaling nodes meet" },
    Need { program: "setpriv", package: "util-linux", why: "leaves no process behind when a test is killed" },
    Need { program: "ip", package: "iproute2", why: "lays the cables of the network lab" },
    Need { program: "systemd-analyze", package: "systemd", why: "reads the units that we deploy" },
    Need { program: "python3", package: "python3-venv", why: "measures a peer in Python beside ours" },
    Need { program: "nft", package: "nftables", why: "translates addresses in the network lab" },
];

const CARGO_DENY: &str = "0.20.2";

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut steps = Steps::default();
    add_to(&mut steps, workspace);
    Ok(steps.finish())
}

/// Everything.
pub(crate) fn add_to(steps: &mut Steps, workspace: &Workspace) {
    steps.run("setup: Debian packages", || for_e2e(workspace));
    steps.run("setup: cargo's tools", || for_check(workspace));
}

/// What the scenarios lean on.
pub(crate) fn for_e2e(workspace: &Workspace) -> Result<Verdict> {
    let missing = NEEDS.into_iter().filter(|need| !on_path(need.program)).collect::<Vec<_>>();
    if missing.is_empty() {
        say(format_args!("found: {}", NEEDS.map(|need| need.program).join(", ")));
        return Ok(Verdict::Passed);
    }
    for Need { program, package, why } in &missing {
        say(format_args!("{program} is missing, from the package {package}: {why}"));
    }
    let packages = missing.iter().map(|need| need.package).collect::<Vec<_>>();
    Ok(verdict(install_packages(workspace, &packages)))
}

/// What the checks lean on.
pub(crate) fn for_check(workspace: &Workspace) -> Result<Verdict> {
    Ok(verdict(rust_components(workspace).and_then(|()| cargo_deny(workspace))))
}

/// Whether the wanted version of cargo-deny is there.
pub(crate) fn has_cargo_deny(workspace: &Workspace) -> bool {
    let version = workspace.command(workspace.tool("cargo-deny")).arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(CARGO_DENY))
}

/// What cannot be installed here is said, and everything that does without it still runs.
fn verdict(installed: Result<()>) -> Verdict {
    match installed {
        Ok(()) => Verdict::Passed,
        Err(error) => Verdict::CouldNotRun(format!("{error:#}")),
    }
}

fn rust_components(workspace: &Workspace) -> Result<()> {
    let missing = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, command)| !answers(&mut workspace.cargo([command, "--version"])))
        .map(|(component, _)| component)
        .collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(on_path("rustup"), "{} missing, and no rustup to add it with", missing.join(" and "));
    let mut add = workspace.command("rustup");
    add.args(["component", "add"]).args(missing);
    succeed(&mut add)
}

fn cargo_deny(workspace: &Workspace) -> Result<()> {
    if has_cargo_deny(workspace) {
        say(format_args!("found: cargo-deny {CARGO_DENY}"));
        return Ok(());
    }
    let root = workspace.tools();
    say(format_args!(
        "cargo-deny {CARGO_DENY} is missing: it checks licences and sources of what we depend on.\n\
         Compiling it into {}, which takes a minute or two; nothing outside of it changes.",
        root.display()
    ));
    let mut install = workspace.cargo(["install", "--quiet", "--locked", "--debug", "--root"]);
    install.arg(root).args(["cargo-deny", "--version", CARGO_DENY]);
    succeed(&mut install)
}

fn install_packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let by_hand = format!("install by hand: {}", packages.join(" "));
    ensure!(on_path("apt-get"), "this is no Debian, so {by_hand}");
    let as_root = as_root(workspace).with_context(|| by_hand.clone())?;
    let apt = |words: &[&str]| {
        let words = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"].iter().chain(words);
        let mut all = as_root.iter().chain(words.clone());
        let mut command = workspace.command(all.next().unwrap_or(&"env"));
        command.args(all);
        succeed(&mut command)
    };
    let install = || apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat());
    for (package, port) in [("coturn", 3478), ("redis-server", 6379)] {
        if Path::new("/run/systemd/system").exists() && packages.contains(&package) {
            say(format_args!(
                "Debian starts a server of {package} when it installs it. If you do not want that one on port {port}:"
            ));
            say(format_args!("    sudo systemctl disable --now {package}"));
        }
    }
    // A machine that never updated has no lists; one that did long ago has lists of packages that are gone.
    if has_package_lists() && install().is_ok() {
        return Ok(());
    }
    apt(&["update"]).and_then(|()| install()).with_context(|| by_hand.clone())
}

fn has_package_lists() -> bool {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// The words to put before a command that only root may run.
fn as_root(workspace: &Workspace) -> Result<&'static [&'static str]> {
    let id = workspace.command("id").arg("-u").output().context("asking who we are")?;
    if id.stdout.trim_ascii() == b"0" {
        return Ok(&[]);
    }
    if !on_path("sudo") {
        bail!("neither root nor sudo");
    }
    if std::io::stdin().is_terminal() {
        return Ok(&["sudo"]);
    }
    ensure!(
        answers(workspace.command("sudo").args(["-n", "true"])),
        "sudo asks for a password, and nobody is here"
    );
    Ok(&["sudo", "-n"])
}

fn succeed(command: &mut Command) -> Result<()> {
    let shown = crate::shell::display(command);
    say(&shown);
    let status = command.status().with_context(|| format!("starting {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}
