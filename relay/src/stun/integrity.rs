//! MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT. RFC 8489, sections 9.2.2 and 14.5 to 14.7.
//!
//! All three cover the message up to themselves, with the header's length counting themselves in. Comparisons take
//! the same time wherever the difference is.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{ATTRIBUTE_HEADER_BYTES, HEADER_BYTES, PasswordAlgorithm};

/// Bytes of a MESSAGE-INTEGRITY value.
pub const SHA1_BYTES: usize = 20;
/// Bytes of a full MESSAGE-INTEGRITY-SHA256 value.
pub const SHA256_BYTES: usize = 32;
/// The shortest truncation of MESSAGE-INTEGRITY-SHA256 that RFC 8489 lets anybody use.
pub const SHA256_MIN_BYTES: usize = 16;
/// Bytes of a FINGERPRINT value.
pub const FINGERPRINT_BYTES: usize = 4;
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// One of the two message integrities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// The key of both message integrities.
#[derive(Clone, PartialEq, Eq)]
pub struct IntegrityKey(Box<[u8]>);

impl IntegrityKey {
    /// A password used as it is.
    #[must_use]
    pub fn short_term(password: &str) -> Self {
        Self(password.as_bytes().into())
    }

    /// Any bytes.
    #[must_use]
    pub fn from_bytes(key: &[u8]) -> Self {
        Self(key.into())
    }

    /// The key itself, for another process of this program.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The long-term key under this password algorithm.
    #[must_use]
    pub fn long_term(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> Self {
        match algorithm {
            PasswordAlgorithm::Md5 => Self::long_term_md5(username, realm, password),
            PasswordAlgorithm::Sha256 => Self::long_term_sha256(username, realm, password),
        }
    }

    /// The long-term key under the password algorithm MD5: the one every client knows.
    #[must_use]
    pub fn long_term_md5(username: &str, realm: &str, password: &str) -> Self {
        Self(digest_parts(Md5::new(), username, realm, password))
    }

    /// The long-term key under the password algorithm SHA-256.
    #[must_use]
    pub fn long_term_sha256(username: &str, realm: &str, password: &str) -> Self {
        Self(digest_parts(Sha256::new(), username, realm, password))
    }

    /// MESSAGE-INTEGRITY over `message`, which ends where the attribute begins.
    #[must_use]
    pub fn sha1(&self, message: &[u8]) -> [u8; SHA1_BYTES] {
        self.mac::<Hmac<Sha1>>(message, SHA1_BYTES).into_bytes().into()
    }

    /// MESSAGE-INTEGRITY-SHA256 over `message`, which ends where the attribute begins; `value_bytes` is the length
    /// of the value it will have, since that is part of what is signed.
    #[must_use]
    pub fn sha256(&self, message: &[u8], value_bytes: usize) -> [u8; SHA256_BYTES] {
        self.mac::<Hmac<Sha256>>(message, value_bytes).into_bytes().into()
    }

    /// Whether `value` is the MESSAGE-INTEGRITY of `message`.
    #[must_use]
    pub fn verify_sha1(&self, message: &[u8], value: &[u8]) -> bool {
        self.sha1(message).as_slice().ct_eq(value).into()
    }

    /// Whether `value` is the MESSAGE-INTEGRITY-SHA256 of `message`, whole or truncated as the RFC allows.
    #[must_use]
    pub fn verify_sha256(&self, message: &[u8], value: &[u8]) -> bool {
        let allowed =
            (SHA256_MIN_BYTES..=SHA256_BYTES).contains(&value.len()) && value.len().is_multiple_of(4);
        let whole = self.sha256(message, value.len());
        allowed && whole.get(..value.len()).is_some_and(|ours| ours.ct_eq(value).into())
    }

    fn mac<M: Mac + KeyInit>(&self, message: &[u8], value_bytes: usize) -> hmac::digest::CtOutput<M> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = <M as KeyInit>::new_from_slice(&self.0).expect("a key of any length");
        with_length(message, value_bytes, |part| mac.update(part));
        mac.finalize()
    }
}

impl fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntegrityKey(redacted)")
    }
}

/// FINGERPRINT over `message`, which ends where the attribute begins.
#[must_use]
pub fn fingerprint(message: &[u8]) -> [u8; FINGERPRINT_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    with_length(message, FINGERPRINT_BYTES, |part| crc.update(part));
    (crc.finalize() ^ FINGERPRINT_XOR).to_be_bytes()
}

/// Feeds the message with the length field its header would have if it ended with an attribute of `value_bytes`.
fn with_length(message: &[u8], value_bytes: usize, mut feed: impl FnMut(&[u8])) {
    let length = message.len().saturating_sub(HEADER_BYTES) + ATTRIBUTE_HEADER_BYTES + value_bytes;
    // Only a message that was parsed or is being written comes here, and neither exceeds 16 bits.
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let (before, after) = (message.get(..2).unwrap_or_default(), message.get(4..).unwrap_or_default());
    feed(before);
    feed(&length.to_be_bytes());
    feed(after);
}

fn digest_parts<D: Digest>(mut digest: D, username: &str, realm: &str, password: &str) -> Box<[u8]> {
    for part in [username, ":", realm, ":", password] {
        digest.update(part);
    }
    digest.finalize().as_slice().into()
}
