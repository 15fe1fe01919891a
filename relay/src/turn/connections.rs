//! TCP allocations: connections between peers and clients, each client's half on a connection of its own. RFC 6062.
//!
//! A connection begins by the client's Connect or by a permitted peer, waits under its number for the client to come for
//! it by another stream, and is bytes both ways from then on. Who may have one is decided here; the bytes are `io`'s.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use rand::CryptoRng;

use super::allocation::{Allocation, Phase};
use super::deadlines::Expiry;
use super::reply::Reply;
use super::{Action, AllocationId, EndReason, FiveTuple, Now, PeerAddr, Reject, Server};
use crate::auth::Credential;
use crate::metrics::DropReason;
use crate::stun::{AttributeType, Class, Message, MessageWriter, Method, TransactionId};

/// What a relayed address is for. RFC 6062, section 5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayProtocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// CONNECTION-ID: which connection a client comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// The connections of one server.
#[derive(Debug, Default)]
pub(super) struct Connections {
    by_id: HashMap<ConnectionId, Connection, RandomState>,
    of_allocation: HashMap<AllocationId, Vec<ConnectionId>, RandomState>,
}

#[derive(Debug)]
struct Connection {
    allocation: AllocationId,
    /// As its client knows it.
    peer: PeerAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client waits to hear how it goes.
    Connecting { reply: Box<Reply>, until: Instant },
    /// It is the client's to take, until then.
    Unbound { until: Instant },
    /// The client has it.
    Bound,
}

impl State {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Connecting { until, .. } | Self::Unbound { until } => Some(*until),
            Self::Bound => None,
        }
    }
}

impl Connections {
    fn insert(&mut self, id: ConnectionId, connection: Connection) {
        self.of_allocation.entry(connection.allocation).or_default().push(id);
        self.by_id.insert(id, connection);
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        if let Some(ids) = self.of_allocation.get_mut(&connection.allocation) {
            ids.retain(|held| *held != id);
            if ids.is_empty() {
                self.of_allocation.remove(&connection.allocation);
            }
        }
        Some(connection)
    }

    fn of(&self, allocation: AllocationId) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        let ids = self.of_allocation.get(&allocation).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| Some((*id, self.by_id.get(id)?)))
    }

    /// Whether an allocation may have one more.
    fn has_room(&self, allocation: AllocationId) -> bool {
        let (mut all, mut unbound) = (0, 0);
        for (_, connection) in self.of(allocation) {
            all += 1;
            unbound += usize::from(!matches!(connection.state, State::Bound));
        }
        all < MAX_CONNECTIONS && unbound < MAX_UNBOUND
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Gives memory back that only more connections than there are now would need.
    pub(super) fn shrink(&mut self) {
        self.by_id.shrink_to_fit();
        self.of_allocation.shrink_to_fit();
    }

    /// Whose connection a client comes for.
    pub(super) fn allocation_wanted(&self, message: &Message<'_>) -> Option<AllocationId> {
        self.by_id.get(&requested_connection(message)?).map(|connection| connection.allocation)
    }
}

impl<R: CryptoRng> Server<R> {
    /// Section 5.2: a connection to this peer, please.
    pub(super) fn handle_connect(
        &mut self,
        now: Now,
        reply: &Reply,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let allocation = self.allocations.get(id.0).filter(|found| found.is_open_for(RelayProtocol::Tcp));
        let allocation = allocation.ok_or(Reject::AllocationMismatch)?;
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).ok_or(Reject::BadRequest)?;
        if !allocation.has_family_of(peer.ip()) {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        self.check_peer(peer.ip(), Some(peer.port()))?;
        if self.connections.of(id).any(|(_, connection)| connection.peer.0 == peer) {
            return Err(Reject::ConnectionExists);
        }
        // Whoever could try one address after another would scan ports from here.
        if !self.connections.has_room(id) || !allocation.meter.take_peers(now.instant, 1) {
            return Err(Reject::InsufficientCapacity);
        }
        let connection = self.draw_connection_id().ok_or(Reject::InsufficientCapacity)?;
        let until = now.instant + PATIENCE;
        let state = State::Connecting { reply: Box::new(reply.clone()), until };
        self.connections.insert(connection, Connection { allocation: id, peer: PeerAddr(peer), state });
        self.deadlines.renew(Expiry::Connection(connection), None, until);
        let peer = self.config.addresses.on_the_wire(PeerAddr(peer));
        self.push(Action::Connect { allocation: id, connection, peer });
        Ok(())
    }

    /// How a `Connect` went.
    pub fn handle_connected(&mut self, now: Instant, id: ConnectionId, is_connected: bool) {
        let Some(connection) = self.connections.by_id.get_mut(&id) else { return };
        if !matches!(connection.state, State::Connecting { .. }) {
            return;
        }
        if !is_connected {
            return self.fail_to_connect(id);
        }
        let fresh = State::Unbound { until: now + PATIENCE };
        let before = std::mem::replace(&mut connection.state, fresh);
        self.deadlines.renew(Expiry::Connection(id), before.until(), now + PATIENCE);
        if let State::Connecting { reply, .. } = before {
            self.succeed(&reply, |writer| {
                writer.attribute(AttributeType::CONNECTION_ID, &id.0.to_be_bytes());
            });
        }
    }

    /// Somebody connected to a relayed address. Returns under which number the connection waits for the client; if
    /// none, it is to be closed. Section 5.3.
    pub fn handle_incoming(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        from: PeerAddr,
    ) -> Option<ConnectionId> {
        let found =
            self.allocations.get(allocation.0).filter(|found| found.is_open_for(RelayProtocol::Tcp))?;
        let flow = found.flow;
        let known_as = [Some(from), self.config.addresses.known_as(from)];
        let permitted = known_as.into_iter().flatten().find(|peer| found.permissions.contains(peer.0.ip()));
        let Some(peer) = permitted else {
            self.drop_datagram(DropReason::NoPermission);
            return None;
        };
        if !self.connections.has_room(allocation) {
            self.drop_datagram(DropReason::ConnectionLimit);
            return None;
        }
        let id = self.draw_connection_id()?;
        let message = self.connection_attempt(id, peer)?;
        let until = now + PATIENCE;
        self.connections.insert(id, Connection { allocation, peer, state: State::Unbound { until } });
        self.deadlines.renew(Expiry::Connection(id), None, until);
        self.push(Action::Respond { flow, message });
        Some(id)
    }

    /// Which worker has the connection that a client comes for, if not this one.
    pub(super) fn elsewhere_bound(&self, message: &Message<'_>) -> Option<super::WorkerIndex> {
        let id = requested_connection(message)?;
        let worker = self.parts.handles.connection_worker(id)?;
        (worker != self.parts.handles.worker()).then_some(worker)
    }

    /// Section 5.4: a client came for a connection by a stream that is for nothing else.
    pub(super) fn handle_connection_bind(
        &mut self,
        reply: &Reply,
        credential: &Credential,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        if !reply.flow.transport.is_stream() || self.clients.contains(reply.flow) {
            return Err(Reject::BadRequest);
        }
        let id = requested_connection(message).ok_or(Reject::BadRequest)?;
        let connection = self.connections.by_id.get_mut(&id).ok_or(Reject::BadRequest)?;
        let allocation = self.allocations.get(connection.allocation.0).ok_or(Reject::BadRequest)?;
        if !credential.may_act_for(&allocation.credential) {
            return Err(Reject::WrongCredentials);
        }
        let State::Unbound { until } = connection.state else { return Err(Reject::BadRequest) };
        connection.state = State::Bound;
        self.deadlines.remove(Expiry::Connection(id), until);
        self.succeed(reply, |_| ());
        self.push(Action::Splice { connection: id, flow: reply.flow });
        Ok(())
    }

    /// A connection is over, at whichever end it ended.
    pub fn handle_connection_closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else { return };
        if let Some(until) = connection.state.until() {
            self.deadlines.remove(Expiry::Connection(id), until);
        }
    }

    /// Ends one before either end does: it took too long, or may not be any more. A client that still waits to hear how
    /// its Connect goes is told that it does not.
    pub(super) fn disconnect(&mut self, id: ConnectionId) {
        self.push(Action::Disconnect { connection: id });
        let is_connecting = self
            .connections
            .by_id
            .get(&id)
            .is_some_and(|found| matches!(found.state, State::Connecting { .. }));
        if is_connecting { self.fail_to_connect(id) } else { self.handle_connection_closed(id) }
    }

    /// Ends connections to peers that the policy allows no longer.
    pub(super) fn end_forbidden_connections(&mut self) {
        let Self { connections, parts, .. } = self;
        let forbidden =
            connections.by_id.iter().filter(|(_, found)| !parts.policy.allows_ip(found.peer.0.ip()));
        let mut ids: Vec<_> = forbidden.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| self.disconnect(id));
    }

    /// Ends all connections of an allocation that ends.
    pub(super) fn end_connections(&mut self, allocation: AllocationId, reason: EndReason) {
        let ids: Vec<_> = self.connections.of(allocation).map(|(id, _)| id).collect();
        for id in ids {
            match reason {
                // There is nobody to tell.
                EndReason::Disconnected | EndReason::HandedOver => {
                    self.push(Action::Disconnect { connection: id });
                    self.handle_connection_closed(id);
                }
                EndReason::Expired | EndReason::Released | EndReason::Closed | EndReason::Shutdown => {
                    self.disconnect(id);
                }
            }
        }
    }

    fn fail_to_connect(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else { return };
        if let State::Connecting { reply, until } = connection.state {
            self.deadlines.remove(Expiry::Connection(id), until);
            self.reject(&reply, Reject::ConnectionFailed);
        }
    }

    /// A number that no connection has.
    fn draw_connection_id(&mut self) -> Option<ConnectionId> {
        let Self { parts, connections, .. } = self;
        let mut draw = || parts.handles.new_connection(&mut parts.rng);
        (0..DRAWS).map(|_| draw()).find(|id| !connections.by_id.contains_key(id))
    }

    fn connection_attempt(&mut self, id: ConnectionId, peer: PeerAddr) -> Option<Vec<u8>> {
        let mut transaction_id = TransactionId([0; 12]);
        self.parts.rng.fill_bytes(&mut transaction_id.0);
        let mut message = Vec::new();
        MessageWriter::new(&mut message, Class::Indication, Method::CONNECTION_ATTEMPT, transaction_id)
            .attribute(AttributeType::CONNECTION_ID, &id.0.to_be_bytes())
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.0)
            .finish()
            .ok()?;
        Some(message)
    }
}

impl Allocation {
    /// Whether it lives and is for this.
    pub(super) fn is_open_for(&self, protocol: RelayProtocol) -> bool {
        self.protocol == protocol && matches!(self.phase, Phase::Open { .. })
    }
}

/// What the section on Allocate says of TCP: by a stream alone, and without what is for datagrams. Section 5.1.
pub(super) fn check_allocate(flow: FiveTuple, message: &Message<'_>) -> Result<(), Reject> {
    let has_any = [
        AttributeType::EVEN_PORT,
        AttributeType::RESERVATION_TOKEN,
        AttributeType::DONT_FRAGMENT,
        AttributeType::ADDITIONAL_ADDRESS_FAMILY,
        AttributeType::DRAFT_ADDITIONAL_ADDRESS_FAMILY,
    ]
    .into_iter()
    .any(|kind| message.find(kind).is_some());
    if flow.transport.is_stream() && !has_any { Ok(()) } else { Err(Reject::BadRequest) }
}

fn requested_connection(message: &Message<'_>) -> Option<ConnectionId> {
    let value: [u8; 4] = message.find(AttributeType::CONNECTION_ID)?.try_into().ok()?;
    Some(ConnectionId(u32::from_be_bytes(value)))
}

/// Both for connecting and for the client to come. Sections 5.2 and 5.3.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of one allocation: each is two descriptors.
const MAX_CONNECTIONS: usize = 128;
/// Those among them that the client has not come for.
const MAX_UNBOUND: usize = 32;
/// A number that is taken is one in thousands.
const DRAWS: usize = 16;
