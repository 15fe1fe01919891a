//! Keys that tokens are signed with: what is in a file, and for which algorithm. A key has one, whatever a token says
//! about itself.

use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct KeyError {
    /// Which file.
    pub path: String,
    /// What is wrong with it.
    pub rule: String,
}

pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl Key {
    /// A file with one key names it by its own name, without what follows the dot.
    pub(super) fn all_in(path: &Path, content: &[u8]) -> Result<Vec<Self>, String> {
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

    pub(super) fn secret(id: Option<String>, secret: &[u8]) -> Result<Self, String> {
        good_secret(secret)?;
        Ok(Self { id, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) })
    }

    fn pem(id: Option<String>, content: &[u8]) -> Result<Self, String> {
        if content.windows(PRIVATE.len()).any(|window| window == PRIVATE) {
            return Err("holds a private key: the server needs the public one alone".into());
        }
        let (algorithm, key) = match DecodingKey::from_ed_pem(content) {
            Ok(key) => (Algorithm::EdDSA, Ok(key)),
            Err(_) => {
                // The library takes any curve here, and then finds every signature bad.
                p256_alone(&SubjectPublicKeyInfoDer::from_pem_slice(content).map(|key| key.to_vec()))?;
                (Algorithm::ES256, DecodingKey::from_ec_pem(content))
            }
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

pub(super) enum Kind {
    Pem,
    Json,
    Secret,
}

impl Kind {
    pub(super) fn of(content: &[u8]) -> Self {
        match content.trim_ascii_start() {
            [b'-', b'-', b'-', b'-', b'-', ..] => Self::Pem,
            [b'{', ..] => Self::Json,
            _ => Self::Secret,
        }
    }
}

/// Whether a secret cannot be guessed.
pub(super) fn good_secret(secret: &[u8]) -> Result<(), String> {
    if secret.len() < MIN_SECRET {
        return Err(format!("a secret of less than {MIN_SECRET} bytes can be guessed"));
    }
    Ok(())
}

/// Of the curves of elliptic keys there is one that ES256 is for.
pub(super) fn p256_alone<E>(key: &Result<Vec<u8>, E>) -> Result<(), String> {
    let Ok(der) = key else { return Ok(()) };
    let is_elliptic = der.windows(EC.len()).any(|window| window == EC);
    if is_elliptic && !der.windows(P256.len()).any(|window| window == P256) {
        return Err("holds a key of a curve other than P-256".into());
    }
    Ok(())
}

/// The object identifier of keys of elliptic curves, 1.2.840.10045.2.1 in DER.
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// The curve, 1.2.840.10045.3.1.7.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// HS256 is as strong as its secret, RFC 7518, section 3.2.
const MIN_SECRET: usize = 32;
const PRIVATE: &[u8] = b"PRIVATE KEY-----";
