//! Behaviour discovery: Bindings answered from another address, to another port, or padded. RFC 5780.
//!
//! A client finds out how its NAT maps and filters by asking one of four addresses and having the answer come from
//! another. Nothing is remembered. An answer goes to the IP address that asked, is never longer than its request or the
//! few dozen bytes of the attributes themselves, and is paid for from the budget of strangers: past it a bare
//! question gets a bare answer, and anything more gets none.

use std::net::SocketAddr;

use rand::CryptoRng;

use super::reply::Reply;
use super::requests::KNOWN;
use super::{ClientAddr, Now, Reject, Server, Transport};
use crate::stun::{ATTRIBUTE_HEADER_BYTES, AttributeType, Message, u16_at};

/// Two addresses that differ in IP address and port, and so stand for four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPair {
    /// Where clients begin.
    pub primary: SocketAddr,
    /// Of the same family.
    pub alternate: SocketAddr,
}

impl AddressPair {
    /// The two mixed ones.
    #[must_use]
    pub fn mixed(self) -> [SocketAddr; 2] {
        let Self { primary, alternate } = self;
        [SocketAddr::new(primary.ip(), alternate.port()), SocketAddr::new(alternate.ip(), primary.port())]
    }

    fn contains(self, address: SocketAddr) -> bool {
        [self.primary, self.alternate].contains(&address) || self.mixed().contains(&address)
    }

    fn changed(self, from: SocketAddr, change: Change) -> SocketAddr {
        let other = |is_primary: bool| if is_primary { self.alternate } else { self.primary };
        let ip = if change.ip { other(from.ip() == self.primary.ip()).ip() } else { from.ip() };
        let port = if change.port { other(from.port() == self.primary.port()).port() } else { from.port() };
        SocketAddr::new(ip, port)
    }
}

/// The pairs there are, at most one a family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    pairs: Vec<AddressPair>,
}

impl Discovery {
    /// Answers from these.
    #[must_use]
    pub fn new(pairs: Vec<AddressPair>) -> Self {
        Self { pairs }
    }

    /// What OTHER-ADDRESS says to who asked at `server`, if that is one of four.
    pub(super) fn other_address(&self, server: SocketAddr) -> Option<SocketAddr> {
        self.changed(server, Change { ip: true, port: true })
    }

    fn changed(&self, server: SocketAddr, change: Change) -> Option<SocketAddr> {
        self.pairs.iter().find(|pair| pair.contains(server)).map(|pair| pair.changed(server, change))
    }
}

/// What CHANGE-REQUEST asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    ip: bool,
    port: bool,
}

impl Change {
    fn of(message: &Message<'_>) -> Result<Self, Reject> {
        match message.find(AttributeType::CHANGE_REQUEST) {
            None => Ok(Self::default()),
            Some([_, _, _, flags]) => Ok(Self { ip: flags & CHANGE_IP != 0, port: flags & CHANGE_PORT != 0 }),
            Some(_) => Err(Reject::BadRequest),
        }
    }
}

impl<R: CryptoRng> Server<R> {
    /// A Binding at one of four addresses. Section 6.1.
    pub(super) fn handle_discovery(&mut self, now: Now, mut reply: Reply, message: &Message<'_>) {
        let is_bare = !message.attributes().any(|attribute| OWN.contains(&attribute.kind));
        if !self.is_within_budget(now, reply.flow) {
            if is_bare && message.unknown_attributes(KNOWN).next().is_none() {
                let client = reply.flow.client.0;
                return self.succeed(&reply, |writer| {
                    writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, client);
                });
            }
            return self.drop_datagram(crate::metrics::DropReason::UnauthenticatedRate);
        }
        let known = [KNOWN, OWN].concat();
        if message.unknown_attributes(&known).next().is_some() {
            return self.reject_unknown(&reply, message, &known);
        }
        let (origin, to) = match self.answer_path(&reply, message) {
            Ok(path) => path,
            Err(reject) => return self.reject(&reply, reject),
        };
        let client = reply.flow.client.0;
        let other = self.config.discovery.other_address(reply.flow.server);
        let padding = message.find(AttributeType::PADDING).map(|_| message.length());
        reply.flow.server = origin;
        reply.flow.client = to;
        let fingerprint = reply.fingerprint_bytes();
        self.succeed(&reply, |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, client);
            writer.plain_address(AttributeType::MAPPED_ADDRESS, client);
            writer.plain_address(AttributeType::RESPONSE_ORIGIN, origin);
            if let Some(other) = other {
                writer.plain_address(AttributeType::OTHER_ADDRESS, other);
            }
            if let Some(room) = padding {
                let length = room.saturating_sub(writer.written() + fingerprint + ATTRIBUTE_HEADER_BYTES);
                writer.attribute(AttributeType::PADDING, &vec![0; length]);
            }
        });
    }

    /// From where to where the answer goes. On a stream, or a session of DTLS, there is but one way.
    fn answer_path(&self, reply: &Reply, message: &Message<'_>) -> Result<(SocketAddr, ClientAddr), Reject> {
        let change = Change::of(message)?;
        let flow = reply.flow;
        let port = match message.find(AttributeType::RESPONSE_PORT) {
            None => None,
            Some(value @ [_, _, _, _]) => Some(u16_at(value, 0).filter(|port| *port != 0)),
            Some(_) => return Err(Reject::BadRequest),
        };
        match port {
            Some(None) => return Err(Reject::BadRequest),
            Some(_) if message.find(AttributeType::PADDING).is_some() => return Err(Reject::BadRequest),
            Some(_) | None => {}
        }
        if flow.transport != Transport::Udp && (change != Change::default() || port.is_some()) {
            return Err(Reject::BadRequest);
        }
        let origin = self.config.discovery.changed(flow.server, change).ok_or(Reject::BadRequest)?;
        let mut to = flow.client;
        if let Some(port) = port.flatten() {
            to.0.set_port(port);
        }
        Ok((origin, to))
    }
}

/// What else a Binding may carry here.
const OWN: &[AttributeType] =
    &[AttributeType::CHANGE_REQUEST, AttributeType::PADDING, AttributeType::RESPONSE_PORT];
const CHANGE_IP: u8 = 0x04;
const CHANGE_PORT: u8 = 0x02;
