//! What ties a key to a connection: a statement over the fingerprints of its certificates, signed.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::key::{Identity, PublicKey};

/// What one side says about its certificates, and the proof that it was this side which said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assertion {
    pub(crate) algorithm: Algorithm,
    /// The signer's key; empty where there is none to show.
    pub(crate) public_key: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// As in the attribute of SDP, RFC 8122.
    pub(crate) fingerprints: Vec<String>,
}

/// How an assertion is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// By a lasting key, RFC 8032.
    Ed25519,
    /// By a key that both sides derived from a code: HMAC-SHA256.
    Code,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Code => "code",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [Self::Ed25519, Self::Code].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Who says it to whom. The ids keep a statement from being of use anywhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// The session of whoever says it.
    pub(crate) from: &'a str,
    /// The session of whoever it is for.
    pub(crate) to: &'a str,
}

/// The fingerprints of one side's certificates, in the one way that they are signed: each once, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Certificates(Vec<String>);

impl Certificates {
    /// Those that a description names.
    pub(crate) fn of_description(sdp: &str) -> Self {
        let lines = sdp.lines().filter_map(|line| line.strip_prefix("a=fingerprint:"));
        Self::of(lines)
    }

    fn of<'a>(fingerprints: impl Iterator<Item = &'a str>) -> Self {
        let mut all: Vec<String> = fingerprints.filter_map(normal).take(MOST_FINGERPRINTS).collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn statement(&self, claim: Claim<'_>) -> Vec<u8> {
        let mut statement = LABEL.to_vec();
        let fields = [claim.from, claim.to].into_iter().chain(self.0.iter().map(String::as_str));
        for field in fields {
            // No two statements read the same.
            statement.extend((field.len() as u64).to_be_bytes());
            statement.extend(field.as_bytes());
        }
        statement
    }

    pub(crate) fn signed_by(&self, identity: &Identity, claim: Claim<'_>) -> Assertion {
        Assertion {
            algorithm: Algorithm::Ed25519,
            public_key: identity.public_key().as_bytes().to_vec(),
            signature: identity.sign(&self.statement(claim)),
            fingerprints: self.0.clone(),
        }
    }

    pub(crate) fn signed_with(&self, key: &[u8; 32], claim: Claim<'_>) -> Assertion {
        let signature = mac(key, &self.statement(claim)).map(|mac| mac.finalize().into_bytes().to_vec());
        Assertion {
            algorithm: Algorithm::Code,
            public_key: Vec::new(),
            signature: signature.unwrap_or_default(),
            fingerprints: self.0.clone(),
        }
    }
}

impl Assertion {
    /// Whether it is about a certificate with this SHA-256 fingerprint.
    pub(crate) fn names(&self, certificate: &[u8]) -> bool {
        let hex: Vec<String> = certificate.iter().map(|byte| format!("{byte:02X}")).collect();
        let shown = format!("sha-256 {}", hex.join(":"));
        certificate.len() == 32 && self.certificates().0.contains(&shown)
    }

    /// The key that signed it, if one did.
    pub(crate) fn signer(&self, claim: Claim<'_>) -> Option<PublicKey> {
        let key = PublicKey::try_from(self.public_key.as_slice()).ok()?;
        let signed = self.algorithm == Algorithm::Ed25519
            && key.verify(&self.certificates().statement(claim), &self.signature);
        signed.then_some(key)
    }

    /// Whether it was signed with the key that a code gave to both sides.
    pub(crate) fn is_signed_with(&self, key: &[u8; 32], claim: Claim<'_>) -> bool {
        let mac = mac(key, &self.certificates().statement(claim));
        self.algorithm == Algorithm::Code && mac.is_some_and(|mac| mac.verify_slice(&self.signature).is_ok())
    }

    fn certificates(&self) -> Certificates {
        Certificates::of(self.fingerprints.iter().map(String::as_str))
    }
}

fn mac(key: &[u8; 32], statement: &[u8]) -> Option<Hmac<Sha256>> {
    Some(Hmac::<Sha256>::new_from_slice(key).ok()?.chain_update(statement))
}

/// The hash's name in small letters, the bytes in capitals; nothing if it is none. RFC 8122, section 5.
fn normal(fingerprint: &str) -> Option<String> {
    let (hash, hex) = fingerprint.trim().split_once(' ')?;
    let bytes: Vec<&str> = hex.trim().split(':').collect();
    let fine = bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let named = !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (fine && named && bytes.len() <= LONGEST_HASH)
        .then(|| format!("{} {}", hash.to_ascii_lowercase(), bytes.join(":").to_ascii_uppercase()))
}

const LABEL: &[u8] = b"farcall identity assertion v1\0";
/// More certificates than anybody has.
pub(crate) const MOST_FINGERPRINTS: usize = 8;
/// SHA-512.
const LONGEST_HASH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim<'_> = Claim { from: "a", to: "b" };

    fn sdp(byte: u8) -> String {
        let hex = vec![format!("{byte:02x}"); 32].join(":");
        format!("v=0\r\na=fingerprint:SHA-256 {hex}\r\nm=audio 9\r\na=fingerprint:sha-256 {hex}\r\n")
    }

    #[test]
    fn an_assertion_names_its_signer_and_its_certificate_and_nothing_else() {
        let identity = Identity::generate().0;
        let assertion = Certificates::of_description(&sdp(0xab)).signed_by(&identity, CLAIM);
        assert_eq!(assertion.fingerprints.len(), 1);
        assert_eq!(assertion.signer(CLAIM), Some(identity.public_key()));
        assert!(assertion.names(&[0xab; 32]));
        assert!(!assertion.names(&[0xac; 32]) && !assertion.names(&[0xab; 20]) && !assertion.names(&[]));
    }

    #[test]
    fn whatever_is_changed_spoils_it() {
        let identity = Identity::generate().0;
        let good = Certificates::of_description(&sdp(1)).signed_by(&identity, CLAIM);
        let mut swapped = good.clone();
        swapped.fingerprints = Certificates::of_description(&sdp(2)).0;
        let mut more = good.clone();
        more.fingerprints.extend(Certificates::of_description(&sdp(2)).0);
        let mut renamed = good.clone();
        renamed.public_key = Identity::generate().0.public_key().as_bytes().to_vec();
        let mut other = good.clone();
        other.algorithm = Algorithm::Code;
        for bad in [swapped, more, renamed, other] {
            assert_eq!(bad.signer(CLAIM), None, "{bad:?}");
        }
        for claim in
            [Claim { from: "b", to: "a" }, Claim { from: "a", to: "c" }, Claim { from: "ab", to: "" }]
        {
            assert_eq!(good.signer(claim), None, "{claim:?}");
        }
    }

    #[test]
    fn the_key_of_a_code_signs_as_well_and_is_not_mistaken_for_a_lasting_one() {
        let assertion = Certificates::of_description(&sdp(1)).signed_with(&[7; 32], CLAIM);
        assert!(assertion.is_signed_with(&[7; 32], CLAIM));
        assert!(!assertion.is_signed_with(&[8; 32], CLAIM));
        assert!(!assertion.is_signed_with(&[7; 32], Claim { from: "b", to: "a" }));
        assert_eq!(assertion.signer(CLAIM), None);
    }

    #[test]
    fn fingerprints_are_signed_alike_however_they_are_written() {
        let one = Certificates::of(["sha-256 aB:Cd", "SHA-1 00:01"].into_iter());
        let other = Certificates::of(["sha-1 00:01", "sha-256 AB:CD", " sha-256  ab:cd "].into_iter());
        assert_eq!(one, other);
        for bad in ["", "sha-256", "sha-256 A", "sha-256 GG", "sha-256 A:B", "sha 256", " 00"] {
            assert!(Certificates::of([bad].into_iter()).is_empty(), "{bad}");
        }
        let many = (0..=u8::MAX).map(|byte| format!("sha-256 {byte:02x}")).collect::<Vec<_>>();
        assert_eq!(Certificates::of(many.iter().map(String::as_str)).0.len(), MOST_FINGERPRINTS);
    }
}
