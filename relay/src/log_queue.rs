//! Log lines on their way to stderr: whoever logs leaves them here, and a thread of their own writes what has gathered.
//!
//! A worker never waits for whoever reads the log, nor wakes it for every line: after each write the writer waits a moment
//! for more. What comes faster than it can be written is lost, and counted in a line of its own.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// Where lines are left. Clones are of the same queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    /// Found no room since the last write.
    lost: u64,
    /// The writer waits until it is told of the next line.
    is_writer_asleep: bool,
    is_over: bool,
    has_writer_ended: bool,
}

/// The writer. Dropped, it writes what there is and ends.
#[derive(Debug)]
pub struct LogWriter {
    queue: LogQueue,
    thread: Option<JoinHandle<()>>,
}

impl LogQueue {
    /// Starts to write what is left in the queue.
    pub(crate) fn write_to(&self, to: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let queue = self.clone();
        let thread = thread::Builder::new().name("log".into()).spawn(move || queue.write_until_over(to))?;
        Ok(LogWriter { queue: self.clone(), thread: Some(thread) })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Bytes are bytes, whoever panicked beside them.
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, line: &[u8]) {
        let mut lines = self.lines();
        if lines.text.len() + line.len() > MAX_BYTES {
            lines.lost += 1;
            return;
        }
        lines.text.extend_from_slice(line);
        if lines.is_writer_asleep {
            lines.is_writer_asleep = false;
            drop(lines);
            self.shared.changed.notify_all();
        }
    }

    fn write_until_over(&self, mut to: impl Write) {
        let mut text = Vec::new();
        loop {
            let mut lines = self.lines();
            while lines.text.is_empty() && !lines.is_over {
                lines.is_writer_asleep = true;
                lines = self.shared.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut lines.text, &mut text);
            let lost = mem::take(&mut lines.lost);
            drop(lines);
            if text.is_empty() {
                break;
            }
            // With stderr gone there is nobody left to tell.
            let _ = to.write_all(&text);
            text.clear();
            if lost > 0 {
                warn!(lost, "Log lines were lost: they come faster than they can be written");
            }
            let is_going_on = |lines: &mut Lines| !lines.is_over;
            let lines = self.lines();
            let waited = self.shared.changed.wait_timeout_while(lines, PAUSE, is_going_on);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        self.lines().has_writer_ended = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let mut lines = self.queue.lines();
        lines.is_over = true;
        self.queue.shared.changed.notify_all();
        // The end of the process waits for nobody who does not read.
        let is_writing = |lines: &mut Lines| !lines.has_writer_ended;
        let waited = self.queue.shared.changed.wait_timeout_while(lines, LAST_WRITE, is_writing);
        let (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let has_ended = lines.has_writer_ended;
        drop(lines);
        if let Some(thread) = self.thread.take().filter(|_| has_ended) {
            // A panic of its own has been said already.
            let _ = thread.join();
        }
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.leave(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What may wait: seconds' worth of a busy server's lines.
const MAX_BYTES: usize = 1 << 20;
/// Longer than a burst of lines, shorter than anybody notices.
const PAUSE: Duration = Duration::from_millis(10);
/// For the last lines of a process.
const LAST_WRITE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands over what is written, and waits to be let on.
    struct Slow {
        written: Sender<Vec<u8>>,
        go_on: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.written.send(text.to_vec());
            let _ = self.go_on.recv();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Slow, Receiver<Vec<u8>>, Sender<()>) {
        let ((written, writes), (let_on, go_on)) = (channel(), channel());
        (Slow { written, go_on }, writes, let_on)
    }

    #[test]
    fn what_gathers_during_a_write_is_written_as_one() {
        let (to, writes, let_on) = slow();
        let queue = LogQueue::default();
        let writer = queue.write_to(to).unwrap();
        queue.leave(b"1\n");
        assert_eq!(writes.recv().unwrap(), b"1\n");
        queue.leave(b"2\n");
        queue.leave(b"3\n");
        let_on.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"2\n3\n");
        drop(let_on);
        drop(writer);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_is_stuck() {
        let (to, writes, let_on) = slow();
        let queue = LogQueue::default();
        let writer = queue.write_to(to).unwrap();
        queue.leave(b"first\n");
        writes.recv().unwrap();
        let line = [b'x'; 1000];
        for _ in 0..2 * MAX_BYTES / line.len() {
            queue.leave(&line);
        }
        assert!(queue.lines().lost > 0 && queue.lines().text.len() <= MAX_BYTES);
        drop(let_on);
        drop(writer);
    }

    #[test]
    fn the_end_writes_what_is_left() {
        let (to, writes, let_on) = slow();
        drop(let_on);
        let queue = LogQueue::default();
        let writer = queue.write_to(to).unwrap();
        for _ in 0..100 {
            queue.leave(b"line\n");
        }
        drop(writer);
        assert_eq!(writes.iter().flatten().count(), 500);
    }
}
