//! A Redis server of a test's own, or whatever `REDIS_SERVER` names, such as Valkey. Tests of this crate and of its program include this file.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// It dies with the test, and what it knows with it, unless it is told to remember.
pub(crate) struct RedisServer {
    process: Child,
    folder: tempfile::TempDir,
    flags: Vec<String>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(Vec::new())
    }

    pub(crate) fn that_remembers() -> Self {
        Self::start_with(vec!["--appendonly".into(), "yes".into()])
    }

    pub(crate) fn start_with(flags: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { process: run(folder.path(), &flags), folder, flags }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}/redis.sock", self.folder.path().display())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.process = run(self.folder.path(), &self.flags);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends with the thread of the test, should the test not get to it.
fn run(folder: &std::path::Path, flags: &[String]) -> Child {
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
        .args(["--port", "0", "--save", ""])
        .args(["--appendfsync", "always", "--enable-debug-command", "yes"])
        .args(["--unixsocket", "redis.sock", "--daemonize", "no"])
        .args(flags)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is needed: `cargo xtask setup` installs it");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.unwrap().contains("eady to accept connections"));
    assert!(ready, "redis-server did not start: is it installed? `cargo xtask setup` installs it");
    // Nobody reads on, so whatever else it says is lost rather than waited for.
    std::thread::spawn(move || lines.for_each(drop));
    process
}
