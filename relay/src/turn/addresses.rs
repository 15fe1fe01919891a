//! Where relay sockets are, and what clients and peers call them.
//!
//! Behind a one-to-one NAT the two differ. Two clients of this server then know each other by outside addresses, and
//! few such NATs carry a datagram back in; so between our own relays the translation happens here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::{PeerAddr, RelayedAddr};

/// The relay's side of the server.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Where IPv4 relay sockets are bound; none, no IPv4 allocations.
    pub relay_v4: Option<Ipv4Addr>,
    /// Where IPv6 relay sockets are bound; none, no IPv6 allocations.
    pub relay_v6: Option<Ipv6Addr>,
    /// What the world calls `relay_v4`, if not that.
    pub external_v4: Option<Ipv4Addr>,
    /// What the world calls `relay_v6`, if not that.
    pub external_v6: Option<Ipv6Addr>,
    /// Ports of relay sockets.
    pub ports: RangeInclusive<u16>,
}

impl Addresses {
    /// What XOR-RELAYED-ADDRESS says of a relay socket.
    #[must_use]
    pub fn advertised(&self, RelayedAddr(bound): RelayedAddr) -> SocketAddr {
        let external = match bound.ip() {
            IpAddr::V4(_) => self.external_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.external_v6.map(IpAddr::V6),
        };
        SocketAddr::new(external.unwrap_or_else(|| bound.ip()), bound.port())
    }

    /// Where to send what a client wants sent to `peer`.
    #[must_use]
    pub fn on_the_wire(&self, PeerAddr(peer): PeerAddr) -> PeerAddr {
        let relay = self.pairs().find(|(_, external)| *external == peer.ip()).map(|(relay, _)| relay);
        let relay = relay.filter(|_| self.ports.contains(&peer.port()));
        PeerAddr(SocketAddr::new(relay.unwrap_or_else(|| peer.ip()), peer.port()))
    }

    /// What else a client may know the sender of a datagram by.
    #[must_use]
    pub fn known_as(&self, PeerAddr(from): PeerAddr) -> Option<PeerAddr> {
        let external = self.pairs().find(|(relay, _)| *relay == from.ip()).map(|(_, external)| external)?;
        self.ports.contains(&from.port()).then(|| PeerAddr(SocketAddr::new(external, from.port())))
    }

    /// What clients are told relays are at.
    pub fn advertised_ips(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.external_v4.filter(|_| self.relay_v4.is_some()).or(self.relay_v4);
        let v6 = self.external_v6.filter(|_| self.relay_v6.is_some()).or(self.relay_v6);
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }

    /// Relay addresses and what the world calls them, where that is something else.
    pub fn pairs(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v4 = self.relay_v4.zip(self.external_v4).map(|(relay, external)| (relay.into(), external.into()));
        let v6 = self.relay_v6.zip(self.external_v6).map(|(relay, external)| (relay.into(), external.into()));
        v4.into_iter().chain(v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerAddr {
        PeerAddr(text.parse().unwrap())
    }

    #[test]
    fn relays_know_each_other_by_their_outside_addresses() {
        let addresses = Addresses {
            relay_v4: Some(Ipv4Addr::new(10, 0, 0, 5)),
            relay_v6: None,
            external_v4: Some(Ipv4Addr::new(198, 51, 100, 9)),
            external_v6: None,
            ports: 50000..=60000,
        };
        assert_eq!(addresses.advertised(RelayedAddr(peer("10.0.0.5:50001").0)), peer("198.51.100.9:50001").0);
        assert_eq!(addresses.on_the_wire(peer("198.51.100.9:50001")), peer("10.0.0.5:50001"));
        assert_eq!(addresses.known_as(peer("10.0.0.5:50001")), Some(peer("198.51.100.9:50001")));
        assert_eq!(addresses.on_the_wire(peer("198.51.100.9:22")), peer("198.51.100.9:22"), "no relay port");
        assert_eq!(addresses.on_the_wire(peer("192.0.2.1:50001")), peer("192.0.2.1:50001"));
        assert_eq!(addresses.known_as(peer("192.0.2.1:50001")), None);
    }
}
