//! Nonces that say what was offered with them and need not be remembered. RFC 8489, section 9.2.
//!
//! A nonce is the cookie with the security features that stood in the challenge, the time, and a keyed hash of all
//! that with the client's address. Whoever sends it back can receive at that address, and nobody has changed on the
//! way what the server offers: that would be another nonce.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What a server can do that an attacker on the way might like it not to.
///
/// Bits count from the right, as in erratum 6290 and in the sample of appendix B.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityFeatures([u8; 3]);

impl SecurityFeatures {
    /// Passwords become keys by an algorithm of the client's choice: always so.
    pub const PASSWORD_ALGORITHMS: Self = Self([0, 0, 1]);
    /// Besides, users may send USERHASH in place of their name.
    pub const USERNAME_ANONYMITY: Self = Self([0, 0, 3]);
}

/// What nonces are made and checked with, the same for all workers of a process.
#[derive(Clone)]
pub struct NonceKey {
    keyed: Hmac<Sha256>,
    key: [u8; 32],
    epoch: Instant,
}

impl NonceKey {
    /// `epoch` is when the process started: times in nonces count from there.
    pub fn new(rng: &mut impl CryptoRng, epoch: Instant) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self::from_key(key, epoch)
    }

    /// What another process of this program needs so that nonces stay good, if it begins within `margin`.
    #[must_use]
    pub fn secret(&self, now: Instant, margin: Duration) -> NonceSecret {
        NonceSecret { key: self.key, age: now.saturating_duration_since(self.epoch), margin }
    }

    /// Goes on making and checking as another process did.
    #[must_use]
    pub fn go_on(secret: &NonceSecret, now: Instant) -> Self {
        // What it made since it told its age must not seem to come from the future; so all it made seems a little older.
        Self::from_key(secret.key, now.checked_sub(secret.age.saturating_add(secret.margin)).unwrap_or(now))
    }

    fn from_key(key: [u8; 32], epoch: Instant) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let keyed = Hmac::new_from_slice(&key).expect("a key of any length");
        Self { keyed, key, epoch }
    }

    /// A nonce for this client, in a challenge that offers these features.
    #[must_use]
    pub fn make(&self, now: Instant, client: SocketAddr, features: SecurityFeatures) -> Nonce {
        let seconds = self.seconds(now);
        let [.., high, middle, low] = seconds.to_be_bytes();
        let mut raw = [0; RAW_BYTES];
        let (time, tag) = raw.split_at_mut(TIME_BYTES);
        time.copy_from_slice(&[high, middle, low]);
        tag.iter_mut().zip(self.tag(features, seconds, client)).for_each(|(to, from)| *to = from);
        let mut text = [0; NONCE_BYTES];
        let (cookie, rest) = text.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE);
        let (bits, rest) = rest.split_at_mut(FEATURE_CHARACTERS);
        // Three bytes make exactly four characters, and fourteen nineteen.
        let _ = STANDARD.encode_slice(features.0, bits);
        let _ = URL_SAFE_NO_PAD.encode_slice(raw, rest);
        Nonce(text)
    }

    /// Whether it is ours, for this client, and not too old.
    #[must_use]
    pub fn check(&self, now: Instant, client: SocketAddr, nonce: &[u8]) -> bool {
        self.parse(now, client, nonce).is_some()
    }

    fn parse(&self, now: Instant, client: SocketAddr, nonce: &[u8]) -> Option<()> {
        let rest = nonce.strip_prefix(COOKIE)?;
        let (bits, rest) = rest.split_first_chunk::<FEATURE_CHARACTERS>()?;
        let mut features = [0; 3];
        STANDARD.decode_slice_unchecked(bits, &mut features).ok()?;
        let mut raw = [0; RAW_BYTES];
        let rest: &[u8; REST_CHARACTERS] = rest.try_into().ok()?;
        URL_SAFE_NO_PAD.decode_slice_unchecked(rest, &mut raw).ok()?;
        let ([high, middle, low], tag) = raw.split_first_chunk::<TIME_BYTES>()?;
        let now = self.seconds(now);
        // The time wraps every half year; what it says is the last moment that ends in these bits.
        let age = now.wrapping_sub(u64::from(u32::from_be_bytes([0, *high, *middle, *low]))) & TIME_MASK;
        let made_at = now.checked_sub(age)?;
        let expected = self.tag(SecurityFeatures(features), made_at, client);
        let is_ours: bool = expected.get(..TAG_BYTES)?.ct_eq(tag).into();
        (is_ours && age < NONCE_LIFETIME.as_secs()).then_some(())
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs()
    }

    fn tag(&self, features: SecurityFeatures, seconds: u64, client: SocketAddr) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(&features.0);
        mac.update(&seconds.to_be_bytes());
        match client.ip() {
            IpAddr::V4(v4) => mac.update(&v4.octets()),
            IpAddr::V6(v6) => mac.update(&v6.octets()),
        }
        mac.update(&client.port().to_be_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(redacted)")
    }
}

/// A nonce key as data.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct NonceSecret {
    key: [u8; 32],
    age: Duration,
    margin: Duration,
}

impl fmt::Debug for NonceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceSecret(redacted)")
    }
}

/// A nonce as it stands in the attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_BYTES]);

impl Nonce {
    /// The attribute's value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Long enough that a call needs a new one now and then, short enough that a stolen one is soon worthless.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(600);
/// How a nonce begins that speaks of features.
const COOKIE: &[u8; 9] = b"obMatJos2";
const FEATURE_CHARACTERS: usize = 4;
const TIME_BYTES: usize = 3;
const TIME_MASK: u64 = 0xff_ffff;
/// 88 bits: nobody guesses them within a nonce's life, and the challenge stays small.
const TAG_BYTES: usize = 11;
const RAW_BYTES: usize = TIME_BYTES + TAG_BYTES;
const REST_CHARACTERS: usize = (RAW_BYTES * 8).div_ceil(6);
/// A multiple of four, so that the attribute has no padding.
const NONCE_BYTES: usize = COOKIE.len() + FEATURE_CHARACTERS + REST_CHARACTERS;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::clock;

    const CLIENT: &str = "192.0.2.7:4000";
    const FEATURES: SecurityFeatures = SecurityFeatures::USERNAME_ANONYMITY;

    fn key() -> (Instant, NonceKey) {
        let start = clock::now();
        (start, NonceKey::new(&mut ChaCha20Rng::seed_from_u64(1), start))
    }

    fn client(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_nonce_tells_its_features_behind_the_cookie() {
        let (start, key) = key();
        let text = |features| {
            let nonce = key.make(start, client(CLIENT), features);
            String::from_utf8(nonce.as_bytes().to_vec()).unwrap()
        };
        assert!(text(SecurityFeatures::PASSWORD_ALGORITHMS).starts_with("obMatJos2AAAB"));
        assert!(text(SecurityFeatures::USERNAME_ANONYMITY).starts_with("obMatJos2AAAD"));
        assert_eq!(text(FEATURES).len(), 32);
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_time_only() {
        let (start, key) = key();
        for made_after in [0, 1, 5_000, (1 << 24) - 1, 1 << 24, 40_000_000] {
            let made_at = start + Duration::from_secs(made_after);
            let nonce = key.make(made_at, client(CLIENT), FEATURES);
            let at = |after: u64, from: &str| {
                key.check(made_at + Duration::from_secs(after), client(from), nonce.as_bytes())
            };
            assert!(at(0, CLIENT) && at(NONCE_LIFETIME.as_secs() - 1, CLIENT), "{made_after}");
            assert!(!at(NONCE_LIFETIME.as_secs(), CLIENT) && !at(1 << 24, CLIENT), "{made_after}");
            assert!(!at(0, "192.0.2.7:4001") && !at(0, "192.0.2.8:4000"), "{made_after}");
        }
    }

    #[test]
    fn a_nonce_of_another_shape_or_key_is_not_ours() {
        let (start, key) = key();
        let foreign = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(2), start);
        let foreign = foreign.make(start, client(CLIENT), FEATURES);
        let ours = key.make(start, client(CLIENT), FEATURES);
        let long = [ours.as_bytes(), b"AAAA"].concat();
        let bare = &ours.as_bytes()[13..];
        for nonce in [
            &b""[..],
            b"x",
            b"obMatJos2",
            b"obMatJos2AAAD",
            &[b'A'; 32],
            foreign.as_bytes(),
            &ours.as_bytes()[..31],
            &long,
            bare,
        ] {
            assert!(!key.check(start, client(CLIENT), nonce), "{nonce:?}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_nonce_spoils_it() {
        let (start, key) = key();
        let nonce = key.make(start, client(CLIENT), FEATURES);
        for at in 0..NONCE_BYTES * 8 {
            let mut flipped = nonce.0;
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(!key.check(start, client(CLIENT), &flipped), "{at}");
        }
    }
}
