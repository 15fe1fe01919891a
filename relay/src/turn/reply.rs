//! The answer to one request: how it must look, from the request it answers.

use super::{FiveTuple, Reject};
use crate::auth::{Authenticated, Challenge};
use crate::stun::password_algorithm::PASSWORD_ALGORITHMS;
use crate::stun::{
    AttributeType, Class, Integrity, IntegrityKey, Message, MessageWriter, Method, TransactionId,
};

/// What an answer takes over from its request.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) flow: FiveTuple,
    pub(super) method: Method,
    pub(super) transaction_id: TransactionId,
    /// Once the client is known, answers are signed for it, as the request was.
    signature: Option<(Integrity, IntegrityKey)>,
    with_fingerprint: bool,
}

impl Reply {
    /// The answer to `message`, as to a stranger.
    pub(super) fn to(flow: FiveTuple, message: &Message<'_>) -> Self {
        Self {
            flow,
            method: message.method(),
            transaction_id: message.transaction_id(),
            signature: None,
            with_fingerprint: message.has_fingerprint(),
        }
    }

    /// From now on as to a client that is known.
    pub(super) fn sign_as(&mut self, asker: &Authenticated) {
        self.signature = Some((asker.integrity, asker.credential.key.clone()));
    }

    /// Says yes, with what `attributes` adds.
    pub(super) fn success(&self, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.message(Class::Success, attributes)
    }

    /// Says no; in words as well to a client that is known, while what a stranger can ask for is short.
    pub(super) fn error(&self, reject: Reject, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.message(Class::Error, |writer| {
            let reason = self.signature.as_ref().map(|_| reject.to_string()).unwrap_or_default();
            writer.error_code(reject.code(), &reason);
            attributes(writer);
        })
    }

    /// Says no, and how to ask better. Never signed: the client may not know the key.
    pub(super) fn challenge(&self, reject: Reject, challenge: &Challenge<'_>) -> Vec<u8> {
        let stranger = Self { signature: None, ..self.clone() };
        stranger.error(reject, |writer| {
            writer.attribute(AttributeType::REALM, challenge.realm.as_bytes());
            writer.attribute(AttributeType::NONCE, challenge.nonce.as_bytes());
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
            if let Some(server) = challenge.third_party {
                writer.attribute(AttributeType::THIRD_PARTY_AUTHORIZATION, server.as_bytes());
            }
        })
    }

    /// What FINGERPRINT will add.
    pub(super) fn fingerprint_bytes(&self) -> usize {
        if self.with_fingerprint { FINGERPRINT_BYTES } else { 0 }
    }

    fn message(&self, class: Class, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(TYPICAL_BYTES);
        let mut writer = MessageWriter::new(&mut buffer, class, self.method, self.transaction_id);
        attributes(&mut writer);
        if let Some((integrity, key)) = &self.signature {
            writer.sign(*integrity, key);
        }
        if self.with_fingerprint {
            writer.fingerprint();
        }
        buffer
    }
}

const FINGERPRINT_BYTES: usize = 8;
const TYPICAL_BYTES: usize = 128;
