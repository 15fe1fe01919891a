//! What each account holds, over all workers: how many allocations, and the buckets it draws on.
//!
//! A slot is taken before a socket is opened and given back when its holder is dropped, so that no order of requests
//! on any number of workers gets one more than the limit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::meter::{Buckets, Limits, Meter};

/// The book of held slots. Asked once per allocation, never per datagram.
#[derive(Debug, Clone)]
pub struct Quota {
    defaults: Limits,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    accounts: HashMap<Arc<str>, Account>,
    /// How many accounts there may be before those that nobody holds any more are looked for.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Account {
    held: u32,
    buckets: Option<Arc<Buckets>>,
}

impl Quota {
    /// The limits of everybody of whom nothing else is known.
    #[must_use]
    pub fn new(defaults: Limits) -> Self {
        Self { defaults, book: Arc::default() }
    }

    /// The same book with other limits.
    #[must_use]
    pub fn with_defaults(&self, defaults: Limits) -> Self {
        Self { defaults, book: Arc::clone(&self.book) }
    }

    /// Takes a slot of this account, whose limits may be its own. `None` if it holds as many as it may.
    #[must_use]
    pub fn reserve(&self, now: Instant, account: &Arc<str>, limits: Limits) -> Option<Reservation> {
        self.take(now, account, limits, Admission::Asked)
    }

    /// Takes a slot for an allocation that was made under another process, however many the account holds.
    #[must_use]
    pub fn adopt(&self, now: Instant, account: &Arc<str>, limits: Limits) -> Option<Reservation> {
        self.take(now, account, limits, Admission::Granted)
    }

    fn take(
        &self,
        now: Instant,
        account: &Arc<str>,
        limits: Limits,
        admission: Admission,
    ) -> Option<Reservation> {
        let limits = limits.or(self.defaults);
        if limits == Limits::default() {
            return Some(Reservation { meter: Meter::default(), slot: None });
        }
        let mut book = self.lock();
        book.sweep(now);
        let entry = book.accounts.entry(Arc::clone(account)).or_default();
        if admission == Admission::Asked && limits.quota.is_some_and(|quota| entry.held >= quota.get()) {
            return None;
        }
        entry.held += 1;
        match &entry.buckets {
            Some(buckets) => buckets.apply(&limits),
            None => entry.buckets = Buckets::new(&limits, now),
        }
        let meter = entry.buckets.as_ref().map(Buckets::meter).unwrap_or_default();
        drop(book);
        let slot = Some((self.clone(), Arc::clone(account)));
        Some(Reservation { meter: meter.with_max_peers(limits.peers), slot })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Every change is one step: a panic elsewhere cannot leave it half done.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a slot may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Asked,
    Granted,
}

impl Book {
    /// Forgets accounts that hold nothing and owe nothing: allocating anew is no way to full buckets.
    fn sweep(&mut self, now: Instant) {
        if self.accounts.len() < self.sweep_at.max(MIN_SWEEP) {
            return;
        }
        self.accounts.retain(|_, account| {
            account.held > 0 || account.buckets.as_ref().is_some_and(|buckets| !buckets.are_full(now))
        });
        self.sweep_at = self.accounts.len() * 2;
    }
}

/// A slot, held until dropped.
#[derive(Debug)]
pub struct Reservation {
    meter: Meter,
    slot: Option<(Quota, Arc<str>)>,
}

impl Reservation {
    /// What the allocation's data and peers are counted with.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some((quota, account)) = self.slot.take() else { return };
        if let Entry::Occupied(mut entry) = quota.lock().accounts.entry(account) {
            entry.get_mut().held -= 1;
            if entry.get().held == 0 && entry.get().buckets.is_none() {
                entry.remove();
            }
        }
    }
}

/// Fewer accounts than this are not worth looking through.
const MIN_SWEEP: usize = 1024;

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn quota(allocations: u32) -> Quota {
        Quota::new(Limits { quota: NonZeroU32::new(allocations), ..Limits::default() })
    }

    fn reserve(quota: &Quota, account: &str) -> Option<Reservation> {
        quota.reserve(clock::now(), &account.into(), Limits::default())
    }

    #[test]
    fn exactly_the_limit_succeeds_however_many_threads_ask() {
        let quota = quota(10);
        let ask = || -> Vec<_> { (0..20).filter_map(|_| reserve(&quota, "alice")).collect() };
        let held: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 10);
        assert!(reserve(&quota, "bob").is_some(), "another account has its own");
        drop(held);
        assert!(reserve(&quota, "alice").is_some());
    }

    #[test]
    fn an_account_that_holds_nothing_costs_nothing() {
        let quota = quota(1);
        drop(reserve(&quota, "alice"));
        assert!(quota.lock().accounts.is_empty());
    }

    #[test]
    fn without_a_limit_everybody_gets_a_slot() {
        let quota = quota(0);
        let held: Vec<_> = (0..1000).filter_map(|_| reserve(&quota, "alice")).collect();
        assert_eq!(held.len(), 1000);
    }

    #[test]
    fn a_users_own_limits_win_over_everybodys() {
        let quota = quota(1);
        let own = Limits { quota: NonZeroU32::new(2), peers: NonZeroU32::new(7), ..Limits::default() };
        let reserve = |limits| quota.reserve(clock::now(), &"alice".into(), limits);
        let first = reserve(own).unwrap();
        assert_eq!(first.meter().max_peers(), 7);
        let second = reserve(own);
        assert!(second.is_some() && reserve(own).is_none() && reserve(Limits::default()).is_none());
    }

    #[test]
    fn allocating_anew_is_no_way_to_full_buckets_and_nobody_stays_in_the_book_for_ever() {
        let quota = Quota::new(Limits { packets: NonZeroU64::new(1), ..Limits::default() });
        let start = clock::now();
        let reserve = |after, account: String| {
            quota.reserve(start + after, &account.into(), Limits::default()).unwrap()
        };
        let pass = |reservation: Reservation| reservation.meter().take(start, 1);
        assert!(pass(reserve(Duration::ZERO, "alice".into())));
        assert!(!pass(reserve(Duration::ZERO, "alice".into())), "the same bucket");
        for number in 0..10 * MIN_SWEEP {
            drop(reserve(Duration::from_secs(2), number.to_string()));
        }
        assert!(quota.lock().accounts.len() <= MIN_SWEEP);
    }
}
