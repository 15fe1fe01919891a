//! Who a request is from, in the order of RFC 8489, section 9.2.4, but for one thing: the nonce comes before the name.
//! Whoever has not shown that it is where it says it is learns nothing of names and passwords, and costs no look-up.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use farcall_proto::turn_credentials::UnixTime;

use super::jwt::{Claims, JwtConfig};
use super::lookup::{Answer, Answers, Found, Query};
use super::nonce::{Nonce, NonceKey};
use super::opaque_string;
use super::realm::{Realm, RealmConfig};
use super::user::{Credential, KeySource, User, UserHash};
use crate::stun::password_algorithm::PASSWORD_ALGORITHMS;
use crate::stun::{AttributeType, Integrity, IntegrityKey, Message, PasswordAlgorithm};
use crate::turn::Now;
use crate::webhook::WebhookConfig;

/// What the operator wrote about credentials.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The realm of every listener that no other is for.
    pub default_realm: RealmConfig,
    /// Realms of listeners of their own.
    pub other_realms: Vec<RealmConfig>,
}

impl Config {
    /// Whom to ask about the users of which realm.
    pub fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookConfig)> {
        let realms = self.other_realms.iter().chain([&self.default_realm]);
        realms.filter_map(|realm| Some((realm.name.as_str(), realm.webhook.as_ref()?)))
    }

    /// Whether there is any credential that would be good.
    #[must_use]
    pub fn knows_anybody(&self) -> bool {
        self.other_realms.iter().chain([&self.default_realm]).any(RealmConfig::knows_anybody)
    }
}

/// Between whom a request passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who asks.
    pub client: SocketAddr,
    /// The listener.
    pub server: SocketAddr,
}

/// What a stranger is told to come back with.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// Where a password counts.
    pub realm: &'a str,
    /// To be sent back.
    pub nonce: Nonce,
    /// For whom whoever gives tokens out should make one, if tokens are good here.
    pub third_party: Option<&'a str>,
}

/// A request whose sender is known.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// Whose it is.
    pub credential: Credential,
    /// Which integrity proves it; the answer has the same.
    pub integrity: Integrity,
}

/// Why a request is not from whom it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no integrity, the user is unknown, or the password another: 401, with a challenge.
    Unauthenticated,
    /// There is integrity but not what it needs, or not the choice of password algorithms that was offered: 400.
    Incomplete,
    /// The nonce is not one of ours, not for this client, or too old: 438, with a challenge.
    StaleNonce,
    /// Somebody else has to say whether there is such a user, and has not been asked: no answer yet.
    NotYetKnown,
    /// Somebody else was asked and could not say: 500.
    Unavailable,
}

/// Checks who a request is from. Clones share the realms, and each remembers for itself.
#[derive(Debug, Clone)]
pub struct Authenticator {
    /// Tokens whose signature was found good.
    verified: Verified,
    /// What others said of users.
    answers: Answers,
    /// Of every listener that no other is for.
    default_realm: Arc<Realm>,
    other_realms: Arc<[Realm]>,
    nonces: NonceKey,
}

impl Authenticator {
    /// Prepares keys once.
    #[must_use]
    pub fn new(config: Config, nonces: NonceKey) -> Self {
        let Config { default_realm, other_realms } = config;
        let other_realms = other_realms.into_iter().map(Realm::new).collect();
        let default_realm = Arc::new(Realm::new(default_realm));
        let (verified, answers) = (Verified::default(), Answers::default());
        Self { verified, answers, default_realm, other_realms, nonces }
    }

    /// What to ask of whoever came this way.
    #[must_use]
    pub fn challenge(&self, now: Instant, ends: Ends) -> Challenge<'_> {
        let realm = realm_at(&self.default_realm, &self.other_realms, ends.server);
        Challenge {
            realm: &realm.name,
            nonce: self.nonces.make(now, ends.client, realm.features()),
            third_party: realm.oauth.as_ref().map(|oauth| &*oauth.server_name),
        }
    }

    /// Finds out who `message` is from. `known` is the credential of the flow's allocation: it goes on being good
    /// however its password was made and whether or not it has expired since; a token's key is good as long as the
    /// token.
    pub fn authenticate(
        &mut self,
        now: Now,
        ends: Ends,
        message: &Message<'_>,
        known: Option<&Credential>,
    ) -> Result<Authenticated, Refusal> {
        let integrity = message.integrity().ok_or(Refusal::Unauthenticated)?;
        let realm = message.find_text(AttributeType::REALM).ok_or(Refusal::Incomplete)?;
        let nonce = message.find(AttributeType::NONCE).ok_or(Refusal::Incomplete)?;
        let identity = Identity::of(message).ok_or(Refusal::Incomplete)?;
        if !self.nonces.check(now.instant, ends.client, nonce) {
            return Err(Refusal::StaleNonce);
        }
        let algorithm = chosen_algorithm(message).ok_or(Refusal::Incomplete)?;
        let ours = realm_at(&self.default_realm, &self.other_realms, ends.server);
        if *ours.name != *realm {
            return Err(Refusal::Unauthenticated);
        }
        if let Some(token) = message.find(AttributeType::ACCESS_TOKEN) {
            let Identity::Name(kid) = identity else { return Err(Refusal::Incomplete) };
            let oauth = ours.oauth.as_ref().ok_or(Refusal::Unauthenticated)?;
            let credential = oauth.credential(now.unix, kid, token, message, integrity);
            let credential = credential.ok_or(Refusal::Unauthenticated)?;
            return Ok(Authenticated { credential, integrity });
        }
        let is_good = |key: &IntegrityKey| message.verify(integrity, key);
        let prepared;
        let name = match identity {
            Identity::Name(name) => {
                prepared = prepare(name).ok_or(Refusal::Unauthenticated)?;
                Some(&*prepared)
            }
            Identity::Hash(hash) => ours.named_by(&hash),
        };
        let is_known = |known: &&Credential| {
            let is_named = match identity {
                Identity::Name(_) => name == Some(&*known.user.name),
                Identity::Hash(hash) => hash == UserHash::of(&known.user.name, &ours.name),
            };
            is_named
                && match known.source {
                    KeySource::Password(with) => with == algorithm,
                    KeySource::Token => known.bound(now.unix).is_some_and(|left| !left.is_zero()),
                }
        };
        let known = known.filter(is_known).cloned();
        let credential = known
            .into_iter()
            .chain(name.into_iter().flat_map(|name| ours.credentials(name, algorithm)))
            .find(|credential| is_good(&credential.key))
            .or_else(|| self.verified.credential(now.unix, ours, name?, algorithm, is_good));
        if let Some(credential) = credential {
            return Ok(Authenticated { credential, integrity });
        }
        let name = name.filter(|name| ours.must_ask_about(name)).ok_or(Refusal::Unauthenticated)?;
        match self.answers.find(now.instant, &query(ours, name, ends), algorithm) {
            Found::Credential(Some(credential)) if is_good(&credential.key) => {
                Ok(Authenticated { credential, integrity })
            }
            Found::Credential(_) => Err(Refusal::Unauthenticated),
            Found::Failed => Err(Refusal::Unavailable),
            Found::Nothing => Err(Refusal::NotYetKnown),
        }
    }

    /// What a listener's clients authenticate for.
    #[must_use]
    pub fn realm_name(&self, listener: SocketAddr) -> &str {
        &realm_at(&self.default_realm, &self.other_realms, listener).name
    }

    /// What to ask about the sender of a request that is `NotYetKnown`.
    #[must_use]
    pub fn query(&self, ends: Ends, message: &Message<'_>) -> Option<Query> {
        let Identity::Name(name) = Identity::of(message)? else { return None };
        let ours = realm_at(&self.default_realm, &self.other_realms, ends.server);
        Some(query(ours, &prepare(name)?, ends))
    }

    /// Remembers what somebody else said.
    pub fn learn(&mut self, now: Instant, query: Query, answer: Answer) {
        self.answers.learn(now, query, answer);
    }
}

/// A name as it stands in keys.
fn prepare(name: &str) -> Option<Cow<'_, str>> {
    if name.is_ascii() { Some(name.into()) } else { opaque_string::prepare(name).ok().map(Cow::Owned) }
}

fn query(realm: &Realm, name: &str, ends: Ends) -> Query {
    Query { realm: (*realm.name).into(), name: name.into(), client: ends.client.ip() }
}

fn realm_at<'a>(default: &'a Realm, others: &'a [Realm], listener: SocketAddr) -> &'a Realm {
    others.iter().find(|realm| realm.is_at(listener)).unwrap_or(default)
}

/// What tokens say that were verified, since a signature costs more than all else about a request. Bounded: what is
/// forgotten is verified again.
#[derive(Debug, Clone, Default)]
struct Verified(HashMap<(Box<str>, Box<str>), Claims>);

impl Verified {
    fn claims(&mut self, now: UnixTime, realm: &Realm, jwt: &JwtConfig, token: &str) -> Option<Claims> {
        let key = (realm.name.clone(), token.into());
        if let Some(claims) = self.0.get(&key) {
            return Some(claims.clone());
        }
        let claims = jwt.verify(now, &realm.name, token)?;
        if self.0.len() >= MAX_VERIFIED {
            self.0.clear();
        }
        self.0.insert(key, claims.clone());
        Some(claims)
    }

    /// Whose a name is that is a token. The password comes first: without it nobody gets a signature checked.
    fn credential(
        &mut self,
        now: UnixTime,
        realm: &Realm,
        token: &str,
        algorithm: PasswordAlgorithm,
        is_good: impl Fn(&IntegrityKey) -> bool,
    ) -> Option<Credential> {
        let jwt = realm.jwt.as_ref().filter(|_| JwtConfig::may_be(token))?;
        let passwords = jwt.secrets.iter().map(|secret| secret.password(token));
        let mut keys =
            passwords.map(|password| IntegrityKey::long_term(algorithm, token, &realm.name, &password));
        let key = keys.find(is_good)?;
        let claims = self.claims(now, realm, jwt, token)?;
        Some(Credential {
            user: User { name: token.into(), account: claims.sub.into() },
            key,
            source: KeySource::Password(algorithm),
            expires_at: Some(UnixTime(claims.exp)),
            limits: claims.limits.map(Box::new),
        })
    }
}

/// Whom a request says it is from.
#[derive(Debug, Clone, Copy)]
enum Identity<'a> {
    Name(&'a str),
    Hash(UserHash),
}

impl<'a> Identity<'a> {
    fn of(message: &Message<'a>) -> Option<Self> {
        match message.find(AttributeType::USERNAME) {
            Some(name) if name.len() <= MAX_USERNAME_BYTES => str::from_utf8(name).ok().map(Self::Name),
            Some(_) => None,
            None => UserHash::parse(message.find(AttributeType::USERHASH)?).map(Self::Hash),
        }
    }
}

/// Whoever says nothing uses MD5, like every client before RFC 8489. Whoever chooses repeats what it had the choice
/// of: if that is not what we offered, somebody on the way has changed it, and there is no going on.
fn chosen_algorithm(message: &Message<'_>) -> Option<PasswordAlgorithm> {
    let offered = message.find(AttributeType::PASSWORD_ALGORITHMS);
    let chosen = message.find(AttributeType::PASSWORD_ALGORITHM);
    match (offered, chosen) {
        (None, None) => Some(PasswordAlgorithm::Md5),
        (Some(offered), Some(chosen)) if offered == PASSWORD_ALGORITHMS => PasswordAlgorithm::parse(chosen),
        (Some(_), _) | (_, Some(_)) => None,
    }
}

/// RFC 8489, section 14.3.
const MAX_USERNAME_BYTES: usize = 508;
/// A few megabytes.
const MAX_VERIFIED: usize = 4096;

#[cfg(test)]
mod tests;
