//! STUN and TURN servers: which of those handed out can be used, and a word about those that cannot.

use std::fmt;
use std::net::Ipv6Addr;

use webrtc::peer_connection::RTCIceServer;

/// A STUN or TURN server, as in the W3C's RTCIceServer.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct IceServer {
    /// RFC 7064 and 7065: `stun:host:port`, `turn:host:port?transport=udp`.
    pub urls: Vec<String>,
    /// Empty for STUN.
    pub username: String,
    /// Empty for STUN.
    pub credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .field("credential", &"redacted")
            .finish()
    }
}

/// Which paths are acceptable and which servers to ask for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcePolicy {
    /// Nothing but relayed paths, so that the other side learns no address of ours.
    pub relay_only: bool,
    /// Whether to ask STUN servers.
    pub stun: bool,
    /// Whether to ask TURN servers.
    pub turn: bool,
}

impl Default for IcePolicy {
    fn default() -> Self {
        Self { relay_only: false, stun: true, turn: true }
    }
}

/// What is left of the servers handed out.
#[derive(Debug, Default)]
pub(crate) struct UsableServers {
    /// One for each URL, so that one that cannot be used does not take the others with it.
    pub(crate) servers: Vec<RTCIceServer>,
    pub(crate) turn: Vec<TurnEndpoint>,
    /// Why others are not used, for people.
    pub(crate) warnings: Vec<String>,
}

/// A TURN server before its name is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnEndpoint {
    /// As it was handed out.
    pub(crate) url: String,
    /// What the engine calls its host.
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) carrier: Carrier,
}

/// How a TURN server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl Carrier {
    /// As `relayProtocol` of the W3C's webrtc-stats says it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl UsableServers {
    pub(crate) fn select(handed_out: &[IceServer], policy: IcePolicy) -> Self {
        let mut usable = Self::default();
        for server in handed_out {
            for text in &server.urls {
                match Url::parse(text) {
                    Ok(url) => usable.add(server, text, url, policy),
                    Err(error) => usable.warnings.push(format!("{text} is not used: {error}")),
                }
            }
        }
        usable
    }

    fn add(&mut self, server: &IceServer, text: &str, url: Url, policy: IcePolicy) {
        let wanted = match url.scheme {
            Scheme::Stun | Scheme::Stuns => policy.stun,
            Scheme::Turn | Scheme::Turns => policy.turn,
        };
        if !wanted {
            return;
        }
        if let Some(why) = url.unsupported_carrier() {
            self.warnings.push(format!("{text} is not used: {why}"));
            return;
        }
        let mut engine_url = text.to_owned();
        if let Some(carrier) = url.carrier() {
            if server.username.is_empty() || server.credential.is_empty() {
                self.warnings.push(format!("{text} is not used: it needs a username and a password"));
                return;
            }
            let mut name = url.host.clone();
            if carrier != Carrier::Udp {
                // The engine knows TURN over UDP alone. What it sends to this name goes through a tunnel.
                name = format!("tunnel{}.invalid", self.turn.len());
                engine_url = format!("turn:{name}:{}?transport=udp", url.port);
            }
            self.turn.push(TurnEndpoint {
                url: text.to_owned(),
                name,
                host: url.host,
                port: url.port,
                carrier,
            });
        }
        self.servers.push(RTCIceServer {
            urls: vec![engine_url],
            username: server.username.clone(),
            credential: server.credential.clone(),
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Stun,
    Stuns,
    Turn,
    Turns,
}

#[derive(Debug, PartialEq, Eq)]
struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
    tcp: bool,
}

impl Url {
    fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = text.split_once(':').ok_or(BadUrl::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "stun" => Scheme::Stun,
            "stuns" => Scheme::Stuns,
            "turn" => Scheme::Turn,
            "turns" => Scheme::Turns,
            _ => return Err(BadUrl::Scheme),
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let tcp = match query.to_ascii_lowercase().as_str() {
            // RFC 7065, section 3.1.
            "" => matches!(scheme, Scheme::Stuns | Scheme::Turns),
            "transport=udp" => false,
            "transport=tcp" => true,
            _ => return Err(BadUrl::Transport),
        };
        let (host, port) = match split_authority(authority).ok_or(BadUrl::Host)? {
            (host, None) => (host, if matches!(scheme, Scheme::Stun | Scheme::Turn) { 3478 } else { 5349 }),
            (host, Some(port)) => (host, port.parse().map_err(|_| BadUrl::Port)?),
        };
        Ok(Self { scheme, host: host.to_owned(), port, tcp })
    }

    fn unsupported_carrier(&self) -> Option<&'static str> {
        match (self.scheme, self.tcp) {
            (Scheme::Turns, false) => Some("TURN over DTLS is not supported, only UDP, TCP and TLS are"),
            (Scheme::Stuns, _) => Some("STUN over TLS is not supported, only UDP is"),
            (Scheme::Stun, true) => Some("STUN over TCP is not supported, only UDP is"),
            (Scheme::Stun | Scheme::Turn, false) | (Scheme::Turn | Scheme::Turns, true) => None,
        }
    }

    /// How a TURN server is reached; nothing for STUN.
    fn carrier(&self) -> Option<Carrier> {
        match (self.scheme, self.tcp) {
            (Scheme::Turn, false) => Some(Carrier::Udp),
            (Scheme::Turn, true) => Some(Carrier::Tcp),
            (Scheme::Turns, _) => Some(Carrier::Tls),
            (Scheme::Stun | Scheme::Stuns, _) => None,
        }
    }
}

/// Host, without the brackets of an IPv6 address, and port.
pub(super) fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_name = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    is_name(host).then_some((host, port))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum BadUrl {
    #[error("it must begin with stun:, turn: or turns:")]
    Scheme,
    #[error("its host is neither a name nor an address (IPv6 addresses go in brackets)")]
    Host,
    #[error("its port is no number up to 65535")]
    Port,
    #[error("its transport is neither udp nor tcp")]
    Transport,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(url: &str) -> IceServer {
        IceServer { urls: vec![url.to_owned()], username: "u".into(), credential: "p".into() }
    }

    fn usable(url: &str, policy: IcePolicy) -> UsableServers {
        UsableServers::select(&[server(url)], policy)
    }

    #[test]
    fn default_ports_depend_on_the_scheme() {
        assert_eq!(Url::parse("turn:example.com").map(|url| url.port), Ok(3478));
        assert_eq!(Url::parse("turns:example.com").map(|url| url.port), Ok(5349));
    }

    #[test]
    fn an_ipv6_address_loses_its_brackets() {
        let url = Url::parse("turn:[2001:db8::1]:99").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("2001:db8::1", 99));
        assert_eq!(Url::parse("turn:2001:db8::1:99"), Err(BadUrl::Host));
    }

    #[test]
    fn a_server_that_cannot_be_used_is_named_with_the_cause() {
        for (url, cause) in [
            ("turns:h?transport=udp", "TURN over DTLS is not supported"),
            ("stuns:h", "STUN over TLS is not supported"),
            ("turn:h:99999", "port"),
            ("http://h", "must begin with"),
            ("turn:h?transport=sctp", "neither udp nor tcp"),
        ] {
            let usable = usable(url, IcePolicy::default());
            assert!(usable.servers.is_empty(), "{url}");
            let [warning] = usable.warnings.as_slice() else { panic!("{url}: {:?}", usable.warnings) };
            assert!(warning.contains(url) && warning.contains(cause), "{warning}");
        }
    }

    #[test]
    fn a_server_behind_a_stream_gets_a_name_of_its_own_in_the_engine() {
        for (url, host, port, carrier) in [
            ("turn:h", "h", 3478, Carrier::Udp),
            ("turn:h?transport=tcp", "h", 3478, Carrier::Tcp),
            ("turns:h", "h", 5349, Carrier::Tls),
            ("turns:[2001:db8::1]:443?transport=tcp", "2001:db8::1", 443, Carrier::Tls),
        ] {
            let usable = usable(url, IcePolicy::default());
            let [endpoint] = usable.turn.as_slice() else { panic!("{url}: {:?}", usable.warnings) };
            assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.carrier), (host, port, carrier));
            let engine_url = &usable.servers[0].urls[0];
            if carrier == Carrier::Udp {
                assert_eq!(engine_url, url);
            } else {
                assert_eq!(*engine_url, format!("turn:tunnel0.invalid:{port}?transport=udp"));
            }
        }
    }

    #[test]
    fn servers_that_are_not_wanted_are_left_out_without_a_word() {
        let no_turn = IcePolicy { turn: false, ..IcePolicy::default() };
        let left = usable("turn:h?transport=tcp", no_turn);
        assert!(left.servers.is_empty() && left.warnings.is_empty());
        let no_stun = IcePolicy { stun: false, ..IcePolicy::default() };
        assert!(usable("stun:h", no_stun).servers.is_empty());
        assert_eq!(usable("turn:h", no_stun).turn.len(), 1);
    }

    #[test]
    fn the_password_does_not_show() {
        assert!(
            !format!("{:?}", IceServer { credential: "s3cret".into(), ..server("turn:h") })
                .contains("s3cret")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Url::parse(&text);
        }
    }
}
