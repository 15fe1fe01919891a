//! Making a token.

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use super::Claims;
use super::keys::{self, Kind};

/// Signs claims with what is in a key file: a private key in PEM, Ed25519 or P-256, or a shared secret.
pub fn mint(key: &[u8], key_id: Option<String>, claims: &Claims) -> Result<String, String> {
    let (algorithm, key) = match Kind::of(key) {
        Kind::Pem => match EncodingKey::from_ed_pem(key) {
            Ok(key) => (Algorithm::EdDSA, key),
            Err(_) => {
                keys::p256_alone(
                    &PrivatePkcs8KeyDer::from_pem_slice(key).map(|key| key.secret_pkcs8_der().to_vec()),
                )?;
                let key = EncodingKey::from_ec_pem(key);
                (Algorithm::ES256, key.map_err(|_| "no private key of Ed25519 or P-256 in PKCS #8")?)
            }
        },
        Kind::Json => return Err("a JWK set cannot sign".into()),
        Kind::Secret => {
            let secret = key.trim_ascii();
            keys::good_secret(secret)?;
            (Algorithm::HS256, EncodingKey::from_secret(secret))
        }
    };
    let header = Header { kid: key_id, ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &key).map_err(|error| error.to_string())
}
