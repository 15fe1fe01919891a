//! The names of rooms and sessions, and the secret that makes a client a session's owner.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// What people type in to meet. Whoever knows it may enter, so it never shows in debug output.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RoomKey(Arc<str>);

impl RoomKey {
    /// The key as it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RoomKey {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomKey(redacted)")
    }
}

/// A participant's stay in a room. Known to everybody in the room; it entitles to nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The id as it goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SessionId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client shows to act as a session.
#[derive(Clone, Copy)]
pub struct Secret([u8; Self::LENGTH]);

impl Secret {
    /// Too long to be guessed.
    pub const LENGTH: usize = 16;

    /// Takes bytes that came from a good random source.
    #[must_use]
    pub fn new(random: [u8; Self::LENGTH]) -> Self {
        Self(random)
    }

    /// For the one who is to own the session.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in constant time, so that answers do not tell how much of a guess was right.
    #[must_use]
    pub fn matches(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
