//! What the operator wrote, validated: flags over environment over file over defaults.
//!
//! One `Raw` serves all three sources, so that they know the same keys. It holds text, and everything wrong with it
//! is said at once, by key, before a socket is bound.

mod parse;
mod raw;
mod realm;
mod secure;
mod written;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;

use crate::admin::AdminToken;
use crate::auth;
use crate::credential::Kind;
use crate::io::{Buffers, Plane};
use crate::policy::Limits;
use crate::policy::peer::Unnamed;
use crate::turn::{ChannelRange, ClassicStun, TcpRelay};
use crate::usage;
use parse::Parser as FieldParser;
use raw::Raw;
use realm::RawRealm;
pub use realm::{jwt_key_parts, oauth_key};
pub use secure::SecureConfig;
pub use written::{Difference, Written};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "farcall-relay", version, about = "Combined STUN and TURN server (RFC 8489, RFC 8656).")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; by default, serve.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// Where the configuration is.
    #[command(flatten)]
    pub sources: Sources,
}

/// What else it can do.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Say every mistake in the configuration, or what is in force and what looks wrong about it
    Check(Box<Sources>),
    /// Make a credential, for trying things out and for scripts
    #[command(subcommand)]
    Credential(Kind),
}

/// Where the configuration is: it can be read again.
#[derive(Debug, Clone, clap::Args)]
pub struct Sources {
    /// TOML file whose keys are these flags without the dashes in front.
    #[arg(long, env = "FARCALL_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    overrides: Raw,
}

/// What the world calls a relay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalIp {
    /// This.
    Known(IpAddr),
    /// To be found out.
    Auto,
}

impl ExternalIp {
    /// The address, if it was given.
    #[must_use]
    pub fn known(self) -> Option<IpAddr> {
        match self {
            Self::Known(ip) => Some(ip),
            Self::Auto => None,
        }
    }
}

/// Where the operator's service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminListen {
    /// At an address.
    Tcp(SocketAddr),
    /// In the file system.
    Unix(PathBuf),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything the program is told, valid by construction.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// What behaviour discovery answers from, at most one a family.
    pub alternate_listen: Vec<SocketAddr>,
    /// Where clients of UDP and TCP go that there is no place for.
    pub alternate_server: Vec<SocketAddr>,
    /// The same of TLS and DTLS.
    pub alternate_tls_server: Vec<SocketAddr>,
    /// TLS, DTLS and proxies.
    pub secure: SecureConfig,
    /// Who clients are.
    pub auth: auth::Config,
    /// Where relay sockets are bound, at most one of each family; none, from the listeners.
    pub relay_ips: Vec<IpAddr>,
    /// What the world calls those.
    pub external_ips: Vec<ExternalIp>,
    /// Who is asked what that is.
    pub external_ip_servers: Vec<String>,
    /// Ports of relay sockets.
    pub relay_ports: RangeInclusive<u16>,
    /// Peers allowed although the default list refuses them.
    pub allow_peers: Vec<IpNet>,
    /// Peers refused whatever else is said.
    pub deny_peers: Vec<IpNet>,
    /// What becomes of all others.
    pub unnamed_peers: Unnamed,
    /// How datagrams are received and sent.
    pub plane: Plane,
    /// What the kernel keeps for each UDP socket.
    pub buffers: Buffers,
    /// Threads.
    pub workers: NonZeroUsize,
    /// Calls to webhooks at a time.
    pub webhook_concurrency: NonZeroUsize,
    /// What each account may use, unless something else is known of it.
    pub user_limits: Limits,
    /// Answers per second and prefix to strangers; none, no limit.
    pub unauthenticated_rate: Option<NonZeroU32>,
    /// Which channels may be bound.
    pub channels: ChannelRange,
    /// What to do about RFC 3489.
    pub classic_stun: ClassicStun,
    /// Whether TCP is relayed.
    pub tcp_relay: TcpRelay,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the operator's service is.
    pub admin_listen: Option<AdminListen>,
    /// What the operator must say there.
    pub admin_token: Option<AdminToken>,
    /// How long allocations may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Where another process asks to take over.
    pub upgrade_socket: Option<PathBuf>,
    /// Where records of ended allocations go.
    pub usage_log: Option<usage::Destination>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    /// How it looks.
    pub log_format: LogFormat,
    /// What was written of all that.
    pub written: Written,
}

/// Every mistake, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// The mistakes, each a sentence that names its key.
    #[must_use]
    pub fn mistakes(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file the arguments name, if any, and lets them override it.
    pub fn load(args: Args) -> Result<Self, ConfigError> {
        args.sources.read()
    }

    /// Reads a configuration from the text of a file alone.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let raw = toml::from_str::<Raw>(text).map_err(|error| ConfigError(vec![malformed(text, &error)]))?;
        Self::try_from(raw)
    }
}

impl Sources {
    /// Reads everything there is now.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(read_file).transpose()?;
        Config::try_from(self.overrides.clone().or(file.unwrap_or_default()))
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

impl TryFrom<Raw> for Config {
    type Error = ConfigError;

    fn try_from(mut raw: Raw) -> Result<Self, ConfigError> {
        let mut parser = FieldParser::default();
        let config = Self {
            listen: parser.list("listen", raw.listen.take(), parse::from_str),
            alternate_listen: parser.list("alternate-listen", raw.alternate_listen.take(), parse::from_str),
            alternate_server: parser.list("alternate-server", raw.alternate_server.take(), parse::from_str),
            alternate_tls_server: parser.list(
                "alternate-tls-server",
                raw.alternate_tls_server.take(),
                parse::from_str,
            ),
            secure: SecureConfig::read(&mut raw, &mut parser),
            auth: realm::read(
                &mut parser,
                raw.realm,
                RawRealm {
                    user: raw.user,
                    auth_secret: raw.auth_secret,
                    oauth_key: raw.oauth_key,
                    oauth_server: raw.oauth_server,
                    jwt_key: raw.jwt_key,
                    jwt_secret: raw.jwt_secret,
                    jwt_audience: raw.jwt_audience,
                    auth_webhook: raw.auth_webhook,
                    auth_webhook_token: raw.auth_webhook_token,
                    auth_webhook_ca: raw.auth_webhook_ca,
                    auth_webhook_timeout: raw.auth_webhook_timeout,
                    ..RawRealm::default()
                },
            ),
            relay_ips: parser.list("relay-ip", raw.relay_ip, parse::relay_ip),
            external_ips: parser.list("external-ip", raw.external_ip, parse::external_ip),
            relay_ports: parser
                .one("relay-ports", raw.relay_ports, parse::port_range)
                .unwrap_or(49152..=65535),
            allow_peers: parser.list("allow-peer", raw.allow_peer, parse::cidr),
            deny_peers: parser.list("deny-peer", raw.deny_peer, parse::cidr),
            unnamed_peers: match parser.one("only-allowed-peers", raw.only_allowed_peers, parse::from_str) {
                Some(true) => Unnamed::Refused,
                Some(false) | None => Unnamed::ByDefaultList,
            },
            plane: parser.one("data-plane", raw.data_plane, parse::plane).unwrap_or(Plane::Batched),
            buffers: Buffers {
                receive: parser
                    .one("receive-buffer", raw.receive_buffer, parse::buffer_bytes)
                    .unwrap_or_else(|| Buffers::default().receive),
                send: parser
                    .one("send-buffer", raw.send_buffer, parse::buffer_bytes)
                    .unwrap_or_else(|| Buffers::default().send),
            },
            workers: parser.one("workers", raw.workers, parse::from_str).unwrap_or_else(default_workers),
            webhook_concurrency: parser
                .one("auth-webhook-concurrency", raw.auth_webhook_concurrency, parse::from_str)
                .unwrap_or(DEFAULT_WEBHOOK_CONCURRENCY),
            user_limits: Limits {
                quota: parser.one("user-quota", raw.user_quota, parse::limit).unwrap_or_default(),
                bandwidth: parser.one("user-bandwidth", raw.user_bandwidth, parse::rate).unwrap_or_default(),
                packets: parser.one("user-packets", raw.user_packets, parse::rate).unwrap_or_default(),
                new_peers: parser.one("user-new-peers", raw.user_new_peers, parse::rate).unwrap_or_default(),
                peers: parser.one("allocation-peers", raw.allocation_peers, parse::limit).unwrap_or_default(),
            },
            unauthenticated_rate: parser
                .one("unauthenticated-rate", raw.unauthenticated_rate, parse::limit)
                .unwrap_or_else(|| NonZeroU32::new(DEFAULT_UNAUTHENTICATED_RATE)),
            channels: match parser.one("rfc5766-channels", raw.rfc5766_channels, parse::from_str) {
                Some(true) => ChannelRange::Rfc5766,
                Some(false) | None => ChannelRange::Rfc8656,
            },
            classic_stun: match parser.one("classic-stun", raw.classic_stun, parse::from_str) {
                Some(true) => ClassicStun::Answered,
                Some(false) | None => ClassicStun::Silent,
            },
            tcp_relay: match parser.one("no-tcp-relay", raw.no_tcp_relay, parse::from_str) {
                Some(true) => TcpRelay::Refused,
                Some(false) | None => TcpRelay::Offered,
            },
            metrics_listen: parser.one("metrics-listen", raw.metrics_listen, parse::from_str),
            external_ip_servers: parser.list(
                "external-ip-server",
                raw.external_ip_server,
                parse::host_and_port,
            ),
            admin_listen: parser.one("admin-listen", raw.admin_listen, parse::admin_listen),
            admin_token: parser.one("admin-token", raw.admin_token, parse::token),
            drain_timeout: parser.one("drain-timeout", raw.drain_timeout, parse::seconds).unwrap_or_default(),
            upgrade_socket: parser.one("upgrade-socket", raw.upgrade_socket, parse::path),
            usage_log: parser.one("usage-log", raw.usage_log, parse::usage_log),
            log: parser.one("log", raw.log, parse::log_filter).unwrap_or_else(|| "info".into()),
            log_format: parser
                .one("log-format", raw.log_format, parse::log_format)
                .unwrap_or(LogFormat::Text),
            written: Written::default(),
        };
        let mut config = config.with_default_listener();
        config.written = std::mem::take(&mut parser.written);
        config.check_across(&mut parser);
        parser.finish(config)
    }
}

impl Config {
    /// Takes over what can change while it runs; all else stays as it was when sockets and threads were made.
    pub fn adopt(&mut self, new: Self) {
        let Self {
            auth,
            allow_peers,
            deny_peers,
            unnamed_peers,
            user_limits,
            unauthenticated_rate,
            channels,
            classic_stun,
            tcp_relay,
            alternate_server,
            alternate_tls_server,
            drain_timeout,
            log,
            written,
            ..
        } = new;
        self.written.adopt(&written);
        (self.auth, self.allow_peers, self.deny_peers) = (auth, allow_peers, deny_peers);
        self.unnamed_peers = unnamed_peers;
        (self.user_limits, self.unauthenticated_rate) = (user_limits, unauthenticated_rate);
        (self.channels, self.classic_stun, self.tcp_relay) = (channels, classic_stun, tcp_relay);
        (self.alternate_server, self.alternate_tls_server) = (alternate_server, alternate_tls_server);
        (self.drain_timeout, self.log) = (drain_timeout, log);
    }

    fn with_default_listener(mut self) -> Self {
        if self.listen.is_empty() {
            self.listen.push(SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
        }
        self
    }

    /// What no field can know alone.
    fn check_across(&self, parser: &mut FieldParser) {
        let external_ips: Vec<_> = self.external_ips.iter().filter_map(|ip| ip.known()).collect();
        for (key, ips) in [("relay-ip", &self.relay_ips), ("external-ip", &external_ips)] {
            for is_v4 in [true, false] {
                if ips.iter().filter(|ip| ip.is_ipv4() == is_v4).count() > 1 {
                    let family = if is_v4 { "IPv4" } else { "IPv6" };
                    parser.mistake(key, format_args!("more than one {family} address"));
                }
            }
        }
        self.check_alternates(parser);
        if self.external_ips.contains(&ExternalIp::Auto) && self.external_ip_servers.is_empty() {
            parser.mistake("external-ip", "auto wants an --external-ip-server to ask");
        }
        if let Some(AdminListen::Tcp(address)) = self.admin_listen
            && !address.ip().is_loopback()
            && self.admin_token.is_none()
        {
            parser.mistake(
                "admin-listen",
                format_args!("{address} is not a loopback address: set an --admin-token"),
            );
        }
        for (at, address) in self.listen.iter().enumerate() {
            if address.port() != 0 && self.listen.iter().take(at).any(|before| before == address) {
                parser.mistake("listen", format_args!("{address} comes twice"));
            }
        }
    }

    /// Each needs a first address to be another than.
    fn check_alternates(&self, parser: &mut FieldParser) {
        for (at, alternate) in self.alternate_listen.iter().enumerate() {
            let is_of_family = |address: &&SocketAddr| address.is_ipv4() == alternate.is_ipv4();
            let primary = self.listen.iter().find(is_of_family);
            let is_port_free =
                |primary: &SocketAddr| alternate.port() == 0 || alternate.port() != primary.port();
            let mistake = match primary {
                _ if self.alternate_listen.iter().take(at).any(|before| is_of_family(&before)) => {
                    "more than one of its family"
                }
                _ if alternate.ip().is_unspecified() => "names no IP address",
                None => "there is no --listen of its family",
                Some(primary) if primary.ip().is_unspecified() => {
                    "the first --listen of its family names no IP address"
                }
                Some(primary) if primary.ip() == alternate.ip() || !is_port_free(primary) => {
                    "differs from the first --listen of its family in IP address and port"
                }
                Some(_) => continue,
            };
            parser.mistake("alternate-listen", format_args!("{alternate}: {mistake}"));
        }
    }
}

fn read_file(path: &Path) -> Result<Raw, ConfigError> {
    let mistake =
        |error: &dyn fmt::Display| ConfigError(vec![format!("config: {}: {error}", path.display())]);
    let text = std::fs::read_to_string(path).map_err(|error| mistake(&error))?;
    toml::from_str(&text).map_err(|error| mistake(&malformed(&text, &error)))
}

/// Where a file is no configuration and why, without quoting it: there may be a secret in that line.
fn malformed(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", 1 + before.matches('\n').count(), error.message())
}

fn default_workers() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

const DEFAULT_PORT: u16 = 3478;
const DEFAULT_WEBHOOK_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(8).expect("eight");
/// Seventy kilobytes a second towards one prefix at most, and a thousand new clients from it.
const DEFAULT_UNAUTHENTICATED_RATE: u32 = 1000;

#[cfg(test)]
mod tests;
