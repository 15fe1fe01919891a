//! Transport addresses inside attributes, plain and XORed with cookie and transaction id. RFC 8489, 14.1 and 14.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId, u16_at};

/// The longest encoded address: family and port, then 16 bytes of IPv6.
const MAX_BYTES: usize = 20;
const IPV4: u8 = 0x01;
const IPV6: u8 = 0x02;

/// An address as it stands in an attribute, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct EncodedAddress {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl EncodedAddress {
    /// The value of an XOR-…-ADDRESS attribute.
    #[must_use]
    pub fn xor(address: SocketAddr, transaction_id: &TransactionId) -> Self {
        Self::plain(apply_xor(address, transaction_id))
    }

    /// The value of a MAPPED-ADDRESS attribute.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        let mut bytes = [0; MAX_BYTES];
        let (family, length) = match address.ip() {
            IpAddr::V4(_) => (IPV4, 8),
            IpAddr::V6(_) => (IPV6, MAX_BYTES),
        };
        let (fixed, ip) = bytes.split_at_mut(4);
        let [port_high, port_low] = address.port().to_be_bytes();
        fixed.copy_from_slice(&[0, family, port_high, port_low]);
        match address.ip() {
            IpAddr::V4(v4) => ip.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from),
            IpAddr::V6(v6) => ip.copy_from_slice(&v6.octets()),
        }
        Self { bytes, length }
    }

    /// The value's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Reads the value of an XOR-…-ADDRESS attribute.
#[must_use]
pub fn parse_xor(value: &[u8], transaction_id: &TransactionId) -> Option<SocketAddr> {
    parse_plain(value).map(|address| apply_xor(address, transaction_id))
}

/// Reads the value of a MAPPED-ADDRESS attribute.
#[must_use]
pub fn parse_plain(value: &[u8]) -> Option<SocketAddr> {
    let port = u16_at(value, 2)?;
    let ip = value.get(4..)?;
    let ip = match *value.get(1)? {
        IPV4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        IPV6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Its own inverse. The point is that a NAT which rewrites addresses it finds in payloads does not find this one.
fn apply_xor(address: SocketAddr, transaction_id: &TransactionId) -> SocketAddr {
    let [high, low, ..] = MAGIC_COOKIE.to_be_bytes();
    let port = address.port() ^ u16::from_be_bytes([high, low]);
    let ip = match address.ip() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() ^ MAGIC_COOKIE)),
        IpAddr::V6(v6) => {
            let id = transaction_id.0.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
            let mask = u128::from(MAGIC_COOKIE) << 96 | id;
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ mask))
        }
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_of_a_wrong_family_or_length_are_none() {
        let id = TransactionId([7; 12]);
        for value in [
            &[][..],
            &[0, 1, 0, 1],
            &[0, 1, 0, 1, 1, 2, 3],
            &[0, 1, 0, 1, 1, 2, 3, 4, 5],
            &[0, 3, 0, 1, 1, 2, 3, 4],
            &[0, 2, 0, 1, 1, 2, 3, 4],
        ] {
            assert_eq!(parse_xor(value, &id), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_survives_the_round_trip(ip: IpAddr, port: u16, id: [u8; 12]) {
            let (address, id) = (SocketAddr::new(ip, port), TransactionId(id));
            prop_assert_eq!(parse_xor(EncodedAddress::xor(address, &id).as_bytes(), &id), Some(address));
            prop_assert_eq!(parse_plain(EncodedAddress::plain(address).as_bytes()), Some(address));
        }
    }
}
