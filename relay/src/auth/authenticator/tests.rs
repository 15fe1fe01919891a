//! Who gets in, who does not, and that nobody on the way can make a client use less than it could.

use std::time::Duration;

use farcall_proto::turn_credentials::{AuthSecret, UnixTime};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::auth::jwt::{self, Claims};
use crate::auth::{
    JwtAlgorithm, JwtConfig, JwtKey, JwtSecret, ListenerMatch, NONCE_LIFETIME, SecurityFeatures, StaticUser,
};
use crate::clock;
use crate::policy::Limits;
use crate::stun::{Class, IntegrityKey, MessageWriter, Method, TransactionId};

const REALM: &str = "example.org";
/// Prepared, as it stands in the configuration.
const COMPOSED: &str = "na\u{ef}ve";

struct Fixture {
    start: Instant,
    authenticator: Authenticator,
}

/// What a client says. Whatever is `None` is not in the request.
#[derive(Clone)]
struct Said {
    name: Option<Vec<u8>>,
    hash: Option<Vec<u8>>,
    realm: String,
    nonce: Vec<u8>,
    chosen: Option<Vec<u8>>,
    offered: Option<Vec<u8>>,
    key: IntegrityKey,
    signed: Vec<Integrity>,
}

impl Said {
    /// A client older than RFC 8489.
    fn classic(fixture: &Fixture, name: &str, password: &str) -> Self {
        Self {
            name: Some(name.as_bytes().to_vec()),
            hash: None,
            realm: REALM.into(),
            nonce: fixture.nonce().as_bytes().to_vec(),
            chosen: None,
            offered: None,
            key: IntegrityKey::long_term_md5(name, REALM, password),
            signed: vec![Integrity::Sha1],
        }
    }

    /// A client of RFC 8489.
    fn modern(fixture: &Fixture, name: &str, password: &str) -> Self {
        Self {
            chosen: Some(PasswordAlgorithm::Sha256.to_value().to_vec()),
            offered: Some(PASSWORD_ALGORITHMS.to_vec()),
            key: IntegrityKey::long_term_sha256(name, REALM, password),
            signed: vec![Integrity::Sha256],
            ..Self::classic(fixture, name, password)
        }
    }

    fn hidden(self, name: &str) -> Self {
        Self { name: None, hash: Some(UserHash::of(name, REALM).as_bytes().to_vec()), ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer =
            MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]));
        for (kind, value) in [
            (AttributeType::USERNAME, &self.name),
            (AttributeType::USERHASH, &self.hash),
            (AttributeType::PASSWORD_ALGORITHM, &self.chosen),
            (AttributeType::PASSWORD_ALGORITHMS, &self.offered),
        ] {
            if let Some(value) = value {
                writer.attribute(kind, value);
            }
        }
        writer.attribute(AttributeType::REALM, self.realm.as_bytes());
        writer.attribute(AttributeType::NONCE, &self.nonce);
        for integrity in &self.signed {
            writer.sign(*integrity, &self.key);
        }
        writer.finish().unwrap();
        bytes
    }
}

impl Fixture {
    fn new() -> Self {
        let user = |name: &str| StaticUser { name: name.into(), password: "wonder".into() };
        Self::with(RealmConfig {
            users: vec![user("alice"), user(COMPOSED)],
            secrets: vec![AuthSecret::new("north").unwrap(), AuthSecret::new("south").unwrap()],
            ..RealmConfig::default()
        })
    }

    fn with(realm: RealmConfig) -> Self {
        let other = |name: &str, listener: ListenerMatch, password: &str| RealmConfig {
            name: name.into(),
            listeners: vec![listener],
            users: vec![StaticUser { name: "alice".into(), password: password.into() }],
            ..RealmConfig::default()
        };
        let config = Config {
            default_realm: RealmConfig { name: REALM.into(), ..realm },
            other_realms: vec![
                other("by-port", ListenerMatch { ip: None, port: Some(3479) }, "port"),
                other("by-ip", ListenerMatch { ip: Some([198, 51, 100, 9].into()), port: None }, "ip"),
            ],
        };
        let start = clock::now();
        let nonces = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(1), start);
        Self { start, authenticator: Authenticator::new(config, nonces) }
    }

    fn nonce(&self) -> Nonce {
        self.authenticator.challenge(self.start, ends()).nonce
    }

    fn check(&self, said: &Said) -> Result<Authenticated, Refusal> {
        self.check_at(self.start, ends(), said, None)
    }

    fn check_at(
        &self,
        now: Instant,
        ends: Ends,
        said: &Said,
        known: Option<&Credential>,
    ) -> Result<Authenticated, Refusal> {
        let bytes = said.bytes();
        let Ok(message) = Message::parse(&bytes) else { panic!("not a message: {bytes:02x?}") };
        self.authenticator.clone().authenticate(at(now), ends, &message, known)
    }

    fn account(&self, said: &Said) -> Result<String, Refusal> {
        self.check(said).map(|asker| asker.credential.user.account.to_string())
    }
}

fn at(instant: Instant) -> Now {
    Now { instant, unix: UnixTime(1_700_000_000) }
}

fn ends() -> Ends {
    Ends { client: "192.0.2.7:4000".parse().unwrap(), server: "198.51.100.1:3478".parse().unwrap() }
}

#[test]
fn static_and_ephemeral_credentials_of_every_secret_are_good_at_once_under_both_algorithms() {
    let fixture = Fixture::new();
    for said in [Said::classic, Said::modern] {
        assert_eq!(fixture.account(&said(&fixture, "alice", "wonder")).as_deref(), Ok("alice"));
        for secret in ["north", "south"] {
            let made = AuthSecret::new(secret).unwrap().mint(UnixTime(2_000_000_000), "session-1");
            let said = said(&fixture, &made.username, &made.password);
            assert_eq!(fixture.account(&said).as_deref(), Ok("session-1"));
        }
    }
}

#[test]
fn a_wrong_password_user_secret_or_realm_is_unauthenticated() {
    let fixture = Fixture::new();
    let foreign = AuthSecret::new("west").unwrap().mint(UnixTime(2_000_000_000), "x");
    for said in [Said::classic, Said::modern] {
        for (name, password) in [
            ("alice", "guess"),
            ("bob", "wonder"),
            ("", ""),
            (foreign.username.as_str(), foreign.password.as_str()),
        ] {
            let said = said(&fixture, name, password);
            assert_eq!(fixture.account(&said), Err(Refusal::Unauthenticated), "{name}");
        }
        let elsewhere = Said { realm: "example.net".into(), ..said(&fixture, "alice", "wonder") };
        assert_eq!(fixture.account(&elsewhere), Err(Refusal::Unauthenticated));
    }
}

#[test]
fn the_key_of_one_algorithm_is_not_good_under_another() {
    let fixture = Fixture::new();
    let modern = Said::modern(&fixture, "alice", "wonder");
    let classic = Said::classic(&fixture, "alice", "wonder");
    let crossed = Said { key: classic.key.clone(), ..modern };
    assert_eq!(fixture.account(&crossed), Err(Refusal::Unauthenticated));
    let md5 = Said { chosen: Some(PasswordAlgorithm::Md5.to_value().to_vec()), ..crossed };
    assert_eq!(fixture.account(&md5).as_deref(), Ok("alice"), "MD5 may be chosen, too");
    // No word about algorithms means MD5, whichever integrity comes with it.
    let silent = Said { signed: vec![Integrity::Sha256], ..classic };
    assert_eq!(fixture.check(&silent).unwrap().integrity, Integrity::Sha256);
}

#[test]
fn of_two_integrities_the_stronger_counts() {
    let fixture = Fixture::new();
    let both = Said {
        signed: vec![Integrity::Sha1, Integrity::Sha256],
        ..Said::modern(&fixture, "alice", "wonder")
    };
    assert_eq!(fixture.check(&both).unwrap().integrity, Integrity::Sha256);
    let mut bytes = both.bytes();
    *bytes.last_mut().unwrap() ^= 1;
    let message = Message::parse(&bytes).unwrap();
    assert!(message.verify(Integrity::Sha1, &both.key));
    let refused = fixture.authenticator.clone().authenticate(at(fixture.start), ends(), &message, None).err();
    assert_eq!(refused, Some(Refusal::Unauthenticated));
}

#[test]
fn a_static_user_may_come_by_its_hash_and_an_ephemeral_one_only_on_its_own_allocation() {
    let fixture = Fixture::new();
    let alice = Said::modern(&fixture, "alice", "wonder").hidden("alice");
    assert_eq!(fixture.account(&alice).as_deref(), Ok("alice"));
    let wrong = Said::modern(&fixture, "alice", "guess").hidden("alice");
    assert_eq!(fixture.account(&wrong), Err(Refusal::Unauthenticated));

    let made = AuthSecret::new("north").unwrap().mint(UnixTime(2_000_000_000), "x");
    let named = Said::modern(&fixture, &made.username, &made.password);
    let hidden = named.clone().hidden(&made.username);
    assert_eq!(fixture.account(&hidden), Err(Refusal::Unauthenticated));
    let known = fixture.check(&named).unwrap().credential;
    assert!(fixture.check_at(fixture.start, ends(), &hidden, Some(&known)).is_ok());
}

#[test]
fn hiding_ones_name_is_offered_only_where_every_name_is_on_a_list() {
    let cookie = |fixture: &Fixture| String::from_utf8(fixture.nonce().as_bytes()[..13].to_vec()).unwrap();
    let users = vec![StaticUser { name: "alice".into(), password: "wonder".into() }];
    let listed = Fixture::with(RealmConfig { users, ..RealmConfig::default() });
    assert_eq!((cookie(&listed), cookie(&Fixture::new())), ("obMatJos2AAAD".into(), "obMatJos2AAAB".into()));
}

#[test]
fn a_name_is_the_same_however_its_characters_are_composed() {
    let fixture = Fixture::new();
    let decomposed =
        Said { name: Some("nai\u{308}ve".as_bytes().to_vec()), ..Said::modern(&fixture, COMPOSED, "wonder") };
    assert_eq!(fixture.account(&decomposed).as_deref(), Ok(COMPOSED));
    let forbidden = Said { name: Some("soft\u{ad}".as_bytes().to_vec()), ..decomposed };
    assert_eq!(fixture.account(&forbidden), Err(Refusal::Unauthenticated));
}

#[test]
fn each_listener_has_its_realm_and_a_password_of_one_is_nothing_in_another() {
    let fixture = Fixture::new();
    for (server, realm, password) in [
        ("198.51.100.1:3478", REALM, "wonder"),
        ("198.51.100.1:3479", "by-port", "port"),
        ("198.51.100.9:3478", "by-ip", "ip"),
    ] {
        let ends = Ends { server: server.parse().unwrap(), ..ends() };
        assert_eq!(fixture.authenticator.challenge(fixture.start, ends).realm, realm);
        for (other, password_there) in [(REALM, "wonder"), ("by-port", "port"), ("by-ip", "ip")] {
            let key = IntegrityKey::long_term_md5("alice", other, password_there);
            let said = Said { realm: other.into(), key, ..Said::classic(&fixture, "alice", password) };
            let is_good = fixture.check_at(fixture.start, ends, &said, None).is_ok();
            assert_eq!(is_good, other == realm, "{other} at {server}");
        }
    }
}

#[test]
fn a_nonce_is_good_for_its_client_and_its_time_only() {
    let fixture = Fixture::new();
    let said = Said::modern(&fixture, "alice", "wonder");
    let try_at = |after, client: &str| {
        let ends = Ends { client: client.parse().unwrap(), ..ends() };
        fixture.check_at(fixture.start + after, ends, &said, None).err()
    };
    assert_eq!(try_at(Duration::ZERO, "192.0.2.7:4000"), None);
    assert_eq!(try_at(NONCE_LIFETIME - Duration::from_secs(1), "192.0.2.7:4000"), None);
    assert_eq!(try_at(NONCE_LIFETIME, "192.0.2.7:4000"), Some(Refusal::StaleNonce));
    assert_eq!(try_at(Duration::ZERO, "192.0.2.7:4001"), Some(Refusal::StaleNonce));
    assert_eq!(try_at(Duration::ZERO, "192.0.2.8:4000"), Some(Refusal::StaleNonce));
}

#[test]
fn integrity_without_what_it_needs_is_incomplete() {
    let fixture = Fixture::new();
    let good = Said::classic(&fixture, "alice", "wonder");
    let nameless = Said { name: None, ..good.clone() };
    assert_eq!(fixture.account(&nameless), Err(Refusal::Incomplete));
    let endless = Said { name: Some(vec![b'a'; 509]), ..good.clone() };
    assert_eq!(fixture.account(&endless), Err(Refusal::Incomplete));
    let short_hash = Said { name: None, hash: Some(vec![0; 31]), ..good.clone() };
    assert_eq!(fixture.account(&short_hash), Err(Refusal::Incomplete));
    let unsigned = Said { signed: Vec::new(), ..good };
    assert_eq!(fixture.account(&unsigned), Err(Refusal::Unauthenticated));

    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
        .attribute(AttributeType::USERNAME, b"alice")
        .integrity(&IntegrityKey::short_term("x"))
        .finish()
        .unwrap();
    let refused = fixture.authenticator.clone().authenticate(
        at(fixture.start),
        ends(),
        &Message::parse(&bytes).unwrap(),
        None,
    );
    assert_eq!(refused.err(), Some(Refusal::Incomplete));
}

#[test]
fn a_token_needs_its_password_and_its_signature() {
    let key = b"a secret of thirty-two bytes....";
    let jwt = |secret: &str| JwtConfig {
        keys: vec![JwtKey::new("a".into(), JwtAlgorithm::Hs256, key).unwrap()],
        secrets: ["old", secret].iter().filter_map(|secret| JwtSecret::new(secret)).collect(),
        audience: None,
    };
    let fixture = Fixture::with(RealmConfig { jwt: Some(jwt("new")), ..RealmConfig::default() });
    let limits = Some(Limits { peers: std::num::NonZeroU32::new(3), ..Limits::default() });
    let exp = 2_000_000_000;
    let claims = Claims { sub: "alice".into(), exp, nbf: None, aud: None, realm: None, limits };
    let token = jwt::mint("a", JwtAlgorithm::Hs256, key, &claims).unwrap();
    for secret in ["old", "new"] {
        let password = JwtSecret::new(secret).unwrap().password(&token);
        for said in [Said::classic, Said::modern] {
            let credential = fixture.check(&said(&fixture, &token, &password)).unwrap().credential;
            assert_eq!((&*credential.user.name, &*credential.user.account), (&*token, "alice"));
            assert_eq!(credential.expires_at, Some(UnixTime(exp)));
            assert_eq!(credential.limits.as_deref().copied(), limits);
        }
    }
    let refused = |name: &str, password: &str| fixture.account(&Said::modern(&fixture, name, password)).err();
    let other = JwtSecret::new("other").unwrap().password(&token);
    assert_eq!(refused(&token, &other), Some(Refusal::Unauthenticated));
    assert_eq!(refused(&token, &token), Some(Refusal::Unauthenticated));
    let forged = jwt::mint("a", JwtAlgorithm::Hs256, &[7; 32], &claims).unwrap();
    let password = JwtSecret::new("new").unwrap().password(&forged);
    assert_eq!(
        refused(&forged, &password),
        Some(Refusal::Unauthenticated),
        "who makes passwords cannot sign"
    );
}

#[test]
fn passwords_and_keys_do_not_show_in_debug_output() {
    let fixture = Fixture::new();
    let user = StaticUser { name: "alice".into(), password: "wonder".into() };
    let shown = format!("{user:?} {:?}", fixture.authenticator);
    assert!(!shown.contains("wonder") && !shown.contains("north"), "{shown}");
}

/// What somebody between server and client may do to the challenge.
#[derive(Debug, Clone)]
enum Meddling {
    StripAlgorithms,
    ReplaceAlgorithms(Vec<u8>),
    ClearFeatures,
    ReplaceFeatures([u8; 4]),
    StripCookie,
}

fn meddling() -> impl Strategy<Value = Meddling> {
    let entries = proptest::collection::vec(
        prop_oneof![Just([0, 1, 0, 0]), Just([0, 2, 0, 0]), any::<[u8; 4]>()],
        0..4,
    );
    prop_oneof![
        Just(Meddling::StripAlgorithms),
        entries.prop_map(|entries| Meddling::ReplaceAlgorithms(entries.concat())),
        Just(Meddling::ClearFeatures),
        "[A-Za-z0-9+/]{4}".prop_map(|text| Meddling::ReplaceFeatures(text.into_bytes().try_into().unwrap())),
        Just(Meddling::StripCookie),
    ]
}

/// A client of RFC 8489 that believes a challenge, section 9.2.5: what it answers, or that it goes no further.
fn believe(fixture: &Fixture, nonce: Vec<u8>, offered: Option<Vec<u8>>) -> Option<Said> {
    let bits: Option<u8> = nonce.strip_prefix(b"obMatJos2").and_then(|rest| rest.get(3)).copied();
    let has_bit = bits.is_some_and(|bits| [b'B', b'D'].contains(&bits));
    let entries = |value: &[u8]| value.chunks(4).filter_map(PasswordAlgorithm::parse).next();
    match (has_bit, &offered) {
        (true, None) => None,
        (_, Some(value)) => {
            let chosen = entries(value)?;
            let key = IntegrityKey::long_term(chosen, "alice", REALM, "wonder");
            let signed = vec![Integrity::Sha256];
            let chosen = Some(chosen.to_value().to_vec());
            Some(Said { nonce, chosen, offered, key, signed, ..Said::modern(fixture, "alice", "wonder") })
        }
        (false, None) => Some(Said { nonce, ..Said::classic(fixture, "alice", "wonder") }),
    }
}

proptest! {
    #[test]
    fn a_challenge_that_was_changed_on_the_way_gets_nobody_in(meddlings in proptest::collection::vec(meddling(), 1..4)) {
        let fixture = Fixture::new();
        let sent = fixture.nonce().as_bytes().to_vec();
        let (mut nonce, mut offered) = (sent.clone(), Some(PASSWORD_ALGORITHMS.to_vec()));
        for meddling in meddlings {
            match meddling {
                Meddling::StripAlgorithms => offered = None,
                Meddling::ReplaceAlgorithms(value) => offered = Some(value),
                Meddling::ClearFeatures if nonce.len() == sent.len() => nonce[9..13].copy_from_slice(b"AAAA"),
                Meddling::ReplaceFeatures(bits) if nonce.len() == sent.len() => nonce[9..13].copy_from_slice(&bits),
                Meddling::StripCookie if nonce.len() == sent.len() => nonce = nonce.split_off(13),
                Meddling::ClearFeatures | Meddling::ReplaceFeatures(_) | Meddling::StripCookie => {}
            }
        }
        let is_changed = nonce != sent || offered.as_deref() != Some(&PASSWORD_ALGORITHMS[..]);
        let came_in = believe(&fixture, nonce, offered).map(|said| fixture.check(&said));
        let is_in = came_in.as_ref().is_some_and(Result::is_ok);
        prop_assert_eq!(is_in, !is_changed, "{:?}", came_in);
    }
}

#[test]
fn a_request_that_was_changed_on_the_way_does_not_get_in() {
    let fixture = Fixture::new();
    let good = Said::modern(&fixture, "alice", "wonder");
    assert!(fixture.check(&good).is_ok());
    let md5 = PasswordAlgorithm::Md5.to_value();
    for (said, refusal) in [
        (Said { offered: None, ..good.clone() }, Refusal::Incomplete),
        (Said { chosen: None, ..good.clone() }, Refusal::Incomplete),
        (Said { offered: Some(md5.to_vec()), ..good.clone() }, Refusal::Incomplete),
        (Said { chosen: Some(vec![0, 3, 0, 0]), ..good.clone() }, Refusal::Incomplete),
        (Said { chosen: Some(md5.to_vec()), ..good.clone() }, Refusal::Unauthenticated),
        (Said { chosen: None, offered: None, ..good.clone() }, Refusal::Unauthenticated),
    ] {
        assert_eq!(fixture.account(&said), Err(refusal));
    }
    let features = SecurityFeatures::USERNAME_ANONYMITY;
    let forged = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(2), fixture.start);
    let forged = forged.make(fixture.start, ends().client, features).as_bytes().to_vec();
    assert_eq!(fixture.account(&Said { nonce: forged, ..good }), Err(Refusal::StaleNonce));
}
