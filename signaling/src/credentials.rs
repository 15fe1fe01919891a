//! What a participant gets (ICE servers with ephemeral credentials) and what it must show (a join token).

use std::fmt;
use std::time::Duration;

use farcall_proto::signaling::v1::IceServer;
use farcall_proto::turn_credentials::{AuthSecret, UnixTime};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The STUN and TURN servers that participants are told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IceServers {
    /// `stun:` and `stuns:` URIs, RFC 7064.
    pub stun: Vec<String>,
    /// The TURN servers, if there are any.
    pub turn: Option<Turn>,
}

/// Whether a participant gets credentials of TURN servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// It does.
    Granted,
    /// It has to do without.
    Denied,
}

/// TURN servers that share one secret with this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `turn:` and `turns:` URIs, RFC 7065.
    pub urls: Vec<String>,
    /// What their credentials are made with.
    pub secret: AuthSecret,
    /// How long a credential is good for.
    pub credential_ttl: Duration,
}

impl IceServers {
    /// All of them, with credentials of this session's own.
    #[must_use]
    pub fn for_session(&self, now: UnixTime, session: &str, relay: Relay) -> Vec<IceServer> {
        let stun =
            (!self.stun.is_empty()).then(|| IceServer { urls: self.stun.clone(), ..IceServer::default() });
        let granted = self.turn.as_ref().filter(|_| relay == Relay::Granted);
        let turn = granted.map(|turn| {
            let expires_at = now.after(turn.credential_ttl);
            let credentials = turn.secret.mint(expires_at, session);
            IceServer {
                urls: turn.urls.clone(),
                username: credentials.username,
                credential: credentials.password,
                expire_time: Some(prost_types::Timestamp {
                    seconds: i64::try_from(expires_at.0).unwrap_or(i64::MAX),
                    nanos: 0,
                }),
            }
        });
        stun.into_iter().chain(turn).collect()
    }

    /// How long after handing them out to hand out new ones: well before a client needs them.
    #[must_use]
    pub fn refresh_after(&self) -> Option<Duration> {
        self.turn.as_ref().map(|turn| turn.credential_ttl * 4 / 5)
    }
}

/// The bearer tokens that let a client join. Only their digests are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinTokens(Vec<[u8; 32]>);

impl JoinTokens {
    /// Any of these.
    pub fn new<T: AsRef<str>>(tokens: impl IntoIterator<Item = T>) -> Self {
        Self(tokens.into_iter().map(|token| digest(token.as_ref())).collect())
    }

    /// Whether a client without a token may join.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this value of an `authorization` header lets a client join. Takes the same time for every token of
    /// one length.
    #[must_use]
    pub fn admit(&self, authorization: Option<&str>) -> bool {
        if self.is_open() {
            return true;
        }
        let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let shown = digest(token.trim());
        let known = self.0.iter().fold(Choice::from(0), |known, token| known | token.ct_eq(&shown));
        scheme.eq_ignore_ascii_case("bearer") && bool::from(known)
    }
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinTokens({}, redacted)", self.0.len())
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> IceServers {
        IceServers {
            stun: vec!["stun:stun.example.org".into()],
            turn: Some(Turn {
                urls: vec!["turn:turn.example.org?transport=udp".into()],
                secret: AuthSecret::new("north").unwrap(),
                credential_ttl: Duration::from_secs(600),
            }),
        }
    }

    #[test]
    fn turn_credentials_are_the_sessions_own_and_say_when_they_expire() {
        let made = servers().for_session(UnixTime(1_000), "alice", Relay::Granted);
        assert_eq!(servers().for_session(UnixTime(1_000), "alice", Relay::Denied), made[..1]);
        let [stun, turn] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!((stun.username.as_str(), stun.expire_time.is_none()), ("", true));
        assert_eq!(turn.username, "1600:alice");
        assert_eq!(turn.expire_time.unwrap().seconds, 1_600);
        let secret = AuthSecret::new("north").unwrap();
        assert!(secret.verify(UnixTime(1_599), &turn.username, &turn.credential).is_ok());
    }

    #[test]
    fn new_credentials_come_before_the_old_ones_expire() {
        assert_eq!(servers().refresh_after(), Some(Duration::from_secs(480)));
        assert_eq!(IceServers { turn: None, ..servers() }.refresh_after(), None);
    }

    #[test]
    fn without_servers_there_is_nothing_to_hand_out() {
        assert_eq!(IceServers::default().for_session(UnixTime(0), "alice", Relay::Granted), []);
    }

    #[test]
    fn a_known_token_admits_and_nothing_else_does() {
        let tokens = JoinTokens::new(["red", "blue"]);
        for good in ["Bearer red", "bearer blue", "BEARER  red"] {
            assert!(tokens.admit(Some(good)), "{good}");
        }
        for bad in [None, Some(""), Some("red"), Some("Bearer "), Some("Bearer green"), Some("Basic red")] {
            assert!(!tokens.admit(bad), "{bad:?}");
        }
    }

    #[test]
    fn without_tokens_everybody_is_admitted() {
        assert!(JoinTokens::default().admit(None));
    }
}
