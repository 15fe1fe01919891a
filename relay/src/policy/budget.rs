//! How often strangers are told no.
//!
//! An error is longer than the shortest request for one, and nobody has proven that the request's source address is
//! the sender's. So every source prefix (IPv4 /24, IPv6 /56) has a budget of such answers, and past it there is
//! silence. A client that authenticates, or comes by stream, does not draw on it. The table has a fixed size, whoever asks.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The budgets of all prefixes, shared by all workers without a lock.
#[derive(Clone)]
pub struct UnauthenticatedBudget {
    table: Option<Arc<Table>>,
}

struct Table {
    epoch: Instant,
    /// Nanoseconds one answer costs.
    cost: u64,
    /// Nanoseconds a prefix may run ahead of the clock: a burst.
    burst: u64,
    /// Keyed, so that nobody can choose an address that shares a slot with a victim's.
    hasher: RandomState,
    /// When each slot's prefix has paid for all it got, in nanoseconds since the epoch.
    paid_at: Box<[AtomicU64]>,
}

impl UnauthenticatedBudget {
    /// `rate` answers a second and prefix, of which half may come at once. `None` is no limit.
    #[must_use]
    pub fn new(rate: Option<NonZeroU32>, epoch: Instant) -> Self {
        let table = rate.map(|rate| {
            let cost = NANOSECONDS / u64::from(rate.get());
            let paid_at = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
            Arc::new(Table {
                epoch,
                cost,
                burst: cost.max(NANOSECONDS / 2),
                hasher: RandomState::new(),
                paid_at,
            })
        });
        Self { table }
    }

    /// Pays for one answer, if there is anything left to pay with.
    #[must_use]
    pub fn take(&self, now: Instant, source: IpAddr) -> bool {
        let Some(table) = &self.table else { return true };
        let now = u64::try_from(now.saturating_duration_since(table.epoch).as_nanos()).unwrap_or(u64::MAX);
        let Some(paid_at) = table.slot(source) else { return false };
        let pay = |paid_at: u64| {
            let next = paid_at.max(now).saturating_add(table.cost);
            (next <= now.saturating_add(table.burst)).then_some(next)
        };
        paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

impl Table {
    fn slot(&self, source: IpAddr) -> Option<&AtomicU64> {
        let prefix = match source.to_canonical() {
            IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => v6.to_bits() >> (128 - 56) | 1 << 127,
        };
        let slots = u64::try_from(self.paid_at.len()).ok()?;
        let at = self.hasher.hash_one(prefix).checked_rem(slots)?;
        self.paid_at.get(usize::try_from(at).ok()?)
    }
}

impl fmt::Debug for UnauthenticatedBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cost = self.table.as_ref().map(|table| table.cost);
        f.debug_struct("UnauthenticatedBudget").field("cost", &cost).finish_non_exhaustive()
    }
}

const NANOSECONDS: u64 = 1_000_000_000;
/// 512 KiB; two prefixes rarely share a slot.
const SLOTS: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn answers(budget: &UnauthenticatedBudget, now: Instant, source: &str, asked: usize) -> usize {
        (0..asked).filter(|_| budget.take(now, source.parse().unwrap())).count()
    }

    #[test]
    fn a_burst_is_half_a_second_and_the_rest_comes_with_time() {
        let start = clock::now();
        let budget = UnauthenticatedBudget::new(NonZeroU32::new(10), start);
        assert_eq!(answers(&budget, start, "192.0.2.1", 100), 5);
        assert_eq!(answers(&budget, start, "192.0.2.255", 100), 0, "the same prefix");
        assert_eq!(answers(&budget, start, "192.0.3.1", 100), 5, "another prefix");
        assert_eq!(answers(&budget, start + Duration::from_millis(200), "192.0.2.1", 100), 2);
    }

    #[test]
    fn one_a_second_is_one_and_not_none() {
        let start = clock::now();
        let budget = UnauthenticatedBudget::new(NonZeroU32::new(1), start);
        assert_eq!(answers(&budget, start, "192.0.2.1", 9), 1);
        assert_eq!(answers(&budget, start + Duration::from_secs(1), "192.0.2.1", 9), 1);
    }

    #[test]
    fn ipv6_is_counted_by_56_bits() {
        let start = clock::now();
        let budget = UnauthenticatedBudget::new(NonZeroU32::new(2), start);
        assert_eq!(answers(&budget, start, "2a00:0:0:ff::1", 9), 1);
        assert_eq!(answers(&budget, start, "2a00:0:0:01::2", 9), 0, "the same prefix");
        assert_eq!(answers(&budget, start, "2a00:0:0:100::1", 9), 1, "another prefix");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let start = clock::now();
        assert_eq!(answers(&UnauthenticatedBudget::new(None, start), start, "192.0.2.1", 5000), 5000);
    }
}
