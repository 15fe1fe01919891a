//! Permissions: which peers may send to a relayed address, and be sent to from it.
//!
//! A permission covers an IP address whatever the port; it is renewed or left to expire, never revoked.
//! RFC 8656, section 9.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::policy::Meter;
use crate::sorted_map::SortedMap;

/// The permissions of one allocation.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    expires_at: SortedMap<IpAddr, Instant>,
}

impl Permissions {
    /// Installs or renews one. Returns when it would have expired, if it was there.
    pub(super) fn renew(&mut self, peer: IpAddr, now: Instant) -> Option<Instant> {
        self.expires_at.insert(peer, now + LIFETIME)
    }

    /// Puts one back as it was in another process.
    pub(super) fn restore(&mut self, peer: IpAddr, expires_at: Instant) {
        self.expires_at.insert(peer, expires_at);
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, peer: IpAddr) {
        self.expires_at.remove(peer);
    }

    /// Whether this IP address may send.
    pub(super) fn contains(&self, peer: IpAddr) -> bool {
        self.expires_at.get(peer).is_some()
    }

    /// Whether these can be added now, at this rate and without exceeding what one client may make us remember. If
    /// so, those that are new are paid for.
    pub(super) fn admit(&self, peers: impl Iterator<Item = IpAddr>, now: Instant, meter: &Meter) -> bool {
        let added = peers.filter(|peer| !self.contains(*peer)).count();
        self.expires_at.len() + added <= meter.max_peers().min(MAX_PERMISSIONS)
            && meter.take_peers(now, added)
    }

    /// All of them, with their ends.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Instant)> {
        self.expires_at.iter().map(|(peer, expires_at)| (peer, *expires_at))
    }
}

pub(super) const LIFETIME: Duration = Duration::from_secs(300);
/// Peers of one allocation. A call needs a handful.
pub(super) const MAX_PERMISSIONS: usize = 1024;
