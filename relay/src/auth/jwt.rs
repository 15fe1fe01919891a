//! User names that are JSON Web Tokens.
//!
//! A name goes over the wire in clear, so a token alone proves nothing: whoever reads one could use it. Its password is
//! a keyed hash of it, under a secret that the relay shares with whoever gives tokens out. The password is checked
//! first, which is cheap, so that only those who know it make us check a signature.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use farcall_proto::turn_credentials::UnixTime;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::policy::Limits;

/// Whose tokens are good, and what their passwords are made with.
#[derive(Debug, Clone, Default)]
pub struct JwtConfig {
    /// Keys of whoever signs; several, so that one can replace another.
    pub keys: Vec<JwtKey>,
    /// Under which passwords are made; several, likewise.
    pub secrets: Vec<JwtSecret>,
    /// What `aud` must name, if anything.
    pub audience: Option<String>,
}

/// A key that verifies.
#[derive(Clone)]
pub struct JwtKey {
    /// As in the token's header; a token without `kid` may be signed by any key.
    pub kid: String,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// A shared secret.
    Hs256,
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// A key that cannot be read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key for this algorithm: HS256 takes 32 bytes or more, ES256 and EdDSA a key in PEM")]
pub struct BadKey;

impl JwtAlgorithm {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

impl JwtKey {
    /// `key` is a secret, or a public key in PEM.
    pub fn new(kid: String, algorithm: JwtAlgorithm, key: &[u8]) -> Result<Self, BadKey> {
        let read = match algorithm {
            JwtAlgorithm::Hs256 if key.len() < MIN_SECRET_BYTES => return Err(BadKey),
            JwtAlgorithm::Hs256 => Ok(DecodingKey::from_secret(key)),
            JwtAlgorithm::Es256 => DecodingKey::from_ec_pem(key),
            JwtAlgorithm::EdDsa => DecodingKey::from_ed_pem(key),
        };
        Ok(Self { kid, algorithm: algorithm.algorithm(), key: read.map_err(|_| BadKey)? })
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kid, algorithm, .. } = self;
        f.debug_struct("JwtKey")
            .field("kid", kid)
            .field("algorithm", algorithm)
            .field("key", &"redacted")
            .finish()
    }
}

/// What passwords are made with.
#[derive(Clone)]
pub struct JwtSecret(Hmac<Sha256>);

impl JwtSecret {
    /// `None` for an empty one, under which everybody could make passwords.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let keyed = Hmac::new_from_slice(secret.as_bytes()).ok()?;
        (!secret.is_empty()).then_some(Self(keyed))
    }

    /// The password of a token: `base64(HMAC-SHA256(secret, token))`.
    #[must_use]
    pub fn password(&self, token: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(token.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(redacted)")
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose quota and limits it counts against.
    pub sub: String,
    /// No new allocation from then on.
    pub exp: u64,
    /// Nor before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// For whom it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<serde_json::Value>,
    /// The only realm where it is good, if it says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// What its user may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

impl JwtConfig {
    /// Whether a name may be a token at all: three parts, the first an object.
    pub(super) fn may_be(name: &str) -> bool {
        name.starts_with("eyJ") && name.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// What a token says, if one of the keys signed it and it is for us, now.
    pub(super) fn verify(&self, now: UnixTime, realm: &str, token: &str) -> Option<Claims> {
        let header = decode_header(token).ok()?;
        let is_candidate = |key: &&JwtKey| {
            key.algorithm == header.alg && header.kid.as_ref().is_none_or(|kid| *kid == key.kid)
        };
        let claims = self.keys.iter().filter(is_candidate).find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            // Time is ours to tell.
            validation.validate_exp = false;
            validation.validate_aud = self.audience.is_some();
            if let Some(audience) = &self.audience {
                validation.set_audience(&[audience]);
                validation.set_required_spec_claims(&["aud", "exp"]);
            }
            decode::<Claims>(token, &key.key, &validation).ok()
        })?;
        let claims = claims.claims;
        let has_begun = claims.nbf.is_none_or(|nbf| nbf <= now.0);
        let is_here = claims.realm.as_ref().is_none_or(|name| name == realm);
        (has_begun && is_here && !claims.sub.is_empty()).then_some(claims)
    }
}

/// Makes a token. `key` is a secret, or a private key in PEM.
pub fn mint(kid: &str, algorithm: JwtAlgorithm, key: &[u8], claims: &Claims) -> Result<String, BadKey> {
    let signer = match algorithm {
        JwtAlgorithm::Hs256 => Ok(EncodingKey::from_secret(key)),
        JwtAlgorithm::Es256 => EncodingKey::from_ec_pem(key),
        JwtAlgorithm::EdDsa => EncodingKey::from_ed_pem(key),
    };
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm.algorithm()) };
    encode(&header, claims, &signer.map_err(|_| BadKey)?).map_err(|_| BadKey)
}

/// As long as what it makes.
const MIN_SECRET_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const SECRET: &[u8] = b"a secret of thirty-two bytes....";
    /// Private and public, in PEM.
    fn pair(algorithm: JwtAlgorithm) -> (String, String) {
        let algorithm = match algorithm {
            JwtAlgorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            JwtAlgorithm::EdDsa => &rcgen::PKCS_ED25519,
            JwtAlgorithm::Hs256 => panic!("a secret is no pair"),
        };
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        (pair.serialize_pem(), pair.public_key_pem())
    }

    fn claims() -> Claims {
        Claims { sub: "alice".into(), exp: NOW.0 + 60, nbf: None, aud: None, realm: None, limits: None }
    }

    fn config(keys: Vec<JwtKey>) -> JwtConfig {
        JwtConfig { keys, ..JwtConfig::default() }
    }

    fn hs256(kid: &str, secret: &[u8]) -> JwtKey {
        JwtKey::new(kid.into(), JwtAlgorithm::Hs256, secret).unwrap()
    }

    fn token(claims: &Claims) -> String {
        mint("a", JwtAlgorithm::Hs256, SECRET, claims).unwrap()
    }

    fn check(config: &JwtConfig, token: &str) -> Option<String> {
        config.verify(NOW, "example.org", token).map(|claims| claims.sub)
    }

    #[test]
    fn every_algorithm_verifies_what_it_signed_and_nothing_else() {
        let mut keys: Vec<_> = [JwtAlgorithm::Es256, JwtAlgorithm::EdDsa]
            .into_iter()
            .map(|algorithm| {
                let (private, public) = pair(algorithm);
                let token = mint("k", algorithm, private.as_bytes(), &claims()).unwrap();
                (JwtKey::new("k".into(), algorithm, public.as_bytes()).unwrap(), token)
            })
            .collect();
        keys.push((hs256("k", SECRET), mint("k", JwtAlgorithm::Hs256, SECRET, &claims()).unwrap()));
        for (at, (key, _)) in keys.iter().enumerate() {
            for (other, (_, token)) in keys.iter().enumerate() {
                assert!(JwtConfig::may_be(token));
                assert_eq!(check(&config(vec![key.clone()]), token).is_some(), at == other, "{at} {other}");
            }
        }
        let all = config(keys.iter().map(|(key, _)| key.clone()).collect());
        assert!(keys.iter().all(|(_, token)| check(&all, token).as_deref() == Some("alice")));
    }

    #[test]
    fn a_public_key_is_no_secret_to_sign_with() {
        // The old trick: a token that says HS256, signed with the text of a public key.
        let (_, public) = pair(JwtAlgorithm::Es256);
        let forged = mint("k", JwtAlgorithm::Hs256, public.as_bytes(), &claims()).unwrap();
        let key = JwtKey::new("k".into(), JwtAlgorithm::Es256, public.as_bytes()).unwrap();
        assert_eq!(check(&config(vec![key]), &forged), None);
    }

    #[test]
    fn a_token_without_a_signature_or_changed_is_refused() {
        let config = config(vec![hs256("a", SECRET)]);
        let token = token(&claims());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        // {"alg":"none"}
        let none = format!("eyJhbGciOiJub25lIn0.{}.", signed.split_once('.').unwrap().1);
        for forged in [format!("{signed}."), none, format!("{signed}x.{signature}"), signed.to_owned()] {
            assert_eq!(check(&config, &forged), None, "{forged}");
        }
        assert_eq!(check(&config, &token).as_deref(), Some("alice"));
    }

    #[test]
    fn keys_are_told_apart_by_kid_so_that_one_can_replace_another() {
        let other = b"another secret of as many bytes.";
        let both = config(vec![hs256("a", SECRET), hs256("b", other)]);
        let new = mint("b", JwtAlgorithm::Hs256, other, &claims()).unwrap();
        assert!(check(&both, &token(&claims())).is_some() && check(&both, &new).is_some());
        assert_eq!(check(&config(vec![hs256("b", SECRET)]), &token(&claims())), None, "another kid");
        assert_eq!(check(&config(vec![hs256("b", other)]), &token(&claims())), None);
    }

    #[test]
    fn audience_realm_and_beginning_are_heeded() {
        let key = || config(vec![hs256("a", SECRET)]);
        let with = |change: fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            token(&claims)
        };
        assert_eq!(check(&key(), &with(|claims| claims.nbf = Some(NOW.0 + 1))), None);
        assert_eq!(check(&key(), &with(|claims| claims.realm = Some("other".into()))), None);
        assert!(check(&key(), &with(|claims| claims.realm = Some("example.org".into()))).is_some());
        assert_eq!(check(&key(), &with(|claims| claims.sub = String::new())), None);
        let ours = JwtConfig { audience: Some("turn".into()), ..key() };
        assert_eq!(check(&ours, &with(|_| ())), None);
        assert_eq!(check(&ours, &with(|claims| claims.aud = Some("web".into()))), None);
        assert!(check(&ours, &with(|claims| claims.aud = Some("turn".into()))).is_some());
    }

    #[test]
    fn keys_that_are_none_are_refused_and_none_shows() {
        for (algorithm, key) in [
            (JwtAlgorithm::Hs256, &b"short"[..]),
            (JwtAlgorithm::Es256, SECRET),
            (JwtAlgorithm::EdDsa, pair(JwtAlgorithm::Es256).1.as_bytes()),
        ] {
            assert_eq!(JwtKey::new("k".into(), algorithm, key).unwrap_err(), BadKey);
        }
        assert!(JwtSecret::new("").is_none());
        let shown = format!("{:?} {:?}", hs256("a", SECRET), JwtSecret::new("hunter2"));
        assert!(!shown.contains("hunter2") && !shown.contains("secret of"), "{shown}");
    }
}
