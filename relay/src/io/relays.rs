//! The relay sockets of one worker, one per allocation.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::UdpSocket;
use mio::{Interest, Registry};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use super::listeners::bind_relay;
use super::portable;
use super::token::Source;
use crate::auth::User;
use crate::policy::{Limits, Meter, OwnRelays, Quota, Reservation};
use crate::turn::{AllocationId, Fragmentation, RelayError, RelayedAddr};

/// Sockets by allocation, which are small numbers.
#[derive(Debug)]
pub(super) struct Relays {
    sockets: Vec<Option<Relay>>,
    registry: Registry,
    quota: Quota,
    own: OwnRelays,
}

#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    at: RelayedAddr,
    /// Given back when the socket closes; what its data is counted with.
    reservation: Reservation,
}

impl Relays {
    pub(super) fn new(registry: Registry, quota: Quota, own: OwnRelays) -> Self {
        Self { sockets: Vec::new(), registry, quota, own }
    }

    /// Opens a socket at this address against this user's quota.
    pub(super) fn open(
        &mut self,
        now: Instant,
        id: AllocationId,
        at: RelayedAddr,
        user: &User,
        limits: Limits,
    ) -> Result<Meter, RelayError> {
        let reserved = self.quota.reserve(now, &user.account, limits);
        let reservation = reserved.ok_or(RelayError::QuotaReached)?;
        let meter = reservation.meter().clone();
        let socket = bind_relay(at.0).map_err(|error| {
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            if is_taken { RelayError::AddressInUse } else { RelayError::Unavailable }
        })?;
        let mut socket = UdpSocket::from_std(socket);
        let registered = self.registry.register(&mut socket, Source::Relay(id).into(), Interest::READABLE);
        registered.map_err(|_| RelayError::Unavailable)?;
        if self.sockets.len() <= id.0 {
            self.sockets.resize_with(id.0 + 1, || None);
        }
        if let Some(slot) = self.sockets.get_mut(id.0) {
            *slot = Some(Relay { socket, at, reservation });
            self.own.insert(at.0);
        }
        Ok(meter)
    }

    /// Whether its user may relay so much now, in either direction.
    pub(super) fn may_relay(&self, now: Instant, id: AllocationId, bytes: usize) -> bool {
        let relay = self.sockets.get(id.0).and_then(Option::as_ref);
        relay.is_none_or(|relay| relay.reservation.meter().take(now, bytes))
    }

    /// Closes it.
    pub(super) fn close(&mut self, id: AllocationId) {
        if let Some(mut relay) = self.sockets.get_mut(id.0).and_then(Option::take) {
            self.own.remove(relay.at.0);
            // A socket that is closed is no longer watched anyhow.
            let _ = self.registry.deregister(&mut relay.socket);
        }
    }

    pub(super) fn socket(&self, id: AllocationId) -> Option<&UdpSocket> {
        self.sockets.get(id.0)?.as_ref().map(|relay| &relay.socket)
    }

    /// Sends to a peer.
    pub(super) fn send(
        &self,
        id: AllocationId,
        peer: SocketAddr,
        data: &[u8],
        fragmentation: Fragmentation,
    ) -> io::Result<()> {
        let socket = self.socket(id).ok_or(io::ErrorKind::NotConnected)?;
        match fragmentation {
            Fragmentation::Allowed => portable::send(socket, peer, data),
            Fragmentation::Forbidden => send_whole(socket, peer, data),
        }
    }
}

/// Sends with the don't-fragment bit, for this datagram alone.
fn send_whole(socket: &UdpSocket, peer: SocketAddr, data: &[u8]) -> io::Result<()> {
    if peer.is_ipv4() {
        let before = sockopt::ip_mtu_discover(socket)?;
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
        let sent = portable::send(socket, peer, data);
        sockopt::set_ip_mtu_discover(socket, before)?;
        sent
    } else {
        let before = sockopt::ipv6_mtu_discover(socket)?;
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
        let sent = portable::send(socket, peer, data);
        sockopt::set_ipv6_mtu_discover(socket, before)?;
        sent
    }
}
