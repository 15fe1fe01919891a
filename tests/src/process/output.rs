//! What a process prints: every line into its log at once, those of stdout also into memory for whoever waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock::{Deadline, now};

/// Shared by the two reader threads, which fill it, and the scenario, which waits on it.
#[derive(Debug)]
pub(super) struct Output {
    started: Instant,
    heard: Mutex<Heard>,
    more: Condvar,
}

#[derive(Debug)]
struct Heard {
    log: File,
    stdout: Vec<String>,
    stdout_closed: bool,
    stderr_closed: bool,
    stderr_tail: VecDeque<String>,
}

/// Lines of stdout that came.
#[derive(Debug)]
pub(super) struct News {
    pub(super) lines: Vec<String>,
    pub(super) closed: bool,
}

impl Output {
    pub(super) fn create(log: &Path) -> std::io::Result<Self> {
        let heard = Heard {
            log: File::create(log)?,
            stdout: Vec::new(),
            stdout_closed: false,
            stderr_closed: false,
            stderr_tail: VecDeque::new(),
        };
        Ok(Self { started: now(), heard: Mutex::new(heard), more: Condvar::new() })
    }

    /// Reads stdout to its end.
    pub(super) fn drain_stdout(&self, stdout: impl Read) {
        for_each_line(stdout, |line| {
            let mut heard = self.lock();
            self.write(&mut heard, "out", &line);
            heard.stdout.push(line);
            self.more.notify_all();
        });
        self.lock().stdout_closed = true;
        self.more.notify_all();
    }

    /// Reads stderr to its end.
    pub(super) fn drain_stderr(&self, stderr: impl Read) {
        for_each_line(stderr, |line| {
            let mut heard = self.lock();
            self.write(&mut heard, "err", &line);
            if heard.stderr_tail.len() == TAIL {
                heard.stderr_tail.pop_front();
            }
            heard.stderr_tail.push_back(line);
        });
        self.lock().stderr_closed = true;
        self.more.notify_all();
    }

    /// Waits until both streams are read to their end.
    pub(super) fn wait_until_read(&self, deadline: Deadline) {
        let reading = |heard: &mut Heard| !(heard.stdout_closed && heard.stderr_closed);
        // What is still missing at the deadline will be in the log, if it comes.
        let _ = self.more.wait_timeout_while(self.lock(), deadline.left(), reading);
    }

    /// Writes a remark of ours into the log.
    pub(super) fn note(&self, remark: &str) {
        let mut heard = self.lock();
        self.write(&mut heard, "---", remark);
    }

    /// How many lines of stdout there are.
    pub(super) fn len(&self) -> usize {
        self.lock().stdout.len()
    }

    /// The lines from number `from` on.
    pub(super) fn so_far(&self, from: usize) -> Vec<String> {
        self.lock().stdout.get(from..).unwrap_or_default().to_vec()
    }

    /// The lines from number `from` on, as soon as there is one; none once stdout is closed or the deadline passes.
    pub(super) fn after(&self, from: usize, deadline: Deadline) -> News {
        let waiting = |heard: &mut Heard| heard.stdout.len() <= from && !heard.stdout_closed;
        let (heard, _) = self
            .more
            .wait_timeout_while(self.lock(), deadline.left(), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        News { lines: heard.stdout.get(from..).unwrap_or_default().to_vec(), closed: heard.stdout_closed }
    }

    /// The last lines of both streams, for an error message.
    pub(super) fn last_words(&self) -> String {
        let heard = self.lock();
        let tail = heard.stdout.len().saturating_sub(TAIL);
        let stdout = heard.stdout.get(tail..).unwrap_or_default();
        let lines = stdout.iter().chain(&heard.stderr_tail);
        let words = lines.map(|line| format!("\n    {line}")).collect::<String>();
        if words.is_empty() { "It printed nothing.".to_owned() } else { format!("Its last words:{words}") }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, heard: &mut Heard, stream: &str, line: &str) {
        let at = now().duration_since(self.started).as_secs_f64() * 1000.0;
        // A full disk fails the scenario elsewhere, with a better message.
        let _ = writeln!(heard.log, "{at:10.1} ms  {stream}  {line}");
    }
}

/// Calls `each` for every line, also for those that are not UTF-8.
fn for_each_line(stream: impl Read, mut each: impl FnMut(String)) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(stream.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        each(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

/// Lines of each stream that an error message shows.
const TAIL: usize = 6;
