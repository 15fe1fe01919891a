//! Allocate: what a client may ask for at once, and the sockets that must open before it is answered. RFC 8656,
//! section 7.
//!
//! One request may need two sockets, one after another: one of each address family, or two neighbouring ports of which
//! the upper is held for 30 seconds for whoever brings its token.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use farcall_proto::turn_credentials::UnixTime;
use rand::CryptoRng;
use tracing::{debug, info};

use super::allocation::{Allocation, Next, Opening, Phase};
use super::channel::Channels;
use super::deadlines::Expiry;
use super::inspect::Story;
use super::permission::Permissions;
use super::ports::{Parity, PortSequence};
use super::reply::Reply;
use super::{
    Action, Admission, AllocationId, FiveTuple, Now, Reject, RelayError, RelayProtocol, RelayedAddr, Server,
    TcpRelay, WorkerIndex, connections, lifetime,
};
use crate::auth::Credential;
use crate::policy::Meter;
use crate::stun::{AttributeType, Message};

/// An address family, as REQUESTED-ADDRESS-FAMILY and ADDRESS-ERROR-CODE know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => 0x01,
            Self::V6 => 0x02,
        }
    }

    /// What REQUESTED-ADDRESS-FAMILY says.
    pub(super) fn requested(message: &Message<'_>) -> Result<Option<Self>, Reject> {
        match message.find(AttributeType::REQUESTED_ADDRESS_FAMILY) {
            None => Ok(None),
            Some([0x01, _, _, _]) => Ok(Some(Self::V4)),
            Some([0x02, _, _, _]) => Ok(Some(Self::V6)),
            Some([_, _, _, _]) => Err(Reject::AddressFamilyNotSupported),
            Some(_) => Err(Reject::BadRequest),
        }
    }
}

/// What RESERVATION-TOKEN says: random, and known to nobody but who was given it.
pub(super) type ReservationToken = [u8; 8];

/// What an Allocate asks for, once it makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// A relayed address of this family.
    One { family: Family, parity: Parity },
    /// With an even port, and the next one held.
    WithNextPort { family: Family },
    /// One of each family.
    Both,
    /// The port that was held.
    Held(ReservationToken),
}

impl Wish {
    fn of(message: &Message<'_>) -> Result<Self, Reject> {
        let family = Family::requested(message)?;
        let has_additional = requests_additional_family(message)?;
        let even_port = match message.find(AttributeType::EVEN_PORT) {
            None => None,
            Some([flags]) => Some(flags & RESERVE_NEXT != 0),
            Some(_) => return Err(Reject::BadRequest),
        };
        if let Some(token) = message.find(AttributeType::RESERVATION_TOKEN) {
            let token = token.try_into().map_err(|_| Reject::BadRequest)?;
            let is_alone = even_port.is_none() && family.is_none() && !has_additional;
            return if is_alone { Ok(Self::Held(token)) } else { Err(Reject::BadRequest) };
        }
        if has_additional {
            let makes_sense = family.is_none() && even_port != Some(true);
            return if makes_sense { Ok(Self::Both) } else { Err(Reject::BadRequest) };
        }
        let family = family.unwrap_or(Family::V4);
        Ok(match even_port {
            None => Self::One { family, parity: Parity::Any },
            Some(false) => Self::One { family, parity: Parity::Even },
            Some(true) => Self::WithNextPort { family },
        })
    }
}

/// An allocation about to be tried.
struct Attempt {
    reply: Reply,
    credential: Credential,
    granted: Duration,
    protocol: RelayProtocol,
    family: Family,
    parity: Parity,
    next: Next,
    /// What became of the other family.
    refused: Option<(Family, Reject)>,
}

impl<R: CryptoRng> Server<R> {
    /// Section 7.2: the same transaction again gets the same answer; another one should not have been made.
    pub(super) fn handle_repeated_allocate(&mut self, reply: &Reply, id: AllocationId) -> Result<(), Reject> {
        let allocation = self.allocations.get(id.0).ok_or(Reject::AllocationMismatch)?;
        if allocation.transaction_id != reply.transaction_id {
            return Err(Reject::AllocationMismatch);
        }
        match allocation.phase {
            Phase::Opening(_) | Phase::Held { .. } => {}
            Phase::Open { .. } => self.respond_allocated(reply),
        }
        Ok(())
    }

    pub(super) fn handle_allocate(
        &mut self,
        now: Now,
        reply: &Reply,
        credential: Credential,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        if is_expired(&credential, now.unix) {
            return Err(Reject::Unauthenticated);
        }
        let protocol = self.requested_protocol(reply.flow, message)?;
        if self.admission == Admission::Closed {
            self.refuse_for_lack_of_room(reply);
            return Ok(());
        }
        let wish = Wish::of(message)?;
        let is_mobile = match message.find(AttributeType::MOBILITY_TICKET) {
            None => false,
            // What goes with connections does not move.
            Some([]) => protocol == RelayProtocol::Udp,
            Some(_) => return Err(Reject::BadRequest),
        };
        if let Wish::Held(token) = wish
            && let Some(worker) = self.elsewhere(token)
        {
            self.push(Action::HandOver { flow: reply.flow, worker, message: message.as_bytes().to_vec() });
            return Ok(());
        }
        if is_mobile {
            let ticket = self.parts.handles.new_ticket(&mut self.parts.rng);
            self.mobiles.add(reply.flow, ticket, reply.transaction_id);
        }
        let granted = self.config.lifetimes.grant(lifetime::requested(message)?);
        let granted = credential.bound(now.unix).map_or(granted, |bound| granted.min(bound));
        let attempt = |family, parity, next| Attempt {
            reply: reply.clone(),
            credential: credential.clone(),
            granted,
            protocol,
            family,
            parity,
            next,
            refused: None,
        };
        let result = match wish {
            Wish::One { family, parity } => self.attempt(attempt(family, parity, Next::Answer)),
            Wish::WithNextPort { family } => {
                self.attempt(attempt(family, Parity::EvenWithNext, Next::HoldNextPort))
            }
            Wish::Both => {
                let first = attempt(Family::V4, Parity::Any, Next::OpenOther);
                self.attempt(first).or_else(|reject| {
                    let refused = Some((Family::V4, reject));
                    self.attempt(Attempt { refused, ..attempt(Family::V6, Parity::Any, Next::Answer) })
                })
            }
            Wish::Held(token) => self.claim(now.instant, reply, credential, granted, token),
        };
        if result.is_err() {
            self.mobiles.forget(reply.flow);
        }
        result
    }

    /// Which other worker a token is of.
    fn elsewhere(&self, token: ReservationToken) -> Option<WorkerIndex> {
        if self.held_ports.contains_key(&token) {
            return None;
        }
        self.parts.handles.token_worker(token).filter(|worker| *worker != self.parts.handles.worker())
    }

    /// Makes an allocation and asks for its socket.
    fn attempt(&mut self, attempt: Attempt) -> Result<(), Reject> {
        let Attempt { reply, credential, granted, protocol, family, parity, next, refused } = attempt;
        let ip = self.relay_ip(family)?;
        let mut ports = PortSequence::new(&mut self.parts.rng, &self.config.addresses.ports, parity);
        let port = ports.next().ok_or(Reject::InsufficientCapacity)?;
        let (flow, transaction_id) = (reply.flow, reply.transaction_id);
        let id = self.insert(|id| Allocation {
            id,
            flow,
            relayed: RelayedAddr(SocketAddr::new(ip, port)),
            protocol,
            credential,
            transaction_id,
            granted,
            phase: Phase::Opening(Box::new(Opening { reply, ports, next })),
            meter: Meter::default(),
            permissions: Permissions::default(),
            channels: Channels::default(),
            held: None,
            refused,
            story: None,
        });
        self.clients.add(flow, id);
        self.request_relay(id, port);
        Ok(())
    }

    fn insert(&mut self, make: impl FnOnce(AllocationId) -> Allocation) -> AllocationId {
        let entry = self.allocations.vacant_entry();
        let id = AllocationId(entry.key());
        entry.insert(make(id));
        id
    }

    /// How an `OpenRelay` went, and what its user's new peers are counted with.
    pub fn handle_relay_opened(&mut self, now: Instant, id: AllocationId, result: Result<Meter, RelayError>) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let Phase::Opening(opening) = &mut allocation.phase else { return };
        match result {
            Ok(meter) => {
                allocation.meter = meter;
                let opening = opening.clone();
                self.proceed(now, id, *opening);
            }
            Err(RelayError::AddressInUse) => self.try_next_port(id),
            Err(RelayError::QuotaReached) => self.abandon(id, Reject::QuotaReached),
            Err(RelayError::Unavailable) => self.abandon(id, Reject::InsufficientCapacity),
        }
    }

    /// The socket is open; is there more to do before the client is told?
    fn proceed(&mut self, now: Instant, id: AllocationId, opening: Opening) {
        let Opening { reply, next, .. } = opening;
        match next {
            Next::Answer => {
                self.open(now, id);
                self.respond_allocated(&reply);
            }
            Next::OpenOther => {
                self.open(now, id);
                self.open_other(id, reply);
            }
            Next::HoldNextPort => self.hold_next_port(id, reply),
            Next::Hold { first } => {
                self.hold(now, first, id);
                self.open(now, first);
                self.respond_allocated(&reply);
            }
        }
    }

    /// One of the other family, too. Without it the first must do.
    fn open_other(&mut self, first: AllocationId, reply: Reply) {
        let Some(allocation) = self.allocations.get(first.0) else { return };
        let family = Family::of(allocation.relayed.0.ip()).other();
        let attempt = Attempt {
            reply: reply.clone(),
            credential: allocation.credential.clone(),
            granted: allocation.granted,
            protocol: allocation.protocol,
            family,
            parity: Parity::Any,
            next: Next::Answer,
            refused: None,
        };
        if let Err(reject) = self.attempt(attempt) {
            self.do_without(first, family, reject);
            self.respond_allocated(&reply);
        }
    }

    fn do_without(&mut self, first: AllocationId, family: Family, reject: Reject) {
        if let Some(allocation) = self.allocations.get_mut(first.0) {
            allocation.refused = Some((family, reject));
        }
    }

    /// Asks for the port above one that is open.
    fn hold_next_port(&mut self, first: AllocationId, reply: Reply) {
        let Some(allocation) = self.allocations.get(first.0) else { return };
        let RelayedAddr(mut relayed) = allocation.relayed;
        // An even port has a next one.
        relayed.set_port(relayed.port() | 1);
        let (flow, credential, granted) =
            (allocation.flow, allocation.credential.clone(), allocation.granted);
        let id = self.insert(|id| Allocation {
            id,
            flow,
            relayed: RelayedAddr(relayed),
            protocol: RelayProtocol::Udp,
            credential,
            transaction_id: reply.transaction_id,
            granted,
            phase: Phase::Opening(Box::new(Opening {
                reply,
                ports: PortSequence::none(),
                next: Next::Hold { first },
            })),
            meter: Meter::default(),
            permissions: Permissions::default(),
            channels: Channels::default(),
            held: None,
            refused: None,
            story: None,
        });
        self.request_relay(id, relayed.port());
    }

    /// Keeps an open port for whoever brings its token in time.
    fn hold(&mut self, now: Instant, first: AllocationId, id: AllocationId) {
        let token = self.parts.handles.new_token(&mut self.parts.rng);
        let expires_at = now + HOLD_TIME;
        if let Some(held) = self.allocations.get_mut(id.0) {
            held.phase = Phase::Held { token, expires_at };
        }
        if let Some(first) = self.allocations.get_mut(first.0) {
            first.held = Some(token);
        }
        self.held_ports.insert(token, id);
        self.deadlines.renew(Expiry::Allocation(id), None, expires_at);
    }

    /// Section 7.2: a held port is its maker's only, whoever learned of the token.
    fn claim(
        &mut self,
        now: Instant,
        reply: &Reply,
        credential: Credential,
        granted: Duration,
        token: ReservationToken,
    ) -> Result<(), Reject> {
        let id = self.held_ports.get(&token).copied().ok_or(Reject::InsufficientCapacity)?;
        let held = self.allocations.get_mut(id.0).ok_or(Reject::InsufficientCapacity)?;
        if held.credential.user.account != credential.user.account {
            return Err(Reject::InsufficientCapacity);
        }
        if let Some(expires_at) = held.expires_at() {
            self.deadlines.remove(Expiry::Allocation(id), expires_at);
        }
        held.flow = reply.flow;
        held.credential = credential;
        held.transaction_id = reply.transaction_id;
        held.granted = granted;
        self.held_ports.remove(&token);
        self.clients.add(reply.flow, id);
        self.open(now, id);
        self.respond_allocated(reply);
        Ok(())
    }

    fn try_next_port(&mut self, id: AllocationId) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let Phase::Opening(opening) = &mut allocation.phase else { return };
        if let Next::Hold { first } = opening.next {
            // The lower port is of no use without this one: both begin again further on.
            self.allocations.try_remove(id.0);
            self.push(Action::CloseRelay { allocation: first });
            return self.try_next_port(first);
        }
        match opening.ports.next() {
            Some(port) => self.request_relay(id, port),
            None => self.abandon(id, Reject::InsufficientCapacity),
        }
    }

    /// There will be no socket. The client is told, unless it has one of the other family already.
    fn abandon(&mut self, id: AllocationId, reject: Reject) {
        let Some(allocation) = self.allocations.try_remove(id.0) else { return };
        self.clients.remove(allocation.flow, id);
        let Phase::Opening(opening) = allocation.phase else { return };
        let Opening { reply, next, .. } = *opening;
        let family = Family::of(allocation.relayed.0.ip());
        match next {
            Next::Hold { first } => {
                self.push(Action::CloseRelay { allocation: first });
                self.abandon(first, reject);
            }
            Next::OpenOther => {
                let attempt = Attempt {
                    reply: reply.clone(),
                    credential: allocation.credential,
                    granted: allocation.granted,
                    protocol: allocation.protocol,
                    family: family.other(),
                    parity: Parity::Any,
                    next: Next::Answer,
                    refused: Some((family, reject)),
                };
                if self.attempt(attempt).is_err() {
                    self.give_up(&reply, reject);
                }
            }
            Next::Answer | Next::HoldNextPort => match self.clients.all(allocation.flow).next() {
                Some(first) => {
                    self.do_without(first, family, reject);
                    self.respond_allocated(&reply);
                }
                None => self.give_up(&reply, reject),
            },
        }
    }

    fn give_up(&mut self, reply: &Reply, reject: Reject) {
        self.mobiles.forget(reply.flow);
        if reject == Reject::InsufficientCapacity {
            self.refuse_for_lack_of_room(reply);
        } else {
            self.reject(reply, reject);
        }
    }

    fn open(&mut self, now: Instant, id: AllocationId) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let (granted, relayed, flow) = (allocation.granted, allocation.relayed, allocation.flow);
        let expires_at = now + granted;
        allocation.phase = Phase::Open { expires_at };
        let serial = self.serials.draw();
        allocation.story = Some(Story::begin(serial, now));
        self.deadlines.renew(Expiry::Allocation(id), None, expires_at);
        self.parts.metrics.allocation_created();
        info!(allocation = %serial, transport = ?flow.transport, lifetime = ?granted, "Allocation created");
        debug!(allocation = %serial, client = %flow.client, %relayed, user = %allocation.credential.user.name, "Allocation belongs to");
    }

    /// The success response of an Allocate, the first or a retransmitted one.
    fn respond_allocated(&mut self, reply: &Reply) {
        let held: Vec<_> = self.clients.all(reply.flow).filter_map(|id| self.allocations.get(id.0)).collect();
        let Some(first) = held.first() else { return };
        let relayed: Vec<_> =
            held.iter().map(|found| self.config.addresses.advertised(found.relayed)).collect();
        let (granted, token) = (first.granted, first.held);
        let refused = held.iter().find_map(|found| found.refused);
        let ticket = self.first_ticket(reply.flow);
        let client = reply.flow.client.0;
        self.succeed(reply, |writer| {
            for relayed in relayed {
                writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
            }
            if let Some((family, reject)) = refused {
                let [_, reserved, class, number] = reject.code().to_value();
                writer.attribute(
                    AttributeType::ADDRESS_ERROR_CODE,
                    &[family.number(), reserved, class, number],
                );
            }
            writer.attribute(AttributeType::LIFETIME, &lifetime::to_value(granted));
            if let Some(token) = token {
                writer.attribute(AttributeType::RESERVATION_TOKEN, &token);
            }
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, client);
            if let Some(ticket) = ticket {
                writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            }
        });
    }

    fn requested_protocol(&self, flow: FiveTuple, message: &Message<'_>) -> Result<RelayProtocol, Reject> {
        match message.find(AttributeType::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => Ok(RelayProtocol::Udp),
            Some([TCP, _, _, _]) if self.config.tcp_relay == TcpRelay::Offered => {
                connections::check_allocate(flow, message).map(|()| RelayProtocol::Tcp)
            }
            Some([_, _, _, _]) => Err(Reject::UnsupportedTransport),
            Some(_) | None => Err(Reject::BadRequest),
        }
    }

    fn relay_ip(&self, family: Family) -> Result<IpAddr, Reject> {
        let addresses = &self.config.addresses;
        match family {
            Family::V4 => addresses.relay_v4.map(IpAddr::V4),
            Family::V6 => addresses.relay_v6.map(IpAddr::V6),
        }
        .ok_or(Reject::AddressFamilyNotSupported)
    }
}

fn is_expired(credential: &Credential, now: UnixTime) -> bool {
    credential.expires_at.is_some_and(|expires_at| expires_at <= now)
}

/// ADDITIONAL-ADDRESS-FAMILY can but say IPv6. Section 7.2.
fn requests_additional_family(message: &Message<'_>) -> Result<bool, Reject> {
    let value = message
        .find(AttributeType::ADDITIONAL_ADDRESS_FAMILY)
        .or_else(|| message.find(AttributeType::DRAFT_ADDITIONAL_ADDRESS_FAMILY));
    match value {
        None => Ok(false),
        Some([0x02, _, _, _]) => Ok(true),
        Some(_) => Err(Reject::BadRequest),
    }
}

/// The protocol numbers in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
const TCP: u8 = 6;
/// The flag in EVEN-PORT that asks for the next port, too.
const RESERVE_NEXT: u8 = 0x80;
/// For the second Allocate of two. Section 7.2 wants at least this.
const HOLD_TIME: Duration = Duration::from_secs(30);
