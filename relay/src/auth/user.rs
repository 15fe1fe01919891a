//! Users, and what proves that somebody is one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use farcall_proto::turn_credentials::UnixTime;
use sha2::{Digest, Sha256};

use super::opaque_string::{self, NotOpaque};
use crate::policy::Limits;
use crate::stun::{IntegrityKey, PasswordAlgorithm};

/// A user with a password that does not expire.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticUser {
    /// As in USERNAME.
    pub name: String,
    /// In clear.
    pub password: String,
}

impl StaticUser {
    /// Brings both into the form that clients compute with.
    pub fn prepared(name: &str, password: &str) -> Result<Self, NotOpaque> {
        Ok(Self { name: opaque_string::prepare(name)?, password: opaque_string::prepare(password)? })
    }
}

impl fmt::Debug for StaticUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticUser").field("name", &self.name).field("password", &"redacted").finish()
    }
}

/// Who a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As in USERNAME: requests on an allocation must come with the name that made it.
    pub name: Arc<str>,
    /// Whose quota it counts against: the name, or for ephemeral credentials the session they were made for, which
    /// stays while credentials come and go.
    pub account: Arc<str>,
}

impl User {
    /// A user who is its own account.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name: Arc<str> = name.into();
        Self { account: Arc::clone(&name), name }
    }
}

/// A user, and the key that proves it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Whose.
    pub user: User,
    /// What its messages are signed with.
    pub key: IntegrityKey,
    /// Where the key is from.
    pub source: KeySource,
    /// No new allocation from then on; `None` if it does not expire.
    pub expires_at: Option<UnixTime>,
    /// What its user may use, where that differs from everybody's. Boxed, since it rarely does.
    pub limits: Option<Box<Limits>>,
}

impl Credential {
    /// Whether who has this may use an allocation that `owner` made: the same user. Tokens name their key and no user,
    /// and the next token of a client may be of the next key, so that any may follow on another.
    #[must_use]
    pub fn may_act_for(&self, owner: &Self) -> bool {
        match (self.source, owner.source) {
            (KeySource::Token, KeySource::Token) => true,
            (KeySource::Password(_), KeySource::Password(_)) => self.user.name == owner.user.name,
            (KeySource::Token, KeySource::Password(_)) | (KeySource::Password(_), KeySource::Token) => false,
        }
    }

    /// How much longer an allocation may live for which this stands. RFC 7635, section 5: no longer than a token;
    /// RFC 8489 knows no such bound for passwords.
    #[must_use]
    pub fn bound(&self, now: UnixTime) -> Option<Duration> {
        match self.source {
            KeySource::Password(_) => None,
            KeySource::Token => {
                self.expires_at.map(|until| Duration::from_secs(until.0.saturating_sub(now.0)))
            }
        }
    }
}

/// Where a key is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum KeySource {
    /// A password, by an algorithm under which alone it is this key.
    Password(PasswordAlgorithm),
    /// An access token.
    Token,
}

/// The value of USERHASH: a name for those who have a list of names. RFC 8489, section 14.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserHash([u8; USERHASH_BYTES]);

impl UserHash {
    /// What a user is called in a realm.
    #[must_use]
    pub fn of(name: &str, realm: &str) -> Self {
        let mut digest = Sha256::new();
        for part in [name, ":", realm] {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// Reads the attribute.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        Some(Self(value.try_into().ok()?))
    }

    /// The attribute's value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

const USERHASH_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_rfcs_sample_is_the_rfcs() {
        let hash = UserHash::of("\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}", "example.org");
        assert_eq!(hash.0[..8], [0x4a, 0x3c, 0xf3, 0x8f, 0xef, 0x69, 0x92, 0xbd]);
        assert_eq!(UserHash::parse(hash.as_bytes()), Some(hash));
        assert_eq!(UserHash::parse(&[0; 31]), None);
    }
}
