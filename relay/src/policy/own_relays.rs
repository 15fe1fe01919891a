//! Which ports of this server's relay address are relays at this moment, over all workers.
//!
//! Two clients of one server may talk through it, but whatever else runs on the machine is none of their business. A
//! bit for every port, set before an allocation's client hears of it and cleared when the socket closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The set, shared by whoever opens relays and whoever judges peers.
#[derive(Debug, Clone, Default)]
pub struct OwnRelays {
    v4: Ports,
    v6: Ports,
}

impl OwnRelays {
    /// A relay is open at this address.
    pub fn insert(&self, relayed: SocketAddr) {
        self.change(relayed, |word, bit| word.fetch_or(bit, Ordering::Relaxed));
    }

    /// It is not any more.
    pub fn remove(&self, relayed: SocketAddr) {
        self.change(relayed, |word, bit| word.fetch_and(!bit, Ordering::Relaxed));
    }

    /// Whether there is a relay of this address's family at its port.
    #[must_use]
    pub fn contains(&self, peer: SocketAddr) -> bool {
        let (word, bit) = position(peer.port());
        self.of_family(peer).0.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn change(&self, relayed: SocketAddr, change: impl Fn(&AtomicU64, u64) -> u64) {
        let (word, bit) = position(relayed.port());
        if let Some(word) = self.of_family(relayed).0.get(word) {
            change(word, bit);
        }
    }

    fn of_family(&self, address: SocketAddr) -> &Ports {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

#[derive(Debug, Clone)]
struct Ports(Arc<[AtomicU64]>);

impl Default for Ports {
    fn default() -> Self {
        Self((0..=u16::MAX / 64).map(|_| AtomicU64::new(0)).collect())
    }
}

fn position(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_either_family_is_its_own() {
        let relays = OwnRelays::default();
        let at = |port| [SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([0u16; 8], port))];
        let ports = [0, 1, 63, 64, 49152, u16::MAX];
        for [v4, v6] in ports.map(at) {
            relays.insert(v4);
            assert!(relays.contains(v4) && !relays.contains(v6));
        }
        assert_eq!((0..=u16::MAX).filter(|port| relays.contains(at(*port)[0])).collect::<Vec<_>>(), ports);
        relays.remove(at(63)[0]);
        assert!(!relays.contains(at(63)[0]) && relays.contains(at(64)[0]));
    }
}
