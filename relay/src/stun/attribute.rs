//! Attribute numbers, error codes, and how a value reads. RFC 8489, section 14; RFC 8656, section 18.

use super::{padded, u16_at};

/// The number in front of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

#[expect(missing_docs, reason = "the names are the RFC's, and say all there is to say")]
impl AttributeType {
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    pub const CHANGE_REQUEST: Self = Self(0x0003);
    pub const USERNAME: Self = Self(0x0006);
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    pub const ERROR_CODE: Self = Self(0x0009);
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    pub const LIFETIME: Self = Self(0x000D);
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    pub const DATA: Self = Self(0x0013);
    pub const REALM: Self = Self(0x0014);
    pub const NONCE: Self = Self(0x0015);
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    pub const EVEN_PORT: Self = Self(0x0018);
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    pub const DONT_FRAGMENT: Self = Self(0x001A);
    pub const ACCESS_TOKEN: Self = Self(0x001B);
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    pub const PASSWORD_ALGORITHM: Self = Self(0x001D);
    pub const USERHASH: Self = Self(0x001E);
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    pub const CONNECTION_ID: Self = Self(0x002A);
    pub const PADDING: Self = Self(0x0026);
    pub const RESPONSE_PORT: Self = Self(0x0027);
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    pub const ALTERNATE_DOMAIN: Self = Self(0x8003);
    pub const ICMP: Self = Self(0x8004);
    pub const SOFTWARE: Self = Self(0x8022);
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    pub const FINGERPRINT: Self = Self(0x8028);
    pub const RESPONSE_ORIGIN: Self = Self(0x802B);
    pub const OTHER_ADDRESS: Self = Self(0x802C);
    pub const THIRD_PARTY_AUTHORIZATION: Self = Self(0x802E);
    pub const MOBILITY_TICKET: Self = Self(0x8030);
    /// What ADDITIONAL-ADDRESS-FAMILY was before it had a number; Debian's coturn still sends it.
    pub const DRAFT_ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8032);
}

impl AttributeType {
    /// Whether who does not know it must refuse the message.
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

/// One attribute of a message, its value without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Which one.
    pub kind: AttributeType,
    /// Its value.
    pub value: &'a [u8],
}

/// An error response's number, 300 to 699.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(u16);

#[expect(missing_docs, reason = "the names are the RFC's, and say all there is to say")]
impl ErrorCode {
    pub const TRY_ALTERNATE: Self = Self(300);
    pub const BAD_REQUEST: Self = Self(400);
    pub const UNAUTHENTICATED: Self = Self(401);
    pub const FORBIDDEN: Self = Self(403);
    pub const MOBILITY_FORBIDDEN: Self = Self(405);
    pub const UNKNOWN_ATTRIBUTE: Self = Self(420);
    pub const ALLOCATION_MISMATCH: Self = Self(437);
    pub const STALE_NONCE: Self = Self(438);
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: Self = Self(440);
    pub const WRONG_CREDENTIALS: Self = Self(441);
    pub const UNSUPPORTED_TRANSPORT_PROTOCOL: Self = Self(442);
    pub const PEER_ADDRESS_FAMILY_MISMATCH: Self = Self(443);
    pub const CONNECTION_ALREADY_EXISTS: Self = Self(446);
    pub const CONNECTION_TIMEOUT_OR_FAILURE: Self = Self(447);
    pub const ALLOCATION_QUOTA_REACHED: Self = Self(486);
    pub const SERVER_ERROR: Self = Self(500);
    pub const INSUFFICIENT_CAPACITY: Self = Self(508);
}

impl ErrorCode {
    /// `None` outside of 300 to 699.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number >= 300 && number <= 699 { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads the value of an ERROR-CODE attribute; the reason phrase is for people and not kept.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let [_, _, class, number] = *value.first_chunk()?;
        let (class, number) = (u16::from(class & 0x07), u16::from(number));
        if number > 99 { None } else { Self::new(class * 100 + number) }
    }

    /// The fixed part of an ERROR-CODE attribute's value, which the reason phrase follows.
    #[must_use]
    pub fn to_value(self) -> [u8; 4] {
        let [_, class] = (self.0 / 100).to_be_bytes();
        let [_, number] = (self.0 % 100).to_be_bytes();
        [0, 0, class, number]
    }
}

/// Splits the attribute in front off, with its padding. `None` if what it says is longer than what there is.
pub(super) fn split_first(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let kind = AttributeType(u16_at(bytes, 0)?);
    let length = usize::from(u16_at(bytes, 2)?);
    let body = bytes.get(super::ATTRIBUTE_HEADER_BYTES..)?;
    let value = body.get(..length)?;
    let rest = body.get(padded(length)..)?;
    Some((Attribute { kind, value }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_read_back_as_written() {
        for number in 300..=699 {
            let code = ErrorCode::new(number).unwrap();
            assert_eq!(ErrorCode::parse(&code.to_value()), Some(code));
        }
        assert_eq!((ErrorCode::new(299), ErrorCode::new(700)), (None, None));
        assert_eq!(ErrorCode::parse(&[0, 0, 4]), None);
        assert_eq!(ErrorCode::parse(&[0, 0, 4, 100]), None);
    }

    #[test]
    fn an_attribute_longer_than_the_message_is_none() {
        assert_eq!(split_first(&[0, 6, 0, 5, 1, 2, 3, 4]), None);
        assert_eq!(split_first(&[0, 6, 0, 1, 1]), None, "its padding is missing");
        assert_eq!(split_first(&[0, 6, 0]), None);
        assert!(split_first(&[0, 6, 0, 0]).is_some());
    }
}
