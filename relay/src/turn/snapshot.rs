//! A server's whole state as plain data, so that another process can go on from it.
//!
//! Every moment in it is so long from now, since two processes need not agree on when time began. Sockets are not in
//! it: whoever restores a server brings them, under the same numbers. Every field is named on both ways, so that a new
//! one does not compile until somebody has decided what becomes of it here.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use farcall_proto::turn_credentials::UnixTime;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use slab::Slab;

use super::allocate::{Family, ReservationToken};
use super::allocation::{Allocation, Phase};
use super::channel::Channels;
use super::deadlines::Expiry;
use super::inspect::Story;
use super::mobility::SavedMobile;
use super::permission::Permissions;
use super::{
    Action, AllocationId, ClientAddr, EndReason, FiveTuple, PeerAddr, Reject, RelayProtocol, RelayedAddr,
    Serial, Server, Transport,
};
use crate::auth::{Credential, KeySource, User};
use crate::policy::{Limits, Meter};
use crate::stun::{ChannelNumber, IntegrityKey, TransactionId};

/// What one server knows of those who go to another process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every allocation whose socket is open.
    allocations: Vec<SavedAllocation>,
    mobiles: Vec<SavedMobile>,
    /// Lately ended by their clients: for so long still, by whom, in which transaction.
    ended: Vec<(Duration, SavedFlow, [u8; 12])>,
    /// Requests of clients of whom somebody else was asked: they are asked about again.
    waiting: Vec<(SavedFlow, Vec<u8>)>,
}

/// One allocation.
#[derive(Serialize, Deserialize)]
struct SavedAllocation {
    id: usize,
    flow: SavedFlow,
    relayed: SocketAddr,
    user: String,
    account: String,
    key: Vec<u8>,
    source: KeySource,
    credential_expires_at: Option<u64>,
    limits: Option<Limits>,
    transaction_id: [u8; 12],
    granted: Duration,
    phase: SavedPhase,
    permissions: Vec<(IpAddr, Duration)>,
    channels: Vec<(u16, SocketAddr, Duration)>,
    held: Option<ReservationToken>,
    refused: Option<(Family, Reject)>,
    story: Option<SavedStory>,
}

/// A client's ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SavedFlow {
    client: SocketAddr,
    server: SocketAddr,
    transport: Transport,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum SavedPhase {
    Held { token: ReservationToken, expires_in: Duration },
    Open { expires_in: Duration },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SavedStory {
    serial: u64,
    age: Duration,
    peers: u32,
}

impl std::fmt::Debug for SavedAllocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedAllocation").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a restored allocation needs from outside.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its number.
    pub id: AllocationId,
    /// Where its socket is.
    pub relayed: RelayedAddr,
    /// Whose quota it counts against.
    pub user: User,
    /// What that user may use.
    pub limits: Limits,
}

/// A snapshot that no server made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot says what cannot be")]
pub struct Corrupt;

impl Snapshot {
    /// The allocations in it.
    pub fn ids(&self) -> impl Iterator<Item = AllocationId> {
        self.allocations.iter().map(|saved| AllocationId(saved.id))
    }

    /// Takes out the requests that wait, to be handled like any others once all is restored.
    pub fn take_waiting(&mut self) -> Vec<(FiveTuple, Vec<u8>)> {
        std::mem::take(&mut self.waiting).into_iter().map(|(flow, message)| (flow.into(), message)).collect()
    }
}

impl<R: CryptoRng> Server<R> {
    /// What there is to know about the clients that `goes` says yes to, and about nothing else.
    #[must_use]
    pub fn snapshot(&self, now: Instant, goes: impl Fn(&FiveTuple) -> bool) -> Snapshot {
        // What is not said here: the configuration and its parts, which the other process has of its own; indices,
        // which follow from the allocations; actions, of which there are none between two events; and departures,
        // which have been told.
        let Self {
            config: _,
            parts: _,
            allocations,
            clients: _,
            held_ports: _,
            // A connection and the stream that asked for it stay where they are; `save` leaves their allocation out.
            connections: _,
            mobiles,
            ended,
            deadlines: _,
            waiting,
            actions: _,
            serials: _,
            admission: _,
            departures: _,
        } = self;
        let left = |at: Instant| at.saturating_duration_since(now);
        Snapshot {
            allocations: allocations
                .iter()
                .map(|(_, allocation)| allocation)
                .filter(|allocation| self.leaves(&goes, &allocation.flow))
                .filter_map(|allocation| allocation.save(now))
                .collect(),
            mobiles: mobiles.save(|flow| self.leaves(&goes, flow), &goes),
            ended: ended
                .iter()
                .filter(|(_, flow, _)| goes(flow))
                .map(|(until, flow, id)| (left(until), SavedFlow::from(flow), id.0))
                .collect(),
            waiting: waiting
                .requests()
                .filter(|(flow, _)| goes(flow))
                .map(|(flow, message)| (SavedFlow::from(*flow), message.to_vec()))
                .collect(),
        }
    }

    /// Goes on from there, instead of from nothing. Says which sockets it needs, and wants to be told about each by
    /// `handle_restored`; the routes are installed by actions as ever.
    pub fn restore(&mut self, now: Instant, snapshot: Snapshot) -> Result<Vec<Restored>, Corrupt> {
        let Snapshot { mut allocations, mobiles, ended, waiting: _ } = snapshot;
        // In the order in which they were made, which is the order in which a client's answers name them.
        allocations.sort_by_key(|saved| saved.story.map(|story| story.serial));
        let mut revived =
            allocations.into_iter().map(|saved| saved.revive(now)).collect::<Result<Vec<_>, _>>()?;
        let mut ids = HashSet::new();
        if !revived.iter().all(|allocation| ids.insert(allocation.id) && allocation.id.0 < MAX_ALLOCATIONS) {
            return Err(Corrupt);
        }
        let restored = revived.iter_mut().map(|allocation| self.restore_one(allocation)).collect();
        self.allocations =
            revived.into_iter().map(|allocation| (allocation.id.0, allocation)).collect::<Slab<_>>();
        for mobile in mobiles {
            self.mobiles.restore(mobile);
        }
        for (left, flow, id) in ended {
            self.ended.restore(moment(now, left)?, flow.into(), TransactionId(id));
        }
        Ok(restored)
    }

    /// All that follows from one allocation.
    fn restore_one(&mut self, allocation: &mut Allocation) -> Restored {
        let id = allocation.id;
        // What the rules of this process forbid has ended with the other.
        let forbidden: Vec<_> =
            allocation.permissions.iter().filter(|(peer, _)| !self.parts.policy.allows_ip(*peer)).collect();
        forbidden.into_iter().for_each(|(peer, _)| allocation.permissions.remove(peer));
        match allocation.phase {
            Phase::Opening(_) => {}
            Phase::Held { token, .. } => drop(self.held_ports.insert(token, id)),
            Phase::Open { .. } => {
                self.clients.add(allocation.flow, id);
                self.parts.metrics.allocations.add(1);
            }
        }
        if let Some(expires_at) = allocation.expires_at() {
            self.deadlines.renew(Expiry::Allocation(id), None, expires_at);
        }
        for (peer, expires_at) in allocation.permissions.iter() {
            self.deadlines.renew(Expiry::Permission(id, peer), None, expires_at);
        }
        for (channel, binding) in allocation.channels.iter() {
            self.deadlines.renew(Expiry::Channel(id, channel), None, binding.expires_at);
            if allocation.permissions.contains(binding.peer.0.ip()) {
                let peer = self.config.addresses.on_the_wire(binding.peer);
                let route = allocation.route(channel, peer);
                self.push(Action::InstallRoute(route));
            }
        }
        Restored {
            id,
            relayed: allocation.relayed,
            user: allocation.credential.user.clone(),
            limits: allocation.credential.limits.as_deref().copied().unwrap_or_default(),
        }
    }

    /// What new peers of a restored allocation are counted with.
    pub fn handle_restored(&mut self, id: AllocationId, meter: Meter) {
        if let Some(allocation) = self.allocations.get_mut(id.0) {
            allocation.meter = meter;
        }
    }

    /// Forgets what another process goes on with, and says which sockets those were. Nobody hears of it: no answer, no
    /// record, since nothing has ended.
    pub fn forget(&mut self, went: impl Fn(&FiveTuple) -> bool) -> Vec<AllocationId> {
        let meant = self.allocations.iter().map(|(_, allocation)| allocation);
        let meant = meant.filter(|allocation| self.leaves(&went, &allocation.flow));
        let ids: Vec<_> = meant.map(|allocation| allocation.id).collect();
        for id in &ids {
            self.delete(*id, EndReason::HandedOver);
        }
        self.departures = VecDeque::new();
        self.waiting.forget_all(went);
        ids
    }

    /// Whether a client goes: it can, or it is on its way to an address that can.
    fn leaves(&self, goes: &impl Fn(&FiveTuple) -> bool, flow: &FiveTuple) -> bool {
        goes(flow) || self.mobiles.destination(*flow).is_some_and(|to| goes(&to))
    }
}

impl Allocation {
    fn save(&self, now: Instant) -> Option<SavedAllocation> {
        let Self {
            id,
            flow,
            relayed,
            protocol,
            credential,
            transaction_id,
            granted,
            phase,
            // Counts with what is said of the user.
            meter: _,
            permissions,
            channels,
            held,
            refused,
            story,
        } = self;
        if *protocol == RelayProtocol::Tcp {
            return None;
        }
        let Credential { user: User { name, account }, key, source, expires_at, limits } = credential;
        let left = |at: Instant| at.saturating_duration_since(now);
        let phase = match phase {
            // Lasts no longer than the handling of one datagram.
            Phase::Opening(_) => return None,
            Phase::Held { token, expires_at } => {
                SavedPhase::Held { token: *token, expires_in: left(*expires_at) }
            }
            Phase::Open { expires_at } => SavedPhase::Open { expires_in: left(*expires_at) },
        };
        Some(SavedAllocation {
            id: id.0,
            flow: SavedFlow::from(*flow),
            relayed: relayed.0,
            user: name.to_string(),
            account: account.to_string(),
            key: key.as_bytes().to_vec(),
            source: *source,
            credential_expires_at: expires_at.map(|UnixTime(seconds)| seconds),
            limits: limits.as_deref().copied(),
            transaction_id: transaction_id.0,
            granted: *granted,
            phase,
            permissions: permissions.iter().map(|(peer, expires_at)| (peer, left(expires_at))).collect(),
            channels: channels
                .iter()
                .map(|(number, binding)| (number.number(), binding.peer.0, left(binding.expires_at)))
                .collect(),
            held: *held,
            refused: *refused,
            story: story.map(|Story { serial: Serial(serial), created_at, peers }| SavedStory {
                serial,
                age: now.saturating_duration_since(created_at),
                peers,
            }),
        })
    }
}

impl SavedAllocation {
    fn revive(self, now: Instant) -> Result<Allocation, Corrupt> {
        let Self {
            id,
            flow,
            relayed,
            user,
            account,
            key,
            source,
            credential_expires_at,
            limits,
            transaction_id,
            granted,
            phase,
            permissions: saved_permissions,
            channels: saved_channels,
            held,
            refused,
            story,
        } = self;
        moment(now, granted)?;
        let mut permissions = Permissions::default();
        for (peer, left) in saved_permissions {
            permissions.restore(peer, moment(now, left)?);
        }
        let mut channels = Channels::default();
        for (number, peer, left) in saved_channels {
            let number = ChannelNumber::new(number).ok_or(Corrupt)?;
            channels.restore(number, PeerAddr(peer), moment(now, left)?);
        }
        let name = User::named(&user);
        let user = if user == account { name } else { User { account: account.into(), ..name } };
        Ok(Allocation {
            id: AllocationId(id),
            flow: flow.into(),
            relayed: RelayedAddr(relayed),
            protocol: RelayProtocol::Udp,
            credential: Credential {
                user,
                key: IntegrityKey::from_bytes(&key),
                source,
                expires_at: credential_expires_at.map(UnixTime),
                limits: limits.map(Box::new),
            },
            transaction_id: TransactionId(transaction_id),
            granted,
            phase: match phase {
                SavedPhase::Held { token, expires_in } => {
                    Phase::Held { token, expires_at: moment(now, expires_in)? }
                }
                SavedPhase::Open { expires_in } => Phase::Open { expires_at: moment(now, expires_in)? },
            },
            meter: Meter::default(),
            permissions,
            channels,
            held,
            refused,
            story: story.map(|SavedStory { serial, age, peers }| Story {
                serial: Serial(serial),
                created_at: now.checked_sub(age).unwrap_or(now),
                peers,
            }),
        })
    }
}

/// So long from now.
fn moment(now: Instant, left: Duration) -> Result<Instant, Corrupt> {
    now.checked_add(left).filter(|_| left <= LONGEST).ok_or(Corrupt)
}

impl From<FiveTuple> for SavedFlow {
    fn from(FiveTuple { client, server, transport }: FiveTuple) -> Self {
        Self { client: client.0, server, transport }
    }
}

impl From<SavedFlow> for FiveTuple {
    fn from(SavedFlow { client, server, transport }: SavedFlow) -> Self {
        Self { client: ClientAddr(client), server, transport }
    }
}

/// Of one worker: every port of both families.
const MAX_ALLOCATIONS: usize = 1 << 17;
/// Nothing here lasts as long.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
