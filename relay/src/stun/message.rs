//! A STUN message inside a datagram: checked once, then read in place. RFC 8489, section 6.3.

use std::net::SocketAddr;

use super::attribute::split_first;
use super::integrity::{self, Integrity, IntegrityKey, SHA1_BYTES};
use super::{Attribute, AttributeType, Class, HEADER_BYTES, Header, Method, TransactionId, address};

/// Why bytes are not a STUN message. Nobody is told: what is not a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not the 20 bytes every message begins with.
    #[error("no STUN header")]
    Header,
    /// The header's length is not that of the datagram.
    #[error("the header says {said} bytes follow, and {have} do")]
    Length {
        /// What the header says.
        said: u16,
        /// What there is.
        have: usize,
    },
    /// An attribute reaches past the end of the message.
    #[error("an attribute at byte {at} is longer than its message")]
    Attribute {
        /// Where it begins.
        at: usize,
    },
    /// FINGERPRINT is not the last attribute, or not the checksum of what precedes it.
    #[error("the fingerprint does not belong to the message")]
    Fingerprint,
}

/// A well-formed message that borrows its datagram.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    header: Header,
    bytes: &'a [u8],
    /// Where what may be trusted ends: at the integrity attribute, else at the end.
    body_end: usize,
    sha1: Option<IntegrityAt<'a>>,
    sha256: Option<IntegrityAt<'a>>,
    has_fingerprint: bool,
}

/// An integrity attribute and where it begins.
#[derive(Debug, Clone, Copy)]
struct IntegrityAt<'a> {
    at: usize,
    value: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks header, lengths, attribute boundaries and FINGERPRINT.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes).ok_or(ParseError::Header)?;
        let have = bytes.len() - HEADER_BYTES;
        if usize::from(header.length) != have {
            return Err(ParseError::Length { said: header.length, have });
        }
        let mut message =
            Self { header, bytes, body_end: bytes.len(), sha1: None, sha256: None, has_fingerprint: false };
        let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (attribute, after) = split_first(rest).ok_or(ParseError::Attribute { at })?;
            message.note(at, attribute, after.is_empty())?;
            rest = after;
        }
        Ok(message)
    }

    /// Keeps track of the attributes whose place matters. Behind an integrity only a stronger one and FINGERPRINT
    /// count; whatever else stands there could have been added by anybody.
    fn note(&mut self, at: usize, attribute: Attribute<'a>, is_last: bool) -> Result<(), ParseError> {
        let found = Some(IntegrityAt { at, value: attribute.value });
        match attribute.kind {
            AttributeType::MESSAGE_INTEGRITY if self.sha1.is_none() && self.sha256.is_none() => {
                self.sha1 = found
            }
            AttributeType::MESSAGE_INTEGRITY_SHA256 if self.sha256.is_none() => self.sha256 = found,
            AttributeType::FINGERPRINT => {
                let expected = integrity::fingerprint(self.bytes.get(..at).unwrap_or_default());
                if !is_last || attribute.value != expected {
                    return Err(ParseError::Fingerprint);
                }
                self.has_fingerprint = true;
            }
            _ => return Ok(()),
        }
        self.body_end = self.body_end.min(at);
        Ok(())
    }

    /// The whole of it.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Asks, tells or answers.
    #[must_use]
    pub fn class(&self) -> Class {
        self.header.class
    }

    /// What it is about.
    #[must_use]
    pub fn method(&self) -> Method {
        self.header.method
    }

    /// Which exchange it belongs to.
    #[must_use]
    pub fn transaction_id(&self) -> TransactionId {
        self.header.transaction_id
    }

    /// How long it is, header and all.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it ended with a FINGERPRINT, which was then right.
    #[must_use]
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    /// The attributes in front of the integrity, in order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut rest = self.bytes.get(HEADER_BYTES..self.body_end).unwrap_or_default();
        std::iter::from_fn(move || {
            let (attribute, after) = split_first(rest)?;
            rest = after;
            Some(attribute)
        })
    }

    /// The value of the first attribute of this kind. Later ones do not count. RFC 8489, section 14.
    #[must_use]
    pub fn find(&self, kind: AttributeType) -> Option<&'a [u8]> {
        self.attributes().find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
    }

    /// The value of the first attribute of this kind as text. `None` also if it is not UTF-8.
    #[must_use]
    pub fn find_text(&self, kind: AttributeType) -> Option<&'a str> {
        self.find(kind).and_then(|value| str::from_utf8(value).ok())
    }

    /// The address in the first XOR-…-ADDRESS of this kind.
    #[must_use]
    pub fn find_xor_address(&self, kind: AttributeType) -> Option<SocketAddr> {
        address::parse_xor(self.find(kind)?, &self.transaction_id())
    }

    /// Comprehension-required attributes that are neither in `known` nor this codec's own business.
    pub fn unknown_attributes<'k>(
        &self,
        known: &'k [AttributeType],
    ) -> impl Iterator<Item = AttributeType> + use<'a, 'k> {
        let unknown_integrity = self.sha256.map(|_| AttributeType::MESSAGE_INTEGRITY_SHA256);
        self.attributes()
            .map(|attribute| attribute.kind)
            .chain(unknown_integrity)
            .filter(|kind| kind.is_comprehension_required() && !known.contains(kind))
    }

    /// The integrity that counts: the stronger one, if there are both.
    #[must_use]
    pub fn integrity(&self) -> Option<Integrity> {
        let sha1 = self.sha1.map(|_| Integrity::Sha1);
        self.sha256.map(|_| Integrity::Sha256).or(sha1)
    }

    /// Whether this integrity is there and made with this key.
    #[must_use]
    pub fn verify(&self, integrity: Integrity, key: &IntegrityKey) -> bool {
        match integrity {
            Integrity::Sha1 => self.verify_integrity(key),
            Integrity::Sha256 => self.verify_integrity_sha256(key),
        }
    }

    /// Whether there is a MESSAGE-INTEGRITY, right or wrong.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.sha1.is_some()
    }

    /// Whether there is a MESSAGE-INTEGRITY-SHA256, right or wrong.
    #[must_use]
    pub fn has_integrity_sha256(&self) -> bool {
        self.sha256.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and made with this key.
    #[must_use]
    pub fn verify_integrity(&self, key: &IntegrityKey) -> bool {
        self.sha1.is_some_and(|IntegrityAt { at, value }| {
            value.len() == SHA1_BYTES && key.verify_sha1(self.bytes.get(..at).unwrap_or_default(), value)
        })
    }

    /// Whether MESSAGE-INTEGRITY-SHA256 is there and made with this key.
    #[must_use]
    pub fn verify_integrity_sha256(&self, key: &IntegrityKey) -> bool {
        self.sha256.is_some_and(|IntegrityAt { at, value }| {
            key.verify_sha256(self.bytes.get(..at).unwrap_or_default(), value)
        })
    }
}
