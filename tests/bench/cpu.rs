//! CPU time of a process, and which core it runs on.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result};
use farcall_tests::host::Host;
use rustix::io::Errno;

/// The core that a server under test has to itself.
const SERVER_CORE: &str = "0";
/// The core of whatever puts load on it.
const LOAD_CORE: usize = 1;

/// This machine, with programs pinned to the server's core.
pub(crate) fn server_host() -> Host {
    let enter = ["taskset", "--cpu-list", SERVER_CORE].map(Into::into).to_vec();
    Host { enter, ..Host::local() }
}

/// Keeps this thread off the server's core.
pub(crate) fn pin_load() -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(LOAD_CORE);
    rustix::thread::sched_setaffinity(None, &cores).context("pinning the load to a core of its own")
}

/// CPU time that all threads of a process have used so far. Threads that have ended do not count.
pub(crate) fn time_of(process: u32) -> Result<Duration> {
    let tasks = format!("/proc/{process}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        let path = task?.path().join("schedstat");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // It ended since we saw it, before we opened the file or before we read it.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    || Errno::from_io_error(&error) == Some(Errno::SRCH) =>
            {
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        // On the CPU, waiting for one, and how often: all but the last in nanoseconds.
        let running = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        nanoseconds += running.with_context(|| format!("{} says: {text}", path.display()))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_that_works_grows() {
        let before = time_of(std::process::id()).unwrap();
        let mut work = 1_u64;
        while time_of(std::process::id()).unwrap() < before + Duration::from_millis(1) {
            work = work.wrapping_mul(3);
        }
        assert_ne!(work, 0);
    }
}
