//! Who may join, and as whom: static tokens, and signed ones (JSON Web Tokens, RFC 7519).
//!
//! A signed token names its bearer, the rooms that it opens and what its bearer may do there. This file is what a token
//! says; `keys.rs` is what signs, `verify.rs` decides whether one is good, `mint.rs` makes one.

mod keys;
mod mint;
mod verify;

use serde::{Deserialize, Serialize};

use crate::credentials::Relay;
pub use keys::KeyError;
pub use mint::mint;
pub use verify::{Config, Tokens};

/// What the bearer of a token may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Who that is; empty if the token does not say.
    pub identity: String,
    /// Streams at once, if the token says.
    pub max_sessions: Option<u32>,
    rooms: Rooms,
    grants: Vec<Grant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Rooms {
    #[default]
    All,
    Matching(Vec<String>),
}

/// One thing that a token may let its bearer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// Enter a room.
    Join,
    /// Be the first in a room.
    Create,
    /// Get credentials of the TURN servers.
    Relay,
    /// Call the operators' service.
    Admin,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is none, or it is malformed, of an unknown key, for another audience, or not good yet.
    #[error("the bearer token is missing or not known")]
    Bad,
    /// It was good once.
    #[error("the bearer token has expired")]
    Expired,
    /// It is good, but not for this.
    #[error("the bearer token does not grant this")]
    NotGranted,
}

/// The claims of a token, as in the table of the README.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Who the bearer is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// Which rooms it opens: names, in which `*` stands for any characters.
    #[serde(default)]
    pub room: OneOrMany,
    /// What the bearer may do; all but `admin` if it is not said.
    #[serde(default = "participant")]
    pub grants: Vec<Grant>,
    /// Streams at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Whom it is for.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub aud: OneOrMany,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

/// A string, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// None at all.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl From<Vec<String>> for OneOrMany {
    fn from(mut strings: Vec<String>) -> Self {
        match strings.len() {
            1 => strings.pop().map_or(Self::None, Self::One),
            0 => Self::None,
            _ => Self::Many(strings),
        }
    }
}

impl OneOrMany {
    fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    fn as_slice(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

fn participant() -> Vec<Grant> {
    vec![Grant::Join, Grant::Create, Grant::Relay]
}

impl Rights {
    /// Of whoever knows a room's name, where no token is asked for, and of the bearers of static tokens.
    #[must_use]
    pub fn participant() -> Self {
        Self { grants: participant(), ..Self::default() }
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    /// Whether there are credentials of TURN servers for it.
    #[must_use]
    pub fn relay(&self) -> Relay {
        if self.has(Grant::Relay) { Relay::Granted } else { Relay::Denied }
    }

    /// Whether this room may be entered.
    #[must_use]
    pub fn opens(&self, room: &str) -> bool {
        let opens = match &self.rooms {
            Rooms::All => true,
            Rooms::Matching(patterns) => patterns.iter().any(|pattern| matches(pattern, room)),
        };
        opens && self.has(Grant::Join)
    }
}

/// `*` stands for any characters, also none. Takes no longer than the product of both lengths.
fn matches(pattern: &str, room: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| room.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
