//! Other servers, for clients that this one has no place for: ALTERNATE-SERVER. RFC 8489, section 10.

use std::net::SocketAddr;

use rand::CryptoRng;
use rand::seq::IteratorRandom as _;

use super::reply::Reply;
use super::{FiveTuple, Reject, Server, Transport};
use crate::stun::AttributeType;

/// Where to send clients, by how they came: they go there over the same transport.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alternates {
    /// Over UDP and TCP.
    pub plain: Vec<SocketAddr>,
    /// Over TLS and DTLS.
    pub secure: Vec<SocketAddr>,
}

impl Alternates {
    /// One of the client's address family, as section 14.15 asks for.
    fn pick(&self, flow: FiveTuple, rng: &mut impl CryptoRng) -> Option<SocketAddr> {
        let servers = match flow.transport {
            Transport::Udp | Transport::Tcp => &self.plain,
            Transport::Tls | Transport::Dtls => &self.secure,
        };
        let is_v4 = flow.client.0.ip().to_canonical().is_ipv4();
        servers.iter().copied().filter(|server| server.is_ipv4() == is_v4).choose(rng)
    }
}

impl<R: CryptoRng> Server<R> {
    /// Says that there is no place here, and where there may be one.
    pub(super) fn refuse_for_lack_of_room(&mut self, reply: &Reply) {
        match self.config.alternates.pick(reply.flow, &mut self.parts.rng) {
            Some(server) => self.reject_with(reply, Reject::TryAlternate, |writer| {
                writer.plain_address(AttributeType::ALTERNATE_SERVER, server);
            }),
            None => self.reject(reply, Reject::InsufficientCapacity),
        }
    }
}
