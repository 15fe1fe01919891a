//! Which ports of this server's relay address are relays at this moment, and which worker's.
//!
//! Two clients of one server may talk through it, but whatever else runs on the machine is none of their business. A
//! number for every port, set before an allocation's client hears of it and cleared when the socket closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The set, shared by whoever opens relays and whoever judges peers.
#[derive(Debug, Clone, Default)]
pub struct OwnRelays {
    v4: Ports,
    v6: Ports,
}

impl OwnRelays {
    /// A relay of this worker is open at this address.
    pub fn insert(&self, relayed: SocketAddr, worker: usize) {
        self.set(relayed, u16::try_from(worker).unwrap_or(u16::MAX - 1).saturating_add(1));
    }

    /// It is not any more.
    pub fn remove(&self, relayed: SocketAddr) {
        self.set(relayed, NOBODY);
    }

    /// Whether there is a relay of this address's family at its port.
    #[must_use]
    pub fn contains(&self, peer: SocketAddr) -> bool {
        self.owner(peer).is_some()
    }

    /// The worker whose relay is there.
    #[must_use]
    pub fn owner(&self, peer: SocketAddr) -> Option<usize> {
        let owner = self.of_family(peer).0.get(usize::from(peer.port()))?.load(Ordering::Relaxed);
        usize::from(owner).checked_sub(1)
    }

    fn set(&self, relayed: SocketAddr, owner: u16) {
        if let Some(port) = self.of_family(relayed).0.get(usize::from(relayed.port())) {
            port.store(owner, Ordering::Relaxed);
        }
    }

    fn of_family(&self, address: SocketAddr) -> &Ports {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

#[derive(Debug, Clone)]
struct Ports(Arc<[AtomicU16]>);

impl Default for Ports {
    fn default() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU16::new(NOBODY)).collect())
    }
}

/// Else it is the worker's number and one.
const NOBODY: u16 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_either_family_is_its_own() {
        let relays = OwnRelays::default();
        let at = |port| [SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([0u16; 8], port))];
        let ports = [0, 1, 63, 64, 49152, u16::MAX];
        for [v4, v6] in ports.map(at) {
            relays.insert(v4, 3);
            assert!(relays.owner(v4) == Some(3) && !relays.contains(v6));
        }
        assert_eq!((0..=u16::MAX).filter(|port| relays.contains(at(*port)[0])).collect::<Vec<_>>(), ports);
        relays.remove(at(63)[0]);
        assert!(!relays.contains(at(63)[0]) && relays.contains(at(64)[0]));
    }
}
