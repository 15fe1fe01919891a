//! Wakes a worker when something is due.
//!
//! A timeout given to each wait would have the kernel set up and take down a timer for every datagram. This one is set once, and
//! again only when something else is due sooner; what was due and is no longer costs one turn of the loop for nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::token::Source;

/// One worker's timer.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    rings_at: Option<Instant>,
}

impl Alarm {
    /// One that is not set, and rings by this registry's poll.
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), Source::Alarm.into(), Interest::READABLE)?;
        Ok(Self { timer, rings_at: None })
    }

    /// Lets it ring when something is due, if it would not ring before. Fails only for want of a timer.
    pub(super) fn set(&mut self, now: Instant, due: Instant) -> io::Result<()> {
        if self.rings_at.is_some_and(|at| at <= due) {
            return Ok(());
        }
        // Zero would switch it off.
        let left = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.rings_at = Some(due);
        Ok(())
    }

    /// It rang. The poll says so once, whether or not the timer is read.
    pub(super) fn note_rung(&mut self) {
        self.rings_at = None;
    }
}
