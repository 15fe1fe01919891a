//! What each method does, and when it is refused. RFC 8656, sections 7 to 12.

use std::net::{IpAddr, SocketAddr};

use rand::CryptoRng;

use super::allocation::{Allocation, Phase};
use super::channel::{BindError, Channels};
use super::deadlines::Expiry;
use super::permission::Permissions;
use super::ports::{Parity, PortSequence};
use super::reply::Reply;
use super::{
    Action, AllocationId, FiveTuple, Fragmentation, Now, PeerAddr, Reject, RelayedAddr, Server, lifetime,
};
use crate::auth::{Credential, Refusal};
use crate::metrics::DropReason;
use crate::policy::Meter;
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
        let mut reply = Reply::to(flow, message);
        let allocation = self.by_flow.get(&flow).and_then(|id| self.allocations.get(id.0));
        let known = allocation.map(|allocation| &allocation.credential);
        let asker = match self.parts.authenticator.authenticate(now, flow.ends(), message, known) {
            Ok(asker) => asker,
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
            (_, None) => Err(Reject::AllocationMismatch),
            (_, Some(id)) if !self.belongs_to(id, &credential) => Err(Reject::WrongCredentials),
            (Method::REFRESH, Some(id)) => self.handle_refresh(now, &reply, id, credential, message),
            (Method::CREATE_PERMISSION, Some(id)) => self.handle_create_permission(now, &reply, id, message),
            (_, Some(id)) => self.handle_channel_bind(now, &reply, id, message),
        };
        match handled {
            Ok(()) => {}
            Err(Reject::Unauthenticated) => self.challenge(now, &reply, Reject::Unauthenticated),
            Err(reject) => self.reject(&reply, reject),
        }
    }

    /// RFC 8656, section 10: an indication has no answer, so whatever is wrong with it ends in silence.
    pub(super) fn handle_send(&mut self, flow: FiveTuple, message: &Message<'_>) {
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).map(PeerAddr);
        let data = message.find(AttributeType::DATA);
        let Some((peer, data)) =
            peer.zip(data).filter(|_| message.unknown_attributes(KNOWN).next().is_none())
        else {
            return self.drop_datagram(DropReason::Malformed);
        };
        let Some(allocation) = self.by_flow.get(&flow).and_then(|id| self.allocations.get(id.0)) else {
            return self.drop_datagram(DropReason::NoChannel);
        };
        if !allocation.permissions.contains(peer.0.ip()) {
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

    /// Section 7.2: the same transaction again gets the same answer; another one should not have been made.
    fn handle_repeated_allocate(&mut self, reply: &Reply, id: AllocationId) -> Result<(), Reject> {
        let allocation = self.allocations.get(id.0).ok_or(Reject::AllocationMismatch)?;
        if allocation.transaction_id != reply.transaction_id {
            return Err(Reject::AllocationMismatch);
        }
        let (relayed, granted) = (allocation.relayed, allocation.granted);
        match allocation.phase {
            Phase::Opening { .. } => {}
            Phase::Open { .. } => self.respond_allocated(reply, relayed, granted),
        }
        Ok(())
    }

    fn handle_allocate(
        &mut self,
        now: Now,
        reply: &Reply,
        credential: Credential,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        if credential.expires_at.is_some_and(|expires_at| expires_at <= now.unix) {
            return Err(Reject::Unauthenticated);
        }
        check_transport(message)?;
        let parity = requested_parity(message)?;
        let relayed = RelayedAddr(SocketAddr::new(self.relay_ip(requested_family(message)?)?, 0));
        let granted = self.config.lifetimes.grant(requested_lifetime(message)?);
        let granted = credential.bound(now.unix).map_or(granted, |bound| granted.min(bound));
        let mut ports = PortSequence::new(&mut self.parts.rng, &self.config.addresses.ports, parity);
        let port = ports.next().ok_or(Reject::InsufficientCapacity)?;

        let entry = self.allocations.vacant_entry();
        let id = AllocationId(entry.key());
        entry.insert(Allocation {
            id,
            flow: reply.flow,
            relayed,
            credential,
            transaction_id: reply.transaction_id,
            granted,
            phase: Phase::Opening { reply: Box::new(reply.clone()), ports },
            meter: Meter::default(),
            permissions: Permissions::default(),
            channels: Channels::default(),
        });
        self.by_flow.insert(reply.flow, id);
        self.request_relay(id, port);
        Ok(())
    }

    /// Section 8.2: a lifetime of zero ends the allocation at once.
    fn handle_refresh(
        &mut self,
        now: Now,
        reply: &Reply,
        id: AllocationId,
        credential: Credential,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let allocation = self.allocations.get_mut(id.0).ok_or(Reject::AllocationMismatch)?;
        if let Some(family) = parse_family(message)?
            && (family == Family::V4) != allocation.relayed.0.is_ipv4()
        {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        let requested = requested_lifetime(message)?;
        let granted = match requested {
            Some(requested) if requested.is_zero() => {
                self.delete(id);
                requested
            }
            Some(_) | None => {
                let granted = self.config.lifetimes.grant(requested);
                let granted = credential.bound(now.unix).map_or(granted, |bound| granted.min(bound));
                // A new token takes over from the one before.
                allocation.credential = credential;
                let (before, expires_at) = (allocation.expires_at(), now.instant + granted);
                allocation.phase = Phase::Open { expires_at };
                self.deadlines.renew(Expiry::Allocation(id), before, expires_at);
                granted
            }
        };
        self.succeed(reply, |writer| {
            writer.attribute(AttributeType::LIFETIME, &lifetime::to_value(granted));
        });
        Ok(())
    }

    /// Section 9.2: all the peers, or none.
    fn handle_create_permission(
        &mut self,
        now: Now,
        reply: &Reply,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let allocation = self.allocations.get(id.0).ok_or(Reject::AllocationMismatch)?;
        let mut peers = requested_peers(message).peekable();
        peers.peek().ok_or(Reject::BadRequest)?;
        for peer in peers {
            let peer = peer.ok_or(Reject::BadRequest)?;
            self.check_peer(allocation, peer.0.ip(), None)?;
        }
        let ips = requested_peers(message).flatten().map(|peer| peer.0.ip());
        if !allocation.permissions.admit(ips, now.instant, &allocation.meter) {
            return Err(Reject::InsufficientCapacity);
        }
        for peer in requested_peers(message).flatten() {
            self.permit(now.instant, id, peer.0.ip());
        }
        self.succeed(reply, |_| ());
        Ok(())
    }

    /// Section 12.2.
    fn handle_channel_bind(
        &mut self,
        now: Now,
        reply: &Reply,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<(), Reject> {
        let allocation = self.allocations.get(id.0).ok_or(Reject::AllocationMismatch)?;
        let channel = requested_channel(message).filter(|channel| self.config.channels.contains(*channel));
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS);
        let (channel, peer) = channel.zip(peer).ok_or(Reject::BadRequest)?;
        self.check_peer(allocation, peer.ip(), Some(peer.port()))?;
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

    fn check_peer(&self, allocation: &Allocation, ip: IpAddr, port: Option<u16>) -> Result<(), Reject> {
        if !allocation.has_family_of(ip) {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        let is_allowed = match port {
            Some(port) => self.parts.policy.allows(SocketAddr::new(ip, port)),
            None => self.parts.policy.allows_ip(ip),
        };
        if is_allowed { Ok(()) } else { Err(Reject::Forbidden) }
    }

    fn belongs_to(&self, id: AllocationId, credential: &Credential) -> bool {
        self.allocations.get(id.0).is_some_and(|allocation| credential.may_act_for(&allocation.credential))
    }

    fn relay_ip(&self, family: Family) -> Result<IpAddr, Reject> {
        let addresses = &self.config.addresses;
        match family {
            Family::V4 => addresses.relay_v4.map(IpAddr::V4),
            Family::V6 => addresses.relay_v6.map(IpAddr::V6),
        }
        .ok_or(Reject::AddressFamilyNotSupported)
    }

    fn refuse_stranger(&mut self, now: Now, reply: &Reply, refusal: Refusal) {
        if !self.may_refuse_stranger(now, reply.flow) {
            return;
        }
        match refusal {
            Refusal::Unauthenticated => self.challenge(now, reply, Reject::Unauthenticated),
            Refusal::StaleNonce => self.challenge(now, reply, Reject::StaleNonce),
            Refusal::Incomplete => self.reject(reply, Reject::BadRequest),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn check_transport(message: &Message<'_>) -> Result<(), Reject> {
    match message.find(AttributeType::REQUESTED_TRANSPORT) {
        Some([UDP, _, _, _]) => Ok(()),
        Some([_, _, _, _]) => Err(Reject::UnsupportedTransport),
        Some(_) | None => Err(Reject::BadRequest),
    }
}

/// EVEN-PORT without reservation is a matter of choosing; with one, and for the tokens that come of it, there is no
/// capacity here. Section 7.2.
fn requested_parity(message: &Message<'_>) -> Result<Parity, Reject> {
    let token = message.find(AttributeType::RESERVATION_TOKEN);
    let even_port = message.find(AttributeType::EVEN_PORT);
    let family = message.find(AttributeType::REQUESTED_ADDRESS_FAMILY);
    match (token, even_port) {
        (Some(token), None) if token.len() == 8 && family.is_none() => Err(Reject::InsufficientCapacity),
        (Some(_), _) => Err(Reject::BadRequest),
        (None, None) => Ok(Parity::Any),
        (None, Some([flags])) if flags & RESERVE_NEXT == 0 => Ok(Parity::Even),
        (None, Some([_])) => Err(Reject::InsufficientCapacity),
        (None, Some(_)) => Err(Reject::BadRequest),
    }
}

fn requested_family(message: &Message<'_>) -> Result<Family, Reject> {
    parse_family(message).map(|family| family.unwrap_or(Family::V4))
}

fn parse_family(message: &Message<'_>) -> Result<Option<Family>, Reject> {
    match message.find(AttributeType::REQUESTED_ADDRESS_FAMILY) {
        None => Ok(None),
        Some([0x01, _, _, _]) => Ok(Some(Family::V4)),
        Some([0x02, _, _, _]) => Ok(Some(Family::V6)),
        Some([_, _, _, _]) => Err(Reject::AddressFamilyNotSupported),
        Some(_) => Err(Reject::BadRequest),
    }
}

fn requested_lifetime(message: &Message<'_>) -> Result<Option<std::time::Duration>, Reject> {
    let value = message.find(AttributeType::LIFETIME);
    value.map(|value| lifetime::parse(value).ok_or(Reject::BadRequest)).transpose()
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

/// The protocol number in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
/// The flag in EVEN-PORT that asks for the next port, too.
const RESERVE_NEXT: u8 = 0x80;

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
];
