//! What the operator wrote, kept to be read again while the server runs, and what has changed in it since.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::{Config, Mistakes, Raw};

/// Flags and environment, where the file is, and what all of them said together.
#[derive(Clone, Default)]
pub struct Written {
    pub(super) over: Raw,
    pub(super) file: Option<PathBuf>,
    pub(super) said: BTreeMap<String, String>,
}

/// A setting that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub setting: String,
    /// What it was, if it was said.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
    /// Whether it can change while the server runs.
    pub live: bool,
}

impl Written {
    /// The same once more, with what is in the file now.
    pub fn again(&self) -> Result<Config, Mistakes> {
        Config::load(self.over.clone(), self.file.as_deref())
    }

    /// What is another in `newer`, by name.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let mut names: Vec<&String> = self.said.keys().chain(newer.said.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let changed = names.into_iter().filter(|name| self.said.get(*name) != newer.said.get(*name));
        changed
            .map(|name| {
                let shown = |said: &BTreeMap<String, String>| {
                    let secret = SECRET.contains(&name.as_str());
                    said.get(name).map(|value| if secret { "redacted".into() } else { value.clone() })
                };
                let live = LIVE.contains(&name.as_str());
                Change { setting: name.clone(), from: shown(&self.said), to: shown(&newer.said), live }
            })
            .collect()
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Raw {
    /// Every setting that was said, as it was written.
    pub(super) fn said(&self) -> BTreeMap<String, String> {
        // Nothing in it can fail to be written as TOML: texts and lists of texts, by name.
        let table = toml::Table::try_from(self).unwrap_or_default();
        table.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }
}

/// What a running server takes up. The rest is for the next start.
pub(super) const LIVE: [&str; 27] = [
    "stun",
    "turn",
    "turn-secret",
    "turn-credential-ttl",
    "join-token",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "tls-client-auth",
    "token-secret",
    "token-key",
    "token-audience",
    "token-issuer",
    "admin-token",
    "max-connections-per-address",
    "max-streams-per-address",
    "max-streams-per-identity",
    "max-rooms-per-address",
    "max-rooms-per-identity",
    "joins-per-minute-per-address",
    "joins-per-minute-per-identity",
    "joins-per-minute-per-room",
    "frames-per-second-per-address",
    "frames-per-second-per-session",
    "bytes-per-second-per-address",
    "bytes-per-second-per-session",
    "cors-origin",
];
/// What the log does not show.
pub(super) const SECRET: [&str; 6] =
    ["turn-secret", "join-token", "token-secret", "admin-token", "backplane", "otlp-endpoint"];
