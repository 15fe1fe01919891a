//! Who may join, and as whom: static tokens, and signed ones (JSON Web Tokens, RFC 7519).
//!
//! A signed token names its bearer, the rooms that it opens and what its bearer may do there. Keys come from files
//! that can be read again while the server runs; several are good at once, so that one can follow another. A key has
//! one algorithm, whatever a token says about itself.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use farcall_proto::turn_credentials::UnixTime;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::credentials::{JoinTokens, Relay};

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

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct KeyError {
    /// Which file.
    pub path: String,
    /// What is wrong with it.
    pub rule: String,
}

/// Says what the bearer of a token may do.
#[derive(Default)]
pub struct Tokens {
    config: Config,
    keys: RwLock<Arc<Vec<Key>>>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Tokens {
    /// Reads the keys for the first time.
    pub fn load(config: Config) -> Result<Self, KeyError> {
        let keys = RwLock::new(Arc::new(config.read()?));
        Ok(Self { config, keys })
    }

    /// Reads the keys again. If one is bad, all stay as they were.
    pub fn reload(&self) -> Result<(), KeyError> {
        let fresh = Arc::new(self.config.read()?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Whether a client without a token may join.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.config.fixed.is_open() && !self.has_keys()
    }

    /// Whether signed tokens can be good.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.config.secrets.is_empty() || !self.config.key_files.is_empty()
    }

    /// The files to read again when they change.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.config.key_files
    }

    /// What the bearer of this value of an `authorization` header may do.
    pub fn judge(&self, now: UnixTime, authorization: Option<&str>) -> Result<Rights, Refused> {
        if self.is_open() || (!self.config.fixed.is_open() && self.config.fixed.admit(authorization)) {
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
        let claims = self.verify(token.trim())?;
        self.check(now, claims)
    }

    fn verify(&self, token: &str) -> Result<Claims, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Bad);
        }
        let Header { alg, kid, .. } = jsonwebtoken::decode_header(token).map_err(|_| Refused::Bad)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        // A token that names its key is that key's or nobody's; a key without a name may be anybody's.
        let may_be =
            |key: &&Key| key.algorithm == alg && (kid.is_none() || key.id.is_none() || key.id == kid);
        let mut validation = Validation::new(alg);
        // All the rest is checked here, by a clock that tests can move.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        let decoded = keys
            .iter()
            .filter(may_be)
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, &key.key, &validation).ok());
        decoded.map(|data| data.claims).ok_or(Refused::Bad)
    }

    fn check(&self, now: UnixTime, claims: Claims) -> Result<Rights, Refused> {
        let Claims { sub, room, grants, max_sessions, exp, nbf, aud, iss } = claims;
        if now.0 >= exp.saturating_add(LEEWAY.as_secs()) {
            return Err(Refused::Expired);
        }
        let begins = nbf.unwrap_or_default().saturating_sub(LEEWAY.as_secs());
        let Config { audience, issuer, .. } = &self.config;
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

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("config", &self.config).finish_non_exhaustive()
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

impl Key {
    /// A file with one key names it by its own name, without what follows the dot.
    fn all_in(path: &Path, content: &[u8]) -> Result<Vec<Self>, String> {
        let id = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        match Kind::of(content) {
            Kind::Pem => Ok(vec![Self::pem(id, content)?]),
            Kind::Json => {
                let set: JwkSet = serde_json::from_slice(content).map_err(|error| error.to_string())?;
                if set.keys.is_empty() {
                    return Err("holds no key".into());
                }
                set.keys.iter().map(Self::jwk).collect()
            }
            Kind::Secret => Ok(vec![Self::secret(id, content.trim_ascii())?]),
        }
    }

    fn secret(id: Option<String>, secret: &[u8]) -> Result<Self, String> {
        if secret.len() < MIN_SECRET {
            return Err(format!("a secret of less than {MIN_SECRET} bytes can be guessed"));
        }
        Ok(Self { id, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) })
    }

    fn pem(id: Option<String>, content: &[u8]) -> Result<Self, String> {
        if content.windows(PRIVATE.len()).any(|window| window == PRIVATE) {
            return Err("holds a private key: the server needs the public one alone".into());
        }
        let (algorithm, key) = match DecodingKey::from_ed_pem(content) {
            Ok(key) => (Algorithm::EdDSA, Ok(key)),
            Err(_) => (Algorithm::ES256, DecodingKey::from_ec_pem(content)),
        };
        let key = key.map_err(|_| "holds no public key of Ed25519 or P-256".to_owned())?;
        Ok(Self { id, algorithm, key })
    }

    fn jwk(jwk: &Jwk) -> Result<Self, String> {
        let algorithm = if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            Algorithm::HS256
        } else if let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm
            && pair.curve == EllipticCurve::Ed25519
        {
            Algorithm::EdDSA
        } else if let AlgorithmParameters::EllipticCurve(pair) = &jwk.algorithm
            && pair.curve == EllipticCurve::P256
        {
            Algorithm::ES256
        } else {
            return Err("holds a key that is neither of Ed25519, P-256 nor a secret".into());
        };
        let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        Ok(Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}

enum Kind {
    Pem,
    Json,
    Secret,
}

impl Kind {
    fn of(content: &[u8]) -> Self {
        match content.trim_ascii_start() {
            [b'-', b'-', b'-', b'-', b'-', ..] => Self::Pem,
            [b'{', ..] => Self::Json,
            _ => Self::Secret,
        }
    }
}

/// Signs claims with what is in a key file: a private key in PEM, Ed25519 or P-256, or a shared secret.
pub fn mint(key: &[u8], key_id: Option<String>, claims: &Claims) -> Result<String, String> {
    let (algorithm, key) = match Kind::of(key) {
        Kind::Pem => match EncodingKey::from_ed_pem(key) {
            Ok(key) => (Algorithm::EdDSA, key),
            Err(_) => {
                let key = EncodingKey::from_ec_pem(key);
                (Algorithm::ES256, key.map_err(|_| "no private key of Ed25519 or P-256 in PKCS #8")?)
            }
        },
        Kind::Json => return Err("a JWK set cannot sign".into()),
        Kind::Secret => {
            let secret = key.trim_ascii();
            if secret.len() < MIN_SECRET {
                return Err(format!("a secret of less than {MIN_SECRET} bytes can be guessed"));
            }
            (Algorithm::HS256, EncodingKey::from_secret(secret))
        }
    };
    let header = Header { kid: key_id, ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &key).map_err(|error| error.to_string())
}

/// By how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// HS256 is as strong as its secret, RFC 7518, section 3.2.
const MIN_SECRET: usize = 32;
const MAX_TOKEN: usize = 8 * 1024;
const PRIVATE: &[u8] = b"PRIVATE KEY-----";

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const SECRET: &str = "a secret of at least thirty-two bytes";
    const NOW: UnixTime = UnixTime(1_000_000);

    fn claims() -> Claims {
        Claims {
            sub: "ada".into(),
            room: OneOrMany::One("red".into()),
            grants: participant(),
            max_sessions: None,
            exp: NOW.0 + 60,
            nbf: None,
            aud: OneOrMany::None,
            iss: None,
        }
    }

    fn tokens(config: Config) -> Tokens {
        Tokens::load(config).unwrap()
    }

    fn with_secret() -> Tokens {
        tokens(Config { secrets: vec![SECRET.into()], ..Config::default() })
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    fn signed(claims: &Claims) -> String {
        bearer(&mint(SECRET.as_bytes(), None, claims).unwrap())
    }

    #[test]
    fn a_token_says_who_may_do_what_and_where() {
        let rights = with_secret().judge(NOW, Some(&signed(&claims()))).unwrap();
        assert_eq!(rights.identity, "ada");
        assert!(rights.opens("red") && !rights.opens("blue"));
        assert!(rights.has(Grant::Create) && rights.has(Grant::Relay) && !rights.has(Grant::Admin));
        let watcher = Claims { grants: vec![Grant::Admin], ..claims() };
        assert!(!with_secret().judge(NOW, Some(&signed(&watcher))).unwrap().opens("red"));
        let nowhere = Claims { room: OneOrMany::None, ..claims() };
        assert!(!with_secret().judge(NOW, Some(&signed(&nowhere))).unwrap().opens("red"));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, room) in [
            ("*", ""),
            ("*", "red"),
            ("team-*", "team-"),
            ("team-*", "team-a"),
            ("*-x-*", "a-x-b"),
            ("a*a", "aa"),
        ] {
            assert!(matches(pattern, room), "{pattern} {room}");
        }
        for (pattern, room) in
            [("", "red"), ("red", "red2"), ("team-*", "tea"), ("a*a", "a"), ("*b", "ba"), ("r?d", "red")]
        {
            assert!(!matches(pattern, room), "{pattern} {room}");
        }
    }

    #[test]
    fn a_token_has_its_time_with_some_leeway() {
        let tokens = with_secret();
        let judge = |now, claims: &Claims| tokens.judge(UnixTime(now), Some(&signed(claims))).map(drop);
        assert_eq!(judge(NOW.0 + 89, &claims()), Ok(()));
        assert_eq!(judge(NOW.0 + 90, &claims()), Err(Refused::Expired));
        let later = Claims { nbf: Some(NOW.0), ..claims() };
        assert_eq!((judge(NOW.0 - 30, &later), judge(NOW.0 - 31, &later)), (Ok(()), Err(Refused::Bad)));
    }

    #[test]
    fn audience_and_issuer_are_asked_for_where_they_are_configured() {
        let tokens = tokens(Config {
            secrets: vec![SECRET.into()],
            audience: vec!["us".into()],
            issuer: vec!["them".into()],
            ..Config::default()
        });
        let good = Claims {
            aud: OneOrMany::Many(vec!["others".into(), "us".into()]),
            iss: Some("them".into()),
            ..claims()
        };
        tokens.judge(NOW, Some(&signed(&good))).unwrap();
        for bad in [
            Claims { aud: OneOrMany::One("others".into()), ..good.clone() },
            Claims { aud: OneOrMany::None, ..good.clone() },
            Claims { iss: None, ..good },
        ] {
            assert_eq!(tokens.judge(NOW, Some(&signed(&bad))), Err(Refused::Bad));
        }
    }

    #[test]
    fn keys_of_three_kinds_are_good_at_once_and_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key_files = vec![
            file("ed.pem", &ed.public_key_pem()),
            file("ec.pem", &ec.public_key_pem()),
            file("old.key", SECRET),
        ];
        let tokens = tokens(Config { key_files, ..Config::default() });
        let judge = |key: &str, id: Option<&str>| {
            let token = mint(key.as_bytes(), id.map(Into::into), &claims()).unwrap();
            tokens.judge(NOW, Some(&bearer(&token))).map(drop)
        };
        for (key, own) in [(&*ed.serialize_pem(), "ed"), (&*ec.serialize_pem(), "ec"), (SECRET, "old")] {
            assert_eq!((judge(key, None), judge(key, Some(own))), (Ok(()), Ok(())), "{own}");
            assert_eq!(judge(key, Some("another")), Err(Refused::Bad), "{own}");
        }
        // The old one goes; what cannot be read changes nothing.
        file("old.key", "too short");
        assert!(tokens.reload().unwrap_err().to_string().contains("32 bytes"));
        assert_eq!(judge(SECRET, None), Ok(()));
        let set = format!(
            r#"{{"keys":[{{"kty":"oct","kid":"new","k":"{}"}}]}}"#,
            URL_SAFE_NO_PAD.encode("another secret of at least thirty-two bytes")
        );
        file("old.key", &set);
        tokens.reload().unwrap();
        assert_eq!(judge(SECRET, None), Err(Refused::Bad));
        assert_eq!(judge("another secret of at least thirty-two bytes", Some("new")), Ok(()));
        file("old.key", &ed.serialize_pem());
        assert!(tokens.reload().unwrap_err().to_string().contains("private key"));
    }

    #[test]
    fn a_public_key_is_no_secret_and_no_signature_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let path = folder.path().join("ed.pem");
        std::fs::write(&path, ed.public_key_pem()).unwrap();
        let tokens = tokens(Config { key_files: vec![path], ..Config::default() });
        let forged = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(),
            &EncodingKey::from_secret(ed.public_key_pem().as_bytes()),
        )
        .unwrap();
        let good = mint(ed.serialize_pem().as_bytes(), None, &claims()).unwrap();
        let body = good.split('.').nth(1).unwrap();
        let none = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        let tampered = good.replacen('.', ".A", 1);
        for bad in [&forged, &none, &tampered, "", "x", &"x".repeat(9000)] {
            assert_eq!(tokens.judge(NOW, Some(&bearer(bad))), Err(Refused::Bad), "{bad}");
        }
        assert!(tokens.judge(NOW, Some(&good)).is_err(), "without its scheme");
        assert!(tokens.judge(NOW, Some(&bearer(&good))).is_ok());
    }

    #[test]
    fn without_keys_everybody_may_and_with_static_tokens_their_bearers() {
        assert!(tokens(Config::default()).judge(NOW, None).unwrap().opens("anything"));
        let fixed = tokens(Config {
            fixed: JoinTokens::new(["blue"]),
            secrets: vec![SECRET.into()],
            ..Config::default()
        });
        assert!(fixed.judge(NOW, Some("Bearer blue")).unwrap().opens("anything"));
        assert!(fixed.judge(NOW, Some(&signed(&claims()))).unwrap().opens("red"));
        assert_eq!(fixed.judge(NOW, None), Err(Refused::Bad));
        let only_keys = with_secret();
        assert_eq!(only_keys.judge(NOW, None), Err(Refused::Bad));
        assert_eq!(only_keys.judge(NOW, Some("Bearer blue")), Err(Refused::Bad));
    }
}
