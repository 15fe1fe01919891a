//! What the operator wrote, as text: the same keys in the file, in the environment and as flags.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Deserializer};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "farcall-signaling",
    version,
    about = "gRPC rendezvous for peers that know the same room key"
)]
pub struct CommandLine {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// TOML file with any of these settings; environment and flags win over it.
    #[arg(long, global = true, env = "FARCALL_SIGNALING_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Raw,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Validate the configuration, say what is wrong with it, and exit.
    Check,
}

/// Every setting, as in the table of the README.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Raw {
    /// Address that gRPC is served on [default: 127.0.0.1:8080].
    #[arg(long, env = "FARCALL_SIGNALING_LISTEN", value_name = "ADDR", hide_env_values = true)]
    pub(super) listen: Option<Text>,
    /// STUN server that participants are told of; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_STUN",
        value_name = "URI",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) stun: Option<Vec<Text>>,
    /// TURN server that participants are told of; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TURN",
        value_name = "URI",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) turn: Option<Vec<Text>>,
    /// Secret shared with the TURN servers, to make credentials with.
    #[arg(long, env = "FARCALL_SIGNALING_TURN_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub(super) turn_secret: Option<Text>,
    /// How long a TURN credential is good for [default: 10m].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TURN_CREDENTIAL_TTL",
        value_name = "DURATION",
        hide_env_values = true
    )]
    pub(super) turn_credential_ttl: Option<Text>,
    /// Bearer token that lets a client join; may be repeated. Without one, whoever knows a room's name may enter.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_JOIN_TOKEN",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) join_token: Option<Vec<Text>>,
    /// Participants in a room [default: 2].
    #[arg(long, env = "FARCALL_SIGNALING_ROOM_SIZE", value_name = "N", hide_env_values = true)]
    pub(super) room_size: Option<Text>,
    /// How long a session without a stream is kept [default: 120s].
    #[arg(long, env = "FARCALL_SIGNALING_RESUME_WINDOW", value_name = "DURATION", hide_env_values = true)]
    pub(super) resume_window: Option<Text>,
    /// How long a stream may be away before the others are told [default: 10s].
    #[arg(long, env = "FARCALL_SIGNALING_PRESENCE_GRACE", value_name = "DURATION", hide_env_values = true)]
    pub(super) presence_grace: Option<Text>,
    /// How often a client is asked to call Send; four missed ones end its stream [default: 20s].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_HEARTBEAT_INTERVAL",
        value_name = "DURATION",
        hide_env_values = true
    )]
    pub(super) heartbeat_interval: Option<Text>,
    /// How long streams and calls may take to end when the server stops [default: 5s].
    #[arg(long, env = "FARCALL_SIGNALING_DRAIN_GRACE", value_name = "DURATION", hide_env_values = true)]
    pub(super) drain_grace: Option<Text>,
    /// Where the sessions are: memory, or redis://HOST, which several of these servers may share [default: memory].
    #[arg(long, env = "FARCALL_SIGNALING_BACKPLANE", value_name = "URL", hide_env_values = true)]
    pub(super) backplane: Option<Text>,
    /// Rooms at once [default: 100000].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_ROOMS", value_name = "N", hide_env_values = true)]
    pub(super) max_rooms: Option<Text>,
    /// Sessions at once, with or without a stream [default: 100000].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_SESSIONS", value_name = "N", hide_env_values = true)]
    pub(super) max_sessions: Option<Text>,
    /// Connections at once [default: 20000].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_CONNECTIONS", value_name = "N", hide_env_values = true)]
    pub(super) max_connections: Option<Text>,
    /// Streams and calls at once on one connection [default: 2048].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_MAX_STREAMS_PER_CONNECTION",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) max_streams_per_connection: Option<Text>,
    /// Address that GET /metrics and GET /healthz are served on [default: none].
    #[arg(long, env = "FARCALL_SIGNALING_METRICS_LISTEN", value_name = "ADDR", hide_env_values = true)]
    pub(super) metrics_listen: Option<Text>,
    /// Folder to serve instead of the page that is part of this program, for those who change it.
    #[arg(long, env = "FARCALL_SIGNALING_WEB_DIR", value_name = "DIR", hide_env_values = true)]
    pub(super) web_dir: Option<Text>,
    /// Site whose pages may call this server, such as https://app.example.org; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) cors_origin: Option<Vec<Text>>,
    /// Which logs to write, as in RUST_LOG, which wins over this [default: info].
    #[arg(long, env = "FARCALL_SIGNALING_LOG", value_name = "FILTER", hide_env_values = true)]
    pub(super) log: Option<Text>,
    /// How to write logs: text or json [default: text].
    #[arg(long, env = "FARCALL_SIGNALING_LOG_FORMAT", value_name = "FORMAT", hide_env_values = true)]
    pub(super) log_format: Option<Text>,
    /// Keys of a file that mean nothing.
    #[arg(skip)]
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, toml::Value>,
}

impl Raw {
    /// These settings, and `below` where they say nothing.
    #[must_use]
    pub fn or(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            stun: self.stun.or(below.stun),
            turn: self.turn.or(below.turn),
            turn_secret: self.turn_secret.or(below.turn_secret),
            turn_credential_ttl: self.turn_credential_ttl.or(below.turn_credential_ttl),
            join_token: self.join_token.or(below.join_token),
            room_size: self.room_size.or(below.room_size),
            resume_window: self.resume_window.or(below.resume_window),
            presence_grace: self.presence_grace.or(below.presence_grace),
            heartbeat_interval: self.heartbeat_interval.or(below.heartbeat_interval),
            drain_grace: self.drain_grace.or(below.drain_grace),
            backplane: self.backplane.or(below.backplane),
            max_rooms: self.max_rooms.or(below.max_rooms),
            max_sessions: self.max_sessions.or(below.max_sessions),
            max_connections: self.max_connections.or(below.max_connections),
            max_streams_per_connection: self.max_streams_per_connection.or(below.max_streams_per_connection),
            metrics_listen: self.metrics_listen.or(below.metrics_listen),
            web_dir: self.web_dir.or(below.web_dir),
            cors_origin: self.cors_origin.or(below.cors_origin),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            unknown: below.unknown,
        }
    }
}

/// One value as it was written, read later, so that every mistake can be reported.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub(super) String);

impl FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl From<toml::Value> for Text {
    fn from(value: toml::Value) -> Self {
        // Everything but a string is written as it reads.
        Self(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        toml::Value::deserialize(deserializer).map(Self::from)
    }
}

/// Some of these are secrets.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Text>>, D::Error> {
    let value = toml::Value::deserialize(deserializer)?;
    Ok(Some(match value.as_array() {
        Some(values) => values.iter().cloned().map(Text::from).collect(),
        None => vec![value.into()],
    }))
}
