//! The relay sockets of one worker, one per allocation.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use super::batch::Plane;
use super::command::Traffic;
use super::linux;
use super::listeners::{Buffers, bind_relay};
use super::succession::SavedRelay;
use super::token::Source;
use crate::auth::User;
use crate::metrics::Direction;
use crate::policy::{Limits, Meter, OwnRelays, Quota, Reservation};
use crate::turn::{AllocationId, IcmpError, PeerAddr, RelayError, RelayedAddr, Restored};

/// Sockets by allocation, which are small numbers.
#[derive(Debug)]
pub(super) struct Relays {
    sockets: Vec<Option<Relay>>,
    by_address: HashMap<SocketAddr, AllocationId, RandomState>,
    /// Whose relays these are.
    worker: usize,
    plane: Plane,
    registry: Registry,
    buffers: Buffers,
    quota: Quota,
    own: OwnRelays,
}

#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    at: RelayedAddr,
    /// What the kernel said last about datagrams that found no room.
    lost: u32,
    /// Given back when the socket closes; what its data is counted with.
    reservation: Reservation,
    traffic: Traffic,
    /// Until when the ICMP errors are paid for that its client was told.
    errors_paid_until: Instant,
}

impl Relays {
    pub(super) fn new(
        worker: usize,
        plane: Plane,
        registry: Registry,
        buffers: Buffers,
        quota: Quota,
        own: OwnRelays,
    ) -> Self {
        let (sockets, by_address) = (Vec::new(), HashMap::default());
        Self { sockets, by_address, worker, plane, registry, buffers, quota, own }
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
        let socket = bind_relay(at.0, self.buffers).map_err(|error| {
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            if is_taken { RelayError::AddressInUse } else { RelayError::Unavailable }
        })?;
        self.plane.prepare_relay(&socket);
        let traffic = Traffic::default();
        let relay = Relay { socket, at, lost: 0, reservation, traffic, errors_paid_until: now };
        self.insert(id, relay).map_err(|_| RelayError::Unavailable)?;
        Ok(meter)
    }

    /// Watches a socket from now on.
    fn insert(&mut self, id: AllocationId, relay: Relay) -> io::Result<()> {
        let descriptor = relay.socket.as_raw_fd();
        self.registry.register(&mut SourceFd(&descriptor), Source::Relay(id).into(), Interest::READABLE)?;
        if self.sockets.len() <= id.0 {
            self.sockets.resize_with(id.0 + 1, || None);
        }
        if let Some(slot) = self.sockets.get_mut(id.0) {
            self.by_address.insert(relay.at.0, id);
            self.own.insert(relay.at.0, self.worker);
            *slot = Some(relay);
        }
        Ok(())
    }

    /// What another process needs to go on with one: it stays open here, too.
    pub(super) fn share(&self, id: AllocationId) -> io::Result<(SavedRelay, UdpSocket)> {
        let relay = self.sockets.get(id.0).and_then(Option::as_ref).ok_or(io::ErrorKind::NotFound)?;
        let Relay { socket, at: _, lost, reservation: _, traffic, errors_paid_until: _ } = relay;
        Ok((SavedRelay { traffic: *traffic, lost: *lost }, socket.try_clone()?))
    }

    /// Goes on with one of another process.
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        restored: &Restored,
        saved: SavedRelay,
        socket: UdpSocket,
    ) -> io::Result<Meter> {
        let Restored { id, relayed, user, limits } = restored;
        let SavedRelay { traffic, lost } = saved;
        if socket.local_addr()? != relayed.0 {
            return Err(io::Error::other("a relay with another's socket"));
        }
        let adopted = self.quota.adopt(now, &user.account, *limits);
        let reservation = adopted.ok_or_else(|| io::Error::other("an allocation without a slot"))?;
        let meter = reservation.meter().clone();
        self.plane.take_over_relay(&socket);
        self.insert(*id, Relay { socket, at: *relayed, lost, reservation, traffic, errors_paid_until: now })?;
        Ok(meter)
    }

    /// Forgets one with which another process goes on. It is open there, and so must be taken out of the poll by name;
    /// and it goes on being a relay of this server.
    pub(super) fn release(&mut self, id: AllocationId) {
        if let Some(relay) = self.sockets.get_mut(id.0).and_then(Option::take) {
            let _ = self.registry.deregister(&mut SourceFd(&relay.socket.as_raw_fd()));
            self.by_address.remove(&relay.at.0);
            self.own.insert_elsewhere(relay.at.0);
        }
    }

    /// Whether its user may relay so much now, in either direction; if so it is counted.
    pub(super) fn may_relay(
        &mut self,
        now: Instant,
        id: AllocationId,
        direction: Direction,
        bytes: usize,
    ) -> bool {
        let Some(relay) = self.sockets.get_mut(id.0).and_then(Option::as_mut) else { return true };
        let is_within = relay.reservation.meter().take(now, bytes);
        if is_within {
            match direction {
                Direction::ToPeer => relay.traffic.to_peer.add(bytes),
                Direction::ToClient => relay.traffic.to_client.add(bytes),
            }
        }
        is_within
    }

    /// What went through one.
    pub(super) fn traffic(&self, id: AllocationId) -> Traffic {
        self.sockets.get(id.0).and_then(Option::as_ref).map(|relay| relay.traffic).unwrap_or_default()
    }

    /// Counts new allocations in another book from now on.
    pub(super) fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
    }

    /// Closes it. A socket that is closed is no longer watched.
    pub(super) fn close(&mut self, id: AllocationId) {
        if let Some(relay) = self.sockets.get_mut(id.0).and_then(Option::take) {
            self.own.remove(relay.at.0);
            self.by_address.remove(&relay.at.0);
        }
    }

    /// If `peer` is a relay of this server beside that of `id`: whose it is, and how it knows that of `id`.
    pub(super) fn beside(&self, id: AllocationId, peer: PeerAddr) -> Option<(usize, PeerAddr)> {
        let from = self.sockets.get(id.0)?.as_ref()?.at.0;
        // Most peers are elsewhere, and their port's place in the shared table need not be looked at.
        if from.ip() != peer.0.ip() {
            return None;
        }
        Some((self.own.owner(peer.0)?, PeerAddr(from)))
    }

    /// Gives memory back that only more relays than there are now would need.
    pub(super) fn shrink(&mut self) {
        let used = self.sockets.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.sockets.truncate(used);
        self.sockets.shrink_to_fit();
        self.by_address.shrink_to_fit();
    }

    /// Whose relay this worker has at an address.
    pub(super) fn find(&self, at: RelayedAddr) -> Option<AllocationId> {
        self.by_address.get(&at.0).copied()
    }

    /// Notes what the kernel says about datagrams lost so far, and returns how many are new.
    pub(super) fn note_lost(&mut self, id: AllocationId, lost: u32) -> u32 {
        let relay = self.sockets.get_mut(id.0).and_then(Option::as_mut);
        relay.map_or(0, |relay| lost.wrapping_sub(std::mem::replace(&mut relay.lost, lost)))
    }

    /// The next thing that the network has said about what this one sent, see [`Plane::next_error`].
    pub(super) fn next_error(&self, id: AllocationId) -> Option<Option<IcmpError>> {
        self.plane.next_error(self.socket(id)?)
    }

    /// Whether its client may be told of one more ICMP error now. Strangers can make them up by the thousand.
    pub(super) fn may_tell_error(&mut self, now: Instant, id: AllocationId) -> bool {
        let Some(relay) = self.sockets.get_mut(id.0).and_then(Option::as_mut) else { return false };
        let begins = relay.errors_paid_until.max(now);
        let may_tell = begins < now + ERROR_INTERVAL * ERROR_BURST;
        if may_tell {
            relay.errors_paid_until = begins + ERROR_INTERVAL;
        }
        may_tell
    }

    /// Where one is.
    pub(super) fn address(&self, id: AllocationId) -> Option<RelayedAddr> {
        self.sockets.get(id.0)?.as_ref().map(|relay| relay.at)
    }

    pub(super) fn socket(&self, id: AllocationId) -> Option<&UdpSocket> {
        self.sockets.get(id.0)?.as_ref().map(|relay| &relay.socket)
    }

    /// Sends to a peer, with the don't-fragment bit for this datagram alone.
    pub(super) fn send_whole(&self, id: AllocationId, peer: SocketAddr, data: &[u8]) -> io::Result<()> {
        let socket = self.socket(id).ok_or(io::ErrorKind::NotConnected)?;
        send_whole(socket, peer, data)
    }
}

fn send_whole(socket: &UdpSocket, peer: SocketAddr, data: &[u8]) -> io::Result<()> {
    if peer.is_ipv4() {
        let before = sockopt::ip_mtu_discover(socket)?;
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
        let sent = linux::insist(|| socket.send_to(data, peer)).map(drop);
        sockopt::set_ip_mtu_discover(socket, before)?;
        sent
    } else {
        let before = sockopt::ipv6_mtu_discover(socket)?;
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
        let sent = linux::insist(|| socket.send_to(data, peer)).map(drop);
        sockopt::set_ipv6_mtu_discover(socket, before)?;
        sent
    }
}

/// Between ICMP errors that one client is told, once it has been told of so many at a time: those that it tries while it
/// looks for a way.
const ERROR_INTERVAL: Duration = Duration::from_millis(100);
const ERROR_BURST: u32 = 16;
