//! Writes a message into a buffer of the caller: attributes in order, then integrity, then FINGERPRINT.

use std::net::SocketAddr;

use super::address::EncodedAddress;
use super::integrity::{self, Integrity, IntegrityKey, SHA256_BYTES};
use super::{AttributeType, Class, ErrorCode, HEADER_BYTES, Header, Method, TransactionId, padded};

/// A message longer than its 16-bit length can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is longer than STUN can say")]
pub struct TooLong;

/// A message under construction. What the buffer held before is gone; padding is always zero.
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buffer: &'b mut Vec<u8>,
    transaction_id: TransactionId,
    too_long: bool,
}

impl<'b> MessageWriter<'b> {
    /// Begins a message.
    #[must_use]
    pub fn new(buffer: &'b mut Vec<u8>, class: Class, method: Method, transaction_id: TransactionId) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&Header { class, method, length: 0, transaction_id }.to_bytes());
        Self { buffer, transaction_id, too_long: false }
    }

    /// Adds any attribute.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(value.len()) else {
            self.too_long = true;
            return self;
        };
        self.buffer.extend_from_slice(&kind.0.to_be_bytes());
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(padded(self.buffer.len()), 0);
        self.update_length();
        self
    }

    /// Adds an address as an XOR-…-ADDRESS.
    pub fn xor_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        let encoded = EncodedAddress::xor(address, &self.transaction_id);
        self.attribute(kind, encoded.as_bytes())
    }

    /// Adds an address as it is.
    pub fn plain_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        self.attribute(kind, EncodedAddress::plain(address).as_bytes())
    }

    /// How long the message is so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.buffer.len()
    }

    /// Adds ERROR-CODE with a reason phrase, which may be empty.
    pub fn error_code(&mut self, code: ErrorCode, reason: &str) -> &mut Self {
        let value = [&code.to_value(), reason.as_bytes()].concat();
        self.attribute(AttributeType::ERROR_CODE, &value)
    }

    /// Adds UNKNOWN-ATTRIBUTES. A list longer than `MAX_UNKNOWN` is cut: the rest will come up in the next answer.
    pub fn unknown_attributes(&mut self, kinds: impl Iterator<Item = AttributeType>) -> &mut Self {
        let mut value = [0; 2 * MAX_UNKNOWN];
        let mut length = 0;
        for (slot, kind) in value.chunks_exact_mut(2).zip(kinds) {
            slot.copy_from_slice(&kind.0.to_be_bytes());
            length += 2;
        }
        self.attribute(AttributeType::UNKNOWN_ATTRIBUTES, value.get(..length).unwrap_or_default())
    }

    /// Adds one of the two integrities.
    pub fn sign(&mut self, integrity: Integrity, key: &IntegrityKey) -> &mut Self {
        match integrity {
            Integrity::Sha1 => self.integrity(key),
            Integrity::Sha256 => self.integrity_sha256(key),
        }
    }

    /// Adds MESSAGE-INTEGRITY.
    pub fn integrity(&mut self, key: &IntegrityKey) -> &mut Self {
        let value = key.sha1(self.buffer);
        self.attribute(AttributeType::MESSAGE_INTEGRITY, &value)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256, untruncated.
    pub fn integrity_sha256(&mut self, key: &IntegrityKey) -> &mut Self {
        let value = key.sha256(self.buffer, SHA256_BYTES);
        self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &value)
    }

    /// Adds FINGERPRINT, after which nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        let value = integrity::fingerprint(self.buffer);
        self.attribute(AttributeType::FINGERPRINT, &value)
    }

    /// Says whether the buffer now holds a message.
    pub fn finish(&mut self) -> Result<(), TooLong> {
        if self.too_long { Err(TooLong) } else { Ok(()) }
    }

    fn update_length(&mut self) {
        match u16::try_from(self.buffer.len() - HEADER_BYTES) {
            Ok(length) => {
                if let Some(field) = self.buffer.get_mut(2..4) {
                    field.copy_from_slice(&length.to_be_bytes());
                }
            }
            Err(_) => self.too_long = true,
        }
    }
}

const MAX_UNKNOWN: usize = 8;
