//! How many allocations one account may hold, over all workers.
//!
//! A slot is taken before a socket is opened and given back when its holder is dropped, so that no order of requests
//! on any number of workers gets one more than the limit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The book of held slots. Asked once per allocation, never per datagram.
#[derive(Debug, Clone)]
pub struct Quota {
    limit: Option<NonZeroU32>,
    held: Arc<Mutex<HashMap<Arc<str>, u32>>>,
}

impl Quota {
    /// `None` is no limit.
    #[must_use]
    pub fn new(limit: Option<NonZeroU32>) -> Self {
        Self { limit, held: Arc::default() }
    }

    /// Takes a slot of this account. `None` if it holds as many as it may.
    #[must_use]
    pub fn reserve(&self, account: &Arc<str>) -> Option<Reservation> {
        let Some(limit) = self.limit else { return Some(Reservation { slot: None }) };
        let mut held = self.lock();
        let count = held.entry(Arc::clone(account)).or_default();
        if *count >= limit.get() {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Reservation { slot: Some((self.clone(), Arc::clone(account))) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        // The count is changed in one step: a panic elsewhere cannot leave it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, held until dropped.
#[derive(Debug)]
pub struct Reservation {
    slot: Option<(Quota, Arc<str>)>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some((quota, account)) = self.slot.take() else { return };
        if let Entry::Occupied(mut entry) = quota.lock().entry(account) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn exactly_the_limit_succeeds_however_many_threads_ask() {
        let quota = Quota::new(NonZeroU32::new(10));
        let account: Arc<str> = "alice".into();
        let ask = || -> Vec<_> { (0..20).filter_map(|_| quota.reserve(&account)).collect() };
        let held: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 10);
        assert!(quota.reserve(&"bob".into()).is_some(), "another account has its own");
        drop(held);
        assert!(quota.reserve(&account).is_some());
    }

    #[test]
    fn an_account_that_holds_nothing_costs_nothing() {
        let quota = Quota::new(NonZeroU32::new(1));
        drop(quota.reserve(&"alice".into()));
        assert!(quota.lock().is_empty());
    }

    #[test]
    fn without_a_limit_everybody_gets_a_slot() {
        let quota = Quota::new(None);
        let held: Vec<_> = (0..1000).filter_map(|_| quota.reserve(&"alice".into())).collect();
        assert_eq!(held.len(), 1000);
    }
}
