//! The 20 bytes in front of every message: class, method, length and transaction id. RFC 8489, section 5.

use std::fmt;

use super::{HEADER_BYTES, MAGIC_COOKIE, u16_at, u32_at};

/// Whether a message asks, tells, or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// Expects none.
    Indication,
    /// Says yes.
    Success,
    /// Says no, with an ERROR-CODE.
    Error,
}

/// What a message is about: 12 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u16);

impl Method {
    /// RFC 8489: which address do you see?
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656: make a relayed transport address.
    pub const ALLOCATE: Self = Self(0x003);
    /// RFC 8656: keep or delete it.
    pub const REFRESH: Self = Self(0x004);
    /// RFC 8656: data from the client to a peer.
    pub const SEND: Self = Self(0x006);
    /// RFC 8656: data from a peer to the client.
    pub const DATA: Self = Self(0x007);
    /// RFC 8656: let peers send.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// RFC 8656: give a peer a number.
    pub const CHANNEL_BIND: Self = Self(0x009);

    /// RFC 6062: open a connection to a peer.
    pub const CONNECT: Self = Self(0x00A);
    /// RFC 6062: this connection is for a peer's data.
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// RFC 6062: a peer opened a connection.
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);

    /// `None` if the number needs more than 12 bits.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number <= 0xFFF { Some(Self(number)) } else { None }
    }

    /// The 12 bits.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Ties an answer to its request: 96 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionId({self})")
    }
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Asks, tells or answers.
    pub class: Class,
    /// What about.
    pub method: Method,
    /// Bytes of attributes that follow, a multiple of four.
    pub length: u16,
    /// Which exchange.
    pub transaction_id: TransactionId,
}

impl Header {
    /// Reads the first 20 bytes. `None` if they are not the beginning of a STUN message.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message_type = u16_at(bytes, 0)?;
        let length = u16_at(bytes, 2)?;
        let is_stun = message_type < 0x4000 && length % 4 == 0 && u32_at(bytes, 4)? == MAGIC_COOKIE;
        let transaction_id = TransactionId(*bytes.get(8..HEADER_BYTES)?.first_chunk()?);
        let (class, method) = split_type(message_type);
        is_stun.then_some(Self { class, method, length, transaction_id })
    }

    /// The 20 bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (fixed, transaction_id) = bytes.split_at_mut(8);
        let message_type = join_type(self.class, self.method).to_be_bytes();
        let fields =
            message_type.into_iter().chain(self.length.to_be_bytes()).chain(MAGIC_COOKIE.to_be_bytes());
        fixed.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        transaction_id.copy_from_slice(&self.transaction_id.0);
        bytes
    }
}

/// The class is bits 4 and 8 of the type; the method is what remains.
fn split_type(message_type: u16) -> (Class, Method) {
    let class = match (message_type & 0x0100 != 0, message_type & 0x0010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    let method = (message_type & 0x000F) | (message_type & 0x00E0) >> 1 | (message_type & 0x3E00) >> 2;
    (class, Method(method))
}

fn join_type(class: Class, Method(method): Method) -> u16 {
    let class = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    class | (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_type_reads_as_the_rfc_spells_it() {
        assert_eq!(split_type(0x0001), (Class::Request, Method::BINDING));
        assert_eq!(split_type(0x0101), (Class::Success, Method::BINDING));
        assert_eq!(split_type(0x0111), (Class::Error, Method::BINDING));
        assert_eq!(split_type(0x0016), (Class::Indication, Method::SEND));
        assert_eq!(split_type(0x0009), (Class::Request, Method::CHANNEL_BIND));
    }

    #[test]
    fn what_lacks_the_cookie_the_zero_bits_or_an_even_length_is_not_stun() {
        let good = [0x00, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert!(Header::parse(&good).is_some());
        for (offset, value) in [(0, 0x40), (0, 0x80), (3, 2), (4, 0x22), (7, 0)] {
            let mut bad = good;
            bad[offset] = value;
            assert_eq!(Header::parse(&bad), None, "{offset}");
        }
        assert_eq!(Header::parse(&good[..19]), None);
    }

    proptest! {
        #[test]
        fn every_type_survives_the_round_trip(message_type in 0u16..0x4000) {
            let (class, method) = split_type(message_type);
            prop_assert_eq!(join_type(class, method), message_type);
        }

        #[test]
        fn every_header_survives_the_round_trip(message_type in 0u16..0x4000, words in any::<u16>(), id in any::<[u8; 12]>()) {
            let (class, method) = split_type(message_type);
            let header = Header { class, method, length: words & !3, transaction_id: TransactionId(id) };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Some(header));
        }
    }
}
