//! The one door for real time.
//!
//! Timers run on a clock that starts at the wall clock and then only follows the monotonic one, so that no step of
//! the wall clock ends a session. TURN credentials are checked by another machine and take the wall clock as it is.

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farcall_proto::turn_credentials::UnixTime;

use crate::room::Timestamp;

/// What time it is, really or in a test.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Real {
        started_at: Timestamp,
        start: Instant,
    },
    #[cfg(test)]
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn real() -> Self {
        let started_at = Timestamp(0).after(since_epoch());
        Self(Source::Real { started_at, start: Instant::now() })
    }

    /// One that stands still until [`Self::advance`] moves it.
    #[cfg(test)]
    pub(crate) fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// For timers and timestamps. Never goes back.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Real { started_at, start } => started_at.after(start.elapsed()),
            #[cfg(test)]
            Source::Manual(now) => Timestamp(now.load(Ordering::Relaxed)),
        }
    }

    /// For expiries that other machines check.
    #[must_use]
    pub fn unix_time(&self) -> UnixTime {
        match &self.0 {
            Source::Real { .. } => UnixTime(since_epoch().as_secs()),
            #[cfg(test)]
            Source::Manual(now) => UnixTime(now.load(Ordering::Relaxed) / 1000),
        }
    }

    /// Moves a manual clock; the real one moves by itself.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        match &self.0 {
            Source::Real { .. } => {}
            Source::Manual(now) => {
                let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
                now.fetch_add(by, Ordering::Relaxed);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp(5_000));
        assert_eq!((clock.now(), clock.unix_time()), (Timestamp(5_000), UnixTime(5)));
        clock.advance(Duration::from_millis(2_500));
        assert_eq!((clock.now(), clock.unix_time()), (Timestamp(7_500), UnixTime(7)));
    }

    #[test]
    fn both_faces_of_the_real_clock_agree() {
        let clock = Clock::real();
        let apart = clock.unix_time().0.abs_diff(clock.now().0 / 1000);
        assert!(apart <= 1, "{apart} s apart");
    }
}
