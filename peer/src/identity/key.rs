//! Ed25519 keys (RFC 8032) and how they are written: the private one as PEM of PKCS#8 (RFC 8410), as `openssl genpkey
//! -algorithm ed25519` makes it, the public one as `ed25519:` and base64url.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

/// A peer's own key pair.
pub struct Identity {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Identity {
    /// A new one, and how it is written to a file.
    #[must_use]
    pub fn generate() -> (Self, String) {
        loop {
            let mut der = PKCS8_PREFIX.to_vec();
            der.extend(rand::random::<[u8; 32]>());
            if let Ok(identity) = Self::of_pkcs8(&der) {
                let body = BASE64_STANDARD.encode(&der);
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
                return (identity, pem);
            }
        }
    }

    /// Reads what [`Identity::generate`] or openssl wrote.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPrivateKey)?;
        Self::of_pkcs8(der.secret_pkcs8_der())
    }

    /// The half that others may know.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(super) fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.pair.sign(statement).as_ref().to_vec()
    }

    fn of_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError::NoPrivateKey)?;
        let public = PublicKey::try_from(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

/// By which others know a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// As it is in messages.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn verify(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(statement, signature).is_ok()
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes.try_into().map(Self).map_err(|_| KeyError::NoPublicKey)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(KeyError::NoPublicKey)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| KeyError::NoPublicKey)?;
        Self::try_from(bytes.as_slice())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was given is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// In a file.
    #[error("no Ed25519 private key in PEM")]
    NoPrivateKey,
    /// In a text or a message.
    #[error("a public key is ed25519: and 43 letters, as `farcall-peer identity` prints it")]
    NoPublicKey,
}

const PREFIX: &str = "ed25519:";
/// What comes before the 32 bytes of the key, RFC 8410, section 7.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3 and 10.1.
    const OF_THE_RFC: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const ITS_PUBLIC_KEY: &str = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";

    #[test]
    fn the_key_of_the_rfc_has_the_public_key_of_the_rfc() {
        let identity = Identity::from_pem(OF_THE_RFC).unwrap();
        assert_eq!(identity.public_key().to_string(), ITS_PUBLIC_KEY);
    }

    #[test]
    fn what_was_written_is_what_is_read_and_no_two_are_alike() {
        let (identity, pem) = Identity::generate();
        assert_eq!(Identity::from_pem(&pem).unwrap().public_key(), identity.public_key());
        let public = identity.public_key();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_ne!(Identity::generate().0.public_key(), public);
    }

    #[test]
    fn a_signature_is_good_for_its_statement_and_its_key_alone() {
        let (identity, other) = (Identity::generate().0, Identity::generate().0);
        let signature = identity.sign(b"this");
        assert!(identity.public_key().verify(b"this", &signature));
        assert!(!identity.public_key().verify(b"that", &signature));
        assert!(!other.public_key().verify(b"this", &signature));
        assert!(!identity.public_key().verify(b"this", &signature[1..]));
    }

    #[test]
    fn what_is_no_key_is_refused_and_a_private_one_does_not_show() {
        for bad in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", &ITS_PUBLIC_KEY[8..]] {
            assert_eq!(bad.parse::<PublicKey>(), Err(KeyError::NoPublicKey), "{bad}");
        }
        for bad in ["", "hello", &OF_THE_RFC[..60]] {
            assert_eq!(Identity::from_pem(bad).unwrap_err(), KeyError::NoPrivateKey, "{bad}");
        }
        let shown = format!("{:?}", Identity::from_pem(OF_THE_RFC).unwrap());
        assert!(shown.contains(ITS_PUBLIC_KEY) && !shown.contains("pair"), "{shown}");
    }
}
