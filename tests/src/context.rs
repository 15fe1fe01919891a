//! What a scenario is given: where the programs are, and a folder of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::Host;
use crate::process::{Launch, Process};
use crate::tools::Tool;

/// The world of one scenario.
#[derive(Debug, Clone)]
pub struct Context {
    programs: PathBuf,
    folder: PathBuf,
}

impl Context {
    /// Programs are started from `programs`; logs and recordings go below `folder`.
    #[must_use]
    pub const fn new(programs: PathBuf, folder: PathBuf) -> Self {
        Self { programs, folder }
    }

    /// The same with another folder.
    #[must_use]
    pub fn in_folder(&self, folder: PathBuf) -> Self {
        Self { folder, ..self.clone() }
    }

    /// Where our programs are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Where logs and recordings go.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts one of our programs on `host`, under a name that no other process of this scenario has.
    pub fn spawn(&self, host: &Host, name: &str, program: &str, args: Vec<OsString>) -> Result<Process> {
        self.launch(host, name, self.programs.join(program), args)
    }

    /// Starts a program of others, found on the search path.
    pub fn spawn_tool(&self, host: &Host, name: &str, tool: Tool, args: Vec<OsString>) -> Result<Process> {
        self.launch(host, name, tool.program().into(), args)
    }

    /// Starts any program on `host`: one on the search path, or where a path says.
    pub fn launch(&self, host: &Host, name: &str, program: PathBuf, args: Vec<OsString>) -> Result<Process> {
        let logs = self.folder.clone();
        Process::spawn(host, &Launch { name: name.to_owned(), program, args, logs })
    }
}

/// Puts a command line together from words of any kind, as a `Vec<OsString>`.
#[macro_export]
macro_rules! args {
    ($($word:expr),* $(,)?) => { Vec::from([$(std::ffi::OsString::from($word)),*]) };
}
