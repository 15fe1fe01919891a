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
        self.set(relayed, u16::try_from(worker).unwrap_or(u16::MAX).min(ELSEWHERE - 2) + 1);
    }

    /// A relay is open at this address, and another process has it.
    pub fn insert_elsewhere(&self, relayed: SocketAddr) {
        self.set(relayed, ELSEWHERE);
    }

    /// The other process has it no longer; perhaps this one has.
    pub fn remove_elsewhere(&self, relayed: SocketAddr) {
        if let Some(port) = self.of_family(relayed).0.get(usize::from(relayed.port())) {
            // Else it is ours by now.
            let _ = port.compare_exchange(ELSEWHERE, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// It is not any more.
    pub fn remove(&self, relayed: SocketAddr) {
        self.set(relayed, NOBODY);
    }

    /// Whether there is a relay of this address's family at its port.
    #[must_use]
    pub fn contains(&self, peer: SocketAddr) -> bool {
        self.state(peer) != NOBODY
    }

    /// The worker whose relay is there, if it is one of this process.
    #[must_use]
    pub fn owner(&self, peer: SocketAddr) -> Option<usize> {
        match self.state(peer) {
            NOBODY | ELSEWHERE => None,
            owner => usize::from(owner).checked_sub(1),
        }
    }

    fn state(&self, peer: SocketAddr) -> u16 {
        let ports = &self.of_family(peer).0;
        ports.get(usize::from(peer.port())).map_or(NOBODY, |port| port.load(Ordering::Relaxed))
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

const NOBODY: u16 = 0;
/// Everything between is a worker's number and one.
const ELSEWHERE: u16 = u16::MAX;

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

    #[test]
    fn a_relay_of_another_process_is_a_relay_and_no_workers() {
        let (relays, at) = (OwnRelays::default(), SocketAddr::from(([192, 0, 2, 1], 50000)));
        relays.insert_elsewhere(at);
        assert!(relays.contains(at) && relays.owner(at).is_none());
        relays.insert(at, usize::from(u16::MAX));
        relays.remove_elsewhere(at);
        assert!(relays.owner(at).is_some(), "it is ours by now");
        relays.insert_elsewhere(at);
        relays.remove_elsewhere(at);
        assert!(!relays.contains(at));
    }
}
