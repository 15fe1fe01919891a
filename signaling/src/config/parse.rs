//! Reads settings one by one and remembers every mistake.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use farcall_proto::turn_credentials::AuthSecret;
use http::Uri;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::{Backplane, LogFormat, Mistakes, Text};
use crate::backplane::redis::{Address, Certificates};
use crate::limits::TrustedProxies;
use crate::server::{CertificateFiles, Cleartext, Clients, Entry, Files, Tls};
use crate::traces;
use crate::web::Origins;

/// A setting and what is wrong with it. Never holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting, or the file.
    pub key: String,
    /// What is wrong.
    pub rule: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.rule)
    }
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    mistakes: Vec<Mistake>,
}

/// What says how strangers are let in.
pub(super) struct EntranceKeys {
    pub(super) certificates: Option<Vec<Text>>,
    pub(super) keys: Option<Vec<Text>>,
    pub(super) client_ca: Option<Text>,
    pub(super) client_auth: Option<Text>,
    pub(super) cleartext: Option<Text>,
    pub(super) proxies: Option<Vec<Text>>,
}

pub(super) fn texts(texts: Option<Vec<Text>>) -> Vec<String> {
    texts.unwrap_or_default().into_iter().map(|Text(text)| text).collect()
}

/// Which kind of ICE server a URI must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Stun,
    Turn,
}

impl Reader {
    pub(super) fn done<T>(self, config: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }

    pub(super) fn mistake(&mut self, key: &str, rule: impl Into<String>) {
        self.mistakes.push(Mistake { key: key.into(), rule: rule.into() });
    }

    pub(super) fn address(&mut self, key: &str, text: Option<Text>) -> Option<SocketAddr> {
        let Text(text) = text?;
        let address = text.parse().ok();
        if address.is_none() {
            self.mistake(
                key,
                format!("`{text}` is no address with a port, such as 0.0.0.0:8080 or [::]:8080"),
            );
        }
        address
    }

    pub(super) fn number<N>(
        &mut self,
        key: &str,
        text: Option<Text>,
        allowed: RangeInclusive<N>,
        default: N,
    ) -> N
    where
        N: FromStr + PartialOrd + fmt::Display,
    {
        let Some(Text(text)) = text else { return default };
        match text.parse() {
            Ok(number) if allowed.contains(&number) => return number,
            Ok(_) => {
                let (min, max) = (allowed.start(), allowed.end());
                self.mistake(key, format!("`{text}` is not within {min} to {max}"));
            }
            Err(_) => self.mistake(key, format!("`{text}` is no number that fits here")),
        }
        default
    }

    pub(super) fn duration(&mut self, key: &str, text: Option<Text>, default: Duration) -> Duration {
        let Some(Text(text)) = text else { return default };
        match duration(&text) {
            Some(duration) if !duration.is_zero() && duration <= MAX_DURATION => return duration,
            Some(_) => self.mistake(key, format!("`{text}` is not within 1ms to 30d")),
            None => self.mistake(key, format!("`{text}` is no duration, such as 500ms, 120s, 10m or 1h")),
        }
        default
    }

    pub(super) fn uris(&mut self, key: &str, texts: Option<Vec<Text>>, scheme: Scheme) -> Vec<String> {
        let texts = texts.unwrap_or_default();
        for Text(text) in &texts {
            if let Err(rule) = scheme.check(text) {
                self.mistake(key, format!("`{text}` {rule}"));
            }
        }
        texts.into_iter().map(|Text(text)| text).collect()
    }

    pub(super) fn secret(&mut self, key: &str, text: Option<Text>) -> Option<AuthSecret> {
        let secret = AuthSecret::new(text?.0);
        if let Err(error) = &secret {
            self.mistake(key, error.to_string());
        }
        secret.ok()
    }

    pub(super) fn tokens(&mut self, key: &str, texts: Option<Vec<Text>>) -> Vec<String> {
        let texts = texts.unwrap_or_default();
        if texts.iter().any(|Text(text)| text.is_empty() || text.contains(char::is_whitespace)) {
            self.mistake(key, "one is empty or holds white space, which no client could send");
        }
        texts.into_iter().map(|Text(text)| text).collect()
    }

    /// At most so many; none is any number.
    pub(super) fn quota(&mut self, key: &str, text: Option<Text>, default: u32) -> u32 {
        match self.number(key, text, 0..=u32::MAX, default) {
            0 => u32::MAX,
            quota => quota,
        }
    }

    pub(super) fn entrance(&mut self, raw: EntranceKeys) -> Entry {
        let (chains, keys) = (texts(raw.certificates), texts(raw.keys));
        if chains.len() != keys.len() {
            self.mistake("tls-key", format!("{} keys for {} certificates", keys.len(), chains.len()));
        }
        let pairs = chains.into_iter().zip(keys);
        let certificates: Vec<CertificateFiles> =
            pairs.map(|(chain, key)| CertificateFiles { chain: chain.into(), key: key.into() }).collect();
        let must = match raw.client_auth.as_ref().map(|Text(text)| text.as_str()) {
            None | Some("required") => true,
            Some("optional") => false,
            Some(other) => {
                self.mistake("tls-client-auth", format!("`{other}` is neither required nor optional"));
                true
            }
        };
        let clients = match raw.client_ca {
            Some(Text(path)) if must => Clients::Required(path.into()),
            Some(Text(path)) => Clients::Optional(path.into()),
            None => Clients::Anybody,
        };
        if clients != Clients::Anybody && certificates.is_empty() {
            self.mistake("tls-client-ca", "needs tls-cert: there is no TLS without a certificate");
        }
        let by_default = match (certificates.is_empty(), &clients) {
            (true, _) => Cleartext::Everybody,
            (false, Clients::Required(_)) => Cleartext::Nobody,
            (false, Clients::Anybody | Clients::Optional(_)) => Cleartext::Loopback,
        };
        let cleartext = match raw.cleartext.as_ref().map(|Text(text)| text.as_str()) {
            None => by_default,
            Some("all") => Cleartext::Everybody,
            Some("loopback") => Cleartext::Loopback,
            Some("none") => Cleartext::Nobody,
            Some(other) => {
                self.mistake("cleartext", format!("`{other}` is neither all, loopback nor none"));
                by_default
            }
        };
        if cleartext == Cleartext::Nobody && certificates.is_empty() {
            self.mistake("cleartext", "is for nobody, and without tls-cert there is nothing else");
        }
        let tls = if certificates.is_empty() {
            None
        } else {
            match Tls::load(Files { certificates, clients }) {
                Ok(tls) => Some(Arc::new(tls)),
                Err(error) => {
                    self.mistake("tls-cert", error.to_string());
                    None
                }
            }
        };
        let mut networks = Vec::new();
        for text in texts(raw.proxies) {
            let single = || text.parse::<IpAddr>().map(IpNet::from);
            match text.parse::<IpNet>().or_else(|_| single()) {
                Ok(network) => networks.push(network),
                Err(_) => self.mistake("trusted-proxy", format!("`{text}` is no network such as 10.0.0.0/8")),
            }
        }
        Entry { tls, cleartext, proxies: TrustedProxies::new(networks) }
    }

    pub(super) fn folder(&mut self, key: &str, text: Option<Text>) -> Option<PathBuf> {
        let Text(text) = text?;
        let folder = PathBuf::from(&text);
        if !folder.is_dir() {
            self.mistake(key, format!("`{text}` is no folder"));
        }
        Some(folder)
    }

    pub(super) fn origins(&mut self, key: &str, texts: Option<Vec<Text>>) -> Origins {
        let mut origins = Origins::default();
        for Text(text) in texts.unwrap_or_default() {
            if let Err(error) = origins.add(&text) {
                self.mistake(key, format!("`{text}` {error}"));
            }
        }
        origins
    }

    /// Never repeats what was written: it may hold a password.
    pub(super) fn backplane(&mut self, text: Option<Text>, files: [Option<Text>; 3]) -> Backplane {
        let certificates = self.store_certificates(files, text.as_ref());
        let Some(Text(text)) = text else { return Backplane::Memory };
        let shape = "is neither memory nor redis://HOST[:PORT][/DATABASE], rediss://… or redis+unix:///PATH";
        match text.split_once("://").map_or(text.as_str(), |(scheme, _)| scheme) {
            "memory" if text == "memory" => {}
            "redis" | "rediss" | "redis+unix" => match Address::parse(&text) {
                Ok(address) => match certificates.map(|certificates| address.clone().with(certificates)) {
                    None => return Backplane::Redis(address),
                    Some(Ok(address)) => return Backplane::Redis(address),
                    Some(Err(why)) => self.mistake("backplane-ca", why),
                },
                Err(why) => self.mistake("backplane", format!("{shape}: {why}")),
            },
            _ => self.mistake("backplane", shape),
        }
        Backplane::Memory
    }

    fn store_certificates(
        &mut self,
        [ca, cert, key]: [Option<Text>; 3],
        url: Option<&Text>,
    ) -> Option<Certificates> {
        if ca.is_none() && cert.is_none() && key.is_none() {
            return None;
        }
        if !url.is_some_and(|Text(url)| url.starts_with("rediss://")) {
            self.mistake("backplane-ca", "and backplane-cert are for a backplane rediss://…");
            return None;
        }
        let mut read = |name: &str, file: Option<Text>| {
            let Text(path) = file?;
            let content = std::fs::read(&path);
            content.map_err(|error| self.mistake(name, format!("{path}: {error}"))).ok()
        };
        let authorities = read("backplane-ca", ca);
        let own = match (read("backplane-cert", cert), read("backplane-key", key)) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.mistake("backplane-cert", "needs backplane-key, and the other way round");
                None
            }
        };
        Some(Certificates { authorities, own })
    }

    pub(super) fn traces(&mut self, endpoint: Option<Text>, share: Option<Text>) -> Option<traces::Config> {
        let share = self.number("otlp-share", share, 0.0..=1.0, 1.0);
        let Text(endpoint) = endpoint?;
        let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !endpoint.parse().is_ok_and(|uri| is_web(&uri)) {
            // Not repeated: there may be a password in it.
            self.mistake("otlp-endpoint", "is no http://HOST:PORT or https://HOST:PORT");
        }
        Some(traces::Config { endpoint, share })
    }

    pub(super) fn log_filter(&mut self, text: Option<Text>) -> String {
        let Text(text) = text.unwrap_or_else(|| Text("info".into()));
        if let Err(error) = EnvFilter::builder().parse(&text) {
            self.mistake("log", format!("`{text}` is no filter: {error}"));
        }
        text
    }

    pub(super) fn log_format(&mut self, text: Option<Text>) -> LogFormat {
        match text.as_ref().map(|Text(text)| text.as_str()) {
            None | Some("text") => return LogFormat::Text,
            Some("json") => return LogFormat::Json,
            Some(other) => self.mistake("log-format", format!("`{other}` is neither text nor json")),
        }
        LogFormat::Text
    }
}

impl Scheme {
    /// RFC 7064 and RFC 7065: a scheme, a host, perhaps a port, and for TURN perhaps a transport.
    fn check(self, uri: &str) -> Result<(), &'static str> {
        let Some((scheme, rest)) = uri.split_once(':') else { return Err(self.shape()) };
        let address = match (self, scheme) {
            (Self::Stun, "stun" | "stuns") => rest,
            (Self::Turn, "turn" | "turns") => match rest.split_once('?') {
                None => rest,
                Some((address, "transport=udp" | "transport=tcp")) => address,
                Some(_) => return Err("asks for a transport that is neither udp nor tcp"),
            },
            (Self::Stun | Self::Turn, _) => return Err(self.shape()),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|bracketed| bracketed.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) })
            }
            Some(_) => return Err("has no IPv6 address between its brackets"),
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let nameable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(nameable) {
            return Err("has no host");
        }
        match port.map(str::parse::<u16>) {
            None | Some(Ok(1..)) => Ok(()),
            Some(Ok(0) | Err(_)) => Err("has no port within 1 to 65535"),
        }
    }

    fn shape(self) -> &'static str {
        match self {
            Self::Stun => "is no stun:HOST[:PORT] or stuns:HOST[:PORT]",
            Self::Turn => "is no turn:HOST[:PORT][?transport=udp|tcp] or turns:…",
        }
    }
}

/// A whole number and a unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);
