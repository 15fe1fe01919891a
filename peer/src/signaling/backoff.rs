//! How long to wait before trying again: longer each time, and never all clients at once.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The pause before the next try, at least as long as the server asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let ceiling = FIRST.saturating_mul(2u32.saturating_pow(self.tries)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        // Half is certain, half is chance.
        let pause = ceiling / 2 + ceiling.mul_f64(rng.random_range(0.0..0.5));
        pause.max(asked.unwrap_or_default().min(LONGEST))
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_success() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next(None, &mut rng)).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(pauses[19] >= LONGEST / 2 && pauses[19] <= LONGEST, "{pauses:?}");
        backoff.reset();
        assert!(backoff.next(None, &mut rng) <= FIRST);
    }

    #[test]
    fn the_server_may_ask_for_a_longer_pause_but_not_for_any() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Some(Duration::from_secs(3)), &mut rng), Duration::from_secs(3));
        assert_eq!(backoff.next(Some(Duration::from_secs(3600)), &mut rng), LONGEST);
    }
}
