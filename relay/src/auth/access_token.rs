//! Access tokens: a key for one client, sealed by somebody who shares a key with us. RFC 7635.
//!
//! The user name is the number of the key that seals, and the token's own key signs the client's messages. Nobody but
//! us can look into a token, and nothing in it is believed before the seal is found whole.

use std::fmt;
use std::num::TryFromIntError;
use std::time::Duration;

use farcall_proto::turn_credentials::UnixTime;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use super::user::{Credential, KeySource, User};
use crate::stun::{Integrity, IntegrityKey, Message, u16_at};

/// Keys that tokens may be sealed with, and the name they are sealed for.
#[derive(Debug, Clone)]
pub struct OauthConfig {
    /// What clients show to whoever gives them tokens: the value of THIRD-PARTY-AUTHORIZATION.
    pub server_name: String,
    /// Several, so that one can replace another.
    pub keys: Vec<OauthKey>,
}

/// A key shared with whoever gives tokens out.
#[derive(Clone)]
pub struct OauthKey {
    /// What it is called: the user name of its tokens.
    pub kid: String,
    key: LessSafeKey,
    /// No token is good before.
    pub from: Option<UnixTime>,
    /// Nor from then on.
    pub until: Option<UnixTime>,
}

/// A key of a length that no algorithm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 32 bytes for AES-256-GCM or 16 for AES-128-GCM, and not {0}")]
pub struct KeyLength(pub usize);

impl OauthKey {
    /// The length says which algorithm it is for.
    pub fn new(kid: String, key: &[u8]) -> Result<Self, KeyLength> {
        let algorithm = match key.len() {
            32 => &AES_256_GCM,
            16 => &AES_128_GCM,
            other => return Err(KeyLength(other)),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| KeyLength(key.len()))?;
        Ok(Self { kid, key: LessSafeKey::new(key), from: None, until: None })
    }

    fn is_good_at(&self, now: UnixTime) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

impl fmt::Debug for OauthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kid, from, until, .. } = self;
        f.debug_struct("OauthKey")
            .field("kid", kid)
            .field("key", &"redacted")
            .field("from", from)
            .field("until", until)
            .finish()
    }
}

impl OauthConfig {
    /// Whose this message is, if its token is good now and its integrity made with the token's key.
    pub(super) fn credential(
        &self,
        now: UnixTime,
        kid: &str,
        token: &[u8],
        message: &Message<'_>,
        integrity: Integrity,
    ) -> Option<Credential> {
        let keys = self.keys.iter().filter(|key| key.kid == kid && key.is_good_at(now));
        let token = keys.filter_map(|key| AccessToken::open(token, key, &self.server_name)).next()?;
        let expires_at = token.good_until(now)?;
        // coturn's clients sign with the first 16 bytes, whatever the length of the key.
        let keys = [Some(token.mac_key.as_slice()), token.mac_key.get(..COTURN_KEY_BYTES)];
        let keys = keys.into_iter().flatten().map(IntegrityKey::from_bytes);
        let key = keys.into_iter().find(|key| message.verify(integrity, key))?;
        // Everybody's name is the key's, so a client is counted by what only its token has.
        let session = Sha256::digest(&token.mac_key);
        let session = u64::from_be_bytes(*session.first_chunk()?);
        let user = User { name: kid.into(), account: format!("{kid}/{session:016x}").into() };
        let source = KeySource::Token;
        Some(Credential { user, key, source, expires_at: Some(expires_at), limits: None })
    }
}

/// What is inside.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Signs the client's messages.
    pub mac_key: Vec<u8>,
    /// When it was made, in 64ths of 1024ths of a second since 1970.
    pub timestamp: u64,
    /// How long it is good.
    pub lifetime: Duration,
}

impl AccessToken {
    /// Looks inside, if it was sealed with this key for this server.
    #[must_use]
    pub fn open(token: &[u8], key: &OauthKey, server_name: &str) -> Option<Self> {
        let nonce_bytes = usize::from(u16_at(token, 0)?);
        let (nonce, sealed) = token.get(2..)?.split_at_checked(nonce_bytes)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let block = key.key.open_in_place(nonce, Aad::from(server_name), &mut sealed).ok()?;
        let (mac_key, rest) = block.get(2..)?.split_at_checked(u16_at(block, 0)?.into())?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let lifetime: &[u8; 4] = rest.try_into().ok()?;
        (!mac_key.is_empty()).then(|| Self {
            mac_key: mac_key.to_vec(),
            timestamp: u64::from_be_bytes(*timestamp),
            lifetime: Duration::from_secs(u32::from_be_bytes(*lifetime).into()),
        })
    }

    /// Seals it. `nonce` must be another one for every token of a key.
    pub fn seal(
        &self,
        key: &OauthKey,
        server_name: &str,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, TryFromIntError> {
        let mut block = u16::try_from(self.mac_key.len())?.to_be_bytes().to_vec();
        block.extend_from_slice(&self.mac_key);
        block.extend_from_slice(&self.timestamp.to_be_bytes());
        block.extend_from_slice(&u32::try_from(self.lifetime.as_secs())?.to_be_bytes());
        let mut token = u16::try_from(NONCE_LEN)?.to_be_bytes().to_vec();
        token.extend_from_slice(&nonce);
        let nonce = Nonce::assume_unique_for_key(nonce);
        // It fails only on more data than a token's length can say.
        let sealed = key.key.seal_in_place_append_tag(nonce, Aad::from(server_name), &mut block);
        token.extend_from_slice(sealed.map(|()| block.as_slice()).unwrap_or_default());
        Ok(token)
    }

    /// A token of this moment.
    #[must_use]
    pub fn made_at(now: UnixTime, lifetime: Duration, mac_key: Vec<u8>) -> Self {
        Self { mac_key, timestamp: now.0 << FRACTION_BITS, lifetime }
    }

    /// When it ends, if it has begun and not ended. Clocks may differ a little. RFC 7635, section 4.1.1.
    fn good_until(&self, now: UnixTime) -> Option<UnixTime> {
        let made_at = UnixTime(self.timestamp >> FRACTION_BITS);
        let until = made_at.after(self.lifetime);
        (made_at <= now.after(TOLERANCE) && now < until.after(TOLERANCE)).then_some(until)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(redacted)")
    }
}

const COTURN_KEY_BYTES: usize = 16;
const FRACTION_BITS: u32 = 16;
const TOLERANCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "turn.example";
    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn key(byte: u8, bytes: usize) -> OauthKey {
        OauthKey::new("north".into(), &vec![byte; bytes]).unwrap()
    }

    fn token() -> AccessToken {
        AccessToken::made_at(NOW, Duration::from_secs(600), vec![7; 20])
    }

    #[test]
    fn what_was_sealed_is_found_again_by_this_key_for_this_server_only() {
        for bytes in [16, 32] {
            let sealed = token().seal(&key(1, bytes), SERVER, [9; 12]).unwrap();
            assert!(AccessToken::open(&sealed, &key(1, bytes), SERVER) == Some(token()));
            assert!(AccessToken::open(&sealed, &key(2, bytes), SERVER).is_none());
            assert!(AccessToken::open(&sealed, &key(1, bytes), "other").is_none());
        }
        assert_eq!(OauthKey::new("x".into(), &[0; 20]).unwrap_err(), KeyLength(20));
    }

    /// Sealed by another program: the first of `turnutils_uclient -J` of Debian's coturn 4.6.1, for "turn.example".
    #[test]
    fn a_token_of_coturn_is_understood() {
        let token: Vec<u8> = TOKEN_OF_COTURN
            .as_bytes()
            .chunks(2)
            .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect();
        let key = OauthKey::new("union".into(), b"1234567890123456").unwrap();
        let opened = AccessToken::open(&token, &key, SERVER).unwrap();
        assert_eq!((opened.mac_key.len(), opened.timestamp >> 16), (20, 1_795_403_032));
        assert_eq!(opened.lifetime, Duration::from_secs(499));
    }

    const TOKEN_OF_COTURN: &str = "000c4ebe2cc9bdf68b2d4d11b0ac647093660426f171a51de1f4646d70d9adcefcdd0b65578f5cfd2b33587bd2da76b0a873fadca64dfd1999c9d7d04a09abd7";

    #[test]
    fn every_length_of_nonce_that_a_token_can_claim_is_refused_but_its_own() {
        let good = token().seal(&key(1, 32), SERVER, [9; 12]).unwrap();
        for claimed in 0..=u16::MAX {
            let mut forged = good.clone();
            forged[..2].copy_from_slice(&claimed.to_be_bytes());
            assert_eq!(AccessToken::open(&forged, &key(1, 32), SERVER).is_some(), claimed == 12, "{claimed}");
        }
        // And with as many bytes behind it as it says.
        let mut long = good;
        long.resize(2 + usize::from(u16::MAX) + 100, 0);
        for claimed in [0, 1, 11, 12, 13, 16, 255, 256, 257, 0x7fff, 0x8000, u16::MAX] {
            long[..2].copy_from_slice(&claimed.to_be_bytes());
            assert!(AccessToken::open(&long, &key(1, 32), SERVER).is_none(), "{claimed}");
        }
    }

    #[test]
    fn every_truncated_or_flipped_token_is_refused() {
        let good = token().seal(&key(1, 32), SERVER, [9; 12]).unwrap();
        for length in 0..good.len() {
            assert!(AccessToken::open(&good[..length], &key(1, 32), SERVER).is_none(), "{length}");
        }
        for at in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(AccessToken::open(&flipped, &key(1, 32), SERVER).is_none(), "{at}");
        }
    }

    #[test]
    fn a_seal_around_something_that_is_no_token_is_refused() {
        let seal = |block: &[u8]| {
            let (mut block, key) = (block.to_vec(), key(1, 32));
            let nonce = Nonce::assume_unique_for_key([3; 12]);
            key.key.seal_in_place_append_tag(nonce, Aad::from(SERVER), &mut block).unwrap();
            [&[0, 12][..], &[3; 12], &block].concat()
        };
        let whole = [&[0, 2, 5, 5][..], &[0; 12]].concat();
        assert!(AccessToken::open(&seal(&whole), &key(1, 32), SERVER).is_some());
        let too_long = [&whole[..], &[0]].concat();
        let no_key = [0; 14];
        for block in [&[][..], &[0], &[0xff, 0xff], &whole[..15], &too_long, &no_key] {
            assert!(AccessToken::open(&seal(block), &key(1, 32), SERVER).is_none(), "{block:?}");
        }
    }

    #[test]
    fn a_token_is_good_from_when_it_was_made_until_it_ends_with_five_seconds_of_grace() {
        let good = |now: u64| token().good_until(UnixTime(now)).is_some();
        assert!(!good(NOW.0 - 6) && good(NOW.0 - 5) && good(NOW.0 + 604) && !good(NOW.0 + 605));
        let endless = AccessToken { timestamp: u64::MAX, ..token() };
        assert_eq!(endless.good_until(NOW), None);
    }

    #[test]
    fn nothing_secret_shows_in_debug_output() {
        let shown = format!("{:?} {:?}", token(), key(1, 32));
        assert!(!shown.contains('7') && !shown.contains("[1"), "{shown}");
    }
}
