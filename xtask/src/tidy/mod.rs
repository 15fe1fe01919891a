//! `cargo xtask tidy`: the house rules that a text search can hold.

mod manifests;
mod tables;
mod text;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::shell::Workspace;
use crate::steps::{Steps, Verdict};
use crate::terminal::say;

/// A file of the repository.
#[derive(Debug)]
struct File {
    /// Below the root, with slashes.
    path: String,
    text: String,
}

/// A rule that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    rule: String,
}

impl Violation {
    fn new(file: &File, line: usize, rule: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.rule),
            line => write!(f, "{}:{line}: {}", self.path, self.rule),
        }
    }
}

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.run("tidy", || step(workspace));
    Ok(steps.finish())
}

/// Reads every file that git knows or could add, and applies every rule.
pub(crate) fn step(workspace: &Workspace) -> Result<Verdict> {
    let files = files(workspace)?;
    let mut violations = text::violations(&files);
    violations.extend(manifests::violations(&files)?);
    violations.extend(tables::violations(&files));
    violations.iter().for_each(say);
    say(format_args!("read {} files", files.len()));
    Ok(match violations.len() {
        0 => Verdict::Passed,
        number => Verdict::Failed(format!("{number} places, named above")),
    })
}

fn files(workspace: &Workspace) -> Result<Vec<File>> {
    let mut git = workspace.command("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = git.output().context("starting git")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let mut files = Vec::new();
    for path in String::from_utf8(listed.stdout).context("a path that is not UTF-8")?.split_terminator('\0') {
        // Deleted but not committed yet: gone. Not UTF-8: no text.
        if let Some(text) =
            std::fs::read(workspace.root().join(path)).ok().and_then(|b| String::from_utf8(b).ok())
        {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}
