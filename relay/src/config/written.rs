//! What was written, key by key, as it may be shown: secrets only as changed or not.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

/// Every key that was set, with its values as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, Values>);

#[derive(Clone, PartialEq, Eq)]
struct Values {
    shown: String,
    digest: [u8; 32],
}

/// How two configurations differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that take effect while it runs.
    pub changed: Vec<String>,
    /// Keys that take effect with the next start.
    pub needs_restart: Vec<String>,
}

impl Written {
    /// Notes one value of a key.
    pub(super) fn note(&mut self, key: &str, text: &str) {
        let shown = if is_secret(key) { "(redacted)" } else { text };
        let values =
            self.0.entry(key.to_owned()).or_insert_with(|| Values { shown: String::new(), digest: [0; 32] });
        if !values.shown.is_empty() {
            values.shown.push_str(", ");
        }
        values.shown.push_str(shown);
        values.digest = Sha256::new().chain_update(values.digest).chain_update(text).finalize().into();
    }

    /// Every key with what may be shown of its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, values)| (key.as_str(), values.shown.as_str()))
    }

    /// Takes over what takes effect while it runs.
    pub(super) fn adopt(&mut self, new: &Self) {
        self.0.retain(|key, _| !is_hot(key));
        self.0.extend(
            new.0.iter().filter(|(key, _)| is_hot(key)).map(|(key, values)| (key.clone(), values.clone())),
        );
    }

    /// What is different in `new`, as lines that may be logged.
    #[must_use]
    pub fn difference(&self, new: &Self) -> Difference {
        let mut difference = Difference::default();
        let mut keys: Vec<&String> = self.0.keys().chain(new.0.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let (before, after) = (self.0.get(key), new.0.get(key));
            if before == after {
                continue;
            }
            let shown =
                |values: Option<&Values>| values.map_or("(default)", |values| &values.shown).to_owned();
            let line = format!("{key}: {} -> {}", shown(before), shown(after));
            let list = match is_hot(key) {
                true => &mut difference.changed,
                false => &mut difference.needs_restart,
            };
            list.push(line);
        }
        difference
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Whether a key's values are nobody's business. What sounds like a secret is one, unless it is known to name a file.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.rsplit('.').next().unwrap_or(key);
    let sounds_secret = ["secret", "token", "password", "key"];
    key == "user"
        || !["tls-key", "client-key"].contains(&key) && sounds_secret.iter().any(|word| key.contains(word))
}

/// Whether a key takes effect while the process runs.
fn is_hot(key: &str) -> bool {
    HOT_KEYS.contains(&key) || key.starts_with("realm")
}

/// Who may do what, and how much of it. All else is about sockets and threads.
const HOT_KEYS: &[&str] = &[
    "user",
    "auth-secret",
    "oauth-key",
    "oauth-server",
    "jwt-key",
    "jwt-secret",
    "jwt-issuer",
    "jwt-audience",
    "allow-peer",
    "deny-peer",
    "only-allowed-peers",
    "user-quota",
    "user-bandwidth",
    "user-packets",
    "user-new-peers",
    "allocation-peers",
    "unauthenticated-rate",
    "rfc5766-channels",
    "classic-stun",
    "alternate-server",
    "alternate-tls-server",
    "drain-timeout",
    "log",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn written(entries: &[(&str, &str)]) -> Written {
        let mut written = Written::default();
        entries.iter().for_each(|(key, text)| written.note(key, text));
        written
    }

    #[test]
    fn a_difference_names_keys_and_never_a_secret() {
        let before = written(&[("user", "alice:hunter2"), ("workers", "2"), ("log", "info"), ("realm", "r")]);
        let after = written(&[("user", "alice:hunter3"), ("workers", "4"), ("realm", "r")]);
        let difference = before.difference(&after);
        assert_eq!(difference.changed, ["log: info -> (default)", "user: (redacted) -> (redacted)"]);
        assert_eq!(difference.needs_restart, ["workers: 2 -> 4"]);
        assert!(!format!("{before:?}{after:?}{difference:?}").contains("hunter"));
        assert_eq!(before.difference(&before), Difference::default());
    }

    #[test]
    fn what_sounds_secret_is_redacted() {
        for key in ["user", "auth-secret", "admin-token", "oauth-key", "webhook-token", "realm.0.user"] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["user-quota", "tls-key", "tls-cert", "realm", "listen"] {
            assert!(!is_secret(key), "{key}");
        }
    }
}
