//! The verbs, and what they have in common: who may do what is in `requests.rs`.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use farcall_proto::turn_credentials::UnixTime;
use rand::CryptoRng;
use slab::Slab;
use tracing::{debug, trace};

use super::allocate::ReservationToken;
use super::allocation::{Allocation, Phase};
use super::clients::Clients;
use super::connections::Connections;
use super::deadlines::{Deadlines, Expiry};
use super::ended::Ended;
use super::lookups::Waiting;
use super::mobility::Mobiles;
use super::reply::Reply;
use super::{
    Action, Addresses, Admission, AllocationId, Alternates, ChannelRange, Departure, Discovery, EndReason,
    FiveTuple, Fragmentation, Handles, Lifetimes, PeerAddr, Reject, RelayProtocol, Serials, Transport,
};
use crate::auth::Authenticator;
use crate::metrics::{DropReason, WorkerMetrics};
use crate::policy::{PeerPolicy, UnauthenticatedBudget};
use crate::stun::{
    AttributeType, ChannelData, ChannelNumber, Class, Message, MessageWriter, Method, TransactionId,
    channel_data, classic,
};

/// What the state machine goes by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where relays are and what they are called.
    pub addresses: Addresses,
    /// Bounds of an allocation's life.
    pub lifetimes: Lifetimes,
    /// Which channel numbers may be bound.
    pub channels: ChannelRange,
    /// What to do about RFC 3489.
    pub classic_stun: ClassicStun,
    /// From where else Bindings are answered.
    pub discovery: Discovery,
    /// Where clients go that there is no place for.
    pub alternates: Alternates,
    /// Whether there are relayed addresses for TCP, too.
    pub tcp_relay: TcpRelay,
}

/// Whether TCP is relayed. RFC 6062.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpRelay {
    /// For those who ask for it.
    Offered,
    /// For nobody.
    Refused,
}

/// What to do about Bindings in the manner of RFC 3489.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassicStun {
    /// Nothing.
    Silent,
    /// Answer the simplest.
    Answered,
}

/// What else a server is made of.
#[derive(Debug)]
pub struct Parts<R> {
    /// Who clients are.
    pub authenticator: Authenticator,
    /// What strangers get.
    pub budget: UnauthenticatedBudget,
    /// Where they may relay.
    pub policy: PeerPolicy,
    /// What is counted.
    pub metrics: Arc<WorkerMetrics>,
    /// What it names things by that clients come back for.
    pub handles: Handles,
    /// Ports and transaction ids.
    pub rng: R,
}

/// The time, for what counts in intervals and for what is written in dates.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Drives timers.
    pub instant: Instant,
    /// Expires credentials.
    pub unix: UnixTime,
}

/// A TURN server without sockets.
#[derive(Debug)]
pub struct Server<R> {
    pub(super) config: Config,
    pub(super) parts: Parts<R>,
    pub(super) allocations: Slab<Allocation>,
    pub(super) clients: Clients,
    /// Ports that are open and nobody's yet.
    pub(super) held_ports: HashMap<ReservationToken, AllocationId>,
    pub(super) connections: Connections,
    pub(super) mobiles: Mobiles,
    pub(super) ended: Ended,
    pub(super) deadlines: Deadlines,
    pub(super) waiting: Waiting,
    pub(super) actions: VecDeque<Action>,
    pub(super) serials: Serials,
    pub(super) admission: Admission,
    pub(super) departures: VecDeque<Departure>,
}

impl<R: CryptoRng> Server<R> {
    /// An idle server.
    #[must_use]
    pub fn new(config: Config, parts: Parts<R>) -> Self {
        Self {
            config,
            parts,
            allocations: Slab::new(),
            clients: Clients::default(),
            held_ports: HashMap::new(),
            connections: Connections::default(),
            mobiles: Mobiles::default(),
            ended: Ended::default(),
            deadlines: Deadlines::default(),
            waiting: Waiting::default(),
            actions: VecDeque::new(),
            serials: Serials::default(),
            admission: Admission::default(),
            departures: VecDeque::new(),
        }
    }

    /// A datagram, or a frame of a stream, from a client or from anybody.
    pub fn handle_datagram(&mut self, now: Now, flow: FiveTuple, datagram: &[u8]) {
        if flow.client.0.port() == 0 {
            return self.drop_datagram(DropReason::SourcePortZero);
        }
        match datagram.first().map(|first| first >> 6) {
            Some(0b00) => self.handle_stun(now, flow, datagram),
            Some(0b01) => self.handle_channel_data(flow, datagram),
            _ => self.drop_datagram(DropReason::Malformed),
        }
    }

    /// A datagram that came to a relay socket.
    pub fn handle_peer_datagram(&mut self, allocation: AllocationId, from: PeerAddr, data: &[u8]) {
        let Some(found) = self.allocations.get(allocation.0) else {
            return self.drop_datagram(DropReason::NoPermission);
        };
        let takes_datagrams = found.protocol == RelayProtocol::Udp;
        let is_permitted = |peer: &PeerAddr| takes_datagrams && found.permissions.contains(peer.0.ip());
        let known_as = [Some(from), self.config.addresses.known_as(from)];
        let Some(peer) = known_as.into_iter().flatten().find(is_permitted) else {
            return self.drop_datagram(DropReason::NoPermission);
        };
        let (flow, channel) = (found.flow, found.channels.number(peer));
        let message = match channel {
            Some(channel) => channel_message(flow.transport, channel, data),
            None => self.data_indication(peer, data),
        };
        match message {
            Some(message) => {
                self.push(Action::SendToClient { allocation, flow, message, data_bytes: data.len() })
            }
            None => self.drop_datagram(DropReason::TooLong),
        }
    }

    /// A stream ended, and with it its client's allocation. RFC 8656, section 7.
    pub fn handle_flow_closed(&mut self, flow: FiveTuple) {
        self.waiting.forget(flow);
        if let Some(to) = self.mobiles.destination(flow) {
            return self.settle(to);
        }
        // A mobile client has lost its way here and may find another.
        if !self.mobiles.contains(flow) {
            self.clients.all(flow).for_each(|allocation| self.delete(allocation, EndReason::Disconnected));
        }
        self.mobiles.expect_no_more(flow);
    }

    /// Ends whatever has had its time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expiry) = self.deadlines.pop(now) {
            match expiry {
                Expiry::Channel(allocation, channel) => self.unbind(allocation, channel),
                Expiry::Permission(allocation, peer) => self.revoke(allocation, peer),
                Expiry::Connection(connection) => self.disconnect(connection),
                Expiry::Allocation(allocation) => self.delete(allocation, EndReason::Expired),
            }
        }
    }

    /// When to call `handle_timeout`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// What to do next; drain until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether this client has an allocation.
    #[must_use]
    pub fn has_allocation(&self, flow: &FiveTuple) -> bool {
        self.clients.contains(*flow)
    }

    /// Gives memory back that only more allocations than there are now would need.
    pub fn shrink(&mut self) {
        self.allocations.shrink_to_fit();
        self.clients.shrink();
        self.connections.shrink();
        self.actions.shrink_to_fit();
    }

    /// How many there are.
    #[must_use]
    pub fn allocation_count(&self) -> usize {
        self.allocations.len()
    }

    fn handle_stun(&mut self, now: Now, flow: FiveTuple, datagram: &[u8]) {
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            Err(error) => {
                if self.config.classic_stun == ClassicStun::Answered {
                    return self.handle_classic(flow, datagram);
                }
                trace!(%error, "Not STUN");
                return self.drop_datagram(DropReason::Malformed);
            }
        };
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.handle_binding(now, flow, &message),
            (
                Class::Request,
                Method::ALLOCATE
                | Method::REFRESH
                | Method::CREATE_PERMISSION
                | Method::CHANNEL_BIND
                | Method::CONNECT
                | Method::CONNECTION_BIND,
            ) => self.handle_turn_request(now, flow, &message),
            (Class::Indication, Method::SEND) => self.handle_send(flow, &message),
            (Class::Request | Class::Indication | Class::Success | Class::Error, _) => {
                self.drop_datagram(DropReason::NotARequest);
            }
        }
    }

    fn handle_classic(&mut self, flow: FiveTuple, datagram: &[u8]) {
        let mut message = Vec::new();
        if classic::answer_binding(datagram, flow.client.0, &mut message) {
            self.parts.metrics.answered(Method::BINDING, None);
            self.push(Action::Respond { flow, message });
        } else {
            self.drop_datagram(DropReason::Malformed);
        }
    }

    /// The way of ChannelData that no route knows.
    fn handle_channel_data(&mut self, flow: FiveTuple, datagram: &[u8]) {
        self.settle(flow);
        let Some(ChannelData { channel, data }) = ChannelData::parse(datagram) else {
            return self.drop_datagram(DropReason::Malformed);
        };
        let mut held = self.clients.all(flow).filter_map(|id| self.allocations.get(id.0));
        let Some((allocation, peer)) = held.find_map(|found| Some((found, found.channels.peer(channel)?)))
        else {
            return self.drop_datagram(DropReason::NoChannel);
        };
        if !allocation.permissions.contains(peer.0.ip()) {
            return self.drop_datagram(DropReason::NoPermission);
        }
        let (allocation, peer) = (allocation.id, self.config.addresses.on_the_wire(peer));
        self.push(Action::SendToPeer {
            allocation,
            peer,
            data: data.into(),
            fragmentation: Fragmentation::Allowed,
        });
    }

    fn data_indication(&mut self, peer: PeerAddr, data: &[u8]) -> Option<Vec<u8>> {
        let mut transaction_id = TransactionId([0; 12]);
        self.parts.rng.fill_bytes(&mut transaction_id.0);
        let mut message = Vec::with_capacity(data.len() + DATA_INDICATION_OVERHEAD);
        MessageWriter::new(&mut message, Class::Indication, Method::DATA, transaction_id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.0)
            .attribute(AttributeType::DATA, data)
            .finish()
            .ok()?;
        Some(message)
    }

    /// Asks for a socket at the next port.
    pub(super) fn request_relay(&mut self, allocation: AllocationId, port: u16) {
        let Some(found) = self.allocations.get_mut(allocation.0) else { return };
        found.relayed.0.set_port(port);
        let (relayed, protocol, user) = (found.relayed, found.protocol, found.credential.user.clone());
        let limits = found.credential.limits.as_deref().copied().unwrap_or_default();
        self.push(Action::OpenRelay { allocation, relayed, protocol, user, limits });
    }

    /// Ends an allocation and all that goes with it.
    pub(super) fn delete(&mut self, id: AllocationId, reason: EndReason) {
        self.end_connections(id, reason);
        let departure = self.allocations.get(id.0).and_then(Allocation::summary);
        let Some(allocation) = self.allocations.try_remove(id.0) else { return };
        self.clients.remove(allocation.flow, id);
        if !self.clients.contains(allocation.flow) {
            self.mobiles.forget(allocation.flow);
        }
        for (channel, binding) in allocation.channels.iter() {
            self.deadlines.remove(Expiry::Channel(id, channel), binding.expires_at);
            if allocation.permissions.contains(binding.peer.0.ip()) {
                let peer = self.config.addresses.on_the_wire(binding.peer);
                self.push(Action::RemoveRoute(allocation.route(channel, peer)));
            }
        }
        for (peer, expires_at) in allocation.permissions.iter() {
            self.deadlines.remove(Expiry::Permission(id, peer), expires_at);
        }
        if let Some(expires_at) = allocation.expires_at() {
            self.deadlines.remove(Expiry::Allocation(id), expires_at);
            self.push(Action::CloseRelay { allocation: id });
        }
        match allocation.phase {
            Phase::Opening(_) => {}
            Phase::Held { token, .. } => drop(self.held_ports.remove(&token)),
            Phase::Open { .. } => {
                self.parts.metrics.allocation_ended(reason);
                self.departures.extend(departure.map(|summary| Departure { summary, reason }));
            }
        }
    }

    /// Lets a peer's IP address send, or goes on letting it. Channels that waited for it flow again.
    pub(super) fn permit(&mut self, now: Instant, id: AllocationId, peer: IpAddr) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let before = allocation.permissions.renew(peer, now);
        self.deadlines.renew(Expiry::Permission(id, peer), before, now + super::permission::LIFETIME);
        if before.is_none() {
            if let Some(story) = &mut allocation.story {
                story.peers = story.peers.saturating_add(1);
            }
            for (channel, peer) in allocation.channels.at(peer) {
                let peer = self.config.addresses.on_the_wire(peer);
                self.actions.push_back(Action::InstallRoute(allocation.route(channel, peer)));
            }
        }
    }

    /// Binds a channel whose peer has a permission, or goes on doing so.
    pub(super) fn bind(&mut self, now: Instant, id: AllocationId, channel: ChannelNumber, peer: PeerAddr) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let before = allocation.channels.bind(channel, peer, now);
        self.deadlines.renew(Expiry::Channel(id, channel), before, now + super::channel::LIFETIME);
        if before.is_none() {
            let peer = self.config.addresses.on_the_wire(peer);
            self.actions.push_back(Action::InstallRoute(allocation.route(channel, peer)));
        }
    }

    pub(super) fn revoke(&mut self, id: AllocationId, peer: IpAddr) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        allocation.permissions.remove(peer);
        for (channel, peer) in allocation.channels.at(peer) {
            let peer = self.config.addresses.on_the_wire(peer);
            self.actions.push_back(Action::RemoveRoute(allocation.route(channel, peer)));
        }
    }

    fn unbind(&mut self, id: AllocationId, channel: ChannelNumber) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let Some(peer) = allocation.channels.remove(channel) else { return };
        if allocation.permissions.contains(peer.0.ip()) {
            let peer = self.config.addresses.on_the_wire(peer);
            self.actions.push_back(Action::RemoveRoute(allocation.route(channel, peer)));
        }
    }

    pub(super) fn succeed(&mut self, reply: &Reply, attributes: impl FnOnce(&mut MessageWriter<'_>)) {
        self.parts.metrics.answered(reply.method, None);
        let message = reply.success(attributes);
        self.push(Action::Respond { flow: reply.flow, message });
    }

    pub(super) fn reject(&mut self, reply: &Reply, reject: Reject) {
        self.reject_with(reply, reject, |_| ());
    }

    pub(super) fn reject_with(
        &mut self,
        reply: &Reply,
        reject: Reject,
        attributes: impl FnOnce(&mut MessageWriter<'_>),
    ) {
        self.note_rejected(reply, reject);
        let message = reply.error(reject, attributes);
        self.push(Action::Respond { flow: reply.flow, message });
    }

    pub(super) fn note_rejected(&self, reply: &Reply, reject: Reject) {
        self.parts.metrics.answered(reply.method, Some(reject.code()));
        let (client, txid) = (reply.flow.client, reply.transaction_id);
        debug!(%client, method = reply.method.number(), code = reject.code().number(), %txid, error = %reject, "Request refused");
    }

    /// Whether a stranger may be told no. Whoever completed a handshake is where it says it is.
    pub(super) fn may_refuse_stranger(&self, now: Now, flow: FiveTuple) -> bool {
        let is_within = self.is_within_budget(now, flow);
        if !is_within {
            self.drop_datagram(DropReason::UnauthenticatedRate);
        }
        is_within
    }

    /// Draws on what the prefix of a client that has proven nothing gets.
    pub(super) fn is_within_budget(&self, now: Now, flow: FiveTuple) -> bool {
        flow.transport.has_proven_source() || self.parts.budget.take(now.instant, flow.client.0.ip())
    }

    pub(super) fn drop_datagram(&self, reason: DropReason) {
        self.parts.metrics.dropped(reason);
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

/// ChannelData for a client; on a stream it is padded.
fn channel_message(transport: Transport, channel: ChannelNumber, data: &[u8]) -> Option<Vec<u8>> {
    let header = channel_data::header(channel, data.len())?;
    let padding = if transport.is_stream() { channel_data::stream_padding(data.len()) } else { &[] };
    Some([&header, data, padding].concat())
}

const DATA_INDICATION_OVERHEAD: usize = 56;
