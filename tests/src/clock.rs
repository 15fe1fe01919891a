//! The one door to real time, and the only way to wait for something that announces itself with no event.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long an event may take that a healthy machine delivers in milliseconds. Generous, since it is paid only by
/// a scenario that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Now.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    Instant::now()
}

/// The moment at which waiting turns into failing.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(now() + duration)
    }

    /// What is left; zero once it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Asks again and again until `probe` returns something, and fails with its last error, or with `what`, at the
/// deadline. For what has no event to wait for: a counter behind HTTP, the size of a file.
pub fn poll<T>(what: &str, deadline: Deadline, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        let found = probe();
        if let Ok(Some(value)) = found {
            return Ok(value);
        }
        if deadline.passed() {
            found.map_err(|error| error.context(format!("waited for {what}")))?;
            bail!("waited in vain for {what}");
        }
        std::thread::park_timeout(POLL_INTERVAL.min(deadline.left()));
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn polling_ends_with_the_first_answer() {
        let mut asked = 0;
        let answer = poll("three", Deadline::after(PATIENCE), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn polling_that_runs_out_of_time_says_what_it_waited_for_and_the_last_error() {
        let soon = || Deadline::after(Duration::from_millis(1));
        let nothing = poll::<()>("a miracle", soon(), || Ok(None)).unwrap_err();
        assert_eq!(format!("{nothing:#}"), "waited in vain for a miracle");
        let broken = poll::<()>("a miracle", soon(), || Err(anyhow!("no route"))).unwrap_err();
        assert_eq!(format!("{broken:#}"), "waited for a miracle: no route");
    }
}
