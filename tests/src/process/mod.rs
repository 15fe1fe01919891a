//! One program under test: started, listened to, talked to, signalled, and never left behind.
//!
//! Whatever it prints lands in its log the moment it comes. The kernel kills it when the thread that started it is
//! gone (`setpriv --pdeathsig`), so that not even `kill -9` of the harness leaves an orphan; hence a `Process` is
//! started on a thread that outlives it.

mod output;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock::Deadline;
use crate::host::Host;
use output::Output;

/// What to start and where its words go.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What messages and the log file call it: `relay`, `alice`.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The folder of its log.
    pub logs: PathBuf,
}

/// A place in what a process has printed: "from here on".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

impl Mark {
    /// Everything since it started.
    pub const START: Self = Self(0);
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a program on `host`.
    pub fn spawn(host: &Host, launch: &Launch) -> Result<Self> {
        let Launch { name, program, args, logs } = launch;
        std::fs::create_dir_all(logs).with_context(|| format!("creating {}", logs.display()))?;
        let log = logs.join(format!("{name}.log"));
        let output = Output::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let output = Arc::new(output);
        output.note(&command_line(program, args));

        // Out of our process group, so that Ctrl-C reaches only us and we decide how the others end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(&host.enter).arg(program).args(args).process_group(0);
        // What a developer has set for an own server must not reach the ones under test.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("FARCALL_") {
                command.env_remove(&variable);
            }
        }
        // Nor what the user of this machine is and knows.
        command.env("FARCALL_PEER_HOME", logs.join(format!("{name}.home")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name} through setpriv"))?;

        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).context("opening a pidfd")?;
        // The two threads end with the streams they read.
        if let Some(stdout) = child.stdout.take() {
            let output = Arc::clone(&output);
            std::thread::spawn(move || output.drain_stdout(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            let output = Arc::clone(&output);
            std::thread::spawn(move || output.drain_stderr(stderr));
        }
        let stdin = child.stdin.take();
        Ok(Self { name: name.clone(), child, pidfd, stdin, output, ended: None })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it has printed so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.output.len())
    }

    /// Waits for the first line of stdout after `from` for which `pick` returns something. `what` completes the
    /// sentence "… never came". An error of `pick` ends the wait.
    pub fn wait_for<T>(
        &self,
        what: &str,
        from: Mark,
        deadline: Deadline,
        mut pick: impl FnMut(&str) -> Result<Option<T>>,
    ) -> Result<T> {
        let Mark(mut next) = from;
        loop {
            let heard = self.output.after(next, deadline);
            for line in &heard.lines {
                let picked = pick(line).with_context(|| format!("{} printed: {line}", self.name))?;
                if let Some(found) = picked {
                    return Ok(found);
                }
            }
            next += heard.lines.len();
            if heard.lines.is_empty() && (heard.closed || deadline.passed()) {
                let why = if heard.closed { "it ended" } else { "the deadline passed" };
                bail!("{}: {what} never came; {why}. {}", self.name, self.output.last_words());
            }
        }
    }

    /// What `pick` makes of the lines printed so far.
    pub fn collect<T>(&self, from: Mark, mut pick: impl FnMut(&str) -> Result<Option<T>>) -> Result<Vec<T>> {
        let Mark(next) = from;
        let lines = self.output.so_far(next);
        let picked = lines.iter().map(|line| {
            pick(line).with_context(|| format!("{} printed: {line}", self.name)).map(Option::into_iter)
        });
        Ok(picked.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Writes a line to its stdin.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { bail!("{} has no stdin any more", self.name) };
        writeln!(stdin, "{line}").with_context(|| format!("talking to {}", self.name))?;
        self.output.note(&format!("said: {line}"));
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.output.note(&format!("sent: {signal:?}"));
        pidfd_send_signal(&self.pidfd, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Waits for it to end, with everything it printed read.
    pub fn wait_exit(&mut self, deadline: Deadline) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let left = Timespec::try_from(deadline.left()).context("a deadline too far away")?;
        // Interrupted or not: `try_wait` below knows.
        let _ = rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left));
        match self.child.try_wait().with_context(|| format!("waiting for {}", self.name))? {
            Some(status) => Ok(self.finish(status)),
            None => bail!("{} did not end in time. {}", self.name, self.output.last_words()),
        }
    }

    /// Waits for it to end and returns its exit code; death by a signal is an error.
    pub fn exit_code(&mut self, deadline: Deadline) -> Result<i32> {
        let status = self.wait_exit(deadline)?;
        status.code().with_context(|| format!("{} ended by {status}", self.name))
    }

    /// Calls `then` on a thread of its own when it has ended.
    pub fn on_end(&self, then: impl FnOnce() + Send + 'static) -> Result<()> {
        let pidfd = self.pidfd.try_clone().context("cloning a pidfd")?;
        std::thread::spawn(move || {
            while rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
            then();
        });
        Ok(())
    }

    /// The end of what it printed, for messages.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.output.last_words()
    }

    fn finish(&mut self, status: ExitStatus) -> ExitStatus {
        self.output.wait_until_read(Deadline::after(LAST_WORDS));
        self.output.note(&format!("ended: {status}"));
        self.ended = Some(status);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.finish(status);
        }
    }
}

/// How long what a process printed at last may take to be read. It takes longer only if the process has left a child
/// behind that holds its streams open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The command as a person would type it.
fn command_line(program: &Path, args: &[OsString]) -> String {
    let words = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain =
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=?,+".contains(&b));
        if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    format!("$ {}", quoted.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::clock::PATIENCE;

    /// A shell script in place of a program.
    fn script(logs: &Path, script: &str) -> Process {
        let launch = Launch {
            name: "fake".to_owned(),
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            logs: logs.to_owned(),
        };
        Process::spawn(&Host::local(), &launch).unwrap()
    }

    fn soon() -> Deadline {
        Deadline::after(PATIENCE)
    }

    fn is(line: &str, wanted: &str) -> Result<Option<()>> {
        Ok((line == wanted).then_some(()))
    }

    #[test]
    fn a_line_is_found_whether_it_came_before_or_comes_after_the_question() {
        let logs = tempfile::tempdir().unwrap();
        let mut fake = script(logs.path(), "echo early; read word; echo late $word");
        fake.wait_for("early", Mark::START, soon(), |line| is(line, "early")).unwrap();
        let after = fake.mark();
        fake.wait_for("early again", Mark::START, soon(), |line| is(line, "early")).unwrap();
        fake.say("bird").unwrap();
        fake.wait_for("late", after, soon(), |line| is(line, "late bird")).unwrap();
        assert_eq!(fake.exit_code(soon()).unwrap(), 0);
    }

    #[test]
    fn a_line_that_never_comes_is_an_error_with_the_last_words() {
        let logs = tempfile::tempdir().unwrap();
        let fake = script(logs.path(), "echo one; echo no such room >&2; read forever");
        let deadline = Deadline::after(Duration::from_millis(300));
        let error = fake.wait_for("two", Mark::START, deadline, |line| is(line, "two")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("fake: two never came; the deadline passed"), "{text}");
        assert!(text.contains("one") && text.contains("no such room"), "{text}");
    }

    #[test]
    fn a_program_that_ends_is_not_waited_for() {
        let logs = tempfile::tempdir().unwrap();
        let mut fake = script(logs.path(), "exit 7");
        let error = fake.wait_for("a word", Mark::START, soon(), |line| is(line, "word")).unwrap_err();
        assert!(error.to_string().contains("it ended"), "{error}");
        assert_eq!(fake.exit_code(soon()).unwrap(), 7);
    }

    #[test]
    fn a_signal_arrives_and_a_death_by_signal_is_no_exit_code() {
        let logs = tempfile::tempdir().unwrap();
        let mut polite = script(logs.path(), "trap 'exit 3' TERM; echo on; while read x; do :; done; wait");
        polite.wait_for("on", Mark::START, soon(), |line| is(line, "on")).unwrap();
        polite.signal(Signal::TERM).unwrap();
        // So that its read returns, where the signal has not ended it already.
        let _ = polite.say("a word");
        assert_eq!(polite.exit_code(soon()).unwrap(), 3);

        let mut killed = script(logs.path(), "read forever");
        killed.signal(Signal::KILL).unwrap();
        assert!(killed.exit_code(soon()).unwrap_err().to_string().contains("signal: 9"));
    }

    #[test]
    fn the_end_is_announced_to_whoever_asked() {
        let logs = tempfile::tempdir().unwrap();
        let mut fake = script(logs.path(), "read word");
        let (tell, told) = std::sync::mpsc::channel();
        fake.on_end(move || tell.send(()).unwrap()).unwrap();
        assert!(told.try_recv().is_err());
        fake.say("go").unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(fake.exit_code(soon()).unwrap(), 0);
    }

    #[test]
    fn a_dropped_process_is_dead() {
        let logs = tempfile::tempdir().unwrap();
        let fake = script(logs.path(), "read forever");
        let folder = PathBuf::from(format!("/proc/{}", fake.id()));
        assert!(folder.exists());
        drop(fake);
        assert!(!folder.exists());
    }

    #[test]
    fn a_process_does_not_outlive_the_thread_that_started_it() {
        let logs = tempfile::tempdir().unwrap();
        let folder = logs.path().to_owned();
        let starting = std::thread::spawn(move || {
            let fake = script(&folder, "echo on; read forever");
            fake.wait_for("on", Mark::START, soon(), |line| is(line, "on")).unwrap();
            fake
        });
        let mut fake = starting.join().unwrap();
        let status = fake.wait_exit(soon()).unwrap();
        assert_eq!(status.signal(), Some(9), "{status}");
    }

    #[test]
    fn a_process_that_leaves_a_child_behind_does_not_hold_us_up() {
        let logs = tempfile::tempdir().unwrap();
        let mut fake = script(logs.path(), "echo last words; sleep 5 & exit 4");
        assert_eq!(fake.exit_code(soon()).unwrap(), 4);
        assert!(fake.last_words().contains("last words"));
    }

    #[test]
    fn the_log_holds_the_command_and_every_line_with_its_stream() {
        let logs = tempfile::tempdir().unwrap();
        let mut fake = script(logs.path(), "echo good; echo bad >&2");
        fake.wait_exit(soon()).unwrap();
        let log = std::fs::read_to_string(logs.path().join("fake.log")).unwrap();
        assert!(log.contains("$ sh -c 'echo good; echo bad >&2'"), "{log}");
        assert!(log.contains("out  good") && log.contains("err  bad"), "{log}");
        assert!(log.contains("ended: exit status: 0"), "{log}");
    }
}
