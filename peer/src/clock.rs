//! The one door for real time. Cores take the time as an argument; everything else asks here.

use std::time::{Duration, Instant};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// CPU time that this process has used in user and system mode together, where the system tells it.
pub(crate) fn cpu_time() -> Option<Duration> {
    // Fields 14 and 15 of /proc/self/stat, counted after the command name, which may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// `USER_HZ`, which the kernel keeps at 100 whatever its own tick.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu_time().unwrap();
        let started = now();
        let mut sum = 0u64;
        while cpu_time().unwrap() == before {
            sum = (0..100_000u64).fold(sum, |sum, value| sum.wrapping_mul(31).wrapping_add(value));
            assert!(now() - started < Duration::from_secs(60), "no tick in a minute, {sum}");
        }
    }
}
