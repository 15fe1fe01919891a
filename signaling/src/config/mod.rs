//! What the operator wrote, validated: defaults < TOML file < environment < flags.
//!
//! Every mistake is reported at once, by key, before a socket is bound; [`Config`] is valid by construction.

mod parse;
mod raw;
mod token;
mod written;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farcall_proto::limits::{
    DEFAULT_PRESENCE_GRACE, DEFAULT_RESUME_WINDOW, DEFAULT_ROOM_SIZE, MAX_LOG_BYTES, MAX_LOG_FRAMES,
};

pub use parse::Mistake;
pub use raw::{Command, CommandLine, Raw, Text};
pub use token::TokenArgs;
pub use written::{Change, Written};

use crate::backplane::{Bounds, redis};
use crate::credentials::{IceServers, JoinTokens, Turn};
use crate::limits::Quotas;
use crate::live::Live;
use crate::room::Limits;
use crate::server::{Cleartext, ConnectionLimits, Entry};
use crate::service::{Settings, admin};
use crate::tokens::{self, Tokens};
use crate::traces;
use crate::web;
use parse::{EntranceKeys, Reader, Scheme, texts};

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What participants are told and asked for.
    pub settings: Settings,
    /// Where the sessions are.
    pub backplane: Backplane,
    /// How much there may be in all.
    pub bounds: Bounds,
    /// What strangers may take up.
    pub connections: ConnectionLimits,
    /// How strangers are let in.
    pub entrance: Entry,
    /// How operators are served.
    pub admin: admin::Config,
    /// How browsers are served.
    pub web: web::Config,
    /// How long streams and calls may take to end when the server stops.
    pub drain_grace: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// Where traces go, if anywhere.
    pub traces: Option<traces::Config>,
    /// What all of this was read from.
    pub written: Written,
}

/// Where the sessions are.
#[derive(Debug, Clone)]
pub enum Backplane {
    /// In this process.
    Memory,
    /// In a store that nodes share.
    Redis(redis::Address),
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// As in `RUST_LOG`.
    pub filter: String,
    /// For people or for machines.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// Reads the file, if there is one, and puts flags and environment over it.
    pub fn load(over: Raw, file: Option<&Path>) -> Result<Self, Mistakes> {
        let below = match file {
            Some(path) => read(path).map_err(|mistake| Mistakes(vec![mistake]))?,
            None => Raw::default(),
        };
        let all = over.clone().or(below);
        let written = Written { over, file: file.map(Into::into), said: all.said() };
        Ok(Self { written, ..Self::try_from(all)? })
    }
}

impl Config {
    /// What is valid, and yet what few mean on an open network.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let is_public = !self.listen.ip().is_loopback();
        let Entry { tls, cleartext, .. } = &self.entrance;
        let mut warnings = Vec::new();
        let mut warn = |when: bool, what: &str| {
            if when {
                warnings.push(what.to_owned());
            }
        };
        let tokens = &self.settings.tokens;
        warn(tokens.is_open(), "token-key: without one, whoever knows a room's name may enter it");
        warn(
            is_public && tls.is_none() && self.entrance.proxies == Default::default(),
            "tls-cert: without one, what participants say can be read on the way, and browsers give no camera",
        );
        warn(
            is_public && tls.is_some() && *cleartext == Cleartext::Everybody,
            "cleartext: whoever does not ask for TLS gets none",
        );
        warn(
            self.metrics_listen.is_some_and(|address| !address.ip().is_loopback()),
            "metrics-listen: everybody who reaches it may read it",
        );
        warn(
            self.settings.ice.get().turn.is_none(),
            "turn: without one, some participants will not reach each other",
        );
        warnings
    }
}

impl TryFrom<Raw> for Config {
    type Error = Mistakes;

    fn try_from(raw: Raw) -> Result<Self, Mistakes> {
        let mut read = Reader::default();
        for key in raw.unknown.keys() {
            read.mistake(key, "is not a setting of this program");
        }
        let heartbeat_interval =
            read.duration("heartbeat-interval", raw.heartbeat_interval, Duration::from_secs(20));
        let limits = Limits {
            room_size: read.number("room-size", raw.room_size, 2..=1000, DEFAULT_ROOM_SIZE),
            log_frames: MAX_LOG_FRAMES,
            log_bytes: MAX_LOG_BYTES,
            resume_window: read.duration("resume-window", raw.resume_window, DEFAULT_RESUME_WINDOW),
            presence_grace: read.duration("presence-grace", raw.presence_grace, DEFAULT_PRESENCE_GRACE),
            lease: heartbeat_interval.saturating_mul(HEARTBEATS_IN_A_LEASE),
        };
        let stun = read.uris("stun", raw.stun, Scheme::Stun);
        let turn = read.uris("turn", raw.turn, Scheme::Turn);
        let secret = read.secret("turn-secret", raw.turn_secret);
        let credential_ttl =
            read.duration("turn-credential-ttl", raw.turn_credential_ttl, Duration::from_secs(600));
        if credential_ttl < Duration::from_secs(1) {
            read.mistake("turn-credential-ttl", "is shorter than a second");
        }
        let turn = match (turn.is_empty(), secret) {
            (false, Some(secret)) => Some(Turn { urls: turn, secret, credential_ttl }),
            (false, None) => {
                read.mistake("turn", "needs turn-secret to make credentials with");
                None
            }
            (true, _) => None,
        };
        let entrance = read.entrance(EntranceKeys {
            certificates: raw.tls_cert,
            keys: raw.tls_key,
            client_ca: raw.tls_client_ca,
            client_auth: raw.tls_client_auth,
            cleartext: raw.cleartext,
            proxies: raw.trusted_proxy,
        });
        let tokens = tokens::Config {
            fixed: JoinTokens::new(read.tokens("join-token", raw.join_token)),
            secrets: texts(raw.token_secret),
            key_files: texts(raw.token_key).into_iter().map(Into::into).collect(),
            audience: texts(raw.token_audience),
            issuer: texts(raw.token_issuer),
        };
        let tokens = Tokens::load(tokens).unwrap_or_else(|error| {
            read.mistake("token-key", error.to_string());
            Tokens::default()
        });
        let admin = admin::Config {
            listen: read.address("admin-listen", raw.admin_listen),
            tokens: Arc::new(Live::new(JoinTokens::new(read.tokens("admin-token", raw.admin_token)))),
        };
        let is_elsewhere = admin.listen.is_some_and(|address| !address.ip().is_loopback());
        if is_elsewhere && admin.tokens.get().is_open() && !tokens.has_keys() {
            read.mistake("admin-listen", "needs admin-token or token-key where it is not loopback");
        }
        let quotas = Quotas {
            connections_per_address: read.quota(
                "max-connections-per-address",
                raw.max_connections_per_address,
                256,
            ),
            streams_per_address: read.quota("max-streams-per-address", raw.max_streams_per_address, 256),
            streams_per_identity: read.quota("max-streams-per-identity", raw.max_streams_per_identity, 16),
            rooms_per_address: read.quota("max-rooms-per-address", raw.max_rooms_per_address, 64),
            rooms_per_identity: read.quota("max-rooms-per-identity", raw.max_rooms_per_identity, 16),
            joins_per_address: read.quota(
                "joins-per-minute-per-address",
                raw.joins_per_minute_per_address,
                240,
            ),
            joins_per_identity: read.quota(
                "joins-per-minute-per-identity",
                raw.joins_per_minute_per_identity,
                60,
            ),
            joins_per_room: read.quota("joins-per-minute-per-room", raw.joins_per_minute_per_room, 240),
            frames_per_address: read.quota(
                "frames-per-second-per-address",
                raw.frames_per_second_per_address,
                500,
            ),
            frames_per_session: read.quota(
                "frames-per-second-per-session",
                raw.frames_per_second_per_session,
                100,
            ),
            bytes_per_address: read.quota(
                "bytes-per-second-per-address",
                raw.bytes_per_second_per_address,
                4_194_304,
            ),
            bytes_per_session: read.quota(
                "bytes-per-second-per-session",
                raw.bytes_per_second_per_session,
                1_048_576,
            ),
        };
        let config = Self {
            listen: read.address("listen", raw.listen).unwrap_or(DEFAULT_LISTEN),
            metrics_listen: read.address("metrics-listen", raw.metrics_listen),
            settings: Settings {
                limits,
                heartbeat_interval,
                keep_alive: KEEP_ALIVE,
                ice: Arc::new(Live::new(IceServers { stun, turn })),
                quotas,
                tokens: Arc::new(tokens),
            },
            backplane: read
                .backplane(raw.backplane, [raw.backplane_ca, raw.backplane_cert, raw.backplane_key]),
            bounds: Bounds {
                rooms: read.number("max-rooms", raw.max_rooms, 1..=usize::MAX, 100_000),
                sessions: read.number("max-sessions", raw.max_sessions, 1..=usize::MAX, 100_000),
            },
            connections: ConnectionLimits {
                connections: read.number("max-connections", raw.max_connections, 1..=usize::MAX, 20_000),
                streams: read.number(
                    "max-streams-per-connection",
                    raw.max_streams_per_connection,
                    1..=u32::MAX,
                    2048,
                ),
                handshake: read.duration("handshake-timeout", raw.handshake_timeout, HANDSHAKE),
                first_request: FIRST_REQUEST,
            },
            entrance,
            admin,
            web: web::Config {
                dir: read.folder("web-dir", raw.web_dir),
                origins: Arc::new(Live::new(read.origins("cors-origin", raw.cors_origin))),
            },
            drain_grace: read.duration("drain-grace", raw.drain_grace, Duration::from_secs(5)),
            log: Log { filter: read.log_filter(raw.log), format: read.log_format(raw.log_format) },
            traces: read.traces(raw.otlp_endpoint, raw.otlp_share),
            written: Written::default(),
        };
        read.done(config)
    }
}

/// Everything that is wrong, one line each.
#[derive(Debug, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn read(path: &Path) -> Result<Raw, Mistake> {
    let about = |error: &dyn fmt::Display| Mistake {
        key: path.display().to_string(),
        rule: error.to_string().trim_end().into(),
    };
    let text = std::fs::read_to_string(path).map_err(|error| about(&error))?;
    toml::from_str(&text).map_err(|error| about(&malformed(&text, &error)))
}

/// Where a file is no configuration and why, without quoting it: there may be a secret in that line.
fn malformed(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", 1 + before.matches('\n').count(), error.message())
}

/// Loopback: what is reachable from elsewhere was meant to be.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Enough for the slowest of networks, too little to sit on a connection with.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A handshake is a few small messages.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Proxies cut what is idle for longer than they like, which is rarely less than this.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// So that a lost call or a slow network does not end a stream.
const HEARTBEATS_IN_A_LEASE: u32 = 4;

#[cfg(test)]
mod tests;
