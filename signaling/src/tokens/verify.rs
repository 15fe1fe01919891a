//! Whether a token is good, by keys that are read again while the server runs; several are good at once, so that one
//! can follow another.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use farcall_proto::turn_credentials::UnixTime;
use jsonwebtoken::{Header, Validation};

use super::keys::Key;
use super::{Claims, KeyError, Refused, Rights, Rooms};
use crate::credentials::JoinTokens;
use crate::live::Live;

/// Where keys come from, and what tokens must say beside being signed.
#[derive(Clone, Default)]
pub struct Config {
    /// Tokens that are good as they are.
    pub fixed: JoinTokens,
    /// Shared secrets, for HS256.
    pub secrets: Vec<String>,
    /// A public key in PEM (Ed25519 or P-256), a JWK set in JSON, or a shared secret, each.
    pub key_files: Vec<PathBuf>,
    /// Tokens must name one of these as their audience, if there are any.
    pub audience: Vec<String>,
    /// Tokens must name one of these as their issuer, if there are any.
    pub issuer: Vec<String>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fixed, secrets, key_files, audience, issuer } = self;
        f.debug_struct("Config")
            .field("fixed", fixed)
            .field("secrets", &format_args!("{}, redacted", secrets.len()))
            .field("key_files", key_files)
            .field("audience", audience)
            .field("issuer", issuer)
            .finish()
    }
}

/// Says what the bearer of a token may do.
#[derive(Debug, Default)]
pub struct Tokens(Live<State>);

#[derive(Default)]
struct State {
    config: Config,
    keys: Vec<Key>,
}

impl Tokens {
    /// Reads the keys for the first time.
    pub fn load(config: Config) -> Result<Self, KeyError> {
        Ok(Self(Live::new(State::read(config)?)))
    }

    /// Reads the keys again. If one is bad, all stay as they were.
    pub fn reload(&self) -> Result<(), KeyError> {
        self.0.set(State::read(self.0.get().config.clone())?);
        Ok(())
    }

    /// Takes over what others have, settings and keys.
    pub fn follow(&self, others: &Self) {
        self.0.set(others.0.get());
    }

    /// Whether a client without a token may join.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let Config { fixed, .. } = &self.0.get().config;
        fixed.is_open() && !self.has_keys()
    }

    /// Whether signed tokens can be good.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let Config { secrets, key_files, .. } = &self.0.get().config;
        !secrets.is_empty() || !key_files.is_empty()
    }

    /// The files to read again when they change.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.get().config.key_files.clone()
    }

    /// What the bearer of this value of an `authorization` header may do.
    pub fn judge(&self, now: UnixTime, authorization: Option<&str>) -> Result<Rights, Refused> {
        let Config { fixed, .. } = &self.0.get().config;
        if self.is_open() || (!fixed.is_open() && fixed.admit(authorization)) {
            return Ok(Rights::participant());
        }
        self.judge_signed(now, authorization)
    }

    /// The same of a signed token alone.
    pub fn judge_signed(&self, now: UnixTime, authorization: Option<&str>) -> Result<Rights, Refused> {
        let (scheme, token) = authorization.and_then(|value| value.split_once(' ')).ok_or(Refused::Bad)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refused::Bad);
        }
        let state = self.0.get();
        let claims = state.verify(token.trim())?;
        state.config.check(now, claims)
    }
}

impl State {
    fn read(config: Config) -> Result<Self, KeyError> {
        Ok(Self { keys: config.read()?, config })
    }

    fn verify(&self, token: &str) -> Result<Claims, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Bad);
        }
        let Header { alg, kid, .. } = jsonwebtoken::decode_header(token).map_err(|_| Refused::Bad)?;
        // A token that names its key is that key's or nobody's; a key without a name may be anybody's.
        let may_be =
            |key: &&Key| key.algorithm == alg && (kid.is_none() || key.id.is_none() || key.id == kid);
        let mut validation = Validation::new(alg);
        // All the rest is checked here, by a clock that tests can move.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        let decoded = self
            .keys
            .iter()
            .filter(may_be)
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, &key.key, &validation).ok());
        decoded.map(|data| data.claims).ok_or(Refused::Bad)
    }
}

impl Config {
    fn check(&self, now: UnixTime, claims: Claims) -> Result<Rights, Refused> {
        let Claims { sub, room, grants, max_sessions, exp, nbf, aud, iss } = claims;
        if now.0 >= exp.saturating_add(LEEWAY.as_secs()) {
            return Err(Refused::Expired);
        }
        let begins = nbf.unwrap_or_default().saturating_sub(LEEWAY.as_secs());
        let Self { audience, issuer, .. } = self;
        let is_for_us = audience.is_empty() || aud.as_slice().iter().any(|aud| audience.contains(aud));
        let is_from_them = issuer.is_empty() || iss.is_some_and(|iss| issuer.contains(&iss));
        let is_sane = sub.chars().count() <= farcall_proto::limits::MAX_ID_CHARS;
        if now.0 < begins || !is_for_us || !is_from_them || !is_sane {
            return Err(Refused::Bad);
        }
        let rooms = Rooms::Matching(room.as_slice().to_vec());
        Ok(Rights { identity: sub, max_sessions, rooms, grants })
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Config {
    fn read(&self) -> Result<Vec<Key>, KeyError> {
        let mut keys = Vec::new();
        for secret in &self.secrets {
            let key = Key::secret(None, secret.as_bytes());
            keys.push(key.map_err(|rule| KeyError { path: "token-secret".into(), rule })?);
        }
        for path in &self.key_files {
            let wrong = |rule: String| KeyError { path: path.display().to_string(), rule };
            let content = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            keys.extend(Key::all_in(path, &content).map_err(wrong)?);
        }
        Ok(keys)
    }
}

/// By how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
const MAX_TOKEN: usize = 8 * 1024;
