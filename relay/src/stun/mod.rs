//! STUN bytes to messages and back: header, attributes, integrity, ChannelData, stream framing.
//!
//! Everything here borrows from the datagram or writes into a buffer of the caller; nothing keeps state, and no
//! input, however hostile, makes it panic or allocate. RFC 8489; RFC 8656, sections 12 and 18.

pub mod address;
pub mod attribute;
pub mod channel_data;
pub mod classic;
pub mod framing;
pub mod header;
pub mod integrity;
pub mod message;
pub mod password_algorithm;
pub mod writer;

pub use attribute::{Attribute, AttributeType, ErrorCode};
pub use channel_data::{ChannelData, ChannelNumber};
pub use header::{Class, Header, Method, TransactionId};
pub use integrity::{Integrity, IntegrityKey};
pub use message::{Message, ParseError};
pub use password_algorithm::PasswordAlgorithm;
pub use writer::{MessageWriter, TooLong};

/// Bytes of the fixed header in front of the attributes.
pub const HEADER_BYTES: usize = 20;
/// Bytes of type and length in front of an attribute's value.
pub const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Distinguishes STUN from its predecessor and from whatever else shares the port.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// What a length grows to when it is padded to the 32-bit boundary.
#[must_use]
pub const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The big-endian 16-bit number at `offset`, if there is one.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

/// The big-endian 32-bit number at `offset`, if there is one.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests;
