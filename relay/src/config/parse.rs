//! How each value reads, and where mistakes are gathered.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::written::{self, Written};
use super::{AdminListen, ConfigError, ExternalIp, LogFormat};
use crate::admin::AdminToken;
use crate::auth::{JwtAlgorithm, StaticUser, opaque_string};
use crate::io::Plane;
use crate::usage;

/// What is wrong with one value.
pub(super) type Mistake = Box<dyn Error>;

/// Reads values by key and remembers what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Parser {
    pub(super) written: Written,
    mistakes: Vec<String>,
}

impl Parser {
    /// Reads one value, if there is one.
    pub(super) fn one<T>(
        &mut self,
        key: &str,
        text: Option<String>,
        read: impl Fn(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        text.and_then(|text| self.read(key, &text, read))
    }

    /// Reads every value of a list.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        texts: Option<Vec<String>>,
        read: impl Fn(&str) -> Result<T, Mistake>,
    ) -> Vec<T> {
        texts.into_iter().flatten().filter_map(|text| self.read(key, &text, &read)).collect()
    }

    /// Notes a mistake.
    pub(super) fn mistake(&mut self, key: &str, what: impl fmt::Display) {
        self.mistakes.push(format!("{key}: {what}"));
    }

    /// The value, if nothing was wrong with any.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.mistakes.is_empty() { Ok(value) } else { Err(ConfigError(self.mistakes)) }
    }

    fn read<T>(&mut self, key: &str, text: &str, read: impl Fn(&str) -> Result<T, Mistake>) -> Option<T> {
        self.written.note(key, text);
        let is_secret = written::is_secret(key);
        read(text)
            .inspect_err(|error| match is_secret {
                true => self.mistake(key, error),
                false => self.mistake(key, format_args!("{text:?}: {error}")),
            })
            .ok()
    }
}

/// Any bytes, padded or not.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, Mistake> {
    STANDARD_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| "not base64".into())
}

/// What `alg` says.
pub(super) fn jwt_algorithm(text: &str) -> Result<JwtAlgorithm, Mistake> {
    match text {
        "HS256" => Ok(JwtAlgorithm::Hs256),
        "ES256" => Ok(JwtAlgorithm::Es256),
        "EdDSA" => Ok(JwtAlgorithm::EdDsa),
        _ => Err("an algorithm is HS256, ES256 or EdDSA".into()),
    }
}

/// Where a webhook is.
pub(super) fn webhook_url(text: &str) -> Result<String, Mistake> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        Some(_) | None => Err("a webhook is https://… or http://…".into()),
    }
}

/// Whatever the type itself takes.
pub(super) fn from_str<T: FromStr<Err: Error + 'static>>(text: &str) -> Result<T, Mistake> {
    Ok(text.parse()?)
}

/// RFC 8489 bounds it, and it stands in every challenge.
pub(super) fn realm(text: &str) -> Result<String, Mistake> {
    match text.chars().count() {
        0 => Err("a realm is not empty".into()),
        1..128 => Ok(opaque_string::prepare(text)?),
        _ => Err("a realm has fewer than 128 characters".into()),
    }
}

/// The first colon parts name and password.
pub(super) fn user(text: &str) -> Result<StaticUser, Mistake> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() && name.len() < 509 => {
            Ok(StaticUser::prepared(name, password)?)
        }
        _ => Err("a user is NAME:PASSWORD, neither of them empty, the name shorter than 509 bytes".into()),
    }
}

/// An address of one host.
pub(super) fn relay_ip(text: &str) -> Result<IpAddr, Mistake> {
    let ip: IpAddr = text.parse()?;
    if ip.is_unspecified() || ip.is_multicast() { Err("not the address of a host".into()) } else { Ok(ip) }
}

/// An address of one host, or the word for finding it out.
pub(super) fn external_ip(text: &str) -> Result<ExternalIp, Mistake> {
    match text {
        "auto" => Ok(ExternalIp::Auto),
        _ => relay_ip(text).map(ExternalIp::Known),
    }
}

/// An address, or `unix:` and a path.
pub(super) fn admin_listen(text: &str) -> Result<AdminListen, Mistake> {
    match text.strip_prefix("unix:") {
        Some("") => Err("unix: wants a path".into()),
        Some(path) => Ok(AdminListen::Unix(path.into())),
        None => Ok(AdminListen::Tcp(text.parse()?)),
    }
}

/// `HOST:PORT`, by address or by name.
pub(super) fn host_and_port(text: &str) -> Result<String, Mistake> {
    let (host, port) = text.rsplit_once(':').ok_or("a server is HOST:PORT")?;
    let port: u16 = port.parse()?;
    if host.is_empty() || port == 0 { Err("a server is HOST:PORT".into()) } else { Ok(text.to_owned()) }
}

/// Something that is not empty.
pub(super) fn token(text: &str) -> Result<AdminToken, Mistake> {
    match text.len() {
        0..16 => Err("a token has at least 16 characters".into()),
        _ => Ok(AdminToken::new(text)),
    }
}

/// Whole seconds, up to a day.
pub(super) fn seconds(text: &str) -> Result<Duration, Mistake> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<u32>()?;
    if seconds > 86_400 { Err("more than a day".into()) } else { Ok(Duration::from_secs(seconds.into())) }
}

/// A path that is not empty.
pub(super) fn path(text: &str) -> Result<PathBuf, Mistake> {
    if text.is_empty() { Err("an empty path".into()) } else { Ok(text.into()) }
}

/// Standard output or a file.
pub(super) fn usage_log(text: &str) -> Result<usage::Destination, Mistake> {
    match text {
        "" => Err("a file or -".into()),
        "-" => Ok(usage::Destination::Stdout),
        path => Ok(usage::Destination::File(path.into())),
    }
}

/// A network, or one address.
pub(super) fn cidr(text: &str) -> Result<IpNet, Mistake> {
    let net =
        text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error))?;
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(format!("bits are set behind the prefix; did you mean {}?", net.trunc()).into())
    }
}

/// `FIRST-LAST`.
pub(super) fn port_range(text: &str) -> Result<RangeInclusive<u16>, Mistake> {
    let (first, last) = text.split_once('-').ok_or("a port range is FIRST-LAST")?;
    let (first, last) = (first.parse::<u16>()?, last.parse::<u16>()?);
    if first == 0 || first > last {
        Err("the first port is at least 1 and at most the last".into())
    } else {
        Ok(first..=last)
    }
}

/// `batched` or `portable`.
pub(super) fn plane(text: &str) -> Result<Plane, Mistake> {
    match text {
        "batched" => Ok(Plane::Batched),
        "portable" => Ok(Plane::Portable),
        _ => Err("a data plane is batched or portable".into()),
    }
}

/// What fits into the system call's `int`, and holds a datagram at least.
pub(super) fn buffer_bytes(text: &str) -> Result<usize, Mistake> {
    match text.parse::<u32>()? {
        bytes @ 65_536..=1_073_741_824 => Ok(usize::try_from(bytes)?),
        _ => Err("a socket's buffer has 65536 to 1073741824 bytes".into()),
    }
}

/// Zero is no limit.
pub(super) fn limit(text: &str) -> Result<Option<NonZeroU32>, Mistake> {
    Ok(NonZeroU32::new(text.parse()?))
}

/// A number a second; zero is no limit.
pub(super) fn rate(text: &str) -> Result<Option<NonZeroU64>, Mistake> {
    Ok(NonZeroU64::new(text.parse()?))
}

/// The syntax of `RUST_LOG`.
pub(super) fn log_filter(text: &str) -> Result<String, Mistake> {
    EnvFilter::try_new(text)?;
    Ok(text.to_owned())
}

/// `text` or `json`.
pub(super) fn log_format(text: &str) -> Result<LogFormat, Mistake> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("a log format is text or json".into()),
    }
}
