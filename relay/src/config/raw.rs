//! The keys, as the command line, the environment and the file know them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::realm::RawRealms;

/// Text as written; `None` where nothing was.
#[derive(Clone, Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct Raw {
    /// Address for STUN and TURN over UDP and TCP; repeat for more [default: 0.0.0.0:3478]
    #[arg(long, env = "FARCALL_RELAY_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) listen: Option<Vec<String>>,

    /// Other IP address and port for behaviour discovery (RFC 5780), one per family of --listen [default: none]
    #[arg(long, env = "FARCALL_RELAY_ALTERNATE_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) alternate_listen: Option<Vec<String>>,

    /// Where clients are sent when this server drains or is full (RFC 8489, ALTERNATE-SERVER) [default: none]
    #[arg(long, env = "FARCALL_RELAY_ALTERNATE_SERVER", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) alternate_server: Option<Vec<String>>,

    /// The same for clients of TLS and DTLS [default: none]
    #[arg(long, env = "FARCALL_RELAY_ALTERNATE_TLS_SERVER", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) alternate_tls_server: Option<Vec<String>>,

    /// Address for STUN and TURN over TLS; repeat for more [default: none]
    #[arg(long, env = "FARCALL_RELAY_TLS_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) tls_listen: Option<Vec<String>>,

    /// Address for STUN and TURN over DTLS; may be that of --tls-listen; repeat for more [default: none]
    #[arg(long, env = "FARCALL_RELAY_DTLS_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) dtls_listen: Option<Vec<String>>,

    /// Certificate chain in PEM, read again when it changes; repeat for more, chosen by server name
    #[arg(long, env = "FARCALL_RELAY_TLS_CERT", value_delimiter = ',', value_name = "FILE")]
    #[serde(deserialize_with = "texts")]
    pub(super) tls_cert: Option<Vec<String>>,

    /// Private key of the certificate at the same place, in PEM
    #[arg(long, env = "FARCALL_RELAY_TLS_KEY", value_delimiter = ',', value_name = "FILE")]
    #[serde(deserialize_with = "texts")]
    pub(super) tls_key: Option<Vec<String>>,

    /// Proxies whose connections begin with a PROXY header, version 2; all others are taken as they come
    #[arg(long, env = "FARCALL_RELAY_PROXY_PROTOCOL_FROM", value_delimiter = ',', value_name = "CIDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) proxy_protocol_from: Option<Vec<String>>,

    /// Realm of all credentials [default: farcall]
    #[arg(long, env = "FARCALL_RELAY_REALM")]
    pub(super) realm: Option<RawRealms>,

    /// A user with a password; repeat for more (in the environment: one a line)
    #[arg(
        long,
        env = "FARCALL_RELAY_USER",
        value_delimiter = '\n',
        value_name = "NAME:PASSWORD",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "texts")]
    pub(super) user: Option<Vec<String>>,

    /// Secret of ephemeral credentials; repeat while one replaces another (in the environment: one a line)
    #[arg(
        long,
        env = "FARCALL_RELAY_AUTH_SECRET",
        value_delimiter = '\n',
        value_name = "SECRET",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "texts")]
    pub(super) auth_secret: Option<Vec<String>>,

    /// Key of OAuth access tokens (RFC 7635), with the times it is good from and until; repeat for more
    #[arg(
        long,
        env = "FARCALL_RELAY_OAUTH_KEY",
        value_delimiter = '\n',
        value_name = "KID:BASE64[:FROM-UNTIL]",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "texts")]
    pub(super) oauth_key: Option<Vec<String>>,

    /// For whom access tokens are made [default: the realm]
    #[arg(long, env = "FARCALL_RELAY_OAUTH_SERVER", value_name = "NAME")]
    #[serde(deserialize_with = "text")]
    pub(super) oauth_server: Option<String>,

    /// Key that verifies names that are JSON Web Tokens: HS256, ES256 or EdDSA; repeat for more
    #[arg(
        long,
        env = "FARCALL_RELAY_JWT_KEY",
        value_delimiter = '\n',
        value_name = "KID:ALGORITHM:KEY",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "texts")]
    pub(super) jwt_key: Option<Vec<String>>,

    /// Secret with which passwords of such names are made; repeat while one replaces another
    #[arg(
        long,
        env = "FARCALL_RELAY_JWT_SECRET",
        value_delimiter = '\n',
        value_name = "SECRET",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "texts")]
    pub(super) jwt_secret: Option<Vec<String>>,

    /// Audience that tokens must name [default: none]
    #[arg(long, env = "FARCALL_RELAY_JWT_AUDIENCE", value_name = "NAME")]
    #[serde(deserialize_with = "text")]
    pub(super) jwt_audience: Option<String>,

    /// HTTP service that knows users who are not known here, asked by POST [default: none]
    #[arg(long, env = "FARCALL_RELAY_AUTH_WEBHOOK", value_name = "URL")]
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook: Option<String>,

    /// What is said to it as `authorization: Bearer TOKEN`
    #[arg(long, env = "FARCALL_RELAY_AUTH_WEBHOOK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_token: Option<String>,

    /// Certificates of whoever signed the service's own [default: whom browsers trust]
    #[arg(long, env = "FARCALL_RELAY_AUTH_WEBHOOK_CA", value_name = "FILE")]
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_ca: Option<String>,

    /// Seconds that one call may take [default: 3]
    #[arg(long, env = "FARCALL_RELAY_AUTH_WEBHOOK_TIMEOUT", value_name = "SECONDS")]
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_timeout: Option<String>,

    /// Calls at a time [default: 8]
    #[arg(long, env = "FARCALL_RELAY_AUTH_WEBHOOK_CONCURRENCY", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) auth_webhook_concurrency: Option<String>,

    /// Address of relay sockets, at most one IPv4 and one IPv6 [default: as the listeners, else as the route out]
    #[arg(long, env = "FARCALL_RELAY_RELAY_IP", value_delimiter = ',', value_name = "IP")]
    #[serde(deserialize_with = "texts")]
    pub(super) relay_ip: Option<Vec<String>>,

    /// What the world calls the relay address of the same family, behind a one-to-one NAT; auto to ask --external-ip-server
    #[arg(long, env = "FARCALL_RELAY_EXTERNAL_IP", value_delimiter = ',', value_name = "IP")]
    #[serde(deserialize_with = "texts")]
    pub(super) external_ip: Option<Vec<String>>,

    /// Ports of relay sockets [default: 49152-65535]
    #[arg(long, env = "FARCALL_RELAY_RELAY_PORTS", value_name = "FIRST-LAST")]
    #[serde(deserialize_with = "text")]
    pub(super) relay_ports: Option<String>,

    /// Peers to allow although they are refused by default; repeat for more
    #[arg(long, env = "FARCALL_RELAY_ALLOW_PEER", value_delimiter = ',', value_name = "CIDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) allow_peer: Option<Vec<String>>,

    /// Peers to refuse whatever else is said; repeat for more
    #[arg(long, env = "FARCALL_RELAY_DENY_PEER", value_delimiter = ',', value_name = "CIDR")]
    #[serde(deserialize_with = "texts")]
    pub(super) deny_peer: Option<Vec<String>>,

    /// Refuse every peer that --allow-peer does not name [default: false]
    #[arg(long, env = "FARCALL_RELAY_ONLY_ALLOWED_PEERS", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    #[serde(deserialize_with = "text")]
    pub(super) only_allowed_peers: Option<String>,

    /// Worker threads [default: one per core]
    #[arg(long, env = "FARCALL_RELAY_WORKERS", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) workers: Option<String>,

    /// How datagrams are received and sent: batched, or portable with a system call for each [default: batched]
    #[arg(long, env = "FARCALL_RELAY_DATA_PLANE", value_name = "KIND")]
    #[serde(deserialize_with = "text")]
    pub(super) data_plane: Option<String>,

    /// Bytes the kernel keeps for each UDP socket of what has come [default: 4194304]
    #[arg(long, env = "FARCALL_RELAY_RECEIVE_BUFFER", value_name = "BYTES")]
    #[serde(deserialize_with = "text")]
    pub(super) receive_buffer: Option<String>,

    /// Bytes the kernel keeps for each UDP socket of what is to go [default: 4194304]
    #[arg(long, env = "FARCALL_RELAY_SEND_BUFFER", value_name = "BYTES")]
    #[serde(deserialize_with = "text")]
    pub(super) send_buffer: Option<String>,

    /// Allocations per user; 0 is no limit [default: 0]
    #[arg(long, env = "FARCALL_RELAY_USER_QUOTA", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) user_quota: Option<String>,

    /// Bytes of application data per second and user, both directions together; 0 is no limit [default: 0]
    #[arg(long, env = "FARCALL_RELAY_USER_BANDWIDTH", value_name = "BYTES")]
    #[serde(deserialize_with = "text")]
    pub(super) user_bandwidth: Option<String>,

    /// Relayed datagrams per second and user, both directions together; 0 is no limit [default: 0]
    #[arg(long, env = "FARCALL_RELAY_USER_PACKETS", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) user_packets: Option<String>,

    /// New peer addresses per second and user; 0 is no limit [default: 0]
    #[arg(long, env = "FARCALL_RELAY_USER_NEW_PEERS", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) user_new_peers: Option<String>,

    /// Peer addresses of one allocation at a time, 1024 at most; 0 is no lower limit [default: 0]
    #[arg(long, env = "FARCALL_RELAY_ALLOCATION_PEERS", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) allocation_peers: Option<String>,

    /// Errors to strangers per second and source prefix (IPv4 /24, IPv6 /56); 0 is no limit [default: 1000]
    #[arg(long, env = "FARCALL_RELAY_UNAUTHENTICATED_RATE", value_name = "N")]
    #[serde(deserialize_with = "text")]
    pub(super) unauthenticated_rate: Option<String>,

    /// Take channel numbers up to 0x7FFF, from which older clients pick [default: false]
    #[arg(long, env = "FARCALL_RELAY_RFC5766_CHANNELS", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    #[serde(deserialize_with = "text")]
    pub(super) rfc5766_channels: Option<String>,

    /// Answer RFC 3489 Bindings [default: false]
    #[arg(long, env = "FARCALL_RELAY_CLASSIC_STUN", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    #[serde(deserialize_with = "text")]
    pub(super) classic_stun: Option<String>,

    /// Relay no TCP (RFC 6062): allocations are for UDP alone [default: false]
    #[arg(long, env = "FARCALL_RELAY_NO_TCP_RELAY", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    #[serde(deserialize_with = "text")]
    pub(super) no_tcp_relay: Option<String>,

    /// Address for GET /metrics and GET /healthz [default: none]
    #[arg(long, env = "FARCALL_RELAY_METRICS_LISTEN", value_name = "ADDR")]
    #[serde(deserialize_with = "text")]
    pub(super) metrics_listen: Option<String>,

    /// STUN servers that --external-ip auto asks; repeat for more
    #[arg(long, env = "FARCALL_RELAY_EXTERNAL_IP_SERVER", value_delimiter = ',', value_name = "HOST:PORT")]
    #[serde(deserialize_with = "texts")]
    pub(super) external_ip_server: Option<Vec<String>>,

    /// Address of the operator's gRPC service, or unix:PATH [default: none]
    #[arg(long, env = "FARCALL_RELAY_ADMIN_LISTEN", value_name = "ADDR")]
    #[serde(deserialize_with = "text")]
    pub(super) admin_listen: Option<String>,

    /// What the operator says as `authorization: Bearer TOKEN`; wanted on every address but loopback and unix:
    #[arg(long, env = "FARCALL_RELAY_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    #[serde(deserialize_with = "text")]
    pub(super) admin_token: Option<String>,

    /// How long allocations may go on after SIGTERM, in seconds [default: 0]
    #[arg(long, env = "FARCALL_RELAY_DRAIN_TIMEOUT", value_name = "SECONDS")]
    #[serde(deserialize_with = "text")]
    pub(super) drain_timeout: Option<String>,

    /// Path of a socket by which another process of this user takes over, calls and all [default: none]
    #[arg(long, env = "FARCALL_RELAY_UPGRADE_SOCKET", value_name = "PATH")]
    #[serde(deserialize_with = "text")]
    pub(super) upgrade_socket: Option<String>,

    /// File for a JSON line about each ended allocation, or - for stdout [default: none]
    #[arg(long, env = "FARCALL_RELAY_USAGE_LOG", value_name = "FILE")]
    #[serde(deserialize_with = "text")]
    pub(super) usage_log: Option<String>,

    /// What to log, in the syntax of RUST_LOG, which also sets it [default: info]
    #[arg(long, env = "FARCALL_RELAY_LOG", value_name = "FILTER")]
    #[serde(deserialize_with = "text")]
    pub(super) log: Option<String>,

    /// text or json [default: text]
    #[arg(long, env = "FARCALL_RELAY_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(deserialize_with = "text")]
    pub(super) log_format: Option<String>,
}

impl Raw {
    /// This, and where it says nothing, `file`.
    pub(super) fn or(self, file: Self) -> Self {
        Self {
            listen: self.listen.or(file.listen),
            alternate_listen: self.alternate_listen.or(file.alternate_listen),
            alternate_server: self.alternate_server.or(file.alternate_server),
            alternate_tls_server: self.alternate_tls_server.or(file.alternate_tls_server),
            tls_listen: self.tls_listen.or(file.tls_listen),
            dtls_listen: self.dtls_listen.or(file.dtls_listen),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            proxy_protocol_from: self.proxy_protocol_from.or(file.proxy_protocol_from),
            realm: RawRealms::or(self.realm, file.realm),
            oauth_key: self.oauth_key.or(file.oauth_key),
            oauth_server: self.oauth_server.or(file.oauth_server),
            jwt_key: self.jwt_key.or(file.jwt_key),
            jwt_secret: self.jwt_secret.or(file.jwt_secret),
            jwt_audience: self.jwt_audience.or(file.jwt_audience),
            auth_webhook: self.auth_webhook.or(file.auth_webhook),
            auth_webhook_token: self.auth_webhook_token.or(file.auth_webhook_token),
            auth_webhook_ca: self.auth_webhook_ca.or(file.auth_webhook_ca),
            auth_webhook_timeout: self.auth_webhook_timeout.or(file.auth_webhook_timeout),
            auth_webhook_concurrency: self.auth_webhook_concurrency.or(file.auth_webhook_concurrency),
            user: self.user.or(file.user),
            auth_secret: self.auth_secret.or(file.auth_secret),
            relay_ip: self.relay_ip.or(file.relay_ip),
            external_ip: self.external_ip.or(file.external_ip),
            relay_ports: self.relay_ports.or(file.relay_ports),
            allow_peer: self.allow_peer.or(file.allow_peer),
            deny_peer: self.deny_peer.or(file.deny_peer),
            only_allowed_peers: self.only_allowed_peers.or(file.only_allowed_peers),
            workers: self.workers.or(file.workers),
            data_plane: self.data_plane.or(file.data_plane),
            receive_buffer: self.receive_buffer.or(file.receive_buffer),
            send_buffer: self.send_buffer.or(file.send_buffer),
            user_quota: self.user_quota.or(file.user_quota),
            user_bandwidth: self.user_bandwidth.or(file.user_bandwidth),
            user_packets: self.user_packets.or(file.user_packets),
            user_new_peers: self.user_new_peers.or(file.user_new_peers),
            allocation_peers: self.allocation_peers.or(file.allocation_peers),
            unauthenticated_rate: self.unauthenticated_rate.or(file.unauthenticated_rate),
            rfc5766_channels: self.rfc5766_channels.or(file.rfc5766_channels),
            classic_stun: self.classic_stun.or(file.classic_stun),
            no_tcp_relay: self.no_tcp_relay.or(file.no_tcp_relay),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            external_ip_server: self.external_ip_server.or(file.external_ip_server),
            admin_listen: self.admin_listen.or(file.admin_listen),
            admin_token: self.admin_token.or(file.admin_token),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            upgrade_socket: self.upgrade_socket.or(file.upgrade_socket),
            usage_log: self.usage_log.or(file.usage_log),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
        }
    }
}

/// Secrets are among it.
impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raw(redacted)")
    }
}

/// A file may say `4` where a flag says "4".
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_any(TextVisitor).map(Some)
}

/// One, or a list.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    deserializer.deserialize_any(TextsVisitor).map(Some)
}

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true or false")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<String, E> {
        Ok(is_on.to_string())
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(texts)
    }
}
