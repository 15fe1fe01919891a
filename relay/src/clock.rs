//! The one door for real time. Everybody else is told what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use farcall_proto::turn_credentials::UnixTime;

/// What timers count with.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one door for real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// What credentials expire by. Before 1970 it is 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one door for real time")]
pub fn unix_time() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
