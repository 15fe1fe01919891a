//! A realm: its users, its secrets, and at which listeners its name is in the challenge.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use farcall_proto::turn_credentials::{AuthSecret, EphemeralUsername};

use super::access_token::OauthConfig;
use super::jwt::JwtConfig;
use super::nonce::SecurityFeatures;
use super::user::{Credential, KeySource, StaticUser, User, UserHash};
use crate::stun::{IntegrityKey, PasswordAlgorithm};
use crate::webhook::WebhookConfig;

/// What the operator wrote about one realm.
#[derive(Debug, Clone, Default)]
pub struct RealmConfig {
    /// What clients are told to authenticate for.
    pub name: String,
    /// The listeners it belongs to; of none, where no other realm does.
    pub listeners: Vec<ListenerMatch>,
    /// Static users.
    pub users: Vec<StaticUser>,
    /// Secrets under which ephemeral credentials are good; several, so that one can be replaced by another.
    pub secrets: Vec<AuthSecret>,
    /// Access tokens, if there are any.
    pub oauth: Option<OauthConfig>,
    /// Names that are JSON Web Tokens, if there are any.
    pub jwt: Option<JwtConfig>,
    /// Who knows users that are not known here, if anybody does.
    pub webhook: Option<WebhookConfig>,
}

impl RealmConfig {
    /// Whether there is any credential that would be good.
    #[must_use]
    pub fn knows_anybody(&self) -> bool {
        !self.users.is_empty()
            || !self.secrets.is_empty()
            || self.oauth.is_some()
            || self.jwt.is_some()
            || self.webhook.is_some()
    }
}

/// Listeners by address, by port, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerMatch {
    /// Only this address.
    pub ip: Option<IpAddr>,
    /// Only this port.
    pub port: Option<u16>,
}

impl ListenerMatch {
    fn matches(&self, listener: SocketAddr) -> bool {
        self.ip.is_none_or(|ip| ip == listener.ip()) && self.port.is_none_or(|port| port == listener.port())
    }
}

/// A realm with its keys made, so that a request costs one HMAC.
#[derive(Debug)]
pub(super) struct Realm {
    pub(super) name: Box<str>,
    listeners: Vec<ListenerMatch>,
    users: HashMap<Arc<str>, StaticKeys>,
    by_hash: HashMap<UserHash, Arc<str>>,
    secrets: Vec<AuthSecret>,
    pub(super) oauth: Option<OauthConfig>,
    pub(super) jwt: Option<JwtConfig>,
    has_webhook: bool,
}

#[derive(Debug)]
struct StaticKeys {
    user: User,
    md5: IntegrityKey,
    sha256: IntegrityKey,
}

impl Realm {
    pub(super) fn new(config: RealmConfig) -> Self {
        let RealmConfig { name: realm, listeners, users, secrets, oauth, jwt, webhook } = config;
        let users: HashMap<_, _> = users
            .into_iter()
            .map(|StaticUser { name, password }| {
                let key = |algorithm| IntegrityKey::long_term(algorithm, &name, &realm, &password);
                let user = User::named(&name);
                let (md5, sha256) = (key(PasswordAlgorithm::Md5), key(PasswordAlgorithm::Sha256));
                (Arc::clone(&user.name), StaticKeys { user, md5, sha256 })
            })
            .collect();
        let by_hash = users.values().map(|keys| &keys.user.name);
        let by_hash = by_hash.map(|name| (UserHash::of(name, &realm), Arc::clone(name))).collect();
        Self {
            name: realm.into(),
            listeners,
            users,
            by_hash,
            secrets,
            oauth,
            jwt,
            has_webhook: webhook.is_some(),
        }
    }

    /// Whether it belongs to this listener. One without listeners belongs to none in particular.
    pub(super) fn is_at(&self, listener: SocketAddr) -> bool {
        self.listeners.iter().any(|wanted| wanted.matches(listener))
    }

    /// A hash can only stand for a name that is on a list. Where users have names that are made on the spot they
    /// are not told that they may hide them, for they would then be strangers.
    pub(super) fn features(&self) -> SecurityFeatures {
        if self.secrets.is_empty() && self.oauth.is_none() && self.jwt.is_none() && !self.has_webhook {
            SecurityFeatures::USERNAME_ANONYMITY
        } else {
            SecurityFeatures::PASSWORD_ALGORITHMS
        }
    }

    /// The static user whom a hash stands for.
    pub(super) fn named_by(&self, hash: &UserHash) -> Option<&str> {
        self.by_hash.get(hash).map(|name| &**name)
    }

    /// Whether it takes somebody else to know this user.
    pub(super) fn must_ask_about(&self, name: &str) -> bool {
        self.has_webhook && !self.users.contains_key(name)
    }

    /// Every credential that this name could come with.
    pub(super) fn credentials<'a>(
        &'a self,
        name: &'a str,
        algorithm: PasswordAlgorithm,
    ) -> impl Iterator<Item = Credential> + use<'a> {
        self.of_user(name, algorithm).into_iter().chain(self.ephemeral(name, algorithm))
    }

    fn of_user(&self, name: &str, algorithm: PasswordAlgorithm) -> Option<Credential> {
        let StaticKeys { user, md5, sha256 } = self.users.get(name)?;
        let key = match algorithm {
            PasswordAlgorithm::Md5 => md5,
            PasswordAlgorithm::Sha256 => sha256,
        };
        Some(Credential {
            user: user.clone(),
            key: key.clone(),
            source: KeySource::Password(algorithm),
            expires_at: None,
            limits: None,
        })
    }

    /// What the credential would be under each secret.
    fn ephemeral<'a>(
        &'a self,
        name: &'a str,
        algorithm: PasswordAlgorithm,
    ) -> impl Iterator<Item = Credential> + use<'a> {
        let parsed = EphemeralUsername::parse(name).ok();
        parsed.into_iter().flat_map(move |EphemeralUsername { expires_at, session }| {
            self.secrets.iter().map(move |secret| {
                let key = IntegrityKey::long_term(algorithm, name, &self.name, &secret.password(name));
                let account = if session.is_empty() { name } else { session };
                let user = User { name: name.into(), account: account.into() };
                Credential {
                    user,
                    key,
                    source: KeySource::Password(algorithm),
                    expires_at: Some(expires_at),
                    limits: None,
                }
            })
        })
    }
}
