//! What each method does, and when it is refused. RFC 8656, sections 7 to 12.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::CryptoRng;

use super::allocate::Family;
use super::allocation::{Allocation, Phase};
use super::channel::BindError;
use super::deadlines::Expiry;
use super::reply::Reply;
use super::{
    Action, AllocationId, EndReason, FiveTuple, Fragmentation, Now, PeerAddr, Reject, RelayProtocol, Server,
    lifetime,
};
use crate::auth::{Credential, Refusal};
use crate::metrics::DropReason;
use crate::stun::{AttributeType, ChannelNumber, Message, Method, address, u16_at};

impl<R: CryptoRng> Server<R> {
    /// RFC 8489, section 12: the address, and nothing that would make the answer longer.
    pub(super) fn handle_binding(&mut self, now: Now, flow: FiveTuple, message: &Message<'_>) {
        let reply = Reply::to(flow, message);
        if self.config.discovery.other_address(flow.server).is_some() {
            return self.handle_discovery(now, reply, message);
        }
        if message.unknown_attributes(KNOWN).next().is_some() {
            if self.may_refuse_stranger(now, flow) {
                self.reject_unknown(&reply, message, KNOWN);
            }
            return;
        }
        self.succeed(&reply, |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, flow.client.0);
        });
    }

    /// What the four methods have in common: nobody unknown gets further than this.
    pub(super) fn handle_turn_request(&mut self, now: Now, flow: FiveTuple, message: &Message<'_>) {
        self.settle_unless_repeated(flow, message.transaction_id());
        if message.method() == Method::REFRESH
            && let Some(ticket) = message.find(AttributeType::MOBILITY_TICKET)
            && !self.clients.contains(flow)
        {
            return self.handle_ticket(now, flow, message, ticket);
        }
        let mut reply = Reply::to(flow, message);
        if message.method() == Method::CONNECTION_BIND
            && let Some(worker) = self.elsewhere_bound(message).filter(|_| flow.transport.is_stream())
        {
            return self.push(Action::MoveStream { flow, worker, message: message.as_bytes().to_vec() });
        }
        let allocation = self.clients.all(flow).find_map(|id| self.allocations.get(id.0));
        let known = allocation.map(|allocation| &allocation.credential);
        let wanted = || self.allocations.get(self.connections.allocation_wanted(message)?.0);
        let known = known.or_else(|| wanted().map(|allocation| &allocation.credential));
        let asker = match self.parts.authenticator.authenticate(now, flow.ends(), message, known) {
            Ok(asker) => asker,
            Err(Refusal::NotYetKnown) => return self.look_up(now, flow, message),
            Err(refusal) => return self.refuse_stranger(now, &reply, refusal),
        };
        reply.sign_as(&asker);
        let credential = asker.credential;
        if message.unknown_attributes(KNOWN).next().is_some() {
            return self.reject_unknown(&reply, message, KNOWN);
        }
        let handled = match (message.method(), allocation.map(|allocation| allocation.id)) {
            (Method::ALLOCATE, Some(id)) => self.handle_repeated_allocate(&reply, id),
            (Method::ALLOCATE, None) => self.handle_allocate(now, &reply, credential, message),
            (Method::CONNECTION_BIND, _) => self.handle_connection_bind(&reply, &credential, message),
            (Method::REFRESH, None) => self.handle_late_refresh(now, &reply, message),
            (_, None) => Err(Reject::AllocationMismatch),
            (_, Some(id)) if !self.belongs_to(id, &credential) => Err(Reject::WrongCredentials),
            (Method::REFRESH, Some(_)) => self.handle_refresh(now, &reply, &credential, message),
            (Method::CREATE_PERMISSION, Some(_)) => self.handle_create_permission(now, &reply, message),
            (Method::CONNECT, Some(id)) => self.handle_connect(now, &reply, id, message),
            (_, Some(_)) => self.handle_channel_bind(now, &reply, message),
        };
        match handled {
            Ok(()) => {}
            Err(Reject::Unauthenticated) => self.challenge(now, &reply, Reject::Unauthenticated),
            Err(reject) => self.reject(&reply, reject),
        }
    }

    /// RFC 8656, section 10: an indication has no answer, so whatever is wrong with it ends in silence.
    pub(super) fn handle_send(&mut self, flow: FiveTuple, message: &Message<'_>) {
        self.settle(flow);
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).map(PeerAddr);
        let data = message.find(AttributeType::DATA);
        let Some((peer, data)) =
            peer.zip(data).filter(|_| message.unknown_attributes(KNOWN).next().is_none())
        else {
            return self.drop_datagram(DropReason::Malformed);
        };
        let Some(allocation) = self.allocation_for(flow, peer.0.ip()) else {
            return self.drop_datagram(match self.clients.contains(flow) {
                true => DropReason::NoPermission,
                false => DropReason::NoChannel,
            });
        };
        if allocation.protocol == RelayProtocol::Tcp || !allocation.permissions.contains(peer.0.ip()) {
            return self.drop_datagram(DropReason::NoPermission);
        }
        if !self.parts.policy.allows(peer.0) {
            return self.drop_datagram(DropReason::PeerForbidden);
        }
        let fragmentation = match message.find(AttributeType::DONT_FRAGMENT) {
            Some(_) => Fragmentation::Forbidden,
            None => Fragmentation::Allowed,
        };
        let (allocation, peer) = (allocation.id, self.config.addresses.on_the_wire(peer));
        self.push(Action::SendToPeer { allocation, peer, data: data.into(), fragmentation });
    }

    fn handle_refresh(
        &mut self,
        now: Now,
        reply: &Reply,
        credential: &Credential,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let ticket = self.presented_ticket(reply.flow, message)?;
        let granted = self.refresh_allocations(now, reply, reply.flow, credential, message)?;
        self.respond_refreshed(reply, granted, reply.flow, ticket);
        Ok(())
    }

    /// Section 8.2: a lifetime of zero ends an allocation at once. A request that names no family is about all of
    /// what `holder` has.
    pub(super) fn refresh_allocations(
        &mut self,
        now: Now,
        reply: &Reply,
        holder: FiveTuple,
        credential: &Credential,
        message: &Message<'_>,
    ) -> Result<Duration, Reject> {
        let family = Family::requested(message)?;
        let is_meant = |id: &AllocationId| {
            let found = self.allocations.get(id.0);
            found.is_some_and(|found| family.is_none_or(|family| Family::of(found.relayed.0.ip()) == family))
        };
        let meant: Vec<_> = self.clients.all(holder).filter(is_meant).collect();
        if meant.is_empty() {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        let requested = lifetime::requested(message)?;
        if requested.is_some_and(|requested| requested.is_zero()) {
            meant.into_iter().for_each(|id| self.delete(id, EndReason::Released));
            self.ended.note(now.instant, reply.flow, reply.transaction_id);
            return Ok(Duration::ZERO);
        }
        let granted = self.config.lifetimes.grant(requested);
        let granted = credential.bound(now.unix).map_or(granted, |bound| granted.min(bound));
        meant.into_iter().for_each(|id| self.refresh(id, now.instant + granted, credential));
        Ok(granted)
    }

    /// There is nothing left to refresh, which may be this very request's doing.
    fn handle_late_refresh(&mut self, now: Now, reply: &Reply, message: &Message<'_>) -> Result<(), Reject> {
        let is_end = lifetime::requested(message)?.is_some_and(|requested| requested.is_zero());
        if !is_end || !self.ended.contains(now.instant, reply.flow, reply.transaction_id) {
            return Err(Reject::AllocationMismatch);
        }
        self.respond_refreshed(reply, Duration::ZERO, reply.flow, None);
        Ok(())
    }

    fn refresh(&mut self, id: AllocationId, expires_at: Instant, credential: &Credential) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let before = allocation.expires_at();
        allocation.phase = Phase::Open { expires_at };
        // A new token takes over from the one before.
        allocation.credential = credential.clone();
        self.deadlines.renew(Expiry::Allocation(id), before, expires_at);
    }

    /// Section 9.2: all the peers, or none.
    fn handle_create_permission(
        &mut self,
        now: Now,
        reply: &Reply,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let mut peers = requested_peers(message).peekable();
        peers.peek().ok_or(Reject::BadRequest)?;
        for peer in peers {
            let ip = peer.ok_or(Reject::BadRequest)?.0.ip();
            self.allocation_for(reply.flow, ip).ok_or(Reject::PeerAddressFamilyMismatch)?;
            self.check_peer(ip, None)?;
        }
        let ips = || requested_peers(message).flatten().map(|peer| peer.0.ip());
        for allocation in self.clients.all(reply.flow).filter_map(|id| self.allocations.get(id.0)) {
            let its = ips().filter(|ip| allocation.has_family_of(*ip));
            if !allocation.permissions.admit(its, now.instant, &allocation.meter) {
                return Err(Reject::InsufficientCapacity);
            }
        }
        for ip in ips() {
            if let Some(id) = self.allocation_for(reply.flow, ip).map(|allocation| allocation.id) {
                self.permit(now.instant, id, ip);
            }
        }
        self.succeed(reply, |_| ());
        Ok(())
    }

    /// Section 12.2. A number stands for one peer, whatever the peer's family.
    fn handle_channel_bind(&mut self, now: Now, reply: &Reply, message: &Message<'_>) -> Result<(), Reject> {
        let channel = requested_channel(message).filter(|channel| self.config.channels.contains(*channel));
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS);
        let (channel, peer) = channel.zip(peer).ok_or(Reject::BadRequest)?;
        let allocation =
            self.allocation_for(reply.flow, peer.ip()).ok_or(Reject::PeerAddressFamilyMismatch)?;
        if allocation.protocol == RelayProtocol::Tcp {
            return Err(Reject::BadRequest);
        }
        self.check_peer(peer.ip(), Some(peer.port()))?;
        let id = allocation.id;
        let mut others = self.clients.all(reply.flow).filter(|other| *other != id);
        if others.any(|other| {
            self.allocations.get(other.0).is_some_and(|other| other.channels.peer(channel).is_some())
        }) {
            return Err(Reject::BadRequest);
        }
        allocation.channels.check(channel, PeerAddr(peer)).map_err(|error| match error {
            BindError::Conflict => Reject::BadRequest,
            BindError::Full => Reject::InsufficientCapacity,
        })?;
        if !allocation.permissions.admit(std::iter::once(peer.ip()), now.instant, &allocation.meter) {
            return Err(Reject::InsufficientCapacity);
        }
        self.permit(now.instant, id, peer.ip());
        self.bind(now.instant, id, channel, PeerAddr(peer));
        self.succeed(reply, |_| ());
        Ok(())
    }

    /// The client's allocation that can reach this peer.
    fn allocation_for(&self, flow: FiveTuple, peer: IpAddr) -> Option<&Allocation> {
        let mut held = self.clients.all(flow).filter_map(|id| self.allocations.get(id.0));
        held.find(|allocation| allocation.has_family_of(peer))
    }

    pub(super) fn check_peer(&self, ip: IpAddr, port: Option<u16>) -> Result<(), Reject> {
        let is_allowed = match port {
            Some(port) => self.parts.policy.allows(SocketAddr::new(ip, port)),
            None => self.parts.policy.allows_ip(ip),
        };
        if is_allowed { Ok(()) } else { Err(Reject::Forbidden) }
    }

    fn belongs_to(&self, id: AllocationId, credential: &Credential) -> bool {
        self.allocations.get(id.0).is_some_and(|allocation| credential.may_act_for(&allocation.credential))
    }

    pub(super) fn refuse_stranger(&mut self, now: Now, reply: &Reply, refusal: Refusal) {
        if !self.may_refuse_stranger(now, reply.flow) {
            return;
        }
        match refusal {
            Refusal::Unauthenticated => self.challenge(now, reply, Reject::Unauthenticated),
            Refusal::StaleNonce => self.challenge(now, reply, Reject::StaleNonce),
            Refusal::Incomplete => self.reject(reply, Reject::BadRequest),
            Refusal::Unavailable | Refusal::NotYetKnown => self.reject(reply, Reject::Unavailable),
        }
    }

    fn challenge(&mut self, now: Now, reply: &Reply, reject: Reject) {
        self.note_rejected(reply, reject);
        let challenge = self.parts.authenticator.challenge(now.instant, reply.flow.ends());
        let message = reply.challenge(reject, &challenge);
        self.push(Action::Respond { flow: reply.flow, message });
    }

    pub(super) fn reject_unknown(&mut self, reply: &Reply, message: &Message<'_>, known: &[AttributeType]) {
        self.reject_with(reply, Reject::UnknownAttributes, |writer| {
            writer.unknown_attributes(message.unknown_attributes(known));
        });
    }
}

fn requested_channel(message: &Message<'_>) -> Option<ChannelNumber> {
    let value = message.find(AttributeType::CHANNEL_NUMBER).filter(|value| value.len() == 4)?;
    ChannelNumber::new(u16_at(value, 0)?)
}

/// Every XOR-PEER-ADDRESS, `None` for a broken one.
fn requested_peers<'a>(message: &Message<'a>) -> impl Iterator<Item = Option<PeerAddr>> + use<'a> {
    let transaction_id = message.transaction_id();
    message
        .attributes()
        .filter(|attribute| attribute.kind == AttributeType::XOR_PEER_ADDRESS)
        .map(move |attribute| address::parse_xor(attribute.value, &transaction_id).map(PeerAddr))
}

/// Comprehension-required attributes this server knows, whether or not it has a use for them where they stand.
pub(super) const KNOWN: &[AttributeType] = &[
    AttributeType::MAPPED_ADDRESS,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::ACCESS_TOKEN,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::USERHASH,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::CONNECTION_ID,
];
