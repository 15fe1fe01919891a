//! How fast one account may relay, over all its allocations and all workers.
//!
//! A meter goes with every allocation. Asking it is an atomic step or two on the account's own buckets: no lock and
//! nothing to wait for, and for an account without limits a comparison.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What one user may use. `None` says nothing: there is no limit, or another one applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Allocations at a time.
    pub quota: Option<NonZeroU32>,
    /// Bytes of application data a second, both directions together.
    pub bandwidth: Option<NonZeroU64>,
    /// Datagrams a second, both directions together.
    pub packets: Option<NonZeroU64>,
    /// IP addresses a second that were not peers of the allocation before.
    pub new_peers: Option<NonZeroU64>,
    /// IP addresses that are peers of one allocation at a time.
    pub peers: Option<NonZeroU32>,
}

impl Limits {
    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            quota: self.quota.or(others.quota),
            bandwidth: self.bandwidth.or(others.bandwidth),
            packets: self.packets.or(others.packets),
            new_peers: self.new_peers.or(others.new_peers),
            peers: self.peers.or(others.peers),
        }
    }

    fn has_rates(&self) -> bool {
        self.bandwidth.or(self.packets).or(self.new_peers).is_some()
    }
}

/// What every datagram of an allocation is counted with. Clones count into the same buckets.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    account: Option<Arc<Buckets>>,
    peers: Option<NonZeroU32>,
}

impl Meter {
    /// Whether a datagram with this much application data may pass, in either direction; if so it is paid for.
    #[must_use]
    pub fn take(&self, now: Instant, bytes: usize) -> bool {
        match &self.account {
            None => true,
            Some(buckets) => {
                let now = buckets.nanoseconds(now);
                buckets.packets.take(now, 1) && buckets.bandwidth.take(now, bytes as u64)
            }
        }
    }

    /// Whether so many new peers may come now; if so they are paid for.
    #[must_use]
    pub fn take_peers(&self, now: Instant, count: usize) -> bool {
        match &self.account {
            None => true,
            Some(buckets) => buckets.new_peers.take(buckets.nanoseconds(now), count as u64),
        }
    }

    /// How many peers an allocation may have at a time.
    #[must_use]
    pub fn max_peers(&self) -> usize {
        self.peers.map_or(usize::MAX, |peers| usize::try_from(peers.get()).unwrap_or(usize::MAX))
    }
}

/// The buckets of one account.
pub(super) struct Buckets {
    epoch: Instant,
    bandwidth: Bucket,
    packets: Bucket,
    new_peers: Bucket,
}

impl Buckets {
    /// `None` if there is nothing to count.
    pub(super) fn new(limits: &Limits, now: Instant) -> Option<Arc<Self>> {
        let buckets = || {
            let buckets = Self {
                epoch: now,
                bandwidth: Bucket::default(),
                packets: Bucket::default(),
                new_peers: Bucket::default(),
            };
            buckets.apply(limits);
            Arc::new(buckets)
        };
        limits.has_rates().then(buckets)
    }

    /// The last word on an account's limits counts for all its allocations.
    pub(super) fn apply(&self, limits: &Limits) {
        for (bucket, rate) in [
            (&self.bandwidth, limits.bandwidth),
            (&self.packets, limits.packets),
            (&self.new_peers, limits.new_peers),
        ] {
            bucket.rate.store(rate.map_or(0, NonZeroU64::get), Ordering::Relaxed);
        }
    }

    /// Whether all buckets are full again, so that new ones would be the same.
    pub(super) fn are_full(&self, now: Instant) -> bool {
        let now = self.nanoseconds(now);
        [&self.bandwidth, &self.packets, &self.new_peers]
            .iter()
            .all(|bucket| bucket.paid_at.load(Ordering::Relaxed) <= now)
    }

    pub(super) fn meter(self: &Arc<Self>) -> Meter {
        Meter { account: Some(Arc::clone(self)), peers: None }
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Meter {
    pub(super) fn with_max_peers(self, peers: Option<NonZeroU32>) -> Self {
        Self { peers, ..self }
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

/// A second's worth, refilled as time passes. Whoever finds anything left may take more than that and waits the
/// longer, so that no datagram is too big to pass.
#[derive(Debug, Default)]
struct Bucket {
    /// Units a second; zero is no limit.
    rate: AtomicU64,
    /// When all that was taken is paid for, in nanoseconds.
    paid_at: AtomicU64,
}

impl Bucket {
    fn take(&self, now: u64, units: u64) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || units == 0 {
            return true;
        }
        let Some(cost) = units.saturating_mul(NANOSECONDS).checked_div(rate) else { return true };
        let pay = |paid_at: u64| {
            let begun = paid_at.max(now);
            (begun < now.saturating_add(NANOSECONDS)).then(|| begun.saturating_add(cost))
        };
        self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn meter(limits: Limits) -> (Instant, Meter) {
        let start = clock::now();
        (start, Buckets::new(&limits, start).map(|buckets| buckets.meter()).unwrap_or_default())
    }

    fn packets(rate: u64) -> Limits {
        Limits { packets: NonZeroU64::new(rate), ..Limits::default() }
    }

    #[test]
    fn a_second_may_come_at_once_and_the_rest_comes_with_time() {
        let (start, meter) = meter(packets(50));
        let passed = |after: u64| {
            let now = start + Duration::from_millis(after);
            (0..1000).filter(|_| meter.take(now, 100)).count()
        };
        assert_eq!((passed(0), passed(100), passed(100), passed(10_000)), (50, 5, 0, 50));
    }

    #[test]
    fn bytes_of_both_directions_draw_on_one_bucket_and_no_datagram_is_too_big() {
        let (start, meter) = meter(Limits { bandwidth: NonZeroU64::new(1000), ..Limits::default() });
        assert!(meter.take(start, 600) && meter.take(start, 60_000) && !meter.take(start, 1));
        assert!(!meter.take(start + Duration::from_secs(59), 1));
        assert!(meter.take(start + Duration::from_secs(60), 1));
    }

    #[test]
    fn what_is_not_limited_passes_and_nothing_costs_nothing() {
        let (start, unlimited) = meter(Limits::default());
        assert!((0..10_000).all(|_| unlimited.take(start, 65_535) && unlimited.take_peers(start, 9)));
        let (start, meter) = meter(packets(1));
        assert!((0..100).all(|_| meter.take_peers(start, 1)));
        assert!(meter.take(start, 1 << 40) && !meter.take(start, 0));
    }

    #[test]
    fn all_threads_together_get_no_more_than_the_rate() {
        let (start, meter) = meter(packets(1000));
        let ask = || (0..2000).filter(|_| meter.take(start, 1)).count();
        let passed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }
}
