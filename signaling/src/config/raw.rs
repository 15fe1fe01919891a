//! What the operator wrote, as text: the same keys in the file, in the environment and as flags.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TokenArgs;

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
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Validate the configuration, say what is wrong with it, and exit.
    Check,
    /// Make a token and print it.
    Token(Box<TokenArgs>),
}

/// Every setting, as in the table of the README.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
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
    /// Authorities in PEM that the certificate of a rediss:// store must come from [default: the machine's].
    #[arg(long, env = "FARCALL_SIGNALING_BACKPLANE_CA", value_name = "FILE", hide_env_values = true)]
    pub(super) backplane_ca: Option<Text>,
    /// Certificate chain in PEM to show to a rediss:// store.
    #[arg(long, env = "FARCALL_SIGNALING_BACKPLANE_CERT", value_name = "FILE", hide_env_values = true)]
    pub(super) backplane_cert: Option<Text>,
    /// Its private key in PEM.
    #[arg(long, env = "FARCALL_SIGNALING_BACKPLANE_KEY", value_name = "FILE", hide_env_values = true)]
    pub(super) backplane_key: Option<Text>,
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
    /// Certificate chain in PEM, the server's own first; may be repeated, and the name that is asked for decides.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TLS_CERT",
        value_name = "FILE",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) tls_cert: Option<Vec<Text>>,
    /// Private key in PEM of the certificate in the same place.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TLS_KEY",
        value_name = "FILE",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) tls_key: Option<Vec<Text>>,
    /// Authorities in PEM that client certificates must come from.
    #[arg(long, env = "FARCALL_SIGNALING_TLS_CLIENT_CA", value_name = "FILE", hide_env_values = true)]
    pub(super) tls_client_ca: Option<Text>,
    /// Whether clients must have a certificate: required or optional [default: required].
    #[arg(long, env = "FARCALL_SIGNALING_TLS_CLIENT_AUTH", value_name = "WHO", hide_env_values = true)]
    pub(super) tls_client_auth: Option<Text>,
    /// From whom HTTP without TLS is taken: all, loopback or none [default: all without certificates, else loopback; none where client certificates are required].
    #[arg(long, env = "FARCALL_SIGNALING_CLEARTEXT", value_name = "WHO", hide_env_values = true)]
    pub(super) cleartext: Option<Text>,
    /// How long a connection may take until HTTP can be spoken over it [default: 10s].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_HANDSHAKE_TIMEOUT",
        value_name = "DURATION",
        hide_env_values = true
    )]
    pub(super) handshake_timeout: Option<Text>,
    /// Proxies whose PROXY protocol (version 2) and X-Forwarded-For say where a client is; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) trusted_proxy: Option<Vec<Text>>,
    /// Shared secret of at least 32 bytes that tokens are signed with (HS256); may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TOKEN_SECRET",
        value_name = "SECRET",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) token_secret: Option<Vec<Text>>,
    /// File with a key that tokens are signed with: a public key in PEM (Ed25519 or P-256), a JWK set in JSON, or a shared secret; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TOKEN_KEY",
        value_name = "FILE",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) token_key: Option<Vec<Text>>,
    /// Tokens must name this audience; may be repeated, one is enough.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TOKEN_AUDIENCE",
        value_name = "NAME",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) token_audience: Option<Vec<Text>>,
    /// Tokens must name this issuer; may be repeated, one is enough.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_TOKEN_ISSUER",
        value_name = "NAME",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) token_issuer: Option<Vec<Text>>,
    /// Address that RoomAdminService is served on; anything but loopback needs a token [default: none].
    #[arg(long, env = "FARCALL_SIGNALING_ADMIN_LISTEN", value_name = "ADDR", hide_env_values = true)]
    pub(super) admin_listen: Option<Text>,
    /// Bearer token of an operator; may be repeated.
    #[arg(
        long,
        env = "FARCALL_SIGNALING_ADMIN_TOKEN",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) admin_token: Option<Vec<Text>>,
    /// Connections of one address at once; 0 for any number [default: 256].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) max_connections_per_address: Option<Text>,
    /// Streams of one address at once [default: 256].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_STREAMS_PER_ADDRESS", value_name = "N", hide_env_values = true)]
    pub(super) max_streams_per_address: Option<Text>,
    /// Streams of one identity at once, unless its token says otherwise [default: 16].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_MAX_STREAMS_PER_IDENTITY",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) max_streams_per_identity: Option<Text>,
    /// Rooms that one address is in at once [default: 64].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_ROOMS_PER_ADDRESS", value_name = "N", hide_env_values = true)]
    pub(super) max_rooms_per_address: Option<Text>,
    /// Rooms that one identity is in at once, unless its token says otherwise [default: 16].
    #[arg(long, env = "FARCALL_SIGNALING_MAX_ROOMS_PER_IDENTITY", value_name = "N", hide_env_values = true)]
    pub(super) max_rooms_per_identity: Option<Text>,
    /// Joins of one address a minute, and that many at once [default: 240].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_JOINS_PER_MINUTE_PER_ADDRESS",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) joins_per_minute_per_address: Option<Text>,
    /// Joins of one identity a minute, and that many at once [default: 60].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_JOINS_PER_MINUTE_PER_IDENTITY",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) joins_per_minute_per_identity: Option<Text>,
    /// Joins of one room a minute, and that many at once [default: 240].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_JOINS_PER_MINUTE_PER_ROOM",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) joins_per_minute_per_room: Option<Text>,
    /// Frames of one address a second, and ten times that at once [default: 500].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_FRAMES_PER_SECOND_PER_ADDRESS",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) frames_per_second_per_address: Option<Text>,
    /// Frames of one session a second, and ten times that at once [default: 100].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_FRAMES_PER_SECOND_PER_SESSION",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) frames_per_second_per_session: Option<Text>,
    /// Bytes in the frames of one address a second, and ten times that at once [default: 4194304].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_BYTES_PER_SECOND_PER_ADDRESS",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) bytes_per_second_per_address: Option<Text>,
    /// Bytes in the frames of one session a second, and ten times that at once [default: 1048576].
    #[arg(
        long,
        env = "FARCALL_SIGNALING_BYTES_PER_SECOND_PER_SESSION",
        value_name = "N",
        hide_env_values = true
    )]
    pub(super) bytes_per_second_per_session: Option<Text>,
    /// Address that GET /metrics and GET /healthz are served on [default: none].
    #[arg(long, env = "FARCALL_SIGNALING_METRICS_LISTEN", value_name = "ADDR", hide_env_values = true)]
    pub(super) metrics_listen: Option<Text>,
    /// Folder to serve instead of the page that is part of this program, for those who change it.
    #[arg(long, env = "FARCALL_SIGNALING_WEB_DIR", value_name = "DIR", hide_env_values = true)]
    pub(super) web_dir: Option<Text>,
    /// Site whose pages may call this server, such as `https://app.example.org`; may be repeated.
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
    /// OpenTelemetry collector that traces are sent to, OTLP over gRPC, such as http://127.0.0.1:4317 [default: none].
    #[arg(long, env = "FARCALL_SIGNALING_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    pub(super) otlp_endpoint: Option<Text>,
    /// Share of the calls without a trace of their caller that begin one, 0 to 1 [default: 1].
    #[arg(long, env = "FARCALL_SIGNALING_OTLP_SHARE", value_name = "SHARE", hide_env_values = true)]
    pub(super) otlp_share: Option<Text>,
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
            backplane_ca: self.backplane_ca.or(below.backplane_ca),
            backplane_cert: self.backplane_cert.or(below.backplane_cert),
            backplane_key: self.backplane_key.or(below.backplane_key),
            max_rooms: self.max_rooms.or(below.max_rooms),
            max_sessions: self.max_sessions.or(below.max_sessions),
            max_connections: self.max_connections.or(below.max_connections),
            max_streams_per_connection: self.max_streams_per_connection.or(below.max_streams_per_connection),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            tls_client_ca: self.tls_client_ca.or(below.tls_client_ca),
            tls_client_auth: self.tls_client_auth.or(below.tls_client_auth),
            cleartext: self.cleartext.or(below.cleartext),
            handshake_timeout: self.handshake_timeout.or(below.handshake_timeout),
            trusted_proxy: self.trusted_proxy.or(below.trusted_proxy),
            token_secret: self.token_secret.or(below.token_secret),
            token_key: self.token_key.or(below.token_key),
            token_audience: self.token_audience.or(below.token_audience),
            token_issuer: self.token_issuer.or(below.token_issuer),
            admin_listen: self.admin_listen.or(below.admin_listen),
            admin_token: self.admin_token.or(below.admin_token),
            max_connections_per_address: self
                .max_connections_per_address
                .or(below.max_connections_per_address),
            max_streams_per_address: self.max_streams_per_address.or(below.max_streams_per_address),
            max_streams_per_identity: self.max_streams_per_identity.or(below.max_streams_per_identity),
            max_rooms_per_address: self.max_rooms_per_address.or(below.max_rooms_per_address),
            max_rooms_per_identity: self.max_rooms_per_identity.or(below.max_rooms_per_identity),
            joins_per_minute_per_address: self
                .joins_per_minute_per_address
                .or(below.joins_per_minute_per_address),
            joins_per_minute_per_identity: self
                .joins_per_minute_per_identity
                .or(below.joins_per_minute_per_identity),
            joins_per_minute_per_room: self.joins_per_minute_per_room.or(below.joins_per_minute_per_room),
            frames_per_second_per_address: self
                .frames_per_second_per_address
                .or(below.frames_per_second_per_address),
            frames_per_second_per_session: self
                .frames_per_second_per_session
                .or(below.frames_per_second_per_session),
            bytes_per_second_per_address: self
                .bytes_per_second_per_address
                .or(below.bytes_per_second_per_address),
            bytes_per_second_per_session: self
                .bytes_per_second_per_session
                .or(below.bytes_per_second_per_session),
            metrics_listen: self.metrics_listen.or(below.metrics_listen),
            web_dir: self.web_dir.or(below.web_dir),
            cors_origin: self.cors_origin.or(below.cors_origin),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            otlp_endpoint: self.otlp_endpoint.or(below.otlp_endpoint),
            otlp_share: self.otlp_share.or(below.otlp_share),
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

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
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
