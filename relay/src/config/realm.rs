//! Realms and their credentials: flags for one realm, tables in the file for several.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;
use std::time::Duration;

use farcall_proto::turn_credentials::{AuthSecret, UnixTime};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use super::parse::{self, Mistake, Parser};
use super::raw::{text, texts};
use crate::auth::{
    self, JwtAlgorithm, JwtConfig, JwtKey, JwtSecret, ListenerMatch, OauthConfig, OauthKey, RealmConfig,
};
use crate::webhook::{self, WebhookConfig};

/// One realm as written: the keys of a `[[realm]]` table, and of the command line for the default one.
#[derive(Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct RawRealm {
    #[serde(deserialize_with = "text")]
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "texts")]
    pub(super) listen: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(super) user: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(super) auth_secret: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(super) oauth_key: Option<Vec<String>>,
    #[serde(deserialize_with = "text")]
    pub(super) oauth_server: Option<String>,
    #[serde(deserialize_with = "texts")]
    pub(super) jwt_key: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(super) jwt_secret: Option<Vec<String>>,
    #[serde(deserialize_with = "text")]
    pub(super) jwt_audience: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_token: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_ca: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_timeout: Option<String>,
}

impl RawRealm {
    /// This, and where it says nothing, `table`.
    fn or(self, table: Self) -> Self {
        Self {
            name: self.name.or(table.name),
            listen: self.listen.or(table.listen),
            user: self.user.or(table.user),
            auth_secret: self.auth_secret.or(table.auth_secret),
            oauth_key: self.oauth_key.or(table.oauth_key),
            oauth_server: self.oauth_server.or(table.oauth_server),
            jwt_key: self.jwt_key.or(table.jwt_key),
            jwt_secret: self.jwt_secret.or(table.jwt_secret),
            jwt_audience: self.jwt_audience.or(table.jwt_audience),
            auth_webhook: self.auth_webhook.or(table.auth_webhook),
            auth_webhook_token: self.auth_webhook_token.or(table.auth_webhook_token),
            auth_webhook_ca: self.auth_webhook_ca.or(table.auth_webhook_ca),
            auth_webhook_timeout: self.auth_webhook_timeout.or(table.auth_webhook_timeout),
        }
    }

    fn read(self, parser: &mut Parser, prefix: &str) -> RealmConfig {
        let key = |name: &str| format!("{prefix}{name}");
        let name_key = if prefix.is_empty() { "realm".to_owned() } else { key("name") };
        let name = parser.one(&name_key, self.name, parse::realm).unwrap_or_else(|| "farcall".into());
        let users = parser.list(&key("user"), self.user, parse::user);
        let mut names: Vec<_> = users.iter().map(|user| &user.name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair.first() == pair.get(1)).and_then(|pair| pair.first());
        if let Some(name) = twice {
            parser.mistake(&key("user"), format_args!("{name:?} has more than one password"));
        }
        let secrets = parser.list(&key("auth-secret"), self.auth_secret, |text| Ok(AuthSecret::new(text)?));
        let keys = parser.list(&key("oauth-key"), self.oauth_key, oauth_key);
        let server_name = parser.one(&key("oauth-server"), self.oauth_server, parse::realm);
        if keys.is_empty() && server_name.is_some() {
            parser.mistake(&key("oauth-server"), "says nothing without an oauth-key");
        }
        let server_name = server_name.unwrap_or_else(|| name.clone());
        let oauth = (!keys.is_empty()).then_some(OauthConfig { server_name, keys });
        let jwt = JwtConfig {
            keys: parser.list(&key("jwt-key"), self.jwt_key, jwt_key),
            secrets: parser.list(&key("jwt-secret"), self.jwt_secret, |text| {
                JwtSecret::new(text).ok_or_else(|| "a secret is not empty".into())
            }),
            audience: self.jwt_audience,
        };
        let jwt = match (jwt.keys.is_empty(), jwt.secrets.is_empty()) {
            (true, true) => None,
            (false, false) => Some(jwt),
            (true, false) => {
                parser.mistake(&key("jwt-secret"), "says nothing without a jwt-key");
                None
            }
            (false, true) => {
                parser.mistake(
                    &key("jwt-key"),
                    "lets nobody in without a jwt-secret, with which passwords are made",
                );
                None
            }
        };
        let url = parser.one(&key("auth-webhook"), self.auth_webhook, parse::webhook_url);
        let authorities = parser.one(&key("auth-webhook-ca"), self.auth_webhook_ca, authorities);
        let timeout = parser.one(&key("auth-webhook-timeout"), self.auth_webhook_timeout, parse::from_str);
        let timeout = timeout.map_or(3, NonZeroU8::get);
        let webhook = url.map(|url| WebhookConfig {
            url,
            token: self.auth_webhook_token,
            authorities,
            timeout: Duration::from_secs(timeout.into()),
        });
        let listeners = parser.list(&key("listen"), self.listen, listener_match);
        RealmConfig { name, listeners, users, secrets, oauth, jwt, webhook }
    }
}

/// The name of the default realm, tables of any number of realms, or both.
#[derive(Clone, Default)]
pub(super) struct RawRealms {
    name: Option<String>,
    tables: Vec<RawRealm>,
}

impl RawRealms {
    /// What a flag says, and what the file says besides.
    pub(super) fn or(flag: Option<Self>, file: Option<Self>) -> Option<Self> {
        let Some(flag) = flag else { return file };
        let file = file.unwrap_or_default();
        let tables = if flag.tables.is_empty() { file.tables } else { flag.tables };
        Some(Self { name: flag.name.or(file.name), tables })
    }
}

/// Who clients are. The default realm is what the flags and keys outside of tables say, and the one table that is for
/// no listener in particular.
pub(super) fn read(parser: &mut Parser, realms: Option<RawRealms>, flags: RawRealm) -> auth::Config {
    let RawRealms { name, tables } = realms.unwrap_or_default();
    let (others, mut defaults): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|table| table.listen.is_some());
    if defaults.len() > 1 {
        parser.mistake("realm", "more than one table without `listen`, and only one realm is the default");
    }
    let flags = RawRealm { name, ..flags };
    let default_realm = flags.or(defaults.pop().unwrap_or_default()).read(parser, "");
    let other_realms = others
        .into_iter()
        .map(|table| {
            if table.name.is_none() {
                parser.mistake("realm", "a table without a `name`");
            }
            let prefix = format!("realm.{}.", table.name.as_deref().unwrap_or_default());
            table.read(parser, &prefix)
        })
        .collect();
    auth::Config { default_realm, other_realms }
}

/// `KID:BASE64`, and from when until when it is good: `KID:BASE64:FROM-UNTIL` in Unix seconds, either of them empty.
pub fn oauth_key(text: &str) -> Result<OauthKey, Mistake> {
    const SHAPE: &str = "an OAuth key is KID:BASE64 or KID:BASE64:FROM-UNTIL";
    let (kid, rest) = text.split_once(':').filter(|(kid, _)| !kid.is_empty()).ok_or(SHAPE)?;
    let (key, times) = rest.split_once(':').unwrap_or((rest, "-"));
    let key = parse::base64(key)?;
    let (from, until) = times.split_once('-').ok_or(SHAPE)?;
    let time = |text: &str| -> Result<Option<UnixTime>, Mistake> {
        if text.is_empty() { Ok(None) } else { Ok(Some(UnixTime(text.parse()?))) }
    };
    let mut key = OauthKey::new(kid.to_owned(), &key)?;
    (key.from, key.until) = (time(from)?, time(until)?);
    Ok(key)
}

/// `KID:ALGORITHM:KEY`: a secret in base64, a public key as the base64 between the lines of its PEM, or any of them as
/// `@FILE`, a PEM as it is.
fn jwt_key(text: &str) -> Result<JwtKey, Mistake> {
    let (kid, algorithm, key) = jwt_key_parts(text)?;
    Ok(JwtKey::new(kid, algorithm, &key)?)
}

/// The parts of it, of which the key may be one to sign with.
pub fn jwt_key_parts(text: &str) -> Result<(String, JwtAlgorithm, Vec<u8>), Mistake> {
    const SHAPE: &str = "a JWT key is KID:ALGORITHM:KEY or KID:ALGORITHM:@FILE";
    let (kid, rest) = text.split_once(':').filter(|(kid, _)| !kid.is_empty()).ok_or(SHAPE)?;
    let (algorithm, key) = rest.split_once(':').ok_or(SHAPE)?;
    let algorithm = parse::jwt_algorithm(algorithm)?;
    let key = match (key.strip_prefix('@'), algorithm) {
        (Some(file), JwtAlgorithm::Es256 | JwtAlgorithm::EdDsa) => std::fs::read(file)?,
        (Some(file), JwtAlgorithm::Hs256) => parse::base64(std::fs::read_to_string(file)?.trim())?,
        (None, JwtAlgorithm::Hs256) => parse::base64(key)?,
        (None, JwtAlgorithm::Es256 | JwtAlgorithm::EdDsa) => {
            format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n").into_bytes()
        }
    };
    Ok((kid.to_owned(), algorithm, key))
}

/// A file of certificates in PEM.
fn authorities(path: &str) -> Result<Vec<u8>, Mistake> {
    let pem = std::fs::read(path)?;
    if webhook::certificates(&pem).next().is_some() { Ok(pem) } else { Err("no certificates in PEM".into()) }
}

/// `IP`, `IP:PORT` or `:PORT`.
fn listener_match(text: &str) -> Result<ListenerMatch, Mistake> {
    if let Some(port) = text.strip_prefix(':') {
        return Ok(ListenerMatch { ip: None, port: Some(port.parse()?) });
    }
    if let Ok(ip) = text.parse() {
        return Ok(ListenerMatch { ip: Some(ip), port: None });
    }
    let address: std::net::SocketAddr =
        text.parse().map_err(|_| "a realm's listener is IP, IP:PORT or :PORT")?;
    Ok(ListenerMatch { ip: Some(address.ip()), port: Some(address.port()) })
}

impl FromStr for RawRealms {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(Self { name: Some(name.to_owned()), tables: Vec::new() })
    }
}

impl<'de> Deserialize<'de> for RawRealms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RealmsVisitor)
    }
}

struct RealmsVisitor;

impl<'de> Visitor<'de> for RealmsVisitor {
    type Value = RawRealms;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or tables")
    }

    fn visit_str<E>(self, name: &str) -> Result<RawRealms, E> {
        Ok(RawRealms { name: Some(name.to_owned()), tables: Vec::new() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawRealms, A::Error> {
        let mut tables = Vec::new();
        while let Some(table) = list.next_element()? {
            tables.push(table);
        }
        Ok(RawRealms { name: None, tables })
    }
}
