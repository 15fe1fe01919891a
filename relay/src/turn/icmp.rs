//! What routers and peers say about datagrams that a relay socket sent, passed on to its client. RFC 8656, 11.5.

use rand::CryptoRng;

use super::{Action, AllocationId, PeerAddr, Server};
use crate::metrics::DropReason;
use crate::stun::{AttributeType, Class, MessageWriter, Method, TransactionId};

/// An ICMP error about a datagram to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// To whom the datagram was sent.
    pub peer: PeerAddr,
    /// ICMP or ICMPv6, as the peer's address says.
    pub kind: u8,
    /// What it means depends on the type.
    pub code: u8,
    /// The next hop's MTU, where the error is about that.
    pub mtu: u32,
}

impl IcmpError {
    /// Whether section 11.5 has it passed on: unreachable, too big, and lived too long.
    fn is_for_clients(self) -> bool {
        match (self.peer.0.is_ipv4(), self.kind) {
            (true, DESTINATION_UNREACHABLE_V4 | TIME_EXCEEDED_V4) => true,
            (false, kind) => (DESTINATION_UNREACHABLE_V6..=TIME_EXCEEDED_V6).contains(&kind),
            (true, _) => false,
        }
    }

    /// The value of an ICMP attribute: 16 bits nothing, 7 bits type, 9 bits code, 32 bits data.
    fn to_value(self) -> [u8; 8] {
        let [high, low] = (u16::from(self.kind & 0x7F) << 9 | u16::from(self.code)).to_be_bytes();
        let is_about_size = match self.peer.0.is_ipv4() {
            true => (self.kind, self.code) == (DESTINATION_UNREACHABLE_V4, FRAGMENTATION_NEEDED),
            false => self.kind == PACKET_TOO_BIG_V6,
        };
        let [a, b, c, d] = if is_about_size { self.mtu.to_be_bytes() } else { [0; 4] };
        [0, 0, high, low, a, b, c, d]
    }
}

impl<R: CryptoRng> Server<R> {
    /// The network's word on a datagram that a relay socket sent.
    pub fn handle_icmp(&mut self, allocation: AllocationId, error: IcmpError) {
        let Some(found) = self.allocations.get(allocation.0) else { return };
        let is_permitted = |peer: &PeerAddr| found.permissions.contains(peer.0.ip());
        let known_as = [Some(error.peer), self.config.addresses.known_as(error.peer)];
        let peer = known_as.into_iter().flatten().find(is_permitted);
        let Some(peer) = peer.filter(|_| error.is_for_clients()) else {
            return self.drop_datagram(DropReason::NoPermission);
        };
        let flow = found.flow;
        let mut transaction_id = TransactionId([0; 12]);
        self.parts.rng.fill_bytes(&mut transaction_id.0);
        let mut message = Vec::new();
        let written = MessageWriter::new(&mut message, Class::Indication, Method::DATA, transaction_id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.0)
            .attribute(AttributeType::ICMP, &error.to_value())
            .finish();
        if written.is_ok() {
            self.push(Action::SendToClient { allocation, flow, message, data_bytes: 0 });
        }
    }
}

const DESTINATION_UNREACHABLE_V4: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TIME_EXCEEDED_V4: u8 = 11;
const DESTINATION_UNREACHABLE_V6: u8 = 1;
const PACKET_TOO_BIG_V6: u8 = 2;
const TIME_EXCEEDED_V6: u8 = 3;
