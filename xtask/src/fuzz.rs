//! `cargo xtask fuzz [TARGET]`: looks for datagrams that the relay should not have been sent.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::shell::{Workspace, answers};
use crate::terminal::say;

pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    let folder = Path::new("relay/fuzz");
    let manifest = workspace.root().join(folder).join("Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let targets = targets(&text);
    let Some((target, rest)) = args.split_first() else {
        say("cargo xtask fuzz TARGET [FLAG OF LIBFUZZER…], such as -max_total_time=60; the targets are:");
        targets.iter().for_each(|target| say(format_args!("  {target}")));
        return Ok(ExitCode::SUCCESS);
    };
    if !targets.contains(target) {
        bail!("there is no target {target}; there are: {}", targets.join(", "));
    }
    if !answers(&mut workspace.cargo(["fuzz", "--version"])) {
        bail!("cargo-fuzz is missing; get it with: cargo install --locked cargo-fuzz");
    }
    let mut fuzz = workspace.cargo(["fuzz", "run", "--fuzz-dir"]);
    fuzz.arg(folder);
    if !is_nightly(workspace) {
        // The sanitizers are unstable; coverage, by which the fuzzer finds its way, is not.
        say(
            "this Rust is no nightly, so the address sanitizer stays off (our code that could need it is small)",
        );
        fuzz.args(["--sanitizer", "none"]);
    }
    // What it finds goes first and stays out of the repository; the committed corpus is where it starts.
    let found = workspace.target().join("fuzz").join(target);
    std::fs::create_dir_all(&found).with_context(|| format!("creating {}", found.display()))?;
    let corpus = workspace.root().join(folder).join("corpus").join(target);
    fuzz.arg(target).args([found, corpus]).arg("--").args(rest);
    let status = fuzz.status().context("starting cargo fuzz")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of the `[[bin]]`s in a manifest.
fn targets(manifest: &str) -> Vec<String> {
    let sections = manifest.split("[[bin]]").skip(1);
    let names = sections.filter_map(|section| {
        let line = section.lines().find(|line| line.trim_start().starts_with("name"))?;
        Some(line.split('"').nth(1)?.to_owned())
    });
    names.collect()
}

fn is_nightly(workspace: &Workspace) -> bool {
    let version = workspace.cargo(["--version"]).output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("nightly"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_binaries_of_the_manifest() {
        let manifest = "[package]\nname = \"fuzz\"\n\n[[bin]]\nname = \"codec\"\npath = \"a.rs\"\n\n[[bin]]\npath = \"b.rs\"\nname = \"server\"\n";
        assert_eq!(targets(manifest), ["codec", "server"]);
        assert!(targets("[package]\nname = \"fuzz\"\n").is_empty());
    }
}
