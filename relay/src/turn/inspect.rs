//! What the operator sees and does: allocations by serial number, how they ended, and whether there may be new ones.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::CryptoRng;

use super::allocation::{Allocation, Phase};
use super::{AllocationId, FiveTuple, PeerAddr, RelayedAddr, Server};
use crate::auth::{Authenticator, User};
use crate::policy::{PeerPolicy, UnauthenticatedBudget};
use crate::stun::ChannelNumber;

/// An allocation's name towards people: unlike its id, no other ever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub u64);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where serial numbers come from. Clones share it: one series for all workers.
#[derive(Debug, Clone)]
pub struct Serials(Arc<AtomicU64>);

impl Default for Serials {
    fn default() -> Self {
        Self::from(Serial(1))
    }
}

impl From<Serial> for Serials {
    fn from(Serial(first): Serial) -> Self {
        Self(Arc::new(AtomicU64::new(first)))
    }
}

impl Serials {
    /// One that nobody else gets.
    pub(super) fn draw(&self) -> Serial {
        Serial(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Draws nothing below this any more.
    pub fn go_on_from(&self, Serial(next): Serial) {
        self.0.fetch_max(next, Ordering::Relaxed);
    }

    /// The one that will be drawn next.
    #[must_use]
    pub fn upcoming(&self) -> Serial {
        Serial(self.0.load(Ordering::Relaxed))
    }
}

/// Whether there may be new allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// For whoever has credentials.
    #[default]
    Open,
    /// For nobody: the process is about to end.
    Closed,
}

/// Why an allocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its lifetime was over.
    Expired,
    /// Its client asked for a lifetime of zero.
    Released,
    /// Its client's stream ended.
    Disconnected,
    /// The operator closed it.
    Closed,
    /// The process ended.
    Shutdown,
    /// It goes on in another process.
    HandedOver,
}

impl EndReason {
    /// All of them, with what metrics, logs and usage events call them.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Expired, "expired"),
        (Self::Released, "released"),
        (Self::Disconnected, "disconnected"),
        (Self::Closed, "closed"),
        (Self::Shutdown, "shutdown"),
        (Self::HandedOver, "handed_over"),
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or("", |(_, name)| name)
    }
}

/// An allocation that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// What it was.
    pub summary: Summary,
    /// And why no longer.
    pub reason: EndReason,
}

/// An allocation in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its number among those alive on this worker.
    pub id: AllocationId,
    /// Its name.
    pub serial: Serial,
    /// Whose.
    pub user: User,
    /// By which way.
    pub flow: FiveTuple,
    /// Its socket.
    pub relayed: RelayedAddr,
    /// What that is for.
    pub protocol: super::RelayProtocol,
    /// Since when.
    pub created_at: Instant,
    /// Until when, unless it is refreshed.
    pub expires_at: Instant,
    /// Permissions it has.
    pub permissions: usize,
    /// Channels it has.
    pub channels: usize,
    /// Permissions it was ever given.
    pub peers: u32,
}

/// Who may talk through an allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// IP addresses that may send, and until when.
    pub permissions: Vec<(IpAddr, Instant)>,
    /// Numbers for peers, and until when.
    pub channels: Vec<(ChannelNumber, PeerAddr, Instant)>,
}

/// What can change while allocations live.
#[derive(Debug)]
pub struct Rules {
    /// Who clients are.
    pub authenticator: Authenticator,
    /// What strangers get.
    pub budget: UnauthenticatedBudget,
    /// Where clients may relay.
    pub policy: PeerPolicy,
    /// Which channel numbers may be bound.
    pub channels: super::ChannelRange,
    /// What to do about RFC 3489.
    pub classic_stun: super::ClassicStun,
    /// Where clients go that there is no place for.
    pub alternates: super::Alternates,
    /// Whether TCP is relayed for whoever asks from now on.
    pub tcp_relay: super::TcpRelay,
}

impl<R: CryptoRng> Server<R> {
    /// Draws serial numbers from a series that others draw from, too.
    #[must_use]
    pub fn with_serials(mut self, serials: Serials) -> Self {
        self.serials = serials;
        self
    }

    /// Lets new allocations be made, or none.
    pub fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// Goes by other rules from now on. What was allowed before and is not any more, ends: permissions at once,
    /// allocations of users who are gone when they ask for the next thing.
    pub fn follow(&mut self, rules: Rules) {
        let Rules { authenticator, budget, policy, channels, classic_stun, alternates, tcp_relay } = rules;
        (self.parts.authenticator, self.parts.budget, self.parts.policy) = (authenticator, budget, policy);
        (self.config.channels, self.config.classic_stun) = (channels, classic_stun);
        (self.config.alternates, self.config.tcp_relay) = (alternates, tcp_relay);
        self.end_forbidden_connections();
        let mut forbidden = Vec::new();
        for (_, allocation) in &self.allocations {
            for (peer, expires_at) in allocation.permissions.iter() {
                if !self.parts.policy.allows_ip(peer) {
                    forbidden.push((allocation.id, peer, expires_at));
                }
            }
        }
        for (id, peer, expires_at) in forbidden {
            self.deadlines.remove(super::deadlines::Expiry::Permission(id, peer), expires_at);
            self.revoke(id, peer);
        }
    }

    /// All that live.
    pub fn allocations(&self) -> impl Iterator<Item = Summary> {
        self.allocations.iter().filter_map(|(_, allocation)| allocation.summary())
    }

    /// Who may talk through one.
    #[must_use]
    pub fn peers(&self, id: AllocationId) -> Peers {
        let Some(allocation) = self.allocations.get(id.0) else { return Peers::default() };
        Peers {
            permissions: allocation.permissions.iter().collect(),
            channels: allocation
                .channels
                .iter()
                .map(|(number, binding)| (number, binding.peer, binding.expires_at))
                .collect(),
        }
    }

    /// What realm a listener's clients authenticate for.
    #[must_use]
    pub fn realm(&self, listener: SocketAddr) -> &str {
        self.parts.authenticator.realm_name(listener)
    }

    /// Ends one.
    pub fn close(&mut self, id: AllocationId, reason: EndReason) {
        self.delete(id, reason);
    }

    /// How this one ended, if that was not asked before. They are asked for in the order in which they ended.
    pub fn poll_departure(&mut self, id: AllocationId) -> Option<Departure> {
        self.departures.pop_front_if(|departure| departure.summary.id == id)
    }
}

/// What the operator is told of an allocation, besides what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) serial: Serial,
    pub(super) created_at: Instant,
    /// Permissions it was ever given, renewals apart.
    pub(super) peers: u32,
}

impl Story {
    pub(super) fn begin(serial: Serial, created_at: Instant) -> Self {
        Self { serial, created_at, peers: 0 }
    }
}

impl Allocation {
    /// What there is to say about it once it is open.
    pub(super) fn summary(&self) -> Option<Summary> {
        let Phase::Open { expires_at } = self.phase else { return None };
        let Story { serial, created_at, peers } = self.story?;
        Some(Summary {
            id: self.id,
            serial,
            user: self.credential.user.clone(),
            flow: self.flow,
            relayed: self.relayed,
            protocol: self.protocol,
            created_at,
            expires_at,
            permissions: self.permissions.iter().count(),
            channels: self.channels.iter().count(),
            peers,
        })
    }
}

impl Summary {
    /// How long it has lived.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created_at)
    }
}
