//! The answer to one request: how it must look, from the request it answers.

use super::{FiveTuple, Reject};
use crate::auth::Nonce;
use crate::stun::{AttributeType, Class, IntegrityKey, Message, MessageWriter, Method, TransactionId};

/// What an answer takes over from its request.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) flow: FiveTuple,
    pub(super) method: Method,
    pub(super) transaction_id: TransactionId,
    /// Once the client is known, answers are signed for it.
    pub(super) key: Option<IntegrityKey>,
    with_fingerprint: bool,
}

impl Reply {
    /// The answer to `message`, as to a stranger.
    pub(super) fn to(flow: FiveTuple, message: &Message<'_>) -> Self {
        Self {
            flow,
            method: message.method(),
            transaction_id: message.transaction_id(),
            key: None,
            with_fingerprint: message.has_fingerprint(),
        }
    }

    /// Says yes, with what `attributes` adds.
    pub(super) fn success(&self, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.message(Class::Success, attributes)
    }

    /// Says no; in words as well to a client that is known, while what a stranger can ask for is short.
    pub(super) fn error(&self, reject: Reject, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.message(Class::Error, |writer| {
            let reason = self.key.as_ref().map(|_| reject.to_string()).unwrap_or_default();
            writer.error_code(reject.code(), &reason);
            attributes(writer);
        })
    }

    /// Says no, and how to ask better. Never signed: the client may not know the key.
    pub(super) fn challenge(&self, reject: Reject, realm: &str, nonce: &Nonce) -> Vec<u8> {
        let stranger = Self { key: None, ..self.clone() };
        stranger.error(reject, |writer| {
            writer.attribute(AttributeType::REALM, realm.as_bytes());
            writer.attribute(AttributeType::NONCE, nonce.as_bytes());
        })
    }

    fn message(&self, class: Class, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(TYPICAL_BYTES);
        let mut writer = MessageWriter::new(&mut buffer, class, self.method, self.transaction_id);
        attributes(&mut writer);
        if let Some(key) = &self.key {
            writer.integrity(key);
        }
        if self.with_fingerprint {
            writer.fingerprint();
        }
        buffer
    }
}

const TYPICAL_BYTES: usize = 128;
