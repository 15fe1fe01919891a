//! Long-term credentials, static and ephemeral at once, and the nonces that go with them. RFC 8489, section 9.2.
//!
//! Nothing here remembers a client. A nonce is a timestamp and a keyed hash of it with the client's address: whoever
//! sends it back can receive at that address, and until somebody does, a stranger costs no memory.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farcall_proto::turn_credentials::{AuthSecret, EphemeralUsername, UnixTime};
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::stun::{AttributeType, IntegrityKey, Message};

/// What the operator wrote about credentials.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The realm of every credential.
    pub realm: String,
    /// Static users.
    pub users: Vec<StaticUser>,
    /// Secrets under which ephemeral credentials are good; several, so that one can be replaced by another.
    pub secrets: Vec<AuthSecret>,
}

/// A user with a password that does not expire.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticUser {
    /// As in USERNAME.
    pub name: String,
    /// In clear, as the operator wrote it.
    pub password: String,
}

impl fmt::Debug for StaticUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticUser").field("name", &self.name).field("password", &"redacted").finish()
    }
}

/// Who a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As in USERNAME: requests on an allocation must come with the name that made it.
    pub name: Arc<str>,
    /// Whose quota it counts against: the name, or for ephemeral credentials the session they were made for, which
    /// stays while credentials come and go.
    pub account: Arc<str>,
}

/// A user, and the key that proves it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Whose.
    pub user: User,
    /// What its messages are signed with.
    pub key: IntegrityKey,
    /// No new allocation from then on; `None` if it does not expire.
    pub expires_at: Option<UnixTime>,
}

/// Why a request is not from whom it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no integrity, the user is unknown, or the password another: 401, with a challenge.
    Unauthenticated,
    /// There is integrity but not what it needs: 400.
    Incomplete,
    /// The nonce is not one of ours, not for this client, or too old: 438, with a challenge.
    StaleNonce,
}

/// Checks who a request is from.
#[derive(Debug)]
pub struct Authenticator {
    realm: Arc<str>,
    users: HashMap<String, Credential>,
    secrets: Vec<AuthSecret>,
    nonces: NonceKey,
}

impl Authenticator {
    /// Prepares keys once, so that a request costs one HMAC.
    #[must_use]
    pub fn new(config: Config, nonces: NonceKey) -> Self {
        let Config { realm, users, secrets } = config;
        let users = users
            .into_iter()
            .map(|StaticUser { name, password }| {
                let key = IntegrityKey::long_term_md5(&name, &realm, &password);
                let user = User { name: name.as_str().into(), account: name.as_str().into() };
                (name, Credential { user, key, expires_at: None })
            })
            .collect();
        Self { realm: realm.into(), users, secrets, nonces }
    }

    /// The realm of every challenge.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// A fresh nonce for this client.
    #[must_use]
    pub fn nonce(&self, now: Instant, client: SocketAddr) -> Nonce {
        self.nonces.make(now, client)
    }

    /// Finds out who `message` is from. `known` is the credential of the flow's allocation: it goes on being good
    /// however its password was made and whether or not it has expired since.
    pub fn authenticate(
        &self,
        now: Instant,
        client: SocketAddr,
        message: &Message<'_>,
        known: Option<&Credential>,
    ) -> Result<Credential, Refusal> {
        if !message.has_integrity() {
            return Err(Refusal::Unauthenticated);
        }
        let text = |kind| message.find_text(kind).ok_or(Refusal::Incomplete);
        let username = text(AttributeType::USERNAME)?;
        let realm = text(AttributeType::REALM)?;
        let nonce = text(AttributeType::NONCE)?;
        if !self.nonces.check(now, client, nonce) {
            return Err(Refusal::StaleNonce);
        }
        if realm != &*self.realm {
            return Err(Refusal::Unauthenticated);
        }
        let is_good = |credential: &Credential| message.verify_integrity(&credential.key);
        known
            .filter(|credential| &*credential.user.name == username)
            .cloned()
            .into_iter()
            .chain(self.users.get(username).cloned())
            .chain(self.ephemeral(username))
            .find(is_good)
            .ok_or(Refusal::Unauthenticated)
    }

    /// What the credential would be under each secret.
    fn ephemeral<'a>(&'a self, username: &'a str) -> impl Iterator<Item = Credential> + use<'a> {
        let parsed = EphemeralUsername::parse(username).ok();
        parsed.into_iter().flat_map(move |EphemeralUsername { expires_at, session }| {
            self.secrets.iter().map(move |secret| {
                let key = IntegrityKey::long_term_md5(username, &self.realm, &secret.password(username));
                let account = if session.is_empty() { username } else { session };
                let user = User { name: username.into(), account: account.into() };
                Credential { user, key, expires_at: Some(expires_at) }
            })
        })
    }
}

/// What nonces are made and checked with, the same for all workers of a process.
#[derive(Clone)]
pub struct NonceKey {
    keyed: Hmac<Sha256>,
    epoch: Instant,
}

impl NonceKey {
    /// `epoch` is when the process started: times in nonces count from there.
    pub fn new(rng: &mut impl CryptoRng, epoch: Instant) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let keyed = Hmac::new_from_slice(&key).expect("a key of any length");
        Self { keyed, epoch }
    }

    fn make(&self, now: Instant, client: SocketAddr) -> Nonce {
        let seconds = u32::try_from(now.saturating_duration_since(self.epoch).as_secs()).unwrap_or(u32::MAX);
        let mut raw = [0; NONCE_RAW_BYTES];
        let (time, tag) = raw.split_at_mut(TIME_BYTES);
        time.copy_from_slice(&seconds.to_be_bytes());
        let mac = self.tag(seconds, client);
        tag.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        let mut text = [0; NONCE_TEXT_BYTES];
        // 15 bytes make exactly 20 characters.
        let _ = URL_SAFE_NO_PAD.encode_slice(raw, &mut text);
        Nonce(text)
    }

    fn check(&self, now: Instant, client: SocketAddr, nonce: &str) -> bool {
        let mut raw = [0; NONCE_RAW_BYTES + 3];
        let decoded = URL_SAFE_NO_PAD.decode_slice(nonce, &mut raw).ok().and_then(|length| raw.get(..length));
        let Some((time, tag)) = decoded.and_then(|raw| raw.split_first_chunk::<TIME_BYTES>()) else {
            return false;
        };
        let seconds = u32::from_be_bytes(*time);
        let expected = self.tag(seconds, client);
        let is_ours: bool = expected.get(..TAG_BYTES).is_some_and(|expected| expected.ct_eq(tag).into());
        let age = now.saturating_duration_since(self.epoch + Duration::from_secs(seconds.into()));
        is_ours && age < NONCE_LIFETIME
    }

    fn tag(&self, seconds: u32, client: SocketAddr) -> [u8; 32] {
        let mut mac = self.keyed.clone();
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

/// A nonce as it stands in the attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_TEXT_BYTES]);

impl Nonce {
    /// The attribute's value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Long enough that a call needs a new one now and then, short enough that a stolen one is soon worthless.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(600);
const TIME_BYTES: usize = 4;
/// 88 bits: nobody guesses them within a nonce's life, and the challenge stays small.
const TAG_BYTES: usize = 11;
const NONCE_RAW_BYTES: usize = TIME_BYTES + TAG_BYTES;
const NONCE_TEXT_BYTES: usize = NONCE_RAW_BYTES.div_ceil(3) * 4;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::clock;
    use crate::stun::{Class, MessageWriter, Method, TransactionId};

    const CLIENT: &str = "192.0.2.7:4000";

    struct Fixture {
        start: Instant,
        authenticator: Authenticator,
    }

    impl Fixture {
        fn new() -> Self {
            let start = clock::now();
            let nonces = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(1), start);
            let config = Config {
                realm: "example.org".into(),
                users: vec![StaticUser { name: "alice".into(), password: "wonder".into() }],
                secrets: vec![AuthSecret::new("north").unwrap(), AuthSecret::new("south").unwrap()],
            };
            Self { start, authenticator: Authenticator::new(config, nonces) }
        }

        fn request(&self, username: &str, password: &str, nonce: &[u8]) -> Vec<u8> {
            let mut bytes = Vec::new();
            let key = IntegrityKey::long_term_md5(username, "example.org", password);
            MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
                .attribute(AttributeType::USERNAME, username.as_bytes())
                .attribute(AttributeType::REALM, b"example.org")
                .attribute(AttributeType::NONCE, nonce)
                .integrity(&key)
                .finish()
                .unwrap();
            bytes
        }

        fn authenticate(&self, username: &str, password: &str) -> Result<String, Refusal> {
            let nonce = self.authenticator.nonce(self.start, client());
            self.check(self.start, client(), &self.request(username, password, nonce.as_bytes()))
                .map(|credential| credential.user.account.to_string())
        }

        fn check(&self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Result<Credential, Refusal> {
            let Ok(message) = Message::parse(bytes) else { panic!("not a message: {bytes:02x?}") };
            self.authenticator.authenticate(now, from, &message, None)
        }
    }

    fn client() -> SocketAddr {
        CLIENT.parse().unwrap()
    }

    #[test]
    fn static_and_ephemeral_credentials_of_every_secret_are_good_at_once() {
        let fixture = Fixture::new();
        assert_eq!(fixture.authenticate("alice", "wonder").as_deref(), Ok("alice"));
        for secret in ["north", "south"] {
            let made = AuthSecret::new(secret).unwrap().mint(UnixTime(2_000_000_000), "session-1");
            assert_eq!(fixture.authenticate(&made.username, &made.password).as_deref(), Ok("session-1"));
        }
    }

    #[test]
    fn a_wrong_password_user_or_secret_is_unauthenticated() {
        let fixture = Fixture::new();
        let foreign = AuthSecret::new("west").unwrap().mint(UnixTime(2_000_000_000), "x");
        for (name, password) in [
            ("alice", "guess"),
            ("bob", "wonder"),
            ("", ""),
            (foreign.username.as_str(), foreign.password.as_str()),
        ] {
            assert_eq!(fixture.authenticate(name, password), Err(Refusal::Unauthenticated), "{name}");
        }
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_time_only() {
        let fixture = Fixture::new();
        let nonce = fixture.authenticator.nonce(fixture.start, client());
        let request = fixture.request("alice", "wonder", nonce.as_bytes());
        let at =
            |after, from: &str| fixture.check(fixture.start + after, from.parse().unwrap(), &request).err();
        assert_eq!(at(Duration::ZERO, CLIENT), None);
        assert_eq!(at(NONCE_LIFETIME - Duration::from_secs(1), CLIENT), None);
        assert_eq!(at(NONCE_LIFETIME, CLIENT), Some(Refusal::StaleNonce));
        assert_eq!(at(Duration::ZERO, "192.0.2.7:4001"), Some(Refusal::StaleNonce));
        assert_eq!(at(Duration::ZERO, "192.0.2.8:4000"), Some(Refusal::StaleNonce));
    }

    #[test]
    fn a_nonce_of_another_shape_or_key_is_stale() {
        let fixture = Fixture::new();
        let foreign =
            NonceKey::new(&mut ChaCha20Rng::seed_from_u64(2), fixture.start).make(fixture.start, client());
        let ours = fixture.authenticator.nonce(fixture.start, client());
        let long = [ours.as_bytes(), b"AAAA"].concat();
        for nonce in
            [&b""[..], b"x", b"AAAAAAAAAAAAAAAAAAAA", foreign.as_bytes(), &ours.as_bytes()[..19], &long]
        {
            let request = fixture.request("alice", "wonder", nonce);
            assert_eq!(fixture.check(fixture.start, client(), &request).err(), Some(Refusal::StaleNonce));
        }
    }

    #[test]
    fn every_flipped_character_of_a_nonce_makes_it_stale() {
        let fixture = Fixture::new();
        let nonce = fixture.authenticator.nonce(fixture.start, client());
        for at in 0..nonce.0.len() {
            let mut flipped = nonce.0;
            flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
            let request = fixture.request("alice", "wonder", &flipped);
            assert_eq!(
                fixture.check(fixture.start, client(), &request).err(),
                Some(Refusal::StaleNonce),
                "{at}"
            );
        }
    }

    #[test]
    fn integrity_without_what_it_needs_is_incomplete() {
        let fixture = Fixture::new();
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
            .attribute(AttributeType::USERNAME, b"alice")
            .integrity(&IntegrityKey::short_term("x"))
            .finish()
            .unwrap();
        assert_eq!(fixture.check(fixture.start, client(), &bytes).err(), Some(Refusal::Incomplete));
    }

    #[test]
    fn passwords_and_keys_do_not_show_in_debug_output() {
        let fixture = Fixture::new();
        let user = StaticUser { name: "alice".into(), password: "wonder".into() };
        let shown = format!("{user:?} {:?}", fixture.authenticator);
        assert!(!shown.contains("wonder") && !shown.contains("north"), "{shown}");
    }
}
