//! What ends when, in order of time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::{AllocationId, ConnectionId};
use crate::stun::ChannelNumber;

/// Something that ends by itself. Of what ends at one moment, channels go before permissions, and all before their
/// allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expiry {
    Channel(AllocationId, ChannelNumber),
    Permission(AllocationId, IpAddr),
    Connection(ConnectionId),
    Allocation(AllocationId),
}

/// All that will end.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    ordered: BTreeSet<(Instant, Expiry)>,
}

impl Deadlines {
    /// Sets a deadline instead of the one there was before.
    pub(super) fn renew(&mut self, expiry: Expiry, before: Option<Instant>, at: Instant) {
        if let Some(before) = before {
            self.remove(expiry, before);
        }
        self.ordered.insert((at, expiry));
    }

    /// Forgets a deadline.
    pub(super) fn remove(&mut self, expiry: Expiry, at: Instant) {
        self.ordered.remove(&(at, expiry));
    }

    /// When the next one is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.ordered.first().map(|(at, _)| *at)
    }

    /// Takes one whose time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Expiry> {
        if self.next()? > now {
            return None;
        }
        self.ordered.pop_first().map(|(_, expiry)| expiry)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ordered.len()
    }
}
